"""Chapter 2: pairs of students with a teacher and without, and what temperature and α are worth."""

import dataclasses
import functools
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import numpy as np
import pandas as pd
import torch
from pydantic import Field
from torch import nn

from studylib.coding import size
from studylib.data import scoring
from studylib.data.datasets import Data
from studylib.networks import spec
from studylib.results import claims, statistics, tables
from studylib.settings import check_different, record
from studylib.techniques import distill
from studylib.training import loop
from studylib.training.checkpoint import weights_digest
from studylib.training.recipe import Recipe
from studylib.tree.rows import Task, every

TAUGHT, ALONE = "with teacher", "labels only"  # the two of a pair


@record
class Pairs:
    """The students that the chapter's own is compared with."""

    seeds: Annotated[int, Field(ge=1, le=1000, description="pairs, of the study's seed and those after it")] = 2
    temperatures: Annotated[
        list[Annotated[float, Field(ge=1e-3, le=1e4)]], Field(min_length=1, description="T swept, all different")
    ] = dataclasses.field(default_factory=lambda: [1.0, 5.0])
    alphas: Annotated[
        list[Annotated[float, Field(ge=0, le=1)]], Field(min_length=1, description="α swept, all different")
    ] = dataclasses.field(default_factory=lambda: [0.3, 1.0])

    def check(self) -> None:
        check_different(self, "temperatures", "alphas")


@dataclasses.dataclass
class Lessons:
    """Trains students of one shape by one recipe; each result is kept in ``folder`` as it is made.

    Attributes:
        own: the chapter's own student, with its history. It stands for ``seed`` and ``teaching``; the others have its
            shape.
        model: the teacher.
        teaching: T and α of every pair.
        seed: of the study: of the first pair and of the sweep.
        views: folder of the teacher's answers to views (:class:`studylib.techniques.distill.TeacherCache`).
    """

    own: nn.Module
    model: nn.Module
    data: Data
    recipe: Recipe
    teaching: distill.Teaching
    seed: int
    folder: Path
    views: Path | None = None

    def pairs(self, count: int) -> pd.DataFrame:
        """A row per student, two per seed, both from the same start on the same views, for equally many epochs.

        Columns:
            seed: of the pair.
            student: "with teacher" or "labels only".
            accuracy, nll, ece: of validation images (:func:`studylib.data.scoring.scores`).
            agreement: share (0…1) of them classified as the teacher does.
            right: 0 or 1 for each of them.
            history: rows of :func:`studylib.training.loop.fit`.
        """
        return self._rows(self._pairs(count), "pairs")

    def sweep(self, settings: Pairs) -> pd.DataFrame:
        """A row for each T and α of one student: T, α, accuracy (0…1, validation images, best epoch)."""
        return self._rows(self._sweep(settings), "sweep")

    def _rows(self, tasks: Iterator[Task], name: str) -> pd.DataFrame:
        how = [dataclasses.asdict(each) for each in (self.recipe, self.teaching)]
        key = [*how, self.seed, self.data.identity, weights_digest(self.own), weights_digest(self.model)]
        return pd.DataFrame(every(tasks, self.folder / name, key))

    def _pairs(self, count: int) -> Iterator[Task]:
        for seed in range(self.seed, self.seed + count):
            for kind, alpha in ((TAUGHT, self.teaching.alpha), (ALONE, None)):

                def make(seed=seed, alpha=alpha) -> list[dict]:
                    return [self._row(self._student(seed, self.teaching.temperature, alpha))]

                yield {"seed": seed, "student": kind}, make

    def _sweep(self, settings: Pairs) -> Iterator[Task]:
        for temperature in settings.temperatures:
            for alpha in settings.alphas:

                def make(temperature=temperature, alpha=alpha) -> list[dict]:
                    history = self._student(self.seed, temperature, alpha).history
                    return [{"accuracy": max(row["val_accuracy"] for row in history)}]

                yield {"T": temperature, "α": alpha}, make

    def _student(self, seed: int, temperature: float, alpha: float | None) -> nn.Module:
        """Trained, with its history; without a teacher where ``alpha`` is None."""
        if (seed, temperature, alpha) == (self.seed, self.teaching.temperature, self.teaching.alpha):
            return self.own  # from the same start on the same views
        device = next(self.own.parameters()).device
        student = spec.create(self.own.spec["name"], seed, data=self.data, **self.own.spec["args"]).to(device)
        loss = None if alpha is None else distill.Distillation(self._teacher, temperature, alpha)
        kept = self.folder / f"{seed}-{temperature}-{alpha}.safetensors"  # a training that was stopped goes on from it
        student.history = loop.fit(student, self.data, self.recipe, seed=seed, loss=loss, checkpoint=kept)
        kept.unlink(missing_ok=True)
        return student

    def _row(self, student: nn.Module) -> dict:
        validation = self.data.validation
        logits = scoring.predict(student, validation, self.data)
        predicted = logits.argmax(1)
        return {
            **scoring.scores(logits, validation.labels),
            "agreement": (predicted == self._answers).double().mean().item(),
            "right": (predicted == validation.labels.to(predicted.device)).long().tolist(),
            "history": student.history,
        }

    @functools.cached_property
    def _teacher(self) -> distill.TeacherCache:
        return distill.TeacherCache(self.model, self.views)  # pairs and sweep share the recipe's views

    @functools.cached_property
    def _answers(self) -> torch.Tensor:
        return scoring.predict(self.model, self.data.validation, self.data).argmax(1)


