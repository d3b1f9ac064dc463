"""Chapter 11: an autoencoder of images made smaller by every combination, and what it has to beat."""

import dataclasses
import functools
import lzma
import math
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import numpy as np
import pandas as pd
import torch
from pydantic import Field
from torch import nn

from studylib.data import datasets, likelihood
from studylib.data.datasets import Data
from studylib.descent.objectives import fixed
from studylib.disk import models
from studylib.networks import spec
from studylib.networks.calibration import check_calibration
from studylib.networks.vae import LOG_SCALES
from studylib.results import statistics
from studylib.settings import check_different, record
from studylib.techniques import int8, prune, svd
from studylib.training import loop
from studylib.training.checkpoint import weights_digest
from studylib.training.recipe import Recipe
from studylib.training.step import Loss
from studylib.tree import names, table
from studylib.tree.node import Node
from studylib.tree.rows import once

STAGES = ("distill", "prune", "svd", "int8")
FILES = (models.SPEC, models.TENSORS, names.CODED, names.LOGITS, names.METRICS)  # of a node's folder
BITS = "bits per dimension"
CHOOSING = 2  # draws of the bound that chooses epochs and rounds; a file is measured by as many as the settings say
LEVELS = 16  # of a published pixel: a hexadecimal digit
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


@record
class Compressing:
    """What the four techniques do to it."""

    alpha: Annotated[
        float, Field(ge=0, le=1, description="weight of the teacher's pixels; the images' get the rest")
    ] = 0.5
    rounds: Annotated[int, Field(ge=1, le=1000, description="how often to prune")] = 10
    fraction: Annotated[float, Field(gt=0, lt=1, description="share of the remaining weights that a round removes")] = (
        0.2
    )
    tolerance: Annotated[float, Field(ge=0, le=8, description="bits per dimension that a round may lose")] = 0.0
    epochs: Annotated[int, Field(ge=0, le=1_000_000, description="passes that a round may take to recover")] = 3
    lr: Annotated[float, Field(gt=0, le=1000, description="learning rate of recovery at its highest")] = 1e-3
    delta: Annotated[int, Field(ge=0, le=4096, description="Δ, how far below the break-even rank to go")] = 1
    calibration_images: Annotated[
        int, Field(ge=1, description="training images that fix the ranges of the layers' inputs")
    ] = 512

    def against(self, data: Data) -> None:
        """Raises ValueError where there are not so many training images."""
        check_calibration(self.calibration_images, data)


class Pixels(Node):
    """A node that learns images as they are; ``draws``: k of its bound."""

    draws = likelihood.SAMPLES

    @functools.cached_property
    def data(self) -> Data:
        return likelihood.of(datasets.load(self.study.dataset, self.study.seed), self.draws)

    @property
    def learnt(self) -> Data:
        """The same images, their bound by :data:`CHOOSING` draws at most: a training sees the validation set often."""
        return dataclasses.replace(self.data, task=likelihood.task(min(CHOOSING, self.draws)))

    def _half_precision(self, model: nn.Module) -> dict:
        """The chapter has no files with floats in half precision."""
        return {}


class Distillation(Loss):
    """The negative bound, a share of it of the teacher's pixels (soft targets, after Hinton et al. 2015).

    The teacher encodes the image and decodes a draw. Its soft targets are each pixel's distribution. A pixel drawn from
    that has the cross-entropy with it as its mean, at a 256th of the cost. The loss is α times the student's
    −log p of such pixels and 1 − α times that of the image. The divergence of its latent numbers is added.

    Args:
        teacher: an autoencoder; it is copied and not trained.
        alpha: 0…1.
    """

    def __init__(self, teacher: nn.Module, alpha: float):
        self.teacher, self.alpha = fixed(teacher), alpha
        self.identity = ["pixels", alpha, weights_digest(self.teacher)]

    def __call__(self, student, images, pixels, chosen=None):
        with torch.no_grad():
            mean, log_deviation = self.teacher.encode(images)
            z = mean + log_deviation.exp() * torch.randn_like(mean)
            soft = likelihood.drawn(*self.teacher.decode(z))
        mean, log_deviation, *logistic = likelihood.parts(student(images).float(), pixels)
        taught, true = (likelihood.log_pixels(*logistic, each.flatten(1)).sum(1) for each in (soft, pixels))
        divergence, unit = likelihood.divergence(mean, log_deviation), likelihood.bits_of(pixels)
        loss = (divergence - self.alpha * taught - (1 - self.alpha) * true).mean() / unit
        return loss, (divergence - true) / unit


