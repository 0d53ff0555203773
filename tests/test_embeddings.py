"""Projections against NumPy and scikit-learn, calls of made-up clouds, and the study once from training to report."""

import os

os.environ.setdefault("NUMBA_DISABLE_JIT", "1")  # a few points are mapped sooner than UMAP is compiled (14 CPU-seconds)

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import SMALL
from hydra import compose, initialize_config_module
from sklearn.metrics import balanced_accuracy_score, r2_score
from sklearn.neighbors import KNeighborsClassifier

from phenokeep.cli import _register_checkpoint
from phenokeep.imaging.corruptions import corrupt
from phenokeep.models import Autoencoder
from phenokeep.models.image_losses import MSE
from phenokeep.models.nets.autoencoder import ConvAutoencoder
from phenokeep.run import _build, evaluate, train
from phenokeep.studies import embeddings
from phenokeep.studies import projections as maps
from phenokeep.studies.embeddings import Embeddings, _compared
from phenokeep.studies.embeddings_clouds import Cloud, by_image, some
from phenokeep.studies.embeddings_words import verdict
from phenokeep.studies.statistics import Difference

FEW = {"umap": {"n_neighbors": 5, "n_epochs": 5}, "pacmap": {"n_neighbors": 5, "num_iters": (4, 4, 4)}}


def blob(n, centre=0.0, width=1.0, seed=0, size=2):
    return (np.random.default_rng(seed).normal(0, width, (n, size)) + centre).astype(np.float32)


def test_pca_is_that_of_the_training_points_alone():
    points, new = blob(30, 3, size=12), blob(7, -2, seed=1, size=12)
    (found,), cut = maps.projections(points, {"new": new}, ["pca"], [], {})
    axes = np.linalg.svd(points - points.mean(0))[2][:2]
    for name, given in ((found.train, points), (found.new["new"], new)):
        expected = (given - points.mean(0)) @ axes.T
        np.testing.assert_allclose(np.abs(name), np.abs(expected), atol=1e-4)
    assert (found.name, cut) == ("PCA", [])
    with pytest.raises(ValueError, match="all training embeddings are the same"):
        maps.projections(np.ones((12, 4), np.float32), {}, ["pca"], [], {})
    none, cut = maps.projections(points[:9], {}, ["pca"], [], {})
    assert none == []
    assert "9 training points have no clusters; 10 are needed" in cut[0]


@pytest.mark.parametrize("reducer", ["umap", "pacmap"])
def test_maps_are_fitted_on_training_points_alone(reducer):
    pytest.importorskip(reducer)
    points, new = blob(30, size=8), blob(6, 1, seed=1, size=8)
    kept, threads = points.copy(), torch.get_num_threads()
    torch.set_num_threads(2)
    found, cut = maps.projections(points, {"new": new, "part": new[:3]}, [reducer], [4, 200], FEW, seed=3)
    assert torch.get_num_threads() == 2, "PaCMAP would leave the process with one"
    torch.set_num_threads(threads)
    label = maps.REDUCERS[reducer]
    assert [own.name for own in found] == [label, f"PCA 4, {label}", f"PCA 8, {label}"]
    assert cut == ["PCA of 200 components: only 8 are to be had from 30 training points"]
    assert np.array_equal(points, kept)
    again, _ = maps.projections(points, {"part": new[:3]}, [reducer], [], FEW, seed=3)
    # The training points stand where the same fit puts them, whatever is mapped later.
    np.testing.assert_array_equal(found[0].train, again[0].train)
    assert found[0].new["new"].shape == (6, 2)
    assert all(np.isfinite(own.new["new"]).all() for own in found)
    many = FEW | {reducer: {"n_neighbors": 12}}
    none, cut = maps.projections(points[:12], {"new": new}, [reducer], [], many)
    assert none == []
    assert cut == [f"{label}: it needs {13 if reducer == 'umap' else 43} training points, and there are 12"]


