"""What the study of robustness says: verdict, captions and notes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from .judged import FEW_WELLS, count, unit_notes
from .translation import CONTROL_NEEDED

SHARE = 0.005  # below this a clipped share is written as none
EXPLODED = 2.0  # times the true count


class Facts(NamedTuple):
    """What the words need: the study's settings, the data, and how much was judged."""

    model: str
    others: list[str]
    target: str
    images: int
    wells: int
    tolerance: float
    mode: str
    n_bootstrap: int
    seed: int
    stretched: bool
    drawn: bool
    lab_asked: bool
    control: bool
    comparable: bool
    several: bool
    leaky: bool

    @classmethod
    def of(cls, study: Any, data: Any, clean: pd.DataFrame, labels: list[str], leaky: bool) -> Facts:
        return cls(
            model=labels[0],
            others=labels[1:],
            target=data.targets[0],
            images=int(clean["id"].nunique()),
            wells=int(clean["group"].nunique()),
            tolerance=study.tolerance,
            mode=study.mode,
            n_bootstrap=study.n_bootstrap,
            seed=study.seed,
            stretched=all(data.scaling.by_image(name) for name in data.sources),
            drawn=hasattr(data, "microscope"),
            lab_asked=study.lab_errors,
            control=set(clean) >= CONTROL_NEEDED,
            comparable=bool(data.comparable),
            several=len(data.targets) > 1,
            leaky=leaky,
        )

    @property
    def said(self) -> str:
        few = f" Fewer than {FEW_WELLS} wells: a hint, not yet a finding." if self.wells < FEW_WELLS else ""
        return few + (" Leaky split." if self.leaky else "")


def verdict(facts: Facts, tables: Mapping[str, pd.DataFrame]) -> str:
    """Whether the model's loss degrades with defocus before brightness, by the rule stated in `Robustness`."""
    onsets, severities = tables["onsets"], tables["severities"]
    clean = severities[(severities["method"] == facts.model) & (severities["severity"] == 0)].iloc[0]
    size = f"n = {count(facts.images, 'image')} of {count(facts.wells, 'well')}"
    start = f"{facts.target} from {facts.model}, clean PCC loss {clean['PCC loss']:.3f} ({size}): "
    own = onsets[onsets["method"] == facts.model]
    if own["change low"].isna().all():
        return start + "no order of corruptions can be shown without intervals over wells." + facts.said
    defocus, brightness = (_onset(own, kind) for kind in ("defocus", "brightness"))
    if not np.isfinite(defocus) and not np.isfinite(brightness):
        answer = "it does not degrade with defocus before brightness: neither degrades it"
    elif defocus < brightness:
        answer = "it degrades with defocus before brightness, as in the thesis"
    elif defocus == brightness:
        answer = "defocus is not shown to come before brightness: both degrade it from the same severity on"
    else:
        answer = "it degrades with brightness before defocus, unlike in the thesis"
    rule = f" (loss up by more than {facts.tolerance:g})"
    others = [f"{label}: {_details(onsets[onsets['method'] == label])}." for label in facts.others]
    lab = [_lab(facts, tables["lab_errors"])] if "lab_errors" in tables else []
    return " ".join([f"{start}{answer}{rule}: {_details(own)}.", *others, *lab]) + facts.said


def _lab(facts: Facts, errors: pd.DataFrame) -> str:
    own = errors[errors["method"] == facts.model]
    harmful = own.loc[own["change low"] > facts.tolerance, "lab error"].str.replace("_", " ")
    return f"Laboratory errors that degrade it as much: {', '.join(harmful) or 'none'}."


def _onset(onsets: pd.DataFrame, kind: str) -> float:
    """The least severity, of either sign, from which on a kind degrades; infinite for none."""
    severities = onsets.loc[onsets["corruption"] == kind, "severity"].abs().dropna()
    return float(severities.min()) if len(severities) else np.inf


def _details(onsets: pd.DataFrame) -> str:
    parts = []
    for _, row in onsets.iterrows():
        what = f"{row['corruption']} ({row['direction']})"
        if pd.isna(row["severity"]):
            parts.append(f"{what} at none up to {row['strongest judged']:+d}")
            continue
        clipped = f", {100 * row['clipped']:.0f} % of pixels clipped there" if row["clipped"] > SHARE else ""
        parts.append(f"{what} from {row['severity']:+d} on{clipped}")
    return "; ".join(parts)


def captions(facts: Facts) -> dict[str, str]:
    """By name of table and figure."""
    size = f"{count(facts.images, 'image')} of {count(facts.wells, 'well')}"
    interval = "Brackets: 95 % bootstrap intervals over wells."
    leaky = " Leaky split." if facts.leaky else ""
    bars = f"Bars: 95 % bootstrap intervals over wells; {size}."
    shaded = f"{bars} Shaded: severities that clip more than 1 % of the source pixels, with the share above.{leaky}"
    columns = (
        f"Loss: mean (1 - r) / 2, {size}. change: of the loss against the same images clean, paired. r: of a readout "
        "from predicted against that from true stains, over images; bias: predicted - true, in % of the mean true. "
    )
    example = "{}: the patch of median clean loss. Sources: {}. Predictions: in the range of the clean one's."
    full = "counts, from 0 (black) to the camera's full scale (white)"
    return {
        "onsets": "From which severity on the loss is degraded, for it and every stronger one judged (n/a: none). "
        f"change, clipped and control r are those there, or of the strongest. {interval}{leaky}",
        "severities": f"{columns}clipped: share of source pixels driven out of the camera's range, mean over fields. "
        f"{interval}{leaky}",
        "lab_errors": "Test wells drawn again after a mishap (thesis, figures 39 and 48); none: 30 ms, in focus, fixed "
        f"10 minutes. {columns}"
        f"{interval}{leaky}",
        "comparisons": "How much smaller the loss is than that of the model it is compared with, same images and "
        f"condition; beats: smaller. Holm over the table. {interval}{leaky}",
        "per_image": f"One row per method, training run, condition and image.{leaky}",
        "examples_defocus": example.format("Defocus", "in the range of the sharp one"),
        "examples_brightness": example.format("Brightness", full),
        "examples_contrast": example.format("Contrast", full),
        "examples_lab_error": "Laboratory errors: the patch of median clean loss, drawn again after each; low density "
        f"has other cells. Sources: {full}. Stains: in the range of the clean one of their row.",
        "against_severity": shaded,
        "intensities_against_severity": shaded,
        "under_lab_errors": f"{bars} The null is that of the clean patches.{leaky}",
    }


