"""Pictures to click through: input, restored and difference of one field, as a small PNG."""

from __future__ import annotations

import io

import cv2
import numpy as np
from PIL import Image

from .figures import OUTLINE
from .result import Picture

PANEL = 396  # greatest width of a panel: three and two gaps make 1200 pixels
GAP = 6
GREYS, SIGNED = 64, 96  # steps of the grey scale and of the difference's colours: few, so that the file is small
SHOWN = (0.2, 99.8)  # percentiles of the restored image that are drawn black and white
LEGEND = (
    "Left: input. Middle: restored, synthetic pixels outlined. Right: restored minus input (red: brighter, blue: "
    "darker). Input and restored share one grey scale."
)


def field_picture(source: np.ndarray, restored: np.ndarray, mask: np.ndarray, title: str) -> Picture:
    """Draw input, restored with the synthetic pixels outlined, and their difference side by side.

    `source` and `restored` are Y X in one unit, `mask` Y X with synthetic pixels nonzero. At most 1200 pixels wide;
    pixels are averaged where the field is larger. Raises ValueError for other axes or sizes that differ.
    """
    if source.ndim != 2 or not source.shape == restored.shape == mask.shape:
        raise ValueError(
            f"{title}: source {source.shape}, restored {restored.shape} and mask {mask.shape} must be Y X of one size"
        )
    scale = min(1.0, PANEL / source.shape[1])
    size = (max(1, round(source.shape[1] * scale)), max(1, round(source.shape[0] * scale)))
    before, after, hidden = (
        cv2.resize(np.asarray(image, np.float32), size, interpolation=cv2.INTER_AREA)
        for image in (source, restored, mask != 0)
    )
    low, high = np.percentile(after, SHOWN)
    span = max(float(high - low), 1e-6)
    grey_before, grey_after = (
        np.rint(np.clip((image - low) / span, 0, 1) * (GREYS - 1)).astype(np.uint8) for image in (before, after)
    )
    synthetic = (hidden > 0).astype(np.uint8)
    # The line lies just outside, so that it covers no synthetic pixel; at the border of the field it stays open.
    outline = cv2.dilate(synthetic, np.ones((3, 3), np.uint8)) > synthetic
    grey_after[outline] = GREYS
    signed = np.clip((after - before) / span, -1, 1)
    difference = (GREYS + 2 + np.rint((signed + 1) / 2 * (SIGNED - 1))).astype(np.uint8)
    gap = np.full((size[1], GAP), GREYS + 1, np.uint8)
    picture = Image.fromarray(np.hstack([grey_before, gap, grey_after, gap, difference]))
    picture.putpalette(_palette())
    buffer = io.BytesIO()
    picture.save(buffer, format="PNG", optimize=True)
    return Picture(title, LEGEND, buffer.getvalue())


def _palette() -> list[int]:
    """Greys, the outline's colour, white for the gaps, and blue over near-white to red."""
    greys = np.repeat(np.linspace(0, 255, GREYS)[:, None], 3, axis=1)
    outline = [int(OUTLINE[i : i + 2], 16) for i in (1, 3, 5)]
    stops = np.array([[5, 48, 130], [67, 147, 220], [247, 247, 247], [225, 100, 80], [130, 0, 30]])
    at = np.linspace(0, 1, SIGNED)
    signed = np.stack([np.interp(at, np.linspace(0, 1, len(stops)), stops[:, channel]) for channel in range(3)], axis=1)
    return np.vstack([greys, [outline], [[255, 255, 255]], signed]).round().astype(int).ravel().tolist()
