"""Adversarial training, once for every method: two optimizers under manual optimisation."""

from itertools import chain
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor, nn

from .speed import recompute


class Adversarial(pl.LightningModule):
    """Generators and discriminators that take turns, the discriminators first.

    A method sets `self.generator` and `self.discriminator` (or says in `networks` which of its networks train on which
    side) and gives `forward(source, mask)` and two functions that return named terms: `discriminator_loss(batch, raw)`
    and `generator_loss(batch, raw)`, where `raw` is what `draw(batch)` returned, a tensor or a dict of tensors. The
    discriminators' turn gets it detached; the generators' turn judges it with the updated discriminators, so no graph
    outlives a change of weights. Every term is logged; `weights["generator"]` and `weights["discriminator"]` multiply
    the terms they name, the others count once. `init_from` names what the first weights are taken from.

    Both sides add up the gradients of `accumulate_grad_batches` batches, each loss divided by that number, and step
    on the last of them or of the epoch (whose window is then the shorter one): the generators meet the updated
    discriminators in that batch, in those before it the ones of the last step. `global_step` counts the generators'
    steps. `gradient_clip_val` bounds the norm of each side's gradient. `gradient_checkpointing` recomputes the
    generators' activations in the backward pass: less memory, a second forward pass.
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
        accumulate_grad_batches: int = 1,
        gradient_clip_val: float | None = None,
        gradient_checkpointing: bool = False,
    ) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.generator_lr, self.discriminator_lr = generator_lr, discriminator_lr
        self.betas = (float(betas[0]), float(betas[1]))
        self.init_from = init_from
        self.accumulate_grad_batches, self.gradient_clip_val = accumulate_grad_batches, gradient_clip_val
        self.gradient_checkpointing = gradient_checkpointing
        if accumulate_grad_batches < 1:
            raise ValueError(f"model.accumulate_grad_batches is {accumulate_grad_batches}: 1 or more is meant")
        if gradient_clip_val is not None and not gradient_clip_val > 0:
            raise ValueError(f"model.gradient_clip_val is {gradient_clip_val}: more than 0, or null, is meant")
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

    def on_fit_start(self) -> None:
        if self.gradient_clip_val is not None and self.trainer.precision == "16-mixed":
            raise ValueError(
                "model.gradient_clip_val cannot see 16-mixed's true gradients: set trainer=fast (bf16-mixed)"
            )
        if self.gradient_checkpointing:
            for network in self.networks("generator"):
                recompute(network)

    def on_train_start(self) -> None:
        # A fused step reads weights and moments as they lie in memory: those of a run in another layout are laid anew.
        for optimizer in self.trainer.optimizers:
            for weight, state in optimizer.state.items():
                for name, moment in state.items():
                    if moment.shape == weight.shape and moment.stride() != weight.stride():
                        state[name] = torch.empty_like(weight, requires_grad=False).copy_(moment)

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> None:
        generator, discriminator = self.optimizers()  # type: ignore[misc, attr-defined]
        # Lightning counts every step of every optimizer; global_step shall count the generators' alone.
        discriminator._on_before_step = discriminator._on_after_step = _uncounted
        raw = self.draw(batch)
        self._descend("discriminator", discriminator, self.discriminator_loss, batch, _detached(raw), batch_idx)
        self._descend("generator", generator, self.generator_loss, batch, raw, batch_idx)

    def _descend(self, side: str, optimizer: Any, loss: Any, batch: dict[str, Any], raw: Any, batch_idx: int) -> None:
        """Adds one side's gradient of its weighted loss, the other side frozen, and steps at the window's end."""
        self.toggle_optimizer(optimizer)
        terms, weights = loss(batch, raw), self.weights.get(side, {})
        if unknown := set(weights) - set(terms):
            raise ValueError(
                f"model.weights.{side} names {sorted(unknown)}, not a term of this loss; the terms are {sorted(terms)}"
            )
        total = torch.stack([weights.get(term, 1.0) * value.float() for term, value in terms.items()]).sum()
        first = batch_idx - batch_idx % self.accumulate_grad_batches
        end = min(first + self.accumulate_grad_batches, self.trainer.num_training_batches)
        if batch_idx == first:
            optimizer.zero_grad()
        # Autocast would take the gradients of what ran in float32 in bfloat16.
        with torch.autocast(self.device.type, enabled=False):
            self.manual_backward(total / (end - first))
        if batch_idx + 1 == end:
            optimizer.step()
        self.untoggle_optimizer(optimizer)
        logged = {f"train/{side}/{term}": value.detach().float() for term, value in terms.items()}
        self.log_dict(logged, batch_size=len(batch["id"]))
        self.log(f"train/{side}/loss", total.detach(), prog_bar=True, batch_size=len(batch["id"]))

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        if self.gradient_clip_val is not None:
            weights = [weight for group in optimizer.param_groups for weight in group["params"]]
            nn.utils.clip_grad_norm_(weights, self.gradient_clip_val)

    def configure_optimizers(self) -> list[torch.optim.Optimizer]:
        rates = {"generator": self.generator_lr, "discriminator": self.discriminator_lr}
        return [
            torch.optim.Adam(self._parameters_of(side), lr=lr, betas=self.betas, fused=True)
            for side, lr in rates.items()
        ]

    def _parameters_of(self, side: str) -> list[nn.Parameter]:
        return list(chain.from_iterable(network.parameters() for network in self.networks(side)))


def _detached(raw: Any) -> Any:
    return {name: value.detach() for name, value in raw.items()} if isinstance(raw, dict) else raw.detach()


def _uncounted() -> None:
    """Takes the place of Lightning's counting of an optimizer's steps."""
