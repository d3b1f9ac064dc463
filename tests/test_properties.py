"""Every technique on every network owes what ``tests/properties.py`` says.

A new technique adds a line to TECHNIQUES, a new network a line to NETWORKS. What one does not owe is a gap, with its
reason; a gap that closes fails until its line goes.
"""

import dataclasses
import hashlib
import importlib
import inspect
import itertools
import json
import pkgutil
import tempfile
from pathlib import Path

import pytest
import torch
from properties import PROPERTIES, Made
from torch import nn

from studylib import techniques
from studylib.coding import codec, restore, shipped
from studylib.data import datasets
from studylib.experiments import int8 as measure
from studylib.experiments.svd import fisher
from studylib.networks import cost, layers, spec
from studylib.techniques import (
    binary,
    controller,
    cp,
    distill,
    dynamic,
    fixed,
    hardware,
    hybrid,
    int4,
    int8,
    kernels,
    oneshot,
    prune,
    qat,
    semistructured,
    sketch,
    structural,
    svd,
    threshold,
    tucker,
)
from studylib.training.recipe import Recipe
from tests.test_shipped import tied

SEED = 3
IMAGES = {"calibration_images": 32}
ONCE = {"recipe": Recipe(epochs=1, lr=1e-3, batch_size=32)}
TWICE = {"recipe": Recipe(epochs=2, lr=1e-3, batch_size=32)}
GUIDANCE = controller.Guidance(budget=0.8, share=0.3, every=1, batch_size=16)
NETWORKS = {  # architecture → the arguments of a small one
    "convnet": {"widths": [4, 6, 8], "hidden": [12, 9]},
    "densenet": {"depth": 7, "growth": 4, "stem": 6},
    "gated": {"width": 4},
    "mobilenetv2": {"width": 0.1},
    "resnet": {"depth": 8, "width": 4},
    "vgg": {"width": 3},
    "vgg16": {"width": 3},
    "whitened": {"width": 6},
}


OF_ANOTHER_TASK = {"gpt", "vae"}  # no classes; test_gpt.py and test_vae.py run these properties on them


def trajectory(method):
    """The model at one sparsity, higher than that of the model given; "random" keeps the latter's density."""

    def technique(model, data, seed):
        initial = spec.create(model.spec["name"], seed, data=data, **model.spec["args"])
        masks = layers.masks_of(model)
        (pruned,) = prune.trajectory(
            model, data, [0.7], method=method, seed=seed, initial=initial, like=[masks], **ONCE
        )
        return pruned

    return technique


def of_mixed_bits(model, data, seed):
    bits = {name: 2 + k % 7 for k, name in enumerate(layers.weight_layers(model))}
    return int8.apply(model, data, seed=seed, bits=bits, **IMAGES)


def with_activations(activations):
    def technique(model, data, seed):
        return measure.with_activations(int8.apply(model, data, seed=seed, **IMAGES), model, activations)

    return technique


def restored(model, data, seed):
    """As if the file of ``model`` had been published."""
    with tempfile.TemporaryDirectory() as folder:
        path, file = Path(folder) / "model.slnc", codec.encode(model)
        path.write_bytes(file)
        about = {"dataset": data.name, "seed": data.seed, "sha256": hashlib.sha256(file).hexdigest()}
        (path.parent / restore.LIST).write_text(json.dumps({path.name: about}))
        return restore.apply(path, data)


def within_half(model, data, seed):
    """Bits of each layer so that its file takes at most half of what it takes in floats."""
    budget = len(codec.encode(model)) // 2
    return hybrid.apply(model, data, budget_bytes=budget, bits=[2, 4, 32], images=32, seed=seed)


def as_if_timed(model, data, seed):
    """Every second layer is faster in int8, says a clock that counts."""
    turns = itertools.cycle([(2.0, 1.0), (1.0, 2.0)])
    return hardware.apply(model, data, timing=lambda *_: next(turns), seed=seed, batch=8, **IMAGES)


