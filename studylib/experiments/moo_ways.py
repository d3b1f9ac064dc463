"""Chapter 6: the ways to train for compression that are compared, and what each does with a batch."""

import dataclasses
import math
from collections.abc import Sequence

import torch
from torch import nn

from studylib.descent import objectives, steps
from studylib.descent.objectives import cross_entropy, l1
from studylib.training.step import Step

SUMS = ("weighted sum", "proximal L1", "magnitude pruning", "iterative pruning")  # without common descent
METHOD = "PCD, normalized"  # the thesis's way of common descent
RIVALS = ("weighted sum", "weighted sum, normalized")  # what common descent has to beat: the better of them


@dataclasses.dataclass(frozen=True)
class Way:
    """A way to train, and the values of its setting that are tried.

    Attributes:
        name: one of :data:`SUMS`, or TorchJD's aggregator of common descent.
        setting: what ``values`` are: "λ", "shrinkage" (of the soft threshold), "τ" or "learning rate". λ is the
            weight of L1, or of its normalized gradient.
        normalize: gradients are brought to norm 1 before they are aggregated.
    """

    name: str
    setting: str
    values: tuple[float, ...]
    normalize: bool = False

    @property
    def label(self) -> str:
        return f"{self.name}, normalized" if self.normalize else self.name


def ways(
    sums: Sequence[float], shrinkages: Sequence[float], taus: Sequence[float], rates: Sequence[float]
) -> list[Way]:
    """Every way that is compared; each of the four settings must have as many values.

    Args:
        sums: λ of cross-entropy + λ ‖w‖₁.
        shrinkages: λ of :class:`Proximal`.
        taus: τ of priority-constrained descent, and λ of the weighted sum of normalized gradients
            (:func:`studylib.experiments.moo_hypervolume.likeness`).
        rates: learning rates, of the ways that have no other setting.

    Raises:
        ValueError: the settings have not equally many values, or none, or one twice, or one that is not above 0.
    """
    given = {"sums": sums, "shrinkages": shrinkages, "taus": taus, "rates": rates}
    if len({len(values) for values in given.values()}) != 1 or not sums:
        said = ", ".join(f"{name}={values!r}" for name, values in given.items())
        raise ValueError(f"{said}: expected equally many values for each setting, one or more")
    for name, values in given.items():
        if len(set(values)) < len(values) or not all(0 < value < math.inf for value in values):
            raise ValueError(f"{name}={values!r}: expected different finite values above 0")
    sums, shrinkages, taus, rates = map(tuple, given.values())
    found = [Way("weighted sum", "λ", sums), Way("proximal L1", "shrinkage", shrinkages)]
    found += [Way(name, "learning rate", rates) for name in SUMS[2:]]
    for normalize in (False, True):
        if normalize:
            found.append(Way("weighted sum", "λ", taus, normalize))
        found += [Way(name, "learning rate", rates, normalize) for name in ("MGDA", "UPGrad")]
        found.append(Way("PCD", "τ", taus, normalize))
    return found


class Proximal(Step):
    """Proximal gradient for λ ‖w‖₁: after each step w ← sign(w) · max(|w| − lr · λ, 0) (Parikh and Boyd 2014, 6.5.2).

    It brings weights of convolutions and linear layers to exactly zero. The loss, or ``step``, is without the L1 norm.

    Args:
        weight: λ, at least 0.
        step: what is done with a batch before; without it, the loss is followed.

    Raises:
        ValueError: ``weight`` is negative or not finite.
    """

    def __init__(self, weight: float, step: Step | None = None):
        if not 0 <= weight < math.inf:
            raise ValueError(f"weight={weight!r}: expected at least 0")
        self.weight, self.step = weight, step or Step()
        self.identity = ["proximal", weight, self.step.identity]
        self.label = f"{self.step.label} and a soft threshold".strip()
        self.start, self.gradients, self.row = self.step.start, self.step.gradients, self.step.row
        self.state_dict, self.load_state_dict = self.step.state_dict, self.step.load_state_dict

    @torch.no_grad()
    def after(self, model: nn.Module, lr: float) -> None:
        self.step.after(model, lr)
        for w in objectives.weights(model):
            w.copy_(w.sign() * (w.abs() - lr * self.weight).clamp_min(0))


def step_of(way: Way, value: float) -> Step:
    """What ``way`` does with a batch; cross-entropy and L1 are followed or, where they are not, only recorded."""
    pair = [cross_entropy, l1]
    if way.name in SUMS:
        weights = torch.tensor([1.0, value if way.setting == "λ" else 0.0])
        step = steps.Descent(pair, "Constant", normalize=way.normalize, weights=weights)
        return Proximal(value, step) if way.setting == "shrinkage" else step
    options = {"tau": value} if way.setting == "τ" else {}
    return steps.Descent(pair, way.name, normalize=way.normalize, **options)
