"""Learning curve, scaling and phenotype transfer: statistics against SciPy, made-up checkpoints, real ones."""

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from scipy import stats

from phenokeep.checkpoint import read_checkpoint
from phenokeep.imaging.tiles import Zoom
from phenokeep.run import evaluate, train
from phenokeep.studies import crossed
from phenokeep.studies.agreement import agreement
from phenokeep.studies.crossed_report import notes as crossed_notes
from phenokeep.studies.learning_curve import LearningCurve
from phenokeep.studies.phenotype_transfer import PhenotypeTransfer
from phenokeep.studies.scaling import Scaling
from phenokeep.studies.statistics import mean_of, paired_bootstrap
from phenokeep.studies.subject import Origin, Subject

LINES = ("CHOZN", "PHX", "H19")
TEST_WELLS = [f"p:T{k:02d}" for k in range(12)]  # of each phenotype in turn
TRAIN_WELLS = [f"p:A{k:02d}" for k in range(18)]


def table(skill, extra=0, wells=TEST_WELLS, per=4):
    """A per-image table as the callback gives it; `skill` 0 to 1, `extra` changes the noise alone."""
    rng, other = np.random.default_rng(0), np.random.default_rng(100 + extra)
    n = len(wells) * per
    true = rng.normal(40, 8, n)
    predicted = skill * true + (1 - skill) * other.normal(40, 8, n)
    rows = {"id": [f"f{k:02d}" for k in range(n)], "group": [wells[k % len(wells)] for k in range(n)]}
    rows |= {"mask_area": np.nan, "pearson/r": skill - 0.1 + 0.05 * other.random(n), "control/r": 0.2}
    for name in ("count", "area", "total_intensity", "mean_intensity"):
        rows |= {f"readouts/{name}_predicted": predicted, f"readouts/{name}_true": true}
    return pd.DataFrame(rows).assign(method="x")


class Patches(list):
    """Test samples by name and field."""

    def __init__(self, zoom):
        super().__init__((f"f{k:02d}", f"{TEST_WELLS[k % 12]}_1") for k in range(48))
        self.zoom = zoom

    def name(self, number):
        return self[number][0]

    def field(self, number):
        return self[number][1]


class Data:
    """What the studies ask of a DataModule."""

    of_pairs, comparable, targets, root, split_origin = True, True, ["nuclei"], "made/up", "by plate, seed 3"

    def __init__(self, zoom=None):
        wells = [(well, "test") for well in TEST_WELLS] + [(well, "train") for well in TRAIN_WELLS]
        rows = [
            {"id": f"{well}_{place}", "group": well, "split": side, "phenotype": LINES[int(well[-2:]) % 3]}
            for well, side in wells
            for place in (1, 2)
        ]
        self.index, self.zoom = pd.DataFrame(rows), zoom or Zoom(256, 256, 256)

    def cut(self, zoom):
        return Data(zoom)

    def patches(self, split):
        return Patches(self.zoom)


def subject(judge, wells, leaky=False, crops=None):
    """`wells`: name of a checkpoint to those it was trained on; the model of ckpt_path is the first."""
    names = list(wells)

    def origin(name):
        own = name or names[0]
        zoom = Zoom(*[(crops or {}).get(own, 256)] * 2, 256)
        return Origin("Translator", own, names.index(own), 1000, 60.0, leaky, frozenset(wells[own]), zoom)

    return Subject(Data(), judge=judge, origin=origin, leaky_split=leaky)


def test_correlation_is_scipys_under_weights_and_without_undefined_rows():
    rng = np.random.default_rng(0)
    made = pd.DataFrame({"x": rng.normal(1e6, 3, 20), "y": rng.normal(size=20)})
    made.loc[3, "y"] = np.nan
    weights = rng.integers(0, 4, (5, 20)).astype(float)
    found = crossed.Correlation("x", "y")(made, weights)
    for row, value in zip(weights, found, strict=True):
        often = made.loc[np.repeat(np.arange(20), row.astype(int))].dropna()
        assert value == pytest.approx(stats.pearsonr(often["x"], often["y"]).statistic)
    assert np.isnan(crossed.Correlation("x", "c")(made.assign(c=0.1), weights)).all()
    assert np.isnan(crossed.Correlation("x", "y")(made[:2], weights[:, :2])).all()


