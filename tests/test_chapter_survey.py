"""Chapter 9: techniques by their words, one face for all, rows beside narrower networks, and what they say."""

import dataclasses
import math
import sys
import time
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.metrics import roc_auc_score

from studylib.coding import codec
from studylib.data import datasets, scoring
from studylib.experiments import energy, leaks, one_layer, survey, sweep_narrower
from studylib.experiments import survey_told as says
from studylib.networks import factors, layers
from studylib.results import verdicts
from studylib.settings import SettingError
from studylib.techniques import sketch
from studylib.training import loop
from studylib.training.recipe import Recipe

CPU = torch.device("cpu")

ONE = Recipe(epochs=1, lr=0.003, batch_size=64)
NONE = Recipe(epochs=0)


def test_every_technique_has_its_fields_as_arguments_and_a_word_that_a_spec_knows():
    for key, each in survey.TECHNIQUES.items():
        assert each.module.__name__ == f"studylib.techniques.{key}"
        fields = {field.name for field in dataclasses.fields(each.record)}
        assert fields <= survey._takes(key), key


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"techniques": ["tuker"]}, "technique='tuker': unknown; did you mean 'tucker'"),
        ({"techniques": ["cp", "cp"]}, r"techniques=\['cp', 'cp'\]: expected different ones"),
        ({"settings": {"tucker": {"rnk": 2}}}, "settings.tucker.rnk: unknown; did you mean 'rank'"),
        ({"settings": {"tuker": {}}}, "technique='tuker': unknown"),
        ({"techniques": ["svd"], "settings": {"tucker": {"rnk": 2}}}, "settings.tucker.rnk: unknown"),
        ({"networks": {"resnet": []}}, "networks: name: "),
        ({"networks": {"resnet 8-4": ["resnet 8-2", "resnet 8-2"]}}, "'resnet 8-4': .* expected different ones"),
        ({"timed": 3, "repetitions": 2}, "timed=3: expected at most repetitions=2"),
        ({"models": ["resnet19"]}, "model 'resnet19': expected families, quantizable or a classifier of torchvision"),
    ],
)
def test_what_cannot_be_compared_is_named(given, message):
    with pytest.raises(ValueError, match=message):
        survey.Survey(**given)


def test_what_the_data_cannot_have_is_named_with_its_technique(tiny):
    asked = survey.Survey(techniques=["fixed"], settings={"fixed": {"calibration_images": 101}})
    with pytest.raises(ValueError, match=r"settings\.fixed\.calibration_images=101: expected 1 to 100"):
        asked.against(tiny)


def test_a_narrower_network_has_fewer_parameters(tiny):
    asked = survey.Survey(networks={"resnet 8-4": ["resnet 8-2", "resnet 8-6"]})
    with pytest.raises(ValueError, match=r"'resnet 8-6' has .* expected fewer than the .* of 'resnet 8-4'"):
        asked.against(tiny)


@pytest.mark.parametrize("key", ["threshold", "semistructured", "tucker", "dynamic", "binary"])
def test_a_technique_is_trained_on_where_it_can_be_and_leaves_what_it_was_given(key, tiny, student_model):
    before = {name: tensor.clone() for name, tensor in student_model.state_dict().items()}
    settings = survey.settings_of(key, {})
    plain = survey.apply(key, student_model, tiny, settings, NONE, seed=0)
    made = survey.apply(key, student_model, tiny, settings, ONE, seed=0)
    assert all(torch.equal(tensor, before[name]) for name, tensor in student_model.state_dict().items())
    changes = [change["technique"] for change in made.spec["changes"][len(student_model.spec["changes"]) :]]
    assert changes == [key] + (["recovery"] if survey.TECHNIQUES[key].kind != survey.QUANTIZATION else [])
    trained = any(
        not torch.equal(a, b) for a, b in zip(plain.state_dict().values(), made.state_dict().values(), strict=True)
    )
    assert trained == survey.trains(key) == (key != "dynamic")
    zeros = [{name: mask == 0 for name, mask in layers.masks_of(each).items()} for each in (plain, made)]
    assert all(bool(zeros[1][name][zero].all()) for name, zero in zeros[0].items())
    assert len(codec.encode(made)) > 0


