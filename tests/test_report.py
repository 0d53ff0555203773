"""The restoration study on drawn tables, and the page it ends in."""

import io
import re
from html import unescape
from html.parser import HTMLParser
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from rich.console import Console

from phenokeep.imaging.masks import Rectangles
from phenokeep.studies.figures import _spread
from phenokeep.studies.report import display, print_main_table, write_report
from phenokeep.studies.restoration import Restoration
from phenokeep.studies.result import StudyResult
from phenokeep.studies.subject import Subject

SKILL = {"unet_restorer": 0.8, "background_median": 0.05, "other_field": 0.2, "telea": 0.5, "biharmonic": 0.55}
NULLS, CLASSICAL = ["background_median", "other_field"], ["telea", "biharmonic"]
AREAS = (0.15, 0.25, 0.35, 0.45)


def judged(method: str, wells: int = 9, per_well: int = 2, skill: float | None = None) -> pd.DataFrame:
    """A per-image table as the phenotype callback gives it; every image id holds markup, image 0 has no rim nucleus."""
    rng = np.random.default_rng(list(map(ord, method)))
    skill = SKILL[method] if skill is None else skill
    rows = []
    for image in range(wells * per_well):
        for area in AREAS:
            rim, inner = (0, 3) if image == 0 else (8, 5)
            tp = int(rng.binomial(rim, skill))
            fp = int(rng.binomial(rim, 0.2))
            row = {"method": method, "id": f"<i>p</i>$f{image}$:{area}", "group": f"p:{image % wells:02d}"}
            row |= {"mask_area": np.float32(area), "phirm/phirm": min(1.0, 0.3 + 0.6 * skill + rng.normal(0, 0.03))}
            for prefix, counts in {
                "rim_": (tp, fp, rim - tp),
                "inner_": (0, 1, inner),
                "": (tp, fp + 1, rim - tp + inner),
            }.items():
                row |= {f"nuclei/{prefix}{part}": count for part, count in zip(("tp", "fp", "fn"), counts, strict=True)}
            row["nuclei/rim_f1"] = 2 * tp / (tp + fp + rim) if rim + fp else np.nan
            row |= {"pixels/psnr": 20 + skill, "pixels/ssim": 0.5 + skill / 4, "pixels/mae": 0.1 - skill / 20}
            rows.append(row)
    return pd.DataFrame(rows)


def judge(name: str | None) -> pd.DataFrame:
    return judged(name or "unet_restorer")


def example(ids: list[str]) -> dict[str, dict[str, np.ndarray]]:
    rng = np.random.default_rng(len(ids))
    mask = np.zeros((48, 48), np.float32)
    mask[10:30, 12:34] = 1
    target = rng.random((48, 48), dtype=np.float32)
    arrays = {"source": target, "mask": mask, "prediction": target * (1 - mask), "target": target}
    return dict.fromkeys(ids, arrays)


@pytest.fixture(scope="module")
def result() -> StudyResult:
    return Restoration(NULLS, CLASSICAL, n_bootstrap=400).run(Subject(judge=judge, example=example))


@pytest.fixture(scope="module")
def page(result, tmp_path_factory):
    folder = tmp_path_factory.mktemp("report") / "new"
    context = {"versions": {"torch": "2.13.0", "numpy": "2"}, "seed": 7, "machine": "<b>two cores</b>"}
    return write_report(result, folder, "python eval.py 'a<b>&c'", "model:\n  lr: 1e-4 # <script>\n", context)


class Tags(HTMLParser):
    def __init__(self, text: str) -> None:
        super().__init__()
        self.seen: list[tuple[str, dict[str, str | None]]] = []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.seen.append((tag, dict(attrs)))


def test_main_table_pools_counts_in_the_focus_band(result):
    table = result.tables[result.main]
    assert table["method"].tolist() == ["unet_restorer", *NULLS, *CLASSICAL]
    assert table["kind"].tolist() == ["model", *["null fill"] * 2, *["classical fill"] * 2]
    for _, row in table.iterrows():
        raw = judged(row["method"]).query("0.2 <= mask_area < 0.3")
        tp, fp, fn = (raw[f"nuclei/rim_{part}"].sum() for part in ("tp", "fp", "fn"))
        assert row["rim F1"] == pytest.approx(2 * tp / (2 * tp + fp + fn))
        assert row["PhIRM"] == pytest.approx(raw["phirm/phirm"].mean())
        assert (row["lost"], row["invented"]) == (raw["nuclei/fn"].sum(), raw["nuclei/fp"].sum())
        assert row["nuclei"] == (raw["nuclei/tp"] + raw["nuclei/fn"]).sum()
        assert (row["images"], row["wells"]) == (18, 9)
        assert row["rim F1 low"] < row["rim F1"] < row["rim F1 high"]


