"""What a run does when the disk, its numbers or a checkpoint fail it: it stops with the reason, and loses nothing."""

import errno
import logging
import os
import re
import resource
import shutil
import struct
import zipfile
from contextlib import contextmanager
from types import SimpleNamespace

import pytest
import pytorch_lightning as pl
import torch

from phenokeep import run
from phenokeep.callbacks import AtomicCheckpoints, CollapsedOutput, FiniteLoss, NotFinite, Room, check_writable
from phenokeep.checkpoint import CheckpointError, read_checkpoint
from phenokeep.run import train

# One epoch of five batches, saved at every step but the last and at the end.
LENGTH = (
    "trainer.limit_train_batches=5", "model.widths=[4,4,4,4,4]",
    "callbacks.last={_target_: phenokeep.callbacks.Last, folder: '${output_dir}', every_n_steps: 1}",
)  # fmt: skip
ENCODER = ("experiment=phirm/context_encoder", "model.bottleneck=8", LENGTH[0], LENGTH[2])


class Spoil(pl.Callback):
    """Makes the target NaN before one batch; remembers its ids and the weights before every batch."""

    def __init__(self, step, value=float("nan")):
        self.step, self.value, self.ids, self.weights = step, value, [], {}

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        self.weights = {name: value.clone() for name, value in pl_module.state_dict().items()}
        if trainer.global_step == self.step:
            batch["target"][0, 0, 3, 3] = self.value
            self.ids, self.module = list(batch["id"]), pl_module


@pytest.fixture
def spoil(monkeypatch):
    """Has `phenokeep.run` add a callback of the test's to its own."""

    def add(callback):
        own = run._callbacks
        monkeypatch.setattr(run, "_callbacks", lambda cfg: [callback, *own(cfg)])
        return callback

    return add


@pytest.fixture(scope="module")
def finished(tmp_path_factory, request):
    """The folder of a run of five steps; not to be written into."""
    from conftest import SMALL
    from hydra import compose, initialize_config_module

    folder = tmp_path_factory.mktemp("finished")
    options = [*SMALL, *LENGTH, f"runs={request.getfixturevalue('runs')}", f"output_dir={folder}"]
    with initialize_config_module("phenokeep.configs", version_base="1.3"):
        train(compose("train", options))
    return folder


