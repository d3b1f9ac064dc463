"""What factorizing a single layer saves of a network's parameters, by singular value decomposition, at no loss."""

import dataclasses
import functools
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import torch
from torch import nn

from studylib.data import datasets, scoring
from studylib.data.datasets import Data
from studylib.experiments import survey
from studylib.networks import factors, layers, ranks
from studylib.results import claims, statistics
from studylib.techniques import sketch
from studylib.training.recipe import Recipe
from studylib.tree.rows import Task, every

LOST = 0.01  # of accuracy on validation images, which a factorized layer may cost
ENERGIES = (0.5, 0.6, 0.7, 0.8, 0.9, 0.95)  # shares of Σ σ² that are tried, the least first


def of_network(model: nn.Module, data: Data) -> list[dict]:
    """A row per layer that factors could make smaller: what it alone saves, factorized and not trained on.

    Its rank keeps the least of :data:`ENERGIES` at which validation accuracy falls by at most :data:`LOST`.

    Returns:
        layer; share, of the network's parameters in it. Rank and saved, of these parameters; 0 where no rank does.
        Also before and accuracy (0…1, test images).
    """
    total = sum(parameter.numel() for parameter in model.parameters())
    least = scoring.accuracy(model, data.validation, data) - LOST
    before = scoring.accuracy(model, data.test, data)
    rows = []
    for name, candidate in ranks.candidates(model, "matrix").items():
        row = {"layer": name, "share": candidate.dense / total, "rank": 0, "saved": 0.0, "before": before}
        row["accuracy"] = before
        for energy in ENERGIES:
            chosen = ranks.choose(model, {name: candidate}, energy=energy).get(name)
            if chosen is None:
                break
            new = layers.duplicate(model)
            how = {"method": "svd", "generator": torch.Generator()}  # of which nothing is drawn
            factors.put(new, name, sketch.factorize(model.get_submodule(name), chosen[0], **how))
            if scoring.accuracy(new, data.validation, data) >= least:
                row["rank"], row["saved"] = chosen[0], (candidate.dense - candidate.parameters(chosen)) / total
                row["accuracy"] = scoring.accuracy(new, data.test, data)
                break
        rows.append(row)
    return rows


def measured(
    dataset: str, seed: int, recipe: Recipe, asked: survey.Survey, device: torch.device, folder: Path | None
) -> pd.DataFrame:
    """The rows of :func:`of_network` for each seed and network of ``asked``, trained by ``recipe``; kept in ``folder``.

    Returns:
        seed, network, and what :func:`of_network` gives.
    """
    key = [dataclasses.asdict(recipe), datasets.load(dataset, seed).identity]
    return pd.DataFrame(every(_tasks(dataset, seed, recipe, asked, device), folder, key))


def _tasks(dataset, seed, recipe, asked, device) -> Iterator[Task]:
    for each in range(seed, seed + asked.repetitions):
        for name in asked.networks:

            def make(name: str, seed: int) -> list[dict]:
                data = datasets.load(dataset, seed)
                return of_network(survey.trained(name, data, recipe, seed, device), data)

            yield {"seed": each, "network": name}, functools.partial(make, name, each)


def most(rows: pd.DataFrame) -> pd.DataFrame:
    """Of the rows of :func:`measured` the layer of each seed and network that saves most."""
    return rows.loc[rows.groupby(["seed", "network"], sort=False)["saved"].idxmax()].reset_index(drop=True)


def shown(rows: pd.DataFrame) -> pd.DataFrame:
    """A row per network, means over the seeds: the layer's share and what it saves, in percent; points of accuracy."""
    found = []
    for network, part in most(rows).groupby("network", sort=False):
        low, high = statistics.t_interval(100 * part["saved"])
        largest = rows[rows["network"] == network].groupby("seed")["share"].max()
        found.append(
            {
                "network": network,
                "largest layer has, % of all": f"{100 * largest.mean():.1f}",
                "one layer saves at most, %": f"{100 * part['saved'].mean():.1f}"
                + ("" if pd.isna(low) else f" ({low:.1f} to {high:.1f})"),
                "most often": part["layer"].mode().iloc[0],
                "and costs, points": f"{100 * (part['before'] - part['accuracy']).mean():.2f}",
            }
        )
    return pd.DataFrame(found)


def claimed(rows: pd.DataFrame) -> claims.Measured:
    """What one layer saves (%) in that network where it saves most: mean and Student's interval over the seeds."""
    saved = 100 * most(rows).groupby("seed")["saved"].max()
    return claims.Measured(saved.mean(), *statistics.t_interval(saved), n=len(saved))


def said(known: pd.DataFrame, rows: pd.DataFrame) -> str:
    """What one layer saves of each network, and how many models of torchvision have a layer as large.

    Args:
        known: of :func:`studylib.experiments.zoo.of_all`.
        rows: of :func:`measured`.
    """
    saved = 100 * most(rows).groupby("network", sort=False)["saved"].mean()
    here = ", ".join(f"{mean:.1f} % of {network}" for network, mean in saved.items())
    claim = claims.CLAIMS["one_layer"]
    least = claim.value - claim.tolerance
    enough = int((100 * known["largest"] > least).sum())
    return (
        f"One layer saves at most {here}. Of {len(known)} models of torchvision {enough} have a layer with more than "
        f"{least:g} % of all parameters. "
        "In no other can one factorized layer save so much."
    )
