"""Layers of small weights: what a network computes does not depend on how its layers share the scale."""

from pathlib import Path

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from studylib.coding import codec, restore, shipped
from studylib.data import scoring
from studylib.descent import objectives
from studylib.disk import files, models
from studylib.experiments.frontier import coded_bytes
from studylib.experiments.int8 import with_activations
from studylib.experiments.moo_objectives import quantization_error
from studylib.networks import grid, layers
from studylib.techniques import int8, qat
from studylib.training.recipe import Recipe

SCALES = [1.0, 1e-2, 1e-4, 1e-6]
PUBLISHED = sorted((Path(__file__).parents[1] / "figures" / "models").glob(f"*{restore.ENDING}"))
FORMER_LEAST = 2.0**-12


@torch.no_grad()
def scaled(model, s):
    """``model``, a ConvNet, with what a convolution and a linear layer give times ``s``, undone in the layer behind."""
    new = layers.duplicate(model)
    for tensor in (new.features[2].norm.weight, new.features[2].norm.bias, new.fc2.weight, new.fc2.bias):
        tensor.mul_(s)
    for layer in (new.features[4].conv, new.fc3):
        layer.weight.div_(s)
    return new


def accuracy(model, data):
    return scoring.accuracy(model, data.validation, data)


@pytest.fixture(scope="module")
def images(digits):
    return digits.normalize(digits.validation.images[:64])


def integers(model):
    return {name: tensor for name, tensor in model.state_dict().items() if not tensor.is_floating_point()}


def live_rows(layer):
    rows = layer.weight.flatten(1).int().abs().amax(1)
    return rows[rows > 0]


# --- static and dynamic -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("s", SCALES)
def test_int8_is_as_good_whatever_scale_a_layer_has(s, student_model, int8_model, digits):
    model = scaled(student_model, s)
    assert accuracy(model, digits) == pytest.approx(accuracy(student_model, digits), abs=0.005)
    static = int8.apply(model, digits, calibration_images=128)
    for found in (static, with_activations(static, model, "dynamic")):
        assert accuracy(found, digits) >= accuracy(int8_model, digits) - 0.02
        for name, layer in layers.weight_layers(found).items():
            assert live_rows(layer).min() >= 126, name
            assert len(live_rows(layer)) == len(layer.weight), name


@settings(max_examples=2)
@given(power=st.integers(-90, 90))
@example(power=-90)
@example(power=90)
def test_a_scale_that_is_a_power_of_two_changes_no_integer_and_no_output(power, student_model, int8_model, digits):
    """The inputs' ranges are chosen alike, too."""
    found = int8.apply(scaled(student_model, 2.0**power), digits, calibration_images=128)
    images = digits.normalize(digits.validation.images[:64])
    expected, got = integers(int8_model), integers(found)
    assert all(torch.equal(got[name], expected[name]) for name in expected)
    with torch.no_grad():
        assert torch.equal(found(images), int8_model(images))


@settings(max_examples=5)
@given(seed=st.integers(0, 999), bits=st.integers(2, 8))
def test_each_row_that_is_not_zero_uses_its_whole_range(seed, bits, student_model, digits):
    draw, model = torch.Generator().manual_seed(seed), layers.duplicate(student_model)
    with torch.no_grad():
        for layer in layers.weight_layers(model).values():
            weight = layer.weight
            powers = 10.0 ** torch.empty(len(weight)).uniform_(-30, 2, generator=draw)
            weight.mul_(powers.view(-1, *[1] * (weight.dim() - 1)))
            weight[torch.rand(len(weight), generator=draw) < 0.2] = 0
    for norm in (unit.norm for unit in model.features if hasattr(unit, "norm")):
        norm.running_mean.zero_()
    found = int8.apply(model, digits, calibration_images=8, bits=bits)
    for name, layer in layers.weight_layers(found).items():
        alive = model.get_submodule(name).weight.detach().flatten(1).any(1)
        rows = layer.weight.flatten(1).int().abs().amax(1)
        assert (rows[alive] >= (126 if bits == 8 else 2 ** (bits - 1) - 1)).all(), name
        assert not rows[~alive].any(), name
        assert layer.weight_scale.isfinite().all() and (layer.weight_scale > 0).all()
    with torch.no_grad():
        assert found(digits.normalize(digits.validation.images[:8])).isfinite().all()


# --- training ---------------------------------------------------------------------------------------------------


def test_training_with_rounding_keeps_a_layer_of_small_weights(student_model, int8_model, digits):
    """The learning rate is next to none: what is seen is what training rounds, and what it converts to."""
    recipe = Recipe(epochs=1, lr=1e-12, min_lr=0.0, batch_size=200, augmentation="none")
    found = qat.apply(scaled(student_model, 1e-6), digits, recipe=recipe, seed=0, bits=8, calibration_images=128)
    least = accuracy(int8_model, digits) - 0.02
    assert found.history[-1]["val_accuracy"] >= least and accuracy(found, digits) >= least
    for name, layer in layers.weight_layers(found).items():
        assert live_rows(layer).min() >= 126 and len(live_rows(layer)) == len(layer.weight), name


@given(power=st.integers(-60, 0), bits=st.integers(2, 8))
def test_sensitivity_rounds_small_weights_as_others(power, bits):
    weight = torch.randn(5, 40, generator=torch.Generator().manual_seed(bits))
    assert torch.equal(grid.rounded_weight(2.0**power * weight, bits), 2.0**power * grid.rounded_weight(weight, bits))


