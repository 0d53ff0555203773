"""Figures of restore_or_exclude: error against hole area by policy, and one field as every policy sees it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, NullLocator, SymmetricalLogLocator
from skimage.segmentation import find_boundaries

from .figures import COLOURS, INK, MARKERS, MODEL_COLOUR, OUTLINE
from .policies import READOUTS

DASHES = {"keep": ":", "drop": "--"}
WHOLE, CUT = (0.2, 0.9, 0.4), (1.0, 0.35, 0.85)
COLUMNS = 4  # of pictures
LINEAR = 1.0  # errors below this (%) are drawn on a linear scale, so that none is lost


class PolicyPicture(NamedTuple):
    """One field under one policy: picture Y X, labels Y X, what was measured (bool Y X) and the hole (mask Y X)."""

    title: str
    picture: np.ndarray
    labels: np.ndarray
    cut: np.ndarray
    visible: np.ndarray
    mask: np.ndarray


def error_against_area(policies: pd.DataFrame, score: str, area: str) -> Figure:
    """A panel per readout, a line per policy of `score` against the column `area`, with its interval where it exists.

    Scales are linear up to 1 % and logarithmic beyond. `policies` has the columns readout, policy, kind, `area`,
    `score`, `<score> low` and `<score> high`; readouts and policies keep their order.
    """
    names = list(dict.fromkeys(policies["readout"]))
    kinds = dict(zip(policies["policy"], policies["kind"], strict=True))
    styles = _styles(kinds)
    figure = Figure(figsize=(11.5, 7.2), layout="constrained")
    panels = figure.subplots(2, 3).ravel()
    areas = sorted(policies[area].unique())
    for axes, name in zip(panels, names, strict=False):
        for number, (policy, style) in enumerate(styles.items()):
            rows = policies[(policies["readout"] == name) & (policies["policy"] == policy)].set_index(area)
            rows = rows.reindex(areas)
            x = np.arange(len(areas)) + (number - (len(styles) - 1) / 2) * 0.06
            y = rows[score].to_numpy(dtype=float)
            limits = rows[[f"{score} low", f"{score} high"]].to_numpy(dtype=float).T
            axes.errorbar(x, y, yerr=np.abs(limits - y), **style)
        signed = bool((policies[score] < 0).any())
        axes.set_yscale("symlog", linthresh=LINEAR, linscale=0.5)
        subs = (1.0,) if signed else (1.0, 3.0)
        axes.yaxis.set_major_locator(SymmetricalLogLocator(base=10, linthresh=LINEAR, subs=subs))
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axes.yaxis.set_minor_locator(NullLocator())
        axes.axhline(0, color=INK, linewidth=0.8, zorder=1)
        if not signed:
            axes.set_ylim(bottom=0)
        axes.set_xticks(range(len(areas)), [f"{value:g}" for value in areas])
        axes.set_title(f"{name}\n({READOUTS[name][0]})", fontsize=12)
        axes.set_xlabel("damaged share of the field (%)", fontsize=11)
        axes.set_ylabel(score.replace(" (", " of the well ("), fontsize=11)
        axes.tick_params(labelsize=11)
        axes.grid(axis="y", color="#dddddd", linewidth=0.8)
        axes.spines[["top", "right"]].set_visible(False)
    handles = [
        Line2D([], [], label=policy, **{key: value for key, value in style.items() if key != "elinewidth"})
        for policy, style in styles.items()
    ]
    for axes in panels[len(names) :]:
        axes.set_axis_off()
    panels[-1].legend(handles=handles, loc="center", fontsize=12, frameon=False, handlelength=3.2)
    return figure


def policy_pictures(pictures: Sequence[PolicyPicture]) -> Figure:
    """A panel per policy: its nuclei outlined, those cut by an edge in another colour, what is not measured hatched.

    One grey scale for all, from the first picture (the intact field).
    """
    columns = min(COLUMNS, len(pictures))
    rows = -(-len(pictures) // columns)
    height, width = pictures[0].picture.shape
    figure = Figure(figsize=(3.6 * columns, (3.6 * height / width + 0.6) * rows), layout="constrained")
    grid = figure.subplots(rows, columns, squeeze=False).ravel()
    first = pictures[0].picture
    low, high = float(np.quantile(first, 0.01)), float(max(np.quantile(first, 0.998), first.min() + 1))
    for axes, (title, picture, labels, cut, visible, mask) in zip(grid, pictures, strict=False):
        grey = np.clip((picture.astype(float) - low) / (high - low), 0, 1)
        shown = np.repeat(grey[..., None], 3, axis=2)
        edges = find_boundaries(labels, mode="thick")
        shown[edges] = WHOLE
        shown[edges & find_boundaries(np.isin(labels, cut), mode="thick")] = CUT
        shown[~visible] = 0.35
        axes.imshow(shown, interpolation="nearest")
        if not visible.all():
            axes.contourf(~visible, levels=[0.5, 1.5], colors="none", hatches=["///"])
        if title != pictures[0].title:
            axes.contour(mask != 0, levels=[0.5], colors=OUTLINE, linewidths=1.4)
        axes.set_title(title, fontsize=11, parse_math=False)
    for axes in grid:
        axes.set_axis_off()
    return figure


def _styles(kinds: dict[str, str]) -> dict[str, dict[str, Any]]:
    """The model in its colour and thick, every other policy in its own; keeping dotted, dropping dashed."""
    styles: dict[str, dict[str, Any]] = {}
    others = [policy for policy, kind in kinds.items() if kind != "model"]
    for policy, kind in kinds.items():
        model = kind == "model"
        place = 0 if model else others.index(policy) % len(COLOURS)
        styles[policy] = {
            "color": MODEL_COLOUR if model else COLOURS[place],
            "marker": "o" if model else MARKERS[place],
            "markersize": 8 if model else 5.5,
            "linewidth": 3 if model else 1.5,
            "elinewidth": 1.5 if model else 0.9,
            "linestyle": DASHES.get(kind, "-"),
            "zorder": 3 if model else 2,
        }
    return styles
