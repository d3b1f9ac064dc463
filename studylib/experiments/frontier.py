"""Chapter 8: how small a file can be at an accuracy, by gradual pruning, a teacher and few bits."""

import dataclasses
import decimal
import functools
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated

import torch
from pydantic import Field
from torch import nn

from studylib.coding import limits, restore, shipped
from studylib.data.datasets import Data
from studylib.descent import objectives
from studylib.networks import grid, spec
from studylib.settings import check_different, record
from studylib.techniques import distill, prune, qat
from studylib.training import loop
from studylib.training.recipe import Recipe
from studylib.training.step import Loss
from studylib.tree.node import Node

MUCH = 1_000_000  # epochs, or images


@record
class Grown:
    """Networks that are not in the tree and are taught from the start."""

    networks: Annotated[
        list[str], Field(description='by kind and breadth: "densenet 6", "whitened 16", "convnet 16"')
    ] = dataclasses.field(default_factory=list)

    def check(self) -> None:
        check_different(self, "networks")
        for text in self.networks:
            _described(text)

    def against(self, data: Data) -> None:
        """Raises ValueError for a network whose coded file could not be read; its depth is taken to be the usual."""
        for text in self.networks:
            limits.check_network(*_described(text), data, f"networks={text!r}")


def _described(text: str) -> tuple[str, dict]:
    try:
        return spec.described(text, {"name": "densenet", "args": {}}, {})
    except ValueError as error:
        raise ValueError(f"networks: {error}") from error


@record
class Supervision:
    """What all networks are taught by: a teacher's soft targets beside the labels (Hinton et al. 2015).

    Small networks learned best at their temperatures of 2.5 to 4, and with much the smaller part for the labels.
    """

    temperature: Annotated[float, Field(ge=1e-3, le=1e4, description="T, softens teacher and taught alike")] = 4.0
    alpha: Annotated[
        float, Field(ge=0, le=1, description="share of the teacher in the loss; the labels have the rest")
    ] = 0.9
    teachers: Annotated[
        list[str], Field(description="published files whose mean logits teach; none: the parent teaches")
    ] = dataclasses.field(default_factory=list)

    def against(self, data: Data) -> None:
        """Raises ValueError for a file that is not published, or not of ``data`` and its seed."""
        for file in self.teachers:
            try:
                restore.published(file, data)
            except (ValueError, RuntimeError) as error:
                raise ValueError(f"teachers: {error}") from error

    def loss(self, parent: nn.Module, data: Data, folder: Path | None = None) -> distill.Distillation:
        """The loss that is descended.

        Args:
            parent: teaches where there are no ``teachers``; decides the device.
            folder: where the teacher's answers to a recipe's views are left; None: nowhere.

        Raises:
            ValueError, studylib.coding.codec.CodecError, studylib.networks.blocks.SpecError: of
                :func:`studylib.coding.restore.apply`.
        """
        files = [restore.apply(file, data) for file in self.teachers]
        teacher = Committee(files).to(next(parent.parameters()).device) if files else parent
        return distill.Distillation(distill.TeacherCache(teacher, folder), self.temperature, self.alpha)


class Committee(nn.Module):
    """Several networks as one teacher (an ensemble): the mean of their logits.

    Its soft targets are the normalized geometric mean of theirs (Hinton et al. 2015, section 1, name it).

    Raises:
        ValueError: there is no member. When called: they are not of the same classes.
    """

    def __init__(self, members: list[nn.Module]):
        super().__init__()
        if not members:
            raise ValueError("members=[]: expected at least one network")
        self.members = nn.ModuleList(members)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        answers = [member(images).float() for member in self.members]
        if len({answer.shape for answer in answers}) > 1:
            shapes = " and ".join(str(tuple(answer.shape)) for answer in answers)
            raise ValueError(f"the members' logits are {shapes}: expected networks of the same classes")
        return torch.stack(answers).mean(0)


