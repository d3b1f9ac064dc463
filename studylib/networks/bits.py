"""How many bits each layer gets: what fewer cost, and the best choice within a budget of bytes."""

import math

import numpy as np
import torch
from torch import nn

from studylib.data import scoring
from studylib.data.datasets import Data
from studylib.networks import int8_layers, layers, pt2e
from studylib.networks.grid import rounded_weight
from studylib.networks.layers import check_float


@torch.no_grad()
def sensitivity(
    model: nn.Module, data: Data, *, bits: tuple[int, ...] = (2, 3, 4, 6, 8), images: int = 512, seed: int = 0
) -> list[dict]:
    """What rounding the weights of one layer alone does to the loss, for each layer and each of ``bits``.

    Weights are rounded as :func:`studylib.techniques.int8.apply` does, batch norm folded in; all else stays float. The
    loss is of training images: validation images pick epochs later, and the test set is read once.

    Args:
        images: how many training images, drawn by ``seed``, the loss is the mean of.

    Returns:
        Rows of layer, bits, weights (how many), loss (cross-entropy in nats) and increase (over the float model's).

    Raises:
        studylib.networks.blocks.SpecError: the model is int8 already, or ``bits`` are not 2 to 8.
        ValueError: ``images`` is not between 1 and the number of training images, or a number of ``model`` is not
            finite.
    """
    check_float(model)
    for count in bits:
        int8_layers.bits_of_layers(model, count)
    pt2e.calibration(data, images, seed)
    folded = layers.fold_batch_norm(model)
    order = torch.randperm(len(data.train), generator=torch.Generator().manual_seed(seed))[:images]
    split = data.train.take(order)

    def loss() -> float:
        return scoring.scores(scoring.predict(folded, split, data), split.labels)["nll"]

    before, rows = loss(), []
    for name, layer in layers.weight_layers(folded).items():
        weight = layer.weight.clone()
        for count in bits:
            layer.weight.copy_(rounded_weight(weight, count))
            found = loss()
            row = {"layer": name, "bits": count, "weights": weight.numel(), "loss": found, "increase": found - before}
            rows.append(row)
        layer.weight.copy_(weight)
    return rows


def choose_bits(
    sensitivities: list[dict], budget_bytes: float, costs: dict[str, dict[int, float]] | None = None
) -> dict[str, int]:
    """Bits for each layer: the least sum of the measured increases of the loss within ``budget_bytes``.

    Exact: the multiple-choice knapsack by dynamic programming over undominated pairs (bytes, increase), layer by layer.
    A greedy choice along the convex hull misses what lies between its corners. That increases add up is an assumption.
    HAWQ-V2 (Dong et al. 2020) makes it of increases that it estimates from the Hessian's trace.

    Args:
        sensitivities: as :func:`sensitivity` gives them; of each layer any set of bits.
        budget_bytes: the most that the weights of all these layers may take.
        costs: layer → bits → bytes, as a codec measures them, say; None: weights × bits / 8.

    Raises:
        ValueError: the least bytes possible are above ``budget_bytes``; ``costs`` lacks an entry; a number that is NaN.
    """
    if math.isnan(budget_bytes):
        raise ValueError(f"budget_bytes={budget_bytes!r}: expected a number of bytes")
    options: dict[str, list[tuple[int, float, float]]] = {}
    for row in sensitivities:
        layer, bits = row["layer"], row["bits"]
        if costs is not None and bits not in costs.get(layer, {}):
            raise ValueError(f"costs of {layer} in {bits} bits: there are none")
        cost = row["weights"] * bits / 8 if costs is None else costs[layer][bits]
        if not math.isfinite(row["increase"]) or not math.isfinite(cost):
            found = f"increase {row['increase']}, {cost} bytes"
            raise ValueError(f"{layer} in {bits} bits: {found}: expected finite numbers")
        options.setdefault(layer, []).append((bits, cost, row["increase"]))
    least = {layer: min(cost for _, cost, _ in rows) for layer, rows in options.items()}
    left, limit = sum(least.values()), budget_bytes * (1 + 1e-12)  # sums of fractions may round up
    if left > limit:
        raise ValueError(f"budget_bytes={budget_bytes!r}: expected at least {left:g}, the least that is possible")
    sizes, losses, steps = np.zeros(1), np.zeros(1), []
    for layer, rows in options.items():
        left -= least[layer]  # what the layers to come will take at least
        many = len(sizes)
        sizes = np.concatenate([sizes + cost for _, cost, _ in rows])
        losses = np.concatenate([losses + increase for _, _, increase in rows])
        order = np.lexsort((losses, sizes))
        order = order[sizes[order] + left <= limit]
        lowest = np.minimum.accumulate(losses[order])
        order = order[np.concatenate([[True], losses[order][1:] < lowest[:-1]])]
        sizes, losses = sizes[order], losses[order]
        steps.append((layer, [bits for bits, _, _ in rows], order // many, order % many))
    chosen, state = {}, len(sizes) - 1  # undominated: the largest has the least loss
    for layer, bits, which, previous in reversed(steps):
        chosen[layer], state = bits[which[state]], previous[state]
    return {layer: chosen[layer] for layer in options}
