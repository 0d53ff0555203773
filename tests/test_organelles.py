"""Organelles against drawn shapes, SciPy and scikit-image, the microscope's truth and hand-labelled nuclei."""

import math
from pathlib import Path

import numpy as np
import pytest
import tifffile
from scipy import ndimage
from skimage import filters, measure
from skimage.draw import disk
from skimage.io import imread
from skimage.restoration import rolling_ball

from phenokeep.imaging.microscope import Microscope, Scene
from phenokeep.imaging.organelles import (
    ORGANELLES,
    background,
    global_threshold,
    golgi_preprocessed,
    normalised,
    opened,
    segment,
)

DATA = Path(__file__).parents[1].parent / "shared" / "data" / "bbbc039"
# OpenCV's ellipse of 5 x 5, written out.
ELLIPSE = np.array([[0, 0, 1, 0, 0], [1] * 5, [1] * 5, [1] * 5, [0, 0, 1, 0, 0]], bool)


@pytest.fixture(scope="module")
def field() -> tuple[np.ndarray, np.ndarray]:
    """A drawn field of nuclei in counts, and its true labels."""
    scene = Scene.draw(3, (400, 480))
    return Microscope().image(scene, channel="nuclei"), scene.labels()


def _discs(discs, shape=(300, 320)) -> np.ndarray:
    """Discs (y, x, radius) on a ground of counts with a ramp of light and some noise, uint16."""
    image = np.zeros(shape)
    for y, x, radius in discs:
        image[disk((y, x), radius, shape=shape)] = 400
    image += 100 + np.linspace(0, 200, shape[1])
    return np.random.default_rng(0).normal(image, 3).round().clip(0).astype(np.uint16)


def _local(image, block) -> np.ndarray:
    """Above the Gaussian mean, from SciPy alone, on a range of [0, 1]."""
    image = image.astype(float)
    image = (image - image.min()) / np.ptp(image)
    return image > ndimage.gaussian_filter(image, (block - 1) / 6) + 1e-9


def _same_objects(labels, mask) -> bool:
    """Whether labels are the 8-connected objects of a mask, under any numbers."""
    expected = measure.label(mask, connectivity=2)
    pairs = np.unique(np.stack([labels.ravel(), expected.ravel()]), axis=1)
    return labels.dtype == np.int32 and pairs.shape[1] == expected.max() + 1 == labels.max() + 1


def _precision_recall(labels, truth) -> tuple[float, float]:
    """Matched at an IoU above one half."""
    joint = ndimage.histogram(
        labels.astype(np.int64) * (truth.max() + 1) + truth, -0.5, (labels.max() + 1) * (truth.max() + 1) - 0.5,
        (labels.max() + 1) * (truth.max() + 1),
    ).reshape(labels.max() + 1, truth.max() + 1)  # fmt: skip
    found, true = joint.sum(1, keepdims=True)[1:], joint.sum(0, keepdims=True)[:, 1:]
    hits = (joint[1:, 1:] / (found + true - joint[1:, 1:]).clip(1) > 0.5).sum()
    return hits / labels.max(), hits / np.count_nonzero(true)


def test_nuclei_on_a_ramp_of_light_are_found_with_their_areas():
    discs = [(60, 50, 12), (60, 150, 10), (70, 260, 14), (180, 60, 9), (200, 170, 12), (190, 270, 11)]
    labels = segment(_discs(discs), "nuclei")
    assert labels.max() == len(discs)
    for y, x, radius in discs:
        assert np.count_nonzero(labels == labels[y, x]) == len(disk((y, x), radius)[0])


def test_nuclei_are_kept_by_area_and_by_solidity():
    image = _discs([(80, 80, 12), (80, 220, 6)])
    rows, columns = np.mgrid[:300, :320]
    distance = np.hypot(rows - 210, columns - 150)
    image[(distance < 30) & (distance > 24) & (columns < 160)] += 400  # a crescent, far from convex
    found = {name: bool(segment(image, "nuclei", **limits)[where]) for name, where, limits in [
        ("large", (80, 80), {}), ("small", (80, 220), {}), ("crescent", (210, 123), {}),
        ("large, max_area", (80, 80), {"max_area": 300}), ("small, min_area", (80, 220), {"min_area": 300}),
        ("crescent, min_solidity", (210, 123), {"min_solidity": 0}),
    ]}  # fmt: skip
    assert found == {
        "large": True, "small": True, "crescent": False,
        "large, max_area": False, "small, min_area": False, "crescent, min_solidity": True,
    }  # fmt: skip


