"""Adversarial training, once for every method: two optimizers under manual optimisation."""

from itertools import chain
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor, nn


class Adversarial(pl.LightningModule):
    """Generators and discriminators that take turns, the discriminators first.

    A method sets `self.generator` and `self.discriminator` (or says in `networks` which of its networks train on which
    side) and gives `forward(source, mask)` and two functions that return named terms: `discriminator_loss(batch, raw)`
    and `generator_loss(batch, raw)`, where `raw` is what `draw(batch)` returned, a tensor or a dict of tensors. The
    discriminators' turn gets it detached; the generators' turn judges it with the updated discriminators, so no graph
    outlives a change of weights. Every term is logged; `weights["generator"]` and `weights["discriminator"]` multiply
    the terms they name, the others count once. `init_from` names what the first weights are taken from.
    """

    generator: nn.Module
    discriminator: nn.Module

    def __init__(
        self,
        generator_lr: float,
        discriminator_lr: float,
        betas: tuple[float, float] = (0.5, 0.999),
        weights: dict[str, dict[str, float]] | None = None,
        init_from: str | dict[str, str] | None = None,
    ) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.generator_lr, self.discriminator_lr = generator_lr, discriminator_lr
        self.betas = (float(betas[0]), float(betas[1]))
        self.init_from = init_from
        self.weights = weights or {}
        if unknown := set(self.weights) - {"generator", "discriminator"}:
            raise ValueError(f"model.weights names {sorted(unknown)}; it has two parts, generator and discriminator")

    def networks(self, side: str) -> list[nn.Module]:
        """The networks that train on one side, generator or discriminator."""
        return [getattr(self, side)]

    def draw(self, batch: dict[str, Any]) -> Any:
        """What the generators make of a batch: a tensor, or a dict of tensors."""
        return self(batch["source"], batch["mask"])

    def discriminator_loss(self, batch: dict[str, Any], raw: Any) -> dict[str, Tensor]:
        """Named terms of the discriminators' loss; a method must give it."""
        raise TypeError(f"{type(self).__name__} does not say how its discriminator learns")

    def generator_loss(self, batch: dict[str, Any], raw: Any) -> dict[str, Tensor]:
        """Named terms of the generators' loss; a method must give it."""
        raise TypeError(f"{type(self).__name__} does not say how its generator learns")

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> None:
        generator, discriminator = self.optimizers()  # type: ignore[misc, attr-defined]
        # Lightning counts every step of every optimizer; global_step shall count batches, so these are not counted.
        discriminator._on_before_step = discriminator._on_after_step = _uncounted
        raw = self.draw(batch)
        self._descend("discriminator", discriminator, self.discriminator_loss, batch, _detached(raw))
        self._descend("generator", generator, self.generator_loss, batch, raw)

    def _descend(self, side: str, optimizer: Any, loss: Any, batch: dict[str, Any], raw: Any) -> None:
        """One step of one side down its weighted loss, the other side frozen."""
        self.toggle_optimizer(optimizer)
        terms, weights = loss(batch, raw), self.weights.get(side, {})
        if unknown := set(weights) - set(terms):
            raise ValueError(
                f"model.weights.{side} names {sorted(unknown)}, not a term of this loss; the terms are {sorted(terms)}"
            )
        total = torch.stack([weights.get(term, 1.0) * value for term, value in terms.items()]).sum()
        optimizer.zero_grad()
        self.manual_backward(total)
        optimizer.step()
        self.untoggle_optimizer(optimizer)
        logged = {f"train/{side}/{term}": value.detach() for term, value in terms.items()}
        self.log_dict(logged, batch_size=len(batch["id"]))
        self.log(f"train/{side}/loss", total.detach(), prog_bar=True, batch_size=len(batch["id"]))

    def configure_optimizers(self) -> list[torch.optim.Optimizer]:
        rates = {"generator": self.generator_lr, "discriminator": self.discriminator_lr}
        return [torch.optim.Adam(self._parameters_of(side), lr=lr, betas=self.betas) for side, lr in rates.items()]

    def _parameters_of(self, side: str) -> list[nn.Parameter]:
        return list(chain.from_iterable(network.parameters() for network in self.networks(side)))


def _detached(raw: Any) -> Any:
    return {name: value.detach() for name, value in raw.items()} if isinstance(raw, dict) else raw.detach()


def _uncounted() -> None:
    """Takes the place of Lightning's counting of an optimizer's steps."""
