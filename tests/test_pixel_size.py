"""Pixel size: read from files, never guessed, and fields of another size refused or resampled."""

import numpy as np
import pandas as pd
import pytest
import tifffile

from phenokeep.datamodules.inpainting import Inpainting
from phenokeep.datamodules.tables import TableError, build_index, read_index
from phenokeep.imaging.io import ImageError
from phenokeep.imaging.masks import Rectangles
from phenokeep.imaging.pixelsize import differs, read_pixel_size, rescale
from phenokeep.imaging.tiles import Zoom


def field(path, scale=1, shift=0):
    """Squares of 16 x 16 units on a field of 128 x 128, a unit being `scale` pixels wide; returns their labels."""
    labels = np.zeros((128, 128), np.uint16)
    for number, (y, x) in enumerate([(16, 16), (60, 20), (30, 70), (90, 90)], 1):
        labels[y + shift : y + shift + 16, x : x + 16] = number
    labels = np.kron(labels, np.ones((scale, scale), np.uint16))
    rng = np.random.default_rng(scale)
    image = np.where(labels > 0, 900, 200) + rng.normal(0, 5, labels.shape)
    tifffile.imwrite(path, image.astype(np.uint16))
    tifffile.imwrite(path.with_name(f"objects_{path.name}"), labels)
    tifffile.imwrite(path.with_name(f"mask_{path.name}"), np.full(labels.shape, 255, np.uint8))
    return labels


@pytest.fixture
def plate(tmp_path):
    """Six wells; the last two have pixels half as wide."""
    rows = []
    for number, split in enumerate(["train", "train", "train", "test", "val", "test"]):
        scale = 1 if number < 4 else 2
        field(tmp_path / f"{number}.tif", scale, shift=number)
        rows.append({"plate": "p", "well": f"B0{number + 2}", "field": 1, "split": split, "pixel_size": 0.6 / scale,
                     "image_nuclei": f"{number}.tif", "objects_nuclei": f"objects_{number}.tif",
                     "mask_all": f"mask_{number}.tif"})  # fmt: skip
    pd.DataFrame(rows).to_csv(tmp_path / "index.csv", index=False)
    return tmp_path


def module(root, **options):
    built = Inpainting(str(root), Rectangles(), zoom=Zoom(64, 64, 64), **options)
    built.setup()
    return built


def test_another_pixel_size_is_refused_with_both_sizes_and_the_mend(plate):
    with pytest.raises(TableError, match=r"p_B06_1 are 0\.3 um wide .*training 0\.6 um \(2 of 6.*data\.rescale=true"):
        module(plate)
    state = {"kind": "plate", "ranges": {"p": {"nuclei": [100.0, 900.0]}}, "pixel_size": 0.3}
    with pytest.raises(TableError, match=r"p_B02_1 are 0\.6 um wide .*training 0\.3 um \(4 of 6"):
        module(plate, scaling_state=state)


def test_rescaled_fields_labels_and_masks_lie_on_the_grid_of_training(plate):
    data = module(plate, rescale=True)
    assert data.scaling.state()["pixel_size"] == 0.6
    assert list(data.index["pixel_size"]) == [0.6] * 6
    for row in range(6):
        expected = field(plate / "again.tif", shift=row)
        image, labels = data.reader.image(row)[0], data.reader.labels(row)
        np.testing.assert_array_equal(labels, expected)
        assert image.dtype == np.uint16
        assert abs(image[labels > 0].mean() - 900) < 2
        assert abs(image[labels == 0].mean() - 200) < 2
        mask = data.reader.mask(row, "all")
        assert mask.shape == image.shape
        assert mask.all()
    for split in ("train", "val", "test"):
        assert data.patches(split)[0, 0]["pixel_size"].tolist() == [pytest.approx(0.6)] * 2


def test_a_checkpoint_keeps_its_pixel_size_when_fields_are_resampled(plate):
    state = {"kind": "plate", "ranges": {"p": {"nuclei": [100.0, 900.0]}}, "pixel_size": 0.3}
    data = module(plate, rescale=True, scaling_state=state)
    assert data.scaling.state() == state
    assert data.reader.image(0)[0].shape == data.reader.image(5)[0].shape == (256, 256)


