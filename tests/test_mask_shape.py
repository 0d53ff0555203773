"""Matched holes against plain loops, the mixed model against an independent fit, and the study end to end."""

from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from hydra import compose, initialize_config_module
from scipy.optimize import minimize_scalar
from statsmodels.regression.mixed_linear_model import MixedLM

from phenokeep.cli import _register_checkpoint
from phenokeep.imaging.artefacts import artefact_mask
from phenokeep.imaging.io import read_image
from phenokeep.imaging.masks import FreeForm, in_band
from phenokeep.imaging.tiles import Zoom
from phenokeep.run import evaluate, train
from phenokeep.studies import mask_shape_models as models
from phenokeep.studies import mask_shape_words as words
from phenokeep.studies.mask_shape import MaskShape
from phenokeep.studies.mask_shape_masks import (
    ARTEFACT,
    RECTANGLE,
    STROKES,
    artefact_hole,
    inscribed_radius,
    matched_rectangle,
    nuclei_hidden,
    outlines_in,
)
from phenokeep.studies.mask_shape_pairs import Artefacts, Shaped, draw_pairs, hole_table, patch
from phenokeep.studies.statistics import equivalence, holm, mean_of, paired_bootstrap

BANDS = ((0.1, 0.2), (0.3, 0.4))
MARGINS = {"PhIRM": 0.05, "rim F1": 0.05, "hole MAE": 0.005}


def nuclei(rng, side=96, count=14, radius=6):
    labels = np.zeros((side, side), np.int32)
    y, x = np.mgrid[:side, :side]
    for number, (cy, cx) in enumerate(rng.integers(0, side, (count, 2)), start=1):
        labels[np.hypot(y - cy, x - cx) <= radius] = number
    return labels


def recounted(labels, mask):
    covered = touched = 0
    for name in set(labels.ravel().tolist()) - {0}:
        pixels = [(y, x) for y, x in zip(*np.nonzero(labels == name), strict=True)]
        hidden = sum(int(mask[y, x] != 0) for y, x in pixels)
        covered += 2 * hidden >= len(pixels)
        touched += hidden > 0
    return covered, touched


def test_radius_is_the_distance_to_the_nearest_known_pixel():
    rng = np.random.default_rng(0)
    for _ in range(6):
        mask = FreeForm(bands=[(0.1, 0.4)], box=None).draw(rng, (24, 30), (0.1, 0.4))
        known = np.argwhere(mask == 0)
        plain = max(min(np.hypot(*(pixel - other)) for other in known) for pixel in np.argwhere(mask))
        assert inscribed_radius(mask) == pytest.approx(plain)
    corner = np.zeros((20, 20), np.uint8)
    corner[:5, :5] = 1
    assert inscribed_radius(corner) == 5  # the border is no known pixel
    with pytest.raises(ValueError, match="whole patch"):
        inscribed_radius(np.ones((4, 4)))


@pytest.mark.parametrize("seed", range(6))
def test_matched_rectangles_match_in_area_and_in_recounted_nuclei(seed):
    rng = np.random.default_rng(seed)
    labels = nuclei(rng)
    mask = FreeForm(bands=[(0.2, 0.3)], box=None, reference=96).draw(rng, labels.shape, (0.2, 0.3))
    found = matched_rectangle(rng, mask, labels, 0.02)
    assert found is not None
    rows, columns = np.nonzero(found.any(1))[0], np.nonzero(found.any(0))[0]
    assert found[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1].all()
    assert found.sum() == len(rows) * len(columns)
    assert abs(int(found.sum()) - int(mask.sum())) <= 0.02 * mask.sum()
    assert 1 / 3 <= len(rows) / len(columns) <= 3
    assert recounted(labels, found)[0] == recounted(labels, mask)[0] == nuclei_hidden(labels, mask)[0]
    assert nuclei_hidden(labels, mask) == recounted(labels, mask)


def test_no_rectangle_is_given_where_none_matches():
    labels = np.zeros((64, 64), np.int32)
    for number, place in enumerate([(2, 2), (2, 56), (56, 2), (56, 56)], start=1):
        labels[place[0] : place[0] + 6, place[1] : place[1] + 6] = number
    mask = (labels > 0).astype(np.uint8)
    mask[:40, 30] = 1  # covers four nuclei in four corners: no small rectangle can
    assert nuclei_hidden(labels, mask)[0] == 4
    assert matched_rectangle(np.random.default_rng(0), mask, labels, 0.05) is None


