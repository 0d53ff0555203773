"""Image files that must not be read as images."""

import os
import struct
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import tifffile
from PIL import Image

from .case import Case, image, labels
from .files import (
    BITS,
    COMPRESSION,
    COUNTS,
    FORMAT,
    LENGTH,
    LONG8,
    OFFSETS,
    ROWS,
    SAMPLES,
    SHORT,
    TILE_COUNTS,
    TILE_LENGTH,
    TILE_OFFSETS,
    TILE_WIDTH,
    WIDTH,
    chunk,
    deflated,
    many_pages,
    noise,
    png,
    tiff,
)  # fmt: skip

AGAIN = "export it again|copy or export|copy it again"
DEFLATE, LZW, LZMA = (SHORT, [8]), (SHORT, [5]), (SHORT, [34925])
Write = Callable[[Path], Any]


def _file(name: str, content: bytes | Callable[[], bytes] | Write) -> Callable[[Path], Path]:
    """A builder of one file: of these bytes, of what a function returns, or of what it writes to a path."""

    def build(folder: Path) -> Path:
        path = folder / name
        if isinstance(content, bytes):
            path.write_bytes(content)
        else:
            content(path)  # type: ignore[call-arg]
        return path

    return build


def _lazy(make: Callable[[], bytes]) -> Write:
    return lambda path: path.write_bytes(make())


def _saved(**options: Any) -> Write:
    """tifffile.imwrite of `data`."""
    return lambda path: tifffile.imwrite(path, options["data"], **{k: v for k, v in options.items() if k != "data"})


def _pillow(mode: str, **options: Any) -> Write:
    return lambda path: Image.fromarray(noise((64, 64), np.uint8)).convert(mode).save(path, **options)


def cases() -> Iterator[Case]:
    yield from _truncated()
    yield from _absurd()
    yield from _bombs()
    yield from _kinds()
    yield from _no_files()
    yield from _labels()


