"""int8 layers: integers of 1 to 8 bits with a scale a channel, and what computes with them.

They run the ``quantized_decomposed`` operations of PT2E's graph on the same numbers, without its float copies.
Weights of b < 8 bits are the integers −m … m with m = 2^(b−1) − 1. Each output channel has a scale, max |w| / m. None
is off by more than half a step; the largest is exact. In 8 bits there is −m − 1, too, at a scale of max |w| / (m + ½).
There a channel's largest negative weight lies halfway between two integers and rounds either way. One bit is a sign
(:func:`studylib.networks.grid.steps`). In groups a channel has several scales, each of neighbours among its weights.
"""

import math

import torch
import torch.nn.functional as F
from torch import nn
from torch.ao.quantization.fx import _decomposed  # noqa: F401  (registers torch.ops.quantized_decomposed)

from studylib.networks.blocks import SETTINGS, ConvUnit, SpecError, TransposedConv2d
from studylib.networks.grid import AMAX, AMIN, LEAST, QMAX, QMIN, grouped, integers, steps
from studylib.networks.layers import duplicate, fold_batch_norm, replace_module, weight_layers

PER_SAMPLE = "dynamic per sample"
ACTIVATIONS = ("static", "dynamic", PER_SAMPLE, "float")  # an input's range is fixed, its batch's, its own, or none


def bits_of_layers(model: nn.Module, bits: int | dict[str, int], least: int = 2) -> dict[str, int]:
    """Layer → bits, 8 where ``bits`` does not name it. SpecError: not ``least`` to 8, or of no layer."""
    layers = weight_layers(model)
    if not isinstance(bits, dict):
        bits = dict.fromkeys(layers, bits)
    for name, value in bits.items():
        if name not in layers:
            raise SpecError(f"bits of {name!r}: expected one of the layers {', '.join(layers)}")
        if type(value) is not int or not least <= value <= 8:
            raise SpecError(f"bits={value!r} of {name}: expected a whole number from {least} to 8")
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
    float32 (), ``input_zero_point`` uint8 (). A weight's value is weight × scale, an input's (q − zero point) × scale.
    Only ``activations`` "static" has the last two: "dynamic" takes them from each batch, "float" rounds no input.
    ``group``: the most weights that share a scale, so that ``weight_scale`` is (out, groups); 0: a channel's all do.
    """

    is_weight_layer = True

    def __init__(self, weight_shape, has_bias: bool = True, activations: str = "static", bits: int = 8, group: int = 0):
        super().__init__()
        out, static = weight_shape[0], activations == "static"
        self.activations, self.bits, self.group = activations, bits, group
        self.register_buffer("weight", torch.zeros(weight_shape, dtype=torch.int8))
        count = -(-math.prod(weight_shape[1:]) // group) if group else 0
        self.register_buffer("weight_scale", torch.ones((out, count) if group else out))
        self.register_buffer("bias", torch.zeros(out) if has_bias else None)
        self.register_buffer("input_scale", torch.ones(()) if static else None)
        self.register_buffer("input_zero_point", torch.zeros((), dtype=torch.uint8) if static else None)
        self._input = (1.0, 0)

    def freeze(self) -> None:
        """Holds the input's scale and zero point as numbers, which int8 kernels need; call it when they change."""
        if self.activations == "static":
            self._input = (float(self.input_scale), int(self.input_zero_point))

    def _load_from_state_dict(self, *args, **kwargs):
        super()._load_from_state_dict(*args, **kwargs)
        self.freeze()

    def dequantized_weight(self) -> torch.Tensor:
        """The float32 weight that the integers stand for, the shape of ``weight``."""
        if self.group:
            rows = grouped(self.weight, self.weight_scale.shape[1]) * self.weight_scale[..., None]
            return rows.flatten(1)[:, : self.weight[0].numel()].view(self.weight.shape)
        grid = self.weight_scale, torch.zeros_like(self.weight_scale, dtype=torch.int64), 0, QMIN, QMAX, torch.int8
        return torch.ops.quantized_decomposed.dequantize_per_channel(self.weight, *grid)

    def extra_repr(self) -> str:
        return ", ".join(f"{name}={getattr(self, name)!r}" for name in self.settings)

    def quantized_input(self, x: torch.Tensor) -> torch.Tensor:
        """``x`` rounded to the grid of the input's 256 levels, float32 again; as it is where activations are float."""
        if self.activations == "float":
            return x
        if self.activations == PER_SAMPLE:
            return rounded_by_sample(x)
        ops, kind = torch.ops.quantized_decomposed, (AMIN, AMAX, torch.uint8)
        if self.activations == "dynamic":
            grid = (*ops.choose_qparams.tensor(x, AMIN, AMAX, LEAST, torch.uint8), *kind)
            return ops.dequantize_per_tensor.tensor(ops.quantize_per_tensor.tensor(x, *grid), *grid)
        grid = (*self._input, *kind)
        return ops.dequantize_per_tensor(ops.quantize_per_tensor(x, *grid), *grid)


def rounded_by_sample(x: torch.Tensor) -> torch.Tensor:
    """``x``, each image (n, c, h, w) or vector (…, d) rounded to 256 levels of its own range."""
    rows = x.flatten(1) if x.dim() == 4 else x.reshape(-1, x.shape[-1])
    low, high = rows.amin(1, keepdim=True).clamp(max=0), rows.amax(1, keepdim=True).clamp(min=0)
    scale = ((high - low) / (AMAX - AMIN)).clamp(min=LEAST)
    zero = (AMIN - (low / scale).round()).clamp(AMIN, AMAX)
    levels = ((rows * (1 / scale.double()).float()).round() + zero).clamp(AMIN, AMAX)
    return ((levels - zero) * scale).view(x.shape)


