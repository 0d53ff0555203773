"""Context Encoder for holes anywhere in the image (Pathak et al. 2016, the random-region variant)."""

from torch import Tensor, nn

from .layers import DenseConv2d, DenseConvTranspose2d


def _conv(inputs: int, outputs: int, stride: int = 2) -> nn.Conv2d:
    # A bias before batch normalisation has no effect, and the original zeroes all biases at every step.
    if stride == 1:
        return DenseConv2d(inputs, outputs, 4)
    return nn.Conv2d(inputs, outputs, 4, stride, padding=1, bias=False)


def _conv_transpose(inputs: int, outputs: int, stride: int = 2) -> nn.ConvTranspose2d:
    if stride == 1:
        return DenseConvTranspose2d(inputs, outputs, 4)
    return nn.ConvTranspose2d(inputs, outputs, 4, stride, padding=1, bias=False)


def _down(inputs: int, outputs: int) -> list[nn.Module]:
    return [_conv(inputs, outputs), nn.BatchNorm2d(outputs), nn.LeakyReLU(0.2, inplace=True)]


def _up(inputs: int, outputs: int, stride: int = 2) -> list[nn.Module]:
    return [_conv_transpose(inputs, outputs, stride), nn.BatchNorm2d(outputs), nn.ReLU(inplace=True)]


def initialise(net: nn.Module) -> None:
    """Convolutions N(0, 0.02), batch normalisation N(1, 0.02) with bias 0."""
    for module in net.modules():
        if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
            nn.init.normal_(module.weight, 0.0, 0.02)
        elif isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.weight, 1.0, 0.02)
            nn.init.zeros_(module.bias)


def _check_size(x: Tensor) -> None:
    height, width = x.shape[-2:]
    if height < 128 or width < 128 or height % 32 or width % 32:
        raise ValueError(
            f"image is {height}x{width}; the Context Encoder takes sides of 128 px or more, each divisible by 32: "
            "set data.zoom.size=128 or 256"
        )


def check_batch(net: nn.Module, x: Tensor) -> None:
    """Refuses to train on one image whose bottleneck is one position: nothing to normalise over."""
    if net.training and len(x) == 1 and x.shape[-2:] == (128, 128):
        raise ValueError(
            "a batch of one image of 128x128 px leaves batch normalisation one value per channel at the bottleneck: "
            "set data.batch_size=2 or more"
        )


class Generator(nn.Module):
    """Encoder to a bottleneck and decoder back: `B channels Y X` to the same shape, in [-1, 1].

    A side of 128 px shrinks to a single bottleneck position, as published; larger sides give a map of them (256 px:
    5x5). The decoder has one transposed convolution 64->64 more than the centre variant, so that the whole image
    comes out.

    Raises ValueError for sides under 128 px or not divisible by 32.
    """

    def __init__(self, channels: int = 1, bottleneck: int = 4000) -> None:
        super().__init__()
        self.encoder = nn.Sequential(
            _conv(channels, 64),
            nn.LeakyReLU(0.2, inplace=True),
            *_down(64, 64),
            *_down(64, 128),
            *_down(128, 256),
            *_down(256, 512),
            _conv(512, bottleneck, stride=1),
            nn.BatchNorm2d(bottleneck),
            nn.LeakyReLU(0.2, inplace=True),
        )
        self.decoder = nn.Sequential(
            *_up(bottleneck, 512, stride=1),
            *_up(512, 256),
            *_up(256, 128),
            *_up(128, 64),
            *_up(64, 64),
            _conv_transpose(64, channels),
            nn.Tanh(),
        )
        initialise(self)

    def forward(self, x: Tensor) -> Tensor:
        _check_size(x)
        check_batch(self, x)
        return self.decoder(self.encoder(x))


class Discriminator(nn.Module):
    """Real or drawn, for whole images: `B channels Y X` to logits `B 1 y x` (1x1 for 128 px, 5x5 for 256 px).

    The centre variant's discriminator with one more 64->64 block; the sigmoid is left to the loss.
    """

    def __init__(self, channels: int = 1) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            _conv(channels, 64),
            nn.LeakyReLU(0.2, inplace=True),
            *_down(64, 64),
            *_down(64, 128),
            *_down(128, 256),
            *_down(256, 512),
            _conv(512, 1, stride=1),
        )
        initialise(self)

    def forward(self, x: Tensor) -> Tensor:
        _check_size(x)
        return self.layers(x)
