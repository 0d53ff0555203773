"""Figures of studies, drawn without pyplot: no display, no global state, nothing to close."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from itertools import cycle

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


def score_against_bands(bands: pd.DataFrame, score: str, ylabel: str, xlabel: str) -> Figure:
    """A line per method of `score` over the bands, with the interval `<score> low` to `<score> high` where it exists.

    `bands` has the columns band, method, kind ("model" is emphasised, "null fill" dashed); methods keep their order.
    """
    figure = Figure(figsize=(5.9, 4.4), layout="constrained")
    axes = figure.add_subplot()
    labels = list(dict.fromkeys(bands["band"]))
    methods = list(dict.fromkeys(bands["method"]))
    styles = cycle(zip(COLOURS, MARKERS, strict=True))
    ends: list[tuple[float, float, str, str]] = []
    for index, method in enumerate(methods):
        rows = bands[bands["method"] == method].set_index("band").reindex(labels)
        kind = rows["kind"].dropna().iloc[0]
        model = kind == "model"
        colour, marker = (MODEL_COLOUR, "o") if model else next(styles)
        x = np.arange(len(labels)) + (index - (len(methods) - 1) / 2) * 0.05
        y = rows[score].to_numpy(dtype=float)
        spread = np.abs(rows[[f"{score} low", f"{score} high"]].to_numpy(dtype=float).T - y)
        axes.errorbar(
            x,
            y,
            yerr=spread,
            color=colour,
            marker=marker,
            markersize=8 if model else 5.5,
            linewidth=3 if model else 1.4,
            elinewidth=2 if model else 1,
            linestyle="--" if kind == "null fill" else "-",
            zorder=3 if model else 2,
        )
        known = np.flatnonzero(np.isfinite(y))
        if len(known):
            ends.append((float(x[known[-1]]), float(y[known[-1]]), colour, method))
    axes.set_xticks(range(len(labels)), labels)
    axes.set_xlim(-0.35, len(labels) - 1 + 0.35)
    axes.set_ylim(-0.03, 1.03)
    axes.set_xlabel(xlabel, fontsize=11)
    axes.set_ylabel(ylabel, fontsize=11)
    axes.tick_params(labelsize=11)
    axes.grid(axis="y", color="#dddddd", linewidth=0.8)
    axes.spines[["top", "right"]].set_visible(False)
    _label_ends(axes, ends, methods[0])
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
        line[0].set_facecolor("#3a6ea5")
        for axes, picture in zip(line, (source, arrays["prediction"], target), strict=False):
            axes.imshow(picture, cmap="gray", vmin=low, vmax=high, interpolation="nearest")
        shown = line[3].imshow(error, cmap="RdBu_r", vmin=-limit, vmax=limit, interpolation="nearest")
        for axes in line:
            axes.set_xticks([])
            axes.set_yticks([])
            colour = OUTLINE if axes is not line[3] else INK
            axes.contour(hole, levels=[0.5], colors=colour, linewidths=1.2)
        line[0].set_ylabel(
            "\n".join(textwrap.fill(part, 22) for part in label.split("\n")),
            rotation=0,
            ha="right",
            va="center",
            fontsize=10,
            labelpad=8,
            parse_math=False,  # an id may hold a dollar sign
        )
    for axes, title in zip(grid[0], ("source, hole blanked", "prediction", "target", "error"), strict=True):
        axes.set_title(title, fontsize=12)
    bar = figure.colorbar(shown, ax=grid[:, 3], fraction=0.05, aspect=30 if len(rows) > 1 else 12, extend="both")
    bar.set_label("prediction - target", fontsize=11)
    return figure


def _label_ends(axes: Axes, ends: list[tuple[float, float, str, str]], strong: str) -> None:
    """Write each method's name right of its line, pushed apart so that none covers another."""
    ends = sorted(ends, key=lambda end: end[1])
    places = _spread(np.array([y for _, y, _, _ in ends]), gap=0.062)
    right = axes.get_xlim()[1]
    for (x, y, colour, name), place in zip(ends, places, strict=True):
        axes.annotate(
            name,
            xy=(x, y),
            xytext=(right + 0.03 * (right + 0.35), place),
            va="center",
            fontsize=11,
            fontweight="bold" if name == strong else "normal",
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
