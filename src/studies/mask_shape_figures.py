"""Figures of mask_shape: pairs of shape and rectangle, and scores against area and inscribed radius by shape."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from .figures import COLOURS, INK, MODEL_COLOUR, tidy
from .mask_shape_masks import ARTEFACT, RECTANGLE, STROKES
from .mask_shape_models import PER_IMAGE, SCORES
from .statistics import hierarchical_bootstrap

COLOUR = {RECTANGLE: "#555555", STROKES: COLOURS[0], ARTEFACT: MODEL_COLOUR}
MARKER = {RECTANGLE: "s", STROKES: "o", ARTEFACT: "^"}
RESAMPLES = 500  # for bars in figures; tables have the study's own number
PARTS = 4  # of the range of radii


def paired_shapes(images: pd.DataFrame) -> Figure:
    """A row per method, a panel per score: each well's mean for a shape joined with that of its rectangles."""
    methods = list(dict.fromkeys(images["method"]))
    figure, grid = _panels(methods)
    for line, method in zip(grid, methods, strict=True):
        table = images[images["method"] == method]
        for axes, (score, statistic) in zip(line, SCORES.items(), strict=True):
            ticks: dict[float, str] = {}
            for place, shape in enumerate((STROKES, ARTEFACT)):
                of = table[table["of"] == shape]
                x = (2.6 * place, 2.6 * place + 1)
                ticks |= dict(zip(x, (RECTANGLE, f"\n{shape}"), strict=True))
                wells = [
                    [float(statistic(part, np.ones((1, len(part))))[0]) for part in
                     (well[well["shape"] == RECTANGLE], well[well["shape"] == shape])]
                    for _, well in of.groupby("group")
                ]  # fmt: skip
                axes.plot(x, np.array(wells).T, color=COLOUR[shape], alpha=0.45, linewidth=1, zorder=2)
                for one, position in zip((RECTANGLE, shape), x, strict=True):
                    _mean(axes, position, of[of["shape"] == one], score, COLOUR[one], MARKER[one])
            axes.set_xticks(list(ticks), list(ticks.values()))
            axes.set_xlim(-0.5, 4.1)
    return figure


def score_by_area(images: pd.DataFrame, bands: Sequence[str]) -> Figure:
    """A row per method, a panel per score: each shape's mean over the bands of area, images behind it."""
    methods = list(dict.fromkeys(images["method"]))
    figure, grid = _panels(methods)
    for line, method in zip(grid, methods, strict=True):
        table = images[images["method"] == method]
        for axes, score in zip(line, SCORES, strict=True):
            for number, (shape, own) in enumerate(_by_shape(table)):
                parts = [own[own["band"] == band] for band in bands]
                x = [100 * part["area"].mean() + (number - 1) * 0.5 for part in parts]
                _line(axes, own["area"] * 100, own[PER_IMAGE[score]], x, parts, score, shape)
    _finish(figure, grid, "hidden share of the image (%)")
    return figure


def score_by_radius(images: pd.DataFrame) -> Figure:
    """A row per method, a panel per score: each shape's mean over quarters of its radii, images behind it."""
    methods = list(dict.fromkeys(images["method"]))
    figure, grid = _panels(methods)
    for line, method in zip(grid, methods, strict=True):
        table = images[images["method"] == method]
        for axes, score in zip(line, SCORES, strict=True):
            for shape, own in _by_shape(table):
                radii = own["radius (um)"]
                quarter = pd.qcut(radii, PARTS, labels=False, duplicates="drop")
                parts = [own[quarter == k] for k in sorted(quarter.dropna().unique())]
                x = [float(part["radius (um)"].mean()) for part in parts]
                _line(axes, radii, own[PER_IMAGE[score]], x, parts, score, shape)
    _finish(figure, grid, "largest inscribed radius (um)")
    return figure


