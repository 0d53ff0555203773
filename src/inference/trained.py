"""What every trained model applied to whole fields shares: its scaling, its pixel size, its device."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
from hydra.utils import instantiate

from ..datamodules.scaling import Scaling
from ..imaging.pixelsize import differs, rescale

log = logging.getLogger(__name__)

DTYPES = ("uint8", "uint16", "float32")


class Trained:
    """A model with the scaling and the pixel size it was trained with.

    `channels` are the names of the channels it takes, in their order, `pixel_size` micrometres per pixel of its
    training fields, `config` what it was trained with, `sha256` the digest of its checkpoint.
    """

    FITTED_ON = "from its fields"  # where the range of a plate that training did not see comes from
    channels: list[str]

    def __init__(self, model: Any, scaling: Scaling, config: dict[str, Any], sha256: str, device: str) -> None:
        if device == "auto":
            device = "cuda" if torch.cuda.is_available() else "cpu"
        self.model, self.device = model, device
        self.scaling, self.config, self.sha256 = scaling, config, sha256
        self.zoom = instantiate(config["data"]["zoom"])
        self.pixel_size = scaling.pixel_size

    @property
    def by_plate(self) -> list[str]:
        """The channels that are scaled by the range of their plate."""
        return [name for name in self.channels if not self.scaling.by_image(name)]

    def fit_plate(self, plate: str, channel: str, known: Iterable[np.ndarray]) -> None:
        """Estimates the range of a plate that training did not see, from the pixels of its fields that are to be used.

        `known` gives them field by field (any shape, camera counts). Raises ValueError where there are none.
        """
        pixels = [counts for counts in known if counts.size]
        if not pixels:
            raise ValueError(f"plate {plate!r}: the masks cover every pixel, so its range cannot be estimated")
        low, high = self.scaling.fit(plate, channel, pixels)
        log.info(
            "plate %r, channel %r: scaled from %.0f to %.0f counts, estimated %s, for training did not see this plate",
            *(plate, channel, low, high, self.FITTED_ON),
        )

    def resampling(self, pixel_size: float | None, rescale: bool) -> float:
        """How many times as many pixels a side a field needs for the pixel size of training; 1 within 2 %.

        Raises ValueError for another pixel size (micrometres), unless it may be rescaled.
        """
        if pixel_size is None or self.pixel_size is None or not differs(pixel_size, self.pixel_size):
            return 1.0
        if not rescale:
            raise ValueError(
                f"the image has {pixel_size:g} um per pixel, the model was trained at {self.pixel_size:g}: set "
                "data.rescale=true (rescale=True in Python) to bring it to the model's, or train at this size"
            )
        return pixel_size / self.pixel_size

    def enlargement(self, pixel_size: float | None, rescale: bool) -> float:
        """By how much a field is enlarged before the model sees it; ValueError for another pixel size, not rescaled."""
        return self.resampling(pixel_size, rescale) / self.zoom.scale

    def ranges(self, plate: str) -> dict[str, list[float]]:
        """The counts between which each channel of a plate is scaled."""
        return {name: self.scaling.ranges[plate][name] for name in self.by_plate}

    def _planes(self, image: np.ndarray, instead: str = "replace them") -> np.ndarray:
        """The image as C Y X; ValueError for other axes, another number of channels, another type or NaN."""
        image = np.asarray(image)
        planes = image[None] if image.ndim == 2 else image
        if planes.ndim != 3 or len(planes) != len(self.channels):
            raise ValueError(
                f"image has shape {image.shape}: give Y X or C Y X with the channels {', '.join(self.channels)}"
            )
        if image.dtype.name not in DTYPES:
            raise ValueError(f"image is {image.dtype}: give camera counts as {', '.join(DTYPES)}")
        if image.dtype.kind == "f" and not np.isfinite(image).all():
            raise ValueError(f"image holds NaN or infinite pixels: {instead}")
        return planes


def resized(planes: np.ndarray, factor: float, shape: tuple[int, int] | None = None) -> np.ndarray:
    """C Y X with `factor` times as many pixels a side, or `shape` that this is about."""
    return planes if factor == 1 else np.stack([rescale(plane, factor, shape=shape) for plane in planes])
