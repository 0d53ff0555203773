"""Where wells lie on a plate, and what their place does to them: edge, row and column effects."""

from __future__ import annotations

import re
from collections.abc import Mapping

import numpy as np
import pandas as pd
from scipy.stats import rankdata

from ..imaging.quality import NORMAL_MAD
from .statistics import holm

FORMATS = {6: (2, 3), 12: (3, 4), 24: (4, 6), 48: (6, 8), 96: (8, 12), 384: (16, 24), 1536: (32, 48)}
ROW_NAMES = [*"ABCDEFGHIJKLMNOPQRSTUVWXYZ", *(f"A{letter}" for letter in "ABCDEF")]
MIN_SIDE = 6  # wells at the edge, and inside, that a comparison needs
MIN_LINES, MIN_IN_LINE = 3, 3  # rows (columns) with so many wells that effects of rows (columns) need
ALPHA = 0.05
BLOCK_CELLS = 2_000_000  # permuted wells held at once


def well_place(well: str) -> tuple[int, int]:
    """Row and column of a well, both from 0: "B03" and "B3" are (1, 2), "AF48" is (31, 47). Raises ValueError."""
    found = re.fullmatch(r"([A-Z]|A[A-F])0?([1-9]\d?)", str(well))
    if not found or int(found[2]) > 48:
        raise ValueError(f"well {well!r} is no place on a plate of up to 1536 wells: name it A01 to AF48")
    return ROW_NAMES.index(found[1]), int(found[2]) - 1


def smallest_format(rows: int, columns: int) -> int:
    """The number of wells of the smallest usual plate with at least so many rows and columns."""
    return next(wells for wells, shape in FORMATS.items() if shape[0] >= rows and shape[1] >= columns)


