"""Published weights of the inpainting networks, in and out under the key names that people download.

    net = load("edge_connect/inpaint_generator", "InpaintingModel_gen.pth", in_channels=1).eval()
    torch.save({"generator": export(net)}, "InpaintingModel_gen.pth")

Published networks take RGB. One channel (`in_channels=1`) is served by adapting the layers that meet the image: a first
layer's three inputs are summed, so that a grey image gives what it would give three times over; a last layer's three
outputs are averaged before its tanh, which is the mean image where the three agree. DeepFill's second stage reads the
first one's output and is adapted on both sides, so it follows the RGB network as far as that one's first stage draws
grey. A layer under spectral normalisation is normalised anew, which scales what it finds: EdgeConnect's discriminator
has no biases, so its logits are the RGB ones times a number; DeepFill's has, so its scores only resemble them. Edge
networks read grey already. No file says whether its three channels are RGB or BGR, as the official DeepFill's are: one
channel does not depend on it, three do.
"""

from collections.abc import Mapping
from functools import cache
from math import prod
from typing import Any

import torch
from torch import Tensor, nn

from .nets.deepfill import VARIANTS
from .published_networks import NETWORKS, Network
from .weightfiles import WeightsError, opened, part_of, parts, read

__all__ = ["WeightsError", "export", "fill", "listed", "load", "names", "parts", "read", "recognise", "shared", "side"]
SHOWN = 20  # keys of a kind that an error lists
# The key that tells DeepFill's two key forms apart.
FORMS = {"conv1.conv.weight": "official", "stage1.conv1.conv.weight": "pytorch_port"}


def names() -> list[str]:
    """The networks whose published weights can be read."""
    return sorted(NETWORKS)


def load(name: str, checkpoint: Any, in_channels: int | None = None, **options: Any) -> nn.Module:
    """A network with published weights, for three channels or for one; `options` are those of its class.

    `checkpoint` is a file, a state dict, or what such a file holds: {"generator": ...}, {"G": ..., "D": ...},
    {"state_dict": ...}, with or without `module.` before its keys. DeepFill's generator is built as its keys say: the
    form of networks.py as variant pytorch_port, that of networks_tf.py as variant official with fuse=False, which is
    what networks_tf.py computes; fuse=True is the authors' own graph. Its discriminator has the same keys in both: its
    variant is told by the generator in the same file, else it is official.

    Raises WeightsError that names the file, and lists the keys that do not fit.
    """
    network = _network(name)
    if in_channels not in (None, 1, 3):
        raise WeightsError(f"in_channels is {in_channels}: published weights are RGB and serve 3 channels or 1")
    saved, where = opened(checkpoint)
    if variant := _variant(parts(saved, where), name):
        options.setdefault("variant", variant)
        if side(name) == "generator":
            options.setdefault("fuse", variant == "pytorch_port")
    net = network.kind(network.arguments(in_channels or 3), **options)
    fill(net, name, saved, where)
    return net


