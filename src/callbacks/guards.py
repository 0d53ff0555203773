"""What stops a run before it does harm: a loss that is no number, a disk without room; or warns of one that is dead."""

import logging
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import ModelCheckpoint
from pytorch_lightning.utilities import rank_zero_only
from torch import Tensor

from .checkpoints import Last

log = logging.getLogger(__name__)


class NotFinite(ValueError):
    """A loss or a weight that is NaN or infinite; the message names the step and, of a loss, the batch."""


class FiniteLoss(pl.Callback):
    """Stops a run at a loss that is NaN or infinite, before its gradient is taken, and keeps such weights off the disk.

    Lightning calls `on_before_backward` under automatic and manual optimisation alike. With several processes all stop
    together. Raises NotFinite.
    """

    def __init__(self) -> None:
        self._ids: list[str] = []

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        self._ids = list(batch["id"])

    def on_before_backward(self, trainer: pl.Trainer, pl_module: pl.LightningModule, loss: Tensor) -> None:
        wrong = not bool(torch.isfinite(loss).all())
        if trainer.strategy.reduce_boolean_decision(wrong, all=False):
            what = f"{float(loss.detach())}, in the batch of {', '.join(self._ids)}"
            raise NotFinite(
                f"the loss of step {trainer.global_step + 1} is "
                f"{what if wrong else 'not finite in another process, which names the batch'}; it changed no weight"
            )

    def on_save_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        for name, values in _trained(trainer, pl_module):
            if not torch.isfinite(values).all():
                raise NotFinite(
                    f"after step {trainer.global_step} {name} holds NaN or infinity though every loss was finite (a "
                    "gradient was not); no checkpoint of it was written"
                )


class CollapsedOutput(pl.Callback):
    """Warns after a validation in which every image that the network drew is constant, to the last bit.

    A sigmoid far out has no gradient, and Pearson's loss none on a constant image. Nearly constant images are none: a
    healthy network draws them in its first validations, while its batch norms settle.
    """

    def on_validation_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.collapsed = True

    def on_validation_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int, *_: Any
    ) -> None:
        drawn = outputs["prediction"]
        self.collapsed = self.collapsed and bool((drawn.amax((-2, -1)) == drawn.amin((-2, -1))).all())

    def on_validation_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if trainer.strategy.reduce_boolean_decision(self.collapsed, all=True) and not trainer.sanity_checking:
            log.warning(
                "after step %d every image that the network draws is constant: where its loss stands still, too, it "
                "will not learn again; stop, and start with a lower learning rate (a quarter of this one)",
                trainer.global_step,
            )


def _trained(trainer: pl.Trainer, pl_module: pl.LightningModule) -> Iterator[tuple[str, Tensor]]:
    """Every weight and everything the optimizers remember of it. Buffers may hold infinity by design."""
    yield from pl_module.named_parameters()
    for optimizer in trainer.optimizers:
        for state in optimizer.state.values():
            for key, value in state.items():
                if isinstance(value, Tensor):
                    yield f"the optimizer's {key}", value


class Room(pl.Callback):
    """Refuses to train where the disk of `folder` has no room for the run's checkpoints.

    A checkpoint is taken as the weights, the buffers and two further numbers per weight (Adam's). Room is asked for
    every name that is kept and for the one being written, less what the folder's own checkpoints take up already.
    Raises ValueError.
    """

    def __init__(self, folder: str) -> None:
        self.folder = Path(folder)

    @rank_zero_only
    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        names = self._kept(trainer)
        if stage != "fit" or not names:
            return
        tensors = [*pl_module.parameters(), *pl_module.buffers()]
        size = sum(t.nbytes for t in tensors) + 2 * sum(p.nbytes for p in pl_module.parameters() if p.requires_grad)
        held = sum(path.stat().st_size for path in (self.folder / name for name in names) if path.is_file())
        free, needed = shutil.disk_usage(self.folder).free, size * (len(names) + 1) - held
        if free < needed:
            raise ValueError(
                f"{self.folder} has {free / 1e6:.1f} MB free and the checkpoints need {needed / 1e6:.1f} MB more "
                f"({size / 1e6:.1f} MB each: {', '.join(names)} and one being written). Make room, choose another disk "
                "with runs=FOLDER, or skip this check with callbacks.room=null"
            )

    @staticmethod
    def _kept(trainer: pl.Trainer) -> list[str]:
        callbacks: list[Any] = trainer.callbacks  # type: ignore[attr-defined]
        last = any(isinstance(callback, Last) for callback in callbacks)
        best = any(isinstance(callback, ModelCheckpoint) for callback in callbacks)
        return ["best.ckpt"] * best + ["last.ckpt", "previous.ckpt"] * last


def check_writable(folder: str | Path) -> None:
    """Writes into the folder, made where it is missing, and leaves nothing there. Raises OSError."""
    try:
        Path(folder).mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder) as probe:
            probe.write(b"\0" * 65536)
            probe.flush()
    except OSError as error:
        raise OSError(
            f"cannot write into {folder} ({error.strerror}): make it writable, make room, or choose another folder "
            "with runs=FOLDER"
        ) from error
