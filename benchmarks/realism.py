"""How near drawn nuclei are to real ones, in multiples of the distance between halves of the real ones.

    python benchmarks/realism.py --data path/to/bbbc039

The wells of BBBC039 are halved once (seed 0): the microscope's defaults were fitted on the first half and are judged
on the second, which fitting never used. Drawn and real fields go through the same measurements; the outlines of a real
field are its annotated masks, those of a drawn field its true labels. `--half fitted` shows the half that may be seen.
"""

from __future__ import annotations

import argparse
import platform
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
from realism_measures import TITLES, distances, measure, pool
from skimage.io import imread
from skimage.measure import label
from skimage.transform import resize

from phenokeep.imaging.microscope import Microscope, Plate, Scene


def instances(mask: np.ndarray) -> np.ndarray:
    """Label image of a BBBC039 mask: a connected component per colour of channel 0."""
    colours, out = mask[..., 0], np.zeros(mask.shape[:2], np.int32)
    for colour in np.unique(colours[colours > 0]):
        parts = label(colours == colour, connectivity=1)
        out[parts > 0] = parts[parts > 0] + out.max()
    return out


def read_real(data: Path) -> list[tuple[str, np.ndarray, np.ndarray]]:
    """(well, image, labels) of every field under `data`."""
    found = []
    for path in sorted((data / "images").glob("*.tif")):
        mask = imread(data / "masks" / f"{path.stem}.png")
        found.append((path.stem.split("_")[1], imread(path), instances(mask)))
    if not found:
        sys.exit(f"no BBBC039 fields under {data / 'images'}; pass the folder that holds images/ and masks/ as --data")
    return found


