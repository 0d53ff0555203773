"""Pairs of holes on the same patch: an irregular one, and a rectangle of its area that covers as many nuclei."""

from __future__ import annotations

import copy
import zlib
from collections import Counter
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from rich.progress import track

from ..imaging.artefacts import artefact_mask
from ..imaging.io import read_image
from ..imaging.masks import Band, FreeForm, in_band
from ..imaging.microscope import Microscope, Plate
from ..imaging.pixelsize import rescale
from ..imaging.segment import REFERENCE_PIXEL, segment_nuclei
from .judged import label_of
from .mask_shape_masks import (
    ARTEFACT,
    RECTANGLE,
    SMALLEST,
    STROKES,
    artefact_hole,
    inscribed_radius,
    matched_rectangle,
    nuclei_hidden,
    outlines_in,
)

TRIES = 6  # irregular holes drawn for a pair before it is given up
MOST_FIELDS = 200  # whose artefacts are looked at
DRAWN = {"seed": 7, "wells": 12, "fields_per_well": 1, "shape": (768, 768), "artefact_density": 25.0}


class Hole(NamedTuple):
    """A hole in one window (row, y, x) of the data: mask Y X uint8, `of` the irregular shape of its pair."""

    id: str
    pair: str
    shape: str
    of: str
    band: str
    window: tuple[int, int, int]
    mask: np.ndarray
    covered: int
    touched: int
    radius: float  # pixels of the patch
    dilation: float  # of an artefact's outline, pixels of the patch


class Shaped:
    """The dataset of holes on patches, indexed by (epoch, number): each patch as the data give it, with its hole."""

    def __init__(self, patches: Any, holes: Sequence[Hole]) -> None:
        self.patches, self.holes = patches, list(holes)

    def __len__(self) -> int:
        return len(self.holes)

    def __getitem__(self, key: tuple[int, int]) -> dict[str, Any]:
        hole = self.holes[key[1]]
        return patch(self.patches, hole.window, hole.mask) | {"id": hole.id}


class _Given:
    """A mask maker that draws one given mask."""

    bands = ()

    def __init__(self, mask: np.ndarray | None) -> None:
        self.mask = mask

    def draw(self, rng: np.random.Generator, shape: tuple[int, int], band: Band | None = None) -> np.ndarray:
        return np.zeros(shape, np.uint8) if self.mask is None else self.mask


def patch(patches: Any, window: tuple[int, int, int], mask: np.ndarray | None = None) -> dict[str, Any]:
    """One window of a dataset of patches under a given mask (None: no hole), all else as the dataset makes it."""
    one = copy.copy(patches)
    one.windows, one.bands, one.masks = [window], [None], _Given(mask)
    return one[0, 0]


class Artefacts:
    """The artefacts of the data: their outlines in pixels of a patch, and whether a window is free of them.

    They are found by `imaging.artefacts.artefact_mask` in the index's column image_<channel>; where it has none, or
    where no artefact is in them, outlines are those of a plate drawn by the virtual microscope. `source` says which.
    """

    def __init__(self, datamodule: Any, channel: str, seed: int) -> None:
        index, self.zoom = datamodule.index, datamodule.zoom
        self.column, self.index, self.reader = f"image_{channel}", index, datamodule.reader
        self.known = self.column in index and bool(index[self.column].notna().all())
        self.outlines: list[np.ndarray] = []
        rows: Any = np.random.default_rng([seed, 1]).permutation(len(index))[:MOST_FIELDS] if self.known else []
        for row in track(sorted(rows), description="finding artefacts", transient=True):
            self._add(self.field(row), float(index["pixel_size"].iloc[row]))
        self.source = f"the data's channel {channel} ({len(rows)} fields)"
        if not self.outlines:
            missing = "in which no artefact was found" if self.known else "which the data do not have"
            self.source = f"a plate drawn by the virtual microscope, not from a channel {channel}, {missing}"
            size = float(index["pixel_size"].median())
            for one in track(list(Plate(pixel_size=size, **DRAWN).fields()), description="drawing", transient=True):  # type: ignore[arg-type]
                self._add(artefact_mask(Microscope().image(one.scene, channel="artefacts")), size)

    def _add(self, mask: np.ndarray, pixel_size: float) -> None:
        enlarged = rescale(mask, 1 / self.zoom.scale, labels=True) if self.zoom.scale != 1 else mask
        self.outlines += outlines_in(enlarged, pixel_size * self.zoom.scale)

    def field(self, row: int) -> np.ndarray:
        """The artefact mask of a field, uint8 Y X, on the grid on which the data read it."""
        mask, factor = artefact_mask(read_image(self.index[self.column].iloc[row])), self.reader.factors[row]
        return mask if factor == 1 else rescale(mask, factor, labels=True)

    def clean(self, window: tuple[int, int, int]) -> bool:
        """Whether no artefact lies in a window; taken for granted where the data have no such channel."""
        row, y, x = window
        return not (self.known and self.field(row)[y : y + self.zoom.crop, x : x + self.zoom.crop].any())


