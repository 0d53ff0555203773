"""First weights of a model from another run or from published files: `model.init_from`."""

import logging
from importlib import resources
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from .checkpoint import CheckpointError, load_weights, read_checkpoint
from .models import published
from .models.published_networks import NETWORKS
from .models.weightfiles import WeightsError, part_of, parts

log = logging.getLogger(__name__)


def warm_start(model: Any) -> None:
    """Fills a model from what its `init_from` names: one path for all of it, or {part: path}.

    A path is a checkpoint of phenokeep, a file of published weights for a model that says in `published` which of its
    parts are whose, or a folder with such files under their published names. Logs a line per part. A discriminator for
    which published weights have no file starts fresh, and the log says so.

    Raises CheckpointError or WeightsError naming the file and the mend.
    """
    source = getattr(model, "init_from", None) or {}
    if isinstance(source, str):
        _whole(model, Path(source))
        return
    for part, path in source.items():
        if part not in _parts(model):
            raise CheckpointError(
                f"model.init_from names {part!r}, which {_title(model)} does not have; its parts are: "
                f"{', '.join(_parts(model))}"
            )
        _one(model, part, Path(path))


def _whole(model: Any, path: Path) -> None:
    if path.is_dir():
        _folder(model, path)
        return
    saved = _checkpoint(path)
    if saved:
        load_weights(model, saved["state_dict"], path)
        for part in _parts(model):
            log.info("%s: from %s", part, path)
        return
    found = parts(published.read(path), str(path))
    fits = {
        part: state
        for state in found.values()
        for part, name in _published(model).items()
        if name in published.recognise(state)
    }
    if not fits:
        _refuse(model, found, path)
    for part, name in _published(model).items():
        if part in fits:
            _fill(model, part, name, fits[part], path)
        elif published.side(name) == "generator":
            raise WeightsError(
                f"{path} holds no {part} of {_title(model)} ({name}), only {', '.join(fits)}: name a file for each, "
                f"model.init_from={{{part}: FILE, {next(iter(fits))}: {path}}}"
            )
        else:
            log.warning("%s: starts fresh, %s holds none", part, path)


def _folder(model: Any, folder: Path) -> None:
    """Published files under the names that people download."""
    files = {part: NETWORKS[name].file for part, name in _published(model).items() if NETWORKS[name].file}
    if not files:
        raise CheckpointError(f"{folder} is a folder: {_title(model)} starts from a file, or from {{part: file}}")
    for part, file in files.items():
        path = folder / str(file)
        if path.is_file():
            _one(model, part, path)
        elif published.side(_published(model)[part]) == "generator":
            raise WeightsError(f"{folder} has no {file}, the published weights of {part}: name it, {{{part}: FILE}}")
        else:
            log.warning("%s: starts fresh, %s has no %s", part, folder, file)


def _one(model: Any, part: str, path: Path) -> None:
    saved = _checkpoint(path)
    if saved:
        state = saved["state_dict"]
        weights = {key.removeprefix(f"{part}."): value for key, value in state.items() if key.startswith(f"{part}.")}
        if not weights:
            there_are = ", ".join(sorted({key.split(".")[0] for key in state}))
            raise CheckpointError(f"{path} holds no {part}; its parts are: {there_are}")
        load_weights(getattr(model, part), weights, path)
        log.info("%s: from %s", part, path)
        return
    found = parts(published.read(path), str(path))
    name = _published(model).get(part)
    if name is None:
        _refuse(model, found, path, part)
    else:
        _fill(model, part, name, part_of(found, published.side(name), str(path)), path)


def _fill(model: Any, part: str, name: str, weights: Any, path: Path) -> None:
    adapted = published.fill(getattr(model, part), name, weights, str(path))
    how = ", its three channels made one" if adapted else ""
    log.info("%s: published weights of %s from %s%s", part, name, path, how)


def _refuse(model: Any, found: dict[str, dict[str, Tensor]], path: Path, part: str | None = None) -> None:
    """The error for weights that no part of this model takes: what is missing, and what would take them."""
    side, state = next(iter(found.items()))
    known = published.recognise(state)
    part = part or side or (published.side(known[0]) if known else next(iter(_parts(model))))
    own = getattr(model, part).state_dict() if part in _parts(model) else {}
    missing = [key for key in own if key not in state]
    lacks = f" It lacks {len(missing)} weights of {part} ({published.listed(missing)})." if missing else ""
    mends = " or ".join(dict.fromkeys(NETWORKS[name].setting for name in known))
    mend = f"It holds {' or '.join(known)}: set {mends}" if known else "Use a checkpoint of phenokeep, or other weights"
    raise WeightsError(f"{path} does not fit {_title(model)}.{lacks} {mend}")


def _checkpoint(path: Path) -> dict[str, Any] | None:
    """A checkpoint of phenokeep; None for another file. Raises CheckpointError where it is missing or damaged."""
    if not path.is_file():
        raise CheckpointError(f"model.init_from: no checkpoint at {path}{_made_by(path)}")
    try:
        return read_checkpoint(path)
    except CheckpointError:
        saved = published.read(path)
        if isinstance(saved, dict) and {"state_dict", "pytorch-lightning_version"} <= set(saved):
            raise  # ours, and damaged
        return None


def _made_by(path: Path) -> str:
    """The command whose run would have written this file, where the path is that of a run."""
    folder = path.parent
    number = folder.name.removeprefix("seed_")
    if number == folder.name or not number.isdigit():
        return "; correct the path"
    experiments = resources.files("phenokeep.configs") / "experiment"
    names = folder.parent.parts
    for start in range(len(names)):
        name = "/".join(names[start:])
        if (experiments / f"{name}.yaml").is_file():
            runs = str(Path(*names[:start]))
            elsewhere = "" if runs == "runs" else f" runs={runs}"
            return f"; this makes it: python train.py experiment={name} seed={number}{elsewhere}"
    return "; correct the path"


def _parts(model: Any) -> list[str]:
    return [name for name, part in model.named_children() if isinstance(part, nn.Module) and part.state_dict()]


def _published(model: Any) -> dict[str, str]:
    """The parts with published weights that this model holds, and their names."""
    return {part: name for part, name in getattr(model, "published", {}).items() if part in _parts(model)}


def _title(model: Any) -> str:
    return type(model).__name__
