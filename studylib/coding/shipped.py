"""The form in which a model is shipped: batch norms folded, dead channels sliced away, floats rounded if asked.

Slicing (:mod:`studylib.networks.slicing`) may change how convolutions round, so that a reference is taken after it.
"""

import torch
from torch import nn

from studylib.networks import spec
from studylib.networks.channels import widths
from studylib.networks.grid import has_weights
from studylib.networks.layers import fold_batch_norm, weight_layers
from studylib.networks.slicing import slice_channels

FLOATS = ("float32", "float16")  # how floats are stored; a file has the place in this list
LOSS = 2**-8  # the most that half precision may change a float, as a share of a scale or a layer's largest number


class HalfPrecisionError(ValueError):
    """A float that half precision cannot hold, or not well enough; the message names it."""


def apply(model: nn.Module, *, slice_dead: bool = True, floats: str = "float32") -> nn.Module:
    """``model`` as it is shipped, on the CPU, what was done as one change of its spec. A copy if it is so already.

    Args:
        slice_dead: take dead channels out, all but one of a layer that has no other.
        floats: "float16" rounds biases, scales and float weights to half precision; the tensors stay float32. Numbers
            below 2⁻¹⁴ have fewer than 11 binary digits there, those below 2⁻²⁵ none.

    Raises:
        ValueError: unknown ``floats``.
        HalfPrecisionError: a float that half precision cannot hold, or that would lose more than :data:`LOSS`.
    """
    if floats not in FLOATS:
        raise ValueError(f"floats={floats!r}: expected one of {', '.join(FLOATS)}")
    new = fold_batch_norm(model).cpu().eval()
    for tensor in (*new.parameters(), *new.buffers()):
        tensor.data = tensor.data.clone(memory_format=torch.contiguous_format)  # else convolutions round otherwise
    before = widths(new)
    if floats == "float16":
        _round(new)  # first: what becomes zero may leave a channel dead
    dead = slice_channels(new) if slice_dead else 0
    changed = {name: now for name, now in widths(new).items() if now != before[name]}
    folded = any(isinstance(m, nn.BatchNorm2d) for m in model.modules())
    if not changed and not folded and floats == floats_of(model):
        return new
    did = {"sliced": dead, "floats": floats}
    return spec.with_change(new, "inference", did, {"module": "inference", "widths": changed}, model.history)


def floats_of(model: nn.Module) -> str:
    """The width of the floats of ``model``, as its last change of this kind says; "float32" without one."""
    said = [change["floats"] for change in model.spec["changes"] if change["technique"] == "inference"]
    return said[-1] if said else "float32"


@torch.no_grad()
def _round(model: nn.Module) -> None:
    """Every float of ``model`` to what half precision can hold, in place."""
    layers = weight_layers(model)
    for name, tensor in model.state_dict(keep_vars=True).items():
        if not tensor.is_floating_point():
            continue
        half, layer = tensor.detach().half().float(), layers.get(name.rpartition(".")[0])
        if layer is not None and name.endswith("_scale"):
            rows = has_weights(layer.weight, tensor.shape)
            needed = rows if tensor.dim() else rows.any()
            half = torch.where(needed | (half > 0), half, 1)  # of weights that are all zero any scale will do
            matters = tensor.abs()
        else:
            needed, matters = torch.tensor(True), _largest(layer) if layer is not None else tensor.abs().max()
        lost = ~half.isfinite() & tensor.isfinite() | needed & ((half - tensor).abs() > LOSS * matters)
        if lost.any():
            value = tensor[lost].flatten()[0].item()
            raise HalfPrecisionError(f"{name}: {value!r} is beyond float16; use floats='float32'")
        tensor.detach().copy_(half)
    for layer in layers.values():
        if hasattr(layer, "freeze"):
            layer.freeze()


def _largest(layer: nn.Module) -> torch.Tensor:
    """The largest magnitude of a weight or a bias of ``layer``."""
    weight = layer.dequantized_weight() if hasattr(layer, "dequantized_weight") else layer.weight
    return torch.cat([t.detach().flatten().abs() for t in (weight, layer.bias) if t is not None]).max()
