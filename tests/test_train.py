import dataclasses
import inspect
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from studylib.data import datasets, scoring, tasks
from studylib.data.datasets import Augmentation, Split
from studylib.disk import files, provenance
from studylib.disk.provenance import has_bfloat16
from studylib.experiments import teacher as measures
from studylib.experiments.moo_ways import Proximal
from studylib.experiments.teacher import Penalty
from studylib.networks import layers, spec
from studylib.techniques import distill, teacher
from studylib.training import checkpoint as checkpoints
from studylib.training import deadline, loop
from studylib.training.recipe import OPTIMIZERS, SCHEDULES, Recipe, optimizer_of
from studylib.training.step import Loss, Plain, Step

QUICK = Recipe(epochs=3, lr=5e-3, batch_size=32)
AUGMENTATIONS = ("all", "crops", "small_crops", "none")


def without_seconds(history):
    return [{k: v for k, v in row.items() if k != "seconds"} for row in history]


class Interrupted(Exception):
    pass


def interrupted_at(step: int, loss=tasks.cross_entropy):
    calls = iter(range(step))

    def interrupted(model, images, labels):
        if next(calls, None) is None:
            raise Interrupted
        return loss(model, images, labels)

    return interrupted


# --- scores ---------------------------------------------------------------------------------------------------


def test_a_network_without_weights_is_named(digits):
    with pytest.raises(ValueError, match="Flatten has no weights to train"):
        loop.fit(torch.nn.Flatten(), digits, Recipe(epochs=1), seed=0)


def test_scores_equal_hand_computed_values():
    probabilities = torch.tensor([[0.7, 0.2, 0.1], [0.05, 0.9, 0.05], [0.25, 0.15, 0.6], [0.2, 0.1, 0.7]])
    found = scoring.scores(probabilities.log(), torch.tensor([0, 1, 0, 2]))
    assert found["accuracy"] == 0.75
    assert found["nll"] == pytest.approx(-math.log(0.7 * 0.9 * 0.25 * 0.7) / 4, rel=1e-6)
    # bins of 1/15: the two of 0.7 together (both right), 0.9 alone (right), 0.6 alone (wrong)
    assert found["ece"] == pytest.approx((0.6 + 0.1 + 0.6) / 4, rel=1e-5)


def test_calibration_error_weighs_opposite_errors_in_one_bin_together():
    probabilities = torch.tensor([[0.75, 0.25]] * 4)
    assert scoring.scores(probabilities.log(), torch.tensor([0, 0, 0, 1]))["ece"] == pytest.approx(0, abs=1e-6)
    assert scoring.scores(probabilities.log(), torch.tensor([0, 0, 1, 1]))["ece"] == pytest.approx(0.25, abs=1e-6)


def test_confidence_of_one_falls_into_the_last_bin():
    logits = torch.tensor([[100.0, 0.0], [0.0, 100.0]])
    assert scoring.scores(logits, torch.tensor([0, 1])) == pytest.approx({"accuracy": 1, "nll": 0, "ece": 0})
    assert scoring.scores(logits, torch.tensor([1, 1]))["ece"] == pytest.approx(0.5)


def test_predict_does_not_depend_on_the_batch_size(student_model, digits):
    student_model.train()
    whole = scoring.predict(student_model, digits.validation, digits)
    assert whole.shape == (200, 10) and whole.dtype == torch.float32 and not whole.requires_grad
    assert not student_model.training
    assert torch.allclose(scoring.predict(student_model, digits.validation, digits, 7), whole, atol=1e-4)


def test_accuracy_is_the_share_of_right_answers(student_model, digits):
    answers = scoring.predict(student_model, digits.validation, digits).argmax(1)
    right = Split(digits.validation.images, answers)
    assert scoring.accuracy(student_model, right, digits) == 1.0
    half = torch.where(torch.arange(200) < 100, answers, (answers + 1) % 10)
    assert scoring.accuracy(student_model, Split(right.images, half), digits) == 0.5


def test_logits_that_are_no_numbers_are_scored_not_refused():
    found = scoring.scores(torch.full((4, 3), math.nan), torch.tensor([0, 1, 2, 0]))
    assert 0 <= found["accuracy"] <= 0.5 and math.isnan(found["nll"])


# --- recipe and set-up ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "wrong",
    [
        {"epochs": -1},
        {"lr": 0.0},
        {"lr": math.nan},
        {"min_lr": 1.0},
        {"min_lr": -1e-9},
        {"batch_size": 1},
        {"weight_decay": -0.1},
        {"optimizer": "sdg"},
        {"schedule": "cosin"},
        {"label_smoothing": 1.0},
        {"ema": 1.0},
        {"ema": -0.1},
        {"augmentation": "crop"},
        {"augmentation": "none", "views": 2},
    ],
)
def test_a_bad_recipe_names_its_field(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        Recipe(**wrong)


def test_the_default_recipe_is_the_papers():
    assert Recipe() == Recipe(epochs=100, lr=1e-3, min_lr=1e-7, batch_size=128, weight_decay=0.0)


def test_set_up_rejects_unknown_and_missing_devices(monkeypatch):
    with pytest.raises(ValueError, match="tpu"):
        loop.set_up(device="tpu")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ValueError, match="cuda"):
        loop.set_up(device="cuda")
    assert loop.set_up(device="auto") == torch.device("cpu")


