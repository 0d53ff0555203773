"""The study of robustness: corrupted and redrawn patches, its rule on made-up tables, and once from start to report."""

import pickle
from types import SimpleNamespace

import cv2
import numpy as np
import pandas as pd
import pytest
import tifffile
from conftest import SMALL
from hydra import compose, initialize_config_module
from matplotlib.backends.backend_agg import FigureCanvasAgg

from phenokeep.datamodules import mishaps
from phenokeep.datamodules.corrupted import clipped_share, corrupted
from phenokeep.datamodules.mishaps import drawn_plates, redrawn
from phenokeep.run import _build, evaluate, train
from phenokeep.studies import robustness, robustness_conditions
from phenokeep.studies.robustness import Robustness, onsets
from phenokeep.studies.subject import Origin, Subject

PAIRS = ("experiment=labelfree/nuclei", "data=virtual_pairs", "data.fractions={train: 0.5, val: 0.17, test: 0.33}")
FULL = 16383


@pytest.fixture(scope="module")
def composed(runs, tmp_path_factory):
    """Composes a train config on the small drawn plate."""
    folder = tmp_path_factory.mktemp("robustness")

    def compose_it(*overrides):
        with initialize_config_module("phenokeep.configs", version_base="1.3"):
            return compose("train", [*SMALL, *PAIRS, f"runs={runs}", f"output_dir={folder}", *overrides])

    return compose_it


@pytest.fixture(scope="module")
def data(composed):
    """Drawn DIC and nuclei, set up; each DIC image is stretched by itself."""
    return _build(composed(), None)[0]


def counts(samples, number, channel="dic"):
    row, y, x = samples.windows[number]
    return tifffile.imread(samples.reader.index[f"image_{channel}"].iloc[row]), y, x


def stretched(field, samples, y, x):
    low, high = float(field.min()), float(field.max())
    return (field[y : y + samples.zoom.crop, x : x + samples.zoom.crop].astype(float) - low) / (high - low)


def test_sources_are_corrupted_as_whole_fields_in_counts_and_nothing_else_is(data):
    clean = data.patches("test")
    field, y, x = counts(clean, 1)
    brighter = np.clip(np.rint(field + 90 * FULL / 255), 0, FULL)
    kernel = np.array([[0, 1, 0], [1, 1, 1], [0, 1, 0]], float)  # radius 1, softened by a Gaussian of 0.5 px
    kernel = cv2.GaussianBlur(np.pad(kernel, 1), (3, 3), 0.5, borderType=cv2.BORDER_CONSTANT)
    blurred = np.rint(cv2.filter2D(field.astype(float), -1, kernel / kernel.sum(), borderType=cv2.BORDER_REFLECT_101))
    for kind, severity, expected in (("brightness", 2, brighter), ("defocus", 2, blurred)):
        bad = corrupted(clean, kind, severity)
        item, usual = bad[0, 1], clean[0, 1]
        np.testing.assert_allclose(item["source"][0], stretched(expected, clean, y, x), atol=2e-4)
        assert not np.allclose(item["source"], usual["source"], atol=1e-3)
        for name in ("target", "donor", "objects"):
            np.testing.assert_array_equal(item[name], usual[name])
        assert (item["id"], item["group"]) == (usual["id"], usual["group"])
    np.testing.assert_allclose(clean[0, 1]["source"][0], stretched(field, clean, y, x), atol=1e-6)
    again = pickle.loads(pickle.dumps(bad))  # as a worker of another process gets it
    np.testing.assert_array_equal(again[0, 1]["source"], item["source"])


