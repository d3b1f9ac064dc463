"""Layers of every kind through quantization, the shipped form and the coded file."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from studylib.coding import codec, restore, shipped
from studylib.disk import models
from studylib.experiments.int8 import with_activations
from studylib.networks import blocks, layers, pt2e, spec
from studylib.networks.quiet import quiet_torchao
from studylib.techniques import int8, qat
from studylib.training import recipe
from tests.test_restore import listed

RECIPE = recipe.Recipe(epochs=1, lr=1e-3, batch_size=50, augmentation="none")
CONVOLUTIONS = {
    "stride 2": {"kernel_size": 3, "stride": 2, "padding": 1},
    "stride 2 × 1": {"kernel_size": 3, "stride": [2, 1]},
    "dilation 2": {"kernel_size": 3, "dilation": 2, "padding": 2},
    "dilation 1 × 2": {"kernel_size": [2, 3], "dilation": [1, 2], "padding": [0, 2]},
    "groups 2": {"kernel_size": 3, "groups": 2, "padding": 1},
    "depthwise": {"kernel_size": 3, "groups": 8, "padding": 1},
    "padding 3": {"kernel_size": 3, "padding": 3},
    "padding 0 × 2": {"kernel_size": [1, 5], "padding": [0, 2]},
    "padding same": {"kernel_size": 3, "padding": "same"},
    "padding same, lopsided": {"kernel_size": [2, 4], "padding": "same"},
    "padding valid": {"kernel_size": 3, "padding": "valid"},
    "reflect": {"kernel_size": 3, "padding": 1, "padding_mode": "reflect"},
    "replicate": {"kernel_size": 3, "padding": [2, 1], "padding_mode": "replicate"},
    "circular, same": {"kernel_size": 4, "padding": "same", "padding_mode": "circular"},
    "several": {"kernel_size": 3, "stride": 2, "dilation": 2, "groups": 4, "padding": 2, "padding_mode": "reflect"},
}
ACTIVATIONS = {
    "none": nn.Identity,
    "relu6": nn.ReLU6,
    "gelu": nn.GELU,
    "silu": nn.SiLU,
    "leaky": nn.LeakyReLU,
    "sigmoid": nn.Sigmoid,
    "tanh": nn.Tanh,
    "hardswish": nn.Hardswish,
}


def architecture(name):
    return lambda kind: spec.ARCHITECTURES.setdefault(name, kind)


@architecture("layers")
class Layers(nn.Module):
    """Two units, the second's convolution with the attributes ``how``, and a linear layer."""

    def __init__(self, in_channels=1, image_size=8, classes=10, how=None, activation="relu"):
        super().__init__()
        self.first, self.second = blocks.ConvUnit(in_channels, 8, 3), blocks.ConvUnit(8, 8, 3)
        if how:
            self.second.conv = nn.Conv2d(8, 8, bias=False, **how)
        if activation != "relu":
            self.first.relu, self.second.relu = ACTIVATIONS[activation](), ACTIVATIONS[activation]()
        self.pool, self.last = nn.AdaptiveAvgPool2d(2), nn.Linear(32, classes)

    def forward(self, x):
        return self.last(self.pool(self.second(self.first(x))).flatten(1))


@architecture("residual")
class Residual(nn.Module):
    """Sums: with a unit's input, of two convolutions of stride 2, and with a linear layer's input."""

    def __init__(self, in_channels=1, image_size=8, classes=10):
        super().__init__()
        self.first, self.second = blocks.ConvUnit(in_channels, 8, 3), blocks.ConvUnit(8, 8, 3)
        self.main = nn.Conv2d(8, 12, 3, stride=2, padding=1)
        self.short = nn.Conv2d(8, 12, 1, stride=2, bias=False)
        self.fc, self.last = nn.Linear(12, 12), nn.Linear(12, classes)

    def forward(self, x):
        x = self.first(x)
        x = x + self.second(x)
        x = torch.relu(self.main(x) + self.short(x)).mean((2, 3))
        return self.last(x + self.fc(x))


def network(name, seed=0, **args):
    """A network whose batch norms are not those of a new one."""
    model = spec.create(name, seed, in_channels=1, image_size=8, classes=10, **args)
    draw = torch.Generator().manual_seed(seed)
    for norm in (module for module in model.modules() if isinstance(module, nn.BatchNorm2d)):
        norm.weight.data.uniform_(0.5, 2, generator=draw)
        norm.bias.data.normal_(generator=draw)
        norm.running_mean.normal_(generator=draw)
        norm.running_var.uniform_(0.5, 2, generator=draw)
    return model.eval()


