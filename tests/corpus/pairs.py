"""Pairs of transmitted light and fluorescence, and settings of translators, that must not be trained on."""

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import tifffile

from .case import Case, train
from .files import noise

SIDE = 128
ALL = "data.filters=null"  # the fields are noise, which is background
COMMAND = ("experiment=labelfree/nuclei", "debug=tiny", "data=pairs", "metrics=translation", "model.out_channels=1")
COMMAND += ("data.targets=[dapi]",)


def good(folder: Path) -> pd.DataFrame:
    """Writes six pairs of 128 px into a folder and returns their table."""
    rows = []
    for number in range(6):
        well = f"A{number + 1:02d}"
        for name in ("dic", "dapi"):
            pixels = noise((SIDE, SIDE), seed=number + 10 * (name == "dic")) // 4
            tifffile.imwrite(folder / f"{well}_{name}.tif", pixels)
        rows.append({"plate": "p1", "well": well, "field": "1", "pixel_size": "0.65", "image_dic": f"{well}_dic.tif",
                     "image_dapi": f"{well}_dapi.tif"})  # fmt: skip
    return pd.DataFrame(rows)


def _pairs(*overrides: str, spoil: Callable[[Path, pd.DataFrame], pd.DataFrame] | None = None) -> Callable:
    """A builder of a command on pairs whose files or table `spoil` has changed."""

    def build(folder: Path) -> list[str]:
        table = good(folder)
        table = spoil(folder, table) if spoil else table
        table.to_csv(folder / "index.csv", index=False)
        return [*COMMAND, f"data.root={folder}", f"runs={folder}/runs", *overrides]

    return build


def _write(name: str, pixels: np.ndarray) -> Callable[[Path, pd.DataFrame], pd.DataFrame]:
    def spoil(folder: Path, table: pd.DataFrame) -> pd.DataFrame:
        tifffile.imwrite(folder / name, pixels)
        return table

    return spoil


def _put(column: str, row: int, value: str | None) -> Callable[[Path, pd.DataFrame], pd.DataFrame]:
    def spoil(folder: Path, table: pd.DataFrame) -> pd.DataFrame:
        table.loc[row, column] = value
        return table

    return spoil


def cases() -> Iterator[Case]:
    small, flat = noise((SIDE // 2, SIDE), seed=3), np.full((SIDE, SIDE), 300, np.uint16)
    spoiled = {
        "target of another size": (_write("A02_dapi.tif", small), ["A02_dapi.tif", "64x128"], "one size"),
        "constant target": (_write("A03_dapi.tif", flat), ["A03_dapi.tif"], "leave the field out"),
        "constant source": (_write("A03_dic.tif", flat), ["A03_dic.tif"], "leave the field out"),
        "missing target": (_put("image_dapi", 1, None), ["row 3", "image_dapi"], "fill|remove|name"),
        "target file gone": (_put("image_dapi", 1, "gone.tif"), ["row 3", "gone.tif"], "correct the path"),
        "one file as source and target": (
            _put("image_dapi", 1, "A02_dic.tif"), ["A02_dic.tif"], "name the file of each channel",
        ),
        "source with three channels": (
            _write("A02_dic.tif", noise((SIDE, SIDE, 3), np.uint8)), ["A02_dic.tif"], "one channel|single|grey",
        ),
        "target that is no image": (_put("image_dapi", 2, "index.csv"), ["index.csv"], "TIFF or PNG"),
    }  # fmt: skip
    for what, (spoil, names, mend) in spoiled.items():
        yield Case(f"pairs: {what}", train, _pairs(spoil=spoil), names, mend)
    settings = {
        "a name that is source and target": (["data.sources=[dic,dapi]", "data.targets=[dic]"], ["dic"], "twice"),
        "more sources than the model takes": (
            ["data.sources=[dic,phase]"], ["'phase'", "model.in_channels is 1"], "must agree",
        ),
        "fewer sources than the model takes": (["model.in_channels=13"], ["model.in_channels is 13"], "must agree"),
        "more targets than the model draws": (
            ["data.targets=[dapi,er]"], ["'er'", "model.out_channels is 1"], "must agree",
        ),
        "fewer targets than the model draws": (["model.out_channels=2"], ["model.out_channels is 2"], "must agree"),
        "a metric of a target that the model does not draw": (
            ["metrics=translation_control"], ["metrics.control.metric.channel is 1"], "~metrics.control.*=translation",
        ),
        "a stain that is not there": (["data.targets=[er]"], ["er", "dapi"], "there are|have|has"),
        "a Golgi to prepare among nuclei": (
            ["+data.prepare={golgi: {_target_: phenokeep.imaging.prepare.GolgiPrepared}}"],
            ["golgi", "dapi"], "name one",
        ),
        "training on a column that is not there": (
            ["data.train_only={line: [CHO]}"], ["line", "plate"], "train_only=null",
        ),
        "training on a plate that is not there": (["data.train_only={plate: [p9]}"], ["p9", "p1"], "train_only=null"),
        "a misspelt loss": (["model/loss=pearsn"], ["pearsn"], "did you mean|choose|pearson"),
        "a misspelt setting": (["+data.source_scalin=image"], ["source_scalin"], "did you mean 'source_scaling'"),
        "metrics of holes": (["metrics=restoration", ALL], ["mask"], "metrics=translation"),
        "a study of holes": (["study=restoration", "test=true", ALL], ["Restoration"], "study=translation"),
        "a rate without an end": (["trainer.max_epochs=-1", ALL], ["model.schedule=cosine"], "max_epochs"),
        "a range without a camera": (["data.full_scale=100"], ["data.full_scale"], "greatest"),
    }  # fmt: skip
    for what, (overrides, names, mend) in settings.items():
        yield Case(f"pairs: {what}", train, _pairs(*overrides), names, mend)
