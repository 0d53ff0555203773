"""Agreement against SciPy, plain loops and worked examples; its intervals in simulations; what its figures show."""

import io
import warnings

import numpy as np
import pandas as pd
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from PIL import Image
from scipy import stats

from phenokeep.studies import agreement_figures as figures
from phenokeep.studies.agreement import STATISTICS, agreement, agreement_table, paired
from phenokeep.studies.agreement import _statistics as weighted
from phenokeep.studies.overlay import COLOURS, colours, overlay, together
from phenokeep.studies.predicted_stains import stain_report

LIMITS = tuple(f"{name} {end}" for name in STATISTICS for end in ("low", "high"))


def wells(
    rng: np.random.Generator, n: int, per: int, between: float = 0.4
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Predicted and true values of images in wells, whose errors are alike within a well by `between`."""
    group = np.repeat([f"p:{number:02d}" for number in range(n)], per)
    true = np.repeat(rng.normal(0, 1, n), per) + rng.normal(0, 1, n * per)
    errors = np.repeat(rng.normal(0, between, n), per) + rng.normal(0, 0.4, n * per)
    return 0.5 + 0.9 * true + errors, true, group


def by_hand(predicted: np.ndarray, true: np.ndarray) -> list[float]:
    """The statistics by SciPy and plain loops, in the order of STATISTICS."""
    n, mean_p, mean_t = len(true), sum(predicted) / len(true), sum(true) / len(true)
    var_p = sum((p - mean_p) ** 2 for p in predicted) / n
    var_t = sum((t - mean_t) ** 2 for t in true) / n
    both = sum((p - mean_p) * (t - mean_t) for p, t in zip(predicted, true, strict=True)) / n
    bias, spread = np.mean(predicted - true), np.std(predicted - true, ddof=1)
    return [
        stats.pearsonr(predicted, true).statistic,
        stats.spearmanr(predicted, true).statistic,
        stats.linregress(true, predicted).slope,
        2 * both / (var_p + var_t + (mean_p - mean_t) ** 2),
        bias,
        bias - 1.96 * spread,
        bias + 1.96 * spread,
    ]


@pytest.mark.parametrize(("shift", "scale"), [(0, 1), (1e6, 1), (0, 1e-9), (-3e4, 250)])
def test_numbers_are_those_of_scipy_and_of_plain_loops(shift, scale):
    rng = np.random.default_rng(1)
    true = rng.poisson(30, 50).astype(float) * scale + shift  # counts: many ties
    predicted = true + rng.integers(-6, 9, 50) * scale
    found = agreement(predicted, true, resamples=20)
    assert [found[name] for name in STATISTICS] == pytest.approx(by_hand(predicted, true), rel=1e-7)
    assert (found["images"], found["wells"], found["reason"]) == (50, 50, "")


def test_a_weight_counts_a_pair_as_often():
    rng = np.random.default_rng(2)
    predicted, true, _ = wells(rng, 5, 4)
    weights = rng.integers(0, 4, (30, 20))
    draws = weighted(paired(predicted, true), weights.astype(float))
    for row, times in zip(draws, weights, strict=True):
        assert row == pytest.approx(by_hand(predicted.repeat(times), true.repeat(times)), rel=1e-10)


def test_bland_altman_by_hand():
    found = agreement([3, 5, 8, 6], [2, 5, 6, 7], resamples=20)  # differences 1, 0, 2, -1
    spread = np.sqrt(5 / 3)
    assert (found["bias"], found["lower limit"]) == pytest.approx((0.5, 0.5 - 1.96 * spread))
    assert found["upper limit"] == pytest.approx(0.5 + 1.96 * spread)


def test_perfect_and_shifted_predictions():
    true = np.random.default_rng(3).random(20) * 1e5
    perfect = agreement(true, true, np.arange(20) // 4, resamples=50)
    assert [perfect[name] for name in STATISTICS] == pytest.approx([1, 1, 1, 1, 0, 0, 0], abs=1e-9)
    assert [perfect[name] for name in LIMITS] == pytest.approx([1] * 8 + [0] * 6, abs=1e-9)
    shifted = agreement(true + 1e5, true, resamples=50)
    assert (shifted["Pearson"], shifted["slope"], shifted["bias"]) == pytest.approx((1, 1, 1e5))
    assert shifted["concordance"] == pytest.approx(2 * true.var() / (2 * true.var() + 1e10))
    assert agreement(-true, true, resamples=50)["concordance"] < 0


def test_intervals_hold_the_truth():
    rng = np.random.default_rng(4)
    var_t, var_p, both = 2, 0.81 * 2 + 0.32, 0.9 * 2
    truth = {
        "Pearson": both / np.sqrt(var_t * var_p),
        "slope": 0.9,
        "concordance": 2 * both / (var_t + var_p + 0.25),
        "bias": 0.5,
    }
    held = dict.fromkeys(truth, 0)
    for _ in range(100):
        found = agreement(*wells(rng, 12, 5), resamples=200, seed=int(rng.integers(1 << 30)))
        for name, value in truth.items():
            held[name] += found[f"{name} low"] <= value <= found[f"{name} high"]
    # 92 to 96 in 300 simulations of 400 resamples; fewer than 85 of 100 has probability 0.01 at 92 %.
    assert min(held.values()) >= 85
    assert max(held.values()) < 100


def test_intervals_are_wider_by_wells_where_images_of_a_well_are_alike():
    rng = np.random.default_rng(5)
    width = {"wells": [], "images": []}
    for _ in range(10):
        predicted, true, group = wells(rng, 12, 8, between=1.0)
        for kind, groups in (("wells", group), ("images", None)):
            found = agreement(predicted, true, groups, resamples=300)
            width[kind].append([found[f"{name} high"] - found[f"{name} low"] for name in ("bias", "concordance")])
    ratio = np.mean(width["wells"], axis=0) / np.mean(width["images"], axis=0)
    # Of the bias: sqrt(1 / 12 + .16 / 96) / sqrt(1.16 / 96) = 2.65; the true values' 0.1 matters little.
    assert ratio[0] == pytest.approx(2.65, rel=0.15)
    assert ratio[1] > 1.3


def test_seed_and_one_image_per_well():
    predicted, true, _ = wells(np.random.default_rng(6), 30, 1)
    alone = agreement(predicted, true, resamples=200, seed=7)
    assert alone == agreement(predicted, true, [f"w{number:02d}" for number in range(30)], resamples=200, seed=7)
    other = agreement(predicted, true, resamples=200, seed=8)
    assert other["Pearson"] == alone["Pearson"]
    assert other["Pearson low"] != alone["Pearson low"]
    theirs = stats.bootstrap(
        (predicted, true), lambda a, b: stats.pearsonr(a, b).statistic, paired=True, vectorized=False,
        n_resamples=3000, method="percentile", rng=9,
    ).confidence_interval  # fmt: skip
    ours = agreement(predicted, true, resamples=3000)
    assert (ours["Pearson low"], ours["Pearson high"]) == pytest.approx(
        (theirs.low, theirs.high), abs=0.1 * (theirs.high - theirs.low)
    )


def test_over_wells_is_agreement_of_means_over_pairs():
    predicted, true, group = wells(np.random.default_rng(10), 8, 4)
    predicted[0] = true[5] = np.nan
    over = agreement(predicted, true, group, over="wells", resamples=100)
    table = pd.DataFrame({"p": predicted, "t": true, "g": group}).dropna().groupby("g").mean()
    expected = agreement(table["p"], table["t"], table.index, resamples=100)
    assert all(over[name] == pytest.approx(expected[name]) for name in STATISTICS + LIMITS)
    assert [over[key] for key in ("images", "wells", "nothing predicted", "nothing true")] == [30, 8, 1, 1]


def test_pairs_without_a_value_are_left_out_and_counted():
    predicted, true, group = wells(np.random.default_rng(11), 6, 5)
    with_nan = predicted.copy(), true.copy()
    with_nan[0][[0, 7, 8]], with_nan[1][[7, 9]] = np.nan, np.nan
    keep = np.setdiff1d(np.arange(30), [0, 7, 8, 9])
    found = agreement(*with_nan, group, resamples=100)
    expected = agreement(predicted[keep], true[keep], group[keep], resamples=100)
    assert {**expected, "nothing predicted": 3, "nothing true": 2} == found
    assert found["images"] == 26


@pytest.mark.parametrize(
    ("predicted", "true", "reason", "bias"),
    [
        ([], [], "0 images have both values", None),
        ([1.0, 2.0], [1.0, 3.0], "2 images have both values", None),
        ([np.nan] * 5, [1.0, 2.0, 3.0, 4.0, 5.0], "0 images have both values", None),
        ([0.1] * 5, [1.0, 2.0, 3.0, 4.0, 5.0], "predicted is constant", -2.9),
        ([1.0, 2.0, 3.0, 4.0, 5.0], [1e7 / 3] * 5, "true is constant", 3 - 1e7 / 3),
        ([0.1 + 0.2, 0.3, 0.1 + 0.2], [7.0, 7.0, 7.0], "predicted is constant; true is constant", -6.7),
    ],
)
def test_degenerate_input_gives_nan_and_a_reason(predicted, true, reason, bias):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = agreement(predicted, true, np.arange(len(true)) // 2, resamples=50)
    assert found["reason"].startswith(reason)
    assert np.isnan([found[name] for name in STATISTICS[:4]]).all()
    assert np.isnan([found[f"{name} low"] for name in STATISTICS[:4]]).all()
    if bias is None:
        assert np.isnan([found[name] for name in STATISTICS + LIMITS]).all()
    else:
        assert found["bias"] == pytest.approx(bias)
        assert found["lower limit low"] <= found["lower limit"] <= found["bias"]


def test_one_well_has_no_interval_and_lost_resamples_are_told():
    predicted, true, _ = wells(np.random.default_rng(12), 1, 9)
    found = agreement(predicted, true, ["p:1"] * 9)
    assert found["reason"] == "one well: no intervals"
    assert found["Pearson"] == pytest.approx(stats.pearsonr(predicted, true).statistic)
    assert np.isnan([found[name] for name in LIMITS]).all()
    # All three draws fall on one image in 3 of 27 resamples.
    assert agreement([1, 2, 4], [1, 3, 2], resamples=4000)["reason"].startswith("constant in 11 % of resamples")


def test_input_that_cannot_be_compared_is_refused():
    with pytest.raises(ValueError, match=r"predicted is \(3,\), true \(2,\)"):
        agreement([1, 2, 3], [1, 2])
    with pytest.raises(ValueError, match="infinite"):
        agreement([1, 2, np.inf], [1, 2, 3])
    with pytest.raises(ValueError, match="2 groups for 3 images"):
        agreement([1, 2, 3], [1, 2, 3], ["a", "b"])
    with pytest.raises(ValueError, match="1 images have no group"):
        agreement([1, 2, 3], [1, 2, 3], ["a", None, "b"])
    with pytest.raises(ValueError, match="images or wells"):
        agreement([1, 2, 3], [1, 2, 3], over="plates")


@pytest.fixture(scope="module")
def images() -> pd.DataFrame:
    """A table of 40 images in 10 wells of two phenotypes, of which 3 have no predicted mean intensity."""
    rng = np.random.default_rng(13)
    table = pd.DataFrame({"group": np.repeat([f"p:{number}" for number in range(10)], 4)})
    table["phenotype"] = np.where(table["group"] < "p:4", "CHOZN", "H19")
    for name, size in (("count", 50), ("area", 2e4), ("total_intensity", 3e7), ("mean_intensity", 0.4)):
        true = size * rng.normal(1, 0.2, 40)
        table[f"er/{name}_true"], table[f"er/{name}_predicted"] = true, true * 0.9 + size * rng.normal(0, 0.05, 40)
    table.loc[[0, 1, 30], "er/mean_intensity_predicted"] = np.nan
    return table


def test_a_table_has_a_row_per_readout(images):
    table = agreement_table(images, "er", resamples=50)
    one = agreement(images["er/area_predicted"], images["er/area_true"], images["group"], resamples=50)
    assert table.set_index("readout").loc["area"].drop("over").to_dict() == one
    assert table["nothing predicted"].tolist() == [0, 0, 0, 3]
    with pytest.raises(KeyError, match="it has er/area, er/count"):
        agreement_table(images, "readouts")


@pytest.mark.parametrize("over", ["images", "wells"])
def test_figures_show_the_pairs_and_numbers_of_the_table(images, over):
    table = agreement_table(images, "er", over=over, resamples=50)
    for draw in (figures.scatter, figures.bland_altman):
        figure = draw(images, table, "er", by="phenotype")
        for axes, (_, row) in zip(figure.axes, table.iterrows(), strict=True):
            pairs = paired(images[f"er/{row['readout']}_predicted"], images[f"er/{row['readout']}_true"],
                           images["group"], over)  # fmt: skip
            shown = np.concatenate([np.asarray(dots.get_offsets()) for dots in axes.collections])
            shown = shown[shown.any(axis=1)]  # bands have one offset, 0 0
            x, y = pairs["true"], pairs["predicted"]
            x, y = (x, y) if draw is figures.scatter else ((x + y) / 2, y - x)
            assert np.sort(shown[:, 0]) == pytest.approx(np.sort(x))
            assert np.sort(shown[:, 1]) == pytest.approx(np.sort(y))
            first = [len(dots.get_offsets()) for dots in axes.collections if dots.get_label() == "CHOZN"]
            assert first == [(pairs["group"] < "p:4").sum()]
            assert f"{row['wells']} wells" in axes.get_title()
            if row["nothing predicted"]:
                assert "nothing predicted in 3" in axes.get_title()
            words = " ".join(text.get_text() for text in axes.texts)
            assert (f"{row['Pearson']:.3f}" if draw is figures.scatter else "+1.96 SD") in words
            heights = [line.get_ydata()[0] for line in axes.lines if len(set(line.get_ydata())) == 1]
            if draw is figures.bland_altman:
                assert heights[1:] == pytest.approx([row["upper limit"], row["bias"], row["lower limit"]])


def test_no_text_of_a_figure_leaves_it_or_covers_another(images):
    table = agreement_table(images, "er", resamples=50)
    names = list(table["readout"])
    for figure in (
        figures.scatter(images, table, "er", "phenotype"),
        figures.bland_altman(images, table, "er"),
        figures.violins(images, "er", names, "phenotype"),
        figures.violins(images, "er", names[:2]),
    ):
        canvas = FigureCanvasAgg(figure)
        canvas.draw()
        renderer = canvas.get_renderer()
        texts = []
        for axes in figure.axes:
            low, high = axes.get_xlim()
            ticks = [text for text in axes.get_xticklabels() if low <= text.get_position()[0] <= high]
            texts += [axes.title, axes.xaxis.label, axes.yaxis.label, *axes.texts, *ticks]
        boxes = [text.get_window_extent(renderer) for text in texts]
        for number, box in enumerate(boxes):
            assert min(box.x0, box.y0) > -1
            assert box.x1 < figure.bbox.x1 + 1
            assert box.y1 < figure.bbox.y1 + 1
            assert not any(box.overlaps(other) for other in boxes[:number]), texts[number]


def test_violins_are_drawn_of_enough_values_alone(images):
    images = images[(images["phenotype"] == "CHOZN") | (images["group"] == "p:9")]
    (axes,) = figures.violins(images, "er", ["mean_intensity"], "phenotype").axes
    assert [label.get_text() for label in axes.get_xticklabels()] == ["all", "CHOZN", "H19"]
    assert "n = 20 images true, 18 predicted" in axes.get_title()
    sizes = [len(part.get_offsets()) for part in axes.collections if part.get_offsets().any()]
    assert sizes == [18, 20, 14, 16, 4, 4]
    assert len(axes.collections) - len(sizes) == 4  # the violins of all and of CHOZN
    # Four images are too few for a well; one of eight has its pair beside that of all.
    images = pd.concat([images, images[images["group"] == "p:9"].assign(phenotype="H19")])
    (axes,) = figures.violins(images, "er", ["count"]).axes
    assert [label.get_text() for label in axes.get_xticklabels()] == ["all", "p:9"]
    assert len(axes.collections) == 8


def test_degenerate_tables_are_drawn_with_their_reason(images):
    images = images.assign(**{"er/count_predicted": 3.0, "er/area_true": np.nan})
    table = agreement_table(images, "er", ("count", "area"), resamples=50)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for figure in (figures.scatter(images, table, "er"), figures.bland_altman(images, table, "er")):
            FigureCanvasAgg(figure).draw()
            words = " ".join(text.get_text() for text in figure.axes[1].texts).replace("\n", " ")
            assert "0 images have both values" in words
        FigureCanvasAgg(figures.violins(images, "er", ["count", "area"])).draw()


def test_organelles_are_added_as_colours_on_one_range():
    low, high = np.zeros((2, 3)), np.array([[0.0, 5.0, 10.0], [20.0, 0.0, 10.0]])
    blue, orange = (np.array(COLOURS[name]) for name in ("blue", "orange"))
    alone = overlay({"nuclei": high, "er": low}, {"nuclei": (0, 10), "er": (0, 1)})
    assert alone[0, 1] == pytest.approx(0.5 * blue)
    assert alone[1, 0] == pytest.approx(blue)  # beyond the range, and no brighter
    both = overlay({"nuclei": high, "er": high}, {"nuclei": (0, 10), "er": (0, 10)})
    assert both[0, 2] == pytest.approx(np.minimum(blue + orange, 1))
    image = np.random.default_rng(14).random((30, 30))
    figure = figures.combined_pictures([("field 1", {"er": 0.5 * image}, {"er": image})])
    predicted, true = (axes.images[0].get_array() for axes in figure.axes)
    assert predicted.sum() < 0.5 * true.sum()  # a faint prediction looks faint
    with pytest.raises(ValueError, match="field 2"):
        figures.combined_pictures([("field 2", {"er": image}, {"nuclei": image})])


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["er", "nuclei"], ["orange", "blue"]),
        (["DAPI", "actin", "tubulin"], ["blue", "orange", "green"]),
        (["actin", "nuclei", "cytosol", "gfp"], ["orange", "blue", "green", "purple"]),
        (["nuclei", "dapi"], ["blue", "orange"]),
    ],
)
def test_every_organelle_has_a_colour_of_its_own(names, expected):
    assert colours(names) == dict(zip(names, expected, strict=True))


def test_one_picture_shows_two_to_seven_stains_and_no_control():
    assert together(["er", "control", "nuclei"]) == ["er", "nuclei"]
    assert together(["nuclei", "control"]) == []
    assert len(set(colours(together([f"stain {number}" for number in range(9)])).values())) == 7
    with pytest.raises(ValueError, match="8 organelles"):
        colours([f"stain {number}" for number in range(8)])


@pytest.mark.parametrize("targets", [["er", "control", "nuclei"], ["nuclei", "control"]])
def test_predicted_stains_are_shown_together_in_their_colours(targets):
    places = {"er": np.s_[2:8], "control": np.s_[0:0], "nuclei": np.s_[12:18]}

    def images(name):
        drawn = []
        for target in targets:
            image = np.zeros((20, 20), np.uint16)
            image[places[target]] = 1000
            drawn.append(image)
        return np.arange(400, dtype=np.uint16).reshape(20, 20), drawn

    fields = pd.DataFrame({"id": ["f"], "intensities": "counts of this plate", "measured_pixel_size": 0.65})
    (picture,) = stain_report(fields, images, ["dic"], targets).gallery
    shown = np.asarray(Image.open(io.BytesIO(picture.png)).convert("RGB"), dtype=float) / 255
    assert shown.shape[1] == 20 * (len(targets) + 1 + ("er" in targets)) + 6 * (len(targets) + ("er" in targets))
    if "er" in targets:
        assert "Right: together, in the same scale (er orange, nuclei blue)." in picture.caption
        assert shown[5, -10] == pytest.approx(COLOURS["orange"], abs=0.03)
        assert shown[15, -10] == pytest.approx(COLOURS["blue"], abs=0.03)
    else:
        assert "together" not in picture.caption
        assert shown[..., 0] == pytest.approx(shown[..., 2])
