"""Weights & Biases: an offline run holds everything, and no failure of the service stops a run."""

import logging
import struct
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import pytest
import wandb

from phenokeep import run
from phenokeep.callbacks import Wandb
from phenokeep.checkpoint import read_checkpoint


@pytest.fixture(autouse=True)
def stranger(tmp_path, monkeypatch):
    """No account, no settings, nothing on the screen, and a server that refuses at once."""
    for name in ("WANDB_API_KEY", "WANDB_MODE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("WANDB_SILENT", "true")
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("WANDB_HTTP_TIMEOUT", "1")
    yield
    wandb.teardown()  # which forgets the settings read from this environment


def _records(path: Path) -> Iterator[bytes]:
    """The records of a run file: LevelDB's log format, blocks of 32 KiB with records of crc, length and type."""
    data, record, place = path.read_bytes(), b"", 7  # after the file's own 7-byte header
    while place + 7 <= len(data):
        if (left := 32768 - place % 32768) < 7:
            place += left
            continue
        _, length, kind = struct.unpack("<IHB", data[place : place + 7])
        record += data[place + 7 : place + 7 + length]
        place += 7 + length
        if kind in (1, 4):  # a whole record, or its last part
            yield record
            record = b""


def test_offline_run_holds_everything(config):
    from wandb.proto.wandb_internal_pb2 import Record

    cfg = config("logger=wandb", "logger.offline=true", "logger.name=test", "test=true", "study.n_bootstrap=20",
                 "data.plate.wells=8", "model.lr=0.00123")  # fmt: skip
    run.train(cfg)
    assert wandb.run is None, "the next run of this process gets its own"
    wandb.teardown()  # as at the end of a process: the file is written to its end

    (path,) = Path(cfg.output_dir).rglob("run-*.wandb")
    history: dict[str, str] = {}
    settings: dict[str, str] = {}
    files: set[str] = set()
    for raw in _records(path):
        record = Record.FromString(raw)
        for item in record.history.item:
            history["|".join(item.nested_key)] = item.value_json
        for item in record.config.update:
            settings[item.key or "/".join(item.nested_key)] = item.value_json
        files |= {file.path for file in record.files.files}
    assert {"train/loss", "val/phirm/phirm", "val/nuclei/rim_f1", "test/nuclei/rim_f1"} <= set(history)
    assert "0.00123" in str(settings)
    assert history["val/examples|_type"] == '"images/separated"'
    assert history["report/examples|_type"] == '"images/separated"'
    assert history["report/methods|_type"] == '"table-file"'
    assert any("val/examples" in name for name in files)
    table = next(Path(cfg.output_dir).rglob("media/table/report/methods*.json"))
    assert "biharmonic" in table.read_text()


LAST = "callbacks.last={_target_: phenokeep.callbacks.Last, folder: '${output_dir}'}"


@pytest.mark.parametrize("key", ["ab" * 20, None])
def test_unreachable_server_means_one_warning_and_an_offline_log(key, config, monkeypatch, caplog, tmp_path):
    if key:
        monkeypatch.setenv("WANDB_API_KEY", key)
    with caplog.at_level(logging.WARNING):
        run.train(config("logger=wandb", "logger.name=test", "logger.init_timeout=2", LAST))
    (said,) = [record.message for record in caplog.records if "W&B" in record.message]
    assert "logging offline" in said
    assert ("127.0.0.1:9" if key else "no API key") in said
    wandb.teardown()  # as at the end of a process: the file is written to its end
    (log,) = (tmp_path / "run/wandb").glob("offline-run-*/run-*.wandb")
    assert log.stat().st_size > 1000
    assert read_checkpoint(tmp_path / "run/last.ckpt")["global_step"] == 1


def test_later_failures_mean_one_warning(config, monkeypatch, caplog, tmp_path):
    """Every call of the W&B run fails from its start: settings, metrics, pictures, tables, the end."""

    class Broken:
        id = "broken"

        def __getattr__(self, name):
            raise BrokenPipeError("the service is gone")

    monkeypatch.setattr(wandb, "init", lambda **_: Broken())
    made = []
    monkeypatch.setattr(run, "_loggers", lambda cfg, real=run._loggers: made.extend(real(cfg)) or made)
    with caplog.at_level(logging.WARNING):
        run.train(config("logger=wandb", "logger.offline=true", "logger.name=test", LAST))
        made[0].log_table("report/methods", dataframe=pd.DataFrame({"a": [1]}))
        made[0].finalize("success")
    (said,) = [record.message for record in caplog.records if "W&B" in record.message]
    assert "the service is gone" in said
    assert read_checkpoint(tmp_path / "run/last.ckpt")["global_step"] == 1


def test_not_even_an_offline_log(monkeypatch, caplog, tmp_path):
    real = wandb.init

    def init(mode, **options):
        if mode != "disabled":
            raise OSError("no room\nand a traceback")
        return real(mode=mode, **options)

    monkeypatch.setattr(wandb, "init", init)
    logger = Wandb(offline=True, project="test", save_dir=str(tmp_path))
    logger.log_metrics({"a": 1.0}, 0)
    logger.finish()
    (said,) = [record.message for record in caplog.records if "W&B" in record.message]
    assert said == "W&B cannot be used (no room): this run has no W&B log"