def test_outlines_join_near_parts_and_artefact_holes_reach_their_band():
    field = np.zeros((200, 200), np.uint8)
    field[20:30, 20:30] = field[20:30, 33:43] = 1  # 3 px = 2 um apart
    field[100:140, 150:153] = 1
    field[180:182, 10:12] = 1  # too small
    field[190:, 100:140] = 1  # cut off by the border
    outlines = outlines_in(field, 0.65)
    assert sorted(outline.shape for outline in outlines) == [(10, 23), (40, 3)]
    assert sum(outline.sum() for outline in outlines) == 200 + 120
    rng = np.random.default_rng(1)
    for band in ((0.1, 0.2), (0.2, 0.3), (0.4, 0.5)):
        mask, dilation = artefact_hole(rng, outlines, (96, 96), band)
        assert in_band(mask, band)
        assert 0 <= dilation < 30
    with pytest.raises(ValueError, match=r"no artefact mask of 0-0\.01 %"):
        artefact_hole(rng, outlines, (96, 96), (0.0, 0.0001))


@pytest.fixture(scope="module")
def drawn(tmp_path_factory, runs):
    """The small drawn plate as data, and pairs on it."""
    from conftest import SMALL

    from phenokeep.run import _build

    with initialize_config_module("phenokeep.configs", version_base="1.3"):
        cfg = compose("train", [*SMALL, f"runs={runs}", f"output_dir={tmp_path_factory.mktemp('out')}"])
    data, _ = _build(cfg, None)
    artefacts = Artefacts(data, "artefacts", 0)
    return data, artefacts, draw_pairs(data.patches("test"), artefacts, BANDS, 6, 0.02, 0)


def test_pairs_on_patches_match_and_lie_on_clean_ones(drawn):
    data, _, found = drawn
    patches = data.patches("test")
    table = hole_table(found.holes, data.index, 0.65)
    assert {(row["of"], row["band"]) for _, row in table.iterrows()} == {
        (shape, band) for shape in (STROKES, ARTEFACT) for band in ("10-20 %", "30-40 %")
    }
    for pair, members in table.groupby("pair"):
        holes = [hole for hole in found.holes if hole.pair == pair]
        assert Counter(members["shape"]) == Counter([holes[0].of, RECTANGLE])
        areas = [int(hole.mask.sum()) for hole in holes]
        assert abs(areas[0] - areas[1]) <= 0.02 * areas[0]
        labels = patch(patches, holes[0].window)["objects"][0].numpy()
        labels = np.where(np.bincount(labels.ravel())[labels] >= 30, labels, 0)
        assert recounted(labels, holes[0].mask)[0] == recounted(labels, holes[1].mask)[0] == holes[0].covered
        row, y, x = holes[0].window
        size = data.zoom.crop
        field = artefact_mask(read_image(data.index["image_artefacts"].iloc[row]))
        assert not field[y : y + size, x : x + size].any()
    assert (table.groupby("pair")["group"].nunique() == 1).all()


def test_samples_carry_their_hole_and_all_else_of_their_patch(drawn):
    data, _, found = drawn
    samples = Shaped(data.patches("test"), found.holes)
    first, second = samples[0, 0], samples[0, 1]
    assert (first["id"], second["id"]) == (found.holes[0].id, found.holes[1].id)
    assert np.array_equal(first["mask"][0].numpy(), found.holes[0].mask)
    for key in ("source", "target", "donor", "objects"):
        assert np.array_equal(first[key], second[key]), key
    batch = next(iter(data.showing(samples).test_dataloader()))
    assert batch["id"] == [hole.id for hole in found.holes[: data.batch_size]]
    assert next(iter(data.test_dataloader()))["id"][0] != batch["id"][0]  # the data themselves are as they were


