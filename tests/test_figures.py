import json

from engine import figures
from studylib import claims


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
    assert [row["verdict"] for row in rows] == [claims.NOT_MEASURED, claims.REPRODUCED]
    assert rows[1] == {
        "chapter": "03",
        "paper says": "it costs 0.9 points of accuracy",
        "where": "section 5.2",
        "we measured": "+1.00 points",
        "verdict": claims.REPRODUCED,
        "dataset": "cifar10",
    }
    assert figures.claims_of(chapter(tmp_path / "04_svd", "nothing"), "cifar10") == []
