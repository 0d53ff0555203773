"""Pairs of transmitted light and fluorescence: matching, bad input, scaling, filters, augmentation, drawn and real."""

import hashlib
import itertools
import json
import logging
import pickle
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import tifffile
import torch
from hydra import compose, initialize_config_module
from hydra.utils import instantiate
from scipy import ndimage

from phenokeep import __version__
from phenokeep.datamodules.inpainting import Inpainting
from phenokeep.datamodules.pairs import CropFilter, Pairs
from phenokeep.datamodules.presets import PRESETS
from phenokeep.datamodules.regions import main as cut
from phenokeep.datamodules.scaling import Scaling
from phenokeep.datamodules.tables import TableError, build_index, main, read_index
from phenokeep.datamodules.virtual import VirtualPairs
from phenokeep.imaging.augment import PairAugment
from phenokeep.imaging.corruptions import corrupt
from phenokeep.imaging.masks import Rectangles
from phenokeep.imaging.microscope import CELL_LINES, Microscope, Plate
from phenokeep.imaging.tiles import Zoom
from phenokeep.settings import check_settings

ZOOM = Zoom(64, 64, 64)
SHAPE = (128, 160)
DATA = Path(__file__).parents[1].parent / "shared" / "data"
EVERY = PairAugment(flip=0.5, turn=1.0, enlarge=1.0, contrast=0.5, brightness=0.5, defocus=0.5)


def pair(seed, shape=SHAPE):
    """A grey source whose left half is textured, and nuclei where the texture is: counts of a 12-bit camera."""
    rng = np.random.default_rng(seed)
    spots = np.zeros(shape)
    spots[rng.integers(10, shape[0] - 10, 30), rng.integers(10, shape[1] - 10, 30)] = 1
    nuclei = ndimage.gaussian_filter(spots, 4) * 60000
    source = 1500 + 0.4 * ndimage.sobel(nuclei, 1) + rng.normal(0, 8, shape)
    target = 110 + nuclei + rng.normal(0, 3, shape)
    return source.clip(0, 4095).astype(np.uint16), target.clip(0, 4095).astype(np.uint16)


@pytest.fixture
def table(tmp_path):
    """Ten wells with a z-stack of two planes and two stains, and true nuclei; returns the rows as written."""
    rows = []
    for number in range(10):
        row = {"plate": "p", "well": f"B{number + 2:02d}", "field": 1, "pixel_size": 0.5}
        dic, nuclei = pair(number)
        for column, image in {
            "image_dic": dic,
            "image_dic_2": dic[::-1].copy(),
            "image_nuclei": nuclei,
            "image_er": nuclei // 2 + 7,
            "objects_nuclei": (nuclei > 400).astype(np.uint16),
        }.items():
            row[column] = f"{row['well']}_{column}.tif"
            tifffile.imwrite(tmp_path / row[column], image)
        rows.append(row)
    pd.DataFrame(rows).to_csv(tmp_path / "index.csv", index=False)
    return pd.DataFrame(rows)


@pytest.fixture
def built(table, tmp_path):
    def pairs(**options):
        module = Pairs(str(tmp_path), zoom=ZOOM, batch_size=2, num_workers=0, **options)
        module.setup()
        return module

    return pairs


def test_a_sample_holds_the_planes_and_the_stains_of_its_window(built, tmp_path):
    """Cut and scaled by hand from the files; planes and stains in the order asked for."""
    module = built(sources=["dic_2", "dic"], targets=["nuclei", "er"])
    assert module.index["split"].value_counts().to_dict() == {"train": 7, "val": 1, "test": 2}
    data = module.patches("test")
    item = data[0, 3]
    row, y, x = data.windows[3]
    window = np.s_[y : y + 64, x : x + 64]
    entry = module.index.iloc[row]
    train = module.index[module.index["split"].eq("train")]
    for key, names in {"source": ["dic_2", "dic"], "target": ["nuclei", "er"]}.items():
        assert item[key].shape == (2, 64, 64)
        for plane, name in zip(item[key], names, strict=True):
            column = f"image_{name}"
            counts = np.concatenate([tifffile.imread(path).ravel()[::8] for path in train[column]])
            low, high = np.percentile(counts, [0.1, 99.95])
            expected = (tifffile.imread(entry[column])[window].astype(float) - low) / (high - low)
            np.testing.assert_allclose(plane, expected.clip(0, 1), atol=1e-6)
    np.testing.assert_array_equal(item["objects"][0], tifffile.imread(entry["objects_nuclei"])[window])
    assert item["group"] == entry["group"]
    assert item["pixel_size"].tolist() == [0.5, 0.5]
    assert item["valid"].all()
    assert module.comparable
    assert not module.leaky_split
    others = [data._cut(other, y, x)[..., 2:] for other in range(10) if other != row]
    assert any(np.array_equal(item["donor"].numpy().transpose(1, 2, 0), other) for other in others)
    batch = next(iter(module.train_dataloader()))
    assert batch["source"].shape == batch["target"].shape == (2, 2, 64, 64)
    assert "donor" not in batch


