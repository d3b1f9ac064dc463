import dataclasses
import itertools
import json
import math

import pandas as pd
import pytest
import torch

from studylib import settings
from studylib.data import scoring
from studylib.descent import objectives
from studylib.experiments import moo_hypervolume, moo_training, moo_ways
from studylib.networks import layers
from studylib.training import loop, recipe
from studylib.tree import rows as rows_of

QUICK = recipe.Recipe(epochs=2, lr=5e-3, batch_size=32, augmentation="none")
SETTINGS = {"sums": [1e-3, 1e-2], "shrinkages": [0.1, 1.0], "taus": [0.2, 0.5], "rates": [5e-3, 1e-2]}
WAYS = {way.label: way for way in moo_ways.ways(**SETTINGS)}


@pytest.fixture
def plan():
    return moo_training.Plan(QUICK, recipe.Recipe(epochs=1, lr=5e-3, batch_size=32, augmentation="none"), (0.5, 0.9))


def test_every_way_is_tried_equally_often_and_once():
    assert {len(way.values) for way in WAYS.values()} == {2}
    assert list(WAYS) == [
        *moo_ways.SUMS,
        *("MGDA", "UPGrad", "PCD"),
        *("weighted sum, normalized", "MGDA, normalized", "UPGrad, normalized", "PCD, normalized"),
    ]


@pytest.mark.parametrize("change", [{"taus": [0.2]}, {"rates": [1e-2, 1e-2]}, {"sums": [0.0, 1.0]}])
def test_settings_that_are_no_fair_comparison_are_refused(change):
    (name,) = change
    with pytest.raises(ValueError, match=f"{name}.*expected"):
        moo_ways.ways(**SETTINGS | change)
    with pytest.raises(ValueError, match="equally many"):
        moo_ways.ways([], [], [], [])


@pytest.mark.parametrize("sparsities", [(0.9, 0.5), (0.0,), ()])
def test_sparsities_that_fall_or_prune_nothing_are_refused(sparsities):
    with pytest.raises(ValueError, match="sparsities"):
        moo_training.Plan(QUICK, QUICK, sparsities)
    with pytest.raises(ValueError, match="0 epochs"):
        moo_training.Plan(dataclasses.replace(QUICK, epochs=0), QUICK, (0.5,))


@pytest.mark.parametrize("tau", [0.1, 0.4, 1.0])
def test_likeness_is_the_cosine_between_the_directions_that_are_taken(new_student, digits, tau):
    images, labels = digits.normalize(digits.train.images[:32]), digits.train.labels[:32]
    found, rows = [], []
    for way in moo_ways.ways([1e-3], [0.1], [tau], [1e-2]):
        if way.normalize and way.setting in ("τ", "λ"):
            step = moo_ways.step_of(way, tau)
            parts = gradients(new_student(), step, images, labels)
            found.append(torch.cat([part.flatten() for part in parts]).double())
            rows.append(step.row())
    cosine = torch.cosine_similarity(*found, dim=0).item()
    assert moo_hypervolume.likeness(tau, rows[0]["cosine_l1"]) == pytest.approx(cosine, abs=1e-4)


def test_likeness_falls_as_the_gradients_agree_or_oppose():
    assert moo_hypervolume.likeness(0.4, 0.0) == pytest.approx(1)
    assert (
        moo_hypervolume.likeness(0.4, -0.9)
        < moo_hypervolume.likeness(0.4, -0.3)
        < 1
        > moo_hypervolume.likeness(0.4, 0.3)
    )


def test_the_normalized_sum_weighs_gradients_of_length_1(new_student, digits):
    model, images, labels = new_student(), digits.normalize(digits.train.images[:32]), digits.train.labels[:32]
    found = gradients(model, moo_ways.step_of(WAYS["weighted sum, normalized"], 0.5), images, labels)
    found, rows = torch.cat([part.flatten() for part in found]), []
    for o in (objectives.cross_entropy, objectives.l1):
        model.zero_grad()
        o(model, (images, labels), model(images)).backward()
        parts = [torch.zeros_like(p) if p.grad is None else p.grad for p in model.parameters()]
        rows.append(torch.cat([part.flatten() for part in parts]))
    expected = rows[0] / rows[0].norm() + 0.5 * rows[1] / rows[1].norm()
    torch.testing.assert_close(found / found.norm(), expected / expected.norm(), rtol=1e-3, atol=1e-5)
    assert found.norm().item() == pytest.approx(rows[0].norm().item(), rel=1e-4)


