"""Fills: known pixels untouched, no look into the hole, and each method against an independent computation."""

import inspect

import cv2
import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from scipy import ndimage
from skimage.restoration import inpaint_biharmonic
from torch.utils.data import DataLoader

from phenokeep.imaging import fills, masks
from phenokeep.models.fills import METHODS, NEEDS, Fill


def cells(seed, side=64):
    rng = np.random.default_rng(seed)
    image = ndimage.gaussian_filter(rng.random((side, side)), 4)
    image = (image - image.min()) / (image.max() - image.min())
    return (image + rng.normal(0, 0.01, image.shape)).clip(0, 1).astype(np.float32)


IMAGE, DONOR = cells(0), cells(1)
BOX = np.zeros((64, 64), np.uint8)
BOX[10:40, 20:45] = 1
IRREGULAR = masks.FreeForm().draw(np.random.default_rng(2), (64, 64), (0.2, 0.3))
EXTRAS = {"other_field": (DONOR,), "rotated_hole": (IMAGE,)}


@pytest.mark.parametrize("mask", [BOX, IRREGULAR], ids=["box", "irregular"])
@pytest.mark.parametrize("method", METHODS)
def test_known_pixels_stay_and_only_the_rotated_hole_knows_the_hidden_ones(method, mask):
    fill, extra = getattr(fills, method), EXTRAS.get(method, ())
    filled = fill(IMAGE, mask, *extra)
    assert filled.dtype == np.float32
    assert np.isfinite(filled).all()
    np.testing.assert_array_equal(filled[mask == 0], IMAGE[mask == 0])
    for hidden in (0.0, 1.0, np.nan):
        other = np.where(mask == 1, np.float32(hidden), IMAGE)
        np.testing.assert_array_equal(fill(other, mask, *extra), filled)
    changed = np.where(mask == 1, np.float32(0.5), IMAGE)
    if method == "rotated_hole":
        assert not np.array_equal(fill(IMAGE, mask, changed), filled)