def test_intervals_are_those_of_agreement_and_differences_those_of_the_paired_bootstrap():
    first, second = table(0.8).assign(run=1), table(0.6, 1).assign(run=1)
    statistic = crossed.scores(True)["count r"]
    expected = agreement(first["readouts/count_predicted"], first["readouts/count_true"], first["group"], resamples=500)
    found = crossed.interval(first, statistic, 500, 0)
    assert found == pytest.approx([expected[f"Pearson{end}"] for end in ("", " low", " high")], abs=0.01)
    mean = mean_of("pearson/r")
    second.loc[5, "pearson/r"] = np.nan
    shuffled = second.sample(frac=1, random_state=1)
    assert crossed.difference(first, shuffled, mean, 300, 3) == pytest.approx(
        paired_bootstrap(first, second, mean, n=300, seed=3)
    )
    one = first.assign(group="p:A01")
    assert np.isnan(crossed.interval(one, statistic, 50, 0)[1:]).all(), "one well has no interval"
    # One image a well: no well defines a correlation by itself, and yet there is an interval.
    assert np.isfinite(crossed.interval(first[:12], statistic, 200, 0)).all()


def test_training_runs_are_judged_one_by_one():
    runs = pd.concat([table(0.6, extra).assign(run=extra) for extra in (1, 2, 3)])
    own = [stats.pearsonr(t["readouts/area_predicted"], t["readouts/area_true"])[0] for _, t in runs.groupby("run")]
    found = crossed.interval(runs, crossed.scores(True)["area r"], 200, 0)
    assert found.estimate == pytest.approx(np.mean(own))
    means = runs.groupby("id")[["readouts/area_predicted", "readouts/area_true"]].mean()
    assert found.estimate < stats.pearsonr(*means.to_numpy().T)[0] - 0.05, "an ensemble would look better"


def test_missing_checkpoints_are_named_with_the_command_that_makes_them(tmp_path):
    there = tmp_path / "there.ckpt"
    there.write_bytes(b"")
    crossed.require({"a": str(there)}, "labelfree_scaling")
    with pytest.raises(ValueError, match=r"no runs/labelfree/x/best.ckpt\. .*train.py -m sweep=labelfree_scaling\."):
        crossed.require({"a": str(there), "b": "runs/labelfree/x/best.ckpt"}, "labelfree_scaling")
    for study, name in ((LearningCurve, "learning_curve"), (Scaling, "scaling"), (PhenotypeTransfer, "phenotype_tr")):
        with pytest.raises(ValueError, match=rf"\(and 1 more\).*sweep=labelfree_{name}\w* runs=/elsewhere"):
            study({"a": "/elsewhere/labelfree/a.ckpt", "b": ["b.ckpt"], "c": None}).check(Data())
    with pytest.raises(ValueError, match="no targets"):
        Scaling(None).check(SimpleNamespace(of_pairs=False))


def test_the_curve_stands_at_what_checkpoints_were_trained_on_and_is_sorted_by_it():
    wells = {"all": TRAIN_WELLS, "half": TRAIN_WELLS[:9], "few a": TRAIN_WELLS[:4], "few b": TRAIN_WELLS[:4]}
    skills = {None: 0.97, "half": 0.9697, "few a": 0.5, "few b": 0.52, "other_image": 0.0}

    def judge(name, samples=None):
        return table(skills[name], list(skills).index(name))

    asked = subject(judge, wells)
    result = LearningCurve({"all": "all", "half": "half", "few": ["few a", "few b"]}, n_bootstrap=250).run(asked)
    curve = result.tables["curve"].set_index("checkpoint")
    assert curve.index.tolist() == ["few", "half", "all", "other_image"]
    assert curve["training wells"].tolist()[:3] == [4, 9, 18]
    assert curve["training images"].tolist()[:3] == [8, 18, 36]
    assert curve["training seeds"].tolist() == [2, 1, 1, 0]
    assert result.tables["runs"]["split"].unique().tolist() == ["by plate, seed 3"]
    assert curve.loc["all", "PCC loss"] == pytest.approx((1 - table(0.97)["pearson/r"].mean()) / 2, abs=0.01)
    assert curve["control r"].tolist() == pytest.approx([0.2] * 4)
    assert curve.loc["all", "count r low"] > 0.9
    verdicts = result.tables["comparisons"].set_index(["checkpoint", "score"])["verdict"]
    assert (verdicts["few"] == "worse").all()
    assert verdicts["half"].str.startswith("not distinguished, n = 12 wells").all()
    assert "From 4 to 18 training wells: Pearson r 0.4" in result.verdict
    assert "Not distinguished from all in any score: half (n = 12 wells)" in result.verdict
    assert "hint" not in result.verdict
    FigureCanvasAgg(result.figures["learning_curve"]).draw()
    for wrong, message in (({"all": ["p:Z99"]}, "Z99"), ({"few b": TRAIN_WELLS[:5]}, "different wells")):
        with pytest.raises(ValueError, match=message):
            LearningCurve({"all": "all", "few": ["few a", "few b"]}).run(subject(judge, wells | wrong))


