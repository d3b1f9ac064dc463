"""Which code of studylib numbers stand on: an edit makes anew what it can change, and nothing else."""

import ast
import functools
import hashlib
import types
from collections.abc import Callable, Iterable
from pathlib import Path

PACKAGE = Path(__file__).parents[1]


@functools.cache
def essence(code: str) -> str:
    """What ``code`` does: its syntax tree as text, without docstrings; comments and layout are not in it."""
    tree = ast.parse(code)
    for item in ast.walk(tree):
        body = getattr(item, "body", None)
        if isinstance(body, list) and body and isinstance(body[0], ast.Expr):
            value = body[0].value
            if isinstance(value, ast.Constant) and isinstance(value.value, str):
                body[0] = ast.Pass()
    return ast.dump(tree)


def reached(code: str, package: Path = PACKAGE) -> list[Path]:
    """The files of the modules in the folder ``package`` that ``code`` imports, directly or not, in order of names."""
    return _reach(_imports(code), package)


def essence_of_files(files: Iterable[Path]) -> bytes:
    """What modules do (:func:`essence`), with the data file of the same name that one reads, such as the claims."""
    found = []
    for file in files:
        found.append(essence(file.read_text(encoding="utf-8")).encode())
        data = file.with_suffix(".toml")
        found += [data.read_bytes()] if data.exists() else []
    return b"".join(found)


def code_digest(function: Callable) -> str:
    """SHA-256 of what the modules do that ``function`` stands on: whether results are of the code as it is now.

    These are its own module, or what the notebook imports that defines it; those of what it holds (closure, defaults);
    and all that these import. Where none of them is of studylib, every module counts.
    """
    files = _reach(_modules(function, set()), PACKAGE) or sorted(PACKAGE.rglob("*.py"))
    return hashlib.sha256(essence_of_files(files)).hexdigest()


@functools.cache
def _imports(code: str) -> frozenset[str]:
    """Dotted names that ``code`` imports from studylib, whether of modules or of what is in them."""
    found = set()
    for item in ast.walk(ast.parse(code)):
        if isinstance(item, ast.ImportFrom) and item.module:
            found |= {item.module, *(f"{item.module}.{alias.name}" for alias in item.names)}
        elif isinstance(item, ast.Import):
            found |= {alias.name for alias in item.names}
    return frozenset(name for name in found if name.startswith("studylib."))


def _reach(names: Iterable[str], package: Path) -> list[Path]:
    """Files of the modules among ``names`` (studylib.…), and of all that they import."""
    seen: dict[str, Path] = {}
    left = set(names)
    while left:
        name = left.pop()
        file = package.joinpath(*name.split(".")[1:]).with_suffix(".py")
        if name not in seen and file.exists():
            seen[name] = file
            left |= _imports(file.read_text(encoding="utf-8"))
    return [seen[name] for name in sorted(seen)]


def _modules(thing: object, seen: set[int]) -> set[str]:
    """Names of studylib's modules that ``thing`` is of or holds, where it is a function or a container."""
    if id(thing) in seen:
        return set()
    seen.add(id(thing))
    found, held = {_module(thing)}, []
    if isinstance(thing, types.MethodType):
        held = [thing.__func__, thing.__self__]
    elif isinstance(thing, functools.partial):
        held = [thing.func, *thing.args, *thing.keywords.values()]
    elif isinstance(thing, types.FunctionType):
        held = [cell.cell_contents for cell in thing.__closure__ or ()]
        held += [*(thing.__defaults__ or ()), *(thing.__kwdefaults__ or {}).values()]
        if not _module(thing).startswith("studylib."):  # a notebook's: what it imports
            found |= {_module(each) for each in thing.__globals__.values()}
    elif isinstance(thing, list | tuple | set | dict):
        held = list(thing.values() if isinstance(thing, dict) else thing)
    elif hasattr(thing, "__wrapped__"):  # a function that is cached, say
        held = [thing.__wrapped__]
    found = found.union(*(_modules(each, seen) for each in held))
    return {name for name in found if name.startswith("studylib.")}


def _module(thing: object) -> str:
    """The name of the module that ``thing`` is, or that it or its class was defined in."""
    name = getattr(thing, "__name__" if isinstance(thing, types.ModuleType) else "__module__", None)
    return name if isinstance(name, str) else ""
