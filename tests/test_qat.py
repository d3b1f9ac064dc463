import copy
import dataclasses
import itertools

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from studylib.data import scoring, tasks
from studylib.disk import models
from studylib.networks import blocks, grid, int8_layers
from studylib.networks.bits import choose_bits, sensitivity
from studylib.networks.layers import duplicate, fold_batch_norm, masks_of, prunable, weight_layers
from studylib.techniques import int8, prune, qat, svd
from studylib.training import checkpoint as checkpoints
from studylib.training import loop
from studylib.training.recipe import Recipe

RECIPE = Recipe(epochs=4, lr=3e-3, batch_size=32, augmentation="none")
BITS = {
    "features.0.conv": 4,
    "features.2.conv": 2,
    "features.4.conv": 2,
    "fc1.first": 3,
    "fc2.first": 3,
    "fc2.second": 2,
}


@pytest.fixture(scope="module")
def pruned(student_model):
    """The ConvNet, its largest linear layer factorized, without the smaller half of its weights."""
    model = svd.apply(student_model)
    masks = prune.shrink_masks(prunable(model), masks_of(model), 0.5)
    with torch.no_grad():
        for name, weight in prunable(model).items():
            weight.mul_(masks[name])
    return model


@pytest.fixture(scope="module")
def watched():
    """What passed from training to the int8 layers: (the graph, the model)."""
    return []


@pytest.fixture(scope="module")
def trained(pruned, digits, watched):
    """``pruned`` trained with few bits."""
    with pytest.MonkeyPatch.context() as patch:
        original = qat.Rounded.converted

        def spy(self):
            state = copy.deepcopy(self.state_dict())
            with torch.no_grad():
                logits = self.eval()(digits.normalize(digits.validation.images))
            watched.extend([state, logits, original(self)])
            return watched[-1]

        patch.setattr(qat.Rounded, "converted", spy)
        return qat.apply(pruned, digits, recipe=RECIPE, seed=0, bits=BITS)


def test_training_with_few_bits_beats_rounding_after_training(pruned, trained, digits):
    after = int8.apply(pruned, digits, bits=BITS)
    found = [scoring.accuracy(model, digits.validation, digits) for model in (after, trained)]
    assert found[1] > found[0] + 0.2 and found[1] > 0.6


def test_what_is_returned_and_scored_is_the_converted_model(trained, watched, digits):
    _, rounded_logits, graph = watched
    images = digits.normalize(digits.validation.images)
    with torch.no_grad():
        for batch in (images, images[:1], 100 * images):
            assert torch.equal(trained(batch), graph(batch))
        logits = trained(images)
    kinds = {type(layer) for layer in weight_layers(trained).values()}
    assert kinds == {int8_layers.Int8Conv2d, int8_layers.Int8Linear} and not list(trained.parameters())
    best = max(row["val_accuracy"] for row in trained.history)
    assert scoring.accuracy(trained, digits.validation, digits) == pytest.approx(best, abs=0.011)
    assert (logits - rounded_logits).abs().mean() < 0.05 * rounded_logits.std()  # training saw what inference computes


def test_pruned_weights_are_zero_integers_and_the_others_were_trained(pruned, trained, watched):
    state = watched[0]
    for name, layer in weight_layers(trained).items():
        before = pruned.get_submodule(name).weight.detach()
        assert not layer.weight[before == 0].any() and (before == 0).any() and layer.weight.any(), name
        after = state[f"graph.{name}.weight"]
        assert not after[before == 0].any()
        assert ((after != before) | (before == 0)).float().mean() > 0.7, name  # nothing reaches some inputs


