"""Weight-only quantization: weights of few bits, each group of neighbours with a scale, inputs in floats."""

from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import nn

from studylib.data.datasets import Data
from studylib.networks import int8_layers, spec
from studylib.networks.calibration import Calibrated
from studylib.networks.grid import integers, steps
from studylib.networks.layers import check_float, fold_batch_norm, weight_layers
from studylib.networks.pt2e import calibration
from studylib.settings import record

DAMPING = 0.01  # of the mean of the Hessian's diagonal, which is added to it (Frantar et al. 2023, section 3.3)
CHUNK = 64  # calibration inputs at once


@record
class WeightOnly(Calibrated):
    """How wide the weights are, how many share a scale, and how they are rounded."""

    bits: Annotated[int, Field(ge=2, le=8, description="of a weight")] = 4
    group: Annotated[
        int, Field(ge=0, le=4096, description="most neighbours in a channel that share a scale; 0: all of a channel")
    ] = 0
    rounding: Annotated[
        Literal["nearest", "gptq"],
        Field(description="gptq: a linear layer's later weights make up for the error of those before them"),
    ] = "nearest"

    def against(self, data: Data) -> None:
        if self.rounding == "gptq":
            super().against(data)


def apply(
    model: nn.Module,
    data: Data | None = None,
    *,
    bits: int = 4,
    group: int = 0,
    rounding: str = "nearest",
    calibration_images: int = 512,
    seed: int = 0,
) -> nn.Module:
    """Rounds every weight of a convolution or linear layer to an integer of ``bits``, batch norm folded in.

    An output channel's weights, in the order of its inputs, form the fewest groups of at most ``group``. These are as
    equal as they go. Each has a scale: its largest magnitude becomes the largest integer (Dettmers et al. 2022, section
    2.1, block-wise quantization). To the nearest, no weight is off by more than half a scale. Zero weights stay zero. A
    scale takes four bytes: of groups of 64, half a bit a weight.

    Args:
        data: for "gptq", whose training images or blocks linear layers read, ``calibration_images`` drawn by ``seed``.
        rounding: "nearest", or "gptq" (:func:`corrected`), layer after layer. Convolutions are rounded to the nearest.

    Raises:
        studylib.networks.blocks.SpecError: a layer is int8 already, or a batch norm cannot be folded.
        ValueError: a setting is out of range, or a number of ``model`` is not finite. GPTQ has no ``data``.
    """
    how = {"bits": bits, "group": group, "rounding": rounding}
    WeightOnly(calibration_images=calibration_images, **how)  # refuses what is out of range
    check_float(model)
    layers = list(weight_layers(model))
    structure = {"module": "quantize", "layers": layers, "bits": bits, "activations": "float"}
    structure |= {"group": group} if group else {}
    new, did = int8_layers.rounded(model, structure), {"layers": len(layers)}
    if rounding == "gptq":
        if data is None:
            raise ValueError("rounding='gptq': expected data, whose training images decide")
        images, given = calibration(data, calibration_images, seed).cpu(), weight_layers(fold_batch_norm(model))
        for name, layer in weight_layers(new).items():
            if isinstance(layer, int8_layers.Int8Linear):
                groups = layer.weight_scale[0].numel()
                found = corrected(given[name].weight.detach().cpu(), _second_moment(new, layer, images), bits, groups)
                layer.weight.copy_(found[0])
                layer.weight_scale.copy_(found[1].view(layer.weight_scale.shape))
        did |= {"rounding": rounding}
    return spec.with_change(new, "int4", did, structure)


def corrected(weight: torch.Tensor, moment: torch.Tensor, bits: int, groups: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Whole numbers (out, in) and scales (out, groups) of ``weight`` (out, in), rounded column after column.

    The columns after it make up for each error, so that the outputs' squared error grows least. That is GPTQ (Frantar
    et al. 2023, equations 2 and 3, by the Cholesky factor of section 3.3). A group's scales are of its weights as
    corrected by then. Zero weights stay zero. An input that is always zero corrects nothing.

    Args:
        moment: (in, in), Σ x xᵀ of the layer's inputs x. With the identity, all are rounded to the nearest.
    """
    left, live, size = weight.double().clone(), weight != 0, -(-weight.shape[1] // groups)
    damping = DAMPING * moment.diagonal().mean().item() or 1.0
    damped = moment.double() + damping * torch.eye(len(moment), dtype=torch.float64)
    factor = torch.linalg.cholesky(torch.cholesky_inverse(torch.linalg.cholesky(damped)), upper=True)
    whole, scales = torch.zeros_like(left), []
    for column in range(weight.shape[1]):
        if column % size == 0:
            scales.append(steps(left[:, column : column + size].float(), bits))
        rounded = integers(left[:, column, None].float(), scales[-1], bits)
        whole[:, column] = rounded[:, 0]
        error = (left[:, column] - (rounded * scales[-1])[:, 0]) / factor[column, column]
        left[:, column + 1 :] -= error[:, None] * factor[column, column + 1 :] * live[:, column + 1 :]
    scales += [torch.ones(len(weight), 1)] * (groups - len(scales))
    return whole, torch.cat(scales, dim=1)


@torch.no_grad()
def _second_moment(model: nn.Module, layer: nn.Module, images: torch.Tensor) -> torch.Tensor:
    """Σ x xᵀ, (in, in) float64, of what ``layer`` reads as ``model`` sees ``images``."""
    found = torch.zeros(layer.weight.shape[1], layer.weight.shape[1], dtype=torch.float64)

    def see(_module, inputs):
        rows = inputs[0].flatten(0, -2).double()
        found.add_(rows.T @ rows)

    hook = layer.register_forward_pre_hook(see)
    for chunk in images.split(CHUNK):
        model(chunk)
    hook.remove()
    return found
