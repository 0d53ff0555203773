"""Does a restored image keep its nuclei better than fills that know nothing? The study behind every inpainting eval."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from ..imaging.masks import PAPER_BANDS
from .figures import example_pictures, score_against_bands
from .judged import (
    FEW_WELLS,
    SCORES,
    beside,
    by_band,
    comparison_table,
    count,
    label_of,
    number,
    on_identical_images,
    unit_notes,
)
from .result import StudyResult
from .statistics import paired_bootstrap
from .subject import Judge, Study, Subject


class Restoration(Study):
    """Compares a trained model with nulls and classical fills on the same images and masks, by band of mask area.

    `nulls` and `classical` name methods that `judge` knows; bands are fractions of the image, lower edge inside, upper
    edge outside (inside for the last). Raises ValueError if the focus band is not one of the bands, or if fewer than
    three pictures (best, median, worst; 0 for none) are asked for. Rules: evaluation by well, Holm over the family.
    """

    def __init__(
        self,
        nulls: Sequence[str],
        classical: Sequence[str],
        bands: Sequence[Sequence[float]] = PAPER_BANDS,
        focus_band: Sequence[float] = (0.2, 0.3),
        n_bootstrap: int = 2000,
        seed: int = 0,
        pictures: int = 3,
    ) -> None:
        # Not plain "null": pandas reads that word in a CSV as a missing value.
        self.kinds = {**dict.fromkeys(nulls, "null fill"), **dict.fromkeys(classical, "classical fill")}
        self.bands = sorted((float(low), float(high)) for low, high in bands)
        self.focus = (float(focus_band[0]), float(focus_band[1]))
        self.n_bootstrap, self.seed, self.pictures = n_bootstrap, seed, pictures
        if pictures in (1, 2):
            raise ValueError(
                f"study.pictures is {pictures}: best, median and worst belong together; give 3 or more, or 0"
            )

    def check(self, datamodule: Any) -> None:
        """Takes the bands of the data's masks, where they have any."""
        super().check(datamodule)
        self.bands = sorted(datamodule.masks.bands or self.bands)
        if self.focus not in self.bands:
            raise ValueError(
                f"study.focus_band {self.focus} is not among the masks' bands {self.bands}: name one of them"
            )

    def run(self, subject: Subject) -> StudyResult:
        """Judge the model and every baseline, and return tables, figures, verdict and notes.

        Raises ValueError if tables lack columns or differ in images or masks, or if no mask is in the focus band.
        """
        assert subject.judge is not None
        leaky_split = subject.leaky_split
        images = self._judge_all(subject.judge)
        model = str(images["method"].iloc[0])
        focus_label = label_of(self.focus)
        focus = images[images["band"] == focus_label]
        if focus.empty:
            found = f"{images['mask_area'].min():.3f} to {images['mask_area'].max():.3f}"
            raise ValueError(f"no mask covers {focus_label} of its image (areas are {found}): set study.focus_band")
        bands = by_band(images, self.bands, SCORES, self.n_bootstrap, self.seed)
        methods = bands[bands["band"] == focus_label].drop(columns="band").merge(beside(focus), on="method")
        methods = methods[[column for column in methods if column not in ("images", "wells")] + ["images", "wells"]]
        comparisons = self._compare(focus, methods, model)
        outside = int(images.loc[images["method"] == model, "band"].isna().sum())
        size = f"n = {count(int(methods['images'].iloc[0]), 'image')} of {count(int(methods['wells'].iloc[0]), 'well')}"
        leaky = " Leaky split." if leaky_split else ""
        few = int(methods["wells"].iloc[0]) < FEW_WELLS
        caveat = f" Fewer than {FEW_WELLS} wells: a hint, not yet a finding." if few else ""
        interval = "Brackets hold 95 % bootstrap intervals over wells."
        axis = "hidden share of the image"
        figures = {
            "phirm_by_mask_area": score_against_bands(bands, "PhIRM", "PhIRM (mean)", axis),
            "rim_f1_by_mask_area": score_against_bands(bands, "rim F1", "rim F1 (pooled)", axis),
        }
        bars = "Bars: 95 % over wells; dashed: null fills."
        captions = {
            "methods": f"Holes of {focus_label} of the image, {size}. Rim F1: nuclei cut by the hole's edge, matched "
            "on their hidden part. Inner F1: nuclei wholly inside, which no method can know. All F1, lost and "
            f"invented: every nucleus in the hole. PSNR (dB), SSIM, MAE: inside the hole. {interval}{leaky}",
            "comparisons": f"{model} minus the best null fill and the best classical fill, each chosen by its score "
            f"here, over the same resamples. p Holm: corrected for all rows. {interval}{leaky}",
            "bands": f"Every method in every band of mask area. {interval}{leaky}",
            "per_image": f"One row per method and image; empty or n/a where a score is not defined.{leaky}",
            "phirm_by_mask_area": f"PhIRM against the hidden share of the image. {bars}{leaky}",
            "rim_f1_by_mask_area": f"F1 of the hidden parts of nuclei cut by the hole's edge. {bars}{leaky}",
        }
        ranked = self._ranked(focus[focus["method"] == model])
        if ranked:
            assert subject.example is not None
            arrays = subject.example([image for image, _ in ranked])
            figures["examples"] = example_pictures([(label, arrays[image]) for image, label in ranked])
            captions["examples"] = (
                f"What {model} made of holes of {focus_label}, ranked by rim F1, then PhIRM. One grey scale per row; "
                "the blue part was hidden from the model."
            )
        return StudyResult(
            title=f"Restoration: does {model} keep the nuclei?",
            tables={"methods": methods, "comparisons": comparisons, "bands": bands, "per_image": images},
            figures=figures,
            main="methods",
            notes=self._notes(focus, comparisons, outside, leaky_split),
            captions=captions,
            verdict=_verdict(comparisons, model, focus_label, size) + caveat + leaky,
        )

    def _judge_all(self, judge: Judge) -> pd.DataFrame:
        """Per-image rows of all methods, the model first, with `kind` and `band` added, on identical images."""
        trained = judge(None)
        model = str(trained["method"].iloc[0])
        if model in self.kinds:
            raise ValueError(
                f"the judged model is itself the baseline {model}: take it out of study.nulls or .classical"
            )
        tables = {model: trained} | {name: judge(name) for name in self.kinds}
        return on_identical_images(tables, {model: "model", **self.kinds}, self.bands)

    def _compare(self, focus: pd.DataFrame, methods: pd.DataFrame, model: str) -> pd.DataFrame:
        """The model against the best null and the best classical method on each score, Holm over all rows."""
        rows, differences = [], []
        trained = focus[focus["method"] == model]
        for score, statistic in reversed(SCORES.items()):
            for kind in dict.fromkeys(self.kinds.values()):
                rivals = methods[(methods["kind"] == kind) & methods[score].notna()].set_index("method")[score]
                if rivals.empty:
                    continue
                best = str(rivals.idxmax())
                rival = focus[focus["method"] == best]
                difference = paired_bootstrap(trained, rival, statistic, n=self.n_bootstrap, seed=self.seed)
                own = methods.set_index("method").loc[model, score]
                rows.append(
                    {"score": score, "against": best, "kind": f"best {kind}", "model": own, "rival": rivals[best]}
                )
                differences.append(difference)
        return comparison_table(rows, differences, ["score", "against", "kind", "model", "rival"])

    def _ranked(self, rows: pd.DataFrame) -> list[tuple[str, str]]:
        """Ids and labels from the model's best image to its worst, leaving out images without rim nuclei if it can."""
        defined = rows[rows["nuclei/rim_f1"].notna()]
        ranked = (rows if defined.empty else defined).sort_values(["nuclei/rim_f1", "phirm/phirm", "id"])
        count = len(ranked)
        names = {(count - 1) // 2: "median", 0: "worst", count - 1: "best"}
        picked = []
        for place in np.linspace(count - 1, 0, min(self.pictures, count)).astype(int):
            row = ranked.iloc[place]
            name = names.get(int(place), f"rank {count - place} of {count}")
            scores = f"rim F1 {number(row['nuclei/rim_f1'])}\nPhIRM {number(row['phirm/phirm'])}"
            picked.append((str(row["id"]), f"{name}\n{row['id']}\n{scores}"))
        return picked

    def _notes(self, focus: pd.DataFrame, comparisons: pd.DataFrame, outside: int, leaky_split: bool) -> list[str]:
        wells = focus["group"].nunique()
        undefined = int(focus.loc[focus["kind"] == "model", "nuclei/rim_f1"].isna().sum())
        nulls = comparisons[comparisons["kind"] == "best null fill"].groupby("against", sort=False)["score"]
        best = [f"{name} ({' and '.join(scores)})" for name, scores in nulls]
        notes = [
            *unit_notes(wells, self.n_bootstrap, self.seed),
            "Null fills show what a score gives for nothing: background, another field's patch, the hole turned round. "
            "Classical fills continue the intensities at the hole's edge.",
            "PhIRM compares numbers and areas, not places: an image mirrored scores 1, and an invented nucleus pays "
            "for a lost one. So rim F1 stands beside it: it counts only nuclei cut by the hole's edge, whose visible "
            "part says something about the hidden one, and matches them on the hidden part alone.",
            "Intervals cover the choice of wells and images, not of the training seed: this is one trained model.",
        ]
        if leaky_split:
            notes.insert(0, "Leaky split: images of one well are on both sides, so every score here is too good.")
        if best:
            notes.append(
                f"Best null fill: {', '.join(best)}; chosen by its score on these same images, which favours it."
            )
        if undefined:
            notes.append(
                f"In the focus band, {count(undefined, 'image')} had no rim nucleus, true or drawn: no rim F1."
            )
        if outside:
            notes.append(f"{count(outside, 'image')} with a mask area outside all bands stand in per_image only.")
        return notes


def _verdict(comparisons: pd.DataFrame, model: str, band: str, size: str) -> str:
    rim = comparisons[comparisons["score"] == "rim F1"]
    if rim.empty:
        return f"In holes of {band} of the image no nucleus is cut by the hole's edge: nothing can be said ({size})."
    phrases = {"beats": "beats", "worse": "is worse than"}
    parts = [
        f"{phrases.get(row['verdict'], 'is not distinguished from')} the {row['kind']} ({row['against']})"
        for _, row in rim.iterrows()
    ]
    return (
        f"In holes of {band} of the image, {model} {' and '.join(parts)} at redrawing nuclei cut by the hole's edge: "
        f"rim F1 {number(rim['model'].iloc[0])} against {' and '.join(map(number, rim['rival']))} ({size})."
    )
