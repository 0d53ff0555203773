"""Restores the fields of a plate."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from ..datamodules.tables import write_index
from ..imaging.files import replacing
from ..imaging.io import read_image, write_image
from .fieldrun import Field, FieldRun
from .masks import Masks
from .objects import field_quality, measure_objects, ruler, summary
from .predictor import Predictor


class PlateRun(FieldRun[Predictor]):
    """One plate through one restoration model, into one folder: see `FieldRun`.

    `<out>/restored/` holds the images under their own names, types and sizes; `synthetic/` a mask of the pixels that
    were drawn (TIFF, 255 = drawn); `objects/` the nuclei per image.
    """

    DOING, DONE = "restoring", "restored"
    WHERE = "restored"

    def __init__(
        self,
        predictor: Predictor,
        index: pd.DataFrame,
        masks: Masks,
        out: Path,
        record: dict[str, Any],
        phirm: Any,
        rescale: bool,
    ) -> None:
        super().__init__(predictor, index, out, record, rescale)
        self.masks, self.phirm = masks, phirm
        root = Path(index.attrs["root"])
        sources = masks.bind(index, predictor.channels[0])
        self.sources = dict(zip(index["id"].astype(str), sources, strict=True))
        self._take(self._places(row, root) for _, row in index.iterrows())

    def _places(self, row: pd.Series, root: Path) -> Field:
        images = [Path(row[f"image_{channel}"]) for channel in self.predictor.channels]
        names = [path.relative_to(root) if path.is_relative_to(root) else Path(path.name) for path in images]
        outputs = [self.folder / name for name in names]
        synthetic = self.out / "synthetic" / names[0].with_suffix(".tif")
        mask = Path(self.sources[str(row["id"])]["path"])
        objects = self.out / "objects" / f"{row['id']}.csv"
        return Field(row, images, [*images, mask], [*outputs, synthetic], (objects,))

    def _known(self, field: Field) -> Callable[[np.ndarray], np.ndarray]:
        mask = self._mask(field)
        return lambda plane: plane[mask == 0]

    def _mask(self, field: Field) -> np.ndarray:
        return self.masks.read(self.sources[str(field.row["id"])])

    def _make(self, field: Field) -> dict[str, Any]:
        image, mask = self._read(field), self._mask(field)
        plate, pixel_size = str(field.row["plate"]), float(field.row["pixel_size"])
        restored = self.predictor.predict(image, mask, plate, pixel_size, self.rescale)
        drawn = (mask != 0) & bool((mask == 0).any())  # nothing is drawn where nothing is known
        row = self._measure(field, image, restored, drawn, plate, pixel_size)
        *outputs, synthetic = field.outputs
        for path, plane in zip(outputs, restored, strict=True):
            write_image(path, plane)
        write_image(synthetic, drawn)
        return {"mask": self.sources[str(field.row["id"])], "row": row}

    def _measure(
        self, field: Field, image: np.ndarray, restored: np.ndarray, drawn: np.ndarray, plate: str, pixel_size: float
    ) -> dict[str, Any]:
        """PhIRM of the restored against the input, and the nuclei of the first channel in both."""
        row = {**self._about(field), "restored_share": float(drawn.mean())}
        channel, scaling = self.predictor.channels[0], self.predictor.scaling
        pair = [
            torch.from_numpy(scaling.apply(picture[0], plate, channel))[None, None] for picture in (restored, image)
        ]
        size = torch.full((1, 2), pixel_size)
        row |= {f"phirm/{key}": float(value[0]) for key, value in self.phirm.measure(*pair, pixel_size=size).items()}
        threshold, background = ruler(image[0], drawn)
        before = measure_objects(image[0], drawn, threshold, background, pixel_size)
        after = measure_objects(restored[0], drawn, threshold, background, pixel_size)
        row |= summary(before, "input") | summary(after, "restored")
        row |= field_quality(image[0], pixel_size)
        row["objects_touching"] = int(after["Touches_Synthetic"].sum())
        named = {key: row[key] for key in ("id", "plate", "well", "field") if key in row}
        with replacing(field.beside[0]) as temporary:
            pd.DataFrame([named] * len(after)).join(after).to_csv(temporary, index=False)
        return row

    def images(self, name: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Input and restored first channel and the synthetic pixels of a field that is done, Y X each."""
        field = next(field for field in self.fields if str(field.row["id"]) == name)
        synthetic = read_image(field.outputs[-1], allow_constant=True)
        return read_image(field.images[0]), read_image(field.outputs[0], allow_constant=True), synthetic

    def _write_tables(self, table: pd.DataFrame) -> None:
        with replacing(self.out / "per_image.csv") as temporary:
            table.to_csv(temporary, index=False)
        objects = [pd.read_csv(field.beside[0]) for field in self.fields]
        filled = [one for one in objects if len(one)]
        with replacing(self.out / "objects.csv") as temporary:
            (pd.concat(filled) if filled else objects[0]).to_csv(temporary, index=False)
        index = self.index.assign(parent=self.index["id"], id=self.index["id"] + "_restored")
        for number, channel in enumerate(self.predictor.channels):
            index[f"image_{channel}"] = [str(field.outputs[number]) for field in self.fields]
        index["mask_synthetic"] = [str(field.outputs[-1]) for field in self.fields]
        write_index(index, self.out / "index.csv")
