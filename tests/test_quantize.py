import copy
import itertools

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from studylib.data import scoring
from studylib.disk import models
from studylib.experiments.int8 import layer_errors, with_activations
from studylib.networks import blocks, pt2e
from studylib.networks import spec as networks_spec
from studylib.networks.int8_layers import Int8Conv2d, Int8Linear
from studylib.networks.layers import duplicate, fold_batch_norm, weight_layers
from studylib.techniques import int8, svd


@pytest.fixture(scope="module")
def images(digits):
    return digits.normalize(digits.validation.images[:64])


def folded_weights(model):
    """Name → the float weight that each int8 layer stands for: batch norm folded in."""
    return {name: layer.weight.detach() for name, layer in weight_layers(fold_batch_norm(model)).items()}


@pytest.mark.parametrize("name", ["student_model", "teacher_model"])
def test_int8_layers_compute_what_pt2es_graph_does_bit_for_bit(name, request, images):
    model = duplicate(request.getfixturevalue(name)).eval()
    graph = pt2e.convert(copy.deepcopy(model), images)
    ours = pt2e.from_pt2e(model, graph)
    with torch.no_grad():
        for batch in (images, images[:1], 100 * images):  # the last beyond the calibrated range
            assert torch.equal(ours(batch), graph(batch))
        assert not torch.equal(ours(images), model(images))


def test_a_factorized_model_is_quantized_bit_for_bit(student_model, images):
    model = svd.apply(student_model)
    graph = pt2e.convert(copy.deepcopy(model), images)
    ours = pt2e.from_pt2e(model, graph)
    assert "fc1.first" in weight_layers(ours)
    with torch.no_grad():
        assert torch.equal(ours(images), graph(images))


def test_weights_are_off_by_at_most_half_a_step(student_model, int8_model):
    folded = folded_weights(student_model)
    for name, layer in weight_layers(int8_model).items():
        step = layer.weight_scale.view(-1, *[1] * (layer.weight.dim() - 1))
        error = (layer.dequantized_weight() - folded[name]).abs()
        assert (error <= 0.5001 * step + 1e-6).all(), name
        assert layer.weight.int().flatten(1).abs().amax(1).min() >= 126  # each channel uses its whole range


def loaded_linear(scale, zero_point):
    layer = Int8Linear((3, 4))
    state = layer.state_dict()
    state["input_scale"] = torch.tensor(scale)
    state["input_zero_point"] = torch.tensor(zero_point, dtype=torch.uint8)
    layer.load_state_dict(state)
    return layer


@given(scale=st.floats(2**-10, 10, width=32), zero_point=st.integers(0, 255), seed=st.integers(0, 99))
def test_inputs_are_off_by_at_most_half_a_step_within_the_range(scale, zero_point, seed):
    low, high = (0 - zero_point) * scale, (255 - zero_point) * scale
    x = low + (high - low) * torch.rand(200, generator=torch.Generator().manual_seed(seed))
    found = loaded_linear(scale, zero_point).quantized_input(x)
    assert (found - x).abs().max() <= 0.501 * scale + 1e-5
    beyond = torch.tensor([low - 5 * scale, high + 5 * scale])
    assert torch.allclose(
        loaded_linear(scale, zero_point).quantized_input(beyond), torch.tensor([low, high]), rtol=1e-5
    )


def test_loading_other_scales_replaces_the_ones_in_use():
    layer, x = loaded_linear(1.0, 0), torch.tensor([0.3])
    assert layer.quantized_input(x) == 0
    layer.load_state_dict(loaded_linear(0.1, 0).state_dict())
    assert torch.allclose(layer.quantized_input(x), x)


def test_scales_cover_the_inputs_of_the_calibration(student_model, digits, images):
    """With every training image calibrated on, the first layer's input is off by half a step."""
    quantized = int8.apply(student_model, digits, calibration_images=600)
    first = quantized.features[0].conv
    x = digits.normalize(digits.train.images)
    assert (first.quantized_input(x) - x).abs().max() <= 0.501 * first.input_scale + 1e-6


