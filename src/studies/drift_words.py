"""What the drift study says: the verdict, the captions and the notes on how far to trust it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from .drift_runs import RunLength
from .drift_tables import CLEAN
from .judged import count, number

FEW_IMAGES = 200
NOT_KEPT = "No detector is kept: predict.py looks at images (study.unit=image)."


def verdict(
    crossed: pd.DataFrame, aucs: Mapping[str, Mapping[str, float]], achieved: RunLength, length: int, leaky_split: bool
) -> str:
    """Harm against alarm in counts (`harm_and_alarm`), the AUCs of `finds` by label, and the run length in control."""
    rows = crossed.set_index("streams")
    harmful, harmless, clean = (rows.loc[name] for name in ("harmful", "corrupted, harmless", "clean"))
    if harmful["alarm"] + harmful["no alarm"]:
        words = [f"The alarm found {_alarms(harmful)} harmful streams of {length} images"]
    else:
        words = ["No stream was harmful: all errors stayed within the tolerance"]
    words.append(f"it rang in {_alarms(harmless)} that were corrupted without harm, and in {_alarms(clean)} clean ones")
    for name, auc in aucs.items():
        if np.isfinite(auc["AUC"]):
            known = np.isfinite(auc["AUC low"])
            ends = f" [{number(auc['AUC low'])}, {number(auc['AUC high'])}]" if known else ""
            words.append(f"the run length tells {name} from not {name} with AUC {number(auc['AUC'])}{ends}")
    kept = "below half of what was asked: it alarms too often" if achieved.too_short else "kept"
    leaky = " Leaky split." if leaky_split else ""
    return f"{'; '.join(words)}. {str(achieved).capitalize()}: {kept}.{leaky}"


def captions(
    streams: tuple[int, ...],
    conditions: int,
    readouts: Sequence[str],
    tolerance: float,
    severity: int,
    living: bool,
    leaky: bool,
    unit: str = "image",
) -> dict[str, str]:
    """Captions of every table and figure: number and length of the `streams`, whether `living` cells are among them."""
    brackets = "Brackets: 95 %, jackknife over groups of wells."
    texts = {
        "harm_and_alarm": f"{streams[0]} streams of {streams[1]} images for each of {conditions} conditions, by harm "
        f"and alarm; harmful: mean relative error of {' or '.join(readouts)} over {tolerance:g} above clean. control "
        f"r: of the organelle without contrast. {brackets}",
        "conditions": "Errors: mean over images of |predicted - true| / true, of their crops that data.filters keeps; "
        "excess: above the clean images of the same fields. harmful, alarm, offline alarm: shares of streams. median "
        f"run: {unit}s up to the alarm. {brackets}",
        "separability": "Tables 10 to 12 of the thesis: AUC-ROC of minus the run length, clean against defocus "
        f"(severity {severity} where another setting varies). {brackets} in-control run: mean run on clean images, "
        "shuffled, with its standard error; inf: no alarm.",
        "told_apart": f"AUC-ROC of minus the run length, over all streams. {brackets}",
        "streams": "One row per condition and stream.",
        "per_image": "One row per condition and image, readouts summed over its crops.",
        "harm_against_alarm": "Conditions from the least to the most harmful: how far errors exceed those of clean "
        "images (left, dashed: tolerance), and how many streams end in an alarm (right).",
        "false_negatives": "Figure 58 of the thesis: streams that no detector noticed, against severity. The offline "
        f"test sees as many {unit}s as the online window holds. Bars: share of streams that are harmful. Whiskers: 95 "
        "%, jackknife over groups of wells.",
        "run_lengths": "Figures 59 to 61 of the thesis: share of streams still without an alarm. Dashed: the promise "
        f"in control, (1 - 1 / expected run time) to the power of the {unit}s.",
    }
    if living:
        texts["fixed_or_not"] = (
            "Figure 61 of the thesis: fixed cells, on which the model was trained, against living ones. Its detector "
            f"alarmed after 7 observations in control where 128 were promised. {brackets}"
        )
    return {name: text + (" Leaky split." if leaky else "") for name, text in texts.items()}


def notes(
    achieved: Sequence[RunLength],
    unit: str,
    reference: int,
    held_out: int,
    undefined: int,
    drawn: bool,
    left_out: bool,
    leaky_split: bool,
) -> list[str]:
    """How far to trust it: run lengths, images of the reference, held out, without true objects; whether all was drawn.

    The last of the run lengths is the one that `predict` will meet.
    """
    found = ". ".join(str(one).capitalize() for one in achieved)
    of = ", the mean over its crops" if unit == "image" else ", and an image's follow one another"
    texts = [
        f"{found}. Its error is of the runs alone: they share one reference ({reference} images) and one set of "
        f"{count(held_out, 'held-out image')}.",
        "Intervals are a jackknife over up to ten groups of test wells: the streams are shown again "
        "without each. More streams do not make them narrower than the wells allow; few make them wide: of 100, on "
        "simulated embeddings, about twice the spread over new wells. The reference is one, conditions are fixed. "
        "Where no group changes anything, as where all streams alarm, there is no interval.",
        f"The observation is the {unit}{of}. Crops of one image resemble each other: fed one by one "
        "they make alarms come many times too often. On simulated embeddings whose crops correlate by 0.1, runs of 128 "
        "became runs of 8, about as short as the thesis reports (section 4.3.3.1: 7 in distribution).",
        "The promise holds for images exchangeable with the reference: of the same plates, microscope and days. "
        "Another plate is a change too, and may be noticed though nothing went wrong.",
        "Judge an alarm by harmful errors, not by corruption: what a camera corrupts need not move what is read.",
        "Harm needs the true stain, which a user of the alarm does not have; here it is known. An excess below 0 is no "
        "merit: a change that moves predictions against the model's own bias brings its errors down.",
    ]
    if achieved[-1].by_well:
        texts.insert(
            1,
            "Wells hold several fields, which resemble each other. predict.py takes fields in the order of the plate, "
            "a well's together: expect its false alarms as often as they came so, which the detector's file keeps.",
        )
    if achieved[-1].too_short:
        texts.insert(0, "Alarms in control come over twice as often as asked: do not use this detector as it is.")
    if reference < FEW_IMAGES:
        texts.append(f"Few reference images ({reference}): with {FEW_IMAGES} or more the thresholds are steadier.")
    if left_out:
        texts.append("Lab errors (study.mishaps) are drawn; these data are not, so they were left out.")
    if undefined:
        texts.append(
            f"{count(undefined, 'image')} (of all conditions) without true objects, or with no crop that data.filters "
            "keeps, count in no error. The detector sees every crop of every image, as predict.py does."
        )
    if drawn:
        texts.append(
            "These images are drawn by the virtual microscope, whose transmitted light has not been held against real "
            "images: this says that a method can work, not how well it does on cells."
        )
    if leaky_split:
        texts.insert(0, "Leaky split: reference and stream share wells, so the in-control run is too good.")
    return texts


def detector_note(file: str, checkpoint: object) -> str:
    """Where the fitted detector is, and the command that uses it."""
    return (
        f"The fitted detector is {file} beside this page: python predict.py ckpt_path={checkpoint} plate=PLATE "
        f"drift={file} flags images like those that it alarms at."
    )


def control_note(conditions: pd.DataFrame) -> list[str]:
    """r of the organelle without contrast, clean and where it is farthest from 0; nothing where it was not measured."""
    if "control r" not in conditions:
        return []
    r = conditions.set_index("condition")["control r"]
    worst = r.abs().idxmax()
    return [
        f"Negative control, the organelle without contrast: r {r[CLEAN]:.2f} clean, at most {r[worst]:.2f} ({worst}). "
        "What tables 10 to 12 tell apart are images, with or without a stain to predict."
    ]


def _alarms(row: pd.Series) -> str:
    """Alarms of all streams of a row of `harm_and_alarm`."""
    alarms, total = int(row["alarm"]), int(row["alarm"] + row["no alarm"])
    return f"{alarms} of {total}" + (f" ({100 * alarms / total:.0f} %)" if total else "")
