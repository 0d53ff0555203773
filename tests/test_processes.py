"""What needs processes of its own: several devices, a recipe of stages, the installed package, --help."""

import os
import re
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pandas as pd
import pytest
from conftest import ROOT

KEEP_LAST = "callbacks.last={_target_: phenokeep.callbacks.Last, folder: '${output_dir}'}"


def _run(*command, env, code=0, cwd=None):
    done = subprocess.run(list(map(str, command)), env=env, cwd=cwd, capture_output=True, text=True, check=False)
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout + done.stderr


def test_two_processes_give_the_numbers_of_one(small, tmp_path, command_environment):
    """Trained, then judged on an odd count of images, by one process and by two."""
    _run(sys.executable, ROOT / "train.py", *small, f"hydra.run.dir={tmp_path}/run", KEEP_LAST, env=command_environment)
    tables = {}
    for name, options in {"one": [], "two": ["trainer=ddp", "trainer.accelerator=cpu", "trainer.devices=2"]}.items():
        folder = tmp_path / name
        _run(
            *(sys.executable, ROOT / "eval.py", f"ckpt_path={tmp_path}/run/last.ckpt", f"hydra.run.dir={folder}"),
            *("data.masks.bands=[[0.2,0.3]]", "data.batch_size=4", "data.plate.wells=5", "study.n_bootstrap=20"),
            *("study.classical=[telea]", "study.nulls=[rotated_hole]", "trainer.limit_test_batches=null", *options),
            env=command_environment,
        )
        tables[name] = pd.read_csv(folder / "per_image.csv")
    assert tables["one"]["id"].nunique() % 2 == 1
    assert tables["one"]["id"].nunique() * 3 == len(tables["one"])
    pd.testing.assert_frame_equal(tables["one"], tables["two"], rtol=1e-6)


def test_recipe_stops_when_its_first_stage_fails(plate, tmp_path, command_environment):
    """A sweep of two stages: the second starts from the first's weights, and not at all when the first failed."""
    options = [
        "debug=tiny",
        f"runs={tmp_path}",
        f"plate={plate}",
        "data.pixel_size=0.65",
        "model.bottleneck=8",
        KEEP_LAST,
    ]
    command = [sys.executable, ROOT / "train.py", "-m", "sweep=phirm_context_encoder", *options]
    _run(*command, env=command_environment)
    stages = [tmp_path / f"phirm/context_encoder_{stage}/seed_0" for stage in ("pretrain", "finetune")]
    assert all((stage / "last.ckpt").is_file() for stage in stages)
    for stage in stages:
        (stage / "last.ckpt").unlink()
    said = _run(*command, "data.batch_size=5000", env=command_environment, code=1)
    assert "data.batch_size" in said
    assert "context_encoder_finetune" not in re.findall(r"experiment=(\S+)", said)[-1]
    assert not (stages[1] / "last.ckpt").exists()


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """The built package, installed without its dependencies, which are seen through a .pth file."""
    folder = tmp_path_factory.mktemp("wheel")
    quiet = ("--quiet", "--no-deps", "--no-build-isolation", "--disable-pip-version-check")
    source = folder / "source"
    shutil.copytree(ROOT, source, ignore=shutil.ignore_patterns(".*", "runs", "build", "*.egg-info"))
    _run(sys.executable, "-m", "pip", "wheel", *quiet, "--wheel-dir", folder, source, env=os.environ)
    _run(sys.executable, "-m", "venv", folder / "venv", env=os.environ)
    python = folder / "venv/bin/python"
    site = Path(_run(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))", env=os.environ).strip())
    # Not site.addsitedir: the editable install of this checkout must stay out of sight.
    (site / "packages.pth").write_text(sysconfig.get_path("purelib"))
    (built,) = folder.glob("phenokeep-*.whl")
    _run(python, "-m", "pip", "install", *quiet, built, env=os.environ)
    return folder / "venv/bin"


def test_wheel_answers_from_another_folder(wheel, tmp_path):
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    said = _run(wheel / "phenokeep-train", "--help", env=environment, cwd=tmp_path)
    assert "phirm: context_encoder" in said
    where = _run(wheel / "python", "-c", "import phenokeep; print(phenokeep.__file__)", env=environment, cwd=tmp_path)
    assert str(wheel.parent) in where