def fill(net: nn.Module, name: str, checkpoint: Any, where: str | None = None) -> bool:
    """Puts published weights (as in `load`) into a network; whether three channels were made one.

    Raises WeightsError, as `load` does.
    """
    network = _network(name)
    saved, found = opened(checkpoint)
    where = where or found
    held = parts(saved, where)
    variant = _variant(held, name)
    if variant and variant != net.variant:
        raise WeightsError(
            f"{where} has the keys of variant={variant}, not of {net.variant}, which makes other images of the same "
            f"weights: set model.variant={variant}"
        )
    own, keys = net.state_dict(), network.keys(net)
    state = {key: v.float() if v.is_floating_point() else v for key, v in part_of(held, side(name), where).items()}
    _drop_repeated(state, network, where)
    if network.names:  # a column there, flat here
        state = {key: v.flatten() if key.endswith("weight_u") else v for key, v in state.items()}
    counters = [key for key in keys.values() if key.endswith("num_batches_tracked")]
    if not any(key in state for key in counters):  # written by torch before 0.4.1, which did not count
        state |= {key: torch.tensor(0) for key in counters}
    rgb = _is_rgb(state, own, keys, network)
    if complaint := _complaint(state, _shapes(own, keys, network, rgb)):
        raise WeightsError(f"{where} does not fit {name}: {complaint}. {_belongs(state, name)}")
    for ours, key in keys.items():
        if state[key].is_floating_point() != own[ours].is_floating_point() or state[key].is_complex():
            raise WeightsError(f"{where}: {key} is {state[key].dtype}, not {own[ours].dtype}; use another file")
        if not state[key].isfinite().all():
            raise WeightsError(f"{where}: {key} holds NaN or infinite values; use another file")
    if rgb:
        _adapt(state, keys, network)
    weights = {ours: state[key] for ours, key in keys.items()}
    for key in own:
        if key.endswith("weight_v") and key not in weights:  # follows from weight_u
            stem = key.removesuffix("v")
            weights[key] = nn.functional.normalize(weights[f"{stem}orig"].flatten(1).T @ weights[f"{stem}u"], dim=0)
    net.load_state_dict(weights)
    return rgb


def export(net: nn.Module) -> dict[str, Tensor]:
    """The weights of a network under their published keys, aliases and constants included, as `load` reads them.

    They are to be read by key, not by order. A file keeps no options but DeepFill's variant: give `load` those that
    the network was built with (in_channels, fuse, blocks, bottleneck, norm_eps).

    Raises TypeError for a network without published weights.
    """
    network = next((network for network in NETWORKS.values() if type(net) is network.kind), None)
    if network is None:
        raise TypeError(f"{type(net).__module__}.{type(net).__name__} has no published weights: there is no file to be")
    own = {key: value.detach().cpu().clone() for key, value in net.state_dict().items()}
    state = {published: own[key] for key, published in network.keys(net).items()}
    if network.names:
        state = {key: value[:, None] if key.endswith("weight_u") else value for key, value in state.items()}
        state |= {key: value.clone() for key, value in network.constants.get(str(net.variant), {}).items()}
    return state | {alias: state[key].clone() for alias, key in network.aliases.items()}


def recognise(state: Mapping[str, Tensor]) -> list[str]:
    """The networks that these published keys belong to, told apart by the inputs of the first layer where need be."""
    found = []
    for name, network in NETWORKS.items():
        repeated = {*network.aliases, *(key for group in network.constants.values() for key in group)}
        bare = {key for key in state if not key.endswith("num_batches_tracked")} - repeated
        key, inputs = network.first
        for keys in _published_keys(name):
            if bare == {published for published in keys.values() if not published.endswith("num_batches_tracked")}:
                fitting = (inputs, inputs - 2) if network.sums else (inputs,)
                found += [name] if state[keys[key]].shape[1:2] in [(count,) for count in fitting] else []
    return list(dict.fromkeys(found))


def shared(state: Mapping[str, Tensor], name: str) -> int:
    """How many of these published keys are a network's."""
    return max(sum(key in state for key in keys.values()) for keys in _published_keys(name))


def side(name: str) -> str:
    """generator or discriminator."""
    return "generator" if name.endswith("generator") else "discriminator"


def listed(keys: list[str]) -> str:
    """Keys in one line, twenty of them at most."""
    return ", ".join(keys[:SHOWN]) + (f" and {len(keys) - SHOWN} more" if len(keys) > SHOWN else "")


def _network(name: str) -> Network:
    if name not in NETWORKS:
        raise WeightsError(f"there are no published weights of {name!r}; there are: {', '.join(names())}")
    return NETWORKS[name]


def _variant(held: Mapping[str, Mapping[str, Tensor]], name: str) -> str | None:
    """DeepFill's variant, as the keys of the generator among a file's parts tell it; None where nothing tells it."""
    generator = held.get("generator") or (held.get("", {}) if side(name) == "generator" else {})
    return next((form for key, form in FORMS.items() if key in generator and NETWORKS[name].names), None)


