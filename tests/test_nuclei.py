"""Matched nuclei against drawn scenes whose answer is known, an independent matching, and real crops with nulls."""

from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from phirm_reference import draw_blobs
from skimage.draw import disk, ellipse
from skimage.filters import threshold_otsu
from skimage.io import imread
from skimage.measure import label
from skimage.restoration import inpaint_biharmonic

from phenokeep.imaging.measure import measure
from phenokeep.imaging.segment import segment_nuclei
from phenokeep.metrics import MatchedNuclei, matched_nuclei

DATA = Path(__file__).parents[1].parent / "shared" / "data" / "bbbc039"
SIZE = 128
HOLE = np.zeros((SIZE, SIZE), bool)
HOLE[32:96, 32:96] = True


def _scene(*discs: tuple[float, float, float], size: int = SIZE) -> tuple[np.ndarray, np.ndarray]:
    """Draw discs (y, x, radius) on a dark, faintly noisy ground: image in [0, 1] and instances."""
    image = np.random.default_rng(0).normal(0.1, 0.01, (size, size))
    objects = np.zeros((size, size), np.int32)
    for name, (y, x, radius) in enumerate(discs, start=1):
        pixels = disk((y, x), radius, shape=image.shape)
        image[pixels] += 0.5
        objects[pixels] = name
    return image.astype(np.float32), objects


_KINDS = ("", "rim_", "inner_")
RIM, INNER = (64, 32, 10), (64, 64, 10)


def _counts(prediction, objects, target, **options) -> dict[str, list[int]]:
    found = matched_nuclei(prediction, HOLE, objects, target, **options)
    return {kind: [int(found[f"{kind}{key}"]) for key in ("tp", "fp", "fn")] for kind in _KINDS}


def test_counts_of_known_fills():
    truth, objects = _scene(RIM, INNER)
    assert _counts(truth, objects, truth) == {"": [2, 0, 0], "rim_": [1, 0, 0], "inner_": [1, 0, 0]}
    nothing = np.where(HOLE, np.float32(0.1), truth)
    assert _counts(nothing, objects, truth) == {"": [0, 0, 2], "rim_": [0, 0, 1], "inner_": [0, 0, 1]}
    moved = np.where(HOLE, _scene((64, 60, 10), (40, 85, 6), (85, 96, 8))[0], truth)
    # the inner one is found 4 px off; one is invented inside, and one at the edge; the rim one is lost
    assert _counts(moved, objects, truth) == {"": [1, 2, 1], "rim_": [0, 1, 1], "inner_": [1, 1, 0]}
    half = np.where(HOLE, _scene((64, 22, 10), INNER)[0], truth)  # the hidden half is missing, the visible one is there
    assert _counts(half, objects, truth)["rim_"] == [0, 0, 1]


def test_rim_is_matched_on_the_hidden_part_alone():
    truth, objects = _scene((64, 27, 10))  # a quarter hidden
    nothing = np.where(HOLE, np.float32(0.1), truth)
    whole_iou = ((nothing > 0.3) & (objects > 0)).sum() / (objects > 0).sum()
    assert whole_iou > 0.7  # matched whole, drawing nothing would pass
    assert _counts(nothing, objects, truth)["rim_"] == [0, 0, 1]
    detached = truth.copy()
    detached[:, 32] = 0.1  # the hidden part is drawn, but not on to the edge
    assert _counts(detached, objects, truth) == {"": [0, 1, 1], "rim_": [0, 0, 1], "inner_": [0, 1, 0]}


def test_match_needs_more_than_half_of_the_union():
    image = np.full((SIZE, SIZE), 0.1)
    truth, near, far = image.copy(), image.copy(), image.copy()
    truth[50:70, 50:70] = near[50:70, 56:76] = far[50:70, 57:77] = 0.6
    objects = (truth > 0.5).astype(np.int32)
    assert _counts(near, objects, truth)["inner_"] == [1, 0, 0]  # 280 / 520
    assert _counts(far, objects, truth)["inner_"] == [0, 1, 1]  # 260 / 540


