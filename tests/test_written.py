"""Whatever is written can be read back; what could not be is refused before anything is written."""

import json

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn.utils import parametrizations, parametrize, prune

from studylib.coding import codec, shipped, size
from studylib.disk import files, models
from studylib.networks import blocks, int8_layers, layers, spec
from studylib.techniques import svd
from tests.test_shipped import NETWORKS, network, outputs


class Doubled(nn.Module):
    def forward(self, weight):
        return 2 * weight


def last_name(model):
    return list(layers.weight_layers(model))[-1]


def last(model):
    return model.get_submodule(last_name(model))


def first_unit(model):
    return next(m for m in model.modules() if isinstance(m, blocks.ConvUnit))


def new_last(model, out=0, into=0, **how):
    old = last(model)
    layers.replace_module(model, last_name(model), nn.Linear(old.in_features + into, old.out_features + out, **how))


def recorded(model, value, **structure):
    spec.with_change(model, "x", {"value": value}, structure or None)


def with_args(model, **args):
    model.spec = {**model.spec, "args": {**model.spec["args"], **args}}


def tie(model):
    """Lets two layers share their weight, where there are two of one kind and shape."""
    seen = {}
    for layer in layers.weight_layers(model).values():
        layer.weight = seen.setdefault((type(layer), layer.weight.shape), layer.weight)


def turn(model):
    """Lets the first unit's batch norm come before its convolution."""
    unit = first_unit(model)
    unit._modules = {name: unit._modules[name] for name in ("norm", "conv", "relu")}


# what is done to a network, and what is then said of it
REFUSED = {
    "a new head": (lambda m: new_last(m, out=3), r"\.?weight is float32 \(13, \d+\): expected float32 \(10, \d+\)"),
    "a wider layer": (lambda m: new_last(m, into=2), r"weight is float32 \(10, \d+\): expected float32 \(10, \d+\)"),
    "no bias": (lambda m: new_last(m, bias=False), r"bias is not there: expected float32 \(10,\)"),
    "a parameter more": (
        lambda m: m.register_parameter("temperature", nn.Parameter(torch.ones(2))),
        r"temperature is float32 \(2,\): expected none",
    ),
    "a buffer more": (lambda m: m.register_buffer("seen", torch.zeros(3)), r"seen is float32 \(3,\): expected none"),
    "a buffer that is not stored": (
        lambda m: m.register_buffer("seen", torch.zeros(3), persistent=False),
        r"seen is float32 \(3,\): expected none",
    ),
    "a layer more": (lambda m: m.add_module("aside", nn.Linear(2, 3)), r"aside.weight is float32 \(3, 2\): expected"),
    "pruned by torch": (
        lambda m: prune.l1_unstructured(last(m), "weight", 0.5),
        r"weight_orig is float32 .*: expected none.*; torch.nn.utils.prune.remove",
    ),
    "weight norm": (
        lambda m: parametrizations.weight_norm(last(m)),
        r"original0 is float32 .*: expected none.*; torch.nn.utils.parametrize.remove_parametrizations",
    ),
    "weight norm of old": (
        lambda m: nn.utils.weight_norm(last(m)),
        r"weight_g is float32 .*: expected none.*; torch.nn.utils.remove_weight_norm",
    ),
    "spectral norm of old": (
        lambda m: nn.utils.spectral_norm(last(m)),
        r"weight_orig is float32 .*: expected none.*; torch.nn.utils.remove_spectral_norm",
    ),
    "a parametrization": (
        lambda m: parametrize.register_parametrization(last(m), "weight", Doubled()),
        r"original is float32 .*: expected none.*; torch.nn.utils.parametrize.remove_parametrizations",
    ),
    "float64": (lambda m: m.double(), r"is float64 .*: expected float32 .*; model\.float\(\)"),
    "bfloat16 in one layer": (lambda m: last(m).bfloat16(), r"is bfloat16 .*: expected float32 .*; model\.float\(\)"),
    "another activation": (lambda m: setattr(first_unit(m), "relu", nn.GELU()), r"relu is GELU.*: expected ReLU"),
    "another stride": (lambda m: setattr(first_unit(m).conv, "stride", (2, 2)), r"stride=\(2, 2\).*stride=\(1, 1\)"),
    "another order": (turn, r"norm stands where .*conv is expected"),
    "arguments of another": (lambda m: with_args(m, classes=7), r"weight is float32 \(10, .*: expected float32 \(7, "),
    "no such network": (lambda m: setattr(m, "spec", {**m.spec, "name": "mobilenet"}), "model name 'mobilenet'"),
    "arguments that build nothing": (lambda m: with_args(m, in_channels="x"), "does not build"),
    "no such change": (lambda m: recorded(m, 1, module="nowhere"), "'nowhere'"),
    "no JSON": (lambda m: recorded(m, {1, 2}), "not JSON data"),
    "no number": (lambda m: recorded(m, float("nan")), "not JSON data"),
    "half a character": (lambda m: recorded(m, "\ud800"), "not JSON data"),
}
ACCEPTED = {
    "channels last": lambda m: m.to(memory_format=torch.channels_last),
    "by columns": lambda m: setattr(last(m).weight, "data", last(m).weight.data.t().contiguous().t()),
    "tied": tie,
    "a part of a larger tensor": lambda m: setattr(last(m), "bias", nn.Parameter(torch.randn(10, 4)[:, 1])),
    "pruned by torch, then plain": lambda m: prune.remove(prune.l1_unstructured(last(m), "weight", 0.5), "weight"),
    "a ReLU in place": lambda m: setattr(first_unit(m), "relu", nn.ReLU(inplace=True)),
    "tuples in the spec": lambda m: recorded(m, (1, (2, 3))),
    "numbers as keys": lambda m: recorded(m, {10: 1, 9: 2}),
    "in training": lambda m: m.train(),
    "frozen": lambda m: m.requires_grad_(False),
}
CODED_ONLY = {  # of int8 layers; what the folder of a model holds and a coded file does not
    "weights beyond their bits": "has weights beyond its bits",
    "a scale below zero": "has a scale that is not above 0",
    "no scale of the input": "has a scale that is not above 0",
    "not a number": "holds a number that is not finite",
}


