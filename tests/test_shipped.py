import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from studylib.coding import shipped
from studylib.data import datasets
from studylib.disk import models
from studylib.experiments.int8 import with_activations
from studylib.networks import blocks, cost, int8_layers, slicing
from studylib.networks.layers import duplicate, weight_layers
from studylib.networks.spec import build, create
from studylib.techniques import int8, svd

IMAGES = torch.randn(32, 1, 8, 8, generator=torch.Generator().manual_seed(0))
NETWORKS = {
    "convnet": ("convnet", {"widths": [6, 8, 10], "hidden": [12, 9]}),
    "vgg": ("vgg", {"width": 4}),
    "vgg16": ("vgg16", {"width": 4}),
    "whitened": ("whitened", {"width": 8}),
    "densenet": ("densenet", {"depth": 10, "growth": 4, "stem": 6}),
    "resnet": ("resnet", {"depth": 14, "width": 4}),
}


def network(name, seed=0, image_size=8):
    kind, args = NETWORKS[name]
    model = create(kind, seed, in_channels=1, image_size=image_size, classes=10, **args)
    draw = torch.Generator().manual_seed(seed)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            for tensor in (module.weight, module.bias, module.running_mean):
                tensor.data.normal_(generator=draw)
            module.running_var.uniform_(0.5, 2, generator=draw)
    return model.eval()


def outputs(model, images=IMAGES):
    with torch.no_grad():
        return model(images)


def prune(model, share, seed):
    """Zeros the weights of about ``share`` of the rows of each layer but the last, and of some columns."""
    draw, layers = torch.Generator().manual_seed(seed), list(weight_layers(model).values())
    with torch.no_grad():
        for layer in layers[:-1]:
            layer.weight[torch.rand(len(layer.weight), generator=draw) < share] = 0
        for layer in layers[1:]:
            layer.weight[:, torch.rand(layer.weight.shape[1], generator=draw) < share / 2] = 0
    return model


def tied(model, layer):
    """The layers that make the channels of ``layer``, itself among them."""
    rows = slicing.graph_of(model).rows
    return [name for name in weight_layers(model) if rows[name][0] == rows[layer][0]]


@torch.no_grad()
def make_dead(model, layer, row):
    """Nothing of the layer's channel ``row`` passes a ReLU."""
    unit = model.get_submodule(layer.rpartition(".")[0])
    unit.conv.weight[row], unit.norm.running_mean[row], unit.norm.bias[row] = 0, 0, -1


@pytest.mark.parametrize("name", NETWORKS)
def test_nothing_dead_is_only_folded(name):
    model = network(name)
    new = shipped.apply(model)
    assert not [m for m in new.modules() if isinstance(m, nn.BatchNorm2d)]
    assert torch.allclose(outputs(new), outputs(model), atol=1e-4)
    assert new.spec["changes"] == [
        {"technique": "inference", "sliced": 0, "floats": "float32", "structure": {"module": "inference", "widths": {}}}
    ]
    assert cost.multiply_adds(new, {"in_channels": 1, "image_size": 8}) == cost.multiply_adds(
        model, {"in_channels": 1, "image_size": 8}
    )


@given(name=st.sampled_from(list(NETWORKS)), share=st.floats(0.1, 1), seed=st.integers(0, 99), factorized=st.booleans())
def test_slicing_changes_no_output(name, share, seed, factorized):
    model = prune(network(name, seed), share, seed)
    model = prune(svd.apply(model), share / 4, seed) if factorized else model
    whole, sliced = shipped.apply(model, slice_dead=False), shipped.apply(model)
    assert torch.allclose(outputs(whole), outputs(model), atol=1e-4)
    assert torch.allclose(outputs(sliced), outputs(whole), atol=1e-4)
    assert shipped.apply(sliced).spec == sliced.spec  # nothing dead is left


def test_what_rounding_leaves_dead_is_sliced_too():
    model = network("convnet")
    with torch.no_grad():
        model.fc2.weight[:, 3] = 1e-9  # zero in half precision
    once = shipped.apply(model, floats="float16")
    assert once.spec["changes"][-1]["sliced"] == 1
    assert shipped.apply(once, floats="float16").spec == once.spec


@pytest.mark.parametrize("name", NETWORKS)
def test_dead_channels_are_taken_out_of_every_layer_that_touches_them(name):
    model = network(name)
    layers = weight_layers(model)
    first, second = list(layers)[:2]
    for layer in tied(model, first):
        make_dead(model, layer, 2)
    new = shipped.apply(model)
    shapes = {n: layer.weight.shape for n, layer in weight_layers(new).items()}
    assert new.spec["changes"][-1]["sliced"] == 1
    assert shapes[first][0] == layers[first].weight.shape[0] - 1
    assert shapes[second][1] == layers[second].weight.shape[1] - 1
    assert torch.allclose(outputs(new), outputs(model), atol=1e-4)


def test_a_channel_whose_bias_passes_the_relu_stays():
    model = network("convnet")
    with torch.no_grad():
        model.features[0].conv.weight[2] = 0
        model.features[0].norm.running_mean[2], model.features[0].norm.bias[2] = 0, 1
    assert shipped.apply(model).spec["changes"][-1]["sliced"] == 0


