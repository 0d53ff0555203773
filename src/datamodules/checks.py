"""Checks of an index table and of the files it names, all made before anything trains."""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd

from ..imaging.io import ImageError, read_header, read_image, read_labels
from ..imaging.polarity import looks_inverted
from .layouts import PREFIXES, TableError
from .splits import check_split

log = logging.getLogger(__name__)


class ImageReport(NamedTuple):
    """What the images of an index gave: per problem the field's id and the reason; per row digests of its images."""

    problems: list[dict[str, str]]
    digests: list[dict[str, str]]  # column to digest of the decoded pixels


PIXEL_SIZES = (0.001, 100.0)  # micrometres, from an electron microscope's to a macro lens's: beyond it a unit is wrong


def file_columns(index: pd.DataFrame) -> list[str]:
    return [column for column in index if column.startswith(PREFIXES)]


def require_channels(index: pd.DataFrame, channels: Sequence[str], source: str) -> None:
    """Raise TableError, naming those there are, for a channel that the index does not have."""
    have = [column.removeprefix("image_") for column in index if column.startswith("image_")]
    if missing := [name for name in channels if name not in have]:
        raise TableError(f"{source} has no channel {missing[0]!r}; the channels of data can name: {', '.join(have)}")


def of_channels(index: pd.DataFrame, channels: Sequence[str], source: str) -> pd.DataFrame:
    """Return the index with the images of these channels alone, in their order.

    Plates on which no field has one of them (stained for something else) are left out, and the log says so. Raises
    TableError for a channel that no field has.
    """
    require_channels(index, channels, source)
    columns = [f"image_{name}" for name in channels]
    bare = pd.Series(False, index.index)
    for column in columns:
        bare |= ~index[column].notna().groupby(index["plate"]).transform("any")
    if bare.any() and not bare.all():
        plates = index.loc[bare, "plate"].unique()
        some = ", ".join(plates[:5]) + (", ..." if len(plates) > 5 else "")
        log.warning(
            "%s: %d fields of %d plates have no %s and are left out: %s",
            *(source, bare.sum(), len(plates), " or no ".join(columns), some),
        )
    kept = index.loc[~bare | bare.all()]
    _require_partners(kept, columns, source)
    kept = kept[[*(column for column in index if not column.startswith("image_")), *columns]]
    kept.attrs = dict(index.attrs)
    return kept


def _require_partners(index: pd.DataFrame, columns: Sequence[str], source: str) -> None:
    """Raise TableError, naming a file that is there, for a field of a folder without a table that lacks an image."""
    for column in columns if "layout" in index.attrs else ():
        lacking = index.index[index[column].isna()]
        if len(lacking):
            there = index.loc[lacking[0], file_columns(index)].dropna().iloc[0]
            raise TableError(
                f"{source}: {there} has no {column} beside it ({len(lacking)} fields have none); copy the file of the "
                "same plate, well and field, or remove this one"
            )


def check_index(index: pd.DataFrame, source: str) -> pd.DataFrame:
    """Return the index, or raise TableError for the first thing in it that cannot be right; opens no file."""
    images = [column for column in index if column.startswith("image_")]
    _require_partners(index, images, source)
    for column in ["well", "field", "pixel_size", *images]:
        empty = index.index[index[column].isna()]
        if len(empty):
            mend = "write micrometres per pixel, or set data.pixel_size" if column == "pixel_size" else "fill it"
            mend += ", or leave the row out" if column in images else ""
            where = f"row {empty[0] + 2}, column {column}"
            raise TableError(f"{source}: {where} is empty (id {index['id'][empty[0]]}, {len(empty)} rows); {mend}")
    wrong = index.index[~index["pixel_size"].between(*PIXEL_SIZES)]
    if len(wrong):
        value, (low, high) = index["pixel_size"][wrong[0]], PIXEL_SIZES
        raise TableError(
            f"{source}: row {wrong[0] + 2}, column pixel_size: {value:g} is no pixel of a microscope; "
            f"write micrometres per pixel, above 0 ({low:g} to {high:g})"
        )
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


