"""A controller chooses channels while a network trains: gates, budget, shrinking, and what is left of the network."""

import dataclasses
import math

import hypothesis
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from studylib import settings
from studylib.data import text
from studylib.disk import files
from studylib.networks import cost, filters, layers
from studylib.networks.gates import TOLERANCE, Gates
from studylib.techniques import controller
from studylib.techniques.controller import Controller, Guidance, Guided
from studylib.training import checkpoint as checkpoints
from studylib.training import deadline
from studylib.training.recipe import Recipe
from tests.test_properties import NETWORKS
from tests.test_structural import IMAGES, network

ARGS = {"in_channels": 1, "image_size": 8, "classes": 10}
SHORT = Recipe(epochs=6, lr=0.01, batch_size=16, augmentation="none")
OFTEN = Guidance(budget=0.4, every=1, share=0.2, lr=0.01, batch_size=20)


def some_open(gates, seed=3):
    """About half of the gates, at least one a family."""
    worth = torch.rand(len(gates), generator=torch.Generator().manual_seed(seed))
    return (worth > 0.5) | gates.best(worth)


@pytest.mark.parametrize(
    ("name", "args"), [*((name, {}) for name in NETWORKS), ("resnet", {"depth": 20}), ("resnet", {"depth": 56})]
)
@torch.no_grad()
def test_gates_that_are_shut_give_what_the_network_gives_without_the_channels(name, args):
    model = network(name, **args)
    gates = Gates(model)
    opened = some_open(gates)
    chosen = gates.closed(opened)
    sliced, _ = filters.removed(model, gates.found, chosen)
    with gates.on(model, opened.float()):
        outputs = model(IMAGES)
    for expected in (sliced(IMAGES), filters.masked(model, gates.found, chosen)(IMAGES)):
        assert (outputs - expected).abs().max() <= 1e-5 * expected.abs().max()
    assert (outputs - model(IMAGES)).abs().max() > 1e-3 * outputs.abs().max()  # and no gate is left in the model
    layers.check_untouched(model)


@pytest.mark.parametrize("name", NETWORKS)
def test_multiply_adds_by_gates_are_those_that_are_counted(name):
    model = network(name)
    gates = Gates(model)
    assert gates.full == cost.multiply_adds(model, ARGS)
    opened = some_open(gates)
    sliced, _ = filters.removed(model, gates.found, gates.closed(opened))
    assert int(gates.multiply_adds(opened)) == cost.multiply_adds(sliced, ARGS)


def test_a_gate_stands_behind_the_depthwise_convolution_that_filters_its_channel():
    model = network("mobilenetv2")
    gates = Gates(model)
    read = [part.name for part in gates.readers]
    assert not [name for name in read if "depthwise" in name] and "features.stage2.0.project.conv" in read
    name = "features.stage2.0.expand.conv"
    group = gates.found.rows({(name, 1)})
    behind = ["depthwise.conv", "depthwise.norm", "expand.conv", "expand.norm"]
    assert sorted(group) == [f"features.stage2.0.{each}" for each in behind] and set(map(tuple, group.values())) == {
        (1,)
    }


@pytest.mark.parametrize("name", ["convnet", "resnet", "densenet"])
def test_soft_gates_have_the_slopes_that_finite_differences_have(name):
    model = network(name).double()
    gates = Gates(network(name))
    draw = torch.Generator().manual_seed(5)
    noise = controller.gumbel(len(gates), draw).double()
    logits = (torch.randn(len(gates), generator=draw).double() - 3.5).requires_grad_()
    images, labels = IMAGES.double(), torch.arange(16) % 10

    def loss(logits):
        soft = controller.soft(logits, noise)
        with gates.on(model, soft):
            share = gates.multiply_adds(soft) / gates.full
            return nn.functional.cross_entropy(model(images), labels) + controller.distance(share, 0.3)

    (slopes,) = torch.autograd.grad(loss(logits), logits)
    assert slopes.abs().min() > 0
    for i in range(0, len(gates), 5):
        step = torch.zeros(len(gates)).double()
        step[i] = 1e-5
        with torch.no_grad():
            expected = (loss(logits + step) - loss(logits - step)) / 2e-5
        assert slopes[i].item() == pytest.approx(expected.item(), rel=1e-4, abs=1e-8)


