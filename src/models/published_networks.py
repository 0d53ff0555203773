"""The networks whose weights are published, and what their files and ours differ in."""

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from .nets import context_encoder_published as context_encoder
from .nets import deepfill, edge_connect


@dataclass(frozen=True)
class Network:
    """A published network. Keys are ours, as in the class's state dict, unless they are said to be published.

    `setting` is the command-line choice of the model that takes these weights. `first` is the first layer's key with
    its published number of inputs, `sums` are the keys whose first three inputs are RGB, `means` those whose outputs
    are RGB, with their axis: without `sums` a network is the same for any image. `arguments` makes the class's
    in_channels of the image's. `aliases` are published keys that repeat another one; `constants` are published keys
    without a parameter, by variant; `names(variant)` maps our keys to the published ones where they differ. `file` is
    the name under which people download it.
    """

    kind: Callable[..., nn.Module]
    setting: str
    first: tuple[str, int]
    arguments: Callable[[int], int] = int
    sums: tuple[str, ...] = ()
    means: tuple[tuple[str, int], ...] = ()
    aliases: dict[str, str] = field(default_factory=dict)
    constants: dict[str, dict[str, Tensor]] = field(default_factory=dict)
    names: Callable[[str], dict[str, str]] | None = None
    file: str | None = None

    def keys(self, net: nn.Module) -> dict[str, str]:
        """Our keys of a network to the published ones, without those that are not published."""
        own = net.state_dict()
        names = self.names(str(net.variant)) if self.names else {key: key for key in own}
        return {key: published for key, published in names.items() if key in own}


_ALIASES = {f"features.0.weight_{kind}": f"conv1.0.weight_{kind}" for kind in ("orig", "u", "v")}
_FUSE = {"stage2.contextual_attention.fuse_weight": torch.eye(3).view(1, 1, 3, 3)}

NETWORKS = {
    "edge_connect/edge_generator": Network(
        edge_connect.EdgeGenerator,
        "model=edge_connect",
        ("encoder.1.weight_orig", 3),
        arguments=lambda channels: 3,  # grey, edges, mask
        file="EdgeModel_gen.pth",
    ),
    "edge_connect/edge_discriminator": Network(
        edge_connect.Discriminator,
        "model=edge_connect",
        ("conv1.0.weight_orig", 2),
        arguments=lambda channels: 2,  # grey, edges
        aliases=_ALIASES,
        file="EdgeModel_dis.pth",
    ),
    "edge_connect/inpaint_generator": Network(
        edge_connect.InpaintGenerator,
        "model=edge_connect",
        ("encoder.1.weight", 4),
        sums=("encoder.1.weight",),
        means=(("decoder.7.weight", 0), ("decoder.7.bias", 0)),
        file="InpaintingModel_gen.pth",
    ),
    "edge_connect/inpaint_discriminator": Network(
        edge_connect.Discriminator,
        "model=edge_connect",
        ("conv1.0.weight_orig", 3),
        sums=("conv1.0.weight_orig",),
        aliases=_ALIASES,
        file="InpaintingModel_dis.pth",
    ),
    "deepfill_v2/generator": Network(
        deepfill.Generator,
        "model=deepfill",
        ("coarse.0.conv.weight", 5),
        sums=("coarse.0.conv.weight", "convolved.0.conv.weight", "patches.0.conv.weight"),
        means=tuple((f"{layer}.conv.{kind}", 0) for layer in ("coarse.16", "merged.6") for kind in ("weight", "bias")),
        constants={"pytorch_port": _FUSE},
        names=deepfill.published_names,
    ),
    "deepfill_v2/discriminator": Network(
        deepfill.Discriminator,
        "model=deepfill",
        ("conv1.weight_orig", 4),
        arguments=lambda channels: channels + 1,  # the image, the mask
        sums=("conv1.weight_orig",),
        names=deepfill.published_names,
    ),
    "context_encoder/boyuan_generator": Network(
        context_encoder.BoyuanGenerator,
        "model.variant=boyuan",
        ("main.0.weight", 3),
        sums=("main.0.weight",),
        means=(("main.29.weight", 1),),  # a transposed convolution
    ),
    "context_encoder/boyuan_discriminator": Network(
        context_encoder.BoyuanDiscriminator, "model.variant=boyuan", ("main.0.weight", 3), sums=("main.0.weight",)
    ),
    "context_encoder/erik_generator": Network(
        context_encoder.ErikGenerator,
        "model.variant=erik",
        ("model.0.weight", 3),
        sums=("model.0.weight",),
        means=(("model.27.weight", 0), ("model.27.bias", 0)),
    ),
    "context_encoder/erik_discriminator": Network(
        context_encoder.ErikDiscriminator, "model.variant=erik", ("model.0.weight", 3), sums=("model.0.weight",)
    ),
}
