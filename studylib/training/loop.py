"""The one training loop of the study."""

import contextlib
import copy
import dataclasses
import functools
import hashlib
import logging
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import torch
from torch import nn

from studylib.data.datasets import Data, batches, view
from studylib.data.tasks import Task
from studylib.disk import provenance
from studylib.training import checkpoint as checkpoints
from studylib.training import deadline
from studylib.training.checkpoint import Checkpoint, State
from studylib.training.recipe import Average, Recipe, optimizer_of
from studylib.training.step import Loss, Plain, Step

log = logging.getLogger(__name__)


def set_up(threads: int = 0, device: str = "auto") -> torch.device:
    """Hands torch its threads (0 leaves them alone), makes operations deterministic, picks the device.

    Raises:
        ValueError: a device other than auto, cpu or cuda, or cuda where there is none.
    """
    if device not in ("auto", "cpu", "cuda"):
        raise ValueError(f"device={device!r}: expected auto, cpu or cuda")
    if device == "cuda" and not torch.cuda.is_available():
        raise ValueError("device='cuda': this machine has no CUDA device; use auto or cpu")
    if threads:
        torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.utils.deterministic.fill_uninitialized_memory = False  # nothing reads it; filling takes a tenth of a step
    return torch.device("cuda" if device != "cpu" and torch.cuda.is_available() else "cpu")


def fit(
    model: nn.Module,
    data: Data,
    recipe: Recipe,
    *,
    seed: int,
    loss: Loss | Callable | None = None,
    step: Step | None = None,
    masks: dict[str, torch.Tensor] | None = None,
    target: float | None = None,
    checkpoint: Path | None = None,
    watch: Callable[[nn.Module], dict] | None = None,
    keep: Literal["best", "last"] = "best",
) -> list[dict]:
    """Trains ``model`` in place and leaves it with the weights of its best validation epoch, or of its last.

    Best is what ``data.task`` says: of classes, highest validation accuracy, then lower loss. Each epoch draws its
    order and views from ``(seed, epoch)`` alone: an interrupted training ends as if it had not been.

    Args:
        loss: a function (model, images, labels) → (loss, outputs) or a :class:`studylib.training.step.Loss`. Without
            it, the task's: cross-entropy, smoothed as the recipe says.
        step: turns a batch's loss into the weights' gradients; without it, the loss is followed.
        masks: weight name → bool, True where a weight may live; the others are held at exactly zero.
        target: stop after the first epoch whose validation score (of classes: accuracy) is as good as this.
        checkpoint: file for the state, written every :data:`studylib.training.checkpoint.SECONDS` and at the end. A
            later call with the same arguments goes on from it.
        watch: model → what is added to each epoch's row; it decides nothing.
        keep: "last" where other objectives than the task need all epochs.

    Returns:
        One row an epoch: epoch, lr, train_loss, train_<score>, val_loss, val_<score>, seconds, best; ``step``'s.

    Raises:
        ValueError: there is nothing to train. ``keep`` is neither. Labels are to be smoothed beside a ``loss`` or
            ``step``, or are no classes.
        studylib.training.deadline.Paused: the next epoch would end too late; what is done is in ``checkpoint``.
        FloatingPointError: a training or validation loss is not finite, or ``step`` skipped every batch of an epoch.
    """
    _check(recipe, data.task, loss, step, keep)
    loss, step, masks, task = _loss(loss, data.task, recipe), step or Step(), masks or {}, data.task
    if (first := next(model.parameters(), None)) is None:
        raise ValueError(f"{type(model).__name__} has no weights to train: expected floats; what is rounded has none")
    device = first.device
    masks = {name: mask.to(device) for name, mask in masks.items()}
    _apply_masks(model, masks)
    key = ""
    if checkpoint is not None:
        decides = {"recipe": dataclasses.asdict(recipe), "seed": seed, "target": target, "keep": keep}
        decides |= {"data": data.identity, "spec": model.spec, "loss": loss.identity, "step": step.identity}
        decides["watch"] = getattr(watch, "__qualname__", type(watch).__qualname__)  # whose rows are in the history
        key = checkpoints.key(decides, model, masks)
    average = Average(model, recipe.ema) if recipe.ema else None
    state, file = State(model, optimizer_of(model, recipe), step, average), Checkpoint(checkpoint, key)
    step.start(model, masks)
    file.resume(state)
    history = state.history
    if "crops" in recipe.augmentation:
        data = data.cropped_only(small=recipe.augmentation == "small_crops")
    data, recipe = data.to(device), _computed(recipe, device)
    net = torch.compile(model) if recipe.compile else model
    while len(history) < recipe.epochs and not task.reached(history, target):
        if deadline.left() < (history[-1]["seconds"] if history else 0):
            file.save(state)
            raise deadline.Paused(f"epoch {len(history)} of {recipe.epochs} is done and the time is up; it can go on")
        epoch, started, shown = len(history), time.monotonic(), data
        if recipe.views:
            shown = dataclasses.replace(data, train=view(data, epoch % recipe.views))
            loss.show(shown, epoch % recipe.views)
        row = {"epoch": epoch + 1, "lr": recipe.rate(epoch)}
        with _drawing(_mix(seed, epoch), device):
            row |= _epoch(state, net, shown, recipe, loss, masks, seed) | step.row()
        found = task.scores(task.predict(state.kept, data.validation, data), data.validation.labels)
        row |= {f"val_{task.score}": found[task.score], "val_loss": found[task.val_loss]}
        row |= {"seconds": time.monotonic() - started} | (watch(state.kept) if watch else {})
        if not math.isfinite(row["val_loss"]):
            raise FloatingPointError(f"epoch {epoch + 1}: the validation loss is {row['val_loss']}; try a smaller lr")
        row["best"] = not history or task.rank(row) > max(map(task.rank, history))
        history.append(row)
        if row["best"]:
            state.best = copy.deepcopy(state.kept.state_dict())
        log.info(f"epoch %(epoch)d: loss %(train_loss).4f, validation {task.score} %(val_{task.score}).4f", row)
        file.save(state, every=checkpoints.SECONDS)
    file.save(state)
    if history:
        model.load_state_dict(state.best if keep == "best" else state.kept.state_dict())
    model.eval()
    return history


