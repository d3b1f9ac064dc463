"""Filters and neurons that can be taken out of a network, whatever its weights, and the network without them."""

import copy
import dataclasses
import logging

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from studylib.networks import channels, slicing
from studylib.networks.layers import check_float, duplicate
from studylib.networks.slicing import Channel, Graph

log = logging.getLogger(__name__)


@dataclasses.dataclass
class Filters:
    """The filters and neurons of a network, as :func:`of` finds them.

    Attributes:
        graph: the channels.
        families: layer → those of its channels that can be taken out, each with all that go with it.
        stay: layer → why its channels cannot.
    """

    graph: Graph
    families: dict[str, list[Channel]]
    stay: dict[str, str]

    def rows(self, chosen: set[Channel]) -> dict[str, list[int]]:
        """Layer or batch norm → its rows that make or scale the channels ``chosen``."""
        found = {
            name: [i for i, channel in enumerate(made) if self.graph.whole.get(channel) in chosen]
            for name, made in self.graph.rows.items()
        }
        return {name: rows for name, rows in found.items() if rows}


@torch.no_grad()
def of(model: nn.Module) -> Filters:
    """What can be taken out of ``model``: channels whose removal gives the numbers that their being zero gives.

    A copy in float64 shows it of random images, with every other channel of all families taken out. Where it does not,
    each family is tried alone. A log says why others stay.

    Raises:
        ValueError: ``model`` cannot be traced, a layer is int8 (as SpecError), or a number is not finite.
    """
    check_float(model)
    plain, images = slicing.in_float64(model), slicing.noise(model, None)
    try:
        graph = slicing.graph_of(model)
    except ImportError:
        raise
    except Exception as error:  # a forward pass may do anything
        raise ValueError(f"the network cannot be traced: {type(error).__name__}: {error}") from error
    read = {graph.whole.get(channel) for columns in graph.columns.values() for channel in columns}
    families: dict[str, list[Channel]] = {}
    for channel in dict.fromkeys(graph.whole.values()):
        if channel in read:
            families.setdefault(channel[0], []).append(channel)
    found = Filters(graph, families, {})

    def why_not(*names: str) -> str | None:
        """Why channels of the families ``names`` cannot be taken out; None if they can."""
        some = {channel for name in names for channel in families[name][1::2]}
        masked = _mask(copy.deepcopy(plain), found.rows(some))
        return slicing.why_not(masked, graph, some, images, masked(images))

    found.stay = {name: "there is but one" for name, its in families.items() if len(its) == 1}
    several = [name for name in families if name not in found.stay]
    if why_not(*several):
        found.stay |= {name: reason for name in several if (reason := why_not(name))}
    for name, reason in found.stay.items():
        log.info("%s: its channels stay: %s", name, reason)
    found.families = {name: its for name, its in families.items() if name not in found.stay}
    return found


def masked(model: nn.Module, filters: Filters, chosen: set[Channel]) -> nn.Module:
    """A copy of ``model``, the same layers, whose channels ``chosen`` are zero: rows, biases and what norms add."""
    return _mask(duplicate(model), filters.rows(chosen))


@torch.no_grad()
def removed(model: nn.Module, filters: Filters, chosen: set[Channel]) -> tuple[nn.Module, dict]:
    """A copy of ``model`` without the channels ``chosen``, dense, and the structure for its spec.

    It gives what :func:`masked` gives, but for how sums round.

    Raises:
        ValueError: they cannot be taken out together, or a layer would have no row left.
    """
    for name, rows in filters.rows(chosen).items():
        if len(rows) == len(filters.graph.rows[name]):
            raise ValueError(f"{name}: expected at least one row to stay")
    plain, images = slicing.in_float64(masked(model, filters, chosen)), slicing.noise(model, None)
    if reason := slicing.why_not(plain, filters.graph, chosen, images, plain(images)):
        raise ValueError(f"without channels of {', '.join(sorted({name for name, _ in chosen}))} {reason}")
    new, before = duplicate(model), channels.widths(model)
    slicing.cut(new, filters.graph, chosen)
    widths = {name: now for name, now in channels.widths(new).items() if now != before[name]}
    return new, {"module": "channels", "widths": widths}


@torch.no_grad()
def _mask(model: nn.Module, rows: dict[str, list[int]]) -> nn.Module:
    for name, its in rows.items():
        layer = model.get_submodule(name)
        if isinstance(layer, _BatchNorm) and not layer.affine:
            layer.running_mean[its] = 0
        for tensor in (layer.weight, layer.bias):
            if tensor is not None:
                tensor[its] = 0
    return model
