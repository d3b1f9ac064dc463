"""A convolutional variational autoencoder (Kingma and Welling 2014)."""

import math

import torch
from torch import nn

from studylib.networks.blocks import ConvUnit, SpecError, TransposedConv2d

GOLDEN = (math.sqrt(5) - 1) / 2  # its multiples, less their whole parts, fill 0…1 evenly
LOG_SCALES = -7.0, 3.0  # of the logistic distributions; the first as Salimans et al. 2017 have it
LOG_DEVIATIONS = -8.0, 4.0  # of the latent numbers


class VAE(nn.Module):
    """Two strided convolutions encode an image, two transposed ones decode it, a linear layer beside each pair.

    Convolutions are 4 × 4 at stride 2, of ``width`` and 2 · ``width`` channels. Latent numbers are normal, with a mean
    and a deviation each. The decoder gives each pixel's logistic distribution, a mean and a logarithm of its scale. A
    pixel of 0…255 stands at −1…1 there. Our own design, after Radford et al. 2016. ``classes`` are not used: an image
    is all that it learns.

    (batch, in_channels, image_size, image_size) → (batch, 2 · latent + 2 · pixels): means and logarithms of deviations,
    then means and logarithms of scales. In training latent numbers are drawn by torch's generator. In evaluation they
    are spread evenly over their distribution by an image's place in the batch.

    Raises:
        SpecError: an image cannot be halved twice, or there is no channel or latent number.
    """

    def __init__(self, in_channels=1, image_size=28, classes=0, width=16, latent=16):
        super().__init__()
        if image_size < 4 or image_size % 4:
            raise SpecError(f"vae image_size={image_size!r}: expected a multiple of 4, it is halved twice")
        if width < 1 or latent < 1:
            raise SpecError(f"vae width={width!r}, latent={latent!r}: expected at least 1 of each")
        self.latent, side = latent, image_size // 4
        self.shape, pixels = (in_channels, image_size, image_size), 2 * width * side * side
        half = {"padding": 1, "stride": 2}
        self.encoder = nn.Sequential(ConvUnit(in_channels, width, 4, **half), ConvUnit(width, 2 * width, 4, **half))
        self.mean, self.deviation = nn.Linear(pixels, latent), nn.Linear(pixels, latent)
        self.project = nn.Linear(latent, pixels)
        self.unflatten = nn.Unflatten(1, (2 * width, side, side))
        self.relu = nn.ReLU()
        self.decoder = nn.Sequential(
            ConvUnit(2 * width, width, 4, kind=TransposedConv2d, **half),
            TransposedConv2d(width, 2 * in_channels, 4, 2, 1),
        )

    def encode(self, x):
        """Images → mean and logarithm of the deviation of their latent numbers, (batch, latent) each."""
        features = self.encoder(x).flatten(1)
        return self.mean(features), self.deviation(features).clamp(*LOG_DEVIATIONS)

    def decode(self, z):
        """Latent numbers (batch, latent) → mean and logarithm of the scale of each pixel, (batch, pixels) each."""
        found = self.decoder(self.relu(self.unflatten(self.project(z)))).flatten(1)
        pixels = found.shape[1] // 2
        return found[:, :pixels], found[:, pixels:].clamp(*LOG_SCALES)

    def forward(self, x):
        mean, deviation = self.encode(x)
        noise = torch.randn_like(mean) if self.training else _even(mean)
        return torch.cat([mean, deviation, *self.decode(mean + deviation.exp() * noise)], dim=1)


def _even(like: torch.Tensor) -> torch.Tensor:
    """Numbers of the shape of ``like`` (batch, latent) that are spread as a normal distribution is, without chance."""
    places = torch.arange(like.shape[0], dtype=torch.float64, device=like.device)[:, None] * like.shape[1]
    places = places + torch.arange(like.shape[1], dtype=torch.float64, device=like.device)
    return torch.special.ndtri(((places + 0.5) * GOLDEN) % 1).to(like.dtype)
