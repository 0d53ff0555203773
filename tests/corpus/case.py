"""A case of bad input, the doors it can meet, and what a refusal must be."""

import contextlib
import io
import os
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from phenokeep import cli
from phenokeep.checkpoint import CheckpointError, read_checkpoint, trusted_config
from phenokeep.datamodules.platemap import read_plate_map
from phenokeep.datamodules.tables import TableError, assign_splits, check_images, read_index
from phenokeep.datamodules.tables import main as index_command
from phenokeep.imaging.io import ImageError, read_image, read_labels

CANARY = "code_was_run"  # what hostile files try to write into their folder
LONGEST, MOST_LINES = 1500, 14


class Case(NamedTuple):
    """Bad input: `build(folder)` writes it and returns what its door takes.

    `names` are texts that the error must hold (file, row, column or key), `mend` a regular expression of what it must
    advise. Names may hold {folder}.
    """

    name: str
    door: Callable[[Any], Any]
    build: Callable[[Path], Any]
    names: Sequence[str]
    mend: str


class Outcome(NamedTuple):
    """What a door did: the error's message as a user sees it, or how it failed to give one."""

    message: str
    fault: str = ""


REFUSALS = (ImageError, TableError, CheckpointError)


def image(path: Path) -> Any:
    return read_image(path)


def labels(path: Path) -> Any:
    return read_labels(path)


def index(path: Path) -> Any:
    """Everything that happens to an index before anything is trained."""
    table = read_index(path)
    check_images(table)
    return assign_splits(table)


def platemap(path: Path) -> Any:
    return read_plate_map(path)


def checkpoint(path: Path) -> Any:
    return read_checkpoint(path)


def config(path: Path) -> Any:
    return trusted_config(path)


def make_index(arguments: Sequence[str]) -> Any:
    """python -m phenokeep.datamodules.tables ..."""
    return _command("tables", lambda: sys.exit(index_command(list(arguments))), ())


def train(arguments: Sequence[str]) -> Any:
    """python train.py ..."""
    return _command("train.py", cli.train, arguments)


def evaluate(arguments: Sequence[str]) -> Any:
    """python eval.py ..."""
    return _command("eval.py", cli.evaluate, arguments)


def _command(name: str, call: Callable[[], Any], arguments: Sequence[str]) -> None:
    """Calls a command in this process; raises Refused with what it printed if it ended with an error of its own."""
    argv, errors, output = sys.argv, io.StringIO(), io.StringIO()
    environment = os.environ.pop("HYDRA_FULL_ERROR", None)
    sys.argv = [name, *arguments]
    status: Any = 0
    try:
        with contextlib.redirect_stderr(errors), contextlib.redirect_stdout(output):
            call()
    except SystemExit as stop:
        status = stop.code or 0
    finally:
        sys.argv = argv
        os.environ.pop("HYDRA_FULL_ERROR", None)
        if environment is not None:
            os.environ["HYDRA_FULL_ERROR"] = environment
    text = errors.getvalue()
    if status:
        raise Refused(text)


class Refused(Exception):
    """A command ended with an exit code; the text is what it wrote to stderr."""


def meet(case: Case, argument: Any, folder: Path) -> Outcome:
    """Takes what `case.build(folder)` gave through the case's door and judges what comes back."""
    try:
        case.door(argument)
    except REFUSALS as error:
        outcome = Outcome(str(error))
    except Refused as refusal:
        outcome = _printed(str(refusal))
    except Exception as error:
        outcome = Outcome(str(error)[:300], f"{type(error).__name__}, which a command line shows as a traceback")
    else:
        outcome = Outcome("", "passed silently")
    if list(folder.rglob(f"{CANARY}*")):
        outcome = Outcome(outcome.message, "code in the input was run")
    return outcome if outcome.fault else outcome._replace(fault=_judge(case, outcome.message, folder))


def _printed(text: str) -> Outcome:
    """The error of a command: what follows "error: ", without the hint on how to see the traceback."""
    if "Traceback" in text:
        return Outcome(text[-600:], "a traceback")
    found = re.search(r"(^|: )error: ", text, re.MULTILINE)
    if not found:
        return Outcome(text[-600:], "an exit code without an error")
    return Outcome(text[found.end() :].replace("(HYDRA_FULL_ERROR=1 shows where)", "").strip())


def _judge(case: Case, message: str, folder: Path) -> str:
    missing = [text for text in case.names if text.replace("{folder}", str(folder)) not in message]
    if missing:
        return f"the message does not name {', '.join(missing)}"
    if not re.search(case.mend, message, re.IGNORECASE):
        return f"the message gives no mend ({case.mend})"
    if "No check of phenokeep foresees" in message:
        return "the error is not foreseen"
    if len(message) > LONGEST or message.count("\n") >= MOST_LINES:
        return f"the message has {len(message)} characters in {message.count(chr(10)) + 1} lines"
    return ""
