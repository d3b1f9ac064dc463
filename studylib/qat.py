"""Quantization-aware training through torchao's PT2E, and how many bits each layer gets.

Training rounds weights and activations in the forward pass and lets gradients through where nothing was clipped
(the straight-through estimator, Bengio et al. 2013; Jacob et al. 2018, section 3).  What is returned is not that
model with its rounded floats, but the int8 layers that PT2E's conversion of it stands for.
"""

import copy
import math
from collections import OrderedDict
from pathlib import Path

import numpy as np
import torch
from torch import nn

from studylib import models, prune, pt2e, quantize, train
from studylib.data import Data

AVERAGING = 0.1  # how fast the ranges of activations follow a batch: as batch norm's running averages do


def apply(
    model: nn.Module,
    data: Data,
    *,
    recipe: train.Recipe,
    seed: int,
    bits: int | dict[str, int] = 4,
    calibration_images: int = 512,
    keep_zeros: bool = True,
    loss: train.Loss = train.task_loss,
    identity: object = None,
    scratch: Path | None = None,
) -> nn.Module:
    """Trains ``model`` on with weights rounded to ``bits`` and activations to 8, then converts it to int8 layers.

    Integers, scales and ranges are those of :func:`quantize.apply`.  A weight's scale is that of its channel at each
    step; an activation's range starts at what the calibration images have and follows the training batches by a
    moving average.  Weights are rounded as inference will have them, folded with batch norm's running variance
    (Jacob et al. 2018, eq. 14); the batch norms themselves go on learning, with the statistics of the batch in training
    and their running averages in validation and conversion.  The epoch kept is the one whose rounded model is best in
    validation, with its ranges.  Validation changes no range.

    Args:
        recipe: of the training, in :func:`train.fit`; a tenth of the model's own learning rate is a good start.
        bits: of the weights, 2 to 8, or layer → bits; layers that are not named have 8.
        calibration_images: how many training images, drawn by ``seed``, the ranges start from.
        keep_zeros: hold the zero weights of convolutions and linear layers at zero, so that a pruned model stays so.
        identity: JSON data that tells ``loss`` from another, for the checkpoint.
        scratch: folder in which an interrupted training leaves what it needs to go on.

    Returns:
        The int8 model on the CPU; ``history`` has the rows of the training.

    Raises:
        models.SpecError: the model is int8 already, ``bits`` are not 2 to 8 or of a layer that is not there.
        ValueError: ``calibration_images`` is out of range, a number of ``model`` is not finite, or
            ``recipe.compile``: observers do not compile.
        FloatingPointError: the loss is no longer finite.
    """
    if recipe.compile:
        raise ValueError("recipe.compile=True: expected False; quantization-aware training runs uncompiled")
    _check_float(model)
    bits = pt2e.bits_of_layers(model, bits)
    images = quantize.calibration(data, calibration_images, seed)
    rounded = prepare(model, images, bits)
    masks = {f"graph.{name}": mask for name, mask in prune.masks_of(model).items()} if keep_zeros else {}
    history = train.fit(
        rounded,
        data,
        recipe,
        seed=seed,
        loss=loss,
        masks=masks,
        checkpoint=scratch / "qat.safetensors" if scratch else None,
        identity=[bits, keep_zeros, identity],
    )
    float_model = models.duplicate(model).cpu().eval()
    return quantize.from_pt2e(float_model, rounded.converted(), "qat", {"epochs": len(history)}, history)


class Rounded(nn.Module):
    """PT2E's prepared graph, a model that :func:`train.fit` can train: its forward pass rounds what int8 will round.

    Parameters and buffers have the names of the model that was prepared after ``graph.``; the state holds the ranges
    as well.  ``train()`` and ``eval()`` switch batch norm, and whether the ranges of activations follow the batches.
    """

    def __init__(self, graph: torch.fx.GraphModule, spec: dict):
        super().__init__()
        from torchao.quantization.pt2e import FakeQuantize, move_exported_model_to_eval

        evaluating = torch.fx.GraphModule(graph, copy.deepcopy(graph.graph))  # shares every tensor with graph
        evaluating.meta.update(graph.meta)  # conversion asks for it
        move_exported_model_to_eval(evaluating)  # rewrites the graph, too slow to do twice an epoch
        self.graph, self.spec = graph, spec
        self._unregistered = (
            evaluating,
            [m for m in graph.modules() if isinstance(m, FakeQuantize) and not m.is_per_channel],
        )

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.graph(images) if self.training else self._unregistered[0](images)

    def train(self, mode: bool = True) -> nn.Module:
        self.training = mode
        self.observe(mode)
        return self

    def load_state_dict(self, state_dict, *args, **kwargs):
        state = OrderedDict(state_dict)
        state._metadata = self.state_dict()._metadata  # observers of a file, without versions, forget their least scale
        return super().load_state_dict(state, *args, **kwargs)

    def observe(self, on: bool) -> None:
        """Whether the ranges of activations follow what comes in; those of weights always do."""
        for quantizer in self._unregistered[1]:
            quantizer.enable_observer(on)

    def converted(self) -> torch.fx.GraphModule:
        """PT2E's converted graph, on the CPU; the last thing to be done with this model."""
        with pt2e.quiet_torchao():
            from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e

            self.eval()
            with pt2e.only_conv2d():
                return convert_pt2e(self._unregistered[0].cpu())