def _flip(path, record="data/0"):
    """Flips one bit in the middle of a record of a zip file."""
    content = bytearray(path.read_bytes())
    with zipfile.ZipFile(path) as archive:
        info = next(info for info in archive.infolist() if info.filename.endswith(record))
    name, extra = struct.unpack_from("<HH", content, info.header_offset + 26)
    content[info.header_offset + 30 + name + extra + info.file_size // 2] ^= 1
    path.write_bytes(content)


@contextmanager
def largest_file(size):
    """As a full disk, but for the error's number: no file of this process can grow beyond `size` bytes."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


# --- checkpoints -----------------------------------------------------------------------------------------------------


def test_every_damage_is_found(finished, tmp_path):
    """A flipped bit in any record, which torch.load takes as it is, and a file cut anywhere."""
    good = finished / "last.ckpt"
    with zipfile.ZipFile(good) as archive:
        records = [info.filename for info in archive.infolist() if info.file_size]
    weights = next(name for name in records if name.endswith("data/0"))
    path = tmp_path / "flipped.ckpt"
    for record in [weights, *records[::7]]:
        shutil.copy(good, path)
        _flip(path, record)
        with pytest.raises(CheckpointError, match="damaged"):
            read_checkpoint(path)
        if record == weights:
            torch.load(path, weights_only=True)  # says nothing, which is why we look
    for share in (0, 0.3, 0.9, 0.999):
        path.write_bytes(good.read_bytes()[: int(good.stat().st_size * share)])
        with pytest.raises(CheckpointError, match="damaged"):
            read_checkpoint(path)


def test_checkpoint_that_would_unpack_to_more_than_it_is_is_refused(tmp_path):
    with zipfile.ZipFile(tmp_path / "bomb.ckpt", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("bomb/data.pkl", bytes(10_000_000))
    with pytest.raises(CheckpointError, match="unpack"):
        read_checkpoint(tmp_path / "bomb.ckpt")


@pytest.mark.parametrize("damage", ["flipped", "missing"])
def test_training_goes_on_from_the_previous_checkpoint(damage, finished, config, tmp_path, caplog):
    """And ends bitwise where the unbroken run ended, without the damaged file in the good one's place."""
    folder = tmp_path / "run"
    shutil.copytree(finished, folder)
    assert read_checkpoint(folder / "previous.ckpt")["global_step"] == 4
    if damage == "flipped":
        _flip(folder / "last.ckpt")
    else:
        (folder / "last.ckpt").unlink()
    with caplog.at_level(logging.WARNING):
        train(config(*LENGTH, "ckpt_path=last"))
    assert "previous.ckpt, step 4" in caplog.text
    assert ("checksum" if damage == "flipped" else "does not exist") in caplog.text
    expected, got = read_checkpoint(finished / "last.ckpt"), read_checkpoint(folder / "last.ckpt")
    assert all(torch.equal(value, got["state_dict"][name]) for name, value in expected["state_dict"].items())
    assert read_checkpoint(folder / "previous.ckpt")["global_step"] == 4


def test_two_damaged_checkpoints_are_an_error(finished, config, tmp_path):
    shutil.copytree(finished, tmp_path / "run")
    for name in ("last.ckpt", "previous.ckpt"):
        _flip(tmp_path / "run" / name)
    with pytest.raises(CheckpointError, match=r"last\.ckpt is damaged .*previous\.ckpt is damaged"):
        train(config(*LENGTH, "ckpt_path=last"))


def test_previous_checkpoint_is_never_another_runs(finished, config, tmp_path):
    """A run that starts anew in a used folder keeps none of the checkpoints of the run it replaces."""
    shutil.copytree(finished, tmp_path / "run")
    once = LENGTH[2].replace("every_n_steps: 1", "every_n_steps: 9")
    train(config(*LENGTH[:2], once, "seed=1"))
    assert read_checkpoint(tmp_path / "run/last.ckpt")["config"]["seed"] == 1
    assert not (tmp_path / "run/previous.ckpt").exists()


# --- a disk that fails -----------------------------------------------------------------------------------------------


def test_failed_write_leaves_what_was_there(tmp_path):
    writer, path = AtomicCheckpoints(), tmp_path / "last.ckpt"
    writer.save_checkpoint({"step": 1}, path)
    before = path.read_bytes()
    with largest_file(50_000), pytest.raises(OSError, match="File too large"):
        writer.save_checkpoint({"w": torch.zeros(100_000)}, path, {"keep_as": tmp_path / "previous.ckpt"})
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == ["last.ckpt"]


@pytest.mark.parametrize("links", [True, False])
def test_some_checkpoint_is_whole_at_every_moment(links, tmp_path, monkeypatch):
    """A power cut after any rename: last.ckpt is there and good, or previous.ckpt where a disk has no hard links."""
    writer, path, previous = AtomicCheckpoints(), tmp_path / "last.ckpt", tmp_path / "previous.ckpt"
    seen, rename = [], os.replace

    def watched(source, target):
        rename(source, target)
        whole = {name.stem: torch.load(name)["step"] for name in (path, previous) if name.exists()}
        seen.append(whole)

    def refuse(*_):
        raise OSError(errno.EPERM, os.strerror(errno.EPERM))

    monkeypatch.setattr(os, "replace", watched)
    if not links:
        monkeypatch.setattr(os, "link", refuse)
    for step in (1, 2, 3):
        writer.save_checkpoint({"step": step}, path, {"keep_as": previous})
    between = [{"last": 1, "previous": 1}, {"last": 2, "previous": 2}] if links else [{"previous": 1}, {"previous": 2}]
    assert seen == [{"last": 1}, between[0], {"last": 2, "previous": 1}, between[1], {"last": 3, "previous": 2}]
    assert sorted(os.listdir(tmp_path)) == ["last.ckpt", "previous.ckpt"]


def test_run_killed_between_two_names_saves_again(tmp_path):
    """Both names are then the same file, which a rename leaves alone."""
    writer, path, previous = AtomicCheckpoints(), tmp_path / "last.ckpt", tmp_path / "previous.ckpt"
    writer.save_checkpoint({"step": 1}, path)
    os.link(path, previous)
    writer.save_checkpoint({"step": 2}, path, {"keep_as": previous})
    assert [torch.load(name)["step"] for name in (path, previous)] == [2, 1]
    assert sorted(os.listdir(tmp_path)) == ["last.ckpt", "previous.ckpt"]


def test_last_checkpoint_holds_what_the_others_made_of_its_epoch(config, tmp_path):
    """A run killed right after it knows of the epoch's best.ckpt and counts its epoch towards early stopping."""
    best = "callbacks.best={_target_: phenokeep.callbacks.Best, folder: '${output_dir}', monitor: val/pixels/mae}"
    train(config(*LENGTH, best, "callbacks.early_stopping.monitor=val/pixels/mae"))
    states = read_checkpoint(tmp_path / "run/last.ckpt")["callbacks"]
    (kept,) = [state for name, state in states.items() if name.startswith("Best")]
    (patience,) = [state for name, state in states.items() if name.startswith("EarlyStopping")]
    assert kept["best_model_path"].endswith("best.ckpt")
    assert torch.isfinite(patience["best_score"])


def test_disk_that_fills_up_stops_the_run(config, tmp_path, monkeypatch):
    """The write of step 3's checkpoint ends part-way; step 2's is intact, and training goes on from it."""
    save, count = torch.save, []

    def full(value, file, *args, **kwargs):
        count.append(file.name)
        if len(count) == 3:
            file.write(b"half of a checkpoint")
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        save(value, file, *args, **kwargs)

    unbroken = train(config(*LENGTH, f"output_dir={tmp_path}/unbroken"))
    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(OSError, match=r"No space left .* MB free.*last\.ckpt \(step 2\) is good") as stopped:
        train(config(*LENGTH))
    assert "\n" not in str(stopped.value)
    assert sorted(path.name for path in (tmp_path / "run").glob("*ckpt*")) == ["last.ckpt", "previous.ckpt"]
    assert train(config(*LENGTH, f"ckpt_path={tmp_path}/run/last.ckpt"))["train/loss"] == unbroken["train/loss"]


def test_unwritable_folder_is_found_before_anything_else(config, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match=r"cannot write into .*file/run \(Not a directory\)"):
        train(config(f"output_dir={tmp_path}/file/run", "data.plate.wells=100000"))
    check_writable(tmp_path / "new/folder")
    assert not any((tmp_path / "new/folder").iterdir())


def test_disk_without_room_is_found_before_training(config, tmp_path, monkeypatch):
    """The size asked for is a checkpoint's, of a model whose weights rather than names and config fill the file."""
    options = ("model.widths=[16,32,64,128,128]", LENGTH[2])
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=0))
    with pytest.raises(ValueError, match=r"0\.0 MB free and the checkpoints need .*callbacks\.room=null") as error:
        train(config(*options))
    needed, each = (float(number) for number in re.findall(r"([\d.]+) MB (?:more|each)", str(error.value)))
    assert needed == pytest.approx(3 * each, rel=0.01), "last, previous and the one being written"
    assert not list((tmp_path / "run").glob("*ckpt*"))
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=1.01e6 * needed))
    train(config(*options))
    assert each == pytest.approx((tmp_path / "run/last.ckpt").stat().st_size / 1e6, rel=0.05)


