"""Files that must not be read as checkpoints."""

import io
import os
import pickle
import sys
import zipfile
from collections.abc import Callable, Iterator
from copy import deepcopy
from functools import cache
from pathlib import Path
from typing import Any

import torch
from hydra import compose, initialize_config_module
from hydra.utils import instantiate
from omegaconf import OmegaConf

from .case import CANARY, Case, checkpoint, config, evaluate

ANOTHER = "use another|another checkpoint|checkpoint written by phenokeep|correct|names a file"
TRUST = "group on the command line|none of ours|checkpoint written by phenokeep"
Saved = dict[str, Any]


@cache
def _good() -> Saved:
    with initialize_config_module("phenokeep.configs", version_base="1.3"):
        cfg = compose("train", ["debug=tiny", "model.widths=[4,4]", "name=x", "output_dir=x", "data=hcs_nuclei"])
    plain = OmegaConf.to_container(cfg, resolve=True)
    return {
        "state_dict": instantiate(cfg.model, _convert_="all").state_dict(),
        "config": plain,
        "scaling": {"kind": "plate", "ranges": {"p": {"nuclei": [100.0, 900.0]}}, "pixel_size": 0.65},
        "trained_on": ["p:A01"],
        "effort": {"samples": 2, "seconds": 1.0},
        "pytorch-lightning_version": "2.6.0",
    }


def good_checkpoint() -> Saved:
    """What a checkpoint of a tiny U-Net holds, to be spoilt."""
    return deepcopy(_good())


def _bytes(saved: Any) -> bytes:
    buffer, limit = io.BytesIO(), sys.getrecursionlimit()
    sys.setrecursionlimit(50_000)  # for the config of many levels
    try:
        torch.save(saved, buffer)
    finally:
        sys.setrecursionlimit(limit)
    return buffer.getvalue()


def _file(make: Callable[[], bytes]) -> Callable[[Path], Path]:
    def build(folder: Path) -> Path:
        (folder / "bad.ckpt").write_bytes(make())
        return folder / "bad.ckpt"

    return build


def _spoilt(spoil: Callable[[Saved], Any]) -> Callable[[Path], Path]:
    """A builder of a good checkpoint that `spoil` has changed in place."""

    def make() -> bytes:
        saved = good_checkpoint()
        spoil(saved)
        return _bytes(saved)

    return _file(make)


class Attack:
    """Makes a folder when it is unpickled."""

    def __init__(self, path: Path, call: Callable[..., Any] = os.mkdir) -> None:
        self.path, self.call = str(path), call

    def __reduce__(self) -> Any:
        return self.call, (self.path,)


def cases() -> Iterator[Case]:
    yield from _files()
    yield from _pickles()
    yield from _contents()
    yield from _configs()
    yield from _commands()


def _files() -> Iterator[Case]:
    def whole() -> bytes:
        return _bytes(good_checkpoint())

    contents: dict[str, Callable[[], bytes]] = {
        "empty": lambda: b"",
        "random bytes": lambda: os.urandom(20_000),
        "text": lambda: b"no checkpoint " * 100,
        "cut in half": lambda: whole()[: len(whole()) // 2],
        "cut by its last byte": lambda: whole()[:-1],
        "cut in its first record": lambda: whole()[:500],
        "a zip of something else": lambda: _zip({"readme.txt": b"hello"}),
        "with a flipped bit in its pickle": lambda: _flipped(whole()),
        "a bomb: 1.5 GB in its pickle": lambda: _zip({"a/data.pkl": bytes(1500 * 2**20), "a/version": b"3"}, True),
        "a bomb: 1.5 GB in a tensor": lambda: _with_bomb(whole()),
        "records that share their bytes": lambda: _overlapping(),
    }
    for what, make in contents.items():
        yield Case(f"checkpoint: {what}", checkpoint, _file(make), ["bad.ckpt"], ANOTHER)
    yield Case("checkpoint: missing", checkpoint, lambda folder: folder / "gone.ckpt", ["gone.ckpt"], "names a file")
    yield Case("checkpoint: a folder", checkpoint, lambda folder: folder, ["{folder}"], "names a file")

    def pipe(folder: Path) -> Path:
        os.mkfifo(folder / "bad.ckpt")
        return folder / "bad.ckpt"

    yield Case("checkpoint: a named pipe", checkpoint, pipe, ["bad.ckpt"], "names a file")


def _zip(records: dict[str, bytes], packed: bool = False) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED if packed else zipfile.ZIP_STORED) as archive:
        for name, content in records.items():
            archive.writestr(name, content)
    return buffer.getvalue()


