"""Structural pruning: whole filters and neurons are taken out, so that a smaller dense network is left."""

import logging
import math
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from studylib.data.datasets import Data
from studylib.networks import filters, saliency, spec
from studylib.networks.slicing import Channel
from studylib.settings import record

log = logging.getLogger(__name__)


@record
class Structural(saliency.Ranking):
    """How much :func:`apply` removes; the defaults are ours."""

    criterion: Annotated[
        Literal["magnitude", "activation", "gradient", "batch_norm"],
        Field(description="what decides: the L2 norm of what a filter's weights are worth, or its batch norm's scale"),
    ] = "magnitude"
    fraction: Annotated[float, Field(gt=0, lt=1, description="share of filters and neurons that is taken out")] = 0.3
    scope: Annotated[
        Literal["global", "layer"], Field(description="all layers lose that share together, or each loses it")
    ] = "layer"


def worth(model: nn.Module, found: filters.Filters, values: dict[str, torch.Tensor] | None) -> dict[Channel, float]:
    """Channel of ``found`` → the L2 norm of ``values`` in all rows that make it (Li et al. 2017 take L1).

    ``values``: as :func:`studylib.networks.saliency.saliencies` gives them. None: instead the mean magnitude of its
    batch norms' scales (Liu et al. 2017), without channels that have none.
    """
    norms: dict[Channel, list[float]] = {}
    for family in found.families.values():
        for name, rows in found.rows(set(family)).items():
            layer = model.get_submodule(name)
            norm = isinstance(layer, _BatchNorm)
            if norm != (values is None) or layer.weight is None:
                continue
            tensor = layer.weight.detach() if norm else values[f"{name}.weight"]
            each = tensor.double().flatten(1).norm(dim=1) if tensor.dim() > 1 else tensor.double().abs()
            for row in rows:
                norms.setdefault(found.graph.whole[found.graph.rows[name][row]], []).append(float(each[row]))
    if values is None:
        return {channel: sum(each) / len(each) for channel, each in norms.items()}
    return {channel: math.hypot(*each) for channel, each in norms.items()}


def least(families: dict[str, list[Channel]], worth: dict[Channel, float], fraction: float, scope: str) -> set[Channel]:
    """The channels to take out: the share ``fraction`` of least ``worth``, but never the best of a family.

    ``scope``: "layer": round(fraction × channels) of each family. "global": of all, each worth divided by its family's
    mean, as layers differ in how large their weights are.
    """
    chosen = set()
    if scope == "layer":
        for family in families.values():
            order = sorted(family, key=worth.__getitem__)
            chosen.update(order[: min(round(fraction * len(order)), len(order) - 1)])
        return chosen
    relative = {}
    for family in families.values():
        mean = sum(worth[channel] for channel in family) / len(family)
        relative |= {channel: worth[channel] / mean if mean else 0.0 for channel in family}
    best = {max(family, key=worth.__getitem__) for family in families.values()}
    order = sorted(relative.keys() - best, key=lambda channel: (relative[channel], channel))
    return set(order[: round(fraction * len(relative))])


def apply(
    model: nn.Module,
    data: Data | None = None,
    *,
    fraction: float = 0.3,
    scope: str = "layer",
    criterion: str = "magnitude",
    calibration_images: int = 512,
    seed: int = 0,
) -> nn.Module:
    """Takes out filters and neurons, with their batch norms and all weights that read them (Li et al. 2017).

    The network without them gives what it gives while they are zero. What goes together is as the graph of
    torch-pruning says (Fang et al. 2023). It is rows that are added, or a depthwise filter and the channel it reads.
    Layers where a channel's absence is not the same as its being zero are left alone.

    Args:
        data: for criteria that see training images.
        fraction, scope: as in :func:`least`.
        criterion: "batch_norm", or one of :data:`studylib.networks.saliency.CRITERIA`; see :func:`worth`.
        calibration_images, seed: as for :func:`studylib.networks.saliency.saliencies`.

    Raises:
        ValueError: a setting is out of range, or no channel can be taken out. Where batch norm decides, those are
            channels that have one. Else as :func:`studylib.networks.filters.of` and
            :func:`studylib.networks.saliency.saliencies`.
    """
    by = {"criterion": criterion, "calibration_images": calibration_images}
    Structural(**by, fraction=fraction, scope=scope)  # refuses what is out of range
    found = filters.of(model)
    values = None if criterion == "batch_norm" else saliency.saliencies(model, data, **by, seed=seed)
    score = worth(model, found, values)
    families = {name: its for name, its in found.families.items() if all(channel in score for channel in its)}
    for name in found.families.keys() - families.keys():
        log.info("%s is left alone: it has no batch norm", name)
    if not families:
        raise ValueError(f"criterion={criterion!r}: no channel can be taken out")
    new, structure = filters.removed(model, found, least(families, score, fraction, scope))
    total = sum(map(len, families.values()))
    did = {"fraction": fraction, "scope": scope, "criterion": criterion, "of": total}
    return spec.with_change(new.eval(), "structural", did, structure)
