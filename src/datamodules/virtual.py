"""A plate drawn by the virtual microscope, written as images and an index like any other plate."""

import hashlib
import json
import os
import shutil
from pathlib import Path
from typing import Any

import pandas as pd
from rich.progress import track

from .. import __version__
from ..imaging.io import write_image
from ..imaging.microscope import Microscope, Plate
from .inpainting import Inpainting


class VirtualPlate(Inpainting):
    """Draws `plate` through `microscope` into a folder under `root`, once, then reads it as `Inpainting` does.

    The folder's name is a digest of the two configurations, so that a changed plate is drawn anew and an unchanged one
    is not.
    """

    def __init__(self, root: str, plate: Plate, microscope: Microscope, **options: Any) -> None:
        recipe = json.dumps([__version__, repr(plate), repr(microscope)])
        super().__init__(root=str(Path(root) / f"plate_{hashlib.sha256(recipe.encode()).hexdigest()[:10]}"), **options)
        self.plate, self.microscope = plate, microscope

    def prepare_data(self) -> None:
        """Draws every field with a progress bar; an interrupted drawing leaves nothing behind under the final name."""
        if (self.root / "index.csv").exists():
            return
        draft = self.root.with_name(f"{self.root.name}.{os.getpid()}.draft")
        rows = []
        fields = list(self.plate.fields())
        for field in track(fields, description="drawing the plate"):
            stem = f"{field.plate}_{field.well}_f{field.field}"
            row: dict[str, Any] = {
                "plate": f"{field.plate}{self.plate.seed}",
                "well": field.well,
                "field": field.field,
                "pixel_size": field.scene.pixel_size,
            }
            for channel in ("nuclei", "artefacts"):
                row[f"image_{channel}"] = f"images/{stem}_{channel}.tif"
                write_image(draft / row[f"image_{channel}"], self.microscope.image(field.scene, channel=channel))
            row["objects_nuclei"] = f"objects/{stem}.tif"
            write_image(draft / row["objects_nuclei"], field.scene.labels())
            rows.append(row)
        pd.DataFrame(rows).to_csv(draft / "index.csv", index=False)
        try:
            draft.rename(self.root)
        except OSError:  # another process drew the same plate meanwhile
            shutil.rmtree(draft)