def test_two_per_cent_is_no_difference():
    assert not differs(0.65, 0.66)
    assert differs(0.65, 0.67)


@pytest.mark.parametrize("factor", [0.5, 0.7, 1.6, 2])
def test_rescaling_keeps_type_mean_and_label_numbers(factor):
    labels = np.repeat(np.repeat(np.arange(1, 10).reshape(3, 3), 30, 0), 40, 1).astype(np.int32)
    image = (labels * 100).astype(np.uint16)
    small = rescale(image, factor)
    assert small.dtype == np.uint16
    assert small.shape == (round(90 * factor), round(120 * factor))
    assert small.mean() == pytest.approx(image.mean(), rel=0.005)
    assert set(np.unique(rescale(labels, factor, labels=True))) == set(range(1, 10))


def metaseries(x="1.3668", y="1.3668", unit="um", state="on"):
    """What MetaXpress writes into the description of a TIFF."""
    values = {"state": ("bool", state), "x": ("float", x), "y": ("float", y), "units": ("string", unit)}
    properties = "".join(
        f'<prop id="spatial-calibration-{name}" type="{kind}" value="{value}"/>'
        for name, (kind, value) in values.items()
    )
    return f'<MetaData><prop id="Description" type="string" value="x"/><PlaneInfo>{properties}</PlaneInfo></MetaData>'


def ome(**sizes):
    return {"ome": True, "metadata": {"axes": "YX", **sizes}}


def dpi(value, unit=2):
    return {"resolution": (value, value), "resolutionunit": unit, "metadata": None}


def imagej(size, unit):
    return {"imagej": True, "resolution": (1 / size, 1 / size), "metadata": {"unit": unit}}


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (ome(PhysicalSizeX=0.65, PhysicalSizeY=0.65), 0.65),
        (ome(PhysicalSizeX=325, PhysicalSizeXUnit="nm", PhysicalSizeY=0.325), 0.325),
        (ome(PhysicalSizeX=1, PhysicalSizeXUnit="pixel", PhysicalSizeY=1, PhysicalSizeYUnit="pixel"), None),
        (ome(), None),
        (imagej(0.65, "micron"), 0.65),
        (imagej(0.65, "\\u00B5m"), 0.65),
        (imagej(0.0005, "mm"), 0.5),
        (imagej(1, "pixel"), None),
        (imagej(1 / 72, "inch"), None),
        ({"description": metaseries(), "resolution": (72, 72), "metadata": None}, 1.3668),
        ({"description": metaseries(unit="microns"), "metadata": None}, 1.3668),
        ({"description": metaseries(state="off"), "metadata": None}, None),
        ({"description": metaseries(unit="pixel"), "metadata": None}, None),
        (dpi(72), None),
        (dpi(300), None),
        (dpi(2400), None),
        (dpi(1, 3), None),
        (dpi(10_000 / 0.5, 3), 0.5),
        (dpi(25_400 / 6.5), 6.5),
        (dpi(2, 1), None),  # no unit
        ({"metadata": None}, None),
    ],
)
def test_pixel_size_is_read_where_a_file_says_it(tmp_path, options, expected):
    path = tmp_path / "image.tif"
    tifffile.imwrite(path, np.arange(64, dtype=np.uint16).reshape(8, 8), **options)
    assert read_pixel_size(path) == (pytest.approx(expected, rel=1e-4) if expected else None)


def test_pixels_that_are_not_square_are_refused_and_damaged_metadata_says_nothing(tmp_path):
    image = np.arange(64, dtype=np.uint16).reshape(8, 8)
    tifffile.imwrite(tmp_path / "a.tif", image, **ome(PhysicalSizeX=0.65, PhysicalSizeY=0.5))
    with pytest.raises(ImageError, match=r"a\.tif: its pixels are 0\.65 x 0\.5 um and must be square"):
        read_pixel_size(tmp_path / "a.tif")
    tifffile.imwrite(tmp_path / "b.tif", image, description="<OME>" + "<x" * 9, metadata=None)
    tifffile.imwrite(tmp_path / "c.tif", image, description=metaseries(x="wide"), metadata=None)
    (tmp_path / "d.tif").write_bytes(b"II*\0")
    assert [read_pixel_size(tmp_path / f"{name}.tif") for name in ("b", "c", "d", "nowhere")] == [None] * 4


