"""An offline Weights & Biases run holds metrics, pictures, the table and the resolved config."""

import struct
from collections.abc import Iterator
from pathlib import Path

from phenokeep.run import train


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


def test_offline_run_holds_everything(config, tmp_path, monkeypatch):
    import wandb
    from wandb.proto.wandb_internal_pb2 import Record

    monkeypatch.setenv("WANDB_SILENT", "true")
    for name in ("WANDB_API_KEY", "WANDB_MODE", "WANDB_BASE_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))  # no account, no settings
    cfg = config("logger=wandb", "logger.offline=true", "logger.name=test", "test=true", "study.n_bootstrap=20",
                 "data.plate.wells=8", "model.lr=0.00123")  # fmt: skip
    train(cfg)
    wandb.finish()

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