def test_gain_cancels_where_each_image_is_stretched_and_not_in_the_range_of_a_plate(data, composed):
    clean = data.patches("test")
    np.testing.assert_allclose(corrupted(clean, "contrast", 4)[0, 0]["source"], clean[0, 0]["source"], atol=2e-3)
    fixed = _build(composed("data.source_scaling=plate"), None)[0].patches("test")
    low, high = fixed.scaling.ranges[fixed.reader.index["plate"].iloc[0]]["dic"]
    field, y, x = counts(fixed, 0)
    expected = (np.rint(field * 0.5) - low) / (high - low)
    crop = np.clip(expected, 0, 1)[y : y + fixed.zoom.crop, x : x + fixed.zoom.crop]
    np.testing.assert_allclose(corrupted(fixed, "contrast", 4)[0, 0]["source"][0], crop, atol=1e-4)


def test_the_clipped_share_is_that_of_all_test_fields(data):
    samples = data.patches("test")
    paths = data.index.loc[data.index["split"] == "test", "image_dic"]
    fields = [tifffile.imread(path).astype(float) for path in paths]
    assert len(fields) == 2
    expected = np.mean([(field * 2 > FULL).mean() for field in fields])
    assert 0.1 < expected < 1
    assert clipped_share(samples, "contrast", -2) == pytest.approx(expected, abs=1e-6)
    assert clipped_share(samples, "defocus", 5) == 0
    samples.full_scale = None
    with pytest.raises(ValueError, match="greatest, full_scale"):
        corrupted(samples, "contrast", -2)


def test_mishaps_are_drawn_on_the_same_test_wells_and_kept(data, monkeypatch):
    clean, dark = data.patches("test"), redrawn(data, "exposure_20")
    assert [dark.name(number) for number in range(len(dark))] == [clean.name(number) for number in range(len(clean))]
    test = data.index["split"].to_numpy() == "test"
    moved = dark.reader.index["image_dic"].to_numpy() != data.index["image_dic"].to_numpy()
    np.testing.assert_array_equal(moved, test)
    bright, dim = counts(clean, 0)[0], counts(dark, 0)[0]
    offset = data.microscope.offset
    assert (np.median(dim) - offset) / (np.median(bright) - offset) == pytest.approx(20 / 30, abs=0.01)
    np.testing.assert_array_equal(counts(dark, 0, "nuclei")[0], counts(clean, 0, "nuclei")[0])
    np.testing.assert_array_equal(dark[0, 0]["target"], clean[0, 0]["target"])
    monkeypatch.setattr(mishaps, "write_image", None)  # nothing is drawn a second time
    np.testing.assert_array_equal(redrawn(data, "exposure_20")[0, 0]["source"], dark[0, 0]["source"])
    with pytest.raises(ValueError, match="unknown lab error 'rain'"):
        redrawn(data, "rain")


def test_only_what_the_microscope_drew_alone_is_drawn_again(data):
    (name,) = data.index["plate"].unique()
    assert list(drawn_plates(data)) == [name]
    several = SimpleNamespace(microscope=data.microscope, plates=data.plates, index=data.index)
    assert list(drawn_plates(several)) == [name]
    mixed = SimpleNamespace(microscope=data.microscope, plates=data.plates, index=data.index.assign(plate="real"))
    assert drawn_plates(mixed) == {}
    with pytest.raises(ValueError, match="drawn again"):
        redrawn(SimpleNamespace(index=data.index), "oil_bubble")


def ladder(changes, margin=0.005):
    """Rows of the table of severities, of one method: (kind, severity) to the change of its loss."""
    rows = [
        {"method": "A", "corruption": kind, "severity": severity, "change": value, "change low": value - margin}
        for (kind, severity), value in changes.items()
    ]
    return pd.DataFrame(rows).assign(**{"change high": 1.0, "clipped": 0.0, "wells": 9})


