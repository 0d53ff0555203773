"""How badly a picture is damaged, judged by what a lab reads from it and PhIRM does not contain.

Three readouts, each as a loss from 0 (as in the original) to 1:

- nuclei: 1 - F1 of whole nuclei matched at IoU > 0.5;
- integrated DNA: the mean of the relative change of the total (at most 1) and the Kolmogorov-Smirnov distance between
  the distributions over nuclei;
- cell cycle: the relative change of the G1:G2 ratio of a well, 1 - min/max.

**Severity** is their plain mean. It was fixed before any metric was looked at. No weights, since any weighting could be
tuned to favour a metric; a mean and not the worst one, since then small damage to all and large damage to one differ.
Where a well has too few nuclei for a cell cycle, severity is the mean of the other two, at all levels of that well. A
Kolmogorov-Smirnov distance over n nuclei moves in steps of 1/n: the slightest change of every nucleus costs one step.

The nuclei are those of a segmentation of the manipulated picture, as a lab would have them: only so does an artefact
count, which is no nucleus but is measured as one. Its threshold is the original's, so that damage cannot move the ruler
(PhIRM takes each picture's own). Where true instances are known, severity is judged by them as well, as a check that a
metric does not agree merely because it segments in the same way; an artefact then counts by what it hides only.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pandas as pd
from scipy.stats import gaussian_kde, ks_2samp

MATCH_IOU = 0.5
G2_LIMIT = 1.5  # times the G1 mode: half-way between 2N and 4N
FEWEST_FOR_MODE = 30  # nuclei of a plate below which the G1 mode is not looked for
FEWEST_FOR_RATIO = 15  # nuclei of a well below which it has no G1:G2 ratio
LOSSES = ("nuclei loss", "DNA loss", "cell cycle loss")


class Reading(NamedTuple):
    """What is read from one picture: instances Y X, integrated DNA in all, and per nucleus not cut by the border."""

    labels: np.ndarray
    total: float
    dna: np.ndarray


def read(image: np.ndarray, labels: np.ndarray) -> Reading:
    """Measure integrated DNA of labelled nuclei: the sum of intensity above the median of all pixels outside nuclei.

    Where damage has made everything foreground there are no such pixels: the darkest one is the background then.
    """
    outside = image[labels == 0]
    background = np.median(outside) if outside.size else image.min()
    light = np.bincount(labels.ravel(), (image - background).ravel(), labels.max() + 1)
    names = np.unique(labels[labels > 0])
    border = np.r_[labels[0], labels[-1], labels[:, 0], labels[:, -1]]
    return Reading(labels, float(light[names].sum()), light[np.setdiff1d(names, border)])


def matched_f1(first: np.ndarray, second: np.ndarray) -> float:
    """F1 of two label images Y X, objects matched at IoU > 0.5; NaN where neither has an object."""
    shape = (int(first.max()) + 1, int(second.max()) + 1)
    pixels = np.bincount(first.ravel().astype(np.int64) * shape[1] + second.ravel(), minlength=shape[0] * shape[1])
    overlap = pixels.reshape(shape)
    areas_a, areas_b = overlap.sum(axis=1), overlap.sum(axis=0)
    pairs = overlap > MATCH_IOU * (areas_a[:, None] + areas_b[None] - overlap)
    objects = np.count_nonzero(areas_a[1:]) + np.count_nonzero(areas_b[1:])
    return 2 * int(pairs[1:, 1:].sum()) / int(objects) if objects else float("nan")


def picture_losses(original: Reading, changed: Reading) -> dict[str, float]:
    """The two losses that one picture gives: nuclei and DNA (with its parts, and F1)."""
    f1 = matched_f1(original.labels, changed.labels)
    total = min(1.0, abs(changed.total - original.total) / original.total) if original.total > 0 else float("nan")
    spread = float("nan")
    if len(original.dna):
        spread = float(ks_2samp(original.dna, changed.dna, method="asymp").statistic) if len(changed.dna) else 1.0
    return {
        "F1": f1,
        "nuclei loss": 1 - f1,
        "DNA total loss": total,
        "DNA distribution loss": spread,
        "DNA loss": float(np.mean([total, spread])),
    }


def g1_mode(dna: np.ndarray) -> float:
    """The G1 peak of integrated DNA: the highest peak of a Gaussian kernel density over log2, in the unit of `dna`.

    NaN for fewer than 30 nuclei with positive intensity. It takes for granted that most cells are in G1.
    """
    values = np.log2(dna[dna > 0])
    if len(values) < FEWEST_FOR_MODE or np.ptp(values) == 0:
        return float("nan")
    grid = np.linspace(values.min(), values.max(), 256)
    return float(2 ** grid[np.argmax(gaussian_kde(values)(grid))])


def g1_g2(dna: np.ndarray, mode: float) -> float:
    """Nuclei below over nuclei above 1.5 times the G1 mode, half a nucleus added to each: no ratio is infinite."""
    above = int((dna > G2_LIMIT * mode).sum())
    return (len(dna) - above + 0.5) / (above + 0.5)


def cycle_losses(pictures: pd.DataFrame, dna: list[np.ndarray], unchanged: dict[str, np.ndarray]) -> np.ndarray:
    """The cell-cycle loss of every picture, which is that of its well under the same change (change and level).

    `pictures` has id, group ("plate:well"), change and level, `dna` the intensities of each row's nuclei, `unchanged`
    those of the originals by id. Nuclei are pooled: the G1 mode over the plate, anew for each change, as a lab sets it;
    the ratio over the pictures of a well. NaN where the originals have too few nuclei; 1 where the damage left too few.
    """
    losses = np.full(len(pictures), np.nan)
    plates = pictures["group"].str.rsplit(":", n=1).str[0].to_numpy()
    place = np.arange(len(pictures))
    for _, rows in pd.Series(place).groupby([plates, pictures["change"].to_numpy(), pictures["level"].to_numpy()]):
        before = {row: unchanged[pictures["id"].iloc[row]] for row in rows}
        mode_before = g1_mode(np.concatenate(list(before.values())))
        mode_after = g1_mode(np.concatenate([dna[row] for row in rows]))
        for _, well in rows.groupby(pictures["group"].iloc[rows].to_numpy()):
            was, now = (np.concatenate([part[row] for row in well]) for part in (before, dna))
            if len(was) < FEWEST_FOR_RATIO or np.isnan(mode_before):
                continue
            if not len(now) or np.isnan(mode_after):
                losses[well] = 1.0
                continue
            ratios = sorted((g1_g2(was, mode_before), g1_g2(now, mode_after)))
            losses[well] = 1 - ratios[0] / ratios[1]
    return losses


def severity(table: pd.DataFrame, way: str = "") -> np.ndarray:
    """Mean of the losses that are defined (columns `LOSSES`, each ending in `way`), in [0, 1]."""
    return table[[f"{loss}{way}" for loss in LOSSES]].mean(axis=1).to_numpy()
