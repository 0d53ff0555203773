"""Do corrupted images, or phenotypes, lie apart in a network's bottleneck? Its embeddings in two dimensions."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
import pandas as pd

from ..datamodules.corrupted import clipped_share, corrupted
from ..datamodules.pair_patches import PairPatches
from ..imaging.corruptions import SEVERITIES
from .embedded import Pool
from .embeddings_clouds import Cloud, by_image, cloud, some
from .embeddings_figures import called_points, clouds, contours, shades
from .embeddings_words import APART, PARTLY, captions, notes_of, verdict
from .judged import ALPHA, FEW_WELLS, check_resamples, count
from .projections import (
    Calls,
    Projection,
    calls,
    check_reducers,
    explained,
    permutations_for,
    planned,
    projections,
    told_by_neighbours,
)
from .result import StudyResult
from .statistics import Difference, hierarchical_bootstrap, holm, mean_of, paired_bootstrap, pooled_f1
from .subject import Study, Subject

log = logging.getLogger(__name__)
Unit = Literal["crop", "image"]
TRAIN, CLEAN = "training", "clean test"
F1 = pooled_f1("")
TESTS = 2  # of each row: more found than falsely called, F1 above the null's


class Embeddings(Study):
    """Projects bottlenecks of clean training, clean test and corrupted test images into two dimensions.

    The maps are fitted on clean training images alone (thesis, section 4.2). Then: are corrupted images called so, by
    clusters that no label chose (`projections.calls`), more often than clean ones are? And with a better F1 than by
    calling everything corrupted? Do the nearest training images tell the phenotype, where the index has that column,
    better than with permuted labels? How much of the images' brightness do they tell?

    `pool` is that of `embedded`, `units` what a point is (crop, or image: the mean of its crops), `reducers` and
    `components` those of `projections`. `corruptions` are kind and severity of table 9.
    The thesis gives F1 of "0.76 VS 0.64" after PaCMAP and does not say of what; with as many corrupted as clean images
    calling everything corrupted has 0.67. Raises ValueError for settings that name nothing known.
    """

    of_pairs = True

    def __init__(
        self,
        pool: Pool = "flatten",
        units: Sequence[Unit] = ("crop", "image"),
        reducers: Sequence[str] = ("pca", "umap", "pacmap"),
        components: Sequence[int] = (10, 50, 200),
        corruptions: Sequence[Mapping[str, Any]] = ({"kind": "defocus", "severity": 4},),
        umap: Mapping[str, Any] | None = None,
        pacmap: Mapping[str, Any] | None = None,
        max_crops: int = 2000,
        n_bootstrap: int = 2000,
        seed: int = 0,
    ) -> None:
        self.pool, self.units, self.reducers, self.components = pool, units, reducers, components
        self.options = {"umap": {"n_neighbors": 15, **(umap or {})}, "pacmap": {"n_neighbors": 10, **(pacmap or {})}}
        self.max_crops, self.n_bootstrap, self.seed = max_crops, n_bootstrap, seed
        self.corruptions = {_label(corruption): dict(corruption) for corruption in corruptions}
        if not corruptions or len(self.corruptions) < len(corruptions) or not units:
            raise ValueError(f"study.corruptions={list(corruptions)}, study.units={list(units)}: name each once")
        if min(components, default=2) < 2 or max_crops < 1:
            raise ValueError(
                f"study.components={list(components)} are 2 or more each and study.max_crops={max_crops} 1 or more"
            )

    def check(self, datamodule: Any) -> None:
        """Refuses data without pairs, training or test patches, and reducers that are not installed."""
        super().check(datamodule)
        check_reducers(self.reducers)
        for split in ("train", "test"):
            datamodule.patches(split)

    def run(self, subject: Subject) -> StudyResult:
        """Embed, project, cluster, and return tables, figures, verdict and notes."""
        assert subject.judge is not None
        assert subject.module is not None
        data, module = subject.datamodule, subject.module(None)
        train, clean = (some(data.patches(split), self.max_crops, self.seed) for split in ("train", "test"))
        fitted_on = {"crop": len(train), "image": len({row for row, *_ in train.windows})}
        most = sum(planned(fitted_on[unit], self.reducers, self.components, self.options) for unit in self.units)
        check_resamples(self.n_bootstrap, TESTS * most * len(self.corruptions))
        broken = {name: corrupted(clean, **kind) for name, kind in self.corruptions.items()}
        crops = {}
        for name, samples in {TRAIN: train, CLEAN: clean, **broken}.items():
            log.info("embedding %s: %s", name, count(len(samples), "crop"))
            crops[name] = cloud(module, samples, self.pool)
        rows: list[dict[str, Any]] = []
        found: list[list[Difference]] = []
        told: list[dict[str, Any]] = []
        points: list[pd.DataFrame] = []
        cut: list[str] = []
        for unit in self.units:
            sets = crops if unit == "crop" else {name: by_image(own) for name, own in crops.items()}
            new = {name: sets[name].values for name in (CLEAN, *broken)}
            log.info("projecting %s", count(len(sets[TRAIN].values), f"training {unit}"))
            maps, left = projections(sets[TRAIN].values, new, self.reducers, self.components, self.options, self.seed)
            cut += [f"{unit}s, {words}" for words in left]
            for projection in maps:
                made = {
                    name: calls(projection.train, projection.new[name], projection.new[CLEAN])
                    for name in self.corruptions
                }
                about = {"unit": unit, "projection": projection.name}
                for name, call in made.items():
                    row, *both = self._clusters(sets[CLEAN].rows, call)
                    rows.append({**about, "corruption": name, **row})
                    found.append(both)
                told.append({**about, **self._told(projection, sets, permutations_for(most, ALPHA))})
                points.append(_placed(projection, sets, next(iter(made.values())).called).assign(**about))
        if not rows:
            raise ValueError(f"no reducer of {list(self.reducers)} could be fitted: {'; '.join(cut)}")
        tables = {
            "clusters": _compared(rows, found),
            "told": _held(pd.DataFrame(told)),
            "predictions": self._judged(subject, broken),
            "per_image": pd.concat(points, ignore_index=True).dropna(axis=1, how="all"),
        }
        figures = _figures(tables["per_image"], self.units)
        leaky = " Leaky split." if subject.leaky_split else ""
        wells = int(crops[CLEAN].rows["group"].nunique())
        few = f" Fewer than {FEW_WELLS} wells: a hint, not yet a finding." if wells < FEW_WELLS else ""
        return StudyResult(
            title=f"Embeddings: do corrupted images lie apart in the bottleneck of {type(module).__name__}?",
            tables=tables,
            figures=figures,
            main="clusters",
            notes=notes_of(
                data,
                self.corruptions,
                {name: clipped_share(clean, **kind) for name, kind in self.corruptions.items()},
                (crops[TRAIN].values.shape[1], self.pool),
                {"train": crops[TRAIN].rows, "test": crops[CLEAN].rows},
                cut,
                (self.n_bootstrap, self.seed),
                subject.leaky_split,
            ),
            captions=captions([*tables, *figures], self.units, leaky),
            verdict=verdict(tables["clusters"], tables["told"]) + few + leaky,
        )

    def _clusters(self, clean: pd.DataFrame, call: Calls) -> tuple[dict[str, Any], Difference, Difference]:
        """The scores of one map and corruption; how much more is found than falsely called; F1 minus the null's."""
        hit, false = call.called
        own = clean[["id", "group"]].assign(tp=hit.astype(float), fp=false.astype(float), fn=(~hit).astype(float))
        everything = own.assign(tp=1.0, fp=1.0, fn=0.0)
        f1 = hierarchical_bootstrap(own, F1, n=self.n_bootstrap, seed=self.seed)
        gain = paired_bootstrap(own, everything, F1, n=self.n_bootstrap, seed=self.seed)
        row: dict[str, Any] = {"F1": f1.estimate, "F1 low": f1.low, "F1 high": f1.high}
        row |= {"F1 of everything": f1.estimate - gain.estimate}
        row |= {"found": hit.mean(), "false alarms": false.mean(), "clusters": call.clusters, "radius": call.radius}
        more = paired_bootstrap(own, own.assign(tp=own["fp"]), mean_of("tp"), n=self.n_bootstrap, seed=self.seed)
        return row, more, gain

    def _told(self, projection: Projection, sets: Mapping[str, Cloud], permutations: int) -> dict[str, Any]:
        """What the nearest training points tell of clean test points: phenotype and brightness."""
        train, test, places = sets[TRAIN].rows, sets[CLEAN].rows, projection.new[CLEAN]
        row: dict[str, Any] = {
            "brightness R2": explained(projection.train, train["brightness"], places, test["brightness"])
        }
        known = train["phenotype"].notna().to_numpy(), test["phenotype"].notna().to_numpy()
        labels = [rows["phenotype"].to_numpy()[kept] for rows, kept in zip((train, test), known, strict=True)]
        if all(len(set(side)) > 1 for side in labels):
            wells = train["group"].to_numpy()[known[0]]
            if (pd.Series(labels[0]).groupby(wells).nunique() > 1).any():
                raise ValueError("a well holds two phenotypes: the index's column phenotype is one of wells; mend it")
            votes = told_by_neighbours(
                projection.train[known[0]], labels[0], wells, places[known[1]], labels[1], permutations, self.seed
            )
            row |= dict(zip(("phenotype accuracy", "95 % of permuted", "p"), votes, strict=True))
        return row

    def _judged(self, subject: Subject, broken: Mapping[str, PairPatches]) -> pd.DataFrame:
        """How good the network's output is on the same crops, clean and corrupted."""
        assert subject.judge is not None
        tables = {CLEAN: subject.judge(None)} | {name: subject.judge(None, own) for name, own in broken.items()}
        ids = set.intersection(*(set(table["id"]) for table in tables.values()))
        rows = []
        for name, table in tables.items():
            if "pearson/r" not in table:
                raise ValueError("the table of images lacks pearson/r: judge with metrics=translation")
            own = table[table["id"].isin(ids)]
            r = hierarchical_bootstrap(own, mean_of("pearson/r"), n=self.n_bootstrap, seed=self.seed)
            row = {"images": name, "Pearson r": r.estimate, "Pearson r low": r.low, "Pearson r high": r.high}
            if "control/r" in own:
                row["control r"] = float(own["control/r"].mean())
            rows.append(row | {"crops": len(own), "wells": own["group"].nunique()})
        return pd.DataFrame(rows)


