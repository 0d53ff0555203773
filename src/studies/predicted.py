"""The report of a plate that was restored: wells, layout and controls before and after, and the pictures."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pandas as pd

from .gallery import field_picture
from .plates import plate_report
from .positions import well_place
from .result import Picture, StudyResult

PICTURES = 40  # the fields with the largest restored share, so that a page of a whole screen can still be sent

Images = Callable[[str], tuple[np.ndarray, np.ndarray, np.ndarray]]


def restored_report(fields: pd.DataFrame, images: Images) -> StudyResult:
    """Report on restored fields (a row each, see `plate_report`); `images(id)` gives input, restored and mask (Y X).

    Fields that lie in no well of a plate get their table and pictures alone.
    """
    shown = fields.sort_values(["restored_share", "id"], ascending=[False, True]).head(PICTURES)
    gallery = [_picture(row, images) for _, row in shown.iterrows()]
    touched = int((fields["restored_share"] > 0).sum())
    if fields["well"].map(_on_a_plate).all():
        result = plate_report(fields, gallery, title="Restored plate")
    else:
        columns = [name for name in fields if not name.startswith("phirm/") or name == "phirm/phirm"]
        result = StudyResult(
            title="Restored images",
            tables={"images": fields[columns]},
            figures={},
            main="images",
            captions={"images": "One row per image; areas in um2, intensities in counts above the background."},
            verdict=f"{touched} of {len(fields)} images had pixels to restore.",
            gallery=gallery,
        )
    if len(fields) > len(shown):
        result.notes.append(f"Pictures: the {len(shown)} fields with the largest restored share, of {len(fields)}.")
    result.notes.append(
        "PhIRM in per_image.csv compares restored with input: it says how much changed, not whether it is true. Nuclei "
        "that touch synthetic pixels are marked in objects.csv."
    )
    return result


def _on_a_plate(well: object) -> bool:
    try:
        well_place(str(well))
    except ValueError:
        return False
    return True


def _picture(row: pd.Series, images: Images) -> Picture:
    nuclei = f"{row['input_count']} to {row['restored_count']} nuclei"
    title = f"{row['id']}: {100 * row['restored_share']:.1f} % restored, {nuclei}"
    return field_picture(*images(str(row["id"])), title)
