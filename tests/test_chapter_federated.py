"""Chapter 13: what is said of its rows, its figures, its settings; nothing is trained, and Flower is not needed."""

import itertools
import math

import pandas as pd
import pytest

from studylib import settings
from studylib.federated import measure, told
from studylib.federated.job import Federation
from studylib.plots import federated as plots
from studylib.results import statistics
from studylib.results.claims import CLAIMS
from studylib.training.recipe import Recipe

pytestmark = pytest.mark.usefixtures("drawn")
ALPHAS, SEEDS = [0.0, 0.01, 1.0], range(3)
ADDS = {0.0: 0.05, 0.01: 0.2, 1.0: 0.01}  # by the teacher, to balanced accuracy
BASES = {"alone": 0.3, "fedavg": 0.6, "fedprox": 0.61, "central": 0.9}


def row(seed, alpha, way, form, teacher, balanced, size=1000, file=0):
    scores = {"accuracy": balanced, "balanced": balanced, "worst": balanced - 0.1, "rare": balanced, "common": balanced}
    sums = {"down": size, "up": 2 * size, "left_out": 0, "teacher_bytes": file, "multiply_adds": 100.0}
    return {"seed": seed, "alpha": alpha, "way": way, "form": form, "teacher": teacher, **scores, **sums}


@pytest.fixture
def rows():
    """Rows of which every difference is known: a teacher adds :data:`ADDS`, a tenth of a point more each seed."""
    found = []
    for seed, alpha, (base, value) in itertools.product(SEEDS, ALPHAS, BASES.items()):
        form = "flower" if base.startswith("fed") else ""
        less = 0.1 if base.startswith("fed") and alpha == 0.01 else 0.0
        found.append(row(seed, alpha, base, form, "as trained", value - less))
        found.append(row(seed, alpha, f"{base} taught", form, "as trained", value - less, file=500))
        gain = ADDS[alpha] + 0.001 * seed
        found[-1] |= {"balanced": value - less + gain, "rare": value - less + 2 * gain, "multiply_adds": 110.0}
    for seed in SEEDS:
        for form, size in (("int8", 100), ("int4 0.9", 10)):
            found.append(row(seed, 0.01, "fedavg taught", form, "as trained", 0.7, size, 500))
        found.append(row(seed, 0.01, "fedavg taught", "flower", "int8", 0.65, file=125))
        found += [row(seed, None, "teacher", "", name, 0.95, 0, 500) for name in ("as trained", "int8")]
    return pd.DataFrame(found)


def test_what_the_teacher_adds_is_the_difference_seed_by_seed(rows):
    added = told.gains(rows)
    assert len(added) == 9
    for alpha, part in added.groupby("alpha"):
        assert part.sort_values("seed")["balanced"].tolist() == pytest.approx(
            [100 * ADDS[alpha] + 0.1 * seed for seed in SEEDS]
        )
    shown = told.gained(rows).set_index("points by the teacher")
    low, high = statistics.t_interval([20.0, 20.1, 20.2])
    assert shown.loc["α = 0.01", "balanced"] == f"+20.1 ({low:+.1f} to {high:+.1f})"
    assert shown.loc["classes", "rare classes"] == "–" and shown.loc["α = 1", "rare classes"].startswith("+2.2")


def test_the_table_of_ways_has_their_order_and_splits(rows):
    table = told.by_split(rows, "balanced")
    assert table.iloc[:, 0].tolist() == told.ORDER
    assert list(table)[1:] == ["classes", "α = 0.01", "α = 1"]
    assert table.iloc[2].tolist()[1:] == ["60.0 ± 0.0", "50.0 ± 0.0", "60.0 ± 0.0"]
    assert told.by_split(rows, "worst").iloc[2, 1] == "50.0 ± 0.0"


def test_forms_and_teachers_are_held_against_the_first(rows):
    forms = told.by_form(rows, 0.01, rounds=2).set_index("messages")
    assert list(forms.index) == ["Flower's own", "int8", "int4 0.9"]
    assert forms["times fewer"].tolist() == ["1.0", "10.0", "100.0"]
    assert forms.loc["int8", "down, kB a round"] == "0.1" and forms.loc["Flower's own", "all, kB"] == "3"
    assert forms.loc["int4 0.9", "less Flower's own, points"].startswith("-0.1 (")
    teachers = told.by_teacher(rows, 0.01).set_index("teacher")
    assert teachers.loc["int8", "less as trained, points"].startswith("-5.1 (")
    assert teachers["itself, balanced %"].tolist() == ["95.0 ± 0.0", "95.0 ± 0.0"]


def test_a_client_pays_its_share_of_the_bytes(rows):
    table = told.by_cost(rows, 0.01, clients=5).set_index("way")
    assert list(table.index) == [way for way in told.ORDER if not way.startswith("central")]
    assert (
        table.loc["fedavg", "a client gets, kB"] == "0" and table.loc["fedavg taught", "the teacher, once, kB"] == "0"
    )
    grown = rows.assign(down=rows["down"] * 5000, teacher_bytes=rows["teacher_bytes"] * 1000)
    table = told.by_cost(grown, 0.01, clients=5).set_index("way")
    assert table.loc["fedavg", "a client gets, kB"] == "1,000"
    assert table.loc["fedavg taught", "the teacher, once, kB"] == "500"


