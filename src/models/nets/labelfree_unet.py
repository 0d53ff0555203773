"""The U-Net of label-free fluorescence."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

# The standard deviation of a standard normal distribution cut off at -2 and 2.
TRUNCATED = 0.87962566103423978
VARIANTS = ("thesis", "lachance")


def he_normal_(weight: Tensor) -> None:
    """Fills a convolution's weight (outputs inputs ky kx) from N(0, 2 / fan_in) cut off at two standard deviations.

    The normal is widened so that what is left of it has the standard deviation sqrt(2 / fan_in), as Keras' he_normal
    does (He et al. 2015, equation 10).
    """
    std = math.sqrt(2 / weight[0].numel()) / TRUNCATED
    nn.init.trunc_normal_(weight, 0.0, std, -2 * std, 2 * std)


class _Block(nn.Module):
    """Two 3x3 convolutions with ELU; the first batch-normalised where `norm`, dropout between them."""

    def __init__(self, inputs: int, middle: int, outputs: int, dropout: float, norm: bool) -> None:
        super().__init__()
        self.first = nn.Conv2d(inputs, middle, 3, padding=1)
        self.norm = nn.BatchNorm2d(middle) if norm else nn.Identity()
        self.dropout = nn.Dropout(dropout)
        self.second = nn.Conv2d(middle, outputs, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        x = nn.functional.elu(self.norm(self.first(x)), inplace=True)
        return nn.functional.elu(self.second(self.dropout(x)), inplace=True)


class LabelfreeUNet(nn.Module):
    """A U-Net from transmitted light to fluorescence, `B in_channels Y X` to `B out_channels Y X`.

    Blocks of two convolutions, each level half the size and twice the filters of the one before, down to
    `depth` halvings; transposed convolutions up, their output before the skip in the concatenation. `variant` is

    - thesis: batch normalisation between convolution and ELU after each pooling; a 1x1 convolution and a sigmoid give
      [0, 1], in float32. The thesis leaves open on which side of the ELU the normalisation is.
    - lachance: no normalisation; the last 3x3 convolution gives the output, with an ELU: -1 or more, without a bound.

    `dropout` is one rate for all blocks, or a rate per level, the bottleneck's last. Convolutions start from Keras'
    he_normal, transposed ones from Glorot's uniform, as Keras has it; biases from 0. `divisor` must divide Y and X.
    `border` is how many pixels of a tile's rim depend on what lies outside it, in multiples of `divisor`: the
    convolutions reach 6 * divisor - 4 px and the grids of the poolings at most 2 px further for the first and last
    pixel of a cell of `divisor` px, so it holds for tiles that begin at multiples of `divisor`.

    LaChance & Cohen 2020; thesis, section 3.1.1, figure 6. Raises ValueError for sizes and settings that do not fit.
    """

    def __init__(
        self,
        in_channels: int = 1,
        out_channels: int = 1,
        filters: int = 16,
        depth: int = 4,
        variant: str = "thesis",
        dropout: float | Sequence[float] = 0.0,
    ) -> None:
        super().__init__()
        if variant not in VARIANTS:
            raise ValueError(f"model.net.variant is {variant!r}: choose one of {', '.join(VARIANTS)}")
        if min(in_channels, out_channels, filters, depth) < 1:
            raise ValueError("in_channels, out_channels, filters and depth of model.net are 1 or more")
        rates = list(dropout) if isinstance(dropout, Sequence) else [dropout] * (depth + 1)
        if len(rates) != depth + 1:
            raise ValueError(
                f"model.net.dropout has {len(rates)} rates: give one, or {depth + 1}, the bottleneck's last"
            )
        self.in_channels, self.out_channels = in_channels, out_channels
        self.divisor, self.bounded = 2**depth, variant == "thesis"
        self.border = 6 * self.divisor
        widths = [filters * 2**level for level in range(depth + 1)]
        outputs = [filters if self.bounded else out_channels, *widths[1:-1]]
        self.down = nn.ModuleList(
            _Block(a, b, b, rate, norm=self.bounded and level > 0)
            for level, (a, b, rate) in enumerate(zip((in_channels, *widths[:-1]), widths, rates, strict=True))
        )
        levels = range(depth - 1, -1, -1)
        self.up = nn.ModuleList(nn.ConvTranspose2d(widths[n + 1], widths[n], 2, stride=2) for n in levels)
        self.merge = nn.ModuleList(_Block(2 * widths[n], widths[n], outputs[n], rates[n], norm=False) for n in levels)
        self.head = nn.Conv2d(filters, out_channels, 1) if self.bounded else nn.Identity()
        for layer in self.modules():
            if isinstance(layer, nn.Conv2d):
                he_normal_(layer.weight)
            elif isinstance(layer, nn.ConvTranspose2d):
                nn.init.xavier_uniform_(layer.weight)
            if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d) and layer.bias is not None:
                nn.init.zeros_(layer.bias)

    def _encode(self, x: Tensor) -> list[Tensor]:
        """The maps of all levels, the bottleneck last."""
        if x.shape[-2] % self.divisor or x.shape[-1] % self.divisor:
            raise ValueError(
                f"image is {x.shape[-2]}x{x.shape[-1]}; each side must be divisible by {self.divisor}: pad it, or set "
                "a smaller model.net.depth"
            )
        maps: list[Tensor] = []
        for block in self.down:
            maps.append(block(nn.functional.max_pool2d(maps[-1], 2) if maps else x))
        return maps

    def embed(self, x: Tensor) -> Tensor:
        """The bottleneck, `B D y x` with D = filters * divisor and sides of 1 / divisor."""
        return self._encode(x)[-1]

    def forward(self, x: Tensor) -> Tensor:
        *skips, x = self._encode(x)
        for up, merge in zip(self.up, self.merge, strict=True):
            x = merge(torch.cat([up(x), skips.pop()], dim=1))
        x = self.head(x)
        return x.float().sigmoid() if self.bounded else x
