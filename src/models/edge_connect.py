"""EdgeConnect: the edges in the hole first, then the image from its edges, on one to N channels."""

import logging
from collections.abc import Mapping
from typing import Any, ClassVar, Literal, Self

import torch
from torch import Tensor, nn

from ..imaging.edges import Canny
from . import losses
from .adversarial import Adversarial
from .edge_maps import check_edges, grey, known_edges, true_edges
from .holes import fitted, hide, paste
from .nets.edge_connect import Discriminator, EdgeGenerator, InpaintGenerator
from .perception import Perception

log = logging.getLogger(__name__)

EDGE, IMAGE = ("edge_generator", "edge_discriminator"), ("inpaint_generator", "inpaint_discriminator")
PARTS = {"edge": EDGE, "inpaint": IMAGE, "finetune": ("edge_generator", *IMAGE), "joint": (*EDGE, *IMAGE)}
# The published weights of the terms, under the network that makes them.
WEIGHTS: dict[str, dict[str, dict[str, float]]] = {
    "generator": {
        "edge_discriminator": {"edge_adversarial": 1.0, "feature_matching": 10.0},
        "inpaint_discriminator": {"adversarial": 0.1, "l1": 1.0},
    },
    "discriminator": {
        "edge_discriminator": {"edge_real": 0.5, "edge_fake": 0.5},
        "inpaint_discriminator": {"real": 0.5, "fake": 0.5},
    },
}


