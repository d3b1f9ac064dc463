import dataclasses
import logging

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from studylib import settings
from studylib.experiments.svd import fisher
from studylib.networks import blocks, layers
from studylib.networks import factors as networks_factors
from studylib.techniques import svd
from studylib.techniques.svd import factorize, rank_for


def linear(in_features, out_features, seed=0, bias=True):
    layer = nn.Linear(in_features, out_features, bias=bias)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.normal_(generator=torch.Generator().manual_seed(seed))
    return layer


def product(factors) -> torch.Tensor:
    return (factors.second.weight.double() @ factors.first.weight.double()).detach()


SIDE = st.integers(1, 12)


@given(rows=SIDE, columns=SIDE, rank=SIDE, seed=st.integers(0, 99))
def test_the_error_is_the_norm_of_the_dropped_singular_values(rows, columns, rank, seed):
    rank = min(rank, rows, columns)
    layer = linear(columns, rows, seed)
    factors = factorize(layer, rank)
    assert factors.first.weight.shape == (rank, columns) and factors.second.weight.shape == (rows, rank)
    weight = layer.weight.detach().double()
    dropped = torch.linalg.svdvals(weight)[rank:]
    error = torch.linalg.norm(weight - product(factors))
    assert error.item() == pytest.approx(torch.linalg.norm(dropped).item(), rel=1e-4, abs=1e-5)


@given(rows=SIDE, columns=SIDE, seed=st.integers(0, 99), bias=st.booleans())
def test_full_rank_reproduces_the_outputs(rows, columns, seed, bias):
    layer = linear(columns, rows, seed, bias)
    x = torch.randn(5, columns, generator=torch.Generator().manual_seed(seed))
    factors = factorize(layer, min(rows, columns))
    assert torch.allclose(factors(x), layer(x), atol=1e-4)
    assert (factors.second.bias is not None) == bias and factors.first.bias is None


def test_the_factors_share_the_singular_values_evenly():
    factors = factorize(linear(9, 7), 4)
    first, second = factors.first.weight.norm(dim=1), factors.second.weight.norm(dim=0)
    assert torch.allclose(first, second, rtol=1e-4)


@pytest.mark.parametrize("rank", [0, -1, 5])
def test_an_impossible_rank_is_named(rank):
    with pytest.raises(ValueError, match=f"rank={rank}: expected 1 to 4"):
        factorize(linear(4, 9), rank)


@pytest.mark.parametrize(
    ("in_features", "out_features", "delta", "rank"),
    [
        (128, 128, 1, 63),
        (128, 64, 1, 41),
        (128, 64, 0, 42),
        (64, 10, 1, 7),
        (16, 10, 99, 1),  # at least 1
        (2, 2, 0, None),  # rank 1 costs 4, as much as the layer
        (1, 100, 1, None),
        (128, 128, 0, None),  # break-even saves nothing
    ],
)
def test_rank_equals_hand_computed_values(in_features, out_features, delta, rank):
    assert rank_for(in_features, out_features, delta) == rank


