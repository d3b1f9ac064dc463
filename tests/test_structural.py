"""Filters and neurons taken out: the smaller network gives what the larger gives while they are zero."""

import dataclasses
import logging

import pytest
import torch
from torch import nn

from studylib import settings
from studylib.networks import blocks, channels, filters, layers, saliency, spec
from studylib.techniques import structural
from studylib.training import loop
from studylib.training.recipe import Recipe
from tests.test_properties import NETWORKS

SEEN = {"calibration_images": 60, "seed": 4}
IMAGES = torch.randn(16, 1, 8, 8, generator=torch.Generator().manual_seed(1))


def network(name, **args):
    """An untrained network whose batch norms are as training leaves them."""
    model = spec.create(name, 0, in_channels=1, image_size=8, classes=10, **(NETWORKS.get(name, {}) | args))
    draw = torch.Generator().manual_seed(0)
    for norm in (module for module in model.modules() if isinstance(module, nn.BatchNorm2d)):
        for tensor in (norm.weight, norm.bias, norm.running_mean):
            tensor.data.normal_(generator=draw)
        norm.running_var.uniform_(0.5, 2, generator=draw)
    return model.eval()


def size(model):
    return sum(parameter.numel() for parameter in model.parameters())


@pytest.mark.parametrize("name", NETWORKS)
@torch.no_grad()
def test_without_filters_a_network_gives_what_it_gives_while_they_are_zero(name):
    model = network(name)
    found = filters.of(model)
    draw = torch.Generator().manual_seed(2)
    chosen = set()
    for family in found.families.values():
        order = torch.randperm(len(family), generator=draw).tolist()
        chosen |= {family[i] for i in order[: len(family) // 2]}
    masked = filters.masked(model, found, chosen)
    removed, structure = filters.removed(model, found, chosen)
    expected, outputs = masked(IMAGES), removed(IMAGES)
    assert (outputs - expected).abs().max() <= 1e-5 * expected.abs().max()
    assert (expected - model(IMAGES)).abs().max() > 1e-3 * expected.abs().max()  # else nothing was tried
    assert size(removed) < size(model) and layers.sparsity(removed) < layers.sparsity(masked)
    again = network(name)
    channels.narrow(again, structure)
    assert {n: t.shape for n, t in again.state_dict().items()} == {n: t.shape for n, t in removed.state_dict().items()}


EXPECTED = {  # network → its families' first layers, or how many they are
    "convnet": ["features.0.conv", "features.2.conv", "features.4.conv", "fc1", "fc2"],
    "resnet": [
        *("features.stem.conv", "features.stage1.0.first.conv", "features.stage2.0.first.conv"),
        *("features.stage2.0.second.conv", "features.stage3.0.first.conv", "features.stage3.0.second.conv"),
    ],
    "gated": [f"stage{i}.{j}.gate" for i in (1, 2) for j in range(3)],
}


@pytest.mark.parametrize("name", EXPECTED)
def test_what_goes_together_is_one_family(name):
    assert sorted(filters.of(network(name)).families) == sorted(EXPECTED[name])


def test_the_filters_of_least_norm_go_and_the_others_stay_as_they_are():
    model = network("convnet")
    made = structural.apply(model, fraction=0.5)
    order = model.features[0].conv.weight.flatten(1).norm(dim=1).argsort()
    kept = sorted(order[2:].tolist())
    assert torch.equal(made.features[0].conv.weight, model.features[0].conv.weight[kept])
    assert torch.equal(made.features[0].norm.running_var, model.features[0].norm.running_var[kept])
    neurons = sorted(model.fc2.weight.norm(dim=1).argsort()[4:].tolist())  # round(4.5) of 9 go
    assert made.fc2.bias.tolist() == model.fc2.bias[neurons].tolist()
    assert [made.features[i].conv.out_channels for i in (0, 2, 4)] == [2, 3, 4]
    assert (made.fc1.in_features, made.fc1.out_features, made.fc2.out_features, made.fc3.out_features) == (4, 6, 5, 10)


def test_by_batch_norm_the_smallest_scales_go_and_layers_without_are_left_alone(caplog):
    model = network("convnet")
    with caplog.at_level(logging.INFO, "studylib"):
        made = structural.apply(model, fraction=0.5, criterion="batch_norm")
    for i in (0, 2, 4):
        scales = model.features[i].norm.weight.abs()
        assert made.features[i].norm.weight.abs().min() >= scales.sort().values[len(scales) // 2]
    assert made.fc1.out_features == 12 and "fc1 is left alone: it has no batch norm" in caplog.text
    assert made.spec["changes"][-1]["of"] == 18


def test_by_batch_norm_a_channel_is_worth_the_mean_of_its_scales_however_many_they_are():
    model = network("resnet")
    found = filters.of(model)
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.weight.copy_(torch.linspace(-1, 2, len(module.weight)))
    worth = structural.worth(model, found, None)
    for family in found.families.values():
        expected = torch.linspace(-1, 2, len(family)).abs()
        assert [worth[channel] for channel in family] == pytest.approx(expected.tolist())


@pytest.mark.parametrize("criterion", ["activation", "gradient"])
def test_a_filter_is_worth_the_norm_of_what_its_weights_are_worth(criterion, student_model, digits):
    values = saliency.saliencies(student_model, digits, criterion=criterion, **SEEN)
    found = filters.of(student_model)
    worth = structural.worth(student_model, found, values)
    for channel in found.families["features.2.conv"]:
        expected = values["features.2.conv.weight"][channel[1]].double().norm().item()
        assert worth[channel] == pytest.approx(expected, rel=1e-6)
    made = structural.apply(student_model, digits, fraction=0.25, criterion=criterion, **SEEN)
    gone = sorted(found.families["fc1"], key=worth.__getitem__)[:4]
    kept = [row for row in range(16) if ("fc1", row) not in gone]
    assert torch.equal(made.fc1.bias, student_model.fc1.bias[kept])


def test_rows_that_are_added_are_worth_their_norm_together():
    model = network("resnet")
    found = filters.of(model)
    worth = structural.worth(model, found, saliency.saliencies(model))
    made = ["features.stem.conv", "features.stage1.0.second.conv"]
    for channel in found.families["features.stem.conv"]:
        rows = torch.cat([model.get_submodule(name).weight[channel[1]].flatten() for name in made])
        assert worth[channel] == pytest.approx(rows.norm().item(), rel=1e-5)


FAMILIES = {"a": [("a", i) for i in range(10)], "b": [("b", i) for i in range(4)]}
WORTH = {("a", i): 10.0 + i for i in range(10)} | {("b", i): 1.0 + i for i in range(4)}


def test_each_family_loses_the_share_and_keeps_one_at_least():
    found = structural.least(FAMILIES, WORTH, 0.3, "layer")
    assert found == {("a", 0), ("a", 1), ("a", 2), ("b", 0)}
    almost = structural.least(FAMILIES, WORTH, 0.99, "layer")
    assert set(WORTH) - almost == {("a", 9), ("b", 3)}


def test_together_families_lose_the_share_of_what_is_least_beside_their_means():
    found = structural.least(FAMILIES, WORTH, 0.3, "global")
    assert len(found) == round(0.3 * 14) and found == {("b", 0), ("b", 1), ("a", 0), ("a", 1)}
    almost = structural.least(FAMILIES, WORTH, 0.99, "global")
    assert set(WORTH) - almost == {("a", 9), ("b", 3)}
    flat = {channel: 0.0 for channel in WORTH}
    assert len(structural.least(FAMILIES, flat, 0.5, "global")) == 7


class Shares(nn.Module):
    """Its channels are each divided by the sum over all: without one the others are larger."""

    def __init__(self, in_channels=1, image_size=8, classes=10):
        super().__init__()
        self.first, self.second = blocks.ConvUnit(in_channels, 6, 3), blocks.ConvUnit(6, 8, 3)
        self.last = nn.Linear(8, classes)

    def forward(self, x):
        return self.last(self.second(self.first(x).softmax(1)).mean((2, 3)))


def test_where_absence_is_not_the_same_as_zero_channels_stay(monkeypatch, caplog):
    monkeypatch.setitem(spec.ARCHITECTURES, "shares", Shares)
    model = network("shares")
    with caplog.at_level(logging.INFO, "studylib"):
        made = structural.apply(model, fraction=0.5)
    assert "first.conv: its channels stay: the network gives other numbers" in caplog.text
    assert (made.first.conv.out_channels, made.second.conv.out_channels) == (6, 4)
    found = filters.of(model)
    assert list(found.families) == ["second.conv"]
    with pytest.raises(ValueError, match=r"without channels of first.conv the network gives other numbers"):
        filters.removed(model, found, {("first.conv", 1)})
    with pytest.raises(ValueError, match=r"second.conv: expected at least one row to stay"):
        filters.removed(model, found, set(found.families["second.conv"]))


class Turns(nn.Module):
    """Which way an image goes depends on it."""

    def __init__(self, in_channels=1, image_size=8, classes=10):
        super().__init__()
        self.first, self.last = nn.Conv2d(in_channels, 6, 3), nn.Linear(6, classes)

    def forward(self, x):
        y = self.first(x).mean((2, 3))
        return self.last(y if y.sum() > 0 else -y)


def test_a_network_that_cannot_be_traced_is_refused(monkeypatch):
    monkeypatch.setitem(spec.ARCHITECTURES, "turns", Turns)
    with pytest.raises(ValueError, match="the network cannot be traced"):
        structural.apply(network("turns"))


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"fraction": 0.0}, "fraction=0.0: expected above 0"),
        ({"fraction": 1.0}, "fraction=1.0: expected below 1"),
        ({"criterion": "magic"}, "criterion='magic': expected one of"),
        ({"scope": "row"}, "scope='row': expected one of"),
    ],
)
def test_a_setting_out_of_range_is_named(wrong, message):
    with pytest.raises(ValueError, match=message):
        structural.apply(network("convnet"), **wrong)
    with pytest.raises(settings.SettingError, match=f"structural.{message}"):
        settings.read(structural.Structural, wrong, "structural")


