"""The notebooks' text is plain: short sentences, one clause each, in what they say and in what they take away."""

import ast
import glob

import nbformat
import plain
import pytest
from projects import ROOT

PATHS = sorted(glob.glob(str(ROOT / "notebooks" / "*.ipynb")))


def taken_away(source: str) -> str:
    """The f-strings of a cell as Markdown, each expression in them a word."""
    tree = ast.parse(source)
    formats = {id(node.format_spec) for node in ast.walk(tree) if isinstance(node, ast.FormattedValue)}
    strings = [node for node in ast.walk(tree) if isinstance(node, ast.JoinedStr) and id(node) not in formats]
    found = [node for node in strings if node.end_lineno > node.lineno]
    return "\n".join(
        "".join(part.value if isinstance(part, ast.Constant) else "x" for part in text.values) for text in found
    )


def prose(path: str) -> str:
    cells = nbformat.read(path, as_version=4).cells
    return "\n\n".join(cell.source if cell.cell_type == "markdown" else taken_away(cell.source) for cell in cells)


def test_what_is_taken_away_is_read_as_text():
    assert taken_away('Markdown(f"""\n1. It has {n:,} bytes.\n""")\nprint(f"{n} more")') == "\n1. It has x bytes.\n"


@pytest.mark.parametrize("path", PATHS, ids=lambda path: path.rpartition("/")[2])
def test_its_sentences_are_short_and_have_one_clause(path):
    text = prose(path)
    assert len(list(plain.sentences(text))) > 20
    assert plain.long_sentences(text) == []
    assert plain.nested_sentences(text) == []
