"""Every experiment composes, instantiates and takes one step of training and validation."""

import math
from pathlib import Path

import pytest
from hydra import compose, initialize_config_module
from hydra.utils import instantiate

import phenokeep.configs
from phenokeep.list import GROUPS, choices, main
from phenokeep.run import train

CONFIGS = Path(phenokeep.configs.__path__[0])


@pytest.mark.parametrize("name", sorted(choices("experiment")))
def test_experiment_takes_a_step(name, config):
    drawn = "virtual_pairs" if name.startswith("labelfree/") else "virtual"
    cfg = config(f"experiment={name}", "model.init_from=null", f"data={drawn}")
    for loss in {"perceptual", "style"} & set(cfg.model):  # of VGG19, whose weights are not here
        cfg.model[loss] = None
    results = train(cfg)
    losses = [value for key, value in results.items() if key.startswith("train/")]
    assert losses
    assert all(math.isfinite(value) for value in losses)
    metrics = {name: instantiate(node).metric.names for name, node in cfg.metrics.items()}
    measured = {f"val/{name}/{key}" for name, keys in metrics.items() for key in keys}
    assert measured <= set(results)
    with initialize_config_module("phenokeep.configs", version_base="1.3"):
        callbacks = compose("train", [f"experiment={name}"]).callbacks.values()  # debug=tiny keeps no best checkpoint
    monitors = {node.monitor for node in callbacks if node and node.get("monitor")}
    assert monitors
    assert monitors <= measured


@pytest.mark.parametrize("name", sorted(choices("experiment")))
def test_experiment_says_its_command(name):
    assert f"experiment={name}" in (CONFIGS / f"experiment/{name}.yaml").read_text()


@pytest.mark.parametrize("name", sorted(choices("sweep")))
def test_sweep_names_experiments_that_exist(name):
    text = (CONFIGS / f"sweep/{name}.yaml").read_text()
    (line,) = (line for line in text.splitlines() if line.strip().startswith("experiment:"))
    assert set(line.split(":")[1].strip().split(",")) <= set(choices("experiment"))
    assert f"sweep={name}" in text


def test_list_shows_every_choice_with_what_it_is(capsys):
    main()
    shown = capsys.readouterr().out
    for group in GROUPS:
        for name, comment in choices(group).items():
            assert len(comment) > 10, f"configs/{group}/{name}.yaml needs a first comment"
            assert name in shown
            assert comment in shown
