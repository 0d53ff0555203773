"""The Context Encoder's two published variants, layer by layer and under their published parameter names."""

from torch import Tensor, nn

from .context_encoder import _conv, _conv_transpose, _down, _up, check_batch, initialise


class BoyuanGenerator(nn.Module):
    """What surrounds the centre to the centre: `B C 128 128` to `B C 64 64`, both in [-1, 1] (Pathak et al. 2016).

    Keys as in BoyuanJiang/context_encoder_pytorch. Raises ValueError for another size: the bottleneck is one position.
    """

    def __init__(self, in_channels: int = 3, bottleneck: int = 4000) -> None:
        super().__init__()
        self.main = nn.Sequential(
            _conv(in_channels, 64),
            nn.LeakyReLU(0.2, inplace=True),
            *_down(64, 64),
            *_down(64, 128),
            *_down(128, 256),
            *_down(256, 512),
            _conv(512, bottleneck, stride=1),
            nn.BatchNorm2d(bottleneck),
            nn.LeakyReLU(0.2, inplace=True),
            *_up(bottleneck, 512, stride=1),
            *_up(512, 256),
            *_up(256, 128),
            *_up(128, 64),
            _conv_transpose(64, in_channels),
            nn.Tanh(),
        )
        initialise(self)

    def forward(self, x: Tensor) -> Tensor:
        _check(x, 128)
        check_batch(self, x)
        return self.main(x)


class BoyuanDiscriminator(nn.Module):
    """Real or drawn, for the centre alone: `B C 64 64` to a probability `B 1`; `logits` stops before the sigmoid.

    Keys as in BoyuanJiang/context_encoder_pytorch. Raises ValueError for another size.
    """

    def __init__(self, in_channels: int = 3) -> None:
        super().__init__()
        self.main = nn.Sequential(
            _conv(in_channels, 64),
            nn.LeakyReLU(0.2, inplace=True),
            *_down(64, 128),
            *_down(128, 256),
            *_down(256, 512),
            _conv(512, 1, stride=1),
        )
        initialise(self)

    def logits(self, x: Tensor) -> Tensor:
        _check(x, 64)
        return self.main(x).flatten(1)

    def forward(self, x: Tensor) -> Tensor:
        return self.logits(x).sigmoid()


class ErikGenerator(nn.Module):
    """An image with a white square to what belongs there: `B C Y X` to `B C Y/2 X/2`, both in [-1, 1].

    Keys and layers as in the context encoder of eriklindernoren/PyTorch-GAN. It has no bottleneck of one position, and
    its batch normalisation has eps = 0.8 (`norm_eps`), which the published code meant as a momentum.

    Raises ValueError for sides not divisible by 32.
    """

    def __init__(self, in_channels: int = 3, bottleneck: int = 4000, norm_eps: float = 0.8) -> None:
        super().__init__()
        layers: list[nn.Module] = [nn.Conv2d(in_channels, 64, 4, 2, 1), nn.LeakyReLU(0.2)]
        for inputs, outputs in ((64, 64), (64, 128), (128, 256), (256, 512)):
            norm = nn.BatchNorm2d(outputs, norm_eps)
            layers += [nn.Conv2d(inputs, outputs, 4, 2, 1), norm, nn.LeakyReLU(0.2)]
        layers.append(nn.Conv2d(512, bottleneck, 1))
        for inputs, outputs in ((bottleneck, 512), (512, 256), (256, 128), (128, 64)):
            layers += [nn.ConvTranspose2d(inputs, outputs, 4, 2, 1), nn.BatchNorm2d(outputs, norm_eps), nn.ReLU()]
        self.model = nn.Sequential(*layers, nn.Conv2d(64, in_channels, 3, 1, 1), nn.Tanh())
        initialise(self)

    def forward(self, x: Tensor) -> Tensor:
        height, width = x.shape[-2:]
        if height % 32 or width % 32:
            raise ValueError(
                f"image is {height}x{width}; this Context Encoder takes sides divisible by 32: set data.zoom.size=128"
            )
        return self.model(x)


class ErikDiscriminator(nn.Module):
    """Real or drawn, for the square alone: `B C y x` to a map of scores `B 1 y/8 x/8`, no sigmoid.

    Keys as in the context encoder of eriklindernoren/PyTorch-GAN.
    """

    def __init__(self, in_channels: int = 3) -> None:
        super().__init__()
        layers: list[nn.Module] = [nn.Conv2d(in_channels, 64, 3, 2, 1), nn.LeakyReLU(0.2)]
        for inputs, outputs, stride in ((64, 128, 2), (128, 256, 2), (256, 512, 1)):
            norm = nn.InstanceNorm2d(outputs)
            layers += [nn.Conv2d(inputs, outputs, 3, stride, 1), norm, nn.LeakyReLU(0.2)]
        self.model = nn.Sequential(*layers, nn.Conv2d(512, 1, 3, 1, 1))
        initialise(self)

    def forward(self, x: Tensor) -> Tensor:
        return self.model(x)


def _check(x: Tensor, side: int) -> None:
    height, width = x.shape[-2:]
    if (height, width) != (side, side):
        raise ValueError(f"image is {height}x{width}; this network takes {side}x{side} alone: its layers end at 1x1")
