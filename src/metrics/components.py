"""Algorithm 1 of PhIRM: the nuclei and the artefacts of one image."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal, NamedTuple

import cv2
import numpy as np

from ..imaging.segment import otsu

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
    signed: bool = False  # Eq. 2 and 3 as target - prediction, so that added area raises the score
    floor: float | None = 0.0  # lowest score; None leaves Eq. 4 unbounded below
    rescale: Literal["none", "target"] = "none"  # stretch both images by the target's minimum and maximum
    # Micrometres per pixel for which the areas above and the terms' areas hold; None: they hold for any image. The
    # paper's 256-pixel patches are enlarged 180-pixel crops: for raw pixels of 0.65 um this is 0.65 * 180 / 256.
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


PRESETS: Mapping[str, PhIRMOptions] = {
    "original": PhIRMOptions(),
    # As printed: plain Otsu, "less than 50" leaves 50 in, the component's own pixels, two overlapping nuclei from 2200
    # px on, 1.1^a. Read sensibly: decimals for "1.1", absolute differences (signed ones reward invented area), a score
    # that stays in [0, 1], and a small nucleus with one saturated pixel stays one nucleus (after a min-max stretch
    # every image has such a pixel).
    "paper": PhIRMOptions(
        otsu_factor=1.0, keep_min_area=True, statistics="component", bleach_below=0, overlapping="area", formula="paper"
    ),
}


def options_of(preset: str = "original", **options: Any) -> PhIRMOptions:
    """Give a preset's options with some of them changed; raises ValueError for an unknown preset or option."""
    if preset not in PRESETS:
        raise ValueError(f"no PhIRM preset {preset!r}: choose from {tuple(PRESETS)}")
    unknown = set(options) - set(PhIRMOptions.__dataclass_fields__)
    if unknown:
        raise ValueError(
            f"no PhIRM option {sorted(unknown)}: there are {sorted(PhIRMOptions.__dataclass_fields__)}; "
            "weights belong to the terms"
        )
    return replace(PRESETS[preset], **options)


class Components(NamedTuple):
    """What Algorithm 1 finds in one image Y X, uint8; areas in pixels.

    `labels` (Y X) numbers all components, 0 = background; `nucleus` says of each number whether it is a nucleus.
    `pixel_ratio` is how many of the image's pixels make one pixel of the reference size.
    """

    threshold: float  # Otsu's, without its factor
    nuclei: int
    nuclei_area: int
    artefacts: int
    artefact_area: int
    image: np.ndarray
    labels: np.ndarray
    nucleus: np.ndarray
    pixel_ratio: float = 1.0


def components(
    image: np.ndarray, options: PhIRMOptions, threshold: float | None = None, pixel_ratio: float = 1.0
) -> Components:
    """Find and sort the components of one image Y X, uint8 (Algorithm 1); `threshold` replaces its own Otsu's.

    A constant image has no pixel above its Otsu threshold times a factor of 1 or more, hence no component.
    """
    level = otsu(image) if threshold is None else threshold
    _, foreground = cv2.threshold(image, level * options.otsu_factor, 1, cv2.THRESH_BINARY)
    labels, table = _connected(foreground, options.connectivity)
    areas = table[:, cv2.CC_STAT_AREA]
    least = options.min_area * pixel_ratio
    kept = areas >= least if options.keep_min_area else areas > least
    kept[0] = False
    saturated, artefact = _judge(image, labels, table, kept, options)
    nucleus = kept & ~artefact
    two = nucleus & (areas >= options.overlap_area * pixel_ratio)
    double = two if options.overlapping != "never" else np.zeros_like(kept)
    if options.overlapping == "area_or_saturated":
        double |= nucleus & saturated
    return Components(
        float(level),
        int(nucleus.sum() + double.sum()),
        int(areas[nucleus].sum()),
        int(artefact.sum()),
        int(areas[artefact].sum()),
        image,
        labels,
        nucleus,
        pixel_ratio,
    )


def _connected(foreground: np.ndarray, connectivity: int) -> tuple[np.ndarray, np.ndarray]:
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
