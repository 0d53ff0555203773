"""How well readouts of predictions agree with those of true images: correlation, slope, bias, limits, concordance."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from ..metrics.readouts import READOUTS, SIDES
from .correlation import Spearman
from .statistics import resample_weights

STATISTICS = ("Pearson", "Spearman", "slope", "concordance", "bias", "lower limit", "upper limit")
OVER = ("images", "wells")
FEWEST = 3  # pairs: two always lie on a line
CONSTANT = 1e-12  # spread below this share of the largest value (of the whole table's, in a resample) is rounding


def agreement(
    predicted: Any,
    true: Any,
    groups: Any = None,
    over: str = "images",
    resamples: int = 2000,
    seed: int = 0,
    level: float = 0.95,
) -> dict[str, Any]:
    """Compare a readout of predictions with that of the true images, one value per image, NaN = nothing found.

    Gives each of `STATISTICS` with `<name> low` and `<name> high`:

    - Pearson; Spearman (ties at their mean rank);
    - slope: least squares of predicted on true, so that below 1 the prediction's range is compressed (noise in the
      true values lowers it as well);
    - bias: mean of predicted - true; lower and upper limit: bias -+ 1.96 SD of the differences, SD with n - 1 (Bland
      & Altman 1986);
    - concordance: Lin's, 2 s_tp / (s_t2 + s_p2 + (m_t - m_p)2) with moments over n (Lin 1989).

    Intervals: percentiles of a bootstrap that resamples `groups` (wells), then the images in each; without groups every
    image is its own. Few wells make them short: of simulated 95 % intervals of bias and limits, 86 and 76 % held the
    truth with 4 wells, 94 and 89 % with 12. over="wells": each well's mean over its images with both values is one
    value, and wells alone are resampled.

    Also: images and wells compared; left out for NaN, "nothing predicted", "nothing true" (an image can be in both);
    "reason", words for every NaN: fewer than 3 values (all), a constant side (the bias and its limits stay), one well
    (no intervals); and for resamples left out since a side is constant in them. Raises ValueError for lengths that
    differ, infinite values, or an image without a group.
    """
    pairs = paired(predicted, true, groups, over)
    missing = {
        f"nothing {side}": int(np.isnan(np.asarray(values, dtype=float)).sum())
        for side, values in zip(SIDES, (predicted, true), strict=True)
    }
    results: dict[str, Any] = {key: np.nan for name in STATISTICS for key in (name, f"{name} low", f"{name} high")}
    results |= {"images": int(pairs["images"].sum()), "wells": pairs["group"].nunique()} | missing
    if len(pairs) < FEWEST:
        return results | {"reason": f"{len(pairs)} {over} have both values, {FEWEST} are needed"}
    reasons = [f"{side} is constant" for side in SIDES if _spread(pairs[side].to_numpy()) == 0]
    results |= dict(zip(STATISTICS, _statistics(pairs, np.ones((1, len(pairs))))[0].tolist(), strict=True))
    if results["wells"] < 2:
        return results | {"reason": "; ".join([*reasons, "one well: no intervals"])}
    draws = np.concatenate(
        [_statistics(pairs, block) for block in resample_weights(pairs, "group", "id", resamples, seed)]
    )
    undefined = np.isnan(draws).any(axis=1).mean()
    if not reasons and undefined > 0.01:
        reasons = [f"constant in {100 * undefined:.0f} % of resamples, which are left out of intervals"]
    for name, column in zip(STATISTICS, draws.T, strict=True):
        if np.isfinite(column).any():
            ends = np.nanquantile(column, [(1 - level) / 2, (1 + level) / 2])
            results[f"{name} low"], results[f"{name} high"] = map(float, ends)
    return results | {"reason": "; ".join(reasons)}


def paired(predicted: Any, true: Any, groups: Any = None, over: str = "images") -> pd.DataFrame:
    """Make the pairs that `agreement` compares, without NaN: columns predicted, true, group, images (how many), id."""
    if over not in OVER:
        raise ValueError(f"over is {over!r}: agreement is measured over {' or '.join(OVER)}")
    first, second = (np.asarray(values, dtype=float) for values in (predicted, true))
    if first.ndim != 1 or first.shape != second.shape:
        raise ValueError(f"predicted is {first.shape}, true {second.shape}: give one value each per image")
    if np.isinf(first).any() or np.isinf(second).any():
        raise ValueError("predicted or true hold infinite values: a readout is finite, or NaN where nothing was found")
    if groups is not None and len(groups) != len(first):
        raise ValueError(f"{len(groups)} groups for {len(first)} images: give the well of every image")
    table = pd.DataFrame({"predicted": first, "true": second, "images": 1})
    table["group"] = np.arange(len(table)) if groups is None else np.asarray(groups)
    if empty := int(table["group"].isna().sum()):
        raise ValueError(f"{empty} images have no group: give the well (else the field) of every image")
    table = table.dropna(subset=list(SIDES))
    if over == "wells":
        table = table.groupby("group", as_index=False).agg({"predicted": "mean", "true": "mean", "images": "sum"})
    return table.assign(id=np.arange(len(table)))


def agreement_table(
    images: pd.DataFrame,
    metric: str = "readouts",
    names: Sequence[str] = READOUTS,
    over: str = "images",
    resamples: int = 2000,
    seed: int = 0,
) -> pd.DataFrame:
    """Give a row of `agreement` per readout of a table of images.

    `images` is that of `PhenotypeMetrics`: group and `<metric>/<name>_predicted`, `<metric>/<name>_true`.
    """
    rows = []
    for name in names:
        predicted, true = sides(images, metric, name)
        found = agreement(predicted, true, images["group"], over, resamples, seed)
        rows.append({"readout": name, "over": over} | found)
    return pd.DataFrame(rows)


def sides(images: pd.DataFrame, metric: str, name: str) -> tuple[pd.Series, pd.Series]:
    """Pick a readout's predicted and true column; raises KeyError that lists the metrics there are."""
    columns = [f"{metric}/{name}_{side}" for side in SIDES]
    if not set(columns) <= set(images):
        there = sorted(column.removesuffix("_true") for column in images if str(column).endswith("_true"))
        raise KeyError(f"the table of images has no {columns[0]!r}; it has {', '.join(there) or 'no readouts'}")
    return images[columns[0]], images[columns[1]]


