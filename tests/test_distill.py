import dataclasses
import decimal
import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from studylib.data import datasets, scoring
from studylib.disk import files
from studylib.experiments.frontier import Committee
from studylib.experiments.moo_objectives import knowledge_alignment
from studylib.networks import chains, densenet, layers
from studylib.networks import spec as networks_spec
from studylib.techniques import distill
from studylib.techniques.distill import distillation_loss
from studylib.training import checkpoint as checkpoints
from studylib.training import loop
from studylib.training.recipe import Recipe

QUICK = Recipe(epochs=2, lr=5e-3, batch_size=32)
WIDTHS = {"widths": [4, 4, 4], "hidden": [4, 4]}
TEMPERATURE = st.floats(0.5, 20)


def logits(seed, scale=3.0):
    return scale * torch.randn(6, 5, generator=torch.Generator().manual_seed(seed))


class Table(nn.Module):
    """A model whose logits are its parameter, whatever the images."""

    def __init__(self, values):
        super().__init__()
        self.values = nn.Parameter(values.clone())

    def forward(self, images):
        return 1 * self.values


@given(seed=st.integers(0, 999), temperature=TEMPERATURE)
def test_loss_is_zero_where_student_and_teacher_agree(seed, temperature):
    assert distillation_loss(logits(seed), logits(seed), temperature) == 0
    assert distillation_loss(logits(seed) + 5, logits(seed), temperature).item() == pytest.approx(0, abs=1e-4)


@given(seed=st.integers(0, 999), temperature=TEMPERATURE)
def test_loss_is_positive_where_they_differ(seed, temperature):
    assert distillation_loss(logits(seed), logits(seed + 1000), temperature) > 0


@given(seed=st.integers(0, 999), temperature=TEMPERATURE)
def test_loss_equals_its_formula(seed, temperature):
    student, teacher = logits(seed), logits(seed + 1000)
    expected = 0.0
    for s, t in zip(student.double(), teacher.double(), strict=True):
        p, q = (t / temperature).softmax(0), (s / temperature).softmax(0)
        expected += temperature**2 * sum(a * math.log(a / b) for a, b in zip(p.tolist(), q.tolist(), strict=True)) / 6
    assert distillation_loss(student, teacher, temperature).item() == pytest.approx(expected, rel=1e-3)


def exactly(student, teacher, temperature):
    """The loss in 100 digits."""
    with decimal.localcontext(prec=100):
        t, total = decimal.Decimal(temperature), decimal.Decimal(0)
        for rows in zip(student.tolist(), teacher.tolist(), strict=True):
            scaled = [[decimal.Decimal(value) / t for value in row] for row in rows]
            log_q, log_p = ([v - sum(v.exp() for v in row).ln() for v in row] for row in scaled)
            total += sum(p.exp() * (p - q) for p, q in zip(log_p, log_q, strict=True))
        return float(t * t * total / len(student))


@settings(max_examples=100)
@given(
    seed=st.integers(0, 999),
    temperature=st.floats(-1, 20).map(lambda power: 10**power),
    scale=st.floats(-2, 4).map(lambda power: 10**power),
    apart=st.floats(-7, 0).map(lambda power: 10**power),
)
def test_loss_is_never_negative_and_right_at_every_temperature(seed, temperature, scale, apart):
    teacher = logits(seed, scale)
    student = teacher + apart * logits(seed + 1000, scale)
    found, expected = distillation_loss(student, teacher, temperature).item(), exactly(student, teacher, temperature)
    assert found >= 0 and math.isfinite(found)
    rounding = 1e-6 * temperature * (temperature + scale) if temperature <= 20 else 1e-7 * (1 + expected)
    assert found == pytest.approx(expected, rel=1e-4, abs=rounding)


@given(seed=st.integers(0, 999), temperature=st.floats(4, 300).map(lambda power: 10**power))
def test_hot_gradients_are_those_of_matching_logits(seed, temperature):
    student, teacher = logits(seed).requires_grad_(), logits(seed + 1000)
    distillation_loss(student, teacher, temperature).backward()
    gap = (student - teacher).detach()
    assert torch.allclose(student.grad, (gap - gap.mean(1, keepdim=True)) / 5 / 6, atol=1e-3)


@given(seed=st.integers(0, 999), temperature=TEMPERATURE)
def test_up_to_the_temperatures_in_use_no_bit_of_a_gradient_has_changed(seed, temperature):
    """Published students were trained by this formula."""
    ours, plain, teacher = logits(seed).requires_grad_(), logits(seed).requires_grad_(), logits(seed) + 1e-6
    distillation_loss(ours, teacher, temperature).backward()
    log_student, log_teacher = ((z / temperature).log_softmax(1) for z in (plain, teacher))
    (temperature**2 * F.kl_div(log_student, log_teacher, reduction="batchmean", log_target=True)).backward()
    assert torch.equal(ours.grad, plain.grad)


