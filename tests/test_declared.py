"""Chapters declare themselves: nothing of the engine names one, and a new one touches nothing in it."""

import json
import re

import nbformat
import pandas as pd
import pytest
from projects import ROOT, copy_project, study, types_of

from engine.settings import chapters
from engine.settings.reading import ParameterError

GENERAL = {"teacher", "int8", "sweep"}  # the root's node, a type of numbers, and what tables are called


def test_neither_the_snakefile_nor_the_engine_names_a_chapter():
    keys = set(chapters.notebooks()) - GENERAL
    assert {"moo", "frontier", "distill", "prune", "svd"} <= keys
    files = [ROOT / "Snakefile", *(path for path in (ROOT / "engine").rglob("*") if path.suffix in (".py", ".yaml"))]
    named = [
        f"{path.relative_to(ROOT)}: {line.strip()}"
        for path in files
        for line in path.read_text(encoding="utf-8").splitlines()
        if re.search(rf"\b({'|'.join(keys)})\b", line)
    ]
    assert named == []


def test_each_says_what_it_reads_and_has_a_record_for_each_of_its_dictionaries():
    for key, chapter in chapters.declared().items():
        assert chapter.minutes > 0 and set(chapter.reads) <= set(types_of(chapter.notebook)), key
        dictionaries = {name for name, kind in types_of(chapter.notebook).items() if kind == "dict"}
        made = chapter.role == "choice"  # by a cell that takes a part of the notebook's parameters
        assert set(chapter.records) <= dictionaries if made else dictionaries - {"study"} == set(chapter.records), key
        assert all(isinstance(chapter.record(name), type) for name in chapter.records)
        for method, needed in chapter.together.items():
            name, _, call = method.partition(".")
            assert callable(getattr(chapter.record(name), call)) and set(needed) <= set(chapter.records)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (
            "role: root",
            "role: rot",
            "teacher.role='rot': expected one of 'root', 'technique', 'choice', 'table' or 'chapter'",
        ),
        ("  role: root\n", "", "teacher.role: missing"),
        ("role: root", "role: chapter", "expected one chapter whose role is root, found none"),
        ("role: root", "rle: root", "teacher.rle: unknown; did you mean 'role'"),
        ("notebook: 01_teacher", "notebook: 01_nothing", "notebooks/01_nothing.ipynb: no such notebook"),
        ("minutes: 1", "minutes: 1\n  role: table", 'found duplicate key "role"'),
    ],
)
def test_a_wrong_declaration_names_itself(tmp_path, monkeypatch, old, new, message):
    text = chapters.FILE.read_text()
    assert old in text
    (tmp_path / "chapters.yaml").write_text(text.replace(old, new, 1))
    monkeypatch.setattr(chapters, "FILE", tmp_path / "chapters.yaml")
    with pytest.raises(ParameterError, match=re.escape(message)):
        chapters.declared()


def test_a_record_that_studylib_does_not_have_is_named(tmp_path, monkeypatch):
    text = chapters.FILE.read_text()
    (tmp_path / "chapters.yaml").write_text(text.replace("prune.Pruning", "prune.Prunning", 1))
    monkeypatch.setattr(chapters, "FILE", tmp_path / "chapters.yaml")
    with pytest.raises(ParameterError, match=r"prune\.records\.pruning: .*Prunning"):
        chapters.declared()["prune"].record("pruning")


PAGE = next(page for page in (ROOT / "docs" / "extend.md", ROOT / "README.md") if page.exists())
SECTION = re.split(
    r"^##+ ", PAGE.read_text(encoding="utf-8").partition("# Add a technique\n")[2], maxsplit=1, flags=re.M
)[0]
MODULE, PARAMETERS, STAGE, LESSON, LINE = re.findall(r"^```\w+\n(.*?)^```$", SECTION, flags=re.M | re.S)
PROFILE = re.search(r"^4\. .*`(clip: .*)`\.$", SECTION, flags=re.M)[1]
SEEN_PARAMETERS = """out: str = "runs/notebooks/10_seen"  # folder to write
published: str = ""  # a study that is shown
parent: str = ""  # folder of the model
study: dict = {"dataset": "digits"}  # what it is run on
"""
SEEN = """from studylib.tree.node import Node
from studylib.results.chapter import Chapter

node = Node.of(out, study, "10_seen", published)
chapter = Chapter(node, reads=[parent])
zeros = chapter.rows("zeros", lambda: [{"zeros": sum(int((p == 0).sum()) for p in node.load(parent).parameters())}])
chapter.verdicts("toy", dict)"""


def notebook(path, parameters_cell, *cells):
    made = [nbformat.v4.new_code_cell(parameters_cell.strip(), metadata={"tags": ["parameters"]})]
    made += [nbformat.v4.new_code_cell(source, metadata={"tags": tags}) for source, tags in cells]
    kernel = {"kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"}}
    nbformat.write(nbformat.v4.new_notebook(cells=made, metadata=kernel), path)


def test_what_is_written_of_a_new_technique_is_enough_and_so_is_a_new_chapter(tmp_path):
    project = copy_project(tmp_path / "copy")
    assert "`studylib/techniques/clip.py`" in SECTION and "`notebooks/09_clip.ipynb`" in SECTION
    (project / "studylib/techniques/clip.py").write_text(MODULE)
    notebook(project / "notebooks/09_clip.ipynb", PARAMETERS, (STAGE, []), (LESSON, ["lesson"]))
    notebook(project / "notebooks/10_seen.ipynb", SEEN_PARAMETERS, (SEEN, []))
    with (project / "papermill_params" / "chapters.yaml").open("a") as file:
        file.write(f"{LINE}seen: {{notebook: 10_seen, role: chapter, minutes: 1, reads: {{parent: teacher-clip}}}}\n")
    (project / "papermill_params" / "toy.yaml").write_text(
        "study: {dataset: digits, stages: [clip], chapters: [clip, seen]}\nlatency: {compiled: false, repeats: 1}\n"
        f"teacher: {{network: {{depth: 7, growth: 4}}, recipe: {{epochs: 1, batch_size: 64}}}}\n{PROFILE}\n"
    )
    result = study(project, "--profile", "toy")
    assert result.returncode == 0, result.stdout
    run = project / "runs" / "toy"
    table = pd.read_csv(run / "sweep.csv").set_index("node")
    assert list(table.index) == ["teacher", "teacher-clip"] and table["sparsity"]["teacher-clip"] > 0
    assert json.loads((run / "seed0/teacher-clip/metrics.json").read_text())["changes"][-1]["bound"] == 0.1
    for chapter in ("09_clip", "10_seen"):
        content = json.loads((run / "chapters" / chapter / "chapter.json").read_text())
        assert content["rows"]["zeros"][0]["zeros"] > 0
    again = study(project, "--profile", "toy", "--chapters", "10")
    assert again.returncode == 0 and "runs/toy/chapters/10_seen/notebook.ipynb" in again.stdout, again.stdout
    wrong = project / "papermill_params" / "toy.yaml"
    wrong.write_text(wrong.read_text().replace("bound: 0.1", "bund: 0.1"))
    refused = study(project, "--profile", "toy")
    assert refused.returncode and "clip.clipping.bund: unknown; did you mean 'bound'" in refused.stdout
