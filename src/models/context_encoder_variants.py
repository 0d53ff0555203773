"""The Context Encoder's variants: their networks, the region that each draws, and its losses.

`region` is the part of an image that the generator returns; all tensors are B C Y X, images in [-1, 1].
"""

from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits, l1_loss, mse_loss, pad

from .holes import fitted
from .nets import context_encoder as anywhere
from .nets import context_encoder_published as published

INSTEAD = "or model.variant=random_region, which fills holes of any shape and place"


class Variant(ABC):
    """What a variant answers; `hole` is the value under the hole, in [0, 1], for one channel or three."""

    hole: tuple[float, ...]

    @abstractmethod
    def networks(self, in_channels: int, bottleneck: int) -> tuple[nn.Module, nn.Module]:
        """A new generator and a new discriminator."""

    @abstractmethod
    def draw(self, generator: nn.Module, x: Tensor, mask: Tensor) -> Tensor:
        """The image with its hole hidden to the region; ValueError where the network cannot fill this mask."""

    @abstractmethod
    def region(self, x: Tensor, mask: Tensor) -> Tensor:
        """The region of an image."""

    @abstractmethod
    def placed(self, drawn: Tensor, x: Tensor, mask: Tensor) -> Tensor:
        """The image with the region in its place."""

    @abstractmethod
    def scores(self, discriminator: nn.Module, x: Tensor) -> Tensor:
        """What the discriminator says of a region, before any sigmoid, float32."""

    @abstractmethod
    def adversarial(self, scores: Tensor, real: bool, discriminator: bool) -> Tensor:
        """The loss that draws scores towards real or drawn."""

    @abstractmethod
    def reconstruction(self, raw: Tensor, target: Tensor, mask: Tensor) -> Tensor:
        """The distance of the drawn region from the image's."""


class RandomRegion(Variant):
    """Draws the whole image, mirrored to sides of 128 px or more and multiples of 32, for a hole anywhere."""

    hole: tuple[float, ...] = (0.0,)

    def __init__(self, known_weight: float) -> None:
        self.known_weight = known_weight

    def networks(self, in_channels: int, bottleneck: int) -> tuple[nn.Module, nn.Module]:
        return anywhere.Generator(in_channels, bottleneck), anywhere.Discriminator(in_channels)

    def draw(self, generator: nn.Module, x: Tensor, mask: Tensor) -> Tensor:
        return generator(fitted(x, 32, 128))[..., : x.shape[-2], : x.shape[-1]]

    def region(self, x: Tensor, mask: Tensor) -> Tensor:
        return x

    def placed(self, drawn: Tensor, x: Tensor, mask: Tensor) -> Tensor:
        return drawn

    def scores(self, discriminator: nn.Module, x: Tensor) -> Tensor:
        return discriminator(fitted(x, 32, 128)).float()

    def adversarial(self, scores: Tensor, real: bool, discriminator: bool) -> Tensor:
        return binary_cross_entropy_with_logits(scores, torch.full_like(scores, float(real)))

    def reconstruction(self, raw: Tensor, target: Tensor, mask: Tensor) -> Tensor:
        weight = mask + self.known_weight * (1 - mask)
        return (weight * (raw - target).square()).mean()


class Boyuan(RandomRegion):
    """Draws the centre 64x64 px of a 128x128 patch; its outer `overlap` px count `known_weight` times.

    The published input shows these outer pixels: a mask that is drawn in by `overlap` gives that input, a mask of
    the whole centre hides them too.
    """

    hole = (117 / 255, 104 / 255, 123 / 255)

    def __init__(self, known_weight: float, overlap: int) -> None:
        if not 0 <= overlap < 32:
            raise ValueError(f"model.overlap is {overlap}: 0 to 31 of the centre's 64 pixels are meant")
        super().__init__(known_weight)
        self.overlap = overlap

    def networks(self, in_channels: int, bottleneck: int) -> tuple[nn.Module, nn.Module]:
        return published.BoyuanGenerator(in_channels, bottleneck), published.BoyuanDiscriminator(in_channels)

    def draw(self, generator: nn.Module, x: Tensor, mask: Tensor) -> Tensor:
        fits = torch.zeros(len(mask), dtype=torch.bool, device=mask.device)
        if mask.shape[-2:] == (128, 128):
            for inset in (0, self.overlap):
                square = torch.zeros_like(mask[:1])
                square[..., 32 + inset : 96 - inset, 32 + inset : 96 - inset] = 1
                fits |= (mask == square).flatten(1).all(1)
        if not fits.all():
            raise ValueError(
                f"{_found(mask, fits)}; model.variant=boyuan fills the centre 64x64 px of a patch of 128x128 px (or "
                f"these less {self.overlap} px a side) and nothing else: set data/masks=centre and data.zoom.size=128, "
                f"{INSTEAD}"
            )
        return generator(x)

    def region(self, x: Tensor, mask: Tensor) -> Tensor:
        return x[..., 32:96, 32:96]

    def placed(self, drawn: Tensor, x: Tensor, mask: Tensor) -> Tensor:
        whole = x.clone()
        whole[..., 32:96, 32:96] = drawn
        return whole

    def scores(self, discriminator: nn.Module, x: Tensor) -> Tensor:
        return discriminator.logits(x).float()  # type: ignore[operator]

    def reconstruction(self, raw: Tensor, target: Tensor, mask: Tensor) -> Tensor:
        weight = torch.full_like(raw[:1, :1], self.known_weight)
        inner = slice(self.overlap, 64 - self.overlap)
        weight[..., inner, inner] = 1
        return (weight * (raw - target).square()).mean()


