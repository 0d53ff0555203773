"""Measures what OnlineMMD promises: run lengths without a change, the delay after one, and what it takes.

    python benchmarks/drift_calibration.py [--references 40] [--runs 40] [--csv FILE]

Each row draws new references (N = 1000 standard normal points in 32 dimensions), configures a detector on each and
streams fresh points until it alarms. `mean run` is over all runs; its standard error is over references, whose
detectors differ: `sd` is the spread of one detector's true run length. A geometric run has median / mean 0.69.
`delay` is the mean run when every coordinate is shifted by 0.5 standard deviations from the start. The second table
streams crops that resemble their image (intra-image correlation 0.1), in three orders. Ends with status 1 where the
mean run at expected run time 128 and window 10 is not within 15 %.
"""

import argparse
import math
import platform
import sys
import time

import numpy as np
import pandas as pd
from scipy.spatial.distance import pdist, squareform

from phenokeep.studies.drift import OnlineMMD
from phenokeep.studies.mmd import kernel_scale, run_thresholds, window_statistics

N, DIMENSIONS, SHIFT, CROPS = 1000, 32, 0.5, 50
# Expected run time, window, bootstraps for each 1 of expected run time that must survive (100 is the default).
SETTINGS = ((128, 10, 100), (128, 10, 10), (32, 10, 100), (128, 20, 100))


def run(detector: OnlineMMD, stream: np.ndarray) -> int:
    detector.reset()
    state = detector.update(stream)
    if not state.drift:
        raise RuntimeError(f"no alarm in {state.time} steps: a mean over such runs would be too small")
    return state.time


def survivors(reference: np.ndarray, detector: OnlineMMD, rng: np.random.Generator) -> float:
    """The share of bootstraps below all thresholds."""
    squared = pdist(reference, "sqeuclidean")
    kernel = squareform(np.exp(-squared / kernel_scale(squared)))
    size = 2 * detector.window - 1
    extended = np.stack([rng.choice(N, size, replace=False) for _ in range(detector.bootstraps)])
    return float(run_thresholds(window_statistics(kernel, extended), detector.expected_run_time)[1].mean())


def calibration(expected: int, window: int, factor: int, references: int, runs: int) -> dict[str, float | int]:
    """One row: the detectors' runs, in control and shifted."""
    needed = expected / (1 - 1 / expected) ** window
    lengths, delays = np.empty((references, runs)), np.empty((references, runs))
    configure, left = np.empty(references), np.empty(references)
    spent, steps = 0.0, 0
    for draw in range(references):
        rng = np.random.default_rng([expected, window, draw])
        reference = rng.normal(size=(N, DIMENSIONS))
        detector = OnlineMMD(expected, window, bootstraps=math.ceil(factor * needed), seed=draw)
        started = time.process_time()
        detector.fit(reference)
        configure[draw] = time.process_time() - started
        for number in range(runs):
            stream = rng.normal(size=(30 * expected, DIMENSIONS))
            started = time.process_time()
            lengths[draw, number] = run(detector, stream)
            spent += time.process_time() - started
            delays[draw, number] = run(detector, rng.normal(size=(30 * expected, DIMENSIONS)) + SHIFT)
        steps += int(lengths[draw].sum())
        left[draw] = survivors(reference, detector, rng)
    means = lengths.mean(axis=1)
    between = means.var(ddof=1) - lengths.var(axis=1, ddof=1).mean() / runs
    return {
        "ERT": expected, "W": window, "bootstraps": detector.bootstraps, "runs": lengths.size,
        "mean run": means.mean(), "SE": means.std(ddof=1) / math.sqrt(references), "sd": math.sqrt(max(between, 0)),
        "median / mean": np.median(lengths) / means.mean(), "survivors": left.mean(),
        "theory": (1 - 1 / expected) ** window, "configure CPU-s": configure.max(), "ms / step": 1000 * spent / steps,
        "delay": delays.mean(),
    }  # fmt: skip


def crops(rng: np.random.Generator, images: int, correlation: float) -> np.ndarray:
    """Embeddings of crops that share a part of their image: images CROPS DIMENSIONS, of unit variance."""
    shared = rng.normal(size=(images, 1, DIMENSIONS)) * math.sqrt(correlation)
    return shared + rng.normal(size=(images, CROPS, DIMENSIONS)) * math.sqrt(1 - correlation)


def orders(correlation: float, references: int, runs: int, expected: int = 128) -> pd.DataFrame:
    """Mean runs of one kind of crop fed in image order, shuffled over all images, and as means of images."""
    lengths = np.empty((3, references, runs))
    enough = 30 * expected
    for draw in range(references):
        rng = np.random.default_rng([draw, 1])
        by_crop = OnlineMMD(expected, seed=draw).fit(crops(rng, N // CROPS, correlation).reshape(N, -1))
        by_image = OnlineMMD(expected, seed=draw).fit(crops(rng, N, correlation).mean(axis=1))
        for number in range(runs):
            stream = crops(rng, enough // CROPS, correlation).reshape(-1, DIMENSIONS)
            lengths[0, draw, number] = run(by_crop, stream)
            lengths[1, draw, number] = run(by_crop, rng.permutation(stream))
            lengths[2, draw, number] = run(by_image, crops(rng, enough, correlation).mean(axis=1))
    means = lengths.mean(axis=2)
    return pd.DataFrame({
        "fed": ["crops in image order", "crops shuffled over images", "means of images"], "correlation": correlation,
        "ERT": expected, "runs": references * runs, "mean run": means.mean(axis=1),
        "SE": means.std(axis=1, ddof=1) / math.sqrt(references),
    })  # fmt: skip


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--references", type=int, default=40)
    parser.add_argument("--runs", type=int, default=40)
    parser.add_argument("--csv")
    arguments = parser.parse_args()
    print(f"{platform.processor() or platform.machine()}, Python {platform.python_version()}, NumPy {np.__version__}")
    table = pd.DataFrame([calibration(*setting, arguments.references, arguments.runs) for setting in SETTINGS])
    print(table.round(3).to_string(index=False))
    print(orders(0.1, arguments.references // 2, arguments.runs // 4).round(2).to_string(index=False))
    if arguments.csv:
        table.to_csv(arguments.csv, index=False)
    mean, error = table.loc[0, ["mean run", "SE"]]
    good = abs(mean / 128 - 1) <= 0.15
    print(f"expected run time 128: {mean:.1f} +- {error:.1f}, {'within' if good else 'NOT within'} 15 %")
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
