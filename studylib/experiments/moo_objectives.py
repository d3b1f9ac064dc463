"""Chapter 6: three objectives at once, other objectives beside the task, and one of the reader's own beside L1."""

import dataclasses
import math
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from torch import nn

from studylib.data import scoring
from studylib.data.datasets import Data
from studylib.descent import objectives, steps
from studylib.descent.objectives import Objective, cross_entropy, l1, nuclear_norm, objective
from studylib.networks import grid, layers
from studylib.techniques import int8, prune
from studylib.training import loop
from studylib.training.checkpoint import function_digest, weights_digest
from studylib.training.recipe import Recipe
from studylib.tree.rows import Task, every

CALIBRATION_IMAGES = 128  # at most, to round activations
PRUNED, TEST = "nine tenths pruned %", "test accuracy %"


def quantization_error(bits: int = 8) -> Objective:
    """Σ (w − ŵ)², ŵ the nearest point of w's symmetric grid of integers × scale, one scale an output channel.

    The grid is :func:`studylib.networks.grid.rounded_weight`'s: scale = max|w| / (2^(bits−1) − 1), in 8 bits
    max|w| / 127.5. Scale and ŵ count as constants (Krishnamoorthi 2018, section 2.2). A batch norm that is folded in
    later scales a channel and its grid alike.

    Raises:
        ValueError: ``bits`` is not an integer of 2 to 16.
    """
    if not isinstance(bits, int) or not 2 <= bits <= 16:
        raise ValueError(f"bits={bits!r}: expected an integer of 2 to 16")

    @objective(f"quantization_error_{bits}", weights_only=True, direct=True)
    def error(model):
        def one(w):
            gap = w - grid.rounded_weight(w, bits)
            return gap.square().sum(), 2 * gap

        return objectives.total(model, one)

    return error


def knowledge_alignment(teacher: Callable[[torch.Tensor], torch.Tensor], temperature: float = 5.0) -> Objective:
    """:func:`studylib.descent.objectives.distillation_loss` of the outputs.

    Args:
        teacher: images → logits (n, classes). A module is copied and set to evaluation.

    Raises:
        ValueError: ``temperature`` is not above 0 and finite, or a number of ``teacher`` is not finite.
    """
    if not 0 < temperature < math.inf:
        raise ValueError(f"temperature={temperature!r}: expected above 0 and finite")
    told = objectives.fixed(teacher) if isinstance(teacher, nn.Module) else teacher

    @objective("knowledge_alignment")
    def alignment(model, batch, outputs):
        with torch.no_grad():
            soft = told(batch[0])
        return objectives.distillation_loss(outputs, soft, temperature)

    known = weights_digest(teacher) if isinstance(teacher, nn.Module) else None
    return dataclasses.replace(alignment, identity=[temperature, known])


def descended(
    start: nn.Module, data: Data, others: list[Objective], *, recipe: Recipe, tau: float, seed: int
) -> nn.Module:
    """A copy of ``start`` trained by PCD with normalized gradients, the task first, as the last epoch left it."""
    step = steps.Descent([cross_entropy, *others], "PCD", normalize=True, tau=tau)
    model = layers.duplicate(start)
    model.history = loop.fit(model, data, recipe, seed=seed, step=step, keep="last")
    return model


def _each(
    name: str,
    sets: list[list[Objective]],
    see: Callable[[nn.Module], dict],
    start: nn.Module,
    data: Data,
    folder: Path,
    how: dict,
    *more: str,
) -> list[dict]:
    """A row for each of ``sets`` of objectives: what ``see`` says of the network descended; kept in ``folder``."""

    def tasks() -> Iterator[Task]:
        for others in sets:
            named = {"objectives": " + ".join(["task", *(o.name for o in others)])}
            yield named, lambda others=others: [see(descended(start, data, others, **how))]

    recipe = dataclasses.asdict(how["recipe"])
    key = [recipe, how["tau"], how["seed"], data.identity, start.spec, weights_digest(start), *more]
    return list(every(tasks(), folder / name, key))


def three_objectives(start: nn.Module, data: Data, folder: Path, **how) -> list[dict]:
    """The task alone, with L1, with the nuclear norm, and with both: rows that are kept in ``folder``.

    Args:
        start: the network before training.
        how: recipe, tau and seed of :func:`descended`.

    Returns:
        objectives, l1 and nuclear_norm: the sums at the end. Then test accuracies in %: as trained, 90 % of the weights
        pruned, and linear layers at a quarter of their rank.
    """

    def see(model: nn.Module) -> dict:
        row = {o.name: float(o.closed_form(model)[0]) for o in (l1, nuclear_norm)}
        row |= {TEST: _test(model, data), PRUNED: _test(_cut(model, data, how), data)}
        return row | {"quarter of the rank %": _test(_quarter_rank(model), data)}

    sets = [[], [l1], [nuclear_norm], [l1, nuclear_norm]]
    return _each("three_objectives", sets, see, start, data, folder, how)


def quantization_and_alignment(start: nn.Module, data: Data, teacher: nn.Module, folder: Path, **how) -> list[dict]:
    """The task alone, with the distance to a four-bit grid, with alignment to ``teacher``, and with both.

    Arguments as for :func:`three_objectives`.

    Returns:
        objectives, error: of the grid. Then test accuracies in % as trained and rounded (weights to four bits,
        activations to eight). Last the test images in % that are predicted as ``teacher`` does.
    """
    error, align = quantization_error(4), knowledge_alignment(teacher)
    told = scoring.predict(teacher, data.test, data).argmax(1)
    images = min(CALIBRATION_IMAGES, data.sizes["train"])

    def see(model: nn.Module) -> dict:
        low = int8.apply(model, data, seed=how["seed"], calibration_images=images, bits=4)
        same = (scoring.predict(model, data.test, data).argmax(1) == told).double().mean().item()
        row = {"error": float(error.closed_form(model)[0]), TEST: _test(model, data), "4 bits %": _test(low, data)}
        return row | {"as the teacher %": 100 * same}

    name, sets = "quantization_and_alignment", [[], [error], [align], [error, align]]
    return _each(name, sets, see, start, data, folder, how, weights_digest(teacher))


def beside_l1(own: Objective, start: nn.Module, data: Data, folder: Path, **how) -> list[dict]:
    """The task with ``own``, and with L1: rows of objectives, test accuracies in % as trained and nine tenths pruned.

    Arguments as for :func:`three_objectives`.
    """

    def see(model: nn.Module) -> dict:
        return {TEST: _test(model, data), PRUNED: _test(_cut(model, data, how), data)}

    return _each("own_objective", [[own], [l1]], see, start, data, folder, how, function_digest(own.function))


def _test(model: nn.Module, data: Data) -> float:
    return 100 * scoring.accuracy(model, data.test, data)


def _cut(model: nn.Module, data: Data, how: dict) -> nn.Module:
    """``model`` with nine tenths of its weights pruned, not trained after."""
    none = dataclasses.replace(how["recipe"], epochs=0)
    return prune.trajectory(model, data, [0.9], method="one_shot", recipe=none, seed=how["seed"])[0]


def _quarter_rank(model: nn.Module) -> nn.Module:
    """A copy whose linear layers keep a quarter of their singular values, one at least."""
    small = layers.duplicate(model)
    for layer in small.modules():
        if isinstance(layer, nn.Linear):
            u, s, v = torch.linalg.svd(layer.weight.detach(), full_matrices=False)
            s[max(1, len(s) // 4) :] = 0
            layer.weight.data.copy_((u * s) @ v)
    return small
