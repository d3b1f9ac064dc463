"""What the chapters say of themselves in papermill_params/chapters.yaml: the one place that knows them."""

import functools
import pkgutil
from collections.abc import Iterable, Mapping
from dataclasses import field
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from engine.settings.reading import FOLDER, ROOT, ParameterError, named, read_yaml
from studylib.settings import nearest, read, record

FILE = FOLDER / "chapters.yaml"
APPLIED = ("technique", "choice")  # roles of what stages may name; a choice is applied only where they do


@record
class Declared:
    """A chapter: see the head of :data:`FILE`."""

    key: str
    notebook: Path
    role: Literal["root", "technique", "choice", "table", "chapter"]
    minutes: Annotated[float, Field(gt=0)]
    records: dict[str, str] = field(default_factory=dict)
    together: dict[str, list[str]] = field(default_factory=dict)
    reads: dict[str, str] = field(default_factory=dict)
    last: bool = False
    files: str = ""
    formerly: str = ""
    extra: str = ""

    @property
    def name(self) -> str:
        """The notebook's, without its ending."""
        return self.notebook.stem

    @functools.cached_property
    def section(self) -> type:
        """The record of its section of a profile: a dictionary a parameter, empty where it is left out."""
        empty = {name: field(default_factory=dict) for name in self.records}
        return record(type(self.key, (), {"__annotations__": dict.fromkeys(self.records, dict), **empty}))

    def record(self, parameter: str) -> type:
        """The record that checks ``parameter``; raises ParameterError where studylib has none of that name."""
        try:
            return pkgutil.resolve_name(f"studylib.{self.records[parameter]}")
        except (ImportError, AttributeError) as error:
            raise ParameterError(f"{FILE.name}: {self.key}.records.{parameter}: {error}") from error


def declared() -> dict[str, Declared]:
    """Key → chapter, in the order of the file.

    Raises ParameterError for an unknown or missing key, a value of another type, or an unknown role. So it does for no
    or several roots or tables, and for a notebook that is not there.
    """
    return _declared(FILE, FILE.read_bytes())


@functools.cache
def _declared(file: Path, content: bytes) -> dict[str, Declared]:
    """What ``file`` declares while this is its ``content``: it is asked for often, and slow to read."""
    found = {}
    with named(f"{FOLDER.name}/{file.name}: "):
        for key, given in read_yaml(file).items():
            if isinstance(given, dict) and "notebook" in given:
                given = given | {"key": key, "notebook": ROOT / "notebooks" / f"{given['notebook']}.ipynb"}
            found[key] = read(Declared, given, str(key))
            if not found[key].notebook.is_file():
                raise ParameterError(f"{key}: {found[key].notebook.relative_to(ROOT)}: no such notebook")
        for role in ("root", "table"):
            if len(there := [key for key, each in found.items() if each.role == role]) != 1:
                raise ParameterError(f"expected one chapter whose role is {role}, found {there or 'none'}")
    return found


def techniques(*roles: str) -> list[str]:
    """The keys of the techniques in the order of application, or of what has one of other ``roles``."""
    return [key for key, each in declared().items() if each.role in (roles or ("technique",))]


def root(role: str = "root") -> str:
    """The key of the one chapter of that role."""
    return techniques(role)[0]


def notebooks() -> dict[str, Path]:
    """Key → notebook of each chapter; a choice is made by the notebook of another."""
    return {key: each.notebook for key, each in declared().items() if each.role != "choice"}


def check_names(given: Iterable, known: Iterable[str], what: str, formerly: Mapping[str, str] | None = None) -> None:
    """Raises ParameterError for the first not ``known``: its nearest, or its name now (``formerly``: old → new)."""
    now = {each.formerly: key for key, each in declared().items()} | {"roots": "variants"}
    now, known = now if formerly is None else formerly, list(known)
    for name in given:
        if name not in known:
            said = f"now {now[name]!r}" if name in now else f"unknown{nearest(str(name), known)}"
            raise ParameterError(f"{what} {name!r} is {said}")
