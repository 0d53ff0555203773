"""How long streams run until a drift detector alarms: what it promises, what it keeps, what it tells apart."""

from __future__ import annotations

import copy
import logging
import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from .drift import OnlineMMD
from .mmd import observations

log = logging.getLogger(__name__)
GROUPS, FEWEST_GROUPS = 10, 5  # of wells, to leave out one by one
SHUFFLED = (
    "Feed one observation per image, not crops; take more reference images, of the same plates as the stream and "
    "unseen in training"
)
TOGETHER = (
    "Fields of a well resemble each other and follow one another: predict plates with one field per well, or fit the "
    "detector with a larger study.detector.expected_run_time"
)


class Runs(NamedTuple):
    """Runs to the first alarm: lengths in observations, and which ended in an alarm (the others met the end)."""

    lengths: np.ndarray
    alarmed: np.ndarray


class RunLength(NamedTuple):
    """The mean run to an alarm, estimated from runs that may have been cut short.

    Of a geometric run with censoring the maximum-likelihood mean is total steps over alarms, and its standard error
    mean sqrt((1 - 1 / mean) / alarms) (delta method). That error is of the runs: it leaves out that they share one
    reference and one set of held-out images. Without an alarm both are inf, and only `steps` says something.
    `by_well`: the runs met the fields of a well together, as along a plate; else all images shuffled.
    """

    target: float
    runs: int
    alarms: int
    steps: int
    by_well: bool = False

    @property
    def mean(self) -> float:
        return self.steps / self.alarms if self.alarms else math.inf

    @property
    def standard_error(self) -> float:
        return self.mean * math.sqrt((1 - 1 / self.mean) / self.alarms) if self.alarms else math.inf

    @property
    def too_short(self) -> bool:
        """Whether alarms come more than twice as often as promised."""
        return self.mean < self.target / 2

    def __str__(self) -> str:
        found = f"{self.mean:.1f} +- {self.standard_error:.1f}" if self.alarms else f"no alarm in {self.steps} steps"
        order = ", fields of a well together," if self.by_well else ""
        return (
            f"in-control run length{order} {found} ({self.alarms} alarms in {self.runs} runs), target {self.target:g}"
        )


def image_means(embeddings: np.ndarray, images: Sequence[str]) -> tuple[np.ndarray, list[str]]:
    """One observation per image: the mean M D of its crops' embeddings N D, and the M names as they first appear.

    Raises ValueError where embeddings and names are not as many, or values are not finite.
    """
    embeddings = observations(embeddings, "embeddings", least=1)
    if len(images) != len(embeddings):
        raise ValueError(f"{len(embeddings)} embeddings but {len(images)} image names: give one name per crop")
    names = list(dict.fromkeys(images))
    position = {name: row for row, name in enumerate(names)}
    rows = np.array([position[name] for name in images])
    sums = np.zeros((len(names), embeddings.shape[1]))
    np.add.at(sums, rows, embeddings)
    return sums / np.bincount(rows)[:, None], names


def orders(units: Sequence[str], number: int, length: int | None = None, seed: int = 0) -> np.ndarray:
    """Which images `number` random streams show, and when: number x length, indices into `units`.

    `units` says of every image which unit (its well, or itself) it belongs to: a stream shows one image each of
    `length` (default: all) different units. Raises ValueError where there are not as many.
    """
    names, codes = np.unique(np.asarray(units), return_inverse=True)
    length = len(names) if length is None else length
    if not 1 <= length <= len(names):
        raise ValueError(
            f"a run of {length} cannot be drawn from {len(names)} images or wells: use a length in 1..{len(names)}"
        )
    members = [np.flatnonzero(codes == code) for code in range(len(names))]
    rng = np.random.default_rng(seed)
    streams = [rng.permutation(len(names)) for _ in range(number)]
    # All are drawn and then cut, so that a shorter stream is the start of a longer one.
    return np.array([[rng.choice(members[code]) for code in stream] for stream in streams])[:, :length]


class Streams(NamedTuple):
    """Streams R L of images, and what the same ones show without each of several groups of wells (R L' each)."""

    shown: np.ndarray
    left: tuple[np.ndarray, ...]


def streams_of(wells: Sequence[str], number: int, length: int, seed: int = 0) -> Streams:
    """`number` random streams of one image each of `length` different wells, for estimates and their `jackknife`.

    The wells are dealt to ten random groups; where one is left out, the next wells of the stream move up. Fewer than
    ten wells are a group each, and fewer than five none: then nothing is left out. Raises ValueError as `orders`.
    """
    names, codes = np.unique(np.asarray(wells), return_inverse=True)
    shown = orders(wells, number, length, seed)
    if len(names) < FEWEST_GROUPS:
        return Streams(shown, ())
    whole = orders(wells, number, None, seed)
    groups = min(GROUPS, len(names))
    group = np.random.default_rng([seed, groups]).permutation(np.arange(len(names)) % groups)[codes]
    left = (whole[group[whole] != out].reshape(number, -1)[:, :length] for out in range(groups))
    return Streams(shown, tuple(left))


