"""Chapter 14: what channels are worth, kept rows, hypervolumes, convergence, latencies, and what is said of them."""

import dataclasses
import math

import numpy as np
import pandas as pd
import pytest
import torch

from studylib import settings
from studylib.coding import codec
from studylib.data import datasets
from studylib.experiments import controller, controller_along, controller_latency, controller_parts, controller_ways
from studylib.experiments import controller_latency_told as latency_says
from studylib.experiments import controller_rows as tables_of
from studylib.experiments import controller_told as says
from studylib.networks import cost, filters, layers
from studylib.networks.gates import TOLERANCE, Gates
from studylib.plots import controller as plots
from studylib.results import claims
from studylib.results.claims import CLAIMS
from studylib.results.tables import markdown_rows
from studylib.techniques.controller import Guidance, Guided, split
from studylib.techniques.distill import Student
from studylib.training.recipe import Recipe
from studylib.tree.published import Published, frame, plain
from tests.test_structural import IMAGES, network

pytestmark = pytest.mark.usefixtures("drawn")
NAMED = Student(name="resnet 8-12")
RECIPE = Recipe(epochs=3, lr=0.01, batch_size=64)
SMALL = controller.Comparison(budgets=[0.3, 0.5], repetitions=1, tuning_epochs=1, controls=[0.5])
RANKING = ["uniform", "global", "slimming", "group norm", controller_ways.SPARSE, "narrow"]
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def few():
    data = datasets.load("digits", 0)
    return dataclasses.replace(data, train=data.train.take(slice(120)), test=data.test.take(slice(100)))


@pytest.fixture(scope="module")
def made(tmp_path_factory, few):
    """What a comparison of seconds leaves: its folder and its rows."""
    out = tmp_path_factory.mktemp("compared")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(datasets, "load", lambda name, seed: few)
        of = ("digits", 0, NAMED, RECIPE, SMALL, CPU, out)
        rows = controller.compared(*of)
        before = {path: path.stat().st_mtime_ns for path in out.iterdir()}
        assert controller.compared(*of) == rows
    assert {path: path.stat().st_mtime_ns for path in out.iterdir()} == before  # nothing is made twice
    return out, rows


@pytest.fixture(scope="module")
def tables(made, few):
    """The tables of the chapter, as it has them of JSON."""
    _, rows = made
    families = frame(controller.families(NAMED, few))
    found = {"networks": tables_of.networks(rows), "tried": tables_of.tried(rows), "along": tables_of.along(rows)}
    found["controls"] = tables_of.controls(rows)
    found |= {"kept": tables_of.kept(rows, families), "opened": tables_of.opened(rows, families)}
    return {"families": families} | {name: frame(plain(each)) for name, each in found.items()}


def test_a_filter_of_small_weights_is_worth_least_to_every_ranking_by_magnitude():
    model = network("resnet")
    gates = Gates(model)
    channel = ("features.stage2.0.first.conv", 3)
    with torch.no_grad():
        for name, its in gates.found.rows({channel}).items():
            model.get_submodule(name).weight[its] *= 1e-3
        model.features.stage2[0].second.conv.weight[:, 3] *= 1e-3
    for way in RANKING:
        worth = controller_ways.worths(model, gates, way)
        assert worth.shape == (len(gates),) and worth.isfinite().all()
        family = dict(zip(gates.found.families, worth.split(gates.sizes), strict=True))[channel[0]]
        assert family.argmin() == 3, way


def test_the_group_norm_is_the_mean_square_of_all_that_goes_with_a_channel():
    model = network("convnet")
    gates = Gates(model)
    worth = controller_ways.worths(model, gates, "group norm").split(gates.sizes)[0]
    unit, reader = model.features[0], model.features[2].conv
    squares = unit.conv.weight.square().flatten(1).sum(1) + unit.norm.weight.square()
    squares += reader.weight.square().sum((0, 2, 3))
    assert torch.allclose(worth, squares / squares.mean(), rtol=1e-5)