@cache
def _published_keys(name: str) -> list[dict[str, str]]:
    """Our keys of a network to its published ones, in each of its key forms."""
    network = NETWORKS[name]
    with torch.device("meta"):
        options = [{"variant": variant} for variant in VARIANTS] if network.names else [{}]
        return [network.keys(network.kind(network.arguments(3), **option)) for option in options]


def _drop_repeated(state: dict[str, Tensor], network: Network, where: str) -> None:
    """Takes aliases and constants out; WeightsError where they do not say what they must."""
    constants = {key: value for group in network.constants.values() for key, value in group.items()}
    for key, value in ({alias: state.get(to) for alias, to in network.aliases.items()} | constants).items():
        given = state.pop(key, None)
        if given is not None and value is not None and not torch.equal(given, value):
            raise WeightsError(f"{where}: {key} is not what the published network fixes it to; use another file")


def _is_rgb(state: dict[str, Tensor], own: dict[str, Tensor], keys: dict[str, str], network: Network) -> bool:
    """Whether weights of three channels meet a network of one."""
    first, inputs = network.first
    weight = state.get(keys[first], torch.empty(0))
    return bool(network.sums) and weight.shape[1:2] == (inputs,) and own[first].shape[1] == inputs - 2


def _shapes(own: dict[str, Tensor], keys: dict[str, str], network: Network, rgb: bool) -> dict[str, tuple[int, ...]]:
    """The shapes that a network expects, or the three-channel network that it is adapted from, by published keys."""
    shapes = {key: list(own[ours].shape) for ours, key in keys.items()}
    for ours, axis in [*((ours, 1) for ours in network.sums), *network.means] if rgb else ():
        shapes[keys[ours]][axis] += 2
        if (vector := keys.get(ours.replace("weight_orig", "weight_v"))) and vector != keys[ours]:
            shapes[vector] = [prod(shapes[keys[ours]][1:])]
    return {key: tuple(shape) for key, shape in shapes.items()}


def _adapt(state: dict[str, Tensor], keys: dict[str, str], network: Network) -> None:
    """Makes RGB weights serve a network of one channel."""
    for ours in network.sums:
        weight = state[keys[ours]]
        state[keys[ours]] = weight = torch.cat([weight[:, :3].sum(1, keepdim=True), weight[:, 3:]], 1)
        if ours.endswith("weight_orig"):
            left, _, right = torch.linalg.svd(weight.flatten(1).double(), full_matrices=False)
            for vector, value in (("weight_u", left[:, 0]), ("weight_v", right[0])):
                key = keys.get(ours.replace("weight_orig", vector))
                if key in state:
                    state[key] = value.to(weight.dtype)
    for ours, axis in network.means:
        state[keys[ours]] = state[keys[ours]].mean(axis, keepdim=True)


def _complaint(state: Mapping[str, Tensor], expected: Mapping[str, tuple[int, ...]]) -> str:
    """What is missing, too much or of another shape; empty where all fits."""
    kinds = {
        "missing": [key for key in expected if key not in state],
        "extra": [key for key in state if key not in expected],
        "of another shape": [
            f"{key} is {tuple(state[key].shape)}, here {shape}"
            for key, shape in expected.items()
            if key in state and state[key].shape != shape
        ],
    }
    return "; ".join(f"{len(keys)} {kind} ({listed(keys)})" for kind, keys in kinds.items() if keys)


def _belongs(state: Mapping[str, Tensor], name: str) -> str:
    """Where the weights would fit, if that is known."""
    known = recognise(state)
    if name in known:
        return (
            "Its keys are this network's: build it with the options that the file was made with (in_channels, of which "
            "RGB weights serve 3 or 1; bottleneck, blocks)"
        )
    others = [f"{other}, {NETWORKS[other].setting}" for other in known]
    return f"It holds the weights of {' or '.join(others)}" if others else "Use a file of this network"
