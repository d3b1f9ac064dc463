"""Kept rows and the code that they stand on: made again where it was edited, read where another part was."""

import functools
import shutil

import pytest
from projects import edit

from studylib.disk import code
from studylib.techniques import prune, svd
from studylib.tree import rows

CELLS = """
import functools
from studylib.techniques import svd

calls = []

def make():
    calls.append(1)
    return [len(calls)]

@functools.cache
def cached():
    return make()

class Own:
    def __call__(self):
        return make()
"""
EDITS = {  # what is edited: its file, old text, new text, whether rows that stand on svd are made again
    "a comment": ("techniques/svd.py", "import logging\n", "import logging  # a remark\n", False),
    "a docstring": ("networks/factors.py", '"""Low-rank layers', '"""Layers of low rank', False),
    "a line of it": ("techniques/svd.py", "max(1, in_features", "max(2, in_features", True),
    "a line that it reaches": ("networks/factors.py", "bias=False", "bias=True", True),
    "a line further below": ("networks/blocks.py", "if width < 1", "if width < 2", True),
    "a line that it does not reach": ("techniques/prune.py", "0 <= fraction <= 1", "0 <= fraction <= 2", False),
}


def defined(source, module):
    """What ``source`` defines in a module of that name."""
    names = {"__name__": module}
    exec(source, names)
    return names


@pytest.fixture
def package(tmp_path, monkeypatch):
    """A copy of studylib, which is read in its place."""
    copy = tmp_path / "studylib"
    shutil.copytree(code.PACKAGE, copy, ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.setattr(code, "PACKAGE", copy)
    return copy


@pytest.fixture
def notebook():
    return defined(CELLS, "__main__")


def held(function):
    """A function of studylib's that reaches next to nothing and calls ``function``."""
    return defined("def hold(make):\n    return lambda: make()", "studylib.tree.names")["hold"](function)


@pytest.mark.parametrize("what", EDITS)
def test_rows_are_made_again_where_a_line_that_they_stand_on_was_edited(what, package, notebook, tmp_path):
    file, old, new, again = EDITS[what]
    kept = tmp_path / "kept.json"
    assert rows.once(kept, [], notebook["make"]) == rows.once(kept, [], notebook["make"]) == [1]
    edit(package / file, old, new)
    assert rows.once(kept, [], notebook["make"]) == ([2] if again else [1])


@pytest.mark.parametrize("what", EDITS)
def test_it_does_not_matter_how_the_function_is_handed_on(what, package, notebook):
    file, old, new, again = EDITS[what]
    functions = [svd.rank_for, notebook["cached"], functools.partial(svd.rank_for, 10)]
    functions += [held(notebook["make"]), held(notebook["cached"]), held([svd.rank_for]), held(svd.Factorization())]
    before = [code.code_digest(each) for each in functions]
    edit(package / file, old, new)
    assert [code.code_digest(each) != digest for each, digest in zip(functions, before, strict=True)] == [again] * 7


def test_where_nothing_is_known_of_a_function_every_module_counts(package, notebook):
    before = [code.code_digest(each) for each in (len, notebook["Own"]())]
    edit(package / "techniques" / "prune.py", "0 <= fraction <= 1", "0 <= fraction <= 2")
    after = [code.code_digest(each) for each in (len, notebook["Own"]())]
    assert before[0] == before[1] != after[0] == after[1]


def test_data_that_a_module_reads_count_as_its_lines(package):
    before = code.code_digest(svd.apply), code.code_digest(prune.apply)
    (package / "techniques" / "svd.toml").write_text("least = 1\n", encoding="utf-8")
    assert code.code_digest(svd.apply) != before[0] and code.code_digest(prune.apply) == before[1]
