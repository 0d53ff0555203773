"""Assay quality: how well positive and negative control wells are told apart, before and after a model."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from ..imaging.quality import NORMAL_MAD
from .statistics import holm

MIN_CONTROLS = 4  # wells of each kind below which a spread means nothing
FEW_CONTROLS = 8  # wells of each kind below which the change gets no interval: a bootstrap of fewer is too narrow
ALPHA = 0.05
STATISTICS = ("Z'", "robust Z'", "SSMD", "robust SSMD")


def z_prime(positive: np.ndarray, negative: np.ndarray, robust: bool = False) -> np.ndarray:
    """Z' = 1 - 3 (s_p + s_n) / |m_p - m_n| over the last axis: 1 at best, above 0.5 an excellent assay.

    m and s are mean and sample standard deviation, or with `robust` median and 1.4826 x median absolute deviation.
    Equal centres give -inf (no spread at all: NaN). Raises ValueError for fewer than two wells of a kind or NaN.
    Source: Zhang, Chung & Oldenburg 1999, J. Biomol. Screen. 4, eq. 6.
    """
    (m_p, s_p), (m_n, s_n) = _moments(positive, robust), _moments(negative, robust)
    with np.errstate(divide="ignore", invalid="ignore"):
        return 1 - 3 * (s_p + s_n) / np.abs(m_p - m_n)


def ssmd(positive: np.ndarray, negative: np.ndarray, robust: bool = False) -> np.ndarray:
    """SSMD = (m_p - m_n) / sqrt(s_p^2 + s_n^2) over the last axis, for independent groups; m and s as in `z_prime`.

    No spread at all gives an infinite value (equal centres: NaN). Raises ValueError as `z_prime` does. Source: Zhang
    2007, Genomics 89, 552 (the estimate by sample moments, and the robust one by median and MAD).
    """
    (m_p, s_p), (m_n, s_n) = _moments(positive, robust), _moments(negative, robust)
    with np.errstate(divide="ignore", invalid="ignore"):
        return (m_p - m_n) / np.sqrt(s_p**2 + s_n**2)


def assay_quality(wells: pd.DataFrame, readouts: Sequence[str], n_resamples: int, seed: int) -> pd.DataFrame:
    """Z' and SSMD of each plate, positive control and readout before and after, with the change.

    `wells` has a row per well: plate, role, `input_<readout>`, `restored_<readout>`, and compound and concentration
    where positive controls differ by them. A change above 0 is a better separation (SSMD: in the direction it had
    before). Its interval (95 %) resamples wells within each kind, the same wells before and after; p inverts it, Holm
    over all rows. Where there are too few wells, `verdict` says so.
    """
    rows = []
    kinds = [name for name in ("compound", "concentration", "unit") if name in wells]
    for plate, own in wells.groupby("plate", sort=False):
        positives = own[own["role"] == "positive"]
        negative = own[own["role"] == "negative"]
        groups = positives.groupby(kinds, sort=False, dropna=False) if kinds and len(positives) else [((), positives)]
        for key, positive in groups:
            name = " ".join(f"{part:g}" if isinstance(part, float) else str(part) for part in key if pd.notna(part))
            for readout in readouts:
                for row in _judged(positive, negative, readout, n_resamples, seed):
                    rows.append({"plate": plate, "positive control": name, "readout": readout.replace("_", " "), **row})
    table = pd.DataFrame(rows)
    table["p Holm"] = holm(table["p"].to_numpy(dtype=float))
    for place in np.flatnonzero(table["verdict"] == ""):
        entry = table.iloc[place]
        clear = entry["p Holm"] < ALPHA and (entry["change low"] > 0 or entry["change high"] < 0)
        n = f"n = {entry['negative wells']} + {entry['positive wells']} wells"
        table.loc[place, "verdict"] = (
            f"not distinguished, {n}" if not clear else "better after" if entry["change"] > 0 else "worse after"
        )
    wells_columns = ["negative wells", "positive wells"]
    return table[[name for name in table if name not in ("verdict", *wells_columns)] + ["verdict", *wells_columns]]


def _judged(
    positive: pd.DataFrame, negative: pd.DataFrame, readout: str, n_resamples: int, seed: int
) -> list[dict[str, object]]:
    """A row per statistic, or one row that says why there is none."""
    both = [f"input_{readout}", f"restored_{readout}"]
    p, n = (kind[both].dropna().to_numpy(dtype=float).T for kind in (positive, negative))
    counts = {"negative wells": n.shape[1], "positive wells": p.shape[1]}
    nothing = dict.fromkeys(("before", "after", "change", "change low", "change high", "p"), np.nan)
    if min(counts.values()) < MIN_CONTROLS:
        said = f"not given: {n.shape[1]} negative and {p.shape[1]} positive wells, {MIN_CONTROLS} of each needed"
        return [{"statistic": "Z', SSMD", **nothing, **counts, "verdict": said}]
    rng = np.random.default_rng(seed)
    few = min(counts.values()) < FEW_CONTROLS
    drawn_p, drawn_n = (x[:, rng.integers(x.shape[1], size=(0 if few else n_resamples, x.shape[1]))] for x in (p, n))
    rows = []
    for name in STATISTICS:
        statistic, robust = (z_prime if "Z'" in name else ssmd), name.startswith("robust")
        before, after = statistic(p, n, robust)
        if not np.isfinite([before, after]).all():
            said = "not given: the controls are all alike"
            rows.append({"statistic": name, **nothing, **counts, "verdict": said})
            continue
        sign = np.sign(before) if statistic is ssmd and before else 1.0
        row = nothing | {"statistic": name, "before": before, "after": after, "change": sign * (after - before)}
        said = f"not judged: fewer than {FEW_CONTROLS} wells of a kind"
        if not few:
            with np.errstate(invalid="ignore"):
                draws = sign * np.subtract(*statistic(drawn_p, drawn_n, robust)[::-1])
            draws = draws[np.isfinite(draws)]
            row["change low"], row["change high"] = np.quantile(draws, [0.025, 0.975])
            row["p"] = min(1.0, 2 * (min((draws <= 0).sum(), (draws >= 0).sum()) + 1) / (len(draws) + 1))
            said = ""
        rows.append({"statistic": name, **row, **counts, "verdict": said})
    return rows


def _moments(values: np.ndarray, robust: bool) -> tuple[np.ndarray, np.ndarray]:
    values = np.asarray(values, dtype=float)
    if values.shape[-1] < 2 or np.isnan(values).any():
        raise ValueError(
            f"controls need two wells or more and no NaN; here are {values.shape[-1]} wells: drop or add some"
        )
    if not robust:
        return values.mean(-1), values.std(-1, ddof=1)
    centre = np.median(values, axis=-1)
    return centre, NORMAL_MAD * np.median(np.abs(values - centre[..., None]), axis=-1)
