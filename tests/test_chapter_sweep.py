"""Chapter 7: its figures, its records, and its rows against small runs made by hand."""

import hashlib
import math

import numpy as np
import pandas as pd
import pytest
import torch

from studylib.data import datasets
from studylib.disk import files, models
from studylib.experiments import sweep, sweep_audit, sweep_effects, sweep_narrower
from studylib.experiments.sweep import Tree
from studylib.networks import layers, spec
from studylib.plots import sweep as plots
from studylib.results import statistics, tables
from studylib.results.chapter import Chapter
from studylib.settings import SettingError, read
from studylib.techniques import int8, prune
from studylib.training import loop
from studylib.training.recipe import Recipe
from studylib.tree import names
from studylib.tree.node import Node
from studylib.tree.table import COLUMNS
from studylib.tree.table import summary as summary_of

pytestmark = pytest.mark.usefixtures("drawn")
NODES = names.nodes(["distill", "prune", "svd", "int8"])
PAIRED = ["teacher", "teacher-imp", "teacher-int8", "teacher-imp-int8"]
TREE = {"profile": "small", "seeds": [0], "stages": ["prune", "int8"]}


def networks(seeds=(0, 1)):
    """Controls of two sizes; the accuracies of seed 1 are a point above those of seed 0."""
    rows = [
        {"seed": seed, "growth": growth, "kind": kind, "bytes": size, "accuracy": accuracy + 0.01 * seed}
        for seed in seeds
        for growth, kind, size, accuracy in (
            (1, "float32", 20_000, 0.80),
            (2, "float32", 80_000, 0.90),
            (1, "int8", 5_000, 0.70),
            (2, "int8", 20_000, 0.86),
        )
    ]
    return pd.DataFrame(rows)


# --- figures --------------------------------------------------------------------------------------------------


def test_the_tree_shows_every_node_with_its_numbers(summary, texts):
    figure = plots.draw_tree(summary)
    shown = texts(figure)
    assert shown.count("saves") == len(NODES) == len(figure.axes[0].patches)
    assert len(figure.axes[0].lines) == len(NODES) - 1  # an edge to each parent
    for _, row in summary.iterrows():
        technique = tables.label(row["node"].rpartition("-")[2])
        assert f"{technique}\n{100 * row['test_accuracy']:.1f} %\nsaves {100 * row['saved']:.1f} %" in shown


def test_boxes_of_the_tree_do_not_overlap(summary):
    boxes = [patch.get_window_extent() for patch in plots.draw_tree(summary).axes[0].patches]
    for i, a in enumerate(boxes):
        assert not any(a.overlaps(b) for b in boxes[i + 1 :])


def test_a_tree_of_one_node_is_drawn(texts, rows_of_nodes):
    assert "teacher" in texts(plots.draw_tree(summary_of(rows_of_nodes(["teacher"]))))


@pytest.mark.parametrize("seeds", [(0,), (0, 1)])
def test_the_front_shows_every_node(seeds, rows_of_nodes):
    summary = summary_of(rows_of_nodes(NODES, seeds))
    figure = plots.draw_front(summary)
    assert [t.get_text() for t in figure.legends[0].get_texts()] == ["front", *map(tables.label, NODES)]
    for axis, column in zip(figure.axes, ("bytes_file", "bytes_nonzero"), strict=True):
        marks = [container.lines[0] for container in axis.containers]
        assert axis.get_xscale() == "log" and axis.get_xlim() == figure.axes[0].get_xlim()
        assert [mark.get_xdata()[0] for mark in marks] == pytest.approx(list(summary[column]))
        assert [mark.get_ydata()[0] for mark in marks] == pytest.approx(list(100 * summary["test_accuracy"]))


def test_marks_of_the_front_tell_the_nodes_apart(summary):
    containers = plots.draw_front(summary).axes[0].containers
    looks = [
        (m.get_marker(), str(m.get_color()), str(m.get_markerfacecolor())) for m in (c.lines[0] for c in containers)
    ]
    assert len(set(looks)) == len(NODES)