def test_solidity_is_scikit_images(field):
    image, _ = field
    every = segment(image, "nuclei", min_solidity=0, max_area=np.inf)
    kept = segment(image, "nuclei", min_solidity=0.8, max_area=np.inf)
    checked = 0
    for part in measure.regionprops(every):
        if abs(part.solidity - 0.8) > 0.02:  # hulls of pixel centres and of pixel corners differ by so much
            assert kept[tuple(part.coords[0])].astype(bool) == (part.solidity > 0.8), part.solidity
            checked += 1
    assert checked > 20
    assert 0 < kept.max() < every.max()


def test_nuclei_are_the_thesis_steps(field):
    image, _ = field
    mask = ndimage.binary_fill_holes(_local(image, 111))
    labels = segment(image, "nuclei", min_area=0, max_area=np.inf, min_solidity=0, max_hole=None)
    assert _same_objects(labels, mask)
    assert not _same_objects(labels, ndimage.binary_fill_holes(_local(image, 61)))


def test_a_lone_nucleus_outlives_the_noise_around_it():
    rng = np.random.default_rng(1)
    for y, x in rng.integers(150, 350, (4, 2)):
        image = np.full((500, 500), 200.0)
        image[disk((y, x), 13)] += 600
        image = rng.poisson(ndimage.gaussian_filter(image, 1.5)).astype(np.uint16)
        labels = segment(image, "nuclei")
        assert labels.max() == 1
        assert labels[y, x] == 1
        # Filled whole, as in the thesis, the noise takes the nucleus with it.
        assert segment(image, "nuclei", max_hole=None).max() == 0


def test_nuclear_holes_are_filled_up_to_their_size():
    image = _discs([(150, 160, 20)])
    image[disk((150, 160), 4)] = 100  # 49 pixels
    assert segment(image, "nuclei")[150, 160] > 0
    assert segment(image, "nuclei", max_hole=20)[150, 160] == 0


def test_er_is_the_thesis_steps(field):
    image, _ = field
    unit = normalised(image)
    lit = np.where(unit > filters.threshold_mean(unit), unit, 0)
    mask = ndimage.binary_opening(ndimage.binary_fill_holes(lit > ndimage.gaussian_filter(lit, 30)), ELLIPSE)
    weights = np.outer([1, 2, 1], [1, 2, 1]) / 16
    mask = ndimage.convolve(mask.astype(float), weights, mode="reflect") > 0.5
    objects = measure.label(mask, connectivity=2)
    large = np.bincount(objects.ravel()) >= 100
    large[0] = False
    inner = np.s_[6:-6, 6:-6]  # SciPy's opening takes what lies beyond the border for background
    labels = segment(image, "er")
    np.testing.assert_array_equal(labels[inner] > 0, large[objects][inner])
    assert labels.max() > 20


def test_er_fills_the_nucleus_and_drops_specks():
    image = np.full((256, 256), 100.0)
    image[disk((120, 120), 40)] = 600
    image[disk((120, 120), 15)] = 110
    image[disk((30, 200), 3)] = 600
    labels = segment(ndimage.gaussian_filter(image, 1.0), "er")
    assert labels.max() == 1
    assert labels[120, 120] == 1
    assert labels[30, 200] == 0
    assert np.count_nonzero(labels) == pytest.approx(math.pi * 40**2, rel=0.06)
    assert segment(ndimage.gaussian_filter(image, 1.0), "er", min_area=0, opening=3).max() == 2


def test_gfp_is_a_local_threshold_opened(field):
    image, _ = field
    inner = np.s_[6:-6, 6:-6]
    labels = segment(image, "gfp", min_area=0)
    np.testing.assert_array_equal(labels[inner] > 0, ndimage.binary_opening(_local(image, 181), ELLIPSE)[inner])
    assert segment(image, "gfp").max() < labels.max()  # small ones out


