"""Can a classifier tell drawn crops from real ones, and by what?

Trained on crops of the fitted real wells and of drawn plates, tested on the judged wells and on other drawn plates. The
baseline is the same with real wells on both sides: two random halves of them, where an AUC beyond 0.5 is chance.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from itertools import pairwise

import numpy as np
import pandas as pd
import torch
from realism_data import JUDGED_PLATES, TRAINING_PLATES, Field, Halves, draw_like, markdown
from scipy import ndimage
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.metrics import roc_auc_score
from torch import nn

from phenokeep.imaging.measure import measure
from phenokeep.imaging.segment import segment_nuclei

CROP = 128
ROUGH = np.array([[0, -0.25, 0], [-0.25, 1, -0.25], [0, -0.25, 0]])  # what of a pixel its neighbours do not tell
BANDS = np.array([0.01, 0.02, 0.04, 0.06, 0.09, 0.13, 0.18, 0.25, 0.35, 0.5])  # cycles per pixel

Scorer = Callable[[Sequence[Field], np.ndarray, Sequence[Field], int], np.ndarray]


def crops(image: np.ndarray) -> list[np.ndarray]:
    """A grid of whole crops that covers as much of the field as fits, centred."""
    top, left = (image.shape[0] % CROP) // 2, (image.shape[1] % CROP) // 2
    rows, columns = range(top, image.shape[0] - CROP + 1, CROP), range(left, image.shape[1] - CROP + 1, CROP)
    return [image[y : y + CROP, x : x + CROP].astype(np.float32) for y in rows for x in columns]


def features(crop: np.ndarray) -> dict[str, float]:
    """What a crop looks like in numbers, as `group: name`; nuclei are those of the classical segmentation."""
    found = {f"brightness: {q} %": float(np.percentile(crop, q)) for q in (1, 10, 50, 75, 90, 97, 99.9)}
    labels = segment_nuclei(crop)
    background = ndimage.distance_transform_edt(labels == 0) > 10
    rough = ndimage.convolve(crop, ROUGH)
    for name, part in (("background", background), ("nuclei", labels > 0)):
        enough = part.sum() > 200
        found[f"finest detail: {name}"] = float(rough[part].std()) if enough else np.nan
        found[f"finest detail: tails in {name}"] = (
            float(np.abs(rough[part]).max() / rough[part].std()) if enough else np.nan
        )
    fine = crop - ndimage.gaussian_filter(crop, 3)
    for name, a, b in (("beside", np.s_[:, 1:], np.s_[:, :-1]), ("above", np.s_[1:], np.s_[:-1])):
        part = background[a] & background[b]
        alike = np.corrcoef(fine[a][part], fine[b][part])[0, 1] if part.sum() > 200 else np.nan
        found[f"finest detail: correlation with the pixel {name}"] = float(alike)
    window = np.outer(np.hanning(CROP), np.hanning(CROP))
    power = np.abs(np.fft.rfft2((crop - crop.mean()) * window)) ** 2
    radius = np.hypot(np.fft.fftfreq(CROP)[:, None], np.fft.rfftfreq(CROP)[None])
    for low, high in pairwise(BANDS):
        found[f"spectrum: {low:g} to {high:g} / px"] = float(np.log10(power[(radius >= low) & (radius < high)].mean()))
    smooth = ndimage.gaussian_filter(crop, 3)
    found["background: level"] = float(np.median(crop[background])) if background.any() else np.nan
    found["background: unevenness"] = float(smooth[background].std()) if background.any() else np.nan
    found["layout: nuclei"], found["layout: covered share"] = float(labels.max()), float((labels > 0).mean())
    table = measure(labels, crop)
    whole = table[table["AreaShape_Area"] > 200]
    for title in ("Area", "Eccentricity", "Solidity"):
        found[f"shape: {title.lower()}, mean"] = float(whole[f"AreaShape_{title}"].mean())
        found[f"shape: {title.lower()}, SD"] = float(whole[f"AreaShape_{title}"].std())
    spread = whole["Intensity_StdIntensity_DNA"] / whole["Intensity_MeanIntensity_DNA"]
    found["texture: CV in nuclei"] = float(spread.mean())
    slope = np.hypot(ndimage.sobel(crop, 0), ndimage.sobel(crop, 1)) / 8
    rim = (labels > 0) & (ndimage.minimum_filter(labels, 5) == 0)
    height = float(whole["Intensity_MeanIntensity_DNA"].mean()) - found["background: level"]
    found["edges: steepness"] = float(np.percentile(slope[rim], 75)) / height if rim.sum() > 50 else np.nan
    return found


def by_features(train: Sequence[Field], truth: np.ndarray, test: Sequence[Field], seed: int) -> np.ndarray:
    """Score the test crops (1 = drawn) by gradient boosting on `features`."""
    return _boost(tabulate(train), np.repeat(truth, _per_field(train)), seed).predict_proba(tabulate(test))[:, 1]


def _boost(table: pd.DataFrame, truth: np.ndarray, seed: int) -> HistGradientBoostingClassifier:
    model = HistGradientBoostingClassifier(
        learning_rate=0.05, max_iter=150, max_leaf_nodes=8, min_samples_leaf=30, random_state=seed,
        class_weight="balanced", early_stopping=False,
    )  # fmt: skip
    return model.fit(table, truth)


_TABLES: dict[int, tuple[np.ndarray, pd.DataFrame]] = {}  # by the image's id, which its presence here keeps


def tabulate(fields: Sequence[Field]) -> pd.DataFrame:
    """The features of every crop of these fields, field by field; each field is measured once."""
    for field in fields:
        if id(field.image) not in _TABLES:
            _TABLES[id(field.image)] = field.image, pd.DataFrame([features(crop) for crop in crops(field.image)])
    return pd.concat([_TABLES[id(field.image)][1] for field in fields], ignore_index=True)


def _per_field(fields: Sequence[Field]) -> int:
    return len(crops(fields[0].image))


def by_network(view: Callable[[np.ndarray], np.ndarray], epochs: int) -> Scorer:
    """A small convolutional network on what `view` (field Y X to channels Y X) shows of the crops."""

    def score(train: Sequence[Field], truth: np.ndarray, test: Sequence[Field], seed: int) -> np.ndarray:
        rng = np.random.default_rng(seed)
        torch.manual_seed(seed)
        shown = [view(field.image.astype(np.float32)) for field in train]
        layers: list[nn.Module] = []
        before = shown[0].shape[0]
        for width in (24, 48, 96, 128):
            kernel = 3 if layers else 5
            layers += [nn.Conv2d(before, width, kernel, 2, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU()]
            before = width
        pooled = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(0.2), nn.Linear(before, 1)]
        net = nn.Sequential(*layers, *pooled).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        batch, classes = 64, [np.flatnonzero(truth == kind) for kind in (0, 1)]
        steps = epochs * min(len(one) for one in classes) * 2 * _per_field(train) // batch
        optimizer = torch.optim.AdamW(net.parameters(), 2e-3, weight_decay=1e-2)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 4e-3, steps)
        wanted = torch.tensor([[0.0], [1.0]]).repeat(batch // 2, 1)
        net.train()
        for _ in range(steps):
            picked = [shown[rng.choice(classes[i % 2])] for i in range(batch)]
            with torch.autocast("cpu", torch.bfloat16):
                out = net(_tensor([_any_crop(one, rng) for one in picked]))
            loss = nn.functional.binary_cross_entropy_with_logits(out.float(), wanted)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
        net.eval()
        with torch.no_grad():
            seen = [view(field.image.astype(np.float32)) for field in test]
            grids = [[np.stack(one) for one in zip(*map(crops, channels), strict=True)] for channels in seen]
            return torch.cat([net(_tensor(grid)).squeeze(1) for grid in grids]).numpy()

    return score


def _tensor(images: list[np.ndarray]) -> torch.Tensor:
    return torch.from_numpy(np.stack(images)).contiguous(memory_format=torch.channels_last)


def _any_crop(shown: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    y, x = (rng.integers(0, side - CROP + 1) for side in shown.shape[1:])
    crop = shown[:, y : y + CROP, x : x + CROP]
    crop = crop[:, :: rng.choice((1, -1)), :: rng.choice((1, -1))]
    return np.ascontiguousarray(crop if rng.random() < 0.5 else crop.swapaxes(1, 2))


def as_it_is(image: np.ndarray) -> np.ndarray:
    """Log counts, and the roughness that log counts hide."""
    return np.stack([np.log(np.maximum(image - 80, 1)) - 4.5, np.clip(ndimage.convolve(image, ROUGH) / 10, -5, 5)])


def fine_background(image: np.ndarray) -> np.ndarray:
    """The roughness alone, and only farther than 10 px from the nuclei: camera noise and specks."""
    far = ndimage.distance_transform_edt(segment_nuclei(image) == 0) > 10
    return np.where(far, as_it_is(image)[1:], 0)


def fine_nuclei(image: np.ndarray) -> np.ndarray:
    """The roughness alone, and only deeper than 2 px inside the nuclei: chromatin and noise."""
    deep = ndimage.distance_transform_edt(segment_nuclei(image) > 0) > 2
    return np.where(deep, as_it_is(image)[1:], 0)


def only_forms(image: np.ndarray) -> np.ndarray:
    """Smoothed (sigma 2 px) and scaled field by field: neither noise, nor sharp edges, nor absolute counts."""
    smooth = ndimage.gaussian_filter(image, 2)
    low, high = np.percentile(smooth, (5, 99))
    return np.clip((smooth - low) / max(high - low, 1.0), -0.5, 2)[None].astype(np.float32)


def _auc_row(name: str, fields: Sequence[Field], truth: np.ndarray, scores: np.ndarray) -> dict[str, float | str]:
    """AUC over crops with an interval from resampling wells (95 %), and AUC over the fields' mean scores."""
    per, rng = len(scores) // len(fields), np.random.default_rng(3)
    table, wells, resampled = scores.reshape(len(fields), per), np.array([field.well for field in fields]), []
    kinds = [[np.flatnonzero(wells == well) for well in np.unique(wells[truth == kind])] for kind in (0, 1)]
    for _ in range(500):
        taken = np.concatenate([kind[i] for kind in kinds for i in rng.integers(len(kind), size=len(kind))])
        resampled.append(roc_auc_score(np.repeat(truth[taken], per), table[taken].ravel()))
    low, high = np.percentile(resampled, (2.5, 97.5))
    row: dict[str, float | str] = {"classifier": name, "auc": roc_auc_score(np.repeat(truth, per), scores)}
    row |= {"low": low, "high": high, "auc_fields": roc_auc_score(truth, table.mean(1))}
    return row | {"real_fields": sum(truth == 0), "drawn_fields": sum(truth == 1), "crops_per_field": per}


