"""Tells dark objects on a bright ground (bright field, or an inverted export) from fluorescence."""

from __future__ import annotations

import cv2
import numpy as np
from skimage.filters import threshold_otsu

SIDE = 512  # the longer side at which a field is looked at


def looks_inverted(image: np.ndarray, share: float = 0.6, contrast: float = 6.0) -> bool:
    """Tell whether a field `Y X` shows dark objects on a bright, even ground, so that fluorescence cannot be meant.

    Otsu's threshold parts the reduced field. It looks inverted where the bright part covers more than `share` of it and
    is even: the dark part's median lies `contrast` robust standard deviations of the bright part below its median. A
    field full of bright nuclei is not even, an empty one has no contrast.
    """
    step = max(1, -(-max(image.shape) // SIDE))
    small = cv2.medianBlur(np.ascontiguousarray(image[::step, ::step], dtype=np.float32), 5)
    low, high = float(small.min()), float(small.max())
    if low == high:
        return False
    bright = small > threshold_otsu(small)
    if bright.mean() <= share:
        return False
    ground, objects = float(np.median(small[bright])), float(np.median(small[~bright]))
    spread = 1.4826 * float(np.median(np.abs(small[bright] - ground)))
    return ground - objects > contrast * max(spread, 1e-6 * (high - low))
