"""Augmentation of pairs: exact places, no fill, one geometry for all planes, corruptions as drawn."""

import cv2
import numpy as np
import pytest
from scipy import ndimage

from phenokeep.imaging.augment import Drawn, PairAugment, measured
from phenokeep.imaging.corruptions import corrupt

SIDE = 48


@pytest.fixture(scope="module")
def image():
    noise = np.random.default_rng(0).normal(0, 1, (200, 220))
    return (2000 + 3000 * ndimage.gaussian_filter(noise, 2)).clip(0).astype(np.uint16)


def crop_of(image, y, x, drawn, full_scale=None):
    return drawn.sample([image], drawn.places(y, x, SIDE), full_scale)[0]


def test_nothing_drawn_is_the_crop_itself(image):
    np.testing.assert_array_equal(crop_of(image, 70, 91, Drawn()), image[70 : 70 + SIDE, 91 : 91 + SIDE])


@pytest.mark.parametrize("flips", [(True, False), (False, True), (True, True)])
def test_flips_mirror_the_crop(image, flips):
    axes = [axis for axis, flip in enumerate(flips) if flip]
    expected = np.flip(image[70 : 70 + SIDE, 91 : 91 + SIDE], axes)
    np.testing.assert_array_equal(crop_of(image, 70, 91, Drawn(flips=flips)), expected)


def test_a_quarter_turn_is_that_of_the_array(image):
    turned = crop_of(image, 70, 91, Drawn(angle=np.pi / 2))
    crop = image[70 : 70 + SIDE, 91 : 91 + SIDE].astype(float)
    assert min(np.abs(turned - np.rot90(crop, k)).max() for k in (1, 3)) < 1e-2


def test_turned_and_enlarged_as_opencv_warps_the_full_image(image):
    """The independent computation: one affine matrix about the crop's centre, applied to the whole image."""
    y, x, angle, kept = 70, 91, 0.7, 156 / 256
    drawn = Drawn(angle=angle, kept=kept)
    centre = np.array([x + (SIDE - 1) / 2, y + (SIDE - 1) / 2])
    cos, sin = kept * np.cos(angle), kept * np.sin(angle)
    linear = np.array([[cos, sin], [-sin, cos]])  # output (x, y) to input (x, y)
    offset = centre - linear @ np.full(2, (SIDE - 1) / 2)
    matrix = np.column_stack([linear, offset])
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    expected = cv2.warpAffine(image.astype(np.float32), matrix, (SIDE, SIDE), flags=flags)
    ours = crop_of(image, y, x, drawn)
    # OpenCV rounds places to 1/32 of a pixel.
    steepest = np.abs(np.diff(image.astype(float), axis=0)).max() + np.abs(np.diff(image.astype(float), axis=1)).max()
    assert np.abs(ours - expected).max() < steepest / 32
    assert np.corrcoef(ours.ravel(), expected.ravel())[0, 1] > 0.9999


def test_a_turned_crop_is_filled_by_the_image_around_it_and_mirrored_only_at_the_border():
    """A ramp has no value twice: inside, the corners are the ramp's own; at the border they fold back."""
    ramp = np.tile(np.arange(300, dtype=np.float32), (300, 1))
    drawn = Drawn(angle=np.pi / 4)
    inside = drawn.places(120, 120, SIDE)
    np.testing.assert_allclose(drawn.sample([ramp], inside)[0], inside[1], atol=1e-3)
    assert measured(inside, ramp.shape).all()
    border = drawn.places(0, 0, SIDE)
    known = measured(border, ramp.shape)
    assert 0 < known.sum() < known.size
    folded = drawn.sample([ramp], border)[0]
    np.testing.assert_allclose(folded[known], np.abs(border[1][known]), atol=1e-3)
    np.testing.assert_allclose(folded, np.abs(border[1]), atol=1e-3)
    far = drawn.places(300 - SIDE, 300 - SIDE, SIDE)
    expected = 299 - np.abs(299 - far[1])
    np.testing.assert_allclose(drawn.sample([ramp], far)[0], expected, atol=1e-3)


def test_labels_are_the_nearest_pixels_under_the_same_geometry(image):
    labels = (image > np.median(image)).astype(np.int32) * 7
    drawn = Drawn(angle=1.1, kept=0.6, flips=(True, False))
    places = drawn.places(60, 80, SIDE)
    found = drawn.sample_labels(labels, places)
    assert found.dtype == np.int32
    assert set(np.unique(found)) == {0, 7}
    rows, columns = places
    for i, j in [(0, 0), (5, 40), (47, 47), (20, 11)]:
        assert found[i, j] == labels[round(rows[i, j]), round(columns[i, j])]
    grey = drawn.sample([labels], places)[0]
    assert (found == 7)[grey > 6.99].all()
    assert not found[grey < 0.01].any()


