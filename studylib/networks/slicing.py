"""Which layer reads which channel, and dead channels taken out of a network.

Rows of weights make channels and columns read them, as torch-pruning's dependency graph says (Fang et al. 2023). A
channel is dead where its rows are zero and readers get zeros of it whatever the image. It is dead, too, where
no weight reads it. A layer whose input is rounded in its own range ("dynamic") reads all. One whose weights share
scales in groups keeps all of its columns. Rows that are added make one channel. A depthwise convolution's goes with the
one that it reads; those of other convolutions in groups stay. Without the dead channels a copy in float64 must give the
same numbers of random images, else they stay.
"""

import copy
import dataclasses
import functools
import inspect
import logging

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from studylib.networks import cost
from studylib.networks.channels import groups_of, is_depthwise, like, widths, widths_of
from studylib.networks.layers import duplicate, replace_module, weight_layers

IMAGES = 2  # random ones, of which a copy in float64 must give the same numbers
TOLERANCE, ROUNDING = 1e-5, 1e-12  # how far off, as a share of the range over images and of the largest number

log = logging.getLogger(__name__)
Channel = tuple[str, int]  # the first layer that makes it, and its row there


@dataclasses.dataclass
class Graph:
    """The channels of a network.

    Attributes:
        rows: layer, or batch norm → the channel of each row.
        columns: layer → the channel of each column, None for one of the image.
        whole: channel → the first of those to be taken out together; without channels to be left alone.
    """

    rows: dict[str, list[Channel]]
    columns: dict[str, list[Channel | None]]
    whole: dict[Channel, Channel]


def graph_of(model: nn.Module, example: torch.Tensor | None = None) -> Graph:
    """The channels of ``model``, in floats or int8, whatever its weights.

    Args:
        example: an image (1, c, h, w). A network with a spec needs none.

    Raises:
        Exception: of any kind, where the network cannot be traced.
    """
    import torch_pruning

    image, plain = noise(model, example)[:1].to("meta"), in_float64(model).to("meta").requires_grad_()
    layers = weight_layers(plain)
    grouped = {name: is_depthwise(layer) for name, layer in layers.items() if groups_of(layer) > 1}
    for layer in map(layers.get, grouped):  # torch-pruning is to see one that makes channels and reads others
        layer.weight, layer.groups = nn.Parameter(layer.weight.repeat(1, layer.groups, 1, 1)), 1
    traced = torch_pruning.DependencyGraph()
    with torch.enable_grad():
        traced.build_dependency(plain, image, forward_fn=lambda network, x: network(x), verbose=False)
    names, same = {module: name for name, module in plain.named_modules()}, []
    for name, layer in layers.items():
        prune = traced.get_pruner_of_module(layer).prune_out_channels
        called = layer in traced.module2node
        for part in traced.get_pruning_group(layer, prune, list(range(len(layer.weight)))) if called else ():
            if (other := names.get(part.dep.target.module)) is not None:
                reads = other in layers and not traced.is_out_channel_pruning_fn(part.dep.handler)
                ends = zip(part.root_idxs, part.idxs, strict=True)
                same += [((name, i, False), (other, j, reads)) for i, j in ends]
    first = _united(same)

    def channels(name: str, reads: bool, count: int) -> list[Channel | None]:
        ends = [first((name, i, reads)) for i in range(count)]
        return [None if unmade else (layer, row) for layer, row, unmade in ends]

    rows = {name: channels(name, False, out) for name, (out, _) in widths(plain).items()}
    columns = {name: channels(name, True, into) for name, (_, into) in widths(plain).items()}
    single = [pair for n, alone in grouped.items() if alone for pair in zip(columns[n], rows[n], strict=True)]
    whole = _united(pair for pair in single if None not in pair)
    stay = {whole(c) for name, alone in grouped.items() if not alone for c in rows[name] + columns[name]}
    in_groups = (name for name, layer in weight_layers(model).items() if getattr(layer, "group", 0))
    stay |= {whole(c) for name in in_groups if not grouped.get(name) for c in columns[name]}  # neighbours share a scale
    return Graph(rows, columns, {c: whole(c) for made in rows.values() for c in made if whole(c) not in stay})


