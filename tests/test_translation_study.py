"""The study of translations on made-up tables against SciPy and plain loops, and once from training to report."""

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import tifffile
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from scipy import stats

from phenokeep.callbacks.metrics import Measured
from phenokeep.callbacks.pictures import draw_grid
from phenokeep.checkpoint import CheckpointError, read_checkpoint
from phenokeep.datamodules.pair_patches import PairPatches
from phenokeep.datamodules.patches import FieldReader
from phenokeep.datamodules.scaling import Scaling
from phenokeep.imaging.tiles import Zoom
from phenokeep.methods import Methods, check_fits
from phenokeep.metrics import Readouts
from phenokeep.models.fills import OtherImage
from phenokeep.models.image_losses import Pearson
from phenokeep.models.nets.labelfree_unet import LabelfreeUNet
from phenokeep.models.translator import Translator
from phenokeep.run import _build, evaluate, train
from phenokeep.studies.mask_area import MaskArea
from phenokeep.studies.mask_shape import MaskShape
from phenokeep.studies.restoration import Restoration
from phenokeep.studies.restore_or_exclude import RestoreOrExclude
from phenokeep.studies.subject import Subject
from phenokeep.studies.translation import Translation
from phenokeep.studies.whole_fields import WholeFields

PAIRS = ("experiment=labelfree/nuclei", "data=virtual_pairs")
INTENSITIES = ["total_intensity", "mean_intensity"]


def table(method="Translator", wells=10, per=3, skill=1.0):
    """A per-image table as the callback gives it; with skill 0 what is predicted has nothing to do with the truth."""
    rng, other = np.random.default_rng(0), np.random.default_rng(1)
    n = wells * per
    true = rng.normal(40, 8, n)
    predicted = skill * true + (1 - skill) * other.normal(40, 8, n) + rng.normal(0, 2, n) + 1.5
    rows = {"id": [f"f{k:02d}" for k in range(n)], "group": [f"p:{k % wells:02d}" for k in range(n)]}
    rows |= {"mask_area": np.nan, "pearson/r": rng.uniform(0.6, 0.9, n) * skill, "pearson/mse": rng.random(n)}
    for name, factor in {"count": 1, "area": 600, "total_intensity": 200, "mean_intensity": 0.01}.items():
        rows |= {f"readouts/{name}_predicted": factor * predicted, f"readouts/{name}_true": factor * true}
    return pd.DataFrame(rows).assign(method=method)


class Drawing:
    """A model that draws every target at 0.8 of its light."""

    def cpu(self):
        return self

    def test_step(self, batch, batch_idx):
        return {"prediction": 0.8 * batch["target"]}


def ask(wells=10, leaky=False, comparable=True, change=lambda table: table, targets=("nuclei",), **options):
    def judge(name, samples=None):
        return change(table(name or "Translator", wells, skill=0.0 if name else 1.0))

    def samples(split, ids):
        return {name: torch.rand(len(ids), planes, 32, 32) for name, planes in shapes.items()}

    shapes = {"source": 1, "target": len(targets)}
    data = SimpleNamespace(of_pairs=True, comparable=comparable, targets=list(targets), samples=samples)
    subject = Subject(data, judge=judge, module=lambda name: Drawing(), leaky_split=leaky)
    return Translation(n_bootstrap=300, **options).run(subject)


@pytest.fixture(scope="module")
def result():
    return ask()


def test_numbers_are_those_of_scipy_and_of_plain_loops(result):
    own = table()
    methods = result.tables["methods"].set_index("method")
    assert methods.index.tolist() == ["Translator", "other_image"]
    row = methods.loc["Translator"]
    assert row["Pearson r"] == pytest.approx(own["pearson/r"].mean())
    assert row["MSE"] == pytest.approx(own["pearson/mse"].mean())
    assert (row["images"], row["wells"]) == (30, 10)
    # The wells' bootstrap by a plain loop: wells, then the images in each, with other random numbers.
    rng = np.random.default_rng(9)
    inside = [group["pearson/r"].to_numpy() for _, group in own.groupby("group")]
    means = [np.mean([rng.choice(inside[w], 3) for w in rng.integers(0, 10, 10)]) for _ in range(2000)]
    assert [row["Pearson r low"], row["Pearson r high"]] == pytest.approx(np.quantile(means, [0.025, 0.975]), abs=0.01)
    numbers = result.tables["agreement"].set_index(["method", "readout"])
    for method, skill in {"Translator": 1.0, "other_image": 0.0}.items():
        made = table(method, skill=skill)
        for name in ("count", "area", *INTENSITIES):
            predicted, true = (made[f"readouts/{name}_{side}"] for side in ("predicted", "true"))
            found = numbers.loc[(method, name)]
            assert found["Pearson"] == pytest.approx(stats.pearsonr(predicted, true).statistic)
            assert found["bias"] == pytest.approx((predicted - true).mean())
            assert found["reason"] == ""
    assert numbers.loc[("Translator", "count"), "Pearson low"] > 0.9 > numbers.loc[("other_image", "count"), "Pearson"]