def tree(node: Node, network: Autoencoder, compressing: Compressing, recipe: Recipe) -> list[dict]:
    """A row a seed and combination of the four techniques; each is a node's folder below points/, and made once.

    Columns:
        seed, node: of the row, nodes named as in chapter 7.
        bytes, zeros: of the file; share of its weights that are zero.
        val_bits, test_bits, evidence: bits per dimension, the last by the evidence's bound.
        low, high: interval (95 %) of test_bits over the images.
        costs, costs_low, costs_high: test_bits over the teacher's, with the interval over the images.
    """
    rows = []
    for seed in range(node.study.seed, node.study.seed + network.repetitions):
        for name in names.nodes(STAGES):
            make = functools.partial(_made, name, node, network, compressing, recipe, seed)
            rows.append({"seed": seed, "node": name} | _kept(node, network, seed, name, make, [compressing, recipe]))
    return rows


def narrower(node: Node, network: Autoencoder, compressing: Compressing, recipe: Recipe) -> list[dict]:
    """A row a seed, width and form (float32 or int8) of dense networks that are trained alone; columns as :func:`tree`.

    ``width`` and ``form`` are in the place of ``node``. The teacher's own width is among them.
    """
    rows = []
    for seed in range(node.study.seed, node.study.seed + network.repetitions):
        for width in [*network.narrower, network.width]:
            for form in ("float32", "int8"):
                name = f"width{width}" + ("-int8" if form == "int8" else "")
                if width == network.width:
                    name = names.TEACHER + ("-int8" if form == "int8" else "")
                make = functools.partial(_narrow, name, width, node, network, compressing, recipe, seed)
                row = _kept(node, network, seed, name, make, [compressing, recipe])
                rows.append({"seed": seed, "width": width, "form": form} | row)
    return rows


def folder_of(node: Node, seed: int, name: str) -> Path:
    """Where a network of the chapter lies."""
    return node.out / "points" / point_of(seed, name)


def point_of(seed: int, name: str) -> str:
    """The folder of a network below points/."""
    return f"seed{seed}/{name}"


def _kept(node: Node, network: Autoencoder, seed: int, name: str, make: Callable, records: list) -> dict:
    folder, kept = folder_of(node, seed, name), node.out / "rows" / "points" / f"{point_of(seed, name)}.json"
    if not all((folder / file).exists() for file in FILES):
        kept.unlink(missing_ok=True)
    shape = {key: value for key, value in dataclasses.asdict(network).items() if key not in ("repetitions", "narrower")}
    key = [shape, *map(dataclasses.asdict, records), node.data.digest, seed, name]

    def row() -> dict:
        kept.unlink(missing_ok=True)  # of what is now in the folder
        point = _node(folder, node, network, seed)
        metrics = point.finish(make(point))
        bits, whole = _bits(folder), _bits(folder_of(node, seed, names.TEACHER))
        low, high = statistics.t_interval(bits)
        costs_low, costs_high = statistics.t_interval(bits - whole)
        found = {"bytes": metrics["bytes_file"], "zeros": metrics["sparsity"], "val_bits": metrics["val_bits_per_dim"]}
        found |= {"test_bits": metrics["test_bits_per_dim"], "evidence": metrics["test_bits_evidence"]}
        found |= {"low": low, "high": high, "costs": float((bits - whole).mean())}
        return found | {"costs_low": costs_low, "costs_high": costs_high}

    return once(kept, key, row)


def _node(folder: Path, node: Node, network: Autoencoder, seed: int) -> Pixels:
    point = Pixels(folder, node.study.dataset, seed, node.study.threads, node.study.device)
    point.draws = network.draws
    return point


def _bits(folder: Path) -> np.ndarray:
    """Bits per dimension of each test image (n,), as the node in ``folder`` stored them."""
    return table.logits(folder)[0][:, 0].astype(float)


def _made(
    name: str, node: Node, network: Autoencoder, compressing: Compressing, recipe: Recipe, seed: int, point: Pixels
) -> nn.Module:
    """The network of the node ``name``: of its parent by its last technique."""
    parent = names.parent_of(name)
    if parent is None:
        return _trained(network.width, network, recipe, seed, point)
    model, data = point.load(folder_of(node, seed, parent)), point.data
    technique = name.rpartition("-")[2]
    if technique == names.part("distill"):
        loss = Distillation(model, compressing.alpha)
        return _trained(network.student, network, recipe, seed, point, loss)
    if technique == names.part("prune"):
        recovery = dataclasses.replace(
            recipe, epochs=compressing.epochs, lr=compressing.lr, min_lr=min(recipe.min_lr, compressing.lr)
        )
        how = {"rounds": compressing.rounds, "fraction": compressing.fraction, "tolerance": compressing.tolerance}
        return prune.apply(model, point.learnt, recipe=recovery, seed=seed, scratch=point.scratch, **how)
    if technique == "svd":
        return svd.apply(model, delta=compressing.delta)
    return int8.apply(model, data, calibration_images=compressing.calibration_images, seed=seed)