def test_drawing_again_gives_the_same_and_no_channel_means_the_virtual_microscope(drawn, monkeypatch):
    data, artefacts, found = drawn
    again = draw_pairs(data.patches("test"), artefacts, BANDS, 6, 0.02, 0)
    assert [hole.id for hole in again.holes] == [hole.id for hole in found.holes]
    assert all(np.array_equal(a.mask, b.mask) for a, b in zip(again.holes, found.holes, strict=True))
    monkeypatch.setitem(__import__("phenokeep.studies.mask_shape_pairs", fromlist=["DRAWN"]).DRAWN, "wells", 2)
    other = SimpleNamespace(index=data.index.drop(columns="image_artefacts"), zoom=Zoom(64, 64, 64), reader=data.reader)
    outlines = Artefacts(other, "artefacts", 0)
    assert "virtual microscope" in outlines.source
    assert len(outlines.outlines) > 4
    assert outlines.clean((0, 0, 0))


def made(effect=0.0, shape=0.0, area=0.0, noise=0.02, fields=24, per_field=3, seed=0, kind="network"):
    """Scores of pairs invented: effect per 10 um of radius, shape of strokes, area per 10 % of the image."""
    rng = np.random.default_rng(seed)
    rows = []
    for field in range(fields):
        base = rng.normal(0, 0.05)
        for number in range(per_field):
            for of in (STROKES, ARTEFACT):
                share, covered = rng.uniform(0.1, 0.5), rng.integers(1, 7)
                for one in (of, RECTANGLE):
                    radius = 20 * share * (1.6 if one == RECTANGLE else 1.0) + rng.uniform(0, 8)
                    score = 0.8 + base + effect * radius / 10 + shape * (one == STROKES) + area * share * 10
                    score += rng.normal(0, noise)
                    tp = rng.binomial(6, np.clip(score - 0.2, 0, 1))
                    rows.append(
                        {"method": "A", "kind": kind, "id": f"{field}_{number}_{of}_{one}",
                         "pair": f"{field}_{number}_{of}", "shape": one, "of": of, "field": f"f{field}",
                         "group": f"w{field // 2:02d}", "area": share, "covered": covered, "radius (um)": radius,
                         "phirm/phirm": score, "nuclei/rim_tp": tp, "nuclei/rim_fp": 1, "nuclei/rim_fn": 6 - tp,
                         "nuclei/rim_f1": 2 * tp / (2 * tp + 7 - tp), "pixels/mae": 0.05 + rng.normal(0, 0.001)}
                    )  # fmt: skip
    return pd.DataFrame(rows)


def reml(y, design, groups):
    """A random intercept's REML fit by a plain profile over the ratio of variances: estimates and standard errors."""
    codes = pd.factorize(groups)[0]
    same = (codes[:, None] == codes).astype(float)

    def at(log_ratio):
        inverse = np.linalg.inv(np.eye(len(y)) + np.exp(log_ratio) * same)
        information = design.T @ inverse @ design
        beta = np.linalg.solve(information, design.T @ inverse @ y)
        rest = y - design @ beta
        variance = rest @ inverse @ rest / (len(y) - design.shape[1])
        penalty = -np.linalg.slogdet(inverse)[1] + np.linalg.slogdet(information)[1]
        likelihood = -0.5 * ((len(y) - design.shape[1]) * np.log(variance) + penalty)
        return likelihood, beta, np.sqrt(np.diag(np.linalg.inv(information)) * variance)

    best = minimize_scalar(lambda ratio: -at(ratio)[0], bounds=(-12, 6), method="bounded").x
    return at(best)[1:]


@pytest.mark.parametrize(
    ("column", "size"),
    [
        *[(column, {}) for column in ("phirm/phirm", "nuclei/rim_f1", "pixels/mae")],
        ("pixels/mae", {"fields": 16, "per_field": 2, "seed": 1}),  # variance of fields near 0
        ("nuclei/rim_f1", {"fields": 8, "per_field": 2, "seed": 5}),
    ],
)
def test_mixed_model_agrees_with_an_independent_fit(column, size):
    table = made(**({"effect": -0.05} if not size else {}), area=-0.02, **size)
    terms = models.MODELS[models.RADIUS_MODEL]
    own = models.fit(table, column, terms).set_index("term")
    design = np.stack(
        [np.ones(len(table)), table["shape"] == STROKES, table["shape"] == ARTEFACT, table["area"] * 10,
         table["radius (um)"] / 10, table["covered"]], axis=1
    ).astype(float)  # fmt: skip
    beta, error = reml(table[column].to_numpy(), design, table["field"])
    assert own["estimate"].to_numpy() == pytest.approx(beta[1:], rel=1e-3, abs=1e-6)
    half = (own["estimate high"] - own["estimate low"]) / 2 / 1.959964
    assert half.to_numpy() == pytest.approx(error[1:], rel=5e-3)


