"""Tiles through a network and back: exact where they should be, and seams measured where they are not."""

import tracemalloc
from functools import cache

import numpy as np
import pytest
import torch
from scipy import ndimage

from phenokeep.imaging.tiling import geometry, seam, seam_error, stitch
from phenokeep.models.nets.labelfree_unet import LabelfreeUNet

MODES = [("crop", 8), ("mean", None), ("exact", 16)]


def _blobs(shape, seed=0):
    """Smooth structure over noise, in [0, 1]."""
    rng = np.random.default_rng(seed)
    image = ndimage.gaussian_filter(rng.random(shape), [0, 3, 3][-len(shape) :]) + 0.02 * rng.random(shape)
    return ((image - image.min()) / np.ptp(image)).astype(np.float32)


@cache
def _trained(depth, variant, steps=25):
    """A small U-Net after some steps towards what is brighter than its surroundings, in evaluation mode."""
    torch.manual_seed(0)
    net = LabelfreeUNet(filters=4, depth=depth, variant=variant)
    optimiser = torch.optim.Adam(net.parameters(), 1e-2)
    images = _blobs((8, 64, 64), seed=1)
    source = torch.from_numpy(images)[:, None]
    blurred = [ndimage.gaussian_filter(images, (0, sigma, sigma)) for sigma in (1, 8)]
    target = torch.from_numpy((blurred[0] > blurred[1]).astype(np.float32))[:, None]
    for _ in range(steps):
        optimiser.zero_grad()
        torch.nn.functional.mse_loss(net(source), target).backward()
        optimiser.step()
    return net.eval()


def _predict(net):
    def predict(tiles):
        with torch.inference_mode():
            return net(torch.from_numpy(tiles)).numpy()

    return predict


def _unlike(tiles):
    """A stand-in for a network, whose answer depends on the place in the tile and on all of the tile."""
    place = np.arange(tiles.shape[-1])
    return tiles * np.cos(place[:, None] + 2 * place) + tiles.mean(axis=(2, 3), keepdims=True)


def _reach(net, size):
    """How far into a tile of `size` pixels the network sees what lies outside: NaN spreads to all that it touches."""
    frame = torch.full((1, 1, 3 * size, 3 * size), torch.nan)
    frame[..., size : 2 * size, size : 2 * size] = 0.5
    with torch.inference_mode():
        clean = torch.isfinite(net(frame))[0, 0, size : 2 * size, size : 2 * size].numpy()
    rows = np.flatnonzero(clean.any(axis=1))
    assert clean[rows[0] : rows[-1] + 1, rows[0] : rows[-1] + 1].all()
    return max(rows[0], size - 1 - rows[-1])


@pytest.mark.parametrize(
    ("depth", "variant", "size", "shape"),
    [
        (2, "thesis", 64, (1, 131, 97)),
        (2, "thesis", 64, (1, 37, 20)),
        (2, "lachance", 64, (1, 90, 50)),
        (4, "thesis", 256, (1, 70, 131)),
    ],
)
def test_exact_equals_inference_on_the_reflected_image(depth, variant, size, shape):
    net = _trained(depth, variant)
    border, divisor = net.border, net.divisor
    assert border - divisor < _reach(net, size) <= border == {2: 24, 4: 96}[depth]
    predict, image, step = _predict(net), _blobs(shape), size - 2 * border
    stitched = stitch(predict, image, size, "exact", border, divisor)
    padding = [(0, 0), *((border, border + -side % step) for side in shape[1:])]
    whole = predict(np.pad(image, padding, mode="reflect")[None])[0]
    whole = whole[:, border : border + shape[1], border : border + shape[2]]
    assert whole.std() > 0.01  # the network has something to say
    np.testing.assert_allclose(stitched, whole, rtol=0, atol=1e-5)
    cropped = stitch(predict, image, size, "crop", 0, divisor)
    assert np.abs(cropped - whole).max() > 1e-3  # and would say something else where it sees too little


def test_crop_equals_a_plain_loop():
    image, size, border = np.random.default_rng(0).random((1, 75, 101)), 48, 8
    step = size - 2 * border
    padded = np.pad(image, [(0, 0), (border, border + step), (border, border + step)], mode="reflect")
    expected = np.zeros((1, 128, 128))
    for y in range(0, 75, step):
        for x in range(0, 101, step):
            tile = _unlike(padded[None, :, y : y + size, x : x + size])[0]
            expected[:, y : y + step, x : x + step] = tile[:, border:-border, border:-border]
    stitched = stitch(_unlike, image, size, "crop", border, batch_size=3)
    np.testing.assert_allclose(stitched, expected[:, :75, :101], rtol=1e-12)