def test_claims_are_measured_as_they_are_said(rows):
    found = told.claims_of(rows, 0.01)
    assert set(found) == {key for key, claim in CLAIMS.items() if claim.chapter == "federated"}
    assert found["federated_uneven"].value == pytest.approx(-10)
    assert found["federated_most"].value == pytest.approx(19)
    assert found["federated_rare"].value == pytest.approx(100 * (ADDS[0.01] + ADDS[1.0]) + 0.2)
    assert [each.value for each in found["federated_helps"]] == pytest.approx([5.1, 20.1, 1.1])
    assert [each.against for each in found["federated_coded"]] == ["uncoded, int8", "uncoded, int4 0.9"]
    (small,) = found["federated_small_teacher"]
    assert small.value == pytest.approx(-5.1) and small.n == 3 and small.low < small.value < small.high


def test_sentences_name_what_their_numbers_say(rows):
    assert "At α = 0.01 a client alone has 30.0 %" in told.bounds_told(rows)
    between = told.teacher_told(rows)
    assert "adds +20.1 (+19.9 to +20.3) points at α = 0.01 and +1.1 (+0.9 to +1.3) at α = 1" in between
    assert "rare classes gain +40.2 points by the teacher, the others +0.0" in told.rare_told(rows)
    assert told.prox_told(rows) == "FedProx changes balanced accuracy by +1.0 to +1.0 points."
    assert "Messages in int4 0.9 take 1.0% of the bytes" in told.bytes_told(rows, 0.01)
    assert "not shown to lose" not in told.bytes_told(rows, 0.01)
    worse = rows.assign(balanced=rows["balanced"].where(rows["form"] != "int4 0.9", rows["balanced"] - 0.5))
    assert "Of those that are not shown to lose, int8 takes least: " in told.bytes_told(worse, 0.01)
    assert "A teacher that is int8 takes 25% of the bytes" in told.small_told(rows, 0.01)
    assert told.work_told(rows, 0.01) == "Asking the teacher once adds 10% to a client's multiply-adds."


def test_splits_without_rare_classes_are_left_out(rows):
    none = rows.assign(**{name: rows[name].where(rows["alpha"] != 0.01) for name in ("rare", "common")})
    assert told.gained(none).set_index("points by the teacher").loc["α = 0.01", "rare classes"] == "–"
    assert told.rare_told(none).startswith("At α = 1 rare classes gain")
    assert told.claims_of(none, 0.01)["federated_rare"].value == pytest.approx(100 * 2 * ADDS[1.0] + 0.2, abs=0.3)
    assert len(plots.draw_gains(told.gains(none)).axes[0].get_xticks()) == 2
    none = rows.assign(rare=None, common=None)
    assert "federated_rare" not in told.claims_of(none, 0.01) and "No split has" in told.rare_told(none)


def test_one_seed_has_no_interval(rows):
    one = rows[rows["seed"] == 0]
    assert told.gained(one)["balanced"].tolist() == ["+5.0", "+20.0", "+1.0"]
    assert math.isnan(told.claims_of(one, 0.01)["federated_most"].low)


def test_figures_show_every_way_form_and_split(rows):
    figure = plots.draw_ways(told.plain(rows))
    assert [text.get_text() for text in figure.legends[0].get_texts()] == list(dict.fromkeys(told.plain(rows)["way"]))
    coded = told.coded(rows, 0.01)
    rounds = [
        {"seed": seed, "form": form, "round": k, "down": 10, "up": 20, "validation": 0.1 * k}
        for seed, form, k in itertools.product(SEEDS, coded["form"].unique(), (1, 2, 3))
    ]
    figure = plots.draw_bytes(pd.DataFrame(rounds), coded)
    along = figure.axes[0].lines[0]
    assert along.get_xdata().tolist() == [30, 60, 90] and along.get_ydata().tolist() == pytest.approx([10, 20, 30])
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["Flower's own", "int8", "int4 0.9"]
    added = told.gains(rows)
    figure = plots.draw_gains(added[added["alpha"] > 0])
    assert [bar.get_height() for bar in figure.axes[0].patches] == pytest.approx([40.2, 2.2, 0, 0], abs=1e-9)
    held = [
        {"alpha": alpha, "client": client, "class": str(label), "images": 3 * client, "rare": label == 1}
        for alpha, client, label in itertools.product(ALPHAS, range(2), range(3))
    ]
    figure = plots.draw_splits(pd.DataFrame(held))
    assert [axis.get_title() for axis in figure.axes[:3]] == ["classes", "α = 0.01", "α = 1"]


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"alphas": [0.5], "coded_at": 0.1}, r"coded_at=0\.1: expected one of alphas"),
        ({"forms": ["int4 most"]}, "expected a form and maybe a share"),
        ({"forms": ["flower"]}, "'flower' is compared anyway"),
        ({"forms": ["int8", "int8"]}, "expected different ones"),
        ({"teachers": [{"weight": "int8"}]}, r"teachers\.weight: unknown"),
        ({"alphas": []}, "alphas"),
    ],
)
def test_a_comparison_that_cannot_be_made_is_refused(wrong, said):
    with pytest.raises((settings.SettingError, ValueError), match=said):
        settings.read(measure.Comparison, wrong, "comparison")


@pytest.mark.parametrize(
    ("federation", "recipe", "said"),
    [
        ({}, {}, "teaching=0.0: expected a weight"),
        ({"teaching": 1.0, "form": "int8"}, {}, "federation.form='int8': expected it left out"),
        (
            {"teaching": 1.0, "strategy": "fedprox", "mu": 0.5},
            {},
            "federation.strategy='fedprox': expected it left out",
        ),
        ({"teaching": 1.0}, {"augmentation": "all"}, "recipe.augmentation: expected none"),
    ],
)
def test_a_federation_that_says_what_is_compared_is_refused(federation, recipe, said):
    with pytest.raises(ValueError, match=said):
        measure.Comparison().fits(Federation(**federation), Recipe(**{"augmentation": "none"} | recipe))
