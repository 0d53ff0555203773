"""Distances between drawn and real fields, measure by measure, in multiples of that between halves of the real ones."""

from __future__ import annotations

import platform
import time
from pathlib import Path

import numpy as np
import pandas as pd
from realism_data import FITTED_PLATES, JUDGED_PLATES, Field, Halves, draw_like, markdown
from realism_measures import TITLES, distances, measure, pool
from skimage.transform import resize

from phenokeep.imaging.microscope import Microscope, Scene


def split_half(by_well: dict[str, list[dict[str, np.ndarray]]], splits: int) -> pd.DataFrame:
    """Distances between two random halves of the real wells, one row per split."""
    rng, wells, rows = np.random.default_rng(1), sorted(by_well), []
    for _ in range(splits):
        order = rng.permutation(wells)
        halves = (order[: len(order) // 2], order[len(order) // 2 :])
        rows.append(distances(*(pool([field for well in half for field in by_well[well]]) for half in halves)))
    return pd.DataFrame(rows)


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


def _shown(table: pd.DataFrame) -> pd.DataFrame:
    """The table for people."""
    rows = []
    for _, row in table.iterrows():
        real, drawn = (
            "" if np.isnan(row[f"{side}_q50"]) else " / ".join(f"{row[f'{side}_q{q}']:.4g}" for q in (25, 50, 75))
            for side in ("real", "drawn")
        )
        times = f"{row.times_split_half:.1f} ({row.times_min:.1f} to {row.times_max:.1f})"
        rows.append(
            [row.measure, real, drawn, row.distance, f"{row.split_half:.3g}", f"{row.drawn_to_real:.3g}", times]
        )
    names = [
        "measure",
        "real quartiles",
        "drawn quartiles",
        "distance",
        "split half",
        "drawn",
        "times split half (range)",
    ]
    return pd.DataFrame(rows, columns=names)


def judge(halves: Halves, half: str, plates: int, splits: int, out: Path | None) -> tuple[dict[str, pd.DataFrame], str]:
    """The tables of this part and its text; the figure is written into `out`."""
    chosen = halves.judged if half == "judged" else halves.fitted
    fields = halves.fields if half == "judged" else halves.of(halves.fitted)  # the fit never sees the judged half
    by_well: dict[str, list[dict[str, np.ndarray]]] = {}
    for field in fields:
        by_well.setdefault(field.well, []).append(measure(field.image, field.labels))
    baseline = split_half(by_well, splits)
    real = pool([measures for well in sorted(chosen) for measures in by_well[well]])
    originals: list[Field] = halves.of(chosen)
    drawn = draw_like(originals, JUDGED_PLATES if half == "judged" else FITTED_PLATES, plates)
    sets = [pool([measure(field.image, field.labels) for field in plate]) for plate in drawn]
    table = tabulate(real, pool(sets), pd.DataFrame([distances(real, one) for one in sets]), baseline)
    if out is not None:
        take = np.random.default_rng(2).choice(len(originals), 3, replace=False)
        pictures = ([originals[i].image for i in take], [drawn[0][i].image for i in take])
        figure(*pictures, out / "drawn_beside_real.png")
    wells = sorted(halves.fitted | halves.judged)
    split = pd.DataFrame({"well": wells, "half": ["fitted" if well in halves.fitted else "judged" for well in wells]})
    text = TEXT.format(
        n_wells=len(chosen),
        n_fields=len(originals),
        n_nuclei=len(real["area"]),
        plates=plates,
        drawn_nuclei=sum(len(one["area"]) for one in sets),
        all_wells=len(by_well),
        splits=splits,
        table=markdown(_shown(table)),
        machine=f"{platform.machine()}, Python {platform.python_version()}",
        timing=timing(),
    )
    return {"realism": table, "wells": split}, text


TEXT = """## Distances

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
- Not judged: the artefacts, of which BBBC039 has too few.
- Machine: {machine}; {timing}.
"""
