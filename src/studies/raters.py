"""Several people's scores of the same pictures: read and checked, their agreement, and each metric's beside it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
from scipy.stats import chi2, rankdata

from ..imaging.io import write_image
from .correlation import Less, MeanOf, Spearman
from .statistics import hierarchical_bootstrap

LONG = ("image", "rater", "score")
SHEET_NOTE = (
    "left: the original; right: a changed picture. Score how well the right one keeps the phenotype (more is better)."
)


def read_ratings(path: str | Path, pictures: Sequence[str]) -> pd.DataFrame:
    """Read a CSV of scores, higher = the phenotype is kept better: one row per picture, one column per rater.

    Long: the columns image, rater, score. Wide: image, and one column per rater. Raises ValueError, naming row (of the
    file, its header is row 1) and column, for a missing or doubled score, text, a picture that is not among `pictures`,
    fewer than two raters or three pictures, or a rater who gave all pictures one score.
    """
    try:
        table = pd.read_csv(path, dtype=str, skipinitialspace=True)
    except (OSError, pd.errors.ParserError, pd.errors.EmptyDataError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} cannot be read as a CSV of scores: {error}") from None
    table.columns = table.columns.str.strip()
    if "image" not in table:
        raise ValueError(
            f"{path} has no column 'image' (it has {list(table.columns)}): give image, rater, score, or image and one "
            "column per rater"
        )
    if twins := [name for name in table.columns if name.endswith(".1") and name[:-2] in table]:
        raise ValueError(f"{path} has two columns {twins[0][:-2]!r}: give each rater a name of their own")
    if set(LONG) == set(table.columns):
        long = table.assign(row=table.index + 2)
    else:
        long = table.assign(row=table.index + 2).melt(["image", "row"], var_name="rater", value_name="score")
    column = "score" if set(LONG) == set(table.columns) else None
    known, seen = set(pictures), dict[tuple[str, str], int]()
    for row, image, rater, score in long[["row", "image", "rater", "score"]].itertuples(index=False):
        where = f"{path}, row {row}, column {column or rater!r}"
        if pd.isna(image) or image not in known:
            raise ValueError(
                f"{path}, row {row}, column 'image': {image!r} is no picture of this study: use the names of the sheet "
                "that the same data and seed gave (study.rating_sheet)"
            )
        if pd.isna(rater):
            raise ValueError(f"{path}, row {row}, column 'rater' is empty: name the rater")
        if pd.isna(score):
            raise ValueError(f"{where}: the score is missing: every rater must score every picture")
        try:
            finite = np.isfinite(float(score))
        except ValueError:
            finite = False
        if not finite:
            raise ValueError(f"{where}: {score!r} is not a number")
        if (image, rater) in seen:
            raise ValueError(f"{where}: rater {rater!r} scored {image!r} in row {seen[image, rater]} already")
        seen[image, rater] = row
    scores = long.astype({"score": float}).pivot(index="image", columns="rater", values="score")
    for rater in scores:
        missing = scores.index[scores[rater].isna()]
        if len(missing):
            raise ValueError(f"{path}: rater {rater!r} has no score for {missing[0]!r} ({len(missing)} in all)")
        if scores[rater].nunique() == 1:
            raise ValueError(
                f"{path}: rater {rater!r} gave every picture the score {scores[rater].iloc[0]:g}: no ranking"
            )
    if scores.shape[1] < 2 or len(scores) < 3:
        raise ValueError(
            f"{path} holds {scores.shape[1]} raters and {len(scores)} pictures: 2 and 3 are needed at least"
        )
    return scores


class Concordance(NamedTuple):
    """Kendall's W in 0..1, with Friedman's chi-square of pictures - 1 degrees of freedom and its p."""

    w: float
    chi_square: float
    p: float


def kendalls_w(scores: np.ndarray | pd.DataFrame) -> Concordance:
    """Kendall's coefficient of concordance of scores (pictures x raters), corrected for ties.

    W = 12 S / (m^2 (n^3 - n) - m sum T) with T = sum (t^3 - t) over the ties of each rater; chi-square = m (n - 1) W,
    rough for fewer than 7 pictures. 1: all rank alike; 0: no more than by chance. Source: Kendall & Babington Smith
    1939; Siegel & Castellan 1988, section 9.3. Raises ValueError if no rater ranks anything.
    """
    values = np.asarray(scores, dtype=float)
    n, m = values.shape
    ranks = rankdata(values, axis=0)
    spread = float(((ranks.sum(axis=1) - m * (n + 1) / 2) ** 2).sum())
    ties = 0
    for column in values.T:
        times = np.unique(column, return_counts=True)[1]
        ties += int((times**3 - times).sum())
    below = m**2 * (n**3 - n) - m * ties
    if below == 0:
        raise ValueError("every rater gave all pictures one score: there is no ranking to agree on")
    w = 12 * spread / below
    statistic = m * (n - 1) * w
    return Concordance(w, statistic, float(chi2.sf(statistic, n - 1)))


def left_out_agreement(
    ratings: pd.DataFrame, pictures: pd.DataFrame, metrics: Sequence[str], n_bootstrap: int, seed: int
) -> pd.DataFrame:
    """Each rater, and each metric, against the mean rank that the other raters gave: people and metrics on equal terms.

    `pictures` is indexed as `ratings`, with id, group and the metrics (higher = better). A row per judge: "a rater" and
    every metric; Spearman averaged over the raters left out, the lowest and highest of them, and metric minus rater
    ("to a rater") with intervals over wells. The raters themselves are not resampled: they are these people.
    """
    table = pictures.join(ratings.add_prefix("rater "))
    others = {}
    for rater in ratings:
        table[f"without {rater}"] = ratings.drop(columns=rater).rank().mean(axis=1)
        others[rater] = f"without {rater}"
    human = MeanOf(tuple(Spearman(f"rater {rater}", consensus) for rater, consensus in others.items()))
    rows = []
    for judge in ("a rater", *metrics):
        own = human if judge == "a rater" else MeanOf(tuple(Spearman(judge, other) for other in others.values()))
        single = [float(part(table, np.ones((1, len(table))))[0]) for part in own.parts]
        agreement = hierarchical_bootstrap(table, own, n=n_bootstrap, seed=seed)
        row: dict[str, object] = {"judge": judge, "agreement": agreement.estimate}
        row |= {"agreement low": agreement.low, "agreement high": agreement.high}
        row |= {"least": min(single), "most": max(single)}
        if judge != "a rater":
            gap = hierarchical_bootstrap(table, Less(own, human), n=n_bootstrap, seed=seed)
            row |= {"to a rater": gap.estimate, "to a rater low": gap.low, "to a rater high": gap.high}
        rows.append(row | {"pictures": len(table), "wells": table["group"].nunique()})
    return pd.DataFrame(rows)


def write_rating_sheet(
    folder: str | Path, pairs: Mapping[str, tuple[np.ndarray, np.ndarray]], key: pd.DataFrame
) -> Path:
    """Write `rating/NAME.png` (original left, changed right, one grey scale), `sheet.csv` to fill in, and `key.csv`.

    Images are Y X in [0, 1]; names say nothing of what was done, and `key` (kept from the raters) does. Returns the
    sheet's path. Raises FileExistsError where a sheet is there already: it may hold somebody's scores.
    """
    folder = Path(folder)
    sheet = folder / "sheet.csv"
    if sheet.exists():
        raise FileExistsError(f"{sheet} exists and may hold scores: name another folder in study.rating_sheet")
    for name, (original, changed) in pairs.items():
        brightest = max(float(np.quantile(original, 0.998)), 1e-6)
        halves = [np.rint(np.clip(part / brightest, 0, 1) * 255).astype(np.uint8) for part in (original, changed)]
        gap = np.full((original.shape[0], 8), 255, np.uint8)
        write_image(folder / "rating" / f"{name}.png", np.hstack([halves[0], gap, halves[1]]))
    key.to_csv(folder / "key.csv", index=False)
    pd.DataFrame({"image": sorted(pairs), "rater": "", "score": ""}).to_csv(sheet, index=False)
    (folder / "READ_ME.txt").write_text(SHEET_NOTE + "\n", encoding="utf-8")
    return sheet