def test_the_verdict_gives_correlation_and_bias_with_intervals(result):
    row = result.tables["agreement"].iloc[0]
    assert f"count r {row['Pearson']:.3f} [{row['Pearson low']:.3f}, {row['Pearson high']:.3f}], bias" in result.verdict
    assert "30 images of 10 wells" in result.verdict
    assert "other_image reaches" in result.verdict
    assert "not shown" not in result.verdict
    assert "hint" not in result.verdict
    unlike = ask(change=lambda own: own.assign(**{"readouts/count_predicted": own["readouts/area_true"][::-1].values}))
    assert "not shown to follow the truth" in unlike.verdict
    few = ask(wells=4, leaky=True)
    assert "Fewer than 8 wells: a hint" in few.verdict
    assert "Leaky split" in few.verdict
    assert few.notes[0].startswith("Leaky split")
    one = ask(wells=1)
    assert "not shown to follow" in one.verdict, "without an interval nothing is shown"
    same = ask(change=lambda own: own.assign(**{"readouts/count_predicted": 7.0}))
    assert "no correlation is defined (predicted is constant)" in same.verdict


def test_intensities_stretched_by_image_are_not_compared():
    result = ask(comparable=False)
    numbers = result.tables["agreement"].set_index("readout")
    assert numbers.loc[INTENSITIES, "reason"].str.startswith("not comparable").all()
    assert numbers.loc[INTENSITIES, ["Pearson", "bias", "concordance low"]].isna().all(axis=None)
    assert numbers.loc[["count", "area"], "Pearson"].notna().all()
    assert any("data.scaling=plate" in note for note in result.notes)
    assert any("or data.prepare changes it by itself" in note for note in result.notes), "it holds for Golgi, too"
    for name, figure in result.figures.items():
        FigureCanvasAgg(figure).draw()
        titles = " ".join(axes.get_title() for axes in figure.axes)
        assert "intensity" not in titles
        assert name == "examples" or "objects" in titles


def test_pictures_are_best_median_and_worst(result):
    ranked = table().sort_values("pearson/r", ascending=False)["id"].tolist()
    labels = [axes.get_ylabel() for axes in result.figures["examples"].axes[::3]]
    expected = {"best": ranked[0], "median": ranked[14], "worst": ranked[-1]}
    assert [label.split("\n")[:2] for label in labels] == [list(pair) for pair in expected.items()]
    assert "examples" not in ask(pictures=0).figures
    with pytest.raises(ValueError, match="best, median and worst"):
        Translation(pictures=2)


@pytest.mark.parametrize(
    ("targets", "together"), [(["er", "control", "nuclei"], ["ER", "nuclei"]), (["nuclei", "control"], None)]
)
def test_several_stains_are_one_picture_without_the_control(targets, together):
    figures = ask(targets=targets).figures
    assert ("combined" in figures) == bool(together)
    if together:
        (legend,) = figures["combined"].legends
        assert [text.get_text() for text in legend.get_texts()] == together
        assert len(figures["combined"].axes) == 6
        predicted, true = (axes.images[0].get_array() for axes in figures["combined"].axes[:2])
        assert 0 < predicted.sum() < true.sum(), "in the range of the true image"


def test_overlap_is_held_against_the_true_one_where_it_is_measured():
    result = ask(change=lambda own: own.assign(**{
        f"overlap/{name}_{side}": own[f"readouts/count_{side}"] * size
        for name, size in {"share": 0.02, "jaccard": 0.01}.items() for side in ("predicted", "true")
    }))  # fmt: skip
    found = result.tables["overlap"].set_index(["method", "readout"])
    made = table()
    truth = stats.pearsonr(made["readouts/count_predicted"], made["readouts/count_true"]).statistic
    assert found.loc[("Translator", "share"), "Pearson"] == pytest.approx(truth)
    assert found.loc[("other_image", "share"), "Pearson"] < 0.5
    bias = (made["readouts/count_predicted"] - made["readouts/count_true"]).mean()
    assert found.loc[("Translator", "jaccard"), "bias"] == pytest.approx(0.01 * bias)
    assert [axes.get_title().split("\n")[0] for axes in result.figures["overlap_scatter"].axes] == [
        "share of nuclear area under ER",
        "Jaccard index of nuclei and ER",
    ]
    assert "overlap" not in ask().tables


