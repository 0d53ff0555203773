"""PhIRM against the authors' published behaviour, an independent version, and what it cannot see."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from hydra.utils import instantiate
from phirm_reference import draw_blobs, reference_factors, reference_phirm
from skimage.filters import threshold_otsu
from skimage.measure import label, regionprops

from phenokeep.checkpoint import allowed_targets
from phenokeep.imaging.segment import otsu
from phenokeep.metrics import AreaDifference, CountDifference, IntegratedIntensity, MatchedNuclei, PhIRM, Term, phirm
from phenokeep.metrics.components import PRESETS, Components, components, options_of
from phenokeep.metrics.terms import chosen_terms

PARITY = Path(__file__).parents[1].parent / "shared" / "parity"
needs_parity = pytest.mark.skipif(
    not (PARITY / "phirm_metric_images.npz").exists(), reason="../shared/parity/phirm_metric_images.npz is absent"
)


@pytest.fixture(scope="module")
def parity() -> tuple[dict, dict]:
    with np.load(PARITY / "phirm_metric_images.npz") as images:
        return dict(images), json.loads((PARITY / "phirm_metric_expected.json").read_text())


@needs_parity
def test_original_preset_is_the_authors_code(parity):
    images, expected = parity
    assert len(images) == 11
    for name, image in images.items():
        stats = expected["stats"][name]
        keys = ("otsu", "code_nuclei", "code_nuclei_area", "code_artefacts", "code_artefact_area")
        assert components(image, PRESETS["original"])[:5] == tuple(stats[key] for key in keys), name
        found = phirm(image, images["orig"])
        assert found["phirm"].item() == expected["scores_vs_orig"][name]["phirm"], name
        assert (found["nuclei_target"] - found["nuclei_prediction"]).item() == expected["scores_vs_orig"][name]["alpha"]


@needs_parity
def test_paper_preset_is_the_literal_reading(parity):
    images, expected = parity
    for name, image in images.items():
        assert list(components(image, PRESETS["paper"])[1:5]) == expected["stats"][name]["paper_literal"], name


@needs_parity
def test_count_penalty_of_the_authors_code(parity):
    for alpha, score in parity[1]["score_0_10_by_alpha_zero_areas"].items():
        penalty = CountDifference().penalty(10 - int(alpha), 10, PRESETS["original"])
        assert max(0.0, 10 - penalty) == pytest.approx(score, abs=1e-12)


@pytest.mark.parametrize("preset", ["original", "paper"])
def test_equals_the_independent_version(preset):
    scores, expected, artefacts = [], [], 0
    for seed in range(100):
        rng = np.random.default_rng(seed)
        size = int(rng.integers(40, 200))
        a, b = (draw_blobs(rng, size, int(rng.integers(0, 40))) for _ in range(2))
        found = components(a, PRESETS[preset])
        assert (found.nuclei, found.nuclei_area, found.artefact_area) == reference_factors(a, preset), seed
        artefacts += found.artefacts
        # little change, so that scores spread over [0, 1] and are not all 0
        b = np.where(np.arange(size) < size * 0.8, a, b)
        scores.append(phirm(b, a, preset)["phirm"].item())
        expected.append(reference_phirm(b, a, preset))
    np.testing.assert_allclose(scores, expected, rtol=0, atol=1e-12)
    assert artefacts > 15
    assert np.ptp(scores) > 0.9


def test_otsu_equals_scikit_image():
    rng = np.random.default_rng(0)
    for _ in range(200):
        image = rng.integers(0, rng.integers(1, 257), (rng.integers(1, 40), 9)).astype(np.uint8)
        assert otsu(image) == threshold_otsu(image)
    image = draw_blobs(rng) / np.float32(255) * 0.3 + 0.2
    assert ((image > otsu(image)) != (image > threshold_otsu(image))).mean() < 0.01
    with pytest.raises(ValueError, match="finite"):
        otsu(np.array([0.0, np.nan]))


def _assert_phirm_is_fooled(images: list[np.ndarray], mirror: Callable[[np.ndarray], np.ndarray]) -> None:
    metric, control = MatchedNuclei(), MatchedNuclei()
    for image in images:
        assert phirm(mirror(image), image)["phirm"].item() == 1.0
        for top, left in ((16, 16), (16, 112), (64, 64), (112, 16), (112, 112)):
            hole = np.zeros(image.shape, bool)
            hole[top : top + 128, left : left + 128] = True
            metric.update(prediction=mirror(image), mask=hole, target=image)
            control.update(prediction=image, mask=hole, target=image)
    found = metric.compute()
    assert found["tp"] + found["fn"] > 50
    assert found["f1"].item() < 0.15
    assert control.compute()["f1"].item() == 1.0


def test_is_blind_to_a_mirrored_image_and_matching_is_not():
    # No saturated pixel: where boxes of white patches overlap, a mirror changes the order of the authors' bleaching
    images = [(draw_blobs(np.random.default_rng(seed), 256, 25) * 0.9).astype(np.uint8) for seed in range(5)]
    _assert_phirm_is_fooled(images, lambda image: image[:, ::-1].copy())


@needs_parity
def test_is_blind_to_mirrored_parity_images(parity):
    # On the diagonal: these images hold 5 to 9 nuclei, which a left-right mirror happens to lay on each other
    names = ("orig", "lost_nucleus", "extra_nucleus", "extra3", "dimmed")
    _assert_phirm_is_fooled([parity[0][name] for name in names], lambda image: image.T.copy())


def test_shapes_and_ranges_agree():
    rng = np.random.default_rng(3)
    a, b = np.stack([draw_blobs(rng, 96, 8) for _ in range(3)]), np.stack([draw_blobs(rng, 96, 8) for _ in range(3)])
    expected = phirm(a, b)
    assert set(expected) == set(PhIRM.names)
    assert expected["phirm"].shape == (3,)
    for x, y in (
        (a[:, None], b[:, None]),
        (torch.from_numpy(a / np.float32(255))[:, None], torch.from_numpy(b / np.float32(255))[:, None]),
        (a / 255, b),
    ):
        for name, value in phirm(x, y).items():
            assert torch.equal(value, expected[name]), name
    two_channels = np.stack([np.zeros_like(a), a], axis=1), np.stack([np.zeros_like(b), b], axis=1)
    assert torch.equal(phirm(*two_channels, channel=1)["phirm"], expected["phirm"])
    assert phirm(a[0], b[0])["phirm"].shape == (1,)


@pytest.mark.parametrize("preset", ["original", "paper"])
@pytest.mark.parametrize("level", [0, 100, 255])
def test_constant_images_hold_no_component(preset, level):
    constant, blobs = np.full((64, 64), level, np.uint8), draw_blobs(np.random.default_rng(1), 64, 6)
    assert components(constant, PRESETS[preset])[:5] == (level, 0, 0, 0, 0)
    assert phirm(constant, constant, preset)["phirm"].item() == 1.0
    assert phirm(constant, constant, preset, rescale="target")["phirm"].item() == 1.0
    assert phirm(constant, blobs, preset)["nuclei_prediction"].item() == 0


def _square(side: int, value: int, size: int = 80) -> np.ndarray:
    image = np.full((size, size), 10, np.uint8)
    image[5 : 5 + side, 5 : 5 + side] = value
    return image


def test_each_option_does_what_it_says():
    def count(image, preset="original", **options):
        return components(image, options_of(preset, **options)).nuclei

    fifty = np.full((40, 40), 10, np.uint8)
    fifty[4:9, 4:14] = 100
    assert (count(fifty), count(fifty, keep_min_area=True), count(fifty, min_area=49)) == (0, 1, 1)
    big = _square(50, 150)
    assert (count(big), count(big, overlapping="area"), count(big, overlapping="area", overlap_area=2501)) == (1, 2, 1)
    assert count(big, overlapping="area", overlap_area=2500) == 2
    spot = _square(20, 150)
    spot[8, 8] = 255
    assert (count(spot, "paper"), count(spot, "paper", overlapping="area_or_saturated")) == (1, 2)
    corner = np.full((40, 40), 10, np.uint8)
    corner[5:13, 5:13] = corner[13:21, 13:21] = 100
    assert (count(corner), count(corner, connectivity=4)) == (1, 2)
    dim = _square(20, 200)
    dim[40:60, 40:60] = 109
    assert (count(dim, otsu_factor=1.0), count(dim, otsu_factor=10.95)) == (2, 1)

    frame = np.full((60, 60), 10, np.uint8)  # white L: its box is mostly background, which bleaching turns white
    frame[5:45, 5:12] = frame[38:45, 5:45] = 255
    assert components(frame, options_of()).artefacts == 1
    assert components(frame, options_of(bleach_below=0)).artefacts == 0
    assert components(frame, options_of(bleach_below=0, statistics="component")).artefacts == 1
    assert components(frame, options_of(bleach_below=0, artefact_mean=50)).artefacts == 1
    assert components(frame, options_of("paper", artefact_mean=255)).artefacts == 1

    white = _square(20, 60)
    white[50:70, 50:70] = 255
    one, two = white.copy(), white.copy()
    two[50:70, 50:70] = 10
    assert phirm(one, two)["nuclei_prediction"].item() == 0  # the artefact lifted the threshold over the nucleus
    assert phirm(one, two, shared_threshold=True)["nuclei_prediction"].item() == 1
    assert phirm(one, two, shared_threshold=True)["artefact_difference"].item() == 0.4


def test_formulas_floor_and_sign():
    three, none = np.full((80, 80), 10, np.uint8), np.full((80, 80), 10, np.uint8)
    for top in (5, 30, 55):
        three[top : top + 20, 10:30] = 150
    assert phirm(none, three)["count_difference"].item() == pytest.approx(3 * 1.1**3)
    assert phirm(none, three, formula="paper")["count_difference"].item() == pytest.approx(1.1**3)
    steep = {"count_difference": CountDifference(weight=1.5)}
    assert phirm(none, three, terms=steep)["count_difference"].item() == pytest.approx(3 * 1.5**3)
    assert phirm(three, none)["count_difference"].item() == 8
    assert phirm(three, none)["area_difference"].item() == pytest.approx(1200 * 0.0002)
    assert phirm(three, none, signed=True)["area_difference"].item() == pytest.approx(-1200 * 0.0002)
    heavy = {**chosen_terms(None), "area_difference": AreaDifference(weight=0.1)}
    assert phirm(three, none, terms=heavy)["phirm"].item() == 0.0
    assert phirm(three, none, terms=heavy, floor=None)["phirm"].item() == pytest.approx((10 - 8 - 120) / 10)


def test_pixel_constants_scale_with_pixel_size():
    image = np.full((80, 80), 10, np.uint8)
    image[5:14, 5:14] = 150  # 81 px: a nucleus at the reference, a speck on pixels half as large
    options = {"reference_pixel_size": 0.65}
    assert phirm(image, image, pixel_size=0.65, **options)["nuclei_target"].item() == 1
    assert phirm(image, image, pixel_size=0.325, **options)["nuclei_target"].item() == 0
    doubled = np.kron(image, np.ones((2, 2), np.uint8))
    other = np.full_like(doubled, 10)
    fine, coarse = (
        phirm(other, doubled, pixel_size=torch.tensor([[0.325, 0.325]]), **options),
        phirm(other[::2, ::2], image, pixel_size=[0.65, 0.65], **options),
    )
    for name in PhIRM.names:
        assert fine[name].item() == pytest.approx(coarse[name].item()), name
    assert phirm(image, image, pixel_size=0.1)["nuclei_target"].item() == 1  # no reference: nothing scales


def test_rescale_undoes_a_fixed_plate_range():
    truth = np.clip(draw_blobs(np.random.default_rng(5), 128, 8).astype(np.float32) / 255, 0, 0.9)
    truth = (truth - truth.min()) / np.ptp(truth)
    fill = truth * np.linspace(0.6, 1, 128, dtype=np.float32)
    narrow = phirm(0.1 + 0.05 * fill, 0.1 + 0.05 * truth, rescale="target")
    for name, value in phirm(fill, truth).items():
        assert value.item() == pytest.approx(narrow[name].item(), abs=0.01), name


def test_bad_input_is_refused():
    image = draw_blobs(np.random.default_rng(0), 64, 5)
    with pytest.raises(ValueError, match="differ in size"):
        phirm(image, image[:32])
    with pytest.raises(ValueError, match="NaN"):
        phirm(np.full((8, 8), np.nan), np.zeros((8, 8)))
    with pytest.raises(ValueError, match=r"floats must be in \[0, 1\]"):
        phirm(image.astype(float), image.astype(float))
    with pytest.raises(ValueError, match="uint8"):
        phirm(image.astype(np.int64), image.astype(np.int64))
    with pytest.raises(ValueError, match="otsu_facter"):
        PhIRM(otsu_facter=1.0)
    with pytest.raises(ValueError, match=r"count_weight.*terms"):
        PhIRM(count_weight=1.0)
    with pytest.raises(ValueError, match="no term left"):
        PhIRM(terms={"count_difference": None})
    with pytest.raises(ValueError, match="another result"):
        PhIRM(terms={"nuclei_target": CountDifference()})
    with pytest.raises(ValueError, match="'size' is a dict, not a Term"):
        PhIRM(terms={"size": {"weight": 1}})
    with pytest.raises(ValueError, match="weight is -1"):
        CountDifference(weight=-1)
    with pytest.raises(ValueError, match="of is 'cells'"):
        IntegratedIntensity(of="cells")
    with pytest.raises(ValueError, match="preset"):
        PhIRM("orginal")
    with pytest.raises(ValueError, match="statistics"):
        PhIRM(statistics="boxes")
    with pytest.raises(ValueError, match="pixel_size must be given"):
        phirm(image, image, reference_pixel_size=0.65)
    with pytest.raises(ValueError, match="channel 2"):
        phirm(image[None, None], image[None, None], channel=2)


def test_metric_averages_and_takes_a_whole_batch():
    rng = np.random.default_rng(9)
    a, b = np.stack([draw_blobs(rng, 96, 8) for _ in range(4)]), np.stack([draw_blobs(rng, 96, 8) for _ in range(4)])
    metric = PhIRM("paper", formula="code")
    metric.update(prediction=a[:3, None], target=b[:3, None], mask=np.ones(1), id=["x", "y", "z"])
    metric.update(prediction=a[3:, None], target=b[3:, None])
    for name, value in phirm(a, b, "paper", formula="code").items():
        assert metric.compute()[name].item() == pytest.approx(value.mean().item(), rel=1e-12), name


def _nuclei(*levels: int, background: int = 20) -> np.ndarray:
    """A column of 12x12 nuclei of these grey values."""
    image = np.full((20 * len(levels), 40), background, np.uint8)
    for number, level in enumerate(levels):
        image[20 * number + 4 : 20 * number + 16, 10:22] = level
    return image


def test_integrated_intensity_equals_a_plain_sum_over_regions():
    for seed in range(30):
        image = draw_blobs(np.random.default_rng(seed), 128, 12)
        found = components(image, PRESETS["paper"])
        outside = np.median(image[image <= threshold_otsu(image)])
        regions = regionprops(label(image > threshold_otsu(image), connectivity=2), intensity_image=image)
        expected = [
            region.area * (region.intensity_mean - outside)
            for region in regions
            if region.area >= 50 and not (region.intensity_max == 255 and region.intensity_mean >= 210)
        ]
        np.testing.assert_allclose(sorted(IntegratedIntensity().measure(found)), sorted(expected), rtol=1e-9)


def test_integrated_intensity_sees_what_count_and_area_do_not():
    def cost(prediction, target, of="total"):
        terms = {**chosen_terms(None), "integrated_intensity": IntegratedIntensity(of=of)}
        found = phirm(prediction, target, terms=terms)
        lost = sum(found[name].item() for name in terms)
        assert found["phirm"].item() == pytest.approx(max(0.0, (10 - lost) / 10))
        assert lost == found["integrated_intensity"].item()  # count and area are blind here
        assert phirm(prediction, target)["phirm"].item() == 1.0
        return found["integrated_intensity"].item()

    g1, half, g2 = _nuclei(120, 120, 120, 120), _nuclei(120, 120, 220, 220), _nuclei(220, 220, 220, 220)
    assert cost(g1, g1) == cost(g1, g1, "nuclei") == 0.0
    assert cost(g2, g1) == cost(g1, g2) == pytest.approx(10 * 0.5)  # twice the DNA above the background of 20
    assert cost(half, g1) == pytest.approx(10 / 3)
    assert cost(half, g1, "nuclei") == pytest.approx(10 * 0.5)  # half of the nuclei moved by one G1 nucleus
    even, uneven = _nuclei(170, 170, 170, 170), _nuclei(120, 220, 120, 220)
    assert cost(uneven, even) == 0.0  # the total is blind to a swap
    assert cost(uneven, even, "nuclei") == pytest.approx(10 * 50 / 150)
    assert cost(_nuclei(140, 140, 140, 140, background=40), g1) == 0.0  # background does not count
    term, none, one = IntegratedIntensity(weight=3.0), np.array([]), np.array([5.0])
    assert [term.penalty(a, b, options_of()) for a, b in ((none, none), (none, one), (one, none))] == [0.0, 3.0, 3.0]


def test_a_new_phenotype_is_a_new_term():
    class Brightest(Term):
        def measure(self, found: Components) -> float:
            return float(found.image[found.nucleus[found.labels]].max(initial=0))

    terms = {"count_difference": CountDifference(), "artefact_difference": None, "brightest": Brightest(weight=0.05)}
    metric = PhIRM(terms=terms)
    assert metric.names == ("phirm", "count_difference", "brightest", "nuclei_prediction", "nuclei_target")
    metric.update(prediction=_nuclei(120, 120, 100), target=_nuclei(120, 220, 120))
    found = metric.compute()
    assert found["brightest"].item() == pytest.approx(5.0)
    assert found["phirm"].item() == pytest.approx(0.5)
    assert PhIRM().names == PhIRM.names  # one metric's terms are not another's


def test_terms_come_from_the_config(config):
    a, b = (draw_blobs(np.random.default_rng(seed), 96, 8)[None, None] / np.float32(255) for seed in range(2))
    shipped = instantiate(config().metrics.phirm, _convert_="all").metric
    plain = PhIRM("original", rescale="target", reference_pixel_size=0.65)
    rows = [metric.measure(a, b, pixel_size=0.65) for metric in (shipped, plain)]
    assert list(rows[0]) == list(PhIRM.names)
    assert all(torch.equal(rows[0][name], rows[1][name]) for name in PhIRM.names)
    more = config("metrics=cell_cycle", "metrics.phirm.metric.terms.area_difference=null").metrics.phirm
    assert [*more.metric.terms] == [*plain.terms, "integrated_intensity"]
    assert [*instantiate(more.metric, _convert_="all").terms] == [
        "count_difference",
        "artefact_difference",
        "integrated_intensity",
    ]
    for node in filter(None, more.metric.terms.values()):
        assert node._target_ in allowed_targets()  # so that a checkpoint may carry it
