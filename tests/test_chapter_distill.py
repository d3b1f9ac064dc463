"""Chapter 2: its settings, the rows of its students, what is said of them and drawn."""

import math

import matplotlib.pyplot as plt
import pandas as pd
import pytest

from studylib.data import scoring
from studylib.experiments import distill as lessons
from studylib.plots import distill as plots
from studylib.settings import SettingError, read
from studylib.techniques import distill
from studylib.training.recipe import Recipe

RECIPE = Recipe(epochs=1, lr=5e-3, batch_size=50)
TEACHING = distill.Teaching(temperature=2.0, alpha=0.5)
HISTORY = [{"epoch": 1, "train_loss": 2.0, "val_loss": 1.0, "val_accuracy": 0.5}]


@pytest.mark.parametrize(
    "kind, given, message",
    [
        (distill.Teaching, {"temperature": 0.0}, r"^x\.temperature=0\.0: expected at least 0\.001$"),
        (distill.Teaching, {"temperature": 1e5}, r"^x\.temperature=100000\.0: expected at most 10000\.0$"),
        (distill.Teaching, {"alpha": 1.5}, r"^x\.alpha=1\.5: expected at most 1\.0$"),
        (distill.Teaching, {"alpha": "0.5"}, r"^x\.alpha='0\.5': expected a number$"),
        (distill.Student, {"widths": [8, 0, 8]}, r"^x\.widths\[1\]=0: expected at least 1$"),
        (distill.Student, {"widths": [8, 8, 4097]}, r"^x\.widths\[2\]=4097: expected at most 4096$"),
        (distill.Student, {"widths": [8, 8]}, r"^x\.widths=\[8, 8\]: expected at least 3 of them$"),
        (distill.Student, {"name": "mobilenet 8"}, "^x.name: network 'mobilenet 8': expected one of convnet, densenet"),
        (
            distill.Student,
            {"name": "vgg 4", "hidden": [8, 8]},
            r"^x.hidden=\[8, 8\]: expected none beside name='vgg 4'",
        ),
        (distill.Student, {"hidden": [8, 8, 8]}, r"^x\.hidden=\[8, 8, 8\]: expected at most 2 of them$"),
        (lessons.Pairs, {"seeds": 0}, r"^x\.seeds=0: expected at least 1$"),
        (lessons.Pairs, {"temperatures": []}, r"^x\.temperatures=\[\]: expected at least 1 of them$"),
        (lessons.Pairs, {"temperatures": [0.0]}, r"^x\.temperatures\[0\]=0\.0: expected at least 0\.001$"),
        (lessons.Pairs, {"alphas": [0.5, 2]}, r"^x\.alphas\[1\]=2: expected at most 1\.0$"),
        (lessons.Pairs, {"alphas": [0.5, 0.5]}, r"^x\.alphas=\[0\.5, 0\.5\]: expected different ones$"),
        (lessons.Pairs, {"alpha": [0.5]}, r"^x\.alpha: unknown; did you mean 'alphas'\?$"),
    ],
)
def test_settings_out_of_bounds_are_refused(kind, given, message):
    with pytest.raises(SettingError, match=message):
        read(kind, given, "x")


def test_a_student_is_held_against_what_a_coded_file_may_ask_for(digits):
    distill.Student().against(digits)
    large = distill.Student(widths=[4096, 4096, 4096])
    message = r"^widths=\[4096, 4096, 4096\], hidden=\[128, 64\]: \d+ numbers, expected at most 67108864"
    with pytest.raises(ValueError, match=message):
        large.against(digits)
    distill.Student(name="resnet 20-16").against(digits)
    with pytest.raises(ValueError, match=r"^name='resnet 20-1025': 4100 channels or features in a layer, expected at"):
        distill.Student(name="resnet 20-1025").against(digits)


def test_the_defaults_are_the_papers():
    assert (distill.Teaching().temperature, distill.Teaching().alpha) == (5.0, 0.7)


