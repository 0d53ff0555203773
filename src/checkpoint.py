"""Reading checkpoints without trusting them."""

import logging
import re
import zipfile
from collections.abc import Mapping
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

log = logging.getLogger(__name__)
# What a checkpoint of ours holds beside what Lightning writes.
PARTS = {"state_dict": dict, "config": dict, "scaling": dict, "trained_on": list, "effort": dict}
OWN = "use a checkpoint written by phenokeep"
# Beside what makes no checkpoint.
WEIGHTS = ". Published weights start a training, which writes one: train.py model.init_from=FILE"
DEEPEST = 50  # levels of a config; ours have six
NODE_KEYS = ("_target_", "_convert_", "_recursive_")
# What each command composes for itself: where it writes, and what it does.
COMPOSED_ANEW = ("callbacks", "logger", "output_dir", "ckpt_path", "fit", "test")


class CheckpointError(ValueError):
    """A checkpoint that cannot be used; the message names it and the mend."""


def read_checkpoint(path: str | Path) -> dict[str, Any]:
    """A checkpoint's tensors and plain values, on the CPU; nothing in it is executed.

    Raises CheckpointError where the file is missing or damaged, is no checkpoint of phenokeep, or holds objects that
    unpickling would have to run.
    """
    import torch

    from .models.weightfiles import would_call

    path = Path(path)
    if not path.is_file():
        raise CheckpointError(
            f"no checkpoint at {path}: ckpt_path names a file such as runs/quickstart/seed_0/best.ckpt"
        )
    _verify(path)
    try:
        saved = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a pickle that torch did not write makes it raise anything
        if called := would_call(error):
            raise CheckpointError(
                f"{path} is refused: it holds {called}, and loading that could run code. Use a checkpoint written by "
                "phenokeep"
            ) from error
        raise CheckpointError(
            f"{path} is no readable checkpoint ({error}): it may be cut short; use another"
        ) from error
    return checked(saved, path)


def checked(saved: Any, path: str | Path) -> dict[str, Any]:
    """What a file held, as it was, where that is a checkpoint of phenokeep. Raises CheckpointError."""
    if not isinstance(saved, dict):
        raise CheckpointError(f"{path} was not written by phenokeep: it holds a {type(saved).__name__}; use another")
    if wrong := [key for key, kind in PARTS.items() if not isinstance(saved.get(key), kind)]:
        raise CheckpointError(
            f"{path} was not written by phenokeep: {', '.join(wrong)} missing or of another type; use another{WEIGHTS}"
        )
    effort = [saved["effort"].get(key) for key in ("samples", "seconds")]
    if not all(isinstance(number, int | float) for number in effort):
        raise CheckpointError(f"{path} was not written by phenokeep: its effort is no number; use another")
    before = saved.get("started_from", [])  # older states do not say it
    if not isinstance(before, list) or not all(map(_is_predecessor, before)) or not _are_names(saved["trained_on"]):
        raise CheckpointError(f"{path} was not written by phenokeep: what it was trained on is unreadable; use another")
    return saved


def _is_predecessor(entry: Any) -> bool:
    """Whether this is what warm_start says of a file; that of published weights names neither effort nor wells."""
    if not isinstance(entry, dict) or not _are_names([entry.get("path"), entry.get("sha256")]):
        return False
    ours = [entry[key] for key in ("samples", "seconds") if key in entry]
    return (
        len(ours) in (0, 2)
        and all(isinstance(n, int | float) for n in ours)
        and _are_names(entry.get("trained_on", []))
    )


def _are_names(values: Any) -> bool:
    return isinstance(values, list) and all(isinstance(value, str) for value in values)


def weights_of(saved: Mapping[str, Any] | None) -> str:
    """What a report says of weights that are in no checkpoint."""
    if not saved:
        return "none: a question about metrics or data"
    if saved["effort"]["samples"]:
        return "trained in this run"
    return (
        f"none: {'weights of model.init_from' if saved['started_from'] else 'random weights'}, not trained in this run"
    )


def training(saved: Mapping[str, Any]) -> str:
    """The effort of a training, and of those whose weights it started from, in words."""

    def spent(effort: Mapping[str, Any]) -> str:
        return f"{effort['samples']} samples, {effort['seconds']:.0f} s"

    own = spent(saved["effort"]) if saved["effort"]["samples"] else "none"
    before = [
        f"{entry['path']} ({spent(entry) if 'samples' in entry else 'published weights'})"
        for entry in saved.get("started_from", ())
    ]
    return own + (f"; started from {', '.join(before)}" if before else "")


def _verify(path: Path) -> None:
    """Compares every record with its checksum (CRC-32): torch writes them and does not look at them again.

    Raises CheckpointError.
    """
    try:
        with zipfile.ZipFile(path) as records:
            grows = sum(record.file_size for record in records.infolist()) > path.stat().st_size
            wrong = None if grows else records.testzip()
    except Exception as error:  # zipfile raises whatever it stumbles over
        raise CheckpointError(
            f"{path} is damaged or no checkpoint ({error}); use another checkpoint{WEIGHTS}"
        ) from error
    if grows:
        raise CheckpointError(f"{path} is refused: it would unpack to more than it is; use another")
    if wrong:
        raise CheckpointError(f"{path} is damaged ({wrong} has not its checksum); use another checkpoint")


