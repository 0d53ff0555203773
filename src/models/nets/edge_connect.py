"""EdgeConnect's generators and its discriminator (Nazeri et al. 2019), with the published parameter names."""

import torch
from torch import Tensor, nn

from .layers import InstanceNorm2d, ReflectionPad2d
from .spectral import SpectralConv2d, SpectralConvTranspose2d


def _initialise(net: nn.Module) -> None:
    """Convolutions N(0, 0.02), spectral ones before their normalisation; biases 0."""
    for name, parameter in net.named_parameters():
        if name.endswith("bias"):
            nn.init.zeros_(parameter)
        else:
            nn.init.normal_(parameter, 0.0, 0.02)


def _normalised(layer: nn.Module, channels: int) -> list[nn.Module]:
    # Without parameters and running statistics, so it has no keys.
    return [layer, InstanceNorm2d(channels), nn.ReLU(inplace=True)]


class ResidualBlock(nn.Module):
    """Two reflection-padded 3x3 convolutions, the first dilated by 2, added to the input: `B channels Y X` to the same.

    No activation follows the sum. Spectral convolutions have no bias, plain ones have one.
    """

    def __init__(self, channels: int, spectral: bool) -> None:
        super().__init__()
        conv = SpectralConv2d if spectral else nn.Conv2d
        self.conv_block = nn.Sequential(
            ReflectionPad2d(2),
            *_normalised(conv(channels, channels, 3, dilation=2, bias=not spectral), channels),
            ReflectionPad2d(1),
            conv(channels, channels, 3, bias=not spectral),
            InstanceNorm2d(channels),
        )

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv_block(x)


class _Generator(nn.Module):
    """A quarter of the size, residual blocks, and back: `B inputs Y X` to `B outputs Y X` before the last activation.

    Raises ValueError for sides under 12 px (the reflection needs 3 px at a quarter of the size) or not divisible by 4.
    """

    def __init__(self, inputs: int, outputs: int, blocks: int, spectral: bool) -> None:
        super().__init__()
        conv = SpectralConv2d if spectral else nn.Conv2d
        transpose = SpectralConvTranspose2d if spectral else nn.ConvTranspose2d
        self.encoder = nn.Sequential(
            ReflectionPad2d(3),
            *_normalised(conv(inputs, 64, 7), 64),
            *_normalised(conv(64, 128, 4, stride=2, padding=1), 128),
            *_normalised(conv(128, 256, 4, stride=2, padding=1), 256),
        )
        self.middle = nn.Sequential(*(ResidualBlock(256, spectral) for _ in range(blocks)))
        self.decoder = nn.Sequential(
            *_normalised(transpose(256, 128, 4, stride=2, padding=1), 128),
            *_normalised(transpose(128, 64, 4, stride=2, padding=1), 64),
            ReflectionPad2d(3),
            nn.Conv2d(64, outputs, 7),  # never spectral, so that the output keeps its range
        )
        _initialise(self)

    def forward(self, x: Tensor) -> Tensor:
        height, width = x.shape[-2:]
        if height < 12 or width < 12 or height % 4 or width % 4:
            raise ValueError(
                f"image is {height}x{width}; EdgeConnect takes sides of 12 px or more, each divisible by 4: "
                "pad it with models.holes.fitted(x, 4, 12) and crop the result"
            )
        return self.decoder(self.middle(self.encoder(x)))


class EdgeGenerator(_Generator):
    """The edges in the hole: `B 3 Y X` (grey with a white hole, known edges, mask) to an edge map `B 1 Y X` in [0, 1].

    Every convolution but the last is spectrally normalised.
    """

    def __init__(self, in_channels: int = 3, out_channels: int = 1, blocks: int = 8) -> None:
        super().__init__(in_channels, out_channels, blocks, spectral=True)

    def forward(self, x: Tensor) -> Tensor:
        return torch.sigmoid(super().forward(x))


class InpaintGenerator(_Generator):
    """The image from its edges: `B in_channels+1 Y X` (white hole, then edges) to `B in_channels Y X` in [0, 1]."""

    def __init__(self, in_channels: int = 1, blocks: int = 8) -> None:
        super().__init__(in_channels + 1, in_channels, blocks, spectral=False)

    def forward(self, x: Tensor) -> Tensor:
        return (torch.tanh(super().forward(x)) + 1) / 2


class Discriminator(nn.Module):
    """Real or drawn, patch by patch: `B in_channels Y X` to (`B 1 y x`, the maps after each of the five layers).

    A patch is 70x70 px. The last map is the logits; the first result is their sigmoid, or with `sigmoid=False` (the
    hinge loss) the logits themselves. Spectral normalisation throughout, no biases.

    Raises ValueError for sides under 24 px.
    """

    def __init__(self, in_channels: int, sigmoid: bool = True) -> None:
        super().__init__()
        self.sigmoid = sigmoid
        self.conv1 = self._layer(in_channels, 64, 2)
        self.conv2 = self._layer(64, 128, 2)
        self.conv3 = self._layer(128, 256, 2)
        self.conv4 = self._layer(256, 512, 1)
        self.conv5 = self._layer(512, 1, 1)[:1]
        _initialise(self)

    @staticmethod
    def _layer(inputs: int, outputs: int, stride: int) -> nn.Sequential:
        conv = SpectralConv2d(inputs, outputs, 4, stride=stride, padding=1, bias=False)
        return nn.Sequential(conv, nn.LeakyReLU(0.2, inplace=True))

    def forward(self, x: Tensor) -> tuple[Tensor, list[Tensor]]:
        if min(x.shape[-2:]) < 24:
            raise ValueError(
                f"image is {x.shape[-2]}x{x.shape[-1]}; EdgeConnect's discriminator takes sides of 24 px or more: "
                "set data.zoom.size=24 or more"
            )
        features = []
        for layer in (self.conv1, self.conv2, self.conv3, self.conv4, self.conv5):
            x = layer(x)
            features.append(x)
        return (torch.sigmoid(x) if self.sigmoid else x), features
