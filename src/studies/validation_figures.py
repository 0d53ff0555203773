"""Figures of the metric validation: what was done to the pictures, score against severity, decoys and traps."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from .figures import COLOURS, INK, MARKERS


def picture_rows(rows: Sequence[tuple[str, Sequence[tuple[str, np.ndarray]]]]) -> Figure:
    """Rows of (label, pictures), a picture being (title, Y X in [0, 1]); one grey scale, fitted on the first one."""
    columns = max(len(pictures) for _, pictures in rows)
    brightest = max(float(np.quantile(rows[0][1][0][1], 0.998)), 1e-6)
    figure = Figure(figsize=(1.95 * columns + 0.7, 2.3 * len(rows)), layout="constrained")
    for line, (label, pictures) in zip(figure.subplots(len(rows), columns, squeeze=False), rows, strict=True):
        for axes in line[len(pictures) :]:
            axes.set_axis_off()
        for axes, (title, picture) in zip(line, pictures, strict=False):
            axes.imshow(picture, cmap="gray", vmin=0, vmax=brightest, interpolation="nearest")
            axes.set_title(title, fontsize=9, parse_math=False)
            axes.set_xticks([])
            axes.set_yticks([])
        line[0].set_ylabel(label, fontsize=11)
    return figure


def score_against_severity(graded: pd.DataFrame, correlations: pd.DataFrame, kinds: Sequence[str]) -> Figure:
    """A panel per metric: every graded picture, its score against its severity, a colour and marker per change.

    `graded` has change, severity and a column per metric of `correlations` (columns metric, Spearman).
    """
    columns = min(3, len(correlations))
    lines = -(-len(correlations) // columns)
    figure = Figure(figsize=(3.4 * columns, 2.9 * lines + 0.6), layout="constrained")
    panels = figure.subplots(lines, columns, squeeze=False, sharex=True)
    for axes in panels.flat[len(correlations) :]:
        axes.set_axis_off()
    for axes, row in zip(panels.flat, correlations.itertuples(), strict=False):
        for kind, colour, marker in zip(kinds, COLOURS, MARKERS, strict=False):
            dots = graded[graded["change"] == kind]
            style = {"s": 11, "alpha": 0.55, "linewidths": 0, "color": colour, "marker": marker}
            axes.scatter(dots["severity"], dots[row.metric], label=kind, **style)
        axes.set_title(f"{row.metric}\nSpearman {row.Spearman:.2f}", fontsize=11, parse_math=False)
        axes.set_xlim(-0.02, 1.02)
        axes.spines[["top", "right"]].set_visible(False)
        axes.tick_params(labelsize=9)
    for axes in panels[-1]:
        axes.set_xlabel("severity by readouts", fontsize=10)
    for line in panels:
        line[0].set_ylabel("score", fontsize=10)
    handles, labels = panels.flat[0].get_legend_handles_labels()
    legend = figure.legend(handles, labels, loc="outside upper center", ncols=len(labels), frameon=False, fontsize=10)
    for handle in legend.legend_handles:
        handle.set_alpha(1)  # type: ignore[union-attr]
        handle.set_sizes([40])  # type: ignore[union-attr]
    return figure


def decoys_and_traps(decoys: pd.DataFrame, traps: pd.DataFrame) -> Figure:
    """Three charts of cells, a row per metric: decoys taken for damage, traps not noticed, traps not told from decoys.

    `decoys` has metric, decoy, as mild damage; `traps` has metric, trap, unnoticed, below a decoy: shares of pictures.
    """
    metrics = list(dict.fromkeys(decoys["metric"]))
    charts = [
        ("decoys taken for damage", decoys, "decoy", "as mild damage"),
        ("traps not noticed", traps, "trap", "unnoticed"),
        ("traps not told from a decoy", traps, "trap", "below a decoy"),
    ]
    figure = Figure(figsize=(13, 0.42 * len(metrics) + 1.7), layout="constrained")
    widths = [max(1, table[name].nunique()) for _, table, name, _ in charts]
    for number, (axes, chart) in enumerate(zip(figure.subplots(1, 3, width_ratios=widths), charts, strict=True)):
        title, table, name, value = chart
        cells = table.pivot(index="metric", columns=name, values=value).reindex(metrics)
        _cells(axes, cells[list(dict.fromkeys(table[name]))])
        axes.set_title(title, fontsize=12)
        if number:
            axes.set_yticks([])
    return figure


def _cells(axes: Axes, table: pd.DataFrame) -> None:
    """A table of shares as coloured cells."""
    values = table.to_numpy(dtype=float)
    axes.imshow(values, cmap="Oranges", vmin=0, vmax=1.25, aspect="auto")
    for (y, x), value in np.ndenumerate(values):
        text = f"{100 * value:.0f} %" if np.isfinite(value) else "n/a"
        axes.text(x, y, text, ha="center", va="center", fontsize=10, color=INK)
    axes.set_xticks(range(table.shape[1]), [textwrap.fill(str(name), 12) for name in table.columns], fontsize=9.5)
    axes.set_yticks(range(len(table)), list(table.index), fontsize=10)
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
