"""Edge maps as models use them: of true and of known edges, and the grey image beside them."""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..imaging.edges import Canny, grey_weights
from .holes import hide

WITHOUT = "EdgeConnect learns from edge maps, and the data have none: set 'data.edges=${model.edges}'"


def grey(image: Tensor) -> Tensor:
    """B C Y X to the grey image B 1 Y X that edges are found on."""
    weights = image.new_tensor(grey_weights(image.shape[1]))
    return (image * weights[:, None, None]).sum(dim=1, keepdim=True)


def true_edges(batch: dict[str, Any]) -> Tensor:
    """The edge maps of a batch, B 1 Y X; ValueError where the data have none."""
    if "edges" not in batch:
        raise ValueError(WITHOUT)
    return batch["edges"]


def check_edges(canny: Canny, maker: Any) -> None:
    """Raises ValueError where what makes the data's edge maps does not find what the model's `canny` will find."""
    if maker is None:
        raise ValueError(WITHOUT)
    if isinstance(maker, Canny) and maker != canny:
        raise ValueError(
            f"data.edges is {maker} and model.edges {canny}: a model that learns from the one draws badly from the "
            "other; set 'data.edges=${model.edges}'"
        )


def known_edges(canny: Canny, source: Tensor, mask: Tensor) -> Tensor:
    """Edges outside the hole (B 1 Y X) of a source B C Y X, whatever it holds in the hole."""
    images = hide(source, mask, 1.0).permute(0, 2, 3, 1).float().cpu().numpy()
    known = (mask[:, 0] == 0).cpu().numpy()
    edges = np.stack([canny(image, mask=where) for image, where in zip(images, known, strict=True)])
    return torch.from_numpy(edges[:, None]).to(source)
