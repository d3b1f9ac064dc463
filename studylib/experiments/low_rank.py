"""Chapter 4: accuracy against the rank, plain and weighted by Fisher information, as factorized and fine-tuned."""

from collections.abc import Iterator

import torch
from torch import nn

from studylib import lowrank, models, size, train
from studylib.data import Data
from studylib.tree.rows import Task

PLAIN, FISHER, TUNED = "SVD", "Fisher-weighted", ", fine-tuned"


def ranks(
    networks: dict[str, nn.Module], data: Data, deltas: list[int], *, recipe: train.Recipe, seeds: list[int]
) -> Iterator[Task]:
    """One task a network, Δ, way and training: linear layers factorized, then fine-tuned by ``recipe`` or not.

    Only those Δ are tried that leave the widest layer of a network a rank; the first of ``deltas`` always is.

    Rows: numbers (parameters of the factorized network), accuracy (0…1, on validation images) and right (a character
    an image: 1 where it is classified rightly).
    """
    for network, model in networks.items():
        linear = [layer for layer in models.weight_layers(model).values() if isinstance(layer, nn.Linear)]
        most = max(lowrank.rank_for(layer.in_features, layer.out_features, 0) or 1 for layer in linear)
        weights = {PLAIN: None, FISHER: lowrank.fisher(model, data)}
        for way, weight in weights.items():
            for delta in sorted({deltas[0], *(d for d in deltas if d < most)}):
                for seed in [None, *seeds]:

                    def make(model=model, weight=weight, delta=delta, seed=seed) -> list[dict]:
                        cut = lowrank.apply(model, delta=delta, importance=weight)
                        row = {"numbers": size.accountings(cut)["parameters"]}
                        if seed is not None:
                            cut = models.duplicate(cut).to(next(model.parameters()).device)
                            train.fit(cut, data, recipe, seed=seed)
                        return [row | _right(cut, data)]

                    first = seeds[0] if seed is None else seed
                    how = way if seed is None else way + TUNED
                    yield {"network": network, "how": how, "delta": delta, "seed": first}, make


def _right(model: nn.Module, data: Data) -> dict:
    hits = train.predict(model, data.validation, data).argmax(1).cpu() == data.validation.labels.cpu()
    return {"accuracy": hits.double().mean().item(), "right": "".join("1" if hit else "0" for hit in hits.tolist())}


def hits(row: dict) -> torch.Tensor:
    """``right`` of a row as numbers (images,): 1 where an image is classified rightly."""
    return torch.tensor([float(c) for c in row["right"]], dtype=torch.float64)
