"""Refuses settings of a wrong type or name by the annotations of what takes them, before anything is built."""

from __future__ import annotations

import difflib
import inspect
import json
from collections.abc import Sequence
from typing import Annotated, Any, get_type_hints

from hydra.utils import get_object
from omegaconf import DictConfig, OmegaConf
from pydantic import ConfigDict, Field, TypeAdapter, ValidationError
from pydantic.errors import PydanticUserError
from pydantic_core import SchemaError

TOP: dict[str, Any] = {
    "seed": Annotated[int, Field(ge=0, lt=2**32)],
    "fit": bool,
    "test": bool,
    "compile": bool,
    "ckpt_path": str | None,
    "least_size": Annotated[int, Field(ge=1)],
    "name": str | None,
    "plate": str | None,
    "runs": str,
    "drift": str | None,
    "fail_on_drift": bool,
    "output_dir": str,
}
# Smallest and largest of a number, or of each in a list, by the end of its key: what nothing else checks before use.
RANGES: dict[str, tuple[float, float]] = {
    "zoom.crop": (1, 2**14),
    "zoom.stride": (1, 2**14),
    "zoom.size": (1, 2**14),
    "pixel_size": (1e-3, 1e2),
    "lr": (1e-12, 1e2),
    "widths": (1, 2**14),
    "n_bootstrap": (1, 10**7),
}
# pydantic's kinds of error -> what a user should write.
MEANT = {
    "int": "an integer",
    "float": "a number",
    "bool": "true or false",
    "string": "a string (a number in quotes: '\"2024\"')",
    "sequence": "a list, [a, b]",
    "list": "a list, [a, b]",
    "tuple": "a list, [a, b]",
    "missing": "a list of as many values",
    "too": "a list of as many values",
    "dict": "keys and values, {key: value}",
    "mapping": "keys and values, {key: value}",
    "none": "null",
    "is": "an object, a config with _target_",
    "callable": "an object, a config with _target_",
    "dataclass": "an object, a config with _target_",
}
KEPT = ("_target_", "_convert_", "_recursive_", "_partial_")


def check_settings(cfg: DictConfig, needs: Sequence[str] = ()) -> None:
    """Check every setting of a composed config; `needs` are the groups that must be there (data, model, trainer).

    Imports what the config names and calls nothing. Raises ValueError that names the key, its value and what is meant.
    """
    try:
        settings: Any = OmegaConf.to_container(cfg, resolve=True, throw_on_missing=True)
    except RecursionError:
        raise ValueError("an interpolation (${...}) in the config refers to itself; write the value") from None
    for key, kind in TOP.items():
        if key in settings:
            _check_value(key, settings[key], kind)
    for group in needs:
        _check_group(group, settings.get(group))
    for key, node in settings.items():
        if key in ("metrics", "callbacks") and isinstance(node, dict):
            for name, part in node.items():
                if part is not None and not (isinstance(part, dict) and "_target_" in part):
                    raise ValueError(f"{key}.{name} is {_short(part)}: null or a config with _target_ is meant")
        _walk(key, node)


def _check_group(group: str, node: Any) -> None:
    """Refuse a group that is missing or builds something else."""
    import pytorch_lightning as pl

    base = {"data": pl.LightningDataModule, "model": pl.LightningModule, "trainer": pl.Trainer}[group]
    if not isinstance(node, dict) or not node.get("_target_"):
        raise ValueError(f"{group} is {_short(node)}: a config with _target_ is meant; choose one with {group}=NAME")
    target = _target(f"{group}._target_", node["_target_"])
    if not (isinstance(target, type) and issubclass(target, base)):
        raise ValueError(f"{group}._target_ is {node['_target_']}: a class derived from {base.__name__} is meant")


def _walk(path: str, node: Any) -> None:
    if isinstance(node, list):
        for number, value in enumerate(node):
            _walk(f"{path}[{number}]", value)
    elif isinstance(node, dict):
        if node.get("_target_") is not None:
            _check_call(path, node)
        for key, value in node.items():
            _walk(f"{path}.{key}", value)


