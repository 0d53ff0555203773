"""An autoencoder: an image translated into itself."""

from typing import Any

from torch import Tensor

from .holes import fitted
from .nets.autoencoder import SIDE
from .translator import Translator


class Autoencoder(Translator):
    """Learns to draw its source (B C Y X in [0, 1], up to 256 px) again from an embedding (thesis, section 4.2.2).

    `embed` gives the embedding, B 8 21 21 or B 8 5 5. Smaller images are mirrored to 256x256 px, of which the embedding
    is then. The prediction is the drawn source; no target is needed, and what is measured is held against the source.
    """

    of_pairs = None

    def aim(self, batch: dict[str, Any]) -> Tensor:
        return batch["source"]

    def _fitted(self, source: Tensor) -> Tensor:
        return fitted(super()._fitted(source), 1, least=SIDE)

    def validation_step(self, batch: dict[str, Any], batch_idx: int) -> dict[str, Tensor]:
        return super().validation_step(batch, batch_idx) | {"target": self.aim(batch)}

    test_step = predict_step = validation_step
