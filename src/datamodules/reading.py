"""Reads an index table, CSV or Parquet, and finds what is wrong with its columns and cells."""

from __future__ import annotations

import csv
import difflib
import re
from pathlib import Path

import numpy as np
import pandas as pd

from .layouts import COLUMNS, PREFIXES, TableError

# Beyond these a table is no index: it is refused before it costs memory or minutes.
MOST_COLUMNS = 1000
LONGEST_LINE = 1_000_000
LONGEST_CELL = 4096


def read_table(path: Path) -> pd.DataFrame:
    """Read a CSV or Parquet table as text (pixel_size as it comes), spaces around names and cells removed.

    Raises TableError for a file that is no such table, has no rows, a name twice, cells of lists or endless text.
    """
    try:
        if path.suffix.lower() == ".parquet":
            table = pd.read_parquet(path)
        elif path.suffix.lower() == ".csv":
            separator = _csv_separator(path)
            table = pd.read_csv(
                path, sep=separator, dtype=str, encoding="utf-8-sig", keep_default_na=False, na_values=[""]
            )
        else:
            raise TableError(f"{path}: an index table is a .csv or .parquet file; rename or convert it")
    except TableError:
        raise
    except Exception as error:
        raise TableError(f"{path}: cannot be read as a table ({str(error).splitlines()[0]}); save it again") from None
    _check_count(len(table.columns), path)
    if table.empty:
        raise TableError(f"{path}: has no rows; write one row per field of view")
    table = table.reset_index(drop=True).rename(columns=lambda name: str(name).strip())
    for column in table.columns.difference(["pixel_size"]):
        if pd.api.types.is_float_dtype(table[column]) and (table[column].dropna() % 1 == 0).all():
            table[column] = table[column].astype("Int64")  # Parquet turns 1, 2, empty into floats
        _check_cells(table[column], path)
        table[column] = table[column].astype("string").str.strip()
    return table


def _csv_separator(path: Path) -> str:
    """The separator of a CSV, semicolons in some countries; its header line and the length of its lines are checked."""
    with path.open("rb") as file:
        for number, line in enumerate(iter(lambda: file.readline(LONGEST_LINE + 1), b""), 1):
            if len(line) > LONGEST_LINE:
                raise TableError(
                    f"{path}: line {number} has over {LONGEST_LINE} characters; save it again, a row per field"
                )
    with path.open(encoding="utf-8-sig") as file:
        header = file.readline()
    if "\t" in header and not {",", ";"} & set(header):
        raise TableError(f"{path}: its columns are separated by tabs; save it with commas or semicolons")
    separator = ";" if header.count(";") > header.count(",") else ","
    names = [name.strip() for name in next(csv.reader([header], delimiter=separator), [])]
    _check_count(len(names), path)
    if twice := next((name for number, name in enumerate(names) if name and name in names[:number]), None):
        raise TableError(f"{path}: column {twice} stands twice; remove or rename one")
    return separator


def _check_count(columns: int, path: Path) -> None:
    if columns > MOST_COLUMNS:
        raise TableError(f"{path}: has {columns} columns; is this an index table? Keep those of the index")


def _check_cells(cells: pd.Series, path: Path) -> None:
    """Refuse what no cell of an index holds: lists, NUL bytes, texts without an end."""
    for row, cell in cells.dropna().items():
        if isinstance(cell, str) and len(cell) <= LONGEST_CELL and "\0" not in cell:
            continue
        where = f"{path}: row {int(str(row)) + 2}, column {cells.name}"
        if not isinstance(cell, str | int | float | np.generic):
            raise TableError(f"{where} holds a {type(cell).__name__}; write text or a number")
        if "\0" in str(cell):
            raise TableError(f"{where} holds a NUL byte; save it again as text")
        if len(str(cell)) > LONGEST_CELL:
            raise TableError(f"{where} holds {len(str(cell))} characters; write at most {LONGEST_CELL}")


def check_columns(table: pd.DataFrame, path: Path) -> None:
    """Refuse a table without the columns that an index needs, or with misspelt ones. Raises TableError."""
    present = list(table.columns)
    strange = {name.lower(): name for name in present if name not in COLUMNS and not name.startswith(PREFIXES)}

    def near(column: str, cutoff: float) -> str | None:
        found = difflib.get_close_matches(column, strange, 1, cutoff)
        return strange[found[0]] if found else None

    images = any(name.startswith("image_") for name in present)
    for column in ["well", "field"] + ([] if images else ["image_nuclei"]):
        if column not in present:
            other = near(column, 0.5)
            mend = (
                f"rename {other!r}"
                if other
                else f"add it (the table has: {', '.join(present[:10])}{', ...' if len(present) > 10 else ''})"
            )
            wanted = column if column != "image_nuclei" else "image_<channel> (for example image_nuclei)"
            raise TableError(f"{path}: has no column {wanted}; {mend}")
    # A misspelt split must not become a random one, nor misspelt objects none.
    for column in COLUMNS[1:]:
        if column not in present and (other := near(column, 0.8)):
            raise TableError(f"{path}: column {other!r} is not known; is {column!r} meant? Rename it")
    for name in strange.values():
        if found := re.match(r"(object|image|mask)s?[_ -](.+)", name, re.IGNORECASE):
            meant = ("objects_" if found[1].lower() == "object" else f"{found[1].lower()}_") + found[2]
            raise TableError(f"{path}: column {name!r} is not known; is {meant!r} meant? Rename it")
