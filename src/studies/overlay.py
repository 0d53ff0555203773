"""Several organelles in one picture, each in a colour that can be told apart with any colour vision."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

# Okabe and Ito's set without black; light is added, so that organelles that lie over each other mix towards white.
COLOURS = {
    "blue": (0.0, 0.45, 0.7),
    "orange": (0.9, 0.6, 0.0),
    "green": (0.0, 0.62, 0.45),
    "purple": (0.8, 0.47, 0.65),
    "vermilion": (0.84, 0.37, 0.0),
    "sky blue": (0.34, 0.71, 0.91),
    "yellow": (0.94, 0.89, 0.26),
}
KNOWN = {
    "nuclei": "blue",
    "dapi": "blue",
    "hoechst": "blue",
    "er": "orange",
    "golgi": "purple",
    "gfp": "green",
    "cytosol": "green",
}
SPELLED = {"er": "ER", "golgi": "Golgi", "gfp": "GFP"}
CONTROL = "control"  # the drawn organelle that transmitted light does not show: a guess, and no part of a picture


def together(targets: Sequence[str]) -> list[str]:
    """The targets that one picture shows, at most one per colour; none where fewer than two could be shown."""
    shown = [name for name in targets if name != CONTROL][: len(COLOURS)]
    return shown if len(shown) > 1 else []


def colours(names: Sequence[str]) -> dict[str, str]:
    """A name of `COLOURS` for each of at most 7 organelles: its own where it is known, else the first that is free.

    Of two organelles with one colour of their own the first keeps it. Raises ValueError for more organelles.
    """
    if len(names) > len(COLOURS):
        raise ValueError(f"{len(names)} organelles in one picture: {len(COLOURS)} colours can be told apart")
    found: dict[str, str] = {}
    for name in names:
        if (own := KNOWN.get(name.lower())) and own not in found.values():
            found[name] = own
    for name in names:
        if name not in found:
            found[name] = next(colour for colour in COLOURS if colour not in found.values())
    return {name: found[name] for name in names}


def overlay(channels: Mapping[str, np.ndarray], ranges: Mapping[str, tuple[float, float]]) -> np.ndarray:
    """Add several organelles (name -> Y X) into one picture Y X 3 in [0, 1], each in its colour (see `colours`).

    ranges: the values that are drawn black and in full colour; use one for prediction and truth, so that they compare.
    """
    picture = np.zeros((*next(iter(channels.values())).shape, 3))
    for name, colour in colours(list(channels)).items():
        low, high = ranges[name]
        light = np.clip((np.asarray(channels[name], dtype=float) - low) / max(high - low, 1e-12), 0, 1)
        picture += light[..., None] * np.array(COLOURS[colour])
    return picture.clip(0, 1)
