"""Profiles: papermill_params/<profile>.yaml, read strictly and held against the notebooks before anything trains."""

import ast
import functools
import re
from pathlib import Path

from engine.run import code
from engine.settings import chapters as declarations
from engine.settings.chapters import declared, notebooks
from engine.settings.reading import FOLDER, ROOT, ParameterError, nearest, read_yaml

MOST_SEED = 2**32 - 1  # the most that scikit-learn's draws take
EARLY = 3  # seeds whose table is printed first
ROOTS = "roots"  # the section of other teachers: name → parameters in which they differ
STUDY = {
    "dataset": "str",
    "device": "str",
    "seeds": "list[int]",
    "stages": "list[str]",
    "threads": "int",
    "lessons": "bool",
    "chapters": "list[str]",
}
LATENCY = {"batch": "int", "repeats": "int", "compiled": "bool"}
FROM_ENGINE = {"out", "study", "published", "run", "seeds", "stages", "profile", "parent", "reuse"}


def run_name(profile: str, root: str = "") -> str:
    """The folder below runs/, and the name by which a run is compared and published."""
    return f"{profile}-{root}" if root else profile


def roots(profile: str) -> list[str]:
    """The names of the other teachers of a profile's section ``roots``."""
    return sorted(read_yaml(FOLDER / f"{profile}.yaml").get(ROOTS) or {})


variants = roots  # by the word that takes its place


def load(profile: str, seeds: str = "", chosen: str = "", root: str = "") -> dict[str, dict]:
    """The profile's sections, complete; their keys and types are checked, and dictionaries by :mod:`.check`.

    Args:
        seeds: whole numbers with spaces or commas between, in the place of the profile's own; chapters, which are about
            the first, are left out where another is.
        chosen: techniques alike, or the word none.
        root: the teacher of that name in the section roots, in the place of the profile's own; chapters are left out.

    Raises:
        ParameterError: an unknown section, key, stage, root or profile (names the nearest); a value of the wrong type.
    """
    path = FOLDER / f"{profile}.yaml"
    if not re.fullmatch(r"[a-z][a-z0-9_]*", profile) or path == declarations.FILE:
        raise ParameterError(f"profile {profile!r}: expected the name of a file in {FOLDER.name}/, such as digits")
    content = read_yaml(path)
    where = f"{FOLDER.name}/{profile}.yaml"
    files, root_key, techniques = notebooks(), declarations.root(), declarations.techniques()
    known = {"study": STUDY, "latency": LATENCY}
    roots = content.pop(ROOTS, None) or {}
    _check_names(content, [*known, *files], f"{where}: section")
    for section, values in content.items():
        if not isinstance(values, dict | None):
            raise ParameterError(f"{where}: {section}: expected key: value lines, found {values!r}")
        taken = sorted(set(values or {}) & _from_engine(section)) if section not in known else []
        if taken:
            raise ParameterError(f"{where}: {section}.{taken[0]}: the engine sets it; see the section study")
        types = known[section] if section in known else types_of(files[section])
        _check(values or {}, types, f"{where}: {section}")
    teachers = _check_roots(roots, types_of(files[root_key]), f"{where}: {ROOTS}")
    if root not in ("", *teachers):
        raise ParameterError(f"root {root!r}: unknown{nearest(root, list(teachers))}; see {ROOTS} in {where}")
    _check_notebooks(files)
    study = {
        "device": "auto",
        "threads": 1,
        "seeds": [0],
        "stages": techniques,
        "lessons": True,
        "chapters": list(files),
        **(content.get("study") or {}),
    }
    if words := _words(seeds):
        if not all(re.fullmatch(r"\d+", word) for word in words):
            raise ParameterError(f"seeds {seeds!r}: expected whole numbers, such as '0 1 2'")
        first, study["seeds"] = study["seeds"][:1], [int(word) for word in words]
        if study["seeds"][:1] != first:  # chapters are about the first seed: another's would take their place
            study["chapters"] = []
    if words := _words(chosen):
        study["stages"] = [] if words == ["none"] else words
    for stage in study["stages"]:
        if stage not in techniques:
            raise ParameterError(f"stage {stage!r}: unknown{nearest(stage, techniques)}")
    study["stages"] = [stage for stage in techniques if stage in study["stages"]]
    for chapter in study["chapters"]:
        if chapter not in files:
            raise ParameterError(f"{where}: study.chapters: {chapter!r} is unknown{nearest(chapter, list(files))}")
    if root or not study["lessons"]:
        study["chapters"] = []
    study["chapters"] = [key for key in study["chapters"] if not _left_out(key, study["stages"])]
    study["lessons"] = bool(study["chapters"])
    if "dataset" not in study:
        raise ParameterError(f"{where}: study.dataset is missing: expected the name of a data set, such as digits")
    asked = study["seeds"]
    if not asked or len(set(asked)) != len(asked) or not 0 <= min(asked) <= max(asked) <= MOST_SEED:
        raise ParameterError(f"study.seeds={asked}: expected different whole numbers from 0 to {MOST_SEED}")
    if study["threads"] < 1:
        raise ParameterError(f"{where}: study.threads={study['threads']}: expected at least 1")
    latency = {"batch": 64, "repeats": 20, "compiled": True, **(content.get("latency") or {})}
    sections = {stage: dict(content.get(stage) or {}) for stage in files} | {"study": study, "latency": latency}
    own = {name: sections[root_key] | values for name, values in teachers.items()}
    return sections | {root_key: own.get(root, sections[root_key]), ROOTS: own}


