"""The docstrings of the package and the engine are plain: short sentences, one clause each."""

import ast

import plain
import pytest
from projects import ROOT

PATHS = sorted(str(path.relative_to(ROOT)) for name in ("studylib", "engine") for path in (ROOT / name).rglob("*.py"))
DOCUMENTED = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)


def docstrings(source: str) -> list[str]:
    """The docstrings of a module, its classes and its functions, as Markdown."""
    found = (ast.get_docstring(node) for node in ast.walk(ast.parse(source)) if isinstance(node, DOCUMENTED))
    return [plain.of_docstring(text) for text in found if text]


def test_the_docstrings_of_classes_and_inner_functions_are_found():
    source = '"""One."""\nclass A:\n    """Two."""\n    def f(self):\n        """Three."""\n        "no docstring"\n'
    assert docstrings(source) == ["One.", "Two.", "Three."]


@pytest.mark.parametrize("path", PATHS)
def test_its_sentences_are_short_and_have_one_clause(path):
    found = docstrings((ROOT / path).read_text())
    assert found
    assert [sentence for text in found for sentence in plain.long_sentences(text)] == []
    assert [sentence for text in found for sentence in plain.nested_sentences(text)] == []
