"""Chapter 11's measurements: the combinations of an autoencoder, what they are compared with, and objectives."""

import json
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch

from studylib.coding import codec
from studylib.data import datasets, likelihood
from studylib.experiments import generative, generative_carried, generative_told, vae, vae_objectives, vae_told
from studylib.experiments import generative_objectives as shared
from studylib.networks import spec
from studylib.plots import vae as plots
from studylib.settings import SettingError, read
from studylib.training.recipe import Recipe
from studylib.tree import names
from studylib.tree.node import Node
from studylib.tree.published import Published

RECIPE = Recipe(epochs=2, lr=1e-2, batch_size=100, augmentation="none")
NETWORK = vae.Autoencoder(width=4, latent=3, student=2, narrower=[1, 2], draws=2)
COMPRESSING = generative.Compressing(rounds=2, tolerance=0.0, epochs=2, calibration_images=32)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A chapter's networks, and rows of all combinations and of narrower networks."""
    node = Node(tmp_path_factory.mktemp("chapter"), "digits", 0, threads=1, device="cpu")
    family = vae.Family(node, NETWORK, COMPRESSING, RECIPE)
    return family, pd.DataFrame(family.tree()), pd.DataFrame(family.narrower())


def test_all_sixteen_combinations_are_files_whose_likelihood_is_that_of_their_rows(made):
    family, tree, _ = made
    assert list(tree["node"]) == names.nodes(generative.STAGES) and len(tree) == 16
    data = likelihood.of(datasets.load("digits", 0), NETWORK.draws)
    for name in ("teacher", "teacher-imp-svd-int8"):
        row = tree.set_index("node").loc[name]
        file = (family.folder_of(0, name) / names.CODED).read_bytes()
        found = data.task.predict(codec.decode(file), data.test, data).double().mean(0)
        assert row["test_bits"] == found[0].item() and row["bytes"] == len(file)
        assert row["low"] < row["test_bits"] < row["high"]


def test_each_combination_does_what_its_name_says(made):
    family, tree, _ = made
    rows = tree.set_index("node")
    for name, row in rows.iterrows():
        assert (row["zeros"] > 0.2) == ("imp" in name), name
        changes = json.loads((family.folder_of(0, name) / "model.json").read_text())["spec"]["changes"]
        done = [change["technique"] for change in changes]
        assert done == [
            {"teacher": "kd" if "kd" in name else "teacher"}.get(part, part) for part in name.split("-") if part != "kd"
        ]
    assert rows["costs"]["teacher"] == 0 and (rows["bytes"].drop("teacher") < rows["bytes"]["teacher"]).all()


def test_a_chapter_that_goes_on_trains_nothing_again(made, monkeypatch):
    family, tree, _ = made
    monkeypatch.setattr(vae.loop, "fit", lambda *args, **kwargs: pytest.fail("trained again"))
    again = pd.DataFrame(family.tree())
    pd.testing.assert_frame_equal(again, tree)


def test_narrower_networks_are_smaller_and_stand_beside_each_combination(made):
    _, tree, narrow = made
    forms = ("float32", "int8", "float32, longer", "int8, longer")
    assert set(zip(narrow["width"], narrow["form"], strict=True)) == {(w, f) for w in (1, 2, 4) for f in forms}
    short = narrow[~narrow["form"].str.endswith(generative.LONGER)]
    beside = generative_told.against_narrower(tree, short).set_index("node")
    assert beside["less"]["teacher"] == pytest.approx(0) and list(beside.index) == list(tree["node"])
    assert (generative_told.against_narrower(tree, narrow)["less"] <= beside["less"].to_numpy() + 1e-9).iloc[0]


def test_a_narrower_network_that_trains_longer_takes_as_many_passes_as_the_pruned_one_of_its_seed(made):
    family, tree, narrow = made
    passes = {}
    for name in ("teacher", "width2", "longer2", "longer4", "teacher-imp"):
        changes = json.loads((family.folder_of(0, name) / "model.json").read_text())["spec"]["changes"]
        passes[name] = sum(change["epochs"] for change in changes)
    assert passes["teacher"] == passes["width2"] == RECIPE.epochs
    most = RECIPE.epochs + COMPRESSING.rounds * COMPRESSING.epochs
    assert RECIPE.epochs < passes["longer2"] == passes["longer4"] == passes["teacher-imp"] < most
    by = narrow.set_index(["width", "form"])["val_bits"]
    assert by[4, "float32"] == tree.set_index("node")["val_bits"]["teacher"] != by[4, "float32, longer"]


