"""Chapter 8: networks made as small as they can be, file by file, and what is said of the files."""

import shutil
from dataclasses import asdict
from pathlib import Path

import pandas as pd
from torch import nn

from studylib.data import scoring
from studylib.disk import files, models
from studylib.experiments import frontier
from studylib.networks import spec
from studylib.results import claims, statistics
from studylib.techniques import distill
from studylib.training.checkpoint import weights_digest
from studylib.training.recipe import Recipe
from studylib.tree.names import CODED, LOGITS, METRICS
from studylib.tree.node import Node
from studylib.tree.rows import once

FILES = (models.SPEC, models.TENSORS, CODED, LOGITS, METRICS)  # of a point's folder
SCORES = ("val_accuracy", "test_accuracy", "test_nll")


def starts(
    node: Node,
    folders: dict[str, str],
    grown: frontier.Grown,
    supervision: frontier.Supervision,
    recipe: Recipe,
) -> tuple[dict[str, nn.Module], distill.Distillation]:
    """The networks to make small, name → model, and the loss that they all share.

    Args:
        folders: name → folder of a network of the tree, the parent first; those whose folder is "" are left out. The
            teacher's answers to views are left in the parent's.
        grown: networks to be taught here, by ``recipe``; what they leave in ``node.scratch`` is taken up again.
    """
    found = {name: node.load(folder) for name, folder in folders.items() if folder}
    parent = next(iter(found.values()))
    loss = supervision.loss(parent, node.data, files.resolve(next(iter(folders.values()))) / "views")
    for text in grown.networks:
        name, args = spec.described(text, parent.spec, node.data.model_args)
        how = {"seed": node.study.seed, "device": node.device, "scratch": node.scratch / text}
        found[text] = frontier.grown(name, args, node.data, recipe, loss, **how)
    return found, loss


def networks(models_by_name: dict[str, nn.Module], node: Node) -> list[dict]:
    """Rows of network, numbers (parameters) and val_accuracy (0…1) of each before it is made small."""
    return [
        {
            "network": name,
            "numbers": sum(parameter.numel() for parameter in model.parameters()),
            "val_accuracy": scoring.accuracy(model, node.data.validation, node.data),
        }
        for name, model in models_by_name.items()
    ]


def points(
    node: Node,
    models_by_name: dict[str, nn.Module],
    loss: distill.Distillation,
    shrinking: frontier.Shrinking,
    recipe: Recipe,
) -> list[dict]:
    """Every network at every sparsity in every number of bits, each a :class:`studylib.experiments.frontier.Point`
    below points/.

    A complete point is not made again unless its network, data, loss or settings change. What unfinished trainings
    have left in ``node.scratch`` is deleted when all points are there.

    Columns:
        name, network, bits: of the point.
        sparsity: asked for.
        zeros: share of the weights.
        val_accuracy_pruned: 0…1, pruned and retrained, in floats.
        bytes, val_accuracy, test_accuracy, test_nll: of the file.
    """
    rows = []
    for network, model in models_by_name.items():
        made_of = [asdict(shrinking), asdict(recipe), loss.identity, node.data.identity, weights_digest(model)]
        scratch = node.scratch / network
        how = {"seed": node.study.seed, "scratch": scratch}
        for sparsity, bits, make in frontier.points(model, node.data, shrinking, recipe, loss, **how):
            name = frontier.name_of(network, sparsity, bits)
            of = {"name": name, "network": network, "sparsity": sparsity, "bits": bits}
            kept, folder = node.out / "rows" / "points" / f"{name}.json", node.out / "points" / name
            if not all((folder / file).exists() for file in FILES):
                kept.unlink(missing_ok=True)

            def row(make=make, kept=kept, folder=folder) -> dict:
                kept.unlink(missing_ok=True)  # of what is now in the folder
                return _finished(make(), folder, node)

            rows.append({**of, **once(kept, [*made_of, how["seed"], of], row)})
    shutil.rmtree(node.scratch, ignore_errors=True)
    return rows


def _finished(small: nn.Module, folder: Path, node: Node) -> dict:
    study = node.study
    metrics = frontier.Point(folder, study.dataset, study.seed, study.threads, study.device).finish(small)
    pruned = max(row["val_accuracy"] for row in small.history if row["training"] == "pruning")
    sizes = {"bytes": metrics["bytes_file"], "val_accuracy_pruned": pruned, "zeros": metrics["sparsity"]}
    return sizes | {key: metrics[key] for key in SCORES}


def on_front(points: pd.DataFrame) -> pd.DataFrame:
    """The rows of :func:`points` on the Pareto front of bytes and test accuracy, smallest first."""
    return points[statistics.pareto(points, "bytes", "test_accuracy")].sort_values("bytes")


def listed(points: pd.DataFrame) -> pd.DataFrame:
    """A table for people: name, bytes, test accuracy in %, test NLL in nats, whether on the Pareto front."""
    front = points["name"].isin(on_front(points)["name"]).map({True: "yes", False: ""})
    shown = points[["name", "bytes"]].assign(percent=100 * points["test_accuracy"], nll=points["test_nll"], front=front)
    return shown.rename(columns={"percent": "test accuracy %", "nll": "test NLL"})


def costs(points: pd.DataFrame, networks: pd.DataFrame) -> pd.DataFrame:
    """Validation accuracy in % of each point: name, whole, pruned, rounded, and what both steps cost.

    Args:
        points, networks: rows of the functions of that name.
    """
    whole = 100 * points["network"].map(networks.set_index("network")["val_accuracy"])
    pruned, rounded = 100 * points["val_accuracy_pruned"], 100 * points["val_accuracy"]
    found = points[["name"]].assign(whole=whole, pruned=pruned, rounded=rounded)
    return found.assign(**{"pruning costs": whole - pruned, "rounding costs": pruned - rounded})


def sparsest(points: pd.DataFrame, networks: pd.DataFrame, most: float = 0.5) -> str:
    """Of each network the most zeros that pruning brought for at most ``most`` points of accuracy, in words."""
    near = points[costs(points, networks)["pruning costs"] <= most]
    said = [f"{name} {100 * rows['sparsity'].max():g} % zeros" for name, rows in near.groupby("network", sort=False)]
    return ", ".join(said) or "none"


def smallest(points: pd.DataFrame, within: float = 0.01) -> str:
    """Of each network the smallest file within ``within`` of the best validation accuracy of all, in words."""
    enough, said = points["val_accuracy"] >= points["val_accuracy"].max() - within, []
    for network, rows in points.groupby("network", sort=False):
        held = rows[enough[rows.index]]
        said.append(f"{network}: {held.loc[held['bytes'].idxmin(), 'name'] if len(held) else 'none'}")
    return ", ".join(said)


def claims_of(points: pd.DataFrame) -> dict[str, claims.Measured]:
    """The smallest file that holds the paper's accuracy on validation images; infinite where none does."""
    asked = claims.CLAIMS["best_accuracy"].value - 1e-9
    enough = points[100 * points["val_accuracy"] >= asked]["bytes"]
    return {"small_bytes": claims.Measured(float(enough.min()) if len(enough) else float("inf"))}
