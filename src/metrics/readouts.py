"""What a lab reads from a fluorescence picture: objects, their area and light, and how nuclei and ER overlap."""

from collections.abc import Mapping
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from ..imaging.organelles import segment
from .arrays import as_batch, same_shape
from .base import ImageMetric

READOUTS = ("count", "area", "total_intensity", "mean_intensity")
OVERLAPS = ("share", "jaccard")
Organelle = Literal["nuclei", "er", "gfp", "golgi", "mask"]  # imaging.organelles.ORGANELLES, checked with the settings
SIDES = ("predicted", "true")


def readouts(
    image: np.ndarray,
    organelle: str,
    labels: np.ndarray | None = None,
    segmentation: Mapping[str, float | None] | None = None,
) -> dict[str, float]:
    """Read count, area, total and mean intensity of an organelle's objects from one image Y X, in any unit.

    The image is segmented by itself (`imaging.organelles.segment`, its parameters in `segmentation`), as a lab does
    with a stained one; `labels` (Y X, 0 = background) skip that. count: objects. area: pixels in objects.
    total_intensity: the values of these pixels summed as they are, no background taken off. mean_intensity: total over
    area, a mean over pixels and not over objects. Nothing found: 0, 0, 0 and NaN. Raises ValueError unless labels lie
    on the image's grid. Source: the label-free thesis, section 3.1.6.
    """
    labels = segment(image, organelle, **(segmentation or {})) if labels is None else np.asarray(labels)
    same_shape(image=np.asarray(image), labels=labels)
    objects = labels > 0
    inside = np.asarray(image)[objects]
    total = float(inside.sum(dtype=np.float64))
    return {
        "count": float(len(np.unique(labels[objects]))),
        "area": float(inside.size),
        "total_intensity": total,
        "mean_intensity": total / inside.size if inside.size else float("nan"),
    }


def nucleus_er_overlap(nuclei: np.ndarray, er: np.ndarray) -> dict[str, float]:
    """Measure how nuclei and ER of one image lie over each other, from masks or labels Y X (0 = background).

    share: part of the nuclear area that ER covers, NaN without nuclei. jaccard: common area over the area of either,
    NaN where both are empty. All objects of an image count together, since the ER of touching cells is one object. In
    a projection the ER lies over and under nuclei: the share is no error by itself, its shift from truth is one.
    Raises ValueError for shapes that differ.
    """
    same_shape(nuclei=np.asarray(nuclei), er=np.asarray(er))
    nuclear, reticular = np.asarray(nuclei) > 0, np.asarray(er) > 0
    both, area = np.count_nonzero(nuclear & reticular), np.count_nonzero(nuclear)
    either = np.count_nonzero(nuclear | reticular)
    return {
        "share": both / area if area else float("nan"),
        "jaccard": both / either if either else float("nan"),
    }


class Readouts(ImageMetric):
    """Readouts of one organelle per image, predicted and true; `compute` gives their means (see `readouts`).

    channel: which plane of prediction and target (B T Y X) shows the organelle, from 0. segmentation: its
    parameters (`imaging.organelles`), where the defaults do not suit the pixel size.
    """

    names = tuple(f"{name}_{side}" for name in READOUTS for side in SIDES)

    def __init__(
        self, organelle: Organelle, channel: int = 0, segmentation: dict[str, float | None] | None = None
    ) -> None:
        super().__init__()
        self.organelle, self.channel, self.segmentation = organelle, channel, segmentation

    def measure(self, prediction: Any, target: Any) -> dict[str, Tensor]:  # type: ignore[override]
        images, truths = as_batch(prediction, "prediction", self.channel), as_batch(target, "target", self.channel)
        same_shape(prediction=images, target=truths)
        return _rows([self._readouts(images), self._readouts(truths)], READOUTS)

    def _readouts(self, images: np.ndarray) -> list[dict[str, float]]:
        return [readouts(image, self.organelle, segmentation=self.segmentation) for image in images]


class NucleusErOverlap(ImageMetric):
    """Nucleus-ER overlap per image, predicted and true; `compute` gives their means (see `nucleus_er_overlap`).

    The channels are those of nuclei and ER in prediction and target (B T Y X), from 0; their
    segmentations have parameters as in `Readouts`. Raises ValueError if both channels are one.
    """

    names = tuple(f"{name}_{side}" for name in OVERLAPS for side in SIDES)

    def __init__(
        self,
        nuclei_channel: int = 0,
        er_channel: int = 1,
        nuclei_segmentation: dict[str, float | None] | None = None,
        er_segmentation: dict[str, float | None] | None = None,
    ) -> None:
        super().__init__()
        if nuclei_channel == er_channel:
            raise ValueError(f"nuclei_channel and er_channel are both {er_channel}: nuclei and ER are two targets")
        self.channels = nuclei_channel, er_channel
        self.nuclei, self.er = nuclei_segmentation or {}, er_segmentation or {}

    def measure(self, prediction: Any, target: Any) -> dict[str, Tensor]:  # type: ignore[override]
        for name, value in {"prediction": prediction, "target": target}.items():
            if value.ndim != 4:
                raise ValueError(f"{name} is {tuple(value.shape)}: an overlap of two channels needs B T Y X")
        same_shape(prediction=prediction, target=target)
        return _rows([self._overlaps(prediction, "prediction"), self._overlaps(target, "target")], OVERLAPS)

    def _overlaps(self, images: Any, name: str) -> list[dict[str, float]]:
        nuclei, er = (as_batch(images, name, channel) for channel in self.channels)
        return [
            nucleus_er_overlap(segment(one, "nuclei", **self.nuclei), segment(other, "er", **self.er))
            for one, other in zip(nuclei, er, strict=True)
        ]


def _rows(sides: list[list[dict[str, float]]], names: tuple[str, ...]) -> dict[str, Tensor]:
    """Bring the measurements of predicted and true images (in this order) into the rows of a metric."""
    return {
        f"{name}_{side}": torch.tensor([image[name] for image in images], dtype=torch.float64)
        for name in names
        for side, images in zip(SIDES, sides, strict=True)
    }
