"""Settings as typed records: a notebook's dictionaries go into them, and are checked before anything trains."""

import dataclasses
import difflib
import functools
import typing
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError
from pydantic.fields import FieldInfo

T = typing.TypeVar("T")
MOST_SEED = 2**32 - 1001  # scikit-learn's draws take a thousand more: chapters go on to the seeds after a study's
Batch = Annotated[int, Field(ge=1, le=4096, description="images a forward pass")]  # whose time is taken
STRICT = ConfigDict(strict=True, allow_inf_nan=False)
KINDS = {  # pydantic's name of an error → what was expected
    "int_type": "a whole number",
    "float_type": "a number",
    "finite_number": "a finite number",
    "string_type": "a text",
    "bool_type": "true or false",
    "list_type": "a list",
    "dict_type": "a dictionary",
    "greater_than_equal": "at least {ge}",
    "greater_than": "above {gt}",
    "less_than_equal": "at most {le}",
    "less_than": "below {lt}",
    "multiple_of": "a multiple of {multiple_of}",
    "too_short": "at least {min_length} of them",
    "too_long": "at most {max_length} of them",
    "literal_error": "one of {expected}",
}


class SettingError(ValueError):
    """A setting that cannot be used; the message names it and what was expected."""


@typing.dataclass_transform(frozen_default=True)
def record(cls: type[T]) -> type[T]:
    """Makes ``cls`` a frozen dataclass whose fields are held against their types and bounds whenever one is made.

    A field is ``name: Annotated[type, Field(ge=…, le=…, description="its meaning")] = default``. A method ``check()``
    says what concerns several fields, ``against(data)`` what concerns the data; both raise ValueError.

    Raises:
        SettingError: when one is made with a value of another type or out of bounds.
    """

    def __post_init__(self) -> None:
        for name, adapter in _adapters(cls).items():
            _hold(name, getattr(self, name), adapter)
        if hasattr(self, "check"):
            self.check()

    cls.__post_init__ = __post_init__
    return dataclasses.dataclass(frozen=True)(cls)


def _types(cls: type) -> dict[str, Any]:
    return typing.get_type_hints(cls, include_extras=True)


@functools.cache
def _adapters(cls: type) -> dict[str, TypeAdapter]:
    return {name: TypeAdapter(kind, config=STRICT) for name, kind in _types(cls).items()}


def _hold(name: str, value: Any, adapter: TypeAdapter) -> None:
    try:
        adapter.validate_python(value)
    except ValidationError as error:
        first = error.errors()[0]
        where = name + "".join(f"[{each}]" for each in first["loc"])
        said = KINDS.get(first["type"])
        expected = said.format(**first.get("ctx", {})) if said else first["msg"]
        if first["type"] == "list_type" and isinstance(first["input"], str):
            expected += f"; -y '{where}: […]' hands one on, -p text alone"
        raise SettingError(f"{where}={first['input']!r}: expected {expected}") from None


def read(kind: type[T], given: Mapping | T, name: str) -> T:
    """``given``, a dictionary under the name ``name``, as a record of ``kind``; what it leaves out is the default.

    Raises:
        SettingError: no dictionary; an unknown key (names the nearest right one); a value of another type or out of
            bounds. To a text, all that ``-p`` of a command line hands on, the message shows the right form.
    """
    if isinstance(given, kind):
        return given
    if not isinstance(given, Mapping):
        form = f"; -y '{name}: {{…}}' hands one on, -p text alone" if isinstance(given, str) else ""
        raise SettingError(f"{name}={given!r}: expected a dictionary{form}")
    known = [field.name for field in dataclasses.fields(kind)]
    if unknown := [key for key in given if key not in known]:
        raise SettingError(f"{name}.{unknown[0]}: unknown{nearest(str(unknown[0]), known)}")
    needed = [f.name for f in dataclasses.fields(kind) if f.default is f.default_factory is dataclasses.MISSING]
    if missing := [key for key in needed if key not in given]:
        raise SettingError(f"{name}.{missing[0]}: missing")
    try:
        return kind(**given)
    except ValueError as error:
        raise SettingError(f"{name}.{error}") from error


def check_different(settings: Any, *names: str) -> None:
    """Raises ValueError where one of the lists ``names`` of a record has something twice."""
    for name in names:
        values = getattr(settings, name)
        if len(set(values)) < len(values):
            raise ValueError(f"{name}={values!r}: expected different ones")


def nearest(name: str, known: list[str]) -> str:
    """What was meant, for the end of a message on an unknown ``name``."""
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    return f"; did you mean {close[0]!r}?" if close else f": expected one of {', '.join(known)}"


def table(records: Mapping[str, Any]) -> list[dict[str, str]]:
    """The settings in force, a row each: name, value, default, meaning."""
    rows = []
    for name, settings in records.items():
        for field in dataclasses.fields(settings):
            marks = getattr(_types(type(settings))[field.name], "__metadata__", ())
            meaning = next((m.description for m in marks if isinstance(m, FieldInfo) and m.description), "")
            made = field.default if field.default_factory is dataclasses.MISSING else field.default_factory()
            default = "–" if made is dataclasses.MISSING else repr(made)
            value = repr(getattr(settings, field.name))
            rows.append({"setting": f"{name}.{field.name}", "value": value, "default": default, "meaning": meaning})
    return rows


@record
class Study:
    """What a notebook works on and with."""

    dataset: Annotated[str, Field(description="name of a data set: digits, cifar10, …")]
    seed: Annotated[int, Field(ge=0, le=MOST_SEED, description="decides the split and every draw")] = 0
    threads: Annotated[int, Field(ge=0, le=1024, description="CPU threads; 0 leaves torch's default")] = 0
    device: Annotated[Literal["auto", "cpu", "cuda"], Field(description="where torch computes")] = "auto"
