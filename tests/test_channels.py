"""Who reads which channel, of any network, and what is sliced away or refused."""

import copy
import json
import logging
import re
import sys
from pathlib import Path

import pytest
import torch
import torchvision
from torch import nn

from studylib.coding import codec, restore, shipped
from studylib.networks import blocks, channels, factors, int8_layers, layers, slicing, spec
from studylib.techniques import int8
from tests.test_shipped import network

ROOT = Path(__file__).parents[1]
BEFORE = json.loads(Path(__file__).with_name("slices_before.json").read_text())  # what hand-written readers gave
PATTERNS = ("a third of all rows", "a third of some rows", "columns", "one row left")
IMAGES = torch.randn(16, 3, 16, 16, generator=torch.Generator().manual_seed(1))


@torch.no_grad()
def outputs(model, images=IMAGES):
    return model(images)


def assert_same(model, expected, images=IMAGES):
    found, wanted = outputs(model, images), outputs(expected, images)
    assert wanted.std(0).max() > 1e-3 * wanted.abs().max()  # else they say nothing
    assert (found - wanted).abs().max() <= 1e-5 * wanted.abs().max()


def widths(model):
    return {name: tuple(layer.weight.shape[:2]) for name, layer in layers.weight_layers(model).items()}


# --- networks that were sliced by hand-written lists of readers ---------------------------------------------------


@torch.no_grad()
def kill(model: nn.Module, pattern: str) -> nn.Module:
    """``model`` without the rows or columns that ``pattern`` says, whose bias is below or above zero by turns."""
    found = list(layers.weight_layers(model).items())
    for k, (name, layer) in enumerate(found):
        rows, columns = torch.arange(len(layer.weight)), torch.arange(layer.weight.shape[1])
        if pattern == "columns":
            layer.weight[:, columns % 3 == 1] = 0
        elif k < len(found) - 1 and (pattern != "a third of some rows" or k % 3):
            gone = rows > 0 if pattern == "one row left" else rows % 3 == 1
            layer.weight[gone] = 0
            unit = model.get_submodule(name.rpartition(".")[0])
            bias = getattr(unit, "norm", layer).bias
            if bias is not None:
                bias[gone] = torch.where(rows[gone] % 2 == 0, 0.5, -0.5)
            if hasattr(unit, "norm"):
                unit.norm.running_mean[gone] = 0
    return model


def in_int8(model: nn.Module, activations: str = "static") -> nn.Module:
    """``model`` in int8 layers with the same zeros and biases."""
    floats = folded(model)
    structure = {"module": "quantize", "layers": list(layers.weight_layers(model)), "activations": activations}
    int8_layers.restructure(model, structure)
    for name, layer in layers.weight_layers(model).items():
        plain = floats.get_submodule(name)
        layer.weight.copy_(torch.where(plain.weight == 0, 0, 3))
        if layer.bias is not None:
            layer.bias.copy_(plain.bias.detach())
    return spec.with_change(model, "int8", {}, structure).eval()