def chapters(sections: dict[str, dict], chosen: str) -> list[str]:
    """The stages whose chapters ``chosen`` names by number, by notebook or by stage; all of the profile's where empty.

    Raises:
        ParameterError: a word that is no chapter, or one that the profile does not run; names those that it does.
    """
    has, files, found = sections["study"]["chapters"], notebooks(), []
    for word in _words(chosen):
        same = [s for s, path in files.items() if word in (s, path.stem, path.stem[:2], path.stem[:2].lstrip("0"))]
        if not same or same[0] not in has:
            known = ", ".join(files[stage].stem for stage in files if stage in has) or "none (lessons: false?)"
            why = _left_out(same[0], sections["study"]["stages"]) if same else ""
            raise ParameterError(f"chapter {word!r}: {why}expected one that the profile runs: {known}")
        found += same
    if not has:
        raise ParameterError("chapters: the profile runs none (study.lessons, study.chapters, SEEDS and ROOT decide)")
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
    return {name: value for name, value in complete(stage, sections).items() if name in used}


def complete(stage: str, sections: dict[str, dict]) -> dict:
    """A stage's section; a record that it leaves out is empty: its defaults count, not the notebook's own values."""
    plain = {name: value for name, value in defaults_of(notebooks()[stage]).items() if not isinstance(value, dict)}
    plain = {name: value for name, value in plain.items() if name not in _from_engine(stage)}
    return plain | {name: {} for name in declared()[stage].records} | sections[stage]


def _from_engine(stage: str) -> set[str]:
    """What the engine sets, so that no profile can."""
    return FROM_ENGINE | set(declared()[stage].reads)


def _check_roots(roots: dict, types: dict[str, str], where: str) -> dict[str, dict]:
    if not isinstance(roots, dict):
        raise ParameterError(f"{where}: expected a name and its parameters, found {roots!r}")
    for name, values in roots.items():
        if not re.fullmatch(r"[a-z][a-z0-9_]*", str(name)) or not isinstance(values, dict):
            raise ParameterError(f"{where}: {name}: expected a name and key: value pairs, found {values!r}")
        if taken := sorted(set(values) & FROM_ENGINE):
            raise ParameterError(f"{where}: {name}.{taken[0]}: the engine sets it; see the section study")
        _check(values, types, f"{where}: {name}")
    return roots


def _check_notebooks(files: dict[str, Path]) -> None:
    """Every notebook must take what the engine hands it, and declare a record for each of its dictionaries."""
    handed = {
        "root": {"reuse"},
        "technique": {"parent", "reuse"},
        "table": {"run", "profile", "seeds", "stages"},
        "chapter": set(),
    }
    for key, chapter in declared().items():
        types, where = types_of(files[key]), files[key].relative_to(ROOT)
        for name in sorted({"out", "study", "published"} | handed[chapter.role] | set(chapter.reads)):
            if name not in types:
                raise ParameterError(f"{where}: its parameters cell must have {name!r}")
        dictionaries = {name for name, kind in types.items() if kind == "dict"} - {"study"}
        if differ := sorted(dictionaries ^ set(chapter.records)):
            raise ParameterError(
                f"{where}: {differ[0]}: expected a dictionary there and a record of it in {declarations.FILE.name}"
            )


def _words(text: str) -> list[str]:
    return str(text).replace(",", " ").split()


def types_of(notebook: Path) -> dict[str, str]:
    """Parameter → type name, from the notebook's parameters cell."""
    return {name: about["inferred_type_name"] for name, about in _inspected(notebook).items()}


def defaults_of(notebook: Path) -> dict:
    """Parameter → the value that it has in the notebook's parameters cell."""
    return {name: ast.literal_eval(about["default"]) for name, about in _inspected(notebook).items()}


@functools.cache
def _inspected(notebook: Path) -> dict[str, dict]:
    from papermill import inspect_notebook

    found = inspect_notebook(str(notebook))
    if not found:
        raise ParameterError(f"{notebook.relative_to(ROOT)}: it has no cell tagged parameters")
    return found


def _check(values: dict, types: dict[str, str], where: str) -> None:
    _check_names(values, list(types), where)
    for name, value in values.items():
        if not _fits(value, types[name]):
            raise ParameterError(f"{where}.{name}: found {value!r} ({type(value).__name__}), expected {types[name]}")


def _check_names(values: dict, known: list[str], where: str) -> None:
    for name in values:
        if name not in known:
            raise ParameterError(f"{where}: {name!r} is unknown{nearest(str(name), known)}")


def _fits(value, kind: str) -> bool:
    if kind.startswith("list[") and kind.endswith("]"):
        return isinstance(value, list) and all(_fits(item, kind[5:-1]) for item in value)
    if kind == "float":
        return isinstance(value, int | float) and not isinstance(value, bool)
    if kind == "int":
        return isinstance(value, int) and not isinstance(value, bool)
    return type(value).__name__ == kind