def _flipped(content: bytes) -> bytes:
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        entry = next(entry for entry in archive.infolist() if entry.filename.endswith("data.pkl"))
    spoilt = bytearray(content)
    spoilt[entry.header_offset + 500] ^= 255
    return bytes(spoilt)


def _with_bomb(content: bytes) -> bytes:
    """The same records, a tensor's replaced by 1.5 GB of zeros, deflated."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(content)) as old, zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as new:
        for name in old.namelist():
            new.writestr(name, bytes(1500 * 2**20) if name.endswith("/data/0") else old.read(name))
    return buffer.getvalue()


def _overlapping() -> bytes:
    """A directory that names one record of 1 MB two thousand times."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("a/data/0", bytes(2**20))
        entry = archive.infolist()[0]
        for number in range(1, 2000):
            twin = deepcopy(entry)
            twin.filename = f"a/data/{number}"
            archive.filelist.append(twin)
    return buffer.getvalue()


def _pickles() -> Iterator[Case]:
    def attack(save: Callable[[Path, Path], None]) -> Callable[[Path], Path]:
        def build(folder: Path) -> Path:
            save(folder / "bad.ckpt", folder / CANARY)
            return folder / "bad.ckpt"

        return build

    ways: dict[str, Callable[[Path, Path], None]] = {
        "plain": lambda path, canary: path.write_bytes(pickle.dumps(Attack(canary))),
        "in torch's old format": lambda path, canary: torch.save(
            {**good_checkpoint(), "x": Attack(canary)}, path, _use_new_zipfile_serialization=False
        ),
        "beside good weights": lambda path, canary: torch.save({**good_checkpoint(), "x": Attack(canary)}, path),
        "through eval": lambda path, canary: torch.save(_Eval(canary), path),
        "through a class of our own": lambda path, canary: torch.save({**good_checkpoint(), "x": Path(canary)}, path),
    }
    for what, save in ways.items():
        yield Case(f"pickle bomb: {what}", checkpoint, attack(save), ["bad.ckpt"], ANOTHER)

    def module() -> bytes:
        return _bytes(torch.nn.Linear(2, 2))

    yield Case("checkpoint: a whole module", checkpoint, _file(module), ["bad.ckpt"], ANOTHER)


class _Eval:
    def __init__(self, canary: Path) -> None:
        self.code = f"__import__('os').mkdir({str(canary)!r})"

    def __reduce__(self) -> Any:
        return eval, (self.code,)


def _contents() -> Iterator[Case]:
    plain: dict[str, Callable[[], Any]] = {
        "a plain state dict": lambda: good_checkpoint()["state_dict"],
        "a list": lambda: [1, 2, 3],
        "a tensor": lambda: torch.zeros(3),
        "of another Lightning project": lambda: {"state_dict": {}, "epoch": 3, "hyper_parameters": {"lr": 0.1}},
    }
    for what, make in plain.items():
        yield Case(f"checkpoint: {what}", checkpoint, _file(lambda make=make: _bytes(make())), ["bad.ckpt"],
                   "written by phenokeep")  # fmt: skip
    for key in ("config", "scaling", "trained_on", "state_dict", "effort"):
        yield Case(
            f"checkpoint without {key}", checkpoint, _spoilt(lambda saved, key=key: saved.pop(key)),
            ["bad.ckpt", key.split("_")[0]], "written by phenokeep|use another",
        )  # fmt: skip
    wrong: dict[str, Any] = {
        "state_dict": [1], "scaling": "plate", "trained_on": 7, "effort": "much", "config": ["data"],
    }  # fmt: skip
    for key, value in wrong.items():
        door = config if key == "config" else checkpoint
        yield Case(
            f"checkpoint whose {key} is a {type(value).__name__}", door,
            _spoilt(lambda saved, key=key, value=value: saved.update({key: value})),
            ["bad.ckpt"], "written by phenokeep|use another|not a dict",
        )  # fmt: skip


def _deep(levels: int) -> dict[str, Any]:
    node: dict[str, Any] = {}
    for _ in range(levels):
        node = {"a": node}
    return node


