"""Damaged pictures and what becomes of them: test patches manipulated, scored by metrics, read as a lab reads them."""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Iterator, Mapping, Sequence
from inspect import Parameter, signature
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from rich.progress import track

from ..imaging import manipulations as change
from ..imaging.segment import nuclear_threshold, segment_nuclei
from ..metrics import ImageMetric
from .readouts import cycle_losses, picture_losses, read, severity

# The share at level 1. A saturated object a quarter of the picture large has spoilt it wholly.
GRADED = {
    "area missing": (change.area_missing, 1.0),
    "region blanked": (change.region_blanked, 1.0),
    "nuclei missing": (change.nuclei_missing, 1.0),
    "nuclei invented": (change.nuclei_invented, 1.0),
    "artefact added": (change.artefact_added, 0.25),
}
DECOYS = {
    "gain x 0.8": (change.gain, 0.8),
    "gain x 1.25": (change.gain, 1.25),
    "illumination +-20 %": (change.illumination, 0.2),
    "camera noise x 2": (change.camera_noise, 2.0),
    "1-px shift": (change.shifted, 1.0),
}
TRAPS = {
    "1 lost, 1 invented": (change.lost_and_invented, 1.0),
    "30 % relocated": (change.relocated, 0.3),
    "2 merged": (change.merged, 15.0),
}
HALO = 4.0  # micrometres that a nucleus shines beyond its outline
FEWEST_WHOLE = 5  # whole nuclei that a picture must show to be damaged by degrees
FIELDS = ("prediction", "target", "mask", "pixel_size")
BATCH = 12


class Scored(NamedTuple):
    """A metric of the house, which of its keys is the score, whether more is better, and whether it is in severity."""

    metric: ImageMetric
    key: str
    higher_is_better: bool = True
    in_severity: bool = False  # severity contains this readout: it agrees in part by construction

    def measured(self, pictures: np.ndarray, original: np.ndarray, pixel_size: float) -> dict[str, np.ndarray]:
        """Every key of the metric, of pictures (B Y X, [0, 1]) against one original; a mask is the whole picture."""
        parts = []
        for start in range(0, len(pictures), BATCH):
            prediction = torch.from_numpy(pictures[start : start + BATCH, None])
            target = torch.from_numpy(original).expand(prediction.shape)
            pixels = torch.full((len(prediction), 2), pixel_size)
            values = (prediction, target, torch.ones_like(prediction), pixels)
            fields = self.metric.select(dict(zip(FIELDS, values, strict=True)))
            parts.append(self.metric.measure(**fields))
        return {key: torch.cat([part[key] for part in parts]).numpy() for key in self.metric.names}


class Chosen(NamedTuple):
    """One original picture."""

    id: str
    group: str
    specimen: change.Specimen
    pixel_size: float
    known: bool  # whether its instances are known, not segmented


class Changed(NamedTuple):
    """One manipulated picture; `set` is graded, decoy or trap."""

    set: str
    change: str
    level: float
    specimen: change.Specimen


def scores_of(name: str, entry: Mapping[str, Any]) -> dict[str, Scored]:
    """An entry of study.metrics, with the fields of `Scored`; a key {name: key} makes several scores of one metric.

    Raises ValueError for an option or key that does not exist, or a metric that reads what is not there.
    """
    key = entry.get("key")
    keys = dict(key) if isinstance(key, Mapping) else {name: key}
    try:
        scores = {own: Scored(**{**entry, "key": one}) for own, one in keys.items()}
    except TypeError as error:
        raise ValueError(f"study.metrics.{name} takes {', '.join(Scored._fields)}: {error}") from None
    for scored in scores.values():
        kind = type(scored.metric).__name__
        if scored.key not in scored.metric.names:
            have = ", ".join(scored.metric.names)
            raise ValueError(f"study.metrics.{name}.key is {scored.key!r}: {kind} has {have}")
        parameters = signature(scored.metric.measure).parameters.values()
        if strange := {p.name for p in parameters if p.default is Parameter.empty} - set(FIELDS):
            raise ValueError(
                f"study.metrics.{name}: {kind} reads {sorted(strange)}; there are only {', '.join(FIELDS)} here"
            )
    return scores


