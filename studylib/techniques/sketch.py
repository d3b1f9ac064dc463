"""Low rank by sketching: few random combinations of a weight's columns say which range its factors have."""

import functools
import math
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import nn

from studylib.data.datasets import Data
from studylib.networks import factors, ranks
from studylib.networks.layers import check_finite
from studylib.settings import record


@record
class Sketch(ranks.Ranks):
    """How far :func:`apply` goes; oversampling and power are as Halko et al. 2011 advise (sections 1.3 and 1.6)."""

    method: Annotated[
        Literal["gaussian", "count_sketch", "svd"],
        Field(description="random combinations of columns: normal weights, or signs in buckets; svd: exact factors"),
    ] = "gaussian"
    oversampling: Annotated[int, Field(ge=0, le=4096, description="combinations beyond the rank")] = 8
    power: Annotated[int, Field(ge=0, le=16, description="how often the weight and its transpose multiply them")] = 1


def count_sketch(columns: int, size: int, generator: torch.Generator) -> torch.Tensor:
    """S (columns, size), float64, with one entry a row, 1 or −1, in a drawn place (Charikar et al. 2002).

    E[S Sᵀ] is the identity, so that A S Sᵀ B is A B on average.
    """
    places = torch.randint(size, (columns,), generator=generator)
    signs = 2.0 * torch.randint(2, (columns,), generator=generator) - 1
    return torch.zeros(columns, size, dtype=torch.float64).scatter_(1, places[:, None], signs[:, None].double())


def find_range(
    matrix: torch.Tensor, size: int, *, method: str = "gaussian", power: int = 0, generator: torch.Generator
) -> torch.Tensor:
    """Q (rows, size), orthonormal, near the range of ``matrix`` (Halko et al. 2011, algorithms 4.1 and 4.4).

    Args:
        matrix: (rows, columns), float64.
        size: columns of Q, at most the smaller side of ``matrix``.
        method: "gaussian" or "count_sketch", the test matrix.
        power: q, for the range of (A Aᵀ)^q A Ω, orthonormalized after each product.
    """
    columns = matrix.shape[1]
    if method == "gaussian":
        test = torch.randn(columns, size, dtype=torch.float64, generator=generator)
    else:
        test = count_sketch(columns, size, generator)
    basis = torch.linalg.qr(matrix @ test).Q
    for _ in range(power):
        basis = torch.linalg.qr(matrix @ torch.linalg.qr(matrix.T @ basis).Q).Q
    return basis


def sketched(
    matrix: torch.Tensor,
    rank: int,
    *,
    method: str = "gaussian",
    oversampling: int = 8,
    power: int = 1,
    generator: torch.Generator,
) -> tuple[torch.Tensor, torch.Tensor]:
    """L (rows, rank) and R (rank, columns) with L R near ``matrix``, which share its singular values evenly.

    The range is that of rank + ``oversampling`` combinations, or all. The singular value decomposition of Qᵀ A, cut to
    ``rank``, gives the factors (Halko et al. 2011, algorithm 5.1). Their error is within :func:`error_bound`.

    Raises:
        ValueError: ``rank`` is not between 1 and the smaller side of ``matrix``.
    """
    if not 1 <= rank <= min(matrix.shape):
        raise ValueError(f"rank={rank!r}: expected 1 to {min(matrix.shape)}")
    basis, size = None, min(rank + oversampling, *matrix.shape)
    if method != "svd":
        basis = find_range(matrix, size, method=method, power=power, generator=generator)
    u, s, vt = torch.linalg.svd(matrix if basis is None else basis.T @ matrix, full_matrices=False)
    root = s[:rank].sqrt()
    left = u[:, :rank] * root
    return left if basis is None else basis @ left, root[:, None] * vt[:rank]


