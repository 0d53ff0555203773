"""The doors: train, evaluate and predict from the command line. Imports nothing heavy: --help answers at once."""

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import hydra
from hydra.core.config_store import ConfigStore
from omegaconf import DictConfig, OmegaConf

from .explain import explain

CONFIGS = {"config_path": "pkg://phenokeep.configs", "version_base": "1.3"}

DRIFT = 3  # the exit code of fail_on_drift=true
HELP = {"--help", "-h", "--hydra-help", "-c"}
# What eval.py takes where no checkpoint brings it: data, and no model.
WITHOUT_CHECKPOINT = {"data": "virtual", "metrics": "restoration", "trainer": "default"}
KEYS = {"seed": 0, "runs": "runs", "plate": None, "least_size": 64, "name": "${hydra:runtime.choices.study}"}


def _beside(checkpoint: str | None, name: str, runs: str = "runs") -> str:
    """Where a command writes: beside its checkpoint, or under `runs` where it has none."""
    return str(Path(checkpoint).parent / name if checkpoint else Path(runs) / name)


OmegaConf.register_new_resolver(
    "eval_dir",
    lambda path, runs, name: _beside(path, f"eval_{Path(path).stem}" if path else name or "eval", runs),
    replace=True,
)
OmegaConf.register_new_resolver(
    "predict_dir",
    lambda path, plate: _beside(path, f"predict_{Path(path).stem}/{Path(plate).resolve().stem}"),
    replace=True,
)


@hydra.main(config_name="train", **CONFIGS)
def _train(cfg: DictConfig) -> Any:
    from .run import train

    return train(cfg)


@hydra.main(config_name="eval", **CONFIGS)
def _evaluate(cfg: DictConfig) -> Any:
    from .run import evaluate

    return evaluate(cfg)


@hydra.main(config_name="predict", **CONFIGS)
def _predict(cfg: DictConfig) -> Any:
    from .run import predict

    table = predict(cfg)
    if cfg.fail_on_drift and (flagged := int(table["drift_alarm"].sum())):
        print(
            f"exit code {DRIFT}, as fail_on_drift=true asks: drift flags {flagged} of {len(table)} fields "
            f"(drift_alarm in {cfg.output_dir}/fields.csv)",
            file=sys.stderr,
        )
        sys.exit(DRIFT)
    return table


def train() -> None:
    """`python train.py`."""
    _one_line_errors(_train)


def evaluate() -> None:
    """`python eval.py`: the checkpoint's config is the base, the command line goes on top."""

    def run() -> None:
        sys.argv[1:] = _register_checkpoint(sys.argv[1:], WITHOUT_CHECKPOINT)
        _evaluate()

    _one_line_errors(run)


def predict() -> None:
    """`python predict.py`: the checkpoint's config is the base, the command line goes on top."""

    def run() -> None:
        asked = HELP & set(sys.argv) or any(argument.startswith("--cfg") for argument in sys.argv)
        for key, example in (("ckpt_path", "runs/quickstart/seed_0/best.ckpt"), ("plate", "path/to/plate")):
            if not asked and not any(argument.startswith(f"{key}=") for argument in sys.argv):
                raise ValueError(f"predict.py needs {key}, for example {key}={example}")
        sys.argv[1:] = _register_checkpoint(sys.argv[1:])
        _predict()

    _one_line_errors(run)


def _register_checkpoint(arguments: list[str], without: dict[str, str] | None = None) -> list[str]:
    """Offers the checkpoint's config to Hydra, without the groups that the command line chooses.

    Returns the arguments, a choice inside a group of the checkpoint's (data/masks=...) marked as an addition; where
    they name no checkpoint, with the choices `without` added for groups not chosen.
    """
    given = dict(argument.removeprefix("+").split("=", 1) for argument in arguments if "=" in argument)
    base: dict[str, Any] = dict(KEYS)
    if path := given.get("ckpt_path"):
        from .checkpoint import trusted_config

        base = trusted_config(path.strip("'\""))
        for group in given:  # data=..., data/masks=...
            *above, last = group.split("/")
            node: Any = base
            for key in above:
                node = node.get(key, {}) if isinstance(node, dict) else {}
            if isinstance(node, dict) and isinstance(node.get(last), dict):  # a group, not a plain key
                del node[last]
        if without and "plate" in given and isinstance(data := base.get("data"), dict):
            if "plate" in data:
                raise ValueError(
                    f"plate={given['plate']}: this checkpoint's data are drawn and read no plate of yours; choose a "
                    "group that does, data=hcs_nuclei or data=pairs"
                )
            # In place of the plate that the checkpoint was trained on, and of what was said of it.
            data |= {"root": "${plate}", "pixel_size": None, "plate_map": None}
    else:
        arguments = arguments + [f"{group}={name}" for group, name in (without or {}).items() if group not in given]
    ConfigStore.instance().store(group="checkpoint", name="base", node=base)
    inner = tuple(f"{group}=" for group in given if "/" in group and group.split("/")[0] not in given)
    return [f"+{argument}" if path and inner and argument.startswith(inner) else argument for argument in arguments]


def _one_line_errors(run: Callable[[], Any]) -> None:
    """Turns an error into one line on stderr; HYDRA_FULL_ERROR=1 shows the traceback instead."""
    if os.environ.get("HYDRA_FULL_ERROR") == "1":
        run()
        return
    os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra then raises instead of printing its own summary
    try:
        run()
    except KeyboardInterrupt:
        sys.exit(130)  # what was done and how to go on has been said
    except Exception as error:
        print(f"error: {explain(error, sys.argv[1:])}", file=sys.stderr)
        print("(HYDRA_FULL_ERROR=1 shows where)", file=sys.stderr)
        sys.exit(1)
