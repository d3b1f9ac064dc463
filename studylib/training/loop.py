"""The one training loop of the study."""

import copy
import dataclasses
import functools
import hashlib
import logging
import math
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn

from studylib.data.datasets import Data, batches, view
from studylib.disk.provenance import has_bfloat16
from studylib.training import checkpoint as checkpoints
from studylib.training import deadline
from studylib.training.recipe import Average, Recipe, optimizer_of
from studylib.training.step import Loss, Step

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
    loss: Loss | None = None,
    step: Step | None = None,
    masks: dict[str, torch.Tensor] | None = None,
    target: float | None = None,
    checkpoint: Path | None = None,
    checkpoint_seconds: float = 60.0,
    identity: object = None,
    watch: Callable[[nn.Module], dict] | None = None,
    keep: str = "best",
) -> list[dict]:
    """Trains ``model`` in place and leaves it with the weights of its best validation epoch, or of its last.

    Best is what ``data.task`` says: of classes, highest validation accuracy, then lower loss. Each epoch draws its
    order and views from ``(seed, epoch)`` alone, so that an interrupted training continues as if it had not
    been: with ``checkpoint``, the state is written there every ``checkpoint_seconds`` and at the end, and
    a later call with the same arguments goes on from it.

    Args:
        loss: what is descended; without it, the task's: cross-entropy, smoothed as the recipe says. One with a
            method ``show`` is told, where the recipe has views, before each epoch what is shown, (data, number of the
            view), and is then called with the numbers of the batch's images as a fourth argument.
        step: turns a batch's loss into the weights' gradients; without it, the loss is followed.
        masks: weight name → bool, True where a weight may live; the others are held at exactly zero.
        target: stop after the first epoch whose validation score (of classes: accuracy) is as good as this.
        identity: JSON data that tells ``loss`` from another; a checkpoint made under another is not used. The losses of
            studylib say so themselves, by an attribute ``identity``; two plain functions are told apart by this alone.
        watch: what it says of the model after each epoch is added to the epoch's row and decides nothing.
        keep: "last" for a training whose other objectives have not done their work in the epochs that score best.

    Returns:
        One row an epoch: epoch, lr, train_loss, train_<score>, val_loss, val_<score>, seconds, best; ``step``'s.

    Raises:
        ValueError: ``keep`` is neither; labels are to be smoothed beside a ``loss`` or ``step``, or are no classes.
        studylib.training.deadline.Paused: the time is up before the next epoch's end; what is done is in
        ``checkpoint``.
        FloatingPointError: the loss, or that of validation images, is no longer finite, or ``step`` skipped every
            batch of an epoch.
    """
    if keep not in ("best", "last"):
        raise ValueError(f"keep={keep!r}: expected best or last")
    task = data.task
    if recipe.label_smoothing and (loss or step or not task.classes):
        raise ValueError(f"label_smoothing={recipe.label_smoothing}: expected 0 beside another loss than the labels'")
    loss = loss or (functools.partial(task.loss, smoothing=recipe.label_smoothing) if task.classes else task.loss)
    device = next(model.parameters()).device
    images = data.identity if checkpoint is not None else None
    data = data.cropped_only(recipe.augmentation == "small_crops") if "crops" in recipe.augmentation else data
    data, masks = data.to(device), {name: mask.to(device) for name, mask in (masks or {}).items()}
    optimizer = optimizer_of(model, recipe)
    amp = recipe.amp and has_bfloat16(device)  # not in the key: a training goes on on a processor of another kind
    if recipe.amp and not amp:
        log.warning("amp=True: this processor has no bfloat16; training in float32")
    net = torch.compile(model) if recipe.compile else model
    _apply_masks(model, masks)
    step = step or Step()
    key = ""
    if checkpoint is not None:
        arguments = {"recipe": dataclasses.asdict(recipe), "seed": seed, "target": target, "keep": keep}
        arguments |= {"data": images, "spec": model.spec}
        arguments |= {"loss": [identity, getattr(loss, "identity", None)], "step": step.identity}
        arguments["watch"] = getattr(watch, "__qualname__", type(watch).__qualname__)  # whose rows are in the history
        key = checkpoints.key(arguments, model, masks)
    history, best, parts = [], None, {}
    if checkpoint is not None and checkpoint.exists():
        history, best, parts = checkpoints.resume(checkpoint, key, model, optimizer)
    step.start(model, masks)
    average = Average(model, recipe.ema) if recipe.ema else None
    if history:
        step.load_state_dict(parts["step"])
        if average:
            average.load_state_dict(parts["average"])
    kept = average.model if average else model

    def save():
        if checkpoint is not None and history:
            parts = {"step": step.state_dict(), "average": average.state_dict() if average else {}}
            checkpoints.save(checkpoint, key, model, optimizer, history, best, parts)

    resumed, saved = len(history), time.monotonic()
    while len(history) < recipe.epochs and not task.reached(history, target):
        if deadline.left() < (history[-1]["seconds"] if history else 0):
            save()
            raise deadline.Paused(f"epoch {len(history)} of {recipe.epochs} is done and the time is up; it can go on")
        epoch, started = len(history), time.monotonic()
        row = {"epoch": epoch + 1, "lr": recipe.rate(epoch)}
        shown = data
        if recipe.views:
            shown = dataclasses.replace(data, train=view(data, epoch % recipe.views))
            if hasattr(loss, "show"):
                loss.show(shown, epoch % recipe.views)
        row |= (
            _epoch(
                net,
                model,
                shown,
                dataclasses.replace(recipe, amp=amp),
                loss,
                step,
                optimizer,
                masks,
                average,
                (seed, epoch),
            )
            | step.row()
        )
        found = task.scores(task.predict(kept, data.validation, data), data.validation.labels)
        row |= {f"val_{task.score}": found[task.score], "val_loss": found[task.val_loss]}
        row |= {"seconds": time.monotonic() - started} | (watch(kept) if watch else {})
        if not math.isfinite(row["val_loss"]):
            raise FloatingPointError(f"epoch {epoch + 1}: the validation loss is {row['val_loss']}; try a smaller lr")
        row["best"] = not history or task.rank(row) > max(map(task.rank, history))
        history.append(row)
        if row["best"]:
            best = copy.deepcopy(kept.state_dict())
        log.info(f"epoch %(epoch)d: loss %(train_loss).4f, validation {task.score} %(val_{task.score}).4f", row)
        if checkpoint is not None and time.monotonic() - saved >= checkpoint_seconds:
            save()
            saved = time.monotonic()
    if len(history) > resumed:
        save()
    if history:
        model.load_state_dict(best if keep == "best" else kept.state_dict())
    model.eval()
    return history


