import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from studylib.data import scoring
from studylib.descent import objectives
from studylib.descent.objectives import Objective, objective
from studylib.experiments.frontier import coded_bytes
from studylib.experiments.moo_objectives import knowledge_alignment, quantization_error
from studylib.techniques import distill


def network(seed: int, scale: float = 1.0) -> nn.Module:
    """A convolution (5 × 18) and a linear layer (4 × 5), with biases and a batch norm that no objective sees."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = nn.Sequential(nn.Conv2d(2, 5, 3), nn.BatchNorm2d(5), nn.Flatten(), nn.Linear(5, 4))
        for weight in objectives.weights(model):
            weight.data.mul_(scale)
    return model


def gradient(found: Objective, model: nn.Module) -> list[torch.Tensor]:
    """Of the weights, through a graph, whichever way the objective is given."""
    return torch.autograd.grad(found(model, None, None), objectives.weights(model))


def direct(found: Objective, model: nn.Module) -> list[torch.Tensor]:
    slopes = found.closed_form(model)[1]
    return [slopes[weight] for weight in objectives.weights(model)]


def matrices(model: nn.Module) -> list[torch.Tensor]:
    return [weight.detach().flatten(1) for weight in objectives.weights(model)]


# --- what the closed forms ought to be, as sums over the matrices that autograd can differentiate ---------------

DEFINITIONS = {
    "l1": (objectives.l1, lambda w: w.abs().sum()),
    "group_lasso": (objectives.group_lasso, lambda w: sum(math.sqrt(len(g)) * g.square().sum().sqrt() for g in w)),
    "nuclear_norm": (objectives.nuclear_norm, lambda w: torch.linalg.svdvals(w).sum()),
}


@pytest.mark.parametrize("name", DEFINITIONS)
@given(seed=st.integers(0, 999), scale=st.sampled_from([1e-3, 1.0, 30.0]))
def test_closed_forms_equal_autograd(name, seed, scale):
    found, definition = DEFINITIONS[name]
    model = network(seed, scale)
    leaves = [w.double().requires_grad_() for w in matrices(model)]
    expected = sum(definition(w) for w in leaves)
    slopes = torch.autograd.grad(expected, leaves)
    value, _ = found.closed_form(model)
    assert value.item() == pytest.approx(expected.item(), rel=1e-5)
    assert found(model, None, None).item() == pytest.approx(expected.item(), rel=1e-5)
    for ways in (direct, gradient):
        for got, wanted, weight in zip(ways(found, model), slopes, objectives.weights(model), strict=True):
            assert got.shape == weight.shape
            assert torch.allclose(got.double(), wanted.view_as(got), atol=2e-4, rtol=2e-4), (name, ways)


def test_the_nuclear_norms_slope_is_u_v_of_the_singular_values_that_are_there():
    model = network(0)
    u, v = torch.randn(5, 2), torch.randn(18, 2)
    model[0].weight.data.copy_((u @ v.T).view(5, 2, 3, 3))  # rank 2
    model[3].weight.data.zero_()
    conv, linear = direct(objectives.nuclear_norm, model)
    left, _, right = torch.linalg.svd(u @ v.T, full_matrices=False)
    assert torch.allclose(conv.flatten(1), left[:, :2] @ right[:2], atol=1e-4)
    assert not linear.any()


def test_subgradients_of_what_is_zero_are_zero():
    model = network(1)
    model[0].weight.data[2] = 0
    assert not direct(objectives.l1, model)[0][2].any() and direct(objectives.l1, model)[0][1].any()
    lasso = direct(objectives.group_lasso, model)[0]
    assert not lasso[2].any() and lasso.isfinite().all()
    assert lasso[1].norm().item() == pytest.approx(math.sqrt(18))


# --- quantization -----------------------------------------------------------------------------------------------


def on_grid(model: nn.Module, bits: int, seed: int) -> list[torch.Tensor]:
    """Puts the weights of ``model`` on grids of their own; returns the integers of each tensor."""
    draw, last, integers = torch.Generator().manual_seed(seed), 2 ** (bits - 1) - 1, []
    for weight in objectives.weights(model):
        q = torch.randint(-last, last + 1, weight.flatten(1).shape, generator=draw).float()
        q[:, 0] = last  # so that the step is known
        step = 2.0 ** torch.randint(-9, 0, (len(q), 1), generator=draw)
        weight.data.copy_((q * step).view_as(weight))
        integers.append(q)
    return integers


def entropy_bytes(integers: list[torch.Tensor]) -> float:
    total = 0.0
    for q in integers:
        counts = q.unique(return_counts=True)[1].double()
        total -= (counts * (counts / counts.sum()).log2()).sum().item() / 8
    return total


@given(bits=st.sampled_from([2, 4, 7]), seed=st.integers(0, 99))
def test_weights_on_their_grid_have_no_quantization_error_and_their_true_entropy(bits, seed):
    model = network(seed)
    integers = on_grid(model, bits, seed)
    value, _ = quantization_error(bits).closed_form(model)
    assert value.item() < 1e-9
    estimate = coded_bytes(bits)(model, None, None).item()
    assert estimate == pytest.approx(entropy_bytes(integers), rel=1e-4, abs=1e-3)


@given(bits=st.sampled_from([3, 4, 8]), seed=st.integers(0, 99))
def test_quantization_error_is_the_squared_distance_to_the_nearest_grid_point(bits, seed):
    model = network(seed)
    found, expected = quantization_error(bits), 0.0
    for w in matrices(model):
        for row in w.double():
            low, most = (-128, 127.5) if bits == 8 else (-(2 ** (bits - 1)) + 1, 2 ** (bits - 1) - 1)
            points = torch.arange(low, 2 ** (bits - 1)) * row.abs().max() / most
            expected += (row[:, None] - points).abs().amin(1).square().sum().item()
    assert found.closed_form(model)[0].item() == pytest.approx(expected, rel=1e-3)
    for w, slope in zip(objectives.weights(model), direct(found, model), strict=True):  # a step along it lands there
        w.data.sub_(slope / 2)
    if bits == 8:  # that moves the largest, and with it the grid
        return
    assert found.closed_form(model)[0].item() < 1e-3 * expected


def test_four_bits_lose_more_than_eight_and_take_fewer_bytes():
    model = network(0)
    errors = [quantization_error(bits)(model, None, None).item() for bits in (4, 8)]
    sizes = [coded_bytes(bits)(model, None, None).item() for bits in (4, 8)]
    assert errors[0] > 50 * errors[1] and sizes[0] < sizes[1]


@given(seed=st.integers(0, 99))
def test_the_slope_of_coded_bytes_equals_finite_differences(seed):
    model = network(seed)
    found = coded_bytes(4)
    slope = gradient(found, model)[0].flatten(1)
    weight = model[0].weight.data.flatten(1)
    inner = weight.abs() < 0.95 * weight.abs().amax(1, keepdim=True)  # the largest weight moves the grid
    place = weight / (weight.abs().amax(1, keepdim=True) / 7)
    inner &= ((place - place.floor()) - 0.5).abs() < 0.4  # not where counts have a kink
    step = 1e-3
    for i, j in inner.nonzero()[:6].tolist():
        values = []
        for sign in (1, -1):
            weight[i, j] += sign * step
            values.append(found(model.double(), None, None).item())
            weight = model[0].weight.data.flatten(1)
            weight[i, j] -= sign * step
        assert (values[0] - values[1]) / (2 * step) == pytest.approx(slope[i, j].item(), rel=0.05, abs=0.05)


def test_descending_coded_bytes_lowers_the_true_entropy():
    model = network(3)

    def true() -> float:
        return entropy_bytes([(w / (w.abs().amax(1, keepdim=True) / 7)).round() for w in matrices(model)])

    before, found = true(), coded_bytes(4)
    optimizer = torch.optim.SGD(objectives.weights(model), lr=2e-3)
    for _ in range(100):
        optimizer.zero_grad()
        found(model, None, None).backward()
        optimizer.step()
    assert all(w.isfinite().all() for w in matrices(model))
    assert true() < 0.8 * before


@pytest.mark.parametrize("bits", [1, 17, 4.0, "8"])
@pytest.mark.parametrize("make", [quantization_error, coded_bytes])
def test_bits_that_are_none_are_named(make, bits):
    with pytest.raises(ValueError, match="bits="):
        make(bits)


# --- tasks and teachers -----------------------------------------------------------------------------------------


def test_cross_entropy_is_the_likelihood_that_scores_report():
    logits, labels = torch.randn(7, 4), torch.arange(7) % 4
    expected = scoring.scores(logits, labels)["nll"]
    assert objectives.cross_entropy(None, (None, labels), logits).item() == pytest.approx(expected, rel=1e-5)


@given(temperature=st.floats(0.5, 20), seed=st.integers(0, 99))
def test_knowledge_alignment_is_hintons_distillation(temperature, seed):
    draw = torch.Generator().manual_seed(seed)
    student, soft = (torch.randn(6, 4, generator=draw).requires_grad_() for _ in range(2))
    found = knowledge_alignment(lambda images: soft, temperature)
    expected = distill.distillation_loss(student, soft.detach(), temperature)
    got = found(None, (None, None), student)
    assert got.item() == pytest.approx(expected.item(), rel=1e-5, abs=1e-7)
    slopes = [torch.autograd.grad(value, student)[0] for value in (got, expected)]
    assert torch.allclose(*slopes, atol=1e-6)
    assert soft.grad is None and found(None, (None, None), soft).item() == pytest.approx(0, abs=1e-5)


def test_a_teacher_is_neither_trained_nor_changed():
    teacher = network(0).train()
    found = knowledge_alignment(teacher)
    teacher[3].weight.data.fill_(9)  # the objective has its own copy
    images = torch.randn(8, 2, 3, 3)
    student = torch.zeros(8, 4, requires_grad=True)
    assert found(None, (images, None), student).isfinite()
    assert teacher.training and teacher[1].num_batches_tracked == 0
    expected = distill.distillation_loss(student, network(0).eval()(images), 5.0)
    assert found(None, (images, None), student).item() == pytest.approx(expected.item(), rel=1e-5)
    with pytest.raises(ValueError, match="temperature"):
        knowledge_alignment(teacher, 0.0)


# --- new ones ---------------------------------------------------------------------------------------------------


def test_an_objective_is_a_function_and_a_line():
    @objective("uncertainty")
    def uncertainty(model, batch, outputs):
        return -(outputs.softmax(1) * outputs.log_softmax(1)).sum(1).mean()

    assert uncertainty.name == "uncertainty" and not uncertainty.weights_only
    assert uncertainty(None, None, torch.zeros(3, 10)).item() == pytest.approx(math.log(10))


def test_a_direct_objective_depends_on_the_weights_alone():
    with pytest.raises(ValueError, match="wrong"):
        Objective("wrong", lambda model: None, direct=True)


def test_a_model_without_weights_to_compress_is_an_error():
    with pytest.raises(ValueError, match="no float convolution"):
        objectives.l1(nn.BatchNorm2d(3), None, None)
