"""What studies of crossed checkpoints show and say: the matrix with its numbers, verdicts, notes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from .crossed import CONTROL, MAIN, PIXELS, UNDEFINED
from .figures import INK, MODEL_COLOUR
from .judged import FEW_WELLS, NETWORK, UNCOMPARED, count, unit_notes
from .subject import Subject
from .translation import NULL


def matrix(found: pd.DataFrame, names: Sequence[str], judged_on: str, own: Mapping[str, str], xlabel: str) -> Figure:
    """A panel per score: checkpoints down, conditions across, the number and its interval in every cell.

    Cells of a condition's own checkpoint are outlined. Nulls stand below; the colours are of what was trained.
    """
    rows, columns = list(dict.fromkeys(found["checkpoint"])), list(dict.fromkeys(found[judged_on]))
    across = min(3, len(names))
    down = -(-len(names) // across)
    size = ((1.15 * len(columns) + 1.1) * across + 0.8, (0.72 * len(rows) + 1.1) * down + 0.3)
    figure = Figure(figsize=size, layout="constrained")
    grid = figure.subplots(down, across, squeeze=False).ravel()
    for axes in grid[len(names) :]:
        axes.set_axis_off()
    for panel, (axes, name) in enumerate(zip(grid, names, strict=False)):
        table = found.set_index(["checkpoint", judged_on])
        values = np.array([[table[name].get((row, column), np.nan) for column in columns] for row in rows], dtype=float)
        trained = found.loc[found["kind"] == NETWORK, name].min()
        bottom = float(np.clip(np.floor(10 * trained) / 10, 0, 0.9)) if np.isfinite(trained) else 0.0
        axes.imshow(
            np.ma.masked_invalid(values), cmap="Blues", vmin=bottom - 0.3 * (1 - bottom), vmax=1.0, aspect="auto"
        )
        axes.set_facecolor("#eeeeee")
        for (y, x), value in np.ndenumerate(values):
            key = (rows[y], columns[x])
            low, high = (table[f"{name} {end}"].get(key, np.nan) for end in ("low", "high"))
            words = f"{value:.3f}" if np.isfinite(value) else "n/a"
            words += f"\n[{low:.3f}, {high:.3f}]" if np.isfinite(low) else ""
            dark = np.isfinite(value) and value > bottom + 0.45 * (1 - bottom)
            axes.text(x, y, words, ha="center", va="center", fontsize=8.5, color="white" if dark else INK)
            if own.get(columns[x]) == rows[y]:
                place = (x - 0.47, y - 0.47)
                axes.add_patch(Rectangle(place, 0.94, 0.94, fill=False, edgecolor=MODEL_COLOUR, lw=2.2, zorder=3))
        axes.set_xticks(range(len(columns)), [str(column) for column in columns], parse_math=False)
        axes.set_yticks(range(len(rows)), rows if panel % across == 0 else [""] * len(rows), parse_math=False)
        axes.tick_params(labelsize=10.5, length=0)
        axes.spines[:].set_visible(False)
        axes.set_title(f"{name} of pixels" if name == PIXELS else name, fontsize=11.5)
        axes.set_xlabel(xlabel, fontsize=11)
        axes.set_ylabel("" if panel % across else "checkpoint", fontsize=11)
    return figure


def crossing_words(found: pd.DataFrame, compared: pd.DataFrame, own: Mapping[str, str], judged_on: str) -> str:
    """The verdict on a matrix: scores alike and crosswise, how many comparisons are worse, and the worst of them."""
    networks = found[found["kind"] == NETWORK]
    alike = networks["checkpoint"] == networks[judged_on].map(own)
    crossed = ~alike & networks[judged_on].isin(own)
    said = "; ".join(
        f"{name} {_span(networks.loc[alike, name])} where trained and judged alike, "
        f"{_span(networks.loc[crossed, name])} crosswise"
        for name in MAIN
    )
    worse, better = (compared[compared["verdict"] == word] for word in ("worse", "beats"))
    lacking = int((compared["verdict"] == UNDEFINED).sum())
    rest = len(compared) - len(worse) - len(better) - lacking
    said += (
        f". Against the checkpoint trained on the same, {len(worse)} of {count(len(compared), 'comparison')} crosswise "
        f"are worse, {len(better)} better, {rest} not distinguished (n = {_wells(compared)})"
        + (f", {lacking} not defined." if lacking else ".")
    )
    if len(worse):
        row = worse.loc[worse["difference"].idxmin()]
        ends = f"{row['difference']:+.3f} [{row['difference low']:+.3f}, {row['difference high']:+.3f}]"
        said += f" The greatest loss: {row['checkpoint']} {judged_on} {row[judged_on]}, {row['score']} {ends}."
    return said + null_words(found)


def null_words(found: pd.DataFrame) -> str:
    """What the nulls reach in the main scores, from their lowest to their highest."""
    said = ""
    for label, table in found[found["kind"] == NULL].groupby("checkpoint", sort=False):
        said += f" The null {label} reaches {', '.join(f'{name} {_span(table[name])}' for name in MAIN)}."
    return said


def _span(values: pd.Series) -> str:
    known = values.dropna()
    if known.empty:
        return "n/a"
    low, high = f"{known.min():.3f}", f"{known.max():.3f}"
    return low if low == high else f"{low} to {high}"


def _wells(compared: pd.DataFrame) -> str:
    low, high = int(compared["wells"].min()), int(compared["wells"].max())
    return count(low, "well") if low == high else f"{low} to {high} wells"


def leaky_words(subject: Subject, named: Mapping[str, Sequence[str | None]]) -> str:
    """What a verdict and captions say where test wells were trained on."""
    assert subject.origin is not None
    leaky = [label for label, names in named.items() if any(subject.origin(name).leaky for name in names)]
    return " Leaky split." if subject.leaky_split else f" Leaky split: {', '.join(leaky)}." if leaky else ""


def hint(wells: int) -> str:
    return f" Fewer than {FEW_WELLS} wells: a hint, not yet a finding." if wells < FEW_WELLS else ""


def shown(row: pd.Series, name: str) -> str:
    """A score with its interval."""
    low, high = row[f"{name} low"], row[f"{name} high"]
    if not np.isfinite(row[name]):
        return "n/a"
    return f"{row[name]:.3f}" + (f" [{low:.3f}, {high:.3f}]" if np.isfinite(low) else "")


def notes(subject: Subject, images: pd.DataFrame, fewest: int, n: int, seed: int) -> list[str]:
    """What the three studies say alike: units, null, runs, control, drawn data."""
    data, networks = subject.datamodule, images[images["kind"] == NETWORK]
    runs = networks.groupby("checkpoint")["run"].nunique()
    found = [
        *unit_notes(fewest, n, seed),
        "Pearson r of pixels is the mean over images, the label-free thesis' PCC loss is (1 - r) / 2; r of a readout "
        "is over images, of predicted against true values, each image segmented by itself.",
        "Verdicts of comparisons rest on differences over the same resamples, p by Holm over all rows. Only pixels, "
        "count and area are compared: a model trained with Pearson's loss alone is free in brightness.",
    ]
    if int(runs.max()) > 1:
        found.append(
            "Where a checkpoint has several training seeds, each is judged by itself and their scores are averaged; "
            "the table of runs gives each."
        )
    if int(runs.min()) < 3:
        found.append(
            "Fewer than three training seeds per checkpoint: intervals cover the choice of wells and images, not of "
            "the seed, so that a difference may be that of two trainings. Train with seed=0,1,2 and give "
            "study.checkpoints={LABEL: [A, B, C]}."
        )
    if CONTROL in images:
        found.append(
            "control r: the same pixels' r for the organelle without contrast in transmitted light, which no network "
            "can see. What is above 0 there was not read from the image: it is what usually lies where cells are."
        )
    if not data.comparable:
        found.append(f"{UNCOMPARED}. So theirs are not correlated.")
    if hasattr(data, "microscope"):
        found.append(
            "These images are drawn: source and target are one scene under the virtual microscope. Its nuclei were "
            "held against real fluorescence (docs/realism/realism.md), its transmitted light was not."
        )
    if subject.leaky_split:
        found.insert(0, "Leaky split: images of one well are on both sides, so every score here is too good.")
    return found
