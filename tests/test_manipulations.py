"""Damage, decoys and traps do to a picture what they say, against a scene whose every part is known."""

import numpy as np
import pytest
from scipy import ndimage

from phenokeep.imaging import manipulations as m
from phenokeep.imaging.segment import nuclear_threshold, segment_nuclei

CENTRES = [(30, 30), (30, 80), (30, 130), (80, 40), (80, 105), (130, 30), (130, 80), (130, 130)]
RADIUS, NOISE = 9, 0.004


def scene(centres=CENTRES, side=176, seed=0):
    """Discs on a background that rises from left to right, blurred, with noise; and the background alone."""
    yy, xx = np.mgrid[:side, :side]
    labels = np.zeros((side, side), np.int32)
    for number, (y, x) in enumerate(centres, start=1):
        labels[np.hypot(yy - y, xx - x) <= RADIUS] = number
    background = 0.05 + 0.05 * xx / side
    light = 0.4 * ndimage.gaussian_filter((labels > 0).astype(float), 1.2)
    image = background + light + np.random.default_rng(seed).normal(0, NOISE, (side, side))
    return m.Specimen(np.clip(image, 0, 1).astype(np.float32), labels), background


@pytest.fixture
def specimen():
    return scene()[0]


def rng(seed=3):
    return np.random.default_rng(seed)


def names(specimen):
    return set(np.unique(specimen.labels)) - {0}


def segmented(specimen, like):
    return segment_nuclei(specimen.image, nuclear_threshold(like.image)).max()


def test_local_background_and_noise_are_those_of_the_scene():
    specimen, background = scene()
    assert np.abs(specimen.background - background).max() < 0.01
    assert specimen.noise == pytest.approx(NOISE, rel=0.1)


@pytest.mark.parametrize(("share", "gone"), [(0.01, 1), (0.25, 2), (0.5, 4), (1.0, 8)])
def test_missing_nuclei_leave_no_ghost(share, gone):
    specimen, background = scene()
    damaged = m.nuclei_missing(specimen, share, rng())
    assert len(names(specimen) - names(damaged)) == gone
    assert len(names(damaged)) == segmented(damaged, specimen) == 8 - gone
    emptied = (specimen.labels > 0) & (damaged.labels == 0)
    rest = (damaged.image - background)[ndimage.binary_dilation(emptied, iterations=5)]
    assert abs(rest.mean()) < 0.003  # the nuclei shone at 0.4
    assert rest.std() == pytest.approx(NOISE, rel=0.3)


def test_growing_damage_holds_the_smaller_damage(specimen):
    few, many = (m.nuclei_missing(specimen, share, rng()) for share in (0.25, 0.75))
    assert names(many) < names(few)
    small, large = (m.artefact_added(specimen, share, rng()).image == 1 for share in (0.02, 0.1))
    assert not (small & ~large).any()
    one, three = (m.nuclei_invented(specimen, share, rng()) for share in (0.1, 0.4))
    assert np.array_equal(one.labels == 9, three.labels == 9)


@pytest.mark.parametrize("share", [0.1, 0.5, 0.8])
def test_missing_area_is_the_share_of_every_nucleus(specimen, share):
    damaged = m.area_missing(specimen, share, rng())
    before, after = (np.bincount(part.labels.ravel(), minlength=9)[1:] for part in (specimen, damaged))
    assert np.abs(1 - after / before - share).max() < 0.03  # pixels with one distance to the line go together
    assert damaged.image[(specimen.labels > 0) & (damaged.labels == 0)].mean() < 0.13


def test_blanked_region_is_a_rectangle_of_its_share(specimen):
    damaged = m.region_blanked(specimen, 0.3, rng())
    changed = ndimage.find_objects((np.abs(damaged.image - specimen.image) > 0.1).astype(int))[0]
    assert (damaged.labels[changed] == 0).mean() > 0.9
    assert damaged.image.max() >= 0.4  # the rest stands
    whole = m.region_blanked(specimen, 1.0, rng())
    assert not names(whole)
    assert whole.image.max() < 0.15


@pytest.mark.parametrize(("share", "more"), [(0.01, 1), (0.5, 4)])
def test_invented_nuclei_stand_on_empty_ground(share, more):
    specimen, background = scene()
    damaged = m.nuclei_invented(specimen, share, rng())
    assert len(names(damaged)) == segmented(damaged, specimen) == 8 + more
    new = damaged.labels > 8
    assert not (new & (specimen.labels > 0)).any()
    light = (specimen.image - background)[specimen.labels > 0].mean()
    assert (damaged.image - background)[new].mean() == pytest.approx(light, rel=0.05)
    np.testing.assert_array_equal(damaged.labels[~new], specimen.labels[~new])


@pytest.mark.parametrize("share", [0.01, 0.1, 0.25])
def test_artefact_is_saturated_over_its_share(specimen, share):
    damaged = m.artefact_added(specimen, share, rng())
    covered = damaged.image == 1
    assert covered.mean() == pytest.approx(share, rel=0.02)
    assert not damaged.labels[covered].any()
    np.testing.assert_array_equal(damaged.labels[~covered], specimen.labels[~covered])


