"""How small a file can be at an accuracy: a network pruned further and further, taught, and trained in few bits."""

import dataclasses
import decimal
import math
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import nn

from studylib import distill, inference, models, objectives, prune, qat, train
from studylib.data import Data
from studylib.node import Node


@dataclasses.dataclass(frozen=True)
class Plan:
    """How networks are made small; the same for each.

    Attributes:
        dense: the training of a network that is not there yet.
        pruning: the training after each step of pruning.
        rounding: the training with rounded weights; it runs uncompiled.
        sparsities: shares of the prunable weights that are zero, rising; 0: none are pruned.
        bits: of the weights, each 2 to 8.
        coding: weight, beside the lesson's loss in ``pruning``, of the bits that an ideal entropy coder takes for a
            weight rounded to the fewest of ``bits`` (:class:`Coded`); 0: none.
        calibration_images: that the ranges of activations start from.

    Raises:
        ValueError: ``sparsities`` do not rise within 0…1, ``bits`` are none, or not different numbers of 2 to 8, or
            ``coding`` is below 0 or not finite.
    """

    dense: train.Recipe
    pruning: train.Recipe
    rounding: train.Recipe
    sparsities: tuple[float, ...]
    bits: tuple[int, ...]
    coding: float = 0.0
    calibration_images: int = 512

    def __post_init__(self):
        prune.check_sparsities(list(self.sparsities))
        if not self.bits or len(set(self.bits)) < len(self.bits) or not set(self.bits) <= set(range(2, 9)):
            raise ValueError(f"bits={self.bits!r}: expected different whole numbers of 2 to 8")
        if not 0 <= self.coding < math.inf:
            raise ValueError(f"coding={self.coding!r}: expected from 0, finite")


@dataclasses.dataclass(frozen=True)
class Lesson:
    """What a network is taught by: a teacher's soft targets beside the labels (:class:`studylib.distill.Distillation`).

    Attributes:
        teacher: whose answers to a recipe's views are kept.
        temperature, alpha: as for :func:`studylib.distill.apply`.
    """

    teacher: distill.Teacher
    temperature: float = 4.0
    alpha: float = 0.9

    @property
    def loss(self) -> distill.Distillation:
        return distill.Distillation(self.teacher, self.temperature, self.alpha)


class Coded:
    """A lesson's loss + ``coding`` × the bits a weight that an ideal entropy coder takes (after Oktay et al. 2020).

    The bits are those of :func:`studylib.objectives.coded_bytes` over the number of weights, zeros among them, so that
    ``coding`` means the same for a large network as for a small one.
    """

    def __init__(self, loss: distill.Distillation, bits: int, coding: float):
        self.loss, self.bytes, self.coding = loss, objectives.coded_bytes(bits), coding
        self.show = loss.show
        self.identity = [*loss.identity, "coded", bits, coding]

    def __call__(self, model, images, labels, *chosen):
        value, logits = self.loss(model, images, labels, *chosen)
        many = sum(weight.numel() for weight in objectives.weights(model))
        with torch.autocast(images.device.type, enabled=False):
            return value + self.coding * 8 / many * self.bytes(model, None, None), logits


def name_of(network: str, sparsity: float, bits: int) -> str:
    """The folder of a point, whose sparsity stands in it in per mille and in all its digits: no other point has it.

    >>> name_of("densenet 6", 0.95, 4), name_of("teacher", 0.9501, 4)
    ('densenet6-950-4bit', 'teacher-950.1-4bit')
    """
    thousandths = (decimal.Decimal(repr(float(sparsity))) * 1000).normalize()
    return f"{network.replace(' ', '')}-{thousandths:f}-{bits}bit"


class Point(Node):
    """A node whose file holds in half precision the floats that remain: biases and scales, a quarter of a small file.

    Where half precision cannot hold one of them, all stay as they are.
    """

    def _ship(self, model: nn.Module, floats: str) -> tuple[nn.Module, bytes]:
        try:
            return super()._ship(model, "float16")
        except inference.HalfPrecisionError:
            return super()._ship(model, floats)


def grown(name: str, args: dict, data: Data, plan: Plan, lesson: Lesson, *, seed: int, scratch: Path) -> nn.Module:
    """A new network, taught from the start.

    Args:
        name, args: of :func:`studylib.models.create`.
        scratch: folder in which an interrupted training leaves what it needs to go on.
    """
    model = models.create(name, seed, data=data, **args).to(next(lesson.teacher.model.parameters()).device)
    checkpoint = scratch / "dense.safetensors"
    history = train.fit(model, data, plan.dense, seed=seed, loss=lesson.loss, checkpoint=checkpoint)
    return models.with_change(model, "taught", {"epochs": len(history)}, history=history)


def points(
    model: nn.Module, data: Data, plan: Plan, lesson: Lesson, *, seed: int, scratch: Path
) -> Iterator[tuple[float, int, nn.Module]]:
    """``model`` at each sparsity of ``plan`` and, from there, in each number of bits, taught all the way.

    Pruning is by magnitude over all layers, from sparsity to sparsity, survivors keeping their weights while the
    schedule starts again (learning-rate rewinding, Renda et al. 2020); rounding is in training (:mod:`studylib.qat`).

    Yields:
        (sparsity, bits, int8 model on the CPU), whose spec records both steps and whose ``history`` has the rows of
        both trainings, each with its ``training``, "pruning" or "rounding".
    """
    loss = Coded(lesson.loss, min(plan.bits), plan.coding) if plan.coding else lesson.loss
    how = {"method": "learning_rate", "recipe": plan.pruning, "seed": seed, "scratch": scratch}
    cut = prune.trajectory(model, data, plan.sparsities, loss=loss, **how)
    for sparsity, pruned in zip(plan.sparsities, cut, strict=True):
        did = {"sparsity": sparsity, "epochs": len(pruned.history)}
        pruned = models.with_change(pruned, "pruned", did, history=pruned.history)
        for bits in plan.bits:
            rest = {"calibration_images": min(plan.calibration_images, len(data.train)), "seed": seed}
            rest["scratch"] = scratch / f"{sparsity!r}-{bits}"
            small = qat.apply(pruned, data, recipe=plan.rounding, bits=bits, loss=lesson.loss, **rest)
            parts = {"pruning": pruned.history, "rounding": small.history}
            small.history = [{**row, "training": name} for name, rows in parts.items() for row in rows]
            yield sparsity, bits, small
