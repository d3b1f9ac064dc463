"""Criteria of pruning, and the techniques that zero single weights, kernels, and all but N of M."""

import copy
import dataclasses
import logging

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from studylib import settings
from studylib.networks import layers, saliency, spec
from studylib.techniques import kernels, oneshot, prune, semistructured, threshold
from studylib.training import loop
from studylib.training.recipe import Recipe

SEEN = {"calibration_images": 60, "seed": 4}
CRITERIA = list(saliency.CRITERIA)


def seen(data):
    order = torch.randperm(len(data.train), generator=torch.Generator().manual_seed(SEEN["seed"]))
    return data.train.take(order[: SEEN["calibration_images"]])


def magnitudes(values, masks, kept):
    flat = {name: value.abs()[masks[name] == kept] for name, value in values.items()}
    return torch.cat(list(flat.values()))


# --- criteria -----------------------------------------------------------------------------------------------------


def test_magnitude_is_the_weight_itself(student_model):
    found = saliency.saliencies(student_model)
    assert all(torch.equal(found[name], weight) for name, weight in layers.prunable(student_model).items())
    assert not any(value.requires_grad for value in found.values())


def rms(inputs: torch.Tensor) -> torch.Tensor:
    return inputs.double().square().mean([d for d in range(inputs.dim()) if d != 1]).sqrt()


@torch.no_grad()
def test_activation_is_the_weight_times_the_root_mean_square_of_its_input(student_model, digits):
    model, images = student_model, digits.normalize(seen(digits).images)
    found = saliency.saliencies(model, digits, criterion="activation", **SEEN)
    first = model.features[:2](images)
    expected = model.features[2].conv.weight * rms(first)[None, :, None, None]
    assert torch.allclose(found["features.2.conv.weight"].double(), expected, rtol=1e-5)
    hidden = torch.relu(model.fc1(model.features(images).flatten(1)))
    assert torch.allclose(found["fc2.weight"].double(), model.fc2.weight * rms(hidden), rtol=1e-5)


@torch.no_grad()
def test_in_a_convolution_in_groups_each_filter_reads_the_channels_of_its_own_group(digits):
    model = spec.create("gated", 0, **digits.model_args, width=12).eval()
    conv = model.halve[0]
    assert conv.groups == 4
    found = saliency.saliencies(model, digits, criterion="activation", **SEEN)["halve.0.weight"]
    read = rms(model.stage1(model.stem(digits.normalize(seen(digits).images))))
    for row in range(conv.out_channels):
        its = read.unflatten(0, (4, -1))[row // (conv.out_channels // 4)]
        assert torch.allclose(found[row].double(), conv.weight[row] * its[:, None, None], rtol=1e-4)


@torch.no_grad()
def test_gradient_is_the_slope_of_the_loss_as_weights_are_scaled(student_model, digits):
    found = saliency.saliencies(student_model, digits, criterion="gradient", **SEEN)
    split, model = seen(digits), copy.deepcopy(student_model).double().eval()
    images = digits.normalize(split.images).double()

    def slope(change):
        losses = []
        for step in (1e-4, -1e-4):
            changed = copy.deepcopy(model)
            change(changed, 1 + step)
            losses.append(digits.task.loss(changed, images, split.labels)[0].item())
        return (losses[0] - losses[1]) / 2e-4

    for name, value in found.items():
        whole = slope(lambda m, by, name=name: m.get_parameter(name).mul_(by))
        assert value.sum().item() == pytest.approx(whole, rel=2e-2, abs=2e-5), name
        place = value.abs().argmax()
        one = slope(lambda m, by, name=name, place=place: m.get_parameter(name).view(-1)[place].mul_(by))
        assert value.flatten()[place].item() == pytest.approx(one, rel=2e-2, abs=1e-6), name


@pytest.mark.parametrize("criterion", ["activation", "gradient"])
def test_a_model_is_left_as_it_was_by_what_ranks_it(criterion, student_model, digits, same_tensors):
    before = layers.duplicate(student_model)
    gradients = [copy.deepcopy(weight.grad) for weight in student_model.parameters()]
    saliency.saliencies(student_model, digits, criterion=criterion, **SEEN)
    assert same_tensors(student_model, before) and student_model.training == before.training
    for weight, gradient in zip(student_model.parameters(), gradients, strict=True):
        assert weight.requires_grad
        assert weight.grad is None if gradient is None else torch.equal(weight.grad, gradient)
    assert not any(module._forward_pre_hooks for module in student_model.modules())


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"criterion": "magic"}, "criterion='magic': expected one of magnitude, activation, gradient"),
        ({"criterion": "gradient"}, "criterion='gradient': expected data"),
        ({"criterion": "activation", "calibration_images": 0, "data": True}, "calibration_images=0: expected 1 to 100"),
        ({"criterion": "gradient", "calibration_images": 999, "data": True}, "calibration_images=999"),
    ],
)
def test_what_cannot_rank_is_named(student_model, tiny, asked, message):
    data = tiny if asked.pop("data", False) else None
    with pytest.raises(ValueError, match=message):
        saliency.saliencies(student_model, data, **asked)