def test_decoys_leave_labels_unchanged(specimen):
    for decoy, amount in ((m.gain, 0.8), (m.gain, 1.25), (m.illumination, 0.2), (m.camera_noise, 2.0)):
        changed = decoy(specimen, amount, rng())
        np.testing.assert_array_equal(changed.labels, specimen.labels)
        assert not np.array_equal(changed.image, specimen.image)


def test_decoys_do_what_they_say(specimen):
    np.testing.assert_allclose(m.gain(specimen, 0.5, rng()).image, 0.5 * specimen.image, rtol=1e-6)
    assert m.gain(specimen, 5, rng()).image.max() == 1
    ratio = m.illumination(specimen, 0.2, rng()).image / specimen.image
    assert (ratio.min(), ratio.max()) == pytest.approx((0.8, 1.2), abs=0.01)
    noisy = m.camera_noise(specimen, 2.0, rng())
    assert (noisy.image - specimen.image).std() == pytest.approx(2 * specimen.noise, rel=0.02)


def test_shift_moves_picture_and_labels_together(specimen):
    moved = m.shifted(specimen, 1, rng())
    step = [s for s in ((1, 0), (-1, 0), (0, 1), (0, -1)) if np.array_equal(
        np.roll(specimen.labels, s, (0, 1))[2:-2, 2:-2], moved.labels[2:-2, 2:-2])]  # fmt: skip
    assert len(step) == 1
    np.testing.assert_array_equal(np.roll(specimen.image, step[0], (0, 1))[2:-2, 2:-2], moved.image[2:-2, 2:-2])


def test_one_lost_and_one_invented_balance(specimen):
    changed = m.lost_and_invented(specimen, 1, rng())
    assert len(names(changed)) == segmented(changed, specimen) == 8
    assert len(names(specimen) - names(changed)) == 1
    new = changed.labels == (names(changed) - names(specimen)).pop()
    assert not specimen.labels[new].any()  # not where one was lost, either


def test_relocated_nuclei_keep_number_and_area(specimen):
    changed = m.relocated(specimen, 0.5, rng())
    assert len(names(changed)) == segmented(changed, specimen) == 8
    assert len(names(specimen) - names(changed)) == 4
    assert (changed.labels > 0).sum() == (specimen.labels > 0).sum()
    assert not specimen.labels[changed.labels > 8].any()


def test_merged_joins_the_two_nearest_and_lowers_the_count_by_one():
    specimen, _ = scene([*CENTRES, (80, 128)])  # 5 px from the disc at (80, 105)
    changed = m.merged(specimen, 8, rng())
    assert names(specimen) - names(changed) == {9}
    assert changed.labels[80, 105] == changed.labels[80, 116] == changed.labels[80, 128] == 5
    assert changed.image[80, 116] > 0.35  # the gap shines as the nuclei do
    assert specimen.image[80, 116] < 0.2
    assert ndimage.label(changed.labels == 5)[1] == 1
    assert segmented(changed, specimen) == segmented(specimen, specimen) - 1


@pytest.mark.parametrize(
    ("manipulation", "amount", "centres"),
    [
        (m.merged, 8, CENTRES),
        (m.lost_and_invented, 1, [(80, 80)]),
        (m.nuclei_invented, 0.5, [(5, 80)]),
        (m.relocated, 0.5, []),
        (m.nuclei_missing, 0.5, []),
    ],
)
def test_no_room_is_said(manipulation, amount, centres):
    with pytest.raises(m.NotPossible):
        manipulation(scene(centres)[0], amount, rng())


def test_specks_and_slivers_are_no_nuclei(specimen):
    labels = specimen.labels.copy()
    labels[100:103, 100:103] = 9
    assert 9 not in m.Specimen(specimen.image, labels).nuclei


def test_the_given_picture_is_not_altered_and_the_seed_decides(specimen):
    image, labels = specimen.image.copy(), specimen.labels.copy()
    for function, amount in (
        (m.area_missing, 0.4),
        (m.nuclei_invented, 0.4),
        (m.artefact_added, 0.1),
        (m.relocated, 0.3),
    ):
        first, second, other = (function(specimen, amount, rng(seed)) for seed in (1, 1, 2))
        np.testing.assert_array_equal(first.image, second.image)
        assert not np.array_equal(first.image, other.image)
    np.testing.assert_array_equal(specimen.image, image)
    np.testing.assert_array_equal(specimen.labels, labels)


@pytest.mark.parametrize(
    "wrong", [np.full((8, 8), 3.0), np.full((8, 8), np.nan), np.zeros((8, 9)), np.zeros((2, 8, 8))]
)
def test_pictures_outside_the_range_are_refused(wrong):
    with pytest.raises(ValueError, match=r"\[0, 1\]|Y X"):
        m.Specimen(wrong, np.zeros((8, 8), np.int32))
