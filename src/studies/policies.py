"""How a field is measured when part of it may be hidden: one ruler for intact, kept, cut and restored pictures.

A nucleus that an edge of the measured part cuts, the hole's or the field's own, counts half, since on average half of
it lies inside; areas and light are summed over what is inside. So sums divided by the measured area estimate the whole
field without bias at straight edges, and a mean per nucleus is a ratio of two such sums. The edge effect, and why whole
nuclei alone would be too small: Gundersen 1977, J. Microscopy 111:219.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import cv2
import numpy as np
import pandas as pd

from ..imaging.segment import REFERENCE_PIXEL, nuclear_threshold, segment_nuclei

SMOOTHING = 1.0  # sigma in pixels of 0.65 um, as segment_nuclei has it
MIN_AREA = 30.0  # whole nuclei smaller than this (pixels of 0.65 um) are debris


class Tally(NamedTuple):
    """What was measured: nuclei, their area (um2) and light (counts above background), and the area looked at (mm2)."""

    nuclei: float
    area: float
    light: float
    seen: float


# Name: unit, and the ratio of two columns of a tally.
READOUTS: dict[str, tuple[str, Callable[[pd.DataFrame], pd.Series]]] = {
    "count": ("nuclei per mm2", lambda sums: sums["nuclei"] / sums["seen"]),
    "mean area": ("um2 per nucleus", lambda sums: sums["area"] / sums["nuclei"]),
    "covered area": ("% of the field", lambda sums: sums["area"] / sums["seen"] / 1e4),
    "mean intensity": ("integrated counts per nucleus", lambda sums: sums["light"] / sums["nuclei"]),
    "total intensity": ("integrated counts per mm2", lambda sums: sums["light"] / sums["seen"]),
}


def segment_visible(
    image: np.ndarray, visible: np.ndarray, pixel_size: float, threshold: float | None = None
) -> np.ndarray:
    """Label the nuclei in the visible part (bool Y X) of an image Y X; int32, 0 = background or not visible.

    The threshold (None: `nuclear_threshold` of what is visible) cuts the smoothed image, which reads visible pixels
    alone, so that nothing of a hole's content reaches the result. Parts of nuclei at an edge are kept however small.
    `pixel_size` is in micrometres. Raises ValueError if nothing is visible.
    """
    smooth = _smoothed(image, visible, pixel_size)
    if threshold is None:
        threshold = nuclear_threshold(smooth[visible])
    smooth[~visible] = min(threshold, 0)  # no nucleus
    labels = segment_nuclei(smooth, threshold, min_area=0, smoothing=0, pixel_size=pixel_size)
    labels[~visible] = 0  # segment_nuclei fills small dark holes
    areas = np.bincount(labels.ravel())
    debris = areas < MIN_AREA * (REFERENCE_PIXEL / pixel_size) ** 2
    debris[cut_labels(labels, visible)] = False
    labels[debris[labels]] = 0
    return labels


def field_threshold(image: np.ndarray, pixel_size: float) -> float:
    """The threshold that `segment_visible` finds for a whole image Y X; NaN where it finds no nuclei."""
    smooth = _smoothed(image, np.ones(image.shape, bool), pixel_size)
    threshold = nuclear_threshold(smooth)
    return threshold if threshold < smooth.max() else np.nan


def _smoothed(image: np.ndarray, visible: np.ndarray, pixel_size: float) -> np.ndarray:
    """Gaussian mean of the visible pixels around each one, float32 Y X; 0 where not visible."""
    if not visible.any():
        raise ValueError("no pixel is visible, so that there is nothing to measure: use a smaller hole")
    sigma = SMOOTHING * REFERENCE_PIXEL / pixel_size
    weights = visible.astype(np.float32)
    light, share = (
        cv2.GaussianBlur(part, (0, 0), sigma, borderType=cv2.BORDER_REFLECT)
        for part in (image.astype(np.float32) * weights, weights)
    )
    return np.divide(light, share, out=np.zeros_like(light), where=visible)


def cut_labels(labels: np.ndarray, visible: np.ndarray) -> np.ndarray:
    """The labels (Y X) that touch an edge of the visible part (bool Y X): the hole's, or the field's own border."""
    framed = np.pad(visible, 1).astype(np.uint8)
    inner = cv2.erode(framed, np.ones((3, 3), np.uint8))[1:-1, 1:-1]
    touching = np.unique(labels[visible & (inner == 0)])
    return touching[touching > 0]


def tally(labels: np.ndarray, image: np.ndarray, visible: np.ndarray, pixel_size: float) -> Tally:
    """Sum up labelled nuclei Y X in the visible part of an image Y X; background is the median beside the nuclei."""
    nuclei = (labels > 0) & visible
    beside = image[visible & ~nuclei]
    background = float(np.median(beside)) if beside.size else 0.0
    pixel = pixel_size**2
    number = len(np.unique(labels[nuclei])) - 0.5 * len(cut_labels(labels, visible))
    light = float(image[nuclei].sum(dtype=float)) - background * nuclei.sum()
    return Tally(number, float(nuclei.sum() * pixel), light, float(visible.sum() * pixel / 1e6))


def readouts(sums: pd.DataFrame) -> pd.DataFrame:
    """The readouts of summed tallies, row by row; NaN where nothing was seen, or no nucleus for a mean per nucleus."""
    values = {name: ratio(sums) for name, (_, ratio) in READOUTS.items()}
    return pd.DataFrame(values, index=sums.index).astype(float).replace([np.inf, -np.inf], np.nan)
