"""int8 layers: integers of 2 to 8 bits with a scale a channel, and what computes with them.

They run the ``quantized_decomposed`` operations of PT2E's graph on the same numbers, without its float copies.

Weights of b < 8 bits are the integers −m … m with m = 2^(b−1) − 1, one scale per output channel, max |w| / m: none is
off by more than half a step, and the largest is exact. (With −m − 1, which torchao has for 8 bits, the scale is
max |w| / (m + ½), and a channel's largest negative weight lies halfway between two integers, rounding either way.)
"""

import math

import torch
import torch.nn.functional as F
from torch import nn
from torch.ao.quantization.fx import _decomposed  # noqa: F401  (registers torch.ops.quantized_decomposed)

from studylib.networks.blocks import SETTINGS, ConvUnit, SpecError
from studylib.networks.grid import AMAX, AMIN, LEAST, QMAX, QMIN
from studylib.networks.layers import duplicate, fold_batch_norm, replace_module, weight_layers

ACTIVATIONS = ("static", "dynamic", "float")  # an input is rounded in a fixed range, in each batch's own, or not at all


def bits_of_layers(model: nn.Module, bits: int | dict[str, int]) -> dict[str, int]:
    """Layer → bits, 8 where ``bits`` does not name it, for all layers of ``model``.

    Raises:
        SpecError: bits that are not 2 to 8, or of a layer that is not there.
    """
    layers = weight_layers(model)
    if not isinstance(bits, dict):
        bits = dict.fromkeys(layers, bits)
    for name, value in bits.items():
        if name not in layers:
            raise SpecError(f"bits of {name!r}: expected one of the layers {', '.join(layers)}")
        if type(value) is not int or not 2 <= value <= 8:
            raise SpecError(f"bits={value!r} of {name}: expected a whole number from 2 to 8")
    return {name: bits.get(name, 8) for name in layers}


