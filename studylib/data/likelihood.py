"""What images' likelihood is: discretized logistic pixels, and bounds of a variational autoencoder on it.

The model has ``encode`` and ``decode`` (:class:`studylib.networks.vae.VAE`). Its ``forward`` gives both for one draw.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import nn

from studylib.data.augmentation import Augmentation
from studylib.data.scoring import batch_of
from studylib.data.sources import Split
from studylib.data.tasks import Task

if TYPE_CHECKING:
    from studylib.data.datasets import Data

SAMPLES = 16  # k of the importance-weighted bound
NOISE_SEED = 0  # of its draws: every model of as many latent numbers gets the same
LEVELS = 256  # of a pixel: the most


def log_pixels(mean: torch.Tensor, log_scale: torch.Tensor, pixels: torch.Tensor, count: int = LEVELS) -> torch.Tensor:
    """Logarithms of the probabilities of ``pixels`` (n, d), 0…255, under discretized logistic distributions; nats.

    There are ``count`` levels at equal distances; of a pixel between two the nearer one counts.

    A level's probability is the logistic distribution's mass of its width, at the ends also of all beyond. Kingma et
    al. 2016 and Salimans et al. 2017, equation 2, have it so. The difference of two sigmoids is a product here:
    σ(a) − σ(b) = σ(a) σ(−b) (1 − e^(b − a)). So no digit is lost where it is small.

    Args:
        mean, log_scale: (n, d), of distributions over −1…1, or to be broadcast.
    """
    step, inverse = 2 / (count - 1), (-log_scale).exp()
    number = (pixels.to(mean.dtype) / 127.5 / step).round()
    low = (number - 0.5) * step - 1 - mean
    below, above = F.logsigmoid((low + step) * inverse), F.logsigmoid(-low * inverse)
    between = below + above + torch.log(-torch.expm1(-step * inverse))
    return torch.where(number == 0, below, torch.where(number == count - 1, above, between))


def divergence(mean: torch.Tensor, log_deviation: torch.Tensor) -> torch.Tensor:
    """KL(N(mean, deviation²) ‖ N(0, 1)) in nats, (n,): the sum over latent numbers (n, latent)."""
    return 0.5 * (mean.square() + (2 * log_deviation).exp() - 1 - 2 * log_deviation).sum(1)


def parts(outputs: torch.Tensor, pixels: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """``outputs`` of the model as its four parts: means, logarithms of deviations, then of pixels means, log scales."""
    count = pixels.shape[1:].numel()
    latent = (outputs.shape[1] - 2 * count) // 2
    return outputs.split([latent, latent, count, count], dim=1)


def negative_bound(
    model: nn.Module, images: torch.Tensor, pixels: torch.Tensor, count: int = LEVELS
) -> tuple[torch.Tensor, torch.Tensor]:
    """The negative evidence lower bound at one draw (Kingma and Welling 2014, equation 7), in bits per dimension.

    Args:
        images: (n, c, h, w), normalized.
        pixels: the same images, uint8, of ``count`` levels.

    Returns:
        Its mean, and that of each image (n,).
    """
    mean, log_deviation, *logistic = parts(model(images).float(), pixels)
    logs = log_pixels(*logistic, pixels.flatten(1), count).sum(1) - divergence(mean, log_deviation)
    bits = -logs / bits_of(pixels)
    return bits.mean(), bits


def bits_of(pixels: torch.Tensor) -> float:
    """Nats of an image of ``pixels`` (n, c, h, w) that are one bit per dimension."""
    return pixels.shape[1:].numel() * math.log(2)


@torch.no_grad()
def bounds(model: nn.Module, split: Split, data: Data, samples: int = SAMPLES, count: int = LEVELS) -> torch.Tensor:
    """Bits per dimension of each image, float32 (n, 2): by the importance-weighted bound, and by the evidence's.

    Both are of ``samples`` draws of the latent numbers, k in Burda et al. 2016, equation 8. Their noise depends on
    :data:`NOISE_SEED` alone: two models of the same numbers have the same bounds. A pixel has ``count`` levels.

    Raises:
        ValueError: ``samples`` is below 1.
    """
    if samples < 1:
        raise ValueError(f"samples={samples!r}: expected at least 1")
    device = next((t.device for t in model.state_dict().values()), torch.device("cpu"))
    data, found = data.to(device), []
    draw = torch.Generator().manual_seed(NOISE_SEED)
    model.eval()
    for images in split.to(device).images.split(batch_of(split.images)):
        mean, log_deviation = model.encode(data.normalize(images))
        weights = []
        for _ in range(samples):
            noise = torch.randn(mean.shape, generator=draw).to(device)
            z = mean + log_deviation.exp() * noise
            pixels = log_pixels(*model.decode(z), images.flatten(1), count).double().sum(1)
            weights.append(pixels + (0.5 * (noise.square() - z.square()) + log_deviation).double().sum(1))
        logs = torch.stack(weights, dim=1)
        both = [logs.logsumexp(1) - math.log(samples), logs.mean(1)]
        found.append(-torch.stack(both, dim=1) / bits_of(images))
    return torch.cat(found).float()


def _scores(outputs: torch.Tensor, pixels: torch.Tensor) -> dict[str, float]:
    bits, evidence = outputs.double().mean(0).tolist()
    return {"bits_per_dim": bits, "bits_evidence": evidence}


@functools.cache
def task(samples: int = SAMPLES, count: int = LEVELS) -> Task:
    """Images' likelihood, as a task: targets are the images themselves, uint8, and outputs those of :func:`bounds`."""
    return Task(
        name=f"likelihood of {count} levels by {samples} draws",
        numbers=("bits_per_dim", "bits_evidence"),
        val_loss="bits_evidence",
        loss=functools.partial(negative_bound, count=count),
        scores=_scores,
        batch_score=lambda bits, pixels: bits.sum(),
        lower_is_better=True,
        predict=functools.partial(bounds, samples=samples, count=count),
    )


def of(data: Data, samples: int = SAMPLES) -> Data:
    """``data`` with its images in the place of labels, to be learnt as they are: without classes or augmentation.

    A pixel's probabilities are of the levels that training images have (:func:`level_count`).
    """
    learnt = task(samples, level_count(data.train.images))
    splits = {
        name: Split(split.images, split.images)
        for name, split in (("train", data.train), ("validation", data.validation), ("test", data.test))
    }
    return dataclasses.replace(data, classes=(), augmentation=Augmentation(), task=learnt, **splits)


def level_count(images: torch.Tensor) -> int:
    """How many levels uint8 ``images`` have at equal distances in 0…255; :data:`LEVELS` if distances are not equal."""
    found = images.unique().cpu()
    return len(found) if len(found) > 1 and torch.equal(found, grid(len(found))) else LEVELS


def grid(count: int) -> torch.Tensor:
    """``count`` levels at equal distances in 0…255, uint8, each the nearest whole number."""
    return torch.linspace(0, 255, count, dtype=torch.float64).round().to(torch.uint8)


def levels(values: torch.Tensor, count: int = LEVELS) -> torch.Tensor:
    """The nearest of ``count`` levels in 0…255, uint8, of values that have them at −1…1."""
    number = ((values + 1) / 2 * (count - 1)).round().clamp(0, count - 1)
    return grid(count).to(values.device)[number.long()]
