"""A trained model applied to whole fields: NumPy in, NumPy out, any size."""

from __future__ import annotations

import hashlib
import logging
from pathlib import Path
from typing import Any

import numpy as np
import torch
from hydra.utils import instantiate

from ..checkpoint import load_weights, read_checkpoint, trusted_config
from ..datamodules.scaling import Scaling
from ..imaging.stitch import Stitcher
from .stain import StainPredictor
from .trained import Trained, resized

log = logging.getLogger(__name__)


class Predictor(Trained):
    """A restoration model, see `Trained`; made by `load`."""

    FITTED_ON = "outside its masks"

    def __init__(
        self,
        model: Any,
        scaling: Scaling,
        config: dict[str, Any],
        sha256: str = "",
        device: str = "auto",
        batch_size: int = 8,
    ) -> None:
        if scaling.kind == "paper":
            raise ValueError(
                "this model was trained with data.scaling=paper, which keeps no range: what it draws cannot be given "
                "back in camera counts. Train with data.scaling=plate"
            )
        super().__init__(model, scaling, config, sha256, device)
        self.batch_size = batch_size
        self.channels: list[str] = list(config["data"]["channels"])

    def predict(
        self,
        image: np.ndarray,
        mask: np.ndarray,
        plate: str | None = None,
        pixel_size: float | None = None,
        rescale: bool = False,
    ) -> np.ndarray:
        """Restores what `mask` (Y X, nonzero = hole) covers of `image`; any size, overlapping tiles blended.

        `image` is Y X, or C Y X in the order of `channels`, in camera counts (uint8, uint16 or float32). The result has
        its shape and type, and every pixel outside the mask bit for bit. The range comes from `plate`, where training
        or `fit_plate` saw it, else from this image's pixels outside the mask. `pixel_size` (micrometres) is held
        against that of the training fields; `rescale` brings another one to it. A mask that covers nothing or
        everything leaves the image as it is. Raises ValueError for other axes, sizes, types, NaN or pixel sizes.
        """
        planes, hole = self._checked(image, mask)
        if not hole.any() or hole.all():
            if hole.all():
                log.warning("the mask covers the whole image: nothing is known of it, so it stays as it is")
            return image.copy()
        factor = self.enlargement(pixel_size, rescale)
        scaling, plate = self._scaling_of(planes, hole, plate)
        scaled = np.stack([scaling.apply(p, plate, name) for name, p in zip(self.channels, planes, strict=True)])
        restored = self._restore(scaled, hole, factor)
        out = planes.copy()
        for number, name in enumerate(self.channels):
            counts = scaling.invert(restored[number], plate, name)[hole]
            if out.dtype.kind == "u":
                counts = np.clip(np.rint(counts), 0, np.iinfo(out.dtype).max)
            out[number][hole] = counts.astype(out.dtype)
        return out.reshape(image.shape)

    def _checked(self, image: np.ndarray, mask: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        planes, mask = self._planes(image, "replace them, the mask says where not to look"), np.asarray(mask)
        if mask.shape != planes.shape[1:]:
            raise ValueError(f"mask is {mask.shape} and image {planes.shape[1:]} (Y X): both must have one size")
        return planes, mask != 0

    def _scaling_of(self, planes: np.ndarray, hole: np.ndarray, plate: str | None) -> tuple[Scaling, str]:
        """The ranges of the plate where they are known, else of this image outside its mask."""
        if plate is not None and set(self.channels) <= set(self.scaling.ranges.get(plate, {})):
            return self.scaling, plate
        own = Scaling()
        for channel, plane in zip(self.channels, planes, strict=True):
            own.fit("", channel, [plane[~hole]])
        return own, ""

    def _restore(self, scaled: np.ndarray, hole: np.ndarray, factor: float) -> np.ndarray:
        """C Y X in [0, 1] with the hole restored, on the grid of `scaled`."""
        shape = hole.shape
        source, mask = resized(scaled, factor), resized(hole[None].astype(np.float32), factor) > 0
        stitcher = Stitcher(mask[0], self.zoom.size)
        self.model.eval().to(self.device)
        for start in range(0, len(stitcher.windows), self.batch_size):
            chosen = stitcher.windows[start : start + self.batch_size]
            batch: dict[str, Any] = {
                "source": self._tensor([stitcher.cut(source, window) for window in chosen]),
                "mask": self._tensor([stitcher.cut(mask.astype(np.float32), window) for window in chosen]),
                "id": [f"y{y}_x{x}" for y, x in chosen],
                "group": [""] * len(chosen),
            }
            batch["valid"] = torch.ones_like(batch["mask"])
            batch["pixel_size"] = torch.full((len(chosen), 2), (self.pixel_size or 0.0) * self.zoom.scale)
            with torch.inference_mode():
                predictions = self.model.predict_step(batch, 0)["prediction"].float().cpu().numpy()
            for window, prediction in zip(chosen, predictions, strict=True):
                stitcher.add(window, prediction)
        return resized(stitcher.blended(source), 1 / factor, shape)

    def _tensor(self, tiles: list[np.ndarray]) -> torch.Tensor:
        return torch.from_numpy(np.stack(tiles)).to(self.device)


def load(
    checkpoint: str | Path,
    device: str = "auto",
    batch_size: int = 8,
    model_config: dict[str, Any] | None = None,
) -> Predictor | StainPredictor:
    """The model of a checkpoint, ready to restore or, trained on pairs, to predict stains.

    `batch_size` is how many tiles of a restoration go through the network at once; `model_config` the whole config of
    the model (`_target_` and settings) in place of the checkpoint's. Raises CheckpointError where the checkpoint cannot
    be used, ValueError where its model can do neither.
    """
    config, saved = trusted_config(checkpoint), read_checkpoint(checkpoint)
    config["model"] = model_config or config["model"]
    model = instantiate(config["model"], _convert_="all")
    load_weights(model, saved["state_dict"], checkpoint)
    with Path(checkpoint).open("rb") as file:
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    scaling = Scaling(**saved["scaling"])
    if "targets" in config["data"]:
        return StainPredictor(model, scaling, config, sha256, device)
    return Predictor(model, scaling, config, sha256, device, batch_size)
