"""Artefact masks against scikit-image step by step, and against what the microscope knows."""

import numpy as np
import pytest
from scipy.special import expit
from skimage.filters import threshold_otsu
from skimage.morphology import closing, disk, opening

from phenokeep.imaging.artefacts import artefact_mask
from phenokeep.imaging.microscope import Microscope, Phenotype, Scene


def authors_mask(image: np.ndarray, factor: float = 0.7, floor: float = 200.0) -> np.ndarray:
    """The recipe in the order in which the authors give it: on the inverted image, a closing and then an opening."""
    threshold = threshold_otsu(image)
    if not threshold > floor:
        return np.zeros(image.shape, np.uint8)
    inverted = np.where(image > factor * threshold, 0, 255).astype(np.uint8)
    return np.where(opening(closing(inverted, disk(1)), disk(1)) > 0, 0, 1).astype(np.uint8)


def draw_junk(rng: np.random.Generator, shape: tuple[int, int], top: float) -> np.ndarray:
    """Noisy background with bright blobs and specks, some across the border, in counts."""
    y, x = np.mgrid[: shape[0], : shape[1]]
    image = rng.normal(0.03 * top, 0.005 * top, shape)
    for _ in range(rng.integers(1, 8)):
        cy, cx = rng.uniform(-3, shape[0] + 3), rng.uniform(-3, shape[1] + 3)
        image += top * rng.uniform(0.3, 1) * expit(rng.uniform(2, 9) - np.hypot(y - cy, x - cx))
    specks = rng.random(shape) < 0.02
    image[specks] += top * rng.random(int(specks.sum()))
    return image.clip(0, top)


@pytest.mark.parametrize("kind", [np.uint8, np.uint16, np.float32])
def test_equals_the_authors_order_of_steps(kind):
    top = 255 if kind is np.uint8 else 4095
    changed = 0
    for seed in range(60):
        rng = np.random.default_rng(seed)
        image = draw_junk(rng, tuple(rng.integers(2, 90, 2)), top).astype(kind)
        mask = artefact_mask(image, floor=20)
        assert mask.dtype == np.uint8
        np.testing.assert_array_equal(mask, authors_mask(image, floor=20), str(seed))
        bright = (image > 0.7 * threshold_otsu(image)).astype(np.uint8)
        np.testing.assert_array_equal(mask, closing(opening(bright, disk(1)), disk(1)), str(seed))
        changed += (mask != bright).any() and mask.any()
    assert changed > 40


def test_sixteen_bits_are_not_cut_into_256_levels():
    # Grey values 1000 and 1040 beside a few of 65535: 256 levels put the first two into one bin
    image = np.full((100, 100), 1000, np.uint16)
    image[:, 50:] = 1040
    image[40:43, 40:43] = 65535
    assert threshold_otsu(image) != threshold_otsu(image.astype(float))
    np.testing.assert_array_equal(artefact_mask(image), authors_mask(image))


def _field(size: int = 40) -> np.ndarray:
    """Background of 100 counts and a row of every brightness to 2000: where there is a gap, Otsu cuts at its foot."""
    image = np.full((size, size), 100, np.uint16)
    image[-1] = np.linspace(100, 2000, size)
    return image


def test_threshold_is_strict_scaled_and_above_the_floor():
    image = _field()
    image[2:12, 2:12] = 1000
    otsu = threshold_otsu(image)
    assert 200 < otsu < 1000
    at, above = image.copy(), image.copy()
    at[20:30, 2:12], above[20:30, 2:12] = 700, 701
    assert threshold_otsu(at) == threshold_otsu(above)
    factor = 700 / threshold_otsu(at)
    assert artefact_mask(at, factor)[25, 6] == 0
    assert artefact_mask(above, factor)[25, 6] == 1
    assert not artefact_mask(image, floor=otsu).any()
    assert artefact_mask(image, floor=np.nextafter(otsu, 0)).any()


def test_specks_go_holes_close_and_borders_stay():
    image = _field()
    image[10:30, 10:30] = 2000
    image[20, 20] = 100
    image[5, 5] = image[7, 30] = image[7, 31] = 2000
    image[0:3, 34:40] = 2000
    mask = artefact_mask(image)
    assert mask[20, 20] == 1
    assert mask[5, 5] == mask[7, 30] == mask[7, 31] == mask[-1].max() == 0
    assert mask[0:2, 35:40].all()  # cut by the border, not eaten by it


@pytest.mark.parametrize("level", [0, 150, 5000])
@pytest.mark.parametrize("kind", [np.uint8, np.uint16, np.float32])
def test_constant_images_hold_no_artefact(level, kind):
    mask = artefact_mask(np.full((9, 7), min(level, 255) if kind is np.uint8 else level, kind))
    assert mask.shape == (9, 7)
    assert mask.dtype == np.uint8
    assert not mask.any()


def test_bad_input_is_refused():
    image = np.full((8, 8), 300.0)
    for wrong, said in (
        (image[None], r"Y X.*\(1, 8, 8\)"),
        (np.zeros((0, 4)), "with pixels"),
        (image.astype(np.int64), "int64"),
        (image > 0, "bool"),
        (np.where(np.eye(8) > 0, np.nan, image), "8 of 64 pixels"),
        (np.where(np.eye(8) > 0, np.inf, image), "infinite"),
        (np.eye(8) * 0.5, "it is scaled: give camera counts"),
    ):
        with pytest.raises(ValueError, match=said):
            artefact_mask(wrong)
    with pytest.raises(ValueError, match="factor 0"):
        artefact_mask(image, factor=0)
    with pytest.raises(ValueError, match="floor nan"):
        artefact_mask(image, floor=float("nan"))
    scaled = _field() / 2000
    scaled[2:12, 2:12] = 1
    assert artefact_mask(scaled, floor=0.1)[6, 6] == 1


def test_finds_what_the_microscope_knows():
    found, plain, known = [], [], []
    for seed in range(12):
        scene = Scene.draw(seed, (512, 512), phenotype=Phenotype(artefact_density=5, debris_per_dead_cell=0))
        image = Microscope().image(scene, channel="artefacts")
        found.append(artefact_mask(image))
        plain.append(artefact_mask(image, factor=1.0))
        known.append(scene.artefact_mask())
    masks, plain_masks, truth = np.array(found) > 0, np.array(plain) > 0, np.array(known)
    recall, plain_recall = masks[truth].mean(), plain_masks[truth].mean()
    print(f"recall {recall:.3f}, at factor 1 {plain_recall:.3f}; precision {truth[masks].mean():.3f}; {truth.sum()} px")
    assert truth.sum() > 5000
    assert truth[masks].mean() > 0.9
    assert recall > plain_recall + 0.05  # why the authors introduced the factor
    empty = ~truth.any(axis=(1, 2))
    assert empty.any()
    assert not masks[empty].any()
