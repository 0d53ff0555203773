"""Callbacks: what watches a run, guards it and writes things down."""

from .checkpoints import Best, Last, Provenance, Reproducible
from .guards import CollapsedOutput, FiniteLoss, NotFinite, Room, check_writable
from .metrics import Measured, PhenotypeMetrics
from .pictures import ImageGrid
from .wandb import Wandb
from .writing import AtomicCheckpoints

__all__ = [
    "AtomicCheckpoints",
    "Best",
    "CollapsedOutput",
    "FiniteLoss",
    "ImageGrid",
    "Last",
    "Measured",
    "NotFinite",
    "PhenotypeMetrics",
    "Provenance",
    "Reproducible",
    "Room",
    "Wandb",
    "check_writable",
]
