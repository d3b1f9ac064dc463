"""Which layer reads which channel, and dead channels taken out of a network.

A channel is dead where its weights are zero and the ReLU lets nothing of its bias through. It is dead, too, where no
later weight reads it. A layer whose input is rounded in each batch's range ("dynamic") reads all. Slicing drops its
row, bias and scale, and the columns that read it. Outputs stay the same up to rounding. Channels stay before another
activation than ReLU, in a convolution in groups and before one. Layers whose outputs are added share their
channels. Such a one is dead only if all of them write nothing to it, or nothing reads it. In sums not named in
``wiring`` channels stay.
"""

import copy
import dataclasses
import logging
import operator

import torch
import torch.nn.functional as F
from torch import fx, nn

from studylib.networks.blocks import SETTINGS, ConvUnit, SpecError
from studylib.networks.layers import replace_module, weight_layers

# What a network may do with a channel between two layers: a ReLU, or an operation that keeps zeros zero.
RELUS = (nn.ReLU, nn.ReLU6, torch.relu, torch.relu_, F.relu, F.relu_, F.relu6, "relu", "relu_")
KEEPS = (nn.Identity, nn.Dropout, nn.Dropout2d, nn.Flatten, nn.MaxPool2d, nn.AvgPool2d, nn.AdaptiveMaxPool2d)
KEEPS += (nn.AdaptiveAvgPool2d, torch.flatten, torch.cat, torch.mean, F.max_pool2d, F.avg_pool2d, F.dropout)
KEEPS += (F.adaptive_avg_pool2d, F.adaptive_max_pool2d, "flatten", "view", "reshape", "contiguous", "mean")
SUMS = (operator.add, operator.iadd, torch.add, "add", "add_")
PLACED = (nn.Identity, nn.Dropout, nn.Dropout2d, nn.MaxPool2d, nn.AvgPool2d)  # of KEEPS: each channel by itself

log = logging.getLogger(__name__)


@dataclasses.dataclass
class Reader:
    """A layer and where its input channels come from."""

    name: str
    sources: list[tuple[str, int]]  # (the first layer that made the channel, its row), in the order of the columns


def restructure(model: nn.Module, structure: dict) -> None:
    """Folds every batch norm away and gives the layers in ``structure["widths"]`` their new widths, in place."""
    for unit in list(model.modules()):
        if isinstance(unit, ConvUnit) and isinstance(unit.norm, nn.BatchNorm2d):
            unit.norm = nn.Identity()
            unit.conv = _like(unit.conv, *widths_of(unit.conv), bias=True)
    for name, (out, into) in structure["widths"].items():
        layer = model.get_submodule(name)
        old = widths_of(layer)
        if not all(new == was or 1 <= new <= was for new, was in zip((out, into), old, strict=True)):
            raise SpecError(f"{name}: widths {[out, into]} of a layer that has {list(old)}")
        replace_module(model, name, _like(layer, out, into, bias=layer.bias is not None))


def _like(layer: nn.Module, out: int, into: int, bias: bool) -> nn.Module:
    """An empty layer of the kind of ``layer`` with other widths."""
    if isinstance(layer, nn.Conv2d):
        how = {key: getattr(layer, key) for key in SETTINGS}
        return nn.Conv2d(into * layer.groups, out, layer.kernel_size, bias=bias, **how)
    if isinstance(layer, nn.Linear):
        return nn.Linear(into, out, bias=bias)
    new = copy.deepcopy(layer)  # an int8 layer: buffers only
    for name, buffer in layer.named_buffers():
        shape = (out, into, *buffer.shape[2:]) if name == "weight" else (out,) if buffer.dim() else ()
        setattr(new, name, torch.zeros(shape, dtype=buffer.dtype, device=buffer.device))
    return new


def widths_of(layer: nn.Module) -> tuple[int, int]:
    """Rows and columns; a convolution in groups has the columns of one."""
    return tuple(layer.weight.shape[:2])


def _groups(layer: nn.Module) -> int:
    return getattr(layer, "groups", 1)


def tied(model: nn.Module) -> dict[str, list[str]]:
    """Layer → those that it shares its channels with, itself among them: a sum adds row i to row i."""
    layers = weight_layers(model)
    found = {name: [name] for name in layers}
    for added in (each for _, producers in model.wiring() for each in producers if isinstance(each, tuple)):
        group = list(dict.fromkeys(other for name in added for other in found[_last(name, layers)]))
        found |= dict.fromkeys(group, group)
    return found


def _last(name: str, layers: dict) -> str:
    """The layer whose rows are the channels of ``name``: if it is factorized, its second."""
    return f"{name}.second" if f"{name}.second" in layers else name


def readers(model: nn.Module) -> list[Reader]:
    """Every layer with the channels it reads, those of the images left out."""
    layers, together, found = weight_layers(model), tied(model), []
    for name, producers in model.wiring():
        first, last = f"{name}.first" if f"{name}.first" in layers else name, _last(name, layers)
        rows = []
        for producer in producers:
            producer = together[_last(producer if isinstance(producer, str) else producer[0], layers)][0]
            rows += [(producer, i) for i in range(layers[producer].weight.shape[0])]
        if rows:
            columns = layers[first].weight.shape[1] * _groups(layers[first])
            features = columns // len(rows)  # of one channel, where an image is flattened
            found.append(Reader(first, [source for source in rows for _ in range(features)]))
        if last != first:
            found.append(Reader(last, [(first, i) for i in range(layers[first].weight.shape[0])]))
    return found


