"""Errors of single pixels inside the hole: PSNR, SSIM and MAE."""

import torch
from torch import Tensor
from torch.nn import functional

from .base import ImageMetric

PSNR_LIMIT = 100.0  # dB: a perfect fill would be infinite and spoil every mean; 16 bits reach 96
SSIM_SIGMA, SSIM_RADIUS = 1.5, 5
SSIM_C1, SSIM_C2 = 0.01**2, 0.03**2


def hole_errors(prediction: Tensor, target: Tensor, mask: Tensor) -> dict[str, Tensor]:
    """Measure PSNR (dB, at most 100), SSIM and MAE over the pixels of the hole, all channels together.

    prediction and target B C Y X in [0, 1]; mask B 1 Y X, 1 = hole. Each result has shape B, NaN for an empty hole.
    SSIM: its map is made on the whole image and averaged over the hole (Wang et al. 2004, Eq. 13: Gaussian window,
    sigma 1.5, 11x11, data range 1; mirrored at the border). Raises ValueError when shapes do not agree or values
    are not finite.
    """
    if prediction.ndim != 4 or prediction.shape != target.shape:
        raise ValueError(f"prediction {tuple(prediction.shape)} and target {tuple(target.shape)}: both must be B C Y X")
    if mask.shape != (len(target), 1, *target.shape[2:]):
        raise ValueError(f"mask is {tuple(mask.shape)}, images are {tuple(target.shape)}: the mask must be B 1 Y X")
    if not (prediction.isfinite().all() and target.isfinite().all()):
        raise ValueError("prediction or target hold NaN or infinite values: no error can be measured")
    prediction, target = prediction.detach().double(), target.detach().double()
    hole = (mask > 0.5).double()
    pixels = hole.sum(dim=(1, 2, 3))

    def over_hole(values: Tensor) -> Tensor:
        return (values.mean(dim=1, keepdim=True) * hole).sum(dim=(1, 2, 3)) / pixels

    difference = prediction - target
    psnr = -10 * torch.log10(over_hole(difference.square()))
    return {
        "psnr": psnr.clamp(max=PSNR_LIMIT),
        "ssim": over_hole(_ssim_map(prediction, target)),
        "mae": over_hole(difference.abs()),
    }


def _ssim_map(a: Tensor, b: Tensor) -> Tensor:
    mean_a, mean_b = _blur(a), _blur(b)
    variance_a, variance_b = _blur(a * a) - mean_a**2, _blur(b * b) - mean_b**2
    covariance = _blur(a * b) - mean_a * mean_b
    luminance = (2 * mean_a * mean_b + SSIM_C1) / (mean_a**2 + mean_b**2 + SSIM_C1)
    return luminance * (2 * covariance + SSIM_C2) / (variance_a + variance_b + SSIM_C2)


def _blur(image: Tensor) -> Tensor:
    steps = torch.arange(-SSIM_RADIUS, SSIM_RADIUS + 1, dtype=image.dtype, device=image.device)
    window = torch.exp(-0.5 * (steps / SSIM_SIGMA) ** 2)
    window = window / window.sum()
    channels, height, width = image.shape[1:]
    # torch's "reflect" leaves the border pixel out and refuses images smaller than the window
    image = image[:, :, _mirrored(height, image.device)][..., _mirrored(width, image.device)]
    image = functional.conv2d(image, window.view(1, 1, -1, 1).expand(channels, 1, -1, 1), groups=channels)
    return functional.conv2d(image, window.view(1, 1, 1, -1).expand(channels, 1, 1, -1), groups=channels)


def _mirrored(size: int, device: torch.device) -> Tensor:
    index = torch.arange(-SSIM_RADIUS, size + SSIM_RADIUS, device=device) % (2 * size)
    return torch.minimum(index, 2 * size - 1 - index)


class HoleErrors(ImageMetric):
    """PSNR, SSIM and MAE inside the hole, averaged over images (see `hole_errors`)."""

    names = ("psnr", "ssim", "mae")

    def measure(self, prediction: Tensor, target: Tensor, mask: Tensor) -> dict[str, Tensor]:  # type: ignore[override]
        return hole_errors(prediction, target, mask)
