import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from studylib.data import scoring
from studylib.experiments.prune import first_to_lose
from studylib.networks import layers as networks_layers
from studylib.networks import spec as networks_spec
from studylib.techniques import prune
from studylib.techniques.prune import shrink_masks
from studylib.training import checkpoint as checkpoints
from studylib.training import loop
from studylib.training.recipe import Recipe

RECIPE = Recipe(epochs=2, lr=5e-3, batch_size=64)
MODEL = {"rounds": 3, "recipe": RECIPE, "seed": 0}


@st.composite
def layers(draw):
    """Weights of one to three layers, many of them equal, and masks that are partly pruned already."""
    shapes = draw(st.lists(st.lists(st.integers(1, 5), min_size=1, max_size=3), min_size=1, max_size=3))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 999)))
    levels, density = draw(st.sampled_from([1, 3, 1000])), draw(st.sampled_from([0.0, 0.5, 1.0]))
    weights, masks = {}, {}
    for i, shape in enumerate(shapes):
        weights[str(i)] = torch.randint(-levels, levels + 1, shape, generator=generator).float()
        masks[str(i)] = torch.rand(shape, generator=generator) < density
    return weights, masks


def alive(masks) -> torch.Tensor:
    return torch.cat([mask.flatten() for mask in masks.values()])


@given(of=layers(), fraction=st.floats(0, 1))
def test_exactly_the_fraction_goes_and_it_is_the_smallest(of, fraction):
    weights, masks = of
    before, magnitude = alive(masks), torch.cat([w.abs().flatten() for w in weights.values()])
    found = shrink_masks(weights, masks, fraction)
    after = alive(found)
    assert {k: v.shape for k, v in found.items()} == {k: v.shape for k, v in masks.items()}
    removed = before & ~after
    assert not (after & ~before).any()
    assert removed.sum() == round(fraction * int(before.sum()))
    assert torch.equal(alive(masks), before)  # the old masks are left alone
    if removed.any() and after.any():
        assert magnitude[after].min() >= magnitude[removed].max()


def test_of_equal_magnitudes_the_earlier_goes_first():
    weights = {"a": torch.tensor([1.0, -1.0, 2.0]), "b": torch.tensor([-1.0, 1.0])}
    masks = {name: torch.ones_like(w, dtype=torch.bool) for name, w in weights.items()}
    found = shrink_masks(weights, masks, 0.6)
    assert found["a"].tolist() == [False, False, True] and found["b"].tolist() == [False, True]


@pytest.mark.parametrize("fraction", [-0.1, 1.1, float("nan")])
def test_a_bad_fraction_is_named(fraction):
    with pytest.raises(ValueError, match=f"fraction={fraction}"):
        shrink_masks({"a": torch.ones(3)}, {"a": torch.ones(3, dtype=torch.bool)}, fraction)


@pytest.mark.parametrize(
    "wrong",
    [{"rounds": 0}, {"fraction": 0.0}, {"fraction": 1.0}, {"tolerance": -0.1}, {"tolerance": 1.5}],
    ids=str,
)
def test_bad_arguments_are_named(student_model, tiny, wrong):
    ((name, value),) = wrong.items()
    with pytest.raises(ValueError, match=f"{name}={value}"):
        prune.apply(student_model, tiny, **{**MODEL, **wrong})


def test_an_int8_model_is_not_pruned(int8_model, tiny):
    with pytest.raises(ValueError, match="before quantizing"):
        prune.apply(int8_model, tiny, **MODEL)


@pytest.fixture(scope="module")
def free(student_model, tiny):
    """Pruned without ever having to recover."""
    return prune.apply(student_model, tiny, **MODEL, fraction=0.3, tolerance=1.0)


@pytest.fixture(scope="module")
def recovered(student_model, tiny):
    """Pruned until it had to be trained."""
    return prune.apply(student_model, tiny, rounds=2, recipe=RECIPE, seed=0, fraction=0.7)


def test_sparsity_is_that_of_repeated_exact_rounding(student_model, free):
    total = living = sum(w.numel() for w in networks_layers.prunable(student_model).values())
    expected = [0.0]
    for _ in range(3):
        living -= round(0.3 * living)
        expected.append(1 - living / total)
    assert networks_layers.sparsity(free) == expected[-1]
    assert [row["sparsity"] for row in free.history] == expected
    assert free.spec["changes"][-1] == {"technique": "imp", "rounds": 3, "epochs": 0, "sparsity": expected[-1]}


