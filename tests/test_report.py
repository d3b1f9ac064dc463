import json
import math

import matplotlib
import matplotlib.pyplot as plt
import pandas as pd
import pytest
from PIL import Image

from studylib import factorial, report, sweep
from studylib.plots import pruning
from studylib.plots import sweep as of_sweep

matplotlib.use("Agg")
NODES = sweep.nodes(["kd", "imp", "svd", "int8"])


@pytest.fixture(autouse=True)
def _default_style():
    with plt.rc_context():
        report.style()
        yield
    plt.close("all")


def table(nodes, seeds=(0, 1)):
    rows = []
    for seed in seeds:
        for i, node in enumerate(nodes):
            row = dict.fromkeys(sweep.COLUMNS, 0.5) | {"node": node, "seed": seed}
            sizes = {"bytes_file": 200_000 // (i + 1), "bytes_nonzero": 90_000 // (i + 1)}
            rows.append(row | sizes | {"test_accuracy": 0.95 - 0.01 * i + 0.004 * seed * (i > 0)})
    return pd.DataFrame(rows)


@pytest.fixture
def summary():
    return sweep.summary(table(NODES))


def texts(figure) -> str:
    figure.canvas.draw()
    return "\n".join(t.get_text() for t in figure.findobj(matplotlib.text.Text))


# --- figures --------------------------------------------------------------------------------------------------


def test_a_figure_is_saved_with_the_rows_it_was_drawn_from(study_root):
    rows = pd.DataFrame({"node": ["teacher", "α"], "x": [1, 2], "y": [0.123456789, math.nan]})
    figure, axis = plt.subplots(figsize=(3, 2))
    axis.plot(rows["x"], rows["y"])
    report.save_figure(figure, "figures/curve.v2", rows, {"profile": "smoke"})
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
        report.save_figure(of_sweep.draw_tree(summary), tmp_path / name, summary)
    for suffix in ("png", "pdf", "json"):
        assert (tmp_path / f"a.{suffix}").read_bytes() == (tmp_path / f"b.{suffix}").read_bytes()


def test_style_is_sharp_enough_to_print():
    assert report.DPI >= 200
    assert plt.rcParams["pdf.fonttype"] == 42  # text stays text


def test_the_tree_shows_every_node_with_its_numbers(summary):
    figure = plots.draw_tree(summary)
    shown = texts(figure)
    assert shown.count("saves") == len(NODES) == len(figure.axes[0].patches)
    assert len(figure.axes[0].lines) == len(NODES) - 1  # an edge to each parent
    for _, row in summary.iterrows():
        technique = report.label(row["node"].rpartition("-")[2])
        assert f"{technique}\n{100 * row['test_accuracy']:.1f} %\nsaves {100 * row['saved']:.1f} %" in shown


def test_boxes_of_the_tree_do_not_overlap(summary):
    boxes = [patch.get_window_extent() for patch in plots.draw_tree(summary).axes[0].patches]
    for i, a in enumerate(boxes):
        assert not any(a.overlaps(b) for b in boxes[i + 1 :])


def test_a_tree_of_one_node_is_drawn():
    assert "teacher" in texts(plots.draw_tree(sweep.summary(table(["teacher"]))))


@pytest.mark.parametrize("seeds", [(0,), (0, 1)])
def test_the_front_shows_every_node(seeds):
    summary = sweep.summary(table(NODES, seeds))
    figure = fronts.draw_front(summary)
    assert [t.get_text() for t in figure.legends[0].get_texts()] == [report.label(node) for node in NODES]
    for axis, column in zip(figure.axes, ("bytes_file", "bytes_nonzero"), strict=True):
        marks = [container.lines[0] for container in axis.containers]
        assert axis.get_xscale() == "log" and axis.get_xlim() == figure.axes[0].get_xlim()
        assert [mark.get_xdata()[0] for mark in marks] == pytest.approx(list(summary[column]))
        assert [mark.get_ydata()[0] for mark in marks] == pytest.approx(list(100 * summary["test_accuracy"]))


def test_marks_of_the_front_tell_the_nodes_apart(summary):
    containers = fronts.draw_front(summary).axes[0].containers
    looks = [
        (m.get_marker(), str(m.get_color()), str(m.get_markerfacecolor())) for m in (c.lines[0] for c in containers)
    ]
    assert len(set(looks)) == len(NODES)


def test_curves_show_the_history_and_the_kept_epoch():
    figure = plots.draw_curves(history(), "a title")
    shown = texts(figure)
    for part in ("a title", "loss (nats)", "accuracy (%)", "training views", "validation", "kept epoch"):
        assert part in shown
    loss, accuracy = figure.axes
    assert list(loss.lines[0].get_ydata()) == pytest.approx([0.1, 0.2, 0.3, 0.4])
    assert list(accuracy.lines[1].get_ydata()) == pytest.approx([10, 20, 30, 40])
    assert set(loss.lines[2].get_xdata()) == {2}  # the last epoch that was better than all before


def test_classes_and_reliability_show_their_rows():
    classes = pd.DataFrame({"class": ["cat", "dog"], "accuracy": [0.75, 0.9]})
    bins = pd.DataFrame({"confidence": [0.5, 0.9], "accuracy": [0.6, 0.8], "images": [10, 30]})
    left, right = plots.draw_classes_and_reliability(classes, bins).axes
    assert [bar.get_width() for bar in left.patches] == pytest.approx([75, 90])
    assert right.collections[0].get_offsets().tolist() == [[50, 60], [90, 80]]
    assert plots.mean_confidence(bins) == pytest.approx(0.8)


def test_the_control_shows_every_node_the_front_and_the_dense_networks(summary):
    controls = pd.DataFrame(
        {"kind": ["float32", "int8"], "bytes": [9e4, 3e4], "accuracy": [0.9, 0.89], "sd": [0.01, 0]}
    )
    figure, front = fronts.draw_control(summary, controls)
    expected = summary[factorial.pareto(summary, "bytes_file", "test_accuracy")]
    assert set(front) == set(expected["node"])
    assert len(figure.axes[0].containers) == len(NODES) + 2
    names = [t.get_text() for t in figure.legends[0].get_texts()]
    assert {"front", "narrower dense network, int8", *map(report.label, NODES)} == {*names} - {
        "narrower dense network, float32"
    }


def test_ways_to_train_have_a_panel_a_sparsity_and_a_ring_where_none_beats_them():
    rows = [
        {"way": way, "sparsity": sparsity, "bytes": size + seed, "test_accuracy": accuracy + 0.02 * seed}
        for way, sparsity, size, accuracy in (("a", 0.5, 5000, 0.8), ("b", 0.5, 6000, 0.7), ("a", 0.9, 1000, 0.6))
        for seed in (0, 1)
    ]
    figure, mean = fronts.draw_ways(pd.DataFrame([*rows, rows[0] | {"bytes": None}]), ["a", "b"])
    assert [axis.get_title() for axis in figure.axes] == ["90 % zeros", "50 % zeros"]
    assert mean["front"].tolist() == [True, False, True]
    assert mean["bytes"].tolist() == [5000.5, 6000.5, 1000.5]
    assert mean["test_accuracy_sd"].tolist() == pytest.approx(3 * [0.02 / 2**0.5])
    rings = [axis.collections[-1].get_offsets().tolist() for axis in figure.axes]
    assert rings == [[pytest.approx([1.0005, 61])], [pytest.approx([5.0005, 81])]]
    assert [text.get_text() for text in figure.axes[1].get_legend().get_texts()] == ["a", "b", "not beaten"]


def test_effects_are_filled_only_where_the_verdict_is_certain():
    common = {"image_low": 0.0, "image_high": 0.2, "seed_low": 0.05, "seed_high": 0.3, "seeds": 3}
    rows = [
        {"measure": m, "effect": e, "mean": 0.1, "verdict": v, **common}
        for m in ("test_accuracy", "test_nll")
        for e, v in (("kd", factorial.HELP), ("kd × imp", factorial.UNKNOWN))
    ]
    accuracy, nll = plots.draw_effects(pd.DataFrame(rows)).axes
    assert [line.get_markerfacecolor() for line in accuracy.lines if line.get_marker() == "o"] == ["black", "white"]
    assert [line.get_xdata()[0] for line in accuracy.lines if line.get_marker() == "o"] == pytest.approx(
        [10, 10]
    )  # points
    assert [line.get_xdata()[0] for line in nll.lines if line.get_marker() == "o"] == pytest.approx([0.1, 0.1])
    assert [t.get_text() for t in accuracy.get_yticklabels()] == ["distillation", "distillation × pruning"]


def test_a_table_is_saved_with_where_it_comes_from(study_root):
    report.save_table("figures/audit", pd.DataFrame({"bytes": [1, 2]}), {"profile": "smoke"})
    content = json.loads((study_root / "figures" / "audit.json").read_text())
    assert content == {"about": {"profile": "smoke"}, "rows": [{"bytes": 1}, {"bytes": 2}]}


# --- tables ---------------------------------------------------------------------------------------------------


def test_labels_are_for_people():
    assert report.label("teacher") == "teacher"
    assert report.label("teacher-kd-imp-svd-int8") == "distillation + pruning + SVD + int8"
    assert report.label("teacher-new") == "new"


def test_plus_minus_leaves_out_what_there_is_not():
    assert report.plus_minus(1.234, 0.056, 2) == "1.23 ± 0.06"
    assert report.plus_minus(1.234, math.nan, 1) == "1.2"
    assert report.plus_minus(math.nan, 0.1, 1) == "–"
    assert report.plus_minus(math.nan, math.nan, 1) == "–"


def test_the_table_shows_units_and_deviations(summary):
    found = report.display_table(summary).set_index("node")
    assert found.loc["teacher-kd", "test accuracy %"] == "94.20 ± 0.28"
    assert found.loc["teacher", "test accuracy %"] == "95.00"  # no ± where the seeds agree
    assert found.loc["teacher-kd", "file kB"] == "100.0"
    assert found.loc["teacher-kd", "saved %"] == "50.00"


def test_latency_without_a_value_is_a_dash(summary):
    found = report.display_table(summary.assign(latency_ms=math.nan))
    assert set(found["latency ms"]) == {"–"}


def test_markdown_has_a_row_a_node(summary):
    lines = report.markdown_table(summary).splitlines()
    assert len(lines) == 2 + len(NODES)
    assert [line.split(" | ")[0].removeprefix("| ") for line in lines[2:]] == NODES
    assert len({line.count("|") for line in lines}) == 1


def test_markdown_of_some_columns(summary):
    lines = report.markdown_table(summary, ["node", "file kB"]).splitlines()
    assert lines[:3] == ["| node | file kB |", "|---|---:|", "| teacher | 200.0 |"]


def test_any_rows_in_markdown():
    rows = pd.DataFrame({"what": ["a", "b"], "bytes": [1234, 5], "share": [0.126, math.nan], "yes": [True, False]})
    lines = report.markdown_rows(rows).splitlines()
    assert lines == [
        "| what | bytes | share | yes |",
        "|---|---:|---:|---:|",
        "| a | 1,234 | 0.13 | True |",
        "| b | 5 | – | False |",
    ]


def test_effects_in_markdown_have_their_intervals_and_verdicts():
    common = {"seed_low": -0.02, "seed_high": 0.04, "seeds": 3, "verdict": factorial.UNKNOWN, "effect": "imp × int8"}
    rows = [
        {"measure": "test_accuracy", "mean": 0.01, "image_low": 0.005, "image_high": 0.015, **common},
        {"measure": "log2 bytes_file", "mean": -1.5, "image_low": math.nan, "image_high": math.nan, **common},
    ]
    head, _, line = report.effects_table(pd.DataFrame(rows)).splitlines()
    assert (
        "accuracy (points) | accuracy, over seeds | accuracy, over images | accuracy: verdict | bytes (doublings)"
        in head
    )
    assert line.startswith("| pruning × int8 | +1.00 | -2.00 to +4.00 | +0.50 to +1.50 | cannot tell | -1.50 |")


def test_text_says_the_number_of_seeds(summary):
    text = report.text_table(summary)
    assert all(node in text for node in NODES) and text.endswith("n = 2 seeds")


def test_every_way_to_prune_has_a_name_that_a_reader_knows():
    from studylib import prune

    assert list(pruning.WAYS) == list(prune.METHODS) and len(set(pruning.WAYS.values())) == len(pruning.WAYS)


def test_bytes_are_labelled_in_kilobytes_and_plain_numbers():
    figure, axis = report.plt.subplots()
    axis.plot([1_500, 250_000], [1, 2])
    report.kilobyte_axis(axis, "file")
    figure.canvas.draw()
    shown = {label.get_text() for label in axis.get_xticklabels()}
    assert {"2", "20", "200"} <= shown and not any("$" in text for text in shown)
    assert "kB" in axis.get_xlabel()
