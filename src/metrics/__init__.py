"""Metrics of images: a plain function with the equation, and a torchmetrics.Metric beside it."""

from .base import ImageMetric
from .correlation import Pearson, pearson
from .edges import EdgeMatch, edge_match
from .nuclei import MatchedNuclei, matched_nuclei
from .pixels import HoleErrors, hole_errors
from .readouts import NucleusErOverlap, Readouts, nucleus_er_overlap
from .reconstruction import PhIRM, phirm
from .terms import AreaDifference, ArtefactDifference, CountDifference, IntegratedIntensity, Term

__all__ = [
    "AreaDifference",
    "ArtefactDifference",
    "CountDifference",
    "EdgeMatch",
    "HoleErrors",
    "ImageMetric",
    "IntegratedIntensity",
    "MatchedNuclei",
    "NucleusErOverlap",
    "Pearson",
    "PhIRM",
    "Readouts",
    "Term",
    "edge_match",
    "hole_errors",
    "matched_nuclei",
    "nucleus_er_overlap",
    "pearson",
    "phirm",
]
