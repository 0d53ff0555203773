"""Tiles that overlap, and the field they are blended into."""

import numpy as np
import pytest

from phenokeep.imaging.stitch import Stitcher


@pytest.mark.parametrize("shape", [(64, 64), (70, 131), (40, 90), (23, 17), (200, 64)])
def test_windows_cover_the_mask_and_their_contents_come_back(shape):
    rng = np.random.default_rng(0)
    field, mask = rng.random((2, *shape), dtype=np.float32), rng.random(shape) < 0.3
    stitcher = Stitcher(mask, 64)
    for window in stitcher.windows:
        stitcher.add(window, stitcher.cut(field, window))
    blended = stitcher.blended(np.full_like(field, -1))
    assert blended.shape == field.shape
    np.testing.assert_allclose(blended[:, mask], field[:, mask], rtol=1e-5)


def test_large_windows_keep_their_corners():
    size = 2048  # whose weight in a corner is 3e-13
    stitcher = Stitcher(np.ones((size, size), bool), size)
    stitcher.add((0, 0), np.ones((1, size, size), np.float32))
    np.testing.assert_allclose(stitcher.blended(np.zeros((1, size, size), np.float32)), 1, rtol=1e-5)


def test_only_windows_with_a_pixel_of_the_mask_are_cut():
    mask = np.zeros((256, 256), bool)
    mask[10, 10] = mask[128, 200] = True
    windows = Stitcher(mask, 64).windows
    expected = [(y, x) for y in range(0, 193, 32) for x in range(0, 193, 32) if mask[y : y + 64, x : x + 64].any()]
    assert windows == expected
    assert Stitcher(np.zeros((256, 256), bool), 64).windows == []


def test_windows_that_disagree_are_blended_without_a_seam():
    mask = np.ones((128, 128), bool)
    stitcher = Stitcher(mask, 64)
    for number, window in enumerate(stitcher.windows):
        stitcher.add(window, np.full((1, 64, 64), number % 2, np.float32))
    blended = stitcher.blended(np.zeros((1, 128, 128), np.float32))[0]
    steps = max(np.abs(np.diff(blended, axis=0)).max(), np.abs(np.diff(blended, axis=1)).max())
    assert 0 <= blended.min() < 0.2 < 0.8 < blended.max() <= 1
    assert steps < 0.08  # a hard cut would step by 1; a Hann window of 64 pixels rises by at most pi / 64 per pixel