def test_a_corruption_degrades_from_where_it_and_all_stronger_ones_do():
    defocus = {("defocus", s): change for s, change in zip(range(1, 6), (0.03, 0.01, 0.03, 0.1, 0.2), strict=True)}
    darker = {("brightness", -s): change for s, change in zip(range(1, 6), (0.3, 0.3, 0.3, 0.3, 0.02), strict=True)}
    found = onsets(ladder(defocus | darker | {("brightness", 5): 0.026}), 0.02).set_index("direction")
    assert found.loc["blurred", "severity"] == 3, "that of severity 1 is not one: 2 does not degrade"
    assert pd.isna(found.loc["darker", "severity"]), "the strongest does not degrade"
    assert found.loc["darker", "change"] == 0.02
    assert found.loc["brighter", "severity"] == 5
    assert list(found.index) == ["blurred", "darker", "brighter"]


def table(loss, wells=10, per=3, seed=0, extra=0.0):
    rng = np.random.default_rng(seed)
    n = wells * per
    true = rng.normal(40, 8, n)
    rows = {"id": [f"f{k:02d}" for k in range(n)], "group": [f"p:{k % wells:02d}" for k in range(n)]}
    rows |= {"pearson/r": 1 - 2 * (loss + rng.normal(0, 0.01, n)), "pearson/mse": 0.1}
    rows["control/r"] = 0.3 - loss
    for name, factor in {"count": 1, "area": 600, "total_intensity": 90, "mean_intensity": 0.01}.items():
        predicted = true + rng.normal(0, 1 + 100 * loss, n) + extra
        rows |= {f"readouts/{name}_predicted": factor * predicted, f"readouts/{name}_true": factor * true}
    return pd.DataFrame(rows)


def ask(data, losses, change=lambda made, corruption, name: made, wells=10, rivals=None, leaky=False, **options):
    """The study on made-up tables; `losses`: (kind, severity) to the model's loss, 0.04 where not named."""

    def judge(name, samples=None):
        corruption = getattr(samples.reader, "corruption", {})
        key = corruption.get("kind"), corruption.get("severity")
        loss = 0.45 if name == "other_image" else losses.get(key, 0.04) - (0.02 if name and key[0] else 0.0)
        return change(table(loss, wells), key, name).assign(method=name or "Translator")

    subject = Subject(data, judge=judge, origin=lambda name: Origin("Translator"), leaky_split=leaky)
    subject.module = lambda name: None
    subject.origin = lambda name: Origin("Translator", path=name)
    study = Robustness(rivals, lab_errors=False, pictures=False, **{"n_bootstrap": 200} | options)
    return study.run(subject)


BLUR_FIRST = {("defocus", 2): 0.12, ("defocus", 4): 0.2, ("brightness", 4): 0.3, ("brightness", -4): 0.05}


def test_numbers_are_those_of_plain_loops(data):
    result = ask(data, BLUR_FIRST, severities=[-4, -2, 2, 4])
    rows = result.tables["severities"].set_index(["corruption", "severity"])
    assert len(rows) == 3 + 5 + 5 + 1
    clean, bad = table(0.04), table(0.2)
    loss = [(1 - made["pearson/r"].to_numpy()) / 2 for made in (clean, bad)]
    row = rows.loc[("defocus", 4)]
    assert row["PCC loss"] == pytest.approx(loss[1].mean())
    assert row["change"] == pytest.approx((loss[1] - loss[0]).mean())
    wells = (loss[1] - loss[0]).reshape(3, 10).T
    rng = np.random.default_rng(5)
    means = [np.mean([rng.choice(wells[w], 3) for w in rng.integers(0, 10, 10)]) for _ in range(2000)]
    assert [row["change low"], row["change high"]] == pytest.approx(np.quantile(means, [0.025, 0.975]), abs=0.002)
    predicted, true = bad["readouts/count_predicted"], bad["readouts/count_true"]
    assert row["count r"] == pytest.approx(np.corrcoef(predicted, true)[0, 1])
    assert row["count bias (%)"] == pytest.approx(100 * (predicted - true).mean() / true.mean())
    assert (row["images"], row["wells"], row["amount"]) == (30, 10, 2.0)
    assert rows.loc[("contrast", 0), "PCC loss"] == pytest.approx(loss[0].mean())
    assert rows.loc[("brightness", 4), "clipped"] > 0.5 > rows.loc[("brightness", -2), "clipped"]
    assert rows.loc[("null", 0), "method"] == "other_image"
    worst = result.tables["onsets"].set_index("direction").loc["blurred"]
    assert (worst["control r clean"], worst["control r"]) == pytest.approx((0.26, 0.18)), (
        "that of severity 2, its onset"
    )
    assert set(result.tables["per_image"]["corruption"]) == {"clean", "defocus", "brightness", "contrast"}
    for figure in result.figures.values():
        FigureCanvasAgg(figure).draw()


