"""Has what a model sees changed? Detectors on its embeddings: offline between two sets, online along a stream.

Both take observations that are exchangeable with the reference. Crops of one image resemble each other and are not:
feed one observation per image (`drift_runs.image_means`), else alarms come many times too often.
"""

from __future__ import annotations

import math
from os import PathLike
from typing import Any, NamedTuple

import numpy as np
from scipy.spatial.distance import cdist, pdist, squareform

from .drift_files import DetectorError, differences, plain, read_arrays, write_arrays
from .mmd import MedianScale, kernel_scale, mmd2, observations, run_thresholds, window_statistics

PER_SURVIVOR = 100  # bootstraps for each observation of expected run time
LEVEL = 0.05  # p below which MMDTest reports drift
IN_CONTROL = ("runs", "alarms", "steps", "by_well")  # what `in_control` holds, or nothing
SETTINGS = ("expected_run_time", "window", "bootstraps", "seed", "median_scale", "components")
# What a fitted detector holds: kind of number and shape (N reference rows, D dimensions, W window), and one of
# `components`, too (E dimensions before the projection on D axes).
ARRAYS = {
    "reference": ("f", "N D"), "scale": ("f", ""), "row_sums": ("f", "N"), "thresholds": ("f", "W"),
    "resets": ("i", ""), "time": ("i", ""), "order": ("i", "N"),
    "recent": ("f", "W D"), "between": ("f", "W W"), "across": ("f", "W"), "within": ("f", ""),
}  # fmt: skip
PROJECTION = {"centre": ("f", "E"), "axes": ("f", "D E")}


class MMDResult(NamedTuple):
    """Unbiased MMD^2, the share of permutations that reach it, and whether that share is below 0.05."""

    statistic: float
    p: float
    drift: bool


class DriftState(NamedTuple):
    """MMD^2 of the newest window, the threshold it is held against, and the observations since the last reset."""

    statistic: float
    threshold: float
    drift: bool
    time: int


class MMDTest:
    """Are the embeddings x (M D) distributed as the reference (N D)? A permutation test (Gretton et al. 2012).

    The kernel's scale is the median over all pooled pairs, so that no split is preferred. Raises ValueError on rows
    that are too few, of another D or not finite.
    """

    def __init__(
        self, reference: np.ndarray, permutations: int = 100, seed: int = 0, median_scale: MedianScale = "alibi"
    ) -> None:
        if permutations < 1 / LEVEL:
            raise ValueError(f"{permutations} permutations cannot tell p < {LEVEL}: use at least {1 / LEVEL:.0f}")
        self.reference = observations(reference, "reference", least=2)
        self.permutations, self.seed, self.median_scale = permutations, seed, median_scale

    def test(self, x: np.ndarray) -> MMDResult:
        """p is the share of permutations whose MMD^2 is at least that of the observed split."""
        x = observations(x, "x", least=2, dimensions=self.reference.shape[1])
        squared = pdist(np.concatenate([self.reference, x]), "sqeuclidean")
        kernel = squareform(np.exp(-squared / kernel_scale(squared, self.median_scale)))
        splits = np.tile(np.arange(len(kernel)) < len(self.reference), (self.permutations + 1, 1))
        np.random.default_rng(self.seed).permuted(splits[1:], axis=1, out=splits[1:])
        values = mmd2(kernel, splits)
        p = float(np.mean(values[1:] >= values[0]))
        return MMDResult(float(values[0]), p, p < LEVEL)


