"""Drift detectors against plain loops, closed forms and runs of known length."""

import json
import logging
import math

import numpy as np
import pytest
from scipy.stats import binom, kstest
from sklearn.metrics.pairwise import rbf_kernel

from phenokeep.studies.drift import MMDTest, OnlineMMD
from phenokeep.studies.drift_files import DetectorError
from phenokeep.studies.drift_runs import (
    RunLength,
    achieved_run_length,
    image_means,
    plate_orders,
    runs,
    separability,
)
from phenokeep.studies.mmd import kernel_scale, mmd2, run_thresholds, window_statistics

SMALL = {"expected_run_time": 16, "window": 4}


def normal(seed, *shape):
    return np.random.default_rng(seed).normal(size=shape)


def plain_mmd2(x, y, scale):
    """The unbiased estimate, pair by pair."""

    def k(a, b):
        return math.exp(-sum((p - q) ** 2 for p, q in zip(a, b, strict=True)) / scale)

    n, m = len(x), len(y)
    within_x = sum(k(x[i], x[j]) for i in range(n) for j in range(n) if i != j) / (n * (n - 1))
    within_y = sum(k(y[i], y[j]) for i in range(m) for j in range(m) if i != j) / (m * (m - 1))
    return within_x + within_y - 2 * sum(k(a, b) for a in x for b in y) / (n * m)


def kernel_of(x, scale):
    kernel = rbf_kernel(x, gamma=1 / scale)
    np.fill_diagonal(kernel, 0)
    return kernel


def crops(rng, images, per_image, correlation, dimensions=32):
    shared = rng.normal(size=(images, 1, dimensions)) * math.sqrt(correlation)
    return shared + rng.normal(size=(images, per_image, dimensions)) * math.sqrt(1 - correlation)


@pytest.fixture(scope="module")
def detector():
    return OnlineMMD(**SMALL).fit(normal(0, 200, 3), {"weights": "abc", "layer": 4})


def test_mmd2_is_the_sum_over_pairs():
    x, y = normal(1, 7, 3), normal(2, 5, 3) + 0.4
    pooled = np.concatenate([x, y])
    splits = np.array([np.arange(12) < 7, np.arange(12) % 3 == 0])
    values = mmd2(kernel_of(pooled, 4.2), splits)
    assert values == pytest.approx([plain_mmd2(pooled[split], pooled[~split], 4.2) for split in splits], abs=1e-13)


def test_scale_is_the_median_over_different_points():
    points = np.array([[0.0, 0], [3, 4], [6, 8]])
    squared = [float(((points[i] - points[j]) ** 2).sum()) for i, j in ((0, 1), (0, 2), (1, 2))]
    assert sorted(squared) == [25, 25, 100]
    assert kernel_scale(np.array(squared)) == 25
    assert kernel_scale(np.array(squared), "paper") == 50
    x = normal(3, 60, 8)
    upper = [((a - b) ** 2).sum() for i, a in enumerate(x) for b in x[i + 1 :]]
    for median_scale, factor in (("alibi", 1), ("paper", 2)):
        fitted = OnlineMMD(**SMALL, median_scale=median_scale).fit(x)
        assert fitted.scale == pytest.approx(factor * np.median(upper))
    with pytest.raises(ValueError, match="repeated or blank"):
        kernel_scale(np.zeros(3))


def test_offline_test_keeps_its_level_and_finds_a_shift():
    results = [MMDTest(normal((4, i), 30, 4), seed=i).test(normal((5, i), 20, 4)) for i in range(200)]
    p = np.array([result.p for result in results])
    assert kstest(p + np.random.default_rng(0).uniform(0, 0.01, 200), "uniform").pvalue > 0.01
    assert sum(result.drift for result in results) <= binom.ppf(0.999, 200, 5 / 101)
    shifted = MMDTest(normal(6, 100, 4)).test(normal(7, 50, 4) + 1)
    assert shifted.p == 0
    assert shifted.drift


def test_offline_statistic_uses_the_pooled_median():
    x, y = normal(8, 9, 2), normal(9, 6, 2) + 0.5
    pooled = np.concatenate([x, y])
    median = np.median([((a - b) ** 2).sum() for i, a in enumerate(pooled) for b in pooled[i + 1 :]])
    assert MMDTest(x).test(y).statistic == pytest.approx(plain_mmd2(x, y, median))
    assert MMDTest(x, median_scale="paper").test(y).statistic == pytest.approx(plain_mmd2(x, y, 2 * median))


