"""Layers of torch.nn, numerically the same, that keep bfloat16 and channels-last memory as they are."""

import torch
from torch import Tensor, nn
from torch.nn.functional import batch_norm


class InstanceNorm2d(nn.InstanceNorm2d):
    """Instance normalisation without parameters, `B C Y X` to the same, its statistics in float32.

    torch's own copies an image in channels-last memory to the other layout and back, on a CPU for three times the
    norm's cost; batch normalisation of one image is the same and does not. Compiled, neither copies.
    """

    def __init__(self, channels: int) -> None:
        super().__init__(channels)

    def forward(self, x: Tensor) -> Tensor:
        channels_last = x.is_contiguous(memory_format=torch.channels_last)
        if x.device.type != "cpu" or not channels_last or torch.compiler.is_compiling():
            return super().forward(x)
        return torch.cat([batch_norm(image, None, None, training=True, eps=self.eps) for image in x.split(1)])


class ReflectionPad2d(nn.ReflectionPad2d):
    """Mirrors an image beyond its borders; autocast would copy it to float32 for that."""

    def forward(self, x: Tensor) -> Tensor:
        with torch.autocast(x.device.type, enabled=False):
            return super().forward(x)
