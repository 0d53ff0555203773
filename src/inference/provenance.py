"""Where an image that a model made comes from: the sidecar that stands beside each of them."""

from __future__ import annotations

import hashlib
import json
import shlex
import sys
from datetime import datetime
from pathlib import Path
from typing import Any

from .. import __version__
from ..imaging.files import replacing
from .trained import Trained

UNKNOWN_LICENCE = "not stated: ask who trained it, or train with licence=..."


def sha256_of(path: str | Path) -> str:
    """The SHA-256 of a file."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def run_record(predictor: Trained, checkpoint: str, settings: dict[str, Any]) -> dict[str, Any]:
    """What all images of a run share; `settings` is what of the command decides the pixels (masks, rescaling)."""
    config = predictor.config
    return {
        "phenokeep": __version__,
        "model": type(predictor.model).__name__,
        "checkpoint": {"path": str(Path(checkpoint).resolve()), "sha256": predictor.sha256},
        "licence_of_weights": config.get("licence") or UNKNOWN_LICENCE,
        "seed": config["seed"],
        "settings": settings,
        "config": config,
        "command": shlex.join(["python", *sys.argv]),
    }


def write_record(path: Path, record: dict[str, Any]) -> None:
    """Write a sidecar, complete or not at all."""
    record = {**record, "written": datetime.now().astimezone().isoformat(timespec="seconds")}
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(record, indent=1, allow_nan=True), encoding="utf-8")


def read_record(path: Path) -> dict[str, Any] | None:
    """A sidecar of an earlier run; None where there is none, or none that can be read."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


def same_origin(record: dict[str, Any], run: dict[str, Any], inputs: dict[str, str]) -> bool:
    """Whether an earlier result came from these very inputs, weights and settings of this version."""
    same = all(record.get(key) == run[key] for key in ("phenokeep", "settings", "seed"))
    weights = record.get("checkpoint", {}).get("sha256") == run["checkpoint"]["sha256"]
    return same and weights and record.get("inputs") == inputs
