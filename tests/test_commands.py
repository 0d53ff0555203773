"""The commands as a user types them: what goes wrong is one clear error, before training starts."""

import logging
import re
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import tifffile
import torch
from hydra import compose, initialize_config_module

from phenokeep import cli
from phenokeep.checkpoint import CheckpointError, read_checkpoint
from phenokeep.explain import explain

KEEP_LAST = "callbacks.last={_target_: phenokeep.callbacks.Last, folder: '${output_dir}'}"


@pytest.fixture
def run(monkeypatch, capsys):
    """Calls a command in this process; returns its stderr; fails for an exit status other than `code`."""

    handlers = logging.root.handlers[:]

    def called(command, *arguments, code=0):
        monkeypatch.setattr(sys, "argv", [f"{command.__name__}.py", *map(str, arguments)])
        monkeypatch.delenv("HYDRA_FULL_ERROR", raising=False)
        status = 0
        try:
            command()
        except SystemExit as stop:
            status = stop.code
        captured = capsys.readouterr()
        logging.root.handlers[:] = handlers  # Hydra's would write to a stream that pytest has closed
        assert status == code, captured.err
        return captured.err

    return called


@pytest.fixture
def own(plate, tmp_path):
    """Arguments of a train command on a copy of that plate, which a test may damage."""
    for path in plate.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    return ["debug=tiny", "data=hcs_nuclei", "data.pixel_size=0.65", f"data.root={tmp_path}", f"runs={tmp_path}/runs"]


def _damage(folder, kind):
    path = folder / "B03_1_nuclei.tif"
    image = tifffile.imread(path)
    if kind == "unreadable":
        path.write_bytes(path.read_bytes()[:300])
    elif kind == "constant":
        tifffile.imwrite(path, np.full_like(image, 7))
    elif kind == "nan":
        spoilt = image.astype(np.float32)
        spoilt[3, 4] = np.nan
        tifffile.imwrite(path, spoilt)
    elif kind == "objects of another size":
        files = sorted(folder.glob("*.tif"))
        rows = [{"well": p.name[:3], "field": 1, "image_nuclei": p.name, "pixel_size": 0.65} for p in files]
        tifffile.imwrite(folder / "labels.tiff", np.zeros((80, 160), np.int32))
        tifffile.imwrite(folder / "good.tiff", np.zeros((160, 160), np.int32))
        for number, row in enumerate(rows):
            row["objects_nuclei"] = "labels.tiff" if number == 1 else "good.tiff"
        pd.DataFrame(rows).to_csv(folder / "index.csv", index=False)


@pytest.mark.parametrize("kind", ["unreadable", "constant", "nan", "objects of another size"])
def test_bad_image_is_found_before_training(kind, run, own, tmp_path):
    _damage(tmp_path, kind)
    message = run(cli.train, *own, code=1)
    assert "B03_1_nuclei.tif" in message
    assert "80x160" in message or "size" not in kind
    assert "Traceback" not in message
    assert not list(tmp_path.rglob("metrics.csv"))


def test_good_plate_trains_and_a_missing_or_empty_one_is_named(run, own, tmp_path):
    run(cli.train, *own)
    assert f"{tmp_path}/nowhere" in run(cli.train, *own, f"data.root={tmp_path}/nowhere", code=1)
    (tmp_path / "empty").mkdir()
    assert f"{tmp_path}/empty" in run(cli.train, *own, f"data.root={tmp_path}/empty", code=1)
    assert "data.root" in run(cli.train, *own, "data.root=null", code=1)
    assert "artefacts" in run(cli.train, *own, "data.channels=[artefacts]", code=1)


@pytest.mark.parametrize(
    ("argument", "hint"),
    [
        ("experiment=phirm/context_encodr", "phirm/context_encoder"),
        ("data.bach_size=3", "bach_size"),
        ("+data.bach_size=3", "bach_size"),
        ("+sead=3", "did you mean 'seed'"),
        ("data.masks.bands=[[0.5,0.2]]", "0.5"),
        ("data.zoom.size=65", "divisible by"),
        ("ckpt_path=last", "nothing to go on from"),
        ("ckpt_path=/nowhere.ckpt", "/nowhere.ckpt"),
        ("data.batch_size=5000", "data.batch_size"),
        ("model.init_from={net: /nowhere.ckpt}", "/nowhere.ckpt"),
    ],
)
def test_misspelt_or_impossible_settings(argument, hint, run, small, tmp_path):
    message = run(cli.train, *small, f"hydra.run.dir={tmp_path}/run", argument, code=1)
    assert hint in message
    assert "Traceback" not in message


@pytest.mark.parametrize(
    ("command", "mends", "not_there"),
    [
        ("train.py", ["data.batch_size", "data.zoom.size", "model.widths (unet)", "model.net.filters"], ["device"]),
        ("bin/phenokeep-eval", ["data.batch_size"], ["model.", "zoom", "device"]),
        ("bin/phenokeep-predict", ["smaller", "device=cpu"], ["model.", "data."]),
    ],
)
def test_too_little_memory_is_mended_by_keys_of_the_command(command, mends, not_there, monkeypatch):
    monkeypatch.setattr(sys, "argv", [command])
    for error in (MemoryError(), RuntimeError("CUDA out of memory. Tried to allocate 2 GiB")):
        said = explain(error)
        assert "does not fit in memory" in said
        assert all(key in said for key in mends)
        assert not any(key in said for key in not_there)


