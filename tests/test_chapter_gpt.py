"""Chapter 10's measurements: the combinations of a transformer, other ways to shrink it, rivals and objectives."""

import json

import numpy as np
import pandas as pd
import pytest

from studylib.coding import codec
from studylib.data import text
from studylib.experiments import generative, generative_told, gpt, gpt_objectives, gpt_told
from studylib.experiments import generative_objectives as shared
from studylib.plots import gpt as plots
from studylib.results import statistics
from studylib.settings import SettingError, read
from studylib.training import loop
from studylib.training.recipe import Recipe
from studylib.tree import names

CORPUS = text.Corpus(context=16, characters=12_000)
RECIPE = Recipe(epochs=1, lr=1e-2, batch_size=64, augmentation="none")
NETWORK = gpt.Transformer(depth=1, width=16, student=8, narrower=[8])
COMPRESSING = gpt.Compressing(
    rounds=2, tolerance=0.5, epochs=1, deltas=[1], bits=[3], group=8, calibration_images=32, lr=1e-2
)
SUMS = {"l1": [1e-4], "quantization_error": [0.1], "coded_bytes": [1e-5]}
COMPARISON = gpt_objectives.Objectives(sums=SUMS, sparsities=[0.7], taus=[0.1])
ENDS = {"low": 0.0, "high": 0.0, "costs_low": 0.09, "costs_high": 0.11}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A chapter's networks, and rows of all combinations and of narrower networks."""
    node = gpt.Characters(tmp_path_factory.mktemp("chapter"), "digits", 0, threads=1, device="cpu")
    node.corpus = CORPUS
    family = gpt.Family(node, NETWORK, COMPRESSING, RECIPE)
    return family, pd.DataFrame(family.tree()), pd.DataFrame(family.narrower())


@pytest.fixture(scope="module")
def ways(made):
    return pd.DataFrame(gpt.ways(made[0]))


def test_all_sixteen_combinations_are_files_whose_bits_are_those_of_their_rows(made):
    family, tree, _ = made
    assert list(tree["node"]) == names.nodes(generative.STAGES) and len(tree) == 16
    for row in tree.to_dict("records"):
        file = (family.folder_of(0, row["node"]) / names.CODED).read_bytes()
        blocks = text.bits(codec.decode(file), family.node.data.test, family.node.data).double().mean(1)
        assert row["test_bits"] == blocks.mean().item() and row["bytes"] == len(file)
        assert row["low"] < row["test_bits"] < row["high"]


def test_each_combination_does_what_its_name_says(made):
    family, tree, _ = made
    for row in tree.to_dict("records"):
        pruned_last = "imp" in row["node"] and "svd" not in row["node"]  # factors are dense
        assert (row["zeros"] > 0.3) == pruned_last, row["node"]
        changes = json.loads((family.folder_of(0, row["node"]) / "model.json").read_text())["spec"]["changes"]
        parts = row["node"].split("-")
        expected = ["kd", *parts[2:]] if "kd" in parts else parts
        assert [change["technique"] for change in changes] == expected
    assert tree["costs"][0] == 0 and (tree["bytes"][1:] < tree["bytes"][0]).all()


def test_a_chapter_that_goes_on_trains_nothing_again(made, ways, monkeypatch):
    family, tree, _ = made
    monkeypatch.setattr(loop, "fit", lambda *args, **kwargs: pytest.fail("trained again"))
    pd.testing.assert_frame_equal(pd.DataFrame(family.tree()), tree)
    pd.testing.assert_frame_equal(pd.DataFrame(gpt.ways(family)), ways)


def test_other_ways_are_of_the_teacher_and_the_same_where_the_tree_has_them(made, ways):
    _, tree, _ = made
    by, node = ways.set_index(["way", "setting"]), tree.set_index("node")
    for way, name in ((("static int8", 8), "teacher-int8"), (("SVD", 1), "teacher-svd")):
        assert by.loc[way, "test_bits"] == pytest.approx(node.loc[name, "test_bits"], abs=1e-6)
        assert by.loc[way, "bytes"] == node.loc[name, "bytes"]
    assert by.loc[("groups, GPTQ", 3), "bytes"] < node.loc["teacher-int8", "bytes"]
    assert by.loc[("SVD, fine-tuned", 1), "costs"] < by.loc[("SVD", 1), "costs"]
    assert by.loc[(gpt.WHOLE + gpt.TUNED, 0), "bytes"] == pytest.approx(node.loc["teacher", "bytes"], rel=0.01)
    assert gpt_told.ways_listed(ways, gpt.FACTORIZED)["Δ"].tolist() == ["–", 1, 1, 1, 1]
    assert set(ways["kind"]) == {gpt.ROUNDED, gpt.FACTORIZED} and len(ways) == 2 + 2 + 1 + 4