TECHNIQUES = {  # "module" or "module, how" → what it makes of (model, data, seed)
    "distill": lambda model, data, seed: distill.apply(
        model, data, seed=seed, widths=[4, 6, 8], hidden=[12, 9], **ONCE
    ),
    "distill, a ResNet": lambda model, data, seed: distill.apply(model, data, seed=seed, name="resnet 8-3", **ONCE),
    "prune": lambda model, data, seed: prune.apply(model, data, seed=seed, rounds=2, **ONCE),
    **{f"prune, {method}": trajectory(method) for method in prune.METHODS},
    "threshold": lambda model, data, seed: threshold.apply(model, data, seed=seed),
    "oneshot": lambda model, data, seed: oneshot.apply(model, data, seed=seed, criterion="gradient", **IMAGES),
    "structural": lambda model, data, seed: structural.apply(model, data, seed=seed),
    "kernels": lambda model, data, seed: kernels.apply(model, data, seed=seed, criterion="activation", **IMAGES),
    "semistructured": lambda model, data, seed: semistructured.apply(model, data, seed=seed),
    "tucker": lambda model, data, seed: tucker.apply(model, data, energy=0.5),
    "cp": lambda model, data, seed: cp.apply(model, data, seed=seed, iterations=5),
    "sketch": lambda model, data, seed: sketch.apply(model, data, seed=seed, energy=0.5),
    "svd": lambda model, data, seed: svd.apply(model, data),
    "svd, by Fisher information": lambda model, data, seed: svd.apply(model, data, importance=fisher(model, data)),
    "int8": lambda model, data, seed: int8.apply(model, data, seed=seed, **IMAGES),
    "int8, 3 bits": lambda model, data, seed: int8.apply(model, data, seed=seed, bits=3, **IMAGES),
    "int8, mixed bits": of_mixed_bits,
    "int8, dynamic": with_activations("dynamic"),
    "int8, weights only": with_activations("float"),
    "qat": lambda model, data, seed: qat.apply(model, data, seed=seed, bits=4, **ONCE, **IMAGES),
    "restore": restored,
    "fixed": lambda model, data, seed: fixed.apply(model, data, seed=seed, **IMAGES),
    "dynamic, per batch": lambda model, data, seed: dynamic.apply(model, data),
    "dynamic, per sample": lambda model, data, seed: dynamic.apply(model, data, per="sample", layers="linear"),
    "int4": lambda model, data, seed: int4.apply(model, data),
    "int4, in groups": lambda model, data, seed: int4.apply(model, data, bits=3, group=16),
    "hybrid": within_half,
    "hardware": as_if_timed,
    "binary": lambda model, data, seed: binary.apply(model, data, seed=seed, **ONCE),
    "controller": lambda model, data, seed: controller.apply(model, data, seed=seed, guidance=GUIDANCE, **TWICE),
}
QUANTIZING = ("fixed", "dynamic", "int4", "hybrid", "hardware", "binary")
DENSE = "its factors are dense"
UNRECORDED = "a chapter compares these models; none is a node, so that none needs a record"
GAPS = {  # (technique, property) → why it does not owe that
    **{(name, "keeps_zeros"): "the student is another network" for name in ("distill", "distill, a ResNet")},
    **{(name, "keeps_zeros"): DENSE for name in ("svd", "tucker", "cp", "sketch")},
    ("structural", "keeps_zeros"): "filters are taken out, and layers are narrower",
    ("controller", "keeps_zeros"): "channels are taken out, and the others train",
    ("svd, by Fisher information", "keeps_zeros"): DENSE,
    ("prune, random", "keeps_zeros"): "it draws where the zeros are",
    ("restore", "keeps_zeros"): "channels that were sliced away come back behind those that were kept",
    **{(f"prune, {method}", "is_recorded"): UNRECORDED for method in prune.METHODS},
}
NO_GAPS = {  # (technique, network, property) → why it owes what others do not
    ("restore", "gated", "keeps_zeros"): "its norms are of all channels, so that none was sliced away",
}
DEPTHWISE = "its graph takes seconds a file; gated has depthwise convolutions, too"
FILES = "it writes files, or a graph, for some seconds; convnet, densenet and resnet have layers as this has"
CHAIN = "a chain of layers as convnet is"
SLOW = "torchao takes six seconds a call, and convnet is a chain of layers as this one is"
MASKS = "it zeros weights and changes no layer; convnet, gated and resnet have all kinds of them"
LEFT_OUT = {  # (technique, network or property) → why it is not run
    ("qat", "vgg"): SLOW,
    ("qat", "mobilenetv2"): "torchao takes half a minute; test_mobilenet.py compares it with PT2E's graph",
    ("qat", "vgg16"): SLOW,
    ("qat", "whitened"): SLOW,
    **{
        (technique, network): MASKS
        for technique in ("threshold", "oneshot", "kernels", "semistructured")
        for network in ("densenet", "mobilenetv2", "vgg", "vgg16", "whitened")
    },
    **{(technique, "mobilenetv2"): "it takes seconds, and tucker is run there" for technique in ("cp", "sketch")},
    **{(technique, "vgg16"): "a chain of layers as vgg is" for technique in ("tucker", "cp", "sketch")},
    **{("cp", network): "a chain of layers as convnet is" for network in ("vgg", "whitened")},
    ("qat", "is_deterministic"): "it takes another six seconds; test_qat.py compares two trainings that take up again",
    **{(name, "mobilenetv2"): DEPTHWISE for name in TECHNIQUES if name.split(",")[0] in QUANTIZING},
    **{(name, network): FILES for name in ("hybrid", "hardware") for network in ("gated", "whitened")},
    **{
        (name, network): CHAIN
        for name in TECHNIQUES
        if name.split(",")[0] in QUANTIZING
        for network in ("vgg", "vgg16")
    },
}


