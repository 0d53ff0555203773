"""Does a segmentation trained on drawn fields work on real ones, and the other way round?

Two kinds of small U-Net, one trained on the fitted real wells and one on drawn plates, each tested on the judged real
wells and on other drawn plates, beside the classical segmentation. Nuclei are matched whole at an IoU above 0.5.
"""

from __future__ import annotations

import time
from collections.abc import Sequence

import numpy as np
import pandas as pd
import torch
from realism_data import JUDGED_PLATES, TRAINING_PLATES, Field, Halves, draw_like, markdown
from scipy import ndimage
from skimage.segmentation import find_boundaries, watershed
from torch.nn import functional

from phenokeep.imaging.segment import segment_nuclei
from phenokeep.models.nets.unet import UNet

WIDTHS = (12, 24, 48, 96)
CROP, BATCH = 128, 8
LEAST = 30  # pixels: smaller nuclei count neither as found, nor as lost, nor as invented
BACKGROUND, INSIDE, EDGE = range(3)
EDGE_WEIGHT = 3.0  # edges are few


def scaled(image: np.ndarray) -> np.ndarray:
    """Log counts above the camera's offset, about 0 in the background and 2 in a nucleus."""
    return (np.log(np.maximum(image.astype(np.float32) - 80, 1)) - 4).astype(np.float32)


def classes(labels: np.ndarray) -> np.ndarray:
    """Background, inside and edge (two pixels inwards, where nuclei touch or end) of a label image, int64 Y X."""
    edge = ndimage.binary_dilation(find_boundaries(labels, mode="inner"), np.ones((3, 3))) & (labels > 0)
    return np.where(edge, EDGE, labels > 0).astype(np.int64)


def train(fields: Sequence[Field], steps: int, seed: int) -> UNet:
    """A U-Net that tells the three classes apart; the same settings whatever it is trained on."""
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    pairs = [(scaled(field.image), classes(field.labels)) for field in fields]
    net = UNet(1, 3, WIDTHS).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimizer = torch.optim.AdamW(net.parameters(), 1e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 4e-3, steps)
    weights = torch.tensor([1.0, 1.0, EDGE_WEIGHT])
    for _ in range(steps):
        images, truths = zip(*(_any_crop(*pairs[rng.integers(len(pairs))], rng) for _ in range(BATCH)), strict=True)
        batch = torch.from_numpy(np.stack(images)[:, None]).contiguous(memory_format=torch.channels_last)
        with torch.autocast("cpu", torch.bfloat16):
            out = net(batch)
        loss = functional.cross_entropy(out.float(), torch.from_numpy(np.stack(truths)), weights)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    return net.eval()