def test_paper_scaling_stretches_each_full_image_and_is_not_comparable(built):
    module = built(scaling="paper")
    data = module.patches("test")
    assert not module.comparable
    assert module.scaling.state() == {"kind": "image", "ranges": {}, "pixel_size": 0.5, "prepared": {}}
    for index in (0, 5):
        row, y, x = data.windows[index]
        for key, column in {"source": "image_dic", "target": "image_nuclei"}.items():
            full = tifffile.imread(module.index[column].iloc[row]).astype(float)
            expected = ((full - full.min()) / (full.max() - full.min()))[y : y + 64, x : x + 64]
            np.testing.assert_allclose(data[0, index][key][0], expected, atol=1e-6)
    with pytest.raises(ValueError, match="no range to invert"):
        module.scaling.invert(np.zeros((2, 2)), "p", "nuclei")
    with pytest.raises(ValueError, match="whole image"):
        module.scaling.apply(np.zeros((2, 2)), "p", "nuclei")
    assert Pairs("anywhere", scaling="paper", scaling_state=module.scaling.state()).scaling.kind == "image"
    with pytest.raises(ValueError, match=r"trained with data\.scaling=paper, not plate: set it so"):
        Pairs("anywhere", scaling_state=module.scaling.state())
    with pytest.raises(ValueError, match="data of another kind"):
        Inpainting("anywhere", Rectangles(), scaling_state=module.scaling.state())


def test_sources_alone_can_be_stretched_by_the_image(built):
    module = built(source_scaling="image")
    assert module.comparable
    state = module.scaling.state()
    assert state["stretched"] == ["dic"]
    assert set(state["ranges"]["p"]) == {"nuclei"}
    data, plain = module.patches("test"), built().patches("test")
    row, y, x = data.windows[1]
    full = tifffile.imread(module.index["image_dic"].iloc[row]).astype(float)
    expected = ((full - full.min()) / (full.max() - full.min()))[y : y + 64, x : x + 64]
    np.testing.assert_allclose(data[0, 1]["source"][0], expected, atol=1e-6)
    assert torch.equal(data[0, 1]["target"], plain[0, 1]["target"])
    assert Scaling(**state).by_image("dic")
    with pytest.raises(ValueError, match=r"data\.source_scaling=image"):
        Pairs("anywhere", scaling_state=state)
    with pytest.raises(ValueError, match="source_scaling=log"):
        Pairs("anywhere", source_scaling="log")


def test_training_is_augmented_reproducibly_and_validation_never(built):
    first, second = built(augment=EVERY), built(augment=EVERY)
    plain = built()
    a, b, c = (module.patches("train")[epoch, 4] for module, epoch in ((first, 2), (second, 2), (first, 3)))
    assert a.keys() == b.keys()
    assert all(torch.equal(a[key], b[key]) for key in ("source", "target", "objects", "valid", "pixel_size"))
    assert not torch.equal(a["source"], c["source"])
    for split in ("val", "test"):
        ours, theirs = first.patches(split), plain.patches(split)
        for key in ("source", "target", "objects", "donor", "valid", "pixel_size"):
            assert torch.equal(ours[0, 1][key], theirs[0, 1][key])
    sizes = {round(float(first.patches("train")[0, n]["pixel_size"][0]), 4) for n in range(20)}
    assert sizes == {round(0.5 * kept / 256, 4) for kept in (56, 156, 216)}


def test_source_target_and_objects_stay_on_each_other(built):
    """With the target as its own source's copy in counts, whatever is drawn keeps both alike and objects on nuclei."""
    still = PairAugment(flip=0.5, turn=1.0, enlarge=1.0, contrast=0.0, defocus=0.0)
    data = built(sources=["nuclei"], targets=["er"], augment=still).patches("train")
    for index in range(12):
        item = data[1, index]
        both = torch.corrcoef(torch.stack([item["source"].ravel(), item["target"].ravel()]))
        assert both[0, 1] > 0.99
    data = built(augment=EVERY).patches("train")
    for index in range(12):
        item = data[0, index]
        inside = item["objects"][0] > 0
        if 50 < inside.sum() < inside.numel() - 50:
            assert item["target"][0][inside].min() > item["target"][0][~inside].max() - 0.1


