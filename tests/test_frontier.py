import dataclasses
import json
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from studylib.coding import codec, restore, shipped
from studylib.data import datasets, scoring
from studylib.descent import objectives
from studylib.experiments import frontier
from studylib.networks import layers
from studylib.settings import SettingError
from studylib.training.deadline import STOP_AT, Paused
from studylib.training.recipe import Recipe
from studylib.tree.names import CODED

STEP = Recipe(epochs=2, lr=5e-3, batch_size=50, views=2)
PLAN = frontier.Shrinking([0.0, 0.9], [3, 8], epochs=2, lr=5e-3, rounding_epochs=2, calibration_images=64)


@pytest.fixture(scope="module")
def loss(teacher_model, tiny):
    return frontier.Supervision().loss(teacher_model, tiny)


@pytest.fixture(scope="module")
def made(student_model, tiny, loss, tmp_path_factory):
    scratch = tmp_path_factory.mktemp("unfinished")
    found = frontier.points(student_model, tiny, PLAN, STEP, loss, seed=0, scratch=scratch)
    return [(sparsity, bits, make()) for sparsity, bits, make in found]


def test_every_sparsity_in_every_number_of_bits(made, student_model):
    assert [(s, b) for s, b, _ in made] == [(s, b) for s in PLAN.sparsities for b in PLAN.bits]
    total = sum(w.numel() for w in layers.prunable(student_model).values())
    for sparsity, bits, model in made:
        assert layers.sparsity(model) >= round(sparsity * total) / total  # rounding may add zeros, never take them
        assert {layer.bits for layer in layers.weight_layers(model).values()} == {bits}
        assert [change["technique"] for change in model.spec["changes"]] == ["pruned", "qat"]
        assert [row["training"] for row in model.history] == ["pruning"] * 2 + ["rounding"] * 2
    assert all(change["epochs"] == 2 for _, _, model in made for change in model.spec["changes"])


def test_sparser_and_fewer_bits_take_fewer_bytes_and_the_file_is_the_model(made, tiny):
    files = {(s, b): codec.encode(shipped.apply(model)) for s, b, model in made}
    for s, b, model in made:
        again = codec.decode(files[s, b])
        assert torch.equal(
            scoring.predict(again, tiny.test, tiny), scoring.predict(shipped.apply(model), tiny.test, tiny)
        )
    for bits in PLAN.bits:
        sizes = [len(files[s, bits]) for s in PLAN.sparsities]
        assert sizes == sorted(sizes, reverse=True) and len(set(sizes)) == len(sizes)
    assert all(len(files[s, 3]) < len(files[s, 8]) for s in PLAN.sparsities)


def test_a_point_is_a_file_with_half_precision_and_what_is_measured_is_that_file(made, study_root):
    model, floats = layers.duplicate(made[-1][2]), []
    for name in ("point", "kept"):
        metrics = frontier.Point(name, "digits", 0, device="cpu").finish(layers.duplicate(model))
        content = (study_root / name / CODED).read_bytes()
        again = codec.decode(content)
        floats.append(shipped.floats_of(again))
        digits = datasets.load("digits", 0)
        assert metrics["bytes_file"] == len(content)
        assert metrics["test_accuracy"] == scoring.accuracy(again, digits.test, digits)
        if name == "point":
            assert metrics["bytes_file_float16"] == len(content) < len(codec.encode(shipped.apply(model)))
            next(iter(layers.weight_layers(model).values())).weight_scale.fill_(1e-30)  # half precision has none such
    assert floats == ["float16", "float32"] and metrics["bytes_file_float16"] is None


def test_what_was_interrupted_goes_on_and_comes_out_the_same(
    made, student_model, tiny, loss, tmp_path, monkeypatch, same_tensors
):
    plan = dataclasses.replace(PLAN, sparsities=[0.0], bits=[3])

    def again():
        return next(frontier.points(student_model, tiny, plan, STEP, loss, seed=0, scratch=tmp_path))[2]()

    monkeypatch.setenv(STOP_AT, "0")  # long ago
    with pytest.raises(Paused):
        again()
    monkeypatch.delenv(STOP_AT)
    assert same_tensors(again(), made[0][2])


def test_a_new_network_is_taught_and_remembers_it(tiny, loss, tmp_path, student_model, teacher_model, same_tensors):
    args, how = student_model.spec["args"], {"seed": 0, "device": torch.device("cpu"), "scratch": tmp_path}
    model = frontier.grown("convnet", args, tiny, STEP, loss, **how)
    assert model.spec["changes"] == [{"technique": "taught", "epochs": 2}] and len(model.history) == 2
    other = frontier.Supervision(alpha=0.0).loss(teacher_model, tiny)
    assert not same_tensors(model, frontier.grown("convnet", args, tiny, STEP, other, **how))


