"""Intervals against SciPy, closed forms and a plain loop; Holm against a worked example."""

import time

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from phenokeep.studies import statistics
from phenokeep.studies.statistics import Ratio, hierarchical_bootstrap, holm, mean_of, paired_bootstrap, pooled_f1

COUNTS = ["nuclei/rim_tp", "nuclei/rim_fp", "nuclei/rim_fn"]


def wells(n_wells: int, per_well: int, seed: int, between: float = 1.0, within: float = 1.0) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    group = np.repeat([f"p:{i:02d}" for i in range(n_wells)], per_well)
    x = np.repeat(rng.normal(0, between, n_wells), per_well) + rng.normal(0, within, n_wells * per_well)
    counts = pd.DataFrame(rng.poisson((4, 2, 3), (len(x), 3)), columns=COUNTS)
    return pd.concat(
        [pd.DataFrame({"id": [f"i{i:03d}" for i in range(len(x))], "group": group, "x": x}), counts], axis=1
    )


def loop_draws(table: pd.DataFrame, value, n: int, seed: int) -> np.ndarray:
    """The two stages written out: draw wells, then for each drawn copy draw its images."""
    rng = np.random.default_rng(seed)
    parts = [part.to_dict("records") for _, part in table.groupby("group")]
    draws = []
    for _ in range(n):
        rows = []
        for chosen in rng.integers(len(parts), size=len(parts)):
            part = parts[chosen]
            rows += [part[k] for k in rng.integers(len(part), size=len(part))]
        draws.append(value(rows))
    return np.array(draws)


def test_one_image_per_well_is_the_ordinary_bootstrap_of_scipy():
    table = wells(30, 1, seed=1)
    ours = hierarchical_bootstrap(table, mean_of("x"), n=20000, seed=3)
    theirs = stats.bootstrap((table["x"],), np.mean, n_resamples=20000, method="percentile", rng=4).confidence_interval
    width = theirs.high - theirs.low
    assert ours.estimate == pytest.approx(table["x"].mean())
    assert ours.low == pytest.approx(theirs.low, abs=0.03 * width)
    assert ours.high == pytest.approx(theirs.high, abs=0.03 * width)


def test_spread_of_a_balanced_mean_has_its_closed_form():
    table = wells(40, 6, seed=2)
    means = table.groupby("group")["x"].mean()
    inner = table.groupby("group")["x"].var(ddof=0)
    expected = np.sqrt(means.var(ddof=0) / 40 + inner.mean() / (40 * 6))
    interval = hierarchical_bootstrap(table, mean_of("x"), n=20000)
    assert (interval.high - interval.low) / (2 * stats.norm.ppf(0.975)) == pytest.approx(expected, rel=0.04)
    naive = table["x"].std(ddof=0) / np.sqrt(len(table))
    assert expected > 1.5 * naive  # images of one well are not independent, and the interval says so


def test_pooled_f1_of_unequal_wells_agrees_with_a_plain_loop():
    table = wells(8, 5, seed=5).drop(index=[0, 1, 2, 11, 12, 30])

    def f1(rows):
        tp, fp, fn = (sum(row[name] for row in rows) for name in COUNTS)
        return 2 * tp / (2 * tp + fp + fn)

    low, high = np.quantile(loop_draws(table, f1, 4000, seed=6), [0.05, 0.95])
    ours = hierarchical_bootstrap(table, pooled_f1("nuclei/rim_"), n=8000, seed=7, level=0.9)
    assert ours.estimate == pytest.approx(f1(table.to_dict("records")))
    assert (ours.low, ours.high) == pytest.approx((low, high), abs=0.04 * (high - low))


def test_paired_interval_is_that_of_the_differences_and_ignores_row_order():
    first = wells(12, 4, seed=8)
    second = first.assign(x=first["x"] - 0.3 + np.random.default_rng(9).normal(0, 0.1, len(first)))
    paired = paired_bootstrap(first, second.sample(frac=1, random_state=0), mean_of("x"), seed=10)
    direct = hierarchical_bootstrap(first.assign(x=first["x"] - second["x"]), mean_of("x"), seed=10)
    assert paired[:3] == pytest.approx(direct)
    assert paired.p == pytest.approx(2 / 2001)
    assert (paired.rows, paired.units) == (48, 12)


