"""Chapter 6: its rows, what is said of them, and its figures."""

import json
import math

import pandas as pd
import pytest
import torch

from studylib import settings
from studylib.coding import limits
from studylib.data import scoring
from studylib.descent import objectives
from studylib.experiments import moo, moo_hypervolume, moo_objectives, moo_training
from studylib.experiments.moo_ways import METHOD, RIVALS, Way
from studylib.networks import spec
from studylib.plots import moo as plots
from studylib.results import chapter
from studylib.techniques import int8
from studylib.techniques.distill import Student
from studylib.training import recipe
from studylib.tree import node, published
from tests.conftest import SMALL

QUICK = recipe.Recipe(epochs=1, lr=5e-3, batch_size=50, augmentation="none")
HOW = {"recipe": QUICK, "tau": 0.3, "seed": 0}
SETTINGS = {"sums": [1e-3], "shrinkages": [0.1], "taus": [0.2], "rates": [5e-3], "sparsities": [0.5]}
LABELS = [way.label for way in moo_training.Comparison(**SETTINGS).ways()]
STAGES = moo_training.STAGES


def chosen_rows(accuracies: dict[str, list[float]], sparsity: float = 0.5) -> pd.DataFrame:
    """Way → test accuracy of each seed, one-shot; fine-tuned it is 0.1 more and has bytes."""
    rows = [
        {"way": way, "value": 1.0, "seed": seed, "stage": stage, "sparsity": sparsity, "val_accuracy": accuracy}
        | {"test_accuracy": accuracy + k / 10, "zeros": sparsity, "bytes": 1000.0 + i if k else None}
        for i, (way, each) in enumerate(accuracies.items())
        for k, stage in enumerate(STAGES)
        for seed, accuracy in enumerate(each)
    ]
    return pd.DataFrame(rows)


@pytest.mark.parametrize(
    "given, said",
    [
        ({"widths": [8, 8]}, r"network.widths=\[8, 8\]: expected at least 3 of them"),
        ({"hidden": [8, 8, 8]}, r"network.hidden=\[8, 8, 8\]: expected at most 2 of them"),
        ({"widths": [8, 0, 8]}, r"network.widths\[1\]=0: expected at least 1"),
        ({"hidden": [8, 4097]}, r"network.hidden\[1\]=4097: expected at most 4096"),
    ],
)
def test_a_network_out_of_bounds_is_refused_by_name(given, said):
    with pytest.raises(settings.SettingError, match=said):
        settings.read(Student, given, "network")


def test_a_network_that_no_file_holds_is_refused_before_it_is_built(digits):
    Student().against(digits)
    with pytest.raises(ValueError, match=r"widths=\[4096, 4096, 4096\].* numbers, expected at most .*limit"):
        Student([4096, 4096, 4096]).against(digits)
    with pytest.raises(ValueError, match="depth=5000: 5000 in it, expected at most 4096"):
        limits.check_network("densenet", {"depth": 5000, "growth": 1}, digits, "depth=5000")
    with pytest.raises(ValueError, match=r"channels or features in a layer, expected at most 4096"):
        limits.check_network("densenet", {"depth": 7, "growth": 4096}, digits, "growth=4096")


def test_a_fresh_network_is_that_of_its_seed(digits):
    found = moo.fresh(Student(**SMALL), digits, 3, torch.device("cpu"))
    expected = spec.create("convnet", 3, **digits.model_args, **SMALL)
    assert all(torch.equal(a, b) for a, b in zip(found.parameters(), expected.parameters(), strict=True))


def test_the_gradients_are_those_of_the_two_losses(new_student, tiny):
    row = moo.gradients(new_student(), tiny, 20)
    model, weights = (model := new_student()), objectives.weights(model)
    loss = torch.nn.functional.cross_entropy(model(tiny.normalize(tiny.train.images[:20])), tiny.train.labels[:20])
    first = torch.cat([gradient.flatten() for gradient in torch.autograd.grad(loss, weights)])
    second = torch.cat([weight.detach().sign().flatten() for weight in weights])
    assert row["weights"] == len(first) and row["classes"] == 10
    assert row["task"] == pytest.approx(first.norm().item(), rel=1e-5)
    assert row["l1"] == pytest.approx(math.sqrt(int((second != 0).sum())), rel=1e-6)
    assert row["cosine"] == pytest.approx(torch.cosine_similarity(first, second, dim=0).item(), abs=1e-5)


