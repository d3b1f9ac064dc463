"""Chapter 5: its settings, the rows of what int8 does to a network, and the figures and sentences drawn from them."""

import dataclasses
import json
import math
import random

import numpy as np
import pandas as pd
import pytest
import torch
from projects import ROOT

from studylib import settings
from studylib.coding import codec, size
from studylib.data import scoring
from studylib.experiments import int8 as measure
from studylib.experiments import int8_few_bits
from studylib.networks import pt2e
from studylib.networks.layers import duplicate, fold_batch_norm, masks_of, prunable, weight_layers
from studylib.plots import int8 as plots
from studylib.results import statistics
from studylib.techniques import int8, prune, qat
from studylib.training import loop, recipe
from studylib.tree import published
from studylib.tree.names import METRICS

pytestmark = pytest.mark.usefixtures("drawn")
TUNING = int8_few_bits.Tuning(1, 1e-2, batch_size=50, augmentation="none")


# --- settings ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "kind, given, message",
    [
        (int8.Quantization, {"calibration_images": 0}, "calibration_images=0: expected at least 1"),
        (int8.Quantization, {"calibration_images": 1.5}, "calibration_images=1.5: expected a whole number"),
        (measure.Latency, {"batch": 0}, "batch=0: expected at least 1"),
        (measure.Latency, {"compiled": 1}, "compiled=1: expected true or false"),
        (int8_few_bits.FewBits, {"bits": []}, r"bits=\[\]: expected at least 1 of them"),
        (int8_few_bits.FewBits, {"bits": [1, 4]}, r"bits\[0\]=1: expected at least 2"),
        (int8_few_bits.FewBits, {"bits": [4, 8]}, r"bits\[1\]=8: expected at most 7"),
        (int8_few_bits.FewBits, {"bits": [4, 3]}, r"bits=\[4, 3\]: expected ascending numbers, each once"),
        (int8_few_bits.FewBits, {"bits": [3, 3]}, r"bits=\[3, 3\]: expected ascending numbers, each once"),
        (int8_few_bits.Tuning, {"epochs": 0}, "epochs=0: expected at least 1"),
        (int8_few_bits.Tuning, {"lr": 0.0}, "lr=0.0: expected above 0"),
        (int8_few_bits.Tuning, {"min_lr": 1.0}, "min_lr=1.0: expected between 0 and lr=0.0001"),
        (int8_few_bits.Tuning, {"compile": True}, "compile=True: expected False"),
        (int8_few_bits.Tuning, {"label_smoothing": 0.1}, "label_smoothing=0.1: expected 0"),
        (int8_few_bits.Tuning, {"epoch": 1}, "epoch: unknown; did you mean 'epochs'"),
    ],
)
def test_settings_out_of_bounds_are_named_with_what_was_expected(kind, given, message):
    with pytest.raises(settings.SettingError, match=f"^it.{message}"):
        settings.read(kind, given, "it")


def test_as_many_images_calibrate_as_there_are(digits):
    int8.Quantization(600).against(digits)
    with pytest.raises(ValueError, match=r"^calibration_images=601: expected 1 to 600$"):
        int8.Quantization(601).against(digits)


def test_the_tuning_is_a_recipe_whose_rate_falls_to_zero():
    given = {"epochs": 6, "lr": 1e-3, "batch_size": 32}
    tuning = settings.read(int8_few_bits.Tuning, given, "tuning")
    assert isinstance(tuning, recipe.Recipe)
    assert dataclasses.asdict(tuning) == dataclasses.asdict(recipe.Recipe(min_lr=0.0, **given))
    assert tuning.rate(6) == 0


# --- rows of int8 -----------------------------------------------------------------------------------------------


def test_what_is_stored_is_counted_by_type(int8_model):
    rows = {row["type"]: row["numbers"] for row in measure.stored_types(int8_model)}
    layers = weight_layers(int8_model).values()
    assert rows["torch.int8"] == sum(layer.weight.numel() for layer in layers)
    assert rows["torch.float32"] == sum(2 * len(layer.weight) + 1 for layer in layers)  # scales, biases, the input's
    assert rows["torch.uint8"] == len(layers)


