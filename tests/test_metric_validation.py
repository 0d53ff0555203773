"""The metric validation: readouts by hand, metrics whose answer is known, the whole study on a small drawn plate."""

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from hydra import compose, initialize_config_module
from hydra.utils import instantiate
from scipy.ndimage import gaussian_filter

from phenokeep.imaging import manipulations as change
from phenokeep.metrics import HoleErrors, ImageMetric, MatchedNuclei, PhIRM
from phenokeep.studies.manipulated import GRADED, choose, judge, manipulated
from phenokeep.studies.metric_validation import MetricValidation
from phenokeep.studies.readouts import (
    cycle_losses,
    g1_g2,
    g1_mode,
    matched_f1,
    picture_losses,
    read,
    severity,
)
from phenokeep.studies.subject import Subject

SIDE, WELLS, PER_WELL = 128, 4, 2
LEVELS = (0.1, 0.4, 0.8)
CENTRES = [(y, x) for y in (24, 64, 104) for x in (24, 64, 104)]


def drawn(seed, centres=CENTRES, radius=7):
    """Discs of two DNA contents on a noisy background, and their labels."""
    rng = np.random.default_rng(seed)
    yy, xx = np.mgrid[:SIDE, :SIDE]
    labels, light = np.zeros((SIDE, SIDE), np.int32), np.zeros((SIDE, SIDE))
    for number, (y, x) in enumerate(centres, start=1):
        inside = np.hypot(yy - y - rng.integers(-3, 4), xx - x - rng.integers(-3, 4)) <= radius
        labels[inside] = number
        light[inside] = (0.3 if number % 3 else 0.6) * rng.uniform(0.85, 1.15)
    image = 0.1 + gaussian_filter(light, 1.2) + rng.normal(0, 0.005, light.shape)
    return image.clip(0, 1).astype(np.float32), labels


class Drawn:
    """Stands in for a DataModule: test patches of some wells."""

    def __init__(self, known=True, centres=CENTRES):
        self.index = pd.DataFrame({"group": [f"p:w{well}" for well in range(WELLS)]})
        self.known, self.centres = known, centres

    def patches(self, split):
        assert split == "test"
        return DrawnPatches(self)


class DrawnPatches:
    def __init__(self, owner):
        self.owner = owner
        self.windows = [(well, 0, x) for well in range(WELLS) for x in range(PER_WELL)]

    def __len__(self):
        return len(self.windows)

    def __getitem__(self, key):
        well, _, x = self.windows[key[1]]
        image, labels = drawn(10 * well + x, self.owner.centres)
        item = {"id": f"w{well}_{x}", "group": f"p:w{well}", "target": torch.from_numpy(image[None])}
        item["pixel_size"] = torch.full((2,), 0.65)
        return item | ({"objects": torch.from_numpy(labels[None])} if self.owner.known else {})


class Given(ImageMetric):
    """A metric that is told what to answer."""

    names = ("value",)

    def __init__(self, answer):
        super().__init__()
        self.answer = answer

    def measure(self, prediction, target):
        pairs = zip(prediction[:, 0].numpy(), target[:, 0].numpy(), strict=True)
        return {"value": torch.tensor([self.answer(*pair) for pair in pairs])}


METRICS = {
    "PhIRM": {"metric": PhIRM(), "key": "phirm"},
    "pixels": {"metric": HoleErrors(), "key": {"PSNR": "psnr", "SSIM": "ssim"}},
    "matched F1": {"metric": MatchedNuclei(), "key": "f1", "in_severity": True},
}


METRICS_FAST = {"PhIRM": METRICS["PhIRM"]}


def study(metrics=METRICS, **options):
    return MetricValidation(metrics, **{"images": 8, "levels": LEVELS, "n_bootstrap": 60, **options})


# --- readouts ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("removed", [0, 1, 4, 9])
def test_f1_of_removed_nuclei_is_that_computed_by_hand(removed):
    _, labels = drawn(0)
    kept = np.where(labels > 9 - removed, 0, labels)
    assert matched_f1(labels, kept) == pytest.approx(2 * (9 - removed) / (9 + 9 - removed))


def test_f1_wants_more_than_half_of_the_union():
    first, second = np.zeros((2, 4, 30), np.int32)
    first[:, :12], second[:, 4:16] = 7, 300  # 8 of 16 columns in common: not more than half
    assert matched_f1(first, second) == 0
    second[:, 3:15] = 300
    second[:, 15:] = 0
    assert matched_f1(first, second) == 1
    assert np.isnan(matched_f1(np.zeros((4, 4), np.int32), np.zeros((4, 4), np.int32)))


