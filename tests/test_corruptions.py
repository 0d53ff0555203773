"""Corruptions against OpenCV, SciPy, plain loops and values worked out by hand."""

import math

import cv2
import numpy as np
import pytest
from scipy import ndimage

from phenokeep.imaging.corruptions import SEVERITIES, adjust, corrupt, defocus, defocus_kernel

EVERY_BYTE = np.arange(256, dtype=np.uint8).reshape(16, 16)
CASES = [(kind, severity) for kind, levels in SEVERITIES.items() for severity in levels]


@pytest.mark.parametrize(("kind", "severity"), [case for case in CASES if case[0] != "defocus"])
def test_abs_mode_is_opencv_bit_for_bit(kind, severity):
    amount = SEVERITIES[kind][severity]
    gain, bias = (1, amount) if kind == "brightness" else (amount, 0)
    ours, _ = corrupt(EVERY_BYTE, kind, severity, 255, mode="abs")
    np.testing.assert_array_equal(ours, cv2.convertScaleAbs(EVERY_BYTE, alpha=gain, beta=bias))
    assert ours.dtype == np.uint8


def test_gain_and_bias_together_are_opencvs_but_for_rounding():
    for gain, bias in [(0.9, -50), (3.5, -150), (-1.2, 30), (0.3, 0.5)]:
        expected = cv2.convertScaleAbs(EVERY_BYTE, alpha=gain, beta=bias)
        ours = adjust(EVERY_BYTE, 255, gain, bias, "abs")[0]
        np.testing.assert_allclose(ours.astype(int), expected, atol=1)  # a processor may round once or twice


def test_the_trap_of_abs_mode_and_how_clip_avoids_it():
    counts = np.array([[10, 60, 200]], np.uint8)
    folded, share = corrupt(counts, "brightness", -5, 255, mode="abs")
    assert folded.tolist() == [[140, 90, 50]]
    clipped, same = corrupt(counts, "brightness", -5, 255)
    assert clipped.tolist() == [[0, 0, 50]]
    assert share == same == 2 / 3


@pytest.mark.parametrize(("bits", "dtype"), [(8, np.uint8), (12, np.uint16), (16, np.uint16)])
@pytest.mark.parametrize(("kind", "severity"), [case for case in CASES if case[0] != "defocus"])
def test_clip_mode_on_a_camera_of_any_depth(kind, severity, bits, dtype):
    full = 2**bits - 1
    counts = np.random.default_rng(bits).integers(0, full + 1, (9, 11)).astype(dtype)
    counts[0, :2] = 0, full
    amount = SEVERITIES[kind][severity]
    ours, share = corrupt(counts, kind, severity, full)
    assert ours.dtype == dtype
    left = 0
    for before, after in zip(counts.ravel().tolist(), ours.ravel().tolist(), strict=True):
        wanted = before + amount * full / 255 if kind == "brightness" else before * amount
        assert abs(after - min(max(wanted, 0), full)) <= 0.51  # rounded, in float32
        left += round(wanted) < 0 or round(wanted) > full
    assert share == pytest.approx(left / counts.size)


def test_contrast_is_a_gain_and_keeps_no_mean():
    counts = np.full((4, 4), 100, np.uint16)
    assert (corrupt(counts, "contrast", 5, 4095)[0] == 30).all()  # ImageNet-C would leave a flat image as it is


def test_floats_are_not_rounded():
    counts = np.array([[0.1, 0.5, 0.9]], np.float32)
    brighter, share = corrupt(counts, "brightness", 1, 1.0)
    np.testing.assert_allclose(brighter, [[0.1 + 50 / 255, 0.5 + 50 / 255, 1.0]], atol=1e-6)
    assert brighter.dtype == np.float32
    assert share == pytest.approx(1 / 3)


@pytest.mark.parametrize("kind", SEVERITIES)
def test_severity_nought_is_the_identity_and_a_copy(kind):
    counts = EVERY_BYTE.copy()
    same, share = corrupt(counts, kind, 0, 255)
    np.testing.assert_array_equal(same, counts)
    assert share == 0
    same[:] = 0
    np.testing.assert_array_equal(counts, EVERY_BYTE)


