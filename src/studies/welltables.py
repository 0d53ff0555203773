"""Tables of a plate report: fields that are checked, a row per well, a row per plate."""

from __future__ import annotations

import numpy as np
import pandas as pd

from .positions import well_place

KEYS = ["plate", "well", "group"]
PLAN = ["compound", "concentration", "unit", "role", "replicate", "batch"]
ROLES = ("negative", "positive", "treatment", "empty")
READOUTS = {
    "count": "nuclei per field",
    "mean_area": "mean nuclear area (um2)",
    "integrated_intensity": "integrated intensity (counts)",
}
QUALITY = {
    "focus": "focus score (higher: sharper)",
    "background": "background (counts)",
    "saturation": "saturated pixels (%)",
}


def check_fields(fields: pd.DataFrame) -> None:
    missing = sorted({"id", "field", *KEYS} - set(fields.columns))
    if missing or fields.empty:
        raise ValueError(
            f"a plate report needs fields with id, plate, well, field and group; missing: {missing or 'rows'}"
        )
    if "input_count" not in fields:
        raise ValueError("a plate report needs input_count, the nuclei of each field before the model: add it")
    for row in np.flatnonzero(fields["id"].duplicated()):
        raise ValueError(f"field id {fields['id'].iloc[row]!r} stands twice: one row per field")
    stages = {
        name.split("_")[0] for name in fields if name in {f"{s}_{r}" for s in ("input", "restored") for r in READOUTS}
    }
    for name in READOUTS:
        if len({f"{stage}_{name}" in fields for stage in stages}) > 1:
            raise ValueError(
                f"{name} stands before or after the model only: give both input_{name} and restored_{name}"
            )
    limits = {"restored_share": 1.0, "saturation": 100.0}
    never_unknown = ["input_count", "restored_count", "objects_touching", "restored_share"]
    for name in [*never_unknown, *QUALITY, *(f"{s}_{r}" for s in stages for r in READOUTS)]:
        if name not in fields:
            continue
        values = pd.to_numeric(fields[name], errors="coerce").to_numpy(dtype=float)
        bad = np.isnan(values) & (True if name in never_unknown else fields[name].notna().to_numpy()) | np.isinf(values)
        bad |= (values > limits.get(name, np.inf)) | ((values < 0) & (name != "focus"))
        if bad.any():
            first = fields.iloc[int(np.flatnonzero(bad)[0])]
            raise ValueError(
                f"{name} of field {first['id']!r} is {first[name]!r} ({bad.sum()} such fields): correct it"
            )
    if {"objects_touching", "restored_count"} <= set(fields) and (
        fields["objects_touching"] > fields["restored_count"]
    ).any():
        first = fields[fields["objects_touching"] > fields["restored_count"]].iloc[0]
        raise ValueError(
            f"field {first['id']!r} has more nuclei touching synthetic pixels than nuclei: count them again"
        )
    for name in PLAN:
        if name in fields:
            kinds = fields.groupby(["plate", "well"])[name].nunique(dropna=False)
            if (kinds > 1).any():
                raise ValueError(
                    f"well {':'.join(map(str, kinds.idxmax()))} has several values of {name}: a well has one"
                )
    if "role" in fields:
        stray = sorted(set(fields["role"].dropna()) - set(ROLES) - {""})
        if stray:
            raise ValueError(f"role {stray[0]!r} is none of {', '.join(ROLES)}: name the wells' roles by these")


def by_well(fields: pd.DataFrame, readouts: list[str]) -> pd.DataFrame:
    """A row per well: its plan, sums of nuclei, and means over its fields; in the order of plates, rows and columns."""
    groups = fields.groupby(["plate", "well"], sort=False)
    wells = groups.size().rename("fields").reset_index()
    plan = [name for name in ["group", *PLAN] if name in fields]
    wells = wells.merge(groups[plan].first().reset_index(), on=["plate", "well"]) if plan else wells
    totals = {"input_count": "input_total", "restored_count": "restored_total", "objects_touching": "objects_touching"}
    totals = {name: total for name, total in totals.items() if name in fields}
    wells = wells.merge(groups[list(totals)].sum().rename(columns=totals).reset_index(), on=["plate", "well"])
    if {"restored_total", "objects_touching"} <= set(wells):
        wells["restored_measured"] = wells["restored_total"] - wells["objects_touching"]
    means = ["restored_share", *QUALITY, *(f"{stage}_{name}" for name in readouts for stage in ("input", "restored"))]
    means = [name for name in means if name in fields]
    wells = wells.merge(groups[means].mean().reset_index(), on=["plate", "well"])
    wells["row"], wells["column"] = zip(*map(well_place, wells["well"]), strict=True)
    twice = wells.duplicated(["plate", "row", "column"])
    if twice.any():
        first = wells[twice].iloc[0]
        raise ValueError(
            f"well {first['well']!r} of plate {first['plate']!r} stands under two names: write wells as A01"
        )
    wells["plate"] = wells["plate"].astype(str)
    return wells.sort_values(["plate", "row", "column"], ignore_index=True)


def by_plate(wells: pd.DataFrame, plate_format: int) -> pd.DataFrame:
    rows = []
    for plate, own in wells.groupby("plate", sort=False):
        row: dict[str, object] = {"plate": plate, "wells": len(own), "no image": plate_format - len(own)}
        row |= {"fields": int(own["fields"].sum()), "nuclei before": own["input_total"].sum()}
        if "restored_total" in own:
            row["nuclei after"] = own["restored_total"].sum()
        if "restored_measured" in own:
            row["measured"] = own["restored_measured"].sum()
            row["touching synthetic"] = own["objects_touching"].sum()
        if "restored_share" in own:
            row["restored area (%)"] = 100 * np.average(own["restored_share"], weights=own["fields"])
        row |= {name: own[name].median() for name in QUALITY if name in own}
        rows.append(row)
    return pd.DataFrame(rows)
