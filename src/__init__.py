"""phenokeep: train and judge deep models of microscopy images by the phenotype they keep."""

import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    from .inference.predictor import Predictor
    from .inference.stain import StainPredictor

# Libraries that look for updates or report errors over the network are told not to.
os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")
os.environ.setdefault("WANDB_ERROR_REPORTING", "false")
# torch, once it is imported, asks Linux for huge pages for large tensors: a step that allocates the gradients of many
# weights spends a third of its time on page faults otherwise.
os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")

__version__ = "0.1.0"


def load(checkpoint: "str | Path", device: str = "auto") -> "Predictor | StainPredictor":
    """A trained model, ready for `.predict(image, mask)`; one that was trained on pairs, for `.predict(image)`.

    See `phenokeep.inference.predictor.Predictor` and `phenokeep.inference.stain.StainPredictor`.
    """
    from .inference.predictor import load

    return load(checkpoint, device)
