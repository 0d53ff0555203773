"""Reads and writes single-plane microscopy images and label images as TIFF or PNG."""

from __future__ import annotations

import itertools
import lzma
import math
import os
import stat
import zlib
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
import tifffile
from PIL import Image

from .files import replacing

# 11 585 px squared: any field of view and most stitched wells, but no header that asks for all the memory.
MAX_PIXELS = 2**27
MAX_BYTES = 2**29  # of all stored samples
SUFFIXES = (".tif", ".tiff", ".png")

_TIFF_MAGIC = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_PNG_MAGIC = b"\x89PNG\r\n\x1a\n"
_PNG_CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}
_PNG_PALETTE = 3
_PNG_END = b"\0\0\0\0IEND\xaeB`\x82"
_TAIL = 2**16  # some programs write a few bytes behind the end
_PAGES = 100  # looked at; a chain of pages may be endless
_GREY_OR_RGB = (0, 1, 2, 3, 4, 6)  # TIFF photometric: white or black is zero, RGB, palette, mask, YCbCr
# Compressions (deflate twice, LZMA) whose strips tifffile expands without a bound.
_EXPANDERS = {8: zlib.decompressobj, 32946: zlib.decompressobj, 34925: lzma.LZMADecompressor}


class ImageError(ValueError):
    """An image file cannot be used; the message names the file and the mend."""


class ImageHeader(NamedTuple):
    """What a file says about itself before it is decoded: (Y, X), channels, type, "tiff" or "png", colour table."""

    shape: tuple[int, int]
    channels: int
    dtype: np.dtype
    kind: str
    palette: bool


def read_header(path: str | os.PathLike[str]) -> ImageHeader:
    """Read size, channels and type of a TIFF or PNG without decoding it.

    The kind is told from the first bytes, not from the name. Raises ImageError for a missing, empty, unreadable,
    truncated, multi-page or absurdly large file.
    """
    path = Path(path)
    try:
        found = path.stat()
        if not stat.S_ISREG(found.st_mode):  # opening a named pipe would wait for ever
            kind = "folder" if stat.S_ISDIR(found.st_mode) else "pipe or a device"
            raise ImageError(f"{path}: is a {kind}; name one image file")
        with path.open("rb") as file:
            start = file.read(33)
            file.seek(max(0, found.st_size - _TAIL))
            tail = file.read()
    except FileNotFoundError:
        raise ImageError(f"{path}: does not exist; correct the path") from None
    except OSError as error:
        raise ImageError(f"{path}: cannot be opened ({error.strerror}); check path and permissions") from None
    except ValueError as error:
        if isinstance(error, ImageError):
            raise
        raise ImageError(f"{path}: is no path ({error}); correct it") from None  # a NUL in it
    if found.st_size == 0:
        raise ImageError(f"{path}: is empty (0 bytes); copy or export it again")
    if start[:4] in _TIFF_MAGIC:
        header = _tiff_header(path, found.st_size)
    elif start[:8] == _PNG_MAGIC and len(start) == 33 and start[12:16] == b"IHDR":
        header = _png_header(path, start)
        if _PNG_END not in tail:
            raise ImageError(f"{path}: is truncated, its end is missing; copy or export it again")
    else:
        raise ImageError(f"{path}: is neither TIFF nor PNG, or is cut off; copy it again, or export it as TIFF or PNG")
    return header


def _check_size(path: Path, rows: int, columns: int, pixel_bytes: float) -> None:
    """Refuse an absurd size; `pixel_bytes` are the bytes of all samples of one pixel."""
    pixels = rows * columns
    if rows < 1 or columns < 1 or pixels > MAX_PIXELS or pixels * pixel_bytes > MAX_BYTES:
        raise ImageError(
            f"{path}: its header says {rows} x {columns} pixels of {pixel_bytes:g} bytes (limit {MAX_PIXELS} pixels, "
            f"{MAX_BYTES} bytes); export it again, or cut it into fields of view"
        )