def test_window_statistics_are_mmd2_of_the_same_points(monkeypatch):
    x, window = normal(10, 40, 3), 5
    rng = np.random.default_rng(11)
    extended = np.stack([rng.choice(40, 2 * window - 1, replace=False) for _ in range(6)])
    ours = window_statistics(kernel_of(x, 5.0), extended)
    assert ours.shape == (6, window)
    for b in (0, 3, 5):
        outside = np.delete(x, extended[b], axis=0)
        for w in range(window):
            assert ours[b, w] == pytest.approx(plain_mmd2(outside, x[extended[b, w : w + window]], 5.0), abs=1e-12)
    monkeypatch.setattr("phenokeep.studies.mmd.BLOCK_CELLS", 100)  # one window at a time
    assert window_statistics(kernel_of(x, 5.0), extended) == pytest.approx(ours, abs=1e-13)


def test_a_step_is_mmd2_of_the_last_window(detector):
    detector.reset()
    outside = detector.reference[detector.order[: 200 - 7]]
    seen = list(detector.reference[detector.order[200 - 7 :][:4]])
    for time, x in enumerate(normal(12, 6, 3), 1):
        state = detector.update(x)
        seen.append(x)
        assert state.statistic == pytest.approx(plain_mmd2(outside, seen[-4:], detector.scale), abs=1e-12)
        assert state.threshold == detector.thresholds[min(time, 3)]
        assert state.drift == (state.statistic > state.threshold)
        assert state.time == time


def test_thresholds_stop_their_share_of_what_is_left():
    statistics = normal(13, 20_000, 6)  # independent columns: every threshold is the quantile of a normal
    thresholds, left = run_thresholds(statistics, 20)
    assert thresholds == pytest.approx([1.645] * 6, abs=0.06)
    assert left.mean() == pytest.approx(0.95**6, abs=1e-3)
    assert (left == (statistics < thresholds).all(axis=1)).all()
    with pytest.raises(ValueError, match="all alike"):
        run_thresholds(np.zeros((50, 2)), 20)


def test_survivors_and_thresholds_of_windows():
    x = normal(14, 300, 8)
    rng = np.random.default_rng(15)
    extended = np.stack([rng.choice(300, 19, replace=False) for _ in range(4000)])
    statistics = window_statistics(kernel_of(x, 16.0), extended)
    thresholds = {}
    for expected in (16, 32, 128):
        thresholds[expected], left = run_thresholds(statistics, expected)
        assert left.mean() == pytest.approx((1 - 1 / expected) ** 10, abs=0.005)
    assert (thresholds[16] < thresholds[32]).all()
    assert (thresholds[32] < thresholds[128]).all()


def test_runs_without_a_change_are_as_long_as_expected():
    means, lengths = [], []
    for draw in range(20):
        rng = np.random.default_rng((16, draw))
        detector = OnlineMMD(32, 10, seed=draw).fit(rng.normal(size=(300, 8)))
        found = []
        for _ in range(40):
            detector.reset()
            state = detector.update(rng.normal(size=(500, 8)))
            assert state.drift, "a run that is cut short would bring the mean down"
            found.append(state.time)
        lengths += found
        means.append(np.mean(found))
    error = np.std(means, ddof=1) / math.sqrt(len(means))
    assert error < 2
    assert abs(np.mean(means) - 32) < 4 * error
    assert np.mean(means) == pytest.approx(32, rel=0.15)
    assert np.median(lengths) / np.mean(lengths) == pytest.approx(math.log(2), abs=0.15)


def test_a_change_is_found_soon():
    detector = OnlineMMD(128, 10).fit(normal(17, 500, 32))
    found = [detector.reset() or detector.update(normal((18, i), 100, 32) + 0.5).time for i in range(10)]
    assert 2 < np.mean(found) < 9


