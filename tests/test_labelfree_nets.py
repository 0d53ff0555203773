"""The networks of label-free fluorescence against their documents: sizes, layers, first weights, receptive field."""

import math

import pytest
import torch
from scipy import stats
from torch import nn

from phenokeep.models.nets.autoencoder import ConvAutoencoder
from phenokeep.models.nets.labelfree_unet import LabelfreeUNet

LACHANCE = {"variant": "lachance", "dropout": [0.1, 0.1, 0.2, 0.2, 0.3]}


@pytest.fixture(scope="module")
def thesis():
    torch.manual_seed(0)
    return LabelfreeUNet().eval()


def _leaves(net, x):
    """The layers without parts in the order in which they are called: name, inputs, output."""
    called = []
    hooks = [
        layer.register_forward_hook(
            lambda _, given, out, name=name: called.append((name, given[0].clone(), out.clone()))
        )
        for name, layer in net.named_modules()
        if not list(layer.children())
    ]
    net(x)
    for hook in hooks:
        hook.remove()
    return called


@pytest.mark.parametrize(
    ("options", "weights", "bottleneck"),
    [({}, 1_941_777, 256), ({"filters": 64}, 31_034_433, 1024), (LACHANCE, 1_938_625, 256)],
)
def test_published_sizes(options, weights, bottleneck):
    with torch.device("meta"):
        net = LabelfreeUNet(**options).eval()
        x = torch.empty(2, 1, 256, 256)
    assert sum(p.numel() for p in net.parameters()) == weights
    running = [b.numel() for name, b in net.named_buffers() if "running" in name]
    assert sum(running) == (0 if "variant" in options else 2 * bottleneck // 16 * (2 + 4 + 8 + 16))
    assert net.embed(x).shape == (2, bottleneck, 16, 16)
    assert net(x).shape == x.shape


def test_batch_normalisation_follows_the_first_convolution_after_each_pooling(thesis):
    names = [name for name, layer in thesis.named_modules() if isinstance(layer, nn.BatchNorm2d)]
    assert names == [f"down.{level}.norm" for level in (1, 2, 3, 4)]
    called = {name: (given, out) for name, given, out in _leaves(thesis, torch.rand(1, 1, 32, 32))}
    for level in (1, 2, 3, 4):
        block = f"down.{level}"
        pooled = nn.functional.max_pool2d(nn.functional.elu(called[f"down.{level - 1}.second"][1]), 2)
        assert torch.equal(called[f"{block}.first"][0], pooled)
        assert torch.equal(called[f"{block}.norm"][0], called[f"{block}.first"][1])
        assert torch.equal(called[f"{block}.second"][0], nn.functional.elu(called[f"{block}.norm"][1]))


def test_upsampled_maps_come_before_the_skip(thesis):
    called = {name: (given, out) for name, given, out in _leaves(thesis, torch.rand(1, 1, 32, 32))}
    for step, level in enumerate((3, 2, 1, 0)):
        skip = nn.functional.elu(called[f"down.{level}.second"][1])
        assert torch.equal(called[f"merge.{step}.first"][0], torch.cat([called[f"up.{step}"][1], skip], 1))


def test_lachance_has_dropout_as_published_and_an_elu_at_the_end():
    torch.manual_seed(0)
    net = LabelfreeUNet(**LACHANCE)
    assert not [layer for layer in net.modules() if isinstance(layer, nn.BatchNorm2d)]
    assert [block.dropout.p for block in net.down] == [0.1, 0.1, 0.2, 0.2, 0.3]
    assert [block.dropout.p for block in net.merge] == [0.2, 0.2, 0.1, 0.1]
    assert (net.merge[-1].second.kernel_size, net.merge[-1].second.out_channels) == ((3, 3), 1)
    x = torch.rand(1, 1, 32, 32)
    assert not torch.equal(net(x), net(x))  # dropout draws while training
    last = _leaves(net.eval(), x)[-2]
    assert last[0] == "merge.3.second"
    assert torch.equal(net(x), nn.functional.elu(last[2]))


def test_dropout_lies_between_the_convolutions_of_every_block_and_has_no_keys(thesis):
    net = LabelfreeUNet(dropout=0.1)
    assert [layer.p for layer in net.modules() if isinstance(layer, nn.Dropout)] == [0.1] * 9
    net.load_state_dict(thesis.state_dict())
    order = [name for name, _, _ in _leaves(net.eval(), torch.rand(1, 1, 16, 16)) if name.startswith("merge.0")]
    assert order == [f"merge.0.{part}" for part in ("first", "norm", "dropout", "second")]


def test_first_weights_are_those_of_keras():
    """He's normal, cut off at two standard deviations and widened to keep its own; Glorot's uniform for upsampling."""
    torch.manual_seed(0)
    net = LabelfreeUNet()
    convolutions = [layer for layer in net.modules() if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d)]
    assert len(convolutions) == 18 + 4 + 1
    for layer in convolutions:
        values = layer.weight.detach().double().flatten().numpy()
        field = math.prod(layer.kernel_size)
        if isinstance(layer, nn.ConvTranspose2d):
            limit = math.sqrt(6 / (field * (layer.in_channels + layer.out_channels)))
            expected, wanted = stats.uniform(-limit, 2 * limit), limit / math.sqrt(3)
        else:
            wanted = math.sqrt(2 / (field * layer.in_channels))
            expected = stats.truncnorm(-2, 2, scale=wanted / stats.truncnorm(-2, 2).std())
        assert expected.std() == pytest.approx(wanted, rel=1e-12)
        assert values.std() == pytest.approx(wanted, rel=4 / math.sqrt(2 * len(values)))
        assert abs(values).max() <= expected.support()[1] * (1 + 1e-6)
        assert stats.kstest(values, expected.cdf).pvalue > 1e-3
        assert not layer.bias.any()


