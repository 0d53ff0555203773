"""A trained translation applied to whole fields: transmitted light in, predicted stain out, any size."""

from __future__ import annotations

import logging
from typing import Any

import numpy as np
import torch

from ..datamodules.scaling import Scaling
from ..imaging.tiling import stitch
from ..models import Autoencoder
from .trained import Trained, resized

log = logging.getLogger(__name__)

TILE = 512  # pixels a side; a network whose border is wide has larger ones, so that half of a side is kept
# Whose counts a predicted stain is in; the second where training saw no stain of the plate.
OWN, TRAINING, NOT_COMPARABLE = "counts of this plate", "counts of training's range", "not comparable"
PREPARED = "of the prepared stain"  # data.prepare changed what the model learned from


class StainPredictor(Trained):
    """A translation model, see `Trained`; made by `load`. `targets` are the names of the stains that it predicts.

    Raises ValueError for a model that predicts none.
    """

    def __init__(
        self, model: Any, scaling: Scaling, config: dict[str, Any], sha256: str = "", device: str = "auto"
    ) -> None:
        if isinstance(model, Autoencoder):
            raise ValueError(
                "this checkpoint is an autoencoder's: it draws its source again and predicts no stain. Look at its "
                "embeddings with eval.py, or give the checkpoint of a translation (model=labelfree_unet or lachance)"
            )
        super().__init__(model, scaling, config, sha256, device)
        self.channels, self.targets = list(config["data"]["sources"]), list(config["data"]["targets"])
        if strange := [name for name in self.targets if {"/", "\\"} & set(name) or name.startswith(".")]:
            raise ValueError(
                f"the checkpoint's target {strange[0]!r} names no file: no slash and no leading dot is meant"
            )
        self.tile = max(TILE, 4 * model.net.border)
        self.prepared = set(config["data"].get("prepare") or {})
        self._said: set[tuple[str | None, str]] = set()

    def predict(
        self,
        image: np.ndarray,
        plate: str | None = None,
        pixel_size: float | None = None,
        rescale: bool = False,
    ) -> np.ndarray:
        """Predicts the stains of `targets`, T Y X float32, for an image of any size: the same as for it untiled.

        `image` is Y X, or C Y X in the order of `channels`, in camera counts (uint8, uint16 or float32). It is scaled
        as in training: by itself, or by its plate, where training or `fit_plate` saw that, else by itself alone. The
        result is in camera counts by the range that `target_range` gives, in [0, 1] for a model that was trained with
        data.scaling=paper. `pixel_size` (micrometres) is held against that of the training fields; `rescale` brings
        another one to it, and the prediction back. Raises ValueError for other axes, types, NaN or pixel sizes.
        """
        given = self._planes(image)
        planes = resized(given, self.resampling(pixel_size, rescale))
        scaling, own = self._scaling_of(planes, plate)
        scaled = np.stack([scaling.apply(p, own, name, p) for name, p in zip(self.channels, planes, strict=True)])
        net = self.model.eval().to(self.device).net
        # Tile by tile: what a network gives for one does not depend on what is beside it in a batch.
        source = resized(scaled, 1 / self.zoom.scale)
        drawn = stitch(self._draw, source, self.tile, "exact", net.border, net.divisor, batch_size=1)
        drawn = resized(drawn, 1 / self.enlargement(pixel_size, rescale), given.shape[1:])
        for target, stain in zip(self.targets, drawn, strict=True):
            if limits := self.target_range(target, plate)[0]:
                stain *= limits[1] - limits[0]
                stain += limits[0]
        return drawn

    def embed(
        self,
        image: np.ndarray,
        plate: str | None = None,
        pixel_size: float | None = None,
        rescale: bool = False,
    ) -> np.ndarray:
        """What the network's bottleneck holds of a whole field, D: the mean over its crops and over their pixels.

        The crops are those of training's grid, none left out, whatever data.filters would drop. This is what a drift
        detector observes (studies/drift_study.grid, embedded.py with pool="mean", drift_runs.image_means). Takes what
        `predict` takes; raises ValueError, too, for an image smaller than a crop.
        """
        planes = resized(self._planes(image), self.resampling(pixel_size, rescale))
        self.check_crops(planes.shape[1:])
        scaling, own = self._scaling_of(planes, plate)
        self.model.eval().to(self.device)
        rows = []
        for y, x in self.zoom.windows(planes.shape[1:]):
            cut = [
                scaling.apply(self.zoom.cut(p, y, x), own, name, p)
                for name, p in zip(self.channels, planes, strict=True)
            ]
            with torch.inference_mode():
                bottleneck = self.model.embed(torch.from_numpy(np.stack(cut)[None]).to(self.device))
            rows.append(bottleneck.mean((2, 3))[0].cpu().numpy())
        return np.asarray(np.mean(rows, axis=0, dtype=np.float64))

    def check_crops(self, shape: tuple[int, ...]) -> None:
        """ValueError for a field (Y X, at training's pixel size) that is smaller than a crop of training."""
        if min(shape) < self.zoom.crop:
            raise ValueError(
                f"a field of {shape[0]}x{shape[1]} pixels is smaller than training's crops of {self.zoom.crop}, so it "
                "cannot be embedded as they are: leave out drift, or give whole fields"
            )

    def target_range(self, target: str, plate: str | None) -> tuple[list[float] | None, str]:
        """The counts that a predicted 0 and 1 of a target stand for, and whose counts they are.

        Of a plate that training did not see: the median of either end over the plates that it saw. None for a model
        that was trained with data.scaling=paper, whose predictions stay in [0, 1] and are not comparable.
        """
        if self.scaling.by_image(target):
            return None, NOT_COMPARABLE
        known = {name: ranges[target] for name, ranges in self.scaling.ranges.items() if target in ranges}
        if not known:
            raise ValueError(f"the checkpoint holds no range of its target {target!r}; use another checkpoint")
        if plate in known:
            return known[plate], PREPARED if target in self.prepared else OWN
        limits = [float(end) for end in np.median(list(known.values()), axis=0)]
        if target in self.prepared:
            return limits, PREPARED
        if (plate, target) not in self._said:
            self._said.add((plate, target))
            log.info(
                "%s: training saw no %r of it; predictions are given from %.0f to %.0f counts, the range of %s",
                f"plate {plate!r}" if plate is not None else "an image of no plate",
                *(
                    target,
                    *limits,
                    "training's plate" if len(known) == 1 else f"training's {len(known)} plates (median)",
                ),
            )
        return limits, TRAINING

    def _scaling_of(self, planes: np.ndarray, plate: str | None) -> tuple[Scaling, str]:
        """The ranges of the plate where they are known, else of this image."""
        if plate is not None and set(self.by_plate) <= set(self.scaling.ranges.get(plate, {})):
            return self.scaling, plate
        own = Scaling(self.scaling.kind, stretched=self.scaling.stretched)
        for name, plane in zip(self.channels, planes, strict=True):
            if name in self.by_plate:
                own.fit("", name, [plane])
        return own, ""

    def _draw(self, tiles: np.ndarray) -> np.ndarray:
        with torch.inference_mode():
            return self.model(torch.from_numpy(tiles).to(self.device)).cpu().numpy()
