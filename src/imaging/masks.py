"""Draw holes: rectangles by area band and the free-form strokes of DeepFillV2; a mask is uint8 `Y X` with 1 = hole."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal

import cv2
import numpy as np
from PIL import Image, ImageDraw
from skimage.morphology import disk

Band = tuple[float, float]
Element = Literal["disk", "square"]

PAPER_BANDS: tuple[Band, ...] = ((0.1, 0.2), (0.2, 0.3), (0.3, 0.4), (0.4, 0.5))
TRIES = 200  # draws before a band is declared out of reach
# DeepFillV2's, in pixels of a 256x256 image and radians; the upper ends of STROKES and VERTICES are excluded.
STROKES, VERTICES, WIDTH, BOX, MAX_DELTA = (1, 4), (4, 12), (12, 40), (128, 128), (32, 32)
MEAN_ANGLE, ANGLE_RANGE = 2 * math.pi / 5, 2 * math.pi / 15


def in_band(mask: np.ndarray, band: Band) -> bool:
    """Tell whether the share of hole pixels of a mask `Y X` lies in [lo, hi)."""
    return bool(band[0] <= np.count_nonzero(mask) / mask.size < band[1])


def dilate(mask: np.ndarray, pixels: int, element: Element = "disk") -> np.ndarray:
    """Grow the hole of a mask `Y X` by `pixels`, with a disk or a square; holes are cut off at the image's edge."""
    if pixels < 0 or element not in ("disk", "square"):
        raise ValueError(f"dilation={pixels} with element={element!r}: use pixels >= 0 and element 'disk' or 'square'")
    mask = (np.asarray(mask) != 0).astype(np.uint8)
    kernel = disk(pixels) if element == "disk" else np.ones((2 * pixels + 1, 2 * pixels + 1))
    return np.asarray(cv2.dilate(mask, kernel.astype(np.uint8)))


