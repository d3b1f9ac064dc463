import json

import pandas as pd
import pytest

from engine import figures
from studylib import report
from studylib.plots import pruning


def run_of(tmp_path, **chapter):
    """A run's folder with a chapter that is done and one that is not."""
    folder = tmp_path / "runs" / "mine" / "chapters"
    (folder / "04_svd" / "figures").mkdir(parents=True)
    (folder / "05_quantize").mkdir()
    (folder / "05_quantize" / "notebook.ipynb").write_text("{}")
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
    assert content["about"] == {"profile": "mine", "seeds": [0]} and content["rows"] == {"spectra": [{"a": 1}]}


def test_settings_are_handed_to_a_notebook_as_the_parameters_that_it_has():
    settings = {"study": {"seed": 1}, "tree": {"profile": "mine", "seeds": [1]}, "gone": {"x": 1}, "old": 3}
    known = ["out", "study", "profile", "seeds"]
    assert figures.given_by(settings, known) == {"study": {"seed": 1}, "profile": "mine", "seeds": [1]}


def test_a_run_with_less_than_is_published_is_refused_before_anything_is_written(tmp_path, monkeypatch):
    published = {"nodes": ["teacher", "teacher-kd"], "seeds": [0, 1], "chapters": ["02_distill"]}
    whole = {"nodes": ["teacher", "teacher-kd", "teacher-imp"], "seeds": [0, 1, 2], "chapters": ["02_distill"]}
    assert figures._lost(published, whole) == ""
    part = {"nodes": ["teacher"], "seeds": [1], "chapters": []}
    assert figures._lost(published, part) == "nodes teacher-kd; seeds 0; chapters 02_distill"
    (tmp_path / "runs" / "digits").mkdir(parents=True)
    (tmp_path / "runs" / "digits" / "sweep.csv").write_text("node,seed\nteacher,1\n")
    (tmp_path / "figures" / "digits").mkdir(parents=True)
    (tmp_path / "figures" / "digits" / "about.json").write_text(json.dumps(published))
    monkeypatch.setattr(figures, "ROOT", tmp_path)
    monkeypatch.setattr(figures, "RESULTS", tmp_path / "figures" / "results.csv")
    monkeypatch.setattr(figures, "provenance", lambda run, rows, profile: part)
    with pytest.raises(SystemExit, match="lacks nodes teacher-kd; seeds 0; chapters 02_distill"):
        figures.main("digits")
    assert not (tmp_path / "figures" / "results.csv").exists()


def test_files_are_drawn_only_where_a_chapter_with_files_is_published(tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "about.json").write_text(json.dumps({"data": {"name": "cifar10"}, "seeds": [0]}))
    columns = "profile,node,seed,val_accuracy,test_accuracy,bytes_file"
    (tmp_path / "results.csv").write_text(f"{columns}\nmine,teacher,0,0.9,0.9,1000\n")
    figures.draw_files(tmp_path)
    assert not list(tmp_path.glob("files.*"))


@pytest.mark.parametrize(("low", "high", "shown"), [(0.3, 0.9, "0.3 0.4 0.5 0.6 0.8"), (0.3, 6, "0.5 1 2 5")])
def test_a_logarithmic_axis_has_plain_numbers(low, high, shown):
    axis = report.plt.figure().subplots()
    axis.plot([0, 1], [low, high])
    report.plain_log_y(axis)
    axis.set_ylim(low, high)
    axis.figure.canvas.draw()
    texts = axis.yaxis.get_ticklabels(which="both")
    inside = [text for text in texts if 0.999 * low <= text.get_position()[1] <= 1.001 * high]
    assert sorted(text.get_text() for text in inside if text.get_text()) == shown.split()


def test_the_dashed_line_is_the_parent_and_weights_that_remain_fall(tmp_path):
    rows = pd.DataFrame([{"method": m, "sparsity": s, "accuracy": 0.5} for m in "ab" for s in (0.5, 0.98)])
    (axis,) = pruning.draw_pruning(rows, pd.DataFrame({"after": [0.75, 0.7]})).axes
    assert any(list(line.get_ydata()) == [75.0, 75.0] for line in axis.lines)
    assert axis.xaxis_inverted() and list(axis.get_xticks()) == [50, 20, 10, 5, 2]
