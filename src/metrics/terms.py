"""The terms of PhIRM's sum: a phenotype each, with its factor in an image and the penalty where it changed."""

from collections.abc import Mapping
from typing import Any, Literal

import numpy as np
from scipy.stats import wasserstein_distance

from .components import Components, PhIRMOptions


class Term:
    """One phenotype: `measure` gives its factor in an image, `penalty` what a change of the factor costs.

    A new phenotype is a subclass that defines `measure` (and `penalty`, where weight x absolute difference will not do)
    and is named under `terms` in the config. A penalty of 10 takes the whole score. Raises ValueError for a weight that
    is negative or not finite.
    """

    def __init__(self, weight: float) -> None:
        if not (np.isfinite(weight) and weight >= 0):
            raise ValueError(f"{type(self).__name__}: weight is {weight}; give 0 or more")
        self.weight = weight

    def measure(self, found: Components) -> Any:
        """Give the factor of one image: a number, or what `penalty` compares."""
        raise NotImplementedError(f"{type(self).__name__} must define measure")

    def penalty(self, prediction: Any, target: Any, options: PhIRMOptions) -> float:
        """Give weight x |target - prediction|; without the absolute value where `options.signed`."""
        change = target - prediction
        return self.weight * float(change if options.signed else abs(change))


class CountDifference(Term):
    """Number of nuclei (Eq. 1): a lost nuclei cost a x weight^a, by the paper's formula weight^a; a invented 2^a."""

    def __init__(self, weight: float = 1.1) -> None:
        super().__init__(weight)

    def measure(self, found: Components) -> int:
        return found.nuclei

    def penalty(self, prediction: int, target: int, options: PhIRMOptions) -> float:
        lost = target - prediction
        with np.errstate(over="ignore"):
            if lost > 0:
                return float(np.power(float(self.weight), lost)) * (lost if options.formula == "code" else 1)
            return float(np.power(2.0, -lost)) if lost < 0 else 0.0


class AreaDifference(Term):
    """Total area of the nuclei (Eq. 2), in pixels of the reference size."""

    def __init__(self, weight: float = 0.0002) -> None:
        super().__init__(weight)

    def measure(self, found: Components) -> float:
        return found.nuclei_area / found.pixel_ratio


class ArtefactDifference(Term):
    """Total area of the artefacts (Eq. 3), in pixels of the reference size."""

    def __init__(self, weight: float = 0.001) -> None:
        super().__init__(weight)

    def measure(self, found: Components) -> float:
        return found.artefact_area / found.pixel_ratio


class IntegratedIntensity(Term):
    """Integrated intensity of the nuclei above the background, the paper's example for the cell cycle (section 5).

    Background: the image's median outside all components (0 where there is no outside). `of="total"`: the sums of the
    two images, |target - prediction| over the larger one. `of="nuclei"`: their distributions over nuclei, as a
    Wasserstein distance in units of the target's median nucleus, at most 1: it sees G1 nuclei turn into G2 nuclei where
    the total stays. Either lies in [0, 1], so that the default weight of 10 takes a tenth of the score for a tenth of
    the intensity. Where neither image has nuclei it is 0, where only one has, 1.

    Nuclei are Algorithm 1's components: touching ones are one, of twice the intensity. Images that are stretched one by
    one must share the stretch (`rescale="target"` does); what that clips is lost to the sum.
    """

    def __init__(self, weight: float = 10.0, of: Literal["total", "nuclei"] = "total") -> None:
        super().__init__(weight)
        if of not in ("total", "nuclei"):
            raise ValueError(f"IntegratedIntensity: of is {of!r}; choose 'total' or 'nuclei'")
        self.of = of

    def measure(self, found: Components) -> np.ndarray:
        labels = found.labels.ravel()
        outside = found.image[found.labels == 0]
        background = float(np.median(outside)) if outside.size else 0.0
        sums = np.bincount(labels, found.image.ravel(), minlength=len(found.nucleus))
        areas = np.bincount(labels, minlength=len(found.nucleus))
        return (sums - background * areas)[found.nucleus]

    def penalty(self, prediction: np.ndarray, target: np.ndarray, options: PhIRMOptions) -> float:
        if not (len(prediction) and len(target)):
            return self.weight * float(len(prediction) != len(target))
        if self.of == "total":
            here, there = float(prediction.sum()), float(target.sum())
            return self.weight * abs(there - here) / max(here, there)
        return self.weight * min(1.0, float(wasserstein_distance(prediction, target) / np.median(target)))


def chosen_terms(terms: Mapping[str, Term | None] | None) -> dict[str, Term]:
    """Give the terms of the sum by name: the paper's three, or those given that are not None.

    Raises ValueError where none is left, where one is no Term, or where a name is that of another result.
    """
    if terms is None:
        terms = {
            "count_difference": CountDifference(),
            "area_difference": AreaDifference(),
            "artefact_difference": ArtefactDifference(),
        }
    chosen = {name: term for name, term in terms.items() if term is not None}
    if not chosen:
        raise ValueError("PhIRM has no term left: name at least one, or leave terms out for the paper's three")
    if taken := {"phirm", "nuclei_prediction", "nuclei_target"} & set(chosen):
        raise ValueError(f"PhIRM cannot name a term {sorted(taken)[0]!r}: another result has this name")
    if strange := [name for name, term in chosen.items() if not isinstance(term, Term)]:
        raise ValueError(f"PhIRM's term {strange[0]!r} is a {type(chosen[strange[0]]).__name__}, not a Term")
    return chosen
