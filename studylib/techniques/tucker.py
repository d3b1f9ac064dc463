"""Tucker factorization of convolutions: a k × k convolution between fewer channels, and 1 × 1 ones around it."""

import functools
from typing import Annotated

import numpy as np
import torch
from pydantic import Field
from torch import nn

from studylib.data.datasets import Data
from studylib.networks import factors, ranks
from studylib.networks.layers import check_finite
from studylib.settings import record


@record
class Tucker(ranks.Ranks):
    """How far :func:`apply` goes; the defaults are ours."""

    iterations: Annotated[int, Field(ge=1, le=1000, description="of the higher-order orthogonal iteration")] = 50


def factorize(layer: nn.Conv2d, into: int, out: int, iterations: int = 50) -> factors.TuckerConv:
    """The convolution ``layer`` as three (Kim et al. 2016), by tensorly's higher-order orthogonal iteration.

    Its weight (out, in, k, k), of each group, becomes a core between two orthonormal factors of channels. At full ranks
    nothing is lost.

    Args:
        into, out: ranks of input and output channels, of each group.

    Raises:
        ValueError: a rank is not between 1 and the group's channels, or a number of ``layer`` is not finite.
    """
    from tensorly.decomposition import partial_tucker

    check_finite(layer.state_dict())
    weight = factors.groups_of(layer)
    for name, rank, most in (("into", into, weight.shape[2]), ("out", out, weight.shape[1])):
        if not 1 <= rank <= most:
            raise ValueError(f"{name}={rank!r}: expected 1 to {most}")
    new = factors.empty(layer, "tucker", [into, out])
    parts = []
    for each in weight.cpu().numpy():
        core, left, right = np.zeros((out, into, *each.shape[2:])), np.eye(len(each), out), np.eye(each.shape[1], into)
        if each.any():  # else there is nothing to find
            how = {"rank": [out, into], "modes": [0, 1], "n_iter_max": iterations, "random_state": 0}
            (core, (left, right)), _ = partial_tucker(each, **how)
        parts.append((right.T[:, :, None, None], core, left[:, :, None, None]))
    with torch.no_grad():
        for conv, of_groups in zip(new, zip(*parts, strict=True), strict=True):
            conv.weight.copy_(torch.from_numpy(np.concatenate(of_groups)))
        if layer.bias is not None:
            new.last.bias.copy_(layer.bias)
    return new


def apply(
    model: nn.Module,
    data: Data | None = None,
    *,
    energy: float = 0.9,
    budget: int = 0,
    rank: int = 0,
    iterations: int = 50,
) -> nn.Module:
    """Factorizes each convolution with k × k kernels where that saves parameters; a log names those left alone.

    Zeros of a pruned layer are lost where it is factorized: its factors are dense.

    Args:
        data: not used; every technique is called alike.
        energy, budget, rank: as for :func:`studylib.networks.ranks.choose`, the same share of both channels' energy.

    Raises:
        ValueError: a setting is out of range, or a number of ``model`` is not finite. The budget is too small.
    """
    Tucker(energy, budget, rank, iterations)  # refuses what is out of range
    how = {"energy": energy, "budget": budget, "rank": rank}
    did = {key: value for key, value in how.items() if value}
    return ranks.factorized(model, "tucker", "tucker", functools.partial(factorize, iterations=iterations), did, **how)