def test_set_up_hands_torch_its_threads():
    before = torch.get_num_threads()
    try:
        for wanted in (before + 1, before + 2):
            loop.set_up(wanted, "cpu")
            assert torch.get_num_threads() == wanted
        loop.set_up(0, "cpu")
        assert torch.get_num_threads() == before + 2
    finally:
        torch.set_num_threads(before)
    assert torch.are_deterministic_algorithms_enabled()


# --- fit ------------------------------------------------------------------------------------------------------


def test_the_loop_fits_on_a_page():
    source = inspect.getsource(loop.fit)
    after_docstring = source.rpartition('"""')[2]
    assert 0 < len(after_docstring.strip().splitlines()) <= 60


def test_a_loss_is_told_of_each_view_and_which_of_its_images_a_batch_has(new_student, tiny):
    told, batches = [], []

    class Watching(Loss):
        def show(self, shown, number):
            told.append((shown, number))

        def __call__(self, model, images, labels, chosen=None):
            batches.append(chosen)
            if chosen is not None:
                assert torch.equal(images, tiny.normalize(told[-1][0].train.images[chosen]))
                assert torch.equal(labels, tiny.train.labels[chosen])
            return tasks.cross_entropy(model, images, labels)

    loop.fit(new_student(), tiny, dataclasses.replace(QUICK, views=2), seed=0, loss=Watching())
    assert [number for _, number in told] == [0, 1, 0] and torch.cat(batches).unique().numel() == len(tiny.train)
    told.clear()
    batches.clear()
    loop.fit(new_student(), tiny, QUICK, seed=0, loss=Watching())
    assert not told and set(batches) == {None}


def test_history_has_a_row_an_epoch(new_student, tiny):
    history = loop.fit(new_student(), tiny, QUICK, seed=0)
    columns = "epoch lr train_loss train_accuracy val_loss val_accuracy seconds best"
    assert [set(row) for row in history] == [set(columns.split())] * 3
    assert [row["epoch"] for row in history] == [1, 2, 3]
    assert history[0]["best"]
    assert history[-1]["train_loss"] < history[0]["train_loss"]


def test_the_same_seed_gives_the_same_weights_bit_for_bit(new_student, tiny, same_tensors):
    models_, histories = [new_student() for _ in range(3)], []
    for model, seed in zip(models_, (5, 5, 6), strict=True):
        histories.append(loop.fit(model, tiny, QUICK, seed=seed))
    assert same_tensors(models_[0], models_[1])
    assert without_seconds(histories[0]) == without_seconds(histories[1])
    assert not same_tensors(models_[0], models_[2])


def test_training_does_not_depend_on_the_global_generator(new_student, tiny, same_tensors):
    first, second = new_student(), new_student()
    loop.fit(first, tiny, QUICK, seed=5)
    torch.rand(7)
    loop.fit(second, tiny, QUICK, seed=5)
    assert same_tensors(first, second)


def test_each_epoch_has_an_order_and_views_of_its_own(new_student, tiny):
    first = []

    def seen(model, images, labels):
        first.append(images)
        return tasks.cross_entropy(model, images, labels)

    recipe = dataclasses.replace(QUICK, batch_size=100)
    for augmentation in AUGMENTATIONS:
        first.clear()
        loop.fit(new_student(), tiny, dataclasses.replace(recipe, augmentation=augmentation), seed=0, loss=seen)
        assert len(first) == 3 and not torch.equal(first[0], first[1]) and not torch.equal(first[1], first[2])


def test_crops_are_exact_pixels_of_the_images_and_all_that_the_data_set_has_are_not(new_student, tiny):
    shown = {}
    for augmentation in AUGMENTATIONS:
        seen = shown.setdefault(augmentation, [])

        def looked(model, images, labels, seen=seen):
            seen.append(images)
            return tasks.cross_entropy(model, images, labels)

        recipe = dataclasses.replace(QUICK, epochs=1, augmentation=augmentation)
        loop.fit(new_student(), tiny, recipe, seed=0, loss=looked)
    pixels = {name: (tiny.std * 255 * torch.cat(images) + 255 * tiny.mean) for name, images in shown.items()}
    off_grid = {name: (x - x.round()).abs().max() for name, x in pixels.items()}
    assert off_grid["none"] < 1e-3 and off_grid["crops"] < 1e-3 < 0.1 < off_grid["all"]
    assert not torch.equal(pixels["none"].flatten(1).sum(1).sort()[0], pixels["crops"].flatten(1).sum(1).sort()[0])
    assert off_grid["small_crops"] < 1e-3


def test_small_crops_shift_by_half_as_much():
    tiny = datasets.load("digits", 0)
    four = dataclasses.replace(tiny, augmentation=datasets.SOURCES["cifar10"].augmentation)
    assert four.cropped_only().augmentation == datasets.Augmentation(padding=4, flip=True)
    assert four.cropped_only(small=True).augmentation == datasets.Augmentation(padding=2, flip=True)
    assert tiny.cropped_only(small=True).augmentation == datasets.Augmentation(padding=1)


