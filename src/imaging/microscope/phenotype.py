"""Phenotype: the named parameters of a population of cells, and how a dose of a drug shifts them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from types import MappingProxyType


@dataclass(frozen=True)
class Phenotype:
    """Parameters of a population of cells; the defaults for nuclei are fitted on half of the wells of BBBC039.

    Lengths are micrometres, areas square micrometres, densities per square millimetre, fractions 0..1, DNA contents
    multiples of a G1 nucleus, and brightness is relative to the mean of a G1 nucleus of median area.
    """

    density: float = 680.0  # cells per mm2
    area: float = 262.0  # median area of a G1 nucleus
    area_spread: float = 0.15  # standard deviation of log area
    eccentricity: float = 0.73  # median
    eccentricity_spread: float = 0.58  # standard deviation on the logit scale
    irregularity: float = 0.065  # median relative amplitude of the outline's harmonics
    irregularity_spread: float = 0.8  # standard deviation of its logarithm
    clustering: float = 0.4  # standard deviation of the log of the local density
    contact_fraction: float = 0.15  # cells placed against a neighbour
    alignment: float = 0.4  # 0: orientations independent, 1: all neighbours parallel
    s_fraction: float = 0.12
    g2_fraction: float = 0.29
    mitotic_fraction: float = 0.02
    pyknotic_fraction: float = 0.01
    micronucleus_fraction: float = 0.08
    multinucleate_fraction: float = 0.03
    s_content: float = 1.31
    g2_content: float = 1.80
    stain: float = 1.0
    stain_cv: float = 0.12
    texture: float = 0.17  # standard deviation of the log of the chromatin density
    nucleoli: float = 2.0  # mean number per nucleus
    medium: float = 0.115  # fluorescence of the medium
    artefact_density: float = 0.5  # foreign objects per mm2, whatever the dose
    debris_per_dead_cell: float = 0.05  # floating debris that rises with cell death
    cell_ratio: float = 3.2  # median area of a cell in multiples of its nucleus
    cell_irregularity: float = 0.2  # relative amplitude of the cell outline's harmonics
    thickness: float = 5.0  # micrometres at the middle of a cell
    granularity: float = 0.06  # standard deviation of the log of the thickness over about a micrometre
    droplets: float = 25.0  # lipid droplets per cell
    cytosol: float = 1.0  # dye of the cytosol (GFP), relative
    er: float = 1.0  # amount of endoplasmic reticulum, relative
    er_fraction: float = 0.85  # share of the cell's radius that it reaches
    golgi: float = 1.0  # extent of the Golgi ribbon, relative
    control: float = 3000.0  # spots per mm2 of cell of the organelle that only fluorescence shows

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            top = (
                1.0 if field.name.endswith("fraction") or field.name in ("alignment", "eccentricity") else float("inf")
            )
            if not 0.0 <= value <= top:
                raise ValueError(f"Phenotype.{field.name} is {value}; it must lie between 0 and {top:g}")
        if self.area == 0.0:
            raise ValueError("Phenotype.area is 0; give the median area of a G1 nucleus in square micrometres")
        if self.cell_ratio < 1.0:
            raise ValueError(
                f"Phenotype.cell_ratio is {self.cell_ratio}; a cell is at least as large as its nucleus: 1"
            )
        rare = self.s_fraction + self.g2_fraction + self.mitotic_fraction + self.pyknotic_fraction
        if rare > 1.0 + 1e-9:
            raise ValueError(
                f"Phenotype: s, g2, mitotic and pyknotic fractions add up to {rare:.3g}; at most 1 is left"
            )

    def shifted(self, effect: Mapping[str, float], dose: float, ec50: float, hill: float = 1.0) -> Phenotype:
        """Phenotype under a dose: each named parameter times fold**response, response = dose^h / (dose^h + ec50^h).

        `effect` maps a parameter to its fold change at a saturating dose; `dose` and `ec50` share any unit. Fractions
        saturate at 1, and the four exclusive phase fractions are scaled down together where they would exceed 1.
        Raises ValueError for an unknown parameter, a fold that is not positive, or a negative dose. Source: Hill 1910.
        """
        names = [field.name for field in fields(self)]
        if unknown := sorted(set(effect) - set(names)):
            raise ValueError(f"Phenotype.shifted: unknown parameter {unknown[0]!r}; choose from {', '.join(names)}")
        if dose < 0 or ec50 <= 0 or hill <= 0:
            raise ValueError(f"Phenotype.shifted: dose {dose}, ec50 {ec50}, hill {hill}; need dose >= 0, others > 0")
        if wrong := [name for name, fold in effect.items() if fold <= 0]:
            raise ValueError(
                f"Phenotype.shifted: the fold change of {wrong[0]!r} is {effect[wrong[0]]}; it must be > 0"
            )
        response = 0.0 if dose == 0 else 1.0 / (1.0 + (ec50 / dose) ** hill)
        values = {name: getattr(self, name) * fold**response for name, fold in effect.items()}
        for name in values:
            if name.endswith("fraction") or name in ("alignment", "eccentricity"):
                values[name] = min(values[name], 1.0)
        phases = ("s_fraction", "g2_fraction", "mitotic_fraction", "pyknotic_fraction")
        total = sum(values.get(name, getattr(self, name)) for name in phases)
        if total > 1.0:
            values |= {name: values.get(name, getattr(self, name)) / total for name in phases}
        return replace(self, **values)


# Three lines of CHO cells as named by the thesis; their numbers are chosen, not measured.
CELL_LINES: Mapping[str, Phenotype] = MappingProxyType(
    {
        "CHOZN": Phenotype(density=900.0, area=150.0, eccentricity=0.6, alignment=0.1, cell_ratio=2.8, thickness=5.5),
        "PHX": Phenotype(density=650.0, area=185.0, eccentricity=0.65, alignment=0.1, droplets=35.0, er=1.4, golgi=0.7),
        "H19": Phenotype(
            density=1000.0, area=140.0, eccentricity=0.55, alignment=0.1, thickness=6.0, er=1.2, golgi=1.5, cytosol=1.6
        ),
    }
)

MODES_OF_ACTION: Mapping[str, Mapping[str, float]] = MappingProxyType(
    {
        "antimitotic": {"mitotic_fraction": 8.0, "multinucleate_fraction": 4.0, "density": 0.6, "irregularity": 1.8},
        "dna_damage": {"g2_fraction": 2.2, "area": 1.6, "density": 0.4, "pyknotic_fraction": 2.0},
        "cytotoxic": {"density": 0.15, "pyknotic_fraction": 12.0, "area": 0.75, "debris_per_dead_cell": 2.0},
        "cytostatic": {"density": 0.5, "s_fraction": 0.3, "mitotic_fraction": 0.2},
    }
)
