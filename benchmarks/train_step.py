"""Times a whole training step (generators and discriminators) of each inpainting method, as training takes it.

python benchmarks/train_step.py [--batch 2] [--size 256] [--device cpu] [--csv FILE]

Modes: fp32 (contiguous), on a GPU also tf32, fast (trainer=fast: bfloat16 autocast, channels-last memory) and compiled
(fast with compile=true). The modes of a method take turns, so that a machine that drifts does not favour one; a time
is the median over the rounds. `peak` is the step's floating-point operations over its time, as a share of the rate of
a large 3x3 convolution, forward and backward, in bfloat16 and channels-last memory, measured in the same rounds.
"""

import argparse
import logging
import time
import warnings
from collections import defaultdict
from statistics import median

import pandas as pd
import pytorch_lightning as pl
import torch
from hydra import compose, initialize_config_module
from hydra.utils import instantiate
from torch.nn.functional import conv2d
from torch.utils.data import DataLoader
from torch.utils.flop_counter import FlopCounterMode

from phenokeep.models.speed import hasten

METHODS = {
    "context_encoder": ("experiment=phirm/context_encoder",),
    "deepfill": ("experiment=phirm/deepfill",),
    "edge_connect_edge": ("experiment=phirm/edge_connect/edge",),
    "edge_connect_inpaint": ("experiment=phirm/edge_connect/inpaint", "model.perceptual=null", "model.style=null"),
}
MODES = {
    "fp32": ("trainer=default",),
    "tf32": ("trainer=default",),
    "fast": ("trainer=fast",),
    "compiled": ("trainer=fast", "compile=true"),
}


class Clock(pl.Callback):
    """The seconds of every training step but the first, which allocates the optimizers' memory."""

    def __init__(self) -> None:
        self.seconds: list[float] = []

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        self.started = _now(pl_module.device.type)

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        if batch_idx:
            self.seconds.append(_now(pl_module.device.type) - self.started)


class Flops(pl.Callback):
    """The floating-point operations of the last training step."""

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        self.counter = FlopCounterMode(display=False).__enter__()

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        self.counter.__exit__(None, None, None)
        self.count = self.counter.get_total_flops()


class Run:
    """A method in one mode, ready to be fitted for a few steps, again and again."""

    def __init__(self, method: str, mode: str, device: str) -> None:
        overrides = [*METHODS[method], *MODES[mode], f"trainer.accelerator={device}", "name=step", "output_dir=."]
        with initialize_config_module("phenokeep.configs", version_base="1.3"):
            self.cfg = compose("train", overrides)
        torch.manual_seed(0)
        self.model, self.tf32 = instantiate(self.cfg.model, _convert_="all"), mode == "tf32"
        hasten(self.model, self.cfg.trainer.precision, self.cfg.compile)

    def fit(self, batch: dict, steps: int, callback: pl.Callback) -> None:
        torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = self.tf32
        off = ("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary")
        trainer = instantiate(self.cfg.trainer, max_epochs=1, callbacks=[callback], **dict.fromkeys(off, False))
        trainer.fit(self.model, DataLoader([batch] * steps, batch_size=None))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    parser.add_argument("--modes", nargs="+", choices=MODES)
    parser.add_argument("--batch", type=int, help="default: 2 on a CPU, 16 on a GPU")
    parser.add_argument("--size", type=int, default=256)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--rounds", type=int, default=5, help="each of one step more and two timed ones")
    parser.add_argument("--csv")
    args = parser.parse_args()
    args.batch = args.batch or (2 if args.device == "cpu" else 16)
    modes = args.modes or [mode for mode in MODES if mode != "tf32" or args.device == "cuda"]
    warnings.filterwarnings("ignore")
    logging.getLogger("pytorch_lightning.utilities.rank_zero").setLevel(logging.ERROR)
    print(f"{args.device}, {torch.get_num_threads()} threads, batch {args.batch}, {args.size}x{args.size} px")
    tables = []
    for method in args.methods:
        tables.append(pd.DataFrame(_measure(method, modes, args)))
        print(tables[-1].to_string(index=False), flush=True)
    if args.csv:
        pd.concat(tables).to_csv(args.csv, index=False)


def _measure(method: str, modes: list[str], args: argparse.Namespace) -> list[dict]:
    """One row per mode."""
    batch = _batch(args.batch, args.size)
    flops = Flops()
    Run(method, "fp32", args.device).fit(batch, 1, flops)
    runs = {mode: Run(method, mode, args.device) for mode in modes}
    for run in runs.values():
        run.fit(batch, 2, Clock())  # compiles
    clocks, rates = defaultdict(Clock), defaultdict(list)
    for _ in range(args.rounds):
        for dtype in (torch.float32, torch.bfloat16):
            rates[dtype].append(_rate(dtype, args.device))
        for mode, run in runs.items():
            run.fit(batch, 3, clocks[mode])
    seconds = {mode: median(clock.seconds) for mode, clock in clocks.items()}
    peak = median(rates[torch.bfloat16])
    return [
        {
            "method": method,
            "mode": mode,
            "seconds": round(took, 4),
            "fastest": round(min(clocks[mode].seconds), 4),
            "speedup": round(seconds.get("fp32", float("nan")) / took, 2),
            "TFLOP": round(flops.count / 1e12, 4),
            "TFLOP/s": round(flops.count / 1e12 / took, 3),
            "peak": round(flops.count / took / peak, 3),
            "fp32 conv TFLOP/s": round(median(rates[torch.float32]) / 1e12, 3),
            "bf16 conv TFLOP/s": round(peak / 1e12, 3),
        }
        for mode, took in seconds.items()
    ]


def _batch(rows: int, size: int) -> dict:
    """Noise with a hole over a quarter of it, edges on a tenth of the pixels."""
    random = torch.Generator().manual_seed(0)
    image, noise = torch.rand(2, rows, 1, size, size, generator=random)
    mask = torch.zeros_like(image)
    mask[..., size // 4 : 3 * size // 4, size // 4 : 3 * size // 4] = 1
    ids = [str(row) for row in range(rows)]
    return {
        "source": image, "target": image, "mask": mask, "edges": (noise < 0.1).float(), "id": ids, "group": ids
    }  # fmt: skip


def _rate(dtype: torch.dtype, device: str) -> float:
    """Floating-point operations per second of a 3x3 convolution of 256 channels, forward and backward."""
    torch.backends.cudnn.allow_tf32 = False
    rows, channels, side = (2, 256, 64) if device == "cpu" else (64, 256, 64)
    options = {"dtype": dtype, "device": device}
    layout = {"memory_format": torch.channels_last}
    x, gradient = (torch.randn(rows, channels, side, side, **options).to(**layout) for _ in range(2))
    weight = torch.randn(channels, channels, 3, 3, **options).to(**layout)
    x.requires_grad_(), weight.requires_grad_()
    seconds = []
    for _ in range(6):
        started = _now(device)
        conv2d(x, weight, padding=1).backward(gradient)
        seconds.append(_now(device) - started)
    return 3 * 2 * rows * channels**2 * 9 * side**2 / median(seconds[1:])


def _now(device: str) -> float:
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter()


if __name__ == "__main__":
    main()
