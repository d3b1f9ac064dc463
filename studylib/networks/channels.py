"""Which layer reads which channel, and dead channels taken out of a network.

Rows of weights make channels and columns read them, as torch-pruning's dependency graph says (Fang et al. 2023). A
channel is dead where its rows are zero and readers get zeros of it whatever the image, or where no weight reads it. A
layer whose input is rounded in each batch's range ("dynamic") reads all. Rows that are added make one channel, which
only zeros in all of them leave dead. A depthwise convolution's goes with the one that it reads. Another convolution in
groups keeps its own. A copy in float64 without dead channels must give the same numbers of random images, else they
stay.
"""

import copy
import dataclasses
import inspect
import logging

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from studylib.networks.blocks import SETTINGS, ConvUnit, SpecError
from studylib.networks.layers import duplicate, replace_module, weight_layers

IMAGES, TOLERANCE = 4, 1e-5  # random images that must give the same; how far off, as a share of the largest output

log = logging.getLogger(__name__)
Channel = tuple[str, int]  # the first layer that makes it, and its row there


@dataclasses.dataclass
class Graph:
    """Who makes and who reads which channel.

    Attributes:
        rows: layer, or batch norm → the channel of each row.
        columns: layer → the channel of each column, None for one of the image.
        whole: channel → one that stands for all that are taken out with it.
    """

    rows: dict[str, list[Channel]]
    columns: dict[str, list[Channel | None]]
    whole: dict[Channel, Channel]


def restructure(model: nn.Module, structure: dict) -> None:
    """Folds every unit's batch norm away and gives the layers in ``structure["widths"]`` new widths, in place."""
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


def _like(layer: nn.Module, out: int, into: int, bias: bool, in_floats: bool = False) -> nn.Module:
    """An empty layer of the kind of ``layer``, or the float one of its kind, with other widths."""
    if isinstance(layer, _BatchNorm):
        return type(layer)(out, layer.eps, layer.momentum, layer.affine, layer.track_running_stats)
    groups = out if is_depthwise(layer) else _groups(layer)
    if in_floats or isinstance(layer, nn.Conv2d | nn.Linear):
        if layer.weight.dim() == 2:
            return nn.Linear(into, out, bias=bias)
        how = {key: getattr(layer, key) for key in SETTINGS} | {"groups": groups}
        return nn.Conv2d(into * groups, out, layer.kernel_size, bias=bias, **how)
    new = copy.deepcopy(layer)  # an int8 layer: buffers only
    for name, buffer in layer.named_buffers():
        shape = (out, into, *buffer.shape[2:]) if name == "weight" else (out,) if buffer.dim() else ()
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


def _groups(layer: nn.Module) -> int:
    return getattr(layer, "groups", 1)


def is_depthwise(layer: nn.Module) -> bool:
    """Whether each row of ``layer`` reads the channel of its own number alone."""
    return 1 < _groups(layer) == len(layer.weight) and layer.weight.shape[1] == 1


def graph_of(model: nn.Module, example: torch.Tensor | None = None) -> Graph:
    """Who reads which channel in ``model``, in floats or int8, whatever its weights.

    Args:
        example: an image (1, c, h, w). A network with a spec needs none.

    Raises:
        Exception: of any kind, where the network cannot be traced.
    """
    import torch_pruning

    image, plain = _images(model, example)[:1].to("meta"), _plain(model).to("meta").requires_grad_()
    layers = weight_layers(plain)
    for layer in layers.values():  # a maker and a reader each, whatever its groups
        if _groups(layer) > 1:
            layer.weight, layer.groups = nn.Parameter(layer.weight.repeat(1, layer.groups, 1, 1)), 1
    with torch.enable_grad():
        traced = torch_pruning.DependencyGraph().build_dependency(plain, (image,), verbose=False)
    names = {module: name for name, module in plain.named_modules()}
    order, pairs = {name: i for i, name in enumerate(names.values())}, []
    for name, layer in layers.items():
        if layer not in traced.module2node:  # never called
            continue
        prune = traced.get_pruner_of_module(layer).prune_out_channels
        for part in traced.get_pruning_group(layer, prune, list(range(len(layer.weight)))):
            if (other := names.get(part.dep.target.module)) is not None:
                reads = other in layers and not traced.is_out_channel_pruning_fn(part.dep.handler)
                for row, place in zip(part.root_idxs, part.idxs, strict=True):
                    pairs.append(((False, order[name], row), (reads, order[other], place)))
    first, named = _united(pairs), list(order)

    def channels(reads: bool, name: str, count: int) -> list[Channel | None]:
        ends = [first((reads, order[name], i)) for i in range(count)]
        return [None if unmade else (named[layer], row) for unmade, layer, row in ends]

    rows = {name: channels(False, name, out) for name, (out, _) in widths(plain).items()}
    columns = {name: channels(True, name, layer.weight.shape[1]) for name, layer in layers.items()}
    single = [name for name, layer in weight_layers(model).items() if is_depthwise(layer)]
    pairs = [pair for name in single for pair in zip(rows[name], columns[name], strict=True) if None not in pair]
    whole = _united(pairs)
    return Graph(rows, columns, {channel: whole(channel) for each in rows.values() for channel in each})


