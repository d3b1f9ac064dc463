import json
from pathlib import Path

import pandas as pd
import pytest

from engine import figures
from studylib import claims, plots, report


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


def chapter(folder, *texts):
    """A chapter's folder with an executed notebook that shows these texts."""
    folder.mkdir()
    outputs = [{"output_type": "display_data", "data": {"text/markdown": [text]}} for text in texts]
    cells = [{"cell_type": "markdown"}, {"cell_type": "code", "execution_count": 1, "outputs": outputs}]
    (folder / "notebook.ipynb").write_text(json.dumps({"cells": cells}))
    return folder


def test_what_a_chapter_says_of_the_paper_is_taken_from_its_last_table(tmp_path):
    table = claims.table("imp", {"imp_cost": claims.Measured(1.0)}, "cifar10")
    rows = figures.claims_of(chapter(tmp_path / "03_pruning", "| a | b |\n|---|---|\n| 1 | 2 |", table), "cifar10")
    assert [row["verdict"] for row in rows] == [claims.NOT_MEASURED, f"{claims.UNDECIDED}: no interval"]
    assert rows[1] == {
        "chapter": "03",
        "paper says": "it costs 0.9 points of accuracy",
        "where": "section 5.2",
        "we measured": "+1.00 points",
        "verdict": f"{claims.UNDECIDED}: no interval",
        "dataset": "cifar10",
    }
    assert figures.claims_of(chapter(tmp_path / "04_svd", "nothing"), "cifar10") == []


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


def test_files_are_drawn_only_where_chapter_8_is_published(tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "about.json").write_text(json.dumps({"data": {"name": "cifar10"}, "seeds": [0]}))
    columns = "profile,node,seed,val_accuracy,test_accuracy,bytes_file"
    (tmp_path / "results.csv").write_text(f"{columns}\nmine,teacher,0,0.9,0.9,1000\n")
    figures.draw_files(tmp_path)
    assert not list(tmp_path.glob("files.*"))


def test_the_ways_to_train_are_redrawn_from_what_is_published_of_them(tmp_path):
    figures.draw_ways(tmp_path)
    assert not list(tmp_path.iterdir())
    row = {"way": "PCD", "seed": 0, "sparsity": 0.5, "test_accuracy": 0.5}
    rows = [row | {"stage": "one-shot", "bytes": None}, row | {"stage": "fine-tuned", "bytes": 4000.0}]
    (tmp_path / "moo_sparsity.json").write_text(json.dumps({"about": {"seeds": [0]}, "rows": rows}))
    figures.draw_ways(tmp_path)
    drawn = json.loads((tmp_path / "moo_front.json").read_text())
    assert drawn["about"] == {"seeds": [0]} and [row["bytes"] for row in drawn["rows"]] == [4000.0]
    assert (tmp_path / "moo_front.png").exists() and (tmp_path / "moo_front.pdf").exists()


@pytest.mark.parametrize("profile", ["cifar10", "digits"])  # of one seed, and of two and three
def test_chapters_3_and_6_are_redrawn_from_their_published_rows(tmp_path, profile):
    figures.draw_pruning(tmp_path)
    assert not list(tmp_path.iterdir())
    published, names = Path(figures.ROOT) / "figures" / profile, ("accuracy_against_sparsity", "moo_sparsity")
    for name in (*names, "accuracy_by_round"):
        (tmp_path / f"{name}.json").write_bytes((published / f"{name}.json").read_bytes())
    figures.draw_pruning(tmp_path)
    figures.draw_ways(tmp_path)
    for name in names:
        assert (tmp_path / f"{name}.png").exists() and (tmp_path / f"{name}.pdf").exists()
        assert json.loads((tmp_path / f"{name}.json").read_text()) == json.loads(
            (published / f"{name}.json").read_text()
        )


def test_chapter_2_is_redrawn_from_its_published_rows(tmp_path):
    figures.draw_students(tmp_path)
    assert not list(tmp_path.iterdir())
    published, file = Path(figures.ROOT) / "figures" / "digits", "with_and_without_teacher.json"
    (tmp_path / file).write_bytes((published / file).read_bytes())
    figures.draw_students(tmp_path)
    assert (tmp_path / file).with_suffix(".png").exists() and (tmp_path / file).with_suffix(".pdf").exists()
    assert json.loads((tmp_path / file).read_text()) == json.loads((published / file).read_text())


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
    (axis,) = plots.draw_pruning(rows, 0.75).axes
    assert any(list(line.get_ydata()) == [75.0, 75.0] for line in axis.lines)
    assert axis.xaxis_inverted() and list(axis.get_xticks()) == [50, 20, 10, 5, 2]


def test_chapter_7_is_redrawn_from_its_published_rows(tmp_path):
    for profile in ("cifar10", "digits"):  # of one seed, and of three
        folder, published = tmp_path / profile, Path(figures.ROOT) / "figures" / profile
        folder.mkdir()
        for name in ("control", "effects"):
            (folder / f"{name}.json").write_bytes((published / f"{name}.json").read_bytes())
        figures.draw_comparisons(folder)
        for name in ("control", "effects"):
            assert (folder / f"{name}.png").exists() and (folder / f"{name}.pdf").exists()
            before, after = (json.loads((where / f"{name}.json").read_text()) for where in (published, folder))
            assert after == before


def test_a_figure_says_of_which_seeds_it_is(tmp_path):
    path = tmp_path / "a.json"
    for rows, seeds in (([{"seed": 2}, {"seed": 0}], [0, 2]), ([{"x": 1}], [7]), ([{"seeds": 3.0}], [7, 8, 9])):
        path.write_text(json.dumps({"about": {"data": {"seed": 7}}, "rows": rows}))
        figures.name_seeds(path)
        assert json.loads(path.read_text())["about"]["seeds"] == seeds


def test_a_claim_says_when_the_chapter_that_answers_it_was_run(tmp_path):
    figures.name_chapters(tmp_path)
    assert not list(tmp_path.iterdir())
    claimed = [{"chapter": "04", "verdict": "a"}, {"chapter": "08", "verdict": "b"}, {"chapter": "01", "verdict": "c"}]
    (tmp_path / "claims.json").write_text(json.dumps({"about": {"date": "nodes"}, "rows": claimed}))
    drawn = {
        "spectra": ("old", "1", [0]),
        "accuracy_against_delta": ("new", "2", [0, 1]),
        "frontier": ("last", "3", [0]),
    }
    for name, (commit, date, seeds) in drawn.items():
        about = {"seeds": seeds, "provenance": {"git_commit": commit, "date": date}}
        (tmp_path / f"{name}.json").write_text(json.dumps({"about": about, "rows": []}))
    figures.name_chapters(tmp_path)
    content = json.loads((tmp_path / "claims.json").read_text())
    assert content["about"] == {"seeds": [0, 1], "provenance": {"git_commit": "last", "date": "3"}}
    assert content["rows"][0] == claimed[0] | {"git_commit": ["new", "old"], "date": "2", "seeds": [0, 1]}
    assert content["rows"][1] == claimed[1] | {"git_commit": ["last"], "date": "3", "seeds": [0]}
    assert content["rows"][2] == claimed[2]
