import copy
import re
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from studylib.networks import blocks, chains
from studylib.networks.blocks import SpecError
from studylib.networks.layers import duplicate, fold_batch_norm, replace_module, weight_layers
from studylib.networks.spec import RESTRUCTURE, build, create, described, normalize, with_change

SPEC = {"format": 1, "name": "convnet", "args": {"in_channels": 1, "image_size": 8}, "changes": []}


def test_densenet_40_is_the_size_that_the_paper_says():
    model = create("densenet", 0, depth=40, growth=12)
    assert 0.95e6 < sum(p.numel() for p in model.parameters()) < 1.05e6
    assert sum(m.num_features for m in model.modules() if isinstance(m, nn.BatchNorm2d)) == 912
    assert len(weight_layers(model)) == 40


@pytest.mark.parametrize("name", ["densenet", "convnet", "mobilenetv2", "resnet", "vgg", "vgg16", "whitened"])
@pytest.mark.parametrize(("channels", "size"), [(1, 8), (3, 32)])
def test_models_fit_both_data_sets(name, channels, size):
    model = create(name, 0, in_channels=channels, image_size=size, **({"depth": 7} if name == "densenet" else {}))
    assert model(torch.randn(2, channels, size, size)).shape == (2, 10)


@given(n=st.integers(1, 4))
def test_depth_counts_convolutions_and_linear_layers(n):
    assert len(weight_layers(create("densenet", 0, depth=3 * n + 4))) == 3 * n + 4


@pytest.mark.parametrize("depth", [4, 8, 39])
def test_bad_depth_is_named(depth):
    with pytest.raises(SpecError, match=f"depth={depth}"):
        create("densenet", 0, depth=depth)


@pytest.mark.parametrize(
    ("name", "args", "message"),
    [
        ("densenet", {"image_size": 2}, "image_size=2"),
        ("convnet", {"image_size": 4}, "image_size=4"),
        ("vgg", {"image_size": 4}, "image_size=4"),
        ("vgg", {"width": 0}, "width=0"),
        ("resnet", {"width": 0}, "resnet width=0"),
        ("resnet", {"image_size": 3}, "image_size=3: expected at least 4, it is halved twice"),
        ("resnet", {"depth": 2}, r"depth=2: expected 6·n \+ 2"),
        ("resnet", {"depth": 22}, "depth=22"),
        ("mobilenetv2", {"width": 0}, "mobilenetv2 width=0: expected above 0, such as 0.5"),
        ("mobilenetv2", {"width": float("nan")}, "mobilenetv2 width=nan"),
        ("mobilenetv2", {"width": "half"}, "mobilenetv2.*does not build"),
        ("mobilenetv2", {"image_size": 7}, "mobilenetv2 image_size=7: expected at least 8, it is halved three times"),
        ("vgg16", {"width": 0}, "vgg16 width=0: expected at least 1"),
        ("vgg16", {"image_size": 0}, "vgg16 image_size=0: expected at least 1, it is halved five times, rounded up"),
        ("whitened", {"image_size": 6}, "image_size=6"),
        ("whitened", {"width": 0}, "whitened width=0"),
        ("convnet", {"widths": [8, 8]}, r"widths=\[8, 8\]"),
        ("convnet", {"hidden": [8]}, r"hidden=\[8\]"),
        ("convnet", {"colour": 1}, "colour"),
        ("mobilenet", {}, "mobilenet"),
    ],
)
def test_bad_arguments_are_named(name, args, message):
    with pytest.raises(SpecError, match=message):
        create(name, 0, **args)


def test_convnet_has_three_convolutions_and_three_linear_layers(new_student):
    kinds = [type(layer) for layer in weight_layers(new_student()).values()]
    assert kinds == [nn.Conv2d] * 3 + [nn.Linear] * 3


def test_the_seed_decides_the_weights(new_student, same_tensors):
    state = torch.get_rng_state()
    assert same_tensors(new_student(0), new_student(0))
    assert not same_tensors(new_student(0), new_student(1))
    assert torch.equal(torch.get_rng_state(), state)  # and nobody else's draws


def test_convolutions_start_he_normal():
    layers = weight_layers(create("densenet", 0, depth=40)).values()
    weights = [layer.weight for layer in layers if isinstance(layer, nn.Conv2d)]
    drawn = torch.cat([weight.flatten() * (weight[0].numel() / 2) ** 0.5 for weight in weights])
    assert drawn.mean().item() == pytest.approx(0, abs=0.01)
    assert drawn.std().item() == pytest.approx(1, rel=0.01)
    assert max(weight.std().item() * (weight[0].numel() / 2) ** 0.5 for weight in weights) < 1.2


