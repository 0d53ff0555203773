"""The words of mask_area: verdict, captions and notes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pandas as pd

from .judged import NETWORK, UNCORRECTED, count, uncorrected

EFFORT = (
    "Samples and seconds are those of the checkpoints' own training, summed over seeds: without earlier stages or what "
    "else they started from (model.init_from)."
)


def verdict(
    comparisons: pd.DataFrame, classes: Mapping[str, str], claimed: Sequence[str], pooled: str, wells: int
) -> str:
    """How the networks stand to each other and to the best fills, and whether PhIRM has them in the claimed order."""
    size = f"n = {count(wells, 'well')}"
    parts = []
    for score in ("PhIRM", "rim F1"):
        rows = comparisons[comparisons["score"] == score]
        told = [_pair(row) for _, row in rows[rows["kind of rival"] == NETWORK].iterrows()]
        told += [_bar(kind, own) for kind, own in rows[rows["kind of rival"] != NETWORK].groupby("kind of rival")]
        if told:
            parts.append(f"By {score}, {'; '.join(told)}.")
    pairs = comparisons[(comparisons["score"] == "PhIRM") & (comparisons["kind of rival"] == NETWORK)]
    first = f"Holes {pooled} of the image, {size}. {_order(pairs, classes, claimed, size)}".strip()
    return "\n".join([first, *parts])


def _order(pairs: pd.DataFrame, classes: Mapping[str, str], claimed: Sequence[str], size: str) -> str:
    """Whether the claimed order of classes appears: A >= B > C ...: the first two not reversed, the rest clear."""
    if not claimed:
        return ""
    claim = f"The paper's order ({' >= '.join(claimed[:2])}{''.join(f' > {name}' for name in claimed[2:])})"
    missing = [name for name in claimed if name not in classes.values()]
    if missing:
        return f"{claim} cannot be judged: no checkpoint of {' or '.join(missing)} was given."
    rank = {name: place for place, name in enumerate(claimed)}
    reversed_, open_ = [], []
    for _, row in pairs.iterrows():
        first, second = rank.get(classes[row["method"]]), rank.get(classes[row["against"]])
        if first is None or second is None or first == second:
            continue
        sign, names = (1, (row["method"], row["against"])) if first < second else (-1, (row["against"], row["method"]))
        clear = row["verdict"] in ("beats", "worse")
        ahead = sign * row["difference"] > 0
        if clear and not ahead:
            reversed_.append(f"{names[1]} beats {names[0]}")
        elif not clear and not ({first, second} == {0, 1} and ahead):
            open_.append(f"{names[0]} and {names[1]} are not distinguished, {size}")
    if reversed_:
        return f"{claim} does not appear: {'; '.join(reversed_ + open_)}."
    if open_:
        return f"{claim} is not shown: {'; '.join(open_)}."
    return f"{claim} appears."


def captions(images: pd.DataFrame, large: pd.DataFrame, pooled: str, leaky: str) -> dict[str, str]:
    """What every table and figure shows and rests on: `images` in all bands, `large` in those pooled."""
    size, of_all = (
        f"n = {count(table['id'].nunique(), 'image')} of {count(table['group'].nunique(), 'well')}"
        for table in (large, images[images["band"].notna()])
    )
    interval = f"Brackets hold 95 % bootstrap intervals over wells.{leaky}"
    bars = f"{of_all}. Bars: 95 % over wells; small rings: each training seed by itself; dashed: null fills.{leaky}"
    axis = "against the hidden share of the image"
    return {
        "methods": f"Holes {pooled} of the image, bands pooled, {size}. PhIRM: the authors' code; PhIRM "
        "paper: as printed. Rim F1: nuclei cut by the hole's edge, matched on their hidden part. Inner F1: nuclei "
        "wholly inside, which no method can know. PSNR (dB), SSIM, MAE (share of the range to which images "
        "are scaled): inside the hole. Over seeds: smallest to "
        f"largest score of a training seed by itself, and their SD. {EFFORT} {interval}",
        "comparisons": f"Method minus rival on the same images, bands {pooled} pooled. The best fills are "
        f"chosen by their score here, which favours them. p Holm: corrected for all rows. {UNCORRECTED} {interval}",
        "bands": f"Every method in every band of mask area; seeds averaged per image. {interval}",
        "seeds": f"Every training seed by itself: its score, and what its training cost (its last stage alone).{leaky}",
        "per_image": f"One row per method and image, averaged over training seeds; n/a: not defined.{leaky}",
        "phirm_by_mask_area": f"PhIRM (the authors' code) {axis}, the paper's figure 2b. {bars}",
        "rim_f1_by_mask_area": f"F1 of the hidden parts of nuclei cut by the hole's edge, {axis}. {bars}",
        "phirm_paper_by_mask_area": f"PhIRM as the paper prints it, {axis}. {bars}",
    }


def notes(
    images: pd.DataFrame,
    named: Mapping[str, Sequence[str | None]],
    leaky: Sequence[str],
    leaky_split: bool,
    presets: bool,
    unit: Sequence[str],
    holes: str,
) -> list[str]:
    told = list(unit)
    told.append(f"The holes are those of data.masks ({holes}), whatever holes a network was trained on.")
    if leaky_split:
        told.insert(0, "Leaky split: images of one well are on both sides, so every score here is too good.")
    elif leaky:
        told.insert(0, f"Leaky split: test wells were in the training of {', '.join(leaky)}: too good a score.")
    single = [label for label, names in named.items() if len(names) == 1]
    several = {label: len(names) for label, names in named.items() if len(names) > 1}
    if several:
        listed = ", ".join(f"{label} {number}" for label, number in several.items())
        told.append(
            f"Training seeds: {listed}. Scores of an image are averaged over them before wells are resampled, so "
            "intervals cover the choice of wells and images for these seeds; the spread over seeds stands beside."
        )
    if single:
        told.append(f"One training seed: {', '.join(single)}. What another seed would give is not known.")
    told += [
        "PhIRM compares numbers and areas, not places; rim F1 stands beside it, and counts only nuclei whose "
        "visible part says something about the hidden one.",
        "Networks trained on different numbers of samples are compared as they are: see samples and seconds. Those "
        "of what a checkpoint started from (model.init_from) are not counted; its wells are, where the split leaks.",
    ]
    if not presets:
        told.append("The metrics lack phirm_paper, so PhIRM is given in one preset only.")
    outside = int(images.loc[images["method"] == next(iter(named)), "band"].isna().sum())
    if outside:
        told.append(f"{count(outside, 'image')} with a mask area outside all bands stand in per_image only.")
    return told


def _pair(row: pd.Series) -> str:
    words = {"beats": "beats", "worse": "is worse than"}.get(row["verdict"])
    beside = "" if words else uncorrected(row["difference low"], row["difference high"])
    return f"{row['method']} {words or 'is not distinguished from'} {row['against']} ({_difference(row)}{beside})"


def _bar(kind: str, rows: pd.DataFrame) -> str:
    """Which networks beat the best fill of a kind; it is the same for all of them."""
    words = {"beats": "is beaten by", "worse": "beats", "": "is not distinguished from"}
    outcome = rows["verdict"].where(rows["verdict"].isin(["beats", "worse"]), "")
    told = [f"{words[key]} {_listed(own)}" for key, own in rows["method"].groupby(outcome, sort=False)]
    return f"the {kind} ({rows['against'].iloc[0]}) {', '.join(told)}"


def _listed(names: pd.Series) -> str:
    *most, last = names
    return f"{', '.join(most)} and {last}" if most else str(last)


def _difference(row: pd.Series) -> str:
    interval = "no interval" if pd.isna(row["difference low"]) else (
        f"{row['difference low']:+.2f} to {row['difference high']:+.2f}"
    )  # fmt: skip
    return f"{row['difference']:+.2f}, {interval}"