def test_integrated_dna_is_background_subtracted_and_leaves_cut_nuclei_out_of_the_distribution():
    image = np.full((20, 20), 0.2)
    labels = np.zeros((20, 20), np.int32)
    labels[2:4, 2:4], labels[8:10, 8:11], labels[0:2, 18:20] = 1, 5, 2
    image[labels == 1], image[labels == 5], image[labels == 2] = 0.5, 0.4, 0.3
    reading = read(image, labels)
    assert reading.dna == pytest.approx([4 * 0.3, 6 * 0.2])
    assert reading.total == pytest.approx(1.2 + 1.2 + 4 * 0.1)
    assert read(image, np.ones((20, 20), np.int32)).total == pytest.approx((image - 0.2).sum())


def test_losses_of_a_picture():
    image, labels = drawn(0)
    whole = read(image, labels)
    same = picture_losses(whole, whole)
    assert [same[key] for key in ("nuclei loss", "DNA total loss", "DNA distribution loss")] == [0, 0, 0]
    empty = picture_losses(whole, read(image, np.zeros_like(labels)))
    assert [empty[key] for key in ("nuclei loss", "DNA total loss", "DNA distribution loss")] == [1, 1, 1]
    dim = np.where(labels % 3 == 0, 0, labels)  # without the bright third
    third = picture_losses(whole, whole._replace(labels=dim, total=whole.total / 2, dna=np.sort(whole.dna)[:6]))
    assert third["nuclei loss"] == pytest.approx(1 - 12 / 15)
    assert third["DNA loss"] == pytest.approx((1 / 2 + 1 / 3) / 2)


def test_g1_mode_and_ratio_of_a_drawn_population():
    rng = np.random.default_rng(0)
    dna = np.r_[rng.normal(40, 3, 300), rng.normal(80, 5, 100)]
    assert g1_mode(dna) == pytest.approx(40, rel=0.04)
    assert g1_mode(7 * dna) == pytest.approx(7 * g1_mode(dna), rel=0.01)
    assert g1_g2(dna, g1_mode(dna)) == pytest.approx(300.5 / 100.5, rel=0.03)
    assert np.isnan(g1_mode(dna[:29]))


def test_cell_cycle_loss_is_that_of_the_well_and_undefined_where_nuclei_are_few():
    rng = np.random.default_rng(0)
    rich = np.r_[rng.normal(40, 2, 40), rng.normal(80, 3, 20)]
    poor = rng.normal(40, 2, 10)
    unchanged = {"a": rich, "b": rich, "c": poor}
    pictures = pd.DataFrame({"id": list("abc"), "group": ["p:1", "p:1", "p:2"], "change": "x", "level": 1.0})
    halved = np.r_[rich[:40], rich[40:50]]  # half of G2 is gone
    losses = cycle_losses(pictures, [halved, halved, poor], unchanged)
    before, after = 80.5 / 40.5, 80.5 / 20.5
    assert losses[:2] == pytest.approx(1 - before / after)
    assert np.isnan(losses[2])
    assert cycle_losses(pictures, [3 * rich, 3 * rich, poor], unchanged)[:2] == pytest.approx(0, abs=1e-9)  # gain
    assert cycle_losses(pictures, [rich[:0], rich[:0], poor], unchanged)[:2].tolist() == [1, 1]


def test_severity_is_the_mean_of_the_defined_losses():
    table = pd.DataFrame({"nuclei loss": [0.3, 0.3], "DNA loss": [0.6, 0.6], "cell cycle loss": [0.9, np.nan]})
    assert severity(table) == pytest.approx([0.6, 0.45])


# --- the study --------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def result(tmp_path_factory):
    """The whole study, with a sheet for raters."""
    folder = tmp_path_factory.mktemp("rating") / "new"
    return study(rating_sheet=str(folder), rating_pictures=20).run(Subject(Drawn())), folder


@pytest.fixture(scope="module")
def judged(result):
    """The originals, and every picture with severity and scores."""
    originals, passed_over = choose(Drawn(), 8, 0)
    assert passed_over == 0
    return originals, result[0].tables["per_image"]


