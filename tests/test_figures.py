import hashlib
import json
import re
import shutil

import pandas as pd
import pytest
from projects import ROOT

from engine.publish import figures, pages
from engine.settings import chapters, parameters
from studylib.disk.files import CheckpointError
from studylib.experiments import cited, frontier_published, published
from studylib.experiments.published import Figures
from studylib.plots import axes, prune
from studylib.results import style
from studylib.tree import table


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
    assert [folder.name for folder in published.chapters_done(run_of(tmp_path))] == ["04_svd"]


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A folder as the project: what is published, and the pages with their markers."""
    shutil.copytree(ROOT / "figures", tmp_path / "figures")
    for page in ("README.md", "docs/results.md", "CITATION.cff"):
        (tmp_path / page).parent.mkdir(exist_ok=True)
        shutil.copy(ROOT / page, tmp_path / page)
    monkeypatch.setattr(figures, "ROOT", tmp_path)
    return tmp_path


def tree_of(project):
    files = [path for path in project.rglob("*") if path.is_file()]
    return {path.relative_to(project): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def whole_run(project, study="mine", seeds=(0,), **chapter):
    """A run of one node and a chapter, with a coded file of 4 bytes."""
    run = run_of(project / "runs-of", **chapter)
    shutil.move(run, project / "runs" / study)
    run = project / "runs" / study
    made = {"git_commit": "abc", "date": "2030-01-02T03:04:05", "hardware": "h", "python": "3", "threads": 1}
    metrics = {"provenance": made | {"packages": {"torch": "2"}}, "data": {"name": "digits", "seed": 0, "test": 9}}
    metrics |= {"seed": 0, "bytes_file": 4, "file_sha256": hashlib.sha256(b"file").hexdigest(), "test_accuracy": 0.5}
    spec = {"name": "densenet", "args": {"depth": 16, "growth": 12}, "changes": [{"technique": "teacher"}]}
    for seed in seeds:
        folder = run / f"seed{seed}" / "teacher"
        folder.mkdir(parents=True)
        (folder / "metrics.json").write_text(json.dumps(metrics))
        (folder / "model.json").write_text(json.dumps({"spec": spec}))
        (folder / "model.slnc").write_bytes(b"file")
    (run / "latency.json").write_text(json.dumps(dict.fromkeys(("batch", "compiled", "threads", "seed", "device"), 1)))
    rows = [dict.fromkeys(table.COLUMNS, 1.0) | {"node": "teacher", "seed": seed} for seed in seeds]
    pd.DataFrame(rows).to_csv(run / "sweep.csv", index=False)
    return run


def test_a_run_is_published_as_nodes_chapters_and_files_named_for_what_they_are(project):
    run = whole_run(project, rows={"spectra": [{"a": 1}]})
    figures.publish(run, Figures(project / "figures"), force=True)
    there = Figures(project / "figures")
    assert list(there.nodes("mine")["node"]) == ["teacher"] and there.studies["mine"]["chapters"] == ["04_svd"]
    teacher = {"name": "densenet", "args": {"depth": 16, "growth": 12}, "restored": False}
    assert there.studies["mine"]["teacher"] == teacher
    chapter = there.chapter("mine", "svd")
    assert chapter["rows"] == {"spectra": [{"a": 1}]}
    assert chapter["about"] == {"profile": "mine", "other_network": "DenseNet-16 and its student", "seeds": [0]}
    assert sorted(path.name for path in (project / "figures" / "mine").iterdir()) == ["04_svd.json", "nodes.csv"]
    assert there.models["digits-densenet16-32bit.slnc"]["profile"] == "mine"
    assert (project / "figures" / "models" / "digits-densenet16-32bit.slnc").read_bytes() == b"file"


def test_a_name_that_another_study_has_is_told_apart_and_kept_at_the_next_time(project):
    figures.publish(whole_run(project, "mine"), Figures(project / "figures"), force=True)
    again = whole_run(project, "mine-twice")
    for _ in range(2):
        figures.publish(again, Figures(project / "figures"), force=True)
        models = Figures(project / "figures").models
        ours = [name for name, about in models.items() if about["profile"].startswith("mine")]
        assert ours == ["digits-densenet16-32bit-twice.slnc", "digits-densenet16-32bit.slnc"]


def test_a_run_with_less_than_is_published_is_refused_before_anything_is_written(project, monkeypatch):
    monkeypatch.setattr(cited, "draw", lambda there: None)
    figures.publish(whole_run(project, seeds=(0, 1)), Figures(project / "figures"), force=True)
    shutil.rmtree(project / "runs")
    run = whole_run(project)
    shutil.rmtree(run / "chapters")
    before = tree_of(project)
    with pytest.raises(SystemExit, match=r"^runs/mine lacks seeds 1; chapters 04_svd, which figures/mine/ has"):
        figures.main("mine")
    assert tree_of(project) == before
    figures.main("mine", force=True)
    assert Figures(project / "figures").studies["mine"]["seeds"] == [0]


def published_digits(project):
    """A run of the digits' settings with one chapter, 9, run anew; it has no nodes and no table."""
    run, published = (
        project / "runs" / "digits",
        json.loads((project / "figures" / "studies.json").read_text())["digits"],
    )
    folder = run / "chapters" / "09_survey"
    folder.mkdir(parents=True)
    (run / "study.json").write_text(json.dumps({key: published[key] for key in ("settings", "data_sha256")}))
    about = {"seeds": [0], "provenance": {"git_commit": "abc", "date": "2030-01-02T03:04:05", "hardware": "h"}}
    content = {"chapter": "09_survey", "about": about, "settings": {}, "metrics": {}, "rows": {"a": [{"b": 1}]}}
    (folder / "chapter.json").write_text(json.dumps(content | {"claims": []}))
    return run