def spoil(model, how):
    layer = last(model)
    layer.weight.fill_(100)
    if how == "weights beyond their bits":
        model.spec["changes"][-1]["structure"]["bits"] = 4
        for each in layers.weight_layers(model).values():
            each.bits = 4
    elif how == "a scale below zero":
        layer.weight_scale[0] = -1
    elif how == "no scale of the input":
        layer.input_scale.zero_()
    else:
        layer.bias[0] = float("nan")


def made(name, seed, kind):
    """A network of random weights, a third of them zero: in float32, factorized, shipped or in int8."""
    model, draw = network(name, seed), torch.Generator().manual_seed(seed)
    if kind == "int8":
        structure = {"module": "quantize", "layers": list(layers.weight_layers(model))}
        int8_layers.restructure(model, structure)
        spec.with_change(model, "int8", {}, structure).eval()
    for layer in layers.weight_layers(model).values():
        if kind == "int8":
            layer.weight.random_(-128, 128, generator=draw)
            layer.weight_scale.uniform_(0.001, 0.1, generator=draw)
        layer.weight.data *= torch.rand(layer.weight.shape, generator=draw) < 0.7
    if kind == "factorized":
        return svd.apply(model)
    return shipped.apply(model, floats="float16") if kind == "shipped" else model


def read(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()} if folder.exists() else {}


@pytest.mark.parametrize("change", REFUSED)
@pytest.mark.parametrize("name", ["convnet", "densenet"])
def test_what_its_spec_does_not_build_is_refused_when_written_and_nothing_is(name, change, tmp_path):
    models.save_model(tmp_path / "there", network(name, 1))
    before, model = read(tmp_path / "there"), network(name)
    act, message = REFUSED[change]
    act(model)
    for write in (codec.encode, lambda m: models.save_model(tmp_path / "new", m)):
        with pytest.raises(blocks.SpecError if write is not codec.encode else codec.CodecError, match=message) as said:
            write(model)
        assert "damaged" not in str(said.value)
    with pytest.raises(blocks.SpecError):
        models.save_model(tmp_path / "there", model)
    assert read(tmp_path / "there") == before and not (tmp_path / "new").exists()


@pytest.mark.parametrize("how", CODED_ONLY)
def test_numbers_that_no_int8_layer_has_are_refused_when_coded(how):
    model = made("convnet", 0, "int8")
    spoil(model, how)
    with pytest.raises(codec.CodecError, match=CODED_ONLY[how]) as said:
        codec.encode(model)
    assert "damaged" not in str(said.value)


