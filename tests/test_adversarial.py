"""The adversarial base: accumulation, clipping, recomputed activations, bfloat16, compilation, and what is a step."""

import copy
import os
import signal
from functools import partial
from types import SimpleNamespace

import pandas as pd
import pytest
import pytorch_lightning as pl
import torch
from hydra import compose, initialize_config_module
from torch import nn
from torch._dynamo.testing import CompileCounterWithBackend
from torch.nn.functional import softplus

from phenokeep import run
from phenokeep.checkpoint import read_checkpoint
from phenokeep.cli import _register_checkpoint
from phenokeep.models import ContextEncoder
from phenokeep.models.adversarial import Adversarial
from phenokeep.models.nets import context_encoder, deepfill, edge_connect
from phenokeep.models.nets.layers import DenseConv2d, DenseConvTranspose2d, InstanceNorm2d
from phenokeep.models.nets.spectral import SpectralConv2d
from phenokeep.models.speed import hasten, recompute
from phenokeep.run import evaluate, train

LAST = "callbacks.last={_target_: phenokeep.callbacks.Last, folder: '${output_dir}', every_n_steps: 1}"
FEW = ("study.n_bootstrap=50", "study.nulls=[other_field]", "study.classical=[telea]")
ENCODER = ("experiment=phirm/context_encoder", "model.bottleneck=8")


class Net(nn.Module):
    def __init__(self, inputs, conv):
        super().__init__()
        self.layers = nn.Sequential(conv(inputs, 8, 3), nn.ReLU(inplace=True), conv(8, 8, 3), nn.ReLU(), conv(8, 1, 3))

    def forward(self, x):
        return self.layers(nn.functional.pad(x, (3, 3, 3, 3)))


class Toy(Adversarial):
    """Without batch normalisation: the gradient of a batch is the mean of its parts'."""

    def __init__(self, generator_lr=1e-3, discriminator_lr=0.0, **options):
        super().__init__(generator_lr, discriminator_lr, **options)
        torch.manual_seed(1)
        self.generator, self.discriminator = Net(2, nn.Conv2d), Net(1, nn.Conv2d)
        self.gradients = {}  # (side, step) -> gradients
        self.losses = []
        self.autocast_in_backward = []

    def forward(self, source, mask):
        return self.generator(torch.cat([source * (1 - mask), mask], 1))

    def discriminator_loss(self, batch, raw):
        real, fake = self.discriminator(batch["target"]), self.discriminator(raw)
        return {"real": softplus(-real).mean(), "fake": softplus(fake).mean()}

    def generator_loss(self, batch, raw):
        raw.register_hook(lambda _: self.autocast_in_backward.append(torch.is_autocast_enabled("cpu")))
        fake, error = self.discriminator(raw), (raw - batch["target"]).abs()
        terms = {"adversarial": softplus(-fake).mean(), "error": error.mean()}
        self.losses.append(sum(term.item() for term in terms.values()))
        return terms

    def on_before_optimizer_step(self, optimizer):
        super().on_before_optimizer_step(optimizer)
        side = "generator" if optimizer is self.trainer.optimizers[0] else "discriminator"
        self.gradients[side, self.global_step] = [p.grad.clone() for p in getattr(self, side).parameters()]


def _batches(sizes):
    """Batches whose rows are the same whatever the sizes are."""
    generator = torch.Generator().manual_seed(0)
    target = torch.rand(sum(sizes), 1, 16, 16, generator=generator)
    mask = (torch.rand(sum(sizes), 1, 16, 16, generator=generator) < 0.3).float()
    rows = zip(target.split(list(sizes)), mask.split(list(sizes)), strict=True)
    return [{"source": t, "target": t, "mask": m, "id": [str(i) for i in range(len(t))]} for t, m in rows]


def _fit(model, batches, **options):
    off = ("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary")
    trainer = pl.Trainer(**{"accelerator": "cpu", "max_epochs": 1, **dict.fromkeys(off, False), **options})
    trainer.fit(model, torch.utils.data.DataLoader(batches, batch_size=None))
    return trainer


def _assert_same(ours, expected, **tolerance):
    for a, b in zip(ours, expected, strict=True):
        torch.testing.assert_close(a, b, **tolerance)


