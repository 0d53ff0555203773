"""DeepFill v2 against the published networks' numbers, its attention against a plain loop, and sizes and masks."""

from itertools import product
from pathlib import Path

import numpy as np
import parity
import pytest
import torch
from hydra.utils import instantiate
from omegaconf import OmegaConf
from torch import nn

from phenokeep.models import DeepFill
from phenokeep.models.nets import deepfill
from phenokeep.models.nets.attention import ContextualAttention
from phenokeep.models.nets.deepfill import GAIN, Discriminator, Generator, published_names
from phenokeep.models.published import fill, load

CONFIG = Path(__file__).parents[1] / "configs/model/deepfill.yaml"
# Fixture -> the options it was made with.
FIXTURES = {"dfv2": ("pytorch_port", True), "dfv2tf": ("official", False)}


def _tensors(arrays):
    return {key: torch.from_numpy(value) for key, value in arrays.items() if value.ndim > 1}


def _generator(name: str) -> Generator:
    variant, fuse = FIXTURES[name]
    return load("deepfill_v2/generator", parity.filled(f"{name}_gen"), variant=variant, fuse=fuse).eval()


def _discriminator(name: str, variant: str) -> Discriminator:
    return load("deepfill_v2/discriminator", parity.filled(f"{name}_dis"), variant=variant).eval()


def _compare_generator(net: Generator, name: str) -> None:
    io = _tensors(parity.fixture(f"{name}_gen"))
    with torch.inference_mode():
        stages = net(io["x"], io["mask"])
    for number, stage in enumerate(stages, start=1):
        torch.testing.assert_close(stage, io[f"stage{number}"], atol=5e-5, rtol=0)


def _compare_discriminator(net: Discriminator, name: str) -> None:
    io = _tensors(parity.fixture(f"{name}_dis"))
    with torch.inference_mode():
        torch.testing.assert_close(net(io["x"]), io["out"], atol=1e-6, rtol=0)


@pytest.fixture(scope="module")
def port() -> Generator:
    return _generator("dfv2")


@parity.needed
@pytest.mark.parametrize("name", FIXTURES)
def test_networks_equal_the_published_ones(name):
    _compare_generator(_generator(name), name)
    _compare_discriminator(_discriminator(name, FIXTURES[name][0]), name)


