"""What a model says of images, and how good that is: logits, accuracy, likelihood, calibration."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import nn

if TYPE_CHECKING:  # data say what is learnt (studylib.data.tasks), and that is scored here
    from studylib.data.datasets import Data, Split


def batch_of(images: torch.Tensor) -> int:
    """Number of ``images`` (n, …) to predict at once: 1,000, on a CPU 64,000 pixels or characters for its caches."""
    return 1000 if images.device.type != "cpu" else max(1, 64_000 // images.shape[1:][-2:].numel())


@torch.no_grad()
def predict(model: nn.Module, split: Split, data: Data, batch_size: int = 0) -> torch.Tensor:
    """Logits, or other outputs, float32 (n, …) on the model's device, for the images of ``split`` as they are.

    Args:
        batch_size: images at once; 0: :func:`batch_of` them.
    """
    device = next((t.device for t in model.state_dict().values()), torch.device("cpu"))
    data, split = data.to(device), split.to(device)
    model.eval()
    batches = split.images.split(batch_size or batch_of(split.images))
    return torch.cat([model(data.normalize(images)).float() for images in batches])


def class_accuracy(logits: torch.Tensor, labels: torch.Tensor, classes: int) -> list[float]:
    """Share of each class's images that ``logits`` (n, classes) get right; NaN for a class without images."""
    hit = (logits.argmax(1) == labels.to(logits.device)).double().cpu()
    return [hit[labels.cpu() == c].mean().item() for c in range(classes)]


def scores(logits: torch.Tensor, labels: torch.Tensor, bins: int = 15) -> dict[str, float]:
    """Accuracy, negative log-likelihood (nats) and expected calibration error (Guo et al. 2017, eq. 3).

    Args:
        logits: (n, classes).
        labels: (n,).
        bins: equal-width bins of confidence for the calibration error.
    """
    confidence, hit, which = binned(logits, labels, bins)
    gaps = torch.zeros(bins, dtype=torch.float64).index_add_(0, which, hit - confidence)
    return {
        "accuracy": hit.mean().item(),
        "nll": F.cross_entropy(logits.double().cpu(), labels.cpu()).item(),
        "ece": (gaps.abs().sum() / len(labels)).item(),
    }


def binned(logits: torch.Tensor, labels: torch.Tensor, bins: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """(n,) each: confidence, whether the label is right (0 or 1), and the number of the bin of confidence."""
    confidence, predicted = logits.double().cpu().softmax(1).max(1)
    hit = (predicted == labels.cpu()).double()
    return confidence, hit, (confidence.nan_to_num(0) * bins).long().clamp_(max=bins - 1)


def accuracy(model: nn.Module, split: Split, data: Data) -> float:
    """Share of ``split`` that ``model`` gets right."""
    return scores(predict(model, split, data), split.labels)["accuracy"]