def test_settings_are_held_against_the_data(tiny):
    few = {"calibration_images": 101}
    for kind in (oneshot.OneShot, threshold.Threshold, kernels.Kernels, semistructured.SemiStructured):
        for criterion in CRITERIA:
            with pytest.raises(ValueError, match="calibration_images=101: expected 1 to 100"):
                settings.read(kind, few | {"criterion": criterion}, "x").against(tiny)


# --- single weights -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scope", ["global", "layer"])
@pytest.mark.parametrize("criterion", CRITERIA)
def test_at_once_exactly_the_share_of_least_worth_goes(criterion, scope, student_model, digits):
    made = oneshot.apply(student_model, digits, sparsity=0.7, scope=scope, criterion=criterion, **SEEN)
    values = saliency.saliencies(student_model, digits, criterion=criterion, **SEEN)
    masks = layers.masks_of(made)
    pools = [list(masks)] if scope == "global" else [[name] for name in masks]
    for pool in pools:
        places = sum(masks[name].numel() for name in pool)
        assert sum(int((~masks[name]).sum()) for name in pool) == round(0.7 * places)
        its = {name: values[name] for name in pool}
        assert magnitudes(its, masks, True).min() >= magnitudes(its, masks, False).max()
    for name, weight in layers.prunable(made).items():
        assert torch.equal(weight, student_model.get_parameter(name) * masks[name])
    assert made.spec["changes"][-1] == {
        **{"technique": "oneshot", "scope": scope, "criterion": criterion},
        "sparsity": layers.sparsity(made),
    }


def test_criteria_choose_different_weights(student_model, digits):
    made = [oneshot.apply(student_model, digits, sparsity=0.7, criterion=name, **SEEN) for name in CRITERIA]
    masks = [torch.cat([mask.flatten() for mask in layers.masks_of(model).values()]) for model in made]
    assert not any(torch.equal(masks[i], masks[j]) for i, j in ((0, 1), (0, 2), (1, 2)))


@pytest.mark.parametrize("criterion", CRITERIA)
def test_what_was_zero_counts_and_stays_zero(criterion, student_model, digits):
    half = oneshot.apply(student_model, sparsity=0.5)
    zeros = layers.masks_of(half)
    total = sum(mask.numel() for mask in zeros.values())
    for sparsity, count in ((0.6, round(0.6 * total)), (0.3, round(0.5 * total))):
        masks = layers.masks_of(oneshot.apply(half, digits, sparsity=sparsity, criterion=criterion, **SEEN))
        assert sum(int((~mask).sum()) for mask in masks.values()) == count
        assert not any((masks[name] & ~zeros[name]).any() for name in masks)


@pytest.mark.parametrize("criterion", CRITERIA)
@pytest.mark.parametrize("unit", ["deviation", "absolute"])
def test_what_is_below_the_threshold_goes_and_nothing_else(unit, criterion, student_model, digits):
    values = saliency.saliencies(student_model, digits, criterion=criterion, **SEEN)
    absolute = float(magnitudes(values, {n: torch.ones_like(v) for n, v in values.items()}, 1).median())
    bound = {"deviation": 0.5, "absolute": absolute}[unit]
    made = threshold.apply(student_model, digits, bound=bound, unit=unit, criterion=criterion, **SEEN)
    for name, value in values.items():
        least = bound * (value.double().var(correction=0).sqrt() if unit == "deviation" else 1)
        near = (value.abs() - least).abs() < 1e-6 * least
        assert torch.equal((layers.prunable(made)[name] != 0) | near, (value.abs() >= least) | near)
    assert 0.2 < layers.sparsity(made) < 0.8


