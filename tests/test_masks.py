"""Masks: bands exact by construction, the DeepFillV2 strokes equal to the public code's, dilation and errors."""

import math
from pathlib import Path

import numpy as np
import pytest
from hydra.utils import instantiate
from omegaconf import OmegaConf
from skimage.measure import label
from skimage.morphology import dilation, disk

from phenokeep.imaging import masks
from phenokeep.settings import check_settings

CONFIGS = Path(__file__).parents[1] / "configs/data/masks"
FIXTURE = Path(__file__).parents[1].parent / "shared" / "parity" / "dfv2_masks_seed0.npz"
SHAPES = [(256, 256), (255, 257), (37, 91), (128, 300), (16, 16)]


def share(mask):
    return sum(int(v) for row in mask.tolist() for v in row) / (len(mask) * len(mask[0]))


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("band", [*masks.PAPER_BANDS, (0.3, 0.34), (0.9, 1.0)])
def test_rectangle_lies_in_its_band_for_every_shape(shape, band):
    rng = np.random.default_rng(1)
    for _ in range(20):
        mask = masks.rectangle(rng, shape, band)
        assert mask.dtype == np.uint8
        assert mask.shape == shape
        assert band[0] <= share(mask) < band[1]
        rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
        assert mask[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1].all()  # one full rectangle


def test_band_of_a_single_pixel_count_is_reached_exactly():
    # 1000 pixels of 100 x 100: 0.1 is not a binary fraction, and only h * w = 1000 exactly is in the band.
    rng = np.random.default_rng(0)
    assert {int(masks.rectangle(rng, (100, 100), (0.1, 0.10001)).sum()) for _ in range(20)} == {1000}


def test_rectangles_use_the_whole_band_and_the_whole_image():
    rng = np.random.default_rng(2)
    drawn = np.stack([masks.rectangle(rng, (64, 64), (0.2, 0.3)) for _ in range(400)])
    areas = drawn.mean((1, 2))
    assert areas.min() < 0.21
    assert areas.max() > 0.29
    assert abs(areas.mean() - 0.25) < 0.005
    reached = drawn.any(0)
    assert reached.any(0).all()  # every row and column, borders included
    assert reached.any(1).all()
    ratios = np.array([m.any(1).sum() / m.any(0).sum() for m in drawn])
    assert ratios.min() < 0.6
    assert ratios.max() > 1.7


def test_squares_follow_the_original_side_rule():
    rng = np.random.default_rng(3)
    sides = []
    for _ in range(300):
        mask = masks.rectangle(rng, (256, 256), (0.3, 0.4), square=True)
        assert mask.any(1).sum() == mask.any(0).sum()
        sides.append(int(mask.any(1).sum()))
    assert min(sides) >= math.ceil(math.sqrt(0.3) * 256)
    assert max(sides) <= math.floor(math.sqrt(0.4) * 256)
    # side = sqrt(U) * 256 has the mean 256 * E[sqrt(U)] = 256 * (2 / 3) * (hi^1.5 - lo^1.5) / (hi - lo)
    assert np.mean(sides) == pytest.approx(256 * 2 / 3 * (0.4**1.5 - 0.3**1.5) / 0.1, abs=1)


@pytest.mark.skipif(not FIXTURE.exists(), reason="../shared/parity/dfv2_masks_seed0.npz is absent")
def test_free_form_equals_the_public_code_for_its_seed():
    fixture = np.load(FIXTURE)
    rng = np.random.RandomState(0)
    for packed in fixture["brush_np_seed0"]:
        np.testing.assert_array_equal(masks.brush_strokes(rng, (256, 256)), np.unpackbits(packed, axis=-1))
    box = masks.bounding_box(np.random.RandomState(0), (256, 256))
    np.testing.assert_array_equal(box, np.unpackbits(fixture["bbox_np_seed0"], axis=-1))


def test_free_form_is_the_union_of_box_and_strokes_with_the_published_areas():
    rng = np.random.RandomState(5)
    drawn = [masks.free_form(rng, (256, 256)).mean() for _ in range(300)]
    # Percentiles 5, 50 and 95 of 400 masks of the public code.
    np.testing.assert_allclose(np.percentile(drawn, (5, 50, 95)), (0.210, 0.308, 0.426), atol=0.03)
    one, two, three = (np.random.RandomState(6) for _ in range(3))
    union = masks.bounding_box(two, (256, 256)) | masks.brush_strokes(two, (256, 256))
    np.testing.assert_array_equal(masks.free_form(one, (256, 256)), union)
    strokes = masks.brush_strokes(three, (256, 256), strokes=(1, 2))
    assert label(strokes, connectivity=2).max() == 1


def test_box_is_drawn_in_by_up_to_half_of_max_delta_on_each_side():
    rng = np.random.RandomState(8)
    drawn = [masks.bounding_box(rng, (256, 256), box=(128, 96), max_delta=(32, 20)) for _ in range(300)]
    assert {128 - int(m.any(1).sum()) for m in drawn} == set(range(0, 33, 2))
    assert {96 - int(m.any(0).sum()) for m in drawn} == set(range(0, 21, 2))


