"""A sparse linear read-out of a trained network's features in its classifier's place, written and read back."""

import dataclasses
from typing import Annotated

import numpy as np
import pandas as pd
import torch
from pydantic import Field
from torch import nn

from studylib.coding import codec
from studylib.data import scoring
from studylib.data.datasets import Data, Split
from studylib.networks import layers, spec
from studylib.screening.data import Shard
from studylib.screening.path import path
from studylib.settings import record
from studylib.techniques.distill import Student
from studylib.training import loop
from studylib.training.recipe import Recipe


@record
class Readout:
    """How sparse the read-out may be, and what it is held against."""

    shares: Annotated[
        list[Annotated[float, Field(gt=0, lt=1)]],
        Field(min_length=1, description="λ that are tried, as shares of λ_max"),
    ] = dataclasses.field(default_factory=lambda: [0.1, 0.03, 0.01])
    tolerance: Annotated[float, Field(ge=0, le=1, description="validation accuracy that it may cost")] = 0.005
    narrower: Annotated[list[str], Field(description="networks, in words, that are trained from the start")] = (
        dataclasses.field(default_factory=list)
    )


def features(model: nn.Module, split: Split, data: Data) -> np.ndarray:
    """What the classifier, the last linear layer, is given: (images, features), float64."""
    found, (name, layer) = [], _classifier(model)
    del name
    hook = layer.register_forward_pre_hook(lambda _, given: found.append(given[0].detach().cpu().double()))
    try:
        scoring.predict(model, split, data)
    finally:
        hook.remove()
    return torch.cat(found).numpy()


def _classifier(model: nn.Module) -> tuple[str, nn.Linear]:
    return [(name, layer) for name, layer in layers.weight_layers(model).items() if isinstance(layer, nn.Linear)][-1]


def fitted(model: nn.Module, data: Data, asked: Readout) -> dict[float, nn.Module]:
    """Share of λ_max → the network with an L1-logistic read-out, one class against the others, of its features.

    Features are scaled to a deviation of one to be fitted, and the scale put into the weights.
    """
    X = features(model, data.train, data)
    mean, scale = X.mean(axis=0), np.maximum(X.std(axis=0), 1e-12)
    X = np.ascontiguousarray((X - mean) / scale)
    labels = data.train.labels.numpy()
    coef = {share: [] for share in asked.shares}
    for one in range(len(data.classes)):
        fit = Shard(X, np.where(labels == one, 1.0, -1.0), "logistic", intercept=True)
        largest = fit.largest()
        shares = sorted(asked.shares, reverse=True)
        for share, found in zip(shares, path(fit, largest * np.array(shares), solver="gram", tol=1e-6), strict=True):
            weight = found.coef / scale
            coef[share].append((weight, found.intercept - weight @ mean))
    made = {}
    for share, each in coef.items():
        new = layers.duplicate(model)
        _, layer = _classifier(new)
        with torch.no_grad():
            layer.weight.copy_(torch.tensor(np.stack([weight for weight, _ in each])))
            layer.bias.copy_(torch.tensor([bias for _, bias in each]))
        made[share] = spec.with_change(new.eval(), "readout", {"share": share})
    return made


def chosen(made: dict[float, nn.Module], model: nn.Module, data: Data, asked: Readout) -> nn.Module:
    """The sparsest whose validation accuracy is within the tolerance of the network's own; else the best."""
    least = scoring.accuracy(model, data.validation, data) - asked.tolerance
    found = {share: scoring.accuracy(each, data.validation, data) for share, each in made.items()}
    enough = [share for share in found if found[share] >= least]
    return made[max(enough) if enough else max(found, key=found.get)]


def rows(made: dict[float, nn.Module], model: nn.Module, data: Data, asked: Readout, recipe: Recipe, seed: int):
    """Bytes and test accuracy of the network, its read-outs, its classifier cut to as few weights, narrower ones.

    Returns:
        A row each: kind, share (NaN but of read-outs), nonzero (of the classifier), bytes, accuracy (0…1).
    """
    found = [_row("as trained", model, data)]
    for share, each in made.items():
        found.append(_row("read-out", each, data, share))
        found.append(_row("classifier pruned", _pruned(model, found[-1]["nonzero"]), data, share))
    for name in asked.narrower:
        found.append(_row(f"narrower: {name}", _trained(name, data, recipe, seed, model), data))
    return found


def _trained(name: str, data: Data, recipe: Recipe, seed: int, like: nn.Module) -> nn.Module:
    kind, args = Student(name=name).described(data.model_args)
    model = spec.create(kind, seed, data=data, **args).to(next(like.parameters()).device)
    loop.fit(model, data, recipe, seed=seed)
    return model.eval()


def _pruned(model: nn.Module, keep: int) -> nn.Module:
    new = layers.duplicate(model)
    _, layer = _classifier(new)
    with torch.no_grad():
        flat = layer.weight.abs().flatten()
        flat_order = torch.argsort(flat, descending=True, stable=True)
        layer.weight.view(-1)[flat_order[keep:]] = 0.0
    return new.eval()


def _row(kind: str, model: nn.Module, data: Data, share: float = float("nan")) -> dict:
    file = codec.encode(model)
    read = codec.decode(file).to(next(model.parameters()).device)
    nonzero = int((_classifier(read)[1].weight != 0).sum())
    accuracy = scoring.accuracy(read, data.test, data)
    return {"kind": kind, "share": share, "nonzero": nonzero, "bytes": len(file), "accuracy": accuracy}


def shown(table: pd.DataFrame) -> pd.DataFrame:
    """The rows of :func:`rows`, for a reader."""
    return pd.DataFrame(
        {
            "network": row.kind,
            "λ / λ_max": "" if pd.isna(row.share) else f"{row.share:g}",
            "weights of the classifier": row.nonzero,
            "file kB": f"{row.bytes / 1000:.1f}",
            "test accuracy %": f"{100 * row.accuracy:.1f}",
        }
        for row in table.itertuples()
    )


def told(table: pd.DataFrame, share: float) -> str:
    """The rows of :func:`rows` in a sentence: the read-out of that ``share``, which :func:`chosen` took."""
    of = table[table["share"] == share].set_index("kind")
    whole, sparse, cut = table.iloc[0], of.loc["read-out"], of.loc["classifier pruned"]
    return (
        f"The read-out that was chosen keeps {sparse['nonzero']:.0f} of {whole['nonzero']:.0f} weights and saves "
        f"{100 * (1 - sparse['bytes'] / whole['bytes']):.1f} % of the file, at {100 * sparse['accuracy']:.1f} % where "
        f"the teacher has {100 * whole['accuracy']:.1f} %. Its own classifier, cut to as few, has "
        f"{100 * cut['accuracy']:.1f} %.{_beside_narrower(table, sparse['bytes'])}"
    )


def _beside_narrower(table: pd.DataFrame, size: float) -> str:
    """The accuracy of narrower networks at ``size`` bytes, on a line over the logarithm of bytes up to the teacher."""
    line = table[table["kind"].str.startswith("narrower") | (table["kind"] == "as trained")].sort_values("bytes")
    if len(line) < 2 or size < line["bytes"].min():
        return ""
    accuracy = np.interp(np.log(size), np.log(line["bytes"]), line["accuracy"])
    return f" A narrower network of as many bytes has {100 * accuracy:.1f} %, between those trained."
