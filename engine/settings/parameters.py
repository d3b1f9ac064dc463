"""Profiles: papermill_params/<profile>.yaml, read strictly and held against the notebooks before anything trains.

A profile has the sections ``study``, ``latency``, ``needs`` and the chapters' own. Its section ``variants`` has studies
that differ: a parameter that a variant gives replaces the profile's whole, as a profile's replaces a notebook's.
"""

import dataclasses
import functools
import re
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

from engine.run import code
from engine.settings import chapters as declarations
from engine.settings.chapters import declared, notebooks, techniques
from engine.settings.reading import FOLDER, ROOT, ParameterError, named, nearest, read_yaml
from studylib.settings import MOST_SEED, Batch, read, record

EARLY = 3  # seeds whose table is printed first
VARIANTS, FORMERLY = "variants", "formerly"
COMMON = {"out", "study", "published"}
HANDED = {  # role → the parameters that the engine sets, so that no profile can
    "root": COMMON | {"reuse"},
    "technique": COMMON | {"parent", "reuse"},
    "table": COMMON | {"run", "profile", "seeds", "stages"},
    "chapter": COMMON,
}
Seed = Annotated[int, Field(ge=0, le=MOST_SEED)]


@record
class Study:
    """What is run, and on what. Chapters and stages that are not given are all of them."""

    dataset: str
    seeds: Annotated[list[Seed], Field(min_length=1)] = dataclasses.field(default_factory=lambda: [0])
    stages: list[str] = dataclasses.field(default_factory=techniques)
    chapters: list[str] = dataclasses.field(default_factory=lambda: list(notebooks()))
    threads: Annotated[int, Field(ge=1, le=1024)] = 1
    device: Literal["auto", "cpu", "cuda"] = "auto"

    def check(self) -> None:
        if len(set(self.seeds)) != len(self.seeds):
            raise ValueError(f"seeds={self.seeds}: expected different ones")
        declarations.check_names(self.stages, techniques(), "stages:")
        declarations.check_names(self.chapters, list(notebooks()), "chapters:")


@record
class Latency:
    """How the time of a forward pass of each node is taken."""

    batch: Batch = 64
    repeats: Annotated[int, Field(ge=1, le=10_000)] = 20
    compiled: bool = True


@record
class Needs:
    """What a study takes, for who chooses one; 0 where that is not said."""

    cores: Annotated[int, Field(ge=0, le=1024)] = 0
    hours: Annotated[float, Field(ge=0, le=10_000)] = 0
    gpu: bool = False


RECORDS = {"study": Study, "latency": Latency, "needs": Needs}


def run_name(profile: str, variant: str = "") -> str:
    """The folder below runs/, and the name by which a run is compared and published."""
    return f"{profile}-{variant}" if variant else profile


def variants(profile: str) -> list[str]:
    """The names of a profile's variants."""
    return sorted(_content(profile).get(VARIANTS) or {})


def needs(sections: dict[str, dict]) -> str:
    """What a study takes, in words; empty where its profile does not say."""
    cores, hours, gpu = sections["needs"].values()
    words = {"a GPU": gpu, f"{cores} core{'s' if cores > 1 else ''}": cores, f"{hours:g} hours": hours}
    return ", ".join(word for word, said in words.items() if said)


