"""Knowledge distillation: a small ConvNet learns from the teacher's soft targets."""

import hashlib
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn

from studylib import models, train
from studylib.checkpoint import weights_digest
from studylib.data import Data


def distillation_loss(student: torch.Tensor, teacher: torch.Tensor, temperature: float) -> torch.Tensor:
    """T² · KL(softmax(teacher / T) ‖ softmax(student / T)), mean over the batch (Hinton et al. 2015, section 2).

    The factor T² keeps its gradient the size of the cross-entropy's. Zero when the two agree.

    Args:
        student, teacher: logits (n, classes).
    """
    log_student = F.log_softmax(student.float() / temperature, dim=1)
    log_teacher = F.log_softmax(teacher.float() / temperature, dim=1)
    return temperature**2 * F.kl_div(log_student, log_teacher, reduction="batchmean", log_target=True)


def remember(teacher: nn.Module) -> Callable[[torch.Tensor], torch.Tensor]:
    """``teacher``, which looks at the same batch of views only once: for students that see the same views.

    Keeps every answer in memory, 4 bytes × classes for each image and epoch.
    """
    answers: dict[bytes, torch.Tensor] = {}

    def answer(images: torch.Tensor) -> torch.Tensor:
        key = hashlib.sha256(images.detach().cpu().contiguous().numpy()).digest()
        if key not in answers:
            answers[key] = teacher(images)
        return answers[key]

    return answer


def loss_against(teacher: Callable[[torch.Tensor], torch.Tensor], temperature: float, alpha: float) -> train.Loss:
    """α · distillation + (1 − α) · cross-entropy; teacher and student see the same views (Beyer et al. 2022).

    Raises:
        ValueError: ``temperature`` is not above 0 or ``alpha`` is outside 0…1.
    """
    if not temperature > 0:
        raise ValueError(f"temperature={temperature!r}: expected above 0")
    if not 0 <= alpha <= 1:
        raise ValueError(f"alpha={alpha!r}: expected between 0 (labels only) and 1 (teacher only)")

    def loss(student, images, labels):
        with torch.no_grad():
            soft = teacher(images)
        hard_loss, logits = train.task_loss(student, images, labels)
        return alpha * distillation_loss(logits, soft, temperature) + (1 - alpha) * hard_loss, logits

    return loss


def apply(
    model: nn.Module,
    data: Data,
    *,
    recipe: train.Recipe,
    seed: int,
    temperature: float = 5.0,
    alpha: float = 0.7,
    widths: list[int] = (32, 64, 128),
    hidden: list[int] = (128, 64),
    scratch: Path | None = None,
) -> nn.Module:
    """A ConvNet distilled from ``model`` (the paper, section 3.3: T = 5, α = 0.7).

    Args:
        temperature: T, softens both distributions.
        alpha: weight of the teacher's soft targets; the labels get 1 − α.
        widths, hidden: the student's channels and features, see :class:`studylib.models.ConvNet`.
        scratch: folder in which an interrupted training leaves what it needs to go on.
    """
    device = next(model.parameters()).device
    teacher = models.duplicate(model).eval().requires_grad_(False)
    loss = loss_against(teacher, temperature, alpha)
    args = {**data.model_args, "widths": list(widths), "hidden": list(hidden)}
    student = models.create("convnet", seed, **args).to(device)
    checkpoint = scratch / "kd.safetensors" if scratch else None
    identity = [temperature, alpha, weights_digest(teacher)] if scratch else None
    history = train.fit(student, data, recipe, seed=seed, loss=loss, checkpoint=checkpoint, identity=identity)
    did = {"temperature": temperature, "alpha": alpha, "epochs": len(history)}
    return models.with_change(student, "kd", did, history=history)
