"""DeepFill v2's generator of gated convolutions and its patch discriminator (Yu et al. 2019)."""

import math

import torch
from torch import Tensor, nn
from torch.nn.functional import elu, interpolate, leaky_relu, pad, relu

from .attention import ContextualAttention
from .spectral import SpectralConv2d

VARIANTS = ("official", "pytorch_port")
INITS = ("preserving", "published")
GAIN = 2.3  # 1 / the root mean square of elu(a) sigmoid(b), a and b normal with variance 1
# The layers in their order, as the two published key forms name them.
HEAD = {
    "official": "1 2_downsample 3 4_downsample 5 6 7_atrous 8_atrous 9_atrous 10_atrous",
    "pytorch_port": "conv1 down_block1.conv1_downsample down_block1.conv2 down_block2.conv1_downsample "
    "down_block2.conv2 conv_bn1 conv_bn2 conv_bn3 conv_bn4 conv_bn5",
}
ATTENDED = {"official": "9 10", "pytorch_port": "conv_bn4 conv_bn5"}
TAIL = {
    "official": "11 12 13_upsample.conv 14 15_upsample.conv 16 17",
    "pytorch_port": "conv_bn6 conv_bn7 up_block1.conv1_upsample.conv up_block1.conv2 up_block2.conv1_upsample.conv "
    "up_block2.conv2 conv_to_rgb",
}
PREFIXES = {
    "official": {"coarse": "conv", "convolved": "xconv", "patches": "pmconv", "merged": "allconv"},
    "pytorch_port": {"coarse": "stage1.", "convolved": "stage2.conv_", "patches": "stage2.ca_", "merged": "stage2."},
}


def published_names(variant: str) -> dict[str, str]:
    """Our key -> the published key, of the generator and of the discriminator, in the key form of a variant.

    A generator of the form pytorch_port is published with a constant buffer beside these,
    `stage2.contextual_attention.fuse_weight` (1 1 3 3, the identity). The published weight of a discriminator's layer
    is our `weight_orig`, its `weight_u` is a column (C 1) where ours is flat, and `weight_v` is not published: it is
    the normalised product of the transposed weight and `weight_u`.
    """
    _checked(variant)
    head, attended, tail, prefix = HEAD[variant], ATTENDED[variant], TAIL[variant], PREFIXES[variant]
    layers = {
        "coarse": [prefix["coarse"] + name for name in f"{head} {tail}".split()],
        "convolved": [prefix["convolved"] + name for name in head.split()],
        "patches": [prefix["patches"] + name for name in head.split()[:6]],
        "attended": [prefix["patches"] + name for name in attended.split()],
        "merged": [prefix["merged"] + name for name in tail.split()],
    }
    generator = {
        f"{part}.{number}.conv.{kind}": f"{name}.conv.{kind}"
        for part, names in layers.items()
        for number, name in enumerate(names)
        for kind in ("weight", "bias")
    }
    kinds = {"weight_orig": "weight", "bias": "bias", "weight_u": "weight_u"}
    discriminator = {f"conv{i}.{own}": f"conv{i}.conv_sn.{kind}" for i in range(1, 7) for own, kind in kinds.items()}
    return generator | discriminator


def _checked(variant: str) -> str:
    if variant not in VARIANTS:
        raise ValueError(f"DeepFill v2 has no variant {variant!r}: choose {' or '.join(VARIANTS)}")
    return variant


