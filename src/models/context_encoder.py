"""Context Encoder on one to N channels: for random regions, and the two published variants."""

from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor

from .adversarial import Adversarial
from .context_encoder_variants import Boyuan, Erik, RandomRegion, Variant
from .holes import hide, paste


class ContextEncoder(Adversarial):
    """Draws what a hole hides from what surrounds it (Pathak et al. 2016).

    `variant` random_region draws the whole image, for any hole. The published variants are there for their weights
    and fill what their layers allow: boyuan the centre 64x64 px of a 128x128 patch, erik one square of half the side.

    The networks work in [-1, 1]; `hole_value` (of [0, 1], one or one per channel) lies under the hole, and None is the
    variant's own: for random_region 0, which looks as the background of fluorescence does (the original has boyuan's
    mean colour of photographs; no network sees the mask). Generator's terms: `adversarial` and `reconstruction`, for
    random_region and boyuan the discriminator's binary cross-entropy and a mean squared error in which the known
    region, or the outer `overlap` px of the centre, counts `known_weight` times; for erik least squares and a mean
    absolute error. `norm_eps` is erik's. Evaluation returns the composite in [0, 1] as `prediction`.

    Raises ValueError for an unknown variant, for numbers that cannot be meant, for a hole that the variant cannot fill,
    with those it can, and for training on a single patch of 128x128 px.
    """

    published: dict[str, str]
    hole: Tensor

    def __init__(
        self,
        in_channels: int = 1,
        variant: Literal["random_region", "boyuan", "erik"] = "random_region",
        bottleneck: int = 4000,
        hole_value: float | Sequence[float] | None = None,
        known_weight: float = 10.0,
        overlap: int = 4,
        norm_eps: float = 0.8,
        generator_lr: float = 2e-3,
        discriminator_lr: float = 2e-4,
        **options: Any,
    ) -> None:
        super().__init__(generator_lr, discriminator_lr, **options)
        if bottleneck < 1 or known_weight < 0 or norm_eps < 0:
            raise ValueError(
                f"model.bottleneck is {bottleneck}, known_weight {known_weight}, norm_eps {norm_eps}: 1 or more, and "
                "0 or more of the others, are meant"
            )
        variants: dict[str, Variant] = {
            "random_region": RandomRegion(known_weight),
            "boyuan": Boyuan(known_weight, overlap),
            "erik": Erik(norm_eps),
        }
        if variant not in variants:
            raise ValueError(f"the Context Encoder has no variant {variant!r}: choose {', '.join(variants)}")
        self.variant = variants[variant]
        self.generator, self.discriminator = self.variant.networks(in_channels, bottleneck)
        parts = () if variant == "random_region" else ("generator", "discriminator")
        self.published = {part: f"context_encoder/{variant}_{part}" for part in parts}
        hole = self.variant.hole if hole_value is None else torch.tensor(hole_value).flatten().tolist()
        if hole_value is None and len(hole) != in_channels:
            hole = [sum(hole) / len(hole)]  # three published values serve other channels by their mean
        if len(hole) not in (1, in_channels):
            raise ValueError(f"model.hole_value is {hole_value} for {in_channels} channels: give one value, or as many")
        if not all(0 <= value <= 1 for value in hole):
            raise ValueError(f"model.hole_value is {hole_value}: values from 0 to 1 are meant, 117 of 255 is 0.459")
        self.register_buffer("hole", torch.tensor(hole).view(1, -1, 1, 1), persistent=False)

    def forward(self, source: Tensor, mask: Tensor) -> Tensor:
        """Source B C Y X in [0, 1] and mask B 1 Y X to the variant's region B C y x in [-1, 1]."""
        hidden = hide(source, mask) + self.hole * mask
        return self.variant.draw(self.generator, 2 * hidden - 1, mask)

    def discriminator_loss(self, batch: dict[str, Any], raw: Tensor) -> dict[str, Tensor]:
        target = self.variant.region(2 * batch["target"] - 1, batch["mask"])
        judged = {"real": target, "fake": raw}
        scores = {name: self.variant.scores(self.discriminator, image) for name, image in judged.items()}
        return {name: self.variant.adversarial(score, name == "real", True) for name, score in scores.items()}

    def generator_loss(self, batch: dict[str, Any], raw: Tensor) -> dict[str, Tensor]:
        target = self.variant.region(2 * batch["target"] - 1, batch["mask"])
        return {
            "adversarial": self.variant.adversarial(self.variant.scores(self.discriminator, raw), True, False),
            "reconstruction": self.variant.reconstruction(raw.float(), target, batch["mask"]),
        }

    def validation_step(self, batch: dict[str, Any], batch_idx: int) -> dict[str, Tensor]:
        source, mask = batch["source"], batch["mask"]
        raw = self.variant.placed((self(source, mask).float() + 1) / 2, source, mask)
        return {"prediction": paste(raw, source, mask), "raw": raw}

    test_step = predict_step = validation_step
