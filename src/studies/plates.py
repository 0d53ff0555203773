"""Plate report: what came in, what the model made of it and whether the layout shows, well by well."""

from __future__ import annotations

import re
from collections.abc import Container, Sequence

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from .assays import ALPHA, FEW_CONTROLS, assay_quality
from .platefigures import control_wells, heat_maps
from .positions import FORMATS, MIN_IN_LINE, MIN_SIDE, layout_effects, smallest_format
from .result import Picture, StudyResult
from .welltables import QUALITY, READOUTS, by_plate, by_well, check_fields

SAID_EFFECTS = 4  # quantities with layout effects that the verdict names


def plate_report(
    fields: pd.DataFrame,
    gallery: Sequence[Picture] = (),
    plate_format: int | None = None,
    n_resamples: int = 9999,
    seed: int = 0,
    title: str = "Plate report",
) -> StudyResult:
    """Report on plates from a row per field: per-well table, heat maps, layout effects, Z' and SSMD before and after.

    Columns: id, plate, well, field, group; where known compound, concentration, unit, role (negative, positive,
    treatment, empty), replicate, batch; restored_share (0..1), objects_touching (restored nuclei that touch synthetic
    pixels); focus, background (counts), saturation (percent) of the input; and readouts in pairs `input_*` and
    `restored_*`: count, mean_area (um2), integrated_intensity (counts). The well is the unit. `plate_format` is the
    plate's number of wells; without it, the smallest that holds the wells' names. Raises ValueError for columns or
    values that do not fit together.
    """
    check_fields(fields)
    readouts = [name for name in READOUTS if f"input_{name}" in fields]
    wells = by_well(fields, readouts)
    needed = (int(wells["row"].max()) + 1, int(wells["column"].max()) + 1)
    guessed = plate_format is None
    plate_format = smallest_format(*needed) if plate_format is None else plate_format
    if plate_format not in FORMATS or any(np.less(FORMATS[plate_format], needed)):
        raise ValueError(
            f"plate_format is {plate_format}, the wells need {needed[0]} rows and {needed[1]} columns: "
            f"choose from {', '.join(map(str, FORMATS))}, at least {smallest_format(*needed)}"
        )
    shape = FORMATS[plate_format]
    stages = [stage for stage in ("input", "restored") if f"{stage}_{readouts[0]}" in fields]
    paired = readouts if len(stages) == 2 else []

    tables = {"plates": by_plate(wells, plate_format)}
    captions = {"plates": _plates_caption(wells)}
    has_controls = bool(paired) and "role" in wells and wells["role"].isin(["negative", "positive"]).any()
    if has_controls:
        tables["assay_quality"] = assay_quality(wells, paired, n_resamples, seed)
        captions["assay_quality"] = (
            "Z' (Zhang 1999) and SSMD (Zhang 2007) of positive against negative control wells, on the input (before) "
            "and on the restored images (after); robust: medians and median absolute deviations. Change: above 0 the "
            f"controls are told apart better; 95 % interval and p from {n_resamples} resamples of wells, p Holm over "
            f"the table. Under {FEW_CONTROLS} wells of a kind it is not judged. A Z' far below 0 says that the "
            "controls hardly differ in that readout."
        )
    quantities = _quantities(wells, readouts, stages)
    effects, lines = layout_effects(wells, quantities, shape, n_resamples, seed)
    tables["layout_effects"] = effects
    captions["layout_effects"] = (
        "Do wells differ by their place? Edge: median of the outermost wells less that of the others. Rows, columns: "
        "the largest effect of a two-way median polish. Size in the quantity's unit and in robust standard deviations "
        "of the interior (edge) or of the residuals; p by permutation of wells (rows within columns, columns within "
        "rows), Holm over the table. A compound or dose that runs along a row or column looks the same."
    )
    first = ["group", "plate", "well"]  # the group is plate and well in one: it stays in view where the table scrolls
    tables["wells"] = wells[first + [name for name in wells if name not in (*first, "row", "column")]]
    captions["wells"] = (
        "One row per well. Nuclei (input_total, restored_total) are sums over its fields, everything else means; "
        "restored_measured are restored nuclei that touch no synthetic pixel."
    )
    if len(lines):
        tables["row_and_column_effects"] = lines
        captions["row_and_column_effects"] = (
            f"Effect of every row and column with {MIN_IN_LINE} wells or more, by median polish of the plate."
        )

    figures: dict[str, Figure] = {}
    maps = _maps(wells, stages)
    same = [f"{stage}_count" for stage in stages if f"{stage}_count" in wells] if len(stages) == 2 else []
    for plate, own in wells.groupby("plate", sort=False):
        name = _file_name(str(plate), figures)
        figures[name] = heat_maps(own, maps, shape, same)
        captions[name] = f"Plate {plate}, {plate_format} wells. Hatched: no image; grey: no value. " + (
            "On the first map: - negative, + positive control, x empty." if "role" in wells else ""
        )
    if has_controls:
        shown = {name: READOUTS[name] for name in paired}
        figures["controls"] = control_wells(wells[wells["role"].isin(["negative", "positive"])], shown, seed)
        captions["controls"] = "Control wells on the input (open) and on the restored images (filled); a dot is a well."
    return StudyResult(
        title=title,
        tables=tables,
        figures=figures,
        main="plates",
        notes=_notes(wells, effects, plate_format, guessed, has_controls, len(stages) == 2),
        captions=captions,
        verdict=_verdict(wells, effects, tables.get("assay_quality")),
        gallery=list(gallery),
    )


