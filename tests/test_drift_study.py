"""The drift study on made-up embeddings whose answers are known, and once from a checkpoint to report and detector."""

import hashlib
import logging
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg

from phenokeep.imaging.tiles import Zoom
from phenokeep.run import _build, evaluate, train
from phenokeep.studies import drift_study
from phenokeep.studies.drift import MMDTest, OnlineMMD
from phenokeep.studies.drift_files import DetectorError
from phenokeep.studies.drift_runs import follow, orders, separability
from phenokeep.studies.drift_study import FILE, Drift, unaugmented
from phenokeep.studies.drift_tables import (
    Condition,
    condition_table,
    finds,
    harm_and_alarm,
    image_errors,
    separability_table,
    watch,
)
from phenokeep.studies.embedded import Embedded
from phenokeep.studies.subject import Origin, Subject

PAIRS = ("experiment=labelfree/nuclei", "data=virtual_pairs")
READOUTS = ("count", "area")
KINDS = {"defocus": "[4]", "brightness": "[]", "contrast": "[]"}
D, WELLS = 6, 24


def normal(seed, *shape):
    return np.random.default_rng(seed).normal(size=shape)


def condition(family, severity=0, shift=0.0, error=0.1, kind="corruption"):
    """24 images of 24 wells whose embeddings are shifted and whose counts are wrong by `error`."""
    ids = [f"f{row:02d}" for row in range(WELLS)]
    images = pd.DataFrame({"id": ids, "group": [f"p:{row:02d}" for row in range(WELLS)], "pearson/r": 0.9})
    spread = np.linspace(-0.05, 0.05, WELLS)
    images["count error"], images["area error"] = error + spread, 0.1
    return Condition(kind, family, severity, normal(3, WELLS, D) + shift, images)


CLEAN = condition("clean", kind="clean")
CROSSED = [
    CLEAN,
    condition("defocus", 4, shift=4.0, error=0.6),  # harmful and seen
    condition("brightness", 1, shift=4.0, error=0.2),  # seen, and no harm
    condition("contrast", -2, error=0.5),  # harmful and unseen
    condition("oil_bubble", kind="lab error"),  # neither
]


@pytest.fixture(scope="module")
def detector():
    return OnlineMMD(128, 5).fit(normal(0, 150, D))


@pytest.fixture(scope="module")
def streams(detector):
    shown = orders(list(CLEAN.images["group"]), 40, 12, seed=1)
    return watch(detector, MMDTest(detector.reference), CROSSED, shown, READOUTS, 0.2)


def test_streams_show_one_image_of_each_well():
    wells = ["a", "b", "b", "c", "b"]
    shown = orders(wells, 200, 2, seed=0)
    assert shown.shape == (200, 2)
    assert all(wells[first] != wells[second] for first, second in shown)
    assert set(shown.ravel()) == set(range(5)), "every field has its turn"
    assert (orders(wells, 200, 2, seed=0) == shown).all()
    with pytest.raises(ValueError, match=r"1\.\.3"):
        orders(wells, 1, 4)


def test_errors_of_an_image_are_of_the_sums_over_its_crops():
    crops = pd.DataFrame({"id": ["a_0", "a_1", "b_0"], "group": ["w1", "w1", "w2"], "pearson/r": [0.8, 0.6, 0.5]})
    for name, predicted, true in (("count", [3, 9, 2], [5, 5, 0]), ("area", [10, 10, 7], [5, 20, 7])):
        crops[f"readouts/{name}_predicted"], crops[f"readouts/{name}_true"] = predicted, true
    crops["control/r"] = 0.1
    images = image_errors(crops, {"a_0": "a", "a_1": "a", "b_0": "b"}, READOUTS).set_index("id")
    assert images.loc["a", "count error"] == pytest.approx(2 / 10)  # of 12 for 10; crop by crop it would be 0.6
    assert images.loc["a", "area error"] == pytest.approx(5 / 25)
    assert images.loc["a", "pearson/r"] == pytest.approx(0.7)
    assert images.loc["a", "control/r"] == pytest.approx(0.1)
    assert np.isnan(images.loc["b", "count error"]), "nothing to find: no relative error"
    assert images["group"].tolist() == ["w1", "w2"]
    with pytest.raises(ValueError, match=r"lacks readouts/area_true: judge with metrics=translation"):
        image_errors(crops.drop(columns="readouts/area_true"), {}, READOUTS)


