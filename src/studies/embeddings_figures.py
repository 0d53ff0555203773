"""Figures of projected embeddings: a panel per projection; points by set, density, call, brightness."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from .figures import COLOURS, MARKERS, MODEL_COLOUR

TRAIN_COLOUR = "#c4c4c4"
CLEAN_COLOUR = COLOURS[0]
CORRUPTED_COLOURS = (MODEL_COLOUR, COLOURS[4], COLOURS[2], COLOURS[1], COLOURS[5], COLOURS[6])
SHARES = (0.75, 0.5, 0.25)  # of a density that its contours hold
GRID = 80  # places a side at which a density is estimated

Panels = Sequence[tuple[str, pd.DataFrame]]  # a title and the points: set, x, y, called, brightness, phenotype


def clouds(panels: Panels, by: str = "set") -> Figure:
    """Training points grey, test points by set: clean blue, each corruption its own; or clean ones by phenotype."""
    figure, grid = _grid(panels)
    points = panels[0][1]
    names = _test_sets(points) if by == "set" else sorted(points.loc[points["set"] != "training", by].dropna().unique())
    styles = _styles(names, first_is_clean=by == "set")
    for axes, (_, own) in zip(grid, panels, strict=True):
        _training(axes, own)
        shown = own[own["set"] == "clean test"] if by != "set" else own
        for name, style in styles.items():
            part = shown[shown[by] == name]
            axes.scatter(part["x"], part["y"], **style)
    _legend(figure, [_dot("training", s=9, color=TRAIN_COLOUR, marker="o"), *(_dot(n, **s) for n, s in styles.items())])
    return figure


def contours(panels: Panels) -> Figure:
    """Lines around the densest 25, 50 and 75 % of each set of test points (thesis, figure 51); a note where too few."""
    from scipy.stats import gaussian_kde

    figure, grid = _grid(panels)
    names = _test_sets(panels[0][1])
    colours = (CLEAN_COLOUR, *CORRUPTED_COLOURS)
    for axes, (_, own) in zip(grid, panels, strict=True):
        _training(axes, own)
        sides = [_padded(own[side].to_numpy(float)) for side in ("x", "y")]
        x, y = np.meshgrid(*(np.linspace(*side, GRID) for side in sides))
        for name, colour in zip(names, colours, strict=False):
            xy = own.loc[own["set"] == name, ["x", "y"]].to_numpy(float).T
            if xy.shape[1] < 4 or np.linalg.matrix_rank(xy - xy.mean(axis=1, keepdims=True)) < 2:
                axes.text(0.5, 0.02, "too few points", transform=axes.transAxes, ha="center", fontsize=9)
                continue
            kernel = gaussian_kde(xy)
            density = kernel(np.stack([x.ravel(), y.ravel()])).reshape(x.shape)
            levels = np.unique(np.quantile(kernel(xy), [1 - share for share in SHARES]))
            axes.contour(x, y, density, levels=levels, colors=colour, linewidths=(1.0, 1.5, 2.0)[: len(levels)])
        axes.set(xlim=sides[0], ylim=sides[1])
    lines = [
        Line2D([], [], color=colour, linewidth=2, label=name) for name, colour in zip(names, colours, strict=False)
    ]
    _legend(figure, [_dot("training", s=9, color=TRAIN_COLOUR, marker="o"), *lines])
    return figure


def called_points(panels: Panels) -> Figure:
    """Clean test points as circles, those of the first corruption as triangles, filled where called corrupted."""
    figure, grid = _grid(panels)
    clean, broken = _test_sets(panels[0][1])[:2]
    looks = {clean: (CLEAN_COLOUR, "o"), broken: (MODEL_COLOUR, "^")}
    for axes, (_, own) in zip(grid, panels, strict=True):
        _training(axes, own)
        for name, (colour, marker) in looks.items():
            part = own[own["set"] == name]
            called = part["called"].to_numpy(bool)
            faces = np.where(called, colour, "none")
            axes.scatter(part["x"], part["y"], s=22, marker=marker, c=faces, edgecolors=colour, linewidths=0.8)
    entries = [
        Line2D([], [], linestyle="", marker=marker, color=colour, markerfacecolor=face, label=f"{name}, {said}")
        for name, (colour, marker) in looks.items()
        for face, said in ((colour, "called corrupted"), ("none", "called clean"))
    ]
    _legend(figure, [_dot("training", s=9, color=TRAIN_COLOUR, marker="o"), *entries])
    return figure


def shades(panels: Panels) -> Figure:
    """Points by the mean brightness of their source (thesis, figure 55): dots of training, then test."""
    figure, grid = _grid(panels)
    values = panels[0][1]["brightness"].to_numpy(float)
    low, high = (float(value) for value in np.quantile(values, [0.01, 0.99]))
    looks = dict(zip(["training", *_test_sets(panels[0][1])], ("o", "s", "^", *MARKERS[2:]), strict=False))
    for axes, (_, own) in zip(grid, panels, strict=True):
        for name, marker in looks.items():
            part = own[own["set"] == name]
            shown = axes.scatter(
                part["x"], part["y"], c=part["brightness"], s=9 if name == "training" else 22, marker=marker,
                cmap="viridis", vmin=low, vmax=max(high, low + 1e-6), linewidths=0,
            )  # fmt: skip
    bar = figure.colorbar(shown, ax=list(grid), fraction=0.03, aspect=30, extend="both")
    bar.set_label("mean brightness of the source", fontsize=11)
    entries = [
        Line2D(
            [], [], linestyle="", marker=marker, color="#444444", markersize=4 if name == "training" else 6, label=name
        )
        for name, marker in looks.items()
    ]
    _legend(figure, entries)
    return figure


def _grid(panels: Panels) -> tuple[Figure, list[Axes]]:
    """Panels in rows of up to four, without ticks, which would mean nothing."""
    columns = min(len(panels), 4 if len(panels) in (4, 7, 8) else 3)
    lines = math.ceil(len(panels) / columns)
    figure = Figure(figsize=(max(3.0 * columns, 5.0), 2.9 * lines + 0.7), layout="constrained")
    grid = figure.subplots(lines, columns, squeeze=False).ravel()
    for axes in grid[len(panels) :]:
        axes.set_axis_off()
    for axes, (title, _) in zip(grid, panels, strict=False):
        axes.set_title(title, fontsize=12)
        axes.set(xticks=[], yticks=[])
    return figure, list(grid[: len(panels)])


def _training(axes: Axes, points: pd.DataFrame) -> None:
    part = points[points["set"] == "training"]
    axes.scatter(part["x"], part["y"], s=9, color=TRAIN_COLOUR, linewidths=0, zorder=1)


def _test_sets(points: pd.DataFrame) -> list[str]:
    """Clean test first, then the corruptions as they come."""
    return [name for name in points["set"].unique() if name != "training"]


def _styles(names: Sequence[str], first_is_clean: bool) -> dict[str, dict[str, Any]]:
    if first_is_clean:
        looks = [(CLEAN_COLOUR, "o"), *zip(CORRUPTED_COLOURS, ("^", *MARKERS), strict=False)]
    else:
        looks = list(zip(COLOURS, ("o", *MARKERS), strict=False))
    return {
        name: {"s": 20, "color": colour, "marker": marker, "alpha": 0.75, "linewidths": 0}
        for name, (colour, marker) in zip(names, looks * math.ceil(len(names) / len(looks)), strict=False)
    }


def _dot(label: str, **style: Any) -> Line2D:
    return Line2D(
        [],
        [],
        linestyle="",
        marker=style["marker"],
        color=style["color"],
        markersize=style["s"] ** 0.5 + 1,
        label=label,
    )


def _legend(figure: Figure, entries: list[Line2D]) -> None:
    figure.legend(handles=entries, loc="outside upper center", ncols=min(len(entries), 3), fontsize=11, frameon=False)


def _padded(values: np.ndarray) -> tuple[float, float]:
    edge = 0.15 * max(float(np.ptp(values)), 1e-6)
    return float(values.min()) - edge, float(values.max()) + edge
