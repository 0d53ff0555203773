"""Losses between images against NumPy, SciPy and scikit-learn; finite wherever images are constant."""

import itertools

import numpy as np
import pytest
import torch
from scipy import ndimage, stats
from sklearn.metrics import log_loss

from phenokeep.checkpoint import allowed_targets
from phenokeep.models import image_losses
from phenokeep.models.image_losses import BCE, MSE, Asymmetric, ImageLoss, Pearson, Sobel, sobel

WEIGHTS = (None, "target", "background")
RATIOS = (None, "prediction/target", "target/prediction")
LOSSES = {
    "pearson": Pearson(),
    "pearson_per_batch": Pearson(per_batch=True),
    **{f"mse_{weight}_{ratio}": MSE(weight, ratio) for weight in WEIGHTS for ratio in RATIOS},
    **{f"asymmetric_{variant}": Asymmetric(variant) for variant in (1, 2, 3)},
    "bce": BCE(),
    "sobel_pearson": Sobel(Pearson(), 0.5),
    "sobel_bce": Sobel(BCE(), 2.0),
}


def _images(seed=0, shape=(3, 2, 20, 24)):
    """A prediction and a target in [0, 1] that resemble each other, B T Y X, as NumPy and as torch."""
    rng = np.random.default_rng(seed)
    target = ndimage.gaussian_filter(rng.random(shape), (0, 0, 2, 2))
    target = (target - target.min()) / np.ptp(target)
    prediction = np.clip(0.7 * target + 0.3 * rng.random(shape), 0.01, 0.99)
    both = prediction.astype(np.float32), target.astype(np.float32)
    return *both, *map(torch.from_numpy, both)


def test_pearson_is_the_mean_over_images_and_targets():
    p, t, prediction, target = _images()
    r = [stats.pearsonr(p[b, c].ravel(), t[b, c].ravel()).statistic for b in range(3) for c in range(2)]
    assert Pearson()(prediction, target).item() == pytest.approx((1 - np.mean(r)) / 2, abs=1e-6)


def test_pearson_per_batch_is_that_of_all_pixels():
    p, t, prediction, target = _images()
    r = [stats.pearsonr(p[:, c].ravel(), t[:, c].ravel()).statistic for c in range(2)]
    assert Pearson(per_batch=True)(prediction, target).item() == pytest.approx((1 - np.mean(r)) / 2, abs=1e-6)


def test_pearson_over_a_batch_is_not_that_of_its_images():
    """Each image is drawn perfectly but for its own gain and offset, which per image does not count."""
    _, _, _, target = _images()
    wrong = torch.tensor([1.0, 0.3, 0.1]).view(3, 1, 1, 1) * target + torch.tensor([0.0, 0.5, 0.9]).view(3, 1, 1, 1)
    assert Pearson(eps=0.0)(wrong, target).item() == pytest.approx(0, abs=1e-6)
    assert Pearson(per_batch=True)(wrong, target).item() > 0.3
    # And the other way round: nothing of the images is drawn but how bright they are.
    bright = torch.tensor([0.0, 0.4, 0.8]).view(3, 1, 1, 1)
    noise = [0.05 * torch.rand(target.shape, generator=torch.Generator().manual_seed(seed)) for seed in (1, 2)]
    assert Pearson()(bright + noise[0], bright + noise[1]).item() == pytest.approx(0.5, abs=0.03)
    assert Pearson(per_batch=True)(bright + noise[0], bright + noise[1]).item() < 0.01


def test_pearson_of_dim_images_is_not_damped():
    """A hundredth of the range, on an offset: float32 and eps still give r to four digits."""
    p, t, prediction, target = _images(shape=(1, 1, 64, 64))
    r = stats.pearsonr(p.ravel().astype(float), t.ravel().astype(float)).statistic
    loss = Pearson()(0.9 + 0.01 * prediction, 0.05 + 0.01 * target)
    assert 1 - 2 * loss.item() == pytest.approx(r, abs=0.005)


@pytest.mark.parametrize("weight", WEIGHTS)
@pytest.mark.parametrize("ratio", RATIOS)
def test_mse_with_its_weights_and_brightness_terms(weight, ratio):
    p, t, prediction, target = _images()
    p, t = p.astype(float), t.astype(float)
    expected = np.mean((p - t) ** 2 * {None: 1, "target": t, "background": 1 - t}[weight])
    # eps is 1e-4 of the mean it is added to.
    expected += {None: 0, "prediction/target": p.sum() / t.sum(), "target/prediction": t.sum() / p.sum()}[ratio]
    assert MSE(weight, ratio, eps=0.0)(prediction, target).item() == pytest.approx(expected, rel=1e-5)
    assert MSE(weight, ratio)(prediction, target).item() == pytest.approx(expected, rel=5e-4)