def test_a_whitened_vgg_starts_with_uncorrelated_channels_and_identities():
    draw = torch.Generator().manual_seed(0)
    mixed = torch.nn.functional.avg_pool2d(torch.randn(64, 3, 32, 32, generator=draw), 3, 1, 1)
    images = 0.1 * mixed + mixed[:, :1]  # neighbours and colours alike
    data = SimpleNamespace(normalize=lambda pixels: pixels, train=SimpleNamespace(images=images))
    model = create("whitened", 0, data=data, width=4)
    answers = model.features[0].conv(images).permute(1, 0, 2, 3).flatten(1).double()
    second = answers[:12] @ answers[:12].T / answers.shape[1]
    values = torch.linalg.eigvalsh(_patches(images).T @ _patches(images) / len(_patches(images)))
    assert torch.allclose(second, torch.diag(values / (values + chains.WHITENING_EPS)), atol=1e-4)
    assert torch.equal(answers[12:], -answers[:12])
    for unit in (model.features[6], model.features[9]):
        reads = unit.conv.in_channels
        x = torch.randn(2, reads, 5, 5, generator=draw)
        assert torch.allclose(unit.conv(x)[:, :reads], x, atol=1e-6)
    again = create("whitened", 0, data=data, width=4).state_dict()
    assert all(torch.equal(value, again[name]) for name, value in model.state_dict().items())


def _patches(images):
    return images.unfold(2, 2, 1).unfold(3, 2, 1).permute(0, 2, 3, 1, 4, 5).reshape(-1, 12).double()


WRONG = ("mobilenetv2 0", "mobilenetv2 -1", "mobilenetv2 nan", "mobilenetv2 .5", "mobilenetv2 0.5-2", "vgg16 4.5")


def test_networks_in_words():
    like, args = {"name": "densenet", "args": {"depth": 10, "growth": 12}}, {"image_size": 8}
    assert described("densenet 6", like, args) == ("densenet", {"depth": 10, "growth": 6, **args})
    assert described("vgg 4", like, args) == ("vgg", {"width": 4, **args})
    assert described("whitened 4", like, args) == ("whitened", {"width": 4, **args})
    assert described("densenet 22-6", like, args) == ("densenet", {"depth": 22, "growth": 6, **args})
    assert described("resnet 4", like, args) == ("resnet", {"width": 4, **args})
    assert described("resnet 8-4", like, args) == ("resnet", {"depth": 8, "width": 4, **args})
    assert described("mobilenetv2 0.5", like, args) == ("mobilenetv2", {"width": 0.5, **args})
    assert described("mobilenetv2 1", like, args) == ("mobilenetv2", {"width": 1.0, **args})
    assert described("vgg16 8", like, args) == ("vgg16", {"width": 8, **args})
    assert described("convnet 3", like, args) == (
        "convnet",
        {"widths": [3, 6, 12], "hidden": [6, 3], **args},
    )
    for wrong in (
        "",
        "convnet",
        "mobilenet 8",
        "vgg 0",
        "vgg -1",
        "vgg 4.5",
        "vgg 8-4",
        "resnet 8-",
        "resnet 0-4",
        *WRONG,
    ):
        with pytest.raises(ValueError, match=f"network {wrong!r}: expected one of convnet, densenet, resnet, vgg"):
            described(wrong, like, args)


def test_build_keeps_a_copy_of_the_spec():
    spec = copy.deepcopy(SPEC)
    model = build(spec)
    assert model.spec == SPEC and model.history == []
    spec["args"]["in_channels"] = 9
    assert model.spec == SPEC


