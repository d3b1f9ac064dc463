"""What figures are of, in words: the docstrings of the functions that draw them."""

import ast
import functools
import re
from collections.abc import Iterator
from pathlib import Path

CALL = re.compile(r"(\w+)\.(?:figure|show_published)\(\s*\"(\w+)\"(?:.*?(draw_\w+))?")  # whose, name, who draws it


def first_sentence(text: str) -> str:
    """What a figure or a table is of, as the text before it says."""
    return re.split(r"(?<=[.:?])(?<!al\.) (?=[^a-z])", " ".join(text.split()), maxsplit=1)[0].rstrip(":.") + "."


@functools.cache
def drawn() -> dict[str, str]:
    """Name of a function of this folder → the first sentence of its docstring."""
    found = {}
    for path in sorted(Path(__file__).parent.glob("*.py")):
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.FunctionDef) and (said := ast.get_docstring(node)):
                found[node.name] = first_sentence(said.split("\n\n")[0])
    return found


def of_figures(source: str) -> Iterator[tuple[str, str, str]]:
    """Of each figure in a cell: whose it is (``chapter``, or a study beside it), its name, its caption."""
    for whose, name, draw in CALL.findall(source):
        yield whose, name, drawn().get(draw, f"{name.replace('_', ' ').capitalize()}.")
