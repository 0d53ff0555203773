"""Image files in and out: every type survives, and every bad file gives one error that names it and the mend."""

import struct
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest
import skimage.measure
import tifffile
from PIL import Image

from phenokeep.imaging.io import (
    MAX_PIXELS,
    ImageError,
    read_header,
    read_image,
    read_labels,
    write_image,
)

BBBC039 = Path(__file__).parents[1].parent / "shared" / "data" / "bbbc039"


def noise(dtype, shape=(20, 30), seed=0):
    rng = np.random.default_rng(seed)
    if np.dtype(dtype).kind == "f":
        return rng.normal(size=shape).astype(dtype)
    return rng.integers(0, np.iinfo(dtype).max, shape, dtype=dtype)


def png_header(rows, columns):
    """A well-formed PNG header and next to no pixels."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", columns, rows, 16, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0")) + chunk(b"IEND", b"")


@pytest.mark.parametrize(
    ("name", "dtype"), [("a.tif", "uint8"), ("a.tiff", "uint16"), ("a.png", "uint8"), ("a.png", "uint16")]
)
def test_image_round_trip_keeps_values_and_type(tmp_path, name, dtype):
    image = noise(dtype)
    write_image(tmp_path / "new" / name, image)
    other = cv2.imread(str(tmp_path / "new" / name), cv2.IMREAD_UNCHANGED)  # a reader that io.py does not use here
    again = read_image(tmp_path / "new" / name)
    assert again.dtype == other.dtype == np.dtype(dtype)
    np.testing.assert_array_equal(again, image)
    np.testing.assert_array_equal(other, image)
    assert read_header(tmp_path / "new" / name).shape == (20, 30)
    assert [path.name for path in (tmp_path / "new").iterdir()] == [name]


def test_labels_masks_and_floats_round_trip(tmp_path):
    labels = noise("int32")
    write_image(tmp_path / "labels.tif", labels)
    np.testing.assert_array_equal(read_labels(tmp_path / "labels.tif"), labels)
    write_image(tmp_path / "mask.png", labels % 2 == 0)
    assert set(np.unique(read_image(tmp_path / "mask.png"))) == {0, 255}
    write_image(tmp_path / "float.tif", noise("float32"))
    np.testing.assert_array_equal(read_image(tmp_path / "float.tif"), noise("float32"))


def test_a_failed_write_leaves_the_old_file(tmp_path, monkeypatch):
    write_image(tmp_path / "a.tif", noise("uint8"))

    def fail(file, *args, **kwargs):
        Path(file).write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(tifffile, "imwrite", fail)
    with pytest.raises(OSError, match="No space"):
        write_image(tmp_path / "a.tif", noise("uint8", seed=1))
    np.testing.assert_array_equal(read_image(tmp_path / "a.tif"), noise("uint8"))
    assert [path.name for path in tmp_path.iterdir()] == ["a.tif"]


def test_write_refuses_what_the_format_cannot_hold(tmp_path):
    for name, array in [("a.png", noise("int32")), ("a.tif", noise("uint8", (2, 5, 5))), ("a.jpg", noise("uint8"))]:
        with pytest.raises(ImageError, match=f"{name}.*(give|use|write)"):
            write_image(tmp_path / name, array)


@pytest.mark.parametrize("options", [{"compression": "zlib", "predictor": True}, {"bigtiff": True}, {"tile": (16, 16)}])
def test_tiff_variants(tmp_path, options):
    image = noise("uint16", (40, 50))
    tifffile.imwrite(tmp_path / "a.tif", image, **options)
    np.testing.assert_array_equal(read_image(tmp_path / "a.tif"), image)


def test_odd_files_that_are_sound_are_read(tmp_path):
    """What the checks against stacks, colour and bombs must let pass."""
    image = noise("uint16", (40, 50))
    alpha = np.stack([image, np.full_like(image, 65535)], -1)
    odd = {
        "a stale ImageJ description": {"description": "ImageJ=1.54f\nimages=5\nslices=5\n", "metadata": None},
        "white is zero": {"photometric": "miniswhite"},
        "LZMA": {"compression": "lzma"},
        "deflated tiles that pass the edge": {"compression": "zlib", "tile": (16, 32)},
        "deflated strips": {"compression": "zlib", "rowsperstrip": 7},
    }
    for what, options in odd.items():
        tifffile.imwrite(tmp_path / "a.tif", image, **options)
        np.testing.assert_array_equal(read_image(tmp_path / "a.tif"), image, err_msg=what)
    tifffile.imwrite(tmp_path / "a.tif", alpha, photometric="minisblack", planarconfig="contig", extrasamples=[2])
    np.testing.assert_array_equal(read_image(tmp_path / "a.tif"), image)
    with tifffile.TiffWriter(tmp_path / "a.tif") as tiff:  # a thumbnail behind the image
        tiff.write(image)
        tiff.write(image[::2, ::2], subfiletype=1)
    np.testing.assert_array_equal(read_image(tmp_path / "a.tif"), image)
    write_image(tmp_path / "a.png", image)
    (tmp_path / "b.png").write_bytes((tmp_path / "a.png").read_bytes() + b"\n")
    np.testing.assert_array_equal(read_image(tmp_path / "b.png"), image)


def test_a_mask_of_one_bit_is_labels_and_no_image(tmp_path):
    for name in ("a.png", "a.tif"):
        Image.fromarray(np.eye(9, dtype=bool)).save(tmp_path / name)
        np.testing.assert_array_equal(read_labels(tmp_path / name), np.eye(9))
        with pytest.raises(ImageError, match=f"{name}: its pixels are bool; save it as"):
            read_image(tmp_path / name)


def test_lzw_and_a_wrong_suffix(tmp_path):
    image = noise("uint16")
    Image.fromarray(image).save(tmp_path / "a.png", format="TIFF", compression="tiff_lzw")
    np.testing.assert_array_equal(read_image(tmp_path / "a.png"), image)


def test_grey_stored_as_colour_collapses_and_colour_is_refused(tmp_path):
    for dtype in ("uint8", "uint16"):
        grey = noise(dtype)
        colour = np.stack([grey] * 3, -1)
        tifffile.imwrite(tmp_path / "grey.tif", colour, photometric="rgb")
        cv2.imwrite(str(tmp_path / "grey.png"), np.dstack([colour, np.full_like(grey, np.iinfo(dtype).max)]))
        tifffile.imwrite(
            tmp_path / "planar.tif", np.moveaxis(colour, -1, 0), photometric="rgb", planarconfig="separate"
        )
        for name in ("grey.tif", "grey.png", "planar.tif"):
            np.testing.assert_array_equal(read_image(tmp_path / name), grey)
        colour[3, 4, 1] ^= 1  # the lowest bit of one pixel: 16 bits must not be read as 8
        tifffile.imwrite(tmp_path / "colour.tif", colour, photometric="rgb")
        cv2.imwrite(str(tmp_path / "colour.png"), colour)
        for name in ("colour.tif", "colour.png"):
            with pytest.raises(ImageError, match=f"{name}: is a colour image.*save the channel"):
                read_image(tmp_path / name)


def bad_files(folder):
    """Yields (name, what the message says), having written the file."""
    image = noise("uint16", (64, 64))
    write_image(folder / "good.tif", image)
    write_image(folder / "good.png", image)
    tiff, png = (folder / "good.tif").read_bytes(), (folder / "good.png").read_bytes()
    (folder / "empty.tif").write_bytes(b"")
    yield "empty.tif", r"is empty \(0 bytes\); copy"
    (folder / "text.png").write_text("not an image at all, but long enough for a header")
    yield "text.png", "neither TIFF nor PNG.*export"
    for cut in (6, 200, len(tiff) // 2, len(tiff) - 1):
        (folder / f"cut{cut}.tif").write_bytes(tiff[:cut])
        yield f"cut{cut}.tif", "(truncated|not a readable TIFF).*export it again"
    for cut in (20, 100, len(png) // 2):
        (folder / f"cut{cut}.png").write_bytes(png[:cut])
        yield f"cut{cut}.png", "(cut off|truncated|cannot be decoded).*(export|copy)"
    flipped = bytearray(png)
    flipped[len(png) // 2] ^= 255
    (folder / "flipped.png").write_bytes(flipped)
    yield "flipped.png", "cannot be decoded.*copy or export"
    (folder / "huge.png").write_bytes(png_header(100_000, 100_000))
    yield "huge.png", f"100000 x 100000 pixels .*limit {MAX_PIXELS} pixels.*cut it"
    tifffile.imwrite(folder / "stack.tif", np.stack([image] * 3), photometric="minisblack")
    yield "stack.tif", "holds 3 planes and one is meant; save one file"
    tifffile.imwrite(
        folder / "channels.tif", np.stack([image] * 5, -1), photometric="minisblack", planarconfig="contig"
    )
    yield "channels.tif", "has 5 channels and one is meant; save one file"
    write_image(folder / "constant.png", np.full((8, 8), 7, np.uint8))
    yield "constant.png", "every pixel is 7; leave"
    for name, value in [("nan.tif", np.nan), ("inf.tif", np.inf)]:
        floats = noise("float32")
        floats[2, 3:5] = value
        tifffile.imwrite(folder / name, floats)
        yield name, "2 pixels are NaN or infinite; replace"
    tifffile.imwrite(folder / "signed.tif", image.astype(np.int16))
    yield "signed.tif", "pixels are int16; save it as"
    Image.fromarray(image.astype(np.uint8)).convert("P").save(folder / "palette.png")
    yield "palette.png", "colour table.*save it as grey"
    yield "missing.tif", "does not exist; correct"
    (folder / "folder.tif").mkdir()
    yield "folder.tif", "is a folder; name"


def test_every_bad_file_gives_one_error_with_its_name_and_mend(tmp_path):
    for name, message in bad_files(tmp_path):
        with pytest.raises(ImageError, match=message) as caught:
            read_image(tmp_path / name)
        assert str(tmp_path / name) in str(caught.value)
    assert read_image(tmp_path / "constant.png", allow_constant=True).max() == 7


def test_a_huge_tiff_is_refused_by_its_header(tmp_path):
    tifffile.imwrite(tmp_path / "huge.tif", noise("uint8"))
    data = bytearray((tmp_path / "huge.tif").read_bytes())
    with tifffile.TiffFile(tmp_path / "huge.tif") as tiff:
        for name in ("ImageWidth", "ImageLength", "RowsPerStrip"):
            tag = tiff.pages[0].tags[name]
            data[tag.valueoffset : tag.valueoffset + tag.count * 4] = struct.pack("<I", 60_000)[: tag.count * 4]
            data[tag.offset + 2 : tag.offset + 4] = struct.pack("<H", 4)
    (tmp_path / "huge.tif").write_bytes(data)
    with pytest.raises(ImageError, match=r"huge\.tif: its header says 60000 x 60000"):
        read_header(tmp_path / "huge.tif")


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "uint32", "int32"])
def test_label_types(tmp_path, dtype):
    labels = np.zeros((9, 9), dtype)
    labels[1:3, 1:3], labels[5:7, 5:7], labels[7, 0] = 1, 2, 100  # a label keeps its number, whatever its parts
    tifffile.imwrite(tmp_path / "a.tif", labels)
    found = read_labels(tmp_path / "a.tif")
    assert found.dtype == np.int32
    np.testing.assert_array_equal(found, labels)
    assert read_labels(tmp_path / "a.tif").max() == 100


def test_label_palette_binary_mask_and_refusals(tmp_path):
    labels = np.zeros((9, 9), np.uint8)
    labels[1:3, 1:3], labels[3, 3], labels[6:8, 6:8] = 3, 3, 5  # the first two touch at a corner
    palette = Image.fromarray(labels, "P")
    palette.putpalette(list(range(256)) * 3)
    palette.save(tmp_path / "palette.png")
    np.testing.assert_array_equal(read_labels(tmp_path / "palette.png"), labels)
    write_image(tmp_path / "binary.tif", labels > 0)
    np.testing.assert_array_equal(read_labels(tmp_path / "binary.tif"), skimage.measure.label(labels > 0))
    tifffile.imwrite(tmp_path / "large.tif", np.full((3, 3), 2**31, np.uint32))
    tifffile.imwrite(tmp_path / "float.tif", np.ones((3, 3), np.float32))
    tifffile.imwrite(tmp_path / "colour.tif", noise("uint8", (9, 9, 3)), photometric="rgb")
    for name, message in [("large", "0 .. 2"), ("float", "save them as unsigned"), ("colour", "one label number")]:
        with pytest.raises(ImageError, match=f"{name}.tif.*{message}"):
            read_labels(tmp_path / f"{name}.tif")


def test_touching_nuclei_in_colours_are_told_apart(tmp_path):
    colours = np.zeros((10, 12, 4), np.uint8)
    colours[..., 3] = 255
    colours[1:5, 1:5, 0], colours[1:5, 5:9, 0], colours[7:9, 1:4, 0], colours[7:9, 8:11, 0] = 1, 2, 1, 3
    Image.fromarray(colours).save(tmp_path / "a.png")
    labels = read_labels(tmp_path / "a.png")
    assert sorted(np.bincount(labels.ravel())[1:]) == [6, 6, 16, 16]
    assert ((labels > 0) == (colours[..., 0] > 0)).all()
    Image.fromarray(colours * np.uint8([0, 0, 0, 1])).save(tmp_path / "none.png")
    assert read_labels(tmp_path / "none.png").max() == 0


@pytest.mark.skipif(not BBBC039.is_dir(), reason="shared/data/bbbc039 is absent")
def test_real_masks_hold_the_nuclei_that_scikit_image_counts():
    for path in sorted((BBBC039 / "masks").iterdir())[:3]:
        expected = skimage.measure.label(np.asarray(Image.open(path))[..., 0])
        labels = read_labels(path)
        pairs = np.unique(np.stack([labels.ravel(), expected.ravel()]), axis=1)
        assert pairs.shape[1] == expected.max() + 1 == labels.max() + 1  # one to one, background included
        assert read_header(path).shape == (520, 696)
