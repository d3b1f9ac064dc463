"""What every technique owes, said once: each property is a function that asserts it of one made model.

A technique is a callable (model, data, seed) → model. ``tests/test_properties.py`` runs all of these properties over a
table of techniques × networks.
"""

import copy
import dataclasses
import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

from studylib.coding import codec, shipped
from studylib.data.datasets import Data
from studylib.disk import models
from studylib.networks import layers

Technique = Callable[[nn.Module, Data, int], nn.Module]
PASSING = {"seconds"}  # of a row of a training's history; two trainings alike differ in it


@dataclasses.dataclass
class Made:
    """A technique and what it made of ``given``; ``before`` is a copy of what it was given.

    Attributes:
        folder: an empty one, for properties that write.
    """

    technique: Technique
    before: nn.Module
    given: nn.Module
    data: Data
    seed: int
    model: nn.Module
    folder: Path

    @classmethod
    def by(cls, technique: Technique, model: nn.Module, data: Data, seed: int, folder: Path) -> "Made":
        given = layers.duplicate(model)
        return cls(technique, model, given, data, seed, technique(given, data, seed), folder)


def assert_same_tensors(model: nn.Module, expected: nn.Module) -> None:
    """Equal names and equal tensors, bit for bit, NaN for NaN."""
    found, wanted = model.state_dict(), expected.state_dict()
    assert list(found) == list(wanted)
    for name, tensor in found.items():
        assert tensor.dtype == wanted[name].dtype, name
        assert torch.allclose(tensor, wanted[name], rtol=0, atol=0, equal_nan=True), name


@torch.no_grad()
def outputs(model: nn.Module, data: Data) -> torch.Tensor:
    """Logits (n, classes) of the validation images."""
    return model(data.normalize(data.validation.images))


def leaves_the_model_untouched(made: Made) -> None:
    assert_same_tensors(made.given, made.before)
    assert made.given.spec == made.before.spec and made.given.history == made.before.history
    modes = [[module.training for module in model.modules()] for model in (made.given, made.before)]
    assert modes[0] == modes[1], "its mode is another"
    asked = [[weight.requires_grad for weight in model.parameters()] for model in (made.given, made.before)]
    assert asked[0] == asked[1], "other weights want a gradient"
    mine = {tensor.data_ptr() for tensor in made.given.state_dict().values() if tensor.numel()}
    assert not mine & {tensor.data_ptr() for tensor in made.model.state_dict().values()}, "it shares memory"


def is_recorded(made: Made) -> None:
    """One more change than it had, or the first of a new network; all of it is JSON data."""
    changes, before = made.model.spec["changes"], made.before.spec["changes"]
    assert changes[:-1] in (before, []) and changes != before
    assert isinstance(changes[-1]["technique"], str)
    assert json.loads(json.dumps(made.model.spec, allow_nan=False)) == made.model.spec


def keeps_zeros(made: Made) -> None:
    found, before = layers.weight_layers(made.model), layers.weight_layers(made.before)
    for name, layer in before.items():
        assert name in found and found[name].weight.shape == layer.weight.shape, f"{name} is another layer"
        assert not found[name].weight[layer.weight == 0].any(), f"{name} has weights where there were zeros"


def rebuilds_from_its_folder(made: Made) -> None:
    models.save_model(made.folder / "model", made.model)
    loaded = models.load_model(made.folder / "model")
    assert_same_tensors(loaded, made.model)
    assert loaded.spec == made.model.spec
    assert torch.equal(outputs(loaded, made.data), outputs(made.model, made.data))


def codes_and_decodes(made: Made) -> None:
    """The file gives the outputs of the shipped form, bit for bit, and codes to the same bytes."""
    file = codec.encode(made.model)
    decoded, reference = codec.decode(file), shipped.apply(made.model)
    codec.verify(reference, decoded)
    assert torch.equal(outputs(decoded, made.data), outputs(reference, made.data))
    assert codec.encode(decoded) == file


def runs(made: Made) -> None:
    """In evaluation mode, on every validation image, with finite logits for each class."""
    logits = outputs(made.model, made.data)
    assert not made.model.training and torch.equal(logits, outputs(layers.duplicate(made.model).eval(), made.data))
    shape = len(made.data.validation), len(made.data.classes)
    assert (logits.shape[0], logits.shape[-1]) == shape and logits.isfinite().all()


def is_deterministic(made: Made) -> None:
    again = made.technique(layers.duplicate(made.before), made.data, made.seed)
    assert_same_tensors(again, made.model)
    assert again.spec == made.model.spec
    rows = [[{k: row[k] for k in row.keys() - PASSING} for row in model.history] for model in (again, made.model)]
    assert rows[0] == rows[1]


def refuses_what_is_not_finite(made: Made) -> None:
    """NaN in one weight: an error that names the layer, before anything is trained."""
    for name in (list(layers.weight_layers(made.before))[i] for i in (0, -1)):
        bad = copy.deepcopy(made.before)
        with torch.no_grad():
            bad.get_submodule(name).weight[-1, 0] = float("nan")
        with pytest.raises(ValueError, match=rf"{name}\b.* not finite"):
            made.technique(bad, made.data, made.seed)


PROPERTIES = {
    check.__name__: check
    for check in (
        leaves_the_model_untouched,
        is_recorded,
        keeps_zeros,
        rebuilds_from_its_folder,
        codes_and_decodes,
        runs,
        is_deterministic,
        refuses_what_is_not_finite,
    )
}
