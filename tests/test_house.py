"""The arrows between the rooms, and the packages that ship."""

import ast
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
ALLOWED = {
    "imaging": set(),
    "metrics": {"imaging"},
    "datamodules": {"imaging"},
    "models": {"imaging"},
    "callbacks": {"imaging", "metrics", "datamodules", "models"},
    "studies": {"imaging", "metrics", "datamodules", "models", "callbacks"},
    "inference": {"imaging", "metrics", "datamodules", "models", "checkpoint"},
}


def _imported_rooms(path: Path) -> set[str]:
    """The rooms of src that a file imports, by relative imports or by the public name."""
    package = path.relative_to(ROOT / "src").parts[:-1]
    rooms = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom):
            base = (*package[: len(package) - node.level + 1],) if node.level else ()
            names = [".".join(filter(None, (*base, node.module, alias.name))) for alias in node.names]
            rooms |= {name.removeprefix("phenokeep.").split(".")[0] for name in names
                      if node.level or name.startswith("phenokeep.")}  # fmt: skip
        elif isinstance(node, ast.Import):
            rooms |= {a.name.split(".")[1] for a in node.names if a.name.startswith("phenokeep.")}
    return {room for room in rooms if not room.startswith("_")}


@pytest.mark.parametrize("room", ALLOWED)
def test_arrows(room):
    for path in (ROOT / "src" / room).rglob("*.py"):
        extra = _imported_rooms(path) - ALLOWED[room] - {room}
        assert not extra, f"{path.relative_to(ROOT)} imports {extra}"


def test_nets_are_pure_torch():
    for path in (ROOT / "src/models/nets").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                assert {alias.name.split(".")[0] for alias in node.names} <= {"torch", "math"}, path
            elif isinstance(node, ast.ImportFrom) and node.level < 2:
                assert node.level == 1 or (node.module or "").split(".")[0] in ("torch", "collections"), path
            elif isinstance(node, ast.ImportFrom):
                raise AssertionError(f"{path} imports from outside nets")


def test_packages_are_all_listed():
    listed = set(tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"])
    found = {
        ".".join(("phenokeep", *init.relative_to(ROOT / "src").parts[:-1]))
        for init in (ROOT / "src").rglob("__init__.py")
    }
    assert listed == found | {"phenokeep.configs"}


def test_torch_stays_out_of_imaging():
    for path in (ROOT / "src" / "imaging").rglob("*.py"):
        assert "import torch" not in path.read_text(), path
