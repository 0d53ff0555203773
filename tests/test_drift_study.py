"""The drift study on made-up embeddings whose answers are known, and once from a checkpoint to report and detector."""

import hashlib
import itertools
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
from phenokeep.studies.drift_runs import follow, jackknife, orders, separability, streams_of
from phenokeep.studies.drift_study import FILE, Drift, grid
from phenokeep.studies.drift_tables import (
    Condition,
    condition_table,
    finds,
    fixed_or_not,
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
def drawn():
    return streams_of(list(CLEAN.images["group"]), 40, 12, seed=1)


@pytest.fixture(scope="module")
def streams(detector, drawn):
    return watch(detector, MMDTest(detector.reference), CROSSED, drawn.shown, READOUTS, 0.2)


@pytest.fixture(scope="module")
def left(detector, drawn):
    return [watch(detector, None, CROSSED, order, READOUTS, 0.2) for order in drawn.left]


def test_streams_show_one_image_of_each_well():
    wells = ["a", "b", "b", "c", "b"]
    shown = orders(wells, 200, 2, seed=0)
    assert shown.shape == (200, 2)
    assert all(wells[first] != wells[second] for first, second in shown)
    assert set(shown.ravel()) == set(range(5)), "every field has its turn"
    assert (orders(wells, 200, 2, seed=0) == shown).all()
    assert (orders(wells, 200, None, seed=0)[:, :2] == shown).all(), "a shorter stream is the start of a longer one"
    with pytest.raises(ValueError, match=r"1\.\.3"):
        orders(wells, 1, 4)


def test_streams_without_a_group_of_wells_are_the_same_streams_moved_up():
    wells = np.array([f"w{number // 2}" for number in range(60)])
    shown, left = streams_of(wells, 20, 15, seed=3)
    assert len(left) == 10
    whole, gone = orders(wells, 20, None, seed=3), []
    assert (whole[:, :15] == shown).all()
    for order in left:
        out = set(wells) - set(wells[order].ravel())
        gone += out
        assert [[number for number in stream if wells[number] not in out][:15] for stream in whole] == order.tolist()
    assert sorted(gone) == sorted(set(wells)), "every well is left out once"
    assert len(streams_of(wells[:14], 20, 3).left) == 7
    assert streams_of(wells[:8], 20, 3).left == ()


def test_jackknife_is_the_standard_error_of_a_mean_and_nothing_where_it_says_nothing():
    values = np.random.default_rng(0).uniform(0.4, 0.6, 10)  # one to a group
    low, high = jackknife(values.mean(), [np.delete(values, n).mean() for n in range(10)])
    assert (high - low) / 2 == pytest.approx(1.96 * values.std(ddof=1) / np.sqrt(10))
    assert (high + low) / 2 == pytest.approx(values.mean())
    assert jackknife(0.99, [0.9, 1.0])[1] == 1
    for estimate, others in ((1.0, [1.0, 1.0]), (0.5, []), (np.nan, [0.1, 0.2]), (0.5, [0.5, np.nan])):
        assert np.isnan(jackknife(estimate, others)).all()


def test_intervals_are_of_wells_not_of_streams(detector):
    wells, rng = [f"w{number}" for number in range(40)], np.random.default_rng(2)
    moved = rng.normal(size=(40, D)) + rng.uniform(0, 2.5, 40)[:, None]  # some wells changed, others did not
    width = {}
    for number in (20, 120):
        drawn = streams_of(wells, number, 8, seed=1)
        table = separability_table(detector, detector.reference, rng.normal(size=(40, D)), {4: moved}, drawn, (), (), 4)
        width[number] = float(table["AUC high"].iloc[0] - table["AUC low"].iloc[0])
    assert width[120] > 0.6 * width[20] > 0.01  # over streams it would fall to 0.4 of it


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


def test_shares_have_intervals_over_wells_and_the_organelle_without_contrast_beside(streams, left):
    table = harm_and_alarm(streams, left).set_index("streams")
    shares = [own.loc[~own["corrupted"], "alarm"].mean() for own in left]
    expected = 1.96 * np.sqrt(9 / 10 * ((shares - np.mean(shares)) ** 2).sum())
    row = table.loc["clean"]
    assert row["share with alarm high"] - row["share with alarm"] == pytest.approx(expected)
    assert row["share with alarm low"] <= row["share with alarm"]
    assert np.isnan(
        condition_table(streams, CROSSED, READOUTS, left).set_index("condition").loc["defocus 4", "alarm low"]
    )
    assert "control r" not in table
    seen = streams.assign(**{"control r": np.where(streams["harmful"], 0.3, 0.1)})
    assert harm_and_alarm(seen)["control r"].tolist() == pytest.approx([0.3, 0.1, 0.1])


def test_the_auc_of_harm_is_that_of_pairs_and_is_blind_where_the_alarm_is(streams, left):
    harmful = streams["harmful"].to_numpy()
    found = finds(streams, "harmful", left)
    lengths = streams["run length"].to_numpy()
    pairs = [1.0 if c > d else 0.5 if c == d else 0.0 for c in lengths[~harmful] for d in lengths[harmful]]
    assert found["AUC"] == pytest.approx(np.mean(pairs))
    others = []
    for own in left:
        run, bad = own["run length"].to_numpy(), own["harmful"].to_numpy()
        others.append(np.mean([1.0 if c > d else 0.5 if c == d else 0.0 for c in run[~bad] for d in run[bad]]))
    assert [found["AUC low"], found["AUC high"]] == pytest.approx(jackknife(found["AUC"], others))
    assert found["AUC low"] < found["AUC"] < found["AUC high"]
    seen = streams.assign(seen=streams["condition"].isin(["defocus 4", "brightness +1"]))
    assert finds(seen, "seen")["AUC"] > 0.95 > 0.7 > found["AUC"], "half of the harm is unseen, half of the seen none"
    assert np.isnan(finds(seen.assign(seen=False), "seen")["AUC"])


def test_fixed_cells_stand_against_living_ones(detector, drawn):
    living = condition("not_fixed", shift=1.0, kind="lab error")
    rows, *left = (
        watch(detector, None, [*CROSSED, living], order, READOUTS, 0.2) for order in (drawn.shown, *drawn.left)
    )
    table = fixed_or_not(rows, left).set_index("cells")
    runs = rows.groupby("condition")["run length"]
    assert table["median run"].to_dict() == {"fixed": runs.median()["clean"], "not fixed": runs.median()["not fixed"]}
    assert table["run in the thesis"].tolist() == [7, 4]
    row = table.loc["not fixed"]
    assert row["AUC"] == pytest.approx(separability(runs.get_group("clean"), runs.get_group("not fixed")))
    assert row["AUC low"] < row["AUC"] <= row["AUC high"]
    assert row["AUC in the thesis"] == 0.91


def test_conditions_say_errors_harm_and_separability(streams):
    table = condition_table(streams, CROSSED, READOUTS).set_index("condition")
    clean = streams.loc[streams["condition"] == "clean", "run length"]
    drifted = streams.loc[streams["condition"] == "defocus 4", "run length"]
    assert table.loc["defocus 4", "AUC against clean"] == pytest.approx(separability(clean, drifted))
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
    rows = watch(detector, None, [CLEAN, broken], orders(range(WELLS), 20, 6), READOUTS, 0.2)
    excess = rows.loc[rows["condition"] == "defocus 4", "excess count error"]
    assert sorted(excess.round(6).unique()) == [0, 0.4]


def test_settings_are_told_apart_and_their_runs_in_control_stand_beside(detector, caplog):
    drifted = {2: normal(4, WELLS, D) + 0.3, 4: normal(5, WELLS, D) + 4}
    both = streams_of([f"{well:02d}" for well in range(WELLS)], 20, 12, seed=1)
    shown = both.shown
    with caplog.at_level(logging.WARNING):
        table = separability_table(detector, detector.reference, CLEAN.values, drifted, both, (2, 5, 80), (16,), 4)
    assert "window 80 needs 161 reference images: left out" in caplog.text
    table = table.set_index(["varied", "value"])
    assert table.index.tolist() == [
        *[("window", 2), ("window", 5), ("expected run time", 16)],
        *[("defocus severity", 2), ("defocus severity", 4)],
    ]
    own = follow(detector, CLEAN.values, shown).lengths, follow(detector, drifted[4], shown).lengths
    for key in (("window", 5), ("defocus severity", 4)):
        row = table.loc[key]
        assert row["AUC"] == pytest.approx(separability(*own))
        left = [
            separability(follow(detector, CLEAN.values, o).lengths, follow(detector, drifted[4], o).lengths)
            for o in both.left
        ]
        assert [row["AUC low"], row["AUC high"]] == pytest.approx(jackknife(row["AUC"], left), nan_ok=True)
    assert table.loc[("defocus severity", 2), "AUC"] < table.loc[("defocus severity", 4), "AUC"]
    assert table["target"].tolist() == [128, 128, 16, 128, 128]
    assert table.loc[("expected run time", 16), "in-control run"] < table.loc[("window", 5), "in-control run"]
    assert table["AUC in the thesis"].tolist()[:2] == [0.85, 0.92]


class Samples(SimpleNamespace):
    """Crops of `windows` of an index, whose embeddings are moved by `shift` and whose counts are wrong by `error`."""

    def __len__(self):
        return len(self.windows)

    def field(self, number):
        return f"{self.group(number)}_f{self.windows[number][0]}"

    def name(self, number):
        return f"{self.field(number)}_y{self.windows[number][1]}"

    def group(self, number):
        return self.index["group"].iloc[self.windows[number][0]]

    def plain(self, windows):
        return Samples(**vars(self) | {"windows": windows})


class Data(SimpleNamespace):
    """Fields of `crops` crops each; 60 wells in training, 10 in validation, 24 in the test split.

    No crop of the rows in `dropped` is of use, else the first; `per_well` fields make a well and share `alike` of what
    a model sees; those of the test split are `offset` beside the others.
    """

    of_pairs, comparable, train_only = True, True, None

    def __init__(self, dropped=(), per_well=1, alike=0.0, offset=0.0, crops=1, **changes):
        wells = {"train": 60, "val": 10, "test": WELLS}
        rows = [(split, "p", f"p:{split}{k // per_well:02d}") for split, size in wells.items() for k in range(size)]
        super().__init__(index=pd.DataFrame(rows, columns=["split", "plate", "group"]), dropped=dropped, **changes)
        wells = normal(8, len(rows), D)[self.index["group"].astype("category").cat.codes]
        shared = alike * wells + offset * (self.index[["split"]] == "test").to_numpy()
        self.seen = normal(7, len(rows), crops, D) + shared[:, None]
        self.reader = SimpleNamespace(image=lambda row: [np.zeros((8, 8))])
        self.zoom = SimpleNamespace(windows=lambda shape: [(y, 0) for y in range(crops)])

    def groups(self, *splits):
        return sorted(set(self.index.loc[self.index["split"].isin(splits), "group"]))

    def patches(self, split):
        rows = np.flatnonzero(self.index["split"] == split)
        windows = [(row, 0, 0) for row in rows if row not in self.dropped]
        return Samples(index=self.index, windows=windows, seen=self.seen, shift=0.0, error=0.1)


@pytest.fixture
def ask(monkeypatch, tmp_path):
    """Runs the study on `Data`; severity 4 of defocus is seen and harmful, brightness 1 neither."""
    checkpoint = tmp_path / "best.ckpt"
    checkpoint.write_bytes(b"weights")

    def of(test, kind, severity):
        strong = kind == "defocus"
        return Samples(**vars(test) | {"shift": 4.0 * strong, "error": 0.1 + 0.5 * strong})

    def embedding(module, samples, pool):
        rows, ys, _ = np.array(samples.windows).T
        groups = [samples.group(n) for n in range(len(samples))]
        ids, fields = ([named(n) for n in range(len(samples))] for named in (samples.name, samples.field))
        return Embedded(samples.seen[rows, ys] + samples.shift, ids, fields, groups)

    monkeypatch.setattr(drift_study, "corrupted", of)
    monkeypatch.setattr(drift_study, "embedded", embedding)

    def run(data=None, seen=frozenset(), path=checkpoint, leaky=False, **options):
        data = data or Data()

        def judge(name, samples=None):
            ids, groups = zip(*((samples.name(n), samples.group(n)) for n in range(len(samples))), strict=True)
            table = pd.DataFrame({"id": ids, "group": groups})
            for name in READOUTS:
                table[f"readouts/{name}_true"], table[f"readouts/{name}_predicted"] = 10.0, 10 * (1 + samples.error)
            return table.assign(**{"pearson/r": 0.9, "control/r": 0.1})

        subject = Subject(data, judge, lambda name: None, lambda name: Origin("T", path, wells=seen), None, None, leaky)
        asked = {"corruptions": {"defocus": [4], "brightness": [1]}, "windows": (), "run_times": ()} | options
        result = Drift(OnlineMMD(64, 5), streams=15, **asked).run(subject)
        for name, save in result.files.items():
            save(tmp_path / name)
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
    assert crossed.loc["harmful", ["alarm", "no alarm"]].tolist() == [15, 0]
    assert "found 15 of 15 (100 %) harmful streams of 12 images" in result.verdict
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
    result = ask(Data(offset=1.0))
    assert "alarms come over twice as often as promised" in caplog.text
    assert "below half of what was asked" in result.verdict
    assert result.notes[1].startswith("Alarms in control come over twice as often")
    good = ask()
    assert "kept" in good.verdict
    assert not any("twice as often" in note for note in good.notes)


def test_every_image_is_seen_and_its_errors_are_of_the_crops_that_are_of_use(ask, tmp_path):
    result = ask(Data(dropped=(3, 61, 75)))  # all crops of an image of each split
    assert OnlineMMD.load(tmp_path / FILE).reference.shape == (70, D)
    images = result.tables["per_image"].query("condition == 'clean'").set_index("id")
    assert len(images) == WELLS
    assert images["count error"].isna().sum() == 1
    assert np.isnan(images.loc["p:test05_f75", "count error"])
    assert images.loc["p:test05_f75", "group"] == "p:test05"
    assert any(
        note.startswith("3 images (of all conditions) without true objects, or with no crop") for note in result.notes
    )


def test_runs_along_a_plate_are_measured_where_wells_hold_several_fields(ask, tmp_path):
    several = ask(Data(per_well=6, alike=1.5), length=4)
    kept = OnlineMMD.load(tmp_path / FILE).in_control
    assert kept["by_well"]
    assert kept["steps"] / kept["alarms"] < 32, "64 were asked for"
    assert "fields of a well together" in several.verdict
    assert "below half of what was asked" in several.verdict
    assert several.notes[1].startswith("Alarms in control come over twice as often")
    assert any("a well's together" in note for note in several.notes)
    one = ask()
    assert not OnlineMMD.load(tmp_path / FILE).in_control["by_well"]
    assert "together" not in one.verdict + " ".join(one.notes)


def test_crops_one_after_another_ring_in_control_and_leave_no_detector(ask, tmp_path):
    alike, unlike = Data(crops=6, alike=1.5), Data(crops=6)
    images, crops, free = ask(alike), ask(alike, unit="crop"), ask(unlike, unit="crop")
    assert list(images.files) == [FILE]
    assert not crops.files
    longest = [int(result.tables["streams"]["run length"].max()) for result in (images, free)]
    assert longest == [12, 72], "streams of 12 images show 6 crops of each"
    assert "kept" in images.verdict
    assert "kept" in free.verdict
    assert "below half of what was asked" in crops.verdict
    assert any(note.startswith("The observation is the crop, and an image's follow") for note in crops.notes)
    assert "crops up to the alarm" in crops.captions["conditions"]
    sizes = itertools.cycle([1, 2])
    alike.zoom.windows = lambda shape: [(y, 0) for y in range(next(sizes))]
    with pytest.raises(ValueError, match=r"images give 1 to 2 crops.* take study\.unit=image"):
        ask(alike, unit="crop")


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
        ({"unit": "well"}, r"study\.unit is 'well': an observation is an image or a crop"),
        ({"streams": 1}, r"study\.streams is 1, at least 2"),
        ({"readouts": ["cuont"]}, r"study\.readouts is \['cuont'\]: there is no 'cuont'; name some of count, area"),
        ({"readouts": []}, r"study\.readouts is \[\]: without any, nothing could ever be harmful"),
        ({"windows": [5, 1]}, r"study\.windows=\[5, 1\].* window at least 2"),
        ({"run_times": [0.5]}, r"study\.run_times=\[0\.5\].* over 1 and finite"),
    ):
        with pytest.raises(ValueError, match=message):
            Drift(OnlineMMD(), **{"corruptions": {"defocus": [4]}} | changes)
    with pytest.raises(ValueError, match=r"study\.length is 1: a stream has at least 2 images"):
        Drift(OnlineMMD(), {"defocus": [4]}, length=1)


