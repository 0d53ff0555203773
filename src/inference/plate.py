"""Restores the fields of a plate, one after the other, so that a run that stops anywhere can go on."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TextColumn, TimeRemainingColumn
from rich.text import Text

from ..datamodules.layouts import TableError
from ..datamodules.tables import write_index
from ..imaging.files import replacing
from ..imaging.io import read_image, write_image
from .masks import Masks
from .objects import field_quality, measure_objects, ruler, summary
from .predictor import Predictor
from .provenance import read_record, same_origin, sha256_of, write_record

log = logging.getLogger(__name__)

FITTED_FIELDS = 96  # of a plate, evenly spread: enough for two percentiles, and bounded in time on a whole screen
KEPT = ("plate", "well", "field", "group", "compound", "concentration", "unit", "role", "replicate", "batch")


class Restored(NamedTuple):
    """A field that is done: its row of the index, the files of its channels in and out, and its synthetic pixels."""

    row: pd.Series
    inputs: list[Path]
    outputs: list[Path]
    synthetic: Path


class Speed(ProgressColumn):
    """Images per second of this run."""

    def render(self, task: Task) -> Text:
        return Text(f"{task.speed:.2f} images/s" if task.speed else "- images/s")


class PlateRun:
    """One plate through one model, into one folder.

    `<out>/restored/` holds the images under their own names, types and sizes; `synthetic/` a mask of the pixels that
    were drawn (TIFF, 255 = drawn); `provenance/` a sidecar (JSON) and `objects/` the nuclei per image. A field is done
    when its sidecar stands, which is written last; a field done with the same inputs, weights and settings is not done
    again.
    """

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
        self.predictor, self.index, self.masks, self.out = predictor, index, masks, out
        self.record, self.phirm, self.rescale = record, phirm, rescale
        if lacking := [name for name in predictor.channels if f"image_{name}" not in index]:
            have = [column.removeprefix("image_") for column in index if column.startswith("image_")]
            raise TableError(f"the model takes channel {lacking[0]!r}; the plate has: {', '.join(have)}")
        for pixel_size in index["pixel_size"].unique():
            predictor.enlargement(float(pixel_size), rescale)
        self.sources = masks.bind(index, predictor.channels[0])
        root = Path(index.attrs["root"])
        self.fields = [self._places(row, root) for _, row in index.iterrows()]
        outputs = pd.Series([str(path) for field in self.fields for path in field.outputs])
        if outputs.duplicated().any():
            raise TableError(
                f"two images would become {outputs[outputs.duplicated()].iloc[0]}: give one folder for all"
            )

    def _places(self, row: pd.Series, root: Path) -> Restored:
        inputs = [Path(row[f"image_{channel}"]) for channel in self.predictor.channels]
        names = [path.relative_to(root) if path.is_relative_to(root) else Path(path.name) for path in inputs]
        outputs = [self.out / "restored" / name for name in names]
        return Restored(row, inputs, outputs, self.out / "synthetic" / names[0].with_suffix(".tif"))

    def run(self) -> pd.DataFrame:
        """Restores what is not done yet; returns the table of all fields and writes the tables beside the images.

        A KeyboardInterrupt leaves what is done, so that the same run goes on from there.
        """
        rows: list[dict[str, Any]] = []
        before = 0
        bar = Progress(TextColumn("restoring"), BarColumn(), MofNCompleteColumn(), Speed(), TimeRemainingColumn())
        try:
            with bar:
                task = bar.add_task("", total=len(self.fields))
                self._fit_new_plates()
                for field, source in zip(self.fields, self.sources, strict=True):
                    digests = {str(path): sha256_of(path) for path in (*field.inputs, Path(source["path"]))}
                    done = self._done(field, digests)
                    before += done is not None
                    rows.append(done or self._restore(field, source, digests))
                    bar.advance(task)
        except KeyboardInterrupt:
            log.info(
                "stopped with %d of %d fields done; the same command goes on from here", len(rows), len(self.fields)
            )
            raise
        if before:
            log.info("%d of %d fields had been restored by an earlier run of the same command", before, len(rows))
        table = pd.DataFrame(rows)
        self._write_tables(table)
        return table

    def _sidecar(self, field: Restored) -> Path:
        return self.out / "provenance" / f"{field.row['id']}.json"

    def _objects(self, field: Restored) -> Path:
        return self.out / "objects" / f"{field.row['id']}.csv"

    def _done(self, field: Restored, digests: dict[str, str]) -> dict[str, Any] | None:
        record = read_record(self._sidecar(field))
        if record is None or not same_origin(record, self.record, digests) or record["range"] != self._range(field):
            return None
        whole = all(path.is_file() for path in (*field.outputs, field.synthetic, self._objects(field)))
        return record["row"] if whole else None

    def _range(self, field: Restored) -> dict[str, list[float]]:
        """The counts between which each channel of a field's plate is scaled."""
        ranges = self.predictor.scaling.ranges[str(field.row["plate"])]
        return {name: ranges[name] for name in self.predictor.channels}

    def _read(self, field: Restored, source: dict[str, Any]) -> tuple[np.ndarray, np.ndarray]:
        images = [read_image(path) for path in field.inputs]
        if len({(image.shape, image.dtype) for image in images}) > 1:
            raise TableError(f"the channels of {field.row['id']} differ in size or type: export them alike")
        return np.stack(images), self.masks.read(source)

    def _fit_new_plates(self) -> None:
        """Plates that training did not see get one range each, from the pixels outside the masks of their fields."""
        plates = self.index["plate"].astype(str)
        for plate in plates.unique():
            rows = np.flatnonzero(plates == plate)
            rows = rows[np.linspace(0, len(rows) - 1, min(len(rows), FITTED_FIELDS)).astype(int)]
            for number, channel in enumerate(self.predictor.channels):
                if known := self.predictor.scaling.ranges.get(plate, {}).get(channel):
                    log.info(
                        "plate %r, channel %r: scaled from %.0f to %.0f counts, as in training", plate, channel, *known
                    )
                    continue
                pairs = (self._read(self.fields[row], self.sources[row]) for row in rows)
                self.predictor.fit_plate(plate, channel, (image[number][mask == 0] for image, mask in pairs))

    def _restore(self, field: Restored, source: dict[str, Any], digests: dict[str, str]) -> dict[str, Any]:
        image, mask = self._read(field, source)
        plate, pixel_size = str(field.row["plate"]), float(field.row["pixel_size"])
        restored = self.predictor.predict(image, mask, plate, pixel_size, self.rescale)
        drawn = (mask != 0) & bool((mask == 0).any())  # nothing is drawn where nothing is known
        row = self._measure(field, image, restored, drawn, plate, pixel_size)
        for path, plane in zip(field.outputs, restored, strict=True):
            write_image(path, plane)
        write_image(field.synthetic, drawn)
        outputs = {str(path): sha256_of(path) for path in (*field.outputs, field.synthetic)}
        own = {"inputs": digests, "outputs": outputs, "mask": source, "range": self._range(field), "row": row}
        write_record(self._sidecar(field), {"id": str(field.row["id"]), **self.record, **own})
        return row

    def _measure(
        self, field: Restored, image: np.ndarray, restored: np.ndarray, drawn: np.ndarray, plate: str, pixel_size: float
    ) -> dict[str, Any]:
        """PhIRM of the restored against the input, and the nuclei of the first channel in both."""
        row: dict[str, Any] = {"id": str(field.row["id"])}
        row |= {key: str(field.row[key]) for key in KEPT if key in field.row and pd.notna(field.row[key])}
        row |= {"pixel_size": pixel_size, "restored_share": float(drawn.mean())}
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
        with replacing(self._objects(field)) as temporary:
            pd.DataFrame([named] * len(after)).join(after).to_csv(temporary, index=False)
        return row

    def images(self, name: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Input and restored first channel and the synthetic pixels of a field that is done, Y X each."""
        field = next(field for field in self.fields if str(field.row["id"]) == name)
        synthetic = read_image(field.synthetic, allow_constant=True)
        return read_image(field.inputs[0]), read_image(field.outputs[0], allow_constant=True), synthetic

    def _write_tables(self, table: pd.DataFrame) -> None:
        with replacing(self.out / "per_image.csv") as temporary:
            table.to_csv(temporary, index=False)
        objects = [pd.read_csv(self._objects(field)) for field in self.fields]
        filled = [one for one in objects if len(one)]
        with replacing(self.out / "objects.csv") as temporary:
            (pd.concat(filled) if filled else objects[0]).to_csv(temporary, index=False)
        index = self.index.assign(parent=self.index["id"], id=self.index["id"] + "_restored")
        for number, channel in enumerate(self.predictor.channels):
            index[f"image_{channel}"] = [str(field.outputs[number]) for field in self.fields]
        index["mask_synthetic"] = [str(field.synthetic) for field in self.fields]
        write_index(index, self.out / "index.csv")
