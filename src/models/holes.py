"""What every model of holes shares: hiding the hole and pasting the fill."""

from torch import Tensor
from torch.nn.functional import pad


def hide(source: Tensor, mask: Tensor, value: float = 0.0) -> Tensor:
    """The source (B C Y X) with the hole (mask B 1 Y X = 1) replaced by a constant."""
    return source * (1 - mask) + value * mask


def paste(raw: Tensor, source: Tensor, mask: Tensor) -> Tensor:
    """The network's output in the hole, the source bit for bit elsewhere; B C Y X in [0, 1]."""
    return (raw.clamp(0, 1) * mask).where(mask > 0, source)


def fitted(x: Tensor, divisor: int, least: int = 0) -> Tensor:
    """B C Y X, mirrored beyond its lower and right border to sides of at least `least` that `divisor` divides.

    Raises ValueError for a side of one pixel that has to grow.
    """
    for axis in (-2, -1):
        side = x.shape[axis]
        wanted = max(-(-side // divisor) * divisor, least)
        while x.shape[axis] < wanted:  # a reflection adds at most what is there, less the border itself
            if x.shape[axis] == 1:
                raise ValueError(
                    f"image is {x.shape[-2]}x{x.shape[-1]}: a side of one pixel cannot be mirrored; give two or more"
                )
            more = min(wanted - x.shape[axis], x.shape[axis] - 1)
            x = pad(x, (0, 0, 0, more) if axis == -2 else (0, more, 0, 0), mode="reflect")
    return x
