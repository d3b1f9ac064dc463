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
def drawn(chapter: str) -> dict[str, str]:
    """Name of a function of this folder → the first sentence of its docstring; of a name the ``chapter``'s own."""
    found = {}
    for path in sorted(Path(__file__).parent.glob("*.py"), key=lambda path: (path.stem == chapter, path.stem)):
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.FunctionDef) and (said := ast.get_docstring(node)):
                found[node.name] = first_sentence(said.split("\n\n")[0])
    return found


def of_figures(source: str, chapter: str) -> Iterator[tuple[str, str, str]]:
    """Of each figure in a cell: whose it is (``chapter``, or a study beside it), its name, its caption.

    Args:
        chapter: its key, such as ``svd``, which names the module of its figures.
    """
    for whose, name, draw in CALL.findall(source):
        yield whose, name, drawn(chapter).get(draw, f"{name.replace('_', ' ').capitalize()}.")
