import dataclasses
import json
from pathlib import Path

import nbformat
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from studylib import codec, data, distill, frontier, inference, models, objectives, prune, restore, size, sweep, train
from studylib.budget import STOP_AT, Paused
from studylib.node import Node
from studylib.train import Recipe

STEP = Recipe(epochs=2, lr=5e-3, batch_size=50, views=2)
PLAN = frontier.Plan(STEP, STEP, dataclasses.replace(STEP, lr=5e-4), (0.0, 0.9), (3, 8), calibration_images=64)


@pytest.fixture(scope="module")
def lesson(teacher_model):
    return frontier.Lesson(distill.Teacher(teacher_model))


@pytest.fixture(scope="module")
def made(student_model, tiny, lesson, tmp_path_factory):
    scratch = tmp_path_factory.mktemp("unfinished")
    return list(frontier.points(student_model, tiny, PLAN, lesson, seed=0, scratch=scratch))


def test_every_sparsity_in_every_number_of_bits(made, student_model):
    assert [(s, b) for s, b, _ in made] == [(s, b) for s in PLAN.sparsities for b in PLAN.bits]
    total = sum(w.numel() for w in prune.prunable(student_model).values())
    for sparsity, bits, model in made:
        assert size.sparsity(model) >= round(sparsity * total) / total  # rounding may add zeros, never take them
        assert {layer.bits for layer in models.weight_layers(model).values()} == {bits}
        assert [change["technique"] for change in model.spec["changes"]] == ["pruned", "qat"]
        assert [row["training"] for row in model.history] == ["pruning"] * 2 + ["rounding"] * 2
    assert all(change["epochs"] == 2 for _, _, model in made for change in model.spec["changes"])


def test_sparser_and_fewer_bits_take_fewer_bytes_and_the_file_is_the_model(made, tiny):
    files = {(s, b): codec.encode(inference.apply(model)) for s, b, model in made}
    for s, b, model in made:
        again = codec.decode(files[s, b])
        assert torch.equal(
            train.predict(again, tiny.test, tiny), train.predict(inference.apply(model), tiny.test, tiny)
        )
    for bits in PLAN.bits:
        sizes = [len(files[s, bits]) for s in PLAN.sparsities]
        assert sizes == sorted(sizes, reverse=True) and len(set(sizes)) == len(sizes)
    assert all(len(files[s, 3]) < len(files[s, 8]) for s in PLAN.sparsities)


def test_a_point_is_a_file_with_half_precision_and_what_is_measured_is_that_file(made, study_root):
    model, floats = models.duplicate(made[-1][2]), []
    for name in ("point", "kept"):
        metrics = frontier.Point(name, "digits", 0, device="cpu").finish(models.duplicate(model))
        content = (study_root / name / sweep.CODED).read_bytes()
        again = codec.decode(content)
        floats.append(inference.floats_of(again))
        digits = data.load("digits", 0)
        assert metrics["bytes_file"] == len(content)
        assert metrics["test_accuracy"] == train.accuracy(again, digits.test, digits)
        if name == "point":
            assert metrics["bytes_file_float16"] == len(content) < len(codec.encode(inference.apply(model)))
            next(iter(models.weight_layers(model).values())).weight_scale.fill_(1e-30)  # half precision has none such
    assert floats == ["float16", "float32"] and metrics["bytes_file_float16"] is None


def test_what_was_interrupted_goes_on_and_comes_out_the_same(
    made, student_model, tiny, lesson, tmp_path, monkeypatch, same_tensors
):
    plan = dataclasses.replace(PLAN, sparsities=(0.0,), bits=(3,))

    def again():
        return next(frontier.points(student_model, tiny, plan, lesson, seed=0, scratch=tmp_path))[2]

    monkeypatch.setenv(STOP_AT, "0")  # long ago
    with pytest.raises(Paused):
        again()
    monkeypatch.delenv(STOP_AT)
    assert same_tensors(again(), made[0][2])


def test_a_new_network_is_taught_and_remembers_it(tiny, lesson, tmp_path, student_model, same_tensors):
    args = student_model.spec["args"]
    model = frontier.grown("convnet", args, tiny, PLAN, lesson, seed=0, scratch=tmp_path)
    assert model.spec["changes"] == [{"technique": "taught", "epochs": 2}] and len(model.history) == 2
    other = frontier.Lesson(lesson.teacher, alpha=0.0)
    assert not same_tensors(model, frontier.grown("convnet", args, tiny, PLAN, other, seed=0, scratch=tmp_path))