def test_p_is_two_sided_changes_with_neither_sign_nor_order_and_is_uniform_enough_under_no_difference():
    rng = np.random.default_rng(11)
    rejected = 0
    for _ in range(40):
        first = wells(16, 3, seed=int(rng.integers(1 << 30)))
        second = first.assign(x=first["x"] + np.repeat(rng.normal(0, 0.5, 16), 3) + rng.normal(0, 0.2, 48))
        forward = paired_bootstrap(first, second, mean_of("x"), n=200)
        backward = paired_bootstrap(second, first, mean_of("x"), n=200)
        assert forward.p == backward.p
        if abs(forward.p - 0.05) > 0.01:  # nearer, the added one of p and the interpolated limit may differ
            assert (forward.p < 0.05) == (forward.low > 0 or forward.high < 0)
        rejected += forward.p < 0.05
    assert rejected <= 8  # 2 expected; 9 or more has probability 1e-4 at a true level of 5 %, 0.02 at 10 %


def test_undefined_images_are_left_out_and_of_both_methods():
    first = wells(6, 3, seed=12)
    second = first.assign(x=first["x"] + 1.0)
    first.loc[[0, 7], "x"] = np.nan
    second.loc[[3], "x"] = np.nan
    assert mean_of("x")(first, np.ones((1, 18)))[0] == pytest.approx(np.nanmean(first["x"]))
    paired = paired_bootstrap(first, second, mean_of("x"))
    assert paired[:3] == pytest.approx((-1.0, -1.0, -1.0))
    assert paired.rows == 15


def test_one_well_or_one_defined_well_gives_no_interval():
    one = wells(1, 8, seed=13)
    interval = hierarchical_bootstrap(one, mean_of("x"))
    assert interval.estimate == pytest.approx(one["x"].mean())
    assert np.isnan([interval.low, interval.high]).all()
    empty = wells(3, 4, seed=14)
    empty.loc[empty["group"] != "p:01", COUNTS] = 0
    assert np.isnan(hierarchical_bootstrap(empty, pooled_f1("nuclei/rim_")).low)
    paired = paired_bootstrap(one, one.assign(x=0.0), mean_of("x"))
    assert np.isnan([paired.low, paired.high, paired.p]).all()
    assert paired.units == 1


def test_rows_of_one_image_are_drawn_together():
    table = wells(10, 2, seed=15)
    twice = pd.concat([table, table])
    assert hierarchical_bootstrap(twice, mean_of("x")) == pytest.approx(hierarchical_bootstrap(table, mean_of("x")))


def test_blocks_cover_every_resample_and_keep_the_size_of_balanced_tables(monkeypatch):
    table = wells(5, 4, seed=16)
    monkeypatch.setattr(statistics, "BLOCK_CELLS", 7 * len(table))
    blocks = list(statistics.resample_weights(table, "group", "id", 30, 0))
    assert [len(block) for block in blocks] == [7, 7, 7, 7, 2]
    assert (np.concatenate(blocks).sum(axis=1) == len(table)).all()


def test_unpaired_tables_and_empty_wells_are_refused():
    table = wells(4, 2, seed=17)
    with pytest.raises(ValueError, match="'i007'"):
        paired_bootstrap(table, table.drop(index=7), mean_of("x"))
    with pytest.raises(ValueError, match="stands twice"):
        paired_bootstrap(pd.concat([table, table]), table, mean_of("x"))
    with pytest.raises(ValueError, match="another group"):
        paired_bootstrap(table, table.assign(group="p:00"), mean_of("x"))
    with pytest.raises(ValueError, match="1 rows have no group"):
        hierarchical_bootstrap(table.assign(group=[None, *table["group"][1:]]), mean_of("x"))


def test_ratio_of_nothing_is_nan():
    table = pd.DataFrame({"a": [1.0, np.nan], "b": [0.0, 2.0]})
    assert np.isnan(Ratio({"a": 1}, {"b": 1})(table, np.ones((1, 2)))[0])


def test_holm_on_a_worked_example():
    # Sorted 0.005 x 4, 0.01 x 3, 0.03 x 2, 0.04 x 1, then each at least the one before: 0.02, 0.03, 0.06, 0.06.
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.6, 0.9]) == pytest.approx([1.0, 1.0])
    assert holm([0.02, np.nan, 0.03]) == pytest.approx([0.04, np.nan, 0.04], nan_ok=True)
    assert holm([]).size == 0


def test_ten_methods_take_less_than_two_seconds():
    tables = [wells(12, 5, seed=seed) for seed in range(10)]
    start = time.process_time()
    for table in tables:
        hierarchical_bootstrap(table, pooled_f1("nuclei/rim_"))
    assert time.process_time() - start < 2
