"""Times tile and stitch on one image, and says how far it is from inference on the whole image.

python benchmarks/stitch.py [--side 2136 | --image FILE] [--sizes 256 512 1024] [--checkpoint FILE] [--csv FILE]

Each row runs in its own process, with one thread: its time, its peak memory above that before the image, and the
greatest and mean difference from the network's answer for the whole image, reflected by its border. `seam` is the ratio
of `phenokeep.imaging.tiling.seam`, and `whole` the same of that answer at the same places. Without a checkpoint the
16-filter U-Net has the weights it starts from: time and memory are the same, but its differences and seams are not
those of a trained network; of one with several targets the first is compared. The image is smoothed noise, or the
square one of a file, stretched from its minimum to its maximum.
"""

import argparse
import resource
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from scipy import ndimage

import phenokeep
from phenokeep.imaging.io import read_header, read_image
from phenokeep.imaging.tiling import geometry, seam, seam_error, stitch
from phenokeep.models.nets.labelfree_unet import LabelfreeUNet

BORDERS = (0, 16, 32, 64)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--side", type=int, default=2136)
    parser.add_argument("--image", type=Path, help="a square source, such as a DIC field; --side is then its own")
    parser.add_argument("--sizes", type=int, nargs="+", default=[256, 512, 1024])
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--checkpoint", type=Path, help="weights of a Translator with the 16-filter U-Net")
    parser.add_argument("--csv", type=Path)
    args = parser.parse_args()
    if args.image is not None:
        args.side, width = read_header(args.image).shape
        if args.side != width:
            parser.error(f"{args.image} is {args.side}x{width}: give a square image")
    if max(args.sizes) >= args.side:
        parser.error(f"a tile of {max(args.sizes)} pixels has no neighbour in an image of {args.side}: lower --sizes")
    print("untrained weights" if args.checkpoint is None else args.checkpoint)
    rows = [("whole", args.side, None)]
    for size in args.sizes:
        rows += [("crop", size, border) for border in BORDERS if 2 * border < size]
        rows += [("mean", size, None), ("exact", size, LabelfreeUNet(filters=1).border)]
    table: list[dict] = []
    with tempfile.TemporaryDirectory() as folder:
        for row in rows:
            # A process of its own, for a process's peak memory never falls.
            with ProcessPoolExecutor(1, get_context("fork")) as process:
                table.append(process.submit(_measured, *row, args, Path(folder) / "whole.npy").result())
            if len(table) == 1:
                print(*(f"{name:>9}" for name in table[0]))
            print(*(f"{x:9.3g}" if isinstance(x, float) else f"{x:>9}" for x in table[-1].values()), flush=True)
    if args.csv:
        pd.DataFrame(table).to_csv(args.csv, index=False)


def _measured(mode: str, size: int, border: int | None, args: argparse.Namespace, saved: Path) -> dict:
    torch.set_num_threads(1)
    net, image = _net(args.checkpoint), _image(args.side, args.image)
    before, started = _peak(), (time.process_time(), time.monotonic())
    if mode == "whole":
        padding = [(0, 0), *[(net.border, net.border + -args.side % net.divisor)] * 2]
        whole = _predict(net, np.pad(image, padding, mode="reflect")[None])[0]
        prediction = whole[0, net.border : net.border + args.side, net.border : net.border + args.side]
        np.save(saved, prediction)
        step = size
    else:
        step = geometry(size, mode, border, net.divisor)[1]
        prediction = stitch(lambda tiles: _predict(net, tiles), image, size, mode, border, net.divisor, args.batch)[0]
    took = {"CPU s": time.process_time() - started[0], "wall s": time.monotonic() - started[1], "MB": _peak() - before}
    row = {"mode": mode, "size": size, "border": "" if border is None else border, "step": step, **took}
    if mode == "whole":
        return row | dict.fromkeys(("max", "mean", "seam max", "seam mean", "seam", "whole"), np.nan)
    reference = np.load(saved)
    difference, errors = np.abs(prediction - reference), seam_error(prediction, reference, step)
    return row | {
        "max": float(difference.max()),
        "mean": float(difference.mean()),
        "seam max": errors["seam_max"],
        "seam mean": errors["seam_mean"],
        "seam": seam(prediction, step)["ratio"],
        "whole": seam(reference, step)["ratio"],
    }


def _net(checkpoint: Path | None) -> Any:
    if checkpoint is not None:
        return phenokeep.load(checkpoint, "cpu").model.net.eval()
    torch.manual_seed(0)
    net = LabelfreeUNet(filters=16)
    return net.eval()


def _image(side: int, file: Path | None) -> np.ndarray:
    """The image of a file, else smooth structure of several sizes over noise, in [0, 1], 1 Y X."""
    if file is not None:
        image = read_image(file).astype(np.float32)
    else:
        image = np.random.default_rng(0).normal(size=(side, side)).astype(np.float32)
        image = 0.1 * image + sum(sigma * ndimage.gaussian_filter(image, sigma) for sigma in (2, 6, 20))
    return ((image - image.min()) / np.ptp(image))[None].astype(np.float32)


def _predict(net: LabelfreeUNet, tiles: np.ndarray) -> np.ndarray:
    with torch.inference_mode():
        return net(torch.from_numpy(tiles)).numpy()


def _peak() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024


if __name__ == "__main__":
    main()
