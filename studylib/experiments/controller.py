"""Chapter 14: a controller prunes while a network trains, beside other ways to a smaller dense network.

Each way trains for as many epochs in all, and may use all training images. Each is tuned on another seed, by validation
at the middle budget: five values of one setting. A network is what its coded file holds.
"""

import dataclasses
import functools
import itertools
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import torch
from pydantic import Field
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from studylib.coding import codec
from studylib.data import datasets
from studylib.data.datasets import Data
from studylib.disk import files
from studylib.experiments import controller_along
from studylib.experiments.controller_ways import SPARSE, SparseGroups, without, worths
from studylib.networks import cost, layers, spec
from studylib.networks.gates import Gates
from studylib.settings import Batch, check_different, record
from studylib.techniques import controller
from studylib.techniques.controller import Guidance
from studylib.techniques.distill import Student
from studylib.training import loop
from studylib.training.recipe import Recipe
from studylib.training.step import Plain
from studylib.tree.rows import Task, every

GUIDED, WHOLE = "controller", "whole"
KEYS = ("way", "budget", "seed")
RATES = (0.1, 0.3, 1.0, 3.0, 10.0)
WAYS = {  # way → the setting that is tuned, and its values; rates are shares of the recipe's
    GUIDED: ("λ", (1.0, 10.0, 100.0, 1000.0, 10_000.0)),
    "uniform": ("rate of tuning", RATES),
    "global": ("rate of tuning", RATES),
    "slimming": ("weight of L1", (0.00001, 0.0001, 0.001, 0.01, 0.1)),
    "group norm": ("rate of tuning", RATES),
    SPARSE: ("weight of the group norm", (0.00001, 0.0001, 0.001, 0.01, 0.1)),
    "narrow": ("rate", RATES),
}
WIDTHS_ITS, WIDTHS, EVEN = "its widths, its images", "its widths", "narrow, its rate"
CONTROLS = (WIDTHS_ITS, WIDTHS, EVEN)  # trained from scratch at the recipe's rate, each nearer to narrow networks
MOST = 1000  # seeds; the one after them is tuned on, so that more of them change nothing
TUNING = 1.0  # rate of fine-tuning where another setting is tuned, and after the controller


@record
class Comparison:
    """What is compared. No way smooths labels. Else the controller has its defaults, but for budget, every and λ."""

    budgets: Annotated[
        list[Annotated[float, Field(gt=0, lt=1)]], Field(min_length=1, description="shares of the multiply-adds")
    ] = dataclasses.field(default_factory=lambda: [0.15, 0.3, 0.5])
    repetitions: Annotated[
        int, Field(ge=1, le=MOST, description="seeds, from the study's on; the thousandth after it is tuned on")
    ] = 1
    tuning_epochs: Annotated[int, Field(ge=1, le=100_000, description="of all, for tuning what was pruned")] = 10
    every: Annotated[int, Field(ge=1, le=100_000, description="steps of the weights for one of the controller")] = 2
    batch: Batch = 64
    controls: Annotated[
        list[Annotated[float, Field(gt=0, lt=1)]],
        Field(description="those of the budgets at which parts of the difference to narrow are measured"),
    ] = dataclasses.field(default_factory=list)

    def check(self) -> None:
        check_different(self, "budgets")
        check_different(self, "controls")
        if unknown := [budget for budget in self.controls if budget not in self.budgets]:
            raise ValueError(f"controls={self.controls!r}: expected some of budgets={self.budgets}, not {unknown[0]}")

    def fits(self, recipe: Recipe) -> None:
        """Raises ValueError where ``recipe`` is too short, or smooths labels, as no way does but the controller."""
        if self.tuning_epochs >= recipe.epochs:
            raise ValueError(f"tuning_epochs={self.tuning_epochs!r}: expected less than recipe.epochs={recipe.epochs}")
        if recipe.label_smoothing:
            raise ValueError(f"recipe.label_smoothing={recipe.label_smoothing!r}: expected 0 in a comparison")


def guidance_of(comparison: Comparison, budget: float, value: float) -> Guidance:
    """The controller's settings at a budget and λ; it smooths no labels, as no other way does."""
    how = {"every": comparison.every, "strength": value, "final_strength": 100 * value}
    return Guidance(budget=budget, label_smoothing=0.0, **how)


