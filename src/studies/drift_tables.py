"""What streams of images tell of a drift detector: how long they ran, whether they did harm, and who noticed."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from ..imaging.corruptions import SEVERITIES
from .drift import MMDTest, OnlineMMD
from .drift_runs import achieved_run_length, follow, separability

log = logging.getLogger(__name__)
CLEAN = "clean"
# AUC-ROC of separability in the thesis, tables 10 to 12; its tables 10 and 11 do not state the severity.
THESIS_WINDOWS = {2: 0.85, 5: 0.92, 10: 0.98, 15: 0.90, 20: 0.88}
THESIS_RUN_TIMES = {32: 0.90, 64: 0.95, 128: 0.98, 256: 0.98}
THESIS_DEFOCUS = {2: 0.84, 3: 0.92, 4: 0.98}
RESAMPLES = 1000


class Condition(NamedTuple):
    """What test images went through: `family` and `severity` of a corruption, or the name of a lab error (severity 0).

    `kind` is clean, corruption or lab error. values M D: an embedding per image; images: their table, M rows in the
    same order, with the relative `<readout> error` of each readout, pearson/r, and control/r where it was measured.
    """

    kind: str
    family: str
    severity: int
    values: np.ndarray
    images: pd.DataFrame

    @property
    def name(self) -> str:
        if not self.severity:
            return self.family.replace("_", " ")
        signed = min(SEVERITIES[self.family]) < 0
        return f"{self.family} {self.severity:{'+' if signed else ''}d}"


def image_errors(crops: pd.DataFrame, fields: Mapping[str, str], readouts: Sequence[str]) -> pd.DataFrame:
    """A row per image (field), by its id: each readout summed over its crops, |predicted - true| / true.

    `crops` is the table of `judge`, `fields` the field of each crop's id. NaN where the true sum is 0. Pearson's r, and
    that of the control, are means over crops. Raises ValueError where a column is missing.
    """
    sums = {f"{name}_{side}": f"readouts/{name}_{side}" for name in readouts for side in ("predicted", "true")}
    means = {name: name for name in ("pearson/r", "control/r") if name in crops or name == "pearson/r"}
    if missing := sorted({"id", "group", *sums.values(), *means} - set(crops)):
        raise ValueError(f"the table of images lacks {', '.join(missing)}: judge with metrics=translation")
    by_field = crops.assign(field=crops["id"].map(dict(fields))).groupby("field", sort=True)
    images = by_field["group"].first().to_frame()
    for name, column in sums.items():
        images[name] = by_field[column].sum()
    for name in readouts:
        true = images[f"{name}_true"]
        images[f"{name} error"] = (images[f"{name}_predicted"] - true).abs() / true.where(true > 0)
    for name in means:
        images[name] = by_field[name].mean()
    return images.rename_axis("id").reset_index()


def watch(
    detector: OnlineMMD,
    offline: MMDTest,
    conditions: Sequence[Condition],
    streams: np.ndarray,
    readouts: Sequence[str],
    tolerance: float,
) -> pd.DataFrame:
    """A row per condition and stream (R L, indices of images): run length, alarm of both detectors, excess error, harm.

    The first condition is the clean one. The excess of a readout is the stream's mean relative error less that of the
    clean images of the same fields; harmful where any is above `tolerance`. The offline test is given as many images
    from the stream's start as the online window holds.
    """
    columns = [f"{name} error" for name in readouts]
    clean = conditions[0].images[columns].to_numpy()
    rows = []
    for condition in conditions:
        found = follow(detector, condition.values, streams)
        errors = condition.images[columns].to_numpy()
        # A field that has no true object in one of both is left out of both.
        known = np.isfinite(errors) & np.isfinite(clean)
        excess = np.where(known, errors - clean, np.nan)[streams]
        counted = np.isfinite(excess).sum(axis=1)
        mean = np.divide(np.nansum(excess, axis=1), counted, out=np.zeros(counted.shape), where=counted > 0)
        noticed = [offline.test(condition.values[stream[: detector.window]]).drift for stream in streams]
        table = pd.DataFrame(
            {"condition": condition.name, "kind": condition.kind, "family": condition.family}
            | {"severity": condition.severity, "stream": np.arange(len(streams)), "run length": found.lengths}
            | {"alarm": found.alarmed, "offline alarm": noticed}
        )
        table[[f"excess {name} error" for name in readouts]] = mean
        rows.append(table.assign(harmful=(mean > tolerance).any(axis=1)))
    return pd.concat(rows, ignore_index=True)


def condition_table(streams: pd.DataFrame, conditions: Sequence[Condition], readouts: Sequence[str]) -> pd.DataFrame:
    """A row per condition: errors of the readouts, harmful and alarmed shares of its streams, separability."""
    cap = int(streams["run length"].max())
    clean = streams.loc[streams["condition"] == CLEAN, "run length"].to_numpy()
    rows = []
    for condition in conditions:
        own, images = streams[streams["condition"] == condition.name], condition.images
        lengths = own["run length"].to_numpy()
        row: dict[str, object] = {
            "condition": condition.name,
            "kind": condition.kind,
            "Pearson r": _mean(images, "pearson/r"),
        }
        if "control/r" in images:
            row["control r"] = _mean(images, "control/r")
        row |= {f"{name} error": _mean(images, f"{name} error") for name in readouts}
        row |= {f"excess {name} error": own[f"excess {name} error"].mean() for name in readouts}
        row |= {"harmful": own["harmful"].mean(), "alarm": own["alarm"].mean()}
        row |= {"median run": float(np.median(lengths)), "offline alarm": own["offline alarm"].mean()}
        auc = np.nan if condition.name == CLEAN else separability(clean, lengths, cap)
        rows.append(row | {"AUC against clean": auc, "images": len(images), "wells": images["group"].nunique()})
    return pd.DataFrame(rows)


def harm_and_alarm(streams: pd.DataFrame) -> pd.DataFrame:
    """Counts of streams with and without an alarm: clean, corrupted but harmless, harmful."""
    corrupted = streams["condition"] != CLEAN
    rows = []
    for name, own in (
        ("harmful", streams[streams["harmful"]]),
        ("corrupted, harmless", streams[corrupted & ~streams["harmful"]]),
        ("clean", streams[~corrupted]),
    ):
        alarms = int(own["alarm"].sum())
        share = alarms / len(own) if len(own) else np.nan
        rows.append({"streams": name, "alarm": alarms, "no alarm": len(own) - alarms, "share with alarm": share})
    return pd.DataFrame(rows)


def finds(streams: pd.DataFrame, label: np.ndarray) -> dict[str, float]:
    """AUC of minus the run length for `label` (one per row): over all streams, and where 95 % of the draws lie.

    A draw is one random choice of wells, which every condition shows once: its AUC is of the conditions in it alone.
    NaN where all streams are of one kind.
    """
    lengths, draws = streams["run length"].to_numpy(), streams["stream"].to_numpy()
    cap = int(lengths.max())

    def auc(rows: np.ndarray) -> float:
        own = label[rows]
        return np.nan if own.all() or not own.any() else separability(lengths[rows][~own], lengths[rows][own], cap)

    values = np.array([auc(draws == draw) for draw in np.unique(draws)])
    low, high = np.nanquantile(values, [0.025, 0.975]) if np.isfinite(values).any() else (np.nan, np.nan)
    return {"AUC": auc(np.ones(len(streams), bool)), "AUC low": float(low), "AUC high": float(high)}


def separability_table(
    detector: OnlineMMD,
    clean: np.ndarray,
    drifted: Mapping[int, np.ndarray],
    streams: np.ndarray,
    windows: Sequence[int],
    run_times: Sequence[float],
    severity: int,
    seed: int = 0,
) -> pd.DataFrame:
    """AUC-ROC of minus the run length, clean against defocused, by window, run time and severity: tables 10 to 12.

    clean and drifted (by severity) M D: embeddings of the same images. Windows and run times are compared at
    `severity`; other detectors than the fitted one are fitted on its reference. Beside each the in-control run length.
    """
    assert detector.reference is not None
    wanted: list[tuple[str, float, int, float, int, Mapping[Any, float]]] = [
        ("window", window, window, detector.expected_run_time, severity, THESIS_WINDOWS) for window in windows
    ]
    wanted += [("expected run time", time, detector.window, time, severity, THESIS_RUN_TIMES) for time in run_times]
    own = (detector.window, detector.expected_run_time)
    wanted += [("defocus severity", level, *own, level, THESIS_DEFOCUS) for level in drifted]
    rows, fitted = [], {own: (detector, achieved_run_length(detector, clean, len(streams), seed))}
    for varied, value, window, run_time, level, thesis in wanted:
        row = {"varied": varied, "value": value, "AUC in the thesis": thesis.get(value, np.nan)}
        if len(detector.reference) < 2 * window + 1:
            log.warning("window %d needs %d reference images: left out", window, 2 * window + 1)
            continue
        if (window, run_time) not in fitted:
            other = OnlineMMD(run_time, window, seed=detector.seed, median_scale=detector.median_scale)
            other.fit(detector.reference)
            fitted[window, run_time] = other, achieved_run_length(other, clean, len(streams), seed)
        other, achieved = fitted[window, run_time]
        undisturbed, disturbed = (follow(other, images, streams).lengths for images in (clean, drifted[level]))
        row |= _auc_over_streams(undisturbed, disturbed, seed) | {
            "in-control run": achieved.mean,
            "SE": achieved.standard_error,
        }
        rows.append(row | {"target": run_time, "alarms": achieved.alarms})
    return pd.DataFrame(rows)


def _auc_over_streams(clean: np.ndarray, drifted: np.ndarray, seed: int) -> dict[str, float]:
    """AUC with the percentile interval of a bootstrap over streams, each with its clean and its drifted run."""
    wins = (clean[:, None] > drifted) + 0.5 * (clean[:, None] == drifted)
    weights = np.random.default_rng(seed).multinomial(len(clean), np.full(len(clean), 1 / len(clean)), RESAMPLES)
    draws = ((weights @ wins) * weights).sum(axis=1) / len(clean) ** 2
    low, high = np.quantile(draws, [0.025, 0.975])
    return {"AUC": float(wins.mean()), "AUC low": float(low), "AUC high": float(high)}


def _mean(images: pd.DataFrame, column: str) -> float:
    return float(images[column].mean())
