"""Which nuclei of the hole come back: precision, recall and F1 of matched objects, rim and inner nuclei apart."""

from typing import Any

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor

from ..imaging.segment import REFERENCE_PIXEL, nuclear_threshold, segment_nuclei
from .arrays import as_batch, pixel_areas, same_shape
from .base import ImageMetric

MATCH_IOU = 0.5  # above one half no part can match two others, so that no assignment has to be solved
KINDS = ("", "rim_", "inner_")


def matched_nuclei(
    prediction: Any,
    mask: Any,
    objects: Any = None,
    target: Any = None,
    *,
    pixel_size: Any = None,
    channel: int = 0,
    min_part: float = 30.0,
) -> dict[str, Tensor]:
    """Match the nuclei predicted in the hole with the true ones, by their pixels in the hole alone (IoU > 0.5).

    prediction: the composite (known pixels true, hole filled) in the target's range; mask, 1 = hole; objects: true
    instances; target: the true image, needed where objects are not given; all Y X, B Y X or B C Y X. Each result has
    shape B: tp, fp (invented), fn (lost), precision, recall, f1, then the same as rim_* and inner_*; a ratio without
    any nucleus is NaN.

    Rim: true nuclei that the hole's edge cuts, and predicted parts that touch this edge; a rim nucleus is found only by
    such a part. Inner: all others, on each side. Rim and inner counts add up to the whole. The image's own border is no
    edge of the hole.

    The prediction is segmented with the `nuclear_threshold` of the target (of the known pixels where no target is
    given): a fill must not move the ruler it is measured with, and a perfect fill of a segmented target scores 1.
    Nothing is smoothed, so that no brightness crosses the hole's edge. Parts under min_part (pixels of 0.65 um, scaled
    with pixel_size) never count by themselves, on either side: a small true part is not lost, a small predicted one is
    not invented, but each may be the match of a larger one. Raises ValueError for shapes that differ, or if neither
    objects nor target are given.
    """
    if objects is None and target is None:
        raise ValueError("matched_nuclei needs the truth: give objects (instances) or target (image)")
    images, holes = as_batch(prediction, "prediction", channel), as_batch(mask, "mask") > 0.5
    given = {"prediction": images, "mask": holes}
    if objects is not None:
        given["objects"] = as_batch(objects, "objects")
    if target is not None:
        given["target"] = as_batch(target, "target", channel)
    same_shape(**given)
    areas = pixel_areas(REFERENCE_PIXEL if pixel_size is None else pixel_size, len(images))
    rows = []
    for index, (image, hole) in enumerate(zip(images, holes, strict=True)):
        if target is None and hole.all():
            raise ValueError(f"image {index} of the batch is all hole: give target, to fix the threshold")
        threshold = nuclear_threshold(image[~hole] if target is None else given["target"][index])
        size = float(np.sqrt(areas[index]))
        truth = given["objects"][index] if objects is not None else _segment(given["target"][index], threshold, size)
        min_pixels = min_part * REFERENCE_PIXEL**2 / areas[index]
        rows.append(_match(truth, _segment(image, threshold, size), hole, min_pixels))
    counts = torch.tensor(np.array(rows), dtype=torch.float64).reshape(-1, len(KINDS), 3)
    return _ratios({name: counts[:, k, j] for k, kind in enumerate(KINDS) for j, name in enumerate(_counted(kind))})


def _segment(image: np.ndarray, threshold: float, pixel_size: float) -> np.ndarray:
    return segment_nuclei(image, threshold, min_area=0, smoothing=0, pixel_size=pixel_size)


def _match(truth: np.ndarray, predicted: np.ndarray, hole: np.ndarray, min_part: float) -> list[list[int]]:
    """Count true positives, false positives and false negatives: all, rim and inner."""
    edge = hole & (ndimage.minimum_filter(hole, size=3, mode="nearest") == 0)
    true_names, true_parts = np.unique(truth[hole], return_inverse=True)
    drawn_names, drawn_parts = np.unique(predicted[hole], return_inverse=True)
    shape = (len(true_names), len(drawn_names))
    overlap = np.bincount(true_parts * shape[1] + drawn_parts, minlength=shape[0] * shape[1]).reshape(shape)
    true_area, drawn_area = overlap.sum(axis=1), overlap.sum(axis=0)
    true_rim, drawn_rim = np.isin(true_names, truth[~hole]), np.isin(drawn_names, predicted[edge])
    pairs = overlap > MATCH_IOU * (true_area[:, None] + drawn_area[None] - overlap)
    pairs &= (true_names > 0)[:, None] & (drawn_names > 0)[None] & ~(true_rim[:, None] & ~drawn_rim[None])
    found, explained = pairs.any(axis=1), pairs.any(axis=0)
    wanted, drawn = (true_names > 0) & (true_area >= min_part), (drawn_names > 0) & (drawn_area >= min_part)
    found, lost, invented = wanted & found, wanted & ~found, drawn & ~explained
    rim = [int(part.sum()) for part in (found & true_rim, invented & drawn_rim, lost & true_rim)]
    inner = [int(part.sum()) for part in (found & ~true_rim, invented & ~drawn_rim, lost & ~true_rim)]
    return [[a + b for a, b in zip(rim, inner, strict=True)], rim, inner]


def _counted(kind: str) -> tuple[str, str, str]:
    return f"{kind}tp", f"{kind}fp", f"{kind}fn"


def _ratios(counts: dict[str, Tensor]) -> dict[str, Tensor]:
    """Add precision, recall and F1 to counts of any shape."""
    results: dict[str, Tensor] = {}
    for kind in KINDS:
        names = _counted(kind)
        tp, fp, fn = (counts[name] for name in names)
        results.update(zip(names, (tp, fp, fn), strict=True))
        results[f"{kind}precision"] = tp / (tp + fp)
        results[f"{kind}recall"] = tp / (tp + fn)
        results[f"{kind}f1"] = 2 * tp / (2 * tp + fp + fn)
    return results


class MatchedNuclei(ImageMetric):
    """Nuclei found, invented and lost in the hole, pooled: totals over images, and the ratios of these totals."""

    names = tuple(f"{kind}{key}" for kind in KINDS for key in ("tp", "fp", "fn", "precision", "recall", "f1"))

    def __init__(self, channel: int = 0, min_part: float = 30.0) -> None:
        super().__init__()
        self.channel, self.min_part = channel, min_part

    def measure(  # type: ignore[override]
        self, prediction: Any, mask: Any, objects: Any = None, target: Any = None, pixel_size: Any = None
    ) -> dict[str, Tensor]:
        return matched_nuclei(
            prediction, mask, objects, target, pixel_size=pixel_size, channel=self.channel, min_part=self.min_part
        )

    def compute(self) -> dict[str, Tensor]:
        """Give the totals tp, fp, fn of each kind and precision, recall and F1 of these totals."""
        return _ratios(dict(zip(self.names, self.sums, strict=True)))
