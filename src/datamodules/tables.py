"""The index table: one row per field of view, checked before anything trains; and its command line.

    python -m phenokeep.datamodules.tables DIR

Columns: id; plate, well, field; group (the unit of statistics); parent (images derived from one another share it);
split (train, val or test); pixel_size (micrometres per pixel); image_<channel>; objects_<channel> (label images) and
mask_<name> where there are any; compound, concentration, unit, role, replicate and batch of the well. Paths are
relative to the table's folder, or absolute. Other columns are kept, as text.
"""

from __future__ import annotations

import argparse
import logging
import os
import re
import sys
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from ..imaging.files import replacing
from ..imaging.io import ImageHeader, read_header
from .checks import check_images, check_index, file_columns, of_channels
from .layouts import TableError, build_index, fill_pixel_size, with_defaults
from .overlaps import join_families
from .platemap import check_plate_columns, join_plate_map, read_plate_map
from .presets import PRESETS
from .reading import check_columns, read_table
from .splits import FRACTIONS, PAIR_FRACTIONS, UNITS, assign_splits

__all__ = [
    "PRESETS",
    "TableError",
    "assign_splits",
    "build_index",
    "check_images",
    "main",
    "read_index",
    "write_index",
]

log = logging.getLogger(__name__)

INDEX_NAMES = ("index.csv", "index.parquet")


def read_index(
    path: str | os.PathLike[str], pixel_size: float | None = None, channels: Sequence[str] | None = None
) -> pd.DataFrame:
    """Read and check an index table (CSV or Parquet), or a folder: its index.csv or index.parquet, else build_index.

    Paths in the result are absolute. `pixel_size` (micrometres) fills what the table leaves open; without it the image
    files are asked. Of the images, those of `channels` alone are kept, in their order; without it, all, and every row
    must have them all; fields of a folder of pairs that do not are left out (`build_index`), and the log says so.
    `attrs["root"]` is the folder, `attrs["leaky_split"]` whether a well lies on two sides of the split. Raises
    TableError, naming file, row (the first row under the header is row 2), column and mend.
    """
    path = Path(path).resolve()
    if not path.exists():
        raise TableError(f"data.root={path} does not exist; give the folder or the index table of your images")
    if path.is_dir():
        tables = [path / name for name in INDEX_NAMES if (path / name).is_file()]
        if not tables:
            index = build_index(path, pixel_size=pixel_size, wanted=channels)
            unmatched, alone = index.attrs["unmatched"], index.attrs["alone"]
            log.info(
                "%s has no index.csv: built one in memory by the preset %r, %d fields, %d files not matched%s",
                *(path, index.attrs["layout"], len(index), len(unmatched)),
                f": {', '.join(unmatched[:5])}{', ...' if len(unmatched) > 5 else ''}" if unmatched else "",
            )
            if alone:
                log.warning("%s: %s", path, _without_partner(alone))
            index.attrs["root"] = str(path)
            return _checked(index, channels, str(path))
        path = tables[0]
    table = read_table(path)
    check_columns(table, path)
    if "pixel_size" not in table:
        table["pixel_size"] = pd.NA
    numbers = pd.to_numeric(table["pixel_size"], errors="coerce")
    wrong = table.index[numbers.isna() & table["pixel_size"].notna()]
    if len(wrong):
        value = table.loc[wrong[0], "pixel_size"]
        raise TableError(f"{path}: row {wrong[0] + 2}, column pixel_size: {value!r} is no number; write it like 0.65")
    table["pixel_size"] = numbers.astype(float)
    if "split" in table and table["split"].isna().all():
        table = table.drop(columns="split")
    for column in file_columns(table):
        table[column] = table[column].map(lambda name: str(path.parent / name), na_action="ignore")
    table = fill_pixel_size(check_plate_columns(table, str(path)), pixel_size, str(path))
    table.attrs["root"] = str(path.parent)
    return _checked(with_defaults(table, path.parent.name), channels, str(path))


def _without_partner(files: list[str]) -> str:
    some = ", ".join(files[:5]) + (", ..." if len(files) > 5 else "")
    return f"{len(files)} files have no partner and are left out: {some}; copy the partner, or remove them"


def _checked(index: pd.DataFrame, channels: Sequence[str] | None, source: str) -> pd.DataFrame:
    # Rows are numbered anew last: what is said about one names its row in the file.
    index = check_index(of_channels(index, channels, source) if channels else index, source)
    return index.reset_index(drop=True)


def write_index(index: pd.DataFrame, path: str | os.PathLike[str]) -> None:
    """Write an index as CSV or Parquet; files under the table's folder become relative. Raises TableError."""
    path = Path(path).resolve()
    table = index.copy()
    for column in file_columns(table):
        table[column] = table[column].map(lambda name: _relative(name, path.parent), na_action="ignore")
    if path.suffix.lower() not in (".parquet", ".csv"):
        raise TableError(f"{path}: an index table is a .csv or .parquet file; give such a name")
    try:
        with replacing(path) as temporary:
            (table.to_parquet if path.suffix.lower() == ".parquet" else table.to_csv)(temporary, index=False)
    except OSError as error:
        raise TableError(
            f"{path}: cannot be written ({error.strerror or error}); give --out a path you may write"
        ) from None


