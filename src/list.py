"""What there is to choose from: python -m phenokeep.list."""

from collections.abc import Iterator
from pathlib import Path

import phenokeep.configs

# Config group -> what its choices are called.
GROUPS = {
    "experiment": "experiments",
    "data": "data sets",
    "data/masks": "masks",
    "data/zoom": "patches",
    "model": "models",
    "model/loss": "losses of translators",
    "metrics": "metrics",
    "study": "studies",
    "sweep": "sweeps",
}


def choices(group: str) -> dict[str, str]:
    """The choices of a config group, each with the first comment of its file."""
    folder = Path(phenokeep.configs.__path__[0]) / group
    return {
        str(path.relative_to(folder).with_suffix("")): next(_comments(path), "")
        for path in sorted(folder.rglob("*.yaml"))
        if not any(f"{group}/{part}" in GROUPS for part in path.relative_to(folder).parts)
    }


def _comments(path: Path) -> Iterator[str]:
    for line in path.read_text().splitlines():
        if line.startswith("# ") and not line.startswith("# @package"):
            yield line.removeprefix("# ")


def main() -> None:
    for group, title in GROUPS.items():
        print(f"{title} ({group}=...)")
        for name, comment in choices(group).items():
            print(f"  {name:34} {comment}")


if __name__ == "__main__":
    main()