@pytest.mark.parametrize("source_scaling", ["plate", "image"])
def test_corruptions_damage_counts_of_the_source_before_scaling(built, source_scaling):
    """Held against the whole field, damaged, cut and scaled by hand; the target is as without."""
    only = PairAugment(flip=0.0, turn=0.0, enlarge=0.0, contrast=0.0, brightness=0.0, defocus=1.0)
    module = built(augment=only, source_scaling=source_scaling)
    plain = built(source_scaling=source_scaling)
    assert module.full_scale == 4095
    item, clean = module.patches("train")[0, 5], plain.patches("train")[0, 5]
    assert torch.equal(item["target"], clean["target"])
    data = module.patches("train")
    row, y, x = data.windows[5]
    y, x = data._jitter(row, y, x, data.rng_of(0, 5))
    damaged, _ = corrupt(tifffile.imread(module.index["image_dic"].iloc[row]), "defocus", 4, 4095)
    expected = module.scaling.apply(damaged[y : y + 64, x : x + 64], "p", "dic", damaged)
    np.testing.assert_allclose(item["source"][0], expected, atol=1e-6)
    assert not torch.equal(item["source"], clean["source"])


def test_by_image_gain_and_offset_cancel_until_the_camera_clips(built):
    """Contrast of severity 4 halves the counts: nothing is left of it after a stretch of the full image."""
    only = PairAugment(flip=0.0, turn=0.0, enlarge=0.0, contrast=1.0, defocus=0.0, most_clipped=1.0)
    module, plain = built(augment=only, source_scaling="image"), built(source_scaling="image")
    by_plate = built(augment=only)
    near = []
    for number in range(12):
        wanted = plain.patches("train")[0, number]["source"]
        near.append(bool((module.patches("train")[0, number]["source"] - wanted).abs().max() < 0.01))
        assert not torch.allclose(by_plate.patches("train")[0, number]["source"], wanted, atol=0.05)
    assert any(near)  # gain 0.5
    assert not all(near)  # gain 3 passes 4095


def test_filters_drop_and_count_crops_by_target_and_source(table, tmp_path, caplog):
    """One field: a window without nuclei, one saturated, one dark, and one that is good."""
    dic, nuclei = pair(3, (128, 128))
    nuclei[:64, :64] = 110 + np.random.default_rng(0).normal(0, 3, (64, 64))
    dic[:64, 64:] = 4095
    dic[64:, :64] //= 4
    tifffile.imwrite(tmp_path / table["image_dic"][0], dic)
    for column, image in {"image_nuclei": nuclei, "objects_nuclei": nuclei > 400}.items():
        tifffile.imwrite(tmp_path / table[column][0], image.astype(np.uint16))
    split = ["train"] * 6 + ["val"] * 2 + ["test"] * 2
    table.drop(columns=["image_er", "image_dic_2"]).assign(split=split).to_csv(tmp_path / "index.csv", index=False)
    module = Pairs(str(tmp_path), zoom=ZOOM, filters=CropFilter())
    with caplog.at_level(logging.INFO):
        module.setup()
    assert "1 background, 1 overexposed, 1 underexposed ones dropped" in caplog.text
    windows = [(y, x) for row, y, x in module.patches("train").windows if row == 0]
    assert windows == [(64, 64)]
    everything = Pairs(str(tmp_path), zoom=ZOOM)
    everything.setup()
    assert len([row for row, _, _ in everything.patches("train").windows if row == 0]) == 4
    loose = Pairs(str(tmp_path), zoom=ZOOM, filters=CropFilter(background=False, saturated=1.0, exposure=(0.1, 9.0)))
    loose.setup()
    assert len(loose.patches("train")) == len(everything.patches("train"))
    for wrong in ({"exposure": (1.5, 2.0)}, {"saturated_stain": 2.0}):
        with pytest.raises(ValueError, match=r"data\.filters"):
            CropFilter(**wrong)


def test_a_stain_without_details_is_overexposed_on_any_channel(table, built, tmp_path, caplog):
    """A twentieth of a crop of the second stain at the greatest count of 12 bits; a hundredth of another is let be."""
    _, stain = pair(2)
    stain = stain.clip(0, 4000)
    stain[:64, :64][:16, :13], stain[64:, 64:128][:5, :8] = 4095, 4095
    write(tmp_path, table["image_er"][2], stain)
    with caplog.at_level(logging.INFO):
        module = built(targets=["nuclei", "er"], filters=CropFilter(background=False))
    assert "0 background, 1 overexposed, 0 underexposed ones dropped" in caplog.text
    windows = [w for split in ("train", "val", "test") for w in module.patches(split).windows if w[0] == 2]
    assert [w[1:] for w in windows] == [w for w in ZOOM.windows(SHAPE) if w != (0, 0)]
    loose = built(targets=["nuclei", "er"], filters=CropFilter(background=False, saturated_stain=1.0))
    assert sum(len(loose.patches(split)) for split in ("train", "val", "test")) == 10 * len(ZOOM.windows(SHAPE))


