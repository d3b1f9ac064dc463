"""What all sides of a federation agree on before its first round, and what a client trains."""

import dataclasses
import functools
import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import nn

from studylib.data import datasets, scoring
from studylib.data.datasets import Data
from studylib.data.sources import Split
from studylib.data.tasks import Task, cross_entropy
from studylib.descent.objectives import distillation_loss
from studylib.disk import files
from studylib.disk.files import CheckpointError
from studylib.federated import messages, splits, teacher
from studylib.federated.messages import State
from studylib.federated.splits import LEAST, Splits
from studylib.federated.teacher import Teacher
from studylib.networks import cost, spec
from studylib.settings import SettingError, read, record
from studylib.techniques.distill import Student
from studylib.training import loop
from studylib.training.recipe import Recipe
from studylib.training.step import Loss

SETTINGS, TEACHER, RESULT = "job.json", "teacher.slns", "result.json"  # in its folder; the last one when it is done
BACKWARD = 3  # a training step counts as so many forward passes: one forward, two for both gradients


@record
class Federation:
    """How clients train together."""

    rounds: Annotated[int, Field(ge=1, le=100_000, description="rounds")] = 12
    share: Annotated[float, Field(gt=0, le=1, description="of the clients with images, how many a round asks")] = 1.0
    strategy: Annotated[Literal["fedavg", "fedprox"], Field(description="Flower's strategy")] = "fedavg"
    mu: Annotated[float, Field(ge=0, le=1e6, description="of fedprox: pull to the round's first weights")] = 0.0
    teaching: Annotated[float, Field(ge=0, le=1e3, description="weight of the teacher's soft targets; 0: none")] = 0.0
    temperature: Annotated[float, Field(ge=1e-3, le=1e4, description="T, softens teacher and student alike")] = 3.0
    form: Annotated[
        Literal["flower", "float32", "float16", "int8", "int4"],
        Field(description="of messages: Flower's own whole weights, or coded differences"),
    ] = "flower"
    pruned: Annotated[float, Field(ge=0, lt=1, description="share of a coded difference that is left out")] = 0.0
    timeout: Annotated[float, Field(gt=0, le=1e6, description="seconds that a round waits for its clients")] = 3600.0

    def check(self) -> None:
        if self.mu and self.strategy != "fedprox":
            raise ValueError(f"mu={self.mu!r}: expected 0 beside strategy={self.strategy!r}")
        if self.pruned and self.form in ("flower", "float32", "float16"):
            raise ValueError(f"pruned={self.pruned!r}: expected 0 beside form={self.form!r}; int8 and int4 can")


@dataclasses.dataclass(frozen=True)
class Job:
    """One federation: data set, seed, settings. Each side makes the rest of these alone.

    Attributes:
        folder: has its settings, the teacher's file, and what each side keeps. In a federation over a network every
            machine has a folder of its own with the first two.
        recipe: of one round at one client.
    """

    folder: Path
    dataset: str
    seed: int
    splits: Splits
    federation: Federation
    student: Student
    recipe: Recipe
    teacher: Teacher

    def save(self, taught: bytes = b"") -> None:
        """Writes the settings, and the file of the teacher; SettingError where they do not go together."""
        if not isinstance(self.seed, int) or self.seed < 0:
            raise SettingError(f"seed={self.seed!r}: expected a whole number from 0 on")
        if self.federation.teaching and not taught:
            raise SettingError(f"teaching={self.federation.teaching!r}: expected the file of a teacher")
        if self.recipe.views or self.recipe.augments:
            raise SettingError("recipe.augmentation: expected none, as the teacher's logits are kept image by image")
        self.parts()
        content = {self.folder / SETTINGS: (json.dumps(self.about()) + "\n").encode()}
        files.write_files(content | ({self.folder / TEACHER: taught} if taught else {}))

    def about(self) -> dict:
        """All but the folder, as JSON data."""
        return {f.name: _plain(getattr(self, f.name)) for f in dataclasses.fields(self) if f.name != "folder"}

    @classmethod
    def load(cls, folder: Path) -> "Job":
        """The job in ``folder``; CheckpointError where there is none, SettingError where it is of another version."""
        content, kinds = files.read_json(Path(folder) / SETTINGS), {f.name: f.type for f in dataclasses.fields(cls)}
        if not isinstance(content, dict) or content.keys() != kinds.keys() - {"folder"}:
            raise CheckpointError(f"{Path(folder) / SETTINGS}: expected {', '.join(kinds.keys() - {'folder'})}")
        made = {n: read(kinds[n], v, n) if dataclasses.is_dataclass(kinds[n]) else v for n, v in content.items()}
        return cls(folder=Path(folder), **made)

    def data(self) -> Data:
        return _data(self.dataset, self.seed)

    def parts(self):
        """Indices of the teacher's images, and a list of each client's (:func:`studylib.federated.splits.parts`)."""
        return _parts(self.dataset, self.seed, self.splits)

    def teachers(self) -> Data:
        """The data with the teacher's own training images."""
        return dataclasses.replace(self.data(), train=self.data().train.take(self.parts()[0]))

    def of_client(self, client: int) -> Data:
        """The data with the training images of one client; nothing of it is validated on but its first two images."""
        data = self.data()
        train = data.train.take(self.parts()[1][client])
        return dataclasses.replace(data, train=train, validation=train.take(slice(LEAST)))

    def together(self) -> Data:
        """The data with the training images of all clients, as if one had them."""
        data, (_, clients) = self.data(), self.parts()
        train = data.train.take(torch.cat([torch.as_tensor(part) for part in clients]))
        return dataclasses.replace(data, train=train, validation=train.take(slice(LEAST)))

    def model(self) -> nn.Module:
        """The student before the first round, the same on all sides."""
        kind, args = self.student.described(self.data().model_args)
        return spec.create(kind, self.seed, data=self.data(), **args)

    def taught_by(self) -> nn.Module:
        """The teacher, from its file; CheckpointError where there is none."""
        try:
            file = (self.folder / TEACHER).read_bytes()
        except FileNotFoundError as error:
            raise CheckpointError(f"{self.folder / TEACHER}: no such file") from error
        return teacher.read(self.teacher, file, self.data(), self.seed)

    def seed_of(self, client: int, number: int) -> int:
        """Decides the order of images of a client in a round."""
        return int.from_bytes(hashlib.sha256(f"{self.seed} {client} {number}".encode()).digest()[:6], "big")


