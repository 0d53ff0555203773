"""Augmentation of pairs: crops turned and enlarged within their full image, and sources damaged as cameras damage."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from .corruptions import SEVERITIES, corrupt

REFERENCE = 256  # pixels a side of the crop that `shrink` is given for
MARGIN = 16  # pixels damaged beyond what is sampled, so that no blur ends at the crop: more than any disc's radius


@dataclass(frozen=True)
class Drawn:
    """One draw of `PairAugment`, the same for every plane of a sample.

    The crop is mirrored along Y and X by `flips`, turned by `angle` (radians) about its centre and takes in `kept` of
    its side. `damage` are (kind, severity) of corruptions, in their order; one that drives more than `most_clipped` of
    the pixels of all planes out of the camera's range is left out, on every plane.
    """

    angle: float = 0.0
    kept: float = 1.0
    flips: tuple[bool, bool] = (False, False)
    damage: tuple[tuple[str, int], ...] = ()
    most_clipped: float = 1.0

    def places(self, y: int, x: int, crop: int) -> np.ndarray:
        """Where each pixel of the crop at (y, x) comes from: 2 (row and column of the full image) Y X, float64."""
        half = (crop - 1) / 2
        steps = (np.arange(crop) - half) * self.kept
        down, right = (steps[::-1] if flip else steps for flip in self.flips)
        cos, sin = np.cos(self.angle), np.sin(self.angle)
        rows = y + half + cos * down[:, None] - sin * right[None, :]
        columns = x + half + sin * down[:, None] + cos * right[None, :]
        return np.stack([rows, columns])

    def damaged(self, planes: Sequence[np.ndarray], full_scale: float) -> list[np.ndarray]:
        """The counts of planes (each Y X) after `damage`, of a camera that counts to `full_scale`."""
        for kind, severity in self.damage:
            after = [corrupt(plane, kind, severity, full_scale) for plane in planes]
            if np.mean([clipped for _, clipped in after]) <= self.most_clipped:
                planes = [plane for plane, _ in after]
        return list(planes)

    def sample(
        self, planes: Sequence[np.ndarray], places: np.ndarray, full_scale: float | None = None
    ) -> list[np.ndarray]:
        """Intensities of `planes` (each full, Y X) at `places`, bilinear, float32 Y X in their counts.

        What lies outside the image is mirrored about its border's pixels. With `full_scale` the planes are damaged
        first, as much of them as is needed.
        """
        inside = _mirrored(places, planes[0].shape)
        top, left = (max(int(axis.min()) - MARGIN, 0) for axis in inside)
        bottom, right = (int(axis.max()) + 2 + MARGIN for axis in inside)
        parts = [plane[top:bottom, left:right] for plane in planes]
        if full_scale is not None:
            parts = self.damaged(parts, full_scale)
        within = inside - np.array([top, left])[:, None, None]
        return [ndimage.map_coordinates(part, within, np.float32, order=1, mode="nearest") for part in parts]

    def sample_labels(self, labels: np.ndarray, places: np.ndarray) -> np.ndarray:
        """Labels (full, Y X) at the nearest pixel; the type is kept."""
        rows, columns = np.rint(_mirrored(places, labels.shape)).astype(int)
        return labels[rows, columns]


def measured(places: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Where `places` (2 Y X) lie in a full image of `shape`, so that nothing was mirrored: bool Y X."""
    ends = np.array(shape)[:, None, None] - 1
    return np.asarray(((places >= -0.5) & (places <= ends + 0.5)).all(axis=0))


def _mirrored(places: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Places outside an image of `shape` (Y X), mirrored about its border's pixels into it."""
    ends = np.array(shape)[:, None, None] - 1.0
    inside = np.abs(places)
    if (inside > 2 * ends).any():  # the remainder is slow, and seldom needed
        inside %= np.maximum(2 * ends, 1)
    return np.asarray(ends - np.abs(ends - inside))


@dataclass(frozen=True)
class PairAugment:
    """Draws the augmentations of the label-free thesis, section 3.1.4, for crops of pairs.

    Probabilities: `flip` of each axis, `turn` by any angle, `enlarge`, and of each corruption. Enlarging takes pixels
    off each side of a crop of 256 (others in proportion), by `shrink`: pairs of pixels and share. Corruptions have
    `severity`, of either sign for contrast and brightness (4: gains 0.5 and 3, bias -135 and 135 of 255); one that
    drives more than `most_clipped` of the pixels out of the camera's range leaves nothing to learn from and is left out
    (1: never). How often the thesis turned and enlarged is not stated. DIC's shadows turn with the crop. Raises
    ValueError for probabilities outside [0, 1], shares that do not sum to 1, or nothing left of a crop.
    """

    flip: float = 0.3
    turn: float = 0.5
    enlarge: float = 0.5
    shrink: tuple[tuple[int, float], ...] = ((100, 0.2), (50, 0.2), (20, 0.6))
    contrast: float = 0.2
    brightness: float = 0.0
    defocus: float = 0.2
    severity: int = 4
    most_clipped: float = 0.5

    def __post_init__(self) -> None:
        for name in ("flip", "turn", "enlarge", "contrast", "brightness", "defocus", "most_clipped"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"data.augment.{name} is {getattr(self, name)}: a share from 0 to 1 is meant")
        if not self.shrink or abs(sum(share for _, share in self.shrink) - 1) > 1e-6:
            raise ValueError(f"data.augment.shrink is {self.shrink}: the shares of [pixels, share] must sum to 1")
        if not all(0 <= pixels < REFERENCE / 2 and share >= 0 for pixels, share in self.shrink):
            raise ValueError(
                f"data.augment.shrink is {self.shrink}: give [pixels, share], 0 to {REFERENCE // 2 - 1} pixels off "
                "each side and a share of 0 or more"
            )
        if self.severity not in SEVERITIES["defocus"]:
            raise ValueError(f"data.augment.severity is {self.severity}: it is one of {list(SEVERITIES['defocus'])}")

    def draw(self, rng: np.random.Generator) -> Drawn:
        """Draws one sample's augmentation; it takes the same numbers from `rng` whatever comes of them."""
        chances = rng.random(7)
        angle = rng.uniform(0, 2 * np.pi)
        pixels = rng.choice([pixels for pixels, _ in self.shrink], p=[share for _, share in self.shrink])
        signs = rng.choice([-1, 1], size=2)
        damage = [
            (kind, int(sign * self.severity))
            for kind, sign, chance in zip(("defocus", "brightness", "contrast"), (1, *signs), chances[4:], strict=True)
            if chance < getattr(self, kind)
        ]
        return Drawn(
            angle=float(angle) if chances[2] < self.turn else 0.0,
            kept=float(1 - 2 * pixels / REFERENCE) if chances[3] < self.enlarge else 1.0,
            flips=(bool(chances[0] < self.flip), bool(chances[1] < self.flip)),
            damage=tuple(damage),
            most_clipped=self.most_clipped,
        )