def test_what_belongs_to_the_rim():
    truth, objects = _scene((64, 41, 10))  # reaches the hole's first column and nothing outside
    assert objects[64, 32] == 1
    assert _counts(truth, objects, truth) == {"": [1, 0, 0], "rim_": [0, 0, 0], "inner_": [1, 0, 0]}
    corner = np.zeros_like(HOLE)
    corner[:64, :64] = True
    truth, _ = _scene((100, 100, 10))
    invented = np.where(corner, _scene((4, 20, 10))[0], truth)  # at the image's border, which is no edge of the hole
    found = matched_nuclei(invented, corner, target=truth)
    assert (found["rim_fp"].item(), found["inner_fp"].item()) == (0, 1)


def test_small_parts_never_count_by_themselves():
    truth, objects = _scene((64, 24, 10))  # a sliver is hidden
    hidden = int((objects[HOLE] > 0).sum())
    assert 15 < hidden < 30
    nothing = np.where(HOLE, np.float32(0.1), truth)
    assert _counts(nothing, objects, truth)["rim_"] == [0, 0, 0]
    assert _counts(truth, objects, truth)["rim_"] == [0, 0, 0]
    assert _counts(truth, objects, truth, min_part=hidden)["rim_"] == [1, 0, 0]
    assert _counts(nothing, objects, truth, pixel_size=0.5)["rim_"] == [0, 0, 0]
    assert _counts(nothing, objects, truth, pixel_size=1.0)["rim_"] == [0, 0, 1]
    speck = np.where(HOLE, _scene((64, 64, 3))[0], truth)
    assert _counts(speck, objects, truth)["inner_"] == [0, 0, 0]
    assert _counts(speck, objects, truth, min_part=5)["inner_"] == [0, 1, 0]


def test_threshold_does_not_follow_the_fill():
    truth, objects = _scene(RIM, INNER, (10, 100, 10))
    truth *= 0.3
    bright = truth.copy()
    bright[78:95, 70:90] = 1.0  # junk five times as bright as the nuclei must not hide them
    assert (truth[objects > 0] < threshold_otsu(bright)).all()
    for target in (truth, None):
        assert _counts(bright, objects, target) == {"": [2, 1, 0], "rim_": [1, 0, 0], "inner_": [1, 1, 0]}


def test_equals_an_independent_matching():
    for seed in range(12):
        rng = np.random.default_rng(seed)
        truth, guess = ((draw_blobs(rng, 160, 14) * 0.9).astype(np.uint8) for _ in range(2))
        hole = np.zeros((160, 160), bool)
        top, left = rng.integers(0, 80, 2)
        hole[top : top + 80, left : left + 80] = True
        guess = np.where(hole, np.where(rng.random() < 0.5, guess, np.roll(truth, 3, axis=1)), truth)
        found = matched_nuclei(guess, hole, target=truth)

        threshold = threshold_otsu(truth)
        a, b = (segment_nuclei(x, threshold, min_area=0, smoothing=0) for x in (truth, guess))
        parts_a = {i: set(map(tuple, np.argwhere((a == i) & hole))) for i in set(a[hole]) - {0}}
        parts_b = {i: set(map(tuple, np.argwhere((b == i) & hole))) for i in set(b[hole]) - {0}}
        known = set(map(tuple, np.argwhere(~hole)))
        near = {(y + dy, x + dx) for y, x in known for dy in (-1, 0, 1) for dx in (-1, 0, 1)}
        touching = {i for i, part in parts_b.items() if part & near}
        rim = {i for i in parts_a if ((a == i) & ~hole).any()}
        pairs = [
            (i, j)
            for i, part in parts_a.items()
            for j, other in parts_b.items()
            if len(part & other) / len(part | other) > 0.5 and (i not in rim or j in touching)
        ]
        hit, used = {i for i, _ in pairs}, {j for _, j in pairs}
        large_a, large_b = ({i for i, part in parts.items() if len(part) >= 30} for parts in (parts_a, parts_b))
        for kind, wanted, drawn in (
            ("", large_a, large_b),
            ("rim_", large_a & rim, large_b & touching),
            ("inner_", large_a - rim, large_b - touching),
        ):
            tp, fp, fn = len(wanted & hit), len(drawn - used), len(wanted - hit)
            assert [found[f"{kind}{key}"].item() for key in ("tp", "fp", "fn")] == [tp, fp, fn], (seed, kind)
            if tp:
                assert found[f"{kind}precision"].item() == pytest.approx(tp / (tp + fp))
                assert found[f"{kind}f1"].item() == pytest.approx(tp / (tp + (fp + fn) / 2))


