"""Chapter 4: accuracy against the rank, plain and weighted by Fisher information, as factorized and fine-tuned."""

import dataclasses
import functools
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from pydantic import Field
from torch import nn

from studylib.coding import size
from studylib.data import scoring
from studylib.data.datasets import Data
from studylib.networks import layers
from studylib.results import claims, statistics
from studylib.settings import record
from studylib.techniques import svd
from studylib.training import loop
from studylib.training.checkpoint import weights_digest
from studylib.training.recipe import Recipe
from studylib.tree.rows import Task, every

PLAIN, FISHER, TUNED = "SVD", "Fisher-weighted", ", fine-tuned"
WHOLE, PRUNED, FACTORIZED = "as it was", "pruned", ", factorized"  # forms of a layer (:func:`interplay`)


@record
class Ranks:
    """The comparison of ranks: every linear layer at once, at each Δ that leaves the widest of them a rank."""

    seeds: Annotated[
        int, Field(ge=1, le=1000, description="repetitions of the fine-tuning, of the study's seed and those after it")
    ] = 2
    deltas: Annotated[
        list[Annotated[int, Field(ge=0, le=4096)]], Field(description="Δ compared, beside that of the stage")
    ] = dataclasses.field(default_factory=lambda: [0, 1, 4])


@record
class Tuning(Recipe):
    """The recipe of the fine-tuning, which the paper leaves for later (section 6): brief, in small steps."""

    epochs: Annotated[int, Field(ge=1, le=1_000_000, description="passes over the training images, at least one")] = 2
    batch_size: Annotated[int, Field(ge=2, le=65_536, description="images a step")] = 32


def fisher(model: nn.Module, data: Data, batch_size: int = 500) -> dict[str, torch.Tensor]:
    """Linear layer → (in,) the Fisher information of each input's weights (Hsu et al. 2022, equation 4).

    It is the squared gradient of the label's log-likelihood, summed over the outputs. The mean is over the training
    images as they are. An image's gradient is the outer product of the output's and the input: no pass an image is
    needed. A block of text has the sum of these products over its places.

    Raises:
        ValueError: a number of ``model`` is not finite.
    """
    layers.check_finite(model.state_dict())
    model = layers.duplicate(model).eval()
    linear = {name: m for name, m in layers.weight_layers(model).items() if isinstance(m, nn.Linear)}
    found = {name: torch.zeros(m.in_features, device=m.weight.device) for name, m in linear.items()}

    def watch(name):
        def forward(_, inputs, output):
            read = inputs[0].detach()

            def add(gradient):
                if read.dim() == 2:
                    found[name] += (gradient**2).sum(1) @ read**2
                else:
                    found[name] += torch.einsum("nto,nti->noi", gradient, read).square().sum((0, 1))

            output.register_hook(add)

        return forward

    for name, layer in linear.items():
        layer.register_forward_hook(watch(name))
    data = data.to(next(model.parameters()).device)
    for images, labels in zip(data.train.images.split(batch_size), data.train.labels.split(batch_size), strict=True):
        logits = model(data.normalize(images)).flatten(0, -2)
        F.cross_entropy(logits, labels.flatten(), reduction="sum").backward()
    return {name: total / len(data.train) for name, total in found.items()}


def factorized_layers(parent: nn.Module, model: nn.Module) -> list[dict]:
    """A row for each layer of ``parent`` that is factorized in ``model``, the result of
    :func:`studylib.techniques.svd.apply`.

    Columns:
        layer, inputs, outputs, rank: of the factorized layer.
        before, after: number of weights.
        error: Frobenius norm of the difference of the matrices.
        dropped: norm of the singular values that the rank leaves out.
    """
    rows = []
    for name, rank in model.spec["changes"][-1]["structure"]["ranks"].items():
        weight, new = parent.get_submodule(name).weight.detach().double(), model.get_submodule(name)
        outputs, inputs = weight.shape
        product = new.second.weight.detach().double() @ new.first.weight.detach().double()
        row = {"layer": name, "inputs": inputs, "outputs": outputs, "rank": rank}
        row |= {"before": inputs * outputs, "after": rank * (inputs + outputs)}
        row |= {"error": (weight - product).norm().item(), "dropped": torch.linalg.svdvals(weight)[rank:].norm().item()}
        rows.append(row)
    return rows


