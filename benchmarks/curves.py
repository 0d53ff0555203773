"""Trains each inpainting method in fp32 and with trainer=fast, and asks whether the two loss curves differ.

python benchmarks/curves.py [--methods deepfill] [--steps 150] [--seeds 3] [--size 64] [--csv FILE]

Data: the drawn quickstart plate, one data.seed; a seed is the network's first weights. Every run is
`phenokeep.run.train`, as the command line calls it. A loss is its mean over the last half of the steps. `difference` is
fast minus fp32 at the same seed, mean over the seeds, as a share of fp32's; `error` is its standard error, and `seeds`
the standard deviation over fp32's seeds, both as the same share. `seeds` is the noise of one training: bfloat16 is
harmless while `difference` stays within it.
"""

import argparse
import tempfile
from itertools import product
from pathlib import Path

import pandas as pd
from hydra import compose, initialize_config_module
from train_step import METHODS, MODES

from phenokeep.run import train

NO_CALLBACKS = [f"callbacks.{name}=null" for name in ("best", "last", "early_stopping", "pictures", "progress")]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    parser.add_argument("--steps", type=int, default=150)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--size", type=int, default=64)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--csv")
    args = parser.parse_args()
    tables = []
    with tempfile.TemporaryDirectory() as folder:
        for method in args.methods:
            pairs = product(range(args.seeds), ("fp32", "fast"))
            runs = [_curve(method, mode, seed, Path(folder), args) for seed, mode in pairs]
            tables.append(_compared(method, pd.concat(runs)))
            print(tables[-1].to_string(index=False), flush=True)
    if args.csv:
        pd.concat(tables).to_csv(args.csv, index=False)


def _curve(method: str, mode: str, seed: int, folder: Path, args: argparse.Namespace) -> pd.DataFrame:
    """One row: the mean of every training loss over the last half of a run's steps."""
    out = folder / method / mode / str(seed)
    overrides = [*METHODS[method], *MODES[mode], *NO_CALLBACKS, f"name={method}", f"output_dir={out}", f"runs={folder}"]
    overrides += ["data=virtual", "data/masks=rectangles", f"seed={seed}", "data.seed=0", "data.num_workers=0"]
    overrides += [f"data.zoom={{crop: {2 * args.size}, stride: {args.size}, size: {args.size}}}"]
    overrides += [f"data.batch_size={args.batch}", "trainer.max_epochs=-1", f"trainer.max_steps={args.steps}"]
    overrides += ["trainer.limit_val_batches=0", "trainer.log_every_n_steps=1", "+trainer.enable_progress_bar=false"]
    with initialize_config_module("phenokeep.configs", version_base="1.3"):
        train(compose("train", overrides))
    log = pd.read_csv(next(out.rglob("metrics.csv")))
    losses = log[[name for name in log if name.startswith("train/")]].dropna(how="all")
    assert len(losses) == args.steps
    means = losses.iloc[args.steps // 2 :].mean()
    return pd.DataFrame([{"seed": seed, "mode": mode, **means}])


def _compared(method: str, runs: pd.DataFrame) -> pd.DataFrame:
    fp32, fast = (runs[runs["mode"] == mode].set_index("seed").drop(columns="mode") for mode in ("fp32", "fast"))
    mean, difference = fp32.mean(), fast - fp32
    return pd.DataFrame(
        {
            "method": method,
            "loss": [name.removeprefix("train/") for name in mean.index],
            "fp32": mean.to_numpy().round(4),
            "difference": (difference.mean() / mean.abs()).to_numpy().round(4),
            "error": (difference.sem() / mean.abs()).to_numpy().round(4),
            "seeds": (fp32.std() / mean.abs()).to_numpy().round(4),
        }
    )


if __name__ == "__main__":
    main()
