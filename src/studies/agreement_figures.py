"""Figures of agreement: predicted against true, Bland-Altman, violins by group, and organelles as colours."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from itertools import cycle
from typing import Literal

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from .agreement import paired, sides
from .figures import COLOURS, INK, MARKERS, MODEL_COLOUR, tidy
from .overlay import COLOURS as LIGHTS
from .overlay import SPELLED, colours, overlay

LABELS = {
    "count": "objects",
    "area": "area (px)",
    "total_intensity": "total intensity (sum over pixels)",
    "mean_intensity": "mean intensity (per pixel)",
}
SHOWN = {"Pearson": "Pearson r", "Spearman": "Spearman", "slope": "slope", "concordance": "Lin's conc."}
TRUE_COLOUR = "#555555"
FEWEST_FOR_VIOLIN = 5  # values below which a density is invented: dots alone
BOX = {"facecolor": "white", "alpha": 0.75, "linewidth": 0, "pad": 2}


def scatter(
    images: pd.DataFrame,
    numbers: pd.DataFrame,
    metric: str = "readouts",
    by: str | None = None,
    labels: Mapping[str, str] = LABELS,
) -> Figure:
    """A panel per readout: predicted against true, the line of identity, the numbers with their intervals.

    `images` is the table of `PhenotypeMetrics`, `numbers` is `agreement_table` of it, so that both show the same
    pairs, over images or wells. `by` names a column (phenotype) that is told apart by colour and marker.
    """
    figure, panels = _panels(len(numbers), 4.4, 4.4)
    for axes, (_, row) in zip(panels, numbers.iterrows(), strict=True):
        pairs, label = _pairs(images, metric, row, by), _label(row, labels)
        _dots(axes, pairs, pairs["true"], pairs["predicted"])
        ends = _ends(pairs[["predicted", "true"]].to_numpy())
        axes.plot(ends, ends, color=INK, linewidth=1, linestyle="--", zorder=2)
        _name(axes, row, label, f"true {label}", f"predicted {label}")
        axes.set(xlim=ends, ylim=ends, aspect="equal")
        axes.text(0.03, 0.975, _numbers(row), transform=axes.transAxes, va="top", fontsize=9, zorder=5, bbox=BOX)
    _legend(figure, panels[0])
    return figure


def bland_altman(
    images: pd.DataFrame,
    numbers: pd.DataFrame,
    metric: str = "readouts",
    by: str | None = None,
    labels: Mapping[str, str] = LABELS,
) -> Figure:
    """A panel per readout: predicted - true against their mean, with bias and limits, their intervals shaded.

    Arguments as in `scatter`. Source: Bland & Altman 1986.
    """
    figure, panels = _panels(len(numbers), 5.4, 3.7)
    for axes, (_, row) in zip(panels, numbers.iterrows(), strict=True):
        pairs, label = _pairs(images, metric, row, by), _label(row, labels)
        _dots(axes, pairs, (pairs["predicted"] + pairs["true"]) / 2, pairs["predicted"] - pairs["true"])
        axes.axhline(0, color=INK, linewidth=0.8, zorder=1)
        for name, words in (("upper limit", "+1.96 SD"), ("bias", "bias"), ("lower limit", "-1.96 SD")):
            if not np.isfinite(row[name]):
                continue
            dash = "-" if name == "bias" else "--"
            axes.axhline(row[name], color=MODEL_COLOUR, linewidth=1.6, linestyle=dash, zorder=4)
            text = axes.text(1.02, row[name], f"{words}\n{_short(row[name], '+')}", va="center", fontsize=9, color=INK)
            text.set_transform(axes.get_yaxis_transform())
            if np.isfinite(row[f"{name} low"]):
                ends = row[f"{name} low"], row[f"{name} high"]
                axes.axhspan(*ends, color=MODEL_COLOUR, alpha=0.15, linewidth=0, zorder=0)
        _name(axes, row, label, "mean of predicted and true", "predicted - true")
        if np.isnan(row["bias"]):
            axes.text(0.5, 0.5, row["reason"], transform=axes.transAxes, ha="center", fontsize=9)
    _legend(figure, panels[0])
    return figure


def violins(
    images: pd.DataFrame,
    metric: str,
    names: Sequence[str],
    by: str = "group",
    labels: Mapping[str, str] = LABELS,
) -> Figure:
    """A panel per readout: the true values of all images left, the predicted ones right of them; then by well.

    Wells of fewer than 5 images are left out; other groups (`by`, such as phenotype) are all shown, without a violin
    where they have fewer than 5 values. Dots are images, bars medians. n is how many images had something to measure.
    """
    sizes = images[by].dropna().astype(str).value_counts()
    own = sorted(sizes.index[sizes >= FEWEST_FOR_VIOLIN] if by == "group" else sizes.index)
    groups = ["all", *own]
    wide = len(groups) > 6
    figure, panels = _panels(len(names), min(1.6 + 0.75 * len(groups), 16) if wide else 4.9, 3.4, 1 if wide else 2)
    rng = np.random.default_rng(0)
    for axes, name in zip(panels, names, strict=True):
        pair = sides(images, metric, name)
        for place, group in enumerate(groups):
            for left, values, colour in zip((False, True), pair, (MODEL_COLOUR, TRUE_COLOUR), strict=True):
                known = values[images[by].astype(str) == group] if place else values
                _half_violin(axes, place, known.dropna().to_numpy(dtype=float), left, colour, rng)
        n_predicted, n_true = (int(values.notna().sum()) for values in pair)
        title = f"{labels.get(name, name)}\nn = {n_true} images true, {n_predicted} predicted"
        axes.set_title(title, fontsize=10.5, parse_math=False)
        axes.set_xlabel(("well" if by == "group" else by) if own else "images", fontsize=11, parse_math=False)
        axes.set_ylabel(labels.get(name, name), fontsize=11, parse_math=False)
        longest = max(map(len, groups))
        axes.set_xticks(range(len(groups)), groups, parse_math=False)
        axes.set_xlim(-0.6, len(groups) - 0.4)
        tidy(axes)
        axes.tick_params(axis="x", rotation=90 if longest * len(groups) > 60 and longest > 4 else 0)
        _few_ticks(axes.yaxis)
    handles = [panels[0].plot([], [], color=colour, lw=7, alpha=0.5)[0] for colour in (TRUE_COLOUR, MODEL_COLOUR)]
    figure.legend(handles, ["true", "predicted"], loc="outside upper center", ncols=2, frameon=False, fontsize=11)
    return figure


def combined_pictures(rows: Sequence[tuple[str, Mapping[str, np.ndarray], Mapping[str, np.ndarray]]]) -> Figure:
    """A row per (label, predictions, truths), each organelle -> Y X: the predictions as one picture beside the true.

    Every row holds the same organelles in the same order (else ValueError). The range of an organelle is that of its
    true image (median to 99.8th percentile) for both.
    """
    figure = Figure(figsize=(8.6, 3.7 * len(rows) + 0.7), layout="constrained")
    grid = figure.subplots(len(rows), 2, squeeze=False)
    names = list(rows[0][1])
    for line, (label, predictions, truths) in zip(grid, rows, strict=True):
        if any(list(shown) != names for shown in (predictions, truths)):
            raise ValueError(f"{label}: predicted are {list(predictions)}, true {list(truths)}: give {names} in all")
        ranges = {name: _range(truth) for name, truth in truths.items()}
        for axes, shown in zip(line, (predictions, truths), strict=True):
            axes.imshow(overlay(shown, ranges), interpolation="nearest")
            axes.set_xticks([])
            axes.set_yticks([])
        line[0].set_ylabel(textwrap.fill(label, 24), fontsize=11, parse_math=False)
    for axes, title in zip(grid[0], ("predicted", "true"), strict=True):
        axes.set_title(title, fontsize=12)
    key = colours(names)
    handles = [grid[0, 0].plot([], [], "s", ms=10, c=LIGHTS[colour])[0] for colour in key.values()]
    words = [SPELLED.get(name, name) for name in key]
    figure.legend(handles, words, loc="outside lower center", ncols=len(key), frameon=False, fontsize=11)
    return figure


def _panels(number: int, width: float, height: float, across: int = 2) -> tuple[Figure, list[Axes]]:
    across = min(across, number)
    down = -(-number // across)
    figure = Figure(figsize=(width * across, height * down + 0.4), layout="constrained")
    panels = list(figure.subplots(down, across, squeeze=False).ravel())
    for axes in panels[number:]:
        axes.set_axis_off()
    return figure, panels[:number]


def _pairs(images: pd.DataFrame, metric: str, row: pd.Series, by: str | None) -> pd.DataFrame:
    """The pairs that the numbers of a row were made of, with the kind of each (column kind)."""
    pairs = paired(*sides(images, metric, row["readout"]), images["group"], row["over"])
    if by is None:
        return pairs.assign(kind="")
    kinds = images[by].astype(str).reset_index(drop=True)
    if row["over"] == "images":  # pairs keep the place that each image has in the table
        return pairs.assign(kind=kinds[pairs.index])
    of_wells = kinds.groupby(images["group"].to_numpy()).agg(lambda own: " + ".join(sorted(set(own))))
    return pairs.assign(kind=pairs["group"].map(of_wells))


def _dots(axes: Axes, pairs: pd.DataFrame, x: pd.Series, y: pd.Series) -> None:
    """One dot per pair, each kind in its colour and marker."""
    for kind, colour, marker in zip(sorted(set(pairs["kind"])), cycle(COLOURS), cycle(("o", *MARKERS))):
        own = pairs["kind"] == kind
        axes.scatter(x[own], y[own], s=22, c=colour, marker=marker, alpha=0.6, linewidths=0, label=kind, zorder=3)


def _label(row: pd.Series, labels: Mapping[str, str]) -> str:
    return labels.get(row["readout"], row["readout"])


def _name(axes: Axes, row: pd.Series, label: str, xlabel: str, ylabel: str) -> None:
    """Title with n and what was left out, axis labels, few ticks."""
    images = "" if row["over"] == "wells" else f"{row['images']} images, "
    left = [f"{key} in {row[key]}" for key in ("nothing predicted", "nothing true") if row[key]]
    lines = [label, f"n = {images}{row['wells']} wells", *([f"left out: {', '.join(left)}"] if left else [])]
    axes.set_title("\n".join(lines), fontsize=10.5, parse_math=False)
    axes.set_xlabel(xlabel, fontsize=11, parse_math=False)
    axes.set_ylabel(ylabel, fontsize=11, parse_math=False)
    tidy(axes)
    _few_ticks(axes.xaxis)
    _few_ticks(axes.yaxis)


def _few_ticks(axis: Axis) -> None:
    axis.set_major_locator(MaxNLocator(5))
    axis.set_major_formatter(lambda value, _: _short(value))


def _short(value: float, sign: str = "") -> str:
    """A number of a tick or a line: 15k for 15000, so that no power of ten stands beside an axis."""
    for unit, size in (("M", 1e6), ("k", 1e3)):
        if abs(value) >= 10 * size:
            return f"{value / size:{sign}.4g}{unit}"
    return f"{value:{sign}.4g}"


def _numbers(row: pd.Series) -> str:
    """The numbers of a panel, a line each: estimate and interval; the reason where one is missing."""
    lines = []
    for key, words in SHOWN.items():
        interval = f" [{row[f'{key} low']:.3f}, {row[f'{key} high']:.3f}]" if np.isfinite(row[f"{key} low"]) else ""
        lines.append(f"{words} {row[key]:.3f}{interval}" if np.isfinite(row[key]) else f"{words} n/a")
    return "\n".join([*lines, *textwrap.wrap(row["reason"], 28)])


def _legend(figure: Figure, axes: Axes) -> None:
    handles, kinds = axes.get_legend_handles_labels()
    if any(kinds):
        legend = figure.legend(handles, kinds, loc="outside upper center", ncols=6, frameon=False, fontsize=11)
        for handle in legend.legend_handles:
            handle.set_alpha(1)  # type: ignore[union-attr]


def _ends(values: np.ndarray) -> tuple[float, float]:
    """Common ends of both axes, with a margin; 0 to 1 where there is nothing."""
    if not values.size:
        return 0.0, 1.0
    low, high = float(values.min()), float(values.max())
    margin = 0.05 * (high - low) or 0.05 * abs(high) or 1.0
    return low - margin, high + margin


def _half_violin(axes: Axes, place: int, values: np.ndarray, left: bool, colour: str, rng: np.random.Generator) -> None:
    """Half a violin (from 5 values on), a dot per value on its side, and the median."""
    if not values.size:
        return
    way = -1 if left else 1
    if len(values) >= FEWEST_FOR_VIOLIN:
        side: Literal["low", "high"] = "low" if left else "high"
        shape = axes.violinplot([values], [place], widths=0.85, side=side, showextrema=False)
        for body in shape["bodies"]:  # type: ignore[attr-defined]
            body.set(facecolor=colour, alpha=0.35, edgecolor=colour)
    x = place + way * rng.uniform(0.03, 0.13, len(values))
    axes.scatter(x, values, s=9, color=colour, alpha=0.7, linewidths=0, zorder=3)
    middle = float(np.median(values))
    axes.plot([place, place + way * 0.3], [middle, middle], color=INK, linewidth=1.8, zorder=4)


def _range(image: np.ndarray) -> tuple[float, float]:
    low, high = np.quantile(image, [0.5, 0.998])
    return (float(low), float(high)) if high > low else (float(image.min()), float(image.max()))