def test_the_verdict_can_say_both(data, monkeypatch):
    monkeypatch.setattr(type(data), "comparable", False)  # intensities and figures would only take time
    monkeypatch.setattr(robustness, "against_severity", lambda *given: {})
    asked = {"severities": [-4, 2, 4], "n_bootstrap": 60}
    thesis = ask(data, BLUR_FIRST, **asked)
    assert "degrades with defocus before brightness, as in the thesis" in thesis.verdict
    assert "defocus (blurred) from +2 on" in thesis.verdict
    assert "brightness (darker) at none up to -4" in thesis.verdict
    assert "% of pixels clipped there" in thesis.verdict
    unlike = ask(data, {("brightness", 2): 0.2, ("brightness", 4): 0.2, ("defocus", 4): 0.2}, **asked)
    assert "brightness before defocus, unlike in the thesis" in unlike.verdict
    same = ask(data, {("brightness", -4): 0.2, ("defocus", 4): 0.2}, **asked)
    assert "not shown to come before brightness" in same.verdict
    assert "neither degrades it" in ask(data, {}, **asked).verdict
    one = ask(data, BLUR_FIRST, wells=1, leaky=True, **asked)
    assert "without intervals" in one.verdict
    assert "Leaky split" in one.verdict
    assert one.notes[0].startswith("Leaky split")


def test_a_constant_prediction_counts_as_none_and_exploding_counts_are_said(data):
    def change(made, key, name):
        if key[0] != "defocus":
            return made
        return made.assign(**{"pearson/r": np.nan, "readouts/count_predicted": 5 * made["readouts/count_true"]})

    result = ask(data, {}, change, severities=[4])
    row = result.tables["severities"].set_index(["corruption", "severity"]).loc[("defocus", 4)]
    assert row["PCC loss"] == 0.5
    (note,) = (note for note in result.notes if note.startswith("Counts explode"))
    assert "defocus +4 (Translator)" in note
    assert "brightness" not in note


def test_each_training_seed_is_judged_by_itself(data):
    def change(made, key, name):
        if name != "two.ckpt":
            return made
        made["readouts/count_predicted"] = table(0.04, seed=1)["readouts/count_predicted"]
        return made.assign(**{"pearson/r": np.nan}) if key[0] == "defocus" else made

    result = ask(data, {}, change, rivals={"A": ["one.ckpt", "two.ckpt"]}, severities=[4])
    rows = result.tables["severities"].set_index(["method", "corruption", "severity"])
    row, alone = rows.loc[("A", "defocus", 4)], rows.loc[("Translator", "defocus", 4)]
    first = table(0.02)
    assert row["PCC loss"] == pytest.approx((0.5 + (1 - first["pearson/r"].mean()) / 2) / 2)
    true = first["readouts/count_true"]
    counts = [made["readouts/count_predicted"] for made in (first, table(0.04, seed=1))]
    assert row["count r"] == pytest.approx(np.mean([np.corrcoef(own, true)[0, 1] for own in counts]))
    assert row["count bias (%)"] == pytest.approx(100 * (np.mean(counts) / true.mean() - 1))
    assert (row["training seeds"], row["images"], row["wells"], alone["training seeds"]) == (2, 30, 10, 1)
    assert len(result.tables["per_image"].query("method == 'A' and corruption == 'defocus'")) == 60
    assert any("each is judged by itself" in note for note in result.notes)
    compared = result.tables["comparisons"].set_index("corruption").loc["defocus"]
    assert compared["difference"] == pytest.approx(alone["PCC loss"] - row["PCC loss"])


