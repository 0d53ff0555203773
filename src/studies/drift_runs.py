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


class Runs(NamedTuple):
    """Runs to the first alarm: lengths in observations, and which ended in an alarm (the others met the end)."""

    lengths: np.ndarray
    alarmed: np.ndarray


class RunLength(NamedTuple):
    """The mean run to an alarm, estimated from runs that may have been cut short.

    Of a geometric run with censoring the maximum-likelihood mean is total steps over alarms, and its standard error
    mean sqrt((1 - 1 / mean) / alarms) (delta method). That error is of the runs: it leaves out that they share one
    reference and one set of held-out images. Without an alarm both are inf, and only `steps` says something.
    """

    target: float
    runs: int
    alarms: int
    steps: int

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
        return f"in-control run length {found} ({self.alarms} alarms in {self.runs} runs), target {self.target:g}"


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
    streams = [rng.permutation(len(names))[:length] for _ in range(number)]
    return np.array([[rng.choice(members[code]) for code in stream] for stream in streams])


def follow(detector: OnlineMMD, images: np.ndarray, streams: np.ndarray) -> Runs:
    """Runs along `streams` (R L, as `orders` gives them) of images M D, each from a fresh reset to its first alarm.

    The detector itself stays where it stands.
    """
    images = observations(images, "images", least=1)
    detector = copy.deepcopy(detector)
    lengths, alarmed = np.empty(len(streams), dtype=int), np.empty(len(streams), dtype=bool)
    for run, stream in enumerate(streams):
        detector.reset()
        state = detector.update(images[stream])
        lengths[run], alarmed[run] = state.time, state.drift
    return Runs(lengths, alarmed)


def runs(detector: OnlineMMD, images: np.ndarray, number: int = 100, cap: int | None = None, seed: int = 0) -> Runs:
    """Runs along streams of shuffled images (M D), each to its first alarm, or to `cap` images (default M).

    Raises ValueError where the cap is not in 1..M.
    """
    images = observations(images, "images", least=1)
    return follow(detector, images, orders([str(row) for row in range(len(images))], number, cap, seed))


def achieved_run_length(detector: OnlineMMD, held_out: np.ndarray, number: int = 100, seed: int = 0) -> RunLength:
    """The run length that in-control images (M D, one row each, none of them in the reference) really give.

    Warns in the log where it is below half of what was asked for: then the stream is not exchangeable with the
    reference. Raises ValueError where held-out rows stand in the reference.
    """
    held_out = observations(held_out, "held_out", least=1)
    known = {row.tobytes() for row in detector.state_dict()["reference"]}
    if shared := sum(row.tobytes() in known for row in held_out):
        raise ValueError(f"{shared} of {len(held_out)} held-out images are in the reference: hold out others")
    lengths, alarmed = runs(detector, held_out, number, seed=seed)
    achieved = RunLength(detector.expected_run_time, number, int(alarmed.sum()), int(lengths.sum()))
    if achieved.too_short:
        log.warning(
            "%s: alarms come over twice as often as promised. Feed one observation per image, not crops; take more "
            "reference images, of the same plates as the stream and unseen in training",
            achieved,
        )
    return achieved


def separability(clean: np.ndarray, drifted: np.ndarray, cap: int) -> float:
    """AUC-ROC of minus the run length, capped at the stream's length, for telling drifted streams from clean ones.

    Runs that meet the cap are ties and count half. Raises ValueError where there are no runs of one kind.
    """
    from sklearn.metrics import roc_auc_score

    if not len(clean) or not len(drifted):
        raise ValueError(f"{len(clean)} clean and {len(drifted)} drifted runs: both kinds are needed")
    scores = -np.minimum(np.concatenate([clean, drifted]), cap)
    return float(roc_auc_score(np.repeat([0, 1], [len(clean), len(drifted)]), scores))