def test_a_channel_that_nothing_reads_goes_and_what_only_it_reads_goes_too():
    model = network("convnet")
    with torch.no_grad():
        model.fc1.weight[:, :1] = 0  # 10 channels of one feature each reach fc1
        keep = model.features[2].conv.weight[0].clone()
        model.features[4].conv.weight[1:, 0] = 0  # channel 0 of features.2 is read by channel 0 of features.4 alone
        assert keep.any()
    new = shipped.apply(model)
    assert new.spec["changes"][-1]["structure"]["widths"] == {
        "features.2.conv": [7, 6],
        "features.4.conv": [9, 7],
        "fc1": [12, 9],
    }


def test_channels_of_several_features_reach_the_linear_layer():
    model = network("convnet", image_size=16)  # 2 × 2 features a channel
    with torch.no_grad():
        model.fc1.weight[:, 4:8] = 0
    new = shipped.apply(model)
    assert new.fc1.weight.shape == (12, 36)
    images = torch.randn(8, 1, 16, 16)
    assert torch.allclose(outputs(new, images), outputs(model, images), atol=1e-4)


def test_one_channel_stays_where_all_are_dead():
    model = network("densenet")
    with torch.no_grad():
        for layer in weight_layers(model).values():
            layer.weight.zero_()
    new = shipped.apply(model)
    assert all(min(layer.weight.shape[:2]) >= 1 for layer in weight_layers(new).values())
    assert torch.allclose(outputs(new), outputs(model), atol=1e-5)


@pytest.mark.parametrize("name", NETWORKS)
def test_int8_models_are_sliced_alike(name):
    digits = datasets.load("digits", 0)
    model = int8.apply(prune(network(name), 0.4, 0), digits, calibration_images=64)
    new = shipped.apply(model)
    assert new.spec["changes"][-1]["technique"] == "inference" and new.spec["changes"][-1]["sliced"] > 0
    assert torch.allclose(outputs(new), outputs(model), atol=1e-5)
    assert all(layer.weight.dtype == torch.int8 for layer in weight_layers(new).values())


@pytest.mark.parametrize("activations", int8_layers.ACTIVATIONS)
def test_slicing_changes_no_output_whatever_rounds_the_inputs(activations):
    """A channel that nothing reads widens the range of a batch, where that decides the rounding."""
    digits = datasets.load("digits", 0)
    model = network("convnet")
    with torch.no_grad():
        model.fc1.weight[:, 0] = 0  # unread
        model.features[4].norm.weight[0] = 50.0  # and large
    low = with_activations(int8.apply(model, digits, calibration_images=64), model, activations)
    new = shipped.apply(low)
    assert torch.allclose(outputs(new), outputs(low), atol=1e-5)
    assert ("inference" in [change["technique"] for change in new.spec["changes"]]) != activations.startswith("dynamic")


@pytest.mark.parametrize("name", NETWORKS)
def test_a_sliced_model_is_stored_and_rebuilt(name, tmp_path, same_tensors):
    new = shipped.apply(prune(network(name), 0.4, 0))
    models.save_model(tmp_path, new)
    again = models.load_model(tmp_path)
    assert same_tensors(again, new) and torch.equal(outputs(again), outputs(new))


def test_the_model_given_is_left_alone(student_model, same_tensors):
    before = duplicate(student_model)
    shipped.apply(student_model, floats="float16")
    assert same_tensors(before, student_model) and before.spec == student_model.spec


def test_half_precision_rounds_every_float(int8_model, student_model):
    for model in (int8_model, student_model):
        new = shipped.apply(model, floats="float16")
        assert shipped.floats_of(new) == "float16" and shipped.floats_of(model) == "float32"
        floats = [t for t in new.state_dict().values() if t.is_floating_point()]
        assert all(t.dtype == torch.float32 and torch.equal(t, t.half().float()) for t in floats)
        assert not torch.equal(outputs(new), outputs(shipped.apply(model)))
        assert torch.allclose(outputs(new), outputs(model), atol=0.3)
    layer = weight_layers(shipped.apply(int8_model, floats="float16"))["fc3"]
    assert layer._input[0] == layer.input_scale.item()  # what is computed with is what is stored


@pytest.mark.parametrize(
    ("change", "floats", "message"),
    [
        (lambda m: m.fc3.bias.data.fill_(1e6), "float16", "fc3.bias"),
        (lambda m: m.features[0].norm.weight.data.fill_(1e9), "float16", r"features.0.conv"),
        (lambda m: None, "bfloat16", "bfloat16.*float32, float16"),
    ],
)
def test_what_half_precision_cannot_hold_is_refused(student_model, change, floats, message):
    model = duplicate(student_model)
    change(model)
    with pytest.raises(ValueError, match=message):
        shipped.apply(model, floats=floats)


@pytest.mark.parametrize(
    "widths", [{"fc1": [0, 4]}, {"fc1": [99, 4]}, {"features.0.conv": [1, 2]}, {"nowhere": [1, 1]}]
)
def test_widths_that_do_not_fit_are_refused(student_model, widths):
    spec = {
        **student_model.spec,
        "changes": [{"technique": "x", "structure": {"module": "inference", "widths": widths}}],
    }
    with pytest.raises(blocks.SpecError):
        build(spec)
