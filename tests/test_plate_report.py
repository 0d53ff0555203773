"""Plate reports: equations by hand, layout effects that are known, and the page as a browser shows it."""

import io
import tempfile
from pathlib import Path

import chromium
import numpy as np
import pandas as pd
import pytest
from PIL import Image
from scipy import stats
from test_report import CLASSICAL, NULLS, example, judge

from phenokeep.imaging.microscope import Microscope, Scene
from phenokeep.studies.assays import assay_quality, ssmd, z_prime
from phenokeep.studies.gallery import field_picture
from phenokeep.studies.plates import plate_report
from phenokeep.studies.positions import (
    FORMATS,
    ROW_NAMES,
    layout_wells,
    median_polish,
    permutation_p,
    smallest_format,
    well_place,
)
from phenokeep.studies.report import write_report
from phenokeep.studies.restoration import Restoration
from phenokeep.studies.result import Picture, StudyResult
from phenokeep.studies.subject import Subject


def drawn(plate_format: int = 96, plates=("one",), fields: int = 2, edge: float = 0.0, controls=True) -> pd.DataFrame:
    """Fields of full plates: counts about 100, edge wells `edge` lower, controls in columns 2 and last but one."""
    rng = np.random.default_rng(plate_format)
    rows, columns = FORMATS[plate_format]
    table = []
    for plate in plates:
        for row, column, field in np.ndindex(rows, columns, fields):
            well = f"{ROW_NAMES[row]}{column + 1:02d}"
            role = "treatment" if column not in (1, columns - 2) else "positive" if row % 2 else "negative"
            outer = row in (0, rows - 1) or column in (0, columns - 1)
            level = 100 * (1 - edge * outer) * (0.4 if role == "positive" and controls else 1)
            before, after = rng.poisson(level, 2)
            entry = {"id": f"{plate}_{well}_{field}", "plate": plate, "well": well, "field": str(field + 1)}
            entry |= {"group": f"{plate}:{well}", "input_count": before, "restored_count": after}
            entry |= {"objects_touching": rng.integers(0, 4), "restored_share": rng.beta(1, 30)}
            entry |= {"focus": rng.normal(-2, 0.1), "background": rng.normal(150, 3), "saturation": 0.0}
            entry |= {"input_mean_area": rng.normal(260, 9), "restored_mean_area": rng.normal(260, 9)}
            if controls:
                entry |= {"role": role, "compound": role[:3], "concentration": 1.5, "unit": "uM"}
            table.append(entry)
    return pd.DataFrame(table)


@pytest.fixture(scope="module")
def pictures() -> list[Picture]:
    rng = np.random.default_rng(0)
    mask = np.zeros((130, 174), bool)
    mask[30:60, 40:90] = True
    images = [rng.gamma(2, 100, (130, 174)) for _ in range(3)]
    return [field_picture(image, np.where(mask, 100, image), mask, f"B0{n} <1>") for n, image in enumerate(images)]


@pytest.fixture(scope="module")
def result(pictures) -> StudyResult:
    return plate_report(drawn(plates=("one", "two/2"), edge=0.25), pictures, n_resamples=999)


@pytest.fixture(scope="module")
def page(result, tmp_path_factory) -> Path:
    return write_report(result, tmp_path_factory.mktemp("plate"), "python predict.py", "a: 1\n" * 80, {"seed": 0})


# The equations, against numbers worked out by hand.


def test_z_prime_and_ssmd_by_hand():
    positive, negative = np.array([10.0, 12, 14]), np.array([0.0, 2, 4])  # means 12 and 2, both SD 2
    assert z_prime(positive, negative) == pytest.approx(1 - 3 * 4 / 10)
    assert ssmd(positive, negative) == pytest.approx(10 / 8**0.5)
    assert ssmd(negative, positive) == pytest.approx(-10 / 8**0.5)
    outlier = np.array([10.0, 12, 14, 100])  # median 13, deviations 3 1 1 87: their median is 2
    assert z_prime(outlier, negative, robust=True) == pytest.approx(1 - 3 * 1.4826 * (2 + 2) / 11)
    assert ssmd(outlier, negative, robust=True) == pytest.approx(11 / (1.4826 * 8**0.5))
    assert z_prime(positive, positive) == -np.inf
    stacked = z_prime(np.stack([positive, positive + 5]), np.stack([negative, negative]))
    assert stacked == pytest.approx([-0.2, 1 - 12 / 15])
    for wrong in (np.array([1.0]), np.array([1.0, np.nan])):
        with pytest.raises(ValueError, match="two wells"):
            z_prime(wrong, negative)