def _baseline(name: str, score: Scorer, fields: Sequence[Field], repeats: int) -> dict[str, float | str]:
    """AUC of telling one random half of the real wells from the other, half of each to train and half to test."""
    found, wells = [], np.unique([field.well for field in fields])
    for repeat in range(repeats):
        rng = np.random.default_rng((4, repeat))
        quarter = dict(zip(wells.tolist(), rng.permutation(len(wells)) % 4, strict=True))
        train, test = ([f for f in fields if quarter[f.well] // 2 == part] for part in (0, 1))
        truths = [np.array([quarter[f.well] % 2 for f in part]) for part in (train, test)]
        scores = score(train, truths[0], test, repeat)
        found.append(roc_auc_score(np.repeat(truths[1], _per_field(test)), scores))
    row: dict[str, float | str] = {"classifier": f"{name}: real against real, {repeats} halvings"}
    return row | {"auc": float(np.mean(found)), "low": min(found), "high": max(found), "real_fields": len(fields) // 2,
                  "drawn_fields": 0, "crops_per_field": _per_field(fields)}  # fmt: skip


def _groups_alone(train: Sequence[Field], truth: np.ndarray, test: Sequence[Field], true: np.ndarray) -> pd.DataFrame:
    """How far each group of features tells the two apart by itself, and its best single feature."""
    tables, repeated = (tabulate(train), tabulate(test)), np.repeat(truth, _per_field(train))
    rows = []
    expected = np.repeat(true, _per_field(test))
    for group in dict.fromkeys(name.split(":")[0] for name in tables[0]):
        names = [name for name in tables[0] if name.startswith(f"{group}:")]
        scores = _boost(tables[0][names], repeated, 0).predict_proba(tables[1][names])[:, 1]
        single = {}
        for name in names:
            known = tables[1][name].notna().to_numpy()
            one = roc_auc_score(expected[known], tables[1][name][known])
            single[name.split(": ", 1)[1]] = max(one, 1 - one)
        best = max(single, key=lambda name: single[name])
        row = {"features": group, "number": len(names), "auc": roc_auc_score(expected, scores)}
        medians = tables[1][f"{group}: {best}"].groupby(expected).median()
        row |= {"best_single": best, "auc_single": single[best]}
        rows.append(row | {"real_median": medians[0], "drawn_median": medians[1]})
    return pd.DataFrame(rows).sort_values("auc", ascending=False, ignore_index=True)


def judge(halves: Halves, plates: int, epochs: int) -> tuple[dict[str, pd.DataFrame], str]:
    """The tables of this part and its text."""
    start = time.process_time()
    real_train, real_test = halves.of(halves.fitted), halves.of(halves.judged)
    drawn_train = [field for plate in draw_like(real_train, TRAINING_PLATES, plates) for field in plate]
    drawn_test = [field for plate in draw_like(real_test, JUDGED_PLATES, plates) for field in plate]
    train, test = [*real_train, *drawn_train], [*real_test, *drawn_test]
    truth, true = (np.repeat((0, 1), (len(a), len(b))) for a, b in ((real_train, drawn_train), (real_test, drawn_test)))
    scorers = {
        "gradient boosting on features": by_features,
        "network, crops as they are": by_network(as_it_is, epochs),
        "network, finest detail of the background alone": by_network(fine_background, epochs),
        "network, finest detail of the nuclei alone": by_network(fine_nuclei, epochs),
        "network, smoothed and scaled": by_network(only_forms, epochs),
    }
    rows = []
    for name, score in scorers.items():
        rows.append(_auc_row(name, test, true, score(train, truth, test, 0)))
        print(f"{rows[-1]['classifier']}: AUC {rows[-1]['auc']:.3f} ({time.process_time() - start:.0f} s)", flush=True)
    rows.append(_baseline("gradient boosting", by_features, halves.fields, 10))
    rows.append(_baseline("network", scorers["network, crops as they are"], halves.fields, 3))
    table, groups = pd.DataFrame(rows), _groups_alone(train, truth, test, true)
    shown = pd.DataFrame(
        {
            "classifier": table["classifier"],
            "AUC over crops (interval)": [f"{r.auc:.3f} ({r.low:.3f} to {r.high:.3f})" for r in table.itertuples()],
            "AUC over fields": ["" if np.isnan(r.auc_fields) else f"{r.auc_fields:.3f}" for r in table.itertuples()],
        }
    )
    looks = groups.assign(**{name: groups[name].map("{:.3f}".format) for name in ("auc", "auc_single")})
    looks = looks.assign(**{name: groups[name].map("{:.3g}".format) for name in ("real_median", "drawn_median")})
    looks.columns = ["features", "number", "AUC alone", "best single feature", "its AUC", "real median", "drawn median"]
    sizes = {"crop": CROP, "per": _per_field(test), "plates": plates, "epochs": epochs}
    sizes |= {"real_train": len(real_train), "drawn_train": len(drawn_train)}
    sizes |= {"real_test": len(real_test), "drawn_test": len(drawn_test)}
    tables = {"table": markdown(shown), "looks": markdown(looks)}
    text = TEXT.format(**sizes, **tables, seconds=time.process_time() - start)
    return {"classifier": table, "classifier_features": groups}, text


TEXT = """## Real or drawn?

Classifiers trained on crops of {crop} px ({per} per field) of the {real_train} fitted real fields and of {drawn_train}
drawn ones, tested on the {real_test} judged real fields and {drawn_test} drawn ones of another plate (plates to train
and to test: {plates} each). 0.5 = cannot tell, 1 = always tells. Intervals: 95 %, wells resampled. Baseline: one random
half of the real wells against the other, with its range over halvings. Network: four convolutions (stride 2), {epochs}
epochs, one seed; finest detail: second differences between neighbouring pixels; smoothed: sigma 2 px, each field scaled
to its own range. Nuclei are segmented alike on both sides. {seconds:.0f} s of processor time.

{table}

What gives a drawn crop away (gradient boosting on one group of features alone):

{looks}

A network tells drawn crops from real ones all but perfectly, and by their nuclei: the finest detail inside them is
enough, that of the background is not. Smoothed forms and rims (drawn ones are steeper) do so too. The drawn
test fields are of one plate, whose own brightness adds to this. Nothing that depends on the fine texture of nuclei
should be believed of drawn images alone.
"""