def test_groups_are_pulled_to_zero_the_smallest_most_and_the_outputs_are_not():
    model = network("resnet")
    step = controller_ways.SparseGroups(Gates(model), 0.5)
    step.start(model)
    before = {name: each.detach().clone() for name, each in model.named_parameters()}
    assert step.gradients(model, 0 * sum(each.sum() for each in model.parameters()), None, None)
    pulls = {name: each.grad / before[name] for name, each in model.named_parameters() if name.endswith("weight")}
    factors = pulls["features.stage2.0.first.conv.weight"].flatten(1).mean(1)  # a filter's, and its inputs' mean
    norms = controller_ways.worths(model, step.gates, "group norm").split(step.gates.sizes)[2]
    assert factors.argmax() == norms.argmin() and factors.argmin() == norms.argmax()
    assert factors.max() - factors.min() == pytest.approx(0.5 * (2**4 - 1), rel=1e-3)
    last = pulls[f"{list(layers.weight_layers(model))[-1]}.weight"]
    assert torch.allclose(last, last[:1].expand_as(last), rtol=1e-3)  # its inputs are pulled, its outputs are not


def test_slimming_wants_a_batch_norm_behind_each_channel():
    with pytest.raises(ValueError, match=r"slimming: expected a batch norm behind each channel, \d+ have none"):
        model = network("gated")
        controller_ways.worths(model, Gates(model), "slimming")


def test_no_way_smooths_labels_the_controller_neither():
    assert controller.guidance_of(SMALL, 0.3, 10.0).label_smoothing == 0
    with pytest.raises(ValueError, match=r"label_smoothing=0\.1: expected 0"):
        SMALL.fits(dataclasses.replace(RECIPE, label_smoothing=0.1))


def test_uniform_takes_the_same_share_of_every_family():
    gates = Gates(network("resnet", width=8))
    model = network("resnet", width=8)
    opened = gates.at_budget(controller_ways.worths(model, gates, "uniform"), 0.4)
    shares = [part.float().mean().item() for part in opened.split(gates.sizes)]
    assert max(shares) - min(shares) <= 1 / min(gates.sizes)


def test_every_way_meets_the_budget_and_its_row_is_of_its_file(made):
    out, rows = made
    values = sum(len(values) for _, values in controller.WAYS.values())
    assert len(rows) == values + 2 * len(controller.WAYS) + len(controller.CONTROLS)
    tuning = [row for row in rows if row["tuned_on"]]
    assert len(tuning) == values and {row["seed"] for row in tuning} == {controller.MOST}
    assert max(abs(row["share"] - row["budget"]) for row in rows) <= TOLERANCE
    assert all(row["cpu_seconds"] > 0 for row in rows if row["way"] in controller.WAYS)
    for row in rows[::5]:
        file = (out / row["file"]).read_bytes()
        model = codec.decode(file)
        assert len(file) == row["bytes"] and cost.multiply_adds(model, model.spec["args"]) == row["multiply_adds"]


def test_each_way_is_run_at_the_value_that_validates_best(made, tables):
    tried, shown = tables["tried"], says.by_value(tables["tried"]).set_index("way")
    for way, part in tables["networks"].groupby("way"):
        tuned = tried[tried["way"] == way]
        (value,) = part["value"].unique()
        assert tuned.loc[tuned["value"] == value, "val_accuracy"].item() == tuned["val_accuracy"].max(), way
        assert f"**{value:g}: " in shown.loc[way, "value: validation %"]


def test_more_seeds_leave_the_tuning_and_the_first_seeds_as_they_are(made, few, monkeypatch):
    out, rows = made
    monkeypatch.setattr(datasets, "load", lambda name, seed: few)
    row = {"val_accuracy": 0.5, "kept": [1]}
    monkeypatch.setattr(controller.Trainings, "row", lambda self, *of: row | {"made": self.seed})
    more = dataclasses.replace(SMALL, repetitions=2)
    again = controller.compared("digits", 0, NAMED, RECIPE, more, CPU, out)
    assert {row["seed"] for row in again if "made" in row} == {1} and again[: len(rows)] == rows


