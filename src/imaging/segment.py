"""Classical segmentation of nuclei: Otsu's threshold, and touching nuclei split at their waists."""

from collections.abc import Sequence

import cv2
import numpy as np
from skimage.segmentation import watershed

# Lengths and areas below are in pixels of this size (20x, the default microscope); they scale with pixel_size.
REFERENCE_PIXEL = 0.65
WAIST_SMOOTHING = 2.0  # sigma by which the distance map is smoothed: fewer false splits
CENTRE_DISTANCE = 7.0  # nuclei closer than this are one
SEPARATION = 4.0  # least distance of nuclei from the background, in standard deviations of the background
FILLED_HOLE = 100.0  # darker holes up to this area (nucleoli) belong to the nucleus


def otsu(image: np.ndarray) -> float:
    """Find Otsu's threshold of an image of any shape; foreground is brighter. One single grey value is returned itself.

    uint8: the value of scikit-image's threshold_otsu, float32 counts and ties included, from one OpenCV histogram.
    Other types are cut into 256 levels between their minimum and maximum. Source: Otsu 1979. Raises ValueError for
    an empty image or one with NaN or infinite values.
    """
    if image.size == 0 or (image.dtype.kind == "f" and not np.isfinite(image).all()):
        raise ValueError(f"Otsu's threshold needs pixels, all finite; this image is {image.dtype} {image.shape}")
    if image.dtype != np.uint8:
        low, high = float(image.min()), float(image.max())
        if high == low:
            return low
        levels = np.rint((image - low) * (255 / (high - low))).astype(np.uint8)
        return low + (otsu(levels) + 0.5) * (high - low) / 255  # the border between two levels
    flat = np.ascontiguousarray(image).reshape(1, -1)
    counts = cv2.calcHist([flat], [0], None, [256], [0, 256]).ravel()
    used = np.flatnonzero(counts)
    grey = np.arange(used[0], used[-1] + 1)
    if len(grey) == 1:
        return float(grey[0])
    counts = counts[grey]
    below, above = np.cumsum(counts), np.cumsum(counts[::-1])[::-1]
    weighted = counts * grey
    mean_below, mean_above = np.cumsum(weighted) / below, np.cumsum(weighted[::-1])[::-1] / above
    between = below[:-1] * above[1:] * (mean_below[:-1] - mean_above[1:]) ** 2
    return float(grey[np.argmax(between)])


def nuclear_threshold(image: np.ndarray) -> float:
    """Find the brightness above which there are nuclei: Otsu's threshold, or the maximum where there are none.

    Otsu cuts an empty image through its noise. There the two means lie 2.6 standard deviations of the darker class
    apart if the noise is Gaussian; of 304 crops of BBBC039 the 9 empty ones are below 2.9, the others above 6.8.
    """
    threshold = otsu(image)
    bright = image > threshold
    nuclei, background = image[bright], image[~bright]
    if nuclei.size and nuclei.mean(dtype=float) - background.mean(dtype=float) > SEPARATION * background.std(
        dtype=float
    ):
        return threshold
    return float(image.max())


def segment_nuclei(
    image: np.ndarray,
    threshold: float | None = None,
    min_area: float = 30.0,
    smoothing: float = 1.0,
    pixel_size: float | Sequence[float] | np.ndarray = REFERENCE_PIXEL,
) -> np.ndarray:
    """Label the bright nuclei of an image Y X, int32, 0 = background, numbered without gaps.

    Gaussian smoothing (sigma, 0 = none), `threshold` or else `nuclear_threshold`, small holes filled, touching nuclei
    split by a watershed of the smoothed distance map, nuclei smaller than min_area dropped. Lengths are in pixels of
    0.65 um and areas in such pixels, scaled by pixel_size (micrometres: a number or Y X). Raises ValueError unless Y X.
    """
    if image.ndim != 2:
        raise ValueError(f"segment_nuclei takes one image Y X, this one has shape {image.shape}")
    scale = REFERENCE_PIXEL / float(np.sqrt(np.prod(np.broadcast_to(pixel_size, 2))))
    if smoothing:
        image = cv2.GaussianBlur(image.astype(np.float32), (0, 0), smoothing * scale, borderType=cv2.BORDER_REFLECT)
    foreground = (image > (nuclear_threshold(image) if threshold is None else threshold)).astype(np.uint8)
    foreground = fill_small_holes(foreground, FILLED_HOLE * scale**2)
    if foreground.all():  # no background, so no distance to it
        return np.ones(image.shape, np.int32)

    distance = cv2.distanceTransform(foreground, cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    distance = cv2.GaussianBlur(distance, (0, 0), WAIST_SMOOTHING * scale)
    reach = 2 * max(1, round(CENTRE_DISTANCE * scale)) + 1
    peaks = (distance == cv2.dilate(distance, np.ones((reach, reach), np.uint8))) & (foreground > 0)
    _, centres = cv2.connectedComponents(peaks.view(np.uint8), connectivity=8)
    # A component in the shadow of a larger neighbour has no peak of its own: it is its own centre.
    count, parts = cv2.connectedComponents(foreground, connectivity=4)
    without = np.bincount(parts.ravel(), peaks.ravel(), count) == 0
    without[0] = False
    centres = np.where(without[parts], parts + centres.max(), centres)
    labels = watershed(-distance, centres, mask=foreground > 0)
    areas = np.bincount(labels.ravel())
    return keep_objects(labels, areas >= max(1.0, min_area * scale**2))


def fill_small_holes(foreground: np.ndarray, max_area: float) -> np.ndarray:
    """Fill the holes of up to max_area pixels in a mask, uint8 Y X, 1 = foreground; the rest stays.

    A hole is a 4-connected part of the background, also at the image's border.
    """
    _, holes, table, _ = cv2.connectedComponentsWithStats(1 - foreground, connectivity=4)
    small = table[:, cv2.CC_STAT_AREA] <= max_area
    small[0] = False  # label 0 is the foreground itself
    return foreground | small[holes].view(np.uint8)


def keep_objects(labels: np.ndarray, keep: np.ndarray) -> np.ndarray:
    """Keep the objects of labels Y X for which keep[label] is true, int32, numbered anew without gaps; 0 stays 0."""
    keep = keep.astype(bool)
    keep[0] = False
    return np.where(keep, np.cumsum(keep), 0).astype(np.int32)[labels]
