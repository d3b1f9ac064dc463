"""What a weight is worth by a criterion, and masks without the weights that are worth least."""

import functools
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import nn

from studylib.data.datasets import Data
from studylib.networks.calibration import check_calibration
from studylib.networks.layers import Masks, check_finite, duplicate, prunable, weight_layers
from studylib.settings import record

CHUNK = 128  # images at once
CRITERIA = {
    "magnitude": "the weight (Han et al. 2015)",
    "activation": "the weight times the root mean square of what it reads (Sun et al. 2024, equation 1)",
    "gradient": "the weight times the loss's gradient (Molchanov et al. 2017, Lee et al. 2019)",
}
Sparsity = Annotated[float, Field(ge=0, lt=1, description="share that is zero afterwards; what was zero counts")]
Scope = Annotated[Literal["global", "layer"], Field(description="all layers have that share together, or each has it")]


@record
class Ranking:
    """What pruning ranks by; the records of techniques add to it."""

    criterion: Annotated[
        Literal["magnitude", "activation", "gradient"],
        Field(description="what decides: a weight's size, or that times its input's size or times its gradient"),
    ] = "magnitude"
    calibration_images: Annotated[
        int, Field(ge=1, description="training images that inputs and gradients are of; magnitude needs none")
    ] = 512

    def against(self, data: Data) -> None:
        """Raises ValueError for more calibration images than there are training images."""
        check_calibration(self.calibration_images, data)


def saliencies(
    model: nn.Module,
    data: Data | None = None,
    *,
    criterion: str = "magnitude",
    calibration_images: int = 512,
    seed: int = 0,
) -> dict[str, torch.Tensor]:
    """Name → what each weight of :func:`studylib.networks.layers.prunable` is worth, of its shape and with a sign.

    Pruning asks for its magnitude. That of "activation" is the criterion of Sun et al. 2024, over the root of how
    often a weight reads. Layers can so be compared. Padding is not read. "gradient" is the loss's change, to first
    order, as the weight goes to zero, with the other sign.

    Args:
        criterion: one of :data:`CRITERIA`.
        calibration_images: how many training images, drawn by ``seed``, inputs and gradients are of. The model sees
            them in evaluation mode.

    Raises:
        ValueError: an unknown criterion, or one without the training images that it wants. ``model`` has no float
            weight, or a number of it is not finite.
    """
    if criterion not in CRITERIA:
        raise ValueError(f"criterion={criterion!r}: expected one of {', '.join(CRITERIA)}")
    check_finite(model.state_dict())
    weights = {name: weight.detach() for name, weight in prunable(model).items()}
    if not weights:
        raise ValueError("there is no float weight to prune; prune before quantizing")
    if criterion == "magnitude":
        return weights
    if data is None:
        raise ValueError(f"criterion={criterion!r}: expected data, whose training images decide")
    check_calibration(calibration_images, data)
    data = data.to(next(iter(weights.values())).device)
    order = torch.randperm(len(data.train), generator=torch.Generator().manual_seed(seed))[:calibration_images]
    seen = data.train.take(order.to(data.train.labels.device))
    factors = (_inputs if criterion == "activation" else _gradients)(duplicate(model).eval(), data, seen)
    found = {name: weight * factors[name] for name, weight in weights.items()}
    check_finite(found)
    return found


@torch.no_grad()
def _inputs(model: nn.Module, data: Data, seen) -> dict[str, torch.Tensor]:
    """The root mean square of what each weight reads in the images ``seen``, to be broadcast over it."""
    layers, sums, counts = weight_layers(model), {}, {}

    def see(name: str, layer: nn.Module, inputs: tuple) -> None:
        squares = inputs[0].double().square()
        squares = squares.transpose(1, -1) if isinstance(layer, nn.Conv2d) else squares  # what is read comes last
        squares = squares.flatten(0, -2)
        sums[name], counts[name] = sums.get(name, 0) + squares.sum(0), counts.get(name, 0) + len(squares)

    for name, layer in layers.items():
        layer.register_forward_pre_hook(functools.partial(see, name))
    for images in seen.images.split(CHUNK):
        model(data.normalize(images))
    found = {}
    for name, total in sums.items():
        weight, groups = layers[name].weight, getattr(layers[name], "groups", 1)
        read = (total / counts[name]).sqrt().float().view(groups, -1).repeat_interleave(len(weight) // groups, 0)
        found[f"{name}.weight"] = read.view(*read.shape, *[1] * (weight.dim() - 2))
    return {name: found.get(name, torch.zeros(())) for name in prunable(model)}  # a layer that is not called reads 0


def _gradients(model: nn.Module, data: Data, seen) -> dict[str, torch.Tensor]:
    """The gradient of the task's mean loss over the images of the split ``seen`` for each weight."""
    weights = prunable(model)
    found = {name: torch.zeros_like(weight) for name, weight in weights.items()}
    for weight in weights.values():
        weight.requires_grad_()
    for images, labels in zip(seen.images.split(CHUNK), seen.labels.split(CHUNK), strict=True):
        with torch.enable_grad():
            loss, _ = data.task.loss(model, data.normalize(images), labels)
        gradients = torch.autograd.grad(loss, list(weights.values()), allow_unused=True)
        for name, gradient in zip(weights, gradients, strict=True):
            if gradient is not None:
                found[name] += gradient * (len(images) / len(seen))
    return found


def without_smallest(values: dict[str, torch.Tensor], masks: Masks, count: int) -> Masks:
    """``masks`` without the ``count`` living ones of least magnitude in ``values``; of equal ones the earlier goes.

    ValueError, naming it, where one of ``values`` is not finite.
    """
    check_finite({name: values[name] for name in masks})
    alive = torch.cat([mask.flatten() for mask in masks.values()])
    living = alive.nonzero().flatten()
    order = torch.cat([values[name].detach().abs().flatten() for name in masks])[living].argsort(stable=True)
    parts = alive.index_fill(0, living[order[:count]], False).split([mask.numel() for mask in masks.values()])
    return {name: part.view_as(masks[name]) for name, part in zip(masks, parts, strict=True)}


def at_sparsity(values: dict[str, torch.Tensor], masks: Masks, sparsity: float, scope: str) -> Masks:
    """``masks`` with the share ``sparsity`` of all places dead, those of least magnitude in ``values``.

    Exactly round(sparsity × places) are dead, or as many as were if that is more.

    Args:
        scope: "global": of all layers together; "layer": in each.
    """
    pools = [masks] if scope == "global" else [{name: mask} for name, mask in masks.items()]
    found = {}
    for pool in pools:
        dead = sum(int((~mask).sum()) for mask in pool.values())
        goal = round(sparsity * sum(mask.numel() for mask in pool.values()))
        found |= without_smallest(values, pool, max(0, goal - dead))
    return found


@torch.no_grad()
def zero(model: nn.Module, masks: Masks) -> None:
    """Makes the weights of ``model`` outside ``masks`` zero, in place."""
    for name, weight in prunable(model).items():
        if name in masks:
            weight.mul_(masks[name])