def test_the_budget_pulls_by_open_gates_with_the_slope_of_soft_ones(tiny):
    gates = Gates(network("resnet"))
    step = Guided(gates, tiny, tiny.train, OFTEN, epochs=4, seed=0)
    logits = (torch.randn(len(gates), generator=torch.Generator().manual_seed(3)).double() - 3).requires_grad_()
    found = step.off_budget(logits)
    opened = ((logits > -3) | gates.best(logits)).double().detach()
    share = gates.multiply_adds(opened) / gates.full
    assert found.item() == pytest.approx(abs(math.log(share / OFTEN.budget))) and found > 0
    (slopes,) = torch.autograd.grad(found, logits)
    for i in range(0, len(gates), 4):
        toward = torch.eye(len(gates)).double()[i] * 1e-4
        slope = ((controller.soft(logits + toward) - controller.soft(logits - toward)) / 2e-4).detach()
        counts = [gates.multiply_adds(opened + sign * slope * 1e-4) / gates.full for sign in (1, -1)]
        expected = (counts[0].log() - counts[1].log()) / 2e-4 * (1 if share > OFTEN.budget else -1)
        assert slopes[i].item() == pytest.approx(expected.item(), rel=1e-3, abs=1e-9)


def test_there_is_no_pull_near_the_budget_and_one_towards_it_elsewhere():
    for share, sign in ((0.504, 0), (0.496, 0), (0.55, 1), (0.3, -1)):
        value = torch.tensor(share, requires_grad=True)
        controller.distance(value, 0.5).backward()
        assert value.grad.sign().item() == sign


def test_the_controller_starts_open_is_drawn_by_its_seed_and_reads_nothing():
    one, again, other = (Controller([4, 7, 2], seed) for seed in (0, 0, 1))
    assert torch.equal(one(), again()) and not torch.equal(one(), other()) and one().shape == (13,)
    assert (controller.soft(one()) > 0.5).all()
    inputs = one.inputs[:, 0]
    assert torch.allclose(inputs @ inputs.T, torch.eye(3), atol=1e-6) and not one.inputs.requires_grad
    assert [head.bias for head in one.heads] == [None] * 3


GATES = Gates(network("resnet", width=8))


@given(seed=st.integers(0, 1000), budget=st.floats(0.1, 0.95))
def test_a_budget_is_met_as_near_as_a_channel_allows_and_each_family_keeps_one(seed, budget):
    worth = torch.rand(len(GATES), generator=torch.Generator().manual_seed(seed))
    opened = GATES.at_budget(worth, budget)
    assert all(part.any() for part in opened.split(GATES.sizes))
    off = abs(int(GATES.multiply_adds(opened)) / GATES.full - budget)
    kept, gone = worth[opened & ~GATES.best(worth)], worth[~opened]
    assert not len(kept) or not len(gone) or kept.min() > gone.max()
    nearest = opened.clone()
    nearest[worth.masked_fill(opened, -1).argmax()] = True
    assert off <= abs(int(GATES.multiply_adds(nearest)) / GATES.full - budget)


def test_a_budget_below_a_channel_a_family_is_refused():
    gates = Gates(network("resnet", width=2))
    with pytest.raises(ValueError, match=r"budget=0.001: expected at least 0\.\d+, as each family keeps a channel"):
        gates.at_budget(torch.rand(len(gates)), 0.001)


def guided(model, data, guidance, epochs=6, seed=0):
    _, seen = controller.split(data, guidance.share, seed)
    step = Guided(Gates(model), data, seen, guidance, epochs=epochs, seed=seed)
    step.start(model)
    return step


@pytest.mark.parametrize("projection", ["proximal", "half_space"])
@hypothesis.settings(max_examples=8)
@given(seed=st.integers(0, 200), strength=st.sampled_from([0.0, 0.1, 3.0, 1e4]), lr=st.sampled_from([1e-6, 1e-2, 1.0]))
def test_shrinking_never_grows_a_group_and_leaves_open_ones_as_they_are(tiny, projection, seed, strength, lr):
    model = network("resnet")
    how = {"projection": projection, "strength": strength, "final_strength": max(strength, 1e-9)}
    step = guided(model, tiny, Guidance(share=0.2, **how))
    draw = torch.Generator().manual_seed(seed)
    step.opened, step._epochs = some_open(step.gates, seed), 5
    model.zero_grad()
    step.gradients(model, sum((p * torch.randn(p.shape, generator=draw)).sum() for p in model.parameters()), None, ())
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.1 * torch.randn(parameter.shape, generator=draw)
    before = {name: each.detach().clone() for name, each in model.named_parameters()}
    step.after(model, lr)
    norms, were = step.gates.products(dict(model.named_parameters())), step.gates.products(before)
    assert (norms <= were * (1 + 1e-6)).all() and torch.equal(norms[step.opened], were[step.opened])
    rows = step.gates.found.rows(step.gates.closed(step.opened))
    for name, parameter in model.named_parameters():  # what is no channel's is left alone
        stays = torch.ones(len(parameter), dtype=torch.bool)
        stays[rows.get(name.rpartition(".")[0], [])] = False
        assert torch.equal(parameter[stays], before[name][stays])


