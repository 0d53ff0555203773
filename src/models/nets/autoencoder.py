"""Autoencoders of label-free images, for their embeddings."""

from torch import Tensor, nn

SIDE = 256
SIZES = (3528, 200)


class ConvAutoencoder(nn.Module):
    """Compresses `B C 256 256` into an embedding and draws the image again from it, `B C 256 256`, without a bound.

    `embedding` is its size for one image: 3528 (8 x 21 x 21) or 200 (8 x 5 x 5), as in the thesis (section 4.2.2,
    figure 52). The smaller one's decoder is not stated there: one transposed convolution undoes what the additional
    convolution and pooling of its encoder do, the rest is the larger one's. torch's own first weights.

    Raises ValueError for another embedding or another image size.
    """

    divisor = 1  # an image of another size is refused, never padded
    bounded = False

    def __init__(self, in_channels: int = 1, embedding: int = 3528) -> None:
        super().__init__()
        if embedding not in SIZES:
            raise ValueError(f"model.net.embedding is {embedding}: choose one of {', '.join(map(str, SIZES))}")
        self.in_channels = self.out_channels = in_channels
        small = embedding == 200
        deeper = [nn.Conv2d(8, 8, 3, stride=2, padding=1), nn.ReLU(), nn.MaxPool2d(2)] if small else []
        back = [nn.ConvTranspose2d(8, 8, 5, stride=4), nn.ReLU()] if small else []
        self.encoder = nn.Sequential(
            nn.Conv2d(in_channels, 16, 3, stride=3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(16, 8, 3, stride=2, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(2, stride=1),
            *deeper,
        )
        self.decoder = nn.Sequential(
            *back,
            nn.ConvTranspose2d(8, 16, 3, stride=2),
            nn.ReLU(),
            nn.ConvTranspose2d(16, 8, 5, stride=3, padding=1),
            nn.ReLU(),
            nn.ConvTranspose2d(8, in_channels, 2, stride=2, padding=1),
        )

    def embed(self, x: Tensor) -> Tensor:
        """The embedding, `B 8 21 21` or `B 8 5 5`."""
        if x.shape[-2:] != (SIDE, SIDE):
            raise ValueError(
                f"image is {x.shape[-2]}x{x.shape[-1]}; the autoencoder takes {SIDE}x{SIDE} px: cut or scale the "
                "patches to that"
            )
        return self.encoder(x)

    def forward(self, x: Tensor) -> Tensor:
        return self.decoder(self.embed(x))
