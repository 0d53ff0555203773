"""Image quality against the virtual microscope's truth and against plain computations."""

import numpy as np
import pytest

from phenokeep.imaging.microscope import Microscope, Scene
from phenokeep.imaging.quality import background, image_quality, power_log_log_slope
from phenokeep.imaging.segment import nuclear_threshold

FOCI = (0.0, 3.0, 6.0, 10.0)
SLOPE, LAPLACIAN = "ImageQuality_PowerLogLogSlope", "ImageQuality_LaplacianVariance"


@pytest.fixture(scope="module")
def scenes():
    return [Scene.draw(seed, (384, 448)) for seed in (3, 4)]


@pytest.fixture(scope="module")
def field(scenes):
    return Microscope().image(scenes[0])


def test_defocus_lowers_both_focus_scores_and_noise_does_not_hide_it():
    for photons in (1720.0, 400.0):
        scores = [
            image_quality(Microscope(photons=photons).image(Scene.draw(seed, (384, 448), focus=focus)))
            for seed in (3, 4)
            for focus in FOCI
        ]
        for name in (SLOPE, LAPLACIAN):
            by_scene = np.array([score[name] for score in scores]).reshape(2, len(FOCI))
            assert (np.diff(by_scene, axis=1) < 0).all(), (name, photons)
            assert by_scene[:, 0].min() > by_scene[:, 2:].max(), (name, photons)  # 6 um show between scenes, too


def test_background_and_noise_are_the_microscopes(scenes):
    microscope = Microscope(pixel_gain_sd=0.0, pixel_offset_sd=0.0)
    for scene in scenes:
        image, outside = microscope.image(scene), scene.labels() == 0
        expected = microscope.offset + microscope.gain * microscope.fluorescence(scene)
        measured = image_quality(image)
        level, noise = np.median(expected[outside]), (image - expected)[image <= nuclear_threshold(image)].std()
        assert measured["ImageQuality_BackgroundLevel"] == pytest.approx(level, rel=0.01)
        assert measured["ImageQuality_BackgroundNoise"] == pytest.approx(noise, rel=0.05)


def test_flat_noise_is_measured_as_drawn():
    rng = np.random.default_rng(0)
    for sd in (0.7, 4.0, 30.0):
        ramp = 500 + np.linspace(0, 200, 400)[None, :]  # illumination is not noise
        drawn = np.rint(rng.normal(ramp, sd, (400, 400)))
        assert background(drawn, np.inf)[1] == pytest.approx(np.hypot(sd, 12**-0.5), rel=0.03)


def test_saturation_counts_pixels_at_the_cameras_maximum(field):
    clipped = np.minimum(field, 400)
    share = 100 * (field >= 400).sum() / field.size
    assert share > 1
    assert image_quality(clipped, maximum=400)["ImageQuality_PercentMaximal"] == pytest.approx(share)
    assert image_quality(clipped)["ImageQuality_PercentMaximal"] == 0
    eight = (clipped // 2 + 55).astype(np.uint8)  # 255 is 8 bits' maximum
    assert image_quality(eight)["ImageQuality_PercentMaximal"] == pytest.approx(share)


def test_slope_is_the_one_of_a_plain_loop_and_of_a_known_law():
    rng = np.random.default_rng(1)
    side, image = 64, rng.normal(size=(64, 64)).cumsum(0).cumsum(1)
    power = np.abs(np.fft.fft2(image - image.mean())) ** 2
    rings: dict[int, float] = {}
    for y in range(side):
        for x in range(side):
            radius = int(np.hypot(min(y, side - y), min(x, side - x))) + 1
            rings[radius] = rings.get(radius, 0.0) + power[y, x]
    radii = range(2, side // 8)
    expected = np.polyfit(np.log(list(radii)), np.log([rings[r] for r in radii]), 1)[0]
    assert power_log_log_slope(image) == pytest.approx(expected)

    # Power that falls as f^-3 sums to f^-2 over rings whose number of members grows as f.
    fy, fx = np.fft.fftfreq(1024)[:, None], np.fft.rfftfreq(1024)[None, :]
    amplitude = np.hypot(fy, fx)
    amplitude[0, 0] = np.inf
    phases = np.exp(2j * np.pi * rng.random(amplitude.shape))
    law = np.fft.irfft2(amplitude**-1.5 * phases, s=(1024, 1024))
    assert power_log_log_slope(law) == pytest.approx(-2.0, abs=0.1)


def test_gain_and_offset_leave_focus_alone_and_scale_the_background(field):
    own = image_quality(field)
    other = image_quality(0.3 * field + 40.0, maximum=4095.0)
    for name in (SLOPE, LAPLACIAN):
        assert other[name] == pytest.approx(own[name], rel=1e-6)
    assert other["ImageQuality_BackgroundLevel"] == pytest.approx(0.3 * own["ImageQuality_BackgroundLevel"] + 40)
    assert other["ImageQuality_BackgroundNoise"] == pytest.approx(0.3 * own["ImageQuality_BackgroundNoise"])


def test_fields_without_nuclei_or_contrast_say_so():
    empty = np.random.default_rng(2).normal(200, 5, (128, 128)).astype(np.uint16)
    assert nuclear_threshold(empty) == empty.max()
    quality = image_quality(empty)
    assert np.isnan(quality[LAPLACIAN])
    assert quality["ImageQuality_BackgroundLevel"] == pytest.approx(200, abs=1)
    flat = image_quality(np.full((64, 64), 7, np.uint16))
    assert np.isnan(flat[SLOPE])
    assert (flat["ImageQuality_BackgroundLevel"], flat["ImageQuality_BackgroundNoise"]) == (7.0, 0.0)


def test_what_cannot_be_measured_is_refused(field):
    for image, message in (
        (np.zeros((3, 64, 64), np.uint16), "Y X"),
        (np.zeros((8, 64), np.uint16), "32 pixels"),
        (field.astype(np.float32), "give maximum"),
    ):
        with pytest.raises(ValueError, match=message):
            image_quality(image)
    broken = field.astype(np.float32)
    broken[0, 0] = np.nan
    with pytest.raises(ValueError, match="finite"):
        image_quality(broken, maximum=65535)
