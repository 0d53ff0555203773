"""The virtual microscope: seeds, truth against an independent measurement, optics and camera against theory."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats
from skimage.measure import label, regionprops_table

from phenokeep.imaging.microscope import MODES_OF_ACTION, Microscope, Phenotype, Plate, Scene
from phenokeep.imaging.microscope.optics import haze_transfer, pupil_psf, transfer

SHAPE = (384, 400)


@pytest.fixture(scope="module")
def scene() -> Scene:
    return Scene.draw(11, SHAPE)


@pytest.fixture(scope="module")
def crowd() -> Scene:
    return Scene.draw(5, (1024, 1024), phenotype=Phenotype(artefact_density=0.0))


def test_same_seed_same_bytes(scene: Scene) -> None:
    again, other = Scene.draw(11, SHAPE), Scene.draw(12, SHAPE)
    for channel in ("nuclei", "artefacts"):
        first = Microscope().image(scene, channel=channel)
        assert first.dtype == np.uint16
        assert first.shape == SHAPE
        assert first.tobytes() == Microscope().image(again, channel=channel).tobytes()
        assert first.tobytes() != Microscope().image(other, channel=channel).tobytes()
        assert first.tobytes() != Microscope().image(scene, channel=channel, seed=1).tobytes()
    assert scene.measurements().equals(again.measurements())


def test_plate_does_not_depend_on_order() -> None:
    plate = Plate(seed=4, wells=24, fields_per_well=2, shape=(64, 64))
    forward = {(field.well, field.field): field for field in plate.fields()}
    assert len(forward) == 48
    assert next(iter(forward)) == ("B02", 1)
    assert list(forward)[-1] == ("C03", 2)
    assert len({field.seed for field in forward.values()}) == 48
    for key in reversed(list(forward)):
        alone = Plate(seed=4, wells=24, fields_per_well=2, shape=(64, 64)).at(*key)
        assert (alone.seed, alone.phenotype, alone.focus) == (
            forward[key].seed,
            forward[key].phenotype,
            forward[key].focus,
        )
    late = Plate(seed=4, wells=24, fields_per_well=2, shape=(64, 64)).at("C03", 2).scene
    assert np.array_equal(late.labels(), forward["C03", 2].scene.labels())


def test_plate_effects_nest() -> None:
    """Fields of one well are more alike than wells; the mean factor is 1."""
    plate = Plate(seed=9, wells=300, fields_per_well=4, shape=(64, 64))
    areas = np.array([field.phenotype.area for field in plate.fields()]).reshape(300, 4)
    assert areas.mean(1).std() > 2 * areas.std(1).mean()
    stain = [
        Plate(seed=seed, name=str(seed), batch=seed, wells=1, fields_per_well=1).at("B02", 1).phenotype.stain
        for seed in range(400)
    ]
    assert np.mean(stain) == pytest.approx(1.0, abs=4 * np.std(stain) / 20)


def test_truth_agrees_with_regionprops(crowd: Scene) -> None:
    labels, truth = crowd.labels(), crowd.measurements()
    assert labels.dtype == np.int32
    assert labels.shape == (1024, 1024)
    names = ["label", "area", "centroid", "eccentricity", "axis_major_length", "axis_minor_length", "solidity"]
    measured = regionprops_table(labels, properties=names)
    assert np.array_equal(measured["label"], truth["ObjectNumber"])
    assert np.array_equal(np.unique(labels)[1:], truth["ObjectNumber"])
    assert np.array_equal(measured["area"], truth["AreaShape_Area"])
    for ours, theirs in (
        ("Location_Center_Y", "centroid-0"),
        ("Location_Center_X", "centroid-1"),
        ("AreaShape_Eccentricity", "eccentricity"),
        ("AreaShape_MajorAxisLength", "axis_major_length"),
        ("AreaShape_MinorAxisLength", "axis_minor_length"),
        ("AreaShape_Solidity", "solidity"),
    ):
        np.testing.assert_allclose(truth[ours], measured[theirs], rtol=1e-4, atol=1e-4)


def test_nuclei_keep_apart(crowd: Scene) -> None:
    """Each label is one piece, and neighbours in contact share a border rather than pixels."""
    labels = crowd.labels()
    pieces = label(labels, connectivity=2, background=0)
    assert pieces.max() == labels.max()
    touching = (labels[:, 1:] != labels[:, :-1]) & (labels[:, 1:] > 0) & (labels[:, :-1] > 0)
    assert touching.sum() > 50


def test_dna_content_follows_the_cycle() -> None:
    phenotype = Phenotype(multinucleate_fraction=0.0, contact_fraction=0.0, micronucleus_fraction=0.0, clustering=0.0)
    truth = Scene.draw(2, (1536, 1536), phenotype=phenotype).measurements()
    inside = truth[truth["Location_Center_X"].between(40, 1496) & truth["Location_Center_Y"].between(40, 1496)]
    for column, tolerance in (("DNA_Content", 0.05), ("Intensity_IntegratedIntensity_DNA", 0.08)):
        medians = inside.groupby("CellCycle_Phase")[column].median()
        assert medians["G2"] / medians["G1"] == pytest.approx(1.80, rel=tolerance)
        assert medians["S"] / medians["G1"] == pytest.approx(1.31, rel=tolerance)
    spread = np.log(inside.loc[inside["CellCycle_Phase"] == "G1", "DNA_Content"]).std()
    assert spread == pytest.approx(phenotype.stain_cv, rel=0.15)


def test_default_field_is_as_dense_as_bbbc039() -> None:
    """123 nuclei a field of 520 x 696 pixels in BBBC039, medians of 633 pixels and 34.8 pixels to the nearest."""
    counts = [Scene.draw(seed, (520, 696)).labels().max() for seed in range(6)]
    assert 100 < np.mean(counts) < 145
    truth = Scene.draw(0, (520, 696)).measurements()
    assert 550 < truth["AreaShape_Area"][truth["AreaShape_Area"] > 100].median() < 720


@pytest.mark.parametrize("shape", [(256, 256), (100, 333), (16, 17)])
def test_small_and_odd_shapes(shape: tuple[int, int]) -> None:
    scene = Scene.draw(1, shape)
    assert Microscope().image(scene).shape == scene.labels().shape == scene.artefact_mask().shape == shape
    assert len(scene.measurements()) == scene.labels().max()


def test_fine_pixels_show_the_same_cells_larger() -> None:
    areas = []
    for pixel_size, shape in ((0.65, (600, 600)), (0.13, (1500, 1500))):
        truth = Scene.draw(1, shape, pixel_size=pixel_size).measurements()
        inside = truth.loc[truth["CellCycle_Phase"] == "G1", "AreaShape_Area"] * pixel_size**2
        areas.append(inside[inside > 100].median())
    assert areas[1] == pytest.approx(areas[0], rel=0.15)


def test_camera_mean_and_variance() -> None:
    """Variance = gain (mean - offset) + gain^2 read^2, both where Poisson is drawn exactly and where it is a normal."""
    microscope = Microscope(gain=2.0, offset=300.0, read_noise=3.0, pixel_gain_sd=0.0, pixel_offset_sd=0.0, bits=16)
    for photons in (0.0, 5.0, 30.0, 200.0, 4000.0):
        counts = microscope.expose(np.full((400, 400), photons, np.float32), np.random.default_rng(3)).astype(float)
        variance = 2.0**2 * (photons + 3.0**2) + 1 / 12  # rounding adds a twelfth
        n = counts.size
        assert counts.mean() == pytest.approx(300.0 + 2.0 * photons, abs=5 * np.sqrt(variance / n))
        assert counts.var() == pytest.approx(variance, rel=5 * np.sqrt(2 / n) + 2e-3)
    dim = microscope.expose(np.full((400, 400), 5.0, np.float32), np.random.default_rng(3)).astype(float)
    assert stats.skew(dim.ravel()) == pytest.approx(5.0 / (5.0 + 9.0) ** 1.5, abs=0.03)


def test_fixed_pattern_stays_and_clipping_clips() -> None:
    microscope = Microscope(pixel_offset_sd=3.0, pixel_gain_sd=0.0, read_noise=0.0, bits=12)
    dark = np.zeros((64, 64), np.float32)
    first, second = (microscope.expose(dark, np.random.default_rng(seed)).astype(float) for seed in (1, 2))
    assert np.array_equal(first, second)
    assert first.std() == pytest.approx(3.0, rel=0.1)
    bright = np.full((64, 64), 1e6, np.float32)
    assert (microscope.expose(bright, np.random.default_rng(0)) == 4095).all()
    assert (Microscope(bits=16).expose(bright, np.random.default_rng(0)) == 65535).all()


def test_psf_keeps_energy_and_matches_the_airy_disc() -> None:
    fine = pupil_psf(0.45, 0.461, 0.05)
    half = fine.shape[0] // 2
    row = fine[half] / fine[half, half]
    assert fine.sum() == pytest.approx(1.0, abs=1e-9)
    # The first zero of the Airy pattern lies at 0.61 wavelengths over the aperture.
    zero = half + round(0.61 * 0.461 / 0.45 / 0.05)
    assert row[zero - 1 : zero + 2].min() < 2e-3
    assert np.interp(0.5, row[half : half + 9][::-1], np.arange(9)[::-1]) * 0.05 == pytest.approx(
        0.257 * 0.461 / 0.45, rel=0.03
    )
    with pytest.raises(ValueError, match="numerical_aperture"):
        pupil_psf(1.4, 0.461, 0.1)


def test_defocus_broadens_and_has_a_sign() -> None:
    def width(psf: np.ndarray) -> float:
        axis = np.arange(psf.shape[0]) - psf.shape[0] // 2
        within = np.hypot(axis[:, None], axis[None, :])
        order = np.argsort(within.ravel())
        return float(within.ravel()[order][np.searchsorted(np.cumsum(psf.ravel()[order]), 0.8)])

    widths = [width(pupil_psf(0.45, 0.461, 0.65, z)) for z in (0.0, 5.0, 10.0, 20.0)]
    assert widths == sorted(widths)
    # Far out of focus the light fills the cone: 80 % of a disc's energy lies within sqrt(0.8) of its radius.
    assert widths[-1] == pytest.approx(np.sqrt(0.8) * 20 * np.tan(np.arcsin(0.45 / 1.33)) / 0.65, rel=0.15)
    plain = [pupil_psf(0.45, 0.461, 0.65, z) for z in (-4.0, 4.0)]
    np.testing.assert_allclose(plain[0], plain[1], atol=1e-12)
    bent = [pupil_psf(0.45, 0.461, 0.65, z, spherical=0.1) for z in (-4.0, 4.0)]
    assert np.abs(bent[0] - bent[1]).max() > 0.05 * bent[0].max()
    assert [psf.sum() for psf in bent] == pytest.approx([1.0, 1.0])


def test_transfer_of_the_zero_frequency_is_one() -> None:
    assert transfer(pupil_psf(0.45, 0.461, 0.65, 8.0), (90, 96))[0, 0] == pytest.approx(1.0, abs=1e-5)
    assert haze_transfer((90, 96), 3.0)[0, 0] == 1.0


def test_image_holds_the_light_of_the_scene(crowd: Scene) -> None:
    """Blur moves light and makes none: photons over the medium add up to the scene's (but for the edge)."""
    flat = Microscope(vignetting=0.0)
    light = flat.fluorescence(crowd) / flat.photons - crowd.phenotype.medium
    inner = crowd.layers[0].density[32 : 32 + 1024, 32 : 32 + 1024]
    assert light.sum() == pytest.approx(inner.sum(), rel=0.01)


