"""Stains prepared before they are learned: the Golgi without its haze, masks of cells; and masks read again."""

import pickle

import numpy as np
import pandas as pd
import pytest
from hydra.utils import instantiate

from phenokeep.datamodules.pairs import Pairs
from phenokeep.imaging.io import write_image
from phenokeep.imaging.organelles import golgi_preprocessed, segment
from phenokeep.imaging.prepare import GolgiPrepared, OrganelleMask
from phenokeep.metrics import Readouts


def blobs(seed=0, side=192):
    """Two bright discs over an uneven haze, in counts."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:side, :side]
    image = 400 + 2.0 * y + rng.normal(0, 4, (side, side))
    for row, column in ((60, 70), (130, 120)):
        image[(y - row) ** 2 + (x - column) ** 2 < 14**2] += 900
    return image.astype(np.uint16)


def test_golgi_is_the_preprocessed_image_in_16_bits():
    prepared = GolgiPrepared(radius=40.0, shrink=2, percentile=80.0)(blobs())
    assert prepared.dtype == np.uint16
    np.testing.assert_allclose(prepared / 65535, golgi_preprocessed(blobs(), 40.0, 2, 80.0), atol=1e-5)
    assert (prepared == 0).mean() == pytest.approx(0.8, abs=0.01)


@pytest.mark.parametrize("organelle", ["nuclei", "gfp"])
def test_a_mask_holds_the_objects_and_is_read_as_such(organelle):
    mask = OrganelleMask(organelle)(blobs())
    np.testing.assert_array_equal(mask, 65535 * (segment(blobs(), organelle) > 0))
    found = segment(mask / 65535, "mask", min_area=30)
    assert found.max() == segment(blobs(), organelle).max() >= 2
    np.testing.assert_array_equal(found > 0, mask > 0)


def test_a_probability_counts_above_0_8():
    probability = np.zeros((64, 64))
    probability[5:25, 5:25], probability[35:55, 35:55], probability[5:10, 50:55] = 0.81, 0.79, 1.0
    assert segment(probability, "mask").max() == 1  # the second is too faint, the third too small
    measured = Readouts("mask").measure(probability[None, None], probability[None, None])
    assert measured["area_predicted"].item() == 400
    with pytest.raises(ValueError, match="all finite"):
        segment(np.full((4, 4), np.nan), "mask")


@pytest.fixture
def plate(tmp_path):
    rows = []
    for number in range(6):
        row = {"plate": "p", "well": f"B{number + 2:02d}", "field": 1, "pixel_size": 0.65}
        for name in ("dic", "gfp"):
            write_image(tmp_path / f"{name}{number}.tif", blobs(number + 10 * (name == "dic")))
            row[f"image_{name}"] = f"{name}{number}.tif"
        rows.append(row)
    pd.DataFrame(rows).to_csv(tmp_path / "index.csv", index=False)
    return tmp_path


def test_data_prepare_targets_alone_before_they_are_cut(plate):
    zoom = {"_target_": "phenokeep.imaging.tiles.Zoom", "crop": 64, "stride": 64, "size": 64}
    node = {"gfp": {"_target_": "phenokeep.imaging.prepare.OrganelleMask", "organelle": "gfp"}}
    data = Pairs(
        str(plate), targets=["gfp"], zoom=instantiate(zoom), prepare=instantiate(node, _convert_="all"), num_workers=0
    )
    data.setup()
    reader = pickle.loads(pickle.dumps(data.reader))  # as a worker gets it
    whole = reader.image(0)
    np.testing.assert_array_equal(whole[0], blobs(10))
    np.testing.assert_array_equal(whole[1], OrganelleMask("gfp")(blobs(0)))
    targets = np.concatenate([data.patches("test")[0, n]["target"].numpy() for n in range(len(data.patches("test")))])
    assert set(np.unique(targets)) == {0.0, 1.0}
    with pytest.raises(ValueError, match=r"data\.prepare changes golgi, and the targets are gfp"):
        Pairs(str(plate), targets=["gfp"], prepare={"golgi": GolgiPrepared()})