def rectangle(
    rng: np.random.Generator,
    shape: tuple[int, int],
    band: Band,
    aspect: tuple[float, float] = (0.5, 2.0),
    square: bool = False,
    inset: int = 0,
) -> np.ndarray:
    """Draw one rectangle, uniformly placed, whose share of the image lies in [lo, hi) by construction.

    The share is uniform in the band, height / width log-uniform in `aspect`; both give way to the nearest sides in
    whole pixels that are in the band. `square` draws side = sqrt(U(lo, hi) * area), as the authors' code does.
    `inset` then draws each side in by so many pixels (for a later dilation). Returns uint8 `Y X`. Raises ValueError
    where no sides in whole pixels reach the band. PhIRM paper, section 3.4.
    """
    rows, columns = _check_shape(shape)
    lo, hi = _check_band(band)
    _check_aspect(aspect)
    area = rows * columns
    # The fewest and the most hole pixels in the band, corrected for the rounding of lo * area.
    fewest = next(n for n in range(max(1, int(lo * area) - 1), area + 2) if n / area >= lo)
    most = next(n for n in range(min(area, int(hi * area) + 1), -1, -1) if n / area < hi)

    heights = np.arange(1, rows + 1)
    if square:
        narrowest = widest = heights
        possible = (heights <= columns) & (heights**2 >= fewest) & (heights**2 <= most)
    else:
        narrowest, widest = -(-fewest // heights), np.minimum(columns, most // heights)
        possible = narrowest <= widest
    if not possible.any():
        raise ValueError(
            f"no {'square' if square else 'rectangle'} in whole pixels covers {lo:.4g} to {hi:.4g} of an image of "
            f"{rows}x{columns}: widen the band or use larger images{' or square=False' if square else ''}"
        )
    share = rng.uniform(lo, hi) * area
    ratio = 1.0 if square else math.exp(rng.uniform(math.log(aspect[0]), math.log(aspect[1])))
    row = int(np.argmin(np.where(possible, np.abs(heights - math.sqrt(share * ratio)), np.inf)))
    height = int(heights[row])
    width = int(np.clip(round(share / height), narrowest[row], widest[row]))
    top, left = int(rng.integers(rows - height + 1)), int(rng.integers(columns - width + 1))
    mask = np.zeros(shape, np.uint8)
    mask[top + inset : max(top + height - inset, 0), left + inset : max(left + width - inset, 0)] = 1
    return mask


def brush_strokes(
    rng: np.random.RandomState,
    shape: tuple[int, int],
    *,
    strokes: tuple[int, int] = STROKES,
    vertices: tuple[int, int] = VERTICES,
    mean_angle: float = MEAN_ANGLE,
    angle_range: float = ANGLE_RANGE,
    width: tuple[float, float] = WIDTH,
    start_grid: int = 1,
    reference: int = 256,
) -> np.ndarray:
    """Draw zigzag brush strokes, round at every vertex, as DeepFillV2 trains with.

    Each pair is a range whose upper end is excluded: number of strokes, vertices of a stroke, width in pixels. Angles
    are radians; segment lengths follow the diagonal / 8. `start_grid` puts first vertices on a grid of that many
    pixels (the PhIRM authors: 16). Widths hold for an image of `reference` pixels a side and grow with its diagonal;
    `reference` = your own side takes them as they are. Returns uint8 `Y X`. Raises ValueError for an empty range.
    Free-Form Image Inpainting with Gated Convolution (Yu 2019), algorithm 1; equal to the public code for its seed.
    """
    rows, columns = _check_shape(shape, reference)
    if not (0 < width[0] < width[1] and 0 < start_grid <= min(shape)):
        raise ValueError(
            f"width={width}, start_grid={start_grid} for an image of {rows}x{columns}: 0 < smallest width < largest "
            "and start_grid from 1 to the image's side are needed"
        )
    zoom = math.hypot(rows, columns) / math.hypot(reference, reference)
    canvas = Image.new("L", (columns, rows), 0)
    pen = ImageDraw.Draw(canvas)
    for _ in range(_randint(rng, strokes, "strokes")):
        count = _randint(rng, vertices, "vertices")
        smallest = mean_angle - rng.uniform(0, angle_range)
        angles = rng.uniform(smallest, mean_angle + rng.uniform(0, angle_range), size=count)
        angles[::2] = 2 * math.pi - angles[::2]
        points = _walk(rng, shape, angles, start_grid)
        thickness = max(1, int(rng.uniform(*width) * zoom + 1e-9))
        pen.line(points, fill=1, width=thickness)
        half = thickness // 2
        for x, y in points:
            pen.ellipse((x - half, y - half, x + half, y + half), fill=1)
    # The public code draws two flips that it then does not apply: the stream must advance as there.
    rng.normal(size=2)
    return np.array(canvas)


def _walk(rng: np.random.RandomState, shape: tuple[int, int], angles: np.ndarray, grid: int) -> list[tuple[int, int]]:
    rows, columns = shape
    radius = math.hypot(rows, columns) / 8
    points = [(rng.randint(0, columns // grid) * grid, rng.randint(0, rows // grid) * grid)]
    for angle in angles:
        length = np.clip(rng.normal(radius, radius // 2), 0, 2 * radius)
        x = np.clip(points[-1][0] + length * math.cos(angle), 0, columns)
        y = np.clip(points[-1][1] + length * math.sin(angle), 0, rows)
        points.append((int(x), int(y)))
    return points


def bounding_box(
    rng: np.random.RandomState,
    shape: tuple[int, int],
    *,
    box: tuple[int, int] = BOX,
    max_delta: tuple[int, int] = MAX_DELTA,
    reference: int = 256,
) -> np.ndarray:
    """Draw the rectangle that DeepFillV2 adds to its strokes: `box` (Y X), each side drawn in by up to max_delta / 2.

    Pixels hold for an image of `reference` pixels a side and grow with height and width; returns uint8 `Y X`. Raises
    ValueError where the box does not fit. Yu 2019 and its public training options (128 and 32 at 256).
    """
    _check_shape(shape, reference)
    zoom = (shape[0] / reference, shape[1] / reference)
    height, width = round(box[0] * zoom[0]), round(box[1] * zoom[1])
    dy, dx = int(max_delta[0] * zoom[0]), int(max_delta[1] * zoom[1])
    if not (dy // 2 * 2 < height < shape[0] and dx // 2 * 2 < width < shape[1] and min(dy, dx) >= 0):
        raise ValueError(
            f"box of {height}x{width} drawn in by {dy}x{dx} in an image of {shape[0]}x{shape[1]}: it must be smaller "
            "than the image and larger than max_delta; change box, max_delta or reference"
        )
    top, left = rng.randint(0, shape[0] - height), rng.randint(0, shape[1] - width)
    y, x = rng.randint(dy // 2 + 1), rng.randint(dx // 2 + 1)
    mask = np.zeros(shape, np.uint8)
    mask[top + y : top + height - y, left + x : left + width - x] = 1
    return mask


def free_form(
    rng: np.random.RandomState,
    shape: tuple[int, int],
    *,
    box: tuple[int, int] | None = BOX,
    max_delta: tuple[int, int] = MAX_DELTA,
    reference: int = 256,
    **brush: Any,
) -> np.ndarray:
    """Draw DeepFillV2's training mask, the union of `bounding_box` and `brush_strokes` (box=None: strokes only).

    `brush` takes the other options of `brush_strokes`. Returns uint8 `Y X`. Yu 2019, section 3.
    """
    mask = np.zeros(shape, np.uint8)
    if box is not None:
        mask = bounding_box(rng, shape, box=box, max_delta=max_delta, reference=reference)
    return mask | brush_strokes(rng, shape, reference=reference, **brush)


class Rectangles:
    """Rectangles of section 3.4 of the PhIRM paper; a dilated one keeps its area in the band, dilation included."""

    def __init__(
        self,
        bands: Sequence[Sequence[float]] = PAPER_BANDS,
        aspect: Sequence[float] = (0.5, 2.0),
        square: bool = False,
        dilation: int = 0,
        element: Element = "disk",
    ) -> None:
        self.bands = tuple(_check_band(band) for band in bands)
        if not self.bands:
            raise ValueError("Rectangles needs at least one band of area, e.g. bands=[[0.2, 0.3]]")
        self.aspect, self.square, self.dilation, self.element = _check_aspect(aspect), square, dilation, element
        dilate(np.zeros((1, 1)), dilation, element)  # refuses a bad dilation now

    def draw(self, rng: np.random.Generator, shape: tuple[int, int], band: Band | None = None) -> np.ndarray:
        """Draw a mask uint8 `Y X` in `band`, or in one of the bands where it is None; ValueError if out of reach."""
        band = band or self.bands[rng.integers(len(self.bands))]
        for _ in range(TRIES):
            # Drawn in first and dilated then, the rectangle loses no more than what a disk rounds off its corners.
            mask = rectangle(rng, shape, band, self.aspect, self.square, inset=self.dilation)
            mask = dilate(mask, self.dilation, self.element)
            if in_band(mask, band):
                return mask
        raise ValueError(_unreachable(band, shape, f"dilation={self.dilation}", "lower the dilation or widen the band"))


class FreeForm:
    """Free-form masks of DeepFillV2, with the options of `free_form` and `brush_strokes`.

    Without a band a mask is what DeepFillV2 draws. In a band it is strokes only (the box alone covers 15 to 24 %),
    added until their union, dilated where asked, is in the band: `strokes`, `box` and `max_delta` are not used.
    """

    def __init__(
        self,
        bands: Sequence[Sequence[float]] | None = None,
        dilation: int = 0,
        element: Element = "disk",
        strokes: tuple[int, int] = STROKES,
        vertices: tuple[int, int] = VERTICES,
        mean_angle: float = MEAN_ANGLE,
        angle_range: float = ANGLE_RANGE,
        width: tuple[float, float] = WIDTH,
        start_grid: int = 1,
        box: tuple[int, int] | None = BOX,
        max_delta: tuple[int, int] = MAX_DELTA,
        reference: int = 256,
    ) -> None:
        self.bands = tuple(_check_band(band) for band in bands or ())
        self.dilation, self.element, self.width = dilation, element, width
        self.brush: dict[str, Any] = {"vertices": vertices, "mean_angle": mean_angle, "angle_range": angle_range}
        self.brush |= {"start_grid": start_grid, "reference": reference}
        self.whole = {**self.brush, "strokes": strokes, "width": width, "box": box, "max_delta": max_delta}
        # A trial draw: an impossible option fails here, not in the first batch.
        side = max(reference, 64)
        dilate(free_form(np.random.RandomState(0), (side, side), **self.whole), dilation, element)

    def draw(self, rng: np.random.Generator, shape: tuple[int, int], band: Band | None = None) -> np.ndarray:
        """Draw a mask uint8 `Y X` in `band`, or in one of the bands where it is None; ValueError if out of reach."""
        legacy = np.random.RandomState(rng.bit_generator)
        if band is None and not self.bands:
            return dilate(free_form(legacy, shape, **self.whole), self.dilation, self.element)
        return self._in_band(legacy, shape, _check_band(band or self.bands[rng.integers(len(self.bands))]))

    def _in_band(self, rng: np.random.RandomState, shape: tuple[int, int], band: Band) -> np.ndarray:
        union, thinner = np.zeros(shape, np.uint8), 1.0
        for _ in range(TRIES):
            width = (self.width[0] * thinner, self.width[1] * thinner)
            trial = union | brush_strokes(rng, shape, strokes=(1, 2), width=width, **self.brush)
            mask = dilate(trial, self.dilation, self.element)
            if in_band(mask, band):
                return mask
            if np.count_nonzero(mask) / mask.size < band[0]:
                union, thinner = trial, 1.0
            else:
                thinner *= 0.8  # this stroke is drawn again, thinner
        what = f"strokes after {TRIES} tries"
        raise ValueError(_unreachable(band, shape, what, "widen the band or use shorter strokes"))


def _randint(rng: np.random.RandomState, bounds: tuple[int, int], name: str) -> int:
    if not 0 < bounds[0] < bounds[1]:
        raise ValueError(f"{name}={bounds}: a range 0 < lowest < end (excluded) is needed")
    return int(rng.randint(bounds[0], bounds[1]))


def _check_shape(shape: tuple[int, int], reference: int = 1) -> tuple[int, int]:
    if len(shape) != 2 or min(shape) < 8:
        raise ValueError(f"a mask of shape {tuple(shape)}: two sides (Y X) of at least 8 pixels are needed")
    if reference < 1:
        raise ValueError(f"reference={reference}: the image side for which the pixels hold is needed, 1 or more")
    return int(shape[0]), int(shape[1])


def _check_aspect(aspect: Sequence[float]) -> tuple[float, float]:
    if len(aspect) != 2 or not 0 < aspect[0] <= aspect[1]:
        raise ValueError(f"aspect={tuple(aspect)}: two numbers 0 < smallest <= largest (height / width) are needed")
    return float(aspect[0]), float(aspect[1])


def _check_band(band: Sequence[float]) -> Band:
    if len(band) != 2 or not 0 <= band[0] < band[1] <= 1:
        raise ValueError(f"area band {tuple(band)}: two fractions 0 <= lo < hi <= 1 are needed, e.g. [0.2, 0.3]")
    return float(band[0]), float(band[1])


def _unreachable(band: Band, shape: tuple[int, int], what: str, mend: str) -> str:
    return f"no mask of {band[0]:.4g} to {band[1]:.4g} of an image of {shape[0]}x{shape[1]} with {what}: {mend}"
