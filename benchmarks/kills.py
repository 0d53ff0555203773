"""Kills training at random moments and compares what it ends with, bit by bit, with a run that was never killed.

    python benchmarks/kills.py --kills 20 --seed 0 --out path/to/results

Two methods take turns, the U-Net of the quickstart (automatic optimisation) and the Context Encoder (manual), each on a
small drawn plate with two loader workers and a checkpoint every second step. A run is watched from outside through a
memory-mapped file in which it notes what it is doing; the whole process group gets SIGKILL at a moment drawn from
--seed: at any time, or at a random time inside a training batch, a validation or the writing of a checkpoint. Then the
same command goes on with ckpt_path=last, may be killed again, and at the end its weights, optimizers and schedules, in
last.ckpt and in best.ckpt, are compared. Needs a system with process groups (not Windows).
"""

import argparse
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import pytorch_lightning as pl
import torch

from phenokeep.checkpoint import newest_checkpoint, read_checkpoint

ROOT = Path(__file__).parents[1]
PHASES = ("starting", "training", "validation", "saving")
METHODS = {
    "unet": ("experiment=quickstart", "model.widths=[8,8,16,16,16]"),
    "context encoder": ("experiment=phirm/context_encoder", "model.bottleneck=64"),
}
LENGTH = (
    "debug=tiny", "data.plate.wells=6", "data.plate.shape=[160,288]", "data.plate.seed=5", "data.num_workers=2",
    "trainer.max_epochs=4", "trainer.limit_train_batches=7", "trainer.limit_val_batches=2", "name=kills",
    "callbacks.last={_target_: phenokeep.callbacks.Last, folder: '${output_dir}', every_n_steps: 2}",
    "callbacks.best={_target_: phenokeep.callbacks.Best, folder: '${output_dir}', monitor: val/pixels/mae, mode: min}",
    "+callbacks.watched={_target_: kills.Watched, file: '${output_dir}/phase'}",
)  # fmt: skip
COMPARED = ("state_dict", "optimizer_states", "lr_schedulers", "epoch", "global_step")


class Notes:
    """What a run is doing, in a memory-mapped file that outlives it.

    Phase, step, time since the first batch (s), then entries and shortest stay (s) of each phase.
    """

    def __init__(self, file: str | Path) -> None:
        self.values = np.memmap(file, np.float64, "r+" if Path(file).exists() else "w+", shape=(3 + 2 * len(PHASES),))

    @property
    def phase(self) -> str:
        return PHASES[int(self.values[0])]

    @property
    def step(self) -> int:
        return int(self.values[1])

    def entries(self, phase: str) -> int:
        return int(self.values[3 + PHASES.index(phase)])

    def shortest(self, phase: str) -> float:
        return float(self.values[3 + len(PHASES) + PHASES.index(phase)])


class Watched(pl.Callback):
    """Notes in a file what the run is doing."""

    def __init__(self, file: str) -> None:
        self.notes, self._began, self._since = Notes(file), 0.0, 0.0

    def _enter(self, phase: str, trainer: pl.Trainer) -> None:
        now, values, number = time.perf_counter(), self.notes.values, PHASES.index(phase)
        if values[0]:
            stay = 3 + len(PHASES) + int(values[0])
            values[stay] = min(values[stay] or np.inf, now - self._since)
            values[2] = now - self._began
        else:
            self._began = now
        values[3 + number] += 1
        values[0], values[1], self._since = number, trainer.global_step, now

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        disk: Any = trainer.strategy.checkpoint_io
        save = disk.save_checkpoint

        def saving(*args: Any, **kwargs: Any) -> None:
            before = self.notes.phase
            self._enter("saving", trainer)
            save(*args, **kwargs)
            self._enter(before, trainer)

        disk.save_checkpoint = saving

    def on_train_batch_start(self, trainer: pl.Trainer, *_: Any) -> None:
        self._enter("training", trainer)

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._enter("validation", trainer)


class Moment(NamedTuple):
    """`delay` seconds after the `entry`-th time that `phase` is entered, or, without a phase, after training began."""

    phase: str | None
    entry: int
    delay: float

    def __str__(self) -> str:
        after = f"{self.phase} {self.entry}" if self.phase else "training began"
        return f"{1000 * self.delay:.1f} ms after {after}"


def draw_moment(dice: random.Random, kind: str, whole: Notes) -> Moment:
    """A moment of a run that is like the whole one."""
    if kind == "any":
        return Moment(None, 1, dice.uniform(0, float(whole.values[2])))
    return Moment(kind, dice.randint(1, whole.entries(kind)), dice.uniform(0, 1.5 * whole.shortest(kind)))


def start(method: str, folder: Path, runs: Path, resume: bool) -> subprocess.Popen[bytes]:
    """Training in a process group of its own."""
    options = [*METHODS[method], *LENGTH, f"runs={runs}", f"hydra.run.dir={folder}"]
    command = [sys.executable, str(ROOT / "train.py"), *options, *(["ckpt_path=last"] if resume else [])]
    folder.mkdir(parents=True, exist_ok=True)
    Notes(folder / "phase").values[:] = 0
    path = os.pathsep.join([str(ROOT / "benchmarks"), os.environ.get("PYTHONPATH", "")])
    with (folder / "output.txt").open("ab") as output:
        return subprocess.Popen(
            command, env={**os.environ, "PYTHONPATH": path}, stdout=output, stderr=output, start_new_session=True
        )


