"""Cut a field into patches (the zoom patch generator of the PhIRM paper), normalise them and drop the blank ones."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

LARGEST = 8192  # pixels a side of a patch: what no network takes is found before it is made


@dataclass(frozen=True)
class Zoom:
    """Crops of `crop` pixels every `stride` pixels, each resized to `size` pixels a side.

    A pixel of a patch is `scale` pixels of the field wide: multiply pixel_size by it. Raises ValueError for sizes
    that leave gaps. PhIRM paper, section 3.5; configs/data/zoom holds its two readings.
    """

    crop: int = 180
    stride: int = 180
    size: int = 256
    drop_partial: bool = False

    def __post_init__(self) -> None:
        if min(self.crop, self.stride, self.size) < 1 or self.stride > self.crop:
            raise ValueError(
                f"crop={self.crop}, stride={self.stride}, size={self.size}: all must be positive and stride at most "
                "crop, or strips of the field lie in no patch"
            )
        if max(self.crop, self.size) > LARGEST:
            raise ValueError(
                f"crop={self.crop}, size={self.size}: a patch has at most {LARGEST} pixels a side; lower it"
            )

    @property
    def scale(self) -> float:
        """Width of a patch pixel in pixels of the field."""
        return self.crop / self.size

    def windows(self, shape: tuple[int, int]) -> list[tuple[int, int]]:
        """List the upper left corners (y, x) of all crops of a field `Y X`, left to right, then top to bottom.

        Where the sides are no multiple of the stride, the last crop is shifted inwards to end at the border, or left
        out with `drop_partial`. Raises ValueError for a field smaller than a crop.
        """
        if min(shape) < self.crop:
            raise ValueError(
                f"a field of {shape[0]}x{shape[1]} pixels is smaller than a crop of {self.crop}x{self.crop}: "
                f"set crop and stride to at most {min(shape)}"
            )
        rows, columns = (self._starts(side) for side in shape)
        return [(y, x) for y in rows for x in columns]

    def _starts(self, side: int) -> list[int]:
        starts = list(range(0, side - self.crop + 1, self.stride))
        if starts[-1] + self.crop < side and not self.drop_partial:
            starts.append(side - self.crop)
        return starts

    def cut(self, image: np.ndarray, y: int, x: int, labels: bool = False) -> np.ndarray:
        """Cut the crop at (y, x) out of a field `Y X` or `C Y X` and resize it to `size`.

        Intensities keep their units and become float32 (bilinear when enlarging, area means when reducing); `labels`
        takes the nearest pixel and keeps the type. Raises ValueError where the crop leaves the field.
        """
        height, width = image.shape[-2:]
        if not (0 <= y <= height - self.crop and 0 <= x <= width - self.crop):
            raise ValueError(
                f"a crop of {self.crop} pixels at ({y}, {x}) leaves the field of {height}x{width}: use windows(shape)"
            )
        crop = image[..., y : y + self.crop, x : x + self.crop]
        if labels:
            nearest = ((np.arange(self.size) + 0.5) * self.scale).astype(int)
            return np.asarray(crop[..., nearest[:, None], nearest])
        crop = crop.astype(np.float32)
        if self.crop == self.size:
            return np.asarray(crop)
        method = cv2.INTER_AREA if self.crop > self.size else cv2.INTER_LINEAR
        planes = [
            cv2.resize(c, (self.size, self.size), interpolation=method) for c in crop.reshape(-1, *crop.shape[-2:])
        ]
        return np.stack(planes).reshape(*image.shape[:-2], self.size, self.size)


# paper: the wording of section 3.5. original: the authors' code, 144 patches of a field of 2160x2160 pixels; it
# enlarges by 1.5 and then resizes to 256, which on BBBC039 differs from one step by 0.7 of 255 grey levels on average.
PRESETS = {"paper": Zoom(crop=256, stride=256), "original": Zoom(crop=180, stride=180)}


def normalise_patch(patch: np.ndarray) -> np.ndarray:
    """Scale a patch `Y X` by its own minimum and maximum to uint8 0..255; ValueError if it is constant or not finite.

    PhIRM paper, section 3.5.
    """
    low, high = float(np.min(patch)), float(np.max(patch))
    if not (np.isfinite(low) and np.isfinite(high)) or low == high:
        raise ValueError(
            f"a patch of shape {patch.shape} with minimum {low} and maximum {high} cannot be normalised: "
            "drop constant patches (is_blank) and NaN or infinite pixels before"
        )
    return np.rint((patch.astype(np.float64) - low) * (255 / (high - low))).astype(np.uint8)


def is_blank(
    patch: np.ndarray,
    contrast: float = 3.0,
    min_area: int = 50,
    smooth: float = 2.0,
    background: float = 24.0,
    noise_floor: float = 0.5,
) -> bool:
    """Tell whether a patch `Y X` in camera counts shows nothing that could be a nucleus.

    The patch is blank when fewer than `min_area` pixels of the band-passed patch (Gaussians of `smooth` and
    `background` pixels, which removes pixel noise and uneven illumination) rise above `contrast` times the pixel
    noise. The noise is measured between pixels 4 apart, so that resizing does not hide it, and is at least
    `noise_floor` counts. It does not fit intensities
    scaled to [0, 1].
    """
    counts = np.asarray(patch, dtype=np.float32)
    differences = np.abs(counts[:, 4:] - counts[:, :-4])
    noise = max(1.4826 * float(np.median(differences)) / np.sqrt(2), noise_floor)
    despeckled = cv2.medianBlur(counts, 5)  # a hot pixel, enlarged or not, is no nucleus
    band_passed = _blurred(despeckled, smooth) - _blurred(despeckled, background)
    return bool(np.count_nonzero(band_passed > contrast * noise) < min_area)


def _blurred(image: np.ndarray, sigma: float) -> np.ndarray:
    """A Gaussian average out to 4 sigma, as scipy.ndimage.gaussian_filter gives it, in a quarter of the time."""
    side = 2 * round(4 * sigma) + 1
    return cv2.GaussianBlur(image, (side, side), sigma, borderType=cv2.BORDER_REFLECT)
