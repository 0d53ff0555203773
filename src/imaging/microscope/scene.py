"""Scene: what is there under the microscope, with the truth about it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import pandas as pd
import scipy.fft
from skimage.measure import regionprops

from .artefacts import COARSE, Layer, draw_artefacts
from .cells import PHASES, draw_bodies, place
from .drawing import paint
from .organelles import HOSTS, ORGANELLES, Anatomy
from .phenotype import Phenotype

MARGIN = 20.0  # micrometres drawn around the field, so that what lies across its edge is cut and glows into it


@dataclass(frozen=True, eq=False)
class Scene:
    """A field of `shape` pixels (Y X) with `pixel_size` micrometres each, as layers of dye and the truth about them.

    `layers` and `transmission` lie on a canvas which is larger than the field by `margin` pixels at the top and left
    and at least as many at the bottom and right. `focus` is the height of the nuclei above the plane in focus (um).
    """

    seed: int
    shape: tuple[int, int]
    pixel_size: float
    phenotype: Phenotype
    focus: float
    layers: tuple[Layer, ...]
    transmission: np.ndarray | None = field(repr=False)
    _labels: np.ndarray = field(repr=False)
    _artefacts: np.ndarray = field(repr=False)
    _nuclei: pd.DataFrame = field(repr=False)
    _anatomy: Anatomy = field(repr=False)

    @classmethod
    def draw(
        cls,
        seed: int,
        shape: tuple[int, int] = (2160, 2160),
        pixel_size: float = 0.65,
        phenotype: Phenotype | None = None,
        focus: float = 0.0,
    ) -> Scene:
        """Draw a scene: the same arguments give the same scene; no `phenotype` means the default one.

        Raises ValueError for a negative seed, a shape that is not two lengths of 16 pixels or more, or a pixel size
        outside 0.1 to 3 micrometres (beyond it a nucleus is larger than its texture, or hardly a pixel).
        """
        phenotype = Phenotype() if phenotype is None else phenotype
        if seed < 0:
            raise ValueError(f"Scene.draw: seed is {seed}; give an integer of 0 or more")
        if len(shape) != 2 or min(shape) < 16:
            raise ValueError(f"Scene.draw: shape is {tuple(shape)}; give (rows, columns) of at least 16 pixels each")
        if not 0.1 <= pixel_size <= 3.0:
            raise ValueError(f"Scene.draw: pixel_size is {pixel_size}; give micrometres per pixel, 0.1 to 3")
        shape = (int(shape[0]), int(shape[1]))
        margin = _margin(pixel_size)
        canvas = (_canvas_length(shape[0] + 2 * margin), _canvas_length(shape[1] + 2 * margin))
        cells_rng, paint_rng, artefact_rng = (np.random.default_rng((seed, part)) for part in range(3))
        mm2 = canvas[0] * canvas[1] * pixel_size**2 * 1e-6
        bodies = draw_bodies(cells_rng, phenotype, int(cells_rng.poisson(phenotype.density * mm2)), pixel_size)
        bodies = place(cells_rng, bodies, canvas, phenotype, pixel_size)
        g1_area = phenotype.area / pixel_size**2
        nuclei = paint(paint_rng, bodies, canvas, g1_area, phenotype.nucleoli, pixel_size)

        dead = len(np.unique(bodies.cell[bodies.phase == PHASES.index("pyknotic")]))
        foreign = int(artefact_rng.poisson(phenotype.artefact_density * mm2))
        floating = int(artefact_rng.poisson(phenotype.debris_per_dead_cell * dead))
        extra, mask, transmission = draw_artefacts(artefact_rng, canvas, foreign, floating, pixel_size)

        window = np.s_[margin : margin + shape[0], margin : margin + shape[1]]
        seen = np.bincount(nuclei.labels[window].ravel(), minlength=len(bodies) + 1)[1:] > 0
        number = np.concatenate([[0], np.cumsum(seen) * seen]).astype(np.int32)
        table = pd.DataFrame(
            {
                "CellCycle_Phase": np.array(PHASES, dtype=object)[bodies.phase[seen]],
                "DNA_Content": bodies.content[seen],
                "Parent_Cell": np.unique(bodies.cell[seen], return_inverse=True)[1].reshape(-1) + 1,
            }
        )
        layers = (Layer("dna", 0.0, nuclei.density * np.float32(phenotype.stain)), *extra)
        labels, anatomy = number[nuclei.labels[window]], Anatomy(seed, phenotype, pixel_size, bodies, nuclei)
        return cls(
            seed, shape, pixel_size, phenotype, focus, layers, transmission, labels, mask[window], table, anatomy
        )

    @property
    def margin(self) -> int:
        """Pixels of the canvas above and left of the field."""
        return _margin(self.pixel_size)

    def labels(self) -> np.ndarray:
        """True nuclei and nuclear fragments, int32 Y X: 0 is background, 1..n follow the rows of measurements()."""
        return self._labels.copy()

    def artefact_mask(self) -> np.ndarray:
        """Where an artefact adds or takes over a tenth of the light of a G1 nucleus, bool Y X."""
        return self._artefacts.copy()

    def mask(self, name: str) -> np.ndarray:
        """Where the nuclei, cells or an organelle (er, golgi, cytosol, control) truly are, bool Y X.

        ER: the region that its network fills, without the nucleus; Golgi and control: where their dye is dense;
        cytosol: cells that have dye, nucleus included. Overlapping cells do not occur: neighbours share a border.
        Raises ValueError for another name.
        """
        if name in ("nuclei", "cells"):
            return (self._labels if name == "nuclei" else self._cells) > 0
        if name not in ORGANELLES:
            raise ValueError(f"Scene.mask: no {name!r}; choose from nuclei, cells, {', '.join(ORGANELLES)}")
        return getattr(self._anatomy, name).mask[self.window].copy()

    def cell_labels(self) -> np.ndarray:
        """True cell bodies, int32 Y X: 1..n follow the rows of cells(), first those with a nucleus in the field.

        A cell has the number that measurements() gives its nuclei as Parent_Cell.
        """
        return self._cells.copy()

    def organelle(self, name: str) -> Layer:
        """The dye of one of ORGANELLES as a layer at the height of the nuclei."""
        return Layer(name, 0.0, getattr(self._anatomy, name).density)

    def optical_path(self, indices: Mapping[str, float]) -> np.ndarray:
        """Optical path in excess of the medium's on the canvas, float32 Y X in micrometres; `indices` as INDICES.

        Foreign objects in the plane of the cells refract as well: a G1 nucleus' light of junk is taken for 1 um.
        """
        path = self._anatomy.optical_path(indices)
        for layer in self.layers[1:]:
            if layer.step == 1:
                path += np.float32(indices["foreign"] - indices[HOSTS["foreign"]]) * layer.density
        return path

    def cells(self) -> pd.DataFrame:
        """Truth table, one row per label of cell_labels(): areas in pixels, intensities as dye before any optics."""
        labels = self._cells
        n = int(labels.max(initial=0))
        table = {
            "ObjectNumber": np.arange(1, n + 1),
            "AreaShape_Area": np.bincount(labels.ravel(), minlength=n + 1)[1:],
        }
        for name in ORGANELLES:
            density, where = (array[self.window].ravel() for array in getattr(self._anatomy, name))
            table[f"AreaShape_Area_{name}"] = np.bincount(labels.ravel(), where, n + 1)[1:].astype(int)
            table[f"Intensity_IntegratedIntensity_{name}"] = np.bincount(labels.ravel(), density, n + 1)[1:]
        return pd.DataFrame(table)

    @property
    def window(self) -> tuple[slice, slice]:
        """The field's place on the canvas."""
        return np.s_[self.margin : self.margin + self.shape[0], self.margin : self.margin + self.shape[1]]

    @cached_property
    def _cells(self) -> np.ndarray:
        cells, window = self._anatomy.cells, self._anatomy.cells.labels[self.window]
        seen = np.unique(self._anatomy.nuclei.labels[self.window])
        first = np.searchsorted(cells.number, np.unique(self._anatomy.bodies.cell[seen[seen > 0] - 1])) + 1
        order = np.concatenate([first, np.setdiff1d(window, [0, *first])])
        number = np.zeros(len(cells.number) + 1, np.int32)
        number[order] = np.arange(1, len(order) + 1)
        return number[window]

    def measurements(self) -> pd.DataFrame:
        """Truth table under CellProfiler's names, one row per label; pixels, and intensities in units of a G1 nucleus.

        The intensity is the dye inside the label before any optics; DNA_Content is that of the whole nucleus or part.
        """
        return self._measurements.copy()

    @cached_property
    def _measurements(self) -> pd.DataFrame:
        labels, n = self._labels, len(self._nuclei)
        ys, xs = np.nonzero(labels)
        owner = labels[ys, xs] - 1
        dye = self.layers[0].density[self.margin :, self.margin :][ys, xs]

        def total(weights: np.ndarray | None = None) -> np.ndarray:
            return np.bincount(owner, weights, minlength=n).astype(float)

        area = total()
        cy, cx = total(ys) / area, total(xs) / area
        dy, dx = ys - cy[owner], xs - cx[owner]
        yy, xx, xy = total(dy * dy) / area, total(dx * dx) / area, total(dy * dx) / area
        half = np.sqrt(((yy - xx) / 2) ** 2 + xy**2)
        long, short = (yy + xx) / 2 + half, np.maximum((yy + xx) / 2 - half, 0.0)
        integrated = total(dye)
        return pd.DataFrame(
            {
                "ObjectNumber": np.arange(1, n + 1),
                "Location_Center_X": cx,
                "Location_Center_Y": cy,
                "AreaShape_Area": area.astype(int),
                "AreaShape_MajorAxisLength": 4 * np.sqrt(long),
                "AreaShape_MinorAxisLength": 4 * np.sqrt(short),
                "AreaShape_Eccentricity": np.sqrt(1 - short / np.maximum(long, 1e-12)) * (long > 0),
                "AreaShape_Solidity": [float(part.solidity) for part in regionprops(labels)],
                "Intensity_IntegratedIntensity_DNA": integrated,
                "Intensity_MeanIntensity_DNA": integrated / area,
            }
        ).join(self._nuclei)


def _margin(pixel_size: float) -> int:
    return max(32, round(MARGIN / pixel_size))


def _canvas_length(length: int) -> int:
    """The next length that divides by COARSE and is quick to transform."""
    return COARSE * int(scipy.fft.next_fast_len(-(-length // COARSE), real=True))