class Head(nn.Module):
    """A network of ``classes`` classes."""

    def __init__(self, classes):
        super().__init__()
        self.linear = nn.Linear(64, classes)

    def forward(self, images):
        return self.linear(images.flatten(1))


@pytest.mark.parametrize("classes", [1, 3, 11])
def test_a_teacher_of_other_classes_is_refused(classes, tiny, new_student):
    said = rf"teacher's logits \(\d+, {classes}\): expected \(\d+, 10\), as the student's"
    teacher, images = Head(classes), tiny.normalize(tiny.validation.images)
    for told in (teacher, distill.TeacherCache(teacher)):
        with pytest.raises(ValueError, match=said):
            loop.fit(
                new_student(),
                tiny,
                VIEWS if told is not teacher else QUICK,
                seed=0,
                loss=distill.Distillation(told, 5.0, 0.7),
            )
    with pytest.raises(ValueError, match=said):
        knowledge_alignment(teacher)(None, (images, None), torch.zeros(len(images), 10))
    with pytest.raises(ValueError, match=rf"logits are \(50, 10\) and \(50, {classes}\): expected .* same classes"):
        Committee([Head(10), teacher])(images)


def test_a_module_that_teaches_is_not_changed_by_it(teacher_model, tiny, new_student, same_tensors):
    teacher = layers.duplicate(teacher_model).train()
    images, labels = tiny.normalize(tiny.train.images), tiny.train.labels
    with torch.no_grad():
        expected = layers.duplicate(teacher_model).eval()(images)
    for module in (teacher, Committee([teacher])):
        _, out = distill.Distillation(module, 5.0, 1.0)(student := new_student().eval(), images, labels)
        value, _ = distill.Distillation(module, 5.0, 1.0)(student, images, labels)
        assert torch.equal(value, distillation_loss(out, expected, 5.0))  # answers of evaluation
    assert same_tensors(teacher, teacher_model) and all(module.training for module in teacher.modules())
    assert all(p.requires_grad for p in teacher.parameters())


def test_gradient_tends_to_matching_logits_at_high_temperature():
    """Hinton et al. 2015, equation 4, times T²: (z − v) / N for logits of mean zero."""
    student, teacher = (z - z.mean(1, keepdim=True) for z in (logits(0), logits(1)))
    student.requires_grad_()
    distillation_loss(student, teacher, 200.0).backward()
    assert torch.allclose(student.grad, (student - teacher).detach() / 5 / 6, atol=0.02)


def test_no_weight_on_the_teacher_is_cross_entropy():
    labels = torch.arange(6) % 5
    loss = distill.Distillation(Table(logits(0)), 5.0, 0.0)
    value, out = loss(Table(logits(1)), torch.zeros(6), labels)
    assert torch.allclose(value, F.cross_entropy(logits(1), labels))
    assert torch.equal(out, logits(1))


def test_the_two_losses_are_weighed_by_alpha():
    labels, student, teacher = torch.arange(6) % 5, Table(logits(1)), Table(logits(0))
    value, _ = distill.Distillation(teacher, 5.0, 0.7)(student, torch.zeros(6), labels)
    expected = 0.7 * distillation_loss(logits(1), logits(0), 5.0) + 0.3 * F.cross_entropy(logits(1), labels)
    assert torch.allclose(value, expected)
    value.backward()
    assert student.values.grad.any() and teacher.values.grad is None


@pytest.mark.parametrize("temperature", [0, -1.0, math.nan, math.inf])
def test_a_bad_temperature_is_named(temperature):
    with pytest.raises(ValueError, match=f"temperature={temperature}"):
        distill.Distillation(Table(logits(0)), temperature, 0.5)


@pytest.mark.parametrize("alpha", [-0.1, 1.1, math.nan])
def test_a_bad_alpha_is_named(alpha):
    with pytest.raises(ValueError, match=f"alpha={alpha}"):
        distill.Distillation(Table(logits(0)), 5.0, alpha)


def test_teacher_and_student_see_the_very_same_views(teacher_model, tiny, monkeypatch):
    seen = {"densenet": [], "convnet": []}

    def watch(module, inputs):
        if isinstance(module, (densenet.DenseNet, chains.ConvNet)):
            seen[type(module).__name__.lower()].append(inputs[0])

    with nn.modules.module.register_module_forward_pre_hook(watch):
        distill.apply(teacher_model, tiny, recipe=Recipe(epochs=1, batch_size=50), seed=0, **WIDTHS)
    assert len(seen["densenet"]) == 2  # steps
    students = seen["convnet"][:2]  # then comes the validation
    for by_teacher, by_student in zip(seen["densenet"], students, strict=True):
        assert by_teacher is by_student


