"""Restoring with a trained model: arrays, and plates that may be stopped."""

import hashlib
import json
import shutil

import numpy as np
import pandas as pd
import pytest
import tifffile
import torch
from hydra import compose, initialize_config_module
from hydra.errors import InstantiationException

import phenokeep
from phenokeep import cli
from phenokeep.datamodules.layouts import TableError
from phenokeep.datamodules.tables import assign_splits, read_index
from phenokeep.imaging.io import read_image, write_image
from phenokeep.inference.inputs import read_inputs
from phenokeep.inference.predictor import Predictor
from phenokeep.run import predict, train

PLATE_RANGE = {"kind": "plate", "ranges": {"P": {"nuclei": [100.0, 1100.0]}}, "pixel_size": 0.65}


class Level(torch.nn.Module):
    """Restores with the mean of what it is shown outside the hole, and counts its tiles."""

    def __init__(self):
        super().__init__()
        self.tiles = 0

    def predict_step(self, batch, batch_idx):
        source, known = batch["source"], 1 - batch["mask"]
        self.tiles += len(source)
        mean = (source * known).sum((2, 3), keepdim=True) / known.sum((2, 3), keepdim=True).clamp(min=1)
        return {"prediction": mean.expand_as(source)}


def predictor(channels=("nuclei",), crop=64, size=64, **scaling):
    from phenokeep.datamodules.scaling import Scaling

    zoom = {"_target_": "phenokeep.imaging.tiles.Zoom", "crop": crop, "stride": crop, "size": size}
    config = {"data": {"channels": list(channels), "zoom": zoom}, "seed": 0}
    return Predictor(Level(), Scaling(**{**PLATE_RANGE, **scaling}), config)


