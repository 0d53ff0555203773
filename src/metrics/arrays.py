"""Bringing what a metric is given (torch or NumPy, with or without batch and channel axes) into one form."""

from typing import Any

import numpy as np
import torch


def as_batch(value: Any, name: str, channel: int = 0) -> np.ndarray:
    """Give images as a NumPy array B Y X; of B C Y X one channel is kept.

    Takes Y X, B Y X or B C Y X as a tensor or an array. Raises ValueError for another number of axes, a channel
    that is not there, or NaN and infinite values.
    """
    if isinstance(value, torch.Tensor):
        value = value.detach().cpu()
        value = (value.float() if value.dtype in (torch.float16, torch.bfloat16) else value).numpy()
    array = np.asarray(value)
    if array.ndim not in (2, 3, 4):
        raise ValueError(f"{name} has shape {array.shape}: give Y X, B Y X or B C Y X")
    if array.ndim == 4:
        if channel >= array.shape[1]:
            raise ValueError(f"{name} has {array.shape[1]} channels, channel {channel} was asked for (counted from 0)")
        array = array[:, channel]
    if array.ndim == 2:
        array = array[None]
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        bad = [i for i, image in enumerate(array) if not np.isfinite(image).all()]
        raise ValueError(f"{name} holds NaN or infinite values in image {bad[0]} of the batch ({len(bad)} in all)")
    return array


def same_shape(**arrays: np.ndarray) -> None:
    """Raise ValueError, naming each shape, unless all arrays have the same."""
    if len({array.shape for array in arrays.values()}) > 1:
        shapes = ", ".join(f"{name} {'x'.join(map(str, array.shape))}" for name, array in arrays.items())
        raise ValueError(f"images differ in size: {shapes} (B Y X): they must lie on the same grid")


def pixel_areas(pixel_size: Any, batch: int) -> np.ndarray:
    """Give the area of a pixel in square micrometres per image (shape B) from a number, (Y, X) or B 2."""
    sizes = np.asarray(pixel_size.detach().cpu() if isinstance(pixel_size, torch.Tensor) else pixel_size, dtype=float)
    try:
        sizes = np.broadcast_to(sizes, (batch, 2))
    except ValueError:
        raise ValueError(f"pixel_size has shape {sizes.shape}: give a number, (Y, X) or one pair per image") from None
    if not (np.isfinite(sizes).all() and (sizes > 0).all()):
        raise ValueError("pixel_size must be positive, in micrometres per pixel")
    return sizes.prod(axis=1)
