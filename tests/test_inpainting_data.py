"""Samples, splits, scaling and samplers of the inpainting DataModule."""

import itertools
import logging
import re

import numpy as np
import pandas as pd
import pytest
import tifffile
import torch
from hydra.utils import instantiate
from torch._utils import ExceptionWrapper

from phenokeep.datamodules.inpainting import Inpainting
from phenokeep.datamodules.sampling import EpochSampler
from phenokeep.datamodules.scaling import Scaling
from phenokeep.datamodules.tables import TableError
from phenokeep.explain import explain
from phenokeep.imaging.masks import Rectangles
from phenokeep.imaging.tiles import Zoom


@pytest.fixture
def data(config):
    """The DataModule of the small drawn plate, set up; overrides as on the command line."""

    def built(*overrides, **options):
        module = instantiate(config(*overrides).data, **options, _convert_="all")
        module.prepare_data()
        module.setup()
        return module

    return built


def test_sample_is_the_window_of_the_field(data):
    """Cut and scaled by hand from the files that the index names."""
    module = data()
    sample = module.samples("test", [module.patches("test").name(5)])
    field, y, x, band = sample["id"][0].rsplit("_", 3)
    row = module.index.set_index("id").loc[field]
    window = np.s_[int(y[1:]) : int(y[1:]) + 64, int(x[1:]) : int(x[1:]) + 64]
    low, high = module.scaling.ranges["drawn5"]["nuclei"]
    counts = tifffile.imread(row["image_nuclei"]).astype(float)[window]
    np.testing.assert_allclose(sample["source"][0, 0], ((counts - low) / (high - low)).clip(0, 1), atol=1e-6)
    np.testing.assert_array_equal(sample["objects"][0, 0], tifffile.imread(row["objects_nuclei"])[window])
    assert torch.equal(sample["source"], sample["target"])
    assert sample["group"] == [row["group"]]
    assert sample["pixel_size"].tolist() == [[pytest.approx(0.65)] * 2]
    share = sample["mask"].mean()
    bounds = [float(end) / 100 for end in band.split("-")]
    assert bounds[0] <= share < bounds[1]


def test_zoomed_pixels_are_as_wide_as_they_say(data):
    module = data("data.zoom.crop=90", "data.zoom.stride=90", "data.zoom.size=128")
    sample = module.samples("test", [module.patches("test").name(0)])
    assert sample["source"].shape[-2:] == (128, 128)
    assert sample["pixel_size"][0].tolist() == [pytest.approx(0.65 * 90 / 128)] * 2


def test_samples_depend_on_seed_epoch_and_index_alone(data):
    first, second = data().patches("train"), data().patches("train")
    a, b, c = first[3, 7], second[3, 7], first[4, 7]
    assert all(torch.equal(a[key], b[key]) for key in ("source", "mask", "objects"))
    assert not torch.equal(a["mask"], c["mask"])
    test = data().patches("test")
    assert torch.equal(test[0, 2]["mask"], test[5, 2]["mask"])


def test_augmented_objects_stay_on_their_nuclei(data):
    """Where the instances are, the image is brighter, whatever flip or turn was drawn."""
    patches = data().patches("train")
    checked = 0
    for epoch, index in itertools.product(range(3), range(0, len(patches), 3)):
        item = patches[epoch, index]
        inside = item["objects"][0] > 0
        if inside.sum() > 100:
            assert item["source"][0][inside].mean() > 2 * item["source"][0][~inside].mean()
            checked += 1
    assert checked > 10


def test_masks_without_bands_are_drawn_once_per_patch(data):
    patches = data("data/masks=free_form", "data.masks.bands=null", "data.val_bands=null").patches("test")
    assert len(patches) == len(patches.windows)
    shares = [float(patches[0, number]["mask"].mean()) for number in range(len(patches))]
    assert len(set(shares)) > len(shares) / 2
    assert not patches.name(0).endswith(("-20", "-30"))


def test_wells_do_not_cross_splits_and_donors_are_strangers(data):
    module = data()
    assert module.index.groupby("group")["split"].nunique().max() == 1
    patches = module.patches("test")
    for index in range(0, len(patches), 7):
        item = patches[0, index]
        others = module.index[module.index["group"].ne(item["group"])]
        assert len(others)
        y, x = (int(part[1:]) for part in item["id"].rsplit("_", 3)[1:3])
        crops = [tifffile.imread(path)[y : y + 64, x : x + 64] for path in others["image_nuclei"]]
        scaled = [module.scaling.apply(crop, "drawn5", "nuclei") for crop in crops]
        assert any(np.array_equal(item["donor"][0], crop) for crop in scaled)


