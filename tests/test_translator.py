"""The LightningModules of label-free fluorescence: training, evaluation, settings, first weights and checkpoints."""

import contextlib
import logging

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from hydra import compose, initialize_config_module
from hydra.errors import InstantiationException
from hydra.utils import instantiate
from omegaconf import OmegaConf
from torch.nn.functional import pad
from torch.utils.data import DataLoader

from phenokeep.checkpoint import allowed_targets
from phenokeep.list import choices
from phenokeep.models import Autoencoder, Translator
from phenokeep.models.image_losses import BCE, MSE, Asymmetric, Pearson, Sobel
from phenokeep.models.nets.autoencoder import ConvAutoencoder
from phenokeep.models.nets.labelfree_unet import LabelfreeUNet
from phenokeep.models.speed import hasten
from phenokeep.settings import check_settings
from phenokeep.warmstart import warm_start

LOSSES = [Pearson(), Pearson(per_batch=True), MSE(), MSE("target", "target/prediction"), MSE("background"),
          MSE(None, "prediction/target"), *map(Asymmetric, (1, 2, 3)), BCE(), Sobel(Pearson(), 0.1)]  # fmt: skip


def small(loss=None, seed=0, variant="thesis", in_channels=1, out_channels=1, **options):
    torch.manual_seed(seed)
    net = LabelfreeUNet(in_channels, out_channels, filters=4, depth=2, variant=variant)
    return Translator(net, loss or Pearson(), in_channels, out_channels, **options)


def batch(planes=1, targets=1, size=(32, 32), seed=0):
    """Blobs, and what a microscope of gradients makes of them."""
    generator = torch.Generator().manual_seed(seed)
    noise = torch.rand(2, targets, *size, generator=generator)
    target = torch.nn.functional.avg_pool2d(pad(noise, (3, 3, 3, 3), mode="reflect"), 7, 1)
    target = ((target - target.mean()) * 3 + 0.5).clamp(0, 1)
    source = (0.5 + target.mean(1, keepdim=True) - target.mean(1, keepdim=True).roll(1, -1)).clamp(0, 1)
    names = {"id": ["a", "b"], "group": ["p:A1", "p:A2"]}
    return {"source": source.expand(-1, planes, -1, -1).clone(), "target": target, **names}


def fit(model, batches, **options):
    trainer = pl.Trainer(**{"accelerator": "cpu", "max_epochs": 1, "logger": False, "enable_checkpointing": False,
                            "enable_progress_bar": False, "enable_model_summary": False, **options})  # fmt: skip
    trainer.fit(model, DataLoader(batches, batch_size=None))
    return trainer


def composed(*overrides):
    with initialize_config_module("phenokeep.configs", version_base="1.3"):
        return compose("train", [*overrides, "output_dir=/tmp/unused", "name=test"])


def test_each_model_takes_each_loss_as_its_file_says():
    of_probabilities = {"bce", "mse_dimming", "mse_brightening", "mse_bright_brightening"}
    for loss in choices("model/loss"):
        with initialize_config_module("phenokeep.configs", version_base="1.3"):
            cfgs = {name: compose(f"model/{name}", [f"model/loss={loss}"]) for name in
                    ("labelfree_unet", "lachance", "autoencoder")}  # fmt: skip
        for name, cfg in cfgs.items():
            check_settings(cfg, ["model"])
            assert cfg.model.loss == cfgs["labelfree_unet"].model.loss
            refuses = name != "labelfree_unet" and loss in of_probabilities
            with pytest.raises(InstantiationException, match="no bound") if refuses else contextlib.nullcontext():
                instantiate(cfg.model, _convert_="all")


@pytest.mark.parametrize(
    ("name", "weights", "loss"),
    [
        ("labelfree_unet", 1_941_777, Pearson),
        ("lachance", 1_938_625, Pearson),
        ("autoencoder", 5_729, MSE),
    ],
)
def test_configs(name, weights, loss):
    cfg = composed(f"model={name}")
    check_settings(cfg, ["model"])
    model = instantiate(cfg.model, _convert_="all")
    assert sum(p.numel() for p in model.parameters()) == weights
    assert type(model.loss) is loss
    assert getattr(model.loss, "per_batch", None) == {"labelfree_unet": False, "lachance": True}.get(name)
    plain = OmegaConf.to_container(cfg.model, resolve=True)
    named = {plain["_target_"], plain["net"]["_target_"], plain["loss"]["_target_"]}
    assert named <= allowed_targets()


