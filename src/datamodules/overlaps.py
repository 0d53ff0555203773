"""Finds fields that show the same place, so that a split keeps them on one side."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Iterator
from typing import NamedTuple

import cv2
import numpy as np
import pandas as pd
import scipy.fft
from scipy import ndimage

from ..imaging.io import ImageError, read_image
from .layouts import TableError
from .splits import UNITS, joined

log = logging.getLogger(__name__)

SIDE = 256  # fields are reduced to about this many pixels a side before they are compared
LEAST_STRIP = 0.03  # of the side of a field; narrower overlaps are not looked for
PROPOSALS = 20  # peaks of the phase correlation that are looked at
# Pearson correlation of the strips: measured 0.97 and more where drawn fields overlap, and at most 0.61 between the
# 3160 pairs of 80 fields of BBBC039.
LEAST_CORRELATION = 0.8
NEAR = 8  # half the side of a place in reduced pixels, more than a nucleus


class Link(NamedTuple):
    """Two rows of an index (by position) that show the same place, and how that was seen."""

    first: int
    second: int
    why: str


def join_families(index: pd.DataFrame, digests: list[dict[str, str]], split_by: str) -> pd.DataFrame:
    """Return the index with one `parent` for fields with identical pixels and, in wells that a split divides, overlaps.

    Overlaps are searched only where a split column, or a split by field or group, could divide a well. Logs
    what was joined. Raises TableError where a split column has torn such fields already.
    """
    links = [*identical(digests)]
    links += overlapping(index, _divided_wells(index, split_by))
    if not links:
        return index
    column = next(name for name in index if name.startswith("image_"))
    names = index[column].tolist()
    if "split" in index:
        for first, second, why in links:
            sides = index["split"].iloc[first], index["split"].iloc[second]
            if sides[0] != sides[1]:
                raise TableError(
                    f"{index.attrs.get('root', 'index')}: {names[first]} ({sides[0]}) and {names[second]} ({sides[1]}) "
                    f"{why}, and lie on two sides of the split; give them the same split, or leave one out"
                )
    for first, second, why in links[:10]:
        log.warning("%s and %s %s: kept on one side of every split", names[first], names[second], why)
    if len(links) > 10:
        log.warning("... and %d more pairs of fields that show the same place", len(links) - 10)
    index = index.copy()
    family = joined(index, [(index["id"].iloc[link.first], index["id"].iloc[link.second]) for link in links])
    touched = family.isin(family.iloc[sorted({row for link in links for row in link[:2]})])
    index.loc[touched, "parent"] = family[touched]
    return index


def identical(digests: list[dict[str, str]]) -> Iterator[Link]:
    """Yield the rows that share the pixels of any image, each with the first row that has them."""
    seen: dict[str, int] = {}
    for row, images in enumerate(digests):
        for digest in images.values():
            first = seen.setdefault(digest, row)
            if first != row:
                yield Link(first, row, "have identical pixels")


def _divided_wells(index: pd.DataFrame, split_by: str) -> list[np.ndarray]:
    """The positions of the fields of each well that a split divides or could divide."""
    wells = index.groupby(["plate", "well"], sort=False)
    if "split" in index:
        unit = index["split"]
    elif split_by in UNITS:
        unit = index[UNITS[split_by]].astype(str).agg(":".join, axis=1)
    else:
        return []
    return [rows for rows in wells.indices.values() if unit.iloc[rows].nunique() > 1]


def overlapping(index: pd.DataFrame, wells: list[np.ndarray]) -> Iterator[Link]:
    """Yield the pairs of fields, within each of these wells, that overlap by at least 3 % of a side."""
    from rich.progress import track

    column = next(name for name in index if name.startswith("image_"))
    for rows in track(wells, "looking for overlapping fields", transient=True):
        reduced = {row: found for row in rows if (found := _reduced(index[column].iloc[row])) is not None}
        for first, second in itertools.combinations(sorted(reduced), 2):
            shift = overlap(reduced[first], reduced[second])
            if shift is not None:
                y, x = (round(100 * (1 - abs(step))) for step in shift)
                yield Link(first, second, f"overlap ({y} % x {x} % of the field)")


def _reduced(path: str) -> np.ndarray | None:
    """A field reduced to about SIDE pixels and freed from its background; None where it cannot be read."""
    try:
        image = cv2.medianBlur(read_image(path), 3).astype(np.float32)  # hot pixels are the same in every field
    except ImageError:  # check_images reports it
        return None
    factor = max(1.0, max(image.shape) / SIDE)
    size = tuple(max(8, round(side / factor)) for side in image.shape)
    return flattened(cv2.resize(image, size[::-1], interpolation=cv2.INTER_AREA))


def flattened(image: np.ndarray) -> np.ndarray:
    """Y X without illumination and what is wider than a few nuclei, in units of its noise, bright things compressed."""
    y, x = np.mgrid[-1 : 1 : image.shape[0] * 1j, -1 : 1 : image.shape[1] * 1j]
    surface = np.stack([np.ones_like(x), x, y, x * x, x * y, y * y], -1).reshape(-1, 6)
    lamp = surface @ np.linalg.lstsq(surface, image.ravel(), rcond=None)[0]
    image = image - lamp.reshape(image.shape)
    # Both widths are of reduced pixels: less than a nucleus, so that half a pixel of shift does not matter, and more.
    image = ndimage.gaussian_filter(image, 1, mode="nearest") - ndimage.gaussian_filter(image, 8, mode="nearest")
    noise = 1.4826 * float(np.median(np.abs(image - np.median(image))))
    # The dark rim that the filter leaves around a bright nucleus would be seen as likeness.
    scale = max(3 * noise, 1e-3 * float(np.abs(lamp).max()), 1e-6)
    return np.arcsinh(np.clip(image, 0, None) / scale).astype(np.float32)


def overlap(first: np.ndarray, second: np.ndarray) -> tuple[float, float] | None:
    """Where two flattened fields Y X of one size show the same place: the shift as parts of their sides, or None.

    Phase correlation of the padded fields (Kuglin & Hines 1975) proposes shifts; the pixels of the overlapping strip
    decide.
    """
    if first.shape != second.shape:
        return None
    size = [scipy.fft.next_fast_len(2 * side, real=True) for side in first.shape]
    product = scipy.fft.rfft2(first, size) * np.conj(scipy.fft.rfft2(second, size))
    surface = scipy.fft.irfft2(product / np.maximum(np.abs(product), 1e-9), size)
    # A shift between pixels spreads its peak over neighbours.
    surface = ndimage.uniform_filter(surface, 2, mode="wrap")
    steps = set()
    for place in np.argpartition(surface, -PROPOSALS, axis=None)[-PROPOSALS:]:
        y, x = (int(step) for step in np.unravel_index(place, surface.shape))
        for step in itertools.product((y, y - 1), (x, x - 1)):
            steps.add(tuple(s - n if s > n // 2 else s for s, n in zip(step, size, strict=True)))
    correlation, (down, right) = max((_correlation(first, second, *step), step) for step in steps)
    return (down / first.shape[0], right / first.shape[1]) if correlation > LEAST_CORRELATION else None


def _correlation(first: np.ndarray, second: np.ndarray, y: int, x: int) -> float:
    """Pearson correlation of the pixels that both show when `second` is moved by (y, x); 0 for a strip too narrow.

    It must hold without the two places that agree best, too: any nucleus lies well on any other, three do not.
    """
    height, width = first.shape[0] - abs(y), first.shape[1] - abs(x)
    if height < LEAST_STRIP * first.shape[0] or width < LEAST_STRIP * first.shape[1]:
        return 0.0
    a = first[max(y, 0) : max(y, 0) + height, max(x, 0) : max(x, 0) + width]
    b = second[max(-y, 0) : max(-y, 0) + height, max(-x, 0) : max(-x, 0) + width]
    lowest = _pearson(a, b)
    kept = np.ones(a.shape, bool)
    for _ in range(2):
        if lowest <= LEAST_CORRELATION:
            break
        best = np.unravel_index(np.argmax(np.where(kept, a * b, -np.inf)), a.shape)
        kept[tuple(slice(max(int(place) - NEAR, 0), int(place) + NEAR + 1) for place in best)] = False
        if kept.sum() < kept.size / 2:
            return 0.0
        lowest = min(lowest, _pearson(a[kept], b[kept]))
    return lowest


def _pearson(a: np.ndarray, b: np.ndarray) -> float:
    """Pearson correlation; 0 where one of the two is constant."""
    a, b = (values.ravel() - values.mean() for values in (a, b))
    spread = float(np.sqrt((a @ a) * (b @ b)))
    return float(a @ b) / spread if spread > 1e-4 * len(a) else 0.0