def test_background_median_and_other_field():
    known = sorted(float(IMAGE[y, x]) for y in range(64) for x in range(64) if not BOX[y, x])
    middle = (known[(len(known) - 1) // 2] + known[len(known) // 2]) / 2
    filled = fills.background_median(IMAGE, BOX)
    np.testing.assert_allclose(filled[BOX == 1], middle, atol=1e-6)
    filled = fills.other_field(IMAGE, BOX, DONOR)
    np.testing.assert_array_equal(filled[BOX == 1], DONOR[BOX == 1])


def test_rotated_rectangle_is_turned_in_place():
    filled = fills.rotated_hole(IMAGE, BOX, IMAGE)
    np.testing.assert_array_equal(filled[10:40, 20:45], np.rot90(IMAGE[10:40, 20:45], 2))


def test_rotated_irregular_holes_turn_one_by_one_and_fall_back_on_the_background():
    mask = np.zeros((64, 64), np.uint8)
    mask[5:15, 5:25] = 1
    mask[10:15, 20:25] = 0  # an L: the missing corner turns onto (5:10, 5:10)
    mask[40:50, 30:37] = 1
    filled = fills.rotated_hole(IMAGE, mask, IMAGE)
    np.testing.assert_array_equal(filled[40:50, 30:37], IMAGE[40:50, 30:37][::-1, ::-1])
    median = np.median(IMAGE[mask == 0])
    for y in range(5, 15):
        for x in range(5, 25):
            if mask[y, x]:
                from_y, from_x = 19 - y, 29 - x
                expected = IMAGE[from_y, from_x] if mask[from_y, from_x] else median
                assert filled[y, x] == np.float32(expected)


def test_holes_that_touch_at_a_corner_turn_as_one():
    mask = np.zeros((64, 64), np.uint8)
    mask[5:15, 5:15] = mask[15:25, 15:25] = 1
    filled = fills.rotated_hole(IMAGE, mask, IMAGE)
    np.testing.assert_array_equal(filled[5:15, 5:15], IMAGE[15:25, 15:25][::-1, ::-1])


def test_opencv_fills_equal_opencv_in_16_bits_and_lie_near_8_bits():
    for fill, flag in ((fills.telea, cv2.INPAINT_TELEA), (fills.navier_stokes, cv2.INPAINT_NS)):
        for mask in (BOX, IRREGULAR):
            filled = fill(IMAGE, mask)
            known = IMAGE[mask == 0].astype(float)
            span = known.max() - known.min()
            counts = np.rint((IMAGE.astype(float) - known.min()) / span * 65535).clip(0, 65535).astype(np.uint16)
            expected = cv2.inpaint(counts, mask, 3, flag) / 65535 * span + known.min()
            # One count of rounding among the known pixels may tip OpenCV's order of visits: means, not maxima.
            assert np.abs(filled - expected)[mask == 1].mean() < 1e-3
            bytes_ = cv2.inpaint(np.rint(IMAGE * 255).astype(np.uint8), mask, 3, flag) / 255
            assert np.abs(filled - bytes_).mean() < 0.02
            assert known.min() <= filled.min() <= filled.max() <= known.max()


def test_opencv_fills_continue_a_plain_level_and_values_beyond_one():
    flat = np.full((64, 64), 0.3, np.float32)
    np.testing.assert_array_equal(fills.telea(flat, BOX), flat)
    beyond = IMAGE * 3 - 1
    scaled = fills.navier_stokes(IMAGE, BOX) * 3 - 1
    np.testing.assert_allclose(fills.navier_stokes(beyond, BOX), scaled, atol=2e-3)


def test_biharmonic_equals_scikit_image_and_solves_the_equation():
    filled = fills.biharmonic(IMAGE, BOX)
    reference = inpaint_biharmonic(IMAGE.astype(np.float64), BOX.astype(bool))
    np.testing.assert_allclose(filled, reference, atol=1e-6)
    # A plane has no bending: it must be found again where it is hidden.
    y, x = np.mgrid[:64, :64]
    plane = (0.1 + 0.004 * y + 0.006 * x).astype(np.float32)
    np.testing.assert_allclose(fills.biharmonic(plane, BOX), plane, atol=1e-4)


@pytest.mark.parametrize("method", METHODS)
def test_nothing_hidden_gives_the_image_back(method):
    filled = getattr(fills, method)(IMAGE, np.zeros_like(BOX), *EXTRAS.get(method, ()))
    np.testing.assert_array_equal(filled, IMAGE)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: fills.telea(IMAGE, BOX[:-1]), "mask has shape"),
        (lambda: fills.telea(IMAGE[None], BOX[None]), "one channel"),
        (lambda: fills.other_field(IMAGE, BOX, DONOR[:5]), "donor has shape"),
        (lambda: fills.biharmonic(IMAGE, np.ones_like(BOX)), "smaller hole"),
        (lambda: fills.navier_stokes(np.full_like(IMAGE, np.nan), BOX), "NaN"),
        (lambda: Fill("median"), "choose one of background_median, other_field"),
    ],
)
def test_errors_name_the_mend(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def batch():
    target = torch.from_numpy(np.stack([[cells(3), cells(4)], [cells(5), cells(6)]]))
    mask = torch.from_numpy(np.stack([BOX, IRREGULAR])[:, None]).float()
    return {"source": target.clone(), "target": target, "donor": target.flip(0), "mask": mask, "id": ["a", "b"]}


@pytest.mark.parametrize("method", METHODS)
def test_model_fills_every_channel_by_its_function(method):
    model, data = Fill(method), batch()
    assert (model.name, model.kind) == (method, METHODS[method])
    assert list(model.parameters()) == []
    prediction = model.test_step(data, 0)["prediction"]
    assert prediction.shape == data["source"].shape
    assert prediction.dtype == torch.float32
    for sample in range(2):
        for channel in range(2):
            extra = [data[NEEDS[method]][sample, channel].numpy()] if method in NEEDS else []
            hole = data["mask"][sample, 0].numpy()
            expected = getattr(fills, method)(data["source"][sample, channel].numpy(), hole, *extra)
            np.testing.assert_array_equal(prediction[sample, channel].numpy(), expected)


def test_model_runs_under_a_trainer_and_names_a_missing_key():
    seen = []

    class Keep(pl.Callback):
        def on_test_batch_end(self, trainer, module, outputs, batch, batch_idx, dataloader_idx=0):
            seen.append(outputs["prediction"])

    trainer = pl.Trainer(
        accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False, callbacks=[Keep()]
    )
    loader = DataLoader([batch()], batch_size=None)
    trainer.test(Fill("telea"), loader, verbose=False)
    assert len(seen) == 1
    data = batch()
    del data["donor"]
    with pytest.raises(KeyError, match="lacks donor"):
        Fill("other_field").test_step(data, 0)


def test_every_fill_of_the_room_is_a_method():
    public = {name for name, _ in inspect.getmembers(fills, inspect.isfunction) if not name.startswith("_")}
    assert {n for n in public if getattr(fills, n).__module__ == fills.__name__} == set(METHODS)