@pytest.mark.parametrize("variant", [1, 2, 3])
def test_asymmetric_losses_pixel_by_pixel(variant):
    p, t, prediction, target = _images()
    total = 0.0
    for a, b in zip(p.ravel().astype(float), t.ravel().astype(float), strict=True):
        r = a - b
        if variant == 1:
            total += r**2 if r > 0 else 2 * r**2
        elif variant == 2:
            total += r**2 if r < 0 else 2 * r**2
        else:
            total += r**3 if r > 0 else 20 * r**2
    assert Asymmetric(variant)(prediction, target).item() == pytest.approx(total / p.size, rel=1e-5)


def test_asymmetry_punishes_the_side_it_says():
    grey = torch.full((1, 1, 4, 4), 0.5)
    dark, bright = grey - 0.2, grey + 0.2
    for variant, worse, better in ((1, dark, bright), (2, bright, dark), (3, dark, bright)):
        loss = Asymmetric(variant)
        assert loss(worse, grey) > 1.9 * loss(better, grey)


def test_bce_of_masks():
    p, t, prediction, target = _images()
    mask = target > 0.5
    expected = log_loss((t > 0.5).ravel(), p.ravel().astype(float))
    assert BCE()(prediction, mask.float()).item() == pytest.approx(expected, rel=1e-5)


def test_sobel_is_scipys():
    p, t, prediction, target = _images()
    gradients = [
        np.array([[np.hypot(ndimage.sobel(plane, 0), ndimage.sobel(plane, 1)) for plane in image] for image in images])
        for images in (p.astype(float), t.astype(float))
    ]
    np.testing.assert_allclose(sobel(prediction).numpy(), gradients[0], atol=2e-4)
    expected = np.mean((p.astype(float) - t) ** 2) + 0.7 * np.mean(np.abs(gradients[0] - gradients[1]))
    assert Sobel(MSE(), 0.7)(prediction, target).item() == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("name", LOSSES)
def test_finite_on_constant_images(name):
    varied = _images(shape=(2, 1, 16, 16))[2]
    planes = [torch.full_like(varied, value) for value in (0.0, 0.5, 1.0)]
    half = torch.cat([planes[0][:1], varied[1:]])  # one image of the batch is empty
    for prediction, target in itertools.product((*planes, varied, half), repeat=2):
        prediction = prediction.clone().requires_grad_()
        loss = LOSSES[name](prediction, target)
        loss.backward()
        assert loss.shape == ()
        assert loss.isfinite()
        assert prediction.grad.isfinite().all()


def test_a_constant_target_draws_nothing_and_a_constant_prediction_is_drawn_on():
    varied, constant = _images()[2], torch.full((3, 2, 20, 24), 0.5)
    for prediction, target, moves in ((varied, constant, False), (constant, varied, True)):
        prediction = prediction.clone().requires_grad_()
        loss = Pearson()(prediction, target)
        loss.backward()
        assert loss.item() == 0.5
        assert (prediction.grad.abs().max() > 1e-6) == moves


@pytest.mark.parametrize("name", LOSSES)
def test_float32_under_autocast(name):
    """A loss of bfloat16 images is that of the same values in float32, to the last bit."""
    _, _, prediction, target = (x if isinstance(x, np.ndarray) else x.bfloat16() for x in _images())
    with torch.autocast("cpu", torch.bfloat16):
        fast = LOSSES[name](prediction, target)
    assert fast.dtype == torch.float32
    assert torch.equal(fast, LOSSES[name](prediction.float(), target.float()))


@pytest.mark.parametrize("name", LOSSES)
def test_another_number_of_targets_is_refused(name):
    with pytest.raises(ValueError, match=r"model.out_channels=2"):
        LOSSES[name](torch.rand(1, 1, 8, 8), torch.rand(1, 2, 8, 8))


def test_every_loss_has_no_state_and_is_named_in_a_config():
    """What no config names, a checkpoint's config may not name either."""
    assert not any(loss.state_dict() for loss in LOSSES.values())
    names = {f"{image_losses.__name__}.{kind.__name__}" for kind in ImageLoss.__subclasses__()}
    assert names <= allowed_targets()
    assert {type(loss) for loss in LOSSES.values()} == set(ImageLoss.__subclasses__())
