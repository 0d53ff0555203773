"""Has what the model sees changed, and does the alarm find errors that matter? A detector for predict, and its test."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from typing import Any, Literal

import numpy as np
import pandas as pd

from ..datamodules.corrupted import corrupted
from ..datamodules.mishaps import drawn_plates, redrawn
from ..imaging.corruptions import SEVERITIES
from ..imaging.microscope.lab_errors import LAB_ERRORS
from ..metrics.readouts import READOUTS
from .drift import IN_CONTROL, MMDTest, OnlineMMD
from .drift_figures import false_negatives, harm_against_alarm, run_lengths
from .drift_runs import achieved_run_length, image_means, rows_of, streams_of
from .drift_tables import (
    CLEAN,
    Condition,
    condition_table,
    finds,
    fixed_or_not,
    harm_and_alarm,
    image_errors,
    separability_table,
    watch,
)
from .drift_words import NOT_KEPT, captions, control_note, detector_note, notes, verdict
from .embedded import Embedded, Pool, embedded
from .judged import count
from .result import StudyResult
from .subject import Study, Subject

FEWEST_IMAGES = 50  # of the reference: with fewer its kernel matrix says little of what images look like
POOL: Pool = "mean"
OF_SHAPE = ("count", "area")  # the readouts that say something where intensities cannot be compared
FILE = "drift_detector.npz"
Window = tuple[int, int, int]
Unit = Literal["image", "crop"]
MEND = (
    "draw a fresh plate (data.plate.seed=2027 data.plate.wells=300), or give more images of wells that the model was "
    "not trained on (data.root=...)"
)


class Drift(Study):
    """Fits `detector` on images that the model was not trained on, keeps it as a file, and asks what it finds.

    An observation is an image: the mean over its crops' pooled bottlenecks, over all of its grid, as `predict` sees it.
    With unit="crop" it is a crop, as in the thesis, an image's one after another, to see what that does to the run
    length in control: no file is kept. Errors are of the crops that data.filters keeps, as in every study. Reference:
    training and validation split, less the wells that the model saw. The test split is the stream, as it is and after
    `corruptions` (kind: severities of table 9) and, where the microscope drew it, `mishaps` (microscope/lab_errors.py).
    `streams` random streams of `length` images (null: as half of the test wells have), one image per well. A stream is
    harmful where its mean relative error of any of `readouts` exceeds that of the clean images by more than
    `tolerance`. `windows` and `run_times` (tables 10 and 11) are compared at defocus of `severity`. Raises ValueError
    for settings without a meaning, for fewer than 50 reference images, and where the model was trained on test wells.
    """

    of_pairs = True

    def __init__(
        self,
        detector: OnlineMMD,
        corruptions: dict[str, list[int]],
        mishaps: Sequence[str] = (),
        readouts: Sequence[str] = ("count", "area"),
        tolerance: float = 0.2,
        streams: int = 100,
        length: int | None = None,
        unit: Unit = "image",
        windows: Sequence[int] = (2, 5, 10, 15, 20),
        run_times: Sequence[float] = (32, 64, 128, 256),
        severity: int = 4,
        seed: int = 0,
    ) -> None:
        self.detector, self.corruptions, self.mishaps = detector, corruptions, mishaps
        self.readouts, self.tolerance, self.streams, self.length = readouts, tolerance, streams, length
        self.unit, self.windows, self.run_times, self.severity, self.seed = unit, windows, run_times, severity, seed
        known = {kind: set(levels) - {0} for kind, levels in SEVERITIES.items()}
        asked = [(kind, level) for kind, levels in corruptions.items() for level in levels]
        unknown = [f"{kind} {level}" for kind, level in asked if level not in known.get(kind, ())]
        if unknown := unknown + [name for name in mishaps if name not in LAB_ERRORS]:
            raise ValueError(
                f"study: there is no {unknown[0]!r}; corruptions are {', '.join(known)}, of severities up to 5 (of "
                f"brightness and contrast also from -5), mishaps {', '.join(LAB_ERRORS)}"
            )
        if streams < 2 or tolerance <= 0:
            raise ValueError(f"study.streams is {streams}, at least 2; study.tolerance is {tolerance}, above 0")
        if length is not None and length < 2:
            raise ValueError(f"study.length is {length}: a stream has at least 2 images, which the offline test needs")
        if severity not in corruptions.get("defocus", ()):
            raise ValueError(
                f"study.severity is {severity}, and study.corruptions.defocus holds {corruptions.get('defocus', [])}: "
                "windows and run times are compared at a defocus that is there"
            )

        if unit not in ("image", "crop"):
            raise ValueError(f"study.unit is {unit!r}: an observation is an image or a crop")
        if not readouts or (strange := [name for name in readouts if name not in READOUTS]):
            wrong = f"there is no {strange[0]!r}" if readouts else "without any, nothing could ever be harmful"
            raise ValueError(f"study.readouts is {list(readouts)}: {wrong}; name some of {', '.join(READOUTS)}")
        try:
            for window in windows:
                OnlineMMD(detector.expected_run_time, window)
            for time in run_times:
                OnlineMMD(time, detector.window)
        except ValueError as error:
            raise ValueError(
                f"study.windows={list(windows)}, study.run_times={list(run_times)}: no detector can be of all ({error})"
            ) from error

    def check(self, datamodule: Any) -> None:
        """Refuses data without targets or without test patches, and intensities that cannot be compared."""
        super().check(datamodule)
        intensities = [name for name in self.readouts if name not in OF_SHAPE]
        if intensities and not datamodule.comparable:
            raise ValueError(
                f"study.readouts names {', '.join(intensities)}, and these data's intensities cannot be compared "
                f"(data.scaling=paper or data.prepare): name {' and '.join(OF_SHAPE)} alone, or train with "
                "data.scaling=plate and data.prepare=null"
            )
        datamodule.patches("test")

    def run(self, subject: Subject) -> StudyResult:
        """Fit, save and judge the detector; return tables, figures, verdict and notes."""
        assert subject.origin is not None
        data, origin = subject.datamodule, subject.origin(None)
        if seen := sorted(origin.wells & set(data.groups("test"))):
            raise ValueError(
                f"the model was trained on {count(len(seen), 'well')} of the test split ({seen[0]} ...), so that its "
                f"images are no stream to come: {MEND}"
            )
        identity = self._identity(origin.path)
        held_out = self._reference_rows(data, origin.wells)
        following = self._conditions(subject)
        clean = next(following)
        reference = self._reference(subject, held_out)
        detector = self.detector.fit(rows_of(reference), identity)
        wells = list(clean.images["group"])
        streams = streams_of(wells, self.streams, self.length or max(len(set(wells)) // 2, 2), self.seed)
        conditions = [clean, *following]
        achieved = [achieved_run_length(detector, clean.values, self.streams, self.seed)]
        if len(set(wells)) < len(wells):
            achieved.append(achieved_run_length(detector, clean.values, self.streams, self.seed, wells))
        detector.in_control = {name: getattr(achieved[-1], name) for name in IN_CONTROL}
        rows = watch(
            detector,
            MMDTest(detector.project(rows_of(reference))),
            conditions,
            streams.shown,
            self.readouts,
            self.tolerance,
        )
        left = [watch(detector, None, conditions, order, self.readouts, self.tolerance) for order in streams.left]
        defocused = {c.severity: c.values for c in conditions if c.family == "defocus"}
        separated = separability_table(
            detector,
            rows_of(reference),
            clean.values,
            defocused,
            streams,
            self.windows,
            self.run_times,
            self.severity,
            self.seed,
        )
        crossed = harm_and_alarm(rows, left)
        aucs = {label: finds(rows, label, left) for label in ("harmful", "corrupted")}
        tables = {
            "harm_and_alarm": crossed,
            "conditions": condition_table(rows, conditions, self.readouts, left),
            "separability": separated,
            "told_apart": pd.DataFrame(
                [{"streams told apart": f"{name} from not {name}", **auc} for name, auc in aucs.items()]
            ),
            **({"fixed_or_not": fixed_or_not(rows, left)} if "not_fixed" in set(rows["family"]) else {}),
            "streams": rows,
            "per_image": pd.concat([c.images.assign(condition=c.name) for c in conditions], ignore_index=True),
        }
        columns = [f"{name} error" for name in self.readouts]
        undefined = sum(int(c.images[columns].isna().any(axis=1).sum()) for c in conditions)
        drawn, leaky, kept = bool(drawn_plates(data)), subject.leaky_split, self.unit == "image"
        return StudyResult(
            title="Drift: does the alarm find the errors that matter?",
            tables=tables,
            figures={
                "harm_against_alarm": harm_against_alarm(tables["conditions"], self.readouts, self.tolerance),
                "false_negatives": false_negatives(rows, tables["conditions"]),
                "run_lengths": run_lengths(rows, detector.expected_run_time, self.unit),
            },
            main="harm_and_alarm",
            captions=captions(
                streams.shown.shape,
                len(conditions),
                self.readouts,
                self.tolerance,
                self.severity,
                "fixed_or_not" in tables,
                leaky,
                self.unit,
            ),
            notes=[
                detector_note(FILE, origin.path) if kept else NOT_KEPT,
                *notes(
                    achieved,
                    self.unit,
                    len(reference),
                    len(clean.images),
                    undefined,
                    drawn,
                    bool(self.mishaps) and not drawn,
                    leaky,
                ),
                *control_note(tables["conditions"]),
            ],
            verdict=verdict(crossed, aucs, achieved[-1], streams.shown.shape[1], leaky),
            files={FILE: detector.save} if kept else {},
        )

    def _reference_rows(self, data: Any, seen: frozenset[str]) -> dict[str, list[int]]:
        """Rows of the index, by split, of the images of training and validation that the model was not trained on."""
        index, rows = data.index, {}
        for split in ("train", "val"):
            # Wells of which data.filters keeps no crop are the detector's, too; those beside data.train_only are not.
            asked = set(data.groups(split)) if data.train_only else set(index["group"])
            chosen = (index["split"] == split) & index["group"].isin(asked - seen)
            rows[split] = np.flatnonzero(chosen).tolist()
        fields = sum(map(len, rows.values()))
        needed = max(FEWEST_IMAGES, 2 * self.detector.window + 1, (self.detector.components or 0) + 1)
        if fields < needed:
            raise ValueError(
                f"{count(fields, 'image')} of training and validation split are of wells that the model was not "
                f"trained on, and a reference needs {needed}: {MEND}"
            )
        return rows

    def _reference(self, subject: Subject, rows: dict[str, list[int]]) -> np.ndarray:
        """Embeddings N K D of the images in these rows, by split, as an evaluation sees them."""
        assert subject.module is not None
        data, module, parts = subject.datamodule, subject.module(None), []
        for own in filter(None, rows.values()):
            found = embedded(module, data.patches("test").plain(grid(data, own)), POOL)
            parts.append(self._observations(found)[0])
        return np.concatenate(parts)

    def _observations(self, found: Embedded) -> tuple[np.ndarray, list[str]]:
        """What a stream shows of M images, M K D: the mean of each one's crops (K = 1) or all of them; their names."""
        means, names = image_means(found.values, found.fields)
        if self.unit == "image":
            return means[:, None], names
        fields = np.array(found.fields)
        crops = [found.values[fields == name] for name in names]
        if len(numbers := sorted({len(own) for own in crops})) > 1:
            raise ValueError(
                f"images give {numbers[0]} to {numbers[-1]} crops, and study.unit=crop needs as many of each: give "
                "fields of one size, or take study.unit=image"
            )
        return np.stack(crops), names

    def _identity(self, path: Any) -> dict[str, Any]:
        """What `predict` holds against its own model before it uses the detector."""
        if path is None:
            raise ValueError("a detector belongs to a checkpoint: ask eval.py ckpt_path=FILE study=drift")
        with path.open("rb") as file:
            return {"checkpoint": hashlib.file_digest(file, "sha256").hexdigest(), "pool": POOL}

    def _conditions(self, subject: Subject) -> Iterator[Condition]:
        """The test images clean, corrupted, and redrawn after what goes wrong in a laboratory."""
        data = subject.datamodule
        test, whole = data.patches("test"), grid(data, np.flatnonzero(data.index["split"] == "test").tolist())
        yield self._condition(subject, test, whole, CLEAN, CLEAN, 0)
        for kind, severities in self.corruptions.items():
            for severity in severities:
                yield self._condition(subject, corrupted(test, kind, severity), whole, "corruption", kind, severity)
        for mishap in self.mishaps if drawn_plates(data) else ():
            yield self._condition(subject, redrawn(data, mishap), whole, "lab error", mishap, 0)

    def _condition(
        self, subject: Subject, samples: Any, whole: list[Window], kind: str, family: str, severity: int
    ) -> Condition:
        """Errors of `samples` and embeddings of their images' `whole` grid; NaN where an image has no sample."""
        assert subject.judge is not None
        assert subject.module is not None
        fields = {samples.name(number): samples.field(number) for number in range(len(samples))}
        errors = image_errors(subject.judge(None, samples), fields, self.readouts)
        found = embedded(subject.module(None), samples.plain(whole), POOL)
        values, names = self._observations(found)
        images = errors.drop(columns="group").set_index("id").reindex(sorted(names)).rename_axis("id").reset_index()
        images.insert(1, "group", images["id"].map(dict(zip(found.fields, found.groups, strict=True))))
        order = {name: row for row, name in enumerate(names)}
        return Condition(kind, family, severity, values[[order[name] for name in images["id"]]], images)


def grid(data: Any, rows: list[int]) -> list[Window]:
    """All windows (row, y, x) of the fields in these rows of the index, as `predict` embeds them: none filtered."""
    return [(row, y, x) for row in rows for y, x in data.zoom.windows(data.reader.image(row)[0].shape)]