class Drawn(NamedTuple):
    """The pairs that could be matched, and how many of what was left out."""

    holes: list[Hole]
    left_out: Counter[str]


def draw_pairs(
    patches: Any,
    artefacts: Artefacts,
    bands: Sequence[Band],
    count: int,
    tolerance: float,
    seed: int,
) -> Drawn:
    """On up to `count` test patches, in turn from every well: a pair per band and irregular shape, where one matches.

    Drawn from (seed, patch, band, shape). Patches with artefacts or without nuclei are passed over.
    """
    groups = patches.reader.index["group"].astype(str).to_numpy()
    holes: list[Hole] = []
    left_out: Counter[str] = Counter()
    used = 0
    for window in track(_in_turn(patches.windows, groups, seed), description="matching holes", transient=True):
        if used == count:
            break
        if not artefacts.clean(window):
            left_out["patches with artefacts"] += 1
            continue
        item = patch(patches, window)
        labels = _nuclei(item)
        if not labels.any():
            left_out["patches without nuclei"] += 1
            continue
        used += 1
        for band in bands:
            for shape in (STROKES, ARTEFACT):
                pair = f"{item['id']}_{100 * band[0]:g}-{100 * band[1]:g}_{shape}"
                rng = np.random.default_rng([seed, zlib.crc32(pair.encode())])
                found = _pair(rng, shape, labels, artefacts.outlines, band, tolerance)
                if found is None:
                    left_out[f"pairs of {shape}"] += 1
                    continue
                irregular, dilation, rectangle = found
                for name, mask, grown in ((shape, irregular, dilation), (RECTANGLE, rectangle, 0.0)):
                    covered, touched = nuclei_hidden(labels, mask)
                    radius, end = inscribed_radius(mask), "" if name == shape else f"_{RECTANGLE}"
                    holes.append(
                        Hole(
                            pair + end, pair, name, shape, label_of(band), window, mask, covered, touched, radius, grown
                        )
                    )
    return Drawn(holes, left_out)


def hole_table(holes: Sequence[Hole], index: pd.DataFrame, pixel_size: float) -> pd.DataFrame:
    """A row per hole: its patch's field, shape, area (share), covered and touched nuclei, inscribed radius (px, um)."""
    rows = [
        {
            "id": hole.id,
            "pair": hole.pair,
            "shape": hole.shape,
            "of": hole.of,
            "band": hole.band,
            "field": str(index["id"].iloc[hole.window[0]]),
            "group": str(index["group"].iloc[hole.window[0]]),
            "area": float(np.count_nonzero(hole.mask)) / hole.mask.size,
            "covered": hole.covered,
            "touched": hole.touched,
            "radius (px)": hole.radius,
            "radius (um)": hole.radius * pixel_size,
            "dilation (um)": hole.dilation * pixel_size,
        }
        for hole in holes
    ]
    return pd.DataFrame(rows)


def _pair(
    rng: np.random.Generator,
    shape: str,
    labels: np.ndarray,
    outlines: Sequence[np.ndarray],
    band: Band,
    tolerance: float,
) -> tuple[np.ndarray, float, np.ndarray] | None:
    for _ in range(TRIES):
        if shape == STROKES:
            mask, dilation = FreeForm(bands=[band], box=None).draw(rng, labels.shape, band), 0.0  # type: ignore[arg-type]
        else:
            mask, dilation = artefact_hole(rng, outlines, labels.shape, band)  # type: ignore[arg-type]
        rectangle = matched_rectangle(rng, mask, labels, tolerance)
        if rectangle is not None and in_band(rectangle, band):
            return mask, dilation, rectangle
    return None


def _nuclei(item: dict[str, Any]) -> np.ndarray:
    """The nuclei of a patch, int Y X: true instances where they are known, else segmented; slivers left out."""
    pixel_size = float(item["pixel_size"].prod().sqrt())
    known = item.get("objects")
    labels = segment_nuclei(item["target"][0].numpy(), pixel_size=pixel_size) if known is None else known[0].numpy()
    areas = np.bincount(labels.ravel())
    kept = areas >= SMALLEST * (REFERENCE_PIXEL / pixel_size) ** 2
    kept[0] = False
    return np.where(kept, np.cumsum(kept), 0)[labels]


def _in_turn(windows: Sequence[tuple[int, int, int]], groups: np.ndarray, seed: int) -> list[tuple[int, int, int]]:
    """All windows: one of every well, then a second of every well, and so on, shuffled by the seed."""
    rng = np.random.default_rng([seed, 2])
    table = pd.DataFrame({"place": rng.permutation(len(windows))})
    table["well"] = [groups[windows[place][0]] for place in table["place"]]
    order = table.assign(turn=table.groupby("well").cumcount()).sort_values("turn", kind="stable")
    return [windows[place] for place in order["place"]]
