"""Predicting stains with a trained translation: arrays against plain loops, plates that may be stopped, drift."""

import hashlib
import json
import logging
import sys
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import tifffile
import torch
from hydra import compose, initialize_config_module

import phenokeep
from phenokeep import cli, predicting
from phenokeep.checkpoint import read_checkpoint
from phenokeep.datamodules.layouts import TableError
from phenokeep.datamodules.pairs import Pairs
from phenokeep.datamodules.scaling import Scaling
from phenokeep.imaging.io import read_image, write_image
from phenokeep.imaging.pixelsize import rescale
from phenokeep.inference import stain
from phenokeep.inference.stain import OWN, TRAINING, StainPredictor
from phenokeep.inference.stain_plate import organelles
from phenokeep.metrics.readouts import readouts
from phenokeep.models import Autoencoder, Translator
from phenokeep.models.image_losses import MSE
from phenokeep.models.nets.autoencoder import ConvAutoencoder
from phenokeep.models.nets.labelfree_unet import LabelfreeUNet
from phenokeep.run import _build, predict, train
from phenokeep.studies.drift import OnlineMMD
from phenokeep.studies.drift_files import DetectorError
from phenokeep.studies.drift_runs import image_means
from phenokeep.studies.drift_study import grid
from phenokeep.studies.embedded import embedded
from phenokeep.studies.predicted_stains import Watched, stain_report

PAIRS = ("experiment=labelfree/nuclei", "data=virtual_pairs", "model.net.filters=4", "model.net.depth=2")
RANGES = {"P": {"dic": [100.0, 1100.0], "nuclei": [200.0, 1200.0]}, "Q": {"nuclei": [300.0, 2300.0]}}
RANGES["R"] = {"nuclei": [310.0, 1400.0]}


def predictor(sources=("dic",), targets=("nuclei",), crop=64, size=64, ranges=RANGES, variant="thesis", **scaling):
    torch.manual_seed(0)
    net = LabelfreeUNet(len(sources), len(targets), filters=3, depth=2, variant=variant)
    zoom = {"_target_": "phenokeep.imaging.tiles.Zoom", "crop": crop, "stride": crop, "size": size}
    config = {"data": {"sources": list(sources), "targets": list(targets), "zoom": zoom}, "seed": 0}
    state = {"kind": "plate", "ranges": ranges, "pixel_size": 0.65, "stretched": list(sources)} | scaling
    one = StainPredictor(Translator(net, MSE(), len(sources), len(targets)), Scaling(**state), config, device="cpu")
    one.tile = 64  # steps of 16: several tiles in a small field
    return one


def untiled(one, scaled):
    """The network on the whole reflected image, T Y X."""
    net, (height, width) = one.model.eval().net, scaled.shape[1:]
    padding = [(0, 0), *((net.border, net.border + -side % net.divisor) for side in (height, width))]
    with torch.no_grad():
        drawn = net(torch.from_numpy(np.pad(scaled, padding, mode="reflect"))[None])[0].numpy().clip(0, 1)
    return drawn[:, net.border : net.border + height, net.border : net.border + width]


def stretched(plane):
    return (plane.astype(np.float32) - plane.min()) / np.float32(int(plane.max()) - int(plane.min()))


@pytest.mark.parametrize("variant", ["thesis", "lachance"])
@pytest.mark.parametrize("shape", [(90, 131), (64, 64), (33, 47)])
def test_a_field_through_tiles_is_the_field_untiled_in_the_counts_of_its_plate(shape, variant):
    image = np.random.default_rng(0).integers(90, 4000, (2, *shape)).astype(np.uint16)
    one = predictor(
        ("low", "high"), ("nuclei", "er"), variant=variant, ranges={"P": {"nuclei": [200, 1200], "er": [0, 50]}}
    )
    given = image.copy()
    found = one.predict(image, plate="P")
    drawn = untiled(one, np.stack([stretched(plane) for plane in image]))
    assert found.shape == (2, *shape)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found[0], 200 + 1000 * drawn[0], atol=0.02)
    np.testing.assert_allclose(found[1], 50 * drawn[1], atol=0.001)
    assert (image == given).all()
    one.tile = 96
    np.testing.assert_allclose(one.predict(image, plate="P"), found, atol=0.02)