def median_polish(values: np.ndarray, rounds: int = 20) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Row effects (R), column effects (C) and residuals (R C) of a plate R C in which NaN is no well.

    Medians of rows and of columns are swept out in turn until they are 0; effects are about the plate's median level
    and NaN for a line without wells. Source: Tukey 1977, Exploratory Data Analysis, ch. 11; on plates: Brideau et al.
    2003, J. Biomol. Screen. 8 (B score).
    """
    residuals = np.array(values, dtype=float)
    effects = [np.zeros(residuals.shape[0]), np.zeros(residuals.shape[1])]
    known = [np.isfinite(residuals).any(axis=1 - axis) for axis in (0, 1)]
    for _ in range(rounds):
        moved = 0.0
        for axis in (0, 1):
            sweep = np.zeros(residuals.shape[axis])
            sweep[known[axis]] = np.nanmedian(np.compress(known[axis], residuals, axis=axis), axis=1 - axis)
            residuals -= np.expand_dims(sweep, 1 - axis)
            effects[axis] += sweep
            moved = max(moved, float(np.abs(sweep).max()))
        if moved < 1e-9 * max(1.0, float(np.nanmax(np.abs(values)))):
            break
    rows, columns = (np.where(k, e - np.median(e[k]), np.nan) for k, e in zip(known, effects, strict=True))
    return rows, columns, residuals


def permutation_p(
    values: np.ndarray, groups: np.ndarray, strata: np.ndarray | None = None, n: int = 9999, seed: int = 0
) -> np.ndarray:
    """Test, per row of `values` (K W), whether wells (W) of different `groups` differ; wells change places in `strata`.

    The statistic is the sum of squares between groups of the ranks of the wells less their stratum's median: without
    strata that of Kruskal and Wallis, for two groups Mann's and Whitney's. p = (1 + as large or larger) / (1 + n), from
    n permutations. Exchange within strata is valid whatever the strata do. Source: Phipson & Smyth 2010, SAGMB 9 (p);
    Good 2005, Permutation, Parametric and Bootstrap Tests of Hypotheses (blocks).
    """
    values = np.atleast_2d(np.asarray(values, dtype=float))
    wells = values.shape[1]
    strata = np.zeros(wells, int) if strata is None else np.unique(strata, return_inverse=True)[1]
    aligned = values.copy()
    for stratum in range(strata.max() + 1):
        inside = strata == stratum
        aligned[:, inside] -= np.median(aligned[:, inside], axis=1, keepdims=True)
    ranks = rankdata(np.round(aligned, 12), axis=1)
    ranks -= ranks.mean(axis=1, keepdims=True)
    _, codes, counts = np.unique(groups, return_inverse=True, return_counts=True)
    member = (codes[:, None] == np.arange(len(counts))) / np.sqrt(counts)
    observed = ((ranks @ member) ** 2).sum(axis=1)
    places = np.argsort(strata, kind="stable")
    rng, larger = np.random.default_rng(seed), np.zeros(len(values), int)
    block = max(1, BLOCK_CELLS // (wells * len(values)))
    for start in range(0, n, block):
        size = min(block, n - start)
        drawn = np.argsort(strata + rng.random((size, wells)), axis=1)
        between = ((ranks[:, drawn] @ member[places]) ** 2).sum(axis=2)
        larger += (between >= observed[:, None] * (1 - 1e-9)).sum(axis=1)
    return (1 + larger) / (1 + n)


def layout_wells(wells: pd.DataFrame, shape: tuple[int, int]) -> tuple[pd.Series, str]:
    """Which wells of a plate tell about its layout (bool), and what they are in words.

    Negative controls, which all got the same, if 6 or more lie at the edge and as many inside, on 3 or more rows and
    columns; else all but controls and empty wells, since most compounds of a screen do little (Brideau et al. 2003;
    Malo et al. 2006, Nat. Biotechnol. 24); without named roles all wells. Controls in a column of their own would make
    that column an effect.
    """
    if "role" not in wells or not wells["role"].isin(["negative", "positive", "empty"]).any():
        return pd.Series(True, wells.index), "all wells"
    negative = wells["role"] == "negative"
    edge = at_edge(wells[negative], shape)
    spread = min(wells.loc[negative, "row"].nunique(), wells.loc[negative, "column"].nunique())
    if min(edge.sum(), (~edge).sum()) >= MIN_SIDE and spread >= MIN_LINES:
        return negative, "negative controls"
    return ~wells["role"].isin(["negative", "positive", "empty"]), "wells that are no controls"


def at_edge(wells: pd.DataFrame, shape: tuple[int, int]) -> np.ndarray:
    """Whether each well lies in the outermost row or column of a plate of `shape`."""
    row, column = wells["row"].to_numpy(), wells["column"].to_numpy()
    return (row == 0) | (row == shape[0] - 1) | (column == 0) | (column == shape[1] - 1)


def layout_effects(
    wells: pd.DataFrame, quantities: Mapping[str, str], shape: tuple[int, int], n: int, seed: int
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Edge, row and column effects of each quantity (column -> words) on each plate, and every row's and column's own.

    `wells` has a row per well: plate, well, row, column (from 0), role where named. Edge: median of the edge less that
    of the interior, in the interior's robust SD; rows and columns: the largest effect of a median polish, in the
    residuals' robust SD. p by permutation of wells (rows within columns, columns within rows), Holm over the table.
    """
    tests: list[dict[str, object]] = []
    lines: list[dict[str, object]] = []
    permutations = max(n, 40 * 3 * len(quantities) * wells["plate"].nunique())  # fine enough for Holm's first step
    for plate, own in wells.groupby("plate", sort=False):
        kept, words = layout_wells(own, shape)
        used = own[kept]
        known: dict[bytes, list[str]] = {}  # quantities known in the same wells share their permutations
        for name in quantities:
            known.setdefault(used[name].notna().to_numpy().tobytes(), []).append(name)
        for names in known.values():
            part = used[used[names[0]].notna()]
            p = _p_values(part, names, shape, permutations, seed)
            for index, name in enumerate(names):
                sizes, own_lines = _sizes(part, name, shape)
                head = {"plate": plate, "quantity": quantities[name], "wells used": words, "wells": len(part)}
                for effect, size in sizes.items():
                    tests.append(head | {"effect": effect} | size | {"p": p[effect][index]})
                lines += [{"plate": plate, "quantity": quantities[name], **line} for line in own_lines]
    columns = [
        "plate",
        "quantity",
        "effect",
        "where",
        "size",
        "robust SD",
        "p",
        "p Holm",
        "verdict",
        "wells",
        "wells used",
    ]
    table = pd.DataFrame(tests, columns=columns)
    table["p Holm"] = holm(table["p"].to_numpy(dtype=float))
    found = np.where(table["p Holm"] < ALPHA, "found", "not distinguished")
    table["verdict"] = np.where(table["p"].notna(), found, table["verdict"])
    return table, pd.DataFrame(lines, columns=["plate", "quantity", "line", "effect", "robust SD", "wells"])


