"""Splits of an index table into train, val and test, by whole wells unless a claim needs another unit."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterable, Mapping

import pandas as pd

from .layouts import TableError, ordered

log = logging.getLogger(__name__)

SPLITS = ("train", "val", "test")
FRACTIONS = {"train": 0.7, "val": 0.1, "test": 0.2}
PAIR_FRACTIONS = {"train": 0.72, "val": 0.08, "test": 0.2}  # of pairs; a tenth of the rest to validation: table 1
UNITS = {"well": ["plate", "well"], "plate": ["plate"], "group": ["group"], "field": ["plate", "well", "field", "id"]}
UNITS["paper"] = UNITS["field"]  # as papers do that split by image


def check_split(index: pd.DataFrame, source: str) -> None:
    """Raise TableError for unknown split names and torn families; set `attrs["leaky_split"]` and log if it is."""
    wrong = index.index[~index["split"].isin(SPLITS)]
    if len(wrong):
        value = index.loc[wrong[0], "split"]
        what = "is empty, and other rows are not" if pd.isna(value) else f"{value!r} is no split"
        raise TableError(
            f"{source}: row {wrong[0] + 2}, column split {what}; write {', '.join(SPLITS)} in every row, or in none"
        )
    family = joined(index)
    sides = index.groupby(family)["split"].nunique()
    torn = index.index[family.isin(sides.index[sides > 1])]
    if len(torn):
        rows = ", ".join(str(row + 2) for row in torn[:3])
        raise TableError(
            f"{source}: column split: rows {rows} are derived from one another (column parent is "
            f"{index.loc[torn[0], 'parent']!r}) and lie on two sides of the split; give them the same split"
        )
    index.attrs["leaky_split"] = bool((index.groupby(["plate", "well"])["split"].nunique() > 1).any())
    if index.attrs["leaky_split"]:
        log.warning("%s: leaky split: a well has fields on two sides; split by well for numbers to be believed", source)


def joined(index: pd.DataFrame, links: Iterable[tuple[str, str]] = (), unit: pd.Series | None = None) -> pd.Series:
    """Name, per row, the set of rows connected by parent, by links between ids and by unit.

    The name is the smallest id or parent of the set, whatever the order of the rows.
    """
    above: dict[tuple[str, str], tuple[str, str]] = {}

    def root(name: tuple[str, str]) -> tuple[str, str]:
        while above.setdefault(name, name) != name:
            above[name] = above[above[name]]
            name = above[name]
        return name

    ids = [("id", str(name)) for name in index["id"]]
    pairs = [*zip(ids, (("id", str(name)) for name in index["parent"]), strict=True)]
    pairs += [(("id", str(first)), ("id", str(second))) for first, second in links]
    pairs += [] if unit is None else [*zip(ids, (("unit", str(name)) for name in unit), strict=True)]
    for pair in pairs:
        first, second = sorted(map(root, pair))
        above[second] = first
    return pd.Series([root(name)[1] for name in ids], index.index, dtype="string")


def assign_splits(
    index: pd.DataFrame, by: str = "well", fractions: Mapping[str, float] | None = None, seed: int = 0
) -> pd.DataFrame:
    """Return a copy with the column split (train, val, test), drawn over whole units: well, plate, group or field.

    Units joined by `parent` stay on one side. The draw depends on the seed and the units' names, not on the order of
    rows; `fractions` (default 0.7, 0.1, 0.2) are of units, and every split whose fraction is above 0 gets at least one.
    A complete split column is kept. by="field", as by="paper", is leaky: it is logged, and `attrs["leaky_split"]` says
    so. Raises TableError.
    """
    fractions = FRACTIONS if fractions is None else fractions
    index = index.copy()
    if "split" in index and index["split"].notna().all():
        if "leaky_split" not in index.attrs:
            check_split(index, "index")
        log.info(
            "the index has a split already (%s): kept; data.split_by and data.fractions draw one where it has none",
            index["split"].value_counts().to_dict(),
        )
        return index
    if by not in UNITS:
        raise TableError(f"split by {by!r} is not known; choose {', '.join(UNITS)} (never tiles: they leak)")
    if set(fractions) - set(SPLITS) or min(fractions.values()) < 0 or abs(sum(fractions.values()) - 1) > 1e-6:
        raise TableError(f"fractions {dict(fractions)}: name {', '.join(SPLITS)}, each at least 0, summing to 1")
    by = "field" if UNITS[by] == UNITS["field"] else by
    unit = index[UNITS[by]].astype(str).agg(":".join, axis=1)
    family = joined(index, unit=unit)
    # A set of joined units is named by its smallest unit, so that ids do not move a well to another side.
    names = unit.groupby(family).min()
    order = sorted(names, key=lambda name: hashlib.sha256(f"{seed} {name}".encode()).hexdigest())
    sizes = shares(len(order), {name: fractions[name] for name in SPLITS if fractions.get(name, 0) > 0}, by)
    sides = dict(zip(order, (name for name, size in sizes.items() for _ in range(size)), strict=True))
    index["split"] = family.map(names).map(sides)
    check_split(index, f"split by {by}")
    if by == "field" and not index.attrs["leaky_split"]:
        index.attrs["leaky_split"] = True
        log.warning("leaky split: fields of one well may lie on two sides; use it to compare with papers that do")
    return ordered(index)


def shares(count: int, fractions: Mapping[str, float], by: str) -> dict[str, int]:
    """Share count units (of the kind `by`) by largest remainder, at least one each; TableError for too few."""
    if count < len(fractions):
        raise TableError(
            f"{count} independent {by}s cannot fill the splits {', '.join(fractions)}; add data, write the column "
            f"split, or split by another unit ({', '.join(name for name in UNITS if UNITS[name] != UNITS.get(by))})"
        )
    sizes = {name: max(1, int(count * fraction)) for name, fraction in fractions.items()}
    while (left := count - sum(sizes.values())) != 0:
        gap = {name: count * fractions[name] - sizes[name] for name in sizes if left > 0 or sizes[name] > 1}
        name = max(gap, key=lambda name: gap[name] if left > 0 else -gap[name])
        sizes[name] += 1 if left > 0 else -1
    return sizes
