"""Cell bodies around placed nuclei: which pixel belongs to which cell, and how thick the cell is there."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from .cells import PHASES, Bodies, smooth_field
from .drawing import Nuclei
from .phenotype import Phenotype

BEARINGS = 720  # directions at which a cell's outline is tabulated
HARMONICS = np.arange(2, 8)
WALL = 1.2  # micrometres over which a cell's side wall rises
MITOTIC = PHASES.index("M")


@dataclass(frozen=True, eq=False)
class Cells:
    """Cell bodies on the canvas (Y X each), and one entry per cell in ascending order of `number`."""

    labels: np.ndarray  # int32: 0 outside, the k-th cell is k + 1
    level: np.ndarray  # float32: 0 at the middle, 1 at the outline that the cell would have without neighbours
    height: np.ndarray  # float32, micrometres
    gap: np.ndarray  # float32, micrometres to the nearest nucleus
    number: np.ndarray  # n, cell number of Bodies.cell
    phase: np.ndarray  # n, phase of the cell's largest nucleus
    y: np.ndarray  # n, centre of its nuclei
    x: np.ndarray
    radius: np.ndarray  # n, of a disc of the area of its nuclei, pixels

    def spread(self, values: np.ndarray) -> np.ndarray:
        """One value per cell, at every pixel of the cell: float32 Y X, 0 outside cells."""
        return np.concatenate([[0.0], values]).astype(np.float32)[self.labels]


def draw_cells(rng: np.random.Generator, bodies: Bodies, nuclei: Nuclei, phenotype: Phenotype, um: float) -> Cells:
    """Give each pixel to the cell of the nearest nucleus, as far as that cell's outline reaches.

    Interphase cells are spread, thin towards the edge and drawn out along their nucleus; mitotic and dying ones round.
    """
    p, shape = phenotype, nuclei.labels.shape
    number, owner = np.unique(bodies.cell, return_inverse=True)
    if not len(number):
        none, flat = np.zeros(0), np.zeros(shape, np.float32)
        return Cells(np.zeros(shape, np.int32), flat + 1, flat, flat + np.inf, number, number, none, none, none)
    size = bodies.major * bodies.minor
    total = np.bincount(owner, size)
    y, x = np.bincount(owner, size * bodies.y) / total, np.bincount(owner, size * bodies.x) / total
    main = np.lexsort((size, owner))[np.cumsum(np.bincount(owner)) - 1]
    n, phase = len(number), bodies.phase[main]
    rounded = phase >= MITOTIC
    stretch = np.where(rounded, 1.0, np.exp(np.abs(rng.normal(0.15, 0.15, n))))
    rough = np.where(rounded, 0.01, p.cell_irregularity)
    reach = np.sqrt(p.cell_ratio * total) * np.exp(rng.normal(0.0, 0.08, n))
    outline = (reach[:, None] * _outlines(rng, bodies.angle[main], stretch, rough)).astype(np.float32)
    thick = p.thickness * np.exp(rng.normal(0.0, 0.12, n)) * np.where(rounded, 1.7, 1.0)

    inside = nuclei.labels > 0
    gap, seed = cv2.distanceTransformWithLabels(
        (~inside).astype(np.uint8), cv2.DIST_L2, 5, labelType=cv2.DIST_LABEL_PIXEL
    )
    cell_of = np.zeros(int(seed.max()) + 1, np.int32)
    cell_of[seed[inside]] = owner[nuclei.labels[inside] - 1]
    cell = cell_of[seed]
    dy = np.arange(shape[0], dtype=np.float32)[:, None] - y.astype(np.float32)[cell]
    dx = np.arange(shape[1], dtype=np.float32)[None, :] - x.astype(np.float32)[cell]
    distance, bearing = cv2.cartToPolar(dx, dy)
    bearing *= np.float32(BEARINGS / (2 * np.pi))
    limit = outline[cell, bearing.astype(np.int32) % BEARINGS]
    level = distance / limit
    level[inside] = np.minimum(level[inside], 0.7)  # a nucleus lies in its cell, wherever the outline runs
    labels = np.where(level < 1.0, cell + 1, 0).astype(np.int32)
    square = np.minimum(level * level, np.float32(1.0))
    height = np.where(rounded[cell], np.sqrt(1.0 - square), np.float32(0.8) - np.float32(0.45) * square)
    height += np.float32(0.5) * np.sqrt(1.0 - nuclei.depth**2) * ~rounded[cell]  # the nucleus lifts the cell
    height *= thick.astype(np.float32)[cell] * _wall(labels, limit * (1.0 - level), max(WALL / um, 1.0))
    height *= np.exp(np.float32(p.granularity) * smooth_field(rng, shape, 0.9 / um))
    return Cells(labels, level, height, gap * np.float32(um), number, phase, y, x, np.sqrt(total))


def _outlines(rng: np.random.Generator, angle: np.ndarray, stretch: np.ndarray, rough: np.ndarray) -> np.ndarray:
    """Relative radius of n outlines at BEARINGS directions: an ellipse along `angle` with random harmonics."""
    bearing = np.arange(BEARINGS) * (2 * np.pi / BEARINGS)
    along, across = np.cos(bearing - angle[:, None]), np.sin(bearing - angle[:, None])
    ellipse = 1.0 / np.hypot(along / stretch[:, None], across * stretch[:, None])
    waves = rng.standard_normal((len(angle), len(HARMONICS))) + 1j * rng.standard_normal((len(angle), len(HARMONICS)))
    wobble = (waves / HARMONICS**1.5) @ np.exp(1j * HARMONICS[:, None] * bearing)
    return ellipse * np.clip(1.0 + 2.0 * rough[:, None] * wobble.real, 0.55, 1.8)


def _wall(labels: np.ndarray, inward: np.ndarray, width: float) -> np.ndarray:
    """How far a cell has risen at each pixel: 0 outside to 1 at `width` pixels from its border, float32 Y X.

    `inward` is the distance in pixels to the free outline, which smooths the steps of the pixels there.
    """
    core = labels > 0
    down, right = labels[1:] != labels[:-1], labels[:, 1:] != labels[:, :-1]
    core[1:][down] = core[:-1][down] = core[:, 1:][right] = core[:, :-1][right] = False
    depth = cv2.distanceTransform(core.astype(np.uint8), cv2.DIST_L2, 3) + np.float32(0.5)
    depth = np.clip(np.minimum(depth, inward) / np.float32(width), 0.0, 1.0)
    return np.sqrt(1.0 - (1.0 - depth) ** 2) * (labels > 0)
