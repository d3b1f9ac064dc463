"""Layers of a network given other widths, as a file says that it was sliced (:mod:`studylib.networks.slicing`)."""

import copy

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from studylib.networks.blocks import SETTINGS, ConvUnit, SpecError, TransposedConv2d
from studylib.networks.layers import replace_module, weight_layers


def restructure(model: nn.Module, structure: dict) -> None:
    """Folds every unit's batch norm away and gives the layers in ``structure["widths"]`` new widths, in place."""
    for unit in list(model.modules()):
        if isinstance(unit, ConvUnit) and isinstance(unit.norm, nn.BatchNorm2d):
            unit.norm = nn.Identity()
            unit.conv = like(unit.conv, *widths_of(unit.conv), bias=True)
    narrow(model, structure)


def narrow(model: nn.Module, structure: dict) -> None:
    """Gives the layers and batch norms in ``structure["widths"]`` new widths, in place; the rest stays."""
    for name, (out, into) in structure["widths"].items():
        layer = model.get_submodule(name)
        old = widths_of(layer)
        if not all(new == was or 1 <= new <= was for new, was in zip((out, into), old, strict=True)):
            raise SpecError(f"{name}: widths {[out, into]} of a layer that has {list(old)}")
        replace_module(model, name, like(layer, out, into, bias=layer.bias is not None).train(layer.training))


def like(layer: nn.Module, out: int, into: int, bias: bool, in_floats: bool = False) -> nn.Module:
    """An empty layer of the kind of ``layer``, or the float one of its kind, with other widths."""
    if isinstance(layer, _BatchNorm):
        return type(layer)(out, layer.eps, layer.momentum, layer.affine, layer.track_running_stats)
    groups = out if is_depthwise(layer) else groups_of(layer)
    if in_floats or isinstance(layer, nn.Conv2d | nn.Linear):
        if layer.weight.dim() == 2:
            return nn.Linear(into, out, bias=bias)
        how = {key: getattr(layer, key) for key in SETTINGS} | {"groups": groups}
        kind = TransposedConv2d if getattr(layer, "is_transposed", False) else nn.Conv2d
        return kind(into * groups, out, layer.kernel_size, bias=bias, **how)
    new = copy.deepcopy(layer)  # an int8 layer: buffers only
    for name, buffer in layer.named_buffers():
        shape = (out, into, *buffer.shape[2:]) if name == "weight" else (out, *buffer.shape[1:]) if buffer.dim() else ()
        setattr(new, name, torch.zeros(shape, dtype=buffer.dtype, device=buffer.device))
    if groups > 1:
        new.groups = groups
    return new


def widths_of(layer: nn.Module) -> tuple[int, int]:
    """Rows and columns; a convolution in groups has the columns of one, a batch norm one."""
    return (layer.num_features, 1) if isinstance(layer, _BatchNorm) else tuple(layer.weight.shape[:2])


def widths(model: nn.Module) -> dict[str, list[int]]:
    """Name → :func:`widths_of`, of all that slicing may cut."""
    found = weight_layers(model) | {name: m for name, m in model.named_modules() if isinstance(m, _BatchNorm)}
    return {name: list(widths_of(layer)) for name, layer in found.items()}


def groups_of(layer: nn.Module) -> int:
    """Groups of a convolution; of another layer 1."""
    return getattr(layer, "groups", 1)


def is_depthwise(layer: nn.Module) -> bool:
    """Whether each row of ``layer`` reads the channel of its own number alone."""
    return 1 < groups_of(layer) == len(layer.weight) and layer.weight.shape[1] == 1
