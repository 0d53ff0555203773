"""Networks judged by band of mask area: what may be compared, training seeds, and what is concluded of the order."""

import re
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from test_report import judged as drawn_table

from phenokeep.checkpoint import CheckpointError
from phenokeep.datamodules.scaling import Scaling
from phenokeep.imaging.masks import Rectangles
from phenokeep.imaging.tiles import Zoom
from phenokeep.methods import Methods, check_fits
from phenokeep.run import evaluate, train
from phenokeep.studies import mask_area_words as words
from phenokeep.studies.judged import contestants, seed_mean
from phenokeep.studies.mask_area import MaskArea, _even_ranks
from phenokeep.studies.statistics import mean_of, paired_bootstrap
from phenokeep.studies.subject import Origin, Subject

ORDER = ["EdgeConnect", "DeepFill", "ContextEncoder"]
CLASSES = {"e": "EdgeConnect", "d": "DeepFill", "c": "ContextEncoder"}


def table(name: str, skill: float, wells: int = 9) -> pd.DataFrame:
    """A drawn per-image table of a named method."""
    own = drawn_table("telea", wells=wells, skill=skill).assign(method=name)
    noise = np.random.default_rng(list(map(ord, name))).normal(0, 0.01, len(own))
    return own.assign(**{"phirm/phirm": own["phirm/phirm"] + noise, "phirm_paper/phirm": own["phirm/phirm"] - 0.1})


def ask(skills: dict[str, float], wells: int = 9, leaky=(), **options):
    """The study over made-up checkpoints, named by their class's first letter and the number of their seed."""

    def judge(name, samples=None):
        name = next(iter(skills)) if name is None else name
        return table(name, skills.get(name, 0.3), wells)

    def origin(name):
        if name is None:
            return origin(next(iter(skills)))
        network = CLASSES.get(name[0], name)
        return Origin(network, Path(name), ord(name[-1]), 100, 5.0, name in leaky)

    labels: dict[str, list[str]] = {}
    for name in skills:
        labels.setdefault(CLASSES[name[0]], []).append(name)
    study = MaskArea(labels, ["background_median"], ["telea"], order=ORDER, n_bootstrap=1100, pictures=0, **options)
    data = SimpleNamespace(masks=Rectangles(), split_origin="by plate, seed 3")
    return study.run(Subject(data, judge=judge, origin=origin))


@pytest.fixture(scope="module")
def ordered():
    return ask({"e0": 0.9, "e1": 0.8, "d0": 0.6, "c0": 0.2}, leaky={"d0"})


def test_seeds_are_averaged_per_image_before_wells_are_resampled(ordered):
    seeds = [table("e0", 0.9), table("e1", 0.8)]
    large = [seed[seed["mask_area"] > 0.3] for seed in seeds]
    row = ordered.tables["methods"].set_index("method").loc["EdgeConnect"]
    assert row["PhIRM"] == pytest.approx(np.mean([one["phirm/phirm"].mean() for one in large]))
    tp, fp, fn = (sum(one[f"nuclei/rim_{part}"].sum() for one in large) for part in ("tp", "fp", "fn"))
    assert row["rim F1"] == pytest.approx(2 * tp / (2 * tp + fp + fn))
    own = [one["phirm/phirm"].mean() for one in large]
    text = f"{min(own):.3f} to {max(own):.3f}, SD {np.std(own, ddof=1):.3f} (2 seeds)"
    assert row["PhIRM over seeds"] == text
    assert row["samples"] == 200
    methods = ordered.tables["methods"].set_index("method")
    assert methods.loc["DeepFill", "PhIRM over seeds"] == "one training seed"
    assert methods.loc["telea", "PhIRM over seeds"] == ""
    # Averaged first, resampled then: the difference is that of the images' means.
    means = seed_mean(large).sort_values("id")
    for column in ("phirm/phirm", "nuclei/rim_tp"):
        plain = [np.mean([one.set_index("id").loc[i, column] for one in large]) for i in means["id"]]
        assert means[column].tolist() == pytest.approx(plain)
    rival = table("d0", 0.6)
    expected = paired_bootstrap(means, rival[rival["mask_area"] > 0.3], mean_of("phirm/phirm"), n=1100)
    found = ordered.tables["comparisons"].query("score == 'PhIRM' and against == 'DeepFill'").iloc[0]
    assert (found["difference"], found["difference low"]) == pytest.approx(expected[:2])


