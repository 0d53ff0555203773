"""Checkpoints that say where they come from, and training that can stop anywhere and go on."""

import logging
import signal
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
import torch.distributed as dist
from pytorch_lightning.callbacks import Checkpoint, ModelCheckpoint

log = logging.getLogger(__name__)


class Best(ModelCheckpoint):
    """`best.ckpt`: the epoch with the best value of `monitor`."""

    def __init__(self, folder: str, monitor: str, mode: str = "max") -> None:
        super().__init__(dirpath=folder, filename="best", monitor=monitor, mode=mode, enable_version_counter=False)


class Last(Checkpoint):
    """`last.ckpt`: where training stands, every `every_n_steps` steps, after each epoch and on Ctrl-C.

    It is written after a step alone, never while gradients of several batches are being added up. The one before it
    is kept as `previous.ckpt`, where it is of the same run and was good. The first Ctrl-C finishes the step (or the
    validation), saves and stops; the second stops at once. Lightning calls a Checkpoint after all other callbacks, in
    the config's order: what is saved holds what they and Best made of the epoch.
    """

    def __init__(self, folder: str, every_n_steps: int = 500) -> None:
        self.path, self.every_n_steps = Path(folder) / "last.ckpt", every_n_steps
        self.previous = self.path.with_name("previous.ckpt")
        self.good: Path | None = None  # what this run wrote last or, before that, went on from
        self._interrupted, self._step = False, 0
        self._handler: Any = None

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._interrupted = False
        self.good = Path(trainer.ckpt_path) if trainer.ckpt_path else None
        self._handler = signal.signal(signal.SIGINT, self._on_interrupt)

    def _on_interrupt(self, *_: Any) -> None:
        self._interrupted = True
        signal.signal(signal.SIGINT, self._handler)
        log.info("finishing this step, or the validation under way, and saving; Ctrl-C again stops at once")

    def on_train_batch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *_: Any) -> None:
        self._step = trainer.global_step

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *_: Any) -> None:
        if trainer.global_step == self._step:
            return  # the gradient waits for further batches
        stop = trainer.strategy.reduce_boolean_decision(self._interrupted, all=False)
        if trainer.fit_loop.epoch_loop.batch_progress.is_last_batch:
            return  # a validation may follow, which a run resumed from here would leave out
        if stop or trainer.global_step % self.every_n_steps == 0:
            self._save(trainer, stop)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._save(trainer, trainer.strategy.reduce_boolean_decision(self._interrupted, all=False))

    def _save(self, trainer: pl.Trainer, stop: bool) -> None:
        came_from = self.good.resolve() if self.good else None
        # A last.ckpt that this run neither wrote nor went on from is damaged, or another run's.
        keep = {"keep_as": self.previous} if came_from == self.path.resolve() else None
        trainer.save_checkpoint(self.path, weights_only=False, storage_options=keep)
        if trainer.is_global_zero and not keep and came_from != self.previous.resolve():
            self.previous.unlink(missing_ok=True)
        self.good = self.path
        if stop:
            log.info("stopped; %s holds the training: the same command with ckpt_path=last goes on", self.path)
            raise KeyboardInterrupt

    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        if stage == "fit" and self._handler is not None:
            signal.signal(signal.SIGINT, self._handler)


class Provenance(pl.Callback):
    """Puts plain values into every checkpoint: the resolved config, the scaling, the wells seen, the effort spent.

    The wells (plate:well) are those of this training and validation, of the checkpoints whose weights it started from
    (`started_from`, what warm_start returns, kept in the checkpoint too) and of the one it was resumed from. A plate is
    known by its name, as it is for its range. The effort is this training's own.
    """

    def __init__(self, config: dict[str, Any], started_from: Sequence[dict[str, Any]] = ()) -> None:
        self.config, self.started_from = config, list(started_from)
        self._wells = {well for entry in started_from for well in entry.get("trained_on", ())}
        self._started: float | None = None
        self._seconds_before = 0.0

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._started = time.monotonic()

    def on_load_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        self._seconds_before = checkpoint["effort"]["seconds"]
        self._wells |= set(checkpoint["trained_on"])
        self.started_from = checkpoint.get("started_from", [])

    def on_save_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        data: Any = trainer.datamodule  # type: ignore[attr-defined]
        checkpoint |= self.state(trainer) | {"scaling": data.scaling.state()}

    def state(self, trainer: pl.Trainer) -> dict[str, Any]:
        """What is known of the weights as they stand, also where nothing has been trained."""
        data: Any = trainer.datamodule if self._started is not None else None  # type: ignore[attr-defined]
        samples = (trainer.fit_loop.total_batch_idx + 1) * data.batch_size * trainer.world_size if data else 0
        seconds = self._seconds_before + (time.monotonic() - self._started if self._started is not None else 0.0)
        return {
            "config": self.config,
            "trained_on": sorted(self._wells.union(data.groups("train", "val") if data else ())),
            "effort": {"samples": samples, "seconds": seconds},
            "started_from": self.started_from,
        }


class Reproducible(pl.Callback):
    """Seeds torch before every batch from (seed, step), so that a resumed run draws what an unbroken one would.

    With several processes it also gives every process the first one's buffers before a validation, since the running
    statistics of batch normalisation drift apart.
    """

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self._loader_states: list[dict[str, int]] = []

    def on_load_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        self._loader_states = checkpoint["loops"]["fit_loop"]["state_dict"].get("combined_loader", [])

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Gives the loader its place in the epoch.

        Lightning does so only where no optimizer asked for the number of steps beforehand, and does not know that an
        epoch cut by limit_train_batches has ended.
        """
        for state in self._loader_states:
            loader: Any = trainer.train_dataloader
            loader.load_state_dict({"batches": state["batches"] % int(trainer.num_training_batches)})
        self._loader_states = []

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        step = trainer.current_epoch * int(trainer.num_training_batches) + batch_idx
        torch.manual_seed((self.seed * 1_000_003 + step) * 1_009 + trainer.global_rank)

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if dist.is_available() and dist.is_initialized():
            for buffer in pl_module.buffers():
                dist.broadcast(buffer, 0)