# --- objectives -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("s", [1.0, 1e-12])
@pytest.mark.parametrize("bits", [2, 4, 8])
def test_the_objectives_grid_is_that_of_inference(bits, s, student_model, digits):
    """Their error is that of the int8 layers' weights, their bytes those of integers between the same limits."""
    model = layers.fold_batch_norm(student_model)
    with torch.no_grad():
        for layer in layers.weight_layers(model).values():
            layer.weight.mul_(s)
            layer.weight[1] = 0
    low = int8.apply(model, digits, calibration_images=8, bits=bits)
    error = sum(
        (layer.weight.double() - low.get_submodule(name).dequantized_weight().double()).square().sum().item()
        for name, layer in layers.weight_layers(model).items()
    )
    found = quantization_error(bits)
    assert found(model, None, None).item() == pytest.approx(error, rel=2e-3, abs=0)
    coded = coded_bytes(bits)
    value = coded(model, None, None)
    assert 0 < value.item() <= sum(w.numel() for w in objectives.weights(model)) * bits / 8
    assert all(slope.isfinite().all() for slope in torch.autograd.grad(value, objectives.weights(model)))
    with torch.no_grad():  # on their grid, the bytes are the entropy of the integers
        for name, layer in layers.weight_layers(model).items():
            layer.weight.copy_(low.get_submodule(name).dequantized_weight())
    if bits < 8:  # the largest of 8 bits lies beside the grid: it decides the step and is rounded with the rest
        assert found(model, None, None).item() < 1e-6 * error
        counts = [layer.weight.unique(return_counts=True)[1] for layer in layers.weight_layers(low).values()]
        entropy = sum(-(n * (n / n.sum()).log2()).sum().item() / 8 for n in (c.double() for c in counts))
        assert coded(model, None, None).item() == pytest.approx(entropy, rel=1e-3)


# --- files ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["float", "int8"])
@pytest.mark.parametrize("s", SCALES)
def test_files_hold_layers_of_small_weights(s, kind, student_model, digits, images, tmp_path):
    """In float32 bit for bit; in half precision as well as others, or refused, naming the tensor."""
    model = scaled(student_model, s)
    model = int8.apply(model, digits, calibration_images=128) if kind == "int8" else model
    as_shipped, read = shipped.apply(model), codec.decode(codec.encode(model))
    codec.verify(as_shipped, read)
    models.save_model(tmp_path, model)
    with torch.no_grad():
        assert torch.equal(read(images), as_shipped(images))
        assert torch.equal(models.load_model(tmp_path)(images), model.eval()(images))
    half = None
    try:
        half = shipped.apply(model, floats="float16")
    except shipped.HalfPrecisionError as error:
        assert s <= 1e-2 and any(name in str(error) for name in ("features.2.conv", "features.4.conv", "fc2", "fc3"))
    if half is not None:
        assert (half(images) - as_shipped(images)).abs().max() < 0.05 * as_shipped(images).std()


@pytest.mark.parametrize(
    ("change", "name"),
    [
        (lambda m: m.fc2.weight_scale.mul_(1e-4), "fc2.weight_scale"),
        (lambda m: m.fc2.input_scale.mul_(1e-4), "fc2.input_scale"),
        (lambda m: [m.fc2.bias.mul_(1e-7), m.fc2.weight_scale.fill_(2**-17 / 127)], "fc2.weight_scale"),
    ],
)
def test_a_scale_that_half_precision_would_alter_is_refused(change, name, int8_model):
    model = layers.duplicate(int8_model)
    change(model)
    with pytest.raises(shipped.HalfPrecisionError, match=rf"{name}: .* is beyond float16"):
        shipped.apply(model, floats="float16")


def test_weights_that_half_precision_would_alter_are_refused(student_model):
    model = layers.duplicate(student_model)
    with torch.no_grad():
        for tensor in (model.fc2.weight, model.fc2.bias):
            tensor.mul_(1e-6)
    with pytest.raises(shipped.HalfPrecisionError, match=r"fc2\.weight: .* is beyond float16"):
        shipped.apply(model, floats="float16")


def test_rows_without_a_weight_need_no_scale(student_model, digits, images):
    """Theirs is the least of all, which half precision has not."""
    model = layers.duplicate(student_model)
    with torch.no_grad():
        model.fc2.weight[3:5] = 0
        model.fc2.bias[3:5] = 0.5
        model.fc3.weight.zero_()
    low = int8.apply(model, digits, calibration_images=32)
    half, read = shipped.apply(low, floats="float16"), codec.decode(codec.encode(low, floats="float16"))
    codec.verify(half, read)
    with torch.no_grad():
        assert torch.equal(half(images), read(images)) and half(images).isfinite().all()


SINCE = {"mnist_5k-vae16-z67.2-8bit"}  # made when scales had no least any more, so that small ones are its own


@pytest.mark.parametrize("path", [path for path in PUBLISHED if path.stem not in SINCE], ids=lambda path: path.stem)
def test_no_published_file_has_a_row_or_an_input_at_the_former_floor(path):
    """Scales were at least 2⁻¹²; without that they would have been the same."""
    model = codec.decode(path.read_bytes())
    for name, layer in layers.weight_layers(model).items():
        if layer.weight.dtype == torch.int8 and layer.weight.any():
            alive = layer.weight.flatten(1).any(1)
            assert layer.weight_scale[alive].min() > 1.5 * FORMER_LEAST, name
            assert layer.input_scale > 1.5 * FORMER_LEAST, name


def test_every_published_file_is_there():
    assert len(PUBLISHED) == len(files.read_json(PUBLISHED[0].parent / restore.LIST))
