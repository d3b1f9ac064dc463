"""What is learnt: the loss, how outputs are scored, and which of two models is better. Data say it: ``Data.task``.

A new one is a :class:`Task`, and data whose ``labels`` are its targets: docs/extend.md has an example. Only functions
import torch, as :mod:`studylib.tree.table` names columns without it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch
    from torch import nn

    from studylib.data.datasets import Data, Split


def cross_entropy(
    model: nn.Module, images: torch.Tensor, labels: torch.Tensor, smoothing: float = 0.0
) -> tuple[torch.Tensor, torch.Tensor]:
    """Cross-entropy with the labels (n, …), smoothed or not; returns (loss, logits (n, …, classes))."""
    import torch.nn.functional as F

    logits = model(images)
    return F.cross_entropy(logits.float().flatten(0, -2), labels.flatten(), label_smoothing=smoothing), logits


def _scores(logits: torch.Tensor, labels: torch.Tensor) -> dict[str, float]:
    from studylib.data import scoring

    return scoring.scores(logits, labels)


def _predict(model: nn.Module, split: Split, data: Data) -> torch.Tensor:
    from studylib.data import scoring

    return scoring.predict(model, split, data)


@dataclasses.dataclass(frozen=True)
class Task:
    """What a model learns.

    Args:
        name: tells it from other tasks, in the key of a checkpoint, too.
        numbers: names of what ``scores`` returns, in its order. The first is the score: it decides which epoch is best,
            and ``target`` is one. Histories have it as ``train_…`` and ``val_…``, metrics as ``test_…`` and ``val_…``.
        val_loss: which of ``numbers`` is a history's val_loss; of equal scores the one of the lower is better.
        loss: (model, inputs, targets) → loss, outputs. That of ``classes`` takes ``smoothing``, a share, besides.
        scores: (outputs, targets) of a split → numbers, all by name.
        batch_score: (outputs, targets) of a batch in training → scalar tensor, the sum of its images' scores.
        lower_is_better: of the score.
        classes: outputs are logits of classes: labels can be smoothed, and two models agree where their largest do.
        predict: (model, split, data) → outputs (n, …) for images as they are, the same numbers at each call.

    Raises:
        ValueError: ``val_loss`` is not among ``numbers``.
    """

    name: str
    numbers: tuple[str, ...]
    val_loss: str
    loss: Callable[..., tuple[torch.Tensor, torch.Tensor]]
    scores: Callable[[torch.Tensor, torch.Tensor], dict[str, float]]
    batch_score: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
    lower_is_better: bool = False
    classes: bool = False
    predict: Callable[[nn.Module, Split, Data], torch.Tensor] = _predict

    def __post_init__(self):
        if self.val_loss not in self.numbers:
            raise ValueError(f"val_loss={self.val_loss!r}: expected one of {', '.join(self.numbers)}")

    @property
    def score(self) -> str:
        """The name of the number that decides."""
        return self.numbers[0]

    @property
    def identity(self) -> list:
        """What tells it from another, as JSON data; its functions are known by its name alone."""
        return [self.name, list(self.numbers), self.val_loss, self.lower_is_better, self.classes]

    def rank(self, row: dict) -> tuple[float, float]:
        """Of a history's row: the better of two epochs has the larger."""
        return self._higher(row[f"val_{self.score}"]), -row["val_loss"]

    def reached(self, history: list[dict], target: float | None) -> bool:
        """Whether the last row of ``history`` is as good as ``target`` or better; False without either."""
        if not history or target is None:
            return False
        return self._higher(history[-1][f"val_{self.score}"]) >= self._higher(target)

    def best(self, scores: Iterable[float]) -> float:
        """The best of ``scores``."""
        return (min if self.lower_is_better else max)(scores)

    def worse(self, score: float, by: float) -> float:
        """What is worse than ``score`` by so much."""
        return score + by if self.lower_is_better else score - by

    def score_of(self, model: nn.Module, split: Split, data: Data) -> float:
        """The score of ``model`` on ``split``."""
        return self.scores(self.predict(model, split, data), split.labels)[self.score]

    def _higher(self, score: float) -> float:
        return -score if self.lower_is_better else score


CLASSIFICATION = Task(
    name="classification",
    numbers=("accuracy", "nll", "ece"),
    val_loss="nll",
    loss=cross_entropy,
    scores=_scores,
    batch_score=lambda logits, labels: (logits.argmax(1) == labels).sum(),
    classes=True,
)