def test_scaling_judges_every_checkpoint_at_every_factor():
    crops = {"small": 366, "large": 197}

    def judge(name, samples):
        trained = 256 / crops.get(name, 256)
        gap = abs(np.log(256 / samples.zoom.crop / trained))
        assert samples.zoom.stride == samples.zoom.crop in (366, 256, 197)
        return table(0.0 if name == "other_image" else 0.95 - 0.6 * gap, len(name or ""))

    asked = subject(judge, {"own": TRAIN_WELLS, "small": TRAIN_WELLS, "large": TRAIN_WELLS}, crops=crops)
    result = Scaling({"at 0.7": "small", "at 1.0": "own", "at 1.3": "large"}, n_bootstrap=750).run(asked)
    found = result.tables["matrix"].set_index(["checkpoint", "judged at"])
    assert len(found) == 12
    for factor in ("0.7", "1.0", "1.3"):
        column = found["count r"].xs(factor, level=1).drop("other_image")
        assert column.idxmax() == f"at {factor}"
    compared = result.tables["comparisons"]
    assert set(zip(compared["judged at"], compared["against"], strict=True)) == {
        (factor, f"at {factor}") for factor in ("0.7", "1.0", "1.3")
    }
    worst = compared.set_index(["judged at", "checkpoint", "score"]).loc[("1.3", "at 0.7", "count r")]
    assert worst["verdict"] == "worse"
    assert worst["difference"] == pytest.approx(found["count r"]["at 0.7", "1.3"] - found["count r"]["at 1.3", "1.3"])
    assert "The greatest loss: at" in result.verdict
    assert ".987 .902 .922 .991" in result.captions["matrix_by_score"]
    figure = result.figures["matrix_by_score"]
    FigureCanvasAgg(figure).draw()
    words = [text.get_text() for axes in figure.axes[:1] for text in axes.texts]
    assert words[0].startswith(f"{found['Pearson r'].iloc[0]:.3f}\n[")
    with pytest.raises(ValueError, match=r"seeds of both saw cells at the factors 0\.70, 1\.30"):
        Scaling({"both": ["small", "large"]}).run(asked)
    with pytest.raises(ValueError, match=r"study\.factors"):
        Scaling(None, factors=[1.0, 1.0])


def test_phenotypes_are_those_of_the_index_and_of_the_wells_trained_on():
    of = {line: [well for k, well in enumerate(TRAIN_WELLS) if LINES[k % 3] == line] for line in LINES}
    far = {None: "CHOZN", "PHX": "PHX", "H19": "H19"}

    def judge(name, samples=None):
        number = list(far).index(name) if name in far else 9
        made, good = table(0.0, number), table(0.95, number)
        own = made["group"].str[-2:].astype(int) % 3 == (LINES.index(far[name]) if name in far else -1)
        return good.where(own, made)

    asked = subject(judge, of)
    named = {"CHOZN": "CHOZN", "PHX": "PHX", "H19": "H19"}
    result = PhenotypeTransfer(named, n_bootstrap=750).run(asked)
    found = result.tables["matrix"].set_index(["checkpoint", "judged on"])
    assert (found["images"] == 16).all()
    assert (found["wells"] == 4).all()
    for line in LINES:
        own = judge(None if line == "CHOZN" else line)
        own = own[own["group"].str[-2:].astype(int) % 3 == LINES.index(line)]
        expected = stats.pearsonr(own["readouts/count_predicted"], own["readouts/count_true"])[0]
        assert found["count r"][line, line] == pytest.approx(expected)
    compared = result.tables["comparisons"]
    assert set(zip(compared["judged on"], compared["against"], strict=True)) == {(line, line) for line in LINES}
    assert (compared.loc[compared["score"] == "Pearson r", "verdict"] == "worse").all()
    assert "Fewer than 8 wells: a hint" in result.verdict
    assert "Leaky split" in PhenotypeTransfer(named, n_bootstrap=750).run(subject(judge, of, leaky=True)).verdict
    with pytest.raises(ValueError, match="CHOZN was trained on CHOZN, PHX"):
        PhenotypeTransfer(named).run(subject(judge, of | {"CHOZN": of["CHOZN"] + of["PHX"]}))
    data = Data()
    data.index = data.index.drop(columns="phenotype")
    with pytest.raises(ValueError, match=r"no column phenotype; its columns are id, group, split.*cell_lines"):
        PhenotypeTransfer(None).check(data)