def spectra(networks: dict[str, nn.Module]) -> list[dict]:
    """A row per singular value of each linear layer.

    Columns:
        layer: network and name.
        index: 1 is the largest.
        share: 0…1, of the layer's Frobenius norm.
        even: the break-even rank, rounded down.
    """
    rows = []
    for network, model in networks.items():
        for name, layer in _linear(model).items():
            values = torch.linalg.svdvals(layer.weight.detach().double())
            of = {"layer": f"{network} {name}", "even": layer.weight.numel() // sum(layer.weight.shape)}
            shares = (values / values.norm()).tolist()
            rows += [{**of, "index": i + 1, "share": share} for i, share in enumerate(shares)]
    return rows


def beyond_even(rows: pd.DataFrame) -> pd.Series:
    """Layer → share (0…1) of the squared norm that lies beyond its break-even rank; ``rows`` of :func:`spectra`."""
    squares = rows.assign(square=rows["share"] ** 2 * (rows["index"] > rows["even"]))
    return squares.groupby("layer", sort=False)["square"].sum()


def unfactorized(networks: dict[str, nn.Module], data: Data) -> list[dict]:
    """A row per network before it is factorized: network, numbers (parameters), accuracy (0…1, validation images)."""
    return [
        {
            "network": network,
            "numbers": size.accountings(model)["parameters"],
            "accuracy": scoring.accuracy(model, data.validation, data),
        }
        for network, model in networks.items()
    ]


def swept(
    networks: dict[str, nn.Module],
    data: Data,
    delta: int,
    settings: Ranks,
    recipe: Recipe,
    seed: int,
    folder: Path | None = None,
) -> pd.DataFrame:
    """The rows of :func:`ranks` for ``delta``, the stage's, and the others, kept in ``folder`` as they are made."""
    seeds = list(range(seed, seed + settings.seeds))
    key = [dataclasses.asdict(recipe), data.identity, [weights_digest(model) for model in networks.values()]]
    tasks = ranks(networks, data, [delta, *settings.deltas], recipe=recipe, seeds=seeds)
    return pd.DataFrame(every(tasks, folder, key))


def ranks(
    networks: dict[str, nn.Module], data: Data, deltas: list[int], *, recipe: Recipe, seeds: list[int]
) -> Iterator[Task]:
    """One task per network, Δ, way and training: linear layers factorized, then fine-tuned by ``recipe`` or not.

    A Δ is tried only if it leaves the widest layer of a network a rank. The first of ``deltas`` always is.

    Columns:
        numbers: parameters of the factorized network.
        accuracy: 0…1, on validation images.
        right: one character per image, 1 where it is classified rightly.
    """
    for network, model in networks.items():
        sides = [(layer.in_features, layer.out_features) for layer in _linear(model).values()]
        most = max(svd.rank_for(*each, 0) or 1 for each in sides)
        importance = functools.cache(functools.partial(fisher, model, data))  # only where a row is made of it
        for way in (PLAIN, FISHER):
            for delta in sorted({deltas[0], *(d for d in deltas if d < most)}):
                for seed in [None, *seeds]:

                    def make(model=model, way=way, delta=delta, seed=seed, importance=importance) -> list[dict]:
                        weight = importance() if way == FISHER else None
                        cut = svd.apply(model, delta=delta, importance=weight)
                        row = {"numbers": size.accountings(cut)["parameters"]}
                        if seed is not None:
                            cut = layers.duplicate(cut).to(next(model.parameters()).device)
                            loop.fit(cut, data, recipe, seed=seed)
                        return [row | _right(cut, data)]

                    first = seeds[0] if seed is None else seed
                    how = way if seed is None else way + TUNED
                    yield {"network": network, "how": how, "delta": delta, "seed": first}, make


def gains(rows: pd.DataFrame, delta: int) -> pd.DataFrame:
    """What weighting and fine-tuning are worth in each network; ``rows`` of :func:`swept`, means over seeds.

    Returns:
        network: its name.
        accuracy: 0…1, of plain SVD at ``delta``.
        fisher: points that Fisher weights add to plain SVD, on average over Δ.
        tuned: points that fine-tuning adds to plain SVD at ``delta``.
    """
    mean = rows.groupby(["network", "how", "delta"])["accuracy"].mean().unstack("how")
    at, over = mean.xs(delta, level="delta"), mean.groupby("network").mean()
    found = {"accuracy": at[PLAIN], "fisher": 100 * (over[FISHER] - over[PLAIN])}
    found["tuned"] = 100 * (at[PLAIN + TUNED] - at[PLAIN])
    return pd.DataFrame(found).loc[rows["network"].unique()].reset_index(names="network")


def interplay(student: nn.Module, pruned: nn.Module, delta: int) -> list[dict]:
    """Bytes of each linear layer of the network ``student`` and of the same one pruned, as it is and factorized.

    A layer where no rank saves anything has no factorized form.

    Columns:
        layer: its name.
        form: :data:`WHOLE` or :data:`PRUNED`, with and without :data:`FACTORIZED`.
        bytes: in the cheapest of dense, bitmap and CSR (:func:`sparse_bytes`).
    """
    rows = []
    for form, model in {WHOLE: student, PRUNED: pruned}.items():
        for name, layer in _linear(model).items():
            rows.append({"layer": name, "form": form, "bytes": sparse_bytes(layer.weight)})
            rank = svd.rank_for(layer.in_features, layer.out_features, delta)
            if rank is not None:
                factors = svd.factorize(layer, rank)
                paid = sum(sparse_bytes(f.weight) for f in (factors.first, factors.second))
                rows.append({"layer": name, "form": form + FACTORIZED, "bytes": paid})
    return rows


def sparse_bytes(tensor: torch.Tensor) -> int:
    """Bytes of ``tensor``, its values at their stored width, in the cheapest of dense, bitmap and CSR."""
    bits = 8 * tensor.element_size()
    return min(tensor.numel() * bits // 8, size.csr_bytes(tensor, bits), size.bitmap_bytes(tensor, bits))


def bytes_paid(rows: pd.DataFrame) -> str:
    """What ``rows`` of :func:`interplay` say of the layers that can be factorized, in a sentence."""
    if not len(rows):
        return "Not measured: there is no pruned student."
    can = rows[rows["form"].str.endswith(FACTORIZED)]["layer"]
    total = rows[rows["layer"].isin(can)].groupby("form")["bytes"].sum()
    if not len(total):
        return "No layer of the student can be factorized with a gain."
    both, times = total[PRUNED + FACTORIZED], total[PRUNED + FACTORIZED] / total[PRUNED]
    return (
        f"The student's factorizable layers take {total[WHOLE]:,} bytes, {total[WHOLE + FACTORIZED]:,} factorized, "
        f"{total[PRUNED]:,} pruned, and {both:,} pruned then factorized: {times:.1f} times the pruned ones."
    )


def claims_of(
    rows: pd.DataFrame, networks: dict[str, nn.Module], data: Data, delta: int
) -> dict[str, claims.Measured | None]:
    """What the last of ``networks`` says of the paper's claims, image by image; ``rows`` of :func:`swept`.

    ``svd_delta`` is between the smallest and the largest Δ; None where there is only one. The others are of the paper's
    Δ, and None where ``delta`` is another.
    """
    network, subject = list(networks.items())[-1]
    own = rows[rows["network"] == network]

    def found(how: str, d: int) -> np.ndarray:
        """(trainings, images): 1 where an image is classified rightly."""
        return np.stack([hits(row) for row in own[(own["how"] == how) & (own["delta"] == d)].to_dict("records")])

    least, most, of_paper = own["delta"].min(), own["delta"].max(), delta == svd.Factorization().delta
    plain, whole = found(PLAIN, delta), hits(_right(subject, data)).numpy()
    differences = {
        "svd_cost": whole - plain if of_paper else None,
        "svd_delta": found(PLAIN, least) - found(PLAIN, most) if least < most else None,
        "svd_tuned": found(PLAIN + TUNED, delta) - plain if of_paper else None,
    }
    return {
        key: claims.Measured(*(100 * number for number in statistics.over_both(d)), n=len(d)) if d is not None else None
        for key, d in differences.items()
    }


def hits(row: dict) -> torch.Tensor:
    """``right`` of a row as numbers (images,): 1 where an image is classified rightly."""
    return torch.tensor([float(c) for c in row["right"]], dtype=torch.float64)


def _right(model: nn.Module, data: Data) -> dict:
    hits = scoring.predict(model, data.validation, data).argmax(1).cpu() == data.validation.labels.cpu()
    return {"accuracy": hits.double().mean().item(), "right": "".join("1" if hit else "0" for hit in hits.tolist())}


def _linear(model: nn.Module) -> dict[str, nn.Linear]:
    return {name: layer for name, layer in layers.weight_layers(model).items() if isinstance(layer, nn.Linear)}