def test_bands_and_per_image_hold_every_method_and_image(result):
    bands = result.tables["bands"]
    assert bands.groupby("band", sort=False)["method"].nunique().to_dict() == dict.fromkeys(
        ["10-20 %", "20-30 %", "30-40 %", "40-50 %"], 5
    )
    images = result.tables["per_image"]
    assert len(images) == 5 * 18 * 4
    assert set(judged("telea").columns) <= set(images.columns)
    assert images.groupby("band")["mask_area"].agg(["min", "max"]).loc["30-40 %"].tolist() == pytest.approx(
        [0.35, 0.35]
    )


def test_comparisons_name_the_best_rival_and_the_verdict_says_so(result):
    table = result.tables["comparisons"]
    methods = result.tables["methods"].set_index("method")
    for _, row in table.iterrows():
        family = NULLS if row["kind"] == "best null fill" else CLASSICAL
        assert methods.loc[row["against"], row["score"]] == max(methods.loc[family, row["score"]])
        assert row["difference"] == pytest.approx(row["model"] - row["rival"])
        assert row["verdict"] == "beats"
    assert (table["p Holm"] >= table["p"]).all()
    assert "unet_restorer beats the best null fill (other_field) and beats the best classical fill" in result.verdict
    assert "n = 18 images of 9 wells" in result.verdict
    assert "hint" not in result.verdict
    assert not any("same" in word for word in table["verdict"])


@pytest.mark.parametrize(("skill", "verdict"), [(0.5, "not distinguished, n = 9 wells"), (0.1, "worse")])
def test_a_model_that_does_not_beat_the_classical_fills_is_told_so(skill, verdict):
    study = Restoration([], ["telea"], n_bootstrap=400, pictures=0)
    outcome = study.run(
        Subject(judge=lambda name: judged(name) if name else judged("unet_restorer", skill=skill), example=example)
    )
    rim = outcome.tables["comparisons"].set_index("score").loc["rim F1"]
    assert rim["verdict"] == verdict
    assert "examples" not in outcome.figures