def test_an_invented_effect_of_radius_is_found_and_a_null_one_is_not_claimed():
    found = models.mixed_models(made(effect=-0.08)).query("score == 'PhIRM'").set_index(["model", "term"])
    radius = found.loc[(models.RADIUS_MODEL, models.RADIUS)]
    assert radius["estimate low"] < -0.08 < radius["estimate high"]
    assert radius["p Holm"] < 0.001
    beyond = found.loc[(models.RADIUS_MODEL, f"shape: {STROKES}")]
    assert beyond["p Holm"] > 0.05  # what the radius does is not taken for the shape's
    claimed = 0
    for seed in range(20):
        nothing = models.fit(made(seed=seed, fields=16), "phirm/phirm", models.MODELS[models.RADIUS_MODEL])
        claimed += int((holm(nothing["p"].iloc[:4]) < 0.05).any())
    assert claimed <= 3  # Holm keeps a family at 5 %: four or more of twenty have a chance of 2 %


def test_verdicts_say_what_was_invented():
    def told(**effects):
        table = made(noise=0.01, **effects)
        paired = models.paired_differences(table, MARGINS, 1000, 0)
        return words.verdict("A", paired, models.mixed_models(table)), paired.set_index(["score", "shape"])["verdict"]

    text, verdicts = told(area=-0.03)
    assert "argues that area decides, not shape: this holds for PhIRM" in text
    assert verdicts["PhIRM", STROKES] == "equivalent"
    text, verdicts = told(area=-0.03, shape=-0.15)
    assert "does not hold: shape changes PhIRM too." in text
    assert verdicts["PhIRM", STROKES] == "lower"
    assert verdicts["PhIRM", ARTEFACT] == "equivalent"
    assert "this is not shown for PhIRM: no loss with area is shown." in told(area=0.03)[0]
    text, verdicts = told(shape=-0.03)
    assert "is not shown for PhIRM: no loss with area is shown" in text
    assert verdicts["PhIRM", STROKES] == "lower, within the margin"


def test_an_interval_without_zero_that_is_not_distinguished_says_that_it_is_not_corrected():
    row = pd.Series({"estimate": 0.02, "estimate low": 0.01, "estimate high": 0.03, "p Holm": 0.06})
    assert words._effect(row) == "+0.020 [+0.010, +0.030] before Holm's correction, not distinguished from none"
    row["estimate low"] = -0.01
    assert words._effect(row) == "+0.020 [-0.010, +0.030], not distinguished from none"


def test_equivalence_is_the_ninety_per_cent_interval_inside_the_margin():
    table = made(shape=-0.03)
    first, second = (table[(table["of"] == STROKES) & (table["shape"] == one)] for one in (STROKES, RECTANGLE))
    options = {"within": "pair", "n": 4000, "seed": 1}
    low, high = paired_bootstrap(first, second, mean_of("phirm/phirm"), level=0.9, **options)[1:3]
    edge = max(abs(low), abs(high))
    for margin, inside in ((edge * 0.97, False), (edge * 1.03, True)):
        assert (equivalence(first, second, mean_of("phirm/phirm"), margin, **options) < 0.05) == inside
    one = [part[part["group"] == "w00"] for part in (first, second)]
    assert np.isnan(equivalence(*one, mean_of("phirm/phirm"), 0.1, **options))