def test_damage_acts_on_counts_of_the_image_around_the_crop(image):
    """As if the whole image had been damaged before it was cut: no blur ends at the crop's edge."""
    damage = (("defocus", 4), ("contrast", -2))
    drawn = Drawn(angle=0.4, kept=0.8, damage=damage)
    whole = image
    for kind, severity in damage:
        whole, _ = corrupt(whole, kind, severity, 4095)
    for y, x in [(70, 91), (0, 0), (200 - SIDE, 220 - SIDE)]:
        places = drawn.places(y, x, SIDE)
        np.testing.assert_array_equal(drawn.sample([image], places, 4095), drawn.sample([whole], places))
        np.testing.assert_array_equal(drawn.damaged([image], 4095), [whole])
        assert not np.array_equal(drawn.sample([image], places), drawn.sample([image], places, 4095))


def test_damage_that_would_clip_most_of_the_image_is_left_out(image):
    """Gain 3 drives what is over 1365 counts out of 4095: most of this image."""
    damage = (("contrast", -4), ("defocus", 4))
    blurred, _ = corrupt(image, "defocus", 4, 4095)
    share = np.mean(image > 4095 / 3)
    assert 0.5 < share < 0.95
    np.testing.assert_array_equal(Drawn(damage=damage, most_clipped=0.5).damaged([image], 4095), [blurred])
    (clipped,) = Drawn(damage=damage, most_clipped=0.95).damaged([image], 4095)
    assert clipped.mean() > 1.5 * image.mean()
    # A dark plane beside it: of all pixels fewer than half clip, so both are damaged, where each by itself was not.
    dark = image // 8
    both = Drawn(damage=damage, most_clipped=0.5).damaged([image, dark], 4095)
    np.testing.assert_array_equal(both[0], clipped)
    np.testing.assert_array_equal(both[1], Drawn(damage=damage).damaged([dark], 4095)[0])
    neither = Drawn(damage=damage, most_clipped=0.2).damaged([image, dark], 4095)
    np.testing.assert_array_equal(
        neither, [Drawn(damage=damage[1:]).damaged([plane], 4095)[0] for plane in (image, dark)]
    )
    assert PairAugment(contrast=1.0, most_clipped=0.3).draw(np.random.default_rng(0)).most_clipped == 0.3


def test_draws_follow_the_stated_probabilities():
    augment = PairAugment(brightness=0.3)
    drawn = [augment.draw(np.random.default_rng([7, number])) for number in range(4000)]
    share = lambda chosen: np.mean([bool(chosen(one)) for one in drawn])  # noqa: E731
    damage = [dict(one.damage) for one in drawn]
    for found, expected in [
        (share(lambda one: one.flips[0]), 0.3),
        (share(lambda one: one.flips[1]), 0.3),
        (share(lambda one: one.flips == (True, True)), 0.09),
        (share(lambda one: one.angle), 0.5),
        (share(lambda one: one.kept < 1), 0.5),
        (share(lambda one: one.kept == 56 / 256), 0.1),
        (share(lambda one: one.kept == 156 / 256), 0.1),
        (share(lambda one: one.kept == 216 / 256), 0.3),
        (np.mean(["defocus" in one for one in damage]), 0.2),
        (np.mean([one.get("contrast") == 4 for one in damage]), 0.1),
        (np.mean([one.get("contrast") == -4 for one in damage]), 0.1),
        (np.mean([one.get("brightness") == 4 for one in damage]), 0.15),
        (np.mean([one.get("brightness") == -4 for one in damage]), 0.15),
    ]:
        assert abs(found - expected) < 4 * np.sqrt(expected * (1 - expected) / len(drawn))
    assert {one["defocus"] for one in damage if "defocus" in one} == {4}
    angles = np.array([one.angle for one in drawn if one.angle])
    assert abs(np.exp(1j * angles).mean()) < 0.1  # all directions alike
    assert augment.draw(np.random.default_rng(3)) == augment.draw(np.random.default_rng(3))


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"flip": 1.2}, r"augment\.flip is 1\.2"),
        ({"defocus": -0.1}, r"augment\.defocus"),
        ({"shrink": ((100, 0.5),)}, "sum to 1"),
        ({"shrink": ()}, "sum to 1"),
        ({"shrink": ((128, 1.0),)}, "0 to 127 pixels"),
        ({"severity": 6}, r"severity is 6"),
    ],
)
def test_settings_that_cannot_be_are_refused(setting, message):
    with pytest.raises(ValueError, match=message):
        PairAugment(**setting)
