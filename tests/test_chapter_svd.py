"""Chapter 4's rows, records and figures."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import torch

from studylib import settings
from studylib.experiments import svd as measure
from studylib.networks import layers
from studylib.plots import svd as plots
from studylib.techniques import prune, svd
from studylib.tree.published import Published

TUNING = measure.Tuning(epochs=1, lr=1e-2, augmentation="none")


@pytest.mark.parametrize(
    ("kind", "given", "message"),
    [
        (measure.Ranks, {"seeds": 0}, r"ranks.seeds=0: expected at least 1"),
        (measure.Ranks, {"deltas": [0, -1]}, r"ranks.deltas\[1\]=-1: expected at least 0"),
        (measure.Ranks, {"deltas": [4097]}, r"ranks.deltas\[0\]=4097: expected at most 4096"),
        (measure.Ranks, {"delta": [1]}, r"ranks.delta: unknown; did you mean 'deltas'"),
        (measure.Tuning, {"epochs": 0}, r"ranks.epochs=0: expected at least 1"),
        (measure.Tuning, {"lr": 1e-8}, r"ranks.min_lr=1e-07: expected between 0 and lr=1e-08"),
        (measure.Tuning, {"batch_size": 1}, r"ranks.batch_size=1: expected at least 2"),
    ],
)
def test_a_setting_that_cannot_be_used_is_named(kind, given, message):
    with pytest.raises(settings.SettingError, match=message):
        settings.read(kind, given, "ranks")


def test_deltas_may_be_none_but_the_stages():
    assert settings.read(measure.Ranks, {"deltas": []}, "ranks").deltas == []


def test_a_factorized_layer_has_its_weights_and_its_error(student_model):
    rows = pd.DataFrame(measure.factorized_layers(student_model, svd.apply(student_model)))
    assert list(rows.columns) == ["layer", "inputs", "outputs", "rank", "before", "after", "error", "dropped"]
    assert list(rows["layer"]) == ["fc1", "fc2", "fc3"]
    last = rows.iloc[2]  # 12 → 10: rank ⌊120 / 22⌋ − 1
    assert (last["rank"], last["before"], last["after"]) == (4, 120, 4 * 22)
    assert np.allclose(rows["error"], rows["dropped"], rtol=1e-4) and (rows["dropped"] > 0).all()


def test_nothing_factorized_is_no_row(int8_model):
    assert measure.factorized_layers(int8_model, svd.apply(int8_model)) == []


def test_shares_of_a_spectrum_are_of_the_layers_norm(teacher_model, student_model):
    rows = pd.DataFrame(measure.spectra({"DenseNet": teacher_model, "student": student_model}))
    assert list(rows["layer"].unique()) == ["DenseNet classifier", "student fc1", "student fc2", "student fc3"]
    assert np.allclose((rows["share"] ** 2).groupby(rows["layer"]).sum(), 1)
    assert set(rows[rows["layer"] == "student fc3"]["even"]) == {5}
    assert list(rows[rows["layer"] == "student fc3"]["index"]) == list(range(1, 11))


def test_beyond_break_even_is_the_squared_norm_that_no_smaller_factors_hold():
    rows = pd.DataFrame({"layer": ["b", "b", "a"], "index": [1, 2, 1], "share": [0.8, 0.6, 1.0], "even": [1, 1, 1]})
    found = measure.beyond_even(rows)
    assert list(found.index) == ["b", "a"] and found.tolist() == pytest.approx([0.36, 0])


def test_a_network_before_it_is_factorized_has_its_numbers_and_accuracy(student_model, tiny):
    (row,) = measure.unfactorized({"student": student_model}, tiny)
    folded = 8 + 12 + 16  # a norm's scale goes into the weights, its shift stays as a bias
    assert row["numbers"] == sum(p.numel() for p in student_model.parameters()) - folded
    assert row["network"] == "student" and 0.5 < row["accuracy"] <= 1


def test_gains_are_means_over_seeds_and_points():
    plain, fisher, tuned = measure.PLAIN, measure.FISHER, measure.PLAIN + measure.TUNED
    values = [(plain, 1, 0.5), (plain, 4, 0.2), (fisher, 1, 0.6), (fisher, 4, 0.4), (tuned, 1, 0.7), (tuned, 1, 0.9)]
    rows = pd.DataFrame(
        [{"network": "z", "how": h, "delta": d, "accuracy": a} for h, d, a in values]
        + [{"network": "a", "how": h, "delta": d, "accuracy": 0.5} for h, d, _ in values]
    )
    found = measure.gains(rows, 1)
    assert list(found["network"]) == ["z", "a"]  # as in the rows
    assert found.iloc[0].drop("network").tolist() == pytest.approx([0.5, 15, 30])
    assert found.iloc[1].drop("network").tolist() == pytest.approx([0.5, 0, 0])


def test_factors_of_a_pruned_layer_cost_its_bytes_anew(student_model):
    weights = layers.prunable(student_model)
    masks = prune.shrink_masks(weights, layers.masks_of(student_model), 0.9)
    pruned = layers.duplicate(student_model)
    with torch.no_grad():
        for name, weight in layers.prunable(pruned).items():
            weight.mul_(masks[name])
    rows = pd.DataFrame(measure.interplay(student_model, pruned, 1))
    assert list(rows.columns) == ["layer", "form", "bytes"] and len(rows) == 3 * 4
    fc3 = rows[rows["layer"] == "fc3"].set_index("form")["bytes"]
    assert (fc3["as it was"], fc3["as it was, factorized"]) == (4 * 120, 4 * 4 * 22)
    assert fc3["pruned"] < fc3["pruned, factorized"]
    assert "times the pruned ones" in measure.bytes_paid(rows)


def test_bytes_paid_are_of_the_layers_that_can_be_factorized():
    forms = {"as it was": 4000, "as it was, factorized": 3000, "pruned": 1000, "pruned, factorized": 2500}
    rows = [{"layer": "fc1", "form": form, "bytes": paid} for form, paid in forms.items()]
    rows += [{"layer": "fc2", "form": form, "bytes": 7} for form in ("as it was", "pruned")]
    assert measure.bytes_paid(pd.DataFrame(rows)) == (
        "The student's factorizable layers take 4,000 bytes, 3,000 factorized, 1,000 pruned, and 2,500 pruned then "
        "factorized: 2.5 times the pruned ones."
    )
    assert "No layer" in measure.bytes_paid(pd.DataFrame(rows[4:]))
    assert measure.bytes_paid(pd.DataFrame([])).startswith("Not measured")


def test_what_was_swept_is_kept_and_says_what_the_claims_need(student_model, tiny, tmp_path, monkeypatch):
    networks, ranks = {"student": student_model}, measure.Ranks(seeds=2, deltas=[4])
    found = measure.swept(networks, tiny, 1, ranks, TUNING, 3, tmp_path)
    assert set(found["delta"]) == {1, 4} and set(found["seed"]) == {3, 4} and len(found) == 2 * 2 * 3
    measured = measure.claims_of(found, networks, tiny, 1)
    assert set(measured) == {"svd_cost", "svd_delta", "svd_tuned"}
    accuracy = found.groupby(["how", "delta"])["accuracy"].mean()
    fall = accuracy[measure.PLAIN, 1] - accuracy[measure.PLAIN, 4]
    assert measured["svd_delta"].value == pytest.approx(100 * fall) and measured["svd_delta"].n == 1
    gain = accuracy[measure.PLAIN + measure.TUNED, 1] - accuracy[measure.PLAIN, 1]
    assert measured["svd_tuned"].value == pytest.approx(100 * gain) and measured["svd_tuned"].n == 2
    whole = measure.unfactorized(networks, tiny)[0]["accuracy"]
    assert measured["svd_cost"].value == pytest.approx(100 * (whole - accuracy[measure.PLAIN, 1]))
    for module, name in ((measure, "fisher"), (svd, "apply")):  # nothing is made again
        monkeypatch.setattr(module, name, lambda *_, **__: pytest.fail("made again"))
    assert measure.swept(networks, tiny, 1, ranks, TUNING, 3, tmp_path).equals(found)
    only = measure.claims_of(found[found["delta"] == 1], networks, tiny, 1)
    assert only["svd_delta"] is None and only["svd_cost"] == measured["svd_cost"]


@pytest.mark.parametrize("study", ["digits", "cifar10"])
def test_figures_are_drawn_from_published_rows(study):
    there = Published(f"figures/{study}", "04_svd")
    swept = there.rows("accuracy_against_delta")
    networks = list(swept["network"].unique())
    whole = pd.DataFrame({"network": networks, "accuracy": [0.9, 0.8]})
    plain, lined = plots.draw_ranks(swept), plots.draw_ranks(swept, whole)
    assert [axis.get_title() for axis in plain.axes] == networks
    for without, with_line, height in zip(plain.axes, lined.axes, (90, 80), strict=True):
        assert len(with_line.lines) == len(without.lines) + 1
        assert height in [line.get_ydata()[0] for line in with_line.lines if len(set(line.get_ydata())) == 1]
    spectra = plots.draw_spectra(there.rows("spectra")).axes[0]
    assert len(spectra.lines) == 2 * there.rows("spectra")["layer"].nunique()
    bars = plots.draw_interplay(there.rows("factorizing_a_pruned_layer"))
    assert [axis.get_title() for axis in bars.axes] == ["fc1", "fc2", "fc3"]
    plt.close("all")


def test_one_network_is_one_panel():
    rows = pd.DataFrame({"network": "DenseNet", "how": "SVD", "delta": [0, 1], "seed": 0, "accuracy": [0.9, 0.8]})
    assert len(plots.draw_ranks(rows).axes) == 1
    plt.close("all")
