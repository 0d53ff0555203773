"""VGG19 with its published weights, and how microscope images are shown to it."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .nets.vgg import VGG19
from .weightfiles import WeightsError, read

PUBLISHED = "vgg19-dcbb9e9d.pth"
WITHOUT = (
    "train without its losses: model.perceptual=null model.style=null (sweep=phirm_edge_connect takes these keys, "
    "sweep=phirm_networks does not)"
)


def shown(x: Tensor) -> Tensor:
    """Images as VGG19 sees them: three channels as they are, of any other number each channel as a grey RGB image.

    `B C Y X` in [0, 1] to `B 3 Y X` or `B*C 3 Y X`, so that a loss averages over the channels.
    """
    return x if x.shape[1] == 3 else x.flatten(0, 1).unsqueeze(1).expand(-1, 3, -1, -1)


def vgg19_file(path: str | Path | None = None) -> Path:
    """The file that `load_vgg19` reads; FileNotFoundError, naming the mends, where there is none."""
    file = Path(path) if path is not None else Path(torch.hub.get_dir()) / "checkpoints" / PUBLISHED
    if not file.is_file():
        raise FileNotFoundError(
            f"no VGG19 weights at {file}: put {PUBLISHED} (https://download.pytorch.org/models/{PUBLISHED}) there or "
            f"name it with model.vgg=path/to/{PUBLISHED}, or {WITHOUT}"
        )
    return file


def load_vgg19(path: str | Path | None = None) -> VGG19:
    """VGG19 with torchvision's published weights (IMAGENET1K_V1) from a file, frozen.

    Without a path the file is looked for where torchvision keeps it, in the torch hub cache. Only tensors are read,
    nothing is downloaded. Weights of the classifier are left out, as its layers are not used.

    Raises FileNotFoundError where there is no file, ValueError where it is damaged or of another network.
    """
    file, net = vgg19_file(path), VGG19()
    net.load_state_dict(_weights(file, net.state_dict()))
    return net.requires_grad_(False).eval()


def _weights(file: Path, own: dict[str, Tensor]) -> dict[str, Any]:
    """The file's convolutions, checked against the network's own. Raises ValueError."""
    mend = f"use torchvision's {PUBLISHED}, or {WITHOUT}"
    try:
        saved = read(file)
    except WeightsError as error:
        raise ValueError(f"{error}; {mend}") from error
    if not isinstance(saved, dict):
        raise ValueError(f"{file} holds a {type(saved).__name__}, no VGG19 weights: {mend}")
    state = {key: value for key, value in saved.items() if not str(key).startswith("classifier.")}
    wrong = [f"{key} is missing" for key in own if key not in state]
    wrong += [f"{key} is not of it" for key in state if key not in own]
    for key in own.keys() & state.keys():
        if not isinstance(state[key], Tensor) or state[key].shape != own[key].shape:
            shape = tuple(getattr(state[key], "shape", ()))
            wrong.append(f"{key} is {shape}, in VGG19 {tuple(own[key].shape)}")
        elif not state[key].isfinite().all():
            wrong.append(f"{key} holds NaN or infinite values")
    if wrong:
        more = f" and {len(wrong) - 4} more" if len(wrong) > 4 else ""
        raise ValueError(f"{file} does not hold VGG19's weights ({'; '.join(wrong[:4])}{more}): {mend}")
    return state
