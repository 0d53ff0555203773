"""Methods judged on the same images under the same holes: the scores, the checks, and the tables by band of area."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from .statistics import Difference, Ratio, hierarchical_bootstrap, holm, mean_of, pooled_f1
from .subject import Judge, Subject

Band = tuple[float, float]

SCORES: dict[str, Ratio] = {"PhIRM": mean_of("phirm/phirm"), "rim F1": pooled_f1("nuclei/rim_")}
BESIDE: dict[str, Ratio] = {"inner F1": pooled_f1("nuclei/inner_"), "all F1": pooled_f1("nuclei/")}
PIXELS: dict[str, Ratio] = {name: mean_of(f"pixels/{name.lower()}") for name in ("PSNR", "SSIM", "MAE")}
FEW_WELLS = 8  # where 300 simulated comparisons without a difference (4 images a well) came near 5 %: 7 % had p < 0.05
ALPHA = 0.05
UNCORRECTED = "Intervals are not corrected: one without 0 may stand beside a p Holm above 0.05."
# Why intensities of two images cannot be compared (datamodules: comparable), as a study says it.
UNCOMPARED = (
    "Intensities are not comparable: each true image is in a unit of its own, as data.scaling=paper stretches it from "
    "its own minimum to its own maximum, or data.prepare changes it by itself"
)
NETWORK = "network"  # the kind of what was trained, beside "null fill" and "classical fill"
FIRST = ("method", "kind", "band", "id", "group", "mask_area")


def contestants(subject: Subject, checkpoints: Mapping[str, str | Sequence[str]]) -> dict[str, list[str | None]]:
    """Names for `judge` by label, one per training seed; None is the model that the study was asked about.

    That model comes first, under its class name, where its checkpoint is not among those given. Every checkpoint is
    held against the data before anything is judged: what `subject.origin` raises names what does not fit. Raises
    ValueError for a label that names one checkpoint or training seed twice, or networks of several classes.
    """
    assert subject.origin is not None
    own = subject.origin(None)
    named: dict[str, list[str | None]] = {}
    for label, given in checkpoints.items():
        paths = [given] if isinstance(given, str) else list(given)
        if not paths:
            raise ValueError(f"study.checkpoints: {label!r} names no checkpoint; give a path or a list of paths")
        names = [None if own.path and subject.origin(path).path == own.path else path for path in paths]
        origins = [subject.origin(name) for name in names]
        if len({origin.path for origin in origins}) < len(names):
            raise ValueError(f"study.checkpoints: {label!r} names a checkpoint twice: give each training seed once")
        if len(classes := list(dict.fromkeys(origin.network for origin in origins))) > 1:
            raise ValueError(f"study.checkpoints: {label!r} names {' and '.join(classes)}: give each its own label")
        seeds = [origin.seed for origin in origins if origin.seed is not None]
        if twice := [seed for seed in seeds if seeds.count(seed) > 1]:
            raise ValueError(
                f"study.checkpoints: {label!r} names several checkpoints of training seed {twice[0]}, which tell "
                "nothing of another seed: give each its own label"
            )
        named[str(label)] = names
    if not any(None in names for names in named.values()):
        if own.network in named:
            raise ValueError(
                f"study.checkpoints: {own.network!r} would also name the model of ckpt_path, which is not among its "
                "checkpoints: add it there, or choose another label"
            )
        named = {own.network: [None], **named}
    return named


def judged_label(judge: Judge, label: str, names: Sequence[str | None]) -> tuple[pd.DataFrame, list[pd.DataFrame]]:
    """The per-image table of one label, and that of each of its training seeds.

    With several seeds a number of an image is its mean over them, counts too, so that F1 of the means is that of all
    seeds pooled. Raises ValueError where the seeds were judged on other images or masks.
    """
    tables = [judge(name).assign(method=label) for name in names]
    for number, table in enumerate(tables):
        check_table(table, f"{label}, training seed {number + 1}", tables[0])
    return seed_mean(tables), tables


def seed_mean(tables: Sequence[pd.DataFrame]) -> pd.DataFrame:
    """Each number of each id, averaged over tables that hold the same ids; NaN is left out of its mean."""
    if len(tables) == 1:
        return tables[0]
    scores = [column for column in tables[0] if pd.api.types.is_numeric_dtype(tables[0][column])]
    means = pd.concat(list(tables)).groupby("id", sort=False)[scores].mean()
    first = tables[0].set_index("id")
    return first.assign(**{column: means[column] for column in scores}).reset_index()[list(tables[0].columns)]


def check_table(table: pd.DataFrame, name: str, first: pd.DataFrame) -> None:
    """Refuse a per-image table without the scores, with an id twice, or of other images or masks than `first`."""
    needed = {"id", "group", "mask_area", "nuclei/rim_f1"}.union(
        *(s.columns() for s in (SCORES | BESIDE | PIXELS).values())
    )
    missing = sorted(needed - set(table.columns))
    if missing:
        raise ValueError(
            f"the per-image table of {name} lacks {missing}: add their metrics to the config group metrics"
        )
    if table["id"].duplicated().any():
        twice = table["id"][table["id"].duplicated()].iloc[0]
        raise ValueError(f"{name} judged id {twice!r} twice: give each image and mask its own id")
    own, others = (t.set_index("id")["mask_area"].astype(float).sort_index() for t in (table, first))
    if not own.index.equals(others.index):
        alone = own.index.symmetric_difference(others.index)
        raise ValueError(f"{name} and the model were judged on other images (first: {alone[0]!r}): use one test split")
    if not np.allclose(own, others):
        worst = (own - others).abs().idxmax()
        raise ValueError(f"{name} and the model saw other masks (first: {worst!r}): seed the masks by id")


def on_identical_images(
    tables: Mapping[str, pd.DataFrame], kinds: Mapping[str, str], bands: Sequence[Band]
) -> pd.DataFrame:
    """All per-image tables (by method, in their order) as one, with `kind` and `band` added; ValueError as above."""
    first = next(iter(tables.values()))
    parts = []
    for name, table in tables.items():
        check_table(table, name, first)
        band = table["mask_area"].round(6).map(lambda area: band_of(area, bands))  # float32 may miss an edge by 1e-8
        parts.append(table.assign(method=name, kind=kinds[name], band=band))
    images = pd.concat(parts, ignore_index=True)
    return images[[*FIRST, *(column for column in images.columns if column not in FIRST)]]


def band_of(area: float, bands: Sequence[Band]) -> str | None:
    """The label of the band that holds a share of the image; the last band holds its upper edge too."""
    for low, high in bands:
        if low <= area < high or (high == bands[-1][1] == area):
            return label_of((low, high))
    return None


def by_band(
    images: pd.DataFrame, bands: Sequence[Band], scores: Mapping[str, Ratio], n: int, seed: int
) -> pd.DataFrame:
    """Every score of every method in every band, with its interval over wells."""
    rows = []
    for band in map(label_of, bands):
        for (method, kind), table in images[images["band"] == band].groupby(["method", "kind"], sort=False):
            rows.append({"band": band, "method": method, "kind": kind, **with_intervals(table, scores, n, seed)})
    return pd.DataFrame(rows)


def with_intervals(table: pd.DataFrame, scores: Mapping[str, Ratio], n: int, seed: int) -> dict[str, object]:
    """A row: each score with `<score> low` and `<score> high`, then how many images and wells."""
    row: dict[str, object] = {}
    for score, statistic in scores.items():
        interval = hierarchical_bootstrap(table, statistic, n=n, seed=seed)
        row |= {score: interval.estimate, f"{score} low": interval.low, f"{score} high": interval.high}
    return row | {"images": len(table), "wells": table["group"].nunique()}


def beside(images: pd.DataFrame) -> pd.DataFrame:
    """A row per method of what stands beside the scores: F1 of inner and of all nuclei, lost, invented, pixels."""
    rows = []
    for method, table in images.groupby("method", sort=False):
        ones = np.ones((1, len(table)))
        row: dict[str, object] = {"method": method}
        row |= {name: float(statistic(table, ones)[0]) for name, statistic in BESIDE.items()}
        row["nuclei"] = _total(table["nuclei/tp"] + table["nuclei/fn"])
        row |= {"lost": _total(table["nuclei/fn"]), "invented": _total(table["nuclei/fp"])}
        rows.append(row | {name: float(statistic(table, ones)[0]) for name, statistic in PIXELS.items()})
    return pd.DataFrame(rows)


def comparison_table(
    rows: Sequence[Mapping[str, object]], differences: Sequence[Difference], columns: Sequence[str]
) -> pd.DataFrame:
    """Rows of what was compared, with each difference, its interval, p, p after Holm over all rows, and verdict."""
    table = pd.DataFrame(list(rows), columns=list(columns))
    for column, part in (("difference", "estimate"), ("difference low", "low"), ("difference high", "high")):
        table[column] = [getattr(difference, part) for difference in differences]
    table["p"] = [difference.p for difference in differences]
    table["p Holm"] = holm(table["p"].to_numpy(dtype=float))
    table["verdict"] = [judgement(d, p) for d, p in zip(differences, table["p Holm"], strict=True)]
    table["images"] = [difference.rows for difference in differences]
    table["wells"] = [difference.units for difference in differences]
    return table


def judgement(difference: Difference, p: float) -> str:
    """What a difference says: beats, worse, or not distinguished, with the number of wells."""
    clear = p < ALPHA and (difference.low > 0 or difference.high < 0)
    if not clear:
        return f"not distinguished, n = {count(difference.units, 'well')}"
    return "beats" if difference.estimate > 0 else "worse"


def uncorrected(low: float, high: float) -> str:
    """What is added to an interval without 0 where the corrected p is not clear, so that both can be believed."""
    return " before Holm's correction" if low > 0 or high < 0 else ""


def check_resamples(n_bootstrap: int, tests: int) -> None:
    """Refuse so few resamples that no p could stay below 0.05 after Holm's correction of `tests` tests."""
    if 2 * tests / (n_bootstrap + 1) >= ALPHA:
        raise ValueError(
            f"study.n_bootstrap={n_bootstrap} gives no p below {ALPHA} after Holm's correction of {tests} tests: "
            f"use at least {int(2 * tests / ALPHA)}"
        )


def unit_notes(wells: int, n_bootstrap: int, seed: int) -> list[str]:
    """What is resampled and how far it can be trusted with so few wells."""
    notes = [
        f"The unit is the well (column group): wells are resampled, then images inside wells, {n_bootstrap} times with "
        f"seed {seed}; n = {count(wells, 'well')}."
    ]
    if wells == 1:
        notes.append("With one well there is no spread between wells, so no interval is given.")
    elif wells < FEW_WELLS:
        notes.append(
            f"With fewer than {FEW_WELLS} wells the intervals are too narrow and p too small: of simulated "
            "comparisons without a difference, 14 % had p < 0.05 with 4 wells, 24 % with 2."
        )
    return notes


def label_of(band: Band) -> str:
    return f"{100 * band[0]:g}-{100 * band[1]:g} %"


def number(value: float) -> str:
    return f"{value:.2f}" if np.isfinite(value) else "n/a"


def count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def _total(counts: pd.Series) -> float:
    """A sum of counts; of means over training seeds, to a tenth."""
    total = round(float(counts.sum()), 1)
    return int(total) if total.is_integer() else total
