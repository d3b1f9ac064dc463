"""Holds a profile's settings against the records that will use them, before anything trains."""

import dataclasses
import math
from collections.abc import Iterator
from typing import Any

from engine.run import code
from engine.settings import chapters, parameters

LATENCY = {"batch": (1, 4096), "repeats": (1, 10_000)}
REPEATED = ("seeds", "repetitions")  # of a record: how many seeds it runs, from the study's on
RECIPE = "recipe"


def data_of(sections: dict[str, dict]) -> str:
    """What the images of the study are, in one word: another where one pixel or label is another."""
    from studylib.data import datasets

    return _named(datasets.load(sections["study"]["dataset"], 0))


def check_values(sections: dict[str, dict]) -> str:
    """Raises ParameterError for a setting that a chapter would refuse, perhaps hours later; loads the data to know.

    Every section goes into its records; those of what is run are then held against the data. Networks are built without
    memory for their weights. Returns :func:`data_of` the sections.
    """
    from studylib.data import datasets

    study = sections["study"]
    _check_device(study["device"])
    for name, (least, most) in LATENCY.items():
        if not least <= sections["latency"][name] <= most:
            value = sections["latency"][name]
            raise parameters.ParameterError(f"latency.{name}={value!r}: expected {least} to {most}")
    if not 1 <= study["threads"] <= 1024:
        raise parameters.ParameterError(f"study.threads={study['threads']!r}: expected 1 to 1024")
    try:
        loaded, first = datasets.load(study["dataset"], 0), datasets.load(study["dataset"], study["seeds"][0])
    except (ValueError, FileNotFoundError) as error:
        raise parameters.ParameterError(f"study: {error}") from error
    run = {chapters.root(), *study["stages"], *study["chapters"]}
    for stage in chapters.declared():
        records = records_of(stage, sections)
        own = parameters.of_node(stage, sections) if chapters.declared()[stage].node else {}
        for name, record in records.items() if stage in run else ():
            if stage in study["chapters"] or name in own:
                _against(f"{stage}.{name}", record, first)
            if name in own and code.of_files(own):  # a published file serves its own seed alone
                for seed in study["seeds"][1:]:
                    _against(f"{stage}.{name}", record, datasets.load(study["dataset"], seed))
            if stage in study["chapters"]:
                _check_seeds(f"{stage}.{name}", record, study["seeds"][0])
        if stage in run:
            _together(stage, records)
        if stage in study["chapters"] and _epochs(records) == 0:
            raise parameters.ParameterError(
                f"{stage}.{RECIPE}.epochs=0: expected at least 1 where its chapter, which shows it, is run"
            )
    for name, values in sections[parameters.ROOTS].items():
        try:
            _together(chapters.root(), records_of(chapters.root(), sections | {chapters.root(): values}))
        except parameters.ParameterError as error:
            raise parameters.ParameterError(f"{parameters.ROOTS}: {name}: {error}") from error
    if wants := [name for stage in run for name in _compiled(stage, sections)]:
        from studylib.networks import cost  # two seconds of import

        if reason := cost.why_not_compile():
            raise parameters.ParameterError(
                f"{wants[0]}.compile=True: {reason}; install g++ and python3-dev, or set it false"
            )
    return _named(loaded)


def records_of(stage: str, sections: dict[str, dict]) -> dict[str, Any]:
    """The settings of a stage as the records that its notebook makes of them.

    Raises:
        ParameterError: an unknown key, a value of another type or out of bounds; names stage, parameter and key.
    """
    from studylib import settings

    declared, given = chapters.declared()[stage], parameters.complete(stage, sections)
    try:
        return {name: settings.read(declared.record(name), given[name], name) for name in declared.records}
    except settings.SettingError as error:
        raise parameters.ParameterError(f"{stage}.{error}") from error


def settings_of_nodes(sections: dict[str, dict]) -> dict[str, dict]:
    """The settings that decide the nodes' numbers, what a profile leaves out among them: stage → record → values."""
    stages = (chapters.root(), *sections["study"]["stages"])
    found: dict[str, dict] = {"study": {"dataset": sections["study"]["dataset"]}}
    for stage in stages:
        own = parameters.of_node(stage, sections)
        found[stage] = {
            name: dataclasses.asdict(record) for name, record in records_of(stage, sections).items() if name in own
        }
    return found


def _against(name: str, record: Any, loaded) -> None:
    """What only the data can say of a record, by its method ``against``, if it has one."""
    try:
        if hasattr(record, "against"):
            record.against(loaded)
    except (ValueError, FileNotFoundError, RuntimeError, TypeError) as error:
        raise parameters.ParameterError(f"{name}: {error}") from error


def _together(stage: str, records: dict[str, Any]) -> None:
    """What only several records can say, by the methods that the chapter declares."""
    for method, needed in chapters.declared()[stage].together.items():
        name, _, call = method.partition(".")
        try:
            getattr(records[name], call)(*(records[each] for each in needed))
        except ValueError as error:
            raise parameters.ParameterError(f"{stage}.{name}: {error}") from error


def _check_seeds(name: str, record: Any, first: int) -> None:
    for field in dataclasses.fields(record):
        value = getattr(record, field.name)
        if field.name in REPEATED and isinstance(value, int) and first + value - 1 > parameters.MOST_SEED:
            raise parameters.ParameterError(
                f"{name}.{field.name}={value!r}: they are of the seeds from {first} on, expected at most "
                f"{parameters.MOST_SEED} for the last"
            )


def _epochs(records: dict[str, Any]) -> float:
    return getattr(records.get(RECIPE), "epochs", math.inf)


def _compiled(stage: str, sections: dict[str, dict]) -> Iterator[str]:
    for name, record in records_of(stage, sections).items():
        if getattr(record, "compile", False) is True:
            yield f"{stage}.{name}"


def _named(loaded) -> str:
    return f"sha256-{loaded.digest}"  # a word also for who reads numbers where they can


def _check_device(device: str) -> None:
    """What training.loop.set_up refuses, which also hands torch settings: that takes three seconds of import."""
    import torch

    if device not in ("auto", "cpu", "cuda"):
        raise parameters.ParameterError(f"study: device={device!r}: expected auto, cpu or cuda")
    if device == "cuda" and not torch.cuda.is_available():
        raise parameters.ParameterError("study: device='cuda': this machine has no CUDA device; use auto or cpu")
