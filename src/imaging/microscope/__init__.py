"""Virtual microscope: a Scene is what is there, a Microscope is how it is seen, a Plate is how scenes vary."""

from .artefacts import Layer
from .instrument import Channel, Microscope
from .phenotype import MODES_OF_ACTION, Phenotype
from .plate import Plate, PlateField
from .scene import Scene

__all__ = ["MODES_OF_ACTION", "Channel", "Layer", "Microscope", "Phenotype", "Plate", "PlateField", "Scene"]
