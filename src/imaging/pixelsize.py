"""The width of a pixel: read from a file's metadata, compared, and changed by resampling."""

from __future__ import annotations

import math
import os
import re
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import cv2
import numpy as np
import tifffile

from .io import ImageError

# Two pixel sizes are the same up to this share: vendors round theirs, and a nucleus 2 % wider is the same nucleus.
TOLERANCE = 0.02
# Where only the resolution tags of TIFF speak, what a light microscope can give: from a 100x objective with small
# camera pixels (2.4 um / 100, rounded up) to a 1x objective with large ones (6.5 um). Everything that is meant for
# print or screen is wider: 2400 dpi is 10.6 um, 300 dpi is 85 um, 72 dpi is 353 um.
PLAUSIBLE = (0.03, 7.0)

_MICROMETRES = {
    **dict.fromkeys(("um", "µm", "μm", "\\u00b5m", "\\u03bcm", "micron", "microns", "micrometer", "micrometers"), 1.0),
    **dict.fromkeys(("micrometre", "micrometres"), 1.0),
    "nm": 1e-3,
    "mm": 1e3,
    "cm": 1e4,
    "m": 1e6,
}
_TIFF_UNITS = {2: 25_400.0, 3: 10_000.0}  # inch and centimetre, in micrometres


def read_pixel_size(path: str | os.PathLike[str]) -> float | None:
    """Read the width of a pixel in micrometres from a TIFF; None where the file does not say it.

    Asked in this order: OME-XML, ImageJ's unit, the spatial calibration of MetaMorph and MetaXpress, and the resolution
    tags where they are plausible for a microscope. PNG says nothing. Raises ImageError for pixels that are not square
    within 2 %.
    """
    path = Path(path)
    if not path.is_file():  # a pipe would be waited for
        return None
    try:
        with tifffile.TiffFile(path) as tiff:
            sides = _ome(tiff) or _imagej(tiff) or _metamorph(tiff) or _tags(tiff)
    except Exception:  # no TIFF, or metadata beyond reading: the file says nothing; io.py judges its pixels
        return None
    if sides is None or not all(math.isfinite(side) and side > 0 for side in sides):
        return None
    if differs(*sides):
        raise ImageError(
            f"{path}: its pixels are {sides[0]:g} x {sides[1]:g} um and must be square; resample it, or correct its "
            "metadata"
        )
    return sides[0]


def _scaled(sides: tuple[Any, Any], unit: Any) -> tuple[float, float] | None:
    """Two numbers in micrometres; None for units such as "pixel"."""
    factor = _MICROMETRES.get(str(unit).strip().lower())
    return None if factor is None else (float(sides[0]) * factor, float(sides[1]) * factor)


def _ome(tiff: tifffile.TiffFile) -> tuple[float, float] | None:
    text = tiff.ome_metadata
    if not text or "<!DOCTYPE" in text:
        return None
    pixels = next((node for node in ElementTree.fromstring(text).iter() if node.tag.endswith("}Pixels")), None)
    if pixels is None or not {"PhysicalSizeX", "PhysicalSizeY"} <= set(pixels.attrib):
        return None
    sides = [_scaled((pixels.attrib[f"PhysicalSize{axis}"],) * 2, pixels.attrib.get(f"PhysicalSize{axis}Unit", "um"))
             for axis in "XY"]  # fmt: skip
    return (sides[0][0], sides[1][0]) if sides[0] and sides[1] else None


def _resolution(tiff: tifffile.TiffFile) -> tuple[float, float] | None:
    """Width and height of a pixel in the file's resolution unit."""
    tags = tiff.pages.first.tags
    values = [tags.valueof(name) for name in ("XResolution", "YResolution")]
    if not all(values) or not all(count for count, _ in values):
        return None
    (x_count, x_length), (y_count, y_length) = values
    return x_length / x_count, y_length / y_count


def _imagej(tiff: tifffile.TiffFile) -> tuple[float, float] | None:
    if not tiff.is_imagej:
        return None
    sides = _resolution(tiff)
    return _scaled(sides, (tiff.imagej_metadata or {}).get("unit")) if sides else None


def _metamorph(tiff: tifffile.TiffFile) -> tuple[float, float] | None:
    if tiff.is_stk:
        found = {key: value for tag in tiff.pages.first.tags if tag.name in ("UIC1tag", "UIC2tag") and
                 isinstance(tag.value, dict) for key, value in tag.value.items()}  # fmt: skip
        keys = ("XCalibration", "YCalibration", "CalibrationUnits", "SpatialCalibration")
    else:
        found = dict(
            re.findall(r'id="(spatial-calibration-[a-z]+)"[^>]*?value="([^"]*)"', tiff.pages.first.description)
        )
        keys = tuple(f"spatial-calibration-{end}" for end in ("x", "y", "units", "state"))  # type: ignore[assignment]
    if not set(keys[:3]) <= set(found) or str(found.get(keys[3], "on")) in ("off", "0"):
        return None
    return _scaled((found[keys[0]], found[keys[1]]), found[keys[2]])


def _tags(tiff: tifffile.TiffFile) -> tuple[float, float] | None:
    unit = _TIFF_UNITS.get(int(tiff.pages.first.tags.valueof("ResolutionUnit", 2)))
    sides = _resolution(tiff)
    if unit is None or sides is None:
        return None
    width, height = sides[0] * unit, sides[1] * unit
    return (width, height) if PLAUSIBLE[0] <= width <= PLAUSIBLE[1] else None


def differs(size: float, other: float) -> bool:
    """Whether two pixel sizes (micrometres) differ by more than 2 %."""
    return abs(size / other - 1) > TOLERANCE


def rescale(image: np.ndarray, factor: float, labels: bool = False, shape: tuple[int, int] | None = None) -> np.ndarray:
    """Resample Y X to `factor` times as many pixels a side, or to `shape` that this is about; the type is kept.

    Intensities are interpolated bilinearly when enlarged and averaged over areas when reduced; `labels` takes the
    nearest pixel.
    """
    shape = shape or (max(1, round(image.shape[0] * factor)), max(1, round(image.shape[1] * factor)))
    if labels:
        rows, columns = (
            ((np.arange(new) + 0.5) * old / new).astype(int) for new, old in zip(shape, image.shape, strict=True)
        )
        return image[rows[:, None], columns]
    method = cv2.INTER_AREA if factor < 1 else cv2.INTER_LINEAR
    resized = cv2.resize(image.astype(np.float32), shape[::-1], interpolation=method)
    return (resized if image.dtype.kind == "f" else np.rint(resized)).astype(image.dtype)
