"""Checkpoints on disk: whole under their own name, or not there at all."""

import os
from pathlib import Path
from typing import Any

import torch
from lightning_fabric.plugins import TorchCheckpointIO


class AtomicCheckpoints(TorchCheckpointIO):
    """Writes `NAME.partial` beside the checkpoint, has the disk confirm it, and only then gives it the final name.

    `storage_options={"keep_as": FILE}` keeps the checkpoint that is replaced under that name; there is no moment in
    which neither of the two exists. Raises OSError where the disk refuses; what was there before is then as it was.
    """

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: str | Path, storage_options: dict[str, Any] | None = None
    ) -> None:
        path = Path(path)
        partial = path.with_name(f"{path.name}.partial")
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with partial.open("wb") as file:
                torch.save(checkpoint, file)
                file.flush()
                os.fsync(file.fileno())
        except BaseException as error:
            partial.unlink(missing_ok=True)
            if isinstance(error.__context__, OSError):  # torch hides the disk's refusal behind its own complaint
                raise error.__context__ from None
            raise
        if storage_options and path.exists():
            _keep(path, Path(storage_options["keep_as"]))
        os.replace(partial, path)
        _confirm(path.parent)


def _keep(path: Path, name: Path) -> None:
    """Gives a file a second name, by a hard link; where the file system has none the first name is lost."""
    link = name.with_name(f"{name.name}.partial")
    link.unlink(missing_ok=True)
    try:
        os.link(path, link)
    except OSError:
        os.replace(path, name)
        return
    os.replace(link, name)
    link.unlink(missing_ok=True)  # which stays where a run killed right here had given the file its second name


def _confirm(folder: Path) -> None:
    """Has the disk confirm the names in a folder, where the system lets folders be opened."""
    if hasattr(os, "O_DIRECTORY"):
        handle = os.open(folder, os.O_DIRECTORY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
