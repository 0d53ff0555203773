"""Checks of an index table and of the files it names, all made before anything trains."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pandas as pd

from ..imaging.io import ImageError, read_header, read_image, read_labels
from .layouts import PREFIXES, TableError
from .splits import check_split


def file_columns(index: pd.DataFrame) -> list[str]:
    return [column for column in index if column.startswith(PREFIXES)]


def check_index(index: pd.DataFrame, source: str) -> pd.DataFrame:
    """Return the index, or raise TableError for the first thing in it that cannot be right; opens no file."""
    images = [column for column in index if column.startswith("image_")]
    for column in ["well", "field", "pixel_size", *images]:
        empty = index.index[index[column].isna()]
        if len(empty):
            mend = "write micrometres per pixel, or set data.pixel_size" if column == "pixel_size" else "fill it"
            where = f"row {empty[0] + 2}, column {column}"
            raise TableError(f"{source}: {where} is empty (id {index['id'][empty[0]]}, {len(empty)} rows); {mend}")
    wrong = index.index[~index["pixel_size"].between(0, float("inf"), inclusive="neither")]
    if len(wrong):
        raise TableError(f"{source}: row {wrong[0] + 2}, column pixel_size: must be above 0 micrometres")
    double = index.index[index["id"].duplicated(keep=False)]
    if len(double):
        name = index.loc[double[0], "id"]
        rows = ", ".join(str(row + 2) for row in index.index[index["id"] == name][:3])
        raise TableError(
            f"{source}: column id: {name!r} stands in rows {rows} ({len(double)} rows in all share ids); "
            "give each row its own"
        )
    unsafe = index.index[index["id"].str.contains(r"[/\\]") | index["id"].str.startswith(".")]
    if len(unsafe):
        raise TableError(
            f"{source}: row {unsafe[0] + 2}, column id: no slash and no leading dot, ids name output files"
        )
    absent = [(row, column, name) for row, column, name in _files(index) if not os.path.isfile(name)]
    if absent:
        some = "; ".join(f"row {row + 2}, column {column}: {name}" for row, column, name in absent[:3])
        raise TableError(f"{source}: {len(absent)} files are missing: {some}; correct the paths or copy the files")
    if "split" in index:
        check_split(index, source)
    return index


def _files(index: pd.DataFrame) -> Iterator[tuple[int, str, str]]:
    for column in file_columns(index):
        for row, name in index[column].dropna().items():
            yield row, column, str(name)


def check_images(index: pd.DataFrame) -> None:
    """Check the files of an index before training: present, readable, one size (Y X) per field, one channel each.

    Every pixel is decoded (NaN, constant and truncated images); a constant mask or empty label image is no problem.
    Collects all problems and raises one TableError that lists up to ten.
    """
    from rich.progress import track

    problems: list[str] = []
    columns = file_columns(index)
    for _, row in track(index.iterrows(), "checking images", len(index), transient=True):
        shapes: dict[str, tuple[int, int]] = {}
        for column in columns:
            if pd.isna(row[column]):
                continue
            try:
                shapes[column] = read_header(row[column]).shape
                (read_image if column.startswith("image_") else read_labels)(row[column])
            except ImageError as error:
                problems.append(f"{column}: {error}")
        if len(set(shapes.values())) > 1:
            sizes = ", ".join(f"{column} {y}x{x}" for column, (y, x) in shapes.items())
            name = row[next(iter(shapes))]
            problems.append(f"{row['id']}: sizes differ ({sizes}; {name}); crop or export them to one size")
    if problems:
        more = f"\n  ... and {len(problems) - 10} more" if len(problems) > 10 else ""
        root = index.attrs.get("root", "index")
        if len(problems) == 1:
            raise TableError(f"{root}: {problems[0]}")
        raise TableError(f"{root}: {len(problems)} problems:\n  " + "\n  ".join(problems[:10]) + more)
