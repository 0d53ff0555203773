"""What the study of embeddings says: captions, notes and verdict."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from ..imaging.corruptions import SEVERITIES
from .judged import ALPHA, count, number, unit_notes

APART, PARTLY = "apart", "partly"  # with F1 above that of calling everything corrupted, or not


def captions(names: Collection[str], units: Sequence[str], leaky: str) -> dict[str, str]:
    """A caption of each of these tables and figures."""
    words = {
        "clusters": "F1 of calling test images corrupted by clusters of each projection, beside F1 of everything, the "
        "null. found: share of corrupted images called so; false alarms: of clean ones; more found: the difference, "
        "with its p; p of F1: that F1 is above the null's. Holm corrects both, over all rows, as one family. corrupted "
        "lie apart: both are shown; partly: the first alone. Brackets: 95 % bootstrap intervals over wells.",
        "told": "What the five nearest training points tell of clean test points. brightness R2: of the mean of the "
        "source. Where phenotypes are known: balanced accuracy, the 95th percentile with labels permuted over training "
        "wells, and p Holm, corrected over all rows.",
        "predictions": "Pearson's r of what the network draws and what it was to draw, mean over the same crops; "
        "control r, where it draws that: for the organelle that no network can see. The other tables judge no "
        "drawing and have no such control.",
        "per_image": "A row per point of each projection; called: corrupted, by its cluster.",
    }
    for unit in units:
        here = f"Each panel is a map fitted on clean training {unit}s; its axes have no unit."
        words |= {
            f"{unit}s": f"{here} Test {unit}s, clean and corrupted, are mapped into it.",
            f"{unit}s_density": f"{here} Lines hold the densest 25, 50 and 75 % of the test {unit}s.",
            f"{unit}s_called": f"{here} Filled: called corrupted by its cluster, so filled triangles and empty circles "
            "are right. Of the first corruption.",
            f"{unit}s_brightness": f"{here} Colour: mean of the source as the network sees it, 0 to 1.",
            f"{unit}s_phenotype": f"{here} Clean test {unit}s by phenotype.",
        }
    return {name: words[name] + leaky for name in names}


def verdict(clusters: pd.DataFrame, told: pd.DataFrame) -> str:
    """F1 over all projections against the null, none picked by its result; then phenotypes where they are known."""
    parts = []
    for (corruption, unit), rows in clusters.groupby(["corruption", "unit"], sort=False):
        best, worst = rows.loc[rows["F1"].idxmax()], rows.loc[rows["F1"].idxmin()]
        apart, partly = (int((rows["corrupted lie"] == said).sum()) for said in (APART, PARTLY))
        where = f"apart in {apart} and partly in {partly}" if apart or partly else "not shown to, in any"
        interval = f" [{best['F1 low']:.2f}, {best['F1 high']:.2f}]" if np.isfinite(best["F1 low"]) else ""
        lowest, highest = f"{worst['F1']:.2f} ({worst['projection']})", f"{best['F1']:.2f}{interval}"
        parts.append(
            f"{corruption}, {unit}s: {where} of {count(len(rows), 'projection')}; F1 {lowest} to {highest} "
            f"({best['projection']}), {best['F1 of everything']:.2f} for calling everything corrupted "
            f"(n = {count(int(best['images']), unit)} of {count(int(best['wells']), 'well')}, clean and corrupted)"
        )
    words = "Do corrupted images lie apart? " + ". ".join(parts) + "."
    if "p Holm" in told:
        words += (
            f" Phenotypes are told in {int((told['p Holm'] < ALPHA).sum())} of {count(len(told), 'projection')}: "
            f"balanced accuracy up to {number(told['phenotype accuracy'].max())}, "
            f"{number(told['95 % of permuted'].max())} with permuted labels."
        )
    return words


def notes_of(
    data: Any,
    corruptions: Mapping[str, Mapping[str, Any]],
    clipped: Mapping[str, float],
    embedding: tuple[int, str],
    rows: Mapping[str, pd.DataFrame],
    cut: Sequence[str],
    drawn: tuple[int, int],
    leaky: bool,
) -> list[str]:
    """How it was done and how far to trust it.

    `clipped` are shares of pixels, `embedding` its size and pool, `rows` those of train and test crops, `cut` what was
    left out, `drawn` the number of resamples and the seed.
    """
    (size, pool), (resamples, seed) = embedding, drawn
    train, test = rows["train"], rows["test"]
    pooled = "flattened" if pool == "flatten" else "averaged over its pixels"
    notes = [
        *unit_notes(int(test["group"].nunique()), resamples, seed),
        f"A point is a bottleneck, {pooled}: {size} numbers; of an image, the mean over its crops. The maps are fitted "
        f"on {count(len(train), 'clean crop')} of {count(int(train['group'].nunique()), 'training well')}, not "
        "augmented; test images, clean or corrupted, are only mapped.",
        "Clusters: DBSCAN of training and test points together, 4 points to a core; its radius is the knee of the "
        "training points' distances to their third neighbour. A cluster is called corrupted where most of its points "
        "lie beyond that radius of the cores of training alone; so is a point of no cluster. No test label chooses "
        "anything.",
        "F1 of everything calls every image corrupted, and tells nothing. Each clean test image has a corrupted twin; "
        "where corrupted images are rare, both F1 are lower.",
        "PaCMAP maps a point that it was fitted on to another place than the fit gave it. Training points stand where "
        "the fit put them, and only test points are mapped; false alarms show what that costs.",
        "That corrupted images lie apart does not say that their predictions are wrong, nor the reverse: the table "
        "predictions, study=robustness and study=drift look at the harm.",
        "Intervals cover the choice of wells and images, not of the training seed or a map's: this is one trained "
        "model.",
    ]
    seen = {kind for kind in SEVERITIES if getattr(getattr(data, "augment", None), kind, 0) > 0}
    if alike := sorted(seen & {str(corruption["kind"]) for corruption in corruptions.values()}):
        notes.append(
            f"Training images were augmented with {' and '.join(alike)} (data.augment): the network has seen such "
            "images, and may draw them to clean ones. A network trained without may differ."
        )
    notes += [
        f"{name}: {100 * share:.1f} % of the pixels leave the camera's range and are clipped."
        for name, share in clipped.items()
        if share
    ]
    if "phenotype" not in data.index:
        notes.append("The index has no column phenotype: nothing is said about phenotypes.")
    notes += [f"Left out or cut: {words}." for words in cut]
    for split, own in rows.items():
        if len(own) < (total := len(data.patches(split))):
            notes.append(f"{split}: {len(own)} of {total} crops, of images drawn with seed {seed} (study.max_crops).")
    if hasattr(data, "microscope"):
        notes.append(
            "These images are drawn by the virtual microscope, whose transmitted light has not been held against real "
            "images: this says that a method can work, not how well it does on cells."
        )
    if leaky:
        notes.insert(0, "Leaky split: images of one well are on both sides, so test images lie too near training's.")
    return notes
