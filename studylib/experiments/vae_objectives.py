"""Chapter 11: likelihood and L1 descended together, against weighted sums of the two, each tuned as often."""

import dataclasses
from collections.abc import Iterator
from typing import Annotated

import numpy as np
import pandas as pd
import torch
from pydantic import Field
from torch import nn

from studylib.data import likelihood
from studylib.data.datasets import Data
from studylib.descent import objectives, steps
from studylib.experiments.vae import Autoencoder, Pixels
from studylib.networks import layers, saliency, spec
from studylib.results import claims, statistics
from studylib.settings import check_different, record
from studylib.techniques import prune
from studylib.training import loop
from studylib.training.recipe import Recipe
from studylib.tree.node import Node
from studylib.tree.rows import every

SUM, SUM_NORMALIZED, PCD = "weighted sum", "weighted sum, normalized", "PCD, normalized"
STAGES = ("one-shot", "fine-tuned")
Values = list[Annotated[float, Field(gt=0, le=1e6)]]


@record
class Objectives:
    """What is compared; the last two have equally many values, so that none is tuned more."""

    sparsities: Annotated[
        list[Annotated[float, Field(ge=0, lt=1)]], Field(min_length=1, description="shares of zeros compared, rising")
    ] = dataclasses.field(default_factory=lambda: [0.5, 0.8, 0.9])
    sums: Annotated[Values, Field(min_length=1, description="λ of the negative bound + λ ‖w‖₁")] = dataclasses.field(
        default_factory=lambda: [1e-5, 1e-4]
    )
    taus: Annotated[Values, Field(min_length=1, description="τ of PCD, and λ of normalized gradients")] = (
        dataclasses.field(default_factory=lambda: [0.1, 0.3])
    )
    epochs: Annotated[int, Field(ge=1, le=1_000_000, description="passes of fine-tuning at each sparsity")] = 1
    repetitions: Annotated[int, Field(ge=1, le=1000, description="seeds; values are chosen on the first")] = 1

    def check(self) -> None:
        check_different(self, "sums", "taus")
        prune.check_sparsities(self.sparsities)
        if len(self.sums) != len(self.taus):
            raise ValueError(f"sums={self.sums!r}: expected as many as taus={self.taus!r}")

    @property
    def ways(self) -> dict[str, list[float]]:
        """Way → the values of its one setting."""
        return {SUM: self.sums, SUM_NORMALIZED: self.taus, PCD: self.taus}


@objectives.objective("bits")
def bits(model, batch, outputs):
    """The mean negative bound in bits per dimension; outputs are that of each image."""
    return outputs.mean()


def step_of(way: str, value: float) -> steps.Descent:
    """What ``way`` does with a batch."""
    pair = [bits, objectives.l1]
    if way == PCD:
        return steps.Descent(pair, "PCD", normalize=True, tau=value)
    return steps.Descent(pair, "Constant", normalize=way == SUM_NORMALIZED, weights=torch.tensor([1.0, value]))


def compared(node: Node, network: Autoencoder, comparison: Objectives, recipe: Recipe) -> list[dict]:
    """A row a seed, way, value, sparsity and stage. Every value on the first seed, the best of each way on all.

    Best is the least mean of validation bits over sparsities and stages. Networks of a seed start alike, and see the
    same batches and noise. ``recipe``: of the training; fine-tuning is a fifth of its rate.

    Columns:
        val_bits, test_bits: bits per dimension.
        chosen: whether the value is the best of its way.
        test: test bits of each image, of chosen values; empty for others.
    """
    tried = list(every(_tasks(node, network, comparison, recipe, node.study.seed), *_kept(node, network, recipe)))
    best = best_values(pd.DataFrame(tried))
    rows = [row | {"chosen": best[row["way"]] == row["value"]} for row in tried]
    for seed in range(node.study.seed + 1, node.study.seed + comparison.repetitions):
        tasks = _tasks(node, network, comparison, recipe, seed, best)
        rows += [row | {"chosen": True} for row in every(tasks, *_kept(node, network, recipe))]
    return [row if row["chosen"] else row | {"test": []} for row in rows]


def _kept(node: Node, network: Autoencoder, recipe: Recipe) -> tuple:
    shape = [network.width, network.latent, network.draws]
    return node.out / "rows" / "objectives", [node.data.digest, shape, dataclasses.asdict(recipe)]


def _tasks(
    node: Node,
    network: Autoencoder,
    comparison: Objectives,
    recipe: Recipe,
    seed: int,
    best: dict[str, float] | None = None,
) -> Iterator[tuple]:
    point = Pixels(node.out / "objectives", node.study.dataset, seed, node.study.threads, node.study.device)
    point.draws = network.draws
    for way, values in comparison.ways.items():
        for value in values if best is None else [best[way]]:
            of = {"seed": seed, "way": way, "value": value}

            def make(way=way, value=value) -> list[dict]:
                how = comparison.sparsities, comparison.epochs
                model = spec.create("vae", seed, **point.data.model_args, width=network.width, latent=network.latent)
                return list(_run(model.to(point.device), point.data, step_of(way, value), recipe, seed, *how))

            yield of | {"epochs": comparison.epochs, "at": "-".join(map(str, comparison.sparsities))}, make