def _check(recipe: Recipe, task: Task, loss: object, step: Step | None, keep: str) -> None:
    if keep not in ("best", "last"):
        raise ValueError(f"keep={keep!r}: expected best or last")
    if recipe.label_smoothing and (loss or step or not task.classes):
        raise ValueError(f"label_smoothing={recipe.label_smoothing}: expected 0 beside another loss than the labels'")


def _loss(given: Loss | Callable | None, task: Task, recipe: Recipe) -> Loss:
    if isinstance(given, Loss):
        return given
    smoothing = {"smoothing": recipe.label_smoothing} if task.classes else {}
    return Plain(given or functools.partial(task.loss, **smoothing))


def _computed(recipe: Recipe, device: torch.device) -> Recipe:
    """``recipe`` as ``device`` can; it is not in the key: a training goes on on a processor of another kind."""
    amp = recipe.amp and provenance.has_bfloat16(device)
    if recipe.amp and not amp:
        log.warning("amp=True: this processor has no bfloat16; training in float32")
    return dataclasses.replace(recipe, amp=amp)


def _epoch(
    state: State, net: nn.Module, data: Data, recipe: Recipe, loss: Loss, masks: dict[str, torch.Tensor], seed: int
) -> dict:
    """Trains for the epoch that follows; ``net`` is the model, compiled or not. Returns train_loss, train_<score>."""
    model, optimizer, step, task = state.model, state.optimizer, state.step, data.task
    device, epoch, steps = data.mean.device, len(state.history), math.ceil(len(data.train) / recipe.batch_size)
    generator = torch.Generator(device=device).manual_seed(_mix(seed, epoch))
    total, score, count = torch.zeros((), device=device), torch.zeros((), device=device), 0
    model.train()
    changed = recipe.augments and not recipe.views  # views have been changed already
    for k, (images, labels, chosen) in enumerate(batches(data, recipe.batch_size, generator, changed)):
        for group in optimizer.param_groups:
            group["lr"] = group["times"] * recipe.rate(epoch + k / steps)
        if images.dim() == 4:
            images = images.contiguous(memory_format=torch.channels_last)
        with torch.autocast(device.type, torch.bfloat16, enabled=recipe.amp):
            value, outputs = loss(net, images, labels, chosen if recipe.views else None)
        optimizer.zero_grad(set_to_none=True)
        if not step.gradients(model, value, outputs, (images, labels)):
            continue
        optimizer.step()
        _apply_masks(model, masks)
        step.after(model, optimizer.param_groups[0]["lr"])
        if state.average:
            state.average.update()
        total += value.detach() * len(labels)
        score += task.batch_score(outputs.detach(), labels)
        count += len(labels)
    if not count:
        raise FloatingPointError(f"epoch {epoch + 1}: no step had a finite loss and gradient; try a smaller lr")
    if not math.isfinite(total.item()):
        raise FloatingPointError(f"epoch {epoch + 1}: the training loss is {total.item()}; try a smaller lr")
    return {"train_loss": total.item() / count, f"train_{task.score}": score.item() / count}


@contextlib.contextmanager
def _drawing(seed: int, device: torch.device):
    """What a network or its loss draws by torch's own generators, such as noise, depends on ``seed`` alone."""
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        yield


def _mix(seed: int, epoch: int) -> int:
    """One 63-bit seed from two numbers, far apart for neighbours."""
    return int.from_bytes(hashlib.sha256(f"{seed} {epoch}".encode()).digest()[:8], "big") >> 1


@torch.no_grad()
def _apply_masks(model: nn.Module, masks: dict[str, torch.Tensor]) -> None:
    parameters = dict(model.named_parameters())
    for name, mask in masks.items():
        parameters[name].mul_(mask)