def test_training_moves_no_window_to_where_the_filters_would_drop_it(table, built, tmp_path):
    """Cells in the corner that the grid cuts out alone: most moves would leave them behind."""
    for row in range(10):
        nuclei = 110 + np.random.default_rng(row).normal(0, 3, SHAPE)
        nuclei[6:20, 6:20] += 900
        write(tmp_path, table["image_nuclei"][row], nuclei.round().astype(np.uint16))
    module = built(filters=CropFilter())
    data = pickle.loads(pickle.dumps(module.patches("train")))  # as a worker gets it
    assert len(data) == 7
    moved = []
    for epoch, index in itertools.product(range(8), range(7)):
        row, y, x = data.windows[index]
        places = data._jitter(row, y, x, data.rng_of(epoch, index))
        assert module._unfit(row, *places) is None
        moved.append(places != (y, x))
        assert torch.equal(data[epoch, index]["target"], module.patches("train")[epoch, index]["target"])
    assert any(moved)
    assert not all(moved)
    assert module.patches("val").unfit is None


def test_planes_of_one_sample_are_damaged_alike(built):
    """Gain 3 clips all of the one plane and nothing of the other: half of all pixels, more than is let pass."""
    only = PairAugment(flip=0.0, turn=0.0, enlarge=0.0, contrast=1.0, defocus=0.0, most_clipped=0.4)
    options = {"sources": ["dic", "er"], "full_scale": 4095.0}
    data, plain = built(augment=only, **options).patches("train"), built(**options).patches("train")
    pairs = [(data[0, n]["source"], plain[0, n]["source"]) for n in range(12)]
    same = [[torch.equal(ours[plane], theirs[plane]) for plane in (0, 1)] for ours, theirs in pairs]
    assert {tuple(both) for both in same} == {(True, True), (False, False)}


