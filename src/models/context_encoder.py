"""Context Encoder for random regions, on one to N channels."""

from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits

from .adversarial import Adversarial
from .holes import hide, paste
from .nets.context_encoder import Discriminator, Generator


class ContextEncoder(Adversarial):
    """Draws the whole image from what surrounds the hole (Pathak et al. 2016; the published random-region training).

    The networks work in [-1, 1]; the hole is filled with `hole_value` (of [0, 1]). Generator's terms: `adversarial`,
    the discriminator's binary cross-entropy, and `reconstruction`, the mean squared error over the whole image with
    the known region weighted by `known_weight`; published weights 0.001 and 0.999. The published learning rates are
    2e-3 for the generator and 2e-4 for the discriminator. Evaluation returns the composite in [0, 1] as `prediction`.
    """

    def __init__(
        self,
        in_channels: int = 1,
        bottleneck: int = 4000,
        hole_value: float = 0.0,
        known_weight: float = 10.0,
        generator_lr: float = 2e-3,
        discriminator_lr: float = 2e-4,
        **options: Any,
    ) -> None:
        super().__init__(generator_lr, discriminator_lr, **options)
        self.generator = Generator(in_channels, bottleneck)
        self.discriminator = Discriminator(in_channels)
        self.hole_value, self.known_weight = hole_value, known_weight

    def forward(self, source: Tensor, mask: Tensor) -> Tensor:
        """Source B C Y X in [0, 1] and mask B 1 Y X to the whole image B C Y X in [-1, 1]."""
        return self.generator(2 * hide(source, mask, self.hole_value) - 1)

    def discriminator_loss(self, batch: dict[str, Any], raw: Tensor) -> dict[str, Tensor]:
        real, fake = self.discriminator(2 * batch["target"] - 1), self.discriminator(raw)
        return {
            "real": binary_cross_entropy_with_logits(real, torch.ones_like(real)),
            "fake": binary_cross_entropy_with_logits(fake, torch.zeros_like(fake)),
        }

    def generator_loss(self, batch: dict[str, Any], raw: Tensor) -> dict[str, Tensor]:
        fake = self.discriminator(raw)
        weight = batch["mask"] + self.known_weight * (1 - batch["mask"])
        return {
            "adversarial": binary_cross_entropy_with_logits(fake, torch.ones_like(fake)),
            "reconstruction": (weight * (raw - (2 * batch["target"] - 1)).square()).mean(),
        }

    def validation_step(self, batch: dict[str, Any], batch_idx: int) -> dict[str, Tensor]:
        raw = (self(batch["source"], batch["mask"]).float() + 1) / 2
        return {"prediction": paste(raw, batch["source"], batch["mask"]), "raw": raw}

    test_step = predict_step = validation_step
