"""Fixed-point quantization: every scale is a power of two, so that a layer needs integers and shifts alone."""

import math
from typing import Annotated

import torch
from pydantic import Field
from torch import nn

from studylib.data.datasets import Data
from studylib.networks import fixed_layers, pt2e, spec
from studylib.networks.calibration import Calibrated
from studylib.networks.fixed_layers import MOST, OUTPUT_BITS, SUM_BITS
from studylib.networks.layers import check_float, duplicate, fold_batch_norm, weight_layers
from studylib.settings import record


@record
class FixedPoint(Calibrated):
    """How wide the integers of :func:`apply` are, and what fixes their formats."""

    bits: Annotated[int, Field(ge=2, le=8, description="of a weight, its sign among them")] = 8
    activation_bits: Annotated[int, Field(ge=2, le=OUTPUT_BITS, description="of a layer's input")] = 8


def fraction(largest: float, bits: int) -> int:
    """The largest f, −64 to 64, at which numbers to ±``largest`` fit ``bits`` bits: largest · 2^f ≤ 2^(bits−1) − 1.

    So a number is off by at most 2^−(f+1), and the range is used by more than a half.
    """
    if largest == 0:
        return 0
    return max(-MOST, min(MOST, math.frexp((2 ** (bits - 1) - 1) / largest)[1] - 1))


@torch.no_grad()
def apply(
    model: nn.Module,
    data: Data,
    *,
    bits: int = 8,
    activation_bits: int = 8,
    calibration_images: int = 512,
    seed: int = 0,
) -> nn.Module:
    """Every convolution and linear layer in fixed point (:mod:`studylib.networks.fixed_layers`), batch norm folded in.

    Weights, input and output of a layer have a format each (Lin et al. 2016). It is the finest in which the largest
    number fits, of the weights or of what calibration images give. Weights are rounded to the nearest integer. Zero
    weights stay zero.

    Args:
        calibration_images: how many training images, drawn by ``seed``, fix the formats.

    Raises:
        studylib.networks.blocks.SpecError: a layer is int8 already, or a batch norm cannot be folded.
        ValueError: a setting is out of range. A number of ``model``, or of a layer's output, is not finite. A sum of a
            layer might not fit 32 bits; the message names it.
    """
    FixedPoint(calibration_images, bits, activation_bits)  # refuses what is out of range
    check_float(model)
    images = pt2e.calibration(data, calibration_images, seed)
    folded = fold_batch_norm(model).cpu()
    pt2e.check_range(folded, images)
    layers, ranges = weight_layers(folded), _ranges(folded, images)
    fractions = {name: _fractions(layer, *ranges[name], bits, activation_bits) for name, layer in layers.items()}
    structure = {"module": "fixed", "fractions": fractions, "bits": bits, "activation_bits": activation_bits}
    new = duplicate(model).cpu().eval()
    fixed_layers.restructure(new, structure)
    for name, layer in layers.items():
        w, i, _ = fractions[name]
        whole = (layer.weight.double() * 2.0**w).round()
        most = whole.abs().flatten(1).sum(1) * 2 ** (activation_bits - 1)
        made = new.get_submodule(name)
        made.weight.copy_(whole)
        if layer.bias is not None:
            bias = (layer.bias.double() * 2.0 ** (w + i)).round()
            made.bias.copy_(bias * 2.0 ** -(w + i))
            most += bias.abs()
        if most.max() >= 2 ** (SUM_BITS - 1):
            raise ValueError(f"{name}: a sum of {most.max().item():.3g} is possible: expected at most {SUM_BITS} bits")
    return spec.with_change(new, "fixed", {"layers": len(layers)}, structure)


def _ranges(model: nn.Module, images: torch.Tensor) -> dict[str, list[float]]:
    """Layer → the largest magnitude of its input and of its output for ``images`` (n, c, h, w)."""
    found = {name: [0.0, 0.0] for name in weight_layers(model)}

    def watch(name):
        def see(_module, inputs, output):
            seen = (tensor.abs().max().item() for tensor in (inputs[0], output))
            found[name] = list(map(max, found[name], seen))

        return see

    hooks = [layer.register_forward_hook(watch(name)) for name, layer in weight_layers(model).items()]
    for chunk in images.split(128):
        model(chunk)
    for hook in hooks:
        hook.remove()
    return found


def _fractions(layer: nn.Module, given: float, gives: float, bits: int, activation_bits: int) -> list[int]:
    """Those of weight, input and output. A sum has room for the bias, and an output is no finer than a sum."""
    i = fraction(given, activation_bits)
    w = fraction(layer.weight.abs().max().item(), bits)
    if layer.bias is not None and (bias := layer.bias.abs().max().item()):
        w = min(w, fraction(bias, SUM_BITS - 1) - i)
    return [w, i, min(fraction(gives, OUTPUT_BITS), w + i)]
