"""How alike prediction and target are, pixel by pixel: Pearson's r and the mean squared error of each image."""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from .arrays import as_batch, same_shape
from .base import ImageMetric


def pearson(prediction: Any, target: Any, channel: int = 0) -> dict[str, Tensor]:
    """Measure Pearson's r and mse of each image over all its pixels; float64 of shape B.

    prediction and target are Y X, B Y X or B T Y X, of which one channel is read. r is NaN where either image is
    constant: no correlation is defined there, and 0 would count as a bad one. mse is in the square of the images'
    unit. Source: the label-free thesis, eq. 6-7, whose loss is (1 - r) / 2. Raises ValueError for shapes that differ.
    """
    images, truths = as_batch(prediction, "prediction", channel), as_batch(target, "target", channel)
    same_shape(prediction=images, target=truths)
    pairs = zip(images.astype(float), truths.astype(float), strict=True)
    r, mse = zip(*(_pair(image, truth) for image, truth in pairs), strict=True)
    return {"r": torch.tensor(r, dtype=torch.float64), "mse": torch.tensor(mse, dtype=torch.float64)}


def _pair(image: np.ndarray, truth: np.ndarray) -> tuple[float, float]:
    error = float(np.square(image - truth).mean())
    if image.min() == image.max() or truth.min() == truth.max():
        return float("nan"), error
    a, b = image - image.mean(), truth - truth.mean()
    r = float((a * b).sum() / np.sqrt((a * a).sum() * (b * b).sum()))
    return min(1.0, max(-1.0, r)), error


class Pearson(ImageMetric):
    """Pearson's r and mse of each image, averaged over images (see `pearson`); constant images do not count for r."""

    names = ("r", "mse")

    def __init__(self, channel: int = 0) -> None:
        super().__init__()
        self.channel = channel

    def measure(self, prediction: Any, target: Any) -> dict[str, Tensor]:  # type: ignore[override]
        return pearson(prediction, target, self.channel)
