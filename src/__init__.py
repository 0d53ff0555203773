"""phenokeep: train and judge deep models of microscopy images by the phenotype they keep."""

import os

# Libraries that look for updates or report errors over the network are told not to.
os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")
os.environ.setdefault("WANDB_ERROR_REPORTING", "false")

__version__ = "0.1.0"