def test_crops_in_image_order_alarm_at_once_and_means_of_images_do_not():
    rng = np.random.default_rng(19)
    by_crop = OnlineMMD().fit(crops(rng, 20, 50, 0.1).reshape(1000, 32))
    by_image = OnlineMMD().fit(crops(rng, 1000, 50, 0.1).mean(axis=1))
    ordered, shuffled, means = [], [], []
    for _ in range(12):
        stream = crops(rng, 20, 50, 0.1).reshape(1000, 32)
        for detector in (by_crop, by_image):
            detector.reset()
        ordered.append(by_crop.update(stream).time)
        by_crop.reset()
        shuffled.append(by_crop.update(rng.permutation(stream)).time)
        embeddings = crops(rng, 400, 50, 0.1).reshape(-1, 32)
        means.append(by_image.update(image_means(embeddings, np.repeat(np.arange(400), 50).astype(str))[0]).time)
    assert 5 < np.mean(ordered) < 14
    assert np.mean(shuffled) > 2.5 * np.mean(ordered)
    assert np.mean(means) > 64


@pytest.mark.parametrize("through_a_file", [False, True])
def test_a_stream_goes_on_bit_for_bit(detector, through_a_file, tmp_path):
    whole = OnlineMMD(**SMALL).fit(normal(0, 200, 3))
    broken = OnlineMMD(**SMALL).fit(normal(0, 200, 3), {"weights": "abc"})
    stream = normal(20, 40, 3)
    for x in stream[:13]:
        whole.update(x)
        broken.update(x)
    if through_a_file:
        broken.save(tmp_path / "drift.npz")
        broken = OnlineMMD.load(tmp_path / "drift.npz")
    else:
        state = broken.state_dict()
        broken.update(stream[0])  # must not reach into what was saved
        broken = OnlineMMD(**SMALL)
        broken.load_state_dict(state)
    assert broken.identity == {"weights": "abc"}
    for x in stream[13:26]:
        assert broken.update(x) == whole.update(x)
    whole.reset()
    broken.reset()
    assert (broken.order == whole.order).all()
    for x in stream[26:]:
        assert broken.update(x) == whole.update(x)


def test_components_are_the_principal_axes_of_the_reference_and_go_with_the_file(tmp_path):
    from sklearn.decomposition import PCA

    x = normal(27, 120, 6) * [5, 3, 1, 0.1, 0.1, 0.1]
    fitted = PCA(2, svd_solver="full").fit(x)
    plain = OnlineMMD(**SMALL).fit(fitted.transform(x))
    projected = OnlineMMD(**SMALL, components=2).fit(x)
    projected.save(tmp_path / "drift.npz")
    loaded, stream = OnlineMMD.load(tmp_path / "drift.npz"), normal(28, 20, 6) * 2 + 1
    for row in stream:
        state = projected.update(row)
        assert loaded.update(row) == state
        assert state.statistic == pytest.approx(plain.update(fitted.transform(row[None])[0]).statistic, abs=1e-9)
    assert loaded.reference.shape == (120, 2)
    with pytest.raises(ValueError, match="x has 2 dimensions, the reference 6"):
        loaded.update(np.zeros(2))
    with pytest.raises(ValueError, match="use at most 6"):
        OnlineMMD(**SMALL, components=7).fit(x)
    with pytest.raises(DetectorError, match="components 2, here None"):
        OnlineMMD(**SMALL, bootstraps=projected.bootstraps).load_state_dict(projected.state_dict())


def test_a_batch_is_its_rows_up_to_the_first_alarm(detector):
    stream = np.concatenate([normal(21, 3, 3), normal(22, 20, 3) + 4])
    detector.reset()
    order = detector.order
    at_once = detector.update(stream)
    detector.resets -= 1
    detector.reset()
    assert (detector.order == order).all()
    one_by_one = next(state for state in map(detector.update, stream) if state.drift)
    assert at_once == one_by_one
    assert 3 < at_once.time < 10


def test_every_reset_draws_another_window(detector):
    orders = set()
    for _ in range(5):
        detector.reset()
        orders.add(tuple(detector.order))
    assert len(orders) == 5
    assert detector.time == 0