def test_artefacts_show_in_their_channel_and_bleed() -> None:
    junk = Phenotype(artefact_density=60.0, density=300.0)
    dirty, clean = (
        Scene.draw(6, (512, 512), phenotype=p) for p in (junk, Phenotype(artefact_density=0.0, density=300))
    )
    mask = dirty.artefact_mask()
    assert 0.002 < mask.mean() < 0.6
    assert np.array_equal(dirty.labels(), clean.labels())
    microscope = Microscope()
    seen = microscope.fluorescence(dirty, "artefacts")
    assert np.median(seen[mask]) > 3 * np.median(seen[~mask])
    bled = microscope.fluorescence(dirty) - microscope.fluorescence(clean)
    assert bled[mask & (dirty.labels() == 0)].mean() > 10 * abs(np.median(bled[~mask]))
    assert dirty.transmission is not None
    assert dirty.transmission.min() < 0.85


def test_fibres_take_light_from_nuclei() -> None:
    scenes = [
        Scene.draw(8, (512, 512), phenotype=Phenotype(artefact_density=d, debris_per_dead_cell=0.0))
        for d in (60.0, 0.0)
    ]
    only_dna = {"nuclei": type(Microscope().channels["nuclei"])(0.461, {"dna": 1.0})}
    dirty, clean = (Microscope(channels=only_dna).fluorescence(scene) for scene in scenes)
    assert dirty.sum() < 0.999 * clean.sum()
    assert (dirty <= clean + 1e-2 * clean.max()).all()


