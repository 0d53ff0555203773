"""Fixtures: configs composed as the command line composes them, and one small drawn plate for the whole session."""

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import tifffile
from hydra import compose, initialize_config_module
from omegaconf import DictConfig

ROOT = Path(__file__).parents[1]
# A plate that is drawn in seconds; every test that trains uses it.
SMALL = ("data.plate.wells=6", "data.plate.shape=[160,288]", "data.plate.seed=5", "debug=tiny", "name=test")


@pytest.fixture(scope="session")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The session's folder of runs; the drawn plate is kept in it."""
    return tmp_path_factory.mktemp("runs")


@pytest.fixture(scope="session")
def plate(tmp_path_factory):
    """A small readable plate of six wells, as files."""
    folder = tmp_path_factory.mktemp("plate")
    rng = np.random.default_rng(0)
    for number in range(2, 8):
        image = rng.normal(200, 5, (160, 160))
        for y, x in rng.integers(20, 140, (6, 2)):
            image[y - 8 : y + 8, x - 8 : x + 8] = 900
        tifffile.imwrite(folder / f"B{number:02d}_1_nuclei.tif", image.clip(0).astype(np.uint16))
    return folder


@pytest.fixture
def small(runs: Path) -> list[str]:
    """The overrides of a run on the small plate, for a command line."""
    return [*SMALL, f"runs={runs}"]


@pytest.fixture
def config(small: list[str], tmp_path: Path) -> Callable[..., DictConfig]:
    """Composes a train config on the small drawn plate, with its output in the test's own folder."""

    def composed(*overrides: str) -> DictConfig:
        with initialize_config_module("phenokeep.configs", version_base="1.3"):
            return compose("train", [*small, f"output_dir={tmp_path}/run", *overrides])

    return composed


@pytest.fixture
def command_environment() -> dict[str, str]:
    """The environment of a subprocess: plain, wide output; the test folder's helpers can be imported."""
    return {**os.environ, "COLUMNS": "200", "NO_COLOR": "1", "PYTHONPATH": str(ROOT / "tests")}