def test_every_change_is_there_and_severity_grows_with_it(judged):
    originals, images = judged
    assert len(originals) == 8
    original = images[images["set"] == "original"]
    assert (original[["severity", "severity by labels"]] == 0).all(axis=None)
    assert images["severity"].between(0, 1).all()
    means = images[images["set"] == "graded"].groupby(["change", "level"])["severity"].mean().unstack()
    assert set(means.index) == set(GRADED)
    assert (means.diff(axis=1).iloc[:, 1:] > 0).all(axis=None)
    assert set(images.loc[images["set"] == "trap", "change"]) >= {"1 lost, 1 invented", "30 % relocated"}
    assert (images.loc[images["set"] == "decoy", "F1 by labels"] > 0.99).all()
    assert images["picture"].is_unique


def test_f1_by_labels_is_the_removal_by_hand(judged):
    _, images = judged
    missing = images[images["change"] == "nuclei missing"].set_index("level")["F1 by labels"]
    for level, gone in zip(LEVELS, (1, 4, 7), strict=True):
        assert missing.loc[level].to_numpy() == pytest.approx(2 * (9 - gone) / (18 - gone))


@pytest.mark.parametrize("higher", [True, False])
def test_a_metric_equal_to_severity_correlates_with_one(judged, higher):
    _, images = judged
    asked = study({"given": {"metric": Given(lambda p, t: 0.0), "key": "value", "higher_is_better": higher}})
    images = images.assign(given=(1 - images["severity"]) if higher else images["severity"])
    row = asked._correlations(images).iloc[0]
    assert row[["Spearman", "tau-b", "Spearman low"]].tolist() == pytest.approx([1, 1, 1])


def test_a_metric_of_noise_correlates_with_nothing(judged):
    _, images = judged
    asked = study({"noise": {"metric": Given(lambda p, t: 0.0), "key": "value"}}, n_bootstrap=300)
    images = images.assign(noise=np.random.default_rng(0).normal(size=len(images)))
    row = asked._correlations(images).iloc[0]
    assert abs(row["Spearman"]) < 0.2
    assert row["Spearman low"] < 0 < row["Spearman high"]


def test_decoys_and_traps_by_metrics_whose_answer_is_known(judged):
    _, images = judged
    images = images.copy()
    blind = {"metric": Given(lambda p, t: 0.0), "key": "value"}
    asked = study({"blind": blind, "squared": blind, "places": blind})
    harmless = images["set"].isin(["decoy", "original"])
    images["squared"] = -np.where(harmless & (images["set"] == "decoy"), 1.0, 0.1 * images["level"])
    images["places"] = np.where(harmless, 1.0, 0.5)
    images["blind"] = np.where(images["set"] == "graded", 0.0, 1.0)
    decoys = asked._decoys(images).groupby("metric")["verdict"].unique()
    assert decoys["squared"].tolist() == ["fooled"]
    assert decoys["places"].tolist() == ["not fooled"]
    traps = asked._traps(images).groupby("metric")[["unnoticed", "below a decoy"]].mean()
    assert traps.loc["places"].tolist() == [0, 0]
    assert traps.loc["blind"].tolist() == [1, 1]
    assert traps.loc["squared"].tolist() == [0, 1]  # the traps cost it less than any decoy does


def test_scores_are_those_of_the_metric_itself(judged):
    originals, images = judged
    original = originals[3]
    rows = images[images["id"] == original.id].set_index(["change", "level"])
    for picture in manipulated(original, LEVELS, 0):
        row = rows.loc[(picture.change, picture.level)]
        pair = [torch.from_numpy(part.image)[None, None] for part in (picture.specimen, original.specimen)]
        direct = HoleErrors().measure(*pair, torch.ones_like(pair[0]))
        assert row["PSNR"] == pytest.approx(float(direct["psnr"]))
        assert row["SSIM"] == pytest.approx(float(direct["ssim"]))
        assert row["PhIRM"] == pytest.approx(float(PhIRM().measure(*pair)["phirm"]))


def test_the_study_says_what_it_found(result):
    found, _ = result
    assert found.main == "metrics"
    assert list(found.tables["metrics"]["metric"]) == ["PhIRM", "PSNR", "SSIM", "matched F1"]
    assert found.tables["metrics"]["Spearman"].between(-1, 1).all()
    assert set(found.figures) == {"damage", "decoys_and_traps_shown", "score_against_severity", "decoys_and_traps"}
    assert set(found.captions) == set(found.tables) | set(found.figures)
    assert "PhIRM follows the damage" in found.verdict
    assert "blind to what balances" in found.verdict
    assert "matched F1" not in found.verdict  # severity contains it
    assert "Fewer than 8 wells" in found.verdict
    by_labels = found.tables["metrics"].set_index("metric")["Spearman by labels"]
    assert f"true labels: PhIRM {by_labels['PhIRM']:.2f}, PSNR {by_labels['PSNR']:.2f}" in found.verdict
    blind = found.tables["traps"].query("metric == 'PhIRM' and trap == '30 % relocated'").iloc[0]
    assert blind["unnoticed"] > 0.9
    assert blind["severity"] > 0.1


