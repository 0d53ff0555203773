"""Classical segmentation of fluorescent organelles against local thresholds: nuclei, ER, GFP and Golgi (thesis).

Thresholds follow the light from place to place, so uneven illumination does no harm, and a pixel is compared with its
surroundings only, so gain and offset do none either. Where there is nothing, the noise lies above its own mean at every
other pixel; size, shape and openings discard it, but not noise that is itself smooth over several pixels, as that of a
blurred empty field. Lengths and areas are in pixels of the image given. The blocks of 111 and 181 are the thesis', for
its pixels, whose size it does not say; smaller ones part neighbours better (nuclei of BBBC039, 28 pixels wide: F1 0.80
with 111, 0.85 with 61). What else the thesis leaves open is said where it is set.
"""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Callable

import cv2
import numpy as np
from scipy.ndimage import binary_fill_holes
from skimage.filters import threshold_local
from skimage.measure import block_reduce
from skimage.restoration import ellipsoid_kernel, rolling_ball

from .segment import fill_small_holes, keep_objects

FLAT = 1e-9  # of the image's range: the rounding of a local mean, so that a flat patch is not above itself
GREY_LEVELS = 255.0  # range to which an image is brought before the ball rolls: its radius is a height too


def segment(image: np.ndarray, organelle: str, **parameters: float | None) -> np.ndarray:
    """Label the objects of an organelle in an image Y X of any real type and unit: int32 Y X, 0 = background, no gaps.

    organelle is one of ORGANELLES; parameters are those of its function. A constant image has no objects. Touching
    objects are one. Raises ValueError for an unknown organelle or parameter, and for an image that is not Y X or holds
    NaN or infinite values.
    """
    if organelle not in ORGANELLES:
        raise ValueError(f"unknown organelle {organelle!r}; choose from {', '.join(ORGANELLES)}")
    known = list(inspect.signature(ORGANELLES[organelle]).parameters)[1:]
    if unknown := set(parameters) - set(known):
        raise ValueError(f"{organelle} has no parameter {', '.join(sorted(unknown))}; choose from {', '.join(known)}")
    return ORGANELLES[organelle](image, **parameters)


def nuclei(
    image: np.ndarray,
    block: int = 111,
    min_area: float = 30.0,
    max_area: float = 5000.0,
    min_solidity: float = 0.8,
    max_hole: float | None = 100.0,
    min_contrast: float = 0.0,
) -> np.ndarray:
    """Label nuclei: above the local threshold, holes filled, then by area and by solidity. Thesis, algorithm 2.

    Solidity is the area over that of the convex hull. The limits of area and solidity are ours: the thesis measured its
    own by hand and does not give them. So is max_hole: None fills every hole, as the thesis does, but in a nearly empty
    field the noise closes round a nucleus and its dark surroundings, and they are filled and lost as one. And so is
    min_contrast: the least that an object's mean lies above that of its surroundings (the same Gaussian's), as a share
    of the image's range; beside one bright nucleus, 0.1 tells nuclei from ripples of the background. 0: the thesis'.
    """
    image = normalised(image)
    mask = above_local_threshold(image, block)
    mask = binary_fill_holes(mask) if max_hole is None else fill_small_holes(mask.view(np.uint8), max_hole)
    labels = _objects(mask, min_area, max_area, min_solidity)
    if min_contrast <= 0 or not labels.any():
        return labels
    above = image - threshold_local(image, int(block), method="gaussian")
    contrast = np.bincount(labels.ravel(), above.ravel()) / np.maximum(np.bincount(labels.ravel()), 1)
    return keep_objects(labels, np.append(False, contrast[1:] >= min_contrast))