def split_half(by_well: dict[str, list[dict[str, np.ndarray]]], splits: int) -> pd.DataFrame:
    """Distances between two random halves of the real wells, one row per split."""
    rng, wells, rows = np.random.default_rng(1), sorted(by_well), []
    for _ in range(splits):
        order = rng.permutation(wells)
        halves = (order[: len(order) // 2], order[len(order) // 2 :])
        rows.append(distances(*(pool([field for well in half for field in by_well[well]]) for half in halves)))
    return pd.DataFrame(rows)


def draw(seed: int, wells: int, fields: int, shape: tuple[int, ...]) -> list[tuple[np.ndarray, np.ndarray]]:
    """`fields` fields of a drawn plate of `wells` wells, (image, labels); 12 bits, as BBBC039's camera has."""
    plate = Plate(
        seed=seed, wells=wells, fields_per_well=-(-fields // wells), shape=(shape[0], shape[1]), name=f"realism{seed}"
    )
    order = sorted(plate.fields(), key=lambda field: field.field)[:fields]
    return [(Microscope(bits=12).image(field.scene), field.scene.labels()) for field in order]


def figure(real: list[np.ndarray], drawn: list[np.ndarray], path: Path) -> None:
    """Real fields above, drawn fields below, on one grey scale, with a caption that credits the data."""
    import matplotlib.pyplot as plt

    columns = len(real)
    panes, axes = plt.subplots(2, columns, figsize=(3.3 * columns, 5.6), dpi=95, layout="constrained")
    for row, (title, images) in enumerate((("real", real), ("drawn", drawn))):
        for column, image in enumerate(images):
            crop = resize(image[:420, :560].astype(float), (315, 420), order=1, anti_aliasing=False)
            axes[row, column].imshow(np.clip((crop - 120) / 1380, 0, 1) ** 0.6, cmap="gray", vmin=0, vmax=1)
            axes[row, column].set_title(title, fontsize=9)
            axes[row, column].axis("off")
    caption = "Above: BBBC039v1 (Broad Bioimage Benchmark Collection, CC0), wells not used for fitting. Below: drawn."
    panes.supxlabel(caption + " One grey scale, 120 to 1500 counts, gamma 0.6.", fontsize=8)
    panes.savefig(path, pil_kwargs={"optimize": True})
    plt.close(panes)


def timing() -> str:
    """Seconds of one core for a default field in both channels, after a small one has warmed the caches."""
    microscope = Microscope()
    microscope.image(Scene.draw(0, (256, 256)))
    marks = [(time.process_time(), time.perf_counter())]
    scene = Scene.draw(1)
    marks.append((time.process_time(), time.perf_counter()))
    for channel in microscope.channels:
        microscope.image(scene, channel=channel)
    marks.append((time.process_time(), time.perf_counter()))
    draw, image, both = (
        (b[0] - a[0], b[1] - a[1]) for a, b in ((marks[0], marks[1]), (marks[1], marks[2]), marks[::2])
    )
    parts = [
        f"{name} {cpu:.2f} s ({wall:.2f} s)"
        for name, (cpu, wall) in zip(("scene", "two channels", "both"), (draw, image, both), strict=True)
    ]
    return "a 2160 x 2160 field, processor time (wall time): " + ", ".join(parts)


def tabulate(
    real: dict[str, np.ndarray], drawn: dict[str, np.ndarray], found: pd.DataFrame, baseline: pd.DataFrame
) -> pd.DataFrame:
    """One row per measure and distance: quartiles of both sets, split-half distance, drawn distance, their quotient."""
    rows = []
    for name, kind in found.columns:
        column, half = found[name, kind], float(baseline[name, kind].median())
        row: dict[str, float | str] = {"measure": TITLES[name], "distance": kind}
        for title, values in (("real", real[name]), ("drawn", drawn[name])):
            quartiles = [np.nan] * 3 if name == "spectrum" else np.percentile(values, [25, 50, 75])
            row |= {f"{title}_q{q}": float(value) for q, value in zip((25, 50, 75), quartiles, strict=True)}
        row |= {"split_half": half, "split_half_q95": float(baseline[name, kind].quantile(0.95))}
        row |= {"drawn_to_real": float(column.mean()), "times_split_half": float(column.mean()) / half}
        row |= {"times_min": float(column.min()) / half, "times_max": float(column.max()) / half}
        rows.append(row)
    return pd.DataFrame(rows)


def markdown(table: pd.DataFrame) -> str:
    """The table for people, in Markdown."""
    lines = [
        "| measure | real quartiles | drawn quartiles | distance | split half | drawn | times split half (range) |",
        "|---|---|---|---|---|---|---|",
    ]
    for _, row in table.iterrows():
        real, drawn = (
            "" if np.isnan(row[f"{side}_q50"]) else " / ".join(f"{row[f'{side}_q{q}']:.4g}" for q in (25, 50, 75))
            for side in ("real", "drawn")
        )
        times = f"{row.times_split_half:.1f} ({row.times_min:.1f} to {row.times_max:.1f})"
        numbers = f"{row.distance} | {row.split_half:.3g} | {row.drawn_to_real:.3g} | {times}"
        lines.append(f"| {row.measure} | {real} | {drawn} | {numbers} |")
    return "\n".join(lines)


PAGE = """# Realism of the virtual microscope

How far drawn fields are from real ones (BBBC039v1, Broad Bioimage Benchmark Collection, CC0). Every simulated result of
this project is only as valid as this table.

    {command}

Judged on {n_wells} wells ({n_fields} fields, {n_nuclei} nuclei that do not touch the border) which fitting never used;
`wells.csv` says which wells were fitted and which judged. {plates} drawn plates of as many fields, every parameter at
its default but the camera at 12 bits as in BBBC039, {drawn_nuclei} nuclei. Split half: the median distance between
two random halves of all {all_wells} real wells, {splits} halvings (each half has about as many wells as the judged
one). 1 = a drawn plate is as far from the judged wells as real wells are from each other; the range is over the drawn
plates.

{table}

![drawn beside real](drawn_beside_real.png)

What to know about it:

- The fit was by hand, on statistics and pictures of the fitted half. Before the wells were halved, summaries over all
  wells (counts, background and noise per field; quantiles of area, eccentricity, solidity, mean intensity; median
  nearest neighbour) had been seen.
- The field-level measures (count, background, noise) have one value per field, so their split-half distance is large
  and the quotient says little. Wasserstein distances of intensity follow the few saturated objects.
- The outlines of real fields were drawn by people, those of drawn fields are exact: shapes of objects under about 100
  pixels compare annotation with truth.
- Not judged here: whether a classifier tells drawn from real, whether a segmentation trained on one works on the other,
  and the artefacts, of which BBBC039 has too few.
- Machine: {machine}; {timing}.
"""


def main() -> None:
    """Measure, print and, for the judged half, write the table, the wells and the figure."""
    parser = argparse.ArgumentParser(description="How near drawn nuclei are to real ones.")
    parser.add_argument("--data", type=Path, required=True, help="folder of BBBC039 with images/ and masks/")
    parser.add_argument("--half", choices=("judged", "fitted"), default="judged")
    parser.add_argument("--plates", type=int, default=5, help="drawn plates, each as large as the half")
    parser.add_argument("--splits", type=int, default=200, help="random halvings of the real wells")
    parser.add_argument("--out", type=Path, default=Path(__file__).parents[1] / "docs" / "realism")
    options = parser.parse_args()

    fields = read_real(options.data)
    wells = sorted({well for well, _, _ in fields})
    first = set(np.random.default_rng(0).permutation(wells)[: len(wells) // 2])
    halves = pd.DataFrame({"well": wells, "half": ["fitted" if well in first else "judged" for well in wells]})
    chosen = set(halves.loc[halves["half"] == options.half, "well"])
    if options.half == "fitted":
        fields = [entry for entry in fields if entry[0] in chosen]
    by_well: dict[str, list[dict[str, np.ndarray]]] = {}
    for well, image, labels in fields:
        by_well.setdefault(well, []).append(measure(image, labels))
    baseline = split_half(by_well, options.splits)
    real = pool([field for well in sorted(chosen) for field in by_well[well]])
    originals = [image for well, image, _ in fields if well in chosen]

    # Fitting saw plates 1000 and 1001; the judged half meets plates of its own.
    start = 2000 if options.half == "judged" else 1000
    plates = [draw(start + i, len(chosen), len(originals), originals[0].shape) for i in range(options.plates)]
    sets = [pool([measure(*field) for field in plate]) for plate in plates]
    drawn = pool(sets)
    table = tabulate(real, drawn, pd.DataFrame([distances(real, one) for one in sets]), baseline)
    seconds = timing()
    print(markdown(table), seconds, sep="\n\n")
    if options.half == "fitted":
        return
    options.out.mkdir(parents=True, exist_ok=True)
    halves.to_csv(options.out / "wells.csv", index=False)
    table.to_csv(options.out / "realism.csv", index=False, float_format="%.6g")
    page = PAGE.format(
        command=" ".join(["python benchmarks/realism.py", *sys.argv[1:]]),
        n_wells=len(chosen),
        n_fields=len(originals),
        n_nuclei=len(real["area"]),
        plates=options.plates,
        drawn_nuclei=len(drawn["area"]),
        all_wells=len(wells),
        splits=options.splits,
        table=markdown(table),
        machine=f"{platform.machine()}, Python {platform.python_version()}",
        timing=seconds,
    )
    (options.out / "realism.md").write_text(page)
    take = np.random.default_rng(2).choice(len(originals), 3, replace=False)
    figure([originals[i] for i in take], [plates[0][i][0] for i in take], options.out / "drawn_beside_real.png")
    print(f"written to {options.out}")


if __name__ == "__main__":
    main()
