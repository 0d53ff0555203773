"""Whole fields through a network that sees tiles: overlapping windows, blended so that no seam shows."""

from __future__ import annotations

import numpy as np

Window = tuple[int, int]


class Stitcher:
    """Square windows of `size` pixels with half an overlap over a field, those alone that hold a pixel of `mask` (Y X).

    A field smaller than a window is mirrored beyond its border, and so is its mask. What the windows give is blended
    with weights that fall towards a window's edge (a Hann window).
    """

    def __init__(self, mask: np.ndarray, size: int) -> None:
        self.shape, self.size = mask.shape, size
        self.padding = [(0, max(0, size - side)) for side in mask.shape]
        padded = np.pad(mask, self.padding, mode="symmetric")
        self.padded_shape = padded.shape
        rows, columns = (self._starts(side) for side in padded.shape)
        self.windows = [(y, x) for y in rows for x in columns if padded[y : y + size, x : x + size].any()]
        ramp = np.sin(np.pi * (np.arange(size, dtype=np.float32) + 0.5) / size) ** 2
        self.weight = ramp[:, None] * ramp[None, :]
        self._sum: np.ndarray | None = None
        self._weights = np.zeros(padded.shape, np.float32)

    def _starts(self, side: int) -> list[int]:
        starts = list(range(0, side - self.size + 1, max(1, self.size // 2)))
        return starts if starts[-1] + self.size == side else [*starts, side - self.size]

    def cut(self, image: np.ndarray, window: Window) -> np.ndarray:
        """One window of an image C Y X of the field's size."""
        y, x = window
        if image.shape[1:] != self.padded_shape:
            image = np.pad(image, [(0, 0), *self.padding], mode="symmetric")
        return image[:, y : y + self.size, x : x + self.size]

    def add(self, window: Window, tile: np.ndarray) -> None:
        """Take what the network made of a window, C Y X."""
        y, x = window
        if self._sum is None:
            self._sum = np.zeros((len(tile), *self.padded_shape), np.float32)
        self._sum[:, y : y + self.size, x : x + self.size] += tile * self.weight
        self._weights[y : y + self.size, x : x + self.size] += self.weight

    def blended(self, background: np.ndarray) -> np.ndarray:
        """The field C Y X: the windows blended, `background` (C Y X) where there was none."""
        rows, columns = self.shape
        weights = self._weights[:rows, :columns]
        if self._sum is None:
            return background
        out = background.astype(np.float32)
        return np.divide(self._sum[:, :rows, :columns], weights, out=out, where=weights > 0)