def test_a_model_without_a_spec_is_refused(tmp_path):
    with pytest.raises(blocks.SpecError, match="Linear has no spec: expected a model of studylib"):
        models.save_model(tmp_path / "new", nn.Linear(2, 3))
    assert not (tmp_path / "new").exists()


@settings(max_examples=60)
@given(
    name=st.sampled_from(sorted(NETWORKS)),
    seed=st.integers(0, 999),
    kind=st.sampled_from(["float", "factorized", "shipped", "int8"]),
    changes=st.lists(st.sampled_from([*ACCEPTED, *ACCEPTED, *REFUSED, *CODED_ONLY]), max_size=2, unique=True),
    floats=st.sampled_from([None, *shipped.FLOATS]),
)
def test_whatever_is_not_refused_is_read_back_bit_for_bit(tmp_path_factory, name, seed, kind, changes, floats):
    model, folder = made(name, seed, kind), tmp_path_factory.mktemp("model")
    for change in changes:
        try:
            if change in CODED_ONLY:
                spoil(model, change)
            else:
                ACCEPTED.get(change, REFUSED.get(change, [None])[0])(model)
        except (AttributeError, KeyError, RuntimeError, TypeError, ValueError):
            assume(False)  # no such layer to do it to
    sound = not set(changes) - set(ACCEPTED)
    try:
        file = codec.encode(model, floats=floats)
    except codec.CodecError as error:
        assert not sound and "damaged" not in str(error)
    else:
        reference, decoded = shipped.apply(model, floats=floats or shipped.floats_of(model)), codec.decode(file)
        codec.verify(reference, decoded)
        assert torch.equal(outputs(decoded), outputs(reference)) and codec.encode(decoded) == file
    try:
        models.save_model(folder, model)
    except blocks.SpecError as error:
        assert not sound and "damaged" not in str(error) and not list(folder.iterdir())
    else:
        loaded = models.load_model(folder)
        expected = model.state_dict()
        assert loaded.spec == json.loads(json.dumps(model.spec)) and loaded.state_dict().keys() == expected.keys()
        for tensor_name, tensor in loaded.state_dict().items():
            assert torch.allclose(tensor, expected[tensor_name], rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("how", ["channels last", "by columns", "tied"])
@pytest.mark.parametrize("kind", ["float", "int8"])
def test_how_weights_lie_in_memory_changes_no_byte(kind, how, tmp_path):
    plain, model = made("whitened", 0, kind), made("whitened", 0, kind)
    ACCEPTED[how](model)
    plain.load_state_dict(model.state_dict())
    storages = [t.untyped_storage().data_ptr() for t in model.state_dict().values()]
    assert len(set(storages)) < len(storages) or any(not t.is_contiguous() for t in model.state_dict().values())
    assert size.accountings(model) == size.accountings(plain)
    assert codec.encode(model) == codec.encode(plain)
    for folder, each in (("a", model), ("b", plain)):
        models.save_model(tmp_path / folder, each)
    assert read(tmp_path / "a") == read(tmp_path / "b")
    files.write_tensors(tmp_path / "both", {"x": last(model).weight, "y": last(model).weight})
    assert torch.equal(files.read_tensors(tmp_path / "both")[0]["y"], last(model).weight)


def test_a_network_that_ties_its_own_layers_comes_back_tied(tmp_path, monkeypatch):
    class Tied(nn.Module):
        def __init__(self, in_channels=1, image_size=8, classes=10):
            super().__init__()
            self.first, self.second = (nn.Linear(image_size**2, image_size**2) for _ in range(2))
            self.second.weight, self.head = self.first.weight, nn.Linear(image_size**2, classes)

        def forward(self, x):
            return self.head(torch.relu(self.second(torch.relu(self.first(x.flatten(1))))))

    monkeypatch.setitem(spec.ARCHITECTURES, "tied", Tied)
    model = spec.create("tied", 0).eval()
    models.save_model(tmp_path, model)
    loaded = models.load_model(tmp_path)
    assert loaded.first.weight is loaded.second.weight
    assert size.accountings(model)["parameters"] == sum(t.numel() for t in model.state_dict().values())
    for each in (loaded, codec.decode(codec.encode(model))):
        assert torch.equal(outputs(each), outputs(model))