def test_bits_epochs_and_history_are_recorded_and_survive_the_disk(trained, digits, tmp_path):
    change = trained.spec["changes"][-1]
    assert change["technique"] == "qat" and change["epochs"] == 4 and change["structure"]["bits"] == BITS
    assert [row["epoch"] for row in trained.history] == [1, 2, 3, 4]
    models.save_model(tmp_path, trained)
    loaded, images = models.load_model(tmp_path), digits.normalize(digits.test.images[:50])
    assert {name: layer.bits for name, layer in weight_layers(loaded).items()} == {
        "fc1.second": 8,
        "fc3.first": 8,
        "fc3.second": 8,
    } | BITS
    with torch.no_grad():
        assert torch.equal(loaded(images), trained(images))
    for layer in weight_layers(loaded).values():
        assert layer.weight.int().abs().max() <= 2 ** (layer.bits - 1)


def test_a_densenet_is_trained_and_converted(teacher_model, digits):
    before = duplicate(teacher_model)
    recipe = Recipe(epochs=1, lr=1e-3, augmentation="none")
    model = qat.apply(teacher_model, digits, recipe=recipe, seed=0, bits=3)
    assert scoring.accuracy(model, digits.validation, digits) > 0.6
    assert {layer.weight.abs().max().item() for layer in weight_layers(model).values()} == {3}
    assert all(torch.equal(a, b) for a, b in zip(before.parameters(), teacher_model.parameters(), strict=True))


# --- the model that is trained ----------------------------------------------------------------------------------


@pytest.fixture
def rounded(student_model, digits):
    images = digits.normalize(digits.train.images[:100])
    return qat.prepare(student_model, images, int8_layers.bits_of_layers(student_model, 2))


def test_validation_changes_no_range_and_no_running_average(rounded, digits):
    def state():
        return {k: v.clone() for k, v in rounded.state_dict().items() if not k.endswith("num_batches_tracked")}

    before = state()
    scoring.predict(rounded, digits.validation, digits)
    assert all(torch.equal(v, before[k]) for k, v in state().items() if not k.endswith("observer_enabled"))
    rounded.train()(100 * digits.normalize(digits.train.images[:30]))
    changed = {k.rpartition(".")[2] for k, v in state().items() if not torch.equal(v, before[k])}
    assert {"max_val", "scale", "running_mean", "running_var"} <= changed


def test_both_modes_share_their_tensors_and_take_batches_of_any_size(rounded, student_model, digits):
    images = digits.normalize(digits.train.images[:37])
    assert {f"graph.{name}" for name, _ in student_model.named_parameters()} == dict(rounded.named_parameters()).keys()
    with torch.no_grad():
        before = rounded.eval()(images)
        rounded.graph.fc3.bias.add_(1)
        assert torch.allclose(rounded(images), before + 1, atol=1e-5)
        assert rounded.train()(images.contiguous(memory_format=torch.channels_last)).shape == (37, 10)


def test_training_in_bfloat16_works(rounded, digits, bfloat16):
    history = loop.fit(rounded, digits, Recipe(epochs=1, lr=1e-3, amp=True, augmentation="none"), seed=0)
    assert history[0]["train_loss"] < 5


def test_an_interrupted_training_goes_on_as_if_it_had_not_been(student_model, tiny, tmp_path, monkeypatch):
    found = []

    class Stop(Exception):
        pass

    def stop(self):
        found.append(copy.deepcopy(self.state_dict()))
        raise Stop

    monkeypatch.setattr(qat.Rounded, "converted", stop)  # all that conversion goes by is in the state

    def run(scratch=None, loss=tasks.cross_entropy):
        recipe = Recipe(epochs=3, lr=1e-2, batch_size=32)
        with pytest.raises(Stop):
            qat.apply(
                student_model,
                tiny,
                recipe=recipe,
                seed=3,
                bits=2,
                calibration_images=50,
                loss=loss,
                scratch=scratch,
            )

    calls = []

    def breaks(model, images, labels):
        calls.append(len(labels))
        if len(calls) > 5:  # four batches an epoch
            raise KeyboardInterrupt
        return tasks.cross_entropy(model, images, labels)

    monkeypatch.setattr(checkpoints, "SECONDS", 0.0)
    run()
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, breaks)
    assert (tmp_path / "qat.safetensors").exists()
    seen = []

    def counts(model, images, labels):
        seen.append(len(labels))
        return tasks.cross_entropy(model, images, labels)

    run(tmp_path, counts)
    assert len(seen) == 8  # the two epochs that were left
    assert found[0].keys() == found[1].keys()
    assert not [k for k in found[0] if not torch.equal(found[0][k], found[1][k])]