@pytest.fixture(scope="session")
def trained(runs):
    """A checkpoint of a tiny run."""
    from conftest import SMALL

    from phenokeep.run import train

    with initialize_config_module("phenokeep.configs", version_base="1.3"):
        train(compose("train", [*SMALL, f"runs={runs}", f"output_dir={runs}/trained", KEEP_LAST]))
    return runs / "trained" / "last.ckpt"


def test_eval_composes_the_checkpoint_and_writes_a_report(run, trained, tmp_path):
    folder = tmp_path / "judged"
    own = ["study.n_bootstrap=50", "data.batch_size=4", "seed=3"]  # of a group, of the data, and a plain key
    run(cli.evaluate, f"ckpt_path={trained}", f"hydra.run.dir={folder}", *own)
    page = (folder / "report.html").read_text()
    methods = pd.read_csv(folder / "methods.csv")["method"].tolist()
    assert methods[0] == "Restorer"
    assert {"background_median", "other_field", "rotated_hole", "telea", "navier_stokes", "biharmonic"} < set(methods)
    assert f"ckpt_path={trained}" in page
    assert "batch_size: 4" in page
    assert re.search(r"^seed: 3", page, re.M)
    assert re.search(r"crop: 64", page), "the checkpoint's own settings are the base"


def test_a_plate_on_the_command_line_is_what_eval_reads(trained, plate, tmp_path):
    saved = read_checkpoint(trained)
    with pytest.raises(ValueError, match=r"data are drawn .*data=hcs_nuclei"):
        cli._register_checkpoint([f"ckpt_path={trained}", f"plate={plate}"], cli.WITHOUT_CHECKPOINT)
    saved["config"]["plate"] = "/first"
    data = saved["config"]["data"]
    del data["plate"], data["microscope"]
    data.update({"root": "/first", "pixel_size": 0.3, "plate_map": "/first.csv", "batch_size": 3})
    path = tmp_path / "own.ckpt"
    torch.save(saved, path)
    for more, expected in (
        ([], ("/first", 0.3, "/first.csv")),
        ([f"plate={plate}"], (str(plate), None, None)),
        ([f"plate={plate}", "data.pixel_size=0.65"], (str(plate), 0.65, None)),
        (["plate=/third", f"data.root={plate}"], (str(plate), None, None)),
        (["data=hcs_nuclei", f"plate={plate}"], (str(plate), None, None)),
    ):
        arguments = cli._register_checkpoint([f"ckpt_path={path}", *more], cli.WITHOUT_CHECKPOINT)
        with initialize_config_module("phenokeep.configs", version_base="1.3"):
            read = compose("eval", [*arguments, f"output_dir={tmp_path}"]).data
        assert (read.root, read.pixel_size, read.plate_map) == expected
        assert read.batch_size == (8 if "data=hcs_nuclei" in more else 3)


def test_training_refuses_a_checkpoint_of_another_model(run, trained, small, tmp_path):
    arguments = [*small, f"ckpt_path={trained}", "model.widths=[8,8]", f"hydra.run.dir={tmp_path}/run"]
    assert "another model" in run(cli.train, *arguments, code=1)


def test_eval_refuses_what_does_not_fit(run, trained, tmp_path):
    common = [f"ckpt_path={trained}", f"hydra.run.dir={tmp_path}/judged"]
    assert "another model" in run(cli.evaluate, *common, "model.widths=[8,8]", code=1)
    assert "rooot" in run(cli.evaluate, *common, "data.rooot=x", code=1)
    assert "which model" in run(cli.evaluate, code=1)
    truncated = tmp_path / "short.ckpt"
    truncated.write_bytes(trained.read_bytes()[:5000])
    assert "short.ckpt" in run(cli.evaluate, f"ckpt_path={truncated}", code=1)


class _Attack:
    """Writes a file when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (Path.touch, (Path(self.path),))


def test_checkpoint_that_would_run_code_is_refused(run, trained, tmp_path):
    saved = read_checkpoint(trained)
    by_pickle = tmp_path / "pickle.ckpt"
    torch.save({**saved, "extra": _Attack(tmp_path / "pwned")}, by_pickle)
    with pytest.raises(CheckpointError, match="could run code"):
        read_checkpoint(by_pickle)
    torch.save(_Attack(tmp_path / "pwned"), tmp_path / "payload.pt")

    by_target = tmp_path / "target.ckpt"
    attack = {"_target_": "torch.load", "f": str(tmp_path / "payload.pt"), "weights_only": False}
    for hidden in (attack, [attack], (attack,)):  # OmegaConf would make a list of a tuple
        saved["config"]["data"]["masks"] = hidden
        torch.save(saved, by_target)
        message = run(cli.evaluate, f"ckpt_path={by_target}", f"hydra.run.dir={tmp_path}/x", code=1)
        assert "'torch.load'" in message or "holds a tuple" in message

    saved["config"]["hydra"] = {"run": {"dir": str(tmp_path / "pwned")}}
    torch.save(saved, by_target)
    assert "how commands run" in run(cli.evaluate, f"ckpt_path={by_target}", f"hydra.run.dir={tmp_path}/x", code=1)

    del saved["config"]["hydra"]
    saved["config"]["data"]["masks"] = "${oc.env:HOME}"
    torch.save(saved, by_target)
    assert "interpolation" in run(cli.evaluate, f"ckpt_path={by_target}", f"hydra.run.dir={tmp_path}/x", code=1)
    assert not (tmp_path / "pwned").exists()