def _png_header(path: Path, start: bytes) -> ImageHeader:
    columns, rows = int.from_bytes(start[16:20], "big"), int.from_bytes(start[20:24], "big")
    depth, colour = start[24], start[25]
    if colour not in _PNG_CHANNELS or depth not in (1, 2, 4, 8, 16):
        raise ImageError(f"{path}: PNG colour type {colour} of {depth} bits does not exist; export it again")
    _check_size(path, rows, columns, _PNG_CHANNELS[colour] * depth / 8)
    mask = depth == 1 and colour != _PNG_PALETTE
    dtype = np.dtype(np.bool_ if mask else np.uint16 if depth == 16 else np.uint8)
    return ImageHeader((rows, columns), _PNG_CHANNELS[colour], dtype, "png", colour == _PNG_PALETTE)


def _pages(tiff: tifffile.TiffFile, size: int) -> tuple[tifffile.TiffPage, int]:
    """The first page that is no thumbnail, and the number of planes in the file, those without a page included."""
    pages = [page.aspage() for page in itertools.islice(tiff.pages, _PAGES)]
    full = [page for page in pages if not page.is_reduced]
    planes = max(len(full), len(pages) if len(pages) == _PAGES else 0) * int(full[0].imagedepth)
    # ImageJ, MetaMorph and tifffile can store a stack behind one page.
    if planes == 1 and (tiff.is_imagej or tiff.is_stk or tiff.is_shaped):
        told = tiff.series[0].size // max(full[0].size, 1)
        if full[0].dataoffsets[0] + told * full[0].nbytes <= size:
            planes = told
    return full[0], planes


def _tiff_header(path: Path, size: int) -> ImageHeader:
    try:
        with tifffile.TiffFile(path) as tiff:
            page, planes = _pages(tiff, size)
            shape = (int(page.imagelength), int(page.imagewidth))
            channels, dtype, bits = int(page.samplesperpixel), page.dtype, int(page.bitspersample)
            photometric, alpha = page.photometric, all(kind in (1, 2) for kind in page.extrasamples)
            counts = [int(count) for count in page.databytecounts]
            ends = [int(offset) + count for offset, count in zip(page.dataoffsets, counts, strict=False)]
            raw = int(page.compression) == 1
            chunk = math.prod(page.chunks) * bits / 8 if page.is_tiled else 0
    except Exception as error:
        raise ImageError(f"{path}: is not a readable TIFF ({_brief(error)}); export it again") from None
    if planes != 1:
        some = f"{planes} planes" + (" or more" if planes == _PAGES else "")
        raise ImageError(f"{path}: holds {some} and one is meant; save one file per channel and plane, or a projection")
    if dtype is None:
        raise ImageError(f"{path}: its pixel type is unknown; save it as 8- or 16-bit grey")
    _check_size(path, *shape, channels * bits / 8)
    missing = raw and sum(counts) < shape[0] * shape[1] * channels * bits // 8
    if not ends or min(counts) == 0 or max(ends) > size or missing:
        raise ImageError(f"{path}: is truncated, pixels are missing from the file; copy or export it again")
    if sum(counts) > size or chunk > MAX_BYTES:
        raise ImageError(f"{path}: its strips or tiles cannot be as its header says; export it again")
    if int(photometric) not in _GREY_OR_RGB:
        kind = getattr(photometric, "name", photometric)
        raise ImageError(f"{path}: is stored as {kind} and grey is meant; save it as grey")
    if not alpha:
        raise ImageError(f"{path}: has {channels} channels and one is meant; save one file per channel")
    return ImageHeader(shape, channels, np.dtype(dtype), "tiff", False)


def _brief(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:120]


