"""Chapter 6: ways to train for compression, each tuned as often, and their networks at rising sparsity.

Every way trains the same network from the same weights, in the same batches, for the same number of epochs. Pruning
and fine-tuning are alike, too. Its one setting is tried at the same number of values as the others', on the first
seed. The value with the largest hypervolume on validation images is kept for every seed. Results are of test images.
"""

import dataclasses
from pathlib import Path
from typing import Annotated

import pandas as pd
from pydantic import Field
from torch import nn

from studylib.coding import codec
from studylib.data import scoring
from studylib.data.datasets import Data
from studylib.experiments import moo_hypervolume
from studylib.experiments.moo_ways import METHOD, RIVALS, Way, step_of, ways
from studylib.networks import layers
from studylib.settings import SettingError, record
from studylib.techniques import prune
from studylib.training import loop
from studylib.training.checkpoint import weights_digest
from studylib.training.recipe import Recipe
from studylib.tree.rows import once

STAGES = ("one-shot", "fine-tuned")


@record
class Tuning:
    """The fine-tuning at each sparsity: the recipe of the training, but for these two."""

    epochs: Annotated[int, Field(ge=1, le=1_000_000, description="passes over the training images")] = 1
    lr: Annotated[float, Field(gt=0, le=1000, description="learning rate at its highest")] = 3e-3


@dataclasses.dataclass(frozen=True)
class Plan:
    """What every way has in common.

    Attributes:
        recipe: of the training.
        tuning: of the fine-tuning at each sparsity.
        sparsities: shares of the weights that are zero, rising.

    Raises:
        ValueError: ``sparsities`` do not rise within 0…1.
    """

    recipe: Recipe
    tuning: Recipe
    sparsities: tuple[float, ...]

    def __post_init__(self):
        prune.check_sparsities(list(self.sparsities))
        if not self.sparsities[-1] > 0 or not self.recipe.epochs:
            raise ValueError(
                f"{self.recipe.epochs} epochs, sparsities {self.sparsities}: expected some of each above 0"
            )


Values = list[Annotated[float, Field(gt=0, le=1e6)]]


@record
class Comparison:
    """How the ways to train are compared; the last four have equally many values, so that none is tuned more."""

    repetitions: Annotated[
        int, Field(ge=1, le=1000, description="seeds, from the study's on; values are chosen on the first")
    ] = 2
    sparsities: Annotated[
        list[Annotated[float, Field(ge=0, lt=1)]], Field(min_length=1, description="shares of zeros compared, rising")
    ] = dataclasses.field(default_factory=lambda: [0.5, 0.9, 0.98])
    sums: Annotated[Values, Field(description="λ of cross-entropy + λ ‖w‖₁")] = dataclasses.field(
        default_factory=lambda: [1e-3, 1e-2]
    )
    shrinkages: Annotated[Values, Field(description="λ of the soft threshold after each step")] = dataclasses.field(
        default_factory=lambda: [0.1, 1.0]
    )
    taus: Annotated[
        list[Annotated[float, Field(gt=0, le=1)]],
        Field(description="τ of PCD, and λ of the weighted sum of normalized gradients"),
    ] = dataclasses.field(default_factory=lambda: [0.1, 0.5])
    rates: Annotated[
        list[Annotated[float, Field(gt=0, le=1000)]],
        Field(description="learning rates of the ways without a setting of their own"),
    ] = dataclasses.field(default_factory=lambda: [3e-3, 1e-2])
    only: Annotated[
        list[str], Field(description="the ways that are compared, PCD and both weighted sums among them; none: all")
    ] = dataclasses.field(default_factory=list)

    def check(self) -> None:
        prune.check_sparsities(self.sparsities)
        if self.sparsities[-1] == 0:
            raise ValueError(f"sparsities={self.sparsities!r}: expected one above 0")
        self.ways()

    def ways(self) -> list[Way]:
        """Every way that is compared, see :func:`ways`."""
        found = ways(self.sums, self.shrinkages, self.taus, self.rates)
        known, needed = [way.label for way in found], {METHOD, *RIVALS}
        if self.only and not needed <= set(self.only) <= set(known):
            raise ValueError(f"only={self.only!r}: expected some of {known}, {sorted(needed)} among them")
        return [way for way in found if not self.only or way.label in self.only]

    def plan(self, recipe: Recipe, tuning: Tuning) -> Plan:
        """What every way has in common.

        Raises:
            studylib.settings.SettingError: ``recipe`` is of no epoch, or ``tuning``'s rate is below its least.
        """
        if recipe.epochs < 1:
            raise SettingError(f"recipe.epochs={recipe.epochs!r}: expected at least 1")
        if tuning.lr < recipe.min_lr:
            raise SettingError(f"tuning.lr={tuning.lr!r}: expected at least recipe.min_lr={recipe.min_lr!r}")
        tuned = dataclasses.replace(recipe, epochs=tuning.epochs, lr=tuning.lr)
        return Plan(recipe, tuned, tuple(self.sparsities))


def trained(way: Way, value: float, start: nn.Module, data: Data, recipe: Recipe, seed: int) -> nn.Module:
    """A copy of ``start`` trained that way, after the last epoch; ``history`` has the rows of the training.

    Raises:
        FloatingPointError: the training did not stay finite.
    """
    model = layers.duplicate(start)
    if way.setting == "learning rate":
        recipe = dataclasses.replace(recipe, lr=value, min_lr=min(recipe.min_lr, value))
    model.history = loop.fit(model, data, recipe, seed=seed, step=step_of(way, value), keep="last")
    return model