@dataclasses.dataclass
class Trainings:
    """The networks of one seed, each trained once.

    Raises:
        ValueError: a budget is less than a channel a family takes. A channel has no batch norm. Else as
            :func:`studylib.networks.filters.of`.
    """

    data: Data
    network: Student
    recipe: Recipe
    comparison: Comparison
    seed: int
    device: torch.device

    def __post_init__(self):
        name, args = self.network.described(self.data.model_args)
        self.start = spec.create(name, self.seed, data=self.data, **args)
        self.gates = Gates(self.start)
        for budget in self.comparison.budgets:
            self.gates.at_budget(torch.zeros(len(self.gates)), budget)
        worths(self.start, self.gates, "slimming")  # refuses what has no batch norms
        self.start = self.start.to(self.device)
        self.trained = functools.cache(self._trained)

    def fit(self, model: nn.Module, epochs: int, share: float = 1.0, data: Data | None = None, **how) -> nn.Module:
        """``model``, trained in place for ``epochs`` at a ``share`` of the recipe's rate, on ``data`` or all."""
        recipe = dataclasses.replace(self.recipe, epochs=epochs, lr=share * self.recipe.lr)
        loop.fit(model, data or self.data, recipe, seed=self.seed, keep="last", **how)
        return model

    def _trained(self, way: str, weight: float) -> tuple[nn.Module, float]:
        """The whole network before it is pruned, and the seconds of a processor that it took.

        ``weight`` is that of what pulls it, by slimming or SPARSE.
        """

        def loss(model, images, labels):
            value, outputs = self.data.task.loss(model, images, labels)
            scales = [module.weight.abs().sum() for module in model.modules() if isinstance(module, _BatchNorm)]
            return value + weight * sum(scales), outputs

        pulls = {"slimming": {"loss": Plain(loss, weight)}, SPARSE: {"step": SparseGroups(self.gates, weight)}}
        epochs, started = self.recipe.epochs - self.comparison.tuning_epochs, time.process_time()
        return self.fit(layers.duplicate(self.start), epochs, **pulls.get(way, {})), time.process_time() - started

    def made(self, way: str, budget: float, value: float) -> tuple[nn.Module, dict]:
        """The network that ``way`` leaves at ``budget``, and what else is known of it; ``value``: see :data:`WAYS`.

        ``cpu_seconds`` are those of a processor that all of its training took, without what is measured along it.
        """
        if way == GUIDED:
            return self._guided(budget, value)
        pulled = way in ("slimming", SPARSE)
        narrow = way == "narrow"
        model, spent = (self.start, 0.0) if narrow else self.trained(way, value) if pulled else self.trained("", 0.0)
        opened = self.gates.at_budget(worths(model, self.gates, way).cpu(), budget)
        small, about = without(model, self.gates, opened, way), {"kept": self._kept(opened)}
        if not narrow:
            about["untuned"] = self.accuracy(small)
        started, epochs = time.process_time(), self.recipe.epochs if narrow else self.comparison.tuning_epochs
        self.fit(small, epochs, TUNING if pulled else value)
        return small, about | {"cpu_seconds": spent + time.process_time() - started}

    def _guided(self, budget: float, value: float) -> tuple[nn.Module, dict]:
        guidance = guidance_of(self.comparison, budget, value)
        watch = controller_along.Watch(self._shown(guidance), self.recipe.lr)
        how, started = {"recipe": self.recipe, "seed": self.seed, "guidance": guidance}, time.process_time()
        trained = controller.train(self.start, self.data, watch=watch, **how)
        spent = time.process_time() - started - watch.seconds
        small, copy = (without(trained.model, self.gates, trained.opened, GUIDED) for _ in range(2))
        tuned = self.fit(copy, self.comparison.tuning_epochs, TUNING)
        last = {key: trained.history[-1][key] for key in ("closed", "zero")}
        return small, last | {
            "cpu_seconds": spent,
            "watch_seconds": watch.seconds,
            "kept": self._kept(trained.opened),
            **{key: sum(row[key] for row in trained.history) for key in ("moved", "anew")},
            "unmasked": self.accuracy(trained.model),
            "masked": self.accuracy(trained.masked),
            "sliced": self.accuracy(small),
            "tuned": self.accuracy(tuned),
            "along": [{key: row[key] for key in controller_along.COLUMNS} for row in trained.history],
        }

    def _shown(self, guidance: Guidance) -> Data:
        return controller.split(self.data, guidance.share, self.seed)[0]

    def control(self, way: str, budget: float, kept: list[int]) -> tuple[nn.Module, dict]:
        """A network of :data:`CONTROLS`, and its accuracy after fine-tuning on all training images.

        Args:
            kept: channels of each family that the controller left.
        """
        if way == EVEN:
            opened = self.gates.at_budget(worths(self.start, self.gates, "narrow").cpu(), budget)
        else:
            opened = torch.cat([torch.arange(size) < k for size, k in zip(self.gates.sizes, kept, strict=True)])
        model = without(self.start, self.gates, opened, way)
        data = self._shown(guidance_of(self.comparison, budget, TUNING)) if way == WIDTHS_ITS else self.data
        self.fit(model, self.recipe.epochs, data=data)
        tuned = self.fit(layers.duplicate(model), self.comparison.tuning_epochs, TUNING)
        return model, {"kept": self._kept(opened), "tuned": self.accuracy(tuned)}

    def _kept(self, opened: torch.Tensor) -> list[int]:
        return [int(part.sum()) for part in opened.split(self.gates.sizes)]

    def accuracy(self, model: nn.Module, split: str = "test") -> float:
        shown = getattr(self.data, split)
        outputs = self.data.task.predict(model, shown, self.data)
        return self.data.task.scores(outputs.cpu(), shown.labels)[self.data.task.score]

    def row(self, way: str, budget: float, value: float, out: Path, kept: list[int] | None = None) -> dict:
        """What is measured of a network; its coded file is left in ``out``. ``kept``: see :meth:`control`."""
        model, about = self.control(way, budget, kept) if kept else self.made(way, budget, value)
        file = codec.encode(model.cpu())
        name = f"{way}-{budget}-{value}-{self.seed}.slnc".replace(" ", "_").replace(",", "")
        files.write_bytes(out / name, file)
        small = codec.decode(file)
        count = cost.multiply_adds(small, self.data.model_args)
        return {
            "share": count / self.gates.full,
            "multiply_adds": count,
            "bytes": len(file),
            "val_accuracy": self.accuracy(small, "validation"),
            "accuracy": self.accuracy(small),
            "file": name,
            **about,
        }