def test_a_split_that_the_filters_emptied_says_so(table, built, tmp_path):
    table.assign(split=["train"] * 6 + ["val"] * 2 + ["test"] * 2).to_csv(tmp_path / "index.csv", index=False)
    for row in (8, 9):
        write(tmp_path, table["image_dic"][row], tifffile.imread(tmp_path / table["image_dic"][row]) // 4)
    module = built(filters=CropFilter())
    with pytest.raises(TableError, match=r"no test patches; all 12 were dropped .*set data\.filters=null to keep them"):
        module.patches("test")


def test_the_range_of_floats_is_as_narrow_as_they_are():
    values = np.linspace(0.2, 0.3, 8000)
    scaling = Scaling()
    scaling.fit("p", "dic", [values.astype(np.float32)])
    np.testing.assert_allclose(scaling.ranges["p"]["dic"], np.percentile(values, [0.1, 99.95]), atol=1e-4)
    assert scaling.fit("p", "constant", [np.full(80, 0.25)]) == [0.25, 1.25]
    assert scaling.fit("p", "counts", [np.full(80, 7, np.uint16)]) == [7, 8]


def write(tmp_path, name, image):
    tifffile.imwrite(tmp_path / name, image)


BAD = [
    (lambda folder, row: write(folder, row["image_nuclei"], pair(0, (64, 160))[1]), r"sizes differ \(.*crop or export"),
    (
        lambda folder, row: write(folder, row["image_nuclei"], np.full(SHAPE, 300, np.uint16)),
        r"image_nuclei: .*B04_image_nuclei.tif: every pixel is 300; leave the field out or export it again",
    ),
    (
        lambda folder, row: write(folder, row["image_dic"], np.stack([pair(s)[0] for s in range(6)])),
        "holds 6 planes and one is meant; save one file per channel",
    ),
    (
        lambda folder, row: write(folder, row["image_nuclei"], np.stack([pair(s)[1] for s in range(3)], -1)),
        "colour image.*one channel is meant",
    ),
    (
        lambda folder, row: shutil.copy(folder / row["image_dic"], folder / row["image_nuclei"]),
        r"image_nuclei and image_dic have the same pixels \(.*B04_image_nuclei.tif and .*B04_image_dic.tif\); name",
    ),
    (
        lambda folder, row: write(folder, row["image_nuclei"], 4000 - pair(2)[1]),
        "shows dark objects on a bright ground; fluorescence is meant",
    ),
]  # fmt: skip


@pytest.mark.parametrize(("spoil", "message"), BAD)
def test_bad_pairs_stop_or_are_skipped_by_name(table, built, tmp_path, spoil, message):
    spoil(tmp_path, table.loc[2])
    with pytest.raises(TableError, match=f"p_B04_1: .*{message}"):
        built()
    module = built(on_bad_image="skip")
    assert {entry["id"] for entry in module.skipped} == {"p_B04_1"}
    assert "p_B04_1" not in set(module.index["id"])


def test_one_file_named_twice_and_missing_targets(table, built, tmp_path, caplog):
    def index(changed):
        changed.to_csv(tmp_path / "index.csv", index=False)

    same = table.copy()
    same.loc[1, "image_nuclei"] = same.loc[1, "image_dic"]
    index(same)
    with pytest.raises(TableError, match=r"image_nuclei and image_dic are one file \(.*B03_image_dic.tif\); name"):
        built()
    gone = table.copy()
    gone.loc[3, "image_nuclei"] = None
    index(gone)
    with pytest.raises(TableError, match=r"row 5, column image_nuclei is empty \(id p_B05_1.*or leave the row out"):
        built()
    gone.loc[3, "image_nuclei"] = "nowhere.tif"
    index(gone)
    with pytest.raises(TableError, match=r"1 files are missing: row 5, column image_nuclei: .*nowhere.tif; correct"):
        built()
    # A plate that was stained for something else is no gap, and gaps of channels not asked for are none.
    other = table.copy()
    other.loc[7:, "plate"], other.loc[7:, "image_nuclei"], other.loc[:3, "image_er"] = "q", None, None
    other = other.drop(columns="objects_nuclei")
    index(other)
    with caplog.at_level(logging.WARNING):
        module = built()
    assert "3 fields of 1 plates have no image_nuclei or no image_dic and are left out: q" in caplog.text
    assert set(module.index["plate"]) == {"p"}
    with pytest.raises(TableError, match=r"no channel 'golgi'; the channels of data can name: dic"):
        built(targets=["golgi"])
    for wrong in ({"sources": []}, {"targets": []}, {"targets": ["dic"]}, {"sources": ["dic", "dic"]}):
        with pytest.raises(ValueError, match="at least one of each, and none twice"):
            Pairs("anywhere", **wrong)


def test_the_full_scale_is_stated_and_held_against_the_sources(built, table, tmp_path, caplog):
    with caplog.at_level(logging.INFO):
        assert built().full_scale == 4095
    assert "full_scale is taken as 4095" in caplog.text
    assert built(full_scale=65535.0).full_scale == 65535
    with pytest.raises(TableError, match=r"data\.full_scale is 255: give counts of 0 and more"):
        built(full_scale=255.0)
    # Eight bits among more, or under a greater full scale: the first damaged sample could not hold it.
    eight = [tifffile.imread(tmp_path / name) // 16 for name in table["image_dic"]]
    tifffile.imwrite(tmp_path / table["image_dic"][3], eight[3].astype(np.uint8))
    with pytest.raises(TableError, match=r"B05_image_dic.tif: its pixels hold 255 .* 4095: export .* as many bits"):
        built()
    for name, image in zip(table["image_dic"], eight, strict=True):
        tifffile.imwrite(tmp_path / name, image.astype(np.uint8))
    assert built().full_scale == 255
    with pytest.raises(TableError, match=r"B02_image_dic.tif: .* data\.full_scale is 4095: set data\.full_scale=255"):
        built(full_scale=4095.0)
    for name in table["image_dic"]:
        tifffile.imwrite(tmp_path / name, tifffile.imread(tmp_path / name).astype(np.float32))
    with pytest.raises(ValueError, match=r"its pixels are floats.*set data\.full_scale"):
        built()


def test_a_split_by_image_is_leaky_and_its_donors_are_other_places(table, tmp_path):
    """The thesis' split: the fields of one well on every side."""
    numbered = table.assign(well="A01", field=range(10))
    numbered.to_csv(tmp_path / "index.csv", index=False)
    with pytest.raises(TableError, match="1 independent wells cannot fill"):
        Pairs(str(tmp_path), zoom=ZOOM).setup()
    module = Pairs(str(tmp_path), zoom=ZOOM, split_by="field")
    module.setup()
    assert module.leaky_split
    assert module.patches("test")[0, 0]["donor"].shape == (1, 64, 64)


NAMES = ["CHOZN_{n:03d}", "img-{n}-PHX", "{n}_H19_t"]


@pytest.fixture
def thesis(tmp_path):
    """Two plates as the thesis lays them out, and files that have no partner or no name."""
    for plate, stain, n in itertools.product(("plate1", "plate2"), ("Hoechst", "DIC"), (1, 17, 100)):
        for number, name in enumerate(NAMES):
            image = pair(1000 * n + 10 * number + (plate == "plate2"), (64, 64))[stain == "Hoechst"]
            path = tmp_path / plate / stain / f"{name.format(n=n)}.tif"
            path.parent.mkdir(parents=True, exist_ok=True)
            tifffile.imwrite(path, image)
    for name in ("DIC/CHOZN_033.tif", "Hoechst/PHX_034.tif", "DIC/CHOZN_101.tif", "DIC/CHOZN_1_2.tif", "DIC/x_5.tif"):
        tifffile.imwrite(tmp_path / "plate1" / name, pair(len(name), (64, 64))[0])
    return tmp_path


def test_the_thesis_layout_is_paired_by_plate_index_and_phenotype(thesis, caplog):
    with caplog.at_level(logging.INFO):
        index = read_index(thesis, pixel_size=0.3)
    assert len(index) == 2 * 3 * 3
    assert index.attrs["layout"] == "cho_pairs"
    alone = ["plate1/DIC/CHOZN_033.tif", "plate1/Hoechst/PHX_034.tif"]
    unmatched = [f"plate1/DIC/{name}.tif" for name in ("CHOZN_101", "CHOZN_1_2", "x_5")]
    assert (sorted(index.attrs["unmatched"]), index.attrs["alone"]) == (unmatched, alone)
    assert "3 files not matched: plate1/DIC/CHOZN_101.tif" in caplog.text
    assert f"2 files have no partner and are left out: {', '.join(alone)}; copy the partner, or remove" in caplog.text
    for row in index.itertuples():
        dic, nuclei = Path(row.image_dic), Path(row.image_nuclei)
        assert (dic.parent.name, nuclei.parent.name) == ("DIC", "Hoechst")
        assert dic.name == nuclei.name
        assert dic.parents[1] == nuclei.parents[1]
        assert row.plate == dic.parents[1].name
        assert row.phenotype in dic.name
        assert int(row.field) in (1, 17, 100)
        assert row.group == f"{row.plate}:{row.phenotype}"
    module = Pairs(str(thesis), zoom=ZOOM, pixel_size=0.3)
    module.setup()
    assert not module.leaky_split
    assert module.index.groupby("group")["split"].nunique().max() == 1
    assert set(module.index["phenotype"]) == {"CHOZN", "PHX", "H19"}


def test_other_layouts_are_not_taken_for_the_thesis_and_stains_can_be_named(thesis, tmp_path, capsys):
    elsewhere = tmp_path / "screen" / "a"
    elsewhere.mkdir(parents=True)
    for channel in ("dic", "er"):
        tifffile.imwrite(elsewhere / f"my_plate_H19_2_{channel}.tif", pair(len(channel), (64, 64))[0])
    index = build_index(tmp_path / "screen", pixel_size=1)
    assert (index.attrs["layout"], list(index["well"])) == ("plain", ["H19"])
    (tmp_path / "plate1" / "Hoechst").rename(tmp_path / "plate1" / "ConA")
    command = [str(tmp_path / "plate1"), "--pixel-size", "0.3", "--channel", "ConA=er"]
    assert main([*command, "--split-by", "none"]) == 0
    index = read_index(tmp_path / "plate1")
    assert set(index["plate"]) == {"plate1"}
    assert all("ConA" in path for path in index["image_er"])
    printed = capsys.readouterr().out
    assert "2 files have no partner and are left out: ConA/PHX_034.tif, DIC/CHOZN_033.tif; copy" in printed
    assert "3 files did not match" in printed
    shutil.rmtree(tmp_path / "plate1" / "ConA")
    with pytest.raises(TableError, match="no image_dic has a partner of the same plate, phenotype and index"):
        build_index(tmp_path / "plate1", "cho_pairs", pixel_size=0.3)
    assert PRESETS["cho_pairs"].paired == "dic"


def composed(runs, *overrides):
    with initialize_config_module("phenokeep.configs", version_base="1.3"):
        cfg = compose("train", [f"runs={runs}", f"output_dir={runs}/x", "name=test", *overrides])
    check_settings(cfg, ("data",))
    return cfg


def test_virtual_pairs_are_drawn_once_by_their_channels(tmp_path):
    small = ["data=virtual_pairs", "data.plate.wells=4", "data.plate.shape=[96,96]", "data.num_workers=0",
             "data.zoom={crop:64,stride:64,size:64}", "data.batch_size=2"]  # fmt: skip
    drawn = {}
    for source, target in (("nuclei", "artefacts"), ("artefacts", "nuclei"), ("dic", "nuclei")):
        cfg = composed(tmp_path, *small, f"data.sources=[{source}]", f"data.targets=[{target}]", "data.filters=null")
        module = instantiate(cfg.data, _convert_="all")
        module.prepare_data()
        drawn[source] = module
    assert drawn["nuclei"].root == drawn["artefacts"].root != drawn["dic"].root
    assert [column for column in read_index(drawn["dic"].root) if column.startswith("image_")] == [
        "image_dic", "image_nuclei"
    ]  # fmt: skip
    module = drawn["dic"]
    times = {path: path.stat().st_mtime_ns for path in module.root.rglob("*.tif")}
    module.prepare_data()
    assert times == {path: path.stat().st_mtime_ns for path in module.root.rglob("*.tif")}
    module.setup()
    assert module.full_scale == 2**14 - 1
    assert module.split_origin == "by well, seed 0"
    for batch in (next(iter(module.train_dataloader())), next(iter(module.test_dataloader()))):
        assert batch["source"].shape == batch["target"].shape == batch["objects"].shape
        assert batch["objects"].max() > 0


def test_training_is_kept_to_a_part_and_ranges_and_test_wells_are_not(table, built, tmp_path, caplog):
    parts = ["a", "b"] * 5
    table.assign(plate="p", phenotype=parts, split=["train"] * 6 + ["val"] * 2 + ["test"] * 2).to_csv(
        tmp_path / "index.csv", index=False
    )
    whole = built()
    with caplog.at_level(logging.INFO):
        part = built(train_only={"phenotype": ["b"]})
    assert "leaves 18 patches to train on and 6 to validate on" in caplog.text
    assert part.scaling.state() == whole.scaling.state()
    assert whole.groups("train", "val") == [f"p:B{number:02d}" for number in range(2, 10)]
    assert part.groups("train", "val") == ["p:B03", "p:B05", "p:B07", "p:B09"]
    assert part.groups("test") == whole.groups("test") == ["p:B10", "p:B11"]
    names = {split: [d.name(k) for d in [part.patches(split)] for k in range(len(d))] for split in ("train", "test")}
    everything = whole.patches("test")
    assert names["test"] == [everything.name(number) for number in range(len(everything))]
    assert {name[:5] for name in names["train"]} == {"p_B03", "p_B05", "p_B07"}
    torch.testing.assert_close(part.patches("test")[0, 3]["target"], everything[0, 3]["target"], rtol=0, atol=0)
    assert built(train_only={"phenotype": 1}).groups("train") == ["p:B02", "p:B04", "p:B06"], "the first, a"
    assert built(train_only={"phenotype": 2}).groups("train") == whole.groups("train")
    wide = part.cut(Zoom(128, 128, 64))
    assert wide.groups("train") == part.groups("train")
    assert (len(wide.patches("test")), len(part.patches("test"))) == (4, 12)
    assert wide.patches("test")[0, 0]["source"].shape == (1, 64, 64)


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"line": ["b"]}, r"column 'line'; the index has .*\bphenotype\b.*data\.train_only=null"),
        ({"phenotype": ["c"]}, r"no phenotype is 'c'; there are a, b: "),
        ({"phenotype": 3}, r"asks for 3 values of phenotype; there are 2 \(a, b\)"),
        ({"phenotype": ["a"], "well": ["B03"]}, r"leaves nothing to train on"),
        ({"well": ["B02"]}, r"leaves nothing to validate on"),
    ],
)
def test_a_part_that_is_not_there_or_empty_is_refused(table, built, tmp_path, asked, message):
    table.assign(phenotype=["a", "b"] * 5, split=["train"] * 6 + ["val"] * 2 + ["test"] * 2).to_csv(
        tmp_path / "index.csv", index=False
    )
    with pytest.raises(TableError, match=message):
        built(train_only=asked)