def _spread(values: np.ndarray) -> float:
    """Standard deviation, 0 where it is nothing but rounding."""
    spread = float(values.std())
    return spread if spread > CONSTANT * np.abs(values).max() else 0.0


def _statistics(pairs: pd.DataFrame, weights: np.ndarray) -> np.ndarray:
    """The `STATISTICS` (R 7) under weights (R N) that say how often each pair counts."""
    t, p = (pairs[side].to_numpy() for side in ("true", "predicted"))
    d = p - t
    # Centred and scaled by the whole table, so that nothing cancels in the sums of squares.
    shifts, scales = [values.mean() for values in (t, p, d)], [_spread(values) or 1.0 for values in (t, p, d)]
    a, b, c = ((values - m) / s for values, m, s in zip((t, p, d), shifts, scales, strict=True))
    n = weights.sum(axis=1)
    moments = weights @ np.stack([a, b, c, a * a, b * b, c * c, a * b], axis=1) / n[:, None]
    mean_a, mean_b, mean_c, aa, bb, cc, ab = moments.T
    var_a, var_b, var_c, cov = aa - mean_a**2, bb - mean_b**2, cc - mean_c**2, ab - mean_a * mean_b
    constant = (var_a < CONSTANT) | (var_b < CONSTANT)
    cov[constant] = var_a[constant] = var_b[constant] = np.nan
    bias = shifts[2] + scales[2] * mean_c
    reach = 1.96 * scales[2] * np.sqrt(np.maximum(var_c, 0) * n / (n - 1))
    both = scales[0] * scales[1] * cov
    spread = scales[0] ** 2 * var_a + scales[1] ** 2 * var_b
    return np.stack(
        [
            np.clip(cov / np.sqrt(var_a * var_b), -1, 1),
            np.where(constant, np.nan, Spearman("true", "predicted")(pairs, weights)),
            scales[1] / scales[0] * cov / var_a,
            2 * both / (spread + bias**2),
            bias,
            bias - reach,
            bias + reach,
        ],
        axis=1,
    )
