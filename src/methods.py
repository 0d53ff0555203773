"""The methods a study may judge beside each other: the model, fills, and checkpoints that fit the same data."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from hydra.utils import instantiate

from .checkpoint import CheckpointError, load_weights, read_checkpoint, trusted_config
from .datamodules.scaling import Scaling
from .imaging.pixelsize import differs
from .imaging.prepare import settings, written
from .models.fills import METHODS, Fill, OtherImage
from .studies.subject import Origin

log = logging.getLogger(__name__)
WITHOUT_WEIGHTS = {name: partial(Fill, name) for name in METHODS} | {OtherImage.name: OtherImage}
SAME_RANGE = 1e-6  # two ranges of a plate are the same up to this share of its width: stored as they were fitted


class Methods:
    """Modules by name: None is the model, a fill's name, or the path of a checkpoint, which is read without trust.

    A checkpoint judged on other channels, patches, pixels or ranges than it was trained with would be judged wrongly:
    it is refused with a CheckpointError that names the difference and the mend. `model`, `path` and `saved` (what its
    checkpoint holds) are those that the data were set up for. `across` names what checkpoints may differ in (zoom).
    """

    def __init__(
        self,
        model: Any,
        datamodule: Any,
        path: str | Path | None = None,
        saved: Mapping[str, Any] | None = None,
        across: Sequence[str] = (),
    ) -> None:
        self.model, self.datamodule, self.across = model, datamodule, across
        self._origins: dict[str | None, Origin] = {}
        if saved:
            self._origins[None] = self._origin(type(model).__name__, path, saved)
        else:
            self._origins[None] = Origin(type(model).__name__)

    def module(self, name: str | None) -> Any:
        """The LightningModule of a name, in evaluation mode; a checkpoint's is built anew each time."""
        if name is None:
            return self.model.eval()
        if name in WITHOUT_WEIGHTS:
            return WITHOUT_WEIGHTS[name]().eval()
        return self._load(name)[0].eval()

    def origin(self, name: str | None) -> Origin:
        """Where a method comes from; a checkpoint is read and held against the data the first time."""
        if name not in self._origins:
            assert name is not None
            self._origins[name] = Origin(name) if name in WITHOUT_WEIGHTS else self._load(name)[1]
        return self._origins[name]

    def _load(self, path: str) -> tuple[Any, Origin]:
        if not Path(path).suffix and not Path(path).exists():
            raise CheckpointError(
                f"{path!r} is no fill ({', '.join(WITHOUT_WEIGHTS)}) and no checkpoint: name one of both"
            )
        config, saved = trusted_config(path), read_checkpoint(path)
        for group in ("model", "data"):
            if not isinstance(config.get(group), dict):
                raise CheckpointError(f"{path} says nothing about its {group}; use a checkpoint written by phenokeep")
        check_fits(config["data"], saved["scaling"], self.datamodule, path, self.across)
        model = instantiate(config["model"], _convert_="all")
        if unfinished := getattr(model, "unfinished", None):
            raise CheckpointError(f"{path}: {unfinished}")
        load_weights(model, saved["state_dict"], path)
        return model, self._origin(type(model).__name__, path, saved)

    def _origin(self, network: str, path: str | Path | None, saved: Mapping[str, Any]) -> Origin:
        seen = set(saved["trained_on"]) & set(self.datamodule.groups("test"))
        if seen:
            log.warning(
                "leaky split: %d of the test wells were seen in training (%s ...)%s",
                *(len(seen), min(seen), f" by {path}" if path else ""),
            )
        seed = saved["config"].get("seed")
        effort = saved["effort"]
        return Origin(
            network,
            Path(path).resolve() if path else None,
            seed if isinstance(seed, int) else None,
            effort["samples"],
            effort["seconds"],
            bool(seen),
            frozenset(saved["trained_on"]),
            instantiate(saved["config"]["data"]["zoom"]),
        )


def check_fits(
    config: Mapping[str, Any],
    scaling: Mapping[str, Any],
    datamodule: Any,
    path: str | Path,
    across: Sequence[str] = (),
) -> None:
    """Refuse a checkpoint (its `data` config and scaling) that saw other images than `datamodule` gives.

    Compared: channels and their order (of pairs, sources and targets), the patch (crop and size), the kind of scaling,
    which sources are stretched, how targets were prepared, the pixel size (within 2 %), and the range of every test
    plate for which both have one. A plate that only one of them was trained on is warned of. Patches may differ where
    `across` holds "zoom".
    """
    zoom, own, here, data = instantiate(config["zoom"]), Scaling(**scaling), datamodule.scaling, datamodule.zoom
    for key in datamodule.NAMED:
        trained, given = list(config.get(key, ())), list(getattr(datamodule, key))
        if trained != given:
            _refuse(path, f"was trained on the {key} {trained}, the data give {given}", key)
    if (zoom.crop, zoom.size) != (data.crop, data.size) and "zoom" not in across:
        given = [f"{z.crop} px of the field as {z.size} px" for z in (zoom, data)]
        _refuse(path, f"was trained on patches of {given[0]}, the data give {given[1]}", "zoom")
    if own.kind != here.kind:
        _refuse(path, f"was trained with data.scaling={own.kind}, the data have {here.kind}", "scaling")
    if own.stretched != here.stretched:
        _refuse(path, f"saw {own.stretched} stretched image by image, the data {here.stretched}", "source_scaling")
    prepared = settings(instantiate(config.get("prepare") or {}, _convert_="all"))  # older states do not say it
    if prepared != (here.prepared or {}):
        _refuse(path, f"was trained with {written(prepared)}, the data have {written(here.prepared)}", "prepare")
    if own.pixel_size and here.pixel_size and differs(own.pixel_size, here.pixel_size):
        _refuse(
            path, f"was trained at {own.pixel_size:g} um per pixel, the data have {here.pixel_size:g}", "pixel_size"
        )
    index = datamodule.index
    for plate in sorted(set(index.loc[index["split"] == "test", "plate"].astype(str))):
        fixed = [name for name in datamodule.channels if here.kind == "plate" and not here.by_image(name)]
        for channel in fixed:
            theirs, ours = (known.ranges.get(plate, {}).get(channel) for known in (own, here))
            if theirs is None:
                log.warning("%s was not trained on plate %r: it is judged in the range that the data have", path, plate)
            elif ours is not None and not np.allclose(theirs, ours, rtol=0, atol=SAME_RANGE * (ours[1] - ours[0])):
                raise CheckpointError(
                    f"{path} scales plate {plate!r}, channel {channel!r}, from {theirs[0]:.6g} to {theirs[1]:.6g} "
                    f"counts, the data from {ours[0]:.6g} to {ours[1]:.6g}: its training wells were others. Train both "
                    "on one split (the same data, fractions and data.seed; seed alone may differ), or judge it in a "
                    "study of its own"
                )


def _refuse(path: str | Path, difference: str, key: str) -> None:
    raise CheckpointError(
        f"{path} {difference}: they cannot stand in one comparison. Train it with this data.{key}, judge with the "
        f"checkpoint's as ckpt_path, or leave it out"
    )