def _any_crop(image: np.ndarray, truth: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    y, x = (rng.integers(0, side - CROP + 1) for side in image.shape)
    flips = np.s_[:: rng.choice((1, -1)), :: rng.choice((1, -1))]
    pair = image[y : y + CROP, x : x + CROP][flips], truth[y : y + CROP, x : x + CROP][flips]
    return (pair[0].T, pair[1].T) if rng.random() < 0.5 else pair


@torch.no_grad()
def segment(net: UNet, image: np.ndarray) -> np.ndarray:
    """Label the nuclei of a field: insides are seeds, which grow over all that is not background."""
    spare = [(0, -side % net.divisor) for side in image.shape]
    batch = torch.from_numpy(np.pad(scaled(image), spare, mode="reflect")[None, None])
    with torch.autocast("cpu", torch.bfloat16):
        shares = net(batch.contiguous(memory_format=torch.channels_last)).float().softmax(1)[0].numpy()
    shares = shares[:, : image.shape[0], : image.shape[1]]
    seeds, _ = ndimage.label(shares[INSIDE] > 0.5)
    return watershed(-shares[INSIDE], seeds, mask=shares[BACKGROUND] < 0.5)


def matched(truth: np.ndarray, found: np.ndarray) -> tuple[int, int, int]:
    """Nuclei found, invented and lost, matched whole at an IoU above 0.5."""
    overlap = np.zeros((truth.max() + 1, found.max() + 1), int)
    np.add.at(overlap, (truth.ravel(), found.ravel()), 1)
    areas, others = overlap.sum(1), overlap.sum(0)
    pairs = overlap > 0.5 * (areas[:, None] + others[None] - overlap)
    pairs[0], pairs[:, 0] = False, False
    wanted, drawn = areas >= LEAST, others >= LEAST
    wanted[0] = drawn[0] = False
    hit, explained = pairs.any(1), pairs.any(0)
    return int((wanted & hit).sum()), int((drawn & ~explained).sum()), int((wanted & ~hit).sum())


def _f1(counts: np.ndarray) -> float:
    hit, invented, lost = counts.sum(0)
    return float(2 * hit / (2 * hit + invented + lost))


def _row(name: str, tested: str, fields: Sequence[Field], runs: list[np.ndarray]) -> dict[str, float | str]:
    """Pooled F1, precision and recall: mean over networks, their range, and an interval from resampling wells."""
    wells = np.array([field.well for field in fields])
    groups, rng = [np.flatnonzero(wells == well) for well in np.unique(wells)], np.random.default_rng(5)
    resampled = []
    for _ in range(1000):
        taken = np.concatenate([groups[i] for i in rng.integers(len(groups), size=len(groups))])
        resampled.append(np.mean([_f1(counts[taken]) for counts in runs]))
    low, high = np.percentile(resampled, (2.5, 97.5))
    totals, scores = np.mean([counts.sum(0) for counts in runs], axis=0), [_f1(counts) for counts in runs]
    row: dict[str, float | str] = {"trained_on": name, "tested_on": tested, "f1": float(np.mean(scores))}
    row |= {"low": low, "high": high, "f1_min": min(scores), "f1_max": max(scores), "networks": len(runs)}
    row |= {"precision": totals[0] / (totals[0] + totals[1]), "recall": totals[0] / (totals[0] + totals[2])}
    return row | {"fields": len(fields), "nuclei": totals[0] + totals[2]}


def judge(halves: Halves, plates: int, steps: int, seeds: int) -> tuple[dict[str, pd.DataFrame], str]:
    """The tables of this part and its text."""
    start = time.process_time()
    real, judged = halves.of(halves.fitted), halves.of(halves.judged)
    drawn = [field for plate in draw_like(real, TRAINING_PLATES, plates) for field in plate]
    others = [field for plate in draw_like(judged, JUDGED_PLATES, plates) for field in plate]
    tests, rows = {"real, judged": judged, "drawn, other plates": others}, []
    for name, fields in {"real, fitted": real, "drawn": drawn}.items():
        nets = [train(fields, steps, seed) for seed in range(seeds)]
        print(f"trained on {name}: {time.process_time() - start:.0f} s", flush=True)
        for tested, test in tests.items():
            runs = [np.array([matched(f.labels, segment(net, f.image)) for f in test]) for net in nets]
            rows.append(_row(name, tested, test, runs))
    for tested, test in tests.items():
        counts = np.array([matched(f.labels, segment_nuclei(f.image)) for f in test])
        rows.append(_row("nothing: Otsu and watershed", tested, test, [counts]))
    table = pd.DataFrame(rows)
    shown = pd.DataFrame(
        {
            "trained on": table["trained_on"],
            "tested on": table["tested_on"],
            "F1 (interval)": [f"{r.f1:.3f} ({r.low:.3f} to {r.high:.3f})" for r in table.itertuples()],
            "networks": [f"{r.f1_min:.3f} to {r.f1_max:.3f}" if r.networks > 1 else "" for r in table.itertuples()],
            "precision": table["precision"].map("{:.3f}".format),
            "recall": table["recall"].map("{:.3f}".format),
        }
    )
    sizes = {"real": len(real), "drawn": len(drawn), "judged": len(judged), "others": len(others), "plates": plates}
    sizes |= {"nuclei": int(table["nuclei"][0]), "other_nuclei": int(table["nuclei"][1])}
    settings = {"steps": steps, "seeds": seeds, "batch": BATCH, "crop": CROP, "least": LEAST}
    text = TEXT.format(**sizes, **settings, table=markdown(shown))
    return {"segmentation": table}, text


TEXT = """## Segmentation across the two

U-Nets (background, inside, edge; {seeds} seeds, {steps} steps of {batch} crops of {crop} px, the same settings for
both) trained on the {real} fitted real fields or on {drawn} drawn ones, tested on the {judged} judged real fields
({nuclei} annotated nuclei) and on {others} drawn ones of another plate ({other_nuclei} true nuclei; plates to train and
to test: {plates} each). F1 of whole nuclei at IoU > 0.5, pooled over fields, mean over networks, whose range is given
too; interval: 95 %, wells resampled; nuclei under {least} px are left out.

{table}

Training is short, so read this as how well the two transfer, not as the best that a U-Net can do. A difference within
the networks' range is no finding.
"""