def test_the_golgi_is_found_above_the_haze_of_its_cells():
    rng = np.random.default_rng(2)
    image, haze = np.full((400, 400), 50.0), np.zeros((400, 400))
    places = [(y, x) for y in (80, 200, 320) for x in (80, 200, 320)]
    for y, x in places:
        haze[disk((y, x), 35)] = 120
        image[disk((y, x + 12), 6)] += 400
    image = rng.poisson(ndimage.gaussian_filter(image, 1.0) + ndimage.gaussian_filter(haze, 8)).astype(np.uint16)
    labels = segment(image, "golgi")
    assert labels.max() == len(places)
    for y, x in places:
        assert np.count_nonzero(labels == labels[y, x + 12]) == pytest.approx(math.pi * 36, rel=0.25)
    again = segment(golgi_preprocessed(image), "golgi")
    assert again.max() == len(places)
    assert np.count_nonzero((again > 0) != (labels > 0)) < 0.1 * np.count_nonzero(labels)


def test_preprocessing_without_the_ball_is_the_clipping_of_the_thesis(field):
    image, _ = field
    least = np.percentile(image, 90)
    expected = (np.clip(image, least, image.max()) - least) / (image.max() - least)
    np.testing.assert_allclose(golgi_preprocessed(image, radius=None), expected, atol=1e-6)
    with_ball = golgi_preprocessed(image)
    assert (with_ball.min(), with_ball.max(), with_ball.dtype) == (0, 1, np.float32)
    assert np.mean(with_ball == 0) == pytest.approx(0.9, abs=0.01)


def test_the_ball_takes_a_slope_of_light_away():
    image = np.tile(np.linspace(100, 900, 300), (200, 1))
    image[disk((100, 30), 5)] += 300
    image[disk((100, 270), 5)] += 300
    ball, clipped = golgi_preprocessed(image), golgi_preprocessed(image, radius=None)
    assert clipped[100, 30] == 0  # the dim side's spot is darker than the bright side's ground
    assert ball[100, 30] > 0.8
    assert ball[100, 30] == pytest.approx(ball[100, 270], abs=0.1)


def test_background_is_scikit_images_ball():
    image = _discs([(50, 60, 8), (90, 30, 10)], shape=(123, 141)).astype(float)
    np.testing.assert_allclose(background(image, 20, shrink=1), np.minimum(rolling_ball(image, radius=20), image))
    quick, exact = background(image, 20, shrink=4), background(image, 20, shrink=1)
    assert quick.shape == image.shape
    assert (quick <= image).all()
    assert np.abs(quick - exact).max() < 0.05 * np.ptp(image)
    assert np.abs(quick - exact).mean() < 0.01 * np.ptp(image)


def test_global_threshold_is_halfway_between_the_means():
    rng = np.random.default_rng(3)
    image = np.concatenate([rng.normal(40, 5, 9000), rng.normal(160, 20, 1000)]).reshape(100, 100)
    threshold = global_threshold(image)
    halfway = (image[image > threshold].mean() + image[image <= threshold].mean()) / 2
    assert abs(threshold - halfway) < 1e-3 * np.ptp(image)
    assert threshold == pytest.approx(filters.threshold_isodata(image), abs=0.02 * np.ptp(image))
    assert global_threshold(np.full((5, 5), 0.1)) == 0.1


def test_opening_takes_what_the_ellipse_does_not_fit_into():
    mask = np.random.default_rng(4).random((60, 70)) < 0.8
    expected = ndimage.binary_opening(mask, ELLIPSE)
    np.testing.assert_array_equal(opened(mask, 5)[4:-4, 4:-4], expected[4:-4, 4:-4])
    np.testing.assert_array_equal(opened(mask, 0), mask)


STAINS = [name for name in ORGANELLES if name != "mask"]  # a mask has a threshold of its own: see test_prepare.py


@pytest.mark.parametrize("organelle", STAINS)
@pytest.mark.filterwarnings("error")
def test_nothing_is_found_where_nothing_is(organelle):
    for image in (np.full((256, 256), 0.3), np.zeros((256, 256), np.uint8), np.full((256, 256), 65535, np.uint16)):
        labels = segment(image, organelle)
        assert labels.max() == 0
        assert labels.dtype == np.int32
        assert labels.shape == image.shape
    noise = np.random.default_rng(5).normal(200, 8, (256, 256)).round().astype(np.uint16)
    assert segment(noise, organelle).max() <= 2
    assert not golgi_preprocessed(np.full((64, 64), 7)).any()