def test_the_last_epoch_is_kept_where_that_is_asked_for(new_student, tiny, same_tensors, tmp_path):
    recipe = dataclasses.replace(QUICK, lr=0.05, min_lr=0.05, epochs=6)
    runs = {keep: new_student() for keep in ("best", "last")}
    rows = {keep: loop.fit(model, tiny, recipe, seed=0, keep=keep) for keep, model in runs.items()}
    assert not rows["best"][-1]["best"]  # else the two are the same and this shows nothing
    assert not same_tensors(runs["best"], runs["last"])
    assert scoring.accuracy(runs["last"], tiny.validation, tiny) == rows["last"][-1]["val_accuracy"]
    file = tmp_path / "checkpoint.safetensors"
    loop.fit(new_student(), tiny, recipe, seed=0, checkpoint=file)
    again = new_student()
    loop.fit(again, tiny, recipe, seed=0, checkpoint=file, keep="last")  # a checkpoint of the other is not used
    assert same_tensors(again, runs["last"])
    with pytest.raises(ValueError, match="keep='first'"):
        loop.fit(new_student(), tiny, recipe, seed=0, keep="first")


def test_the_best_validation_epoch_is_kept(new_student, tiny):
    steps = 0

    def spoilt_after_two_epochs(model, images, labels):
        nonlocal steps
        steps += 1
        value, logits = tasks.cross_entropy(model, images, labels)
        return (value if steps <= 8 else -value), logits

    model = new_student()
    recipe = dataclasses.replace(QUICK, epochs=4, augmentation="none")
    history = loop.fit(model, tiny, recipe, seed=0, loss=spoilt_after_two_epochs)
    kept = [row for row in history if row["best"]][-1]
    assert kept["epoch"] < 4
    assert (kept["val_accuracy"], -kept["val_loss"]) == max((r["val_accuracy"], -r["val_loss"]) for r in history)
    found = scoring.scores(scoring.predict(model, tiny.validation, tiny), tiny.validation.labels)
    assert (found["accuracy"], found["nll"]) == (kept["val_accuracy"], kept["val_loss"])
    assert not model.training


def test_the_learning_rate_follows_the_cosine(new_student, tiny):
    recipe = Recipe(epochs=5, lr=1e-2, min_lr=1e-4, batch_size=100, augmentation="none")
    rates = [row["lr"] for row in loop.fit(new_student(), tiny, recipe, seed=0)]
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1e-2)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=5, eta_min=1e-4)
    expected = []
    for _ in range(5):
        expected.append(scheduler.get_last_lr()[0])
        optimizer.step()
        scheduler.step()
    assert rates[0] == 1e-2 and rates == pytest.approx(expected)
    assert scheduler.get_last_lr()[0] == pytest.approx(1e-4)  # where the next epoch would be


@given(st.integers(1, 40), st.floats(0, 1), st.sampled_from(sorted(SCHEDULES)))
def test_the_learning_rate_stays_between_its_ends(epochs, share, schedule):
    recipe = Recipe(epochs=epochs, lr=0.3, min_lr=1e-3, schedule=schedule)
    assert 1e-3 * (1 - 1e-9) <= recipe.rate(share * epochs) <= 0.3 * (1 + 1e-9)
    assert recipe.rate(epochs) == pytest.approx(1e-3)


def test_one_cycle_is_torchs_own(new_student, tiny):
    recipe, seen = Recipe(epochs=8, lr=0.2, min_lr=0.0, batch_size=50, augmentation="none", schedule="one_cycle"), []

    class Watched(Step):
        def after(self, model, lr):
            seen.append(lr)

    loop.fit(new_student(), tiny, recipe, seed=0, step=Watched())
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    steps = {"total_steps": len(seen) + 1, "pct_start": (len(seen) / 4 + 1) / (len(seen) + 1)}  # torch counts from 1
    scheduler = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, 0.2, anneal_strategy="linear", div_factor=25, final_div_factor=1e9, cycle_momentum=False, **steps
    )
    expected = []
    for _ in seen:
        expected.append(scheduler.get_last_lr()[0])
        optimizer.step()
        scheduler.step()
    assert len(seen) == 8 * math.ceil(len(tiny.train) / 50)
    assert seen == pytest.approx(expected, abs=1e-6)
    assert max(seen) == pytest.approx(0.2)


@pytest.mark.parametrize("name, torchs", [("adamw", "AdamW"), ("sgd", "SGD"), ("adam", "Adam")])
def test_optimizers_are_torchs(name, torchs):
    optimizer = OPTIMIZERS[name]([torch.zeros(1, requires_grad=True)], lr=0.1, weight_decay=0.3)
    assert type(optimizer).__name__ == torchs
    assert optimizer.defaults["weight_decay"] == 0.3
    assert name != "sgd" or (optimizer.defaults["momentum"], optimizer.defaults["nesterov"]) == (0.9, True)