def er(image: np.ndarray, block: int = 181, opening: int = 5, min_area: float = 100.0) -> np.ndarray:
    """Label endoplasmic reticulum. Thesis, algorithm 4; the sizes of opening and smallest object are ours.

    What is not above the mean becomes 0, which removes the background's noise and keeps the glow; then the local
    threshold, all holes filled, opened, the outline smoothed by a Gaussian over 3 x 3 pixels, small objects out.
    """
    image = normalised(image)
    image = np.where(image > image.mean(), image, 0.0)
    mask = opened(binary_fill_holes(above_local_threshold(image, block)), opening)
    smooth = cv2.GaussianBlur(mask.astype(np.float32), (3, 3), 0, borderType=cv2.BORDER_REFLECT)
    return _objects(smooth > 0.5, min_area)


def gfp(image: np.ndarray, block: int = 181, opening: int = 5, min_area: float = 100.0) -> np.ndarray:
    """Label whole cells: above the local threshold, opened, small objects out. Thesis, 3.5.1; the sizes are ours."""
    return _objects(opened(above_local_threshold(normalised(image), block), opening), min_area)


def golgi(
    image: np.ndarray, radius: float | None = 50.0, shrink: int = 4, opening: int = 3, min_area: float = 5.0
) -> np.ndarray:
    """Label Golgi apparatus: `golgi_preprocessed`, above the global threshold, opened, small objects out.

    The thesis shows such a mask without its recipe; the threshold is its algorithm 3, the sizes are ours. Preprocessing
    a preprocessed image changes little, so targets and predictions of either kind can be given.
    """
    image = golgi_preprocessed(image, radius, shrink)
    return _objects(opened(image > global_threshold(image), opening), min_area)


def mask(image: np.ndarray, threshold: float = 0.8, min_area: float = 100.0) -> np.ndarray:
    """Label the objects of an image of probabilities or of 0 and 1: above a fixed threshold. Thesis, section 3.5.2."""
    normalised(image)  # refuses what is no image
    return _objects(np.asarray(image) > threshold, min_area)


ORGANELLES: dict[str, Callable[..., np.ndarray]] = {
    "nuclei": nuclei, "er": er, "gfp": gfp, "golgi": golgi, "mask": mask,
}  # fmt: skip


def golgi_preprocessed(
    image: np.ndarray, radius: float | None = 50.0, shrink: int = 4, percentile: float = 90.0
) -> np.ndarray:
    """Remove the background of a Golgi image Y X and keep its brightest tenth, stretched: float32 Y X in [0, 1].

    A rolling ball (Sternberg 1983) of `radius` pixels, on grey levels 0..255, gives the background; None leaves it in,
    with which the thesis trained better. Then all below the percentile is cut, the rest rescaled to its own range, so
    brightness cannot be compared between images. The ball rolls over the minima of shrink x shrink pixels: 1 is exact
    and takes shrink**4 times as long. A constant image gives 0. Thesis, section 3.4.1.1, which leaves the radius open.
    Raises ValueError for a percentile outside 0..100 or a radius under 2 x shrink, at which no ball is left.
    """
    if not 0 <= percentile <= 100:
        raise ValueError(f"golgi: percentile is {percentile}; give one from 0 to 100")
    image = normalised(image)
    if radius is not None:
        image = image - background(image * GREY_LEVELS, radius, shrink) / GREY_LEVELS
    return normalised(np.maximum(image, np.percentile(image, percentile))).astype(np.float32)


def background(image: np.ndarray, radius: float, shrink: int = 4) -> np.ndarray:
    """Background of an image Y X, in its unit, by a ball of `radius` pixels and units rolled below it; never above it.

    With shrink > 1 it rolls over the minima of shrink x shrink pixels, flattened accordingly, and the result is
    interpolated. Raises ValueError for a shrink under 1 or a radius under 2 x shrink.
    """
    if shrink < 1 or shrink != int(shrink) or not 2 * shrink <= radius < np.inf:
        raise ValueError(
            f"rolling ball: radius {radius} with shrink {shrink}; shrink must be a whole number of 1 or more and the "
            "radius at least twice it: lower shrink"
        )
    filling = [(0, -length % shrink) for length in image.shape]
    small = block_reduce(np.pad(image, filling, mode="edge"), shrink, np.min)
    side = 2 * round(radius / shrink) + 1
    low = rolling_ball(small, kernel=ellipsoid_kernel((side, side), radius))
    wide = cv2.resize(low, (small.shape[1] * shrink, small.shape[0] * shrink), interpolation=cv2.INTER_LINEAR)
    return np.minimum(wide[: image.shape[0], : image.shape[1]], image)


