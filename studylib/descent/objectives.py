"""Objectives of a training: scalars of a model and a batch, to be made small several at once.

A function under :func:`objective` is a new one; docs/extend.md has an example.
"""

import dataclasses
import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import nn

from studylib.networks import layers

Slopes = dict[torch.Tensor, torch.Tensor]  # weight → gradient
WARM = 20.0  # temperatures beyond it are computed otherwise: by then rounding takes 1e-4 of a loss
HOTTEST = 1e9  # from there on the loss is its limit, half the variance of the gap, to more digits than float32 has


def distillation_loss(student: torch.Tensor, teacher: torch.Tensor, temperature: float) -> torch.Tensor:
    """T² · KL(softmax(teacher / T) ‖ softmax(student / T)), mean over the batch (Hinton et al. 2015, section 2).

    The factor T² keeps its gradient the size of the cross-entropy's. Zero when the two agree, never below.

    Args:
        student, teacher: logits (n, …, classes).

    Raises:
        ValueError: the two are of different shapes, as one class would teach all alike.
    """
    if student.shape != teacher.shape:
        raise ValueError(f"teacher's logits {tuple(teacher.shape)}: expected {tuple(student.shape)}, as the student's")
    student, teacher = student.flatten(0, -2), teacher.flatten(0, -2)
    if temperature > WARM:
        return _warm_loss(student.double(), teacher.double(), min(temperature, HOTTEST)).to(torch.float32)
    log_student = F.log_softmax(student.float() / temperature, dim=1)
    log_teacher = F.log_softmax(teacher.float() / temperature, dim=1)
    loss = temperature**2 * F.kl_div(log_student, log_teacher, reduction="batchmean", log_target=True)
    return loss + (-loss.detach()).clamp(min=0)  # where the two agree but for rounding; no gradient changes


def _warm_loss(student: torch.Tensor, teacher: torch.Tensor, temperature: float) -> torch.Tensor:
    """:func:`distillation_loss` without the difference of two logarithms that are nearly equal.

    Let p = softmax(teacher / T) and x = (student − teacher) / T less its mean under p. Then
    KL = log E_p[eˣ] = log(1 + E_p[eˣ − 1 − x]): no term is below zero. Where x is not small, the first form loses
    nothing.
    """
    log_p = F.log_softmax(teacher / temperature, dim=1)
    gap = student - teacher
    x = (gap - (log_p.exp() * gap).sum(1, keepdim=True)) / temperature
    small = x.abs().amax(1) < 1
    near = torch.where(small[:, None], x, 0.0)
    terms = (near.expm1() - near).clamp(min=0)
    found = torch.where(small, (log_p.exp() * terms).sum(1).log1p(), torch.logsumexp(log_p + x, 1).clamp(min=0))
    return temperature**2 * found.mean()


def fixed(model: nn.Module) -> nn.Module:
    """A copy of ``model`` that only answers: what its owner does with ``model``, training it say, does not reach it."""
    layers.check_finite(model.state_dict())
    return layers.duplicate(model).eval().requires_grad_(False)


@dataclasses.dataclass(frozen=True)
class Objective:
    """A scalar of (model, batch, outputs), differentiable with respect to the model's weights.

    Attributes:
        name: what history rows call it.
        function: (model, (images, labels), outputs) → scalar tensor; outputs are float32 (n, classes).
        weights_only: of the weights alone; batch and outputs are None.
        direct: ``function`` is model → (scalar, weight → gradient), in closed form and without a graph. Weights that it
            does not name have gradient zero. Needs ``weights_only``.
        identity: JSON data; a checkpoint made under another is not used.

    Raises:
        ValueError: ``direct`` without ``weights_only``.
    """

    name: str
    function: Callable
    weights_only: bool = False
    direct: bool = False
    identity: object = None

    def __post_init__(self):
        if self.direct and not self.weights_only:
            raise ValueError(f"objective {self.name!r}: a direct gradient is one of the weights alone")

    def __call__(self, model: nn.Module, batch: tuple | None, outputs: torch.Tensor | None) -> torch.Tensor:
        """The value, with a graph to the weights."""
        if not self.direct:
            return self.function(model, batch, outputs)
        value, slopes = self.closed_form(model)
        return value + sum((slope * (weight - weight.detach())).sum() for weight, slope in slopes.items())

    @torch.no_grad()
    def closed_form(self, model: nn.Module) -> tuple[torch.Tensor, Slopes]:
        """Value and gradient of a ``direct`` objective."""
        return self.function(model)


def objective(name: str, weights_only: bool = False, direct: bool = False) -> Callable[[Callable], Objective]:
    """Decorator: makes a function an :class:`Objective`."""
    return lambda function: Objective(name, function, weights_only, direct)


def weights(model: nn.Module) -> list[nn.Parameter]:
    """The weights that compress: of every float convolution and linear layer, in the order of the spec.

    Raises:
        ValueError: there is none.
    """
    found = list(layers.prunable(model).values())
    if not found:
        raise ValueError("the model has no float convolution or linear layer")
    return found


@objective("cross_entropy")
def cross_entropy(model, batch, outputs):
    """Mean over the batch, in nats; outputs are logits (n, …, classes)."""
    return F.cross_entropy(outputs.flatten(0, -2), batch[1].flatten())


@objective("l1", weights_only=True, direct=True)
def l1(model):
    """Σ |w|, with the subgradient sign(w), 0 at 0 (Tibshirani 1996)."""
    return total(model, lambda w: (w.abs().sum(), w.sign()))


@objective("group_lasso", weights_only=True, direct=True)
def group_lasso(model):
    """Σ √|g| ‖w_g‖₂ over filters, the rows of each weight as (out, rest) (Yuan and Lin 2006, eq. 2.1).

    The subgradient of a filter that is zero is zero.
    """

    def one(w):
        norms, factor = w.norm(dim=1, keepdim=True), math.sqrt(w.shape[1])
        return factor * norms.sum(), factor * w / torch.where(norms > 0, norms, 1)

    return total(model, one)


@objective("nuclear_norm", weights_only=True, direct=True)
def nuclear_norm(model):
    """Σ singular values of each weight as an (out, rest) matrix (Fazel 2002).

    Its gradient is U Vᵀ over the singular values above 10⁻⁶ of the largest. Where the rank is not full, that is the
    subgradient of least norm (Watson 1992, example 2).
    """

    def one(w):
        wide = w.double() if w.shape[0] <= w.shape[1] else w.double().T
        squares, u = torch.linalg.eigh(wide @ wide.T)  # much cheaper than the singular values of a flat matrix
        inverse = torch.where(squares > 1e-12 * squares.max(), squares.clamp_min(0).rsqrt(), 0)
        slope = ((u * inverse) @ (u.T @ wide)).to(w)
        return squares.clamp_min(0).sqrt().sum().to(w), slope if w.shape[0] <= w.shape[1] else slope.T

    return total(model, one)


def total(model: nn.Module, one: Callable[[torch.Tensor], tuple]) -> tuple[torch.Tensor, Slopes]:
    """Sum over the weights of a value each as an (out, rest) matrix, and the slopes in the weights' shapes."""
    values, slopes = [], {}
    for weight in weights(model):
        value, slope = one(weight.detach().flatten(1))
        values.append(value)
        slopes[weight] = slope.reshape(weight.shape)
    return torch.stack(values).sum(), slopes
