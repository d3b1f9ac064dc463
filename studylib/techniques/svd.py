"""Low-rank factorization of linear layers by the singular value decomposition."""

import logging
from typing import Annotated

import torch
from pydantic import Field
from torch import nn

from studylib.data.datasets import Data
from studylib.networks import spec
from studylib.networks.factors import LowRankLinear
from studylib.networks.layers import check_finite, duplicate, replace_module, weight_layers
from studylib.settings import record

log = logging.getLogger(__name__)


@record
class Factorization:
    """How far :func:`apply` goes; the default is the paper's (equation 2)."""

    delta: Annotated[int, Field(ge=0, le=4096, description="Δ, how far below the break-even rank to go")] = 1


def rank_for(in_features: int, out_features: int, delta: int = 1) -> int | None:
    """r = ⌊in·out / (in + out)⌋ − Δ, at least 1 (the paper, equation 2); None where that rank saves nothing.

    Raises:
        ValueError: ``delta`` is negative.
    """
    if delta < 0:
        raise ValueError(f"delta={delta!r}: expected at least 0")
    rank = max(1, in_features * out_features // (in_features + out_features) - delta)
    return rank if rank * (in_features + out_features) < in_features * out_features else None


def factorize(layer: nn.Linear, rank: int, importance: torch.Tensor | None = None) -> LowRankLinear:
    """The best rank-``rank`` approximation of ``layer`` in the Frobenius norm (Eckart–Young).

    W = U S Vᵀ, cut to r: first = √S Vᵀ (r, in), second = U √S (out, r). The error is the norm of what is cut from S.

    Args:
        importance: (in,), how much an error in each input's weights counts. If given, Σᵢⱼ importanceⱼ (W − W′)ᵢⱼ² is
            least (Hsu et al. 2022, equation 6). Inputs of importance 0 count next to nothing.

    Raises:
        ValueError: ``rank`` is not between 1 and the smaller side of the weight. ``importance`` does not fit, or a
            number of ``layer`` is not finite.
    """
    check_finite(layer.state_dict())
    out_features, in_features = layer.weight.shape
    if not 1 <= rank <= min(in_features, out_features):
        raise ValueError(f"rank={rank!r}: expected 1 to {min(in_features, out_features)}")
    new = LowRankLinear(in_features, rank, out_features, layer.bias is not None).to(layer.weight.device)
    scale = torch.ones(in_features, dtype=torch.float64, device=layer.weight.device)
    if importance is not None and importance.max() > 0:
        if importance.shape != (in_features,) or importance.min() < 0:
            raise ValueError(f"importance {tuple(importance.shape)}: expected {in_features} numbers of at least 0")
        scale = (importance.double() / importance.max()).clamp_(min=1e-8).sqrt()
    with torch.no_grad():
        u, s, vt = torch.linalg.svd(layer.weight.double() * scale, full_matrices=False)
        root = s[:rank].sqrt()
        new.first.weight.copy_(root[:, None] * vt[:rank] / scale)
        new.second.weight.copy_(u[:, :rank] * root)
        if layer.bias is not None:
            new.second.bias.copy_(layer.bias)
    return new


def apply(
    model: nn.Module, data: Data | None = None, *, delta: int = 1, importance: dict[str, torch.Tensor] | None = None
) -> nn.Module:
    """Factorizes every linear layer (the paper, section 3.5); layers where no rank saves anything stay.

    Convolutions are left alone. Zeros of a pruned layer are lost where it is factorized: its factors are dense.

    Args:
        data: not used; every technique is called alike.
        delta: Δ, how far below the break-even rank to go.
        importance: of each linear layer's inputs (:func:`studylib.experiments.svd.fisher`); without, all count alike.

    Raises:
        ValueError: a number of ``model`` is not finite.
    """
    check_finite(model.state_dict())
    new, ranks, kept = duplicate(model), {}, []
    for name, layer in weight_layers(model).items():
        if not isinstance(layer, nn.Linear):
            continue
        rank = rank_for(layer.in_features, layer.out_features, delta)
        if rank is None:
            kept.append(name)
            log.info("%s (%d → %d) is left alone: no rank saves anything", name, layer.in_features, layer.out_features)
        else:
            ranks[name] = rank
            replace_module(new, name, factorize(layer, rank, (importance or {}).get(name)))
    did = {"delta": delta, "left_alone": kept}
    return spec.with_change(new.eval(), "svd", did, {"module": "lowrank", "ranks": ranks})
