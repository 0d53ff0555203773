"""The Context Encoder against its published layer table, and the adversarial base."""

import pytest
import torch
from torch import nn

from phenokeep.models import ContextEncoder
from phenokeep.models.nets.context_encoder import Discriminator, Generator
from phenokeep.run import train

BOTTLENECK = 4000
# inputs, outputs, kernel, stride, padding, batch normalisation, activation; from the published network definition.
ENCODER = [
    (1, 64, 4, 2, 1, False, "LeakyReLU"),
    (64, 64, 4, 2, 1, True, "LeakyReLU"),
    (64, 128, 4, 2, 1, True, "LeakyReLU"),
    (128, 256, 4, 2, 1, True, "LeakyReLU"),
    (256, 512, 4, 2, 1, True, "LeakyReLU"),
    (512, BOTTLENECK, 4, 1, 0, True, "LeakyReLU"),
]
DECODER = [
    (BOTTLENECK, 512, 4, 1, 0, True, "ReLU"),
    (512, 256, 4, 2, 1, True, "ReLU"),
    (256, 128, 4, 2, 1, True, "ReLU"),
    (128, 64, 4, 2, 1, True, "ReLU"),
    (64, 64, 4, 2, 1, True, "ReLU"),
    (64, 1, 4, 2, 1, False, "Tanh"),
]
DISCRIMINATOR = [
    (1, 64, 4, 2, 1, False, "LeakyReLU"),
    (64, 64, 4, 2, 1, True, "LeakyReLU"),
    (64, 128, 4, 2, 1, True, "LeakyReLU"),
    (128, 256, 4, 2, 1, True, "LeakyReLU"),
    (256, 512, 4, 2, 1, True, "LeakyReLU"),
    (512, 1, 4, 1, 0, False, None),
]


def _table(net):
    """The rows of a network, read off its modules in order."""
    rows = []
    for module in net.modules():
        if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
            assert module.bias is None
            row = (module.in_channels, module.out_channels, module.kernel_size[0], module.stride[0], module.padding[0])
            rows.append([*row, False, None])
        elif isinstance(module, nn.BatchNorm2d):
            assert module.eps == 1e-5
            rows[-1][5] = True
        elif isinstance(module, nn.LeakyReLU | nn.ReLU | nn.Tanh):
            assert getattr(module, "negative_slope", 0.2) == 0.2
            rows[-1][6] = type(module).__name__
    return [tuple(row) for row in rows]


def _parameters(table):
    return sum(i * o * k * k + 2 * o * norm for i, o, k, _, _, norm, _ in table)


def test_layer_tables_and_parameter_counts():
    generator, discriminator = Generator(1, BOTTLENECK), Discriminator(1)
    assert _table(generator.encoder) == ENCODER
    assert _table(generator.decoder) == DECODER
    assert _table(discriminator) == DISCRIMINATOR
    count = sum(p.numel() for p in generator.parameters())
    # The published centre variant with three channels has 71,124,544; this one adds a 64->64 block and drops two
    # channels on either side.
    assert count == _parameters(ENCODER + DECODER) == 71_124_544 + (64 * 64 * 16 + 2 * 64) - 2 * (2 * 64 * 16)
    assert sum(p.numel() for p in discriminator.parameters()) == _parameters(DISCRIMINATOR)


@pytest.mark.parametrize(("channels", "height", "width"), [(1, 128, 128), (3, 128, 160)])
def test_any_channels_and_sizes(channels, height, width):
    x = torch.zeros(2, channels, height, width)
    net = Generator(channels, 8)
    assert net(x).shape == x.shape
    assert Discriminator(channels)(x).shape[:2] == (2, 1)
    with pytest.raises(ValueError, match="divisible by 32"):
        net(x[..., :100])


def test_prediction_cannot_see_the_hole():
    model = ContextEncoder(bottleneck=8).eval()
    torch.manual_seed(0)
    source, mask = torch.rand(2, 1, 128, 128), torch.zeros(2, 1, 128, 128)
    mask[..., 30:90, 40:100] = 1
    batch = {"source": source, "mask": mask, "target": source}
    changed = {**batch, "source": source + 0.5 * mask}
    first, second = (model.test_step(b, 0)["prediction"] for b in (batch, changed))
    assert torch.equal(first, second)
    assert torch.equal(first * (1 - mask), source * (1 - mask))


def test_global_step_counts_batches_and_both_networks_learn(config):
    cfg = config("experiment=phirm/context_encoder", "model.bottleneck=8", "trainer.limit_train_batches=3",
                 "callbacks.last={_target_: phenokeep.callbacks.Last, folder: '${output_dir}'}")  # fmt: skip
    train(cfg)
    saved = torch.load(f"{cfg.output_dir}/last.ckpt", weights_only=True)
    assert saved["global_step"] == 3
    assert [state["state"][0]["step"] for state in saved["optimizer_states"]] == [3, 3]


def test_unknown_loss_weight_is_refused(config):
    cfg = config("experiment=phirm/context_encoder", "model.bottleneck=8", "+model.weights.generator.adversarail=1")
    with pytest.raises(ValueError, match=r"adversarail.*terms are"):
        train(cfg)
    with pytest.raises(ValueError, match="two parts"):
        ContextEncoder(bottleneck=8, weights={"genrator": {}})
