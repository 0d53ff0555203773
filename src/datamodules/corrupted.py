"""Patches whose sources went wrong in the camera: the same windows and targets, corrupted before anything is scaled."""

import copy
from typing import Any

import numpy as np

from ..imaging.corruptions import corrupt
from .pair_patches import PairPatches
from .patches import FieldReader


class CorruptedReader(FieldReader):
    """Reads fields and corrupts their first `sources` channels, whole and in camera counts (imaging/corruptions.py)."""

    def __init__(self, *, sources: int, kind: str, severity: int, full_scale: float, mode: str, **read: Any) -> None:
        super().__init__(**read)
        self.sources = sources
        self.corruption: dict[str, Any] = {
            "kind": kind,
            "severity": severity,
            "full_scale": full_scale,
            "mode": mode,
        }

    def __getstate__(self) -> dict[str, Any]:
        return super().__getstate__() | {"sources": self.sources} | self.corruption

    def _read(self, row: int) -> list[np.ndarray]:
        planes = super()._read(row)
        return [corrupt(plane, **self.corruption)[0] for plane in planes[: self.sources]] + planes[self.sources :]


def corrupted(samples: PairPatches, kind: str, severity: int, mode: str = "clip") -> PairPatches:
    """The same patches with corrupted sources, whatever then scales them; `samples` stay as they are.

    The range of a plate stays the one of the clean training wells; that of a source stretched by its whole image is
    taken after the corruption, as a user's would be, so that gain and offset cancel but for what was clipped.
    """
    other = copy.copy(samples)
    other.reader = CorruptedReader(
        **samples.reader.__getstate__(),
        sources=samples.sources,
        kind=kind,
        severity=severity,
        full_scale=_full_scale(samples),
        mode=mode,
    )
    return other


def clipped_share(samples: PairPatches, kind: str, severity: int, mode: str = "clip") -> float:
    """The share of source pixels that the corruption drives out of the camera's range: mean over fields, 0 to 1."""
    rows = sorted({row for row, _, _ in samples.windows})
    planes = [plane for row in rows for plane in samples.reader.image(row)[: samples.sources]]
    return float(np.mean([corrupt(plane, kind, severity, _full_scale(samples), mode)[1] for plane in planes]))


def _full_scale(samples: PairPatches) -> float:
    if samples.full_scale is None:
        raise ValueError("corruptions act on camera counts: these patches do not say the greatest, full_scale")
    return samples.full_scale