def test_survivors_have_their_pretrained_values(student_model, free):
    pretrained, pruned = student_model.state_dict(), free.state_dict()
    prunable = networks_layers.prunable(student_model)
    assert len(prunable) == 6
    for name, value in pretrained.items():
        mask = pruned[name] != 0 if name in prunable else torch.ones_like(value, dtype=torch.bool)
        assert torch.equal(pruned[name][mask], value[mask]), name


def test_pruning_is_global(free):
    shares = [1 - (w != 0).float().mean().item() for w in networks_layers.prunable(free).values()]
    assert max(shares) - min(shares) > 0.02


def test_biases_and_batch_norms_are_never_pruned(teacher_model, student_model):
    for model in (teacher_model, student_model):
        names = set(networks_layers.prunable(model))
        owners = {name.rpartition(".")[0] for name in names}
        assert all(isinstance(model.get_submodule(o), (nn.Conv2d, nn.Linear)) for o in owners)
        kinds = (nn.Conv2d, nn.Linear)
        assert names == {f"{n}.weight" for n, m in model.named_modules() if isinstance(m, kinds)}


def test_recovery_trains_the_survivors_and_holds_the_zeros(student_model, recovered):
    rows = recovered.history
    assert [(row["round"], row["epoch"]) for row in rows][:3] == [(0, 0), (1, 0), (1, 1)]
    assert recovered.spec["changes"][-1]["epochs"] == sum(row["epoch"] > 0 for row in rows) > 0
    total = sum(w.numel() for w in networks_layers.prunable(student_model).values())
    living = total - round(0.7 * total)
    living -= round(0.7 * living)
    assert networks_layers.sparsity(recovered) == rows[-1]["sparsity"] == 1 - living / total
    for name, weight in networks_layers.prunable(recovered).items():
        kept = weight != 0
        assert kept.all() or not torch.equal(weight[kept], student_model.get_parameter(name)[kept])


def test_each_round_ranks_what_was_trained_and_resets_it(student_model, tiny, monkeypatch):
    calls, scrambled = [], torch.Generator().manual_seed(0)

    @torch.no_grad()
    def fit(model, data, recipe, *, seed, masks, target, checkpoint):
        started = {name: weight.detach().clone() for name, weight in networks_layers.prunable(model).items()}
        for name, weight in networks_layers.prunable(model).items():
            weight.copy_(torch.randn(weight.shape, generator=scrambled) * masks[name])
        calls.append({"seed": seed, "masks": masks, "target": target, "started": started})
        calls[-1]["left"] = {name: weight.detach().clone() for name, weight in networks_layers.prunable(model).items()}
        return [{"epoch": 1, "val_accuracy": 1.0}]

    monkeypatch.setattr(loop, "fit", fit)
    prune.apply(student_model, tiny, rounds=3, recipe=RECIPE, seed=7, fraction=0.6, tolerance=0.0)
    assert len(calls) == 3 and len({call["seed"] for call in calls}) == 3
    accuracy = scoring.accuracy(student_model, tiny.validation, tiny)
    for before, call in zip([None, *calls], calls, strict=False):
        assert call["target"] == pytest.approx(accuracy) and call["target"] <= accuracy
        for name, start in call["started"].items():
            assert torch.equal(start, student_model.get_parameter(name) * call["masks"][name])
        if before:
            expected = shrink_masks(before["left"], before["masks"], 0.6)
            assert all(torch.equal(expected[name], call["masks"][name]) for name in expected)


def test_rounds_and_sparsity_never_go_back(recovered):
    for column in ("round", "sparsity"):
        values = [row[column] for row in recovered.history]
        assert values == sorted(values)
    for k in (0, 1, 2):
        assert [r["epoch"] for r in recovered.history if r["round"] == k] == list(
            range(sum(r["round"] == k for r in recovered.history))
        )


def test_the_best_epoch_of_the_last_round_is_kept(recovered, tiny):
    found = scoring.accuracy(recovered, tiny.validation, tiny)
    assert found == max(r["val_accuracy"] for r in recovered.history if r["round"] == 2 and r["epoch"] > 0)


