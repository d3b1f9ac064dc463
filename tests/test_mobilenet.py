"""What is MobileNetV2's own: its size, depthwise convolutions and ReLU6, also in int8."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torchvision.models import mobilenet_v2

from studylib.coding import codec, limits, shipped
from studylib.networks import blocks, cost, layers, mobilenet, pt2e, spec
from studylib.techniques import distill, svd, teacher
from studylib.training.recipe import Recipe
from tests import test_layers
from tests.test_layers import same, trained, x86_graph

ONCE = {"recipe": Recipe(epochs=1, lr=1e-3, batch_size=50, augmentation="none"), "seed": 0}
RELU6 = (torch.ops.aten.relu6.default, torch.ops.aten.hardtanh.default, torch.ops.aten.clamp.default)


def network(seed=0, width=0.1):
    return test_layers.network("mobilenetv2", seed, width=width)


@pytest.fixture(scope="module")
def images(digits):
    return digits.normalize(digits.validation.images[:64])


@pytest.fixture
def short(monkeypatch):
    """A MobileNetV2 of 16 convolutions, not 52, with each kind of block: it widens and halves the side, or adds."""
    monkeypatch.setattr(mobilenet, "STAGES", ((1, 16, 1, 1), (6, 24, 2, 1), (6, 160, 2, 2)))
    return network()


def torchvisions(width, classes):
    """torchvision's, by the strides that are usual for 32 × 32."""
    stages = [list(stage) for stage in mobilenet.STAGES]
    model = mobilenet_v2(num_classes=classes, width_mult=width, inverted_residual_setting=stages)
    model.features[0][0].stride = (1, 1)
    return model


@pytest.mark.parametrize(("width", "numbers"), [(1.0, 3_504_872), (1.4, 6_108_776), (0.5, None), (0.33, None)])
def test_it_has_as_many_numbers_as_torchvisions_of_any_width(width, numbers):
    with torch.device("meta"):
        theirs = mobilenet_v2(width_mult=width)
        ours = spec.build(
            {"format": 1, "name": "mobilenetv2", "args": {"width": width, "classes": 1000}, "changes": []}
        )
    found = sum(p.numel() for p in ours.parameters())
    assert found == sum(p.numel() for p in theirs.parameters()) and numbers in (found, None)


@pytest.mark.parametrize(("width", "millions", "products"), [(0.5, 0.70, 27_969_024), (1.0, 2.24, 87_976_448)])
def test_it_is_as_large_as_others_say_who_train_it_on_cifar(width, millions, products):
    model = spec.create("mobilenetv2", 0, width=width)
    assert round(sum(p.numel() for p in model.parameters()) / 1e6, 2) == millions
    assert cost.multiply_adds(model, {"in_channels": 3, "image_size": 32}) == products


@pytest.mark.parametrize("width", [0.1, 0.5, 1.3])
def test_it_computes_what_torchvisions_does_with_the_same_weights_and_strides(width):
    ours = spec.create("mobilenetv2", 0, width=width)
    images = torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    ours.train()(images)  # batch norms are no longer those of a new network
    theirs, held = torchvisions(width, 10), list(ours.state_dict().values())
    assert [t.shape for t in held] == [t.shape for t in theirs.state_dict().values()]
    theirs.load_state_dict(dict(zip(theirs.state_dict(), held, strict=True)))
    with torch.no_grad():
        assert torch.equal(ours.eval()(images), theirs.eval()(images))


@pytest.mark.parametrize(
    ("asked", "given"), [(1, 8), (12, 16), (11.9, 16), (16, 16), (18.9, 24), (19, 24), (24 * 1.3, 32), (67, 64)]
)
def test_channels_are_multiples_of_eight_that_lose_no_tenth(asked, given):
    assert mobilenet.eights(asked) == given


@pytest.mark.parametrize(
    ("ins", "outs", "stride", "expansion"), [(4, 4, 1, 6), (4, 4, 2, 6), (4, 6, 1, 2), (4, 4, 1, 1)]
)
def test_a_block_expands_filters_each_channel_and_projects_without_an_activation(ins, outs, stride, expansion):
    torch.manual_seed(0)
    block = mobilenet.InvertedResidual(ins, outs, stride, expansion).train()
    x = 9 * torch.randn(5, ins, 6, 6)
    y, inner = x, ins * expansion

    def normed(unit, of, **how):
        return F.batch_norm(F.conv2d(of, unit.conv.weight, **how), None, None, training=True)

    if expansion > 1:
        y = normed(block.expand, y).clamp(0, 6)
    assert block.depthwise.conv.weight.shape == (inner, 1, 3, 3)
    y = normed(block.depthwise, y, stride=stride, padding=1, groups=inner).clamp(0, 6)
    y = normed(block.project, y)
    assert torch.allclose(block(x), x + y if (stride, ins) == (1, outs) else y, atol=1e-5)