def test_config_keys_reach_the_network():
    cfg = composed("model=labelfree_unet", "model.in_channels=13", "model.out_channels=3", "model.net.filters=2",
                   "model.net.dropout=0.1", "model.optimizer=adam", "model.weight_decay=0.0001")  # fmt: skip
    check_settings(cfg, ["model"])
    model = instantiate(cfg.model, _convert_="all")
    assert model(torch.rand(2, 13, 32, 32)).shape == (2, 3, 32, 32)
    assert model.net.down[0].dropout.p == 0.1
    assert model.configure_optimizers().defaults["weight_decay"] == 1e-4
    for key in ("model.net.filter=2", "model.optimizer=adamw", "model.loss.per_bach=true", "model.net.dropout=much"):
        with pytest.raises(ValueError, match=key.split("=")[0]):
            check_settings(composed("model=labelfree_unet", key if key.startswith("model.net.d") else f"++{key}"))
    with pytest.raises(ValueError, match=r"model.loss.per_batch is no setting of .*BCE; there are: none"):
        check_settings(composed("model=labelfree_unet", "model/loss=bce", "+model.loss.per_batch=true"))


@pytest.mark.parametrize("loss", LOSSES, ids=lambda loss: type(loss).__name__)
@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_training_lowers_the_loss(loss, precision):
    model, data = small(loss), batch()
    if isinstance(loss, BCE):
        data["target"] = (data["target"] > 0.5).float()
    hasten(model, precision, False)
    logged = []
    model.log = lambda name, value, **_: logged.append((name, value.item()))
    fit(model, [data] * 3, precision=precision)
    assert [name for name, _ in logged] == ["train/loss"] * 3
    assert logged[2][1] < logged[1][1] < logged[0][1]


def test_lachance_learns_below_zero_and_is_clamped_in_evaluation():
    model, data = small(Pearson(per_batch=True), variant="lachance"), batch()
    torch.nn.init.constant_(model.net.merge[-1].second.bias, -9.0)
    torch.nn.init.zeros_(model.net.merge[-1].second.weight)
    assert model._draw(data["source"]).max() < -0.9
    assert not model.eval()(data["source"]).any()
    torch.nn.init.constant_(model.net.merge[-1].second.bias, 9.0)
    assert (model(data["source"]) == 1).all()
    model = small(MSE(), variant="lachance")
    torch.nn.init.constant_(model.net.merge[-1].second.bias, -2.0)
    model.training_step(data, 0).backward()
    assert model.net.merge[-1].second.bias.grad.item() < 0  # upwards, though every pixel lies outside [0, 1]


@pytest.mark.parametrize("size", [(32, 48), (30, 45), (17, 33)])
def test_any_size_is_mirrored_and_cut_back(size):
    model = small(in_channels=2, out_channels=3).eval()
    source = batch(2, size=size)["source"]
    below, right = -size[0] % 4, -size[1] % 4
    with torch.inference_mode():
        whole = model.net(pad(source, (0, right, 0, below), mode="reflect"))
        assert torch.equal(model(source), whole[..., : size[0], : size[1]])
        assert model.embed(source).shape == (2, 16, (size[0] + below) // 4, (size[1] + right) // 4)


def test_evaluation_returns_the_prediction_alone():
    model, data = small(out_channels=2).eval(), batch(targets=2)
    hasten(model, "bf16-mixed", False)
    with torch.autocast("cpu", torch.bfloat16), torch.inference_mode():
        outputs = model.validation_step(data, 0)
    assert set(outputs) == {"prediction"}
    assert outputs["prediction"].shape == (2, 2, 32, 32)
    assert outputs["prediction"].dtype == torch.float32
    assert 0 <= outputs["prediction"].min() < outputs["prediction"].max() <= 1
    assert Translator.test_step is Translator.validation_step is Translator.predict_step


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("sgd", {"lr": 0.01, "momentum": 0}),
        ("adam", {"lr": 1e-4, "betas": (0.9, 0.999)}),
        ("adadelta", {"lr": 1.0, "rho": 0.95, "eps": 1e-7}),
    ],
)
def test_optimizers_have_the_documents_constants(name, expected):
    optimizer = small(optimizer=name).configure_optimizers()
    assert type(optimizer).__name__.lower() == name
    assert {key: optimizer.defaults[key] for key in expected} == expected
    assert optimizer.defaults["weight_decay"] == 0
    changed = small(optimizer=name, lr=0.5, weight_decay=1e-4).configure_optimizers().defaults
    assert (changed["lr"], changed["weight_decay"]) == (0.5, 1e-4)


def test_weights_return_from_a_checkpoint(tmp_path, caplog):
    trained, path = small(), tmp_path / "best.ckpt"
    fit(trained, [batch()] * 2)
    effort = {"samples": 4, "seconds": 1.0}
    torch.save(
        {"state_dict": trained.state_dict(), "config": {}, "scaling": {}, "trained_on": [], "effort": effort}, path
    )
    caplog.set_level(logging.INFO, logger="phenokeep")
    for init_from in (str(path), {"net": str(path)}):
        other = small(seed=1, init_from=init_from)
        warm_start(other)
        assert f"net: from {path}" in caplog.text
        with torch.inference_mode():
            source = batch(seed=2)["source"]
            assert torch.equal(other.eval()(source), trained.eval()(source))


