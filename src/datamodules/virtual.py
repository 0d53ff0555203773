"""Plates drawn by the virtual microscope, written as images and an index like any other plate."""

import hashlib
import json
import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from rich.progress import track

from .. import __version__
from ..imaging.io import write_image
from ..imaging.microscope import Microscope, Plate
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
        draw_plate(self.root, self.plate, self.microscope, ("nuclei", "artefacts"))


class VirtualPairs(Pairs):
    """Draws the channels asked for of `plate` through `microscope`, once, then reads them as `Pairs` does.

    The folder's name is a digest of both configurations and of the channels.
    """

    def __init__(
        self,
        root: str,
        plate: Plate,
        microscope: Microscope,
        sources: Sequence[str] = ("dic",),
        targets: Sequence[str] = ("nuclei",),
        **options: Any,
    ) -> None:
        drawn = sorted({*sources, *targets})
        folder = _folder(root, "pairs", repr(plate), repr(microscope), *drawn)
        super().__init__(root=str(folder), sources=sources, targets=targets, **options)
        self.plate, self.microscope = plate, microscope

    def prepare_data(self) -> None:
        """Draws every field with a progress bar; an interrupted drawing leaves nothing behind under the final name."""
        draw_plate(self.root, self.plate, self.microscope, self.channels)


def _folder(root: str, kind: str, *recipe: str) -> Path:
    digest = hashlib.sha256(json.dumps([__version__, *recipe]).encode()).hexdigest()
    return Path(root) / f"{kind}_{digest[:10]}"


def draw_plate(folder: Path, plate: Plate, microscope: Microscope, channels: Sequence[str]) -> None:
    """Draw these channels and the nuclei's labels of every field into `folder`, with an index; nothing if it is there.

    Raises ValueError for a channel that the microscope does not have.
    """
    if (folder / "index.csv").exists():
        return
    draft = folder.with_name(f"{folder.name}.{os.getpid()}.draft")
    rows = []
    for field in track(list(plate.fields()), description="drawing the plate"):
        stem = f"{field.plate}_{field.well}_f{field.field}"
        row: dict[str, Any] = {
            "plate": f"{field.plate}{plate.seed}",
            "well": field.well,
            "field": field.field,
            "pixel_size": field.scene.pixel_size,
        }
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