def case(technique: str, network: str, name: str):
    marks, reason = [], GAPS.get((technique, name))
    if reason and (technique, network, name) not in NO_GAPS:
        marks = [pytest.mark.xfail(reason=reason, raises=AssertionError, strict=True)]
    return pytest.param(technique, network, name, marks=marks, id=f"{technique}, {network}: {name}")


CASES = [
    case(technique, network, name)
    for technique in TECHNIQUES
    for network in NETWORKS
    for name in PROPERTIES
    if not {(technique, network), (technique, name)} & LEFT_OUT.keys()
]


@pytest.fixture(scope="module")
def few(digits):
    """The digits with 64 training and 32 validation images."""
    parts = {"train": digits.train.take(slice(64)), "validation": digits.validation.take(slice(32))}
    return dataclasses.replace(digits, **parts)


@pytest.fixture(scope="module")
def given(few):
    """Gives a network as training leaves one, half of its weights zero, and one channel dead, which is sliced away."""

    def make(name: str) -> nn.Module:
        model = spec.create(name, 0, data=few, **few.model_args, **NETWORKS[name])
        draw = torch.Generator().manual_seed(0)
        norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
        with torch.no_grad():
            for norm in norms:
                norm.running_mean.normal_(0, 0.3, generator=draw)
                norm.running_var.uniform_(0.5, 2, generator=draw)
                norm.bias.uniform_(0, 0.5, generator=draw)
            for layer in layers.weight_layers(model).values():
                layer.weight += 0.1 * torch.randn(layer.weight.shape, generator=draw)
                layer.weight *= torch.rand(layer.weight.shape, generator=draw) < 0.5
            for name in tied(model, next(iter(layers.weight_layers(model)))) if norms else ():
                unit = model.get_submodule(name.rpartition(".")[0])
                unit.conv.weight[1], unit.norm.running_mean[1], unit.norm.bias[1] = 0, 0, -1
        return spec.with_change(model.eval(), "teacher", {"epochs": 0})

    return make


