"""Profiles: papermill_params/<profile>.yaml, read strictly before anything trains.

A profile has the sections ``study``, ``latency``, ``needs`` and the chapters' own. Its section ``variants`` has studies
that differ. A variant's parameter replaces the profile's whole, as a profile's replaces a notebook's.
"""

import re
from collections.abc import Iterator
from dataclasses import asdict, field
from typing import Annotated, Any, Literal

from pydantic import Field

from engine.run import code
from engine.settings.chapters import APPLIED, FILE, check_names, declared, notebooks, root, techniques
from engine.settings.reading import FOLDER, ParameterError, named, read_yaml
from studylib.settings import MOST_SEED, Batch, check_different, nearest, read, record

VARIANTS, FORMERLY, NEEDS = "variants", "formerly", "needs"
EARLY = 3  # of many seeds, those whose table is printed first
NAME = r"[a-z][a-z0-9_]*"  # of a profile or a variant
RUN = rf"{NAME}(-{NAME})?"  # of a run: profile, or profile-variant
Seed = Annotated[int, Field(ge=0, le=MOST_SEED)]


@record
class Study:
    """What is run, and on what. Where they are not given: all stages, and all chapters that need no extra."""

    dataset: str
    seeds: Annotated[list[Seed], Field(min_length=1)] = field(default_factory=lambda: [0])
    stages: list[str] = field(default_factory=techniques)
    chapters: list[str] = field(default_factory=lambda: [key for key in notebooks() if not declared()[key].extra])
    threads: Annotated[int, Field(ge=1, le=1024)] = 1
    device: Literal["auto", "cpu", "cuda"] = "auto"

    def check(self) -> None:
        check_different(self, "seeds")
        check_names(self.stages, techniques(*APPLIED), "stages:")
        if len(last := [stage for stage in self.stages if declared()[stage].last]) > 1:
            raise ValueError(f"stages={self.stages!r}: after {last[0]} nothing more can be applied, such as {last[1]}")
        check_names(self.chapters, notebooks(), "chapters:")


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


def command(run: str) -> str:
    """What is typed to go on with the run of that name."""
    return f"make study PROFILE={run.replace('-', ' VARIANT=')}"


def profiles() -> list[str]:
    return sorted(path.stem for path in FOLDER.glob("*.yaml") if path.name != FILE.name)


def variants(profile: str) -> list[str]:
    """The names of a profile's variants."""
    return sorted(_content(profile)[VARIANTS])


def load(profile: str, seeds: str = "", stages: str = "", variant: str = "") -> dict[str, dict]:
    """The sections of a profile or of its variant, complete; :mod:`.check` checks what is in a chapter's dictionaries.

    Args:
        seeds: whole numbers with spaces or commas between, in the place of the profile's own. Chapters are about the
            first; they are left out where it is another.
        stages: techniques alike, or the word none.

    Raises:
        ParameterError: an unknown section, key, stage, variant or profile (names the nearest, or its present name). A
            value of the wrong type.
    """
    content = _content(profile)
    others, where = content.pop(VARIANTS), f"{FOLDER.name}/{profile}.yaml: "
    if variant:
        check_names([variant], others, f"{where}variant", {each.get(FORMERLY): name for name, each in others.items()})
        where += f"{VARIANTS}: {variant}: "
        for name, own in others[variant].items():
            both = isinstance(content.get(name), dict) and isinstance(own, dict)
            content[name] = content[name] | own if both and name != NEEDS else own  # what it needs, it says anew
    kinds = {"study": Study, "latency": Latency, NEEDS: Needs} | {key: each.section for key, each in declared().items()}
    given = {name: {} if values is None else values for name, values in content.items() if name != FORMERLY}
    with named(where):
        check_names(given, kinds, "section")
        sections = {name: asdict(read(kind, given.get(name, {}), name)) for name, kind in kinds.items()}
        return sections | {"study": _as_asked(sections["study"], seeds, stages)}