def factorized(model: nn.Module) -> nn.Module:
    """``model`` with two layers of half the rank in the place of each linear one."""
    linear = {n: min(m.weight.shape) // 2 for n, m in layers.weight_layers(model).items() if isinstance(m, nn.Linear)}
    structure = {"module": "lowrank", "ranks": linear}
    factors.restructure(model, structure)
    return spec.with_change(model, "svd", {}, structure).eval()


def folded(model: nn.Module) -> nn.Module:
    return shipped.apply(model, slice_dead=False)


def as_it_is(model: nn.Module) -> nn.Module:
    return model


FORMS = {  # what is done before channels are made dead, and after
    "plain": (as_it_is, as_it_is),
    "folded": (as_it_is, folded),
    "factorized": (factorized, as_it_is),
    "int8": (as_it_is, in_int8),
    "int8, dynamic": (as_it_is, lambda model: in_int8(model, "dynamic")),
    "factorized, int8": (factorized, in_int8),
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", sorted({key.partition(",")[0] for key in BEFORE}))
def test_the_same_channels_are_sliced_as_by_lists_of_readers_written_by_hand(name, form):
    before, after = FORMS[form]
    for pattern in PATTERNS:
        change = shipped.apply(after(kill(before(network(name)), pattern))).spec["changes"][-1]
        found = [change.get("sliced"), change.get("structure", {}).get("widths")]
        assert found == BEFORE[f"{name}, {pattern}, {form}"]


@pytest.mark.long
def test_every_published_file_is_written_again_to_the_byte():
    for path in sorted((ROOT / "figures" / "models").glob("*.slnc")):
        assert codec.encode(codec.decode(path.read_bytes())) == path.read_bytes(), path.name


# --- depthwise convolutions ---------------------------------------------------------------------------------------


class Inverted(nn.Module):
    """1 × 1 convolution, depthwise convolution and a linear 1 × 1 convolution, added to the input where that fits."""

    def __init__(self, in_channels, out_channels, stride):
        super().__init__()
        wide, self.adds = 3 * in_channels, stride == 1 and in_channels == out_channels
        self.expand, self.depthwise = blocks.ConvUnit(in_channels, wide, 1), blocks.ConvUnit(wide, wide, 3)
        self.depthwise.conv = nn.Conv2d(wide, wide, 3, stride, 1, groups=wide, bias=False)
        self.expand.relu, self.depthwise.relu = nn.ReLU6(), nn.ReLU6()
        self.project = blocks.ConvUnit(wide, out_channels, 1, relu=False)

    def forward(self, x):
        y = self.project(self.depthwise(self.expand(x)))
        return x + y if self.adds else y


class Mobile(nn.Module):
    """A small MobileNetV2 (Sandler et al. 2018)."""

    def __init__(self, in_channels=3, image_size=16, classes=10):
        super().__init__()
        self.stem = blocks.ConvUnit(in_channels, 8, 3)
        self.stem.relu = nn.ReLU6()
        self.blocks = nn.Sequential(Inverted(8, 6, 1), Inverted(6, 6, 1), Inverted(6, 10, 2), Inverted(10, 10, 1))
        self.head, self.last = blocks.ConvUnit(10, 20, 1), nn.Linear(20, classes)

    def forward(self, x):
        return self.last(self.head(self.blocks(self.stem(x))).mean((2, 3)))


def drawn(model):
    """``model`` with batch norms as training leaves them."""
    draw = torch.Generator().manual_seed(0)
    for norm in (module for module in model.modules() if isinstance(module, nn.BatchNorm2d)):
        norm.weight.data.uniform_(0.5, 2, generator=draw)
        norm.bias.data.uniform_(-0.2, 0.5, generator=draw)
        norm.running_mean.normal_(0, 0.1, generator=draw)
        norm.running_var.uniform_(0.5, 2, generator=draw)
    return model.eval()


@pytest.fixture
def mobile(monkeypatch):
    monkeypatch.setitem(spec.ARCHITECTURES, "mobile", Mobile)
    return drawn(spec.create("mobile", 0))


@torch.no_grad()
def silence(unit, row, bias=-1.0):
    """Gives ``unit`` no weight in ``row``, whose channel is then ``bias`` everywhere."""
    unit.conv.weight[row], unit.norm.running_mean[row], unit.norm.bias[row] = 0, 0, bias


WAYS = {  # what is done to channel 2 between the second block's layers → how many layers lose it
    "its filter and the depthwise one are zero": (lambda b: [silence(b.expand, 2), silence(b.depthwise, 2)], True),
    "its filter is zero": (lambda b: [silence(b.expand, 2), b.depthwise.norm.bias[2].fill_(-9)], True),
    "the depthwise filter is zero": (lambda b: silence(b.depthwise, 2), True),
    "no weight reads it": (lambda b: b.project.conv.weight[:, 2].zero_(), True),
    "its filter is zero, the depthwise bias is above": (
        lambda b: [silence(b.expand, 2), b.depthwise.norm.bias[2].fill_(9)],
        False,
    ),
    "the depthwise filter is zero, its bias is above": (lambda b: silence(b.depthwise, 2, bias=1.0), False),
    "nothing": (lambda b: None, False),
}


@pytest.mark.parametrize("form", ["float", "int8"])
@pytest.mark.parametrize("way", WAYS)
def test_a_depthwise_filter_goes_with_the_channel_it_reads(way, form, mobile):
    act, goes = WAYS[way]
    with torch.no_grad():
        act(mobile.blocks[1])
    model = mobile if form == "float" else in_int8(copy.deepcopy(mobile))
    new = shipped.apply(model)
    change = new.spec["changes"][-1]
    found = change["structure"].get("widths", {})
    expected = {"expand": [17, 6], "depthwise": [17, 1], "project": [6, 17]}
    assert found == ({f"blocks.1.{name}.conv": each for name, each in expected.items()} if goes else {})
    assert new.blocks[1].depthwise.conv.groups == (17 if goes else 18)
    if form == "float":
        assert_same(new, mobile)
    decoded = codec.decode(codec.encode(model))
    assert torch.equal(outputs(decoded), outputs(new))


@torch.no_grad()
def prune(model, seed, share=0.3):
    """Zeros rows, with what their batch norms add, and columns of all layers but the first and last."""
    draw, found = torch.Generator().manual_seed(seed), layers.weight_layers(model)
    norms = {id(m.conv): m.norm for m in model.modules() if isinstance(m, blocks.ConvUnit)}
    for layer in list(found.values())[:-1]:
        rows = torch.rand(len(layer.weight), generator=draw) < share
        layer.weight[rows] = 0
        if id(layer) in norms:
            norm = norms[id(layer)]
            norm.running_mean[rows], norm.bias[rows] = 0, -norm.bias[rows].abs()
        if layer.weight.shape[1] > 3:
            layer.weight[:, torch.rand(layer.weight.shape[1], generator=draw) < share / 2] = 0
    return model


@pytest.mark.parametrize("seed", range(3))
def test_a_pruned_mobilenet_is_small_in_its_file_and_whole_again_when_restored(seed, mobile, tmp_path):
    model = prune(mobile, seed)
    new = shipped.apply(model)
    assert new.spec["changes"][-1]["sliced"] > 20
    assert_same(new, model)
    assert torch.equal(outputs(codec.decode(codec.encode(model))), outputs(new))
    again = restore._whole(new)
    assert widths(again) == widths(model)
    assert_same(again, model)


def test_a_pruned_mobilenet_in_int8_computes_the_same_when_sliced(digits, monkeypatch):
    monkeypatch.setitem(spec.ARCHITECTURES, "mobile", Mobile)
    model = prune(drawn(spec.create("mobile", 0, **digits.model_args)), 1)
    small = int8.apply(model, digits, calibration_images=64)
    new, images = shipped.apply(small), digits.normalize(digits.validation.images[:64])
    assert new.spec["changes"][-1]["sliced"] > 20
    assert torch.allclose(outputs(new, images), outputs(small, images), atol=1e-5)
    assert torch.equal(outputs(codec.decode(codec.encode(small)), images), outputs(new, images))


# --- networks of others -------------------------------------------------------------------------------------------


@torch.no_grad()
def pruned(model):
    """``model`` of any kind without a third of the filters that a batch norm or a ReLU follows, and other columns."""
    model, last = drawn(model), None
    draw = torch.Generator().manual_seed(0)
    for layer in [m for m in model.modules() if isinstance(m, nn.Conv2d | nn.BatchNorm2d)][1:]:
        if isinstance(layer, nn.Conv2d):
            last = layer
            rows = torch.arange(len(layer.weight)) % 3 == 1
            layer.weight[rows] = 0
            layer.weight[:, torch.arange(layer.weight.shape[1]) % 5 == 2] = 0
            if layer.bias is not None:
                layer.bias[rows] = -1
        elif last is not None and len(layer.weight) == len(rows):
            layer.bias[rows] = -1
    for norm in (m for m in model.modules() if isinstance(m, nn.BatchNorm2d)):
        norm.momentum = 1.0  # statistics are those of the next images
    model.train()(torch.randn(8, 3, 64, 64, generator=draw))
    return model.eval()


OTHERS = {
    "resnet18": (torchvision.models.resnet18, 32),
    "squeezenet1_1": (torchvision.models.squeezenet1_1, 32),
    "mobilenet_v2": (lambda **how: torchvision.models.mobilenet_v2(width_mult=0.25, **how), 32),
    "densenet": (
        lambda **how: torchvision.models.DenseNet(8, (2, 2, 2), 16, **how),  # a batch norm reads what others wrote
        32,
    ),
}


@pytest.mark.parametrize("name", OTHERS)
def test_a_network_without_a_spec_is_sliced_where_it_stands_batch_norms_too(name):
    build, side = OTHERS[name]
    torch.manual_seed(0)
    model = pruned(build(num_classes=10))
    images = torch.randn(4, 3, side, side + 16, generator=torch.Generator().manual_seed(0))
    before, names = copy.deepcopy(model), list(dict(model.named_modules()))
    count = slicing.slice_channels(model, images[:1])
    assert count > 50 and list(dict(model.named_modules())) == names
    assert_same(model, before, images)
    shares = [sum(p.numel() for p in each.parameters()) for each in (model, before)]
    assert shares[0] < 0.8 * shares[1]
    skeleton = copy.deepcopy(before)
    was, now = channels.widths(before), channels.widths(model)
    channels.restructure(skeleton, {"widths": {name: now[name] for name in now if now[name] != was[name]}})
    skeleton.load_state_dict(model.state_dict())
    assert torch.equal(outputs(skeleton, images), outputs(model, images))
    assert slicing.slice_channels(model, images[:1]) == 0


def test_a_network_without_a_spec_needs_an_example():
    with pytest.raises(ValueError, match=r"^Linear has no spec: expected an example, an image \(1, c, h, w\)"):
        slicing.slice_channels(nn.Linear(3, 4))


class Between(nn.Module):
    """Four convolutions; the first's channels go through what ``how`` says."""

    def __init__(self, how):
        super().__init__()
        self.how = how
        self.first, self.second = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(WIDE.get(how, 8), 8, 3)
        self.norm = NORMS.get(how, nn.Identity)()
        self.third, self.last = nn.Conv2d(8, 6, 3), nn.Linear(6, 5)

    def between(self, x):
        if self.how == "chunk":
            a, b = x.chunk(2, dim=1)
            return a * torch.sigmoid(b)
        if self.how == "every other":
            return x[:, ::2] * torch.sigmoid(x[:, 1::2])
        if self.how == "layer norm":
            return self.norm(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        if self.how == "softmax":
            return x.softmax(1)
        if self.how == "its own mean":
            return x - x.mean(1, keepdim=True)
        return self.norm(x)

    def forward(self, x):
        x = torch.relu(self.second(self.between(self.first(x))))
        return self.last(torch.relu(self.third(x)).mean((2, 3)))


WIDE = {"chunk": 4, "every other": 4}
NORMS = {"group norm": lambda: nn.GroupNorm(2, 8), "layer norm": lambda: nn.LayerNorm(8)}
NORMS |= {"group norm without numbers": lambda: nn.GroupNorm(1, 8, affine=False), "prelu": lambda: nn.PReLU(8)}


@pytest.mark.parametrize("how", ["chunk", "every other", "softmax", "its own mean", *NORMS])
@pytest.mark.parametrize("dead", ["silent", "unread"])
def test_channels_stay_and_a_warning_names_their_layer_where_slicing_is_not_proved(how, dead, caplog):
    torch.manual_seed(0)
    model = Between(how).eval()
    with torch.no_grad():
        for layer, next_ in ((model.first, model.second), (model.second, model.third)):
            rows = [1, 2] if layer is model.first else [3]
            layer.weight[rows] = 0 if dead == "silent" else layer.weight[rows]
            layer.bias[rows] = 0
            if dead == "unread":
                next_.weight[:, [row % next_.weight.shape[1] for row in rows]] = 0
    before = copy.deepcopy(model)
    with caplog.at_level(logging.WARNING):
        count = slicing.slice_channels(model, IMAGES[:1])
    assert_same(model, before)
    assert count == 1 and len(model.first.weight) == 8 and len(model.second.weight) == 7  # what is proved goes
    if dead == "unread" or how in ("every other", "prelu"):  # else those of the first layer are no zeros to the second
        (said,) = caplog.messages
        assert re.match(
            "first: its channels stay, without its dead ones the network (does not run: |gives other numbers$)", said
        )


class Branches(nn.Module):
    """A forward pass that goes by the numbers it sees."""

    def __init__(self):
        super().__init__()
        self.conv, self.last = nn.Conv2d(3, 8, 3), nn.Linear(8, 5)

    def forward(self, x):
        x = torch.relu(self.conv(x)).mean((2, 3))
        return self.last(x if x.sum() > 0 else -x)


def test_a_network_that_cannot_be_traced_stays_whole_and_a_warning_says_why(caplog):
    model = Branches()
    with torch.no_grad():
        model.conv.weight[2], model.conv.bias[2] = 0, -1
    assert slicing.slice_channels(model, IMAGES[:1]) == 0
    assert caplog.messages[0].startswith("no channel is taken out, the network cannot be traced: RuntimeError: ")


class Partly(nn.Module):
    """A convolution's channels are added to those of two others, one behind the other."""

    def __init__(self, in_channels=3, image_size=16, classes=10):
        super().__init__()
        self.a, self.b, self.c = (blocks.ConvUnit(in_channels, n, 3, relu=False) for n in (4, 3, 7))
        self.d, self.last = blocks.ConvUnit(7, 5, 3), nn.Linear(5, classes)

    def forward(self, x):
        return self.last(self.d(torch.relu(torch.cat([self.a(x), self.b(x)], 1) + self.c(x))).mean((2, 3)))


def test_a_channel_may_be_made_by_rows_of_other_numbers(monkeypatch):
    monkeypatch.setitem(spec.ARCHITECTURES, "partly", Partly)
    model = drawn(spec.create("partly", 0))
    silence(model.a, 1)
    for unit, row in ((model.b, 1), (model.c, 5), (model.c, 0)):
        silence(unit, row)
    new = shipped.apply(model)
    assert new.spec["changes"][-1]["structure"]["widths"] == {
        "b.conv": [2, 3],
        "c.conv": [6, 3],
        "d.conv": [5, 6],
    }
    assert_same(new, model)
    assert_same(restore._whole(new), model)


# --- what making needs and reading does not -----------------------------------------------------------------------


def test_a_file_of_a_sliced_network_is_read_without_torch_pruning(mobile, monkeypatch):
    model = prune(mobile, 0)
    file, expected = codec.encode(model), outputs(shipped.apply(model))
    monkeypatch.setitem(sys.modules, "torch_pruning", None)
    assert torch.equal(outputs(codec.decode(file)), expected)
    with pytest.raises(ImportError, match="torch_pruning"):
        codec.encode(model)


def test_slicing_is_the_same_each_time(mobile):
    files = {codec.encode(copy.deepcopy(prune(mobile, 0))) for _ in range(3)}
    assert len(files) == 1


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@torch.no_grad()
def test_of_a_network_with_numbers_that_are_not_finite_no_channel_is_taken_out(value):
    model = spec.create("convnet", 0, in_channels=1, image_size=8, widths=[4, 6, 8], hidden=[12, 9]).eval()
    first, *_, last = layers.weight_layers(model).values()
    first.weight[1], last.weight[-1, 0] = 0, value
    before = channels.widths(model)
    assert slicing.slice_channels(model) == 0 and channels.widths(model) == before


@torch.no_grad()
def test_a_network_whose_output_is_no_tensor_keeps_its_channels_and_the_reason_is_said(caplog):
    class Named(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.second = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 2, 3)

        def forward(self, x):
            return {"out": self.second(self.first(x).relu())}

    model = Named().eval()
    model.first.weight[1], model.first.bias[1] = 0, 0
    assert slicing.slice_channels(model, torch.zeros(1, 3, 9, 9)) == 0 and len(model.first.weight) == 4
    assert "no channel is taken out" in caplog.text
