"""The form in which a model is shipped: batch norms folded, dead channels sliced away, floats rounded if asked.

A channel is dead where it is zero for every image (its weights are zero and its bias adds nothing that the ReLU
would let through), or where no later layer has a weight that reads it and none rounds it by a range that it widens
(:data:`studylib.quantize.ACTIVATIONS`, "dynamic"). To slice it takes its row, its bias and its
scale out of the layer that makes it and its columns out of the layers that read it. Mathematically the network
computes what it did; a convolution over fewer channels may round otherwise, so that a reference is taken after it.
"""

import copy
import dataclasses

import torch
from torch import nn

from studylib import models

FLOATS = ("float32", "float16")  # as which floats are stored; a file says which by its place here


class HalfPrecisionError(ValueError):
    """A float that half precision cannot hold; the message names it."""


@dataclasses.dataclass
class Reader:
    """A layer, and for each of its input channels the layer's column block that reads it."""

    name: str
    sources: list[tuple[str, int]]  # (the layer that made the channel, its row there), in the order of the columns


def apply(model: nn.Module, *, slice_dead: bool = True, floats: str = "float32") -> nn.Module:
    """``model`` as it is shipped, on the CPU; what was done is recorded as one change of its spec.

    A model in that form already is returned as a copy, unchanged.

    Args:
        slice_dead: take dead channels out, all but one of a layer that has no other.
        floats: "float16" rounds every float (biases, scales, float weights) to half precision; the tensors stay
            float32. A scale that would become zero or infinite is refused.

    Raises:
        ValueError: unknown ``floats``.
        HalfPrecisionError: a float that half precision cannot hold.
    """
    if floats not in FLOATS:
        raise ValueError(f"floats={floats!r}: expected one of {', '.join(FLOATS)}")
    new = models.fold_batch_norm(model).cpu().eval()
    for tensor in (*new.parameters(), *new.buffers()):
        tensor.data = tensor.data.clone(memory_format=torch.contiguous_format)  # else convolutions round otherwise
    before = {name: _widths(layer) for name, layer in models.weight_layers(new).items()}
    if floats == "float16":
        _round(new)  # first: what becomes zero may leave a channel dead
    dead = _slice(new) if slice_dead and hasattr(new, "wiring") else 0
    after = {name: _widths(layer) for name, layer in models.weight_layers(new).items()}
    widths = {name: list(after[name]) for name in after if after[name] != before[name]}
    folded = any(isinstance(m, nn.BatchNorm2d) for m in model.modules())
    if not widths and not folded and floats == floats_of(model):
        return new
    did = {"sliced": dead, "floats": floats}
    return models.with_change(new, "inference", did, {"module": "inference", "widths": widths}, model.history)


def floats_of(model: nn.Module) -> str:
    """The width of the floats of ``model``, as its last change of this kind says; "float32" without one."""
    said = [change["floats"] for change in model.spec["changes"] if change["technique"] == "inference"]
    return said[-1] if said else "float32"


def restructure(model: nn.Module, structure: dict) -> None:
    """Folds every batch norm away and gives the layers in ``structure["widths"]`` their new widths, in place."""
    for unit in list(model.modules()):
        if isinstance(unit, models.ConvUnit) and isinstance(unit.norm, nn.BatchNorm2d):
            unit.norm = nn.Identity()
            unit.conv = _like(unit.conv, unit.conv.out_channels, unit.conv.in_channels, bias=True)
    for name, (out, into) in structure["widths"].items():
        layer = model.get_submodule(name)
        old = _widths(layer)
        if not all(new == was or 1 <= new <= was for new, was in zip((out, into), old, strict=True)):
            raise models.SpecError(f"{name}: widths {[out, into]} of a layer that has {list(old)}")
        models.replace_module(model, name, _like(layer, out, into, bias=layer.bias is not None))


def _like(layer: nn.Module, out: int, into: int, bias: bool) -> nn.Module:
    """An empty layer of the kind of ``layer`` with other widths."""
    if isinstance(layer, nn.Conv2d):
        return nn.Conv2d(into, out, layer.kernel_size, padding=layer.padding, bias=bias)
    if isinstance(layer, nn.Linear):
        return nn.Linear(into, out, bias=bias)
    new = copy.deepcopy(layer)  # an int8 layer: buffers only
    for name, buffer in layer.named_buffers():
        shape = (out, into, *buffer.shape[2:]) if name == "weight" else (out,) if buffer.dim() else ()
        setattr(new, name, torch.zeros(shape, dtype=buffer.dtype, device=buffer.device))
    return new