def _relative(name: str, folder: Path) -> str:
    return Path(name).relative_to(folder).as_posix() if Path(name).is_relative_to(folder) else name


def _channel(text: str) -> tuple[str, str]:
    key, equals, name = text.partition("=")
    if not (key and equals and name):
        raise argparse.ArgumentTypeError(f"{text!r}: write it like w1=nuclei")
    return key, name


def main(argv: Sequence[str] | None = None) -> int:
    """Build, check and write the index table of a folder, and print what is in it; returns the exit code (2: error)."""
    parser = argparse.ArgumentParser(
        prog="python -m phenokeep.datamodules.tables",
        description="Make the index table of a folder of images: one row per field of view.",
    )
    parser.add_argument("folder", metavar="DIR", help="folder that holds the images")
    parser.add_argument(
        "--pattern", default="auto", help=f"{', '.join(PRESETS)}, or a regex with the groups well, field, channel"
    )
    parser.add_argument("--pixel-size", type=float, metavar="UM", help="micrometres per pixel")
    parser.add_argument(
        "--channel", type=_channel, action="append", default=[], metavar="w1=nuclei", help="name a channel; may repeat"
    )
    parser.add_argument("--plate-map", metavar="FILE", help="CSV of what is in each well, one row a well or grids")
    parser.add_argument("--out", type=Path, help="table to write, .csv or .parquet (default: DIR/index.csv)")
    parser.add_argument("--split-by", default="well", choices=[*UNITS, "none"], help="unit of the split")
    parser.add_argument("--seed", type=int, default=0, help="seed of the split")
    options = parser.parse_args(argv)
    out = options.out or Path(options.folder) / "index.csv"
    try:
        if out.exists():
            raise TableError(f"{out}: exists and may have been edited; remove it or give another --out")
        index = build_index(options.folder, options.pattern, options.pixel_size, dict(options.channel))
        index.attrs["root"] = str(Path(options.folder).resolve())
        index = check_index(index, options.folder)
        if options.plate_map:
            index = join_plate_map(index, read_plate_map(options.plate_map), options.plate_map)
        index = join_families(index, check_images(index).digests, options.split_by)
        if options.split_by != "none":
            index = assign_splits(index, options.split_by, _fractions(index), options.seed)
        write_index(index, out)
    except TableError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    _summary(index, out, options.split_by)
    return 0


def _fractions(index: pd.DataFrame) -> dict[str, float]:
    """The shares of the splits: those of pairs where there is transmitted light and something else."""
    images = [column for column in index if column.startswith("image_")]
    light = [column for column in images if re.match("image_(dic|phase|brightfield)(_|$)", column)]
    return PAIR_FRACTIONS if 0 < len(light) < len(images) else FRACTIONS


def _summary(index: pd.DataFrame, out: Path, split_by: str) -> None:
    from rich.console import Console
    from rich.table import Table

    def counted(values: Sequence[str] | pd.Series) -> str:
        return ", ".join(f"{value} ({count})" for value, count in pd.Series(values).value_counts().items())

    console = Console()
    table = Table("files", "present", "Y x X (files)", "type (files)")
    for column in file_columns(index):
        headers: list[ImageHeader] = [read_header(name) for name in index[column].dropna()]
        sizes = counted([f"{header.shape[0]} x {header.shape[1]}" for header in headers])
        table.add_row(column, f"{len(headers)} of {len(index)}", sizes, counted([str(h.dtype) for h in headers]))
    wells = index[["plate", "well"]].drop_duplicates()
    unmatched = index.attrs["unmatched"]
    console.print(table)
    console.print(f"{len(index)} fields, {len(wells)} wells, plates: {counted(index['plate'])}", highlight=False)
    sizes = ", ".join(f"{size:g}" for size in sorted(index["pixel_size"].unique()))
    console.print(f"names read as {index.attrs['layout']}, pixel size {sizes} um", highlight=False)
    if "split" in index:
        leaky = " LEAKY SPLIT" if index.attrs["leaky_split"] else ""
        console.print(f"split: {counted(index['split'])}{leaky}", highlight=False)
        console.print(
            f"drawn by {split_by}, {'/'.join(f'{100 * share:g}' for share in _fractions(index).values())} % to train, "
            "val and test; training keeps it. With --split-by none, data.split_by and data.fractions draw one there",
            highlight=False,
            soft_wrap=True,
        )
    if index.attrs["alone"]:
        console.print(f"[yellow]{_without_partner(index.attrs['alone'])}[/]", highlight=False, soft_wrap=True)
    if unmatched:
        console.print(f"[yellow]{len(unmatched)} files did not match[/]: {', '.join(unmatched[:5])}", highlight=False)
    console.print(f"wrote {out}", highlight=False, soft_wrap=True)


if __name__ == "__main__":
    sys.exit(main())