@pytest.fixture(scope="module")
def images(digits):
    return digits.normalize(digits.validation.images[:64])


@torch.no_grad()
def same(a, b, images) -> bool:
    return all(torch.equal(a(batch), b(batch)) for batch in (images, images[:1], 100 * images))


def check_written(model, images, folder):
    """That ``model`` computes the same bit for bit as it is shipped, read from its file and loaded from its folder."""
    as_shipped = shipped.apply(model)
    read = codec.decode(codec.encode(model))
    codec.verify(as_shipped, read)
    assert same(as_shipped, read, images)
    models.save_model(folder, model)
    assert same(models.load_model(folder), model, images)
    return as_shipped


def trained(model, data, monkeypatch):
    """``model`` trained on and in int8 layers, and the graph of PT2E that it comes from."""
    graphs, convert = [], qat.Rounded.converted
    monkeypatch.setattr(qat.Rounded, "converted", lambda self: graphs.append(convert(self)) or graphs[-1])
    return qat.apply(model, data, recipe=RECIPE, seed=0, bits=4, calibration_images=50), graphs[0]


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel")
@pytest.mark.parametrize("kind", CONVOLUTIONS)
def test_convolutions_of_every_kind_are_those_of_pt2es_graph_and_of_the_file(kind, images, tmp_path):
    model = network("layers", how=CONVOLUTIONS[kind])
    graph = pt2e.convert(copy.deepcopy(model), images)
    ours = pt2e.from_pt2e(model, graph)
    assert same(ours, graph, images)
    assert same(check_written(ours, images, tmp_path / "int8"), ours, images)
    as_shipped = check_written(model, images, tmp_path / "float")
    with torch.no_grad():
        assert torch.allclose(as_shipped(images), model(images), atol=1e-4)
        assert not torch.allclose(as_shipped(images), network("layers")(images), atol=0.1)  # the attributes matter


@pytest.mark.parametrize("kind", ["padding same, lopsided", "several"])
def test_convolutions_of_every_kind_are_trained_with_rounding(kind, tiny, images, tmp_path, monkeypatch):
    ours, graph = trained(network("layers", how=CONVOLUTIONS[kind]), tiny, monkeypatch)
    assert same(ours, graph, images)
    assert same(check_written(ours, images, tmp_path), ours, images)


@pytest.mark.parametrize("activations", ["dynamic", "float"])
def test_other_ways_to_round_inputs_keep_the_attributes(activations, images, tmp_path):
    model = network("layers", how=CONVOLUTIONS["several"])
    ours = pt2e.from_pt2e(model, pt2e.convert(model, images))
    other = with_activations(ours, model, activations)
    check_written(other, images, tmp_path)
    with torch.no_grad():
        assert torch.allclose(other(images), model(images), atol=0.1)


# --- sums -------------------------------------------------------------------------------------------------------


def x86_graph(model, images, exact_sums=True):
    """The graph by torchao's own quantizer for x86, sums (and what comes out of a layer) left as they are."""
    with quiet_torchao():
        from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e
        from torchao.quantization.pt2e.quantizer import x86_inductor_quantizer as x86

        class Quantizer(x86.X86InductorQuantizer):
            def annotate(self, graph):
                super().annotate(graph)
                for node in graph.graph.nodes:
                    if (annotation := node.meta.get(x86.QUANT_ANNOTATION_KEY)) is not None:
                        annotation.output_qspec = None
                        if exact_sums and node.target == torch.ops.aten.add.Tensor:
                            annotation.input_qspec_map = {}
                return graph

        quantizer = Quantizer()
        for kind in (nn.Conv2d, nn.Linear):
            quantizer.set_module_type_qconfig(kind, x86.get_default_x86_inductor_quantization_config())
        prepared = prepare_pt2e(pt2e.export(model, images), quantizer)
        with torch.no_grad():
            prepared(images)
        return convert_pt2e(prepared)