def test_a_combination_beats_a_narrower_network_where_every_seed_says_so():
    rows = pd.DataFrame({"seed": [0, 1] * 2, "node": ["a"] * 2 + ["b"] * 2, "bytes": [1000] * 2 + [50] * 2})
    rows["test_bits"] = [2.5, 2.51, 3.0, 3.0]
    alone = pd.DataFrame(
        {"seed": [0, 0, 1, 1], "form": "int8", "bytes": [100, 10_000] * 2, "test_bits": [4.0, 2.0] * 2}
    )
    better, beyond = generative_told.against_narrower(rows, alone).to_dict("records")
    assert better["verdict"] == "raises" and better["low"] < better["less"] == pytest.approx(0.495)
    assert beyond["verdict"] == "cannot tell" and np.isnan(beyond["less"])
    shown = generative_told.beside_listed(pd.DataFrame([better, beyond]))
    assert list(shown["verdict"]) == ["beats it", "none as small"]
    unsure = better | {"node": "teacher-imp", "verdict": "cannot tell"}
    told = generative_told.narrower_told(pd.DataFrame([better | {"node": "teacher-svd"}, unsure]))
    assert "as many bytes: SVD. Cannot be told: pruning. More bits: 0 of 2" in told


def test_the_smallest_is_chosen_by_validation_images():
    nodes = pd.DataFrame({"node": ["teacher", "a", "b"], "bytes": [9, 5, 1], "val_bits": [2.0, 2.019, 2.03]})
    assert vae_told.smallest(nodes) == "a" and vae_told.smallest(nodes, within=0.02) == "b"


def test_a_teacher_draws_its_pixels_from_what_it_decodes():
    torch.manual_seed(0)
    mean, log_scale = torch.full((1, 100_000), 0.2), torch.full((1, 100_000), -3.0)
    shares = torch.bincount(vae.drawn(mean, log_scale).flatten().int(), minlength=256) / 100_000
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
    assert len(rows) == 4 and all(0 < bits < 8 for bits in rows.values())
    own = next(bits for name, bits in rows.items() if "logistic" in name)
    test, mean = digits.test.images.flatten(1), digits.train.images.flatten(1).float().mean(0)
    alike = [-likelihood.log_pixels(mean / 127.5 - 1, torch.tensor(scale), test).mean().item() for scale in (-1, -2)]
    assert own < min(alike) / np.log(2)  # fitted, not one scale for all


def test_the_figure_has_a_point_for_each_combination_and_a_line_for_each_form(made):
    _, tree, narrow = made
    nodes, dense = generative_told.summary(tree), generative_told.summary(narrow, ["width", "form"])
    figure = plots.draw_bits(nodes, dense)
    said = [sorted(text.get_text().strip() for text in axis.texts) for axis in figure.axes]
    assert said == [["pruned"] * 4 + ["whole"], ["pruned"] * 4]
    labels = [text.get_text() for text in figure.legends[0].get_texts()]
    lines = [f"narrower, {form}" for form in ("float32", "float32, longer", "int8", "int8, longer")]
    assert len(labels) == 8 and sorted(labels)[:4] == lines
    again = vae_told.drawn_by(plots.draw_bits)(tree, narrow)
    assert sum(len(line.get_xdata()) for axis in again.axes for line, *_ in axis.containers) == 16


