"""A run that was killed or interrupted goes on as if nothing had happened."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from phenokeep.checkpoint import read_checkpoint
from phenokeep.run import train

ROOT = Path(__file__).parents[1]
# Four epochs of five batches, saved every third step, so that step 13 is in mid-epoch and between two checkpoints.
LENGTH = (
    "trainer.max_epochs=4", "trainer.limit_train_batches=5", "data.num_workers=2",
    "callbacks.last={_target_: phenokeep.callbacks.Last, folder: '${output_dir}', every_n_steps: 3}",
)  # fmt: skip


def _weights(path: Path) -> dict[str, torch.Tensor]:
    return read_checkpoint(path)["state_dict"]


@pytest.mark.parametrize(("name", "experiment"), [("SIGKILL", "quickstart"), ("SIGINT", "phirm/context_encoder")])
def test_resumed_run_ends_bitwise_equal(name, experiment, config, small, tmp_path, command_environment):
    options = [f"experiment={experiment}", *LENGTH]
    if "encoder" in experiment:
        options += ["model.bottleneck=16"]
    unbroken = config(*options, f"output_dir={tmp_path}/unbroken")
    train(unbroken)

    broken = tmp_path / "broken"
    kill = f"+callbacks.kill={{_target_: kill.KillAt, step: 13, name: {name}}}"
    command = [sys.executable, ROOT / "train.py", *small, *options, f"hydra.run.dir={broken}", kill]
    done = subprocess.run(command, env=command_environment, capture_output=True, text=True, check=False)
    assert done.returncode == (-signal.SIGKILL if name == "SIGKILL" else 1), done.stderr
    assert read_checkpoint(broken / "last.ckpt")["global_step"] == (12 if name == "SIGKILL" else 14)

    train(config(*options, f"output_dir={broken}", "ckpt_path=last"))
    expected, got = _weights(tmp_path / "unbroken/last.ckpt"), _weights(broken / "last.ckpt")
    assert expected.keys() == got.keys()
    assert all(torch.equal(expected[key], got[key]) for key in expected)
