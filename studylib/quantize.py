"""Static quantization through torchao's PT2E, weights in 2 to 8 bits, held in int8 layers of our own.

PT2E exports the model, fuses convolution + batch norm, watches the activations of calibration images and
fixes every scale; its graph, though, keeps float copies of the weights and needs torchao to load.  So the
scales are taken from it once, and the model is held as :class:`Int8Conv2d` and :class:`Int8Linear`, which
run the same ``quantized_decomposed`` operations on the same numbers.

Weights of b < 8 bits are the integers −m … m with m = 2^(b−1) − 1, one scale per output channel, max |w| / m: none is
off by more than half a step, and the largest is exact. (With −m − 1, which torchao has for 8 bits, the scale is
max |w| / (m + ½), and a channel's largest negative weight lies halfway between two integers, rounding either way.)
"""

import math
import operator
from typing import Annotated

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import nn
from torch.ao.quantization.fx import _decomposed  # noqa: F401  (registers torch.ops.quantized_decomposed)

from studylib import models, pt2e
from studylib.data import Data
from studylib.settings import record

ACTIVATIONS = ("static", "dynamic", "float")  # an input is rounded in a fixed range, in each batch's own, or not at all


@record
class Quantization:
    """What fixes the scales in :func:`apply`; the paper (section 3.6) says no number of images, this one is ours."""

    calibration_images: Annotated[
        int, Field(ge=1, description="training images that fix the ranges of the layers' inputs")
    ] = 512

    def against(self, data: Data) -> None:
        """Raises ValueError where there are not so many training images."""
        _check_calibration(self.calibration_images, data)


class Int8Layer(nn.Module):
    """What an int8 convolution and an int8 linear layer share.

    Buffers: ``weight`` int8 (out, …), ``weight_scale`` float32 (out,), ``bias`` float32 (out,),
    ``input_scale`` float32 (), ``input_zero_point`` uint8 ().  The real value of a weight is weight × scale;
    of an input, (q − zero point) × scale.  Zero weights are the integer 0 (symmetric quantization).

    Where ``activations`` is not "static" there are no ``input_scale`` and ``input_zero_point``: "dynamic" takes them
    from the batch at hand, "float" does not round the input.  The integers of ``weight`` take ``bits`` bits.
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
        """Takes the input's scale and zero point out of their buffers as Python numbers.

        That is what PT2E's graph holds and what compiles to int8 kernels; to be called when they change.
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
            self.weight, self.weight_scale, zeros, 0, pt2e.QMIN, pt2e.QMAX, torch.int8
        )

    def extra_repr(self) -> str:
        return ", ".join(f"{name}={getattr(self, name)!r}" for name in self.settings)

    def quantized_input(self, x: torch.Tensor) -> torch.Tensor:
        """``x`` rounded to the grid of the input's 256 levels, float32 again; as it is where activations are float."""
        if self.activations == "float":
            return x
        kind = (pt2e.AMIN, pt2e.AMAX, torch.uint8)
        if self.activations == "dynamic":
            ops = torch.ops.quantized_decomposed
            scale, zero = ops.choose_qparams.tensor(x, pt2e.AMIN, pt2e.AMAX, pt2e.LEAST, torch.uint8)
            return ops.dequantize_per_tensor.tensor(
                ops.quantize_per_tensor.tensor(x, scale, zero, *kind), scale, zero, *kind
            )
        parameters = (*self._input, *kind)
        q = torch.ops.quantized_decomposed.quantize_per_tensor(x, *parameters)
        return torch.ops.quantized_decomposed.dequantize_per_tensor(q, *parameters)


class Int8Conv2d(Int8Layer):
    """An int8 convolution, with the batch norm that followed it folded in; it always has a bias.

    ``stride``, ``padding``, ``dilation``, ``groups`` and ``padding_mode`` are nn.Conv2d's.
    """

    settings = ("bits", "activations", "stride", "padding", "dilation", "groups", "padding_mode")

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
        left, right, top, bottom = pads = pt2e.pads(self)
        padding = (top, left)
        if self.padding_mode != "zeros" or (left, top) != (right, bottom):
            x, padding = F.pad(x, pads, "constant" if self.padding_mode == "zeros" else self.padding_mode), 0
        x, how = self.quantized_input(x), (self.stride, padding, self.dilation, self.groups)
        return F.conv2d(x, self.dequantized_weight(), self.bias, *how)


class Int8Linear(Int8Layer):
    """An int8 linear layer."""

    settings = ("bits", "activations")

    def forward(self, x):
        return F.linear(self.quantized_input(x), self.dequantized_weight(), self.bias)


def apply(
    model: nn.Module, data: Data, *, calibration_images: int = 512, seed: int = 0, bits: int | dict[str, int] = 8
) -> nn.Module:
    """Quantizes every convolution and linear layer after training, calibrated on training images.

    Weights: symmetric, one scale per output channel; activations: 8 bits, affine, one scale per layer's input
    (Jacob et al. 2018; Krishnamoorthi 2018, the paper's section 3.6).  Zero weights stay zero.

    Args:
        calibration_images: how many training images, drawn by ``seed``, fix the activations' scales.
        bits: of the weights, 2 to 8, or layer → bits; layers that are not named have 8.

    Raises:
        models.SpecError: the model is int8 already, ``bits`` are not 2 to 8 or of a layer that is not there, or a
            layer or batch norm cannot be carried over (:func:`studylib.pt2e.export`).
        ValueError: ``calibration_images`` is not between 1 and the number of training images, or a number of ``model``
            is not finite, or one that a layer makes of these images.
    """
    models.check_finite(model.state_dict())
    images = calibration(data, calibration_images, seed)
    float_model = models.duplicate(model).cpu().eval()
    return from_pt2e(float_model, pt2e.convert(float_model, images, bits=bits))