def _plates_caption(wells: pd.DataFrame) -> str:
    said = "One row per plate; no image: wells of the plate without one."
    if "restored_measured" in wells:
        said += " Nuclei after the model are of two kinds: measured ones, and those that touch synthetic pixels."
    return said + " Focus, background (counts) and saturation (% of pixels) are the input's, as median over wells."


def _quantities(wells: pd.DataFrame, readouts: list[str], stages: list[str]) -> dict[str, str]:
    """Columns that are tested for layout effects, and their names in tables; a column of one value is left out."""
    stage_words = {"input": "before", "restored": "after"}
    names = {f"{s}_{name}": f"{READOUTS[name].split(' (')[0]}, {stage_words[s]}" for name in readouts for s in stages}
    names |= {name: words.split(" (")[0] for name, words in QUALITY.items()} | {"restored_share": "restored share"}
    return {name: words for name, words in names.items() if name in wells and wells[name].nunique() > 1}


def _maps(wells: pd.DataFrame, stages: list[str]) -> dict[str, str]:
    after = {"input": "before", "restored": "after"} if len(stages) == 2 else {"input": "input"}
    maps = {f"{stage}_count": f"nuclei per field, {after[stage]}" for stage in stages}
    if "restored_share" in wells:
        wells["restored_percent"] = 100 * wells["restored_share"]
        maps["restored_percent"] = "restored share of the area (%)"
    return maps | {name: words for name, words in QUALITY.items() if name in wells}


def _file_name(plate: str, taken: Container[str]) -> str:
    stem = "plate_" + re.sub(r"[^A-Za-z0-9.-]+", "_", plate).strip("._")[:80]
    name, number = stem, 2
    while name in taken:
        name, number = f"{stem}_{number}", number + 1
    return name


def _notes(
    wells: pd.DataFrame, effects: pd.DataFrame, plate_format: int, guessed: bool, controls: bool, paired: bool
) -> list[str]:
    notes = [
        "The unit is the well: fields of a well are averaged before anything is compared, and wells are resampled.",
        "Nuclei in or at synthetic pixels are what the model drew. They are counted apart, and no readout of a single "
        "nucleus should rest on them.",
    ]
    if guessed:
        notes.append(
            f"The plates are drawn as {plate_format}-well plates, the smallest that holds the wells' names; if yours "
            "are larger, set plate_format, since it decides which wells lie at the edge."
        )
    if paired and not controls:
        notes.append(
            "Z' and SSMD need wells whose role is negative or positive; no such role is named, so none is given."
        )
    used = " and ".join(dict.fromkeys(effects["wells used"]))
    notes.append(
        f"Layout effects were tested on {used}. Negative controls are used where {MIN_SIDE} or more of them lie at the "
        "edge and as many inside; else wells that are no controls, most of which are expected to be inactive."
    )
    if wells["fields"].nunique() > 1:
        low, high = wells["fields"].min(), wells["fields"].max()
        notes.append(f"Wells have {low} to {high} fields, so sums of nuclei do not compare; nuclei per field do.")
    return notes


def _verdict(wells: pd.DataFrame, effects: pd.DataFrame, assay: pd.DataFrame | None) -> str:
    """One sentence on what was restored and what it did to the count's Z', one on the layout."""
    said = f"{_count(wells['plate'].nunique(), 'plate')}, {_count(len(wells), 'well')}"
    if "restored_share" in wells:
        said += f": {100 * np.average(wells['restored_share'], weights=wells['fields']):.1f} % of the area is restored"
        if "objects_touching" in wells and "restored_total" in wells:
            share = 100 * wells["objects_touching"].sum() / max(1, wells["restored_total"].sum())
            said += f", and {share:.1f} % of the nuclei counted after it touch synthetic pixels"
    if assay is not None:
        rows = assay[(assay["readout"] == "count") & (assay["statistic"] == "Z'")]
        judged = rows[rows["p"].notna()]
        if len(judged) == 1:
            row = judged.iloc[0]
            said += f"; Z' of the count is {row['before']:.2f} before and {row['after']:.2f} after ({row['verdict']})"
        elif len(judged):
            kinds = judged["verdict"].str.split(",").str[0].value_counts()
            said += "; Z' of the count is " + ", ".join(f"{kind} on {number}" for kind, number in kinds.items())
            said += f" of {len(judged)} comparisons"
        else:
            said += f"; Z' is not judged, for want of {FEW_CONTROLS} negative and {FEW_CONTROLS} positive control wells"
    found = effects[effects["p Holm"] < ALPHA]
    if found.empty:
        tested = int(effects["p"].notna().sum())
        return f"{said}. " + (
            f"No edge, row or column effect was distinguished ({tested} tests)."
            if tested
            else "Too few wells to test the layout."
        )
    parts = [
        f"{quantity} ({', '.join(dict.fromkeys(rows['effect']))})"
        for quantity, rows in found.groupby("quantity", sort=False)
    ]
    more = f" and {len(parts) - SAID_EFFECTS} more" if len(parts) > SAID_EFFECTS else ""
    return f"{said}. The layout shows in {'; '.join(parts[:SAID_EFFECTS])}{more}."


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