def differences(table: pd.DataFrame, margins: Mapping[str, float]) -> Figure:
    """A panel per score: each method's difference of shape and rectangle with its interval, the margin shaded."""
    methods = list(dict.fromkeys(table["method"]))
    figure = Figure(figsize=(11, 0.62 * len(methods) + 1.7), layout="constrained")
    panels = figure.subplots(1, len(SCORES), sharey=True)
    for axes, score in zip(panels, SCORES, strict=True):
        axes.axvspan(-margins[score], margins[score], color="#e8eef4", zorder=0)
        axes.axvline(0, color=INK, linewidth=0.8, zorder=1)
        for offset, shape in ((-0.14, STROKES), (0.14, ARTEFACT)):
            rows = table[(table["score"] == score) & (table["shape"] == shape)].set_index("method").loc[methods]
            x = rows["difference"].to_numpy(float)
            spread = np.abs(rows[["difference low", "difference high"]].to_numpy(float).T - x)
            y = np.arange(len(methods)) + offset
            style = {"color": COLOUR[shape], "marker": MARKER[shape], "linestyle": "none", "markersize": 7}
            axes.errorbar(x, y, xerr=spread, label=shape, **style)
        axes.set_title(score, fontsize=12)
        axes.set_xlabel("shape - rectangle", fontsize=11)
        axes.set_yticks(range(len(methods)), methods, parse_math=False)
        tidy(axes)
        axes.grid(axis="y", visible=False)
        axes.grid(axis="x", color="#dddddd", linewidth=0.8)
    panels[0].set_ylim(len(methods) - 0.5, -0.5)
    figure.legend(
        *panels[0].get_legend_handles_labels(), loc="outside upper right", ncols=2, frameon=False, fontsize=11
    )
    return figure


def _panels(methods: Sequence[str]) -> tuple[Figure, np.ndarray]:
    figure = Figure(figsize=(11, 3.1 * len(methods) + 0.5), layout="constrained")
    grid = figure.subplots(len(methods), len(SCORES), squeeze=False)
    for line, method in zip(grid, methods, strict=True):
        for axes, score in zip(line, SCORES, strict=True):
            axes.set_ylabel(score, fontsize=11)
            tidy(axes)
        line[0].set_title(method, fontsize=12, loc="left", fontweight="bold", parse_math=False)
    return figure, grid


def _by_shape(table: pd.DataFrame) -> list[tuple[str, pd.DataFrame]]:
    return [(shape, own) for shape in COLOUR if len(own := table[table["shape"] == shape])]


def _mean(axes: Axes, x: float, rows: pd.DataFrame, score: str, colour: str, marker: str) -> float:
    """The score of some rows with its interval over wells; returns the score."""
    found = hierarchical_bootstrap(rows, SCORES[score], within="pair", n=RESAMPLES)
    spread = np.abs(np.array([[found.low], [found.high]]) - found.estimate)
    axes.errorbar([x], [found.estimate], yerr=spread, color=colour, marker=marker, ms=8, elinewidth=2, zorder=4)
    return found.estimate


def _line(
    axes: Axes,
    x_of_images: pd.Series,
    y_of_images: pd.Series,
    x: Sequence[float],
    parts: Sequence[pd.DataFrame],
    score: str,
    shape: str,
) -> None:
    axes.plot(x_of_images, y_of_images, "o", color=COLOUR[shape], alpha=0.35, ms=3, mew=0, zorder=1)
    y = [_mean(axes, place, part, score, COLOUR[shape], MARKER[shape]) for place, part in zip(x, parts, strict=True)]
    axes.plot(x, y, color=COLOUR[shape], linewidth=1.8, zorder=3, marker=MARKER[shape], label=shape)


def _finish(figure: Figure, grid: np.ndarray, xlabel: str) -> None:
    for axes in grid[-1]:
        axes.set_xlabel(xlabel, fontsize=11)
    handles, labels = grid[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper right", ncols=3, frameon=False, fontsize=11)
