"""Sketches: their error is within the bounds of Halko et al. as often as these say."""

import math

import pytest
import torch
from torch import nn

from studylib import settings
from studylib.networks import factors, layers, spec
from studylib.techniques import sketch, svd

DRAWS = 200
RANK, OVERSAMPLING = 6, 6


def draw(seed=0):
    return torch.Generator().manual_seed(seed)


def matrix(decay, rows=30, columns=45):
    """A matrix with the singular values j^(−decay)."""
    u = torch.linalg.qr(torch.randn(rows, rows, dtype=torch.float64, generator=draw(1))).Q
    v = torch.linalg.qr(torch.randn(columns, rows, dtype=torch.float64, generator=draw(2))).Q
    return (u * torch.arange(1, rows + 1, dtype=torch.float64) ** -decay) @ v.T


def slack(probability, draws=DRAWS):
    """Three standard deviations of the share of ``draws`` that are within what holds at ``probability``."""
    return 3 * math.sqrt(probability * (1 - probability) / draws)


def errors(a, norm, **how):
    found = []
    for seed in range(DRAWS):
        left, right = sketch.sketched(a, RANK, oversampling=OVERSAMPLING, generator=draw(seed), **how)
        assert left.shape == (len(a), RANK) and right.shape == (RANK, a.shape[1])
        found.append(torch.linalg.matrix_norm(a - left @ right, "fro" if norm == "frobenius" else 2))
    return torch.stack(found)


@pytest.mark.parametrize("power", [0, 2])
@pytest.mark.parametrize("norm", ["frobenius", "spectral"])
@pytest.mark.parametrize("decay", [0.3, 2.0])
def test_the_error_is_within_its_bound_in_the_stated_share_of_draws(decay, norm, power):
    a = matrix(decay)
    values = torch.linalg.svdvals(a)
    found = errors(a, norm, power=power)
    for probability in (0.5, 0.9, 0.99):
        bound = sketch.error_bound(values, RANK, OVERSAMPLING, probability, norm=norm, power=power)
        assert (found <= bound).double().mean() >= probability - slack(probability)
    best = values[RANK:].norm() if norm == "frobenius" else values[RANK]
    assert (found >= best * (1 - 1e-9)).all()  # no rank is better than that (Eckart–Young)
    if decay == 2.0 or power:
        assert sketch.error_bound(values, RANK, OVERSAMPLING, 0.9, norm=norm, power=power) < 20 * best


def test_the_bounds_are_those_of_theorems_10_7_and_10_8():
    values = torch.tensor([9.0, 7.0, 3.0, 2.0, 1.0, 1.0])
    k, p, failure = 2, 5, 0.1
    t, u = (2 * 2 / failure) ** (1 / p), math.sqrt(2 * math.log(2 / failure))
    assert 2 * t**-p + math.exp(-(u**2) / 2) == pytest.approx(failure)
    tail, first = math.sqrt(9 + 4 + 1 + 1), 3.0
    far = math.e * math.sqrt(k + p) / (p + 1)
    frobenius = (1 + t * math.sqrt(3 * k / (p + 1))) * tail + u * t * far * first
    spectral = (1 + t * math.sqrt(3 * k / (p + 1))) * first + t * far * tail + u * t * far * first
    assert sketch.error_bound(values, k, p, 0.9) == pytest.approx(math.hypot(frobenius, tail))
    assert sketch.error_bound(values, k, p, 0.9, norm="spectral") == pytest.approx(spectral + first)
    cubed = values**3
    of_cubes = sketch.error_bound(cubed, k, p, 0.9, norm="spectral") - first**3
    powered = sketch.error_bound(values, k, p, 0.9, norm="spectral", power=1)
    assert powered == pytest.approx(of_cubes ** (1 / 3) + first)


def test_a_bound_falls_with_oversampling_and_power_and_is_zero_where_nothing_is_cut():
    values = torch.linalg.svdvals(matrix(0.3))
    at = lambda **how: sketch.error_bound(values, **({"rank": 4, "oversampling": 8, "probability": 0.9} | how))  # noqa: E731
    assert at(oversampling=16) < at() < at(probability=0.999)
    assert at(norm="spectral", power=2) < at(norm="spectral", power=1) < at(norm="spectral")
    assert at(rank=30) == 0 and sketch.error_bound(torch.ones(9) * 0, 4, 4, 0.5, norm="spectral") == 0


@pytest.mark.parametrize("method", ["gaussian", "count_sketch", "svd"])
def test_a_matrix_of_that_rank_is_found_exactly(method):
    a = torch.randn(20, 5, dtype=torch.float64, generator=draw(3)) @ torch.randn(5, 31, generator=draw(4)).double()
    left, right = sketch.sketched(a, 5, method=method, oversampling=8, generator=draw())
    assert torch.allclose(left @ right, a, atol=1e-10)
    assert torch.allclose(left.norm(dim=0), right.norm(dim=1))  # they share the singular values


@pytest.mark.parametrize("method", ["gaussian", "count_sketch"])
def test_powers_and_oversampling_make_errors_smaller(method):
    a = matrix(0.5)

    def mean(**how):
        pairs = [sketch.sketched(a, RANK, method=method, generator=draw(s), **how) for s in range(20)]
        return sum(float((a - left @ right).norm()) for left, right in pairs) / len(pairs)

    plain = mean(oversampling=2, power=0)
    assert mean(oversampling=2, power=2) < plain and mean(oversampling=12, power=0) < plain
    assert mean(oversampling=2, power=8) < 1.02 * torch.linalg.svdvals(a)[RANK:].norm()


