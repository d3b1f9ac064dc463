import json

import pytest

from engine import figures, parameters


def executed(path, *cells):
    """An executed notebook whose code cells have these (execution count, types of outputs)."""
    cells = [
        {"cell_type": "code", "execution_count": n, "outputs": [{"output_type": kind} for kind in kinds]}
        for n, kinds in cells
    ]
    path.write_text(json.dumps({"cells": [{"cell_type": "markdown"}, *cells]}))
    return path


def test_a_chapter_was_run_if_every_cell_was_and_none_failed(tmp_path):
    path = tmp_path / "notebook.ipynb"
    assert figures._done(executed(path, (1, ["stream"]), (2, [])))
    assert not figures._done(executed(path, (1, []), (None, [])))
    assert not figures._done(executed(path, (1, []), (2, ["error"])))


def test_what_is_not_published_is_said_not_to_have_been_run(tmp_path):
    (tmp_path / "digits").mkdir()
    about = {"seeds": [0, 2], "nodes": ["teacher", "teacher-kd"], "chapters": ["02_distill"]}
    (tmp_path / "digits" / "about.json").write_text(json.dumps(about))
    rows = {line.split("|")[1].strip(): line for line in figures.runs_table(tmp_path).splitlines()[2:]}
    every = {path.stem for path in parameters.FOLDER.glob("*.yaml")} - {"stages"}
    assert set(rows) == every
    assert "| 2 of 16 | 0, 2 | 02 | 01, 03, 04, 05, 06, 07, 08 |" in rows["digits"]
    assert "| 0 of 16 | – | – | 01, 02, 03, 04, 05, 06, 07, 08 |" in rows["paper"]


def test_marks_are_shown_with_whose_they_are_or_said_not_to_be_measured(tmp_path):
    assert "Not measured yet" in figures.marks_table(tmp_path)
    (tmp_path / "mine").mkdir()
    row = {
        "mark %": 90.0,
        "kB": 76.0,
        "from": "theirs",
        "ours": "small",
        "our kB": 50.0,
        "our %": 90.5,
        "verdict": "passed",
    }
    unreached = {**row, "ours": "–", "our kB": None, "our %": None, "verdict": "not reached (89.00 %)"}
    about = {"provenance": {"git_commit": "abc", "date": "2026-11-24T00:00:00"}}
    (tmp_path / "mine" / "marks.json").write_text(json.dumps({"about": about, "rows": [row, unreached]}))
    text = figures.marks_table(tmp_path)
    assert "| small | 50.00 | 90.50 | passed |" in text and "| – | – | – | not reached (89.00 %) |" in text
    assert "Profile `mine`, commit abc, 2026-11-24." in text


def test_the_readme_keeps_what_is_outside_the_markers(tmp_path, monkeypatch):
    monkeypatch.setattr(figures, "ROOT", tmp_path)
    begin, end = "<!-- marks: made by make figures -->", "<!-- end of marks -->"
    (tmp_path / "README.md").write_text(f"before\n{begin}\nold\n{end}\nafter\n")
    figures.write_between("marks", "new")
    assert (tmp_path / "README.md").read_text() == f"before\n{begin}\n\nnew\n\n{end}\nafter\n"
    with pytest.raises(SystemExit, match="markers"):
        figures.write_between("results of digits", "new")
