"""What is VGG-16's own: its size, and maxima of images of any side."""

import copy

import pytest
import torch
from torch import nn
from torchvision.models import vgg16_bn

from studylib.coding import codec, limits, shipped
from studylib.networks import cost, pt2e, spec, vgg
from studylib.techniques import distill, svd, teacher
from studylib.training.recipe import Recipe
from tests import test_layers
from tests.test_layers import same, trained, x86_graph

ONCE = {"recipe": Recipe(epochs=1, lr=1e-3, batch_size=50, augmentation="none"), "seed": 0}


def network(seed=0, width=3):
    return test_layers.network("vgg16", seed, width=width)


@pytest.fixture(scope="module")
def images(digits):
    return digits.normalize(digits.validation.images[:64])


@pytest.fixture(scope="module")
def theirs():
    """The convolutions of torchvision's, whose biases do nothing before batch norm and are zero here."""
    torch.manual_seed(0)
    features = vgg16_bn().features
    for layer in features:
        if isinstance(layer, nn.Conv2d):
            nn.init.zeros_(layer.bias)
    return features


def test_its_convolutions_compute_what_torchvisions_do_with_the_same_weights(theirs):
    ours = spec.create("vgg16", 0)
    state = [tensor for name, tensor in theirs.state_dict().items() if tensor.any() or not name.endswith("bias")]
    biases = [tensor for name, tensor in theirs.state_dict().items() if name.endswith("bias")]
    assert len(biases) == 26 and len(state) == 13 * 5  # of batch norms they are zero as well
    held = {name: tensor for name, tensor in ours.features.state_dict().items() if not name.endswith("bias")}
    assert [t.shape for t in held.values()] == [t.shape for t in state]
    ours.features.load_state_dict(dict(zip(held, state, strict=True)), strict=False)
    x = torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        for images in (x, 3 * x):  # the first leaves statistics to their batch norms
            assert torch.equal(ours.features.train()(images), theirs.train()(images))
        assert torch.equal(ours.features.eval()(x), theirs.eval()(x))
        assert ours.features(x).shape == (4, 512, 1, 1)


def test_it_has_as_many_numbers_as_torchvisions_without_the_biases(theirs):
    biases = sum(layer.bias.numel() for layer in theirs if isinstance(layer, nn.Conv2d))
    ours = spec.create("vgg16", 0)
    assert sum(p.numel() for p in ours.features.parameters()) == sum(p.numel() for p in theirs.parameters()) - biases
    assert sum(p.numel() for p in ours.parameters()) == 14_724_042  # 14.72 M of Liu et al.
    assert cost.multiply_adds(ours, {"in_channels": 3, "image_size": 32}) == 313_201_664


def test_of_other_widths_every_layer_is_as_much_wider():
    narrow, wide = (spec.create("vgg16", 0, width=width).features for width in (3, 7))
    assert sum(isinstance(part, nn.MaxPool2d) for part in narrow) == len(vgg.STAGES)
    widths = [[unit.conv.out_channels for unit in part if hasattr(unit, "conv")] for part in (narrow, wide)]
    assert widths[0] == [3, 3, 6, 6, *[12] * 3, *[24] * 6] and [7 * each for each in widths[0]] == [
        3 * each for each in widths[1]
    ]


@pytest.mark.parametrize(("side", "left"), [(1, 1), (8, 1), (28, 1), (32, 1), (33, 2), (64, 2)])
def test_images_of_any_side_are_halved_rounded_up(side, left):
    model = spec.create("vgg16", 0, image_size=side, width=2).eval()
    images = torch.randn(3, 3, side, side, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert model.features(images).shape == (3, 16, left, left) and model(images).shape == (3, 10)


@pytest.mark.parametrize("bits", [8, 4])
def test_int8_layers_are_those_of_pt2es_graph_bit_for_bit(bits, images):
    model = network()
    graph = pt2e.convert(copy.deepcopy(model), images, bits=bits)
    ours = pt2e.from_pt2e(model, graph)
    assert same(ours, graph, images)
    if bits == 8:
        assert same(graph, x86_graph(copy.deepcopy(model), images), images)


def test_it_is_that_of_pt2es_graph_after_training_with_rounding_too(tiny, images, monkeypatch):
    ours, graph = trained(network(), tiny, monkeypatch)
    assert same(ours, graph, images)
    assert same(codec.decode(codec.encode(ours)), shipped.apply(ours), images)


def test_svd_factorizes_its_linear_layer_alone():
    assert svd.apply(network(width=4)).spec["changes"][-1]["structure"]["ranks"] == {"classifier": 6}


def test_it_teaches_and_is_taught(tiny, images):
    taught = teacher.apply(tiny, depth=40, name="vgg16 4", **ONCE)
    assert taught.spec["name"] == "vgg16" and taught.spec["args"] == {"width": 4, **tiny.model_args}
    student = distill.apply(taught, tiny, name="vgg16 2", **ONCE)
    assert student.spec["args"] == {"width": 2, **tiny.model_args}
    assert student.history[0]["train_loss"] > 0 and not same(student, taught, images)


def test_one_that_no_file_holds_is_refused(digits):
    limits.check_network("vgg16", {"width": 64}, digits, "width=64")
    with pytest.raises(ValueError, match=r"^width=512: \d+ numbers, expected at most 67108864"):
        limits.check_network("vgg16", {"width": 512}, digits, "width=512")
