"""Did the phenotype survive the translation? What a lab reads from a predicted stain against the true one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
import pandas as pd
import torch

from ..metrics.readouts import OVERLAPS, READOUTS, SIDES
from .agreement import STATISTICS, agreement_table
from .agreement_figures import bland_altman, combined_pictures, scatter, violins
from .figures import translated_pictures
from .judged import FEW_WELLS, UNCOMPARED, count, number, unit_notes, with_intervals
from .overlay import together
from .result import StudyResult
from .statistics import mean_of
from .subject import Study, Subject
from .whole_fields import WholeFields

SCORES = {"Pearson r": mean_of("pearson/r"), "MSE": mean_of("pearson/mse")}
# The negative control, where metrics.control measures it: an organelle that the source does not show.
CONTROL, CONTROL_NEEDED = {"control r": mean_of("control/r")}, {"control/r"}
OF_SHAPE = ("count", "area")  # readouts that need no comparable intensities
UNITS = {"count": "objects", "area": "px"}
INTERVALS = "Brackets: 95 % bootstrap intervals over wells."
NEEDED = ["id", "group", "pearson/r", "pearson/mse"]
NULL = "null image"  # not plain "null": pandas reads that word in a CSV as a missing value
NOT_COMPARABLE = "not comparable: each image is in a unit of its own"
# Where metrics.overlap measures it (configs/metrics/nucleus_er_overlap.yaml).
OVERLAP_NEEDED = {f"overlap/{name}_{side}" for name in OVERLAPS for side in SIDES}
OVERLAP_LABELS = {"share": "share of nuclear area under ER", "jaccard": "Jaccard index of nuclei and ER"}


class Translation(Study):
    """Holds a translation model and nulls against the true stain of the test split: pixels, then readouts.

    `nulls` name methods that `judge` knows, such as other_image, the stain of another well. `over` is what one value of
    a readout belongs to: images, the crops that a model is judged on; wells, the mean over their crops; or fields, each
    predicted whole and measured whole (WholeFields). Where the data's intensities are not comparable (each
    image in a unit of its own), the agreement of total and mean intensity is not given. The readouts' metric segments
    predicted and true images alike, each by itself. Raises ValueError if one or two pictures are asked for (0, or best,
    median and worst).
    """

    of_pairs = True

    def __init__(
        self,
        nulls: Sequence[str] = ("other_image",),
        over: Literal["images", "wells", "fields"] = "images",
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
        whole = WholeFields(subject) if self.over == "fields" else None
        judge = whole.judge if whole else subject.judge
        judged = [(judge(name), NULL if name else "model") for name in (None, *self.nulls)]
        images = pd.concat([_checked(table).assign(kind=kind) for table, kind in judged], ignore_index=True)
        model, own = str(images["method"].iloc[0]), judged[0][0].reset_index(drop=True)
        wells, comparable = int(own["group"].nunique()), bool(data.comparable)
        rows = images.groupby(["method", "kind"], sort=False)
        scores = SCORES | (CONTROL if set(images) >= CONTROL_NEEDED else {})
        methods = pd.DataFrame(
            {"method": method, "kind": kind, **with_intervals(table, scores, self.n_bootstrap, self.seed)}
            for (method, kind), table in rows
        )
        numbers = self._agreement(images, comparable)
        shown = numbers[(numbers["kind"] == "model") & (comparable | numbers["readout"].isin(OF_SHAPE))]
        figures = {
            "scatter": scatter(own, shown),
            "bland_altman": bland_altman(own, shown),
            "violins": violins(own, "readouts", list(shown["readout"])),
        }
        leaky = " Leaky split." if subject.leaky_split else ""
        noun = "whole image" if whole else "image"
        captions = _captions(model, data.targets[0], f"{count(len(own), noun)} of {count(wells, 'well')}", leaky)
        if ranked := self._ranked(own):
            arrays = [(label, _drawn(subject, whole, image)) for image, label in ranked]
            figures["examples"] = translated_pictures(
                [(label, {name: planes[0] for name, planes in drawn.items()}) for label, drawn in arrays]
            )
            captions["examples"] = (
                f"What {model} predicted, ranked by Pearson's r: the source in its own range, prediction and target in "
                "that of the target."
            )
            if stains := together(data.targets):
                figures["combined"] = combined_pictures([_combined(data.targets, stains, *one) for one in arrays])
                captions["combined"] = (
                    f"{', '.join(stains)} as one picture, each in its colour and in the range of its true image "
                    "(median to 99.8th percentile), predicted and true."
                )
        few = f" Fewer than {FEW_WELLS} wells: a hint, not yet a finding." if wells < FEW_WELLS else ""
        tables = {
            "methods": methods,
            "agreement": numbers.assign(over=self.over),
            "per_image": images.drop(columns="mask_area", errors="ignore"),
        }
        if set(own) >= OVERLAP_NEEDED:
            overlaps = self._by_method(images, "overlap", OVERLAPS)
            tables["overlap"] = overlaps.assign(over=self.over)
            figures["overlap_scatter"] = scatter(
                own, overlaps[overlaps["kind"] == "model"], "overlap", labels=OVERLAP_LABELS
            )
            captions["overlap"] = (
                "Nucleus-ER overlap of predicted against true images: share of the nuclear area that ER covers, and "
                f"common over joint area (Jaccard). {INTERVALS}{leaky}"
            )
            captions["overlap_scatter"] = f"{model}: nucleus-ER overlap, a dot per value, dashed: agreement.{leaky}"
        return StudyResult(
            title=f"Translation: does what {model} predicts keep the phenotype?",
            tables=tables,
            figures=figures,
            main="methods",
            notes=self._notes(data, own, wells, subject.leaky_split),
            captions=captions,
            verdict=_verdict(numbers, methods, model, data.targets[0], noun) + few + leaky,
        )

    def _by_method(self, images: pd.DataFrame, metric: str, names: Sequence[str]) -> pd.DataFrame:
        """`agreement_table` of each method, one under the other, with the columns method and kind first."""
        over = "wells" if self.over == "wells" else "images"
        parts = []
        for (method, kind), table in images.groupby(["method", "kind"], sort=False):
            found = agreement_table(table.reset_index(drop=True), metric, names, over, self.n_bootstrap, self.seed)
            found.insert(0, "method", method)
            found.insert(1, "kind", kind)
            parts.append(found)
        return pd.concat(parts, ignore_index=True)

    def _agreement(self, images: pd.DataFrame, comparable: bool) -> pd.DataFrame:
        """A row per method and readout; those that cannot be compared have no numbers, and the reason."""
        table = self._by_method(images, "readouts", READOUTS)
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
        if self.over == "fields":
            notes.append(
                "An image is a whole field, predicted as predict.py predicts it, beyond its edge mirrored. It is "
                "measured on the pixels of the model's crops."
            )
        else:
            notes.append(
                "An image is a crop, as in training: an object that its edge cuts is counted in both crops. "
                "study.over=fields reads whole fields, as a laboratory does."
            )
        if data.comparable:
            notes.append("Intensities are in shares of the range that the training wells of a plate fill, 0 to 1.")
        else:
            notes.append(f"{UNCOMPARED}. Train with data.scaling=plate and without data.prepare to compare them.")
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


def _drawn(subject: Subject, whole: WholeFields | None, image: str) -> dict[str, np.ndarray]:
    """Source, prediction and target of a crop, or of a whole field, each C Y X."""
    assert subject.module is not None
    module = subject.module(None)
    batch = whole.batch(image) if whole else subject.datamodule.samples("test", [image])
    with torch.inference_mode():
        drawn = whole.predict(module, batch) if whole else module.cpu().test_step(batch, 0)["prediction"]
    arrays = {"source": batch["source"], "prediction": drawn, "target": batch["target"]}
    return {name: planes[0].numpy() for name, planes in arrays.items()}


def _combined(
    targets: Sequence[str], stains: Sequence[str], label: str, drawn: Mapping[str, np.ndarray]
) -> tuple[str, dict[str, np.ndarray], dict[str, np.ndarray]]:
    """A row of `combined_pictures`: the label without its numbers, which are of one stain."""
    place, image, *_ = label.split("\n")
    sides = [{name: drawn[side][targets.index(name)] for name in stains} for side in ("prediction", "target")]
    return f"{place}: {image}", sides[0], sides[1]


def _captions(model: str, target: str, size: str, leaky: str) -> dict[str, str]:
    return {
        "methods": f"Pixels of the predicted {target} against the true: mean over images, {size}. MSE: of intensities "
        f"in [0, 1]. {INTERVALS}{leaky}",
        "agreement": "Readouts of predicted against true images. Bias and limits (Bland-Altman): predicted - true, in "
        f"the readout's unit. {INTERVALS}{leaky}",
        "per_image": f"One row per method and image; empty or n/a where a number is not defined.{leaky}",
        "scatter": f"{model}: a dot per value, the dashed line is perfect agreement.{leaky}",
        "bland_altman": f"{model}: bias and limits that hold 95 % of differences; shaded: their intervals.{leaky}",
        "violins": f"{model}: true and predicted values of all images, and of wells that hold 5 or more.{leaky}",
    }


def _verdict(numbers: pd.DataFrame, methods: pd.DataFrame, model: str, target: str, noun: str) -> str:
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
    size = f"n = {count(int(own['images'].iloc[0]), noun)} of {count(int(own['wells'].iloc[0]), 'well')}"
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
