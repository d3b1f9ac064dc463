"""What is asked of and done to a network's layers: copies, weights, masks, folded batch norms."""

import copy

import torch
from torch import nn

from studylib.networks.blocks import CONVOLUTIONS, ConvUnit, SpecError

Masks = dict[str, torch.Tensor]


def sparsity(model: nn.Module) -> float:
    """Share of the weights of convolutions and linear layers, float or int8, that are zero."""
    weights = [layer.weight for layer in weight_layers(model).values()]
    return 1 - sum(int((w != 0).sum()) for w in weights) / sum(w.numel() for w in weights)


def prunable(model: nn.Module) -> dict[str, torch.Tensor]:
    """Name → weight of every float convolution and linear layer; biases and batch norms are left alone."""
    layers = weight_layers(model).items()
    return {f"{name}.weight": layer.weight for name, layer in layers if isinstance(layer.weight, nn.Parameter)}


def masks_of(model: nn.Module) -> Masks:
    """Name → bool mask of the weights that still live: all of them where nothing was pruned."""
    return {name: weight.detach() != 0 for name, weight in prunable(model).items()}


def check_untouched(model: nn.Module, built: nn.Module | None = None) -> None:
    """Raises SpecError, naming the module, where one has a forward hook or a ``forward`` that its class does not have.

    ``built``: the same modules as their spec builds them; what these have is allowed.
    """
    allowed = dict(built.named_modules()) if built is not None else {}
    for name, module in model.named_modules():
        other = allowed.get(name, nn.Identity())
        for hooks in ("_forward_pre_hooks", "_forward_hooks"):
            if count := max(0, len(getattr(module, hooks)) - len(getattr(other, hooks))):
                what = hooks.strip("_").replace("_", " ").removesuffix("s")
                raise SpecError(f"{name or 'the model'} has a {what}, which no file holds ({count}); remove it first")
        if "forward" in vars(module) and "forward" not in vars(other):
            raise SpecError(f"{name or 'the model'} has a forward of its own: expected that of {type(module).__name__}")


def check_units(model: nn.Module) -> None:
    """Sees that every :class:`ConvUnit` runs its convolution, then its norm, then the rest: else none may be folded.

    SpecError: another ``forward``, or other children first than conv and norm. So is a convolution that is neither
    of :data:`CONVOLUTIONS` nor int8. So is a batch norm other than nn.BatchNorm2d
    itself, or without running statistics.
    """
    for name, unit in model.named_modules():
        if not isinstance(unit, ConvUnit):
            continue
        name, kind, parts = name or "the model", type(unit), list(unit._modules)
        if kind.forward is not nn.Sequential.forward:
            raise SpecError(f"{name} is {kind.__name__}: expected a ConvUnit, whose forward runs its children in order")
        if parts[:2] != ["conv", "norm"]:
            raise SpecError(f"{name} runs {', '.join(parts)}: expected conv, then norm, as a ConvUnit does")
        conv, norm = unit.conv, unit.norm
        if type(conv) not in CONVOLUTIONS and not getattr(conv, "is_weight_layer", False):
            raise SpecError(f"{name}.conv is {type(conv).__name__}: expected Conv2d in a ConvUnit")
        if isinstance(norm, nn.modules.batchnorm._BatchNorm):
            if type(norm) is not nn.BatchNorm2d or type(conv) not in CONVOLUTIONS:
                found = f"{type(norm).__name__} behind {type(conv).__name__}"
                raise SpecError(f"{name}.norm is {found}: expected BatchNorm2d behind Conv2d")
            if norm.running_mean is None:
                raise SpecError(
                    f"{name}.norm has no running statistics: expected track_running_stats=True, to be folded"
                )


def check_finite(tensors: dict[str, torch.Tensor]) -> None:
    """Raises ValueError, naming the tensor, where one of ``tensors``, a model's state, holds NaN or infinity."""
    for name, tensor in tensors.items():
        if not tensor.isfinite().all():
            raise ValueError(f"{name}: holds a number that is not finite; train the model again, at a smaller lr")


def duplicate(model: nn.Module) -> nn.Module:
    """An independent copy, spec included; techniques change copies, never the model they are given."""
    return copy.deepcopy(model)


def weight_layers(model: nn.Module) -> dict[str, nn.Module]:
    """Name → module of each convolution and linear layer, float or int8, in the order of the spec."""
    kinds = (nn.Conv2d, nn.Linear)
    return {n: m for n, m in model.named_modules() if isinstance(m, kinds) or getattr(m, "is_weight_layer", False)}


def replace_module(model: nn.Module, name: str, new: nn.Module) -> None:
    """Puts ``new`` where ``name`` (dotted) stands in ``model``."""
    parent, _, child = name.rpartition(".")
    setattr(model.get_submodule(parent), child, new)


def fold_batch_norm(model: nn.Module) -> nn.Module:
    """A copy with batch norms folded into the convolutions before them; norms of other kinds stay.

    SpecError: a unit that does something else than convolution, then batch norm (:func:`check_units`).
    """
    check_units(model)
    folded = duplicate(model).eval()
    for unit in folded.modules():
        if isinstance(unit, ConvUnit) and isinstance(unit.norm, nn.BatchNorm2d):
            unit.conv = nn.utils.fuse_conv_bn_eval(unit.conv, unit.norm)
            unit.norm = nn.Identity()
    return folded


def check_float(model: nn.Module) -> None:
    """Raises SpecError where a layer is int8, ValueError where a number is not finite."""
    for name, layer in weight_layers(model).items():
        if not isinstance(layer, (nn.Conv2d, nn.Linear)):
            raise SpecError(f"{name} is {type(layer).__name__}: expected a convolution or linear layer")
    check_finite(model.state_dict())