@pytest.mark.parametrize("crop", [64, 48])
def test_whole_fields_of_any_size_are_drawn_and_measured_as_one(crop, tmp_path):
    rng, rows, count = np.random.default_rng(0), [], [1, 2, 3, 4]
    for number, shape in enumerate([(150, 170), (150, 170), (131, 205), (131, 205)]):
        stain = np.zeros(shape, np.uint16)
        for place in range(count[number]):  # squares on the border of the crops
            stain[56:72, 4 + 30 * place : 20 + 30 * place] = 1000
        row = {"id": f"f{number}", "group": f"p:{number}", "plate": "p", "pixel_size": 0.5}
        for name, image in {"dic": rng.integers(0, 4000, shape).astype(np.uint16), "nuclei": stain}.items():
            tifffile.imwrite(tmp_path / f"{number}_{name}.tif", image)
            row[f"image_{name}"] = tmp_path / f"{number}_{name}.tif"
        rows.append(row)
    reader, zoom = FieldReader(pd.DataFrame(rows), ["dic", "nuclei"], None), Zoom(crop, crop, 64)
    windows = [(row, y, x) for row in range(4) for y, x in zoom.windows(reader.image(row)[0].shape)]
    patches = PairPatches(reader, windows, zoom, Scaling("image"), sources=1, seed=0)
    torch.manual_seed(0)
    model = Translator(LabelfreeUNet(filters=2, depth=2), Pearson()).eval()
    made = {None: model, "other_image": OtherImage()}
    metrics = {"readouts": Measured(Readouts("mask"), ["prediction", "target"])}
    subject = Subject(SimpleNamespace(patches=lambda split: patches), module=made.get, metrics=metrics)
    fields = WholeFields(subject)
    table = fields.judge("other_image")
    assert table["id"].tolist() == ["f0", "f1", "f2", "f3"]
    assert table["readouts/count_true"].tolist() == count
    assert table["readouts/count_predicted"].tolist() == [2, 1, 4, 3], "the null is of the same size and another well"
    border, divisor = model.net.border, model.net.divisor
    for name in ("f0", "f2"):
        batch = fields.batch(name)
        height, width = batch["source"].shape[2:]
        assert (height, width) == tuple(round(side * 64 / crop) for side in reader.image(int(name[1]))[0].shape)
        assert batch["pixel_size"].tolist() == [[pytest.approx(0.5 * crop / 64)] * 2]
        beyond = [(border, border + -side % divisor) for side in (height, width)]
        padded = np.pad(batch["source"][0, 0].numpy(), beyond, mode="reflect")[None, None]
        with torch.inference_mode():
            expected = model(torch.from_numpy(padded))[..., border : border + height, border : border + width]
        torch.testing.assert_close(fields.predict(model, batch), expected, rtol=0, atol=1e-5)
    assert fields.judge(None)["method"].tolist() == ["Translator"] * 4


def test_tables_without_the_metrics_are_refused():
    with pytest.raises(ValueError, match=r"lacks pearson/r.*metrics=translation"):
        ask(change=lambda own: own.drop(columns="pearson/r"))


def test_studies_name_the_data_that_they_need():
    pairs, holes = SimpleNamespace(of_pairs=True), SimpleNamespace(of_pairs=False)
    for study in (
        Restoration([], []),
        MaskArea(None, [], []),
        MaskShape(None, [], {"PhIRM": 1, "rim F1": 1, "hole MAE": 1}),
        RestoreOrExclude([0.3], {"dark": None}, ["telea"], 0.3),
    ):
        with pytest.raises(ValueError, match=r"pairs have none: choose study=translation"):
            study.check(pairs)
    with pytest.raises(ValueError, match=r"no targets: give pairs .*data=virtual_pairs"):
        Translation().check(holes)


def test_the_grid_of_pairs_has_no_mask_and_shows_the_source_in_its_own_range():
    rng = np.random.default_rng(0)
    source, target = (torch.from_numpy(rng.uniform(*ends, (2, 1, 32, 32))) for ends in ((0.4, 0.5), (0.0, 0.1)))
    batch = {"id": ["a", "b"], "source": source, "target": target}
    figure = draw_grid(batch, target / 2, 4)
    assert [axes.get_title() for axes in figure.axes[:4]] == ["source", "prediction", "target", "error"]
    assert len(figure.axes) == 8
    (image,) = figure.axes[0].get_images()
    assert image.get_clim() == pytest.approx(np.percentile(source[0, 0].numpy(), (0.2, 99.8)))
    assert figure.axes[1].get_images()[0].get_clim() == figure.axes[2].get_images()[0].get_clim()
    held = draw_grid({**batch, "mask": (source > 0.45).float()}, target, 1)
    assert [axes.get_title() for axes in held.axes] == ["source", "mask", "prediction", "target", "error"]


