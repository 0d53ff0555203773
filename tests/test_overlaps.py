"""Fields that show the same place are found, and nothing else is; a split keeps them on one side."""

import logging
import re

import numpy as np
import pandas as pd
import pytest
import tifffile
from PIL import Image

from phenokeep.datamodules.inpainting import Inpainting
from phenokeep.datamodules.overlaps import identical, join_families, overlapping
from phenokeep.datamodules.tables import TableError, assign_splits, check_images, main, read_index
from phenokeep.imaging.masks import Rectangles
from phenokeep.imaging.microscope import Microscope, Phenotype, Scene
from phenokeep.imaging.tiles import Zoom

HEIGHT, WIDTH = 260, 348  # of a field


@pytest.fixture(scope="module")
def exposed():
    """Exposes the field at (y, x) of one large drawn scene, each time with new camera noise and one vignetting."""
    microscope, rng = Microscope(), np.random.default_rng(1)
    scene = Scene.draw(3, (2 * HEIGHT, 2 * WIDTH), 0.65, Phenotype(density=680))
    light = microscope.fluorescence(scene)
    y, x = np.mgrid[-1 : 1 : HEIGHT * 1j, -1 : 1 : WIDTH * 1j]
    lamp = (1 - 0.15 * (y**2 + x**2)).astype(np.float32)
    return lambda y, x: microscope.expose(light[y : y + HEIGHT, x : x + WIDTH] * lamp, rng)


def index_of(tmp_path, images, wells=None, **columns):
    rows = []
    for number, image in enumerate(images):
        path = tmp_path / f"{number}.tif"
        tifffile.imwrite(path, image)
        well = wells[number] if wells else "A01"
        rows.append({"plate": "p", "well": well, "field": number, "pixel_size": 0.65, "image_nuclei": path.name})
    pd.DataFrame(rows).assign(**columns).to_csv(tmp_path / "index.csv", index=False)
    return read_index(tmp_path)


def joined(index, split_by="well"):
    return join_families(index, check_images(index).digests, split_by)


def pairs(index):
    return {(link.first, link.second) for link in overlapping(index, [np.arange(len(index))])}


def test_overlaps_are_found_whatever_their_side_and_strangers_are_not(tmp_path, exposed):
    below, right = HEIGHT - HEIGHT // 10, WIDTH - WIDTH // 10
    places = [(0, 0), (0, right), (below, 0), (below, right), (HEIGHT, WIDTH), (30, 50), (0, 0)]
    index = index_of(tmp_path, [exposed(y, x) for y, x in places])

    def share(a, b):  # of the field's area
        return max(0, 1 - abs(a[0] - b[0]) / HEIGHT) * max(0, 1 - abs(a[1] - b[1]) / WIDTH)

    shares = {(i, j): share(places[i], places[j]) for i in range(7) for j in range(i + 1, 7)}
    found = pairs(index)
    assert {pair for pair, part in shares.items() if part > 0.09} <= found  # a small corner need not show three nuclei
    assert found <= {pair for pair, part in shares.items() if part > 0}
    assert sum(part > 0.09 for part in shares.values()) == 12  # that many had to be found
    assert (0, 4) not in found


def test_empty_fields_and_single_nuclei_do_not_overlap(tmp_path):
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    images = []
    for number in range(9):
        image = rng.normal(200, 5, (HEIGHT, WIDTH)) + (np.linspace(0, 200, WIDTH) if number > 2 else 0)
        if number > 5:  # one or two round nuclei, and hot pixels that stand in every field
            for _ in range(number % 2 + 1):
                row, column = rng.uniform(20, HEIGHT - 20), rng.uniform(20, WIDTH - 20)
                image += 900 * ((y - row) ** 2 + (x - column) ** 2 < 81)
            image[[10, 100, 200, 220], [30, 300, 40, 333]] = 60000
        images.append(image.astype(np.uint16))
    assert pairs(index_of(tmp_path, images)) == set()


