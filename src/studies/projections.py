"""Embeddings in two dimensions: PCA, UMAP and PaCMAP fitted on some points, applied to others."""

from __future__ import annotations

import logging
import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from importlib.util import find_spec
from typing import Any, NamedTuple

import numpy as np
import torch

REDUCERS = {"pca": "PCA", "umap": "UMAP", "pacmap": "PaCMAP"}  # t-SNE has no map for points that come later
LEAST = 10  # training points, below which a density is made up
NEIGHBOURS = 5  # that vote on a phenotype or average a brightness


class Projection(NamedTuple):
    """A map fitted on training points alone: these in it (N 2), and each later set under its name (M 2)."""

    name: str
    train: np.ndarray
    new: dict[str, np.ndarray]


def check_reducers(names: Sequence[str]) -> None:
    """Refuse reducers that are unknown, or whose package is not installed; imports nothing. Raises ValueError."""
    for name in names:
        if name not in REDUCERS:
            raise ValueError(
                f"study.reducers names {name!r}: choose from {', '.join(REDUCERS)} (t-SNE cannot show new points)"
            )
        if name != "pca" and find_spec(name) is None:
            raise ValueError(
                f"study.reducers names {name}, which is not installed: pip install 'phenokeep[embeddings]', or leave "
                "it out with study.reducers=[pca]"
            )
    if not names or len(set(names)) < len(names):
        raise ValueError(f"study.reducers is {list(names)}: name each of {', '.join(REDUCERS)} at most once, and one")


def projections(
    train: np.ndarray,
    new: Mapping[str, np.ndarray],
    reducers: Sequence[str],
    components: Sequence[int],
    options: Mapping[str, Mapping[str, Any]],
    seed: int = 0,
) -> tuple[list[Projection], list[str]]:
    """Each reducer fitted on `train` (N D) and applied to each set of `new` (M D); UMAP, PaCMAP on PCA's scores too.

    `components` are the numbers of those scores, as many as N allows (at most N - 1). `options` are settings of umap
    and pacmap; PaCMAP itself takes more than 100 dimensions down to 100 first. Training points stand where the fit put
    them: PaCMAP would move them if they were mapped as new points. Also returned is what was left out or cut, and why.
    Fewer than 10 training points give no projection. Raises ValueError where they are all the same.
    """
    from sklearn.decomposition import PCA

    if len(train) < LEAST:
        return [], [f"all projections: {len(train)} training points have no clusters; {LEAST} are needed"]
    if np.ptp(train, axis=0).max() == 0:
        raise ValueError("all training embeddings are the same: the network tells no images apart; train it longer")
    most = min(len(train) - 1, train.shape[1])
    sizes = list(dict.fromkeys(min(size, most) for size in sorted(components)))
    cut = [
        f"PCA of {size} components: only {most} are to be had from {len(train)} training points"
        for size in components
        if size > most
    ]
    pca = PCA(max([2, *sizes]), random_state=seed).fit(train)
    scores, later = pca.transform(train), {name: pca.transform(points) for name, points in new.items()}
    found = []
    for name in reducers:
        if name == "pca":
            found.append(Projection("PCA", scores[:, :2], {key: points[:, :2] for key, points in later.items()}))
            continue
        least = _least(name, options[name])
        if len(train) < least:
            cut.append(f"{REDUCERS[name]}: it needs {least} training points, and there are {len(train)}")
            continue
        fit = _umap if name == "umap" else _pacmap
        found.append(_fitted(fit, REDUCERS[name], train, new, options[name], seed))
        for size in sizes:
            first = {key: points[:, :size] for key, points in later.items()}
            label = f"PCA {size}, {REDUCERS[name]}"
            found.append(_fitted(fit, label, scores[:, :size], first, options[name], seed))
    return found, cut


def planned(points: int, reducers: Sequence[str], components: Sequence[int], options: Mapping[str, Any]) -> int:
    """How many maps `projections` gives for so many training points, at most: fewer where embeddings are short."""
    if points < LEAST:
        return 0
    sizes = {min(size, points - 1) for size in components}
    fitted = [name for name in reducers if name != "pca" and points >= _least(name, options[name])]
    return ("pca" in reducers) + len(fitted) * (1 + len(sizes))


def _least(name: str, options: Mapping[str, Any]) -> int:
    """How many points a reducer needs to find its neighbours, near pairs and far pairs among others."""
    ratios = 1 + options.get("MN_ratio", 0.5) + options.get("FP_ratio", 2.0) if name == "pacmap" else 1
    return math.ceil(ratios * options["n_neighbors"]) + 1


Map = Callable[[np.ndarray], np.ndarray]


def _fitted(
    fit: Callable[..., tuple[np.ndarray, Map]],
    name: str,
    train: np.ndarray,
    new: Mapping[str, np.ndarray],
    options: Mapping[str, Any],
    seed: int,
) -> Projection:
    threads = torch.get_num_threads()  # PaCMAP with a seed leaves the whole process with one
    try:
        placed, apply = fit(np.ascontiguousarray(train, np.float32), options, seed)
        return Projection(name, placed, {key: apply(np.asarray(points, np.float32)) for key, points in new.items()})
    finally:
        torch.set_num_threads(threads)


def _umap(train: np.ndarray, options: Mapping[str, Any], seed: int) -> tuple[np.ndarray, Map]:
    import umap

    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module="umap|sklearn")  # of its threads and scikit-learn's new names
        reducer = umap.UMAP(n_components=2, random_state=seed, transform_seed=seed, n_jobs=1, **options).fit(train)
    return reducer.embedding_, reducer.transform


