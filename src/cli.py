"""The doors: train and evaluate from the command line. Imports nothing heavy, so that --help answers at once."""

import difflib
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import hydra
from hydra.core.config_store import ConfigStore
from hydra.errors import HydraException, MissingConfigException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

CONFIGS = {"config_path": "pkg://phenokeep.configs", "version_base": "1.3"}

OmegaConf.register_new_resolver(
    "eval_dir", lambda path: str(Path(path).parent / f"eval_{Path(path).stem}"), replace=True
)


@hydra.main(config_name="train", **CONFIGS)
def _train(cfg: DictConfig) -> Any:
    from .run import train

    return train(cfg)


@hydra.main(config_name="eval", **CONFIGS)
def _evaluate(cfg: DictConfig) -> Any:
    from .run import evaluate

    return evaluate(cfg)


def train() -> None:
    """`python train.py`."""
    _one_line_errors(_train)


def evaluate() -> None:
    """`python eval.py`: the checkpoint's config is the base, the command line goes on top."""

    def run() -> None:
        sys.argv[1:] = _register_checkpoint(sys.argv[1:])
        _evaluate()

    _one_line_errors(run)


def _register_checkpoint(arguments: list[str]) -> list[str]:
    """Offers the checkpoint's config to Hydra, without the groups that the command line chooses.

    Returns the arguments, a choice inside a group of the checkpoint's (data/masks=...) marked as an addition.
    """
    given = dict(argument.removeprefix("+").split("=", 1) for argument in arguments if "=" in argument)
    base: dict[str, Any] = {}
    if path := given.get("ckpt_path"):
        from .checkpoint import trusted_config

        base = trusted_config(path.strip("'\""))
        for group in given:  # data=..., data/masks=...
            *above, last = group.split("/")
            node: Any = base
            for key in above:
                node = node.get(key, {})
            node.pop(last, None)
    elif not {"--help", "-h", "--hydra-help", "--cfg", "-c"} & set(arguments):
        raise ValueError("which model? Give ckpt_path=FILE, for example ckpt_path=runs/quickstart/seed_0/best.ckpt")
    ConfigStore.instance().store(group="checkpoint", name="base", node=base)
    inner = tuple(f"{group}=" for group in given if "/" in group and group.split("/")[0] not in given)
    return [f"+{argument}" if inner and argument.startswith(inner) else argument for argument in arguments]


def _one_line_errors(run: Callable[[], Any]) -> None:
    """Turns what a user can mend into one line on stderr; HYDRA_FULL_ERROR=1 shows the traceback instead."""
    if os.environ.get("HYDRA_FULL_ERROR") == "1":
        run()
        return
    os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra then raises instead of printing its own summary
    try:
        run()
    except Exception as error:
        mendable = (HydraException, OmegaConfBaseException, ValueError, OSError)
        if not isinstance(error, mendable) and type(error).__name__ != "MisconfigurationException":  # Lightning's
            raise
        print(f"error: {_explain(error)}", file=sys.stderr)
        print("(HYDRA_FULL_ERROR=1 shows where)", file=sys.stderr)
        sys.exit(1)


def _explain(error: BaseException) -> str:
    """The message a user can act on: the cause of a failed instantiation rather than its wrapping."""
    text = str(error).strip()
    if isinstance(error, MissingConfigException) and error.missing_cfg_file:
        from .list import choices

        group, _, name = error.missing_cfg_file.partition("/")
        if there_are := choices(group):
            near = difflib.get_close_matches(name, there_are, 1)
            mend = f"did you mean {near[0]!r}?" if near else f"there are: {', '.join(there_are)}"
            return f"no {group} named {name!r}; {mend}"
    if text.startswith("Could not override"):
        return f"there is no config key {text.split(chr(39))[1]!r}; --cfg job shows the keys there are"
    if "full_key: " in text:
        key, cause = text.rsplit("full_key: ", 1)[1].strip(), error.__cause__
        return f"{cause or text} (config key: {key})" if isinstance(cause, TypeError) else str(cause or text)
    return text