def load(profile: str, seeds: str = "", stages: str = "", variant: str = "") -> dict[str, dict]:
    """The sections of a profile or of its variant, complete; :mod:`.check` checks what is in a chapter's dictionaries.

    Args:
        seeds: whole numbers with spaces or commas between, in the place of the profile's own; chapters, which are about
            the first, are left out where another is.
        stages: techniques alike, or the word none.

    Returns:
        section → its values; "variants" → name → the sections of each variant.

    Raises:
        ParameterError: an unknown section, key, stage, variant or profile (names the nearest, or what it is called
            now); a value of the wrong type.
    """
    content, where, found = _content(profile), f"{FOLDER.name}/{profile}.yaml: ", {}
    given = content.pop(VARIANTS, None) or {}
    _check_notebooks()
    with named(where):
        found[""] = _complete(content)
    with named(f"{where}{VARIANTS}: "):
        for name, sections in given.items() if isinstance(given, dict) else [(given, None)]:
            if not re.fullmatch(r"[a-z][a-z0-9_]*", str(name)) or not isinstance(sections, dict):
                raise ParameterError(f"{name}: expected a name and its sections, found {sections!r}")
            with named(f"{name}: "):
                found[name] = _complete(_merged(content, sections))
    if variant not in found:
        formerly = {sections.get(FORMERLY): f"now {name!r}" for name, sections in given.items()}
        known = "unknown" + nearest(variant, [name for name in found if name])
        raise ParameterError(f"{where}variant {variant!r} is {formerly.get(variant, known)}")
    for name, each in found.items():
        each["study"] = _as_asked(each["study"], *((seeds, stages) if name == variant else ("", "")))
    return found[variant] | {VARIANTS: {name: each for name, each in found.items() if name}}


def _content(profile: str) -> dict[str, Any]:
    """What stands in a profile's file; raises ParameterError where there is none, and says what a former one is now."""
    path = FOLDER / f"{profile}.yaml"
    if not re.fullmatch(r"[a-z][a-z0-9_]*", profile) or path.name == declarations.FILE.name:
        raise ParameterError(f"profile {profile!r}: expected the name of a file in {FOLDER.name}/, such as digits")
    if path.exists():
        return read_yaml(path)
    others = {each.stem: read_yaml(each) for each in FOLDER.glob("*.yaml") if each.name != declarations.FILE.name}
    for name, content in others.items():
        for variant, sections in {"": content, **(content.get(VARIANTS) or {})}.items():
            if isinstance(sections, dict) and sections.get(FORMERLY) == profile:
                now = f"PROFILE={name} VARIANT={variant}" if variant else f"PROFILE={name}"
                raise ParameterError(f"profile {profile!r} is now {now}")
    raise ParameterError(f"{FOLDER.name}/{path.name}: no such profile{nearest(profile, sorted(others))}")


def _merged(content: dict, variant: dict) -> dict:
    """A profile's sections with a variant's over them, parameter by parameter; what it needs is said anew."""
    merged = content | variant
    for section in (set(content) & set(variant)) - {"needs"}:
        if isinstance(content[section], dict) and isinstance(variant[section], dict):
            merged[section] = content[section] | variant[section]
    return merged


def _complete(content: dict) -> dict[str, dict]:
    """All sections with all parameters; a record that is left out is empty: its defaults count, not a notebook's."""
    content = {name: {} if values is None else values for name, values in content.items() if name != FORMERLY}
    kinds = RECORDS | {key: chapter.section for key, chapter in declared().items()}
    declarations.check_names(content, list(kinds), "section")
    for key, chapter in declared().items():
        for name in content.get(key, ()) if isinstance(content.get(key), dict) else ():
            if name in chapter.reads or any(name in handed for handed in HANDED.values()):
                raise ParameterError(f"{key}.{name}: the engine sets it; see the section study")
    return {name: dataclasses.asdict(read(kind, content.get(name, {}), name)) for name, kind in kinds.items()}


def _as_asked(study: dict, seeds: str, stages: str) -> dict:
    """The section study with other seeds and stages, these in their order, and without chapters that have no nodes."""
    asked = {}
    if words := _words(seeds):
        if not all(re.fullmatch(r"\d+", word) for word in words):
            raise ParameterError(f"seeds {seeds!r}: expected whole numbers, such as '0 1 2'")
        asked["seeds"] = [int(word) for word in words]
        if asked["seeds"][0] != study["seeds"][0]:
            asked["chapters"] = []  # they are about the first seed: another's would take their place
    if words := _words(stages):
        asked["stages"] = [] if words == ["none"] else words
    with named(""):
        study = dataclasses.asdict(read(Study, study | asked, "study"))
    study["stages"] = [stage for stage in techniques() if stage in study["stages"]]
    return study | {"chapters": [key for key in study["chapters"] if not _left_out(key, study["stages"])]}