def test_ids_are_unique_and_two_channels_come_in_order(data):
    module = data("data.channels=[nuclei,artefacts]", "data.plate.artefact_density=300")
    patches = module.patches("test")
    names = [patches.name(number) for number in range(len(patches))]
    assert len(set(names)) == len(names)
    assert patches[0, 0]["source"].shape == (2, 64, 64)
    assert set(module.scaling.ranges["drawn5"]) == {"nuclei", "artefacts"}


def test_scaling_is_fitted_on_training_wells_only(tmp_path):
    """A test well a hundred times brighter does not move the range."""
    rng = np.random.default_rng(1)
    rows = []
    for number, split in enumerate(["train", "train", "val", "test"]):
        image = rng.normal(200, 5, (128, 128))
        image[20:50, 20:50] = image[70:100, 60:90] = 900
        if split == "test":
            image *= 60
        tifffile.imwrite(tmp_path / f"{number}.tif", image.astype(np.uint16))
        rows.append({"plate": "p", "well": f"B0{number + 2}", "field": 1, "split": split, "pixel_size": 0.65,
                     "image_nuclei": f"{number}.tif"})  # fmt: skip
    pd.DataFrame(rows).to_csv(tmp_path / "index.csv", index=False)
    module = Inpainting(str(tmp_path), Rectangles(), zoom=Zoom(64, 64, 64))
    module.setup()
    low, high = module.scaling.ranges["p"]["nuclei"]
    assert 150 < low < 210
    assert 890 < high < 910


def test_ranges_of_a_checkpoint_are_kept_and_a_new_plate_is_estimated(data, caplog):
    known = {"kind": "plate", "ranges": {"drawn5": {"nuclei": [10.0, 500.0]}}, "pixel_size": 0.66}
    assert data(scaling_state=known).scaling.state() == known
    with caplog.at_level(logging.WARNING):
        other = data(scaling_state={"kind": "plate", "ranges": {"elsewhere": {"nuclei": [10.0, 500.0]}}})
    assert "estimated" in caplog.text
    assert "does not say its pixel size" in caplog.text
    assert other.scaling.pixel_size == 0.65
    counts = np.concatenate([tifffile.imread(path).ravel()[::8] for path in other.index["image_nuclei"]])
    assert other.scaling.ranges["drawn5"]["nuclei"] == pytest.approx(np.percentile(counts, [0.1, 99.95]))


def test_a_checkpoint_of_another_scaling_is_refused():
    with pytest.raises(ValueError, match=r"trained with data\.scaling=paper"):
        Inpainting("anywhere", Rectangles(), scaling_state={"kind": "paper", "ranges": {}})


def test_objects_for_some_fields_only_are_refused(data, tmp_path):
    module = data()
    index = module.index.drop(columns="split")
    index.loc[index.index[2], "objects_nuclei"] = pd.NA
    index.to_csv(tmp_path / "index.csv", index=False)
    with pytest.raises(TableError, match="has no objects_nuclei, others have"):
        Inpainting(str(tmp_path), Rectangles(), zoom=Zoom(64, 64, 64)).setup()