def choose(datamodule: Any, images: int, seed: int) -> tuple[list[Chosen], int]:
    """Test patches with enough whole nuclei, wells in turn; their instances where known, else a segmentation.

    Gives them with the number of patches passed over; raises ValueError where fewer than two will do.
    """
    data = datamodule.patches("test")
    data.bands = [None]  # each patch once: no hole is looked at
    rng = np.random.default_rng(seed)
    wells: dict[str, list[int]] = {}
    for index in rng.permutation(len(data)):
        wells.setdefault(str(datamodule.index["group"].iloc[data.windows[index][0]]), []).append(int(index))
    chosen: list[Chosen] = []
    passed_over = 0
    while wells and len(chosen) < images:
        for well in sorted(wells):
            if len(chosen) == images:
                break
            item = data[0, wells[well].pop()]
            if not wells[well]:
                del wells[well]
            pixel_size = float(item["pixel_size"].mean())
            image = item["target"][0].numpy()
            known = "objects" in item
            labels = item["objects"][0].numpy() if known else segment_nuclei(image, pixel_size=pixel_size)
            specimen = change.Specimen(image, labels, halo=HALO / pixel_size)
            try:
                usable = len(specimen.whole) >= FEWEST_WHOLE and specimen.noise >= 0
            except change.NotPossible:
                usable = False
            if usable:
                chosen.append(Chosen(item["id"], item["group"], specimen, pixel_size, known))
            else:
                passed_over += 1
    if len(chosen) < 2:
        raise ValueError(
            f"{len(chosen)} of {passed_over + len(chosen)} test patches show {FEWEST_WHOLE} whole nuclei: give "
            "larger patches (data/zoom=paper) or denser fields"
        )
    return chosen, passed_over


def plan(levels: Sequence[float]) -> list[tuple[str, str, float, float]]:
    """Set, change, level and amount of every manipulation."""
    graded = [("graded", name, level, level * whole) for name, (_, whole) in GRADED.items() for level in levels]
    decoys = [("decoy", name, 1.0, amount) for name, (_, amount) in DECOYS.items()]
    return graded + decoys + [("trap", name, 1.0, amount) for name, (_, amount) in TRAPS.items()]


def manipulated(original: Chosen, levels: Sequence[float], seed: int) -> Iterator[Changed]:
    """Every manipulation for which the picture has room; what is random depends on seed, id and change."""
    for kind, name, level, amount in plan(levels):
        rng = np.random.default_rng([seed, zlib.crc32(original.id.encode()), zlib.crc32(name.encode())])
        try:
            specimen = (GRADED | DECOYS | TRAPS)[name][0](original.specimen, amount, rng)
        except change.NotPossible:
            continue
        yield Changed(kind, name, level, specimen)


def judge(
    originals: Sequence[Chosen], metrics: Mapping[str, Scored], levels: Sequence[float], seed: int
) -> pd.DataFrame:
    """One row per picture, the originals among them (set "original"): scores, readouts, severity."""
    distinct = {id(scored.metric): scored for scored in metrics.values()}  # several scores may be keys of one metric
    rows: list[dict[str, Any]] = []
    dna: dict[str, list[np.ndarray]] = {"": [], " by labels": []}
    unchanged: dict[str, dict[str, np.ndarray]] = {"": {}, " by labels": {}}
    for original in track(originals, description="judging damaged pictures", transient=True):
        first = original.specimen
        pictures = [Changed("original", "none", 0.0, first), *manipulated(original, levels, seed)]
        stack = np.stack([picture.specimen.image for picture in pictures])
        values = {same: one.measured(stack, first.image, original.pixel_size) for same, one in distinct.items()}
        scores = {name: values[id(scored.metric)][scored.key] for name, scored in metrics.items()}
        threshold = nuclear_threshold(first.image)
        readings = {
            "": [read(image, segment_nuclei(image, threshold, pixel_size=original.pixel_size)) for image in stack],
            " by labels": [read(picture.specimen.image, picture.specimen.labels) for picture in pictures],
        }
        for way, read_so in readings.items():
            unchanged[way][original.id] = read_so[0].dna
            dna[way] += [reading.dna for reading in read_so]
        for number, picture in enumerate(pictures):
            row: dict[str, Any] = {
                "id": original.id,
                "group": original.group,
                "set": picture.set,
                "change": picture.change,
            }
            row |= {"level": picture.level, "picture": neutral_name(original.id, picture.change, picture.level, seed)}
            for way, read_so in readings.items():
                losses = picture_losses(read_so[0], read_so[number])
                row |= {f"{key}{way}": value if original.known or not way else np.nan for key, value in losses.items()}
            saturated = (picture.specimen.image >= 1).mean() - (first.image >= 1).mean()
            row |= {"saturated": saturated, **{name: values[number] for name, values in scores.items()}}
            rows.append(row)
    images = pd.DataFrame(rows)
    for way in dna:
        images[f"cell cycle loss{way}"] = cycle_losses(images, dna[way], unchanged[way])
        images[f"severity{way}"] = severity(images, way)
    unknown = images["F1 by labels"].isna()
    images.loc[unknown, ["cell cycle loss by labels", "severity by labels"]] = np.nan
    first_columns = ["id", "group", "set", "change", "level", "picture", "severity", "severity by labels"]
    return images[first_columns + [column for column in images if column not in first_columns]]


def neutral_name(original: str, change: str, level: float, seed: int) -> str:
    """A name that says nothing of what was done, and changes with data and seed."""
    return hashlib.sha256(f"{seed}/{original}/{change}/{level}".encode()).hexdigest()[:10]
