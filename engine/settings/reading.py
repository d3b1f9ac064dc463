"""YAML 1.2 as the study reads it, and errors that name file and key."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError

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


def read_yaml(path: Path) -> dict:
    """The sections of a file that is there; raises ParameterError for whatever else its content is."""
    try:
        content = YAML(typ="safe", pure=True).load(path.read_bytes())
    except MarkedYAMLError as error:
        raise ParameterError(f"{path}, line {error.problem_mark.line + 1}: {error.problem}") from error
    except Exception as error:  # YAML may break its reader in any way
        raise ParameterError(f"{path}: not valid YAML: {type(error).__name__}: {error}") from error
    if not isinstance(content, dict):
        raise ParameterError(f"{path}: expected sections, found {content!r}")
    return content
