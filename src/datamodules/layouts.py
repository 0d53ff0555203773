"""Builds an index table from a folder, by file-name presets of microscopes and data sets or a regular expression."""

from __future__ import annotations

import os
import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path

import pandas as pd

from ..imaging.io import SUFFIXES, ImageError
from ..imaging.pixelsize import differs, read_pixel_size
from .presets import PRESETS, Layout

COLUMNS = ("id", "plate", "well", "field", "group", "parent", "split", "pixel_size")
PREFIXES = ("image_", "objects_", "mask_")
NUMBERS = ("pixel_size", "concentration")


class TableError(ValueError):
    """An index table or a folder of images cannot be used; the message names file, row, column and mend."""


def build_index(
    folder: str | os.PathLike[str],
    pattern: str = "auto",
    pixel_size: float | None = None,
    channels: Mapping[str, str] | None = None,
    wanted: Sequence[str] | None = None,
) -> pd.DataFrame:
    """Make an index table of a folder of images, one row per field of view, paths absolute.

    The pixel size is, in this order, `pixel_size` (micrometres), the preset's, or what each file says.
    `pattern` is "auto" (the preset that matches most files), a preset's name, or a regular expression with the named
    groups well, and plate, field, channel where there are any. `channels` maps what the file names say to a channel's
    name ({"w1": "nuclei"}) or to a column ({"ch2": "objects_nuclei"}); names that say no channel are channel "0".
    Of a layout of pairs, fields are left out that lack one of the `wanted` channels (default: its source and any other)
    that their plate has. `attrs["layout"]` says which preset was used, `attrs["unmatched"]` which files did not match,
    `attrs["alone"]` those of fields that are left out. Raises TableError.
    """
    root = Path(folder).resolve()
    files = _images_under(root)
    name, layout = _choose(root, pattern, files)
    matches = {path: found for path in files if (found := re.search(layout.pattern, path, re.IGNORECASE))}
    if not matches:
        raise TableError(
            f"{root}: pattern {pattern!r} matches none of {len(files)} images ({_some(files)}); correct it"
        )
    known = layout.pixel_size if pixel_size is None else None
    names = _channel_names(root, layout, channels, matches)

    rows: dict[tuple[str, str, str], dict[str, object]] = {}
    used = set(matches)
    for path, found in matches.items():
        groups = {key: value for key, value in found.groupdict().items() if value is not None}
        if "phenotype" in groups:
            groups["phenotype"] = groups["phenotype"].upper()
            groups.setdefault("well", groups["phenotype"])
        plate, well, number = groups.get("plate", root.name), _well(root, path, groups), groups.get("field", "1")
        key = (plate, well, number + (f"w{groups['exposure']}" if "exposure" in groups else ""))
        row = rows.setdefault(key, {"plate": plate, "well": well, "field": key[2], "pixel_size": known})
        if "phenotype" in groups:
            row["phenotype"] = groups["phenotype"]
        if "exposure" in groups:
            row["parent"] = f"{plate}_{well}_{number}"
        channel = names.get(groups.get("channel", "0"), groups.get("channel", "0"))
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
    alone = _drop_alone(root, rows, layout.paired, wanted) if layout.paired else []
    index = pd.DataFrame([rows[key] for key in sorted(rows)])
    index = with_defaults(fill_pixel_size(index, pixel_size, str(root)), root.name)
    if index["pixel_size"].isna().any():
        raise TableError(
            f"{root}: the pixel size is not known, {index['id'][index['pixel_size'].isna()].iloc[0]} does not say it; "
            "give it in micrometres (--pixel-size, data.pixel_size)"
        )
    index.attrs.update(layout=name, unmatched=[path for path in files if path not in used], alone=alone)
    return index


def _drop_alone(
    root: Path, rows: dict[tuple[str, str, str], dict[str, object]], paired: str, wanted: Sequence[str] | None
) -> list[str]:
    """Take out the fields that lack the partner of an image; the paths of their files. TableError if all do."""
    of_plate: dict[str, set[str]] = defaultdict(set)
    for (plate, *_), row in rows.items():
        of_plate[plate] |= row.keys()
    alone: dict[tuple[str, str, str], list[str]] = {}
    for key, row in rows.items():
        images = {name for name in row if name.startswith("image_")}
        # A stain that a plate has nowhere is no partner that its fields lack.
        needed = {f"image_{name}" for name in wanted} & of_plate[key[0]] if wanted else {f"image_{paired}"}
        if not needed <= images or (not wanted and len(images) == 1):
            alone[key] = sorted(Path(str(row[name])).relative_to(root).as_posix() for name in images)
    if len(alone) == len(rows):
        first = next(iter(alone.values()))[0]
        raise TableError(
            f"{root}: no image_{paired} has a partner of the same plate, phenotype and index (the first alone is "
            f"{first}); copy the folders of DIC and of the stain into one folder per plate"
        )
    for key in alone:
        del rows[key]
    return sorted(path for paths in alone.values() for path in paths)


