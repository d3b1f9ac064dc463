"""The checkpoint of an unfinished training: what :func:`studylib.training.loop.fit` leaves and goes on from."""

import collections
import dataclasses
import hashlib
import json
import logging
import time
import types
from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn

from studylib.disk import files
from studylib.training.recipe import Average
from studylib.training.step import Step

SECONDS = 60.0  # between two savings of a training

log = logging.getLogger(__name__)


def key(arguments: dict, model: nn.Module, masks: dict[str, torch.Tensor]) -> str:
    """What a checkpoint belongs to: SHA-256 of all that decides a training.

    Args:
        arguments: of the training, JSON data; among them a digest of the images.
        model: as it is before. Its weights, which of them are trained, and the kind and settings of every module count.
        masks: name → bool, True where a weight may live.
    """
    trained = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
    held = {name: [list(mask.shape), _digest(mask)] for name, mask in masks.items()}
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


def weights_digest(model: nn.Module) -> str:
    """SHA-256 of every tensor of ``model``."""
    return _digest(*model.state_dict().values())


def _digest(*tensors: torch.Tensor) -> str:
    digest = hashlib.sha256()
    for tensor in tensors:
        digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


@dataclasses.dataclass
class State:
    """A training between two epochs.

    Attributes:
        history: a row for each epoch that is done.
        best: the ``state_dict`` of the best of them.
    """

    model: nn.Module
    optimizer: torch.optim.Optimizer
    step: Step
    average: Average | None
    history: list[dict] = dataclasses.field(default_factory=list)
    best: dict[str, torch.Tensor] = dataclasses.field(default_factory=dict)

    @property
    def kept(self) -> nn.Module:
        """The model that is evaluated: the average of the weights, where there is one."""
        return self.average.model if self.average else self.model

    def parts(self) -> dict:
        """Name → what has a ``state_dict`` of tensors, in the order in which they are taken up."""
        return {"model": self.model, "step": self.step} | ({"average": self.average} if self.average else {})


class Checkpoint:
    """A safetensors file with the state of an unfinished training: complete or not there.

    Args:
        path: of the file; None: nothing is ever kept.
        key: from :func:`key`; a file of another key is another training's and is not used.
    """

    def __init__(self, path: Path | None, key: str):
        self.path, self.key = path, key
        self._epochs, self._saved = 0, time.monotonic()

    def save(self, state: State, every: float = 0.0) -> None:
        """Writes ``state``, if it is not there already and the last time was at least ``every`` seconds ago."""
        done = len(state.history)
        if self.path is None or done == self._epochs or time.monotonic() - self._saved < every:
            return
        stored = {name: part.state_dict() for name, part in state.parts().items()}
        stored |= {f"optimizer/{i}": slots for i, slots in state.optimizer.state_dict()["state"].items()}
        tensors = {f"{part}/{k}": v for part, held in (stored | {"best": state.best}).items() for k, v in held.items()}
        files.write_tensors(self.path, tensors, {"key": self.key, "history": state.history})
        self._epochs, self._saved = done, time.monotonic()

    def resume(self, state: State) -> None:
        """Sets ``state`` to what :meth:`save` left; leaves it alone where there is nothing, or another training's.

        Raises:
            studylib.disk.files.CheckpointError: the file is damaged.
        """
        tensors, about = files.read_tensors(self.path) if self.path and self.path.exists() else ({}, {})
        if about.get("key") != self.key:
            return
        held: dict[str, dict] = collections.defaultdict(dict)
        for name, tensor in tensors.items():
            part, _, rest = name.partition("/")
            held[part][rest] = tensor
        for name, part in state.parts().items():
            part.load_state_dict(held[name])
        slots: dict[int, dict] = collections.defaultdict(dict)
        for name, tensor in held["optimizer"].items():
            i, _, field = name.partition("/")
            slots[int(i)][field] = tensor
        groups = state.optimizer.state_dict()["param_groups"]
        state.optimizer.load_state_dict({"state": dict(slots), "param_groups": groups})
        device = next(state.model.parameters()).device
        state.best = {name: tensor.to(device) for name, tensor in held["best"].items()}
        state.history = about["history"]
        self._epochs = len(state.history)
        log.info("continuing after epoch %d from %s", self._epochs, self.path)
