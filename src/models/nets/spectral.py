"""Spectral normalisation with the parameter names of the published networks."""

import torch
from torch import Tensor, nn
from torch.nn.functional import conv2d, conv_transpose2d, normalize


class _Spectral(nn.Module):
    """A convolution whose weight is divided by its largest singular value (Miyato et al. 2018, algorithm 1).

    The weight is the parameter `weight_orig`, the singular vectors are the buffers `weight_u` and `weight_v`: the names
    of torch.nn.utils.spectral_norm, under which weights are published. Training makes one power iteration per forward
    pass, unless `frozen` (a pass that is made a second time); evaluation makes none. All of it stays in float32
    under autocast. `axis` is the weight's axis of output channels.
    """

    axis = 0
    weight_u: Tensor
    weight_v: Tensor

    def __init__(self, inputs: int, outputs: int, kernel: int, bias: bool = True, **options: int) -> None:
        super().__init__()
        channels = (outputs, inputs) if self.axis == 0 else (inputs, outputs)
        self.weight_orig = nn.Parameter(torch.empty(*channels, kernel, kernel))
        nn.init.kaiming_uniform_(self.weight_orig)
        self.bias = nn.Parameter(torch.zeros(outputs)) if bias else None
        self.options, self.frozen = options, False
        rows, columns = self._matrix(self.weight_orig).shape
        self.register_buffer("weight_u", normalize(torch.randn(rows), dim=0))
        self.register_buffer("weight_v", normalize(torch.randn(columns), dim=0))

    def _matrix(self, weight: Tensor) -> Tensor:
        return weight.transpose(0, self.axis).flatten(1)

    def weight(self) -> Tensor:
        """The normalised weight, float32."""
        with torch.autocast(self.weight_orig.device.type, enabled=False):
            matrix = self._matrix(self.weight_orig)
            if self.training and not self.frozen:
                with torch.no_grad():
                    # New tensors: a second pass of the same step must not change those of the first one's gradient.
                    self.weight_v = normalize(matrix.T @ self.weight_u, dim=0)
                    self.weight_u = normalize(matrix @ self.weight_v, dim=0)
            sigma = torch.dot(self.weight_u, matrix @ self.weight_v)
            return self.weight_orig / sigma


class SpectralConv2d(_Spectral):
    """A convolution `B inputs Y X` to `B outputs Y' X'` under spectral normalisation."""

    def forward(self, x: Tensor) -> Tensor:
        return conv2d(x, self.weight(), self.bias, **self.options)  # type: ignore[arg-type]


class SpectralConvTranspose2d(_Spectral):
    """A transposed convolution `B inputs Y X` to `B outputs Y' X'` under spectral normalisation."""

    axis = 1

    def forward(self, x: Tensor) -> Tensor:
        return conv_transpose2d(x, self.weight(), self.bias, **self.options)  # type: ignore[arg-type]
