"""How a model is trained: optimizers, schedules, the average of the weights, and a recipe of them all."""

import copy
import functools
import math
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import nn

from studylib.settings import record

SGD = functools.partial(torch.optim.SGD, momentum=0.9, nesterov=True)
OPTIMIZERS = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW, "sgd": SGD, "sgd_biases": SGD}  # the paper's: adam
BIAS_RATE = 64  # times the rate of the other weights (Jordan 2024, section 3.4)


def cosine(done: float, epochs: int) -> float:
    """The paper's: half a cosine from 1 to 0, the rate standing still within an epoch."""
    return (1 + math.cos(math.pi * math.floor(done) / epochs)) / 2


def one_cycle(done: float, epochs: int, warm: float = 0.25) -> float:
    """Linearly up from 4 % to 1 in the first quarter of the steps, then down to 0 (Smith 2018)."""
    share = done / epochs
    return 0.04 + 0.96 * share / warm if share < warm else (1 - share) / (1 - warm)


SCHEDULES = {"cosine": cosine, "one_cycle": one_cycle}  # (epochs done, a fraction; epochs) → share of the way up to lr


@record
class Recipe:
    """How a model is trained; the defaults are the paper's (section 3.1).

    The rate follows ``schedule`` between ``lr`` and ``min_lr``. For ``ema`` see :class:`Average`, for ``views``
    :func:`studylib.data.datasets.view`. AdamW: Loshchilov and Hutter 2019; label smoothing: Szegedy et al. 2016,
    section 7.
    """

    epochs: Annotated[int, Field(ge=0, le=1_000_000, description="passes over the training images")] = 100
    lr: Annotated[
        float, Field(gt=0, le=1000, description="learning rate at its highest: first, or in one_cycle at the peak")
    ] = 1e-3
    min_lr: Annotated[float, Field(ge=0, description="learning rate at the end")] = 1e-7
    batch_size: Annotated[int, Field(ge=2, le=65_536, description="images a step")] = 128
    weight_decay: Annotated[
        float, Field(ge=0, le=1000, description="the optimizer's: L2 inside adam and sgd, decoupled in adamw")
    ] = 0.0
    amp: Annotated[bool, Field(description="compute in bfloat16 where the processor can")] = False
    compile: Annotated[bool, Field(description="run the training step through torch.compile")] = False
    optimizer: Annotated[
        Literal["adam", "adamw", "sgd", "sgd_biases"],
        Field(description="sgd: Nesterov, momentum 0.9; sgd_biases: with fast biases of batch norm"),
    ] = "adam"
    schedule: Annotated[
        Literal["cosine", "one_cycle"], Field(description="of the learning rate; one_cycle: up in a quarter, then down")
    ] = "cosine"
    label_smoothing: Annotated[
        float, Field(ge=0, lt=1, description="share of each label that goes to all classes alike")
    ] = 0.0
    ema: Annotated[
        float, Field(ge=0, lt=1, description="decay a step of the average of the weights that is kept; 0: no average")
    ] = 0.0
    augmentation: Annotated[
        Literal["all", "crops", "small_crops", "none"],
        Field(description="of training images: the data set's own, crops and mirroring alone, half the shift, none"),
    ] = "all"
    views: Annotated[
        int, Field(ge=0, le=1000, description="augmented views of each image, one an epoch in turn; 0: ever new ones")
    ] = 0

    def check(self) -> None:
        if self.min_lr > self.lr:
            raise ValueError(f"min_lr={self.min_lr!r}: expected between 0 and lr={self.lr}")
        if self.views and not self.augments:
            raise ValueError(f"views={self.views!r}: expected 0 without augmentation")

    @property
    def augments(self) -> bool:
        return self.augmentation != "none"

    def rate(self, done: float) -> float:
        """The learning rate once ``done`` epochs, a fraction among them, are behind."""
        return self.min_lr + (self.lr - self.min_lr) * SCHEDULES[self.schedule](done, self.epochs)


def optimizer_of(model: nn.Module, recipe: Recipe) -> torch.optim.Optimizer:
    """The optimizer of ``recipe`` for the weights of ``model``; the rate of a group is ``times`` the recipe's.

    "sgd_biases" is "sgd" with biases of batch norm at :data:`BIAS_RATE` times the rate and a :data:`BIAS_RATE`-th of
    the decay. A graph (:mod:`studylib.techniques.qat`) has no batch norms: there it is plain "sgd".
    """
    biases = {id(module.bias) for module in model.modules() if isinstance(module, nn.BatchNorm2d)}
    biases = biases if recipe.optimizer == "sgd_biases" else set()
    fast = [p for p in model.parameters() if id(p) in biases]
    groups = [{"params": [p for p in model.parameters() if id(p) not in biases], "times": 1}]
    groups += [{"params": fast, "times": BIAS_RATE, "weight_decay": recipe.weight_decay / BIAS_RATE}] if fast else []
    return OPTIMIZERS[recipe.optimizer](groups, lr=recipe.lr, weight_decay=recipe.weight_decay)


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