def test_shift_moves_counts_and_areas() -> None:
    base = Phenotype()
    assert base.shifted({"density": 0.5}, dose=0.0, ec50=1.0) == base
    assert base.shifted({"area": 4.0}, dose=3.0, ec50=3.0, hill=2.0).area == pytest.approx(base.area * 2.0)
    dosed = base.shifted(MODES_OF_ACTION["dna_damage"], dose=100.0, ec50=1.0)
    plain, shifted = (Scene.draw(3, (768, 768), phenotype=p).measurements() for p in (base, dosed))
    assert len(shifted) < 0.65 * len(plain)
    large = [t.loc[t["CellCycle_Phase"] == "G1", "AreaShape_Area"].median() for t in (plain, shifted)]
    assert large[1] / large[0] == pytest.approx(1.6, rel=0.15)
    for effect in MODES_OF_ACTION.values():
        assert base.shifted(effect, 1e6, 1.0).density < base.density
    extreme = base.shifted({"g2_fraction": 9.0, "mitotic_fraction": 9.0}, 1e9, 1.0)
    assert extreme.g2_fraction + extreme.mitotic_fraction + extreme.s_fraction + extreme.pyknotic_fraction <= 1 + 1e-9


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda s: Microscope().image(s, modality="xray"), "'xray'.*fluorescence"),
        (lambda s: Microscope().image(s, channel="actin"), "'actin'.*nuclei, artefacts"),
        (lambda s: Microscope(bits=13), "bits is 13"),
        (lambda s: Microscope(gain=0.0), "gain"),
        (lambda s: Microscope(haze=1.5), "haze"),
        (lambda s: Scene.draw(-1), "seed"),
        (lambda s: Scene.draw(0, (8, 8)), "at least 16"),
        (lambda s: Scene.draw(0, (64, 64), pixel_size=50.0), "pixel_size"),
        (lambda s: Phenotype(s_fraction=1.2), "s_fraction"),
        (lambda s: Phenotype(s_fraction=0.6, g2_fraction=0.6), "add up"),
        (lambda s: Phenotype().shifted({"colour": 2.0}, 1.0, 1.0), "'colour'.*density"),
        (lambda s: Phenotype().shifted({"area": -2.0}, 1.0, 1.0), "'area'"),
        (lambda s: Phenotype().shifted({"area": 2.0}, -1.0, 1.0), "dose"),
        (lambda s: Plate(wells=0), "wells is 0"),
        (lambda s: Plate(treatments={"Z99": Phenotype()}), "'Z99'"),
        (lambda s: Plate(wells=2).at("B09", 1), "'B09'"),
    ],
)
def test_bad_arguments_say_what_is_wrong(scene: Scene, call, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        call(scene)
