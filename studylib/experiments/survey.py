"""Chapter 9: every technique that the survey names, on a few networks, beside narrower dense ones at equal bytes.

Only :data:`TECHNIQUES` knows which module a word of ``stages`` stands for.
"""

import dataclasses
import functools
import inspect
import itertools
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Annotated

import pandas as pd
import torch
from pydantic import Field
from torch import nn

from studylib.coding import codec, limits
from studylib.data import datasets, scoring
from studylib.data.datasets import Data
from studylib.experiments import energy, leaks, zoo_models
from studylib.networks import cost, layers, spec
from studylib.settings import Batch, check_different, nearest, read, record
from studylib.techniques import (
    binary,
    cp,
    distill,
    dynamic,
    fixed,
    hardware,
    hybrid,
    int4,
    int8,
    kernels,
    oneshot,
    prune,
    semistructured,
    sketch,
    structural,
    svd,
    threshold,
    tucker,
)
from studylib.training import loop
from studylib.training.recipe import Recipe
from studylib.tree.rows import Task, every

PRUNING, LOW_RANK, QUANTIZATION, CONTROL = "pruning", "low rank", "quantization", "narrower"
WHOLE = "as trained"
TIMED = ("latency_ms", "whole_ms", "joules", "co2_mg")  # of a row: what time and energy are


@dataclasses.dataclass(frozen=True)
class Technique:
    """A technique: its kind, how the survey calls it, its module, and the record of its settings."""

    kind: str
    title: str
    module: ModuleType
    record: type


TECHNIQUES = {  # word of stages → what it is, in the order of the survey
    "threshold": Technique(PRUNING, "weights below a threshold", threshold, threshold.Threshold),
    "oneshot": Technique(PRUNING, "magnitude, at once", oneshot, oneshot.OneShot),
    "prune": Technique(PRUNING, "iterative", prune, prune.Pruning),
    "structural": Technique(PRUNING, "filters and neurons", structural, structural.Structural),
    "kernels": Technique(PRUNING, "kernels of filters", kernels, kernels.Kernels),
    "semistructured": Technique(PRUNING, "N of M", semistructured, semistructured.SemiStructured),
    "svd": Technique(LOW_RANK, "SVD of linear layers", svd, svd.Factorization),
    "tucker": Technique(LOW_RANK, "Tucker", tucker, tucker.Tucker),
    "cp": Technique(LOW_RANK, "CP", cp, cp.CP),
    "sketch": Technique(LOW_RANK, "sketching", sketch, sketch.Sketch),
    "int8": Technique(QUANTIZATION, "static int8", int8, int8.Quantization),
    "fixed": Technique(QUANTIZATION, "fixed point", fixed, fixed.FixedPoint),
    "dynamic": Technique(QUANTIZATION, "dynamic int8", dynamic, dynamic.Dynamic),
    "int4": Technique(QUANTIZATION, "weights in few bits", int4, int4.WeightOnly),
    "hybrid": Technique(QUANTIZATION, "hybrid precision", hybrid, hybrid.HybridPrecision),
    "hardware": Technique(QUANTIZATION, "hardware-aware", hardware, hardware.HardwareAware),
    "binary": Technique(QUANTIZATION, "binary weights", binary, binary.Binary),
}


