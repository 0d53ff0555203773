"""What streams of images tell of a drift detector: how long they ran, whether they did harm, and who noticed."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from ..imaging.corruptions import SEVERITIES
from .drift import MMDTest, OnlineMMD
from .drift_runs import Streams, achieved_run_length, follow, jackknife, rows_of, separability

log = logging.getLogger(__name__)
CLEAN = "clean"
# AUC-ROC of separability in the thesis, tables 10 to 12; its tables 10 and 11 do not state the severity.
THESIS_WINDOWS = {2: 0.85, 5: 0.92, 10: 0.98, 15: 0.90, 20: 0.88}
THESIS_RUN_TIMES = {32: 0.90, 64: 0.95, 128: 0.98, 256: 0.98}
THESIS_DEFOCUS = {2: 0.84, 3: 0.92, 4: 0.98}
# Figure 61 of the thesis: most runs of fixed and of not fixed cells, and the AUC-ROC that tells them apart.
THESIS_FIXED = {"fixed": 7, "not fixed": 4}
THESIS_FIXED_AUC = 0.91


class Condition(NamedTuple):
    """What test images went through: `family` and `severity` of a corruption, or the name of a lab error (severity 0).

    `kind` is clean, corruption or lab error. values M K D: what a stream shows of each image; images: their table, M
    rows in the same order, with the relative `<readout> error` of each readout, pearson/r, and control/r if measured.
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
    offline: MMDTest | None,
    conditions: Sequence[Condition],
    streams: np.ndarray,
    readouts: Sequence[str],
    tolerance: float,
) -> pd.DataFrame:
    """A row per condition and stream (R L, indices of images): run length, alarm of both detectors, excess error, harm.

    The first condition is the clean one. The excess of a readout is the stream's mean relative error less that of the
    clean images of the same fields; harmful where any is above `tolerance`. The offline test, if asked, is of the
    detector's reference, and given as many observations from the stream's start as the online window holds.
    """
    columns = [f"{name} error" for name in readouts]
    clean = conditions[0].images[columns].to_numpy()
    rows = []
    for condition in conditions:
        found = follow(detector, condition.values, streams)
        errors = condition.images[columns].to_numpy()
        # A field that has no true object in one of both is left out of both.
        known = np.isfinite(errors) & np.isfinite(clean)
        mean = _mean_along(np.where(known, errors - clean, np.nan)[streams])
        table = pd.DataFrame(
            {"condition": condition.name, "kind": condition.kind, "family": condition.family}
            | {"severity": condition.severity, "stream": np.arange(len(streams)), "run length": found.lengths}
            | {"alarm": found.alarmed, "corrupted": condition.name != CLEAN}
        )
        if offline is not None:
            seen = [rows_of(condition.values[stream])[: detector.window] for stream in streams]
            table["offline alarm"] = [offline.test(detector.project(rows)).drift for rows in seen]
        if "control/r" in condition.images:
            table["control r"] = pd.DataFrame(condition.images["control/r"].to_numpy()[streams]).mean(axis=1)
        table[[f"excess {name} error" for name in readouts]] = mean
        rows.append(table.assign(harmful=(mean > tolerance).any(axis=1)))
    return pd.concat(rows, ignore_index=True)


def condition_table(
    streams: pd.DataFrame,
    conditions: Sequence[Condition],
    readouts: Sequence[str],
    left: Sequence[pd.DataFrame] = (),
) -> pd.DataFrame:
    """A row per condition: errors of the readouts, harmful and alarmed shares of its streams, separability.

    `left` are tables like `streams`, each without one group of wells (`Streams.left`): they give the intervals.
    """
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
        alarms = [_share(table, table["condition"] == condition.name) for table in left]
        low, high = jackknife(own["alarm"].mean(), alarms)
        row |= {"harmful": own["harmful"].mean(), "alarm": own["alarm"].mean(), "alarm low": low, "alarm high": high}
        row |= {"median run": float(np.median(lengths)), "offline alarm": own["offline alarm"].mean()}
        auc = np.nan if condition.name == CLEAN else separability(clean, lengths)
        rows.append(row | {"AUC against clean": auc, "images": len(images), "wells": images["group"].nunique()})
    return pd.DataFrame(rows)


def harm_and_alarm(streams: pd.DataFrame, left: Sequence[pd.DataFrame] = ()) -> pd.DataFrame:
    """Counts of streams with and without an alarm: clean, corrupted but harmless, harmful; `left` as above.

    Beside each, where it was measured, r of the organelle without contrast, which no model can see.
    """
    kinds: dict[str, Callable[[pd.DataFrame], pd.Series]] = {
        "harmful": lambda table: table["harmful"],
        "corrupted, harmless": lambda table: table["corrupted"] & ~table["harmful"],
        "clean": lambda table: ~table["corrupted"],
    }
    rows = []
    for name, chosen in kinds.items():
        own = streams[chosen(streams)]
        alarms, share = int(own["alarm"].sum()), _share(streams, chosen(streams))
        low, high = jackknife(share, [_share(table, chosen(table)) for table in left])
        row = {"streams": name, "alarm": alarms, "no alarm": len(own) - alarms}
        row |= {"share with alarm": share, "share with alarm low": low, "share with alarm high": high}
        rows.append(row | ({"control r": own["control r"].mean()} if "control r" in own else {}))
    return pd.DataFrame(rows)


