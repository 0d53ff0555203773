"""Pairs of transmitted light and fluorescence of the same fields: data of label-free models."""

import logging
import math
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from rich.progress import track

from ..imaging.augment import PairAugment
from ..imaging.io import ImageError
from ..imaging.prepare import settings, written
from ..imaging.tiles import Zoom, is_blank
from .fields import Fields
from .layouts import TableError
from .pair_patches import PairPatches
from .patches import FieldReader
from .splits import PAIR_FRACTIONS

log = logging.getLogger(__name__)
BITS = (8, 10, 12, 14, 16)  # of cameras


@dataclass(frozen=True)
class CropFilter:
    """Which crops are of no use; the label-free thesis, section 3.2.1, filters by eye and states no threshold.

    `background`: nothing in any target rises above its noise (imaging/tiles.is_blank). Overexposed: more than
    `saturated` of the pixels of a source plane are at full scale, or its median is over `exposure[1]` times that of the
    plate's training fields; or more than `saturated_stain` of the pixels of any target are at the greatest count of 8,
    10, 12, 14 or 16 bits that its field reaches, so that nuclei have lost their details. Underexposed: a source's
    median is under `exposure[0]` times that. Targets are judged as they were read, before data.prepare.
    """

    background: bool = True
    saturated: float = 0.01
    exposure: tuple[float, float] = (0.5, 2.0)
    saturated_stain: float = 0.02

    def __post_init__(self) -> None:
        shares = 0 <= self.saturated <= 1 and 0 <= self.saturated_stain <= 1
        if not shares or not 0 <= self.exposure[0] < 1 < self.exposure[1]:
            raise ValueError(
                f"data.filters: saturated={self.saturated} and saturated_stain={self.saturated_stain} are shares from "
                f"0 to 1, and exposure={self.exposure} holds a factor below 1 and one above"
            )

    def unfit(
        self,
        reader: FieldReader,
        zoom: Zoom,
        levels: Mapping[str, np.ndarray],
        full_scale: float,
        row: int,
        y: int,
        x: int,
    ) -> str | None:
        """Why the crop of `zoom` at (y, x) of a field of `reader` is of no use, one of Pairs.UNFIT; None where it is.

        `levels` are the usual medians of the sources of each plate: the first channels, which count to `full_scale`.
        """
        fields, usual = reader.as_read(row), levels[str(reader.index["plate"].iloc[row])]
        crops = [field[y : y + zoom.crop, x : x + zoom.crop] for field in fields]
        sources, stains = crops[: len(usual)], crops[len(usual) :]
        level = np.divide([np.median(crop) for crop in sources], usual, out=np.ones(len(usual)), where=usual > 0)
        full = [2.0 ** _bits(float(field.max())) - 1 for field in fields[len(usual) :]]
        if (
            max(_reaching(crop, full_scale) for crop in sources) > self.saturated
            or max(map(_reaching, stains, full)) > self.saturated_stain
            or level.max() > self.exposure[1]
        ):
            return "overexposed"
        if level.min() < self.exposure[0]:
            return "underexposed"
        blank = self.background and all(is_blank(zoom.cut(field, y, x)) for field in fields[len(usual) :])
        return "background" if blank else None


def _bits(greatest: float) -> int:
    """Of the cameras that reach this count, the bits of the smallest; more for counts of no camera."""
    return next((bits for bits in BITS if greatest < 2**bits), 64)


def _reaching(crop: np.ndarray, full_scale: float) -> float:
    return float(np.mean(crop >= full_scale))


class Pairs(Fields):
    """Patches of `sources` (planes of transmitted light) and `targets` (stains) of an index table.

    Both name image_<name> columns; the planes of a z-stack are columns of their own. The other settings are of
    `Fields`. `scaling="plate"` gives each channel the range of its plate's training wells; "paper" stretches each full
    image by itself (thesis, equation 24): intensities are then not `comparable`. With `source_scaling="image"` the
    sources alone are stretched so, which neither lamp nor exposure moves as long as nothing saturates. `prepare` gives
    targets a function of the whole image (imaging/prepare.py) that changes what is learned: each image by itself, so
    that intensities are not `comparable` either. `filters` drop crops of every split, also where training would move
    one; `augment` changes those of training alone. `full_scale` is the greatest count of the sources' camera;
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
        super().__init__(root, fractions=fractions or PAIR_FRACTIONS, **options)
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
        prepared = settings(self.prepare)
        if known and known.get("prepared") is None:
            log.warning(
                "the checkpoint does not say how its targets were prepared: %s is taken on trust", written(prepared)
            )
        elif known and known["prepared"] != prepared:
            raise ValueError(
                f"the checkpoint was trained with {written(known['prepared'])}, not {written(prepared)}: its targets "
                "would be scaled as others. Set it so"
            )
        self.scaling.stretched, self.scaling.prepared = stretched, prepared
        self.filters, self.augment, self.full_scale = filters, augment, full_scale
        self.train_only = dict(train_only or {})
        self._levels: dict[str, np.ndarray] = {}  # plate to the median of each source, counts

    @property
    def stained(self) -> list[str]:
        return self.targets

    @property
    def comparable(self) -> bool:
        """Whether intensities of two images of a plate can be compared: not after a change of each by itself."""
        return super().comparable and not self.prepare

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
        narrow: dict[float, str] = {}  # the greatest count that a type holds, and the first file of that type
        for row in track(range(len(self.index)), description="looking at exposures", transient=True):
            planes = self.reader.as_read(row)[: len(self.sources)]
            entry = self.index.iloc[row]
            for name, plane in zip(self.sources, planes, strict=True):
                if plane.dtype.kind == "u":
                    narrow.setdefault(float(np.iinfo(plane.dtype).max), str(entry[f"image_{name}"]))
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
            bits = _bits(greatest)
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
        if narrow and (most := min(narrow)) < self.full_scale:
            mend = (
                f"set data.full_scale={most:g}"
                if greatest <= most
                else "export the sources of all fields with as many bits"
            )
            raise TableError(
                f"{narrow[most]}: its pixels hold {most:g} counts at most, and data.full_scale is "
                f"{self.full_scale:g}: {mend}"
            )

    def _check_counts(self, row: int) -> None:
        if self.filters and self.filters.background:
            for target in self.targets:
                self._refuse_unit_range(row, target)

    def _unfit(self, row: int, y: int, x: int) -> str | None:
        judge = self._judge()
        return judge(row, y, x) if judge else None

    def _judge(self) -> Callable[[int, int, int], str | None] | None:
        """What tells why a window (row, y, x) is of no use; it holds no more than a worker needs."""
        if not self.filters:
            return None
        assert self.full_scale is not None
        return partial(self.filters.unfit, self.reader, self.zoom, self._levels, self.full_scale)

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
            unfit=self._judge() if train else None,
        )