def test_outputs_are_held_against_pt2es_to_the_last_bit(student_model, digits, monkeypatch):
    assert measure.equals_graph(student_model, digits, 8) == {"images": 8, "equal": True}
    made = pt2e.from_pt2e

    def almost(model, graph):
        found = made(model, graph)
        last = list(weight_layers(found).values())[-1]
        last.bias[0] = last.bias[0] * (1 + 1e-6) + 1e-6  # a few units in the last place
        return found

    monkeypatch.setattr(pt2e, "from_pt2e", almost)
    assert measure.equals_graph(student_model, digits, 8)["equal"] is False


def test_errors_by_layer_are_those_of_its_weights_and_of_what_it_puts_out(student_model, int8_model, digits):
    rows = measure.error_by_layer(student_model, int8_model, digits)
    assert [row["layer"] for row in rows] == list(weight_layers(int8_model))
    images = digits.normalize(digits.validation.images)
    noise = measure.layer_errors(student_model, int8_model, images)
    folded = weight_layers(fold_batch_norm(student_model))
    for row in rows:
        assert list(row) == ["layer", "worst", "mean", "static", "dynamic", "weight-only"]
        layer = weight_layers(int8_model)[row["layer"]]
        channel = folded[row["layer"]].weight.detach()[0] / layer.weight_scale[0]
        assert row["worst"] >= (channel - layer.weight[0]).abs().max() - 1e-4
        assert 0 < row["mean"] < row["worst"] <= 0.5001 and row["static"] == noise[row["layer"]]
    assert rows[0]["weight-only"] > rows[0]["static"]  # the first layer's input is exact


def test_kinds_are_scored_weighed_and_timed(student_model, int8_model, digits):
    rows = measure.kinds(student_model, int8_model, digits, {"compiled": False, "batch": 4})
    assert [row["kind"] for row in rows] == ["float32", "static", "dynamic", "weight-only"]
    assert all(list(row) == ["kind", "accuracy", "nll", "ece", "bytes", "ms"] and row["ms"] > 0 for row in rows)
    for row, model in zip(rows[:2], (student_model, int8_model), strict=True):
        assert row["accuracy"] == pytest.approx(scoring.accuracy(model, digits.validation, digits))
        assert row["bytes"] == size.accountings(model)["bytes_dense"]


@pytest.mark.parametrize("asked, why", [(True, None), (True, "no compiler"), (False, None)])
def test_latencies_are_compiled_where_that_was_asked_for_and_works(monkeypatch, asked, why):
    monkeypatch.setattr(measure.cost, "why_not_compile", lambda: why)
    assert measure.timed(measure.Latency(asked, 8)) == {"compiled": asked and why is None, "batch": 8}


def by_hand() -> dict[str, measure.Moved]:
    """A dense and a pruned network of two layers of two weights, and two images."""
    wide = [(torch.tensor([3.0, 4.0]), torch.tensor([3.0, 3.0])), (torch.tensor([0.0, 1.0]), torch.tensor([0.0, 0.5]))]
    thin = [(torch.tensor([0.0, 4.0]), torch.tensor([0.0, 3.0])), (torch.tensor([0.0, 1.0]), torch.tensor([0.0, 1.0]))]
    dense = {"KL": np.array([2.0, 4.0]), "loss": np.array([1.0, 1.0]), "flips": np.array([1.0, 0.0])}
    pruned = {"KL": np.array([1.0, 2.0]), "loss": np.array([1.0, 3.0]), "flips": np.array([0.0, 0.0])}
    return {"dense": measure.Moved(dense, wide), "pruned": measure.Moved(pruned, thin)}


