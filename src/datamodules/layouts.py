"""Builds an index table from a folder, by file-name presets of microscopes and data sets or a regular expression."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import pandas as pd

from ..imaging.io import SUFFIXES

_WELL = r"(?P<well>(?:[A-P]|A[A-F])\d{1,2})"  # up to 1536 wells; other letters are sites and waves
_GUID = r"(?:[0-9A-Fa-f]{8}-(?:[0-9A-Fa-f]{4}-){3}[0-9A-Fa-f]{12})?"
COLUMNS = ("id", "plate", "well", "field", "group", "parent", "split", "pixel_size")
PREFIXES = ("image_", "objects_", "mask_")


class TableError(ValueError):
    """An index table or a folder of images cannot be used; the message names file, row, column and mend."""


@dataclass(frozen=True)
class Layout:
    """How one microscope or data set names its files.

    `pattern` is searched in the path relative to the root, with "/" between folders; its groups are well, or row and
    column; and plate, field and channel where the names have them. `objects` gives, per channel, the path of the label
    image from the folder of the image.
    """

    pattern: str
    pixel_size: float | None = None
    channels: Mapping[str, str] = field(default_factory=dict)
    objects: Mapping[str, str] = field(default_factory=dict)


PRESETS: dict[str, Layout] = {
    "bbbc039": Layout(
        rf"(?:^|/)images/IXMtest_{_WELL}_s(?P<field>\d+)_(?P<channel>w\d){_GUID}\.tif$",
        pixel_size=0.65,
        channels={"w1": "nuclei"},
        objects={"nuclei": "../masks/{stem}.png"},
    ),
    "imagexpress": Layout(
        rf"(?:^|/)(?:(?P<plate>[^/]+)_)?{_WELL}(?=_[sw]\d)(?:_s(?P<field>\d+))?(?:_(?P<channel>w\d{{1,2}}))?{_GUID}\.tiff?$"
    ),
    "opera_phenix": Layout(
        r"(?:^|(?:^|/)(?P<plate>[^/]+)/Images/|/)r(?P<row>\d\d)c(?P<column>\d\d)f(?P<field>\d+)p\d+"
        r"-(?P<channel>ch\d+)sk\d+fk\d+fl\d+\.tiff?$"
    ),
    "cytation": Layout(rf"(?:^|/){_WELL}_\d+_\d+_(?P<field>\d+)_(?P<channel>[^/_]+)_\d+\.tiff?$"),
    "plain": Layout(
        rf"(?:^|/)(?:(?P<plate>[^/]+?)_)??{_WELL}_(?P<field>[^/_]+)_(?P<channel>[A-Za-z][^/]*)\.(?:tiff?|png)$"
    ),
}


def build_index(
    folder: str | os.PathLike[str],
    pattern: str = "auto",
    pixel_size: float | None = None,
    channels: Mapping[str, str] | None = None,
) -> pd.DataFrame:
    """Make an index table of a folder of images, one row per field of view, paths absolute.

    `pattern` is "auto" (the preset that matches most files), a preset's name, or a regular expression with the named
    groups well, and plate, field, channel where there are any. `pixel_size` is in micrometres. `channels` maps what the
    file names say to a channel's name ({"w1": "nuclei"}) or to a column ({"ch2": "objects_nuclei"}); names that say no
    channel are channel "0". `attrs["layout"]` and `attrs["unmatched"]` say which preset was used and which files did
    not match. Raises TableError.
    """
    root = Path(folder).resolve()
    files = _images_under(root)
    name, layout = _choose(root, pattern, files)
    matches = {path: found for path in files if (found := re.search(layout.pattern, path, re.IGNORECASE))}
    if not matches:
        raise TableError(
            f"{root}: pattern {pattern!r} matches none of {len(files)} images ({_some(files)}); correct it"
        )
    pixel_size = layout.pixel_size if pixel_size is None else pixel_size
    if pixel_size is None:
        raise TableError(f"{root}: the pixel size is not known; give it in micrometres (--pixel-size, data.pixel_size)")
    names = _channel_names(root, layout, channels, matches)

    rows: dict[tuple[str, str, str], dict[str, object]] = {}
    used = set(matches)
    for path, found in matches.items():
        groups = {key: value for key, value in found.groupdict().items() if value is not None}
        key = (groups.get("plate", root.name), _well(root, path, groups), groups.get("field", "1"))
        row = rows.setdefault(key, {"plate": key[0], "well": key[1], "field": key[2], "pixel_size": pixel_size})
        channel = groups.get("channel", "0")
        channel = names.get(channel, channel)
        column = channel if channel.startswith(PREFIXES) else f"image_{channel}"
        if column in row:
            raise TableError(
                f"{root}: {Path(str(row[column])).name} and {Path(path).name} are both {column} of {'_'.join(key)}; "
                "give a pattern that matches one plane and time point, or projections"
            )
        row[column] = str(root / path)
        if channel in layout.objects:
            label = Path(os.path.normpath((root / path).parent / layout.objects[channel].format(stem=Path(path).stem)))
            if label.is_file():
                row[f"objects_{channel}"] = str(label)
                used.add(os.path.relpath(label, root).replace(os.sep, "/"))
    index = with_defaults(pd.DataFrame([rows[key] for key in sorted(rows)]), root.name)
    index.attrs.update(layout=name, unmatched=[path for path in files if path not in used])
    return index


def with_defaults(index: pd.DataFrame, plate: str) -> pd.DataFrame:
    """Fill plate, id (plate_well_field), group (plate:well) and parent (the row's own id) where they are empty."""
    defaults = {
        "plate": lambda table: plate,
        "id": lambda table: table["plate"] + "_" + table["well"] + "_" + table["field"],
        "group": lambda table: table["plate"] + ":" + table["well"],
        "parent": lambda table: table["id"],
    }
    index = index.copy()
    for column, default in defaults.items():
        filled = index[column] if column in index else pd.Series(pd.NA, index.index, dtype="string")
        index[column] = filled.fillna(default(index))
    for column in index.columns.difference(["pixel_size"]):
        index[column] = index[column].astype("string")
    return ordered(index)


def ordered(index: pd.DataFrame) -> pd.DataFrame:
    """Put the columns that every index has before the others."""
    first = [column for column in COLUMNS if column in index]
    return index[first + [column for column in index if column not in first]]


def _images_under(root: Path) -> list[str]:
    if not root.exists():
        raise TableError(f"data.root={root} does not exist; give the folder or the index table of your images")
    files = sorted(
        path.relative_to(root).as_posix()
        for path in root.rglob("*")
        if path.suffix.lower() in SUFFIXES and "_thumb" not in path.name and not path.name.startswith(".")
    )
    if not files:
        raise TableError(f"{root}: holds no TIFF or PNG image; give the folder that holds your images (data.root=...)")
    return files


def _choose(root: Path, pattern: str, files: list[str]) -> tuple[str, Layout]:
    if pattern in PRESETS:
        return pattern, PRESETS[pattern]
    if pattern == "auto":
        counts = {
            name: sum(re.search(layout.pattern, path, re.IGNORECASE) is not None for path in files)
            for name, layout in PRESETS.items()
        }
        # The plain names also fit those of some microscopes, so they are the last resort.
        best = max(counts, key=lambda name: (name != "plain" and counts[name] > 0, counts[name]))
        if counts[best] == 0:
            raise TableError(
                f"{root}: no preset ({', '.join(PRESETS)}) matches the names of {len(files)} images ({_some(files)}); "
                "give --pattern with the named groups well, field and channel, or write an index.csv"
            )
        return best, PRESETS[best]
    try:
        groups = re.compile(pattern).groupindex
    except re.error as error:
        raise TableError(
            f"pattern {pattern!r} is no preset ({', '.join(PRESETS)}) and no regular expression: {error}"
        ) from None
    if "well" not in groups and not {"row", "column"} <= set(groups):
        raise TableError(
            f"pattern {pattern!r} is no preset ({', '.join(PRESETS)}) and names no well; "
            r"write it as a named group, for example (?P<well>[A-P]\d\d)_(?P<field>\d+)_(?P<channel>\w+)\.tif"
        )
    return "regex", Layout(pattern)


def _channel_names(
    root: Path, layout: Layout, channels: Mapping[str, str] | None, matches: Mapping[str, re.Match[str]]
) -> dict[str, str]:
    present = {found.groupdict().get("channel") or "0" for found in matches.values()}
    unknown = set(channels or {}) - present
    if unknown:
        raise TableError(
            f"{root}: no file has channel {', '.join(sorted(unknown))}; the file names say {', '.join(sorted(present))}"
        )
    return {**layout.channels, **(channels or {})}


def _well(root: Path, path: str, groups: Mapping[str, str]) -> str:
    if "well" in groups:
        plain = re.fullmatch(r"([A-Za-z]{1,2})(\d{1,2})", groups["well"])
        return f"{plain[1].upper()}{int(plain[2]):02d}" if plain else groups["well"]
    try:
        row, column = int(groups["row"]), int(groups["column"])
    except (KeyError, ValueError):
        raise TableError(f"{root / path}: the pattern finds no well in its name; correct the pattern") from None
    letters = chr(64 + row) if row <= 26 else "A" + chr(64 + row - 26)
    return f"{letters}{column:02d}"


def _some(files: list[str]) -> str:
    return ", ".join(files[:3]) + (", ..." if len(files) > 3 else "")
