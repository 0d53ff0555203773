"""What a model's bottleneck holds of the images of a dataset: one row per crop."""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

import numpy as np
import torch

from ..datamodules.patches import collate

Pool = Literal["mean", "flatten"]


class Embedded(NamedTuple):
    """Embeddings N D (float32) of N crops, each with its id, the id of the field it was cut from, and its well."""

    values: np.ndarray
    ids: list[str]
    fields: list[str]
    groups: list[str]


def embedded(module: Any, samples: Any, pool: Pool = "mean", batch_size: int = 8) -> Embedded:
    """The bottlenecks of all `samples` (a dataset of pairs, indexed (epoch, number)) in `module`'s network.

    pool="mean" averages over the bottleneck's pixels: D is its number of channels, 256 for the thesis' U-Net, whatever
    the size of the crop. "flatten" keeps every value, 65,536 of a crop of 256 px (thesis, section 4.2). Raises
    ValueError for a module without an `embed`.
    """
    if not hasattr(module, "embed"):
        raise ValueError(
            f"{type(module).__name__} has no bottleneck to look at: give the checkpoint of a model=labelfree_unet, "
            "lachance or autoencoder"
        )
    module.eval()
    rows: list[np.ndarray] = []
    groups: list[str] = []
    for start in range(0, len(samples), batch_size):
        batch = collate([samples[0, number] for number in range(start, min(start + batch_size, len(samples)))])
        with torch.inference_mode():
            bottleneck = module.embed(batch["source"])
        pooled = bottleneck.mean((2, 3)) if pool == "mean" else bottleneck.flatten(1)
        rows.append(pooled.numpy())
        groups += batch["group"]
    numbers = range(len(samples))
    ids, fields = [samples.name(number) for number in numbers], [samples.field(number) for number in numbers]
    return Embedded(np.concatenate(rows), ids, fields, groups)
