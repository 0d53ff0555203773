"""Cells of a scene: draw their bodies (one per nucleus or fragment) from a phenotype and place them in the plane."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass

import cv2
import numpy as np

from .phenotype import Phenotype

PHASES = ("G1", "S", "G2", "M", "pyknotic", "micronucleus")
HARMONICS = np.arange(2, 7)


@dataclass
class Bodies:
    """One entry per nucleus or fragment, n in all; lengths in pixels, angles in radians, contents in G1 multiples."""

    phase: np.ndarray  # n, index into PHASES
    cell: np.ndarray  # n, cell number: bodies of one cell share it
    parent: np.ndarray  # n, index of the body it is placed against; -1: none, -2: any neighbour
    gap: np.ndarray  # n, distance to the parent in units of contact
    bearing: np.ndarray  # n, direction from the parent, relative to the parent's long axis; NaN: any
    major: np.ndarray  # n, semi-axis
    minor: np.ndarray  # n, semi-axis
    angle: np.ndarray  # n, first the deviation from the local orientation, then the orientation
    wobble: np.ndarray  # n x len(HARMONICS) complex amplitudes of the outline
    content: np.ndarray  # n, DNA
    grain: np.ndarray  # n, strength of the chromatin texture
    y: np.ndarray
    x: np.ndarray

    def __len__(self) -> int:
        return len(self.phase)

    def take(self, index: np.ndarray) -> Bodies:
        """The bodies of `index`, in that order."""
        return Bodies(**{name: value[index] for name, value in vars(self).items()})


def draw_bodies(rng: np.random.Generator, phenotype: Phenotype, count: int, pixel_size: float) -> Bodies:
    """Draw the bodies of `count` cells, not yet placed: phases, sizes, outlines and DNA contents."""
    p = phenotype
    rare = np.array([p.s_fraction, p.g2_fraction, p.mitotic_fraction, p.pyknotic_fraction])
    phase = rng.choice(5, size=count, p=np.concatenate([[max(0.0, 1.0 - rare.sum())], rare]) / max(1.0, rare.sum()))
    parts = np.ones(count, int)
    several = (phase < 3) & (rng.random(count) < p.multinucleate_fraction)
    parts[several] = rng.choice([2, 3, 4], size=several.sum(), p=[0.75, 0.17, 0.08])
    parts[(phase == 3) & (rng.random(count) < 0.45)] = 2  # anaphase and telophase: two sister plates
    broken = (phase == 4) & (rng.random(count) < 0.5)
    parts[broken] = rng.integers(2, 7, size=broken.sum())
    small = (phase < 3) & (rng.random(count) < p.micronucleus_fraction)

    bodies = parts + small
    cell = np.repeat(np.arange(count), bodies)
    index = np.arange(len(cell))
    first = (np.cumsum(bodies) - bodies)[cell]
    follows = index != first
    phase_of = np.where(small[cell] & (index == first + parts[cell]), 5, phase[cell])
    share = parts[cell].astype(float)
    n = len(cell)

    # Areas beside G1: G2 swells, chromatin condenses; the parts of one cell are larger than their share.
    area = p.area * np.array([1.0, 1.18, 1.42, 0.55, 0.3, 0.035])[phase_of] / share ** np.where(phase_of == 4, 1.0, 0.7)
    area *= np.exp(rng.normal(0.0, 1.0, n) * np.array([*[p.area_spread] * 3, 0.25, 0.5, 0.9])[phase_of])
    logit = np.log(p.eccentricity / (1.0 - p.eccentricity + 1e-6) + 1e-6) + rng.normal(0.0, p.eccentricity_spread, n)
    logit = np.where(phase_of == 3, rng.normal(1.9, 0.5, n), np.where(phase_of >= 4, rng.normal(0.0, 0.5, n), logit))
    ratio = np.sqrt(1.0 - 1.0 / (1.0 + np.exp(-logit)) ** 2)
    mean_radius = np.sqrt(area / np.pi) / pixel_size
    rough = p.irregularity * np.exp(rng.normal(0.0, p.irregularity_spread, n))
    rough = np.minimum(np.where(phase_of >= 3, rough + 0.03, rough), 0.25)
    wobble = rng.standard_normal((n, len(HARMONICS))) + 1j * rng.standard_normal((n, len(HARMONICS)))
    wobble *= rough[:, None] * (4.0 / HARMONICS**2)
    content = np.array([1.0, p.s_content, p.g2_content, p.g2_content, 0.9, 0.0])[phase_of] / share
    micro = phase_of == 5
    content[micro] = 0.5 * np.exp(rng.normal(0.0, 0.5, micro.sum())) * area[micro] / p.area
    s_phase = phase_of == 1
    content[s_phase] += rng.uniform(-1.0, 1.0, s_phase.sum()) * 0.5 * min(p.s_content - 1.0, p.g2_content - p.s_content)
    content *= np.exp(rng.normal(0.0, p.stain_cv, n))
    nearby = rng.random(n) < p.contact_fraction
    # Daughters are found beside each other: side by side in M (across the plate), anywhere for fragments.
    gap = np.where(phase_of == 3, rng.uniform(1.1, 1.9, n), np.where(phase_of >= 4, rng.uniform(1.0, 1.7, n), 0.0))
    gap = np.where(gap == 0.0, rng.normal(0.97, 0.05, n), gap)
    return Bodies(
        phase=phase_of,
        cell=cell,
        parent=np.where(follows, index - 1, np.where(nearby, -2, -1)),
        gap=gap,
        bearing=np.where((phase_of == 3) & follows, np.pi / 2, np.nan),
        major=mean_radius / np.sqrt(ratio),
        minor=mean_radius * np.sqrt(ratio),
        angle=np.where((phase_of == 3) & follows, rng.normal(0.0, 0.1, n), rng.normal(0.0, 1.0, n)),
        wobble=wobble,
        content=content,
        grain=p.texture * np.array([1.0, 1.0, 1.0, 0.7, 0.5, 0.0])[phase_of] * np.exp(rng.normal(0.0, 0.2, n)),
        y=np.zeros(n),
        x=np.zeros(n),
    )


def smooth_field(rng: np.random.Generator, shape: tuple[int, int], sigma: float) -> np.ndarray:
    """A Gaussian random field of unit variance, float32 Y X, smooth over `sigma` pixels."""
    pad = int(np.ceil(3 * sigma))
    noise = rng.standard_normal((shape[0] + 2 * pad, shape[1] + 2 * pad), dtype=np.float32)
    blurred = cv2.GaussianBlur(noise, (0, 0), sigma)[pad : pad + shape[0], pad : pad + shape[1]]
    return blurred * np.float32(2.0 * sigma * np.sqrt(np.pi))


def place(rng: np.random.Generator, bodies: Bodies, shape: tuple[int, int], phenotype: Phenotype, um: float) -> Bodies:
    """Place the bodies in a plane of `shape` pixels (`um` micrometres each); those that find no room are left out.

    Random sequential hard-core placement in a log-Gaussian density, with a share of the cells put in contact with a
    neighbour; contact is judged along the line between two centres (sum of the ellipses' radii in that direction).
    """
    step = 16
    coarse = (shape[0] // step + 1, shape[1] // step + 1)
    weight = np.exp(phenotype.clustering * smooth_field(rng, coarse, 60.0 / um / step)).ravel()
    turn = np.pi * smooth_field(rng, coarse, 90.0 / um / step)
    n = len(bodies)
    tries = 12
    cells = rng.choice(weight.size, size=(n, tries), p=weight / weight.sum())
    ys = (cells // coarse[1] + rng.random((n, tries))) * step
    xs = (cells % coarse[1] + rng.random((n, tries))) * step
    bearings = rng.uniform(0.0, 2.0 * np.pi, (n, tries))
    clear = rng.uniform(0.95, 1.7, n)
    spread = (1.0 - phenotype.alignment) * 1.6 + 0.05
    grid: dict[tuple[int, int], list[int]] = defaultdict(list)
    size = 3.5 * float(bodies.major.max(initial=1.0)) + 1.0  # no contact reaches beyond the next cell of the grid
    kept = np.zeros(n, bool)

    def radius(i: int | np.ndarray, uy: np.ndarray | float, ux: np.ndarray | float) -> np.ndarray:
        along = np.cos(bodies.angle[i]) * ux + np.sin(bodies.angle[i]) * uy
        across = np.cos(bodies.angle[i]) * uy - np.sin(bodies.angle[i]) * ux
        return 1.0 / np.sqrt((along / bodies.major[i]) ** 2 + (across / bodies.minor[i]) ** 2)

    def around(y: float, x: float) -> list[int]:
        gy, gx = int(y // size), int(x // size)
        return [j for a in (-1, 0, 1) for b in (-1, 0, 1) for j in grid.get((gy + a, gx + b), ())]

    for i in range(n):
        wander = bodies.angle[i] * spread
        parent = int(bodies.parent[i])
        if parent >= 0 and not kept[parent]:
            continue
        for t in range(tries):
            y, x = ys[i, t], xs[i, t]
            beside = parent
            if parent == -2:
                close = around(y, x)
                beside = close[t % len(close)] if close else -1
            cy, cx = min(int(y) // step, coarse[0] - 1), min(int(x) // step, coarse[1] - 1)
            bodies.angle[i] = turn[cy, cx] + wander
            if beside >= 0:
                bearing = bearings[i, t]
                if np.isfinite(bodies.bearing[i]):
                    bodies.angle[i] = bodies.angle[beside] + wander
                    bearing = bodies.angle[beside] + bodies.bearing[i]
                uy, ux = np.sin(bearing), np.cos(bearing)
                reach = bodies.gap[i] * (radius(beside, uy, ux) + radius(i, uy, ux))
                y, x = bodies.y[beside] + uy * reach, bodies.x[beside] + ux * reach
                if not (0 <= y < shape[0] and 0 <= x < shape[1]):
                    continue
            others = np.array([j for j in around(y, x) if j != beside], int)
            if len(others):
                dy, dx = bodies.y[others] - y, bodies.x[others] - x
                distance = np.hypot(dy, dx) + 1e-9
                touch = radius(i, dy / distance, dx / distance) + radius(others, dy / distance, dx / distance)
                if (distance < (0.95 if beside >= 0 else clear[i]) * touch).any():
                    continue
            bodies.y[i], bodies.x[i] = y, x
            grid[(int(y // size), int(x // size))].append(i)
            kept[i] = True
            break
    return bodies.take(np.flatnonzero(kept))