def test_harm_and_alarm_are_crossed(streams):
    table = harm_and_alarm(streams).set_index("streams")
    by_name = streams.groupby("condition")
    alarms, harm = by_name["alarm"].sum(), by_name["harmful"].mean()
    assert alarms["defocus 4"] == alarms["brightness +1"] == 40
    assert harm.to_dict() == {"clean": 0, "defocus 4": 1, "brightness +1": 0, "contrast -2": 1, "oil bubble": 0}
    # What is not shifted runs along the same images and gives the same few false alarms.
    false = alarms["clean"]
    assert false < 12
    assert alarms["contrast -2"] == alarms["oil bubble"] == false
    assert table.loc["harmful", ["alarm", "no alarm"]].tolist() == [40 + false, 40 - false]
    assert table.loc["corrupted, harmless", ["alarm", "no alarm"]].tolist() == [40 + false, 40 - false]
    assert table.loc["clean", "share with alarm"] == false / 40
    offline = by_name["offline alarm"].mean()
    assert offline["defocus 4"] == 1
    assert offline["clean"] < 0.3


def test_the_auc_of_harm_is_that_of_pairs_and_is_blind_where_the_alarm_is(streams):
    harmful = streams["harmful"].to_numpy()
    found = finds(streams, harmful)
    lengths = streams["run length"].to_numpy()
    pairs = [1.0 if c > d else 0.5 if c == d else 0.0 for c in lengths[~harmful] for d in lengths[harmful]]
    assert found["AUC"] == pytest.approx(np.mean(pairs))
    draws = []
    for _, own in streams.groupby("stream"):
        run, bad = own["run length"].to_numpy(), own["harmful"].to_numpy()
        draws.append(np.mean([1.0 if c > d else 0.5 if c == d else 0.0 for c in run[~bad] for d in run[bad]]))
    assert [found["AUC low"], found["AUC high"]] == pytest.approx(np.quantile(draws, [0.025, 0.975]))
    seen = streams["condition"].isin(["defocus 4", "brightness +1"]).to_numpy()
    assert finds(streams, seen)["AUC"] > 0.95 > 0.7 > found["AUC"], "half of the harm is unseen, half of the seen none"
    assert np.isnan(finds(streams, np.zeros(len(streams), bool))["AUC"])


def test_conditions_say_errors_harm_and_separability(streams):
    table = condition_table(streams, CROSSED, READOUTS).set_index("condition")
    clean = streams.loc[streams["condition"] == "clean", "run length"]
    drifted = streams.loc[streams["condition"] == "defocus 4", "run length"]
    assert table.loc["defocus 4", "AUC against clean"] == pytest.approx(separability(clean, drifted, 12))
    assert table.loc["defocus 4", "AUC against clean"] > 0.95
    assert table.loc["oil bubble", "AUC against clean"] == 0.5, "the same images"
    assert np.isnan(table.loc["clean", "AUC against clean"])
    assert table.loc["defocus 4", "count error"] == pytest.approx(0.6)
    assert table.loc["defocus 4", "excess count error"] == pytest.approx(0.5)
    assert table.loc["defocus 4", "excess area error"] == pytest.approx(0)
    assert table.loc["clean", "excess count error"] == 0
    assert "control r" not in table


def test_fields_without_true_objects_count_in_no_error(detector):
    broken = condition("defocus", 4, error=0.5)
    broken.images.loc[:22, "count error"] = np.nan
    rows = watch(detector, MMDTest(detector.reference), [CLEAN, broken], orders(range(WELLS), 20, 6), READOUTS, 0.2)
    excess = rows.loc[rows["condition"] == "defocus 4", "excess count error"]
    assert sorted(excess.round(6).unique()) == [0, 0.4]


def test_settings_are_told_apart_and_their_runs_in_control_stand_beside(detector, caplog):
    drifted = {2: normal(4, WELLS, D) + 0.3, 4: normal(5, WELLS, D) + 4}
    shown = orders(range(WELLS), 40, 12, seed=1)
    with caplog.at_level(logging.WARNING):
        table = separability_table(detector, CLEAN.values, drifted, shown, (2, 5, 80), (16,), 4)
    assert "window 80 needs 161 reference images: left out" in caplog.text
    table = table.set_index(["varied", "value"])
    assert table.index.tolist() == [
        *[("window", 2), ("window", 5), ("expected run time", 16)],
        *[("defocus severity", 2), ("defocus severity", 4)],
    ]
    own = follow(detector, CLEAN.values, shown).lengths, follow(detector, drifted[4], shown).lengths
    for key in (("window", 5), ("defocus severity", 4)):
        row = table.loc[key]
        assert row["AUC"] == pytest.approx(separability(*own, 12))
        assert row["AUC low"] <= row["AUC"] <= row["AUC high"]
    assert table.loc[("defocus severity", 2), "AUC"] < table.loc[("defocus severity", 4), "AUC"]
    assert table["target"].tolist() == [128, 128, 16, 128, 128]
    assert table.loc[("expected run time", 16), "in-control run"] < table.loc[("window", 5), "in-control run"]
    assert table["AUC in the thesis"].tolist()[:2] == [0.85, 0.92]


