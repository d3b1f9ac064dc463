"""Iterative magnitude pruning: global, unstructured, with the weights reset after each round."""

import copy
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import torch
from pydantic import Field
from torch import nn

from studylib.data import scoring
from studylib.data.datasets import Data
from studylib.networks import layers, spec
from studylib.networks.layers import Masks, masks_of, prunable
from studylib.networks.saliency import saliencies, without_smallest, zero
from studylib.settings import record
from studylib.training import loop
from studylib.training.recipe import Recipe
from studylib.training.step import Loss

log = logging.getLogger(__name__)
METHODS = {  # of trajectory: what is pruned, and what its survivors start again from
    "pretrained": "iterative, weights back to their trained values (Chen et al. 2020, the paper)",
    "initial": "iterative, weights back to their first values (Frankle and Carbin 2019)",
    "learning_rate": "iterative, weights kept, only the schedule starts again (Renda et al. 2020)",
    "one_shot": "the trained weights pruned to the goal at once",
    "random": "positions drawn at random, as many a layer; trained values",
}


@record
class Pruning:
    """How much :func:`apply` removes; the default share is the paper's (section 3.4), the number of rounds ours."""

    rounds: Annotated[int, Field(ge=1, le=1000, description="how often to prune")] = 10
    fraction: Annotated[float, Field(gt=0, lt=1, description="share of the remaining weights that a round removes")] = (
        0.2
    )
    tolerance: Annotated[
        float,
        Field(ge=0, le=1, description="validation score (accuracy: 0 to 1) that a round may lose against the parent"),
    ] = 0.0


def shrink_masks(weights: dict[str, torch.Tensor], masks: Masks, fraction: float) -> Masks:
    """``masks`` without the ``fraction`` of the living weights that are smallest in magnitude, over all layers.

    Exactly round(fraction × living) weights go; of equal magnitudes, the earlier goes first.

    Raises:
        ValueError: ``fraction`` is outside 0…1, or a weight is not finite: it has no place among magnitudes.
    """
    if not 0 <= fraction <= 1:
        raise ValueError(f"fraction={fraction!r}: expected between 0 and 1")
    return without_smallest(weights, masks, round(fraction * _count(masks)[0]))


def scatter(masks: Masks, seed: int) -> Masks:
    """As many living weights in each layer as ``masks`` has, at positions drawn by ``seed``."""
    draw = torch.Generator().manual_seed(seed)
    return {
        name: mask.flatten()[torch.randperm(mask.numel(), generator=draw).to(mask.device)].view_as(mask)
        for name, mask in masks.items()
    }


def apply(
    model: nn.Module,
    data: Data,
    *,
    rounds: int,
    recipe: Recipe,
    seed: int,
    fraction: float = 0.2,
    tolerance: float = 0.0,
    criterion: str = "magnitude",
    scratch: Path | None = None,
) -> nn.Module:
    """Prunes ``fraction`` of the remaining weights a round and lets the rest recover (the paper, section 3.4).

    Each round ranks the weights as the last one left them. Survivors get their values in ``model`` back (Chen et al.
    2020). They are trained until validation accuracy is within ``tolerance`` of ``model``'s, if it is not at once. A
    round that never gets there keeps its best state, the untrained one among them.

    Args:
        recipe: its ``epochs`` are the most that one round may take to recover.
        tolerance: what may be lost of the validation score of the data's task: of classes accuracy, 0…1.
        criterion: what a round ranks by (:func:`studylib.networks.saliency.saliencies`); the paper's is "magnitude".
        scratch: folder for the checkpoints of interrupted trainings.

    Returns:
        The pruned model; ``history`` has one row an epoch with its round, and round 0 for ``model`` itself.

    Raises:
        ValueError: a setting is out of range, ``model`` has no weight to prune, or a number not finite.
    """
    Pruning(rounds, fraction, tolerance)  # refuses what is out of range
    layers.check_finite(model.state_dict())
    pruned = layers.duplicate(model)
    masks = masks_of(pruned)
    if not masks:
        raise ValueError("there is no float weight to prune; prune before quantizing")
    pretrained = copy.deepcopy(model.state_dict())

    def reset() -> None:
        pruned.load_state_dict(pretrained)
        zero(pruned, masks)

    task, key = data.task, f"val_{data.task.score}"

    def row(k: int, epoch: int, score: float) -> dict:
        living, total = _count(masks)
        return {"round": k, "epoch": epoch, "sparsity": 1 - living / total, key: score}

    parent_score = task.score_of(model, data.validation, data)
    target = task.worse(task.worse(parent_score, tolerance), 1e-9)
    history = [row(0, 0, parent_score)]
    by = {"criterion": criterion, "calibration_images": min(512, len(data.train)), "seed": seed}
    for k in range(1, rounds + 1):
        masks = shrink_masks(saliencies(pruned, data, **by), masks, fraction)
        reset()
        before = task.score_of(pruned, data.validation, data)
        history.append(row(k, 0, before))
        if not task.reached(history, target):
            checkpoint = scratch / f"imp-round{k}.safetensors" if scratch else None
            how = {"seed": seed + 1000 * k, "masks": masks, "target": target, "checkpoint": checkpoint}
            epochs = loop.fit(pruned, data, recipe, **how)
            history += [row(k, each["epoch"], each[key]) for each in epochs]
            after = [each[key] for each in epochs]
            if task.best([before, *after]) not in after:  # training only made it worse
                reset()
        best = task.best(each[key] for each in history if each["round"] == k)
        log.info(f"round %d: %.2f%% zeros, validation {task.score} %.4f", k, 100 * history[-1]["sparsity"], best)
    did = {"rounds": rounds, "epochs": sum(each["epoch"] > 0 for each in history), "sparsity": layers.sparsity(pruned)}
    return spec.with_change(pruned.eval(), "imp", did, history=history)