def test_biases_of_batch_norm_can_take_larger_steps(new_student, tiny):
    model, recipe = new_student(), dataclasses.replace(QUICK, optimizer="sgd_biases", weight_decay=0.1, lr=0.2)
    rest, biases = optimizer_of(model, recipe).param_groups
    assert [p.shape for p in biases["params"]] == [
        m.bias.shape for m in model.modules() if isinstance(m, torch.nn.BatchNorm2d)
    ]
    assert len(rest["params"]) + len(biases["params"]) == len(list(model.parameters()))
    assert (biases["times"], rest["times"]) == (64, 1)
    assert biases["weight_decay"] == pytest.approx(rest["weight_decay"] / 64)
    (plain,) = optimizer_of(model, dataclasses.replace(recipe, optimizer="sgd")).param_groups
    assert plain["times"] == 1 and plain["momentum"] == rest["momentum"] == biases["momentum"] == 0.9

    def step(optimizer):
        one_step = dataclasses.replace(recipe, optimizer=optimizer, epochs=1, batch_size=len(tiny.train), min_lr=0.0)
        net = new_student()
        before = {name: p.detach().clone() for name, p in net.named_parameters()}
        loop.fit(net, tiny, dataclasses.replace(one_step, weight_decay=0.0), seed=0)
        return {name: p.detach() - before[name] for name, p in net.named_parameters()}

    slow, fast = step("sgd"), step("sgd_biases")
    for name in slow:
        times = 64 if name.endswith("norm.bias") else 1
        assert torch.allclose(fast[name], times * slow[name], rtol=1e-3, atol=1e-6), name


def test_smoothed_labels_are_what_cross_entropy_with_mixed_targets_gives(new_student, tiny):
    model = new_student().eval()
    images, labels = tiny.normalize(tiny.train.images[:20]), tiny.train.labels[:20]
    value, logits = tasks.cross_entropy(model, images, labels, 0.2)
    targets = 0.8 * torch.nn.functional.one_hot(labels, 10) + 0.02
    assert torch.allclose(value, -(targets * logits.log_softmax(1)).sum(1).mean(), atol=1e-6)
    plain, smoothed = (
        loop.fit(new_student(), tiny, dataclasses.replace(QUICK, label_smoothing=s), seed=0)[0] for s in (0.0, 0.2)
    )
    assert plain["train_loss"] != smoothed["train_loss"]


def test_labels_are_not_smoothed_beside_another_loss(new_student, tiny):
    recipe = dataclasses.replace(QUICK, label_smoothing=0.1)
    for other in ({"loss": tasks.cross_entropy}, {"step": Step()}):
        with pytest.raises(ValueError, match=r"label_smoothing=0\.1"):
            loop.fit(new_student(), tiny, recipe, seed=0, **other)


def test_the_average_is_kept_and_is_of_the_weights_along_the_way(new_student, tiny):
    recipe, states = dataclasses.replace(QUICK, ema=0.7), []

    class Watched(Step):
        def after(self, model, lr):
            states.append({name: value.clone() for name, value in model.state_dict().items()})

    averaged, plain = new_student(), new_student()
    states.append({name: value.clone() for name, value in averaged.state_dict().items()})
    loop.fit(averaged, tiny, recipe, seed=0, step=Watched(), keep="last")
    loop.fit(plain, tiny, dataclasses.replace(recipe, ema=0.0), seed=0, keep="last")
    expected = states[0]
    for k, state in enumerate(states[1:]):
        decay = min(0.7, (k + 1) / (k + 10))
        for name, value in state.items():
            expected[name] = decay * expected[name] + (1 - decay) * value if value.is_floating_point() else value
    for name, value in averaged.state_dict().items():
        assert torch.allclose(value, expected[name], atol=1e-5), name
        assert value.is_floating_point() == (not torch.equal(value, plain.state_dict()[name])), name


def test_masked_weights_are_zero_in_the_average(new_student, tiny):
    model = new_student()
    masks = {"fc1.weight": torch.rand_like(model.fc1.weight) > 0.5}
    loop.fit(model, tiny, dataclasses.replace(QUICK, ema=0.9), seed=0, masks=masks)
    assert not model.fc1.weight[~masks["fc1.weight"]].any()


def test_a_target_ends_training_early(new_student, tiny):
    assert len(loop.fit(new_student(), tiny, QUICK, seed=0, target=0.0)) == 1
    assert len(loop.fit(new_student(), tiny, QUICK, seed=0, target=1.1)) == 3


def test_no_epochs_leave_the_model_as_it_is(new_student, tiny, same_tensors):
    model = new_student()
    assert loop.fit(model, tiny, Recipe(epochs=0), seed=0) == []
    assert same_tensors(model, new_student()) and not model.training


def test_masked_weights_stay_exactly_zero(new_student, tiny):
    model = new_student()
    masks = {f"{n}.weight": torch.rand_like(m.weight) > 0.5 for n, m in layers.weight_layers(model).items()}
    loop.fit(model, tiny, QUICK, seed=0, masks=masks)
    for name, mask in masks.items():
        weight = model.get_parameter(name)
        assert not weight[~mask].any() and weight[mask].any(), name


def test_bfloat16_training_keeps_float32_weights(new_student, tiny, bfloat16, same_tensors):
    model, plain = new_student(), new_student()
    history = loop.fit(model, tiny, dataclasses.replace(QUICK, amp=True), seed=0)
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    assert history[-1]["train_loss"] < history[0]["train_loss"]
    loop.fit(plain, tiny, QUICK, seed=0)
    assert not same_tensors(model, plain)


