import json

import nbformat
import pandas as pd
import pytest
from projects import ROOT, copy_project

from engine.publish import figures
from engine.settings import chapters, parameters
from studylib.disk import files
from studylib.plots import prune
from studylib.plots.axes import plain_log_y
from studylib.results import style
from studylib.tree import names as tree_names
from studylib.tree import table
from studylib.tree.published import KEYS, Published


def run_of(tmp_path, **chapter):
    """A run's folder with a chapter that is done and one that is not."""
    folder = tmp_path / "runs" / "mine" / "chapters"
    (folder / "04_svd" / "figures").mkdir(parents=True)
    (folder / "05_int8").mkdir()
    (folder / "05_int8" / "notebook.ipynb").write_text("{}")
    content = {"chapter": "04_svd", "about": {"seeds": [0]}, "settings": {}, "metrics": {}, "rows": {}, "claims": []}
    (folder / "04_svd" / "chapter.json").write_text(json.dumps(content | chapter))
    for suffix in ("png", "pdf", "json"):
        (folder / "04_svd" / "figures" / f"spectra.{suffix}").write_text(suffix)
    return folder.parent


def test_a_chapter_was_run_if_its_last_cell_has_saved_it(tmp_path):
    assert [folder.name for folder in figures.chapters_done(run_of(tmp_path))] == ["04_svd"]


def test_a_chapter_is_published_as_one_file_of_rows_and_its_pictures(tmp_path):
    run, target = run_of(tmp_path, rows={"spectra": [{"a": 1}]}), tmp_path / "figures" / "mine"
    figures.publish_chapter(run / "chapters" / "04_svd", target, "mine")
    assert sorted(path.name for path in target.iterdir()) == ["04_svd.json", "spectra.pdf", "spectra.png"]
    content = json.loads((target / "04_svd.json").read_text())
    assert content["about"] == {"profile": "mine", "other_network": "", "seeds": [0]}
    assert content["rows"] == {"spectra": [{"a": 1}]}


def test_a_run_with_less_than_is_published_is_refused_before_anything_is_written(tmp_path, monkeypatch):
    published = {"nodes": ["teacher", "teacher-kd"], "seeds": [0, 1], "chapters": ["02_distill"]}
    whole = {"nodes": ["teacher", "teacher-kd", "teacher-imp"], "seeds": [0, 1, 2], "chapters": ["02_distill"]}
    assert figures._lost(published, whole) == ""
    part = {"nodes": ["teacher"], "seeds": [1], "chapters": []}
    assert figures._lost(published, part) == "nodes teacher-kd; seeds 0; chapters 02_distill"
    (tmp_path / "runs" / "digits").mkdir(parents=True)
    row = dict.fromkeys(table.COLUMNS, 1.0) | {"node": "teacher"}
    pd.DataFrame([row]).to_csv(tmp_path / "runs" / "digits" / "sweep.csv", index=False)
    (tmp_path / "figures" / "digits").mkdir(parents=True)
    (tmp_path / "figures" / "digits" / "about.json").write_text(json.dumps(published))
    monkeypatch.setattr(figures, "ROOT", tmp_path)
    monkeypatch.setattr(figures, "RESULTS", tmp_path / "figures" / "results.csv")
    monkeypatch.setattr(figures, "provenance", lambda run, rows, profile: part)
    with pytest.raises(SystemExit, match="lacks nodes teacher-kd; seeds 0; chapters 02_distill"):
        figures.main("digits")
    assert not (tmp_path / "figures" / "results.csv").exists()


SEEN = """import matplotlib.pyplot as plt
from studylib import lowrank
from studylib.node import Node
from studylib.settings import read
from studylib.tree.chapter import Chapter

node = Node.of(out, study, "16_seen", published)
svd = read(lowrank.Factorization, svd, "svd")
chapter = Chapter(node, svd=svd)

def draw(name):
    rows = chapter.rows(name, lambda: 1 / 0)
    figure, axis = plt.subplots()
    axis.plot(rows["a"])
    chapter.figure(f"{name}_{node.study.seed}_{svd.delta}", figure, rows)"""
