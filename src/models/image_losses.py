"""Losses between two images, each chosen by its name in the config; all of them in float32, under autocast too."""

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy, conv2d, pad


class ImageLoss(nn.Module):
    """A number for how far a prediction (B T Y X) is from its target (the same shape, in [0, 1]); has no state.

    It and its gradient are finite, for constant images too. `bounded` says that the formula holds for predictions in
    [0, 1] alone. Raises ValueError where the shapes differ, which would be broadcast otherwise.
    """

    bounded = False

    def forward(self, prediction: Tensor, target: Tensor) -> Tensor:
        if prediction.shape != target.shape:
            raise ValueError(
                f"prediction is {tuple(prediction.shape)} and target {tuple(target.shape)} (B T Y X): set "
                f"model.out_channels={target.shape[1]}, or correct the data's targets"
            )
        with torch.autocast(prediction.device.type, enabled=False):
            return self.compare(prediction.float(), target.float())

    def compare(self, prediction: Tensor, target: Tensor) -> Tensor:
        """The loss, a scalar; a subclass must give it."""
        raise TypeError(f"{type(self).__name__} does not say how it compares")


class Pearson(ImageLoss):
    """(1 - r) / 2 of Pearson's r over the pixels of each image, the mean over images and targets (thesis, eq. 6-7).

    Gain and offset of an image do not count, so brightnesses of the prediction are not those of the target.
    `per_batch` takes r over the pixels of the whole batch, where differences between images count as agreement
    (LaChance & Cohen 2020, as published). `eps` is added to both variances: an image that is constant has r = 0, and
    draws no gradient where it is the target.
    """

    def __init__(self, per_batch: bool = False, eps: float = 1e-8) -> None:
        super().__init__()
        self.per_batch, self.eps = per_batch, eps

    def compare(self, prediction: Tensor, target: Tensor) -> Tensor:
        p, t = (x.transpose(0, 1).flatten(1) if self.per_batch else x.flatten(2) for x in (prediction, target))
        p, t = p - p.mean(-1, keepdim=True), t - t.mean(-1, keepdim=True)
        variances = (p.square().mean(-1) + self.eps) * (t.square().mean(-1) + self.eps)
        return ((1 - (p * t).mean(-1) / variances.sqrt()) / 2).mean()


class MSE(ImageLoss):
    """The mean squared error, with the thesis' weights and brightness terms (section 3.4.3.1).

    `weighted_by` multiplies each pixel's squared error by its target, or by 1 - target ("background"). `brightness`
    adds the sum of one image over that of the other, both over the batch; `eps` is added to the mean it divides by.
    """

    def __init__(
        self,
        weighted_by: Literal["target", "background"] | None = None,
        brightness: Literal["prediction/target", "target/prediction"] | None = None,
        eps: float = 1e-4,
    ) -> None:
        super().__init__()
        self.weighted_by, self.brightness, self.eps = weighted_by, brightness, eps
        self.bounded = brightness is not None  # a sum of negative values would turn the term round

    def compare(self, prediction: Tensor, target: Tensor) -> Tensor:
        error = (prediction - target).square()
        if self.weighted_by:
            error = error * (target if self.weighted_by == "target" else 1 - target)
        if self.brightness is None:
            return error.mean()
        above, below = (prediction, target) if self.brightness == "prediction/target" else (target, prediction)
        return error.mean() + above.mean() / (below.mean() + self.eps)


class Asymmetric(ImageLoss):
    """A squared error that weighs too bright and too dark differently (thesis, section 3.4.3.1).

    Of the residual r = prediction - target, `variant` 1 doubles r^2 where the prediction is too dark, 2 where it is too
    bright; 3 takes r^3 where it is too bright and 20 r^2 where it is not.
    """

    def __init__(self, variant: Literal[1, 2, 3]) -> None:
        super().__init__()
        self.variant = variant

    def compare(self, prediction: Tensor, target: Tensor) -> Tensor:
        r = prediction - target
        squared = r.square()
        bright, dark = {1: (squared, 2 * squared), 2: (2 * squared, squared), 3: (r**3, 20 * squared)}[self.variant]
        return torch.where(r > 0, bright, dark).mean()


class BCE(ImageLoss):
    """Binary cross-entropy of predicted probabilities, for targets that are masks (thesis, section 3.5.2)."""

    bounded = True

    def compare(self, prediction: Tensor, target: Tensor) -> Tensor:
        return binary_cross_entropy(prediction, target)


class Sobel(ImageLoss):
    """Another loss plus `weight` times the mean absolute difference of Sobel gradients (thesis, equations 42-43)."""

    def __init__(self, base: ImageLoss, weight: float = 1.0) -> None:
        super().__init__()
        self.base, self.weight, self.bounded = base, weight, base.bounded

    def compare(self, prediction: Tensor, target: Tensor) -> Tensor:
        difference = (sobel(prediction) - sobel(target)).abs().mean()
        return self.base.compare(prediction, target) + self.weight * difference


def sobel(image: Tensor, eps: float = 1e-8) -> Tensor:
    """sqrt(Gx^2 + Gy^2 + eps) of images B C Y X, whose border pixels are repeated outwards; the same shape."""
    across = image.new_tensor([[1.0, 0.0, -1.0], [2.0, 0.0, -2.0], [1.0, 0.0, -1.0]])
    kernels = torch.stack([across, across.T]).unsqueeze(1)
    gradients = conv2d(pad(image.flatten(0, 1).unsqueeze(1), (1, 1, 1, 1), mode="replicate"), kernels)
    return (gradients.square().sum(1) + eps).sqrt().view_as(image)