@pytest.fixture
def own(teacher_model, tiny):
    """The chapter's student, of seed 0, with its history."""
    shape = {"widths": [4, 4, 4], "hidden": [4, 4]}
    how = {"recipe": RECIPE, "seed": 0, "temperature": 2.0, "alpha": 0.5}
    return distill.apply(teacher_model, tiny, **how, **shape)


def test_pairs_are_of_the_chapters_own_student_and_of_others_by_the_same_recipe(
    own, teacher_model, tiny, tmp_path, trainings
):
    calls = trainings()
    taught = lessons.Lessons(own, teacher_model, tiny, RECIPE, TEACHING, 0, tmp_path)
    found = taught.pairs(2)
    assert list(zip(found["seed"], found["student"], strict=True)) == [
        (0, "with teacher"),
        (0, "labels only"),
        (1, "with teacher"),
        (1, "labels only"),
    ]
    assert [call["loss"] is None for call in calls] == [True, False, True]  # the own one is there
    assert found["history"][0] == own.history
    for row in found.itertuples():
        assert len(row.right) == len(tiny.validation) and set(row.right) <= {0, 1}
        assert (
            row.accuracy
            == pytest.approx(sum(row.right) / len(row.right))
            == max(h["val_accuracy"] for h in row.history)
        )
        assert 0 <= row.agreement <= 1 and row.nll > 0 and row.ece >= 0
    answers = [scoring.predict(model, tiny.validation, tiny).argmax(1) for model in (own, teacher_model)]
    assert found["agreement"][0] == pytest.approx((answers[0] == answers[1]).double().mean().item())
    other = distill.apply(
        teacher_model, tiny, recipe=RECIPE, seed=1, temperature=2.0, alpha=0.5, widths=[4, 4, 4], hidden=[4, 4]
    )
    assert [row["train_loss"] for row in found["history"][2]] == [row["train_loss"] for row in other.history]


def test_pairs_of_a_student_of_another_kind_are_of_that_kind(teacher_model, tiny, tmp_path):
    how = {"temperature": 2.0, "alpha": 0.5, "name": "resnet 8-2"}
    own, other = (distill.apply(teacher_model, tiny, recipe=RECIPE, seed=seed, **how) for seed in (0, 1))
    assert own.spec["name"] == "resnet" and own.spec["args"] == {"depth": 8, "width": 2, **tiny.model_args}
    found = lessons.Lessons(own, teacher_model, tiny, RECIPE, TEACHING, 0, tmp_path).pairs(2)
    losses = [[row["train_loss"] for row in history] for history in (found["history"][2], other.history)]
    assert losses[0] == losses[1]


def test_students_that_were_stopped_go_on_and_give_the_same_rows(
    own, teacher_model, tiny, tmp_path, monkeypatch, trainings
):
    settings = lessons.Pairs(seeds=1, temperatures=[1.0, 2.0], alphas=[0.5, 1.0])

    def rows(folder):
        taught = lessons.Lessons(own, teacher_model, tiny, RECIPE, TEACHING, 0, folder)
        scores = taught.pairs(1).drop(columns="history").to_dict("records")  # a history has seconds in it
        return scores, taught.sweep(settings).to_dict("records")

    whole = rows(tmp_path / "whole")
    assert [(row["T"], row["α"]) for row in whole[1]] == [(1.0, 0.5), (1.0, 1.0), (2.0, 0.5), (2.0, 1.0)]
    assert whole[1][2]["accuracy"] == max(row["val_accuracy"] for row in own.history)
    with pytest.raises(KeyboardInterrupt):
        trainings(most=2)
        rows(tmp_path / "stopped")
    monkeypatch.undo()
    calls = trainings()
    assert rows(tmp_path / "stopped") == whole and len(calls) == 2  # of one without a teacher and three of the sweep
    assert rows(tmp_path / "stopped") == whole and len(calls) == 2
    assert not list((tmp_path / "stopped").glob("*.safetensors"))  # of finished trainings nothing but their rows


