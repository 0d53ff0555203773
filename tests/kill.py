"""A callback for the tests: the process kills itself, as a power cut would."""

import os
import signal

import pytorch_lightning as pl


class KillAt(pl.Callback):
    """Sends `name` (SIGKILL, SIGINT) to its own process after the batch of step `step`."""

    def __init__(self, step: int, name: str = "SIGKILL") -> None:
        self.step, self.signal = step, signal.Signals[name]

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        if trainer.global_step == self.step:
            os.kill(os.getpid(), self.signal)
