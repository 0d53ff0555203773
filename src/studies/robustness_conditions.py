"""The conditions that robustness is judged under: clean, corrupted by severity, drawn again after a mishap."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch

from ..datamodules.corrupted import corrupted
from ..datamodules.mishaps import drawn_plates, redrawn
from ..datamodules.patches import collate
from ..imaging.corruptions import SEVERITIES
from ..imaging.microscope import LAB_ERRORS

LAB = "lab error"


class Condition(NamedTuple):
    """What went wrong: "clean"; a kind of table 9 and its severity; or "lab error" and its name."""

    corruption: str = "clean"
    severity: int = 0
    name: str = ""

    def __str__(self) -> str:
        return f"{self.corruption} {self.name or f'{self.severity:+d}'}" if self.corruption != "clean" else "clean"


CLEAN = Condition()


def conditions_of(data: Any, severities: Sequence[int], lab_errors: bool) -> list[Condition]:
    """Clean first, then every kind at each of these severities that it has, then mishaps of data that were drawn."""
    found = [CLEAN]
    for kind, levels in SEVERITIES.items():
        found += [Condition(kind, severity) for severity in severities if severity in levels]
    if lab_errors and drawn_plates(data):
        found += [Condition(LAB, 0, name) for name in LAB_ERRORS]
    return found


def samples_of(data: Any, condition: Condition, mode: str) -> Any:
    """The test patches under a condition."""
    if condition == CLEAN:
        return data.patches("test")
    if condition.corruption == LAB:
        return redrawn(data, condition.name)
    return corrupted(data.patches("test"), condition.corruption, condition.severity, mode)


def picture_of(samples: Any, number: int, modules: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """One patch: source (counts as a share of full scale), each label's prediction, target; Y X each, by name."""
    row, y, x = samples.windows[number]
    source = samples.zoom.cut(samples.reader.image(row)[0], y, x) / samples.full_scale
    batch = collate([samples[0, number]])
    with torch.inference_mode():
        stacks = {label: module.cpu().test_step(batch, 0)["prediction"] for label, module in modules.items()}
    predictions = {label: stack[0, 0].float().numpy() for label, stack in stacks.items()}
    return {"source": source, **predictions, "target": batch["target"][0, 0].numpy()}