def controls(n: int, after) -> pd.DataFrame:
    rng = np.random.default_rng(1)
    wells = pd.DataFrame({"plate": "p", "role": ["negative"] * n + ["positive"] * n})
    wells["input_count"] = np.where(wells["role"] == "positive", 50.0, 100.0) + rng.normal(0, 8, 2 * n)
    return wells.assign(restored_count=after(wells))


def test_assay_quality_judges_the_change_on_the_same_wells():
    centre = {"negative": 100.0, "positive": 50.0}
    tighter = controls(16, lambda w: w["role"].map(centre) + (w["input_count"] - w["role"].map(centre)) / 3)
    table = assay_quality(tighter, ["count"], 999, seed=0).set_index("statistic")
    negative, positive = (tighter[tighter["role"] == role] for role in ("negative", "positive"))
    for name, statistic in (("Z'", z_prime), ("SSMD", ssmd)):
        before, after = (
            statistic(positive[column].to_numpy(), negative[column].to_numpy())
            for column in ("input_count", "restored_count")
        )
        row = table.loc[name]
        assert (row["before"], row["after"]) == pytest.approx((before, after))
        assert row["change"] == pytest.approx(after - before if name == "Z'" else before - after)  # SSMD is negative
        assert row["change low"] < row["change"] < row["change high"]
        assert (row["verdict"], row["negative wells"]) == ("better after", 16)
    noise = np.random.default_rng(2).normal(0, 1, 32)
    same = assay_quality(controls(16, lambda w: w["input_count"] + noise), ["count"], 999, seed=0)
    assert (same["verdict"] == "not distinguished, n = 16 + 16 wells").all()


def test_assay_quality_says_where_controls_do_not_suffice():
    few = assay_quality(controls(3, lambda w: w["input_count"]), ["count"], 99, seed=0)
    assert few["verdict"].tolist() == ["not given: 3 negative and 3 positive wells, 4 of each needed"]
    some = assay_quality(controls(5, lambda w: w["input_count"]), ["count"], 99, seed=0)
    assert (some["verdict"] == "not judged: fewer than 8 wells of a kind").all()
    assert np.isfinite(some["before"]).all()
    alike = assay_quality(controls(9, lambda w: w["input_count"] * 0), ["count"], 99, seed=0)
    assert (alike["verdict"] == "not given: the controls are all alike").all()
    two = controls(9, lambda w: w["input_count"]).assign(compound=["d"] * 9 + ["a"] * 5 + ["b"] * 4)
    assert assay_quality(two, ["count"], 99, 0)["positive control"].unique().tolist() == ["a", "b"]


# Places on a plate.


def test_wells_and_formats():
    assert [well_place(well) for well in ("A01", "A1", "H12", "P24", "Z09", "AF48")] == [
        *((0, 0), (0, 0), (7, 11), (15, 23), (25, 8), (31, 47))
    ]
    for wrong in ("A00", "A49", "AG01", "7", "B-3", ""):
        with pytest.raises(ValueError, match="no place"):
            well_place(wrong)
    assert [smallest_format(*shape) for shape in ((2, 3), (7, 11), (15, 4), (17, 2))] == [6, 96, 384, 1536]


def test_median_polish_gives_back_what_was_added():
    rows, columns = np.array([-3.0, 0, 0, 1, 5]), np.array([0.0, -2, 4, 0, 0, 1, 0])
    plate = 50 + rows[:, None] + columns
    plate[1, 2] = plate[4, 5] = np.nan
    plate[2, 3] += 100  # one odd well moves no median
    own_rows, own_columns, residuals = median_polish(plate)
    np.testing.assert_allclose(own_rows, rows, atol=1e-9)
    np.testing.assert_allclose(own_columns, columns, atol=1e-9)
    assert residuals[2, 3] == pytest.approx(100)
    empty = np.vstack([plate, np.full((1, 7), np.nan)])
    assert np.isnan(median_polish(empty)[0][-1])