def test_intensities_are_judged_where_they_can_be_compared(data, monkeypatch):
    assert data.comparable
    result = ask(data, {}, severities=[4])
    row = result.tables["severities"].iloc[0]
    clean = table(0.04)
    sides = (clean[f"readouts/total_intensity_{side}"] for side in ("predicted", "true"))
    assert row["total intensity r"] == pytest.approx(np.corrcoef(*sides)[0, 1])
    assert row["mean intensity bias (%)"] == pytest.approx(
        100 * (clean["readouts/mean_intensity_predicted"] / clean["readouts/mean_intensity_true"].mean()).mean() - 100
    )
    assert "intensities_against_severity" in result.captions
    monkeypatch.setattr(type(data), "comparable", False)
    paper = ask(data, {}, severities=[4])
    assert not [name for name in paper.tables["severities"] if "intensity" in name]
    assert list(paper.figures) == ["against_severity"]
    assert any("not comparable" in note for note in paper.notes)


def test_another_checkpoint_is_compared_under_every_corruption(data):
    result = ask(data, BLUR_FIRST, rivals={"with corruptions": "b.ckpt"}, severities=[4])
    found = result.tables["comparisons"].set_index("corruption")
    assert found["method"].unique() == ["with corruptions"]
    assert found.loc["defocus", "difference"] == pytest.approx(0.02)
    assert found.loc["defocus", "verdict"] == "beats"
    assert len(result.tables["severities"]) == 2 * 3 * 2 + 1
    assert "with corruptions: defocus" in result.verdict
    labels = [text.get_text() for text in result.figures["against_severity"].legends[0].get_texts()]
    assert labels == ["Translator", "with corruptions", "null: other_image"]


def test_settings_that_cannot_be_are_refused(data):
    with pytest.raises(ValueError, match="no severity 7"):
        Robustness(severities=[2, 7])
    with pytest.raises(ValueError, match="none above 0"):
        Robustness(severities=[-3])
    with pytest.raises(ValueError, match="name of the null"):
        Robustness({"other_image": "a.ckpt"})
    with pytest.raises(ValueError, match=r"lacks pearson/r.*metrics=translation"):
        ask(data, {}, lambda made, key, name: made.drop(columns="pearson/r"), severities=[4])


def test_it_judges_from_end_to_end(composed, tmp_path, monkeypatch):
    few = {name: mishaps.LAB_ERRORS[name] for name in ("not_fixed", "low_density")}
    monkeypatch.setattr(robustness_conditions, "LAB_ERRORS", few)
    from phenokeep.cli import _register_checkpoint

    last = f"{{_target_: phenokeep.callbacks.Last, folder: '{tmp_path}', every_n_steps: 100}}"
    train(composed(f"callbacks.last={last}"))
    path = tmp_path / "last.ckpt"
    arguments = _register_checkpoint([f"ckpt_path={path}", "study=robustness", "study.n_bootstrap=50"])
    with initialize_config_module("phenokeep.configs", version_base="1.3"):
        cfg = compose("eval", [*arguments, "study.severities=[4]", f"output_dir={tmp_path}/out"])
    evaluate(cfg)
    severities = pd.read_csv(tmp_path / "out/severities.csv")
    assert severities["PCC loss"].notna().all()
    errors = pd.read_csv(tmp_path / "out/lab_errors.csv")["lab error"]
    assert list(errors) == ["none", *few]
    for name in ("against_severity", "under_lab_errors", "examples_defocus", "examples_lab_error"):
        assert (tmp_path / f"out/{name}.png").stat().st_size > 1000, name
    assert "Laboratory errors that degrade it as much:" in (tmp_path / "out/report.html").read_text()