def test_what_cannot_be_trained_is_refused(student_model, int8_model, digits):
    with pytest.raises(ValueError, match="compile=True: expected False"):
        qat.apply(student_model, digits, recipe=Recipe(compile=True), seed=0)
    with pytest.raises(blocks.SpecError, match="Int8Conv2d: expected a convolution or linear layer"):
        qat.apply(int8_model, digits, recipe=RECIPE, seed=0)
    with pytest.raises(ValueError, match="bits=1 of fc1"):
        qat.apply(student_model, digits, recipe=RECIPE, seed=0, bits={"fc1": 1})
    with pytest.raises(ValueError, match="calibration_images=601"):
        qat.apply(student_model, digits, recipe=RECIPE, seed=0, calibration_images=601)


# --- bits by layer ----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def rows(student_model, digits):
    return sensitivity(student_model, digits, bits=(2, 4, 8), images=300)


def test_sensitivity_is_what_rounding_one_layer_costs(student_model, digits, rows):
    folded, low = fold_batch_norm(student_model), int8.apply(student_model, digits, bits=2)
    order = torch.randperm(600, generator=torch.Generator().manual_seed(0))[:300]
    split = digits.train.take(order)
    before = scoring.scores(scoring.predict(folded, split, digits), split.labels)["nll"]
    with torch.no_grad():
        folded.fc1.weight.copy_(low.fc1.dequantized_weight())
    after = scoring.scores(scoring.predict(folded, split, digits), split.labels)["nll"]
    row = next(row for row in rows if row["layer"] == "fc1" and row["bits"] == 2)
    assert row["loss"] == pytest.approx(after, rel=1e-5) and row["increase"] == pytest.approx(after - before, rel=1e-4)
    assert row["weights"] == folded.fc1.weight.numel()
    assert [r["layer"] for r in rows[::3]] == list(weight_layers(student_model))


def test_more_bits_cost_less_loss(rows):
    total = {bits: sum(abs(row["increase"]) for row in rows if row["bits"] == bits) for bits in (2, 4, 8)}
    assert total[2] > 3 * total[4] > 9 * total[8]


@pytest.mark.parametrize("bits", [2, 3, 5])
def test_rounded_weights_are_those_of_quantization(student_model, digits, bits):
    low = int8.apply(student_model, digits, calibration_images=16, bits=bits)
    for name, layer in weight_layers(fold_batch_norm(student_model)).items():
        expected = low.get_submodule(name).dequantized_weight()
        off = (grid.rounded_weight(layer.weight.detach(), bits) - expected).abs() > 1e-5
        assert off.float().mean() < 0.001, name  # folding may round otherwise in the last place


def test_the_validation_and_test_sets_are_not_looked_at(student_model, digits, rows):
    nothing = {name: getattr(digits, name).take(slice(0)) for name in ("validation", "test")}
    blind = dataclasses.replace(digits, **nothing)
    assert sensitivity(student_model, blind, bits=(2, 4, 8), images=300) == rows


def table(increases, weights):
    return [
        {"layer": f"l{i}", "bits": bits, "weights": count, "increase": increase}
        for i, (count, each) in enumerate(zip(weights, increases, strict=True))
        for bits, increase in zip((2, 3, 4, 8), each, strict=True)
    ]


def cost_of(chosen, rows, costs=None):
    """(bytes, increase)."""
    picked = [row for row in rows if chosen[row["layer"]] == row["bits"]]
    sizes = [costs[r["layer"]][r["bits"]] if costs else r["weights"] * r["bits"] / 8 for r in picked]
    return sum(sizes), sum(row["increase"] for row in picked)


def every_choice(rows):
    layers = sorted({row["layer"] for row in rows})
    return [dict(zip(layers, bits, strict=True)) for bits in itertools.product((2, 3, 4, 8), repeat=len(layers))]