@torch.no_grad()
def slice_channels(model: nn.Module) -> int:
    """Takes dead channels out of ``model``, in place, until there is none; how many they were."""
    layers, found, count = weight_layers(model), readers(model), 0
    together = tied(model)
    passed = _passed(model, together)
    while True:
        dead = _dead(layers, found, passed, together)
        if not dead:
            return count
        count += len(dead)
        rows, columns = {}, {}
        for name in {name for name, _ in dead}:
            kept = [i for i in range(len(layers[name].weight)) if (name, i) not in dead]
            rows |= dict.fromkeys(together[name], kept)
        for reader in found:
            columns[reader.name] = [j for j, source in enumerate(reader.sources) if source not in dead]
        for name in rows.keys() | {n for n, kept in columns.items() if len(kept) < layers[n].weight.shape[1]}:
            _keep(layers[name], rows.get(name), columns.get(name))
        for reader in found:  # the rows that remain have new numbers
            renumber = {n: {old: new for new, old in enumerate(kept)} for n, kept in rows.items()}
            kept = [source for source in reader.sources if source not in dead]
            reader.sources = [(n, renumber[n][i] if n in renumber else i) for n, i in kept]


class _Tracer(fx.Tracer):
    def is_leaf_module(self, module: nn.Module, name: str) -> bool:
        return getattr(module, "is_weight_layer", False) or super().is_leaf_module(module, name)


def _passed(model: nn.Module, together: dict[str, list[str]]) -> dict[str, bool]:
    """Layer → whether a ReLU follows; without those whose channels meet anything but ReLU or KEEPS, or an output."""
    layers, modules = weight_layers(model), dict(model.named_modules())
    try:
        graph = _Tracer().trace(model)
    except Exception as error:  # a forward pass that branches on its input, say
        log.warning("no channel is taken out: torch.fx cannot trace the network: %s", error)
        return {}

    def is_layer(node: fx.Node) -> bool:
        return node.op == "call_module" and node.target in layers

    def kind_of(node: fx.Node):
        return type(modules[node.target]) if node.op == "call_module" else node.target

    def is_known_sum(node: fx.Node) -> bool:  # of tied layers; it leaves zero or less where each term does
        plain = kind_of(node) in SUMS and not node.kwargs and all(isinstance(each, fx.Node) for each in node.args)
        return plain and any(makers[node] <= set(group) for group in together.values())

    makers = {}  # node → the layers that its channels come from, each in its place; None: something else
    for node in graph.nodes:
        inputs = node.all_input_nodes if kind_of(node) in (*RELUS, *SUMS, *PLACED) else []
        makers[node] = {node.target} if is_layer(node) else set().union(*(makers[n] for n in inputs)) or {None}
    seen, found = {}, {}  # node → what sees its value first: "relu", "layer", or something "else"
    for node in reversed(graph.nodes):
        seen[node] = set()
        for user in node.users:
            if is_layer(user):
                seen[node].add("layer")
            elif kind_of(user) in RELUS:
                seen[node] |= {"relu"} | seen[user] & {"else"}
            else:
                seen[node] |= seen[user] if kind_of(user) in KEEPS or is_known_sum(user) else {"else"}
        if is_layer(node):
            found[node.target] = found.get(node.target, set()) | seen[node]
    return {name: kinds == {"relu"} for name, kinds in found.items() if "else" not in kinds}


def _dead(layers: dict, found: list[Reader], passed: dict, together: dict) -> set[tuple[str, int]]:
    """Layer, of tied ones the first, and row of every dead channel, but for one where all are."""
    read = {}
    for reader in found:
        layer = layers[reader.name]
        if getattr(layer, "activations", "") == "dynamic":
            used = [True] * len(reader.sources)  # what a channel holds is in the range of the batch
        elif _groups(layer) > 1:
            passed = {name: relu for name, relu in passed.items() if (name, 0) not in reader.sources}
            continue
        else:
            used = (layer.weight != 0).transpose(0, 1).flatten(1).any(1).tolist()
        for source, does in zip(reader.sources, used, strict=True):
            read[source] = read.get(source, False) or does
    dead = set()
    for name in {name for name, _ in read}:
        if any(each not in passed or _groups(layers[each]) > 1 for each in together[name]):
            continue
        silent = torch.stack([_silent(layers[each], passed[each]) for each in together[name]]).all(0).tolist()
        gone = [i for i, nothing in enumerate(silent) if nothing or not read[name, i]]
        dead |= {(name, i) for i in (gone if len(gone) < len(silent) else gone[1:])}
    return dead


def _silent(layer: nn.Module, relu: bool) -> torch.Tensor:
    """Boolean (out,): rows of ``layer`` of which nothing comes, behind a ReLU if one follows."""
    nothing = (layer.weight == 0).flatten(1).all(1)
    if layer.bias is not None:
        nothing &= layer.bias <= 0 if relu else layer.bias == 0
    return nothing


def _keep(layer: nn.Module, rows: list[int] | None, columns: list[int] | None) -> None:
    """Cuts every tensor of ``layer`` to ``rows`` and ``columns``, in place; None keeps all."""
    parts = {name: t for name, t in layer.state_dict(keep_vars=True).items() if t is not None and t.dim()}
    for name, tensor in parts.items():
        cut = tensor.detach() if rows is None else tensor.detach()[rows]
        cut = cut[:, columns] if columns is not None and name == "weight" else cut
        cut = cut.contiguous()
        setattr(layer, name, nn.Parameter(cut) if isinstance(tensor, nn.Parameter) else cut)
    out, into = widths_of(layer)
    for name, width in (("out_channels", out), ("in_channels", into), ("out_features", out), ("in_features", into)):
        if hasattr(layer, name):
            setattr(layer, name, width)
