"""Intervals and comparisons whose unit is the well: hierarchical and paired bootstrap, Holm's correction."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

import numpy as np
import pandas as pd

BLOCK_CELLS = 4_000_000  # resamples x rows held at once: bounds memory on a whole screen


class Statistic(Protocol):
    """A number of a weighted table: called with weights (R N) it gives R values, NaN where it is not defined."""

    def columns(self) -> list[str]: ...

    def __call__(self, table: pd.DataFrame, weights: np.ndarray) -> np.ndarray: ...


@dataclass(frozen=True)
class Ratio:
    """Pooled ratio of two weighted sums of columns (name -> coefficient); no denominator means the number of rows.

    A row with NaN in any of the columns is left out of both sums; nothing left gives NaN.
    """

    numerator: Mapping[str, float]
    denominator: Mapping[str, float] = field(default_factory=dict)

    def columns(self) -> list[str]:
        return list(dict.fromkeys([*self.numerator, *self.denominator]))

    def __call__(self, table: pd.DataFrame, weights: np.ndarray) -> np.ndarray:
        complete = table[self.columns()].notna().all(axis=1).to_numpy()
        top = _combine(table, self.numerator)[complete]
        bottom = _combine(table, self.denominator)[complete] if self.denominator else np.ones(complete.sum())
        below = weights[:, complete] @ bottom
        above = weights[:, complete] @ top
        return np.divide(above, below, out=np.full(len(weights), np.nan), where=below != 0)


def mean_of(column: str) -> Ratio:
    """Mean of one column over the rows where it is defined."""
    return Ratio({column: 1.0})


def pooled_f1(prefix: str) -> Ratio:
    """F1 of summed counts, 2 TP / (2 TP + FP + FN), from the columns `<prefix>tp`, `<prefix>fp` and `<prefix>fn`."""
    tp, fp, fn = (f"{prefix}{part}" for part in ("tp", "fp", "fn"))
    return Ratio({tp: 2.0}, {tp: 2.0, fp: 1.0, fn: 1.0})


class Interval(NamedTuple):
    """An estimate with its bootstrap limits; the limits are NaN where fewer than two units define the statistic."""

    estimate: float
    low: float
    high: float


class Difference(NamedTuple):
    """First minus second with bootstrap limits, two-sided p, and the rows and units it rests on."""

    estimate: float
    low: float
    high: float
    p: float
    rows: int
    units: int


def hierarchical_bootstrap(
    table: pd.DataFrame,
    statistic: Statistic,
    unit: str = "group",
    within: str = "id",
    n: int = 2000,
    seed: int = 0,
    level: float = 0.95,
) -> Interval:
    """Percentile interval of a statistic when units (wells), then what is inside them (images), are resampled.

    Rows that share `unit` and `within` are drawn together. The draw does not depend on the order of the rows.
    Raises ValueError on an empty unit. Source: Davison & Hinkley 1997, section 3.8 (both stages with replacement).
    """
    estimate = _plain(table, statistic)
    if _defined_units(table, statistic, unit) < 2:
        return Interval(estimate, np.nan, np.nan)
    draws = np.concatenate([statistic(table, weights) for weights in resample_weights(table, unit, within, n, seed)])
    return Interval(estimate, *_limits(draws, level))


def paired_bootstrap(
    first: pd.DataFrame,
    second: pd.DataFrame,
    statistic: Statistic,
    unit: str = "group",
    within: str = "id",
    n: int = 2000,
    seed: int = 0,
    level: float = 0.95,
) -> Difference:
    """Difference of a statistic between two methods judged on the same images, over the same resamples.

    Images for which either method lacks a value are left out of both. p inverts the percentile interval: twice the
    share of resamples on the other side of zero, with one added to count and total, so at least 2/(n+1).
    Raises ValueError if an image is missing from a table, stands twice in one or has another unit in the other.
    """
    estimate, draws, rows, units = _paired_draws(first, second, statistic, unit, within, n, seed)
    if units < 2:
        return Difference(estimate, np.nan, np.nan, np.nan, rows, units)
    tail = min(int((draws <= 0).sum()), int((draws >= 0).sum()))
    p = min(1.0, 2 * (tail + 1) / (len(draws) + 1))
    return Difference(estimate, *_limits(draws, level), p, rows, units)


def equivalence(
    first: pd.DataFrame,
    second: pd.DataFrame,
    statistic: Statistic,
    margin: float,
    unit: str = "group",
    within: str = "id",
    n: int = 2000,
    seed: int = 0,
) -> float:
    """p of two one-sided tests that the difference of `paired_bootstrap` lies within +-margin; NaN below two units.

    The larger of the shares of resamples at or beyond either margin, with one added to count and total: below 0.05
    where the 90 % interval lies inside. Source: Schuirmann 1987 (TOST), on the percentile bootstrap.
    """
    _, draws, _, units = _paired_draws(first, second, statistic, unit, within, n, seed)
    beyond = max(int((draws <= -margin).sum()), int((draws >= margin).sum()))
    return (beyond + 1) / (len(draws) + 1) if units >= 2 else np.nan


def holm(pvalues: list[float] | np.ndarray) -> np.ndarray:
    """Holm's adjusted p-values, in the order given; NaN stays NaN and does not count in the family (Holm 1979)."""
    p = np.asarray(pvalues, dtype=float)
    adjusted = np.full(p.shape, np.nan)
    order = np.argsort(p)[: int(np.isfinite(p).sum())]
    factors = np.arange(len(order), 0, -1)
    adjusted[order] = np.minimum(np.maximum.accumulate(p[order] * factors), 1.0)
    return adjusted


