"""Draw placed nuclei on a canvas: their label image and the density of their DNA stain."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .cells import HARMONICS, Bodies, smooth_field

TEXTURE_SIZE = 512  # pixels of the chromatin field at least; each nucleus takes a window of it
WALL = 2.0  # micrometres over which a nucleus' curved side wall rises
OUTLINE = 0.6  # share of that rise at the outline: people draw it where the edge is already bright


@dataclass(frozen=True, eq=False)
class Nuclei:
    """Drawn nuclei on their canvas, Y X each."""

    labels: np.ndarray  # int32: body i is i + 1
    density: np.ndarray  # float32, DNA: 1 is the mean of a G1 nucleus
    depth: np.ndarray  # float32: 0 at a nucleus' centre, 1 at its outline and outside
    nucleoli: np.ndarray  # n x 4: y, x, radius in pixels, and the share of the DNA that each displaces


def paint(
    rng: np.random.Generator, bodies: Bodies, shape: tuple[int, int], g1_area: float, nucleoli: float, um: float
) -> Nuclei:
    """Draw the bodies on a canvas of `shape` pixels; a G1 nucleus has `g1_area` of them.

    Where two outlines meet, each pixel belongs to the nucleus in which it lies deeper, so neighbours flatten against
    each other. The chromatin is a log-normal random field of about 1 micrometre grain with darker nucleoli.
    """
    labels = np.zeros(shape, np.int32)
    depth = np.ones(shape, np.float32)
    density = np.zeros(shape, np.float32)
    n = len(bodies)
    wall = np.float32(max(WALL / um, 1.0))
    reaches = bodies.major * np.minimum(1.0 + 2.0 * np.abs(bodies.wobble).sum(1), 1.6) + 2.0 + float(wall)
    side = max(TEXTURE_SIZE, 2 * int(reaches.max(initial=0.0)) + 8)
    fine, coarse = smooth_field(rng, (side, side), 0.4 / um), smooth_field(rng, (side, side), 1.3 / um)
    chromatin = 0.9 * fine + 0.44 * coarse
    corners = rng.random((n, 2))
    found: list[tuple[float, float, float, float]] = []
    voids = np.where(bodies.phase < 3, rng.poisson(nucleoli, n), 0)
    for i in range(n):
        reach = reaches[i]
        y0, y1 = int(bodies.y[i] - reach), int(bodies.y[i] + reach) + 2
        x0, x1 = int(bodies.x[i] - reach), int(bodies.x[i] + reach) + 2
        dy = (np.arange(y0, y1, dtype=np.float32) - np.float32(bodies.y[i]))[:, None]
        dx = (np.arange(x0, x1, dtype=np.float32) - np.float32(bodies.x[i]))[None, :]
        cos, sin = np.float32(np.cos(bodies.angle[i])), np.float32(np.sin(bodies.angle[i]))
        u = (dx * cos + dy * sin) / np.float32(bodies.major[i])
        v = (dy * cos - dx * sin) / np.float32(bodies.minor[i])
        r = np.sqrt(u * u + v * v) + np.float32(1e-6)
        turn = (u + 1j * v) / r
        outline = np.ones_like(r)
        power = turn
        for k, _ in enumerate(HARMONICS):
            power = power * turn
            outline += (np.complex64(bodies.wobble[i, k]) * power).real
        level = r / np.maximum(outline, np.float32(0.35))
        inward = (1.0 - level) * np.sqrt(dx * dx + dy * dy) / np.maximum(level, np.float32(0.05))
        cover = np.clip(inward / wall + OUTLINE, 0.0, 1.0)
        size = r.shape
        oy, ox = (corners[i] * (side - np.array(size))).astype(int)
        grain = chromatin[oy : oy + size[0], ox : ox + size[1]]
        mass = cover * np.clip(1.0 - level * level, 0.02, 1.0) ** np.float32(0.18)
        mass *= np.exp(np.float32(bodies.grain[i]) * grain)
        for _ in range(voids[i]):
            radius, bearing, width = rng.random() ** 0.5 * 0.65, rng.uniform(0, 2 * np.pi), rng.uniform(0.9, 1.8) / um
            hole = (u - radius * np.cos(bearing)) ** 2 * bodies.major[i] ** 2
            hole += (v - radius * np.sin(bearing)) ** 2 * bodies.minor[i] ** 2
            strength = rng.uniform(0.1, 0.4)
            mass *= 1.0 - np.float32(strength) * np.exp(-hole / (2 * width**2)).astype(np.float32)
            along = radius * np.cos(bearing) * bodies.major[i] + 1j * radius * np.sin(bearing) * bodies.minor[i]
            place = along * np.exp(1j * bodies.angle[i])
            found.append((bodies.y[i] + place.imag, bodies.x[i] + place.real, width, strength))
        mass *= np.float32(bodies.content[i] * g1_area) / mass.sum()
        inner = np.s_[max(0, -y0) : max(0, shape[0] - y0), max(0, -x0) : max(0, shape[1] - x0)]
        box = np.s_[max(0, y0) : max(0, y1), max(0, x0) : max(0, x1)]
        mass, level = mass[inner], level[inner]
        owner = (level < depth[box]) & (level < 1.0)
        free = ~owner & (labels[box] == 0)  # the half-covered pixels of the rim
        labels[box][owner] = i + 1
        depth[box][owner] = level[owner]
        density[box] = np.where(owner, mass, density[box] + np.where(free, mass, 0.0))
    return Nuclei(labels, density, depth, np.array(found, float).reshape(-1, 4))
