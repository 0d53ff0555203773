"""Cuts single large fields into tiles with a split by region, for data that have no second well; a command line.

python -m phenokeep.datamodules.regions TABLE OUT --grid 2x4 --gap 32
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from ..imaging.io import ImageError, read_image, read_labels, write_image
from .checks import file_columns
from .layouts import TableError
from .splits import shares
from .tables import read_index, write_index

FRACTIONS = {"train": 0.5, "val": 0.25, "test": 0.25}


def cut_regions(index: pd.DataFrame, out: Path, grid: tuple[int, int], gap: int) -> pd.DataFrame:
    """Write every field of `index` as grid[0] x grid[1] tiles of one size under `out`, with their index; return that.

    Whole columns of tiles are train (left half), val and test (a quarter each); neighbours lie `gap` pixels apart, so
    that none shows its neighbour's cells. The split stays leaky, for tiles of one well are not independent. Raises
    TableError for a field that leaves no 16 pixels a side, or for fewer than three columns.
    """
    if grid[1] < 3:
        raise TableError(f"{grid[1]} columns of tiles cannot be train, val and test: give --grid at least 3 across")
    counts = shares(grid[1], FRACTIONS, "column")
    sides = [split for split, count in counts.items() for _ in range(count)]
    rows: list[dict[str, object]] = []
    for _, field in index.iterrows():
        files = {column: field[column] for column in file_columns(index) if pd.notna(field[column])}
        images = {
            name: (read_image if name.startswith("image_") else read_labels)(path) for name, path in files.items()
        }
        shape = np.array(next(iter(images.values())).shape)
        step = shape // grid
        size = step - gap
        if gap < 0 or size.min() < 16:
            raise TableError(
                f"{field['id']}: {grid[0]}x{grid[1]} tiles {gap} pixels apart leave {size[0]}x{size[1]} of "
                f"{shape[0]}x{shape[1]}; give fewer tiles or a smaller --gap"
            )
        for r, c in np.ndindex(grid):
            top, left = np.array([r, c]) * step + gap // 2
            name = f"{field['field']}r{r}c{c}"
            row = field.drop(labels=["id", "parent", *files]).to_dict() | {"field": name, "split": sides[c]}
            for column, image in images.items():
                row[column] = str(out / f"{field['id']}_r{r}c{c}_{column}.tif")
                write_image(row[column], image[top : top + size[0], left : left + size[1]])
            rows.append(row)
    tiles = pd.DataFrame(rows)
    write_index(tiles, out / "index.csv")
    return tiles


def main(argv: Sequence[str] | None = None) -> int:
    """Cut the fields of a table; returns the exit code (2: error)."""
    parser = argparse.ArgumentParser(
        prog="python -m phenokeep.datamodules.regions",
        description="Cut single large fields into tiles with a split by region.",
    )
    parser.add_argument("table", metavar="TABLE", help="index table of the fields, or their folder")
    parser.add_argument("out", metavar="OUT", type=Path, help="folder for the tiles and their index.csv")
    parser.add_argument(
        "--grid", default="2x4", help="tiles down and across (2x4); small ones may look as if they overlapped"
    )
    parser.add_argument("--gap", type=int, default=32, help="pixels between neighbouring tiles")
    parser.add_argument("--pixel-size", type=float, metavar="UM", help="micrometres per pixel")
    options = parser.parse_args(argv)
    try:
        if (options.out / "index.csv").exists():
            raise TableError(f"{options.out}/index.csv: exists; remove it or give another OUT")
        numbers = options.grid.split("x")
        if len(numbers) != 2 or not all(number.isdigit() and int(number) > 0 for number in numbers):
            raise TableError(f"--grid {options.grid}: write it like 2x4")
        index = read_index(options.table, options.pixel_size)
        tiles = cut_regions(index, options.out.resolve(), (int(numbers[0]), int(numbers[1])), options.gap)
    except (TableError, ImageError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(f"wrote {len(tiles)} tiles ({tiles['split'].value_counts().to_dict()}) and {options.out / 'index.csv'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