def test_the_student_says_how_it_was_distilled(teacher_model, tiny):
    student = distill.apply(teacher_model, tiny, recipe=QUICK, seed=0, temperature=4.0, alpha=0.6, **WIDTHS)
    assert student.spec["name"] == "convnet"
    assert student.spec["args"] == {**tiny.model_args, **WIDTHS}
    assert student.spec["changes"] == [{"technique": "kd", "temperature": 4.0, "alpha": 0.6, "epochs": 2}]
    assert len(student.history) == 2 and not student.training


def test_a_student_learns_from_the_teacher_alone(teacher_model, digits):
    recipe = Recipe(epochs=8, lr=1e-2, batch_size=32, augmentation="none")
    student = distill.apply(
        teacher_model, digits, recipe=recipe, seed=0, alpha=1.0, widths=[8, 12, 16], hidden=[16, 12]
    )
    answers = [scoring.predict(model, digits.validation, digits).argmax(1) for model in (student, teacher_model)]
    assert (answers[0] == answers[1]).float().mean() > 0.3  # by chance 0.1


def test_the_same_seed_gives_the_same_student(teacher_model, tiny, same_tensors):
    made = [distill.apply(teacher_model, tiny, recipe=QUICK, seed=seed, **WIDTHS) for seed in (1, 1, 2)]
    assert same_tensors(made[0], made[1])
    assert not same_tensors(made[0], made[2])


def test_what_was_left_unfinished_is_finished(teacher_model, tiny, same_tensors, tmp_path, monkeypatch):
    monkeypatch.setattr(checkpoints, "SECONDS", 0.0)
    plain = distill.apply(teacher_model, tiny, recipe=QUICK, seed=0, **WIDTHS)
    for _ in range(2):
        stored = distill.apply(teacher_model, tiny, recipe=QUICK, seed=0, scratch=tmp_path, **WIDTHS)
        assert same_tensors(stored, plain)
    assert (tmp_path / "kd.safetensors").exists()


@pytest.mark.parametrize("other", [{"temperature": 2.0}, {"alpha": 0.0}, {"teacher": None}])
def test_what_was_left_by_other_arguments_is_not_used(teacher_model, tiny, same_tensors, tmp_path, monkeypatch, other):
    monkeypatch.setattr(checkpoints, "SECONDS", 0.0)
    options = {"recipe": QUICK, "seed": 0, **WIDTHS}
    distill.apply(teacher_model, tiny, scratch=tmp_path, **options)
    if "teacher" in other:
        source = networks_spec.create("densenet", 5, **teacher_model.spec["args"])
    else:
        source, options = teacher_model, options | other
    plain = distill.apply(source, tiny, **options)
    assert same_tensors(distill.apply(source, tiny, scratch=tmp_path, **options), plain)


VIEWS = Recipe(epochs=5, lr=5e-3, batch_size=50, views=2)


def looks(monkeypatch):
    """How many images a DenseNet has been shown, call by call."""
    calls, forward = [], densenet.DenseNet.forward
    monkeypatch.setattr(densenet.DenseNet, "forward", lambda self, x: calls.append(len(x)) or forward(self, x))
    return calls


def test_a_teacher_looks_once_at_each_view_for_all_students(teacher_model, tiny, tmp_path, monkeypatch, new_student):
    calls, students = looks(monkeypatch), []
    for folder in (tmp_path, tmp_path, None):
        loss = distill.Distillation(distill.TeacherCache(teacher_model, folder), 5.0, 0.7)
        for seed in (0, 1):
            students.append(new_student(seed))
            loop.fit(students[-1], tiny, VIEWS, seed=seed, loss=loss)
        assert sum(calls) == 2 * len(tiny.train) * (1 if folder else 2)
    assert len(list(tmp_path.iterdir())) == 2


def test_kept_answers_are_what_the_teacher_says_of_the_very_images(
    teacher_model, tiny, tmp_path, same_tensors, new_student
):
    students, teacher = [], teacher_model.eval()
    told = distill.Distillation(distill.TeacherCache(teacher, tmp_path), 5.0, 0.7)
    asked = distill.Distillation(distill.TeacherCache(teacher), 5.0, 0.7)
    for loss in (told, lambda model, images, labels: asked(model, images, labels)):  # which is not told what is shown
        students.append(new_student())
        loop.fit(students[-1], tiny, VIEWS, seed=3, loss=loss)
    for ours, theirs in zip(students[0].parameters(), students[1].parameters(), strict=True):
        assert torch.allclose(ours, theirs, atol=1e-4)
    assert not same_tensors(students[0], new_student())