def calibration(data: Data, count: int, seed: int) -> torch.Tensor:
    """``count`` normalized training images drawn by ``seed``, (count, c, h, w); ValueError as in :func:`apply`."""
    _check_calibration(count, data)
    order = torch.randperm(len(data.train), generator=torch.Generator().manual_seed(seed))
    return data.normalize(data.train.images[order[:count]])


def _check_calibration(count: int, data: Data) -> None:
    if not 1 <= count <= len(data.train):
        raise ValueError(f"calibration_images={count}: expected 1 to {len(data.train)}")


def from_pt2e(model: nn.Module, graph: torch.fx.GraphModule, technique="int8", did=None, history=None) -> nn.Module:
    """The int8 model that computes what PT2E's ``graph`` of ``model`` does, bit for bit; the rest is put on record."""
    nodes = {pt2e.module_name(node): node for node in graph.graph.nodes if node.target in pt2e.OPERATIONS}
    layers = list(models.weight_layers(model))
    nodes = {name: nodes[name] for name in layers}  # what else has weights stays as it is
    structure = {"module": "quantize", "layers": layers}
    bits = {name: node.args[1].args[5].bit_length() + 1 for name, node in nodes.items()}  # of the largest integer
    if low := {name: b for name, b in bits.items() if b != 8}:
        structure["bits"] = bits[layers[0]] if len(set(bits.values())) == 1 else low
    quantized = models.duplicate(model)
    restructure(quantized, structure)
    for name, node in nodes.items():
        layer = quantized.get_submodule(name)
        activation, weight, bias = (*node.args, None)[:3]
        constants = (layer.weight, weight.args[0]), (layer.weight_scale, weight.args[1]), (layer.bias, bias)
        for buffer, constant in constants[: 3 if bias is not None else 2]:
            buffer.copy_(operator.attrgetter(constant.target)(graph).detach())
        layer.input_scale.fill_(activation.args[1])
        layer.input_zero_point.fill_(activation.args[2])
        layer.freeze()
    return models.with_change(quantized, technique, {"layers": len(layers), **(did or {})}, structure, history)


def with_activations(model: nn.Module, float_model: nn.Module, activations: str) -> nn.Module:
    """The int8 ``model`` of ``float_model`` with its inputs rounded otherwise: one of :data:`ACTIVATIONS`.

    Weights, their scales and biases stay; "dynamic" and "float" (weight-only quantization) need no calibration.

    Raises:
        models.SpecError: an unknown name.
    """
    structure = {**model.spec["changes"][-1]["structure"], "activations": activations}
    new = models.duplicate(float_model).cpu().eval()
    restructure(new, structure)
    known = new.state_dict()
    new.load_state_dict({name: tensor for name, tensor in model.state_dict().items() if name in known})
    return models.with_change(
        new, model.spec["changes"][-1]["technique"], {"layers": len(structure["layers"])}, structure
    )


@torch.no_grad()
def layer_errors(float_model: nn.Module, model: nn.Module, images: torch.Tensor) -> dict[str, float]:
    """Layer → signal-to-quantization-noise ratio of its output, 10 log₁₀ (Σ y² / Σ (y − ŷ)²) in dB.

    ŷ is the output of the int8 ``model`` on the same images, with all the error that came in from earlier layers.

    Args:
        images: (n, c, h, w) float32, normalized.
    """
    outputs: list[dict[str, torch.Tensor]] = []
    for each in (models.fold_batch_norm(float_model), models.duplicate(model)):
        found: dict[str, torch.Tensor] = {}
        for name, layer in models.weight_layers(each.cpu().eval()).items():
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
        raise models.SpecError(f"activations {activations!r}: expected one of {', '.join(ACTIVATIONS)}")
    bits = pt2e.bits_of_layers(model, structure.get("bits", 8))
    for name in structure["layers"]:
        layer = model.get_submodule(name)
        if type(layer) not in (nn.Conv2d, nn.Linear):
            raise models.SpecError(f"{name} is {type(layer).__name__}: expected a convolution or linear layer")
        shape, how = tuple(layer.weight.shape), {"activations": activations, "bits": bits[name]}
        if isinstance(layer, nn.Linear):
            new = Int8Linear(shape, layer.bias is not None, **how)
        else:
            how |= {key: getattr(layer, key) for key in ("stride", "padding", "dilation", "groups", "padding_mode")}
            new, unit = Int8Conv2d(shape, **how), model.get_submodule(name.rpartition(".")[0])
            norm = unit.norm if isinstance(unit, models.ConvUnit) and unit.conv is layer else None
            if isinstance(norm, nn.BatchNorm2d):
                unit.norm = nn.Identity()  # folded into the convolution
        models.replace_module(model, name, new)