def _content(profile: str) -> dict[str, Any]:
    """What stands in a profile's file, variants among it."""
    path = FOLDER / f"{profile}.yaml"
    if not re.fullmatch(RUN, profile) or path.name == FILE.name:
        raise ParameterError(f"profile {profile!r}: expected the name of a file in {FOLDER.name}/, such as digits")
    if not path.exists():
        now = _formerly().get(profile)
        said = f" is now {now}" if now else f": no such profile{nearest(profile, profiles())}"
        raise ParameterError(f"profile {profile!r}{said}")
    content = read_yaml(path)
    content[VARIANTS] = content.get(VARIANTS) or {}
    for name, sections in content[VARIANTS].items() if isinstance(content[VARIANTS], dict) else [(VARIANTS, None)]:
        if not re.fullmatch(NAME, str(name)) or not isinstance(sections, dict):
            raise ParameterError(f"{FOLDER.name}/{path.name}: {name}: expected a name and its sections")
    return content


def _runs() -> Iterator[tuple[str, str, dict]]:
    """How each run is asked for, the name of its folder, and its own sections."""
    for profile in profiles():
        content = _content(profile)
        yield f"PROFILE={profile}", run_name(profile), content
        for variant, sections in content[VARIANTS].items():
            yield f"PROFILE={profile} VARIANT={variant}", run_name(profile, variant), sections


def _formerly() -> dict[str, str]:
    """What a study was called, or is called as a run → how it is asked for now."""
    found = {}
    for now, run, sections in _runs():
        profile, before = run.split("-")[0], sections.get(FORMERLY)
        found |= dict.fromkeys([before, run if "-" in run else f"{run}-{run}", f"{profile}-{before}"], now)
    return found


def _as_asked(study: dict, seeds: str, stages: str) -> dict:
    """The section study with other seeds and stages, these in their order, and without chapters that have no nodes."""
    asked: dict[str, list] = {}
    if words := _words(seeds):
        if not all(map(str.isdecimal, words)):
            raise ParameterError(f"seeds {seeds!r}: expected whole numbers, such as '0 1 2'")
        asked["seeds"] = list(map(int, words))
        if asked["seeds"][0] != study["seeds"][0]:  # chapters are about the first: another's would take their place
            asked["chapters"] = []
    if words := _words(stages):
        asked["stages"] = [] if words == ["none"] else words
    study = asdict(read(Study, study | asked, "study"))
    study["stages"] = [stage for stage in techniques(*APPLIED) if stage in study["stages"]]
    without = {*techniques(), root("table")} if not study["stages"] else {*techniques()} - {*study["stages"]}
    return study | {"chapters": [key for key in study["chapters"] if key not in without]}


def chapters(sections: dict[str, dict], chosen: str) -> list[str]:
    """The chapters that ``chosen`` names by number, notebook or key, those with an extra too; else the profile's.

    Raises ParameterError for a word that is no chapter, or for a chapter outside the profile; names those inside.
    """
    study, found = sections["study"], []
    has = {k: each for k, each in declared().items() if k in study["chapters"] or (each.extra and study["chapters"])}
    spelled = {each: key for key, path in notebooks().items() for each in (key, path.stem, path.stem[:2])}
    keys = {word: spelled.get(word) or spelled.get(word.zfill(2)) for word in _words(chosen)}
    if not has:
        also = "".join(map(_elsewhere, keys.values()))
        raise ParameterError(f"chapters {chosen!r}: none is run; study.chapters is empty, or SEEDS begins later{also}")
    for word, key in keys.items():
        if key not in has:
            stages, known = (", ".join(x) or "none" for x in (study["stages"], [each.name for each in has.values()]))
            said = f"expected one that is run with the stages {stages}: {known}{_elsewhere(key)}"
            raise ParameterError(f"chapter {word!r}: {said}")
        found.append(key)
    study["chapters"] = list(dict.fromkeys([*study["chapters"], *found]))
    return list(dict.fromkeys(found)) or study["chapters"]


def _elsewhere(key: str | None) -> str:
    """Which runs have that chapter, as a sentence's end; nothing for a technique's, which STAGES decides on."""
    runs = [now for now, _, run in _runs() if key in (run.get("study") or {}).get("chapters", [])]
    return f"; {declared()[key].name} is run by {' and by '.join(runs)}" if runs and key not in techniques() else ""


def of_node(stage: str, sections: dict[str, dict]) -> dict:
    """The parameters of a stage's section that its node, and not only its chapter, uses."""
    used = code.names(declared()[stage].notebook, lesson=False)
    return {name: value for name, value in sections[stage].items() if name in used}


def _words(text: str) -> list[str]:
    return str(text).replace(",", " ").split()