def test_accumulated_batches_are_one_larger_batch():
    parts, whole = Toy(accumulate_grad_batches=3), Toy()
    # Five batches of 2: windows of 3 and of 2. The discriminator stands still (rate 0): both runs meet the same one.
    trainer = _fit(parts, _batches([2] * 5))
    assert trainer.global_step == _fit(whole, _batches([6, 4])).global_step == 2
    assert (
        set(parts.gradients) == set(whole.gradients) == {(s, i) for s in ("generator", "discriminator") for i in (0, 1)}
    )
    for key, gradients in parts.gradients.items():
        _assert_same(gradients, whole.gradients[key], rtol=1e-4, atol=1e-7)


def test_gradients_are_clipped_to_a_norm_on_each_side():
    free, bound = Toy(), Toy(gradient_clip_val=1e-3)
    for model in (free, bound):
        _fit(model, _batches([4]))
    for key, gradients in free.gradients.items():
        norm = torch.cat([g.flatten() for g in gradients]).norm()
        assert norm > 2e-3
        _assert_same(bound.gradients[key], [g * 1e-3 / norm for g in gradients], rtol=1e-3, atol=1e-9)


@pytest.mark.parametrize(
    ("key", "value"), [("accumulate_grad_batches", 0), ("gradient_clip_val", 0.0), ("gradient_clip_val", float("nan"))]
)
def test_settings_without_meaning_are_refused(key, value):
    with pytest.raises(ValueError, match=rf"model\.{key} is"):
        Toy(**{key: value})


def test_clipping_in_float16_is_refused():
    model = Toy(gradient_clip_val=1.0)
    model._trainer = SimpleNamespace(precision="16-mixed")  # on a CPU, Lightning takes bf16-mixed for it
    with pytest.raises(ValueError, match="trainer=fast"):
        model.on_fit_start()


NETWORKS = {
    "context_encoder": (lambda: context_encoder.Generator(1, 8), (1, 128)),
    "edge_connect": (lambda: edge_connect.EdgeGenerator(blocks=1), (3, 32)),
    "deepfill": (lambda: deepfill.Generator(1), (3, 64)),
}


@pytest.mark.parametrize("autocast", [False, True])
@pytest.mark.parametrize("name", NETWORKS)
def test_recomputed_activations_change_nothing(name, autocast):
    torch.manual_seed(0)
    make, (channels, side) = NETWORKS[name]
    kept = make()
    again = copy.deepcopy(kept)
    recompute(again)
    recompute(again)  # a second fit
    assert list(again.state_dict()) == list(kept.state_dict())
    passes = []
    for module in again.modules():
        if isinstance(module, nn.Conv2d | SpectralConv2d):
            module.register_forward_hook(lambda module, *_: passes.append(module))
    x, mask = torch.rand(2, channels, side, side), torch.zeros(2, 1, side, side)
    mask[..., 10:20, 8:24] = 1
    for net in (kept, again):
        for _ in range(2):
            with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
                out = net(x, mask)[1] if name == "deepfill" else net(x)
            out.float().square().mean().backward()
    assert max(map(passes.count, passes)) == 4  # twice in each of two steps
    _assert_same([p.grad for p in again.parameters()], [p.grad for p in kept.parameters()], rtol=0, atol=0)
    _assert_same(list(again.buffers()), list(kept.buffers()), rtol=0, atol=0)


def test_checkpointing_key_recomputes_the_generator_alone():
    kept, again = Toy(), Toy(gradient_checkpointing=True)
    passes = {"generator": 0, "discriminator": 0}

    def count(side, *_):
        passes[side] += 1

    for side in passes:
        getattr(again, side).layers[0].register_forward_hook(partial(count, side))
    for model in (kept, again):
        _fit(model, _batches([4, 4]))
    assert passes == {"generator": 2 * 2, "discriminator": 2 * 3}
    for key, gradients in kept.gradients.items():
        _assert_same(again.gradients[key], gradients, rtol=0, atol=0)


def test_a_compiled_network_is_not_recomputed():
    model = Toy(gradient_checkpointing=True)
    hasten(model, "32-true", compiled=True)
    with pytest.raises(ValueError, match="exclude each other"):
        _fit(model, _batches([2]))