class Erik(Variant):
    """Draws a hole of half the height and half the width, anywhere; least squares and an L1 distance."""

    hole = (1.0,)

    def __init__(self, norm_eps: float) -> None:
        self.norm_eps = norm_eps

    def networks(self, in_channels: int, bottleneck: int) -> tuple[nn.Module, nn.Module]:
        generator = published.ErikGenerator(in_channels, bottleneck, self.norm_eps)
        return generator, published.ErikDiscriminator(in_channels)

    def draw(self, generator: nn.Module, x: Tensor, mask: Tensor) -> Tensor:
        height, width = mask.shape[-2:]
        rows, columns = mask.amax((1, 3)), mask.amax((1, 2))  # a full rectangle is the product of its projections
        full = (mask[:, 0] == rows[:, :, None] * columns[:, None, :]).flatten(1).all(1)
        # One run of ones has one rise and at most one fall: the steps between neighbours tell a gap.
        gaps = [(side.diff(dim=1, prepend=torch.zeros_like(side[:, :1])) > 0).sum(1) for side in (rows, columns)]
        fits = full & (gaps[0] == 1) & (gaps[1] == 1) & (rows.sum(1) == height // 2) & (columns.sum(1) == width // 2)
        if not fits.all() or height % 32 or width % 32:
            raise ValueError(
                f"{_found(mask, fits)}; model.variant=erik fills one square of half the side of a patch whose sides "
                f"32 divides: set data/masks=centre (data.masks.position=random) and data.zoom.size=128, {INSTEAD}"
            )
        return generator(x)

    def region(self, x: Tensor, mask: Tensor) -> Tensor:
        height, width = x.shape[-2] // 2, x.shape[-1] // 2
        pairs = zip(x, _corners(mask), strict=True)
        return torch.stack([image[:, top : top + height, left : left + width] for image, (top, left) in pairs])

    def placed(self, drawn: Tensor, x: Tensor, mask: Tensor) -> Tensor:
        height, width = drawn.shape[-2:]  # the image is twice that, so the rest lies below and to the right
        pairs = zip(drawn, _corners(mask), strict=True)
        whole = [pad(square, (left, width - left, top, height - top)) for square, (top, left) in pairs]
        return torch.stack(whole).where(mask > 0, x)

    def scores(self, discriminator: nn.Module, x: Tensor) -> Tensor:
        return discriminator(x).float()

    def adversarial(self, scores: Tensor, real: bool, discriminator: bool) -> Tensor:
        return mse_loss(scores, torch.full_like(scores, float(real))) * (0.5 if discriminator else 1.0)

    def reconstruction(self, raw: Tensor, target: Tensor, mask: Tensor) -> Tensor:
        return l1_loss(raw, target)


def _corners(mask: Tensor) -> list[tuple[int, int]]:
    """The top left corner of each hole."""
    return list(zip(mask.amax((1, 3)).argmax(1).tolist(), mask.amax((1, 2)).argmax(1).tolist(), strict=True))


def _found(mask: Tensor, fits: Tensor) -> str:
    height, width = mask.shape[-2:]
    wrong = [number for number, fit in enumerate(fits.tolist()) if not fit]
    share = f" with a hole of {mask[wrong[0]].mean().item():.1%}" if wrong else ""
    return f"image is {height}x{width}{share}"
