import json

import pytest
from projects import ROOT, copy_project, edit

from engine.run import code
from engine.settings import chapters


@pytest.fixture
def project(tmp_path, monkeypatch):
    copy = copy_project(tmp_path / "copy")
    monkeypatch.setattr(code, "ROOT", copy)
    return copy


def digests(project, lesson=True):
    return {
        stage: code.digest(project / path.relative_to(ROOT), lesson) for stage, path in chapters.notebooks().items()
    }


def test_an_edit_changes_the_stages_that_use_the_module_and_no_other(project):
    before, chapters = digests(project, lesson=False), digests(project)
    edit(project / "studylib" / "techniques" / "prune.py", "fraction * _count(masks)[0]", "fraction * _count(masks)[1]")
    after = digests(project, lesson=False)
    found = {stage for stage in before if before[stage] != after[stage]}
    assert found == {"prune", "moo", "frontier", "survey", "gpt", "vae"}
    after = digests(project)
    users = {"prune", "moo", "sweep", "frontier", "survey", "gpt", "vae"}
    assert {stage for stage in chapters if chapters[stage] != after[stage]} == users


def test_a_module_in_a_folder_counts_as_one_beside_them(project):
    (project / "studylib" / "room").mkdir()
    (project / "studylib" / "room" / "__init__.py").touch()
    (project / "studylib" / "room" / "rank.py").write_text("LEAST = 1\n")
    edit(
        project / "studylib" / "techniques" / "svd.py",
        "import torch\n",
        "import torch\nfrom studylib.room import rank\n",
    )
    before = digests(project, lesson=False)
    edit(project / "studylib" / "room" / "rank.py", "LEAST = 1", "LEAST = 2")
    after = digests(project, lesson=False)
    assert {stage for stage in before if before[stage] != after[stage]} == {"svd", "survey", "gpt", "vae"}


def test_an_edit_below_reaches_every_stage_above(project):
    before = digests(project)
    edit(project / "studylib" / "data" / "sources.py", "TEST_SEED = 0", "TEST_SEED = 1")
    after = digests(project)
    assert {"teacher", "distill", "prune", "svd", "int8"} <= {
        stage for stage in before if before[stage] != after[stage]
    }


def test_comments_and_docstrings_change_nothing(project):
    before = digests(project)
    edit(
        project / "studylib" / "techniques" / "prune.py",
        '"""Iterative magnitude pruning',
        '# a remark\n"""About pruning',
    )
    edit(project / "studylib" / "data" / "tasks.py", '"""Cross-entropy with the labels', '"""The usual loss')
    assert digests(project) == before


def test_outputs_and_prose_of_a_notebook_change_nothing_and_its_code_does(project):
    before = digests(project)
    path = project / "notebooks" / "04_svd.ipynb"
    content = json.loads(path.read_text())
    for cell in content["cells"]:
        if cell["cell_type"] == "markdown":
            cell["source"] = ["another text"]
        else:
            cell["outputs"], cell["execution_count"] = [], 99
    path.write_text(json.dumps(content))
    assert digests(project) == before
    content["cells"][-2]["source"] = "x = 1"
    path.write_text(json.dumps(content))
    after = digests(project)
    assert {stage for stage in before if before[stage] != after[stage]} == {"svd"}


@pytest.mark.parametrize("tags, counts", [(["lesson"], False), (["a", "lesson"], False), ([], True), (["a"], True)])
def test_what_only_a_lesson_does_is_left_out(project, tags, counts):
    path = project / "notebooks" / "04_svd.ipynb"
    without, whole = code.digest(path, lesson=False), code.digest(path)
    content = json.loads(path.read_text())
    cell = {"cell_type": "code", "metadata": {"tags": tags}, "source": "from studylib.techniques import prune\nx = 1"}
    content["cells"].append(cell)
    path.write_text(json.dumps(content))
    assert (code.digest(path, lesson=False) != without) == counts and code.digest(path) != whole
