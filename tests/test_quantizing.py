"""Dynamic, weight-only, hybrid, hardware-aware and binary quantization, each against what it promises."""

import dataclasses
import inspect
import itertools
import json

import pytest
import torch
from torch import nn

from studylib.coding import codec
from studylib.data import scoring
from studylib.disk import models
from studylib.experiments.int8 import with_activations
from studylib.networks import grid
from studylib.networks.int8_layers import Int8Linear
from studylib.networks.layers import duplicate, fold_batch_norm, weight_layers
from studylib.techniques import binary, dynamic, fixed, hardware, hybrid, int4, int8
from studylib.training.recipe import Recipe

BRIEF = Recipe(epochs=2, lr=2e-3, batch_size=32, augmentation="none")
RECORDS = {
    fixed.FixedPoint: fixed.apply,
    dynamic.Dynamic: dynamic.apply,
    int8.Quantization: int8.apply,
    int4.WeightOnly: int4.apply,
    hybrid.HybridPrecision: hybrid.apply,
    hardware.HardwareAware: hardware.apply,
    binary.Binary: binary.apply,
}


@pytest.fixture(scope="module")
def images(digits):
    return digits.normalize(digits.validation.images[:16])


@pytest.mark.parametrize("kind", RECORDS, ids=lambda kind: kind.__name__)
def test_what_a_record_holds_is_what_the_technique_takes_with_the_same_defaults(kind):
    taken = inspect.signature(RECORDS[kind]).parameters
    assert list(taken)[:2] == ["model", "data"] and "seed" in taken
    for field in dataclasses.fields(kind):
        default = field.default if field.default_factory is dataclasses.MISSING else tuple(field.default_factory())
        assert taken[field.name].default == (inspect.Parameter.empty if default is dataclasses.MISSING else default)


@pytest.mark.parametrize(
    ("technique", "settings", "message"),
    [
        (fixed, {"bits": 1}, "bits=1: expected at least 2"),
        (fixed, {"activation_bits": 17}, "activation_bits=17: expected at most 16"),
        (fixed, {"calibration_images": 10**6}, "calibration_images=1000000: expected 1 to"),
        (dynamic, {"per": "image"}, "per='image': expected one of 'batch' or 'sample'"),
        (dynamic, {"layers": "conv"}, "layers='conv'"),
        (int4, {"bits": 9}, "bits=9: expected at most 8"),
        (int4, {"group": -1}, "group=-1: expected at least 0"),
        (hybrid, {"budget_bytes": -1}, "budget_bytes=-1: expected at least 0"),
        (hybrid, {"budget_bytes": 9999, "bits": [4, 16]}, r"bits\[1\]=16"),
        (hybrid, {"budget_bytes": 9999, "bits": [4, 4]}, r"bits=\[4, 4\]: expected different ones"),
        (hybrid, {"budget_bytes": 9999, "images": 10**6}, "=1000000: expected 1 to"),
        (hardware, {"speedup": 0.0}, "speedup=0.0: expected above 0"),
        (hardware, {"batch": 0}, "batch=0: expected at least 1"),
        (binary, {"ends": 1, "recipe": BRIEF, "seed": 0}, "ends=1: expected true or false"),
    ],
)
def test_bad_settings_are_refused_with_the_value_named(technique, settings, message, student_model, digits):
    with pytest.raises(ValueError, match=message):
        technique.apply(student_model, digits, **settings)


def test_per_sample_an_output_does_not_depend_on_the_others_in_its_batch(student_model, images):
    others = torch.cat([images[:1], 5 * images[1:].flip(0)])
    for per, alone in (("sample", True), ("batch", False)):
        model = dynamic.apply(student_model, per=per)
        with torch.no_grad():
            assert torch.equal(model(images)[0], model(others)[0]) == alone


def test_per_sample_one_image_is_rounded_as_a_batch_of_one():
    draw = torch.Generator().manual_seed(0)
    for shape in ((5, 3, 4, 4), (6, 40)):
        x = torch.randn(shape, generator=draw) * torch.logspace(-4, 3, len(torch.empty(shape))).view(
            -1, *[1] * (len(shape) - 1)
        )
        x[-1] = 0
        sample, batch = (Int8Linear((3, 4), activations=each) for each in ("dynamic per sample", "dynamic"))
        expected = torch.cat([batch.quantized_input(one) for one in x.split(1)])
        assert torch.equal(sample.quantized_input(x), expected) and not torch.equal(expected, x)