def test_a_closed_group_shrinks_by_its_familys_share_of_the_closed(tiny):
    model = network("convnet")
    step = guided(model, tiny, Guidance(share=0.2, strength=2.0), epochs=100)
    gates = step.gates
    step.opened[[0, 1, 5]] = False  # two of the first family, one of the second
    step._epochs = 35
    before = gates.products(dict(model.named_parameters())).sqrt()
    step._shrink(dict(model.named_parameters()), 0.03)
    after = gates.products(dict(model.named_parameters())).sqrt()
    expected = before.clone()
    expected[[0, 1]] -= 2.0 * 0.03 * 2 / 3
    expected[5] -= 2.0 * 0.03 / 3
    assert torch.allclose(after, expected, atol=1e-5)


def test_a_group_that_has_turned_away_is_zero_by_half_space_alone(tiny):
    zero = {}
    for projection in ("proximal", "half_space"):
        model = network("convnet")
        step = guided(model, tiny, Guidance(share=0.2, projection=projection), epochs=10)
        step.opened[0], step._epochs = False, 4
        step.gradients(model, sum(p.sum() for p in model.parameters()), None, ())
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.neg_()
        step.after(model, 1e-9)
        zero[projection] = int((step.gates.products(dict(model.named_parameters())) == 0).sum())
    assert zero == {"proximal": 0, "half_space": 1}


def test_the_controllers_images_are_none_of_the_weights_and_have_all_classes(digits):
    shown, seen = controller.split(digits, 0.1, seed=1)
    assert len(shown.train) + len(seen) == len(digits.train) and len(seen) == round(0.1 * len(digits.train))

    def known(split):
        return {(image.numpy().tobytes(), int(label)) for image, label in zip(split.images, split.labels, strict=True)}

    assert known(shown.train) | known(seen) == known(digits.train) and not known(shown.train) & known(seen)
    assert set(seen.labels.tolist()) == set(range(10))
    assert shown.validation is digits.validation and shown.test is digits.test
    with pytest.raises(ValueError, match=r"share=0.001: 1 of 600 training images; expected one of each of 10 classes"):
        controller.split(digits, 0.001, seed=1)


def test_what_has_no_classes_is_split_all_the_same():
    lines = text.load(text.Corpus(context=16, characters=12_000))
    shown, seen = controller.split(lines, 0.1, seed=0)
    assert len(seen) == round(0.1 * len(lines.train)) == len(lines.train) - len(shown.train)
    with pytest.raises(ValueError, match="expected one of each of 1 classes at least"):
        controller.split(lines, 1e-6, seed=0)


def test_the_weights_never_see_an_image_of_the_controllers_nor_it_one_of_theirs(tiny):
    shown, held = controller.split(tiny, OFTEN.share, seed=0)
    seen = {"weights": set(), "controller": set()}

    def known(images):
        return {image.contiguous().numpy().tobytes() for image in images}

    def loss(model, images, labels, **more):
        seen["weights" if isinstance(model, nn.Module) else "controller"] |= known(images)
        return tiny.task.loss(model, images, labels, **more)

    data = dataclasses.replace(tiny, task=dataclasses.replace(tiny.task, loss=loss))
    controller.train(network("convnet"), data, recipe=SHORT, seed=0, guidance=OFTEN)
    expected = {"weights": shown.train.images, "controller": held.images}
    assert seen == {who: known(tiny.normalize(images)) for who, images in expected.items()}
    assert not seen["weights"] & seen["controller"] and len(seen["controller"]) == len(held)


def test_a_step_of_the_controller_leaves_the_network_as_it_is(tiny, same_tensors):
    model = network("densenet").train()
    step = guided(model, tiny, OFTEN)
    before, logits = layers.duplicate(model), step.controller()
    step.after(model, 0.1)
    assert same_tensors(model, before) and not torch.equal(step.controller(), logits)
    assert all(parameter.grad is None for parameter in model.parameters())
    layers.check_untouched(model)


