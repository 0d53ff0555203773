"""Whole test fields, predicted and measured as their crops are: what an image is to a laboratory."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
import torch

from ..imaging.pixelsize import rescale
from ..imaging.tiling import stitch
from .subject import Subject

TILE = 768  # greatest side in pixels; a network whose border is wide has larger ones


class WholeFields:
    """The fields of a subject's test crops, whole: an object that crops cut in two is one.

    Fields are scaled as a whole, and resized as crops are. A network draws them tile by tile and gives what predict.py
    gives: that of the whole field, mirrored beyond its edge. So memory holds one field and one tile. The null draws the
    stain of a field of the same size of another well.
    """

    def __init__(self, subject: Subject) -> None:
        self.subject = subject
        self.patches = subject.datamodule.patches("test")
        self._first: dict[str, int] = {}  # id of a field to the number of its first crop
        for number in range(len(self.patches)):
            self._first.setdefault(self.patches.field(number), number)

    def judge(self, name: str | None) -> pd.DataFrame:
        """The table of a method (None is the model), a row per field: id, group, method and every metric."""
        assert self.subject.module is not None
        module = self.subject.module(name)
        rows = []
        for field in sorted(self._first):
            batch = self.batch(field)
            outputs = {"prediction": self.predict(module, batch)}
            row = {"id": field, "group": batch["group"][0]}
            for key, measured in self.subject.metrics.items():
                if "test" in measured.stages:
                    values = measured.metric.measure(**measured.read(outputs, batch))
                    row |= {f"{key}/{part}": float(value) for part, value in values.items()}
            rows.append(row)
        return pd.DataFrame(rows).assign(method=name or type(module).__name__)

    def batch(self, field: str) -> dict[str, Any]:
        """A field, by its id, as a batch: source, target and donor 1 C Y X in [0, 1], pixel_size 1 2, id, group."""
        number = self._first[field]
        row, index = self.patches.windows[number][0], self.patches.reader.index
        other = self.patches.donor(row, self.patches.rng_of(0, number), self.patches.stranger)
        planes, sources = self._scaled(row), self.patches.sources
        width = self.patches.zoom.scale * float(index["pixel_size"].iloc[row])
        return {
            "id": [field],
            "group": [str(index["group"].iloc[row])],
            "source": planes[:, :sources],
            "target": planes[:, sources:],
            "donor": self._scaled(other)[:, sources:],
            "pixel_size": torch.full((1, 2), width),
        }

    def predict(self, module: Any, batch: Mapping[str, Any]) -> torch.Tensor:
        """What a method draws of a field, 1 T Y X."""
        if not hasattr(module, "net"):  # a null
            return module.test_step(batch, 0)["prediction"]
        net, source = module.net, batch["source"][0].numpy()
        device = "cuda" if torch.cuda.is_available() else "cpu"
        module.eval().to(device)

        def draw(tiles: np.ndarray) -> np.ndarray:
            with torch.inference_mode():
                return module(torch.from_numpy(tiles).to(device)).cpu().numpy()

        around = max(source.shape[1:]) + 2 * net.border
        size = min(around + -around % net.divisor, max(TILE, 4 * net.border))
        drawn = stitch(draw, source, size, "exact", net.border, net.divisor, batch_size=1)
        module.cpu()
        return torch.from_numpy(drawn)[None]

    def _scaled(self, row: int) -> torch.Tensor:
        """All channels of a field on the grid of the patches, 1 C Y X float32 in [0, 1]."""
        patches, factor = self.patches, 1 / self.patches.zoom.scale
        plate = str(patches.reader.index["plate"].iloc[row])
        planes = []
        for name, image in zip(patches.reader.channels, patches.reader.image(row), strict=True):
            scaled = patches.scaling.apply(image, plate, name, image)
            planes.append(scaled if factor == 1 else rescale(scaled, factor, name in patches.reader.nearest))
        return torch.from_numpy(np.stack(planes)[None])
