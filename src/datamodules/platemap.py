"""What is in each well: compound, concentration, role, replicate and batch, from a long or a grid table.

Long: one row per well, with the column well and any of plate, compound, concentration, unit, role, replicate, batch.
Grid: one block per variable, its name in the top left cell, the columns 1 to 12 (24, 48) beside it and the rows A to H
(P, AF) under it; an empty line between blocks. Other columns and blocks are kept, as text.
"""

from __future__ import annotations

import csv
import difflib
import logging
import os
from collections.abc import Iterator
from pathlib import Path

import pandas as pd

from .layouts import COLUMNS, PREFIXES, TableError, ordered, plain_well

log = logging.getLogger(__name__)

VARIABLES = ("compound", "concentration", "unit", "role", "replicate", "batch")
ROLES = ("negative", "positive", "treatment", "empty")
# What else is written for a role, in lower case, with spaces for hyphens and underscores.
SYNONYMS = {
    **{role: role for role in ROLES},
    **dict.fromkeys(("neg", "negcon", "neg control", "negative control"), "negative"),
    **dict.fromkeys(("pos", "poscon", "pos control", "positive control"), "positive"),
    **dict.fromkeys(("treated", "trt", "sample"), "treatment"),
    "blank": "empty",
}
FORMATS = ((2, 3), (4, 6), (6, 8), (8, 12), (16, 24), (32, 48))
LETTERS = [*(chr(65 + row) for row in range(26)), *(f"A{chr(65 + row)}" for row in range(6))]


def read_plate_map(path: str | os.PathLike[str]) -> pd.DataFrame:
    """Read and check a plate map (CSV, long or grid, comma or semicolon): one row per well, wells named A01.

    Raises TableError that names file, row, column and mend.
    """
    path = Path(path)
    if not path.is_file():
        raise TableError(
            f"data.plate_map={path} does not exist; give a CSV with one row per well, or one grid a variable"
        )
    cells = read_cells(path)
    first = [cell.lower() for cell in cells[0][1]]
    if len(first) > 1 and first[1] == "1" and first[0] != "well":
        wells, places = _grid(cells, path)
    else:
        wells, places = _long(cells, path)
    for row, place in zip(wells.index, places, strict=True):
        name = plain_well(wells.loc[row, "well"])
        if name is None:
            raise TableError(f"{path}: {place}, column well: {wells.loc[row, 'well']!r} is no well; write it like A01")
        wells.loc[row, "well"] = name
    keys = [column for column in ("plate", "well") if column in wells]
    double = wells.index[wells.duplicated(keys, keep=False)]
    if len(double):
        twice = [places[row] for row in double if (wells.loc[row, keys] == wells.loc[double[0], keys]).all()]
        name = ":".join(wells.loc[double[0], keys])
        raise TableError(f"{path}: column well: {name} stands in {', '.join(twice[:3])}; keep one")
    return check_plate_columns(wells, str(path), places)


def read_cells(path: Path) -> list[tuple[int, list[str]]]:
    """The lines of a CSV that hold something, as (line number, cells without spaces around them)."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise TableError(f"{path}: cannot be read as a table ({error}); save it as CSV in UTF-8") from None
    header = next((line for line in text.splitlines() if line.strip(",; \t")), "")
    separator = ";" if header.count(";") > header.count(",") else ","
    rows = [[cell.strip() for cell in row] for row in csv.reader(text.splitlines(), delimiter=separator)]
    cells = [(number, row) for number, row in enumerate(rows, 1) if any(row)]
    if not cells:
        raise TableError(f"{path}: is empty; write one row per well, or one grid a variable")
    return cells


def _long(cells: list[tuple[int, list[str]]], path: Path) -> tuple[pd.DataFrame, list[str]]:
    names = [name.lower() for name in cells[0][1]]
    while names and not names[-1]:
        names.pop()
    if "well" not in names:
        raise TableError(
            f"{path}: row {cells[0][0]}: has no column well (it has: {', '.join(names)}); name it so, or write grids "
            "with the variable in the top left cell and the columns 1, 2, 3, ... beside it"
        )
    _check_names(names, path)
    rows = []
    for number, row in cells[1:]:
        if any(row[len(names) :]):
            raise TableError(
                f"{path}: row {number}: has more cells than the {len(names)} columns; quote commas in text"
            )
        rows.append(dict(zip(names, row, strict=False)))
    table = pd.DataFrame(rows, columns=names, dtype="string").replace("", pd.NA)
    places = [f"row {number}" for number, _ in cells[1:]]
    for column in {"plate", "well"} & set(names):
        if table[column].isna().any():
            raise TableError(
                f"{path}: {places[int(table[column].isna().argmax())]}, column {column}: is empty; fill it"
            )
    if table.empty:
        raise TableError(f"{path}: has no rows; write one row per well")
    return table, places


def _check_names(names: list[str], path: Path) -> None:
    known = ("plate", "well", *VARIABLES)
    for name in names:
        if not name or names.count(name) > 1:
            raise TableError(
                f"{path}: column {name!r} is empty or stands twice; give each column or block its own name"
            )
        near = difflib.get_close_matches(name, set(known) - set(names), 1, 0.8)
        if name not in known and near:
            raise TableError(f"{path}: column {name!r} is not known; is {near[0]!r} meant? Rename it")
        if name in set(COLUMNS) - {"plate", "well"} or name.startswith(PREFIXES):
            raise TableError(f"{path}: column {name!r} belongs to the index of images; rename it")


def _grid(cells: list[tuple[int, list[str]]], path: Path) -> tuple[pd.DataFrame, list[str]]:
    blocks: dict[str, dict[str, str]] = {}
    names: list[str] = []
    for name, values in _blocks(cells, path):
        names.append(name)
        blocks[name] = values
    _check_names(names, path)
    if "plate" in names or "well" in names:
        raise TableError(f"{path}: a grid is one plate and names its wells itself; write plates as a long table")
    table = pd.DataFrame(blocks, dtype="string").replace("", pd.NA).dropna(how="all")
    if table.empty:
        raise TableError(f"{path}: its grids are empty; fill them")
    places = [f"well {well}" for well in table.index]
    return table.rename_axis("well").reset_index().astype("string"), places


def _blocks(cells: list[tuple[int, list[str]]], path: Path) -> Iterator[tuple[str, dict[str, str]]]:
    """Yield each block's variable and its value by well."""
    start = 0
    while start < len(cells):
        end = start + 1
        while end < len(cells) and cells[end][0] == cells[end - 1][0] + 1:
            end += 1
        line, header = cells[start]
        heads = [head for head in header[1:] if head]
        size = next((size for size in FORMATS if size == (end - start - 1, len(heads))), None)
        where = f"{path}: row {line}: the grid {header[0]!r}"
        if not header[0]:
            raise TableError(f"{path}: row {line}: a grid has no name; write its variable in the top left cell")
        if size is None or heads != [str(column) for column in range(1, len(heads) + 1)]:
            known = ", ".join(f"{rows} x {columns}" for rows, columns in FORMATS)
            raise TableError(
                f"{where} has {end - start - 1} rows and the columns {', '.join(heads[:3])} ...; give all rows A, B, "
                f"C, ... and the columns 1, 2, 3, ... of a plate ({known}), and an empty line between grids"
            )
        values = {}
        for (number, row), letter in zip(cells[start + 1 : end], LETTERS, strict=False):
            if row[0].upper() != letter:
                raise TableError(
                    f"{path}: row {number}, column 1: {row[0]!r} stands where row {letter} is due; correct it"
                )
            if any(row[len(heads) + 1 :]):
                raise TableError(f"{path}: row {number}: has a value behind column {len(heads)}; quote commas in text")
            for column in range(1, len(heads) + 1):
                values[f"{letter}{column:02d}"] = row[column] if column < len(row) else ""
        yield header[0].lower(), values
        start = end


