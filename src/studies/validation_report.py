"""The words and pictures of the metric validation."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from .judged import FEW_WELLS
from .manipulated import DECOYS, FEWEST_WHOLE, GRADED, TRAPS
from .raters import Concordance
from .readouts import FEWEST_FOR_RATIO
from .result import StudyResult
from .validation_figures import decoys_and_traps, picture_rows, score_against_severity

INTERVAL = "Brackets hold 95 % bootstrap intervals over wells."


def summarise(
    tables: dict[str, pd.DataFrame],
    example: pd.DataFrame,
    agreement: Concordance | None,
    notes: list[str],
    in_severity: list[str],
    counts_only: bool,
) -> StudyResult:
    """Put tables, figures, verdict, captions and notes together; `example`: the rows of one original, with `array`.

    `in_severity` names metrics that severity contains; `counts_only`: the first metric compares counts and areas alone.
    """
    images = tables["per_image"]
    graded = images[images["set"] == "graded"]
    subject = str(tables["metrics"]["metric"].iloc[0])
    wells = images["group"].nunique()
    size = f"n = {len(graded)} damaged pictures of {images['id'].nunique()} patches, {wells} wells"
    figures = {
        "damage": _damage(example, subject),
        "decoys_and_traps_shown": _harmless(example, subject),
        "score_against_severity": score_against_severity(graded, tables["metrics"], list(GRADED)),
        "decoys_and_traps": decoys_and_traps(tables["decoys"], tables["traps"]),
    }
    captions = {
        "metrics": f"Agreement of each score with severity over all graded damage, turned so that 1 is best; {size}. "
        "By labels: severity from true instances, without any segmentation. Fooled by decoys: of "
        f"{len(DECOYS)}, how many lower the score at least as much as the mildest damage. Traps unnoticed: share. "
        f"{INTERVAL}",
        "compared": f"Spearman of {subject} minus that of the others, over the same resamples. The intervals hold "
        "together (Bonferroni, 95 % for all).",
        "by_change": f"Spearman within one kind of damage. {INTERVAL}",
        "levels": f"Mean score and severity at each level of damage. {INTERVAL}",
        "decoys": "Fall of the score below that of the unchanged picture, beside its mean for graded damage at the "
        "lowest level. The specimen is the same in a decoy, so no fall is right. Verdict: from the interval of the "
        "difference, Bonferroni over the decoys of a metric. As mild damage: share of pictures on which the decoy "
        "lowers the score at least as much. An unchanged picture has a PSNR of 100 dB, so its falls are large. F1: of "
        f"segmented nuclei; saturated: share of pixels clipped. {INTERVAL}",
        "traps": "Unnoticed: share of pictures whose score falls by less than 1 % of the metric's range (from the "
        "unchanged picture to the worst graded damage). Below a decoy: share where some decoy lowers the score of the "
        f"same picture as much. {INTERVAL}",
        "per_image": "One row per picture; set: original, graded, decoy or trap.",
        "damage": "One patch, damaged by degrees: share of the area, of the picture or of the number of nuclei; "
        f"artefacts cover a quarter of that share. s: severity; P: {subject}.",
        "decoys_and_traps_shown": "Above: decoys, the same specimen seen otherwise. Below: traps, counts and areas "
        f"hardly change. P: {subject}.",
        "score_against_severity": f"Every damaged picture: score against severity by readouts; {size}.",
        "decoys_and_traps": "Shares of pictures, 0 is right. Left: a harmless change lowers the score at least as much "
        "as the mildest damage. Middle: a changed specimen does not lower it by 1 % of its range. Right: nor by more "
        "than the worst decoy on the same picture.",
    }
    verdict = _verdict(tables, subject, size, in_severity, counts_only)
    if agreement is not None:
        captions["raters"] = (
            "Spearman with the mean rank of the other raters, each left out in turn, averaged; least and most: among "
            f"them. A rater: each person against the others. To a rater: metric minus person. {INTERVAL}"
        )
        words = (
            f"Raters: Kendall's W = {agreement.w:.2f} (chi-square {agreement.chi_square:.1f}, p = {agreement.p:.2g})"
        )
        notes = [f"{words}; 1 would be one ranking, 0 none in common.", *notes]
    if wells < FEW_WELLS:
        verdict += f" Fewer than {FEW_WELLS} wells: a hint, not yet a finding."
    if in_severity:
        notes = [f"{', '.join(in_severity)}: severity contains it, so it agrees in part by construction.", *notes]
    return StudyResult(
        title=f"Metric validation: does {subject} follow the damage?",
        tables=tables,
        figures=figures,
        main="metrics",
        notes=[*_notes(images), *notes],
        captions=captions,
        verdict=verdict,
    )


def _verdict(
    tables: dict[str, pd.DataFrame], subject: str, size: str, in_severity: list[str], counts_only: bool
) -> str:
    """What the numbers say of the first metric, good or bad."""
    metrics = tables["metrics"].set_index("metric")
    own = metrics.loc[subject]
    words = (
        f"{subject} follows the damage with a Spearman of {own['Spearman']:.2f}{_brackets(own, 'Spearman')} ({size})"
    )
    kinds = {
        "follows damage better": "better than",
        "worse": "worse than",
        "not distinguished": "not distinguished from",
    }
    compared = tables["compared"][~tables["compared"]["against"].isin(in_severity)]
    parts = []
    for verdict, phrase in kinds.items():
        rivals = compared.loc[compared["verdict"] == verdict, "against"]
        if len(rivals):
            named = [f"{name} ({metrics.loc[name, 'Spearman']:.2f})" for name in rivals]
            parts.append(f"{phrase} {', '.join(named)}")
    words += f": {'; '.join(parts)}." if parts else "."
    decoys = tables["decoys"].query("metric == @subject")
    if "Spearman by labels" in metrics:
        # The rulers differ most in what an artefact costs, which can turn the order of metrics round.
        named = [f"{name} {metrics.loc[name, 'Spearman by labels']:.2f}" for name in (subject, *compared["against"])]
        words += f" With severity by true labels: {', '.join(named)}."
    fooled, unclear = (decoys.loc[decoys["verdict"] == word, "decoy"] for word in ("fooled", "not distinguished"))
    words += f" Of {len(decoys)} decoys, {', '.join(fooled) or 'none'} lowered it as much as the mildest damage"
    words += f", and {', '.join(unclear)} cannot be told from it." if len(unclear) else "."
    traps = tables["traps"].query("metric == @subject")
    if len(traps):
        blind = ", ".join(f"{row.trap} {100 * row.unnoticed:.0f} %" for row in traps.itertuples())
        words += f" Traps it did not notice: {blind} of the pictures."
        if counts_only and traps["unnoticed"].max() > 0.05:
            words += " It compares counts and summed areas, not which nuclei or where: it is blind to what balances."
    return words


def _brackets(row: pd.Series, name: str) -> str:
    if not np.isfinite(row[f"{name} low"]):
        return ""
    return f" [{row[f'{name} low']:.2f}, {row[f'{name} high']:.2f}]"


def _notes(images: pd.DataFrame) -> list[str]:
    graded = images[images["set"] == "graded"]
    notes = [
        "Severity is the mean of three losses, fixed before any metric was looked at: 1 - F1 of whole nuclei; the "
        "change of integrated DNA (total, and its distribution over nuclei); and that of a well's G1:G2 ratio.",
        "Severity reads a segmentation of the damaged picture with the original's threshold, since that is what a lab "
        "would measure, false nuclei of an artefact included. It is held against severity by true labels.",
        "Decoys are harmless by construction, not by readouts: a gain changes integrated DNA until it is calibrated.",
        "Nuclei pasted or moved are copies of the picture's own; removed ones leave background and its noise.",
    ]
    for way in ("", " by labels"):
        without = graded.groupby("group")[f"cell cycle loss{way}"].apply(lambda losses: losses.isna().any())
        if without.any() and graded[f"severity{way}"].notna().any():
            notes.append(
                f"{int(without.sum())} of {len(without)} wells show too few nuclei for a G1:G2 ratio{way} (fewer than "
                f"{FEWEST_FOR_RATIO}, or 30 of the plate): severity there is the mean of the other two losses."
            )
    if graded["severity by labels"].isna().all():
        notes.append(
            "No true instances are known: nuclei were found by segmentation, and severity has no second ruler."
        )
    expected = images["id"].nunique()
    counts = images[images["set"] != "original"].groupby("change")["id"].nunique()
    short = [
        f"{name} ({int(counts.get(name, 0))})" for name in (*GRADED, *DECOYS, *TRAPS) if counts.get(name, 0) < expected
    ]
    if short:
        notes.append(f"Not every one of the {expected} patches had room: {', '.join(short)}.")
    notes.append(f"Only patches that show at least {FEWEST_WHOLE} whole nuclei are used.")
    return notes


def _damage(example: pd.DataFrame, subject: str) -> Figure:
    original = example[example["set"] == "original"].iloc[0]
    rows = []
    for name, table in example[example["set"] == "graded"].groupby("change", sort=False):
        cells = [("original", original["array"])]
        cells += [(f"{100 * row['level']:g} %   {_said(row, subject)}", row["array"]) for _, row in table.iterrows()]
        rows.append((str(name), cells))
    return picture_rows(rows)


def _harmless(example: pd.DataFrame, subject: str) -> Figure:
    original = example[example["set"] == "original"].iloc[0]
    rows = []
    for kind in ("decoy", "trap"):
        cells: list[Any] = [("original", original["array"])]
        for _, row in example[example["set"] == kind].iterrows():
            cells.append((f"{row['change']}\nP {row[subject]:.2f}", row["array"]))
        rows.append((f"{kind}s", cells))
    return picture_rows(rows)


def _said(row: pd.Series, subject: str) -> str:
    return f"s {row['severity']:.2f}  P {row[subject]:.2f}"
