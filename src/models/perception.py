"""Perceptual and style losses of an inpainted image, seen by VGG19."""

from collections.abc import Sequence

import torch
from torch import Tensor

from . import losses
from .nets.vgg import VGG19
from .speed import hasten
from .vgg import load_vgg19, shown, vgg19_file


class Perception:
    """VGG19's losses beside a module, not in it: its weights are in no checkpoint and are needed in training alone.

    `perceptual` and `style` are the losses' weights, None leaves one out; `path` names VGG19's file (`load_vgg19`).
    """

    def __init__(self, perceptual: float | None, style: float | None, path: str | None = None) -> None:
        given = {"perceptual": perceptual, "style": style}
        self.weights = {name: weight for name, weight in given.items() if weight is not None}
        self.path = path
        self._vgg: VGG19 | None = None

    def missing(self) -> str | None:
        """What is to be mended where a loss needs VGG19's weights and there is no file of them."""
        try:
            if self.weights:
                vgg19_file(self.path)
        except FileNotFoundError as error:
            return str(error)
        return None

    def load(self, precision: str) -> None:
        """Reads VGG19's weights, where a loss needs them, for training in `precision` (`hasten`).

        Raises ValueError naming the mends where there are none.
        """
        if self.weights:
            try:
                self._vgg = load_vgg19(self.path)
            except FileNotFoundError as error:  # a setting to mend, not a disk that failed
                raise ValueError(str(error)) from None
            hasten(self._vgg, precision, compiled=False)

    def to(self, device: torch.device) -> None:
        if self._vgg:
            self._vgg.to(device)

    def terms(self, image: Tensor, target: Tensor, mask: Tensor) -> dict[str, Tensor]:
        """Named terms of a drawn image and its target (B C Y X in [0, 1]); style is that of the hole (B 1 Y X)."""
        terms = {}
        if "perceptual" in self.weights:
            terms["perceptual"] = losses.perceptual(*self._seen(image, target, losses.PERCEPTUAL))
        if "style" in self.weights:
            terms["style"] = losses.style(*self._seen(image * mask, target * mask, losses.STYLE))
        return terms

    def _seen(self, image: Tensor, target: Tensor, maps: Sequence[str]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        assert self._vgg is not None, "load() comes first"
        with torch.no_grad():
            real = self._vgg(shown(target), maps)
        return self._vgg(shown(image), maps), real