def test_a_round_ends_where_the_parents_accuracy_is_reached(student_model, tiny):
    before = scoring.accuracy(student_model, tiny.validation, tiny)
    pruned = prune.apply(student_model, tiny, rounds=1, recipe=RECIPE, seed=0, fraction=0.01, tolerance=before)
    assert [row["epoch"] for row in pruned.history] == [0, 0]
    assert pruned.history[0] == {"round": 0, "epoch": 0, "sparsity": 0.0, "val_accuracy": before}


def test_pruning_goes_on_from_zeros_that_are_there(free, tiny):
    again = prune.apply(free, tiny, rounds=1, recipe=RECIPE, seed=0, fraction=0.5, tolerance=1.0)
    masks = networks_layers.masks_of(free)
    total, living = sum(m.numel() for m in masks.values()), sum(int(m.sum()) for m in masks.values())
    assert again.history[0]["sparsity"] == pytest.approx(networks_layers.sparsity(free))
    assert networks_layers.sparsity(again) == pytest.approx(1 - (living - round(0.5 * living)) / total)
    for name, weight in networks_layers.prunable(again).items():
        assert not weight[~masks[name]].any()


def test_an_unfinished_round_is_taken_up_again(student_model, tiny, recovered, tmp_path, monkeypatch, same_tensors):
    monkeypatch.setattr(checkpoints, "SECONDS", 0.0)
    for _ in range(2):
        found = prune.apply(student_model, tiny, rounds=2, recipe=RECIPE, seed=0, fraction=0.7, scratch=tmp_path)
        assert same_tensors(found, recovered) and found.history == recovered.history
    assert [p.name for p in sorted(tmp_path.iterdir())] == ["imp-round1.safetensors", "imp-round2.safetensors"]


def test_a_round_that_training_only_made_worse_keeps_the_untrained_weights(student_model, tiny, monkeypatch):
    def fit(model, data, recipe, **options):
        for weight in networks_layers.prunable(model).values():
            weight.data.mul_(0)
        return [{"epoch": 1, "val_accuracy": 0.0}]

    monkeypatch.setattr(loop, "fit", fit)
    kept = prune.apply(student_model, tiny, rounds=1, recipe=RECIPE, seed=0, fraction=0.9, tolerance=0.0)
    for name, weight in networks_layers.prunable(kept).items():
        living = weight != 0
        assert torch.equal(weight[living], student_model.get_parameter(name)[living])
    assert networks_layers.sparsity(kept) == pytest.approx(0.9, abs=0.01)


# --- ways of pruning compared -----------------------------------------------------------------------------------

LEVELS = [0.5, 0.8]
STEP = Recipe(epochs=1, lr=5e-3, batch_size=50, augmentation="none")
COMMON = {"recipe": STEP, "seed": 3}


@pytest.fixture(scope="module")
def ways(student_model, tiny):
    """Method → the student at each of LEVELS."""
    initial = networks_spec.create("convnet", 0, **student_model.spec["args"])
    found = {}
    for method in prune.METHODS:
        like = [networks_layers.masks_of(m) for m in found["pretrained"]] if method == "random" else None
        found[method] = prune.trajectory(
            student_model, tiny, LEVELS, method=method, initial=initial, like=like, **COMMON
        )
    return found


def test_every_way_reaches_each_sparsity_exactly(ways, student_model):
    total = sum(w.numel() for w in networks_layers.prunable(student_model).values())
    for method, found in ways.items():
        zeros = [sum(int((w == 0).sum()) for w in networks_layers.prunable(m).values()) for m in found]
        assert zeros == [round(s * total) for s in LEVELS], method
        assert all(len(m.history) == STEP.epochs for m in found)


def test_iterative_ways_never_bring_a_weight_back(ways):
    for method in ("pretrained", "initial", "learning_rate"):
        first, second = (networks_layers.masks_of(m) for m in ways[method])
        assert all((first[name] | ~second[name]).all() for name in first), method


def test_random_positions_keep_the_density_of_each_layer_and_nothing_else(ways):
    for ours, theirs in zip(ways["random"], ways["pretrained"], strict=True):
        a, b = networks_layers.masks_of(ours), networks_layers.masks_of(theirs)
        assert {n: int(m.sum()) for n, m in a.items()} == {n: int(m.sum()) for n, m in b.items()}
        assert any(not torch.equal(a[n], b[n]) for n in a)