def _united(same):
    """Anything → the first of all that the pairs in ``same`` say is the same."""
    before = {}

    def first(each):
        while each in before:
            each = before[each]
        return each

    for one, other in same:
        if first(one) != first(other):
            before[first(other)] = first(one)
    return first


def noise(model: nn.Module, example: torch.Tensor | None) -> torch.Tensor:
    """:data:`IMAGES` of normal noise, (n, c, h, w) float64, or blocks of characters; the same at every call."""
    if example is None:
        asked = inspect.signature(type(model)).bind(**model.spec["args"])
        asked.apply_defaults()
        if "context" in asked.arguments:
            return cost.example(asked.arguments, IMAGES)
        side = asked.arguments["image_size"]
    shape = (asked.arguments["in_channels"], side, side) if example is None else example.shape[1:]
    return torch.randn(IMAGES, *shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


def in_float64(model: nn.Module) -> nn.Module:
    """A copy in float64, int8 layers as float ones of the same numbers."""
    plain = duplicate(model).cpu().eval()
    for name, layer in weight_layers(plain).items():
        if not isinstance(layer, nn.Conv2d | nn.Linear):
            new = like(layer, *widths_of(layer), bias=layer.bias is not None, in_floats=True)
            state, new.activations = layer.state_dict() | {"weight": layer.dequantized_weight()}, layer.activations
            new.load_state_dict({key: state[key] for key in new.state_dict()}, assign=True)
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
    if all(_used(layer, dim).all() for layer in weight_layers(model).values() for dim in (0, 1)):
        return 0
    plain = in_float64(model)
    try:
        images, graph = noise(model, example), graph_of(model, example)
        loud, outputs = _loud(plain, graph, images[:1]), plain(images)
        if not isinstance(outputs, torch.Tensor):
            raise TypeError(f"its output is {type(outputs).__name__}, expected a tensor")
    except ImportError:
        raise
    except Exception as error:  # a forward pass may do anything
        log.warning("no channel is taken out, the network cannot be traced: %s: %s", type(error).__name__, error)
        return 0
    if not outputs.isfinite().all():  # nothing can be proved of them
        return 0

    def among(wanted) -> tuple[set[Channel], str | None]:
        """The dead channels of layers that are ``wanted``, and why they may not be taken out."""
        part = dataclasses.replace(graph, whole={c: each for c, each in graph.whole.items() if wanted(each[0])})
        dead = _dead(plain, part, loud)
        return dead, why_not(plain, graph, dead, images, outputs)

    refused = set()
    while True:
        dead, reason = among(lambda name: name not in refused)
        if reason is None or not dead:
            cut(model, graph, dead)
            return sum(each in dead for each in graph.whole.values())
        alone = {name: among(name.__eq__)[1] for name in sorted({name for name, _ in dead})}
        for name, its_own in alone.items():
            if its_own or not any(alone.values()):
                log.warning("%s: its channels stay, without its dead ones %s", name, its_own or reason)
                refused.add(name)


def _used(layer: nn.Module, dim: int) -> torch.Tensor:
    """Which rows (``dim`` 0) or columns (1) of ``layer`` have a weight, bool (n,)."""
    return (layer.weight != 0).transpose(0, dim).flatten(1).any(1)


def _loud(plain: nn.Module, graph: Graph, image: torch.Tensor) -> set[Channel]:
    """Channels of which a reader gets another number than zero where no row has a weight."""
    probe, loud = copy.deepcopy(plain), set()

    def look(name, layer, inputs):
        values = inputs[0].movedim(-3 if isinstance(layer, nn.Conv2d) else -1, 0).flatten(1)
        loud.update(c for c, some in zip(graph.columns[name], values.any(1).tolist(), strict=True) if some)

    layers = weight_layers(probe)
    for name, layer in layers.items():
        layer.weight.zero_()
        layer.register_forward_pre_hook(functools.partial(look, name))
    probe(image)
    for layer in layers.values():  # in a sum no bias may make up for another
        if layer.bias is not None:
            layer.bias.clamp_(min=0)
    probe(image)
    return loud


def _dead(plain: nn.Module, graph: Graph, loud: set[Channel]) -> set[Channel]:
    """The dead ones of ``graph.whole``, but for one where all of a layer are."""
    masked, dead, parts = copy.deepcopy(plain), set(), {}
    layers = weight_layers(masked)
    for channel, whole in graph.whole.items():
        parts.setdefault(whole, set()).add(channel)
    while True:
        made, read = {None, *loud}, {}
        for name, layer in layers.items():
            made.update(c for c, some in zip(graph.rows[name], _used(layer, 0).tolist(), strict=True) if some)
            if groups_of(layer) == 1:
                used = _used(layer, 1) | getattr(layer, "activations", "").startswith("dynamic")
                for channel, some in zip(graph.columns[name], used.tolist(), strict=True):
                    read[channel] = read.get(channel, False) or some
        live = {channel for channel, some in read.items() if some} & made
        new = {whole for whole, its in parts.items() if its & read.keys() and not its & live} - dead
        for rows in graph.rows.values():
            left = [whole for channel in rows if (whole := graph.whole.get(channel)) not in dead]
            if left and new.issuperset(left):
                new.remove(left[0])
        dead |= new
        changed = bool(new)
        for name, layer in layers.items():
            rows = [graph.whole.get(channel) in dead for channel in graph.rows[name]]
            columns = [graph.whole.get(channel) in dead for channel in graph.columns[name]]
            if is_depthwise(layer):  # of zeros it makes none
                rows = [gone or channel not in made for gone, channel in zip(rows, graph.columns[name], strict=True)]
            elif groups_of(layer) == 1:
                layer.weight[:, columns] = 0
            changed |= bool(layer.weight[rows].any())
            layer.weight[rows] = 0
        if not changed:
            return dead


def why_not(plain: nn.Module, graph: Graph, dead: set, images: torch.Tensor, outputs: torch.Tensor) -> str | None:
    """Why ``dead`` may not be taken out of the network that gives ``outputs`` (n, …) of ``images``; None if it may."""
    without = copy.deepcopy(plain)
    try:
        cut(without, graph, dead)
        found = without(images)
        off = (found - outputs).abs().max() if found.shape == outputs.shape else torch.inf
    except Exception as error:
        return f"the network does not run: {error}"
    most = TOLERANCE * (outputs.amax(0) - outputs.amin(0)).max() + ROUNDING * outputs.abs().max()
    return None if off <= most else "the network gives other numbers"


def cut(model: nn.Module, graph: Graph, dead: set[Channel]) -> None:
    """Takes the rows and columns of all channels in ``dead`` out of ``model``, in place."""
    for name, made in graph.rows.items():
        layer, read = model.get_submodule(name), graph.columns[name]
        rows = [i for i, channel in enumerate(made) if graph.whole.get(channel) not in dead]
        columns = [i for i, channel in enumerate(read) if graph.whole.get(channel) not in dead]
        if len(rows) + len(columns) < len(made) + len(read):
            state = {key: tensor[rows] if tensor.dim() else tensor for key, tensor in layer.state_dict().items()}
            if groups_of(layer) == 1 and not isinstance(layer, _BatchNorm):
                state["weight"] = state["weight"][:, columns]
            into = 1 if is_depthwise(layer) else len(columns)
            new = like(layer, len(rows), into, bias=layer.bias is not None)
            new.load_state_dict(state, assign=True)
            replace_module(model, name, new.train(layer.training))