@pytest.fixture(scope="module")
def made(few, given, tmp_path_factory):
    """Gives what a technique makes of a network; it is made once."""
    known = {}

    def make(technique: str, network: str) -> Made:
        key = technique, network
        if key not in known:
            known[key] = Made.by(TECHNIQUES[technique], given(network), few, SEED, tmp_path_factory.mktemp("made"))
        return known[key]

    return make


def changed(change, recorded=True):
    """A technique that does no more than ``change`` to a copy."""

    def technique(model, data, seed):
        new = layers.duplicate(model)
        with torch.no_grad():
            change(new)
        return spec.with_change(new, "changed", {}) if recorded else new

    return technique


def in_place(model, data, seed):
    model.fc3.bias.data += 1
    return spec.with_change(layers.duplicate(model), "in place", {})


CARELESS = {  # property → a technique that does not keep it
    "leaves_the_model_untouched": in_place,
    "is_recorded": changed(lambda model: model, recorded=False),
    "keeps_zeros": changed(lambda model: model.fc1.weight.add_(1)),
    "rebuilds_from_its_folder": changed(lambda model: layers.replace_module(model, "fc3", nn.Linear(9, 7))),
    "codes_and_decodes": changed(lambda model: layers.replace_module(model, "fc3", nn.Linear(9, 7))),
    "runs": changed(lambda model: model.fc3.bias.fill_(float("inf"))),
    "is_deterministic": changed(lambda model: model.fc3.bias.normal_()),
    "refuses_what_is_not_finite": changed(lambda model: model),
}


@pytest.mark.parametrize("name", PROPERTIES)
def test_a_technique_that_does_not_keep_a_property_is_found(given, few, tmp_path, name):
    made = Made.by(CARELESS[name], given("convnet"), few, SEED, tmp_path)
    with pytest.raises((AssertionError, ValueError, pytest.fail.Exception)):
        PROPERTIES[name](made)


@pytest.mark.parametrize(("technique", "network", "name"), CASES)
def test_a_technique_keeps_what_it_owes(made, technique, network, name):
    PROPERTIES[name](made(technique, network))


@pytest.mark.parametrize("dataset", datasets.SOURCES)
@pytest.mark.parametrize("network", NETWORKS)
def test_every_network_takes_the_images_of_every_data_set(network, dataset):
    source = datasets.SOURCES[dataset]
    channels, side = source.shape
    args = {"in_channels": channels, "image_size": side, "classes": source.classes}
    model = spec.create(network, 0, **args, **NETWORKS[network]).eval()
    images = torch.rand(2, channels, side, side, generator=torch.Generator().manual_seed(0))
    outputs = model(images)
    assert outputs.shape == (2, source.classes) and not torch.equal(*outputs)
    form = shipped.apply(model)
    assert torch.equal(codec.decode(codec.encode(form))(images), form(images))
    assert cost.multiply_adds(form, args) > 0


def test_every_network_and_every_technique_of_the_package_stands_in_the_table():
    ours = {name for name, kind in spec.ARCHITECTURES.items() if kind.__module__.startswith("studylib.")}
    assert NETWORKS.keys() | OF_ANOTHER_TASK == ours  # tests add others
    modules = {
        each.name: importlib.import_module(f"{techniques.__name__}.{each.name}")
        for each in pkgutil.iter_modules(techniques.__path__)
    }
    of_a_model = {
        name
        for name, module in modules.items()
        if hasattr(module, "apply") and next(iter(inspect.signature(module.apply).parameters)) == "model"
    }
    assert {name.partition(",")[0] for name in TECHNIQUES} >= of_a_model >= {"prune", "svd"}


def test_every_gap_is_of_a_technique_and_a_property_and_has_a_reason():
    assert all(technique in TECHNIQUES and name in PROPERTIES for technique, name in GAPS)
    assert all(technique in TECHNIQUES and what in NETWORKS | PROPERTIES for technique, what in LEFT_OUT)
    assert all((technique, name) in GAPS and network in NETWORKS for technique, network, name in NO_GAPS)
    assert all((GAPS | LEFT_OUT | NO_GAPS).values())