def test_the_control_shows_every_node_the_front_and_the_dense_networks(summary):
    rows = sweep_narrower.control(summary, networks())
    figure = plots.draw_control(rows[rows["kind"].isin(["combination", "float32"]) | (rows["growth"] == 1)])
    assert len(figure.axes[0].containers) == len(NODES) + 2
    front = figure.axes[0].lines[0].get_xydata()
    expected = sweep.front(summary)
    assert front == pytest.approx(np.array([expected["bytes_file"], 100 * expected["test_accuracy"]]).T)
    names = [t.get_text() for t in figure.legends[0].get_texts()]
    kinds = [f"narrower dense network, {kind}" for kind in ("float32", "int8")]
    assert names == ["front", *map(tables.label, NODES), *kinds]


def test_effects_are_filled_only_where_the_verdict_is_certain():
    common = {"image_low": 0.0, "image_high": 0.2, "seed_low": 0.05, "seed_high": 0.3, "seeds": 3}
    rows = [
        {"measure": m, "effect": e, "mean": 0.1, "verdict": v, **common}
        for m in ("test_accuracy", "test_nll")
        for e, v in (("kd", statistics.HELP), ("kd × imp", statistics.UNKNOWN))
    ]
    accuracy, nll = plots.draw_effects(pd.DataFrame(rows)).axes
    assert [line.get_markerfacecolor() for line in accuracy.lines if line.get_marker() == "o"] == ["black", "white"]
    assert [line.get_xdata()[0] for line in accuracy.lines if line.get_marker() == "o"] == pytest.approx(
        [10, 10]
    )  # points
    assert [line.get_xdata()[0] for line in nll.lines if line.get_marker() == "o"] == pytest.approx([0.1, 0.1])
    assert [t.get_text() for t in accuracy.get_yticklabels()] == ["distillation", "distillation × pruning"]


def test_the_audit_finds_the_one_figure_that_does_not_follow():
    rows = sweep_audit.relations()
    apart = (rows["reported / implied"] - 1).abs() > 0.01
    assert list(apart) == [True, True, False, False, False, False, False]
    assert rows["implied"][1] == pytest.approx(126_443, abs=1)  # 3.95 MB × 11.9 % × 26.9 %
    assert rows["implied"][0] == pytest.approx(96.8, abs=0.01)


def test_effects_of_no_technique_are_said_to_be_none(texts):
    assert "no technique" in texts(plots.draw_effects(pd.DataFrame()))
    assert sweep_effects.effects_table(pd.DataFrame()) == "No technique was applied: there is no effect."
    assert sweep.told(pd.DataFrame(), 3).startswith("No technique was applied")


# --- records --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"growths": []}, r"controls\.growths=\[\]: expected at least 1 of them"),
        ({"growths": [0]}, r"controls\.growths\[0\]=0: expected at least 1"),
        ({"growths": [4, 4097]}, r"controls\.growths\[1\]=4097: expected at most 4096"),
        ({"growths": [3, 3]}, r"controls\.growths=\[3, 3\]: expected different ones"),
        ({"depth": 8}, r"controls\.depth=8: expected 3·n \+ 4"),
        ({"depth": 401}, r"controls\.depth=401: expected at most 400"),
        ({"calibration_images": 0}, r"controls\.calibration_images=0: expected at least 1"),
        ({"growth": [3]}, r"controls\.growth: unknown; did you mean 'growths'\?"),
    ],
)
def test_controls_that_cannot_be_are_refused(given, message):
    with pytest.raises(SettingError, match=message):
        read(sweep_narrower.Controls, given, "controls")


def test_controls_are_held_against_the_data(tiny):
    sweep_narrower.Controls([1, 2], 7, 100).against(tiny)
    with pytest.raises(ValueError, match=r"calibration_images=101: expected at most 100, the training images"):
        sweep_narrower.Controls([1], 7, 101).against(tiny)
    with pytest.raises(ValueError, match=r"growths=4000 at depth=40: \d+ channels or features"):
        sweep_narrower.Controls([1, 4000], 40, 8).against(tiny)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"seeds": []}, r"tree\.seeds=\[\]: expected at least 1 of them"),
        ({"seeds": [-1]}, r"tree\.seeds\[0\]=-1: expected at least 0"),
        ({"seeds": [1, 1]}, r"tree\.seeds=\[1, 1\]: expected different ones"),
        ({"stages": ["imp", "imp"]}, r"tree\.stages=.*: expected different ones"),
        ({"stages": ["imp", 1]}, r"tree\.stages\[1\]=1: expected a text"),
    ],
)
def test_a_tree_that_cannot_be_is_refused(given, message):
    with pytest.raises(SettingError, match=message):
        read(Tree, TREE | given, "tree")
    assert read(Tree, TREE, "tree").nodes == PAIRED