def test_between_the_controller_and_narrow_networks_stand_three_that_differ_in_one_thing_each(made, tables, few):
    _, rows = made
    by = {row["way"]: row for row in rows if row["budget"] == 0.5 and not row["tuned_on"]}
    ours, its, widths, even, narrow = (by[way] for way in tables_of.PARTS)
    assert ours["kept"] == its["kept"] == widths["kept"] and even["kept"] == narrow["kept"]
    assert even["kept"] != widths["kept"] and its["share"] == ours["share"]
    assert its["val_accuracy"] != widths["val_accuracy"] or its["accuracy"] != widths["accuracy"]  # images differ
    assert {row["way"] for row in tables_of.networks(rows)} == set(controller.WAYS) == set(tables["kept"]["way"])
    parts = controller_parts.parts(tables["controls"])
    each = [float(said.strip("*").split(" ")[0]) for said in parts["mean"]]
    assert list(parts) == ["what differs", "between", "at 50 %", "mean"]
    assert sum(each[:4]) == pytest.approx(each[4], abs=0.03)
    tuning = controller_parts.tuning(tables["controls"])
    adds = 100 * (ours["tuned"] - ours["accuracy"])
    assert list(tuning["network"]) == list(tables_of.PARTS[:4])
    assert float(tuning["fine-tuning adds, points"][0].strip("*").split(" ")[0]) == pytest.approx(adds, abs=0.01)


def test_without_controls_the_tables_have_no_rows_and_nothing_is_told():
    none = frame(tables_of.controls([]))
    for table in (controller_parts.parts(none), controller_parts.tuning(none)):
        assert table.empty and markdown_rows(table).startswith("| ")
    assert controller_parts.told(none) == ""


def test_parts_of_one_sign_are_told():
    accuracy = dict(zip(tables_of.PARTS, (0.80, 0.81, 0.85, 0.85, 0.86), strict=True))
    rows = [
        {"way": way, "budget": 0.5, "seed": seed, "accuracy": value + 0.001 * seed, "tuned": value + 0.02}
        for way, value in accuracy.items()
        for seed in (0, 1, 2)
    ]
    table = pd.DataFrame(rows)
    table.loc[table["way"] == "narrow", "accuracy"] += [0.02, -0.02, 0.02]
    said = controller_parts.told(table)
    assert said.startswith(
        "Between it and narrow networks, parts of one sign: how it is trained (-1.00 (-1.00 to -1.00) points), "
        "images kept for the controller (-4.00 (-4.00 to -4.00) points). Fine-tuning adds +0.00"
    )


@pytest.mark.parametrize(("controls", "said"), [([0.4], "not 0.4"), ([0.5, 0.5], "controls")])
def test_controls_are_some_of_the_budgets(controls, said):
    with pytest.raises(ValueError, match=said):
        settings.read(controller.Comparison, {"budgets": [0.3, 0.5], "controls": controls}, "comparison")


def test_what_is_watched_along_training_is_not_in_the_seconds_of_training(made):
    _, rows = made
    ours = [row for row in rows if row["way"] == controller.GUIDED]
    assert all(row["watch_seconds"] > 0 and row["cpu_seconds"] > 0 for row in ours)


def test_the_controllers_network_is_scored_unmasked_masked_sliced_and_tuned(tables):
    ours = tables["networks"][tables["networks"]["way"] == controller.GUIDED]
    assert (ours["masked"] == ours["sliced"]).all() and (ours["accuracy"] - ours["sliced"]).abs().max() < 0.011
    assert ours[["unmasked", "tuned", "zero", "moved"]].notna().all().all()
    stages = says.stages(tables["networks"])
    assert list(stages["budget %"]) == ["30", "50"] and list(stages)[1:5] == [f"{w} %" for w in says.STAGES.values()]


