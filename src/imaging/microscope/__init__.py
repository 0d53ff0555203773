"""Virtual microscope: a Scene is what is there, a Microscope is how it is seen, a Plate is how scenes vary."""

from .artefacts import Layer
from .instrument import Channel, Microscope
from .lab_errors import LAB_ERRORS
from .organelles import INDICES, ORGANELLES
from .phenotype import CELL_LINES, MODES_OF_ACTION, Phenotype
from .plate import Plate, PlateField
from .scene import Scene
from .transmitted import Contrast

__all__ = [
    "CELL_LINES",
    "INDICES",
    "LAB_ERRORS",
    "MODES_OF_ACTION",
    "ORGANELLES",
    "Channel",
    "Contrast",
    "Layer",
    "Microscope",
    "Phenotype",
    "Plate",
    "PlateField",
    "Scene",
]