numbers = st.integers(-5, 60).map(float)
tables = st.lists(st.tuples(st.tuples(numbers, numbers, numbers, numbers), st.integers(1, 40)), min_size=1, max_size=4)


@given(tables, st.floats(0, 1), st.randoms(use_true_random=False))
def test_the_choice_is_the_best_of_all_within_the_budget(found, share, draw):
    rows = table(*zip(*found, strict=True))
    costs = None
    if draw.random() < 0.5:  # bytes that a codec might need: not in proportion to the bits
        costs = {f"l{i}": {bits: draw.randint(1, 50) for bits in (2, 3, 4, 8)} for i in range(len(found))}
    outcomes = [cost_of(choice, rows, costs) for choice in every_choice(rows)]
    least, most = min(size for size, _ in outcomes), max(size for size, _ in outcomes)
    budget = least + share * (most - least)
    size, increase = cost_of(choose_bits(rows, budget, costs), rows, costs)
    assert size <= budget
    assert increase == min(loss for size, loss in outcomes if size <= budget)
    richer = cost_of(choose_bits(rows, budget + 3, costs), rows, costs)
    assert richer[1] <= increase


def test_what_a_budget_buys(rows):
    everything = sum(row["weights"] for row in rows if row["bits"] == 8)
    chosen = {share: choose_bits(rows, share * everything) for share in (0.25, 0.4, 1)}
    assert set(chosen[0.25].values()) == {2} and set(chosen[1].values()) != {2}
    assert sum(chosen[1].values()) >= sum(chosen[0.4].values()) > sum(chosen[0.25].values())
    assert list(chosen[0.4]) == list(dict.fromkeys(row["layer"] for row in rows))
    assert len(set(chosen[0.4].values())) > 1


def test_the_choice_of_many_layers_is_quick():
    draw = torch.Generator().manual_seed(0)
    increases = torch.rand(60, 4, generator=draw).sort(1, descending=True).values.tolist()
    weights = torch.randint(1000, 100000, (60,), generator=draw).tolist()
    rows = table(increases, weights)
    budget = sum(weights) * 0.4
    assert cost_of(choose_bits(rows, budget), rows)[0] <= budget


def test_a_budget_that_is_too_small_is_refused_with_the_least():
    rows = table([(4, 3, 2, 1), (4, 3, 2, 1)], [40, 8])
    assert choose_bits(rows, 12) == {"l0": 2, "l1": 2}
    with pytest.raises(ValueError, match=r"budget_bytes=11\.9: expected at least 12, the least that is possible"):
        choose_bits(rows, 11.9)
    tenths = {"l0": dict.fromkeys((2, 3, 4, 8), 0.1), "l1": dict.fromkeys((2, 3, 4, 8), 0.2)}
    assert choose_bits(rows, 0.3, tenths) == {"l0": 8, "l1": 8}  # 0.1 + 0.2 > 0.3
    with pytest.raises(ValueError, match="costs of l0 in 3 bits"):
        choose_bits(rows, 100, {"l0": {2: 1}, "l1": {}})


def test_numbers_that_are_none_choose_no_bits():
    rows = [{"layer": "a", "bits": b, "weights": 8, "increase": 1.0 / b} for b in (2, 4)]
    with pytest.raises(ValueError, match="budget_bytes=nan"):
        choose_bits(rows, float("nan"))
    with pytest.raises(ValueError, match="a in 2 bits: increase nan"):
        choose_bits([{**rows[0], "increase": float("nan")}, rows[1]], 100)


def test_one_calibration_image_is_enough_in_training_as_after_it(student_model, digits):
    recipe = Recipe(epochs=1, lr=1e-3, batch_size=32)
    rounded = qat.apply(student_model, digits, recipe=recipe, seed=0, bits=8, calibration_images=1)
    static = int8.apply(student_model, digits, calibration_images=1)
    for model in (rounded, static):
        assert scoring.accuracy(model, digits.validation, digits) > 0.3  # by chance 0.1
    assert {layer.bits for layer in weight_layers(rounded).values()} == {8}