def test_pruned_and_dense_networks_are_compared_as_reckoned_by_hand():
    rows = {(row["network"], row["measure"]): row for row in measure.lose_less(by_hand())}
    error = {network: row["mean"] for (network, measure), row in rows.items() if measure == "relative weight error"}
    assert error["dense"] == pytest.approx(((1 / 25 + 1 / 4) / 2) ** 0.5)
    assert error["dense, where pruning keeps"] == pytest.approx(((1 / 16 + 1 / 4) / 2) ** 0.5)
    assert error["pruned"] == pytest.approx((1 / 16 / 2) ** 0.5)
    assert len(rows) == 3 + 2 * 3 and rows["dense", "relative weight error"]["low"] is None
    assert rows["dense", "KL"]["mean"] == 3 and rows["pruned", "flips"]["mean"] == 0
    assert (rows["dense", "KL"]["low"], rows["dense", "KL"]["high"]) == pytest.approx(statistics.t_interval([2, 4]))
    differences = measure.pruned_less_dense(by_hand())
    assert [(row["measure"], row["mean"]) for row in differences] == [("KL", -1.5), ("loss", 1.0)]
    assert (differences[0]["low"], differences[0]["high"]) == pytest.approx(statistics.t_interval([-1, -2]))


def test_int8_moves_a_network_as_its_logits_say(student_model, int8_model, digits):
    how = {"calibration_images": 128, "seed": 0}
    found = measure.moved({"dense": student_model, "pruned": student_model}, digits, **how)
    assert all(row["mean"] == row["low"] == row["high"] == 0 for row in measure.pruned_less_dense(found))
    dense = found["dense"]
    predicted = [scoring.predict(model, digits.validation, digits) for model in (student_model, int8_model)]
    before, after = (scoring.scores(logits, digits.validation.labels)["nll"] for logits in predicted)
    assert dense.images["loss"].mean() == pytest.approx(after - before, abs=1e-6)
    assert (dense.images["KL"] >= -1e-12).all() and set(dense.images["flips"]) <= {0.0, 1.0}
    shapes = [layer.weight.shape for layer in weight_layers(int8_model).values()]
    assert [rounded.shape for _, rounded in dense.weights] == shapes


def test_without_a_pruned_network_there_are_no_rows_and_a_sentence_says_so():
    alone = {"dense": by_hand()["dense"]}
    assert measure.lose_less(alone) == [] == measure.pruned_less_dense(alone)
    none = published.frame([])
    assert measure.said_of_pruned(none, none) == "No pruned network was named, so this was not measured."


@pytest.mark.parametrize("low, high, word", [(-2, -1, "less"), (1, 2, "more"), (-1, 1, "neither more nor less")])
def test_the_guess_is_answered_by_the_interval_of_the_differences(low, high, word):
    differences = pd.DataFrame([{"measure": "KL", "mean": (low + high) / 2, "low": low, "high": high}])
    said = measure.said_of_pruned(published.frame(measure.lose_less(by_hand())), differences)
    assert f"move {word}" in said and "KL 1.50000 against 3.00000 nats" in said
    assert "error 0.1768 against 0.3808, but 0.3953" in said


# --- fewer bits -------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def thinned(student_model):
    """The network with half of its weights zero."""
    model = duplicate(student_model)
    weights = prunable(model)
    with torch.no_grad():
        for name, mask in prune.shrink_masks(weights, masks_of(model), 0.5).items():
            weights[name].mul_(mask)
    return model


def test_few_bits_that_were_stopped_go_on(thinned, tiny, tmp_path, monkeypatch, trainings):
    rises = int8_few_bits.sensitivity(thinned, tiny, [3, 4], 0)
    how = {"calibration_images": 16, "seed": 0}

    def rows():
        return int8_few_bits.below_eight({"dense": thinned}, tiny, [3, 4], rises, tuning=TUNING, folder=tmp_path, **how)

    calls = trainings(most=2)
    with pytest.raises(KeyboardInterrupt):
        rows()
    monkeypatch.undo()
    calls = trainings()
    whole = rows()
    assert len(calls) == 4 - 2  # trained on, in three bits, in four, and in four by layer
    calls.clear()
    assert rows() == whole and not calls
    found = {(row["network"], row["rounding"], row["bits"]): row for row in whole}
    ways = [("after training", 8), *((way, bits) for bits in (3, 4) for way in int8_few_bits.ROUNDINGS[1:])]
    hybrid = [("dense, hybrid", "after training", 4), ("dense, hybrid", "in training", 4)]
    assert set(found) == {("dense", *way) for way in ways} | set(hybrid)
    assert all(list(row) == ["network", "rounding", "bits", "bytes", "accuracy", "nll"] for row in whole)
    longer = duplicate(thinned)
    loop.fit(longer, tiny, TUNING, seed=0, masks=masks_of(thinned))
    by_layer = int8_few_bits.chosen(rises, [3, 4])[4]
    expected = {
        ("dense", "after training", 3): int8.apply(thinned, tiny, bits=3, **how),
        ("dense", "trained on", 4): int8.apply(longer, tiny, bits=4, **how),
        ("dense", "in training", 4): qat.apply(thinned, tiny, bits=4, recipe=TUNING, **how),
        ("dense, hybrid", "after training", 4): int8.apply(thinned, tiny, bits=by_layer, **how),
    }
    for key, model in expected.items():
        scored = scoring.scores(scoring.predict(model, tiny.test, tiny), tiny.test.labels)
        row = {"bytes": len(codec.encode(model)), "accuracy": scored["accuracy"], "nll": scored["nll"]}
        assert {name: found[key][name] for name in row} == row, key


