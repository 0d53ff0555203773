"""An autoencoder: an image translated into itself."""

from typing import Any

from torch import Tensor

from .translator import Translator


class Autoencoder(Translator):
    """Learns to draw its source (B C 256 256 in [0, 1]) again from an embedding (thesis, section 4.2.2).

    `embed` gives the embedding, B 8 21 21 or B 8 5 5. The prediction is the drawn source; no target is needed.
    """

    of_pairs = None

    def aim(self, batch: dict[str, Any]) -> Tensor:
        return batch["source"]
