"""Clouds of embeddings: what a bottleneck holds of each crop or image, and what is known of it."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from ..datamodules.pair_patches import PairPatches
from .embedded import Pool, embedded


class Cloud(NamedTuple):
    """Embeddings N D of crops or images, and a row of each: id, group, field, brightness and phenotype."""

    values: np.ndarray
    rows: pd.DataFrame


class _Seen:
    """A dataset that notes how bright each sample's source is, 0 to 1, as the network sees it."""

    def __init__(self, samples: PairPatches) -> None:
        self.samples, self.name, self.field = samples, samples.name, samples.field
        self.brightness = np.full(len(samples), np.nan)

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, key: tuple[int, int]) -> dict[str, Any]:
        item = self.samples[key]
        self.brightness[key[1]] = float(item["source"].mean())
        return item


def cloud(module: Any, samples: PairPatches, pool: Pool) -> Cloud:
    """The embeddings of `samples` and what is known of each."""
    seen = _Seen(samples)
    values, ids, fields, groups = embedded(module, seen, pool)
    index = samples.reader.index.set_index(samples.reader.index["id"].astype(str))
    phenotype = index["phenotype"].reindex(fields).to_numpy(object) if "phenotype" in index else None
    rows = pd.DataFrame({"id": ids, "group": groups, "field": fields, "brightness": seen.brightness})
    return Cloud(values, rows.assign(phenotype=phenotype))


def by_image(crops: Cloud) -> Cloud:
    """The mean embedding and brightness of each image's crops, in the order of the images' first crops."""
    parts = list(crops.rows.groupby("field", sort=False))
    rows = [part.iloc[0].to_dict() | {"id": field, "brightness": part["brightness"].mean()} for field, part in parts]
    return Cloud(np.stack([crops.values[part.index].mean(axis=0) for _, part in parts]), pd.DataFrame(rows))


def some(samples: PairPatches, most: int, seed: int) -> PairPatches:
    """Patches as an evaluation sees them, not augmented: all, or those of whole fields drawn until `most` are there."""
    fields: dict[int, list[tuple[int, int, int]]] = {}
    for window in samples.windows:
        fields.setdefault(window[0], []).append(window)
    kept: set[int] = set()
    for row in np.random.default_rng(seed).permutation(sorted(fields)) if len(samples) > most else fields:
        if kept and sum(len(fields[other]) for other in kept) + len(fields[row]) > most:
            break
        kept.add(int(row))
    return samples.plain([window for window in samples.windows if window[0] in kept])
