"""Readouts and overlaps against scikit-image and by hand, Pearson against SciPy, metrics against plain functions."""

import warnings

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.stats import pearsonr
from skimage.draw import disk
from skimage.measure import regionprops_table

from phenokeep.callbacks import Measured, PhenotypeMetrics
from phenokeep.imaging.organelles import segment
from phenokeep.metrics import NucleusErOverlap, Pearson, Readouts, nucleus_er_overlap, pearson
from phenokeep.metrics.readouts import READOUTS, readouts
from phenokeep.studies.agreement import agreement_table

SIZE = 192
CENTRES = [(30, 40), (35, 120), (80, 80), (120, 30), (130, 150), (165, 95)]


def blobs(number: int, radius: float = 9, light: float = 0.6, seed: int = 0) -> np.ndarray:
    """A dim noisy field with some bright discs, in [0, 1]."""
    image = np.random.default_rng(seed).normal(0.1, 0.01, (SIZE, SIZE))
    for centre in CENTRES[:number]:
        image[disk(centre, radius)] += light
    return image.clip(0, 1).astype(np.float32)


def stack(*images: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.stack(images))[:, None]


@pytest.fixture(scope="module")
def batch() -> tuple[torch.Tensor, torch.Tensor]:
    """Prediction and target B 2 Y X: channel 1 has 4, 0 and 6 predicted objects, 5, 3 and 6 true ones."""
    other = torch.rand(3, 1, SIZE, SIZE, generator=torch.Generator().manual_seed(0))
    flat = np.full((SIZE, SIZE), 0.1, np.float32)
    predicted = stack(blobs(4, seed=1), flat, blobs(6, 8, 0.4, seed=2))
    true = stack(blobs(5, seed=3), blobs(3, seed=4), blobs(6, seed=5))
    return torch.cat([other, predicted], dim=1), torch.cat([other, true], dim=1)


def test_readouts_of_given_labels_are_those_of_scikit_image():
    rng = np.random.default_rng(1)
    image = rng.integers(0, 65536, (40, 50)).astype(np.uint16)
    labels = np.zeros(image.shape, np.int32)
    labels[2:9, 3:11], labels[20:30, 20:45], labels[35:, :5] = 7, 2, 30  # neither in order nor without gaps
    table = regionprops_table(labels, image, properties=("label", "area", "mean_intensity"))
    total = (table["area"] * table["mean_intensity"]).sum()
    expected = (3, table["area"].sum(), total, total / table["area"].sum())
    assert [readouts(image, "nuclei", labels)[name] for name in READOUTS] == pytest.approx(expected, rel=1e-12)
    with pytest.raises(ValueError, match="40x50"):
        readouts(image, "nuclei", labels[1:])


@pytest.mark.parametrize("organelle", ["nuclei", "er", "gfp", "golgi"])
def test_an_image_is_segmented_as_its_organelle(organelle):
    image = blobs(5)
    assert readouts(image, organelle) == readouts(image, "nuclei", segment(image, organelle))
    few = readouts(image, organelle, segmentation={"min_area": 1e9})
    assert (few["count"], few["area"], few["total_intensity"]) == (0, 0, 0)
    assert np.isnan(few["mean_intensity"])


def test_objects_are_counted_and_light_follows_the_unit():
    image = blobs(5)
    found = readouts(image, "nuclei")
    assert found["count"] == 5
    assert found["area"] == pytest.approx(5 * np.pi * 81, rel=0.05)
    assert found["mean_intensity"] == pytest.approx(0.7, rel=0.01)
    counts = readouts(image.astype(np.float64) * 4000 + 100, "nuclei")
    assert counts["area"] == found["area"]
    assert counts["total_intensity"] == pytest.approx(4000 * found["total_intensity"] + 100 * found["area"])


def test_rows_of_the_metric_are_the_plain_function(batch):
    prediction, target = batch
    rows = Readouts("nuclei", channel=1, segmentation={"min_area": 50}).measure(prediction, target)
    assert tuple(rows) == Readouts.names
    for side, images in (("predicted", prediction), ("true", target)):
        for number, image in enumerate(images[:, 1].numpy()):
            for name, value in readouts(image, "nuclei", segmentation={"min_area": 50}).items():
                assert rows[f"{name}_{side}"][number].item() == pytest.approx(value, nan_ok=True)
    assert rows["count_predicted"].tolist() == [4, 0, 6]
    assert rows["count_true"].tolist() == [5, 3, 6]
    assert rows["mean_intensity_predicted"].isnan().tolist() == [False, True, False]


def test_metrics_refuse_what_does_not_fit(batch):
    prediction, target = batch
    with pytest.raises(ValueError, match="2 channels, channel 2"):
        Readouts("nuclei", channel=2).measure(prediction, target)
    with pytest.raises(ValueError, match="same grid"):
        Readouts("nuclei").measure(prediction, target[..., 1:])
    with pytest.raises(ValueError, match="choose from nuclei"):
        Readouts("mitochondria").measure(prediction, target)
    with pytest.raises(ValueError, match="both 1"):
        NucleusErOverlap(1, 1)
    with pytest.raises(ValueError, match="B T Y X"):
        NucleusErOverlap().measure(prediction[:, 0], target[:, 0])
    with pytest.raises(ValueError, match="same grid"):
        NucleusErOverlap().measure(prediction[:1], target)
    with pytest.raises(ValueError, match="same grid"):
        pearson(prediction, target[..., 1:])