def notes(facts: Facts, tables: Mapping[str, pd.DataFrame]) -> list[str]:
    """What must be known to read the tables, the weightiest first."""
    severities = tables["severities"]
    judged = severities[severities["corruption"] != "null"]
    found = [
        *(
            ["Leaky split: images of one well are on both sides, so every score here is too good."]
            if facts.leaky
            else []
        ),
        "The rule, set before anything is judged: the loss is degraded at a severity where the lower end of its paired "
        f"change's interval lies above study.tolerance={facts.tolerance:g} (r down by {2 * facts.tolerance:g}), and a "
        "corruption degrades from the least severity on at which that holds for it and every stronger one of its sign. "
        "Brightness has two signs and so two chances to come first; signs are not corrected for.",
        "Severities are those of table 9 of the label-free thesis. They grade each kind, not one kind against another: "
        "'before' compares steps of that table, not equal damage. Its radii are pixels, here as there, whatever their "
        "size in micrometres.",
        "The thesis' order is that of a model trained with flips, rotation and scaling alone, as labelfree/nuclei is; "
        "one that met corruptions in training (labelfree/nuclei_corrupted) bears them better.",
        _about_scaling(facts),
        _about_mode(facts.mode),
        *unit_notes(facts.wells, facts.n_bootstrap, facts.seed),
        "other_image, the null, predicts the stain of another well; it sees no source, so that one number holds for "
        "every severity. A loss beyond it is worse than the picture of another well.",
        "A constant prediction has no r and counts as r = 0, a loss of 0.5, in each training run by itself.",
        "Intervals cover the choice of wells and images, not of training seeds.",
        "Intensities: a model trained with Pearson's loss alone is free in brightness, so that their bias need not be "
        "small; r shows whether brighter images are predicted brighter."
        if facts.comparable
        else "Intensities are not comparable (data.scaling=paper), so that theirs are left out.",
    ]
    if judged["training seeds"].max() > 1:
        found.append(
            "Where a checkpoint has several training seeds, each is judged by itself and their scores are averaged; a "
            "readout's r is not defined where one of them reads the same from every image."
        )
    wild = judged[judged["count predicted"] > EXPLODED * judged["count true"]]
    if len(wild):
        worst = wild.loc[(wild["count predicted"] / wild["count true"]).idxmax()]
        found.append(
            "Counts explode: the readouts' local threshold finds objects in noise where a prediction holds no nuclei. "
            f"Over {EXPLODED:g} times the true count at {', '.join(_named(wild))}; the worst is "
            f"{worst['count predicted']:.0f} objects an image for {worst['count true']:.0f} true."
        )
    if facts.control:
        found.append(
            "control r is that of an organelle which the drawn light does not show: whatever is right about its "
            "prediction was guessed from where cells are."
        )
    if facts.several:
        found.append(f"Several targets: pictures and words are of {facts.target}, numbers of the metrics' channel.")
    if "lab_errors" in tables:
        found.append(
            "Laboratory errors are drawn by the virtual microscope on the test wells' own scenes: sources and true "
            "stains are both those of the redrawn field. All but low_density leave the nuclei where they are; 30 ms is "
            "the normal exposure. not_fixed draws living cells (thesis, section 3.5): how far fixing changes them is "
            "chosen, not measured. Patches are those of the clean fields, so low density may hold empty ones."
        )
    elif facts.lab_asked:
        found.append(
            "Laboratory errors are left out: only data that the microscope alone drew (data=virtual_pairs) can be "
            "drawn again after a mishap, and pictures of real ones have no stain beside them."
        )
    if facts.drawn:
        found.append(
            "These images are drawn: the nuclei have been held against real fluorescence (docs/realism/realism.md), "
            "the transmitted light has not. This says that a method can work, not how well it does on cells."
        )
    return found


def _about_scaling(facts: Facts) -> str:
    if facts.stretched:
        return (
            "Each source is stretched from its own minimum to its own maximum after the corruption "
            "(data.source_scaling=image, or data.scaling=paper): gain and offset cancel but for rounding, unless "
            "pixels clip. Brightness and contrast act here through clipping alone, and an image of which one "
            "pixel is clipped is stretched otherwise: read them with the clipped share."
        )
    return (
        "Sources are scaled by their plate's range, which stays that of the clean training wells: what a corruption "
        "moves beyond it is cut to 0 or 1, besides what the camera clips."
    )


def _about_mode(mode: str) -> str:
    if mode == "clip":
        return "study.mode=clip: counts below 0 become 0, as in a camera; abs is OpenCV's convertScaleAbs."
    return (
        "study.mode=abs: counts below 0 lose their sign, as in OpenCV's convertScaleAbs, which the thesis names: "
        "dark pixels turn bright, which no camera does. The clipped share holds them too."
    )


def _named(rows: pd.DataFrame) -> list[str]:
    return [f"{row['corruption']} {row['severity']:+d} ({row['method']})" for _, row in rows.iterrows()]
