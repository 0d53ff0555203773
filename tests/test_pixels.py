"""Errors inside the hole against scikit-image, and how every metric adds up over images and processes."""

import numpy as np
import pytest
import torch
from skimage.metrics import peak_signal_noise_ratio, structural_similarity
from torch import Tensor

from phenokeep.metrics import HoleErrors, ImageMetric, hole_errors


def _batch(batch: int = 3, channels: int = 2, height: int = 40, width: int = 53) -> tuple[Tensor, Tensor, Tensor]:
    rng = torch.Generator().manual_seed(1)
    target = torch.rand(batch, channels, height, width, generator=rng)
    prediction = (target + 0.2 * torch.randn(target.shape, generator=rng)).clamp(0, 1)
    mask = torch.zeros(batch, 1, height, width)
    mask[0, :, 3:20, 0:25] = mask[1:2, :, 10:40, 30:53] = 1  # both at the border
    mask[2:3] = (torch.rand(height, width, generator=rng) < 0.3).float()
    return prediction, target, mask


@pytest.mark.parametrize("channels", [1, 3])
def test_equal_to_scikit_image(channels):
    prediction, target, mask = _batch(channels=channels)
    found = hole_errors(prediction, target, mask)
    for i in range(len(target)):
        a, b = (x[i].permute(1, 2, 0).double().numpy() for x in (prediction, target))
        hole = mask[i, 0].numpy() > 0.5
        _, similarity = structural_similarity(
            a, b, data_range=1, channel_axis=2, gaussian_weights=True, sigma=1.5, use_sample_covariance=False, full=True
        )
        assert found["ssim"][i].item() == pytest.approx(similarity[hole].mean(), abs=1e-9)
        assert found["psnr"][i].item() == pytest.approx(peak_signal_noise_ratio(b[hole], a[hole], data_range=1))
        assert found["mae"][i].item() == pytest.approx(np.abs(a - b)[hole].mean())


def test_only_the_hole_counts_and_a_perfect_fill_is_finite():
    prediction, target, mask = _batch()
    composite = torch.where(mask > 0, prediction, target)
    for name in ("psnr", "mae"):
        assert torch.allclose(
            hole_errors(composite, target, mask)[name], hole_errors(prediction, target, mask)[name], rtol=1e-12
        )
    perfect = hole_errors(target, target, mask)
    assert perfect["psnr"].tolist() == [100.0] * 3
    assert perfect["ssim"].allclose(torch.ones(3, dtype=torch.float64))
    assert perfect["mae"].tolist() == [0.0] * 3


def test_image_smaller_than_the_window_and_shapes():
    prediction, target, mask = _batch(1, 1, 40, 53)
    small = (slice(None), slice(None), slice(3, 7), slice(0, 4))
    assert torch.isfinite(hole_errors(prediction[small], target[small], mask[small])["ssim"]).all()
    with pytest.raises(ValueError, match="B C Y X"):
        hole_errors(prediction[..., :-1], target, mask)
    with pytest.raises(ValueError, match="B 1 Y X"):
        hole_errors(prediction, target, mask[:, 0])
    with pytest.raises(ValueError, match="NaN"):
        hole_errors(prediction / 0, target, mask)


def test_a_split_over_two_processes_equals_one_pass():
    prediction, target, mask = _batch(5)
    mask[4] = 0  # no hole: not defined, and not to be counted
    rows = HoleErrors().measure(prediction, target, mask)
    assert rows["psnr"].isnan().tolist() == [False, False, False, True, True]

    whole, first, second, table = HoleErrors(), HoleErrors(), HoleErrors(), HoleErrors()
    whole.update(prediction=prediction, target=target, mask=mask)
    first.update(prediction=prediction[:2], target=target[:2], mask=mask[:2])
    second.update(prediction=prediction[2:], target=target[2:], mask=mask[2:])
    table.add(rows)
    first.sums, first.counts = first.sums + second.sums, first.counts + second.counts  # what "sum" does over processes
    assert all(reduction is torch.sum or "sum" in str(reduction) for reduction in first._reductions.values())
    for name in HoleErrors.names:
        assert whole.compute()[name].item() == pytest.approx(rows[name].nanmean().item(), rel=1e-12)
        assert first.compute()[name].item() == pytest.approx(whole.compute()[name].item(), rel=1e-12)
        assert table.compute()[name].item() == whole.compute()[name].item()
    whole.reset()
    whole.add({name: torch.full((2,), torch.nan) for name in HoleErrors.names})
    assert all(value.isnan() for value in whole.compute().values())


def test_a_metric_of_ones_own():
    class Brightness(ImageMetric):
        names = ("mean",)

        def measure(self, target):
            return {"mean": target.double().mean(dim=(1, 2, 3))}

    _, target, mask = _batch()
    metric = Brightness()
    metric.update(target=target, mask=mask)
    assert metric.compute()["mean"].item() == pytest.approx(target.double().mean().item())
    assert metric.update_count == 1
    with pytest.raises(NotImplementedError, match="measure"):
        ImageMetric().measure()
