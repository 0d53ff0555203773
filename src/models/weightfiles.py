"""Files of published weights: reading them without running what is in them, and finding the parts they hold."""

import pickle
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

# Under which keys a file holds its parts; a part may also lie under state_dict, or fill the file.
HOLDERS = {"generator": ("generator", "G"), "discriminator": ("discriminator", "D")}


class WeightsError(ValueError):
    """Published weights that cannot be used; the message names the file and the mend."""


def read(path: str | Path) -> Any:
    """What a file of weights holds, on the CPU; nothing in it is executed.

    Raises WeightsError where it is missing, damaged, or holds objects that unpickling would have to run.
    """
    path = Path(path)
    if not path.is_file():
        raise WeightsError(f"no file of weights at {path}: correct the path")
    try:
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as records:
                if wrong := records.testzip():  # torch writes checksums and does not look at them
                    raise WeightsError(f"{path} is damaged ({wrong} has not its checksum); download it again")
        return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        cause = str(error).splitlines()[0][:120]
        raise WeightsError(
            f"{path} is refused: it is no file of weights, or holds more than tensors and plain values, and loading it "
            f"could run code ({cause}). Use a file that holds weights alone"
        ) from error
    except (RuntimeError, EOFError, KeyError, OSError, zipfile.BadZipFile, zlib.error) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0][:120]
        raise WeightsError(f"{path} is no readable file of weights ({reason}); download it again") from error


def opened(checkpoint: Any) -> tuple[Any, str]:
    """What a file, or what stands for one, holds, and how to call it in an error."""
    if isinstance(checkpoint, str | Path):
        return read(checkpoint), str(checkpoint)
    return checkpoint, "the given state dict"


def parts(saved: Any, where: str) -> dict[str, dict[str, Tensor]]:
    """The state dicts that a file holds: generator and discriminator, or one under "" where it does not say which.

    `module.` before every key, which training on several GPUs leaves, is taken off. Raises WeightsError where there is
    none, or where one holds anything but tensors.
    """
    if not isinstance(saved, Mapping):
        raise WeightsError(f"{where} holds no weights by name but a {type(saved).__name__}; use another file")
    found = {
        part: saved[key] for part, keys in HOLDERS.items() for key in keys if isinstance(saved.get(key), Mapping)
    }  # fmt: skip
    if not found:
        found = {"": saved["state_dict"] if isinstance(saved.get("state_dict"), Mapping) else saved}
    return {part: _tensors(state, where) for part, state in found.items()}


def part_of(found: dict[str, dict[str, Tensor]], side: str, where: str) -> dict[str, Tensor]:
    """The generator or the discriminator among the parts of a file; WeightsError where it holds the other alone."""
    if side not in found and "" not in found:
        raise WeightsError(f"{where} holds a {' and a '.join(found)}, no {side}: name the file of the {side}")
    return found.get(side, found.get("", {}))


def _tensors(state: Mapping[Any, Any], where: str) -> dict[str, Tensor]:
    for key, value in state.items():
        if not isinstance(value, Tensor):
            kind = type(value).__name__
            raise WeightsError(f"{where}: {key} is of type {kind}, no tensor; use a file of weights by name")
    several = all(str(key).startswith("module.") for key in state)
    return {str(key).removeprefix("module.") if several else str(key): value for key, value in state.items()}