def _p_values(part: pd.DataFrame, names: list[str], shape: tuple[int, int], n: int, seed: int) -> dict[str, np.ndarray]:
    edge, row, column = at_edge(part, shape), part["row"].to_numpy(), part["column"].to_numpy()
    values = part[names].to_numpy(dtype=float).T
    unknown = np.full(len(names), np.nan)
    enough = min(edge.sum(), (~edge).sum()) >= MIN_SIDE
    return {
        "edge": permutation_p(values, edge, None, n, seed) if enough else unknown,
        "rows": permutation_p(values, row, column, n, seed) if _enough(row) else unknown,
        "columns": permutation_p(values, column, row, n, seed) if _enough(column) else unknown,
    }


def _sizes(
    part: pd.DataFrame, name: str, shape: tuple[int, int]
) -> tuple[dict[str, dict[str, object]], list[dict[str, object]]]:
    """Per effect where it lies, its size in the quantity's unit and in robust SD; and every line's own effect."""
    edge, values = at_edge(part, shape), part[name].to_numpy(dtype=float)
    sizes: dict[str, dict[str, object]] = {}
    if min(edge.sum(), (~edge).sum()) >= MIN_SIDE:
        size = float(np.median(values[edge]) - np.median(values[~edge]))
        sizes["edge"] = {"where": "edge - interior", "size": size, "robust SD": _ratio(size, values[~edge])}
        sizes["edge"]["verdict"] = ""
    else:
        sizes["edge"] = _too_few(
            f"{edge.sum()} wells at the edge and {(~edge).sum()} inside, {MIN_SIDE} of each needed"
        )
    plate = np.full(shape, np.nan)
    plate[part["row"], part["column"]] = values
    lines: list[dict[str, object]] = []
    effects = median_polish(plate) if len(part) else (np.full(shape[0], np.nan), np.full(shape[1], np.nan), plate)
    for axis, effect in enumerate(("rows", "columns")):
        along = part["row" if axis == 0 else "column"].to_numpy()
        if not _enough(along):
            said = f"fewer than {MIN_LINES} {effect} with {MIN_IN_LINE} wells"
            sizes[effect] = _too_few(said)
            continue
        counts = np.bincount(along, minlength=shape[axis])
        kept = np.flatnonzero(counts >= MIN_IN_LINE)
        word = effect.removesuffix("s")
        for line in kept:
            size = float(effects[axis][line])
            lines.append(
                {
                    "line": f"{word} {ROW_NAMES[line] if axis == 0 else line + 1}",
                    "effect": size,
                    "robust SD": _ratio(size, effects[2]),
                    "wells": int(counts[line]),
                }
            )
        largest = max(lines[-len(kept) :], key=lambda line: abs(float(str(line["effect"]))))
        sizes[effect] = {
            "where": largest["line"],
            "size": largest["effect"],
            "robust SD": largest["robust SD"],
            "verdict": "",
        }
    return sizes, lines


def _enough(lines: np.ndarray) -> bool:
    return bool((np.unique(lines, return_counts=True)[1] >= MIN_IN_LINE).sum() >= MIN_LINES) if lines.size else False


def _too_few(said: str) -> dict[str, object]:
    return {"where": "", "size": np.nan, "robust SD": np.nan, "verdict": f"not tested: {said}"}


def _ratio(size: float, values: np.ndarray) -> float:
    """Size in robust standard deviations of `values`; NaN where more than half of them are one number."""
    known = values[np.isfinite(values)]
    spread = NORMAL_MAD * float(np.median(np.abs(known - np.median(known))))
    return size / spread if spread > 1e-9 * max(1.0, float(np.abs(known).max())) else np.nan
