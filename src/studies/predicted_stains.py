"""The report of a plate whose stains were predicted: what is read from them, and the pictures."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import cv2
import numpy as np
import pandas as pd
from PIL import Image

from .gallery import GAP, PANEL, SHOWN
from .overlay import colours, overlay, together
from .result import Picture, StudyResult

PICTURES = 40  # so that a page of a whole screen can still be sent

Images = Callable[[str], tuple[np.ndarray, list[np.ndarray]]]


class Watched(NamedTuple):
    """What a drift detector compares (fields), promises (fields between false alarms), and was measured to keep.

    `in_control` as `studies.drift.OnlineMMD` holds it; empty where nothing was measured.
    """

    window: int
    expected_run_time: float
    in_control: Mapping[str, Any]


def stain_report(
    fields: pd.DataFrame,
    images: Images,
    sources: Sequence[str],
    targets: Sequence[str],
    watched: Watched | None = None,
    loss: str = "",
) -> StudyResult:
    """Report on predicted stains from a row per field (inference/stain_plate.py); `images(id)` gives source and stains.

    `watched` says what the drift detector is, where there was one; `loss` is the class that the model was trained with.
    Fields that the detector flagged are shown first.
    """
    shown = fields
    verdict = f"{', '.join(targets)} predicted from {', '.join(sources)} for {len(fields)} fields."
    if watched:
        shown = fields.sort_values("drift_alarm", ascending=False, kind="stable")
        verdict += f" {_flagged(fields)}"
    shown = shown.head(PICTURES)
    result = StudyResult(
        title="Predicted stains",
        tables={"fields": fields},
        figures={},
        main="fields",
        captions={"fields": _caption(fields, bool(watched))},
        verdict=verdict,
        gallery=_pictures(shown, images, sources[0], targets),
        notes=_notes(fields, targets, watched, loss),
    )
    if len(fields) > len(shown):
        which = "flagged ones first, then the first of the plate" if watched else "the first of the plate"
        result.notes.append(f"Pictures: {len(shown)} of {len(fields)} fields, {which}.")
    return result


def _flagged(fields: pd.DataFrame) -> str:
    count = int(fields["drift_alarm"].sum())
    if not count:
        return "The drift detector flags none of them."
    first = fields.loc[fields["drift_alarm"], "id"].iloc[0]
    return (
        f"The drift detector flags {count} of them (the first: {first}): what the model saw there and just before is "
        "not what the detector was fitted on. Do not rely on these predictions."
    )


def _caption(fields: pd.DataFrame, watched: bool) -> str:
    parts = ["One row per field."]
    if "measured_pixel_size" in fields:
        parts.append(
            "Count, area (pixels of measured_pixel_size um), total and mean intensity are read from the predicted "
            "stain, segmented as in training's metrics; intensities: in whose counts."
        )
    if watched:
        parts.append("drift_alarm: drift_statistic is above drift_threshold.")
    return " ".join(parts)


def _notes(fields: pd.DataFrame, targets: Sequence[str], watched: Watched | None, loss: str) -> list[str]:
    notes = [
        "No stain was measured here: these pictures are what a model expects. How well it predicts, study=translation "
        "says, on pairs of the same cells and microscope that training did not see."
    ]
    if loss.endswith(".Pearson"):
        notes.append(
            "The model was trained with Pearson's loss, which leaves brightness and offset free: do not compare total "
            "or mean intensities with those of a real stain."
        )
    said = " ".join(fields["intensities"].unique())
    if "training's range" in said:
        notes.append(
            "counts of training's range: training saw no stain of this plate, so predictions have the range of the "
            "plates that it saw. Intensities can be compared within such plates, not with this plate's own stain."
        )
    if "not comparable" in said:
        notes.append(
            "not comparable: the model was trained with data.scaling=paper; predictions lie in [0, 1], each image in a "
            "unit of its own."
        )
    if "prepared stain" in said:
        notes.append(
            "of the prepared stain: the model learned from stains that were changed before (data.prepare), each image "
            "by itself, so that intensities are not those of a camera."
        )
    if "measured_pixel_size" not in fields:
        notes.append(
            f"Nothing is read from {', '.join(targets)}: the checkpoint's metrics hold no readouts. Train with "
            "metrics=translation and metrics.readouts.metric.organelle of this stain."
        )
    if watched:
        notes.append(
            f"The detector compares the last {watched.window} fields with those it was fitted on. So an alarm comes "
            "some fields after a change, and the unflagged ones just before it may have changed, too. "
            f"{_false(watched)} After one it flags some in a row. It sees changes of the images, not every wrong "
            "prediction."
        )
    return notes


def _false(watched: Watched) -> str:
    """How often the detector alarms where nothing changes: as it was measured, else as it was asked."""
    asked, measured = f"once in {watched.expected_run_time:g} fields on average", watched.in_control
    if not measured:
        return f"Where nothing changes it was asked to alarm {asked}; whether it keeps that was not measured."
    order = ", a well's fields together" if measured["by_well"] else ", one after the other in random order"
    seen = f"{measured['runs']} runs along held-out fields{order}; asked for was {asked}"
    if not measured["alarms"]:
        return f"Where nothing had changed it did not alarm (in {seen})."
    mean, seen = measured["steps"] / measured["alarms"], f"{measured['alarms']} alarms in {seen}"
    return f"Where nothing had changed it still alarmed once in {mean:.0f} fields on average ({seen})."


def _pictures(shown: pd.DataFrame, images: Images, source: str, targets: Sequence[str]) -> list[Picture]:
    """Source and predicted stains of each field side by side, then several in colours; a target has one scale in all.

    See `overlay.together` for which targets are in colours.
    """
    joint = together(targets)
    across = len(targets) + 1 + bool(joint)
    panels = [[_small(image, across) for image in (given, *drawn)] for given, drawn in map(images, shown["id"])]
    scales = [np.percentile(np.concatenate([row[n].ravel() for row in panels]), SHOWN) for n in range(len(targets) + 1)]
    stains = ", ".join(targets)
    legend = f"Left: {source}, in its own grey scale. Then predicted: {stains}, in one grey scale for all fields."
    if joint:
        key = ", ".join(f"{name} {colour}" for name, colour in colours(joint).items())
        legend += f" Right: together, in the same scale ({key})."
    pictures = []
    for (_, field), row in zip(shown.iterrows(), panels, strict=True):
        scales[0] = np.percentile(row[0], SHOWN)
        parts = [_grey(panel, *scale) for panel, scale in zip(row, scales, strict=True)]
        if joint:
            places = {name: 1 + targets.index(name) for name in joint}
            coloured = overlay({n: row[at] for n, at in places.items()}, {n: scales[at] for n, at in places.items()})
            parts = [np.repeat(grey[..., None], 3, axis=2) for grey in parts] + [_grey(coloured, 0.0, 1.0)]
        gap = np.full((parts[0].shape[0], GAP, *parts[0].shape[2:]), 255, np.uint8)
        joined = np.hstack([part for panel in parts for part in (gap, panel)][1:])
        picture, buffer = Image.fromarray(joined), io.BytesIO()
        # Of 256 colours a file is a third smaller, and looks the same.
        (picture.quantize(256) if joint else picture).save(buffer, format="PNG", optimize=True)
        pictures.append(Picture(_title(field, targets), legend, buffer.getvalue()))
    return pictures


def _title(field: pd.Series, targets: Sequence[str]) -> str:
    counts = [f"{field[f'{name}_count']:.0f} {name}" for name in targets if f"{name}_count" in field]
    flagged = ["drift: do not rely on this prediction"] if field.get("drift_alarm") else []
    return ": ".join(filter(None, (str(field["id"]), ", ".join(flagged + counts))))


def _small(image: np.ndarray, across: int) -> np.ndarray:
    """Y X averaged so that so many panels, side by side, fit three panels' width."""
    scale = min(1.0, 3 * PANEL / across / image.shape[1])
    size = (max(1, round(image.shape[1] * scale)), max(1, round(image.shape[0] * scale)))
    return cv2.resize(image.astype(np.float32), size, interpolation=cv2.INTER_AREA)


def _grey(image: np.ndarray, low: float, high: float) -> np.ndarray:
    return np.rint(np.clip((image - low) / max(high - low, 1e-6), 0, 1) * 255).astype(np.uint8)
