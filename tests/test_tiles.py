"""Patches: complete cover, resizing against plain loops, normalisation and the blank rule on drawn noise."""

import numpy as np
import pytest
from scipy import ndimage

from phenokeep.imaging.tiles import Zoom, _blurred, is_blank, normalise_patch


def test_presets_cut_a_field_as_published():
    original = Zoom(crop=180, stride=180).windows((2160, 2160))
    assert len(original) == 144
    assert original[:2] == [(0, 0), (0, 180)]  # left to right, then top to bottom
    assert original[12] == (180, 0)
    assert Zoom(crop=180, stride=180).scale == pytest.approx(0.703, abs=1e-3)
    paper = Zoom(crop=256, stride=256)
    assert len(paper.windows((2160, 2160))) == 81
    assert paper.scale == 1


@pytest.mark.parametrize("shape", [(520, 696), (300, 180), (181, 359)])
@pytest.mark.parametrize("stride", [180, 120])
def test_windows_cover_the_whole_field(shape, stride):
    zoom = Zoom(stride=stride)
    seen = np.zeros(shape, int)
    for y, x in zoom.windows(shape):
        assert seen[y : y + 180, x : x + 180].shape == (180, 180)
        seen[y : y + 180, x : x + 180] += 1
    assert seen.all()
    assert len(set(zoom.windows(shape))) == len(zoom.windows(shape))
    kept = Zoom(stride=stride, drop_partial=True).windows(shape)
    assert kept == [(y, x) for y, x in zoom.windows(shape) if y % stride == 0 and x % stride == 0]


def test_enlarging_is_bilinear_between_pixel_centres():
    image = np.random.default_rng(0).integers(0, 60000, (40, 50)).astype(np.uint16)
    patch = Zoom(crop=18, stride=18, size=25).cut(image, 5, 7)
    assert patch.dtype == np.float32
    assert patch.shape == (25, 25)
    crop = image[5:23, 7:25].astype(float)
    for i, j in [(0, 0), (3, 20), (12, 12), (24, 24), (17, 1)]:
        y, x = (min(max((v + 0.5) * 18 / 25 - 0.5, 0), 17) for v in (i, j))
        y0, x0 = min(int(y), 16), min(int(x), 16)
        fy, fx = y - y0, x - x0
        top = crop[y0, x0] * (1 - fx) + crop[y0, x0 + 1] * fx
        bottom = crop[y0 + 1, x0] * (1 - fx) + crop[y0 + 1, x0 + 1] * fx
        assert patch[i, j] == pytest.approx(top * (1 - fy) + bottom * fy, rel=1e-4)


def test_reducing_takes_means_and_equal_sizes_take_the_pixels():
    image = np.random.default_rng(1).integers(0, 60000, (2, 40, 40)).astype(np.uint16)
    patch = Zoom(crop=32, stride=32, size=16).cut(image, 4, 8)
    means = image[:, 4:36, 8:40].astype(float).reshape(2, 16, 2, 16, 2).mean((2, 4))
    np.testing.assert_allclose(patch, means, rtol=1e-5)
    same = Zoom(crop=16, stride=16, size=16).cut(image, 1, 2)
    np.testing.assert_array_equal(same, image[:, 1:17, 2:18])


def test_labels_keep_their_values_type_and_place():
    labels = np.zeros((180, 180), np.int32)
    labels[20:60, 30:90] = 70000
    patch = Zoom().cut(labels, 0, 0, labels=True)
    assert patch.dtype == np.int32
    assert set(np.unique(patch)) == {0, 70000}
    for i in range(256):
        for j in range(0, 256, 5):
            assert patch[i, j] == labels[(2 * i + 1) * 180 // 512, (2 * j + 1) * 180 // 512]  # pixel centres


def test_original_two_step_resizing_is_near_the_single_step():
    rng = np.random.default_rng(3)
    field = ndimage.gaussian_filter(rng.random((180, 180)), 3)
    direct = normalise_patch(Zoom().cut(field, 0, 0)).astype(int)
    halfway = Zoom(size=270).cut(field, 0, 0)
    twice = normalise_patch(Zoom(crop=270, stride=270).cut(halfway, 0, 0)).astype(int)
    assert np.abs(direct - twice).mean() < 1.5


def test_normalise_spans_the_8_bits():
    patch = normalise_patch(np.array([[100, 4195], [1123, 100]], np.uint16))
    assert patch.dtype == np.uint8
    np.testing.assert_array_equal(patch, [[0, 255], [round(1023 / 4095 * 255), 0]])


def drawn(seed, amplitude, shading=0.0, crop=180):
    """Poisson counts around 150 with one nucleus of 20 x 26 px, its amplitude in standard deviations of the noise."""
    y, x = np.mgrid[:crop, :crop]
    nucleus = ndimage.gaussian_filter(((y - 90.0) ** 2 / 100 + (x - 70) ** 2 / 169 < 1).astype(float), 1.5)
    background = 150 * (1 + shading * (x / crop - 0.5))
    counts = np.random.default_rng(seed).poisson(background + amplitude * np.sqrt(150) * nucleus)
    return counts.astype(np.uint16)


@pytest.mark.parametrize("zoom", [Zoom(), Zoom(crop=180, stride=180, size=180), Zoom(crop=180, stride=180, size=128)])
@pytest.mark.parametrize("seed", range(5))
def test_empty_noise_is_blank_and_one_faint_nucleus_is_not(zoom, seed):
    assert is_blank(zoom.cut(drawn(seed, 0), 0, 0))
    assert is_blank(zoom.cut(drawn(seed, 0, shading=0.3), 0, 0))
    assert not is_blank(zoom.cut(drawn(seed, 6), 0, 0))
    assert not is_blank(zoom.cut(drawn(seed, 6, shading=0.3), 0, 0))


@pytest.mark.parametrize("shape", [(256, 256), (60, 33)])
@pytest.mark.parametrize("sigma", [2.0, 24.0])
def test_the_blank_rule_blurs_as_scipy_does(shape, sigma):
    counts = np.random.default_rng(3).poisson(150, shape).astype(np.float32)
    np.testing.assert_allclose(_blurred(counts, sigma), ndimage.gaussian_filter(counts, sigma), atol=1e-3)


def test_crowded_patches_are_not_blank_and_hot_pixels_are():
    y, x = np.mgrid[:256, :256]
    crowd = 200 + 800 * (np.sin(y / 5) * np.sin(x / 5) > -0.6)  # most of the patch is bright
    assert not is_blank(np.random.default_rng(0).poisson(crowd).astype(np.uint16))
    for place in range(100, 105):
        hot = drawn(1, 0)
        hot[place, place] = 60000
        assert is_blank(hot)
        assert is_blank(Zoom().cut(hot, 0, 0))  # enlarged, it covers more pixels
    assert is_blank(np.full((256, 256), 7, np.uint8))
    assert is_blank(Zoom().cut(np.zeros((180, 180), np.uint8), 0, 0))  # a black patch of an 8-bit field


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: Zoom().windows((100, 300)), "set crop and stride to at most 100"),
        (lambda: Zoom(crop=100, stride=120), "stride at most crop"),
        (lambda: Zoom().cut(np.zeros((200, 200)), 30, 0), "use windows"),
        (lambda: normalise_patch(np.full((8, 8), 3.0)), "is_blank"),
        (lambda: normalise_patch(np.array([[0, np.nan]])), "NaN"),
    ],
)
def test_errors_name_the_mend(call, message):
    with pytest.raises(ValueError, match=message):
        call()
