"""How much must be stained? Checkpoints trained on growing parts of one data set, from two plates to all."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from . import crossed
from .crossed import MAIN, PIXELS
from .crossed_report import hint, leaky_words, notes, null_words, shown
from .figures import COLOURS, GREYS, INK, MODEL_COLOUR, tidy
from .judged import NETWORK, check_resamples, contestants, count
from .result import StudyResult
from .subject import Study, Subject

TEST = "judged on"


class LearningCurve(Study):
    """Judges checkpoints of growing training sets on the same test wells (the label-free thesis, section 3.2.2).

    `checkpoints` maps a label to a checkpoint, or to one per training seed; null leaves a label out. Where a checkpoint
    stands on the axis is read from what it was trained on, not from its label. Each is compared with that of the most
    wells. Data whose `train_only` was set when training give such parts. Raises ValueError for a checkpoint that
    was trained on wells that the data do not have, or seeds of a label that were trained on different wells.
    """

    of_pairs = True

    def __init__(
        self,
        checkpoints: crossed.Checkpoints | None,
        nulls: Sequence[str] = ("other_image",),
        n_bootstrap: int = 2000,
        seed: int = 0,
    ) -> None:
        self.checkpoints, self.nulls = crossed.named_checkpoints(checkpoints), list(nulls)
        self.n_bootstrap, self.seed = n_bootstrap, seed

    def check(self, datamodule: Any) -> None:
        """Refuses data without targets or test patches, and checkpoints that are not there."""
        super().check(datamodule)
        datamodule.patches("test")
        crossed.require(self.checkpoints, "labelfree_learning_curve")

    def run(self, subject: Subject) -> StudyResult:
        """Judge every checkpoint, and return tables, the curve, verdict and notes."""
        named = contestants(subject, self.checkpoints)
        check_resamples(self.n_bootstrap, max(1, (len(named) - 1) * len(MAIN)))
        sizes = {label: self._size(subject, label, names) for label, names in named.items()}
        order = sorted(named, key=lambda label: sizes[label])
        named = {label: named[label] for label in order}
        images = crossed.judge_all(subject, named, self.nulls).assign(**{TEST: "the test split"})
        comparable = bool(subject.datamodule.comparable)
        found = crossed.cells(images, TEST, comparable, self.n_bootstrap, self.seed).drop(columns=TEST)
        for place, name in enumerate(("training wells", "training images")):
            sized = [sizes[label][place] if label in sizes else None for label in found["checkpoint"]]
            found.insert(2 + place, name, pd.array(sized, dtype="Int64"))
        runs = crossed.by_run(subject, images, named, TEST, comparable).drop(columns=TEST)
        effort = runs.groupby("checkpoint")[["samples", "training (s)"]].mean().round().astype("Int64")
        found = found.join(effort, on="checkpoint")
        own = {"the test split": order[-1]}
        compared = crossed.against(images, own, TEST, self.n_bootstrap, self.seed).drop(columns=TEST)
        wells, leaky = int(images["group"].nunique()), leaky_words(subject, named)
        target = subject.datamodule.targets[0]
        interval = "Brackets and bars: 95 % bootstrap intervals over test wells."
        tables = {"curve": found, "comparisons": compared, "runs": runs, "per_image": images.drop(columns=TEST)}
        return StudyResult(
            title=f"Learning curve: how many stained wells does {target} need?",
            tables=tables,
            figures={"learning_curve": _curve(found, runs)},
            main="curve",
            notes=[
                *notes(subject, images, wells, self.n_bootstrap, self.seed),
                "All parts are judged on the same test wells, of all plates; a part's own plates are among them. "
                "Samples are crops seen with repetition: where they are alike, more wells mean more different images, "
                "not more training.",
            ],
            captions={
                "curve": f"The predicted {target} against training wells; samples and seconds: mean of the training "
                f"seeds. {interval}{leaky}",
                "comparisons": f"Each part minus {order[-1]}, on the same images.{leaky}",
                "runs": f"Each training run by itself.{leaky}",
                "per_image": f"One row per checkpoint, training seed and image.{leaky}",
                "learning_curve": f"Scores against training wells, {count(wells, 'test well')}. {interval} Rings: "
                f"training seeds, where there are several; dashed: the null.{leaky}",
            },
            verdict=_verdict(found, compared, order) + null_words(found) + hint(wells) + leaky,
        )

    def _size(self, subject: Subject, label: str, names: Sequence[str | None]) -> tuple[int, int]:
        """Training wells and images of a label."""
        assert subject.origin is not None
        origins = [subject.origin(name) for name in names]
        if strange := sorted(origins[0].wells - set(subject.datamodule.index["group"])):
            raise ValueError(
                f"study.checkpoints: {label} was trained on {strange[0]!r}, a well that these data do not have: give "
                "checkpoints of growing parts of one data set (data.train_only), and its data"
            )
        if any(origin.wells != origins[0].wells for origin in origins):
            raise ValueError(f"study.checkpoints: the runs of {label} were trained on different wells: part them")
        rows = crossed.training(subject, origins[0].wells)
        return int(rows["group"].nunique()), len(rows)


def _curve(found: pd.DataFrame, runs: pd.DataFrame) -> Figure:
    """A panel per main score: the networks over training wells with intervals, seeds as rings, nulls dashed."""
    figure = Figure(figsize=(3.5 * len(MAIN) + 0.4, 3.7), layout="constrained")
    networks, nulls = (found[(found["kind"] == NETWORK) == one] for one in (True, False))
    for axes, name in zip(figure.subplots(1, len(MAIN), sharex=True), MAIN, strict=True):
        x, y = (networks[column].to_numpy(dtype=float) for column in ("training wells", name))
        spread = np.abs(networks[[f"{name} low", f"{name} high"]].to_numpy(dtype=float).T - y)
        axes.errorbar(x, y, yerr=spread, color=MODEL_COLOUR, marker="o", markersize=7, linewidth=2.4, zorder=3)
        for label, own in runs.groupby("checkpoint", sort=False):
            if len(own) > 1:
                place = [float(networks.loc[networks["checkpoint"] == label, "training wells"].iloc[0])] * len(own)
                axes.plot(place, own[name], "o", mfc="none", mec=COLOURS[0], ms=5, zorder=4)
        for (_, row), colour in zip(nulls.iterrows(), GREYS, strict=False):
            axes.axhline(row[name], color=colour, linestyle="--", linewidth=1.4)
            end = (0.98, row[name])
            axes.annotate(
                row["checkpoint"], end, (0, 3), xycoords=("axes fraction", "data"), textcoords="offset points",
                ha="right", fontsize=9.5, color=INK,
            )  # fmt: skip
        axes.set_title(f"{name} of pixels" if name == PIXELS else name, fontsize=11.5)
        axes.set_xlabel("training wells", fontsize=11)
        axes.set_xticks(sorted(set(x)), [f"{value:g}" for value in sorted(set(x))])
        axes.margins(x=0.12)
        axes.set_ylim(top=1.02)
        tidy(axes)
    return figure


def _verdict(found: pd.DataFrame, compared: pd.DataFrame, order: Sequence[str]) -> str:
    """The smallest and the largest part, and from which part on nothing is told apart from all."""
    networks = found.set_index("checkpoint")
    if len(order) < 2:
        return f"One checkpoint, {order[0]}: a curve needs two or more."
    least, most = (networks.loc[order[place]] for place in (0, -1))
    parts = [f"{name} {shown(least, name)} -> {shown(most, name)}" for name in MAIN]
    alike = [
        label
        for label in order[:-1]
        if compared.loc[compared["checkpoint"] == label, "verdict"].str.startswith("not distinguished").all()
    ]
    rest = (
        f"Not distinguished from all in any score: {', '.join(alike)} (n = {count(int(most['wells']), 'well')})."
        if alike
        else "No smaller part is as good as all, or not shown to differ, in every score."
    )
    return (
        f"From {least['training wells']} to {most['training wells']} training wells: {'; '.join(parts)} "
        f"({count(int(most['images']), 'test image')} of {count(int(most['wells']), 'well')}). {rest}"
    )