# --- rows -----------------------------------------------------------------------------------------------------


def test_margins_are_over_the_better_line_at_equal_bytes_seed_by_seed(rows_of_nodes):
    rows = rows_of_nodes(["teacher", "teacher-kd", "teacher-imp"])
    rows["bytes_file"] = rows["node"].map({"teacher": 200_000, "teacher-kd": 40_000, "teacher-imp": 1_000})
    found = sweep_narrower.margins(rows, networks()).set_index("node")
    assert list(found.columns) == ["bytes", "accuracy %", "control %", "margin", "sd", "verdict"]
    assert found.loc["teacher", "control %"] == pytest.approx(90.5)  # beyond the largest: 0.90 and 0.91
    assert found.loc["teacher", "margin"] == pytest.approx(4.5)  # 0.95 both times
    assert found.loc["teacher", "sd"] == pytest.approx(100 * 0.01 / 2**0.5)
    between = 0.80 + 0.10 * math.log(2) / math.log(4)  # float32 at 40 kB, half of the way; int8 stays at 0.86
    assert found.loc["teacher-kd", "control %"] == pytest.approx(100 * (max(between, 0.86) + 0.005))
    assert found.loc["teacher-imp", "verdict"] == sweep_narrower.TOO_SMALL and math.isnan(
        found.loc["teacher-imp", "margin"]
    )
    assert list(sweep_narrower.margins(rows[rows["seed"] == 0], networks())["verdict"])[:2] == 2 * [statistics.UNKNOWN]


def test_verdicts_on_margins_need_the_seeds_to_agree():
    rows = pd.DataFrame(
        {"node": node, "seed": s, "test_accuracy": a + 0.01 * s + 0.0001 * s, "bytes_file": 90_000}
        for node, a in (("teacher", 0.95), ("teacher-kd", 0.85))
        for s in (0, 1, 2)
    )
    found = sweep_narrower.margins(rows, networks((0, 1, 2)))
    assert list(found["verdict"]) == [sweep_narrower.BEATS, sweep_narrower.BEATEN]
    said = sweep_narrower.told(found, 3)
    assert said.startswith(
        "At equal bytes 1 of 2 combinations beat the narrower dense networks (teacher), 1 are beaten"
    )
    assert said.endswith("(distillation), 0 cannot be told apart from them with n = 3 seeds.")


def test_the_control_has_the_means_of_its_networks_beside_the_combinations(summary):
    rows = sweep_narrower.control(summary, networks())
    assert list(rows.columns[-5:]) == ["kind", "growth", "bytes", "accuracy", "sd"]
    assert (rows["kind"] == "combination").sum() == len(NODES)
    bare = rows[rows["kind"] == "int8"]
    assert list(bare["bytes"]) == [5_000, 20_000] and list(bare["accuracy"]) == pytest.approx([0.705, 0.865])
    assert list(bare["sd"]) == pytest.approx(2 * [0.01 / 2**0.5])
    assert sweep_narrower.control(summary, networks((0,)))["sd"].isna().all()


def test_steps_of_a_training_count_the_last_small_batch():
    assert sweep_narrower.steps(Recipe(3, batch_size=32), 65) == 9


