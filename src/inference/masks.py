"""Which pixels of a field are to be restored."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from ..datamodules.layouts import TableError
from ..imaging.artefacts import artefact_mask
from ..imaging.io import SUFFIXES, ImageError, read_header, read_image, read_labels
from ..imaging.masks import dilate


class Masks:
    """The holes of a plate's fields, from one of three sources: nonzero = to be restored.

    `column` names the index column mask_<column>; `folder` holds a mask of the same name as each image (any of the
    known suffixes); `artefacts` names the channel that shows the artefacts, thresholded as the paper does
    (`artefact_mask` with `factor` and `floor`). With none of them given, the index's only mask column is taken.
    `dilation` (pixels) grows every mask. Raises TableError where nothing, more than one or an absent source is given.
    """

    def __init__(
        self,
        column: str | None = None,
        folder: str | None = None,
        artefacts: str | None = None,
        factor: float = 0.7,
        floor: float = 200.0,
        dilation: int = 0,
    ) -> None:
        given = [name for name in (column, folder, artefacts) if name]
        if len(given) > 1:
            raise TableError("mask.column, mask.folder and mask.artefacts exclude one another: give one of them")
        self.column, self.folder, self.artefacts = column, folder, artefacts
        self.factor, self.floor, self.dilation = factor, floor, dilation

    def bind(self, index: pd.DataFrame, channel: str) -> list[dict[str, Any]]:
        """Where each row's mask comes from, {"kind", "path"}; every file has its image's size.

        Raises TableError or ImageError before anything is restored.
        """
        sources = self._sources(index, channel)
        for source, image in zip(sources, index[f"image_{channel}"], strict=True):
            sizes = read_header(source["path"]).shape, read_header(image).shape
            if sizes[0] != sizes[1]:
                raise ImageError(
                    f"{source['path']}: mask is {sizes[0]} and its image {sizes[1]} (Y X); make them one size"
                )
        return sources

    def _sources(self, index: pd.DataFrame, channel: str) -> list[dict[str, Any]]:
        if self.artefacts:
            column, kind = f"image_{self.artefacts}", "artefact channel"
        elif self.folder:
            files = {path.stem: path for path in Path(self.folder).rglob("*") if path.suffix.lower() in SUFFIXES}
            images = index[f"image_{channel}"].map(lambda name: Path(name).stem)
            if lacking := [name for name in images if name not in files]:
                raise TableError(
                    f"mask.folder={self.folder} has no mask named {lacking[0]} ({len(lacking)} images lack theirs): "
                    "name each mask as its image; an empty mask leaves an image as it is"
                )
            return [{"kind": "mask file", "path": str(files[name])} for name in images]
        else:
            column, kind = f"mask_{self.column}" if self.column else self._only(index), "mask file"
        if column not in index:
            have = [name for name in index if name.startswith(("mask_", "image_"))]
            raise TableError(f"the index has no column {column}; it has: {', '.join(have)}")
        if (empty := index[column].isna()).any():
            raise TableError(f"column {column} is empty for {index.loc[empty, 'id'].iloc[0]} ({int(empty.sum())} rows)")
        return [{"kind": kind, "path": str(name)} for name in index[column]]

    @staticmethod
    def _only(index: pd.DataFrame) -> str:
        columns = [name for name in index if name.startswith("mask_")]
        if len(columns) != 1:
            raise TableError(
                f"which pixels are to be restored? The index has {len(columns)} mask columns "
                f"({', '.join(columns) or 'none'}): give mask.column=NAME, mask.folder=FOLDER of masks named as the "
                "images, or mask.artefacts=CHANNEL to make them from an artefact channel"
            )
        return columns[0]

    def read(self, source: dict[str, Any]) -> np.ndarray:
        """The mask of one field, uint8 Y X, 1 = to be restored."""
        if source["kind"] == "artefact channel":
            mask = artefact_mask(read_image(source["path"], allow_constant=True), self.factor, self.floor)
        else:
            mask = (read_labels(source["path"]) != 0).astype(np.uint8)
        return dilate(mask, self.dilation)
