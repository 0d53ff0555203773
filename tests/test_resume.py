"""A run that was killed or interrupted goes on as if nothing had happened."""

import signal
import subprocess
import sys

import pandas as pd
import pytest
import torch
from conftest import ROOT

from phenokeep.checkpoint import read_checkpoint
from phenokeep.run import train

# Four epochs of five batches, saved every third step, so that step 13 is in mid-epoch and between two checkpoints.
LENGTH = (
    "trainer.max_epochs=4", "trainer.limit_train_batches=5", "data.num_workers=2",
    "callbacks.last={_target_: phenokeep.callbacks.Last, folder: '${output_dir}', every_n_steps: 3}",
)  # fmt: skip


CASES = {  # signal, experiment, step, in the validation after it, and the step that last.ckpt then holds
    "power cut in mid-epoch": ("SIGKILL", "quickstart", 13, False, 12),
    "power cut in a validation": ("SIGKILL", "quickstart", 15, True, 12),
    "Ctrl-C": ("SIGINT", "phirm/context_encoder", 13, False, 14),
}


@pytest.mark.parametrize("case", CASES)
def test_resumed_run_ends_bitwise_equal(case, config, small, tmp_path, command_environment):
    name, experiment, step, validating, kept = CASES[case]
    options = [f"experiment={experiment}", *LENGTH, *(["model.bottleneck=16"] if "encoder" in experiment else [])]
    train(config(*options, f"output_dir={tmp_path}/unbroken"))

    broken = tmp_path / "broken"
    kill = f"+callbacks.kill={{_target_: kill.KillAt, step: {step}, name: {name}, validating: {validating}}}"
    command = [sys.executable, ROOT / "train.py", *small, *options, f"hydra.run.dir={broken}", kill]
    how = {"env": command_environment, "capture_output": True, "text": True, "start_new_session": True}
    done = subprocess.run(command, check=False, **how)
    assert done.returncode == (-signal.SIGKILL if name == "SIGKILL" else 1), done.stderr
    assert read_checkpoint(broken / "last.ckpt")["global_step"] == kept

    train(config(*options, f"output_dir={broken}", "ckpt_path=last"))
    expected, got = (read_checkpoint(tmp_path / run / "last.ckpt")["state_dict"] for run in ("unbroken", "broken"))
    assert expected.keys() == got.keys()
    assert all(torch.equal(expected[key], got[key]) for key in expected)
    validated = pd.read_csv(broken / "logs/version_1/metrics.csv").dropna(subset="val/pixels/mae")["epoch"]
    assert validated.tolist() == [2, 3]


def test_a_finished_run_is_not_lengthened_silently(config, tmp_path):
    train(config(*LENGTH, "trainer.max_epochs=1"))
    with pytest.raises(ValueError, match="planned for 5 steps, not 10"):
        train(config(*LENGTH, "trainer.max_epochs=2", "ckpt_path=last"))