def _epoch(net, model, data, recipe, loss, step, optimizer, masks, average, seeds) -> dict:
    task, device, steps = data.task, data.mean.device, math.ceil(len(data.train) / recipe.batch_size)
    generator = torch.Generator(device=device).manual_seed(_mix(*seeds))
    model.train()
    total, score, count = torch.zeros((), device=device), torch.zeros((), device=device), 0
    labels_of, numbers = data.train.labels, torch.arange(len(data.train), device=device)
    data = dataclasses.replace(data, train=dataclasses.replace(data.train, labels=numbers))
    told = bool(recipe.views) and hasattr(loss, "show")
    for k, (images, chosen) in enumerate(
        batches(data, recipe.batch_size, generator, recipe.augments and not recipe.views)
    ):
        labels = labels_of[chosen]
        for group in optimizer.param_groups:
            group["lr"] = group["times"] * recipe.rate(seeds[1] + k / steps)
        images = images.contiguous(memory_format=torch.channels_last)
        with torch.autocast(device.type, torch.bfloat16, enabled=recipe.amp):
            value, outputs = loss(net, images, labels, *([chosen] if told else []))
        optimizer.zero_grad(set_to_none=True)
        if not step.gradients(model, value, outputs, (images, labels)):
            continue
        optimizer.step()
        _apply_masks(model, masks)
        step.after(model, optimizer.param_groups[0]["lr"])
        if average:
            average.update()
        total += value.detach() * len(labels)
        score += task.batch_score(outputs.detach(), labels)
        count += len(labels)
    if not count:
        raise FloatingPointError(f"epoch {seeds[1] + 1}: no step had a finite loss and gradient; try a smaller lr")
    if not math.isfinite(total.item()):
        raise FloatingPointError(f"epoch {seeds[1] + 1}: the training loss is {total.item()}; try a smaller lr")
    return {"train_loss": total.item() / count, f"train_{task.score}": score.item() / count}


def _mix(seed: int, epoch: int) -> int:
    """One 63-bit seed from two numbers, far apart for neighbours."""
    return int.from_bytes(hashlib.sha256(f"{seed} {epoch}".encode()).digest()[:8], "big") >> 1


@torch.no_grad()
def _apply_masks(model: nn.Module, masks: dict[str, torch.Tensor]) -> None:
    parameters = dict(model.named_parameters())
    for name, mask in masks.items():
        parameters[name].mul_(mask)
