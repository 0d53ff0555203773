"""What a plate that a model is applied to consists of: an index, a folder whose names are known, or just images."""

from __future__ import annotations

import logging
import re
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from ..datamodules.layouts import TableError, with_defaults
from ..datamodules.presets import PRESETS
from ..datamodules.tables import INDEX_NAMES, check_index, read_index
from ..imaging import pixelsize
from ..imaging.io import SUFFIXES

log = logging.getLogger(__name__)


def read_inputs(
    plate: str | Path, channels: Sequence[str], pixel_size: float | None = None, exclusive: bool = False
) -> pd.DataFrame:
    """The index of a plate: of a table, of a folder that has one, or of a folder whose file names are understood.

    Any other folder, or one image, is taken as it is: every image a field in a well of its own, where `channels`, what
    the model takes, is one. With `exclusive`, images of other channels are left out of an index. `pixel_size`
    (micrometres) fills what index and files leave open. Raises TableError.
    """
    path, only = Path(plate).resolve(), channels if exclusive else None
    if not path.exists():
        raise TableError(f"plate={path} does not exist; give a folder of images, an index table, or one image")
    if path.suffix.lower() in SUFFIXES and path.is_file():
        return _plain([path], path.parent, channels, pixel_size)
    if not path.is_dir() or any((path / name).is_file() for name in INDEX_NAMES):
        return _indexed(path, pixel_size, only)
    images = sorted(file for file in path.rglob("*") if file.suffix.lower() in SUFFIXES and file.name[0] != ".")
    names = [file.relative_to(path).as_posix() for file in images]
    if not images or any(
        re.search(layout.pattern, name, re.IGNORECASE) for layout in PRESETS.values() for name in names
    ):
        return _indexed(path, pixel_size, only)
    log.info(
        "%s: no preset knows these file names; each of %d images is taken as a field of its own", path, len(images)
    )
    return _plain(images, path, channels, pixel_size)


def _indexed(path: Path, pixel_size: float | None, only: Sequence[str] | None) -> pd.DataFrame:
    try:
        return read_index(path, pixel_size, only)
    except TableError as error:
        if not only or "has no channel" not in str(error):
            raise
        raise TableError(
            f"{error}. The model takes {', '.join(only)}: name the columns of index.csv so ({_columns(only)}), or make "
            "it with python -m phenokeep.datamodules.tables --channel"
        ) from None


def _columns(channels: Sequence[str]) -> str:
    return ", ".join(f"image_{name}" for name in channels)


def _plain(images: list[Path], root: Path, channels: Sequence[str], pixel_size: float | None) -> pd.DataFrame:
    if len(channels) > 1:
        raise TableError(
            f"{images[0]}: no preset knows this name, so it does not say which of the model's {len(channels)} channels "
            f"it is. Write an index.csv with a row per field and the columns {_columns(channels)}; python -m "
            "phenokeep.datamodules.tables FOLDER --pattern PATTERN makes one, see its --help"
        )
    names = ["_".join(image.relative_to(root).with_suffix("").parts) for image in images]
    sizes = [pixel_size or pixelsize.read_pixel_size(image) for image in images]
    if None in sizes:
        raise TableError(
            f"{images[sizes.index(None)]} does not say its pixel size: give data.pixel_size in micrometres"
        )
    index = pd.DataFrame({"id": names, "well": names, "field": "1", "pixel_size": sizes})
    index[f"image_{channels[0]}"] = list(map(str, images))
    index = with_defaults(index, root.name)
    index.attrs["root"] = str(root)
    return check_index(index, str(root))