def pads(convolution: nn.Module) -> tuple[int, int, int, int]:
    """By how much ``convolution`` (nn.Conv2d's attributes) pads its input: left, right, top, bottom."""
    found = []
    for i in (1, 0):
        whole = convolution.dilation[i] * (convolution.kernel_size[i] - 1)
        each = {"same": (whole // 2, whole - whole // 2), "valid": (0, 0)}
        padding = convolution.padding
        found += each[padding] if isinstance(padding, str) else (padding[i], padding[i])
    return tuple(found)


class Int8Layer(nn.Module):
    """What an int8 convolution and an int8 linear layer share.

    Buffers: ``weight`` int8 (out, …) of ``bits`` bits, ``weight_scale`` and ``bias`` float32 (out,), ``input_scale``
    float32 (), ``input_zero_point`` uint8 ().  A weight's value is weight × scale, zero for the integer 0; an input's
    is (q − zero point) × scale.  The last two buffers are for ``activations`` "static" alone: "dynamic" takes them
    from the batch at hand, "float" does not round the input.
    """

    is_weight_layer = True

    def __init__(self, weight_shape, has_bias: bool = True, activations: str = "static", bits: int = 8):
        super().__init__()
        out, static = weight_shape[0], activations == "static"
        self.activations, self.bits = activations, bits
        self.register_buffer("weight", torch.zeros(weight_shape, dtype=torch.int8))
        self.register_buffer("weight_scale", torch.ones(out))
        self.register_buffer("bias", torch.zeros(out) if has_bias else None)
        self.register_buffer("input_scale", torch.ones(()) if static else None)
        self.register_buffer("input_zero_point", torch.zeros((), dtype=torch.uint8) if static else None)
        self._input = (1.0, 0)

    def freeze(self) -> None:
        """Takes the input's scale and zero point out of their buffers as Python numbers, to be called when they change.

        Numbers are what PT2E's graph holds and what compiles to int8 kernels.
        """
        if self.activations == "static":
            self._input = (float(self.input_scale), int(self.input_zero_point))

    def _load_from_state_dict(self, *args, **kwargs):
        super()._load_from_state_dict(*args, **kwargs)
        self.freeze()

    def dequantized_weight(self) -> torch.Tensor:
        """The float32 weight that the integers stand for, the shape of ``weight``."""
        zeros = torch.zeros_like(self.weight_scale, dtype=torch.int64)
        return torch.ops.quantized_decomposed.dequantize_per_channel(
            self.weight, self.weight_scale, zeros, 0, QMIN, QMAX, torch.int8
        )

    def extra_repr(self) -> str:
        return ", ".join(f"{name}={getattr(self, name)!r}" for name in self.settings)

    def quantized_input(self, x: torch.Tensor) -> torch.Tensor:
        """``x`` rounded to the grid of the input's 256 levels, float32 again; as it is where activations are float."""
        if self.activations == "float":
            return x
        ops, kind = torch.ops.quantized_decomposed, (AMIN, AMAX, torch.uint8)
        if self.activations == "dynamic":
            grid = (*ops.choose_qparams.tensor(x, AMIN, AMAX, LEAST, torch.uint8), *kind)
            return ops.dequantize_per_tensor.tensor(ops.quantize_per_tensor.tensor(x, *grid), *grid)
        grid = (*self._input, *kind)
        return ops.dequantize_per_tensor(ops.quantize_per_tensor(x, *grid), *grid)


class Int8Conv2d(Int8Layer):
    """An int8 convolution, with the batch norm that followed it folded in; it always has a bias.

    ``stride``, ``padding``, ``dilation``, ``groups`` and ``padding_mode`` are nn.Conv2d's.
    """

    settings = ("bits", "activations", *SETTINGS)

    def __init__(
        self,
        weight_shape,
        padding: int | str | tuple = 0,
        activations: str = "static",
        bits: int = 8,
        *,
        stride: int | tuple = 1,
        dilation: int | tuple = 1,
        groups: int = 1,
        padding_mode: str = "zeros",
    ):
        super().__init__(weight_shape, activations=activations, bits=bits)
        self.kernel_size, self.groups, self.padding_mode = tuple(weight_shape[2:]), groups, padding_mode
        pairs = (each if isinstance(each, str | tuple) else (each, each) for each in (stride, padding, dilation))
        self.stride, self.padding, self.dilation = pairs

    def forward(self, x):
        left, right, top, bottom = around = pads(self)
        padding = (top, left)
        if self.padding_mode != "zeros" or (left, top) != (right, bottom):
            x, padding = F.pad(x, around, "constant" if self.padding_mode == "zeros" else self.padding_mode), 0
        x, how = self.quantized_input(x), (self.stride, padding, self.dilation, self.groups)
        return F.conv2d(x, self.dequantized_weight(), self.bias, *how)


class Int8Linear(Int8Layer):
    """An int8 linear layer."""

    settings = ("bits", "activations")

    def forward(self, x):
        return F.linear(self.quantized_input(x), self.dequantized_weight(), self.bias)


@torch.no_grad()
def layer_errors(float_model: nn.Module, model: nn.Module, images: torch.Tensor) -> dict[str, float]:
    """Layer → signal-to-quantization-noise ratio of its output, 10 log₁₀ (Σ y² / Σ (y − ŷ)²) in dB.

    ŷ is the output of the int8 ``model`` on the same images, with all the error that came in from earlier layers.

    Args:
        images: (n, c, h, w) float32, normalized.
    """
    outputs: list[dict[str, torch.Tensor]] = []
    for each in (fold_batch_norm(float_model), duplicate(model)):
        found: dict[str, torch.Tensor] = {}
        for name, layer in weight_layers(each.cpu().eval()).items():
            layer.register_forward_hook(lambda _m, _i, output, name=name, found=found: found.update({name: output}))
        each(images.cpu())
        outputs.append(found)
    clean, noisy = outputs
    noise = {name: float((clean[name] - noisy[name]).double().square().sum()) for name in clean}
    signal = {name: float(clean[name].double().square().sum()) for name in clean}
    return {name: 10 * math.log10(signal[name] / noise[name]) if noise[name] else math.inf for name in clean}


def restructure(model: nn.Module, structure: dict) -> None:
    """Puts empty int8 layers in the place of the float ones named in ``structure["layers"]``, in place.

    ``structure["bits"]``, one number or layer → bits, is 8 where it says nothing.
    """
    activations = structure.get("activations", "static")
    if activations not in ACTIVATIONS:
        raise SpecError(f"activations {activations!r}: expected one of {', '.join(ACTIVATIONS)}")
    bits = bits_of_layers(model, structure.get("bits", 8))
    for name in structure["layers"]:
        layer = model.get_submodule(name)
        if type(layer) not in (nn.Conv2d, nn.Linear):
            raise SpecError(f"{name} is {type(layer).__name__}: expected a convolution or linear layer")
        shape, how = tuple(layer.weight.shape), {"activations": activations, "bits": bits[name]}
        if isinstance(layer, nn.Linear):
            new = Int8Linear(shape, layer.bias is not None, **how)
        else:
            how |= {key: getattr(layer, key) for key in SETTINGS}
            new, unit = Int8Conv2d(shape, **how), model.get_submodule(name.rpartition(".")[0])
            norm = unit.norm if isinstance(unit, ConvUnit) and unit.conv is layer else None
            if isinstance(norm, nn.BatchNorm2d):
                unit.norm = nn.Identity()  # folded into the convolution
        replace_module(model, name, new)