def test_where_bfloat16_is_emulated_training_is_in_float32_and_says_so(
    new_student, tiny, monkeypatch, caplog, same_tensors
):
    monkeypatch.setattr(provenance, "has_bfloat16", lambda device: False)
    model, plain = new_student(), new_student()
    loop.fit(model, tiny, dataclasses.replace(QUICK, amp=True), seed=0)
    assert "has no bfloat16" in caplog.text
    loop.fit(plain, tiny, QUICK, seed=0)
    assert same_tensors(model, plain)


def test_a_training_begun_in_bfloat16_goes_on_where_there_is_none(new_student, tiny, monkeypatch, tmp_path, bfloat16):
    recipe, options = dataclasses.replace(QUICK, amp=True), {"seed": 0, "checkpoint": tmp_path / "x.safetensors"}
    left = iter([9.0, 1e-9])
    with monkeypatch.context() as patch:
        patch.setattr(deadline, "left", lambda: next(left))
        with pytest.raises(deadline.Paused):
            loop.fit(new_student(), tiny, recipe, **options)
    monkeypatch.setattr(provenance, "has_bfloat16", lambda device: False)
    steps = []

    def counted(model, images, labels):
        steps.append(1)
        return tasks.cross_entropy(model, images, labels)

    assert len(loop.fit(new_student(), tiny, recipe, loss=counted, **options)) == 3
    assert len(steps) == 2 * math.ceil(len(tiny.train) / recipe.batch_size)


def test_a_gpu_is_always_asked_for_bfloat16():
    assert has_bfloat16(torch.device("cuda"))
    assert isinstance(has_bfloat16(torch.device("cpu")), bool)


def test_a_loss_that_is_not_finite_is_an_error(new_student, tiny):
    def broken(model, images, labels):
        value, logits = tasks.cross_entropy(model, images, labels)
        return value * math.nan, logits

    with pytest.raises(FloatingPointError, match=r"epoch 1.*nan"):
        loop.fit(new_student(), tiny, QUICK, seed=0, loss=broken)


def test_a_network_that_has_run_away_is_an_error(new_student, tiny):
    with pytest.raises(FloatingPointError, match=r"epoch \d"):
        loop.fit(new_student(), tiny, dataclasses.replace(QUICK, lr=1e3, optimizer="sgd"), seed=0)


# --- checkpoints ----------------------------------------------------------------------------------------------


ADAMW = {"schedule": "one_cycle", "weight_decay": 1e-3, "optimizer": "adamw"}
SGD = ADAMW | {"optimizer": "sgd", "ema": 0.9}


@pytest.mark.parametrize("masked, changes", [(False, {}), (True, {}), (True, SGD), (False, ADAMW)])
def test_an_interrupted_training_ends_as_if_it_had_not_been(
    new_student, tiny, same_tensors, tmp_path, monkeypatch, masked, changes
):
    monkeypatch.setattr(checkpoints, "SECONDS", 0.0)
    checkpoint, recipe = tmp_path / "unfinished" / "x.safetensors", dataclasses.replace(QUICK, epochs=4, **changes)
    masks = {"fc1.weight": new_student().fc1.weight > 0} if masked else None
    undisturbed = new_student()
    history = loop.fit(undisturbed, tiny, recipe, seed=3, masks=masks)
    options = {"seed": 3, "masks": masks, "checkpoint": checkpoint}
    with pytest.raises(Interrupted):  # 4 steps an epoch: in the middle of the third
        loop.fit(new_student(), tiny, recipe, loss=interrupted_at(10), **options)
    assert len(files.read_tensors(checkpoint)[1]["history"]) == 2
    resumed, steps = new_student(), []

    def counted(*args):
        steps.append(1)
        return tasks.cross_entropy(*args)

    resumed_history = loop.fit(resumed, tiny, recipe, loss=counted, **options)
    assert len(steps) == 8  # the two epochs that were left
    assert same_tensors(resumed, undisturbed)
    assert without_seconds(resumed_history) == without_seconds(history)


def test_a_training_whose_time_is_up_stops_after_an_epoch_and_goes_on_later(
    new_student, tiny, same_tensors, tmp_path, monkeypatch
):
    recipe, undisturbed = dataclasses.replace(QUICK, epochs=3, ema=0.9), new_student()
    history = loop.fit(undisturbed, tiny, recipe, seed=0)
    options = {"seed": 0, "checkpoint": tmp_path / "x.safetensors"}
    for done in (1, 2):
        left = iter([9.0, 1e-9])  # enough for one epoch, not for another
        monkeypatch.setattr(deadline, "left", lambda left=left: next(left))
        with pytest.raises(deadline.Paused, match=f"epoch {done} of 3"):
            loop.fit(new_student(), tiny, recipe, **options)
    monkeypatch.undo()
    resumed = new_student()
    assert without_seconds(loop.fit(resumed, tiny, recipe, **options)) == without_seconds(history)
    assert same_tensors(resumed, undisturbed)


