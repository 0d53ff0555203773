"""The phenotype metrics of a run against metrics computed by hand over its samples."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hydra.utils import instantiate
from pytorch_lightning import Trainer

from phenokeep.callbacks import Measured, PhenotypeMetrics, Provenance
from phenokeep.metrics import HoleErrors
from phenokeep.models import Fill


def test_table_and_log_agree_with_a_plain_loop(config):
    cfg = config()
    module = instantiate(cfg.data, _convert_="all")
    metrics = PhenotypeMetrics({name: instantiate(node, _convert_="all") for name, node in cfg.metrics.items()})
    trainer = Trainer(callbacks=[metrics], logger=False, accelerator="cpu", enable_progress_bar=False,
                      limit_test_batches=3, use_distributed_sampler=False, enable_model_summary=False)  # fmt: skip
    logged = trainer.test(Fill("background_median"), datamodule=module, verbose=False)[0]
    assert len(metrics.table) == 6
    patches = module.patches("test")
    errors = []
    for index in range(6):
        item = patches[0, index]
        image, hole = item["target"][0].numpy(), item["mask"][0].numpy() > 0
        error = np.abs(np.median(image[~hole]) - image[hole]).mean()
        row = metrics.table.set_index("id").loc[item["id"]]
        assert row["pixels/mae"] == pytest.approx(error, abs=1e-6)
        assert row["mask_area"] == pytest.approx(hole.mean())
        assert row["group"] == item["group"]
        errors.append(error)
    assert logged["test/pixels/mae"] == pytest.approx(np.mean(errors), abs=1e-6)
    for kind in ("tp", "fp", "fn"):
        assert logged[f"test/nuclei/rim_{kind}"] == metrics.table[f"nuclei/rim_{kind}"].sum()


def test_a_field_that_nobody_gives_is_named():
    with pytest.raises(ValueError, match="features"):
        Measured(HoleErrors(), ["features"]).read({"prediction": torch.zeros(1)}, {"mask": torch.zeros(1)})
    with pytest.raises(ValueError, match="tset"):
        Measured(HoleErrors(), ["mask"], stages=["tset"])


def test_a_resumed_run_keeps_the_wells_and_the_origin_of_what_it_goes_on_from():
    data = SimpleNamespace(
        groups=lambda *splits: ["p:B03", "p:B04"],
        batch_size=4,
        scaling=SimpleNamespace(state=lambda: {"kind": "plate"}),
    )
    trainer = SimpleNamespace(datamodule=data, fit_loop=SimpleNamespace(total_batch_idx=4), world_size=2)
    before = [{"path": "a", "sha256": "1"}]
    loaded = {"effort": {"seconds": 1000.0}, "trained_on": ["p:B02", "p:B03"], "started_from": before}
    provenance, saved = Provenance({"seed": 0}), {}
    assert provenance.state(trainer)["trained_on"] == [], "nothing is trained yet"
    provenance.on_load_checkpoint(trainer, None, loaded)
    provenance.on_fit_start(trainer, None)
    provenance.on_save_checkpoint(trainer, None, saved)
    assert saved["trained_on"] == ["p:B02", "p:B03", "p:B04"]
    assert saved["started_from"] == before
    assert saved["effort"]["samples"] == 40
    assert 1000 <= saved["effort"]["seconds"] < 1001
    del loaded["started_from"]  # of an earlier version
    provenance.on_load_checkpoint(trainer, None, loaded)
    assert provenance.state(trainer)["started_from"] == []