def test_another_published_study_is_told_as_this_one_is(made):
    _, tree, narrow = made
    marks = pd.DataFrame({"name": ["xz"], vae_told.BITS: [0.5]})
    rows = {"combinations": tree, "narrower": narrow, "marks": marks}
    how = {"tolerance": 0.01, "rounds": 3, "fraction": 0.2}
    study = SimpleNamespace(
        rows=rows.get, about={"data": {"name": "larger"}}, content={"settings": {"compressing": how}}
    )
    told, nodes = generative_told.larger_told(study, vae_told), generative_told.summary(tree)
    parts = [vae_told.marks_told(marks, nodes), generative_told.recovered_told(nodes, **how)]
    assert told.startswith(f"**larger.** {' '.join(parts)} {vae_told.nodes_told(nodes, vae_told.smallest(nodes))}")
    assert list(vae_told.listed_of(tree)["combination"]) == [generative_told.short(node) for node in tree["node"][:16]]
    assert "than a narrower network of as many bytes" in told
    less = " Narrower ones trained for fewer passes than pruned ones."
    rows["narrower"] = narrow[~narrow["form"].str.endswith(generative.LONGER)]
    assert generative_told.larger_told(study, vae_told).endswith(less) and not told.endswith(less)
    assert generative_told.larger_told(None, vae_told) == "The larger study is not in this copy."


def test_what_carries_over_is_told_of_published_rows_by_the_rule_of_the_chapter():
    rows = [
        Published("figures/mnist", "11_vae").rows(name)
        for name in ("combinations", "narrower", "against", "objectives")
    ]
    found = generative_carried.carried_by(["mnist", "digits"])(*rows).set_index("finding")
    size = rows[0].pivot(index="seed", columns="node", values="bytes")
    share = 100 * (1 - size["teacher-svd"] / size["teacher"]).mean()
    assert f"{share:+.2f} (" in found.loc["SVD saves next to nothing at Δ = 1", "here"]
    assert set(found["verdict"]) <= set(generative_carried.TITLES)