def test_several_plates_and_cell_lines_are_drawn_and_one_plate_as_ever(tmp_path):
    plate, microscope = Plate(seed=3, wells=4, fields_per_well=1, shape=(64, 64)), Microscope(bits=14)
    channels = {"sources": ["nuclei"], "targets": ["artefacts"]}
    options = {"zoom": ZOOM, "filters": None, "num_workers": 0, **channels}
    one = VirtualPairs(str(tmp_path), plate, microscope, **options)
    recipe = json.dumps([__version__, repr(plate), repr(microscope), "artefacts", "nuclei"])
    assert one.root.name == f"pairs_{hashlib.sha256(recipe.encode()).hexdigest()[:10]}"
    one.prepare_data()
    index = read_index(one.root)
    assert "phenotype" not in index
    assert sorted(path.name for path in (one.root / "objects").iterdir()) == [
        f"drawn_B{number:02d}_f1.tif" for number in (2, 3, 4, 5)
    ]
    many = VirtualPairs(str(tmp_path), plate, microscope, plates=2, cell_lines=["H19", "PHX"], **options)
    many.prepare_data()
    index = read_index(many.root)
    assert [drawn.seed for drawn in many.plates] == [3, 4]
    assert index["plate"].tolist() == ["drawn3"] * 4 + ["drawn4"] * 4
    assert index["phenotype"].tolist() == ["H19", "PHX"] * 4
    assert len(set(index["image_nuclei"])) == 8
    drawn = replace(plate, seed=4, treatments={"B03": CELL_LINES["PHX"]}).at("B03", 1)
    assert drawn.phenotype.density == pytest.approx(  # of the line, times the effects of batch, plate, well and field
        CELL_LINES["PHX"].density * replace(plate, seed=4).at("B03", 1).phenotype.density / plate.phenotype.density
    )
    row = index[(index["plate"] == "drawn4") & (index["well"] == "B03")].iloc[0]
    assert np.array_equal(tifffile.imread(row["image_nuclei"]), microscope.image(drawn.scene, channel="nuclei"))
    many.setup()
    assert many.index["phenotype"].notna().all()
    for wrong, message in (
        ({"plates": 0}, "plates is 0"),
        ({"cell_lines": ["HeLa"]}, "name one or more of CHOZN, PHX, H19"),
        ({"cell_lines": ["PHX"], "plate": replace(plate, treatments={"B02": CELL_LINES["H19"]})}, "set one of them"),
    ):
        with pytest.raises(ValueError, match=message):
            VirtualPairs(**{"root": str(tmp_path), "plate": plate, "microscope": microscope, **options, **wrong})