def test_reducers_that_are_unknown_or_missing_are_refused(monkeypatch):
    with pytest.raises(ValueError, match=r"'tsne': choose from pca, umap, pacmap \(t-SNE cannot"):
        maps.check_reducers(["tsne"])
    for wrong in ([], ["pca", "pca"]):
        with pytest.raises(ValueError, match="at most once"):
            maps.check_reducers(wrong)
    monkeypatch.setattr(maps, "find_spec", lambda name: None)
    maps.check_reducers(["pca"])
    with pytest.raises(
        ValueError, match=r"umap, which is not installed: pip install 'phenokeep\[embeddings\]'.*=\[pca\]"
    ):
        maps.check_reducers(["pca", "umap"])


def test_the_knee_is_where_the_curve_bends():
    points = np.vstack([blob(60), blob(4, 40, 15, seed=1)])
    distances = np.sort([np.sort(np.linalg.norm(points - p, axis=1))[3] for p in points])
    x, y = np.linspace(0, 1, 64), (distances - distances[0]) / (distances[-1] - distances[0])
    assert maps.knee(points, 3) == pytest.approx(distances[np.argmax(x - y)], rel=1e-5)
    assert 0 < maps.knee(points, 3) < 5
    with pytest.raises(ValueError, match="coincide"):
        maps.knee(np.zeros((9, 2)), 3)


def test_calls_find_what_lies_apart_and_nothing_else():
    train, clean = blob(200), blob(60, seed=1)
    apart = maps.calls(train, blob(60, 12, seed=2), clean)
    hit, false = apart.called
    assert hit.all()
    assert false.mean() < 0.3
    assert apart.clusters >= 2
    mixed = maps.calls(train, blob(60, seed=2), clean)
    assert abs(mixed.called[0].mean() - mixed.called[1].mean()) < 0.2
    # A tight cluster in the middle of the training points is clean, however corrupted its points are.
    assert not maps.calls(train, blob(60, 0, 0.05, seed=2), clean).called[0].any()
    scattered = maps.calls(train, np.stack([np.arange(9) * 50 + 40.0, np.zeros(9)], 1), clean)
    assert scattered.called[0].all(), "points of no cluster are called corrupted"


def test_f1_stands_beside_calling_everything_corrupted():
    study = Embeddings(n_bootstrap=400)
    rows = pd.DataFrame({"id": [f"c{k}" for k in range(40)], "group": [f"w{k // 4}" for k in range(40)]})
    rng = np.random.default_rng(0)
    hit, false = rng.random(40) < 0.9, rng.random(40) < 0.1
    row, more, gain = study._clusters(rows, maps.Calls((hit, false), 1.0, 2))
    expected = 2 * hit.sum() / (2 * hit.sum() + false.sum() + (~hit).sum())
    assert row["F1"] == pytest.approx(expected)
    assert row["F1 of everything"] == pytest.approx(2 / 3)
    assert (row["found"], row["false alarms"]) == pytest.approx((hit.mean(), false.mean()))
    assert more.estimate == pytest.approx(hit.mean() - false.mean())
    null, *none = study._clusters(rows, maps.Calls((np.ones(40, bool), np.ones(40, bool)), 1.0, 1))
    some, *few = study._clusters(rows, maps.Calls((rng.random(40) < 0.35, np.zeros(40, bool)), 1.0, 1))
    about = [{"unit": "crop", "projection": name, "corruption": "defocus 4"} for name in ("PCA", "UMAP", "PaCMAP")]
    found = zip(about, (row, null, some), strict=True)
    table = _compared([first | second for first, second in found], [(more, gain), none, few])
    assert table["corrupted lie"].tolist() == ["apart", "not shown apart", "partly"]
    assert table["p Holm"].iloc[0] == pytest.approx(6 * more.p), "six tests, one family"
    words = verdict(table, pd.DataFrame({"projection": ["PCA", "UMAP", "PaCMAP"]}))
    assert "defocus 4, crops: apart in 1 and partly in 1 of 3 projections; F1" in words
    assert "n = 40 crops of 10 wells" in words
    assert "not shown to, in any of 1 projection;" in verdict(table.iloc[1:2], pd.DataFrame())