def test_images_to_look_at_are_of_every_network_asked_for(made):
    family, _, _ = made
    rows = pd.DataFrame(vae.shown(family, ["teacher", "teacher-kd-int8"], count=3))
    assert rows.groupby(["network", "kind"]).size().to_dict() == {
        ("", "image"): 3,
        **{(name, kind): 3 for name in ("teacher", "teacher-kd-int8") for kind in ("reconstruction", "sample")},
    }
    figure = plots.draw_images(rows, generative_told.short)
    assert [axis.get_ylabel().replace("\n", " ") for axis in figure.axes if axis.get_ylabel()] == [
        "test images",
        *("whole, reconstructions", "distillation + int8, reconstructions", "whole, samples"),
        "distillation + int8, samples",
    ]
    first = rows[rows["kind"] == "image"].iloc[1]
    pixels = family.node.data.test.images[1]
    assert first["shape"] == [1, 8, 8] and [int(d, 16) for d in first["pixels"]] == (pixels // 16).flatten().tolist()
    assert "Of 3 images, the mean pixel of a reconstruction is off by: whole " in vae_told.images_told(
        rows, "teacher-kd-int8"
    )


def test_images_of_colours_are_drawn_as_they_are():
    shape = [3, 2, 2]
    rows = pd.DataFrame([{"network": "", "kind": "image", "number": 0, "shape": shape, "pixels": "f0000f0000f0"}])
    (drawn,) = plots.draw_images(rows, generative_told.short).axes[0].get_images()
    assert drawn.get_array()[0, 0].tolist() == [1, 0, 0] and drawn.get_array()[1, 0].tolist() == [0, 0, 1]


def test_objectives_are_tuned_on_the_first_seed_and_compared_on_all(made):
    family, tree, _ = made
    sums = {"l1": [1e-4, 1e-2], "quantization_error": [0.1, 1.0], "coded_bytes": [1e-5, 1e-4]}
    values = {"sums": sums, "taus": [0.1, 0.5], "sparsities": [0.5], "epochs": 1, "calibration_images": 32}
    comparison = vae_objectives.Objectives(**values, repetitions=2)
    rows = pd.DataFrame(vae_objectives.compared(family, comparison))
    of = rows.groupby("objective").size().to_dict()
    once = 3 * 2 + 1 + 4  # ways, values, the likelihood alone; the best of each way on the second seed
    assert of == {"l1": 2 * once, "quantization_error": once, "coded_bytes": once}  # L1 has two stages
    best, chosen = generative.best_values(rows[rows["seed"] == 0], "val_score"), rows[rows["chosen"]]
    assert {(row.objective, row.way, row.value) for row in chosen.itertuples()} == {
        (*key, value) for key, value in best.items()
    }
    against = shared.against_sums(rows)
    assert list(against["seeds"]) == [2] * 8 and (against["low"] <= against["high"]).all()
    mean = chosen[(chosen["objective"] == "l1") & (chosen["stage"] == "one-shot")].groupby("way")["test_score"].mean()
    assert against["saved"][0] == pytest.approx(mean["weighted sum"] - mean["PCD, normalized"], abs=1e-4)
    control = shared.against_sums(rows, [shared.ALONE])
    assert control["saved"][0] == pytest.approx(mean["likelihood alone"] - mean["PCD, normalized"], abs=1e-4)
    assert "test" not in shared.without_test(rows.to_dict("records"))[0]
    assert generative_told.at_an_end(rows).empty  # of two values each is at an end
    assert set(shared.at_best(rows, "bits per dimension")["second objective"]) == set(shared.NAMES.values())
    shown = generative_told.against_listed(against, shared.NAMES)
    assert set(shown["second objective"]) == set(shared.NAMES.values())
    assert len(shared.fine_tuned_l1(rows, against)) == 1
    figure = plots.draw_against(against, shared.NAMES)
    named = [text.get_text() for axis in figure.axes[:2] for text in axis.get_yticklabels()]
    assert named == ["L1, one-shot", "L1, fine-tuned"] and len(figure.axes) == 4
    claimed = shared.claims_of(generative_told.summary(tree), against, vae_objectives.CLAIMS)
    assert set(claimed) == set(vae_objectives.CLAIMS) and [len(claimed[key]) for key in vae_objectives.CLAIMS[1:]] == [
        6,
        2,
    ]


def test_where_coded_bytes_are_descended_those_of_the_file_count(made):
    family, _, _ = made
    model = torch.nn.Module.eval(spec.create("vae", 0, **likelihood.of(family.node.data).model_args, width=2, latent=2))
    data = likelihood.of(family.node.data, 2)
    plain, coded = (vae_objectives._measured("", "", model, data, other) for other in ("l1", "coded_bytes"))
    extra = 8 * coded["bytes"] / family.node.data.train.images.numel()
    for score in ("val_score", "test_score"):
        assert coded[score] - plain[score] == pytest.approx(extra, abs=1e-5)


def test_classifiers_are_those_of_the_same_images_first_and_of_the_digits_where_they_lack_something():
    assert vae_told.of_classifiers("digits") == ["digits"] and vae_told.of_classifiers("nowhere") == []
    assert vae_told.of_classifiers("mnist_5k") == ["mnist", "digits"]


def test_sentences_name_what_is_beaten_and_the_smallest(made, digits):
    _, tree, narrow = made
    nodes, marks = generative_told.summary(tree), pd.DataFrame({"name": ["x", "y"], vae.BITS: [0.1, 7.9]})
    assert "More need: y (7.900). Fewer need: x (0.100)." in vae_told.marks_told(marks, nodes)
    assert " of 15 combinations)." in vae_told.nodes_told(nodes, "teacher-int8")
    beside = generative_told.against_narrower(tree, narrow)
    told = generative_told.narrower_told(beside)
    known = beside[~beside["node"].isin(["teacher", "teacher-int8"])]["less"].dropna()
    assert told.startswith("Fewer bits than a narrower network of as many bytes, of one seed and without an interval: ")
    assert told.endswith(f"({(known > 0).sum()} of {len(known)} combinations).")
    assert set(generative_told.beside_listed(beside)["verdict"]) <= {generative_told.ONE, generative_told.NONE}
    shown = vae_told.listed(nodes).set_index("combination")
    assert shown["saved %"]["whole"] == 0 and shown["against the whole"]["whole"] == "–"


def test_settings_that_tune_one_way_more_are_refused():
    with pytest.raises(ValueError, match="expected as many different ones as taus"):
        vae_objectives.Objectives(sums={"l1": [1e-4]}, taus=[0.1, 0.2])
    with pytest.raises(ValueError, match="sums: 'l2': unknown; did you mean 'l1'"):
        vae_objectives.Objectives(sums={"l2": [1e-4, 1e-3]}, taus=[0.1, 0.2])
    with pytest.raises(SettingError, match=r"taus.*expected at most 1"):
        read(vae_objectives.Objectives, {"sums": {"l1": [1e-4]}, "taus": [2.0]}, "x")
    with pytest.raises(SettingError, match="width=0: expected at least 1"):
        vae.Autoencoder(width=0)
