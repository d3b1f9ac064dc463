"""Holds a profile's settings against the records that will use them, before anything trains."""

import dataclasses
import functools
from typing import Any

from engine.run import code
from engine.settings import chapters, parameters
from engine.settings.reading import ParameterError, named
from studylib.settings import read


def data_of(sections: dict[str, dict]) -> str:
    """What the images of the study are, in one word: another where one pixel or label is another."""
    from studylib.data import datasets  # as torch, two seconds of import that a misspelt word need not wait for

    return f"sha256-{datasets.load(sections['study']['dataset'], 0).digest}"


def check_values(sections: dict[str, dict]) -> str:
    """Raises ParameterError for a setting that a chapter would refuse, perhaps hours later; loads the data to know.

    Every section goes into its records; those to be run are then checked against the data. Networks are built without
    memory for their weights. Returns :func:`data_of` the sections.
    """
    import torch

    from studylib.data import datasets
    from studylib.networks import cost

    study = sections["study"]
    if study["device"] == "cuda" and not torch.cuda.is_available():
        raise ParameterError("study: device='cuda': this machine has no CUDA device; use auto or cpu")
    load = functools.partial(datasets.load, study["dataset"])
    with named("study: "):
        data, first = data_of(sections), load(study["seeds"][0])
    for stage, records in _all_records(sections).items():
        own = parameters.of_node(stage, sections) if stage in (chapters.root(), *study["stages"]) else {}
        shown = stage in study["chapters"]
        more = study["seeds"][1:] if code.of_files(own) else []  # a published file serves its own seed alone
        for name in [name for name in records if shown or name in own]:
            where, record = f"{stage}.{name}", records[name]
            if hasattr(record, "against"):  # what only the data can say of it
                with named(f"{where}: "):
                    for images in (first, *map(load, more if name in own else [])):
                        record.against(images)
            if shown and name == "recipe" and record.epochs == 0:
                raise ParameterError(f"{where}.epochs=0: expected at least 1 where its chapter, which shows it, is run")
            if getattr(record, "compile", False) is True and (reason := cost.why_not_compile()):
                raise ParameterError(f"{where}.compile=True: {reason}; install g++ and python3-dev, or set it false")
    return data


def records_of(stage: str, sections: dict[str, dict]) -> dict[str, Any]:
    """The settings of a stage as the records that its notebook makes of them.

    Raises ParameterError for an unknown key, a value of another type or out of bounds; names stage, parameter and key.
    """
    chapter = chapters.declared()[stage]
    with named(f"{stage}."):
        return {name: read(chapter.record(name), sections[stage][name], name) for name in chapter.records}


def settings_of_nodes(sections: dict[str, dict]) -> dict[str, dict]:
    """The settings that decide the nodes' numbers, what a profile leaves out among them: stage → record → values."""
    found: dict[str, dict] = {"study": {"dataset": sections["study"]["dataset"]}}
    for stage in (chapters.root(), *sections["study"]["stages"]):
        own, records = parameters.of_node(stage, sections), records_of(stage, sections)
        found[stage] = {name: dataclasses.asdict(record) for name, record in records.items() if name in own}
    return found


def _all_records(sections: dict[str, dict]) -> dict[str, dict[str, Any]]:
    """Chapter → its records; those of what is run go together, as far as methods that it declares can say."""
    found, study = {stage: records_of(stage, sections) for stage in chapters.declared()}, sections["study"]
    for stage in (chapters.root(), *study["stages"], *study["chapters"]):
        for method, needed in chapters.declared()[stage].together.items():
            name, _, call = method.partition(".")
            with named(f"{stage}.{name}: "):
                getattr(found[stage][name], call)(*(found[stage][each] for each in needed))
    return found