def test_every_seed_stands_by_itself(ordered):
    seeds = ordered.tables["seeds"]
    one = seeds.query("checkpoint == 'e1' and band == '10-20 %'").iloc[0]
    own = table("e1", 0.8).query("mask_area < 0.2")
    assert one["PhIRM"] == pytest.approx(own["phirm/phirm"].mean())
    assert (one["training seed"], one["split"]) == (ord("1"), "by plate, seed 3")
    assert seeds.groupby("method")["checkpoint"].nunique().to_dict() == {
        "EdgeConnect": 2, "DeepFill": 1, "ContextEncoder": 1
    }  # fmt: skip


def test_presets_figures_and_the_leaky_checkpoint_are_told(ordered):
    assert set(ordered.figures) == {"phirm_by_mask_area", "rim_f1_by_mask_area", "phirm_paper_by_mask_area"}
    methods = ordered.tables["methods"].set_index("method")
    assert methods.loc["telea", "PhIRM paper"] == pytest.approx(methods.loc["telea", "PhIRM"] - 0.1, abs=0.02)
    assert methods["split"].to_dict() == {
        "EdgeConnect": "by plate, seed 3", "DeepFill": "leaky", "ContextEncoder": "by plate, seed 3",
        "background_median": "", "telea": "",
    }  # fmt: skip
    assert ordered.verdict.endswith("Leaky split: DeepFill.")
    assert "Leaky split: test wells were in the training of DeepFill" in ordered.notes[0]
    notes = " ".join(ordered.notes)
    assert "One training seed: DeepFill, ContextEncoder" in notes
    assert "those of data.masks (Rectangles)" in notes
    assert "what a checkpoint started from (model.init_from) are not counted; its wells are" in notes
    assert "without earlier stages" in ordered.captions["methods"]
    images = ordered.tables["per_image"].query("band.notna()")
    size = f"n = {images['id'].nunique()} images of 9 wells"
    assert size in ordered.captions["phirm_by_mask_area"]
    assert size not in ordered.captions["methods"]  # that one is of the pooled bands
    rows = ordered.tables["comparisons"]
    assert len(rows) == 3 * (3 + 3 * 2)
    assert (rows["p Holm"] >= rows["p"]).all()
    assert "The paper's order (EdgeConnect >= DeepFill > ContextEncoder) appears." in ordered.verdict
    assert "By PhIRM, EdgeConnect beats DeepFill (+0." in ordered.verdict
    bar = rows.query("score == 'rim F1' and `kind of rival` == 'best classical fill'").set_index("method")["verdict"]
    assert bar.to_dict() == {"EdgeConnect": "beats", "DeepFill": "beats", "ContextEncoder": "worse"}
    told = "the best classical fill (telea) is beaten by EdgeConnect and DeepFill, beats ContextEncoder"
    assert told in ordered.verdict.split("By rim F1")[1]