def test_higher_is_brighter_flatter_and_blurrier():
    counts = np.random.default_rng(0).integers(0, 65536, (40, 40)).astype(np.uint16)
    means = [corrupt(counts, "brightness", severity, 65535)[0].mean() for severity in SEVERITIES["brightness"]]
    spreads = [corrupt(counts // 4, "contrast", severity, 65535)[0].std() for severity in SEVERITIES["contrast"]]
    grains = [corrupt(counts, "defocus", severity, 65535)[0].std() for severity in SEVERITIES["defocus"]]
    assert np.all(np.diff(means) > 0)
    assert np.all(np.diff(spreads) < 0)
    assert np.all(np.diff(grains) < 0)


def test_discs_have_the_known_sizes_and_widths():
    radii = [radius for radius in SEVERITIES["defocus"].values() if radius]
    assert [np.count_nonzero(defocus_kernel(radius, alias=0)) for radius in radii] == [1, 5, 9, 13, 29]
    widths = []
    for radius in radii:
        kernel = defocus_kernel(radius)
        offset = np.arange(len(kernel)) - len(kernel) // 2
        widths.append(math.sqrt((kernel.sum(0) * offset**2).sum()))
    np.testing.assert_allclose(widths, [0.46, 0.78, 0.94, 1.14, 1.60], atol=0.006)


def test_kernels_are_softened_discs_of_sum_one():
    for radius in (0.5, 3, 7.9, 8, 8.5, 10):
        side, reach = 15, 1 if radius <= 8 else 2
        disc = np.array([[y * y + x * x <= radius * radius for x in range(-side, side + 1)]
                         for y in range(-side, side + 1)], float)  # fmt: skip
        tap = [math.exp(-(i**2) / (2 * 0.5**2)) for i in range(-reach, reach + 1)]
        soft = ndimage.convolve(disc, np.outer(tap, tap))
        kernel = defocus_kernel(radius)
        margin = side - len(kernel) // 2
        assert soft.sum() == pytest.approx(soft[margin:-margin, margin:-margin].sum())  # nothing is cut off
        np.testing.assert_allclose(kernel, (soft / soft.sum())[margin:-margin, margin:-margin], atol=1e-6)
        assert kernel.sum() == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
def test_defocus_is_a_mirrored_convolution(dtype):
    counts = (np.random.default_rng(1).random((30, 41)) * 250).astype(dtype)
    blurred, share = corrupt(counts, "defocus", 5, 255)
    expected = ndimage.convolve(counts.astype(float), defocus_kernel(3.0).astype(float), mode="mirror")
    np.testing.assert_allclose(blurred, expected, atol=0.5001 if np.dtype(dtype).kind == "u" else 1e-3)
    assert share == 0
    assert blurred.dtype == dtype
    assert (defocus(np.full((9, 9), 4095, np.uint16), 3.0) == 4095).all()


def test_planes_are_blurred_one_by_one():
    stack = np.random.default_rng(2).integers(0, 4096, (3, 20, 24)).astype(np.uint16)
    blurred = corrupt(stack, "defocus", 3, 4095)[0]
    np.testing.assert_array_equal(blurred, [corrupt(plane, "defocus", 3, 4095)[0] for plane in stack])


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"kind": "blur"}, "unknown corruption 'blur'; choose from defocus, brightness, contrast"),
        ({"severity": 6}, "no severity 6; choose a whole number from -5 to 5"),
        ({"kind": "defocus", "severity": -1}, "choose a whole number from 0 to 5"),
        ({"mode": "wrap"}, "unknown mode 'wrap'; choose from clip, abs"),
        ({"full_scale": 100}, "span 0 to 255, which does not lie in 0 to full_scale, 100"),
        ({"full_scale": 4095}, "which uint8 must hold"),
        ({"full_scale": math.inf}, "full_scale is inf"),
        ({"counts": np.full((2, 2), np.nan)}, "raw, finite counts"),
        ({"counts": np.full((2, 2), -1.0)}, "raw, finite counts"),
        ({"counts": EVERY_BYTE.astype(np.int64)}, "not int64"),
        ({"counts": EVERY_BYTE[0]}, r"not uint8 \(16,\)"),
    ],
)
def test_errors_say_the_mend(change, words):
    with pytest.raises(ValueError, match=words):
        corrupt(**({"counts": EVERY_BYTE, "kind": "contrast", "severity": 1, "full_scale": 255} | change))


def test_kernels_refuse_negative_sizes():
    for radius, alias in [(-1, 0.5), (1, -0.5), (math.nan, 0.5)]:
        with pytest.raises(ValueError, match="must be 0 or more"):
            defocus_kernel(radius, alias)
