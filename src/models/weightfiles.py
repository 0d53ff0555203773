"""Files of published weights: reading them without running what is in them, and finding the parts they hold."""

import re
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

# Under which keys a file holds its parts; either may lie under state_dict, and a part may fill the file.
HOLDERS = {"generator": ("generator", "G"), "discriminator": ("discriminator", "D")}
AGAIN = "download it again, or use another"


class WeightsError(ValueError):
    """Published weights that cannot be used; the message names the file and the mend."""


def read(path: str | Path) -> Any:
    """What a file of weights holds, on the CPU; nothing in it is executed.

    Raises WeightsError where it is missing, damaged, or holds objects that unpickling would have to run.
    """
    path = Path(path)
    if not path.is_file():
        what = "a folder: name a file of weights in it" if path.is_dir() else "not there: correct the path"
        raise WeightsError(f"no file of weights at {path}, which is {what}")
    if damage := _damage(path):
        raise WeightsError(f"{path} is damaged ({damage}); {AGAIN}")
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # what is no pickle, or a damaged one, makes torch raise anything
        if called := would_call(error):
            raise WeightsError(
                f"{path} is refused: it holds {called}, and loading that could run code. Use a file of tensors and "
                "plain values, as torch.save writes it of a state dict"
            ) from error
        reason = re.search(r"WeightsUnpickler error:\s*(.+)", str(error)) or re.search("(.+)", str(error))
        said = reason[1].split(" In PyTorch")[0][:120] if reason else type(error).__name__
        raise WeightsError(f"{path} is no readable file of weights ({said}); {AGAIN}") from error


def would_call(error: Exception) -> str | None:
    """What unpickling a file would call, by the error with which torch declined to."""
    found = re.search(r"unsupported global:? (?:global )?([\w.]+)", str(error), re.IGNORECASE)
    return found[1] if found else None


def _damage(path: Path) -> str:
    """What is wrong with an archive, empty for nothing: torch writes checksums and does not look at them again."""
    try:
        if not zipfile.is_zipfile(path):  # as torch wrote until 1.6
            return ""
        with zipfile.ZipFile(path) as records:
            if sum(record.file_size for record in records.infolist()) > path.stat().st_size:
                return "it would unpack to more than it is"
            wrong = records.testzip()
            return f"{wrong} has not its checksum" if wrong else ""
    except Exception as error:  # zipfile raises whatever it stumbles over
        return str(error)


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
    inner = _within(saved)
    found = {part: inner[key] for part, keys in HOLDERS.items() for key in keys if isinstance(inner.get(key), Mapping)}
    return {part: _tensors(_within(state), where) for part, state in (found or {"": inner}).items()}


def part_of(found: dict[str, dict[str, Tensor]], side: str, where: str) -> dict[str, Tensor]:
    """The generator or the discriminator among the parts of a file; WeightsError where it holds the other alone."""
    if side not in found and "" not in found:
        raise WeightsError(f"{where} holds a {' and a '.join(found)}, no {side}: name the file of the {side}")
    return found.get(side, found.get("", {}))


def _within(saved: Mapping[Any, Any]) -> Mapping[Any, Any]:
    """What lies under state_dict, where there is such a key."""
    inner = saved.get("state_dict")
    return inner if isinstance(inner, Mapping) else saved


def _tensors(state: Mapping[Any, Any], where: str) -> dict[str, Tensor]:
    for key, value in state.items():
        if not isinstance(value, Tensor) or value.layout != torch.strided or value.is_meta:
            kind = f"{value.layout} ({value.device})" if isinstance(value, Tensor) else type(value).__name__
            raise WeightsError(f"{where}: {key} is of type {kind}, no tensor of plain values; use another file")
    several = all(str(key).startswith("module.") for key in state)
    return {str(key).removeprefix("module.") if several else str(key): value for key, value in state.items()}