def _united(pairs: list[tuple]):
    """A function from anything to the least of all that ``pairs`` say is the same."""
    lower = {}

    def first(each):
        while each in lower:
            each = lower[each]
        return each

    for pair in pairs:
        low, high = sorted(map(first, pair))
        if low != high:
            lower[high] = low
    return first


def _images(model: nn.Module, example: torch.Tensor | None) -> torch.Tensor:
    """:data:`IMAGES` of normal noise, (n, c, h, w) float64, the same at every call."""
    if example is None:
        asked = inspect.signature(type(model)).bind(**model.spec["args"])
        asked.apply_defaults()
        side = asked.arguments["image_size"]
        shape = (asked.arguments["in_channels"], side, side)
    else:
        shape = example.shape[1:]
    return torch.randn(IMAGES, *shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


def _plain(model: nn.Module) -> nn.Module:
    """A copy in float64, int8 layers as float ones of the same numbers."""
    plain = duplicate(model).cpu().eval()
    for name, layer in weight_layers(plain).items():
        if not isinstance(layer, nn.Conv2d | nn.Linear):
            new = _like(layer, *widths_of(layer), bias=layer.bias is not None, in_floats=True)
            new.weight.data = layer.dequantized_weight()
            if layer.bias is not None:
                new.bias.data = layer.bias
            replace_module(plain, name, new)
    return plain.double()


@torch.no_grad()
def slice_channels(model: nn.Module, example: torch.Tensor | None = None) -> int:
    """Takes dead channels out of ``model``, in place, until there is none; how many they were.

    Those of a layer stay where the network would not run without them, or give other numbers. A warning then names the
    layer and the reason.

    Args:
        example: an image (1, c, h, w). A network with a spec needs none.

    Raises:
        ValueError: neither ``example`` nor a spec.
    """
    if example is None and not hasattr(model, "spec"):
        raise ValueError(f"{type(model).__name__} has no spec: expected an example, an image (1, c, h, w)")
    layers = weight_layers(model)
    if all(_used(layer, 0).all() and _used(layer, 1).all() for layer in layers.values()):
        return 0
    plain = _plain(model)
    try:
        images, graph = _images(model, example), graph_of(model, example)
        loud, outputs = _loud(plain, graph, images[:1]), plain(images)
    except ImportError:
        raise
    except Exception as error:  # a forward pass may do anything
        log.warning("no channel is taken out: the network cannot be traced: %s", error)
        return 0
    everything, kept = set(graph.whole.values()), set()
    for name, layer in layers.items():
        if _groups(layer) > 1 and not is_depthwise(layer):
            kept |= {graph.whole.get(channel) for channel in graph.rows[name] + graph.columns[name]}
    ranges = {name for name, layer in layers.items() if getattr(layer, "activations", "") == "dynamic"}
    while dead := _dead(plain, graph, loud, ranges, kept):
        reason = _why_not(plain, graph, dead, images, outputs)
        if reason is None:
            _cut(model, graph, dead)
            return sum(channel in dead for channel in graph.whole.values())
        reasons = {}
        for name in sorted({name for name, _ in dead}):
            others = {channel for channel in everything if channel[0] != name}
            alone = _dead(plain, graph, loud, ranges, kept | others)
            reasons[name] = _why_not(plain, graph, alone, images, outputs)
        for name, its_own in reasons.items():
            if its_own or not any(reasons.values()):
                log.warning("%s: its channels stay: without its dead ones %s", name, its_own or reason)
                kept |= {channel for channel in everything if channel[0] == name}
    return 0


def _used(layer: nn.Module, dim: int) -> torch.Tensor:
    """Which rows (``dim`` 0) or columns (1) of ``layer`` have a weight, bool (n,)."""
    return (layer.weight != 0).transpose(0, dim).flatten(1).any(1)


def _loud(plain: nn.Module, graph: Graph, image: torch.Tensor) -> set[Channel]:
    """Channels of which a reader gets another number than zero where no row has a weight."""
    probe, loud = copy.deepcopy(plain), set()

    def watch(name: str, layer: nn.Module):
        def look(_layer, inputs):
            values = inputs[0].movedim(-3 if isinstance(layer, nn.Conv2d) else -1, 0).flatten(1)
            loud.update(c for c, some in zip(graph.columns[name], values.any(1).tolist(), strict=True) if some)

        layer.register_forward_pre_hook(look)

    for name, layer in weight_layers(probe).items():
        layer.weight.zero_()
        watch(name, layer)
    probe(image)
    for layer in weight_layers(probe).values():  # in a sum no bias may make up for another
        if layer.bias is not None:
            layer.bias.clamp_(min=0)
    probe(image)
    return loud


def _dead(plain: nn.Module, graph: Graph, loud: set, ranges: set[str], kept: set) -> set[Channel]:
    """The dead channels that are not ``kept``, as ``graph.whole`` names them, but for one where all of a layer are.

    ``ranges``: layers that read all of their input.
    """
    masked, dead, parts = copy.deepcopy(plain), set(), {}
    layers = weight_layers(masked)
    for channel, whole in graph.whole.items():
        parts.setdefault(whole, []).append(channel)
    while True:
        made, read = dict.fromkeys(loud, True), {}
        for name, layer in layers.items():
            for channel, some in zip(graph.rows[name], _used(layer, 0).tolist(), strict=True):
                made[channel] = made.get(channel, False) or some
            if _groups(layer) == 1:
                for channel, some in zip(graph.columns[name], _used(layer, 1).tolist(), strict=True):
                    read[channel] = read.get(channel, False) or some or name in ranges
        new = {
            whole
            for whole, channels in parts.items()
            if whole not in dead | kept
            and any(channel in read for channel in channels)
            and not any(made[channel] and read.get(channel, False) for channel in channels)
        }
        for rows in graph.rows.values():
            left = [graph.whole[channel] for channel in rows if graph.whole[channel] not in dead]
            if left and new.issuperset(left):
                new.remove(left[0])
        dead |= new
        changed = bool(new)
        for name, layer in layers.items():
            rows = torch.tensor([graph.whole[channel] in dead for channel in graph.rows[name]])
            if is_depthwise(layer):  # of zeros it makes none
                rows |= torch.tensor([not made.get(channel, True) for channel in graph.columns[name]])
            elif _groups(layer) == 1:
                layer.weight[:, [graph.whole.get(channel) in dead for channel in graph.columns[name]]] = 0
            changed |= bool(layer.weight[rows].any())
            layer.weight[rows] = 0
        if not changed:
            return dead


def _why_not(plain: nn.Module, graph: Graph, dead: set, images: torch.Tensor, outputs: torch.Tensor) -> str | None:
    """Why the channels in ``dead`` may not be taken out of the network that gives ``outputs``; None if they may."""
    cut = copy.deepcopy(plain)
    try:
        _cut(cut, graph, dead)
        found = cut(images)
        off = (found - outputs).abs().max() if found.shape == outputs.shape else torch.inf
    except Exception as error:
        return f"the network does not run: {error}"
    return None if off <= TOLERANCE * outputs.abs().max() else "the network gives other numbers"


def _cut(model: nn.Module, graph: Graph, dead: set) -> None:
    """Takes the rows and columns of all channels in ``dead`` out of ``model``, in place."""
    for name, channels in graph.rows.items():
        rows = [i for i, channel in enumerate(channels) if graph.whole[channel] not in dead]
        read = graph.columns.get(name, [])
        columns = [i for i, channel in enumerate(read) if graph.whole.get(channel) not in dead]
        if len(rows) < len(channels) or len(columns) < len(read):
            _keep(model.get_submodule(name), rows, columns)


def _keep(layer: nn.Module, rows: list[int], columns: list[int]) -> None:
    """Cuts every tensor of ``layer`` to ``rows`` and ``columns``, in place."""
    single = is_depthwise(layer)
    for name, tensor in layer.state_dict(keep_vars=True).items():
        if tensor is not None and tensor.dim():
            cut = tensor.detach()[rows]
            cut = cut[:, columns] if name == "weight" and cut.dim() > 1 and _groups(layer) == 1 else cut
            cut = cut.contiguous()
            setattr(layer, name, nn.Parameter(cut) if isinstance(tensor, nn.Parameter) else cut)
    out, into = widths_of(layer)
    if single:
        layer.groups = into = out
    for name, width in (
        ("out_channels", out),
        ("in_channels", into),
        ("out_features", out),
        ("in_features", into),
        ("num_features", out),
    ):
        if hasattr(layer, name):
            setattr(layer, name, width)