def said(tmp_path, *sizes):
    for number, size in enumerate(sizes, 1):
        image = np.random.default_rng(number).integers(0, 999, (9, 8)).astype(np.uint16)
        options = {"description": metaseries(size, size), "metadata": None} if size else {"metadata": None}
        tifffile.imwrite(tmp_path / f"A0{number}_1_nuclei.tif", image, **options)


def test_each_row_of_an_index_has_the_size_its_file_says(tmp_path):
    said(tmp_path, 0.65, 0.325)
    assert list(build_index(tmp_path)["pixel_size"]) == [0.65, 0.325]
    with pytest.raises(TableError, match=r"A02_1_nuclei\.tif says 0\.325 um per pixel, and 0\.65 um was given"):
        build_index(tmp_path, pixel_size=0.65)
    said(tmp_path, 0.65, None)
    with pytest.raises(TableError, match="_A02_1 does not say it; give it in micrometres"):
        build_index(tmp_path)
    assert list(build_index(tmp_path, pixel_size=0.66)["pixel_size"]) == [0.66, 0.66]  # within 2 %
    tifffile.imwrite(tmp_path / "A01_1_er.tif", np.eye(9, 8, dtype=np.uint16), description=metaseries("1", "1"))
    with pytest.raises(TableError, match=r"A01_1_nuclei\.tif says 0\.65 um per pixel, and 1 um says \S*A01_1_er\.tif"):
        build_index(tmp_path)
    tifffile.imwrite(tmp_path / "A01_1_er.tif", np.eye(9, 8, dtype=np.uint16), description=metaseries("1", "2"))
    with pytest.raises(TableError, match=r"A01_1_er\.tif: its pixels are 1 x 2 um and must be square"):
        build_index(tmp_path)


@pytest.mark.parametrize("size", [0, -1, float("nan"), float("inf"), "wide"])
def test_a_given_size_that_is_no_size_is_refused(tmp_path, size):
    said(tmp_path, 0.65)
    with pytest.raises(TableError, match=r"data\.pixel_size=.* is no width of a pixel; write micrometres"):
        build_index(tmp_path, pixel_size=size)


def test_a_table_overrules_its_files_and_what_it_leaves_open_is_read_from_them(tmp_path):
    said(tmp_path, 0.65, 0.65, None)
    rows = [{"well": f"A0{n}", "field": 1, "image_nuclei": f"A0{n}_1_nuclei.tif"} for n in (1, 2, 3)]
    table = pd.DataFrame(rows).assign(pixel_size=[0.3, None, 0.65])
    table.to_csv(tmp_path / "index.csv", index=False)
    assert list(read_index(tmp_path)["pixel_size"]) == [0.3, 0.65, 0.65]
    with pytest.raises(TableError, match=r"A02_1_nuclei\.tif says 0\.65 um per pixel, and 0\.5 um was given"):
        read_index(tmp_path, pixel_size=0.5)
    table.drop(columns="pixel_size").to_csv(tmp_path / "index.csv", index=False)
    with pytest.raises(TableError, match=r"row 4, column pixel_size is empty .*data\.pixel_size"):
        read_index(tmp_path)


def test_resampling_there_and_back_keeps_a_smooth_image():
    y, x = np.mgrid[:121, :90].astype(np.float32)
    image = np.sin(y / 15) + np.cos(x / 12)
    for factor in (256 / 180, 0.8):
        larger = rescale(image, factor)
        assert larger.shape == (round(121 * factor), round(90 * factor))
        back = rescale(larger, 1 / factor, shape=(121, 90))
        assert np.abs(back - image).max() < 0.06