def test_networks_are_trained_once_and_only_where_the_data_can_have_them(monkeypatch, tiny, tmp_path):
    monkeypatch.setattr(datasets, "load", lambda name, seed=0: tiny)
    recipe, cpu = Recipe(1, 1e-2, batch_size=50, augmentation="none"), torch.device("cpu")
    with pytest.raises(ValueError, match="calibration_images=101"):
        sweep_narrower.trained("digits", [0], sweep_narrower.Controls([1], 7, 101), recipe, cpu, tmp_path)
    found = [sweep_narrower.trained("digits", [0], sweep_narrower.Controls([1], 7, 8), recipe, cpu, tmp_path)]
    monkeypatch.setattr(loop, "fit", None)
    found.append(sweep_narrower.trained("digits", [0], sweep_narrower.Controls([1], 7, 8), recipe, cpu, tmp_path))
    pd.testing.assert_frame_equal(*found)
    assert {"seed", "growth", "kind", "bytes", "val_accuracy", "accuracy"} <= set(found[0])


def test_tables_leave_out_the_reference_coder_where_it_was_not_run(summary):
    assert list(sweep.bytes_by_count(summary)) == ["node", *sweep.ACCOUNTINGS]
    without = sweep.bytes_by_count(summary.assign(bytes_nncodec=math.nan))
    assert "nncodec" not in without and len(without) == len(NODES)
    half = sweep.half_precision(
        pd.DataFrame(
            {
                "node": ["teacher"],
                "bytes_file": [4000.0],
                "bytes_file_float16": [1000.0],
                "val_accuracy": [0.9],
                "val_accuracy_float16": [0.89],
            }
        )
    )
    assert list(half.iloc[0]) == ["teacher", 4.0, 1.0, 75.0, pytest.approx(1.0)]


def test_the_front_is_what_none_beats_the_smallest_first(summary):
    found = sweep.front(summary)
    assert list(found["bytes_file"]) == sorted(found["bytes_file"])
    assert "teacher" in set(found["node"]) and NODES[-1] in set(found["node"])


def test_effects_are_told_the_largest_first_and_only_where_they_are_certain():
    rows = [
        {"measure": measure, "effect": effect, "mean": mean, "verdict": verdict}
        for measure, effect, mean, verdict in (
            ("test_accuracy", "kd", 0.01, statistics.HELP),
            ("test_accuracy", "imp", -0.02, statistics.HURT),
            ("test_accuracy", "kd × imp", 0.5, statistics.UNKNOWN),
        )
    ]
    said = sweep.told(pd.DataFrame(rows), 3)
    assert said == (
        "Effects told from noise with n = 3 seeds, of 3 each: accuracy (points): pruning -2, distillation +1; "
        "nll (nats): none; bytes (doublings): none."
    )


# --- a run ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def made(teacher_model, tiny):
    """The models of a tree of pruning and int8, untrained after the teacher's."""
    masks = prune.shrink_masks(layers.prunable(teacher_model), layers.masks_of(teacher_model), 0.9)
    pruned = layers.duplicate(teacher_model)
    with torch.no_grad():
        for name, weight in layers.prunable(pruned).items():
            weight.mul_(masks[name])
    dense8, pruned8 = (int8.apply(model, tiny, calibration_images=16) for model in (teacher_model, pruned))
    return dict(zip(PAIRED, (teacher_model, pruned, dense8, pruned8), strict=True))


@pytest.fixture
def run(made, study_root, rows_of_nodes):
    """A run of one seed. Logits are of four images: the pruned network gets one wrong, int8 changes them a little."""
    rows = rows_of_nodes(PAIRED, (0,))
    for row, (node, model) in zip(rows.to_dict("records"), made.items(), strict=True):
        folder = study_root / "runs" / "small" / "seed0" / node
        models.save_model(folder, model)
        about = {"data": {"name": "digits", "train": 100}, "provenance": {"git_commit": "abc"}}
        digest = hashlib.sha256(node.encode()).hexdigest()
        files.write_json(folder / names.METRICS, row | about | {"file_sha256": digest})
        files.write_bytes(folder / names.CODED, node.encode())
        logits = torch.eye(4) * (2.0 if "int8" in node else 2.5)
        logits[3] = logits[3].flip(0) if "imp" in node else logits[3]
        files.write_tensors(folder / names.LOGITS, {"logits": logits, "labels": torch.arange(4)})
    return "runs/small"


def tree(**given):
    return read(Tree, TREE | given, "tree")