TAKEN = """out: str = ""  # folder to write
published: str = ""  # a study that is shown
study: dict = {"dataset": "digits"}  # what it is run on
svd: dict = {"delta": 1}  # how far"""


@pytest.fixture
def seen(tmp_path, monkeypatch):
    """A project with one more chapter, which draws two pictures; what gives the folder of a study that has it."""
    project = copy_project(tmp_path / "copy")
    made = [nbformat.v4.new_code_cell(TAKEN, metadata={"tags": ["parameters"]}), nbformat.v4.new_code_cell(SEEN)]
    made += [nbformat.v4.new_code_cell(f"draw({name!r})") for name in ("first", "second")]
    kernel = {"kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"}}
    nbformat.write(nbformat.v4.new_notebook(cells=made, metadata=kernel), project / "notebooks" / "16_seen.ipynb")
    file = project / "papermill_params" / "chapters.yaml"
    with file.open("a") as more:
        more.write("seen: {notebook: 16_seen, role: chapter, minutes: 1, records: {svd: lowrank.Factorization}}\n")
    (project / "papermill_params" / "mine.yaml").write_text("study: {dataset: digits}\nseen: {svd: {delta: 2}}\n")
    for module in (chapters, parameters):
        monkeypatch.setattr(module, "ROOT", project)
    monkeypatch.setattr(chapters, "FILE", file)
    monkeypatch.setattr(parameters, "FOLDER", project / "papermill_params")

    def publish(**content):
        whole = {key: kind() for key, kind in KEYS.items()} | {
            "chapter": "16_seen",
            "about": {"data": {"name": "digits", "seed": 7}},
        }
        files.write_json(project / "figures" / "mine" / "16_seen.json", whole | content)
        return project / "figures" / "mine"

    return publish


ROWS = {"first": [{"a": 1}, {"a": 2}], "second": [{"a": 3}, {"a": 4}]}


def test_a_published_chapter_is_drawn_anew_from_its_rows_with_what_it_was_made_with(seen, capsys):
    target = seen(rows=ROWS, settings={"svd": {"delta": 3}, "study": {"dataset": "digits", "seed": 5}})
    (target / "first_5_3.png").write_bytes(b"old")
    figures.redraw("seen", target)
    names = ["first_5_3.pdf", "first_5_3.png", "second_5_3.pdf", "second_5_3.png"]
    assert sorted(path.name for path in target.iterdir()) == ["16_seen.json", *names]
    assert (target / "first_5_3.png").read_bytes().startswith(b"\x89PNG")
    assert "drawn in part" not in capsys.readouterr().out


@pytest.mark.parametrize(("has", "lacks"), [("first", "second"), ("second", "first")])
def test_of_a_published_chapter_without_some_rows_the_others_are_drawn_which_is_said(seen, capsys, has, lacks):
    target = seen(rows={has: ROWS[has]})  # of an earlier version, which kept no settings
    figures.redraw("seen", target)
    assert sorted(path.name for path in target.iterdir()) == ["16_seen.json", f"{has}_7_2.pdf", f"{has}_7_2.png"]
    said = f"16_seen: drawn in part ({has}_7_2): {target}/16_seen.json: it has no rows {lacks!r}: expected one of {has}"
    assert said in capsys.readouterr().out.splitlines()
    (target / "16_seen.json").unlink()
    figures.redraw("seen", target)  # not published there
    assert "16_seen" not in capsys.readouterr().out


def test_the_tree_and_the_front_of_published_nodes_are_drawn_without_a_chapter(tmp_path):
    rows = table.read_table(ROOT / "figures" / "results.csv").query("profile == 'digits'").drop(columns="profile")
    about = files.read_json(ROOT / "figures" / "digits" / "about.json")
    figures.draw_nodes(table.summary(rows), tmp_path, about)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["front.pdf", "front.png", "tree.pdf", "tree.png"]
    (tmp_path / "one").mkdir()
    figures.draw_nodes(table.summary(rows[rows["node"] == tree_names.TEACHER]), tmp_path / "one", about)
    assert not list((tmp_path / "one").iterdir())