def test_no_float_weight_and_no_batch_norm_is_left(int8_model):
    state = int8_model.state_dict()
    weights = {name for name in state if name.endswith(".weight")}
    assert weights == {f"{name}.weight" for name in weight_layers(int8_model)} and len(weights) == 6
    assert {state[name].dtype for name in weights} == {torch.int8}
    fields = {name.rpartition(".")[2] for name in state}
    assert fields == {"weight", "weight_scale", "bias", "input_scale", "input_zero_point"}
    assert not list(int8_model.parameters())
    assert not [m for m in int8_model.modules() if isinstance(m, (nn.BatchNorm2d, nn.Conv2d, nn.Linear))]
    kinds = [type(layer) for layer in weight_layers(int8_model).values()]
    assert kinds == [Int8Conv2d] * 3 + [Int8Linear] * 3


def test_zero_weights_are_the_integer_zero(student_model, digits):
    model = duplicate(student_model)
    with torch.no_grad():
        for layer in weight_layers(model).values():
            layer.weight.flatten()[::2] = 0
    for name, layer in weight_layers(int8.apply(model, digits, calibration_images=32)).items():
        assert not layer.weight.flatten()[::2].any(), name
        assert layer.weight.any()


def test_a_channel_of_zeros_stays_one(student_model, digits, images):
    model = duplicate(student_model)
    with torch.no_grad():
        model.features[0].conv.weight[2] = 0
        model.fc2.weight[3] = 0
    quantized = int8.apply(model, digits, calibration_images=32)
    for layer, channel in ((quantized.features[0].conv, 2), (quantized.fc2, 3)):
        assert not layer.weight[channel].any() and layer.weight.any()
        assert layer.weight_scale.isfinite().all() and (layer.weight_scale > 0).all()
    with torch.no_grad():
        assert quantized(images).isfinite().all()


def test_int8_answers_almost_as_float_does(student_model, int8_model, digits):
    answers = [scoring.predict(model, digits.validation, digits).argmax(1) for model in (student_model, int8_model)]
    assert (answers[0] == answers[1]).float().mean() > 0.9


@pytest.mark.parametrize("count", [0, -1, 601])
def test_a_bad_number_of_calibration_images_is_named(student_model, digits, count):
    with pytest.raises(ValueError, match=f"calibration_images={count}: expected 1 to 600"):
        int8.apply(student_model, digits, calibration_images=count)


def test_the_seed_draws_the_calibration_images(student_model, digits, int8_model, same_tensors):
    assert same_tensors(int8.apply(student_model, digits, calibration_images=128, seed=0), int8_model)
    assert not same_tensors(int8.apply(student_model, digits, calibration_images=128, seed=1), int8_model)


def test_more_calibration_images_widen_the_scales(student_model, digits):
    made = [int8.apply(student_model, digits, calibration_images=count) for count in (2, 600)]
    few, many = ([layer.input_scale for layer in weight_layers(model).values()] for model in made)
    assert all(a <= b for a, b in zip(few, many, strict=True)) and few != many


def test_a_copy_computes_the_same(int8_model, images):
    with torch.no_grad():
        assert torch.equal(duplicate(int8_model)(images), int8_model(images))


def test_quantizing_twice_is_refused(int8_model, digits):
    with pytest.raises(blocks.SpecError, match="expected a convolution or linear layer"):
        int8.apply(int8_model, digits, calibration_images=8)


def test_quantizing_a_stored_int8_model_is_refused(int8_model, digits, tmp_path):
    models.save_model(tmp_path, int8_model)
    with pytest.raises(blocks.SpecError, match="expected a convolution or linear layer"):
        int8.apply(models.load_model(tmp_path), digits, calibration_images=8)


# --- fewer bits -------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def low_bit_models(student_model, digits):
    """Bits → the ConvNet with all its weights in so many."""
    return {bits: int8.apply(student_model, digits, calibration_images=64, bits=bits) for bits in (2, 3, 4, 6, 8)}


