"""Measures predictions while any module is validated or tested."""

from collections.abc import Sequence
from typing import Any

import pandas as pd
import pytorch_lightning as pl
import torch
import torch.distributed as dist
from torch import Tensor

from ..metrics import ImageMetric

STAGES = ("val", "test")


class Measured:
    """A metric, the fields it reads (of the batch and of the module's outputs), and when it is measured.

    A field that a batch lacks is passed as None only where it is listed in `optional`.
    """

    def __init__(
        self,
        metric: ImageMetric,
        fields: Sequence[str],
        optional: Sequence[str] = (),
        stages: Sequence[str] = STAGES,
    ) -> None:
        if unknown := set(stages) - set(STAGES):
            raise ValueError(f"metrics: stages {sorted(unknown)} are unknown; they are {STAGES}")
        self.metric, self.fields, self.optional, self.stages = metric, tuple(fields), tuple(optional), tuple(stages)

    def read(self, outputs: dict[str, Any], batch: dict[str, Any]) -> dict[str, Tensor | None]:
        """The metric's arguments."""
        found = {**batch, **outputs}
        if missing := [name for name in self.fields if name not in found]:
            raise ValueError(
                f"{type(self.metric).__name__} reads {missing[0]!r}, which neither batch nor outputs hold (there are: "
                f"{', '.join(sorted(found))}): choose metrics that fit the data, such as metrics=translation for pairs"
            )
        # Measured on the CPU: the work is NumPy's and float64, which not every accelerator has.
        values = {name: found.get(name) for name in (*self.fields, *self.optional)}
        return {name: value.detach().cpu() if isinstance(value, Tensor) else value for name, value in values.items()}


class PhenotypeMetrics(pl.Callback):
    """Holds the metrics of the config, measures every batch once, logs the aggregates and keeps a table of images.

    Logged as `val/<metric>/<key>` and `test/<metric>/<key>`. After a test, `table` has a row per image (`id`, `group`,
    `mask_area`, `<metric>/<key>` ...), gathered over all processes and sorted by id.
    """

    def __init__(self, metrics: dict[str, Measured]) -> None:
        self.metrics = metrics
        self.rows: list[dict[str, Any]] = []
        self.table = pd.DataFrame()

    def _start(self, pl_module: pl.LightningModule) -> None:
        self.rows = []
        for measured in self.metrics.values():
            measured.metric.reset()
            if pl_module.device.type == "cuda":  # where sums over processes are taken
                measured.metric.to(pl_module.device)

    @torch.no_grad()
    def _measure(self, stage: str, outputs: Any, batch: dict[str, Any]) -> None:
        area = batch["mask"].mean(dim=(1, 2, 3)).tolist() if "mask" in batch else [float("nan")] * len(batch["id"])
        rows = [
            {"id": name, "group": group, "mask_area": share}
            for name, group, share in zip(batch["id"], batch["group"], area, strict=True)
        ]
        for name, measured in self.metrics.items():
            if stage not in measured.stages:
                continue
            values = measured.metric.measure(**measured.read(outputs, batch))
            measured.metric.add(values)
            for key, per_image in values.items():
                for row, value in zip(rows, per_image.tolist(), strict=True):
                    row[f"{name}/{key}"] = value
        self.rows.extend(rows)

    def _finish(self, stage: str, pl_module: pl.LightningModule) -> None:
        results: dict[str, float] = {}
        for name, measured in self.metrics.items():
            if stage in measured.stages:
                results |= {f"{stage}/{name}/{key}": float(value) for key, value in measured.metric.compute().items()}
        # Every process has computed the same numbers: the metrics' states are already summed over all of them.
        pl_module.log_dict(results, rank_zero_only=False, sync_dist=False)
        gathered: list[Any] = [self.rows]
        if dist.is_available() and dist.is_initialized():
            gathered = [None] * dist.get_world_size()
            dist.all_gather_object(gathered, self.rows)
        rows = [row for part in gathered for row in part]
        self.table = pd.DataFrame(rows).sort_values("id", ignore_index=True) if rows else pd.DataFrame()

    def on_validation_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._start(pl_module)

    def on_validation_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, *_: Any
    ) -> None:
        self._measure("val", outputs, batch)

    def on_validation_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._finish("val", pl_module)

    def on_test_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._start(pl_module)

    def on_test_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, *_: Any
    ) -> None:
        self._measure("test", outputs, batch)

    def on_test_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._finish("test", pl_module)