def test_layers_that_are_left_are_counted_of_every_way(made, tables):
    _, rows = made
    total = tables["families"]["channels"].sum()
    row = next(row for row in rows if row["way"] == controller.GUIDED and not row["tuned_on"])
    assert sum(row["kept"]) == total - row["closed"]
    part = tables["kept"][(tables["kept"]["way"] == row["way"]) & (tables["kept"]["budget"] == row["budget"])]
    left = (part["share"].to_numpy() * tables["families"]["channels"].to_numpy()).round()
    assert left.tolist() == row["kept"]
    opened = tables["opened"]
    last = opened[(opened["budget"] == row["budget"]) & (opened["epoch"] == RECIPE.epochs)]["share"]
    assert last.tolist() == part["share"].tolist()


def test_channels_are_taken_out_and_that_is_recorded():
    model = network("resnet")
    gates = Gates(model)
    opened = gates.at_budget(controller_ways.worths(model, gates, "global"), 0.4)
    small = controller_ways.without(model, gates, opened, "global")
    assert small.spec["changes"][-1]["criterion"] == "global"
    masked = filters.masked(model, gates.found, gates.closed(opened))
    with torch.no_grad():
        assert torch.allclose(small(IMAGES), masked(IMAGES), rtol=1e-4, atol=1e-5)


# --- convergence ------------------------------------------------------------------------------------------------


@pytest.fixture
def watched(few):
    """A step with some gates shut, its network, and what watches them."""
    model, guidance = network("resnet"), Guidance(share=0.2, warm=0.0, strength=0.3)
    shown, seen = split(few, guidance.share, 0)
    step = Guided(Gates(model), few, seen, guidance, epochs=4, seed=0)
    step.start(model)
    step._epochs = 1
    step.opened = torch.arange(len(step.gates)) % 3 > 0
    return step, model, controller_along.Watch(shown, 0.05)


def test_the_envelope_is_the_least_of_its_model_and_below_the_objective(watched):
    """min over v of f + ⟨∇f, v − w⟩ + h(v) + ‖v − w‖² / 2γ: no other v has less, and w itself gives F(w)."""
    step, model, watch = watched
    found = watch(step, model)
    loss, weights, slopes = watch._slopes(step, model)

    def bound(new):
        away = {name: new[name] - weights[name] for name in weights}
        linear = sum((slopes[name] * away[name]).sum() for name in weights)
        h = (step.forces * step.gates.products(new).sqrt()).sum()
        return float(loss + linear + h + controller_along._squares(away, None) / (2 * watch.size))

    assert found["objective"] == pytest.approx(bound(weights), rel=1e-6)
    assert found["objective"] > found["loss"] and found["envelope"] < found["objective"]
    draw = torch.Generator().manual_seed(0)
    for size in (1e-3, 1e-1):
        other = {name: each - watch.size * slopes[name] for name, each in weights.items()}
        step.gates.scale(other, torch.rand(len(step.gates), generator=draw) * ~step.opened + step.opened.float())
        other = {name: each + size * torch.randn(each.shape, generator=draw) for name, each in other.items()}
        assert found["envelope"] < bound(other)


def test_the_projected_gradient_is_the_gradient_where_no_group_is_shut(watched):
    step, model, watch = watched
    step.opened[:] = True
    found = watch(step, model)
    _, _, slopes = watch._slopes(step, model)
    expected = math.sqrt(sum(float(each.square().sum()) for each in slopes.values()))
    assert found["projected"] == pytest.approx(expected, rel=1e-3)
    assert found["objective"] == found["loss"] and found["open"] == step.gates.sizes


def test_shut_groups_at_zero_that_are_held_there_add_nothing_to_the_projected_gradient(watched):
    step, model, watch = watched
    step.guidance = dataclasses.replace(step.guidance, strength=1e6)
    with torch.no_grad():
        step.gates.scale(dict(model.named_parameters()), step.opened.float())
    found = watch(step, model)
    assert found["objective"] == pytest.approx(found["loss"], rel=1e-6)
    step.opened = torch.ones_like(step.opened)
    assert watch(step, model)["projected"] >= found["projected"]


