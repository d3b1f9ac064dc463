"""Another task than classes goes through training, nodes and tables: a network that takes noise off the digits."""

import dataclasses

import pytest
import torch

from studylib.coding import codec
from studylib.data import datasets, scoring
from studylib.data.datasets import Split
from studylib.data.tasks import CLASSIFICATION, Task
from studylib.disk import files
from studylib.networks import layers, spec
from studylib.techniques import int8, svd
from studylib.training import deadline, loop
from studylib.training.recipe import Recipe
from studylib.tree import table as tree_table
from studylib.tree.node import Node

QUICK = Recipe(epochs=4, lr=1e-2, batch_size=20, augmentation="none")  # 30 steps an epoch


def squared(outputs, targets):
    return (outputs.double() - targets.to(outputs.device)).square().flatten(1).mean(1)


def squared_loss(model, inputs, targets):
    outputs = model(inputs)
    return squared(outputs, targets).float().mean(), outputs


DENOISING = Task(
    name="denoising",
    numbers=("mse", "worst"),
    val_loss="mse",
    loss=squared_loss,
    scores=lambda outputs, targets: {"mse": squared(outputs, targets).mean().item(), "worst": float(outputs.max())},
    batch_score=lambda outputs, targets: squared(outputs, targets).sum(),
    lower_is_better=True,
)


def noisy(split: Split, seed: int) -> Split:
    noise = 40 * torch.randn(split.images.shape, generator=torch.Generator().manual_seed(seed))
    return Split((split.images + noise).clamp(0, 255).to(torch.uint8), split.images.flatten(1) / 255)


@pytest.fixture(scope="module")
def noise(digits):
    """The digits under noise; targets are the 64 clean pixels, 0…1."""
    splits = {part: noisy(getattr(digits, part), i) for i, part in enumerate(("train", "validation", "test"))}
    return dataclasses.replace(digits, classes=tuple(map(str, range(64))), task=DENOISING, **splits)


@pytest.fixture
def new_denoiser(new_student):
    return lambda: new_student(classes=64)


@pytest.fixture(scope="module")
def denoiser(noise):
    """A trained one, its history with it. Shared: copy it before changing it."""
    model = spec.create("convnet", 0, **noise.model_args, widths=[8, 12, 16], hidden=[16, 12])
    model.history = loop.fit(model, noise, QUICK, seed=0)
    return model


@pytest.fixture(scope="module")
def finished(denoiser, noise, tmp_path_factory):
    """The folder of a run with two nodes of it, and metrics: as trained, and compressed."""
    compressed = int8.apply(svd.apply(layers.duplicate(denoiser)), noise, calibration_images=64)
    made, run = {"teacher": layers.duplicate(denoiser), "teacher-svd-int8": compressed}, tmp_path_factory.mktemp("run")
    metrics = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(datasets, "load", lambda name, seed: noise)
        for name, model in made.items():
            model.history = denoiser.history
            metrics[name] = Node(run / "seed0" / name, "digits", 0, device="cpu").finish(model)
    return run, metrics


def without_seconds(history):
    return [{k: v for k, v in row.items() if k != "seconds"} for row in history]


def mse(model, split, data) -> float:
    return DENOISING.scores(scoring.predict(model, split, data), split.labels)["mse"]


# --- the task ---------------------------------------------------------------------------------------------------


def test_equal_scores_are_ranked_by_the_lower_loss():
    better, worse = ({"val_accuracy": 0.5, "val_loss": loss} for loss in (1.0, 2.0))
    rank = CLASSIFICATION.rank
    assert rank(better) > rank(worse)
    assert rank({"val_accuracy": 0.6, "val_loss": 9.0}) > rank(better)


def test_the_lower_score_is_better_where_the_task_says_so():
    rank = DENOISING.rank
    assert rank({"val_mse": 0.1, "val_loss": 9.0}) > rank({"val_mse": 0.2, "val_loss": 1.0})
    assert rank({"val_mse": 0.1, "val_loss": 1.0}) > rank({"val_mse": 0.1, "val_loss": 2.0})


@pytest.mark.parametrize(
    "task, score, target, reached",
    [
        (CLASSIFICATION, 0.5, 0.5, True),
        (CLASSIFICATION, 0.4, 0.5, False),
        (CLASSIFICATION, 0.4, None, False),
        (DENOISING, 0.5, 0.5, True),
        (DENOISING, 0.4, 0.5, True),
        (DENOISING, 0.6, 0.5, False),
    ],
)
def test_a_target_is_reached_by_the_last_row_that_is_as_good(task, score, target, reached):
    rows = [{f"val_{task.score}": 9.0 * (not task.lower_is_better)}, {f"val_{task.score}": score}]
    assert task.reached(rows, target) == reached
    assert not task.reached([], target)


def test_the_validation_loss_is_one_of_the_numbers():
    with pytest.raises(ValueError, match="val_loss='nll': expected one of mse, worst"):
        dataclasses.replace(DENOISING, val_loss="nll")


def test_data_learn_classes_where_nothing_else_is_said(digits):
    assert digits.task is CLASSIFICATION and len(digits.identity) == 3
    assert digits.cropped_only().to("cpu").task is CLASSIFICATION


# --- training ---------------------------------------------------------------------------------------------------