def test_f1_above_the_null_must_bear_the_correction_too():
    gain = Difference(0.1, 0.01, 0.2, 0.03, 40, 10)  # its interval lies above 0, its p is 0.06 after Holm
    table = _compared([{"F1": 0.8, "clusters": 2}], [(gain._replace(p=0.04), gain)])
    assert table["p Holm of F1"].tolist() == [0.06]
    assert table["corrupted lie"].tolist() == ["not shown apart"]
    table = _compared([{"F1": 0.8, "clusters": 2}] * 2, [(gain._replace(p=0.001), gain)] * 2)
    assert table["corrupted lie"].tolist() == ["partly"] * 2


@pytest.mark.parametrize("n", [9, 12, 30, 60])
def test_how_many_maps_are_planned_is_how_many_are_made(n, monkeypatch):
    monkeypatch.setattr(maps, "_fitted", lambda fit, name, train, *rest: maps.Projection(name, train[:, :2], {}))
    asked = ["pca", "umap", "pacmap"], [4, 10, 20, 200], {"umap": {"n_neighbors": 15}, "pacmap": {"n_neighbors": 5}}
    assert maps.planned(n, *asked) == len(maps.projections(blob(n, size=80), {}, *asked)[0])


def test_votes_are_permuted_often_enough_for_all_rows():
    for rows in (1, 25, 26, 90):
        assert rows / (1 + maps.permutations_for(rows, 0.05)) < 0.05
    assert maps.permutations_for(1, 0.05) == 500


def test_what_neighbours_tell_is_that_of_scikit_learn_and_of_permuted_wells():
    labels = np.repeat(["CHOZN", "PHX"], 40)
    wells = np.array([f"w{k // 4}" for k in range(80)])
    train = blob(80) + 3 * (labels == "PHX")[:, None]
    test, true = blob(30, seed=1), np.repeat(["CHOZN", "PHX"], 15)
    test[15:] += 2
    votes = maps.told_by_neighbours(train, labels, wells, test, true, permutations=100)
    said = KNeighborsClassifier(5).fit(train, labels).predict(test)
    assert votes.accuracy == pytest.approx(balanced_accuracy_score(true, said))
    assert votes.accuracy > votes.null
    assert votes.p < 0.05
    lost = maps.told_by_neighbours(blob(80), labels, wells, test, true, permutations=100)
    assert lost.p > 0.05
    near = np.argsort(np.linalg.norm(test[:, None] - train, axis=2), axis=1)[:, :5]
    values, own = train[:, 0] ** 2, test[:, 0] ** 2
    assert maps.explained(train, values, test, own) == pytest.approx(r2_score(own, values[near].mean(1)), abs=1e-4)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"corruptions": [{"kind": "defocus", "severity": 9}]}, r"severity.*defocus 0 to 5"),
        ({"corruptions": [{"kind": "haze", "severity": 1}]}, "haze"),
        ({"corruptions": [{"kind": "defocus"}]}, "give kind and severity"),
        ({"corruptions": [{"kind": "defocus", "severity": 4}] * 2}, "name each once"),
        ({"units": []}, r"study\.units"),
        ({"components": [1]}, r"study\.components"),
    ],
)
def test_settings_that_mean_nothing_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        Embeddings(**settings)


def test_an_image_is_the_mean_of_its_crops():
    rows = pd.DataFrame({"id": list("abc"), "group": ["w1", "w2", "w1"], "field": ["f1", "f2", "f1"]})
    made = by_image(
        Cloud(np.array([[1.0, 2], [5, 6], [3, 6]]), rows.assign(brightness=[0.1, 0.2, 0.3], phenotype=None))
    )
    np.testing.assert_allclose(made.values, [[2, 4], [5, 6]])
    assert made.rows["id"].tolist() == ["f1", "f2"]
    assert made.rows["brightness"].tolist() == pytest.approx([0.2, 0.2])