def trajectory(
    model: nn.Module,
    data: Data,
    sparsities: list[float],
    *,
    method: str,
    recipe: Recipe,
    seed: int,
    initial: nn.Module | None = None,
    like: list[Masks] | None = None,
    loss: Loss | Callable | None = None,
    scratch: Path | None = None,
) -> list[nn.Module]:
    """``model`` at each of ``sparsities``, each trained by the whole of ``recipe``.

    A model's ``history`` is the rows of its training, ``accuracy_before`` the validation accuracy just before it. Where
    ``model`` has more zeros than a sparsity asks for, it keeps them all.

    Args:
        sparsities: shares of the prunable weights that are zero, rising.
        method: one of :data:`METHODS`.
        initial: "initial" needs it: ``model`` before its training.
        like: "random" needs them: masks, one a sparsity, whose number of living weights in each layer is taken.
        loss: as for :func:`studylib.training.loop.fit`.
        scratch: folder for the checkpoints of interrupted trainings.

    Raises:
        ValueError: an unknown method, one without what it needs, or sparsities that do not rise within 0…1. A number of
            a model is not finite.
    """
    if method not in METHODS:
        raise ValueError(f"method={method!r}: expected one of {', '.join(METHODS)}")
    check_sparsities(sparsities)
    if (method == "initial" and initial is None) or (method == "random" and len(like or []) != len(sparsities)):
        raise ValueError(f"method={method!r}: expected {'initial' if method == 'initial' else 'masks, one a sparsity'}")
    start = copy.deepcopy((initial if method == "initial" else model).state_dict())
    for each in (start, model.state_dict()):
        layers.check_finite(each)
    current, masks, found = layers.duplicate(model), masks_of(model), []
    for k, sparsity in enumerate(sparsities):
        if method == "random":
            masks = scatter(like[k], seed + 1000 * k)
        else:
            source = model if method == "one_shot" else current
            living, total = _count(masks := masks_of(model) if method == "one_shot" else masks)
            masks = without_smallest(prunable(source), masks, max(0, living - (total - round(sparsity * total))))
        current = layers.duplicate(current)
        if method != "learning_rate":
            current.load_state_dict(start)
        zero(current, masks)
        current.accuracy_before = scoring.accuracy(current, data.validation, data)
        checkpoint = scratch / f"{method}-{sparsity!r}.safetensors" if scratch else None
        how = {"seed": seed + 1000 * (k + 1), "loss": loss, "masks": masks, "checkpoint": checkpoint}
        current.history = loop.fit(current, data, recipe, **how)
        found.append(current)
    return found


def check_sparsities(sparsities: list[float]) -> None:
    """Raises ValueError unless ``sparsities``, of :func:`trajectory`, are one or more rising shares below 1."""
    rising = list(sparsities) == sorted(set(sparsities))
    if not sparsities or not rising or not all(0 <= s < 1 for s in sparsities):
        raise ValueError(f"sparsities={sparsities!r}: expected rising shares from 0 to below 1")


def _count(masks: Masks) -> tuple[int, int]:
    """(living, all)."""
    return sum(int(m.sum()) for m in masks.values()), sum(m.numel() for m in masks.values())
