"""What an error of a command means to who typed it, in one line where it can be."""

import difflib
import re
import sys
from collections.abc import Sequence
from pathlib import Path

import yaml
from hydra.errors import HydraException, MissingConfigException, OverrideParseException
from omegaconf.errors import (
    InterpolationKeyError,
    InterpolationResolutionError,
    OmegaConfBaseException,
    UnsupportedInterpolationType,
)

# What a user can mend; Lightning's MisconfigurationException is told by its name, so that Lightning is not imported.
MENDABLE = (HydraException, OmegaConfBaseException, ValueError, OSError, RecursionError, MemoryError)
# What takes less memory, by a word in the command's name.
ROOM = {
    "train": "lower data.batch_size, data.zoom.size or the network's size: model.widths (unet), model.net.filters "
    "(labelfree_unet, lachance), model.bottleneck (context_encoder), model.blocks (edge_connect)",
    "eval": "lower data.batch_size",
    "predict": "fields are held whole: give smaller ones, or device=cpu where it is a GPU that has no room",
}
NO_MEMORY = ("can't allocate memory", "not enough memory", "out of memory", "unable to allocate")


def explain(error: BaseException, arguments: Sequence[str] = ()) -> str:
    """The message a user can act on: the cause of a failed instantiation rather than its wrapping."""
    text = str(error).strip()
    if re.match(r"Caught \w+ in DataLoader worker", text):  # its last line is what the worker said
        text = text.splitlines()[-1].partition(": ")[2]
    found = re.search(r"full_key: ([^\s]+)", text)
    key = found[1] if found else ""
    if isinstance(error, MemoryError) or any(word in text.lower() for word in NO_MEMORY):
        where = f" (config key: {key})" if key else ""
        command = next((word for word in ROOM if word in Path(sys.argv[0]).name), "train")
        return f"this does not fit in memory{where}; {ROOM[command]}"
    if isinstance(error, RecursionError):
        return "the config or the command line is nested too deeply, or refers to itself; write it flatter"
    if isinstance(error, yaml.YAMLError):
        return f"{' '.join(text.split())}; correct the YAML"
    if isinstance(error, MissingConfigException) and error.missing_cfg_file:
        return _no_such_choice(error.missing_cfg_file) or text
    if isinstance(error, OverrideParseException):
        return f"{error.override!r} cannot be read: {text.splitlines()[0]}; write KEY=VALUE, odd values in quotes"
    if text.startswith("Config group override must be"):
        wrong = [word for word in arguments if re.match(r"[\w/]*=(null|true|false|[\d.]+|[\[{].*)?$", word)]
        return f"{', '.join(wrong)}: a config group takes the name of a choice (python -m phenokeep.list shows them)"
    if text.startswith("Could not override"):
        return f"there is no config key {text.split(chr(39))[1]!r}; --cfg job shows the keys there are"
    if text.startswith("Could not delete"):
        return f"{text.rstrip('.')}; --cfg job shows the keys there are"
    if "Cannot merge DictConfig with ListConfig" in text:
        return "a file or group of the config is a list, and keys and values are meant: {key: value}"
    cause = error.__cause__
    if text.startswith("Error merging override") and cause:
        return f"{text}: {str(cause).splitlines()[0]}; --cfg job shows what it holds"
    if text.startswith("Additional config directory"):
        return f"{text}; correct the path"
    if isinstance(error, InterpolationKeyError | InterpolationResolutionError | UnsupportedInterpolationType):
        return f"{text.splitlines()[0]} (config key: {key}); write a value, or set what it refers to"
    if isinstance(error, OSError) and error.filename:
        return f"{text}; check that path and your permissions"
    if key:
        return str(cause) if isinstance(cause, ValueError) else f"{cause or text} (config key: {key})"
    if isinstance(error, MENDABLE) or type(error).__name__ == "MisconfigurationException":
        return text
    what = f"{type(error).__name__}: {text.splitlines()[0] if text else 'no message'}"
    return f"{what}. No check of phenokeep foresees this: look at the settings given, or report it as a fault"


def _no_such_choice(file: str) -> str | None:
    from .list import choices

    group, _, name = file.rpartition("/")
    if not group:
        return f"no config named {name!r}; leave out --config-name"
    if file.startswith("experiment/"):
        group, _, name = file.partition("/")
    there_are = choices(group)
    if not there_are:
        return None
    near = difflib.get_close_matches(name, there_are, 1)
    mend = f"did you mean {near[0]!r}?" if near else f"there are: {', '.join(there_are)}"
    return f"no {group} named {name!r}; {mend}"