def test_instance_norm_is_torchs_own_in_both_layouts():
    torch.manual_seed(0)
    for layout in (torch.contiguous_format, torch.channels_last):
        x = torch.randn(3, 4, 9, 7).mul(5).add(2).to(memory_format=layout)
        ours, theirs = (norm(x) for norm in (InstanceNorm2d(4), nn.InstanceNorm2d(4)))
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)
    assert ours.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize(("ours", "theirs"), [(DenseConv2d, nn.Conv2d), (DenseConvTranspose2d, nn.ConvTranspose2d)])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_dense_convolutions_are_torchs_own_in_both_layouts(ours, theirs, layout):
    torch.manual_seed(0)
    own, torchs = ours(3, 5, 4).to(memory_format=layout), theirs(3, 5, 4, bias=False).to(memory_format=layout)
    torchs.load_state_dict(own.state_dict())
    x = torch.randn(2, 3, 6, 8)
    outs = [conv(x) for conv in (own, torchs)]
    for out in outs:
        out.square().mean().backward()
    torch.testing.assert_close(*outs, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(own.weight.grad, torchs.weight.grad, rtol=1e-5, atol=1e-6)


def test_bfloat16_gives_the_losses_of_float32_within_noise():
    plain, fast = Toy(discriminator_lr=1e-3), Toy(discriminator_lr=1e-3)
    hasten(fast, "bf16-mixed", compiled=False)
    _fit(plain, _batches([4] * 8))
    _fit(fast, _batches([4] * 8), precision="bf16-mixed")
    assert plain.losses != fast.losses
    assert fast.losses == pytest.approx(plain.losses, rel=0.02)
    # What ran in float32 under autocast gets its gradient in float32: no backward pass is under autocast.
    assert fast.autocast_in_backward == [False] * 8
    layer = fast.generator.layers[2]
    assert layer.weight.dtype == torch.float32
    assert layer.weight.is_contiguous(memory_format=torch.channels_last)


def test_fast_trains_and_evaluates(config, tmp_path):
    losses = {}
    for name in ("default", "fast"):
        options = (*ENCODER, LAST, f"trainer={name}", "trainer.limit_train_batches=3", f"output_dir={tmp_path}/{name}")
        assert 0 < train(config(*options))["val/pixels/mae"] < 1
        log = pd.read_csv(tmp_path / name / "logs/version_0/metrics.csv")
        losses[name] = log["train/generator/loss"].dropna().tolist()
    assert losses["fast"] != losses["default"]
    assert losses["fast"] == pytest.approx(losses["default"], rel=0.1)

    saved = tmp_path / "default/last.ckpt"
    judged = {}
    for name in ("default", "fast"):
        arguments = _register_checkpoint([f"ckpt_path={saved}", f"trainer={name}", "debug=tiny", *FEW])
        with initialize_config_module("phenokeep.configs", version_base="1.3"):
            judged[name] = evaluate(compose("eval", [*arguments, f"output_dir={tmp_path}/judged_{name}"]))
    assert judged["fast"]["test/pixels/mae"] != judged["default"]["test/pixels/mae"]
    assert judged["fast"]["test/pixels/mae"] == pytest.approx(judged["default"]["test/pixels/mae"], rel=0.02)


def test_a_fast_run_goes_on_in_another_layout():
    """Adam's moments of a channels-last run, read by a contiguous one."""
    first = Toy()
    hasten(first, "bf16-mixed", compiled=False)
    state = _fit(first, _batches([4, 4])).optimizers[0].state_dict()
    second = Toy()
    second.load_state_dict(first.state_dict())

    class Restored(pl.Callback):
        def on_fit_start(self, trainer, pl_module):
            trainer.optimizers[0].load_state_dict(state)

    expected = copy.deepcopy(second.generator)
    reference = torch.optim.Adam(expected.parameters(), lr=second.generator_lr, betas=second.betas)
    reference.load_state_dict(copy.deepcopy(state))
    for group in reference.param_groups:
        group["fused"] = None
    _fit(second, _batches([4]), callbacks=[Restored()])
    for weight, gradient in zip(expected.parameters(), second.gradients["generator", 0], strict=True):
        weight.grad = gradient
    reference.step()
    _assert_same(list(second.generator.parameters()), list(expected.parameters()), rtol=1e-5, atol=1e-8)


@pytest.fixture
def graphs(monkeypatch):
    """Counts compiled graphs, which are traced and differentiated as ever and not turned into C++."""
    counter = CompileCounterWithBackend("aot_eager")
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend=counter))
    return counter