def _label(corruption: Mapping[str, Any]) -> str:
    kind, severity = corruption.get("kind"), corruption.get("severity")
    if set(corruption) != {"kind", "severity"} or severity not in SEVERITIES.get(str(kind), {}):
        known = "; ".join(f"{name} {min(levels)} to {max(levels)}" for name, levels in SEVERITIES.items())
        raise ValueError(f"study.corruptions holds {dict(corruption)}: give kind and severity, of {known}")
    return f"{kind} {severity}"


def _compared(rows: list[dict[str, Any]], found: Sequence[Sequence[Difference]]) -> pd.DataFrame:
    """The rows with what is found more than falsely called, F1 more than the null's, and what both say.

    Holm's correction takes both p of all rows as one family.
    """
    corrected = holm(np.array([[one.p for one in both] for both in found], dtype=float).ravel()).reshape(-1, TESTS)
    shown = [
        [one.low > 0 and p < ALPHA for one, p in zip(*pair, strict=True)] for pair in zip(found, corrected, strict=True)
    ]
    table = pd.DataFrame(rows)
    more = [first for first, _ in found]
    said = {
        "more found": [one.estimate for one in more],
        "more found low": [one.low for one in more],
        "more found high": [one.high for one in more],
        "p Holm": corrected[:, 0],
        "p Holm of F1": corrected[:, 1],
        "corrupted lie": [(APART if better else PARTLY) if clear else "not shown apart" for clear, better in shown],
    }
    at = list(table.columns).index("clusters")
    table = pd.concat([table.iloc[:, :at], pd.DataFrame(said), table.iloc[:, at:]], axis=1)
    return table.assign(images=[one.rows for one in more], wells=[one.units for one in more])