class Data(SimpleNamespace):
    """Fields of one crop each; 60 wells in training, 10 in validation, 24 in the test split."""

    of_pairs = True

    def __init__(self, **changes):
        wells = {"train": 60, "val": 10, "test": WELLS}
        rows = [(split, "p", f"p:{split}{k:02d}") for split, size in wells.items() for k in range(size)]
        super().__init__(index=pd.DataFrame(rows, columns=["split", "plate", "group"]), **changes)

    def groups(self, *splits):
        return sorted(self.index.loc[self.index["split"].isin(splits), "group"])

    def patches(self, split):
        return SimpleNamespace(split=split, shift=0.0, error=0.1, groups=self.groups(split))


@pytest.fixture
def ask(monkeypatch, tmp_path):
    """Runs the study on `Data`; severity 4 of defocus is seen and harmful, brightness 1 neither."""
    checkpoint = tmp_path / "best.ckpt"
    checkpoint.write_bytes(b"weights")

    def of(test, kind, severity):
        strong = kind == "defocus"
        return SimpleNamespace(**vars(test) | {"shift": 4.0 * strong, "error": 0.1 + 0.5 * strong})

    def embedding(module, samples, pool):
        names = [f"{well}_f1" for well in samples.groups]
        values = normal(["train", "val", "test"].index(samples.split), len(names), D) + samples.shift
        return Embedded(values, [f"{name}_y0" for name in names], names, samples.groups)

    monkeypatch.setattr(drift_study, "corrupted", of)
    monkeypatch.setattr(drift_study, "embedded", embedding)
    monkeypatch.setattr(
        drift_study, "unaugmented", lambda samples, wells: SimpleNamespace(**vars(samples) | {"groups": sorted(wells)})
    )

    def run(data=None, seen=frozenset(), path=checkpoint, leaky=False, offset=0.0, **options):
        data = data or Data()

        def judge(name, samples=None):
            samples = samples or data.patches("test")
            table = pd.DataFrame({"id": [f"{well}_f1_y0" for well in samples.groups], "group": samples.groups})
            for name in READOUTS:
                table[f"readouts/{name}_true"], table[f"readouts/{name}_predicted"] = 10.0, 10 * (1 + samples.error)
            return table.assign(**{"pearson/r": 0.9, "control/r": 0.1})

        plain = data.patches
        data.patches = lambda split: SimpleNamespace(**vars(plain(split)) | {"shift": offset * (split == "test")})
        subject = Subject(data, judge, lambda name: None, lambda name: Origin("T", path, wells=seen), None, None, leaky)
        asked = {"corruptions": {"defocus": [4], "brightness": [1]}, "windows": (), "run_times": ()} | options
        result = Drift(OnlineMMD(64, 5), streams=30, **asked).run(subject)
        result.files[FILE](tmp_path / FILE)
        return result

    return run


def test_it_writes_a_detector_that_only_its_model_may_use(ask, tmp_path):
    result = ask()
    digest = hashlib.sha256(b"weights").hexdigest()
    detector = OnlineMMD.load(tmp_path / FILE)
    detector.require({"checkpoint": digest, "pool": "mean"})
    with pytest.raises(DetectorError, match="another model"):
        detector.require({"checkpoint": "0" + digest, "pool": "mean"})
    assert detector.reference.shape == (70, D)
    assert detector.time == 0
    assert any(f"ckpt_path={tmp_path / 'best.ckpt'} plate=PLATE drift={FILE}" in note for note in result.notes)
    crossed = result.tables["harm_and_alarm"].set_index("streams")
    assert crossed.loc["harmful", ["alarm", "no alarm"]].tolist() == [30, 0]
    assert "found 30 of 30 (100 %) harmful streams of 12 images" in result.verdict
    assert "in-control run length" in result.verdict.lower()
    assert result.tables["conditions"]["control r"].tolist() == pytest.approx([0.1] * 3)
    for figure in result.figures.values():
        FigureCanvasAgg(figure).draw()


def test_wells_that_the_model_saw_are_no_reference(ask, tmp_path):
    ask(seen=frozenset(f"p:train{k:02d}" for k in range(15)))
    assert len(OnlineMMD.load(tmp_path / FILE).reference) == 55
    with pytest.raises(ValueError, match=r"^10 images .* a reference needs 50: draw a fresh plate .*seed=2027"):
        ask(seen=frozenset(f"p:train{k:02d}" for k in range(60)))
    with pytest.raises(ValueError, match=r"trained on 1 well of the test split \(p:test03 .*fresh plate"):
        ask(seen=frozenset(["p:test03"]))
    with pytest.raises(ValueError, match="belongs to a checkpoint"):
        ask(path=None)