def test_coding_is_its_part_of_the_loss_and_leaves_fewer_bits(student_model, tiny, loss, tmp_path, monkeypatch):
    images, labels = tiny.normalize(tiny.train.images[:9]), tiny.train.labels[:9]
    plain, both = loss(student_model, images, labels), frontier.Coded(loss, 4, 0.5)
    total, logits = both(student_model, images, labels)
    many = sum(w.numel() for w in objectives.weights(student_model))
    bits = 8 * frontier.coded_bytes(4)(student_model, None, None) / many
    assert torch.equal(logits, plain[1]) and total.item() == pytest.approx((plain[0] + 0.5 * bits).item())
    monkeypatch.setattr(frontier.qat, "apply", lambda model, *args, **kwargs: layers.duplicate(model))
    left = []
    for coding in (0.0, 100.0):  # few steps: much of it
        plan = dataclasses.replace(PLAN, epochs=8, sparsities=[0.5], bits=[4], coding=coding)
        pruned = next(frontier.points(student_model, tiny, plan, STEP, loss, seed=0, scratch=tmp_path))[2]()
        left.append(frontier.coded_bytes(4)(pruned, None, None).item())
    assert left[1] < 0.97 * left[0]


def test_nothing_is_trained_before_it_is_asked_for(student_model, tiny, loss, tmp_path, monkeypatch):
    monkeypatch.setattr(frontier.prune, "trajectory", lambda *args, **kwargs: pytest.fail("trained"))
    found = frontier.points(student_model, tiny, PLAN, STEP, loss, seed=0, scratch=tmp_path)
    assert [(s, b) for s, b, _ in found] == [(0.0, 3), (0.0, 8), (0.9, 3), (0.9, 8)]


def test_steps_follow_the_recipe_but_for_epochs_and_rate():
    recipe = Recipe(epochs=9, lr=0.1, min_lr=1e-4, compile=True, schedule="one_cycle", views=3)
    plan = frontier.Shrinking(epochs=5, lr=4e-4, rounding_epochs=1)
    assert plan.pruning(recipe) == dataclasses.replace(recipe, epochs=5, lr=4e-4)
    rounding = plan.rounding(recipe)  # a tenth of the rate is below the recipe's least
    assert rounding == dataclasses.replace(recipe, epochs=1, lr=4e-5, min_lr=4e-5, compile=False)


@pytest.mark.parametrize(
    ("kind", "wrong", "message"),
    [
        ("Shrinking", {"sparsities": [0.9, 0.5]}, r"sparsities=\[0.9, 0.5\]: expected rising shares"),
        ("Shrinking", {"sparsities": []}, "sparsities=.*: expected at least 1 of them"),
        ("Shrinking", {"sparsities": [1.0]}, r"sparsities\[0\]=1.0: expected below 1"),
        ("Shrinking", {"bits": []}, "bits=.*: expected at least 1 of them"),
        ("Shrinking", {"bits": [4, 4]}, r"bits=\[4, 4\]: expected different ones"),
        ("Shrinking", {"bits": [4, 1]}, r"bits\[1\]=1: expected at least 2"),
        ("Shrinking", {"bits": [9]}, r"bits\[0\]=9: expected at most 8"),
        ("Shrinking", {"coding": -0.1}, "coding=-0.1: expected at least 0"),
        ("Shrinking", {"coding": float("inf")}, "coding=inf: expected a finite number"),
        ("Shrinking", {"epochs": 0}, "epochs=0: expected at least 1"),
        ("Shrinking", {"lr": 0.0}, "lr=0.0: expected above 0"),
        ("Shrinking", {"rounding_epochs": -1}, "rounding_epochs=-1: expected at least 0"),
        ("Shrinking", {"calibration_images": 0}, "calibration_images=0: expected at least 1"),
        ("Supervision", {"temperature": 0.0}, "temperature=0.0: expected at least 0.001"),
        ("Supervision", {"alpha": 1.1}, "alpha=1.1: expected at most 1"),
        ("Supervision", {"teachers": "x.slnc"}, "teachers='x.slnc': expected a list"),
        ("Grown", {"networks": ["vgg 4", "vgg 4"]}, "networks=.*: expected different ones"),
        ("Grown", {"networks": ["mobilenet 8"]}, "networks: network 'mobilenet 8': expected one of convnet, densenet"),
        ("Grown", {"networks": ["convnet"]}, "networks: network 'convnet': expected one of"),
    ],
)
def test_settings_that_cannot_be_followed_are_refused(kind, wrong, message):
    with pytest.raises((SettingError, ValueError), match=message):
        getattr(frontier, kind)(**wrong)