def test_the_smallest_is_chosen_by_validation_text():
    nodes = pd.DataFrame({"node": ["teacher", "a", "b"], "bytes": [9, 5, 1], "val_bits": [2.0, 2.09, 2.11]})
    assert gpt_told.smallest(nodes) == "a"


def test_the_front_goes_from_the_dense_network_to_the_smallest():
    nodes = pd.DataFrame({"node": ["x", "y", "z"], "bytes": [9, 5, 6], "test_bits": [2.0, 2.5, 2.6]})
    assert gpt_told.front(nodes) == ["x", "y"]


def test_networks_write_from_their_files_alone(made):
    family, tree, _ = made
    rows = gpt.written(family, ["teacher", "teacher", "teacher-int8"], count=20)
    assert [row["node"] for row in rows] == ["teacher", "teacher-int8"]
    file = (family.folder_of(0, "teacher-int8") / names.CODED).read_bytes()
    assert rows[1]["text"] == text.sampled(codec.decode(file), "The ", 20, seed=0)
    assert rows[1]["memory"] < 0.5 * rows[0]["memory"] and all(row["per_second"] > 0 for row in rows)
    page = gpt_told.written_page(pd.DataFrame([rows[0] | {"text": "<a> & b"}]), "The ")
    assert "<b>The </b>&lt;a&gt; &amp; b" in page
    same = [row | {"text": said} for row, said in zip(rows, ("abcd", "abxd"), strict=True)]
    assert "the whole network's text: int8 2. " in gpt_told.written_told(pd.DataFrame(same))
    speeds = gpt_told.speed_of(pd.DataFrame(rows), tree).set_index("network")
    assert (
        speeds["bytes of the file"]["int8"] == len(file) and speeds["bytes of its numbers"]["int8"] == rows[1]["memory"]
    )


def spread_of(row, family):
    """Bits of the file, spread over the training text."""
    return 8 * row["bytes"] / family.node.data.train.labels.numel()


def test_each_objective_is_descended_in_three_ways_and_none_in_a_fourth_and_compared_block_by_block(made):
    family, tree, _ = made
    rows = gpt_objectives.compared(family, COMPARISON)
    assert len(rows) == (2 + 1 + 1) * 4  # what descended L1 is measured before and after fine-tuning
    against = shared.against_sums(pd.DataFrame(rows))
    assert len(against) == 4 * 2 and (against["low"] <= against["high"]).all()
    by = {(row["objective"], row["stage"], row["way"]): row for row in rows}
    for row in against.itertuples():
        mine, theirs = (by[row.objective, row.stage, way]["test"] for way in (shared.PCD, row.rival))
        assert row.saved == pytest.approx(np.mean(theirs) - np.mean(mine), abs=1e-9)
    control = shared.against_sums(pd.DataFrame(rows), [shared.ALONE])
    assert list(dict.fromkeys(control["objective"])) == list(shared.OTHERS) and set(control["rival"]) == {shared.ALONE}
    coded, rounded = (by[other, shared.ROUNDED, shared.ALONE] for other in (shared.BYTES, shared.ERROR))
    assert rounded["test"] == pytest.approx([each - spread_of(coded, family) for each in coded["test"]], abs=1e-4)
    coded = by[shared.BYTES, shared.ROUNDED, shared.PCD]
    assert spread_of(coded, family) < min(coded["test_score"] - 1, coded["val_score"])
    for way in (shared.SUM, shared.ALONE):
        assert by["l1", shared.TUNED, way]["val_score"] < by["l1", shared.ONE_SHOT, way]["val_score"]
    assert len(plots.draw_against(against, shared.NAMES).axes) == 4
    told = shared.claims_of(generative_told.summary(tree), against, gpt_objectives.CLAIMS)
    assert len(told["gpt_common"]) == 6 and len(told["gpt_tuned"]) == 2
    assert 60 < told["gpt_int8_saved"].value < 75  # of numbers as they are held: a byte for four, and scales


def test_the_better_sum_is_chosen_by_validation():
    of = {"objective": "l1", "chosen": True}
    tried = pd.DataFrame(
        [of | {"way": way, "val_score": value} for way, value in zip(shared.SUMS, (2.0, 1.9), strict=True)]
    )
    against = pd.DataFrame(
        [
            {"objective": "l1", "stage": stage, "rival": way}
            for stage in ("one-shot", "fine-tuned")
            for way in shared.SUMS
        ]
    )
    (row,) = shared.fine_tuned_l1(tried, against).itertuples()
    assert (row.stage, row.rival) == ("fine-tuned", shared.SUM_NORMALIZED)
    assert not len(shared.fine_tuned_l1(tried.assign(objective="coded_bytes"), against))


