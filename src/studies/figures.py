"""Figures of studies, drawn without pyplot: no display, no global state, nothing to close."""

from __future__ import annotations

import textwrap
from collections.abc import Container, Mapping, Sequence
from itertools import cycle
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

MODEL_COLOUR = "#D55E00"
# Okabe and Ito's colour-blind-safe set without the model's vermilion; marker and dash tell the same story again.
COLOURS = ("#0072B2", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#555555", "#000000")
MARKERS = ("s", "^", "D", "v", "P", "X", "d")
INK = "#222222"
OUTLINE = "#ffb000"
BLANK = "#3a6ea5"
GREYS = ("#777777", "#9a9a9a", "#5a5a5a", "#b0b0b0")


def score_against_bands(
    bands: pd.DataFrame, score: str, ylabel: str, xlabel: str, seeds: pd.DataFrame | None = None
) -> Figure:
    """A line per method of `score` over the bands, with the interval `<score> low` to `<score> high` where it exists.

    `bands` has the columns band, method, kind ("model" is emphasised, "null fill" dashed); methods keep their order.
    Where there are kinds "network", these have the colours and fills are grey. `seeds` (band, method, checkpoint,
    score) adds a ring for each checkpoint of a method that has several.
    """
    figure = Figure(figsize=(5.9, 4.4), layout="constrained")
    axes = figure.add_subplot()
    labels = list(dict.fromkeys(bands["band"]))
    kinds = dict(zip(bands["method"], bands["kind"], strict=True))
    ends: list[tuple[float, float, str, str]] = []
    for index, (method, style) in enumerate(_line_styles(kinds).items()):
        rows = bands[bands["method"] == method].set_index("band").reindex(labels)
        x = np.arange(len(labels)) + (index - (len(kinds) - 1) / 2) * 0.05
        y = rows[score].to_numpy(dtype=float)
        spread = np.abs(rows[[f"{score} low", f"{score} high"]].to_numpy(dtype=float).T - y)
        axes.errorbar(x, y, yerr=spread, **style)
        own = [] if seeds is None else [one for _, one in seeds[seeds["method"] == method].groupby("checkpoint")]
        for one in own if len(own) > 1 else []:
            values = one.set_index("band").reindex(labels)[score].to_numpy(dtype=float)
            axes.plot(x, values, "o", mfc="none", mec=style["color"], ms=4, mew=0.9, zorder=4)
        known = np.flatnonzero(np.isfinite(y))
        if len(known):
            ends.append((float(x[known[-1]]), float(y[known[-1]]), style["color"], method))
    axes.set_xticks(range(len(labels)), labels)
    axes.set_xlim(-0.35, len(labels) - 1 + 0.35)
    # One model is seen against the whole scale; networks, which lie close together, in the part that holds them.
    lowest = bands[[score, f"{score} low"]].min().min() if "network" in kinds.values() else 0.0
    bottom = max(0.0, np.floor(10 * lowest) / 10) if np.isfinite(lowest) else 0.0
    axes.set_ylim(bottom - 0.03 * (1 - bottom), 1 + 0.03 * (1 - bottom))
    axes.set_xlabel(xlabel, fontsize=11)
    axes.set_ylabel(ylabel, fontsize=11)
    tidy(axes)
    _label_ends(axes, ends, {method for method, kind in kinds.items() if kind in ("model", "network")})
    return figure


def _line_styles(kinds: Mapping[str, str]) -> dict[str, dict[str, Any]]:
    """How each method's line is drawn: models thick, and where there are networks, fills in greys behind them."""
    networks = "network" in kinds.values()
    strong = cycle((MODEL_COLOUR, *COLOURS[:5]))
    weak = cycle(GREYS if networks else COLOURS)
    markers = cycle(MARKERS)
    styles: dict[str, dict[str, Any]] = {}
    for method, kind in kinds.items():
        model = kind in ("model", "network")
        styles[method] = {
            "color": next(strong if model else weak),
            "marker": "o" if model else next(markers),
            "markersize": 7 if networks and model else 8 if model else 5.5,
            "linewidth": 2.2 if networks and model else 3 if model else 1.4,
            "elinewidth": 2 if model else 1,
            "linestyle": "--" if kind == "null fill" else "-",
            "zorder": 3 if model else 2,
        }
    return styles


def tidy(axes: Axes) -> None:
    """The look of every plot: large ticks, a light horizontal grid, no box."""
    axes.tick_params(labelsize=11)
    axes.grid(axis="y", color="#dddddd", linewidth=0.8)
    axes.spines[["top", "right"]].set_visible(False)


def method_pictures(
    rows: Sequence[tuple[str, np.ndarray, np.ndarray, Mapping[str, tuple[np.ndarray, str]]]],
) -> Figure:
    """A row per (label, target, mask, restored), a column per method: the hole blanked, each restoration, the target.

    `restored` maps a method to its picture (Y X, [0, 1]) and a line to write under it; the hole is outlined.
    """
    columns = 2 + max(len(restored) for *_, restored in rows)
    figure = Figure(figsize=(2.1 * columns + 1.7, 2.3 * len(rows) + 0.4), layout="constrained")
    grid = figure.subplots(len(rows), columns, squeeze=False)
    for number, (line, (label, target, mask, restored)) in enumerate(zip(grid, rows, strict=True)):
        low, high = float(target.min()), max(float(np.quantile(target, 0.998)), float(target.min()) + 1e-6)
        blanked = np.ma.masked_array(target, mask=mask > 0)
        line[0].set_facecolor(BLANK)
        shown = {"hole blanked": (blanked, ""), **restored, "target": (target, "")}
        for axes, (title, (picture, words)) in zip(line, shown.items(), strict=False):
            axes.imshow(picture, cmap="gray", vmin=low, vmax=high, interpolation="nearest")
            axes.contour(mask > 0, levels=[0.5], colors=OUTLINE, linewidths=1.2)
            axes.set_xticks([])
            axes.set_yticks([])
            axes.set_xlabel(words, fontsize=10)
            if number == 0:
                axes.set_title(textwrap.fill(title, 20), fontsize=11, parse_math=False)
        _row_label(line[0], label)
    return figure


def example_pictures(rows: Sequence[tuple[str, Mapping[str, np.ndarray]]]) -> Figure:
    """A row per (label, arrays): source with the hole blanked, prediction, target, signed error; the hole outlined.

    Arrays are `source`, `mask` (1 = hole), `prediction` and `target`, each Y X, intensities in [0, 1].
    """
    figure = Figure(figsize=(10.5, 2.0 * len(rows) + 0.4), layout="constrained")
    grid = figure.subplots(len(rows), 4, squeeze=False)
    errors = [np.asarray(arrays["prediction"]) - np.asarray(arrays["target"]) for _, arrays in rows]
    holes = [np.asarray(arrays["mask"]) > 0 for _, arrays in rows]
    inside = np.concatenate([error[hole] for error, hole in zip(errors, holes, strict=True)])
    limit = max(float(np.quantile(np.abs(inside), 0.99)) if inside.size else 0.0, 1e-3)
    for line, (label, arrays), error, hole in zip(grid, rows, errors, holes, strict=True):
        target = np.asarray(arrays["target"])
        low, high = float(target.min()), max(float(np.quantile(target, 0.998)), float(target.min()) + 1e-6)
        source = np.ma.masked_array(np.asarray(arrays["source"]), mask=hole)
        line[0].set_facecolor(BLANK)
        for axes, picture in zip(line, (source, arrays["prediction"], target), strict=False):
            axes.imshow(picture, cmap="gray", vmin=low, vmax=high, interpolation="nearest")
        shown = line[3].imshow(error, cmap="RdBu_r", vmin=-limit, vmax=limit, interpolation="nearest")
        for axes in line:
            axes.set_xticks([])
            axes.set_yticks([])
            colour = OUTLINE if axes is not line[3] else INK
            axes.contour(hole, levels=[0.5], colors=colour, linewidths=1.2)
        _row_label(line[0], label)
    for axes, title in zip(grid[0], ("source, hole blanked", "prediction", "target", "error"), strict=True):
        axes.set_title(title, fontsize=12)
    bar = figure.colorbar(shown, ax=grid[:, 3], fraction=0.05, aspect=30 if len(rows) > 1 else 12, extend="both")
    bar.set_label("prediction - target", fontsize=11)
    return figure


def translated_pictures(rows: Sequence[tuple[str, Mapping[str, np.ndarray]]]) -> Figure:
    """A row per (label, arrays): source in its own range, prediction and target in that of the target.

    Arrays are `source`, `prediction` and `target`, each Y X.
    """
    figure = Figure(figsize=(8.6, 2.3 * len(rows) + 0.4), layout="constrained")
    grid = figure.subplots(len(rows), 3, squeeze=False)
    for line, (label, arrays) in zip(grid, rows, strict=True):
        for axes, name in zip(line, ("source", "prediction", "target"), strict=True):
            low, high = np.quantile(arrays["source" if name == "source" else "target"], [0.002, 0.998])
            axes.imshow(arrays[name], cmap="gray", vmin=low, vmax=max(high, low + 1e-6), interpolation="nearest")
            axes.set_xticks([])
            axes.set_yticks([])
        _row_label(line[0], label)
    for axes, title in zip(grid[0], ("source", "prediction", "target"), strict=True):
        axes.set_title(title, fontsize=12)
    return figure


def _row_label(axes: Axes, label: str) -> None:
    axes.set_ylabel(
        "\n".join(textwrap.fill(part, 22) for part in label.split("\n")),
        rotation=0,
        ha="right",
        va="center",
        fontsize=10,
        labelpad=8,
        parse_math=False,  # an id may hold a dollar sign
    )


def _label_ends(axes: Axes, ends: list[tuple[float, float, str, str]], strong: Container[str]) -> None:
    """Write each method's name right of its line, pushed apart so that none covers another."""
    ends = sorted(ends, key=lambda end: end[1])
    bottom, top = axes.get_ylim()
    height = (top - bottom) / 1.06  # the axes reach 3 % beyond the scale on both sides
    bottom += 0.03 * height
    places = bottom + height * _spread(np.array([(y - bottom) / height for _, y, _, _ in ends]), gap=0.062)
    right = axes.get_xlim()[1]
    for (x, y, colour, name), place in zip(ends, places, strict=True):
        axes.annotate(
            name,
            xy=(x, y),
            xytext=(right + 0.03 * (right + 0.35), place),
            va="center",
            fontsize=11,
            fontweight="bold" if name in strong else "normal",
            color=INK,
            parse_math=False,
            annotation_clip=False,
            arrowprops={"arrowstyle": "-", "color": colour, "relpos": (0, 0.5), "shrinkA": 1, "shrinkB": 5},
        )


def _spread(sorted_places: np.ndarray, gap: float) -> np.ndarray:
    """Move places as little as keeps neighbours `gap` apart and all within 0..1 (if they fit there)."""
    steps = gap * np.arange(len(sorted_places))
    # Least squares under "neighbours at least gap apart" is an isotonic fit of the places less their steps.
    blocks: list[list[float]] = []
    for value in np.clip(sorted_places, 0, 1) - steps:
        blocks.append([float(value), 1])
        while len(blocks) > 1 and blocks[-2][0] > blocks[-1][0]:
            (mean, size), (upper, more) = blocks[-2:]
            blocks[-2:] = [[(mean * size + upper * more) / (size + more), size + more]]
    fitted = np.concatenate([np.full(int(size), mean) for mean, size in blocks]) if blocks else steps
    return np.clip(fitted, 0, max(0.0, 1 - gap * (len(steps) - 1))) + steps
