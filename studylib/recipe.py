"""How a model is trained: optimizers, schedules, the average of the weights, and a recipe of them all."""

import copy
import dataclasses
import functools
import math

import torch
from torch import nn

OPTIMIZERS = {
    "adam": torch.optim.Adam,  # the paper's
    "adamw": torch.optim.AdamW,
    "sgd": functools.partial(torch.optim.SGD, momentum=0.9, nesterov=True),
    "sgd_biases": functools.partial(torch.optim.SGD, momentum=0.9, nesterov=True),  # see optimizer_of
}
BIAS_RATE = 64  # times the rate of the other weights (Jordan 2024, section 3.4)


def cosine(done: float, epochs: int) -> float:
    """The paper's: half a cosine from 1 to 0, the rate standing still within an epoch."""
    return (1 + math.cos(math.pi * math.floor(done) / epochs)) / 2


def one_cycle(done: float, epochs: int, warm: float = 0.25) -> float:
    """Up in a straight line from 4 % to 1 in the first quarter of the steps, then straight down to 0 (Smith 2018)."""
    share = done / epochs
    return 0.04 + 0.96 * share / warm if share < warm else (1 - share) / (1 - warm)


AUGMENTATIONS = ("all", "crops", "small_crops", "none")  # what of a data set's own a training uses
SCHEDULES = {"cosine": cosine, "one_cycle": one_cycle}  # (epochs done, a fraction; epochs) → share of the way up to lr


def has_bfloat16(device: torch.device) -> bool:
    """Whether ``device`` computes in bfloat16 faster than it emulates it, which takes ten times as long as float32."""
    return device.type != "cpu" or torch.ops.mkldnn._is_mkldnn_bf16_supported()


@dataclasses.dataclass(frozen=True)
class Recipe:
    """How a model is trained; the defaults are the paper's (section 3.1).

    Attributes:
        epochs: passes over the training images.
        lr: the highest learning rate: the one at the start, or of "one_cycle" the one at its peak.
        min_lr: the learning rate at the end.
        batch_size: images a step.
        weight_decay: of the optimizer, L2 inside Adam and SGD, decoupled in AdamW (Loshchilov and Hutter 2019).
        amp: compute in bfloat16 where autocast allows it, on a processor that can (:func:`has_bfloat16`).
        compile: run the training step through torch.compile.
        optimizer: one of :data:`OPTIMIZERS`.
        schedule: one of :data:`SCHEDULES`.
        label_smoothing: share of each label that goes to all classes alike (Szegedy et al. 2016, section 7).
        ema: decay a step of the exponential moving average of the weights, which is then what is evaluated and kept;
            the k-th step decays by at most (k + 1) / (k + 10). 0: no average.
        augmentation: of the training images, one of :data:`AUGMENTATIONS`: all that the data set has, its crops and
            mirroring alone, those with half the shift, or none.
        views: how many of each image there are in all (:func:`studylib.data.view`), one an epoch in turn, so that a
            teacher's answers to them can be kept; 0: new ones in every epoch.
    """

    epochs: int = 100
    lr: float = 1e-3
    min_lr: float = 1e-7
    batch_size: int = 128
    weight_decay: float = 0.0
    amp: bool = False
    compile: bool = False
    optimizer: str = "adam"
    schedule: str = "cosine"
    label_smoothing: float = 0.0
    ema: float = 0.0
    augmentation: str = "all"
    views: int = 0

    def __post_init__(self):
        checks = {
            "epochs": (self.epochs >= 0, "at least 0"),
            "lr": (0 < self.lr < math.inf, "above 0 and finite"),
            "min_lr": (0 <= self.min_lr <= self.lr, f"between 0 and lr={self.lr}"),
            "batch_size": (self.batch_size >= 2, "at least 2"),
            "weight_decay": (0 <= self.weight_decay < math.inf, "at least 0, and finite"),
            "optimizer": (self.optimizer in OPTIMIZERS, f"one of {', '.join(OPTIMIZERS)}"),
            "schedule": (self.schedule in SCHEDULES, f"one of {', '.join(SCHEDULES)}"),
            "label_smoothing": (0 <= self.label_smoothing < 1, "from 0 to below 1"),
            "ema": (0 <= self.ema < 1, "from 0 to below 1"),
            "augmentation": (self.augmentation in AUGMENTATIONS, f"one of {', '.join(AUGMENTATIONS)}"),
            "views": (self.views >= 0 and (not self.views or self.augments), "at least 0, and 0 without augmentation"),
        }
        for name, (holds, expected) in checks.items():
            if not holds:
                raise ValueError(f"{name}={getattr(self, name)!r}: expected {expected}")

    @property
    def augments(self) -> bool:
        return self.augmentation != "none"

    def rate(self, done: float) -> float:
        """The learning rate once ``done`` epochs, a fraction among them, are behind."""
        return self.min_lr + (self.lr - self.min_lr) * SCHEDULES[self.schedule](done, self.epochs)


def optimizer_of(model: nn.Module, recipe: Recipe) -> torch.optim.Optimizer:
    """The optimizer of ``recipe`` for the weights of ``model``; the rate of a group is ``times`` the recipe's.

    "sgd_biases" is "sgd" with the biases of batch norm at :data:`BIAS_RATE` times the rate and a
    :data:`BIAS_RATE`-th of the decay. Where a graph has been made of them (:mod:`studylib.qat`) it is plain "sgd".
    """
    make = OPTIMIZERS[recipe.optimizer]
    if recipe.optimizer != "sgd_biases":
        return make([{"params": list(model.parameters()), "times": 1}], lr=recipe.lr, weight_decay=recipe.weight_decay)
    biases = {id(module.bias) for module in model.modules() if isinstance(module, nn.BatchNorm2d)}
    fast = [p for p in model.parameters() if id(p) in biases]
    groups = [{"params": [p for p in model.parameters() if id(p) not in biases], "times": 1}]
    groups += [{"params": fast, "times": BIAS_RATE, "weight_decay": recipe.weight_decay / BIAS_RATE}] if fast else []
    return make(groups, lr=recipe.lr, weight_decay=recipe.weight_decay)


class Average:
    """An exponential moving average of a model's weights and buffers: ``model`` is that model.

    Args:
        of: the model that is trained.
        decay: of the k-th step, at most (k + 1) / (k + 10), so that the first weights are soon forgotten.
    """

    def __init__(self, of: nn.Module, decay: float):
        self.model, self.decay, self.steps = copy.deepcopy(of), decay, 0
        pairs = list(zip(self.model.state_dict().values(), of.state_dict().values(), strict=True))
        self._floats = [pair for pair in pairs if pair[0].is_floating_point()]
        self._counts = [pair for pair in pairs if not pair[0].is_floating_point()]

    @torch.no_grad()
    def update(self) -> None:
        """The model that is trained has made a step."""
        decay = min(self.decay, (self.steps + 1) / (self.steps + 10))
        self.steps += 1
        averages, weights = zip(*self._floats, strict=True)
        torch._foreach_lerp_(averages, weights, 1 - decay)
        for average, count in self._counts:
            average.copy_(count)

    def state_dict(self) -> dict[str, torch.Tensor]:
        return self.model.state_dict() | {"steps": torch.tensor(self.steps)}

    def load_state_dict(self, state: dict[str, torch.Tensor]) -> None:
        self.steps = int(state["steps"])
        self.model.load_state_dict({name: value for name, value in state.items() if name != "steps"})
