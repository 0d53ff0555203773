"""How networks are run: their memory layout, compiled or not, activations kept or recomputed."""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from functools import partial
from itertools import pairwise
from math import ceil, sqrt
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint

from .nets.layers import DenseConv2d, DenseConvTranspose2d
from .nets.spectral import SpectralConv2d, SpectralConvTranspose2d


def hasten(model: nn.Module, precision: Any, compiled: bool) -> None:
    """Puts networks that run in bf16 autocast into channels-last memory, the layout of its kernels; compiles them.

    Layers that multiply matrices stay contiguous. Parts are compiled where they are, so the keys of checkpoints stay.
    """
    for layer in model.modules() if precision == "bf16-mixed" else ():
        if not list(layer.children()) and not isinstance(layer, DenseConv2d | DenseConvTranspose2d):
            layer.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    for part in model.children() if compiled else ():
        part.compile()


def recompute(net: nn.Module) -> None:
    """Makes a network keep only what its blocks begin with, and compute the rest again for the gradient.

    A block is a module whose parts have no parts; a sequence of n convolutions is cut into blocks of about sqrt(n)
    (Chen et al. 2016). The second pass draws the same random numbers and leaves the running statistics of batch
    normalisation and the singular vectors of spectral normalisation alone, so gradients and buffers are the same. A
    network must not run twice between a forward pass and its gradient. Parameters, buffers and keys stay as they are.

    Raises ValueError for a compiled network: its graph knows no second pass.
    """
    if net._compiled_call_impl is not None:
        raise ValueError("compile=true and model.gradient_checkpointing=true exclude each other: choose one of them")
    for block in [module for module in net.modules() if _is_block(module)]:
        parts = _cut(block) if isinstance(block, nn.Sequential) else [block.forward]
        block.forward = partial(_through, block, parts)


def _is_block(module: nn.Module) -> bool:
    parts = list(module.children())
    return bool(parts) and not any(True for part in parts for _ in part.children())


def _cut(block: nn.Sequential) -> list[nn.Module]:
    """The sequence in pieces that begin with a convolution: an activation would overwrite what a piece begins with."""
    modules = list(block)
    starts = [number for number, module in enumerate(modules) if any(p.dim() > 2 for p in module.parameters(False))]
    starts = [0, *starts[:: max(1, ceil(sqrt(len(starts))))][1:], len(modules)]
    return [nn.Sequential(*modules[start:end]) for start, end in pairwise(starts)]


def _through(block: nn.Module, parts: list[Any], x: Tensor, *others: Tensor) -> Tensor:
    for part in parts:
        x = checkpoint(part, x, *others, use_reentrant=False, context_fn=lambda: (nullcontext(), _still(block)))
    return x


@contextmanager
def _still(block: nn.Module) -> Iterator[None]:
    """A training pass that changes no buffer."""
    spectral = [m for m in block.modules() if isinstance(m, SpectralConv2d | SpectralConvTranspose2d)]
    norms = [(m, m.momentum, m.num_batches_tracked) for m in block.modules() if isinstance(m, _BatchNorm)]
    for conv in spectral:
        conv.frozen = True
    for norm, _, _ in norms:
        norm.momentum, norm.num_batches_tracked = 0.0, None
    try:
        yield
    finally:
        for conv in spectral:
            conv.frozen = False
        for norm, momentum, count in norms:
            norm.momentum, norm.num_batches_tracked = momentum, count