def test_bits_by_layer_take_no_more_than_the_same_number_everywhere():
    weights, lost = {"a": 10, "b": 30}, {"a": {2: 5.0, 4: 1.0, 8: 0.0}, "b": {2: 0.5, 4: 0.4, 8: 0.0}}
    rises = [
        {"layer": layer, "bits": bits, "weights": weights[layer], "increase": lost[layer][bits]}
        for layer in weights
        for bits in (2, 4, 8)
    ]
    assert int8_few_bits.chosen(rises, [2, 4]) == {4: {"a": 8, "b": 2}}  # 10 · 8 + 30 · 2 = 140 of 160 bits
    assert int8_few_bits.chosen(rises, [4]) == {}


def test_rows_have_the_order_of_the_published_table():
    rows = json.loads((ROOT / "figures" / "digits" / "05_int8.json").read_text())["rows"]["below_eight_bits"]
    networks = list(dict.fromkeys(row["network"] for row in rows))
    mixed = sorted(rows, key=lambda row: (networks.index(row["network"]), random.Random(row["bytes"]).random()))
    assert mixed != rows and int8_few_bits.in_order(mixed) == rows


def test_the_networks_in_floats_are_rows_of_what_their_folders_say(tmp_path):
    known = {"bytes_file": 9, "test_accuracy": 0.5, "test_nll": 1.5, "seed": 0}
    (tmp_path / METRICS).write_text(json.dumps(known))
    row = {"rounding": "none", "bits": 32, "bytes": 9, "accuracy": 0.5, "nll": 1.5}
    assert int8_few_bits.in_floats({"dense": str(tmp_path)}) == [{"network": "dense", **row}]


FEW = [
    ("dense", "none", 32, 900, 0.95),
    ("dense", "after training", 8, 300, 0.95),
    ("dense", "after training", 2, 90, 0.30),
    ("dense", "in training", 2, 91, 0.80),
    ("dense", "in training", 4, 150, 0.945),
    ("dense, hybrid", "in training", 4, 149, 0.947),
]


def few(rows=FEW) -> pd.DataFrame:
    return pd.DataFrame(rows, columns=["network", "rounding", "bits", "bytes", "accuracy"])


def test_few_bits_are_summed_up_by_network():
    said = "in 2 bits after training 30.0%, in training 80.0%, in floats 95.0%; smallest file within a point of that: "
    assert int8_few_bits.said_of_few(few()) == f"dense: {said}4 bits, in training, 150 bytes"
    assert int8_few_bits.said_of_few(few([FEW[0], *FEW[2:4]])) == f"dense: {said}none"
    assert int8_few_bits.said_of_hybrid(few()) == "4 bits, in training, +0.2 points"
    assert int8_few_bits.said_of_hybrid(few(FEW[:-1])) == "none was chosen, as that takes two numbers of bits"


