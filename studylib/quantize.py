"""Static int8 quantization through torchao's PT2E, held in int8 layers of our own.

PT2E exports the model, fuses convolution + batch norm, watches the activations of calibration images and
fixes every scale; its graph, though, keeps float copies of the weights and needs torchao to load.  So the
scales are taken from it once, and the model is held as :class:`Int8Conv2d` and :class:`Int8Linear`, which
run the same ``quantized_decomposed`` operations on the same numbers.
"""

import logging
import math
import warnings

import torch
import torch.nn.functional as F
from torch import nn
from torch.ao.quantization.fx import _decomposed  # noqa: F401  (registers torch.ops.quantized_decomposed)

from studylib import models
from studylib.data import Data

QMIN, QMAX = -128, 127  # int8 weights
ACTIVATIONS = (
    "static",
    "dynamic",
    "float",
)  # how a layer's input is rounded: fixed range, each batch's own, not at all
AMIN, AMAX = 0, 255  # uint8 activations


class Int8Layer(nn.Module):
    """What an int8 convolution and an int8 linear layer share.

    Buffers: ``weight`` int8 (out, …), ``weight_scale`` float32 (out,), ``bias`` float32 (out,),
    ``input_scale`` float32 (), ``input_zero_point`` uint8 ().  The real value of a weight is weight × scale;
    of an input, (q − zero point) × scale.  Zero weights are the integer 0 (symmetric quantization).

    Where ``activations`` is not "static" there are no ``input_scale`` and ``input_zero_point``: "dynamic" takes them
    from the batch at hand, "float" does not round the input.
    """

    is_weight_layer = True

    def __init__(self, weight_shape, has_bias: bool = True, activations: str = "static"):
        super().__init__()
        out, static = weight_shape[0], activations == "static"
        self.activations = activations
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
            self.weight, self.weight_scale, zeros, 0, QMIN, QMAX, torch.int8
        )

    def quantized_input(self, x: torch.Tensor) -> torch.Tensor:
        """``x`` rounded to the grid of the input's 256 levels, float32 again; as it is where activations are float."""
        if self.activations == "float":
            return x
        kind = (AMIN, AMAX, torch.uint8)
        if self.activations == "dynamic":
            ops = torch.ops.quantized_decomposed
            scale, zero = ops.choose_qparams.tensor(x, AMIN, AMAX, torch.finfo(torch.float32).eps, torch.uint8)
            return ops.dequantize_per_tensor.tensor(
                ops.quantize_per_tensor.tensor(x, scale, zero, *kind), scale, zero, *kind
            )
        parameters = (*self._input, *kind)
        q = torch.ops.quantized_decomposed.quantize_per_tensor(x, *parameters)
        return torch.ops.quantized_decomposed.dequantize_per_tensor(q, *parameters)


class Int8Conv2d(Int8Layer):
    """An int8 convolution, stride 1, with the batch norm that followed it folded in."""

    def __init__(self, weight_shape, padding: int, activations: str = "static"):
        super().__init__(weight_shape, activations=activations)
        self.padding = padding

    def forward(self, x):
        return F.conv2d(self.quantized_input(x), self.dequantized_weight(), self.bias, padding=self.padding)


class Int8Linear(Int8Layer):
    """An int8 linear layer."""

    def forward(self, x):
        return F.linear(self.quantized_input(x), self.dequantized_weight(), self.bias)


def apply(model: nn.Module, data: Data, *, calibration_images: int = 512, seed: int = 0) -> nn.Module:
    """Quantizes every convolution and linear layer to int8, calibrated on training images.

    Weights: symmetric, one scale per output channel; activations: affine, one scale per layer's input
    (Jacob et al. 2018; Krishnamoorthi 2018, the paper's section 3.6).  Zero weights stay zero.

    Args:
        calibration_images: how many training images, drawn by ``seed``, fix the activations' scales.

    Raises:
        models.SpecError: the model is int8 already.
        ValueError: ``calibration_images`` is not between 1 and the number of training images.
    """
    if not 1 <= calibration_images <= len(data.train):
        raise ValueError(f"calibration_images={calibration_images}: expected 1 to {len(data.train)}")
    order = torch.randperm(len(data.train), generator=torch.Generator().manual_seed(seed))
    images = data.normalize(data.train.images[order[:calibration_images]])
    float_model = models.duplicate(model).cpu().eval()
    return from_pt2e(float_model, convert(float_model, images))


