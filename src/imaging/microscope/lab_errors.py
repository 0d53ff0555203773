"""What goes wrong in a laboratory, as figure 48 of the thesis shows it: changes of a microscope and of a phenotype."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from types import MappingProxyType

from .instrument import Microscope
from .phenotype import Phenotype

Setup = tuple[Microscope, Phenotype]


def _defocused(height: float) -> Callable[[Microscope, Phenotype], Setup]:
    def change(microscope: Microscope, phenotype: Phenotype) -> Setup:
        moved = {name: replace(c, focus=c.focus + height) for name, c in microscope.contrasts.items()}
        return replace(microscope, contrasts=moved), phenotype

    return change


def _exposed(milliseconds: float) -> Callable[[Microscope, Phenotype], Setup]:
    return lambda microscope, phenotype: (replace(microscope, exposure=milliseconds), phenotype)


def _overfixed(microscope: Microscope, phenotype: Phenotype) -> Setup:
    p = phenotype
    lumpy = {"granularity": 3.0 * p.granularity, "droplets": 1.5 * p.droplets, "thickness": 1.2 * p.thickness}
    return microscope, replace(p, **lumpy, cell_ratio=0.75 * p.cell_ratio)


# Name -> function of (microscope, phenotype) that gives both after the mishap. Only transmitted light is changed, and
# all but low_density leave the nuclei of a seed where they are: a good and a bad picture of one truth can be compared.
LAB_ERRORS: Mapping[str, Callable[[Microscope, Phenotype], Setup]] = MappingProxyType(
    {
        "focus_minus_5": _defocused(-5.0),
        "focus_plus_5": _defocused(5.0),
        "exposure_20": _exposed(20.0),
        "exposure_40": _exposed(40.0),
        "overfixed": _overfixed,  # 15 instead of 10 minutes in formalin: shrunken, thicker, lumpier
        "oil_bubble": lambda microscope, phenotype: (replace(microscope, bubble=120.0), phenotype),
        "low_density": lambda microscope, phenotype: (microscope, replace(phenotype, density=0.2 * phenotype.density)),
    }
)