@given(i=st.integers(1, 300), o=st.integers(1, 300), delta=st.integers(0, 5))
def test_a_rank_saves_weights_or_is_none(i, o, delta):
    rank = rank_for(i, o, delta)
    if rank is None:
        assert max(1, i * o // (i + o) - delta) * (i + o) >= i * o
    else:
        assert 1 <= rank <= min(i, o) and rank * (i + o) < i * o


def test_negative_delta_is_named(student_model):
    with pytest.raises(ValueError, match="delta=-1"):
        svd.apply(student_model, delta=-1)


@pytest.mark.parametrize("delta", [-1, 4097, 1.0])
def test_a_delta_out_of_bounds_is_named(delta):
    with pytest.raises(settings.SettingError, match=f"svd.delta={delta}: expected"):
        settings.read(svd.Factorization, {"delta": delta}, "svd")
    assert settings.read(svd.Factorization, {}, "svd").delta == 1  # the paper's


def test_linear_layers_are_factorized_and_convolutions_are_not(student_model, digits, same_tensors):
    before = layers.duplicate(student_model)
    made = svd.apply(student_model, digits, delta=1)
    for name in ("fc1", "fc2", "fc3"):
        layer, old = made.get_submodule(name), student_model.get_submodule(name)
        assert isinstance(layer, networks_factors.LowRankLinear)
        assert layer.first.out_features == rank_for(old.in_features, old.out_features)
        assert torch.equal(layer.second.bias, old.bias)
    assert same_tensors(made.features, student_model.features)
    assert same_tensors(student_model, before) and student_model.spec == before.spec
    count = lambda model: sum(p.numel() for p in model.parameters())  # noqa: E731
    assert count(made) < count(student_model)


def test_the_densenets_one_linear_layer_is_factorized(teacher_model):
    made = svd.apply(teacher_model)
    assert made.spec["changes"][-1]["structure"]["ranks"] == {
        "classifier": rank_for(teacher_model.classifier.in_features, 10)
    }


def test_layers_that_no_rank_makes_smaller_are_left_alone_and_recorded(new_student, caplog):
    model = new_student(hidden=[2, 2])
    with caplog.at_level(logging.INFO, "studylib"):
        made = svd.apply(model, delta=0)
    assert made.spec["changes"] == [
        {
            "technique": "svd",
            "delta": 0,
            "left_alone": ["fc2"],
            "structure": {"module": "lowrank", "ranks": {"fc1": 1, "fc3": 1}},
        }
    ]
    assert torch.equal(made.fc2.weight, model.fc2.weight)
    assert "fc2 (2 → 2) is left alone" in caplog.text


def test_int8_layers_are_left_as_they_are(int8_model, same_tensors):
    made = svd.apply(int8_model)
    assert same_tensors(made, int8_model)
    assert made.spec["changes"][-1]["structure"]["ranks"] == {}


@pytest.mark.parametrize(("ranks", "named"), [({"features.0.conv": 1}, "features.0.conv"), ({"fc1": 17}, "fc1.*17")])
def test_restructuring_what_does_not_fit_is_refused(new_student, ranks, named):
    with pytest.raises(blocks.SpecError, match=named):
        networks_factors.restructure(new_student(), {"module": "lowrank", "ranks": ranks})


# --- weighted by Fisher information -----------------------------------------------------------------------------


@given(rows=SIDE, columns=SIDE, rank=SIDE, seed=st.integers(0, 99))
def test_weighted_factors_have_the_least_weighted_error(rows, columns, rank, seed):
    rank = min(rank, rows, columns)
    layer = linear(columns, rows, seed)
    importance = 0.1 + torch.rand(columns, generator=torch.Generator().manual_seed(seed))
    weight, scale = layer.weight.detach().double(), (importance / importance.max()).double().sqrt()

    def weighted_error(factors):
        return torch.linalg.norm((weight - product(factors)) * scale).item()

    found = weighted_error(factorize(layer, rank, importance))
    assert found == pytest.approx(torch.linalg.svdvals(weight * scale)[rank:].norm().item(), rel=1e-4, abs=1e-5)
    assert found <= weighted_error(factorize(layer, rank)) + 1e-5


def test_equal_importance_changes_nothing():
    layer = linear(9, 7)
    assert torch.allclose(product(factorize(layer, 4, torch.full((9,), 3.0))), product(factorize(layer, 4)), atol=1e-6)


def test_inputs_of_no_importance_do_no_harm():
    layer = linear(6, 5)
    importance = torch.tensor([1.0, 0.0, 1.0, 0.0, 1.0, 1.0])
    factors = factorize(layer, 4, importance)
    assert torch.isfinite(product(factors)).all()
    alive = importance > 0
    assert torch.allclose(
        product(factors)[:, alive], layer.weight.detach().double()[:, alive], atol=1e-3
    )  # rank 4 suffices
    assert torch.isfinite(product(factorize(layer, 2, torch.zeros(6)))).all()


@pytest.mark.parametrize("importance", [torch.ones(5), torch.tensor([1.0, -1, 1, 1, 1, 1])], ids=["shape", "negative"])
def test_importance_that_does_not_fit_is_refused(importance):
    with pytest.raises(ValueError, match="expected 6 numbers"):
        factorize(linear(6, 5), 2, importance)


def test_fisher_information_is_the_mean_squared_gradient(student_model, digits):
    few = dataclasses.replace(digits, train=digits.train.take(slice(12)))
    found = fisher(student_model, few, batch_size=5)
    assert list(found) == ["fc1", "fc2", "fc3"]
    model, total = layers.duplicate(student_model).eval(), {name: 0 for name in found}
    for image, label in zip(few.train.images, few.train.labels, strict=True):
        model.zero_grad()
        torch.nn.functional.cross_entropy(model(few.normalize(image[None])), label[None]).backward()
        for name in found:
            total[name] = total[name] + model.get_submodule(name).weight.grad ** 2
    for name, information in found.items():
        assert torch.allclose(information, total[name].sum(0) / len(few.train), rtol=1e-4, atol=1e-7)


def test_a_model_is_factorized_with_importance(student_model, digits):
    plain = svd.apply(student_model, delta=3)
    weighted = svd.apply(student_model, delta=3, importance=fisher(student_model, digits))
    assert not torch.equal(plain.fc2.second.weight, weighted.fc2.second.weight)
    assert plain.spec["changes"][-1]["structure"] == weighted.spec["changes"][-1]["structure"]
