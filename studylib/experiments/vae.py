"""Chapter 11: an autoencoder of images made smaller by every combination, and what it has to beat."""

import dataclasses
import functools
import lzma
import math
import zlib
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
from pydantic import Field
from torch import nn

from studylib.data import datasets, likelihood
from studylib.data.datasets import Data
from studylib.descent.objectives import fixed
from studylib.disk import models
from studylib.experiments import generative
from studylib.networks import spec
from studylib.networks.vae import LOG_SCALES
from studylib.settings import check_different, record
from studylib.training import loop
from studylib.training.checkpoint import weights_digest
from studylib.training.recipe import Recipe
from studylib.training.step import Loss
from studylib.tree import table
from studylib.tree.node import Node

BITS = "bits per dimension"
CHOOSING = 2  # draws of the bound that chooses epochs and rounds; a file is measured by as many as the settings say
LEVELS = 16  # of a published pixel: a hexadecimal digit
ADDED = 0.01, 0.03, 0.1, 0.3, 1.0  # counts that smoothing may add to each level
WIDTH = Annotated[int, Field(ge=1, le=1024)]


@record
class Autoencoder:
    """The network (:class:`studylib.networks.vae.VAE`), its student, and how its likelihood is measured."""

    width: Annotated[int, Field(ge=1, le=1024, description="channels of its first convolution")] = 16
    latent: Annotated[int, Field(ge=1, le=1024, description="latent numbers of an image")] = 16
    student: Annotated[int, Field(ge=1, le=1024, description="width of the student, which is distilled")] = 8
    narrower: Annotated[
        list[WIDTH], Field(description="widths of dense networks trained alone, to compare with at equal bytes")
    ] = dataclasses.field(default_factory=lambda: [4, 8])
    draws: Annotated[int, Field(ge=1, le=100_000, description="k of the importance-weighted bound")] = 16
    repetitions: Annotated[int, Field(ge=1, le=1000, description="seeds, from the study's on")] = 1

    def check(self) -> None:
        check_different(self, "narrower")
        generative.check_widths(self)


class Pixels(Node):
    """A node that learns images as they are; ``draws``: k of its bound."""

    draws = likelihood.SAMPLES

    @functools.cached_property
    def data(self) -> Data:
        return likelihood.of(datasets.load(self.study.dataset, self.study.seed), self.draws)

    @property
    def learnt(self) -> Data:
        """The same images, their bound by :data:`CHOOSING` draws at most: a training sees the validation set often."""
        draws, count = min(CHOOSING, self.draws), likelihood.level_count(self.data.train.images)
        return dataclasses.replace(self.data, task=likelihood.task(draws, count))

    def _half_precision(self, model: nn.Module) -> dict:
        """The chapter has no files with floats in half precision."""
        return {}


def drawn(mean: torch.Tensor, log_scale: torch.Tensor, count: int = likelihood.LEVELS) -> torch.Tensor:
    """Pixels 0…255, uint8, drawn from logistic distributions (n, d) by torch's own generator."""
    uniform = torch.rand_like(mean).clamp(1e-7, 1 - 1e-7)
    return likelihood.levels(mean + log_scale.exp() * torch.logit(uniform), count)


class Distillation(Loss):
    """The negative bound, a share of it of the teacher's pixels (soft targets, after Hinton et al. 2015).

    The teacher encodes the image and decodes a draw. Its soft targets are each pixel's distribution. A pixel drawn from
    that has the cross-entropy with it as its mean, at a fraction of the cost. The loss is α times the student's
    −log p of such pixels and 1 − α times that of the image. The divergence of its latent numbers is added.

    Args:
        teacher: an autoencoder; it is copied and not trained.
        alpha: 0…1.
        count: levels of a pixel.
    """

    def __init__(self, teacher: nn.Module, alpha: float, count: int = likelihood.LEVELS):
        self.teacher, self.alpha, self.count = fixed(teacher), alpha, count
        self.identity = ["pixels", alpha, count, weights_digest(self.teacher)]

    def __call__(self, student, images, pixels, chosen=None):
        with torch.no_grad():
            mean, log_deviation = self.teacher.encode(images)
            z = mean + log_deviation.exp() * torch.randn_like(mean)
            soft = drawn(*self.teacher.decode(z), self.count)
        mean, log_deviation, *logistic = likelihood.parts(student(images).float(), pixels)
        taught, true = (likelihood.log_pixels(*logistic, each.flatten(1), self.count).sum(1) for each in (soft, pixels))
        divergence, unit = likelihood.divergence(mean, log_deviation), likelihood.bits_of(pixels)
        loss = (divergence - self.alpha * taught - (1 - self.alpha) * true).mean() / unit
        return loss, (divergence - true) / unit