def _everything_known(mask):
    return torch.ones(len(mask), *(side // 8 for side in mask.shape[-2:]), dtype=torch.bool)


# Part of the generator -> attributes that make it wrong.
MUTANTS = {
    "softmax scale 1": ("attention", {"scale": 1.0}),
    "TF-style downsampling, no fuse": ("attention", {"align_corners": True, "fuse": False}),
    "no fuse": ("attention", {"fuse": False}),
    "mask ignored": ("attention", {"_known": _everything_known}),
    "ELU instead of ReLU before the attention": ("patches.5", {"activation": "elu"}),
}


@parity.needed
@pytest.mark.parametrize("mutant", MUTANTS)
def test_a_wrong_generator_is_rejected(mutant, port, monkeypatch):
    _compare_generator(port, "dfv2")
    part, wrong = MUTANTS[mutant]
    for name, value in wrong.items():
        monkeypatch.setattr(port.get_submodule(part), name, value)
    with pytest.raises(AssertionError, match="not close"):
        _compare_generator(port, "dfv2")


@parity.needed
@pytest.mark.parametrize("name", FIXTURES)
@pytest.mark.parametrize("mutant", ["LeakyReLU 0.1", "the other variant's padding"])
def test_a_wrong_discriminator_is_rejected(mutant, name, monkeypatch):
    variant, other = FIXTURES[name][0], {"dfv2": "official", "dfv2tf": "pytorch_port"}[name]
    net = _discriminator(name, variant if "ReLU" in mutant else other)
    if "ReLU" in mutant:
        monkeypatch.setattr(deepfill, "leaky_relu", lambda x, slope: nn.functional.leaky_relu(x, 0.1))
    with pytest.raises(AssertionError, match="not close"):
        _compare_discriminator(net, name)


@parity.needed
@pytest.mark.parametrize(
    ("align_corners", "fuse", "key"),
    [(False, True, "out_pt_fuse"), (True, False, "out_tf_nofuse"), (True, True, "out_tf_fuse")],
)
def test_attention_equals_the_published_one(align_corners, fuse, key):
    io = _tensors(np.load(parity.FOLDER / "dfv2_contextual_attention_io.npz"))
    ours = ContextualAttention(align_corners, fuse)(io["f"], io["mask"])
    torch.testing.assert_close(ours, io[key], atol=1e-5, rtol=0)


@parity.needed
def test_losses_equal_the_published_ones():
    expected = parity.contents("inpaint_losses_expected")["deepfill"]
    inputs = _tensors(np.load(parity.FOLDER / "inpaint_losses_inputs.npz"))
    model = instantiate(OmegaConf.load(CONFIG), in_channels=3, variant="pytorch_port", _convert_="all").eval()
    for part, fixture in (("generator", "dfv2_gen"), ("discriminator", "dfv2_dis")):
        fill(getattr(model, part), model.published[part], parity.filled(fixture))
    batch = {"source": inputs["img"], "target": inputs["img"], "mask": inputs["mask"][:1].expand(2, -1, -1, -1)}
    with torch.inference_mode():
        raw = model.draw(batch)
        judged, drawn = model.discriminator_loss(batch, raw), model.generator_loss(batch, raw)
    assert set(judged) == set(model.weights["discriminator"])
    assert set(drawn) == set(model.weights["generator"])
    ours = {
        "ae1": drawn["l1_stage1"] * model.weights["generator"]["l1_stage1"],
        "ae2": drawn["l1_stage2"] * model.weights["generator"]["l1_stage2"],
        "g_hinge": drawn["adversarial"] * model.weights["generator"]["adversarial"],
        "d_hinge": sum(model.weights["discriminator"][term] * value for term, value in judged.items()),
        "s1_mean": raw["stage1"].mean(),
        "s2_mean": raw["stage2"].mean(),
    }
    assert {key: float(value) for key, value in ours.items()} == pytest.approx(expected, rel=1e-4)


@parity.needed
def test_names_are_the_published_ones():
    nets = (Generator(3), Discriminator(4))
    own = {key for net in nets for key in net.state_dict() if not key.endswith("weight_v")}
    for name, (variant, _) in FIXTURES.items():
        names = published_names(variant)
        published = {key for part in ("gen", "dis") for key, *_ in parity.contents(f"{name}_{part}_keys")["keys"]}
        assert set(names) == own
        assert set(names.values()) == published - {"stage2.contextual_attention.fuse_weight"}
        assert len(set(names.values())) == len(names)
    tensorflow, port = published_names("official"), published_names("pytorch_port")
    assert {tensorflow[key]: port[key] for key in nets[0].state_dict()} == parity.contents("dfv2_tf_to_pt_keymap")


def test_settings_are_the_published_ones():
    config = OmegaConf.load(CONFIG)
    assert config.generator_lr == config.discriminator_lr == 1e-4
    assert config.betas == [0.5, 0.999]
    assert set(config.weights.generator.values()) == {1.0}
    assert set(config.weights.discriminator.values()) == {0.5}
    assert OmegaConf.load(CONFIG.parents[1] / "experiment/phirm/deepfill_finetune.yaml").trainer.max_epochs == 20
    # Kaiming's bound for outputs: sqrt(6 / (outputs * kernel^2)), and no bias.
    layer = Generator(1, init="published").coarse[1].conv
    assert 0.95 < float(layer.weight.detach().abs().max()) / (6 / (96 * 9)) ** 0.5 <= 1
    assert not layer.bias.any()


@pytest.mark.parametrize(("init", "least", "most"), [("preserving", 0.2, 1.0), ("published", 0.0, 1e-4)])
def test_the_signal_reaches_the_end_of_a_network_that_is_drawn_to_preserve_it(init, least, most):
    torch.manual_seed(0)
    features = Generator(1, init=init).coarse[:-1](torch.randn(1, 3, 128, 128)).detach()
    assert least <= features.std((2, 3)).mean() < most


def test_the_gain_preserves_the_mean_square_through_a_gated_layer():
    features, gate = torch.randn(2, 10**6, generator=torch.Generator().manual_seed(0))
    gated = torch.nn.functional.elu(features) * torch.sigmoid(gate)
    assert float(gated.square().mean().sqrt()) * GAIN == pytest.approx(1, abs=0.01)


def test_parameter_counts_are_the_published_ones():
    def count(net):
        return sum(p.numel() for p in net.parameters())

    generator = Generator(3)
    assert (count(generator), count(generator.coarse)) == (4_052_478, 1_631_151)
    assert [count(layer) for layer in Discriminator(4).children()] == [6_464, 204_928, 819_456, *[1_638_656] * 3]
    # One channel instead of three: two inputs fewer for three 5x5 convolutions of 48, two outputs fewer of 3x3x12 + 1.
    assert count(Generator(1)) == 4_052_478 - 3 * 2 * 25 * 48 - 2 * 2 * (9 * 12 + 1)


def _loop_attention(x, mask, align_corners, fuse):
    """Contextual attention of one sample (C Y X, mask 4Y 4X), pixel by pixel, as the paper tells it."""

    def reduced(a, factor):
        if not align_corners:
            return a[..., ::factor, ::factor]
        rows, columns = (np.floor(np.linspace(0, n - 1, n // factor) + 0.5).astype(int) for n in a.shape[-2:])
        return a[..., rows, :][..., columns]

    def patch(a, y, x, side):
        return np.pad(a, [(0, 0), (1, 1), (1, 1)])[:, y : y + side, x : x + side]

    def fused(s):
        out = np.zeros_like(s)
        for i, j, d in product(range(len(s)), range(len(s)), (-1, 0, 1)):
            if 0 <= i + d < len(s) and 0 <= j + d < len(s):
                out[i, j] += s[i + d, j + d]
        return out

    small, hole = reduced(x, 2), reduced(reduced(mask, 4), 2) if align_corners else mask[::8, ::8]
    height, width = small.shape[1:]
    places = list(product(range(height), range(width)))
    patches = [patch(small, y, x, 3) for y, x in places]
    scores = np.array([[(p * q).sum() / max(np.linalg.norm(q), 1e-4) for q in patches] for p in patches])
    if fuse:
        by_column = [y * width + x for x, y in product(range(width), range(height))]
        back = np.argsort(by_column)
        scores = fused(fused(scores)[np.ix_(by_column, by_column)])[np.ix_(back, back)]
    known = np.array([patch(hole[None], y, x, 3).sum() == 0 for y, x in places])
    weights = np.exp(10 * scores * known)
    weights = weights / weights.sum(1, keepdims=True) * known
    out = np.zeros((len(x), 2 * height + 2, 2 * width + 2))
    for (y, column), row in zip(places, weights, strict=True):
        pasted = sum(w * patch(x, 2 * v, 2 * u, 4) for w, (v, u) in zip(row, places, strict=True))
        out[:, 2 * y : 2 * y + 4, 2 * column : 2 * column + 4] += pasted / 4
    return out[:, 1:-1, 1:-1]


@pytest.mark.parametrize("align_corners", [False, True])
@pytest.mark.parametrize("fuse", [False, True])
def test_attention_equals_a_plain_loop_with_a_mask_per_sample(align_corners, fuse):
    rng = np.random.default_rng(0)
    x, mask = rng.normal(0, 0.3, (4, 2, 8, 12)), np.zeros((4, 1, 32, 48))
    mask[0, 0, :14, 5:20] = mask[1, 0, 12:, 30:] = 1  # and nothing in the third
    mask[1, 0, 3:5, 7:10] = mask[3] = 1
    ours = ContextualAttention(align_corners, fuse)(torch.from_numpy(x).float(), torch.from_numpy(mask).float())
    for sample in range(4):
        expected = _loop_attention(x[sample], mask[sample, 0], align_corners, fuse)
        np.testing.assert_allclose(ours[sample].numpy(), expected, atol=1e-5)
    assert not ours[3].any()  # no patch is known


def _batch(height, width, samples=2, seed=0):
    generator = torch.Generator().manual_seed(seed)
    source, mask = torch.rand(samples, 1, height, width, generator=generator), torch.zeros(samples, 1, height, width)
    mask[0, :, height // 4 : height // 2, width // 3 : width // 2] = 1
    mask[1:, :, height // 2 :, : width // 3] = 1
    return {"source": source, "mask": mask, "target": source, "id": ["a"] * samples}


def _model(**options):
    torch.manual_seed(1)
    return DeepFill(**options).eval()


def _predicted(model, batch):
    with torch.inference_mode():
        return model.test_step(batch, 0)["prediction"]


def test_a_batch_of_two_masks_equals_the_samples_alone():
    model, batch = _model(), _batch(64, 96)
    together = _predicted(model, batch)
    for sample in range(2):
        alone = _predicted(model, {key: value[sample : sample + 1] for key, value in batch.items()})
        torch.testing.assert_close(together[sample : sample + 1], alone, atol=1e-5, rtol=0)
    swapped = _predicted(model, {**batch, "mask": batch["mask"][[1, 1]]})
    assert not torch.equal(together[0], swapped[0])


@pytest.mark.parametrize("variant", ["official", "pytorch_port"])
def test_any_channels_and_sides(variant):
    model = _model(in_channels=2, variant=variant)
    source, mask = torch.rand(1, 2, 45, 70), torch.zeros(1, 1, 45, 70)
    mask[..., 30:, 50:] = 1
    with torch.inference_mode():
        raw = model(source, mask)["stage2"]
        mirrored, hole = (
            torch.from_numpy(np.pad(x.numpy(), [(0, 0), (0, 0), (0, 3), (0, 2)], mode="reflect"))
            for x in (source, mask)
        )
        x = torch.cat([(2 * mirrored - 1) * (1 - hole), torch.ones_like(hole), hole], 1)
        expected = model.generator(x, hole)[1][..., :45, :70]
    assert torch.equal(raw, expected)
    assert model.discriminator(torch.cat([raw, mask], 1)).shape[1] % 256 == 0


@pytest.mark.parametrize(("height", "width"), [(64, 64), (45, 70)])
def test_prediction_cannot_see_the_hole(height, width):
    model, batch = _model(), _batch(height, width)
    changed = {**batch, "source": batch["source"] + 0.5 * batch["mask"]}
    first, second = _predicted(model, batch), _predicted(model, changed)
    assert torch.equal(first, second)
    assert torch.equal(first * (1 - batch["mask"]), batch["source"] * (1 - batch["mask"]))
    assert first[batch["mask"] > 0].std() > 0


def test_small_fields_are_not_tiled_and_large_ones_never_pass_whole():
    small, large = _model(largest=64), _model(largest=512)
    one = {key: value[:1] for key, value in _batch(64, 64).items()}
    assert torch.equal(_predicted(small, one), _predicted(large, one))
    sides = []
    small.generator.register_forward_pre_hook(lambda net, inputs: sides.append(tuple(inputs[0].shape)))
    field = _batch(100, 160)
    prediction = _predicted(small, field)
    assert set(sides) == {(1, 3, 64, 64)}
    assert torch.equal(prediction * (1 - field["mask"]), field["source"] * (1 - field["mask"]))
    assert (prediction - field["source"])[field["mask"] > 0].abs().min() > 0  # the hole is filled to its last pixel


# Four patches of 64 px have the attention's memory of one of 64 * sqrt(2) = 90.5 px.
@pytest.mark.parametrize(("largest", "side", "at_once"), [(64, 64, {1}), (91, 64, {4, 1}), (64, 32, {5})])
def test_no_more_samples_at_once_than_the_memory_of_one_tile(largest, side, at_once):
    model, numbers = _model(largest=largest), set()
    model.generator.register_forward_pre_hook(lambda net, inputs: numbers.add(len(inputs[0])))
    batch = _batch(side, side, samples=5)
    together = _predicted(model, batch)
    assert numbers == at_once
    alone = _predicted(model, {key: value[4:] for key, value in batch.items()})
    torch.testing.assert_close(together[4:], alone, atol=1e-5, rtol=0)


def test_a_hole_in_a_single_tile_is_what_that_tile_gives():
    model = _model(largest=64)
    source, mask = torch.rand(1, 1, 64, 160), torch.zeros(1, 1, 64, 160)
    mask[..., 20:50, 4:30] = 1  # the second tile starts at column 32
    tiled = _predicted(model, {"source": source, "mask": mask})
    alone = _predicted(model, {"source": source[..., :64], "mask": mask[..., :64]})
    torch.testing.assert_close(tiled[..., :64], alone, atol=1e-6, rtol=0)
    assert torch.equal(tiled[..., 64:], source[..., 64:])


def test_bf16_autocast_trains_every_weight_and_stays_near_float32():
    model, batch = _model(), _batch(64, 64)
    exact = _predicted(model, batch)
    model.to(memory_format=torch.channels_last)
    with torch.autocast("cpu", torch.bfloat16):
        hole = batch["mask"].expand_as(exact) > 0
        assert (_predicted(model, batch) - exact)[hole].abs().mean() < 0.1 * exact[hole].std()
        model.train()
        raw = model.draw(batch)
        terms = model.discriminator_loss(batch, {key: value.detach() for key, value in raw.items()})
        sum(terms.values()).backward()
        drawn = model.generator_loss(batch, raw)
        assert {value.dtype for value in (*terms.values(), *drawn.values())} == {torch.float32}
        sum(drawn.values()).backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
        assert parameter.grad.abs().sum() > 0, name


def test_scores_stay_float32_under_autocast():
    # Patches that are all alike: their scores, about 420 after scaling, differ by less than bf16 can tell.
    x = 5 + 0.5 * torch.randn(1, 8, 16, 16, generator=torch.Generator().manual_seed(0))
    x, mask = x.bfloat16(), torch.zeros(1, 1, 64, 64)
    exact = ContextualAttention()(x.float(), mask)
    with torch.autocast("cpu", torch.bfloat16):
        cast = ContextualAttention()(x, mask)
    torch.testing.assert_close(cast.float(), exact, rtol=0.01, atol=0)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: DeepFill(variant="tensorflow"), "official or pytorch_port"),
        (lambda: published_names("tf"), "official or pytorch_port"),
        (lambda: DeepFill(largest=8), "model.largest is 8"),
        (lambda: Generator()(torch.zeros(1, 3, 60, 64), torch.zeros(1, 1, 60, 64)), "60x64.*divisible by 8"),
        (lambda: ContextualAttention()(torch.zeros(1, 2, 7, 8), torch.zeros(1, 1, 28, 32)), "even sides"),
        (lambda: ContextualAttention()(torch.zeros(1, 2, 8, 8), torch.zeros(1, 1, 16, 16)), "four times as large"),
    ],
)
def test_errors_name_the_mend(call, message):
    with pytest.raises(ValueError, match=message):
        call()