def pairs(*right):
    """Rows of pairs, a list of 0 and 1 a student."""
    kinds = ["with teacher", "labels only"] * (len(right) // 2)
    return pd.DataFrame(
        {
            "seed": [k // 2 for k in range(len(right))],
            "student": kinds,
            "accuracy": [sum(each) / len(each) for each in right],
            "agreement": [0.5, 0.25] * (len(right) // 2),
            "right": list(right),
            "history": [HISTORY] * len(right),
        }
    )


def test_the_gain_is_that_of_the_pairs():
    found = pairs([1, 1, 1, 0], [1, 1, 0, 0], [1, 1, 1, 1], [0, 0, 0, 0])
    rows = {row["what"]: row for row in lessons.intervals(found)}
    assert [rows[what]["mean"] for what in ("with teacher", "labels only", "gain")] == [0.875, 0.25, 0.625]
    assert all(row["low"] < row["mean"] < row["high"] and row["n"] == 2 for row in rows.values())
    measured = lessons.claims_of(pd.DataFrame(lessons.intervals(found)))
    assert measured["kd_gain"] == measured["kd_helps"]
    assert measured["kd_gain"].value == 62.5 and measured["kd_gain"].n == 2 and measured["kd_gain"].high > 100
    assert measured["kd_taught"].value == 87.5 and measured["kd_taught"].high == 100  # no accuracy is above
    assert measured["kd_alone"].low == 0


def test_one_pair_has_no_deviation():
    said = lessons.in_words(pairs([1, 1, 1, 0], [1, 1, 0, 0]))
    assert said["with teacher"] == {"accuracy": "75.0", "agreement": "50.0"} and said["gain"] == {"accuracy": "25.00"}


def test_students_in_words():
    said = lessons.in_words(pairs([1, 1, 1, 0], [1, 1, 0, 0], [1, 1, 1, 1], [0, 0, 0, 0]))
    assert said["with teacher"] == {"accuracy": "87.5 ± 17.7", "agreement": "50.0 ± 0.0"}
    assert said["labels only"]["agreement"] == "25.0 ± 0.0"
    assert said["gain"]["accuracy"] == f"62.50 ± {math.sqrt(2) * 37.5:.2f}"


def test_a_curve_says_whose_it_is():
    assert lessons.curves(pairs([1], [0]))[1] == HISTORY[0] | {"seed": 0, "student": "labels only"}


def test_what_temperature_and_alpha_decide():
    rows = pd.DataFrame({"T": [1.0, 5.0], "α": [0.3, 0.7], "accuracy": [0.5, 0.75]})
    said = "The settings span 50.0 to 75.0 %; highest: T = 5, α = 0.7. Each is one student."
    assert lessons.span(rows) == said
    like = lessons.span(rows.assign(accuracy=0.5))
    assert "highest: T = 1, α = 0.3 and T = 5, α = 0.7." in like
    assert lessons.span(rows[:1]) == "One setting: what T and α decide is not measured here."


def test_numbers_of_a_network(new_student):
    student = new_student()
    assert lessons.size_of(student)["parameters"] < sum(t.numel() for t in student.state_dict().values())


@pytest.mark.parametrize("temperatures, alphas", [([1.0, 5.0], [0.3, 0.7]), ([5.0], [0.3, 0.7]), ([5.0], [0.7])])
def test_settings_are_drawn_alpha_down_and_temperature_across(temperatures, alphas):
    rows = [{"T": t, "α": a, "accuracy": (t + a) / 10} for t in temperatures for a in alphas]
    figure = plots.draw_settings(pd.DataFrame(rows))
    shown = [text.get_text() for text in figure.axes[0].texts]
    assert shown == [f"{10 * (t + a):.1f}" for a in alphas for t in temperatures]
    plt.close(figure)


def test_students_are_drawn_with_a_line_a_kind():
    curves = pd.DataFrame(lessons.curves(pairs([1], [0], [1], [0])))
    curves = pd.concat([curves, curves.assign(epoch=2, val_accuracy=0.75)], ignore_index=True)
    figure = plots.draw_students(curves)
    labels = [text.get_text() for text in figure.axes[0].get_legend().get_texts()]
    assert labels == ["with teacher", "labels only"] and len(figure.axes) == 3
    plt.close(figure)
