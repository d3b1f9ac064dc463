"""Chapter 3: five ways to prune one network, at the same sparsities and with the same training after each."""

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import pandas as pd
from pydantic import Field
from torch import nn

from studylib.data import scoring
from studylib.data.datasets import Data
from studylib.disk import files
from studylib.networks import layers
from studylib.networks import spec as networks_spec
from studylib.results import claims, statistics
from studylib.settings import record
from studylib.techniques import prune
from studylib.training.checkpoint import weights_digest
from studylib.training.recipe import Recipe
from studylib.tree.names import LOGITS
from studylib.tree.rows import Task, every


@record
class FiveWays:
    """The comparison of ways to prune: all at the same sparsities, with the same training after each."""

    seeds: Annotated[int, Field(ge=1, le=1000, description="repetitions, of the study's seed and those after it")] = 1
    epochs: Annotated[int, Field(ge=1, le=1_000_000, description="trained at each sparsity, by every way")] = 3
    sparsities: Annotated[
        list[Annotated[float, Field(ge=0, lt=1)]], Field(min_length=1, description="shares of zeros compared, rising")
    ] = dataclasses.field(default_factory=lambda: [0.5, 0.8, 0.95, 0.995])

    def check(self) -> None:
        prune.check_sparsities(self.sparsities)


def by_round(history: list[dict]) -> pd.DataFrame:
    """A row a round of pruning: sparsity, validation accuracy before and after recovery (0…1)."""
    rounds = pd.DataFrame(history).groupby("round")
    how = {"sparsity": ("sparsity", "first"), "before": ("val_accuracy", "first"), "after": ("val_accuracy", "max")}
    return rounds.agg(**how).reset_index()


def weights_left(model: nn.Module) -> list[dict]:
    """Rows of layer and share (0…1) of its weights that live."""
    return [
        {"layer": name, "share": (layer.weight != 0).float().mean().item()}
        for name, layer in layers.weight_layers(model).items()
    ]


def five_ways(
    parent: nn.Module, data: Data, settings: FiveWays, recipe: Recipe, seed: int, folder: Path
) -> pd.DataFrame:
    """The rows of :func:`ways` for all seeds, kept in ``folder`` as they are made."""
    recipe = dataclasses.replace(recipe, epochs=settings.epochs)
    seeds = list(range(seed, seed + settings.seeds))
    key = [settings.sparsities, dataclasses.asdict(recipe), data.identity, weights_digest(parent)]
    tasks = ways(parent, data, settings.sparsities, recipe=recipe, seeds=seeds, scratch=folder)
    return pd.DataFrame(every(tasks, folder, key))


def densities(rows: pd.DataFrame, seed: int) -> list[dict]:
    """Of the rows of :func:`five_ways`, those of "pretrained" and ``seed``: layer, sparsity, density (0…1)."""
    return [
        {"layer": layer, "sparsity": row.sparsity, "density": share}
        for row in rows[(rows["method"] == "pretrained") & (rows["seed"] == seed)].itertuples()
        for layer, share in row.density.items()
    ]


def hurt(rows: pd.DataFrame, parent: nn.Module, data: Data, seed: int) -> list[dict]:
    """Of the same rows: class, sparsity, points of test accuracy that the class has more than in ``parent``."""
    whole = scoring.class_accuracy(scoring.predict(parent, data.test, data), data.test.labels, len(data.classes))
    return [
        {"class": name, "sparsity": row.sparsity, "points": 100 * (after - before)}
        for row in rows[(rows["method"] == "pretrained") & (rows["seed"] == seed)].itertuples()
        for name, before, after in zip(data.classes, whole, row.right, strict=True)
    ]


