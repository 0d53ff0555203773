"""PhIRM, the phenotype-preserving image reconstruction metric: does a restored image keep its nuclei?"""

from collections.abc import Mapping
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from .arrays import as_batch, pixel_areas, same_shape
from .base import ImageMetric
from .components import Components, PhIRMOptions, components, options_of
from .terms import Term, chosen_terms


def phirm(
    prediction: Any,
    target: Any,
    preset: Literal["original", "paper"] = "original",
    *,
    terms: Mapping[str, Term | None] | None = None,
    pixel_size: Any = None,
    channel: int = 0,
    **options: Any,
) -> dict[str, Tensor]:
    """Score how far a prediction keeps the count and area of the target's nuclei and adds no artefact.

    Y X, B Y X or B C Y X (one channel is read); tensors or arrays; uint8, or floats in [0, 1] (x255, rounded; a
    prediction beyond is clipped). `terms` are what is summed, by name; None: the paper's three. `options` are fields of
    PhIRMOptions; `pixel_size` (micrometres: a number, Y X or B 2) is used when `reference_pixel_size` is set. Each
    result has shape B: phirm in [0, 1] (Eq. 4), the penalties count_difference, area_difference, artefact_difference
    (Eq. 1 to 3) or those of the terms given, and the counts nuclei_prediction, nuclei_target. Raises ValueError for
    shapes that differ, other ranges, or an unknown option. It is blind to invention that balances: a mirrored image
    scores 1. Source: Sharma and Yakimovich, "Phenotype-preserving metric design for high-content image reconstruction
    by generative inpainting", section 3.7.
    """
    chosen, summed = options_of(preset, **options), chosen_terms(terms)
    predictions, targets = as_batch(prediction, "prediction", channel), as_batch(target, "target", channel)
    same_shape(prediction=predictions, target=targets)
    ratios = np.ones(len(targets))
    if chosen.reference_pixel_size is not None:
        if pixel_size is None:
            raise ValueError("reference_pixel_size is set: pixel_size must be given too (micrometres per pixel)")
        ratios = chosen.reference_pixel_size**2 / pixel_areas(pixel_size, len(targets))
    rows = []
    for image, truth, ratio in zip(predictions, targets, ratios.tolist(), strict=True):
        image, truth = _eight_bit(image, truth, chosen.rescale)
        there = components(truth, chosen, pixel_ratio=ratio)
        here = components(image, chosen, there.threshold if chosen.shared_threshold else None, ratio)
        rows.append(_score(here, there, chosen, summed))
    names = _names(summed)
    columns = np.array(rows, dtype=np.float64).reshape(len(rows), len(names)).T
    return {name: torch.from_numpy(column.copy()) for name, column in zip(names, columns, strict=True)}


def _names(terms: Mapping[str, Term]) -> tuple[str, ...]:
    return ("phirm", *terms, "nuclei_prediction", "nuclei_target")


def _score(here: Components, there: Components, options: PhIRMOptions, terms: Mapping[str, Term]) -> tuple[float, ...]:
    """Sum the penalties and give the score (Eq. 4), in the order of `_names`."""
    penalties = [term.penalty(term.measure(here), term.measure(there), options) for term in terms.values()]
    score = (10 - sum(penalties)) / 10
    if options.floor is not None:
        score = min(max(score, options.floor), 1.0)
    return score, *penalties, here.nuclei, there.nuclei


def _eight_bit(prediction: np.ndarray, target: np.ndarray, rescale: str) -> tuple[np.ndarray, np.ndarray]:
    """Bring both images to uint8, after an optional stretch by the target's own range."""
    if prediction.dtype == target.dtype == np.uint8 and rescale == "none":
        return np.ascontiguousarray(prediction), np.ascontiguousarray(target)
    images = []
    for name, image in (("prediction", prediction), ("target", target)):
        if image.dtype != np.uint8 and image.dtype.kind != "f":
            raise ValueError(f"{name} is {image.dtype}: give uint8, or floats in [0, 1]")
        images.append(image / np.float64(255) if image.dtype == np.uint8 else image.astype(np.float64))
    low, high = images[1].min(), images[1].max()
    if low < -1e-3 or high > 1 + 1e-3:
        raise ValueError(f"target spans {low:.3g} to {high:.3g}: floats must be in [0, 1]")
    if rescale == "target" and high > low:  # a constant target has no range to stretch
        images = [(image - low) / (high - low) for image in images]
    scaled = [np.rint(np.clip(image, 0, 1) * 255).astype(np.uint8) for image in images]
    return scaled[0], scaled[1]


class PhIRM(ImageMetric):
    """PhIRM and its components, averaged over images (see `phirm`); `names` follow its terms."""

    names = _names(chosen_terms(None))
    higher_is_better = True

    def __init__(
        self,
        preset: Literal["original", "paper"] = "original",
        channel: int = 0,
        terms: Mapping[str, Term | None] | None = None,
        **options: Any,
    ) -> None:
        options_of(preset, **options)  # a misspelt option fails here, not after the first epoch
        summed = chosen_terms(terms)
        self.names = _names(summed)  # the states made by super are as long as this
        super().__init__()
        self.preset, self.channel, self.terms, self.options = preset, channel, summed, options

    def measure(  # type: ignore[override]
        self, prediction: Any, target: Any, pixel_size: Any = None
    ) -> dict[str, Tensor]:
        return phirm(
            prediction,
            target,
            self.preset,
            terms=self.terms,
            pixel_size=pixel_size,
            channel=self.channel,
            **self.options,
        )
