"""The published inpainting networks' fixtures: weights made by the filling rule, inputs and outputs."""

import importlib.util
import json
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch

FOLDER = Path(__file__).parents[1].parent / "shared" / "parity"
needed = pytest.mark.skipif(not FOLDER.is_dir(), reason=f"the parity fixtures are not at {FOLDER}")


@cache
def rule():
    """The module with the filling rule."""
    spec = importlib.util.spec_from_file_location("inpaint_fill_rule", FOLDER / "inpaint_fill_rule.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def contents(name):
    """A json file of the fixtures."""
    return json.loads((FOLDER / f"{name}.json").read_text())


def fixture(name):
    """Arrays of `name`_io_seed0.npz."""
    with np.load(FOLDER / f"{name}_io_seed0.npz") as arrays:
        return {key: arrays[key] for key in arrays}


@cache
def filled(name, keys=None):
    """Weights of a published network for seed 0, under its own keys; the sums are checked where there are any."""
    fill = rule()
    state = fill.fill(contents(keys or f"{name}_keys")["keys"], 0, fill.GAIN[name], fill.TRANSPOSED.get(name, ()))
    if (FOLDER / f"{name}_io_seed0.npz").is_file():
        made = fixture(name)
        np.testing.assert_allclose(fill.checksum(state), (made["fill_sum"], made["fill_sumsq"]), rtol=1e-6)
    return {key: torch.from_numpy(value) for key, value in state.items()}


def without_aliases(state):
    """EdgeConnect's discriminators name their first layer twice; our networks name it once."""
    return {key: value for key, value in state.items() if not key.startswith("features.")}
