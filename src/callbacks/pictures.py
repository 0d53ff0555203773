"""Pictures of what a model does: source, mask (where there is one), prediction, target and error side by side."""

from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as pl
from matplotlib.figure import Figure
from pytorch_lightning.loggers import WandbLogger
from pytorch_lightning.utilities import rank_zero_only


def draw_grid(batch: dict[str, Any], prediction: Any, rows: int) -> Figure:
    """A figure with a row per image (first channel); error is prediction minus target.

    Five columns for images with a hole. Without a mask there are four, and the source, which is of another kind of
    light than the target, is shown in its own range.
    """
    count, images = min(rows, len(batch["id"])), {**batch, "prediction": prediction}
    names = [name for name in ("source", "mask", "prediction", "target") if name in images]
    figure = Figure(figsize=(2.2 * (len(names) + 1), 2.3 * count), layout="constrained")
    axes = figure.subplots(count, len(names) + 1, squeeze=False)
    for row in range(count):
        shown: dict[str, np.ndarray] = {name: np.asarray(images[name][row, 0].detach().float().cpu()) for name in names}
        shown["error"] = shown["prediction"] - shown["target"]
        # Nuclei fill little of the range of a plate: the display stretches what the target holds.
        bright = max(float(np.percentile(shown["target"], 99.8)), 1e-3)
        ranges = dict.fromkeys(names, (0.0, bright)) | {"error": (-bright / 2, bright / 2)}
        if "mask" in shown:
            # What an edge map is drawn from is an image.
            ranges["source"] = (0.0, max(float(np.percentile(shown["source"], 99.8)), 1e-3))
            shown["source"], ranges["mask"] = np.where(shown["mask"] > 0, 0, shown["source"]), (0.0, 1.0)
        else:
            low, high = np.percentile(shown["source"], (0.2, 99.8))
            ranges["source"] = (float(low), max(float(high), float(low) + 1e-3))
        for axis, (name, image) in zip(axes[row], shown.items(), strict=True):
            low, high = ranges[name]
            colours = "RdBu_r" if name == "error" else "gray"
            axis.imshow(image, cmap=colours, vmin=low, vmax=high, interpolation="nearest")
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
        figure = draw_grid({**batch, **outputs}, outputs["prediction"], self.images)  # an autoencoder brings its target
        path = self.folder / f"epoch_{trainer.current_epoch:03d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, dpi=80)
        for logger in trainer.loggers:
            if isinstance(logger, WandbLogger):
                logger.log_image("val/examples", [str(path)], step=trainer.global_step)
