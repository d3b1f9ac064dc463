"""A gate a channel: a number in 0…1 by which all layers that read the channel multiply it.

It stands where a layer reads a channel, behind the batch norm and all that is added. A depthwise convolution is part of
the channel that it filters: its gate stands behind it. With gates of 0 and 1 alone, a network gives what it gives
without the channels of the zeros (:mod:`studylib.networks.filters`).
"""

import contextlib
import dataclasses
import functools
from collections.abc import Iterator

import torch
from torch import nn

from studylib.networks import filters, slicing
from studylib.networks.channels import groups_of, is_depthwise
from studylib.networks.layers import duplicate, weight_layers
from studylib.networks.slicing import Channel

TOLERANCE = 0.02  # how far the least network may be above a budget, a share of the budget


@dataclasses.dataclass
class Part:
    """Rows of a layer, or the columns that it reads, and the gate of each. The gate after the last is always 1."""

    name: str
    gates: torch.Tensor  # (rows or columns,) int64


class Gates:
    """The gates of ``model``, numbered family by family, and what is counted and changed by them.

    Attributes:
        found: the channels, as :func:`studylib.networks.filters.of` gives them.
        channels: the channel of each gate.
        sizes: gates of each family, in the order of ``found.families``.
        full: multiply-adds of an image with all gates open, as :func:`studylib.networks.cost.multiply_adds`.

    Raises:
        ValueError: no channel can be taken out; else as :func:`studylib.networks.filters.of`.
    """

    def __init__(self, model: nn.Module):
        self.found = filters.of(model)
        families = self.found.families
        self.channels = [channel for family in families.values() for channel in family]
        self.sizes = [len(family) for family in families.values()]
        if not self.channels:
            raise ValueError("no channel can be taken out")
        graph, number = self.found.graph, {channel: i for i, channel in enumerate(self.channels)}
        self.family = torch.arange(len(self.sizes)).repeat_interleave(torch.tensor(self.sizes))

        def gates(made: list[Channel | None]) -> torch.Tensor:
            return torch.tensor([number.get(graph.whole.get(channel), len(number)) for channel in made])

        rows = {name: gates(made) for name, made in graph.rows.items()}
        layers = weight_layers(model)
        columns = {name: gates(graph.columns[name]) for name, layer in layers.items() if not is_depthwise(layer)}
        self.readers = [Part(name, its) for name, its in columns.items() if (its < len(number)).any()]
        self.makers = [Part(name, its) for name, its in rows.items() if (its < len(number)).any()]
        one = torch.tensor([len(number)])
        calls = _calls(model)
        self._counted = [
            (rows[name], columns.get(name, one), _once(layer) * calls.get(name, 0)) for name, layer in layers.items()
        ]
        self.full = int(self.multiply_adds(torch.ones(len(number))))

    def __len__(self) -> int:
        return len(self.channels)

    def multiply_adds(self, gates: torch.Tensor) -> torch.Tensor:
        """Multiply-adds of one image, a scalar in float64 with a gradient to ``gates`` (n,), which may be soft."""
        values = _with_one(gates.double())
        return sum(values[out].sum() * values[into].sum() * each for out, into, each in self._counted)

    @contextlib.contextmanager
    def on(self, model: nn.Module, gates: torch.Tensor) -> Iterator[None]:
        """Within it all layers of ``model`` read channels times ``gates`` (n,), with a gradient to them."""
        values = _with_one(gates)

        def times(each: torch.Tensor, layer: nn.Module, inputs: tuple) -> torch.Tensor:
            return inputs[0] * (each[:, None, None] if isinstance(layer, nn.Conv2d) else each)

        modules = [(model.get_submodule(part.name), values[part.gates]) for part in self.readers]
        hooks = [layer.register_forward_pre_hook(functools.partial(times, each)) for layer, each in modules]
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()

    def closed(self, opened: torch.Tensor) -> set[Channel]:
        """The channels whose gates in ``opened``, (n,) bool, are False."""
        return {channel for channel, stays in zip(self.channels, opened.tolist(), strict=True) if not stays}

    def best(self, worth: torch.Tensor) -> torch.Tensor:
        """(n,) bool: True at the gate of most ``worth`` (n,) in each family, the first of equal ones."""
        starts = torch.tensor([0, *self.sizes[:-1]]).cumsum(0).tolist()
        found = torch.zeros(len(self), dtype=torch.bool, device=worth.device)
        found[[start + int(part.argmax()) for start, part in zip(starts, worth.split(self.sizes), strict=True)]] = True
        return found

    @torch.no_grad()
    def at_budget(self, worth: torch.Tensor, budget: float) -> torch.Tensor:
        """Which gates stay open, (n,) bool, that the multiply-adds are nearest to ``budget``, a share of all.

        Those of least ``worth`` (n,) are closed first, of equal ones the earlier, but never the best of a family. How
        near they come is a question of how large a channel is.

        Raises:
            ValueError: a channel of each family alone takes more than the budget, by over :data:`TOLERANCE` of it.
        """
        best = self.best(worth)
        order = [i for i in worth.argsort(stable=True).tolist() if not best[i]]

        def opened(count: int) -> torch.Tensor:
            left = torch.ones(len(self), dtype=torch.bool, device=worth.device)
            left[order[:count]] = False
            return left

        def share(count: int) -> float:
            return float(self.multiply_adds(opened(count))) / self.full

        if (least := share(len(order))) > budget * (1 + TOLERANCE):
            raise ValueError(f"budget={budget!r}: expected at least {least:.4g}, as each family keeps a channel")
        low, high = 0, len(order)  # the fewest closed that leave at most the budget
        while low < high:
            middle = (low + high) // 2
            low, high = (low, middle) if share(middle) <= budget else (middle + 1, high)
        return opened(min((low, max(0, low - 1)), key=lambda count: abs(share(count) - budget)))

    def products(self, tensors: dict[str, torch.Tensor], others: dict[str, torch.Tensor] | None = None) -> torch.Tensor:
        """⟨w_g, v_g⟩ of each gate's group g, (n,): w from ``tensors``, v from ``others``, or else w again.

        A group is all that makes a channel: rows of weights and biases, and of batch norms. ``tensors`` has parameters
        by their names.
        """
        found = next(iter(tensors.values())).new_zeros(len(self) + 1)
        for key, gates in self._parameters(tensors):
            product = tensors[key] * (others or tensors)[key]
            found.index_add_(0, gates.to(found.device), product.reshape(len(product), -1).sum(1))
        return found[:-1]

    @torch.no_grad()
    def scale(self, tensors: dict[str, torch.Tensor], factors: torch.Tensor) -> None:
        """Multiplies each group in ``tensors`` by its factor in ``factors`` (n,), in place."""
        values = _with_one(factors)
        for key, gates in self._parameters(tensors):
            tensors[key].mul_(values[gates].view(-1, *[1] * (tensors[key].dim() - 1)))

    @torch.no_grad()
    def copy(self, tensors: dict[str, torch.Tensor], others: dict[str, torch.Tensor], chosen: torch.Tensor) -> None:
        """Gives each group of ``chosen``, (n,) bool, in ``tensors`` the numbers that it has in ``others``, in place."""
        values = torch.cat([chosen, chosen.new_zeros(1)])
        for key, gates in self._parameters(tensors):
            rows = values[gates.to(values.device)]
            tensors[key][rows] = others[key][rows]

    def _parameters(self, tensors: dict[str, torch.Tensor]) -> Iterator[tuple[str, torch.Tensor]]:
        for part in self.makers:
            for name in ("weight", "bias"):
                if (key := f"{part.name}.{name}") in tensors:
                    yield key, part.gates


def _with_one(gates: torch.Tensor) -> torch.Tensor:
    return torch.cat([gates, gates.new_ones(1)])


def _once(layer: nn.Module) -> float:
    """Multiply-adds of one row, one column and one pixel."""
    return layer.weight[0, 0].numel() / (1 if is_depthwise(layer) else groups_of(layer))


@torch.no_grad()
def _calls(model: nn.Module) -> dict[str, int]:
    """Layer → the pixels, or rows of features, that it makes of one image."""
    found: dict[str, int] = {}

    def see(name: str, layer: nn.Module, inputs: tuple, outputs: torch.Tensor) -> None:
        found[name] = found.get(name, 0) + outputs.numel() // len(layer.weight)

    watched = duplicate(model).cpu().eval()
    for name, layer in weight_layers(watched).items():
        layer.register_forward_hook(functools.partial(see, name))
    watched(slicing.noise(model, None)[:1].float())
    return found
