"""Every experiment composes, instantiates and takes one step of training, validation and test."""

import math

import pytest

from phenokeep.list import GROUPS, choices
from phenokeep.run import train

EXPERIMENTS = sorted(choices("experiment"))


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_experiment_takes_a_step(name, config):
    cfg = config(f"experiment={name}", "init_from=null")
    results = train(cfg)
    losses = {key: value for key, value in results.items() if key.startswith("train/")}
    measured = {key for key in results if key.startswith("val/")}
    assert losses
    assert all(math.isfinite(value) for value in losses.values())
    assert {"val/phirm/phirm", "val/nuclei/rim_f1", "val/pixels/mae"} <= measured


@pytest.mark.parametrize("group", GROUPS)
def test_every_choice_says_what_it_is(group):
    for name, comment in choices(group).items():
        assert len(comment) > 10, f"configs/{group}/{name}.yaml needs a first comment"


def test_experiments_name_a_command():
    for name, comment in choices("experiment").items():
        text = (
            __import__("pathlib").Path(__import__("phenokeep.configs").configs.__path__[0]) / f"experiment/{name}.yaml"
        ).read_text()
        assert f"experiment={name}" in text, comment