def test_no_noise_decides_which_channels_are_kept(tiny):
    model = network("convnet")
    step = guided(model, tiny, OFTEN, epochs=20)
    with torch.no_grad():
        for head in step.controller.heads:
            head.weight.normal_(-0.03, 0.02, generator=torch.Generator().manual_seed(0))
    logits = step.controller()
    row = step.row()
    assert torch.equal(step.opened, (logits > -3) | step.gates.best(logits))
    assert 0 < row["closed"] == row["turned"] == int((~step.opened).sum()) and row["moved"] == 0
    assert row["share"] == int(step.gates.multiply_adds(step.opened)) / step.gates.full


def test_a_group_that_is_zero_when_its_gate_opens_starts_anew_and_lives(tiny):
    model, guidance = network("resnet").train(), dataclasses.replace(OFTEN, strength=1e9)
    step = guided(model, tiny, guidance, epochs=20)
    weights, gates = dict(model.named_parameters()), step.gates
    first = {name: each.detach().clone() for name, each in weights.items()}
    step.opened, step._epochs = some_open(gates), 7
    shut = ~step.opened
    step._shrink(weights, 1.0)
    assert torch.equal(gates.products(weights) == 0, shut)
    with torch.no_grad():  # the controller opens what it shut, but for one
        for head in step.controller.heads:
            head.weight.zero_()
        step.controller.heads[0].weight[int(shut.nonzero()[0])].fill_(-1e6)
    row = step.row()
    assert row["anew"] == int(shut.sum()) - 1 == int((step.opened & shut).sum()) and row["closed"] == 1
    opened = step.opened & shut
    assert torch.equal(gates.products(weights)[opened], gates.products(first)[opened])
    images = tiny.normalize(tiny.train.images[:64])
    nn.functional.cross_entropy(model(images), tiny.train.labels[:64]).backward()
    slopes = gates.products({name: each.grad for name, each in weights.items()})
    assert (slopes[opened] > 0).float().mean() > 0.8 and step.row()["anew"] == 0


def test_the_last_choice_is_the_nearest_to_the_budget_that_the_logits_give(tiny):
    step = guided(network("resnet"), tiny, OFTEN, epochs=4)
    with torch.no_grad():
        for head in step.controller.heads:
            head.weight.normal_(0, 0.05, generator=torch.Generator().manual_seed(0))
    logits = step.controller()
    assert step.row()["moved"] == 0 and not step.frozen and torch.equal(step.opened, step._above(logits, -3))
    drawn = step.opened
    row, nearest = step.row(), step.gates.at_budget(logits, OFTEN.budget)
    assert step.frozen and torch.equal(step.opened, nearest) and row["moved"] == int((nearest != drawn).sum()) > 0


@pytest.fixture(scope="module")
def trained(digits):
    """A ResNet of eight layers, guided on the digits."""
    recipe = Recipe(epochs=10, lr=0.01, batch_size=32, augmentation="none")
    model = network("resnet", width=12)
    return controller.train(model, digits, recipe=recipe, seed=0, guidance=dataclasses.replace(OFTEN, every=2))


def test_trained_so_it_meets_the_budget_and_is_the_same_masked_and_sliced(trained, digits):
    sliced, _ = trained.sliced()
    share = cost.multiply_adds(sliced, ARGS) / trained.gates.full
    assert abs(share - 0.4) <= 0.4 * TOLERANCE and trained.history[-1]["share"] == share
    images = digits.normalize(digits.test.images[:100])
    with torch.no_grad():
        outputs, expected = sliced(images), trained.masked(images)
    assert (outputs - expected).abs().max() <= 1e-5 * expected.abs().max()
    score = digits.task.scores(outputs, digits.test.labels[:100])
    assert score["accuracy"] > 0.8


def test_it_closes_in_the_first_half_and_shrinks_what_is_closed(trained):
    rows = trained.history
    assert [row["turned"] for row in rows[5:]] == [0] * 5 and sum(row["turned"] for row in rows[:5]) > 0
    assert [row["controller_loss"] is None for row in rows] == [False] * 5 + [True] * 5
    assert rows[-1]["zero"] > 0.8 and rows[1]["zero"] == 0
    assert len({row["closed"] for row in rows[4:]}) == 1 and rows[4]["closed"] == int((~trained.opened).sum())