def _widths(layer: nn.Module) -> tuple[int, int]:
    return tuple(layer.weight.shape[:2])


def readers(model: nn.Module) -> list[Reader]:
    """Every layer with the channels it reads, those of the images left out."""
    layers, found = models.weight_layers(model), []
    for name, producers in model.wiring():
        first, last = (f"{name}.first", f"{name}.second") if f"{name}.first" in layers else (name, name)
        rows = []
        for producer in producers:
            producer = f"{producer}.second" if f"{producer}.second" in layers else producer
            rows += [(producer, i) for i in range(layers[producer].weight.shape[0])]
        if rows:
            each = layers[first].weight.shape[1] // len(rows)  # features of one channel, where an image is flattened
            found.append(Reader(first, [source for source in rows for _ in range(each)]))
        if last != first:
            found.append(Reader(last, [(first, i) for i in range(layers[first].weight.shape[0])]))
    return found


@torch.no_grad()
def _slice(model: nn.Module) -> int:
    """Takes dead channels out of ``model``, in place, until there is none; how many they were."""
    layers, found, count = models.weight_layers(model), readers(model), 0
    while True:
        dead = _dead(layers, found)
        if not dead:
            return count
        count += len(dead)
        rows, columns = {}, {}
        for name in {name for name, _ in dead}:
            rows[name] = [i for i in range(len(layers[name].weight)) if (name, i) not in dead]
        for reader in found:
            columns[reader.name] = [j for j, source in enumerate(reader.sources) if source not in dead]
        for name in rows.keys() | {n for n, kept in columns.items() if len(kept) < layers[n].weight.shape[1]}:
            _keep(layers[name], rows.get(name), columns.get(name))
        for reader in found:  # the rows that remain have new numbers
            renumber = {n: {old: new for new, old in enumerate(kept)} for n, kept in rows.items()}
            kept = [source for source in reader.sources if source not in dead]
            reader.sources = [(n, renumber[n][i] if n in renumber else i) for n, i in kept]


def _dead(layers: dict, found: list[Reader]) -> set[tuple[str, int]]:
    read = {}
    for reader in found:
        used = (layers[reader.name].weight != 0).transpose(0, 1).flatten(1).any(1)
        if getattr(layers[reader.name], "activations", "") == "dynamic":
            used = torch.ones_like(used)  # what a channel holds is in the range of the batch
        used = used.tolist()
        for source, does in zip(reader.sources, used, strict=True):
            read[source] = read.get(source, False) or does
    dead = set()
    for name in {name for name, _ in read}:
        layer, rows = layers[name], len(layers[name].weight)
        silent = (layer.weight == 0).flatten(1).all(1)
        if layer.bias is not None:  # what goes into the ReLU; a layer without a bias may have none after it
            silent &= layer.bias <= 0
        gone = [i for i in range(rows) if silent[i] or not read[name, i]]
        dead |= {(name, i) for i in (gone if len(gone) < rows else gone[1:])}
    return dead


def _keep(layer: nn.Module, rows: list[int] | None, columns: list[int] | None) -> None:
    """Cuts every tensor of ``layer`` to ``rows`` and ``columns``, in place; None keeps all."""
    parts = {name: t for name, t in layer.state_dict(keep_vars=True).items() if t is not None and t.dim()}
    for name, tensor in parts.items():
        cut = tensor.detach() if rows is None else tensor.detach()[rows]
        cut = cut[:, columns] if columns is not None and name == "weight" else cut
        cut = cut.contiguous()
        setattr(layer, name, nn.Parameter(cut) if isinstance(tensor, nn.Parameter) else cut)
    out, into = _widths(layer)
    for name, width in (("out_channels", out), ("in_channels", into), ("out_features", out), ("in_features", into)):
        if hasattr(layer, name):
            setattr(layer, name, width)


@torch.no_grad()
def _round(model: nn.Module) -> None:
    """Every float of ``model`` to what half precision can hold, in place."""
    for name, tensor in model.state_dict(keep_vars=True).items():
        if not tensor.is_floating_point():
            continue
        half = tensor.detach().half().float()
        lost = ~half.isfinite() & tensor.isfinite()
        if name.endswith("scale"):
            lost |= (half == 0) & (tensor != 0)
        if lost.any():
            raise HalfPrecisionError(
                f"{name}: {tensor[lost].flatten()[0].item()!r} is beyond float16; use floats='float32'"
            )
        tensor.detach().copy_(half)
    for layer in models.weight_layers(model).values():
        if hasattr(layer, "freeze"):
            layer.freeze()