def ways(
    parent: nn.Module, data: Data, sparsities: list[float], *, recipe: Recipe, seeds: list[int], scratch: Path
) -> Iterator[Task]:
    """One task per seed and way (:data:`studylib.techniques.prune.METHODS`): ``parent`` at each of ``sparsities``.

    The initial weights of "initial" are those that ``parent`` had before its training, by the first of ``seeds``. The
    masks that "random" scatters are those of "pretrained" of the same seed, kept in ``scratch``.

    Columns:
        sparsity: of all weights.
        before, accuracy: 0…1, on validation images, right after pruning and of the best epoch.
        dead_layers: names, with commas.
        density: layer → share of weights that live.
        right: share of test images classified rightly, by class; only of the first seed's "pretrained", else empty.
    """
    device, spec = next(parent.parameters()).device, parent.spec
    initial = networks_spec.create(spec["name"], seeds[0], data=data, **spec["args"]).to(device)
    for seed in seeds:
        masks_file = scratch / f"masks-{seed}.safetensors"
        for method in prune.METHODS:

            def make(seed=seed, method=method, masks_file=masks_file) -> list[dict]:
                like = _masks_in(masks_file, len(sparsities), parent) if method == "random" else None
                how = {"method": method, "recipe": recipe, "seed": seed, "initial": initial, "like": like}
                found = prune.trajectory(parent, data, sparsities, **how, scratch=scratch / f"trajectory-{seed}")
                if method == "pretrained":
                    masks = {
                        f"{k}/{name}": m for k, each in enumerate(found) for name, m in layers.masks_of(each).items()
                    }
                    files.write_tensors(masks_file, masks)
                shown = method == "pretrained" and seed == seeds[0]
                return [_row(m, s, data, shown) for s, m in zip(sparsities, found, strict=True)]

            yield {"seed": seed, "method": method}, make


def _masks_in(file: Path, count: int, parent: nn.Module) -> list[layers.Masks]:
    """The masks of each sparsity, in the order of the layers of ``parent``, in which positions are drawn."""
    tensors = files.read_tensors(file)[0]
    names = {name: weight.device for name, weight in layers.prunable(parent).items()}
    return [{name: tensors[f"{k}/{name}"].to(device) for name, device in names.items()} for k in range(count)]


def _row(model: nn.Module, sparsity: float, data: Data, shown: bool) -> dict:
    density = {
        name.removesuffix(".weight"): mask.double().mean().item() for name, mask in layers.masks_of(model).items()
    }
    right = []
    if shown:
        predicted = scoring.predict(model, data.test, data)
        right = list(scoring.class_accuracy(predicted, data.test.labels, len(data.classes)))
    return {
        "sparsity": sparsity,
        "before": model.accuracy_before,
        "accuracy": max(row["val_accuracy"] for row in model.history),
        "dead_layers": ", ".join(name for name, share in density.items() if share == 0),
        "density": density,
        "right": right,
    }


def widest(rows: pd.DataFrame) -> tuple[str, float]:
    """The ways in order at the sparsity where their mean accuracies differ most, in words, and that sparsity."""
    mean = rows.groupby(["sparsity", "method"])["accuracy"].mean().unstack()
    wide = (mean.max(axis=1) - mean.min(axis=1)).idxmax()
    order = mean.loc[wide].sort_values(ascending=False)
    return ", ".join(f"{method} {accuracy:.1%}" for method, accuracy in order.items()), wide


def last_within(rows: pd.DataFrame, lost: float) -> str:
    """Of each way the last sparsity at which its mean accuracy is within ``lost`` of its own first, in words."""
    mean = rows.groupby(["sparsity", "method"])["accuracy"].mean().unstack()
    last = {method: max(s for s in mean.index if mean[method][s] >= mean[method].iloc[0] - lost) for method in mean}
    return ", ".join(f"{method} {sparsity:.1%}" for method, sparsity in last.items())


def claims_of(metrics: dict, parent: str, out: Path) -> dict[str, claims.Measured]:
    """What the pruned network in ``out`` says of the paper's claims; its cost is image by image, less ``parent``."""
    found = [files.read_tensors(files.resolve(folder) / LOGITS)[0] for folder in (parent, out)]
    before, after = ((each["logits"].argmax(1) == each["labels"]).double() for each in found)
    lost = statistics.over_both((before - after).numpy())
    return {
        "imp_saved": claims.Measured(100 * (1 - metrics["bytes_nonzero"] / metrics["bytes_dense"])),
        "imp_cost": claims.Measured(*(100 * number for number in lost)),
    }


def first_to_lose(hurt: pd.DataFrame, points: float) -> str:
    """The first class to lose so many ``points`` of accuracy, in words; of several at one sparsity, that losing most.

    Args:
        hurt: rows of class, sparsity (0…1), points (below zero: lost).
    """
    lost = hurt[hurt["points"] <= -points].sort_values(["sparsity", "points"]).to_dict("records")
    if not lost:
        return f"No class loses {points:g} points."
    return f"The first class to lose {points:g} points is {lost[0]['class']}, at {lost[0]['sparsity']:.1%} zeros."