def test_coding_is_its_part_of_the_loss_and_leaves_fewer_bits(student_model, tiny, lesson, tmp_path, monkeypatch):
    images, labels = tiny.normalize(tiny.train.images[:9]), tiny.train.labels[:9]
    plain, both = lesson.loss(student_model, images, labels), frontier.Coded(lesson.loss, 4, 0.5)
    total, logits = both(student_model, images, labels)
    many = sum(w.numel() for w in objectives.weights(student_model))
    bits = 8 * objectives.coded_bytes(4)(student_model, None, None) / many
    assert torch.equal(logits, plain[1]) and total.item() == pytest.approx((plain[0] + 0.5 * bits).item())
    monkeypatch.setattr(frontier.qat, "apply", lambda model, *args, **kwargs: models.duplicate(model))
    longer, left = dataclasses.replace(STEP, epochs=8), []
    for coding in (0.0, 100.0):  # few steps: much of it
        plan = dataclasses.replace(PLAN, pruning=longer, sparsities=(0.5,), bits=(4,), coding=coding)
        pruned = next(frontier.points(student_model, tiny, plan, lesson, seed=0, scratch=tmp_path))[2]
        left.append(objectives.coded_bytes(4)(pruned, None, None).item())
    assert left[1] < 0.97 * left[0]


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"sparsities": (0.9, 0.5)}, "sparsities="),
        ({"sparsities": ()}, "sparsities="),
        ({"bits": ()}, "bits="),
        ({"bits": (4, 4)}, "bits="),
        ({"bits": (1,)}, "bits="),
        ({"bits": (9,)}, "bits="),
        ({"coding": -0.1}, "coding=-0.1"),
        ({"coding": float("inf")}, "coding=inf"),
    ],
)
def test_a_plan_that_cannot_be_followed_is_refused(wrong, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(PLAN, **wrong)


def test_published_files_teach_together_in_chapter_8(tmp_path):
    images, root = data.load("digits", 0), Path(__file__).parents[1]
    files = [str(root / "figures" / "models" / f"digits-teacher-{name}.slnc") for name in ("int8", "imp-int8")]
    Node(tmp_path / "parent", "digits", 0).finish(restore.apply(files[1], images))
    cells = [c for c in nbformat.read(root / "notebooks" / "08_frontier.ipynb", 4).cells if c.cell_type == "code"]
    names = {}
    exec(cells[0].source, names)
    names |= {"parent": str(tmp_path / "parent"), "student": "", "out": str(tmp_path / "out"), "teachers": files}
    exec(cells[1].source, names)
    seen = images.normalize(images.validation.images[:50])
    with torch.no_grad():
        expected = sum(restore.apply(file, images)(seen) for file in files) / 2
        assert torch.allclose(names["lesson"].teacher(seen), expected, atol=1e-4)
        assert not torch.allclose(names["teacher"](seen), expected, atol=0.1)


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
        if (file := Path(__file__).parents[1] / f"figures/{name}/frontier.json").exists()
        for row in json.loads(file.read_text())["rows"]
    ]
    assert kept and all(frontier.name_of(r["network"], r["sparsity"], r["bits"]) == r["name"] for r in rows)


@pytest.mark.long
def test_two_points_that_round_to_one_name_are_both_kept(student_model, tiny, lesson, tmp_path):
    plan = dataclasses.replace(PLAN, sparsities=(0.9, 0.9001), bits=(4,))
    made = frontier.points(student_model, tiny, plan, lesson, seed=0, scratch=tmp_path)
    assert [frontier.name_of("student", s, b) for s, b, _ in made] == ["student-900-4bit", "student-900.1-4bit"]
    left = sorted(path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*.safetensors"))
    assert len(left) == 4  # two of pruning, two of rounding


def test_fewer_images_than_calibrate_by_default_are_enough(student_model, tiny, lesson, tmp_path):
    plan = frontier.Plan(STEP, STEP, STEP, (0.5,), (4,))
    assert plan.calibration_images > len(tiny.train)
    assert len(list(frontier.points(student_model, tiny, plan, lesson, seed=0, scratch=tmp_path))) == 1
