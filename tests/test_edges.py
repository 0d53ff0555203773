"""Canny's edges as data and as a metric; masks that leave nothing to learn."""

import itertools

import numpy as np
import pytest
import torch
from hydra.utils import instantiate
from scipy import ndimage
from sklearn.metrics import precision_recall_fscore_support

from phenokeep.imaging.edges import STEEPEST, Canny, canny, grey_weights
from phenokeep.imaging.microscope import Microscope, Plate
from phenokeep.metrics import EdgeMatch, edge_match


@pytest.fixture
def image():
    """A drawn field with nuclei, Y X in [0, 1]."""
    (field,) = itertools.islice(Plate(seed=3, wells=1, shape=(96, 128)).fields(), 1)
    counts = Microscope().image(field.scene, channel="nuclei").astype(np.float32)
    return (counts - counts.min()) / (counts.max() - counts.min())


def test_edges_of_a_disk_are_its_outline():
    y, x = np.mgrid[:64, :64]
    radius = np.hypot(y - 32, x - 32)
    edges = canny((radius < 20).astype(np.float32), sigma=1.0)
    assert edges.dtype == np.float32
    assert set(np.unique(edges)) == {0, 1}
    assert np.abs(radius[edges == 1] - 20).max() < 1.5
    turns = np.sort(np.arctan2(*(np.argwhere(edges) - 32).T))
    assert np.diff(turns).max() < 0.15  # closed


def test_known_edges_do_not_see_the_hole(image):
    mask = np.zeros(image.shape)
    mask[30:70, 40:90] = 1
    first = canny(image, mask=1 - mask)
    rng = np.random.default_rng(0)
    for content in (0.0, 1.0, rng.random(image.shape)):
        assert np.array_equal(canny(np.where(mask == 1, content, image).astype(np.float32), mask=1 - mask), first)
    assert not first[mask == 1].any()
    assert first.sum() > 20
    away = np.ones_like(mask)
    away[15:85, 25:105] = 0  # farther than the Gaussian reaches
    np.testing.assert_array_equal(first * away, canny(image) * away)


def test_a_random_sigma_comes_from_the_sample(image):
    maps = Canny(sigma="random")
    colour = image[..., None]
    drawn = [maps(colour, np.random.default_rng(seed)) for seed in range(30)]
    assert all(np.array_equal(maps(colour, np.random.default_rng(seed)), drawn[seed]) for seed in range(30))
    by_sigma = [canny(image, sigma) for sigma in (1, 2, 3, 4)]
    found = [[np.array_equal(one, known) for known in by_sigma] for one in drawn]
    assert np.any(found, axis=0).all()
    assert np.any(found, axis=1).all()
    assert np.array_equal(maps(colour), by_sigma[1])
    assert not Canny(sigma=None)(colour).any()


def test_colours_count_as_luminance_and_other_channels_alike(image):
    assert grey_weights(3) == (0.2125, 0.7154, 0.0721)
    assert grey_weights(2) == (0.5, 0.5)
    other = image[::-1]
    two = Canny()(np.stack([image, other], -1))
    assert np.array_equal(two, canny((image + other) / 2))
    assert np.array_equal(Canny()(np.stack([image] * 3, -1)), canny(image))


@pytest.mark.parametrize(
    "options",
    [{"sigma": 0}, {"sigma": "rnd"}, {"low": 0.3}, {"low": 0.0}, {"sigma": -1}, {"sigma": float("nan")},
     {"low": 100.0, "high": 200.0}],
)  # fmt: skip
def test_settings_that_find_nothing_are_refused(options):
    with pytest.raises(ValueError, match=r"edges\.(sigma|low)"):
        Canny(**options)


def test_the_highest_threshold_is_above_every_slope():
    patterns = np.array(list(itertools.product((0.0, 1.0), repeat=9))).reshape(-1, 3, 3)
    slopes = [np.hypot(ndimage.sobel(p, 0)[1, 1], ndimage.sobel(p, 1)[1, 1]) for p in patterns]
    assert STEEPEST - 0.05 < max(slopes) < STEEPEST


def test_axes_are_checked():
    with pytest.raises(ValueError, match="give Y X"):
        canny(np.zeros((4, 4, 1)))
    with pytest.raises(ValueError, match="one size"):
        canny(np.zeros((4, 4)), mask=np.ones((4, 5)))