def _configs() -> Iterator[Case]:
    def put(path: str, value: Any) -> Callable[[Path], Path]:
        def spoil(saved: Saved) -> None:
            *above, last = path.split(".")
            node = saved["config"]
            for key in above:
                node = node[key]
            node[last] = value

        return _spoilt(spoil)

    hostile: dict[str, tuple[str, Any, str]] = {
        "a foreign _target_": ("data.masks", {"_target_": "os.system", "command": "true"}, "os.system"),
        "torch.load as _target_": ("model", {"_target_": "torch.load", "f": "x", "weights_only": False}, "torch.load"),
        "a _target_ deep in a list": ("metrics", [[{"a": {"_target_": "builtins.exec"}}]], "builtins.exec"),
        "a _target_ that is no text": ("data._target_", ["os", "system"], "os"),
        "an interpolation of the environment": ("name", "${oc.env:HOME}", "${oc.env:HOME}"),
        "an interpolation as a key": ("data.${name}", 1, "interpolation"),
        "Hydra's own settings": ("hydra", {"run": {"dir": "/tmp/x"}}, "hydra"),
        "a defaults list": ("defaults", ["data: virtual"], "defaults"),
        "a tuple": ("data.fractions", (1, 2), "tuple"),
        "a tensor": ("data.fractions", torch.zeros(3), "Tensor"),
        "5000 levels": ("data.fractions", _deep(5000), "levels"),
        "_partial_": ("model._partial_", True, "_partial_"),
        "_args_": ("data.masks._args_", [1, 2], "_args_"),
    }
    for what, (path, value, name) in hostile.items():
        yield Case(f"checkpoint's config with {what}", config, put(path, value), ["bad.ckpt", name], TRUST)


def _commands() -> Iterator[Case]:
    """What only the command can find: the weights beside the model."""

    def judge(spoil: Callable[[Saved], Any], *overrides: str) -> Callable[[Path], list[str]]:
        def build(folder: Path) -> list[str]:
            from .settings import plate

            path = _spoilt(spoil)(folder)
            return [f"ckpt_path={path}", f"data.root={plate(folder / 'plate')}", "data.pixel_size=0.65", *overrides]

        return build

    def weights(change: Callable[[torch.Tensor], Any]) -> Callable[[Saved], Any]:
        def spoil(saved: Saved) -> None:
            state = saved["state_dict"]
            key = next(key for key in state if state[key].ndim == 4)
            state[key] = change(state[key])

        return spoil

    def without(saved: Saved) -> None:
        saved["state_dict"].popitem()

    cases: dict[str, tuple[Callable[[Saved], Any], str]] = {
        "another model's weights": (lambda saved: saved["config"]["model"].update(widths=[8, 8]), "another model"),
        "a weight too few": (without, "missing"),
        "a weight too many": (lambda saved: saved["state_dict"].update(x=torch.zeros(1)), "too many"),
        "integer weights": (weights(lambda tensor: tensor.to(torch.int32)), "int32|dtype|type"),
        "complex weights": (weights(lambda tensor: tensor.to(torch.complex64)), "complex64|dtype|type"),
        "a text for a weight": (weights(lambda tensor: "abc"), "str|tensor"),
        "NaN weights": (weights(lambda tensor: tensor * float("nan")), "NaN|finite"),
        "a weight of 10^12 shared numbers": (weights(lambda tensor: torch.zeros(1).expand(10**6, 10**6)), "shape"),
        "a data group that is text": (lambda saved: saved["config"].update(data="abc"), "data|config"),
        "a model that is no model": (
            lambda saved: saved["config"].update(model={"_target_": "phenokeep.imaging.tiles.Zoom", "channels": 1}),
            "model",
        ),
        "no model": (lambda saved: saved["config"].pop("model"), "model"),
        "another scaling": (lambda saved: saved["scaling"].update(kind="paper"), "data.scaling"),
        "a scaling that is text": (lambda saved: saved["scaling"].update(ranges="abc"), "scaling|range"),
        "a _target_ in the scaling": (
            lambda saved: saved["scaling"].update(pixel_size={"_target_": "os.getcwd"}), "pixel size is .*_target_",
        ),
        "a scaling from high to low": (
            lambda saved: saved["scaling"].update(ranges={"plate": {"nuclei": [900.0, 100.0]}}), "scaling|range",
        ),
        "a scaling of NaN": (
            lambda saved: saved["scaling"].update(ranges={"plate": {"nuclei": [float("nan")] * 2}}), "scaling|range",
        ),
    }  # fmt: skip
    for what, (spoil, mend) in cases.items():
        yield Case(f"eval.py: {what}", evaluate, judge(spoil), ["bad.ckpt"] if "weight" in what else [], mend)
    yield Case("eval.py: no checkpoint", evaluate, lambda folder: ["data.batch_size=2"], [], "ckpt_path=FILE")
    yield Case(
        "eval.py: a key below a number", evaluate, judge(lambda saved: None, "seed/x=3"), ["seed/x"], "did you mean"
    )