def test_the_best_value_is_that_of_the_least_validation_bits_of_the_first_seed():
    rows = pd.DataFrame(
        {"seed": 0, "objective": "L1", "way": ["a", "a", "b"], "value": [1, 2, 3], "val_total": [2.0, 1.0, 5.0]}
    )
    assert generative.best_values(rows, "val_total") == {("L1", "a"): 2, ("L1", "b"): 3}


def test_values_are_tuned_on_the_first_seed_and_the_best_made_of_all(tmp_path):
    def tasks(seed, best):
        for value in [1.0, 2.0] if best is None else best.values():
            of = {"seed": seed, "objective": "L1", "way": "a", "value": value}
            yield of, lambda value=value, seed=seed: [{"val_total": abs(value - 2) - seed}]

    rows = generative.tuned(tasks, range(3), tmp_path, [], "val_total")
    found = [(row["seed"], row["value"], row["chosen"]) for row in rows]
    assert found == [(0, 1.0, False), (0, 2.0, True), (1, 2.0, True), (2, 2.0, True)]


def test_better_ways_are_held_against_the_plain_one_seed_by_seed():
    costs = {"SVD": [1.0, 1.2], "Fisher-weighted SVD": [0.5, 0.7], "groups, to the nearest": [0.2, 0.4]}
    costs["groups, GPTQ"] = [0.1, 0.5]
    rows = pd.DataFrame(
        {"seed": seed, "kind": gpt.ROUNDED if "groups" in way else gpt.FACTORIZED, "way": way}
        | {"setting": 3 if "groups" in way else 1, "costs": cost}
        for way, each in costs.items()
        for seed, cost in enumerate(each)
    )
    found = gpt_told.ways_against(rows).set_index("way")
    assert list(found.index) == ["GPTQ", "Fisher-weighted SVD"]
    assert list(found["setting"]) == ["3 bits a weight", "Δ = 1"]
    assert found.loc["GPTQ", "verdict"] == statistics.UNKNOWN and found.loc["GPTQ", "saved"] == pytest.approx(0)
    assert found.loc["Fisher-weighted SVD", "saved"] == pytest.approx(0.5)
    assert found.loc["Fisher-weighted SVD", "verdict"] == statistics.HELP
    first, second = gpt_told.ways_told(rows).splitlines()
    assert first.startswith("   - GPTQ at 3 bits a weight costs 0.300 bits, rounding to the nearest 0.300. ")
    assert first.endswith("; these seeds cannot tell.") and "cannot tell" not in second
    assert all(line.endswith(", of one seed.") for line in gpt_told.ways_told(rows[rows["seed"] == 0]).splitlines())


def test_the_figure_has_a_point_for_each_combination_and_a_line_for_each_form(made, ways):
    _, tree, narrow = made
    nodes, dense = generative_told.summary(tree), generative_told.summary(narrow, ["width", "form"])
    figure = plots.draw_bits(nodes, dense, ways)
    said = [[each.get_text().strip() for each in axis.texts] for axis in figure.axes]
    assert [sorted(each) for each in said] == [["pruned"] * 4 + ["whole"], ["pruned"] * 4]
    assert [len(axis.containers) for axis in figure.axes] == [4, 4]  # kinds of points
    (legend,) = figure.legends
    assert len(legend.get_texts()) == 10


@pytest.mark.parametrize(
    "kind, given, said",
    [
        (gpt.Transformer, {"width": 30}, "x.width=30: expected a multiple of 4"),
        (gpt.Transformer, {"narrower": [8, 8]}, "x.narrower=.*: expected different ones"),
        (gpt_objectives.Objectives, {"taus": [0.1, 3.0]}, r"x.taus\[1\]=3.0: expected at most 1"),
        (gpt_objectives.Objectives, {"normalized": [1.0]}, r"x.normalized=\[1.0\]: expected as many as taus"),
        (gpt_objectives.Objectives, {"taus": [0.1]}, r"x.sums: l1=\[1e-05, 0.0001\]: expected as many"),
    ],
)
def test_settings_that_cannot_be_are_refused(kind, given, said):
    with pytest.raises(SettingError, match=said):
        read(kind, given, "x")


def test_more_calibration_blocks_than_there_are_are_refused():
    with pytest.raises(ValueError, match="calibration_images=10000: expected 1 to 674"):
        gpt.Compressing(calibration_images=10_000).fits(CORPUS)
