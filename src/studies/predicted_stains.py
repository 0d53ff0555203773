"""The report of a plate whose stains were predicted: what is read from them, and the pictures."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence

import cv2
import numpy as np
import pandas as pd
from PIL import Image

from .gallery import GAP, PANEL, SHOWN
from .result import Picture, StudyResult

PICTURES = 40  # so that a page of a whole screen can still be sent

Images = Callable[[str], tuple[np.ndarray, list[np.ndarray]]]


def stain_report(
    fields: pd.DataFrame,
    images: Images,
    sources: Sequence[str],
    targets: Sequence[str],
    watched: tuple[int, float] | None = None,
    loss: str = "",
) -> StudyResult:
    """Report on predicted stains from a row per field (inference/stain_plate.py); `images(id)` gives source and stains.

    `watched` are window and expected run time of the drift detector, where there was one; `loss` is the class that the
    model was trained with. Fields that the detector flagged are shown first.
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


def _notes(fields: pd.DataFrame, targets: Sequence[str], watched: tuple[int, float] | None, loss: str) -> list[str]:
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
        window, run_time = watched
        notes.append(
            f"The detector compares the last {window} fields with those it was fitted on. So an alarm comes some "
            "fields after a change, and the unflagged ones just before it may have changed, too. Where nothing changes "
            f"it still alarms once in {run_time:g} fields on average, and then flags some in a row. It sees changes of "
            "the images, not every wrong prediction."
        )
    return notes


def _pictures(shown: pd.DataFrame, images: Images, source: str, targets: Sequence[str]) -> list[Picture]:
    """Source and predicted stains of each field side by side; a target has one grey scale in all pictures."""
    panels = [[_small(image, len(targets)) for image in (given, *drawn)] for given, drawn in map(images, shown["id"])]
    scales = [np.percentile(np.concatenate([row[n].ravel() for row in panels]), SHOWN) for n in range(len(targets) + 1)]
    stains = ", ".join(targets)
    legend = f"Left: {source}, in its own grey scale. Then predicted: {stains}, in one grey scale for all fields."
    pictures = []
    for (_, field), row in zip(shown.iterrows(), panels, strict=True):
        scales[0] = np.percentile(row[0], SHOWN)
        greys = [_grey(panel, *scale) for panel, scale in zip(row, scales, strict=True)]
        gap = np.full((greys[0].shape[0], GAP), 255, np.uint8)
        joined = np.hstack([part for panel in greys for part in (gap, panel)][1:])
        buffer = io.BytesIO()
        Image.fromarray(joined).save(buffer, format="PNG", optimize=True)
        pictures.append(Picture(_title(field, targets), legend, buffer.getvalue()))
    return pictures


def _title(field: pd.Series, targets: Sequence[str]) -> str:
    counts = [f"{field[f'{name}_count']:.0f} {name}" for name in targets if f"{name}_count" in field]
    flagged = ["drift: do not rely on this prediction"] if field.get("drift_alarm") else []
    return ": ".join(filter(None, (str(field["id"]), ", ".join(flagged + counts))))


def _small(image: np.ndarray, stains: int) -> np.ndarray:
    """Y X averaged so that source and stains, side by side, fit three panels' width."""
    scale = min(1.0, 3 * PANEL / (stains + 1) / image.shape[1])
    size = (max(1, round(image.shape[1] * scale)), max(1, round(image.shape[0] * scale)))
    return cv2.resize(image.astype(np.float32), size, interpolation=cv2.INTER_AREA)


def _grey(image: np.ndarray, low: float, high: float) -> np.ndarray:
    return np.rint(np.clip((image - low) / max(high - low, 1e-6), 0, 1) * 255).astype(np.uint8)
