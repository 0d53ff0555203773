"""Patches of fields of view: what their datasets share, and patches with holes for the inpainting DataModules."""

import math
import zlib
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pandas as pd
import torch
from torch.utils.data import Dataset

from ..imaging.io import read_header, read_image, read_labels
from ..imaging.pixelsize import rescale
from ..imaging.tiles import Zoom
from .layouts import TableError
from .scaling import Scaling

# What a process keeps of images: 57 of 2160 x 2160 pixels of 16 bit, or 1024 of 512 x 512.
CACHED_BYTES = 2**29
CACHED_LABELS = 64

EdgeMaker = Callable[..., np.ndarray]  # image Y X C and rng to edges Y X: see imaging/edges.py


class MaskMaker(Protocol):
    """What draws holes: see imaging/masks.py."""

    bands: Sequence[tuple[float, float]]

    def draw(
        self, rng: np.random.Generator, shape: tuple[int, int], band: tuple[float, float] | None = None
    ) -> np.ndarray: ...


class FieldReader:
    """Reads fields of view named in an index, keeping the last ones.

    `factors` (one per row) resamples images, labels and masks to that many times as many pixels a side; `prepare`
    (channel to a function of the whole image Y X) then changes what a channel shows. `nearest` are the channels that
    become masks by it, of which patches take the nearest pixels.
    """

    def __init__(
        self,
        index: pd.DataFrame,
        channels: Sequence[str],
        objects: str | None,
        factors: Sequence[float] | None = None,
        prepare: Mapping[str, Callable[[np.ndarray], np.ndarray]] | None = None,
    ) -> None:
        self.index = index
        self.channels = list(channels)
        self.objects = objects
        self.factors = [1.0] * len(index) if factors is None else [float(factor) for factor in factors]
        self.prepare = dict(prepare or {})
        self.nearest = {name for name, step in self.prepare.items() if getattr(step, "nearest", False)}
        self._as_read, self._image = (lru_cache(self._kept())(read) for read in (self._read, self._prepared))
        self._labels = lru_cache(CACHED_LABELS)(self._read_labels)

    def __getstate__(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in ("index", "channels", "objects", "factors", "prepare")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(**state)  # type: ignore[misc]

    def _kept(self) -> int:
        """How many fields as large as the first are kept."""
        header = read_header(Path(self.index[f"image_{self.channels[0]}"].iloc[0]))
        pixels = math.prod(header.shape) * self.factors[0] ** 2
        return max(int(CACHED_BYTES / (pixels * header.dtype.itemsize * len(self.channels))), 4)

    def _read(self, row: int) -> list[np.ndarray]:
        images = [read_image(Path(self.index[f"image_{channel}"].iloc[row])) for channel in self.channels]
        if (factor := self.factors[row]) != 1:
            images = [rescale(image, factor) for image in images]
        return images

    def _prepared(self, row: int) -> list[np.ndarray]:
        named = zip(self.channels, self._as_read(row), strict=True)
        return [self.prepare[name](image) if name in self.prepare else image for name, image in named]

    def _read_labels(self, row: int, column: str) -> np.ndarray | None:
        path = self.index[column].iloc[row]
        if pd.isna(path):
            return None
        labels, factor = read_labels(Path(path)), self.factors[row]
        return labels if factor == 1 else rescale(labels, factor, labels=True)

    def image(self, row: int) -> list[np.ndarray]:
        """The channels of one field, each Y X in camera counts."""
        return self._image(row)

    def as_read(self, row: int) -> list[np.ndarray]:
        """The channels of one field before `prepare`, each Y X in camera counts."""
        return self._as_read(row)

    def labels(self, row: int) -> np.ndarray | None:
        """The true instances of one field, Y X int32, where the index names them."""
        return None if self.objects is None else self._labels(row, self.objects)

    def mask(self, row: int, name: str) -> np.ndarray | None:
        """The mask of the column mask_<name>, Y X bool, True where the file is not 0; None where it names no file."""
        labels = self._labels(row, f"mask_{name}")
        return None if labels is None else labels != 0


class Crops(Dataset):
    """Windows (row, y, x) of fields, cut and scaled; indexed by (epoch, index).

    Everything random is drawn from (seed, epoch, index) when training and from (seed, id) otherwise, so that a resumed
    run and a second evaluation see the same samples. `unfit` says why a window is of no use, or None: training moves no
    window to one that is.
    """

    def __init__(
        self,
        reader: FieldReader,
        windows: Sequence[tuple[int, int, int]],
        zoom: Zoom,
        scaling: Scaling,
        seed: int,
        train: bool = False,
        unfit: Callable[[int, int, int], str | None] | None = None,
    ) -> None:
        self.reader, self.windows, self.zoom = reader, list(windows), zoom
        self.scaling, self.seed, self.train, self.unfit = scaling, seed, train, unfit

    def __len__(self) -> int:
        return len(self.windows)

    def name(self, index: int) -> str:
        """The id of a sample: field and window."""
        return self._named(self.windows[index])

    def field(self, index: int) -> str:
        """The id of the field that a sample is cut from."""
        return str(self.reader.index["id"].iloc[self.windows[index][0]])

    def _named(self, window: tuple[int, int, int]) -> str:
        row, y, x = window
        return f"{self.reader.index['id'].iloc[row]}_y{y}_x{x}"

    def rng_of(self, epoch: int, index: int) -> np.random.Generator:
        name = zlib.crc32(self.name(index).encode())
        return np.random.default_rng([self.seed, epoch, index] if self.train else [self.seed, name])

    def _about(self, index: int, row: int) -> dict[str, Any]:
        """The keys of a sample that every kind of patch has."""
        width = self.zoom.scale * float(self.reader.index["pixel_size"].iloc[row])
        return {
            "id": self.name(index),
            "group": str(self.reader.index["group"].iloc[row]),
            "valid": torch.ones(1, self.zoom.size, self.zoom.size),
            "pixel_size": torch.full((2,), width),
        }

    def _jitter(self, row: int, y: int, x: int, rng: np.random.Generator) -> tuple[int, int]:
        """Moves a window by up to half a stride, within the field, so that a small plate gives many patches.

        Where that would be an unfit window, it stays in its place.
        """
        reach = self.zoom.stride // 2
        height, width = self.reader.image(row)[0].shape
        move = rng.integers(-reach, reach + 1, size=2)
        moved = (
            int(np.clip(y + move[0], 0, height - self.zoom.crop)),
            int(np.clip(x + move[1], 0, width - self.zoom.crop)),
        )
        return (y, x) if self.unfit and self.unfit(row, *moved) else moved

    def _cut(self, row: int, y: int, x: int) -> np.ndarray:
        """One window of all channels, scaled: Y X C float32 in [0, 1]."""
        channels = zip(self.reader.channels, self.reader.image(row), strict=True)
        patches = [
            self._scaled(self.zoom.cut(field, y, x, labels=name in self.reader.nearest), row, name, field)
            for name, field in channels
        ]
        return np.stack(patches, -1)

    def _scaled(self, patch: np.ndarray, row: int, channel: str, field: np.ndarray) -> np.ndarray:
        """A patch of one channel, cut from `field` (both Y X, counts), in [0, 1]."""
        return self.scaling.apply(patch, str(self.reader.index["plate"].iloc[row]), channel, field)

    def donor(self, row: int, rng: np.random.Generator, unit: str = "group") -> int:
        """A field of the same size of another well (or other `unit`), of any split; TableError where there is none."""
        units = self.reader.index[unit].to_numpy()
        shape = self.reader.image(row)[0].shape
        for other in rng.permutation(np.flatnonzero(units != units[row])):
            if self.reader.image(other)[0].shape == shape:
                return int(other)
        raise TableError(
            f"no other {'well' if unit == 'group' else 'place'} has a field of {shape[0]}x{shape[1]} like "
            f"{self.reader.index['id'].iloc[row]}, so that no patch of another field can stand beside the model: add "
            "wells, or fields of that size"
        )


class Patches(Crops):
    """Patches cut from fields, each with a hole; what is random is the window's jitter, the augmentation and the hole.

    Not training, every patch stands once per area band of the masks and carries a `donor`, the same window of a field
    of another well. `edges` adds the edge map of the whole patch. Raises ValueError for a training patch whose mask
    covers nothing or everything.
    """

    def __init__(
        self,
        reader: FieldReader,
        windows: Sequence[tuple[int, int, int]],
        zoom: Zoom,
        scaling: Scaling,
        masks: MaskMaker,
        seed: int,
        augment: Callable[..., Any] | None = None,
        train: bool = False,
        bands: Sequence[tuple[float, float]] | None = None,
        edges: EdgeMaker | None = None,
    ) -> None:
        super().__init__(reader, windows, zoom, scaling, seed, train)
        self.masks, self.augment, self.edges = masks, augment, edges
        # Masks without bands are drawn once per patch, whatever their area.
        self.bands: list[tuple[float, float] | None] = [*(masks.bands if bands is None else bands)] or [None]

    def __len__(self) -> int:
        return len(self.windows) * (1 if self.train else len(self.bands))

    def name(self, index: int) -> str:
        """The id of a sample: field, window, and when not training the hole's area band in per cent."""
        window, band = self._sample(index)
        return self._named(window) if band is None else f"{self._named(window)}_{100 * band[0]:g}-{100 * band[1]:g}"

    def _sample(self, index: int) -> tuple[tuple[int, int, int], tuple[float, float] | None]:
        if self.train:
            return self.windows[index], None
        return self.windows[index // len(self.bands)], self.bands[index % len(self.bands)]

    def __getitem__(self, key: tuple[int, int]) -> dict[str, Any]:
        epoch, index = key
        (row, y, x), band = self._sample(index)
        rng = self.rng_of(epoch, index)
        if self.train:
            y, x = self._jitter(row, y, x, rng)
        image, labels = self._cut(row, y, x), self.reader.labels(row)
        objects = None if labels is None else self.zoom.cut(labels, y, x, labels=True)
        if self.augment is not None:
            image, objects = self._augmented(image, objects, rng)
        mask = self.masks.draw(rng, image.shape[:2], band)
        if self.train and (not mask.any() or mask.all()):
            raise ValueError(
                f"{self.name(index)}: the mask covers {'every pixel' if mask.any() else 'no pixel'}, so there is "
                f"nothing to learn (epoch {epoch}); set data.masks.bands to shares between 0 and 1, or lower "
                "data.masks.dilation"
            )

        item = self._about(index, row)
        item["source"] = item["target"] = tensor(image)
        item["mask"] = tensor(mask[..., None].astype(np.float32))
        if objects is not None:
            item["objects"] = instances(objects)
        if not self.train:
            item["donor"] = tensor(self._cut(self.donor(row, rng), y, x))
        if self.edges is not None:
            item["edges"] = tensor(self.edges(image, rng if self.train else None)[..., None])
        return item

    def _augmented(
        self, image: np.ndarray, objects: np.ndarray | None, rng: np.random.Generator
    ) -> tuple[np.ndarray, np.ndarray | None]:
        assert self.augment is not None
        # albumentations ignores numpy's seed: it is given one per sample.
        self.augment.set_random_seed(int(rng.integers(2**31)))  # type: ignore[attr-defined]
        if objects is None:
            return self.augment(image=image)["image"], None
        out = self.augment(image=image, mask=objects)
        return out["image"], out["mask"]


def tensor(image: np.ndarray) -> torch.Tensor:
    """Y X C to C Y X."""
    return torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1)))


def instances(labels: np.ndarray) -> torch.Tensor:
    """Labels Y X to 1 Y X int32."""
    return torch.from_numpy(np.ascontiguousarray(labels[None].astype(np.int32)))


def collate(items: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """A list of samples to a batch: tensors are stacked, names stay lists."""
    return {
        key: torch.stack([item[key] for item in items])
        if isinstance(items[0][key], torch.Tensor)
        else [item[key] for item in items]
        for key in items[0]
    }
