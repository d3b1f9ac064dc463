import json
import math

import matplotlib.pyplot as plt
import pandas as pd
import pytest
from PIL import Image

from studylib.plots import sweep as of_sweep
from studylib.plots.axes import kilobyte_axis
from studylib.plots.prune import WAYS
from studylib.results import style, tables
from studylib.tree import names

pytestmark = pytest.mark.usefixtures("drawn")
NODES = names.nodes(["kd", "imp", "svd", "int8"])


# --- figures --------------------------------------------------------------------------------------------------


def test_a_figure_is_saved_with_the_rows_it_was_drawn_from(study_root):
    rows = pd.DataFrame({"node": ["teacher", "α"], "x": [1, 2], "y": [0.123456789, math.nan]})
    figure, axis = plt.subplots(figsize=(3, 2))
    axis.plot(rows["x"], rows["y"])
    style.save_figure(figure, "figures/curve.v2", rows, {"profile": "smoke"})
    folder = study_root / "figures"
    assert sorted(file.name for file in folder.iterdir()) == ["curve.v2.json", "curve.v2.pdf", "curve.v2.png"]
    content = json.loads((folder / "curve.v2.json").read_text())
    assert content["about"] == {"profile": "smoke"}
    assert content["rows"] == [{"node": "teacher", "x": 1, "y": 0.123456789}, {"node": "α", "x": 2, "y": None}]
    assert (folder / "curve.v2.pdf").read_bytes().startswith(b"%PDF")
    with Image.open(folder / "curve.v2.png") as image:
        assert min(image.info["dpi"]) >= 200
        assert image.width > 400


def test_the_same_figure_gives_the_same_bytes(tmp_path, summary):
    for name in ("a", "b"):
        style.save_figure(of_sweep.draw_tree(summary), tmp_path / name, summary)
    for suffix in ("png", "pdf", "json"):
        assert (tmp_path / f"a.{suffix}").read_bytes() == (tmp_path / f"b.{suffix}").read_bytes()


def test_style_is_sharp_enough_to_print():
    assert style.DPI >= 200
    assert plt.rcParams["pdf.fonttype"] == 42  # text stays text


def test_a_table_is_saved_with_where_it_comes_from(study_root):
    tables.save_table("figures/audit", pd.DataFrame({"bytes": [1, 2]}), {"profile": "smoke"})
    content = json.loads((study_root / "figures" / "audit.json").read_text())
    assert content == {"about": {"profile": "smoke"}, "rows": [{"bytes": 1}, {"bytes": 2}]}


# --- tables ---------------------------------------------------------------------------------------------------


def test_labels_are_for_people():
    assert tables.label("teacher") == "teacher"
    assert tables.label("teacher-kd-imp-svd-int8") == "distillation + pruning + SVD + int8"
    assert tables.label("teacher-new") == "new"


def test_plus_minus_leaves_out_what_there_is_not():
    assert tables.plus_minus(1.234, 0.056, 2) == "1.23 ± 0.06"
    assert tables.plus_minus(1.234, math.nan, 1) == "1.2"
    assert tables.plus_minus(math.nan, 0.1, 1) == "–"
    assert tables.plus_minus(math.nan, math.nan, 1) == "–"


def test_the_table_shows_units_and_deviations(summary):
    found = tables.display_table(summary).set_index("node")
    assert found.loc["teacher-kd", "test accuracy %"] == "94.20 ± 0.28"
    assert found.loc["teacher", "test accuracy %"] == "95.00"  # no ± where the seeds agree
    assert found.loc["teacher-kd", "file kB"] == "100.0"
    assert found.loc["teacher-kd", "saved %"] == "50.00"


def test_latency_without_a_value_is_a_dash(summary):
    found = tables.display_table(summary.assign(latency_ms=math.nan))
    assert set(found["latency ms"]) == {"–"}


def test_markdown_has_a_row_a_node(summary):
    lines = tables.markdown_table(summary).splitlines()
    assert len(lines) == 2 + len(NODES)
    assert [line.split(" | ")[0].removeprefix("| ") for line in lines[2:]] == NODES
    assert len({line.count("|") for line in lines}) == 1


def test_markdown_of_some_columns(summary):
    lines = tables.markdown_table(summary, ["node", "file kB"]).splitlines()
    assert lines[:3] == ["| node | file kB |", "|---|---:|", "| teacher | 200.0 |"]


def test_any_rows_in_markdown():
    rows = pd.DataFrame({"what": ["a", "b"], "bytes": [1234, 5], "share": [0.126, math.nan], "yes": [True, False]})
    lines = tables.markdown_rows(rows).splitlines()
    assert lines == [
        "| what | bytes | share | yes |",
        "|---|---:|---:|---:|",
        "| a | 1,234 | 0.13 | True |",
        "| b | 5 | – | False |",
    ]


def test_every_way_to_prune_has_a_name_that_a_reader_knows():
    from studylib.techniques import prune

    assert list(WAYS) == list(prune.METHODS) and len(set(WAYS.values())) == len(WAYS)


def test_bytes_are_labelled_in_kilobytes_and_plain_numbers():
    figure, axis = style.plt.subplots()
    axis.plot([1_500, 250_000], [1, 2])
    kilobyte_axis(axis, "file")
    figure.canvas.draw()
    shown = {label.get_text() for label in axis.get_xticklabels()}
    assert {"2", "20", "200"} <= shown and not any("$" in text for text in shown)
    assert "kB" in axis.get_xlabel()


def test_a_page_says_which_study_it_shows_and_a_caption_where_it_is_from():
    made = {"git_commit": "3eef1b4a2f4c", "date": "2026-11-24T12:55:22+00:00", "hardware": "AMD EPYC, 2 cores"}
    about = {"data": {"name": "cifar10", "seed": 0}, "provenance": made}
    alone = "Data set cifar10; seed 0; commit 3eef1b4a2f4c of 2026-11-24; on AMD EPYC, 2 cores."
    assert tables.where_from(about) == alone and tables.where_from({}) == ""
    published = {**about, "profile": "cifar10", "seeds": [0, 1]}
    assert tables.where_from(published) == alone.replace("; seed 0", "; profile cifar10; seeds 0, 1")
    several = {"data": {"name": "digits"}, "seeds": [3], **made, "git_commit": ["a", "b"], "hardware": ["here"]}
    assert tables.where_from(several) == "Data set digits; seed 3; commit a, b of 2026-11-24; on here."


def test_a_page_says_whether_its_rows_are_published_or_made_here(monkeypatch):
    shown = []
    monkeypatch.setattr("IPython.display.display", lambda said: shown.append(said.data))
    about = {"data": {"name": "digits", "seed": 0}}
    tables.show_study(about, "figures/digits")
    tables.show_study(about)
    tables.show_study({})
    assert shown == [
        "*This page shows the study published in `figures/digits`. Data set digits; seed 0.*",
        "*This page shows rows that were made here. Data set digits; seed 0.*",
        "*This page shows rows that were made here.*",
    ]
