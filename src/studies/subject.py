"""What a study is asked about: data, and a trained model where there is one."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from .result import StudyResult

Judge = Callable[[str | None], pd.DataFrame]
Example = Callable[[list[str]], Mapping[str, Mapping[str, np.ndarray]]]


class FieldOfView(NamedTuple):
    """A whole field: `group` is its well ("plate:well"), `pixel_size` micrometres, `image` Y X in camera counts of the
    first channel, `objects` int32 Y X true instances where the index names them."""

    id: str
    group: str
    plate: str
    well: str
    pixel_size: float
    image: np.ndarray
    objects: np.ndarray | None


@dataclass
class Subject:
    """A DataModule that is set up; and of a trained model what a study may ask.

    `judge(name)` gives the per-image table of the model (None) or of a fill by name; `example(ids)` gives source, mask,
    prediction and target (Y X, [0, 1]) of named samples; `predictor` restores whole fields. None without a model.
    """

    datamodule: Any = None
    judge: Judge | None = None
    example: Example | None = None
    predictor: Any = None
    leaky_split: bool = False

    def fields(self, split: str = "test") -> Iterator[FieldOfView]:
        """Whole fields of one split, in the order of the index."""
        index, reader = self.datamodule.index, self.datamodule.reader
        for row in np.flatnonzero(index["split"] == split):
            entry = index.iloc[row]
            yield FieldOfView(
                str(entry["id"]),
                str(entry["group"]),
                str(entry["plate"]),
                str(entry["well"]),
                float(entry["pixel_size"]),
                reader.image(row)[0],
                reader.labels(row),
            )


class Study:
    """A question asked of a subject; `needs_model` says whether it can be asked without a checkpoint."""

    needs_model = True

    def check(self, datamodule: Any) -> None:
        """Refuses, before anything trains or is judged, data that the study cannot use (ValueError)."""

    def run(self, subject: Subject) -> StudyResult:
        raise NotImplementedError(f"{type(self).__name__} must define run")