@pytest.mark.parametrize("there_already", [True, False])
def test_one_chapter_of_a_run_is_published_and_nothing_else_of_its_study_changes(project, monkeypatch, there_already):
    monkeypatch.setattr(pages, "write", lambda root, there: None)
    published_digits(project)
    studies = project / "figures" / "studies.json"
    if not there_already:
        (project / "figures" / "digits" / "09_survey.json").unlink()
        content = json.loads(studies.read_text())
        content["digits"]["chapters"].remove("09_survey")
        studies.write_text(json.dumps(content))
    before, about = tree_of(project), Figures(project / "figures").studies
    figures.main("digits", chosen="9")
    after, there = tree_of(project), Figures(project / "figures")
    changed = {str(path) for path in after if before.get(path) != after[path]} - {"figures/studies.json"}
    assert changed == {"figures/digits/09_survey.json"} and before.keys() <= after.keys()
    chapter = there.chapter("digits", "survey")
    assert chapter["rows"] == {"a": [{"b": 1}]} and chapter["about"]["provenance"]["git_commit"] == "abc"
    assert chapter["about"]["profile"] == "digits" and "DenseNet-16" in chapter["about"]["other_network"]
    about["digits"]["chapters"] = sorted({*about["digits"]["chapters"], "09_survey"})
    assert there.studies == about and list(there.studies) == list(about)


@pytest.mark.parametrize(
    ("study", "chosen", "change", "said"),
    [
        (
            "digits",
            "9",
            lambda told: told["settings"]["teacher"]["network"].update(depth=7),
            "is 7, published 16",
        ),
        ("digits", "9", lambda told: told["data_sha256"].update({"0": "another"}), "other data: the images are not"),
        ("digits", "9", lambda told: told.pop("settings"), "settings not compared"),
        ("digits", "9 4", lambda told: None, "runs/digits lacks 04_svd: make chapters runs it"),
        ("digits", "8 9", lambda told: None, "runs/digits lacks 08_frontier"),
        ("paper", "9", lambda told: None, "figures/ has no study paper yet"),
        ("digits", "99", lambda told: None, "chapter '99': expected one that is run"),
    ],
)
def test_a_chapter_that_does_not_belong_to_what_is_published_is_refused(
    project, monkeypatch, study, chosen, change, said
):
    run = published_digits(project)
    told = json.loads((run / "study.json").read_text())
    change(told)
    (run / "study.json").write_text(json.dumps(told))
    before = tree_of(project)
    monkeypatch.setattr("sys.argv", ["figures.py", study, "--chapters", chosen])
    with pytest.raises(SystemExit, match=re.escape(said)):
        figures.command()
    assert tree_of(project) == before


