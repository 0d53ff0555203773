"""People's scores: read with care, their agreement by hand and by SciPy, metrics beside them. Raters are made up."""

import numpy as np
import pandas as pd
import pytest
from scipy.stats import friedmanchisquare, kendalltau, spearmanr

from phenokeep.studies.correlation import KendallTauB, Less, Spearman
from phenokeep.studies.raters import kendalls_w, left_out_agreement, read_ratings, write_rating_sheet

PICTURES = ["a", "b", "c", "d"]
WIDE = "image,anna,ben,cleo\na,1,2,1\nb,2,2,3\nc,3,4,2\nd,4,3,4\n"


def written(tmp_path, text):
    path = tmp_path / "scores.csv"
    path.write_text(text)
    return path


def test_long_and_wide_are_the_same_scores(tmp_path):
    wide = read_ratings(written(tmp_path, WIDE), PICTURES)
    long = pd.read_csv(tmp_path / "scores.csv").melt("image", var_name="rater", value_name="score").sample(frac=1)
    again = read_ratings(written(tmp_path, long.to_csv(index=False)), PICTURES)
    pd.testing.assert_frame_equal(wide, again)
    assert wide.loc["c", "ben"] == 4


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (WIDE.replace("3,4,2", "3,,2"), r"row 4, column 'ben': the score is missing"),
        (WIDE.replace("3,4,2", "3,good,2"), r"row 4, column 'ben': 'good' is not a number"),
        (WIDE.replace("3,4,2", "3,inf,2"), r"row 4, column 'ben': 'inf' is not a number"),
        (WIDE.replace("c,3", "x,3"), r"row 4, column 'image': 'x' is no picture"),
        (WIDE.replace("c,3", "b,3"), r"row 4, column 'anna': rater 'anna' scored 'b' in row 3 already"),
        ("image,anna,cleo\na,1,5\nb,2,5\nc,3,5\n", "'cleo' gave every picture the score 5"),
        (WIDE.replace("anna", "ben"), "two columns 'ben'"),
        (WIDE.replace("image", "picture"), "no column 'image'"),
        ("image,anna\na,1\nb,2\nc,3\n", "holds 1 raters"),
        ("image,rater,score\na,anna,1\nb,anna,2\nc,anna,3\na,ben,1\nb,ben,2\n", "'ben' has no score for 'c'"),
        ("image,rater,score\na,anna,1\nb,,2\n", "row 3, column 'rater' is empty"),
        ("image,rater,score\na,anna,\n", "row 2, column 'score': the score is missing"),
        ("", "cannot be read"),
    ],
)
def test_what_is_wrong_with_scores_is_said(tmp_path, text, said):
    with pytest.raises(ValueError, match=said):
        read_ratings(written(tmp_path, text), PICTURES)


def test_a_missing_file_is_said(tmp_path):
    with pytest.raises(ValueError, match="cannot be read"):
        read_ratings(tmp_path / "none.csv", PICTURES)


def test_identical_raters_agree_wholly_and_reversed_ones_not_at_all():
    scores = np.array([3.0, 1.0, 4.0, 1.0, 5.0, 9.0])
    assert kendalls_w(np.stack([scores, 10 * scores, scores**3], 1)).w == pytest.approx(1)
    untied = np.arange(6.0)
    assert kendalls_w(np.stack([untied, -untied], 1)).w == pytest.approx(0)


@pytest.mark.parametrize("ties", [False, True])
def test_w_by_mean_spearman_and_by_friedman(ties):
    """Without ties W = ((m - 1) r + 1) / m of the mean Spearman r; with them Friedman's statistic is m (n - 1) W."""
    rng = np.random.default_rng(4)
    scores = rng.normal(size=(12, 1)) + rng.normal(size=(12, 4))
    scores = np.round(scores) if ties else scores
    found = kendalls_w(scores)
    friedman = friedmanchisquare(*scores)  # pictures as treatments, raters as blocks
    assert found.chi_square == pytest.approx(friedman.statistic)
    assert found.p == pytest.approx(friedman.pvalue)
    if not ties:
        pairs = [spearmanr(scores[:, i], scores[:, j])[0] for i in range(4) for j in range(i)]
        assert found.w == pytest.approx((3 * np.mean(pairs) + 1) / 4)