@record
class Shrinking:
    """How each network is made small: pruned from sparsity to sparsity, and from each trained in few bits.

    No source has such a plan; the defaults take minutes on the digits.
    """

    sparsities: Annotated[
        list[Annotated[float, Field(ge=0, lt=1)]],
        Field(min_length=1, description="shares of the prunable weights that are zero, rising; 0: none are pruned"),
    ] = dataclasses.field(default_factory=lambda: [0.8, 0.9, 0.95])
    bits: Annotated[
        list[Annotated[int, Field(ge=2, le=8)]], Field(min_length=1, description="of a weight, each 2 to 8")
    ] = dataclasses.field(default_factory=lambda: [4])
    coding: Annotated[
        float, Field(ge=0, le=1000, description="weight, after pruning, of a coder's bits beside the loss; 0: none")
    ] = 0.0
    epochs: Annotated[int, Field(ge=1, le=MUCH, description="trained after each step of pruning")] = 16
    lr: Annotated[float, Field(gt=0, le=1000, description="its peak then; with rounded weights a tenth of it")] = 5e-3
    rounding_epochs: Annotated[int, Field(ge=0, le=MUCH, description="with rounded weights, from each sparsity")] = 6
    calibration_images: Annotated[
        int, Field(ge=1, le=MUCH, description="from which ranges of activations start, or all there are")
    ] = 512

    def check(self) -> None:
        prune.check_sparsities(self.sparsities)
        check_different(self, "bits")

    def pruning(self, recipe: Recipe) -> Recipe:
        """``recipe`` as it is after each step of pruning."""
        return dataclasses.replace(recipe, epochs=self.epochs, lr=self.lr, min_lr=min(recipe.min_lr, self.lr))

    def rounding(self, recipe: Recipe) -> Recipe:
        """``recipe`` as it is with rounded weights: a tenth of the rate, and uncompiled, as observers are."""
        peak = self.lr / 10
        how = {"lr": peak, "min_lr": min(recipe.min_lr, peak), "compile": False}
        return dataclasses.replace(recipe, epochs=self.rounding_epochs, **how)


def coded_bytes(bits: int = 8) -> objectives.Objective:
    """Bytes that an ideal entropy coder takes for the weights rounded to their grids: a differentiable estimate.

    Each tensor's zero-order entropy × its number of weights / 8, on the grids of
    :func:`studylib.networks.grid.rounded_weight`. A weight between two grid points counts for both, linearly: exact
    where all weights lie on their grid. A point with less than half a weight costs what half a weight would, log₂(2 n)
    bits per weight. So the slope stays finite. Tables of counts, scales and other tensors are not in it.

    Raises:
        ValueError: ``bits`` is not an integer of 2 to 16.
    """
    if not isinstance(bits, int) or not 2 <= bits <= 16:
        raise ValueError(f"bits={bits!r}: expected an integer of 2 to 16")
    low, high = grid.limits(bits)

    @objectives.objective(f"coded_bytes_{bits}", weights_only=True)
    def estimate(model, batch, outputs):
        total = 0.0
        for weight in objectives.weights(model):
            w = weight.flatten(1)
            place = (w / grid.steps(w.detach(), bits)).flatten().clamp(low, high)
            below = place.detach().floor().clamp_max(high - 1)
            above = place - below  # the share of the upper grid point
            index, counts = (below - low).long(), place.new_zeros(high - low + 1)
            counts = counts.index_add(0, index, 1 - above).index_add(0, index + 1, above)
            total = total + (counts * (math.log2(w.numel()) - counts.clamp_min(0.5).log2())).sum() / 8
        return total

    return estimate


class Coded(Loss):
    """A loss + ``coding`` × the bits per weight that an ideal entropy coder takes (after Oktay et al. 2020).

    The bits are those of :func:`coded_bytes`, divided by the number of weights, zeros among them. So ``coding`` means
    the same for a large network as for a small one.
    """

    def __init__(self, loss: distill.Distillation, bits: int, coding: float):
        self.loss, self.bytes, self.coding = loss, coded_bytes(bits), coding
        self.identity = [*loss.identity, "coded", bits, coding]

    def show(self, shown, number):
        self.loss.show(shown, number)

    def __call__(self, model, images, labels, chosen=None):
        value, logits = self.loss(model, images, labels, chosen)
        many = sum(weight.numel() for weight in objectives.weights(model))
        with torch.autocast(images.device.type, enabled=False):
            return value + self.coding * 8 / many * self.bytes(model, None, None), logits


