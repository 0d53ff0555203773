"""Adversarial training, once for every method: two optimizers under manual optimisation."""

from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor, nn


class Adversarial(pl.LightningModule):
    """A generator and a discriminator that take turns, the discriminator first.

    A method sets `self.generator` and `self.discriminator` and gives `forward(source, mask)` and two functions that
    return named terms: `discriminator_loss(batch, raw)` and `generator_loss(batch, raw)`, where `raw` is the
    generator's output. The discriminator's turn gets it detached; the generator's turn judges it with the updated
    discriminator, so no graph outlives a change of weights. Every term is logged; `weights["generator"]` and
    `weights["discriminator"]` multiply the terms they name, the others count once.
    """

    generator: nn.Module
    discriminator: nn.Module

    def __init__(
        self,
        generator_lr: float,
        discriminator_lr: float,
        betas: tuple[float, float] = (0.5, 0.999),
        weights: dict[str, dict[str, float]] | None = None,
    ) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.generator_lr, self.discriminator_lr = generator_lr, discriminator_lr
        self.betas = (float(betas[0]), float(betas[1]))
        self.weights = weights or {}
        if unknown := set(self.weights) - {"generator", "discriminator"}:
            raise ValueError(f"model.weights names {sorted(unknown)}; it has two parts, generator and discriminator")

    def discriminator_loss(self, batch: dict[str, Any], raw: Tensor) -> dict[str, Tensor]:
        """Named terms of the discriminator's loss; a method must give it."""
        raise TypeError(f"{type(self).__name__} does not say how its discriminator learns")

    def generator_loss(self, batch: dict[str, Any], raw: Tensor) -> dict[str, Tensor]:
        """Named terms of the generator's loss; a method must give it."""
        raise TypeError(f"{type(self).__name__} does not say how its generator learns")

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> None:
        generator, discriminator = self.optimizers()  # type: ignore[misc, attr-defined]
        # Lightning counts every step of every optimizer; global_step shall count batches, so these are not counted.
        discriminator._on_before_step = discriminator._on_after_step = _uncounted
        raw = self(batch["source"], batch["mask"])
        self._descend("discriminator", discriminator, self.discriminator_loss, batch, raw.detach())
        self._descend("generator", generator, self.generator_loss, batch, raw)

    def _descend(self, name: str, optimizer: Any, loss: Any, batch: dict[str, Any], raw: Tensor) -> None:
        """One step of one network down its weighted loss, the other network frozen."""
        self.toggle_optimizer(optimizer)
        terms, weights = loss(batch, raw), self.weights.get(name, {})
        if unknown := set(weights) - set(terms):
            raise ValueError(
                f"model.weights.{name} names {sorted(unknown)}, not a term of this loss; the terms are {sorted(terms)}"
            )
        total = torch.stack([weights.get(term, 1.0) * value for term, value in terms.items()]).sum()
        optimizer.zero_grad()
        self.manual_backward(total)
        optimizer.step()
        self.untoggle_optimizer(optimizer)
        logged = {f"train/{name}/{term}": value.detach() for term, value in terms.items()}
        self.log_dict(logged, batch_size=len(raw))
        self.log(f"train/{name}/loss", total.detach(), prog_bar=True, batch_size=len(raw))

    def configure_optimizers(self) -> list[torch.optim.Optimizer]:
        return [
            torch.optim.Adam(self.generator.parameters(), lr=self.generator_lr, betas=self.betas),
            torch.optim.Adam(self.discriminator.parameters(), lr=self.discriminator_lr, betas=self.betas),
        ]


def _uncounted() -> None:
    """Takes the place of Lightning's counting of an optimizer's steps."""
