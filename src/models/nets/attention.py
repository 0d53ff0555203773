"""Contextual attention: holes filled with patches of what is known elsewhere (Yu et al. 2018, section 4.1)."""

import torch
from torch import Tensor, nn
from torch.nn.functional import fold, normalize, pad, unfold


class ContextualAttention(nn.Module):
    """Redraws features `B C Y X` from their own patches that the mask `B 1 4Y 4X` (1 = hole) leaves whole.

    Each 3x3 patch of the features at half size is compared with all of them (dot product with the other at unit length,
    `scale`d softmax); patches of the hole compete at a score of 0 and give nothing. What is pasted are the 4x4 patches
    of the full features. `fuse` lets neighbouring positions prefer neighbouring patches. `align_corners` downsamples as
    TensorFlow does there. Every sample is masked by its own mask; the published code takes the first one's for all.
    Scores and softmax are float32 under autocast too, in the precision of torch.set_float32_matmul_precision.

    Memory is quadratic in the positions L = Y X / 4: six matrices of 4 L^2 bytes a sample, of which training keeps one
    (under bf16 autocast half a one more). A matrix has 4 MB for an image of 256x256, 67 MB for 512x512, 21 GB for
    2160x2160.

    Raises ValueError for sides that are odd or do not fit the mask.
    """

    def __init__(self, align_corners: bool = False, fuse: bool = True, scale: float = 10.0) -> None:
        super().__init__()
        self.align_corners, self.fuse, self.scale = align_corners, fuse, scale

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        batch, _, height, width = x.shape
        if height % 2 or width % 2 or mask.shape[-2:] != (4 * height, 4 * width):
            raise ValueError(
                f"features are {height}x{width} and the mask {mask.shape[-2]}x{mask.shape[-1]}: even sides and a mask "
                "four times as large are needed"
            )
        height, width = height // 2, width // 2
        known = self._known(mask)
        with torch.autocast(x.device.type, enabled=False):
            patches = unfold(self._reduced(x.float(), 2), 3, padding=1)
            scores = patches.mT @ normalize(patches, dim=1, eps=1e-4)  # B positions patches
            if self.fuse:
                scores = _fused(scores)
                scores = scores.view(batch, height, width, height, width).transpose(1, 2).transpose(3, 4)
                scores = _fused(scores.reshape(batch, height * width, -1))
                x, known = x.mT, known.mT  # positions and patches are in the order of columns from here on
            known = known.flatten(1).unsqueeze(1).float()
            weights = (scores * (self.scale * known)).softmax(-1)
        # Patches of the hole keep their share of the softmax and paste nothing: no renormalisation.
        raw = unfold(x, 4, padding=1, stride=2) * known.to(x.dtype)
        pasted = fold(raw @ weights.mT.to(x.dtype), x.shape[-2:], 4, padding=1, stride=2) / 4
        return pasted.mT if self.fuse else pasted

    def _known(self, mask: Tensor) -> Tensor:
        """1 where no pixel of the 3x3 patch is in the hole, `B Y X` on the grid of the patches."""
        reduced = self._reduced(self._reduced(mask, 4), 2) if self.align_corners else mask[..., ::8, ::8]
        return (unfold(reduced.float(), 3, padding=1).sum(1) == 0).view(len(mask), *reduced.shape[-2:])

    def _reduced(self, x: Tensor, factor: int) -> Tensor:
        """Every `factor`th pixel, from the first, or spread from the first to the last one."""
        if not self.align_corners:
            return x[..., ::factor, ::factor]
        rows, columns = (_spread(side, side // factor, x.device) for side in x.shape[-2:])
        return x[..., rows, :][..., columns]


def _spread(side: int, steps: int, device: torch.device) -> Tensor:
    """The pixels nearest to `steps` even steps from the first to the last of `side` pixels, halves rounded up."""
    gaps = max(steps - 1, 1)
    return (2 * torch.arange(steps, device=device) * (side - 1) + gaps) // (2 * gaps)


def _fused(scores: Tensor) -> Tensor:
    """Each score with those of its two diagonal neighbours added: `B L L`."""
    before, after = pad(scores[:, :-1, :-1], (1, 0, 1, 0)), pad(scores[:, 1:, 1:], (0, 1, 0, 1))
    return scores + before + after