def test_no_time_at_all_trains_nothing(new_student, tiny, same_tensors, monkeypatch, tmp_path):
    monkeypatch.setenv("STUDY_STOP_AT", "1")
    model = new_student()
    with pytest.raises(deadline.Paused, match="epoch 0 of 3"):
        loop.fit(model, tiny, QUICK, seed=0)
    assert same_tensors(model, new_student())
    monkeypatch.delenv("STUDY_STOP_AT")
    monkeypatch.setenv("STUDY_STOP_FILE", str(tmp_path / "stop"))
    assert deadline.left() > 0
    (tmp_path / "stop").touch()
    with pytest.raises(deadline.Paused, match="epoch 0 of 3"):
        loop.fit(model, tiny, QUICK, seed=0)
    monkeypatch.delenv("STUDY_STOP_FILE")
    monkeypatch.setenv("STUDY_STOP_AT", "soon")
    with pytest.raises(ValueError, match="STUDY_STOP_AT='soon'"):
        loop.fit(model, tiny, QUICK, seed=0)


def test_a_finished_training_is_not_done_again(new_student, tiny, same_tensors, tmp_path):
    options = {"seed": 0, "checkpoint": tmp_path / "x.safetensors"}
    first, second = new_student(), new_student()
    history = loop.fit(first, tiny, QUICK, **options)
    assert loop.fit(second, tiny, QUICK, loss=interrupted_at(0), **options) == history
    assert same_tensors(first, second)


@pytest.mark.parametrize(
    "other",
    [{"seed": 1}, {"recipe": dataclasses.replace(QUICK, lr=1e-3)}, {"target": 0.99}, {"start": 1}, {"mask": True}],
    ids=["seed", "recipe", "target", "weights", "masks"],
)
def test_a_checkpoint_of_other_arguments_is_not_used(new_student, tiny, same_tensors, tmp_path, other):
    checkpoint = tmp_path / "x.safetensors"
    loop.fit(new_student(), tiny, QUICK, seed=0, checkpoint=checkpoint)
    recipe = other.get("recipe", QUICK)
    masks = {"fc1.weight": torch.arange(16) % 2 == 0} if "mask" in other else None
    options = {"seed": other.get("seed", 0), "target": other.get("target"), "masks": masks}
    plain, offered = new_student(other.get("start", 0)), new_student(other.get("start", 0))
    loop.fit(plain, tiny, recipe, **options)
    loop.fit(offered, tiny, recipe, checkpoint=checkpoint, **options)
    assert same_tensors(plain, offered)
    assert not same_tensors(offered, new_student(other.get("start", 0)))


def test_a_damaged_checkpoint_is_named(new_student, tiny, tmp_path):
    checkpoint = tmp_path / "x.safetensors"
    loop.fit(new_student(), tiny, Recipe(epochs=1), seed=0, checkpoint=checkpoint)
    checkpoint.write_bytes(checkpoint.read_bytes()[:-10])
    with pytest.raises(files.CheckpointError, match=str(checkpoint)):
        loop.fit(new_student(), tiny, Recipe(epochs=1), seed=0, checkpoint=checkpoint)


# --- teacher --------------------------------------------------------------------------------------------------


def test_the_teacher_is_a_densenet_that_learns(teacher_model, digits):
    args = teacher_model.spec["args"]
    assert teacher_model.spec["name"] == "densenet" and (args["depth"], args["growth"]) == (7, 8)
    assert teacher_model.spec["changes"] == [{"technique": "teacher", "epochs": 4}]
    assert len(teacher_model.history) == 4
    accuracy = scoring.accuracy(teacher_model, digits.validation, digits)
    assert accuracy == max(row["val_accuracy"] for row in teacher_model.history)
    assert accuracy > 0.5  # by chance 0.1


@pytest.mark.parametrize("name", ["vgg", "whitened"])
def test_another_network_can_be_the_teacher(tiny, name):
    model = teacher.apply(tiny, depth=teacher.Network.depth, name=f"{name} 4", recipe=Recipe(epochs=0), seed=0)
    assert model.spec["name"] == name and model.spec["args"] == {"width": 4, **tiny.model_args}
    assert len(layers.weight_layers(model)) == 8
    drawn = spec.create(name, 0, **model.spec["args"])
    stem = torch.equal(model.features[0].conv.weight, drawn.features[0].conv.weight)
    assert stem == (name == "vgg")  # the other's has seen images


def test_a_teacher_with_a_penalty_is_that_of_the_last_epoch_and_says_so(tiny, monkeypatch):
    step, kept, fit = Penalty("l1", tau=0.2).step(QUICK), [], loop.fit
    monkeypatch.setattr(loop, "fit", lambda *a, **k: kept.append(k["keep"]) or fit(*a, **k))
    model = teacher.apply(tiny, depth=7, growth=4, recipe=QUICK, seed=0, step=step)
    plain = teacher.apply(tiny, depth=7, growth=4, recipe=QUICK, seed=0)
    assert kept == ["last", "best"] and "value_l1" in model.history[0] and "value_l1" not in plain.history[0]
    assert model.spec["changes"][0]["descends"] == "cross_entropy, l1 by PCD"


