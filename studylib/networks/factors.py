"""Low-rank layers: two linear layers in the place of one, two to four thin convolutions in the place of one."""

from collections.abc import Callable

import torch
from torch import nn

from studylib.networks.blocks import SETTINGS, ConvUnit, SpecError
from studylib.networks.layers import replace_module


class LowRankLinear(nn.Sequential):
    """Two linear layers of rank r for one: in → r without bias, r → out with the old bias."""

    def __init__(self, in_features: int, rank: int, out_features: int, bias: bool):
        super().__init__()
        self.first = nn.Linear(in_features, rank, bias=False)
        self.second = nn.Linear(rank, out_features, bias=bias)


def restructure(model: nn.Module, structure: dict) -> None:
    """Puts empty low-rank layers in the place of those in ``structure["ranks"]`` (name → rank), in place."""
    for name, rank in structure["ranks"].items():
        layer = model.get_submodule(name)
        if not isinstance(layer, nn.Linear) or not 1 <= rank <= min(layer.weight.shape):
            raise SpecError(f"{name}: expected a linear layer of rank at least {rank!r}")
        new = LowRankLinear(layer.in_features, rank, layer.out_features, layer.bias is not None)
        replace_module(model, name, new)


class LowRankConv(nn.Sequential):
    """A k × k convolution to r channels a group without bias, then a 1 × 1 one with the old bias."""

    def __init__(self, layer: nn.Conv2d, rank: int):
        super().__init__()
        inner, how = layer.groups * rank, {key: getattr(layer, key) for key in SETTINGS}
        self.first = nn.Conv2d(layer.in_channels, inner, layer.kernel_size, bias=False, **how)
        self.last = _last(layer, inner)


class TuckerConv(nn.Sequential):
    """Tucker-2 (Kim et al. 2016): 1 × 1 to fewer channels, k × k on these, 1 × 1 to the old ones.

    ``into``, ``out``: channels a group before and after the k × k convolution, which has stride and padding.
    """

    def __init__(self, layer: nn.Conv2d, into: int, out: int):
        super().__init__()
        into, out, how = layer.groups * into, layer.groups * out, {key: getattr(layer, key) for key in SETTINGS}
        self.first = nn.Conv2d(layer.in_channels, into, 1, groups=layer.groups, bias=False)
        self.core = nn.Conv2d(into, out, layer.kernel_size, bias=False, **how)
        self.last = _last(layer, out)


class CPConv(nn.Sequential):
    """CP (Lebedev et al. 2015): 1 × 1, along columns, along rows, 1 × 1.

    ``rank``: r, a group. The two in the middle filter each of r channels by itself.
    """

    def __init__(self, layer: nn.Conv2d, rank: int):
        super().__init__()
        inner = layer.groups * rank
        self.first = nn.Conv2d(layer.in_channels, inner, 1, groups=layer.groups, bias=False)
        self.column, self.row = (_along(layer, axis, inner) for axis in (0, 1))
        self.last = _last(layer, inner)


def _last(layer: nn.Conv2d, into: int) -> nn.Conv2d:
    return nn.Conv2d(into, layer.out_channels, 1, groups=layer.groups, bias=layer.bias is not None)


def _along(layer: nn.Conv2d, axis: int, channels: int) -> nn.Conv2d:
    """A depthwise convolution with what ``layer`` has along ``axis``, 0 for columns, and nothing along the other."""

    def part(pair: tuple[int, int], other: int) -> tuple[int, int]:
        return (pair[0], other) if axis == 0 else (other, pair[1])

    padding = layer.padding if isinstance(layer.padding, str) else part(layer.padding, 0)
    how = {"stride": part(layer.stride, 1), "padding": padding, "dilation": part(layer.dilation, 1)}
    how |= {"groups": channels, "padding_mode": layer.padding_mode, "bias": False}
    return nn.Conv2d(channels, channels, part(layer.kernel_size, 1), **how)


def _matrix(layer: nn.Module, rank: int) -> nn.Sequential:
    if isinstance(layer, nn.Conv2d):
        return LowRankConv(layer, rank)
    return LowRankLinear(layer.in_features, rank, layer.out_features, layer.bias is not None)


KINDS: dict[str, tuple[Callable[..., nn.Sequential], int]] = {  # word of stored specs → factors, how many ranks
    "matrix": (_matrix, 1),
    "tucker": (TuckerConv, 2),
    "cp": (CPConv, 1),
}


def groups_of(layer: nn.Conv2d | nn.Linear) -> torch.Tensor:
    """The weight of ``layer`` a group, float64 (groups, out, in, …); a linear layer is one group."""
    return layer.weight.detach().double().unflatten(0, (getattr(layer, "groups", 1), -1))


def empty(layer: nn.Module, kind: str, ranks: list[int]) -> nn.Sequential:
    """Factors for ``layer`` whose weights are yet to be set; SpecError where they cannot be built."""
    fits = type(layer) in ((nn.Conv2d, nn.Linear) if kind == "matrix" else (nn.Conv2d,))
    if kind not in KINDS or not fits:
        raise SpecError(f"{type(layer).__name__}: there are no factors {kind!r} of it")
    make, count = KINDS[kind]
    most = layer.weight.numel()
    if len(ranks) != count or not all(isinstance(rank, int) and 1 <= rank <= most for rank in ranks):
        raise SpecError(f"ranks {ranks!r}: expected {count} from 1 to {most}")
    return make(layer, *ranks).to(layer.weight.device)


def put(model: nn.Module, name: str, new: nn.Sequential) -> None:
    """Puts factors in the place of the layer ``name``; a batch norm behind it is then behind the last."""
    layer, (place, _, child) = model.get_submodule(name), name.rpartition(".")
    unit = model.get_submodule(place)
    new.train(layer.training)
    if isinstance(unit, ConvUnit) and child == "conv":
        unit.conv = new.last
        new.last = unit
        name = place
    replace_module(model, name, new)


def factorize(model: nn.Module, structure: dict) -> None:
    """Puts empty factors of the kind ``structure["kind"]`` in the place of layers, in place.

    ``structure["ranks"]``: name → ranks, as many as the kind has. SpecError where they do not fit.
    """
    for name, ranks in structure["ranks"].items():
        try:
            put(model, name, empty(model.get_submodule(name), structure["kind"], ranks))
        except SpecError as error:
            raise SpecError(f"{name}: {error}") from error