@pytest.mark.parametrize("bits", [2, 3, 4, 6])
def test_few_bits_are_used_and_not_exceeded(student_model, low_bit_models, bits):
    folded, most = folded_weights(student_model), 2 ** (bits - 1) - 1
    for name, layer in weight_layers(low_bit_models[bits]).items():
        step = layer.weight_scale.view(-1, *[1] * (layer.weight.dim() - 1))
        assert (layer.weight.int().flatten(1).abs().amax(1) == most).all(), name  # in every channel
        assert ((layer.dequantized_weight() - folded[name]).abs() <= 0.5001 * step + 1e-6).all(), name
        assert layer.bits == bits and layer.weight.dtype == torch.int8


def test_fewer_bits_are_further_from_the_float_weights(student_model, low_bit_models):
    folded = folded_weights(student_model)
    errors = []
    for model in low_bit_models.values():
        layers = weight_layers(model).items()
        errors.append(sum((layer.dequantized_weight() - folded[name]).square().sum().item() for name, layer in layers))
    assert all(more > 3 * less for more, less in itertools.pairwise(errors))


@pytest.mark.parametrize("name", ["student_model", "teacher_model"])
@pytest.mark.parametrize("bits", [2, 4])
def test_layers_of_few_bits_compute_what_pt2es_graph_does_bit_for_bit(name, bits, request, images):
    model = duplicate(request.getfixturevalue(name)).eval()
    graph = pt2e.convert(copy.deepcopy(model), images, bits=bits)
    ours = pt2e.from_pt2e(model, graph)
    with torch.no_grad():
        for batch in (images, images[:1], 100 * images):
            assert torch.equal(ours(batch), graph(batch))


def test_eight_bits_are_what_they_were(int8_model, student_model, digits, same_tensors):
    """Stored models have no word of bits: asking for eight changes neither the tensors nor the spec."""
    everywhere = dict.fromkeys(weight_layers(student_model), 8)
    for bits in (8, everywhere, {}):
        model = int8.apply(student_model, digits, calibration_images=128, bits=bits)
        assert same_tensors(model, int8_model) and model.spec == int8_model.spec
    assert set(int8_model.spec["changes"][-1]) == {"technique", "layers", "structure"}
    assert set(int8_model.spec["changes"][-1]["structure"]) == {"module", "layers"}
    assert {layer.bits for layer in weight_layers(int8_model).values()} == {8}
    first = int8_model.features[0].conv
    folded = folded_weights(duplicate(student_model))["features.0.conv"].flatten(1).abs().amax(1)
    assert torch.allclose(first.weight_scale, folded / 127.5)


def test_bits_by_layer_touch_no_other_layer_and_survive_the_disk(student_model, int8_model, digits, images, tmp_path):
    bits = {"features.2.conv": 3, "fc1": 2, "fc3": 8}
    model = int8.apply(student_model, digits, calibration_images=128, bits=bits)
    assert model.spec["changes"][-1]["structure"]["bits"] == {"features.2.conv": 3, "fc1": 2}
    models.save_model(tmp_path, model)
    loaded = models.load_model(tmp_path)
    for name, layer in weight_layers(loaded).items():
        eight = weight_layers(int8_model)[name]
        assert layer.bits == bits.get(name, 8)
        assert torch.equal(layer.weight, eight.weight) == (layer.bits == 8)
        assert layer.weight.int().abs().max() <= 2 ** (layer.bits - 1)
    with torch.no_grad():
        assert torch.equal(loaded(images), model(images))


def test_one_number_of_bits_is_stored_as_one(low_bit_models, student_model):
    assert low_bit_models[3].spec["changes"][-1]["structure"]["bits"] == 3
    rebuilt = networks_spec.build(low_bit_models[3].spec)
    assert {layer.bits for layer in weight_layers(rebuilt).values()} == {3}
    other = with_activations(low_bit_models[3], student_model, "dynamic")
    assert {layer.bits for layer in weight_layers(other).values()} == {3}