def test_pixel_constants_grow_with_the_image():
    box = masks.bounding_box(np.random.RandomState(0), (512, 1024), max_delta=(0, 0))
    assert (box.any(1).sum(), box.any(0).sum()) == (256, 512)
    small = masks.bounding_box(np.random.RandomState(0), (512, 1024), max_delta=(0, 0), reference=512)
    assert (small.any(1).sum(), small.any(0).sum()) == (128, 256)
    rng = np.random.RandomState(1)
    large = np.mean([masks.brush_strokes(rng, (512, 512)).mean() for _ in range(100)])
    usual = np.mean([masks.brush_strokes(rng, (256, 256)).mean() for _ in range(100)])
    assert large == pytest.approx(usual, rel=0.2)


@pytest.mark.parametrize("pixels", [0, 4])
@pytest.mark.parametrize("kind", [masks.Rectangles, masks.FreeForm])
def test_drawn_masks_keep_their_band_dilation_included(kind, pixels):
    maker = kind(bands=[[0.1, 0.2], [0.4, 0.5]], dilation=pixels)
    assert maker.bands == ((0.1, 0.2), (0.4, 0.5))
    rng = np.random.default_rng(4)
    for shape in [(256, 256), (64, 96)]:
        for band in masks.PAPER_BANDS:
            assert all(band[0] <= maker.draw(rng, shape, band).mean() < band[1] for _ in range(10))
    drawn = [maker.draw(rng, (64, 64)).mean() for _ in range(40)]
    assert all(0.1 <= a < 0.2 or 0.4 <= a < 0.5 for a in drawn)
    assert min(drawn) < 0.2 < 0.4 < max(drawn)  # both bands are drawn
    again = [kind(bands=[[0.1, 0.2]], dilation=pixels).draw(np.random.default_rng(7), (64, 64)) for _ in range(2)]
    np.testing.assert_array_equal(*again)


def test_free_form_without_a_band_is_the_plain_draw():
    state = np.random.RandomState(np.random.default_rng(9).bit_generator)
    expected = masks.free_form(state, (256, 256), vertices=(4, 6))
    drawn = masks.FreeForm(vertices=[4, 6]).draw(np.random.default_rng(9), (256, 256))
    np.testing.assert_array_equal(drawn, expected)


def test_configs_are_the_published_holes():
    free_form, rectangles = (OmegaConf.load(CONFIGS / f"{name}.yaml") for name in ("free_form", "rectangles"))
    assert free_form.bands == rectangles.bands == [list(band) for band in masks.PAPER_BANDS]
    plain = instantiate(free_form, bands=None, _convert_="all").draw(np.random.default_rng(9), (256, 256))
    state = np.random.RandomState(np.random.default_rng(9).bit_generator)
    np.testing.assert_array_equal(plain, masks.free_form(state, (256, 256)))
    in_band = [maker.draw(np.random.default_rng(9), (256, 256), (0.2, 0.3)) for maker in
               (instantiate(free_form, _convert_="all"), masks.FreeForm())]  # fmt: skip
    np.testing.assert_array_equal(*in_band)


@pytest.mark.parametrize(("element", "footprint"), [("disk", disk(3)), ("square", np.ones((7, 7)))])
def test_dilation_equals_scikit_image(element, footprint):
    mask = (np.random.default_rng(0).random((50, 70)) < 0.01).astype(np.uint8)
    np.testing.assert_array_equal(masks.dilate(mask, 3, element), dilation(mask, footprint))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: masks.Rectangles(bands=[[0.3, 0.2]]), "0 <= lo < hi <= 1"),
        (lambda: masks.FreeForm(bands=[[0.5, 1.2]]), "0 <= lo < hi <= 1"),
        (lambda: masks.Rectangles(bands=[]), "at least one band"),
        (lambda: masks.Rectangles(dilation=-1), "dilation=-1"),
        (lambda: masks.Rectangles(aspect=[2, 1]), "smallest <= largest"),
        (lambda: masks.Rectangles(aspect=[1]), "smallest <= largest"),
        (lambda: masks.FreeForm(reference=0), "reference=0"),
        (lambda: masks.rectangle(np.random.default_rng(0), (4, 4), (0.1, 0.2)), "at least 8 pixels"),
        (lambda: masks.rectangle(np.random.default_rng(0), (9, 9), (0.26, 0.265)), "widen the band"),
        (lambda: masks.rectangle(np.random.default_rng(0), (64, 256), (0.4, 0.5), square=True), "square=False"),
        (lambda: masks.FreeForm(box=[30, 30]), "max_delta"),
        (lambda: masks.FreeForm(vertices=[12, 4]), "vertices"),
        (lambda: masks.FreeForm(bands=[[0.3, 0.30001]]).draw(np.random.default_rng(0), (32, 32)), "widen the band"),
        (lambda: masks.Rectangles(dilation=40).draw(np.random.default_rng(0), (64, 64)), "lower the dilation"),
    ],
)
def test_errors_name_the_mend(call, message):
    with pytest.raises(ValueError, match=message):
        call()


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("+data.masks.vertics=[4,12]", "data.masks.vertics .*vertices"),
        ("data.masks.vertices=4", "data.masks.vertices is 4: .* is meant"),
        ("data.masks.width=[12]", r"data.masks.width is \[12\]: .* is meant"),
        ("data.masks.vertices=[4.5,12]", "data.masks.vertices .* is meant"),
        ("data.masks.mean_angle=x", "data.masks.mean_angle is 'x': .* is meant"),
    ],
)
def test_options_of_strokes_are_checked_before_anything_is_built(option, message, config):
    cfg = config("data/masks=free_form", option)
    with pytest.raises(ValueError, match=message):
        check_settings(cfg, ("data",))