def _pacmap(train: np.ndarray, options: Mapping[str, Any], seed: int) -> tuple[np.ndarray, Map]:
    for chatty in ("faiss", "pacmap"):  # how it was loaded; that a seed was set
        logging.getLogger(chatty).setLevel(logging.ERROR)
    import pacmap

    reducer = pacmap.PaCMAP(n_components=2, random_state=seed, **options)
    return reducer.fit_transform(train), lambda points: reducer.transform(points, basis=train)


class Calls(NamedTuple):
    """Which corrupted and which clean points (M bool each) are called corrupted, the radius, how many clusters."""

    called: tuple[np.ndarray, np.ndarray]
    radius: float
    clusters: int


def calls(train: np.ndarray, corrupted: np.ndarray, clean: np.ndarray, min_samples: int = 4) -> Calls:
    """Call test points of a projection corrupted by DBSCAN, which knows of no point but training's what it is.

    The radius is the knee of the training points' distances to their (min_samples - 1)th neighbour (`knee`); 4 samples
    are the usual number in two dimensions (Schubert et al. 2017). Inside the training density is what lies within the
    radius of a core point of DBSCAN on training points alone. DBSCAN on all points together then gives clusters: one
    is called corrupted where most of its points, training included, lie outside; so is each point of no cluster.
    """
    from sklearn.cluster import DBSCAN
    from sklearn.neighbors import NearestNeighbors

    # In float64, so that a point whose neighbour is at the radius is within it for both searches.
    train, corrupted, clean = (points.astype(float) for points in (train, corrupted, clean))
    radius = knee(train, min_samples - 1) * (1 + 1e-9)
    points = np.vstack([train, corrupted, clean])
    alone = DBSCAN(eps=radius, min_samples=min_samples).fit(train)
    core = NearestNeighbors(n_neighbors=1).fit(train[alone.core_sample_indices_])
    inside = core.kneighbors(points)[0][:, 0] <= radius
    labels = DBSCAN(eps=radius, min_samples=min_samples).fit_predict(points)
    away = labels < 0
    for label in range(labels.max() + 1):
        away[labels == label] = inside[labels == label].mean() < 0.5
    _, hit, false = np.split(away, [len(train), len(train) + len(corrupted)])
    return Calls((hit, false), radius, int(labels.max()) + 1)


def knee(points: np.ndarray, neighbour: int) -> float:
    """The distance to the `neighbour`th other point at which the sorted distances bend most.

    It is where the curve, from 0 to 1 in both directions, lies furthest below its chord. Raises ValueError where so
    many points coincide that it is 0.
    """
    from sklearn.neighbors import NearestNeighbors

    distances = np.sort(NearestNeighbors(n_neighbors=neighbour).fit(points).kneighbors()[0][:, -1])
    span = max(float(np.ptp(distances)), np.finfo(float).tiny)
    below = np.linspace(0, 1, len(distances)) - (distances - distances[0]) / span
    radius = float(distances[int(below.argmax())])
    if radius <= 0:
        raise ValueError("most training points of a projection coincide: DBSCAN finds no radius")
    return radius


class Votes(NamedTuple):
    """Balanced accuracy of labels told by neighbours, the 95th percentile of its permutation null, and p."""

    accuracy: float
    null: float
    p: float


def permutations_for(tests: int, alpha: float) -> int:
    """So many that p can be below `alpha`, and half of it, after Holm's correction of `tests` tests; at least 500."""
    return max(500, 2 * math.ceil(tests / alpha))


def told_by_neighbours(
    train: np.ndarray, train_labels: np.ndarray, wells: np.ndarray, test: np.ndarray, labels: np.ndarray,
    permutations: int, seed: int = 0,
) -> Votes:  # fmt: skip
    """Whether the nearest training points (N 2) tell the label of test points (M 2) of other wells.

    The accuracy is the mean over labels of the share found. The null permutes labels over training wells, each of which
    has one label, since crops of a well are alike whatever their label.
    """
    from sklearn.neighbors import NearestNeighbors

    names = np.unique(np.concatenate([train_labels, labels]))
    truth = np.searchsorted(names, labels)
    _, first, well = np.unique(wells, return_index=True, return_inverse=True)
    of_wells = np.searchsorted(names, train_labels[first])
    near = well[NearestNeighbors(n_neighbors=min(NEIGHBOURS, len(train))).fit(train).kneighbors(test)[1]]

    def accuracy(given: np.ndarray) -> float:
        votes = (given[near][..., None] == np.arange(len(names))).sum(axis=1).argmax(axis=1)
        return float(np.mean([(votes[truth == label] == label).mean() for label in np.unique(truth)]))

    rng, found = np.random.default_rng(seed), accuracy(of_wells)
    null = np.array([accuracy(rng.permutation(of_wells)) for _ in range(permutations)])
    return Votes(found, float(np.quantile(null, 0.95)), (1 + int((null >= found).sum())) / (1 + permutations))


def explained(train: np.ndarray, values: np.ndarray, test: np.ndarray, true: np.ndarray) -> float:
    """R2 of a number of test points (M 2) told as the mean of that of the nearest training points (N 2)."""
    from sklearn.neighbors import KNeighborsRegressor

    return float(KNeighborsRegressor(min(NEIGHBOURS, len(train))).fit(train, values).score(test, true))
