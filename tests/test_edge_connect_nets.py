"""EdgeConnect's networks equal the published ones, learn, and refuse what they cannot take."""

import copy

import numpy as np
import parity
import pytest
import torch
from torch import nn

from phenokeep.models.nets.edge_connect import Discriminator, EdgeGenerator, InpaintGenerator
from phenokeep.models.nets.spectral import SpectralConv2d, SpectralConvTranspose2d

GENERATORS = {"ec_edge_gen": EdgeGenerator, "ec_inpaint_gen": lambda: InpaintGenerator(3)}
DISCRIMINATORS = {"ec_edge_dis": lambda: Discriminator(2), "ec_inpaint_dis": lambda: Discriminator(3)}
NETWORKS = GENERATORS | DISCRIMINATORS


def published(name):
    net = NETWORKS[name]()
    net.load_state_dict(parity.without_aliases(parity.filled(name)), strict=True)
    return net.eval()


def error(net, name):
    """The largest difference from the fixture, in units of its tolerance."""
    expected = parity.fixture(name)
    with torch.no_grad():
        found = net(torch.from_numpy(expected["x"]))
    if name in GENERATORS:
        return abs(found.numpy() - expected["out"]).max() / 5e-5
    maps = [feature.double() for feature in found[1]]
    pairs = [
        (found[0], expected["out"]),
        (maps[-1], expected["conv5"]),
        ([m.mean() for m in maps], expected["feat_mean"]),
        ([m.abs().mean() for m in maps], expected["feat_absmean"]),
    ]
    return max(abs(np.array(own) - reference).max() for own, reference in pairs) / 1e-6


@parity.needed
@pytest.mark.parametrize("name", NETWORKS)
def test_published_outputs(name):
    assert error(published(name), name) < 1


def swap(net, kind, change):
    """A copy of the network with every module of a kind replaced."""
    net = copy.deepcopy(net)
    for path, module in list(net.named_modules()):
        if isinstance(module, kind):
            net.set_submodule(path, change(module))
    return net


def dilated_by_one(net):
    net = copy.deepcopy(net)
    for block in net.middle:
        block.conv_block[0] = nn.ReflectionPad2d(1)
        layer = block.conv_block[1]
        if isinstance(layer, SpectralConv2d):
            layer.options = {}
        else:
            layer.dilation = (1, 1)
    return net


def with_relu_after_the_sum(net):
    net = copy.deepcopy(net)
    net.middle = nn.Sequential(*(nn.Sequential(block, nn.ReLU()) for block in net.middle))
    return net


def with_zero_padding_in(part):
    def mutant(net):
        net = copy.deepcopy(net)
        setattr(net, part, swap(getattr(net, part), nn.ReflectionPad2d, lambda pad: nn.ZeroPad2d(pad.padding)))
        return net

    return mutant


GENERATOR_MUTANTS = {
    "zero padding": lambda net: swap(net, nn.ReflectionPad2d, lambda pad: nn.ZeroPad2d(pad.padding)),
    "zero padding in the encoder": with_zero_padding_in("encoder"),
    "zero padding in the blocks": with_zero_padding_in("middle"),
    "zero padding in the decoder": with_zero_padding_in("decoder"),
    "dilation 1": dilated_by_one,
    "relu after the sum": with_relu_after_the_sum,
    "instance norm eps": lambda net: swap(net, nn.InstanceNorm2d, lambda n: nn.InstanceNorm2d(n.num_features, 1e-3)),
}
DISCRIMINATOR_MUTANTS = {"leaky relu 0.1": lambda net: swap(net, nn.LeakyReLU, lambda _: nn.LeakyReLU(0.1))}


@parity.needed
@pytest.mark.parametrize(
    ("name", "mutant"),
    [(name, mutant) for name in GENERATORS for mutant in GENERATOR_MUTANTS]
    + [(name, mutant) for name in DISCRIMINATORS for mutant in DISCRIMINATOR_MUTANTS],
)
def test_wrong_variants_are_rejected(name, mutant):
    net = (GENERATOR_MUTANTS | DISCRIMINATOR_MUTANTS)[mutant](published(name))
    assert error(net, name) > 10


@parity.needed
@pytest.mark.parametrize("name", NETWORKS)
def test_published_keys(name):
    listed = {key: tuple(shape) for key, shape, *_ in parity.contents(f"{name}_keys")["keys"]}
    assert {k: tuple(v.shape) for k, v in NETWORKS[name]().state_dict().items()} == parity.without_aliases(listed)


@pytest.mark.parametrize(
    ("net", "keys", "parts"),
    [
        (EdgeGenerator, 70, [665_216, 9_437_184, 658_689]),
        (GENERATORS["ec_inpaint_gen"], 44, [668_352, 9_441_280, 664_963]),
        (DISCRIMINATORS["ec_edge_dis"], 15, [2_048, 131_072, 524_288, 2_097_152, 8_192]),
        (DISCRIMINATORS["ec_inpaint_dis"], 15, [3_072, 131_072, 524_288, 2_097_152, 8_192]),
    ],
)
def test_parameter_counts(net, keys, parts):
    net = net()
    assert [sum(p.numel() for p in part.parameters()) for part in net.children()] == parts
    assert len(net.state_dict()) == keys  # a published discriminator's 18 hold three aliases