def test_metric_pools_counts_over_images_and_processes():
    truth, objects = _scene(RIM, INNER)
    empty, none = _scene()
    target = torch.tensor(np.stack([truth, truth, empty]))[:, None]
    instances = torch.tensor(np.stack([objects, objects, none]))[:, None]
    mask = torch.tensor(HOLE).expand(3, 1, -1, -1)
    prediction = target.clone()
    prediction[1] = torch.where(mask[1], 0.1, target[1])
    batch = {"prediction": prediction, "mask": mask, "objects": instances, "target": target, "pixel_size": None}
    rows = MatchedNuclei().measure(**batch)
    assert rows["rim_f1"][:2].tolist() == [1.0, 0.0]
    assert rows["precision"][1].isnan()
    assert rows["f1"].shape == (3,)

    whole, first, second = MatchedNuclei(), MatchedNuclei(), MatchedNuclei()
    whole.add(rows)
    first.update(**{key: value if value is None else value[:2] for key, value in batch.items()})
    second.update(**{key: value if value is None else value[2:] for key, value in batch.items()})
    first.sums, first.counts = first.sums + second.sums, first.counts + second.counts
    expected = {"tp": 2, "fn": 2, "recall": 0.5, "rim_recall": 0.5, "inner_tp": 1, "f1": 2 * 2 / (4 + 2)}
    for name in MatchedNuclei.names:
        assert whole.compute()[name].item() == pytest.approx(first.compute()[name].item(), nan_ok=True), name
        assert whole.compute()[name].item() == pytest.approx(expected.get(name, whole.compute()[name].item()))


def test_bad_input_is_refused():
    truth, objects = _scene(RIM)
    with pytest.raises(ValueError, match="needs the truth"):
        matched_nuclei(truth, HOLE)
    with pytest.raises(ValueError, match="objects 1x64x128"):
        matched_nuclei(truth, HOLE, objects[:64])
    with pytest.raises(ValueError, match="all hole"):
        matched_nuclei(truth, np.ones_like(HOLE), objects)
    with pytest.raises(ValueError, match="positive"):
        matched_nuclei(truth, HOLE, objects, pixel_size=0.0)