def test_rows_are_of_every_seed_and_kept_and_the_same_network_is_the_start_of_all(tmp_path, monkeypatch):
    asked = survey.Survey(
        techniques=["semistructured", "dynamic"], networks={"resnet 8-2": ["resnet 8-1"], "densenet 7-2": []}, batch=2
    )
    how = ("digits", 3, ONE, ONE, asked, torch.device("cpu"), tmp_path)
    monkeypatch.setattr(energy, "estimate", lambda once: {"joules": once() / 1000, "co2_mg": None})
    rows = survey.compared(*how)
    assert rows[["network", "technique", "form"]].to_numpy().tolist() == [
        ["resnet 8-2", survey.WHOLE, "float32"],
        ["resnet 8-2", "semistructured", ""],
        ["resnet 8-2", "dynamic", ""],
        ["resnet 8-2", "resnet 8-1", "float32"],
        ["resnet 8-2", "resnet 8-1", "int8"],
        ["densenet 7-2", survey.WHOLE, "float32"],
        ["densenet 7-2", "semistructured", ""],
        ["densenet 7-2", "dynamic", ""],
    ]
    assert set(rows["seed"]) == {3} and rows["accuracy"].between(0, 1).all()
    assert (rows["auc_low"] < rows["auc"]).all() and (rows["joules"] > 0).all()
    assert rows["before"].isna().tolist() == [False, False, False, True, True, False, False, False]
    data = datasets.load("digits", 3)
    dense = survey.trained("resnet 8-2", data, ONE, 3, CPU)
    longer = survey.recovered(dense, data, ONE, seed=3)
    dynamic = rows[rows["technique"] == "dynamic"].iloc[0]  # not trained on, so that its start is
    for column, start in (("before", dense), ("accuracy", longer)):
        rounded = survey.apply("dynamic", start, data, survey.settings_of("dynamic", {}), ONE, seed=3)
        assert dynamic[column] == scoring.accuracy(rounded, data.test, data), column
    assert dynamic["auc"] == leaks.attack(rounded, data)["auc"]
    monkeypatch.setattr(loop, "fit", lambda *_, **how: pytest.fail("what is kept is not made again"))
    pd.testing.assert_frame_equal(survey.compared(*how), rows)


def test_a_technique_is_timed_in_turn_with_the_network_as_trained(monkeypatch):
    passes = []

    def timer(model, images, compiled):
        changed = model.spec["changes"][-1]["technique"]
        return lambda: passes.append(changed) or {"teacher": 3.0, "dynamic": 2.0}[changed]

    monkeypatch.setattr(survey.cost, "timer", timer)
    monkeypatch.setattr(energy, "estimate", lambda once: {"joules": once(), "co2_mg": None})
    asked = survey.Survey(techniques=["dynamic"], networks={"resnet 8-1": []}, batch=2)
    row = survey.compared("digits", 3, NONE, NONE, asked, CPU, None).iloc[1]
    assert passes[-5:] == ["dynamic", "teacher", "dynamic", "teacher", "dynamic"]
    assert (row["latency_ms"], row["whole_ms"], row["joules"]) == (2.0, 3.0, 2.0)


@pytest.mark.parametrize("key", ["tucker", "cp", "sketch"])
def test_a_budget_below_what_rank_1_takes_is_refused_before_anything_trains(key, digits):
    asked = survey.Survey(techniques=[key], networks={"resnet 8-2": []}, settings={key: {"budget": 100}})
    with pytest.raises(ValueError, match=f"settings.{key}: resnet 8-2: budget=100: expected at least"):
        asked.against(digits)


