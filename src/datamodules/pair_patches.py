"""Patches of pairs, transmitted light and fluorescence: the dataset behind the label-free DataModules."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from ..imaging.augment import Drawn, PairAugment, measured
from ..imaging.tiles import Zoom
from .patches import Crops, FieldReader, instances, tensor
from .scaling import Scaling


class PairPatches(Crops):
    """Crops of `sources` planes (the first channels of the reader) and of the targets behind them.

    Random are the window's jitter and `augment` (training); corruptions act on the counts of the sources, of a camera
    that counts to `full_scale`. Augmented, `valid` is 0 where the crop left its image and was mirrored, and
    `pixel_size` is that of the enlarged crop. Not training, a sample carries a `donor`, the targets of the same window
    of another well, or of another place where there is one well.
    """

    def __init__(
        self,
        reader: FieldReader,
        windows: Sequence[tuple[int, int, int]],
        zoom: Zoom,
        scaling: Scaling,
        sources: int,
        seed: int,
        augment: PairAugment | None = None,
        full_scale: float | None = None,
        train: bool = False,
        unfit: Callable[[int, int, int], str | None] | None = None,
    ) -> None:
        super().__init__(reader, windows, zoom, scaling, seed, train, unfit)
        self.sources, self.augment, self.full_scale = sources, augment, full_scale
        self.stranger = "group" if reader.index["group"].nunique() > 1 else "parent"

    def plain(self, windows: Sequence[tuple[int, int, int]]) -> "PairPatches":
        """These windows (row, y, x) of the same fields as an evaluation sees them: nothing augmented, nothing moved."""
        return PairPatches(
            self.reader, windows, self.zoom, self.scaling, self.sources, self.seed, full_scale=self.full_scale
        )

    def __getitem__(self, key: tuple[int, int]) -> dict[str, Any]:
        epoch, index = key
        row, y, x = self.windows[index]
        rng = self.rng_of(epoch, index)
        if self.train:
            y, x = self._jitter(row, y, x, rng)
        item = self._about(index, row)
        labels = self.reader.labels(row)
        if self.augment is None:
            image = self._cut(row, y, x)
        else:
            drawn = self.augment.draw(rng)
            places = drawn.places(y, x, self.zoom.crop)
            image = self._augmented(row, drawn, places)
            # Labels and what was measured are cut on, as the image is, from crops that are augmented already.
            labels, y, x = None if labels is None else drawn.sample_labels(labels, places), 0, 0
            seen = self.zoom.cut(measured(places, self.reader.image(row)[0].shape), 0, 0, labels=True)
            item["valid"] = tensor(seen[..., None].astype(np.float32))
            item["pixel_size"] *= drawn.kept
        item["source"], item["target"] = tensor(image[..., : self.sources]), tensor(image[..., self.sources :])
        if labels is not None:
            item["objects"] = instances(self.zoom.cut(labels, y, x, labels=True))
        if not self.train:
            other = self.donor(row, rng, self.stranger)
            item["donor"] = tensor(self._cut(other, y, x)[..., self.sources :])
        return item

    def _augmented(self, row: int, drawn: Drawn, places: np.ndarray) -> np.ndarray:
        """The channels augmented, Y X C in [0, 1]; sources are damaged before they are scaled."""
        channels, fields, damage = self.reader.channels, list(self.reader.image(row)), self.full_scale
        sources = fields[: self.sources]
        if damage is not None and self.scaling.by_image(channels[0]):  # as all sources: by the range of what is damaged
            sources, damage = drawn.damaged(sources, damage), None
            fields[: self.sources] = sources
        crops = drawn.sample(sources, places, damage)
        for name, field in zip(channels[self.sources :], fields[self.sources :], strict=True):
            nearest = name in self.reader.nearest
            crops += [drawn.sample_labels(field, places)] if nearest else drawn.sample([field], places)
        planes = zip(channels, fields, crops, strict=True)
        scaled = [
            self._scaled(self.zoom.cut(crop, 0, 0, labels=name in self.reader.nearest), row, name, field)
            for name, field, crop in planes
        ]
        return np.stack(scaled, -1)
