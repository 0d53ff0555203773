"""What every DataModule of fields of view shares: index, checks, split, pixel size, scaling, windows and loaders."""

import copy
import logging
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytorch_lightning as pl
import torch.distributed as dist
from rich.progress import track
from torch.utils.data import Dataset

from ..imaging.io import ImageError
from ..imaging.pixelsize import differs
from ..imaging.tiles import Zoom
from .checks import check_images, drop_bad, require_channels
from .layouts import TableError
from .overlaps import join_families
from .patches import Crops, FieldReader, collate
from .platemap import join_plate_map, read_plate_map
from .sampling import EpochSampler, ResumableLoader
from .scaling import Scaling
from .splits import assign_splits
from .tables import read_index

log = logging.getLogger(__name__)


class Fields(pl.LightningDataModule):
    """Patches of the fields in an index table; a subclass says which (`_unfit`) and what they hold (`patches`).

    `root` is a folder of images, a folder with index.csv, or the table itself (datamodules/tables.py). `channels`, set
    by the subclass, are read in this order; those that are `stained` must be bright on dark, and the true instances are
    of the first of them. `scaling_state` is what a checkpoint kept of the training range and pixel size
    (`Scaling.state`). With `rescale`, fields whose pixel size differs from training's are resampled to it; `index` then
    gives the pixel size of the fields as `reader` reads them. `plate_map` is a CSV of what is in each well
    (datamodules/platemap.py). `on_bad_image="skip"` leaves fields with unusable images out; `skipped` lists them.

    Raises TableError or ImageError, naming the file and the mend, before any training.
    """

    SCALINGS: Mapping[str, str] = {"plate": "plate", "paper": "paper"}  # what data.scaling may say -> Scaling.kind
    UNFIT: tuple[str, ...] = ()  # the answers of `_unfit`
    KEEP_ALL = ""  # the setting that keeps every patch
    exclusive = False  # whether images of other channels are left out of the index
    of_pairs = False  # whether source and target are different images, not one with a hole
    NAMED: tuple[str, ...] = ("channels",)  # the settings that name channels; the first, those that a model sees
    prepare: Mapping[str, Callable[[np.ndarray], np.ndarray]] = {}  # channels that are changed as they are read
    channels: list[str]

    def __init__(
        self,
        root: str | None,
        zoom: Zoom | None = None,
        scaling: str = "plate",
        split_by: str = "well",
        fractions: dict[str, float] | None = None,
        batch_size: int = 8,
        num_workers: int = 2,
        seed: int = 0,
        pixel_size: float | None = None,
        rescale: bool = False,
        plate_map: str | None = None,
        on_bad_image: str = "stop",
        scaling_state: dict[str, Any] | None = None,
    ) -> None:
        super().__init__()
        if scaling not in self.SCALINGS:
            raise ValueError(f"data.scaling={scaling} is unknown; it is one of {', '.join(self.SCALINGS)}")
        kind = self.SCALINGS[scaling]
        if scaling_state and scaling_state["kind"] != kind:
            said = next((name for name, known in self.SCALINGS.items() if known == scaling_state["kind"]), None)
            raise ValueError(
                f"the checkpoint was trained with data.scaling={said or scaling_state['kind']}, not {scaling}: "
                + ("set it so" if said else "it was trained on data of another kind; choose that group of data")
            )
        if not root:
            raise TableError(
                "data.root is not set: name a folder of images or an index table, for example "
                "data.root=path/to/plate, or draw a plate with data=virtual, or pairs with data=virtual_pairs"
            )
        self.root = Path(root)
        self.zoom = zoom or Zoom(crop=256, stride=256, size=256)
        self.split_by, self.fractions = split_by, fractions
        self.batch_size, self.num_workers, self.seed = batch_size, num_workers, seed
        self.pixel_size, self.rescale = pixel_size, rescale
        self.plate_map, self.on_bad_image = plate_map, on_bad_image
        self.scaling = Scaling(**(scaling_state or {"kind": kind}))
        self.index: pd.DataFrame | None = None
        self._windows: dict[str, list[tuple[int, int, int]]] = {}
        self._dropped: Counter[str] = Counter()  # unfit windows of each split

    @property
    def stained(self) -> list[str]:
        """The channels of fluorescence."""
        return self.channels

    def setup(self, stage: str | None = None) -> None:
        """Reads the index, checks every image, finds the patches and fits the scaling; once."""
        if self.index is not None:
            return
        only = [*self.stained, *(name for name in self.channels if name not in self.stained)]
        index = read_index(self.root, pixel_size=self.pixel_size, channels=only if self.exclusive else None)
        require_channels(index, self.channels, str(self.root))
        objects = f"objects_{self.stained[0]}"
        if objects in index and index[objects].isna().any() and index[objects].notna().any():
            first = index.loc[index[objects].isna(), "id"].iloc[0]
            raise TableError(
                f"{self.root}: {first} has no {objects}, others have: give all fields one, or drop the column"
            )
        if self.plate_map:
            index = join_plate_map(index, read_plate_map(self.plate_map), str(self.plate_map))
        report = check_images(index, self.on_bad_image, self.stained)
        index = join_families(index, report.digests, self.split_by)
        self.split_origin = "the index's split column" if "split" in index else f"by {self.split_by}, seed {self.seed}"
        # Split before dropping: a file that goes bad later must not move other wells to another side.
        index = assign_splits(index, by=self.split_by, fractions=self.fractions, seed=self.seed)
        self.index = drop_bad(index, report.problems) if report.problems else index
        factors = self._match_pixel_size()
        self.reader = FieldReader(
            self.index, self.channels, objects if objects in index else None, factors, self.prepare
        )
        self._find_patches()
        self._fit_scaling()

    @property
    def skipped(self) -> list[dict[str, str]]:
        """The fields left out for an unusable image: id and reason."""
        assert self.index is not None
        return list(self.index.attrs.get("skipped", []))

    @property
    def leaky_split(self) -> bool:
        """Whether images of one well lie on two sides of the split."""
        assert self.index is not None
        return bool(self.index.attrs.get("leaky_split", False))

    @property
    def comparable(self) -> bool:
        """Whether intensities of two images of a plate can be compared: not after a stretch of each by itself."""
        return self.scaling.kind == "plate"

    def groups(self, *splits: str) -> list[str]:
        """The wells (plate:well) that these splits have patches of."""
        assert self.index is not None
        rows = sorted({row for split in splits for row, *_ in self._windows[split]})
        return sorted(self.index["group"].iloc[rows].unique())

    def _match_pixel_size(self) -> list[float]:
        """How many times as many pixels a side each field needs for training's pixel size; 1 within 2 %."""
        assert self.index is not None
        sizes, train = self.index["pixel_size"].to_numpy(float), self.index["split"].eq("train").to_numpy()
        if self.scaling.pixel_size is None:
            if self.scaling.ranges:
                log.warning("the checkpoint does not say its pixel size: that of %s is taken on trust", self.root)
            known = np.sort(sizes[train] if train.any() else sizes)
            self.scaling.pixel_size = float(known[(len(known) - 1) // 2])  # the median, and a size that is there
        training = self.scaling.pixel_size
        other = np.array([differs(size, training) for size in sizes])
        if not other.any():
            return [1.0] * len(sizes)
        if not self.rescale:
            first = int(other.argmax())
            raise TableError(
                f"{self.root}: the pixels of {self.index['id'].iloc[first]} are {sizes[first]:g} um wide and those of "
                f"training {training:g} um ({other.sum()} of {len(other)} fields differ by more than 2 %): "
                "set data.rescale=true to resample them, or leave them out"
            )
        log.info("%d of %d fields are resampled to pixels of %g um", other.sum(), len(other), training)
        self.index["pixel_size"] = np.where(other, training, sizes)
        return np.where(other, sizes / training, 1.0).tolist()

    def _fit_scaling(self) -> None:
        """Fits the range of every plate on its training wells, unless a checkpoint brought ranges or none is used."""
        assert self.index is not None
        plates, train = self.index["plate"].astype(str), self.index["split"].eq("train")
        from_checkpoint = bool(self.scaling.ranges)
        for plate in plates.unique():
            for number, channel in enumerate(self.channels):
                if self.scaling.by_image(channel):
                    continue
                rows = (plates == plate).to_numpy().nonzero()[0]
                training = [row for row in rows if train.iloc[row] and not from_checkpoint]
                if training:
                    self.scaling.fit(plate, channel, (self.reader.image(row)[number] for row in training))
                elif channel not in self.scaling.ranges.get(plate, {}):
                    known = self.scaling.fit(plate, channel, (self.reader.image(row)[number] for row in rows))
                    log.warning(
                        "plate %r has no range fitted on training wells: channel %r is scaled from %.0f to %.0f, "
                        "estimated from all its fields",
                        *(plate, channel, *known),
                    )

    def _find_patches(self) -> None:
        """Lists the windows of every field by split, those that `_unfit` names dropped and counted."""
        assert self.index is not None
        self._windows = {"train": [], "val": [], "test": []}
        dropped: Counter[str] = Counter()
        self._dropped = Counter()
        for row in track(range(len(self.index)), description="finding patches", transient=True):
            self._check_counts(row)
            split = self.index["split"].iloc[row]
            for y, x in self.zoom.windows(self.reader.as_read(row)[0].shape):
                if reason := self._unfit(row, y, x):
                    dropped[reason] += 1
                    self._dropped[split] += 1
                else:
                    self._windows[split].append((row, y, x))
        counts = ", ".join(f"{len(windows)} {split}" for split, windows in self._windows.items())
        left_out = ", ".join(f"{dropped[reason]} {reason}" for reason in self.UNFIT)
        log.info("%d fields give %s patches; %s ones dropped", len(self.index), counts, left_out)
        if not self._windows["train"] and not self._windows["test"]:
            reasons = " or ".join(reason for reason in self.UNFIT if dropped[reason])
            raise TableError(f"every patch of {self.root} is {reasons}: set {self.KEEP_ALL} to use them all the same")

    def _check_counts(self, row: int) -> None:
        """Refuses, before its patches are judged by `_unfit`, a field that is not in camera counts (ImageError)."""
        raise NotImplementedError

    def _refuse_unit_range(self, row: int, channel: str) -> None:
        assert self.index is not None
        field = self.reader.as_read(row)[self.channels.index(channel)]
        if np.issubdtype(field.dtype, np.floating) and field.max() <= 1:
            raise ImageError(
                f"{self.index[f'image_{channel}'].iloc[row]}: intensities lie in [0, 1]; export camera counts, or set "
                f"{self.KEEP_ALL}, since {self.UNFIT[0]} patches are told by their counts"
            )

    def _unfit(self, row: int, y: int, x: int) -> str | None:
        """Why the window at (y, x) of a field is of no use, one of UNFIT; None where it is of use."""
        raise NotImplementedError

    def patches(self, split: str) -> Crops:
        """The dataset of one split."""
        raise NotImplementedError

    def _windows_of(self, split: str) -> list[tuple[int, int, int]]:
        if not self._windows[split]:
            mend = "change data.fractions or the index's split column"
            if lost := self._dropped[split]:
                mend = (
                    f"all {lost} were dropped as {' or '.join(self.UNFIT)}: set {self.KEEP_ALL} to keep them, or {mend}"
                )
            raise TableError(f"{self.root} has no {split} patches; {mend}")
        return self._windows[split]

    def showing(self, samples: Dataset) -> "Fields":
        """The same data with other test samples: a dataset indexed by (epoch, number)."""
        other = copy.copy(self)
        other.patches = lambda split: samples  # type: ignore[method-assign, assignment, return-value]
        return other

    def cut(self, zoom: Zoom) -> "Fields":
        """The same data, split and ranges, in other patches; needs `setup`."""
        other = copy.copy(self)
        other.zoom = zoom
        other._find_patches()
        return other

    def samples(self, split: str, ids: Sequence[str]) -> dict[str, Any]:
        """The batch of the named samples of the validation or test split, in the order of `ids`."""
        data = self.patches(split)
        numbers = {data.name(number): number for number in range(len(data))}
        return collate([data[0, numbers[name]] for name in ids])

    def _loader(self, split: str) -> ResumableLoader:
        data = self.patches(split)
        ranks = (dist.get_rank(), dist.get_world_size()) if dist.is_available() and dist.is_initialized() else (0, 1)
        sampler = EpochSampler(len(data), self.seed, shuffle=split == "train", rank=ranks[0], processes=ranks[1])
        if split == "train" and len(sampler) < self.batch_size:
            raise TableError(
                f"{len(sampler)} training patches per process do not fill a batch of {self.batch_size}: "
                "lower data.batch_size or add fields"
            )
        return ResumableLoader(
            data,
            sampler,
            self.batch_size,
            num_workers=self.num_workers,
            collate_fn=collate,
            drop_last=split == "train",
            persistent_workers=self.num_workers > 0,
        )

    def train_dataloader(self) -> ResumableLoader:
        return self._loader("train")

    def val_dataloader(self) -> ResumableLoader:
        return self._loader("val")

    def test_dataloader(self) -> ResumableLoader:
        return self._loader("test")