def fill_pixel_size(index: pd.DataFrame, given: float | None, source: str) -> pd.DataFrame:
    """Return the index with pixel_size, where it is empty, from the user or else from each row's files.

    Raises TableError where what the user gave for a row, or another channel of it, contradicts a file by more than
    2 %; a number in a table overrules its files.
    """
    if given is not None and not (isinstance(given, int | float) and 0 < given < float("inf")):
        raise TableError(f"data.pixel_size={given!r} is no width of a pixel; write micrometres, like 0.65")
    index = index.copy()
    index["pixel_size"] = index["pixel_size"].astype(float)
    images = [column for column in index if column.startswith("image_")]
    for row in index.index[index["pixel_size"].isna()]:
        size, origin = given, "was given"
        for name in index.loc[row, images].dropna():
            try:
                said = read_pixel_size(name)
            except ImageError as error:
                raise TableError(f"{source}: {error}") from None
            if said is not None and size is not None and differs(said, size):
                raise TableError(
                    f"{source}: {name} says {said:g} um per pixel, and {size:g} um {origin}; correct the wrong one, or "
                    "write the column pixel_size in an index.csv, which overrules the files"
                )
            if size is None and said is not None:
                size, origin = said, f"says {name}"
        index.loc[row, "pixel_size"] = float("nan") if size is None else size
    return index


def plain_well(name: str) -> str | None:
    """The well's name as A01 (letters A to AF, columns 1 to 48), or None where it is no name of a well."""
    found = re.fullmatch(r"([A-Z]|A[A-F])0*([1-9]\d?)", str(name).strip(), re.IGNORECASE)
    return f"{found[1].upper()}{int(found[2]):02d}" if found and int(found[2]) <= 48 else None


def with_defaults(index: pd.DataFrame, plate: str) -> pd.DataFrame:
    """Fill plate, id (plate_well_field), group (plate:well) and parent (the row's own id) where they are empty.

    Wells are named alike: A1 becomes A01.
    """
    defaults = {
        "plate": lambda table: plate,
        "id": lambda table: table["plate"] + "_" + table["well"] + "_" + table["field"],
        "group": lambda table: table["plate"] + ":" + table["well"],
        "parent": lambda table: table["id"],
    }
    index = index.copy()
    index["well"] = index["well"].map(lambda name: plain_well(name) or name, na_action="ignore").astype("string")
    for column, default in defaults.items():
        filled = index[column] if column in index else pd.Series(pd.NA, index.index, dtype="string")
        index[column] = filled.fillna(default(index))
    for column in index.columns.difference(NUMBERS):
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
        if path.suffix.lower() in SUFFIXES and "_thumb" not in path.name.lower() and not path.name.startswith(".")
    )
    if not files:
        raise TableError(f"{root}: holds no TIFF or PNG image; give the folder that holds your images (data.root=...)")
    return files


def _choose(root: Path, pattern: str, files: list[str]) -> tuple[str, Layout]:
    if pattern in PRESETS:
        return pattern, PRESETS[pattern]
    if pattern == "auto":
        counts = {name: _matching(layout, files) for name, layout in PRESETS.items()}
        # Plain names also fit those of some microscopes, and a microscope's those of data sets made with it.
        rank = {name: 2 if layout.channels else int(name != "plain") for name, layout in PRESETS.items()}
        best = max(counts, key=lambda name: (counts[name] > 0, rank[name], counts[name]))
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


def _matching(layout: Layout, files: list[str]) -> int:
    """How many files the layout matches; none where the channel is missing that every field should have."""
    found = [match for path in files if (match := re.search(layout.pattern, path, re.IGNORECASE))]
    if layout.paired and not any(match["channel"].lower() == layout.paired for match in found):
        return 0
    return len(found)


def _channel_names(
    root: Path, layout: Layout, channels: Mapping[str, str] | None, matches: Mapping[str, re.Match[str]]
) -> dict[str, str]:
    present = {found.groupdict().get("channel") or "0" for found in matches.values()}
    unknown = set(channels or {}) - present
    if unknown:
        raise TableError(
            f"{root}: no file has channel {', '.join(sorted(unknown))}; the file names say {', '.join(sorted(present))}"
        )
    known = {name: layout.channels.get(name.lower(), name.lower()) for name in present} if layout.channels else {}
    return {**known, **(channels or {})}


def _well(root: Path, path: str, groups: Mapping[str, str]) -> str:
    if "well" in groups:
        return plain_well(groups["well"]) or groups["well"]
    try:
        row, column = int(groups["row"]), int(groups["column"])
    except (KeyError, ValueError):
        raise TableError(f"{root / path}: the pattern finds no well in its name; correct the pattern") from None
    letters = chr(64 + row) if row <= 26 else "A" + chr(64 + row - 26)
    return f"{letters}{column:02d}"


def _some(files: list[str]) -> str:
    return ", ".join(files[:3]) + (", ..." if len(files) > 3 else "")