def finds(streams: pd.DataFrame, label: str, left: Sequence[pd.DataFrame] = ()) -> dict[str, float]:
    """AUC of minus the run length for the column `label` over all streams, with its interval; `left` as above.

    NaN where all streams are of one kind.
    """

    def auc(table: pd.DataFrame) -> float:
        own, lengths = table[label].to_numpy(bool), table["run length"].to_numpy()
        return np.nan if own.all() or not own.any() else separability(lengths[~own], lengths[own])

    return _with_interval(auc(streams), [auc(table) for table in left])


def fixed_or_not(streams: pd.DataFrame, left: Sequence[pd.DataFrame] = ()) -> pd.DataFrame:
    """Figure 61 of the thesis: runs along fixed (clean) and living cells, and the AUC that tells both apart."""
    both = [table[table["condition"].isin([CLEAN, "not fixed"])] for table in (streams, *left)]
    rows: list[dict[str, Any]] = []
    for cells, own in (("fixed", both[0][~both[0]["corrupted"]]), ("not fixed", both[0][both[0]["corrupted"]])):
        row = {
            "cells": cells,
            "median run": float(own["run length"].median()),
            "run in the thesis": THESIS_FIXED[cells],
        }
        row |= {"alarm": own["alarm"].mean(), "harmful": own["harmful"].mean()}
        rows.append(row | ({"control r": own["control r"].mean()} if "control r" in own else {}))
    rows[1] |= finds(both[0], "corrupted", both[1:]) | {"AUC in the thesis": THESIS_FIXED_AUC}
    return pd.DataFrame(rows)


def separability_table(
    detector: OnlineMMD,
    reference: np.ndarray,
    clean: np.ndarray,
    drifted: Mapping[int, np.ndarray],
    streams: Streams,
    windows: Sequence[int],
    run_times: Sequence[float],
    severity: int,
    seed: int = 0,
) -> pd.DataFrame:
    """AUC-ROC of minus the run length, clean against defocused, by window, run time and severity: tables 10 to 12.

    clean and drifted (by severity) M K D: embeddings of the same images. Windows and run times are compared at
    `severity`; other detectors than the fitted one are fitted on the same reference (N D). Beside each the
    in-control run length.
    """
    wanted: list[tuple[str, float, int, float, int, Mapping[Any, float]]] = [
        ("window", window, window, detector.expected_run_time, severity, THESIS_WINDOWS) for window in windows
    ]
    wanted += [("expected run time", time, detector.window, time, severity, THESIS_RUN_TIMES) for time in run_times]
    own = (detector.window, detector.expected_run_time)
    wanted += [("defocus severity", level, *own, level, THESIS_DEFOCUS) for level in drifted]
    orders, number = (streams.shown, *streams.left), len(streams.shown)
    rows, fitted = [], {own: (detector, achieved_run_length(detector, clean, number, seed))}
    undisturbed: dict[tuple[int, float], list[np.ndarray]] = {}
    for varied, value, window, run_time, level, thesis in wanted:
        row = {"varied": varied, "value": value, "AUC in the thesis": thesis.get(value, np.nan)}
        if len(reference) < 2 * window + 1:
            log.warning("window %d needs %d reference images: left out", window, 2 * window + 1)
            continue
        if (window, run_time) not in fitted:
            other = OnlineMMD(run_time, window, None, detector.seed, detector.median_scale, detector.components)
            other.fit(reference)
            fitted[window, run_time] = other, achieved_run_length(other, clean, number, seed)
        other, achieved = fitted[window, run_time]
        if (window, run_time) not in undisturbed:
            undisturbed[window, run_time] = [follow(other, clean, order).lengths for order in orders]
        disturbed = [follow(other, drifted[level], order).lengths for order in orders]
        aucs = [separability(*pair) for pair in zip(undisturbed[window, run_time], disturbed, strict=True)]
        row |= _with_interval(aucs[0], aucs[1:])
        row |= {"in-control run": achieved.mean, "SE": achieved.standard_error}
        rows.append(row | {"target": run_time, "alarms": achieved.alarms})
    return pd.DataFrame(rows)


def _with_interval(auc: float, left: Sequence[float]) -> dict[str, float]:
    low, high = jackknife(auc, left)
    return {"AUC": auc, "AUC low": low, "AUC high": high}


def _share(streams: pd.DataFrame, chosen: pd.Series) -> float:
    """The share with an alarm of those chosen; NaN of none."""
    return float(streams.loc[chosen, "alarm"].mean()) if chosen.any() else np.nan


def _mean_along(values: np.ndarray) -> np.ndarray:
    """Means over axis 1 of R L ..., NaN left out, 0 where nothing is left."""
    counted = np.isfinite(values).sum(axis=1)
    return np.divide(np.nansum(values, axis=1), counted, out=np.zeros(counted.shape), where=counted > 0)


def _mean(images: pd.DataFrame, column: str) -> float:
    return float(images[column].mean())
