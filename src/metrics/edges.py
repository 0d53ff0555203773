"""How well drawn edges match the true ones inside the hole."""

import torch
from torch import Tensor

from .base import ImageMetric

THRESHOLD = 0.5


def edge_match(edges_predicted: Tensor, edges: Tensor, mask: Tensor) -> dict[str, Tensor]:
    """Measure precision, recall and F1 of the edge pixels in the hole, pixel by pixel and per image.

    All three arguments are B 1 Y X; an edge is a value above 0.5, the hole is mask = 1. Each result has shape B: NaN
    for an empty hole, 1 where neither map has an edge in it, 0 where only one of them has (as EdgeConnect is published;
    Nazeri et al. 2019, section 4.3). Raises ValueError when shapes do not agree.
    """
    if not edges_predicted.shape == edges.shape == mask.shape or mask.ndim != 4 or mask.shape[1] != 1:
        shapes = f"{tuple(edges_predicted.shape)}, {tuple(edges.shape)} and {tuple(mask.shape)}"
        raise ValueError(f"edges_predicted, edges and mask are {shapes}: all three must be B 1 Y X")
    hole = mask > 0.5
    drawn, true = (edges_predicted > THRESHOLD) & hole, (edges > THRESHOLD) & hole

    def count(pixels: Tensor) -> Tensor:
        return pixels.sum(dim=(1, 2, 3)).double()

    hits, positives = count(drawn & true), count(drawn) + count(true)
    nothing = torch.where(count(hole) > 0, 1.0, torch.nan).double()

    def share(numerator: Tensor, denominator: Tensor) -> Tensor:
        return torch.where(positives > 0, numerator / denominator.clamp(min=1), nothing)

    return {
        "precision": share(hits, count(drawn)),
        "recall": share(hits, count(true)),
        "f1": share(2 * hits, positives),
    }


class EdgeMatch(ImageMetric):
    """Precision, recall and F1 of edges in the hole, averaged over images (see `edge_match`).

    NaN for methods that draw no edges, and for data without edge maps.
    """

    names = ("precision", "recall", "f1")

    def measure(  # type: ignore[override]
        self, mask: Tensor, edges_predicted: Tensor | None = None, edges: Tensor | None = None
    ) -> dict[str, Tensor]:
        if edges_predicted is None or edges is None:
            return {name: torch.full((len(mask),), torch.nan, dtype=torch.float64) for name in self.names}
        return edge_match(edges_predicted, edges, mask)
