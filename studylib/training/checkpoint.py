"""The checkpoint of an unfinished training: what :func:`studylib.training.loop.fit` leaves and goes on from."""

import collections
import hashlib
import json
import logging
import types
from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn

from studylib.disk import files

log = logging.getLogger(__name__)


def key(arguments: dict, model: nn.Module, masks: dict[str, torch.Tensor]) -> str:
    """What a checkpoint belongs to: SHA-256 of all that decides a training.

    Args:
        arguments: of the training, JSON data; among them a digest of the images.
        model: as it is before; its weights, which of them are trained, and the kind and settings of every module count.
        masks: name → bool, True where a weight may live.
    """
    trained = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
    held = {name: [list(mask.shape), tensor_digest(mask)] for name, mask in masks.items()}
    built = [[name, type(module).__name__, module.extra_repr()] for name, module in model.named_modules()]
    content = [arguments, trained, held, built, weights_digest(model)]
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def function_digest(function: Callable) -> str:
    """SHA-256 of what a function does: its bytecode, constants, defaults, and the plain values that it closes over.

    What it reads elsewhere (globals, networks, tensors) does not count.
    """
    plain = int | float | str | bytes | bool | tuple | None
    code = getattr(function, "__code__", None)
    cells = [cell.cell_contents for cell in getattr(function, "__closure__", None) or ()]
    held = [repr(value) for value in cells if isinstance(value, plain)]
    parts = [_code(code) if code else type(function).__name__, held, repr(getattr(function, "__defaults__", None))]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def _code(code: types.CodeType) -> list:
    constants = [_code(each) if isinstance(each, types.CodeType) else repr(each) for each in code.co_consts]
    return [code.co_code.hex(), list(code.co_names), list(code.co_varnames), constants]


def tensor_digest(tensor: torch.Tensor) -> str:
    """SHA-256 of the numbers of ``tensor``."""
    return hashlib.sha256(tensor.detach().cpu().contiguous().numpy().tobytes()).hexdigest()


def weights_digest(model: nn.Module) -> str:
    """SHA-256 of every tensor of ``model``."""
    digest = hashlib.sha256()
    for tensor in model.state_dict().values():
        digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def save(
    path: Path,
    key: str,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    history: list[dict],
    best: dict[str, torch.Tensor],
    parts: dict[str, dict[str, torch.Tensor]],
) -> None:
    """Writes a training's state to ``path``: one safetensors file, complete or not there.

    Args:
        key: from :func:`key`, of the training's arguments.
        best: the ``state_dict`` of the best epoch so far.
        parts: name → ``state_dict`` of what else the training is made of.
    """
    tensors = {f"model/{k}": v for k, v in model.state_dict().items()}
    for part, state in {"best": best, **parts}.items():
        tensors |= {f"{part}/{k}": v for k, v in state.items()}
    for i, state in optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer/{i}/{k}": v for k, v in state.items()}
    files.write_tensors(path, tensors, {"key": key, "history": history})


def resume(
    path: Path, key: str, model: nn.Module, optimizer: torch.optim.Optimizer
) -> tuple[list[dict], dict[str, torch.Tensor] | None, dict[str, dict[str, torch.Tensor]]]:
    """Sets ``model`` and ``optimizer`` to what :func:`save` left; leaves them alone if that is another training's.

    Returns:
        History, best weights and the other parts; ([], None, {}) if ``key`` is another.

    Raises:
        store.CheckpointError: the file is damaged.
    """
    tensors, about = files.read_tensors(path)
    if about.get("key") != key:
        return [], None, {}
    device = next(model.parameters()).device
    parts: dict[str, dict] = collections.defaultdict(dict)
    for name, tensor in tensors.items():
        part, _, rest = name.partition("/")
        parts[part][rest] = tensor
    model.load_state_dict(parts["model"])
    states: dict[int, dict] = {}
    for name, tensor in parts["optimizer"].items():
        i, _, field = name.partition("/")
        states.setdefault(int(i), {})[field] = tensor
    optimizer.load_state_dict({"state": states, "param_groups": optimizer.state_dict()["param_groups"]})
    log.info("continuing after epoch %d from %s", len(about["history"]), path)
    return about["history"], {k: v.to(device) for k, v in parts["best"].items()}, parts
