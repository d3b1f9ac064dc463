"""Hybrid precision: bits layer by layer, so that the coded file keeps a budget of bytes at the least loss."""

import dataclasses
import logging
from typing import Annotated, Literal

import numpy as np
import torch
from pydantic import Field
from torch import nn

from studylib.coding import codec, range_coder
from studylib.coding.magnitudes import class_edges
from studylib.coding.tensors import Tensors
from studylib.data.datasets import Data
from studylib.networks import bits as choice
from studylib.networks import grid, int8_layers, layers, spec
from studylib.networks.calibration import check_calibration
from studylib.settings import check_different, record

log = logging.getLogger(__name__)
FLOAT = 32  # bits of a weight that stays as it is
ALL = (2, 3, 4, 6, 8, FLOAT)


@record
class HybridPrecision:
    """The budget, and what may be chosen within it."""

    budget_bytes: Annotated[
        int,
        Field(ge=0, le=2**29, description="the most that the coded file may take; 0: half of what it takes in 8 bits"),
    ] = 0
    bits: Annotated[
        list[Literal[2, 3, 4, 5, 6, 7, 8, 32]], Field(min_length=1, description="of a layer's weights; 32: floats")
    ] = dataclasses.field(default_factory=lambda: list(ALL))
    images: Annotated[int, Field(ge=1, description="training images on which each choice's loss is measured")] = 512
    activations: Annotated[
        Literal["float", "dynamic", "dynamic per sample"],
        Field(description="how an int8 layer's input is rounded"),
    ] = "float"

    def check(self) -> None:
        check_different(self, "bits")

    def against(self, data: Data) -> None:
        """Raises ValueError where there are not so many training images."""
        check_calibration(self.images, data, "images")


def apply(
    model: nn.Module,
    data: Data,
    *,
    budget_bytes: int = 0,
    bits: list[int] | tuple[int, ...] = ALL,
    images: int = 512,
    activations: str = "float",
    seed: int = 0,
) -> nn.Module:
    """Gives each layer the bits that together raise the loss least, as far as can be told, within ``budget_bytes``.

    The increase is measured on training images, one layer rounded at a time. The choice takes the sum to be least
    (:func:`studylib.networks.bits.choose_bits`, after HAWQ-V2, Dong et al. 2020). Bytes are those of the coded file, as
    written. What the weights may take is what the rest of the file left them at the choice before. Rounding is to the
    nearest integer, with one scale per output channel. Zero weights stay zero.

    Args:
        budget_bytes: 0 stands for half of what the file takes with 8 bits in every layer.
        bits: what a layer may have; 32 leaves it in floats.
        images: how many training images, drawn by ``seed``, the loss is the mean of.
        activations: how an int8 layer's input is rounded, without calibration; "float": not at all.

    Raises:
        studylib.networks.blocks.SpecError: a layer is int8 already, or a batch norm cannot be folded.
        ValueError: ``budget_bytes`` is below what the smallest choice takes, which the message names. A setting is out
            of range, or a number of ``model`` is not finite.
    """
    HybridPrecision(budget_bytes, list(bits), images, activations)  # refuses what is out of range
    layers.check_float(model)
    few = tuple(count for count in bits if count != FLOAT)
    rows, costs = choice.sensitivity(model, data, bits=few or (8,), images=images, seed=seed), _costs(model, bits)
    rows = [row for row in rows if row["bits"] in bits]
    if FLOAT in bits:
        weights = {name: layer.weight.numel() for name, layer in layers.weight_layers(model).items()}
        rows += [{"layer": name, "bits": FLOAT, "weights": n, "increase": 0.0} for name, n in weights.items()]
    increase = {(row["layer"], row["bits"]): row["increase"] for row in rows}

    def made(chosen: dict[str, int]) -> tuple[nn.Module, int]:
        """The model with these bits, and the bytes of its file."""
        names = [name for name in chosen if chosen[name] != FLOAT]
        several = {name: chosen[name] for name in names if chosen[name] != 8}
        structure = {"module": "quantize", "layers": names, "activations": activations}
        structure |= {"bits": several} if several else {}
        did = {"layers": len(names), "increase": round(told(chosen), 6)}
        new = spec.with_change(int8_layers.rounded(model, structure), "hybrid", did, structure)
        return new, len(codec.encode(new))

    def told(chosen: dict[str, int]) -> float:
        return sum(increase[pair] for pair in chosen.items())

    def cost(chosen: dict[str, int]) -> int:
        return sum(costs[name][count] for name, count in chosen.items())

    budget_bytes = budget_bytes or made(dict.fromkeys(costs, 8))[1] // 2
    best = smallest = {name: min(found, key=found.get) for name, found in costs.items()}
    new, size = made(smallest)
    if size > budget_bytes:
        raise ValueError(f"budget_bytes={budget_bytes!r}: expected at least {size}, what the smallest choice takes")
    chosen, tried = choice.choose_bits(rows, cost(smallest) + budget_bytes - size, costs), [smallest]
    while chosen not in tried:
        trial, size = made(chosen)
        tried.append(chosen)
        log.info("%d bytes of weights: a file of %d, at most %d", cost(chosen), size, budget_bytes)
        if size <= budget_bytes and told(chosen) <= told(best):
            new, best = trial, chosen
        room = cost(chosen) + budget_bytes - size  # as much as the rest of the file leaves
        chosen = choice.choose_bits(rows, max(room, cost(smallest)), costs)
    return new


@torch.no_grad()
def _costs(model: nn.Module, bits) -> dict[str, dict[int, int]]:
    """Layer → bits → bytes of its weights and their scales, coded alone, batch norm folded in."""
    found: dict[str, dict[int, int]] = {}
    for name, layer in layers.weight_layers(layers.fold_batch_norm(model).cpu()).items():
        rows, found[name] = layer.weight.flatten(1), {}
        for count in bits:
            if count == FLOAT:
                found[name][count] = _coded(rows.numpy(), np.zeros(0, np.float32))
            else:
                scale = grid.steps(rows, count)
                whole = grid.integers(rows, scale, count).to(torch.int8)
                found[name][count] = _coded(whole.numpy(), scale[whole.any(1)].flatten().numpy())
    return found


def _coded(weight: np.ndarray, scales: np.ndarray) -> int:
    """Bytes of ``weight`` (out, n), int8 or float32, and of ``scales`` (n,)."""
    writer, whole = range_coder.Writer(), weight.dtype == np.int8
    code = Tensors(writer, class_edges([weight] if whole else []))
    if whole:
        code.integers(weight, weight.shape)
    else:
        values = weight[code.positions(weight, weight.shape)]
        code.floats(values, len(values), "weight 32")
    code.floats(scales, len(scales), "weight_scale 32")
    return 4 * len(writer.words())
