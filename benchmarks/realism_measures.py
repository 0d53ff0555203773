"""Measures of a field of nuclei and distances between sets of fields, for real and drawn ones alike."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pandas as pd
from scipy import ndimage, stats
from skimage.measure import regionprops

OBJECT_MEASURES = {
    "area": "nuclear area (px)",
    "eccentricity": "eccentricity",
    "solidity": "solidity",
    "mean": "mean intensity over background (counts)",
    "integrated": "integrated intensity over background (counts)",
    "dna": "integrated intensity / median of its field",
    "neighbour": "nearest neighbour (px)",
    "texture": "texture: CV inside the nucleus",
    "edge": "edge spread (px)",
}
FIELD_MEASURES = {
    "count": "nuclei per field",
    "background": "background level (counts)",
    "noise": "background noise (counts)",
}
TITLES = OBJECT_MEASURES | FIELD_MEASURES | {"spectrum": "power spectrum (dex)"}


def spectrum(image: np.ndarray, bins: int = 40) -> np.ndarray:
    """Radial mean of the log10 power of a windowed field, one value per band of spatial frequency up to 0.5 / px."""
    window = np.outer(np.hanning(image.shape[0]), np.hanning(image.shape[1]))
    power = np.abs(np.fft.rfft2((image - image.mean()) * window)) ** 2
    radius = np.hypot(np.fft.fftfreq(image.shape[0])[:, None], np.fft.rfftfreq(image.shape[1])[None, :])
    band = np.minimum((radius * 2 * bins).astype(int), bins)
    sums = np.bincount(band.ravel(), power.ravel(), minlength=bins + 1)
    return np.log10(sums[:bins] / np.bincount(band.ravel(), minlength=bins + 1)[:bins])


def measure(image: np.ndarray, labels: np.ndarray) -> dict[str, np.ndarray]:
    """Every measure of one field; nuclei cut by the border count, but are not measured."""
    counts = image.astype(float)
    far = ndimage.distance_transform_edt(labels == 0) > 15
    level = float(np.median(counts[far]))
    # Second differences cancel gradients; a white noise of sd s gives them sd s * sqrt(1.25).
    rough = ndimage.convolve(counts, np.array([[0, -0.25, 0], [-0.25, 1, -0.25], [0, -0.25, 0]]))
    slope = np.hypot(ndimage.sobel(counts, 0), ndimage.sobel(counts, 1)) / 8
    parts = regionprops(labels)
    rows = []
    centres = np.array([part.centroid for part in parts])
    for i, part in enumerate(parts):
        y0, x0, y1, x1 = part.bbox
        if min(y0, x0) == 0 or y1 == image.shape[0] or x1 == image.shape[1]:
            continue
        box = np.s_[max(0, y0 - 3) : y1 + 3, max(0, x0 - 3) : x1 + 3]
        inside = labels[box] == part.label
        depth = ndimage.distance_transform_edt(inside)
        values = counts[box] - level
        core = values[depth > 4]
        ring = ndimage.binary_dilation(inside, iterations=3) & (depth <= 3)
        height = np.median(values[depth >= min(4.0, depth.max())])
        large = part.area >= 200
        distance = np.sort(np.hypot(*(centres - centres[i]).T))
        rows.append(
            {
                "area": part.area,
                "eccentricity": part.eccentricity,
                "solidity": part.solidity,
                "mean": values[inside].mean(),
                "integrated": values[inside].sum(),
                "neighbour": distance[1] if len(distance) > 1 else np.nan,
                "texture": core.std() / core.mean() if large and core.size > 30 else np.nan,
                "edge": height / np.percentile(slope[box][ring], 75) if large else np.nan,
            }
        )
    table = pd.DataFrame(rows, columns=[name for name in OBJECT_MEASURES if name != "dna"], dtype=float)
    table["dna"] = table["integrated"] / table.loc[table["area"] >= 200, "integrated"].median()
    out = {name: table[name].dropna().to_numpy() for name in OBJECT_MEASURES}
    out |= {"count": np.array([len(parts)]), "background": np.array([level])}
    residue = rough[far]
    # Counts are whole numbers, so a median would jump: clip at four robust deviations, then take the plain one.
    residue = residue[np.abs(residue) < 4 * 1.4826 * np.median(np.abs(residue))]
    out["noise"] = np.array([residue.std() / np.sqrt(1.25)])
    out["spectrum"] = spectrum(counts)[None]
    return out


def pool(fields: list[dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """The measures of several fields put together."""
    return {name: np.concatenate([field[name] for field in fields]) for name in fields[0]}


def spectral_distance(a: np.ndarray, b: np.ndarray) -> float:
    """Root mean square difference of two sets' mean log10 spectra (dex)."""
    return float(np.sqrt(((a.mean(0) - b.mean(0)) ** 2).mean()))


def distances(a: dict[str, np.ndarray], b: dict[str, np.ndarray]) -> dict[tuple[str, str], float]:
    """Kolmogorov-Smirnov and Wasserstein distance of each measure between two sets, and that of their spectra."""
    kinds: dict[str, Callable[[np.ndarray, np.ndarray], float]] = {
        "KS": lambda x, y: float(stats.ks_2samp(x, y, method="asymp").statistic),
        "Wasserstein": lambda x, y: float(stats.wasserstein_distance(x, y)),
    }
    names = [*OBJECT_MEASURES, *FIELD_MEASURES]
    found = {(name, kind): f(a[name], b[name]) for name in names for kind, f in kinds.items()}
    return found | {("spectrum", "RMS"): spectral_distance(a["spectrum"], b["spectrum"])}
