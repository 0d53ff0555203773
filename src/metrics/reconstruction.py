"""PhIRM, the phenotype-preserving image reconstruction metric: does a restored image keep its nuclei?"""

from dataclasses import dataclass, replace
from typing import Any, Literal, NamedTuple

import cv2
import numpy as np
import torch
from torch import Tensor

from ..imaging.segment import otsu
from .arrays import as_batch, pixel_areas, same_shape
from .base import ImageMetric

SATURATED = 255


@dataclass(frozen=True)
class PhIRMOptions:
    """Every reading of Algorithm 1 and of Eq. 1 to 4 that the paper leaves open; the defaults are the authors' code.

    Areas are in pixels, intensities on the scale 0 to 255.
    """

    otsu_factor: float = 1.1  # step 1: foreground is brighter than this multiple of Otsu's threshold
    shared_threshold: bool = False  # the target's threshold serves the prediction too: an artefact cannot move it
    connectivity: Literal[4, 8] = 8
    min_area: float = 50.0  # step 3
    keep_min_area: bool = False  # whether a component of exactly min_area stays
    statistics: Literal["box", "component"] = "box"  # step 4: pixels of the bounding box, or of the component alone
    bleach_below: int = 30  # in a box holding a 255 darker pixels become 255, for later boxes as well; 0 = never
    artefact_mean: float = 210.0  # step 5
    overlapping: Literal["never", "area", "area_or_saturated"] = "never"  # step 6: which nuclei count as two
    overlap_area: float = 2200.0  # a nucleus of at least this area is two
    formula: Literal["code", "paper"] = "code"  # lost nuclei, Eq. 1: a * w^a, or w^a
    count_weight: float = 1.1
    area_weight: float = 0.0002
    artefact_weight: float = 0.001
    signed: bool = False  # Eq. 2 and 3 as target - prediction, so that added area raises the score
    floor: float | None = 0.0  # lowest score; None leaves Eq. 4 unbounded below
    rescale: Literal["none", "target"] = "none"  # stretch both images by the target's minimum and maximum
    # Micrometres per pixel for which the areas above hold; None: they hold for any image. The paper's 256-pixel
    # patches are enlarged 180-pixel crops: for raw pixels of 0.65 um this is 0.65 * 180 / 256 = 0.457.
    reference_pixel_size: float | None = None

    def __post_init__(self) -> None:
        for name, allowed in {
            "connectivity": (4, 8),
            "statistics": ("box", "component"),
            "overlapping": ("never", "area", "area_or_saturated"),
            "formula": ("code", "paper"),
            "rescale": ("none", "target"),
        }.items():
            if getattr(self, name) not in allowed:
                raise ValueError(f"PhIRM option {name}={getattr(self, name)!r}: choose from {allowed}")

    def scaled(self, pixel_area: float) -> "PhIRMOptions":
        """Give the same limits and weights for pixels of this area in square micrometres."""
        ratio = (self.reference_pixel_size or 0.0) ** 2 / pixel_area
        return replace(
            self,
            min_area=self.min_area * ratio,
            overlap_area=self.overlap_area * ratio,
            area_weight=self.area_weight / ratio,
            artefact_weight=self.artefact_weight / ratio,
        )


PRESETS = {
    "original": PhIRMOptions(),
    # As printed: plain Otsu, "less than 50" leaves 50 in, the component's own pixels, two overlapping nuclei from 2200
    # px on, 1.1^a. Read sensibly: decimals for "1.1", absolute differences (signed ones reward invented area), a score
    # that stays in [0, 1], and a small nucleus with one saturated pixel stays one nucleus (after a min-max stretch
    # every image has such a pixel).
    "paper": PhIRMOptions(
        otsu_factor=1.0, keep_min_area=True, statistics="component", bleach_below=0, overlapping="area", formula="paper"
    ),
}


class Factors(NamedTuple):
    """What Algorithm 1 finds in one image: Otsu's threshold (without factor), counts, and areas in pixels."""

    threshold: float
    nuclei: int
    nuclei_area: int
    artefacts: int
    artefact_area: int


def options_of(preset: str = "original", **options: Any) -> PhIRMOptions:
    """Give a preset's options with some of them changed; raises ValueError for an unknown preset or option."""
    if preset not in PRESETS:
        raise ValueError(f"no PhIRM preset {preset!r}: choose from {tuple(PRESETS)}")
    unknown = set(options) - set(PhIRMOptions.__dataclass_fields__)
    if unknown:
        raise ValueError(f"no PhIRM option {sorted(unknown)}: there are {sorted(PhIRMOptions.__dataclass_fields__)}")
    return replace(PRESETS[preset], **options)


def factors(image: np.ndarray, options: PhIRMOptions, threshold: float | None = None) -> Factors:
    """Find and sort the components of one image Y X, uint8 (Algorithm 1); `threshold` replaces its own Otsu's.

    A constant image has no pixel above its Otsu threshold times a factor of 1 or more, hence no component.
    """
    level = otsu(image) if threshold is None else threshold
    _, foreground = cv2.threshold(image, level * options.otsu_factor, 1, cv2.THRESH_BINARY)
    labels, table = _components(foreground, options.connectivity)
    areas = table[:, cv2.CC_STAT_AREA]
    kept = areas >= options.min_area if options.keep_min_area else areas > options.min_area
    kept[0] = False
    saturated, artefact = _judge(image, labels, table, kept, options)
    nucleus = kept & ~artefact
    double = nucleus & (areas >= options.overlap_area) if options.overlapping != "never" else np.zeros_like(kept)
    if options.overlapping == "area_or_saturated":
        double |= nucleus & saturated
    return Factors(
        float(level),
        int(nucleus.sum() + double.sum()),
        int(areas[nucleus].sum()),
        int(artefact.sum()),
        int(areas[artefact].sum()),
    )