def test_intensities_in_units_of_their_own_are_told_with_both_reasons():
    asked = subject(None, {"own": TRAIN_WELLS})
    asked.datamodule.comparable = False
    (note,) = (n for n in crossed_notes(asked, table(0.5).assign(checkpoint="own", kind="network", run=1), 12, 9, 0)
               if "not comparable" in n)  # fmt: skip
    assert "data.scaling=paper" in note
    assert "data.prepare" in note


def test_tables_of_other_images_or_without_readouts_are_refused():
    def judge(name, samples=None):
        return table(0.5).drop(columns="pearson/r") if name == "bare" else table(0.5).iloc[: -1 if name else None]

    asked = subject(judge, {"own": TRAIN_WELLS})
    for name, message in (("bare", "lacks pearson/r: judge with metrics=translation"), ("short", "other images")):
        with pytest.raises(ValueError, match=message):
            crossed.judge_all(asked, {"own": [None], name: [name]}, [])


@pytest.fixture(scope="module")
def trained(runs, tmp_path_factory):
    """One tiny run on two plates of two cell lines; copies say that they saw one line, or other crops."""
    from conftest import SMALL
    from hydra import compose, initialize_config_module

    folder = tmp_path_factory.mktemp("crossed")
    last = f"callbacks.last={{_target_: phenokeep.callbacks.Last, folder: '{folder}', every_n_steps: 100}}"
    more = ["data.plates=2", "data.cell_lines=[CHOZN,H19]", "model.net.filters=2", "data.plate.wells=4", last]
    with initialize_config_module("phenokeep.configs", version_base="1.3"):
        cfg = compose("train", [*SMALL, "experiment=labelfree/nuclei", *more, f"runs={runs}", f"output_dir={folder}"])
        train(cfg)
    saved = read_checkpoint(folder / "last.ckpt")
    index = pd.read_csv(next(path for path in (runs / "data").glob("pairs_*/index.csv") if "H19" in path.read_text()))
    lines = dict(zip(index["plate"] + ":" + index["well"], index["phenotype"], strict=True))
    for line in ("CHOZN", "H19"):
        wells = [well for well in saved["trained_on"] if lines[well] == line]
        torch.save(saved | {"trained_on": wells}, folder / f"{line}.ckpt")
    saved["config"]["data"]["zoom"] |= {"crop": 160, "stride": 160}
    torch.save(saved, folder / "wide.ckpt")
    return folder


@pytest.mark.parametrize(
    ("study", "checkpoints", "more"),
    [
        ("learning_curve", {"two plates": "last", "one line": "CHOZN"}, []),
        (
            "scaling",
            {"at 0.8": "wide", "at 1.0": "last"},
            ["study.factors=[0.8,1.0]"],
        ),
        ("phenotype_transfer", {"CHOZN": "CHOZN", "H19": "H19"}, []),
    ],
)
def test_they_judge_checkpoints_from_end_to_end(trained, tmp_path, study, checkpoints, more):
    from hydra import compose, initialize_config_module

    from phenokeep.cli import _register_checkpoint

    files = ", ".join(f"{label}: '{trained / name}.ckpt'" for label, name in checkpoints.items())
    own = [f"ckpt_path={trained}/last.ckpt", f"study={study}", "~study.checkpoints", f"+study.checkpoints={{{files}}}"]
    arguments = _register_checkpoint([*own, "study.n_bootstrap=500", "trainer.limit_test_batches=1.0", *more])
    with initialize_config_module("phenokeep.configs", version_base="1.3"):
        evaluate(compose("eval", [*arguments, f"output_dir={tmp_path}"]))
    images = pd.read_csv(tmp_path / "per_image.csv")
    assert set(checkpoints) | {"other_image"} <= set(images["checkpoint"])
    assert "control/r" in images
    main = pd.read_csv(tmp_path / ("curve.csv" if study == "learning_curve" else "matrix.csv"))
    assert {"Pearson r", "PCC loss", "count r", "area r", "control r"} <= set(main)
    if study == "learning_curve":
        wells = main.set_index("checkpoint")["training wells"]
        assert 0 < wells["one line"] < wells["two plates"]
    if study == "scaling":
        widths = images.groupby("judged at")["id"].nunique()
        assert widths[0.8] < widths[1.0], "larger crops are fewer"
    assert "virtual microscope" in (tmp_path / "report.html").read_text()
