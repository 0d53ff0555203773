"""Weights & Biases as a witness of a run that can never stop it."""

import logging
import os
from collections.abc import Callable
from typing import Any

from pytorch_lightning.loggers import WandbLogger
from pytorch_lightning.loggers.logger import rank_zero_experiment
from pytorch_lightning.utilities import rank_zero_only

log = logging.getLogger(__name__)
NEXT = {  # what follows when a mode fails, and what that means
    "online": ("offline", "logging offline; `wandb sync {folder}/wandb/offline-run-*` uploads it later"),
    "offline": ("disabled", "this run has no W&B log"),
}


class Wandb(WandbLogger):
    """A WandbLogger that logs offline where the server cannot be reached, and whose failures are warnings, once.

    No API key counts as unreachable; nobody is asked for one. The wait is bounded: ten seconds for the login
    (WANDB_HTTP_TIMEOUT), `init_timeout` for the run, `finish_timeout` for the last upload, all in seconds.
    """

    def __init__(
        self, *, offline: bool = False, init_timeout: float = 30, finish_timeout: float = 300, **options: Any
    ) -> None:
        self._mode = "offline" if offline else os.environ.get("WANDB_MODE", "online")
        self._failed = False
        timeouts = {"init_timeout": init_timeout, "finish_timeout": finish_timeout}
        super().__init__(**options, mode=self._mode, settings=timeouts)

    @property
    @rank_zero_experiment
    def experiment(self) -> Any:
        while self._experiment is None:
            try:
                if self._mode == "online":
                    _log_in()
                return super().experiment
            except Exception as error:
                if self._mode not in NEXT:
                    raise
                self._mode, then = NEXT[self._mode]
                self._wandb_init["mode"] = self._mode
                log.warning("W&B cannot be used (%s): %s", _first_line(error), then.format(folder=self._save_dir))
        return self._experiment

    def _guarded(self, call: Callable[..., None], *args: Any, **options: Any) -> None:
        """Calls, and warns of the first failure of all."""
        try:
            call(*args, **options)
        except Exception as error:
            if not self._failed:
                log.warning("W&B failed (%s); the run goes on, its W&B log may be incomplete", _first_line(error))
            self._failed = True

    def log_hyperparams(self, *args: Any, **options: Any) -> None:
        self._guarded(super().log_hyperparams, *args, **options)

    def log_metrics(self, *args: Any, **options: Any) -> None:
        self._guarded(super().log_metrics, *args, **options)

    def log_table(self, *args: Any, **options: Any) -> None:
        self._guarded(super().log_table, *args, **options)

    def log_image(self, *args: Any, **options: Any) -> None:
        self._guarded(super().log_image, *args, **options)

    def after_save_checkpoint(self, *args: Any, **options: Any) -> None:
        self._guarded(super().after_save_checkpoint, *args, **options)

    def finalize(self, *args: Any, **options: Any) -> None:
        self._guarded(super().finalize, *args, **options)

    @rank_zero_only
    def finish(self) -> None:
        """Ends the W&B run, so that the next run of this process gets its own."""
        run, self._experiment = self._experiment, None
        if run is not None:
            self._guarded(lambda: run.finish())


def _log_in() -> None:
    """Checks, without asking anybody, that there is an API key and that the server takes it. Raises ConnectionError."""
    import wandb

    if wandb.run is None and not wandb.login(prompt=False):
        raise ConnectionError("no API key; `wandb login` stores one")


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
