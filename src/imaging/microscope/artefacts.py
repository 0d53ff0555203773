"""Sample-preparation artefacts: precipitate, fibres, debris and detached clumps that float above the focal plane."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from .cells import smooth_field

COARSE = 4  # what lies far out of focus holds no detail: it is drawn on every fourth pixel
KINDS = ("precipitate", "fibre", "debris", "clump")
SHARES = (0.35, 0.25, 0.25, 0.15)


@dataclass(frozen=True)
class Layer:
    """Light of one dye at one height: density (float32 Y X, 1 = a G1 nucleus, one value per `step` pixels), um up."""

    dye: str
    height: float
    density: np.ndarray
    step: int = 1


def _disc(canvas: np.ndarray, y: float, x: float, radius: float, value: float) -> None:
    """Add a soft ball of light: its thickness falls to zero at `radius` pixels."""
    y0, x0 = max(0, int(y - radius) - 1), max(0, int(x - radius) - 1)
    box = np.s_[y0 : max(0, int(y + radius) + 2), x0 : max(0, int(x + radius) + 2)]
    dy = np.arange(y0, y0 + canvas[box].shape[0])[:, None] - y
    dx = np.arange(x0, x0 + canvas[box].shape[1])[None, :] - x
    canvas[box] += value * np.sqrt(np.clip(1.0 - (dy * dy + dx * dx) / radius**2, 0.0, 1.0))


def _fibre(rng: np.random.Generator, shape: tuple[int, int], y: float, x: float, um: float) -> np.ndarray:
    steps = int(rng.uniform(60, 500) / 5)
    bend = np.cumsum(rng.normal(0.0, 0.012, steps)) + rng.normal(0.0, 0.01)
    heading = rng.uniform(0, 2 * np.pi) + np.cumsum(bend)
    points = np.stack([x + np.cumsum(np.cos(heading)) * 5 / um, y + np.cumsum(np.sin(heading)) * 5 / um], 1)
    line = np.zeros(shape, np.uint8)
    width = max(1, int(rng.uniform(1.0, 4.0) / um))
    cv2.polylines(line, [np.rint(points * 16).astype(np.int32)], False, 255, width, cv2.LINE_AA, 4)
    return cv2.GaussianBlur(line, (0, 0), 0.8).astype(np.float32) / 255


def _debris(rng: np.random.Generator, shape: tuple[int, int], y: float, x: float, um: float) -> np.ndarray:
    radius = float(np.clip(8.0 * (1.0 + rng.pareto(2.0)), 8.0, 80.0)) / um
    side = int(2.6 * radius) + 4
    field = smooth_field(rng, (side, side), radius / 3) + 0.5 * smooth_field(rng, (side, side), max(1.0, radius / 9))
    yy, xx = np.mgrid[:side, :side] - (side - 1) / 2
    lump = np.clip(0.8 * field + 2.2 * (1.0 - np.hypot(yy, xx) / radius), 0.0, 2.5).astype(np.float32)
    move = np.array([[1.0, 0.0, x - side / 2], [0.0, 1.0, y - side / 2]])
    return cv2.warpAffine(lump, move, (shape[1], shape[0]), flags=cv2.INTER_LINEAR)


def draw_artefacts(
    rng: np.random.Generator, shape: tuple[int, int], foreign: int, floating: int, um: float
) -> tuple[list[Layer], np.ndarray, np.ndarray | None]:
    """Layers, mask (bool Y X) and transmission (float32 Y X, 0..1, or None where nothing attenuates).

    `foreign` objects are of every kind and `floating` ones are single dead cells above the layer; `um` micrometres per
    pixel. A pixel is in the mask where an object gives over a tenth of a G1 nucleus' light or takes over a tenth away.
    """
    junk, broad = np.zeros(shape, np.float32), np.zeros(shape, np.float32)
    opacity = np.zeros(shape, np.float32)
    mask = np.zeros(shape, bool)
    layers: list[Layer] = []
    kinds = [*rng.choice(KINDS, size=foreign, p=SHARES), *["dead"] * floating]
    for kind in kinds:
        y, x = rng.random(2) * shape
        light = float(np.exp(rng.normal(0.0, 0.7)))
        if kind == "precipitate":
            spread = rng.uniform(3.0, 25.0) / um
            for dy, dx in rng.normal(0.0, spread, (rng.integers(3, 40), 2)):
                grain = light * np.exp(rng.normal(1.2, 0.6))
                _disc(broad, y + dy, x + dx, rng.uniform(0.6, 2.2) / um, grain)
        elif kind == "fibre":
            fibre = _fibre(rng, shape, y, x, um)
            junk += 2.5 * light * fibre
            opacity = np.maximum(opacity, rng.uniform(0.2, 0.6) * fibre)
        elif kind == "debris":
            lump = _debris(rng, shape, y, x, um)
            junk += 6.0 * light * lump
            opacity = np.maximum(opacity, 0.6 * np.minimum(lump, 1.0))
        else:
            layer, shade = _floating(rng, shape, (y, x), light, kind == "clump", um)
            layers.append(layer)
            blurred = cv2.resize(shade, shape[::-1], interpolation=cv2.INTER_LINEAR)
            mask |= blurred > 0.1
            opacity = np.maximum(opacity, 0.4 * blurred)
    mask |= (junk > 0.1) | (broad > 0.1) | (opacity > 0.1)
    if junk.any():
        layers.append(Layer("junk", 1.0, junk))
    if broad.any():
        layers.append(Layer("broad", 0.5, broad))
    return layers, mask, 1.0 - opacity if opacity.any() else None


def _floating(
    rng: np.random.Generator, shape: tuple[int, int], at: tuple[float, float], light: float, clump: bool, um: float
) -> tuple[Layer, np.ndarray]:
    """A detached clump (heavy-tailed in size, at most 60 % of the field) or one dead cell, and its blurred shade."""
    pitch = um * COARSE
    small = (-(-shape[0] // COARSE), -(-shape[1] // COARSE))
    height = float(rng.uniform(10.0, 30.0))
    reach = 0.0
    if clump:
        reach = min(15.0 * (1.0 + float(rng.pareto(1.2))), um * float(np.sqrt(0.6 * shape[0] * shape[1] / np.pi)))
    number = int(np.clip((reach / 6.0) ** 2 * 0.6, 1, 600))
    canvas = np.zeros(small, np.float32)
    for dy, dx in rng.normal(0.0, 0.45, (number, 2)) * reach:
        value = 1.5 * light * np.exp(rng.normal(0.0, 0.5))
        _disc(
            canvas, (at[0] * um + dy) / pitch, (at[1] * um + dx) / pitch, max(rng.uniform(3.0, 6.0) / pitch, 0.8), value
        )
    # Its shadow is as wide as the cone of light at that height: half the tangent of the aperture's angle, as a sigma.
    shade = cv2.GaussianBlur(np.minimum(canvas, 1.0), (0, 0), max(0.18 * height / pitch, 0.5))
    return Layer("junk" if clump else "broad", height, canvas, COARSE), shade
