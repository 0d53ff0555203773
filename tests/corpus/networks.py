"""Settings and weight files of the inpainting networks that cannot be meant."""

from collections.abc import Callable, Iterator
from pathlib import Path

import torch

from .case import CANARY, Case, train
from .checkpoints import Attack
from .settings import Row, plate

EDGE, INPAINT = "phirm/edge_connect/edge", "phirm/edge_connect/inpaint"
FILL, CENTRE = "phirm/deepfill", "phirm/context_encoder"


def command(experiment: str, *overrides: str) -> Callable[[Path], list[str]]:
    """A builder of the arguments of a tiny training of an experiment on a good plate; {folder} is put in."""

    def build(folder: Path) -> list[str]:
        torch.save({"generator": {"encoder.1.weight": torch.zeros(2)}}, folder / "other.pth")
        torch.save({"generator": {"encoder.1.weight": [0.0]}}, folder / "list.pth")
        torch.save({"generator": Attack(folder / CANARY)}, folder / "trigger.pth")
        whole = (folder / "other.pth").read_bytes()
        (folder / "cut.pth").write_bytes(whole[: len(whole) // 2])
        own = [f"experiment={experiment}", "debug=tiny", "data=hcs_nuclei", "data.pixel_size=0.65",
               f"data.root={plate(folder / 'plate', 160)}", f"runs={folder}/runs"]  # fmt: skip
        return [*own, *(text.replace("{folder}", str(folder)) for text in overrides)]

    return build


def cases() -> Iterator[Case]:
    rows: dict[str, list[Row]] = {EDGE: _edges(), INPAINT: _perception(), FILL: _deepfill(), CENTRE: _context_encoder()}
    rows["phirm/edge_connect/finetune"] = [
        ("seed=4", ["edge/seed_4/last.ckpt"], "train.py experiment=phirm/edge_connect/edge seed=4")
    ]
    rows["phirm/edge_connect_finetune"] = [("model.init_from={folder}", ["EdgeModel_gen.pth"], "name it")]
    rows["phirm/deepfill_finetune"] = [("seed=0", ["states_pt_places2.pth"], "model.init_from|correct the path")]
    for experiment, group in rows.items():
        for override, names, mend in group:
            yield Case(f"{experiment} {override[:60]}", train, command(experiment, *override.split("  ")), names, mend)


def _edges() -> list[Row]:
    return [
        ("model.stage=first", ["model.stage", "'first'"], "edge|meant"),
        ("model.edge=some", ["model.edge", "'some'"], "composite|meant"),
        ("model.gan_loss=wgan", ["model.gan_loss", "'wgan'"], "hinge|meant"),
        ("model.edges.sigma=-1", ["sigma", "-1"], "above 0"),
        ("model.edges.sigma=many", ["sigma", "many"], "random|number"),
        ("model.edges.low=0.5", ["low=0.5"], "low <= high"),
        ("model.edges.low=100  model.edges.high=200", ["high=200"], "4.5"),
        ("model.edges.sigma=null", ["sigma=null"], "pixels"),
        ("data.edges=null", ["edge maps"], "data.edges="),
        ("test=true", ["stage edge"], "experiment=phirm/edge_connect/finetune"),
        ("model.blocks=x", ["model.blocks", "'x'"], "integer"),
        ("model.accumulate_grad_batches=0", ["accumulate_grad_batches", "0"], "1 or more"),
        ("model.gradient_clip_val=-1", ["gradient_clip_val", "-1"], "more than 0"),
        ("model.init_from={folder}/other.pth", ["other.pth"], "Use|use"),
        ("model.init_from={edge_generator: '{folder}/other.pth'}", ["other.pth", "missing"], "Use|use"),
        ("model.init_from={edge_generator: '{folder}/list.pth'}", ["list.pth"], "use|Use"),
        ("model.init_from={generator: '{folder}/other.pth'}", ["'generator'"], "edge_generator"),
        ("compile=perhaps", ["compile", "'perhaps'"], "true or false"),
    ]


def _perception() -> list[Row]:
    mend = "model.perceptual=null model.style=null"
    return [
        ("model.vgg={folder}/none.pth", ["none.pth", "model.vgg="], mend),
        ("model.vgg={folder}/cut.pth", ["cut.pth"], mend),
        ("model.vgg={folder}/other.pth", ["other.pth"], mend),
        ("model.vgg={folder}/trigger.pth", ["trigger.pth"], mend),
    ]


def _deepfill() -> list[Row]:
    return [
        ("model.init=orthogonal", ["'orthogonal'"], "preserving or published"),
        ("model.variant=tf", ["'tf'"], "official"),
        ("model.largest=8", ["model.largest", "8"], "64"),
        ("model.init_from={folder}/trigger.pth", ["trigger.pth", "refused"], "use|Use"),
        ("model.init_from={folder}/cut.pth", ["cut.pth"], "download it again"),
        ("model.init_from={folder}", ["folder"], "file"),
        ("model.in_channels=2", ["model.in_channels"], "agree"),
    ]


def _context_encoder() -> list[Row]:
    small = "model.bottleneck=8"
    return [
        (f"{small}  model.variant=boyuan", ["centre 64x64"], "data/masks=centre"),
        (f"{small}  model.variant=erik", ["half the side"], "data/masks=centre"),
        (f"{small}  model.variant=lua", ["'lua'"], "boyuan|random_region"),
        (f"{small}  model.variant=boyuan  model.overlap=40", ["model.overlap", "40"], "0 to 31"),
        (f"{small}  data/masks=centre  data.masks.position=corner", ["corner"], "centre"),
        (f"{small}  data/masks=centre  data.masks.inset=99", ["inset", "99"], "inset"),
    ]
