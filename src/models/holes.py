"""What every model of holes shares: hiding the hole and pasting the fill."""

from torch import Tensor


def hide(source: Tensor, mask: Tensor, value: float = 0.0) -> Tensor:
    """The source (B C Y X) with the hole (mask B 1 Y X = 1) replaced by a constant."""
    return source * (1 - mask) + value * mask


def paste(raw: Tensor, source: Tensor, mask: Tensor) -> Tensor:
    """The network's output in the hole, the source bit for bit elsewhere; B C Y X in [0, 1]."""
    return (raw.clamp(0, 1) * mask).where(mask > 0, source)
