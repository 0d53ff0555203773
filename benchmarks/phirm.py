"""Time PhIRM against its scikit-image version on one thread: python benchmarks/phirm.py [--pairs 40] [--size 256]."""

import argparse
import platform
import sys
import time
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import torch

from phenokeep.metrics import phirm

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from phirm_reference import draw_blobs, reference_phirm

REPEATS = 7


def milliseconds(call: Callable[[], object], pairs: int) -> float:
    """Give the time per pair of images in the fastest of several runs (the others were disturbed)."""
    times = []
    for _ in range(REPEATS):
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return 1000 * min(times) / pairs


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pairs", type=int, default=40)
    parser.add_argument("--size", type=int, default=256)
    arguments = parser.parse_args()
    cv2.setNumThreads(1)
    torch.set_num_threads(1)
    rng = np.random.default_rng(0)
    count = 20 * arguments.size**2 // 256**2  # as dense as a crop of 20x nuclei
    images = np.stack([draw_blobs(rng, arguments.size, count) for _ in range(arguments.pairs)])
    others = images[::-1].copy()
    print(f"{arguments.pairs} pairs of {arguments.size}x{arguments.size} uint8, one thread, best of {REPEATS} runs")
    print(f"{platform.processor() or platform.machine()}, Python {platform.python_version()}, OpenCV {cv2.__version__}")
    for preset in ("original", "paper"):
        ours = phirm(images, others, preset)["phirm"].numpy()
        theirs = [reference_phirm(image, other, preset) for image, other in zip(images, others, strict=True)]
        np.testing.assert_allclose(ours, theirs, atol=1e-12)
        fast = milliseconds(lambda preset=preset: phirm(images, others, preset), arguments.pairs)
        slow = milliseconds(
            lambda preset=preset: [reference_phirm(a, b, preset) for a, b in zip(images, others, strict=True)],
            arguments.pairs,
        )
        print(f"{preset:9s} phenokeep {fast:6.3f} ms   scikit-image {slow:6.3f} ms   ratio {slow / fast:4.1f}")


if __name__ == "__main__":
    main()