def test_four_of_eight_parts_keep_the_side_and_three_halve_it():
    model, shapes = network(width=1.0), []
    for part in model.features:
        part.register_forward_hook(lambda _m, _i, y: shapes.append(tuple(y.shape[1:])))
    with torch.no_grad():
        model(torch.zeros(2, 1, 32, 32))
    widths, sides = [32, 16, 24, 32, 64, 96, 160, 320, 1280], [32, 32, 32, 16, 8, 8, 4, 4, 4]
    assert shapes == [(width, side, side) for width, side in zip(widths, sides, strict=True)]


# --- int8 -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("whole", "bits"), [(False, 8), (False, 4), *(pytest.param(True, bits, marks=pytest.mark.long) for bits in (8, 4))]
)
def test_int8_layers_relu6_and_exact_sums_are_those_of_pt2es_graph_bit_for_bit(whole, bits, short, images, monkeypatch):
    if whole:
        monkeypatch.undo()
    model = network() if whole else short
    model.classifier.weight.data.mul_(4)  # of 1,280 inputs: torchao's own quantizer has no scale below 2⁻¹²
    graph = pt2e.convert(copy.deepcopy(model), images, bits=bits)
    ours = pt2e.from_pt2e(model, graph)
    assert same(ours, graph, images)
    called = [node.target for node in graph.graph.nodes]
    # of the whole ten sums, and two where so few channels are as many as before
    assert called.count(torch.ops.aten.add.Tensor) == (12 if whole else 4)
    assert sum(called.count(each) for each in RELU6) == (35 if whole else 11)
    assert torch.ops.aten.relu.default not in called
    if bits == 8:
        assert same(graph, x86_graph(copy.deepcopy(model), images), images)


def test_it_is_that_of_pt2es_graph_after_training_with_rounding_too(short, tiny, images, monkeypatch):
    ours, graph = trained(short, tiny, monkeypatch)
    assert same(ours, graph, images)
    read = codec.decode(codec.encode(ours))
    assert same(read, ours, images)


def test_relu6_cuts_what_int8_layers_give(short, images):
    model = short
    ours, seen = pt2e.from_pt2e(model, pt2e.convert(model, images)), []
    ours.features.last.relu.register_forward_hook(lambda _m, x, y: seen.append((x[0].max().item(), y.max().item())))
    with torch.no_grad():
        ours(100 * images)
    assert seen[0][0] > 6 == seen[0][1]


# --- what is done to it -----------------------------------------------------------------------------------------


def test_svd_factorizes_its_linear_layer_and_leaves_convolutions_alone(images):
    model = network()
    new = svd.apply(model)
    assert new.spec["changes"][-1]["structure"]["ranks"] == {"classifier": 8}
    before, after = layers.weight_layers(model), layers.weight_layers(new)
    convolutions = [name for name, layer in before.items() if isinstance(layer, nn.Conv2d)]
    assert len(convolutions) == 52
    assert all(torch.equal(after[name].weight, before[name].weight) for name in convolutions)


def test_dead_channels_change_no_output_of_the_file(images):
    model = network()
    with torch.no_grad():
        for unit in (part for part in model.modules() if isinstance(part, blocks.ConvUnit)):
            unit.conv.weight[1], unit.norm.running_mean[1], unit.norm.bias[1] = 0, 0, -1
        new = shipped.apply(model)
        assert torch.allclose(new(images), model(images), atol=1e-4)
        assert torch.equal(codec.decode(codec.encode(model))(images), new(images))


def test_it_teaches_and_is_taught(tiny, images):
    taught = teacher.apply(tiny, depth=40, name="mobilenetv2 0.1", **ONCE)
    assert taught.spec["name"] == "mobilenetv2" and taught.spec["args"] == {"width": 0.1, **tiny.model_args}
    student = distill.apply(taught, tiny, name="mobilenetv2 0.2", **ONCE)
    assert student.spec["args"] == {"width": 0.2, **tiny.model_args}
    assert student.history[0]["train_loss"] > 0 and not same(student, taught, images)


def test_one_that_no_file_holds_is_refused(digits):
    limits.check_network("mobilenetv2", {"width": 3.2}, digits, "width=3.2")
    with pytest.raises(ValueError, match=r"^width=3.3: 4224 channels or features in a layer, expected at most 4096"):
        limits.check_network("mobilenetv2", {"width": 3.3}, digits, "width=3.3")
