"""Predicts the stains of the fields of a plate, and watches along them whether what the model sees has changed."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
import pandas as pd

from ..imaging.files import replacing
from ..imaging.io import read_header, read_image, write_image
from ..imaging.organelles import segment
from ..metrics.readouts import readouts
from .fieldrun import Field, FieldRun
from .stain import StainPredictor
from .trained import resized

log = logging.getLogger(__name__)

READOUTS = "phenokeep.metrics.Readouts"
WHICH = ("id", "plate", "well", "field")
LEAST_SPAN = 100  # counts: a narrower range would lose its steps as whole numbers


class Seen(Protocol):
    """What a detector says of the newest observation (studies/drift.DriftState)."""

    @property
    def statistic(self) -> float: ...

    @property
    def threshold(self) -> float: ...

    @property
    def drift(self) -> bool: ...


class Detector(Protocol):
    """What watches a stream of embeddings D, one for each field (studies/drift.OnlineMMD)."""

    window: int
    expected_run_time: float
    in_control: dict[str, Any]

    def update(self, x: np.ndarray) -> Seen: ...


class Organelle(NamedTuple):
    """What is read from a predicted stain: the columns' prefix, the target's number and how it is segmented."""

    prefix: str
    target: int
    name: str
    segmentation: dict[str, float | None]


def organelles(metrics: Mapping[str, Any], targets: list[str]) -> list[Organelle]:
    """The readouts of a config's metrics, a prefix each: the target's name, with the metric's where it has several.

    Raises ValueError for a channel that is no target.
    """
    found = {name: node["metric"] for name, node in metrics.items() if node and node["metric"]["_target_"] == READOUTS}
    numbers = {name: int(node.get("channel", 0)) for name, node in found.items()}
    for name, number in numbers.items():
        if not 0 <= number < len(targets):
            raise ValueError(f"metrics.{name}.metric.channel is {number}: the targets are 0 to {len(targets) - 1}")
    several = Counter(numbers.values())
    return [
        Organelle(
            targets[numbers[name]] + (f"_{name}" if several[numbers[name]] > 1 else ""),
            numbers[name],
            node["organelle"],
            dict(node.get("segmentation") or {}),
        )
        for name, node in found.items()
    ]


class StainRun(FieldRun[StainPredictor]):
    """One plate through one translation model, into one folder: see `FieldRun`.

    `<out>/predicted/` holds an image per field and target, <id>_<target>.tif: uint16 counts where the range of the
    target is known, else float32. `fields.csv` has a row per field: what `readouts` measures on it, at the pixel size
    at which the model was trained (`measured_pixel_size`), and with a `detector` its statistic, threshold and alarm.
    An alarm does not start its window anew: fields are flagged as long as the window differs.
    """

    DOING, DONE = "predicting", "predicted"
    WHERE = "predicted"

    def __init__(
        self,
        predictor: StainPredictor,
        index: pd.DataFrame,
        out: Path,
        record: dict[str, Any],
        rescale: bool,
        measured: list[Organelle],
        detector: Detector | None = None,
    ) -> None:
        super().__init__(predictor, index, out, record, rescale)
        self.measured, self.detector = measured, detector
        self._take(self._places(row) for _, row in index.iterrows())
        if detector:
            for field in self.fields:
                factor = predictor.resampling(float(field.row["pixel_size"]), rescale)
                predictor.check_crops(tuple(round(side * factor) for side in read_header(field.images[0]).shape))

    def _places(self, row: pd.Series) -> Field:
        images = [Path(row[f"image_{channel}"]) for channel in self.predictor.channels]
        return Field(row, images, images, [self.folder / f"{row['id']}_{name}.tif" for name in self.predictor.targets])

    def _done(self, field: Field, digests: dict[str, str]) -> dict[str, Any] | None:
        record = super()._done(field, digests)
        return record if record and (self.detector is None or record.get("embedding")) else None

    def _range(self, field: Field) -> dict[str, list[float]]:
        plate = str(field.row["plate"])
        limits = {name: self.predictor.target_range(name, plate)[0] for name in self.predictor.targets}
        return super()._range(field) | {name: ends for name, ends in limits.items() if ends}

    def _make(self, field: Field) -> dict[str, Any]:
        image, plate, size = self._read(field), str(field.row["plate"]), float(field.row["pixel_size"])
        embedding = self.predictor.embed(image, plate, size, self.rescale).tolist() if self.detector else None
        stains = [
            self._counts(stain, name, plate)
            for name, stain in zip(
                self.predictor.targets, self.predictor.predict(image, plate, size, self.rescale), strict=True
            )
        ]
        whose = {name: self.predictor.target_range(name, plate)[1] for name in self.predictor.targets}
        row = self._about(field) | self._measure(stains, plate, size)
        row["intensities"] = "; ".join(dict.fromkeys(whose.values()))
        for path, stain in zip(field.outputs, stains, strict=True):
            write_image(path, stain)
        return {"intensities": whose, "row": row, "embedding": embedding}

    def _counts(self, stain: np.ndarray, target: str, plate: str) -> np.ndarray:
        """A predicted stain as it is written: whole counts where its range is one of a camera."""
        limits, _ = self.predictor.target_range(target, plate)
        if limits is None or limits[0] < 0 or limits[1] > np.iinfo(np.uint16).max or np.ptp(limits) < LEAST_SPAN:
            return stain
        return np.rint(stain).astype(np.uint16)

    def _measure(self, stains: list[np.ndarray], plate: str, pixel_size: float) -> dict[str, float]:
        """The readouts of a field on the grid on which the model predicts, for whose pixels the segmentation is set."""
        factor = self.predictor.enlargement(pixel_size, self.rescale)
        row: dict[str, float] = {}
        for organelle in self.measured:
            image = resized(stains[organelle.target][None], factor)[0]
            low, high = self.predictor.target_range(self.predictor.targets[organelle.target], plate)[0] or (0.0, 1.0)
            # Segmented in [0, 1], as in training: a mask's threshold is a share.
            labels = segment((image - np.float32(low)) / (high - low), organelle.name, **organelle.segmentation)
            values = readouts(image, organelle.name, labels)
            values |= {name: int(values[name]) for name in ("count", "area")}
            row |= {f"{organelle.prefix}_{name}": value for name, value in values.items()}
        return row | ({"measured_pixel_size": pixel_size / factor} if self.measured else {})

    def _row(self, about: dict[str, Any], record: dict[str, Any]) -> dict[str, Any]:
        row = {name: about[name] for name in WHICH if name in about}
        if self.detector:
            state = self.detector.update(np.array(record["embedding"]))
            row |= {"drift_alarm": bool(state.drift), "drift_statistic": state.statistic}
            row["drift_threshold"] = state.threshold
        made = super()._row(about, record)
        return row | {name: value for name, value in made.items() if name not in about} | about

    def _write_tables(self, table: pd.DataFrame) -> None:
        with replacing(self.out / "fields.csv") as temporary:
            table.to_csv(temporary, index=False)
        if self.detector:
            flagged = table.loc[table["drift_alarm"], "id"]
            some = ", ".join(flagged[:5]) + (", ..." if len(flagged) > 5 else "")
            more = f" Do not rely on their predictions: {some}" if len(flagged) else ""
            log.info("drift: %d of %d fields are flagged.%s", len(flagged), len(table), more)

    def images(self, name: str) -> tuple[np.ndarray, list[np.ndarray]]:
        """First source and predicted stains of a field that is done, Y X each."""
        field = next(field for field in self.fields if str(field.row["id"]) == name)
        return read_image(field.images[0]), [read_image(path, allow_constant=True) for path in field.outputs]