def test_intensities_are_refused_where_they_cannot_be_compared():
    study = Drift(OnlineMMD(), {"defocus": [4]}, readouts=["count", "mean_intensity"])
    study.check(Data())
    with pytest.raises(ValueError, match=r"names mean_intensity, .* name count and area alone, or train with data"):
        study.check(Data(comparable=False))


def test_reference_patches_are_plain_crops_of_the_whole_grid(config):
    data, _ = _build(config(*PAIRS), None)
    rows = np.flatnonzero(data.index["split"] == "train").tolist()[1:]
    plain = data.patches("test").plain(grid(data, rows))
    assert {row for row, _, _ in plain.windows} == set(rows)
    assert set(plain.windows) >= {window for window in data.patches("train").windows if window[0] in rows}
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
    arguments += [f"output_dir={tmp_path}/out", "data.plate.seed=6", "data.plate.wells=10", "study.mishaps=[not_fixed]"]
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
    assert conditions["condition"].tolist() == ["clean", "defocus 4", "not fixed"]
    assert pd.read_csv(tmp_path / "out/fixed_or_not.csv")["cells"].tolist() == ["fixed", "not fixed"]
    for name in ("report.html", "harm_against_alarm.png", "false_negatives.png", "run_lengths.png", "per_image.csv"):
        assert (tmp_path / "out" / name).stat().st_size > 500, name
