"""What every notebook looks like, read from the file."""

import ast
import re

import nbformat
import pytest

from engine import parameters

NOTEBOOKS = parameters.notebooks()
STAGES = [stage for stage in NOTEBOOKS if stage not in ("teacher", "sweep")]


def cells(stage, kind="code"):
    return [cell for cell in nbformat.read(NOTEBOOKS[stage], as_version=4).cells if cell.cell_type == kind]


@pytest.fixture(params=list(NOTEBOOKS))
def stage(request):
    return request.param


def test_it_has_one_parameters_cell_of_typed_and_explained_literals(stage):
    found = [cell for cell in cells(stage) if "parameters" in cell.metadata.get("tags", [])]
    assert len(found) == 1
    for line, item in zip(found[0].source.splitlines(), ast.parse(found[0].source).body, strict=True):
        assert isinstance(item, ast.AnnAssign), line
        ast.literal_eval(item.value)
        assert re.search(r"  # \S", line), f"no meaning beside: {line}"


def test_it_takes_out_and_lesson_and_a_stage_its_parent(stage):
    names = set(parameters.types_of(NOTEBOOKS[stage]))
    assert {"out", "lesson"} <= names
    assert ("parent" in names) == (stage in STAGES)


def test_it_was_stored_as_it_ran_without_errors_and_in_order(stage):
    counts = [cell.execution_count for cell in cells(stage)]
    assert counts == list(range(1, len(counts) + 1))
    outputs = [output for cell in cells(stage) for output in cell.outputs]
    assert outputs and not [o for o in outputs if o.output_type == "error"]


def test_it_has_checked_outputs_and_they_are_there(stage):
    checked = [cell for cell in cells(stage) if "NBVAL_CHECK_OUTPUT" in cell.source]
    assert checked and all(cell.outputs for cell in checked)


def test_it_shows_a_figure(stage):
    outputs = [output for cell in cells(stage) for output in cell.outputs]
    assert any("image/png" in output.get("data", {}) for output in outputs)


def test_its_cells_are_short_and_define_no_classes(stage):
    for cell in cells(stage):
        assert len(cell.source.splitlines()) <= 25, cell.source
        assert "class " not in cell.source


def test_it_follows_the_plan_of_a_chapter(stage):
    text = "\n".join(cell.source for cell in cells(stage, "markdown"))
    for heading in ("**Question.**", "## Method", "## Results", "## Takeaway", "## Limits"):
        assert heading in text
    opening = cells(stage, "markdown")[0].source
    promises = len(re.findall(r"^\d\.", opening, flags=re.M))
    takeaway = [cell for cell in cells(stage) if "Markdown(" in cell.source][-1].outputs[0]["data"]["text/markdown"]
    assert promises >= 2 and len(re.findall(r"^\s*\d\.", takeaway, flags=re.M)) == promises


def test_no_path_of_a_machine_is_stored(stage):
    text = NOTEBOOKS[stage].read_text()
    assert not re.search(r"/home/|/root/|/tmp/|/Users/", text)
