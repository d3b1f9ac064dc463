"""CP factorization of convolutions: each becomes a sum of separable ones, as four thin convolutions."""

import functools
import warnings
from typing import Annotated

import torch
from pydantic import Field
from torch import nn

from studylib.data.datasets import Data
from studylib.networks import factors, ranks
from studylib.networks.layers import check_finite
from studylib.settings import record

RIDGE = 1e-12  # of the normal equations, for a weight of norm 1


@record
class CP:
    """How far :func:`apply` goes; the defaults are ours."""

    share: Annotated[
        float, Field(gt=0, le=1, description="of a layer's parameters that its factors have, rounded up to a rank")
    ] = 0.5
    budget: Annotated[int, Field(ge=0, le=2**29, description="bytes of all float32 parameters at most; 0: any")] = 0
    rank: Annotated[int, Field(ge=0, le=4096, description="of every layer where it saves; 0: by share")] = 0
    iterations: Annotated[int, Field(ge=1, le=10000, description="of alternating least squares, at most")] = 100

    def check(self) -> None:
        ranks.check_one(self.budget, self.rank)


def factorize(layer: nn.Conv2d, rank: int, iterations: int = 100, seed: int = 0) -> factors.CPConv:
    """The convolution ``layer`` as four (Lebedev et al. 2015), by tensorly's alternating least squares.

    Its weight (out, in, k, k), of each group, becomes Σ over r of a_r ⊗ b_r ⊗ c_r ⊗ d_r. Each term's four vectors get
    the same norm. A ridge of :data:`RIDGE` keeps the normal equations from being singular. Nothing is lost where the
    weight is such a sum of ``rank`` terms, and the iteration finds them.

    Args:
        rank: how many terms, of each group.
        iterations: at most.
        seed: draws what vectors start from beyond the singular ones.

    Raises:
        ValueError: ``rank`` is not between 1 and the number of a group's weights. A number of ``layer`` is not finite.
    """
    from tensorly.decomposition import parafac

    check_finite(layer.state_dict())
    weight = factors.groups_of(layer)
    if not 1 <= rank <= weight[0].numel():
        raise ValueError(f"rank={rank!r}: expected 1 to {weight[0].numel()}")
    new = factors.empty(layer, "cp", [rank])
    how = {"n_iter_max": iterations, "tol": 1e-10, "l2_reg": RIDGE, "random_state": seed}
    parts = []
    for each in weight.cpu():
        norm = each.norm()
        vectors = [torch.zeros(side, rank, dtype=torch.float64) for side in each.shape]
        if norm > 0:  # else there is nothing to find
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", "Trying to compute SVD with n_eigenvecs")  # a side below the rank
                vectors = [torch.from_numpy(found) for found in parafac((each / norm).numpy(), rank, **how).factors]
            norms = torch.stack([found.norm(dim=0) for found in vectors])
            size = (norm * norms.prod(0)) ** (1 / len(vectors))
            vectors = [found * (size / n.clamp(min=1e-300)) for found, n in zip(vectors, norms, strict=True)]
        left, right, column, row = vectors
        parts.append(
            (right.T[:, :, None, None], column.T[:, None, :, None], row.T[:, None, None, :], left[:, :, None, None])
        )
    with torch.no_grad():
        for conv, of_groups in zip(new, zip(*parts, strict=True), strict=True):
            conv.weight.copy_(torch.cat(of_groups))
        if layer.bias is not None:
            new.last.bias.copy_(layer.bias)
    return new


def apply(
    model: nn.Module,
    data: Data | None = None,
    *,
    share: float = 0.5,
    budget: int = 0,
    rank: int = 0,
    iterations: int = 100,
    seed: int = 0,
) -> nn.Module:
    """Factorizes each convolution with k × k kernels where that saves parameters; a log names those left alone.

    Zeros of a pruned layer are lost where it is factorized: its factors are dense.

    Args:
        data: not used; every technique is called alike.
        share, budget, rank: as in :class:`CP`; the shares are the energies of :func:`studylib.networks.ranks.choose`.
        iterations, seed: as for :func:`factorize`.

    Raises:
        ValueError: a setting is out of range, or a number of ``model`` is not finite. The budget is too small.
    """
    CP(share, budget, rank, iterations)  # refuses what is out of range
    did = {key: value for key, value in {"share": share, "budget": budget, "rank": rank}.items() if value}
    make = functools.partial(factorize, iterations=iterations, seed=seed)
    return ranks.factorized(model, "cp", "cp", make, did, energy=share, budget=budget, rank=rank)