def _run(
    model: nn.Module, data: Data, step: steps.Descent, recipe: Recipe, seed: int, sparsities: list[float], epochs: int
) -> Iterator[dict]:
    """Trains ``model`` by ``step``, prunes it to each sparsity at once, and fine-tunes each by the bound alone."""
    loop.fit(model, data, recipe, seed=seed, step=step, keep="last")
    tuning = dataclasses.replace(recipe, epochs=epochs, lr=recipe.lr / 5, min_lr=min(recipe.min_lr, recipe.lr / 5))
    for number, sparsity in enumerate(sparsities):
        pruned = layers.duplicate(model)
        masks = saliency.at_sparsity(layers.prunable(pruned), layers.masks_of(pruned), sparsity, "global")
        saliency.zero(pruned, masks)
        for stage in STAGES:
            if stage == STAGES[1]:
                loop.fit(pruned, data, tuning, seed=seed + 1000 * (number + 1), masks=masks)
            test = likelihood.bounds(pruned, data.test, data).double()[:, 0].cpu()
            val = data.task.score_of(pruned, data.validation, data)
            row = {"sparsity": sparsity, "stage": stage, "val_bits": val, "test_bits": test.mean().item()}
            yield row | {"test": [round(each, 5) for each in test.tolist()]}


def best_values(tried: pd.DataFrame) -> dict[str, float]:
    """Way → the value of the least mean of validation bits."""
    means = tried.groupby(["way", "value"], sort=False)["val_bits"].mean().reset_index()
    return means.loc[means.groupby("way", sort=False)["val_bits"].idxmin()].set_index("way")["value"].to_dict()


def against_sums(rows: pd.DataFrame) -> pd.DataFrame:
    """PCD against each weighted sum: a row a rival and stage, of bits per dimension saved, mean over sparsities.

    Columns are rival, stage, saved, low, high (95 %, over seeds and images), seeds, and verdict: "raises" where PCD
    saves bits.
    """
    chosen, found = rows[rows["chosen"]], []
    for stage in STAGES:
        of = chosen[chosen["stage"] == stage]
        images = {way: _by_seed(group) for way, group in of.groupby("way", sort=False)}
        for rival in (SUM, SUM_NORMALIZED):
            saved = images[rival] - images[PCD]
            mean, low, high = statistics.over_both(saved)
            row = {"rival": rival, "stage": stage, "saved": mean, "low": low, "high": high, "seeds": len(saved)}
            found.append(row | {"verdict": statistics.judge((low, high))})
    return pd.DataFrame(found)


def _by_seed(rows: pd.DataFrame) -> np.ndarray:
    """(seeds, images): bits of each test image, mean over sparsities."""
    return np.array([np.mean(group["test"].tolist(), axis=0) for _, group in rows.groupby("seed", sort=True)])


def by_sparsity(rows: pd.DataFrame) -> pd.DataFrame:
    """Mean test bits of each way at its best value. A row is a way and stage, a column a sparsity."""
    chosen = rows[rows["chosen"]]
    found = chosen.pivot_table("test_bits", ["way", "value", "stage"], "sparsity", sort=False)
    return found.rename(columns=lambda share: f"{share:.0%} zeros").reset_index()


def said(against: pd.DataFrame) -> str:
    """The rows of :func:`against_sums` in words."""
    words = {statistics.HELP: "needs fewer bits", statistics.HURT: "needs more bits", statistics.UNKNOWN: "cannot tell"}
    return "; ".join(
        f"PCD over the {row.rival}, {row.stage}: {row.saved:+.4f} bits ({row.low:+.4f} to {row.high:+.4f}), "
        + words[row.verdict]
        for row in against.itertuples()
    )


def claims_of(nodes: pd.DataFrame, against: pd.DataFrame) -> dict[str, claims.Measured | list[claims.Measured]]:
    """What int8 saves, and what PCD saves of the dense network's bits, in percent."""
    by = nodes.set_index("node")
    whole = by["test_bits"]["teacher"]
    saved = 100 * (1 - by["bytes"]["teacher-int8"] / by["bytes"]["teacher"])
    found = {"vae_int8_saved": claims.Measured(saved)}
    for key, stage in zip(("vae_one_shot", "vae_tuned"), STAGES, strict=True):
        rows = against[against["stage"] == stage].itertuples()
        shares = [
            [100 * each / whole for each in (row.saved, row.low, row.high)] + [row.seeds, row.rival] for row in rows
        ]
        found[key] = [claims.Measured(value, low, high, seeds, rival) for value, low, high, seeds, rival in shares]
    return found
