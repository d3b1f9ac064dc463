"""What chapters 10 and 11 share: every combination of four techniques of a generative network, and narrower ones."""

import abc
import dataclasses
import itertools
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pandas as pd
from pydantic import Field
from torch import nn

from studylib.data.datasets import Data
from studylib.disk import models
from studylib.networks.calibration import Calibrated
from studylib.results import statistics
from studylib.settings import record
from studylib.techniques import int8, prune, svd
from studylib.training.recipe import Recipe
from studylib.tree import names
from studylib.tree.node import Node
from studylib.tree.rows import every, once

STAGES = ("distill", "prune", "svd", "int8")
FILES = (models.SPEC, models.TENSORS, names.CODED, names.LOGITS, names.METRICS)  # of a node's folder
COLUMNS = {"bytes": "bytes_file", "bytes_dense": "bytes_dense", "zeros": "sparsity"}  # of a row, of its metrics
FORMS = ("float32", "int8")
LONGER = ", longer"  # ends the form of a narrower network that trained for as many passes as a pruned one
APART = ("repetitions", "narrower", "prompt", "deltas", "bits", "group")  # settings that change no combination


@record
class Compressing(Calibrated):
    """What the four techniques do; calibration is by training images, or by blocks of text."""

    alpha: Annotated[
        float, Field(ge=0, le=1, description="weight of the teacher's soft targets; the data get the rest")
    ] = 0.5
    rounds: Annotated[int, Field(ge=1, le=1000, description="how often to prune")] = 10
    fraction: Annotated[float, Field(gt=0, lt=1, description="share of the remaining weights that a round removes")] = (
        0.2
    )
    tolerance: Annotated[float, Field(ge=0, le=8, description="validation bits that pruned networks may lose")] = 0.0
    epochs: Annotated[int, Field(ge=1, le=1_000_000, description="passes that a round takes at most to recover")] = 3
    lr: Annotated[float, Field(gt=0, le=1000, description="learning rate of recovery at its highest")] = 1e-3
    delta: Annotated[int, Field(ge=0, le=4096, description="Δ, how far below the break-even rank to go")] = 1

    def recovery(self, recipe: Recipe) -> Recipe:
        """``recipe`` as it is after a technique."""
        return dataclasses.replace(recipe, epochs=self.epochs, lr=self.lr, min_lr=min(recipe.min_lr, self.lr))


def check_widths(network) -> None:
    """Raises ValueError where the student or a narrower network of a record is as wide as its network, or wider."""
    for name, width in [("student", network.student), *(("narrower", width) for width in network.narrower)]:
        if width >= network.width:
            raise ValueError(f"{name}: {width} is expected to be less than width={network.width!r}")


