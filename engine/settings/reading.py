"""YAML as the study reads it: strict, and with an error that names file and key."""

import contextlib
import re
from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar

import yaml

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "papermill_params"


class ParameterError(ValueError):
    """A profile that cannot be run; the message names the key and what was expected."""


@contextlib.contextmanager
def named(where: str) -> Iterator[None]:
    """Raises ParameterError, ``where`` before its message, for a value that is refused inside."""
    try:
        yield
    except (ValueError, FileNotFoundError, RuntimeError, TypeError) as error:
        raise ParameterError(f"{where}{error}") from error


class _Loader(yaml.SafeLoader):
    """YAML with decimal numbers (1e-3, too) and truths true or false; whatever else is plain is a text.

    YAML 1.1 takes 010, 1:30 and yes for 8, 90 and true. They are refused where a number or a truth is expected.
    A merge key (``<<: *name``) takes over what it names. A key given twice is an error.
    """

    yaml_implicit_resolvers: ClassVar = {}

    def compose_mapping_node(self, anchor):
        node = super().compose_mapping_node(anchor)
        keys = [key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
        if twice := [key for key in keys if keys.count(key) > 1]:
            raise ParameterError(f"{self.name}: the key {twice[0]!r} is given twice")
        return node


for _kind, _spelled in {
    "int": r"[-+]?(0|[1-9]\d*|[1-9]\d{0,2}(_\d{3})+)",
    "float": r"(?=.*[.eE])[-+]?((\d+|\d{1,3}(_\d{3})+)\.?\d*|\.\d+)([eE][-+]?\d+)?|[-+]?\.inf|\.nan",
    "bool": "true|false",
    "null": "null|~|",
    "merge": "<<",
}.items():
    _Loader.add_implicit_resolver(f"tag:yaml.org,2002:{_kind}", re.compile(rf"({_spelled})\Z"), None)


def read_yaml(path: Path) -> dict:
    """The sections of a file that is there; raises ParameterError for whatever else its content is."""
    try:
        with path.open("rb") as file:
            content = yaml.load(file, _Loader)
    except ParameterError:
        raise
    except (yaml.YAMLError, OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise ParameterError(f"{path}: not valid YAML: {type(error).__name__}: {error}") from error
    if not isinstance(content, dict):
        raise ParameterError(f"{path}: expected sections, found {content!r}")
    return content