def change(module):
    return {"changes": [{"technique": "x", "structure": {"module": module}}]}


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"format": 2}, "2"),
        ({"format": None}, "None"),
        ({"name": "mobilenet"}, "mobilenet"),
        ({"args": {"colour": 1}}, "colour"),
        ({"args": {"widths": 3}}, "convnet"),
        ({"args": None}, "convnet"),
        ({"changes": 5}, "convnet"),
        (change("no_such"), "no_such"),
        (change("train"), "train"),
        (change("os"), "os"),
        (change("../x"), r"\.\./x"),
        (change("os.path"), r"os\.path"),
        (change("prune\n"), "prune"),
        (change("__init__"), "__init__"),
        (change(""), "''"),
        (change(None), "None"),
        ({"changes": [{"technique": "svd", "structure": {"module": "lowrank", "ranks": {"fc9": 2}}}]}, "fc9"),
        ({"changes": [{"technique": "svd", "structure": {"module": "lowrank", "ranks": {"fc1": 0}}}]}, "fc1.*0"),
        ({"changes": [{"technique": "svd", "structure": {"module": "lowrank", "ranks": {"features": 2}}}]}, "features"),
        ({"changes": [{"technique": "int8", "structure": {"module": "quantize", "layers": ["features"]}}]}, "features"),
        ({"changes": [{"technique": "int8", "structure": {"module": "quantize"}}]}, "layers"),
    ],
)
def test_a_spec_that_does_not_build_is_refused(wrong, message):
    with pytest.raises(SpecError, match=f"(?s){message}"):
        build({**SPEC, **wrong})


@pytest.mark.parametrize(
    "word", ["no_such", "prune", "../x", "os.path", "Quantize", "", "quantize\n", None, ["quantize"]]
)
def test_an_unknown_word_for_a_change_of_structure_is_refused_by_name(word):
    expected = f"change of structure {word!r}: expected one of {', '.join(RESTRUCTURE)}"
    with pytest.raises(SpecError, match=f"^{re.escape(expected)}$"):
        build({**SPEC, **change(word)})


@pytest.mark.parametrize("spec", [None, 3, [], "convnet"])
def test_a_spec_that_is_no_object_is_refused(spec):
    with pytest.raises(SpecError, match="format"):
        build(spec)


def test_with_change_appends_and_shares_nothing(new_student):
    model = new_student()
    before = model.spec
    structure = {"module": "lowrank", "ranks": {}}
    changed = with_change(model, "svd", {"delta": 1}, structure, history=[{"epoch": 1}])
    assert before["changes"] == []
    assert changed.spec["changes"] == [{"technique": "svd", "delta": 1, "structure": structure}]
    assert changed.history == [{"epoch": 1}]
    again = with_change(changed, "int8", {})
    assert [c["technique"] for c in again.spec["changes"]] == ["svd", "int8"]
    assert again.history == []


def test_a_duplicate_is_independent(student_model, same_tensors):
    copied = duplicate(student_model)
    assert same_tensors(copied, student_model) and copied.spec == student_model.spec
    with torch.no_grad():
        copied.fc1.weight.zero_()
    assert student_model.fc1.weight.any()


@pytest.mark.parametrize("name", ["teacher_model", "student_model"])
def test_folding_batch_norm_keeps_the_outputs(name, request, digits):
    model = request.getfixturevalue(name)
    folded = fold_batch_norm(model)
    assert not [m for m in folded.modules() if isinstance(m, nn.BatchNorm2d)]
    assert [m for m in model.modules() if isinstance(m, nn.BatchNorm2d)]  # a copy was folded
    images = digits.normalize(digits.validation.images)
    with torch.no_grad():
        assert torch.allclose(folded(images), model.eval()(images), atol=1e-4)


def test_replace_module_reaches_nested_modules(new_student):
    model = new_student()
    replace_module(model, "features.0.relu", nn.Identity())
    replace_module(model, "fc3", nn.Identity())
    assert isinstance(model.features[0].relu, nn.Identity) and isinstance(model.fc3, nn.Identity)


def test_every_weight_layer_matters(student_model, digits):
    images = digits.normalize(digits.validation.images)
    with torch.no_grad():
        whole = student_model.eval()(images)
        for name in weight_layers(student_model):
            without = duplicate(student_model)
            without.get_submodule(name).weight.zero_()
            assert not torch.allclose(without(images), whole, atol=1e-2), name


@pytest.mark.parametrize(
    "said", [None, {}, {"mean": [0.5]}, {"mean": ["x"], "std": [1.0]}, {"mean": 0.5, "std": 1.0}, 3]
)
def test_a_spec_that_does_not_say_how_images_are_scaled_is_named(said):
    model = create("convnet", 0, in_channels=1, image_size=8)
    model.spec = model.spec | ({} if said is None else {"input": said})
    with pytest.raises(blocks.SpecError, match=r"input .* in the spec: expected mean and std"):
        normalize(model, torch.zeros(1, 1, 8, 8))