def check_images(index: pd.DataFrame, on_bad_image: str = "stop", stained: Sequence[str] = ()) -> ImageReport:
    """Check the files of an index before training: readable, one channel each; per field of one size and different.

    Every pixel is decoded (NaN, constant and truncated images); a constant mask or empty label image is no problem.
    Images of the channels `stained` must show bright objects on a dark ground.
    Collects all problems; "stop" raises one TableError that lists up to ten, "skip" returns them for `drop_bad`.
    """
    from rich.progress import track

    if on_bad_image not in ("stop", "skip"):
        raise ValueError(f"data.on_bad_image={on_bad_image} is unknown; it is stop or skip")
    problems: list[dict[str, str]] = []
    digests: list[dict[str, str]] = []
    columns = file_columns(index)
    for _, row in track(index.iterrows(), "checking images", len(index), transient=True):
        shapes: dict[str, tuple[int, int]] = {}
        digests.append({})
        for column in columns:
            if pd.isna(row[column]):
                continue
            try:
                shapes[column] = read_header(row[column]).shape
                if column.startswith("image_"):
                    image = read_image(row[column])
                    digests[-1][column] = _digest(image)
                    if column.removeprefix("image_") in stained and looks_inverted(image):
                        reason = (
                            f"{column}: {row[column]} shows dark objects on a bright ground; fluorescence is meant: "
                        )
                        problems.append({"id": row["id"], "reason": reason + "invert it, or name the stained channel"})
                else:
                    read_labels(row[column])
            except ImageError as error:
                problems.append({"id": row["id"], "reason": f"{column}: {error}"})
        if same := _same_pixels(digests[-1], row):
            problems.append({"id": row["id"], "reason": same})
        if len(set(shapes.values())) > 1:
            sizes = ", ".join(f"{column} {y}x{x}" for column, (y, x) in shapes.items())
            reason = f"sizes differ ({sizes}; {row[next(iter(shapes))]}); crop or export them to one size"
            problems.append({"id": row["id"], "reason": reason})
    if problems and on_bad_image == "stop":
        lines = [f"{problem['id']}: {problem['reason']}" for problem in problems]
        root = index.attrs.get("root", "index")
        if len(lines) == 1:
            raise TableError(f"{root}: {lines[0]}; or set data.on_bad_image=skip")
        more = f"\n  ... and {len(lines) - 10} more" if len(lines) > 10 else ""
        mend = "\ncorrect them, or set data.on_bad_image=skip"
        raise TableError(f"{root}: {len(lines)} problems:\n  " + "\n  ".join(lines[:10]) + more + mend)
    return ImageReport(problems, digests)


def _same_pixels(digests: dict[str, str], row: pd.Series) -> str | None:
    """Which two channels of a field are one image, and what to do."""
    seen: dict[str, str] = {}
    for column, digest in digests.items():
        first = seen.setdefault(digest, column)
        if first != column:
            files = list(dict.fromkeys((str(row[first]), str(row[column]))))
            what = "are one file" if len(files) == 1 else "have the same pixels"
            return f"{first} and {column} {what} ({' and '.join(files)}); name the file of each channel"
    return None


def _digest(image: np.ndarray) -> str:
    """Names the pixels of an image, whatever file, compression or metadata they came in."""
    return hashlib.sha256(f"{image.shape} {image.dtype}".encode() + image.tobytes()).hexdigest()


def drop_bad(index: pd.DataFrame, problems: list[dict[str, str]]) -> pd.DataFrame:
    """Return the index without the fields that have problems, each logged; `attrs["skipped"]` keeps the list.

    Raises TableError where nothing is left of a split that had fields.
    """
    for problem in problems:
        log.warning("skipped %s: %s", problem["id"], problem["reason"])
    good = ~index["id"].isin([problem["id"] for problem in problems])
    kept = index[good].reset_index(drop=True)
    kept.attrs = {**index.attrs, "skipped": problems}
    sides = index["split"] if "split" in index else pd.Series("single", index.index)
    gone = sorted(set(sides) - set(sides[good]))
    if gone:
        raise TableError(
            f"{index.attrs.get('root', 'index')}: every {gone[0]} field has a problem and was skipped "
            f"({problems[0]['id']}: {problems[0]['reason']}); correct them, or change the split"
        )
    return kept