def test_the_weights_of_every_epoch_are_those_that_a_watch_would_have_seen(tiny, tmp_path, same_tensors):
    def watch(model):
        return {"test_accuracy": scoring.accuracy(model, tiny.test, tiny)}

    how = {"depth": 7, "growth": 4, "recipe": dataclasses.replace(QUICK, ema=0.9), "seed": 0}
    model = teacher.apply(tiny, **how, every_epoch=tmp_path)
    plain = teacher.apply(tiny, **how)
    again = spec.create("densenet", 0, **model.spec["args"])
    watched = loop.fit(again, tiny, how["recipe"], seed=0, watch=watch)
    rows = measures.look_again(model, tmp_path, watch)
    assert len(rows) == QUICK.epochs and len({row["weights"] for row in rows}) == QUICK.epochs
    digests = [{"weights": row["weights"]} for row in rows]
    seen = [row | digest for row, digest in zip(without_seconds(watched), digests, strict=True)]
    assert without_seconds(rows) == seen
    assert same_tensors(model, plain) and same_tensors(model, again)  # neither leaving nor looking changed anything


def test_weights_of_epochs_that_are_not_there_are_not_taken_from_elsewhere(tiny, tmp_path, monkeypatch):
    model = teacher.apply(tiny, depth=7, growth=4, recipe=QUICK, seed=0, every_epoch=tmp_path / "a")
    with pytest.raises(files.CheckpointError, match="no such file"):
        measures.look_again(model, tmp_path / "b", lambda _: {})
    plain = teacher.apply(tiny, depth=7, growth=4, recipe=QUICK, seed=0)
    with pytest.raises(ValueError, match="epoch 1: its weights were not left"):
        measures.look_again(plain, tmp_path / "a", lambda _: {})
    monkeypatch.setattr(teacher, "MOST_LEFT", 1000)  # bytes
    large = teacher.apply(tiny, depth=7, growth=4, recipe=QUICK, seed=0, every_epoch=tmp_path / "c")
    assert "weights" not in large.history[0] and not (tmp_path / "c").exists()
    first, second = (tmp_path / "a" / f"{row['weights']}.safetensors" for row in model.history[:2])
    kept = first.read_bytes()
    for wrong in (second.read_bytes(), kept[:-1] + bytes([kept[-1] ^ 1])):
        first.write_bytes(wrong)
        with pytest.raises(files.CheckpointError, match="not the weights after epoch 1; delete"):
            measures.look_again(model, tmp_path / "a", lambda _: {})
    files.write_tensors(first, {"another": torch.zeros(1)})
    with pytest.raises(files.CheckpointError, match="not the weights after epoch 1"):
        measures.look_again(model, tmp_path / "a", lambda _: {})


def test_weights_that_no_history_names_do_not_stay(tiny, tmp_path, monkeypatch):
    def made(**how):
        return teacher.apply(tiny, depth=7, growth=4, recipe=QUICK, every_epoch=tmp_path, **how)

    first = made(seed=0)
    (tmp_path / ".half.safetensors.tmp").write_bytes(b"of a process that was killed as it wrote")
    second = made(seed=1)
    named = {f"{row['weights']}.safetensors" for row in second.history}
    assert {path.name for path in tmp_path.iterdir()} == named
    assert not named & {f"{row['weights']}.safetensors" for row in first.history}
    assert len(measures.look_again(second, tmp_path, lambda _: {})) == QUICK.epochs
    monkeypatch.setattr(teacher, "MOST_LEFT", 1000)  # bytes: the next leaves none, and none of the last is its own
    assert "weights" not in made(seed=2).history[0] and not list(tmp_path.iterdir())


def test_an_interrupted_teacher_goes_on_from_its_scratch_folder(tiny, tmp_path, monkeypatch, same_tensors):
    def make(scratch=None):
        return teacher.apply(tiny, depth=7, growth=4, recipe=QUICK, seed=0, scratch=scratch)

    fit = loop.fit

    def interrupted(*args, **options):
        return fit(*args, **options, loss=interrupted_at(6))

    monkeypatch.setattr(checkpoints, "SECONDS", 0.0)
    monkeypatch.setattr(loop, "fit", interrupted)
    with pytest.raises(Interrupted):
        make(tmp_path)
    monkeypatch.setattr(loop, "fit", fit)
    assert (tmp_path / "teacher.safetensors").exists()
    assert same_tensors(make(tmp_path), make())


# --- watching, classes, reliability -----------------------------------------------------------------------------


def test_what_is_watched_is_recorded_and_decides_nothing(new_student, tiny, same_tensors):
    plain, watched = new_student(), new_student()
    recipe = Recipe(epochs=3, lr=5e-3, batch_size=50)
    rows = loop.fit(plain, tiny, recipe, seed=0)
    seen = loop.fit(watched, tiny, recipe, seed=0, watch=lambda m: {"test": scoring.accuracy(m, tiny.test, tiny)})
    assert same_tensors(plain, watched) and [r["best"] for r in rows] == [r["best"] for r in seen]
    kept = [r for r in seen if r["best"]][-1]
    assert kept["test"] == scoring.accuracy(watched, tiny.test, tiny)


def test_accuracy_of_each_class():
    logits = torch.eye(3)[[0, 0, 1, 2, 1]]
    found = scoring.class_accuracy(logits, torch.tensor([0, 1, 1, 1, 0]), 3)
    assert found[:2] == pytest.approx([1 / 2, 1 / 3]) and math.isnan(found[2])