def _decode(path: Path, header: ImageHeader) -> np.ndarray:
    """Decode all stored samples: Y X, or Y X C."""
    array: np.ndarray | None
    frames = 1
    try:
        if header.kind == "tiff":
            array = _decode_tiff(path)
        else:
            with Image.open(path) as image:
                array = np.asarray(image)  # raises for a truncated file, which OpenCV only logs
                frames = getattr(image, "n_frames", 1)
            if header.dtype == np.uint16 and header.channels > 1:  # Pillow keeps 8 of the 16 bits of a colour PNG
                array = cv2.imdecode(np.fromfile(path, np.uint8), cv2.IMREAD_UNCHANGED)
    except Exception as error:
        raise ImageError(f"{path}: cannot be decoded ({_brief(error)}); copy or export it again") from None
    if frames > 1:
        raise ImageError(f"{path}: holds {frames} frames and one is meant; save one file per channel and plane")
    if array is None or array.shape[:2] != header.shape:
        raise ImageError(f"{path}: its pixels do not have the size that its header says; export it again")
    return array


def _decode_tiff(path: Path) -> np.ndarray:
    with tifffile.TiffFile(path) as tiff:
        page, _ = _pages(tiff, path.stat().st_size)
        if int(page.compression) == 1 or int(page.compression) in _EXPANDERS:
            _check_expansion(page)
            array = page.asarray()
            planar = page.planarconfig == tifffile.PLANARCONFIG.SEPARATE and array.ndim == 3
            return np.moveaxis(array, 0, -1) if planar else array
    with Image.open(path) as image:  # LZW and other codecs that tifffile leaves to an optional package
        if image.mode in ("RGB", "RGBA") and 16 in image.tag_v2.get(258, ()):  # type: ignore[attr-defined]
            raise ValueError("16-bit colour under this compression is not supported")
        return np.asarray(image)


def _check_expansion(page: tifffile.TiffPage) -> None:
    """Refuse, before tifffile expands it, a strip or tile that holds more than its size: a bomb. Raises ValueError."""
    if int(page.compression) not in _EXPANDERS:
        return
    most = math.prod(page.chunks) * page.dtype.itemsize  # type: ignore[union-attr]
    for offset, count in zip(page.dataoffsets, page.databytecounts, strict=True):
        page.parent.filehandle.seek(offset)
        packed = page.parent.filehandle.read(count)
        if len(_EXPANDERS[int(page.compression)]().decompress(packed, most + 1)) > most:  # type: ignore[operator]
            raise ValueError(f"a strip or tile of {most} bytes expands to more")


def _grey(path: Path, array: np.ndarray, mend: str) -> np.ndarray:
    """Collapse grey stored as RGB, RGBA or grey plus alpha to Y X."""
    if array.ndim == 2:
        return array
    channels = array.shape[2]
    if channels > 4:
        raise ImageError(f"{path}: has {channels} channels and one is meant; save one file per channel")
    colours = array[..., : 3 if channels >= 3 else 1]
    if not (colours == colours[..., :1]).all():
        raise ImageError(f"{path}: is a colour image (its channels differ) and one channel is meant; {mend}")
    return array[..., 0]


def read_image(path: str | os.PathLike[str], allow_constant: bool = False) -> np.ndarray:
    """Read one grey image as Y X in its own units: uint8, uint16, or float32.

    TIFF or PNG of 8 or 16 bits. RGB, RGBA and grey with alpha are collapsed to one channel where the colours are
    equal; alpha is ignored. A float TIFF is accepted where every value is finite, unscaled, and becomes float32. Colour
    table and polarity of a TIFF are display only: the stored values are returned. Raises ImageError for colour, NaN or
    infinity, another type, a constant image (unless allow_constant) and whatever read_header refuses.
    """
    path = Path(path)
    header = read_header(path)
    if header.palette:
        raise ImageError(f"{path}: is a PNG with a colour table, its values are no intensities; save it as grey")
    if header.dtype not in (np.uint8, np.uint16) and header.dtype.kind != "f":
        raise ImageError(f"{path}: its pixels are {header.dtype}; save it as 8- or 16-bit unsigned (uint8, uint16)")
    image = _grey(path, _decode(path, header), "save the channel you mean as grey")
    if image.dtype.kind == "f":
        with np.errstate(over="ignore"):
            image = image.astype(np.float32, copy=False)
        bad = int(np.count_nonzero(~np.isfinite(image)))
        if bad:
            raise ImageError(f"{path}: {bad} pixels are NaN or infinite; replace them or leave the field out")
    if not allow_constant and image.min() == image.max():
        raise ImageError(f"{path}: every pixel is {image.flat[0]}; leave the field out or export it again")
    return np.ascontiguousarray(image)


