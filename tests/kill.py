"""A callback for the tests: the process kills itself, as a power cut would."""

import os
import signal

import pytorch_lightning as pl


class KillAt(pl.Callback):
    """Sends `name` (SIGKILL, SIGINT) to its own process before batch `step`, or in the validation after it."""

    def __init__(self, step: int, name: str = "SIGKILL", validating: bool = False) -> None:
        self.step, self.signal, self.validating = step, signal.Signals[name], validating

    def _kill(self, trainer, validating):
        if trainer.global_step == self.step and self.validating is validating:
            # As a terminal does it: Ctrl-C goes to the loader's workers too.
            os.kill(os.getpid(), self.signal) if self.signal == signal.SIGKILL else os.killpg(0, self.signal)

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        self._kill(trainer, validating=False)

    def on_validation_start(self, trainer, pl_module):
        self._kill(trainer, validating=True)
