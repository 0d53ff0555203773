"""Restores one large field and says how long it took and how much memory: python benchmarks/large_field.py EXPERIMENT

The weights of the experiment's model are random, which changes neither time nor memory. The field is noise, its hole
is a square over `--hole` of it. By `predictor` it goes through the Predictor's tiles, as predict.py does it; by
`module` it is handed to the network's own test_step whole.
"""

import argparse
import resource
import time

import numpy as np
import torch
from hydra import compose, initialize_config_module
from hydra.utils import instantiate
from omegaconf import OmegaConf

from phenokeep.datamodules.scaling import Scaling
from phenokeep.inference.predictor import Predictor


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("experiment")
    parser.add_argument("--side", type=int, default=2160)
    parser.add_argument("--hole", type=float, default=0.3, help="share of the field")
    parser.add_argument("--by", choices=("predictor", "module"), default="predictor")
    args = parser.parse_args()
    with initialize_config_module("phenokeep.configs", version_base="1.3"):
        cfg = compose("train", [f"experiment={args.experiment}", "name=large", "output_dir=.", "data=hcs_nuclei"])
    torch.manual_seed(0)
    model = instantiate(cfg.model, _convert_="all").eval()
    rng = np.random.default_rng(0)
    image = rng.integers(200, 4000, (args.side, args.side)).astype(np.uint16)
    mask, edge = np.zeros(image.shape, np.uint8), round(args.side * args.hole**0.5)
    mask[:edge, :edge] = 1
    before, started = _peak(), time.monotonic()
    if args.by == "predictor":
        restored = Predictor(model, Scaling(), OmegaConf.to_container(cfg, resolve=True)).predict(image, mask)
        kept = np.array_equal(restored[mask == 0], image[mask == 0])
    else:
        source, hole = (torch.from_numpy(x.astype(np.float32))[None, None] for x in (image / 4000, mask))
        with torch.inference_mode():
            restored = model.test_step({"source": source, "mask": hole, "target": source}, 0)["prediction"]
        kept = torch.equal(restored[hole == 0], source[hole == 0])
    took = time.monotonic() - started
    field = f"{args.side}x{args.side}, {mask.mean():.0%} hidden"
    print(f"{args.experiment} by {args.by}: {field}, {took:.1f} s, peak {_peak()} MB ({before} MB before the field)")
    if not kept:
        raise SystemExit("pixels outside the hole were changed")


def _peak() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024


if __name__ == "__main__":
    main()
