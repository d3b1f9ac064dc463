"""Chapter 11's measurements: the combinations of an autoencoder, what they are compared with, and objectives."""

import json

import numpy as np
import pandas as pd
import pytest
import torch

from studylib.coding import codec
from studylib.data import datasets, likelihood
from studylib.experiments import vae, vae_objectives
from studylib.networks import spec
from studylib.plots import vae as plots
from studylib.settings import SettingError
from studylib.training.recipe import Recipe
from studylib.tree import names
from studylib.tree.node import Node

RECIPE = Recipe(epochs=2, lr=1e-2, batch_size=100, augmentation="none")
NETWORK = vae.Autoencoder(width=4, latent=3, student=2, narrower=[1, 2], draws=2)
COMPRESSING = vae.Compressing(rounds=2, tolerance=0.5, epochs=1, calibration_images=32)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """The node of a chapter, and rows of all combinations and of narrower networks."""
    node = Node(tmp_path_factory.mktemp("chapter"), "digits", 0, threads=1, device="cpu")
    tree = vae.tree(node, NETWORK, COMPRESSING, RECIPE)
    return node, pd.DataFrame(tree), pd.DataFrame(vae.narrower(node, NETWORK, COMPRESSING, RECIPE))


def test_all_sixteen_combinations_are_files_whose_likelihood_is_that_of_their_rows(made):
    node, tree, _ = made
    assert list(tree["node"]) == names.nodes(vae.STAGES) and len(tree) == 16
    data = likelihood.of(datasets.load("digits", 0), NETWORK.draws)
    for name in ("teacher", "teacher-imp-svd-int8"):
        row = tree.set_index("node").loc[name]
        file = (vae.folder_of(node, 0, name) / names.CODED).read_bytes()
        found = likelihood.bounds(codec.decode(file), data.test, data, NETWORK.draws).double().mean(0)
        assert row["test_bits"] == found[0].item() and row["bytes"] == len(file)
        assert row["low"] < row["test_bits"] < row["high"]


def test_each_combination_does_what_its_name_says(made):
    node, tree, _ = made
    rows = tree.set_index("node")
    for name, row in rows.iterrows():
        assert (row["zeros"] > 0.2) == ("imp" in name), name
        changes = json.loads((vae.folder_of(node, 0, name) / "model.json").read_text())["spec"]["changes"]
        done = [change["technique"] for change in changes]
        assert done == [
            {"teacher": "kd" if "kd" in name else "teacher"}.get(part, part) for part in name.split("-") if part != "kd"
        ]
    assert rows["costs"]["teacher"] == 0 and (rows["bytes"].drop("teacher") < rows["bytes"]["teacher"]).all()


def test_a_chapter_that_goes_on_trains_nothing_again(made, monkeypatch):
    node, tree, _ = made
    monkeypatch.setattr(vae.loop, "fit", lambda *args, **kwargs: pytest.fail("trained again"))
    again = pd.DataFrame(vae.tree(node, NETWORK, COMPRESSING, RECIPE))
    pd.testing.assert_frame_equal(again, tree)


def test_narrower_networks_are_smaller_and_stand_beside_each_combination(made):
    _, tree, narrow = made
    assert set(zip(narrow["width"], narrow["form"], strict=True)) == {
        (w, f) for w in (1, 2, 4) for f in ("float32", "int8")
    }
    dense, nodes = vae.summary(narrow, ["width", "form"]), vae.summary(tree)
    beside = vae.beside_narrower(nodes, dense).set_index("node")
    assert beside["less"]["teacher-int8"] == pytest.approx(0) or np.isnan(beside["less"]["teacher-int8"])
    known = pd.DataFrame({"bytes": [100, 10_000], "test_bits": [4.0, 2.0]})
    found = vae.beside_narrower(pd.DataFrame({"node": ["a", "b"], "bytes": [1000, 50], "test_bits": [2.5, 1.0]}), known)
    assert found["dense"][0] == pytest.approx(3.0) and found["less"][0] == pytest.approx(0.5)
    assert np.isnan(found["less"][1])


def test_an_interval_is_over_seeds_where_there_are_several():
    rows = pd.DataFrame(
        {"seed": [0, 1], "node": "x", "bytes": 10, "zeros": 0.5, "test_bits": 3.0, "val_bits": 3.0}
        | {"costs": [0.1, 0.3], "costs_low": [0.09, 0.29], "costs_high": [0.11, 0.31]}
    )
    (one,), (two,) = (vae.summary(part).to_dict("records") for part in (rows[:1], rows))
    assert (one["costs_low"], one["verdict"]) == (0.09, "raises")
    assert two["costs_low"] < 0 < two["costs_high"] and two["verdict"] == "cannot tell"