def test_a_source_is_scaled_by_itself_or_by_its_plate():
    image = np.random.default_rng(0).integers(200, 900, (70, 80)).astype(np.uint16)
    by_image, by_plate = predictor(), predictor(stretched=[])
    np.testing.assert_allclose(by_image.predict(3 * image + 7, "P"), by_image.predict(image, "P"), atol=0.01)
    fixed = np.clip((image.astype(np.float32) - 100) / 1000, 0, 1)
    np.testing.assert_allclose(
        by_plate.predict(image, "P")[0], 200 + 1000 * untiled(by_plate, fixed[None])[0], atol=0.02
    )
    low, high = np.percentile(image.ravel()[::8], (0.1, 99.95))
    alone = np.clip((image.astype(np.float32) - low) / (high - low), 0, 1).astype(np.float32)
    expected = 200 + 1000 * untiled(by_plate, alone[None])[0]
    new = predictor(stretched=[], ranges={"P": RANGES["P"]})
    np.testing.assert_allclose(new.predict(image, "new")[0], expected, atol=0.02)
    new.fit_plate("new", "dic", [image])
    np.testing.assert_allclose(new.predict(image, "new")[0], expected, atol=0.02)
    new.fit_plate("new", "dic", [image // 2])
    assert np.abs(new.predict(image, "new")[0] - expected).max() > 1


def test_a_plate_without_a_stain_in_training_gets_the_range_of_training_and_is_told(caplog):
    caplog.set_level(logging.INFO)
    one = predictor()
    assert one.target_range("nuclei", "Q") == ([300.0, 2300.0], OWN)
    assert not caplog.text
    assert one.target_range("nuclei", "new") == ([300.0, 1400.0], TRAINING)
    assert one.target_range("nuclei", "new") == ([300.0, 1400.0], TRAINING)
    assert caplog.text.count("training saw no 'nuclei' of it") == 1
    assert "training's 3 plates (median)" in caplog.text
    assert predictor(ranges={"P": RANGES["P"]}).target_range("nuclei", None) == ([200.0, 1200.0], TRAINING)
    image = np.random.default_rng(0).integers(0, 255, (64, 64)).astype(np.uint8)
    one.prepared = {"nuclei"}
    assert "prepared" in one.target_range("nuclei", "Q")[1]
    paper = predictor(kind="image", ranges={}, stretched=())
    assert paper.target_range("nuclei", "P")[0] is None
    np.testing.assert_allclose(paper.predict(image, "P"), untiled(paper, stretched(image)[None]), atol=1e-5)
    with pytest.raises(ValueError, match="no range of its target"):
        predictor(ranges={}).predict(image)


def test_another_pixel_size_is_refused_or_resampled_there_and_back():
    image = np.random.default_rng(0).integers(0, 4000, (101, 120)).astype(np.uint16)
    one = predictor(crop=64, size=32)
    small = rescale(stretched(image), 0.5)[None]
    expected = rescale(untiled(one, small)[0], 2.0, shape=image.shape)
    np.testing.assert_allclose(one.predict(image, "P", 0.65)[0], 200 + 1000 * expected, atol=0.02)
    plain = predictor()
    with pytest.raises(ValueError, match=r"0\.325 um per pixel, the model was trained at 0\.65.*rescale"):
        plain.predict(image, "P", 0.325)
    expected = rescale(untiled(plain, stretched(rescale(image, 0.5))[None])[0], 2.0, shape=image.shape)
    np.testing.assert_allclose(plain.predict(image, "P", 0.325, rescale=True)[0], 200 + 1000 * expected, atol=0.02)


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (np.ones((3, 70, 70), np.uint16), "channels dic"),
        (np.ones((70, 70), np.int64), "int64"),
        (np.full((70, 70), np.nan, np.float32), "NaN"),
    ],
)
def test_arrays_that_cannot_be_used_are_refused(image, message):
    for call in (predictor().predict, predictor().embed):
        with pytest.raises(ValueError, match=message):
            call(image)


def test_models_that_predict_no_stain_are_refused():
    good = predictor()
    with pytest.raises(ValueError, match="predicts no stain"):
        StainPredictor(Autoencoder(ConvAutoencoder(), MSE()), good.scaling, good.config)
    with pytest.raises(ValueError, match="no slash"):
        predictor(targets=("../nuclei",))
    with pytest.raises(ValueError, match="smaller than training's crops of 64"):
        good.embed(np.ones((63, 90), np.uint16))


def test_readouts_are_those_of_the_config():
    def node(**settings):
        return {"metric": {"_target_": "phenokeep.metrics.Readouts", **settings}}

    metrics = {"r": {"metric": {"_target_": "phenokeep.metrics.Pearson"}}, "gone": None}
    assert organelles(metrics, ["er"]) == []
    metrics |= {"a": node(organelle="er", channel=1, segmentation={"block": 31}), "b": node(organelle="nuclei")}
    found = organelles(metrics, ["nuclei", "er"])
    assert [tuple(one) for one in found] == [("er", 1, "er", {"block": 31}), ("nuclei", 0, "nuclei", {})]
    twice = organelles(metrics | {"c": node(organelle="gfp")}, ["nuclei", "er"])
    assert [one.prefix for one in twice] == ["er", "nuclei_b", "nuclei_c"]
    with pytest.raises(ValueError, match=r"metrics\.a\.metric\.channel is 1"):
        organelles(metrics, ["nuclei"])