def pruned(way: Way, model: nn.Module, data: Data, plan: Plan, seed: int) -> dict[str, list[nn.Module]]:
    """Stage → ``model`` at each sparsity of ``plan``: just pruned, and fine-tuned.

    All but iterative pruning start each sparsity from ``model``. Iterative pruning goes on from the sparsity before, so
    that its k-th has had k times the fine-tuning.
    """
    sparsities, none = list(plan.sparsities), dataclasses.replace(plan.tuning, epochs=0)

    def cut(model, sparsities, recipe=none, method="one_shot"):
        return prune.trajectory(model, data, sparsities, method=method, recipe=recipe, seed=seed)

    if way.name != "iterative pruning":
        found = cut(model, sparsities), cut(model, sparsities, plan.tuning)
    else:
        tuned = cut(model, sparsities, plan.tuning, "learning_rate")
        found = [cut(m, [s])[0] for m, s in zip([model, *tuned], sparsities, strict=False)], tuned
    return dict(zip(STAGES, found, strict=True))


def run(
    way: Way, value: float, start: nn.Module, data: Data, plan: Plan, seed: int, folder: Path | None = None
) -> tuple[list[dict], list[dict]]:
    """One training of ``way`` at ``value`` and what becomes of it, and the training's history.

    Args:
        start: the network as it is before; the same for every way.
        folder: cache of what is finished, read by a later call with the same arguments and code.

    Returns:
        Rows, one per stage and sparsity: way, value, seed, stage, sparsity (asked for), val_accuracy, zeros (reached),
        test_accuracy. Those fine-tuned also have bytes (of the coded file). Then the rows of
        :func:`studylib.training.loop.fit` with way, value and seed. A training that did not stay finite has chance
        for its accuracies, no zeros or bytes, and no history.
    """
    return _Runs(start, data, plan, seed, folder).measured(way, value)


def search(
    way: Way, start: nn.Module, data: Data, plan: Plan, seed: int, folder: Path | None = None
) -> tuple[list[dict], float, tuple[list[dict], list[dict]]]:
    """Every value of ``way`` on validation images, the best of them, and what :func:`run` gives for that one.

    Only the best is seen on test images. Arguments as for :func:`run`.

    Returns:
        Rows (way, value, seed, stage, sparsity, val_accuracy) of all values; the value of
        :func:`studylib.experiments.moo_hypervolume.best_values`; and rows and history at that.
    """
    runs = _Runs(start, data, plan, seed, folder)
    rows = [row for value in way.values for row in runs.validated(way, value)]
    best = moo_hypervolume.best_values(pd.DataFrame(rows), len(data.classes))[way.label]
    return rows, best, runs.measured(way, best)


class _Runs:
    """Trainings that start alike; what each gives is left in ``folder``, the last networks here."""

    def __init__(self, start: nn.Module, data: Data, plan: Plan, seed: int, folder: Path | None):
        self.start, self.data, self.plan, self.seed, self.folder = start, data, plan, seed, folder
        self.begins = weights_digest(start) if folder else None
        self._made: dict[tuple[str, float], tuple[dict, list[dict]]] = {}

    def validated(self, way: Way, value: float) -> list[dict]:
        return self._once("validated", way, value, lambda: self._rows(way, value, self._seen))

    def measured(self, way: Way, value: float) -> tuple[list[dict], list[dict]]:
        found = self._once(
            "measured", way, value, lambda: (self._rows(way, value, self._measure), self._networks(way, value)[1])
        )
        self._made.clear()
        return tuple(found)

    def _once(self, what: str, way: Way, value: float, make):
        path = self.folder / f"{way.label}-{value!r}-{self.seed}-{what}.json" if self.folder else None
        about = [way.label, value, self.seed, dataclasses.asdict(self.plan), self.start.spec, self.begins]
        return once(path, [*about, *self.data.identity], make)

    def _networks(self, way: Way, value: float) -> tuple[dict, list[dict]]:
        """Stage → networks (None where the training did not stay finite), and the history."""
        if (way.label, value) not in self._made:
            about = {"way": way.label, "value": value, "seed": self.seed}
            try:
                model = trained(way, value, self.start, self.data, self.plan.recipe, self.seed)
                found = pruned(way, model, self.data, self.plan, self.seed)
                history = [{**about, **row} for row in model.history]
            except FloatingPointError:
                found, history = {stage: [None] * len(self.plan.sparsities) for stage in STAGES}, []
            self._made[way.label, value] = found, history
        return self._made[way.label, value]

    def _rows(self, way: Way, value: float, see) -> list[dict]:
        about = {"way": way.label, "value": value, "seed": self.seed}
        return [
            {**about, "stage": stage, "sparsity": sparsity, **see(model, stage)}
            for stage, networks in self._networks(way, value)[0].items()
            for sparsity, model in zip(self.plan.sparsities, networks, strict=True)
        ]

    def _seen(self, model: nn.Module | None, stage: str) -> dict:
        chance = 1 / len(self.data.classes)
        return {"val_accuracy": scoring.accuracy(model, self.data.validation, self.data) if model else chance}

    def _measure(self, model: nn.Module | None, stage: str) -> dict:
        row = self._seen(model, stage)
        if model is None:
            return row | {"zeros": None, "test_accuracy": row["val_accuracy"], "bytes": None}
        masks = layers.masks_of(model).values()
        return row | {
            "zeros": 1 - sum(int(m.sum()) for m in masks) / sum(m.numel() for m in masks),
            "test_accuracy": scoring.accuracy(model, self.data.test, self.data),
            "bytes": len(codec.encode(model)) if stage == STAGES[1] else None,
        }