@given(seed=st.integers(0, 99), count=st.integers(1, 60))
def test_reliability_holds_every_image_and_gives_the_calibration_error(seed, count):
    draw = torch.Generator().manual_seed(seed)
    logits, labels = 3 * torch.randn(count, 4, generator=draw), torch.randint(0, 4, (count,), generator=draw)
    rows = measures.reliability(logits, labels)
    assert sum(row["images"] for row in rows) == count
    gap = sum(row["images"] * abs(row["accuracy"] - row["confidence"]) for row in rows) / count
    assert gap == pytest.approx(scoring.scores(logits, labels)["ece"], abs=1e-9)


# --- what a checkpoint belongs to -------------------------------------------------------------------------------


def one_changed(data, part, field):
    split = getattr(data, part)
    tensor = getattr(split, field).clone()
    tensor.view(-1)[5] = (tensor.view(-1)[5] + 1) % 10
    return dataclasses.replace(data, **{part: dataclasses.replace(split, **{field: tensor})})


def taught(temperature, seed=0):
    network = spec.create("convnet", seed, in_channels=1, image_size=8)
    return distill.Distillation(distill.TeacherCache(network), temperature, 0.5)


MASK = torch.arange(16 * 16).view(16, 16) % 2 == 0
ONE_BIT = MASK.clone().index_put_((torch.tensor(3), torch.tensor(4)), ~MASK[3, 4])
FULL = {"masks": {"fc1.weight": MASK}, "loss": taught(2.0), "keep": "best", "recipe": QUICK}
OTHERS = {
    "no masks": {"masks": None},
    "one bit of a mask": {"masks": {"fc1.weight": ONE_BIT}},
    "the mask of another layer": {"masks": {"fc2.weight": MASK[:12]}},
    "temperature": {"loss": taught(4.0)},
    "teacher": {"loss": taught(2.0, seed=1)},
    "labels alone": {"loss": None},
    "a loss that says what it is": {"loss": Plain(tasks.cross_entropy, "another")},
    "keep": {"keep": "last"},
    "step": {"step": Proximal(1e-2)},
    "views": {"recipe": dataclasses.replace(QUICK, views=2)},
    "watch": {"watch": lambda model: {"seen": 1}},
    "augmentation": {"data": lambda d: dataclasses.replace(d, augmentation=Augmentation(padding=2))},
    "scaling": {"data": lambda d: dataclasses.replace(d, std=d.std * 1.5)},
    **{
        f"{part} {field}": {"data": lambda d, part=part, field=field: one_changed(d, part, field)}
        for part in ("train", "validation", "test")
        for field in ("images", "labels")
    },
}


@pytest.fixture
def taken(new_student, tiny, tmp_path, monkeypatch):
    """Whether a training with other arguments goes on from the checkpoint of one with those of FULL."""

    def call(**changes):
        given = {**FULL, **changes}
        data = given.pop("data", lambda d: d)(tiny)
        model = new_student()
        history = loop.fit(model, data, given.pop("recipe"), seed=0, checkpoint=tmp_path / "x.safetensors", **given)
        return model, history

    call()
    trained = []
    epoch = loop._epoch
    monkeypatch.setattr(loop, "_epoch", lambda *a, **k: trained.append(1) or epoch(*a, **k))

    def taken(**changes):
        trained.clear()
        return call(**changes), not trained

    return taken


def test_the_checkpoint_of_the_same_training_is_used(taken):
    assert taken()[1]


@pytest.mark.parametrize("other", OTHERS)
def test_whatever_changes_a_training_is_in_the_key_of_its_checkpoint(taken, other):
    assert not taken(**OTHERS[other])[1]


def test_a_training_with_masks_is_not_taken_from_one_without(new_student, tiny, tmp_path):
    checkpoint = tmp_path / "x.safetensors"
    pruned = {"fc1.weight": torch.zeros(16, 16, dtype=torch.bool)}
    start = new_student()
    with torch.no_grad():
        start.fc1.weight.zero_()  # so that both begin with the very same weights
    loop.fit(layers.duplicate(start), tiny, QUICK, seed=0, checkpoint=checkpoint)
    loop.fit(start, tiny, QUICK, seed=0, checkpoint=checkpoint, masks=pruned)
    assert not start.fc1.weight.any()


def test_parameters_that_are_not_trained_are_in_the_key(new_student, tiny, tmp_path):
    checkpoint = tmp_path / "x.safetensors"
    loop.fit(new_student(), tiny, QUICK, seed=0, checkpoint=checkpoint)
    frozen = new_student()
    frozen.fc1.requires_grad_(False)
    loop.fit(frozen, tiny, QUICK, seed=0, checkpoint=checkpoint)
    assert torch.equal(frozen.fc1.weight, new_student().fc1.weight)


@pytest.mark.parametrize(
    "change",
    [
        lambda m: setattr(m.features[0], "relu", torch.nn.LeakyReLU(0.3)),
        lambda m: setattr(m.features[0].norm, "momentum", 0.3),
        lambda m: setattr(m.features[0].norm, "eps", 0.1),
    ],
)
def test_a_network_that_computes_otherwise_with_the_same_weights_has_another_key(new_student, change):
    one, other = new_student(), new_student()
    assert checkpoints.key({}, one, {}) == checkpoints.key({}, other, {})
    change(other)
    assert checkpoints.key({}, one, {}) != checkpoints.key({}, other, {})