@pytest.fixture(scope="module", autouse=True)
def small_tiles():
    """A few small tiles for a field, not one large one."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(stain, "TILE", 112)
        yield


@pytest.fixture(scope="module")
def trained(runs, tmp_path_factory):
    """A checkpoint of a tiny U-Net from drawn DIC to nuclei."""
    from conftest import SMALL

    folder = tmp_path_factory.mktemp("trained")
    last = f"callbacks.last={{_target_: phenokeep.callbacks.Last, folder: '{folder}', every_n_steps: 100}}"
    with initialize_config_module("phenokeep.configs", version_base="1.3"):
        train(compose("train", [*SMALL, *PAIRS, f"runs={runs}", f"output_dir={folder}", last]))
    return folder / "last.ckpt"


@pytest.fixture(scope="module")
def one(trained):
    return phenokeep.load(trained, "cpu")


@pytest.fixture
def fields(tmp_path):
    """A plate of three fields of transmitted light, without stains."""
    rng = np.random.default_rng(0)
    for number in range(2, 5):
        write_image(tmp_path / f"plate/B{number:02d}_1_dic.tif", rng.integers(0, 4000, (150, 140)).astype(np.uint16))
    return tmp_path


def composed(trained, folder, *overrides):
    arguments = ["report=false", "data.pixel_size=0.65", f"plate={folder / 'plate'}", f"output_dir={folder / 'out'}"]
    with initialize_config_module("phenokeep.configs", version_base="1.3"):
        return compose("predict", cli._register_checkpoint([f"ckpt_path={trained}", *arguments, *overrides]))


def detector(one, path, shift=0.0, **identity):
    """A detector of noise around what the model sees on noise, written to `path`."""
    rng = np.random.default_rng(1)
    seen = one.embed(rng.integers(0, 4000, (150, 140)).astype(np.uint16))
    reference = seen + shift + rng.normal(0, 0.1 * np.abs(seen).mean(), (40, len(seen)))
    identity = {"checkpoint": one.sha256, "pool": "mean"} | identity
    OnlineMMD(expected_run_time=8, window=3, bootstraps=500).fit(reference, identity).save(path)
    return path


def test_embeddings_are_those_of_the_studies(trained, one, config, monkeypatch):
    # Crops that data.filters drops, and fields of which it leaves none, are seen by predict all the same.
    monkeypatch.setattr(Pairs, "_unfit", lambda self, row, y, x: "overexposed" if row % 2 or not x else None)
    data, _ = _build(config(*PAIRS), read_checkpoint(trained)["scaling"])
    rows = np.flatnonzero(data.index["split"] == "test").tolist()
    samples = data.patches("test").plain(grid(data, rows))
    assert len(samples) > len(data.patches("test"))
    found = embedded(one.model.cpu(), samples)
    means, names = image_means(found.values, found.fields)
    assert len(found.fields) > len(names) == len(rows)
    for mean, name in zip(means, names, strict=True):
        row = data.index["id"].tolist().index(name)
        own = one.embed(data.reader.image(row)[0], str(data.index["plate"].iloc[row]))
        assert own.dtype == np.float64
        np.testing.assert_allclose(own, mean, rtol=1e-5, atol=1e-7)


def test_a_folder_of_sources_becomes_stains_tables_and_sidecars(trained, one, fields, caplog):
    caplog.set_level(logging.INFO)
    table = predict(composed(trained, fields, "report=true"))
    assert "training saw no 'nuclei' of it" in caplog.text
    out = fields / "out"
    saved = pd.read_csv(out / "fields.csv")
    assert saved["id"].tolist() == table["id"].tolist() == [f"plate_B0{n}_1" for n in (2, 3, 4)]
    for number, row in saved.iterrows():
        source = fields / f"plate/B{number + 2:02d}_1_dic.tif"
        paths = [out / f"predicted/{row['id']}_{name}.tif" for name in one.targets]
        stains = np.stack([tifffile.imread(path) for path in paths])
        assert stains.dtype == np.uint16
        assert (stains == np.rint(one.predict(read_image(source)))).all()
        measured = readouts(stains[0], "nuclei")
        assert {name: row[f"nuclei_{name}"] for name in measured} == pytest.approx(measured, nan_ok=True)
        record = json.loads((out / f"provenance/{row['id']}.json").read_text())
        assert record["inputs"] == {str(source): hashlib.sha256(source.read_bytes()).hexdigest()}
        assert record["outputs"] == {str(path): hashlib.sha256(path.read_bytes()).hexdigest() for path in paths}
        assert record["checkpoint"]["sha256"] == hashlib.sha256(trained.read_bytes()).hexdigest()
        assert record["intensities"] == dict.fromkeys(one.targets, TRAINING)
        assert record["range"] == {name: one.target_range(name, None)[0] for name in one.targets}
    assert set(saved["intensities"]) == {TRAINING}
    page = (out / "report.html").read_text()
    assert "Predicted stains" in page
    assert page.count("data:image/png") == 3
    assert "training saw no stain of this plate" in page
    assert "leaves brightness and offset free" in page
    assert not [path for path in out.rglob("*") if "tmp" in path.name]


def test_readouts_are_taken_where_the_model_predicts_and_masks_by_their_share(trained, one, fields):
    table = predict(composed(trained, fields, "data.pixel_size=1.3", "data.rescale=true"))
    image = read_image(fields / f"out/predicted/{table['id'].iloc[0]}_nuclei.tif", allow_constant=True)
    assert image.shape == (150, 140)
    expected = readouts(rescale(image, 2.0), "nuclei")
    assert table["nuclei_count"].iloc[0] == expected["count"]
    assert table["nuclei_area"].iloc[0] == expected["area"]
    assert table["measured_pixel_size"].iloc[0] == pytest.approx(0.65)
    low, high = one.target_range("nuclei", None)[0]
    mask = ("metrics.readouts.metric.organelle=mask", "+metrics.readouts.metric.segmentation.threshold=0.3")
    table = predict(composed(trained, fields, *mask))
    image = read_image(fields / f"out/predicted/{table['id'].iloc[0]}_nuclei.tif")
    expected = readouts((image - np.float32(low)) / (high - low), "mask", segmentation={"threshold": 0.3})
    assert table["nuclei_area"].iloc[0] == expected["area"] > 0


def test_a_stopped_run_goes_on_and_flags_as_an_unbroken_one(trained, one, fields, monkeypatch):
    path = detector(one, fields / "drift.npz", shift=0.3)
    whole = predict(composed(trained, fields, f"drift={path}"))
    stream = OnlineMMD.load(path)
    for number, row in whole.iterrows():
        state = stream.update(one.embed(read_image(fields / f"plate/B{number + 2:02d}_1_dic.tif")))
        assert (row["drift_statistic"], row["drift_threshold"]) == pytest.approx((state.statistic, state.threshold))
        assert row["drift_alarm"] == state.drift
    assert whole["drift_alarm"].iloc[-1]
    table = (fields / "out/fields.csv").read_bytes()
    calls, predicts = [], StainPredictor.predict

    def stopping(self, *arguments):
        calls.append(arguments)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return predicts(self, *arguments)

    monkeypatch.setattr(StainPredictor, "predict", stopping)
    config = composed(trained, fields, f"drift={path}", f"output_dir={fields}/out2")
    with pytest.raises(KeyboardInterrupt):
        predict(config)
    assert len(list((fields / "out2/provenance").glob("*.json"))) == 1
    predict(config)
    assert len(calls) == 4  # one done, one stopped, and the two that were left
    assert (fields / "out2/fields.csv").read_bytes() == table
    config.drift = None
    assert "drift_alarm" not in predict(config)
    assert len(calls) == 4
    config.output_dir, config.drift = f"{fields}/out3", None
    predict(config)
    config.drift = str(path)
    predict(config)
    assert len(calls) == 10  # done without a detector, so without an embedding: done again
    assert (fields / "out3/fields.csv").read_bytes() == table


def test_flags_are_in_the_report_and_in_the_exit_code(trained, one, fields, monkeypatch, capsys):
    handlers = logging.root.handlers[:]
    path = detector(one, fields / "drift.npz", shift=0.3)
    arguments = [f"ckpt_path={trained}", f"plate={fields}/plate", "data.pixel_size=0.65", f"output_dir={fields}/out"]
    for fails, code in (("false", 0), ("true", 3)):
        monkeypatch.setattr(sys, "argv", ["predict.py", *arguments, f"drift={path}", f"fail_on_drift={fails}"])
        monkeypatch.delenv("HYDRA_FULL_ERROR", raising=False)
        status = 0
        try:
            cli.predict()
        except SystemExit as stop:
            status = stop.code
        logging.root.handlers[:] = handlers  # Hydra's would write to a stream that pytest has closed
        assert status == code
        assert ("exit code 3" in capsys.readouterr().err) == (code == 3)
        flagged = int(pd.read_csv(fields / "out/fields.csv")["drift_alarm"].sum())
        page = (fields / "out/report.html").read_text()
        assert f"The drift detector flags {flagged} of them" in page
        assert page.count("drift: do not rely on this prediction") >= flagged > 0


@pytest.mark.parametrize(
    ("measured", "said"),
    [
        (
            {"runs": 40, "alarms": 20, "steps": 196, "by_well": True},
            "still alarmed once in 10 fields on average (20 alarms in 40 runs along held-out fields, a well's fields "
            "together; asked for was once in 128 fields on average)",
        ),
        (
            {"runs": 9, "alarms": 0, "steps": 54, "by_well": False},
            "did not alarm (in 9 runs along held-out fields, one",
        ),
        (None, "asked to alarm once in 128 fields on average; whether it keeps that was not measured"),
    ],
)
def test_false_alarms_are_said_as_they_were_measured(measured, said):
    row = {"id": "a", "intensities": OWN, "drift_alarm": False, "drift_statistic": 0.0, "drift_threshold": 1.0}
    images = lambda name: (np.eye(20, dtype=np.float32), [np.eye(20, dtype=np.float32)])  # noqa: E731
    report = stain_report(pd.DataFrame([row]), images, ["dic"], ["nuclei"], Watched(10, 128, measured))
    assert any(said in note for note in report.notes)


def test_what_cannot_be_predicted_is_said_before_anything_is(trained, one, fields):
    (fields / "damaged.npz").write_bytes(detector(one, fields / "drift.npz").read_bytes()[:-200])
    other = detector(one, fields / "other.npz", checkpoint="0" * 64)
    pool = detector(one, fields / "pool.npz", pool="flatten")
    write_image(fields / "stained/B02_1_nuclei.tif", read_image(fields / "plate/B02_1_dic.tif"))
    write_image(fields / "small/B02_1_dic.tif", read_image(fields / "plate/B02_1_dic.tif")[:100])
    for overrides, error, message in (
        (["mask.dilation=3"], ValueError, "mask is of restorations"),
        (["metrics@score=phirm_paper"], ValueError, "score is of restorations"),
        ([f"plate={fields}/nothing"], TableError, "does not exist"),
        ([f"plate={fields}/stained"], TableError, "no channel 'dic'.* name the columns"),
        (["data.pixel_size=0.3"], ValueError, r"data\.rescale=true"),
        (["data.pixel_size=null"], TableError, "pixel size"),
        ([f"drift={fields}/nothing.npz"], DetectorError, "no drift detector at"),
        ([f"drift={fields}/damaged.npz"], DetectorError, "damaged"),
        ([f"drift={other}"], DetectorError, "fitted on another model's embeddings .*checkpoint 0000"),
        ([f"drift={pool}"], DetectorError, "fitted on another model's embeddings .*pool flatten"),
        ([f"drift={fields}/drift.npz", f"plate={fields}/small"], ValueError, "leave out drift"),
        (["drift=3"], ValueError, "drift is 3: a string"),
        (["fail_on_drift=yes"], ValueError, "fail_on_drift is 'yes': true or false is meant"),
        (["fail_on_drift=true"], ValueError, "needs a detector"),
    ):
        with pytest.raises(error, match=message):
            predict(composed(trained, fields, *overrides))
    assert not (fields / "out").exists() or not list((fields / "out").rglob("*.tif"))
    with pytest.raises(ValueError, match="this checkpoint restores images: leave drift out"):
        predicting._plate_run(None, SimpleNamespace(drift="a.npz"))


def test_targets_that_are_there_are_no_input_even_where_they_are_not_for_every_field(trained, one, fields):
    for number in (2, 3):
        write_image(
            fields / f"stains/{number}.tif", np.random.default_rng(number).integers(0, 9, (150, 140)).astype("u2")
        )
    rows = [
        {
            "plate": "drawn",
            "well": f"B{n:02d}",
            "field": 1,
            "pixel_size": 0.65,
            "image_dic": f"plate/B{n:02d}_1_dic.tif",
        }
        for n in (2, 3, 4)
    ]
    pd.DataFrame(rows).assign(image_nuclei=["stains/2.tif", "stains/3.tif", None]).to_csv(fields / "t.csv", index=False)
    table = predict(composed(trained, fields, f"plate={fields}/t.csv"))
    assert len(table) == 3
    assert len(list((fields / "out/predicted").glob("*_nuclei.tif"))) == 3
