"""Fields of view with holes: patches, masks and scaling for models that restore what is missing."""

import copy
import logging
from collections.abc import Callable, Sequence
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
from ..imaging.tiles import Zoom, is_blank
from .checks import check_images, drop_bad
from .layouts import TableError
from .overlaps import join_families
from .patches import EdgeMaker, FieldReader, MaskMaker, Patches, collate
from .platemap import join_plate_map, read_plate_map
from .sampling import EpochSampler, ResumableLoader
from .scaling import Scaling
from .splits import assign_splits
from .tables import read_index

log = logging.getLogger(__name__)


class Inpainting(pl.LightningDataModule):
    """Patches of the fields in an index table, each with a hole drawn by `masks`.

    `root` is a folder of images, a folder with index.csv, or the table itself (datamodules/tables.py). Batches follow
    datamodules/batch.py. `scaling_state` is what a checkpoint kept of the training range and pixel size
    (`Scaling.state`). With `rescale`, fields whose pixel size differs from training's are resampled to it; `index` then
    gives the pixel size of the fields as `reader` reads them. `plate_map` is a CSV of what is in each well
    (datamodules/platemap.py). `on_bad_image="skip"` leaves fields with unusable images out; `skipped` lists them.
    `edges` (imaging/edges.py) adds an edge map to every sample, made once, where the sample is.

    Raises TableError or ImageError, naming the file and the mend, before any training.
    """

    def __init__(
        self,
        root: str | None,
        masks: MaskMaker,
        channels: Sequence[str] = ("nuclei",),
        zoom: Zoom | None = None,
        scaling: str = "plate",
        split_by: str = "well",
        fractions: dict[str, float] | None = None,
        batch_size: int = 8,
        num_workers: int = 2,
        seed: int = 0,
        keep_blank: bool = False,
        augment: Callable[..., Any] | None = None,
        val_bands: Sequence[tuple[float, float]] | None = None,
        pixel_size: float | None = None,
        rescale: bool = False,
        plate_map: str | None = None,
        on_bad_image: str = "stop",
        edges: EdgeMaker | None = None,
        scaling_state: dict[str, Any] | None = None,
    ) -> None:
        super().__init__()
        if scaling_state and scaling_state["kind"] != scaling:
            raise ValueError(
                f"the checkpoint was trained with data.scaling={scaling_state['kind']}, not {scaling}: set it so"
            )
        if not root:
            raise TableError(
                "data.root is not set: name a folder of images or an index table, for example "
                "data.root=path/to/plate, or draw a plate with data=virtual"
            )
        self.root = Path(root)
        self.masks, self.channels, self.zoom = masks, list(channels), zoom or Zoom(crop=256, stride=256, size=256)
        self.split_by, self.fractions = split_by, fractions or {"train": 0.7, "val": 0.1, "test": 0.2}
        self.batch_size, self.num_workers, self.seed = batch_size, num_workers, seed
        self.keep_blank, self.augment, self.val_bands = keep_blank, augment, val_bands
        self.pixel_size, self.rescale = pixel_size, rescale
        self.plate_map, self.on_bad_image, self.edges = plate_map, on_bad_image, edges
        self.scaling = Scaling(**(scaling_state or {"kind": scaling}))
        self.index: pd.DataFrame | None = None
        self._windows: dict[str, list[tuple[int, int, int]]] = {}

    def setup(self, stage: str | None = None) -> None:
        """Reads the index, checks every image, finds the patches and fits the scaling; once."""
        if self.index is not None:
            return
        index = read_index(self.root, pixel_size=self.pixel_size)
        missing = [name for name in self.channels if f"image_{name}" not in index]
        if missing:
            have = [column.removeprefix("image_") for column in index if column.startswith("image_")]
            raise TableError(f"{self.root} has no channel {missing[0]!r}; data.channels can name: {', '.join(have)}")
        objects = f"objects_{self.channels[0]}"
        if objects in index and index[objects].isna().any() and index[objects].notna().any():
            first = index.loc[index[objects].isna(), "id"].iloc[0]
            raise TableError(
                f"{self.root}: {first} has no {objects}, others have: give all fields one, or drop the column"
            )
        if self.plate_map:
            index = join_plate_map(index, read_plate_map(self.plate_map), str(self.plate_map))
        report = check_images(index, self.on_bad_image, self.channels)
        index = join_families(index, report.digests, self.split_by)
        self.split_origin = "the index's split column" if "split" in index else f"by {self.split_by}, seed {self.seed}"
        # Split before dropping: a file that goes bad later must not move other wells to another side.
        index = assign_splits(index, by=self.split_by, fractions=self.fractions, seed=self.seed)
        self.index = drop_bad(index, report.problems) if report.problems else index
        factors = self._match_pixel_size()
        self.reader = FieldReader(self.index, self.channels, objects if objects in index else None, factors)
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

    def groups(self, *splits: str) -> list[str]:
        """The wells (plate:well) of these splits."""
        assert self.index is not None
        return sorted(self.index.loc[self.index["split"].isin(splits), "group"].unique())

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
        """Fits the range of every plate on its training wells, unless a checkpoint brought ranges."""
        assert self.index is not None
        plates, train = self.index["plate"].astype(str), self.index["split"].eq("train")
        from_checkpoint = bool(self.scaling.ranges)
        for plate in plates.unique():
            for number, channel in enumerate(self.channels):
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
        """Lists the windows of every field by split, blank ones dropped."""
        assert self.index is not None
        self._windows = {"train": [], "val": [], "test": []}
        blank = 0
        for row in track(range(len(self.index)), description="finding patches", transient=True):
            field = self.reader.image(row)[0]
            if not self.keep_blank and np.issubdtype(field.dtype, np.floating) and field.max() <= 1:
                raise ImageError(
                    f"{self.index[f'image_{self.channels[0]}'].iloc[row]}: intensities lie in [0, 1]; export camera "
                    "counts, or set data.keep_blank=true, since blank patches are told by their counts"
                )
            for y, x in self.zoom.windows(field.shape):
                if not self.keep_blank and is_blank(self.zoom.cut(field, y, x)):
                    blank += 1
                    continue
                self._windows[self.index["split"].iloc[row]].append((row, y, x))
        counts = ", ".join(f"{len(windows)} {split}" for split, windows in self._windows.items())
        log.info("%d fields give %s patches; %d blank ones dropped", len(self.index), counts, blank)
        if not self._windows["train"] and not self._windows["test"]:
            raise TableError(f"every patch of {self.root} is blank: set data.keep_blank=true to use them all the same")

    def patches(self, split: str) -> Patches:
        """The dataset of one split."""
        if not self._windows[split]:
            raise TableError(f"{self.root} has no {split} patches; change data.fractions or the index's split column")
        train = split == "train"
        return Patches(
            self.reader,
            self._windows[split],
            self.zoom,
            self.scaling,
            self.masks,
            seed=self.seed,
            augment=self.augment if train else None,
            train=train,
            bands=self.val_bands if split == "val" else None,
            edges=self.edges,
        )

    def showing(self, samples: Dataset) -> "Inpainting":
        """The same data with other test samples: a dataset indexed by (epoch, number)."""
        other = copy.copy(self)
        other.patches = lambda split: samples  # type: ignore[method-assign, assignment, return-value]
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