def test_a_threshold_above_every_weight_is_refused_with_the_largest_that_is_not(student_model):
    most = max(float(weight.detach().abs().max()) for weight in layers.prunable(student_model).values())
    with pytest.raises(ValueError, match=rf"bound=9.0: expected at most {most:.6g}"):
        threshold.apply(student_model, bound=9.0, unit="absolute")
    assert layers.sparsity(threshold.apply(student_model, bound=most * (1 - 1e-6), unit="absolute")) < 1


def test_iterative_pruning_takes_a_criterion(student_model, tiny):
    how = {"rounds": 2, "recipe": Recipe(epochs=0), "seed": 0, "fraction": 0.3, "tolerance": 1.0}
    made = {name: prune.apply(student_model, tiny, **how, criterion=name) for name in CRITERIA}
    assert len({layers.sparsity(model) for model in made.values()}) == 1
    plain = layers.masks_of(prune.apply(student_model, tiny, **how))
    same = [all(torch.equal(plain[n], m) for n, m in layers.masks_of(made[name]).items()) for name in CRITERIA]
    assert same == [True, False, False]
    with pytest.raises(ValueError, match="criterion='magic'"):
        prune.apply(student_model, tiny, **how, criterion="magic")


# --- groups of weights --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scope", ["global", "layer"])
@pytest.mark.parametrize("criterion", CRITERIA)
def test_kernels_go_whole_and_exactly_as_many_as_asked_for(criterion, scope, student_model, digits):
    made = kernels.apply(student_model, digits, sparsity=0.4, scope=scope, criterion=criterion, **SEEN)
    values = saliency.saliencies(student_model, digits, criterion=criterion, **SEEN)
    gone, kept, zeros = [], [], []
    for name, weight in layers.prunable(made).items():
        before = student_model.get_parameter(name)
        if before.dim() == 2:
            assert torch.equal(weight, before)
            continue
        alive = (weight != 0).flatten(2).any(2)
        assert torch.equal(weight, before * alive[:, :, None, None])
        worth = values[name].double().flatten(2).norm(dim=2) / 3
        gone.append(worth[~alive]), kept.append(worth[alive]), zeros.append((~alive).float())
    if scope == "layer":
        assert all(int(each.sum()) == round(0.4 * each.numel()) for each in zeros)
        assert all(low.max() <= high.min() for low, high in zip(gone, kept, strict=True))
    else:
        assert int(sum(each.sum() for each in zeros)) == round(0.4 * sum(each.numel() for each in zeros))
        assert torch.cat(gone).max() <= torch.cat(kept).min() * (1 + 1e-12)


def test_a_network_without_kernels_is_refused(monkeypatch, digits):
    class Linear(nn.Module):
        def __init__(self, in_channels=1, image_size=8, classes=10):
            super().__init__()
            self.last = nn.Linear(in_channels * image_size**2, classes)

    monkeypatch.setitem(spec.ARCHITECTURES, "linear", Linear)
    with pytest.raises(ValueError, match="no convolution has kernels"):
        kernels.apply(spec.create("linear", 0, **digits.model_args))


@given(
    shape=st.lists(st.integers(1, 9), min_size=2, max_size=4),
    n=st.integers(1, 5),
    more=st.integers(1, 5),
    levels=st.sampled_from([2, 1000]),
    seed=st.integers(0, 99),
)
def test_of_every_m_weights_the_n_largest_stay(shape, n, more, levels, seed):
    m, draw = n + more, torch.Generator().manual_seed(seed)
    worth = torch.randint(0, levels, shape, generator=draw).float()
    kept = semistructured.largest(worth, n, m)
    assert kept.shape == worth.shape
    for its, which in zip(worth.split(m, 1), kept.split(m, 1), strict=True):
        assert (which.sum(1) == min(n, its.shape[1])).all()
        least = its.masked_fill(~which, torch.inf).amin(1)
        assert (its.masked_fill(which, -1).amax(1) <= least).all()


