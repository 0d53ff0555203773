"""One image translated into another: transmitted light into fluorescence."""

import math
from functools import partial
from typing import Any, Literal

import pytorch_lightning as pl
import torch
from torch import Tensor, nn

from .holes import fitted
from .image_losses import ImageLoss

# The thesis' (section 3.1.5.3). Adadelta's constants are those of Keras, which LaChance & Cohen trained with; SGD's
# rate is not stated and is Keras', too.
OPTIMIZERS: dict[str, Any] = {
    "sgd": partial(torch.optim.SGD, lr=0.01),
    "adam": partial(torch.optim.Adam, lr=1e-4),
    "adadelta": partial(torch.optim.Adadelta, lr=1.0, rho=0.95, eps=1e-7),
}
CONSTANTS = ("lr", "weight_decay", "rho", "eps", "betas", "momentum")


class Translator(pl.LightningModule):
    """A network from source (B C Y X) to target (B T Y X), both in [0, 1], trained with one image loss.

    `net` has `in_channels`, `out_channels`, a `divisor` of the sides that it takes, `embed`, and `bounded` where its
    output lies in [0, 1] by itself. Images of other sides are mirrored beyond their lower and right border, and the
    prediction is cut back. `lr` null is the optimizer's in the thesis; `weight_decay` adds an L2 penalty to the
    gradient. `schedule` keeps the rate (thesis), or lowers it step by step to 0 at the end of the run along half a
    cosine. `init_from` names a checkpoint to take the first weights from.

    LaChance & Cohen trained on images with mean 0 and variance 1. Here every network sees [0, 1]; what theirs draws
    outside it is left to the loss in training and clamped in evaluation.

    Raises ValueError where the settings do not fit each other, or the batch.
    """

    of_pairs: bool | None = True  # the data it learns from (Fields.of_pairs); None: either kind

    def __init__(
        self,
        net: nn.Module,
        loss: ImageLoss,
        in_channels: int = 1,
        out_channels: int = 1,
        optimizer: Literal["sgd", "adam", "adadelta"] = "adadelta",
        lr: float | None = None,
        weight_decay: float = 0.0,
        schedule: Literal["constant", "cosine"] = "constant",
        init_from: str | dict[str, str] | None = None,
    ) -> None:
        super().__init__()
        for name, asked in {"in_channels": in_channels, "out_channels": out_channels}.items():
            if getattr(net, name) != asked:
                raise ValueError(f"model.{name} is {asked} and model.net's {getattr(net, name)}: they must agree")
        if loss.bounded and not net.bounded:
            raise ValueError(
                f"model.loss ({type(loss).__name__}, as it is set) takes predictions in [0, 1] alone, and the output "
                f"of model.net ({type(net).__name__}) has no bound: choose another loss or model=labelfree_unet"
            )
        if not 0 <= weight_decay < 1:
            raise ValueError(f"model.weight_decay is {weight_decay}: 0 or more and less than 1 is meant")
        # Channels-last memory is the faster layout for convolutions on CPUs and GPUs alike.
        self.net: Any = net.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.loss, self.in_channels, self.init_from = loss, in_channels, init_from
        self.optimizer, self.lr, self.weight_decay, self.schedule = optimizer, lr, weight_decay, schedule

    def forward(self, source: Tensor) -> Tensor:
        """Source B C Y X to the prediction B T Y X, float32, both in [0, 1]; any size."""
        return self._draw(source).float().clamp(0, 1)

    def embed(self, source: Tensor) -> Tensor:
        """The network's bottleneck for a source B C Y X, B D y x in float32."""
        return self.net.embed(self._fitted(source)).float()

    def _draw(self, source: Tensor) -> Tensor:
        return self.net(self._fitted(source))[..., : source.shape[-2], : source.shape[-1]]

    def _fitted(self, source: Tensor) -> Tensor:
        if source.shape[1] != self.in_channels:
            raise ValueError(
                f"source has {source.shape[1]} planes and model.in_channels is {self.in_channels}: they must agree"
            )
        return fitted(source, self.net.divisor)

    def aim(self, batch: dict[str, Any]) -> Tensor:
        """What the prediction of a batch should be, B T Y X."""
        return batch["target"]

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> Tensor:
        loss = self.loss(self._draw(batch["source"]), self.aim(batch))
        self.log("train/loss", loss, prog_bar=True, batch_size=len(batch["source"]))
        return loss

    def validation_step(self, batch: dict[str, Any], batch_idx: int) -> dict[str, Tensor]:
        return {"prediction": self(batch["source"])}

    test_step = predict_step = validation_step

    def configure_optimizers(self) -> Any:
        optimizer = self._optimizer()
        if self.schedule == "constant":
            return optimizer
        steps = self.trainer.estimated_stepping_batches
        if not math.isfinite(steps):
            raise ValueError("model.schedule=cosine needs an end to come down to: set trainer.max_epochs or max_steps")
        scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, int(steps))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    def _optimizer(self) -> torch.optim.Optimizer:
        rate = {} if self.lr is None else {"lr": self.lr}
        return OPTIMIZERS[self.optimizer](self.parameters(), weight_decay=self.weight_decay, **rate)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        given = self._optimizer().param_groups[0]
        ends = [schedule.get("T_max") for schedule in checkpoint["lr_schedulers"]]
        saved, own = (
            {name: group[name] for name in CONSTANTS if name in group} | {"lr": group.get("initial_lr", group["lr"])}
            for group in (checkpoint["optimizer_states"][0]["param_groups"][0], given)
        )
        saved["schedule"], own["schedule"] = "cosine" if ends else "constant", self.schedule
        if saved != own:
            raise ValueError(
                f"this run was optimized with {saved}, not {own}: go on with the same model.optimizer, model.lr, "
                "model.schedule and model.weight_decay, or start a new run from these weights with "
                "model.init_from={net: ...}"
            )
        if ends and ends[0] != self.trainer.estimated_stepping_batches:
            raise ValueError(
                f"this run's rate comes down to 0 at step {ends[0]}, and these settings end at step "
                f"{self.trainer.estimated_stepping_batches:g}: go on with the same trainer.max_epochs and data, or "
                "start a new run from these weights with model.init_from={net: ...}"
            )
