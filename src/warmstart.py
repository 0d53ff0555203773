"""First weights of a model from another run or from published files: `model.init_from`."""

import logging
from dataclasses import asdict
from importlib import resources
from pathlib import Path
from typing import Any, NoReturn

from torch import Tensor, nn

from .checkpoint import PARTS, CheckpointError, checked, load_weights
from .inference.provenance import sha256_of
from .models import published
from .models.published_networks import NETWORKS
from .models.weightfiles import WeightsError, parts

log = logging.getLogger(__name__)


def warm_start(model: Any) -> list[dict[str, Any]]:
    """Fills a model from what its `init_from` names: one path for all of it, or {part: path}.

    A path is a checkpoint of phenokeep, a file of published weights for a model that says in `published` which of its
    parts are whose, or a folder with such files under their published names. Logs a line per part, also of those that
    start fresh: parts that {part: path} does not name, and discriminators that published weights have no file for.

    Returns an entry for each file, path and sha256, and after it those that it itself started from. A checkpoint's has
    its samples and seconds of training and `trained_on`, all wells (plate:well) that it or what came before it saw.

    What lies in a file must fit: it is an error, not a fresh start, where a key is missing or too much.

    Raises CheckpointError or WeightsError naming the file and the mend.
    """
    source = getattr(model, "init_from", None)
    if source is None:
        return []
    if not source:
        raise CheckpointError("model.init_from names nothing: give a file, {part: file}, or null")
    if isinstance(source, str):
        return _once(_whole(model, Path(source)))
    found = []
    for part, path in source.items():
        if part not in _parts(model):
            raise CheckpointError(
                f"model.init_from names {part!r}, which {_title(model)} does not have; its parts are: "
                f"{', '.join(_parts(model))}"
            )
        found += _one(model, part, Path(path))
    for part in _parts(model):
        if part not in source:
            log.warning("%s: starts fresh, model.init_from does not name it", part)
    return _once(found)