class EdgeConnect(Adversarial):
    """Draws the edges in the hole, then the image from its edges (Nazeri et al. 2019), in one of four stages.

    `edge` trains the edge networks, on grey images; `inpaint` the image networks, on true edges; `finetune` goes on
    with the edges that the edge generator draws, which is frozen; `joint` trains all four, the image's loss reaching
    the edge generator too. A stage holds the networks it needs. All values are in [0, 1]; the hole is white. Edge
    terms: `edge_adversarial`, `feature_matching`. Image terms, of the generator's whole output: `adversarial`, `l1`
    over the hole's share, and VGG19's `perceptual` and `style`, given by their weights (None: without).
    Discriminators' terms: `edge_real`, `edge_fake`, `real`, `fake`. `weights` change the others' published ones; those
    of terms that a stage lacks are left aside. Three channels are red, green and blue; of others each counts alike.

    Training reads the batch's `edges`. Evaluation finds the known edges by itself (`edges`), outside the hole; the
    inpaint generator gets the drawn ones in the hole and the known ones around it, or with edge="raw" the drawn map
    alone, as the published test script does. It returns `prediction`, `raw` and `edges_predicted`. Stage `edge` is
    validated on its edges, against the true ones as its `target`, `inpaint` with the true ones; neither can be tested
    or predict. Raises ValueError for unknown settings, and before training where the data's edge maps are not those of
    `edges`, or VGG19's weights are needed and missing.
    """

    published: ClassVar[dict[str, str]] = {part: f"edge_connect/{part}" for part in PARTS["joint"]}

    def __init__(
        self,
        stage: Literal["edge", "inpaint", "finetune", "joint"],
        in_channels: int = 1,
        blocks: int = 8,
        edges: Canny | None = None,
        edge: Literal["composite", "raw"] = "composite",
        gan_loss: Literal["nsgan", "lsgan", "hinge"] = "nsgan",
        perceptual: float | None = 0.1,
        style: float | None = 250.0,
        vgg: str | None = None,
        generator_lr: float = 1e-4,
        discriminator_lr: float = 1e-5,
        betas: tuple[float, float] = (0.0, 0.9),
        weights: Mapping[str, Mapping[str, float]] | None = None,
        **options: Any,
    ) -> None:
        for key, value, kinds in (
            ("stage", stage, PARTS),
            ("edge", edge, ("composite", "raw")),
            ("gan_loss", gan_loss, losses.KINDS),
        ):
            if value not in kinds:
                raise ValueError(f"model.{key}={value}: one of {', '.join(kinds)} is meant")
        if twice := sorted({"perceptual", "style"} & set((weights or {}).get("generator", {}))):
            raise ValueError(f"model.weights.generator names {twice[0]}: its weight is model.{twice[0]}")
        super().__init__(generator_lr, discriminator_lr, betas, _weights(stage, weights or {}), **options)
        self.stage, self.edge, self.gan_loss, self.canny = stage, edge, gan_loss, edges or Canny()
        self.perception = Perception(perceptual, style, vgg)
        if self.has("edge_generator"):
            self.edge_generator = EdgeGenerator(blocks=blocks).requires_grad_(stage != "finetune")
        if self.has("edge_discriminator"):
            self.edge_discriminator = Discriminator(2)
        if self.has("inpaint_generator"):
            self.inpaint_generator = InpaintGenerator(in_channels, blocks)
            self.inpaint_discriminator = Discriminator(in_channels)
            self.weights["generator"] |= self.perception.weights
        self._with_edges: list[bool] = []  # of the first epoch's images
        self.train()

    @property
    def unfinished(self) -> str | None:
        """Why this stage cannot restore an image, where it cannot, and how to go on."""
        if self.stage not in ("edge", "inpaint"):
            return None
        what = "draws edges, no image" if self.stage == "edge" else "fills a hole from true edges, which nobody has"
        return (
            f"EdgeConnect's stage {self.stage} {what}: once the stages edge and inpaint are trained, go on with "
            "python train.py experiment=phirm/edge_connect/finetune, and use its checkpoint"
        )

    def has(self, part: str) -> bool:
        return part in PARTS[self.stage]

    def networks(self, side: str) -> list[nn.Module]:
        frozen = "edge_generator" if self.stage == "finetune" else ""
        return [getattr(self, part) for part in PARTS[self.stage] if part.endswith(side) and part != frozen]

    def train(self, mode: bool = True) -> Self:
        """Switches to training or evaluation; a frozen network stays in evaluation, its spectral norm as it is."""
        super().train(mode)
        if self.stage == "finetune":
            self.edge_generator.eval()
        return self

    def setup(self, stage: str) -> None:
        if stage != "fit":
            return
        if data := getattr(self.trainer, "datamodule", None):
            check_edges(self.canny, getattr(data, "edges", None))
        if self.has("edge_generator") and self.canny.sigma is None:
            raise ValueError(
                f"model.edges.sigma=null finds no edges, and stage {self.stage} draws them: give pixels, or random"
            )
        if self.has("inpaint_generator"):
            self.perception.load(self.trainer.precision)
        elif missing := self.perception.missing():
            log.warning("this stage needs no VGG19, those that draw images will stop: %s", missing)
        origins = self.init_from or {}
        if self.stage == "finetune" and not isinstance(origins, str) and "edge_generator" not in origins:
            log.warning("model.init_from names no edge_generator: it is frozen as it was drawn at random")

    def on_train_batch_end(self, outputs: Any, batch: dict[str, Any], batch_idx: int) -> None:
        if self.current_epoch == 0:
            self._with_edges += batch["edges"].flatten(1).any(1).tolist()

    def on_train_epoch_end(self) -> None:
        images, found = len(self._with_edges), sum(self._with_edges)
        if self.canny.sigma is not None and 2 * found < images:
            log.warning(
                "Canny finds no edge in %d of the first epoch's %d images: where their nuclei are dim in the plate's "
                "range, train every stage with model.edges.low=0.05 model.edges.high=0.1",
                images - found,
                images,
            )
        self._with_edges = []

    def on_fit_start(self) -> None:
        super().on_fit_start()
        self.perception.to(self.device)

    def draw_edges(self, source: Tensor, edges: Tensor, mask: Tensor) -> Tensor:
        """Source (B C Y X in [0, 1]), edges and mask (B 1 Y X) to an edge map B 1 Y X, from what is known alone."""
        x = torch.cat([hide(grey(source), mask, 1.0), hide(edges, mask), mask], dim=1)
        return _any_size(self.edge_generator, x)

    def draw_image(self, source: Tensor, edges: Tensor, mask: Tensor) -> Tensor:
        """Source outside the hole (B C Y X in [0, 1]) and edges everywhere (B 1 Y X) to an image B C Y X in [0, 1]."""
        return _any_size(self.inpaint_generator, torch.cat([hide(source, mask, 1.0), edges], dim=1))

    def draw(self, batch: dict[str, Any]) -> dict[str, Tensor]:
        source, mask, edges, raw = batch["source"], batch["mask"], true_edges(batch), {}
        if self.has("edge_generator"):
            raw["edges"] = self.draw_edges(source, edges, mask)
            edges = raw["edges"] * mask + edges * (1 - mask)
        if self.has("inpaint_generator"):
            raw["image"] = self.draw_image(source, edges, mask)
        return raw

    def discriminator_loss(self, batch: dict[str, Any], raw: dict[str, Tensor]) -> dict[str, Tensor]:
        terms = {}
        if self.has("edge_discriminator"):
            terms["edge_real"] = self._judged(self._edge_maps(batch, batch["edges"]), True, discriminator=True)
            terms["edge_fake"] = self._judged(self._edge_maps(batch, raw["edges"]), False, discriminator=True)
        if self.has("inpaint_discriminator"):
            terms["real"] = self._judged(self.inpaint_discriminator(batch["target"])[1], True, discriminator=True)
            terms["fake"] = self._judged(self.inpaint_discriminator(raw["image"])[1], False, discriminator=True)
        return terms

    def generator_loss(self, batch: dict[str, Any], raw: dict[str, Tensor]) -> dict[str, Tensor]:
        terms = {}
        if self.has("edge_discriminator"):
            fake = self._edge_maps(batch, raw["edges"])
            with torch.no_grad():
                real = self._edge_maps(batch, batch["edges"])
            terms["edge_adversarial"] = self._judged(fake, True, discriminator=False)
            terms["feature_matching"] = losses.feature_matching(fake, real)
        if self.has("inpaint_discriminator"):
            image, target, mask = raw["image"], batch["target"], batch["mask"]
            terms["adversarial"] = self._judged(self.inpaint_discriminator(image)[1], True, discriminator=False)
            terms["l1"] = losses.hole_l1(image, target, mask)
            terms |= self.perception.terms(image, target, mask)
        return terms

    def _edge_maps(self, batch: dict[str, Any], edges: Tensor) -> list[Tensor]:
        """The edge discriminator's maps of the grey target with edges, the logits last."""
        return self.edge_discriminator(torch.cat([grey(batch["target"]), edges], dim=1))[1]

    def _judged(self, maps: list[Tensor], real: bool, discriminator: bool) -> Tensor:
        return losses.adversarial(maps[-1], real, self.gan_loss, discriminator)

    def forward(self, source: Tensor, mask: Tensor) -> Tensor:
        """Source B C Y X in [0, 1] and mask B 1 Y X to the edges B 1 Y X that the inpaint generator draws from."""
        known = known_edges(self.canny, source, mask)
        drawn = self.draw_edges(source, known, mask)
        return drawn if self.edge == "raw" else drawn * mask + known * (1 - mask)

    def validation_step(self, batch: dict[str, Any], batch_idx: int) -> dict[str, Tensor]:
        source, mask = batch["source"], batch["mask"]
        if self.stage == "edge":
            edges = self(source, mask)
            return {"prediction": edges, "edges_predicted": edges, "target": true_edges(batch)}
        extras = {} if self.stage == "inpaint" else {"edges_predicted": self(source, mask)}
        raw = self.draw_image(source, extras["edges_predicted"] if extras else true_edges(batch), mask)
        return {"prediction": paste(raw, source, mask), "raw": raw, **extras}

    def test_step(self, batch: dict[str, Any], batch_idx: int) -> dict[str, Tensor]:
        if self.unfinished:
            raise ValueError(self.unfinished)
        return self.validation_step(batch, batch_idx)

    predict_step = test_step


def _any_size(net: nn.Module, x: Tensor) -> Tensor:
    """What a generator makes of an image of any size, float32."""
    return net(fitted(x, 4, 12))[..., : x.shape[-2], : x.shape[-1]].float()


def _weights(stage: str, given: Mapping[str, Mapping[str, float]]) -> dict[str, dict[str, float]]:
    """The weights of a stage's terms: those given, else the published ones."""
    found = {side: dict(terms) for side, terms in given.items()}
    for side, networks in WEIGHTS.items():
        for network, terms in networks.items():
            for term, published in terms.items():
                weight = found.setdefault(side, {}).pop(term, published)
                if network in PARTS[stage]:
                    found[side][term] = weight
    return found
