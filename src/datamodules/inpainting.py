"""Fields of view with holes: patches, masks and scaling for models that restore what is missing."""

from collections.abc import Callable, Sequence
from typing import Any

from ..imaging.tiles import is_blank
from .fields import Fields
from .patches import EdgeMaker, MaskMaker, Patches


class Inpainting(Fields):
    """Patches of the fields in an index table, each with a hole drawn by `masks`; the other settings are of `Fields`.

    Batches follow datamodules/batch.py. Blank patches (imaging/tiles.py) are dropped unless `keep_blank`. `val_bands`
    are the masks' area bands of validation. `edges` (imaging/edges.py) adds an edge map to every sample, made once,
    where the sample is.
    """

    UNFIT = ("blank",)
    KEEP_ALL = "data.keep_blank=true"

    def __init__(
        self,
        root: str | None,
        masks: MaskMaker,
        channels: Sequence[str] = ("nuclei",),
        keep_blank: bool = False,
        augment: Callable[..., Any] | None = None,
        val_bands: Sequence[tuple[float, float]] | None = None,
        edges: EdgeMaker | None = None,
        **options: Any,
    ) -> None:
        super().__init__(root, **options)
        self.channels = list(channels)
        self.masks, self.keep_blank, self.augment = masks, keep_blank, augment
        self.val_bands, self.edges = val_bands, edges

    def _check_counts(self, row: int) -> None:
        if not self.keep_blank:
            self._refuse_unit_range(row, self.channels[0])

    def _unfit(self, row: int, y: int, x: int) -> str | None:
        return "blank" if not self.keep_blank and is_blank(self.zoom.cut(self.reader.image(row)[0], y, x)) else None

    def patches(self, split: str) -> Patches:
        """The dataset of one split."""
        train = split == "train"
        return Patches(
            self.reader,
            self._windows_of(split),
            self.zoom,
            self.scaling,
            self.masks,
            seed=self.seed,
            augment=self.augment if train else None,
            train=train,
            bands=self.val_bands if split == "val" else None,
            edges=self.edges,
        )
