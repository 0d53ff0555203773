"""Transmitted light of the virtual microscope: Abbe's sum against a plain loop, signs, halo, dirt and mishaps."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from scipy.ndimage import distance_transform_edt

from phenokeep.imaging.microscope import INDICES, LAB_ERRORS, Contrast, Microscope, Phenotype, Scene
from phenokeep.imaging.microscope.transmitted import partially_coherent

SHAPE = (192, 224)
STAINS = {"nuclei", "er", "golgi", "cytosol", "control"}
CLEAN = Phenotype(artefact_density=0.0, debris_per_dead_cell=0.0)
OPTICS = {"pixel_size": 0.25, "numerical_aperture": 0.45, "refractive_index": 1.33}
PLANAR = {"dust": 0.0, "shading": 0.0, "spherical": 0.0}


@pytest.fixture(scope="module")
def scene() -> Scene:
    return Scene.draw(7, SHAPE, phenotype=CLEAN)


def bump(height: float, sharp: bool = False, size: int = 128) -> np.ndarray:
    """A phase object in the middle of an empty field: radians at its top, a dome or a sharp disc, complex64 Y X."""
    y, x = np.mgrid[:size, :size] - size // 2
    r2 = (y * y + x * x) / 14.0**2
    return np.exp(1j * height * ((r2 < 1.0) if sharp else np.exp(-2.0 * r2))).astype(np.complex64)


@pytest.mark.parametrize(
    "contrast",
    [
        Contrast("brightfield", rings=(1, 6, 12)),
        Contrast("phase", aperture=0.27, rings=(12,)),
        Contrast("dic", shear=0.6, azimuth=30.0, bias=70.0),
    ],
)
def test_abbes_sum_against_a_plain_loop(contrast: Contrast) -> None:
    """Tilted waves through the object one by one, in double precision; DIC as two sheared copies that interfere."""
    rng = np.random.default_rng(1)
    shape, defocus, spherical = (60, 63), 3.0, 0.1
    object_ = (0.5 + 0.5 * rng.random(shape)) * np.exp(1j * rng.normal(0.0, 0.8, shape))
    fy, fx = (np.fft.fftfreq(n, 0.25) for n in shape)
    na2 = (fy[:, None] ** 2 + fx**2) * 0.55**2
    rho2 = na2 / 0.45**2
    waves = defocus * np.sqrt(np.maximum(1.33**2 - na2, 0.0)) / 0.55 + spherical * (6 * rho2**2 - 6 * rho2 + 1)
    pupil = np.where(rho2 <= 1.0, np.exp(2j * np.pi * waves), 0.0)
    if contrast.kind == "phase":
        pupil[np.abs(np.sqrt(na2) - contrast.aperture) <= contrast.ring] *= -1j * np.sqrt(contrast.plate)
    y, x = np.arange(shape[0])[:, None] * 0.25, np.arange(shape[1]) * 0.25

    def through(wave: np.ndarray) -> np.ndarray:
        shift = (
            np.pi
            * contrast.shear
            * (
                np.sin(np.deg2rad(contrast.azimuth)) * (fy[:, None] - sy)
                + np.cos(np.deg2rad(contrast.azimuth)) * (fx - sx)
            )
        )
        if contrast.kind != "dic":
            return np.abs(np.fft.ifft2(np.fft.fft2(wave) * pupil)) ** 2
        copies = [
            np.fft.ifft2(np.fft.fft2(wave) * pupil * np.exp(sign * 1j * (shift + np.deg2rad(contrast.bias) / 2)))
            for sign in (1, -1)
        ]
        return np.abs(copies[0] - copies[1]) ** 2 / 4

    image, empty = np.zeros(shape), np.zeros(shape)
    for direction in contrast.source():
        sy, sx = np.rint(direction / 0.55 * np.array(shape) * 0.25) / (np.array(shape) * 0.25)
        tilt = np.exp(2j * np.pi * (sy * y + sx * x))
        image += through(object_ * tilt)
        empty += through(tilt)
    ours = partially_coherent(object_.astype(np.complex64), contrast, defocus=defocus, spherical=spherical, **OPTICS)
    assert ours.dtype == np.float32
    assert image.std() > 0.1 * image.mean()
    np.testing.assert_allclose(ours, image / empty.mean(), atol=2e-4 * image.max() / empty.mean())


def test_directions_fill_the_condenser() -> None:
    """Equal light per direction: the mean square radius of a disc is half that of its rim, and nothing is one-sided."""
    for rings in ((1, 8), (1, 6, 12)):
        points = Contrast("brightfield", aperture=0.3, rings=rings).source()
        assert points.shape == (sum(rings), 2)
        np.testing.assert_allclose(points.sum(0), 0.0, atol=1e-12)
        assert (points**2).sum(1).mean() == pytest.approx(0.3**2 / 2, rel=0.02)
    ring = Contrast("phase", aperture=0.27, rings=(12,)).source()
    np.testing.assert_allclose(np.hypot(*ring.T), 0.27)


def test_bright_field_shows_a_phase_object_only_out_of_focus() -> None:
    low, focus, high = (
        partially_coherent(bump(0.1), Contrast("brightfield"), defocus=z, **OPTICS) - 1.0 for z in (-4.0, 0.0, 4.0)
    )
    assert focus.std() < 0.03 * high.std()
    assert np.corrcoef(low.ravel(), high.ravel())[0, 1] < -0.98
    assert high[64, 64] > 0.01 > -0.01 > low[64, 64]  # a thick middle is a lens: it gathers light behind the specimen


def test_cells_in_bright_field_change_sign_with_focus(scene: Scene) -> None:
    def seen(focus: float) -> np.ndarray:
        microscope = Microscope(contrasts={"plane": Contrast("brightfield", focus=focus)}, **PLANAR)
        return microscope.transmitted(scene, "plane") / 30000.0 - 1.0

    low, middle, high = seen(-4.0), seen(0.0), seen(4.0)
    assert middle.std() < 0.5 * min(low.std(), high.std())
    assert np.corrcoef(low.ravel(), high.ravel())[0, 1] < -0.5


def test_dic_is_a_relief_whose_light_turns_with_shear_and_bias() -> None:
    def seen(**changes: float) -> np.ndarray:
        return partially_coherent(bump(0.2), Contrast("dic", azimuth=0.0, **changes), **OPTICS) - 1.0

    plain = seen()
    mirrored = np.roll(plain[:, ::-1], 1, axis=1)
    np.testing.assert_allclose(seen(shear=-0.45), seen(bias=-90.0), atol=1e-6)
    np.testing.assert_allclose(seen(shear=-0.45), mirrored, atol=1e-5)
    assert np.corrcoef(plain.ravel(), seen(bias=-90.0).ravel())[0, 1] < -0.95
    left, right = plain[64, 50:64].mean(), plain[64, 65:79].mean()
    assert left * right < 0
    assert abs(left) > 0.01
    # The light follows the slope of the optical path along the shear.
    slope = np.gradient(np.angle(bump(0.2)).astype(float), axis=1)
    assert abs(np.corrcoef(plain.ravel(), slope.ravel())[0, 1]) > 0.97


def test_phase_contrast_has_dark_cells_and_a_halo() -> None:
    image = partially_coherent(bump(0.6, sharp=True), Contrast("phase", aperture=0.27, rings=(12,)), **OPTICS)
    r = np.hypot(*(np.mgrid[:128, :128] - 64))
    assert image[r < 10].mean() < 0.8
    assert image[(r > 16) & (r < 22)].mean() > 1.1
    assert image[r > 50].mean() == pytest.approx(1.0, abs=0.05)


def test_pure_phase_keeps_the_light() -> None:
    """What a phase object bends within the aperture is moved, not lost."""
    image = partially_coherent(bump(0.5), Contrast("brightfield"), defocus=5.0, **OPTICS)
    assert np.ptp(image) > 0.05
    assert image.mean() == pytest.approx(1.0, abs=1e-3)


def test_without_index_contrast_every_field_is_empty(scene: Scene) -> None:
    blind = Microscope(indices=dict.fromkeys(INDICES, 1.336), **PLANAR, pixel_gain_sd=0.0, pixel_offset_sd=0.0)
    seeing = Microscope(**PLANAR)
    for channel in blind.contrasts:
        np.testing.assert_allclose(blind.transmitted(scene, channel), 30000.0, rtol=1e-4)
        assert seeing.transmitted(scene, channel).std() > 0.02 * 30000
    counts = blind.image(scene, "dic").astype(float)
    noise = np.sqrt(0.31**2 * (30000.0 + 5.0**2) + 1 / 12)
    assert counts.std() == pytest.approx(noise, rel=5 / np.sqrt(2 * counts.size))
    assert counts.mean() == pytest.approx(95.0 + 0.31 * 30000.0, abs=1.0)


def test_foreign_objects_take_light_and_dust_stays() -> None:
    microscope = Microscope(spherical=0.0, dust=60.0, shading=0.0)
    dirty = Scene.draw(6, (256, 256), phenotype=Phenotype(density=0.0, artefact_density=60.0))
    assert dirty.transmission is not None
    shade = dirty.transmission[dirty.window]
    light = microscope.transmitted(dirty, "brightfield")
    assert light[shade < 0.8].mean() < 0.9 * light[shade > 0.99].mean()
    first, second = (
        microscope.transmitted(Scene.draw(seed, SHAPE, phenotype=replace(CLEAN, density=0.0)), "dic") for seed in (1, 2)
    )
    assert first.std() > 1e-3 * first.mean()
    np.testing.assert_array_equal(first, second)
    other = replace(microscope, camera_seed=1).transmitted(Scene.draw(1, SHAPE, phenotype=CLEAN), "dic")
    assert np.abs(other - first).max() > 0.01 * first.mean()


@pytest.mark.parametrize("name", LAB_ERRORS)
def test_mishaps_change_what_is_seen_and_not_what_is_there(scene: Scene, name: str) -> None:
    good = Microscope(dust=0.0)
    microscope, phenotype = LAB_ERRORS[name](good, CLEAN)
    again = scene if phenotype == CLEAN else Scene.draw(7, SHAPE, phenotype=phenotype)
    before, after = good.transmitted(scene, "dic"), microscope.transmitted(again, "dic")
    assert np.abs(after - before).mean() > 0.01 * before.mean()
    if name == "low_density":
        assert again.labels().max() < 0.5 * scene.labels().max()
    else:
        np.testing.assert_array_equal(again.labels(), scene.labels())
        np.testing.assert_array_equal(microscope.image(again), good.image(scene))
    changed = {
        stain
        for stain in STAINS
        if not np.array_equal(microscope.fluorescence(again, stain), good.fluorescence(scene, stain))
    }
    assert changed == {"overfixed": STAINS - {"nuclei"}, "not_fixed": STAINS - {"nuclei", "control"}}.get(
        name, STAINS if name == "low_density" else set()
    )
    if name.startswith("exposure"):
        np.testing.assert_allclose(after, before * float(name[-2:]) / 30.0, rtol=1e-5)


def test_living_cells_keep_their_outline_and_show_it_more_clearly(scene: Scene) -> None:
    fixed = Microscope(dust=0.0)
    microscope, phenotype = LAB_ERRORS["not_fixed"](fixed, CLEAN)
    living = Scene.draw(7, SHAPE, phenotype=phenotype)
    np.testing.assert_array_equal(living.cell_labels(), scene.cell_labels())
    depth = distance_transform_edt(scene.mask("cells"))
    rim, inside = (depth > 0) & (depth <= 3), depth > 6
    after, before = microscope.transmitted(living, "dic"), fixed.transmitted(scene, "dic")
    membrane, rest = (after[part].std() / before[part].std() for part in (rim, inside))
    assert membrane > 1.3
    assert membrane > 1.1 * rest, "not mere contrast"


def test_oil_bubble_has_a_dark_rim() -> None:
    microscope = Microscope(bubble=40.0, dust=0.0)
    empty = Scene.draw(1, (256, 256), phenotype=replace(CLEAN, density=0.0))
    light = microscope.transmitted(empty, "brightfield") / 30000.0
    assert light.min() < 0.3
    assert 0.02 < (light < 0.6).mean() < 0.2
    assert np.median(light) > 0.9


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda s: Contrast("fluorescence"), "'fluorescence'.*dic"),
        (lambda s: Contrast("dic", bias=0.0), "black"),
        (lambda s: Contrast("dic", rings=(0,)), "rings"),
        (lambda s: Contrast("phase", plate=1.5), "plate"),
        (lambda s: Phenotype(cell_ratio=0.5), "cell_ratio"),
        (lambda s: Microscope(lamp=0.0), "lamp"),
        (lambda s: Microscope(numerical_aperture=0.2), "'dic'.*miss the objective"),
        (lambda s: Microscope(dust=-1.0), "dust"),
        (lambda s: Microscope(shading=2.0), "shading"),
        (lambda s: Microscope(indices={"medium": 1.33}), "indices.*chromatin"),
        (lambda s: Microscope().image(s, channel="darkfield"), "'darkfield'.*nuclei.*dic, phase, brightfield"),
    ],
)
def test_bad_arguments_say_what_is_wrong(scene: Scene, call, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        call(scene)
