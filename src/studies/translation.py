"""Did the phenotype survive the translation? What a lab reads from a predicted stain against the true one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import pandas as pd

from ..metrics.readouts import READOUTS
from .agreement import STATISTICS, agreement_table
from .agreement_figures import bland_altman, scatter, violins
from .figures import translated_pictures
from .judged import FEW_WELLS, count, number, unit_notes, with_intervals
from .result import StudyResult
from .statistics import mean_of
from .subject import Study, Subject

SCORES = {"Pearson r": mean_of("pearson/r"), "MSE": mean_of("pearson/mse")}
# The negative control, where metrics.control measures it: an organelle that the source does not show.
CONTROL, CONTROL_NEEDED = {"control r": mean_of("control/r")}, {"control/r"}
OF_SHAPE = ("count", "area")  # readouts that need no comparable intensities
UNITS = {"count": "objects", "area": "px"}
NEEDED = ["id", "group", "pearson/r", "pearson/mse"]
NULL = "null image"  # not plain "null": pandas reads that word in a CSV as a missing value
NOT_COMPARABLE = "not comparable: each image was stretched by itself"


class Translation(Study):
    """Holds a translation model and nulls against the true stain of the test split: pixels, then readouts.

    `nulls` name methods that `judge` knows, such as other_image, the stain of another well. `over` is what one value of
    a readout belongs to, images or wells. Where the data's intensities are not comparable (data.scaling=paper: each
    image runs from its own minimum to its own maximum), total and mean intensity are in a unit of each image's own;
    their agreement is not given. The readouts' metric segments predicted and true images alike, each by itself.
    Raises ValueError if one or two pictures are asked for (0, or best, median and worst).
    """

    of_pairs = True

    def __init__(
        self,
        nulls: Sequence[str] = ("other_image",),
        over: Literal["images", "wells"] = "images",
        n_bootstrap: int = 2000,
        seed: int = 0,
        pictures: int = 3,
    ) -> None:
        self.nulls, self.over, self.n_bootstrap, self.seed, self.pictures = nulls, over, n_bootstrap, seed, pictures
        if pictures in (1, 2) or pictures < 0:
            raise ValueError(
                f"study.pictures is {pictures}: best, median and worst belong together; give 3 or more, or 0"
            )

    def check(self, datamodule: Any) -> None:
        """Refuses data without targets or without test patches."""
        super().check(datamodule)
        datamodule.patches("test")

    def run(self, subject: Subject) -> StudyResult:
        """Judge the model and the nulls, and return tables, figures, verdict and notes."""
        assert subject.judge is not None
        data = subject.datamodule
        judged = [(subject.judge(name), NULL if name else "model") for name in (None, *self.nulls)]
        images = pd.concat([_checked(table).assign(kind=kind) for table, kind in judged], ignore_index=True)
        model, own = str(images["method"].iloc[0]), judged[0][0].reset_index(drop=True)
        wells, comparable = int(own["group"].nunique()), bool(data.comparable)
        rows = images.groupby(["method", "kind"], sort=False)
        scores = SCORES | (CONTROL if set(images) >= CONTROL_NEEDED else {})
        methods = pd.DataFrame(
            {"method": method, "kind": kind, **with_intervals(table, scores, self.n_bootstrap, self.seed)}
            for (method, kind), table in rows
        )
        numbers = pd.concat(
            [self._agreement(t.reset_index(drop=True), comparable).assign(method=m, kind=k) for (m, k), t in rows]
        )
        numbers = numbers[["method", "kind", *numbers.columns.drop(["method", "kind"])]].reset_index(drop=True)
        shown = numbers[(numbers["kind"] == "model") & (comparable | numbers["readout"].isin(OF_SHAPE))]
        figures = {
            "scatter": scatter(own, shown),
            "bland_altman": bland_altman(own, shown),
            "violins": violins(own, "readouts", list(shown["readout"])),
        }
        leaky = " Leaky split." if subject.leaky_split else ""
        captions = _captions(model, data.targets[0], f"{count(len(own), 'image')} of {count(wells, 'well')}", leaky)
        ranked = self._ranked(own)
        if ranked and subject.example is not None:
            arrays = subject.example([image for image, _ in ranked])
            figures["examples"] = translated_pictures([(label, arrays[image]) for image, label in ranked])
            captions["examples"] = (
                f"What {model} predicted, ranked by Pearson's r: the source in its own range, prediction and target in "
                "that of the target."
            )
        few = f" Fewer than {FEW_WELLS} wells: a hint, not yet a finding." if wells < FEW_WELLS else ""
        tables = {
            "methods": methods,
            "agreement": numbers,
            "per_image": images.drop(columns="mask_area", errors="ignore"),
        }
        return StudyResult(
            title=f"Translation: does what {model} predicts keep the phenotype?",
            tables=tables,
            figures=figures,
            main="methods",
            notes=self._notes(data, own, wells, subject.leaky_split),
            captions=captions,
            verdict=_verdict(numbers, methods, model, data.targets[0]) + few + leaky,
        )

    def _agreement(self, images: pd.DataFrame, comparable: bool) -> pd.DataFrame:
        """A row per readout; those that cannot be compared have no numbers, and the reason."""
        table = agreement_table(images, over=self.over, resamples=self.n_bootstrap, seed=self.seed)
        if not comparable:
            hidden = ~table["readout"].isin(OF_SHAPE)
            columns = [f"{name}{end}" for name in STATISTICS for end in ("", " low", " high")]
            table.loc[hidden, columns] = np.nan
            table.loc[hidden, "reason"] = NOT_COMPARABLE
        return table

    def _ranked(self, rows: pd.DataFrame) -> list[tuple[str, str]]:
        """Ids and labels from the model's best image to its worst by Pearson's r."""
        ranked = rows[rows["pearson/r"].notna()].sort_values(["pearson/r", "id"], ascending=False)
        names = {len(ranked) - 1: "worst", (len(ranked) - 1) // 2: "median", 0: "best"}
        picked = []
        for place in np.unique(np.linspace(0, len(ranked) - 1, min(self.pictures, len(ranked))).astype(int)):
            row = ranked.iloc[place]
            counts = " / ".join(f"{row[f'readouts/count_{side}']:.0f}" for side in ("predicted", "true"))
            words = f"r {number(row['pearson/r'])}\nobjects {counts}"
            picked.append((str(row["id"]), f"{names.get(int(place), f'rank {place + 1}')}\n{row['id']}\n{words}"))
        return picked

    def _notes(self, data: Any, own: pd.DataFrame, wells: int, leaky_split: bool) -> list[str]:
        notes = [
            *unit_notes(wells, self.n_bootstrap, self.seed),
            "other_image, the null, predicts the stain of another well: it looks right and knows nothing of this one. "
            "A readout that agrees with its truth no better than the null's was not predicted.",
            "Predicted and true images are segmented in the same way, each by itself. Both are as far from the true "
            "objects as this segmentation is: agreement says that one reads the same, not that it is right.",
            "Pearson's r of pixels is the mean over images; the loss of the label-free thesis is (1 - r) / 2. A slope "
            "below 1 or limits that widen show a compressed range, which a high correlation hides.",
            "A model trained with Pearson's loss alone is free in brightness and offset: its total and mean intensity "
            "need not agree, nor its MSE be small, even where count and area do.",
            "Intervals cover the choice of wells and images, not of the training seed: this is one trained model.",
        ]
        if data.comparable:
            notes.append("Intensities are in shares of the range that the training wells of a plate fill, 0 to 1.")
        else:
            notes.append(
                "Intensities are not comparable: each image was stretched from its own minimum to its own maximum "
                "(data.scaling=paper), so that a sum or mean is in a unit of its image alone. Train with "
                "data.scaling=plate to compare them."
            )
        if set(own) >= CONTROL_NEEDED:
            notes.append(
                "control r is that of an organelle which the drawn light does not show: whatever is right about its "
                "prediction was guessed from where cells are. A stain predicted no better was not seen either."
            )
        if undefined := int(own["pearson/r"].isna().sum()):
            notes.append(f"{count(undefined, 'image')} without a Pearson's r: predicted or true stain is constant.")
        if len(data.targets) > 1:
            notes.append(
                f"The targets are {', '.join(data.targets)}: pictures and words are of the first; the numbers are of "
                "the one that metrics.pearson.metric.channel and metrics.readouts.metric.channel name."
            )
        if hasattr(data, "microscope"):
            notes.append(
                "These images are drawn: source and target are one scene under the virtual microscope, registered to "
                "the pixel. Its nuclei have been held against real fluorescence (docs/realism/realism.md), its "
                "transmitted light has not. This says that a method can work, not how well it does on cells."
            )
        if leaky_split:
            notes.insert(0, "Leaky split: images of one well are on both sides, so every score here is too good.")
        return notes


def _checked(table: pd.DataFrame) -> pd.DataFrame:
    needed = NEEDED + [f"readouts/{name}_{side}" for name in READOUTS for side in ("predicted", "true")]
    if missing := [name for name in needed if name not in table]:
        raise ValueError(f"the table of images lacks {', '.join(missing)}: judge with metrics=translation")
    return table


def _captions(model: str, target: str, size: str, leaky: str) -> dict[str, str]:
    interval = "Brackets: 95 % bootstrap intervals over wells."
    return {
        "methods": f"Pixels of the predicted {target} against the true: mean over images, {size}. MSE: of intensities "
        f"in [0, 1]. {interval}{leaky}",
        "agreement": "Readouts of predicted against true images. Bias and limits (Bland-Altman): predicted - true, in "
        f"the readout's unit. {interval}{leaky}",
        "per_image": f"One row per method and image; empty or n/a where a number is not defined.{leaky}",
        "scatter": f"{model}: a dot per value, the dashed line is perfect agreement.{leaky}",
        "bland_altman": f"{model}: bias and limits that hold 95 % of differences; shaded: their intervals.{leaky}",
        "violins": f"{model}: true and predicted values of each well.{leaky}",
    }


def _verdict(numbers: pd.DataFrame, methods: pd.DataFrame, model: str, target: str) -> str:
    """Pearson of count and area with bias, and what the null reaches; an interval that holds 0 shows nothing."""
    own = numbers[numbers["kind"] == "model"].set_index("readout")
    parts = []
    for name in OF_SHAPE:
        row = own.loc[name]
        if not np.isfinite(row["Pearson"]):
            parts.append(f"{name}: no correlation is defined ({row['reason']})")
            continue
        shown = "" if row["Pearson low"] > 0 else ", not shown to follow the truth"
        digits = "+.1f" if name == "count" else "+,.0f"
        bias = f"bias {row['bias']:{digits}} {UNITS[name]}{_interval(row, 'bias', digits)}"
        parts.append(f"{name} r {row['Pearson']:.3f}{_interval(row, 'Pearson', '.3f')}{shown}, {bias}")
    size = f"n = {count(int(own['images'].iloc[0]), 'image')} of {count(int(own['wells'].iloc[0]), 'well')}"
    nulls = [
        f"{row['method']} reaches r {' and '.join(_null(numbers, row['method'], name) for name in OF_SHAPE)}"
        for _, row in methods[methods["kind"] == NULL].iterrows()
    ]
    return f"{target} read from what {model} predicts, against the true stain: {'; '.join(parts)} ({size}). " + (
        f"The null {' and '.join(nulls)}." if nulls else ""
    )


def _null(numbers: pd.DataFrame, method: str, readout: str) -> str:
    row = numbers[(numbers["method"] == method) & (numbers["readout"] == readout)].iloc[0]
    return f"{number(row['Pearson'])}{_interval(row, 'Pearson', '.2f')} for {readout}"


def _interval(row: pd.Series, name: str, shape: str) -> str:
    low, high = row[f"{name} low"], row[f"{name} high"]
    return f" [{low:{shape}}, {high:{shape}}]" if np.isfinite(low) else ""