@pytest.fixture(scope="module")
def trained(runs, tmp_path_factory):
    """A checkpoint of a tiny U-Net."""
    from conftest import SMALL

    folder = tmp_path_factory.mktemp("trained")
    last = f"callbacks.last={{_target_: phenokeep.callbacks.Last, folder: '{folder}', every_n_steps: 100}}"
    with initialize_config_module("phenokeep.configs", version_base="1.3"):
        train(compose("train", [*SMALL, f"runs={runs}", f"output_dir={folder}", last, "licence=CC0-1.0"]))
    return folder / "last.ckpt"


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32"])
@pytest.mark.parametrize("shape", [(64, 64), (50, 90), (181, 203), (17, 300)])
def test_any_size_and_type_comes_back_with_known_pixels_bit_for_bit(dtype, shape):
    rng = np.random.default_rng(0)
    image = rng.integers(0, 255, shape).astype(dtype)
    mask = np.zeros(shape, np.uint8)
    mask[shape[0] // 3 : shape[0] // 2, shape[1] // 4 :] = 255
    given = image.copy()
    restored = predictor().predict(image, mask)
    assert restored.dtype == image.dtype
    assert restored.shape == image.shape
    assert (restored[mask == 0] == image[mask == 0]).all()
    assert (restored[mask != 0] != image[mask != 0]).any()
    assert (image == given).all()


def test_counts_return_in_the_units_of_the_plate():
    image = np.full((128, 128), 700, np.uint16)
    mask = np.zeros((128, 128), bool)
    mask[40:80, 40:80] = True
    image[mask] = 60000  # the artefact
    assert (predictor().predict(image, mask, plate="P") == 700).all()


def test_an_unknown_plate_is_scaled_by_what_lies_outside_the_mask():
    rng = np.random.default_rng(1)
    image = rng.integers(1000, 3000, (128, 128)).astype(np.uint16)
    mask = np.zeros((128, 128), bool)
    mask[40:80, 40:80] = True
    image[mask] = 60000
    restored = predictor().predict(image, mask)[mask].astype(float)
    assert abs(restored.mean() - image[~mask].mean()) < 30
    other = predictor()
    other.fit_plate("Q", "nuclei", [image[~mask]])
    low, high = other.scaling.ranges["Q"]["nuclei"]
    expected = np.percentile(image[~mask][::8], (0.1, 99.95))
    assert (low, high) == pytest.approx(tuple(expected))


def test_channels_are_restored_apart():
    image = np.stack([np.full((70, 70), level, np.float32) for level in (300, 900)])
    ranges = {"P": {"a": [100.0, 1100.0], "b": [0.0, 2000.0]}}
    mask = np.zeros((70, 70))
    mask[20:30] = 1
    restored = predictor(("a", "b"), ranges=ranges).predict(image, mask, plate="P")
    np.testing.assert_allclose(restored, image, rtol=1e-5)


def test_a_mask_of_nothing_or_everything_leaves_the_image(caplog):
    image = np.random.default_rng(0).integers(0, 999, (80, 80)).astype(np.uint16)
    one = predictor()
    for mask in (np.zeros((80, 80)), np.ones((80, 80))):
        assert (one.predict(image, mask) == image).all()
    assert one.model.tiles == 0
    assert "covers the whole image" in caplog.text


def test_the_network_sees_fields_enlarged_as_in_training():
    image, mask = np.full((180, 180), 500, np.uint16), np.zeros((180, 180), bool)
    mask[60:90, 60:90] = True
    one = predictor(crop=180, size=256)
    seen = []
    step = one.model.predict_step
    one.model.predict_step = lambda batch, n: seen.append(batch["mask"]) or step(batch, n)
    assert (one.predict(image, mask, plate="P") == 500).all()
    assert seen[0].shape == (1, 1, 256, 256)
    assert seen[0].mean().item() == pytest.approx((30 / 180) ** 2, rel=0.1)


def test_another_pixel_size_is_refused_unless_it_is_rescaled():
    image, mask = np.full((128, 128), 500, np.uint16), np.zeros((128, 128), bool)
    mask[40:60, 40:60] = True
    with pytest.raises(ValueError, match=r"0\.325 um per pixel, the model was trained at 0\.65.*rescale"):
        predictor().predict(image, mask, pixel_size=0.325)
    one = predictor()
    assert (one.predict(image, mask, plate="P", pixel_size=0.325, rescale=True) == 500).all()
    assert one.model.tiles == 1  # 128 pixels at half the pixel size are one tile of 64


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda image, mask: (image[None].repeat(3, 0), mask), "channels nuclei"),
        (lambda image, mask: (image.astype(np.int64), mask), "int64"),
        (lambda image, mask: (image, mask[1:]), "one size"),
        (lambda image, mask: (np.full(image.shape, np.nan, np.float32), mask), "NaN"),
    ],
)
def test_arrays_that_cannot_be_restored_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        predictor().predict(*change(np.full((80, 80), 5, np.uint16), np.eye(80)))


def test_a_model_without_a_range_to_invert_is_refused():
    with pytest.raises(ValueError, match=r"data\.scaling=paper"):
        predictor(kind="paper")


def test_load_restores_as_the_model_itself_does(trained):
    """One tile, one scale: the same numbers as the module's own step on the scaled image."""
    one = phenokeep.load(trained)
    assert one.channels == ["nuclei"]
    assert one.pixel_size == 0.65
    side, (plate, ranges) = one.zoom.size, next(iter(one.scaling.ranges.items()))
    low, high = ranges["nuclei"]
    image = np.random.default_rng(0).uniform(low, high, (side, side)).astype(np.float32)
    mask = np.zeros((side, side), np.float32)
    mask[20:40, 20:40] = 1
    scaled = torch.from_numpy((image - low) / (high - low))[None, None]
    batch = {"source": scaled, "mask": torch.from_numpy(mask)[None, None]}
    with torch.no_grad():
        expected = one.model.eval().predict_step(batch, 0)["prediction"][0, 0].numpy() * (high - low) + low
    np.testing.assert_allclose(one.predict(image, mask, plate)[mask > 0], expected[mask > 0], rtol=1e-4)


@pytest.fixture
def damaged(tmp_path):
    """Three fields with masks of the same name; one mask is empty."""
    rng = np.random.default_rng(0)
    for number, dtype in enumerate(("uint16", "uint16", "uint8")):
        image = rng.normal(120, 4, (100, 130))
        for y, x in rng.integers(15, 85, (7, 2)):
            image[y - 7 : y + 7, x - 7 : x + 7] = 230
        suffix = "png" if dtype == "uint8" else "tif"
        write_image(tmp_path / f"plate/sub/my image {number}.{suffix}", image.astype(dtype))
        mask = np.zeros((100, 130), np.uint8)
        mask[30:60, 40 : 40 + 30 * number] = 255
        write_image(tmp_path / f"masks/my image {number}.png", mask)
    return tmp_path