def test_autoencoder_is_held_against_its_source():
    torch.manual_seed(0)
    model = Autoencoder(ConvAutoencoder(), MSE()).eval()
    source = torch.rand(1, 1, 100, 256)
    out = model.validation_step({"source": source, "target": torch.zeros_like(source)}, 0)
    assert torch.equal(out["target"], source)
    assert out["prediction"].shape == source.shape
    mirrored = torch.cat([source, source.flip(2)[:, :, 1:], source[:, :, 1:58]], dim=2)
    assert torch.equal(model.embed(source), model.embed(mirrored))


def test_it_trains_and_reports_from_end_to_end(runs, tmp_path, monkeypatch):
    with initialize_config_module("phenokeep.configs", version_base="1.3"):
        last = f"callbacks.last={{_target_: phenokeep.callbacks.Last, folder: '{tmp_path}', every_n_steps: 100}}"
        own = [
            *SMALL,
            "experiment=labelfree/autoencoder",
            "data=virtual_pairs",
            f"runs={runs}",
            f"output_dir={tmp_path}",
        ]
        cfg = compose("train", [*own, last])
        results = train(cfg)
        assert 0 <= results["val/pearson/mse"] < 1
        arguments = [f"ckpt_path={tmp_path}/last.ckpt", "study=embeddings", "study.reducers=[pca]", "debug=tiny"]
        arguments = _register_checkpoint([*arguments, "study.n_bootstrap=100"])
        evaluate(compose("eval", [*arguments, f"output_dir={tmp_path}/out"]))
        monkeypatch.setattr(embeddings, "cloud", lambda *given: pytest.fail("embedded before it was refused"))
        with pytest.raises(ValueError, match=r"study.n_bootstrap=70 .* of 2 tests"):
            evaluate(compose("eval", [*arguments, "study.n_bootstrap=70", f"output_dir={tmp_path}/few"]))
    out = tmp_path / "out"
    clusters, points = (pd.read_csv(out / f"{name}.csv") for name in ("clusters", "per_image"))
    assert clusters[["unit", "projection", "corruption"]].values.tolist() == [["crop", "PCA", "defocus 4"]]
    assert (clusters["images"] == len(points[points["set"] == "clean test"])).all()
    for name in ("crops", "crops_density", "crops_called", "crops_brightness", "report"):
        file = out / f"{name}.{'html' if name == 'report' else 'png'}"
        assert file.stat().st_size > 1000, name
    page = (out / "report.html").read_text()
    assert "images, all projections: 4 training points have no clusters" in page
    assert "virtual microscope" in page
    data, _ = _build(cfg, None)
    crops = points[points["unit"] == "crop"].set_index(["set", "id"])
    clean = data.patches("test")
    assert len(crops.loc["clean test"]) == len(crops.loc["defocus 4"]) == len(clean)
    assert len(crops.loc["training"]) == len(data.patches("train"))
    # Brightness is that of the patch the network sees: the corrupted one from counts, blurred before it is scaled.
    row, y, x = clean.windows[0]
    field = clean.reader.image(row)[0]
    blurred = corrupt(field, "defocus", 4, clean.full_scale)[0].astype(float)
    side = clean.zoom.crop
    for name, image in (("clean test", field.astype(float)), ("defocus 4", blurred)):
        seen = (image[y : y + side, x : x + side] - image.min()) / (image.max() - image.min())
        assert crops.loc[(name, clean.name(0)), "brightness"] == pytest.approx(seen.mean(), abs=1e-4)
    few = some(data.patches("train"), 16, 0)
    assert len({window[0] for window in few.windows}) == 1, "whole images, of 15 crops each"
    assert some(data.patches("train"), 10**6, 0).augment is None
