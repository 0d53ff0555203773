"""Holes of one area and as many covered nuclei: outlines of artefacts, and rectangles matched to any hole."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
from scipy import ndimage

from ..imaging.masks import Band, in_band
from ..imaging.segment import REFERENCE_PIXEL
from .judged import label_of

STROKES, ARTEFACT, RECTANGLE = "strokes", "artefact", "rectangle"
SMALLEST = 30.0  # pixels of 0.65 um: smaller objects, cut off by the patch's border, are no nuclei
HIDDEN = 0.5  # a nucleus is covered where at least this share of its pixels is hidden
ASPECT = (1 / 3, 3.0)  # height / width of a rectangle
HEIGHTS = 16  # tried for a rectangle, at random among those possible
PLACINGS = 40  # of outlines before a band is given up
MOST_OUTLINES = 12  # in one hole: with fewer, large holes are all dilation and lose the outlines' shape
CUT = 0.03  # share of an outline's pixels that may lie on the border of its field
JOINED_UM = 5.0  # parts of an artefact that lie closer are one outline


def inscribed_radius(mask: np.ndarray) -> float:
    """Pixels from the deepest hidden pixel of a mask (Y X) to the nearest known one; the image's border is not known.

    0 for an empty mask; ValueError for one that hides everything.
    """
    if mask.all():
        raise ValueError("the hole hides the whole patch: no pixel is known, so no distance to one exists")
    return float(ndimage.distance_transform_edt(mask).max())


def nuclei_hidden(labels: np.ndarray, mask: np.ndarray) -> tuple[int, int]:
    """How many nuclei (labels Y X) a mask covers (at least half of their pixels), and how many it touches."""
    total = np.bincount(labels.ravel())[1:]
    hidden = np.bincount(labels[mask > 0], minlength=len(total) + 1)[1:]
    return int(((hidden >= HIDDEN * total) & (total > 0)).sum()), int((hidden > 0).sum())


def matched_rectangle(
    rng: np.random.Generator, mask: np.ndarray, labels: np.ndarray, tolerance: float
) -> np.ndarray | None:
    """A rectangle of the mask's area (within `tolerance` of it) that covers as many nuclei; None where none does.

    Heights are tried in random order, each at every place of a grid of a 64th of the side; among the places of the
    first height that has any, one is drawn. labels, mask and the result are Y X (uint8).
    """
    rows, columns = mask.shape
    area, (wanted, _) = int(np.count_nonzero(mask)), nuclei_hidden(labels, mask)
    heights = np.arange(int(np.sqrt(area * ASPECT[0])), int(np.sqrt(area * ASPECT[1])) + 2)
    widths = np.rint(area / np.maximum(heights, 1)).astype(int)
    ratio = heights / np.maximum(widths, 1)
    fits = (heights >= 1) & (heights <= rows) & (widths >= 1) & (widths <= columns)
    fits &= (ratio >= ASPECT[0]) & (ratio <= ASPECT[1]) & (np.abs(heights * widths - area) <= tolerance * area)
    names = np.unique(labels[labels > 0])
    sums = np.zeros((len(names), rows + 1, columns + 1), np.int32)
    for number, name in enumerate(names):
        sums[number, 1:, 1:] = (labels == name).cumsum(0).cumsum(1)
    total = sums[:, -1, -1][:, None, None]
    step = max(1, min(rows, columns) // 64)
    for height, width in rng.permutation(np.stack([heights[fits], widths[fits]], 1))[:HEIGHTS]:
        top, left = np.arange(0, rows - height + 1, step)[:, None], np.arange(0, columns - width + 1, step)
        inside = sums[:, top + height, left + width] - sums[:, top, left + width]
        inside += sums[:, top, left] - sums[:, top + height, left]
        places = np.argwhere((inside >= HIDDEN * total).sum(0) == wanted)
        if len(places):
            y, x = places[rng.integers(len(places))] * step
            found = np.zeros_like(mask, np.uint8)
            found[y : y + height, x : x + width] = 1
            return found
    return None


def outlines_in(mask: np.ndarray, pixel_size: float) -> list[np.ndarray]:
    """Cut a field's artefact mask (Y X) into outlines (bool Y X), joining parts less than 5 um apart.

    An outline that the field's border cuts straight, with over 3 % of its pixels on it, is left out; a fibre is not.
    """
    reach = max(1, round(JOINED_UM / 2 / pixel_size))
    groups, _ = ndimage.label(cv2.dilate(mask, np.ones((2 * reach + 1,) * 2, np.uint8)), structure=np.ones((3, 3)))
    least = SMALLEST * (REFERENCE_PIXEL / pixel_size) ** 2
    parts = []
    for number, box in enumerate(ndimage.find_objects(groups), start=1):
        part = (groups[box] == number) & (mask[box] > 0)
        if part.sum() >= least and _on_border(part, box, mask.shape) <= CUT * part.sum():
            parts.append(part[ndimage.find_objects(part.astype(np.uint8))[0]])
    return parts


def _on_border(part: np.ndarray, box: tuple[slice, slice], shape: tuple[int, ...]) -> int:
    """How many pixels of a part, cut out at `box`, lie on the border of its field."""
    rows, columns = (np.arange(side.start, side.stop) for side in box)
    border = np.isin(rows, (0, shape[0] - 1))[:, None] | np.isin(columns, (0, shape[1] - 1))
    return int((part & border).sum())


def artefact_hole(
    rng: np.random.Generator, outlines: Sequence[np.ndarray], shape: tuple[int, int], band: Band
) -> tuple[np.ndarray, float]:
    """Place up to twelve outlines on an empty patch until they fill half of the wanted area, and dilate them to it.

    The area is uniform in the band. Outlines are drawn by their area, turned and mirrored at random, and may reach
    over the border. Returns the mask uint8 Y X and the radius of the dilating disk (pixels). Raises ValueError where
    the band is out of reach.
    """
    weights = np.array([outline.sum() for outline in outlines], float)
    for _ in range(PLACINGS):
        target = round(rng.uniform(*band) * shape[0] * shape[1])
        union = np.zeros(shape, bool)
        for _ in range(MOST_OUTLINES):
            outline = np.rot90(outlines[rng.choice(len(outlines), p=weights / weights.sum())], int(rng.integers(4)))
            more = union.copy()
            _paste(more, outline[:: int(rng.choice((-1, 1)))], rng.integers(0, shape))
            if more.sum() <= target:  # one that is too large here is passed over
                union = more
            if union.sum() >= target / 2:
                break
        if not union.any():
            continue
        distance = ndimage.distance_transform_edt(~union)
        reach = float(np.partition(distance.ravel(), target - 1)[target - 1])
        mask = (distance <= reach).astype(np.uint8)
        if in_band(mask, band):
            return mask, reach
    raise ValueError(
        f"no artefact mask of {label_of(band)} of a patch of {shape[0]}x{shape[1]} in {PLACINGS} tries: widen the band"
    )


def _paste(canvas: np.ndarray, outline: np.ndarray, centre: np.ndarray) -> None:
    """Put an outline (bool Y X) on a canvas, centred there; what reaches over the border is cut off."""
    y, x = centre - np.array(outline.shape) // 2
    top, left = max(0, y), max(0, x)
    bottom, right = min(canvas.shape[0], y + outline.shape[0]), min(canvas.shape[1], x + outline.shape[1])
    canvas[top:bottom, left:right] |= outline[top - y : bottom - y, left - x : right - x]
