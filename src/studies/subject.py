"""What a study is asked about: data, and a trained model where there is one."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
import pandas as pd

from ..imaging.tiles import Zoom
from .result import StudyResult


class Judge(Protocol):
    """Gives the per-image table of a method on the test split, or on `samples` (a dataset indexed (epoch, number))."""

    def __call__(self, name: str | None, samples: Any = None) -> pd.DataFrame: ...


Example = Callable[[list[str]], Mapping[str, Mapping[str, np.ndarray]]]


class Origin(NamedTuple):
    """Where a method comes from: its class, checkpoint, training seed, samples and seconds of training (0 for a fill),
    whether test wells were in its training or validation, all wells (plate:well) that were, and how its patches were
    cut (imaging.tiles.Zoom; None where it does not matter)."""

    network: str
    path: Path | None = None
    seed: int | None = None
    samples: float = 0
    seconds: float = 0.0
    leaky: bool = False
    wells: frozenset[str] = frozenset()
    zoom: Zoom | None = None


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
    """A DataModule that is set up; and of a trained model, and of rivals beside it, what a study may ask.

    A method's name is None (the model), a fill's, or the path of a checkpoint. `judge(name)` gives its per-image table,
    `module(name)` the LightningModule on the CPU, whose test_step gives the prediction, and `origin(name)` where it
    comes from; both refuse (ValueError) a checkpoint that does not fit the data. Modules are built when asked for and
    not kept. `metrics` are what `judge` measures, those of the config (callbacks.Measured by name). `example(ids)`
    gives source, mask, prediction and target (Y X, [0, 1]) of named samples; `predictor` restores whole fields. None,
    and no metrics, without a model.
    """

    datamodule: Any = None
    judge: Judge | None = None
    module: Callable[[str | None], Any] | None = None
    origin: Callable[[str | None], Origin] | None = None
    example: Example | None = None
    predictor: Any = None
    leaky_split: bool = False
    metrics: Mapping[str, Any] = field(default_factory=dict)

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
    of_pairs = False  # whether it judges translations of pairs, not fills of holes
    across: tuple[str, ...] = ()  # what checkpoints judged beside the model may differ in: keys of data

    def check(self, datamodule: Any) -> None:
        """Refuses, before anything trains or is judged, data that the study cannot use (ValueError).

        Here: pairs for a study of holes, and images with holes for one of translations.
        """
        if datamodule.of_pairs == self.of_pairs:
            return
        name = type(self).__name__
        if self.of_pairs:
            raise ValueError(
                f"{name} judges predicted stains, and these data have no targets: give pairs (data=pairs with "
                "data.sources and data.targets, or data=virtual_pairs), or choose study=restoration"
            )
        raise ValueError(
            f"{name} judges how holes are filled, and pairs have none: choose study=translation, or data with holes "
            "(data=hcs_nuclei or data=virtual)"
        )

    def run(self, subject: Subject) -> StudyResult:
        raise NotImplementedError(f"{type(self).__name__} must define run")
