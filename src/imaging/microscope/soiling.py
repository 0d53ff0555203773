"""Dirt on the optics, in transmitted light: dust near the camera and a bubble of oil on the lens."""

from __future__ import annotations

from functools import lru_cache

import numpy as np


@lru_cache(maxsize=4)
def dust(seed: int, shape: tuple[int, int], per_megapixel: float) -> np.ndarray:
    """Relative light that blurred specks with a bright fringe let through, float32 Y X; fixed for one camera `seed`."""
    rng = np.random.default_rng((seed, 1))
    light = np.ones(shape, np.float32)
    for _ in range(rng.poisson(per_megapixel * shape[0] * shape[1] * 1e-6)):
        y, x = rng.random(2) * shape
        radius, depth = np.exp(rng.uniform(np.log(3.0), np.log(14.0))), rng.uniform(0.02, 0.08)
        y0, x0 = max(0, int(y - 2 * radius)), max(0, int(x - 2 * radius))
        box = np.s_[y0 : int(y + 2 * radius) + 2, x0 : int(x + 2 * radius) + 2]
        dy = np.arange(y0, y0 + light[box].shape[0])[:, None] - y
        dx = np.arange(x0, x0 + light[box].shape[1]) - x
        r = np.hypot(dy, dx) / radius
        light[box] *= 1.0 - depth / (1.0 + np.exp((r - 1.0) * 8.0)) + 0.4 * depth * np.exp(-(((r - 1.25) / 0.15) ** 2))
    light.flags.writeable = False
    return light


def bubble(seed: int, shape: tuple[int, int], radius: float, pixel_size: float) -> tuple[np.ndarray, np.ndarray]:
    """Amplitude (0..1) and optical path (micrometres) of a flat drop of `radius` micrometres, float32 Y X each.

    Its rim bends the light out of the aperture, so it is dark; its middle is a weak lens. It lies where `seed` says.
    """
    y, x = np.random.default_rng((seed, 2)).uniform(0.25, 0.75, 2) * shape
    dy = (np.arange(shape[0], dtype=np.float32) - np.float32(y))[:, None]
    dx = np.arange(shape[1], dtype=np.float32) - np.float32(x)
    r = np.hypot(dy, dx) * np.float32(pixel_size / radius)
    return 1.0 - 0.9 * np.exp(-(((r - 0.94) / 0.05) ** 2)), np.float32(0.02 * radius) * np.maximum(1.0 - r * r, 0.0)