def size_of(model: nn.Module) -> dict:
    """The numbers that inference with ``model`` needs: parameters (:func:`studylib.coding.size.accountings`)."""
    return {"parameters": size.accountings(model)["parameters"]}


def curves(pairs: pd.DataFrame) -> list[dict]:
    """Of :meth:`Lessons.pairs`, a row per epoch: those of its history, with seed and student."""
    return [epoch | {"seed": row.seed, "student": row.student} for row in pairs.itertuples() for epoch in row.history]


def intervals(pairs: pd.DataFrame) -> list[dict]:
    """Validation accuracy of the rows of :meth:`Lessons.pairs`, with an interval over students and images.

    Columns:
        what: "with teacher", "labels only", and "gain", the first less the second.
        mean, low, high: 0…1, of :func:`studylib.results.statistics.over_both`.
        n: number of pairs.
    """
    right = {kind: np.array(list(rows["right"])) for kind, rows in pairs.groupby("student")}
    right = {TAUGHT: right[TAUGHT], ALONE: right[ALONE], "gain": right[TAUGHT] - right[ALONE]}
    found = ((what, *statistics.over_both(values), len(values)) for what, values in right.items())
    return [dict(zip(("what", "mean", "low", "high", "n"), row, strict=True)) for row in found]


def in_words(students: pd.DataFrame) -> dict[str, dict[str, str]]:
    """ "mean ± deviation" over the rows of student, accuracy and agreement (0…1), in percent: student → column → text.

    Under "gain", of the pairs' differences in accuracy, in points.
    """
    percent = {
        kind: 100 * rows.set_index("seed")[["accuracy", "agreement"]] for kind, rows in students.groupby("student")
    }
    said = {k: {c: tables.plus_minus(v[c].mean(), v[c].std(), 1) for c in v} for k, v in percent.items()}
    gains = percent[TAUGHT]["accuracy"] - percent[ALONE]["accuracy"]
    return said | {"gain": {"accuracy": tables.plus_minus(gains.mean(), gains.std(), 2)}}


def span(sweep: pd.DataFrame) -> str:
    """What temperature and α decide, in words: the lowest and highest accuracy, and the settings of the highest."""
    if len(sweep) < 2:
        return "One setting: what T and α decide is not measured here."
    least, most = sweep["accuracy"].min(), sweep["accuracy"].max()
    best = " and ".join(f"T = {row.T:g}, α = {row.α:g}" for row in sweep[sweep["accuracy"] == most].itertuples())
    return f"The settings span {100 * least:.1f} to {100 * most:.1f} %; highest: {best}. Each is one student."


def claims_of(rows: pd.DataFrame) -> dict[str, claims.Measured]:
    """What the rows of :func:`intervals` say of the paper's claims, in percent and points."""
    rows = rows.set_index("what")

    def measured(what: str, least: float, most: float) -> claims.Measured:
        row = rows.loc[what]
        ends = np.clip(100 * row[["mean", "low", "high"]].astype(float), least, most)
        return claims.Measured(*ends.tolist(), n=int(row["n"]))

    gain = measured("gain", -np.inf, np.inf)
    reached = {kind: measured(kind, 0, 100) for kind in (TAUGHT, ALONE)}  # wherever few students put an end
    return {"kd_alone": reached[ALONE], "kd_taught": reached[TAUGHT], "kd_gain": gain, "kd_helps": gain}