def test_pictures_run_from_best_to_worst_and_skip_images_without_rim_nuclei():
    asked: list[str] = []
    outcome = Restoration(NULLS, CLASSICAL, n_bootstrap=50).run(
        Subject(judge=judge, example=lambda ids: asked.extend(ids) or example(ids))
    )
    scores = judge(None).set_index("id").loc[asked, "nuclei/rim_f1"].tolist()
    focus = judge(None).query("0.2 <= mask_area < 0.3")["nuclei/rim_f1"].dropna()
    assert scores == [focus.max(), focus.sort_values().iloc[(len(focus) - 1) // 2], focus.min()]
    labels = [axes.get_ylabel() for axes in outcome.figures["examples"].axes[::4][:3]]
    assert [label.split("\n")[0] for label in labels] == ["best", "median", "worst"]
    assert asked[0].split("$")[0] in labels[0]


def test_one_well_gets_no_interval_and_few_wells_a_warning():
    one = Restoration(NULLS, CLASSICAL, n_bootstrap=50, pictures=0).run(
        Subject(judge=lambda name: judged(name or "unet_restorer", wells=1, per_well=6), example=example)
    )
    assert display(one.tables["methods"])["rim F1"].str.endswith("[no interval]").all()
    assert (one.tables["comparisons"]["verdict"] == "not distinguished, n = 1 well").all()
    few = Restoration(NULLS, CLASSICAL, n_bootstrap=50, pictures=0).run(
        Subject(judge=lambda name: judged(name or "unet_restorer", wells=3), example=example, leaky_split=True)
    )
    assert "Fewer than 8 wells" in few.verdict
    assert few.notes[0].startswith("Leaky split")
    assert all("Leaky split" in few.captions[name] for name in (*few.tables, *few.figures))


def test_no_rim_nuclei_at_all_is_not_a_number_but_no_crash(tmp_path):
    def bare(name):
        table = judged(name or "unet_restorer")
        return table.assign(**{column: np.nan if column.endswith("f1") else 0 for column in table if "rim_" in column})

    outcome = Restoration(NULLS, CLASSICAL, n_bootstrap=50, pictures=0).run(Subject(judge=bare, example=example))
    assert display(outcome.tables["methods"])["rim F1"].tolist() == ["n/a"] * 5
    assert "nothing can be said" in outcome.verdict
    assert outcome.tables["comparisons"]["score"].tolist() == ["PhIRM", "PhIRM"]
    assert write_report(outcome, tmp_path, "c", "", {}).exists()


def test_tables_that_cannot_be_compared_are_refused():
    def with_telea(change):
        return lambda name: change(judge(name)) if name == "telea" else judge(name)

    study = Restoration(NULLS, CLASSICAL, n_bootstrap=50)
    for change, message in (
        (lambda t: t.drop(columns="nuclei/rim_tp"), r"telea lacks \['nuclei/rim_tp'\]"),
        (lambda t: t.iloc[1:], "telea and the model were judged on other images"),
        (lambda t: t.assign(mask_area=t["mask_area"] + 0.01), "telea and the model saw other masks"),
        (lambda t: pd.concat([t, t.iloc[:1]]), "twice"),
    ):
        with pytest.raises(ValueError, match=message):
            study.run(Subject(judge=with_telea(change), example=example))
    with pytest.raises(ValueError, match="itself the baseline telea"):
        study.run(Subject(judge=lambda name: judged(name or "telea"), example=example))
    with pytest.raises(ValueError, match="no mask covers 50-60 %"):
        Restoration([], ["telea"], bands=[(0.5, 0.6)], focus_band=(0.5, 0.6)).run(Subject(judge=judge, example=example))
    with pytest.raises(ValueError, match="focus_band"):
        Restoration([], ["telea"], focus_band=(0.2, 0.4)).check(SimpleNamespace(of_pairs=False, masks=Rectangles()))
    with pytest.raises(ValueError, match="pictures"):
        Restoration([], ["telea"], pictures=1)
    with pytest.raises(KeyError, match="main table"):
        StudyResult("t", {"a": pd.DataFrame()}, {}, main="b")


def test_page_refers_to_nothing_outside(page):
    text = page.read_text(encoding="utf-8")
    tags = Tags(text).seen
    assert not {"script", "link", "iframe", "object", "base", "a"} & {tag for tag, _ in tags}
    sources = [attrs["src"] for _, attrs in tags if "src" in attrs]
    assert len(sources) == 3
    assert all(source.startswith("data:image/png;base64,") for source in sources)
    assert not any({"href", "srcset", "background", "onload", "style"} & set(attrs) for _, attrs in tags)
    assert not re.search(r"https?://|url\(|@import", text)


def test_page_holds_every_table_figure_note_and_the_provenance(page, result):
    text = unescape(page.read_text(encoding="utf-8"))
    tags = Tags(page.read_text(encoding="utf-8")).seen
    assert sum(tag == "table" for tag, _ in tags) == len(result.tables)
    assert [attrs["alt"] for tag, attrs in tags if tag == "img"] == [result.captions[name] for name in result.figures]
    for words in (result.title, result.verdict, *result.notes, *result.captions.values()):
        assert words in text
    for cell in display(result.tables["methods"]).to_numpy().ravel():
        assert f">{cell}</td>" in text
    assert "python eval.py 'a<b>&c'" in text
    assert "torch 2.13.0, numpy 2" in text
    assert text.index(result.verdict) < text.index("0.5") < text.index("How this was made")


def test_page_escapes_ids_command_config_and_context(page):
    raw = page.read_text(encoding="utf-8")
    assert "&lt;i&gt;p&lt;/i&gt;$f0$" in raw
    for attack in ("<i>", "<script", "a<b>", "<b>two"):
        assert attack not in raw


def test_files_round_trip(page, result):
    for name, table in result.tables.items():
        pd.testing.assert_frame_equal(pd.read_csv(page.parent / f"{name}.csv"), table, check_dtype=False)
    stored = pd.read_parquet(page.parent / "per_image.parquet")
    pd.testing.assert_frame_equal(stored, result.tables["per_image"], check_dtype=False)
    for name in result.figures:
        assert (page.parent / f"{name}.png").read_bytes().startswith(b"\x89PNG")


def test_no_figure_stays_registered_with_pyplot(page):
    from matplotlib._pylab_helpers import Gcf

    assert not Gcf.figs


def test_console_table_fits_and_names_what_it_leaves_out(result):
    wide, narrow = (Console(file=io.StringIO(), width=width) for width in (250, 80))
    print_main_table(result, wide)
    print_main_table(result, narrow)
    text = narrow.file.getvalue()
    assert max(map(len, text.splitlines())) <= 80
    assert "Also in methods.csv: inner F1" in text
    shown = display(result.tables["methods"])
    assert all(cell in wide.file.getvalue() for cell in shown.iloc[0])
    assert shown.loc[0, "rim F1"] in text


def test_display_joins_intervals_and_aligns_decimals():
    table = pd.DataFrame(
        {"x": [0.5, 0.25], "x low": [0.4, np.nan], "x high": [0.6, np.nan], "p": [1e-4, 0.2], "dB": [9.0, 21.37]}
    )
    shown = display(table)
    assert shown["x"].tolist() == ["0.500 [0.400, 0.600]", "0.250 [no interval]"]
    assert shown["p"].tolist() == ["<0.001", "0.200"]
    assert shown["dB"].tolist() == ["9.0", "21.4"]
    assert list(shown) == ["x", "p", "dB"]


def test_labels_are_spread_without_leaving_the_axes_or_their_order():
    places = np.array([0.0, 0.01, 0.02, 0.5, 0.98, 1.0])
    spread = _spread(places, 0.06)
    assert (np.diff(spread) >= 0.06 - 1e-12).all()
    assert spread.min() >= 0
    assert spread.max() <= 1
    assert spread[3] == pytest.approx(0.5)
