"""Controller-guided pruning beside other ways: what channels are worth, kept rows, hypervolumes, latencies."""

import dataclasses
import math

import pandas as pd
import pytest
import torch

from studylib import settings
from studylib.coding import codec
from studylib.data import datasets
from studylib.experiments import controller
from studylib.networks import cost, filters
from studylib.networks.gates import TOLERANCE, Gates
from tests.test_structural import network

SMALL = controller.Comparison(network="resnet 8-12", budgets=[0.3, 0.5], seeds=1, epochs=3, tuning_epochs=1)
RANKING = ["uniform", "global", "slimming", "group norm", "narrow"]


@pytest.fixture(scope="module")
def rows(tmp_path_factory):
    """What a comparison of seconds leaves: its folder, its rows, and what it said."""
    out, told = tmp_path_factory.mktemp("compared"), []
    few = datasets.load("digits", 0)
    few = dataclasses.replace(few, train=few.train.take(slice(120)), test=few.test.take(slice(100)))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(datasets, "load", lambda name, seed: few)
        table = controller.rows("digits", SMALL, out, told.append)
        again = controller.rows("digits", SMALL, out, lambda text: None)
    pd.testing.assert_frame_equal(table, again)
    return out, table, told


def test_a_filter_of_small_weights_is_worth_least_to_every_ranking_by_magnitude():
    model = network("resnet")
    gates = Gates(model)
    channel = ("features.stage2.0.first.conv", 3)
    with torch.no_grad():
        for name, its in gates.found.rows({channel}).items():
            model.get_submodule(name).weight[its] *= 1e-3
        model.features.stage2[0].second.conv.weight[:, 3] *= 1e-3
    for way in RANKING:
        worth = controller.worths(model, gates, way)
        assert worth.shape == (len(gates),) and worth.isfinite().all()
        family = dict(zip(gates.found.families, worth.split(gates.sizes), strict=True))[channel[0]]
        assert family.argmin() == 3, way


def test_the_group_norm_is_the_mean_square_of_all_that_goes_with_a_channel():
    model = network("convnet")
    gates = Gates(model)
    worth = controller.worths(model, gates, "group norm").split(gates.sizes)[0]
    unit, reader = model.features[0], model.features[2].conv
    squares = unit.conv.weight.square().flatten(1).sum(1) + unit.norm.weight.square()
    squares += reader.weight.square().sum((0, 2, 3))
    assert torch.allclose(worth, squares / squares.mean(), rtol=1e-5)


def test_uniform_takes_the_same_share_of_every_family():
    gates = Gates(network("resnet", width=8))
    model = network("resnet", width=8)
    opened = gates.at_budget(controller.worths(model, gates, "uniform"), 0.4)
    shares = [part.float().mean().item() for part in opened.split(gates.sizes)]
    assert max(shares) - min(shares) <= 1 / min(gates.sizes)


def test_every_way_meets_the_budget_and_its_row_is_of_its_file(rows):
    out, table, told = rows
    values = sum(len(values) for _, values in controller.WAYS.values())
    assert len(table) == len(told) == values + 2 * len(controller.WAYS)
    assert table["tuned_on"].sum() == values and set(table.loc[table["tuned_on"], "seed"]) == {1}
    assert (table["share"] - table["budget"]).abs().max() <= TOLERANCE
    for row in table.sample(6, random_state=0).itertuples():
        file = (out / row.file).read_bytes()
        model = codec.decode(file)
        assert len(file) == row.bytes and cost.multiply_adds(model, model.spec["args"]) == row.multiply_adds


def test_each_way_is_run_at_the_value_that_validates_best(rows):
    _, table, _ = rows
    for way, part in table.groupby("way"):
        tuned = part[part["tuned_on"]]
        (value,) = part.loc[~part["tuned_on"], "value"].unique()
        assert tuned.loc[tuned["value"] == value, "val_accuracy"].item() == tuned["val_accuracy"].max(), way