def gradients(model, step, images, labels):
    model.zero_grad()
    step.start(model, {})
    logits = model(images)
    assert step.gradients(model, torch.nn.functional.cross_entropy(logits, labels), logits, (images, labels))
    return [p.grad.clone() for p in model.parameters()]


def test_the_weighted_sum_is_followed_and_its_parts_recorded(new_student, digits):
    model, images, labels = new_student(), digits.normalize(digits.train.images[:32]), digits.train.labels[:32]
    step = moo_ways.step_of(WAYS["weighted sum"], 0.01)
    found = gradients(model, step, images, labels)
    row = step.row()
    model.zero_grad()
    task = torch.nn.functional.cross_entropy(model(images), labels)
    norm = sum(w.abs().sum() for w in objectives.weights(model))
    (task + 0.01 * norm).backward()
    for ours, parameter in zip(found, model.parameters(), strict=True):
        torch.testing.assert_close(ours, parameter.grad, rtol=1e-4, atol=1e-6)
    assert row["value_cross_entropy"] == pytest.approx(task.item(), rel=1e-5)
    assert row["value_l1"] == pytest.approx(norm.item(), rel=1e-5)


@pytest.mark.parametrize("label", ["magnitude pruning", "iterative pruning", "proximal L1"])
def test_ways_without_a_compression_loss_follow_the_task(new_student, digits, label):
    model, images, labels = new_student(), digits.normalize(digits.train.images[:32]), digits.train.labels[:32]
    found = gradients(model, moo_ways.step_of(WAYS[label], 0.01), images, labels)
    model.zero_grad()
    torch.nn.functional.cross_entropy(model(images), labels).backward()
    for ours, parameter in zip(found, model.parameters(), strict=True):
        torch.testing.assert_close(ours, parameter.grad, rtol=1e-4, atol=1e-6)


def test_steps_are_what_the_ways_are_called():
    assert isinstance(moo_ways.step_of(WAYS["proximal L1"], 0.1), moo_ways.Proximal)
    step = moo_ways.step_of(WAYS["PCD, normalized"], 0.3)
    assert step.normalize and "0.3" in step.identity[2] and not moo_ways.step_of(WAYS["PCD"], 0.3).normalize


def test_a_learning_rate_reaches_the_training(new_student, tiny):
    slow, fast = (
        moo_training.trained(WAYS["magnitude pruning"], rate, new_student(), tiny, QUICK, 0) for rate in (1e-7, 1e-2)
    )
    start = next(new_student().parameters())
    assert (next(fast.parameters()) - start).abs().max() > 100 * (next(slow.parameters()) - start).abs().max()


def test_the_weights_are_those_after_the_last_epoch(new_student, tiny):
    model = moo_training.trained(WAYS["weighted sum"], 1e-3, new_student(), tiny, QUICK, 0)
    other = layers.duplicate(new_student())
    loop.fit(other, tiny, QUICK, seed=0, step=moo_ways.step_of(WAYS["weighted sum"], 1e-3), keep="last")
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), other.parameters(), strict=True))


def test_only_iterative_pruning_goes_on_from_the_sparsity_before(new_student, tiny, plan):
    def zeros(model):
        return {name: ~mask for name, mask in layers.masks_of(model).items()}

    model = moo_training.trained(WAYS["iterative pruning"], 5e-3, new_student(), tiny, QUICK, 0)
    cut = moo_training.pruned(WAYS["iterative pruning"], model, tiny, plan, 0)
    one_shot, tuned = ([zeros(m) for m in cut[stage]] for stage in moo_training.STAGES)
    for name in one_shot[0]:
        assert (one_shot[1][name] & tuned[0][name]).sum() == tuned[0][name].sum()  # what was cut stays cut
    plain = moo_training.pruned(WAYS["magnitude pruning"], model, tiny, plan, 0)
    assert any(not torch.equal(one_shot[1][n], zeros(plain["one-shot"][1])[n]) for n in one_shot[1])
    for found in (cut, plain):
        for stage, (k, asked) in itertools.product(moo_training.STAGES, enumerate(plan.sparsities)):
            masks = layers.masks_of(found[stage][k]).values()
            assert 1 - sum(int(m.sum()) for m in masks) / sum(m.numel() for m in masks) == pytest.approx(
                asked, abs=2e-3
            )


