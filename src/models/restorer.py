"""A regression restorer: one network, one pixel loss."""

from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor

from .holes import hide, paste
from .nets.unet import UNet


class Restorer(pl.LightningModule):
    """A U-Net that sees the image with its hole and the hole's mask, trained with an L2 loss.

    The mean squared error is taken inside the hole and, weighted by `known_weight`, outside it. `in_channels` is the
    number of image channels; `init_from` names a checkpoint to take the first weights from. Evaluation returns the
    composite in [0, 1] as `prediction`.
    """

    def __init__(
        self,
        in_channels: int = 1,
        widths: tuple[int, ...] = (16, 32, 64, 64),
        lr: float = 2e-3,
        known_weight: float = 0.1,
        init_from: str | dict[str, str] | None = None,
    ) -> None:
        super().__init__()
        # Channels-last memory is the faster layout for convolutions on CPUs and GPUs alike.
        self.net = UNet(in_channels + 1, in_channels, tuple(widths))
        self.net.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.lr, self.known_weight, self.init_from = lr, known_weight, init_from

    def forward(self, source: Tensor, mask: Tensor) -> Tensor:
        """Source B C Y X in [0, 1] and mask B 1 Y X to the raw restoration B C Y X."""
        return self.net(torch.cat([hide(source, mask), mask], dim=1))

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> Tensor:
        error = (self(batch["source"], batch["mask"]) - batch["target"]).square()
        weight = batch["mask"] + self.known_weight * (1 - batch["mask"])
        loss = (error * weight).sum() / (weight.sum() * error.shape[1])
        self.log("train/loss", loss, prog_bar=True, batch_size=len(error))
        return loss

    def validation_step(self, batch: dict[str, Any], batch_idx: int) -> dict[str, Tensor]:
        raw = self(batch["source"], batch["mask"]).float()
        return {"prediction": paste(raw, batch["source"], batch["mask"]), "raw": raw}

    test_step = predict_step = validation_step

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        planned, asked = checkpoint["lr_schedulers"][0]["total_steps"], int(self.trainer.estimated_stepping_batches)
        if planned != asked:
            raise ValueError(
                f"the learning rate of this run was planned for {planned} steps, not {asked}: go on with the same "
                "length, batch size and data, or start a new run from these weights with model.init_from={net: ...}"
            )

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.Adam(self.parameters(), lr=self.lr)
        steps = int(self.trainer.estimated_stepping_batches)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=self.lr, total_steps=steps)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}