def test_watching_changes_nothing(watched):
    step, model, watch = watched
    before = {name: each.clone() for name, each in model.state_dict().items()}
    model.eval()
    watch(step, model)
    assert not model.training and all(torch.equal(before[name], each) for name, each in model.state_dict().items())
    assert all(each.grad is None and each.requires_grad for each in model.parameters())


def test_what_falls_since_the_choice_is_final_is_said_in_percent():
    rows = [
        {
            "budget": budget,
            "seed": seed,
            "epoch": epoch,
            "controller_loss": 1.0 if epoch < 3 else None,
            "envelope": value,
        }
        for budget in (0.3, 0.5)
        for seed, end in ((0, 1.0), (1, 3.0))
        for epoch, value in ((1, 9.0), (2, 50.0), (3, 40.0), (4, 4.0), (5, 7.0), (6, end))
    ]
    table = frame(rows).assign(zero=lambda rows: (rows["epoch"] != 3).astype(float))
    assert says.last_choice(table) == 2
    value, low, high, n = says.since_final(table, "envelope")
    assert value == pytest.approx((-75 - 25) / 2) and n == 2 and low < value < high


# --- hypervolumes and what is said ------------------------------------------------------------------------------

HAND = pd.DataFrame(
    [
        {"way": way, "seed": seed, "budget": share, "share": share + 0.02, "accuracy": accuracy + 0.01 * seed}
        for way, least in (("controller", 0.7), ("narrow", 0.5))
        for seed in (0, 1, 2)
        for share, accuracy in ((0.25, least), (0.5, least + 0.1))
    ]
)


def test_a_volume_is_the_share_of_the_plane_above_the_whole_network_at_chance():
    found = says.volumes(HAND, classes=10)
    assert found.loc[0, "controller"] == pytest.approx(100 * (2 * (0.7 - 0.1) + 1 * 0.1) / (2 * 0.9))
    gain = says.against(found).set_index("way")
    assert gain.loc["narrow", "gain"] == pytest.approx(100 * 2 * 0.2 / 1.8)
    assert gain.loc["narrow", "verdict"] == "more" and gain.loc["controller", "verdict"] == "–"
    assert says.against(found, "narrow").set_index("way").loc["controller", "verdict"] == "less"
    said = says.beats(says.against(found))
    assert "Most of the plane is dominated by controller" in said and "more than: narrow" in said
    sized = HAND.assign(bytes=HAND["way"].map({"controller": 150, "narrow": 100}))
    assert says.sizes_told(sized) == "Beside narrow networks of the same budgets its files take +50%."
    assert list(says.dominated(says.against(found))["verdict"]) == ["–", "more"]
    assert says.dominated_of(HAND, pd.DataFrame({"classes": [10]})).equals(says.dominated(says.against(found)))


def test_what_the_controller_has_over_narrow_networks_is_told_at_the_least_and_the_most_budget():
    table = HAND.copy()
    last = (table["way"] == "controller") & (table["budget"] == 0.5)
    table.loc[last, "accuracy"] = [0.5, 0.61, 0.72]
    assert says.narrow_told(table) == (
        "Its accuracy less that of narrow networks: +20.00 (+20.00 to +20.00) points at 25% of the multiply-adds, "
        "+0.00 (-24.84 to +24.84) points at 50%."
    )
    whole = table.assign(bytes=1000, cpu_seconds=table["way"].map({"controller": 6.0, "narrow": 4.0}), untuned=None)
    shown = says.by_budget(whole).set_index(["budget %", "way"])
    assert list(shown["controller less it, points"]) == [
        "–",
        "–",
        "**+20.00 (+20.00 to +20.00)**",
        "+0.00 (-24.84 to +24.84)",
    ]
    assert shown.loc[("25", "narrow"), "training s"] == "4.0" and set(shown["furthest off, points"]) == {"2.00"}
    assert says.costs_told(whole) == "" and shown.loc[("25", "controller"), "training s"] == "–"
    known = whole.assign(watch_seconds=1.0)  # what is measured along training is not in the seconds
    assert says.costs_told(known) == "As many epochs take 1.5 times the processor's time of narrow ones."
    assert says.by_budget(known).set_index(["budget %", "way"]).loc[("25", "controller"), "training s"] == "6.0"
    tuned = table.assign(sliced=0.5, tuned=np.where(table["budget"] == 0.25, 0.52, 0.5))
    assert says.untuned_told(tuned) == (
        "Fine-tuning changes accuracy by +1.00 (+1.00 to +1.00) points, at the least budget by +2.00 (+2.00 to +2.00)."
    )


