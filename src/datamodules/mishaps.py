"""Test wells of drawn plates, drawn again after something went wrong in the laboratory (thesis, figures 39 and 48)."""

import copy
import hashlib
import json
import os
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from rich.progress import track

from .. import __version__
from ..imaging.io import write_image
from ..imaging.microscope import Phenotype, Plate
from ..imaging.microscope.lab_errors import LAB_ERRORS
from .pair_patches import PairPatches
from .patches import FieldReader


def drawn_plates(datamodule: Any) -> dict[str, Plate]:
    """The plates of data that the microscope alone drew, by their name in the index; empty for other data."""
    named = {f"{plate.name}{plate.seed}": plate for plate in getattr(datamodule, "plates", ())}
    return named if set(datamodule.index["plate"].astype(str)) <= set(named) else {}


def redrawn(datamodule: Any, mishap: str) -> PairPatches:
    """The test patches of drawn data after `mishap`, one of LAB_ERRORS: the same windows, wells and seeds.

    Every channel of the test fields is drawn again, sources and targets; all mishaps but low_density leave the nuclei
    where they are. The pictures are kept beside the plate's, under a digest of all that they follow from. Raises
    ValueError for an unknown mishap, and for data that are not drawn.
    """
    if mishap not in LAB_ERRORS:
        raise ValueError(f"unknown lab error {mishap!r}; choose from {', '.join(LAB_ERRORS)}")
    if not (plates := drawn_plates(datamodule)):
        raise ValueError("only data that the microscope drew can be drawn again: choose data=virtual_pairs")
    samples: PairPatches = datamodule.patches("test")
    state = samples.reader.__getstate__()
    index = state["index"].copy()
    rows = np.flatnonzero(index["split"] == "test")
    folder = _folder(datamodule, mishap, list(index["id"].iloc[rows]))
    names = [column.removeprefix("image_") for column in index if str(column).startswith("image_")]
    pictures = {(row, name): folder / f"{index['id'].iloc[row]}_{name}.tif" for row in rows for name in names}
    if not folder.exists():
        draft = folder.with_name(f"{folder.name}.{os.getpid()}.draft")
        for row in track(rows, description=f"drawing {mishap.replace('_', ' ')}", transient=True):
            entry = index.iloc[row]
            field = plates[str(entry["plate"])].at(str(entry["well"]), int(entry["field"]))
            microscope, phenotype = LAB_ERRORS[mishap](datamodule.microscope, field.phenotype)
            scene = replace(field, phenotype=phenotype).scene
            for name in names:
                write_image(draft / pictures[row, name].name, microscope.image(scene, channel=name))
        try:
            draft.rename(folder)
        except OSError:  # another process drew the same fields meanwhile
            shutil.rmtree(draft)
    for (row, name), path in pictures.items():
        index.iloc[row, index.columns.get_loc(f"image_{name}")] = str(path)
    # The nuclei's labels are those of the field as it was; nothing that is asked of a stain reads them.
    other = copy.copy(samples)
    other.reader = FieldReader(**state | {"index": index, "objects": None})
    return other


def _folder(datamodule: Any, mishap: str, fields: list[str]) -> Path:
    # The plate's own name is a digest of plate and microscope; what the mishap does is told by what it makes of both.
    changed = repr(LAB_ERRORS[mishap](datamodule.microscope, Phenotype()))
    digest = hashlib.sha256(json.dumps([__version__, changed, *fields]).encode()).hexdigest()
    root = Path(datamodule.root)
    return root.with_name(f"{root.name}_{mishap}_{digest[:10]}")