def test_every_way_is_compared_on_every_seed_and_read_back(tiny, monkeypatch, tmp_path, trainings):
    calls = trainings()
    monkeypatch.setattr(moo.datasets, "load", lambda name, seed: tiny)
    given = moo_training.Comparison(repetitions=2, **SETTINGS)
    arguments = (tiny, Student(**SMALL), given, given.plan(QUICK, moo_training.Tuning()), torch.device("cpu"))
    found = moo.compared(*arguments, tmp_path)
    assert len(found["tried"]) == len(LABELS) * len(STAGES) and set(found["tried"]["seed"]) == {0}
    columns = ["way", "value", "seed", "stage", "sparsity", "val_accuracy"]
    assert list(found["tried"]) == columns and list(found["chosen"]) == [*columns, "zeros", "test_accuracy", "bytes"]
    assert list(found["chosen"]["way"].unique()) == LABELS and set(found["chosen"]["seed"]) == {0, 1}
    assert set(moo.ALONG) | {"fallbacks"} <= set(found["history"])
    told = moo.steps(found["history"], 0)
    assert list(told) == ["way", *moo.RAISES, *moo.LOSSES, "fallbacks"] and list(told["way"]) == LABELS
    made = len(calls)
    again = moo.compared(*arguments, tmp_path)
    assert len(calls) == made and all(again[name].equals(found[name]) for name in found)


def test_a_comparison_that_does_not_fit_the_data_is_refused_before_it_trains(tiny, trainings):
    calls = trainings()
    given = moo_training.Comparison(**SETTINGS)
    large = Student([4096, 4096, 4096])
    with pytest.raises(ValueError, match="expected at most"):
        moo.compared(tiny, large, given, given.plan(QUICK, moo_training.Tuning()), torch.device("cpu"), None)
    assert not calls


def test_steps_are_of_the_first_seed_its_last_losses_and_the_mean_of_its_shares():
    row = {"way": "PCD", "seed": 4, "ascends_l1": 0.0, "value_l1": 9.0, "fallbacks": 1}
    epochs = [
        row | {"ascends_cross_entropy": 0.2, "value_cross_entropy": 2.0},
        row | {"ascends_cross_entropy": 0.4, "value_cross_entropy": 1.0},
    ]
    other = epochs[0] | {"seed": 5, "fallbacks": 7}
    (found,) = moo.steps(pd.DataFrame([*epochs, other]), 4).to_dict("records")
    assert found == {
        "way": "PCD",
        "ascends_cross_entropy": pytest.approx(30),
        "ascends_l1": 0,
        "value_cross_entropy": 1.0,
        "value_l1": 9.0,
        "fallbacks": 2,
    }


def test_the_best_value_is_bold_and_named_where_it_is_at_an_end():
    ways = [Way("a", "λ", (1.0, 2.0, 3.0)), Way("b", "τ", (1.0, 2.0, 3.0))]
    score = pd.Series({("a", 1.0): 0.1, ("a", 2.0): 0.3, ("a", 3.0): 0.2} | {("b", v): v / 10 for v in (1.0, 2.0, 3.0)})
    best = {"a": 2.0, "b": 3.0}
    rows = moo.by_value(ways, score, best)
    assert list(rows["value: % dominated"]) == ["1: 10.0, **2: 30.0**, 3: 20.0", "1: 10.0, 2: 20.0, **3: 30.0**"]
    assert moo.at_an_end(ways, best) == "b" and moo.at_an_end(ways[:1], best) == "none"
    two = Way("c", "λ", (1.0, 2.0))  # of two, each is at an end
    assert moo.at_an_end([two], {"c": 1.0}) == "none"


def test_scores_are_the_mean_of_both_stages_and_the_rival_is_the_better_sum():
    rows = chosen_rows({RIVALS[0]: [0.55], RIVALS[1]: [0.775]})
    rows.loc[rows["stage"] == STAGES[1], "val_accuracy"] = 1.0
    score = moo.scores(rows, 10)
    assert score.to_dict() == {(RIVALS[0], 1.0): pytest.approx(0.75), (RIVALS[1], 1.0): pytest.approx(0.875)}
    assert moo.rival_of(score, dict.fromkeys(RIVALS, 1.0)) == RIVALS[1]