def test_a_sum_stays_exact_and_all_else_is_as_torchaos_quantizer_for_x86_has_it(images, tmp_path):
    model = network("residual")
    graph = pt2e.convert(copy.deepcopy(model), images)
    ours = pt2e.from_pt2e(model, graph)
    assert same(graph, x86_graph(copy.deepcopy(model), images), images)
    assert same(ours, graph, images)
    assert same(check_written(ours, images, tmp_path), ours, images)
    rounded = [n for n in graph.graph.nodes if n.target == torch.ops.quantized_decomposed.quantize_per_tensor.default]
    assert 0 < len(rounded) <= len(layers.weight_layers(model))


def test_a_sum_stays_exact_in_training(tiny, images, tmp_path, monkeypatch):
    ours, graph = trained(network("residual"), tiny, monkeypatch)
    assert same(ours, graph, images)
    assert same(check_written(ours, images, tmp_path), ours, images)


# --- activations ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_channels_are_sliced_away_only_where_the_activation_makes_them_zero(activation, images, tmp_path):
    """A bias below zero is nothing after a ReLU, and something after another activation."""
    model = network("layers", activation=activation)
    with torch.no_grad():
        model.first.conv.weight[:3] = 0
        model.second.conv.weight[2:4] = 0
        for unit in (model.first, model.second):
            unit.norm.bias.fill_(-2)
            unit.norm.running_mean.zero_()
    graph = pt2e.convert(copy.deepcopy(model), images)
    ours = pt2e.from_pt2e(model, graph)
    assert same(ours, graph, images)
    for each in (model, ours):
        as_shipped = check_written(each, images, tmp_path / each.spec["name"])
        assert ("inference" in [c["technique"] for c in as_shipped.spec["changes"] if c.get("sliced")]) == (
            activation == "relu6"
        )
        with torch.no_grad():
            assert torch.allclose(as_shipped(images), each(images), atol=1e-4)


@pytest.mark.parametrize(("groups", "sliced"), [(1, 5), (2, 0)])
def test_channels_stay_where_a_convolution_in_groups_reads_or_makes_them(groups, sliced, images):
    model = network("layers", how={"kernel_size": 3, "padding": 1, "groups": groups})
    with torch.no_grad():
        for unit in (model.first, model.second):
            unit.conv.weight[:3] = 0
            unit.norm.bias.fill_(-2)
            unit.norm.running_mean.zero_()
        model.second.conv.weight[2] = 1.0
    as_shipped = shipped.apply(model)
    assert sum(change.get("sliced", 0) for change in as_shipped.spec["changes"]) == sliced
    with torch.no_grad():
        assert torch.allclose(as_shipped(images), model(images), atol=1e-4)


# --- what is refused --------------------------------------------------------------------------------------------


class Odd(nn.Conv2d):
    def forward(self, x):
        return super().forward(2 * x)


