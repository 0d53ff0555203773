"""Real fields of BBBC039, their halves, and drawn fields like them."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
from skimage.io import imread
from skimage.measure import label

from phenokeep.imaging.microscope import Microscope, Plate

# Fitting saw plates 1000 and 1001. Plates that are judged and plates that train are others.
FITTED_PLATES, JUDGED_PLATES, TRAINING_PLATES = 1000, 2000, 3000


class Field(NamedTuple):
    """A field of view: its well (drawn ones under their plate's name), counts Y X, and labels int32 Y X."""

    well: str
    image: np.ndarray
    labels: np.ndarray


class Halves(NamedTuple):
    """All real fields, and the names of the wells that were fitted and of those that are judged."""

    fields: list[Field]
    fitted: set[str]
    judged: set[str]

    def of(self, wells: set[str]) -> list[Field]:
        """The fields of some wells."""
        return [field for field in self.fields if field.well in wells]


def _instances(mask: np.ndarray) -> np.ndarray:
    """Label image of a BBBC039 mask: a connected component per colour of channel 0."""
    colours, out = mask[..., 0], np.zeros(mask.shape[:2], np.int32)
    for colour in np.unique(colours[colours > 0]):
        parts = label(colours == colour, connectivity=1)
        out[parts > 0] = parts[parts > 0] + out.max()
    return out


def read_real(data: Path) -> Halves:
    """Every field under `data`, its wells halved at random (seed 0)."""
    fields = []
    for path in sorted((data / "images").glob("*.tif")):
        mask = imread(data / "masks" / f"{path.stem}.png")
        fields.append(Field(path.stem.split("_")[1], imread(path), _instances(mask)))
    if not fields:
        sys.exit(f"no BBBC039 fields under {data / 'images'}; pass the folder that holds images/ and masks/ as --data")
    wells = sorted({field.well for field in fields})
    fitted = set(np.random.default_rng(0).permutation(wells)[: len(wells) // 2].tolist())
    return Halves(fields, fitted, set(wells) - fitted)


def draw(seed: int, wells: int, fields: int, shape: Sequence[int]) -> list[Field]:
    """`fields` fields of a drawn plate of `wells` wells; 12 bits, as BBBC039's camera has."""
    name = f"realism{seed}"
    plate = Plate(seed=seed, wells=wells, fields_per_well=-(-fields // wells), shape=(shape[0], shape[1]), name=name)
    order = sorted(plate.fields(), key=lambda field: field.field)[:fields]
    microscope = Microscope(bits=12)
    return [Field(f"{name}:{one.well}", microscope.image(one.scene), one.scene.labels()) for one in order]


def draw_like(real: Sequence[Field], first: int, plates: int) -> list[list[Field]]:
    """Drawn plates numbered from `first`, each with as many wells and fields as `real`."""
    wells = len({field.well for field in real})
    return [draw(first + number, wells, len(real), real[0].image.shape) for number in range(plates)]


def markdown(table: pd.DataFrame) -> str:
    """A table in Markdown, its cells as they are."""
    rows = [table.columns, ["---"] * table.shape[1], *table.astype(str).to_numpy().tolist()]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)