def test_mean_equals_a_plain_loop():
    image, size = np.random.default_rng(0).random((1, 75, 101)), 64
    quarter = size // 4
    padded = np.pad(image, [(0, 0), (quarter, size), (quarter, size)], mode="reflect")
    total, count = np.zeros((1, 160, 160)), np.zeros((160, 160))
    for y in range(0, 75 - quarter, quarter):
        for x in range(0, 101 - quarter, quarter):
            tile = _unlike(padded[None, :, y : y + size, x : x + size])[0]
            total[:, y : y + 2 * quarter, x : x + 2 * quarter] += tile[:, quarter:-quarter, quarter:-quarter]
            count[y : y + 2 * quarter, x : x + 2 * quarter] += 1
    assert count[:75, :101].min() == 1
    assert count.max() == 4
    expected = total[:, :75, :101] / count[:75, :101]
    np.testing.assert_allclose(stitch(_unlike, image, size, "mean"), expected, rtol=1e-12)


@pytest.mark.parametrize(("mode", "border"), MODES)
@pytest.mark.parametrize("shape", [(2, 1, 1), (1, 2, 77), (3, 64, 64), (1, 63, 129), (2, 200, 17)])
def test_a_network_that_changes_nothing_gives_the_image_back(mode, border, shape):
    image = np.random.default_rng(0).normal(size=shape)
    np.testing.assert_array_equal(stitch(lambda tiles: tiles, image, 64, mode, border, batch_size=5), image)


def test_tiles_come_in_batches_with_all_planes_and_are_counted():
    image, seen, told = np.arange(2 * 100 * 70, dtype=np.uint16).reshape(2, 100, 70), [], []

    def predict(tiles):
        seen.append(tiles)
        return (tiles[:, [1, 0, 1]] / 2).astype(np.float32)

    stitched = stitch(predict, image, 48, "crop", 8, batch_size=4, progress=lambda *count: told.append(count))
    np.testing.assert_array_equal(stitched, image[[1, 0, 1]] / np.float32(2))
    assert [(tiles.shape, tiles.dtype) for tiles in seen] == [((n, 2, 48, 48), np.uint16) for n in (4, 4, 4)]
    assert told == [(4, 12), (8, 12), (12, 12)]


@pytest.mark.parametrize(("mode", "border"), MODES)
def test_memory_maps_in_and_out(mode, border, tmp_path):
    image = _blobs((1, 90, 150))
    np.save(tmp_path / "in.npy", image)
    out = np.lib.format.open_memmap(tmp_path / "out.npy", "w+", np.float32, image.shape)
    out[:] = np.nan  # what was there does not matter
    assert stitch(np.negative, np.load(tmp_path / "in.npy", mmap_mode="r"), 64, mode, border, out=out) is out
    np.testing.assert_array_equal(np.load(tmp_path / "out.npy"), -image)


@pytest.mark.parametrize(("mode", "border"), MODES)
def test_memory_does_not_grow_with_the_image(mode, border):
    def peak(side):
        image, out = np.ones((1, side, side), np.float32), np.zeros((1, side, side), np.float32)
        tracemalloc.start()
        stitch(lambda tiles: tiles, image, 64, mode, border, batch_size=4, out=out)
        most = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return most

    peak(64)
    assert peak(1024) < peak(128) + 40_000  # a few vectors as long as a side; the image itself has 4 MB
    assert peak(128) > 4 * 64 * 64 * 4  # a batch is seen at all