class Family(abc.ABC):
    """A network, its distilled student, narrower ones, and every combination; a subclass says how each is made.

    Args:
        node: of the chapter. Each network is a node below its points/, made once.
        network: settings with width, narrower and repetitions.
        compressing: of the techniques.
        recipe: of every training from the start.
    """

    runs = 0  # of neighbours, for intervals: blocks of a text are alike; 0: each image by itself
    below = ""  # what the folders of networks begin with, where files of another chapter have the same names

    def __init__(self, node: Node, network: Any, compressing: Compressing, recipe: Recipe):
        self.node, self.network, self.compressing, self.recipe = node, network, compressing, recipe

    @classmethod
    def point_of(cls, seed: int, name: str) -> str:
        """The folder of the network ``name`` of a seed, below points/."""
        return f"{cls.below}seed{seed}/{name}"

    def folder_of(self, seed: int, name: str) -> Path:
        """Where the network ``name`` of a seed lies."""
        return self.node.out / "points" / self.point_of(seed, name)

    @property
    def seeds(self) -> range:
        """Those of the chapter, from the study's on."""
        return range(self.node.study.seed, self.node.study.seed + self.network.repetitions)

    @abc.abstractmethod
    def point(self, folder: Path, seed: int) -> Node:
        """The node in ``folder``."""

    def learnt(self, point: Node) -> Data:
        """What a training learns."""
        return point.data

    @abc.abstractmethod
    def trained(self, width: int, seed: int, point: Node, recipe: Recipe) -> nn.Module:
        """A network trained from the start by ``recipe``."""

    @abc.abstractmethod
    def student(self, model: nn.Module, seed: int, point: Node) -> nn.Module:
        """The student of ``model``."""

    @abc.abstractmethod
    def bits(self, folder: Path) -> np.ndarray:
        """Bits of each test image or block (n,), as the node in ``folder`` stored them."""

    def scores(self, metrics: dict) -> dict:
        """Columns of a row that its node's metrics have."""
        return {}

    def tree(self) -> list[dict]:
        """A row a seed and combination of the four techniques; each is a node's folder below points/, made once.

        Columns:
            seed, node: of the row, nodes named as in chapter 7.
            bytes, zeros: of the file; share of its weights that are zero.
            bytes_dense: of all numbers as they are held, in float32 or int8.
            val_bits, test_bits: of the task, such as bits per character.
            low, high: interval (95 %) of test_bits over the images, or over runs of neighbouring blocks.
            costs, costs_low, costs_high: test_bits over the teacher's, with the interval over images or blocks.
        """
        wanted = [(seed, name) for seed in self.seeds for name in names.nodes(STAGES)]
        return [{"seed": seed, "node": name} | self._row(seed, name, self.network.width) for seed, name in wanted]

    def narrower(self) -> list[dict]:
        """A row a seed, width and form of dense networks trained alone; else as :meth:`tree`, to be called before.

        ``width`` and ``form`` are in the place of ``node``. The teacher's own width is among them. Forms are
        :data:`FORMS`, and these with :data:`LONGER`. The latter trained for as many passes as the teacher of their seed
        and all rounds of its pruning.
        """
        rows, widths = [], [*self.network.narrower, self.network.width]
        for seed, width, longer, form in itertools.product(self.seeds, widths, ("", LONGER), FORMS):
            name = f"{'longer' if longer else 'width'}{width}"
            if width == self.network.width and not longer:
                name = names.TEACHER
            name += "-int8" if form == "int8" else ""
            rows.append({"seed": seed, "width": width, "form": form + longer} | self._row(seed, name, width))
        return rows

    def chosen(self, rows: pd.DataFrame, name: str) -> list[dict]:
        """The one file that is published, of the first seed: its folder below points/, and what was measured of it."""
        row = rows[(rows["node"] == name) & (rows["seed"] == self.seeds[0])].iloc[0]
        found = {key: row[key] for key in ("bytes", "val_bits", "test_bits")}
        return [{"name": self.point_of(self.seeds[0], name)} | found]

    def _row(self, seed: int, name: str, width: int) -> dict:
        folder, below = self.folder_of(seed, name), self.node.out
        kept = below / "rows" / folder.relative_to(below).with_name(f"{name}.json")
        if not all((folder / file).exists() for file in FILES):
            kept.unlink(missing_ok=True)
        records = [dataclasses.asdict(each) for each in (self.network, self.compressing, self.recipe)]
        decides = [{key: value for key, value in each.items() if key not in APART} for each in records]

        def row() -> dict:
            kept.unlink(missing_ok=True)  # of what is now in the folder
            point = self.point(folder, seed)
            metrics = point.finish(self._made(name, width, seed, point))
            found = {name: metrics[key] for name, key in COLUMNS.items()}
            found["val_bits"] = metrics[f"val_{point.data.task.score}"]
            own, whole = self.scores(metrics), self.bits(self.folder_of(seed, names.TEACHER))
            return found | own | beside(self.bits(folder), whole, self.runs) | own

        return once(kept, [*decides, self.node.data.digest, seed, name], row)

    def _passes(self, seed: int) -> int:
        """How many passes the teacher of a seed and all rounds of its pruning took; :meth:`tree` made them."""
        pruned = self.node.load(self.folder_of(seed, f"{names.TEACHER}-{names.part('prune')}"))
        return sum(change["epochs"] for change in pruned.spec["changes"])

    def _made(self, name: str, width: int, seed: int, point: Node) -> nn.Module:
        """The network of the node ``name``: of its parent by its last technique."""
        parent, how = names.parent_of(name), self.compressing
        if parent is None:
            passes = self._passes(seed) if name.startswith("longer") else self.recipe.epochs
            return self.trained(width, seed, point, dataclasses.replace(self.recipe, epochs=passes))
        model, technique = point.load(self.folder_of(seed, parent)), name.rpartition("-")[2]
        if technique == names.part("distill"):
            return self.student(model, seed, point)
        if technique == names.part("prune"):
            more = {"recipe": how.recovery(self.recipe), "seed": seed, "scratch": point.scratch}
            more |= {"rounds": how.rounds, "fraction": how.fraction, "tolerance": how.tolerance}
            return prune.apply(model, self.learnt(point), **more)
        if technique == "svd":
            return svd.apply(model, delta=how.delta)
        return int8.apply(model, point.data, calibration_images=how.calibration_images, seed=seed)


def tuned(tasks: Callable, seeds: Iterable[int], folder: Path, key: list, score: str) -> list[dict]:
    """Rows of every value of the first seed, and of the best value of each way of the others.

    ``chosen`` is added: whether the value is the best, that of the least mean of ``score``.

    Args:
        tasks: (seed, best values or None) → what is done (:data:`studylib.tree.rows.Task`); of all values without them.
        folder, key: of :func:`studylib.tree.rows.every`.
    """
    first, *others = seeds
    tried = list(every(tasks(first, None), folder, key))
    best = best_values(pd.DataFrame(tried), score)
    rows = [row | {"chosen": best[row["objective"], row["way"]] == row["value"]} for row in tried]
    for seed in others:
        rows += [row | {"chosen": True} for row in every(tasks(seed, best), folder, key)]
    return rows


def best_values(tried: pd.DataFrame, score: str) -> dict[tuple[str, str], float]:
    """Second objective and way → the value of the least mean of ``score``."""
    means = tried.groupby(["objective", "way", "value"], sort=False)[score].mean().reset_index()
    best = means.loc[means.groupby(["objective", "way"], sort=False)[score].idxmin()]
    return best.set_index(["objective", "way"])["value"].to_dict()


def beside(each: np.ndarray, whole: np.ndarray, runs: int = 0) -> dict:
    """``test_bits`` and what they ``costs`` over the whole network's, with intervals over images or blocks (n,).

    Where ``runs`` are asked for, intervals are over the means of so many runs of neighbours: these may be alike.
    """

    def interval(values: np.ndarray) -> tuple[float, float]:
        parts = np.array_split(values, runs) if 0 < runs < len(values) else values
        return statistics.t_interval([part.mean() for part in parts])

    (low, high), (costs_low, costs_high) = interval(each), interval(each - whole)
    found = {"test_bits": float(each.mean()), "low": low, "high": high, "costs": float((each - whole).mean())}
    return found | {"costs_low": costs_low, "costs_high": costs_high}
