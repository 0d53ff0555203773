"""Masks of sample-preparation artefacts, from the channel in which only they glow."""

import cv2
import numpy as np
from skimage.filters import threshold_otsu

CROSS = cv2.getStructuringElement(cv2.MORPH_CROSS, (3, 3))


def artefact_mask(image: np.ndarray, factor: float = 0.7, floor: float = 200.0) -> np.ndarray:
    """Mask the artefacts in an image of the artefact channel: uint8 Y X, 1 = artefact.

    image: Y X in raw camera counts (uint8, uint16 or float). Artefact is what is brighter than factor x Otsu's
    threshold, after an opening and a closing with the 3x3 cross; neighbours beyond the image's border do not count. A
    factor below 1 keeps small artefacts and the rims of large ones. The mask is empty where the threshold is not above
    `floor` (counts), as in a field without artefacts, whose threshold cuts through its background. A camera or medium
    that lifts the background above 200 counts needs a higher floor, 8-bit images a lower one. One single grey value
    has no threshold, so its mask is empty too. One very bright artefact raises the threshold and hides dim ones.

    Otsu's histogram has a bin for every count of an integer image and 256 bins over the range of a float one. Raises
    ValueError for other axes or types, NaN or infinite values, floats in [0, 1] (scaled, no counts) against a floor of
    1 or more, and a factor that is not positive. Sharma and Yakimovich, section 3.3; the floor is their code's.
    """
    image = np.asarray(image)
    if image.ndim != 2 or image.size == 0:
        raise ValueError(f"artefact_mask takes one image Y X with pixels; this one has shape {image.shape}")
    if image.dtype not in (np.uint8, np.uint16, np.float32, np.float64):
        raise ValueError(f"artefact_mask takes uint8, uint16, float32 or float64, not {image.dtype}")
    if not (np.isfinite(factor) and factor > 0 and np.isfinite(floor)):
        raise ValueError(f"artefact_mask: factor {factor} must be positive and floor {floor} a number of counts")
    if image.dtype.kind == "f":
        bad = image.size - int(np.isfinite(image).sum())
        if bad:
            raise ValueError(f"the artefact channel holds NaN or infinite values in {bad} of {image.size} pixels")
        if 0 < image.max() <= 1 <= floor:
            raise ValueError(
                f"the artefact channel spans {image.min():.3g} to {image.max():.3g}, so it is scaled: give camera "
                f"counts, or a floor on its scale (it is {floor:g})"
            )
    empty = np.zeros(image.shape, np.uint8)
    if image.min() == image.max():
        return empty
    threshold = threshold_otsu(image)
    if threshold <= floor:
        return empty
    mask = (image > factor * threshold).astype(np.uint8)
    return cv2.morphologyEx(cv2.morphologyEx(mask, cv2.MORPH_OPEN, CROSS), cv2.MORPH_CLOSE, CROSS)