# --- numbers that are none -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("case", ["automatic", "manual", "infinite"])
def test_loss_that_is_no_number_stops_before_it_moves_a_weight(case, config, spoil, tmp_path):
    options = ENCODER if case == "manual" else LENGTH
    spoiled = spoil(Spoil(2, float("inf" if case == "infinite" else "nan")))
    with pytest.raises(NotFinite) as error:
        train(config(*options))
    said = str(error.value)
    assert "\n" not in said
    assert said.startswith(f"the loss of step 3 is {'inf' if case == 'infinite' else 'nan'}")
    assert len(spoiled.ids) == 2
    assert all(name in said for name in spoiled.ids)
    last = tmp_path / "run/last.ckpt"
    assert f"{last} (step 2) is good" in said
    now = spoiled.module.state_dict()
    judged = [name for name in now if "num_batches" not in name and "running_" not in name]
    assert all(torch.equal(now[name], spoiled.weights[name]) for name in judged)
    saved = read_checkpoint(last)["state_dict"]
    assert all(torch.equal(saved[name], spoiled.weights[name]) for name in saved)
    part = "generator: " if case == "manual" else "net: "
    assert f"init_from={{{part}{last}" in said


class Overflow(pl.Callback):
    """Makes one gradient infinite while the loss is finite."""

    def on_after_backward(self, trainer, pl_module):
        if trainer.global_step == 2:
            next(pl_module.parameters()).grad.fill_(float("inf"))


def test_weights_that_are_no_numbers_never_reach_the_disk(config, spoil, tmp_path):
    spoil(Overflow())
    with pytest.raises(NotFinite, match=r"after step 3 net\..* holds NaN .*last\.ckpt \(step 2\) is good"):
        train(config(*LENGTH))
    assert read_checkpoint(tmp_path / "run/last.ckpt")["global_step"] == 2


def test_guards_are_on_by_default(config):
    kinds = {type(callback) for callback in run._callbacks(config())}
    assert {CollapsedOutput, FiniteLoss, Room} <= kinds


@pytest.mark.parametrize(("alive", "sanity", "warned"), [(None, False, True), (1, False, False), (None, True, False)])
def test_a_network_that_draws_constant_images_is_told(alive, sanity, warned, caplog):
    strategy = SimpleNamespace(reduce_boolean_decision=lambda decision, all: decision)
    trainer, guard = SimpleNamespace(global_step=36, sanity_checking=sanity, strategy=strategy), CollapsedOutput()
    guard.on_validation_epoch_start(trainer, None)
    for number in range(3):
        drawn = torch.tensor([0.2, 0.7]).reshape(2, 1, 1, 1) + torch.zeros(2, 2, 8, 8)  # each constant, none alike
        if number == alive:
            drawn[1, 1, 3, 4] += 1e-5
        guard.on_validation_batch_end(trainer, None, {"prediction": drawn}, None, number)
    guard.on_validation_epoch_end(trainer, None)
    assert ("after step 36 every image that the network draws is constant" in caplog.text) == warned
