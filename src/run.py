"""Train, evaluate and predict: what the scripts call. The only file that builds a Trainer."""

import difflib
import inspect
import logging
import shutil
import time
import warnings
from importlib import resources
from pathlib import Path
from typing import Any

import pandas as pd
import pytorch_lightning as pl
import torch
from hydra.utils import get_object, instantiate
from omegaconf import DictConfig, OmegaConf
from pytorch_lightning.callbacks import Checkpoint, RichProgressBar
from pytorch_lightning.loggers import WandbLogger
from pytorch_lightning.utilities import rank_zero_only

from .callbacks import AtomicCheckpoints, Last, NotFinite, PhenotypeMetrics, Provenance, Wandb, check_writable
from .checkpoint import CheckpointError, load_weights, read_checkpoint, to_go_on_from, training, weights_of
from .inference.predictor import Predictor
from .methods import Methods
from .models.speed import hasten
from .predicting import predicted
from .settings import check_settings
from .studies.publish import publish
from .studies.subject import Study, Subject
from .warmstart import warm_start

log = logging.getLogger(__name__)
# Warnings of libraries about things that are as they should be here.
HARMLESS = (
    "does not have many workers",
    "exists and is not empty",
    "is smaller than the logging interval",
    "treespec, LeafSpec",
    "when logging on epoch level in distributed setting",  # the metrics are summed over processes already
    "`broadcast_buffers` is deprecated",
    "in eval mode at the start of training",  # a frozen network
)


def train(cfg: DictConfig) -> dict[str, float]:
    """Fits the model of a composed train config, then, with `test=true`, judges its best checkpoint.

    Returns the logged metrics. Raises ValueError (CheckpointError, TableError, ImageError) naming the file and the mend
    before training starts; NotFinite or OSError where it cannot go on, naming the last good checkpoint.
    """
    _prepare(cfg, "data", "model", "trainer")
    resume, saved = to_go_on_from(cfg.ckpt_path, cfg.output_dir)
    datamodule, model = _build(cfg, saved["scaling"] if saved else None, compiled=cfg.compile and cfg.fit)
    study = instantiate(cfg.study, _convert_="all") if cfg.test else None
    if study:
        study.check(datamodule)
        if unfinished := getattr(model, "unfinished", None):
            raise ValueError(f"test=true: {unfinished}")
    if saved:
        load_weights(model, saved["state_dict"], str(resume))  # an error before training, where they do not fit
    elif cfg.fit and (Path(cfg.output_dir) / "last.ckpt").exists():
        log.warning(
            "%s holds an earlier run, which this one replaces; ckpt_path=last would go on from it", cfg.output_dir
        )
    started_from = [] if saved else warm_start(model)
    provenance = Provenance(OmegaConf.to_container(cfg, resolve=True), started_from)  # type: ignore[arg-type]
    loggers = _loggers(cfg)
    trainer = _trainer(cfg, [*_callbacks(cfg), provenance], loggers)
    results: dict[str, float] = {}
    if cfg.fit:
        try:
            trainer.fit(model, datamodule=datamodule, ckpt_path=resume, weights_only=True)
        except (NotFinite, OSError) as error:
            raise _stopped(error, trainer) from error
        results |= {key: float(value) for key, value in trainer.callback_metrics.items()}
    if study:
        if cfg.fit or not saved:
            saved, resume = provenance.state(trainer), None
        for best in filter(
            None, (getattr(callback, "best_model_path", "") for callback in trainer.checkpoint_callbacks)
        ):
            saved = read_checkpoint(best)
            load_weights(model, saved["state_dict"], best)
        results |= _judge(cfg, study, model, datamodule, trainer.loggers, saved, resume)
    _finish(loggers)
    return results


def evaluate(cfg: DictConfig) -> dict[str, float]:
    """Asks a checkpoint, or data alone, the study of a composed eval config; writes report.html.

    Returns the logged metrics.
    """
    _prepare(cfg, *(("data", "model", "trainer") if cfg.ckpt_path else ("data", "trainer")))
    saved = read_checkpoint(cfg.ckpt_path) if cfg.ckpt_path else None
    study = instantiate(cfg.study, _convert_="all") if cfg.get("study") else None
    if study is None or (saved is None and study.needs_model):
        raise ValueError("which model? Give ckpt_path=FILE, for example ckpt_path=runs/quickstart/seed_0/best.ckpt")
    datamodule, model = _build(cfg, saved["scaling"] if saved else None)
    study.check(datamodule)
    if saved:
        load_weights(model, saved["state_dict"], cfg.ckpt_path)
    loggers = _loggers(cfg)
    results = _judge(cfg, study, model, datamodule, loggers, saved, cfg.ckpt_path)
    _finish(loggers)
    return results


