"""What an artefact does to the camera counts it covers; nothing outside the mask changes."""

from __future__ import annotations

from typing import Protocol

import cv2
import numpy as np

CAMERA_BITS = (8, 10, 12, 14, 16)
LEAST_MOTTLE = 0.3  # the dimmest part of the junk, as a share of its brightest


class Damage(Protocol):
    """Damages the pixels of an image Y X (camera counts) where mask Y X is not 0; returns the image's type."""

    def __call__(
        self, image: np.ndarray, mask: np.ndarray, rng: np.random.Generator, pixel_size: float
    ) -> np.ndarray: ...


class Bright:
    """Fluorescent junk out of focus: smooth, uneven light that rises from the hole's edge and saturates its middle.

    `peak` is the most light added, in units of the camera's full scale; `grain` (micrometres) the sigma of the light's
    unevenness. The full scale is the smallest of 8, 10, 12, 14 or 16 bits that holds the image. Raises ValueError
    unless both are above 0.
    """

    def __init__(self, peak: float = 1.5, grain: float = 15.0) -> None:
        if peak <= 0 or grain <= 0:
            raise ValueError(f"Bright(peak={peak}, grain={grain}): both must be above 0")
        self.peak, self.grain = peak, grain

    def __call__(self, image: np.ndarray, mask: np.ndarray, rng: np.random.Generator, pixel_size: float) -> np.ndarray:
        hole = (mask != 0).astype(np.uint8)
        full = full_scale(image)
        depth = cv2.distanceTransform(hole, cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
        dome = 1 - (1 - depth / max(float(depth.max()), 1.0)) ** 2
        mottle = cv2.GaussianBlur(rng.standard_normal(image.shape).astype(np.float32), (0, 0), self.grain / pixel_size)
        mottle = (mottle - mottle.min()) / max(float(np.ptp(mottle)), 1e-9)
        light = self.peak * full * dome * (LEAST_MOTTLE + (1 - LEAST_MOTTLE) * mottle)
        return _damaged(image, hole, np.minimum(image + light, full))


class Dark:
    """A clump that absorbs, or no signal at all: background and its noise, with `transmission` of the nuclei's light.

    Background is the median of the pixels outside the mask, its noise their spread below the median. Raises ValueError
    unless transmission is in [0, 1).
    """

    def __init__(self, transmission: float = 0.0) -> None:
        if not 0 <= transmission < 1:
            raise ValueError(f"Dark(transmission={transmission}): a share from 0 up to 1 (excluded) is needed")
        self.transmission = transmission

    def __call__(self, image: np.ndarray, mask: np.ndarray, rng: np.random.Generator, pixel_size: float) -> np.ndarray:
        known = image[mask == 0].astype(float)
        background = float(np.median(known))
        # Nuclei are brighter than the median, so the half below it shows the background's spread alone.
        noise = 1.4826 * float(np.median(background - known[known <= background]))
        signal = background + self.transmission * (image - background)
        return _damaged(image, mask, signal + noise * rng.standard_normal(image.shape))


def full_scale(image: np.ndarray) -> float:
    """The brightest count of the smallest usual camera depth that holds the image."""
    brightest = float(image.max())
    return next((float(2**bits - 1) for bits in CAMERA_BITS if brightest <= 2**bits - 1), brightest)


def _damaged(image: np.ndarray, mask: np.ndarray, counts: np.ndarray) -> np.ndarray:
    if image.dtype.kind == "u":
        counts = np.clip(np.rint(counts), 0, np.iinfo(image.dtype).max)
    return np.where(mask != 0, counts.astype(image.dtype), image)