def damaged(plate, tmp_path, split, *bad):
    """A copy of the small plate with a split, in which some fields are cut off."""
    rows = []
    for path, side in zip(sorted(plate.glob("*.tif")), split, strict=True):
        content = path.read_bytes()
        number = len(rows)
        (tmp_path / path.name).write_bytes(content[: len(content) // 2] if number in bad else content)
        rows.append({"plate": "p", "well": path.name[:3], "field": 1, "pixel_size": 0.6, "image_nuclei": path.name,
                     "split": side})  # fmt: skip
    pd.DataFrame(rows).to_csv(tmp_path / "index.csv", index=False)
    return lambda **options: Inpainting(str(tmp_path), Rectangles(), zoom=Zoom(64, 64, 64), **options)


def test_bad_images_stop_or_are_skipped_and_listed(plate, tmp_path, caplog):
    built = damaged(plate, tmp_path, ["train", "train", "train", "val", "test", "test"], 1, 4)
    with pytest.raises(TableError, match=r"2 problems(.|\n)*truncated(.|\n)*data\.on_bad_image=skip"):
        built().setup()
    module = built(on_bad_image="skip")
    with caplog.at_level(logging.WARNING):
        module.setup()
    assert [entry["id"] for entry in module.skipped] == ["p_B03_1", "p_B06_1"]
    for entry in module.skipped:
        assert "is truncated" in entry["reason"]
        assert f"skipped {entry['id']}: image_nuclei: {tmp_path}" in caplog.text
    assert list(module.index["well"]) == ["B02", "B04", "B05", "B07"]
    names = {module.patches(split).name(0).split("_y")[0] for split in ("train", "val", "test")}
    assert names == {"p_B02_1", "p_B05_1", "p_B07_1"}
    assert module.patches("test")[0, 0]["donor"].shape == (1, 64, 64)
    with pytest.raises(ValueError, match="on_bad_image=ignore is unknown; it is stop or skip"):
        built(on_bad_image="ignore").setup()


def test_a_split_that_skipping_would_empty_stops(plate, tmp_path):
    built = damaged(plate, tmp_path, ["train", "train", "train", "val", "test", "test"], 3)
    with pytest.raises(TableError, match=r"every val field has a problem and was skipped \(p_B05_1: .*truncated"):
        built(on_bad_image="skip").setup()


def test_skipping_a_field_moves_no_other_well(plate, tmp_path):
    built = damaged(plate, tmp_path, [None] * 6)
    whole = built(on_bad_image="skip")
    whole.setup()
    assert whole.skipped == []
    sides = whole.index.set_index("id")["split"]
    spare = next(number for number, side in enumerate(sides) if side == "train")
    module = damaged(plate, tmp_path, [None] * 6, spare)(on_bad_image="skip")
    module.setup()
    left = module.index.set_index("id")["split"]
    assert left.to_dict() == sides.drop(sides.index[spare]).to_dict()


def test_a_plate_map_reaches_the_index(plate, tmp_path):
    built = damaged(plate, tmp_path, [None] * 6)
    wells = [f"B{n},{'neg' if n < 4 else 'treated'},0.5,uM" for n in range(2, 8)]
    (tmp_path / "map.csv").write_text("\n".join(["well,role,concentration,unit", *wells]))
    module = built(plate_map=str(tmp_path / "map.csv"))
    module.setup()
    assert module.index.set_index("well")["role"].to_dict() == {
        f"B0{n}": "negative" if n < 4 else "treatment" for n in range(2, 8)
    }
    assert module.index["concentration"].dtype == float


def test_one_well_has_no_donor(data, tmp_path):
    module = data()
    module.index.iloc[[0]].assign(split="test").to_csv(tmp_path / "index.csv", index=False)
    single = Inpainting(str(tmp_path), Rectangles(), zoom=Zoom(64, 64, 64))
    single.setup()
    with pytest.raises(TableError, match="no other well"):
        single.patches("test")[0, 0]


def test_scaling_inverts_and_per_patch_scaling_refuses_to():
    scaling = Scaling(ranges={"p": {"nuclei": [100.0, 300.0]}})
    counts = np.array([[100, 150], [250, 300]], np.uint16)
    assert np.allclose(scaling.invert(scaling.apply(counts, "p", "nuclei"), "p", "nuclei"), counts)
    paper = Scaling(kind="paper")
    assert paper.apply(counts, "p", "nuclei").max() == 1
    assert not paper.apply(np.full((2, 2), 7), "p", "nuclei").any()
    with pytest.raises(ValueError, match="no range"):
        paper.invert(counts, "p", "nuclei")
    with pytest.raises(ValueError, match="plate, paper"):
        Scaling(kind="minmax")


@pytest.mark.parametrize(("size", "processes"), [(10, 1), (11, 2), (7, 3), (2, 3)])
def test_every_sample_once_whatever_the_number_of_processes(size, processes):
    parts = [list(EpochSampler(size, 0, shuffle=False, rank=r, processes=processes)) for r in range(processes)]
    assert sorted(index for part in parts for _, index in part) == list(range(size))
    shuffled = [EpochSampler(size, 0, shuffle=True, rank=r, processes=processes) for r in range(processes)]
    for sampler in shuffled:
        sampler.set_epoch(3)
    drawn = [list(sampler) for sampler in shuffled]
    assert {len(part) for part in drawn} == {size // processes}
    assert len({index for part in drawn for _, index in part}) == processes * (size // processes)
    assert all(epoch == 3 for part in drawn for epoch, _ in part)


def test_loader_goes_on_behind_what_it_handed_out(data):
    module = data("data.num_workers=0")
    whole, broken = module.train_dataloader(), module.train_dataloader()
    expected = [batch["id"] for batch in whole]
    start = iter(broken)
    assert [next(start)["id"] for _ in range(4)] == expected[:4]
    resumed = module.train_dataloader()
    resumed.load_state_dict(broken.state_dict())
    assert [batch["id"] for batch in resumed] == expected[4:]
    assert [batch["id"] for batch in resumed] == expected


def test_an_error_of_a_loaders_worker_is_told_as_the_worker_said_it(data):
    module = data()
    module.masks.draw = lambda rng, shape, band=None: np.ones(shape, np.uint8)
    try:
        module.patches("train")[0, 0]
    except ValueError:
        wrapped = ExceptionWrapper(where="in DataLoader worker process 0")  # what a loader hands over
    with pytest.raises(ValueError, match="Traceback") as caught:
        wrapped.reraise()
    said = explain(caught.value)
    assert "\n" not in said
    assert re.match(r"\S+: the mask covers every pixel, .* lower data\.masks\.dilation$", said)