def check_plate_columns(table: pd.DataFrame, source: str, places: list[str] | None = None) -> pd.DataFrame:
    """Return a table with its columns of VARIABLES checked: roles by their plain names, concentrations as float.

    `places` says where each row stands (default: row 2 is the first). Raises TableError.
    """
    table = table.copy()
    places = places or [f"row {number + 2}" for number in range(len(table))]
    if "role" in table:
        plain = table["role"].str.lower().str.replace(r"[-_\s]+", " ", regex=True).map(SYNONYMS, na_action="ignore")
        wrong = (plain.isna() & table["role"].notna()).to_numpy()
        if wrong.any():
            first = int(wrong.argmax())
            raise TableError(
                f"{source}: {places[first]}, column role: {table['role'].iloc[first]!r} is no role; write "
                f"{', '.join(ROLES)}"
            )
        table["role"] = plain.astype("string")
    if "concentration" in table:
        numbers = pd.to_numeric(table["concentration"], errors="coerce").astype(float)
        wrong = (table["concentration"].notna() & ~numbers.between(0, float("inf"), inclusive="left")).to_numpy()
        if wrong.any():
            first = int(wrong.argmax())
            raise TableError(
                f"{source}: {places[first]}, column concentration: {table['concentration'].iloc[first]!r} is no number "
                "of at least 0; write it like 0.5"
            )
        table["concentration"] = numbers
        units = table["unit"] if "unit" in table else pd.Series(pd.NA, table.index)
        wrong = ((table["concentration"] > 0) & units.isna()).to_numpy()
        if wrong.any():
            first = int(wrong.argmax())
            raise TableError(
                f"{source}: {places[first]}, column unit: is empty, and the concentration is "
                f"{table['concentration'].iloc[first]:g}; write its unit, for example uM"
            )
    return table


def join_plate_map(index: pd.DataFrame, plate_map: pd.DataFrame, source: str = "plate map") -> pd.DataFrame:
    """Return the index with the columns of a plate map, joined by well, and by plate where the map names plates.

    Logs the wells of the map that no image shows. Raises TableError for wells with images that the map lacks and for
    columns that the index has already.
    """
    keys = ["plate", "well"] if "plate" in plate_map else ["well"]
    twice = [column for column in plate_map if column in index and column not in keys]
    if twice:
        raise TableError(
            f"{source}: the index has a column {twice[0]} already; drop it there, or leave out the plate map"
        )
    named = index[keys].assign(well=index["well"].map(lambda name: plain_well(name) or name))
    wells = pd.MultiIndex.from_frame(named.astype(str))
    mapped = pd.MultiIndex.from_frame(plate_map[keys].astype(str))

    def some(names: pd.MultiIndex) -> str:
        words = sorted(":".join(name) for name in names.unique())
        return ", ".join(words[:8]) + (f", ... ({len(words)} wells)" if len(words) > 8 else "")

    lacking = wells.difference(mapped)
    if len(lacking):
        raise TableError(
            f"{source}: has no row for {some(lacking)}, of which there are images; add them (role empty, if so), or "
            "leave the images out"
        )
    unseen = mapped.difference(wells)
    if len(unseen):
        log.warning("%s: no image shows %s", source, some(unseen))
    columns = plate_map.drop(columns=keys).set_axis(mapped).reindex(wells).set_axis(index.index)
    joined = ordered(pd.concat([index, columns], axis=1))
    joined.attrs = dict(index.attrs)
    return joined