def test_a_run_measures_every_stage_and_sparsity_and_is_read_back(new_student, tiny, plan, tmp_path, monkeypatch):
    arguments = (WAYS["PCD, normalized"], 0.5, new_student(), tiny, plan, 0)
    rows, history = moo_training.run(*arguments, tmp_path)
    assert [(r["stage"], r["sparsity"]) for r in rows] == [(s, p) for s in moo_training.STAGES for p in (0.5, 0.9)]
    assert all((r["bytes"] is None) == (r["stage"] == "one-shot") for r in rows)
    assert [h["epoch"] for h in history] == [1, 2] and all("cosine_l1" in h for h in history)
    monkeypatch.setattr(moo_training, "trained", lambda *_: pytest.fail("trained again"))
    assert moo_training.run(*arguments, tmp_path) == (rows, history)
    with pytest.raises(BaseException, match="trained again"):
        moo_training.run(*arguments[:-1], 1, tmp_path)
    other = list(arguments)
    other[2] = new_student(7)
    with pytest.raises(BaseException, match="trained again"):  # other weights to start from
        moo_training.run(*other, tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(rows_of, "code_digest", lambda _: "other code")
        with pytest.raises(BaseException, match="trained again"):
            moo_training.run(*arguments, tmp_path)
    file = next(tmp_path.glob("*.json"))
    for content in (json.dumps({"key": "another", "found": []}), "{}", "[]", '{"key": '):
        file.write_text(content)
        with pytest.raises(BaseException, match="trained again"):
            moo_training.run(*arguments, tmp_path)


def test_a_search_sees_test_images_with_the_best_value_only(new_student, tiny, plan, tmp_path, monkeypatch):
    real, taken = scoring.accuracy, []
    monkeypatch.setattr(
        scoring, "accuracy", lambda m, s, d: taken.append("test" if s is d.test else "") or real(m, s, d)
    )
    way, real_trained, trainings = WAYS["PCD"], moo_training.trained, []
    monkeypatch.setattr(moo_training, "trained", lambda *a: trainings.append(a[1]) or real_trained(*a))
    rows, best, (chosen, history) = moo_training.search(way, new_student(), tiny, plan, 0, tmp_path)
    assert len(rows) == 2 * 2 * 2 and all("test_accuracy" not in row for row in rows)
    assert taken.count("test") == len(chosen) == 4 and trainings == list(way.values)
    assert {row["value"] for row in [*chosen, *history]} == {best}
    assert best == moo_hypervolume.best_values(pd.DataFrame(rows), 10)["PCD"]
    again = moo_training.search(way, new_student(), tiny, plan, 0, tmp_path)
    assert again == (rows, best, (chosen, history)) and trainings == list(way.values)


def test_a_training_that_does_not_stay_finite_is_at_chance(new_student, tiny, plan, monkeypatch):
    def diverge(*_):
        raise FloatingPointError("the loss is nan")

    monkeypatch.setattr(moo_training, "trained", diverge)
    rows, history = moo_training.run(WAYS["weighted sum"], 1e-2, new_student(), tiny, plan, 0)
    assert history == [] and {row["test_accuracy"] for row in rows} == {0.1} and len(rows) == 4


def test_a_training_that_runs_away_is_at_chance(new_student, tiny, plan):
    start = new_student()
    for layer in (start.fc1, start.fc2):
        layer.weight.data.mul_(1e30)  # finite, and what they give is not
    rows, history = moo_training.run(WAYS["magnitude pruning"], 1e-2, start, tiny, plan, 0)
    assert history == [] and {row["test_accuracy"] for row in rows} == {0.1}


@pytest.mark.parametrize(
    "change, said",
    [
        ({"repetitions": 0}, r"comparison.repetitions=0: expected at least 1"),
        ({"sparsities": [0.9, 0.5]}, r"comparison.*sparsities.*0\.9, 0\.5"),
        ({"sparsities": [0.0]}, r"comparison.sparsities=\[0.0\]: expected one above 0"),
        ({"sparsities": [1.0]}, r"comparison.sparsities\[0\]=1.0: expected below 1"),
        ({"taus": [0.1, 1.5]}, r"comparison.taus\[1\]=1.5: expected at most 1"),
        ({"sums": [0.0, 1e-3]}, r"comparison.sums\[0\]=0.0: expected above 0"),
        ({"rates": [1e-2, 1e-2]}, r"comparison.rates=\(?.*expected different"),
        ({"rates": [1e-2]}, r"comparison.sums=.*rates=\[0.01\]: expected equally many"),
        ({"rates": [1e-2, 2e3]}, r"comparison.rates\[1\]=2000.0: expected at most 1000"),
        ({"shrinkage": [0.1]}, r"comparison.shrinkage: unknown; did you mean 'shrinkages'"),
    ],
)
def test_a_comparison_out_of_bounds_is_refused_by_name(change, said):
    with pytest.raises(settings.SettingError, match=said):
        settings.read(moo_training.Comparison, SETTINGS | change, "comparison")


def test_a_comparison_makes_its_ways_and_a_plan_whose_tuning_differs_in_epochs_and_rate_alone(digits):
    given = moo_training.Comparison(sparsities=[0.5, 0.9], **SETTINGS)
    assert given.ways() == list(WAYS.values())
    found = given.plan(QUICK, moo_training.Tuning(epochs=3, lr=1e-2))
    assert found == moo_training.Plan(QUICK, dataclasses.replace(QUICK, epochs=3, lr=1e-2), (0.5, 0.9))
    with pytest.raises(settings.SettingError, match=r"tuning.lr=1e-08: expected at least recipe.min_lr=1e-07"):
        given.plan(QUICK, moo_training.Tuning(lr=1e-8))
    with pytest.raises(settings.SettingError, match=r"recipe.epochs=0: expected at least 1"):
        given.plan(dataclasses.replace(QUICK, epochs=0), moo_training.Tuning())
    with pytest.raises(settings.SettingError, match=r"tuning.epochs=0: expected at least 1"):
        settings.read(moo_training.Tuning, {"epochs": 0}, "tuning")


def table(rows):
    return pd.DataFrame(rows, columns=["way", "value", "stage", "seed", "sparsity", "val_accuracy"])


def test_the_volume_is_the_share_of_the_plane_below_the_points():
    rows = table([("a", 1, "one-shot", 0, 0.5, 1.0), ("a", 1, "one-shot", 0, 0.75, 0.55)])
    assert moo_hypervolume.volume(rows, "val_accuracy", 10) == pytest.approx((1 * 0.9 + 1 * 0.45) / (2 * 0.9))
    full = table([("a", 1, "one-shot", 0, 0.5, 0.3), ("a", 1, "one-shot", 0, 0.75, 1.0)])
    assert moo_hypervolume.volume(full, "val_accuracy", 10) == pytest.approx(1)


def test_the_best_value_has_the_largest_mean_over_both_stages():
    rows = [("a", v, s, 0, 0.9, a) for v, s, a in [(1, "one-shot", 0.9), (1, "fine-tuned", 0.2)]]
    rows += [("a", v, s, 0, 0.9, a) for v, s, a in [(2, "one-shot", 0.5), (2, "fine-tuned", 0.7)]]
    rows += [("b", 7, s, 0, 0.9, 0.5) for s in moo_training.STAGES]
    found = moo_hypervolume.best_values(table(rows), 10)
    assert found == {"a": 2.0, "b": 7.0} and all(type(value) is float for value in found.values())


def test_against_says_more_only_when_the_interval_lies_above_zero():
    seeds, rival = range(3), [0.30, 0.40, 0.50]
    ways = {"weighted sum": rival, "more": [0.41, 0.50, 0.61], "less": [0.1, 0.2, 0.3], "unsure": [0.5, 0.3, 0.6]}
    rows = [{"way": w, "stage": "one-shot", "seed": s, "volume": v[s]} for w, v in ways.items() for s in seeds]
    found = moo_hypervolume.against(pd.DataFrame(rows), "weighted sum").set_index("way")
    assert found["verdict"].to_dict() == {"weighted sum": "–", "more": "more", "less": "less", "unsure": "cannot tell"}
    assert found.loc["more", "gain"] == pytest.approx((0.11 + 0.10 + 0.11) / 3)
    spread, t = math.sqrt(2 / 3) * 0.01 / math.sqrt(2), 4.302652729911275  # of Student, two degrees of freedom
    assert found.loc["more", "high"] - found.loc["more", "gain"] == pytest.approx(t * spread / math.sqrt(3), rel=1e-6)
    assert (found["seeds"] == 3).all()


def test_other_images_and_values_that_print_alike_are_measured_anew(new_student, tiny, plan, tmp_path, monkeypatch):
    way, calls = WAYS["PCD, normalized"], []
    rows = {v: moo_training.run(way, v, new_student(), tiny, plan, 0, tmp_path) for v in (0.5, 0.50000001)}
    assert len(list(tmp_path.iterdir())) == 2
    real = moo_training.trained
    monkeypatch.setattr(moo_training, "trained", lambda *a: calls.append(a[1]) or real(*a))
    for value, found in rows.items():
        assert moo_training.run(way, value, new_student(), tiny, plan, 0, tmp_path) == found
    assert not calls
    images = tiny.test.images.clone()
    images[0, 0, 0, 0] ^= 1
    other = dataclasses.replace(tiny, test=dataclasses.replace(tiny.test, images=images))
    moo_training.run(way, 0.5, new_student(), other, plan, 0, tmp_path)
    assert calls == [0.5]