def test_too_many_alarms_in_control_are_said_first(ask, caplog):
    result = ask(offset=1.0)
    assert "alarms come over twice as often as promised" in caplog.text
    assert "below half of what was asked" in result.verdict
    assert result.notes[1].startswith("Alarms in control come over twice as often")
    good = ask()
    assert "kept" in good.verdict
    assert not any("twice as often" in note for note in good.notes)


def test_words_where_nothing_is_harmful_where_the_split_leaks_and_where_nothing_is_drawn(ask):
    result = ask(tolerance=0.9, leaky=True, mishaps=["overfixed"])
    assert "No stream was harmful: all errors stayed within the tolerance" in result.verdict
    assert result.verdict.endswith("Leaky split.")
    assert all(text.endswith("Leaky split.") for text in result.captions.values())
    assert any("these data are not, so they were left out" in note for note in result.notes)
    with pytest.raises(ValueError, match=r"study\.severity is 4, and study\.corruptions\.defocus holds \[1\]"):
        Drift(OnlineMMD(), {"defocus": [1]})
    for changes, message in (
        ({"corruptions": {"defocus": [4, 6]}}, r"there is no 'defocus 6'; corruptions are defocus, .*"),
        ({"corruptions": {"defocus": [4], "rain": [1]}}, "there is no 'rain 1'"),
        ({"mishaps": ["coffee"]}, "there is no 'coffee'.* overfixed"),
        ({"streams": 1}, r"study\.streams is 1, at least 2"),
    ):
        with pytest.raises(ValueError, match=message):
            Drift(OnlineMMD(), **{"corruptions": {"defocus": [4]}} | changes)
    with pytest.raises(ValueError, match=r"study\.length is 1: a stream has at least 2 images"):
        Drift(OnlineMMD(), {"defocus": [4]}, length=1)


def test_reference_patches_are_plain_crops_of_unseen_wells(config):
    data, _ = _build(config(*PAIRS), None)
    train = data.patches("train")
    assert train.augment is not None
    wells = sorted(data.groups("train"))[1:]
    plain = unaugmented(train, set(wells))
    assert {str(plain.reader.index["group"].iloc[row]) for row, _, _ in plain.windows} == set(wells)
    row, y, x = plain.windows[0]
    item, counts, zoom = plain[0, 0], data.reader.image(row)[0].astype(float), data.zoom
    assert isinstance(zoom, Zoom)
    expected = zoom.cut((counts - counts.min()) / (counts.max() - counts.min()), y, x)
    assert item["source"][0].numpy() == pytest.approx(expected, abs=1e-5)


def test_it_runs_from_end_to_end(runs, tmp_path, monkeypatch):
    from conftest import SMALL
    from hydra import compose, initialize_config_module

    from phenokeep.cli import _register_checkpoint

    last = f"callbacks.last={{_target_: phenokeep.callbacks.Last, folder: '{tmp_path}', every_n_steps: 100}}"
    with initialize_config_module("phenokeep.configs", version_base="1.3"):
        train(compose("train", [*SMALL, *PAIRS, f"runs={runs}", f"output_dir={tmp_path}", last]))
    arguments = _register_checkpoint([f"ckpt_path={tmp_path}/last.ckpt", "study=drift", "debug=tiny"])
    arguments += [f"output_dir={tmp_path}/out", "data.plate.seed=6", "data.plate.wells=10", "study.mishaps=[overfixed]"]
    arguments += [f"study.corruptions.{kind}={levels}" for kind, levels in KINDS.items()]
    arguments += ["study.detector.window=2", "study.detector.expected_run_time=8"]
    arguments += ["study.windows=[2]", "study.run_times=[8]", "study.streams=10", "study.length=2"]
    with initialize_config_module("phenokeep.configs", version_base="1.3"):
        cfg = compose("eval", arguments)
    with pytest.raises(ValueError, match="a reference needs 50"):
        evaluate(cfg)
    monkeypatch.setattr(drift_study, "FEWEST_IMAGES", 6)
    evaluate(cfg)
    detector = OnlineMMD.load(tmp_path / "out" / FILE)
    detector.require({"checkpoint": hashlib.sha256((tmp_path / "last.ckpt").read_bytes()).hexdigest(), "pool": "mean"})
    assert len(detector.reference) == 8
    conditions = pd.read_csv(tmp_path / "out/conditions.csv")
    assert conditions["condition"].tolist() == ["clean", "defocus 4", "overfixed"]
    for name in ("report.html", "harm_against_alarm.png", "false_negatives.png", "run_lengths.png", "per_image.csv"):
        assert (tmp_path / "out" / name).stat().st_size > 500, name