def _truncated() -> Iterator[Case]:
    whole, packed = tiff(), zlib.compress(noise().tobytes())
    ifd_first = _ifd_first()
    cuts = {
        "in its header": whole[:6],
        "before its IFD": whole[:4000],
        "in its IFD": whole[: 8 + 8192 + 40],
        "in its strip": ifd_first[: len(ifd_first) // 2],
        "by its last byte": ifd_first[:-1],
        "deflated, in its strip": tiff({COMPRESSION: DEFLATE, COUNTS: len(packed) // 2}, packed[: len(packed) // 2]),
        "deflated, checksum gone": tiff({COMPRESSION: DEFLATE, COUNTS: len(packed) - 4}, packed[:-4]),
    }
    for where, content in cuts.items():
        yield Case(f"TIFF cut {where}", image, _file("a.tif", content), ["a.tif"], AGAIN)
    tiles = _tiled()
    yield Case("TIFF cut in a tile", image, _file("a.tif", _lazy(lambda: tiles()[:-1000])), ["a.tif"], AGAIN)
    for where, cut in {"signature": 5, "header": 20, "first chunk": 60, "pixels": 3000, "end chunk": -12}.items():
        yield Case(f"PNG cut in its {where}", image, _file("a.png", png()[:cut]), ["a.png"], AGAIN)
    yield Case("PNG cut by its last byte", image, _file("a.png", png()[:-1]), ["a.png"], AGAIN)
    flipped = bytearray(png())
    flipped[4000] ^= 255
    yield Case("PNG with a flipped bit", image, _file("a.png", bytes(flipped)), ["a.png"], AGAIN)
    short = png(pixels=zlib.compress(bytes(20 * 129)))
    yield Case("PNG with fewer rows than it says", image, _file("a.png", short), ["a.png"], AGAIN)


def _ifd_first() -> bytes:
    """A TIFF whose pixels come last, as most cameras write them."""
    body = tiff(data=b"")
    start = len(body)
    return tiff({OFFSETS: start, COUNTS: 8192}, data=b"") + noise().tobytes()


def _circle() -> bytes:
    """Two pages, each the other's next."""
    first = tiff()
    second = first[8 + 8192 :][:-4] + struct.pack("<I", 8 + 8192)
    return first[:-4] + struct.pack("<I", len(first)) + second


def _tiled() -> Callable[[], bytes]:
    def make() -> bytes:
        tags = {
            OFFSETS: None, COUNTS: None, ROWS: None, TILE_WIDTH: 32, TILE_LENGTH: 32,
            TILE_OFFSETS: [0] * 4, TILE_COUNTS: [2048] * 4,
        }  # fmt: skip
        start = len(tiff(tags, b""))
        return tiff({**tags, TILE_OFFSETS: [start + 2048 * n for n in range(4)]}, b"") + noise().tobytes()

    return make


def _absurd() -> Iterator[Case]:
    sizes = {
        "2^31 wide": {WIDTH: 2**31},
        "2^31 high": {LENGTH: 2**31},
        "2^32-1 square": {WIDTH: 2**32 - 1, LENGTH: 2**32 - 1, ROWS: 2**32 - 1},
        "60000 square, deflated": {WIDTH: 60_000, LENGTH: 60_000, ROWS: 60_000, COMPRESSION: DEFLATE},
        "0 wide": {WIDTH: 0},
        "0 high": {LENGTH: 0},
        "without a width": {WIDTH: None},
        "without strips": {OFFSETS: None, COUNTS: None},
    }
    for what, tags in sizes.items():
        yield Case(f"TIFF {what}", image, _file("a.tif", tiff(tags)), ["a.tif"], AGAIN)
    layouts = {
        "with a strip outside the file": {OFFSETS: 100_000},
        "with a strip behind 2^64": {OFFSETS: (LONG8, [2**64 - 2])},
        "with an empty strip": {COUNTS: 0},
        "with a strip longer than the file": {COUNTS: 2**31},
        "with strips that share their bytes": {ROWS: 1, OFFSETS: [8] * 64, COUNTS: [8192] * 64},
        "with fewer strips than rows need": {ROWS: 8, OFFSETS: [8], COUNTS: [1024]},
        "with 60000 samples per pixel": {SAMPLES: (SHORT, [60_000]), COMPRESSION: DEFLATE},
        "with 2^31 samples per pixel": {SAMPLES: 2**31, COMPRESSION: DEFLATE},
        "with 0 bits per sample": {BITS: (SHORT, [0])},
        "with 12-bit samples in 16": {BITS: (SHORT, [12])},
        "with 999 bits per sample": {BITS: (SHORT, [999])},
        "with an unknown compression": {COMPRESSION: (SHORT, [4242])},
        "with a tag of 2^20 values": {65000: (SHORT, [1] * 2**20), WIDTH: 2**20, LENGTH: 2**20},
        "whose pages go in a circle": None,
    }
    for what, tags in layouts.items():
        content = _circle() if tags is None else tiff(tags)
        yield Case(f"TIFF {what}", image, _file("a.tif", content), ["a.tif"], f"{AGAIN}|save|one file per")
    giant = {
        OFFSETS: None, COUNTS: None, ROWS: None, TILE_WIDTH: 2**30, TILE_LENGTH: 2**30, TILE_OFFSETS: 8,
        TILE_COUNTS: 8192, COMPRESSION: DEFLATE,
    }  # fmt: skip
    yield Case(
        "TIFF in tiles of 2^30 px", image, _file("a.tif", tiff(giant, zlib.compress(bytes(8192)))), ["a.tif"], AGAIN
    )
    tags_lie = bytearray(tiff())
    struct.pack_into("<I", tags_lie, 8 + 8192 + 2 + 4, 2**31)  # so many image widths
    yield Case("TIFF with 2^31 widths", image, _file("a.tif", bytes(tags_lie)), ["a.tif"], AGAIN)
    for rows, columns in ((2**31 - 1, 2**31 - 1), (2**31, 64), (0, 64), (64, 0), (100_000, 100_000)):
        small = png(rows, columns, pixels=zlib.compress(b"\0"))
        yield Case(f"PNG of {rows} x {columns}", image, _file("a.png", small), ["a.png", str(rows)], AGAIN)
    for what, options in {"3 bits": {"depth": 3}, "colour type 7": {"colour": 7}}.items():
        content = png(pixels=zlib.compress(b"\0"), **options)
        yield Case(f"PNG of {what}", image, _file("a.png", content), ["a.png"], AGAIN)


def _bombs() -> Iterator[Case]:
    def bomb(megabytes: int, **tags: Any) -> bytes:
        return tiff({COMPRESSION: DEFLATE, **tags}, deflated(megabytes))

    yield Case(
        "TIFF bomb: 8 KB of pixels that are 3 GB", image, _file("a.tif", _lazy(lambda: bomb(3000))), ["a.tif"], AGAIN
    )
    yield Case("TIFF bomb in LZMA", image, _file("a.tif", _lazy(_lzma_bomb)), ["a.tif"], AGAIN)

    def samples() -> bytes:
        side = 11_500
        tags = {WIDTH: side, LENGTH: side, ROWS: side, SAMPLES: (SHORT, [4]), BITS: (SHORT, [16] * 4), FORMAT: None}
        return tiff({**tags, COMPRESSION: DEFLATE}, deflated(1010))

    yield Case("TIFF bomb: 1 GB that its header admits", image, _file("a.tif", _lazy(samples)), ["a.tif"], AGAIN)

    def stolen() -> bytes:  # every strip of 64 is one and the same bomb
        data = deflated(64)
        return tiff({COMPRESSION: DEFLATE, ROWS: 1, OFFSETS: [8] * 64, COUNTS: [len(data)] * 64}, data)

    yield Case("TIFF bomb: one strip named 64 times", image, _file("a.tif", _lazy(stolen)), ["a.tif"], AGAIN)
    yield Case(
        "TIFF of 60000 pages", image, _file("a.tif", _lazy(lambda: many_pages(60_000))), ["a.tif"], "one file per"
    )
    yield Case(
        "PNG bomb: 3 GB in its pixels",
        image,
        _file("a.png", _lazy(lambda: png(pixels=deflated(3000)))),
        ["a.png"],
        AGAIN,
    )
    for kind, head in ((b"iCCP", b"icc\0\0"), (b"zTXt", b"text\0\0")):
        yield Case(
            f"PNG bomb: 1 GB in {kind.decode()}", image,
            _file("a.png", _lazy(lambda kind=kind, head=head: png(before=[chunk(kind, head + deflated(1000))]))),
            ["a.png"], AGAIN,
        )  # fmt: skip
    yield Case(
        "PNG of a million empty chunks", image,
        _file("a.png", _lazy(lambda: png(before=[chunk(b"tEXt", b"a\0b")] * 1_000_000, end=b""))), ["a.png"], AGAIN,
    )  # fmt: skip


def _lzma_bomb() -> bytes:
    import lzma

    packer = lzma.LZMACompressor(preset=0)
    data = b"".join([packer.compress(bytes(2**20)) for _ in range(1500)] + [packer.flush()])
    return tiff({COMPRESSION: LZMA}, data)


def _kinds() -> Iterator[Case]:
    floats = noise().astype(np.float64)
    with_nan, with_inf, huge = floats.copy(), floats.copy(), floats.copy()
    with_nan[3, 4], with_inf[3, 4], huge[3, 4] = np.nan, np.inf, 1e300
    rgb = noise((64, 64, 3), np.uint8)
    grey_tiffs: dict[str, tuple[Write, str]] = {
        "colour": (_saved(data=rgb, photometric="rgb"), "save the channel"),
        "16-bit colour": (_saved(data=noise((64, 64, 3)), photometric="rgb"), "save the channel"),
        "colour in planes": (_saved(data=np.moveaxis(rgb, 2, 0), photometric="rgb", planarconfig="separate"), "save"),
        "CMYK": (_saved(data=noise((64, 64, 4), np.uint8), photometric="separated"), "save"),
        "CMYK with black alone": (_saved(data=_black(), photometric="separated"), "save"),
        "CIELab of equal values": (_saved(data=np.stack([rgb[..., 0]] * 3, -1), photometric="cielab"), "save"),
        "5 channels": (
            _saved(data=noise((64, 64, 5)), photometric="minisblack", planarconfig="contig"), "one file per",
        ),
        "1 bit": (lambda path: Image.fromarray(rgb[..., 0] > 99).save(path), "save"),
        "int16": (_saved(data=noise(dtype=np.int16)), "save it as"),
        "int32": (_saved(data=noise(dtype=np.int32)), "save it as"),
        "uint32": (_saved(data=noise(dtype=np.uint32)), "save it as"),
        "uint64": (_saved(data=noise(dtype=np.uint64)), "save it as"),
        "complex": (_saved(data=floats.astype(np.complex64)), "save it as"),
        "float64 with NaN": (_saved(data=with_nan), "replace"),
        "float64 with inf": (_saved(data=with_inf), "replace"),
        "float64 beyond float32": (_saved(data=huge), "replace"),
        "float32, all NaN": (_saved(data=np.full((64, 64), np.nan, np.float32)), "replace"),
        "constant": (_saved(data=np.full((64, 64), 7, np.uint16)), "leave the field out"),
        "one pixel": (_saved(data=np.full((1, 1), 7, np.uint16)), "leave the field out"),
        "3 pages": (_saved(data=noise((3, 64, 64)), photometric="minisblack"), "one file per"),
        "z-stack of ImageJ": (_saved(data=noise((5, 64, 64)), imagej=True, metadata={"axes": "ZYX"}), "one file per"),
        "z-stack in one page": (_imagej_page, "one file per"),
        "z-stack, shape in its description": (
            _saved(data=noise((3, 64, 64)), truncate=True, photometric="minisblack"), "one file per",
        ),
        "volume": (_saved(data=noise((16, 64, 64)), volumetric=True, tile=(16, 64, 64)), "one file per"),
        "OME z-stack": (_saved(data=noise((4, 64, 64)), ome=True, metadata={"axes": "ZYX"}), "one file per"),
        "two channels, one of them called extra": (
            _saved(data=noise((64, 64, 2)).astype(np.float32) / 3, photometric="minisblack",
            planarconfig="contig", extrasamples=["unspecified"]), "one file per|save",
        ),
    }  # fmt: skip
    for what, (write, mend) in grey_tiffs.items():
        yield Case(f"TIFF: {what}", image, _file("a.tif", write), ["a.tif"], mend)
    pngs: dict[str, tuple[Write, str]] = {
        "colour": (_lazy(lambda: png(colour=2, depth=8, pixels=_rgb_stream(rgb))), "save the channel"),
        "16-bit colour": (lambda path: cv2.imwrite(str(path), noise((64, 64, 3))), "save the channel"),
        "palette": (_pillow("P"), "save it as grey"),
        "1 bit": (_pillow("1"), "save"),
        "constant": (lambda path: Image.fromarray(np.full((64, 64), 9, np.uint8)).save(path), "leave the field out"),
        "3 frames": (_frames, "one file per"),
    }
    for what, (write, mend) in pngs.items():
        yield Case(f"PNG: {what}", image, _file("a.png", write), ["a.png"], mend)
    others: dict[str, Write] = {
        "JPEG": _pillow("L", format="JPEG"), "GIF": _pillow("L", format="GIF"), "BMP": _pillow("L", format="BMP"),
        "NumPy array": lambda path: np.save(path.open("wb"), noise()), "text": lambda path: path.write_text("x" * 999),
        "HTML page": lambda path: path.write_text("<html>404: the file has moved</html>"),
        "git-lfs pointer": lambda path: path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:00\n"),
        "zip archive": _lazy(lambda: b"PK\x03\x04" + bytes(200)), "zeros": _lazy(lambda: bytes(5000)),
    }  # fmt: skip
    for what, write in others.items():
        yield Case(f"{what} named .tif", image, _file("a.tif", write), ["a.tif"], "export it as TIFF or PNG")


def _black() -> np.ndarray:
    """Cyan, magenta and yellow alike: an inverted grey image that could pass for grey."""
    return np.stack([noise((64, 64), np.uint8)] * 3 + [np.zeros((64, 64), np.uint8)], -1)


def _rgb_stream(rgb: np.ndarray) -> bytes:
    return zlib.compress(b"".join(b"\0" + row.tobytes() for row in rgb))


def _imagej_page(path: Path) -> None:
    """Five planes behind one IFD, as ImageJ writes stacks above 4 GB."""
    text = b"ImageJ=1.54f\nimages=5\nslices=5\n\0"
    data = noise((5, 64, 64)).byteswap().tobytes()
    page = tiff({270: (SHORT, [1])}, data)  # replaced below by ASCII
    entry = page.rindex(struct.pack("<HH", 270, SHORT))
    content = bytearray(page) + text
    struct.pack_into("<HHII", content, entry, 270, 2, len(text), len(page))
    path.write_bytes(bytes(content))


def _frames(path: Path) -> None:
    pages = [Image.fromarray(noise((64, 64), np.uint8, seed)) for seed in range(3)]
    pages[0].save(path, save_all=True, append_images=pages[1:])


def _no_files() -> Iterator[Case]:
    yield Case("empty file", image, _file("a.tif", b""), ["a.tif"], "copy or export")
    yield Case("one byte", image, _file("a.png", b"\x89"), ["a.png"], "export")
    yield Case("folder named .tif", image, _file("a.tif", Path.mkdir), ["a.tif"], "name one image file")
    yield Case("missing file", image, lambda folder: folder / "gone.tif", ["gone.tif"], "correct the path")
    yield Case("symlink loop", image, _file("a.tif", lambda path: path.symlink_to(path)), ["a.tif"], "check|correct")
    yield Case("broken symlink", image, _file("a.tif", lambda path: path.symlink_to("gone")), ["a.tif"], "correct")
    yield Case("named pipe", image, _file("a.tif", os.mkfifo), ["a.tif"], "name one image file")
    yield Case("device", image, lambda folder: Path("/dev/zero"), ["/dev/zero"], "name one image file")
    yield Case(
        "path below a file", image, lambda folder: _file("a.tif", tiff())(folder) / "b.tif", ["b.tif"], "correct|check"
    )
    yield Case("name too long", image, lambda folder: folder / ("a" * 400 + ".tif"), ["aaa.tif"], "correct|check")
    yield Case("NUL in a name", image, lambda folder: folder / "a\0b.tif", ["b.tif"], "correct")
    if os.geteuid():
        yield Case("unreadable", image, _file("a.tif", _forbidden), ["a.tif"], "permissions")


def _forbidden(path: Path) -> None:
    path.write_bytes(tiff())
    path.chmod(0)


def _labels() -> Iterator[Case]:
    kinds: dict[str, tuple[Write, str]] = {
        "float": (_saved(data=noise().astype(np.float32)), "save them as"),
        "complex": (_saved(data=noise().astype(np.complex64)), "save them as"),
        "negative": (_saved(data=-noise(dtype=np.int16)), "must lie in"),
        "above 2^31": (_saved(data=np.full((64, 64), 2**31, np.uint32)), "must lie in"),
        "colour": (_saved(data=noise((64, 64, 3), np.uint8), photometric="rgb"), "one label number"),
        "3 pages": (_saved(data=noise((3, 64, 64)), photometric="minisblack"), "one file per"),
        "deflate bomb": (_lazy(lambda: tiff({COMPRESSION: DEFLATE}, deflated(3000))), AGAIN),
        "CMYK": (_saved(data=noise((64, 64, 4), np.uint8), photometric="separated"), "save"),
    }
    for what, (write, mend) in kinds.items():
        yield Case(f"labels: {what}", labels, _file("a.tif", write), ["a.tif"], mend)
    lzw = tiff({COMPRESSION: LZW}, b"\x80" + bytes(500))
    yield Case("labels: broken LZW", labels, _file("a.tif", lzw), ["a.tif"], AGAIN)
    yield Case("labels: empty file", labels, _file("a.tif", b""), ["a.tif"], "copy or export")