def test_the_smallest_is_chosen_by_validation_images():
    nodes = pd.DataFrame({"node": ["teacher", "a", "b"], "bytes": [9, 5, 1], "val_bits": [2.0, 2.019, 2.03]})
    assert vae.smallest(nodes) == "a" and vae.smallest(nodes, within=0.02) == "b"


def test_a_teacher_draws_its_pixels_from_what_it_decodes():
    torch.manual_seed(0)
    mean, log_scale = torch.full((1, 100_000), 0.2), torch.full((1, 100_000), -3.0)
    shares = torch.bincount(likelihood.drawn(mean, log_scale).flatten().int(), minlength=256) / 100_000
    expected = likelihood.log_pixels(mean[:, :1], log_scale[:, :1], torch.arange(256)[None]).exp()[0]
    assert (shares - expected).abs().max() < 0.005


def test_a_share_of_the_loss_is_the_teachers():
    data = likelihood.of(datasets.load("digits", 0), 2)
    teacher, student = (spec.create("vae", seed, **data.model_args, width=2, latent=2) for seed in (0, 1))
    images = data.normalize(data.train.images[:8])
    student.eval()
    for alpha, same in ((0.0, True), (0.5, False)):
        loss, bits = vae.Distillation(teacher, alpha)(student, images, data.train.images[:8])
        expected, each = likelihood.negative_bound(student, images, data.train.images[:8])
        assert torch.allclose(bits, each) and torch.isclose(loss, expected) == same


def test_what_a_model_has_to_beat_is_measured_on_test_images(digits):
    rows = {row["name"]: row[vae.BITS] for row in vae.to_beat(digits)}
    assert len(rows) == 3 and all(0 < bits < 8 for bits in rows.values())


def test_the_figure_has_a_point_for_each_combination_and_a_line_for_each_form(made):
    _, tree, narrow = made
    nodes, dense = vae.summary(tree), vae.summary(narrow, ["width", "form"])
    (axis,) = plots.draw_bits(nodes, dense).axes
    assert {text.get_text() for text in axis.texts} == {vae.short(name) for name in nodes["node"]}
    labels = [text.get_text() for text in axis.get_legend().get_texts()]
    assert len(labels) == 6 and sorted(labels)[:2] == ["narrower, float32", "narrower, int8"]
    again = vae.drawn_by(plots.draw_bits)(tree, narrow)
    assert len(again.axes[0].texts) == 16


def test_images_to_look_at_are_of_every_network_asked_for(made):
    node, _, _ = made
    rows = pd.DataFrame(vae.shown(node, NETWORK, ["teacher", "teacher-kd-int8"], count=3))
    assert rows.groupby(["network", "kind"]).size().to_dict() == {
        ("", "image"): 3,
        **{(name, kind): 3 for name in ("teacher", "teacher-kd-int8") for kind in ("reconstruction", "sample")},
    }
    figure = plots.draw_images(rows)
    assert [axis.get_ylabel() for axis in figure.axes if axis.get_ylabel()] == [
        "test images",
        *("teacher, reconstructions", "kd-int8, reconstructions", "teacher, samples", "kd-int8, samples"),
    ]
    assert all(len(pixels) == 64 and 0 <= min(pixels) <= max(pixels) <= 255 for pixels in rows["pixels"])


def test_objectives_are_tuned_on_the_first_seed_and_compared_on_all(made):
    node, _, _ = made
    comparison = vae_objectives.Objectives(sparsities=[0.5], sums=[1e-4, 1e-2], taus=[0.1, 0.5], repetitions=2)
    rows = pd.DataFrame(vae_objectives.compared(node, NETWORK, comparison, RECIPE))
    assert len(rows) == 3 * 2 * 2 + 3 * 2  # ways, values, stages; the best of each way on the second seed
    best = vae_objectives.best_values(rows[rows["seed"] == 0])
    chosen = rows[rows["chosen"]]
    assert {(row.way, row.value) for row in chosen.itertuples()} == set(best.items())
    against = vae_objectives.against_sums(rows)
    assert list(against["seeds"]) == [2] * 4 and (against["low"] <= against["high"]).all()
    mean = chosen[chosen["stage"] == "one-shot"].groupby("way")["test_bits"].mean()
    assert against["saved"][0] == pytest.approx(mean["weighted sum"] - mean["PCD, normalized"], abs=1e-4)


def test_settings_that_tune_one_way_more_are_refused():
    with pytest.raises(ValueError, match="expected as many as taus"):
        vae_objectives.Objectives(sums=[1e-4], taus=[0.1, 0.2])
    with pytest.raises(SettingError, match="width=0: expected at least 1"):
        vae.Autoencoder(width=0)
