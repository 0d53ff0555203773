"""Does a score follow the damage? Pictures made wrong on purpose, judged by every metric and by readouts of a lab."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from ..metrics import PhIRM
from .correlation import KendallTauB, Less, Spearman
from .manipulated import DECOYS, Changed, Chosen, Scored, choose, judge, manipulated, neutral_name, plan, scores_of
from .raters import Concordance, kendalls_w, left_out_agreement, read_ratings, write_rating_sheet
from .result import StudyResult
from .statistics import Interval, Statistic, hierarchical_bootstrap, mean_of
from .subject import Study, Subject

NOTICED = 0.01  # a fall by less than this share of a metric's range is none


class MetricValidation(Study):
    """Correlates metrics with the severity of graded damage, and tries them on decoys and traps (the paper's figure 1).

    `metrics` maps a name to {metric, key, higher_is_better, in_severity}; the verdict is about the first. `images` test
    patches, spread over the wells, are damaged at `levels` (shares in (0, 1], ascending). `raters` is a CSV of people's
    scores (studies/raters.py); `rating_sheet` a new folder for pictures and an empty sheet to make one.
    Severity: studies/readouts.py. Raises ValueError for settings, or data, that cannot be used.
    """

    needs_model = False

    def __init__(
        self,
        metrics: Mapping[str, Mapping[str, Any]],
        images: int = 24,
        levels: Sequence[float] = (0.05, 0.1, 0.2, 0.4, 0.8),
        seed: int = 0,
        n_bootstrap: int = 1000,
        raters: str | None = None,
        rating_sheet: str | None = None,
        rating_pictures: int = 48,
    ) -> None:
        self.metrics: dict[str, Scored] = {}
        for name, entry in metrics.items():
            self.metrics |= scores_of(name, entry) if entry else {}
        if not self.metrics:
            raise ValueError("study.metrics is empty: name at least one metric")
        self.images, self.levels = images, [float(level) for level in levels]
        if (
            len(self.levels) < 2
            or sorted(set(self.levels)) != self.levels
            or not 0 < self.levels[0] <= self.levels[-1] <= 1
        ):
            raise ValueError(f"study.levels is {self.levels}: give two or more ascending shares above 0, up to 1")
        if images < 2:
            raise ValueError(f"study.images is {images}: a correlation needs 2 at least")
        self.seed, self.n_bootstrap = seed, n_bootstrap
        self.raters, self.rating_sheet, self.rating_pictures = raters, rating_sheet, rating_pictures

    def check(self, datamodule: Any) -> None:
        datamodule.patches("test")

    def run(self, subject: Subject) -> StudyResult:
        """Damage, judge and correlate; tables, figures, verdict and notes."""
        from .validation_report import summarise  # matplotlib is heavy

        originals, passed_over = choose(subject.datamodule, self.images, self.seed)
        ratings = self._ratings(originals)
        images = judge(originals, self.metrics, self.levels, self.seed)
        tables: dict[str, pd.DataFrame] = {"metrics": self._correlations(images)}
        tables["compared"] = self._compared(images)
        tables["by_change"] = self._by_change(images)
        tables["levels"] = self._by_level(images)
        tables["decoys"], tables["traps"] = self._decoys(images), self._traps(images)
        fooled = tables["decoys"].groupby("metric")["verdict"].apply(lambda words: int((words == "fooled").sum()))
        unnoticed = tables["traps"].groupby("metric")["unnoticed"].mean()
        tables["metrics"]["fooled by decoys"] = tables["metrics"]["metric"].map(fooled)
        tables["metrics"]["traps unnoticed"] = tables["metrics"]["metric"].map(unnoticed)
        agreement: Concordance | None = None
        if ratings is not None:
            agreement = kendalls_w(ratings)
            oriented = images.set_index("picture").loc[ratings.index].copy()
            oriented[list(self.metrics)] = self._oriented(oriented)
            tables["raters"] = left_out_agreement(ratings, oriented, list(self.metrics), self.n_bootstrap, self.seed)
        if self.rating_sheet:
            self._write_sheet(originals, images)
        tables["per_image"] = images
        example = self._example(originals, images)
        notes = [
            f"The unit is the well: wells are resampled, then patches inside wells, {self.n_bootstrap} times with seed "
            f"{self.seed}. Patches of one field may overlap."
        ]
        if passed_over:
            notes.append(f"{passed_over} patches were passed over: they show too few whole nuclei, or no background.")
        parts = [name for name, scored in self.metrics.items() if scored.in_severity]
        counts_only = isinstance(next(iter(self.metrics.values())).metric, PhIRM)
        return summarise(tables, example, agreement, notes, parts, counts_only)

    def _interval(self, table: pd.DataFrame, statistic: Statistic, level: float = 0.95) -> Interval:
        return hierarchical_bootstrap(table, statistic, n=self.n_bootstrap, seed=self.seed, level=level)

    def _name(self, original: str, picture: Changed) -> str:
        return neutral_name(original, picture.change, picture.level, self.seed)

    def _ratings(self, originals: Sequence[Chosen]) -> pd.DataFrame | None:
        """The raters' scores, read before anything is judged: what is wrong with them is said at once."""
        if not self.raters:
            return None
        planned = [(name, level) for _, name, level, _ in plan(self.levels)]
        return read_ratings(
            self.raters, [neutral_name(one.id, *part, self.seed) for one in originals for part in planned]
        )

    def _oriented(self, images: pd.DataFrame) -> pd.DataFrame:
        """The scores turned so that more is better."""
        return images[list(self.metrics)] * [1 if scored.higher_is_better else -1 for scored in self.metrics.values()]

    def _graded(self, images: pd.DataFrame) -> pd.DataFrame:
        """Graded pictures; scores oriented, and `kept` = 1 - severity, so that a good metric correlates with +1."""
        graded = images[images["set"] == "graded"].copy()
        graded[list(self.metrics)] = self._oriented(graded)
        return graded.assign(kept=1 - graded["severity"], kept_by_labels=1 - graded["severity by labels"])

    def _correlations(self, images: pd.DataFrame) -> pd.DataFrame:
        graded = self._graded(images)
        rows = []
        for name in self.metrics:
            row: dict[str, object] = {"metric": name}
            measures: dict[str, Statistic] = {"Spearman": Spearman(name, "kept"), "tau-b": KendallTauB(name, "kept")}
            if graded["kept_by_labels"].notna().any():
                measures["Spearman by labels"] = Spearman(name, "kept_by_labels")
            for title, statistic in measures.items():
                interval = self._interval(graded, statistic)
                row |= {title: interval.estimate, f"{title} low": interval.low, f"{title} high": interval.high}
            scored = graded[graded[name].notna()]
            rows.append(
                row | {"pictures": len(scored), "images": scored["id"].nunique(), "wells": scored["group"].nunique()}
            )
        return pd.DataFrame(rows)

    def _compared(self, images: pd.DataFrame) -> pd.DataFrame:
        """The first metric's Spearman minus each other's; intervals at 1 - 0.05/m, so that all m hold together."""
        graded, (subject, *others) = self._graded(images), self.metrics
        rows = []
        for other in others:
            both = graded[graded[[subject, other]].notna().all(axis=1)]
            statistic = Less(Spearman(subject, "kept"), Spearman(other, "kept"))
            gap = self._interval(both, statistic, level=1 - 0.05 / len(others))
            verdict = "follows damage better" if gap.low > 0 else "worse" if gap.high < 0 else "not distinguished"
            row: dict[str, object] = {"metric": subject, "against": other, "difference": gap.estimate}
            row |= {"difference low": gap.low, "difference high": gap.high, "verdict": verdict}
            rows.append(row | {"wells": both["group"].nunique()})
        columns = ["metric", "against", "difference", "difference low", "difference high", "verdict", "wells"]
        return pd.DataFrame(rows, columns=columns)

    def _by_change(self, images: pd.DataFrame) -> pd.DataFrame:
        rows = []
        for name in self.metrics:
            for kind, table in self._graded(images).groupby("change", sort=False):
                interval = self._interval(table, Spearman(name, "kept"))
                row = {"metric": name, "change": kind, "Spearman": interval.estimate}
                rows.append(
                    row | {"Spearman low": interval.low, "Spearman high": interval.high, "pictures": len(table)}
                )
        return pd.DataFrame(rows)

    def _by_level(self, images: pd.DataFrame) -> pd.DataFrame:
        """The score itself against the level."""
        rows = []
        graded = images[images["set"] == "graded"]
        for (kind, level), table in graded.groupby(["change", "level"], sort=False):
            for name in self.metrics:
                interval = self._interval(table, mean_of(name))
                row = {"change": kind, "level": level, "metric": name, "score": interval.estimate}
                row |= {"score low": interval.low, "score high": interval.high, "severity": table["severity"].mean()}
                rows.append(row | {"pictures": len(table)})
        return pd.DataFrame(rows)

    def drops(self, images: pd.DataFrame) -> pd.DataFrame:
        """`images` with every score replaced by its fall below the unchanged picture's (more is worse)."""
        scores = self._oriented(images)
        unchanged = scores[images["set"] == "original"].set_axis(images.loc[images["set"] == "original", "id"])
        fallen = images.copy()
        fallen[list(self.metrics)] = unchanged.loc[images["id"]].to_numpy() - scores.to_numpy()
        return fallen

    def _decoys(self, images: pd.DataFrame) -> pd.DataFrame:
        """The fall for each decoy beside that for the mildest damage: the mean of graded ones at the lowest level."""
        fallen = self.drops(images)
        mildest = fallen[(fallen["set"] == "graded") & (fallen["level"] == self.levels[0])]
        rows = []
        for name in self.metrics:
            mild = mildest.groupby("id")[name].mean()
            for decoy, table in fallen[fallen["set"] == "decoy"].groupby("change", sort=False):
                table = table.assign(mild=table["id"].map(mild))
                table["excess"] = table[name] - table["mild"]
                drop = self._interval(table, mean_of(name))
                level = 1 - 0.05 / len(DECOYS)
                excess = self._interval(table, mean_of("excess"), level)
                row: dict[str, object] = {"metric": name, "decoy": decoy, "fall": drop.estimate}
                row |= {"fall low": drop.low, "fall high": drop.high, "fall for mildest damage": table["mild"].mean()}
                row["as mild damage"] = (table["excess"] >= 0).mean()
                fooled = "fooled" if excess.low >= 0 else "not fooled" if excess.high < 0 else "not distinguished"
                row |= {"verdict": fooled, "F1": table["F1"].mean(), "saturated": table["saturated"].mean()}
                rows.append(row | {"images": len(table), "wells": table["group"].nunique()})
        return pd.DataFrame(rows)

    def _traps(self, images: pd.DataFrame) -> pd.DataFrame:
        fallen = self.drops(images)
        graded = fallen[fallen["set"] == "graded"]
        rows = []
        for name in self.metrics:
            span = float(graded.groupby(["change", "level"])[name].mean().max())
            harmless = fallen[fallen["set"] == "decoy"].groupby("id")[name].max()
            for trap, table in fallen[fallen["set"] == "trap"].groupby("change", sort=False):
                table = table[table[name].notna()]
                table = table.assign(
                    blind=(table[name] < NOTICED * span).astype(float),
                    lost=(table[name] <= table["id"].map(harmless)).astype(float),
                )
                blind = self._interval(table, mean_of("blind"))
                row: dict[str, object] = {"metric": name, "trap": trap, "unnoticed": blind.estimate}
                row |= {"unnoticed low": blind.low, "unnoticed high": blind.high, "below a decoy": table["lost"].mean()}
                row |= {"fall": table[name].mean(), "range": span, "severity": table["severity"].mean()}
                rows.append(row | {"images": len(table), "wells": table["group"].nunique()})
        return pd.DataFrame(rows)

    def _write_sheet(self, originals: Sequence[Chosen], images: pd.DataFrame) -> None:
        """Pictures of every change and level in turn, as many as asked for, in the order of their neutral names."""
        assert self.rating_sheet
        shuffled = images[images["set"] != "original"].sample(frac=1, random_state=self.seed)
        turn = shuffled.groupby(["change", "level"]).cumcount()
        key = shuffled.assign(turn=turn).sort_values("turn", kind="stable").head(self.rating_pictures)
        wanted, pairs = set(key["picture"]), {}
        for original in originals:
            if original.id in set(key["id"]):
                for picture in manipulated(original, self.levels, self.seed):
                    if (name := self._name(original.id, picture)) in wanted:
                        pairs[name] = (original.specimen.image, picture.specimen.image)
        columns = ["picture", "id", "group", "set", "change", "level", "severity"]
        write_rating_sheet(self.rating_sheet, pairs, key[columns].sort_values("picture"))

    def _example(self, originals: Sequence[Chosen], images: pd.DataFrame) -> pd.DataFrame:
        """The rows of one original that took every manipulation (else most), with its pictures in `array`."""
        most = images.groupby("id", sort=False).size().idxmax()
        original = next(chosen for chosen in originals if chosen.id == most)
        arrays = {
            self._name(most, picture): picture.specimen.image
            for picture in manipulated(original, self.levels, self.seed)
        }
        rows = images[images["id"] == most].copy()
        rows["array"] = [arrays.get(name, original.specimen.image) for name in rows["picture"]]
        return rows