def test_the_controllers_settings_are_those_that_its_trainings_have():
    shown = tables_of.guidance_listed(SMALL).set_index("setting")
    fields = {each.name for each in dataclasses.fields(Guidance)}
    assert set(shown.index) == fields - {"budget"} and shown["value"]["strength"] == "λ, tuned"
    assert shown["value"]["label_smoothing"] == "0.0" and shown["choice"]["label_smoothing"] == "ours"
    assert shown["value"]["every"] == str(SMALL.every) and shown["choice"]["pull"] == "the authors'"
    assert controller.guidance_of(SMALL, 0.3, 10.0).final_strength == 1000


def test_another_study_is_told_in_a_few_sentences():
    digits = Published("figures/digits", "14_controller")
    said = says.larger_told(digits)
    assert (
        said.startswith("**digits.** The controller's networks miss a budget by at most")
        and f"Best, or as good, at an end of the values tried: {says.at_an_end(digits.rows('tried'))}." in said
    )
    assert says.larger_told(None) == "A larger study is not in this copy."


def test_every_claim_is_measured(tables):
    volumes = says.against(says.volumes(tables["networks"], 10))
    unfinished = says.claims_of(tables["networks"], tables["along"].assign(zero=0.5), volumes)
    assert unfinished["controller_gradient"] is unfinished["controller_envelope"] is None
    assert says.interval(*says.since_final(tables["along"].assign(zero=0.5), "envelope")[:3]) == "–"
    found = says.claims_of(tables["networks"], tables["along"].assign(zero=1.0), volumes)
    assert set(found) == {key for key, claim in CLAIMS.items() if claim.chapter == "controller"}
    assert [each.against for each in found["controller_more"]] == RANKING
    assert found["controller_untuned"].n == 1 and math.isnan(found["controller_untuned"].low)
    ours = tables["networks"][tables["networks"]["way"] == controller.GUIDED]
    assert found["controller_untuned"].value == pytest.approx(100 * (ours["tuned"] - ours["sliced"]).mean())
    assert isinstance(found["controller_gradient"], claims.Measured)


def test_sentences_say_what_the_tables_have(tables):
    networks = tables["networks"]
    off = 100 * (networks["share"] - networks["budget"]).abs()
    others = off[networks["way"] != controller.GUIDED]
    assert f"the others by {others.max():.2f}." in says.met(networks)
    missed = (networks["share"] / networks["budget"] - 1).abs() > 0.02
    assert (
        f"of {len(off) - len(others)} and {missed[others.index].sum()} of {len(others)} miss by over 2% of it:"
        in says.met(networks)
    )
    assert says.differs(tables["kept"]).startswith("At 30% it leaves most of features.")
    along = tables["along"]
    turned = along.loc[along["epoch"] == says.last_choice(along), "turned"].mean()
    assert f"At the last choice {turned:.1f} gates turn." in says.settled(along)
    met = along.assign(share=along["budget"], loss=[[4.0, 3.0, 2.0][epoch - 1] for epoch in along["epoch"]])
    assert ": 1 at 30%, 1 at 50%. The loss has by then made 0% of its way." in says.settled(met)
    late = met.assign(share=np.where(along["epoch"] == 2, along["budget"], 1.0))
    assert ": 2 at 30%, 2 at 50%. The loss has by then made 50% of its way." in says.settled(late)
    ends = tables["tried"].copy()
    ends["val_accuracy"] = ends["value"]
    assert says.at_an_end(ends) == ", ".join(controller.WAYS)
    of = ends.groupby("way")["value"]
    within = (ends["value"] > of.transform("min")) & (ends["value"] < of.transform("max"))
    inside = ends.assign(val_accuracy=np.where(within, 0.5, 0.4))
    assert says.at_an_end(inside) == "none"
    assert says.at_an_end(inside.assign(val_accuracy=0.5)) == ", ".join(controller.WAYS)  # as good at an end
    shown = says.by_budget(networks)
    assert list(shown["way"]) == 2 * list(controller.WAYS) and shown.loc[0, "untuned %"] == "–"