def pointed(run, key, points):
    """A chapter of ``run`` with a coded file for each of ``points``, a node and the width of its network."""
    chapter = chapters.declared()[key]
    folder = run / "chapters" / chapter.name
    for node, width in points.items():
        (folder / "points" / node).mkdir(parents=True)
        file, score = f"{key} {node}".encode(), {"gpt": "test_bits_per_char", "vae": "test_bits_per_dim"}[key]
        about = {"seed": 0, score: 1.5, "test_more": 2.0, "bytes_file": len(file)}
        about |= {"file_sha256": hashlib.sha256(file).hexdigest()}
        about |= {"data": {"name": "pydoc" if key == "gpt" else "digits"}}
        spec = {"name": key, "changes": [{"technique": node.rpartition("-")[2]}]}
        spec["args"] = {"width": width} | ({"depth": 2} if key == "gpt" else {"classes": 0})
        (folder / "points" / node / "metrics.json").write_text(json.dumps(about))
        (folder / "points" / node / "model.json").write_text(json.dumps({"spec": spec}))
        (folder / "points" / node / "model.slnc").write_bytes(file)
    rows = {chapter.files: [{"name": node, "bytes": len(f"{key} {node}")} for node in points]}
    content = {"chapter": chapter.name, "about": {}, "settings": {}, "metrics": {}, "rows": rows, "claims": []}
    (folder / "chapter.json").write_text(json.dumps(content))


def test_a_chapter_that_reads_no_node_is_published_beside_a_study_of_other_settings(project, monkeypatch):
    monkeypatch.setattr(pages, "write", lambda root, there: None)
    run = published_digits(project)
    pointed(run, "gpt", {"text/seed0/teacher-int8": 8})
    (run / "study.json").write_text("{}")
    figures.main("digits", chosen="10")
    assert "published" in Figures(project / "figures").chapter("digits", "gpt")["rows"]
    with pytest.raises(SystemExit, match="not compared"):  # chapter 9 reads the teacher
        figures.main("digits", chosen="9 10")


def test_a_chapter_alone_is_published_with_its_files_in_the_place_of_those_that_it_had(project, monkeypatch):
    monkeypatch.setattr(pages, "write", lambda root, there: None)
    monkeypatch.setattr(published, "MODEL_BYTES", 1)  # files that generate are published whatever they take
    run = published_digits(project)
    before = Figures(project / "figures").models
    pointed(run, "vae", {"seed0/teacher-int8": 16, "seed0/teacher-x": 4})
    pointed(run, "gpt", {"text/seed0/teacher-int8": 32})
    figures.main("digits", chosen="10 11")
    there = Figures(project / "figures").models
    added = {"digits-vae16-8bit.slnc", "digits-vae4-32bit.slnc"}
    added |= {
        name for name, of in there.items() if of["node"] == "text/seed0/teacher-int8" and of["profile"] == "digits"
    }
    gone = {name for name, of in before.items() if "test_accuracy" not in of and of["profile"] == "digits"}
    assert len(added) == 3 and there.keys() == before.keys() - gone | added
    for name in added:
        content = (project / "figures" / "models" / name).read_bytes()
        assert content.startswith(b"gpt text" if "gpt" in name else b"vae seed0")
        assert there[name]["sha256"] == hashlib.sha256(content).hexdigest() and "test_more" not in there[name]
    assert {name: of for name, of in there.items() if name not in added} == {n: before[n] for n in before.keys() - gone}
    shutil.rmtree(run / "chapters" / "11_vae")
    pointed(run, "vae", {"seed0/teacher-x": 4})
    figures.main("digits", chosen="11")
    again = Figures(project / "figures").models
    assert again.keys() == there.keys() - {"digits-vae16-8bit.slnc"}
    assert not (project / "figures" / "models" / "digits-vae16-8bit.slnc").exists()


