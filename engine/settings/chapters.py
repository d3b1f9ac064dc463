"""What the chapters say of themselves in papermill_params/chapters.yaml: the one place that knows them."""

import dataclasses
import functools
import importlib
from pathlib import Path

from engine.settings.reading import FOLDER, ROOT, ParameterError, nearest, read_yaml

FILE = FOLDER / "chapters.yaml"
ROLES = ("root", "technique", "table", "chapter")


@dataclasses.dataclass(frozen=True)
class Declared:
    """A chapter: see the head of :data:`FILE`."""

    key: str
    notebook: Path
    role: str
    minutes: float
    records: dict[str, str] = dataclasses.field(default_factory=dict)
    together: dict[str, list[str]] = dataclasses.field(default_factory=dict)
    reads: dict[str, str] = dataclasses.field(default_factory=dict)
    files: str = ""

    @property
    def name(self) -> str:
        """The notebook's, without its ending."""
        return self.notebook.stem

    @property
    def node(self) -> bool:
        """Whether it makes nodes of the tree."""
        return self.role in ("root", "technique")

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
        ParameterError: a key that is unknown or missing, an unknown role, no or several roots or tables, or a notebook
            that is not there.
    """
    return dict(_declared(FILE, FILE.read_bytes() if FILE.exists() else b""))


@functools.cache
def _declared(file: Path, content: bytes) -> dict[str, Declared]:
    """What ``file`` declares while this is its ``content``: it is asked for often, and slow to read."""
    found, known = {}, [field.name for field in dataclasses.fields(Declared) if field.name != "key"]
    for key, given in read_yaml(file).items():
        where = f"{FOLDER.name}/{file.name}: {key}"
        if not isinstance(given, dict):
            raise ParameterError(f"{where}: expected {', '.join(known)}, found {given!r}")
        for name in given:
            if name not in known:
                raise ParameterError(f"{where}: {name!r} is unknown{nearest(str(name), known)}")
        if missing := [name for name in ("notebook", "role", "minutes") if name not in given]:
            raise ParameterError(f"{where}: {missing[0]} is missing")
        if given["role"] not in ROLES:
            raise ParameterError(f"{where}: role {given['role']!r}: expected one of {', '.join(ROLES)}")
        notebook = ROOT / "notebooks" / f"{given['notebook']}.ipynb"
        if not notebook.is_file():
            raise ParameterError(f"{where}: {notebook.relative_to(ROOT)}: no such notebook")
        found[key] = Declared(**given | {"key": key, "notebook": notebook})
    for role in ("root", "table"):
        if len(there := of(role, found)) != 1:
            raise ParameterError(f"{file.name}: expected one chapter whose role is {role}, found {there or 'none'}")
    return found


def of(role: str, among: dict[str, Declared] | None = None) -> list[str]:
    """The keys of the chapters of a role, in order."""
    return [key for key, each in (declared() if among is None else among).items() if each.role == role]


def root() -> str:
    return of("root")[0]


def table() -> str:
    return of("table")[0]


def minutes(keys: list[str]) -> float:
    """How long those chapters take, as they say themselves."""
    return sum(declared()[key].minutes for key in keys)


def techniques() -> list[str]:
    """In the order in which they are applied."""
    return of("technique")


def notebooks() -> dict[str, Path]:
    """Key → notebook."""
    return {key: each.notebook for key, each in declared().items()}
