"""Profiles: papermill_params/<profile>.yaml, read strictly and held against the notebooks before anything trains.

A profile has the sections ``study``, ``latency``, ``needs`` and the chapters' own. Its section ``variants`` has studies
that differ. A variant's parameter replaces the profile's whole, as a profile's replaces a notebook's.
"""

import functools
import re
from dataclasses import asdict, field
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

from engine.run import code
from engine.settings.chapters import FILE, check_names, declared, notebooks, table, techniques
from engine.settings.reading import FOLDER, ROOT, ParameterError, named, read_yaml
from studylib.settings import MOST_SEED, Batch, check_different, nearest, read, record

EARLY = 3  # seeds whose table is printed first
VARIANTS, FORMERLY = "variants", "formerly"
NAME = re.compile(r"[a-z][a-z0-9_]*")  # of a profile or a variant
COMMON = {"out", "study", "published"}
HANDED = {  # role → the parameters that the engine alone sets, never a profile
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
    seeds: Annotated[list[Seed], Field(min_length=1)] = field(default_factory=lambda: [0])
    stages: list[str] = field(default_factory=techniques)
    chapters: list[str] = field(default_factory=lambda: list(notebooks()))
    threads: Annotated[int, Field(ge=1, le=1024)] = 1
    device: Literal["auto", "cpu", "cuda"] = "auto"

    def check(self) -> None:
        check_different(self, "seeds")
        check_names(self.stages, techniques(), "stages:")
        check_names(self.chapters, list(notebooks()), "chapters:")


@record
class Latency:
    """How the time of a forward pass of each node is taken."""

    batch: Batch = 64
    repeats: Annotated[int, Field(ge=1, le=10_000)] = 20
    compiled: bool = True


@record
class Needs:
    """What a study takes, to choose one by; 0 where that is not said."""

    cores: Annotated[int, Field(ge=0, le=1024)] = 0
    hours: Annotated[float, Field(ge=0, le=10_000)] = 0
    gpu: bool = False


def run_name(profile: str, variant: str = "") -> str:
    """The folder below runs/, and the name by which a run is compared and published."""
    return f"{profile}-{variant}" if variant else profile


def variants(profile: str) -> list[str]:
    """The names of a profile's variants."""
    return sorted(_content(profile).get(VARIANTS) or {})


def load(profile: str, seeds: str = "", stages: str = "", variant: str = "") -> dict[str, dict]:
    """The sections of a profile or of its variant, complete; :mod:`.check` checks what is in a chapter's dictionaries.

    Args:
        seeds: whole numbers with spaces or commas between, in the place of the profile's own. Chapters are about the
            first; they are left out where it is another.
        stages: techniques alike, or the word none.

    Returns:
        section → its values; "variants" → name → the sections of each variant.

    Raises:
        ParameterError: an unknown section, key, stage, variant or profile (names the nearest, or its present name). A
            value of the wrong type.
    """
    content, where = _content(profile), f"{FOLDER.name}/{profile}.yaml: "
    given = content.pop(VARIANTS, None) or {}
    _check_notebooks()
    with named(where):
        found = {"": _complete(content)}
    with named(f"{where}{VARIANTS}: "):
        for name, sections in given.items() if isinstance(given, dict) else [(given, None)]:
            if not NAME.fullmatch(str(name)) or not isinstance(sections, dict):
                raise ParameterError(f"{name}: expected a name and its sections, found {sections!r}")
            both = [key for key in sections if isinstance(content.get(key), dict) and isinstance(sections[key], dict)]
            over = {key: content[key] | sections[key] for key in both if key != "needs"}  # what it needs, it says anew
            with named(f"{name}: "):
                found[name] = _complete(content | sections | over)
    formerly = {sections.get(FORMERLY): name for name, sections in given.items()}
    check_names([variant] if variant else [], [name for name in found if name], f"{where}variant", formerly)
    for name, each in found.items():
        each["study"] = _as_asked(each["study"], *((seeds, stages) if name == variant else ("", "")))
    return found[variant] | {VARIANTS: {name: each for name, each in found.items() if name}}


def _content(profile: str) -> dict[str, Any]:
    """What stands in a profile's file."""
    path = FOLDER / f"{profile}.yaml"
    if not NAME.fullmatch(profile.replace("-", "_", 1)) or path.name == FILE.name:
        raise ParameterError(f"profile {profile!r}: expected the name of a file in {FOLDER.name}/, such as digits")
    if path.exists():
        return read_yaml(path)
    others = {each.stem: read_yaml(each) for each in FOLDER.glob("*.yaml") if each.name != FILE.name}
    for name, content in others.items():
        variants = content.get(VARIANTS)  # of another profile: checked where that is run
        for variant, sections in {"": content, **(variants if isinstance(variants, dict) else {})}.items():
            before = sections.get(FORMERLY) if isinstance(sections, dict) else None
            if profile in (before, f"{name}-{variant or name}", f"{name}-{before}"):
                now = f"PROFILE={name} VARIANT={variant}" if variant else f"PROFILE={name}"
                raise ParameterError(f"profile {profile!r} is now {now}")
    raise ParameterError(f"{FOLDER.name}/{path.name}: no such profile{nearest(profile, sorted(others))}")


def _complete(content: dict) -> dict[str, dict]:
    """All sections with all parameters; a record that is left out is empty: its defaults count, not a notebook's."""
    content = {name: {} if values is None else values for name, values in content.items() if name != FORMERLY}
    kinds = {"study": Study, "latency": Latency, "needs": Needs} | {
        key: each.section for key, each in declared().items()
    }
    check_names(content, list(kinds), "section")
    for key, chapter in declared().items():
        for name in content[key] if isinstance(content.get(key), dict) else ():
            if name in set(chapter.reads).union(*HANDED.values()):
                raise ParameterError(f"{key}.{name}: the engine sets it; see the section study")
    return {name: asdict(read(kind, content.get(name, {}), name)) for name, kind in kinds.items()}


def _as_asked(study: dict, seeds: str, stages: str) -> dict:
    """The section study with other seeds and stages, these in their order, and without chapters that have no nodes."""
    asked = {}
    if words := _words(seeds):
        if not all(re.fullmatch(r"\d+", word) for word in words):
            raise ParameterError(f"seeds {seeds!r}: expected whole numbers, such as '0 1 2'")
        asked["seeds"] = [int(word) for word in words]
        if asked["seeds"][0] != study["seeds"][0]:  # chapters are about the first: another's would take their place
            asked["chapters"] = []
    if words := _words(stages):
        asked["stages"] = [] if words == ["none"] else words
    with named(""):
        study = asdict(read(Study, study | asked, "study"))
    study["stages"] = [stage for stage in techniques() if stage in study["stages"]]
    return study | {"chapters": [key for key in study["chapters"] if not _left_out(key, study["stages"])]}


def chapters(sections: dict[str, dict], chosen: str) -> list[str]:
    """The stages whose chapters ``chosen`` names by number, by notebook or by stage; all of the profile's where empty.

    Raises ParameterError for a word that is no chapter, or for a chapter outside the profile; names those inside.
    """
    has, found = [key for key in declared() if key in sections["study"]["chapters"]], []
    for word in _words(chosen):
        number = word.zfill(2)
        same = [key for key, each in declared().items() if word in (key, each.name) or number == each.name[:2]]
        if not same or same[0] not in has:
            known = ", ".join(declared()[key].name for key in has) or "none (study.chapters)"
            why = _left_out(same[0], sections["study"]["stages"]) if same else ""
            raise ParameterError(f"chapter {word!r}: {why}expected one that the profile runs: {known}")
        found += same
    if not has:
        raise ParameterError("chapters: none is run; study.chapters of the profile or variant says which, or SEEDS")
    return list(dict.fromkeys(found)) or has


def _left_out(key: str, stages: list[str]) -> str:
    """Why ``stages`` have nothing for a chapter, as the middle of a message; empty: they have."""
    if key in techniques() and key not in stages:
        return f"{key} is not among the stages ({', '.join(stages) or 'none'}); "
    return "" if stages or key != table() else "it is of combinations, and without stages there are none; "


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
            raise ParameterError(f"{where}: {differ[0]}: expected a dictionary there and a record of it in {FILE.name}")


@functools.cache
def types_of(notebook: Path) -> dict[str, str]:
    """Parameter → type name, from the notebook's parameters cell."""
    from papermill import inspect_notebook

    if not (found := inspect_notebook(str(notebook))):
        raise ParameterError(f"{notebook.relative_to(ROOT)}: it has no cell tagged parameters")
    return {name: about["inferred_type_name"] for name, about in found.items()}


def _words(text: str) -> list[str]:
    return str(text).replace(",", " ").split()