@pytest.mark.parametrize(
    ("differences", "told"),
    [  # EdgeConnect - DeepFill, DeepFill - ContextEncoder, ContextEncoder - EdgeConnect (the order of the pair turned)
        ([(0.1, "beats"), (0.2, "beats"), (-0.3, "worse")], "appears."),
        ([(0.01, "not distinguished"), (0.2, "beats"), (-0.2, "worse")], "appears."),
        ([(-0.01, "not distinguished"), (0.2, "beats"), (-0.2, "worse")],
         "is not shown: e and d are not distinguished, n = 9 wells."),
        ([(0.1, "beats"), (0.01, "not distinguished"), (-0.2, "worse")],
         "is not shown: d and c are not distinguished, n = 9 wells."),
        ([(-0.1, "worse"), (0.2, "beats"), (0.02, "not distinguished")],
         "does not appear: d beats e; e and c are not distinguished, n = 9 wells."),
        ([(0.1, "beats"), (-0.2, "worse"), (0.1, "beats")], "does not appear: c beats d; c beats e."),
    ],
)  # fmt: skip
def test_the_papers_order_is_found_only_where_it_is(differences, told):
    rows = [
        {"score": "PhIRM", "method": first, "against": second, "kind of rival": "network", "difference": value,
         "difference low": value - 0.1, "difference high": value + 0.1, "verdict": verdict}
        for (first, second), (value, verdict) in zip(("ed", "dc", "ce"), differences, strict=True)
    ]  # fmt: skip
    text = words.verdict(pd.DataFrame(rows), CLASSES, ORDER, "above 30 %", 9)
    assert text.splitlines()[0].endswith(f"The paper's order (EdgeConnect >= DeepFill > ContextEncoder) {told}")
    alone = words.verdict(pd.DataFrame(rows[:1]), {"e": "EdgeConnect", "d": "DeepFill"}, ORDER, "above 30 %", 9)
    assert alone.splitlines()[0].endswith("cannot be judged: no checkpoint of ContextEncoder was given.")


@pytest.mark.parametrize(("low", "verdict", "beside"), [
    (0.01, "not distinguished, n = 9 wells", " before Holm's correction"),
    (-0.01, "not distinguished, n = 9 wells", ""), (0.01, "beats", ""),
])  # fmt: skip
def test_an_interval_without_zero_that_is_not_distinguished_says_that_it_is_not_corrected(low, verdict, beside):
    row = {"score": "PhIRM", "method": "e", "against": "d", "kind of rival": "network", "difference": 0.1,
           "difference low": low, "difference high": 0.2, "verdict": verdict}  # fmt: skip
    assert f"{low:+.2f} to +0.20{beside})." in words.verdict(pd.DataFrame([row]), {}, [], "above 30 %", 9)


def test_pictures_are_from_best_to_worst_also_where_no_nucleus_is_cut():
    images = pd.DataFrame(
        {"id": list("aabbccdd"), "nuclei/rim_f1": [0.2, 0.4, 0.9, 0.9, np.nan, np.nan, 0.5, 0.7],
         "phirm/phirm": [0.9, 0.9, 0.5, 0.5, 1.0, 1.0, 0.8, 0.8]}
    )  # fmt: skip
    assert _even_ranks(images, 3) == ["b", "d", "a"]
    assert _even_ranks(images.assign(**{"nuclei/rim_f1": np.nan}), 2) == ["c", "b"]


def test_the_sweep_trains_every_seed_on_one_split_and_its_words_name_what_it_makes():
    from hydra import compose, initialize_config_module

    with initialize_config_module("phenokeep.configs", version_base="1.3"):
        said = Path(__file__).parents[1].joinpath("configs/sweep/phirm_networks.yaml").read_text()
        for seed in (0, 2):
            cfg = compose("train", ["sweep=phirm_networks", f"seed={seed}"], return_hydra_config=True)
            assert (cfg.seed, cfg.data.seed) == (seed, 0)
    swept = cfg.hydra.sweeper.params.experiment.split(",")
    named = set(re.findall(r"runs/([\w/]+)/seed_0/best\.ckpt", said))
    assert named == {"phirm/context_encoder", "phirm/deepfill", "phirm/edge_connect/finetune"}
    assert named <= set(swept)


def subject_of(paths: dict[str | None, str]) -> Subject:
    return Subject(origin=lambda name: Origin("Restorer", Path(paths[name]).resolve()))


def test_the_model_is_judged_once_whether_named_or_not():
    known = subject_of({None: "a", "a": "a", "./a": "a", "b": "b"})
    assert contestants(known, {"A": ["./a", "b"]}) == {"A": [None, "b"]}
    assert contestants(known, {"B": "b"}) == {"Restorer": [None], "B": ["b"]}
    with pytest.raises(ValueError, match="twice"):
        contestants(known, {"A": ["a", "./a"]})
    with pytest.raises(ValueError, match="no checkpoint"):
        contestants(known, {"A": []})
    with pytest.raises(ValueError, match="another label"):
        contestants(known, {"Restorer": "b"})


