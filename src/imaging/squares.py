"""Draw the hole of the published Context Encoders: a square of half the side; uint8 `Y X` with 1 = hole."""

from __future__ import annotations

from typing import Literal

import numpy as np

from .masks import Band, in_band


class Square:
    """A square of half the image's side (a quarter of its area), in its centre or anywhere.

    `inset` draws every side of it in by so many pixels. An image that is not square gets a rectangle of half its
    height and half its width. Pathak et al. 2016, section 3.3 (central region); random in eriklindernoren/PyTorch-GAN.
    """

    bands: tuple[Band, ...] = ()  # every hole has one size, so one is drawn per patch

    def __init__(self, position: Literal["centre", "random"] = "centre", inset: int = 0) -> None:
        if position not in ("centre", "random") or inset < 0:
            raise ValueError(f"position={position!r}, inset={inset}: use centre or random, and 0 pixels or more")
        self.position, self.inset = position, inset

    def draw(self, rng: np.random.Generator, shape: tuple[int, int], band: Band | None = None) -> np.ndarray:
        """Draw a mask uint8 `Y X`; ValueError where it is not in the asked `band`, or the inset leaves nothing."""
        height, width = shape[0] // 2, shape[1] // 2
        if min(height, width) <= 2 * self.inset:
            raise ValueError(f"a hole of {height}x{width} drawn in by {self.inset} px is empty: lower data.masks.inset")
        top, left = shape[0] // 4, shape[1] // 4
        if self.position == "random":
            top, left = int(rng.integers(shape[0] - height + 1)), int(rng.integers(shape[1] - width + 1))
        mask = np.zeros(shape, np.uint8)
        mask[top + self.inset : top + height - self.inset, left + self.inset : left + width - self.inset] = 1
        if band is not None and not in_band(mask, band):
            raise ValueError(
                f"a square of half the side covers {mask.mean():.3g} of the image, which is not in {band[0]:g} to "
                f"{band[1]:g}: set data.val_bands=null, or to a band that holds it"
            )
        return mask
