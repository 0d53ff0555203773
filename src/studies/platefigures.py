"""Figures of plates: heat maps with row letters and column numbers, and control wells before and after a model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from .figures import INK, MODEL_COLOUR
from .positions import ROW_NAMES

MAP_WIDTH, MAP_HEIGHT = 4.1, 2.75  # inches of a heat map of a plate 3:2
FONT = 9  # points: 11 pixels where the page shows 91 pixels to the inch
UNKNOWN = "#9a9a9a"
ROLES = {"negative": ("_", "negative control"), "positive": ("+", "positive control"), "empty": ("x", "empty")}
CONTROL_COLOURS = {"negative": "#0072B2", "positive": MODEL_COLOUR}


def heat_maps(wells: pd.DataFrame, maps: Mapping[str, str], shape: tuple[int, int], same: Sequence[str] = ()) -> Figure:
    """A heat map per column of `wells` (`maps`: column -> title) of one plate of `shape`; `same` share one scale.

    `wells` has row and column (from 0), and role where named: control wells are marked on the first map. Hatched: no
    such well; grey: a well without that value. Colours end at the 1st and 99th percentile where something lies beyond.
    """
    across = min(3, len(maps))
    down = -(-len(maps) // across)
    figure = Figure(figsize=(MAP_WIDTH * across, MAP_HEIGHT * down + 0.3), layout="constrained")
    figure.get_layout_engine().set(w_pad=0.08, h_pad=0.08)  # type: ignore[call-arg, union-attr]
    grid = figure.subplots(down, across, squeeze=False).ravel()
    shared = np.concatenate([wells[name].to_numpy(dtype=float) for name in same]) if same else None
    for index, (axes, (name, title)) in enumerate(zip(grid, maps.items(), strict=False)):
        values = wells[name].to_numpy(dtype=float)
        _heat_map(axes, wells, values, title, shape, shared if shared is not None and name in same else values)
        if index == 0 and "role" in wells:
            _mark_roles(axes, wells, shape)
    for axes in grid[len(maps) :]:
        axes.set_visible(False)
    return figure


def control_wells(wells: pd.DataFrame, readouts: Mapping[str, str], seed: int = 0) -> Figure:
    """Every control well before and after, a panel per readout (name -> words), plates side by side."""
    plates = list(dict.fromkeys(wells["plate"]))
    rng = np.random.default_rng(seed)
    across = len(readouts) if len(plates) <= 3 else 1
    down = len(readouts) // across
    figure = Figure(figsize=(MAP_WIDTH * 3, 2.9 * down + 0.4), layout="constrained")
    panels = figure.subplots(down, across, squeeze=False).ravel()
    for axes, (readout, words) in zip(panels, readouts.items(), strict=True):
        for role, colour in CONTROL_COLOURS.items():
            for stage, filled in (("input", False), ("restored", True)):
                rows = wells[wells["role"] == role]
                place = rows["plate"].map(plates.index).to_numpy(dtype=float)
                place += {"negative": -0.22, "positive": 0.22}[role] + (0.09 if filled else -0.09)
                axes.scatter(
                    place + rng.uniform(-0.03, 0.03, len(rows)),
                    rows[f"{stage}_{readout}"],
                    s=26,
                    marker="o" if role == "negative" else "^",
                    facecolors=colour if filled else "none",
                    edgecolors=colour,
                    linewidths=1.1,
                    alpha=0.85,
                    label=f"{role}, {'after' if filled else 'before'}",
                )
        axes.set_xticks(range(len(plates)), plates, fontsize=10, parse_math=False)
        if len(plates) > 8:  # names side by side would cover one another
            axes.tick_params(axis="x", rotation=90)
        axes.set_xlim(-0.5, len(plates) - 0.5)
        axes.set_ylabel(words, fontsize=10)
        axes.tick_params(axis="y", labelsize=10)
        highest = np.nanmax(wells[[f"input_{readout}", f"restored_{readout}"]].to_numpy(dtype=float), initial=0.0)
        axes.set_ylim(0.0, 1.08 * float(highest) or 1.0)
        axes.grid(axis="y", color="#dddddd", linewidth=0.8)
        axes.set_axisbelow(True)
        axes.spines[["top", "right"]].set_visible(False)
    handles, labels = figure.axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper left", ncols=4, fontsize=10, frameon=False)
    return figure


def _heat_map(
    axes: Axes, wells: pd.DataFrame, values: np.ndarray, title: str, shape: tuple[int, int], scale: np.ndarray
) -> None:
    rows, columns = shape
    plate, used = np.full(shape, np.nan), np.zeros(shape, bool)
    plate[wells["row"], wells["column"]] = values
    used[wells["row"], wells["column"]] = True
    axes.patch.set(facecolor="#f4f4f4", edgecolor="#c4c4c4", hatch="////" if columns <= 24 else "//////", linewidth=0)
    edges = (np.arange(columns + 1), np.arange(rows + 1))
    line: dict[str, Any] = {"edgecolors": "white", "linewidth": 0.6 if columns <= 12 else 0.3 if columns <= 24 else 0.0}
    axes.pcolormesh(
        *edges, np.ma.masked_array(np.zeros(shape), ~(used & np.isnan(plate))), cmap=ListedColormap([UNKNOWN]), **line
    )
    low, high, extend = _limits(scale)
    shown = axes.pcolormesh(*edges, np.ma.masked_invalid(plate), cmap="viridis", vmin=low, vmax=high, **line)
    axes.set(xlim=(0, columns), ylim=(rows, 0), aspect="equal")
    # Every name where there is room for it, else every second, third, ...; the first always.
    every_row, every_column = max(1, -(-rows // 16)), max(1, -(-columns // 12))
    numbers = [str(number) for number in range(1, columns + 1, every_column)]
    axes.set_xticks(np.arange(0, columns, every_column) + 0.5, numbers, fontsize=FONT)
    axes.set_yticks(np.arange(0, rows, every_row) + 0.5, ROW_NAMES[0:rows:every_row], fontsize=FONT)
    axes.xaxis.tick_top()
    axes.tick_params(length=0, pad=2)
    for spine in axes.spines.values():
        spine.set(color="#999999", linewidth=0.8)
    axes.set_title(title, fontsize=10.5, color=INK, pad=5)
    bar = axes.figure.colorbar(shown, cax=axes.inset_axes((1.025, 0.0, 0.035, 1.0)), extend=extend, extendfrac=0.05)
    bar.ax.yaxis.set_major_locator(MaxNLocator(4))
    bar.ax.tick_params(labelsize=FONT, length=2)
    bar.outline.set_visible(False)  # type: ignore[operator]


def _mark_roles(axes: Axes, wells: pd.DataFrame, shape: tuple[int, int]) -> None:
    """Signs on control and empty wells, white on black so that every colour carries them; the caption names them."""
    size = {True: 34.0, False: 9.0}[shape[1] <= 12] if shape[1] <= 24 else 3.0
    for role, (marker, _) in ROLES.items():
        own = wells[wells["role"] == role]
        for colour, width in (("black", 2.4), ("white", 1.2)):
            width *= 0.5 if shape[1] > 24 else 1.0
            axes.scatter(own["column"] + 0.5, own["row"] + 0.5, s=size, c=colour, marker=marker, linewidths=width)


def _limits(values: np.ndarray) -> tuple[float, float, str]:
    """Ends of the colour scale, and which of them have values beyond."""
    known = values[np.isfinite(values)]
    if not known.size:
        return 0.0, 1.0, "neither"
    low, high = np.quantile(known, [0.01, 0.99]) if known.size >= 20 else (known.min(), known.max())
    if not high > low:
        low, high = known.min(), known.max()
    if not high > low:
        high = low + (abs(low) or 1.0)  # one value: a scale that starts at it
    below, above = known.min() < low, known.max() > high
    return float(low), float(high), "both" if below and above else "min" if below else "max" if above else "neither"
