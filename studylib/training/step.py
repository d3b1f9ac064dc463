"""What a training descends, and what it does with each batch; subclasses do otherwise."""

from collections.abc import Callable

import torch
from torch import nn

from studylib.data.datasets import Data


class Loss:
    """What :func:`studylib.training.loop.fit` descends. A plain function becomes one by :class:`Plain`.

    Attributes:
        identity: JSON data; a checkpoint made under another is not used.
    """

    identity: object = None

    def show(self, shown: Data, number: int) -> None:
        """The next epoch's images are the training images of ``shown``, the view ``number`` of a recipe with views."""

    def __call__(
        self, model: nn.Module, images: torch.Tensor, labels: torch.Tensor, chosen: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """(loss, outputs) of a batch; ``chosen`` are its numbers among the images shown, None without views."""
        raise NotImplementedError


class Plain(Loss):
    """A function (model, images, labels) → (loss, outputs) as a loss. ``identity`` alone tells two functions apart."""

    def __init__(self, function: Callable[..., tuple[torch.Tensor, torch.Tensor]], identity: object = None):
        self.function, self.identity = function, identity

    def __call__(self, model, images, labels, chosen=None):
        return self.function(model, images, labels)


class Step:
    """What :func:`studylib.training.loop.fit` does with each batch: this one follows the gradient of the loss.

    Attributes:
        identity: JSON data; a checkpoint made under another is not used.
        label: what it descends, in words.
    """

    identity: object = None
    label = ""

    def start(self, model: nn.Module, masks: dict[str, torch.Tensor]) -> None:
        """A training begins or goes on: what an earlier one left here is to be forgotten."""

    def gradients(self, model: nn.Module, value: torch.Tensor, logits: torch.Tensor, batch: tuple) -> bool:
        """Fills ``.grad`` of the weights; False: the optimizer is not to step, and the batch does not count.

        ``value`` and ``logits`` (maybe bfloat16) are the loss's, ``batch`` is (images, labels), ``model`` not compiled.
        """
        value.backward()
        return True

    def after(self, model: nn.Module, lr: float) -> None:
        """The optimizer has stepped at learning rate ``lr``."""

    def row(self) -> dict:
        """What the epoch's history row gets from here (JSON values); starts anew for the next epoch."""
        return {}

    def state_dict(self) -> dict[str, torch.Tensor]:
        """What a training needs to go on after an epoch as if it had not been interrupted."""
        return {}

    def load_state_dict(self, state: dict[str, torch.Tensor]) -> None:
        """Takes up what :meth:`state_dict` gave; called after :meth:`start`, when the model has its weights again."""