class Int8Conv2d(Int8Layer):
    """An int8 convolution with the batch norm behind it folded in and always a bias; settings are nn.Conv2d's."""

    settings = ("bits", "activations", "group", *SETTINGS)

    def __init__(self, weight_shape, padding=0, *, stride=1, dilation=1, groups=1, padding_mode="zeros", **how):
        super().__init__(weight_shape, **how)
        self.kernel_size, self.groups, self.padding_mode = tuple(weight_shape[2:]), groups, padding_mode
        pairs = (each if isinstance(each, str | tuple) else (each, each) for each in (stride, padding, dilation))
        self.stride, self.padding, self.dilation = pairs

    def padded(self, x: torch.Tensor) -> tuple[torch.Tensor, int | tuple[int, int]]:
        """``x`` and by how many zeros a convolution is still to pad it."""
        left, right, top, bottom = around = pads(self)
        if self.padding_mode != "zeros" or (left, top) != (right, bottom):
            return F.pad(x, around, "constant" if self.padding_mode == "zeros" else self.padding_mode), 0
        return x, (top, left)

    def forward(self, x):
        x, padding = self.padded(x)
        x, how = self.quantized_input(x), (self.stride, padding, self.dilation, self.groups)
        return F.conv2d(x, self.dequantized_weight(), self.bias, *how)


class Int8TransposedConv2d(Int8Conv2d):
    """An int8 transposed convolution, its weight as :class:`studylib.networks.blocks.TransposedConv2d` has it."""

    is_transposed = True

    def forward(self, x):
        weight = self.dequantized_weight().transpose(0, 1)
        return F.conv_transpose2d(self.quantized_input(x), weight, self.bias, self.stride, self.padding)


class Int8Linear(Int8Layer):
    """An int8 linear layer."""

    settings = ("bits", "activations", "group")

    def forward(self, x):
        return F.linear(self.quantized_input(x), self.dequantized_weight(), self.bias)


def restructure(model: nn.Module, structure: dict) -> None:
    """Puts empty int8 layers in the place of the float ones named in ``structure["layers"]``, in place.

    ``structure["bits"]``, one number or layer → bits, is 8 where it says nothing; ``structure["group"]`` is 0.
    """
    activations = structure.get("activations", "static")
    if activations not in ACTIVATIONS:
        raise SpecError(f"activations {activations!r}: expected one of {', '.join(ACTIVATIONS)}")
    bits, group = bits_of_layers(model, structure.get("bits", 8), least=1), structure.get("group", 0)
    if type(group) is not int or group < 0:
        raise SpecError(f"group={group!r}: expected a whole number of weights, or 0")
    for name in structure["layers"]:
        kinds = Int8Conv2d, Int8Linear, Int8TransposedConv2d
        put(model, name, kinds, activations=activations, bits=bits.get(name, 8), group=group)


def put(model: nn.Module, name: str, kinds: tuple[type, ...], **how) -> None:
    """An empty layer of one of ``kinds`` in the place of the float layer ``name``.

    ``kinds``: of convolutions, of linear layers, and maybe of transposed convolutions. A batch norm behind a
    convolution goes: it is folded. SpecError: ``name`` is of another kind.
    """
    layer = model.get_submodule(name)
    kind = dict(zip((nn.Conv2d, nn.Linear, TransposedConv2d), kinds, strict=False)).get(type(layer))
    if kind is None:
        raise SpecError(f"{name} is {type(layer).__name__}: expected a convolution or linear layer")
    shape = tuple(layer.weight.shape)
    if isinstance(layer, nn.Linear):
        new = kind(shape, has_bias=layer.bias is not None, **how)
    else:
        how |= {key: getattr(layer, key) for key in SETTINGS}
        new, unit = kind(shape, **how), model.get_submodule(name.rpartition(".")[0])
        norm = unit.norm if isinstance(unit, ConvUnit) and unit.conv is layer else None
        if isinstance(norm, nn.BatchNorm2d):
            unit.norm = nn.Identity()  # folded into the convolution
    replace_module(model, name, new)


@torch.no_grad()
def rounded(model: nn.Module, structure: dict) -> nn.Module:
    """A copy of the float ``model`` on the CPU, changed by ``structure``, weights rounded to the nearest integers.

    Batch norms are folded into what is rounded. No input is seen: its range is not to be "static".
    """
    folded = weight_layers(fold_batch_norm(model))
    new = duplicate(model).cpu().eval()
    restructure(new, structure)
    for name in structure["layers"]:
        layer, given = new.get_submodule(name), folded[name]
        rows = grouped(given.weight.cpu(), layer.weight_scale[0].numel())
        scale = steps(rows.flatten(0, 1), layer.bits)
        whole = integers(rows.flatten(0, 1), scale, layer.bits).view(len(rows), -1)[:, : given.weight[0].numel()]
        layer.weight.copy_(whole.view(given.weight.shape))
        layer.weight_scale.copy_(scale.view(layer.weight_scale.shape))
        if given.bias is not None:
            layer.bias.copy_(given.bias)
    return new