def test_another_models_detector_is_refused(detector):
    detector.require({"layer": 4, "weights": "abc"})
    with pytest.raises(DetectorError, match=r"weights abc, here abd.*study=drift"):
        detector.require({"weights": "abd", "layer": 4})
    with pytest.raises(DetectorError, match="layer 4, here not stated"):
        detector.require({"weights": "abc"})
    with pytest.raises(DetectorError, match="weights not stated, here abc"):
        OnlineMMD(**SMALL).fit(normal(0, 40, 3)).require({"weights": "abc"})
    with pytest.raises(DetectorError, match="give str"):
        detector.fit(detector.reference, {"model": object()})


def test_bad_settings_and_observations_are_named(detector):
    needed = 128 / (1 - 1 / 128) ** 10
    with pytest.raises(ValueError, match=f"at least {math.ceil(needed)} are needed"):
        OnlineMMD(128, 10, bootstraps=math.floor(needed))
    assert OnlineMMD(128, 10).bootstraps == math.ceil(100 * needed)
    for wrong in ({"expected_run_time": 1}, {"expected_run_time": math.inf}, {"window": 1}, {"median_scale": "mean"}):
        with pytest.raises(ValueError, match="must be"):
            OnlineMMD(**wrong)
    with pytest.raises(ValueError, match="at least 21 observations"):
        OnlineMMD(16, 10).fit(normal(0, 20, 3))
    OnlineMMD(16, 10).fit(normal(0, 21, 3))
    with pytest.raises(DetectorError, match="not fitted"):
        OnlineMMD().update(np.zeros(3))
    with pytest.raises(ValueError, match="x has 4 dimensions, the reference 3"):
        detector.update(np.zeros(4))
    with pytest.raises(ValueError, match="NaN or infinite values in 1 of 2"):
        detector.update([[0, 0, 0], [0, np.nan, 0]])
    with pytest.raises(ValueError, match="one row of embedding"):
        OnlineMMD().fit(np.zeros((30, 4, 4)))
    with pytest.raises(ValueError, match="at least 20"):
        MMDTest(normal(0, 9, 2), permutations=19)