def start_values(student_model, tiny, monkeypatch, method, **more):
    """The weights with which training began at each level."""
    seen = []

    def fit(model, *_, **__):
        seen.append({n: w.detach().clone() for n, w in networks_layers.prunable(model).items()})
        with torch.no_grad():
            for w in networks_layers.prunable(model).values():
                w.mul_(1.5)  # what training did
        return [{"val_accuracy": 0.5}]

    monkeypatch.setattr(loop, "fit", fit)
    prune.trajectory(student_model, tiny, LEVELS, method=method, **COMMON, **more)
    return seen


def test_survivors_start_from_what_the_method_says(student_model, tiny, monkeypatch):
    trained = networks_layers.prunable(student_model)
    initial = networks_spec.create("convnet", 0, **student_model.spec["args"])
    first = networks_layers.prunable(initial)
    for method, source in (("pretrained", trained), ("one_shot", trained), ("initial", first)):
        for seen in start_values(student_model, tiny, monkeypatch, method, initial=initial):
            assert all(torch.equal(seen[n][seen[n] != 0], source[n][seen[n] != 0]) for n in seen), method
    one, two = start_values(student_model, tiny, monkeypatch, "learning_rate")
    assert all(torch.equal(two[n][two[n] != 0], 1.5 * one[n][two[n] != 0]) for n in one)


def test_one_shot_removes_the_smallest_trained_weights(ways, student_model):
    weights = torch.cat([w.detach().abs().flatten() for w in networks_layers.prunable(student_model).values()])
    for sparsity, m in zip(LEVELS, ways["one_shot"], strict=True):
        kept = torch.cat([mask.flatten() for mask in networks_layers.masks_of(m).values()])
        assert weights[kept].min() >= weights[~kept].max() and kept.sum() == len(weights) - round(
            sparsity * len(weights)
        )


def test_a_model_with_more_zeros_than_asked_for_keeps_them_all(student_model, tiny):
    model, none = networks_layers.duplicate(student_model), Recipe(epochs=0)
    for layer in networks_layers.weight_layers(model).values():
        layer.weight.data[layer.weight.abs() < layer.weight.abs().flatten().quantile(0.8)] = 0
    zeros = networks_layers.masks_of(model)
    few, many = prune.trajectory(model, tiny, [0.5, 0.95], method="one_shot", recipe=none, seed=0)
    assert all(torch.equal(networks_layers.masks_of(few)[name], mask) for name, mask in zeros.items())
    assert sum(int(m.sum()) for m in networks_layers.masks_of(many).values()) < sum(
        int(m.sum()) for m in zeros.values()
    )


@pytest.mark.parametrize(
    "wrong, message",
    [
        ({"method": "magic"}, "method='magic': expected one of pretrained"),
        ({"sparsities": [0.8, 0.5]}, r"sparsities=\[0.8, 0.5\]"),
        ({"sparsities": [1.0]}, "sparsities"),
        ({"method": "initial"}, "method='initial': expected initial"),
        ({"method": "random", "like": []}, "method='random': expected masks"),
    ],
    ids=str,
)
def test_what_a_trajectory_cannot_do_is_named(student_model, tiny, wrong, message):
    arguments = {"sparsities": LEVELS, "method": "pretrained", **COMMON, **wrong}
    with pytest.raises(ValueError, match=message):
        prune.trajectory(student_model, tiny, **arguments)


def test_the_first_class_to_lose_is_named_and_so_is_that_none_does():
    rows = [("cat", 0.5, -2.0), ("dog", 0.5, 1.0), ("cat", 0.9, -12.0), ("dog", 0.9, -30.0), ("cat", 0.99, -90.0)]
    hurt = pd.DataFrame(rows, columns=["class", "sparsity", "points"])
    assert first_to_lose(hurt, 10) == "The first class to lose 10 points is dog, at 90.0% zeros."
    assert first_to_lose(hurt, 2) == "The first class to lose 2 points is cat, at 50.0% zeros."
    assert first_to_lose(hurt, 91) == "No class loses 91 points."
