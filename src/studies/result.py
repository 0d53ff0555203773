"""What a study hands back: tables, figures, pictures and the words that go with them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from pandas import DataFrame


class Picture(NamedTuple):
    """A picture to click through: `png` is a whole PNG file; its caption says what lies where in it."""

    title: str
    caption: str
    png: bytes


@dataclass
class StudyResult:
    """The outcome of one study; `captions` is keyed by table and figure names, `main` names the table to print first.

    `gallery` are pictures that the page shows small, and large when clicked; `files` are written beside it, by name.
    Raises KeyError if `main` is no table or a caption belongs to nothing, ValueError if a picture is no PNG.
    """

    title: str
    tables: dict[str, DataFrame]
    figures: dict[str, Figure]
    main: str
    notes: list[str] = field(default_factory=list)
    captions: dict[str, str] = field(default_factory=dict)
    verdict: str = ""
    gallery: list[Picture] = field(default_factory=list)
    files: dict[str, Callable[[Path], None]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.main not in self.tables:
            raise KeyError(f"main table {self.main!r} is not among the tables {sorted(self.tables)}: name one of them")
        stray = sorted(set(self.captions) - set(self.tables) - set(self.figures))
        if stray:
            raise KeyError(f"captions for {stray}, which are neither tables nor figures: remove or rename them")
        for picture in self.gallery:
            if not picture.png.startswith(b"\x89PNG"):
                raise ValueError(f"picture {picture.title!r} of the gallery is no PNG file: encode it as one")
