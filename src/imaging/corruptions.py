"""Corruptions of camera counts, graded by severity: defocus, brightness and contrast."""

from __future__ import annotations

import math

import cv2
import numpy as np

# By severity: the disc's radius in pixels, the bias in grey levels of 255, the gain. Thesis, table 9.
SEVERITIES: dict[str, dict[int, float]] = {
    "defocus": dict(zip(range(0, 6), (0.0, 0.5, 1.0, 1.5, 2.0, 3.0), strict=True)),
    "brightness": dict(
        zip(range(-5, 6), (-150.0, -135.0, -120.0, -90.0, -50.0, 0.0, 50.0, 90.0, 120.0, 135.0, 150.0), strict=True)
    ),
    "contrast": dict(zip(range(-5, 6), (3.5, 3.0, 2.5, 2.0, 1.5, 1.0, 0.9, 0.8, 0.7, 0.5, 0.3), strict=True)),
}
MODES = ("clip", "abs")


def corrupt(
    counts: np.ndarray, kind: str, severity: int, full_scale: float, mode: str = "clip"
) -> tuple[np.ndarray, float]:
    """Corrupt camera counts ... Y X as table 9 of the thesis does; give the counts, of the same type, and a share.

    kind is defocus (severity 0..5), brightness or contrast (-5..5; higher is brighter, or flatter); 0 changes nothing.
    full_scale is the camera's greatest count (255, 4095, 65535; 1 for floats in [0, 1]); mode is that of
    `adjust`. The share, in [0, 1], is that of the pixels which left the range. Raises ValueError for an unknown kind,
    severity or mode, and for counts that are no camera's.
    """
    if kind not in SEVERITIES:
        raise ValueError(f"unknown corruption {kind!r}; choose from {', '.join(SEVERITIES)}")
    if severity not in SEVERITIES[kind]:
        levels = SEVERITIES[kind]
        raise ValueError(
            f"{kind} has no severity {severity!r}; choose a whole number from {min(levels)} to {max(levels)}"
        )
    _check(counts, full_scale, mode)
    amount = SEVERITIES[kind][severity]
    if severity == 0:
        return counts.copy(), 0.0
    if kind == "defocus":
        return defocus(counts, amount), 0.0
    if kind == "brightness":
        return adjust(counts, full_scale, bias=amount * full_scale / 255, mode=mode)
    return adjust(counts, full_scale, gain=amount, mode=mode)


def adjust(
    counts: np.ndarray, full_scale: float, gain: float = 1.0, bias: float = 0.0, mode: str = "clip"
) -> tuple[np.ndarray, float]:
    """Give gain x counts + bias (in counts), cut at 0 and full_scale, and the share of pixels that left that range.

    Integers are rounded, halves to even. mode="clip": below 0 becomes 0, as in a camera. mode="abs": below 0 loses its
    sign, so that black turns grey, as in OpenCV's convertScaleAbs; of gain and bias alone it gives the same uint8 bits.
    Contrast is the gain alone, not ImageNet-C's stretch about the mean. Thesis, equations 44 and 45.
    """
    _check(counts, full_scale, mode)
    # OpenCV computes in float32 and so do we: in float64 some halves, such as 0.9 x 5, are none.
    wanted = counts.astype(np.float32) * np.float32(gain) + np.float32(bias)
    if counts.dtype.kind == "u":
        wanted = np.rint(wanted)
    left = float(np.mean((wanted < 0) | (wanted > full_scale)))
    kept = np.clip(np.abs(wanted) if mode == "abs" else wanted, 0, full_scale)
    return kept.astype(counts.dtype), left


def defocus(counts: np.ndarray, radius: float, alias: float = 0.5) -> np.ndarray:
    """Blur counts ... Y X with `defocus_kernel`, mirrored about the border's pixels; integers are rounded."""
    kernel = defocus_kernel(radius, alias)
    planes = counts.reshape(-1, *counts.shape[-2:]).astype(np.float32)
    blurred = np.stack([cv2.filter2D(plane, -1, kernel, borderType=cv2.BORDER_REFLECT_101) for plane in planes])
    if counts.dtype.kind == "u":
        blurred = np.rint(blurred)
    # The kernel is an average, so only float32's rounding can leave the range of the counts.
    return np.clip(blurred, counts.min(), counts.max()).astype(counts.dtype).reshape(counts.shape)


def defocus_kernel(radius: float, alias: float = 0.5) -> np.ndarray:
    """Disc of the pixels whose centres lie within `radius` pixels, softened by a Gaussian; float32, sum 1, odd sides.

    alias is the Gaussian's sigma in pixels (0 = none), over 3 x 3 pixels or, above a radius of 8, 5 x 5. The discs of
    table 9 have 1, 5, 9, 13 and 29 pixels, so at radius 0.5 the softening alone blurs; the thesis does not say its own
    blur strength. As ImageNet-C's defocus (Hendrycks and Dietterich 2019), but always of sum 1. Raises ValueError for
    a negative radius or alias.
    """
    if not (math.isfinite(radius) and math.isfinite(alias) and radius >= 0 and alias >= 0):
        raise ValueError(f"defocus: radius {radius} and alias {alias} must be 0 or more")
    reach = 1 if radius <= 8 else 2
    side = np.arange(-math.floor(radius) - reach, math.floor(radius) + reach + 1)
    kernel: np.ndarray = (side[:, None] ** 2 + side**2 <= radius**2).astype(np.float64)
    if alias:
        kernel = cv2.GaussianBlur(kernel, (2 * reach + 1, 2 * reach + 1), alias, borderType=cv2.BORDER_CONSTANT)
    return (kernel / kernel.sum()).astype(np.float32)


def _check(counts: np.ndarray, full_scale: float, mode: str) -> None:
    if mode not in MODES:
        raise ValueError(f"unknown mode {mode!r}; choose from {', '.join(MODES)}")
    if counts.ndim < 2 or counts.size == 0 or counts.dtype not in (np.uint8, np.uint16, np.float32, np.float64):
        raise ValueError(
            f"corruptions take counts ... Y X in uint8, uint16 or float, not {counts.dtype} {counts.shape}"
        )
    if not 0 < full_scale < math.inf or (counts.dtype.kind == "u" and full_scale > np.iinfo(counts.dtype).max):
        raise ValueError(
            f"full_scale is {full_scale:g}: give the camera's greatest count, which {counts.dtype} must hold"
        )
    low, high = float(counts.min()), float(counts.max())
    if not 0 <= low <= high <= full_scale:  # NaN fails too
        raise ValueError(
            f"counts span {low:g} to {high:g}, which does not lie in 0 to full_scale, {full_scale:g}: give raw, finite "
            "counts and the camera's greatest (255, 4095 or 65535)"
        )