def test_a_chapter_whose_files_profiles_go_on_from_is_not_published_alone_and_a_damaged_one_not_at_all(
    project, monkeypatch
):
    run = published_digits(project)
    (run / "chapters" / "08_frontier").mkdir()
    shutil.copy(run / "chapters" / "09_survey" / "chapter.json", run / "chapters" / "08_frontier")
    before = tree_of(project)
    monkeypatch.setattr(figures, "_named_by", lambda name: ["others"] if "z97-4bit" in name else [])
    with pytest.raises(SystemExit, match=r"^profiles go on from digits-.*z97-4bit.slnc: it needs the whole run"):
        figures.main("digits", chosen="frontier")
    damaged = run / "chapters" / "09_survey" / "chapter.json"
    damaged.write_text('{"chapter": "09_survey"}')
    with pytest.raises(CheckpointError, match="expected about, which is a JSON object"):
        figures.main("digits", chosen="9")
    damaged.write_bytes((project / "runs/digits/chapters/08_frontier/chapter.json").read_bytes())
    assert tree_of(project) == before


def test_a_run_without_a_file_that_profiles_go_on_from_is_refused(project, monkeypatch):
    figures.publish(whole_run(project), Figures(project / "figures"), force=True)
    monkeypatch.setattr(figures, "_named_by", lambda name: ["others"] if name == "digits-densenet16-32bit.slnc" else [])
    file = project / "runs" / "mine" / "seed0" / "teacher" / "metrics.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"file_sha256": "another"}))
    with pytest.raises(SystemExit, match=r"lacks figures/models/digits-densenet16-32bit.slnc that others names"):
        figures.main("mine")


def test_what_is_published_gives_the_same_bytes_each_time_and_trains_nothing(project, monkeypatch):
    monkeypatch.setattr("studylib.training.loop.fit", lambda *given, **more: pytest.fail("it trains"))
    before = tree_of(project)
    figures.main("digits")
    drawn = {path for path in before if path.suffix in (".png", ".pdf")}  # by the fonts of this machine
    after = tree_of(project)
    assert set(after) == set(before) and {path for path in before if after[path] != before[path]} <= drawn


def test_the_citation_has_the_day_of_the_newest_result(project):
    figures.publish(whole_run(project), Figures(project / "figures"), force=True)
    pages.write(project, Figures(project / "figures"))
    assert "\ndate-released: 2030-01-02\n" in (project / "CITATION.cff").read_text()


def test_a_picture_is_drawn_where_its_rows_are_and_its_index_says_which_those_are(project):
    drawn = project / "figures" / "cited"
    shutil.rmtree(drawn)
    (project / "figures" / "cifar10" / "06_moo.json").unlink()
    cited.draw(Figures(project / "figures"))
    index = json.loads((drawn / cited.INDEX).read_text())
    assert set(index) == {*cited.PICTURES, cited.FILES} - {"ways_to_train_cifar10"}
    assert {path.stem for path in drawn.glob("*.png")} == {path.stem for path in drawn.glob("*.pdf")} == set(index)
    assert all((drawn / f"{name}.png").read_bytes().startswith(b"\x89PNG") for name in index)
    assert index["effects_digits"][0]["chapter"] == "07_sweep" and index["effects_digits"][0]["tables"] == ["effects"]


def test_files_are_drawn_only_where_a_chapter_with_files_is_published(project, monkeypatch):
    monkeypatch.setattr(cited, "PICTURES", {})
    for study in Figures(project / "figures").on_papers_data:
        (project / "figures" / study / "08_frontier.json").unlink(missing_ok=True)
    shutil.rmtree(project / "figures" / "cited")
    cited.draw(Figures(project / "figures"))
    assert cited.FILES not in json.loads((project / "figures" / "cited" / cited.INDEX).read_text())