def test_only_the_first_seeds_are_timed(monkeypatch):
    asked = survey.Survey(techniques=["dynamic"], networks={"resnet 8-1": []}, batch=2, repetitions=2)
    monkeypatch.setattr(energy, "estimate", lambda once: {"joules": 1.0, "co2_mg": 1.0})
    rows = survey.compared("digits", 3, NONE, NONE, asked, CPU, None)
    assert rows["seed"].tolist() == [3, 3, 4, 4]
    for column in survey.TIMED:
        assert rows[column].notna().tolist() == [True, True, False, False], column
    table = says.at_equal_bytes(rows)
    assert table["latency_ms"].tolist() == rows["latency_ms"][:2].tolist()


def made_up(seeds=(0, 1, 2)):
    """Narrower networks of 1,000 and 4,000 bytes at 60 and 80 %; three techniques of 2,000 bytes, above, below, at."""
    rows = []
    for seed in seeds:
        wobble = 0.001 * seed
        plain = {"seed": seed, "network": "resnet 8-8", "multiply_adds": 10**6, "before": 0.5, "auc": 0.6}
        plain |= dict.fromkeys(survey.TIMED) | {"latency_ms": 1.0, "whole_ms": 1.0}
        rows.append(
            plain | {"technique": survey.WHOLE, "kind": survey.WHOLE, "form": "float32", "accuracy": 0.9, "bytes": 9000}
        )
        for key, accuracy, auc in (
            ("tucker", 0.8 + wobble, 0.55 + wobble),
            ("cp", 0.6 - wobble, 0.65 + wobble),
            ("svd", 0.7 + 0.03 * (seed - 1), 0.6 + 0.03 * (seed - 1)),
        ):
            rows.append(
                plain
                | {"technique": key, "kind": survey.LOW_RANK, "form": "", "accuracy": accuracy, "bytes": 2000}
                | {"auc": auc, "latency_ms": 0.5, "multiply_adds": 5 * 10**5}
            )
        rows.append(
            plain | {"technique": "int4", "kind": survey.QUANTIZATION, "form": "", "accuracy": 0.5, "bytes": 900}
        )
        for name, size, accuracy in (("a", 1000, 0.6), ("b", 4000, 0.8)):
            rows.append(
                plain
                | {"technique": name, "kind": survey.CONTROL, "form": "float32", "accuracy": accuracy, "bytes": size}
            )
    return pd.DataFrame(rows)


def test_at_equal_bytes_is_between_the_narrower_networks_on_a_logarithmic_axis():
    rows = made_up()
    table = says.at_equal_bytes(rows).set_index("technique")
    assert table.loc["tucker", "margin"] == pytest.approx(10.1)  # halfway in log bytes: 70 %
    verdicts = table.loc[["tucker", "cp", "svd", "int4"], "verdict"].tolist()
    expected = [sweep_narrower.BEATS, sweep_narrower.BEATEN, "cannot tell", sweep_narrower.TOO_SMALL]
    assert verdicts == expected
    assert table.loc["tucker", "low"] < 10.1 < table.loc["tucker", "high"]
    one = says.at_equal_bytes(made_up([0])).set_index("technique")
    assert one.loc["tucker", "verdict"] == "cannot tell" and one["low"].isna().all()
    found = says.rivals(rows)
    assert found.sort_values("bytes")["technique"].tolist() == ["a", "b", survey.WHOLE]
    assert found.sort_values("bytes")["accuracy"].tolist() == pytest.approx([0.6, 0.8, 0.9])
    assert says.rivals_shown(found)["file kB"].tolist() == ["1.0", "4.0", "9.0"]


