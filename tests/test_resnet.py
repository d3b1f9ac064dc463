"""What is the ResNet's own: its size, its sums, and channels that several layers write together."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from studylib.coding import codec, limits, shipped
from studylib.networks import blocks, cost, layers, pt2e, resnet, slicing, spec
from studylib.techniques import int8
from tests import test_layers
from tests.test_layers import same, trained, x86_graph

ARGS = {"in_channels": 1, "image_size": 8, "classes": 10}
STAGE = ("features.stem.conv", "features.stage1.0.second.conv", "features.stage1.1.second.conv")  # write one stream
READERS = ("features.stage1.0.first.conv", "features.stage1.1.first.conv", "features.stage2.0.first.conv")
READERS += ("features.stage2.0.shortcut.conv",)
QUANTIZE = torch.ops.quantized_decomposed.quantize_per_tensor.default


def network(seed=0, depth=14, width=4):
    return test_layers.network("resnet", seed, depth=depth, width=width)


@pytest.fixture(scope="module")
def images(digits):
    return digits.normalize(digits.validation.images[:64])


@torch.no_grad()
def outputs(model, images):
    return model(images)


@torch.no_grad()
def kill(model, layer, row):
    """Nothing of the channel ``row`` of ``layer`` passes a ReLU."""
    unit = model.get_submodule(layer.rpartition(".")[0])
    unit.conv.weight[row], unit.norm.running_mean[row], unit.norm.bias[row] = 0, 0, -1


def widths(model):
    return {name: tuple(layer.weight.shape[:2]) for name, layer in layers.weight_layers(model).items()}


@pytest.mark.parametrize(
    ("depth", "millions"), [(20, 0.27), (32, 0.46), (44, 0.66), (56, 0.85), (110, 1.7)]
)  # He et al. 2016, table 6
def test_it_has_as_many_numbers_as_the_paper_says_and_those_of_two_projections(depth, millions):
    with torch.device("meta"):
        model = spec.build({"format": 1, "name": "resnet", "args": {"depth": depth}, "changes": []})
    ours = sum(p.numel() for p in model.parameters())
    shortcuts = sum(p.numel() for name, p in model.named_parameters() if ".shortcut." in name)
    assert shortcuts == 16 * 32 + 2 * 32 + 32 * 64 + 2 * 64
    assert round((ours - shortcuts) / 1e6, 1 if depth == 110 else 2) == millions
    assert len(layers.weight_layers(model)) == depth + 2


def test_a_resnet_20_makes_41_million_multiply_adds_of_an_image():
    model = spec.create("resnet", 0)
    assert sum(p.numel() for p in model.parameters()) == 272_474
    assert cost.multiply_adds(model, {"in_channels": 3, "image_size": 32}) == 40_813_184


@pytest.mark.parametrize(("ins", "stride"), [(4, 1), (4, 2), (3, 1)])
def test_a_block_adds_its_input_or_a_projection_of_it_before_the_relu(ins, stride):
    torch.manual_seed(0)
    block = resnet.Block(ins, 4, stride).train()
    x = torch.randn(5, ins, 6, 6)

    def normed(conv, of, step):
        return F.batch_norm(F.conv2d(of, conv.weight, None, step, conv.padding), None, None, training=True)

    learned = normed(block.second.conv, F.relu(normed(block.first.conv, x, stride)), 1)
    same_shape = ins == 4 and stride == 1
    short = x if same_shape else normed(block.shortcut.conv, x, stride)
    assert isinstance(block.shortcut, nn.Identity) == same_shape
    assert torch.allclose(block(x), F.relu(learned + short), atol=1e-5)
    assert block(x).shape == (5, 4, 6 // stride, 6 // stride)


def test_the_second_and_third_stage_halve_the_image_and_double_the_channels():
    model, shapes = network(width=3), []
    for name in ("stem", "stage1", "stage2", "stage3"):
        model.features.get_submodule(name).register_forward_hook(lambda _m, _i, y: shapes.append(tuple(y.shape[1:])))
    model(torch.zeros(2, 1, 8, 8))
    assert shapes == [(3, 8, 8), (3, 8, 8), (6, 4, 4), (12, 2, 2)]


# --- int8 -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bits", [8, 4])
def test_int8_layers_and_exact_sums_are_those_of_pt2es_graph_bit_for_bit(bits, images):
    model = network()
    graph = pt2e.convert(copy.deepcopy(model), images, bits=bits)
    ours = pt2e.from_pt2e(model, graph)
    assert same(ours, graph, images)
    assert sum(node.target == torch.ops.aten.add.Tensor for node in graph.graph.nodes) == 6
    if bits == 8:
        assert same(graph, x86_graph(copy.deepcopy(model), images), images)


def test_sums_are_those_of_pt2es_graph_after_training_with_rounding_too(tiny, images, monkeypatch):
    ours, graph = trained(network(depth=8), tiny, monkeypatch)
    assert same(ours, graph, images)


def test_torchaos_quantizer_for_x86_rounds_the_shortcut_of_each_sum_and_nothing_else_differs(images):
    """Rounded as its graph says, our shortcuts give its numbers bit for bit; exact, they are nearer to the float's."""
    model = network()
    graph = pt2e.convert(copy.deepcopy(model), images)
    ours, theirs = pt2e.from_pt2e(model, graph), x86_graph(copy.deepcopy(model), images, exact_sums=False)
    off = [(outputs(each, images) - outputs(model, images)).abs().mean() for each in (ours, theirs)]
    assert 0 < off[0] < off[1]
    sums = [node for node in theirs.graph.nodes if node.target == torch.ops.aten.add.Tensor]
    found = [block for block in ours.modules() if isinstance(block, resnet.Block)]
    assert len(sums) == len(found) == 6
    for node, block in zip(sums, found, strict=True):
        assert node.args[0].target == torch.ops.aten.conv2d.default
        grid = node.args[1].args[1:]
        block.shortcut.register_forward_hook(lambda _m, _i, x, grid=grid: _rounded(x, grid))
    assert same(ours, theirs, images)
    rounds = [sum(node.target == QUANTIZE for node in each.graph.nodes) for each in (theirs, graph)]
    assert rounds[0] == rounds[1] + 2  # the projections; other shortcuts are inputs of a layer, on the same grid


