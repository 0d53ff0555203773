"""Callbacks: what watches a run and writes things down."""

from .checkpoints import Best, Last, Provenance, Reproducible
from .metrics import Measured, PhenotypeMetrics
from .pictures import ImageGrid

__all__ = ["Best", "ImageGrid", "Last", "Measured", "PhenotypeMetrics", "Provenance", "Reproducible"]