class OnlineMMD:
    """Watches a stream, and while nothing has changed alarms once in `expected_run_time` observations on average.

    The last `window` observations are compared with the reference; `bootstraps` windows of the reference calibrate
    the thresholds (default: 100 for each 1 of expected run time that must survive; with 10 the mean run differs by 12 %
    between detectors). Runs are then geometric: their median is 0.69 of the mean. `in_control` holds what was measured
    of that promise (`drift_runs.RunLength`), where anything was. With `components` all is looked at along that many
    principal axes of the reference. Raises ValueError on settings that cannot be met.
    Source: Cobb et al. 2022 (AISTATS).
    """

    def __init__(
        self,
        expected_run_time: float = 128,
        window: int = 10,
        bootstraps: int | None = None,
        seed: int = 0,
        median_scale: MedianScale = "alibi",
        components: int | None = None,
    ) -> None:
        if components is not None and components < 1:
            raise ValueError(f"components is {components}: at least 1, or null for embeddings as they are")
        if not 1 < expected_run_time < math.inf or window < 2 or median_scale not in ("alibi", "paper"):
            raise ValueError(
                f"expected_run_time={expected_run_time}, window={window}, median_scale={median_scale!r}: "
                "expected_run_time must be over 1 and finite, window at least 2, median_scale alibi or paper"
            )
        needed = expected_run_time / (1 - 1 / expected_run_time) ** window
        if bootstraps is not None and bootstraps < needed:
            raise ValueError(
                f"bootstraps={bootstraps} is too few for expected_run_time={expected_run_time} and window={window}: "
                f"at least {math.ceil(needed)} are needed, and {math.ceil(PER_SURVIVOR * needed)} are the default"
            )
        self.expected_run_time, self.window, self.seed = expected_run_time, window, seed
        self.bootstraps = math.ceil(PER_SURVIVOR * needed) if bootstraps is None else bootstraps
        self.median_scale: MedianScale = median_scale
        self.components = components
        self.identity: dict[str, Any] = {}
        self.in_control: dict[str, Any] = {}
        self.reference: np.ndarray | None = None

    def fit(self, reference: np.ndarray, identity: dict[str, Any] | None = None) -> OnlineMMD:
        """Calibrates on in-control embeddings N D, held out from the model's training, and starts a stream.

        `identity` says whose embeddings these are (plain values by name), for `require`. Memory O(N^2).
        Raises ValueError where N is under 2 window + 1, D is 0, or a value is not finite.
        """
        size = 2 * self.window - 1
        reference, identity = observations(reference, "reference", least=size + 2), plain(identity or {})
        if self.components is not None:
            if self.components > min(len(reference) - 1, reference.shape[1]):
                raise ValueError(
                    f"components is {self.components}, and the reference has {len(reference)} rows of "
                    f"{reference.shape[1]} dimensions: use at most {min(len(reference) - 1, reference.shape[1])}"
                )
            self.centre = reference.mean(axis=0)
            self.axes = np.linalg.svd(reference - self.centre, full_matrices=False)[2][: self.components]
        reference = self.project(reference)
        squared = pdist(reference, "sqeuclidean")
        scale = kernel_scale(squared, self.median_scale)
        kernel = squareform(np.exp(-squared / scale))
        rng = np.random.default_rng([self.seed, 0])
        extended = np.stack([rng.choice(len(reference), size, replace=False) for _ in range(self.bootstraps)])
        self.thresholds, _ = run_thresholds(window_statistics(kernel, extended), self.expected_run_time)
        self.scale, self.row_sums, self.resets = scale, kernel.sum(axis=1), 0
        self.identity, self.in_control, self.reference = identity, {}, reference
        self.reset()
        return self

    def reset(self) -> None:
        """Starts a new stream, as after an alarm: another random part of the reference fills the window."""
        reference = self._fitted()
        outside = len(reference) - (2 * self.window - 1)
        self.resets, self.time = self.resets + 1, 0
        rng = np.random.default_rng([self.seed, self.resets])
        while True:
            self.order = rng.permutation(len(reference))
            self._outside, held = reference[self.order[:outside]], reference[self.order[outside:]]
            between = self._kernel(held, held)
            np.fill_diagonal(between, 0)
            across = self.row_sums[self.order[outside:]] - between.sum(axis=1)
            total = self.row_sums.sum() - between.sum() - 2 * across.sum()
            self.within = float(total / (outside * (outside - 1)))
            self.recent, self.across = held[: self.window], across[: self.window]
            self.between = between[: self.window, : self.window].copy()
            if self._statistic() < self.thresholds[0]:
                break

    def project(self, x: np.ndarray) -> np.ndarray:
        """Embeddings N E along the principal axes of the reference, N D; without `components` as they are."""
        return np.asarray(x) if self.components is None else (np.asarray(x) - self.centre) @ self.axes.T

    def update(self, x: np.ndarray) -> DriftState:
        """Takes in one observation D, or B D in the order of the stream until the first alarm, and says what it finds.

        `time` of the state is then the run length. After an alarm the caller resets; without that, what follows is
        held against the same threshold. Raises ValueError on another D or values that are not finite.
        """
        reference = self._fitted()
        given = reference.shape[1] if self.components is None else len(self.centre)
        for row in self.project(observations(np.atleast_2d(x), "x", least=1, dimensions=given)):
            self.between[:-1, :-1] = self.between[1:, 1:]
            self.between[-1, :-1] = self.between[:-1, -1] = self._kernel(self.recent[1:], row[None])[:, 0]
            self.recent = np.concatenate([self.recent[1:], row[None]])
            self.across = np.append(self.across[1:], self._kernel(row[None], self._outside).sum())
            self.time += 1
            statistic, threshold = self._statistic(), float(self.thresholds[min(self.time, self.window - 1)])
            if statistic > threshold:
                break
        return DriftState(statistic, threshold, statistic > threshold, self.time)

    def require(self, identity: dict[str, Any]) -> None:
        """Raises DetectorError where the detector was fitted on the embeddings of another model."""
        if wrong := differences(self.identity, identity):
            raise DetectorError(
                f"this drift detector was fitted on another model's embeddings ({wrong}), so its thresholds mean "
                "nothing here: fit one on this model's (study=drift), or use the model it was fitted on"
            )

    def state_dict(self) -> dict[str, Any]:
        """Settings and identity (plain values), and as NumPy arrays what was fitted and where the stream stands."""
        self._fitted()
        arrays = {key: np.array(getattr(self, key)) for key in self._arrays()}
        return {
            "settings": self._settings(),
            "identity": dict(self.identity),
            "in_control": dict(self.in_control),
            **arrays,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Goes on, bit for bit, where the saved detector stood. Raises DetectorError where the state does not fit."""
        if missing := sorted({"settings", "identity", *self._arrays()} - set(state)):
            raise DetectorError(f"this is no saved drift detector ({', '.join(missing)} missing): name another file")
        if wrong := differences({"components": None} | state["settings"], self._settings()):
            raise DetectorError(f"the saved drift detector has other settings ({wrong}): use those, or fit anew")
        arrays = {key: np.array(state[key]) for key in self._arrays()}
        sizes = dict(zip("ND", arrays["reference"].shape, strict=False)) | {"W": self.window}
        sizes["E"] = arrays["centre"].size if self.components is not None else 0
        for key, (kind, axes) in self._arrays().items():
            shape = tuple(sizes.get(axis) for axis in axes.split())
            if arrays[key].dtype.kind != kind or arrays[key].shape != shape or not np.isfinite(arrays[key]).all():
                raise DetectorError(f"the saved drift detector is damaged (its {key}): fit it anew (study=drift)")
        if (np.sort(arrays["order"]) != np.arange(sizes["N"])).any() or sizes["N"] < 2 * self.window + 1:
            raise DetectorError("the saved drift detector is damaged (its order): fit it anew (study=drift)")
        in_control = plain(state.get("in_control", {}))  # files of before it was kept do not have it
        if in_control and (set(in_control) != set(IN_CONTROL) or any(type(v) is str for v in in_control.values())):
            raise DetectorError("the saved drift detector is damaged (its in_control): fit it anew (study=drift)")
        for key, value in arrays.items():
            setattr(self, key, value if value.ndim else value.item())
        self.in_control = in_control
        self.identity = plain(state["identity"])
        self._outside = arrays["reference"][self.order[: 1 - 2 * self.window]]

    def save(self, path: str | PathLike[str]) -> None:
        """Writes an .npz file, whole or not at all. Raises OSError where it cannot be written."""
        write_arrays(path, self.state_dict())

    @classmethod
    def load(cls, path: str | PathLike[str]) -> OnlineMMD:
        """The detector that `save` wrote, where it stood; nothing in the file is executed. Raises DetectorError."""
        state = read_arrays(path)
        try:
            detector = cls(**state["settings"])
            detector.load_state_dict(state)
        except (KeyError, TypeError, ValueError) as error:
            raise DetectorError(f"{path}: {error}") from error
        return detector

    def _settings(self) -> dict[str, Any]:
        return plain({key: getattr(self, key) for key in SETTINGS})

    def _arrays(self) -> dict[str, tuple[str, str]]:
        return ARRAYS if self.components is None else ARRAYS | PROJECTION

    def _fitted(self) -> np.ndarray:
        if self.reference is None:
            raise DetectorError("the drift detector is not fitted: call fit(reference), or OnlineMMD.load(path)")
        return self.reference

    def _kernel(self, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        return np.exp(-cdist(x, y, "sqeuclidean") / self.scale)

    def _statistic(self) -> float:
        pairs = self.window * (self.window - 1)
        return float(
            self.within + self.between.sum() / pairs - 2 * self.across.sum() / (len(self._outside) * self.window)
        )
