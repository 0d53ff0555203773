"""PhIRM written a second time from Algorithm 1 and Eq. 1 to 4 with scikit-image, as a check and for the benchmark.

Nothing of phenokeep is imported here, and no loop runs over pixels.
"""

import numpy as np
from scipy.special import expit
from skimage.filters import threshold_otsu
from skimage.measure import label, regionprops


def reference_factors(image: np.ndarray, preset: str) -> tuple[int, int, int]:
    """Number and area of nuclei and area of artefacts of one uint8 image Y X."""
    authors_code = preset == "original"
    threshold = threshold_otsu(image) * (1.1 if authors_code else 1.0)
    count = nuclei_area = artefact_area = 0
    seen = image.copy()
    for region in regionprops(label(image > threshold, connectivity=2), intensity_image=image):
        area = int(region.area)
        if area < 50 or (authors_code and area == 50):
            continue
        if authors_code:
            patch = seen[region.slice]
            brightest = patch.max()
            if brightest == 255:
                patch[patch < 30] = 255
            mean = patch.mean()
        else:
            brightest, mean = region.intensity_max, region.intensity_mean
        if brightest == 255 and mean >= 210:
            artefact_area += area
        else:
            nuclei_area += area
            count += 1 if authors_code or area < 2200 else 2
    return count, nuclei_area, artefact_area


def reference_phirm(prediction: np.ndarray, target: np.ndarray, preset: str) -> float:
    """Score one pair of uint8 images Y X."""
    here, there = reference_factors(prediction, preset), reference_factors(target, preset)
    lost = there[0] - here[0]
    penalty = 0.0
    if lost > 0:
        penalty = 1.1**lost * (lost if preset == "original" else 1)
    elif lost < 0:
        penalty = 2.0**-lost
    penalty += 0.0002 * abs(there[1] - here[1]) + 0.001 * abs(there[2] - here[2])
    return max(0.0, 10.0 - penalty) / 10.0


def draw_blobs(rng: np.random.Generator, size: int = 256, count: int = 20) -> np.ndarray:
    """Draw a uint8 image of noisy elliptic blobs, some touching or saturated, some with a flat white patch."""
    y, x = np.mgrid[:size, :size]
    image = rng.normal(12, 4, (size, size))
    for _ in range(count):
        cy, cx = rng.uniform(0, size, 2)
        a, b = rng.uniform(3, 18, 2)
        angle, peak = rng.uniform(0, np.pi), rng.uniform(40, 300)
        u = (x - cx) * np.cos(angle) + (y - cy) * np.sin(angle)
        v = (y - cy) * np.cos(angle) - (x - cx) * np.sin(angle)
        image += peak * expit(4 * (1 - (u / a) ** 2 - (v / b) ** 2))
    if rng.random() < 0.5:
        top, left = rng.integers(0, size - 30, 2)
        height, width = rng.integers(8, 30, 2)
        image[top : top + height, left : left + width] = 255
    return np.clip(image, 0, 255).astype(np.uint8)
