"""Must cells be as large as in training? Table 6 of the label-free thesis: train at one scale, predict at another."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pandas as pd

from ..imaging.tiles import Zoom
from . import crossed
from .crossed import MAIN
from .crossed_report import crossing_words, hint, leaky_words, matrix, notes
from .judged import check_resamples, contestants, count
from .result import StudyResult
from .subject import Study, Subject

JUDGED = "judged at"
SAME_FACTOR = 0.01  # crops are whole pixels wide, so that 1.3 becomes 1.299
PUBLISHED = (
    "Published, on real CHO nuclei and not with these data or networks (thesis, table 6, Pearson of count, total "
    "intensity, mean intensity, area): trained and judged at 1.3: .987 .902 .922 .991; at 0.7: .995 .88 .906 .992; "
    "trained at 1.0 with augmentation, judged at 1.3: .975 .861 .88 .961; trained at 1.3, judged at 1.0: .971 .856 "
    ".872 .952; trained at 1.3, judged at 0.7: left open. It gives no intervals."
)


class Scaling(Study):
    """Judges checkpoints that saw cells at different sizes on test images at each of these sizes.

    At a factor, crops of 1/factor times the patch's side are cut from the test wells and resized: cells are that many
    times as large as in an uncut image. `checkpoints` maps a label to a checkpoint, or to one per training seed (null
    leaves a label out); at which factor each was trained, it says itself. Source: the label-free thesis, section 3.2.5,
    which found at equal scale Pearson's r of .987 to .995 for count and .991, .992 for area, and across scales .971,
    .975 and .952, .961. Raises ValueError where the seeds of a label were trained at several factors.
    """

    of_pairs = True
    across = ("zoom",)

    def __init__(
        self,
        checkpoints: crossed.Checkpoints | None,
        factors: Sequence[float] = (0.7, 1.0, 1.3),
        nulls: Sequence[str] = ("other_image",),
        n_bootstrap: int = 2000,
        seed: int = 0,
    ) -> None:
        if len(set(factors)) < len(factors) or not factors or min(factors) <= 0:
            raise ValueError(f"study.factors is {list(factors)}: name one or more numbers above 0, each once")
        self.checkpoints, self.nulls = crossed.named_checkpoints(checkpoints), list(nulls)
        self.factors = [float(factor) for factor in factors]
        self.n_bootstrap, self.seed = n_bootstrap, seed

    def check(self, datamodule: Any) -> None:
        """Refuses data without targets or test patches, and checkpoints that are not there."""
        super().check(datamodule)
        datamodule.patches("test")
        crossed.require(self.checkpoints, "labelfree_scaling")

    def run(self, subject: Subject) -> StudyResult:
        """Judge every checkpoint at every factor, and return tables, matrix, verdict and notes."""
        data = subject.datamodule
        named = contestants(subject, self.checkpoints)
        check_resamples(self.n_bootstrap, max(1, len(self.factors) * (len(named) - 1) * len(MAIN)))
        own = self._own(subject, named)
        parts = []
        for factor in self.factors:
            samples = data.cut(_zoom(data.zoom.size, factor)).patches("test")
            judged = crossed.judge_all(subject, named, self.nulls, samples)
            parts.append(judged.assign(**{JUDGED: f"{factor}"}))
        images = pd.concat(parts, ignore_index=True)
        comparable = bool(data.comparable)
        found = crossed.cells(images, JUDGED, comparable, self.n_bootstrap, self.seed)
        compared = crossed.against(images, own, JUDGED, self.n_bootstrap, self.seed)
        wells, leaky = int(found["wells"].min()), leaky_words(subject, named)
        target = data.targets[0]
        interval = "Brackets: 95 % bootstrap intervals over wells."
        return StudyResult(
            title=f"Scaling: is {target} predicted from cells of another size?",
            tables={
                "matrix": found,
                "comparisons": compared,
                "runs": crossed.by_run(subject, images, named, JUDGED, comparable),
                "per_image": images,
            },
            figures={"matrix_by_score": matrix(found, list(crossed.scores(comparable)), JUDGED, own, "judged at")},
            main="matrix",
            notes=[
                *notes(subject, images, wells, self.n_bootstrap, self.seed),
                "A factor's crops show another extent of the same test wells, so that count and area are other values "
                "at each factor, over another range. Correlations are within one factor: down a column they compare, "
                "along a row they also differ by what there is to tell apart.",
                "Segmentation has the same block and least area in pixels at every factor, as in the thesis.",
                "Training enlarges crops at random (data.augment.enlarge): a network meets cells larger than its "
                "factor says, and never smaller ones.",
            ],
            captions={
                "matrix": f"The predicted {target}, checkpoints by factor of the test images. {interval}{leaky}",
                "matrix_by_score": f"Outlined: trained at the factor that it is judged at; "
                f"{count(wells, 'test well')}. {interval} {PUBLISHED}{leaky}",
                "comparisons": f"Each checkpoint minus the one trained at the factor, on the same images.{leaky}",
                "runs": f"Each training run by itself.{leaky}",
                "per_image": f"One row per checkpoint, training seed, factor and image.{leaky}",
            },
            verdict=crossing_words(found, compared, own, JUDGED) + hint(wells) + leaky,
        )

    def _own(self, subject: Subject, named: dict[str, list[str | None]]) -> dict[str, str]:
        """The label that was trained at each factor, the first of those in the config."""
        assert subject.origin is not None
        own: dict[str, str] = {}
        for label in [*self.checkpoints, *named]:
            zooms = [subject.origin(name).zoom or subject.datamodule.zoom for name in named[label]]
            trained = [1 / zoom.scale for zoom in zooms]
            if not all(_alike(trained[0], other) for other in trained):
                raise ValueError(
                    f"study.checkpoints: the training seeds of {label} saw cells at the factors "
                    f"{', '.join(f'{factor:.2f}' for factor in trained)}: give each factor a label of its own"
                )
            for factor in self.factors:
                if _alike(trained[0], factor):
                    own.setdefault(f"{factor}", label)
        return own


def _alike(first: float, second: float) -> bool:
    return abs(first / second - 1) < SAME_FACTOR


def _zoom(size: int, factor: float) -> Zoom:
    crop = round(size / factor)
    return Zoom(crop=crop, stride=crop, size=size)