def _narrow(
    name: str,
    width: int,
    node: Node,
    network: Autoencoder,
    compressing: Compressing,
    recipe: Recipe,
    seed: int,
    point: Pixels,
) -> nn.Module:
    if not (parent := names.parent_of(name)):
        return _trained(width, network, recipe, seed, point)
    model = point.load(folder_of(node, seed, parent))
    return int8.apply(model, point.data, calibration_images=compressing.calibration_images, seed=seed)


def _trained(
    width: int, network: Autoencoder, recipe: Recipe, seed: int, point: Pixels, loss: Loss | None = None
) -> nn.Module:
    """A network from the start, by the task's loss or by another, its best validation epoch."""
    model = spec.create("vae", seed, **point.data.model_args, width=width, latent=network.latent).to(point.device)
    checkpoint = point.scratch / f"{width}.safetensors"
    history = loop.fit(model, point.learnt, recipe, seed=seed, loss=loss, checkpoint=checkpoint)
    did = {"epochs": len(history)} | ({"alpha": loss.alpha} if loss else {})
    return spec.with_change(model, "kd" if loss else "teacher", did, history=history)


def to_beat(data: Data) -> list[dict]:
    """What a network has to beat on the test images, a row each: name and bits per dimension.

    Each pixel by itself, as over training images: by a logistic distribution, the network's kind, and by a histogram.
    That has a count of one added to each level. All test images in one file of zlib, and of xz, at their best.
    """
    train, test = (split.images.flatten(1).cpu() for split in (data.train, data.test))
    counts = torch.ones(train.shape[1], 256).scatter_add_(1, train.T.long(), torch.ones(train.T.shape))
    shares = (counts / counts.sum(1, keepdim=True)).gather(1, test.T.long())
    raw = test.numpy().tobytes()
    packed = {"zlib": zlib.compress(raw, 9), "xz": lzma.compress(raw, preset=9 | lzma.PRESET_EXTREME)}
    found = {
        "each pixel by its own logistic distribution": _logistic_bits(train, test),
        "each pixel by its own histogram": -shares.double().log2().mean().item(),
        **{name: 8 * len(file) / len(raw) for name, file in packed.items()},
    }
    return [{"name": name, BITS: value} for name, value in found.items()]


def _logistic_bits(train: torch.Tensor, test: torch.Tensor, steps: int = 400) -> float:
    """Bits per dimension of ``test`` (n, pixels) by a distribution a pixel, the likeliest of ``train`` (m, pixels)."""
    scaled = train.float() / 127.5 - 1
    mean, log_scale = scaled.mean(0), (scaled.std(0) * 3**0.5 / math.pi).clamp(min=1e-3).log()
    fitted = [each[None].clone().requires_grad_() for each in (mean, log_scale)]
    optimizer = torch.optim.Adam(fitted, lr=0.03)
    for _ in range(steps):
        optimizer.zero_grad()
        (-likelihood.log_pixels(fitted[0], fitted[1].clamp(*LOG_SCALES), train).mean()).backward()
        optimizer.step()
    with torch.no_grad():
        return -likelihood.log_pixels(fitted[0], fitted[1].clamp(*LOG_SCALES), test).double().mean().item() / math.log(
            2
        )


def shown(node: Node, network: Autoencoder, chosen: list[str], count: int = 8) -> list[dict]:
    """Images to look at, of the first seed: a row each of network, kind, number, shape and pixels.

    ``pixels`` is a text of one hexadecimal digit each, in the order of ``shape``. Kinds are "image", of the test set,
    its "reconstruction", and "sample" of seed 0.
    """
    seed, data = node.study.seed, likelihood.of(node.data)
    images, rows = data.test.images[:count], []

    def add(name: str, kind: str, found: torch.Tensor) -> None:
        for number, each in enumerate(found):
            digits = "".join(f"{pixel * LEVELS // 256:x}" for pixel in each.flatten().tolist())
            row = {"network": name, "kind": kind, "number": number, "shape": list(each.shape)}
            rows.append(row | {"pixels": digits})

    add("", "image", images)
    for name in dict.fromkeys(chosen):
        model = models.load_model(folder_of(node, seed, name))
        add(name, "reconstruction", likelihood.reconstructed(model, data.normalize(images)))
        add(name, "sample", likelihood.sampled(model, count, seed=0))
    return rows


def chosen(rows: list[dict] | pd.DataFrame, name: str, seed: int) -> list[dict]:
    """The one file that is published: its folder below points/ and what was measured of it."""
    rows = pd.DataFrame(rows)
    row = rows[(rows["node"] == name) & (rows["seed"] == seed)].iloc[0]
    return [{"name": point_of(seed, name)} | {key: row[key] for key in ("bytes", "val_bits", "test_bits")}]
