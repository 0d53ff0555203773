"""What predict.py does: a checkpoint applied to a plate, whose images it restores or whose stains it predicts."""

from __future__ import annotations

import time
from importlib import resources
from pathlib import Path
from typing import Any

import pandas as pd
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from .datamodules.checks import check_images, drop_bad
from .datamodules.platemap import join_plate_map, read_plate_map
from .inference.inputs import read_inputs
from .inference.plate import PlateRun
from .inference.predictor import Predictor, load
from .inference.provenance import run_record
from .inference.stain import StainPredictor
from .inference.stain_plate import Detector, StainRun, organelles
from .studies.drift import OnlineMMD
from .studies.predicted import restored_report
from .studies.predicted_stains import Watched, stain_report
from .studies.publish import publish
from .studies.result import StudyResult


def predicted(cfg: DictConfig) -> pd.DataFrame:
    """Applies the checkpoint of a composed predict config to its plate; returns the table of its fields.

    Raises ValueError (CheckpointError, TableError, ImageError, DetectorError) before anything is written.
    """
    if cfg.fail_on_drift and cfg.drift is None:
        raise ValueError("fail_on_drift=true needs a detector: give drift=FILE, which study=drift writes")
    predictor = load(cfg.ckpt_path, cfg.device, model_config=_settings(cfg.model))
    run = _stain_run(predictor, cfg) if isinstance(predictor, StainPredictor) else _plate_run(predictor, cfg)
    started = time.monotonic()
    table = run.run()
    print(f"{run.DONE}: {run.folder}")
    if cfg.report:
        took = f"{time.monotonic() - started:.0f} s for {len(table)} fields"
        facts = {"data": cfg.plate, "checkpoint": cfg.ckpt_path, run.DOING: took}
        publish(_report(run, table), cfg, [], facts, run.index.attrs.get("skipped", ()))
    return table


def _plate_run(predictor: Predictor, cfg: DictConfig) -> PlateRun:
    if cfg.drift is not None:
        raise ValueError(
            "drift watches what a translation model sees, and this checkpoint restores images: leave drift out"
        )
    masks = instantiate(cfg.mask)
    index = _index(read_inputs(cfg.plate, predictor.channels, cfg.data.pixel_size), cfg, predictor.channels)
    settings = {"mask": _settings(cfg.mask), "model": _settings(cfg.model), "rescale": cfg.data.rescale}
    record = run_record(predictor, cfg.ckpt_path, settings)
    metric = instantiate(cfg.score, _convert_="all").metric
    return PlateRun(predictor, index, masks, Path(cfg.output_dir), record, metric, cfg.data.rescale)


def _stain_run(predictor: StainPredictor, cfg: DictConfig) -> StainRun:
    _check_untouched(cfg)
    measured = organelles(cfg.metrics, predictor.targets)
    detector = _detector(cfg.drift, predictor)
    index = read_inputs(cfg.plate, predictor.channels, cfg.data.pixel_size, exclusive=True)
    readouts = [list(organelle) for organelle in measured]
    settings = {"model": _settings(cfg.model), "rescale": cfg.data.rescale, "readouts": readouts}
    record = run_record(predictor, cfg.ckpt_path, settings)
    return StainRun(
        predictor, _index(index, cfg, []), Path(cfg.output_dir), record, cfg.data.rescale, measured, detector
    )


def _settings(node: DictConfig) -> Any:
    return OmegaConf.to_container(node, resolve=True)


def _index(index: pd.DataFrame, cfg: DictConfig, stained: list[str]) -> pd.DataFrame:
    """The index with the plate map joined, without the fields whose images cannot be used."""
    if cfg.data.plate_map:
        index = join_plate_map(index, read_plate_map(cfg.data.plate_map), cfg.data.plate_map)
    return drop_bad(index, check_images(index, cfg.data.on_bad_image, stained).problems)


def _check_untouched(cfg: DictConfig) -> None:
    """Refuses what has been set of the groups that are for restorations alone (ValueError)."""
    folder = resources.files("phenokeep.configs")
    defaults: dict[str, Any] = {
        "mask": OmegaConf.load(str(folder / "predict.yaml")).mask,
        "score": OmegaConf.load(str(folder / "metrics/phirm.yaml")),
    }
    for group, default in defaults.items():
        if cfg[group] != default:
            raise ValueError(
                f"{group} is of restorations, and this checkpoint predicts the stains of whole images: leave out "
                f"what sets {group}"
            )


def _detector(path: str | None, predictor: StainPredictor) -> Detector | None:
    """The drift detector of a file, fitted on this very model; DetectorError for any other."""
    if path is None:
        return None
    detector = OnlineMMD.load(path)
    detector.require({"checkpoint": predictor.sha256, "pool": "mean"})
    return detector


def _report(run: PlateRun | StainRun, table: pd.DataFrame) -> StudyResult:
    if isinstance(run, PlateRun):
        return restored_report(table, run.images)
    one = run.detector
    watched = Watched(one.window, one.expected_run_time, one.in_control) if one else None
    loss = run.predictor.config["model"]["loss"]["_target_"]
    return stain_report(table, run.images, run.predictor.channels, run.predictor.targets, watched, loss)
