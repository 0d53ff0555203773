"""Errors of a well's readouts under each policy for damaged fields: bias, RMSE, comparisons, where restoring wins."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from .judged import ALPHA
from .policies import READOUTS, Tally, readouts
from .statistics import Difference, Ratio, Statistic, hierarchical_bootstrap, holm, paired_bootstrap

KEEP, EXCLUDE, RESTORE, DROP = "keep ({})", "exclude", "restore ({})", "drop the field"
MODEL = RESTORE.format("model")
INTACT, ANNOTATED = "intact", "annotated"
AREA = "hole (%)"
WINS, LOSES = "restoring wins", "restoring loses"
MIN_RANKED = 5  # wells below which a rank correlation says nothing


class RelativeRmse:
    """Root mean square of the column error over the mean of the column truth, in %; rows with NaN are left out."""

    def columns(self) -> list[str]:
        return ["error", "truth"]

    def __call__(self, table: pd.DataFrame, weights: np.ndarray) -> np.ndarray:
        known = table[self.columns()].notna().all(axis=1).to_numpy()
        weights, error, truth = weights[:, known], table["error"].to_numpy()[known], table["truth"].to_numpy()[known]
        # sqrt(sum w e^2 / W) / (sum w t / W), with W the sum of the weights
        above, below = np.sqrt(weights.sum(axis=1) * (weights @ error**2)), weights @ truth
        return 100 * np.divide(above, below, out=np.full(len(weights), np.nan), where=below > 0)


RMSE = RelativeRmse()
SCORES: dict[str, Statistic] = {"bias (%)": Ratio({"error": 100.0}, {"truth": 1.0}), "RMSE (%)": RMSE}


def errors_by_well(fields: pd.DataFrame) -> pd.DataFrame:
    """A row per readout, hole area, policy and well: value, truth, error, and whether other wells stand for it.

    `fields` has a row per field and policy: id, group (the well), plate, damaged, policy, kind, hole area and a Tally.
    The intact fields are the truth. A well's value sums its damaged fields under the policy and its others intact;
    dropping leaves the others, or where there are none the mean of the plate's other wells.
    """
    sums = list(Tally._fields)
    intact = fields[fields["policy"] == INTACT]
    truth = readouts(intact.groupby("group")[sums].sum())
    plates = intact.groupby("group")["plate"].first()
    rest = intact[~intact["damaged"]].groupby("group")[sums].sum().reindex(truth.index, fill_value=0.0)
    dropped, alone = readouts(rest), rest.index[rest["seen"] == 0]
    for group in alone:
        others = plates.index[(plates == plates[group]) & (plates.index != group)]
        dropped.loc[group] = truth.loc[others].mean()
    tables = []
    for area, at in fields[~fields["policy"].isin([INTACT, ANNOTATED])].groupby(AREA):
        values = {
            (policy, kind): readouts(rows.groupby("group")[sums].sum() + rest)
            for (policy, kind), rows in at.groupby(["policy", "kind"], sort=False)
        }
        for (policy, kind), value in {**values, (DROP, "drop"): dropped}.items():
            for readout in READOUTS:
                names = {"readout": readout, AREA: area, "policy": policy, "kind": kind}
                table = _errors(value[readout], truth[readout]).assign(**names)
                tables.append(table.assign(replaced=table["group"].isin(alone) & (policy == DROP)))
    wells = pd.concat(tables, ignore_index=True)
    return wells[["readout", AREA, "policy", "kind", "group", "id", "value", "truth", "error", "replaced"]]


def policy_table(wells: pd.DataFrame, n: int, seed: int) -> pd.DataFrame:
    """Bias, RMSE (with `n` resamples) and rank correlation over wells of every readout, area and policy."""
    rows = []
    for (readout, area, policy, kind), table in wells.groupby(["readout", AREA, "policy", "kind"], sort=False):
        row: dict[str, object] = {"readout": readout, AREA: area, "policy": policy, "kind": kind}
        # The mean of the others falls where the well itself rises: ranks of replaced wells are always reversed.
        own = table[~table["replaced"]].dropna(subset=["error"])
        ranked = len(own) >= MIN_RANKED and own[["truth", "value"]].nunique().min() > 1
        row |= _scores(table, n, seed)
        row["Spearman"] = own["truth"].corr(own["value"], method="spearman") if ranked else np.nan
        rows.append(row | {"wells": int(table["error"].notna().sum())})
    return pd.DataFrame(rows)


def ruler_table(fields: pd.DataFrame, n: int, seed: int) -> pd.DataFrame:
    """Bias and RMSE of the intact fields as segmented against their annotated nuclei, over wells."""
    annotated = fields[fields["policy"] == ANNOTATED]
    segmented = fields[(fields["policy"] == INTACT) & fields["id"].isin(annotated["id"])]
    truth, value = (readouts(rows.groupby("group")[list(Tally._fields)].sum()) for rows in (annotated, segmented))
    rows = []
    for readout in READOUTS:
        table = _errors(value[readout], truth[readout])
        rows.append({"readout": readout} | _scores(table, n, seed) | {"wells": int(table["error"].notna().sum())})
    return pd.DataFrame(rows)


def comparison_table(
    wells: pd.DataFrame, policies: pd.DataFrame, fills: Sequence[str], n: int, seed: int
) -> pd.DataFrame:
    """RMSE of the model less that of excluding, then of the best of `fills`; Holm over the rows of each question."""
    rmse = policies.pivot(index=["readout", AREA], columns="policy", values="RMSE (%)")
    rivals = {"exclude": [EXCLUDE], "best fill": [RESTORE.format(fill) for fill in fills]}
    tables = []
    for question, names in rivals.items():
        rows, found = [], []
        for (readout, area), part in wells.groupby(["readout", AREA], sort=False):
            scores = rmse.loc[(readout, area)]
            if scores[names].isna().all():
                continue
            rival = str(scores[names].idxmin())
            first, second = (part[part["policy"] == policy] for policy in (MODEL, rival))
            found.append(paired_bootstrap(first, second, RMSE, n=n, seed=seed))
            rows.append({"question": f"against {question}", "readout": readout, AREA: area, "against": rival})
            rows[-1] |= {"model RMSE (%)": scores[MODEL], "rival RMSE (%)": scores[rival]}
        adjusted = holm([difference.p for difference in found])
        for row, difference, p in zip(rows, found, adjusted, strict=True):
            row |= {"difference": difference.estimate, "difference low": difference.low}
            row |= {"difference high": difference.high, "p": difference.p, "p Holm": p}
            row |= {"verdict": _judgement(difference, p), "wells": difference.units}
        tables.append(pd.DataFrame(rows))
    return pd.concat(tables, ignore_index=True)


def crossing_table(comparisons: pd.DataFrame, policies: pd.DataFrame) -> pd.DataFrame:
    """Per readout: from which area on restoring wins over excluding, and the policy with the lowest RMSE of all."""
    rows = []
    against = comparisons[comparisons["question"] == "against exclude"]
    known = policies.dropna(subset=["RMSE (%)"])
    lowest = known.loc[known.groupby(["readout", AREA])["RMSE (%)"].idxmin()].sort_values(AREA)
    for readout, at in against.groupby("readout", sort=False):
        at = at.sort_values(AREA)
        wins, loses = at["verdict"].eq(WINS).to_numpy(), at["verdict"].eq(LOSES).to_numpy()
        run = len(wins) if wins.all() else int(np.argmin(wins[::-1]))  # wins in a row, from the largest area down
        best = lowest[lowest["readout"] == readout].groupby("policy", sort=False)[AREA]
        rows.append(
            {
                "readout": readout,
                "restoring wins from": f"{at[AREA].iloc[len(wins) - run]:g} %" if run else "nowhere",
                "wins at": _listed(at[AREA][wins]),
                "loses at": _listed(at[AREA][loses]),
                "not distinguished at": _listed(at[AREA][~wins & ~loses]),
                "lowest RMSE": "; ".join(f"{policy} at {_listed(areas)}" for policy, areas in best),
                "wells": int(at["wells"].min()),
            }
        )
    return pd.DataFrame(rows)


def _scores(table: pd.DataFrame, n: int, seed: int) -> dict[str, object]:
    row: dict[str, object] = {}
    for name, statistic in SCORES.items():
        found = hierarchical_bootstrap(table, statistic, n=n, seed=seed)
        row |= {name: found.estimate, f"{name} low": found.low, f"{name} high": found.high}
    return row


def _errors(value: pd.Series, truth: pd.Series) -> pd.DataFrame:
    table = pd.DataFrame({"value": value, "truth": truth.reindex(value.index)})
    return table.assign(error=table["value"] - table["truth"], id=table.index, group=table.index).reset_index(drop=True)


def _judgement(found: Difference, p: float) -> str:
    if p < ALPHA and found.high < 0:
        return WINS
    if p < ALPHA and found.low > 0:
        return LOSES
    return f"not distinguished, n = {found.units} well{'s' * (found.units != 1)}"


def _listed(areas: pd.Series) -> str:
    return ", ".join(f"{area:g}" for area in areas) + " %" if len(areas) else "none"
