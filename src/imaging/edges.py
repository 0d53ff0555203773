"""Edge maps: Canny's edges of an image, also of one with a hole."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from skimage.feature import canny as skimage_canny

LUMINANCE = (0.2125, 0.7154, 0.0721)  # of red, green and blue
SIGMAS = (1, 4)  # what a random sigma is drawn from, both ends included
FIXED_SIGMA = 2.0
STEEPEST = 4.5  # above the largest Sobel response to values in [0, 1], the square root of 20


def grey_weights(channels: int) -> tuple[float, ...]:
    """What each channel counts for in a grey image: three are red, green and blue, others count alike."""
    return LUMINANCE if channels == 3 else (1 / channels,) * channels


def canny(
    image: np.ndarray, sigma: float = FIXED_SIGMA, low: float = 0.1, high: float = 0.2, mask: np.ndarray | None = None
) -> np.ndarray:
    """Canny's edges of a grey image `Y X` in [0, 1]: float32 `Y X`, 1 on an edge, else 0 (scikit-image).

    `low` and `high` bound the Sobel response, which is eight times the slope per pixel; `sigma` is in pixels. Only
    pixels where `mask` (`Y X`) is not 0 are looked at, and those beside others are no edges: nothing of what lies
    outside is in the result. Raises ValueError for other axes or sizes.
    """
    if image.ndim != 2 or (mask is not None and mask.shape != image.shape):
        raise ValueError(
            f"image is {image.shape}{'' if mask is None else f' and mask {mask.shape}'}: give Y X, both of one size"
        )
    looked_at = None if mask is None else np.asarray(mask) != 0
    edges = skimage_canny(image.astype(np.float64), sigma, low_threshold=low, high_threshold=high, mask=looked_at)
    return edges.astype(np.float32)


@dataclass(frozen=True)
class Canny:
    """Makes the edge maps of EdgeConnect: `sigma` is a number, `random` (1 to 4, drawn per image) or None (no edges).

    The thresholds hold for intensities of a plate's range. Raises ValueError for numbers that find nothing or all.
    """

    sigma: float | Literal["random"] | None = FIXED_SIGMA
    low: float = 0.1
    high: float = 0.2

    def __post_init__(self) -> None:
        if isinstance(self.sigma, str) and self.sigma != "random":
            raise ValueError(f"edges.sigma={self.sigma!r}: use a number above 0, random, or null for no edges")
        if not isinstance(self.sigma, str | None) and not 0 < self.sigma < 100:
            raise ValueError(f"edges.sigma={self.sigma}: use a number above 0 (pixels), random, or null for no edges")
        if not 0 < self.low <= self.high < STEEPEST:
            raise ValueError(
                f"edges.low={self.low} and edges.high={self.high}: 0 < low <= high < {STEEPEST} is needed, for "
                "intensities are in [0, 1]"
            )

    def __call__(
        self, image: np.ndarray, rng: np.random.Generator | None = None, mask: np.ndarray | None = None
    ) -> np.ndarray:
        """Edges `Y X` (float32, 0 or 1) of an image `Y X C` in [0, 1], looked for where `mask` is not 0.

        A random sigma is drawn from `rng`; without one, as where a hole is to be filled and must come out the same
        every time, it is 2.
        """
        if self.sigma is None:
            return np.zeros(image.shape[:2], np.float32)
        sigma = self.sigma
        if isinstance(sigma, str):
            sigma = FIXED_SIGMA if rng is None else float(rng.integers(SIGMAS[0], SIGMAS[1] + 1))
        return canny(image @ np.asarray(grey_weights(image.shape[2])), sigma, self.low, self.high, mask)