def test_raters_rate_the_sheet_and_stand_beside_the_metrics(result, tmp_path):
    _, folder = result
    key = pd.read_csv(folder / "key.csv")
    sheet = pd.read_csv(folder / "sheet.csv")
    assert len(sheet) == 20
    assert {path.stem for path in (folder / "rating").iterdir()} == set(sheet["image"]) == set(key["picture"])
    assert not any(part in name for name in sheet["image"] for part in ("w0", "missing", "decoy"))
    assert key[["change", "level"]].drop_duplicates().shape[0] == 20  # every change and level before any twice
    rng = np.random.default_rng(0)
    for rater in ("anna", "ben", "cleo"):  # made up: they see the severity, roughly
        key[rater] = (10 * (1 - key["severity"]) + rng.normal(0, 0.5, len(key))).round(1)
    scores = key.rename(columns={"picture": "image"})[["image", "anna", "ben", "cleo"]]
    scores.to_csv(tmp_path / "scores.csv", index=False)
    rated = study(METRICS_FAST, raters=str(tmp_path / "scores.csv")).run(Subject(Drawn()))
    assert rated.tables["raters"]["judge"].tolist() == ["a rater", "PhIRM"]
    assert rated.tables["raters"]["agreement"].iloc[0] > 0.5
    assert any("Kendall's W = 0." in note for note in rated.notes)
    with pytest.raises(ValueError, match="no picture of this study"):
        study(METRICS_FAST, raters=str(tmp_path / "scores.csv"), seed=1).run(Subject(Drawn()))


def test_without_true_instances_a_segmentation_stands_in():
    originals, _ = choose(Drawn(known=False), 4, 0)
    assert all(len(original.specimen.nuclei) == 9 for original in originals)
    asked = study(METRICS_FAST)
    images = judge(originals, asked.metrics, LEVELS, 0)
    assert images["severity by labels"].isna().all()
    assert "Spearman by labels" not in asked._correlations(images)


def test_patches_are_spread_over_the_wells():
    originals, _ = choose(Drawn(), 4, 0)
    assert {original.group for original in originals} == {f"p:w{well}" for well in range(WELLS)}


def test_patches_without_nuclei_are_refused():
    with pytest.raises(ValueError, match="5 whole nuclei"):
        choose(Drawn(centres=CENTRES[:3]), 4, 0)


@pytest.mark.parametrize(
    ("metrics", "options", "said"),
    [
        ({"x": {"metric": PhIRM(), "key": "f1"}}, {}, "PhIRM has phirm"),
        ({"x": {"metric": PhIRM(), "kye": "phirm"}}, {}, "takes metric, key"),
        ({"x": {"metric": PhIRM()}}, {}, "study.metrics.x"),
        ({"x": None}, {}, "study.metrics is empty"),
        (METRICS, {"levels": [0.4, 0.1]}, "study.levels"),
        (METRICS, {"levels": [0.4]}, "study.levels"),
        (METRICS, {"levels": [0.0, 0.4]}, "study.levels"),
        (METRICS, {"images": 1}, "study.images"),
    ],
)
def test_wrong_settings_are_refused(metrics, options, said):
    with pytest.raises(ValueError, match=said):
        study(metrics, **options)


def test_a_metric_that_reads_what_is_not_there_is_refused():
    metric = Given(None)
    metric.measure = lambda prediction, phase: {}
    with pytest.raises(ValueError, match="phase"):
        study({"x": {"metric": metric, "key": "value"}})


def test_the_shipped_config_is_a_study():
    with initialize_config_module("phenokeep.configs", version_base="1.3"):
        cfg = compose("train", ["study=metric_validation", "name=x", "output_dir=x"])
    shipped = instantiate(cfg.study, _convert_="all")
    assert not shipped.needs_model
    assert next(iter(shipped.metrics)) == "PhIRM"
    assert shipped.metrics["PSNR"].metric is shipped.metrics["SSIM"].metric
    shipped.check(SimpleNamespace(patches=lambda split: split == "test"))


def test_a_picture_without_room_has_no_row():
    image, labels = drawn(0)
    original, _ = choose(Drawn(), 2, 0)
    far = original[0]._replace(specimen=change.Specimen(image, labels))
    assert "2 merged" not in {picture.change for picture in manipulated(far, LEVELS, 0)}