@pytest.mark.parametrize("channels", [1, 2, 5])
def test_any_channels_and_oblong_images(channels):
    torch.manual_seed(0)
    painted = InpaintGenerator(channels, blocks=1)(torch.rand(2, channels + 1, 12, 40))
    edges = EdgeGenerator(channels + 2, channels, blocks=1)(torch.rand(2, channels + 2, 40, 12))
    assert painted.shape == (2, channels, 12, 40)
    assert edges.shape == (2, channels, 40, 12)
    assert painted.min() >= 0
    assert painted.max() <= 1
    out, features = Discriminator(channels)(torch.rand(2, channels, 24, 37))
    assert [tuple(m.shape[1:]) for m in features] == [(64, 12, 18), (128, 6, 9), (256, 3, 4), (512, 2, 3), (1, 1, 2)]
    assert torch.equal(out, features[-1].sigmoid())


def test_hinge_discriminator_gives_logits():
    out, features = Discriminator(1, sigmoid=False)(torch.rand(1, 1, 32, 32))
    assert torch.equal(out, features[-1])


def test_unfit_sizes_are_refused():
    for shape in ((64, 66), (30, 64), (8, 64)):
        with pytest.raises(ValueError, match=rf"{shape[0]}x{shape[1]}.*divisible by 4.*fitted"):
            InpaintGenerator(1, blocks=1)(torch.zeros(1, 2, *shape))
    with pytest.raises(ValueError, match=r"23x64.*24 px"):
        Discriminator(1)(torch.zeros(1, 1, 23, 64))


@pytest.mark.parametrize("net", [EdgeGenerator(blocks=1), InpaintGenerator(2, blocks=1), Discriminator(3)])
def test_initial_weights(net):
    for name, parameter in net.named_parameters():
        if name.endswith("bias"):
            assert not parameter.any()
        else:
            assert abs(parameter.mean()) < 5 * 0.02 / parameter.numel() ** 0.5
            assert abs(parameter.std() / 0.02 - 1) < 4 / parameter.numel() ** 0.5


@pytest.mark.parametrize("net", [EdgeGenerator(blocks=2), InpaintGenerator(2, blocks=2), Discriminator(3)])
def test_every_weight_learns(net):
    torch.manual_seed(0)
    out = net(torch.rand(2, 3, 32, 32))
    (out if torch.is_tensor(out) else out[0]).square().mean().backward()
    for name, parameter in net.named_parameters():
        assert parameter.grad.isfinite().all()
        # A bias before instance normalisation has no effect; the last layer's has.
        assert name.endswith("bias") or parameter.grad.any(), name


@pytest.mark.parametrize("net", [EdgeGenerator(blocks=2), InpaintGenerator(2, blocks=2), Discriminator(3)])
def test_bfloat16_channels_last_is_close(net):
    torch.manual_seed(0)
    x = torch.rand(2, 3, 48, 32)
    with torch.no_grad():
        net(x)  # one power iteration, as the first step of a training makes
        net.eval()
        exact = net(x)
        with torch.autocast("cpu", torch.bfloat16):
            fast = net.to(memory_format=torch.channels_last)(x.to(memory_format=torch.channels_last))
    pairs = zip(*((v,) if torch.is_tensor(v) else (v[0], *v[1]) for v in (exact, fast)), strict=True)
    for a, b in pairs:
        assert b.dtype == torch.bfloat16
        assert (a - b.float()).abs().mean() < 0.02 * a.abs().mean()
    for module in net.modules():
        if isinstance(module, SpectralConv2d | SpectralConvTranspose2d):
            with torch.autocast("cpu", torch.bfloat16):
                assert module.weight().dtype == torch.float32


@pytest.mark.parametrize(
    ("own", "plain", "options"),
    [
        (SpectralConv2d, nn.Conv2d, {}),
        (SpectralConv2d, nn.Conv2d, {"dilation": 2, "bias": False}),
        (SpectralConv2d, nn.Conv2d, {"stride": 2, "padding": 1, "bias": False}),
        (SpectralConvTranspose2d, nn.ConvTranspose2d, {"stride": 2, "padding": 1}),
    ],
)
def test_spectral_norm_equals_torchs_over_steps(own, plain, options):
    """Two passes a step, as a discriminator makes them for real and fake, then one in evaluation."""
    torch.manual_seed(0)
    layer = own(6, 8, 4, **options)
    reference = nn.utils.spectral_norm(plain(6, 8, 4, **options), dim=1 if plain is nn.ConvTranspose2d else 0)
    reference.load_state_dict(layer.state_dict(), strict=True)
    start = layer.weight_orig.detach().clone()
    for _ in range(4):
        real, fake = torch.rand(2, 2, 6, 12, 12)
        for net in (layer, reference):
            net.zero_grad()
            (net(real).square().mean() - net(fake).abs().mean()).backward()
            with torch.no_grad():
                for parameter in net.parameters():
                    parameter -= 0.1 * parameter.grad
        for name, value in reference.state_dict().items():
            assert torch.equal(layer.state_dict()[name], value), name
    assert (layer.weight_orig - start).abs().max() > 1e-3
    assert torch.equal(layer.eval()(real), reference.eval()(real))
