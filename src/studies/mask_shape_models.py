"""Does a score follow the hole's shape, its area or its inscribed radius? A mixed model, and paired differences."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from .judged import ALPHA, count
from .mask_shape_masks import ARTEFACT, RECTANGLE, STROKES
from .statistics import Ratio, equivalence, holm, mean_of, paired_bootstrap, pooled_f1

SCORES: dict[str, Ratio] = {
    "PhIRM": mean_of("phirm/phirm"),
    "rim F1": pooled_f1("nuclei/rim_"),
    "hole MAE": mean_of("pixels/mae"),
}
PER_IMAGE = {"PhIRM": "phirm/phirm", "rim F1": "nuclei/rim_f1", "hole MAE": "pixels/mae"}
# Terms as they are reported: what one unit of each is. Shapes are against the rectangle.
AREA, RADIUS, COVERED = "area, +10 % of the image", "inscribed radius, +10 um", "covered, +1 nucleus"
SHAPES = {f"shape: {shape}": shape for shape in (STROKES, ARTEFACT)}
MODELS = {"shape + area": (*SHAPES, AREA), "shape + area + radius + covered": (*SHAPES, AREA, RADIUS, COVERED)}
AREA_MODEL, RADIUS_MODEL = MODELS
NUMBERS = ("estimate", "estimate low", "estimate high", "p", "SD of fields", "SD within")
NUISANCE = (COVERED,)  # in the model, not among the questions
# Images beyond fields and terms: with fewer, a fit may leave no residual, and normal limits are too narrow.
LEAST_LEFT = 20


def paired_differences(images: pd.DataFrame, margins: Mapping[str, float], n: int, seed: int) -> pd.DataFrame:
    """Each irregular shape minus its matched rectangles, by method and score: interval, p, and p of equivalence.

    Wells are resampled, then pairs inside wells. Holm over the networks' rows and over the fills', for difference and
    for equivalence apart.
    """
    rows = []
    for (method, kind), table in images.groupby(["method", "kind"], sort=False):
        for score, statistic in SCORES.items():
            for shape in SHAPES.values():
                pairs = table[table["of"] == shape]
                both = [pairs[pairs["shape"] == one] for one in (shape, RECTANGLE)]
                options = {"within": "pair", "n": n, "seed": seed}
                found = paired_bootstrap(both[0], both[1], statistic, **options)  # type: ignore[arg-type]
                row: dict[str, object] = {"method": method, "kind": kind, "score": score, "shape": shape}
                row |= {one: float(statistic(part, np.ones((1, len(part))))[0]) for one, part in
                        (("of shape", both[0]), ("of rectangle", both[1]))}  # fmt: skip
                row |= {"difference": found.estimate, "difference low": found.low, "difference high": found.high}
                row |= {"p": found.p, "margin": margins[score]}
                row["p equivalence"] = equivalence(both[0], both[1], statistic, margins[score], **options)  # type: ignore[arg-type]
                rows.append(row | {"pairs": found.rows, "wells": found.units})
    table = pd.DataFrame(rows)
    for p in ("p", "p equivalence"):
        table.insert(table.columns.get_loc(p) + 1, f"{p} Holm", _holm_by_family(table, p))
    table.insert(table.columns.get_loc("p"), "verdict", [_told(row) for _, row in table.iterrows()])
    return table


def _told(row: pd.Series) -> str:
    """differs, equivalent within the margin, both, or not distinguished."""
    differs = row["p Holm"] < ALPHA and (row["difference low"] > 0 or row["difference high"] < 0)
    inside = row["p equivalence Holm"] < ALPHA
    higher = "higher" if row["difference"] > 0 else "lower"
    if inside:
        return f"{higher}, within the margin" if differs else "equivalent"
    return higher if differs else f"not distinguished, n = {count(int(row['wells']), 'well')}"


def _holm_by_family(table: pd.DataFrame, p: str) -> pd.Series:
    """Holm's p of a column over two families: the rows of the networks, and those of the fills beside them."""
    family = table["kind"].str.endswith(" fill")
    return table.groupby(family)[p].transform(lambda values: holm(values.to_numpy(float)))