def composed(trained, folder, *overrides):
    arguments = [f"ckpt_path={trained}", f"plate={folder / 'plate'}", f"output_dir={folder / 'out'}", *overrides]
    with initialize_config_module("phenokeep.configs", version_base="1.3"):
        return compose("predict", cli._register_checkpoint(["report=false", "data.pixel_size=0.65", *arguments]))


def test_a_folder_of_images_is_restored_under_its_names(trained, damaged):
    table = predict(composed(trained, damaged, f"mask.folder={damaged / 'masks'}"))
    out = damaged / "out"
    for number in range(3):
        path = next((damaged / "plate/sub").glob(f"my image {number}.*"))
        restored, image = read_image(out / "restored/sub" / path.name), read_image(path)
        drawn = tifffile.imread(out / f"synthetic/sub/my image {number}.tif")
        mask = read_image(damaged / f"masks/my image {number}.png", allow_constant=True)
        assert restored.dtype == image.dtype
        assert (drawn == mask).all()
        assert (restored[drawn == 0] == image[drawn == 0]).all()
        record = json.loads((out / f"provenance/sub_my image {number}.json").read_text())
        assert record["inputs"][str(path)] == hashlib.sha256(path.read_bytes()).hexdigest()
        assert record["checkpoint"]["sha256"] == hashlib.sha256(trained.read_bytes()).hexdigest()
        assert record["licence_of_weights"] == "CC0-1.0"
        assert {"config", "command", "seed", "phenokeep"} <= set(record)
    assert table["restored_share"].tolist() == pytest.approx([0, 30 * 30 / 13000, 30 * 60 / 13000])
    assert table["phirm/phirm"].iloc[0] == 1
    saved = pd.read_csv(out / "per_image.csv")
    objects = pd.read_csv(out / "objects.csv")
    assert saved["restored_count"].tolist() == objects.groupby("id").size().tolist()
    assert saved["objects_touching"].tolist() == objects.groupby("id")["Touches_Synthetic"].sum().tolist()
    assert saved["objects_touching"].iloc[0] == 0
    assert not [path for path in out.rglob("*") if "tmp" in path.name]
    both = pd.concat([read_inputs(damaged / "plate", ["nuclei"], 0.65), read_index(out)], ignore_index=True)
    sides = assign_splits(both, by="field", seed=3).groupby(both["id"].str.removesuffix("_restored"))["split"]
    assert sides.size().tolist() == [2, 2, 2]
    assert sides.nunique().tolist() == [1, 1, 1]


def test_settings_of_the_model_on_the_command_line_are_used(trained, damaged, monkeypatch):
    seen, one = [], Predictor.predict

    def spied(self, *arguments):
        seen.append(self.model.lr)
        return one(self, *arguments)

    monkeypatch.setattr(Predictor, "predict", spied)
    for lr in (0.001, 0.5, 0.5):
        predict(composed(trained, damaged, f"mask.folder={damaged / 'masks'}", f"model.lr={lr}"))
    assert seen == [0.001] * 3 + [0.5] * 3  # another setting restores again, the same one does not
    record = json.loads(next((damaged / "out/provenance").glob("*.json")).read_text())
    assert record["config"]["model"]["lr"] == record["settings"]["model"]["lr"] == 0.5


def test_objects_that_touch_synthetic_pixels_are_marked_by_their_pixels():
    from scipy import ndimage

    from phenokeep.imaging.segment import segment_nuclei
    from phenokeep.inference.objects import measure_objects

    image = np.full((90, 90), 100, np.uint16)
    for y, x in ((20, 20), (20, 60), (60, 20), (60, 60)):
        image[y - 8 : y + 8, x - 8 : x + 8] = 900
    mask = np.zeros((90, 90), np.uint8)
    mask[28:40] = 1  # beside the two upper nuclei, which end at row 27
    table = measure_objects(image, mask, 500, 100, 0.65)
    labels = segment_nuclei(image, 500, pixel_size=0.65)
    near = ndimage.distance_transform_cdt(mask == 0, "chessboard") <= 1
    assert table["Touches_Synthetic"].tolist() == [bool(near[labels == n].any()) for n in range(1, 5)]
    assert table["Touches_Synthetic"].sum() == 2


