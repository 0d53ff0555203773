"""Index tables and folders that must not pass as a plate."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import tifffile

from .case import Case, index, make_index, platemap
from .files import noise

Spoil = Callable[[pd.DataFrame], Any]
SMALL = "small_objects.tif"  # smaller than every image


def good(folder: Path) -> pd.DataFrame:
    """Writes four fields of 64 px with objects into a folder and returns their table, as a person would write it."""
    rows = []
    tifffile.imwrite(folder / SMALL, np.zeros((32, 32), np.int32))
    for number, well in enumerate(("A01", "A02", "A03", "A04")):
        tifffile.imwrite(folder / f"{well}.tif", noise(seed=number))
        tifffile.imwrite(folder / f"{well}_objects.tif", np.eye(64, dtype=np.int32))
        rows.append({"plate": "p1", "well": well, "field": "1", "pixel_size": "0.65", "image_nuclei": f"{well}.tif",
                     "objects_nuclei": f"{well}_objects.tif"})  # fmt: skip
    return pd.DataFrame(rows)


def _table(spoil: Spoil, name: str = "index.csv", **options: Any) -> Callable[[Path], Path]:
    """A builder of a table that `spoil` has changed: it returns the new one."""

    def build(folder: Path) -> Path:
        table = spoil(good(folder))
        if name.endswith(".parquet"):
            table.to_parquet(folder / name)
        else:
            table.to_csv(folder / name, index=False, **options)
        return folder / name

    return build


def _raw(change: Callable[[bytes], bytes], name: str = "index.csv") -> Callable[[Path], Path]:
    """A builder of a good CSV whose bytes are changed."""

    def build(folder: Path) -> Path:
        (folder / name).write_bytes(change(good(folder).to_csv(index=False).encode()))
        return folder / name

    return build


def cases() -> Iterator[Case]:
    yield from _columns()
    yield from _values()
    yield from _bytes()
    yield from _folders()
    yield from _plate_maps()


def _put(column: str, *values: Any) -> Spoil:
    """Replaces the first values of a column."""
    return lambda table: table.assign(**{column: [*values, *table.get(column, table["well"])[len(values) :]]})


def _columns() -> Iterator[Case]:
    columns: dict[str, tuple[Spoil, list[str], str]] = {
        "no well": (lambda table: table.drop(columns="well"), ["column well"], "add it"),
        "well misspelt": (lambda table: table.rename(columns={"well": "Wells"}), ["well"], "rename 'Wells'"),
        "no image": (lambda table: table.drop(columns="image_nuclei"), ["image_"], "add it|rename"),
        "no pixel size": (lambda table: table.drop(columns="pixel_size"), ["pixel_size"], "data.pixel_size"),
        "objects misspelt": (
            lambda table: table.rename(columns={"objects_nuclei": "object_nuclei"}),
            ["object_nuclei"], "is 'objects_nuclei' meant",
        ),
        "split misspelt": (lambda table: table.assign(splits="train"), ["splits"], "is 'split' meant"),
        "no rows": (lambda table: table.iloc[:0], [], "write one row"),
        "100 000 columns": (
            lambda table: pd.DataFrame([range(100_000)], columns=[f"c{n}" for n in range(100_000)]),
            ["100000 columns"], "Keep those",
        ),
        "another table": (
            lambda table: pd.DataFrame({"ImageNumber": [1], "Metadata_Well": ["A01"]}), ["column well"], "rename|add",
        ),
    }  # fmt: skip
    for what, (spoil, names, mend) in columns.items():
        yield Case(f"index: {what}", index, _table(spoil), ["index.csv", *names], mend)

    def twice(content: bytes) -> bytes:
        return content.replace(b"plate,", b"well,", 1)

    yield Case("index: a column twice", index, _raw(twice), ["index.csv", "well"], "twice|one of|rename|remove")


def _values() -> Iterator[Case]:
    values: dict[str, tuple[Spoil, list[str], str]] = {
        "duplicate ids": (_put("id", "a", "b", "a", "c"), ["column id", "'a'", "2, 4"], "its own"),
        "the same well and field twice": (_put("well", "A01", "A01"), ["column id", "2, 3"], "its own"),
        "an id that leaves the folder": (_put("id", "../../x", "b", "c", "d"), ["row 2", "column id"], "no slash"),
        "an empty well": (_put("well", "A01", None), ["row 3", "column well"], "fill it"),
        "pixel size 0": (_put("pixel_size", "0"), ["row 2", "column pixel_size"], "above 0"),
        "pixel size negative": (_put("pixel_size", "0.65", "-0.65"), ["row 3", "column pixel_size"], "above 0"),
        "pixel size infinite": (_put("pixel_size", "inf"), ["row 2", "column pixel_size"], "above 0"),
        "pixel size as text": (_put("pixel_size", "0.65 um"), ["row 2", "pixel_size", "0.65 um"], "write it like 0.65"),
        "pixel size with a comma": (_put("pixel_size", "0,65"), ["row 2", "pixel_size"], "write it like 0.65"),
        "pixel size empty": (_put("pixel_size", None), ["row 2", "pixel_size"], "data.pixel_size"),
        "pixel size of 650 m": (_put("pixel_size", "650000000"), ["row 2", "pixel_size"], "micrometres"),
        "a split typo": (
            _put("split", "train", "val", "tset", "test"), ["row 4", "column split", "tset"], "write train",
        ),
        "half a split": (_put("split", "train", None, "val", "test"), ["row 3", "column split"], "in every row"),
        "a leaky parent": (
            lambda table: table.assign(
                id=list("abcd"), parent=["a", "a", "c", "d"], split=["train", "test", "val", "test"]
            ),
            ["rows 2, 3", "column parent"], "the same split",
        ),
        "missing files": (_put("image_nuclei", "x.tif", "y.tif"), ["2 files", "row 2", "x.tif"], "correct the paths"),
        "an image that is a folder": (_put("image_nuclei", "."), ["row 2", "image_nuclei"], "correct the paths"),
        "a path with a NUL": (_put("image_nuclei", "a\0.tif"), ["row 2", "image_nuclei"], "save it again"),
        "an image outside that is none": (_put("image_nuclei", "/etc/passwd"), ["/etc/passwd"], "TIFF or PNG"),
        "a device as an image": (_put("image_nuclei", "/dev/zero"), ["row 2", "/dev/zero"], "correct the paths"),
        "objects of another size": (
            lambda table: table.assign(objects_nuclei=_small(table)), ["A01", "32x32", "64x64"], "one size",
        ),
        "an image as objects": (
            lambda table: table.assign(image_nuclei=table["objects_nuclei"]),
            ["A01_objects.tif", "int32"], "save it as",
        ),
    }  # fmt: skip
    for what, (spoil, names, mend) in values.items():
        yield Case(f"index: {what}", index, _table(spoil), names, mend)

    def few(folder: Path) -> Path:
        good(folder).iloc[:2].to_csv(folder / "index.csv", index=False)
        return folder

    yield Case("index: two wells for three splits", index, few, ["2 independent wells"], "add data")


def _small(table: pd.DataFrame) -> list[str]:
    return [SMALL, *table["objects_nuclei"][1:]]


def _bytes() -> Iterator[Case]:
    changes: dict[str, tuple[Callable[[bytes], bytes], list[str], str]] = {
        "UTF-16": (lambda content: content.decode().encode("utf-16"), [], "save it again|UTF-8"),
        "Latin-1": (lambda content: content.replace(b"p1", "Größe".encode("latin-1")), [], "save it again|UTF-8"),
        "tabs": (lambda content: content.replace(b",", b"\t"), ["tabs"], "comma|semicolon|separat"),
        "NUL bytes": (lambda content: content.replace(b"A02,", b"A\x0002,", 1), [], "NUL|save it again"),
        "all NUL": (lambda content: bytes(10_000), [], "save it again|write one row"),
        "empty": (lambda content: b"", [], "save it again|write one row"),
        "random bytes": (lambda content: noise((5000,), np.uint8).tobytes(), [], "save it again|add it"),
        "a quote that never ends": (lambda content: content.replace(b"A02,", b'"A02,', 1), [], "save it again|close"),
        "a row too long": (lambda content: content.rstrip() + b",x,y,z\n", [], "save it again|row"),
        "a row too short": (lambda content: content + b"p1,A05\n", ["row 6"], "fill|write"),
        "one line of 50 MB": (lambda content: b"a" * 50_000_000, [], "write one row|columns|save it again"),
        "one cell of 50 MB": (
            lambda content: content.replace(b"p1,A02", b"p1," + b"A" * 50_000_000, 1),
            ["line 3"], "save it again",
        ),
        "an Excel file named .csv": (
            lambda content: b"PK\x03\x04" + bytes(range(256)) * 20, [], "save it again|add it",
        ),
    }  # fmt: skip
    for what, (change, names, mend) in changes.items():
        yield Case(f"index: {what}", index, _raw(change), ["index.csv", *names], mend)
    for what, content in {
        "garbage": b"PAR1" + os.urandom(5000) + b"PAR1",
        "empty": b"",
        "a CSV": b"well,field\n",
    }.items():
        yield Case(
            f"index: Parquet, {what}", index, _raw(lambda _, content=content: content, "index.parquet"),
            ["index.parquet"], "save it again",
        )  # fmt: skip

    def nested(table: pd.DataFrame) -> pd.DataFrame:
        return table.assign(well=[["A01"]] * len(table))

    yield Case(
        "index: Parquet, lists in cells",
        index,
        _table(nested, "index.parquet"),
        ["index.parquet", "well"],
        "text|write",
    )
    yield Case("index: an Excel name", index, _raw(lambda content: content, "index.xlsx"), ["index.xlsx"], "convert it")


def _folders() -> Iterator[Case]:
    yield Case("folder: missing", index, lambda folder: folder / "gone", ["gone"], "give the folder")
    yield Case("folder: empty", index, lambda folder: folder, ["{folder}"], "give the folder")

    def names(folder: Path) -> Path:
        for name in ("one", "two"):
            tifffile.imwrite(folder / f"{name}.tif", noise())
        return folder

    yield Case("folder: names that say no well", index, names, ["{folder}", "one.tif"], "--pattern")

    def with_pixel_size(spoil: Callable[[Path], Any]) -> Callable[[Path], list[str]]:
        def build(folder: Path) -> list[str]:
            for number in (1, 2, 3):
                tifffile.imwrite(folder / f"B0{number}_1_nuclei.tif", noise(seed=number))
            spoil(folder / "B04_1_nuclei.tif")
            return [str(folder), "--pixel-size", "0.65"]

        return build

    spoils: dict[str, tuple[Callable[[Path], Any], str]] = {
        "a pipe among its images": (os.mkfifo, "name one image file|correct the paths"),
        "a folder among its images": (Path.mkdir, "name one image file|correct the paths"),
        "a symlink loop among its images": (lambda path: path.symlink_to(path), "check|correct|missing"),
        "a text among its images": (lambda path: path.write_text("none"), "TIFF or PNG"),
    }
    for what, (spoil, mend) in spoils.items():
        yield Case(f"folder: {what}", make_index, with_pixel_size(spoil), ["B04_1_nuclei.tif"], mend)
    arguments: dict[str, tuple[list[str], list[str], str]] = {
        "a broken pattern": (["--pattern", "(well"], ["(well"], "regular expression"),
        "a pattern without a well": (["--pattern", r"(?P<field>\d)"], ["well"], "named group"),
        "an unknown channel": (["--channel", "w9=nuclei"], ["w9"], "file names say"),
        "a pixel size that is text": (["--pixel-size", "abc"], ["--pixel-size", "abc"], "invalid float"),
        "a pixel size of 0": (["--pixel-size", "0"], ["pixel_size"], "above 0|write micrometres"),
        "an unknown split": (["--split-by", "tile"], ["--split-by", "tile"], "choose from"),
        "an output it cannot write": (["--out", "/proc/index.csv"], ["/proc/index.csv"], "may write"),
    }
    for what, (extra, mentioned, mend) in arguments.items():

        def build(folder: Path, extra: list[str] = extra) -> list[str]:
            return [*with_pixel_size(lambda path: tifffile.imwrite(path, noise(seed=4)))(folder), *extra]

        yield Case(f"index command: {what}", make_index, build, mentioned, mend)


def _plate_maps() -> Iterator[Case]:
    head = "well,compound,concentration,unit,role\n"
    texts: dict[str, tuple[bytes | str, list[str], str]] = {
        "a well twice": (head + "A01,x,1,uM,treatment\nA1,y,1,uM,treatment\n", ["A01", "row 2, row 3"], "keep one"),
        "a well that is none": (head + "Z99x,x,1,uM,treatment\n", ["row 2", "column well", "Z99x"], "like A01"),
        "an unknown role": (head + "A01,x,1,uM,contrl\n", ["contrl"], "negative"),
        "a concentration that is text": (
            head + "A01,x,lots,uM,treatment\n",
            ["row 2", "concentration", "lots"],
            "write it like",
        ),
        "a negative concentration": (
            head + "A01,x,-1,uM,treatment\n",
            ["row 2", "concentration", "-1"],
            "write it like",
        ),
        "a concentration without a unit": ("well,concentration\nA01,3\n", ["row 2", "unit"], "write its unit"),
        "no column well": ("compound,role\nx,positive\n", ["well"], "name it so"),
        "nothing": ("", [], "write one row"),
        "a header alone": (head, [], "write one row"),
        "UTF-16": ((head + "A01,x,1,uM,treatment\n").encode("utf-16"), [], "UTF-8"),
        "random bytes": (noise((3000,), np.uint8).tobytes(), [], "UTF-8"),
        "a grid with a gap in its columns": ("role,1,2,4\nA,positive,negative,empty\n", ["role"], "give all rows"),
        "a grid of text": ("role,1,2,3\nA,a,b,c\nB,d,e,f\n", ["role"], "negative"),
    }
    for what, (text, names, mend) in texts.items():
        content = text if isinstance(text, bytes) else text.encode()
        yield Case(
            f"plate map: {what}", platemap, _raw(lambda _, content=content: content, "map.csv"), ["map.csv", *names],
            mend,
        )  # fmt: skip
    yield Case("plate map: missing", platemap, lambda folder: folder / "gone.csv", ["gone.csv"], "give a CSV")
