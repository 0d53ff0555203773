"""Image quality of a field: focus, background and saturation, named as CellProfiler names image quality."""

import cv2
import numpy as np
import scipy.fft

from .segment import REFERENCE_PIXEL, nuclear_threshold

EDGE_SCALE = 1.3  # micrometres (sigma): edges of nuclei are kept, the camera's noise is not
NORMAL_MAD = 1.4826  # standard deviation of a normal variable over its median absolute deviation
CUT_AT_FOUR = 0.99946  # standard deviation of a standard normal variable that is cut at -4 and 4


def image_quality(
    image: np.ndarray, maximum: float | None = None, pixel_size: float = REFERENCE_PIXEL
) -> dict[str, float]:
    """Measure the quality of a field Y X in camera counts; nuclei are bright.

    PowerLogLogSlope (focus; nearer to 0 is sharper) and PercentMaximal (saturation, percent) are CellProfiler's, the
    latter against `maximum` (default: the type's) and not the image's own. LaplacianVariance (focus; higher is
    sharper), BackgroundLevel and BackgroundNoise (counts) are ours. NaN: PowerLogLogSlope of a constant image,
    LaplacianVariance without nuclei. Raises ValueError unless Y X, 32 pixels or more, finite, and float with `maximum`.
    """
    if image.ndim != 2 or min(image.shape) < 32:
        raise ValueError(f"image quality needs one image Y X of 32 pixels or more a side, this one is {image.shape}")
    if maximum is None:
        if image.dtype.kind not in "ui":
            raise ValueError(f"image is {image.dtype}, which has no greatest count: give maximum, the camera's")
        maximum = np.iinfo(image.dtype).max
    threshold = nuclear_threshold(image)
    counts = image.astype(np.float64)
    level, noise = background(counts, threshold)
    return {
        "ImageQuality_PowerLogLogSlope": power_log_log_slope(counts),
        "ImageQuality_LaplacianVariance": laplacian_variance(counts, threshold, level, pixel_size),
        "ImageQuality_BackgroundLevel": level,
        "ImageQuality_BackgroundNoise": noise,
        "ImageQuality_PercentMaximal": 100.0 * float(np.mean(image >= maximum)),
    }


def power_log_log_slope(image: np.ndarray) -> float:
    """Slope of log power against log spatial frequency, from image-wide structure to an eighth of the sampling rate.

    Power is summed over rings one cycle per field wide, each named by its outer edge; the zero frequency is left out
    and so is all beyond an eighth of the shorter side, where noise rules. Blur makes it more negative. It does not
    depend on gain or offset, but on density and on size: compare fields of one assay. NaN for a constant image.
    Source: Field & Brady 1997, Vision Res. 37; Bray et al. 2012, J. Biomol. Screen. 17, as in CellProfiler.
    """
    if image.min() == image.max():
        return float("nan")
    power = np.abs(scipy.fft.fft2(image - image.mean())) ** 2
    side = min(image.shape)
    fy, fx = (np.abs(np.fft.fftfreq(length)) * side for length in image.shape)
    ring = np.floor(np.hypot(fy[:, None], fx[None, :]) + 1e-9).astype(int) + 1
    outer = np.arange(2, side // 8)
    summed = np.bincount(ring.ravel(), power.ravel(), minlength=side)[outer]
    return float(np.polyfit(np.log(outer), np.log(summed), 1)[0])


def laplacian_variance(image: np.ndarray, threshold: float, background_level: float, pixel_size: float) -> float:
    """Variance of the Laplacian of Gaussian over nuclei and their rims, over the square of their brightness.

    Brightness is the mean of the nuclei above the background, so neither gain nor offset changes it; the sigma of
    1.3 um keeps noise out. Unit 1/um4. NaN where nothing is brighter than the threshold. Source: Pech-Pacheco et al.
    2000, ICPR 3 (variance of the Laplacian); the normalisation is ours.
    """
    nuclei = image > threshold
    if not nuclei.any():
        return float("nan")
    sigma = EDGE_SCALE / pixel_size
    smooth = cv2.GaussianBlur(image, (0, 0), sigma, borderType=cv2.BORDER_REFLECT)
    response = cv2.Laplacian(smooth, cv2.CV_64F, ksize=1, borderType=cv2.BORDER_REFLECT) / pixel_size**2
    reach = 2 * max(1, round(2 * sigma)) + 1
    seen = cv2.dilate(nuclei.astype(np.uint8), np.ones((reach, reach), np.uint8)) > 0
    brightness = float(image[nuclei].mean()) - background_level
    return float(response[seen].var()) / brightness**2


def background(image: np.ndarray, threshold: float) -> tuple[float, float]:
    """Level and noise (standard deviation) of the pixels not above the nuclear threshold, in the image's counts.

    The level is their median. The noise is the standard deviation of second differences along rows over the root of 6:
    neighbours share illumination and the flanks of nuclei, so what differs is noise. Differences beyond 4 robust
    standard deviations are left out and the normal law's share in them is put back. NaN without such pixels.
    """
    dark = image <= threshold
    triple = dark[:, :-2] & dark[:, 1:-1] & dark[:, 2:]
    if not triple.any():
        return float("nan"), float("nan")
    bends = (image[:, :-2] - 2 * image[:, 1:-1] + image[:, 2:])[triple]
    robust = NORMAL_MAD * float(np.median(np.abs(bends)))
    if robust > 0:  # 0 where the noise is far below a count: nothing to cut by
        bends = bends[np.abs(bends) <= 4 * robust]
    return float(np.median(image[dark])), float(bends.std()) / (CUT_AT_FOUR if robust > 0 else 1.0) / 6**0.5