def test_a_line_ends_at_the_network_itself_which_has_no_margin():
    rows = made_up()
    larger = rows[rows["technique"] == "tucker"].assign(technique="sketch", bytes=6000, accuracy=0.86)
    small = rows[rows["technique"] == "int4"].assign(technique="int8", bytes=3000, accuracy=0.89)
    table = says.at_equal_bytes(pd.concat([rows, larger, small], ignore_index=True)).set_index("technique")
    # above the largest narrower network, but not above the line's way from there to the network as trained
    assert table.loc["sketch", "margin"] == pytest.approx(-3)  # its int8 form of 3,000 bytes has 89 %
    assert table.loc[["int8", survey.WHOLE], "verdict"].tolist() == [says.ONE_OF_THEM] * 2
    assert table.loc[["int8", survey.WHOLE], "margin"].isna().all()
    between = 0.8 + 0.1 * math.log(6000 / 4000) / math.log(9000 / 4000)
    table = says.at_equal_bytes(pd.concat([rows, larger], ignore_index=True)).set_index("technique")
    assert table.loc["sketch", "margin"] == pytest.approx(100 * (0.86 - between))


def test_another_published_study_is_held_against_its_own_narrower_networks():
    there = SimpleNamespace(rows={"techniques": made_up()}.get)
    table, lines = says.of_published(there)
    pd.testing.assert_frame_equal(table, says.at_equal_bytes(made_up()))
    pd.testing.assert_frame_equal(lines, says.rivals(made_up()))
    empty, without = says.of_published(None)
    assert says.told(empty) == [] and without.empty


def test_each_network_has_rivals_of_its_own():
    better = made_up().assign(network="densenet 10-8")
    better.loc[better["kind"] == survey.CONTROL, "accuracy"] += 0.2
    table = says.at_equal_bytes(pd.concat([made_up(), better], ignore_index=True))
    margins = table[table["technique"] == "tucker"].set_index("network")["margin"]
    assert margins["resnet 8-8"] == pytest.approx(10.1) and margins["densenet 10-8"] == pytest.approx(-9.9)


def test_what_the_table_says_is_said():
    table = says.at_equal_bytes(made_up())
    [told] = says.told(table, points=15)
    assert told.startswith("resnet 8-8, 9.0 kB and 90.0 % as trained: of all that stay within 15 points of it, tucker")
    assert "is the smallest (2.0 kB, 80.1 %)" in told
    assert told.endswith("as many bytes: tucker. Worse: cp. Cannot be told: svd.")
    assert "no technique stays within a point of it" in says.told(table)[0]
    shown = says.shown(table).set_index("stage")
    assert shown.loc["tucker", "saved %"] == "77.8" and shown.loc["tucker", "over narrower, points"].startswith(
        "+10.10 ("
    )
    assert shown.loc["int4", "over narrower, points"] == "–" and shown.loc["–", "verdict"] == "–"


