"""Knowledge distillation: a small network learns from the teacher's soft targets."""

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import torch
from pydantic import Field
from torch import nn

from studylib.coding import limits
from studylib.data import scoring, tasks
from studylib.data.datasets import Data
from studylib.descent.objectives import distillation_loss, fixed
from studylib.disk import files, models
from studylib.networks import spec
from studylib.settings import record
from studylib.training import loop
from studylib.training.checkpoint import weights_digest
from studylib.training.recipe import Recipe
from studylib.training.step import Loss

WIDTH = Annotated[int, Field(ge=1, le=4096)]


@record
class Teaching:
    """What a student hears of its teacher; the defaults are the paper's (section 3.3)."""

    temperature: Annotated[float, Field(ge=1e-3, le=1e4, description="T, softens teacher and student alike")] = 5.0
    alpha: Annotated[
        float, Field(ge=0, le=1, description="weight of the teacher's soft targets; the labels get the rest")
    ] = 0.7


@record
class Student:
    """The student, a :class:`studylib.networks.chains.ConvNet` or another network; ours, the paper gives no shape."""

    widths: Annotated[
        list[WIDTH], Field(min_length=3, max_length=3, description="channels of the three convolutions")
    ] = dataclasses.field(default_factory=lambda: [32, 64, 128])
    hidden: Annotated[
        list[WIDTH], Field(min_length=2, max_length=2, description="features of the first two linear layers")
    ] = dataclasses.field(default_factory=lambda: [128, 64])
    name: Annotated[
        str, Field(description="another in its place: kind, depth if it has one, and breadth (resnet 8-16, vgg 6)")
    ] = ""

    def check(self) -> None:
        for size in ("widths", "hidden") if self.name else ():
            if getattr(self, size) != getattr(Student(), size):
                raise ValueError(f"{size}={getattr(self, size)!r}: expected none beside name={self.name!r}")
        self.described({})

    def described(self, model_args: dict) -> tuple[str, dict]:
        """Kind and arguments, for :func:`studylib.networks.spec.create`; ``model_args`` fit it to the data.

        ValueError where ``name`` names no network.
        """
        if not self.name:
            return "convnet", {**model_args, "widths": self.widths, "hidden": self.hidden}
        try:
            return spec.described(self.name, {"name": "convnet", "args": {}}, model_args)
        except ValueError as error:
            raise ValueError(f"name: {error}") from error

    def against(self, data: Data) -> None:
        asked = f"name={self.name!r}" if self.name else f"widths={self.widths!r}, hidden={self.hidden!r}"
        limits.check_network(*self.described({}), data, asked)


class TeacherCache:
    """A cache of a teacher's logits for the views of a recipe: it looks at each once, for all students.

    In memory they take 4 bytes × classes for each image and view.

    Args:
        model: the network; it is not trained, and its logits are those of evaluation mode.
        folder: logits are left there, too, for other students of the same teacher and images; None: nowhere.

    Raises:
        ValueError: a number of ``model`` is not finite.
    """

    def __init__(self, model: nn.Module, folder: Path | None = None):
        self.model = fixed(model)
        self.digest, self.folder = weights_digest(self.model), folder
        self._answers: dict[str, torch.Tensor] = {}

    def __call__(self, images: torch.Tensor) -> torch.Tensor:
        return self.model(images)

    def answers(self, shown: Data, number: int) -> torch.Tensor:
        """Logits (n, classes) for the training images of ``shown``, which are the view ``number``.

        Raises:
            studylib.disk.files.CheckpointError: a file of answers is damaged.
        """
        of = [self.digest, shown.identity]
        path = self.folder / f"{shown.name}-{shown.seed}-{number}.safetensors" if self.folder else None
        key = json.dumps(of)
        if key not in self._answers and path and path.exists():
            tensors, about = files.read_tensors(path)
            if about.get("of") == of and "logits" not in tensors:
                raise files.CheckpointError(f"{path}: {', '.join(tensors)}: expected logits{models.REMEDY}")
            if about.get("of") == of:
                self._answers[key] = tensors["logits"]
        if key not in self._answers:
            self._answers[key] = scoring.predict(self.model, shown.train, shown)
            if path:
                files.write_tensors(path, {"logits": self._answers[key].cpu()}, {"of": of})
        return self._answers[key].to(shown.train.images.device)


class Distillation(Loss):
    """The loss α · distillation + (1 − α) · cross-entropy; teacher and student see the same views (Beyer et al. 2022).

    Args:
        teacher: images → logits. A module is copied, set to evaluation, and asked once for each of a recipe's views. A
            :class:`TeacherCache` shares these answers.
        temperature, alpha: as for :func:`apply`.

    Raises:
        ValueError: ``temperature`` or ``alpha`` is out of range, or a number of a module is not finite. When called:
            the teacher's logits are not of the student's classes.
    """

    def __init__(self, teacher: Callable[[torch.Tensor], torch.Tensor], temperature: float, alpha: float):
        Teaching(temperature, alpha)  # refuses what is out of range
        self.teacher = TeacherCache(teacher) if isinstance(teacher, nn.Module) else teacher
        self.temperature, self.alpha, self._answers = temperature, alpha, None
        self.identity = ["distillation", temperature, alpha, getattr(self.teacher, "digest", None)]

    def show(self, shown: Data, number: int) -> None:
        kept = self.alpha and isinstance(self.teacher, TeacherCache)
        self._answers = self.teacher.answers(shown, number) if kept else None

    def __call__(self, student, images, labels, chosen: torch.Tensor | None = None):
        if not self.alpha:
            return tasks.cross_entropy(student, images, labels)
        if chosen is None or self._answers is None:
            with torch.no_grad():
                soft = self.teacher(images)
        else:
            soft = self._answers[chosen]
        hard_loss, logits = tasks.cross_entropy(student, images, labels)
        return self.alpha * distillation_loss(logits, soft, self.temperature) + (1 - self.alpha) * hard_loss, logits


def apply(
    model: nn.Module,
    data: Data,
    *,
    recipe: Recipe,
    seed: int,
    temperature: float = 5.0,
    alpha: float = 0.7,
    widths: list[int] = (32, 64, 128),
    hidden: list[int] = (128, 64),
    name: str = "",
    scratch: Path | None = None,
    views: Path | None = None,
) -> nn.Module:
    """A ConvNet, or another network, distilled from ``model`` (the paper, section 3.3: T = 5, α = 0.7).

    Args:
        temperature, alpha: as in :class:`Teaching`.
        widths, hidden, name: the student, as in :class:`Student`.
        scratch: folder for the checkpoint of an interrupted training.
        views: the folder of the :class:`TeacherCache`.
    """
    device = next(model.parameters()).device
    loss = Distillation(TeacherCache(model, views), temperature, alpha)
    kind, args = Student(list(widths), list(hidden), name).described(data.model_args)
    student = spec.create(kind, seed, data=data, **args).to(device)
    checkpoint = scratch / "kd.safetensors" if scratch else None
    history = loop.fit(student, data, recipe, seed=seed, loss=loss, checkpoint=checkpoint)
    did = {"temperature": temperature, "alpha": alpha, "epochs": len(history)}
    return spec.with_change(student, "kd", did, history=history)