def test_pairs_compose_from_a_plate_with_crops_of_256(table, tmp_path):
    cfg = composed(tmp_path, "~experiment", "data=pairs", f"plate={tmp_path}")
    module = instantiate(cfg.data, _convert_="all")
    assert module.root == tmp_path
    assert (module.zoom.crop, module.zoom.size) == (256, 256)
    assert module.augment == PairAugment(shrink=[[100, 0.2], [50, 0.2], [20, 0.6]])
    assert module.filters == CropFilter(exposure=[0.5, 2.0])
    for wrong in ("data.batch_size=two", "data.sources=dic", "data.augment.flip=often", "data.filters.exposure=[1]"):
        with pytest.raises(ValueError, match=wrong.split("=")[0].replace(".", r"\.")):
            composed(tmp_path, "data=pairs", wrong)


def test_regions_of_one_field_are_apart_and_make_a_leaky_split(table, tmp_path, capsys):
    dic, nuclei = pair(1, (200, 400))
    for column, image in {"image_dic": dic, "image_nuclei": nuclei, "objects_nuclei": nuclei > 400}.items():
        tifffile.imwrite(tmp_path / table[column][0], image.astype(np.uint16))
    single = table.iloc[[0]].drop(columns=["image_er", "image_dic_2"])
    single.to_csv(tmp_path / "single.csv", index=False)
    out = tmp_path / "tiles"
    assert cut([str(tmp_path / "single.csv"), str(out), "--gap", "10"]) == 0
    index = read_index(out)
    assert list(index["split"]) == ["train", "train", "val", "test"] * 2
    assert index.attrs["leaky_split"]
    for row, (r, c) in zip(index.itertuples(), np.ndindex(2, 4), strict=True):
        window = np.s_[100 * r + 5 : 100 * r + 95, 100 * c + 5 : 100 * c + 95]
        np.testing.assert_array_equal(tifffile.imread(row.image_dic), dic[window])
        np.testing.assert_array_equal(tifffile.imread(row.objects_nuclei) > 0, nuclei[window] > 400)
    module = Pairs(str(out), zoom=ZOOM)
    module.setup()
    assert module.patches("test")[0, 0]["donor"].shape == (1, 64, 64)
    capsys.readouterr()
    for arguments, message in [
        (["tiles"], "exists; remove it"),
        (["b", "--grid", "2x2"], "at least 3 across"),
        (["b", "--grid", "2"], "write it like 2x4"),
        (["b", "--gap", "90"], "leave 10x10"),
    ]:
        assert cut([str(tmp_path / "single.csv"), str(tmp_path / arguments[0]), *arguments[1:]]) == 2
        assert message in capsys.readouterr().err


@pytest.mark.skipif(not (DATA / "isl_neurons").is_dir(), reason="the real pairs of shared/data are not here")
def test_a_real_stack_of_phase_contrast_becomes_pairs(tmp_path):
    planes = ["phase_z0", "phase_z6", "phase_z12"]
    row = {"plate": "isl", "well": "A01", "field": 1, "pixel_size": 0.65}
    row |= {f"image_{name}": str(DATA / "isl_neurons" / f"{name}.png") for name in (*planes, "dapi", "map2")}
    pd.DataFrame([row]).to_csv(tmp_path / "index.csv", index=False)
    assert cut([str(tmp_path), str(tmp_path / "tiles")]) == 0
    module = Pairs(str(tmp_path / "tiles"), planes, ["dapi", "map2"], filters=CropFilter(), zoom=ZOOM)
    module.setup()
    item = module.patches("test")[0, 0]
    assert item["source"].shape == (3, 64, 64)
    assert item["target"].shape == item["donor"].shape == (2, 64, 64)
