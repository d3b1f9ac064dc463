"""Chapter 1: the teacher's numbers, its classes and confidence, and what choosing on the test set flatters by."""

import dataclasses
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, Literal

import pandas as pd
import torch
from pydantic import Field
from torch import nn

from studylib.coding import restore
from studylib.data import scoring
from studylib.data.datasets import Data
from studylib.descent.objectives import cross_entropy, group_lasso, l1, nuclear_norm
from studylib.descent.steps import Descent
from studylib.disk import files
from studylib.networks import layers
from studylib.networks import spec as networks_spec
from studylib.results import claims, statistics
from studylib.settings import record
from studylib.techniques import controller, teacher
from studylib.techniques.teacher import Network
from studylib.training import loop
from studylib.training.checkpoint import weights_digest
from studylib.training.recipe import Recipe
from studylib.tree.rows import Task, every


@record
class Choosing:
    """The best epoch on the test set compared with the best epoch on validation images."""

    seeds: Annotated[int, Field(ge=1, le=1000, description="trainings, of the study's seed and those after it")] = 1


PENALTIES = {o.name: o for o in (l1, group_lasso, nuclear_norm)}  # small for weights that compress well


@record
class Penalty:
    """What a teacher descends beside cross-entropy by common descent (chapter 6); the paper has none."""

    name: Annotated[
        Literal["", "l1", "group_lasso", "nuclear_norm"], Field(description="of the second objective; empty: none")
    ] = ""
    aggregator: Annotated[
        str, Field(description="of the two gradients, each brought to norm 1: one of TorchJD's, see chapter 6")
    ] = "PCD"
    tau: Annotated[
        float, Field(ge=0, le=1, description="of PCD: how much of the penalty's own descent a step keeps at least")
    ] = 0.5

    def check(self) -> None:
        self.step(Recipe())

    def step(self, recipe: Recipe) -> Descent | None:
        """What is done with a batch, for :func:`studylib.training.loop.fit`; None where there is no penalty.

        Raises:
            ValueError: an unknown aggregator; labels that ``recipe`` smooths and a penalty's cross-entropy does not.
        """
        if not self.name:
            return None
        if recipe.label_smoothing:
            raise ValueError(f"label_smoothing={recipe.label_smoothing}: expected 0 beside a penalty, which has none")
        pair = [cross_entropy, PENALTIES[self.name]]
        options = {"tau": self.tau} if self.aggregator == "PCD" else {}
        return Descent(pair, self.aggregator, normalize=True, **options)


@record
class Guiding:
    """A controller that prunes the teacher while it trains (chapter 14); the paper has none."""

    budget: Annotated[
        float, Field(ge=0, lt=1, description="share of the multiply-adds that is left; 0: nothing is pruned")
    ] = 0.0
    every: Annotated[int, Field(ge=1, le=100_000, description="steps of the weights for one of the controller")] = 20
    strength: Annotated[float, Field(gt=0, le=1e9, description="λ until the choice is final; then a hundredfold")] = (
        10.0
    )

    def fits(self, network: Network, recipe: Recipe, penalty: Penalty) -> None:
        """Raises ValueError beside what a controller cannot guide: a published file, a penalty, smoothed labels."""
        if not self.budget:
            return
        if penalty.name:
            raise ValueError(f"budget={self.budget!r}: expected 0 beside penalty.name={penalty.name!r}")
        if recipe.label_smoothing:
            raise ValueError(f"budget={self.budget!r}: expected 0 beside recipe.label_smoothing, as it has its own")
        if network.name.endswith(restore.ENDING):
            raise ValueError(f"budget={self.budget!r}: expected 0 where a published file is gone on from")


