"""DeepFill v2 on one to N channels: a coarse fill, then one that borrows patches of what is known."""

from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn.functional import l1_loss

from ..imaging.stitch import Stitcher
from .adversarial import Adversarial
from .holes import fitted, hide, paste
from .losses import adversarial
from .nets.deepfill import Discriminator, Generator


class DeepFill(Adversarial):
    """Two stages of gated convolutions, the second with contextual attention (Yu et al. 2019, section 3).

    The networks work in [-1, 1], the hole is 0. Generator's terms: `l1_stage1` and `l1_stage2`, the mean absolute
    errors of both stages over the whole image, and `adversarial`, the hinge loss of the composite; published weights
    1. Discriminator's terms: `real` and `fake`, hinge losses of image and mask; published weights 0.5. `variant`,
    `fuse` and `init` are the generator's (see there). Evaluation returns the composite in [0, 1] as `prediction`; a
    field with a side beyond `largest` px is restored in overlapping tiles of that size, one at a time, because the
    attention's memory grows with the fourth power of the side: a tile's holes know nothing of what lies outside the
    tile. Smaller images are restored as many at once as take the attention's memory of one such tile. Training takes
    batches whole.

    Raises ValueError for an unknown variant or init, for `largest` under 64.
    """

    published: ClassVar[dict[str, str]] = {
        "generator": "deepfill_v2/generator",
        "discriminator": "deepfill_v2/discriminator",
    }

    def __init__(
        self,
        in_channels: int = 1,
        variant: str = "official",
        fuse: bool = True,
        init: str = "preserving",
        largest: int = 512,
        generator_lr: float = 1e-4,
        discriminator_lr: float = 1e-4,
        **options: Any,
    ) -> None:
        super().__init__(generator_lr, discriminator_lr, **options)
        if largest < 64:
            raise ValueError(
                f"model.largest is {largest}: tiles of 64 px or more are meant, so that they show something"
            )
        self.generator = Generator(in_channels, variant, fuse, init)
        self.discriminator = Discriminator(in_channels + 1, variant)
        self.largest = largest

    def forward(self, source: Tensor, mask: Tensor) -> dict[str, Tensor]:
        """Source B C Y X in [0, 1] and mask B 1 Y X to both stages' whole images, B C Y X in [-1, 1]."""
        rows, columns = source.shape[-2:]
        source, mask = fitted(source, 8), fitted(mask, 8)
        x = torch.cat([hide(2 * source - 1, mask), torch.ones_like(mask), mask], dim=1)
        stages = self.generator(x, mask)
        return {f"stage{number}": stage[..., :rows, :columns] for number, stage in enumerate(stages, start=1)}

    def discriminator_loss(self, batch: dict[str, Any], raw: dict[str, Tensor]) -> dict[str, Tensor]:
        real = torch.cat([2 * batch["target"] - 1, batch["mask"]], dim=1)
        scores = self.discriminator(torch.cat([real, self._judged(batch, raw)])).chunk(2)
        return {
            name: adversarial(score, name == "real", "hinge", discriminator=True)
            for name, score in zip(("real", "fake"), scores, strict=True)
        }

    def generator_loss(self, batch: dict[str, Any], raw: dict[str, Tensor]) -> dict[str, Tensor]:
        target, score = 2 * batch["target"] - 1, self.discriminator(self._judged(batch, raw))
        return {
            "l1_stage1": l1_loss(raw["stage1"].float(), target),
            "l1_stage2": l1_loss(raw["stage2"].float(), target),
            "adversarial": adversarial(score, True, "hinge", discriminator=False),
        }

    def _judged(self, batch: dict[str, Any], raw: dict[str, Tensor]) -> Tensor:
        """The composite of the second stage and the target, and the mask: what the discriminator takes for drawn."""
        mask = batch["mask"]
        return torch.cat([raw["stage2"].float() * mask + (2 * batch["target"] - 1) * (1 - mask), mask], dim=1)

    def validation_step(self, batch: dict[str, Any], batch_idx: int) -> dict[str, Tensor]:
        source, mask = batch["source"], batch["mask"]
        if max(source.shape[-2:]) <= self.largest:
            raw = self._restored(source, mask)
        else:
            raw = torch.stack([self._tiled(*field) for field in zip(source, mask, strict=True)])
        return {"prediction": paste(raw, source, mask), "raw": raw}

    test_step = predict_step = validation_step

    def _restored(self, source: Tensor, mask: Tensor) -> Tensor:
        at_once = max(1, int((self.largest**2 / (source.shape[-2] * source.shape[-1])) ** 2))
        parts = zip(source.split(at_once), mask.split(at_once), strict=True)
        return torch.cat([(self(*part)["stage2"].float() + 1) / 2 for part in parts])

    def _tiled(self, source: Tensor, mask: Tensor) -> Tensor:
        """One field C Y X in [0, 1] with its mask 1 Y X, restored tile by tile where there is a hole."""
        image, hole = source.cpu().numpy(), mask.cpu().numpy()
        stitcher = Stitcher(hole[0] > 0, self.largest)
        for window in stitcher.windows:
            tile, hidden = (torch.from_numpy(stitcher.cut(x, window)[None]).to(source) for x in (image, hole))
            stitcher.add(window, self._restored(tile, hidden)[0].cpu().numpy())
        return torch.from_numpy(stitcher.blended(image)).to(source)