def prepare(model: nn.Module, images: torch.Tensor, bits: dict[str, int]) -> Rounded:
    """``model`` with rounding in its forward pass, on its device; ranges start from ``images`` (n, c, h, w)."""
    with pt2e.quiet_torchao():
        from torchao.quantization.pt2e.quantize_pt2e import prepare_qat_pt2e

        images = images.to(next(model.parameters()).device)
        graph = pt2e.export(models.duplicate(model).train(), images)
        pt2e.check_range(model, images)
        graph = prepare_qat_pt2e(graph, pt2e.quantizer(bits, _fake_quantizers()))
        rounded = Rounded(graph, model.spec).eval()
        rounded.observe(True)
        with torch.no_grad():
            for chunk in images.split(128):
                rounded(chunk)
        return rounded.eval()


def _fake_quantizers() -> tuple:
    """What rounds inputs and weights in training; torchao's plain fake quantizers.

    The fused ones reckon another scale in training than in conversion (they give the negative side one integer
    more): at few bits another grid.
    """
    from torchao.quantization.pt2e import (
        FakeQuantize,
        MovingAverageMinMaxObserver,
        MovingAveragePerChannelMinMaxObserver,
    )

    kinds = {MovingAverageMinMaxObserver: AVERAGING, MovingAveragePerChannelMinMaxObserver: 1.0}  # 1: this step alone
    return tuple(
        FakeQuantize.with_args(observer=kind, averaging_constant=share, eps=pt2e.LEAST) for kind, share in kinds.items()
    )


@torch.no_grad()
def sensitivity(
    model: nn.Module, data: Data, *, bits: tuple[int, ...] = (2, 3, 4, 6, 8), images: int = 512, seed: int = 0
) -> list[dict]:
    """What rounding the weights of one layer alone does to the loss, for each layer and each of ``bits``.

    Weights are rounded as :func:`quantize.apply` does, batch norm folded in; all else stays float.  The loss is that of
    training images: bits chosen on validation images would be fitted to what later picks epochs and is reported as
    validation accuracy, and the test set is read once.

    Args:
        images: how many training images, drawn by ``seed``, the loss is the mean of.

    Returns:
        Rows of layer, bits, weights (how many), loss (cross-entropy in nats) and increase (over the float model's).

    Raises:
        models.SpecError: the model is int8 already, or ``bits`` are not 2 to 8.
        ValueError: ``images`` is not between 1 and the number of training images, or a number of ``model`` is not
            finite.
    """
    _check_float(model)
    for count in bits:
        pt2e.bits_of_layers(model, count)
    quantize.calibration(data, images, seed)
    folded = models.fold_batch_norm(model)
    order = torch.randperm(len(data.train), generator=torch.Generator().manual_seed(seed))[:images]
    split = data.train.take(order)

    def loss() -> float:
        return train.scores(train.predict(folded, split, data), split.labels)["nll"]

    before, rows = loss(), []
    for name, layer in models.weight_layers(folded).items():
        weight = layer.weight.clone()
        for count in bits:
            layer.weight.copy_(rounded_weight(weight, count))
            found = loss()
            row = {"layer": name, "bits": count, "weights": weight.numel(), "loss": found, "increase": found - before}
            rows.append(row)
        layer.weight.copy_(weight)
    return rows


def rounded_weight(weight: torch.Tensor, bits: int) -> torch.Tensor:
    """``weight`` (out, …) on the grid of ``bits`` bits that :mod:`studylib.quantize` gives each of its channels."""
    rows = weight.flatten(1)
    scale = pt2e.steps(rows, bits)
    return ((rows / scale).round().clamp(*pt2e.limits(bits)) * scale).view(weight.shape)


def choose_bits(
    sensitivities: list[dict], budget_bytes: float, costs: dict[str, dict[int, float]] | None = None
) -> dict[str, int]:
    """Bits for each layer: the least sum of the measured increases of the loss within ``budget_bytes``.

    Exact: layer by layer, every pair (bytes, increase) that no other beats in both is kept (the multiple-choice
    knapsack by dynamic programming over undominated states).  A greedy choice along the convex hull misses what lies
    between its corners, and with a few layers exactness costs milliseconds.  That increases add up is an assumption;
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
            raise ValueError(
                f"{layer} in {bits} bits: increase {row['increase']}, {cost} bytes: expected finite numbers"
            )
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


def _check_float(model: nn.Module) -> None:
    for name, layer in models.weight_layers(model).items():
        if not isinstance(layer, (nn.Conv2d, nn.Linear)):
            raise models.SpecError(f"{name} is {type(layer).__name__}: expected a convolution or linear layer")
    models.check_finite(model.state_dict())
