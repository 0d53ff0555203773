"""Every experiment composes, instantiates and takes one step of training and validation."""

import math
from itertools import cycle, islice
from pathlib import Path

import pytest
from hydra import compose, initialize_config_module
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.utils import instantiate

import phenokeep.configs
from phenokeep.list import GROUPS, choices, main
from phenokeep.run import _check_fit, _prepare, train

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


@pytest.mark.parametrize(
    ("overrides", "says"),
    [
        (["experiment=labelfree/nuclei", "data.targets=[nuclei]", "model.out_channels=1"],
         r"metrics\.control\.metric\.channel is 1.*draws 1: .*~metrics\.control.*metrics=translation"),
        (["experiment=labelfree/er", "data.targets=[er]", "model.out_channels=1", "metrics=translation"],
         r"metrics\.overlap\.metric\.nuclei_channel is 2.*draws 1: .*~metrics\.overlap"),
        (["experiment=labelfree/er", "data.targets=[er]", "model.out_channels=1", "metrics=translation",
          "metrics.overlap.metric.nuclei_channel=0", "~metrics.overlap.metric.er_channel"],
         r"metrics\.overlap\.metric\.er_channel is 1"),
        (["+metrics.phirm.metric.channel=-1"], r"metrics\.phirm\.metric\.channel is -1.*\(~metrics\.phirm\)$"),
    ],
)  # fmt: skip
def test_metrics_of_channels_that_are_not_drawn_are_refused_before_anything_is(overrides, says, config, tmp_path):
    with pytest.raises(ValueError, match=says):
        train(config(*overrides, f"data.root={tmp_path}/data"))
    assert not (tmp_path / "data").exists()


@pytest.mark.parametrize(
    "overrides",
    [
        "data.targets=[er] model.out_channels=1 metrics=translation ~metrics.overlap",
        "data.targets=[er,nuclei] model.out_channels=2 metrics=translation metrics.overlap.metric.nuclei_channel=1",
    ],
)
def test_er_is_measured_by_the_overrides_that_its_file_says(overrides, config):
    said = " ".join((CONFIGS / "experiment/labelfree/er.yaml").read_text().replace("# ", "").split())
    assert overrides in said.replace(" data.root=PLATE", "")
    cfg = config("experiment=labelfree/er", *overrides.split())
    model, data = (instantiate(node, _convert_="all") for node in (cfg.model, cfg.data))
    _check_fit(model, cfg, data)


@pytest.mark.parametrize("name", sorted(choices("sweep")))
def test_sweep_composes_each_of_its_runs(name, tmp_path, monkeypatch):
    monkeypatch.setattr(HydraConfig.instance(), "cfg", None)
    folders = []
    with initialize_config_module("phenokeep.configs", version_base="1.3"):
        swept = compose("train", [f"sweep={name}"], return_hydra_config=True).hydra.sweeper.params
        parsed = OverridesParser.create().parse_overrides([f"{key}={values}" for key, values in swept.items()])
        values = [list(p.sweep_string_iterator()) if p.is_sweep_override() else [p.get_value_string()] for p in parsed]
        for run in islice(zip(*map(cycle, values), strict=True), max(map(len, values))):  # each value at least once
            chosen = [f"{key}={value}" for key, value in zip(swept, run, strict=True)]
            cfg = compose("train", [f"sweep={name}", *chosen, f"output_dir={tmp_path}"], return_hydra_config=True)
            HydraConfig.instance().set_config(cfg)
            folders.append(cfg.hydra.sweep.subdir)
            del cfg.hydra
            _prepare(cfg, "data", "model", "trainer")
    assert len(set(folders)) == len(folders), "each run has a folder of its own"
    assert f"sweep={name}" in (CONFIGS / f"sweep/{name}.yaml").read_text()


def test_list_shows_every_choice_with_what_it_is(capsys):
    main()
    shown = capsys.readouterr().out
    for group in GROUPS:
        for name, comment in choices(group).items():
            assert len(comment) > 10, f"configs/{group}/{name}.yaml needs a first comment"
            assert name in shown
            assert comment in shown