def _rounded(x, grid):
    ops = torch.ops.quantized_decomposed
    return ops.dequantize_per_tensor(ops.quantize_per_tensor(x, *grid), *grid)


# --- channels ---------------------------------------------------------------------------------------------------


def test_layers_whose_outputs_are_added_share_their_channels():
    graph = slicing.graph_of(network())
    convolutions = [name for name in graph.rows if name.endswith(".conv")]
    together = {tuple(each for each in convolutions if graph.rows[each] == graph.rows[name]) for name in convolutions}
    assert {group for group in together if len(group) > 1} == {
        STAGE,
        *(tuple(f"features.stage{i}.{part}.conv" for part in ("0.second", "0.shortcut", "1.second")) for i in (2, 3)),
    }
    assert {graph.columns[name][2] for name in READERS} == {("features.stem.conv", 2)}
    assert graph.columns["features.stage1.0.second.conv"][2] == ("features.stage1.0.first.conv", 2)
    assert graph.columns["features.stem.conv"] == [None]


@pytest.mark.parametrize("alive", [None, *STAGE])
def test_a_channel_of_a_sum_is_cut_only_where_it_is_dead_in_all_that_write_it(alive, images):
    model = network()
    for layer in STAGE:
        if layer != alive:
            kill(model, layer, 2)
    new = shipped.apply(model)
    assert torch.allclose(outputs(new, images), outputs(model, images), atol=1e-5)
    assert new.spec["changes"][-1]["sliced"] == (alive is None)
    if alive is None:
        before, after = widths(model), widths(new)
        changed = {name: (before[name][0] - out, before[name][1] - into) for name, (out, into) in after.items()}
        expected = dict.fromkeys(STAGE, (1, 0)) | dict.fromkeys(READERS, (0, 1))
        assert {name: each for name, each in changed.items() if any(each)} == expected