def test_dynamic_weights_are_those_of_static_int8(student_model, int8_model, images):
    expected = with_activations(int8_model, student_model, "dynamic")
    found = dynamic.apply(student_model)
    for name, layer in weight_layers(expected).items():
        off = (weight_layers(found)[name].weight.int() - layer.weight.int()).abs()
        assert off.max() <= 1 and not off[layer.weight.int().abs() < 127].any(), name  # but for halves: the largest
    with torch.no_grad():
        assert (found(images) - expected(images)).abs().max() < 0.05 * expected(images).abs().max()


def test_linear_layers_alone_may_be_dynamic(student_model, images):
    model = dynamic.apply(student_model, layers="linear")
    kinds = {name: type(layer) for name, layer in weight_layers(model).items()}
    assert kinds == {name: nn.Conv2d if "conv" in name else Int8Linear for name in weight_layers(student_model)}
    with pytest.raises(ValueError, match="layers='linear': expected all, for the model has no linear layer"):
        dynamic.apply(nn.Sequential(nn.Conv2d(1, 2, 3)), layers="linear")


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
@pytest.mark.parametrize("group", [0, 7, 64])
def test_no_weight_of_a_group_is_off_by_more_than_half_its_scale(teacher_model, bits, group):
    model = int4.apply(teacher_model, bits=bits, group=group)
    for name, given in weight_layers(fold_batch_norm(teacher_model)).items():
        layer, rows = weight_layers(model)[name], given.weight.detach().flatten(1)
        found, size = layer.dequantized_weight().flatten(1), rows.shape[1]
        parts = -(-size // group) if group else 1
        assert layer.weight_scale.numel() == len(rows) * parts
        for k, places in enumerate(torch.arange(parts * -(-size // parts)).view(parts, -1)):
            places = places[places < size]
            assert 0 < len(places) <= (group or size)
            scale = layer.weight_scale.view(len(rows), parts)[:, k]
            assert ((found - rows)[:, places].abs().amax(1) <= 0.5001 * scale).all(), name
            if bits < 8:  # the largest of each group is exact
                assert torch.allclose(layer.weight.flatten(1)[:, places].abs().amax(1).float(), grid.limits(bits)[1] * (
                    rows[:, places].abs().amax(1) > 0).float())  # fmt: skip


def test_smaller_groups_are_nearer_and_take_more_bytes(teacher_model):
    error, size = [], []
    for group in (0, 32, 8):
        model = int4.apply(teacher_model, bits=3, group=group)
        pairs = zip(weight_layers(fold_batch_norm(teacher_model)).values(), weight_layers(model).values(), strict=True)
        error.append(sum((a.weight - b.dequantized_weight()).square().sum().item() for a, b in pairs))
        size.append(len(codec.encode(model)))
    assert error == sorted(error, reverse=True) and size == sorted(size) and len({*error, *size}) == 6


def test_scales_of_groups_without_a_weight_are_not_in_the_file(new_student):
    full, half = new_student().eval(), new_student().eval()
    with torch.no_grad():
        full.fc1.weight.fill_(0.5)
        half.fc1.weight.fill_(0.5)[:, :8] = 0
    files = [codec.encode(int4.apply(model, group=8)) for model in (full, half)]
    decoded = codec.decode(files[1])
    assert (decoded.fc1.weight_scale[:, 0] == 0).all() and (decoded.fc1.weight_scale[:, 1] > 0).all()
    assert len(files[0]) - len(files[1]) > 3 * 16  # 16 scales of almost four bytes, less what zeros cost


def test_a_stored_group_that_cannot_be_is_refused(student_model):
    model = int4.apply(student_model, group=8)
    model.spec["changes"][-1]["structure"]["group"] = -8
    with pytest.raises(codec.CodecError, match="group=-8: expected a whole number of weights"):
        codec.encode(model)


@pytest.fixture(scope="module")
def within(student_model, digits):
    """Gives the hybrid model of a budget."""

    def make(budget, **settings):
        return hybrid.apply(student_model, digits, budget_bytes=budget, images=64, **settings)

    return make


def test_the_real_file_stays_within_its_budget_and_more_bytes_lose_less(within, student_model):
    whole, told = len(codec.encode(student_model)), []
    for share in (0.12, 0.17, 0.22, 0.6):
        model = within(int(share * whole))
        size = len(codec.encode(model))
        assert (0.85 * share * whole < size or share > 0.5) and size <= share * whole
        assert torch.equal(codec.decode(codec.encode(model)).fc1.bias, model.fc1.bias)
        told.append(model.spec["changes"][-1]["increase"])
    assert told == sorted(told, reverse=True)


def test_inputs_may_be_rounded_too(within, images):
    model = within(3000, activations="dynamic per sample")
    low = [layer for layer in weight_layers(model).values() if layer.weight.dtype == torch.int8]
    assert low and {layer.activations for layer in low} == {"dynamic per sample"}
    with torch.no_grad():
        assert torch.equal(codec.decode(codec.encode(model))(images), model(images))


def test_a_budget_of_everything_rounds_nothing(within, student_model, same_tensors):
    model = within(10**6, bits=[2, 32])
    rounded = model.spec["changes"][-1]["structure"]["layers"]
    assert model.spec["changes"][-1]["increase"] <= 0  # a layer whose rounding is said to help may be rounded
    assert same_tensors(model, student_model) == (not rounded)


def test_a_budget_that_is_too_small_is_refused_with_the_least_that_is_not(within):
    with pytest.raises(ValueError, match=r"budget_bytes=100: expected at least \d+") as refused:
        within(100)
    least = int(str(refused.value).split()[4].strip(","))
    assert len(codec.encode(within(least))) == least
    with pytest.raises(ValueError, match=f"budget_bytes={least - 1}: expected at least {least}"):
        within(least - 1)


def test_the_layer_that_is_hurt_most_keeps_the_most_bits(within, monkeypatch):
    def sensitivity(model, data, *, bits, images, seed):
        weights = {name: layer.weight.numel() for name, layer in weight_layers(model).items()}
        hurt = {name: 100.0 if name == "fc1" else 1.0 for name in weights}
        return [
            {"layer": name, "bits": b, "weights": n, "increase": hurt[name] * n * 4.0**-b}
            for (name, n), b in itertools.product(weights.items(), bits)
        ]

    monkeypatch.setattr(hybrid.choice, "sensitivity", sensitivity)
    bits = within(2200, bits=[2, 3, 4, 5, 6, 7, 8]).spec["changes"][-1]["structure"]["bits"]
    assert bits.get("fc1", 8) > max(count for name, count in bits.items() if name != "fc1")


def timed(times):
    """A clock that says of each layer, in turn, what ``times`` has: pairs of floats and int8."""
    turns = iter(times)
    return lambda *_: next(turns)


def test_layers_are_quantized_as_the_clock_says_and_the_spec_has_its_times(student_model, int8_model, digits, tmp_path):
    times = [(3.0, 1.0), (1.0, 2.0), (1.3, 1.0), (1.0, 1.0), (2.0, 1.0), (0.123456, 1.0)]
    model = hardware.apply(student_model, digits, calibration_images=128, timing=timed(times), batch=4)
    change = model.spec["changes"][-1]
    names = list(weight_layers(student_model))
    assert change["structure"]["layers"] == [names[0], names[2], names[3], names[4]]
    assert change["milliseconds"][names[5]] == [0.1235, 1.0] and list(change["milliseconds"]) == names
    assert {"hardware", "threads", "batch", "compiled", "speedup"} <= change.keys()
    for name, layer in weight_layers(model).items():
        expected = weight_layers(int8_model if name in change["structure"]["layers"] else student_model)[name]
        assert torch.equal(layer.weight, expected.weight)
        if hasattr(layer, "input_scale"):
            assert layer.input_scale == expected.input_scale and layer._input == expected._input
    models.save_model(tmp_path, model)  # nothing is timed again
    batch = digits.normalize(digits.validation.images[:8])
    with torch.no_grad():
        assert torch.equal(models.load_model(tmp_path)(batch), model(batch))
    half = hardware.apply(student_model, digits, calibration_images=128, timing=timed(times), batch=4, speedup=1.5)
    assert half.spec["changes"][-1]["structure"]["layers"] == [names[0], names[4]]


def test_layers_alike_are_timed_once_and_a_time_must_be_one(teacher_model, digits):
    calls = []

    def timing(in_floats, in_int8, x):
        calls.append((tuple(in_floats.weight.shape), tuple(x.shape)))
        assert in_floats.weight.shape == in_int8.weight.shape
        return (1.0, 2.0)

    model = hardware.apply(teacher_model, digits, calibration_images=8, batch=2, timing=timing)
    assert len(calls) == len(set(calls)) and model.spec["changes"][-1]["layers"] == 0
    assert torch.equal(model.classifier.weight, teacher_model.classifier.weight)
    with pytest.raises(ValueError, match=r"features\.stem\.conv: timed at \(0\.0, 1\.0\) ms: expected numbers above 0"):
        hardware.apply(teacher_model, digits, calibration_images=8, timing=lambda *_: (0.0, 1.0))


def test_this_machine_decides_as_it_measured(student_model, digits):
    model = hardware.apply(student_model, digits, calibration_images=8, batch=8, repeats=3, compiled=False)
    change = json.loads(json.dumps(model.spec["changes"][-1]))
    assert all(ms > 0 for pair in change["milliseconds"].values() for ms in pair) and change["compiled"] is False
    faster = [name for name, (in_floats, in_int8) in change["milliseconds"].items() if in_floats >= in_int8]
    assert change["structure"]["layers"] == faster


def test_the_scale_of_binary_weights_is_least_squares_optimal():
    rows = torch.randn(50, 30, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    rows[:, :5] = 0
    rows[0] = 0
    scale, sign = grid.steps(rows, 1), grid.integers(rows, grid.steps(rows, 1), 1)
    fitted = torch.linalg.lstsq(sign[1:, :, None], rows[1:, :, None]).solution[:, 0]
    assert torch.allclose(scale[1:], fitted) and scale[0] == 1
    error = (rows - scale * sign).square().sum(1)
    for times in (0.99, 1.01):
        assert (error[1:] < (rows - times * scale * sign).square().sum(1)[1:]).all()
    for column in range(5, 30):  # no other sign is better at its own best scale
        other = sign.clone()
        other[:, column] *= -1
        best = (rows * other).sum(1, keepdim=True) / 25
        assert (error[1:] < (rows - best * other).square().sum(1)[1:]).all()


def test_gradients_pass_a_sign_within_one_and_the_scale_has_its_own():
    weight = torch.tensor([[0.5, -0.25, 2.0, 0.0]], requires_grad=True)
    given = torch.tensor([[1.0, 2.0, 3.0, 4.0]])
    out = binary.Sign()(weight)
    alpha = 2.75 / 3
    assert torch.allclose(out, alpha * torch.tensor([[1.0, -1, 1, 0]]))
    out.backward(given)
    through = alpha * given * torch.tensor([[1.0, 1, 0, 1]])
    own = (1 * 1 - 2 * 1 + 3 * 1) / 3 * torch.tensor([[1.0, -1, 1, 0]])
    assert torch.allclose(weight.grad, through + own)


def test_binary_training_ends_in_what_it_trained(student_model, digits):
    model = binary.apply(student_model, digits, recipe=BRIEF, seed=0)
    untrained = binary.apply(student_model, digits, recipe=dataclasses.replace(BRIEF, epochs=0), seed=0)
    scores = [scoring.accuracy(each, digits.validation, digits) for each in (untrained, model)]
    assert scores[1] == pytest.approx(max(row["val_accuracy"] for row in model.history), abs=0.011)
    assert scores[0] + 0.1 < scores[1]
    names = list(weight_layers(student_model))
    assert model.spec["changes"][-1]["structure"]["layers"] == names[1:-1]
    for name, layer in weight_layers(model).items():
        if name in names[1:-1]:
            assert layer.bits == 1 and set(layer.weight.unique().tolist()) == {-1, 1}
        else:
            assert layer.weight.dtype == torch.float32
    assert len(codec.encode(model)) < 0.25 * len(codec.encode(student_model))


def test_as_they_are_binary_weights_are_signs_and_means_with_batch_norm_folded_in(student_model, digits):
    model = binary.apply(student_model, digits, recipe=dataclasses.replace(BRIEF, epochs=0), seed=0, ends=True)
    assert len(model.spec["changes"][-1]["structure"]["layers"]) == 6 and model.history == []
    for name, given in weight_layers(fold_batch_norm(student_model)).items():
        layer, rows = weight_layers(model)[name], given.weight.detach().flatten(1)
        assert torch.equal(layer.weight.flatten(1).float(), rows.sign())
        assert torch.allclose(layer.weight_scale, rows.abs().mean(1))


def test_a_pruned_network_keeps_its_zeros_in_binary_training(student_model, digits):
    pruned = duplicate(student_model)
    for layer in weight_layers(pruned).values():
        layer.weight.data[layer.weight.abs() < layer.weight.abs().median()] = 0
    model = binary.apply(pruned, digits, recipe=BRIEF, seed=0)
    for name, layer in weight_layers(model).items():
        assert torch.equal(layer.weight == 0, weight_layers(pruned)[name].weight == 0), name


def test_a_network_without_a_middle_is_refused(digits):
    with pytest.raises(
        ValueError, match="ends=False: expected true, for there is no layer between the first and the last"
    ):
        binary.apply(nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2)), digits, recipe=BRIEF, seed=0)