@record
class Survey:
    """What is compared, and how often."""

    repetitions: Annotated[int, Field(ge=1, le=1000, description="seeds, from the study's on")] = 1
    techniques: Annotated[list[str], Field(description="that are compared; none: all")] = dataclasses.field(
        default_factory=list
    )
    settings: Annotated[
        dict[str, dict], Field(description="technique → its settings, where they are not the defaults")
    ] = dataclasses.field(default_factory=dict)
    networks: Annotated[
        dict[str, list[str]],
        Field(min_length=1, description="network, in words, → narrower dense ones that are trained alike"),
    ] = dataclasses.field(default_factory=lambda: {"resnet 8-16": []})
    models: Annotated[
        list[str], Field(description="of torchvision, whose bytes in int8 are measured; families, quantizable: lists")
    ] = dataclasses.field(default_factory=lambda: list(zoo_models.SMALL))
    timed: Annotated[int, Field(ge=1, le=1000, description="seeds whose networks are timed: the first")] = 1
    batch: Batch = 64
    compiled: Annotated[bool, Field(description="time forward passes through torch.compile")] = False

    def check(self) -> None:
        check_different(self, "techniques", "models")
        if self.timed > self.repetitions:
            raise ValueError(f"timed={self.timed}: expected at most repetitions={self.repetitions}")
        zoo_models.named(self.models)
        for name, keys in (("techniques", self.techniques), ("settings", self.settings)):
            for key in keys:
                try:
                    technique(key)
                except ValueError as error:
                    raise ValueError(f"{name}: {error}") from error
        self.chosen()
        for name, narrower in self.networks.items():
            for each in (name, *narrower):
                if not each:
                    raise ValueError("networks: '': expected a network in words, such as 'resnet 8-8'")
                try:
                    distill.Student(name=each)
                except ValueError as error:
                    raise ValueError(f"networks: {error}") from error
            if len({name, *narrower}) <= len(narrower):
                raise ValueError(f"networks: {name!r}: {narrower!r}: expected different ones")

    def chosen(self) -> dict[str, object]:
        """Technique → the record of its settings; ValueError where one does not fit."""
        keys = self.techniques or list(TECHNIQUES)
        of = {key: self.settings.get(key, {}) for key in (*keys, *self.settings)}
        found = {key: read(technique(key).record, given, f"settings.{key}") for key, given in of.items()}
        return {key: found[key] for key in keys}

    def against(self, data: Data) -> None:
        """Raises ValueError where ``data`` cannot have the networks, or a technique's settings."""
        for network, narrower in self.networks.items():
            for name in (network, *narrower):
                limits.check_network(*distill.Student(name=name).described({}), data, f"networks: {name!r}")
            most = _size(network, data)
            for name in narrower:
                if (size := _size(name, data)) >= most:
                    raise ValueError(
                        f"networks: {name!r} has {size:,} parameters: expected fewer than the {most:,} of {network!r}"
                    )
        for key, settings in self.chosen().items():
            if hasattr(settings, "against"):
                try:
                    settings.against(data)
                except ValueError as error:
                    raise ValueError(f"settings.{key}.{error}") from error
            for network in self.networks if getattr(settings, "budget", 0) else ():
                try:  # what rank 1 takes is the same of a network without training
                    technique(key).module.apply(_built(network, data, 0), data, **dataclasses.asdict(settings))
                except ValueError as error:
                    raise ValueError(f"settings.{key}: {network}: {error}") from error


def _size(name: str, data: Data) -> int:
    model = _built(name, data, 0)
    return sum(parameter.numel() for parameter in model.parameters())


def technique(key: str) -> Technique:
    """What ``key`` stands for; ValueError, which names the nearest, where it stands for nothing."""
    if key not in TECHNIQUES:
        raise ValueError(f"technique={key!r}: unknown{nearest(str(key), list(TECHNIQUES))}")
    return TECHNIQUES[key]


def settings_of(key: str, given: dict) -> object:
    """``given`` as the record of the technique ``key``; SettingError where it does not fit."""
    return read(technique(key).record, given, "settings")


def apply(
    key: str,
    model: nn.Module,
    data: Data,
    settings: object,
    recovery: Recipe,
    *,
    seed: int,
    scratch: Path | None = None,
) -> nn.Module:
    """A copy of ``model`` made smaller by the technique ``key``, trained on by ``recovery`` where it can be.

    What is quantized is not trained on; binary weights and iterative pruning train by themselves, by that recipe.
    Errors are the technique's own.
    """
    takes = _takes(key)
    more = {"seed": seed, "recipe": recovery, "scratch": scratch}
    given = dataclasses.asdict(settings) | {name: value for name, value in more.items() if name in takes}
    small = technique(key).module.apply(model, data, **given)
    if "recipe" in takes or not trains(key):
        return small
    return recovered(small, data, recovery, seed=seed, scratch=scratch)


def trains(key: str) -> bool:
    """Whether a network is trained on with or after the technique ``key``."""
    return technique(key).kind != QUANTIZATION or "recipe" in _takes(key)


def _takes(key: str) -> set[str]:
    return set(inspect.signature(technique(key).module.apply).parameters)


def recovered(model: nn.Module, data: Data, recipe: Recipe, *, seed: int, scratch: Path | None = None) -> nn.Module:
    """A copy of ``model`` trained on by ``recipe``, its zeros held at zero; ``model`` itself at 0 epochs."""
    if not recipe.epochs:
        return model
    new, checkpoint = layers.duplicate(model), scratch / "recovery.safetensors" if scratch else None
    history = loop.fit(new, data, recipe, seed=seed, masks=layers.masks_of(new), checkpoint=checkpoint)
    return spec.with_change(new, "recovery", {"epochs": len(history)}, history=history)


