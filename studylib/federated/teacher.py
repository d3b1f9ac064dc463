"""A large teacher: trained on images that no client has, in the study's networks or one of torchvision's."""

import dataclasses
from typing import Annotated

import torch
import torch.nn.functional as F
import torchvision.models
from pydantic import Field
from torch import nn

from studylib.coding import state
from studylib.data.datasets import Data
from studylib.networks import spec
from studylib.settings import nearest, record
from studylib.techniques.distill import Student
from studylib.training import loop
from studylib.training.recipe import Recipe

ELSEWHERE = "torchvision:"  # before the name of one of its classifiers


@record
class Teacher:
    """The large network, and how it is made smaller before clients get it."""

    name: Annotated[
        str, Field(description="kind and breadth (resnet 20-16), or torchvision:<name>, which starts at random")
    ] = "resnet 20-16"
    side: Annotated[int, Field(ge=8, le=1024, description="pixels a side that a torchvision network is shown")] = 64
    weights: Annotated[str, Field(description="float32, or int8: rounded before it is handed out")] = "float32"
    sparsity: Annotated[float, Field(ge=0, lt=1, description="share of its weights that are zero by then")] = 0.0

    def check(self) -> None:
        if self.weights not in state.WEIGHTS:
            raise ValueError(f"weights={self.weights!r}: expected one of {', '.join(state.WEIGHTS)}")
        if not self.name.startswith(ELSEWHERE):
            Student(name=self.name)
        else:
            name, known = self.name.removeprefix(ELSEWHERE), torchvision.models.list_models(torchvision.models)
            if name not in known:
                raise ValueError(f"name={self.name!r}: unknown{nearest(name, known)}")


class Backbone(nn.Module):
    """A classifier of torchvision for images of any number of channels and pixels.

    Images are averaged over channels to three alike, where there are not three, and resized to ``side``.
    (batch, channels, height, width) → (batch, classes).
    """

    def __init__(self, name: str, side: int, classes: int, seed: int):
        super().__init__()
        self.side = side
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            more = {"aux_logits": False, "init_weights": True} if name in ("googlenet", "inception_v3") else {}
            self.net = torchvision.models.get_model(name, weights=None, num_classes=classes, **more)

    def forward(self, x):
        x = x if x.shape[1] == 3 else x.mean(1, keepdim=True).expand(-1, 3, -1, -1)
        return self.net(F.interpolate(x, size=(self.side, self.side), mode="bilinear", align_corners=False))


def new(teacher: Teacher, data: Data, seed: int) -> nn.Module:
    """The network, untrained; ValueError where it does not fit the images."""
    if teacher.name.startswith(ELSEWHERE):
        classes = len(data.classes)
        return Backbone(teacher.name.removeprefix(ELSEWHERE), teacher.side, classes, seed)
    kind, args = Student(name=teacher.name).described(data.model_args)
    return spec.create(kind, seed, data=data, **args)


def trained(teacher: Teacher, data: Data, recipe: Recipe, seed: int) -> nn.Module:
    """The network trained on the training images of ``data``, the teacher's own part; of no epochs, as it starts."""
    model = new(teacher, data, seed)
    if recipe.epochs:
        loop.fit(model, data, recipe, seed=seed)
    return model.eval()


def handed_out(teacher: Teacher, model: nn.Module, data: Data, seed: int) -> tuple[bytes, nn.Module]:
    """The file that clients get once, and the teacher in it: ``model`` as ``weights`` and ``sparsity`` say.

    The file is by :func:`studylib.coding.state.compress`.
    """
    file = state.compress(model, weights=teacher.weights, sparsity=teacher.sparsity).file
    return file, read(teacher, file, data, seed)


def read(teacher: Teacher, file: bytes, data: Data, seed: int) -> nn.Module:
    """The teacher in ``file``; :class:`studylib.coding.codec.CodecError` where it is damaged or another network's."""
    return state.decode(file, new(teacher, data, seed))


def whole(teacher: Teacher) -> Teacher:
    """The same network before it is made smaller."""
    return dataclasses.replace(teacher, weights="float32", sparsity=0.0)