def test_the_record_has_the_defaults_of_the_function(same_tensors):
    model = network("convnet")
    plain = structural.apply(model)
    assert same_tensors(plain, structural.apply(model, **dataclasses.asdict(structural.Structural())))


def test_int8_layers_and_networks_without_batch_norm_are_refused(int8_model):
    with pytest.raises(ValueError, match="expected a convolution or linear layer"):
        structural.apply(int8_model)
    with pytest.raises(ValueError, match="criterion='batch_norm': no channel can be taken out"):
        structural.apply(network("gated"), criterion="batch_norm")


@pytest.mark.parametrize("widths", [[0, 1], [99, 1], [4, 2]], ids=str)
def test_widths_that_no_slicing_gives_are_refused(widths):
    with pytest.raises(blocks.SpecError, match=r"features.0.conv: widths"):
        channels.narrow(network("convnet"), {"widths": {"features.0.conv": widths}})


def test_the_smaller_network_can_be_pruned_again_and_trained(student_model, tiny):
    once = structural.apply(student_model, fraction=0.25)
    twice = structural.apply(once, fraction=0.25)
    assert size(twice) < size(once) < size(student_model)
    assert [change["technique"] for change in twice.spec["changes"]][-2:] == ["structural"] * 2
    history = loop.fit(twice, tiny, Recipe(epochs=3, lr=5e-3, batch_size=50), seed=0)
    assert history[-1]["train_loss"] < history[0]["train_loss"]
    assert {n: t.shape for n, t in spec.build(twice.spec).state_dict().items()} == {
        n: t.shape for n, t in twice.state_dict().items()
    }
