"""What is the gated network's own: its size, its gate and its norm, and that they survive int8 and the coded file."""

import copy

import pytest
import torch
import torch.nn.functional as F

from studylib.coding import codec, shipped
from studylib.networks import blocks, channels, gated, pt2e, spec
from studylib.techniques import prune, qat
from studylib.training.recipe import Recipe
from tests import test_layers
from tests.test_layers import same, x86_graph

ONCE = Recipe(epochs=1, lr=1e-3, batch_size=32)


def network(width=8):
    return test_layers.network("gated", 0, width=width)


@pytest.fixture(scope="module")
def images(digits):
    return digits.normalize(digits.validation.images[:64])


def test_a_width_of_48_has_as_many_parameters_as_the_design_that_it_is_after():
    numbers = {w: sum(p.numel() for p in spec.create("gated", 0, width=w).parameters()) for w in (20, 48)}
    assert numbers == {20: 21_628, 48: 97_530}  # https://github.com/xvel/cifar10-tiniest


@pytest.mark.parametrize("args", [{"width": 0}, {"width": 10}, {"width": -4}, {"width": 8, "image_size": 1}])
def test_a_size_that_cannot_be_built_is_refused_by_name(args):
    name, value = list(args.items())[-1]
    with pytest.raises(blocks.SpecError, match=f"gated {name}={value}: expected"):
        spec.create("gated", 0, **args)


def test_in_words_it_has_its_width():
    assert spec.described("gated 20", {"name": "densenet", "args": {}}, {"classes": 3}) == (
        "gated",
        {"classes": 3, "width": 20},
    )


@pytest.mark.parametrize("value", [-1e4, -100.0, -1.0, 0.0, 1.0, 19.9, 20.1, 100.0, 1e4])
def test_the_gate_and_its_slope_are_finite_and_as_its_formula(value):
    x = torch.tensor(value, requires_grad=True)
    found = gated.tanh_exp(x)
    found.backward()
    exact = torch.tensor(value, dtype=torch.float64, requires_grad=True)
    whole = exact * torch.tanh(torch.exp(exact.clamp(max=300)))
    whole.backward()
    assert found.item() == pytest.approx(whole.item(), rel=1e-6, abs=1e-30)
    assert x.grad.item() == pytest.approx(exact.grad.nan_to_num(1).item(), rel=1e-5, abs=1e-30)


def test_the_norm_is_over_the_channels_of_each_pixel():
    x = torch.randn(2, 6, 3, 4)
    norm = gated.ChannelNorm(6)
    torch.nn.init.normal_(norm.weight)
    expected = (x - x.mean(1, keepdim=True)) / (x.var(1, unbiased=False, keepdim=True) + norm.eps).sqrt()
    assert torch.allclose(norm(x), norm.weight.view(-1, 1, 1) * expected + norm.bias.view(-1, 1, 1), atol=1e-5)


@torch.no_grad()
def test_a_block_mixes_pixels_of_three_quarters_and_adds_its_input():
    block = gated.Block(8)
    for layer in (block.gate, block.value):
        torch.nn.init.dirac_(layer.weight)
        torch.nn.init.zeros_(layer.bias)
    x = torch.randn(1, 8, 9, 9)
    far = F.conv2d(F.avg_pool2d(x[:, 6:], 3, 1, 1), block.far.weight, block.far.bias, 1, 9, 3, 2)
    near = F.conv2d(x[:, 2:4], block.near.weight, block.near.bias, 1, 1, 1, 2)
    wide = F.conv2d(x[:, 4:6], block.wide.weight, block.wide.bias, 1, 3, 1, 2)
    mixed = block.norm(torch.cat([x[:, :2], near, wide, far], 1))
    assert torch.allclose(block(x), x + block.project(mixed * mixed * torch.tanh(mixed.exp())), atol=1e-5)


@pytest.mark.parametrize("bits", [8, 4])
def test_int8_layers_are_those_of_pt2es_graph_bit_for_bit(bits, images):
    model = network()
    graph = pt2e.convert(copy.deepcopy(model), images, bits=bits)
    assert same(pt2e.from_pt2e(model, graph), graph, images)
    if bits == 8:
        assert same(graph, x86_graph(copy.deepcopy(model), images), images)


def test_pruned_and_trained_in_four_bits_its_file_gives_the_same_outputs(tiny, images):
    model = prune.apply(network(width=12), tiny, seed=0, rounds=2, recipe=ONCE)
    small = qat.apply(model, tiny, seed=0, bits=4, recipe=ONCE, calibration_images=32)
    file = codec.encode(small)
    assert torch.equal(codec.decode(file)(images), small(images))
    assert len(file) < len(codec.encode(model)) / 2


@torch.no_grad()
def test_channels_of_the_gate_are_sliced_and_those_that_a_norm_reads_stay(images):
    model = network(width=12)
    for layer in (model.stage1[1].gate, model.stage1[1].value):
        layer.weight[3], layer.bias[3] = 0, 0
    model.stage2[0].project.weight[:, 5] = 0  # nothing reads it
    model.stage1[0].project.weight[2], model.stage1[0].project.bias[2] = 0, 0
    new = shipped.apply(model)
    before, after = channels.widths(model), channels.widths(new)
    assert {name: (before[name], each) for name, each in after.items() if each != before[name]} == {
        **{f"stage1.1.{part}": ([12, 12], [11, 12]) for part in ("gate", "value")},
        "stage1.1.project": ([12, 12], [12, 11]),
        **{f"stage2.0.{part}": ([20, 20], [19, 20]) for part in ("gate", "value")},
        "stage2.0.project": ([20, 20], [20, 19]),
    }
    assert torch.allclose(new(images), model(images), atol=1e-5)
    assert torch.equal(codec.decode(codec.encode(model))(images), new(images))
