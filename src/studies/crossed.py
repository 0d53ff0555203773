"""Checkpoints judged crosswise: each on every set of test images, in one long table, with intervals over wells."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from ..metrics.readouts import READOUTS
from .agreement import CONSTANT, FEWEST
from .judged import NETWORK, comparison_table
from .statistics import Difference, Interval, Statistic, mean_of, resample_weights
from .subject import Subject
from .translation import NULL, OF_SHAPE

Checkpoints = Mapping[str, str | Sequence[str] | None]
PIXELS = "Pearson r"
UNDEFINED = "not defined: a side is constant"
CONTROL = "control/r"  # judged where the model draws the organelle that transmitted light does not show
MAIN = (PIXELS, *(f"{name} r" for name in OF_SHAPE))  # what is compared: the others follow from brightness


@dataclass(frozen=True)
class Correlation:
    """Pearson's r of two columns over weighted rows; NaN for fewer than 3 pairs, or where a side is constant."""

    x: str
    y: str

    def columns(self) -> list[str]:
        return [self.x, self.y]

    def __call__(self, table: pd.DataFrame, weights: np.ndarray) -> np.ndarray:
        values = table[self.columns()].to_numpy(dtype=float)
        known = np.isfinite(values).all(axis=1)
        values, weights = values[known], weights[:, known]
        if len(values) < FEWEST or (values.std(axis=0) <= CONSTANT * np.abs(values).max(axis=0)).any():
            return np.full(len(weights), np.nan)
        a, b = ((values - values.mean(axis=0)) / values.std(axis=0)).T  # so that nothing cancels below
        with np.errstate(invalid="ignore", divide="ignore"):
            moments = weights @ np.stack([a, b, a * a, b * b, a * b], axis=1) / weights.sum(axis=1, keepdims=True)
            mean_a, mean_b, aa, bb, ab = moments.T
            spread = (aa - mean_a**2) * (bb - mean_b**2)
            spread[spread < CONSTANT**2] = np.nan
            return np.clip((ab - mean_a * mean_b) / np.sqrt(spread), -1, 1)


@dataclass(frozen=True)
class OverRuns:
    """Mean of a statistic over the training runs in a table (column run), each judged by itself.

    Predictions are not averaged first: the mean image of several networks agrees better than each of them.
    """

    part: Statistic

    def columns(self) -> list[str]:
        return self.part.columns()

    def __call__(self, table: pd.DataFrame, weights: np.ndarray) -> np.ndarray:
        runs = table["run"].to_numpy()
        return np.mean([self.part(table[runs == run], weights[:, runs == run]) for run in np.unique(runs)], axis=0)


def scores(comparable: bool) -> dict[str, Statistic]:
    """Pearson's r of pixels (mean over images) and of each readout over images; intensities where `comparable`."""
    found: dict[str, Statistic] = {PIXELS: mean_of("pearson/r")}
    for name in READOUTS if comparable else OF_SHAPE:
        sides = (f"readouts/{name}_{side}" for side in ("predicted", "true"))
        found[f"{name.replace('_', ' ')} r"] = Correlation(*sides)
    return found


def named_checkpoints(checkpoints: Checkpoints | None) -> dict[str, str | Sequence[str]]:
    """The labels that name a checkpoint; null leaves a label of the config out."""
    return {str(label): given for label, given in (checkpoints or {}).items() if given is not None}


def require(checkpoints: Mapping[str, str | Sequence[str]], sweep: str) -> None:
    """Refuse missing checkpoints (ValueError), with the command that makes those of the config."""
    paths = [path for given in checkpoints.values() for path in ([given] if isinstance(given, str) else given)]
    missing = [path for path in paths if not Path(path).is_file()]
    if not missing:
        return
    runs, found, _ = missing[0].partition("/labelfree/")
    elsewhere = f" runs={runs}" if found and runs != "runs" else ""
    more = f" (and {len(missing) - 1} more)" if len(missing) > 1 else ""
    raise ValueError(
        f"study.checkpoints: there is no {missing[0]}{more}. This makes the checkpoints: python train.py -m "
        f"sweep={sweep}{elsewhere}. Or name others: ~study.checkpoints "
        "'+study.checkpoints={LABEL: FILE}'; null leaves a label out"
    )