def convert(model: nn.Module, images: torch.Tensor) -> torch.fx.GraphModule:
    """PT2E's converted graph of ``model``, calibrated on the batch ``images`` (n, c, h, w), float32.

    Convolutions and linear layers are quantized and nothing between them: pooling and concatenation stay
    exact, so that each layer's input is rounded once.
    """
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)  # torchao's import warns of torch's own insides
    try:
        from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e
        from torchao.quantization.pt2e.quantizer import x86_inductor_quantizer as x86
    finally:
        logging.disable(before)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        batch = {0: torch.export.Dim.AUTO}
        graph = torch.export.export(model.eval(), (images[:2],), dynamic_shapes=(batch,)).module()
        config = x86.get_default_x86_inductor_quantization_config()
        quantizer = x86.X86InductorQuantizer()
        for kind in (nn.Conv2d, nn.Linear):
            quantizer.set_module_type_qconfig(kind, config)
        prepared = prepare_pt2e(graph, quantizer)
        with torch.no_grad():
            for chunk in images.split(128):
                prepared(chunk)
        return convert_pt2e(prepared)


def from_pt2e(model: nn.Module, graph: torch.fx.GraphModule) -> nn.Module:
    """The int8 model that computes what PT2E's converted ``graph`` of ``model`` computes, bit for bit."""
    quantized = models.duplicate(model)
    structure = {"module": "quantize", "layers": list(models.weight_layers(model))}
    restructure(quantized, structure)
    for node in graph.graph.nodes:
        if node.target not in (torch.ops.aten.conv2d.default, torch.ops.aten.linear.default):
            continue
        layer = quantized.get_submodule(_module_name(node))
        activation, weight, bias = (*node.args, None)[:3]
        integers, scale = (_constant(graph, a) for a in weight.args[:2])
        layer.weight.copy_(integers)
        layer.weight_scale.copy_(scale)
        if bias is not None:
            layer.bias.copy_(_constant(graph, bias))
        layer.input_scale.fill_(activation.args[1])
        layer.input_zero_point.fill_(activation.args[2])
        layer.freeze()
    return models.with_change(quantized, "int8", {"layers": len(structure["layers"])}, structure)


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
    return models.with_change(new, "int8", {"layers": len(structure["layers"])}, structure)


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
    """Puts empty int8 layers in the place of the float ones named in ``structure["layers"]``, in place."""
    activations = structure.get("activations", "static")
    if activations not in ACTIVATIONS:
        raise models.SpecError(f"activations {activations!r}: expected one of {', '.join(ACTIVATIONS)}")
    for name in structure["layers"]:
        layer = model.get_submodule(name)
        if isinstance(layer, nn.Conv2d):
            new = Int8Conv2d(tuple(layer.weight.shape), layer.padding[0], activations)
            unit = model.get_submodule(name.rpartition(".")[0])
            unit.norm = nn.Identity()  # folded into the convolution
        elif isinstance(layer, nn.Linear):
            new = Int8Linear(tuple(layer.weight.shape), layer.bias is not None, activations)
        else:
            raise models.SpecError(f"{name} is {type(layer).__name__}: expected a convolution or linear layer")
        models.replace_module(model, name, new)


def _module_name(node: torch.fx.Node) -> str:
    """The dotted name of the module that an exported operation came from."""
    path, _ = list(node.meta["nn_module_stack"].values())[-1]
    return path.removeprefix("L['self'].").replace("L__self___", "")


def _constant(graph: torch.fx.GraphModule, node: torch.fx.Node) -> torch.Tensor:
    value = graph
    for part in str(node.target).split("."):
        value = getattr(value, part)
    return value.detach()
