"""Whole images through an image-to-image network that sees tiles, and the measure of the seams that tiling leaves."""

from __future__ import annotations

from collections.abc import Callable
from itertools import islice, product
from typing import Literal

import numpy as np

Mode = Literal["crop", "mean", "exact"]


def geometry(size: int, mode: Mode, border: int | None = None, divisor: int = 16) -> tuple[int, int]:
    """The border (pixels of a tile's rim that are dropped) and the step from tile to tile (pixels) of a tiling.

    `crop`, `exact`: step = size - 2 border, the centres touch (thesis, equation 25). `mean`: the border is a quarter of
    `size` and the step another, so that centres overlap by half (LaChance and Cohen 2020: 256, 64, 64). `divisor` is
    what must divide the sides of a network's input (net.divisor). Raises ValueError for sizes that do not fit together.
    """
    if mode not in ("crop", "mean", "exact"):
        raise ValueError(f"mode={mode!r}: use crop, mean or exact")
    if divisor < 1 or size < 1 or size % divisor:
        raise ValueError(f"size={size} is no multiple of {divisor}, as the network's poolings need: choose another")
    if mode == "mean":
        if border is not None or size % 4:
            raise ValueError(
                f"mode=mean drops a quarter of a tile as its border, and size={size}, border={border}: "
                "leave border out and give a size divisible by 4"
            )
        return size // 4, size // 4
    if border is None:
        raise ValueError(
            f"mode={mode} needs a border: give the network's (border=net.border, 96 for a U-Net of depth 4)"
        )
    step = size - 2 * border
    if border < 0 or step < 1:
        raise ValueError(
            f"border={border} leaves nothing of tiles of size={size}: lower border, or give a size above {2 * border}"
        )
    if mode == "exact" and step % divisor:
        raise ValueError(
            f"size={size} and border={border} put tiles {step} pixels apart, no multiple of {divisor}: pooling would "
            f"group other pixels than in the whole image. Give a border divisible by {divisor}"
        )
    return border, step


