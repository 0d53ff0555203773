"""Figures of drift detection: harm against alarm, what goes unnoticed, and how long streams run."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from .drift_tables import CLEAN
from .figures import COLOURS, INK, MODEL_COLOUR, tidy

FARTHEST = 1.5  # excess relative error up to which conditions are told apart
HARMFUL, HARMLESS, CONTROL = MODEL_COLOUR, COLOURS[0], "#777777"


def harm_against_alarm(conditions: pd.DataFrame, readouts: Sequence[str], tolerance: float) -> Figure:
    """A row per condition, sorted by harm: excess error of each readout, and the share of streams with an alarm."""
    columns = [f"excess {name} error" for name in readouts]
    table = conditions.assign(worst=conditions[columns].max(axis=1)).sort_values("worst", kind="stable")
    places = np.arange(len(table))
    figure = Figure(figsize=(9.2, 1.5 + 0.28 * len(table)), layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True)
    for name, column, marker in zip(readouts, columns, ("o", "D", "s", "^"), strict=False):
        values, fill = table[column].clip(upper=FARTHEST), "none" if marker == "D" else INK
        left.plot(values, places, marker, color=INK, mfc=fill, ms=6, label=name, clip_on=False)
    left.axvline(tolerance, color=HARMFUL, linestyle="--", linewidth=1.4, label="tolerance")
    left.axvline(0, color=CONTROL, linewidth=0.8)
    beyond = f" (at {FARTHEST:g}: or more)" if (table[columns] > FARTHEST).any(axis=None) else ""
    left.set_xlabel(f"excess relative error{beyond}", fontsize=11)
    left.legend(loc="lower right", fontsize=10, framealpha=1, edgecolor="none")
    left.set_yticks(places, table["condition"])
    harmful = table["harmful"].to_numpy()
    colours = [
        CONTROL if name == CLEAN else HARMFUL if share > 0.5 else HARMLESS
        for name, share in zip(table["condition"], harmful, strict=True)
    ]
    right.barh(places, table["alarm"], color=colours, height=0.7)
    for place, alarm in zip(places, table["alarm"], strict=True):
        right.text(alarm + 0.02, place, f"{100 * alarm:.0f} %", va="center", fontsize=9.5, color=INK)
    right.set_xlim(0, 1.14)
    right.set_xlabel("share of streams with an alarm", fontsize=11)
    names = {HARMFUL: "most streams harmful", HARMLESS: "most streams harmless", CONTROL: "clean"}
    handles = [right.barh([0], [0], color=colour)[0] for colour in names]
    figure.legend(handles, names.values(), loc="outside upper center", ncols=3, frameon=False, fontsize=11)
    for axes in (left, right):
        tidy(axes)
        axes.grid(axis="y", visible=False)
        axes.grid(axis="x", color="#dddddd", linewidth=0.8)
    left.set_ylim(-0.6, len(table) - 0.4)
    return figure


def false_negatives(streams: pd.DataFrame, conditions: pd.DataFrame) -> Figure:
    """A panel per corruption: the share of streams without an alarm, online and offline, against severity.

    Bars at the online shares are the intervals of `conditions`, where it has them.
    """
    limits = conditions.set_index("condition")[["alarm", "alarm low", "alarm high"]]
    families = list(dict.fromkeys(streams.loc[streams["kind"] == "corruption", "family"]))
    clean = streams[streams["condition"] == CLEAN]
    columns = min(len(families), 3)  # of the legend
    figure = Figure(figsize=(3.6 * len(families) + 0.4, 3.4 + 0.3 * (4 - columns)), layout="constrained")
    panels = figure.subplots(1, len(families), sharey=True, squeeze=False)[0]
    for axes, family in zip(panels, families, strict=True):
        own = pd.concat([clean.assign(severity=0), streams[streams["family"] == family]])
        shares = own.groupby("severity")[["alarm", "offline alarm", "harmful"]].mean()
        x = shares.index.to_numpy()
        axes.bar(x, shares["harmful"], color=HARMFUL, alpha=0.25, width=0.8, label="harmful")
        axes.plot(x, 1 - shares["alarm"], "o-", color=COLOURS[0], linewidth=2, label="no alarm online")
        alarm, low, high = limits.loc[own.groupby("severity")["condition"].first()].to_numpy().T
        axes.errorbar(x, 1 - alarm, [high - alarm, alarm - low], fmt="none", ecolor=COLOURS[0], capsize=3)
        axes.plot(x, 1 - shares["offline alarm"], "s--", color=COLOURS[1], linewidth=1.6, label="no alarm offline")
        axes.set_title(family, fontsize=11.5)
        axes.set_xlabel("severity", fontsize=11)
        axes.set_xticks(range(int(x.min()), int(x.max()) + 1))
        axes.set_ylim(-0.03, 1.05)
        tidy(axes)
    panels[0].set_ylabel("share of streams", fontsize=11)
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=columns, frameon=False, fontsize=11)
    return figure


def run_lengths(streams: pd.DataFrame, expected_run_time: float, unit: str = "image") -> Figure:
    """A panel per corruption, and one of lab errors: the share of streams without an alarm after each `unit`."""
    groups = dict(iter(streams[streams["kind"] == "corruption"].groupby("family", sort=False)))
    if (errors := streams[streams["kind"] == "lab error"]).size:
        groups["lab errors"] = errors
    cap = int(streams["run length"].max())
    clean = streams[streams["condition"] == CLEAN]
    columns = 2 if len(groups) > 1 else 1
    rows = -(-len(groups) // columns)
    figure = Figure(figsize=(5.6 * columns, 3.5 * rows), layout="constrained")
    panels = figure.subplots(rows, columns, squeeze=False, sharex=True, sharey=True).ravel()
    for axes, (title, own) in zip(panels, groups.items(), strict=False):
        steps = np.arange(cap + 1)
        axes.plot(steps, (1 - 1 / expected_run_time) ** steps, "--", color=INK, linewidth=1.2, label="promise")
        curves = {CLEAN: clean} | dict(iter(own.groupby("condition", sort=False)))
        for number, (name, rows_) in enumerate(curves.items()):
            alarmed = rows_.loc[rows_["alarm"], "run length"].to_numpy()
            left = 1 - (alarmed[:, None] <= steps).sum(axis=0) / len(rows_)
            colour = CONTROL if name == CLEAN else COLOURS[(number - 1) % len(COLOURS)]
            label = name.removeprefix(f"{title} ")
            axes.step(steps, left, where="post", color=colour, linewidth=3 if name == CLEAN else 1.7, label=label)
        axes.set_title(title, fontsize=11.5)
        axes.set_ylim(-0.03, 1.05)
        axes.legend(fontsize=10, frameon=False, loc="upper left", bbox_to_anchor=(1.0, 1.02))
        tidy(axes)
    for axes in panels[len(groups) :]:
        axes.set_axis_off()
    figure.supxlabel(f"{unit}s seen", fontsize=11)
    figure.supylabel("share of streams without an alarm", fontsize=11)
    return figure
