"""How far does a translation bear bad pictures? Loss and readouts against graded corruptions and laboratory errors."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
import pandas as pd

from ..datamodules.corrupted import clipped_share
from ..imaging.corruptions import SEVERITIES
from ..metrics.readouts import SIDES
from . import robustness_words as words
from .agreement import agreement, sides
from .judged import check_resamples, comparison_table, contestants, seed_mean, with_intervals
from .result import StudyResult
from .robustness_conditions import CLEAN, LAB, Condition, conditions_of, picture_of, samples_of
from .robustness_figures import against_severity, example_pictures, of_lab_errors
from .statistics import mean_of, paired_bootstrap
from .subject import Study, Subject
from .translation import CONTROL, CONTROL_NEEDED, OF_SHAPE

log = logging.getLogger(__name__)
LOSS = "PCC loss"
NULL = "other_image"  # sees no source: one number holds for every severity
NEEDED = ["id", "group", "pearson/r", *(f"readouts/{name}_{side}" for name in OF_SHAPE for side in SIDES)]
DIRECTIONS = {
    ("defocus", 1): "blurred",
    ("brightness", -1): "darker",
    ("brightness", 1): "brighter",
    ("contrast", -1): "more contrast",
    ("contrast", 1): "less contrast",
}


class Robustness(Study):
    """Judges checkpoints on test patches whose sources are corrupted, by severity, against the same patches clean.

    `checkpoints` maps labels to checkpoints (or one per training seed, then averaged per image) that are judged beside
    the model. `severities` shortens table 9 of the label-free thesis; None is all of it. Corruptions act on camera
    counts of whole fields before these are scaled; `mode` is that of imaging/corruptions.adjust. With `lab_errors` the
    test wells of drawn data are also drawn again as figure 48 shows. The null, other_image, is judged on clean patches.

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
        null = _with_loss(subject.judge(NULL, data.patches("test")), None).assign(method=NULL)
        judged, shown, clipped = self._judge(subject, named, conditions)
        rows = []
        for (label, condition), table in judged.items():
            numbers = self._numbers(table, judged[label, CLEAN] if condition != CLEAN else None)
            rows.append({"method": label, **condition._asdict(), "clipped": clipped[condition]} | numbers)
        numbers = pd.DataFrame(rows)
        null_row = self._numbers(null, None)
        severities = _by_severity(numbers)
        lab = numbers[numbers["corruption"].isin(["clean", LAB])].drop(columns=["corruption", "severity", "clipped"])
        lab["name"] = lab["name"].replace("", "none")
        beside = pd.DataFrame([{"method": NULL, "corruption": "null", "severity": 0} | null_row])
        tables = {
            "onsets": onsets(severities, self.tolerance),
            "severities": pd.concat([severities, beside], ignore_index=True),
        }
        figures = {"against_severity": against_severity(severities, null_row, NULL)}
        if any(condition.corruption == LAB for condition in conditions):
            tables["lab_errors"] = lab.rename(columns={"name": LAB}).reset_index(drop=True)
            figures["under_lab_errors"] = of_lab_errors(tables["lab_errors"], null_row, NULL)
        if len(named) > 1:
            tables["comparisons"] = self._compare(judged, list(named), conditions)
        tables["per_image"] = pd.concat(
            [
                _flat(table).assign(**condition._asdict() | {"method": label})
                for (label, condition), table in judged.items()
            ]
            + [_flat(null).assign(corruption="clean", severity=0, name="")],
            ignore_index=True,
        )
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
        self, subject: Subject, named: Mapping[str, Sequence[str | None]], conditions: Sequence[Condition]
    ) -> tuple[dict[tuple[str, Condition], pd.DataFrame], dict[str, Any], dict[Condition, float]]:
        """Per-image tables by label and condition, pictures of one patch by corruption, and clipped shares."""
        assert subject.judge is not None
        assert subject.module is not None
        data = subject.datamodule
        judged: dict[tuple[str, Condition], pd.DataFrame] = {}
        clipped: dict[Condition, float] = {}
        modules = {label: subject.module(names[0]) for label, names in named.items()} if self.pictures else {}
        shown: dict[str, Any] = {}
        example = 0
        for number, condition in enumerate(conditions):
            log.info("condition %d of %d: %s", number + 1, len(conditions), condition)
            samples = samples_of(data, condition, self.mode)  # one at a time: each keeps fields of its own
            clipped[condition] = np.nan
            if condition.corruption in SEVERITIES:
                graded = condition.corruption, condition.severity
                clipped[condition] = clipped_share(data.patches("test"), *graded, self.mode)
            for label, names in named.items():
                table = seed_mean([subject.judge(name, samples) for name in names]).assign(method=label)
                judged[label, condition] = _with_loss(table, judged.get((label, CLEAN)))
            if self.pictures:
                if condition == CLEAN:
                    example = _median(judged[next(iter(named)), CLEAN], samples)
                picture = picture_of(samples, example, modules)
                kinds = [condition.corruption] if condition != CLEAN else [*SEVERITIES, LAB]
                for kind in kinds:
                    shown.setdefault(kind, {})[condition] = picture
        return judged, {kind: pictures for kind, pictures in shown.items() if len(pictures) > 1}, clipped

    def _numbers(self, table: pd.DataFrame, clean: pd.DataFrame | None) -> dict[str, Any]:
        """The scores of one method under one condition, each with the ends of its interval."""
        scores = {LOSS: mean_of("loss")} | (CONTROL if set(table) >= CONTROL_NEEDED else {})
        row = with_intervals(table, scores, self.n_bootstrap, self.seed)
        if clean is not None:
            change = paired_bootstrap(table, clean, mean_of("loss"), n=self.n_bootstrap, seed=self.seed)
            row |= {"change": change.estimate, "change low": change.low, "change high": change.high}
        for name in OF_SHAPE:
            predicted, true = sides(table, "readouts", name)
            found = agreement(predicted, true, table["group"], resamples=self.n_bootstrap, seed=self.seed)
            usual = float(true.mean())
            for end in ("", " low", " high"):
                row[f"{name} r{end}"] = found[f"Pearson{end}"]
                row[f"{name} bias (%){end}"] = 100 * found[f"bias{end}"] / usual if usual else np.nan
            row |= {f"{name} predicted": float(predicted.mean()), f"{name} true": usual}
        return row

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
                differences.append(paired_bootstrap(*pair, mean_of("loss"), n=self.n_bootstrap, seed=self.seed))
                rows.append({"method": other, "against": first, **condition._asdict()})
        return comparison_table(rows, differences, ["method", "against", *Condition._fields])