def test_a_stopped_run_goes_on_and_ends_as_an_unbroken_one(trained, damaged, monkeypatch):
    config = composed(trained, damaged, f"mask.folder={damaged / 'masks'}")
    predict(config)
    whole = {path.relative_to(damaged): path.read_bytes() for path in (damaged / "out/restored").rglob("*.*")}
    tables = (damaged / "out/per_image.csv").read_text(), (damaged / "out/objects.csv").read_text()
    calls = []
    one = Predictor.predict

    def stopping(self, *arguments):
        calls.append(arguments)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return one(self, *arguments)

    monkeypatch.setattr(Predictor, "predict", stopping)
    config.output_dir = f"{damaged}/out2"
    with pytest.raises(KeyboardInterrupt):
        predict(config)
    assert len(list((damaged / "out2/provenance").glob("*.json"))) == 1
    predict(config)
    assert len(calls) == 4  # one done, one stopped, and the two that were left
    assert {path.relative_to(damaged): path.read_bytes() for path in (damaged / "out/restored").rglob("*.*")} == whole
    assert tables == ((damaged / "out2/per_image.csv").read_text(), (damaged / "out2/objects.csv").read_text())
    changed = damaged / "masks/my image 1.png"
    write_image(changed, np.eye(100, 130, dtype=np.uint8) * 255)
    predict(config)
    assert len(calls) == 5  # the field whose mask is another, and no other


def test_a_plate_map_that_comes_later_is_in_the_tables_and_nothing_is_restored_again(trained, damaged, monkeypatch):
    for number in range(2):
        name = f"B0{number + 2}_1_nuclei"
        shutil.copy(damaged / f"plate/sub/my image {number}.tif", damaged / f"plate/{name}.tif")
        shutil.copy(damaged / "masks/my image 1.png", damaged / f"masks/{name}.png")
    shutil.rmtree(damaged / "plate/sub")
    (damaged / "map.csv").write_text("well,compound\nB02,a\nB03,b\n")
    arguments = [f"mask.folder={damaged / 'masks'}"]
    first = predict(composed(trained, damaged, *arguments))
    monkeypatch.setattr(Predictor, "predict", None)
    mapped = predict(composed(trained, damaged, *arguments, f"data.plate_map={damaged / 'map.csv'}"))
    saved = pd.read_csv(damaged / "out/per_image.csv")
    assert mapped["compound"].tolist() == saved["compound"].tolist() == ["a", "b"]
    pd.testing.assert_frame_equal(mapped.drop(columns="compound"), first)
    pd.testing.assert_frame_equal(predict(composed(trained, damaged, *arguments)), first)


def test_masks_come_from_an_artefact_channel_or_a_column(trained, tmp_path):
    from phenokeep.imaging.artefacts import artefact_mask

    rng = np.random.default_rng(0)
    y, x = np.mgrid[:90, :90]
    blob = 4000 * np.exp(-((y - 35) ** 2 + (x - 45) ** 2) / 200)
    rows = []
    for number in range(2):
        image, artefacts = rng.normal(300, 9, (90, 90)), rng.normal(300, 9, (90, 90)) + blob
        for name, picture in (("nuclei", image), ("artefacts", artefacts), ("mask", (blob > 2000) * 1.0)):
            write_image(tmp_path / f"plate/{name}{number}.tif", picture.astype(np.uint16))
        files = {"image_nuclei": "nuclei", "image_artefacts": "artefacts", "mask_hole": "mask"}
        row = {"well": f"A0{number + 1}", "field": 1, "pixel_size": 0.65}
        rows.append(row | {column: f"{name}{number}.tif" for column, name in files.items()})
    pd.DataFrame(rows).to_csv(tmp_path / "plate/index.csv", index=False)
    for overrides in (["mask.artefacts=artefacts"], ["mask.column=hole"], []):
        predict(composed(trained, tmp_path, *overrides, f"output_dir={tmp_path}/{len(overrides)}"))
        drawn = tifffile.imread(tmp_path / f"{len(overrides)}/synthetic/nuclei0.tif") > 0
        expected = blob > 2000
        if "mask.artefacts=artefacts" in overrides:
            expected = artefact_mask(read_image(tmp_path / "plate/artefacts0.tif")) > 0
        assert 300 < drawn.sum() < 1200
        assert (drawn == expected).all()
    with pytest.raises(InstantiationException, match="exclude one another"):
        predict(composed(trained, tmp_path, "mask.column=hole", "mask.artefacts=artefacts"))
    with pytest.raises(TableError, match="no column mask_holes"):
        predict(composed(trained, tmp_path, "mask.column=holes"))


