"""Train and evaluate: what the scripts call. The only file that builds a Trainer."""

import difflib
import logging
import time
import warnings
from importlib import resources
from pathlib import Path
from typing import Any

import pandas as pd
import pytorch_lightning as pl
import torch
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from pytorch_lightning.callbacks import ModelCheckpoint, RichProgressBar
from pytorch_lightning.loggers import WandbLogger
from pytorch_lightning.utilities import rank_zero_only

from .callbacks import PhenotypeMetrics, Provenance
from .checkpoint import CheckpointError, load_weights, read_checkpoint
from .imaging.masks import PAPER_BANDS
from .models import Fill
from .studies.publish import publish

log = logging.getLogger(__name__)
# Warnings of libraries about things that are as they should be here.
HARMLESS = (
    "does not have many workers",
    "exists and is not empty",
    "is smaller than the logging interval",
    "treespec, LeafSpec",
    "when logging on epoch level in distributed setting",  # the metrics are summed over processes already
    "`broadcast_buffers` is deprecated",
)


def train(cfg: DictConfig) -> dict[str, float]:
    """Fits the model of a composed train config, then, with `test=true`, judges its best checkpoint.

    Returns the logged metrics. Raises ValueError (CheckpointError, TableError, ImageError) naming the file and the mend
    before training starts.
    """
    _prepare(cfg)
    resume = _resume_path(cfg)
    saved = read_checkpoint(resume) if resume else None
    datamodule, model = _build(cfg, saved["scaling"] if saved else None)
    study = _study(cfg, datamodule) if cfg.test else None
    if saved:
        load_weights(model, saved["state_dict"], cfg.ckpt_path)  # an error before training, where they do not fit
    elif cfg.fit and (Path(cfg.output_dir) / "last.ckpt").exists():
        log.warning(
            "%s holds an earlier run, which this one replaces; ckpt_path=last would go on from it", cfg.output_dir
        )
    for part, path in (cfg.init_from or {}).items():
        _warm_start(model, part, path)
    trainer = _trainer(cfg, _callbacks(cfg), _loggers(cfg))
    results: dict[str, float] = {}
    if cfg.fit:
        trainer.fit(model, datamodule=datamodule, ckpt_path=resume, weights_only=True)
        results |= {key: float(value) for key, value in trainer.callback_metrics.items()}
    if study:
        for best in filter(
            None, (getattr(callback, "best_model_path", "") for callback in trainer.checkpoint_callbacks)
        ):
            saved = read_checkpoint(best)
            load_weights(model, saved["state_dict"], best)
        results |= _judge(cfg, study, model, datamodule, trainer.loggers, saved)
    return results


def evaluate(cfg: DictConfig) -> dict[str, float]:
    """Judges a checkpoint by the study of a composed eval config and writes report.html. Returns the logged metrics."""
    _prepare(cfg)
    saved = read_checkpoint(cfg.ckpt_path)
    datamodule, model = _build(cfg, saved["scaling"])
    load_weights(model, saved["state_dict"], cfg.ckpt_path)
    return _judge(cfg, _study(cfg, datamodule), model, datamodule, _loggers(cfg), saved)


