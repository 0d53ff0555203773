"""How far does a translation bear bad pictures? Loss and readouts against graded corruptions and laboratory errors."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
import pandas as pd

from ..datamodules.corrupted import clipped_share
from ..imaging.corruptions import SEVERITIES
from ..metrics.readouts import READOUTS, SIDES
from . import robustness_words as words
from .crossed import Correlation, difference, interval, judge_all
from .judged import check_resamples, comparison_table, contestants
from .result import StudyResult
from .robustness_conditions import CLEAN, LAB, Condition, conditions_of, picture_of, samples_of
from .robustness_figures import against_severity, example_pictures, of_lab_errors
from .statistics import Ratio, Statistic, mean_of
from .subject import Study, Subject
from .translation import CONTROL, CONTROL_NEEDED, OF_SHAPE

log = logging.getLogger(__name__)
LOSS = "PCC loss"
NULL = "other_image"  # sees no source: one number holds for every severity
DIRECTIONS = {
    ("defocus", 1): "blurred",
    ("brightness", -1): "darker",
    ("brightness", 1): "brighter",
    ("contrast", -1): "more contrast",
    ("contrast", 1): "less contrast",
}


class Robustness(Study):
    """Judges checkpoints on test patches whose sources are corrupted, by severity, against the same patches clean.

    `checkpoints` maps labels to checkpoints (or one per training seed: each is judged by itself, and their scores are
    averaged) that are judged beside the model. `severities` shortens table 9 of the label-free thesis; None is all of
    it. Corruptions act on camera counts of whole fields before these are scaled; `mode` is that of
    imaging/corruptions.adjust. With `lab_errors` the test wells of drawn data are also drawn again as figures 39 and 48
    show. The null, other_image, is judged on clean patches.

    The rule, set before anything is judged: the loss, (1 - r) / 2, is degraded at a severity where the lower end of the
    95 % interval over wells of its paired difference to clean lies above `tolerance`. A corruption degrades from the
    least severity on at which this holds for it and for every stronger one of its sign: tested from the strongest on
    and stopped at the first that fails, which needs no correction within a sign. Defocus comes before brightness where
    it degrades from a lower severity on than brightness of either sign; the same severity does not show it.

    Raises ValueError for severities that table 9 lacks, without one for defocus, and for a label that is the null's.
    """

    of_pairs = True

    def __init__(
        self,
        checkpoints: Mapping[str, str | Sequence[str]] | None = None,
        severities: Sequence[int] | None = None,
        mode: Literal["clip", "abs"] = "clip",
        lab_errors: bool = True,
        tolerance: float = 0.02,
        n_bootstrap: int = 2000,
        seed: int = 0,
        pictures: bool = True,
    ) -> None:
        self.checkpoints, self.mode, self.lab_errors = dict(checkpoints or {}), mode, lab_errors
        self.tolerance, self.n_bootstrap, self.seed = tolerance, n_bootstrap, seed
        self.pictures = pictures
        known = sorted(SEVERITIES["brightness"])
        asked = known if severities is None else sorted(set(severities))
        if wrong := [severity for severity in asked if severity not in known]:
            raise ValueError(f"study.severities: table 9 has no severity {wrong[0]}; give whole numbers from -5 to 5")
        self.severities = [severity for severity in asked if severity]
        if not any(severity > 0 for severity in self.severities):
            raise ValueError(f"study.severities={list(severities or ())} has none above 0: defocus has no other")
        if tolerance < 0:
            raise ValueError(f"study.tolerance is {tolerance:g}: give a rise of the loss, 0 or more")
        if NULL in self.checkpoints:
            raise ValueError(f"study.checkpoints: {NULL!r} is the name of the null; choose another label")

    def check(self, datamodule: Any) -> None:
        """Refuses data without targets or without test patches."""
        super().check(datamodule)
        datamodule.patches("test")

    def run(self, subject: Subject) -> StudyResult:
        """Judge every checkpoint under every condition, and return tables, figures, verdict and notes."""
        assert subject.judge is not None
        assert subject.origin is not None
        data = subject.datamodule
        named = contestants(subject, self.checkpoints)
        conditions = conditions_of(data, self.severities, self.lab_errors)
        if len(named) > 1:
            check_resamples(self.n_bootstrap, (len(named) - 1) * (len(conditions) - 1))
        readouts = READOUTS if data.comparable else OF_SHAPE
        null = judge_all(subject, {}, [NULL], data.patches("test"))
        null = _with_loss(null, set(_defined(null)))
        judged, shown, clipped = self._judge(subject, named, conditions, null)
        rows = []
        for (label, condition), table in judged.items():
            numbers = self._numbers(table, judged[label, CLEAN] if condition != CLEAN else None, readouts)
            rows.append({"method": label, **condition._asdict(), "clipped": clipped[condition]} | numbers)
        numbers = pd.DataFrame(rows)
        null_row = self._numbers(null, None, readouts) | {"training seeds": 0}
        severities = _by_severity(numbers)
        lab = numbers[numbers["corruption"].isin(["clean", LAB])].drop(columns=["corruption", "severity", "clipped"])
        lab["name"] = lab["name"].replace("", "none")
        beside = pd.DataFrame([{"method": NULL, "corruption": "null", "severity": 0} | null_row])
        tables = {
            "onsets": onsets(severities, self.tolerance),
            "severities": pd.concat([severities, beside], ignore_index=True),
        }
        figures = against_severity(severities, null_row, NULL, readouts)
        if any(condition.corruption == LAB for condition in conditions):
            tables["lab_errors"] = lab.rename(columns={"name": LAB}).reset_index(drop=True)
            figures["under_lab_errors"] = of_lab_errors(tables["lab_errors"], null_row, NULL, readouts)
        if len(named) > 1:
            tables["comparisons"] = self._compare(judged, list(named), conditions)
        asked = {key: table.assign(**key[1]._asdict()) for key, table in judged.items()}
        every = pd.concat([*asked.values(), null.assign(corruption="clean", severity=0, name="")], ignore_index=True)
        tables["per_image"] = _flat(every, readouts)
        for kind, pictures in shown.items():
            figures[f"examples_{kind.replace(' ', '_')}"] = example_pictures(pictures)
        leaky = subject.leaky_split or any(subject.origin(name).leaky for names in named.values() for name in names)
        clean = judged[next(iter(named)), CLEAN]
        facts = words.Facts.of(self, data, clean, list(named), leaky)
        return StudyResult(
            title="Robustness: how far do the predictions bear bad pictures?",
            tables=tables,
            figures=figures,
            main="onsets",
            notes=words.notes(facts, tables),
            captions={name: text for name, text in words.captions(facts).items() if name in tables or name in figures},
            verdict=words.verdict(facts, tables),
        )

    def _judge(
        self,
        subject: Subject,
        named: Mapping[str, Sequence[str | None]],
        conditions: Sequence[Condition],
        null: pd.DataFrame,
    ) -> tuple[dict[tuple[str, Condition], pd.DataFrame], dict[str, Any], dict[Condition, float]]:
        """Tables of images and runs by label and condition, pictures of one patch by corruption, and clipped shares."""
        assert subject.module is not None
        data = subject.datamodule
        judged: dict[tuple[str, Condition], pd.DataFrame] = {}
        clipped: dict[Condition, float] = {}
        modules = {label: subject.module(names[0]) for label, names in named.items()} if self.pictures else {}
        shown: dict[str, Any] = {}
        example, known = 0, set[str]()
        for number, condition in enumerate(conditions):
            log.info("condition %d of %d: %s", number + 1, len(conditions), condition)
            samples = samples_of(data, condition, self.mode)  # one at a time: each keeps fields of its own
            clipped[condition] = np.nan
            if condition.corruption in SEVERITIES:
                graded = condition.corruption, condition.severity
                clipped[condition] = clipped_share(data.patches("test"), *graded, self.mode)
            table = judge_all(subject, named, (), samples)
            if condition == CLEAN:
                known = {*_defined(table), *_defined(null)}
            for label, own in table.groupby("checkpoint", sort=False):
                judged[str(label), condition] = _with_loss(own, known)
            if self.pictures:
                if condition == CLEAN:
                    example = _median(judged[next(iter(named)), CLEAN], samples)
                picture = picture_of(samples, example, modules)
                kinds = [condition.corruption] if condition != CLEAN else [*SEVERITIES, LAB]
                for kind in kinds:
                    shown.setdefault(kind, {})[condition] = picture
        return judged, {kind: pictures for kind, pictures in shown.items() if len(pictures) > 1}, clipped

    def _numbers(self, table: pd.DataFrame, clean: pd.DataFrame | None, readouts: Sequence[str]) -> dict[str, Any]:
        """The scores of one method under one condition, each with the ends of its interval; mean over its runs."""
        row: dict[str, Any] = {}
        for name, statistic in _scores(table, readouts).items():
            found = interval(table, statistic, self.n_bootstrap, self.seed)
            row |= {name: found.estimate, f"{name} low": found.low, f"{name} high": found.high}
            if name == LOSS and clean is not None:
                change = difference(table, clean, statistic, self.n_bootstrap, self.seed)
                row |= {"change": change.estimate, "change low": change.low, "change high": change.high}
        for name in readouts:
            row |= {f"{_words(name)} {side}": float(table[f"readouts/{name}_{side}"].mean()) for side in SIDES}
        row |= {"training seeds": table["run"].nunique(), "images": table["id"].nunique()}
        return row | {"wells": table["group"].nunique()}

    def _compare(
        self,
        judged: Mapping[tuple[str, Condition], pd.DataFrame],
        labels: Sequence[str],
        conditions: Sequence[Condition],
    ) -> pd.DataFrame:
        """How much smaller the loss of each other checkpoint is than that of the first, under each condition."""
        first, *others = labels
        rows, differences = [], []
        for other in others:
            for condition in conditions[1:]:
                pair = judged[first, condition], judged[other, condition]
                differences.append(difference(*pair, mean_of("loss"), self.n_bootstrap, self.seed))
                rows.append({"method": other, "against": first, **condition._asdict()})
        return comparison_table(rows, differences, ["method", "against", *Condition._fields])


def onsets(severities: pd.DataFrame, tolerance: float) -> pd.DataFrame:
    """A row per method, kind and sign: from which severity on the loss is degraded, by the rule of `Robustness`.

    `severity` is that, empty for none; change and clipped are those there, or at the strongest judged. So is the
    control's r, where it was judged, beside that of clean images.
    """
    rows = []
    for method, table in severities.groupby("method", sort=False):
        for (kind, sign), direction in DIRECTIONS.items():
            own = table[(table["corruption"] == kind) & (np.sign(table["severity"]) == sign)]
            own = own.sort_values("severity", key=abs, ascending=False)
            if own.empty:
                continue
            degraded = int((own["change low"] > tolerance).cumprod().sum())
            at = own.iloc[max(degraded - 1, 0)]
            row = {"method": method, "corruption": kind, "direction": direction}
            row |= {
                "severity": float(at["severity"]) if degraded else np.nan,
                "strongest judged": own["severity"].iloc[0],
            }
            row |= {name: at[name] for name in ("change", "change low", "change high", "clipped")}
            if "control r" in table:
                clean = table.loc[(table["corruption"] == kind) & (table["severity"] == 0), "control r"]
                row |= {"control r clean": clean.iloc[0], "control r": at["control r"]}
            row["wells"] = at["wells"]
            rows.append(row)
    return pd.DataFrame(rows).astype({"severity": "Int64"})


def _by_severity(numbers: pd.DataFrame) -> pd.DataFrame:
    """A row per method, kind and severity; the clean row stands in each kind, at severity 0."""
    parts = []
    for kind, levels in SEVERITIES.items():
        clean = numbers[numbers["corruption"] == "clean"].assign(corruption=kind, clipped=0.0, amount=levels[0])
        own = numbers[numbers["corruption"] == kind]
        parts.append(pd.concat([own.assign(amount=own["severity"].map(levels)), clean]))
    table = pd.concat(parts).sort_values(["method", "corruption", "severity"], key=_in_order, kind="stable")
    first = ["method", "corruption", "severity", "amount", "clipped"]
    return table[[*first, *table.columns.drop([*first, "name"])]].reset_index(drop=True)


def _in_order(column: pd.Series) -> pd.Series:
    """Names in the order of their first appearance, numbers as they are."""
    return column if pd.api.types.is_numeric_dtype(column) else pd.Series(pd.factorize(column)[0], index=column.index)


def _words(readout: str) -> str:
    return readout.replace("_", " ")


def _scores(table: pd.DataFrame, readouts: Sequence[str]) -> dict[str, Statistic]:
    """Loss, the control where it was judged, and of each readout r and the bias in % of the mean true value."""
    found: dict[str, Statistic] = {LOSS: mean_of("loss")}
    found |= CONTROL if set(table) >= CONTROL_NEEDED else {}
    for name in readouts:
        predicted, true = (f"readouts/{name}_{side}" for side in SIDES)
        usual = float(table[true].mean())
        share = 100 / usual if usual else np.nan
        found[f"{_words(name)} r"] = Correlation(predicted, true)
        found[f"{_words(name)} bias (%)"] = Ratio({predicted: share, true: -share})
    return found


def _defined(table: pd.DataFrame) -> pd.Series:
    """The ids of images that have an r: their true stain is not constant."""
    return table.loc[table["pearson/r"].notna(), "id"]


def _with_loss(table: pd.DataFrame, known: set[str]) -> pd.DataFrame:
    """Adds the loss of each image and run; a constant prediction has no r and counts as r = 0.

    `known` are the images that have an r with some method: elsewhere the true stain is constant, and r is not defined.
    """
    r = table["pearson/r"]
    r = r.mask(r.isna() & table["id"].isin(known), 0.0)
    return table.rename(columns={"checkpoint": "method"}).assign(loss=(1 - r) / 2).sort_values(["run", "id"])


def _flat(table: pd.DataFrame, readouts: Sequence[str]) -> pd.DataFrame:
    sides = [f"readouts/{name}_{side}" for name in readouts for side in SIDES]
    control = [name for name in CONTROL_NEEDED if name in table]
    return table[["method", "run", "id", "group", "pearson/r", *sides, *control, "loss", *Condition._fields]]


def _median(table: pd.DataFrame, samples: Any) -> int:
    """The number of the sample whose loss is the median one."""
    loss = table.groupby("id")["loss"].mean().dropna()  # over training runs
    ranked = loss.sort_values(kind="stable").index.tolist()
    numbers = {samples.name(number): number for number in range(len(samples))}
    return numbers[ranked[(len(ranked) - 1) // 2]] if ranked else 0