@pytest.mark.parametrize("make", [lambda: Readouts("nuclei", 1), lambda: NucleusErOverlap(0, 1), lambda: Pearson(1)])
def test_a_split_over_two_processes_equals_one_pass(make, batch):
    prediction, target = batch
    whole, first, second = make(), make(), make()
    whole.update(prediction=prediction, target=target)
    first.update(prediction=prediction[:1], target=target[:1])
    second.update(prediction=prediction[1:], target=target[1:])
    first.sums, first.counts = first.sums + second.sums, first.counts + second.counts  # what "sum" does over processes
    rows = whole.measure(prediction=prediction, target=target)
    for name, value in whole.compute().items():
        assert value.item() == pytest.approx(rows[name].nanmean().item(), rel=1e-12, nan_ok=True)
        assert first.compute()[name].item() == pytest.approx(value.item(), rel=1e-12, nan_ok=True)


def test_overlap_by_hand():
    nuclei, er = np.zeros((20, 20), int), np.zeros((20, 20), int)
    nuclei[2:6, 2:6], nuclei[10:14, 10:14], er[4:12, 2:12] = 1, 2, 5
    # Of 32 nuclear pixels 2 x 4 and 2 x 2 lie in the 80 of the ER.
    assert nucleus_er_overlap(nuclei, er) == pytest.approx({"share": 12 / 32, "jaccard": 12 / 100})
    assert nucleus_er_overlap(nuclei > 0, nuclei > 0) == {"share": 1, "jaccard": 1}
    assert nucleus_er_overlap(nuclei, er * 0) == {"share": 0, "jaccard": 0}
    no_nuclei, nothing = nucleus_er_overlap(nuclei * 0, er), nucleus_er_overlap(nuclei * 0, er * 0)
    assert np.isnan(no_nuclei["share"])
    assert no_nuclei["jaccard"] == 0
    assert np.isnan(list(nothing.values())).all()
    with pytest.raises(ValueError, match="20x20"):
        nucleus_er_overlap(nuclei, er[1:])


def test_overlap_of_a_batch_is_that_of_its_segmentations():
    nuclei, er = blobs(6, 8), blobs(5, 15, seed=1)
    target = torch.from_numpy(np.stack([er, nuclei]))[None]
    prediction = torch.from_numpy(np.stack([blobs(2, 15, seed=2), nuclei]))[None]
    rows = NucleusErOverlap(nuclei_channel=1, er_channel=0).measure(prediction, target)
    true = nucleus_er_overlap(segment(nuclei, "nuclei"), segment(er, "er"))
    assert {name: rows[f"{name}_true"].item() for name in true} == pytest.approx(true)
    assert rows["share_true"].item() == pytest.approx(5 / 6, abs=0.02)
    assert rows["share_predicted"].item() == pytest.approx(2 / 6, abs=0.02)
    assert rows["jaccard_predicted"].item() < rows["jaccard_true"].item()


def test_pearson_is_that_of_scipy_per_image_and_not_of_the_batch():
    rng = np.random.default_rng(2)
    target = rng.random((4, 1, 20, 30)) + np.arange(4)[:, None, None, None]
    prediction = target + rng.normal(0, 0.5, target.shape) - 0.8 * np.arange(4)[:, None, None, None]
    found = pearson(prediction, target)
    for number in range(4):
        a, b = prediction[number].ravel(), target[number].ravel()
        assert found["r"][number].item() == pytest.approx(pearsonr(a, b).statistic, rel=1e-12)
        assert found["mse"][number].item() == pytest.approx(np.mean((a - b) ** 2), rel=1e-12)
    assert pearson(-target, target)["r"].tolist() == [-1] * 4
    two = np.concatenate([target, prediction], axis=1)
    assert Pearson(1).measure(two, target.repeat(2, axis=1))["r"].tolist() == found["r"].tolist()
    halves = torch.from_numpy(target).bfloat16()
    assert pearson(halves, halves)["r"].tolist() == pytest.approx([1] * 4)


def test_constant_images_have_no_r_and_do_not_count():
    rng = np.random.default_rng(3)
    target = torch.from_numpy(rng.random((3, 1, 16, 16), dtype=np.float32))
    prediction = target + 0.1 * torch.rand(target.shape, generator=torch.Generator().manual_seed(4))
    prediction[1] = 0.1  # not a sum of powers of two: its mean in float64 is not quite itself
    metric = Pearson()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        metric.update(prediction=prediction, target=target)
        rows = metric.measure(prediction, target)
    assert rows["r"].isnan().tolist() == [False, True, False]
    assert rows["mse"].isfinite().all()
    assert metric.compute()["r"].item() == pytest.approx((rows["r"][0] + rows["r"][2]).item() / 2)
    assert metric.compute()["mse"].item() == pytest.approx(rows["mse"].mean().item())


def test_the_callback_keeps_what_agreement_reads(batch):
    prediction, target = batch
    callback = PhenotypeMetrics({"readouts": Measured(Readouts("nuclei", 1), ["prediction", "target"])})
    names = {"id": ["a", "b", "c"], "group": ["p:1", "p:1", "p:2"]}
    callback.on_test_batch_end(None, None, {"prediction": prediction}, {"target": target, **names})
    table = agreement_table(pd.DataFrame(callback.rows), "readouts", resamples=50).set_index("readout")
    assert table.loc["count", "bias"] == pytest.approx((4 + 0 + 6 - 5 - 3 - 6) / 3)
    assert table.loc["count", ["images", "wells", "nothing predicted"]].tolist() == [3, 2, 0]
    assert table.loc["mean_intensity", ["images", "nothing predicted", "nothing true"]].tolist() == [2, 1, 0]
    assert table.loc["mean_intensity", "reason"] == "2 images have both values, 3 are needed"