def test_a_run_goes_on_with_its_own_optimizer(tmp_path):
    trainer = fit(small(), [batch()])
    path = tmp_path / "last.ckpt"
    trainer.save_checkpoint(path)
    trainer = pl.Trainer(accelerator="cpu", max_epochs=2, logger=False, enable_checkpointing=False,
                         enable_progress_bar=False, enable_model_summary=False)  # fmt: skip
    for options in ({"lr": 0.5}, {"weight_decay": 1e-4}, {"optimizer": "adam"}):
        with pytest.raises(ValueError, match=r"optimized with .*'lr': 1.0.*init_from"):
            trainer.fit(small(**options), DataLoader([batch()], batch_size=None), ckpt_path=path, weights_only=True)
    trainer.fit(small(), DataLoader([batch()], batch_size=None), ckpt_path=path, weights_only=True)
    assert trainer.global_step == 2


def test_the_rate_comes_down_to_nothing_and_a_stopped_run_stays_on_its_curve(tmp_path):
    path, batches = tmp_path / "last.ckpt", DataLoader([batch(seed=n) for n in range(3)], batch_size=None)
    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False, "accelerator": "cpu"}

    class Saving(pl.Callback):
        def on_train_epoch_end(self, trainer, module):
            rates.append(trainer.optimizers[0].param_groups[0]["lr"])
            if trainer.current_epoch == 1:
                trainer.save_checkpoint(path)

    def run(epochs, ckpt_path=None, callbacks=(), **options):
        model = small(optimizer="adam", lr=0.01, **{"schedule": "cosine"} | options)
        trainer = pl.Trainer(max_epochs=epochs, callbacks=list(callbacks), enable_model_summary=False, **quiet)
        trainer.fit(model, batches, ckpt_path=ckpt_path, weights_only=True)
        return model

    rates = []
    whole = run(4, callbacks=[Saving()])
    np.testing.assert_allclose(rates, 0.005 * (1 + np.cos(np.pi * np.arange(1, 5) / 4)), atol=1e-9)
    resumed = run(4, path)
    assert all(torch.equal(a, b) for a, b in zip(whole.parameters(), resumed.parameters(), strict=True))
    with pytest.raises(ValueError, match=r"down to 0 at step 12, and these settings end at step 18"):
        run(6, path)
    with pytest.raises(ValueError, match=r"'schedule': 'cosine'.*not.*'schedule': 'constant'"):
        run(4, path, schedule="constant")
    with pytest.raises(ValueError, match=r"schedule=cosine needs an end"):
        run(-1)


def test_what_the_translator_refuses():
    with pytest.raises(ValueError, match=r"model.in_channels is 2 and model.net's 1"):
        Translator(LabelfreeUNet(filters=1), Pearson(), in_channels=2)
    with pytest.raises(ValueError, match=r"model.out_channels is 2 and model.net's 1"):
        Translator(LabelfreeUNet(filters=1), Pearson(), out_channels=2)
    for loss in (BCE(), Sobel(BCE()), MSE(None, "target/prediction")):
        with pytest.raises(ValueError, match=rf"{type(loss).__name__}.*no bound"):
            small(loss, variant="lachance")
    for wrong in (-1e-4, 1.0, float("nan")):
        with pytest.raises(ValueError, match=r"model.weight_decay"):
            small(weight_decay=wrong)
    with pytest.raises(ValueError, match=r"source has 3 planes and model.in_channels is 1"):
        small()(torch.rand(1, 3, 16, 16))
    with pytest.raises(ValueError, match=r"model.out_channels=2"):
        small().training_step(batch(targets=2), 0)


@pytest.mark.parametrize("embedding", [3528, 200])
def test_autoencoder_draws_its_source(embedding):
    torch.manual_seed(0)
    model = Autoencoder(ConvAutoencoder(embedding=embedding), MSE(), optimizer="adam", lr=1e-3)
    data = batch(size=(256, 256))
    del data["target"]
    logged = []
    model.log = lambda name, value, **_: logged.append(value.item())
    fit(model, [data] * 3)
    assert logged[2] < logged[0]
    with torch.inference_mode():
        model.eval()
        raw = model.net(data["source"])
        assert logged[0] > (raw - data["source"]).square().mean().item()
        assert torch.equal(model.validation_step(data, 0)["prediction"], raw.clamp(0, 1))
        assert model.embed(data["source"]).flatten(1).shape == (2, embedding)


def test_misspelt_key_among_the_options_of_a_class_is_found():
    with pytest.raises(ValueError, match=r"data\.batchsize is no setting of .*VirtualPairs; did you mean 'batch_size'"):
        check_settings(composed("experiment=labelfree/nuclei", "+data.batchsize=3"), ("data",))