def compared(
    dataset: str,
    seed: int,
    network: Student,
    recipe: Recipe,
    comparison: Comparison,
    device: torch.device,
    out: Path,
) -> list[dict]:
    """A row per network: way, budget, seed and value, and what is measured of it. What ``out`` holds is not made again.

    ``tuned_on`` is True of the rows that tuned the ways, at the middle budget. Accuracies are 0…1, of test images but
    for val_accuracy. ``kept``: channels a family. Rows of the controller have more, an epoch's numbers among it. After
    a seed's rows are those of :data:`CONTROLS`, which are no ways.
    """
    middle = middle_of(comparison)
    alike = dataclasses.asdict(dataclasses.replace(comparison, repetitions=1))  # more seeds change no network
    del alike["controls"]  # nor do more of these
    key = [dataset, *map(dataclasses.asdict, (network, recipe)), alike, datasets.load(dataset, seed).identity]

    def tasks(number: int, wanted: list[tuple]) -> Iterator[Task]:
        data = functools.cache(lambda: datasets.load(dataset, number))
        trainings = functools.cache(lambda: Trainings(data(), network, recipe, comparison, number, device))
        for way, budget, value, *kept in wanted:
            of = {"way": way, "budget": budget, "seed": number, "value": value}
            yield of, lambda how=(way, budget, value, out, *kept): [trainings().row(*how)]

    tried = [(way, middle, value) for way, (_, values) in WAYS.items() for value in values]
    tuning = [row | {"tuned_on": True} for row in every(tasks(seed + MOST, tried), out, key)]
    best, found = best_values(tuning), []
    for number in range(seed, seed + comparison.repetitions):
        wanted = [(way, budget, best[way]) for budget, way in itertools.product(comparison.budgets, WAYS)]
        rows = list(every(tasks(number, wanted), out, key))
        kept = {row["budget"]: row["kept"] for row in rows if row["way"] == GUIDED}
        beside = [(way, budget, TUNING, kept[budget]) for budget in comparison.controls for way in CONTROLS]
        found += [*rows, *every(tasks(number, beside), out, key)]
    return tuning + [row | {"tuned_on": False} for row in found]


def middle_of(comparison: Comparison) -> float:
    """The budget at which the ways are tuned."""
    return sorted(comparison.budgets)[len(comparison.budgets) // 2]


def best_values(tuning: list[dict]) -> dict[str, float]:
    """Way → the value of the highest accuracy on validation images; the first of equals."""
    best: dict[str, dict] = {}
    for row in tuning:
        if row["way"] not in best or row["val_accuracy"] > best[row["way"]]["val_accuracy"]:
            best[row["way"]] = row
    return {way: row["value"] for way, row in best.items()}


def families(network: Student, data: Data) -> list[dict]:
    """A row per family of channels, in the order of ``kept``: layer, channels."""
    name, args = network.described(data.model_args)
    gates = Gates(spec.create(name, 0, data=data, **args))
    return [{"layer": layer, "channels": size} for layer, size in zip(gates.found.families, gates.sizes, strict=True)]
