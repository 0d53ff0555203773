"""Writes a study's result: CSV and Parquet tables, PNG figures, and one HTML page that needs nothing else."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from jinja2 import Environment, StrictUndefined
from rich.console import Console
from rich.table import Table
from rich.text import Text

from ..imaging.files import replacing
from .result import StudyResult

PER_IMAGE = "per_image"  # the long table: Parquet too, and only its beginning in the page
SHOWN_ROWS = 400
FOLDED_ROWS = 60  # longer tables are shown when their heading is clicked
MIXED = 20.0  # a column whose values differ by more than this factor has no common number of decimals
WIDE_INCHES = 8.0  # wider figures keep their size on a telephone and scroll inside their box


def write_report(
    result: StudyResult, folder: str | Path, command: str, config_yaml: str, context: Mapping[str, Any]
) -> Path:
    """Write tables (CSV), figures (PNG) and `report.html` into `folder`, whole or not at all; return the page's path.

    `context` is printed as it comes, in its order: versions, seed, n, machine, time; nested mappings become one line.
    The page holds its pictures and styles, refers to nothing outside and runs no script. Raises OSError if `folder`
    cannot be written.
    """
    folder = Path(folder)
    for name, table in result.tables.items():
        with replacing(folder / f"{name}.csv") as temporary:
            table.to_csv(temporary, index=False)
        if name == PER_IMAGE:
            with replacing(folder / f"{name}.parquet") as temporary:
                table.to_parquet(temporary, index=False)
    pictures = []
    for name, figure in result.figures.items():
        buffer = io.BytesIO()
        figure.savefig(buffer, format="png", dpi=160)
        with replacing(folder / f"{name}.png") as temporary:
            temporary.write_bytes(buffer.getvalue())
        pictures.append(
            {
                "name": name,
                "data": base64.b64encode(buffer.getvalue()).decode("ascii"),
                "caption": result.captions.get(name, ""),
                "wide": figure.get_figwidth() > WIDE_INCHES,
            }
        )
    gallery = [
        {"title": p.title, "caption": p.caption, "data": base64.b64encode(p.png).decode("ascii")}
        for p in result.gallery
    ]
    tables = [_page_table(result, name) for name in sorted(result.tables, key=lambda name: name != result.main)]
    template = files(__package__).joinpath("report.html").read_text(encoding="utf-8")
    page = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True).from_string(
        template
    )
    path = folder / "report.html"
    text = page.render(
        title=result.title,
        verdict=result.verdict,
        main=tables[0],
        tables=tables[1:],
        figures=pictures,
        gallery=gallery,
        notes=result.notes,
        command=command,
        config=config_yaml,
        context={key: _one_line(value) for key, value in context.items()},
    )
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
    return path


def print_main_table(result: StudyResult, console: Console | None = None) -> None:
    """Print verdict and main table as far as the console is wide; say which columns did not fit."""
    console = console or Console()
    shown = display(result.tables[result.main])
    width, kept = 0, list[str]()
    for name in shown.columns:
        width += max(len(name), *shown[name].str.len(), 0) + 2
        if kept and width > console.width:
            break
        kept.append(name)
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    for name in kept:
        table.add_column(
            Text(name), justify="right" if is_number(result.tables[result.main], name) else "left", no_wrap=True
        )
    for row, kind in zip(shown[kept].itertuples(index=False), _kinds(result.tables[result.main]), strict=True):
        table.add_row(*map(Text, row), style="bold" if kind == "model" else None)
    if result.verdict:
        console.print(Text(result.verdict))
    console.print(table)
    rest = [name for name in shown.columns if name not in kept]
    if rest:
        console.print(Text(f"Also in {result.main}.csv: {', '.join(rest)}", style="dim"))


def display(table: pd.DataFrame) -> pd.DataFrame:
    """A table of strings to read: `x low` and `x high` join `x` in brackets.

    A column has one number of decimals; if its values lie too far apart for that, each has three significant digits.
    """
    shown = {}
    for name in table.columns:
        if any(name.endswith(end) and name.removesuffix(end) in table for end in (" low", " high")):
            continue
        low, high = table.get(f"{name} low"), table.get(f"{name} high")
        if not is_number(table, name):
            shown[name] = ["" if pd.isna(value) else str(value) for value in table[name]]
        elif low is None or high is None:
            small = name == "p" or name.startswith("p ")
            decimals = 3 if small else _decimals(table[name])
            shown[name] = [_number(value, decimals, small) for value in table[name]]
        else:
            decimals = _decimals(pd.concat([table[name], low, high]))
            shown[name] = [_with_interval(*values, decimals) for values in zip(table[name], low, high, strict=True)]
    return pd.DataFrame(shown, dtype=object)


def is_number(table: pd.DataFrame, name: str) -> bool:
    """Whether a column holds numbers, and so is aligned to the right."""
    return pd.api.types.is_numeric_dtype(table[name]) and not pd.api.types.is_bool_dtype(table[name])


def _page_table(result: StudyResult, name: str) -> dict[str, Any]:
    table = result.tables[name]
    head = table.head(SHOWN_ROWS)
    shown = display(head)
    return {
        "name": name,
        "heading": name.replace("_", " ").capitalize(),
        "caption": result.captions.get(name, ""),
        "columns": [(column, is_number(head, column)) for column in shown.columns],
        "rows": list(zip(_kinds(head), shown.itertuples(index=False, name=None), strict=True)),
        "left_out": len(table) - len(head),
        "folded": len(table) > FOLDED_ROWS,
    }


def _kinds(table: pd.DataFrame) -> list[str]:
    return [str(kind) for kind in table["kind"]] if "kind" in table else [""] * len(table)


def _decimals(values: pd.Series) -> int | None:
    """Decimals of a column, None where each value needs its own."""
    if pd.api.types.is_integer_dtype(values):
        return 0
    finite = np.abs(values.to_numpy(dtype=float))
    finite = finite[np.isfinite(finite)]
    largest, nonzero = finite.max(initial=0.0), finite[finite > 0]
    if len(nonzero) and largest >= 10 and largest > MIXED * nonzero.min():
        return None
    return 3 if largest <= 1 else 2 if largest < 10 else 1


def _number(value: float, decimals: int | None, small: bool = False) -> str:
    if pd.isna(value):
        return "n/a"
    if small and value < 0.001:
        return "<0.001"
    if decimals is None:
        decimals = int(np.clip(2 - np.floor(np.log10(abs(value))), 0, 6)) if value and np.isfinite(value) else 0
    return f"{value:.{decimals}f}"


def _with_interval(value: float, low: float, high: float, decimals: int | None) -> str:
    if pd.isna(value):
        return "n/a"
    if pd.isna(low) or pd.isna(high):
        return f"{_number(value, decimals)} [no interval]"
    return f"{_number(value, decimals)} [{_number(low, decimals)}, {_number(high, decimals)}]"


def _one_line(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {_one_line(inner)}" for key, inner in value.items())
    return str(value)