def onsets(severities: pd.DataFrame, tolerance: float) -> pd.DataFrame:
    """A row per method, kind and sign: from which severity on the loss is degraded, by the rule of `Robustness`.

    `severity` is that, empty for none; change and clipped are those there, or at the strongest judged.
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
            row |= {name: at[name] for name in ("change", "change low", "change high", "clipped", "wells")}
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


def _with_loss(table: pd.DataFrame, clean: pd.DataFrame | None) -> pd.DataFrame:
    """Adds the loss; a prediction that became constant, so that it has no r, counts as r = 0."""
    if missing := [name for name in NEEDED if name not in table]:
        raise ValueError(f"the table of images lacks {', '.join(missing)}: judge with metrics=translation")
    table = table.sort_values("id", ignore_index=True)
    r = table["pearson/r"]
    if clean is not None:
        r = r.mask(r.isna() & clean["pearson/r"].notna(), 0.0)
    return table.assign(loss=(1 - r) / 2)


def _flat(table: pd.DataFrame) -> pd.DataFrame:
    kept = [name for name in (*NEEDED, *CONTROL_NEEDED, "loss") if name in table]
    return table[["method", *kept]]


def _median(table: pd.DataFrame, samples: Any) -> int:
    """The number of the sample whose loss is the median one."""
    ranked = table[table["loss"].notna()].sort_values(["loss", "id"])["id"].tolist()
    numbers = {samples.name(number): number for number in range(len(samples))}
    return numbers[ranked[(len(ranked) - 1) // 2]] if ranked else 0