def test_overlapping_fields_share_a_parent_where_a_split_could_part_them(tmp_path, exposed, caplog):
    places = [(0, 0), (HEIGHT, 0), (0, WIDTH // 2), (HEIGHT, WIDTH)]
    index = index_of(tmp_path, [exposed(y, x) for y, x in places])
    by_well = joined(index)
    assert by_well["parent"].equals(index["parent"])  # a well is never divided: nothing is searched
    with caplog.at_level(logging.WARNING):
        by_field = joined(index, "field")
    assert list(by_field["parent"]) == ["p_A01_0", "p_A01_1", "p_A01_0", "p_A01_3"]
    assert re.search(r"0\.tif and \S*2\.tif overlap \((99|100) % x (49|50|51) % of the field\): kept", caplog.text)
    for seed in range(8):
        split = assign_splits(by_field, "field", seed=seed)["split"]
        assert split[0] == split[2]


def test_a_split_that_tears_an_overlap_is_refused_with_both_files(tmp_path, exposed):
    images = [exposed(0, 0), exposed(0, WIDTH // 2), exposed(HEIGHT, 0), exposed(HEIGHT, WIDTH)]
    index = index_of(tmp_path, images, split=["train", "test", "val", "val"])
    with pytest.raises(TableError, match=r"0\.tif \(train\) and \S*1\.tif \(test\) overlap .*two sides of the split"):
        joined(index)
    index = index_of(tmp_path, images, split=["train", "train", "val", "test"])
    assert joined(index)["parent"].nunique() == 3


def test_identical_pixels_are_found_anywhere_whatever_the_file(tmp_path, exposed):
    images = [exposed(0, 0), exposed(0, WIDTH), exposed(HEIGHT, 0), exposed(HEIGHT, WIDTH)]
    index = index_of(tmp_path, images, wells=["A01", "A02", "A03", "A04"])
    Image.fromarray(images[0]).save(tmp_path / "copy.png")
    tifffile.imwrite(tmp_path / "2.tif", images[0], compression="zlib")
    index.loc[3, "image_nuclei"] = str(tmp_path / "copy.png")
    report = check_images(index)
    assert [(link.first, link.second) for link in identical(report.digests)] == [(0, 2), (0, 3)]
    index = joined(index)
    assert list(index["parent"]) == ["p_A01_0", "p_A02_1", "p_A01_0", "p_A01_0"]
    with pytest.raises(TableError, match=r"0\.tif \(train\) and \S*2\.tif \(test\) have identical pixels"):
        joined(index.assign(split=["train", "train", "test", "train"]))


def test_families_keep_the_parents_that_were_written(tmp_path, exposed):
    """Row 1 comes from an original that is not in the table; row 2, its copy elsewhere, joins that family."""
    images = [exposed(0, 0), exposed(0, WIDTH), exposed(0, WIDTH), exposed(HEIGHT, 0)]
    images[2] = images[1]
    index = index_of(tmp_path, images, wells=["A01", "A02", "A03", "A04"], parent=["a", "a", None, None])
    assert list(joined(index)["parent"]) == ["a", "a", "a", "p_A04_3"]


def test_the_command_line_and_the_datamodule_keep_copies_together(plate, tmp_path, capsys, caplog):
    out = tmp_path / "index.csv"
    assert main([str(plate), "--pixel-size", "0.6", "--out", str(out)]) == 0
    index = read_index(out)
    index.loc[0, "image_nuclei"] = index.loc[1, "image_nuclei"]
    index.drop(columns="split").to_csv(out, index=False)
    for seed in range(4):
        data = Inpainting(str(out), Rectangles(), zoom=Zoom(64, 64, 64), seed=seed)
        data.setup()
        assert data.index["split"][0] == data.index["split"][1]
    index.assign(split=["train", "test", "val", "train", "train", "train"]).to_csv(out, index=False)
    with pytest.raises(TableError, match="have identical pixels, and lie on two sides"):
        Inpainting(str(out), Rectangles(), zoom=Zoom(64, 64, 64)).setup()
