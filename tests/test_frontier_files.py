import dataclasses
import json
import math
import shutil

import pandas as pd
import pytest

from studylib.disk import files
from studylib.experiments import frontier, frontier_files, frontier_marks
from studylib.plots.frontier import draw_files
from studylib.results import verdicts
from studylib.results.chapter import Chapter
from studylib.techniques import int8
from studylib.training.recipe import Recipe
from studylib.tree.node import Node

RECIPE = Recipe(epochs=1, lr=5e-3, batch_size=200, views=1, schedule="one_cycle")
SHRINKING = frontier.Shrinking([0.5], [3, 8], epochs=1, rounding_epochs=1, calibration_images=64)
POINTS = pd.DataFrame(
    [
        ("a-500-4bit", "a", 0.5, 4, 3000, 0.915, 0.5, 0.92, 0.90, 0.3),
        ("a-900-4bit", "a", 0.9, 4, 1000, 0.880, 0.9, 0.85, 0.80, 0.6),
        ("b-500-4bit", "b", 0.5, 4, 2000, 0.500, 0.5, 0.50, 0.70, 0.9),
        ("b-900-4bit", "b", 0.9, 4, 900, 0.497, 0.9, 0.40, 0.60, 1.2),
    ],
    columns=[
        "name",
        "network",
        "sparsity",
        "bits",
        "bytes",
        "val_accuracy_pruned",
        "zeros",
        "val_accuracy",
        "test_accuracy",
        "test_nll",
    ],
)
NETWORKS = pd.DataFrame([("a", 90, 0.92), ("b", 30, 0.5)], columns=["network", "numbers", "val_accuracy"])


@pytest.fixture
def node(study_root, student_model):
    parent = Node("parent", "digits", 0, device="cpu")
    parent.finish(student_model)
    return Node.of("chapter", {"dataset": "digits", "device": "cpu"}, "08_frontier")


def starts(node, networks=()):
    grown, supervision = frontier.Grown(list(networks)), frontier.Supervision()
    return frontier_files.starts(node, {"teacher": "parent", "student": ""}, grown, supervision, RECIPE)


def test_rows_and_files_of_a_network_of_the_tree_and_a_new_one(node, student_model):
    found, loss = starts(node, ["convnet 2"])
    whole = frontier_files.networks(found, node)
    assert [row["network"] for row in whole] == ["teacher", "convnet 2"]
    assert whole[0]["numbers"] == sum(p.numel() for p in student_model.parameters())
    rows = frontier_files.points(node, found, loss, dataclasses.replace(SHRINKING, bits=[4]), RECIPE)
    assert list(rows[0]) == list(POINTS) and [row["name"] for row in rows] == ["teacher-500-4bit", "convnet2-500-4bit"]
    for row in rows:
        folder = node.out / "points" / row["name"]
        metrics = files.read_json(folder / "metrics.json")
        assert row["bytes"] == (folder / "model.slnc").stat().st_size == metrics["bytes_file"]
        pruned = [each["val_accuracy"] for each in metrics["history"] if each["training"] == "pruning"]
        assert row["val_accuracy_pruned"] == max(pruned) and row["test_accuracy"] == metrics["test_accuracy"]
    assert not node.scratch.exists() and list((files.resolve("parent") / "views").iterdir())


def test_a_point_that_is_there_is_not_made_again_and_one_that_is_gone_is(node, monkeypatch):
    found, loss = starts(node)
    made = []

    def counted(model, data, **kwargs):
        if len(made) == stop:
            raise KeyboardInterrupt
        made.append(kwargs["bits"])
        small = int8.apply(model, data, calibration_images=64)  # without training
        small.history = []
        return small

    monkeypatch.setattr(frontier.qat, "apply", counted)
    stop = 1
    with pytest.raises(KeyboardInterrupt):
        frontier_files.points(node, found, loss, SHRINKING, RECIPE)
    stop = None
    rows = frontier_files.points(node, found, loss, SHRINKING, RECIPE)
    assert made == [3, 8]  # the first was kept
    assert frontier_files.points(node, found, loss, SHRINKING, RECIPE) == rows and made == [3, 8]
    (node.out / "points" / rows[0]["name"] / "model.slnc").unlink()
    assert frontier_files.points(node, found, loss, SHRINKING, RECIPE) == rows and made == [3, 8, 3]
    frontier_files.points(node, found, loss, dataclasses.replace(SHRINKING, rounding_epochs=0), RECIPE)
    assert made == [3, 8, 3, 3, 8]
    shutil.rmtree(node.out / "rows")
    frontier_files.points(node, found, loss, dataclasses.replace(SHRINKING, bits=[8]), RECIPE)
    assert made == [3, 8, 3, 3, 8, 8]


def test_a_chapter_reads_published_files_too(node, study_root):
    file, made = study_root / "teacher.slnc", []

    def rows():
        made.append(1)
        return [{"n": len(made)}]

    for content, expected in ((b"one", 1), (b"one", 1), (b"two", 2)):
        file.write_bytes(content)
        assert Chapter(node, reads=["parent", "", str(file)]).rows("some", rows)["n"].tolist() == [expected]


def test_the_front_is_listed():
    assert frontier_files.on_front(POINTS)["name"].tolist() == ["b-900-4bit", "a-900-4bit", "a-500-4bit"]
    shown = frontier_files.listed(POINTS)
    assert list(shown) == ["name", "bytes", "test accuracy %", "test NLL", "front"]
    assert shown["front"].tolist() == ["yes", "yes", "", "yes"] and shown["test accuracy %"][0] == 90


def test_costs_are_those_of_pruning_and_then_of_rounding():
    found = frontier_files.costs(POINTS, NETWORKS).round(9).to_dict("list")
    assert found["whole"] == [92, 92, 50, 50] and found["pruned"] == [91.5, 88, 50, 49.7]
    assert found["pruning costs"] == [0.5, 4, 0, 0.3] and found["rounding costs"] == [-0.5, 3, 0, 9.7]


def test_what_the_takeaway_says_of_the_files():
    assert frontier_files.sparsest(POINTS, NETWORKS) == "a 50 % zeros, b 90 % zeros"
    assert frontier_files.sparsest(POINTS[1:2], NETWORKS) == "none"
    assert frontier_files.smallest(POINTS) == "a: a-500-4bit, b: none"
    assert frontier_files.smallest(POINTS, within=0.1) == "a: a-900-4bit, b: none"


def test_the_claim_is_of_the_smallest_file_that_holds_the_accuracy():
    assert frontier_files.claims_of(POINTS)["small_bytes"].value == 3000
    none = frontier_files.claims_of(POINTS[1:])
    assert none["small_bytes"].value == float("inf")
    (read,) = verdicts.from_json(json.loads(json.dumps(verdicts.to_json(none))))["small_bytes"]
    assert math.isinf(read.value)


def test_the_figure_has_stars_where_others_have_files_of_these_data():
    assert frontier_marks.of_data("digits") == () and frontier_marks.of_data("cifar10") == frontier_marks.MARKS

    def stars(dataset):
        lines = draw_files(POINTS, frontier_marks.of_data(dataset)).axes[0].lines
        return sum(line.get_marker() == "*" for line in lines)

    assert (stars("digits"), stars("cifar10")) == (0, len(frontier_marks.MARKS))
