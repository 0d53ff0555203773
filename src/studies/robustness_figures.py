"""Figures of robustness: scores against severity, scores under laboratory errors, one patch under each condition."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from .figures import COLOURS, INK, MARKERS, MODEL_COLOUR, tidy
from .translation import OF_SHAPE

LOSS = "PCC loss"
AMOUNTS = {"defocus": "disc radius, px", "brightness": "bias, of 255", "contrast": "gain"}
CLIPPED = 0.01  # a larger share of clipped pixels is shown: as much makes a crop overexposed (datamodules/pairs.py)
SHADE = "#e9e9e9"


def against_severity(
    table: pd.DataFrame, null: Mapping[str, float], null_name: str, readouts: Sequence[str]
) -> dict[str, Figure]:
    """A panel per score (rows) and kind (columns): a line per method over severity, with intervals over wells.

    `table` has method, corruption, severity, amount, clipped and the scores; `null` the scores of `null_name`, a dashed
    line. Severities that clip more than 1 % of the pixels are shaded, the share in per cent above them. Intensities, if
    among the `readouts`, have a figure of their own.
    """
    parts = {
        "against_severity": [name for name in readouts if name in OF_SHAPE],
        "intensities_against_severity": [name for name in readouts if name not in OF_SHAPE],
    }
    return {
        name: _against_severity(
            table, null, null_name, [LOSS] * (name == "against_severity") + _of(own, "r", "bias (%)")
        )
        for name, own in parts.items()
        if own
    }


def _of(readouts: Sequence[str], *scores: str) -> list[str]:
    return [f"{name.replace('_', ' ')} {score}" for score in scores for name in readouts]


def _label(score: str) -> str:
    if score == LOSS:
        return f"{LOSS}, (1 - r) / 2"
    name, _, what = score.rpartition(" bias")
    return f"{name}:\nbias{what}" if name else f"{score.removesuffix(' r')}:\nPearson r"


def _against_severity(table: pd.DataFrame, null: Mapping[str, float], null_name: str, scores: Sequence[str]) -> Figure:
    kinds = list(AMOUNTS)
    widths = [table.loc[table["corruption"] == kind, "severity"].nunique() for kind in kinds]
    size = (1.9 + 0.42 * max(sum(widths), 18), 0.7 + 2.2 * len(scores))
    figure = Figure(figsize=size, layout="constrained")
    grid = figure.subplots(
        len(scores), len(kinds), squeeze=False, sharex="col", sharey="row", width_ratios=[max(w, 4) for w in widths]
    )
    for column, kind in enumerate(kinds):
        own = table[table["corruption"] == kind]
        ticks = sorted(own["severity"].unique())
        places = {severity: place for place, severity in enumerate(ticks)}
        clipped = own.groupby("severity")["clipped"].first()
        for score, axes in zip(scores, grid[:, column], strict=True):
            for severity, share in clipped.items():
                if share > CLIPPED:
                    axes.axvspan(places[severity] - 0.5, places[severity] + 0.5, color=SHADE, zorder=0, linewidth=0)
            for offset, style, rows in _methods(own):
                x = rows["severity"].map(places).to_numpy(float) + offset
                axes.errorbar(x, rows[score], yerr=_spread(rows, score), linewidth=1.8, **style)
            axes.axhline(null[score], color="#777777", linestyle="--", linewidth=1.2, zorder=1)
            tidy(axes)
            axes.set_xticks(range(len(ticks)))
            axes.set_xlim(-0.5, len(ticks) - 0.5)
        top, bottom = grid[0, column], grid[-1, column]
        for severity, share in clipped.items():
            if share > CLIPPED:
                words = f"{100 * share:.0f} %"
                place = (places[severity], 1.01)
                top.annotate(words, place, xycoords=top.get_xaxis_transform(), ha="center", va="bottom", fontsize=8)
        top.set_title(f"{kind}\n", fontsize=12)
        amounts = own.groupby("severity")["amount"].first()
        bottom.set_xticklabels([f"{severity}\n{amounts[severity]:g}" for severity in ticks], fontsize=9)
        bottom.set_xlabel(f"severity, and {AMOUNTS[kind]}", fontsize=11)
    for line, score in zip(grid, scores, strict=True):
        line[0].set_ylabel(_label(score), fontsize=11)
    figure.align_ylabels(grid[:, 0])
    _legend(figure, table, null_name)
    return figure


def of_lab_errors(table: pd.DataFrame, null: Mapping[str, float], null_name: str, readouts: Sequence[str]) -> Figure:
    """A panel per score: a line per laboratory error (none first), a dot per method with its interval over wells.

    More than two readouts have their biases in a second row, each under its r.
    """
    names = list(dict.fromkeys(table["lab error"]))
    first, second = [LOSS, *_of(readouts, "r")], _of(readouts, "bias (%)")
    lines = [first, ["", *second]] if len(readouts) > 2 else [[*first, *second]]
    size = (13.5, (1.4 + 0.45 * len(names)) * len(lines))
    figure = Figure(figsize=size, layout="constrained")
    grid = figure.subplots(len(lines), len(lines[0]), sharey=True, squeeze=False)
    for axes, score in zip(grid.ravel(), [score for line in lines for score in line], strict=True):
        if not score:
            axes.set_axis_off()
            continue
        for offset, style, rows in _methods(table):
            y = rows["lab error"].map(names.index).to_numpy(float) + offset
            axes.errorbar(rows[score], y, xerr=_spread(rows, score), **style | {"linestyle": "none"})
        axes.axvline(null[score], color="#777777", linestyle="--", linewidth=1.2, zorder=1)
        axes.set_xlabel(_label(score), fontsize=11)
        tidy(axes)
        axes.grid(axis="x", color="#dddddd", linewidth=0.8)
        axes.xaxis.set_major_locator(MaxNLocator(4))
    for line, scores in zip(grid, lines, strict=True):
        start = line[int(not scores[0])]
        start.set_yticks(range(len(names)), [name.replace("_", " ") for name in names])
        start.tick_params(labelleft=True)
    grid[0, 0].invert_yaxis()
    _legend(figure, table, null_name)
    return figure


def example_pictures(pictures: Mapping[Any, Mapping[str, np.ndarray]]) -> Figure:
    """One patch: a column per condition, in the order of severity; source above, then predictions, and the true stain.

    Sources are shares of the camera's full scale (Y X), drawn from 0 to 1 of it; those of defocus, all equally bright,
    in the range of the clean one. Stains are drawn in the range of the clean one of their row. A true stain that is the
    same under every condition stands once, beside.
    """
    ordered = sorted(pictures, key=lambda condition: condition.severity)
    clean = next(pictures[condition] for condition in ordered if condition.corruption == "clean")
    same = all(np.array_equal(picture["target"], clean["target"]) for picture in pictures.values())
    names = [name for name in clean if not (same and name == "target")]
    columns = len(ordered) + same
    figure = Figure(figsize=(1.5 + 1.25 * columns, 0.5 + 1.3 * len(names)), layout="constrained")
    grid = figure.subplots(len(names), columns, squeeze=False)
    ranges = {name: np.quantile(image, [0.002, 0.998]) for name, image in clean.items()}
    if any(condition.corruption not in ("clean", "defocus") for condition in ordered):
        ranges["source"] = np.array([0.0, 1.0])
    for line, name in zip(grid, names, strict=True):
        for axes, condition in zip(line, ordered, strict=False):
            _show(axes, pictures[condition][name], ranges[name])
        label = textwrap.fill("true stain" if name == "target" else name, 14)
        line[0].set_ylabel(label, rotation=0, ha="right", va="center", fontsize=10, labelpad=6, parse_math=False)
    for axes, condition in zip(grid[0], ordered, strict=False):
        axes.set_title(_title(condition), fontsize=10)
    if same:
        for axes in grid[1:, -1]:
            axes.set_axis_off()
        _show(grid[0, -1], clean["target"], ranges["target"])
        grid[0, -1].set_title("true stain", fontsize=10)
    return figure


def _show(axes: Axes, image: np.ndarray, ends: np.ndarray) -> None:
    axes.imshow(image, cmap="gray", vmin=ends[0], vmax=max(ends[1], ends[0] + 1e-6), interpolation="nearest")
    axes.set(xticks=[], yticks=[])


def _title(condition: Any) -> str:
    if condition.corruption == "clean":
        return "clean"
    return condition.name.replace("_", " ") if condition.name else f"{condition.severity:+d}"


def _methods(table: pd.DataFrame) -> Iterator[tuple[float, dict[str, Any], pd.DataFrame]]:
    """Each method's shift off the tick, its style and its rows; the model first."""
    styles = _styles(table)
    for number, (method, style) in enumerate(styles.items()):
        rows = table[table["method"] == method]
        yield (number - (len(styles) - 1) / 2) * 0.16, style, rows


def _styles(table: pd.DataFrame) -> dict[str, dict[str, Any]]:
    methods = list(dict.fromkeys(table["method"]))
    colours, markers = (MODEL_COLOUR, *COLOURS), ("o", *MARKERS)
    return {
        method: {
            "color": colours[number % len(colours)],
            "marker": markers[number % len(markers)],
            "markersize": 5.5,
            "elinewidth": 1.2,
            "zorder": 3,
        }
        for number, method in enumerate(methods)
    }


def _spread(rows: pd.DataFrame, score: str) -> np.ndarray:
    ends = rows[[f"{score} low", f"{score} high"]].to_numpy(float).T
    spread: np.ndarray = np.abs(ends - rows[score].to_numpy(float))
    return spread


def _legend(figure: Figure, table: pd.DataFrame, null_name: str) -> None:
    handles = [
        Line2D([], [], color=style["color"], marker=style["marker"], label=textwrap.shorten(method, 40))
        for method, style in _styles(table).items()
    ]
    handles.append(Line2D([], [], color="#777777", linestyle="--", label=f"null: {null_name}"))
    figure.legend(handles=handles, loc="outside upper left", ncols=len(handles), frameon=False, labelcolor=INK)
