"""The fields of a plate through a model, one after the other, so that a run that stops anywhere can go on."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Generic, NamedTuple, TypeVar

import numpy as np
import pandas as pd
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TextColumn, TimeRemainingColumn
from rich.text import Text

from ..datamodules.layouts import TableError
from ..datamodules.platemap import VARIABLES
from ..imaging.io import read_image
from .provenance import read_record, same_origin, sha256_of, write_record
from .trained import Trained

log = logging.getLogger(__name__)

FITTED_FIELDS = 96  # of a plate, evenly spread: enough for two percentiles, and bounded in time on a whole screen
KEPT = ("plate", "well", "field", "group", "phenotype", *VARIABLES)
Model = TypeVar("Model", bound=Trained)


class Field(NamedTuple):
    """A field: its row of the index, what it is made from, and the files that stand when it is done.

    `images` are the channels in the model's order, `inputs` all files that decide the result, `outputs` the images that
    are written, `beside` what else is.
    """

    row: pd.Series
    images: list[Path]
    inputs: list[Path]
    outputs: list[Path]
    beside: tuple[Path, ...] = ()


class Speed(ProgressColumn):
    """Images per second of this run."""

    def render(self, task: Task) -> Text:
        return Text(f"{task.speed:.2f} images/s" if task.speed else "- images/s")


class FieldRun(Generic[Model]):
    """One plate through one model, into one folder; a subclass says what is made of a field (`_make`).

    `provenance/` holds a sidecar (JSON) per field. A field is done when its sidecar stands, which is written last; a
    field done with the same inputs, weights and settings is not done again. Raises TableError or ValueError before
    anything is made.
    """

    DOING, DONE = "", ""
    WHERE = ""  # the folder of the images that are made

    def __init__(self, predictor: Model, index: pd.DataFrame, out: Path, record: dict[str, Any], rescale: bool) -> None:
        self.predictor, self.index, self.out = predictor, index, out
        self.record, self.rescale = record, rescale
        if lacking := [name for name in predictor.channels if f"image_{name}" not in index]:
            have = [column.removeprefix("image_") for column in index if column.startswith("image_")]
            raise TableError(
                f"the model takes channel {lacking[0]!r}; the plate has: {', '.join(have)}. Give an index.csv with the "
                f"column image_{lacking[0]}"
            )
        for pixel_size in index["pixel_size"].unique():
            predictor.enlargement(float(pixel_size), rescale)

    @property
    def folder(self) -> Path:
        return self.out / self.WHERE

    def _take(self, fields: Iterable[Field]) -> None:
        self.fields = list(fields)
        outputs = pd.Series([str(path) for field in self.fields for path in field.outputs])
        if outputs.duplicated().any():
            raise TableError(
                f"two images would become {outputs[outputs.duplicated()].iloc[0]}: give one folder for all"
            )

    def run(self) -> pd.DataFrame:
        """Makes what is not done yet; returns the table of all fields and writes the tables beside the images.

        A KeyboardInterrupt leaves what is done, so that the same run goes on from there.
        """
        rows: list[dict[str, Any]] = []
        before = 0
        bar = Progress(TextColumn(self.DOING), BarColumn(), MofNCompleteColumn(), Speed(), TimeRemainingColumn())
        try:
            with bar:
                task = bar.add_task("", total=len(self.fields))
                self._fit_new_plates()
                for field in self.fields:
                    digests = {str(path): sha256_of(path) for path in field.inputs}
                    record = self._done(field, digests)
                    before += record is not None
                    rows.append(self._row(self._about(field), record or self._make_and_record(field, digests)))
                    bar.advance(task)
        except KeyboardInterrupt:
            log.info(
                "stopped with %d of %d fields done; the same command goes on from here", len(rows), len(self.fields)
            )
            raise
        if before:
            log.info("%d of %d fields had been %s by an earlier run of the same command", before, len(rows), self.DONE)
        table = pd.DataFrame(rows)
        self._write_tables(table)
        return table

    def _sidecar(self, field: Field) -> Path:
        return self.out / "provenance" / f"{field.row['id']}.json"

    def _done(self, field: Field, digests: dict[str, str]) -> dict[str, Any] | None:
        """The record of a field that is done."""
        record = read_record(self._sidecar(field))
        if record is None or not same_origin(record, self.record, digests) or record["range"] != self._range(field):
            return None
        if record["row"]["pixel_size"] != float(field.row["pixel_size"]):
            return None
        return record if all(path.is_file() for path in (*field.outputs, *field.beside)) else None

    def _make_and_record(self, field: Field, digests: dict[str, str]) -> dict[str, Any]:
        made = self._make(field)
        outputs = {str(path): sha256_of(path) for path in field.outputs}
        record = {"inputs": digests, "outputs": outputs, "range": self._range(field), **made}
        write_record(self._sidecar(field), {"id": str(field.row["id"]), **self.record, **record})
        return record

    def _make(self, field: Field) -> dict[str, Any]:
        """Writes what is made of a field; returns what its sidecar says of it, its row of the table as "row"."""
        raise NotImplementedError

    def _row(self, about: dict[str, Any], record: dict[str, Any]) -> dict[str, Any]:
        """The row of the table of the next field of the plate, in its order; `about` it, what the index says now."""
        return about | {name: value for name, value in record["row"].items() if name not in (*KEPT, *about)}

    def _write_tables(self, table: pd.DataFrame) -> None:
        raise NotImplementedError

    def _about(self, field: Field) -> dict[str, Any]:
        """The columns that say which field a row is of."""
        kept = {key: str(field.row[key]) for key in KEPT if key in field.row and pd.notna(field.row[key])}
        return {"id": str(field.row["id"]), **kept, "pixel_size": float(field.row["pixel_size"])}

    def _range(self, field: Field) -> dict[str, list[float]]:
        """The counts between which each channel of a field's plate is scaled."""
        return self.predictor.ranges(str(field.row["plate"]))

    def _read(self, field: Field) -> np.ndarray:
        """The channels of a field, C Y X."""
        images = [read_image(path) for path in field.images]
        if len({(image.shape, image.dtype) for image in images}) > 1:
            raise TableError(f"the channels of {field.row['id']} differ in size or type: export them alike")
        return np.stack(images)

    def _known(self, field: Field) -> Callable[[np.ndarray], np.ndarray]:
        """Picks the pixels of a plane Y X from which a range may be estimated."""
        return np.ravel

    def _fit_new_plates(self) -> None:
        """Plates that training did not see get one range each, from the pixels of their fields that are known."""
        plates = self.index["plate"].astype(str)
        for plate in plates.unique():
            rows = np.flatnonzero(plates == plate)
            rows = rows[np.linspace(0, len(rows) - 1, min(len(rows), FITTED_FIELDS)).astype(int)]
            for channel in self.predictor.by_plate:
                if known := self.predictor.scaling.ranges.get(plate, {}).get(channel):
                    log.info(
                        "plate %r, channel %r: scaled from %.0f to %.0f counts, as in training", plate, channel, *known
                    )
                    continue
                number = self.predictor.channels.index(channel)
                fields = (self.fields[row] for row in rows)
                self.predictor.fit_plate(
                    plate, channel, (self._known(field)(self._read(field)[number]) for field in fields)
                )