def normalised(image: np.ndarray) -> np.ndarray:
    """Bring an image Y X to [0, 1] by its own minimum and maximum, float64; a constant image becomes 0."""
    image = np.asarray(image)
    if image.ndim != 2 or image.size == 0 or not np.isfinite(image).all():
        raise ValueError(f"segmentation takes one image Y X, all finite; this one is {image.dtype} {image.shape}")
    low, high = float(image.min()), float(image.max())
    return (image.astype(np.float64) - low) / (high - low) if high > low else np.zeros(image.shape)


def above_local_threshold(image: np.ndarray, block: int) -> np.ndarray:
    """Mask the pixels above the Gaussian mean (sigma = (block - 1) / 6 pixels) around them, bool Y X.

    Beyond its border an image is mirrored, again and again where it is smaller than the block; then the threshold comes
    near the image's mean, and a warning says so. Raises ValueError unless the block is odd and 3 or more.
    """
    if block != int(block) or block < 3 or block % 2 == 0:
        raise ValueError(f"block is {block}; it must be odd and 3 or more: give {max(int(block) // 2 * 2 + 1, 3)}")
    if min(image.shape) < block:
        warnings.warn(
            f"the image {image.shape} is smaller than the block of {block} pixels, so its local threshold is nearly a "
            "global one; segment the whole field or give a smaller block",
            stacklevel=4,
        )
    return image > threshold_local(image, int(block), method="gaussian") + FLAT


def global_threshold(image: np.ndarray, tolerance: float = 1e-4) -> float:
    """Threshold halfway between the means of what is above and what is not, found from the image's mean on.

    Iterated until it moves by no more than tolerance x the image's range. A constant image's is its value. Thesis,
    algorithm 3 (Ridler and Calvard 1978).
    """
    low, high = float(image.min()), float(image.max())
    threshold = min(max(float(image.mean()), low), high)
    moved, least = np.inf, tolerance * (high - low)
    while moved > least and threshold < high:
        bright = image > threshold
        halfway = (float(image[bright].mean()) + float(image[~bright].mean())) / 2
        threshold, moved = halfway, abs(halfway - threshold)
    return threshold


def opened(mask: np.ndarray, size: int) -> np.ndarray:
    """Open a mask Y X by an ellipse of size x size pixels: what it does not fit into is removed. 0 or 1: unchanged."""
    if size <= 1:
        return mask
    ellipse = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (size, size))
    return cv2.morphologyEx(mask.astype(np.uint8), cv2.MORPH_OPEN, ellipse) > 0


def _objects(mask: np.ndarray, min_area: float, max_area: float = np.inf, min_solidity: float = 0.0) -> np.ndarray:
    """Label the 8-connected objects (as findContours) within the limits of area (pixels) and solidity, int32 Y X."""
    _, labels, table, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8), connectivity=8)
    area = table[:, cv2.CC_STAT_AREA]
    keep = (area >= min_area) & (area <= max_area)
    if min_solidity > 0:
        for name in np.flatnonzero(keep[1:]) + 1:
            x, y, width, height = table[name, :4]
            part = (labels[y : y + height, x : x + width] == name).astype(np.uint8)
            hull = cv2.fillConvexPoly(np.zeros_like(part), cv2.convexHull(cv2.findNonZero(part)), 1)
            keep[name] = area[name] >= min_solidity * hull.sum()
    return keep_objects(labels, keep)
