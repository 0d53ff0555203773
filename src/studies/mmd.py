"""The maximum mean discrepancy (MMD) of two samples, and thresholds for windows that slide along a stream.

Sources: Gretton et al. 2012 (JMLR 13) for the estimate; Cobb, Van Looveren and Klaise 2022 (AISTATS) for the windows.
"""

from __future__ import annotations

import math
from typing import Literal

import numpy as np

MedianScale = Literal["alibi", "paper"]
BLOCK_CELLS = 4_000_000  # kernel values of windows held at once: 32 MB


def observations(x: np.ndarray, name: str, least: int, dimensions: int | None = None) -> np.ndarray:
    """x as float64 N D. Raises ValueError where it is not N D, too short, of other dimensions or not finite."""
    x = np.asarray(x, dtype=np.float64)
    if x.ndim != 2:
        raise ValueError(f"{name} has shape {x.shape}: give one row of embedding per observation (N D)")
    if dimensions is not None and x.shape[1] != dimensions:
        raise ValueError(
            f"{name} has {x.shape[1]} dimensions, the reference {dimensions}: embed both with one model and one "
            "preprocessing"
        )
    if len(x) < least or x.shape[1] == 0:
        raise ValueError(f"{name} has shape {x.shape}: at least {least} observations of 1 dimension are needed")
    if bad := int((~np.isfinite(x)).any(axis=1).sum()):
        raise ValueError(f"{name} has NaN or infinite values in {bad} of {len(x)} rows: leave those images out")
    return x


def kernel_scale(squared_distances: np.ndarray, median_scale: MedianScale = "alibi") -> float:
    """s of the kernel exp(-d^2 / s) from d^2 of all pairs i < j: their median (alibi) or twice it (paper).

    As exp(-d^2 / (2 sigma^2)) that is sigma = sqrt(median / 2), or sqrt(median) as in the code of Cobb et al.
    Raises ValueError where the median is zero.
    """
    median = float(np.median(squared_distances))
    if not median > 0:
        raise ValueError("at least half of all pairs of observations are identical: leave out repeated or blank images")
    return median if median_scale == "alibi" else 2 * median


def mmd2(kernel: np.ndarray, first: np.ndarray) -> np.ndarray:
    """Unbiased MMD^2 of P splits of T points: kernel T T with zero diagonal, `first` P T bool; gives P values.

    Source: Gretton et al. 2012, equation 3.
    """
    first = first.astype(np.float64)
    n = first.sum(axis=1)
    m = first.shape[1] - n
    within_first = ((first @ kernel) * first).sum(axis=1)
    across = first @ kernel.sum(axis=1) - within_first
    within_second = kernel.sum() - within_first - 2 * across
    return within_first / (n * (n - 1)) + within_second / (m * (m - 1)) - 2 * across / (n * m)


def window_statistics(kernel: np.ndarray, extended: np.ndarray) -> np.ndarray:
    """MMD^2 of each window of W points in extended windows of 2W - 1, against all points outside the extended window.

    kernel N N with zero diagonal; extended B 2W-1, indices into it; gives B W. Source: Cobb et al. 2022, algorithm 1.
    """
    n, size = len(kernel), extended.shape[1]
    window, outside = (size + 1) // 2, n - size
    row_sums = kernel.sum(axis=1)
    start = np.arange(window)
    stop = start + window
    blocks = []
    for block in np.array_split(extended, math.ceil(extended.size * size / BLOCK_CELLS)):
        between = kernel[block[:, :, None], block[:, None, :]]
        across = row_sums[block] - between.sum(axis=2)
        within = (row_sums.sum() - between.sum(axis=(1, 2)) - 2 * across.sum(axis=1)) / (outside * (outside - 1))
        # Sums over windows are differences of cumulative sums: a box of `between`, a run of `across`.
        area = np.pad(between.cumsum(axis=1).cumsum(axis=2), ((0, 0), (1, 0), (1, 0)))
        run = np.pad(across.cumsum(axis=1), ((0, 0), (1, 0)))
        box = area[:, stop, stop] - area[:, start, stop] - area[:, stop, start] + area[:, start, start]
        cross = run[:, stop] - run[:, start]
        blocks.append(within[:, None] + box / (window * (window - 1)) - 2 * cross / (outside * window))
    return np.concatenate(blocks)


def run_thresholds(statistics: np.ndarray, expected_run_time: float) -> tuple[np.ndarray, np.ndarray]:
    """Thresholds (W) that each stop 1 in `expected_run_time` of what the earlier let through, and who is left (B bool).

    statistics B W; linear quantiles (type 7). Raises ValueError where ties leave nobody. Source: Cobb et al. 2022.
    """
    left = np.ones(len(statistics), dtype=bool)
    thresholds = np.empty(statistics.shape[1])
    for step, values in enumerate(statistics.T):
        thresholds[step] = np.quantile(values[left], 1 - 1 / expected_run_time)
        left &= values < thresholds[step]
        if not left.any():
            raise ValueError("the reference's windows are all alike: leave out repeated or blank images")
    return thresholds, left
