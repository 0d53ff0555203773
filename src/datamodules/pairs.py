"""Pairs of transmitted light and fluorescence of the same fields: data of label-free models."""

import logging
import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from rich.progress import track

from ..imaging.augment import PairAugment
from ..imaging.io import ImageError
from ..imaging.tiles import is_blank
from .fields import Fields
from .layouts import TableError
from .pair_patches import PairPatches

log = logging.getLogger(__name__)
BITS = (8, 10, 12, 14, 16)  # of cameras
FRACTIONS = {"train": 0.72, "val": 0.08, "test": 0.2}  # 20 % to test, a tenth of the rest to validation: table 1


@dataclass(frozen=True)
class CropFilter:
    """Which crops are of no use; the label-free thesis, section 3.2.1, filters by eye and states no threshold.

    `background`: nothing in any target rises above its noise (imaging/tiles.is_blank). Overexposed: more than
    `saturated` of the pixels of a source plane are at full scale, or its median is over `exposure[1]` times that of the
    plate's training fields. Underexposed: its median is under `exposure[0]` times that.
    """

    background: bool = True
    saturated: float = 0.01
    exposure: tuple[float, float] = (0.5, 2.0)

    def __post_init__(self) -> None:
        if not 0 <= self.saturated <= 1 or not 0 <= self.exposure[0] < 1 < self.exposure[1]:
            raise ValueError(
                f"data.filters: saturated={self.saturated} is a share from 0 to 1, and exposure={self.exposure} holds "
                "a factor below 1 and one above"
            )