def _prepare(cfg: DictConfig) -> None:
    """Refuses keys that no config has, quietens the libraries, seeds."""
    known = OmegaConf.load(str(resources.files("phenokeep.configs") / "train.yaml"))
    names: set[Any] = {key for key in known if key not in ("defaults", "hydra")}
    names |= {next(iter(entry)) for entry in known.defaults if isinstance(entry, DictConfig)}
    for key in cfg:
        if key not in names:
            near = difflib.get_close_matches(str(key), names, 1)
            raise ValueError(f"unknown config key {key!r}" + (f": did you mean {near[0]!r}?" if near else ""))
    for noisy in ("pytorch_lightning.utilities.rank_zero", "pytorch_lightning.accelerators.cuda"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    if rank_zero_only.rank:  # type: ignore[attr-defined]
        logging.getLogger("phenokeep").setLevel(logging.WARNING)
    for harmless in HARMLESS:
        warnings.filterwarnings("ignore", f".*{harmless}.*")
    pl.seed_everything(cfg.seed, workers=True, verbose=False)


def _build(cfg: DictConfig, scaling: dict[str, Any] | None) -> tuple[pl.LightningDataModule, pl.LightningModule]:
    """The DataModule, its data checked, and the model: whatever is wrong with either is found before training."""
    options = {"scaling_state": scaling} if scaling else {}
    model = instantiate(cfg.model, _convert_="all")
    datamodule = instantiate(cfg.data, **options, _convert_="all")
    if len(cfg.data.channels) != cfg.model.channels:
        raise ValueError(
            f"data.channels are {list(cfg.data.channels)} and model.channels is {cfg.model.channels}: they must agree"
        )
    datamodule.prepare_data()
    datamodule.setup()
    return datamodule, model


def _resume_path(cfg: DictConfig) -> str | None:
    """The checkpoint to go on from; a missing last.ckpt is an error, so that nothing starts anew unasked."""
    if cfg.ckpt_path != "last":
        return cfg.ckpt_path
    path = Path(cfg.output_dir) / "last.ckpt"
    if not path.is_file():
        raise CheckpointError(f"nothing to go on from: {path} does not exist. Leave out ckpt_path=last to start anew")
    return str(path)


def _warm_start(model: pl.LightningModule, part: str, path: str) -> None:
    """Takes the weights of one part of the model from another run's checkpoint."""
    if not hasattr(model, part):
        raise CheckpointError(f"init_from names {part!r}, which {type(model).__name__} does not have")
    state = read_checkpoint(path)["state_dict"]
    weights = {key.removeprefix(f"{part}."): value for key, value in state.items() if key.startswith(f"{part}.")}
    load_weights(getattr(model, part), weights, path)


def _callbacks(cfg: DictConfig) -> list[pl.Callback]:
    return [instantiate(node, _convert_="all") for node in cfg.callbacks.values() if node] + [
        Provenance(OmegaConf.to_container(cfg, resolve=True))  # type: ignore[arg-type]
    ]


def _loggers(cfg: DictConfig) -> list[Any]:
    if not cfg.logger:
        return []
    logger = instantiate(cfg.logger, _convert_="all")
    if isinstance(logger, WandbLogger):
        logger.log_hyperparams(OmegaConf.to_container(cfg, resolve=True))  # type: ignore[arg-type]
    return [logger]


def _trainer(cfg: DictConfig, callbacks: list[pl.Callback], loggers: list[Any]) -> pl.Trainer:
    metrics = PhenotypeMetrics({name: instantiate(node, _convert_="all") for name, node in cfg.metrics.items() if node})
    return instantiate(
        cfg.trainer,
        callbacks=[metrics, *callbacks],
        logger=loggers or False,
        default_root_dir=cfg.output_dir,
        enable_checkpointing=any(isinstance(callback, ModelCheckpoint) for callback in callbacks),
        enable_model_summary=False,
        _convert_="all",
    )


def _study(cfg: DictConfig, datamodule: Any) -> Any:
    return instantiate(cfg.study, bands=datamodule.masks.bands or PAPER_BANDS, _convert_="all")


def _judge(
    cfg: DictConfig, study: Any, model: Any, datamodule: Any, loggers: list[Any], saved: dict[str, Any] | None
) -> dict[str, float]:
    """Runs the study over the test split and writes its tables, figures and report into the run's folder."""
    results: dict[str, float] = {}
    effort = saved["effort"] if saved else {"samples": 0, "seconds": 0.0}
    seen = set(saved["trained_on"] if saved else ()) & set(datamodule.groups("test"))
    if seen:
        log.warning("leaky split: %d of the test wells were seen in training (%s ...)", len(seen), min(seen))

    def judge(name: str | None) -> pd.DataFrame:
        module = model if name is None else Fill(name)
        trainer = _trainer(cfg, [RichProgressBar()], loggers if name is None else [])
        log.info("judging %s", name or type(model).__name__)
        metrics = trainer.test(module, datamodule=datamodule, verbose=False)[0]
        if name is None:
            results.update(metrics)
        callbacks: list[Any] = trainer.callbacks  # type: ignore[attr-defined]
        table = next(callback.table for callback in callbacks if isinstance(callback, PhenotypeMetrics))
        return table.assign(method=name or type(model).__name__)

    def example(ids: list[str]) -> dict[str, dict[str, Any]]:
        batch = datamodule.samples("test", ids)
        with torch.inference_mode():
            batch["prediction"] = model.cpu().eval().test_step(batch, 0)["prediction"]
        names = ("source", "mask", "prediction", "target")
        return {id_: {name: batch[name][row, 0].numpy() for name in names} for row, id_ in enumerate(batch["id"])}

    started = time.monotonic()
    result = study.run(judge, example, leaky_split=datamodule.leaky_split or bool(seen))
    facts = {
        "split": f"{datamodule.split_origin}; judged on test",
        "scaling": f"{datamodule.scaling.kind}"
        + (", intensities not comparable" if cfg.data.scaling == "paper" else ""),
        "training": f"{effort['samples']} samples, {effort['seconds']:.0f} s",
        "judging": f"{time.monotonic() - started:.0f} s for all methods",
    }
    publish(result, cfg, loggers, facts)
    return results