def test_the_controllers_network_is_scored_unmasked_masked_sliced_and_tuned(rows):
    _, table, _ = rows
    ours = table[table["way"] == controller.GUIDED]
    assert (ours["masked"] == ours["sliced"]).all() and (ours["accuracy"] - ours["sliced"]).abs().max() < 0.011
    assert ours[["unmasked", "tuned", "zero", "moved"]].notna().all().all()
    assert all(sum(kept) == 168 - closed for kept, closed in zip(ours["kept"], ours["closed"], strict=True))


def test_channels_are_taken_out_and_that_is_recorded():
    model = network("resnet")
    gates = Gates(model)
    opened = gates.at_budget(controller.worths(model, gates, "global"), 0.4)
    small = controller.without(model, gates, opened, "global")
    assert small.spec["changes"][-1]["criterion"] == "global"
    images = torch.randn(4, 1, 8, 8)
    masked = filters.masked(model, gates.found, gates.closed(opened))
    with torch.no_grad():
        assert torch.allclose(small(images), masked(images), rtol=1e-4, atol=1e-5)


HAND = pd.DataFrame(
    [
        {"way": way, "seed": seed, "share": share, "accuracy": accuracy + 0.01 * seed, "tuned_on": False}
        for way, least in (("controller", 0.7), ("narrow", 0.5))
        for seed in (0, 1, 2)
        for share, accuracy in ((0.25, least), (0.5, least + 0.1))
    ]
)


def test_a_volume_is_the_area_above_the_whole_network_at_chance():
    found = controller.volumes(HAND, classes=10)
    assert found.loc[0, "controller"] == pytest.approx(2 * (0.7 - 0.1) + 1 * 0.1)
    gain = controller.against(found, "controller").set_index("way")
    assert gain.loc["narrow", "controller less it"] == pytest.approx(2 * 0.2)
    assert gain.loc["narrow", "verdict"] == "more" and gain.loc["controller", "verdict"] == "–"
    tuned = HAND.assign(tuned_on=True)
    assert controller.volumes(pd.concat([HAND, tuned]), classes=10).equals(found)


def test_ranks_correlate_with_an_interval():
    table = pd.DataFrame({"a": range(30), "b": [x + 5 * math.sin(7 * x) for x in range(30)]})
    found, low, high = controller.rank_correlation(table, "a", "b", draws=200)
    assert low < found < high <= 1 and found == pytest.approx(table["a"].corr(table["b"], method="spearman"))


def test_draws_of_one_network_alone_say_nothing_of_ranks():
    table = pd.DataFrame({"a": [1, 2, 3], "b": [1.0, 3.0, 2.0]})
    assert controller.rank_correlation(table, "a", "b", draws=300) == pytest.approx((0.5, -1, 1))
    assert all(math.isnan(each) for each in controller.rank_correlation(table[:1], "a", "b", draws=20))


def test_latencies_are_in_the_order_of_the_rows_and_the_report_says_them(rows, capsys):
    out, table, _ = rows
    table = table.copy()
    table["latency_ms"] = controller.latencies(table, out, batch=8, rounds=2)
    assert (table["latency_ms"] > 0).all()
    controller.report(table, 10)
    printed = capsys.readouterr().out
    assert "one seed" in printed
    for where in ("of all networks", "at a budget of 0.3", "at a budget of 0.5"):
        assert f"rank correlation of multiply-adds and latency {where}: " in printed


@pytest.mark.parametrize(
    ("wrong", "message"),
    [({"budgets": [0.5, 0.5]}, "budgets"), ({"epochs": 3, "tuning_epochs": 3}, "tuning_epochs=3: expected less than")],
)
def test_a_setting_out_of_range_is_named(wrong, message):
    with pytest.raises(settings.SettingError, match=message):
        settings.read(controller.Comparison, wrong, "comparison")
