"""The words of mask_shape: captions, notes and what decides."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pandas as pd

from . import mask_shape_models as models
from .judged import ALPHA, UNCORRECTED, count, uncorrected
from .mask_shape_pairs import Artefacts, Drawn

OF_RANGE = "mean absolute error inside the hole, as a share of the range to which images are scaled"


def captions(holes: pd.DataFrame, margins: Mapping[str, float], first: str, leaky: str) -> dict[str, str]:
    pairs = len(holes) // 2
    size = f"n = {count(pairs, 'pair')} on {count(holes['field'].nunique(), 'field')} of "
    size += f"{count(holes['group'].nunique(), 'well')}"
    within = ", ".join(f"{score} {value:g}" for score, value in margins.items())
    bars = f"Hole MAE: {OF_RANGE}. {size}. Bars: 95 % over wells."
    return {
        "paired_differences": f"Irregular hole minus its matched rectangle on the same patch, {size}. Brackets hold "
        "95 % bootstrap intervals over wells. p Holm: corrected over the rows of networks, and over those of fills. "
        f"{UNCORRECTED} p equivalence: two one-sided tests that the difference lies within the margin ({within}), set "
        f"before the run; Holm likewise. Hole MAE: {OF_RANGE}.{leaky}",
        "mixed_models": "Linear mixed models of the scores of single images, the field as random intercept (REML), "
        "Wald intervals in brackets. Shapes are against rectangles; area and radius about their means. p Holm: "
        f"corrected over the rows of networks, and over those of fills, covered nuclei left out. {UNCORRECTED} SD: of "
        f"a score between and within fields.{leaky}",
        "matching": "Means over the holes of the pairs: area is a share of the patch; covered nuclei are hidden by "
        "half or more, touched ones by a pixel or more; radius: deepest hidden pixel to the nearest known one; "
        f"dilation: by how much the outlines of artefacts were grown to reach the band. {size}.",
        "per_image": f"One row per method and hole; n/a where a score is not defined.{leaky}",
        "paired": f"Thin lines: wells, from the matched rectangles to the shape; marks: all wells. {bars}{leaky}",
        "differences": f"Shape minus rectangle for every method; shaded: the margin of equivalence, in "
        f"which the narrower 90 % interval has to lie (before Holm). {bars}{leaky}",
        "score_by_area": f"Scores by band of hidden area and shape; dots: single images. {bars}{leaky}",
        "score_by_radius": "Scores against the largest inscribed radius of the hole, by shape, over quarters of its "
        f"radii; dots: single images. {bars}{leaky}",
        "examples": f"One patch under both pairs of holes, restored by {first}. One grey scale per row; the blue part "
        "was hidden.",
    }


def notes(
    holes: pd.DataFrame,
    drawn: Drawn,
    artefacts: Artefacts,
    named: Mapping[str, Sequence[str | None]],
    leaky: Sequence[str],
    leaky_split: bool,
    unit: Sequence[str],
    tolerance: float,
) -> list[str]:
    told = list(unit)
    if leaky_split or leaky:
        who = ", ".join(leaky) if leaky else "all methods"
        told.insert(0, f"Leaky split: test wells were in training ({who}), so scores are too good.")
    dropped = ", ".join(f"{number} {what}" for what, number in drawn.left_out.items()) or "nothing"
    seeds = ", ".join(f"{label}: {count(len(names), 'training seed')}" for label, names in named.items())
    told += [
        f"Left out: {dropped}. A pair is left out where no rectangle of this area covers as many nuclei.",
        f"A matched rectangle has the hole's area within {100 * tolerance:g} % of it and covers as many nuclei "
        "(half of a nucleus hidden, or more). It does not cut as many: a ragged hole has more edge, which is part "
        "of its shape. See touched in matching.",
        f"Artefact holes are outlines from {artefacts.source} ({len(artefacts.outlines)} outlines), turned, up to "
        "twelve in one hole, and dilated to reach the band. "
        + (
            "Patches with artefacts of their own are left out."
            if artefacts.known
            else "Whether the patches hold artefacts of their own is not known."
        )
        + " Strokes are those of DeepFillV2.",
        "The inscribed radius is the distance from the deepest hidden pixel to the nearest known one. It differs "
        "between shapes of one area by nature: with it in the model, a shape's effect is what the radius leaves.",
        "The paired differences draw both holes of a pair together. Rim F1 is a ratio of counts: they pool the counts; "
        "the mixed models take the F1 of each image as a number of equal weight, and leave out images without rim "
        "nuclei.",
        "The mixed models' p are normal approximations that know fields, not wells: read them with the bootstrap.",
        f"Seeds: {seeds}. An image's scores are averaged over a label's seeds; with one, what another seed would "
        "give is not known.",
        "Not said: whether masks drawn by hand, or artefacts that also change the pixels around them, behave alike.",
    ]
    return told


def verdict(label: str, paired: pd.DataFrame, mixed: pd.DataFrame) -> str:
    """What decides for one network: area, shape and radius for PhIRM and rim F1, and what the paper argues."""
    parts, holds = [], {}
    for score in ("PhIRM", "rim F1"):
        own = mixed[(mixed["method"] == label) & (mixed["score"] == score)]
        area = own[(own["model"] == models.AREA_MODEL) & (own["term"] == models.AREA)].iloc[0]
        radius = own[(own["model"] == models.RADIUS_MODEL) & (own["term"] == models.RADIUS)].iloc[0]
        shapes = paired[(paired["method"] == label) & (paired["score"] == score)]
        told = "; ".join(f"{row['shape']} {row['difference']:+.3f}, {row['verdict']}" for _, row in shapes.iterrows())
        parts.append(
            f"{score}: 10 % more of the image hidden {_effect(area)}; against matched rectangles {told}; 10 um more "
            f"inscribed radius {_effect(radius)}"
        )
        clear = shapes["verdict"].isin(["higher", "lower"])
        inside = shapes["verdict"].str.contains("equivalent|within")
        falls = area["p Holm"] < ALPHA and area["estimate"] < 0
        holds[score] = (falls, bool(clear.any()), bool(inside.all()))
    falls, differs, equal = holds["PhIRM"]
    if falls and equal:
        paper = "holds for PhIRM"
        paper += "" if not holds["rim F1"][1] else ", not for rim F1, which shape changes too"
    elif differs:
        paper = "does not hold: shape changes PhIRM too" + ("" if falls else ", and no loss with area is shown")
    else:
        missing = [] if falls else ["no loss with area is shown"]
        missing += [] if equal else ["shapes are neither told apart nor equivalent"]
        paper = f"is not shown for PhIRM: {' and '.join(missing)}"
    return f"{label}. {'. '.join(parts)}. The paper argues that area decides, not shape: this {paper}."


def _effect(row: pd.Series) -> str:
    if pd.isna(row["p Holm"]):
        return "cannot be judged"
    size = f"{row['estimate']:+.3f} [{row['estimate low']:+.3f}, {row['estimate high']:+.3f}]"
    if row["p Holm"] < ALPHA:
        return size
    return f"{size}{uncorrected(row['estimate low'], row['estimate high'])}, not distinguished from none"
