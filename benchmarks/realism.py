"""How near drawn nuclei are to real ones: distances, a real-or-drawn classifier, and segmentation across the two.

    python benchmarks/realism.py --data path/to/bbbc039 [--parts distances classifier segmentation]

The wells of BBBC039 are halved once (seed 0): the microscope's defaults were fitted on the first half and are judged
on the second, which fitting never used. Drawn and real fields go through the same measurements; the outlines of a real
field are its annotated masks, those of a drawn field its true labels. `--half fitted` shows the half that may be seen.
Each part rewrites its section of docs/realism/realism.md and its tables; the other sections stay.
"""

from __future__ import annotations

import argparse
import re
from pathlib import Path

import realism_classifier
import realism_distances
import realism_segmentation
import torch
from realism_data import read_real

PARTS = ("distances", "classifier", "segmentation")
HEAD = """# Realism of the virtual microscope

How far drawn fields are from real ones (BBBC039v1, Broad Bioimage Benchmark Collection, CC0). Every simulated result of
this project is only as valid as these tables.
"""


def rewrite(path: Path, part: str, text: str) -> None:
    """Put a part's section into the page, in the order of PARTS; sections of other parts stay as they are."""
    old = path.read_text() if path.exists() else ""
    sections = dict(re.findall(r"<!-- (\w+) -->\n(.*?)\n*(?=<!-- \w+ -->|\Z)", old, flags=re.DOTALL))
    sections[part] = text.strip()
    known = [f"<!-- {name} -->\n{sections[name]}\n" for name in PARTS if name in sections]
    path.write_text("\n".join([HEAD, *known]))


def main() -> None:
    """Measure, print and, for the judged half, write the page, its tables and the figure."""
    parser = argparse.ArgumentParser(description="How near drawn nuclei are to real ones.")
    parser.add_argument("--data", type=Path, required=True, help="folder of BBBC039 with images/ and masks/")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--half", choices=("judged", "fitted"), default="judged", help="distances: the half compared")
    parser.add_argument("--plates", type=int, default=5, help="distances: drawn plates, each as large as the half")
    parser.add_argument("--splits", type=int, default=200, help="distances: random halvings of the real wells")
    parser.add_argument("--training-plates", type=int, default=1, help="other parts: drawn plates to train and to test")
    parser.add_argument("--epochs", type=int, default=8, help="classifier: epochs of the network")
    parser.add_argument("--steps", type=int, default=200, help="segmentation: steps of 8 crops")
    parser.add_argument("--seeds", type=int, default=3, help="segmentation: networks per training set")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, default=Path(__file__).parents[1] / "docs" / "realism")
    options = parser.parse_args()
    if options.half == "fitted" and tuple(options.parts) != ("distances",):
        parser.error("--half fitted compares distances alone: add --parts distances")
    torch.set_num_threads(options.threads)

    halves = read_real(options.data)
    writes = options.half == "judged"
    if writes:
        options.out.mkdir(parents=True, exist_ok=True)
    settings = {
        "distances": ("half", "plates", "splits"),
        "classifier": ("training_plates", "epochs"),
        "segmentation": ("training_plates", "steps", "seeds"),
    }
    for part in options.parts:
        if part == "distances":
            out = options.out if writes else None
            tables, text = realism_distances.judge(halves, options.half, options.plates, options.splits, out)
        elif part == "classifier":
            tables, text = realism_classifier.judge(halves, options.training_plates, options.epochs)
        else:
            tables, text = realism_segmentation.judge(halves, options.training_plates, options.steps, options.seeds)
        print(text, flush=True)
        if not writes:
            continue
        given = [f"--{name.replace('_', '-')} {getattr(options, name)}" for name in settings[part]
                 if getattr(options, name) != parser.get_default(name)]  # fmt: skip
        command = " ".join(["python benchmarks/realism.py --data path/to/bbbc039 --parts", part, *given])
        title, body = text.split("\n", 1)
        rewrite(options.out / "realism.md", part, f"{title}\n\n    {command}\n{body}")
        for name, table in tables.items():
            table.to_csv(options.out / f"{name}.csv", index=False, float_format="%.6g")
    if writes:
        print(f"written to {options.out}")


if __name__ == "__main__":
    main()
