"""The study of damaged fields: its ruler, its policies against sums done by hand, and what it concludes."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from hydra.utils import instantiate

from phenokeep.datamodules.scaling import Scaling
from phenokeep.imaging.masks import Rectangles
from phenokeep.imaging.segment import segment_nuclei
from phenokeep.studies.damage import Bright, Dark, full_scale
from phenokeep.studies.policies import READOUTS, field_threshold, readouts, segment_visible, tally
from phenokeep.studies.policy_errors import AREA, RMSE, crossing_table, errors_by_well, policy_table, ruler_table
from phenokeep.studies.report import write_report
from phenokeep.studies.restore_or_exclude import RestoreOrExclude
from phenokeep.studies.subject import Subject

REAL = Path(__file__).parents[2] / "shared/data/bbbc039"
PIXEL, LEVEL, BRIGHT = 0.65, 200, 1000
DAMAGE = {"bright": Bright(), "dark": Dark()}


def discs(centres, shape=(160, 200), radius=7.0) -> np.ndarray:
    """Flat round nuclei on a flat background, uint16."""
    y, x = np.mgrid[: shape[0], : shape[1]]
    image = np.full(shape, LEVEL, np.uint16)
    for cy, cx in centres:
        image[np.hypot(y - cy, x - cx) <= radius] = BRIGHT
    return image


def field(rng: np.random.Generator, nuclei: int) -> np.ndarray:
    """Discs on a lattice with places left empty at random, none at the border, with a little noise."""
    places = [(y, x) for y in range(15, 150, 22) for x in range(15, 190, 22)]
    chosen = rng.permutation(len(places))[:nuclei]
    image = discs([places[place] for place in chosen], radius=6 + rng.uniform(0, 2))
    return (image + rng.normal(0, 3, image.shape)).clip(0).astype(np.uint16)


class Whole:
    """A data module of fields in memory."""

    channels = ("nuclei",)

    def __init__(self, fields: list[tuple[str, str, np.ndarray]], masks=None, labels=None) -> None:
        self.images = [image for _, _, image in fields]
        self.masks = masks or Rectangles()
        rows = [
            {"id": f"{plate}_{well}_{number}", "plate": plate, "well": well, "group": f"{plate}:{well}"}
            for number, (plate, well, _) in enumerate(fields)
        ]
        self.index = pd.DataFrame(rows).assign(split="test", pixel_size=PIXEL)
        self.reader = SimpleNamespace(
            image=lambda row: [self.images[row]], labels=lambda row: labels[row] if labels else None
        )


class Fake:
    """A predictor by a function of (damaged image, mask, intact image found by its known pixels)."""

    def __init__(self, data: Whole, fill) -> None:
        self.data, self.fill = data, fill

    def predict(self, image, mask, plate=None, pixel_size=None):
        assert pixel_size == PIXEL
        intact = next(i for i in self.data.images if np.array_equal(i[mask == 0], image[mask == 0]))
        return self.fill(image, mask, intact)


def perfect(image, mask, intact):
    return intact.copy()


def study(**changes) -> RestoreOrExclude:
    options = {"areas": [0.1, 0.3], "damage": DAMAGE, "fills": ["background_median"], "focus_area": 0.3}
    return RestoreOrExclude(**{**options, "n_bootstrap": 500, **changes})


def ask(data: Whole, fill=perfect, **changes):
    return study(**changes).run(Subject(datamodule=data, predictor=Fake(data, fill)))


def measured(data: Whole, fill=perfect, **changes) -> pd.DataFrame:
    return study(**changes).measure(Subject(datamodule=data, predictor=Fake(data, fill)))


def rows_of(table: pd.DataFrame, policy: str) -> pd.DataFrame:
    return table[table["policy"] == policy].reset_index(drop=True)


@pytest.fixture(scope="module")
def plate() -> Whole:
    rng = np.random.default_rng(3)
    return Whole([("p", f"w{well:02d}", field(rng, 16 + 3 * well)) for well in range(10)])


@pytest.fixture(scope="module")
def result(plate):
    return ask(plate)


def test_a_perfect_restoration_has_no_error_and_wins_everywhere(result):
    model = rows_of(result.tables["policies"], "restore (model)")
    assert len(model) == 2 * len(READOUTS)
    assert (model[["bias (%)", "RMSE (%)", "RMSE (%) high"]] == 0).all().all()
    np.testing.assert_allclose(model["Spearman"], 1)
    crossings = result.tables["crossings"].set_index("readout")
    assert crossings.loc["count", "restoring wins from"] == "10 %"
    assert crossings.loc["count", "lowest RMSE"] == "restore (model) at 10, 30 %"
    assert "from 10 % of the field on for count" in result.verdict
    assert "n = 10 wells" in result.verdict


def test_a_model_that_leaves_the_damage_is_the_policy_of_keeping(plate):
    wells = errors_by_well(measured(plate, lambda image, mask, intact: image))
    kept, restored = rows_of(wells, "keep (dark)"), rows_of(wells, "restore (model)")
    pd.testing.assert_series_equal(restored["value"], kept["value"])


def test_a_model_that_draws_background_is_that_null_and_loses(plate):
    def background(image, mask, intact):
        return np.where(mask != 0, np.rint(np.median(image[mask == 0])).astype(image.dtype), image)

    outcome = ask(plate, background)
    wells = outcome.tables["wells"]
    pd.testing.assert_series_equal(
        rows_of(wells, "restore (model)")["value"], rows_of(wells, "restore (background_median)")["value"]
    )
    crossings = outcome.tables["crossings"].set_index("readout")
    assert crossings.loc["count", ["restoring wins from", "loses at"]].tolist() == ["nowhere", "30 %"]
    assert "Excluding beats restoring for count at 30 %" in outcome.verdict
    beside = outcome.tables["comparisons"].query("question == 'against best fill'")
    assert (beside["difference"] == 0).all()
    assert beside["verdict"].str.startswith("not distinguished, n = 10").all()


def test_what_the_hole_holds_never_reaches_excluding_or_restoring(plate):
    bright, dark = (measured(plate, damage={name: DAMAGE[name]}) for name in DAMAGE)
    for policy in ("exclude", "restore (background_median)"):
        pd.testing.assert_frame_equal(rows_of(bright, policy), rows_of(dark, policy))


@pytest.mark.parametrize("rows", [slice(40, 120), slice(50, 130)], ids=["between nuclei", "through their centres"])
def test_excluding_is_exact_on_a_uniform_grid(rows):
    image = discs([(y, x) for y in range(10, 200, 20) for x in range(10, 240, 20)], (200, 240), radius=6)
    hole = np.zeros(image.shape, np.uint8)
    hole[rows, 60:160] = 1  # 20 lattice cells of 400 pixels, whole or as halves
    data = Whole([("p", "a", image), ("p", "b", image)], SimpleNamespace(draw=lambda rng, shape, band: hole))
    wells = errors_by_well(measured(data))
    excluded = rows_of(wells, "exclude").groupby("readout")[["value", "truth"]].first()
    assert excluded.loc["count", "truth"] == pytest.approx(120 / (200 * 240 * PIXEL**2 / 1e6))
    assert excluded.loc["count", "value"] == pytest.approx(excluded.loc["count", "truth"], rel=1e-9)
    np.testing.assert_allclose(excluded["value"], excluded["truth"], rtol=0.01)
    kept = rows_of(wells, "keep (dark)").groupby("readout")["error"].first()
    cut = 10 if rows.start == 50 else 0
    # Dark leaves halves of the cut nuclei, which then count whole.
    assert kept["count"] / excluded.loc["count", "truth"] == pytest.approx((-20 + cut / 2) / 120, abs=1e-9)


def test_dropping_leaves_the_other_fields_or_the_plates_other_wells():
    rng = np.random.default_rng(0)
    counts = {"a": [10, 30], "b": [20], "c": [40]}
    data = Whole([("p", well, field(rng, n)) for well, several in counts.items() for n in several])
    outcome = ask(data)
    fields = outcome.tables["fields"].query("policy == 'intact'").set_index("id")
    assert fields["nuclei"].tolist() == [10, 30, 20, 40]
    damaged = fields.index[fields["damaged"]].tolist()
    assert damaged[1:] == ["p_b_2", "p_c_3"]
    area = 160 * 200 * PIXEL**2 / 1e6
    other = 30 if damaged[0] == "p_a_0" else 10
    dropped = rows_of(outcome.tables["wells"], "drop the field").query("readout == 'count'")
    first = dropped[dropped[AREA] == 10].set_index("group")
    expected = {"p:a": (other, False), "p:b": ((20 + 40) / 2, True), "p:c": ((20 + 20) / 2, True)}
    for group, (count, replaced) in expected.items():
        assert first.loc[group, "value"] == pytest.approx(count / area)
        assert first.loc[group, "replaced"] == replaced
    truths = np.array([20, 20, 40])
    errors = np.array([other, 30, 20]) - truths
    table = rows_of(outcome.tables["policies"], "drop the field").query("readout == 'count'").iloc[0]
    assert table["bias (%)"] == pytest.approx(100 * errors.sum() / truths.sum())
    assert table["RMSE (%)"] == pytest.approx(100 * np.sqrt((errors**2).mean()) / truths.mean())
    assert "2 of 3 wells have no other" in " ".join(outcome.notes)
    assert "Fewer than 8 wells" in outcome.verdict


def test_all_fields_damaged_leave_dropping_nothing_of_the_well():
    rng = np.random.default_rng(0)
    data = Whole([("p", well, field(rng, n)) for well, n in zip("aabb", (10, 20, 30, 40), strict=True)])
    fields = measured(data, damaged_fields="all")
    assert fields.query("policy == 'exclude'")["id"].nunique() == 4
    assert rows_of(errors_by_well(fields), "drop the field")["replaced"].all()
    lonely = errors_by_well(measured(Whole([(name, "a", field(rng, 20)) for name in "pq"])))
    assert rows_of(lonely, "drop the field")["value"].isna().all()
    assert rows_of(lonely, "exclude")["value"].notna().all()


def test_replaced_wells_are_not_ranked(result):
    policies = result.tables["policies"]
    assert rows_of(policies, "drop the field")["Spearman"].isna().all()
    wells = result.tables["wells"].query("readout == 'count' and policy == 'exclude' and `hole (%)` == 30")
    ranks = wells[["truth", "value"]].rank().corr().iloc[0, 1]
    own = rows_of(policies, "exclude").query("readout == 'count' and `hole (%)` == 30")["Spearman"].iloc[0]
    assert own == pytest.approx(ranks)


def test_relative_rmse_is_the_plain_formula_over_the_known_wells():
    table = pd.DataFrame({"error": [1.0, -3.0, np.nan, 2.0], "truth": [10.0, 20.0, 30.0, 30.0]})
    found = RMSE(table, np.array([[1.0, 1, 1, 1], [2, 0, 5, 1], [0, 0, 1, 0]]))
    plain = [np.sqrt((1 + 9 + 4) / 3) / 20, np.sqrt((1 + 1 + 4) / 3) / (50 / 3)]
    np.testing.assert_allclose(found[:2], 100 * np.array(plain))
    assert np.isnan(found[2])


def test_crossing_is_where_wins_reach_the_largest_area():
    verdicts = {
        "a": ["restoring wins", "restoring loses", "restoring wins", "restoring wins"],
        "b": ["restoring wins"] * 4,
        "c": ["restoring wins", "restoring wins", "restoring wins", "not distinguished, n = 9 wells"],
    }
    rows = [
        {"question": "against exclude", "readout": name, AREA: area, "verdict": verdict, "wells": 9}
        for name, own in verdicts.items()
        for area, verdict in zip((5.0, 10.0, 20.0, 50.0), own, strict=True)
    ]
    policies = pd.DataFrame(rows).assign(policy="exclude", **{"RMSE (%)": 1.0})
    table = crossing_table(pd.DataFrame(rows), policies).set_index("readout")
    assert table["restoring wins from"].to_dict() == {"a": "20 %", "b": "5 %", "c": "nowhere"}
    assert table.loc["a", ["wins at", "loses at"]].tolist() == ["5, 20, 50 %", "10 %"]
    assert table.loc["c", "not distinguished at"] == "50 %"


def test_wells_sum_their_fields_before_any_ratio():
    rows = []
    for name, damaged, policy, nuclei, area, seen in (
        ("f1", True, "intact", 10, 1000, 1.0),
        ("f2", False, "intact", 30, 6000, 1.0),
        ("f1", True, "exclude", 4, 500, 0.5),
    ):
        row = {"id": name, "group": "p:a", "plate": "p", "damaged": damaged, "policy": policy, "kind": policy}
        rows.append(row | {AREA: 50.0, "nuclei": nuclei, "area": area, "light": 10.0 * area, "seen": seen})
    wells = errors_by_well(pd.DataFrame(rows)).query("policy == 'exclude'").set_index("readout")
    assert wells.loc["count", "value"] == pytest.approx(34 / 1.5)
    assert wells.loc["mean area", "value"] == pytest.approx(6500 / 34)
    assert wells.loc["mean area", "truth"] == pytest.approx(7000 / 40)
    assert wells.loc["covered area", "value"] == pytest.approx(100 * 6500 / 1.5e6)


def test_ruler_agrees_with_the_segmentation_of_whole_fields(plate):
    image = plate.images[4]
    whole = np.ones(image.shape, bool)
    labels, plain = segment_visible(image, whole, PIXEL), segment_nuclei(image, pixel_size=PIXEL)
    np.testing.assert_array_equal(labels > 0, plain > 0)
    sums = tally(labels, image, whole, PIXEL)
    assert sums.nuclei == plain.max() == 28
    assert sums.area == pytest.approx((plain > 0).sum() * PIXEL**2)
    assert sums.light == pytest.approx((image[plain > 0] - np.median(image[plain == 0])).sum())
    assert segment_visible(image, whole, PIXEL, field_threshold(image, PIXEL)).max() == labels.max()
    assert np.isnan(field_threshold(np.random.default_rng(0).normal(200, 3, (64, 64)), PIXEL))
    nothing = readouts(pd.DataFrame([{"nuclei": 0.0, "area": 0.0, "light": 0.0, "seen": 0.1}])).iloc[0]
    assert (nothing["count"], nothing["covered area"]) == (0, 0)
    assert np.isnan(nothing["mean area"])


def test_nuclei_cut_by_the_border_count_half_and_debris_not_at_all():
    image = discs([(0, 40), (80, 80), (100, 199)])
    image[120:123, 20:23] = BRIGHT  # 9 pixels of debris
    image[150:153, 197:200] = BRIGHT  # the same at the border may be a part of a nucleus
    whole = np.ones(image.shape, bool)
    assert tally(segment_visible(image, whole, PIXEL), image, whole, PIXEL).nuclei == 1 + 3 * 0.5


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE)
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
def test_damage_stays_in_the_hole(damage, dtype):
    image = (field(np.random.default_rng(1), 30) // 5).astype(dtype)
    mask = Rectangles().draw(np.random.default_rng(2), image.shape, (0.3, 0.31))
    damaged = damage(image, mask, np.random.default_rng(0), PIXEL)
    assert damaged.dtype == dtype
    np.testing.assert_array_equal(damaged[mask == 0], image[mask == 0])
    np.testing.assert_array_equal(damaged, damage(image, mask, np.random.default_rng(0), PIXEL))
    inside = damaged[mask != 0].astype(float)
    if isinstance(damage, Bright):
        saturated = (inside == full_scale(image)).mean()
        assert 0.05 < saturated < 0.95
        assert (inside >= image[mask != 0]).all()
    else:
        assert abs(np.median(inside) - LEVEL / 5) <= 1
        assert np.abs(inside - LEVEL / 5).max() < 8


def test_dark_lets_through_what_it_is_told():
    image = discs([(80, 100)])
    mask = np.ones_like(image)
    mask[:, :50] = 0
    half = Dark(0.5)(image, mask, np.random.default_rng(0), PIXEL)
    assert half[80, 100] == (LEVEL + BRIGHT) / 2


def test_full_scale_is_the_cameras():
    assert [full_scale(np.array([peak])) for peak in (200, 255, 256, 4095, 60000, 9e4)] == [
        *(255, 255, 1023, 4095, 65535, 9e4)
    ]


def test_own_thresholds_are_moved_by_the_damage_and_the_plates_is_not(plate):
    data = Whole([("p", f"w{number}", image.copy()) for number, image in enumerate(plate.images)])
    for image in data.images:
        image[0, 0] = 4000  # a camera of 12 bits, which junk saturates

    def lost(threshold):
        wells = rows_of(errors_by_well(measured(data, threshold=threshold)), "keep (bright)")
        counts = wells.query("readout == 'count' and `hole (%)` == 10")
        return counts["error"].sum() / counts["truth"].sum()

    assert lost("field") < -0.8  # it takes Otsu's threshold with it
    assert -0.25 < lost("plate") < 0


def test_annotated_nuclei_judge_the_ruler(plate):
    labels = [segment_nuclei(image, pixel_size=PIXEL) for image in plate.images]
    labels[0] = labels[0] * (labels[0] <= 8)  # half of the first well's 16 nuclei are not annotated
    fields = [("p", f"w{number:02d}", image) for number, image in enumerate(plate.images)]
    ruler = ruler_table(measured(Whole(fields, labels=labels)), n=50, seed=0).set_index("readout")
    truth = np.array([8, *range(19, 46, 3)])
    assert ruler.loc["count", "bias (%)"] == pytest.approx(100 * 8 / truth.sum(), rel=1e-6)
    assert ruler.loc["count", "RMSE (%)"] == pytest.approx(100 * np.sqrt(64 / 10) / truth.mean(), rel=1e-6)


def test_a_second_run_gives_the_same_numbers(plate, result):
    pd.testing.assert_frame_equal(measured(plate), result.tables["fields"])
    assert not measured(plate, seed=1).equals(result.tables["fields"])


def test_report_shows_figures_and_the_leaky_split(tmp_path):
    data = Whole([("p", name, field(np.random.default_rng(0), 20)) for name in "ab"])
    subject = Subject(datamodule=data, predictor=Fake(data, perfect), leaky_split=True)
    outcome = study(fills=[]).run(subject)
    page = write_report(outcome, tmp_path, "python eval.py", "", {}).read_text(encoding="utf-8")
    assert set(outcome.figures) == {"rmse_by_hole_area", "bias_by_hole_area", "example"}
    assert outcome.main == "crossings"
    assert page.count("data:image/png") == 3
    assert outcome.verdict.endswith("Leaky split.")
    assert all("Leaky split" in outcome.captions[name] for name in outcome.tables)


def test_a_model_that_touches_known_pixels_is_refused(plate):
    with pytest.raises(ValueError, match="changed pixels outside the mask"):
        measured(plate, lambda image, mask, intact: intact + 1)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"areas": []}, "above 0, at most 0.9"),
        ({"areas": [0.0, 0.3]}, "above 0, at most 0.9"),
        ({"focus_area": 0.2}, "not among study.areas"),
        ({"damaged_fields": "some"}, "choose one or all"),
        ({"threshold": "well"}, "choose plate or field"),
        ({"fills": ["other_field"]}, "choose among background_median, telea"),
        ({"damage": {}}, "at least one way"),
        ({"n_bootstrap": 200}, "use at least 400"),
    ],
)
def test_wrong_choices_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        study(**changes)


def test_data_that_cannot_answer_are_refused(plate):
    two = SimpleNamespace(of_pairs=False, channels=["nuclei", "er"], index=plate.index)
    with pytest.raises(ValueError, match="one channel"):
        study().check(two)
    trained = {"channels": ["nuclei"], "index": plate.index.assign(split="train")}
    with pytest.raises(ValueError, match="no test fields"):
        study().check(SimpleNamespace(of_pairs=False, scaling=Scaling(), **trained))
    with pytest.raises(ValueError, match=r"data\.scaling=paper"):
        study().check(SimpleNamespace(of_pairs=False, scaling=Scaling("paper"), **trained))
    empty = Whole([("p", "a", np.full((160, 200), 200, np.uint16)), ("p", "b", np.full((160, 200), 201, np.uint16))])
    with pytest.raises(ValueError, match="no nuclei in any test field"):
        measured(empty)
    for wrong in (lambda: Bright(peak=0), lambda: Dark(transmission=1)):
        with pytest.raises(ValueError, match=r"must be above 0|a share from 0"):
            wrong()


def test_the_config_makes_the_study(config):
    made = instantiate(config("study=restore_or_exclude").study, _convert_="all")
    assert isinstance(made, RestoreOrExclude)
    assert made.needs_model
    assert list(made.damage) == ["bright", "dark"]


@pytest.mark.skipif(not REAL.exists(), reason="the real fields of BBBC039 are not here")
def test_on_real_fields_excluding_is_nearly_unbiased():
    from phenokeep.imaging.io import read_image

    paths = sorted((REAL / "images").glob("*.tif"))[1:17:2]
    data = Whole([("p", path.name.split("_")[1], read_image(path)) for path in paths])
    wells = errors_by_well(measured(data, areas=[0.2], focus_area=0.2))
    scores = policy_table(wells, n=50, seed=0).query("readout == 'count'").set_index("policy")
    assert abs(scores.loc["exclude", "bias (%)"]) < 4
    assert scores.loc["exclude", "RMSE (%)"] < 8
    assert -30 < scores.loc["restore (background_median)", "bias (%)"] < -10