def test_no_ranking_is_refused():
    with pytest.raises(ValueError, match="no ranking"):
        kendalls_w(np.ones((5, 3)))


@pytest.fixture
def rated():
    rng = np.random.default_rng(0)
    truth = rng.normal(size=60)
    table = {name: truth + rng.normal(0, 0.6, 60) for name in ("anna", "ben", "cleo")}
    index = [f"p{number}" for number in range(60)]
    pictures = pd.DataFrame(
        {"id": [f"i{n // 3}" for n in range(60)], "group": [f"w{n // 6}" for n in range(60)]}, index
    )
    pictures["true"], pictures["blind"], pictures["upside down"] = truth, rng.normal(size=60), -truth
    return pd.DataFrame(table, index), pictures


def test_left_out_agreement_is_that_of_a_plain_loop(rated):
    ratings, pictures = rated
    table = left_out_agreement(ratings, pictures, ["true", "blind", "upside down"], 200, 0).set_index("judge")
    person, metric = [], []
    for rater in ratings:
        others = ratings.drop(columns=rater).rank().mean(axis=1)
        person.append(spearmanr(ratings[rater], others)[0])
        metric.append(spearmanr(pictures["true"], others)[0])
    assert table.loc["a rater", "agreement"] == pytest.approx(np.mean(person))
    assert table.loc["true", "agreement"] == pytest.approx(np.mean(metric))
    assert table.loc["a rater", ["least", "most"]].tolist() == pytest.approx([min(person), max(person)])
    assert table.loc["true", "to a rater"] == pytest.approx(np.mean(metric) - np.mean(person))
    assert table.loc["true", "to a rater low"] > 0  # less noisy than any person
    assert table.loc["blind", "to a rater high"] < 0
    assert table.loc["upside down", "agreement"] == pytest.approx(-np.mean(metric))


@pytest.mark.parametrize(("statistic", "scipy"), [(Spearman, spearmanr), (KendallTauB, kendalltau)])
def test_weighted_correlations_are_those_of_repeated_rows(statistic, scipy):
    rng = np.random.default_rng(1)
    table = pd.DataFrame({"x": rng.integers(0, 6, 700), "y": rng.normal(size=700).round(1)})
    table.loc[3, "y"] = np.nan
    weights = rng.integers(0, 3, (3, 700)).astype(float)
    for found, weight in zip(statistic("x", "y")(table, weights), weights, strict=True):
        repeated = table.loc[table.index.repeat(weight.astype(int))].dropna()
        assert found == pytest.approx(scipy(repeated["x"], repeated["y"])[0], abs=1e-12)


def test_a_constant_score_has_no_correlation():
    table = pd.DataFrame({"x": [0.1] * 5, "y": [1.0, 2, 3, 4, 5]})
    ones = np.ones((2, 5))
    for statistic in (Spearman("x", "y"), KendallTauB("x", "y"), Less(Spearman("x", "y"), Spearman("y", "y"))):
        assert np.isnan(statistic(table, ones)).all()


def test_a_sheet_is_never_overwritten(tmp_path):
    pairs = {"b1": (np.zeros((8, 8)), np.ones((8, 8))), "a2": (np.zeros((8, 8)), np.zeros((8, 8)))}
    key = pd.DataFrame({"picture": ["a2", "b1"]})
    sheet = write_rating_sheet(tmp_path, pairs, key)
    assert pd.read_csv(sheet)["image"].tolist() == ["a2", "b1"]
    assert sorted(path.name for path in (tmp_path / "rating").iterdir()) == ["a2.png", "b1.png"]
    with pytest.raises(FileExistsError, match="may hold scores"):
        write_rating_sheet(tmp_path, pairs, key)
