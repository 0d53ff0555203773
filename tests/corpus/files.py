"""Writers of TIFF and PNG files whose every field can be set wrong."""

import struct
import zlib
from collections.abc import Sequence
from typing import Any

import numpy as np

SHORT, LONG, LONG8 = 3, 4, 16
_CODES = {SHORT: "H", LONG: "I", LONG8: "Q"}
WIDTH, LENGTH, BITS, COMPRESSION, PHOTOMETRIC, OFFSETS, SAMPLES, ROWS, COUNTS = (
    256,
    257,
    258,
    259,
    262,
    273,
    277,
    278,
    279,
)
TILE_WIDTH, TILE_LENGTH, TILE_OFFSETS, TILE_COUNTS, FORMAT = 322, 323, 324, 325, 339


def noise(shape: tuple[int, ...] = (64, 64), dtype: Any = np.uint16, seed: int = 0) -> np.ndarray:
    """Values over the whole range of an integer type."""
    return np.random.default_rng(seed).integers(0, np.iinfo(dtype).max, shape, dtype=dtype)


def tiff(tags: dict[int, Any] | None = None, data: bytes | None = None, next_ifd: int = 0, side: int = 64) -> bytes:
    """One grey 16-bit page in one strip; `tags` replace its own: values as LONG, (type, values), or None to drop it.

    The strip starts at byte 8, the IFD follows it.
    """
    data = noise((side, side)).tobytes() if data is None else data
    own: dict[int, Any] = {
        WIDTH: side, LENGTH: side, BITS: (SHORT, [16]), COMPRESSION: (SHORT, [1]), PHOTOMETRIC: (SHORT, [1]),
        OFFSETS: 8, SAMPLES: (SHORT, [1]), ROWS: side, COUNTS: len(data), FORMAT: (SHORT, [1]),
    }  # fmt: skip
    entries = {key: value for key, value in {**own, **(tags or {})}.items() if value is not None}
    start = 8 + len(data) + len(data) % 2
    far = start + 2 + 12 * len(entries) + 4  # values that do not fit in an entry
    ifd, tail = struct.pack("<H", len(entries)), b""
    for key in sorted(entries):
        kind, values = entries[key] if isinstance(entries[key], tuple) else (LONG, entries[key])
        values = [values] if isinstance(values, int) else list(values)
        packed = struct.pack(f"<{len(values)}{_CODES[kind]}", *values)
        if len(packed) > 4:
            packed, tail = struct.pack("<I", far + len(tail)), tail + packed
        ifd += struct.pack("<HHI", key, kind, len(values)) + packed.ljust(4, b"\0")
    ifd += struct.pack("<I", next_ifd)
    return struct.pack("<2sHI", b"II", 42, start) + data + b"\0" * (len(data) % 2) + ifd + tail


def many_pages(count: int) -> bytes:
    """A chain of `count` one-pixel pages of 8 bits that share one strip."""
    out, size = [struct.pack("<2sHI", b"II", 42, 10), b"\x07\0"], 2 + 12 * 8 + 4
    values = {WIDTH: 1, LENGTH: 1, BITS: 8, COMPRESSION: 1, PHOTOMETRIC: 1, OFFSETS: 8, SAMPLES: 1, COUNTS: 1}
    entries = b"".join(struct.pack("<HHII", key, LONG, 1, values[key]) for key in sorted(values))
    for page in range(count):
        following = 10 + (page + 1) * size if page < count - 1 else 0
        out.append(struct.pack("<H", 8) + entries + struct.pack("<I", following))
    return b"".join(out)


def deflated(megabytes: int) -> bytes:
    """A zlib stream of so many megabytes of zeros, a thousandth of that in size, without its checksum."""
    packer = zlib.compressobj(9)
    first = packer.compress(bytes(2**20)) + packer.flush(zlib.Z_FULL_FLUSH)
    again = packer.compress(bytes(2**20)) + packer.flush(zlib.Z_FULL_FLUSH)  # refers to nothing before it
    return first + again * (megabytes - 1) + packer.flush()


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(
    rows: int = 64,
    columns: int = 64,
    depth: int = 16,
    colour: int = 0,
    pixels: bytes | None = None,
    before: Sequence[bytes] = (),
    end: bytes | None = None,
) -> bytes:
    """A PNG of noise; `pixels` is the compressed stream, `before` are chunks between header and pixels."""
    if pixels is None:
        values = np.random.default_rng(0).integers(0, 255, (rows, 1 + columns * depth // 8), dtype=np.uint8)
        values[:, 0] = 0  # no filter
        pixels = zlib.compress(values.tobytes())
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", columns, rows, depth, colour, 0, 0, 0))
    last = chunk(b"IEND", b"") if end is None else end
    return b"\x89PNG\r\n\x1a\n" + header + b"".join(before) + chunk(b"IDAT", pixels) + last