def judge_all(
    subject: Subject, named: Mapping[str, Sequence[str | None]], nulls: Sequence[str], samples: Any = None
) -> pd.DataFrame:
    """The per-image tables of every run and null as one, with the columns checkpoint, kind and run (from 1).

    Raises ValueError where a table lacks a score, or shows other images than the first.
    """
    assert subject.judge is not None
    asked = [(label, NETWORK, run, name) for label, names in named.items() for run, name in enumerate(names, 1)]
    asked += [(name, NULL, 1, name) for name in nulls]
    tables: list[pd.DataFrame] = []
    for label, kind, run, name in asked:
        table = subject.judge(name, samples).drop(columns=["method", "mask_area"], errors="ignore")
        needed = ["id", "group", *(column for statistic in scores(True).values() for column in statistic.columns())]
        if missing := [column for column in needed if column not in table]:
            raise ValueError(
                f"the table of images of {label} lacks {', '.join(missing)}: judge with metrics=translation"
            )
        if tables and set(table["id"]) != set(tables[0]["id"]):
            raise ValueError(f"{label} was judged on other images than {asked[0][0]}: use one test split")
        tables.append(table.assign(checkpoint=label, kind=kind, run=run))
    images = pd.concat(tables, ignore_index=True)
    first = ["checkpoint", "kind", "run", "id", "group"]
    return images[[*first, *images.columns.drop(first)]]


def interval(table: pd.DataFrame, statistic: Statistic, n: int, seed: int) -> Interval:
    """A statistic, its mean over runs, with a 95 % interval: wells are resampled, then images; runs stay together.

    Unlike `hierarchical_bootstrap` it asks for two wells, not for two that define the statistic by themselves: a
    correlation over wells of one image each is defined.
    """
    estimate, draws = _draws(table, OverRuns(statistic), n, seed)
    return Interval(estimate, *_limits(draws))


def difference(first: pd.DataFrame, second: pd.DataFrame, statistic: Statistic, n: int, seed: int) -> Difference:
    """First minus second over the same resamples; images for which any run of either lacks a value are left out.

    p as in `paired_bootstrap`. Both tables must hold the same ids.
    """
    both = pd.concat([first.assign(side=0), second.assign(side=1)], ignore_index=True)
    lacking = set(both.loc[both[statistic.columns()].isna().any(axis=1), "id"])
    both = both[~both["id"].isin(lacking)].reset_index(drop=True)
    estimate, draws = _draws(both, _Sides(OverRuns(statistic)), n, seed)
    tail = min(int((draws <= 0).sum()), int((draws >= 0).sum()))
    p = min(1.0, 2 * (tail + 1) / (len(draws) + 1)) if len(draws) else np.nan
    return Difference(estimate, *_limits(draws), p, both["id"].nunique(), both["group"].nunique())


@dataclass(frozen=True)
class _Sides:
    """A statistic of the rows of side 0 minus that of side 1."""

    part: OverRuns

    def columns(self) -> list[str]:
        return self.part.columns()

    def __call__(self, table: pd.DataFrame, weights: np.ndarray) -> np.ndarray:
        first = table["side"].to_numpy() == 0
        return self.part(table[first], weights[:, first]) - self.part(table[~first], weights[:, ~first])


def _draws(table: pd.DataFrame, statistic: Statistic, n: int, seed: int) -> tuple[float, np.ndarray]:
    """The statistic and its finite resamples; none below two wells."""
    if table.empty:
        return np.nan, np.empty(0)
    estimate = float(statistic(table, np.ones((1, len(table))))[0])
    if table["group"].nunique() < 2 or not np.isfinite(estimate):
        return estimate, np.empty(0)
    draws = np.concatenate([statistic(table, block) for block in resample_weights(table, "group", "id", n, seed)])
    return estimate, draws[np.isfinite(draws)]