def _loop(predicted, true, mask):
    """Precision, recall and F1 by counting pixels one by one."""
    hits = drawn = there = 0
    for p, t, m in zip(predicted.flat, true.flat, mask.flat, strict=True):
        if m == 1:
            hits += p > 0.5 and t > 0.5
            drawn += p > 0.5
            there += t > 0.5
    return (hits / drawn if drawn else 0), (hits / there if there else 0), 2 * hits / (drawn + there)


def test_edge_match_equals_a_count_and_scikit_learn():
    torch.manual_seed(0)
    predicted, true = torch.rand(6, 1, 12, 10), (torch.rand(6, 1, 12, 10) > 0.7).float()
    mask = torch.zeros(6, 1, 12, 10)
    mask[..., 2:9, 3:8] = 1
    predicted[4] *= 0.4  # nothing drawn, something there
    true[5, ..., 2:9, 3:8] = 0  # something drawn, nothing there
    found = edge_match(predicted, true, mask)
    for row in range(6):
        expected = _loop(predicted[row].numpy(), true[row].numpy(), mask[row].numpy())
        inside = mask[row] == 1
        labels = [(image[row][inside] > 0.5).numpy() for image in (true, predicted)]
        sklearn = precision_recall_fscore_support(*labels, average="binary", zero_division=0)[:3]
        values = [float(found[name][row]) for name in ("precision", "recall", "f1")]
        assert values == pytest.approx(expected)
        assert values == pytest.approx(sklearn)
    assert 0 < found["f1"][0] < 1
    assert found["f1"][4:].tolist() == [0, 0]


def test_edge_match_without_edges_or_hole():
    mask = torch.zeros(3, 1, 8, 8)
    mask[:2, ..., :4] = 1
    edges = torch.zeros(3, 1, 8, 8)
    edges[..., 6] = 1  # outside the hole: does not count
    assert edge_match(torch.zeros_like(edges), edges, mask)["precision"].nan_to_num(-1).tolist() == [1, 1, -1]
    assert edge_match(edges, edges, mask)["f1"].nan_to_num(-1).tolist() == [1, 1, -1]
    metric = EdgeMatch()
    assert all(value.isnan().all() for value in metric.measure(mask=mask, edges=edges).values())
    metric.update(mask=mask, edges=edges, edges_predicted=edges)
    assert metric.compute()["recall"] == 1
    with pytest.raises(ValueError, match="B 1 Y X"):
        edge_match(edges, edges[:, :, :4], mask)


def _data(cfg):
    module = instantiate(cfg.data, _convert_="all")
    module.prepare_data()
    module.setup()
    return module


def test_samples_carry_the_edges_of_their_image_once_asked_for(config):
    plain = _data(config())
    with_edges = _data(config("data.edges={_target_: phenokeep.imaging.edges.Canny, sigma: random}"))
    again = _data(config("data.edges={_target_: phenokeep.imaging.edges.Canny, sigma: random}"))
    for split in ("train", "test"):
        first, second, third = (data.patches(split)[2, 5] for data in (plain, with_edges, again))
        assert "edges" not in first
        assert all(torch.equal(first[key], second[key]) for key in first if isinstance(first[key], torch.Tensor))
        assert torch.equal(second["edges"], third["edges"])
        assert second["edges"].shape == second["mask"].shape
        assert second["edges"].dtype == torch.float32
        image = second["source"][0].numpy()
        # A model that fills a hole looks for edges with 2: what it is judged by is found with 2 as well.
        sigmas = (1, 2, 3, 4) if split == "train" else (2,)
        assert any(np.array_equal(second["edges"][0], canny(image, sigma)) for sigma in sigmas)


class Whole:
    """Masks that cover everything, or nothing."""

    bands = ((0.1, 0.2),)

    def __init__(self, value):
        self.value = value

    def draw(self, rng, shape, band=None):
        return np.full(shape, self.value, np.uint8)


@pytest.mark.parametrize(("value", "says"), [(1, "every pixel"), (0, "no pixel")])
def test_training_refuses_a_mask_that_leaves_nothing_to_learn(config, value, says):
    data = _data(config())
    data.masks = Whole(value)
    patches = data.patches("train")
    with pytest.raises(ValueError, match=rf"{patches.name(3)}: the mask covers {says}.*data\.masks\.bands"):
        patches[0, 3]
    assert float(data.patches("test")[0, 3]["mask"].mean()) == value