class Pairs(Fields):
    """Patches of `sources` (planes of transmitted light) and `targets` (stains) of an index table.

    Both name image_<name> columns; the planes of a z-stack are columns of their own. The other settings are of
    `Fields`. `scaling="plate"` gives each channel the range of its plate's training wells; "paper" stretches each full
    image by itself (thesis, equation 24): intensities are then not `comparable`. With `source_scaling="image"` the
    sources alone are stretched so, which neither lamp nor exposure moves as long as nothing saturates. `prepare` gives
    targets a function of the whole image (imaging/prepare.py) that changes what is learned. `filters` drop
    crops of every split, `augment` changes those of training alone. `full_scale` is the camera's greatest count;
    without it, the smallest of 8, 10, 12, 14 or 16 bits that holds the sources. Plates on which no field has one of the
    channels are left out. `train_only` maps a column of the index to the values, or to the number of its first values
    in alphabetical order, that training and validation are kept to; ranges, exposures and the test split stay those of
    all wells, so that checkpoints of different parts can be compared.

    Raises, beside what `Fields` does, ValueError for channels named twice or not at all.
    """

    SCALINGS: Mapping[str, str] = {"plate": "plate", "paper": "image"}
    UNFIT = ("background", "overexposed", "underexposed")
    KEEP_ALL = "data.filters=null"
    exclusive = True
    of_pairs = True
    NAMED = ("sources", "targets")

    def __init__(
        self,
        root: str | None,
        sources: Sequence[str] = ("dic",),
        targets: Sequence[str] = ("nuclei",),
        filters: CropFilter | None = None,
        augment: PairAugment | None = None,
        full_scale: float | None = None,
        source_scaling: str = "plate",
        prepare: dict[str, Any] | None = None,
        train_only: Mapping[str, Sequence[str] | int] | None = None,
        fractions: dict[str, float] | None = None,
        **options: Any,
    ) -> None:
        super().__init__(root, fractions=fractions or FRACTIONS, **options)
        self.sources, self.targets = list(sources), list(targets)
        self.channels = self.sources + self.targets
        if not self.sources or not self.targets or len(set(self.channels)) < len(self.channels):
            raise ValueError(
                f"data.sources={self.sources}, data.targets={self.targets}: name at least one of each, and none twice"
            )
        self.prepare = prepare or {}
        if strange := sorted(set(self.prepare) - set(self.targets)):
            raise ValueError(
                f"data.prepare changes {', '.join(strange)}, and the targets are {', '.join(self.targets)}: name one"
            )
        if source_scaling not in ("plate", "image"):
            raise ValueError(f"data.source_scaling={source_scaling} is unknown; it is one of plate, image")
        stretched = self.sources if source_scaling == "image" and self.scaling.kind == "plate" else []
        known = options.get("scaling_state") or {}
        if known and known.get("stretched", []) != stretched:
            raise ValueError(
                f"the checkpoint stretched {known.get('stretched', [])} by the whole image, not {stretched}: set "
                f"data.source_scaling={'image' if known.get('stretched') else 'plate'} and data.sources as it was"
            )
        self.scaling.stretched = stretched
        self.filters, self.augment, self.full_scale = filters, augment, full_scale
        self.train_only = dict(train_only or {})
        self._levels: dict[str, np.ndarray] = {}  # plate to the median of each source, counts

    @property
    def stained(self) -> list[str]:
        return self.targets

    def _find_patches(self) -> None:
        kept = self._rows_kept()
        if not self._levels:
            self._look_at_sources()
        super()._find_patches()
        if not self.train_only:
            return
        for split, purpose in (("train", "train on"), ("val", "validate on")):
            left = [window for window in self._windows[split] if kept[window[0]]]
            if self._windows[split] and not left:
                raise TableError(
                    f"{self.root}: data.train_only={self.train_only} leaves nothing to {purpose}: the split has no "
                    "such well there; name more values, or give data.fractions more wells"
                )
            self._windows[split] = left
        log.info(
            "data.train_only=%s leaves %d patches to train on and %d to validate on",
            *(self.train_only, len(self._windows["train"]), len(self._windows["val"])),
        )

    def _rows_kept(self) -> np.ndarray:
        """Which rows `train_only` asks for; TableError for a column or a value that the index does not have."""
        assert self.index is not None
        kept, mend = np.ones(len(self.index), bool), "correct it, or set data.train_only=null"
        for column, asked in self.train_only.items():
            if column not in self.index:
                raise TableError(
                    f"{self.root}: data.train_only names the column {column!r}; the index has "
                    f"{', '.join(self.index)}: {mend}"
                )
            there = sorted(self.index[column].dropna().astype(str).unique())
            if isinstance(asked, int) and not 1 <= asked <= len(there):
                raise TableError(
                    f"{self.root}: data.train_only asks for {asked} values of {column}; there are {len(there)} "
                    f"({', '.join(there)}): {mend}"
                )
            values = there[:asked] if isinstance(asked, int) else list(asked)
            if unknown := [value for value in values if value not in there]:
                raise TableError(
                    f"{self.root}: data.train_only: no {column} is {unknown[0]!r}; there are {', '.join(there)}: {mend}"
                )
            kept &= self.index[column].astype(str).isin(values).to_numpy()
        return kept

    def _look_at_sources(self) -> None:
        """Finds the usual level of each plate's sources, on training fields where it has any, and the full scale."""
        assert self.index is not None
        medians: dict[str, dict[bool, list[list[float]]]] = defaultdict(lambda: {True: [], False: []})
        lowest, greatest = 0.0, 0.0
        for row in track(range(len(self.index)), description="looking at exposures", transient=True):
            planes = self.reader.image(row)[: len(self.sources)]
            entry = self.index.iloc[row]
            medians[str(entry["plate"])][entry["split"] == "train"].append([float(np.median(p[::8])) for p in planes])
            if self.full_scale is None and any(plane.dtype.kind == "f" for plane in planes):
                raise ImageError(
                    f"{entry[f'image_{self.sources[0]}']}: its pixels are floats, which do not say where the camera "
                    "ends; set data.full_scale (counts)"
                )
            lowest = min(lowest, *(float(plane.min()) for plane in planes))
            greatest = max(greatest, *(float(plane.max()) for plane in planes))
        self._levels = {plate: np.median(own[True] or own[False], axis=0) for plate, own in medians.items()}
        if self.full_scale is None:
            bits = next(bits for bits in BITS if greatest < 2**bits)
            self.full_scale = 2.0**bits - 1
            log.info(
                "data.full_scale is taken as %.0f: the sources reach %.0f counts, so the camera has %d bits or more",
                *(self.full_scale, greatest, bits),
            )
        if lowest < 0 or greatest > self.full_scale or not math.isfinite(self.full_scale):
            raise TableError(
                f"{self.root}: the sources span {lowest:g} to {greatest:g} counts, data.full_scale is "
                f"{self.full_scale:g}: give counts of 0 and more, and the greatest that the camera knows"
            )

    def _check_counts(self, row: int) -> None:
        if self.filters and self.filters.background:
            for target in self.targets:
                self._refuse_unit_range(row, target)

    def _unfit(self, row: int, y: int, x: int) -> str | None:
        if not self.filters:
            return None
        assert self.index is not None
        assert self.full_scale is not None
        fields, side = self.reader.image(row), self.zoom.crop
        crops = [field[y : y + side, x : x + side] for field in fields[: len(self.sources)]]
        usual = self._levels[str(self.index["plate"].iloc[row])]
        level = np.divide([np.median(crop) for crop in crops], usual, out=np.ones(len(crops)), where=usual > 0)
        saturated = max(float(np.mean(crop >= self.full_scale)) for crop in crops)
        if saturated > self.filters.saturated or level.max() > self.filters.exposure[1]:
            return "overexposed"
        if level.min() < self.filters.exposure[0]:
            return "underexposed"
        stains = fields[len(self.sources) :]
        if self.filters.background and all(is_blank(self.zoom.cut(field, y, x)) for field in stains):
            return "background"
        return None

    def patches(self, split: str) -> PairPatches:
        """The dataset of one split; only training's is augmented."""
        train = split == "train"
        return PairPatches(
            self.reader,
            self._windows_of(split),
            self.zoom,
            self.scaling,
            len(self.sources),
            seed=self.seed,
            augment=self.augment if train else None,
            full_scale=self.full_scale,
            train=train,
        )
