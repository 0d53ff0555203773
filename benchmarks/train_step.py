"""Times a whole training step (generators and discriminators) of each inpainting method, as training takes it.

python benchmarks/train_step.py [--batch 2] [--size 256] [--device cpu] [--csv FILE]

Modes: fp32 (contiguous), on a GPU also tf32, fast (trainer=fast: bfloat16 autocast, channels-last memory) and compiled
(fast with compile=true). The modes of a method take turns, so that a machine that drifts does not favour one; a time
is the median over the rounds. `peak` is the step's floating-point operations over its time, as a share of the rate of
a large 3x3 convolution, forward and backward, in bfloat16 and channels-last memory, measured in the same rounds. The
last lines say which of the aims are met: `fast` twice, `compiled` three times as fast as fp32, half of the peak by the
faster of both. They are meant for a CPU with AMX or a GPU.
"""

import argparse
import logging
import platform
import time
import warnings
from collections import defaultdict
from pathlib import Path
from statistics import median

import phenokeep  # noqa: F401 (before torch, as train.py does: it sets how memory is allocated)

# isort: split
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

AIMS = {"fast": 2.0, "compiled": 3.0}  # times as fast as fp32
PEAK = 0.5  # share of the machine's own peak
DIGITS = {"seconds": 4, "fastest": 4, "speedup": 2, "TFLOP": 4, "peak": 3} | {
    f"{kind}TFLOP/s": 3 for kind in ("", "fp32 conv ", "bf16 conv ")
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
    for noisy in ("pytorch_lightning.utilities.rank_zero", "phenokeep"):
        logging.getLogger(noisy).setLevel(logging.ERROR)
    print(f"{_machine(args.device)}, torch {torch.__version__}, batch {args.batch}, {args.size}x{args.size} px")
    tables = []
    for method in args.methods:
        tables.append(pd.DataFrame(_measure(method, modes, args)))
        print(tables[-1].round(DIGITS).to_string(index=False), flush=True)
    print(*map(verdict, tables), sep="\n")
    if args.csv:
        pd.concat(tables).to_csv(args.csv, index=False)


def verdict(table: pd.DataFrame) -> str:
    """Which of the aims the rows of a method meet."""
    rows = table.set_index("mode").reindex(list(AIMS)).dropna(subset="speedup")
    parts = [(f"{mode} {rows.speedup[mode]:.2f}x fp32", rows.speedup[mode], AIMS[mode]) for mode in rows.index]
    if len(rows):
        parts.append((f"at best {rows.peak.max():.0%} of the peak", rows.peak.max(), PEAK))
    said = [f"{what} (aim {aim:g}: {'met' if got >= aim else 'missed'})" for what, got, aim in parts]
    return f"{table.method.iloc[0]}: {', '.join(said) or 'nothing to compare: --modes fp32 fast compiled are needed'}"


def _machine(device: str) -> str:
    """The processor that is measured, and what it has for bfloat16."""
    if device == "cuda":
        return torch.cuda.get_device_name()
    info = Path("/proc/cpuinfo")
    lines = dict(line.split(":", 1) for line in info.read_text().splitlines() if ":" in line) if info.exists() else {}
    facts = {key.strip(): value.split() for key, value in lines.items()}
    units = [unit for unit in ("amx_bf16", "avx512_bf16") if unit in facts.get("flags", ())]
    name = " ".join(facts.get("model name", [platform.processor() or platform.machine()]))
    return f"{name} with {' and '.join(units) or 'no unit for bfloat16'}, {torch.get_num_threads()} threads"


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
            "seconds": took,
            "fastest": min(clocks[mode].seconds),
            "speedup": seconds.get("fp32", float("nan")) / took,
            "TFLOP": flops.count / 1e12,
            "TFLOP/s": flops.count / 1e12 / took,
            "peak": flops.count / took / peak,
            "fp32 conv TFLOP/s": median(rates[torch.float32]) / 1e12,
            "bf16 conv TFLOP/s": peak / 1e12,
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
    rows, channels, side = (2, 256, 64) if device == "cpu" else (64, 256, 64)
    options = {"dtype": dtype, "device": device}
    layout = {"memory_format": torch.channels_last}
    x, gradient = (torch.randn(rows, channels, side, side, **options).to(**layout) for _ in range(2))
    weight = torch.randn(channels, channels, 3, 3, **options).to(**layout)
    x.requires_grad_(), weight.requires_grad_()
    seconds = []
    # A GPU's fastest kernel, whichever it is: a slower one would flatter the share of the peak.
    with torch.backends.cudnn.flags(enabled=True, benchmark=True, allow_tf32=False):
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