def test_the_files_of_a_table_without_accuracies_are_all_published_with_the_score_of_their_task(project):
    chapter = chapters.declared()["vae"]
    run, nodes = whole_run(project), ["seed0/teacher", "seed0/teacher-int8"]
    folder = run / "chapters" / chapter.name
    folder.mkdir()
    rows = {chapter.files: [{"name": node, "bytes": size} for node, size in zip(nodes, (4, 5), strict=True)]}
    content = {"chapter": chapter.name, "about": {}, "settings": {}, "metrics": {}, "rows": rows, "claims": []}
    (folder / "chapter.json").write_text(json.dumps(content))
    spec = {"name": "vae", "args": {"width": 4, "classes": 0}, "changes": [{"technique": "teacher"}]}
    for node, width in zip(nodes, (4, 2), strict=True):
        shutil.copytree(run / "seed0" / "teacher", folder / "points" / node)
        metrics = json.loads((folder / "points" / node / "metrics.json").read_text())
        scores = {"seed": metrics.pop("seed"), "test_bits_per_dim": 1.5, "test_bits_evidence": 1.6}
        metrics.pop("test_accuracy")
        (folder / "points" / node / "metrics.json").write_text(json.dumps(scores | metrics))
        own = spec | {"args": spec["args"] | {"width": width}}
        (folder / "points" / node / "model.json").write_text(json.dumps({"spec": own}))
    figures.publish(run, Figures(project / "figures"), force=True)
    there = Figures(project / "figures").models
    for name, node in zip(("digits-vae4-32bit.slnc", "digits-vae2-32bit.slnc"), nodes, strict=True):
        assert there[name]["test_bits_per_dim"] == 1.5 and there[name]["node"] == node
        assert {"test_accuracy", "test_bits_evidence"}.isdisjoint(there[name])


def test_what_is_neither_run_nor_published_gets_a_sentence(tmp_path, monkeypatch):
    monkeypatch.setattr(figures, "ROOT", tmp_path)
    variant = parameters.variants("smoke")[0]
    for name, then in {
        "smoke": "make study PROFILE=smoke",
        f"smoke-{variant}": f"make study PROFILE=smoke VARIANT={variant}",
        f"smoke-{variant}x": f"did you mean {variant!r}?",
        "smok": "profile 'smok': no such profile; did you mean 'smoke'?",
    }.items():
        monkeypatch.setattr("sys.argv", ["figures.py", name])
        with pytest.raises(SystemExit) as stopped:
            figures.command()
        assert then in str(stopped.value)
    assert not list(tmp_path.iterdir())


DENSENET, CONVNET = {"depth": 22, "growth": 6}, {"widths": [8, 16]}


@pytest.mark.parametrize(
    ("network", "args", "changes", "node", "dataset", "name"),
    [
        ("resnet", {"depth": 20, "width": 32}, {"pruned": 0.96}, "a-960-4bit", "cifar10", "resnet20-width32-z96-4bit"),
        ("resnet", {"width": 16}, {"int8": 0}, "teacher-int8", "digits", "digits-resnet20-8bit"),
        ("mobilenetv2", {"width": 0.5}, {"pruned": 0.9}, "a-900-4bit", "cifar10", "mobilenetv2-0.5-z90-4bit"),
        ("vgg16", {}, {"int8": 0}, "teacher-int8", "digits", "digits-vgg16-64-8bit"),
        ("vgg", {"width": 20}, {"pruned": 0.85}, "a-850-4bit", "cifar10", "vgg20-z85-4bit"),
        ("densenet", DENSENET, {"pruned": 0.825}, "b-825-6bit", "cifar10", "densenet22-growth6-z82.5-6bit"),
        ("convnet", CONVNET, {"kd": 0, "svd": 0}, "teacher-kd-svd", "digits", "digits-student-svd-32bit"),
        ("convnet", CONVNET, {"int8": 0}, "teacher-int8", "digits", "digits-convnet8-8bit"),
        (
            "vae",
            {"width": 8, "classes": 0},
            {"kd": 0, "imp": 0.83, "int8": 0},
            "seed0/x",
            "digits",
            "digits-vae8-z83-8bit",
        ),
        (
            "gpt",
            {"depth": 2, "width": 32, "characters": 98},
            {"kd": 0, "imp": 0.49, "int8": 0},
            "text/seed0/x",
            "pydoc",
            "pydoc-gpt2-width32-z49-8bit",
        ),
    ],
)
def test_a_file_is_named_for_its_network_zeros_and_bits(network, args, changes, node, dataset, name):
    made = [{"technique": technique, "sparsity": share} for technique, share in changes.items()]
    assert frontier_published.file_name({"name": network, "args": args, "changes": made}, node, dataset) == name


@pytest.mark.parametrize(("low", "high", "shown"), [(0.3, 0.9, "0.3 0.4 0.5 0.6 0.8"), (0.3, 6, "0.5 1 2 5")])
def test_a_logarithmic_axis_has_plain_numbers(low, high, shown):
    axis = style.plt.figure().subplots()
    axis.plot([0, 1], [low, high])
    axes.plain_log_y(axis)
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
