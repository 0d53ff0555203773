"""A small U-Net for restoration."""

import torch
from torch import Tensor, nn


def _double_conv(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 3, padding=1, bias=False),
        nn.BatchNorm2d(outputs),
        nn.ReLU(inplace=True),
        nn.Conv2d(outputs, outputs, 3, padding=1, bias=False),
        nn.BatchNorm2d(outputs),
        nn.ReLU(inplace=True),
    )


class UNet(nn.Module):
    """Contracting and expanding 3x3 convolutions joined by skips (Ronneberger et al. 2015, figure 1, with padding).

    `B in_channels Y X` to `B out_channels Y X`, no activation at the end. `widths` are the channels per level, each
    level half the size of the one before; Y and X must be divisible by 2 ** (levels - 1).
    """

    def __init__(self, in_channels: int, out_channels: int, widths: tuple[int, ...] = (16, 32, 64, 128, 128)) -> None:
        super().__init__()
        self.divisor = 2 ** (len(widths) - 1)
        self.down = nn.ModuleList(_double_conv(a, b) for a, b in zip((in_channels, *widths[:-1]), widths, strict=True))
        pairs = list(zip(widths[:0:-1], widths[-2::-1], strict=True))
        self.up = nn.ModuleList(nn.ConvTranspose2d(a, b, 2, stride=2) for a, b in pairs)
        self.merge = nn.ModuleList(_double_conv(2 * b, b) for _, b in pairs)
        self.head = nn.Conv2d(widths[0], out_channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        if x.shape[-2] % self.divisor or x.shape[-1] % self.divisor:
            raise ValueError(
                f"image is {x.shape[-2]}x{x.shape[-1]}; each side must be divisible by {self.divisor}: "
                "choose another data.zoom.size, or fewer model.widths"
            )
        skips = []
        for level, block in enumerate(self.down):
            x = block(x if level == 0 else nn.functional.max_pool2d(x, 2))
            skips.append(x)
        for up, merge, skip in zip(self.up, self.merge, skips[-2::-1], strict=True):
            x = merge(torch.cat([up(x), skip], dim=1))
        return self.head(x)