def test_what_is_dominated_is_held_against_both_sums_and_said_in_words():
    ways = {RIVALS[0]: [0.55, 0.55], RIVALS[1]: [0.46, 0.46], METHOD: [0.64, 0.64]}
    rows = moo.against_sums(chosen_rows(ways), 10)
    assert len(rows) == 2 * 2 * 3 and list(rows["rival"].unique()) == list(RIVALS)
    shown = moo.dominated(rows, dict.fromkeys(ways, 1.0))
    assert list(shown) == ["stage", "way", "value", "dominated %", *(f"over the {rival}" for rival in RIVALS)]
    first = shown.iloc[0].to_dict()
    assert first["dominated %"] == "50.0 ± 0.0" and first[f"over the {RIVALS[0]}"] == "–"
    assert shown.iloc[2][f"over the {RIVALS[1]}"].startswith("+20.0 (")
    said = moo.most(rows, STAGES[0], RIVALS[0])
    assert said.startswith(f"one-shot, most by {METHOD} (60.0%); {METHOD} +10.0 points over the weighted sum (")
    assert moo.lift(rows, METHOD) == pytest.approx(100 / 9)
    measured = moo.claims_of(rows, pd.DataFrame([{"way": METHOD, **dict.fromkeys(moo.RAISES, 2.5)}]))
    against = {each.against: each for each in measured["moo_one_shot"]}
    assert list(against) == list(RIVALS) and against[RIVALS[1]].value == pytest.approx(20)
    assert against[RIVALS[1]].n == 2 and measured["moo_common"][0].value == 2.5
    nothing = pd.DataFrame(columns=["way", *moo.RAISES])  # the method's training did not stay finite
    assert math.isnan(moo.claims_of(rows, nothing)["moo_common"][0].value)


def test_the_three_highest_are_those_of_a_stage_and_sparsity():
    rows = chosen_rows({"a": [0.1, 0.3], "b": [0.4, 0.4], "c": [0.3, 0.3], "d": [0.9, 0.1]})
    rows = pd.concat([rows, chosen_rows({"e": [1.0]}, sparsity=0.9)])
    assert moo.highest(rows, 0.5) == "one-shot: d 50.0%, b 40.0%, c 30.0%; fine-tuned: d 60.0%, b 50.0%, c 40.0%"


def test_the_least_likeness_is_over_the_epochs_of_the_method():
    rows = pd.DataFrame({"way": [METHOD, METHOD, "MGDA"], "cosine_l1": [0.0, -0.9, -1.0]})
    assert moo.least_likeness(rows, 0.4) == moo_hypervolume.likeness(0.4, -0.9)
    assert math.isnan(moo.least_likeness(rows[2:], 0.4))


def test_the_front_is_of_means_over_seeds_and_of_ways_that_have_bytes():
    rows = chosen_rows({"a": [0.5, 0.7], "b": [0.4, 0.4], "c": [0.8, 0.8]})
    rows.loc[rows["way"] == "c", "bytes"] = None  # did not stay finite
    found = moo.front(rows)
    assert found["way"].tolist() == ["a", "b"] and found["bytes"].tolist() == [1000, 1001]
    assert found["test_accuracy"].tolist() == pytest.approx([0.7, 0.5]) and found["front"].tolist() == [True, False]
    assert found["test_accuracy_sd"].tolist() == pytest.approx([math.sqrt(0.02), 0])
    assert moo.on_front(found, 10) == "a" and moo.on_front(found, 2) == ""


@pytest.fixture
def start(new_student):
    return new_student()


