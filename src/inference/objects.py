"""What a lab measures on a field, before and after it was restored."""

from __future__ import annotations

import numpy as np
import pandas as pd
from scipy import ndimage

from ..imaging.measure import measure
from ..imaging.quality import image_quality
from ..imaging.segment import nuclear_threshold, segment_nuclei

TOUCHES = "Touches_Synthetic"
QUALITY = {"focus": "PowerLogLogSlope", "background": "BackgroundLevel", "saturation": "PercentMaximal"}
LEAST_SIDE = 32  # pixels: what image_quality needs
FULL_SCALES = (255, 1023, 4095, 16383, 65535)  # of cameras with 8 to 16 bits


def measure_objects(
    image: np.ndarray, mask: np.ndarray, threshold: float, background: float, pixel_size: float
) -> pd.DataFrame:
    """Nuclei of one picture (Y X, camera counts) under CellProfiler's names, areas in square micrometres.

    Intensities are above `background`. `Touches_Synthetic` marks the nuclei with a pixel in `mask` or beside it: what
    they measure is drawn, in part or wholly.
    """
    labels = segment_nuclei(image, threshold, pixel_size=pixel_size)
    table = measure(labels, image.astype(np.float32) - np.float32(background), pixel_size)
    near = np.unique(labels[ndimage.binary_dilation(mask != 0, np.ones((3, 3)))])
    table[TOUCHES] = table["ObjectNumber"].isin(near)
    return table


def ruler(image: np.ndarray, mask: np.ndarray) -> tuple[float, float]:
    """Threshold and background of a field, from its measured pixels alone, so that no fill moves the ruler.

    Background is the median of the measured pixels below the threshold.
    """
    known = image[mask == 0] if (mask == 0).any() else image.ravel()
    threshold = nuclear_threshold(known)
    below = known[known <= threshold]
    return threshold, float(np.median(below if below.size else known))


def summary(table: pd.DataFrame, prefix: str) -> dict[str, float]:
    """Count, mean area (um2), summed intensity and the count of nuclei untouched by synthetic pixels, per field."""
    measured = table[~table[TOUCHES]]
    return {
        f"{prefix}_count": len(table),
        f"{prefix}_mean_area": float(table["AreaShape_Area"].mean()) if len(table) else float("nan"),
        f"{prefix}_integrated_intensity": float(table["Intensity_IntegratedIntensity_DNA"].sum()),
        f"{prefix}_count_measured": len(measured),
    }


def field_quality(image: np.ndarray, pixel_size: float) -> dict[str, float]:
    """Focus, background and saturation (per cent) of a field Y X in counts; NaN for one too small to tell.

    The camera's greatest count is the image's own maximum where cameras have such a one, else what its type holds.
    """
    if min(image.shape) < LEAST_SIDE:
        return dict.fromkeys(QUALITY, float("nan"))
    top = float(image.max())
    if top not in FULL_SCALES:
        largest = FULL_SCALES[-1] if image.dtype.kind == "f" else int(np.iinfo(image.dtype).max)
        top = max(top, float(largest))
    measured = image_quality(image, top, pixel_size)
    return {name: measured[f"ImageQuality_{key}"] for name, key in QUALITY.items()}
