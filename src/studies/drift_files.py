"""Drift detectors on disk: numbers in an .npz file, settings and identity as JSON in it, nothing that runs."""

from __future__ import annotations

import json
import zipfile
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np

from ..imaging.files import replacing


class DetectorError(ValueError):
    """A drift detector that cannot be used; the message says why and the mend."""


def plain(values: Any) -> dict[str, Any]:
    """A copy of a flat dict of str, numbers, bool and None. Raises DetectorError on anything else."""
    if not isinstance(values, dict):
        raise DetectorError(f"settings and identity are dicts of plain values, not a {type(values).__name__}")
    values = {key: value.item() if isinstance(value, np.generic) else value for key, value in values.items()}
    for key, value in values.items():
        if type(key) is not str or type(value) not in (str, int, float, bool, type(None)):
            raise DetectorError(f"{key!r} is a {type(value).__name__}: give str, int, float, bool or None under a name")
    return values


def differences(saved: Any, here: dict[str, Any]) -> str:
    """What differs between two flat dicts, in words; empty where nothing does."""
    saved, here = plain(saved), plain(here)
    unequal = [key for key in {**saved, **here} if (key in saved, saved.get(key)) != (key in here, here.get(key))]
    return ", ".join(f"{key} {saved.get(key, 'not stated')}, here {here.get(key, 'not stated')}" for key in unequal)


def write_arrays(path: str | PathLike[str], state: dict[str, Any]) -> None:
    """Writes arrays as they are and dicts as JSON text into an .npz file. Raises OSError."""
    values: dict[str, Any] = {
        key: np.array(json.dumps(value)) if isinstance(value, dict) else value for key, value in state.items()
    }
    with replacing(path) as temporary, temporary.open("wb") as file:
        np.savez(file, **values)


def read_arrays(path: str | PathLike[str]) -> dict[str, Any]:
    """What `write_arrays` wrote. Raises DetectorError where the file is missing, damaged or holds more than numbers."""
    path = Path(path)
    if not path.is_file():
        raise DetectorError(f"no drift detector at {path}: study=drift fits one and says where it is")
    try:
        with zipfile.ZipFile(path) as records:
            if sum(record.file_size for record in records.infolist()) > path.stat().st_size:
                raise DetectorError(f"{path} is refused: it would unpack to more than it is; use another detector")
            if damaged := records.testzip():
                raise DetectorError(f"{path} is damaged ({damaged}): fit the detector anew (study=drift)")
        with np.load(path, allow_pickle=False) as file:
            state: dict[str, Any] = {key: file[key] for key in file.files}
        return {key: json.loads(str(value)) if value.dtype.kind == "U" else value for key, value in state.items()}
    except DetectorError:
        raise
    except (zipfile.BadZipFile, ValueError, TypeError, EOFError, OSError, RuntimeError, MemoryError) as error:
        raise DetectorError(f"{path} is no drift detector of phenokeep or damaged ({error}): use another") from error