def predict(cfg: DictConfig) -> pd.DataFrame:
    """Restores, or predicts the stains of, the plate of a composed predict config; returns the table of its fields."""
    _prepare(cfg)
    return predicted(cfg)


def _prepare(cfg: DictConfig, *needs: str) -> None:
    """Refuses keys that no config has and settings of a wrong type, quietens the libraries, seeds."""
    names: set[Any] = {"score"}
    for file in ("train.yaml", "predict.yaml"):
        known = OmegaConf.load(str(resources.files("phenokeep.configs") / file))
        names |= {key for key in known if key not in ("defaults", "hydra")}
        names |= {next(iter(entry)) for entry in known.defaults if isinstance(entry, DictConfig)}
    for key in cfg:
        if key not in names:
            near = difflib.get_close_matches(str(key), names, 1)
            raise ValueError(f"unknown config key {key!r}" + (f": did you mean {near[0]!r}?" if near else ""))
    check_settings(cfg, needs)
    for noisy in ("pytorch_lightning.utilities.rank_zero", "pytorch_lightning.accelerators.cuda"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    if rank_zero_only.rank:  # type: ignore[attr-defined]
        logging.getLogger("phenokeep").setLevel(logging.WARNING)
    for harmless in HARMLESS:
        warnings.filterwarnings("ignore", f".*{harmless}.*")
    pl.seed_everything(cfg.seed, workers=True, verbose=False)
    check_writable(cfg.output_dir)


def _build(cfg: DictConfig, scaling: dict[str, Any] | None, compiled: bool = False) -> tuple[Any, Any]:
    """The DataModule, its data checked, and the model: whatever is wrong with either is found before training."""
    options = {"scaling_state": scaling} if scaling else {}
    model = instantiate(cfg.model, _convert_="all") if cfg.get("model") else None
    # The checkpoint's state beside the config, not in it: Hydra would call what a _target_ in it names.
    datamodule = instantiate(cfg.data, _convert_="all", _partial_=True)(**options)
    if model:
        _check_fit(model, cfg, datamodule)
        hasten(model, cfg.trainer.precision, compiled)
    datamodule.prepare_data()
    datamodule.setup()
    return datamodule, model


def _check_fit(model: Any, cfg: DictConfig, datamodule: Any) -> None:
    """Refuses data of another kind than the model's, or with other channels, and metrics of channels that it lacks."""
    of_pairs = getattr(model, "of_pairs", False)
    if of_pairs not in (None, datamodule.of_pairs):
        needs, given = ("pairs", "images with holes")[:: 1 if of_pairs else -1]
        mend = "data=pairs or data=virtual_pairs" if of_pairs else "data=hcs_nuclei or data=virtual"
        name = type(model).__name__
        raise ValueError(f"{name} learns from {needs} and the data are {given}: choose {mend}, or a model")
    sides = ("in_channels", "out_channels") if of_pairs else ("in_channels",)
    for key, name in zip(sides, datamodule.NAMED, strict=False):
        if len(channels := getattr(datamodule, name)) != cfg.model[key]:
            raise ValueError(f"data.{name} are {channels} and model.{key} is {cfg.model[key]}: they must agree")
    _check_channels(cfg.metrics, cfg.model.get("out_channels", cfg.model.in_channels), datamodule.of_pairs)


def _check_channels(metrics: DictConfig, drawn: int, of_pairs: bool) -> None:
    """Refuses metrics of channels that a model, which draws so many, does not draw."""
    first = ", or choose metrics=translation, which reads the first alone" if of_pairs else ""
    for name, node in metrics.items():
        metric = (node or {}).get("metric") or {}
        known = inspect.signature(get_object(metric["_target_"])).parameters if metric else {}
        for key, parameter in known.items():
            channel = metric.get(key, parameter.default)
            if key.endswith("channel") and isinstance(channel, int) and not 0 <= channel < drawn:
                raise ValueError(
                    f"metrics.{name!s}.metric.{key} is {channel} (counted from 0) and the model draws {drawn}: set a "
                    f"channel that it draws, leave this metric out (~metrics.{name!s}){first}"
                )


def _stopped(error: Exception, trainer: pl.Trainer) -> Exception:
    """The error that stopped training, with the checkpoint that is left and what to try."""
    callbacks: list[Any] = trainer.callbacks  # type: ignore[attr-defined]
    good = next((callback.good for callback in callbacks if isinstance(callback, Last)), None)
    left = "No checkpoint was written yet"
    if good:
        try:
            left = f"{good} (step {read_checkpoint(good)['global_step']}) is good"
        except CheckpointError as damage:
            left, good = str(damage), None
    if isinstance(error, NotFinite):
        parts = [f"{name}: {good}" for name, part in trainer.lightning_module.named_children() if part.state_dict()]
        weights = f" from its weights (model.init_from={{{', '.join(parts)}}})" if good else ""
        return NotFinite(
            f"{error}. {left}. Look at these images; going on unchanged would end here again, so train{weights} with a "
            "lower learning rate"
        )
    mend = f"mend this, and the same command with ckpt_path={good} goes on" if good else "mend this, and start again"
    free = shutil.disk_usage(trainer.default_root_dir).free / 1e6
    return OSError(f"training stopped: {error} ({trainer.default_root_dir} has {free:.1f} MB free). {left}: {mend}")


def _callbacks(cfg: DictConfig) -> list[pl.Callback]:
    return [instantiate(node, _convert_="all") for node in cfg.callbacks.values() if node]


def _loggers(cfg: DictConfig) -> list[Any]:
    if not cfg.logger:
        return []
    logger = instantiate(cfg.logger, _convert_="all")
    if isinstance(logger, WandbLogger):
        logger.log_hyperparams(OmegaConf.to_container(cfg, resolve=True))  # type: ignore[arg-type]
    return [logger]


def _finish(loggers: list[Any]) -> None:
    for logger in loggers:
        if isinstance(logger, Wandb):
            logger.finish()


def _measured(cfg: DictConfig) -> dict[str, Any]:
    return {name: instantiate(node, _convert_="all") for name, node in cfg.metrics.items() if node}


def _trainer(cfg: DictConfig, callbacks: list[pl.Callback], loggers: list[Any], **options: Any) -> pl.Trainer:
    return instantiate(
        cfg.trainer,
        callbacks=[PhenotypeMetrics(_measured(cfg)), *callbacks],
        logger=loggers or False,
        plugins=[AtomicCheckpoints()],
        default_root_dir=cfg.output_dir,
        enable_checkpointing=any(isinstance(callback, Checkpoint) for callback in callbacks),
        enable_model_summary=False,
        **options,
        _convert_="all",
    )


def _judge(
    cfg: DictConfig,
    study: Study,
    model: Any,
    datamodule: Any,
    loggers: list[Any],
    saved: dict[str, Any] | None,
    path: str | Path | None,
) -> dict[str, float]:
    """Runs the study over the test split and writes its tables, figures and report into the run's folder.

    `saved` is what is known of the weights, `path` their checkpoint where they are not of this run.
    """
    results: dict[str, float] = {}
    methods = Methods(model, datamodule, path, saved, study.across)

    def judge(name: str | None, samples: Any = None) -> pd.DataFrame:
        logged = name is None and samples is None
        # What a study brings is judged whole.
        whole = {} if samples is None else {"limit_test_batches": 1.0}
        trainer = _trainer(cfg, [RichProgressBar()], loggers if logged else [], **whole)
        log.info("judging %s", name or type(model).__name__)
        data = datamodule if samples is None else datamodule.showing(samples)
        metrics = trainer.test(methods.module(name), datamodule=data, verbose=False)[0]
        if logged:
            results.update(metrics)
        callbacks: list[Any] = trainer.callbacks  # type: ignore[attr-defined]
        table = next(callback.table for callback in callbacks if isinstance(callback, PhenotypeMetrics))
        return table.assign(method=name or type(model).__name__)

    def example(ids: list[str]) -> dict[str, dict[str, Any]]:
        batch = datamodule.samples("test", ids)
        with torch.inference_mode():
            batch["prediction"] = methods.module(None).cpu().test_step(batch, 0)["prediction"]
        names = [name for name in ("source", "mask", "prediction", "target") if name in batch]
        return {id_: {name: batch[name][row, 0].numpy() for name in names} for row, id_ in enumerate(batch["id"])}

    subject = Subject(datamodule, leaky_split=datamodule.leaky_split or methods.origin(None).leaky)
    if model:
        subject.judge, subject.example = judge, example
        subject.module, subject.origin, subject.metrics = methods.module, methods.origin, _measured(cfg)
        if datamodule.comparable and not datamodule.of_pairs:
            subject.predictor = Predictor(model, datamodule.scaling, OmegaConf.to_container(cfg, resolve=True))  # type: ignore[arg-type]
    started = time.monotonic()
    result = study.run(subject)
    facts = {
        "data": cfg.data.root,
        "checkpoint": str(path or weights_of(saved if model else None)),
        "split": f"{datamodule.split_origin}; judged on test",
        "scaling": f"{datamodule.scaling.kind}"
        + (f", {', '.join(datamodule.scaling.stretched)} by the whole image" if datamodule.scaling.stretched else "")
        + ("" if datamodule.comparable else ", intensities not comparable"),
        "pixel size": f"{datamodule.scaling.pixel_size:g} um"
        + (", fields of another size resampled to it" if cfg.data.rescale else ""),
        "training": training(saved) if saved else "none",
        "judging": f"{time.monotonic() - started:.0f} s",
    }
    publish(result, cfg, loggers, facts, datamodule.skipped)
    return results
