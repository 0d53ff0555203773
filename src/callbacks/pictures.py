"""Pictures of what a model does: source, mask, prediction, target and error side by side."""

from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as pl
from matplotlib.figure import Figure
from pytorch_lightning.loggers import WandbLogger
from pytorch_lightning.utilities import rank_zero_only


def draw_grid(batch: dict[str, Any], prediction: Any, rows: int) -> Figure:
    """A figure with a row per image (first channel) and five columns; error is prediction minus target."""
    count = min(rows, len(batch["id"]))
    figure = Figure(figsize=(11, 2.3 * count), layout="constrained")
    axes = figure.subplots(count, 5, squeeze=False)
    for row in range(count):
        source, target, mask, filled = (
            np.asarray(image[row, 0].detach().float().cpu())
            for image in (batch["source"], batch["target"], batch["mask"], prediction)
        )
        # Nuclei fill little of the range of a plate: the display stretches what the target holds.
        bright = max(float(np.percentile(target, 99.8)), 1e-3)
        panels = (
            ("source", np.where(mask > 0, 0, source), {"cmap": "gray", "vmin": 0, "vmax": bright}),
            ("mask", mask, {"cmap": "gray", "vmin": 0, "vmax": 1}),
            ("prediction", filled, {"cmap": "gray", "vmin": 0, "vmax": bright}),
            ("target", target, {"cmap": "gray", "vmin": 0, "vmax": bright}),
            ("error", filled - target, {"cmap": "RdBu_r", "vmin": -bright / 2, "vmax": bright / 2}),
        )
        for axis, (name, image, style) in zip(axes[row], panels, strict=True):
            axis.imshow(image, interpolation="nearest", **style)
            axis.set(xticks=[], yticks=[])
            if row == 0:
                axis.set_title(name, fontsize=10)
        axes[row, 0].set_ylabel(batch["id"][row], fontsize=6)
    return figure


class ImageGrid(pl.Callback):
    """Draws the first images of the first validation batch after every `every_n_epochs` epochs.

    The picture goes to `<folder>/pictures/epoch_003.png` and, where Weights & Biases is the logger, to its run.
    """

    def __init__(self, folder: str, images: int = 4, every_n_epochs: int = 1) -> None:
        self.folder, self.images, self.every_n_epochs = Path(folder) / "pictures", images, every_n_epochs

    @rank_zero_only
    def on_validation_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int, *_: Any
    ) -> None:
        if batch_idx > 0 or trainer.sanity_checking or trainer.current_epoch % self.every_n_epochs:
            return
        figure = draw_grid(batch, outputs["prediction"], self.images)
        path = self.folder / f"epoch_{trainer.current_epoch:03d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, dpi=80)
        for logger in trainer.loggers:
            if isinstance(logger, WandbLogger):
                logger.log_image("val/examples", [str(path)], step=trainer.global_step)