def finish(process: subprocess.Popen[bytes], folder: Path) -> None:
    if process.wait():
        sys.exit(f"a run failed by itself:\n{(folder / 'output.txt').read_text()[-3000:]}")


def kill_at(process: subprocess.Popen[bytes], notes: Notes, moment: Moment) -> bool:
    """Waits for the moment and kills; False where the run ended before it."""
    phase = moment.phase or "training"
    while notes.entries(phase) < moment.entry:
        if process.poll() is not None:
            return False
        time.sleep(0.0002)
    time.sleep(moment.delay)
    if process.poll() is not None:
        return False
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    return True


def differences(a: Any, b: Any, where: str = "") -> list[str]:
    """The places at which two nested states differ in any bit."""
    if isinstance(a, dict) and isinstance(b, dict) and a.keys() == b.keys():
        return [place for key in a for place in differences(a[key], b[key], f"{where}/{key}")]
    if isinstance(a, list | tuple) and isinstance(b, list | tuple) and len(a) == len(b):
        return [place for i, pair in enumerate(zip(a, b, strict=True)) for place in differences(*pair, f"{where}/{i}")]
    if isinstance(a, torch.Tensor) and isinstance(b, torch.Tensor):
        same = a.dtype == b.dtype and a.shape == b.shape and a.numpy().tobytes() == b.numpy().tobytes()
    else:
        same = type(a) is type(b) and a == b
    return [] if same else [where]


def compare(expected: Path, got: Path) -> list[str]:
    """Where the checkpoints of two runs differ."""
    found = []
    for name in ("last.ckpt", "best.ckpt"):
        one, other = (read_checkpoint(folder / name) for folder in (expected, got))
        found += [place for key in COMPARED for place in differences(one[key], other[key], f"{name}/{key}")]
    return found


def run_until_ended(
    method: str, folder: Path, runs: Path, kinds: list[str], dice: random.Random, whole: Notes
) -> list[dict[str, Any]]:
    """Trains one run, killed at moments of the given kinds; a row for each kill that met it alive."""
    rows: list[dict[str, Any]] = []
    for kind in kinds:
        process = start(method, folder, runs, resume=(folder / "last.ckpt").is_file())
        moment, notes = draw_moment(dice, kind, whole), Notes(folder / "phase")
        if not kill_at(process, notes, moment):
            finish(process, folder)
            return rows
        row = {"method": method, "kind": kind, "moment": str(moment), "phase": notes.phase, "after step": notes.step}
        if any((folder / name).exists() for name in ("last.ckpt", "previous.ckpt")):
            path, saved = newest_checkpoint(folder)
            row["gone on from"] = f"{path.name}, step {saved['global_step']}"
        else:
            row["gone on from"] = "the start"
        row["half-written file left"] = "yes" if list(folder.glob("*.partial")) else "no"
        rows.append(row)
    finish(start(method, folder, runs, resume=(folder / "last.ckpt").is_file()), folder)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, help="folder for kills.csv and kills.md")
    args = parser.parse_args()
    dice, began = random.Random(args.seed), time.monotonic()
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as scratch:
        runs = Path(scratch)
        whole = {}
        for method in METHODS:
            folder = runs / "unbroken" / method.replace(" ", "_")
            finish(start(method, folder, runs, resume=False), folder)
            whole[method] = Notes(folder / "phase")
        kinds = ["any", "training", "validation", "saving"] * args.kills
        number = 0
        while len(rows) < args.kills:
            method = list(METHODS)[number % len(METHODS)]
            folder = runs / f"run_{number}"
            count = min(dice.choice([1, 1, 2, 3]), args.kills - len(rows))
            got = run_until_ended(method, folder, runs, [kinds.pop(0) for _ in range(count)], dice, whole[method])
            differ = compare(runs / "unbroken" / method.replace(" ", "_"), folder)
            verdict = f"no: {', '.join(differ[:3])}" if differ else "yes"
            rows += [{"run": number, **row, "ends bitwise equal": verdict} for row in got]
            print(f"run {number}: {len(got)} kills, ended bitwise equal: {verdict}", flush=True)
            number += 1
    table = pd.DataFrame(rows)
    equal = (table["ends bitwise equal"] == "yes").sum()
    summary = (
        f"{len(table)} kills of {number} runs, {equal} in runs that ended bitwise equal to one never killed; "
        f"seed {args.seed}, {time.monotonic() - began:.0f} s."
    )
    text = table.to_string(index=False)
    print(f"{text}\n{summary}")
    if args.out:
        args.out.mkdir(parents=True, exist_ok=True)
        table.to_csv(args.out / "kills.csv", index=False)
        lines = [[*table.columns], ["---"] * len(table.columns), *table.astype(str).to_numpy().tolist()]
        (args.out / "kills.md").write_text("\n".join(f"| {' | '.join(line)} |" for line in lines) + f"\n\n{summary}\n")
    if equal < len(table):
        sys.exit(1)


if __name__ == "__main__":
    main()
