"""What cells hold besides DNA: ER, Golgi, cytosol, lipid droplets and the control, drawn when first asked for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import cv2
import numpy as np

from .cells import Bodies, smooth_field
from .cytoplasm import MITOTIC, Cells, draw_cells
from .drawing import Nuclei
from .phenotype import Phenotype

ORGANELLES = ("er", "golgi", "cytosol", "control")
# Each part has its own stream of random numbers, so that removing one leaves the others as they are.
STREAMS = {"cells": 3, "er": 4, "golgi": 5, "cytosol": 6, "control": 7, "lipid": 8}
INDICES: Mapping[str, float] = {
    "medium": 1.336,
    "cytosol": 1.365,
    "nucleus": 1.360,
    "chromatin": 1.364,
    "nucleolus": 1.380,
    "er": 1.372,
    "golgi": 1.375,
    "lipid": 1.450,
    "foreign": 1.400,
}
# What each thing displaces: its contrast is the difference of the two indices.
HOSTS: Mapping[str, str] = {
    "cytosol": "medium",
    "nucleus": "cytosol",
    "chromatin": "nucleus",
    "nucleolus": "nucleus",
    "er": "cytosol",
    "golgi": "cytosol",
    "lipid": "cytosol",
    "foreign": "medium",
}
THICK = 5.0  # micrometres of cytosol that give one unit of light


class Organelle(NamedTuple):
    """Density of dye (float32 Y X, about 1 where well stained) and where the organelle is (bool Y X), on the canvas."""

    density: np.ndarray
    mask: np.ndarray


@dataclass(frozen=True, eq=False)
class Anatomy:
    """The cells of one scene; `um` is micrometres per pixel. Nothing is drawn before it is asked for."""

    seed: int
    phenotype: Phenotype
    um: float
    bodies: Bodies
    nuclei: Nuclei

    def _rng(self, part: str) -> np.random.Generator:
        return np.random.default_rng((self.seed, STREAMS[part]))

    @cached_property
    def cells(self) -> Cells:
        """The cell bodies."""
        return draw_cells(self._rng("cells"), self.bodies, self.nuclei, self.phenotype, self.um)

    @cached_property
    def er(self) -> Organelle:
        """A network around the nucleus that thins out towards the edge; the mask is the region that it fills."""
        rng, cells = self._rng("er"), self.cells
        n = len(cells.number)
        end = cells.spread(self.phenotype.er_fraction * np.exp(rng.normal(0.0, 0.06, n)))
        amount = cells.spread(self.phenotype.er * np.exp(rng.normal(0.0, 0.2, n)))
        reach = np.clip(1.0 - (cells.level / np.maximum(end, 1e-3)) ** 3, 0.0, 1.0)
        strand = smooth_field(rng, reach.shape, max(0.5 / self.um, 0.6))
        network = 0.5 + np.exp(-4.0 * strand * strand)
        # Little of it lies above and below the nucleus.
        over = 1.0 - 0.92 * np.minimum(10.0 * (1.0 - self.nuclei.depth), 1.0)
        near = 0.5 + np.exp(-cells.gap / np.float32(4.0))
        filled = amount * reach * near * np.sqrt(cells.height / THICK)
        return Organelle(filled * network * over, (filled > 0.25) & (self.nuclei.labels == 0))

    @cached_property
    def golgi(self) -> Organelle:
        """A ribbon of stacks on one side of the nucleus; dividing and dead cells have dispersed theirs."""
        rng, cells, p = self._rng("golgi"), self.cells, self.phenotype
        n, shape = len(cells.number), cells.labels.shape
        bearing = rng.uniform(0.0, 2 * np.pi, n)
        amount = 1.6 * np.exp(rng.normal(0.0, 0.2, n)) * (cells.phase < MITOTIC) * (p.golgi > 0.0)
        widest = np.cos(np.minimum(0.75 * p.golgi * np.exp(rng.normal(0.0, 0.2, n)), np.pi))
        offset = rng.uniform(1.2, 2.2, n)
        stacks = smooth_field(rng, shape, max(0.6 / self.um, 0.6))
        at = np.flatnonzero((cells.labels > 0) & (cells.gap > 0.0) & (cells.gap < 4.5))
        own = cells.labels.ravel()[at] - 1
        dy, dx = at // shape[1] - cells.y[own], at % shape[1] - cells.x[own]
        along = (dy * np.sin(bearing)[own] + dx * np.cos(bearing)[own]) / np.maximum(np.hypot(dy, dx), 1e-3)
        side = np.clip((along - widest[own]) / 0.15, 0.0, 1.0)
        ribbon = np.exp(-(((cells.gap.ravel()[at] - offset[own]) / 0.8) ** 2))
        density = np.zeros(shape, np.float32)
        density.ravel()[at] = amount[own] * side * ribbon * np.clip(0.75 + 0.6 * stacks.ravel()[at], 0.0, 2.0)
        return Organelle(density, density > 0.5)

    @cached_property
    def cytosol(self) -> Organelle:
        """Dye that fills living cells as GFP does, the nucleus to little more than half; dead cells have lost it."""
        cells = self.cells
        bright = self.phenotype.cytosol * np.exp(self._rng("cytosol").normal(0.0, 0.25, len(cells.number)))
        density = cells.spread(bright * (cells.phase <= MITOTIC)) * (cells.height - 0.45 * self._nucleus()) / THICK
        return Organelle(density, density > 0.0)

    @cached_property
    def control(self) -> Organelle:
        """Spots of dye without refractive contrast, a Poisson process in the cells: nothing tells where they are."""
        rng, inside = self._rng("control"), self.cells.labels > 0
        rows, columns = inside.shape
        n = int(rng.poisson(self.phenotype.control * rows * columns * self.um**2 * 1e-6))
        at = rng.random((n, 2)) * (rows - 1, columns - 1)
        peak = 2.0 * np.exp(rng.normal(0.0, 0.3, n))
        spots = _splat(inside.shape, at, peak * 2 * np.pi / self.um**2, 1.0 / self.um) * inside
        return Organelle(spots, spots > 0.5)

    def optical_path(self, indices: Mapping[str, float]) -> np.ndarray:
        """Optical path in excess of the medium's, float32 Y X in micrometres, for refractive indices by name."""
        step = {name: np.float32(indices[name] - indices[host]) for name, host in HOSTS.items()}
        height, nucleus = self.cells.height, self._nucleus()
        path = step["cytosol"] * height
        path += nucleus * (step["nucleus"] + step["chromatin"] * (self.nuclei.density - 1.0))
        y, x, radius, share = self.nuclei.nucleoli.T
        volume = 8.0 * share * 2 * np.pi * radius**2  # a quarter of the DNA displaced: 2 um thick
        nucleoli = _splat(height.shape, np.stack([y, x], 1), volume, 1.1 / self.um)
        path += step["nucleolus"] * np.minimum(nucleoli, nucleus)
        path += step["er"] * np.float32(3.0) * self.er.density  # micrometres of a well-stained place
        path += step["golgi"] * np.float32(2.0) * self.golgi.density
        return path + step["lipid"] * self._lipid()

    def _nucleus(self) -> np.ndarray:
        """Thickness of the nuclei, float32 Y X in micrometres: up to three quarters of the cell's."""
        return 0.75 * self.cells.height * np.sqrt(1.0 - self.nuclei.depth**2)

    def _lipid(self) -> np.ndarray:
        """Thickness of lipid droplets in the cytoplasm around the nucleus, float32 Y X in micrometres."""
        rng, cells = self._rng("lipid"), self.cells
        owner = np.repeat(np.arange(len(cells.number)), rng.poisson(self.phenotype.droplets, len(cells.number)))
        n = len(owner)
        away, bearing = cells.radius[owner] + rng.exponential(3.0, n) / self.um, rng.uniform(0.0, 2 * np.pi, n)
        at = np.stack([cells.y[owner] + away * np.sin(bearing), cells.x[owner] + away * np.cos(bearing)], 1)
        volume = 4 / 3 * np.pi * (0.38 * np.exp(rng.normal(0.0, 0.3, n))) ** 3
        thick = _splat(cells.labels.shape, at, volume / self.um**2, max(0.3 / self.um, 0.45))
        return thick * ((cells.labels > 0) & (self.nuclei.labels == 0))


def _splat(shape: tuple[int, int], at: np.ndarray, volume: np.ndarray, sigma: float) -> np.ndarray:
    """Gaussian blobs of `sigma` pixels that hold `volume` each at the positions `at` (n x 2, y x): float32 Y X."""
    base = np.floor(at).astype(int)
    rest = at - base
    canvas = np.zeros(shape[0] * shape[1])
    for dy in (0, 1):
        for dx in (0, 1):
            y, x = base[:, 0] + dy, base[:, 1] + dx
            weight = volume * np.abs(1 - dy - rest[:, 0]) * np.abs(1 - dx - rest[:, 1])
            seen = (y >= 0) & (y < shape[0]) & (x >= 0) & (x < shape[1])
            canvas += np.bincount((y * shape[1] + x)[seen], weight[seen], minlength=canvas.size)
    return cv2.GaussianBlur(canvas.reshape(shape).astype(np.float32), (0, 0), sigma)