@pytest.mark.parametrize("value", [1, 9, 0, -4, 4.0, "4", True, None])
def test_bad_bits_are_named(value, student_model, low_bit_models, digits):
    with pytest.raises(ValueError, match=f"bits={value!r} of f.*: expected a whole number from 2 to 8"):
        int8.apply(student_model, digits, calibration_images=8, bits=value)
    with pytest.raises(ValueError, match=f"bits={value!r} of fc2: "):
        int8.apply(student_model, digits, calibration_images=8, bits={"fc2": value})
    spec = copy.deepcopy(low_bit_models[4].spec)
    stored_signs = type(value) is int and value == 1  # what binary weights are, so that they build
    for stored in () if stored_signs else (value, {"fc2": value}):
        spec["changes"][-1]["structure"]["bits"] = stored
        with pytest.raises(blocks.SpecError, match=f"bits={value!r} of f"):
            networks_spec.build(spec)


def test_bits_of_an_unknown_layer_are_named(student_model, low_bit_models, digits):
    with pytest.raises(ValueError, match=r"bits of 'fc9': expected one of the layers features\.0\.conv, "):
        int8.apply(student_model, digits, calibration_images=8, bits={"fc9": 4})
    spec = copy.deepcopy(low_bit_models[4].spec)
    spec["changes"][-1]["structure"]["bits"] = {"features.0": 4}
    with pytest.raises(blocks.SpecError, match=r"bits of 'features\.0': expected one of"):
        networks_spec.build(spec)


# --- dynamic and weight-only ------------------------------------------------------------------------------------


@pytest.mark.parametrize("activations", ["dynamic", "float"])
def test_other_activations_keep_the_weights_and_survive_the_disk(
    student_model, int8_model, images, activations, tmp_path
):
    model = with_activations(int8_model, student_model, activations)
    for name, layer in weight_layers(model).items():
        other = weight_layers(int8_model)[name]
        assert torch.equal(layer.weight, other.weight) and torch.equal(layer.bias, other.bias)
        assert layer.input_scale is None
    models.save_model(tmp_path, model)
    with torch.no_grad():
        out = model(images)
        assert torch.equal(models.load_model(tmp_path)(images), out)
        assert not torch.equal(out, int8_model(images))


def test_weight_only_computes_with_the_dequantized_weights(student_model, int8_model, images):
    model = with_activations(int8_model, student_model, "float")
    plain = fold_batch_norm(student_model)
    for name, layer in weight_layers(plain).items():
        with torch.no_grad():
            layer.weight.copy_(weight_layers(model)[name].dequantized_weight())
    with torch.no_grad():
        assert torch.allclose(model(images), plain(images), atol=1e-4)


def test_dynamic_inputs_use_the_whole_range_of_each_batch():
    layer = Int8Linear((3, 4), activations="dynamic")
    for scale in (1e-3, 1.0, 1e3):
        x = scale * torch.rand(64, 4, generator=torch.Generator().manual_seed(0))
        error = (layer.quantized_input(x) - x).abs().max()
        assert error <= 0.51 * x.max() / 255


def test_unknown_activations_are_named(student_model, int8_model):
    with pytest.raises(
        blocks.SpecError, match="activations 'fuzzy': expected one of static, dynamic, dynamic per sample, float"
    ):
        with_activations(int8_model, student_model, "fuzzy")


def test_layer_errors_are_signal_to_noise_in_decibels(student_model, int8_model, images):
    errors = layer_errors(student_model, int8_model, images)
    assert list(errors) == list(weight_layers(student_model))
    captured = []
    with torch.no_grad():
        folded = fold_batch_norm(student_model)
        for model in (folded, duplicate(int8_model)):
            model.fc3.register_forward_hook(lambda _m, _i, out: captured.append(out.double()))
            model(images)
    clean, noisy = captured
    ratio = clean.square().sum() / (clean - noisy).square().sum()
    assert errors["fc3"] == pytest.approx(10 * torch.log10(ratio).item(), rel=1e-4)
    assert all(10 < value < 70 for value in errors.values())
    assert set(layer_errors(folded, folded, images).values()) == {float("inf")}