def compared(
    dataset: str,
    seed: int,
    recipe: Recipe,
    recovery: Recipe,
    survey: Survey,
    device: torch.device,
    folder: Path | None,
) -> pd.DataFrame:
    """A row per seed, network and technique, and per narrower network; each kept in ``folder`` as it is made.

    Each seed has dense networks of its own, trained by ``recipe``. Every technique starts from them. What is not
    trained on afterwards starts from the network as trained: the dense one that ``recovery`` has trained on. So all
    networks of a seed but iterative pruning's have been trained equally long.

    Returns:
        seed, network, technique (a key, a narrower network's name, or :data:`WHOLE`), kind.
        Form: float32 or int8, of narrower networks.
        Accuracies (0…1) of test images: without ``recovery`` as ``before``, and with it as ``accuracy``.
        The bytes of the coded file, multiply_adds, nll. What ``leaks.attack`` gives.
        Milliseconds a batch (latency_ms), and those of the network as trained, in turn with them (whole_ms).
        What ``energy.estimate`` gives. Times and energy are None but for the seeds that are timed.
    """
    seeds = range(seed, seed + survey.repetitions)
    chosen = {key: dataclasses.asdict(settings) for key, settings in survey.chosen().items()}
    about = [dataclasses.asdict(recipe), dataclasses.asdict(recovery), survey.batch, survey.compiled]
    about += [datasets.load(dataset, seed).identity, energy.installed()]
    rows = []
    for of, make in _tasks(dataset, seeds, recipe, recovery, survey, device, folder):
        timed = of["seed"] - seed < survey.timed
        rows += every([(of, make)], folder, [*about, chosen.get(of["technique"]), timed])
    return pd.DataFrame(rows)


def _tasks(dataset, seeds, recipe, recovery, survey, device, folder) -> Iterator[Task]:
    for seed, name in itertools.product(seeds, survey.networks):
        data = datasets.load(dataset, seed)
        dense = functools.cache(functools.partial(trained, name, data, recipe, seed, device))
        on = functools.cache(lambda dense=dense, data=data, seed=seed: recovered(dense(), data, recovery, seed=seed))
        timed = seed - seeds[0] < survey.timed
        row = functools.partial(measured, data=data, survey=survey, beside=dense if timed else None)

        def whole(data=data, dense=dense, on=on, row=row) -> list[dict]:
            before = {"kind": WHOLE, "form": "float32", "before": scoring.accuracy(dense(), data.test, data)}
            return [before | row(on())]

        yield {"seed": seed, "network": name, "technique": WHOLE}, whole
        for key, settings in survey.chosen().items():

            def made(key=key, settings=settings, seed=seed, data=data, dense=dense, on=on, row=row) -> list[dict]:
                scratch = folder / "unfinished" if folder else None
                plain = apply(key, dense(), data, settings, dataclasses.replace(recovery, epochs=0), seed=seed)
                before = scoring.accuracy(plain, data.test, data)
                start = dense() if trains(key) else on()
                model = apply(key, start, data, settings, recovery, seed=seed, scratch=scratch)
                return [{"kind": technique(key).kind, "form": "", "before": before} | row(model)]

            yield {"seed": seed, "network": name, "technique": key}, made
        for narrower in survey.networks[name]:

            def narrow(narrower=narrower, seed=seed, data=data, row=row) -> list[dict]:
                all_epochs = dataclasses.replace(recipe, epochs=recipe.epochs + recovery.epochs)
                model = trained(narrower, data, all_epochs, seed, device)
                forms = {"float32": model, "int8": int8.apply(model, data, seed=seed)}
                return [{"kind": CONTROL, "form": form, "before": None} | row(each) for form, each in forms.items()]

            yield {"seed": seed, "network": name, "technique": narrower}, narrow


def measured(model: nn.Module, data: Data, survey: Survey, beside: Callable[[], nn.Module] | None) -> dict:
    """What a row of :func:`compared` has of a network, from accuracy on; ``beside`` makes what it is timed beside."""
    found = scoring.scores(scoring.predict(model, data.test, data), data.test.labels)
    return {
        "accuracy": found["accuracy"],
        "nll": found["nll"],
        **leaks.attack(model, data),
        "bytes": len(codec.encode(model)),
        "multiply_adds": cost.multiply_adds(model, data.model_args),
        **(_timed(model, beside(), data, survey) if beside else dict.fromkeys(TIMED)),
    }


def _timed(model: nn.Module, beside: nn.Module, data: Data, survey: Survey) -> dict:
    images = cost.example(data.model_args, survey.batch)
    timers = [cost.timer(each, images, compiled=survey.compiled) for each in (model, beside)]
    took, whole = cost.in_turn(timers)
    return {"latency_ms": took, "whole_ms": whole, **energy.estimate(timers[0])}


def trained(name: str, data: Data, recipe: Recipe, seed: int, device: torch.device) -> nn.Module:
    """The network called ``name`` in words, trained by ``recipe``; ValueError where there is none."""
    model = _built(name, data, seed).to(device)
    history = loop.fit(model, data, recipe, seed=seed)
    return spec.with_change(model, "teacher", {"epochs": len(history)}, history=history)


def _built(name: str, data: Data, seed: int) -> nn.Module:
    kind, args = distill.Student(name=name).described(data.model_args)
    return spec.create(kind, seed, data=data, **args)
