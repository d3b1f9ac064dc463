"""Chapter 1: the teacher's numbers, its classes and confidence, and what choosing on the test set flatters by."""

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import pandas as pd
import torch
from pydantic import Field
from torch import nn

from studylib.data import scoring
from studylib.data.datasets import Data
from studylib.networks import layers
from studylib.networks import spec as networks_spec
from studylib.results import claims, statistics
from studylib.settings import record
from studylib.techniques import teacher
from studylib.training import loop
from studylib.training.checkpoint import weights_digest
from studylib.training.recipe import Recipe
from studylib.tree.rows import Task, every


@record
class Choosing:
    """The best epoch on the test set compared with the best epoch on validation images."""

    seeds: Annotated[int, Field(ge=1, le=1000, description="trainings, of the study's seed and those after it")] = 1


def numbers(model: nn.Module, data: Data) -> dict:
    """A row: numbers trained (weights, biases and those of batch norms), weight layers, classes of ``data``."""
    trained = sum(parameter.numel() for parameter in model.parameters())
    return {"trained": trained, "layers": len(layers.weight_layers(model)), "classes": len(data.classes)}


def classes_and_calibration(logits: torch.Tensor, labels: torch.Tensor, classes: list[str]) -> pd.DataFrame:
    """Rows of two parts: of "classes" class and accuracy, of "reliability" confidence, accuracy and images of a bin.

    Args:
        logits, labels: (n, classes) and (n,).
        classes: their names.
    """
    by_class = pd.DataFrame({"class": classes, "accuracy": scoring.class_accuracy(logits, labels, len(classes))})
    bins = pd.DataFrame(scoring.reliability(logits, labels))
    return pd.concat([by_class.assign(part="classes"), bins.assign(part="reliability")])


def mean_confidence(rows: pd.DataFrame) -> float:
    """Over all images (0…1), from the rows of :func:`classes_and_calibration`."""
    bins = rows[rows["part"] == "reliability"]
    return float((bins["confidence"] * bins["images"]).sum() / bins["images"].sum())


def classes_by_accuracy(rows: pd.DataFrame) -> pd.Series:
    """Class → accuracy (0…1), the hardest first, from the same rows."""
    by_class = rows[rows["part"] == "classes"].set_index("class")["accuracy"]
    return by_class.sort_values(kind="stable")


def last_quarter(history: pd.DataFrame) -> pd.Series:
    """Validation accuracy (0…1) of the last quarter of the epochs, of two at least where there are two."""
    return history["val_accuracy"].iloc[-max(2, len(history) // 4) :]


def peeks(
    model: nn.Module, data: Data, settings: Choosing, recipe: Recipe, seed: int, folder: Path, left: Path
) -> pd.DataFrame:
    """The rows of :func:`trainings` for all seeds, kept in ``folder`` as they are made."""
    seeds = list(range(seed, seed + settings.seeds))
    key = [dataclasses.asdict(recipe), data.identity, model.spec, weights_digest(model)]
    return pd.DataFrame(every(trainings(model, data, recipe, seeds, folder, left), folder, key))


def trainings(
    model: nn.Module, data: Data, recipe: Recipe, seeds: list[int], folder: Path, left: Path
) -> Iterator[Task]:
    """One task per seed: a training of a network like ``model`` whose test accuracy is read after every epoch.

    The first seed's is the training of ``model`` itself, if nothing but ``recipe`` decided it. The weights of its
    epochs must be on disk, too: they meet the test set only now. What is trained here goes nowhere.

    Args:
        model: a teacher, with its history.
        folder: where a training that was stopped leaves what it needs to go on.
        left: the ``every_epoch`` of :func:`studylib.techniques.teacher.apply`.

    Columns, besides those of :func:`studylib.training.loop.fit`:

    - test_accuracy: 0…1, after the epoch.
    - peak: 0…1, its highest in the training.
    - honest: 0…1, that of the best epoch on validation images.
    - flatters: points between the two.
    """
    kept = all("weights" in row for row in model.history)
    own = kept and not any("descends" in change for change in model.spec["changes"])
    device, spec = next(model.parameters()).device, model.spec

    def test_accuracy(model: nn.Module) -> dict:
        return {"test_accuracy": scoring.accuracy(model, data.test, data)}

    for s in seeds:

        def make(s=s) -> list[dict]:
            if own and s == seeds[0]:
                return _with_peak(teacher.look_again(model, left, test_accuracy))
            new = networks_spec.create(spec["name"], s, data=data, **spec["args"]).to(device)
            checkpoint = folder / f"{s}.safetensors"
            rows = loop.fit(new, data, recipe, seed=s, watch=test_accuracy, checkpoint=checkpoint)
            checkpoint.unlink(missing_ok=True)
            return _with_peak(rows)

        yield {"seed": s}, make


def _with_peak(rows: list[dict]) -> list[dict]:
    peak = max(row["test_accuracy"] for row in rows)
    honest = [row["test_accuracy"] for row in rows if row["best"]][-1]
    return [{**row, "peak": peak, "honest": honest, "flatters": 100 * (peak - honest)} for row in rows]


def flattery(rows: pd.DataFrame) -> pd.Series:
    """Seed → points by which choosing on the test set flatters, from the rows of :func:`peeks`."""
    return rows.groupby("seed")["flatters"].first()


def claims_of(metrics: dict, logits: torch.Tensor, labels: torch.Tensor) -> dict[str, claims.Measured]:
    """What a teacher with these logits (n, classes) of the test images says of the paper's claims."""
    right = (logits.argmax(1) == labels).double().cpu().numpy()
    return {
        "teacher_accuracy": claims.Measured(*(100 * number for number in statistics.over_both(right))),
        "teacher_bytes": claims.Measured(metrics["bytes_dense"]),
    }