def test_work_is_multiply_adds_times_time_and_energy_is_there_where_it_was_estimated():
    table = says.at_equal_bytes(made_up())
    work = says.work(table).set_index("stage")
    shares = work[["time", "multiply-adds × time"]]
    assert shares.loc["tucker"].tolist() == ["0.50", "0.25"] and shares.loc["int4"].tolist() == ["1.00", "1.00"]
    assert "mJ a batch" not in work and "no energy is estimated" in says.energy_told(table)
    whole = made_up()["technique"] == survey.WHOLE
    zeros = made_up()[whole].assign(technique="oneshot", kind=survey.PRUNING, latency_ms=1.4, whole_ms=2.0)
    told = says.energy_told(says.at_equal_bytes(pd.concat([made_up(), zeros], ignore_index=True)))
    assert "took 0.70 to 0.70 of the time as trained" in told and "Hardware-aware" not in told
    slow = made_up()[whole].assign(technique="hardware", kind=survey.QUANTIZATION, latency_ms=1.5)
    told = says.energy_told(says.at_equal_bytes(pd.concat([made_up(), slow], ignore_index=True)))
    assert "Hardware-aware int8 saved 0.0 to 0.0 % of the bytes and took 1.50 to 1.50 of the time as trained" in told
    assert "hardly any layer was faster in int8" in told
    small = slow.assign(bytes=slow["bytes"] // 2)
    told = says.energy_told(says.at_equal_bytes(pd.concat([made_up(), small], ignore_index=True)))
    assert "saved 50.0 to 50.0 %" in told and "its layers were chosen one by one" in told
    table = says.at_equal_bytes(made_up().assign(joules=0.02, co2_mg=0.001))
    assert set(says.work(table)["mJ a batch"]) == {"20"} and "the mean grid of USA" in says.energy_told(table)


def test_leaks_are_told_apart_seed_by_seed_and_each_kind_has_a_verdict():
    rows = made_up()
    found = says.leaks(rows).set_index("technique")
    assert found["verdict"].to_dict() == {
        **{"tucker": "leaks less", "cp": "leaks more", "svd": "cannot tell"},
        "int4": "cannot tell",
    }
    assert found.loc["tucker", "change"] == pytest.approx(-4.9) and found.loc["tucker", "high"] < 0
    told = says.leaks_told(says.leaks(rows), rows)
    assert told.startswith("The attack's AUC as trained is ") and "; 0.5 is a guess. Of 4 compressed networks" in told
    assert "1 leak less than as trained, 1 more" in told
    models = pd.DataFrame({"model": ["m"], "parameters": 1, "bytes": 100.0})
    models = models.assign(bytes_dynamic=40.0, bytes_torchao=40.0, bytes_static=30.0)
    layers = pd.DataFrame({"seed": [0, 0, 1, 1], "network": "n", "layer": ["a", "b"] * 2, "saved": [0.1, 0.3, 0.4, 0]})
    measured = says.claims_of(rows, models, layers)
    [dynamic], [static] = measured["zoo_dynamic"], measured["zoo_static"]
    assert (dynamic.value, static.value, static.against) == (60, 70, "survey's twelve, by 1 other models")
    assert measured["one_layer"].value == pytest.approx(35) and measured["one_layer"].n == 2
    low_rank, quantized = measured["leaks"]
    assert low_rank.value == pytest.approx(0.1 / 1.5) and low_rank.against == "network as trained, by low rank"
    assert quantized.value == 0
    judged = verdicts.rows("survey", measured, "digits")
    assert [row["claim"] for row in judged] == ["zoo_dynamic", "zoo_static", "one_layer", "leaks", "leaks"]


def test_the_attack_tells_all_members_or_guesses_and_its_interval_is_that_of_delong():
    low, high = np.arange(5.0), np.arange(5.0, 12)
    assert leaks.auc(low, high) == {"auc": 1.0, "auc_low": 1.0, "auc_high": 1.0}
    assert leaks.auc(high, low)["auc"] == 0
    assert leaks.auc(np.ones(4), np.ones(3))["auc"] == 0.5  # ties count half
    rng = np.random.default_rng(0)
    members, others = rng.normal(0, 1, 400), rng.normal(0.5, 1, 300)
    found = leaks.auc(members, others)
    assert found["auc"] == pytest.approx(roc_auc_score([1] * 400 + [0] * 300, -np.r_[members, others]))
    draws = [roc_auc_score([1] * 400 + [0] * 300, -np.r_[rng.choice(members, 400), rng.choice(others, 300)])
             for _ in range(400)]  # fmt: skip
    half = (found["auc_high"] - found["auc_low"]) / 2
    assert half == pytest.approx(1.96 * np.std(draws), rel=0.15)
    with pytest.raises(ValueError, match="others: expected at least two losses, none NaN; got 1"):
        leaks.auc(low, high[:1])


def test_a_network_that_knows_its_images_by_heart_is_attacked_and_one_that_was_not_trained_is_not(tiny):
    by_heart = survey.trained(
        "resnet 8-8", tiny, Recipe(epochs=60, lr=0.01, batch_size=25, augmentation="none"), 0, CPU
    )
    fresh = survey.trained("resnet 8-8", tiny, NONE, 0, CPU)
    assert leaks.attack(by_heart, tiny)["auc_low"] > 0.55
    found = leaks.attack(fresh, tiny)
    assert found["auc_low"] < 0.5 < found["auc_high"]


def test_one_layer_is_factorized_while_validation_accuracy_stays(digits):
    model = survey.trained("resnet 8-4", digits, Recipe(epochs=4, lr=0.01, batch_size=64), 0, CPU)
    rows = pd.DataFrame(one_layer.of_network(model, digits))
    assert rows["layer"].is_unique and rows["share"].sum() < 1 and (rows["saved"] <= rows["share"]).all()
    assert (rows["saved"] > 0).any() and ((rows["rank"] == 0) == (rows["saved"] == 0)).all()
    row = rows.loc[rows["saved"].idxmax()]
    small, name = layers.duplicate(model), row["layer"]
    how = {"method": "svd", "generator": torch.Generator()}
    factors.put(small, name, sketch.factorize(model.get_submodule(name), int(row["rank"]), **how))
    sizes = [sum(parameter.numel() for parameter in each.parameters()) for each in (small, model)]
    assert row["saved"] == pytest.approx(1 - sizes[0] / sizes[1])
    of = [scoring.accuracy(each, digits.validation, digits) for each in (small, model)]
    assert of[0] >= of[1] - one_layer.LOST and row["accuracy"] == scoring.accuracy(small, digits.test, digits)


def test_what_one_layer_may_save_is_of_the_network_where_it_saves_most():
    rows = [
        {
            "seed": seed,
            "network": network,
            "layer": layer,
            "share": 0.5,
            "saved": saved,
            "before": 0.9,
            "accuracy": 0.89,
        }
        for seed in (0, 1)
        for network, layer, saved in (("a", "x", 0.2), ("a", "y", 0.3 + 0.02 * seed), ("b", "x", 0.1))
    ]
    rows = pd.DataFrame(rows)
    assert one_layer.claimed(rows).value == pytest.approx(31) and one_layer.claimed(rows).n == 2
    shown = one_layer.shown(rows).set_index("network")
    assert shown["most often"].to_dict() == {"a": "y", "b": "x"} and shown["and costs, points"].tolist() == ["1.00"] * 2
    known = pd.DataFrame({"model": ["m", "n"], "largest": [0.31, 0.29]})
    rows = pd.DataFrame({"seed": [0, 0, 1, 1], "network": "n", "layer": ["a", "b"] * 2, "saved": [0.1, 0.3, 0.4, 0]})
    said = one_layer.said(known, rows)
    assert said.startswith("One layer saves at most 35.0 % of n. Of 2 models of torchvision 1 have a layer with more")


def test_without_codecarbon_no_energy_is_made_up(monkeypatch):
    monkeypatch.setitem(sys.modules, "codecarbon", None)
    assert not energy.installed() and energy.estimate(lambda: 1.0) == {"joules": None, "co2_mg": None}


@pytest.mark.skipif(not energy.installed(), reason="the extra energy is not installed: no energy can be estimated")
def test_energy_is_of_one_pass_and_longer_passes_take_more():
    def once(seconds):
        return lambda: time.sleep(seconds) or 1000 * seconds

    short, long = (energy.estimate(once(seconds), seconds=1.0) for seconds in (0.01, 0.1))
    if short["joules"] is None or long["joules"] is None:
        pytest.skip("codecarbon says nothing here, as where another program measures")
    assert 0 < short["joules"] < long["joules"] and 0 < short["co2_mg"] < long["co2_mg"]


def test_settings_of_a_technique_are_read_by_its_record():
    assert survey.settings_of("semistructured", {"n": 1}).n == 1
    with pytest.raises(SettingError, match=r"settings\.k: unknown"):
        survey.settings_of("semistructured", {"k": 1})
