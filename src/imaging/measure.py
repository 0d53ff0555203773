"""Measurements of segmented objects, under the column names that CellProfiler gives them."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from skimage.measure import regionprops_table

SHAPE_COLUMNS = {
    "label": "ObjectNumber",
    "area": "AreaShape_Area",
    "axis_major_length": "AreaShape_MajorAxisLength",
    "axis_minor_length": "AreaShape_MinorAxisLength",
    "eccentricity": "AreaShape_Eccentricity",
    "solidity": "AreaShape_Solidity",
    "centroid-0": "Location_Center_Y",
    "centroid-1": "Location_Center_X",
}
INTENSITY_COLUMNS = {
    "intensity_mean": "Intensity_MeanIntensity",
    "intensity_std": "Intensity_StdIntensity",
    "intensity_min": "Intensity_MinIntensity",
    "intensity_max": "Intensity_MaxIntensity",
}


def measure(
    labels: np.ndarray,
    image: np.ndarray | None = None,
    pixel_size: float | Sequence[float] | np.ndarray | None = None,
    channel: str = "DNA",
) -> pd.DataFrame:
    """Measure each object of a label image Y X: one row per object, none for an empty image.

    Areas and lengths are in pixels, or with pixel_size (micrometres: a number or Y X) in micrometres; the centre is in
    pixels always, so that it finds the object in the image. With `image` (Y X, in any unit) the Intensity_* columns
    follow, ending in the channel's name. Raises ValueError for other axes or sizes that differ.
    """
    if labels.ndim != 2 or (image is not None and image.shape != labels.shape):
        shape = None if image is None else image.shape
        raise ValueError(f"labels {labels.shape} and image {shape} must both be Y X and of one size")
    spacing = np.broadcast_to(1.0 if pixel_size is None else pixel_size, 2).astype(float)
    names = dict(SHAPE_COLUMNS)
    if image is not None:
        names |= {key: f"{name}_{channel}" for key, name in INTENSITY_COLUMNS.items()}
    properties = dict.fromkeys(key.split("-")[0] for key in names)
    cells = regionprops_table(labels, image, properties=tuple(properties), spacing=tuple(spacing))
    table = pd.DataFrame(cells)[list(names)].rename(columns=names)
    table["Location_Center_Y"] /= spacing[0]
    table["Location_Center_X"] /= spacing[1]
    if image is not None:
        pixels = table["AreaShape_Area"] / spacing.prod()
        table[f"Intensity_IntegratedIntensity_{channel}"] = table[f"Intensity_MeanIntensity_{channel}"] * pixels
    return table