@pytest.mark.parametrize(("planes", "targets", "options"), [(1, 1, {}), (5, 3, {}), (13, 2, LACHANCE)])
def test_any_number_of_planes_and_targets(planes, targets, options):
    torch.manual_seed(0)
    net = LabelfreeUNet(planes, targets, filters=2, **options)
    drawn = net(torch.rand(2, planes, 32, 48))
    assert drawn.shape == (2, targets, 32, 48)
    assert drawn.std() > 0
    assert drawn.min() > (0 if net.bounded else -1)
    assert not net.bounded or drawn.max() < 1


def test_the_sigmoid_is_float32_under_autocast(thesis):
    with torch.autocast("cpu", torch.bfloat16), torch.inference_mode():
        drawn = thesis(torch.rand(1, 1, 32, 32))
    assert drawn.dtype == torch.float32
    assert len(drawn.unique()) > len(drawn.bfloat16().unique())


def _reach(depth):
    """Per phase of an output pixel on the grid of pools, how far left and right an input that it depends on may lie.

    An input that is not a number makes everything that depends on it not a number.
    """
    net = LabelfreeUNet(filters=1, depth=depth).double().eval()
    period, start = net.divisor, 8 * net.divisor
    reach = {}
    for place in range(start, start + period):
        x = torch.rand(1, 1, period, 2 * start + period, dtype=torch.float64)
        x[..., place] = math.nan
        for out in net(x)[0, 0].isnan().any(0).nonzero().flatten().tolist():
            left, right = reach.get(out % period, (0, 0))
            reach[out % period] = (max(left, out - place), max(right, place - out))
    return reach, net.border


def _intervals(depth):
    """The same by the arithmetic of intervals."""
    reach = {}
    for phase in range(2**depth):
        low = high = phase
        for _ in range(depth):  # up the decoder: two convolutions, then the pixel that is upsampled
            low, high = (low - 2) // 2, (high + 2) // 2
        low, high = low - 2, high + 2
        for _ in range(depth):  # up the encoder: the pixels that are pooled, then two convolutions
            low, high = 2 * low - 2, 2 * high + 1 + 2
        reach[phase] = (phase - low, high - phase)
    return reach


@pytest.mark.parametrize("depth", [2, 3, 4])
def test_receptive_field_and_border(depth):
    reach, border = _reach(depth)
    assert reach == _intervals(depth)
    cell = 2**depth
    # How far a tile that begins and ends on the grid must look beyond itself, whatever the pixel.
    beyond = max(max(left - phase, right - (cell - 1 - phase)) for phase, (left, right) in reach.items())
    assert border - cell < beyond <= border
    if depth == 4:
        assert border == 96
        assert (reach[0], reach[15]) == ((94, 93), (93, 94))
        assert (reach[7], reach[8]) == ((101, 102), (102, 101))
        assert max(max(both) for both in reach.values()) == 107


def test_what_the_unet_refuses():
    net = LabelfreeUNet(filters=1)
    with pytest.raises(ValueError, match=r"40x64.*divisible by 16"):
        net(torch.zeros(1, 1, 40, 64))
    with pytest.raises(ValueError, match=r"'lachanse'.*thesis, lachance"):
        LabelfreeUNet(variant="lachanse")
    with pytest.raises(ValueError, match=r"dropout has 2 rates.*or 5"):
        LabelfreeUNet(dropout=[0.1, 0.2])
    with pytest.raises(ValueError, match="1 or more"):
        LabelfreeUNet(filters=0)


@pytest.mark.parametrize(
    ("embedding", "shape", "weights"), [(3528, (8, 21, 21), (1320, 4409)), (200, (8, 5, 5), (1904, 6017))]
)
def test_autoencoder_sizes(embedding, shape, weights):
    torch.manual_seed(0)
    net = ConvAutoencoder(embedding=embedding)
    parts = (net.encoder, net.decoder)
    assert tuple(sum(p.numel() for p in part.parameters()) for part in parts) == weights
    x = torch.rand(2, 1, 256, 256)
    assert net.embed(x).shape == (2, *shape)
    assert net.embed(x)[0].numel() == embedding
    assert net(x).shape == x.shape
    assert ConvAutoencoder(3, embedding)(torch.rand(1, 3, 256, 256)).shape == (1, 3, 256, 256)


def test_what_the_autoencoder_refuses():
    with pytest.raises(ValueError, match=r"128x128.*256x256"):
        ConvAutoencoder()(torch.zeros(1, 1, 128, 128))
    with pytest.raises(ValueError, match=r"100.*3528, 200"):
        ConvAutoencoder(embedding=100)
