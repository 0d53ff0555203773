"""Rank correlations as statistics of a weighted table, so that wells can be resampled."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

BLOCK_ROWS = 512  # rows whose pairs with all others are held at once


@dataclass(frozen=True)
class _Pair:
    x: str
    y: str

    def columns(self) -> list[str]:
        return [self.x, self.y]


class Spearman(_Pair):
    """Spearman's rank correlation of two columns, ties at their mean rank; a weight counts a row so many times."""

    def __call__(self, table: pd.DataFrame, weights: np.ndarray) -> np.ndarray:
        known, weights = _complete(table, self.columns(), weights)
        a, b = (_ranks(known[:, column], weights) for column in (0, 1))
        count = weights.sum(axis=1, keepdims=True)
        with np.errstate(invalid="ignore", divide="ignore"):
            a, b = (part - (part * weights).sum(axis=1, keepdims=True) / count for part in (a, b))
            square = (weights * a * a).sum(axis=1) * (weights * b * b).sum(axis=1)
            # Rounding leaves a constant column a spread of 1e-30 or so: that is no spread.
            square[square < 1e-18] = np.nan
            return (weights * a * b).sum(axis=1) / np.sqrt(square)


class KendallTauB(_Pair):
    """Kendall's tau-b of two columns; a weight counts a row so many times, and copies of a row are tied."""

    def __call__(self, table: pd.DataFrame, weights: np.ndarray) -> np.ndarray:
        known, weights = _complete(table, self.columns(), weights)
        weights = weights.astype(np.float32)  # whole numbers, exact
        sums = np.zeros((3, len(weights)))  # agreement, pairs apart in x, pairs apart in y
        for start in range(0, len(known), BLOCK_ROWS):
            block = slice(start, start + BLOCK_ROWS)
            a, b = (
                np.sign(known[:, None, column] - known[None, block, column]).astype(np.float32) for column in (0, 1)
            )
            for number, pairs in enumerate((a * b, np.abs(a), np.abs(b))):
                sums[number] += ((weights @ pairs).astype(float) * weights[:, block]).sum(axis=1)
        agreement, apart_a, apart_b = sums
        with np.errstate(invalid="ignore", divide="ignore"):
            return np.where(apart_a * apart_b > 0, agreement / np.sqrt(apart_a * apart_b), np.nan)


@dataclass(frozen=True)
class MeanOf:
    """Mean of several statistics of one table; NaN where any of them is."""

    parts: tuple[Spearman | KendallTauB, ...]

    def columns(self) -> list[str]:
        return list(dict.fromkeys(column for part in self.parts for column in part.columns()))

    def __call__(self, table: pd.DataFrame, weights: np.ndarray) -> np.ndarray:
        return np.mean([part(table, weights) for part in self.parts], axis=0)


@dataclass(frozen=True)
class Less:
    """One statistic minus another, on the same resamples."""

    first: Spearman | KendallTauB | MeanOf
    second: Spearman | KendallTauB | MeanOf

    def columns(self) -> list[str]:
        return list(dict.fromkeys([*self.first.columns(), *self.second.columns()]))

    def __call__(self, table: pd.DataFrame, weights: np.ndarray) -> np.ndarray:
        return self.first(table, weights) - self.second(table, weights)


def _complete(table: pd.DataFrame, columns: list[str], weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    values = table[columns].to_numpy(dtype=float)
    known = np.isfinite(values).all(axis=1)
    return values[known], weights[:, known]


def _ranks(values: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Mean ranks (R N) of values (N) of which each stands weights (R N) times."""
    _, tie = np.unique(values, return_inverse=True)
    order = np.argsort(tie, kind="stable")
    starts = np.flatnonzero(np.diff(tie[order], prepend=-1))
    sizes = np.add.reduceat(weights[:, order], starts, axis=1) if len(values) else weights
    return (np.cumsum(sizes, axis=1) - sizes + (sizes + 1) / 2)[:, tie]