def mixed_models(images: pd.DataFrame) -> pd.DataFrame:
    """Linear mixed models of each method's per-image scores, with the field as random intercept (REML).

    A row per score, model and term: estimate for one unit of the term, Wald interval and p; Holm over the networks'
    terms and over the fills', covered nuclei left out. Images without a score are left out. Where a model cannot be
    fitted, its rows hold NaN and say why.
    """
    rows = []
    for (method, kind), table in images.groupby(["method", "kind"], sort=False):
        for score, column in PER_IMAGE.items():
            for model, terms in MODELS.items():
                fitted = fit(table, column, terms)
                for _, row in fitted.iterrows():
                    rows.append({"method": method, "kind": kind, "score": score, "model": model, **row})
    result = pd.DataFrame(rows)
    asked = ~result["term"].isin(NUISANCE)
    result.insert(result.columns.get_loc("p") + 1, "p Holm", _holm_by_family(result[asked], "p"))
    return result


def fit(table: pd.DataFrame, column: str, terms: Sequence[str]) -> pd.DataFrame:
    """One mixed model: term, estimate, limits, p; SD between fields and within, images, fields, and a remark."""
    from scipy.stats import norm
    from statsmodels.regression.mixed_linear_model import MixedLM
    from statsmodels.tools.sm_exceptions import ConvergenceWarning

    known = table[table[column].notna()]
    fields = known["field"].nunique()
    design = pd.DataFrame({"rectangle": 1.0}, index=known.index)
    for term in terms:
        design[term] = _term(known, term)
    facts = {"images": len(known), "fields": fields}
    empty = pd.DataFrame({"term": list(terms)}).assign(**dict.fromkeys(NUMBERS, np.nan), **facts)
    left = len(known) - fields - len(terms)
    enough = fields >= 2 and left >= LEAST_LEFT and np.linalg.matrix_rank(design) == design.shape[1]
    if not enough or known[column].std() < 1e-12:
        why = "the score does not vary" if enough else "too few images or fields for these terms"
        return empty.assign(remark=f"not fitted: {why}")
    # Standardised, and by Powell's method: with gradients statsmodels ended at a variance of 0 that is not the optimum,
    # or in a singular matrix, on real tables; this agreed with a plain profile likelihood on all of them.
    values = known[column].to_numpy(float)
    scale = float(values.std())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # a variance at its bound, of which the remark tells
        standard = (values - values.mean()) / scale
        found = MixedLM(standard, design, groups=known["field"].to_numpy()).fit(reml=True, method=["powell"])
    if not found.converged:
        return empty.assign(remark="did not converge: not used")
    ratio = max(float(found.cov_re.iloc[0, 0]) / found.scale, 0.0)
    estimate = scale * found.params[list(terms)].to_numpy()
    error = scale * np.sqrt(found.scale) * _unit_errors(design, known["field"], ratio)[1:]
    half = norm.ppf(1 - ALPHA / 2) * error
    return pd.DataFrame(
        {
            "term": list(terms),
            "estimate": estimate,
            "estimate low": estimate - half,
            "estimate high": estimate + half,
            "p": 2 * norm.sf(np.abs(estimate) / error),
            "SD of fields": scale * float(np.sqrt(ratio * found.scale)),
            "SD within": scale * float(np.sqrt(found.scale)),
            **facts,
            "remark": "fields hardly differ (variance near 0)" if ratio < 1e-4 else "",
        }
    )


def _unit_errors(design: pd.DataFrame, fields: pd.Series, ratio: float) -> np.ndarray:
    """Standard errors of the fixed effects for a residual SD of 1: generalised least squares at the ratio of variances.

    Not statsmodels' own, which invert a numerical Hessian: where the variance of fields is near 0, those were off by up
    to a third, or missing.
    """
    sums, sizes = design.groupby(fields).sum().to_numpy(), fields.groupby(fields).size().to_numpy()
    plain = design.to_numpy()
    information = plain.T @ plain - (sums.T * (ratio / (1 + ratio * sizes))) @ sums
    return np.sqrt(np.diag(np.linalg.inv(information)))


def _term(table: pd.DataFrame, term: str) -> pd.Series:
    """A term's column: 0 or 1 for a shape; else in its unit, about the mean."""
    if term in SHAPES:
        return (table["shape"] == SHAPES[term]).astype(float)
    values = {AREA: table["area"] * 10, RADIUS: table["radius (um)"] / 10, COVERED: table["covered"].astype(float)}[
        term
    ]
    return values - values.mean()
