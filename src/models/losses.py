"""Losses that several methods share, as plain functions; all of them in float32, under autocast too."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits, l1_loss, mse_loss, relu

KINDS = ("nsgan", "lsgan", "hinge")
# VGG19's maps that perceptual and style compare.
PERCEPTUAL = ("relu1_1", "relu2_1", "relu3_1", "relu4_1", "relu5_1")
STYLE = ("relu2_2", "relu3_4", "relu4_4", "relu5_2")


def adversarial(logits: Tensor, real: bool, kind: str, discriminator: bool) -> Tensor:
    """How far a discriminator's logits (any shape) are from saying `real`, a scalar.

    nsgan: binary cross-entropy (Goodfellow et al. 2014). lsgan: squared distance of the sigmoid from 1 or 0 (Mao et
    al. 2017). hinge: relu(1 - x) for real and relu(1 + x) for not real in the discriminator's turn, where it is
    satisfied beyond the margin, and -x or x in the generator's (Lim & Ye 2017). Raises ValueError for another kind.
    """
    logits = logits.float()
    if kind == "nsgan":
        return binary_cross_entropy_with_logits(logits, torch.full_like(logits, float(real)))
    if kind == "lsgan":
        return mse_loss(logits.sigmoid(), torch.full_like(logits, float(real)))
    if kind == "hinge":
        signed = logits if real else -logits
        return relu(1 - signed).mean() if discriminator else -signed.mean()
    raise ValueError(f"adversarial loss {kind!r} is not known; choose one of {', '.join(KINDS)}")


def feature_matching(fake: Sequence[Tensor], real: Sequence[Tensor]) -> Tensor:
    """The mean absolute difference of a discriminator's maps, summed over its layers; the real ones are the aim."""
    return _sum([l1_loss(f.float(), r.detach().float()) for f, r in zip(fake, real, strict=True)])


def perceptual(fake: Mapping[str, Tensor], real: Mapping[str, Tensor]) -> Tensor:
    """The mean absolute difference of the first map of each of VGG19's blocks, summed (Johnson et al. 2016)."""
    return _sum([l1_loss(fake[name].float(), real[name].float()) for name in PERCEPTUAL])


def style(fake: Mapping[str, Tensor], real: Mapping[str, Tensor]) -> Tensor:
    """The mean absolute difference of the Gram matrices of four of VGG19's maps, summed (Sajjadi et al. 2017)."""
    return _sum([l1_loss(gram(fake[name]), gram(real[name])) for name in STYLE])


def gram(features: Tensor) -> Tensor:
    """Products of a map's channels averaged over all its values: `B C Y X` to `B C C`, F F^T / (C Y X), float32."""
    flat = features.float().flatten(2)
    with torch.autocast(features.device.type, enabled=False):
        return flat @ flat.transpose(1, 2) / (flat.shape[1] * flat.shape[2])


def hole_l1(raw: Tensor, target: Tensor, mask: Tensor) -> Tensor:
    """The mean absolute error of the whole image (B C Y X) over the share of the batch that is hole (B 1 Y X).

    The division keeps the loss alike for small and large holes (Nazeri et al. 2019, section 3.2).
    """
    return l1_loss(raw.float(), target.float()) / mask.float().mean()


def _sum(terms: Sequence[Tensor]) -> Tensor:
    return torch.stack(list(terms)).sum()
