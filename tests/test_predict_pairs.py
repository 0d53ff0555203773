"""Predicting the stains of the label-free thesis' folders, and what a table says when its index has changed since."""

import shutil
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch

from phenokeep.datamodules.layouts import TableError
from phenokeep.datamodules.scaling import Scaling
from phenokeep.datamodules.tables import read_index
from phenokeep.imaging.io import write_image
from phenokeep.inference.inputs import read_inputs
from phenokeep.inference.provenance import run_record
from phenokeep.inference.stain import StainPredictor
from phenokeep.inference.stain_plate import Organelle, StainRun
from phenokeep.models import Translator
from phenokeep.models.image_losses import MSE
from phenokeep.models.nets.labelfree_unet import LabelfreeUNet

SHAPE = (114, 120)  # larger than the neighbourhood by which nuclei are segmented


def image(path, seed=0):
    write_image(path, np.random.default_rng(seed).integers(0, 4000, SHAPE).astype(np.uint16))


@pytest.fixture
def thesis(tmp_path):
    """Two plates, in one of which a field has no stain; and a stain without its field."""
    for plate in ("p1", "p2"):
        for number in (1, 2):
            image(tmp_path / plate / f"DIC/CHOZN_{number}.tif", number)
            image(tmp_path / plate / f"Hoechst/CHOZN_{number}.tif", 10 + number)
    (tmp_path / "p1/Hoechst/CHOZN_2.tif").unlink()
    image(tmp_path / "p1/Hoechst/PHX_3.tif", 7)
    return tmp_path


def test_transmitted_light_needs_no_stain_where_none_is_wanted(thesis):
    index = read_inputs(thesis, ["dic"], 0.3, exclusive=True)
    assert index["id"].tolist() == ["p1_CHOZN_1", "p1_CHOZN_2", "p2_CHOZN_1", "p2_CHOZN_2"]
    assert index.attrs["alone"] == ["p1/Hoechst/PHX_3.tif"]
    both = read_index(thesis, 0.3, channels=["nuclei", "dic"])
    assert both["id"].tolist() == ["p1_CHOZN_1", "p2_CHOZN_1", "p2_CHOZN_2"]
    shutil.rmtree(thesis / "p2/Hoechst")
    both = read_index(thesis, 0.3, channels=["nuclei", "dic"])
    assert both["id"].tolist() == ["p1_CHOZN_1"]
    assert both.attrs["alone"] == ["p1/DIC/CHOZN_2.tif", "p1/Hoechst/PHX_3.tif"]  # p2 was not stained at all
    shutil.rmtree(thesis / "p1/Hoechst")
    assert read_inputs(thesis, ["dic"], 0.3, exclusive=True)["id"].tolist() == index["id"].tolist()
    with pytest.raises(TableError, match="no channel 'nuclei'; the channels of data can name: dic"):
        read_index(thesis, 0.3, channels=["nuclei", "dic"])


def test_files_that_do_not_say_their_channel_are_refused_where_a_model_takes_several(tmp_path):
    for name in ("stack/low", "stack/high"):
        image(tmp_path / f"{name}.tif")
    assert len(read_inputs(tmp_path / "stack", ["dic"], 0.3)) == 2
    for plate in (tmp_path / "stack", tmp_path / "stack/low.tif"):
        with pytest.raises(TableError, match=r"columns image_z0, image_z1; python -m phenokeep\.datamodules\.tables"):
            read_inputs(plate, ["z0", "z1"], 0.3, exclusive=True)


@pytest.fixture
def run(thesis):
    """Predicts the stains of p2 with the index changed by `change`; returns the table and how often it predicted."""
    torch.manual_seed(0)
    zoom = {"_target_": "phenokeep.imaging.tiles.Zoom", "crop": 64, "stride": 64, "size": 64}
    config = {"data": {"sources": ["dic"], "targets": ["nuclei"], "zoom": zoom}, "seed": 0}
    scaling = Scaling("plate", {"other": {"nuclei": [200.0, 1200.0]}}, 0.3, ["dic"])
    net = LabelfreeUNet(1, 1, filters=3, depth=2, variant="thesis")
    one = StainPredictor(Translator(net, MSE(), 1, 1), scaling, config, device="cpu")
    one.tile = 112
    calls = []
    predicts = one.predict
    one.predict = lambda *arguments: calls.append(arguments) or predicts(*arguments)

    def predicted(change=lambda index: index, detector=None, out="out"):
        calls.clear()
        index = change(read_inputs(thesis / "p2", ["dic"], 0.3, exclusive=True))
        measured = [Organelle("nuclei", 0, "nuclei", {})]
        record = run_record(one, "best.ckpt", {})
        table = StainRun(one, index, thesis / out, record, False, measured, detector).run()
        return table, len(calls), (thesis / out / "fields.csv").read_bytes()

    return predicted


@pytest.mark.parametrize("watched", [False, True])
def test_what_the_index_says_of_a_predicted_field_is_as_of_now(run, watched):
    state = SimpleNamespace(drift=False, statistic=0.5, threshold=1.0)
    options = {"detector": SimpleNamespace(update=lambda x: state)} if watched else {}
    first, made, written = run(**options)
    assert (made, first["phenotype"].tolist()) == (2, ["CHOZN", "CHOZN"])
    mapped, made, _ = run(lambda index: index.assign(compound=["a", "b"]), **options)
    assert (made, mapped["compound"].tolist()) == (0, ["a", "b"])
    pd.testing.assert_frame_equal(mapped.drop(columns="compound"), first)
    assert run(**options)[1:] == (0, written)
    fresh = run(lambda index: index.assign(compound=["a", "b"]), out="fresh", **options)[0]
    pd.testing.assert_frame_equal(mapped, fresh)
    other, made, _ = run(lambda index: index.assign(pixel_size=[0.3, 0.302]), **options)
    assert (made, other["pixel_size"].tolist()) == (1, [0.3, 0.302])