def _held(told: pd.DataFrame) -> pd.DataFrame:
    """The table with p corrected over all rows, where phenotypes were looked at."""
    if "p" not in told:
        return told
    return told.assign(**{"p Holm": holm(told["p"].to_numpy(dtype=float))}).drop(columns="p")


def _placed(projection: Projection, sets: Mapping[str, Cloud], called: tuple[np.ndarray, np.ndarray]) -> pd.DataFrame:
    """A row per point of a projection; `called` are the calls of the first corrupted and of the clean test points."""
    first = next(name for name in sets if name not in (TRAIN, CLEAN))
    said = {first: called[0], CLEAN: called[1]}
    parts = []
    for name, own in sets.items():
        xy = projection.train if name == TRAIN else projection.new[name]
        about = own.rows.drop(columns="field").assign(set=name, x=xy[:, 0], y=xy[:, 1])
        parts.append(about.assign(called=pd.array(said.get(name, [pd.NA] * len(own.rows)), dtype="boolean")))
    return pd.concat(parts, ignore_index=True)


def _figures(points: pd.DataFrame, units: Sequence[Unit]) -> dict[str, Any]:
    figures = {}
    for unit in units:
        own = points[points["unit"] == unit]
        if own.empty:
            continue
        panels = [(name, own[own["projection"] == name]) for name in own["projection"].unique()]
        figures[f"{unit}s"] = clouds(panels)
        figures[f"{unit}s_density"] = contours(panels)
        figures[f"{unit}s_called"] = called_points(panels)
        figures[f"{unit}s_brightness"] = shades(panels)
        if "phenotype" in points:
            figures[f"{unit}s_phenotype"] = clouds(panels, by="phenotype")
    return figures
