"""YAML as the study reads it: strict, and with an error that names the line."""

import difflib
import re
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "papermill_params"


class ParameterError(ValueError):
    """A profile that cannot be run; the message names the key and what was expected."""


class _Loader(yaml.SafeLoader):
    """YAML in which 1e-3 is a number, what YAML 1.1 takes for another than it says is an error, and a key twice, too.

    A merge key (``<<: *name``) takes over what it names, as in YAML 1.1.
    """

    def compose_node(self, parent, index):
        node = super().compose_node(parent, index)
        kind, scalar = node.tag.rpartition(":")[2], isinstance(node, yaml.ScalarNode)
        if scalar and kind in PLAIN and not re.fullmatch(PLAIN[kind], node.value):
            expected = "true or false" if kind == "bool" else "a decimal number"
            raise ParameterError(
                f"{self.name}, line {node.start_mark.line + 1}: {node.value}: expected {expected};"
                f" YAML 1.1 takes it for {self.construct_object(node)!r} (a text stands in quotes)"
            )
        return node

    def compose_mapping_node(self, anchor):
        node = super().compose_mapping_node(anchor)
        keys = [(key.tag, key.value) for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
        for tag, key in keys:
            if keys.count((tag, key)) > 1:
                raise ParameterError(f"{self.name}: the key {key!r} is given twice")
        return node


PLAIN = {  # how plain scalars of a kind are spelled here, of what YAML 1.1 allows
    "bool": r"(?i:true|false)",
    "int": r"[-+]?(0|[1-9]\d*|[1-9]\d{0,2}(_\d{3})+)",  # not 010, 1:30, 0b1, 0x1
    "float": r"[-+]?((\d+|\d{1,3}(_\d{3})+)\.?\d*|\.\d+)([eE][-+]?\d+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)",
}
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"^[-+]?(\d[\d_]*)(\.\d*)?[eE][-+]?\d+$"), list("-+0123456789")
)


def read_yaml(path: Path) -> dict:
    try:
        loader = _Loader(path.read_text(encoding="utf-8"))
        loader.name = path.name  # for messages
        content = loader.get_single_data()
    except FileNotFoundError as error:
        found = [each for each in (p.stem for p in sorted(path.parent.glob("*.yaml"))) if each != "chapters"]
        raise ParameterError(f"{path.relative_to(ROOT)}: no such profile{nearest(path.stem, found)}") from error
    except ParameterError:
        raise
    except (yaml.YAMLError, ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise ParameterError(f"{path}: not valid YAML: {type(error).__name__}: {error}") from error
    if not isinstance(content, dict):
        raise ParameterError(f"{path}: expected sections, found {content!r}")
    return content


def nearest(name: str, known: list[str]) -> str:
    """What was meant, for the end of a message on an unknown ``name``."""
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    return f"; did you mean {close[0]!r}?" if close else f": expected one of {', '.join(known)}"
