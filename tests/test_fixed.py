"""Fixed point against integers by hand: NumPy's int64, written here without a line of what is tested."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from studylib.coding import codec
from studylib.data import scoring
from studylib.networks import spec
from studylib.networks.fixed_layers import FixedConv2d, FixedLinear
from studylib.networks.layers import fold_batch_norm, weight_layers
from studylib.techniques import fixed


def to_format(x, before, after, bits):
    """Integers of the fraction ``before`` at the fraction ``after``: halves up, cut off at what ``bits`` hold."""
    down = before - after
    whole = np.floor_divide(2 * x + 2**down, 2 ** (down + 1)) if down > 0 else x * 2**-down
    return np.clip(whole, -(2 ** (bits - 1)), 2 ** (bits - 1) - 1)


def convolved(x, weight, stride=1, padding=0, dilation=1, groups=1):
    """Sums of products, int64 (n, out, h, w)."""
    n, out, (rows, columns) = len(x), len(weight), weight.shape[2:]
    x = np.pad(x, ((0, 0), (0, 0), (padding, padding), (padding, padding)))
    high = (x.shape[2] - dilation * (rows - 1) - 1) // stride + 1
    wide = (x.shape[3] - dilation * (columns - 1) - 1) // stride + 1
    sums, each = np.zeros((n, out, high, wide), np.int64), x.shape[1] // groups
    for o in range(out):
        first = o // (out // groups) * each
        for c in range(each):
            for i in range(rows):
                for j in range(columns):
                    top, left = i * dilation, j * dilation
                    seen = x[:, first + c, top : top + stride * high : stride, left : left + stride * wide : stride]
                    sums[:, o] += int(weight[o, c, i, j]) * seen[:, :high, :wide]
    return sums


def by_hand(model, float_model, images):
    """Logits of the ConvNet ``model`` for normalized ``images``, float64; every number in between is an integer."""
    structure = model.spec["changes"][-1]["structure"]
    wide, fractions = structure["activation_bits"], structure["fractions"]
    folded, before = weight_layers(fold_batch_norm(float_model)), None
    for name, layer in folded.items():
        w, i, o = fractions[name]
        weight = np.rint(layer.weight.detach().double().numpy() * 2.0**w).astype(np.int64)
        bias = np.rint(layer.bias.detach().double().numpy() * 2.0 ** (w + i)).astype(np.int64)
        assert abs(weight).max() < 2 ** (structure["bits"] - 1)
        if before is None:
            x = np.floor(images.double().numpy() * 2.0**i + 0.5).astype(np.int64)
            x = np.clip(x, -(2 ** (wide - 1)), 2 ** (wide - 1) - 1)
        else:
            x = to_format(x, before, i, wide)
        sums = convolved(x, weight, padding=1) if weight.ndim == 4 else x @ weight.T
        sums = sums + bias.reshape(-1, *[1] * (weight.ndim - 2))
        assert abs(sums).max() < 2**31
        x, before = to_format(sums, w + i, o, 16), o
        if name != "fc3":
            x = np.maximum(x, 0)
        if weight.ndim == 4:
            n, c, h, _ = x.shape
            x = x.reshape(n, c, h // 2, 2, h // 2, 2).max((3, 5))
        if name == "features.4.conv":
            x = x.reshape(len(x), -1)
    return x * 2.0**-before


@pytest.mark.parametrize(("bits", "activation_bits"), [(8, 8), (4, 8), (3, 12), (8, 2)])
def test_a_network_in_fixed_point_computes_what_integers_by_hand_do(student_model, digits, bits, activation_bits):
    model = fixed.apply(student_model, digits, bits=bits, activation_bits=activation_bits, calibration_images=64)
    images = digits.normalize(digits.validation.images[:32])
    for batch in (images, 3 * images):  # the latter beyond what was calibrated
        with torch.no_grad():
            found = model(batch)
        assert np.array_equal(found.double().numpy(), by_hand(model, student_model, batch))


@pytest.mark.parametrize(
    "how", [{}, {"stride": 2, "padding": 1}, {"dilation": 2}, {"groups": 2, "padding": 2}, {"groups": 4}]
)
def test_a_convolution_in_fixed_point_is_one_of_integers(how):
    draw = np.random.default_rng(0)
    kernel = draw.integers(-127, 128, (8, 4 // how.get("groups", 1), 3, 3))
    layer = FixedConv2d(kernel.shape, fractions=[5, 3, 2], activation_bits=8, **how)
    bias = draw.integers(-5000, 5000, 8)
    layer.load_state_dict({"weight": torch.from_numpy(kernel), "bias": torch.from_numpy(bias * 2.0**-8)})
    x = draw.integers(-128, 128, (2, 4, 9, 9))
    expected = to_format(convolved(x, kernel, **how) + bias[:, None, None], 8, 2, 16)
    assert np.array_equal(layer(torch.from_numpy(x * 2.0**-3).float()).numpy(), (expected * 0.25).astype(np.float32))


def test_halves_are_rounded_up_and_what_does_not_fit_is_cut_off():
    layer = FixedLinear((1, 1), fractions=[0, 0, 0], activation_bits=4)
    x = torch.tensor([-9.0, -8, -1.5, -0.5, 0.5, 1.5, 7, 8])
    assert layer.whole_input(x).tolist() == [-8, -8, -1, 0, 1, 2, 7, 7]
    layer = FixedLinear((1, 1), has_bias=False, fractions=[1, 0, 0], activation_bits=8)
    sums = torch.tensor([[-3], [-1], [1], [3], [2**20], [-(2**20)]]).double()
    assert layer.output(sums).flatten().tolist() == [-1, 0, 1, 2, 2**15 - 1, -(2**15)]


@given(st.floats(1e-12, 1e12), st.integers(2, 16))
def test_a_fraction_is_the_finest_in_which_the_largest_number_fits(largest, bits):
    f, most = fixed.fraction(largest, bits), 2 ** (bits - 1) - 1
    assert largest * 2.0**f <= most * (1 + 1e-15) and largest * 2.0 ** (f + 1) > most


def test_weights_in_fixed_point_are_off_by_at_most_half_a_step(student_model, digits):
    for bits in (2, 5, 8):
        model = fixed.apply(student_model, digits, bits=bits, calibration_images=16)
        for name, layer in weight_layers(fold_batch_norm(student_model)).items():
            low = weight_layers(model)[name]
            assert (low.dequantized_weight() - layer.weight).abs().max() <= 2.0 ** -(low.fractions[0] + 1), name
            assert low.weight.int().abs().max() < 2 ** (bits - 1)


def test_eight_bits_in_fixed_point_lose_little(student_model, digits):
    model = fixed.apply(student_model, digits, calibration_images=256)
    before, after = (scoring.accuracy(each, digits.validation, digits) for each in (student_model, model))
    assert after >= before - 0.02


def test_half_precision_keeps_biases_whole(student_model, digits):
    model = fixed.apply(student_model, digits, calibration_images=16)
    decoded = codec.decode(codec.encode(model, floats="float16"))
    for name, layer in weight_layers(decoded).items():
        w, i, _ = layer.fractions
        whole = layer.bias.double() * 2.0 ** (w + i)
        assert torch.equal(whole, whole.round()), name


def test_a_sum_that_may_not_fit_is_refused_with_the_name_of_its_layer(digits):
    wide = spec.create("convnet", 0, **digits.model_args, widths=[4, 4, 600], hidden=[4, 4])
    with torch.no_grad():
        wide.fc1.weight.fill_(127.0)
    fixed.apply(wide.eval(), digits, calibration_images=4)
    with pytest.raises(ValueError, match=r"fc1: a sum of 2\.5e\+09 is possible: expected at most 32 bits"):
        fixed.apply(wide, digits, activation_bits=16, calibration_images=4)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"activation_bits": 17}, "activation_bits=17: expected a whole number from 2 to 16"),
        ({"fractions": {"fc1": [1, 2]}}, r"fractions=\[1, 2\] of fc1: expected three whole numbers"),
        ({"fractions": {"fc1": [1, 2, 900]}}, r"fractions=\[1, 2, 900\] of fc1"),
        ({"fractions": {"fc1": [1, 2, 4]}}, "expected the third to be at most"),
        ({"fractions": {"features": [1, 2, 3]}}, "features is Sequential: expected a convolution or linear layer"),
        ({"bits": 1}, "bits=1 of .*: expected a whole number from 2 to 8"),
    ],
)
def test_a_stored_format_that_cannot_be_is_refused(student_model, digits, change, message):
    about = fixed.apply(student_model, digits, calibration_images=4).spec
    about["changes"][-1]["structure"] |= change
    with pytest.raises(spec.SpecError, match=message):
        spec.build(about)