def test_a_table_was_made_with_the_nodes_that_its_settings_name(tmp_path):
    content = {key: kind() for key, kind in KEYS.items()} | {"chapter": "07_sweep"}
    content["settings"] = {"tree": {"seeds": [4], "stages": ["svd"], "profile": "mine"}, "recipe": {"epochs": 3}}
    files.write_json(tmp_path / "07_sweep.json", content)
    given = figures.made_with("sweep", Published(tmp_path, "07_sweep"), "digits")
    assert given["seeds"] == [4] and given["stages"] == ["svd"] and given["profile"] == "mine"
    assert given["recipe"] == {"epochs": 3} and "tree" not in given
    assert given["controls"] == parameters.load("digits")["sweep"]["controls"]
    none = figures.made_with("sweep", Published(tmp_path, "07_sweep"), "no_profile_of_today")
    assert none == {name: given[name] for name in ("seeds", "stages", "profile", "recipe")}


def test_what_is_neither_run_nor_published_gets_a_sentence(tmp_path, monkeypatch):
    monkeypatch.setattr(figures, "ROOT", tmp_path)
    monkeypatch.setattr(figures, "RESULTS", tmp_path / "figures" / "results.csv")
    why = "neither run here nor published in figures/results.csv; "
    for name, then in {
        "smoke": "make study PROFILE=smoke",
        "smoke-moo": "make study PROFILE=smoke ROOT=moo",
        "smoke-mo": "root 'mo': unknown; did you mean 'moo'?; see roots in papermill_params/smoke.yaml",
        "smok": "papermill_params/smok.yaml: no such profile; did you mean 'smoke'?",
    }.items():
        with pytest.raises(SystemExit) as stopped:
            figures.main(name)
        assert str(stopped.value) == f"{name}: {why}{then}"
    assert not list(tmp_path.iterdir()) and (ROOT / "papermill_params" / "smoke.yaml").exists()


def test_files_are_drawn_only_where_a_chapter_with_files_is_published(tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "about.json").write_text(json.dumps({"data": {"name": "cifar10"}, "seeds": [0]}))
    columns = "profile,node,seed,val_accuracy,test_accuracy,bytes_file"
    (tmp_path / "results.csv").write_text(f"{columns}\nmine,teacher,0,0.9,0.9,1000\n")
    figures.draw_files(tmp_path)
    assert not list(tmp_path.glob("files.*"))


@pytest.mark.parametrize(("low", "high", "shown"), [(0.3, 0.9, "0.3 0.4 0.5 0.6 0.8"), (0.3, 6, "0.5 1 2 5")])
def test_a_logarithmic_axis_has_plain_numbers(low, high, shown):
    axis = style.plt.figure().subplots()
    axis.plot([0, 1], [low, high])
    plain_log_y(axis)
    axis.set_ylim(low, high)
    axis.figure.canvas.draw()
    texts = axis.yaxis.get_ticklabels(which="both")
    inside = [text for text in texts if 0.999 * low <= text.get_position()[1] <= 1.001 * high]
    assert sorted(text.get_text() for text in inside if text.get_text()) == shown.split()


def test_the_dashed_line_is_the_parent_and_weights_that_remain_fall(tmp_path):
    rows = pd.DataFrame([{"method": m, "sparsity": s, "accuracy": 0.5} for m in "ab" for s in (0.5, 0.98)])
    (axis,) = prune.draw_pruning(rows, pd.DataFrame({"after": [0.75, 0.7]})).axes
    assert any(list(line.get_ydata()) == [75.0, 75.0] for line in axis.lines)
    assert axis.xaxis_inverted() and list(axis.get_xticks()) == [50, 20, 10, 5, 2]