def _check_call(path: str, node: dict[str, Any]) -> None:
    """Check the settings of one object against the signature of its class or function."""
    kinds, takes_more = _parameters(_target(f"{path}._target_", node["_target_"]))
    for key, value in node.items():
        if key in KEPT:
            continue
        if key not in kinds and not takes_more:
            near = difflib.get_close_matches(str(key), kinds, 1)
            mend = f"did you mean {near[0]!r}?" if near else f"there are: {', '.join(kinds) or 'none'}"
            raise ValueError(f"{path}.{key} is no setting of {node['_target_']}; {mend}")
        if not _holds_objects(value):
            _check_value(f"{path}.{key}", value, kinds.get(key, Any))
            _check_range(f"{path}.{key}", value)


def _target(path: str, name: Any) -> Any:
    try:
        return get_object(name)
    except Exception as error:
        cause = str(error).splitlines()[0]
        raise ValueError(f"{path} is {_short(name)}, which cannot be found ({cause}); correct it") from None


def _parameters(call: Any) -> tuple[dict[str, Any], bool]:
    """The parameters of a class or function with their annotations, and whether it takes others.

    The **options of a class may be those of the classes above it, so theirs are listed too; of ours they are just that.
    """
    found: dict[str, Any] = {}
    # torch's Module takes any option, to refuse it.
    kinds = [kind for kind in getattr(call, "__mro__", ())[:-1] if kind.__module__ != "torch.nn.modules.module"]
    above = [vars(kind)["__init__"] for kind in kinds if "__init__" in vars(kind)]
    ours = getattr(call, "__module__", "").startswith(f"{__package__}.")
    takes_more = False
    for number, function in enumerate(above if isinstance(call, type) else [call]):
        parameters = inspect.signature(function).parameters.values()
        try:
            hints = get_type_hints(function, include_extras=True)
        except NameError:  # a name that is there for type checkers alone
            hints = {}
        for parameter in parameters:
            if parameter.name != "self" and parameter.kind not in (parameter.VAR_KEYWORD, parameter.VAR_POSITIONAL):
                found.setdefault(parameter.name, hints.get(parameter.name, Any))
        more = any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters)
        takes_more = more if ours or number == 0 else takes_more
        if not more:
            break
    return found, takes_more


def _holds_objects(value: Any) -> bool:
    if isinstance(value, dict):
        return "_target_" in value or any(map(_holds_objects, value.values()))
    return isinstance(value, list) and any(map(_holds_objects, value))


def _check_value(path: str, value: Any, kind: Any) -> None:
    """Check a plain value against an annotation as strictly as JSON: no text for a number, no float for an int."""
    try:
        _adapter(kind).validate_json(json.dumps(value), strict=True)
    except ValidationError as error:
        problems = error.errors(include_url=False)
        kinds = {problem["type"].split("_")[0]: problem["msg"] for problem in problems}
        meant = sorted({MEANT.get(name, text.replace("Input should be ", "a value ")) for name, text in kinds.items()})
        raise ValueError(f"{path} is {_short(value)}: {' or '.join(meant)} is meant") from None
    except (SchemaError, TypeError):  # a protocol cannot be asked
        raise ValueError(f"{path} is {_short(value)}: {MEANT['is']} is meant") from None


def _check_range(path: str, value: Any) -> None:
    for end, (low, high) in RANGES.items():
        if path.endswith((f".{end}", f"_{end}")) and value is not None:
            values = value if isinstance(value, list) else [value]
            if not values or not all(isinstance(number, int | float) and low <= number <= high for number in values):
                raise ValueError(f"{path} is {_short(value)}: at least one number from {low:g} to {high:g} is meant")


def _adapter(kind: Any) -> TypeAdapter[Any]:
    try:
        return TypeAdapter(kind, config=ConfigDict(arbitrary_types_allowed=True))
    except PydanticUserError:  # a type that carries its own pydantic configuration
        return TypeAdapter(kind)


def _short(value: Any) -> str:
    text = "null" if value is None else repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
