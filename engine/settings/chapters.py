"""What the chapters say of themselves in papermill_params/chapters.yaml: the one place that knows them."""

import functools
import importlib
from collections.abc import Iterable
from dataclasses import field
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from engine.settings.reading import FOLDER, ROOT, ParameterError, named, nearest, read_yaml
from studylib.settings import read, record

FILE = FOLDER / "chapters.yaml"


@record
class Declared:
    """A chapter: see the head of :data:`FILE`."""

    key: str
    notebook: Path
    role: Literal["root", "technique", "table", "chapter"]
    minutes: Annotated[float, Field(gt=0)]
    records: dict[str, str] = field(default_factory=dict)
    together: dict[str, list[str]] = field(default_factory=dict)
    reads: dict[str, str] = field(default_factory=dict)
    files: str = ""
    formerly: str = ""

    @property
    def name(self) -> str:
        """The notebook's, without its ending."""
        return self.notebook.stem

    @property
    def node(self) -> bool:
        """Whether it makes nodes of the tree."""
        return self.role in ("root", "technique")

    @functools.cached_property
    def section(self) -> type:
        """The record of its section of a profile: a dictionary a parameter, empty where it is left out."""
        empty = {name: field(default_factory=dict) for name in self.records}
        return record(type(self.key, (), {"__annotations__": dict.fromkeys(self.records, dict), **empty}))

    def record(self, parameter: str) -> type:
        """The record that checks ``parameter``.

        Raises:
            ParameterError: studylib has none of that name.
        """
        module, _, name = self.records[parameter].rpartition(".")
        try:
            return getattr(importlib.import_module(f"studylib.{module}"), name)
        except (ImportError, AttributeError) as error:
            raise ParameterError(f"{FILE.name}: {self.key}.records.{parameter}: {error}") from error


def declared() -> dict[str, Declared]:
    """Key → chapter, in the order of the file.

    Raises:
        ParameterError: a key that is unknown or missing, a value of another type, an unknown role, no or several roots
            or tables, or a notebook that is not there.
    """
    return dict(_declared(FILE, FILE.read_bytes() if FILE.exists() else b""))


@functools.cache
def _declared(file: Path, content: bytes) -> dict[str, Declared]:
    """What ``file`` declares while this is its ``content``: it is asked for often, and slow to read."""
    found = {}
    with named(f"{FOLDER.name}/{file.name}: "):
        for key, given in read_yaml(file).items():
            if isinstance(given, dict):
                file = {"notebook": ROOT / "notebooks" / f"{given['notebook']}.ipynb"} if "notebook" in given else {}
                given = given | file | {"key": key}
            found[key] = read(Declared, given, str(key))
            if not found[key].notebook.is_file():
                raise ParameterError(f"{key}: {found[key].notebook.relative_to(ROOT)}: no such notebook")
        for role in ("root", "table"):
            if len(there := [key for key, each in found.items() if each.role == role]) != 1:
                raise ParameterError(f"expected one chapter whose role is {role}, found {there or 'none'}")
    return found


def techniques(role: str = "technique") -> list[str]:
    """The keys of the chapters of a role, in the order in which they are read and applied."""
    return [key for key, each in declared().items() if each.role == role]


def root() -> str:
    return techniques("root")[0]


def table() -> str:
    return techniques("table")[0]


def minutes(keys: list[str]) -> float:
    """How long those chapters take, as they say themselves."""
    return sum(declared()[key].minutes for key in keys)


def notebooks() -> dict[str, Path]:
    """Key → notebook."""
    return {key: each.notebook for key, each in declared().items()}


def check_names(given: Iterable, known: list[str], what: str) -> None:
    """Raises ParameterError for the first that is not ``known``; names the nearest, or what a chapter is called now."""
    now = {each.formerly: key for key, each in declared().items() if each.formerly} | {"roots": "variants"}
    for name in given:
        if name not in known:
            said = f"now {now[name]!r}" if name in now else f"unknown{nearest(str(name), known)}"
            raise ParameterError(f"{what} {name!r} is {said}")