def test_models_that_cannot_be_fitted_say_so(monkeypatch):
    flat = made().assign(**{"nuclei/rim_f1": 0.0})
    rows = models.mixed_models(flat).query("score == 'rim F1'")
    assert rows["p"].isna().all()
    assert (rows["remark"] == "not fitted: the score does not vary").all()
    for size in ({"fields": 1}, {"fields": 2, "per_field": 1, "seed": 3}):  # the second would leave no residual: p = 0
        few = models.fit(made(**size), "phirm/phirm", models.MODELS[models.RADIUS_MODEL])
        assert few["remark"].str.contains("too few images or fields").all()
        assert few[list(models.NUMBERS)].isna().all(axis=None)
    text = words.verdict("A", models.paired_differences(flat, MARGINS, 50, 0), models.mixed_models(flat))
    assert "rim F1: 10 % more of the image hidden cannot be judged" in text
    whole = MixedLM.fit

    def unfinished(self, **options):
        found = whole(self, **options)
        found.converged = False
        return found

    monkeypatch.setattr(MixedLM, "fit", unfinished)
    lost = models.fit(made(), "phirm/phirm", models.MODELS[models.AREA_MODEL])
    assert lost[list(models.NUMBERS)].isna().all(axis=None)
    assert (lost["remark"] == "did not converge: not used").all()


def test_networks_and_fills_are_families_of_their_own():
    both = pd.concat([made(effect=-0.02), made(effect=-0.02, kind="null fill").assign(method="B")])
    alone = models.mixed_models(made(effect=-0.02))
    together = models.mixed_models(both).query("method == 'A'")
    assert together["p Holm"].to_numpy() == pytest.approx(alone["p Holm"].to_numpy(), nan_ok=True)
    assert together["p Holm"].isna().sum() == 3  # covered nuclei are no question


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"fills": ["tela"]}, "fills names 'tela'"),
        ({"margins": {"PhIRM": 0.1}}, "give each of PhIRM, rim F1, hole MAE"),
        ({"margins": MARGINS | {"PhIRM": 0.0}}, "a margin above 0"),
        ({"patches": 0}, "1 patch or more"),
        ({"area_tolerance": 0.7}, "a share below 0.5"),
        ({"checkpoints": {"telea": "a"}}, "name of a fill"),
    ],
)
def test_wrong_choices_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        MaskShape(**{"checkpoints": None, "fills": ["telea"], "margins": MARGINS, **changes})


def test_it_runs_end_to_end(config, tmp_path):
    train(config("callbacks.last={_target_: phenokeep.callbacks.Last, folder: '${output_dir}'}"))
    checkpoint, out = tmp_path / "run/last.ckpt", tmp_path / "shape"
    options = ["study=mask_shape", "study.patches=8", "study.bands=[[0.1,0.2],[0.3,0.4]]", "study.n_bootstrap=500"]
    arguments = _register_checkpoint([f"ckpt_path={checkpoint}", "debug=tiny", *options, "study.fills=[telea]"])
    with initialize_config_module("phenokeep.configs", version_base="1.3"):
        evaluate(compose("eval", [*arguments, f"output_dir={out}"]))
    images = pd.read_csv(out / "per_image.csv")
    assert set(images["method"]) == {"Restorer", "telea"}
    holes = images[images["method"] == "telea"]
    assert len(holes) == len(images) / 2 >= 8 * 2
    matching = pd.read_csv(out / "matching.csv")
    means = matching.pivot(index="pairs of", columns="shape", values="covered")
    assert means.loc[STROKES, STROKES] == pytest.approx(means.loc[STROKES, RECTANGLE])
    paired = pd.read_csv(out / "paired_differences.csv")
    own = images.query("method == 'telea' and of == 'strokes'").groupby("shape")["pixels/mae"].mean()
    row = paired.query("method == 'telea' and score == 'hole MAE' and shape == 'strokes'").iloc[0]
    assert row["difference"] == pytest.approx(own[STROKES] - own[RECTANGLE])
    assert len(pd.read_csv(out / "mixed_models.csv")) == 2 * 3 * (3 + 5)
    for name in ("paired", "differences", "score_by_area", "score_by_radius", "examples"):
        assert (out / f"{name}.png").stat().st_size > 5000
    page = (Path(out) / "report.html").read_text(encoding="utf-8")
    assert page.count(f"n = {len(holes) // 2} pairs on ") >= 4 + 2  # of every figure but the example, and two tables
    assert "Restorer. PhIRM: 10 % more of the image hidden" in page