@pytest.mark.parametrize(
    ("networks", "message"),
    [
        (["convnet 16", "vgg 300"], "networks='vgg 300': .*numbers, expected at most 67108864"),
        (["convnet 1025"], "networks='convnet 1025': 4100 in it, expected at most 4096"),
    ],
)
def test_networks_too_large_for_a_file_are_refused_with_the_data(networks, message, digits):
    frontier.Grown(["densenet 6", "convnet 8"]).against(digits)
    with pytest.raises(ValueError, match=message):
        frontier.Grown(networks).against(digits)


FILES = [
    str(Path(__file__).parents[1] / "figures" / "models" / f"digits-densenet16-{name}.slnc")
    for name in ("8bit", "z89.3-8bit")
]


def test_published_files_teach_together(teacher_model, digits):
    supervision = frontier.Supervision(teachers=FILES)
    supervision.against(digits)
    taught = supervision.loss(teacher_model, digits)
    seen = digits.normalize(digits.validation.images[:50])
    with torch.no_grad():
        expected = sum(restore.apply(file, digits)(seen) for file in FILES) / 2
        assert torch.allclose(taught.teacher(seen), expected, atol=1e-4)
        assert not torch.allclose(teacher_model(seen), expected, atol=0.1)


def test_files_of_another_seed_or_of_nobody_are_refused():
    with pytest.raises(ValueError, match=r"teachers: .*of digits, seed 0: expected digits, seed 1"):
        frontier.Supervision(teachers=FILES).against(datasets.load("digits", 1))
    with pytest.raises(ValueError, match=r"teachers: 'x\.slnc': expected a published file"):
        frontier.Supervision(teachers=["x.slnc"]).against(datasets.load("digits", 0))


RISING = st.lists(st.floats(0, 1, exclude_max=True), unique=True, min_size=2, max_size=8)


@given(sparsities=RISING, network=st.sampled_from(["teacher", "densenet 6", "convnet 16"]))
def test_no_two_points_share_a_folder(sparsities, network):
    names = {frontier.name_of(network, s, b) for s in {0.0 if s == 0 else s for s in sparsities} for b in (3, 4)}
    assert len(names) == 2 * len({s + 0.0 for s in sparsities})
    assert all(set(name) <= set("abcdefghijklmnopqrstuvwxyz0123456789.-") for name in names)


def test_published_points_keep_their_names():
    names = [frontier.name_of(*point) for point in (("densenet 6", 0.95, 4), ("teacher", 0.971, 4), ("teacher", 0, 8))]
    assert names == ["densenet6-950-4bit", "teacher-971-4bit", "teacher-0-8bit"]
    published = json.loads((Path(__file__).parents[1] / "figures/models/models.json").read_text())
    kept = {about["node"] for about in published.values() if about["node"].endswith("bit")}
    rows = [
        row
        for name in {about["profile"] for about in published.values()}
        if (file := Path(__file__).parents[1] / f"figures/{name}/08_frontier.json").exists()
        for row in json.loads(file.read_text())["rows"]["frontier"]
    ]
    assert kept and rows and all(frontier.name_of(r["network"], r["sparsity"], r["bits"]) == r["name"] for r in rows)


@pytest.mark.long
def test_two_points_that_round_to_one_name_are_both_kept(student_model, tiny, loss, tmp_path):
    plan = dataclasses.replace(PLAN, sparsities=[0.9, 0.9001], bits=[4])
    found = list(frontier.points(student_model, tiny, plan, STEP, loss, seed=0, scratch=tmp_path))
    assert [frontier.name_of("student", s, b) for s, b, _ in found] == ["student-900-4bit", "student-900.1-4bit"]
    for _, _, make in found:
        make()
    left = sorted(path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*.safetensors"))
    assert len(left) == 4  # two of pruning, two of rounding


def test_fewer_images_than_calibrate_by_default_are_enough(student_model, tiny, loss, tmp_path):
    plan = frontier.Shrinking([0.5], [4], epochs=1, rounding_epochs=1)
    assert plan.calibration_images > len(tiny.train)
    assert next(frontier.points(student_model, tiny, plan, STEP, loss, seed=0, scratch=tmp_path))[2]().history
