"""What the study asks of torchao's PT2E: export, a quantizer of 2 to 8 bits a weight, conversion."""

import collections
import contextlib
import math
import operator

import torch
from torch import nn
from torch.ao.quantization.fx import _decomposed  # noqa: F401  (registers torch.ops.quantized_decomposed)

from studylib.data.datasets import Data
from studylib.networks import spec
from studylib.networks.blocks import ConvUnit, SpecError, TransposedConv2d
from studylib.networks.calibration import check_calibration
from studylib.networks.grid import AMAX, AMIN, LEAST, limits
from studylib.networks.int8_layers import bits_of_layers, pads, restructure
from studylib.networks.layers import (
    check_units,
    check_untouched,
    duplicate,
    fold_batch_norm,
    replace_module,
    weight_layers,
)
from studylib.networks.quiet import quiet_torchao

OPERATIONS = (torch.ops.aten.conv2d.default, torch.ops.aten.linear.default, torch.ops.aten.conv_transpose2d.input)


def convert(model: nn.Module, images: torch.Tensor, *, bits: int | dict[str, int] = 8) -> torch.fx.GraphModule:
    """PT2E's converted graph of ``model``, calibrated on the batch ``images`` (n, c, h, w), float32.

    Only convolutions and linear layers are quantized: each input is rounded once, and what lies between stays exact.
    Errors are those of :func:`bits_of_layers`, :func:`export` and :func:`check_range`.
    """
    with quiet_torchao():
        from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e

        graph = export(_turned(duplicate(model.eval())), images)
        check_range(model, images)
        prepared = prepare_pt2e(graph, quantizer(bits_of_layers(model, bits)))
        with torch.no_grad():
            for chunk in images.split(128):
                prepared(chunk)
        return convert_pt2e(prepared)


def _turned(model: nn.Module) -> nn.Module:
    """``model`` with nn.ConvTranspose2d in the place of transposed convolutions, batch norms behind them folded in."""
    names = [name for name, layer in model.named_modules() if type(layer) is TransposedConv2d]
    folded = fold_batch_norm(model) if names else model
    for name in names:
        layer, unit = folded.get_submodule(name), model.get_submodule(name.rpartition(".")[0])
        turned = nn.ConvTranspose2d(*reversed(layer.weight.shape[:2]), layer.kernel_size, layer.stride, layer.padding)
        turned.load_state_dict({"weight": layer.weight.transpose(0, 1).contiguous(), "bias": layer.bias})
        replace_module(model, name, turned.eval())
        if isinstance(unit, ConvUnit):
            unit.norm = nn.Identity()
    return model


@contextlib.contextmanager
def only_conv2d():
    """Spares conversion a search of 15 seconds for batch norms behind other convolutions than Conv2d.

    It replaces a private function of torchao's; without it, conversion takes its time.
    """
    from torchao.quantization.pt2e import qat_utils

    search = getattr(qat_utils, "_fold_conv_bn_qat_helper", None)

    def fold(graph, function, *args, **kwargs):
        return search(graph, function, *args, **kwargs) if function is torch.nn.functional.conv2d else graph

    if search is not None:
        qat_utils._fold_conv_bn_qat_helper = fold
    try:
        yield
    finally:
        if search is not None:
            qat_utils._fold_conv_bn_qat_helper = search


def export(model: nn.Module, images: torch.Tensor) -> torch.fx.GraphModule:
    """torch.export's graph of ``model``, in its mode, for batches of any size; paddings become numbers, in place.

    SpecError: a layer that is neither nn.Conv2d nor nn.Linear itself, or not called exactly once. So is a batch norm
    behind a convolution outside a ConvUnit, which PT2E alone would fold. :func:`check_units` and
    :func:`check_untouched` have more.
    """
    check_untouched(model)
    if not any(isinstance(layer, nn.ConvTranspose2d) for layer in model.modules()):
        check_units(model)
    for name, layer in weight_layers(model).items():
        if type(layer) not in (nn.Conv2d, nn.Linear):
            raise SpecError(f"{name} is {type(layer).__name__}: expected a convolution or linear layer")
        if isinstance(layer, nn.Conv2d) and isinstance(layer.padding, str):
            left, right, top, bottom = pads(layer)
            if layer.padding_mode == "zeros" and (left, top) != (right, bottom):
                layer.padding_mode = "constant"  # by nn.Conv2d's way with other modes, whose pads may be lopsided
            layer.padding = (top, left)
    two = torch.cat([images[:1], images[:1]])  # of a batch of one torch.export makes a graph for that alone
    graph = torch.export.export(model, (two,), dynamic_shapes=({0: torch.export.Dim.AUTO},)).module()
    calls = collections.Counter(
        model.get_submodule(module_name(node)) for node in graph.graph.nodes if node.target in OPERATIONS
    )
    for name, layer in weight_layers(model).items():
        if calls[layer] != 1:
            raise SpecError(f"{name} is called {calls[layer]} times: expected once, for its input has one scale")
    units = {f"{name}.norm": f"{name}.conv" for name, m in model.named_modules() if isinstance(m, ConvUnit)}
    for norm in (node for node in graph.graph.nodes if "batch_norm" in str(node.target)):
        layer, name = norm.args[0], module_name(norm)
        if layer.target == OPERATIONS[0] and (units.get(name) != module_name(layer) or len(layer.users) > 1):
            raise SpecError(f"{name}: a batch norm behind a convolution: expected both in a ConvUnit")
    return graph


