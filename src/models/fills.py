"""Nulls and classical methods as models without weights, so that they pass through the same evaluation as a network."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch

from ..imaging import fills

METHODS = {
    "background_median": "null",
    "other_field": "null",
    "rotated_hole": "null",
    "telea": "classical",
    "navier_stokes": "classical",
    "biharmonic": "classical",
}
NEEDS = {"other_field": "donor", "rotated_hole": "target"}  # the batch key a method reads beside source and mask


class Fill(pl.LightningModule):
    """Fill the hole of every channel by a method without weights; see `imaging.fills` for what each does.

    The batch gives source `B C Y X` float32 in [0, 1] and mask `B 1 Y X` (1 = hole), donor or target where the method
    reads it. The prediction `B C Y X` is the composite: known pixels are the source's, bit for bit. Raises ValueError
    for an unknown method and KeyError for a batch that lacks what the method reads.
    """

    def __init__(self, method: str = "background_median") -> None:
        super().__init__()
        if method not in METHODS:
            raise ValueError(f"there is no fill {method!r}: choose one of {', '.join(METHODS)}")
        self.name = method
        self.kind = METHODS[method]
        self._fill: Callable[..., np.ndarray] = getattr(fills, method)

    def forward(self, source: torch.Tensor, mask: torch.Tensor, extra: torch.Tensor | None = None) -> torch.Tensor:
        """Fill source `B C Y X` under mask `B 1 Y X`; `extra` (`B C Y X`) is the donor or the target."""
        others = [] if extra is None else [_numpy(extra)]
        images, holes = _numpy(source), _numpy(mask)[:, 0] > 0.5
        filled = np.empty_like(images)
        for sample, channel in np.ndindex(images.shape[:2]):
            arguments = [other[sample, channel] for other in others]
            filled[sample, channel] = self._fill(images[sample, channel], holes[sample], *arguments)
        return torch.from_numpy(filled).to(source.device)

    def _step(self, batch: dict[str, Any], batch_idx: int) -> dict[str, torch.Tensor]:
        needed = ["source", "mask", *([NEEDS[self.name]] if self.name in NEEDS else [])]
        if missing := [key for key in needed if key not in batch]:
            raise KeyError(
                f"{self.name} reads {', '.join(needed)}, but the batch lacks {', '.join(missing)}: "
                "switch it on in the data config or leave this method out"
            )
        return {"prediction": self(*(batch[key] for key in needed))}

    validation_step = test_step = predict_step = _step


class OtherImage(pl.LightningModule):
    """A null for translation: the targets of another well (the batch's `donor`, B T Y X) are the prediction.

    It knows how a stain looks and nothing of this image: what it scores, a score gives for nothing.
    """

    name = "other_image"

    def test_step(self, batch: dict[str, Any], batch_idx: int) -> dict[str, torch.Tensor]:
        return {"prediction": batch["donor"]}

    validation_step = predict_step = test_step


def _numpy(tensor: torch.Tensor) -> np.ndarray:
    return tensor.detach().cpu().float().numpy()
