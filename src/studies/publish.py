"""Hands a study's result to its readers: the terminal, the run's folder and the logger."""

import os
import platform
import shlex
import sys
from collections.abc import Mapping, Sequence
from datetime import datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf
from pytorch_lightning.loggers import WandbLogger
from pytorch_lightning.utilities import rank_zero_only

from .report import PER_IMAGE, print_main_table, write_report
from .result import StudyResult

REPORTED_VERSIONS = ("phenokeep", "torch", "pytorch-lightning", "torchmetrics", "scikit-image", "numpy")


@rank_zero_only
def publish(
    result: StudyResult,
    cfg: DictConfig,
    loggers: list[Any],
    facts: Mapping[str, str],
    skipped: Sequence[Mapping[str, str]] = (),
) -> None:
    """Writes `report.html`, tables, figures and files into `cfg.output_dir`, logs them, prints the main table.

    `facts` (data, checkpoint, split, scaling, effort) stand in the page beside seed, machine, versions and time.
    `skipped` are the fields left out, id and reason each.
    """
    result.notes += [f"Left out: {entry['id']}: {entry['reason']}" for entry in skipped]
    context = {
        **facts,
        "seed": cfg.seed,
        "machine": f"{platform.machine()}, {os.cpu_count()} CPU cores, {_device()}, {platform.system()}",
        "Python": platform.python_version(),
        "versions": {name: version(name) for name in REPORTED_VERSIONS},
        "finished": datetime.now().astimezone().isoformat(timespec="seconds"),
    }
    page = write_report(
        result, cfg.output_dir, shlex.join(["python", *sys.argv]), OmegaConf.to_yaml(cfg, resolve=True), context
    )
    for logger in loggers:
        if isinstance(logger, WandbLogger):
            for name, table in result.tables.items():
                if name != PER_IMAGE:
                    logger.log_table(f"report/{name}", dataframe=table)
            for name in result.figures:
                logger.log_image(f"report/{name}", [str(page.with_name(f"{name}.png"))])
    print_main_table(result)
    for name, write in result.files.items():
        write(page.with_name(name))
        print(f"{Path(name).stem}: {page.with_name(name)}")
    print(f"report: {page}")


def _device() -> str:
    return torch.cuda.get_device_name() if torch.cuda.is_available() else "no GPU"