def test_a_plate_in_wells_gets_its_report_and_one_image_alone_too(trained, damaged):
    images = sorted((damaged / "plate/sub").glob("*.*"))
    for number, image in enumerate(images):
        shutil.copy(image, damaged / f"B0{number + 2}_1_nuclei{image.suffix}")
        shutil.copy(damaged / f"masks/{image.stem}.png", damaged / f"masks/B0{number + 2}_1_nuclei.png")
    shutil.rmtree(damaged / "plate")
    (damaged / "plate").mkdir()
    for image in damaged.glob("*_nuclei.*"):
        image.rename(damaged / "plate" / image.name)
    mask = f"mask.folder={damaged / 'masks'}"
    predict(composed(trained, damaged, mask, "report=true"))
    page = (damaged / "out/report.html").read_text()
    assert "Restored plate" in page
    assert "Left out" not in page
    assert page.count("data:image/png") == 1 + 3  # the heat maps and three fields
    one = next((damaged / "plate").glob("B03*"))
    table = predict(composed(trained, damaged, mask, "report=true", f"plate={one}", f"output_dir={damaged}/one"))
    assert table["id"].tolist() == ["B03_1_nuclei"]
    assert "Restored images" in (damaged / "one/report.html").read_text()
    assert (damaged / "one/restored" / one.name).is_file()


def test_a_bad_image_is_left_out_where_asked_and_listed(trained, damaged, caplog):
    bad = damaged / "plate/sub/my image 1.tif"
    bad.write_bytes(bad.read_bytes()[:3000])
    arguments = (f"mask.folder={damaged / 'masks'}", "report=true")
    with pytest.raises(TableError, match=r"my image 1\.tif: .*truncated.*on_bad_image=skip"):
        predict(composed(trained, damaged, *arguments))
    table = predict(composed(trained, damaged, *arguments, "data.on_bad_image=skip"))
    assert table["id"].tolist() == ["sub_my image 0", "sub_my image 2"]
    assert "skipped sub_my image 1" in caplog.text
    assert "Left out: sub_my image 1" in (damaged / "out/report.html").read_text()


def test_what_cannot_be_restored_is_said_before_anything_is(trained, damaged, tmp_path):
    mask = f"mask.folder={damaged / 'masks'}"
    for path in (damaged / "masks").iterdir():
        rows = 90 if path.stem.endswith("2") else 100
        write_image(tmp_path / f"small/{path.name}", read_image(path, allow_constant=True)[:rows])
    for overrides, message in (
        ((), "which pixels are to be restored"),
        (("mask.folder=/nowhere",), "no mask named my image 0"),
        (("mask.folder=" + str(tmp_path / "small"),), r"mask is \(90, 130\) and its image \(100, 130\)"),
        ((mask, "data.pixel_size=null"), "does not say its pixel size"),
        ((mask, "data.pixel_size=0.3"), r"data\.rescale=true"),
        ((mask, f"plate={tmp_path}/nothing"), "does not exist"),
    ):
        with pytest.raises(ValueError, match=message):
            predict(composed(trained, damaged, *overrides))
    assert not list((damaged / "out").rglob("*.tif"))
    write_image(damaged / "plate/other/my image 0.tif", read_image(damaged / "plate/sub/my image 0.tif"))
    predict(composed(trained, damaged, mask, "data.pixel_size=0.65"))
    assert len(list((damaged / "out/restored").rglob("my image 0.tif"))) == 2