def test_compiled_training_compiles_once_and_keeps_the_keys(graphs):
    plain, compiled = Toy(discriminator_lr=1e-3), Toy(discriminator_lr=1e-3)
    for model in (plain, compiled):  # each pass of a step iterates its vectors
        torch.manual_seed(2)
        model.discriminator = Net(1, SpectralConv2d)
    hasten(compiled, "32-true", compiled=True)
    _fit(compiled, _batches([4, 4]))
    # One graph of the generator; of the discriminator one with weights that learn and one without.
    assert graphs.frame_count == 3
    _fit(compiled, _batches([4] * 6))
    assert graphs.frame_count == 3
    _fit(plain, _batches([4, 4]))
    _fit(plain, _batches([4] * 6))
    assert compiled.losses == pytest.approx(plain.losses, rel=1e-4)
    plain.load_state_dict(compiled.state_dict())


def test_a_pass_leaves_the_singular_vectors_of_an_earlier_one_alone():
    """Changed in place, those of a compiled first pass were gone when its gradient was taken."""
    conv = SpectralConv2d(2, 3, 3)
    before = conv.weight_u, conv.weight_v
    kept = [vector.clone() for vector in before]
    conv(torch.rand(1, 2, 8, 8))
    _assert_same(before, kept, rtol=0, atol=0)
    assert not torch.equal(conv.weight_u, kept[0])
    assert list(conv.state_dict()) == ["weight_orig", "bias", "weight_u", "weight_v"]


def test_compile_is_a_key_of_training(graphs, config):
    cfg = config(*ENCODER, LAST, "compile=true", "trainer.limit_train_batches=1")
    train(cfg)
    assert graphs.frame_count > 0
    ContextEncoder(bottleneck=8).load_state_dict(read_checkpoint(f"{cfg.output_dir}/last.ckpt")["state_dict"])


class Stop(pl.Callback):
    """Ctrl-C, or a failure, before one batch."""

    def __init__(self, batch, interrupt):
        self.batch, self.interrupt = batch, interrupt

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        if batch_idx == self.batch:
            if not self.interrupt:
                raise RuntimeError("power cut")
            os.kill(os.getpid(), signal.SIGINT)


@pytest.mark.parametrize(("batch", "interrupt", "kept"), [(3, False, (1, 4)), (2, True, (2, 8))])
def test_resumed_accumulating_run_ends_bitwise_equal(batch, interrupt, kept, config, tmp_path, monkeypatch):
    # Five batches of two an epoch: windows of 2, 2 and 1 batches, three steps; Last writes after every step.
    options = [*ENCODER, LAST, "model.accumulate_grad_batches=2"]
    options.append("trainer.limit_train_batches=5")
    train(config(*options, f"output_dir={tmp_path}/unbroken"))

    own = run._callbacks
    with monkeypatch.context() as patch:
        patch.setattr(run, "_callbacks", lambda cfg: [Stop(batch, interrupt), *own(cfg)])
        with pytest.raises((RuntimeError, KeyboardInterrupt, SystemExit)):
            train(config(*options, f"output_dir={tmp_path}/broken"))
    # A power cut with a gradient pending leaves the step before it; Ctrl-C there waits for the next step.
    stopped = read_checkpoint(tmp_path / "broken/last.ckpt")
    assert (stopped["global_step"], stopped["effort"]["samples"]) == kept

    train(config(*options, f"output_dir={tmp_path}/broken", "ckpt_path=last"))
    expected, got = (read_checkpoint(tmp_path / name / "last.ckpt") for name in ("unbroken", "broken"))
    assert (got["global_step"], got["effort"]["samples"]) == (3, 10)
    assert (expected["global_step"], expected["effort"]["samples"]) == (3, 10)
    assert expected["state_dict"].keys() == got["state_dict"].keys()
    assert all(torch.equal(value, got["state_dict"][key]) for key, value in expected["state_dict"].items())