def jackknife(estimate: float, left: Sequence[float]) -> tuple[float, float]:
    """A 95 % interval of a share or an AUC, from its values without each of g groups of wells: estimate +- 1.96 SE.

    SE^2 = (g - 1) / g times the sum of squares about their mean; clipped to [0, 1]. NaN where a value is not defined,
    and where all are alike, which says nothing of the wells that were not drawn. Source: Efron and Tibshirani 1993,
    chapter 11, of groups.
    """
    values = np.array(left, dtype=float)
    if not len(values) or not np.isfinite([estimate, *values]).all() or np.ptp(values) == 0:
        return math.nan, math.nan
    error = math.sqrt((len(values) - 1) * values.var())
    return max(estimate - 1.96 * error, 0.0), min(estimate + 1.96 * error, 1.0)


def plate_orders(wells: Sequence[str], number: int, seed: int = 0) -> np.ndarray:
    """`number` streams of all M images (number M) as a plate shows them: a well's images together and in their order.

    The wells are in random order.
    """
    names, codes = np.unique(np.asarray(wells), return_inverse=True)
    rng = np.random.default_rng(seed)
    return np.array([np.argsort(rng.permutation(len(names))[codes], kind="stable") for _ in range(number)])


def follow(detector: OnlineMMD, images: np.ndarray, streams: np.ndarray) -> Runs:
    """Runs along `streams` (R L, as `orders` gives them) of images M D, each from a fresh reset to its first alarm.

    Images M K D give K observations each, one after another. The detector itself stays where it stands.
    """
    detector = copy.deepcopy(detector)
    lengths, alarmed = np.empty(len(streams), dtype=int), np.empty(len(streams), dtype=bool)
    for run, stream in enumerate(streams):
        detector.reset()
        state = detector.update(rows_of(images[stream]))
        lengths[run], alarmed[run] = state.time, state.drift
    return Runs(lengths, alarmed)


def rows_of(images: np.ndarray) -> np.ndarray:
    """The observations N D of images M D (one each) or M K D, in their order; ValueError where they are not finite."""
    return observations(np.reshape(images, (-1, np.shape(images)[-1])), "images", least=1)


def runs(detector: OnlineMMD, images: np.ndarray, number: int = 100, cap: int | None = None, seed: int = 0) -> Runs:
    """Runs along streams of shuffled images (M D or M K D), each to its first alarm, or to `cap` images (default M).

    Raises ValueError where the cap is not in 1..M.
    """
    return follow(detector, images, orders([str(row) for row in range(len(images))], number, cap, seed))


def achieved_run_length(
    detector: OnlineMMD, held_out: np.ndarray, number: int = 100, seed: int = 0, wells: Sequence[str] | None = None
) -> RunLength:
    """The run length that in-control images (M D or M K D, none of them in the reference) really give.

    With `wells` (of each image) the images of a well follow one another, as where a plate is predicted; without, all
    are shuffled. Warns in the log where it is below half of what was asked for: then the stream is not exchangeable
    with the reference. Raises ValueError where held-out rows stand in the reference.
    """
    known = {row.tobytes() for row in detector.state_dict()["reference"]}
    if shared := sum(row.tobytes() in known for row in detector.project(rows_of(held_out))):
        raise ValueError(f"{shared} of {len(rows_of(held_out))} held-out rows are in the reference: hold out others")
    if wells is None:
        lengths, alarmed = runs(detector, held_out, number, seed=seed)
    else:
        lengths, alarmed = follow(detector, held_out, plate_orders(wells, number, seed))
    by_well = wells is not None
    achieved = RunLength(detector.expected_run_time, number, int(alarmed.sum()), int(lengths.sum()), by_well)
    if achieved.too_short:
        log.warning("%s: alarms come over twice as often as promised. %s", achieved, TOGETHER if by_well else SHUFFLED)
    return achieved


def separability(clean: np.ndarray, drifted: np.ndarray) -> float:
    """AUC-ROC of minus the run length for telling drifted streams from clean ones.

    Runs that meet the end of their streams are ties and count half. Raises ValueError where there are none of one kind.
    """
    from sklearn.metrics import roc_auc_score

    if not len(clean) or not len(drifted):
        raise ValueError(f"{len(clean)} clean and {len(drifted)} drifted runs: both kinds are needed")
    scores = -np.concatenate([clean, drifted])
    return float(roc_auc_score(np.repeat([0, 1], [len(clean), len(drifted)]), scores))