def made(
    data: Data,
    network: Network,
    recipe: Recipe,
    penalty: Penalty,
    guiding: Guiding,
    *,
    seed: int,
    device: torch.device,
    scratch: Path | None = None,
    every_epoch: Path | None = None,
) -> nn.Module:
    """The teacher, trained by ``recipe``; where ``guiding`` has a budget, with fewer channels than ``network`` says.

    Raises:
        ValueError: as :func:`studylib.techniques.teacher.apply`, :meth:`Guiding.fits` and
            :func:`studylib.techniques.controller.apply`.
    """
    guiding.fits(network, recipe, penalty)
    if not guiding.budget:
        how = {"recipe": recipe, "seed": seed, "device": device, "step": penalty.step(recipe)}
        return teacher.apply(data, **dataclasses.asdict(network), **how, scratch=scratch, every_epoch=every_epoch)
    name, args = network.described(data.model_args)
    model = networks_spec.create(name, seed, data=data, **args).to(device)
    guidance = controller.Guidance(
        budget=guiding.budget,
        every=guiding.every,
        strength=guiding.strength,
        final_strength=100 * guiding.strength,
    )
    return controller.apply(model, data, recipe=recipe, seed=seed, guidance=guidance, scratch=scratch)


def numbers(model: nn.Module, data: Data) -> dict:
    """A row: numbers trained (weights, biases and those of batch norms), weight layers, classes of ``data``."""
    trained = sum(parameter.numel() for parameter in model.parameters())
    return {"trained": trained, "layers": len(layers.weight_layers(model)), "classes": len(data.classes)}


def reliability(logits: torch.Tensor, labels: torch.Tensor, bins: int = 15) -> list[dict]:
    """The diagram behind the calibration error (Guo et al. 2017, Figure 1): a row for each bin with images.

    Args:
        logits, labels: (n, classes) and (n,).

    Returns:
        Rows of confidence and accuracy (both the mean of the bin) and images.
    """
    confidence, hit, which = scoring.binned(logits, labels, bins)
    chosen = [which == b for b in range(bins)]
    return [
        {"confidence": confidence[c].mean().item(), "accuracy": hit[c].mean().item(), "images": int(c.sum())}
        for c in chosen
        if c.any()
    ]


def classes_and_calibration(logits: torch.Tensor, labels: torch.Tensor, classes: list[str]) -> pd.DataFrame:
    """Rows of two parts: of "classes" class and accuracy, of "reliability" confidence, accuracy and images of a bin.

    Args:
        logits, labels: (n, classes) and (n,).
        classes: their names.
    """
    by_class = pd.DataFrame({"class": classes, "accuracy": scoring.class_accuracy(logits, labels, len(classes))})
    bins = pd.DataFrame(reliability(logits, labels))
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
                return _with_peak(look_again(model, left, test_accuracy))
            new = networks_spec.create(spec["name"], s, data=data, **spec["args"]).to(device)
            checkpoint = folder / f"{s}.safetensors"
            rows = loop.fit(new, data, recipe, seed=s, watch=test_accuracy, checkpoint=checkpoint)
            checkpoint.unlink(missing_ok=True)
            return _with_peak(rows)

        yield {"seed": s}, make


def look_again(model: nn.Module, folder: Path, watch: Callable[[nn.Module], dict]) -> list[dict]:
    """The rows of ``model.history``, each with what ``watch`` says of the model after that epoch.

    As if :func:`studylib.training.loop.fit` had been given ``watch``, but nothing of the training can depend on it.

    Args:
        model: as :func:`studylib.techniques.teacher.apply` returned it.
        folder: the ``every_epoch`` of that call.

    Raises:
        ValueError: the training left no weights of its epochs.
        studylib.disk.files.CheckpointError: the file of an epoch is missing, damaged or another's.
    """
    past, rows = layers.duplicate(model), []
    for row in model.history:
        if "weights" not in row:
            raise ValueError(f"epoch {row['epoch']}: its weights were not left; {teacher.REMEDY}")
        path = teacher.epoch_file(folder, row["weights"])
        tensors = files.read_tensors(path)[0]
        if {name: t.shape for name, t in tensors.items()} == {name: t.shape for name, t in past.state_dict().items()}:
            past.load_state_dict(tensors)
        if weights_digest(past) != row["weights"]:
            raise files.CheckpointError(f"{path}: not the weights after epoch {row['epoch']}; {teacher.REMEDY}")
        rows.append(row | watch(past.eval()))
    return rows


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