@pytest.mark.parametrize("organelle", STAINS)
def test_gain_offset_and_type_change_nothing(organelle, field):
    image, _ = field
    expected = segment(image, organelle)
    assert expected.max() > 10
    assert sorted(np.unique(expected)) == list(range(expected.max() + 1))
    for other in (image.astype(np.float32), image.astype(float) * 0.25 + 11, (image / 65536).astype(np.float32)):
        changed = np.count_nonzero((segment(other, organelle) > 0) != (expected > 0))
        assert changed <= 1e-4 * image.size  # a pixel at its threshold may be rounded over it


def test_a_flat_patch_is_not_above_itself():
    image = np.full((600, 600), 0.3)
    image[disk((60, 60), 12)] = 1.0
    image[disk((60, 120), 12)] = 0.0
    for dtype in (np.float32, np.float64):
        labels = segment(image.astype(dtype), "nuclei", min_area=0, max_area=np.inf, min_solidity=0)
        assert labels[60, 60] > 0
        assert not labels[300:].any()  # beyond the reach of the mean of 111 pixels


def test_an_image_smaller_than_the_block_is_mirrored_and_said():
    image = _discs([(20, 20, 8), (40, 50, 9)], shape=(61, 75))
    with pytest.warns(UserWarning, match=r"\(61, 75\) is smaller than the block of 111 pixels"):
        labels = segment(image, "nuclei", min_area=0, max_area=np.inf, min_solidity=0, max_hole=0)
    wide = np.pad(normalised(image), 160, mode="symmetric")
    expected = (wide > ndimage.gaussian_filter(wide, 110 / 6) + 1e-9)[160:-160, 160:-160]
    np.testing.assert_array_equal(labels > 0, expected)


def test_nuclei_of_a_drawn_field(field):
    precision, recall = _precision_recall(segment(field[0], "nuclei"), field[1])
    assert precision > 0.85
    assert recall > 0.6  # touching nuclei are one, and are then dropped for their shape


@pytest.mark.skipif(not DATA.exists(), reason="shared/data is absent")
def test_nuclei_of_real_fields():
    found = []
    for path in sorted((DATA / "images").glob("*.tif"))[3:12:4]:
        colours = imread(DATA / "masks" / f"{path.stem}.png")[..., 0]
        truth = np.zeros(colours.shape, np.int64)
        for colour in np.unique(colours[colours > 0]):
            parts = measure.label(colours == colour, connectivity=1)
            truth[parts > 0] = parts[parts > 0] + truth.max()
        found.append(_precision_recall(segment(tifffile.imread(path), "nuclei"), truth))
    precision, recall = np.mean(found, axis=0)
    assert precision > 0.85
    assert recall > 0.6


@pytest.mark.parametrize(
    ("organelle", "parameters", "words"),
    [
        ("actin", {}, "unknown organelle 'actin'; choose from nuclei, er, gfp, golgi"),
        ("er", {"max_area": 3}, "er has no parameter max_area; choose from block, opening, min_area"),
        ("nuclei", {"block": 110}, "block is 110; it must be odd and 3 or more: give 111"),
        ("gfp", {"block": -5}, "give 3"),
        ("golgi", {"radius": 7}, "radius 7 with shrink 4; .* lower shrink"),
        ("golgi", {"shrink": 0}, "whole number of 1 or more"),
    ],
)
def test_errors_say_the_mend(organelle, parameters, words):
    with pytest.raises(ValueError, match=words):
        segment(np.eye(32), organelle, **parameters)


def test_bad_images_and_percentiles_are_refused():
    for image in (np.zeros((2, 32, 32)), np.zeros((0, 5)), np.full((8, 8), np.nan)):
        with pytest.raises(ValueError, match="one image Y X, all finite"):
            segment(image, "er")
    with pytest.raises(ValueError, match="percentile is 101"):
        golgi_preprocessed(np.eye(32), percentile=101)


def test_faint_ripples_beside_a_nucleus_are_told_by_their_contrast():
    y, x = np.mgrid[:256, :256]
    image = 300 + 40 * np.sin(x / 12) * np.sin(y / 12)
    image[(y - 90) ** 2 + (x - 90) ** 2 < 15**2] += 2000
    assert segment(image, "nuclei").max() > 3
    labels = segment(image, "nuclei", min_contrast=0.1)
    assert labels.max() == 1
    assert labels[90, 90] == 1
    assert segment(image, "nuclei", min_contrast=1.0).max() == 0
