"""The contract between the rooms: what a batch holds."""

from typing import TypedDict

from torch import Tensor


class Batch(TypedDict, total=False):
    """One batch of images; axes B C (Z) Y X, float32 unless said otherwise.

    `source` and `target` lie in [0, 1] with the hole unfilled: each model blanks what it must not see. `mask` is 1 on
    the part the task is about (a hole, an artefact); `valid` is 1 on measured pixels and never the same thing as a
    hole.
    """

    source: Tensor  # B C Y X, what the network sees
    target: Tensor  # B C Y X, what it must give, on the grid of `prediction`
    mask: Tensor  # B 1 Y X, 0 or 1
    valid: Tensor  # B 1 Y X, 0 or 1
    pixel_size: Tensor  # B 2 (or 3), micrometres per pixel in the order of the axes
    objects: Tensor  # B 1 Y X int32, true instances where known
    edges: Tensor  # B 1 Y X, edge map made once per image
    donor: Tensor  # B C Y X, the same-size patch of another field, chosen by id
    features: Tensor  # B F, standardised profile
    label: Tensor  # B, image-level class
    id: list[str]  # a readable name per image
    group: list[str]  # plate and well, the unit of statistics