def newest_checkpoint(folder: str | Path) -> tuple[Path, dict[str, Any]]:
    """What training goes on from: last.ckpt, or previous.ckpt with a warning where last.ckpt is damaged or missing.

    Raises CheckpointError where neither is good.
    """
    last, previous = Path(folder) / "last.ckpt", Path(folder) / "previous.ckpt"
    if not last.is_file() and not previous.is_file():
        raise CheckpointError(f"nothing to go on from: {last} does not exist. Leave out ckpt_path=last to start anew")
    try:
        return last, read_checkpoint(last)
    except CheckpointError as error:
        problem = str(error) if last.is_file() else f"{last} does not exist"
    try:
        saved = read_checkpoint(previous)
    except CheckpointError as error:
        reason = error if previous.is_file() else f"{previous} does not exist"
        raise CheckpointError(f"{problem}, and {reason}. Leave out ckpt_path=last to start anew") from error
    log.warning("going on from %s, step %d: %s", previous, saved["global_step"], problem)
    return previous, saved


def to_go_on_from(ckpt_path: str | None, folder: str | Path) -> tuple[Path | None, dict[str, Any] | None]:
    """The checkpoint that a training goes on from and what it holds; `last` is the newest one in its folder.

    Raises CheckpointError, also for `last` with none, so that nothing starts unasked.
    """
    if ckpt_path == "last":
        return newest_checkpoint(folder)
    return (Path(ckpt_path), read_checkpoint(ckpt_path)) if ckpt_path else (None, None)


def trusted_config(path: str | Path) -> dict[str, Any]:
    """The part of a checkpoint's config that a later command builds on.

    Raises CheckpointError where that part names a class that is not on the allow-list, or holds an interpolation.
    """
    config = read_checkpoint(path)["config"]
    if type(config) is not dict:
        raise CheckpointError(f"{path} is refused: its config is a {type(config).__name__}, not a dict; {OWN}")
    if strange := {"hydra", "defaults"} & set(config):
        raise CheckpointError(
            f"{path} is refused: its config would change how commands run ({', '.join(strange)}); {OWN}"
        )
    config = {key: value for key, value in config.items() if key not in COMPOSED_ANEW}
    _vet(config, Path(path))
    return config


@cache
def allowed_targets() -> frozenset[str]:
    """The classes a checkpoint's config may name: those that phenokeep's own configs name."""
    folder = resources.files("phenokeep.configs")
    texts = (entry.read_text() for entry in Path(str(folder)).rglob("*.yaml"))
    return frozenset(name for text in texts for name in re.findall(r"_target_: *([\w.]+)", text))


def _vet(node: Any, path: Path, level: int = 0) -> None:
    """Refuses what a config of ours never holds; only plain dicts, lists and scalars are walked, so only they pass."""
    if level > DEEPEST:
        raise CheckpointError(f"{path} is refused: its config is nested over {DEEPEST} levels deep; {OWN}")
    if type(node) is dict:
        target = node.get("_target_")
        if target is not None and not (type(target) is str and target in allowed_targets()):
            raise CheckpointError(
                f"{path} is refused: its config would call {target!r}, which no config of phenokeep names. "
                "If you trust it, replace that group on the command line, for example data=hcs_nuclei"
            )
        for key, value in node.items():
            if type(key) is str and key.startswith("_") and key not in NODE_KEYS:
                raise CheckpointError(f"{path} is refused: its config holds {key}, which none of ours does; {OWN}")
            _vet(key, path, level + 1)
            _vet(value, path, level + 1)
    elif type(node) is list:
        for value in node:
            _vet(value, path, level + 1)
    elif type(node) is str and "${" in node:
        raise CheckpointError(
            f"{path} is refused: its config holds an interpolation ({node!r}), which none of ours does; {OWN}"
        )
    elif type(node) not in (str, int, float, bool, type(None)):
        kind = type(node).__name__
        raise CheckpointError(f"{path} is refused: its config holds a {kind}, which none of ours does; {OWN}")


def load_weights(module: Any, state: dict[str, Any], path: str | Path) -> None:
    """Strict load_state_dict with an error that says what does not fit. Raises CheckpointError."""
    import torch

    own = module.state_dict()
    for key, weight in state.items():
        if not isinstance(weight, torch.Tensor):
            kind = type(weight).__name__
            raise CheckpointError(f"{path}: weight {key} is a {kind}, no tensor; use another checkpoint")
    missing, extra = sorted(set(own) - set(state)), sorted(set(state) - set(own))
    shapes = [
        f"{key} is {tuple(state[key].shape)}, here {tuple(own[key].shape)}"
        for key in own
        if key in state and own[key].shape != state[key].shape
    ]
    if missing or extra or shapes:
        parts = [f"{len(keys)} {word} ({', '.join(keys[:3])}{' ...' * (len(keys) > 3)})" for word, keys in
                 (("weights missing", missing), ("too many", extra), ("of another shape", shapes)) if keys]  # fmt: skip
        raise CheckpointError(
            f"{path} does not fit {type(module).__name__}: {'; '.join(parts)}. "
            "It is a checkpoint of another model, or of this one with other settings"
        )
    for key, weight in state.items():
        numbers = (weight.is_floating_point(), weight.is_complex())
        if numbers != (own[key].is_floating_point(), own[key].is_complex()):  # torch would cast it silently
            raise CheckpointError(
                f"{path}: weight {key} is {weight.dtype}, here {own[key].dtype}; use another checkpoint"
            )
        if weight.is_floating_point() and not weight.isfinite().all():
            raise CheckpointError(f"{path}: weight {key} holds NaN or infinite values; use an earlier checkpoint")
    module.load_state_dict(state)