class Together(Loss):
    """Cross-entropy + teaching · T² KL(teacher ‖ student) + µ/2 ‖w − w₀‖² (Hinton et al. 2015; Li et al. 2020, eq. 2).

    Targets are (n, 1 + classes) float: the label, and the teacher's logits; or labels (n,) without a teacher.
    """

    def __init__(self, federation: Federation, start: State, mu: float = 0.0):
        self.federation, self.start, self.mu = federation, start, mu

    def __call__(self, model, images, labels, chosen=None):
        with_teacher = labels.dim() > 1
        value, logits = cross_entropy(model, images, labels[:, 0].long() if with_teacher else labels)
        if with_teacher:
            soft = distillation_loss(logits, labels[:, 1:], self.federation.temperature)
            value = value + self.federation.teaching * soft
        if self.mu:
            away = sum((p - self.start[name]).square().sum() for name, p in model.named_parameters())
            value = value + self.mu / 2 * away
        return value, logits


def _hard(labels: torch.Tensor) -> torch.Tensor:
    return labels[:, 0].long()


TAUGHT = Task(
    name="taught",
    numbers=("accuracy", "nll", "ece"),
    val_loss="nll",
    loss=cross_entropy,
    scores=lambda logits, labels: scoring.scores(logits, _hard(labels)),
    batch_score=lambda logits, labels: (logits.argmax(1) == _hard(labels)).sum(),
)


def with_logits(data: Data, teacher: Callable[[], nn.Module] | None, kept: Path | None = None) -> Data:
    """``data`` with the teacher's logits beside the labels of its training images, asked once and kept in a file."""
    if teacher is None:
        return data
    tensors, about = files.read_tensors(kept) if kept and kept.exists() else ({}, {})
    logits = tensors.get("logits") if about == {"of": data.train.digest} else None
    if logits is None:
        logits = scoring.predict(teacher(), data.train, data).cpu()
        if kept:
            files.write_tensors(kept, {"logits": logits}, {"of": data.train.digest})
    train = Split(data.train.images, torch.cat([data.train.labels[:, None].float(), logits], 1))
    return dataclasses.replace(data, train=train, validation=train.take(slice(LEAST)), task=TAUGHT)


def train(job: Job, data: Data, start: State, seed: int, mu: float = 0.0) -> State:
    """A round at one client: the floats of the student after ``job.recipe`` from ``start`` on, the optimizer new.

    ``mu`` is as in :class:`Together`; of fedprox the strategy hands it out.

    FloatingPointError: a loss is not finite.
    """
    model = job.model()
    model.load_state_dict({**model.state_dict(), **start})
    loop.fit(model, data, job.recipe, seed=seed, loss=Together(job.federation, start, mu), keep="last")
    return messages.floats(model.state_dict())


def scored(model: nn.Module, data: Data) -> dict:
    """Of the test images: accuracy, balanced accuracy, worst class's accuracy, and by_class, a list (0…1 each)."""
    logits = scoring.predict(model, data.test, data)
    each = scoring.class_accuracy(logits, data.test.labels, len(data.classes))
    found = {"accuracy": scoring.scores(logits, data.test.labels)["accuracy"]}
    return found | {"balanced": sum(each) / len(each), "worst": min(each), "by_class": each}


def work(job: Job, client: int) -> int:
    """Multiply-adds of a client in one round, without the teacher's: :data:`BACKWARD` forward passes an image."""
    return BACKWARD * job.recipe.epochs * len(job.parts()[1][client]) * _forward(job)


def asked(job: Job, client: int) -> int:
    """Multiply-adds of a client for the teacher's logits, once; 0 without a teacher."""
    if not job.federation.teaching:
        return 0
    return len(job.parts()[1][client]) * _of_teacher(job.teacher.name, job.teacher.side, job.dataset)


def _forward(job: Job) -> int:
    return cost.multiply_adds(job.model(), job.data().model_args)


@functools.lru_cache(maxsize=4)
def _of_teacher(name: str, side: int, dataset: str) -> int:
    """Multiply-adds of a teacher for one image, pruned or not."""
    data = _data(dataset, 0)
    return cost.multiply_adds(teacher.new(Teacher(name=name, side=side), data, 0), data.model_args)


def _plain(value):
    return dataclasses.asdict(value) if dataclasses.is_dataclass(value) else value


@functools.lru_cache(maxsize=4)
def _data(dataset: str, seed: int) -> Data:
    return datasets.load(dataset, seed)


@functools.lru_cache(maxsize=64)
def _parts(dataset: str, seed: int, of: Splits):
    data = _data(dataset, seed)
    return splits.parts(data.train.labels, of, len(data.classes), seed)
