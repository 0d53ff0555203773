"""Metrics of images: a plain function with the equation, and a torchmetrics.Metric beside it."""

from .base import ImageMetric
from .nuclei import MatchedNuclei, matched_nuclei
from .pixels import HoleErrors, hole_errors
from .reconstruction import PhIRM, phirm

__all__ = ["HoleErrors", "ImageMetric", "MatchedNuclei", "PhIRM", "hole_errors", "matched_nuclei", "phirm"]