def read_labels(path: str | os.PathLike[str]) -> np.ndarray:
    """Read a label image as int32 Y X; 0 is background and each instance has its own number.

    Grey or palette files hold the labels themselves (8, 16 or 32 bits). Two kinds are split into 8-connected
    components: a file with colour numbers in its first channel and zeros in the other two (the layout of BBBC039, where
    touching nuclei differ in colour), per colour; and a mask whose only values are 0 and 255. Raises ImageError for
    other colour images, float or negative labels, and whatever read_header refuses.
    """
    path = Path(path)
    header = read_header(path)
    if header.dtype.kind not in "uib":
        raise ImageError(f"{path}: labels are {header.dtype}; save them as unsigned integers (uint16)")
    array = _decode(path, header)
    if array.ndim == 3 and array.shape[2] in (3, 4) and array[..., 0].any() and not array[..., 1:3].any():
        return _components(array[..., 0])
    labels = _grey(path, array, "save one label number per pixel (uint16)")
    if labels.dtype == np.uint8 and labels.max() == 255 and np.isin(labels, (0, 255)).all():
        return _components(labels)
    if labels.min() < 0 or labels.max() > np.iinfo(np.int32).max:
        raise ImageError(f"{path}: labels run from {labels.min()} to {labels.max()}; they must lie in 0 .. 2**31 - 1")
    return np.ascontiguousarray(labels, dtype=np.int32)


def _components(colours: np.ndarray) -> np.ndarray:
    labels = np.zeros(colours.shape, np.int32)
    count = 0
    for colour in np.unique(colours[colours > 0]):
        found, components = cv2.connectedComponents((colours == colour).astype(np.uint8), connectivity=8)
        labels += np.where(components > 0, components + count, 0).astype(np.int32)
        count += found - 1
    return labels


def write_image(path: str | os.PathLike[str], array: np.ndarray) -> None:
    """Write Y X as TIFF or PNG, by suffix, under its final name only when it is complete.

    PNG takes uint8 and uint16; TIFF takes int32 (labels) and float32 too; bool becomes 0 and 255. The folder is made.
    Raises ImageError for another suffix, type or number of axes.
    """
    path = Path(path)
    array = np.asarray(array)
    if array.dtype == np.bool_:
        array = array.astype(np.uint8) * 255
    png = path.suffix.lower() == ".png"
    types = ("uint8", "uint16") if png else ("uint8", "uint16", "int32", "float32")
    if path.suffix.lower() not in SUFFIXES:
        raise ImageError(f"{path}: suffix {path.suffix!r} is not known; use {', '.join(SUFFIXES)}")
    if array.ndim != 2 or array.dtype.name not in types:
        raise ImageError(
            f"{path}: cannot hold {array.dtype} of shape {array.shape}; give Y X of type {', '.join(types)}"
            + (", or write a .tif" if png else "")
        )
    with replacing(path) as temporary:
        if png:
            Image.fromarray(array).save(temporary, format="PNG")
        else:
            codec = "zlib" if array.dtype == np.int32 else None  # labels shrink twentyfold, camera counts hardly
            tifffile.imwrite(temporary, array, photometric="minisblack", compression=codec, metadata=None)
