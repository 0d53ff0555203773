"""What a study hands back: tables, figures and the words that go with them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from pandas import DataFrame


@dataclass
class StudyResult:
    """The outcome of one study; `captions` is keyed by table and figure names, `main` names the table to print first.

    Raises KeyError if `main` is no table, or if a caption belongs to nothing.
    """

    title: str
    tables: dict[str, DataFrame]
    figures: dict[str, Figure]
    main: str
    notes: list[str] = field(default_factory=list)
    captions: dict[str, str] = field(default_factory=dict)
    verdict: str = ""

    def __post_init__(self) -> None:
        if self.main not in self.tables:
            raise KeyError(f"main table {self.main!r} is not among the tables {sorted(self.tables)}: name one of them")
        stray = sorted(set(self.captions) - set(self.tables) - set(self.figures))
        if stray:
            raise KeyError(f"captions for {stray}, which are neither tables nor figures: remove or rename them")