@pytest.mark.parametrize(
    ("second", "message"),
    [(Origin("Restorer", Path("b"), 0), "'A' names several checkpoints of training seed 0.*each its own label"),
     (Origin("DeepFill", Path("b"), 1), "'A' names Restorer and DeepFill: give each its own label")],
)  # fmt: skip
def test_a_label_is_one_network_from_several_seeds(second, message):
    origins = {None: Origin("Restorer", Path("a"), 0), "a": Origin("Restorer", Path("a"), 0), "b": second}
    with pytest.raises(ValueError, match=message):
        contestants(Subject(origin=origins.get), {"A": ["a", "b"]})
    assert contestants(Subject(origin=origins.get), {"A": "a", "B": "b"}) == {"A": [None], "B": ["b"]}


def test_wrong_choices_are_refused():
    with pytest.raises(ValueError, match="name of a fill"):
        MaskArea({"telea": "a.ckpt"}, [], ["telea"])
    with pytest.raises(ValueError, match=r"study\.pictures is -1"):
        MaskArea(None, [], [], pictures=-1)
    for above in (0.6, 0.25):  # in the midst of a band: "above 25 %" would leave out holes of 25 to 30 %
        with pytest.raises(ValueError, match=rf"study\.above is {above}.*choose where one of them begins"):
            MaskArea(None, [], [], above=above).check(SimpleNamespace(of_pairs=False, masks=Rectangles()))
    study = MaskArea({"A": "b"}, [], ["telea"], n_bootstrap=300)
    with pytest.raises(ValueError, match="use at least 600"):
        study.run(Subject(judge=lambda name: None, origin=lambda name: Origin("B", Path(str(name)))))


RANGES = {"p": {"nuclei": [100.0, 900.0]}}
DATA = {"channels": ["nuclei"], "zoom": {"_target_": "phenokeep.imaging.tiles.Zoom", "crop": 64, "stride": 32,
                                        "size": 128}}  # fmt: skip


def data_of(**changes):
    scaling = Scaling("plate", RANGES, 0.65)
    index = pd.DataFrame({"plate": ["p", "q"], "split": ["test", "train"]})
    values = {"channels": ["nuclei"], "zoom": Zoom(64, 64, 128), "scaling": scaling, "index": index, **changes}
    return SimpleNamespace(NAMED=("channels",), of_pairs=False, **values)


SCALING = {"kind": "plate", "ranges": RANGES, "pixel_size": 0.65}
MASK = {"nuclei": {"_target_": "phenokeep.imaging.prepare.OrganelleMask", "organelle": "nuclei"}}


def test_a_checkpoint_of_the_same_data_fits_and_an_unknown_plate_is_warned_of(caplog):
    check_fits(DATA, {**SCALING, "pixel_size": 0.651}, data_of(), "a.ckpt")
    assert not caplog.records
    check_fits(DATA, {**SCALING, "ranges": {"other": RANGES["p"]}}, data_of(), "a.ckpt")
    assert "not trained on plate 'p'" in caplog.text


@pytest.mark.parametrize(
    ("config", "scaling", "message"),
    [
        ({"channels": ["er"]}, {}, r"channels \['er'\], the data give \['nuclei'\].*Train it with this data.channels"),
        ({"zoom": DATA["zoom"] | {"size": 64}}, {}, "64 px of the field as 64 px, the data give 64 px .* as 128 px"),
        ({}, {"kind": "paper", "ranges": {}}, r"data\.scaling=paper, the data have plate"),
        ({}, {"pixel_size": 0.325}, r"0\.325 um per pixel, the data have 0\.65"),
        (
            {"prepare": MASK},
            {"ranges": {}},
            r"data\.prepare=\{nuclei:.*have data\.prepare=null.*this data\.prepare",
        ),
        ({}, {"ranges": {"p": {"nuclei": [100.0, 901.0]}}}, r"from 100 to 901 counts, .* 100 to 900: .*data\.seed"),
    ],
)
def test_a_checkpoint_of_other_data_is_refused(config, scaling, message):
    with pytest.raises(CheckpointError, match=f"a.ckpt .*{message}"):
        check_fits(DATA | config, SCALING | scaling, data_of(), "a.ckpt")