def test_histories_are_of_the_tasks_score(denoiser, noise):
    columns = ["epoch", "lr", "train_loss", "train_mse", "val_mse", "val_loss", "seconds", "best"]
    assert [list(row) for row in denoiser.history] == [columns] * 4
    for row in denoiser.history:
        assert row["train_mse"] == pytest.approx(row["train_loss"]) and row["val_mse"] == row["val_loss"]
    always_the_mean = squared(noise.train.labels.mean(0), noise.validation.labels).mean()
    assert denoiser.history[-1]["val_mse"] < always_the_mean  # something of each image was learnt


def test_the_epoch_of_the_lowest_score_is_kept(new_denoiser, noise):
    steps = []

    def spoilt_after_two_epochs(model, inputs, targets):
        steps.append(1)
        value, outputs = squared_loss(model, inputs, targets)
        return (value if len(steps) <= 60 else -value), outputs

    model = new_denoiser()
    history = loop.fit(model, noise, QUICK, seed=0, loss=spoilt_after_two_epochs)
    lowest = min(row["val_mse"] for row in history)
    assert lowest < history[-1]["val_mse"] and [r for r in history if r["best"]][-1]["val_mse"] == lowest
    assert mse(model, noise.validation, noise) == lowest


def test_a_training_ends_once_the_score_is_below_its_target(denoiser, new_denoiser, noise):
    second, third = (row["val_mse"] for row in denoiser.history[1:3])
    for target, epochs in ((second, 2), ((second + third) / 2, 3), (9.0, 1), (0.0, 4)):
        assert len(loop.fit(new_denoiser(), noise, QUICK, seed=0, target=target)) == epochs


def test_an_interrupted_training_ends_as_if_it_had_not_been(
    denoiser, new_denoiser, noise, same_tensors, tmp_path, monkeypatch
):
    options = {"seed": 0, "checkpoint": tmp_path / "x.safetensors"}
    left = iter([9.0, 9.0, 1e-9])
    with monkeypatch.context() as patch:
        patch.setattr(deadline, "left", lambda: next(left))
        with pytest.raises(deadline.Paused, match="epoch 2 of 4"):
            loop.fit(new_denoiser(), noise, QUICK, **options)
    epochs, epoch = [], loop._epoch
    monkeypatch.setattr(loop, "_epoch", lambda *args: epochs.append(1) or epoch(*args))
    resumed = new_denoiser()
    assert without_seconds(loop.fit(resumed, noise, QUICK, **options)) == without_seconds(denoiser.history)
    assert len(epochs) == 2 and same_tensors(resumed, denoiser)


@pytest.mark.parametrize("other", [{"name": "other"}, {"lower_is_better": False}, {"val_loss": "worst"}], ids=str)
def test_a_checkpoint_of_another_task_is_not_used(new_denoiser, noise, tmp_path, monkeypatch, other):
    recipe, options = dataclasses.replace(QUICK, epochs=1), {"seed": 0, "checkpoint": tmp_path / "x.safetensors"}
    loop.fit(new_denoiser(), noise, recipe, **options)
    epochs, epoch = [], loop._epoch
    monkeypatch.setattr(loop, "_epoch", lambda *args: epochs.append(1) or epoch(*args))
    loop.fit(new_denoiser(), noise, recipe, **options)
    assert not epochs
    another = dataclasses.replace(noise, task=dataclasses.replace(DENOISING, **other))
    loop.fit(new_denoiser(), another, recipe, **options)
    assert len(epochs) == 1


def test_targets_that_are_no_classes_are_not_smoothed(new_denoiser, noise):
    with pytest.raises(ValueError, match=r"label_smoothing=0\.1"):
        loop.fit(new_denoiser(), noise, dataclasses.replace(QUICK, label_smoothing=0.1), seed=0)


# --- nodes and tables -------------------------------------------------------------------------------------------


def test_a_node_is_scored_by_its_task(finished, noise):
    run, metrics = finished
    for name, found in metrics.items():
        folder = run / "seed0" / name
        assert files.read_json(folder / "metrics.json") == found
        assert not [key for key in found if "accuracy" in key or "nll" in key or "ece" in key]
        decoded = codec.decode((folder / "model.slnc").read_bytes())
        assert found["test_mse"] == mse(decoded, noise.test, noise)
        assert found["val_mse"] == mse(decoded, noise.validation, noise)
        assert found["val_mse_float16"] == pytest.approx(found["val_mse"], rel=0.01)
        tensors, _ = files.read_tensors(folder / "test_logits.safetensors")
        assert torch.equal(tensors["labels"], noise.test.labels) and tensors["logits"].shape == (997, 64)
    plain, compressed = metrics.values()
    assert compressed["bytes_file"] < 0.5 * plain["bytes_file"]
    assert plain["test_mse"] < compressed["test_mse"] < 1.3 * plain["test_mse"]


def test_a_table_has_the_columns_of_its_task(finished):
    run, metrics = finished
    table = tree_table.read(run, list(metrics), [0], DENOISING)
    assert list(table.columns) == tree_table.columns(DENOISING)
    of_classes = {"test_accuracy", "val_accuracy", "val_accuracy_float16", "test_nll", "test_ece", "agreement"}
    own = {"test_mse", "val_mse", "val_mse_float16", "test_worst"}
    assert set(tree_table.COLUMNS) - set(table) == of_classes and set(table) - set(tree_table.COLUMNS) == own
    assert table["test_mse"].tolist() == [found["test_mse"] for found in metrics.values()]
    assert tree_table.summary(table)["test_mse"].tolist() == table["test_mse"].tolist()
    assert (tree_table.compare(table, table, DENOISING)["difference"] == 0).all()
    with pytest.raises(files.CheckpointError, match=r"metrics.json: test_accuracy is missing"):
        tree_table.read(run, list(metrics), [0])
