"""What all metrics of images share: measured per image once, averaged over every image of every process."""

import inspect
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric


class ImageMetric(Metric):
    """Average of per-image measurements; images for which a key is NaN (not defined) do not count for that key.

    A subclass sets `names` and defines `measure`. Sums and counts are float64 and are added up over processes, so
    that one process and several give the same number.
    """

    names: tuple[str, ...] = ()
    full_state_update = False
    is_differentiable = False
    sums: Tensor
    counts: Tensor

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        zeros = torch.zeros(len(self.names), dtype=torch.float64)
        self.add_state("sums", zeros, dist_reduce_fx="sum")
        self.add_state("counts", zeros.clone(), dist_reduce_fx="sum")

    def measure(self, **fields: Any) -> dict[str, Tensor]:
        """Measure each image of a batch: every key of `names`, float64 of shape B, NaN where not defined."""
        raise NotImplementedError(f"{type(self).__name__} must define measure")

    def select(self, fields: Mapping[str, Any]) -> dict[str, Any]:
        """Pick from a batch the fields that `measure` reads."""
        return {name: fields[name] for name in inspect.signature(self.measure).parameters if name in fields}

    def update(self, *, rows: Mapping[str, Tensor] | None = None, **fields: Any) -> None:
        """Add a batch, given by its fields (a whole batch may be passed) or by what `measure` made of it."""
        rows = self.measure(**self.select(fields)) if rows is None else rows
        table = torch.stack([rows[name].to(self.sums) for name in self.names])
        self.sums += table.nansum(dim=1)
        self.counts += (~table.isnan()).sum(dim=1)

    def add(self, rows: Mapping[str, Tensor]) -> None:
        """Add images already measured, so that a table per image and the average come from one measurement."""
        self.update(rows=rows)

    def compute(self) -> dict[str, Tensor]:
        """Give each key's mean over the images for which it is defined; NaN where there is none."""
        return dict(zip(self.names, self.sums / self.counts, strict=True))
