"""Weight-only quantization: weights of few bits, each group of neighbours with a scale, inputs in floats."""

from typing import Annotated

from pydantic import Field
from torch import nn

from studylib.data.datasets import Data
from studylib.networks import int8_layers, spec
from studylib.networks.layers import check_float, weight_layers
from studylib.settings import record


@record
class WeightOnly:
    """How wide the weights are, and how many share a scale."""

    bits: Annotated[int, Field(ge=2, le=8, description="of a weight")] = 4
    group: Annotated[
        int, Field(ge=0, le=4096, description="most neighbours in a channel that share a scale; 0: all of a channel")
    ] = 0


def apply(model: nn.Module, data: Data | None = None, *, bits: int = 4, group: int = 0, seed: int = 0) -> nn.Module:
    """Rounds every weight of a convolution or linear layer to the nearest integer of ``bits``, batch norm folded in.

    An output channel's weights, in the order of its inputs, form the fewest groups of at most ``group``. These are as
    equal as they go. Each has a scale: its largest magnitude becomes the largest integer (Dettmers et al. 2022, section
    2.1, block-wise quantization). So no weight is off by more than half a scale. Zero weights stay zero. A
    scale takes four bytes: of groups of 64, half a bit a weight.

    Args:
        data: not used; every technique is called alike. Nor is ``seed``, as nothing is drawn.

    Raises:
        studylib.networks.blocks.SpecError: a layer is int8 already, or a batch norm cannot be folded.
        ValueError: a setting is out of range, or a number of ``model`` is not finite.
    """
    WeightOnly(bits, group)  # refuses what is out of range
    check_float(model)
    layers = list(weight_layers(model))
    structure = {"module": "quantize", "layers": layers, "bits": bits, "activations": "float"}
    structure |= {"group": group} if group else {}
    return spec.with_change(int8_layers.rounded(model, structure), "int4", {"layers": len(layers)}, structure)
