"""Published weights of the inpainting networks, in and out under the key names that people download.

    net = load("edge_connect/inpaint_generator", "InpaintingModel_gen.pth", in_channels=1).eval()
    torch.save({"generator": export(net)}, "InpaintingModel_gen.pth")

Published networks take RGB. One channel (`in_channels=1`) is served by adapting the layers that meet the image: a first
layer's three inputs are summed, so that a grey image gives what it would give three times over; a last layer's three
outputs are averaged before its tanh, which is the mean image where the three agree. DeepFill's second stage reads the
first one's output and is adapted on both sides, so it follows the RGB network as far as that one's first stage draws
grey. A layer under spectral normalisation is normalised anew: a discriminator keeps its features, not their scale.
Edge networks read grey already.
"""

from collections.abc import Mapping
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn

from .nets.deepfill import VARIANTS
from .published_networks import NETWORKS, Network
from .weightfiles import WeightsError, opened, part_of, parts, read

__all__ = ["WeightsError", "export", "fill", "listed", "load", "names", "parts", "read", "recognise", "side"]
SHOWN = 20  # keys of a kind that an error lists
PORT_KEY = "stage1.conv1.conv.weight"  # of DeepFill's two key forms, pytorch_port alone has it


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
    if network.names:
        found = parts(saved, where)
        generator = found.get("generator") or (found.get("") if side(name) == "generator" else None)
        if generator:
            variant = _variant(generator)
            if options.setdefault("variant", variant) != variant:
                raise WeightsError(f"{where} has the keys of variant={variant}, not of {options['variant']}")
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
    state = dict(part_of(parts(saved, where), side(name), where))
    if network.names and side(name) == "generator" and _variant(state) != net.variant:
        raise WeightsError(
            f"{where} has the keys of variant={_variant(state)}, and this network is {net.variant}, which makes "
            f"other images of the same weights: set model.variant={_variant(state)}"
        )
    own, keys = net.state_dict(), network.keys(net)
    published = {key: own[ours] for ours, key in keys.items()}
    _drop_repeated(state, network, where)
    if network.names:  # a column there, flat here
        state = {key: v.flatten() if key.endswith("weight_u") else v for key, v in state.items()}
    counters = [key for key in published if key.endswith("num_batches_tracked")]
    if not any(key in state for key in counters):  # written by torch before 0.4.1, which did not count
        state |= {key: torch.tensor(0) for key in counters}
    adapted = _adapt(state, own, keys, network)
    if complaint := _complaint(state, published):
        raise WeightsError(f"{where} does not fit {name}: {complaint}.{_belongs(state, name)}")
    for key, value in published.items():
        if state[key].is_floating_point() != value.is_floating_point() or state[key].is_complex():
            raise WeightsError(f"{where}: {key} is {state[key].dtype}, not {value.dtype}; use another file")
        if not state[key].isfinite().all():
            raise WeightsError(f"{where}: {key} holds NaN or infinite values; use another file")
    weights = {ours: state[key] for ours, key in keys.items()}
    for key in own:
        if key.endswith("weight_v") and key not in weights:  # follows from weight_u
            stem = key.removesuffix("v")
            weights[key] = nn.functional.normalize(weights[f"{stem}orig"].flatten(1).T @ weights[f"{stem}u"], dim=0)
    net.load_state_dict(weights)
    return adapted


def export(net: nn.Module) -> dict[str, Tensor]:
    """The weights of a network under their published keys, aliases and constants included, as `load` reads them.

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


def _variant(generator: Mapping[str, Tensor]) -> str:
    """DeepFill's variant, as the keys of its generator tell it."""
    return "pytorch_port" if PORT_KEY in generator else "official"


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


def _adapt(state: dict[str, Tensor], own: dict[str, Tensor], keys: dict[str, str], network: Network) -> bool:
    """Makes RGB weights serve a network of one channel; whether that was asked and done."""
    first, inputs = network.first
    rgb = state.get(keys[first])
    if not network.sums or rgb is None or rgb.shape[1:2] != (inputs,) or own[first].shape[1] != inputs - 2:
        return False
    for ours in network.sums:
        if keys[ours] in state:
            weight = state[keys[ours]]
            state[keys[ours]] = weight = torch.cat([weight[:, :3].sum(1, keepdim=True), weight[:, 3:]], 1)
            if ours.endswith("weight_orig"):
                left, _, right = torch.linalg.svd(weight.flatten(1).double(), full_matrices=False)
                for vector, value in (("weight_u", left[:, 0]), ("weight_v", right[0])):
                    key = keys.get(ours.replace("weight_orig", vector))
                    if key in state:
                        state[key] = value.to(weight.dtype)
    for ours, axis in network.means:
        if keys[ours] in state:
            state[keys[ours]] = state[keys[ours]].mean(axis, keepdim=True)
    return True


def _complaint(state: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> str:
    """What is missing, too much or of another shape; empty where all fits."""
    kinds = {
        "missing": [key for key in expected if key not in state],
        "extra": [key for key in state if key not in expected],
        "of another shape": [
            f"{key} is {tuple(state[key].shape)}, here {tuple(value.shape)}"
            for key, value in expected.items()
            if key in state and state[key].shape != value.shape
        ],
    }
    return "; ".join(f"{len(keys)} {kind} ({listed(keys)})" for kind, keys in kinds.items() if keys)


def _belongs(state: Mapping[str, Tensor], name: str) -> str:
    """Where the weights would fit, if that is known."""
    others = [f"{other}, {NETWORKS[other].setting}" for other in recognise(state) if other != name]
    return f" It holds the weights of {' or '.join(others)}" if others else " Use a file of this network"