class Family(generative.Family):
    """An autoencoder, its student and narrower ones."""

    def point(self, folder: Path, seed: int) -> Pixels:
        study = self.node.study
        point = Pixels(folder, study.dataset, seed, study.threads, study.device)
        point.draws = self.network.draws
        return point

    def learnt(self, point: Pixels) -> Data:
        return point.learnt

    def trained(self, width: int, seed: int, point: Pixels, recipe: Recipe) -> nn.Module:
        return self._fitted(width, seed, point, recipe)

    def student(self, model: nn.Module, seed: int, point: Pixels) -> nn.Module:
        loss = Distillation(model, self.compressing.alpha, likelihood.level_count(point.data.train.images))
        return self._fitted(self.network.student, seed, point, self.recipe, loss)

    def bits(self, folder: Path) -> np.ndarray:
        return table.logits(folder)[0][:, 0].astype(float)

    def scores(self, metrics: dict) -> dict:
        """``test_bits``, and ``evidence``: bits per dimension by the evidence's bound."""
        return {"test_bits": metrics["test_bits_per_dim"], "evidence": metrics["test_bits_evidence"]}

    def _fitted(self, width: int, seed: int, point: Pixels, recipe: Recipe, loss: Loss | None = None) -> nn.Module:
        """A network from the start, by the task's loss or by another, its best validation epoch."""
        args = point.data.model_args | {"width": width, "latent": self.network.latent}
        model = spec.create("vae", seed, **args).to(point.device)
        checkpoint = point.scratch / f"{width}.safetensors"
        history = loop.fit(model, point.learnt, recipe, seed=seed, loss=loss, checkpoint=checkpoint)
        did = {"epochs": len(history)} | ({"alpha": loss.alpha} if loss else {})
        return spec.with_change(model, "kd" if loss else "teacher", did, history=history)


def to_beat(data: Data) -> list[dict]:
    """What a network has to beat on the test images, a row each: name and bits per dimension.

    Each pixel by itself, as over training images: by a logistic distribution, the network's kind, and by a histogram.
    That has a count added to each level, the best on validation images. All test images in one file of zlib, and of xz,
    at their best.
    """
    train, validation, test = (split.images.flatten(1).cpu() for split in (data.train, data.validation, data.test))
    raw, count = test.numpy().tobytes(), likelihood.level_count(train)
    added = min(ADDED, key=lambda added: _histogram_bits(train, validation, added, count))
    packed = {"zlib": zlib.compress(raw, 9), "xz": lzma.compress(raw, preset=9 | lzma.PRESET_EXTREME)}
    found = {
        "each pixel by its own logistic distribution": _logistic_bits(train, test, count),
        "each pixel by its own histogram": _histogram_bits(train, test, added, count),
        **{name: 8 * len(file) / len(raw) for name, file in packed.items()},
    }
    return [{"name": name, BITS: value} for name, value in found.items()]


def _histogram_bits(train: torch.Tensor, other: torch.Tensor, added: float, count: int) -> float:
    """Bits per dimension of ``other`` by the shares of levels that each pixel of ``train`` has, ``added`` to each."""
    levels = (torch.arange(256) / 255 * (count - 1)).round().long()
    counts = torch.full((train.shape[1], count), added, dtype=torch.float64)
    counts.scatter_add_(1, levels[train.T.long()], torch.ones(train.T.shape, dtype=torch.float64))
    shares = counts / counts.sum(1, keepdim=True)
    return -shares.gather(1, levels[other.T.long()]).log2().mean().item()


def _logistic_bits(train: torch.Tensor, test: torch.Tensor, count: int, steps: int = 400) -> float:
    """Bits per dimension of ``test`` (n, pixels) by a distribution a pixel, the likeliest of ``train`` (m, pixels)."""
    scaled = train.float() / 127.5 - 1
    mean, log_scale = scaled.mean(0), (scaled.std(0) * 3**0.5 / math.pi).clamp(min=1e-3).log()
    fitted = [each[None].clone().requires_grad_() for each in (mean, log_scale)]
    optimizer = torch.optim.Adam(fitted, lr=0.03)
    for _ in range(steps):
        optimizer.zero_grad()
        (-likelihood.log_pixels(fitted[0], fitted[1].clamp(*LOG_SCALES), train, count).mean()).backward()
        optimizer.step()
    with torch.no_grad():
        logs = likelihood.log_pixels(fitted[0], fitted[1].clamp(*LOG_SCALES), test, count)
    return -logs.double().mean().item() / math.log(2)


@torch.no_grad()
def sampled(model: nn.Module, count: int, seed: int) -> torch.Tensor:
    """``count`` new images, uint8 (count, c, h, w): means that ``model`` decodes from latent numbers by ``seed``."""
    noise = torch.randn(count, model.latent, generator=torch.Generator().manual_seed(seed))
    device = next((t.device for t in model.state_dict().values()), torch.device("cpu"))
    return likelihood.levels(model.eval().decode(noise.to(device))[0]).view(count, *model.shape)


@torch.no_grad()
def reconstructed(model: nn.Module, images: torch.Tensor) -> torch.Tensor:
    """Normalized ``images`` encoded and decoded again, without noise: uint8 (n, c, h, w)."""
    return likelihood.levels(model.eval().decode(model.encode(images)[0])[0]).view(images.shape)


def shown(family: Family, chosen: list[str], count: int = 8) -> list[dict]:
    """Images to look at, of the first seed: a row each of network, kind, number, shape and pixels.

    ``pixels`` is a text of one hexadecimal digit each, in the order of ``shape``. Kinds are "image", of the test set,
    its "reconstruction", and "sample" of seed 0.
    """
    data, rows = likelihood.of(family.node.data), []
    images = data.test.images[:count]

    def add(name: str, kind: str, found: torch.Tensor) -> None:
        for number, each in enumerate(found):
            digits = "".join(f"{pixel * LEVELS // 256:x}" for pixel in each.flatten().tolist())
            row = {"network": name, "kind": kind, "number": number, "shape": list(each.shape)}
            rows.append(row | {"pixels": digits})

    add("", "image", images)
    for name in dict.fromkeys(chosen):
        model = models.load_model(family.folder_of(family.seeds[0], name))
        add(name, "reconstruction", reconstructed(model, data.normalize(images)))
        add(name, "sample", sampled(model, count, seed=0))
    return rows