def _limits(draws: np.ndarray) -> tuple[float, float]:
    if not len(draws):
        return np.nan, np.nan
    low, high = np.quantile(draws, [0.025, 0.975])
    return float(low), float(high)


def cells(images: pd.DataFrame, judged_on: str, comparable: bool, n: int, seed: int) -> pd.DataFrame:
    """A row per checkpoint and condition (column `judged_on`): every score with its interval, over wells."""
    rows = []
    order = {label: place for place, label in enumerate(dict.fromkeys(images["checkpoint"]))}
    parts = images.groupby(["checkpoint", "kind", judged_on], sort=False)
    for (label, kind, condition), table in sorted(parts, key=lambda part: order[part[0][0]]):
        row: dict[str, Any] = {"checkpoint": label, "kind": kind, judged_on: condition}
        for name, statistic in scores(comparable).items():
            found = interval(table, statistic, n, seed)
            row |= {name: found.estimate, f"{name} low": found.low, f"{name} high": found.high}
            if name == PIXELS:
                row["PCC loss"] = (1 - found.estimate) / 2
        if CONTROL in table:
            row["control r"] = float(table[CONTROL].mean())
        row |= {"training seeds": table["run"].nunique() if kind == NETWORK else 0, "images": table["id"].nunique()}
        rows.append(row | {"wells": table["group"].nunique()})
    return pd.DataFrame(rows)


def by_run(
    subject: Subject,
    images: pd.DataFrame,
    named: Mapping[str, Sequence[str | None]],
    judged_on: str,
    comparable: bool,
) -> pd.DataFrame:
    """A row per training run and condition: its own scores, and what its training took."""
    assert subject.origin is not None
    rows = []
    for label, names in named.items():
        for run, name in enumerate(names, 1):
            origin = subject.origin(name)
            own = images[(images["checkpoint"] == label) & (images["run"] == run)]
            facts = {
                "training wells": len(training(subject, origin.wells)["group"].unique()),
                "training images": len(training(subject, origin.wells)),
                "samples": origin.samples,
                "training (s)": round(origin.seconds),
                "split": "leaky" if origin.leaky or subject.leaky_split else subject.datamodule.split_origin,
            }
            for condition, table in own.groupby(judged_on, sort=False):
                row: dict[str, Any] = {"checkpoint": label, "file": str(name or origin.path or "this run")}
                row |= {"training seed": origin.seed, judged_on: condition}
                ones = np.ones((1, len(table)))
                row |= {name: float(statistic(table, ones)[0]) for name, statistic in scores(comparable).items()}
                rows.append(row | facts)
    return pd.DataFrame(rows).astype({"training seed": "Int64"})


def training(subject: Subject, wells: frozenset[str]) -> pd.DataFrame:
    """The rows of the index that a checkpoint of these wells was trained on, without those it was validated on."""
    index = subject.datamodule.index
    return index[index["group"].isin(wells) & (index["split"] == "train")]


def against(images: pd.DataFrame, own: Mapping[str, str], judged_on: str, n: int, seed: int) -> pd.DataFrame:
    """Each other checkpoint minus the condition's own (`own`), on the same images; Holm over all rows.

    Only pixels, count and area are compared, which a model free in brightness can get right.
    """
    rows: list[dict[str, Any]] = []
    differences: list[Difference] = []
    networks = images[images["kind"] == NETWORK]
    for condition, reference in own.items():
        here = dict(iter(networks[networks[judged_on] == condition].groupby("checkpoint", sort=False)))
        for label, table in here.items():
            if label == reference:
                continue
            for name in MAIN:
                differences.append(difference(table, here[reference], scores(True)[name], n, seed))
                rows.append({judged_on: condition, "score": name, "checkpoint": label, "against": reference})
    table = comparison_table(rows, differences, [judged_on, "score", "checkpoint", "against"])
    table.loc[table["difference"].isna(), "verdict"] = UNDEFINED
    return table
