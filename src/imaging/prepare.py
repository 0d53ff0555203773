"""Stains prepared before anything learns from them: a Golgi without its haze, a mask in place of a picture."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np

from .organelles import golgi_preprocessed, segment

FULL = 65535  # what 1 becomes, so that a prepared stain goes the way of every image of 16 bits


@dataclass(frozen=True)
class GolgiPrepared:
    """A Golgi stain without background, its brightest tenth stretched: see `organelles.golgi_preprocessed`.

    Takes a whole image Y X, gives uint16 0..65535. Thesis, section 3.4.1.1.
    """

    radius: float | None = 50.0
    shrink: int = 4
    percentile: float = 90.0

    def __call__(self, image: np.ndarray) -> np.ndarray:
        return _counts(golgi_preprocessed(image, self.radius, self.shrink, self.percentile))


@dataclass(frozen=True)
class OrganelleMask:
    """The mask of an organelle's objects, as `organelles.segment` finds them: 0 or 65535, uint16.

    Takes a whole image Y X. The target of a network that draws masks (thesis, section 3.5.1).
    """

    organelle: Literal["nuclei", "er", "gfp", "golgi"]
    nearest: ClassVar[bool] = True  # whether patches take its nearest pixels: between 0 and 65535 lies nothing

    def __call__(self, image: np.ndarray) -> np.ndarray:
        return _counts(segment(image, self.organelle) > 0)


def _counts(values: np.ndarray) -> np.ndarray:
    return np.rint(values.astype(np.float32) * FULL).astype(np.uint16)


def settings(prepare: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """What prepares each stain, as plain values that can be compared: the name of its class and every setting."""
    return {
        name: {"class": f"{type(step).__module__}.{type(step).__qualname__}"} | vars(step)
        for name, step in prepare.items()
    }


def written(prepared: Mapping[str, Mapping[str, Any]] | None) -> str:
    """These `settings` as a command line sets them: data.prepare=..."""
    if not prepared:
        return "data.prepare=null"
    nodes = {
        name: {"_target_" if key == "class" else key: value for key, value in known.items()}
        for name, known in prepared.items()
    }
    return "data.prepare=" + json.dumps(nodes, separators=(",", ":")).replace('"', "")
