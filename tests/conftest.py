"""Fixtures: configs composed as the command line composes them, and one small drawn plate for the whole session."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from hydra import compose, initialize_config_module
from omegaconf import DictConfig

ROOT = Path(__file__).parents[1]
# A plate that is drawn in seconds; every test that trains uses it.
SMALL = ("data.plate.wells=6", "data.plate.shape=[160,288]", "data.plate.seed=5", "debug=tiny")


@pytest.fixture(scope="session")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The session's folder of runs; the drawn plate is kept in it."""
    return tmp_path_factory.mktemp("runs")


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