def stitch(
    predict: Callable[[np.ndarray], np.ndarray],
    image: np.ndarray,
    size: int = 256,
    mode: Mode = "exact",
    border: int | None = None,
    divisor: int = 16,
    batch_size: int = 8,
    out: np.ndarray | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> np.ndarray:
    """Predicts an image C Y X of any size tile by tile: T Y X, of the type that `predict` gives.

    `predict` takes tiles B C size size of the image's type and gives B T size size, floating; a network must be in
    evaluation mode. Scale the image before, as a whole (the thesis' min-max too): a range per tile makes seams. Beyond
    its edge the image is reflected without repeating the edge pixel, to and fro where it is smaller than the padding (a
    side of one pixel is repeated). Each tile is padded as it is cut, so that besides `image` and `out` (both may be
    memory maps) memory holds one batch. `out` is overwritten and returned. `progress` is called with the number of
    tiles done and that of all.

    Modes, with sizes as `geometry` says: `crop` keeps the tiles' centres (thesis, section 2.3.2.2), `mean` averages
    centres that overlap, up to four, `exact` is crop with the border of the network's receptive field: the result is
    that of inference on the whole image, reflected by `border` and up to a multiple of the step. It costs
    (size / step)^2 times that inference, so give large tiles. Raises ValueError for what does not fit, NaN too.
    """
    if image.ndim != 3 or 0 in image.shape:
        raise ValueError(f"image has shape {image.shape}: give C Y X, none of them 0")
    if batch_size < 1:
        raise ValueError(f"batch_size={batch_size}: give at least 1 tile")
    border, step = geometry(size, mode, border, divisor)
    kept = size - 2 * border
    starts = [range(0, max(0, side - kept) + step, step) for side in image.shape[1:]]
    shares = [_shares(side, begins, kept) for side, begins in zip(image.shape[1:], starts, strict=True)]
    corners, done, tile_count = product(*starts), 0, len(starts[0]) * len(starts[1])
    result: np.ndarray | None = None
    while batch := list(islice(corners, batch_size)):
        tiles = np.stack([_cut(image, y - border, x - border, size) for y, x in batch])
        predictions = np.asarray(predict(tiles))
        if result is None:
            result = _canvas(predictions, tiles, image, out)
        if predictions.shape != (len(tiles), len(result), size, size):
            raise ValueError(
                f"predict gave {predictions.shape} for tiles {tiles.shape}: give B T Y X of their number and size, and "
                f"always the same T ({len(result)} at first)"
            )
        if not np.isfinite(predictions).all():
            raise ValueError(f"predict gave NaN or infinite values for the tiles at {batch}: its weights are damaged")
        for (y, x), prediction in zip(batch, predictions, strict=True):
            target = result[:, y : y + kept, x : x + kept]
            rows, columns = target.shape[1:]
            share = shares[0][y : y + rows, None] * shares[1][x : x + columns]
            target += prediction[:, border : border + rows, border : border + columns] * share
        done += len(batch)
        if progress is not None:
            progress(done, tile_count)
    assert result is not None  # an image of at least one pixel has at least one tile
    return result


def _shares(side: int, starts: range, kept: int) -> np.ndarray:
    """What one tile counts for at each pixel along an axis: 1 over the number of tiles that keep this pixel."""
    covered = np.zeros(side, np.float32)
    for start in starts:
        covered[start : start + kept] += 1
    return 1 / covered


def _cut(image: np.ndarray, y: int, x: int, size: int) -> np.ndarray:
    """The tile C size size whose corner is at (y, x), reflected where it leaves the image."""
    rows, columns = (
        _reflected(np.arange(start, start + size), side) for start, side in zip((y, x), image.shape[1:], strict=True)
    )
    tile = np.asarray(image[:, rows[:, None], columns])
    if not np.isfinite(tile).all():
        raise ValueError(
            f"image holds NaN or infinite pixels in the tile of {size} pixels at y={y}, x={x}: replace them before"
        )
    return tile


def _reflected(index: np.ndarray, side: int) -> np.ndarray:
    """Positions inside an axis of `side` pixels that mirroring at its first and last pixel brings `index` to."""
    period = max(1, 2 * (side - 1))
    index = index % period
    return np.minimum(index, period - index)


def _canvas(predictions: np.ndarray, tiles: np.ndarray, image: np.ndarray, out: np.ndarray | None) -> np.ndarray:
    """Zeros to add tiles to, T Y X: `out` where it is given and fits, else a new array."""
    if predictions.ndim != 4 or predictions.dtype.kind != "f":
        raise ValueError(
            f"predict gave {predictions.dtype} of shape {predictions.shape} for tiles {tiles.shape}: "
            "give floating B T Y X"
        )
    shape = (predictions.shape[1], *image.shape[1:])
    if out is None:
        return np.zeros(shape, predictions.dtype)
    if out.shape != shape or out.dtype.kind != "f" or np.may_share_memory(out, image):
        raise ValueError(f"out is {out.dtype} of shape {out.shape}: give floating {shape}, apart from the image")
    out[...] = 0
    return out


def seam(prediction: np.ndarray, step: int) -> dict[str, float]:
    """How much more a prediction Y X jumps across its tiles' boundaries than elsewhere.

    A jump is the absolute difference of two neighbours, in the prediction's unit. With J(d) the mean jump, over both
    axes, into the rows and columns at d, d + step, d + 2 step and so on: `seam` is J(0), `elsewhere` the mean over
    d = 1 to step - 1, `difference` seam - elsewhere, `ratio` their quotient (float32's resolution of the largest value
    is added to both, so that it is finite) and `shifted_ratio` that of J(step // 2): how far content alone moves the
    ratio from 1. `rank` is the share of all d with J(d) >= J(0): 1 / step where boundaries stand out from every other
    place, about 0.5 where they do not, near 1 with a ratio below 1 where a network's zero padding flattens the rims of
    tiles, a seam too. `step` is that of `geometry`. An axis without a boundary is left out. Raises ValueError for no
    boundary at all.
    """
    prediction = _checked(prediction, step)
    total, count = np.zeros(step), np.zeros(step)
    for plane in (prediction, prediction.T):
        if len(plane) > step:
            phase = np.arange(1, len(plane)) % step
            total += np.bincount(phase, np.abs(np.diff(plane, axis=0)).sum(axis=1, dtype=np.float64), step)
            count += np.bincount(phase, minlength=step) * plane.shape[1]
    jumps = total / count
    elsewhere = float(total[1:].sum() / count[1:].sum())
    floor = max(float(np.abs(prediction).max()) * np.finfo(np.float32).eps, np.finfo(np.float32).tiny)
    return {
        "seam": float(jumps[0]),
        "elsewhere": elsewhere,
        "difference": float(jumps[0] - elsewhere),
        "ratio": float((jumps[0] + floor) / (elsewhere + floor)),
        "shifted_ratio": float((jumps[step // 2] + floor) / (elsewhere + floor)),
        "rank": float((jumps >= jumps[0]).mean()),
    }


def seam_error(prediction: np.ndarray, reference: np.ndarray, step: int) -> dict[str, float]:
    """How far a prediction Y X is from the untiled `reference` Y X, at the seams and elsewhere, in their unit.

    Absolute differences, maximum and mean: `seam_max` and `seam_mean` over the pixels on either side of the
    boundaries (every `step` pixels), `elsewhere_max` and `elsewhere_mean` over the others. Raises ValueError for other
    shapes, or no boundary.
    """
    prediction, reference = _checked(prediction, step), _checked(reference, step)
    if prediction.shape != reference.shape:
        raise ValueError(f"prediction is {prediction.shape} and reference {reference.shape}: both must have one size")
    rows, columns = (_beside_boundary(side, step) for side in prediction.shape)
    at_seam, error = rows[:, None] | columns, np.abs(prediction - reference)
    return {
        f"{where}_{name}": float(statistic(error[chosen]))
        for where, chosen in (("seam", at_seam), ("elsewhere", ~at_seam))
        for name, statistic in (("max", np.max), ("mean", np.mean))
    }


def _beside_boundary(side: int, step: int) -> np.ndarray:
    position = np.arange(side)
    first, last = (position % step == 0) & (position > 0), (position % step == step - 1) & (position < side - 1)
    return np.asarray(first | last)


def _checked(prediction: np.ndarray, step: int) -> np.ndarray:
    """The prediction as floating numbers; ValueError where it has other axes, NaN or no boundary."""
    prediction = np.asarray(prediction, dtype=np.result_type(prediction, np.float32))
    if prediction.ndim != 2 or not np.isfinite(prediction).all():
        raise ValueError(f"prediction has shape {prediction.shape}: give one plane Y X, all finite")
    if not 3 <= step < max(prediction.shape):
        raise ValueError(
            f"step={step} puts no seam into an image of {prediction.shape}: give the distance of tile boundaries in "
            f"pixels, from geometry(), at least 3 and below {max(prediction.shape)}"
        )
    return prediction