def test_a_run_that_is_not_there_is_named_with_the_command_that_makes_it(study_root):
    for ask in (sweep.about, sweep.identity, sweep.nodes):
        with pytest.raises(FileNotFoundError, match=r"runs/smoke: no run here.*make study PROFILE=smoke"):
            ask("runs/smoke", tree())


def test_rows_of_a_run_are_told_by_what_it_left(run, study_root):
    found = sweep.nodes(run, tree())
    assert list(found["node"]) == PAIRED and list(found.columns) == COLUMNS
    assert sweep.about(run, tree()) == {
        "profile": "small",
        "seeds": [0],
        "data": {"name": "digits", "train": 100},
        "provenance": {"git_commit": "abc"},
    }
    before = sweep.identity(run, tree())
    assert before == sweep.identity(run, tree()) and len(before) == 2 * len(PAIRED)
    files.write_json(study_root / run / names.LATENCY, {"latency_ms": {}})
    assert len(sweep.identity(run, tree())) == 2 * len(PAIRED) + 1
    metrics = study_root / run / "seed0" / "teacher-imp" / names.METRICS
    files.write_json(metrics, files.read_json(metrics) | {"seconds": 7.0})
    assert len(set(sweep.identity(run, tree())) & set(before)) == 2 * len(PAIRED) - 1
    (study_root / run / "seed0" / "teacher-int8" / models.TENSORS).write_bytes(b"x")
    with pytest.raises(files.CheckpointError, match="teacher-int8"):
        sweep.identity(run, tree())


def test_rows_are_made_again_where_a_node_was_and_only_there(run, study_root):
    def chapter():
        node = Node("runs/here", "digits", 0)
        give = {
            "about": lambda: sweep.about(run, tree()),
            "key": lambda: sweep.identity(run, tree()),
        }
        return Chapter(node, **give, tree=tree())

    calls = []

    def count():
        calls.append(1)
        return sweep.nodes(run, tree())

    assert chapter().about["profile"] == "small"
    for _ in range(2):
        pd.testing.assert_frame_equal(chapter().rows("nodes", count), sweep.nodes(run, tree()), check_dtype=False)
    assert len(calls) == 1
    metrics = study_root / run / "seed0" / "teacher-imp" / names.METRICS
    files.write_json(metrics, files.read_json(metrics) | {"seconds": 7.0})
    assert 7.0 in set(chapter().rows("nodes", count)["seconds"]) and len(calls) == 2


def test_effects_of_a_run(run):
    found = sweep.effects(run, tree(), sweep.nodes(run, tree()))
    assert list(found["effect"]) == 3 * ["imp", "int8", "imp × int8"]
    assert list(found["measure"].unique()) == list(sweep.MEASURES)
    assert sweep.effects(run, tree(stages=[]), sweep.nodes(run, tree(stages=[]))).empty


def test_claims_are_of_the_nodes_that_are_there(run):
    found = sweep.claims_of(run, tree(), sweep.nodes(run, tree()))
    assert found["best_accuracy"].value == pytest.approx(75.0) and found["best_cost"].value == pytest.approx(25.0)
    assert found["pruning_helps_int8"].value == 0 and found["svd_worst"] is found["int8_mends"] is None
    assert found["best_bytes"].value == 22_500  # a quarter of 90,000, the fourth node's
    assert found["pruned_loses_less"].value == pytest.approx(0, abs=1e-12)  # the same logits in another order
    alone = sweep.claims_of(run, tree(stages=[]), sweep.nodes(run, tree(stages=[])))
    assert set(alone.values()) == {None}


def test_divergence_is_that_of_the_predictions(run, study_root):
    p, q = (np.exp(2.5), 1, 1, 1), (np.exp(2.0), 1, 1, 1)
    p, q = np.array(p) / sum(p), np.array(q) / sum(q)
    found = sweep.divergence(study_root / run, [0], "teacher", "teacher-int8")
    assert found.shape == (1, 4) and found == pytest.approx(np.full((1, 4), (p * np.log(p / q)).sum()), rel=1e-6)


# --- the audit ------------------------------------------------------------------------------------------------


def test_the_paper_does_not_agree_with_itself():
    relations = sweep_audit.relations()
    assert (relations["reported / implied"] == relations["reported"] / relations["implied"]).all()
    said = sweep_audit.disagree(relations)
    assert said.startswith(f"5 of {len(relations)} relations agree within a hundredth") and "bytes by the same" in said