def test_ranks_correlate_with_an_interval():
    table = pd.DataFrame({"a": range(30), "b": [x + 5 * math.sin(7 * x) for x in range(30)]})
    found, low, high = latency_says.rank_correlation(table, "a", "b", draws=200)
    assert low < found < high <= 1 and found == pytest.approx(table["a"].corr(table["b"], method="spearman"))


def test_draws_of_one_network_alone_say_nothing_of_ranks():
    table = pd.DataFrame({"a": [1, 2, 3], "b": [1.0, 3.0, 2.0]})
    assert latency_says.rank_correlation(table, "a", "b", draws=300) == pytest.approx((0.5, -1, 1))
    assert all(math.isnan(each) for each in latency_says.rank_correlation(table[:1], "a", "b", draws=20))


def test_networks_of_one_shape_count_once_and_ways_have_a_time_a_budget():
    rows = [
        {"way": "whole", "budget": 1.0, "multiply_adds": 100, "written": 50, "latency_ms": 9.0},
        *(
            {"way": way, "budget": budget, "multiply_adds": count, "written": written, "latency_ms": ms}
            for budget, count in ((0.2, 20), (0.5, 50))
            for way, written, ms in (("a", 10, 1.0), ("b", 10, 2.0), ("c", 12, 5.0))
        ),
    ]
    times = pd.DataFrame(rows)
    assert list(latency_says.shapes(times)["latency_ms"]) == [1.5, 5.0, 1.5, 5.0]
    assert {row["n"] for row in latency_says.correlations(times)} == {4, 2}
    shown = latency_says.by_way(times)
    assert list(shown.columns) == ["way", "20 %", "50 %", "100 %"]
    assert shown.to_numpy().tolist()[2:] == [["c", "5.00", "5.00", "–"], ["whole", "–", "–", "9.00"]]
    said = latency_says.breaks(times, pd.DataFrame(latency_says.correlations(times)))
    alike, among = latency_says.noise(times)
    assert alike == pytest.approx(math.sqrt(0.5)) and among == pytest.approx(math.sqrt(13 / 3))
    assert said.endswith("Standard deviation: 0.71 ms among networks of one shape, 2.08 among all of a budget.")


def test_latencies_are_of_the_rows_in_their_order_and_of_the_whole_network_first(made, few):
    out, rows = made
    rows = tables_of.networks(rows)
    times = controller_latency.latencies(rows, NAMED, few, out, batch=8, rounds=2)
    assert [row["multiply_adds"] for row in times[1:]] == [row["multiply_adds"] for row in rows]
    assert times[0]["way"] == controller.WHOLE and times[0]["multiply_adds"] == max(r["multiply_adds"] for r in times)
    assert all(row["latency_ms"] > 0 and row["written"] <= times[0]["written"] for row in times)
    found = pd.DataFrame(latency_says.correlations(pd.DataFrame(times)))
    assert list(latency_says.correlated(found)["networks"]) == ["all", "budget 30 %", "budget 50 %"]
    assert "of the multiply-adds take" in latency_says.breaks(pd.DataFrame(times), found)
    line = [{"way": controller.WHOLE, "multiply_adds": 10, "latency_ms": 7.0}]
    line += [{"way": "a", "multiply_adds": n, "latency_ms": 2 + n / 2} for n in (1, 4)]
    assert latency_says.overhead(pd.DataFrame(line)) == pytest.approx({"least": 2.0, "whole": 7.0, "share": 2 / 7})


