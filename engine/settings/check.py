"""Holds a profile's settings against the records that will use them, before anything trains."""

import dataclasses
import functools
from typing import Any

from engine.run import code
from engine.settings import chapters, parameters
from engine.settings.reading import ParameterError, named
from studylib.settings import MOST_SEED, read

REPEATED = ("seeds", "repetitions")  # of a record: how many seeds it runs, from the study's on
RECIPE = "recipe"


def data_of(sections: dict[str, dict]) -> str:
    """What the images of the study are, in one word: another where one pixel or label is another."""
    from studylib.data import datasets

    return f"sha256-{datasets.load(sections['study']['dataset'], 0).digest}"


def check_values(sections: dict[str, dict]) -> str:
    """Raises ParameterError for a setting that a chapter would refuse, perhaps hours later; loads the data to know.

    Every section goes into its records, those of all variants too; those of what is run are then held against the
    data. Networks are built without memory for their weights. Returns :func:`data_of` the sections.
    """
    import torch  # three seconds

    from studylib.data import datasets

    study, split = sections["study"], functools.cache(datasets.load)
    if study["device"] == "cuda" and not torch.cuda.is_available():
        raise ParameterError("study.device='cuda': this machine has no CUDA device; use auto or cpu")
    with named("study: "):
        split(study["dataset"], study["seeds"][0])
    for stage, records in _fitting(sections).items():
        own = parameters.of_node(stage, sections) if stage in (chapters.root(), *study["stages"]) else {}
        shown = stage in study["chapters"]
        for name, record in records.items() if own or shown else ():
            with named(f"{stage}.{name}"):
                if (shown or name in own) and hasattr(record, "against"):
                    several = name in own and code.of_files(own)  # a published file serves its own seed alone
                    for seed in study["seeds"] if several else study["seeds"][:1]:
                        with named(": "):
                            record.against(split(study["dataset"], seed))
                if shown:
                    _check_shown(name, record, study["seeds"][0])
                if getattr(record, "compile", False) is True:
                    from studylib.networks import cost  # two seconds of import

                    if reason := cost.why_not_compile():
                        raise ValueError(f".compile=True: {reason}; install g++ and python3-dev, or set it false")
    for name, variant in sections[parameters.VARIANTS].items():
        with named(f"{parameters.VARIANTS}: {name}: "):
            _fitting(variant)
    return data_of(sections)


def records_of(stage: str, sections: dict[str, dict]) -> dict[str, Any]:
    """The settings of a stage as the records that its notebook makes of them.

    Raises:
        ParameterError: an unknown key, a value of another type or out of bounds; names stage, parameter and key.
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


def _fitting(sections: dict[str, dict]) -> dict[str, dict[str, Any]]:
    """Chapter → its records; those of what is run go together, as far as methods that it declares can say."""
    found, study = {stage: records_of(stage, sections) for stage in chapters.declared()}, sections["study"]
    for stage in (chapters.root(), *study["stages"], *study["chapters"]):
        for method, needed in chapters.declared()[stage].together.items():
            name, _, call = method.partition(".")
            with named(f"{stage}.{name}: "):
                getattr(found[stage][name], call)(*(found[stage][each] for each in needed))
    return found


def _check_shown(name: str, record: Any, first: int) -> None:
    """Refuses what a chapter cannot show: a recipe without epochs, seeds that no split can be drawn by."""
    if name == RECIPE and record.epochs == 0:
        raise ValueError(".epochs=0: expected at least 1 where its chapter, which shows it, is run")
    for repeated in REPEATED:
        value = getattr(record, repeated, None)
        if isinstance(value, int) and first + value - 1 > MOST_SEED:
            said = f"they are of the seeds from {first} on, expected at most {MOST_SEED} for the last"
            raise ValueError(f".{repeated}={value!r}: {said}")