def test_permutation_p_is_that_of_the_rank_tests():
    rng = np.random.default_rng(3)
    for shift in (0.0, 0.6, 1.0):
        values, two = rng.normal(size=(1, 60)), np.arange(60) % 3 == 0
        values[0, two] += shift
        expected = stats.mannwhitneyu(values[0, two], values[0, ~two], method="asymptotic").pvalue
        assert permutation_p(values, two, n=4999)[0] == pytest.approx(expected, abs=0.02)
        four = np.arange(60) % 4
        expected = stats.kruskal(*(values[0, four == group] for group in range(4))).pvalue
        assert permutation_p(values, four, n=4999)[0] == pytest.approx(expected, abs=0.03)
    assert permutation_p(np.arange(60.0), np.arange(60) // 30, n=999)[0] == 1 / 1000


def test_rows_are_tested_right_whatever_the_columns_do():
    """With strong columns and a gappy plate, 5 % of plates without row effects have p < 0.05 (binomial bounds)."""
    rng = np.random.default_rng(4)
    place = np.argwhere(rng.random((8, 12)) < 0.7)
    rows, columns = place.T
    noise = rng.normal(size=(400, len(place)))
    plates = noise + 5.0 * columns + 3.0 * (columns == 1)
    p = permutation_p(plates, rows, strata=columns, n=399)
    low, high = stats.binom(400, 0.05).interval(0.999)
    assert low <= (p <= 0.05).sum() <= high
    shift = 1.5 * (rows == 0)
    found = permutation_p(plates + shift, rows, strata=columns, n=399) <= 0.05
    plain = np.array([stats.kruskal(*(plate[rows == row] for row in range(8))).pvalue for plate in noise + shift])
    assert found.mean() > (plain <= 0.05).mean() - 0.1  # as if the columns had no effect
    assert (permutation_p(plates + shift, rows, n=399) <= 0.05).mean() < 0.2  # without strata they hide it


def test_wells_for_layout_are_controls_only_where_they_are_spread():
    fields = drawn(fields=1)
    wells = fields.assign(
        row=[well_place(w)[0] for w in fields["well"]], column=[well_place(w)[1] for w in fields["well"]]
    )
    kept, words = layout_wells(wells, (8, 12))
    assert (words, kept.sum()) == ("wells that are no controls", 80)
    scattered = wells.assign(role=np.where(np.arange(96) % 5 == 0, "negative", "treatment"))
    kept, words = layout_wells(scattered, (8, 12))
    assert (words, kept.sum()) == ("negative controls", 20)
    assert layout_wells(wells.drop(columns="role"), (8, 12))[1] == "all wells"


# The report.


def test_well_table_sums_counts_and_averages_the_rest(result):
    fields = drawn(plates=("one", "two/2"), edge=0.25)
    wells = result.tables["wells"]
    assert len(wells) == 192
    for row in wells.sample(20, random_state=0).itertuples():
        own = fields[(fields["plate"] == row.plate) & (fields["well"] == row.well)]
        assert (row.input_total, row.restored_total) == (own["input_count"].sum(), own["restored_count"].sum())
        assert row.restored_measured == own["restored_count"].sum() - own["objects_touching"].sum()
        assert row.input_count == pytest.approx(own["input_count"].mean())
        assert row.background == pytest.approx(own["background"].mean())
    plates = result.tables["plates"].set_index("plate")
    assert plates.loc["one", "touching synthetic"] == fields[fields["plate"] == "one"]["objects_touching"].sum()
    assert plates["wells"].tolist() == [96, 96]


def test_edge_effect_is_found_where_it_was_drawn_and_nowhere_else(result):
    effects = result.tables["layout_effects"]
    edge = effects[effects["effect"] == "edge"].set_index(["plate", "quantity"])
    for plate in ("one", "two/2"):
        for stage in ("before", "after"):
            row = edge.loc[(plate, f"nuclei per field, {stage}")]
            assert (row["verdict"], row["wells"]) == ("found", 80)
            assert row["size"] == pytest.approx(-25, abs=6)
            assert row["robust SD"] < -2
    others = effects[~effects["quantity"].str.startswith("nuclei")]
    assert (others["verdict"] == "not distinguished").all()
    assert "saturated pixels" not in set(effects["quantity"])  # all 0: nothing to test
    assert (effects["p Holm"] >= effects["p"]).all()
    assert "nuclei per field, before (edge" in result.verdict
    flat = plate_report(drawn(), n_resamples=999)
    assert "No edge, row or column effect was distinguished" in flat.verdict


def test_a_row_and_a_column_are_named():
    fields = drawn(384, fields=1, controls=False)
    place = np.array([well_place(well) for well in fields["well"]])
    fields["background"] += 9.0 * (place[:, 0] == 4)
    fields["focus"] -= 0.5 * (place[:, 1] == 19)
    effects = plate_report(fields, n_resamples=999).tables["layout_effects"].set_index(["quantity", "effect"])
    row, column = effects.loc[("background", "rows")], effects.loc[("focus score", "columns")]
    assert (row["where"], row["verdict"]) == ("row E", "found")
    assert row["size"] == pytest.approx(9, abs=2)
    assert (column["where"], column["verdict"]) == ("column 20", "found")
    assert effects.loc[("background", "columns"), "verdict"] == "not distinguished"


def test_wells_that_do_not_suffice_are_said_not_to():
    inner = drawn(96, controls=False)
    inner = inner[~inner["well"].str.match(r"[AH]|.(01|12)")]
    report = plate_report(inner, n_resamples=99)
    edge = report.tables["layout_effects"].query("effect == 'edge'")
    assert (edge["verdict"] == "not tested: 0 wells at the edge and 60 inside, 6 of each needed").all()
    assert "assay_quality" not in report.tables
    assert any("no such role is named" in note for note in report.notes)
    small = plate_report(drawn(6, controls=False), n_resamples=99)
    assert "Too few wells to test the layout" in small.verdict
    only_input = drawn(24, controls=False).filter(regex="^(?!restored|objects)")
    assert plate_report(only_input, n_resamples=99).tables["plates"]["nuclei before"].item() > 0


@pytest.mark.parametrize("plate_format", [6, 96, 384, 1536])
def test_heat_maps_have_letters_numbers_and_hatched_gaps(plate_format):
    fields = drawn(plate_format, fields=1, controls=False)
    gap = fields["well"] == "B02"
    fields.loc[fields["well"] == "A02", "focus"] = np.nan
    report = plate_report(fields[~gap], n_resamples=9, plate_format=plate_format)
    figure = report.figures["plate_one"]
    maps = {axes.get_title(): axes for axes in figure.axes if axes.get_title()}
    counts = maps["nuclei per field, before"]
    rows, columns = FORMATS[plate_format]
    assert counts.get_yticklabels()[0].get_text() == "A"
    assert counts.get_xticklabels()[0].get_text() == "1"
    shown = counts.collections[1].get_array()
    assert shown.shape == (rows, columns)
    assert shown.mask.sum() == 1
    assert shown.mask[1, 1]
    assert counts.patch.get_hatch()
    wells = fields.set_index("well")["input_count"]
    assert shown[rows - 1, columns - 1] == wells[f"{ROW_NAMES[rows - 1]}{columns:02d}"]
    unknown = maps["focus score (higher: sharper)"].collections[0].get_array()
    assert (~unknown.mask).sum() == 1
    assert not unknown.mask[0, 1]
    assert counts.collections[1].get_clim() == maps["nuclei per field, after"].collections[1].get_clim()


def test_fields_that_do_not_fit_are_refused():
    good = drawn(24)

    def changed(column, value, where=0):
        return good.assign(**{column: [value if row == where else old for row, old in enumerate(good[column])]})

    for fields, message in (
        (good.drop(columns="well"), "missing"),
        (good.iloc[:0], "missing"),
        (good.drop(columns="input_count"), "input_count"),
        (good.drop(columns="restored_mean_area"), "both input_mean_area and restored_mean_area"),
        (changed("id", good["id"][1]), "stands twice"),
        (changed("well", "Q99"), "no place"),
        (changed("input_count", np.nan), "input_count of field"),
        (changed("restored_share", 1.5), "restored_share of field"),
        (changed("background", "bright"), "background of field"),
        (changed("objects_touching", 999), "more nuclei touching"),
        (changed("role", "negativ"), "several values of role"),
        (good.assign(role="control"), "role 'control' is none of"),
        (good.assign(well=good["well"].replace("A02", "A1")), "two names"),
    ):
        with pytest.raises(ValueError, match=message):
            plate_report(fields, n_resamples=9)
    with pytest.raises(ValueError, match="at least 24"):
        plate_report(good, plate_format=12)
    with pytest.raises(ValueError, match="no PNG"):
        plate_report(good, [Picture("t", "c", b"GIF")], n_resamples=9)


# Pictures and the page.


def test_field_picture_outlines_the_mask_shares_its_grey_and_shows_the_difference():
    scene = Scene.draw(3, (520, 696))
    source = Microscope().image(scene)
    mask = np.zeros(source.shape, bool)
    mask[100:300, 200:500] = True
    restored = np.where(mask, source // 2 + 60, source)
    picture = field_picture(source, restored, mask, "B03")
    image = np.asarray(Image.open(io.BytesIO(picture.png)).convert("RGB")).astype(int)
    assert image.shape[1] == 1200
    assert len(picture.png) < 90_000  # 80 of them stay under 10 MB, encoded
    left, middle, right = image[:, :396], image[:, 402:798], image[:, 804:]
    outline = (middle == (255, 176, 0)).all(axis=2)
    rows, columns = np.nonzero(outline)
    scale = 396 / 696  # the line lies around every pixel that holds some of the mask
    assert (rows.min(), columns.min()) == (int(100 * scale) - 1, int(200 * scale) - 1)
    assert (rows.max(), columns.max()) == (int(np.ceil(300 * scale)), int(np.ceil(500 * scale)))
    outside = np.ones(outline.shape, bool)
    outside[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1] = False
    assert (left[outside] == middle[outside]).all()
    assert np.ptp(right[outside]) < 10  # nothing was changed there
    bright = left[..., 0] > 200
    bright[outside] = False
    assert (right[bright][:, 2] > right[bright][:, 0]).mean() > 0.95  # made darker: blue
    with pytest.raises(ValueError, match="Y X of one size"):
        field_picture(source, restored, mask[:-1], "B03")


def test_page_holds_each_picture_once_and_file_names_are_safe(result, page):
    text = page.read_text(encoding="utf-8")
    assert text.count("data:image/png") == len(result.figures) + 3
    assert "<script" not in text
    assert "B01 &lt;1&gt;" in text
    assert sorted(path.name for path in page.parent.glob("plate_*")) == ["plate_one.png", "plate_two_2.png"]


def test_pages_read_well_in_a_browser_without_network(page, tmp_path):
    browser = chromium.find()
    if browser is None:
        pytest.skip(f"no browser is installed (none of {', '.join(chromium.NAMES)}): the pages were not opened")
    study = Restoration(NULLS, CLASSICAL, n_bootstrap=50).run(Subject(judge=judge, example=example))
    pages = {"plate": page, "restoration": write_report(study, tmp_path, "c", "a: 1", {})}
    bad = tmp_path / "bad.html"
    bad.write_text(
        "<img src='https://example.org/a.png'><p style='width:3000px;font-size:5px'>a<script>nothing()</script>"
    )
    with tempfile.TemporaryDirectory() as profile, chromium.Chromium(browser, Path(profile)) as tab:
        tab.open(bad, 400)
        seen = tab.look()
        assert any("asked for https" in problem for problem in tab.problems)
        assert any("exception" in problem for problem in tab.problems)
        assert seen["images"][0]["natural"] == 0
        assert seen["scroll"] > seen["width"] or seen["body"] > seen["width"]
        assert seen["smallest"]["size"] == 5
        for width in (1280, 400):
            for name, path in pages.items():
                tab.open(path, width)
                _reads_well(tab, width)
                tab.value("document.querySelectorAll('details').forEach(part => part.open = true)")
                _reads_well(tab, width)
                if name == "plate":
                    _click_through(tab, pictures=3)
                    _reads_well(tab, width)


def _reads_well(tab: chromium.Chromium, width: int) -> None:
    seen = tab.look()
    assert tab.problems == []
    assert seen["images"]
    assert all(image["complete"] and image["natural"] > 0 and image["shown"] > 100 for image in seen["images"])
    assert seen["width"] == width
    assert max(seen["scroll"], seen["body"]) <= width
    assert seen["smallest"]["size"] >= 11, seen["smallest"]


def _click_through(tab: chromium.Chromium, pictures: int) -> None:
    """By mouse from the first picture to the last, back and out; then by keys alone."""

    def on_top() -> str:
        return tab.value("document.elementFromPoint(innerWidth / 2, 100).closest('.picture')?.id ?? ''")

    def arrive(place: str) -> None:
        tab.until(f"location.hash == '#{place}'")

    small = tab.value("document.querySelector('#picture-1 img').getBoundingClientRect().width")
    tab.click("#picture-1 .open")
    for number in range(1, pictures + 1):
        arrive(f"picture-{number}")
        assert on_top() == f"picture-{number}"
        box = tab.value(f"document.querySelector('#picture-{number} img').getBoundingClientRect().toJSON()")
        assert box["width"] > 1.2 * small
        assert 0 <= box["top"] < 200
        assert tab.look()["scroll"] <= tab.look()["width"]
        if number < pictures:
            tab.click(f"#picture-{number} nav a[href='#picture-{number + 1}']")
    tab.click(f"#picture-{pictures} nav a[href='#picture-{pictures - 1}']")
    arrive(f"picture-{pictures - 1}")
    tab.click(f"#picture-{pictures - 1} nav a:last-child")
    arrive(f"place-{pictures - 1}")
    assert tab.value("document.querySelector('.picture:target')") is None
    assert tab.value("getComputedStyle(document.documentElement).overflowY") == "visible"  # the page scrolls again

    tab.value("document.querySelector('#picture-1 .open').focus()")
    tab.press("Enter")
    arrive("picture-1")
    tab.press("Tab")  # the first picture has no previous one
    tab.press("Enter")
    arrive("picture-2")
    for _ in range(3):
        tab.press("Tab")
    tab.press("Enter")
    arrive("place-2")