def test_seam_of_tiles_that_step():
    content = np.random.default_rng(0).normal(size=(192, 160))
    steps = content + 9 * ((np.arange(192)[:, None] // 32 + np.arange(160) // 32) % 2)
    jumps = {d: [] for d in range(32)}
    for plane in (steps, steps.T):
        for k in range(1, len(plane)):
            jumps[k % 32] += list(np.abs(plane[k] - plane[k - 1]))
    elsewhere = np.mean([jump for d in range(1, 32) for jump in jumps[d]])
    measured = seam(steps, 32)
    assert measured["seam"] == pytest.approx(np.mean(jumps[0]))
    assert measured["elsewhere"] == pytest.approx(elsewhere)
    assert measured["difference"] == pytest.approx(np.mean(jumps[0]) - elsewhere)
    assert measured["ratio"] == pytest.approx(np.mean(jumps[0]) / elsewhere, rel=1e-5)
    assert measured["shifted_ratio"] == pytest.approx(np.mean(jumps[16]) / elsewhere, rel=1e-5)
    assert measured["ratio"] > 4
    assert measured["rank"] == 1 / 32
    scaled = seam(1000 * steps, 32)
    assert scaled["ratio"] == pytest.approx(measured["ratio"])
    assert scaled["difference"] == pytest.approx(1000 * measured["difference"])


def test_no_seam_in_content_alone():
    measured = [seam(_blobs((250, 300), seed), 32) for seed in range(20)]
    assert np.mean([m["ratio"] for m in measured]) == pytest.approx(1, abs=0.03)
    assert 0.3 < np.mean([m["rank"] for m in measured]) < 0.7


def test_seam_is_finite_on_constant_images_and_right_for_counts():
    for value in (0, 7.5):
        flat = seam(np.full((40, 50), value), 16)
        assert (flat["ratio"], flat["shifted_ratio"], flat["difference"], flat["rank"]) == (1, 1, 0, 1)
    uneven = 2.0 ** np.arange(9)[:, None]
    step = seam(np.repeat([0, 3], 20) + uneven, 20)  # no boundary, and so no jump, between the 9 rows
    assert (step["seam"], step["elsewhere"], step["rank"]) == (3, 0, 1 / 20)
    assert step["ratio"] == pytest.approx(1 + 3 / (259 * np.finfo(np.float32).eps))
    assert seam(np.repeat([9, 2], 8).astype(np.uint8)[None], 8)["difference"] == 7


def test_the_seam_falls_with_the_border():
    predict = _predict(_trained(2, "thesis"))
    for seed in (1, 2):
        image, found = _blobs((1, 480, 480), seed), {}
        for border in (0, 4, 24):
            prediction = stitch(predict, image, 48 + 2 * border, "crop", border, 4)[0]
            found[border] = seam(prediction, geometry(48 + 2 * border, "crop", border, 4)[1])
        assert found[0]["ratio"] > 2 * found[24]["ratio"]
        assert found[0]["difference"] > found[4]["difference"] > found[24]["difference"]
        assert found[0]["rank"] == found[4]["rank"] == 1 / 48 < found[24]["rank"]
        assert found[24]["ratio"] == pytest.approx(1, abs=0.1)  # no seam: what is left of the ratio is content


def test_seam_error_tells_seams_from_elsewhere():
    reference = np.random.default_rng(0).random((40, 60))
    prediction = reference.copy()
    prediction[20, 5] += 4  # first row of the second tile
    prediction[30, 19] -= 2  # last column of the first tile
    prediction[10, 10] += 1  # inside
    measured = seam_error(prediction, reference, 20)
    pixels = 2 * 60 + 4 * 40 - 2 * 4
    assert measured["seam_max"] == pytest.approx(4)
    assert measured["seam_mean"] == pytest.approx(6 / pixels)
    assert measured["elsewhere_max"] == pytest.approx(1)
    assert measured["elsewhere_mean"] == pytest.approx(1 / (2400 - pixels))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"border": 32}, "lower border, or give a size above 64"),
        ({"border": -16}, "lower border"),
        ({"border": None}, r"border=net\.border"),
        ({"size": 60}, "no multiple of 16"),
        ({"mode": "exact", "border": 20}, "border divisible by 16"),
        ({"mode": "mean"}, "leave border out"),
        ({"mode": "hann"}, "crop, mean or exact"),
        ({"batch_size": 0}, "at least 1 tile"),
        ({"image": np.ones((40, 40))}, "give C Y X"),
        ({"image": np.ones((1, 0, 40))}, "give C Y X"),
        ({"image": np.full((1, 40, 40), np.nan)}, "NaN"),
        ({"predict": lambda tiles: tiles[0]}, "give floating B T Y X"),
        ({"predict": lambda tiles: tiles.astype(np.uint8)}, "uint8"),
        ({"predict": lambda tiles: tiles[..., 2:-2, 2:-2]}, "number and size"),
        ({"predict": lambda tiles: tiles[:1]}, "number and size"),
        ({"predict": lambda tiles: tiles * np.inf}, "predict gave NaN"),
        ({"out": np.zeros((2, 100, 100))}, r"floating \(1, 100, 100\)"),
        ({"out": np.zeros((1, 100, 100), int)}, "floating"),
    ],
)
def test_what_does_not_fit_is_said(changes, message):
    given = {"predict": lambda tiles: tiles, "image": np.ones((1, 100, 100)), "size": 64, "mode": "crop", "border": 8}
    with pytest.raises(ValueError, match=message):
        stitch(**given | changes)


def test_the_result_cannot_overwrite_the_image():
    image = np.ones((1, 100, 100))
    with pytest.raises(ValueError, match="apart from the image"):
        stitch(lambda tiles: tiles, image, 64, "crop", 8, out=image)


@pytest.mark.parametrize(
    ("prediction", "step", "message"),
    [
        (np.ones((1, 40, 40)), 20, "one plane"),
        (np.full((40, 40), np.inf), 20, "finite"),
        (np.ones((40, 30)), 40, "below 40"),
        (np.ones((40, 40)), 2, "no seam"),
    ],
)
def test_no_seam_to_measure(prediction, step, message):
    with pytest.raises(ValueError, match=message):
        seam(prediction, step)
    with pytest.raises(ValueError, match=message):
        seam_error(prediction, prediction, step)


def test_seam_error_wants_one_size():
    with pytest.raises(ValueError, match="one size"):
        seam_error(np.ones((40, 40)), np.ones((40, 41)), 20)
