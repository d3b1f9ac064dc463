"""What a chapter prints is what is stored of it; nbval really compares; a notebook opened too early says what to do."""

import json
import subprocess
import sys

import nbformat
import pytest
from executed import CHAPTERS
from projects import ROOT, environment

from engine.run import execute


def nbval(path):
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "--nbval-lax",
        "-p",
        "no:cacheprovider",
        "-c",
        "/dev/null",
        path.name,
    ]
    return subprocess.run(command, cwd=path.parent, env=environment(ROOT), text=True, capture_output=True)


def changed(tmp_path, change):
    """Notebook 04's reduced form as far as its checked output, which is passed through ``change``; it writes there."""
    content = json.loads((ROOT / "tests" / "notebooks" / "reduced" / "04_svd.ipynb").read_text())
    checked = next(k for k, cell in enumerate(content["cells"]) if "NBVAL_CHECK_OUTPUT" in "".join(cell["source"]))
    content["cells"] = content["cells"][: checked + 1]
    for cell in content["cells"]:
        if "injected-parameters" in cell["metadata"].get("tags", []):
            source = "".join(cell["source"])
            cell["source"] = source.replace('"runs/notebooks/reduced/04_svd"', repr(str(tmp_path / "out")))
            assert cell["source"] != source
    content["cells"][-1]["outputs"] = change(content["cells"][-1]["outputs"])
    path = tmp_path / "04_changed.ipynb"
    path.write_text(json.dumps(content))
    return path


def printed(notebook):
    """Of each cell whose outputs are checked: its source, and all that it has left there as text."""
    cells = [cell for cell in nbformat.read(notebook, as_version=4).cells if "NBVAL_CHECK_OUTPUT" in cell.source]
    assert all(out.output_type == "stream" for cell in cells for out in cell.outputs)
    return [(cell.source, "".join(out.text for out in cell.outputs)) for cell in cells]


@pytest.mark.parametrize("name", list(CHAPTERS))
def test_a_reduced_run_prints_what_is_stored_of_it(name, reduced_run):
    """The run that other tests share. That nbval finds the same, running each once more, is for make test-long."""
    stored = printed(ROOT / "tests" / "notebooks" / "reduced" / f"{name}.ipynb")
    assert printed(reduced_run(name).notebook) == stored and all(text for _, text in stored)


@pytest.mark.long  # each chapter's stored form, too, is compared by nbval in make test
def test_the_stored_outputs_pass(tmp_path):
    result = nbval(changed(tmp_path, lambda outputs: outputs))
    assert result.returncode == 0, result.stdout


def test_a_changed_stored_output_fails(tmp_path):
    def one_more(outputs):
        return json.loads(json.dumps(outputs).replace("rank ", "rank 9"))

    result = nbval(changed(tmp_path, one_more))
    assert result.returncode != 0 and "mismatch" in result.stdout, result.stdout


def test_a_notebook_without_its_parent_names_the_command_that_makes_it(tmp_path, monkeypatch):
    monkeypatch.setenv("STUDY_ROOT", str(tmp_path))
    notebook = ROOT / "notebooks" / "03_prune.ipynb"
    with pytest.raises(execute.PapermillExecutionError, match="make study PROFILE=digits"):
        execute.execute(notebook, tmp_path / "x.ipynb", {"published": ""})


def test_an_unknown_parameter_is_an_error_and_no_warning(tmp_path):
    with pytest.raises(KeyError, match="'recip'; did you mean 'recipe'"):
        execute.execute(ROOT / "notebooks" / "02_distill.ipynb", tmp_path / "x.ipynb", {"recip": {"epochs": 3}})


def test_an_unknown_setting_is_an_error_that_names_the_right_one(tmp_path):
    given = {"recipe": {"epocs": 3}, "published": ""}
    with pytest.raises(execute.PapermillExecutionError, match=r"recipe\.epocs: unknown; did you mean 'epochs'"):
        execute.execute(ROOT / "notebooks" / "02_distill.ipynb", tmp_path / "x.ipynb", given)