def _components(foreground: np.ndarray, connectivity: int) -> tuple[np.ndarray, np.ndarray]:
    height, width = foreground.shape
    most = (height + 1) // 2 * ((width + 1) // 2) if connectivity == 8 else (height * width + 1) // 2
    depth = cv2.CV_16U if most < 2**16 - 1 else cv2.CV_32S  # 16 bits take a third of the time, where labels fit
    return cv2.connectedComponentsWithStats(foreground, connectivity=connectivity, ltype=depth)[1:3]


def _judge(
    image: np.ndarray, labels: np.ndarray, table: np.ndarray, kept: np.ndarray, options: PhIRMOptions
) -> tuple[np.ndarray, np.ndarray]:
    """Tell which of the kept components hold a 255 and which are artefacts (steps 4 and 5), in raster order.

    The order matters: bleaching a box changes what the boxes that overlap it see afterwards.
    """
    saturated, artefact = np.zeros_like(kept), np.zeros_like(kept)
    if image.max() < SATURATED:
        return saturated, artefact
    in_boxes = options.statistics == "box"
    image = image.copy() if options.bleach_below else image
    for index in np.flatnonzero(kept):
        x, y, width, height = table[index, :4].tolist()
        box = image[y : y + height, x : x + width]
        pixels = box if in_boxes else box[labels[y : y + height, x : x + width] == index]
        if pixels.max() < SATURATED:
            continue
        saturated[index] = True
        if in_boxes and options.bleach_below:
            box[box < options.bleach_below] = SATURATED
        artefact[index] = pixels.mean() >= options.artefact_mean
    return saturated, artefact


def phirm(
    prediction: Any,
    target: Any,
    preset: Literal["original", "paper"] = "original",
    *,
    pixel_size: Any = None,
    channel: int = 0,
    **options: Any,
) -> dict[str, Tensor]:
    """Score how far a prediction keeps the count and area of the target's nuclei and adds no artefact.

    Y X, B Y X or B C Y X (one channel is read); tensors or arrays; uint8, or floats in [0, 1] (x255, rounded; a
    prediction beyond is clipped). `options` are fields of PhIRMOptions; `pixel_size` (micrometres: a number, Y X or
    B 2) is used when `reference_pixel_size` is set. Each result has shape B: phirm in [0, 1] (Eq. 4), the penalties
    count_difference, area_difference, artefact_difference (Eq. 1 to 3), and the counts nuclei_prediction,
    nuclei_target. Raises ValueError for shapes that differ, other ranges, or an unknown option. It is blind to
    invention that balances: a mirrored image scores 1. Source: Sharma and Yakimovich, "Phenotype-preserving metric
    design for high-content image reconstruction by generative inpainting", section 3.7.
    """
    chosen = options_of(preset, **options)
    predictions, targets = as_batch(prediction, "prediction", channel), as_batch(target, "target", channel)
    same_shape(prediction=predictions, target=targets)
    areas = None
    if chosen.reference_pixel_size is not None:
        if pixel_size is None:
            raise ValueError("reference_pixel_size is set: pixel_size must be given too (micrometres per pixel)")
        areas = pixel_areas(pixel_size, len(targets))
    rows = []
    for index, (image, truth) in enumerate(zip(predictions, targets, strict=True)):
        here = chosen if areas is None else chosen.scaled(areas[index])
        image, truth = _eight_bit(image, truth, here.rescale)
        found_truth = factors(truth, here)
        found = factors(image, here, found_truth.threshold if here.shared_threshold else None)
        rows.append(_score(found, found_truth, here))
    columns = np.array(rows, dtype=np.float64).reshape(len(rows), len(PhIRM.names)).T
    return {name: torch.from_numpy(column.copy()) for name, column in zip(PhIRM.names, columns, strict=True)}


def _score(found: Factors, truth: Factors, options: PhIRMOptions) -> tuple[float, ...]:
    lost = truth.nuclei - found.nuclei
    with np.errstate(over="ignore"):
        if lost > 0:
            count = float(np.power(options.count_weight, lost)) * (lost if options.formula == "code" else 1)
        else:
            count = float(np.power(2.0, -lost)) if lost < 0 else 0.0
    area, artefact = truth.nuclei_area - found.nuclei_area, truth.artefact_area - found.artefact_area
    if not options.signed:
        area, artefact = abs(area), abs(artefact)
    area_penalty, artefact_penalty = area * options.area_weight, artefact * options.artefact_weight
    score = (10 - (count + area_penalty + artefact_penalty)) / 10
    if options.floor is not None:
        score = min(max(score, options.floor), 1.0)
    return score, count, area_penalty, artefact_penalty, found.nuclei, truth.nuclei


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
    """PhIRM and its components, averaged over images (see `phirm`)."""

    names = (
        "phirm",
        "count_difference",
        "area_difference",
        "artefact_difference",
        "nuclei_prediction",
        "nuclei_target",
    )
    higher_is_better = True

    def __init__(self, preset: Literal["original", "paper"] = "original", channel: int = 0, **options: Any) -> None:
        super().__init__()
        options_of(preset, **options)  # a misspelt option fails here, not after the first epoch
        self.preset, self.channel, self.options = preset, channel, options

    def measure(  # type: ignore[override]
        self, prediction: Any, target: Any, pixel_size: Any = None
    ) -> dict[str, Tensor]:
        return phirm(prediction, target, self.preset, pixel_size=pixel_size, channel=self.channel, **self.options)