def name_of(network: str, sparsity: float, bits: int) -> str:
    """The folder of a point; it has all digits of the sparsity, in per mille, so that none is shared.

    >>> name_of("densenet 6", 0.95, 4), name_of("teacher", 0.9501, 4)
    ('densenet6-950-4bit', 'teacher-950.1-4bit')
    """
    thousandths = (decimal.Decimal(repr(float(sparsity))) * 1000).normalize()
    return f"{network.replace(' ', '')}-{thousandths:f}-{bits}bit"


class Point(Node):
    """A node whose file has its biases and scales, the floats that remain, in half precision.

    They are a quarter of a small file. Where half precision cannot hold one of them, all stay as they are.
    """

    def _ship(self, model: nn.Module, floats: str) -> tuple[nn.Module, bytes]:
        try:
            return super()._ship(model, "float16")
        except shipped.HalfPrecisionError:
            return super()._ship(model, floats)


def grown(
    name: str,
    args: dict,
    data: Data,
    recipe: Recipe,
    loss: distill.Distillation,
    *,
    seed: int,
    device: torch.device,
    scratch: Path,
) -> nn.Module:
    """A new network, taught from the start.

    Args:
        name, args: of :func:`studylib.networks.spec.create`.
        scratch: folder in which an interrupted training leaves what it needs to go on.
    """
    model = spec.create(name, seed, data=data, **args).to(device)
    history = loop.fit(model, data, recipe, seed=seed, loss=loss, checkpoint=scratch / "dense.safetensors")
    return spec.with_change(model, "taught", {"epochs": len(history)}, history=history)


def points(
    model: nn.Module,
    data: Data,
    shrinking: Shrinking,
    recipe: Recipe,
    loss: distill.Distillation,
    *,
    seed: int,
    scratch: Path,
) -> Iterator[tuple[float, int, Callable[[], nn.Module]]]:
    """``model`` at each sparsity and, from there, in each number of bits, taught all the way.

    Pruning is by magnitude over all layers, from sparsity to sparsity. Surviving weights stay while the schedule
    starts again (learning-rate rewinding, Renda et al. 2020). Rounding is in training
    (:mod:`studylib.techniques.qat`).

    Args:
        recipe: of all trainings, but for what ``shrinking`` says.
        scratch: folder in which each training leaves what it needs to go on.

    Yields:
        (sparsity, bits, what makes it). Nothing is trained before the first is made, which prunes to all sparsities.
        It gives the int8 model on the CPU, with both steps in its spec. Its ``history`` has the rows of both
        trainings, each with its ``training``, "pruning" or "rounding".
    """

    @functools.cache
    def pruned() -> list[nn.Module]:
        coded = Coded(loss, min(shrinking.bits), shrinking.coding) if shrinking.coding else loss
        how = {"method": "learning_rate", "recipe": shrinking.pruning(recipe), "seed": seed, "scratch": scratch}
        cut = prune.trajectory(model, data, shrinking.sparsities, loss=coded, **how)
        did = [{"sparsity": s, "epochs": len(each.history)} for s, each in zip(shrinking.sparsities, cut, strict=True)]
        return [
            spec.with_change(each, "pruned", said, history=each.history) for each, said in zip(cut, did, strict=True)
        ]

    def rounded(number: int, bits: int, folder: Path) -> nn.Module:
        before = pruned()[number]
        rest = {"calibration_images": min(shrinking.calibration_images, len(data.train)), "seed": seed}
        how = {"recipe": shrinking.rounding(recipe), "loss": loss, "scratch": folder}
        small = qat.apply(before, data, bits=bits, **how, **rest)
        parts = {"pruning": before.history, "rounding": small.history}
        small.history = [{**row, "training": name} for name, rows in parts.items() for row in rows]
        return small

    for number, sparsity in enumerate(shrinking.sparsities):
        for bits in shrinking.bits:
            yield sparsity, bits, functools.partial(rounded, number, bits, scratch / f"{sparsity!r}-{bits}")
