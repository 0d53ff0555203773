"""Stains prepared before they are learned: the Golgi without its haze, masks of cells; and masks read again."""

import pickle

import numpy as np
import pandas as pd
import pytest
import torch
from hydra import compose, initialize_config_module
from hydra.utils import instantiate
from omegaconf import OmegaConf
from scipy import ndimage

from phenokeep.datamodules import patches
from phenokeep.datamodules.pairs import CropFilter, Pairs
from phenokeep.datamodules.patches import FieldReader
from phenokeep.datamodules.scaling import Scaling
from phenokeep.imaging.augment import PairAugment
from phenokeep.imaging.io import write_image
from phenokeep.imaging.organelles import golgi_preprocessed, segment
from phenokeep.imaging.prepare import GolgiPrepared, OrganelleMask, written
from phenokeep.imaging.tiles import Zoom, is_blank
from phenokeep.metrics import Readouts


def blobs(seed=0, side=192):
    """Two bright discs over an uneven haze, in counts."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:side, :side]
    image = 400 + 2.0 * y + rng.normal(0, 4, (side, side))
    for row, column in ((60, 70), (130, 120)):
        image[(y - row) ** 2 + (x - column) ** 2 < 14**2] += 900
    return image.astype(np.uint16)


def test_golgi_is_the_preprocessed_image_in_16_bits():
    prepared = GolgiPrepared(radius=40.0, shrink=2, percentile=80.0)(blobs())
    assert prepared.dtype == np.uint16
    np.testing.assert_allclose(prepared / 65535, golgi_preprocessed(blobs(), 40.0, 2, 80.0), atol=1e-5)
    assert (prepared == 0).mean() == pytest.approx(0.8, abs=0.01)


@pytest.mark.parametrize("organelle", ["nuclei", "gfp"])
def test_a_mask_holds_the_objects_and_is_read_as_such(organelle):
    mask = OrganelleMask(organelle)(blobs())
    np.testing.assert_array_equal(mask, 65535 * (segment(blobs(), organelle) > 0))
    found = segment(mask / 65535, "mask", min_area=30)
    assert found.max() == segment(blobs(), organelle).max() >= 2
    np.testing.assert_array_equal(found > 0, mask > 0)


def test_a_probability_counts_above_0_8():
    probability = np.zeros((64, 64))
    probability[5:25, 5:25], probability[35:55, 35:55], probability[5:10, 50:55] = 0.81, 0.79, 1.0
    assert segment(probability, "mask").max() == 1  # the second is too faint, the third too small
    measured = Readouts("mask").measure(probability[None, None], probability[None, None])
    assert measured["area_predicted"].item() == 400
    with pytest.raises(ValueError, match="all finite"):
        segment(np.full((4, 4), np.nan), "mask")


@pytest.fixture
def plate(tmp_path):
    rows = []
    for number in range(6):
        row = {"plate": "p", "well": f"B{number + 2:02d}", "field": 1, "pixel_size": 0.65}
        for name in ("dic", "gfp"):
            write_image(tmp_path / f"{name}{number}.tif", blobs(number + 10 * (name == "dic")))
            row[f"image_{name}"] = f"{name}{number}.tif"
        rows.append(row)
    pd.DataFrame(rows).to_csv(tmp_path / "index.csv", index=False)
    return tmp_path


PREPARE = "phenokeep.imaging.prepare"
NODE = {"gfp": {"_target_": f"{PREPARE}.OrganelleMask", "organelle": "gfp"}}


@pytest.fixture
def pairs(plate):
    def made(node=None, size=64, **options):
        prepare = instantiate(node, _convert_="all") if node else None
        data = Pairs(str(plate), targets=["gfp"], zoom=Zoom(64, 64, size), prepare=prepare, num_workers=0, **options)
        data.setup()
        return data

    return made


def test_data_prepare_targets_alone_before_they_are_cut(plate, pairs):
    data = pairs(NODE)
    assert pairs().comparable
    assert not data.comparable, "each image is prepared by itself"
    reader = pickle.loads(pickle.dumps(data.reader))  # as a worker gets it
    whole = reader.image(0)
    np.testing.assert_array_equal(whole[0], blobs(10))
    np.testing.assert_array_equal(whole[1], OrganelleMask("gfp")(blobs(0)))
    targets = np.concatenate([data.patches("test")[0, n]["target"].numpy() for n in range(len(data.patches("test")))])
    assert set(np.unique(targets)) == {0.0, 1.0}
    with pytest.raises(ValueError, match=r"data\.prepare changes golgi, and the targets are gfp"):
        Pairs(str(plate), targets=["gfp"], prepare={"golgi": GolgiPrepared()})


SETTINGS = {"radius": None, "shrink": 4, "percentile": 90}
GOLGI = {"gfp": {"_target_": f"{PREPARE}.GolgiPrepared", **SETTINGS}}


def test_a_prepared_stain_is_made_once_as_long_as_memory_allows(pairs, monkeypatch):
    made = []
    prepare = {"gfp": lambda image: made.append(1) or image}
    for limit, times in ((patches.CACHED_BYTES, 1), (0, 2)):
        monkeypatch.setattr(patches, "CACHED_BYTES", limit)
        reader = FieldReader(pairs().index, ["dic", "gfp"], None, prepare=prepare)
        made.clear()
        for row in [*range(len(reader.index))] * 2:
            assert reader.image(row) is reader.image(row)
        assert len(made) == times * len(reader.index)


def test_a_checkpoint_says_how_targets_were_prepared(plate, pairs, caplog):
    """Of the ranges of a prepared stain nothing else can be made; what the error says is what a command line takes."""
    state = pairs(GOLGI).scaling.state()
    assert state["prepared"] == {"gfp": {"class": f"{PREPARE}.GolgiPrepared", **SETTINGS}}
    assert torch.load(_saved(plate, state), weights_only=True) == state, "plain values"
    assert not pairs(GOLGI, scaling_state=state).comparable
    assert "on trust" not in caplog.text
    known = r"data\.prepare=\{gfp:\{_target_:phenokeep.imaging.prepare.GolgiPrepared,radius:null,.*\}\}"
    for node, other in ((None, "null"), (NODE, r"\{gfp:.*OrganelleMask,organelle:gfp\}\}")):
        with pytest.raises(ValueError, match=rf"trained with {known}, not data\.prepare={other}: .*Set it so"):
            pairs(node, scaling_state=state)
    with pytest.raises(ValueError, match=rf"trained with data\.prepare=null, not {known}"):
        pairs(GOLGI, scaling_state=pairs().scaling.state())
    with initialize_config_module("phenokeep.configs", version_base="1.3"):
        cfg = compose("train", ["data=pairs", "name=x", "output_dir=x", written(state["prepared"])])
    assert OmegaConf.to_container(cfg.data.prepare) == GOLGI
    again = instantiate({"_target_": f"{Scaling.__module__}.Scaling"}, **state, _convert_="all")
    assert again.state() == state, "as commands hand it on"
    old = {key: value for key, value in state.items() if key != "prepared"}
    assert pairs(GOLGI, scaling_state=old).scaling.prepared == state["prepared"]
    assert "does not say how its targets were prepared" in caplog.text
    with pytest.raises(ValueError, match=r"was prepared with .*no plain value"):
        Scaling(**old, prepared={"gfp": {"radius": torch.ones(2)}})


def _saved(folder, state):
    torch.save(state, folder / "state.pt")
    return folder / "state.pt"


def test_background_and_exposure_are_judged_on_the_stain_as_read(plate, pairs):
    """Preparing stretches the faint haze of a field without cells, and brings a mask to its greatest count."""
    rng = np.random.default_rng(1)
    haze = ndimage.gaussian_filter(rng.normal(0, 1, (192, 192)), 5)
    haze = 400 + 3 * haze / haze.std() + rng.normal(0, 4, haze.shape)
    haze[140:160, 140:160] += 900
    write_image(plate / "gfp0.tif", haze.round().astype(np.uint16))
    windows = {}
    for name, node in {"none": None, "golgi": GOLGI, "mask": NODE}.items():
        data = pairs(node, filters=CropFilter())
        windows[name] = [window for split in ("train", "val", "test") for window in data.patches(split).windows]
    assert windows["none"] == windows["golgi"] == windows["mask"]
    assert [(y, x) for row, y, x in windows["none"] if row == 0] == [(128, 128)]
    assert not is_blank(GolgiPrepared(radius=None)(haze)[:64, :64]), "the prepared one would have been kept"


def test_a_mask_stays_a_mask_turned_enlarged_and_resized(pairs):
    augment = PairAugment(turn=1.0, enlarge=1.0)
    for size, split in ((64, "train"), (96, "train"), (48, "test")):
        data = pairs(NODE, size, augment=augment).patches(split)
        assert set(torch.cat([data[0, n]["target"].ravel() for n in range(len(data))]).unique().tolist()) == {0.0, 1.0}
        data = pairs(None, size, augment=augment).patches(split)
        assert len(data[0, 0]["target"].unique()) > 100, "a picture is interpolated"