@pytest.mark.parametrize(("n", "m"), [(2, 4), (1, 2), (1, 4), (4, 8), (3, 5)])
@pytest.mark.parametrize("criterion", CRITERIA)
def test_no_group_has_more_than_n_of_m_and_what_stays_is_unchanged(criterion, n, m, student_model, digits):
    made = semistructured.apply(student_model, digits, n=n, m=m, criterion=criterion, **SEEN)
    for name, weight in layers.prunable(made).items():
        before = student_model.get_parameter(name)
        assert all((part != 0).sum(1).max() <= n for part in weight.split(m, 1))
        assert torch.equal(weight, before * (weight != 0))
        full = before.shape[1] // m * m
        assert (weight[:, :full] != 0).sum() == before[:, :full].numel() * n // m


def test_the_groups_of_a_convolution_are_along_its_input_channels(student_model):
    made = semistructured.apply(student_model)
    weight = made.features[4].conv.weight
    for channels in range(0, weight.shape[1], 4):
        assert ((weight[:, channels : channels + 4] != 0).sum(1) == 2).all()  # in each filter, at each place
    assert torch.equal(made.features[0].conv.weight, student_model.features[0].conv.weight)  # it reads one channel


def test_zeros_that_were_there_count_among_those_of_a_group(student_model):
    once = semistructured.apply(student_model)
    twice = semistructured.apply(once)
    assert all(torch.equal(w, layers.prunable(twice)[name]) for name, w in layers.prunable(once).items())


# --- all of them --------------------------------------------------------------------------------------------------

WAYS = {
    "threshold": (threshold.apply, threshold.Threshold),
    "oneshot": (oneshot.apply, oneshot.OneShot),
    "kernels": (kernels.apply, kernels.Kernels),
    "semistructured": (semistructured.apply, semistructured.SemiStructured),
}
BAD = [
    ("threshold", {"bound": -1.0}, "bound=-1.0: expected at least 0"),
    ("threshold", {"unit": "percent"}, "unit='percent': expected one of"),
    ("oneshot", {"sparsity": 1.0}, "sparsity=1.0: expected below 1"),
    ("oneshot", {"scope": "row"}, "scope='row': expected one of 'global' or 'layer'"),
    ("kernels", {"sparsity": -0.1}, "sparsity=-0.1: expected at least 0"),
    ("kernels", {"criterion": "batch_norm"}, "criterion='batch_norm': expected one of"),
    ("semistructured", {"n": 4}, "n=4: expected below m=4"),
    ("semistructured", {"m": 65}, "m=65: expected at most 64"),
    ("semistructured", {"calibration_images": 0}, "calibration_images=0: expected at least 1"),
]


@pytest.mark.parametrize(("name", "wrong", "message"), BAD, ids=str)
def test_a_setting_out_of_range_is_named(name, wrong, message, student_model):
    apply, kind = WAYS[name]
    with pytest.raises(ValueError, match=message):
        apply(student_model, **wrong)
    with pytest.raises(settings.SettingError, match=rf"{name}.{message}"):
        settings.read(kind, wrong, name)


@pytest.mark.parametrize("name", WAYS)
def test_the_record_has_the_defaults_of_the_function(name, student_model, same_tensors):
    apply, kind = WAYS[name]
    plain, of_record = apply(student_model), apply(student_model, **dataclasses.asdict(kind()))
    assert same_tensors(plain, of_record) and plain.spec == of_record.spec


@pytest.mark.parametrize("name", WAYS)
def test_int8_layers_are_refused(name, int8_model):
    with pytest.raises(ValueError, match="prune before quantizing"):
        WAYS[name][0](int8_model)


def test_layers_that_are_left_alone_are_named(student_model, caplog):
    with caplog.at_level(logging.INFO, "studylib"):
        semistructured.apply(student_model)
        kernels.apply(student_model)
    assert "features.0.conv is left alone: it reads no more than 2" in caplog.text
    assert "fc1, fc2, fc3 are left alone: they have no kernels" in caplog.text


def test_training_after_it_holds_the_zeros(student_model, tiny):
    made = semistructured.apply(student_model)
    masks, before = layers.masks_of(made), layers.duplicate(made)
    loop.fit(made, tiny, Recipe(epochs=1, lr=1e-3, batch_size=50), seed=0, masks=masks, keep="last")
    for name, weight in layers.prunable(made).items():
        assert not weight[~masks[name]].any() and not torch.equal(weight, layers.prunable(before)[name])