@pytest.mark.parametrize("projection", ["proximal", "half_space"])
def test_taken_up_again_it_ends_as_if_it_had_not_been_stopped(tiny, tmp_path, monkeypatch, same_tensors, projection):
    guidance = dataclasses.replace(OFTEN, projection=projection)

    def run(scratch=None):
        return controller.apply(network("convnet"), tiny, recipe=SHORT, seed=2, guidance=guidance, scratch=scratch)

    undisturbed = run()
    monkeypatch.setattr(checkpoints, "SECONDS", 0.0)
    left = deadline.left
    for epochs in (2, 3):  # while the controller learns, and once the choice is final
        seconds = iter([1e9] * epochs + [-1e9])
        monkeypatch.setattr(deadline, "left", seconds.__next__)
        with pytest.raises(deadline.Paused):
            run(tmp_path)
    assert len(files.read_tensors(tmp_path / "controller.safetensors")[1]["history"]) == 5
    monkeypatch.setattr(deadline, "left", left)
    resumed = run(tmp_path)
    assert same_tensors(resumed, undisturbed) and resumed.spec == undisturbed.spec
    rows = [[{k: v for k, v in row.items() if k != "seconds"} for row in m.history] for m in (resumed, undisturbed)]
    assert rows[0] == rows[1] and len(rows[0]) == 6


def test_another_guidance_does_not_go_on_from_a_checkpoint(tiny, tmp_path):
    for guidance in (OFTEN, dataclasses.replace(OFTEN, budget=0.6)):
        made = controller.apply(network("convnet"), tiny, recipe=SHORT, seed=2, guidance=guidance, scratch=tmp_path)
        alone = controller.apply(network("convnet"), tiny, recipe=SHORT, seed=2, guidance=guidance)
        assert [p.shape for p in made.parameters()] == [p.shape for p in alone.parameters()]
        assert all(torch.equal(a, b) for a, b in zip(made.parameters(), alone.parameters(), strict=True))


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"budget": 1.0}, "budget=1.0: expected below 1"),
        ({"projection": "magic"}, "projection='magic': expected one of"),
        ({"freeze": 0.0}, "freeze=0.0: expected above 0"),
    ],
)
def test_a_setting_out_of_range_is_named(wrong, message):
    with pytest.raises(settings.SettingError, match=f"guidance.{message}"):
        settings.read(Guidance, wrong, "guidance")


def test_labels_are_smoothed_but_once_and_a_budget_that_cannot_be_met_is_refused(tiny):
    with pytest.raises(ValueError, match=r"label_smoothing=0.1"):
        recipe = dataclasses.replace(SHORT, label_smoothing=0.1)
        controller.train(network("convnet"), tiny, recipe=recipe, seed=0, guidance=OFTEN)
    with pytest.raises(ValueError, match=r"budget=0.01: expected at least"):
        guidance = dataclasses.replace(OFTEN, budget=0.01)
        controller.train(network("convnet"), tiny, recipe=SHORT, seed=0, guidance=guidance)


@pytest.mark.parametrize(
    ("wrong", "epochs", "said"),
    [
        ({}, 1, "warm=0.3: epoch 1 of 1"),
        ({"warm": 0.95}, 6, "warm=0.95: epoch 6 of 6"),
        ({"freeze": 1.0}, 6, "freeze=1.0: epoch 6 of 6"),
    ],
)
def test_a_choice_after_which_nothing_shrinks_is_refused(tiny, wrong, epochs, said):
    guidance, recipe = dataclasses.replace(OFTEN, **wrong), dataclasses.replace(SHORT, epochs=epochs)
    with pytest.raises(ValueError, match=f"{said}; expected one before the last"):
        controller.train(network("convnet"), tiny, recipe=recipe, seed=0, guidance=guidance)


@pytest.mark.parametrize(("epochs", "every", "most"), [(6, 16, 15), (2, 6, 5)])
def test_a_controller_that_would_never_learn_is_refused(tiny, epochs, every, most):
    """Of 100 images it has 20; 80 in batches of 16 are 5 steps an epoch, and half of the epochs count."""
    guidance, recipe = dataclasses.replace(OFTEN, every=every), dataclasses.replace(SHORT, epochs=epochs)
    with pytest.raises(ValueError, match=f"every={every}: expected at most {most}, the steps until the choice"):
        controller.train(network("convnet"), tiny, recipe=recipe, seed=0, guidance=guidance)


def test_a_network_without_channels_that_can_go_has_no_gates(monkeypatch):
    model = network("convnet")
    none = dataclasses.replace(filters.of(model), families={})
    monkeypatch.setattr(filters, "of", lambda model: none)
    with pytest.raises(ValueError, match="no channel can be taken out"):
        Gates(model)