def test_candidates_are_counted_in_our_own_models(run, made):
    summary = summary_of(sweep.nodes(run, tree()))
    found = pd.DataFrame(sweep_audit.candidates(run, tree(), summary)).set_index("candidate")
    assert list(found.columns) == ["bytes", "of", "saved %", "from the published", "reproduces it"]
    living = sum(int((layer.weight != 0).sum()) for layer in layers.weight_layers(made["teacher-imp-int8"]).values())
    assert found.loc["values alone, positions free", "bytes"] == living
    parts = found.loc[["values alone, positions free", "biases and scales alone, no weight left"], "bytes"].sum()
    assert found.loc["with biases and scales (the paper's count)", "bytes"] == parts
    assert (found["saved %"] - 99.84).tolist() == pytest.approx(found["from the published"].tolist())
    fused = found[found.index.str.contains("batch norm fused")]["bytes"]
    assert list(fused) in ([0, 0], [])  # [] where torch has no eager quantization any more
    said = sweep_audit.table(found.reset_index())
    assert said.count("\n| ") == 1 + len(found) and "The published saving would leave" in said
    told = sweep_audit.told(sweep_audit.relations(), found.reset_index())
    assert "20 times fewer" in told and "nearest: " in told


def test_without_the_eager_quantization_its_candidates_are_skipped(run, monkeypatch):
    monkeypatch.setattr(sweep_audit, "parameters_left", lambda model, fuse: None)
    summary = summary_of(sweep.nodes(run, tree()))
    assert len(sweep_audit.candidates(run, tree(), summary)) == 6


@pytest.mark.parametrize("kind", ["teacher", "resnet"])
def test_parameters_of_an_eagerly_converted_model_are_its_batch_norms(kind, teacher_model, tiny):
    resnet = spec.create("resnet", 0, **tiny.model_args, depth=8, width=2)
    model = {"teacher": teacher_model, "resnet": resnet}[kind]
    if (left := sweep_audit.parameters_left(model, fuse=False)) is None:
        pytest.skip("torch has no eager quantization any more")
    norms = [m for m in model.modules() if isinstance(m, torch.nn.BatchNorm2d)]
    assert left == 4 * sum(p.numel() for m in norms for p in m.parameters())
    assert sweep_audit.parameters_left(model, fuse=True) == 0


def test_a_sparser_network_is_taken_there_in_steps_and_kept(run, tiny, study_root, monkeypatch):
    monkeypatch.setattr(datasets, "load", lambda name, seed=0: tiny)
    recipe = Recipe(10, 1e-2, batch_size=50, augmentation="none")
    ask = (run, tree(), "digits", recipe, torch.device("cpu"), study_root / "kept")
    found = pd.DataFrame(sweep_audit.sparser(*ask))
    assert list(found.columns) == ["sparsity", "accuracy", "needed"] and len(found) == 1 + sweep_audit.STEPS
    assert found["sparsity"].is_monotonic_increasing
    assert found["sparsity"].iloc[-1] == pytest.approx(found["needed"].iloc[0])
    monkeypatch.setattr(prune, "trajectory", None)
    assert pd.DataFrame(sweep_audit.sparser(*ask)).equals(found)
    assert sweep_audit.steps(found).startswith(
        f"Values alone fit at {found['needed'][0]:.2%} zeros. Validation accuracy: "
    )


@pytest.mark.parametrize("stages", [[], ["int8"], ["imp"]])
def test_without_both_stages_the_audit_says_so(stages, run, study_root):
    there = tree(stages=stages)
    assert sweep_audit.candidates(run, there, pd.DataFrame()) == []
    assert sweep_audit.sparser(run, there, "digits", Recipe(1), torch.device("cpu"), study_root) == []
    assert sweep_audit.table(pd.DataFrame()) == sweep_audit.steps(pd.DataFrame()) == sweep_audit.NOT_BOTH
    assert sweep_audit.told(sweep_audit.relations(), pd.DataFrame()).endswith(sweep_audit.NOT_BOTH)
