"""The settings of the teacher's network: what cannot be made or held by a coded file is refused before any training."""

import dataclasses

import pytest

from studylib import settings
from studylib.coding import codec, limits
from studylib.networks import spec
from studylib.networks.layers import fold_batch_norm, weight_layers
from studylib.results import claims
from studylib.techniques import teacher
from studylib.training.recipe import Recipe

FILE = "figures/models/digits-densenet16-z89.3-8bit.slnc"


@pytest.mark.parametrize(
    "given, message",
    [
        ({"depth": 11}, r"^network.depth=11: expected 3·n \+ 4"),
        ({"depth": 4}, "^network.depth=4: expected at least 7"),
        ({"depth": 4099}, "^network.depth=4099: expected at most 400"),
        ({"growth": 0}, "^network.growth=0: expected at least 1"),
        ({"growth": 4097}, "^network.growth=4097: expected at most 4096"),
        ({"growth": 12.5}, "^network.growth=12.5: expected a whole number"),
        ({"name": "vgg -1"}, "^network.name='vgg -1': expected one of convnet, densenet, resnet, vgg, whitened"),
        ({"name": "mobilenet 8"}, "^network.name='mobilenet 8': expected one of convnet, densenet, resnet, vgg"),
        ({"name": "vgg 8-20"}, "^network.name='vgg 8-20': expected .* or with depth resnet 20-16"),
        ({"name": "mobilenetv2 0"}, "^network.name='mobilenetv2 0': expected .* such as vgg 20, mobilenetv2 0.5,"),
        ({"name": "resnet 20-16-2"}, "^network.name='resnet 20-16-2': expected one of"),
        ({"name": "resnet 20-16", "depth": 22}, "^network.depth=22: expected none beside name='resnet 20-16', which"),
        ({"name": "densenet 22-6", "depth": 10}, "^network.depth=10: expected none beside name='densenet 22-6', which"),
        ({"dpth": 22}, "^network.dpth: unknown; did you mean 'depth'"),
    ],
)
def test_a_network_that_cannot_be_is_named_with_what_was_expected(given, message):
    with pytest.raises(settings.SettingError, match=message):
        settings.read(teacher.Network, given, "network")


@pytest.mark.parametrize(
    "given, message",
    [
        ({"depth": 400}, "^depth=400, growth=12: 4[0-9]* channels or features in a layer, expected at most 4096"),
        ({"depth": 7, "growth": 4096}, "^depth=7, growth=4096: .*expected at most"),
        ({"name": "vgg 300"}, "^name='vgg 300': .*numbers, expected at most 67108864"),
        (
            {"name": "mobilenetv2 9.5"},
            "^name='mobilenetv2 9.5': 12160 channels or features in a layer, expected at most",
        ),
        ({"name": "vgg 99999"}, "^name='vgg 99999': 99999 in it, expected at most 4096"),
        ({"name": "resnet 21-16"}, r"^resnet depth=21: expected 6·n \+ 2"),
        ({"name": "resnet 1202-16"}, r"^name='resnet 1202-16': \d+ bytes of names, expected at most 65535"),
        ({"name": "figures/models/absent.slnc"}, "^name='figures/models/absent.slnc': .*expected a published file"),
    ],
)
def test_a_network_that_no_coded_file_holds_is_refused_without_memory_for_it(digits, given, message):
    with pytest.raises(ValueError, match=message):
        settings.read(teacher.Network, given, "network").against(digits)


@pytest.mark.parametrize(
    "given",
    [{}, {"depth": 7}, *({"name": name} for name in ("vgg 20", "resnet 56-16", "mobilenetv2 0.5", "vgg16 64", FILE))],
)
def test_a_network_that_can_be_made_is_not_refused(digits, given):
    settings.read(teacher.Network, given, "network").against(digits)


def test_a_published_network_is_refused_for_another_split(digits):
    other = dataclasses.replace(digits, seed=1)
    with pytest.raises(ValueError, match=r"^name=.*of digits, seed 0: expected digits, seed 1"):
        teacher.Network(name=FILE).against(other)


def test_without_settings_it_is_the_papers_as_we_infer_it(digits):
    assert teacher.Network() == teacher.Network(claims.PAPER_DEPTH, 12, "")
    kind, args = teacher.Network().described(digits.model_args)
    assert kind == "densenet" and args == {"depth": 40, "growth": 12, **digits.model_args}
    assert teacher.Network(depth=10, name="densenet 6").described({}) == ("densenet", {"depth": 10, "growth": 6})
    assert teacher.Network(name="densenet 22-6").described({}) == ("densenet", {"depth": 22, "growth": 6})
    assert teacher.Network(name="resnet 8-4").described({}) == ("resnet", {"depth": 8, "width": 4})


def test_what_the_settings_say_is_what_is_trained(tiny):
    model = teacher.apply(tiny, depth=10, growth=3, recipe=Recipe(epochs=0), seed=0)
    kind, args = teacher.Network(10, 3).described(tiny.model_args)
    assert (model.spec["name"], model.spec["args"]) == (kind, args)


def test_the_limits_are_those_of_the_codec(digits, monkeypatch):
    args = {"depth": 7, "growth": 2}
    limits.check_network("densenet", args, digits, "growth=2")
    model = fold_batch_norm(spec.create("densenet", 0, **args, **digits.model_args))
    layers = weight_layers(model).values()
    numbers = sum(t.numel() for t in model.state_dict().values()) + sum(len(layer.weight) + 2 for layer in layers)
    held, less = (codec.Limits(parameters=most) for most in (numbers, numbers - 1))
    monkeypatch.setattr(limits, "Limits", lambda: held)
    limits.check_network("densenet", args, digits, "growth=2")
    monkeypatch.setattr(limits, "Limits", lambda: less)
    with pytest.raises(ValueError, match=rf"^growth=2: {numbers} numbers, expected at most {numbers - 1} \(a coded"):
        limits.check_network("densenet", args, digits, "growth=2")