def chapters(sections: dict[str, dict], chosen: str) -> list[str]:
    """The stages whose chapters ``chosen`` names by number, by notebook or by stage; all of the profile's where empty.

    Raises:
        ParameterError: a word that is no chapter, or one that the profile does not run; names those that it does.
    """
    has, files, found = sections["study"]["chapters"], notebooks(), []
    for word in _words(chosen):
        same = [s for s, path in files.items() if word in (s, path.stem, path.stem[:2], path.stem[:2].lstrip("0"))]
        if not same or same[0] not in has:
            known = ", ".join(files[stage].stem for stage in files if stage in has) or "none (study.chapters)"
            why = _left_out(same[0], sections["study"]["stages"]) if same else ""
            raise ParameterError(f"chapter {word!r}: {why}expected one that the profile runs: {known}")
        found += same
    if not has:
        raise ParameterError("chapters: none is run; study.chapters of the profile or variant says which, or SEEDS")
    return list(dict.fromkeys(found)) or [stage for stage in files if stage in has]


def _left_out(key: str, stages: list[str]) -> str:
    """Why ``stages`` have nothing for a chapter, as the middle of a message; empty: they have."""
    role = declared()[key].role
    if role == "technique" and key not in stages:
        return f"{key} is not among the stages ({', '.join(stages) or 'none'}); "
    return "it is of combinations, and without stages there are none; " if role == "table" and not stages else ""


def early_seeds(sections: dict[str, dict]) -> list[int]:
    """The first seeds of a study of many, whose table is printed before the others are trained; else none."""
    seeds = sections["study"]["seeds"]
    return seeds[:EARLY] if len(seeds) > EARLY else []


def early_nodes(sections: dict[str, dict], run: Path) -> list[str]:
    """The files that Snakemake is to make first, below the study's folder: [] once all of them are there."""
    from studylib.tree import names

    nodes = names.nodes(sections["study"]["stages"])
    files = [run / f"seed{s}" / node / names.METRICS for s in early_seeds(sections) for node in nodes]
    return [] if all(file.exists() for file in files) else [file.relative_to(ROOT).as_posix() for file in files]


def of_node(stage: str, sections: dict[str, dict]) -> dict:
    """The parameters of a stage's section that its node, and not only its chapter, uses."""
    used = code.names(notebooks()[stage], lesson=False)
    return {name: value for name, value in sections[stage].items() if name in used}


def _check_notebooks() -> None:
    """Every notebook must take what the engine hands it, and declare a record for each of its dictionaries."""
    for chapter in declared().values():
        types, where = types_of(chapter.notebook), chapter.notebook.relative_to(ROOT)
        if missing := sorted((HANDED[chapter.role] | set(chapter.reads)) - set(types)):
            raise ParameterError(f"{where}: its parameters cell must have {missing[0]!r}")
        dictionaries = {name for name, kind in types.items() if kind == "dict"} - {"study"}
        if differ := sorted(dictionaries ^ set(chapter.records)):
            expected = f"expected a dictionary there and a record of it in {declarations.FILE.name}"
            raise ParameterError(f"{where}: {differ[0]}: {expected}")


@functools.cache
def types_of(notebook: Path) -> dict[str, str]:
    """Parameter → type name, from the notebook's parameters cell."""
    from papermill import inspect_notebook

    if not (found := inspect_notebook(str(notebook))):
        raise ParameterError(f"{notebook.relative_to(ROOT)}: it has no cell tagged parameters")
    return {name: about["inferred_type_name"] for name, about in found.items()}


def _words(text: str) -> list[str]:
    return str(text).replace(",", " ").split()