def test_a_channel_whose_terms_are_zero_or_less_is_dead_and_one_with_a_bias_above_is_not(images):
    model = network()
    for layer in STAGE:
        kill(model, layer, 2)
        model.get_submodule(layer.rpartition(".")[0]).norm.bias.data[2] = 0
    assert shipped.apply(model).spec["changes"][-1]["sliced"] == 1
    model.features.stage1[0].second.norm.bias.data[2] = 0.1
    new = shipped.apply(model)
    assert new.spec["changes"][-1]["sliced"] == 0
    assert torch.allclose(outputs(new, images), outputs(model, images), atol=1e-5)


@pytest.mark.parametrize("read", [None, *READERS])
def test_a_channel_of_a_sum_that_nothing_reads_is_cut_from_all_that_write_it(read, images):
    model = network()
    with torch.no_grad():
        for name in READERS:
            if name != read:
                model.get_submodule(name).weight[:, 1] = 0
    new = shipped.apply(model)
    assert torch.allclose(outputs(new, images), outputs(model, images), atol=1e-5)
    assert {widths(new)[name][0] for name in STAGE} == {4 if read else 3}


def test_in_int8_masked_and_sliced_are_the_same(digits, images):
    model = network()
    for layer in (*STAGE, "features.stage1.1.first.conv", "features.stage3.0.first.conv"):
        kill(model, layer, 1)
    small = int8.apply(model, digits, calibration_images=64)
    new = shipped.apply(small)
    assert new.spec["changes"][-1]["sliced"] == 3
    assert torch.allclose(outputs(new, images), outputs(small, images), atol=1e-5)
    assert torch.equal(outputs(codec.decode(codec.encode(small)), images), outputs(new, images))


class Adds(resnet.ResNet):
    """A forward pass that adds what no layer makes."""

    def __init__(self, in_channels=1, image_size=8, classes=10, how=""):
        super().__init__(in_channels, image_size, classes, depth=8, width=4)
        self.how = how

    def forward(self, x):
        stem = self.features.stem(x)
        first = self.features.stage1[0]
        y = first.second(first.first(stem)) + stem
        y = y + 5 * x if self.how == "image" else y + 5
        return self.classifier(self.pool(self.features.stage3(self.features.stage2(torch.relu(y)))).flatten(1))


@pytest.mark.parametrize("how", ["image", "number"])
def test_channels_stay_where_something_else_is_added(how, images, monkeypatch):
    monkeypatch.setitem(spec.ARCHITECTURES, "adds", Adds)
    model = spec.create("adds", 0, how=how).eval()
    for layer in STAGE[:2]:
        kill(model, layer, 2)
    new = shipped.apply(model)
    assert new.spec["changes"][-1]["sliced"] == 0
    assert torch.allclose(outputs(new, images), outputs(model, images), atol=1e-5)


# --- the coded file ---------------------------------------------------------------------------------------------


def test_a_resnet_56_of_mixed_bits_without_half_its_inner_channels_comes_back_from_its_file(digits, images):
    args = {"depth": 56, "width": 16}
    limits.check_network("resnet", args, digits, "depth=56")
    model = spec.create("resnet", 0, **args, **ARGS).eval()
    with torch.no_grad():
        for name, layer in layers.weight_layers(model).items():
            if ".first." in name:
                layer.weight[::2] = 0
    bits = {name: 2 + k % 7 for k, name in enumerate(layers.weight_layers(model))}
    small = int8.apply(model, digits, calibration_images=16, bits=bits)
    file, reference = codec.encode(small), shipped.apply(small)
    assert reference.spec["changes"][-1]["sliced"] == 9 * (8 + 16 + 32)
    assert torch.equal(outputs(codec.decode(file), images), outputs(reference, images))


def test_names_of_layers_that_no_file_holds_are_refused_before_anything_is_made(digits):
    limits.check_network("resnet", {"depth": 560}, digits, "depth=560")
    with pytest.raises(ValueError, match=r"^depth=602: \d+ bytes of names, expected at most 65535"):
        limits.check_network("resnet", {"depth": 602}, digits, "depth=602")


def test_a_unit_before_a_sum_has_no_relu():
    for name, unit in network().named_modules():
        if isinstance(unit, blocks.ConvUnit):
            assert hasattr(unit, "relu") == (not name.endswith((".second", ".shortcut"))), name