def resample_weights(table: pd.DataFrame, unit: str, within: str, n: int, seed: int) -> Iterator[np.ndarray]:
    """Blocks of row weights (R N): how often each row is in each resample."""
    units, n_units = _unit_codes(table, unit)
    clusters = table.groupby([unit, within], sort=True, dropna=False).ngroup().to_numpy()
    members = [np.unique(clusters[units == code]) for code in range(n_units)]
    rng = np.random.default_rng(seed)
    size = max(1, BLOCK_CELLS // max(1, len(table)))
    for start in range(0, n, size):
        block = min(size, n - start)
        drawn = rng.multinomial(n_units, np.full(n_units, 1 / n_units), size=block)
        weights = np.empty((block, clusters.max() + 1))
        for code, inside in enumerate(members):
            # Each copy of a drawn unit draws its own images: together they are one multinomial of times x size draws.
            weights[:, inside] = rng.multinomial(drawn[:, code] * len(inside), np.full(len(inside), 1 / len(inside)))
        yield weights[:, clusters]


def _paired_draws(
    first: pd.DataFrame, second: pd.DataFrame, statistic: Statistic, unit: str, within: str, n: int, seed: int
) -> tuple[float, np.ndarray, int, int]:
    """The difference, its finite resamples (none below two units), and the rows and units it rests on."""
    first, second = _aligned(first, second, unit, within)
    columns = statistic.columns()
    complete = (first[columns].notna() & second[columns].notna()).all(axis=1)
    first, second = first[complete], second[complete]
    estimate = _plain(first, statistic) - _plain(second, statistic)
    units = min(_defined_units(table, statistic, unit) for table in (first, second))
    if units < 2:
        return estimate, np.empty(0), len(first), units
    blocks = resample_weights(first, unit, within, n, seed)
    draws = np.concatenate([statistic(first, weights) - statistic(second, weights) for weights in blocks])
    return estimate, draws[np.isfinite(draws)], len(first), units


def _aligned(first: pd.DataFrame, second: pd.DataFrame, unit: str, within: str) -> tuple[pd.DataFrame, pd.DataFrame]:
    for table in (first, second):
        twice = table.loc[table[within].duplicated(), within]
        if len(twice):
            raise ValueError(f"{within} {twice.iloc[0]!r} stands twice in a table to be paired: one row per {within}")
    alone = sorted(set(first[within]) ^ set(second[within]))
    if alone:
        raise ValueError(
            f"{len(alone)} values of {within} stand in one table only (first: {alone[0]!r}): judge both on one split"
        )
    first, second = (table.sort_values(within).reset_index(drop=True) for table in (first, second))
    moved = first.loc[first[unit] != second[unit], within]
    if len(moved):
        raise ValueError(f"{within} {moved.iloc[0]!r} has another {unit} in each table: judge both on the same index")
    return first, second


def _combine(table: pd.DataFrame, coefficients: Mapping[str, float]) -> np.ndarray:
    return table[list(coefficients)].to_numpy(dtype=float) @ np.array(list(coefficients.values()), dtype=float)


def _unit_codes(table: pd.DataFrame, unit: str) -> tuple[np.ndarray, int]:
    empty = int(table[unit].isna().sum())
    if empty:
        raise ValueError(f"{empty} rows have no {unit}: fill the column (the well, else the field) in the index table")
    codes, names = pd.factorize(table[unit], sort=True)
    return codes, len(names)


def _defined_units(table: pd.DataFrame, statistic: Statistic, unit: str) -> int:
    if table.empty:
        return 0
    codes, n_units = _unit_codes(table, unit)
    return int(np.isfinite(statistic(table, (codes == np.arange(n_units)[:, None]).astype(float))).sum())


def _plain(table: pd.DataFrame, statistic: Statistic) -> float:
    return float(statistic(table, np.ones((1, len(table))))[0])


def _limits(draws: np.ndarray, level: float) -> tuple[float, float]:
    low, high = np.nanquantile(draws, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)
