"""Dynamic quantization: weights are int8 once, each layer's input when it comes, on a grid of its own range."""

from typing import Annotated, Literal

from pydantic import Field
from torch import nn

from studylib.data.datasets import Data
from studylib.networks import int8_layers, spec
from studylib.networks.layers import check_float, weight_layers
from studylib.settings import record

RANGES = {"batch": "dynamic", "sample": int8_layers.PER_SAMPLE}  # whose range → as specs name it


@record
class Dynamic:
    """Whose range an input's grid has, and which layers have one."""

    per: Annotated[
        Literal["batch", "sample"], Field(description="what an input's 256 levels span: its batch's range or its own")
    ] = "batch"
    layers: Annotated[
        Literal["all", "linear"], Field(description="which are quantized; linear: as PyTorch's quantize_dynamic does")
    ] = "all"


def apply(
    model: nn.Module, data: Data | None = None, *, per: str = "batch", layers: str = "all", seed: int = 0
) -> nn.Module:
    """Rounds weights to int8 once and inputs at run time, without calibration, as PyTorch's ``quantize_dynamic`` does.

    Weights are as in :func:`studylib.techniques.int8.apply`: symmetric, one scale per output channel, zeros kept. An
    input has 256 levels between its least and its largest number, 0 among them. Per batch, an image's outputs depend on
    the images beside it, and a character's on those that follow. Per sample they do not: a character is one, too.

    Args:
        data: not used; every technique is called alike. Nor is ``seed``, as nothing is drawn.

    Raises:
        studylib.networks.blocks.SpecError: a layer is int8 already, or a batch norm cannot be folded.
        ValueError: a setting is unknown. ``model`` has no linear layer, where those are asked for. A number of it is
            not finite.
    """
    Dynamic(per, layers)  # refuses what is unknown
    check_float(model)
    names = [name for name, layer in weight_layers(model).items() if layers == "all" or isinstance(layer, nn.Linear)]
    if not names:
        raise ValueError(f"layers={layers!r}: expected all, for the model has no linear layer")
    structure = {"module": "quantize", "layers": names, "activations": RANGES[per]}
    return spec.with_change(int8_layers.rounded(model, structure), "dynamic", {"layers": len(names)}, structure)
