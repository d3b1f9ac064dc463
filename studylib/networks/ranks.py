"""Which layers are factorized, and at what ranks: by energy, by a budget of bytes, or given."""

import bisect
import dataclasses
import logging
from collections.abc import Callable
from typing import Annotated

import torch
from pydantic import Field
from torch import nn

from studylib.networks import factors, spec
from studylib.networks.layers import check_finite, duplicate, weight_layers
from studylib.settings import record

log = logging.getLogger(__name__)
FLOAT = 4  # bytes


@record
class Ranks:
    """What decides the ranks of factors; the defaults are ours."""

    energy: Annotated[float, Field(gt=0, le=1, description="share of Σ σ² that is kept, without budget and rank")] = 0.9
    budget: Annotated[int, Field(ge=0, le=2**29, description="bytes of all float32 parameters at most; 0: any")] = 0
    rank: Annotated[int, Field(ge=0, le=4096, description="of every layer that has so many; 0: by energy")] = 0

    def check(self) -> None:
        check_one(self.budget, self.rank)


def check_one(budget: int, rank: int) -> None:
    """Raises ValueError where both are given."""
    if budget and rank:
        raise ValueError(f"rank={rank!r}: expected 0 beside budget={budget!r}")


@dataclasses.dataclass(frozen=True)
class Candidate:
    """A layer that may be factorized.

    Attributes:
        values: of each of its ranks the singular values that it cuts, falling.
        dense: the layer's parameters.
        parameters: ranks → those of its factors.
    """

    values: list[torch.Tensor]
    dense: int
    parameters: Callable[[list[int]], int]


def candidates(model: nn.Module, kind: str) -> dict[str, Candidate]:
    """Layer → what :func:`choose` has to know; layers that factors of ``kind`` cannot be of are not there.

    Args:
        kind: "matrix": linear layers, and convolutions with kernels and input channels flattened. "tucker": the
            two unfoldings of a convolution along its channels. "cp": a convolution. As singular
            values it has ones, as many as ranks save something. A share of energy is so one of parameters.
            Groups share ranks.
    """
    found = {}
    for name, layer in weight_layers(model).items():
        if type(layer) not in (nn.Conv2d, nn.Linear):
            log.info("%s is left alone: it is %s", name, type(layer).__name__)
            continue
        if kind != "matrix" and layer.weight[0, 0].numel() == 1:
            log.info("%s is left alone: it has no kernels to factorize", name)
            continue
        weight, count = factors.groups_of(layer), _counter(layer, kind)
        dense = sum(parameter.numel() for parameter in layer.parameters())
        if kind == "cp":
            each = count([2]) - count([1])
            values = [torch.ones(max(0, (dense - 1 - count([1])) // each + 1), dtype=torch.float64)]
        elif kind == "tucker":
            values = [_singular(weight.transpose(1, 2).flatten(2)), _singular(weight.flatten(2))]
        else:
            values = [_singular(weight.flatten(2))]
        if all(map(len, values)):
            found[name] = Candidate(values, dense, count)
        else:
            log.info("%s is left alone: no rank saves anything", name)
    return found


def _singular(weight: torch.Tensor) -> torch.Tensor:
    """Singular values of the matrices (groups, rows, columns), as the root of their squares' sum over groups."""
    return torch.linalg.svdvals(weight).square().sum(0).sqrt()


def _counter(layer: nn.Module, kind: str) -> Callable[[list[int]], int]:
    def count(ranks: list[int]) -> int:
        with torch.device("meta"):
            return sum(parameter.numel() for parameter in factors.KINDS[kind][0](layer, *ranks).parameters())

    return count


def shares(values: torch.Tensor) -> list[float]:
    """Of each rank from 1 on, the share of Σ σ² that it keeps; the last is 1. ``values``: σ (n,), falling."""
    energy = values.double().square().cumsum(0)
    kept = (energy / energy[-1]).tolist() if energy[-1] > 0 else [1.0] * len(energy)
    return [*kept[:-1], 1.0]


def factorized(
    model: nn.Module, technique: str, kind: str, make: Callable[..., nn.Module], did: dict, **which: float
) -> nn.Module:
    """A copy of ``model`` whose layers of :func:`choose` are what ``make`` (layer, ranks one by one) gives of them.

    Args:
        technique, did: as for :func:`studylib.networks.spec.with_change`.
        kind: a key of :data:`studylib.networks.factors.KINDS`.
        which: energy, budget, rank.

    Raises:
        ValueError: a number of ``model`` is not finite. Else as :func:`choose`.
    """
    check_finite(model.state_dict())
    new = duplicate(model)
    chosen = choose(model, candidates(model, kind), **which)
    for name, each in chosen.items():
        factors.put(new, name, make(model.get_submodule(name), *each))
    structure = {"module": "factors", "kind": kind, "ranks": chosen}
    return spec.with_change(new.eval(), technique, did, structure)


def choose(
    model: nn.Module, found: dict[str, Candidate], *, energy: float = 0.9, budget: int = 0, rank: int = 0
) -> dict[str, list[int]]:
    """Layer → ranks, for those of ``found`` whose factors then have fewer parameters; a log names the others.

    Args:
        found: of :func:`candidates`.
        energy: the least ranks that keep this share of Σ σ².
        budget: if above 0, bytes that the float32 parameters of the whole ``model`` may take. The ranks are those of
            the largest energy, one for all layers, at which they do. Where they do as they are, no layer is chosen.
        rank: if above 0, that of every layer, or its largest.

    Raises:
        ValueError: a setting is out of range, or the budget is below what rank 1 takes.
    """
    Ranks(energy, budget, rank)  # refuses what is out of range
    kept = {name: [shares(values) for values in each.values] for name, each in found.items()}
    total = sum(parameter.numel() for parameter in model.parameters())

    def saving(ranks: dict[str, list[int]]) -> dict[str, list[int]]:
        return {name: each for name, each in ranks.items() if found[name].parameters(each) < found[name].dense}

    def at(level: float) -> dict[str, list[int]]:
        return saving({name: [bisect.bisect_left(s, level) + 1 for s in its] for name, its in kept.items()})

    def bytes_at(level: float) -> int:
        saved = sum(found[name].dense - found[name].parameters(each) for name, each in at(level).items())
        return FLOAT * (total - saved)

    if rank:
        chosen = saving({name: [min(rank, len(s)) for s in its] for name, its in kept.items()})
    elif not budget:
        chosen = at(energy)
    elif FLOAT * total <= budget:
        chosen = {}
    else:
        levels = sorted({share for its in kept.values() for each in its for share in each})
        fitting = bisect.bisect_right(levels, budget, key=bytes_at)
        if not fitting:
            least = bytes_at(levels[0]) if levels else FLOAT * total
            raise ValueError(f"budget={budget!r}: expected at least {least}, which rank 1 takes")
        chosen = at(levels[fitting - 1])
    for name in found.keys() - chosen.keys():
        log.info("%s is left alone: its factors would save nothing", name)
    return chosen