@pytest.mark.parametrize("other", ["teacher", "split", "views", "augmentation"])
def test_answers_of_another_teacher_or_other_images_are_not_taken(teacher_model, tiny, tmp_path, other):
    teacher, shown = (
        distill.TeacherCache(teacher_model, tmp_path),
        dataclasses.replace(tiny, train=datasets.view(tiny, 0)),
    )
    first = teacher.answers(shown, 0)
    if other == "teacher":
        teacher = distill.TeacherCache(networks_spec.create("densenet", 5, **teacher_model.spec["args"]), tmp_path)
    shown = dataclasses.replace(shown, seed=9) if other == "split" else shown
    shown = dataclasses.replace(tiny, train=datasets.view(tiny, 1)) if other == "views" else shown
    if other == "augmentation":
        crops = tiny.cropped_only()
        shown = dataclasses.replace(crops, train=datasets.view(crops, 0))
    again = teacher.answers(shown, 1 if other == "views" else 0)
    assert torch.equal(again, scoring.predict(teacher.model, shown.train, shown))
    assert torch.equal(again, first) == (other == "split")


def test_damaged_answers_are_refused(teacher_model, tiny, tmp_path):
    distill.TeacherCache(teacher_model, tmp_path).answers(tiny, 0)
    (path,) = tmp_path.iterdir()
    path.write_bytes(path.read_bytes()[:-3])
    with pytest.raises(files.CheckpointError, match=path.name):
        distill.TeacherCache(teacher_model, tmp_path).answers(tiny, 0)


def test_a_file_of_answers_without_any_is_refused(teacher_model, tiny, tmp_path):
    teacher = distill.TeacherCache(teacher_model, tmp_path)
    teacher.answers(tiny, 0)
    (path,) = tmp_path.iterdir()
    _, about = files.read_tensors(path)
    files.write_tensors(path, {"others": torch.zeros(1)}, about)
    with pytest.raises(files.CheckpointError, match=f"{path}: others: expected logits"):
        distill.TeacherCache(teacher_model, tmp_path).answers(tiny, 0)


def test_a_committee_teaches_the_geometric_mean_of_its_members():
    tables = [Table(logits(seed)) for seed in range(3)]
    together = Committee(tables)
    probabilities = torch.stack([logits(seed).softmax(1) for seed in range(3)])
    expected = probabilities.log().mean(0).exp()
    assert torch.allclose(together(None).softmax(1), expected / expected.sum(1, keepdim=True), atol=1e-5)
    digests = {distill.TeacherCache(Committee(part)).digest for part in (tables, tables[:2], tables[1:])}
    assert len(digests) == 3  # the answers of one are not taken for those of another
    with pytest.raises(ValueError, match=r"members=.*at least one"):
        Committee([])


def test_the_student_of_the_stage_is_the_one_that_its_chapter_would_train_again(
    teacher_model, tiny, tmp_path, same_tensors
):
    how = {"recipe": dataclasses.replace(QUICK, views=2), "seed": 3}
    made = distill.apply(teacher_model, tiny, **how, **WIDTHS, views=tmp_path, scratch=tmp_path / "unfinished")
    again = networks_spec.create("convnet", 3, **made.spec["args"])
    loss = distill.Distillation(distill.TeacherCache(teacher_model, tmp_path), 5.0, 0.7)
    history = loop.fit(again, tiny, **how, loss=loss)
    assert same_tensors(made, again)
    assert [row["val_loss"] for row in history] == [row["val_loss"] for row in made.history]


@pytest.mark.parametrize("field", ["images", "labels"])
def test_answers_to_other_pictures_of_the_same_name_and_number_are_not_taken(teacher_model, tiny, tmp_path, field):
    changed = getattr(tiny.train, field).clone()
    changed.view(-1)[7] = (changed.view(-1)[7] + 1) % 10
    other = dataclasses.replace(tiny, train=dataclasses.replace(tiny.train, **{field: changed}))
    before = distill.TeacherCache(teacher_model, tmp_path).answers(tiny, 0)
    (file,) = tmp_path.iterdir()
    kept = file.read_bytes()
    for teacher in (distill.TeacherCache(teacher_model, tmp_path), distill.TeacherCache(teacher_model)):
        teacher.answers(tiny, 0)  # remembers them, too
        found = teacher.answers(other, 0)
        assert torch.equal(found, scoring.predict(teacher.model, other.train, other))
        assert torch.equal(found, before) == (field == "labels")
    assert file.read_bytes() != kept
