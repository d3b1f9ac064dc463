"""What the study asks of torchao's PT2E: export, a quantizer of 2 to 8 bits a weight, conversion."""

import contextlib
import dataclasses
import logging
import warnings

import torch
from torch import nn

from studylib import models

QMIN, QMAX = -128, 127  # int8 weights; also of fewer bits, whose integers lie within
OPERATIONS = (torch.ops.aten.conv2d.default, torch.ops.aten.linear.default)  # that have weights


def bits_of_layers(model: nn.Module, bits: int | dict[str, int]) -> dict[str, int]:
    """Layer → bits, 8 where ``bits`` does not name it, for all layers of ``model``.

    Raises:
        models.SpecError: bits that are not 2 to 8, or of a layer that is not there.
    """
    layers = models.weight_layers(model)
    if not isinstance(bits, dict):
        bits = dict.fromkeys(layers, bits)
    for name, value in bits.items():
        if name not in layers:
            raise models.SpecError(f"bits of {name!r}: expected one of the layers {', '.join(layers)}")
        if type(value) is not int or not 2 <= value <= 8:
            raise models.SpecError(f"bits={value!r} of {name}: expected a whole number from 2 to 8")
    return {name: bits.get(name, 8) for name in layers}


def limits(bits: int) -> tuple[int, int]:
    """The least and the largest integer of a weight of ``bits`` bits."""
    return (QMIN, QMAX) if bits == 8 else (1 - 2 ** (bits - 1), 2 ** (bits - 1) - 1)


def convert(model: nn.Module, images: torch.Tensor, *, bits: int | dict[str, int] = 8) -> torch.fx.GraphModule:
    """PT2E's converted graph of ``model``, calibrated on the batch ``images`` (n, c, h, w), float32.

    Convolutions and linear layers are quantized and nothing between them: pooling and concatenation stay
    exact, so that each layer's input is rounded once.  ``bits``: as in :func:`studylib.quantize.apply`.
    """
    with quiet_torchao():
        from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e

        prepared = prepare_pt2e(export(model.eval(), images), quantizer(bits_of_layers(model, bits)))
        with torch.no_grad():
            for chunk in images.split(128):
                prepared(chunk)
        return convert_pt2e(prepared)


@contextlib.contextmanager
def quiet_torchao():
    """Silences what torchao says of its own and torch's insides, at its import and after."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        import torchao.quantization.pt2e.quantize_pt2e  # noqa: F401
    finally:
        logging.disable(before)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


@contextlib.contextmanager
def only_conv2d():
    """Spares conversion its search for batch norms behind other convolutions, a quarter of a minute: there are none.

    It is a private function of torchao's that is told so; where that is gone, conversion takes its time.
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
    """torch.export's graph of ``model``, in the mode it is in, for batches of any size, whatever that of ``images``."""
    two = torch.cat([images[:1], images[:1]])  # of a batch of one torch.export makes a graph for that alone
    return torch.export.export(model, (two,), dynamic_shapes=({0: torch.export.Dim.AUTO},)).module()


def quantizer(bits: dict[str, int], config=None):
    """torchao's quantizer for x86 CPUs, each layer's weights in ``bits[layer]`` bits; no ``config``: its default."""
    from torchao.quantization.pt2e.quantizer import x86_inductor_quantizer as x86

    class Quantizer(x86.X86InductorQuantizer):
        def annotate(self, graph):
            super().annotate(graph)
            for node in graph.graph.nodes:
                if (annotation := node.meta.get(x86.QUANT_ANNOTATION_KEY)) is None:
                    continue
                annotation.output_qspec = None  # in training torchao rounds the ReLU's output and the next input
                if node.target in OPERATIONS:
                    weight, (low, high) = node.args[1], limits(bits[module_name(node)])
                    spec = dataclasses.replace(annotation.input_qspec_map[weight], quant_min=low, quant_max=high)
                    annotation.input_qspec_map[weight] = spec
            return graph

    chosen = Quantizer()
    for kind in (nn.Conv2d, nn.Linear):
        chosen.set_module_type_qconfig(kind, config or x86.get_default_x86_inductor_quantization_config())
    return chosen


def module_name(node: torch.fx.Node) -> str:
    """The dotted name of the module that an exported operation came from."""
    path, _ = list(node.meta["nn_module_stack"].values())[-1]
    return path.removeprefix("L['self'].").replace("L__self___", "")