def test_damaged_and_foreign_files_are_refused(detector, tmp_path):
    good = tmp_path / "good.npz"
    detector.save(good)
    bad = tmp_path / "bad.npz"

    def refused(match):
        with pytest.raises(DetectorError, match=match) as caught:
            OnlineMMD.load(bad)
        assert str(bad) in str(caught.value)

    refused("no drift detector at")
    content = bytearray(good.read_bytes())
    content[len(content) // 3] ^= 1
    bad.write_bytes(content)
    refused("damaged")
    bad.write_bytes(good.read_bytes()[:-100])
    refused("damaged")
    np.savez(bad, settings=np.array({"a": 1}, dtype=object))
    refused("allow_pickle")
    np.savez_compressed(bad, reference=np.zeros((1000, 1000)))
    refused("unpack to more")
    np.savez(bad, reference=np.zeros((30, 3)))
    refused("settings")
    for key, value, match in (
        ("row_sums", np.full(200, np.nan), "its row_sums"),
        ("recent", np.zeros((4, 2)), "its recent"),
        ("time", np.float64(3), "its time"),
        ("order", np.zeros(200, dtype=int), "its order"),
    ):
        with np.load(good) as file:
            np.savez(bad, **{**file, key: value})
        refused(match)
    with pytest.raises(DetectorError, match="expected_run_time 16, here 32"):
        OnlineMMD(32, 4, bootstraps=detector.bootstraps).load_state_dict(detector.state_dict())


def test_image_means():
    embeddings = np.array([[1.0, 0], [5, 5], [3, 2], [2, 1]])
    means, names = image_means(embeddings, ["b", "a", "b", "b"])
    assert names == ["b", "a"]
    assert means == pytest.approx(np.array([[2, 1], [5, 5]]))
    with pytest.raises(ValueError, match="4 embeddings but 1"):
        image_means(embeddings, ["a"])


def test_mean_of_censored_runs_and_its_error():
    rng = np.random.default_rng(23)
    estimates, errors = [], []
    for _ in range(500):
        drawn = rng.geometric(1 / 40, 60)
        found = RunLength(40, 60, int((drawn <= 50).sum()), int(np.minimum(drawn, 50).sum()))
        estimates.append(found.mean)
        errors.append(found.standard_error)
    assert np.mean(estimates) == pytest.approx(40, rel=0.06)  # a capped mean would be 29
    assert np.mean(errors) == pytest.approx(np.std(estimates), rel=0.12)
    nothing = RunLength(40, 3, 0, 60)
    assert (nothing.mean, nothing.standard_error, nothing.too_short) == (math.inf, math.inf, False)
    assert "no alarm in 60 steps" in str(nothing)


def test_achieved_run_length_is_reported_and_warns(caplog):
    rng = np.random.default_rng(24)
    detector = OnlineMMD(16, 4, bootstraps=2000).fit(rng.normal(size=(400, 6)))
    stands = detector.state_dict()
    with caplog.at_level(logging.WARNING):
        good = achieved_run_length(detector, rng.normal(size=(200, 6)), number=60)
    assert not caplog.records
    assert abs(good.mean - 16) < 4 * good.standard_error + 3  # one reference and one held-out set, see the docstring
    assert detector.state_dict()["resets"] == stands["resets"]
    bad = achieved_run_length(detector, rng.normal(size=(200, 6)) * 1.5, number=40)
    assert bad.too_short
    assert str(bad) in caplog.text
    assert "one observation per image" in caplog.text
    with pytest.raises(ValueError, match="2 of 3 held-out"):
        achieved_run_length(detector, np.concatenate([detector.reference[:2], np.ones((1, 6))]))


def test_runs_along_a_plate_are_those_of_its_order(caplog):
    rng = np.random.default_rng(26)
    wells = np.repeat([f"w{well}" for well in range(20)], 9)
    shown = plate_orders(wells, 30, seed=1)
    assert (np.sort(shown) == np.arange(180)).all()
    assert (np.diff(shown.reshape(30, 20, 9)) == 1).all(), "a well's images stay together, in their order"
    assert len({tuple(stream) for stream in shown}) == 30
    detector = OnlineMMD(32, 6).fit(crops(rng, 60, 9, 0.15, 16).reshape(-1, 16))
    held_out = crops(rng, 20, 9, 0.15, 16).reshape(-1, 16)
    shuffled = achieved_run_length(detector, held_out, 40)
    assert not shuffled.too_short
    assert not caplog.text
    together = achieved_run_length(detector, held_out, 40, wells=wells)
    assert together.too_short
    assert together.mean < shuffled.mean / 2
    assert "fields of a well together" in caplog.text
    assert "one field per well" in caplog.text


def test_what_was_measured_in_control_is_kept_and_files_without_it_can_be_read(detector, tmp_path):
    path, kept = tmp_path / "drift.npz", {"runs": 40, "alarms": 3, "steps": 900, "by_well": True}
    detector.in_control = kept
    detector.save(path)
    assert OnlineMMD.load(path).in_control == kept
    with np.load(path) as file:
        arrays = dict(file)
    del arrays["in_control"]
    settings = json.loads(str(arrays["settings"]))
    del settings["components"]
    arrays["settings"] = np.array(json.dumps(settings))
    np.savez(path, **arrays)
    assert OnlineMMD.load(path).in_control == {}
    np.savez(path, **arrays, in_control=np.array('{"runs": 40}'))
    with pytest.raises(DetectorError, match="its in_control"):
        OnlineMMD.load(path)
    assert detector.fit(detector.reference).in_control == {}, "of another reference, nothing is known"


def test_runs_are_capped_at_the_stream(detector):
    found = runs(detector, normal(25, 5, 3), number=30)
    assert found.lengths.max() == 5
    assert (found.lengths[~found.alarmed] == 5).all()
    assert 0 < found.alarmed.sum() < 30
    assert runs(detector, normal(25, 5, 3), number=10, cap=2).lengths.max() == 2
    with pytest.raises(ValueError, match=r"1\.\.5"):
        runs(detector, normal(25, 5, 3), cap=6)


def test_separability_counts_pairs_and_halves_ties():
    clean, drifted = np.array([30, 50, 50, 4]), np.array([3, 4, 50])
    expected = np.mean([1.0 if c > d else 0.5 if c == d else 0.0 for c in clean for d in drifted])
    assert separability(clean, drifted) == pytest.approx(expected)
    with pytest.raises(ValueError, match="0 drifted"):
        separability(clean, np.array([]))