def _padded_same(x: Tensor, kernel: int, stride: int) -> Tensor:
    """Zeros as TensorFlow's SAME puts them: half of what a stride needs before, the larger half behind."""
    missing = [max((-(-side // stride) - 1) * stride + kernel - side, 0) for side in x.shape[-2:]]
    rows, columns = ((total // 2, total - total // 2) for total in missing)
    return pad(x, (*columns, *rows))


class Gated(nn.Module):
    """A convolution whose second half of channels, through a sigmoid, gates the first: `B inputs Y X` to outputs.

    `activation` acts on the gated half. `upsample` doubles the sides first (nearest). Zero padding keeps the size
    (halves it for stride 2), on both sides alike or with `same` as TensorFlow does.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        kernel: int = 3,
        stride: int = 1,
        dilation: int = 1,
        same: bool = False,
        upsample: bool = False,
        activation: str = "elu",
    ) -> None:
        super().__init__()
        self.uneven = same and stride > 1  # stride 1 needs the same zeros on both sides
        padding = 0 if self.uneven else dilation * (kernel - 1) // 2
        self.conv = nn.Conv2d(inputs, 2 * outputs, kernel, stride, padding, dilation)
        self.upsample, self.activation = upsample, activation

    def forward(self, x: Tensor) -> Tensor:
        if self.upsample:
            x = interpolate(x, scale_factor=2.0)
        if self.uneven:
            x = _padded_same(x, self.conv.kernel_size[0], self.conv.stride[0])
        x = self.conv(x)
        # In channels-last memory a half is strided, which slows elementwise functions up to ninefold: copies are dense.
        dense = torch.channels_last if x.is_contiguous(memory_format=torch.channels_last) else torch.contiguous_format
        features, gate = (half.contiguous(memory_format=dense) for half in x.chunk(2, dim=1))
        return (relu(features) if self.activation == "relu" else elu(features)) * torch.sigmoid(gate)


class _Output(nn.Module):
    """The last layer: a plain convolution into [-1, 1]."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return torch.tanh(self.conv(x))


@torch.no_grad()
def _initialise(conv: nn.Conv2d, init: str) -> None:
    assert conv.bias is not None
    if init == "published":
        nn.init.kaiming_uniform_(conv.weight, mode="fan_out")
    else:
        bound = GAIN * math.sqrt(3 / conv.weight[0].numel())
        nn.init.uniform_(conv.weight, -bound, bound)
    nn.init.zeros_(conv.bias)


def _down(inputs: int, widths: tuple[int, ...], same: bool) -> list[nn.Module]:
    """Five layers to a quarter of the size."""
    return [
        Gated(inputs, widths[0], kernel=5),
        *(
            Gated(a, b, stride=stride, same=same)
            for a, b, stride in zip(widths[:-1], widths[1:], (2, 1, 2, 1), strict=True)
        ),
    ]


def _wide() -> list[nn.Module]:
    """Five layers, four of them ever more dilated, so that they see across a hole."""
    return [Gated(96, 96, dilation=dilation) for dilation in (1, 2, 4, 8, 16)]


def _up(inputs: int, outputs: int) -> list[nn.Module]:
    """Seven layers from a quarter of the size to the image."""
    return [
        Gated(inputs, 96),
        Gated(96, 96),
        Gated(96, 48, upsample=True),
        Gated(48, 48),
        Gated(48, 24, upsample=True),
        Gated(24, 12),
        _Output(12, outputs),
    ]


class Generator(nn.Module):
    """A coarse stage and a second one with contextual attention; `B C+2 Y X` and the mask to two images in [-1, 1].

    The input is [image * (1 - mask) in [-1, 1], ones, ones * mask], the mask `B 1 Y X` has 1 = hole; the result is
    (first stage, second stage), both `B C Y X`. `official` pads and downsamples as the authors' TensorFlow code,
    `pytorch_port` as the port for which states_pt_*.pth were fine-tuned; the parameters are the same, the images are
    not. `fuse` is the attention's; the port that reads converted official weights leaves it out.

    `init` is how the weights are drawn: `preserving` so that what is normal with variance 1 keeps its mean square
    through a gated layer, `published` as the port does (Kaiming's uniform over the outputs), where a layer loses more
    than half of its signal and the seventeenth is left with a ten-millionth: bfloat16 rounds that away, and the
    network learns a constant image.

    Raises ValueError for an unknown variant or init, and for sides not divisible by 8.
    """

    def __init__(
        self, in_channels: int = 1, variant: str = "official", fuse: bool = True, init: str = "preserving"
    ) -> None:
        super().__init__()
        if init not in INITS:
            raise ValueError(f"DeepFill v2 has no init {init!r}: choose {' or '.join(INITS)}")
        same = _checked(variant) == "official"
        self.in_channels, self.variant = in_channels, variant
        self.coarse = nn.Sequential(
            *_down(in_channels + 2, (24, 48, 48, 96, 96), same), *_wide(), *_up(96, in_channels)
        )
        self.convolved = nn.Sequential(*_down(in_channels, (24, 24, 48, 48, 96), same), *_wide())
        self.patches = nn.Sequential(*_down(in_channels, (24, 24, 48, 96, 96), same), Gated(96, 96, activation="relu"))
        self.attention = ContextualAttention(align_corners=same, fuse=fuse)
        self.attended = nn.Sequential(Gated(96, 96), Gated(96, 96))
        self.merged = nn.Sequential(*_up(192, in_channels))
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                _initialise(module, init)

    def forward(self, x: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        if x.shape[-2] % 8 or x.shape[-1] % 8:
            raise ValueError(
                f"image is {x.shape[-2]}x{x.shape[-1]}; DeepFill's sides must be divisible by 8: pad it with "
                "models.holes.fitted(x, 8) and crop the result"
            )
        coarse = self.coarse(x)
        filled = coarse * mask + x[:, : self.in_channels] * (1 - mask)
        attended = self.attended(self.attention(self.patches(filled), mask))
        return coarse, self.merged(torch.cat([self.convolved(filled), attended], dim=1))


class Discriminator(nn.Module):
    """SN-PatchGAN: `B in_channels Y X` (the image's channels, then the mask) to scores `B F`, F = 256 Y X / 4096.

    Each score is one channel of one position, so that the loss weighs many features of each patch.
    """

    def __init__(self, in_channels: int = 2, variant: str = "official") -> None:
        super().__init__()
        self.same, self.variant = _checked(variant) == "official", variant
        for number, outputs in enumerate((64, 128, 256, 256, 256, 256), start=1):
            layer = SpectralConv2d(in_channels, outputs, 5, stride=2, padding=0 if self.same else 2)
            self.add_module(f"conv{number}", layer)
            in_channels = outputs

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.children():
            x = leaky_relu(layer(_padded_same(x, 5, 2) if self.same else x), 0.2)
        return x.flatten(1)