def test_numbers_that_layers_write_are_counted():
    model = network("convnet")
    shapes = []
    for layer in layers.weight_layers(model).values():
        layer.register_forward_hook(lambda layer, inputs, outputs: shapes.append(outputs[0].numel()))
    with torch.no_grad():
        model(IMAGES[:1])
    assert controller_latency.written(network("convnet")) == sum(shapes)


# --- figures ----------------------------------------------------------------------------------------------------


def test_figures_have_a_line_a_way_a_panel_a_budget_and_the_controller_stands_out(tables):
    networks, ways = tables["networks"], list(controller.WAYS)
    assert [text.get_text() for text in plots.draw_front(networks).legends[0].get_texts()] == ways
    ours = networks[networks["way"] == controller.GUIDED]
    stages = plots.draw_stages(ours)
    assert [axis.get_title() for axis in stages.axes] == ["30 % of the multiply-adds", "50 % of the multiply-adds"]
    for figure in (plots.draw_kept(tables["kept"]), plots.draw_gates(tables["opened"])):
        assert len(figure.axes[0].get_yticks()) == len(tables["families"])
    assert plots._looks(ways)[plots.OURS]["lw"] > plots._looks(ways)["narrow"]["lw"] and plots.OURS == controller.GUIDED
    assert says.STAGES == plots.STAGES


def test_convergence_is_drawn_with_the_last_choice_marked_and_the_envelope_after_it(tables):
    epochs = tables["along"]
    figure = plots.draw_convergence(epochs, 2)
    marked = [line.get_xdata()[0] for axis in figure.axes[:2] for line in axis.lines if line.get_linestyle() == ":"]
    assert marked == [2.5, 2.5] and set(figure.axes[2].lines[0].get_xdata()) == {3}
    learning = plots.draw_learning(epochs)
    assert len(learning.axes[1].lines) == 2 * 2  # a line and its budget
    assert len(learning.axes[0].lines[0].get_xdata()) == says.last_choice(epochs)


def test_latencies_are_drawn_twice_and_the_whole_network_is_a_cross():
    rows = [
        {"way": way, "multiply_adds": 1000 * n, "written": n, "latency_ms": n} for n, way in enumerate(("a", "whole"))
    ]
    figure = plots.draw_latency(pd.DataFrame(rows), "whole")
    assert [axis.get_xlabel()[:13] for axis in figure.axes] == ["multiply-adds", "numbers writt"]
    assert [line.get_marker() for line in figure.axes[0].lines] == ["o", "x"]


@pytest.mark.parametrize(
    ("recipe", "message"),
    [
        (Recipe(epochs=1), "tuning_epochs=1: expected less than recipe.epochs=1"),
        (Recipe(epochs=3, label_smoothing=0.1), "label_smoothing=0.1: expected 0"),
    ],
)
def test_a_recipe_that_does_not_go_with_the_comparison_is_refused(recipe, message):
    with pytest.raises(ValueError, match=message):
        SMALL.fits(recipe)


def test_a_setting_out_of_range_is_named():
    with pytest.raises(settings.SettingError, match="budgets"):
        settings.read(controller.Comparison, {"budgets": [0.5, 0.5]}, "comparison")


def test_a_budget_below_a_channel_a_family_is_refused_before_anything_trains(few):
    small = dataclasses.replace(SMALL, budgets=[0.001], controls=[])
    with pytest.raises(ValueError, match=r"budget=0.001: expected at least 0\.\d+"):
        controller.Trainings(few, Student(name="resnet 8-2"), RECIPE, small, 0, CPU)