def _crops() -> list[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    crops = []
    for path in sorted((DATA / "images").glob("*.tif"))[5:80:6]:
        image, colours = imread(path)[:256, :256].astype(float), imread(DATA / "masks" / f"{path.stem}.png")[..., 0]
        objects = np.zeros(colours.shape, np.int32)
        for colour in range(1, colours.max() + 1):
            instances = label(colours == colour, connectivity=1)
            objects += np.where(instances > 0, instances + objects.max(), 0).astype(np.int32)
        hole = np.zeros((256, 256), bool)
        hole[60:188, 60:188] = True
        crops.append(((image - image.min()) / np.ptp(image), objects[:256, :256], hole))
    return crops


@pytest.mark.skipif(not DATA.exists(), reason="../shared/data/bbbc039 is absent")
def test_order_of_classical_fills_on_real_nuclei():
    totals = {name: MatchedNuclei() for name in ("truth", "nothing", "navier_stokes", "biharmonic", "mirror")}
    for image, objects, hole in _crops():
        eight_bit = np.rint(image * 255).astype(np.uint8)
        fills = {
            "truth": image,
            "nothing": np.where(hole, np.median(image), image),
            "navier_stokes": np.where(
                hole, cv2.inpaint(eight_bit, hole.view(np.uint8), 5, cv2.INPAINT_NS) / 255, image
            ),
            "biharmonic": inpaint_biharmonic(image, hole),
            "mirror": image[:, ::-1],
        }
        for name, metric in totals.items():
            metric.update(prediction=fills[name], mask=hole, objects=objects, target=image)
    f1 = {name: metric.compute()["rim_f1"].item() for name, metric in totals.items()}
    assert f1["nothing"] == 0
    assert f1["mirror"] < 0.15
    assert f1["navier_stokes"] < f1["biharmonic"] - 0.1
    assert 0.35 < f1["biharmonic"] < 0.65
    assert f1["truth"] > 0.9


def test_touching_nuclei_are_split_and_specks_dropped():
    image, objects = _scene((40, 40, 12), (40, 61, 12), (90, 90, 9), (100, 20, 2))
    labels = segment_nuclei(image)
    assert labels.dtype == np.int32
    assert set(np.unique(labels)) == {0, 1, 2, 3}
    for name in (1, 2, 3):
        inside = labels[objects == name]
        assert (inside == np.bincount(inside).argmax()).mean() > 0.9
    assert segment_nuclei(image, min_area=5, smoothing=0).max() == 4
    assert segment_nuclei(image, threshold=2.0).max() == 0
    assert segment_nuclei(np.full((20, 20), 0.5)).max() == 0
    assert (segment_nuclei(np.full((20, 20), 0.5), threshold=0.1) == 1).all()
    with pytest.raises(ValueError, match="Y X"):
        segment_nuclei(image[None])


def test_an_empty_field_holds_no_nucleus_and_shows_an_invented_one():
    empty, none = _scene()
    assert segment_nuclei(empty).max() == 0
    assert _counts(empty, none, empty) == _counts(empty, None, empty) == {kind: [0, 0, 0] for kind in _KINDS}
    invented = np.where(HOLE, _scene(INNER)[0], empty)
    for objects, target in ((none, empty), (none, None), (None, empty)):
        assert _counts(invented, objects, target)["inner_"] == [0, 1, 0]


def test_segmentation_scales_with_pixel_size():
    image, _ = _scene((40, 40, 12), (40, 61, 12), (90, 90, 9), (100, 20, 3))  # the last is under the smallest area
    fine = np.kron(image, np.ones((3, 3), np.float32))
    coarse, labels = segment_nuclei(image), segment_nuclei(fine, pixel_size=0.65 / 3)
    assert labels.max() == coarse.max() == 3
    assert (labels[1::3, 1::3] == coarse).mean() > 0.98


def test_dark_nucleoli_are_filled_and_background_pockets_are_not():
    image, _ = _scene((64, 64, 30))
    image[disk((64, 64), 4)] = 0.1
    assert segment_nuclei(image, smoothing=0)[64, 64] == 1
    image[disk((64, 64), 10)] = 0.1
    assert segment_nuclei(image, smoothing=0)[64, 64] == 0


def test_measurements_of_an_ellipse():
    labels = np.zeros((100, 120), np.int32)
    labels[ellipse(50, 60, 20, 40)] = 7
    image = np.linspace(0, 1, labels.size).reshape(labels.shape)
    row = measure(labels, image).iloc[0]
    pixels = labels > 0
    assert row["ObjectNumber"] == 7
    assert row["AreaShape_Area"] == pixels.sum()
    assert row["AreaShape_Area"] == pytest.approx(np.pi * 20 * 40, rel=0.02)
    assert row["AreaShape_Eccentricity"] == pytest.approx(np.sqrt(1 - 0.25), abs=0.01)
    assert row["AreaShape_Solidity"] > 0.97
    assert (row["Location_Center_Y"], row["Location_Center_X"]) == pytest.approx((50, 60))
    assert row["Intensity_MeanIntensity_DNA"] == pytest.approx(image[pixels].mean())
    assert row["Intensity_IntegratedIntensity_DNA"] == pytest.approx(image[pixels].sum())

    micrometres = measure(labels, image, pixel_size=(0.5, 0.25), channel="ER").iloc[0]
    assert micrometres["AreaShape_Area"] == pytest.approx(pixels.sum() * 0.125)
    assert micrometres["AreaShape_MajorAxisLength"] == pytest.approx(micrometres["AreaShape_MinorAxisLength"], rel=0.02)
    assert micrometres["Location_Center_X"] == pytest.approx(60)
    assert micrometres["Intensity_IntegratedIntensity_ER"] == pytest.approx(image[pixels].sum())
    empty = measure(np.zeros((5, 5), np.int32), np.zeros((5, 5)))
    assert len(empty) == 0
    assert list(empty.columns) == list(measure(labels, image).columns)
    with pytest.raises(ValueError, match="one size"):
        measure(labels, image[:5])