def test_three_objectives_are_rows_of_each_set_and_kept(start, tiny, tmp_path, trainings):
    calls = trainings()
    rows = moo_objectives.three_objectives(start, tiny, tmp_path, **HOW)
    names = ["task", "task + l1", "task + nuclear_norm", "task + l1 + nuclear_norm"]
    assert [row["objectives"] for row in rows] == names
    assert list(rows[0]) == [
        *("objectives", "l1", "nuclear_norm", moo_objectives.TEST, moo_objectives.PRUNED),
        "quarter of the rank %",
    ]
    model = moo_objectives.descended(start, tiny, [objectives.l1], **HOW)
    assert rows[1]["l1"] == pytest.approx(float(objectives.l1.closed_form(model)[0]))
    assert rows[1][moo_objectives.TEST] == 100 * scoring.accuracy(model, tiny.test, tiny)
    assert rows[1]["l1"] < rows[0]["l1"]
    made = len(calls)
    assert moo_objectives.three_objectives(start, tiny, tmp_path, **HOW) == rows and len(calls) == made
    assert moo_objectives.three_objectives(start, tiny, tmp_path, **HOW | {"tau": 0.4}) != rows


def test_a_quarter_of_the_rank_is_left_and_the_network_is_as_it_was(start):
    before = start.fc1.weight.detach().clone()
    small = moo_objectives._quarter_rank(start)
    for name in ("fc1", "fc2", "fc3"):
        full, cut = (getattr(model, name).weight.detach() for model in (start, small))
        assert torch.linalg.matrix_rank(cut) == max(1, min(full.shape) // 4)
    assert torch.equal(start.fc1.weight, before)


def test_quantization_and_alignment_are_measured_beside_the_teacher(start, tiny, teacher_model, tmp_path):
    rows = moo_objectives.quantization_and_alignment(start, tiny, teacher_model, tmp_path, **HOW)
    assert [row["objectives"].count("+") for row in rows] == [0, 1, 1, 2]
    assert list(rows[0]) == ["objectives", "error", moo_objectives.TEST, "4 bits %", "as the teacher %"]
    model = moo_objectives.descended(start, tiny, [], **HOW)
    low = int8.apply(model, tiny, seed=0, calibration_images=100, bits=4)
    assert rows[0]["4 bits %"] == 100 * scoring.accuracy(low, tiny.test, tiny)
    assert rows[1]["error"] < rows[0]["error"]


def test_an_objective_of_ones_own_stands_beside_l1_and_is_trained_again_when_it_changes(start, tiny, tmp_path):
    def own(factor):
        @objectives.objective("own", weights_only=True)
        def own(model, batch, outputs):
            return factor * sum(w.square().sum() for w in objectives.weights(model))

        return own

    rows = moo_objectives.beside_l1(own(1.0), start, tiny, tmp_path, **HOW)
    assert [list(row) for row in rows] == 2 * [["objectives", moo_objectives.TEST, moo_objectives.PRUNED]]
    assert [row["objectives"] for row in rows] == ["task + own", "task + l1"]
    file = tmp_path / "own_objective" / "task_+_own.json"
    kept = file.read_bytes()
    assert moo_objectives.beside_l1(own(1.0), start, tiny, tmp_path, **HOW) == rows and file.read_bytes() == kept
    moo_objectives.beside_l1(own(2.0), start, tiny, tmp_path, **HOW)
    assert file.read_bytes() != kept


def test_every_way_keeps_its_colour_where_another_did_not_stay_finite():
    chosen = chosen_rows({way: [0.5] for way in LABELS})
    look = plots.ways_look(chosen)
    assert look["hue_order"] == LABELS and len(look["palette"]) == len(LABELS)
    training = pd.DataFrame([{"way": w, "epoch": e, **dict.fromkeys(plots.ALONG, 1.0)} for w in LABELS for e in (1, 2)])
    lines = plots.draw_training(training, chosen).axes[0].lines
    fewer = plots.draw_training(training[training["way"] != LABELS[0]], chosen).axes[0].lines
    assert [line.get_color() for line in lines[1 : len(LABELS)]] == [
        line.get_color() for line in fewer[: len(LABELS) - 1]
    ]


def test_ways_have_a_panel_a_stage():
    figure = plots.draw_ways_by_sparsity(chosen_rows({way: [0.4, 0.5] for way in LABELS}))
    assert [axis.get_title() for axis in figure.axes] == list(STAGES)
    assert [text.get_text() for text in figure.axes[1].get_legend().get_texts()] == LABELS


def test_ways_to_train_have_a_panel_a_sparsity_and_a_ring_where_none_beats_them():
    rows = [
        {"way": way, "sparsity": sparsity, "bytes": size + seed, "test_accuracy": accuracy + 0.02 * seed}
        for way, sparsity, size, accuracy in (("a", 0.5, 5000, 0.8), ("b", 0.5, 6000, 0.7), ("a", 0.9, 1000, 0.6))
        for seed in (0, 1)
    ]
    chosen = pd.DataFrame([*rows, rows[0] | {"bytes": None}])
    mean = moo.front(chosen)
    assert mean["front"].tolist() == [True, False, True]
    assert mean["bytes"].tolist() == [5000.5, 6000.5, 1000.5]
    assert mean["test_accuracy_sd"].tolist() == pytest.approx(3 * [0.02 / 2**0.5])
    figure = plots.draw_ways(mean, chosen)
    assert [axis.get_title() for axis in figure.axes] == ["90 % zeros", "50 % zeros"]
    rings = [axis.collections[-1].get_offsets().tolist() for axis in figure.axes]
    assert rings == [[pytest.approx([1.0005, 61])], [pytest.approx([5.0005, 81])]]
    assert [text.get_text() for text in figure.axes[1].get_legend().get_texts()] == ["a", "b", "not beaten"]


def test_rows_of_a_chapter_are_made_again_where_a_function_of_the_notebook_is_another(tmp_path):
    made, settings_of = [], {"dataset": "digits", "threads": 1}
    for key in (["a"], ["a"], ["b"], []):
        shown = chapter.Chapter(node.Node.of(tmp_path, settings_of, "06_moo"))
        found = shown.one("own", lambda: made.append(1) or {"n": len(made)}, *key)
        assert found == {"n": len(made)}
    assert len(made) == 3


def test_on_networks_the_method_stands_beside_both_sums_for_each_study_and_stage(tmp_path):
    chosen = pd.concat(
        [chosen_rows({METHOD: [0.7, 0.8, 0.9], RIVALS[0]: [0.5, 0.61, 0.7], RIVALS[1]: [0.7, 0.9, 0.8]})]
    )
    (tmp_path / "06_moo.json").write_text(
        json.dumps(
            {"chapter": "06_moo", "about": {}, "metrics": {}, "claims": []}
            | {"settings": {"network": {"name": "resnet 8-4"}}}
            | {"rows": {"hypervolume": published.plain(moo.against_sums(chosen, 10))}}
        )
    )
    table = moo.on_networks([published.Published(tmp_path, "06_moo")] * 2)
    assert list(table["network"]) == ["resnet 8-4"] * 4 and list(table["stage"]) == [*STAGES] * 2
    first = table.iloc[0]
    assert first["seeds"] == 3 and first[f"{METHOD} %"].startswith("77.8")  # (0.8 − 0.1) / 0.9
    assert first[f"over the {RIVALS[0]}"].startswith("+21.9 (") and first[f"over the {RIVALS[0]}"].endswith(", more")
    assert first[f"over the {RIVALS[1]}"].endswith(", cannot tell")
    said = moo.said_on_networks([published.Published(tmp_path, "06_moo")])
    assert said.startswith(
        f"{METHOD} over the {RIVALS[0]}, and over the {RIVALS[1]}: resnet 8-4: one-shot more / cannot "
    )


def test_only_the_ways_named_are_compared_and_the_method_and_both_sums_are_needed():
    few = [RIVALS[1], METHOD, RIVALS[0]]
    found = moo_training.Comparison(**SETTINGS, only=few).ways()
    assert [way.label for way in found] == [label for label in LABELS if label in few]
    for wrong in (few[:2], [*few, "Nash"]):
        with pytest.raises(ValueError, match=r"only=.*: expected some of \['weighted sum'.*among them"):
            moo_training.Comparison(**SETTINGS, only=wrong).ways()


def test_a_network_may_be_named(digits):
    found = moo.fresh(Student(name="resnet 8-4"), digits, 3, torch.device("cpu"))
    expected = spec.create("resnet", 3, **digits.model_args, depth=8, width=4)
    assert found.spec == expected.spec
    assert all(torch.equal(a, b) for a, b in zip(found.parameters(), expected.parameters(), strict=True))