@pytest.fixture(scope="module")
def two_seeds(runs, tmp_path_factory):
    """Two tiny restorers of one split, and one of another."""
    from conftest import SMALL
    from hydra import compose, initialize_config_module

    folder = tmp_path_factory.mktemp("seeds")
    paths = []
    for seed, split in ((0, 0), (1, 0), (0, 3)):
        with initialize_config_module("phenokeep.configs", version_base="1.3"):
            out = f"output_dir={folder}/{seed}_{split}"
            best = "callbacks.last={_target_: phenokeep.callbacks.Last, folder: '${output_dir}'}"
            options = [f"runs={runs}", out, best, f"seed={seed}", f"data.seed={split}"]
            train(compose("train", [*SMALL, *options]))
        paths.append(f"{folder}/{seed}_{split}/last.ckpt")
    return paths


def asked(path: str, out: Path, *overrides: str):
    """The eval config that the command line would compose for a checkpoint."""
    from hydra import compose, initialize_config_module

    from phenokeep.cli import _register_checkpoint

    arguments = _register_checkpoint([f"ckpt_path={path}", "debug=tiny", *overrides])
    with initialize_config_module("phenokeep.configs", version_base="1.3"):
        return compose("eval", [*arguments, f"output_dir={out}"])


FEW = ("study.pictures=1", "study.n_bootstrap=300", "study.nulls=[other_field]", "study.classical=[telea]")


def test_it_runs_end_to_end_on_two_seeds(two_seeds, tmp_path):
    given = f"{{Small U-Net: [{two_seeds[0]}, {two_seeds[1]}]}}"
    evaluate(asked(two_seeds[0], tmp_path, "study=mask_area", f"study.checkpoints={given}", *FEW))
    methods = pd.read_csv(tmp_path / "methods.csv").set_index("method")
    assert methods.index.tolist()[0] == "Small U-Net"
    assert len(methods) == 1 + 2
    assert {"PhIRM paper", "rim F1", "inner F1", "PSNR", "SSIM", "samples", "training (s)"} <= set(methods)
    assert pd.read_csv(tmp_path / "seeds.csv")["training seed"].unique().tolist() == [0, 1]
    for name in ("report.html", "phirm_by_mask_area.png", "phirm_paper_by_mask_area.png", "examples.png"):
        assert (tmp_path / name).stat().st_size > 1000


def test_modules_come_by_name_and_other_splits_are_refused(two_seeds, config):
    from phenokeep.checkpoint import read_checkpoint
    from phenokeep.run import _build

    cfg = config("data.seed=0")
    saved = read_checkpoint(two_seeds[0])
    data, model = _build(cfg, saved["scaling"])
    methods = Methods(model, data, two_seeds[0], saved)
    batch = data.samples("test", [data.patches("test").name(0)])
    for name in (None, "telea", two_seeds[1]):
        with torch.inference_mode():
            made = methods.module(name).test_step(batch, 0)["prediction"]
        known = batch["mask"].expand_as(made) == 0
        assert torch.equal(made[known], batch["source"][known])
    assert methods.module(None) is model
    origin = methods.origin(two_seeds[1])
    assert (origin.network, origin.seed, origin.leaky) == ("Restorer", 1, False)
    assert origin.path == Path(two_seeds[1]).resolve()
    assert methods.origin("telea") == Origin("telea")
    with pytest.raises(CheckpointError, match=r"training wells were others.*data\.seed"):
        methods.module(two_seeds[2])
    with pytest.raises(CheckpointError, match="is no fill"):
        methods.origin("tela")
    leaky = Methods(model, data, two_seeds[0], saved | {"trained_on": data.groups("test")[:1]})
    assert leaky.origin(None).leaky
