"""Files of published weights: read wherever they were saved, without running or trusting what is in them."""

import os
import zipfile

import numpy as np
import pytest
import torch
from test_published import _same, _small
from torch import nn

from phenokeep.checkpoint import CheckpointError, read_checkpoint
from phenokeep.models import published
from phenokeep.models.published import WeightsError, export, load


@pytest.mark.parametrize("new", [True, False])
def test_files_of_both_kinds_that_torch_writes_are_read(new, tmp_path):
    name, path = "context_encoder/boyuan_discriminator", tmp_path / "netlocalD.pth"
    torch.save({"epoch": 7, "state_dict": _small(name)}, path, _use_new_zipfile_serialization=new)
    _same(export(load(name, path)), _small(name))
    _same(export(load(name, str(path))), _small(name))
    with pytest.raises(CheckpointError, match=r"netlocalD.pth .*model.init_from=FILE"):  # eval.py and predict.py
        read_checkpoint(path)


@pytest.mark.parametrize("new", [True, False])
def test_files_saved_on_a_gpu_are_read_without_one(new, tmp_path, monkeypatch):
    monkeypatch.setattr(torch.serialization, "location_tag", lambda storage: "cuda:1")
    torch.save(
        {"D": _small("context_encoder/erik_discriminator")}, tmp_path / "D.pth", _use_new_zipfile_serialization=new
    )
    monkeypatch.undo()
    net = load("context_encoder/erik_discriminator", tmp_path / "D.pth")
    _same(export(net), _small("context_encoder/erik_discriminator"))


class _Runs:
    def __init__(self, call):
        self.call = call

    def __reduce__(self):
        return (self.call, ("exit 1",))


def test_only_tensors_are_taken_from_files(tmp_path):
    name = "edge_connect/edge_discriminator"
    state, path = _small(name), tmp_path / "weights.pth"
    forbidden = ((_Runs(exec), "exec"), (_Runs(os.system), r"posix\.system"))
    for extra, runs in (*forbidden, (np.float64(3), r"numpy\S*scalar"), (nn.Linear(1, 1), r"torch\S*Linear")):
        torch.save({"discriminator": state, "extra": extra}, path)
        with pytest.raises(WeightsError, match=rf"weights.pth is refused: it holds {runs}, .*could run code\. Use"):
            load(name, path)
    for saved, message in (
        ({"discriminator": {**state, "conv1.0.weight_u": [1.0]}}, "conv1.0.weight_u is of type list, no tensor"),
        ({"discriminator": {**state, "conv2.0.weight_u": state["conv2.0.weight_u"] / 0}}, "NaN or infinite"),
        ({"discriminator": {**state, "conv2.0.weight_u": state["conv2.0.weight_u"].long()}}, "torch.int64"),
        ([state], "holds no weights by name but a list"),
        ({"discriminator": {**state, "conv2.0.weight_u": torch.zeros(128).to_sparse()}}, "sparse.*no tensor of plain"),
        ({"discriminator": {**state, "conv2.0.weight_u": torch.zeros(128, device="meta")}}, "meta.*no tensor of plain"),
    ):
        torch.save(saved, path)
        with pytest.raises(WeightsError, match=rf"weights.pth.*{message}"):
            load(name, path)
    with pytest.raises(WeightsError, match=r"no file of weights at .*absent.pth, which is not there"):
        load(name, tmp_path / "absent.pth")
    with pytest.raises(WeightsError, match=r"which is a folder: name a file"):
        load(name, tmp_path)


def test_damaged_files_are_refused(tmp_path):
    name, path = "context_encoder/erik_discriminator", tmp_path / "weights.pth"
    torch.save(_small(name), path)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(WeightsError, match=r"weights.pth"):
        load(name, path)
    middle = len(whole) // 2
    path.write_bytes(whole[:middle] + bytes(byte ^ 255 for byte in whole[middle : middle + 8]) + whole[middle + 8 :])
    with pytest.raises(WeightsError, match=r"damaged|no readable file"):
        load(name, path)
    torch.save(_small(name), path, _use_new_zipfile_serialization=False)
    old = path.read_bytes()
    for content in (b"", b"<html>404</html>", b"a,b\n1,2\n", b'{"a": 1}', b"X\x05", old[:3000], old[: len(old) // 2]):
        path.write_bytes(content)  # torch raises EOFError, IndexError, KeyError, struct.error ... of these
        with pytest.raises(WeightsError, match=r"weights.pth is no readable file of weights \((?!Weights only)"):
            load(name, path)


def test_archives_that_grow_or_have_unreadable_names_are_refused(tmp_path):
    path = tmp_path / "weights.pth"
    for name, size in (("large", 10**6), ("\u00e9", 9)):
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as records:
            records.writestr(name, bytes(size))
        path.write_bytes(path.read_bytes().replace("\u00e9".encode(), b"\xff\xff"))
        with pytest.raises(WeightsError, match=r"is damaged \((it would unpack|.*utf-8)"):
            published.read(path)
        with pytest.raises(CheckpointError, match=r"would unpack|is damaged"):
            read_checkpoint(path)
    path.write_bytes(b"PK\x06\x07" + bytes(12) + b"\5\0\0\0PK\x05\x06" + bytes(18))
    with pytest.raises(WeightsError, match=r"is damaged \(.*multiple disks"):
        published.read(path)
