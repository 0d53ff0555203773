"""Does a network trained on one phenotype predict another? The label-free thesis, section 3.2.6, left it open."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from . import crossed
from .crossed import MAIN
from .crossed_report import crossing_words, hint, leaky_words, matrix, notes
from .judged import check_resamples, contestants
from .result import StudyResult
from .subject import Study, Subject

JUDGED = "judged on"


class PhenotypeTransfer(Study):
    """Judges checkpoints, each trained on one phenotype, on the test images of every phenotype.

    `column` of the index says what a field shows. `checkpoints` maps a label to a checkpoint, or to one per training
    seed (null leaves a label out); what it was trained on is read from its wells. Each is compared with the
    one that was trained on the phenotype itself, on the same images. Raises ValueError where the index lacks the
    column, where a label is a phenotype that it was not trained on, or for wells that the data do not have.
    """

    of_pairs = True

    def __init__(
        self,
        checkpoints: crossed.Checkpoints | None,
        column: str = "phenotype",
        nulls: Sequence[str] = ("other_image",),
        n_bootstrap: int = 2000,
        seed: int = 0,
    ) -> None:
        self.checkpoints, self.column = crossed.named_checkpoints(checkpoints), column
        self.nulls, self.n_bootstrap, self.seed = list(nulls), n_bootstrap, seed

    def check(self, datamodule: Any) -> None:
        """Refuses data without targets, test patches or the column, and checkpoints that are not there."""
        super().check(datamodule)
        datamodule.patches("test")
        index = datamodule.index
        if self.column not in index or index[self.column].isna().any():
            lacks = "has no column" if self.column not in index else "has fields without a"
            raise ValueError(
                f"{datamodule.root} {lacks} {self.column}; its columns are {', '.join(index)}: write it into "
                "index.csv, set study.column, or draw it (data=virtual_pairs 'data.cell_lines=[CHOZN, PHX, H19]')"
            )
        crossed.require(self.checkpoints, "labelfree_phenotype_transfer")

    def run(self, subject: Subject) -> StudyResult:
        """Judge every checkpoint on every phenotype, and return tables, matrix, verdict and notes."""
        data = subject.datamodule
        named = contestants(subject, self.checkpoints)
        held = data.index.loc[data.index["split"] == "test"].set_index("id")[self.column].astype(str)
        check_resamples(self.n_bootstrap, max(1, held.nunique() * (len(named) - 1) * len(MAIN)))
        own = self._own(subject, named, sorted(held.unique()))
        samples = data.patches("test")
        shows = {samples.name(number): held[samples.field(number)] for number in range(len(samples))}
        images = crossed.judge_all(subject, named, self.nulls)
        images.insert(3, JUDGED, images["id"].map(shows))
        comparable = bool(data.comparable)
        found = crossed.cells(images, JUDGED, comparable, self.n_bootstrap, self.seed)
        compared = crossed.against(images, own, JUDGED, self.n_bootstrap, self.seed)
        wells, leaky = int(found["wells"].min()), leaky_words(subject, named)
        target = data.targets[0]
        interval = "Brackets: 95 % bootstrap intervals over wells."
        sizes = ", ".join(f"{name}: {part['group'].nunique()}" for name, part in images.groupby(JUDGED))
        return StudyResult(
            title=f"Phenotype transfer: is {target} predicted in cells of another {self.column}?",
            tables={
                "matrix": found,
                "comparisons": compared,
                "runs": crossed.by_run(subject, images, named, JUDGED, comparable),
                "per_image": images,
            },
            figures={"matrix_by_score": matrix(found, MAIN, JUDGED, own, "judged on")},
            main="matrix",
            notes=[
                *notes(subject, images, wells, self.n_bootstrap, self.seed),
                "Correlations are within the test images of one phenotype; how much there is to tell apart differs "
                "between phenotypes, so that numbers compare down a column.",
                "The range of a plate is fitted on all of its training wells, whatever their phenotype: transfer is of "
                "the network, not of the scaling.",
                "other_image, the null, predicts the stain of another well, of any phenotype.",
            ],
            captions={
                "matrix": f"The predicted {target}, checkpoints by phenotype of the test images. {interval}{leaky}",
                "matrix_by_score": f"Outlined: trained on the phenotype that it is judged on; test wells {sizes}. "
                f"{interval}{leaky}",
                "comparisons": f"Each checkpoint minus the one trained on the phenotype, on the same images.{leaky}",
                "runs": f"Each training run by itself.{leaky}",
                "per_image": f"One row per checkpoint, training seed and image.{leaky}",
            },
            verdict=crossing_words(found, compared, own, JUDGED) + hint(wells) + leaky,
        )

    def _own(self, subject: Subject, named: dict[str, list[str | None]], tested: Sequence[str]) -> dict[str, str]:
        """The label that was trained on each phenotype alone, the first of those in the config."""
        assert subject.origin is not None
        index = subject.datamodule.index
        own: dict[str, str] = {}
        for label in [*self.checkpoints, *named]:
            for name in named[label]:
                wells = subject.origin(name).wells
                if strange := sorted(wells - set(index["group"])):
                    raise ValueError(
                        f"study.checkpoints: {label} was trained on {strange[0]!r}, a well that these data do not "
                        "have: give checkpoints of parts of one data set (data.train_only), and its data"
                    )
                seen = sorted(index.loc[index["group"].isin(wells), self.column].astype(str).unique())
                if label in tested and seen != [label]:
                    raise ValueError(
                        f"study.checkpoints: {label} was trained on {', '.join(seen)}: name what it was trained on"
                    )
                if len(seen) == 1:
                    own.setdefault(seen[0], label)
        return {condition: label for condition, label in own.items() if condition in tested}
