"""What a training does with each batch: follow the loss, or what a subclass makes of its gradient."""

from collections.abc import Callable

import torch
from torch import nn

Loss = Callable[[nn.Module, torch.Tensor, torch.Tensor], tuple[torch.Tensor, torch.Tensor]]


class Step:
    """What :func:`fit` does with each batch. This one follows the gradient of the loss; subclasses do otherwise."""

    identity, label = None, ""  # JSON data (a checkpoint made under another is not used); what it descends, in words

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
        """Takes up what :meth:`state_dict` gave; called after :meth:`start`."""
