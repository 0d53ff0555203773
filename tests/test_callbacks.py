"""The phenotype metrics of a run against metrics computed by hand over its samples."""

import numpy as np
import pytest
import torch
from hydra.utils import instantiate
from pytorch_lightning import Trainer

from phenokeep.callbacks import Measured, PhenotypeMetrics
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
