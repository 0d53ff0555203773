"""What goes wrong in a laboratory (thesis, figures 39 and 48): changes of a microscope and of a phenotype."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from types import MappingProxyType

from .instrument import Microscope
from .phenotype import Phenotype

Setup = tuple[Microscope, Phenotype]
INSIDE = ("cytosol", "nucleus", "chromatin", "nucleolus", "er", "golgi")  # indices of what fixation takes mass out of


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


def _not_fixed(microscope: Microscope, phenotype: Phenotype) -> Setup:
    """Living cells, whose membrane is intact and clearly defined (thesis, section 3.5); the defaults are fixed ones.

    Fixing opens the membrane: a cell slumps, turns grainy and loses mass, so that every index in it falls (by the order
    of 0.001 with formaldehyde alone: Baczewska et al. 2021, Cytometry A 99, 388). How much is chosen, not measured.
    """
    indices = {name: index + 0.005 * (name in INSIDE) for name, index in microscope.indices.items()}
    plump = replace(phenotype, thickness=1.4 * phenotype.thickness, granularity=0.3 * phenotype.granularity)
    return replace(microscope, indices=indices), plump


# Name -> function of (microscope, phenotype) that gives both after the mishap. Focus, exposure and bubble change
# transmitted light alone. The others are other cells: overfixed and not_fixed leave the nuclei of a seed and their
# stain as they are, and change what else is stained (not_fixed: not the control); low_density changes all of it.
LAB_ERRORS: Mapping[str, Callable[[Microscope, Phenotype], Setup]] = MappingProxyType(
    {
        "focus_minus_5": _defocused(-5.0),
        "focus_plus_5": _defocused(5.0),
        "exposure_20": _exposed(20.0),
        "exposure_40": _exposed(40.0),
        "overfixed": _overfixed,  # 15 instead of 10 minutes in formalin: shrunken, thicker, lumpier
        "not_fixed": _not_fixed,  # 0 minutes: plump, smooth, with a steep edge
        "oil_bubble": lambda microscope, phenotype: (replace(microscope, bubble=120.0), phenotype),
        "low_density": lambda microscope, phenotype: (microscope, replace(phenotype, density=0.2 * phenotype.density)),
    }
)