@architecture("awkward")
class Awkward(nn.Module):
    """A convolution that cannot become an int8 layer, for the reason ``why``."""

    def __init__(self, in_channels=1, image_size=8, classes=10, why=""):
        super().__init__()
        self.why = why
        self.conv = (Odd if why == "subclass" else nn.Conv2d)(1, 1, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(1) if why == "norm" else nn.Identity()
        self.weight = nn.Parameter(torch.ones(1, 1, 3, 3)) if why == "functional" else None
        self.spare, self.last = nn.Linear(3, 3), nn.Linear(64, classes)

    def forward(self, x):
        x = self.norm(self.conv(x))
        if self.why == "twice":
            x = self.conv(torch.relu(x))
        if self.why == "functional":
            x = F.conv2d(x, self.weight, padding=1)
        if self.why != "never":
            x = x + self.spare(x.new_zeros(1, 3)).sum()
        return self.last(torch.relu(x).flatten(1))


@pytest.mark.parametrize(
    ("why", "message"),
    [
        ("subclass", "conv is Odd: expected a convolution or linear layer"),
        ("twice", "conv is called 2 times: expected once"),
        ("never", "spare is called 0 times: expected once"),
        ("norm", "norm: a batch norm behind a convolution: expected both in a ConvUnit"),
    ],
)
def test_what_would_be_computed_otherwise_is_refused_with_its_layer(why, message, tiny):
    model = network("awkward", why=why)
    with pytest.raises(blocks.SpecError, match=message):
        int8.apply(model, tiny, calibration_images=16)
    with pytest.raises(blocks.SpecError, match=message):
        qat.apply(model, tiny, recipe=RECIPE, seed=0, calibration_images=16)


def test_a_convolution_that_is_no_layer_stays_exact(images, tmp_path):
    model = network("awkward", why="functional")
    graph = pt2e.convert(copy.deepcopy(model), images)
    ours = pt2e.from_pt2e(model, graph)
    assert torch.equal(ours.weight, model.weight) and same(ours, graph, images)
    check_written(ours, images, tmp_path)


CHANGES = {
    "stride": lambda m: setattr(m.features[2].conv, "stride", (2, 2)),
    "dilation": lambda m: setattr(m.features[2].conv, "dilation", (2, 2)),
    "padding": lambda m: setattr(m.features[2].conv, "padding", (0, 0)),
    "padding_mode": lambda m: setattr(m.features[2].conv, "padding_mode", "circular"),
    "groups": lambda m: setattr(m.features[2].conv, "groups", 2),
    r"features\.0\.relu is GELU\(.*\): expected ReLU\(\), as": lambda m: setattr(m.features[0], "relu", nn.GELU()),
    r"features\.6 is Tanh\(\): expected none, as its spec builds it": lambda m: m.features.append(nn.Tanh()),
    r"features\.3 is MaxPool2d\(kernel_size=3": lambda m: setattr(m.features[3], "kernel_size", 3),
    r"features\.5 is not there: expected MaxPool2d": lambda m: m.features.pop(5),
}


@pytest.mark.parametrize("kind", ["student_model", "int8_model"])
@pytest.mark.parametrize("change", CHANGES)
def test_what_the_spec_does_not_build_is_refused_when_written(change, kind, request, tmp_path):
    model = layers.duplicate(request.getfixturevalue(kind))
    CHANGES[change](model)
    named = rf"features\.2\.conv is \w+\(.*{change}=.*as its spec builds it"
    message = change if " is " in change else named
    with pytest.raises(ValueError, match=message):
        codec.encode(model)
    with pytest.raises(ValueError, match=message):
        models.save_model(tmp_path / "model", model)
    assert not (tmp_path / "model").exists()


# --- units that are not convolution, batch norm, activation -----------------------------------------------------


class PreActivation(blocks.ConvUnit):
    def forward(self, x):
        return self.conv(self.relu(self.norm(x)))


class Named(blocks.ConvUnit):
    """A unit that runs as any other."""


def reordered(unit, *names, **more):
    for name, module in more.items():
        unit.add_module(name, module)
    unit._modules = {name: unit._modules[name] for name in names}


class Sync(nn.SyncBatchNorm):
    pass


ODD = {  # what is done to the second unit, and what is said of it; None: nothing
    "pre-activation": (
        lambda u: setattr(u, "__class__", PreActivation),
        "second is PreActivation: expected a ConvUnit",
    ),
    "norm first": (lambda u: reordered(u, "norm", "conv", "relu"), "second runs norm, conv, relu: expected conv, then"),
    "ReLU between": (lambda u: reordered(u, "conv", "relu", "norm"), "second runs conv, relu, norm: expected conv,"),
    "maximum between": (
        lambda u: reordered(u, "conv", "pool", "norm", "relu", pool=nn.MaxPool2d(2, 1, 1)),
        "second runs conv, pool, norm, relu: expected conv, then norm",
    ),
    "another convolution": (lambda u: setattr(u, "conv", Odd(8, 8, 3, padding=1)), r"second\.conv is Odd: expected"),
    "another batch norm": (
        lambda u: setattr(u, "norm", Sync(8)),
        r"second\.norm is Sync behind Conv2d: expected Batch",
    ),
    "no statistics": (
        lambda u: setattr(u, "norm", nn.BatchNorm2d(8, track_running_stats=False)),
        r"second\.norm has no running statistics: expected track_running_stats=True",
    ),
    "a maximum behind": (lambda u: u.add_module("pool", nn.MaxPool2d(3, 1, 1)), None),
    "a subclass that runs alike": (lambda u: setattr(u, "__class__", Named), None),
    "group norm": (lambda u: setattr(u, "norm", nn.GroupNorm(2, 8)), None),
    "instance norm": (lambda u: setattr(u, "norm", nn.InstanceNorm2d(8, affine=True)), None),
    "no scale": (lambda u: setattr(u, "norm", nn.BatchNorm2d(8, affine=False)), None),
    "no momentum": (lambda u: setattr(u, "norm", nn.BatchNorm2d(8, momentum=None)), None),
}


@architecture("odd")
class OddUnit(Layers):
    """Its second unit is odd in the way ``kind``."""

    def __init__(self, in_channels=1, image_size=8, classes=10, kind=""):
        super().__init__(in_channels, image_size, classes)
        ODD[kind][0](self.second)


@pytest.mark.parametrize("kind", [kind for kind in ODD if ODD[kind][1]])
def test_a_unit_that_is_not_convolution_then_norm_is_refused_and_named(kind, tiny, tmp_path):
    model, message = spec.create("odd", 0, in_channels=1, image_size=8, classes=10, kind=kind).eval(), ODD[kind][1]
    for refused in (
        codec.encode,
        shipped.apply,
        layers.fold_batch_norm,
        lambda m: models.save_model(tmp_path / "new", m),
        lambda m: int8.apply(m, tiny, calibration_images=16),
        lambda m: qat.apply(m, tiny, recipe=RECIPE, seed=0, calibration_images=16),
    ):
        with pytest.raises(ValueError, match=message):
            refused(model)
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("kind", [kind for kind in ODD if not ODD[kind][1]])
def test_a_unit_with_another_norm_or_more_behind_it_is_that_of_pt2es_graph_and_of_the_file(kind, images, tmp_path):
    model = spec.create("odd", 0, in_channels=1, image_size=8, classes=10, kind=kind).eval()
    draw = torch.Generator().manual_seed(0)
    for norm in (model.first.norm, model.second.norm):
        for tensor in norm.state_dict().values():
            if tensor.is_floating_point():
                tensor.uniform_(0.5, 2, generator=draw)
    graph = pt2e.convert(copy.deepcopy(model), images)
    ours = pt2e.from_pt2e(model, graph)
    assert same(ours, graph, images)
    check_written(ours, images, tmp_path / "int8")
    as_shipped = check_written(model, images, tmp_path / "float")
    with torch.no_grad():
        assert torch.allclose(as_shipped(images), model(images), atol=1e-4)


def test_a_norm_that_was_not_folded_is_restored_as_it_was(digits, images, tmp_path):
    model = spec.create("odd", 0, in_channels=1, image_size=8, classes=10, kind="group norm").eval()
    nn.init.uniform_(model.second.norm.weight, 0.5, 2)
    restored = restore.apply(listed(tmp_path, model), digits)
    assert torch.equal(restored.second.norm.weight, model.second.norm.weight)
    with torch.no_grad():
        assert torch.allclose(restored(images), model(images), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("layer", ["fc1", "fc3"])
def test_numbers_that_are_not_finite_for_the_calibration_images_are_named_with_their_layer(layer, student_model, tiny):
    model = layers.duplicate(student_model)
    with torch.no_grad():
        model.get_submodule(layer).weight.mul_(1e38)
    message = f"{layer} gives numbers that are not finite.*calibration images"
    with pytest.raises(ValueError, match=message):
        int8.apply(model, tiny, calibration_images=16)
    with pytest.raises(ValueError, match=message):
        qat.apply(model, tiny, recipe=RECIPE, seed=0, calibration_images=16)


class Namesake(nn.Linear):
    def forward(self, x):
        return 2 * super().forward(x)


Namesake.__name__ = "Linear"
TOUCHED = {
    "a class of the same name": (lambda layer: setattr(layer, "__class__", Namesake), r"Namesake: expected \S*Linear"),
    "a hook": (lambda layer: layer.register_forward_hook(lambda _m, _i, y: 2 * y), "has a forward hook"),
    "a hook before": (lambda layer: layer.register_forward_pre_hook(lambda _m, x: (2 * x[0],)), "forward pre hook"),
    "another forward": (lambda layer: setattr(layer, "forward", lambda x: x[:, :10]), "has a forward of its own"),
}


@pytest.mark.parametrize("how", TOUCHED)
def test_a_layer_that_does_something_else_than_its_class_is_refused_and_named(how, student_model, tiny, tmp_path):
    model, (touch, message) = layers.duplicate(student_model), TOUCHED[how]
    touch(model.fc3)
    for write in (codec.encode, lambda m: models.save_model(tmp_path / "new", m)):
        with pytest.raises(ValueError, match=f"fc3 .*{message}"):
            write(model)
    assert not (tmp_path / "new").exists()
    with pytest.raises(blocks.SpecError, match="fc3 "):
        int8.apply(model, tiny, calibration_images=16)
