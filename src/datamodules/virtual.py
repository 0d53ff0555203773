"""Plates drawn by the virtual microscope, written as images and an index like any other plate."""

import hashlib
import json
import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
from rich.progress import track

from .. import __version__
from ..imaging.io import write_image
from ..imaging.microscope import CELL_LINES, Microscope, Plate
from .inpainting import Inpainting
from .pairs import Pairs


class VirtualPlate(Inpainting):
    """Draws `plate` through `microscope` into a folder under `root`, once, then reads it as `Inpainting` does.

    The folder's name is a digest of the two configurations, so that a changed plate is drawn anew and an unchanged one
    is not.
    """

    def __init__(self, root: str, plate: Plate, microscope: Microscope, **options: Any) -> None:
        super().__init__(root=str(_folder(root, "plate", repr(plate), repr(microscope))), **options)
        self.plate, self.microscope = plate, microscope

    def prepare_data(self) -> None:
        """Draws every field with a progress bar; an interrupted drawing leaves nothing behind under the final name."""
        draw_plates(self.root, [self.plate], self.microscope, ("nuclei", "artefacts"))


class VirtualPairs(Pairs):
    """Draws the channels asked for of `plate` through `microscope`, once, then reads them as `Pairs` does.

    `plates` draws that many, with the seeds from the plate's on; `cell_lines` names CELL_LINES whose phenotypes the
    wells of each take in turn, in place of the plate's own phenotype, and gives the index the column phenotype. The
    folder's name is a digest of all of it.
    Raises ValueError for less than one plate, unknown lines, or lines of a plate that has treatments.
    """

    def __init__(
        self,
        root: str,
        plate: Plate,
        microscope: Microscope,
        sources: Sequence[str] = ("dic",),
        targets: Sequence[str] = ("nuclei",),
        plates: int = 1,
        cell_lines: Sequence[str] | None = None,
        **options: Any,
    ) -> None:
        if plates < 1:
            raise ValueError(f"data.plates is {plates}; draw 1 or more")
        if cell_lines is not None and (not cell_lines or set(cell_lines) - set(CELL_LINES)):
            raise ValueError(f"data.cell_lines is {list(cell_lines)}; name one or more of {', '.join(CELL_LINES)}")
        if cell_lines and plate.treatments:
            raise ValueError("data.cell_lines and data.plate.treatments both say what a well holds: set one of them")
        lines = cell_lines or ()
        self.phenotypes = {well: lines[k % len(lines)] for k, well in enumerate(plate.well_names()) if lines}
        if lines:
            plate = replace(plate, treatments={well: CELL_LINES[line] for well, line in self.phenotypes.items()})
        self.plates = [replace(plate, seed=plate.seed + k) for k in range(plates)]
        drawn = sorted({*sources, *targets})
        recipe = [repr(plate), repr(microscope), *drawn, *map(repr, self.plates[1:]), *lines]
        super().__init__(root=str(_folder(root, "pairs", *recipe)), sources=sources, targets=targets, **options)
        self.microscope = microscope

    def prepare_data(self) -> None:
        """Draws every field with a progress bar; an interrupted drawing leaves nothing behind under the final name."""
        draw_plates(self.root, self.plates, self.microscope, self.channels, self.phenotypes)


def _folder(root: str, kind: str, *recipe: str) -> Path:
    digest = hashlib.sha256(json.dumps([__version__, *recipe]).encode()).hexdigest()
    return Path(root) / f"{kind}_{digest[:10]}"


def draw_plates(
    folder: Path,
    plates: Sequence[Plate],
    microscope: Microscope,
    channels: Sequence[str],
    phenotypes: Mapping[str, str] | None = None,
) -> None:
    """Draw these channels and the nuclei's labels of every field into `folder`, with an index; nothing if it is there.

    `phenotypes` names that of each well. Raises ValueError for a channel that the microscope does not have.
    """
    if (folder / "index.csv").exists():
        return
    draft = folder.with_name(f"{folder.name}.{os.getpid()}.draft")
    rows = []
    fields = [(plate, field) for plate in plates for field in plate.fields()]
    for plate, field in track(fields, description="drawing the plate" + "s" * (len(plates) > 1)):
        name = f"{field.plate}{plate.seed}"
        stem = f"{name if len(plates) > 1 else field.plate}_{field.well}_f{field.field}"
        row: dict[str, Any] = {
            "plate": name,
            "well": field.well,
            "field": field.field,
            "pixel_size": field.scene.pixel_size,
        }
        if phenotypes:
            row["phenotype"] = phenotypes[field.well]
        for channel in channels:
            row[f"image_{channel}"] = f"images/{stem}_{channel}.tif"
            write_image(draft / row[f"image_{channel}"], microscope.image(field.scene, channel=channel))
        row["objects_nuclei"] = f"objects/{stem}.tif"
        write_image(draft / row["objects_nuclei"], field.scene.labels())
        rows.append(row)
    pd.DataFrame(rows).to_csv(draft / "index.csv", index=False)
    try:
        draft.rename(folder)
    except OSError:  # another process drew the same plate meanwhile
        shutil.rmtree(draft)