# --- count sketch -------------------------------------------------------------------------------------------------


def test_a_count_sketch_has_one_sign_a_row_and_is_unbiased():
    rows, size, draws = 12, 5, 4000
    by, total = draw(5), torch.zeros(rows, rows, dtype=torch.float64)
    for _ in range(draws):
        s = sketch.count_sketch(rows, size, by)
        assert ((s != 0).sum(1) == 1).all() and (s.abs().sum(1) == 1).all()
        total += s @ s.T
    off = total / draws - torch.eye(rows)
    assert not off.diagonal().any()  # S Sᵀ has ones there in every draw
    assert off.abs().max() < 5 * math.sqrt(1 / size / draws)  # five standard deviations of a place's mean


@pytest.mark.parametrize("size", [10, 40])
def test_products_of_count_sketches_are_within_their_bound_in_the_stated_share_of_draws(size):
    a = torch.randn(8, 60, dtype=torch.float64, generator=draw(6))
    b = torch.randn(60, 9, dtype=torch.float64, generator=draw(7))
    by, relative = draw(8), []
    for _ in range(DRAWS):
        s = sketch.count_sketch(60, size, by)
        relative.append((a @ s @ (s.T @ b) - a @ b).norm() / (a.norm() * b.norm()))
    relative = torch.stack(relative)
    for probability in (0.5, 0.9):  # the squares' mean is at most 2 / size (Clarkson and Woodruff 2017); then Markov
        bound = math.sqrt(2 / (size * (1 - probability)))
        assert (relative <= bound).double().mean() >= probability - slack(probability)
    assert 0.2 / size < relative.square().mean() <= 2 / size


# --- layers -------------------------------------------------------------------------------------------------------

torch.manual_seed(0)
CONVOLUTIONS = [
    nn.Conv2d(6, 8, 3, stride=2, padding=1),
    nn.Conv2d(4, 10, (3, 5), padding="same", padding_mode="reflect", bias=False),
    nn.Conv2d(8, 12, 4, stride=2, padding=1, groups=4),
    nn.Conv2d(3, 16, 3, padding=2, dilation=2),
    nn.Conv2d(5, 7, 1),
]


@pytest.mark.parametrize("method", ["gaussian", "count_sketch", "svd"])
@pytest.mark.parametrize("layer", CONVOLUTIONS, ids=str)
@torch.no_grad()
def test_a_convolution_at_full_rank_gives_the_same(layer, method):
    x = torch.randn(3, layer.in_channels, 12, 12, generator=draw())
    rank = min(factors.groups_of(layer).flatten(2).shape[1:])
    made = sketch.factorize(layer, rank, method=method, generator=draw())
    assert (made(x) - layer(x)).abs().max() <= 1e-5
    assert (made.last.bias is None) == (layer.bias is None) and made.first.bias is None


def test_exact_factors_of_linear_layers_are_those_of_svd():
    layer = nn.Linear(20, 14)
    made, expected = sketch.factorize(layer, 5, method="svd", generator=draw()), svd.factorize(layer, 5)
    for found, wanted in ((made.first, expected.first), (made.second, expected.second)):
        assert torch.allclose(found.weight.abs(), wanted.weight.abs(), atol=1e-5)
    assert torch.equal(made.second.bias, layer.bias)


def test_linear_layers_and_convolutions_are_factorized_by_the_seed(student_model, same_tensors):
    made = [sketch.apply(student_model, energy=0.7, seed=seed) for seed in (0, 0, 1)]
    assert same_tensors(made[0], made[1]) and not same_tensors(made[0], made[2])
    chosen = made[0].spec["changes"][-1]["structure"]["ranks"]
    assert {"features.2.conv", "fc1"} <= chosen.keys()
    assert isinstance(made[0].fc1, factors.LowRankLinear) and isinstance(made[0].features[2], factors.LowRankConv)
    assert layers.sparsity(sketch.apply(student_model, method="svd", energy=0.7)) == 0


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"method": "fourier"}, "method='fourier': expected one of"),
        ({"oversampling": -1}, "oversampling=-1: expected at least 0"),
        ({"power": 17}, "power=17: expected at most 16"),
    ],
)
def test_a_setting_out_of_range_is_named(wrong, message):
    model = spec.create("convnet", 0, in_channels=1, image_size=8)
    with pytest.raises(ValueError, match=message):
        sketch.apply(model, **wrong)
    with pytest.raises(settings.SettingError, match=f"sketch.{message}"):
        settings.read(sketch.Sketch, wrong, "sketch")


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda v: sketch.error_bound(v, 1, 8, 0.9), "rank=1: expected at least 2"),
        (lambda v: sketch.error_bound(v, 2, 3, 0.9), "oversampling=3: expected at least 4"),
        (lambda v: sketch.error_bound(v, 2, 4, 1.0), "probability=1.0: expected between 0 and 1"),
        (lambda v: sketch.error_bound(v, 2, 4, 0.9, norm="nuclear"), "norm='nuclear': expected frobenius or spectral"),
        (lambda v: sketch.error_bound(v, 2, 4, 0.9, power=-1), "power=-1: expected at least 0"),
        (lambda v: sketch.sketched(torch.ones(3, 4), 4, generator=draw()), "rank=4: expected 1 to 3"),
    ],
)
def test_what_has_no_bound_or_no_rank_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call(torch.ones(9))