def test_kinds_are_summed_up_as_shares_of_the_float_network():
    rows = [("float32", 0.98, 400, 2.0), ("static", 0.97, 100, 1.0)]
    said = measure.said_of_kinds(pd.DataFrame(rows, columns=["kind", "accuracy", "bytes", "ms"]))
    first = "float32: accuracy 98.00%, 100.0% of the bytes, 1.00 of the time"
    assert said == f"{first}; static: accuracy 97.00%, 25.0% of the bytes, 0.50 of the time"


def test_claims_are_of_bytes_and_of_images_that_were_right_before(student_model, int8_model, digits):
    whole, small = (size.accountings(model)["bytes_dense"] for model in (student_model, int8_model))
    found = measure.claims_of({"bytes_dense": small}, student_model, int8_model, digits)
    assert found["int8_saved"].value == found["static_saved"].value == pytest.approx(100 * (1 - small / whole))
    linear = sum(m.weight.numel() for n, m in weight_layers(int8_model).items() if n.startswith("fc"))
    assert found["dynamic_saved"].value == pytest.approx(300 * linear / whole) and linear
    cost = [scoring.accuracy(model, digits.validation, digits) for model in (student_model, int8_model)]
    assert found["int8_cost"].value == pytest.approx(100 * (cost[0] - cost[1]), abs=1e-9)
    assert found["int8_cost"].low <= found["int8_cost"].value <= found["int8_cost"].high


# --- figures ----------------------------------------------------------------------------------------------------


def test_few_bits_are_drawn_against_bits_and_bytes():
    rows = [
        {"network": n, "rounding": how, "bits": b, "accuracy": 0.5 + b / 100, "bytes": 1000 * b}
        for n in ("dense", "pruned")
        for how, b in (("none", 32), ("after training", 4), ("after training", 2), ("in training", 2))
    ]
    figure = plots.draw_bits(pd.DataFrame(rows))
    left, right = figure.axes
    assert [list(line.get_xdata()) for line in left.lines[1:3]] == [[2, 4], [2]]
    assert [list(line.get_xdata()) for line in right.lines[:3]] == [[32_000], [2000, 4000], [2000]]
    assert list(left.lines[1].get_ydata()) == pytest.approx([52, 54]) and right.get_xscale() == "log"
    names = [t.get_text() for t in figure.legends[0].get_texts()]
    assert names == ["dense", "pruned", "after training", "in training", "floats"]


def test_errors_are_drawn_from_input_to_output():
    kinds = {"static": 30.0, "dynamic": 31.0, "weight-only": math.nan}
    rows = pd.DataFrame(
        [{"layer": name, "worst": 0.5, "mean": mean, **kinds} for name, mean in (("a", 0.2), ("b", 0.3))]
    )
    left, right = plots.draw_errors(rows).axes
    assert [bar.get_width() for bar in left.patches] == pytest.approx([0.5, 0.5, 0.2, 0.3])
    assert left.yaxis_inverted() and [t.get_text() for t in left.get_yticklabels()] == ["a", "b"]
    assert [list(line.get_xdata()) for line in right.lines[:2]] == [[30, 30], [31, 31]]


def test_kinds_are_drawn_in_a_panel_a_measure():
    rows = pd.DataFrame({"kind": ["float32", "static"], "nll": [0.1, 0.2], "bytes": [4000, 1000], "ms": [2.0, 1.0]})
    heights = [[bar.get_height() for bar in axis.patches] for axis in plots.draw_kinds(rows).axes]
    assert heights == [[0.1, 0.2], [4, 1], [2, 1]]


@pytest.mark.parametrize("study", ["digits", "cifar10"])
def test_what_int8_moves_is_drawn_with_its_intervals_also_as_published(study):
    rows = published.Published(ROOT / "figures" / study, "05_int8").rows("do_pruned_weights_lose_less")
    axes = plots.draw_moved(rows).axes
    assert [axis.get_ylabel() for axis in axes] == list(plots.UNITS.values())
    for axis, (_, part) in zip(axes, rows.groupby("measure", sort=False), strict=True):
        assert list(axis.lines[0].get_ydata()) == list(part["mean"])
    assert [len(axis.lines[0].get_ydata()) for axis in axes] == [3, 2, 2, 2]
    assert [len(axis.collections) for axis in axes] == [0, 1, 1, 1]  # bars of the intervals
