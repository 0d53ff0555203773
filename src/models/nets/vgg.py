"""VGG19's convolutions (Simonyan & Zisserman 2015), with torchvision's parameter names."""

from collections.abc import Collection

from torch import Tensor, nn

# Convolutions per block, and their channels.
BLOCKS = ((2, 64), (2, 128), (4, 256), (4, 512), (4, 512))


class VGG19(nn.Module):
    """Feature maps of an RGB image `B 3 Y X` in [0, 1], shown as it is, without ImageNet's mean and deviation.

    Maps are named relu<block>_<convolution>: relu1_1 has the image's size, each block half of the one before. Only what
    lies before the last map asked for is computed. Raises ValueError for a name that is no map, and for sides too small
    for the maps asked for (16 px for block 5).
    """

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        self.ends: dict[int, str] = {}
        inputs = 3
        for block, (convolutions, channels) in enumerate(BLOCKS, start=1):
            for number in range(1, convolutions + 1):
                layers += [nn.Conv2d(inputs, channels, 3, padding=1), nn.ReLU(inplace=True)]
                self.ends[len(layers) - 1] = f"relu{block}_{number}"
                inputs = channels
            layers.append(nn.MaxPool2d(2))
        self.features = nn.Sequential(*layers[:-1])

    def forward(self, x: Tensor, maps: Collection[str]) -> dict[str, Tensor]:
        if unknown := set(maps) - set(self.ends.values()):
            raise ValueError(f"{sorted(unknown)} are no maps of VGG19; it has {', '.join(self.ends.values())}")
        least = 2 ** max(int(name[4]) - 1 for name in maps)
        if min(x.shape[-2:]) < least:
            raise ValueError(
                f"image is {x.shape[-2]}x{x.shape[-1]}; VGG19's {max(maps)} needs sides of {least} px or more: "
                "choose a larger data.zoom.size"
            )
        found: dict[str, Tensor] = {}
        for index, layer in enumerate(self.features):
            x = layer(x)
            if self.ends.get(index) in maps:
                found[self.ends[index]] = x
                if len(found) == len(set(maps)):
                    break
        return found
