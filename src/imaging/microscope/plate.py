"""Plate: how scenes vary between fields, wells, plates and batches."""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np

from .phenotype import Phenotype
from .scene import Scene

# Random effects: standard deviation of a factor's logarithm per level (batch, plate, well, field).
EFFECTS: Mapping[str, tuple[float, float, float, float]] = {
    "density": (0.05, 0.05, 0.3, 0.3),
    "area": (0.02, 0.02, 0.12, 0.03),
    "stain": (0.1, 0.05, 0.15, 0.03),
    "medium": (0.05, 0.05, 0.14, 0.05),
}
FOCUS_SD = (0.5, 0.6)  # micrometres, well and field
ROWS, COLUMNS = "BCDEFGHIJKLMNO", 22  # a 384-well plate without its rim


@dataclass(frozen=True, eq=False)
class PlateField:
    """One field of a plate: well ("B03"), field number (from 1), the seed of its scene, its plate, and what varies."""

    plate: str
    well: str
    field: int
    seed: int
    shape: tuple[int, int]
    pixel_size: float
    phenotype: Phenotype
    focus: float

    @cached_property
    def scene(self) -> Scene:
        """The scene, drawn when first asked for."""
        return Scene.draw(self.seed, self.shape, self.pixel_size, self.phenotype, self.focus)


@dataclass(frozen=True, eq=False)
class Plate:
    """A plate of `wells` wells with `fields_per_well` fields each, named B02, B03, ... as on a 384-well plate.

    `treatments` gives wells another phenotype than `phenotype`; `artefact_density` (foreign objects per mm2) overrides
    that of every phenotype. Plates of one `batch` share its random effect. Raises ValueError for more wells than the
    plate has, counts below 1, or a treatment of a well that is not used.
    """

    seed: int = 0
    wells: int = 8
    fields_per_well: int = 2
    shape: tuple[int, int] = (2160, 2160)
    pixel_size: float = 0.65
    name: str = "drawn"
    artefact_density: float | None = None
    phenotype: Phenotype = field(default_factory=Phenotype)
    treatments: Mapping[str, Phenotype] = field(default_factory=dict)
    batch: int = 0

    def __post_init__(self) -> None:
        if not 1 <= self.wells <= len(ROWS) * COLUMNS:
            raise ValueError(f"Plate.wells is {self.wells}; give 1 to {len(ROWS) * COLUMNS}")
        if self.fields_per_well < 1 or self.seed < 0 or self.batch < 0:
            raise ValueError("Plate: fields_per_well must be 1 or more, seed and batch 0 or more")
        if unknown := sorted(set(self.treatments) - set(self.well_names())):
            raise ValueError(
                f"Plate.treatments: well {unknown[0]!r} is not one of the {self.wells} wells of this plate"
            )

    def well_names(self) -> list[str]:
        """Names of the wells, row by row."""
        return [f"{ROWS[i // COLUMNS]}{i % COLUMNS + 2:02d}" for i in range(self.wells)]

    def fields(self) -> Iterator[PlateField]:
        """The fields, well by well; each depends only on (seed, name, batch, well, field), never on the order."""
        for well in self.well_names():
            for number in range(1, self.fields_per_well + 1):
                yield self.at(well, number)

    def at(self, well: str, number: int) -> PlateField:
        """The field `number` (from 1) of one well."""
        if well not in self.well_names() or not 1 <= number <= self.fields_per_well:
            raise ValueError(f"Plate.at: no field {number} of well {well!r} on this plate; see well_names()")
        # The batch level is keyed without the plate's seed: plates of one batch share it.
        keys = [(1, self.batch), (2, self.seed, _key(self.name))]
        keys += [(3, self.seed, _key(self.name), _key(well)), (4, self.seed, _key(self.name), _key(well), number)]
        draws = np.stack([np.random.default_rng(key).standard_normal(len(EFFECTS) + 1) for key in keys])
        phenotype = self.treatments.get(well, self.phenotype)
        sd = np.array(list(EFFECTS.values())).T
        # Half the variance is taken off, so that the mean factor is 1.
        factors = np.exp((draws[:, :-1] * sd - sd**2 / 2).sum(axis=0))
        changes = {name: getattr(phenotype, name) * float(f) for name, f in zip(EFFECTS, factors, strict=True)}
        if self.artefact_density is not None:
            changes["artefact_density"] = self.artefact_density
        focus = FOCUS_SD[0] * draws[2, -1] + FOCUS_SD[1] * draws[3, -1]
        seed = int(np.random.default_rng((*keys[3], 5)).integers(2**31))
        shape, phenotype = self.shape, replace(phenotype, **changes)
        return PlateField(self.name, well, number, seed, shape, self.pixel_size, phenotype, float(focus))


def _key(text: str) -> int:
    return zlib.crc32(text.encode())