@pytest.fixture(scope="module")
def trained(runs, tmp_path_factory):
    """A checkpoint of a tiny U-Net from drawn DIC to nuclei."""
    from conftest import SMALL
    from hydra import compose, initialize_config_module

    folder = tmp_path_factory.mktemp("trained")
    last = f"callbacks.last={{_target_: phenokeep.callbacks.Last, folder: '{folder}', every_n_steps: 100}}"
    with initialize_config_module("phenokeep.configs", version_base="1.3"):
        train(compose("train", [*SMALL, *PAIRS, f"runs={runs}", f"output_dir={folder}", last]))
    return folder / "last.ckpt"


@pytest.mark.parametrize("over", ["images", "fields"])
def test_it_trains_and_judges_from_end_to_end(trained, tmp_path, over):
    from hydra import compose, initialize_config_module

    from phenokeep.cli import _register_checkpoint

    more = ["study=translation", "study.over=fields"] if over == "fields" else []
    arguments = _register_checkpoint([f"ckpt_path={trained}", "debug=tiny", *more, "study.n_bootstrap=50"])
    with initialize_config_module("phenokeep.configs", version_base="1.3"):
        cfg = compose("eval", [*arguments, f"output_dir={tmp_path}"])
    results = evaluate(cfg)
    images = pd.read_csv(tmp_path / "per_image.csv")
    own = images[images["method"] == "Translator"]
    if over == "images":
        assert results["test/pearson/mse"] == pytest.approx(own["pearson/mse"].mean())
    else:
        assert not own["id"].str.contains("_y").any()
        assert "whole image" in (tmp_path / "report.html").read_text()
    assert set(pd.read_csv(tmp_path / "agreement.csv")["over"]) == {over}
    methods = pd.read_csv(tmp_path / "methods.csv").set_index("method")
    assert methods.loc["Translator", "MSE"] == pytest.approx(own["pearson/mse"].mean())
    for name in ("report.html", "scatter.png", "bland_altman.png", "violins.png", "examples.png", "agreement.csv"):
        assert (tmp_path / name).stat().st_size > 1000, name
    page = (tmp_path / "report.html").read_text()
    assert "plate, dic by the whole image" in page
    assert "virtual microscope" in page


def test_the_null_and_other_checkpoints_come_by_name(trained, config):
    cfg, saved = config(*PAIRS), read_checkpoint(trained)
    data, model = _build(cfg, saved["scaling"])
    methods = Methods(model, data, trained, saved)
    batch = data.samples("test", [data.patches("test").name(0)])
    assert methods.origin("other_image").network == "other_image"
    null = methods.module("other_image")
    assert isinstance(null, OtherImage)
    assert torch.equal(null.test_step(batch, 0)["prediction"], batch["donor"])
    assert not torch.equal(batch["donor"], batch["target"])
    assert type(methods.module(str(trained))) is type(model)
    own = saved["config"]["data"]
    for changes, key in (({"sources": ["phase"]}, "sources"), ({"targets": ["er"]}, "targets")):
        with pytest.raises(CheckpointError, match=f"on the {key} .*this data.{key}"):
            check_fits(own | changes, saved["scaling"], data, "a.ckpt")
    with pytest.raises(CheckpointError, match=r"stretched .*data\.source_scaling"):
        check_fits(own, saved["scaling"] | {"stretched": []}, data, "a.ckpt")


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ([*PAIRS, "data.sources=[dic,phase]"], r"data\.sources are \['dic', 'phase'\] and model\.in_channels is 1"),
        ([*PAIRS, "data.targets=[nuclei]"], r"data\.targets are \['nuclei'\] and model\.out_channels is 2"),
        (["data=virtual_pairs"], r"Restorer learns from images with holes .*data=virtual"),
        (["model=labelfree_unet"], r"Translator learns from pairs .*data=virtual_pairs"),
        (["data.channels=[nuclei,artefacts]"], r"data\.channels are .* and model\.in_channels is 1"),
    ],
)
def test_data_that_do_not_fit_the_model_are_refused(overrides, message, config):
    with pytest.raises(ValueError, match=message):
        _build(config(*overrides), None)