def _once(found: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return list({entry["sha256"]: entry for entry in found}.values())


def _whole(model: Any, path: Path) -> list[dict[str, Any]]:
    if path.is_dir():
        return _folder(model, path)
    ours, saved = _opened(path)
    if ours:
        here, held = set(_parts(model)), {key.split(".")[0] for key in saved["state_dict"]}
        if here & held and here != held:
            raise CheckpointError(
                f"{path} holds {', '.join(sorted(held))}, and {_title(model)} has {', '.join(sorted(here))}: say what "
                f"to take from it, model.init_from={{{', '.join(f'{part}: {path}' for part in sorted(here & held))}}}"
            )
        _same_settings(model, _parts(model), saved, path)
        load_weights(model, saved["state_dict"], path)
        for part in _parts(model):
            log.info("%s: from %s", part, path)
        return _origins(path, saved)
    found = parts(saved, str(path))
    if not _published(model):
        _refuse(model, found, path)
    fits = {_takes(model, side, state): state for side, state in found.items()}
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
    return _origins(path)


def _origins(path: Path, saved: dict[str, Any] | None = None) -> list[dict[str, Any]]:
    """What is kept of a file: published weights, or a checkpoint of ours, which is followed by what it started from."""
    entry: dict[str, Any] = {"path": str(path.resolve()), "sha256": sha256_of(path)}
    if saved is None:
        return [entry]
    settings = saved["config"].get("model")
    if isinstance(settings, dict) and settings.get("init_from") and "started_from" not in saved:
        log.warning(
            "%s started from %s and, written by an earlier version, does not say which wells that saw: test wells "
            "among them will go unnoticed",
            *(path, settings["init_from"]),
        )
    entry |= {key: saved["effort"][key] for key in ("samples", "seconds")} | {"trained_on": saved["trained_on"]}
    return [entry, *saved.get("started_from", [])]


def _takes(model: Any, side: str, state: dict[str, Tensor]) -> str:
    """The part that published weights are for; where none fits, the one of their side that has most of their keys."""
    names = {part: name for part, name in _published(model).items() if side in ("", published.side(name))}
    known = published.recognise(state)
    return max(names, key=lambda part: (names[part] in known, published.shared(state, names[part])))


def _folder(model: Any, folder: Path) -> list[dict[str, Any]]:
    """Published files under the names that people download."""
    files = {part: NETWORKS[name].file for part, name in _published(model).items() if NETWORKS[name].file}
    if not files:
        raise CheckpointError(f"{folder} is a folder: {_title(model)} starts from a file, or from {{part: file}}")
    found = []
    for part, file in files.items():
        path = folder / str(file)
        if path.is_file():
            found += _one(model, part, path)
        elif published.side(_published(model)[part]) == "generator":
            raise WeightsError(f"{folder} has no {file}, the published weights of {part}: name it, {{{part}: FILE}}")
        else:
            log.warning("%s: starts fresh, %s has no %s", part, folder, file)
    return found


def _one(model: Any, part: str, path: Path) -> list[dict[str, Any]]:
    ours, saved = _opened(path)
    if ours:
        state = saved["state_dict"]
        weights = {key.removeprefix(f"{part}."): value for key, value in state.items() if key.startswith(f"{part}.")}
        if not weights:
            there_are = ", ".join(sorted({key.split(".")[0] for key in state}))
            raise CheckpointError(f"{path} holds no {part}; its parts are: {there_are}")
        _same_settings(model, [part], saved, path)
        load_weights(getattr(model, part), weights, path)
        log.info("%s: from %s", part, path)
        return _origins(path, saved)
    if name := _published(model).get(part):
        _fill(model, part, name, saved, path)
        return _origins(path)
    _refuse(model, parts(saved, str(path)), path, part)


def _same_settings(model: Any, names: list[str], saved: dict[str, Any], path: Path) -> None:
    """Refuses a checkpoint whose network would make other images of the same weights, or learnt from other edge maps.

    Of other edge maps it warns where the network is to be trained on.
    """
    settings = saved["config"].get("model")
    settings = settings if isinstance(settings, dict) else {}
    trained, edges, canny = settings.get("variant"), settings.get("edges"), getattr(model, "canny", None)
    for part in names:
        here = getattr(getattr(model, part), "variant", None)
        if here and trained and here != trained:
            raise CheckpointError(
                f"{path} was trained as variant {trained}, and this {part} is {here}, which makes other images of the "
                f"same weights: set model.variant={trained}"
            )
    if not isinstance(edges, dict) or not canny:
        return
    here = {key: value for key, value in asdict(canny).items() if edges.get(key, value) != value}
    if not here:
        return
    there = " ".join(f"model.edges.{key}={'null' if edges[key] is None else edges[key]}" for key in here)
    learnt = f"learnt from edge maps of {there}, and here it is {', '.join(f'{k}={v}' for k, v in here.items())}"
    frozen = [part for part in names if not any(weight.requires_grad for weight in getattr(model, part).parameters())]
    if frozen:
        raise CheckpointError(f"{path} {learnt}: {frozen[0]} is frozen and cannot learn them anew; set {there}")
    log.warning("%s %s: set it alike, unless these networks are to learn other edges", path, learnt)


def _fill(model: Any, part: str, name: str, weights: Any, path: Path) -> None:
    adapted = published.fill(getattr(model, part), name, weights, str(path))
    how = ", its three channels made one" if adapted else ""
    log.info("%s: published weights of %s from %s%s", part, name, path, how)


def _refuse(model: Any, found: dict[str, dict[str, Tensor]], path: Path, part: str | None = None) -> NoReturn:
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


def _opened(path: Path) -> tuple[bool, Any]:
    """Whether a file is a checkpoint of phenokeep, and what it holds.

    Raises CheckpointError where it is missing or such a checkpoint is not whole, WeightsError where it is damaged.
    """
    if path.is_dir():
        raise CheckpointError(f"model.init_from: {path} is a folder; name the file in it")
    if not path.is_file():
        raise CheckpointError(f"model.init_from: no checkpoint at {path}{_made_by(path)}")
    saved = published.read(path)
    ours = isinstance(saved, dict) and ("pytorch-lightning_version" in saved or set(PARTS) <= set(saved))
    return ours, checked(saved, path) if ours else saved


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
            return (
                "; this makes it, with your own settings of data and model where both runs share them: "
                f"python train.py experiment={name} seed={number}{elsewhere}"
            )
    return "; correct the path"


def _parts(model: Any) -> list[str]:
    return [name for name, part in model.named_children() if isinstance(part, nn.Module) and part.state_dict()]


def _published(model: Any) -> dict[str, str]:
    """The parts with published weights that this model holds, and their names."""
    return {part: name for part, name in getattr(model, "published", {}).items() if part in _parts(model)}


def _title(model: Any) -> str:
    return type(model).__name__
