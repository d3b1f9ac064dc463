"""No technique goes on from weights that are not finite; it says which layer holds them."""

import pytest
import torch

from studylib.coding import codec
from studylib.experiments import frontier, moo_objectives
from studylib.experiments import svd as svd_rows
from studylib.networks import bits, layers
from studylib.techniques import distill, int8, prune, qat, svd
from studylib.training import recipe

RECIPE = recipe.Recipe(epochs=1)
ONE = {"recipe": RECIPE, "seed": 0}


def by_trajectory(method):
    def call(model, data, sound):
        start = {"initial": model if method == "initial" else None, "like": [layers.masks_of(sound)]}
        prune.trajectory(sound if method == "initial" else model, data, [0.5], method=method, **ONE, **start)

    return call


TECHNIQUES = {
    "imp": lambda model, data, sound: prune.apply(model, data, rounds=1, **ONE),
    "svd": lambda model, data, sound: svd.apply(model),
    "importance": lambda model, data, sound: svd_rows.fisher(model, data),
    "kd": lambda model, data, sound: distill.apply(model, data, **ONE),
    "a module that teaches": lambda model, data, sound: distill.Distillation(model, 5.0, 0.7),
    "a committee": lambda model, data, sound: distill.TeacherCache(frontier.Committee([sound, model])),
    "an objective": lambda model, data, sound: moo_objectives.knowledge_alignment(model),
    "int8": lambda model, data, sound: int8.apply(model, data, calibration_images=16),
    "qat": lambda model, data, sound: qat.apply(model, data, calibration_images=16, **ONE),
    "sensitivity": lambda model, data, sound: bits.sensitivity(model, data, images=16),
    "coded": lambda model, data, sound: codec.encode(model),
} | {f"trajectory, {method}": by_trajectory(method) for method in prune.METHODS}


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
@pytest.mark.parametrize("name", TECHNIQUES)
def test_weights_that_are_not_finite_are_refused_by_every_technique(name, bad, student_model, tiny):
    model = layers.duplicate(student_model)
    with torch.no_grad():
        model.fc2.weight[1, 2] = bad
    with pytest.raises(ValueError, match=r"fc2\.weight: holds a number that is not finite"):
        TECHNIQUES[name](model, tiny, student_model)


def test_other_numbers_are_looked_at_as_well(student_model, tiny):
    for name in ("fc1.bias", "features.0.norm.weight", "features.0.norm.running_var"):
        model = layers.duplicate(student_model)
        model.state_dict()[name][0] = float("nan")
        for technique in ("imp", "svd", "int8"):
            with pytest.raises(ValueError, match=rf"{name}: holds a number that is not finite"):
                TECHNIQUES[technique](model, tiny, student_model)


@pytest.mark.parametrize("bad", [float("nan"), float("-inf")])
def test_what_is_not_finite_has_no_place_among_magnitudes(student_model, bad):
    weights = {name: weight.detach().clone() for name, weight in layers.prunable(student_model).items()}
    weights["fc1.weight"][0, 0] = bad
    with pytest.raises(ValueError, match=r"fc1\.weight: holds a number that is not finite"):
        prune.shrink_masks(weights, layers.masks_of(student_model), 0.5)
    layer = layers.duplicate(student_model.fc1)
    layer.weight.data[0, 0] = bad
    with pytest.raises(ValueError, match="weight: holds a number that is not finite"):
        svd.factorize(layer, 1)