@torch.no_grad()
def check_range(model: nn.Module, images: torch.Tensor) -> None:
    """ValueError, naming the layer, where its numbers for ``images`` (n, c, h, w) are not finite or too far apart."""

    def check(name):
        def see(_module, inputs, output):
            for what, tensor in (*(("reads", each) for each in inputs), ("gives", output)):
                if not (tensor.max() - tensor.min()).isfinite():
                    why = "numbers that are not finite, or too far apart for float32, for the calibration images"
                    raise ValueError(f"{name} {what} {why}; train the model again, at a smaller lr")

        return see

    watched = duplicate(model).eval()
    for name, layer in weight_layers(watched).items():
        layer.register_forward_hook(check(name))
    for chunk in images.split(128):
        watched(chunk)


def quantizer(bits: dict[str, int], observers: tuple | None = None):
    """What tells PT2E to round each layer's input and weight only, and to leave sums exact.

    torchao's for x86 also rounds one term of each sum: not that of the convolution before it, but the shortcut.

    ``bits``: layer → bits of its weights; others stay float. ``observers`` make the observer, or fake quantizer, of an
    input and that of a weight. None: histograms of inputs, whose range has the least squared error, and the largest
    magnitude of each channel's weights.
    """
    from torchao.quantization.pt2e import PerChannelMinMaxObserver
    from torchao.quantization.pt2e.quantizer import QuantizationAnnotation, QuantizationSpec, Quantizer

    chosen = observers or tuple(kind.with_args(eps=LEAST) for kind in (_histogram(), PerChannelMinMaxObserver))

    class Layers(Quantizer):
        def annotate(self, graph):
            inputs = QuantizationSpec(torch.uint8, chosen[0], AMIN, AMAX, torch.per_tensor_affine)
            for node in graph.graph.nodes:
                if node.target in OPERATIONS and (name := module_name(node)) in bits:
                    low, high = limits(bits[name])
                    axis = 1 if node.target == OPERATIONS[2] else 0  # of the output channels
                    weight = QuantizationSpec(torch.int8, chosen[1], low, high, torch.per_channel_symmetric, axis)
                    found = QuantizationAnnotation({node.args[0]: inputs, node.args[1]: weight}, _annotated=True)
                    node.meta["quantization_annotation"] = found
            return graph

        def validate(self, graph):
            pass

    return Layers()


def _histogram():
    """torchao's observer of histograms, made to choose alike whatever the unit of what it sees.

    It sums cubes of the bins' widths in float32: those of widths below 10⁻¹³ are zero. Then it would drop all bins.
    """
    from torchao.quantization.pt2e import HistogramObserver

    class Histogram(HistogramObserver):
        def _non_linear_param_search(self):
            ends = self.min_val, self.max_val
            unit = 2.0 ** -math.frexp((self.max_val - self.min_val).item())[1]  # a power of two: no digit changes
            self.min_val, self.max_val = (end * unit for end in ends)
            try:
                return tuple(end / unit for end in super()._non_linear_param_search())
            finally:
                self.min_val, self.max_val = ends

    return Histogram


def module_name(node: torch.fx.Node) -> str:
    """The dotted name of the module that an exported operation came from."""
    path, _ = list(node.meta["nn_module_stack"].values())[-1]
    return path.removeprefix("L['self'].").replace("L__self___", "")


def calibration(data: Data, count: int, seed: int) -> torch.Tensor:
    """``count`` normalized training images drawn by ``seed``, (count, c, h, w); ValueError as in :func:`apply`."""
    check_calibration(count, data)
    order = torch.randperm(len(data.train), generator=torch.Generator().manual_seed(seed))
    return data.normalize(data.train.images[order[:count]])


def from_pt2e(model: nn.Module, graph: torch.fx.GraphModule, technique="int8", did=None, history=None) -> nn.Module:
    """The int8 model that computes what PT2E's ``graph`` of ``model`` does, bit for bit; the rest is put on record."""
    nodes = {module_name(node): node for node in graph.graph.nodes if node.target in OPERATIONS}
    layers = list(weight_layers(model))
    nodes = {name: nodes[name] for name in layers}  # what else has weights stays as it is
    structure = {"module": "quantize", "layers": layers}
    bits = {name: node.args[1].args[5].bit_length() + 1 for name, node in nodes.items()}  # of the largest integer
    if low := {name: b for name, b in bits.items() if b != 8}:
        structure["bits"] = bits[layers[0]] if len(set(bits.values())) == 1 else low
    quantized = duplicate(model)
    restructure(quantized, structure)
    for name, node in nodes.items():
        layer = quantized.get_submodule(name)
        activation, weight, bias = (*node.args, None)[:3]
        constants = (layer.weight, weight.args[0]), (layer.weight_scale, weight.args[1]), (layer.bias, bias)
        for buffer, constant in constants[: 3 if bias is not None else 2]:
            held = operator.attrgetter(constant.target)(graph).detach()
            buffer.copy_(held.transpose(0, 1) if node.target == OPERATIONS[2] and held.dim() > 1 else held)
        layer.input_scale.fill_(activation.args[1])
        layer.input_zero_point.fill_(activation.args[2])
        layer.freeze()
    return spec.with_change(quantized, technique, {"layers": len(layers), **(did or {})}, structure, history)