def error_bound(
    values: torch.Tensor, rank: int, oversampling: int, probability: float, *, norm: str = "frobenius", power: int = 0
) -> float:
    """What the error ‖A − L R‖ of :func:`sketched`, by Gaussian combinations, stays within at ``probability``.

    Frobenius: Halko et al. 2011, theorem 10.7. Spectral: theorem 10.8, of (A Aᵀ)^q A, and theorem 9.2. To the error of
    the range comes that of the cut, at most the singular values beyond ``rank``. Their failure 2 t⁻ᵖ + e^(−u²/2) is
    split evenly. Powers only make the range's part of the Frobenius error smaller, so that it is the same bound.

    Args:
        values: all singular values of A, falling.
        rank, oversampling, power: as for :func:`sketched`; the theorems want a rank of 2 and an oversampling of 4.
        probability: 1 − the chance that the error is larger.
        norm: "frobenius" or "spectral".

    Raises:
        ValueError: a number is out of range, or another norm.
    """
    if not 0 < probability < 1:
        raise ValueError(f"probability={probability!r}: expected between 0 and 1")
    if norm not in ("frobenius", "spectral"):
        raise ValueError(f"norm={norm!r}: expected frobenius or spectral")
    for name, value, low in (("rank", rank, 2), ("oversampling", oversampling, 4), ("power", power, 0)):
        if value < low:
            raise ValueError(f"{name}={value!r}: expected at least {low}")
    rest = values.double()[rank:]
    if not len(rest):
        return 0.0
    failure = 1 - probability
    t, u = (4 / failure) ** (1 / oversampling), math.sqrt(2 * math.log(2 / failure))
    near = 1 + t * math.sqrt(3 * rank / (oversampling + 1))
    far = t * math.e * math.sqrt(rank + oversampling) / (oversampling + 1)
    if norm == "frobenius":
        tail = float(rest.norm())
        return math.hypot(near * tail + u * far * float(rest[0]), tail)
    if rest[0] == 0:
        return 0.0
    order, tail = 2 * power + 1, float((rest / rest[0]).pow(2 * power + 1).norm())
    return float(rest[0]) * (1 + (near + far * tail + u * far) ** (1 / order))


def factorize(
    layer: nn.Conv2d | nn.Linear,
    rank: int,
    *,
    method: str = "gaussian",
    oversampling: int = 8,
    power: int = 1,
    generator: torch.Generator,
) -> nn.Sequential:
    """Two thin layers for ``layer``: a convolution's weight is the matrix (out, in · k · k), of each group.

    Args:
        rank: of each group; the others as for :func:`sketched`.

    Raises:
        ValueError: ``rank`` is not between 1 and the matrix's smaller side, or a number of ``layer`` is not finite.
    """
    check_finite(layer.state_dict())
    how = {"method": method, "oversampling": oversampling, "power": power, "generator": generator}
    pairs = [sketched(matrix.cpu(), rank, **how) for matrix in factors.groups_of(layer).flatten(2)]
    new = factors.empty(layer, "matrix", [rank])
    first, last = new
    with torch.no_grad():
        first.weight.copy_(torch.cat([right for _, right in pairs]).view_as(first.weight))
        last.weight.copy_(torch.cat([left for left, _ in pairs]).view_as(last.weight))
        if layer.bias is not None:
            last.bias.copy_(layer.bias)
    return new


def apply(
    model: nn.Module,
    data: Data | None = None,
    *,
    energy: float = 0.9,
    budget: int = 0,
    rank: int = 0,
    method: str = "gaussian",
    oversampling: int = 8,
    power: int = 1,
    seed: int = 0,
) -> nn.Module:
    """Factorizes each linear layer and convolution where that saves parameters; a log names those left alone.

    Ranks are chosen by the exact singular values, which are cheap at this size; the sketch finds the factors. Zeros of
    a pruned layer are lost where it is factorized: its factors are dense.

    Args:
        data: not used; every technique is called alike.
        energy, budget, rank: as for :func:`studylib.networks.ranks.choose`.
        method, oversampling, power: as for :func:`sketched`; "svd" needs neither of the others.

    Raises:
        ValueError: a setting is out of range, or a number of ``model`` is not finite. The budget is too small.
    """
    Sketch(energy, budget, rank, method, oversampling, power)  # refuses what is out of range
    how = {"method": method, "oversampling": oversampling, "power": power}
    which = {"energy": energy, "budget": budget, "rank": rank}
    did = {key: value for key, value in which.items() if value} | how
    make = functools.partial(factorize, **how, generator=torch.Generator().manual_seed(seed))
    return ranks.factorized(model, "sketch", "matrix", make, did, **which)
