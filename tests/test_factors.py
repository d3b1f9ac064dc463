"""Tucker and CP factors of convolutions: exact where they can be, and layers like any others."""

import logging
import sys

import pytest
import torch
from torch import nn

from studylib.coding import codec, shipped
from studylib.networks import blocks, factors, layers, ranks, spec
from studylib.techniques import cp, int8, sketch, tucker
from tests.test_sketch import CONVOLUTIONS


@pytest.fixture(autouse=True)
def seeded():
    """New layers are drawn alike in every run."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield


TALL = [layer for layer in CONVOLUTIONS if layer.weight[0, 0].numel() > 1]


def images(layer, size=12):
    return torch.randn(3, layer.in_channels, size, size, generator=torch.Generator().manual_seed(0))


@torch.no_grad()
def off(made, layer):
    return (made(images(layer)) - layer(images(layer))).abs().max()


def cut(weight, mode, rank):
    """Σ of the squared singular values beyond ``rank``, of the unfolding along ``mode``."""
    return float(torch.linalg.svdvals(weight.transpose(0, mode).flatten(1)).square()[rank:].sum())


def whole(made):
    """The weight that the factors of a convolution without groups stand for, float64."""
    first, *middle, last = (part.weight.detach().double() for part in made)
    if isinstance(made, factors.TuckerConv):
        return torch.einsum("ri,orkl,po->pikl", first[:, :, 0, 0], *middle, last[:, :, 0, 0])
    column, row = middle
    return torch.einsum("ri,rk,rl,or->oikl", first[:, :, 0, 0], column[:, 0, :, 0], row[:, 0, 0], last[:, :, 0, 0])


def error(made, layer):
    """Σ of the squared errors of ``made``'s weight."""
    return float((whole(made) - layer.weight.detach().double()).square().sum())


# --- Tucker -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("layer", TALL, ids=str)
def test_tucker_at_full_rank_is_exact(layer):
    made = tucker.factorize(layer, layer.in_channels // layer.groups, layer.out_channels // layer.groups)
    assert off(made, layer) <= 1e-5
    assert [part.bias is None for part in made] == [True, True, layer.bias is None]


@pytest.mark.parametrize("into, out", [(1, 1), (3, 4), (6, 2), (2, 9)])
def test_tuckers_error_is_between_that_of_one_unfolding_and_that_of_both(into, out):
    layer = nn.Conv2d(6, 10, 3)
    made, weight = tucker.factorize(layer, into, out), layer.weight.detach().double()
    one, other = cut(weight, 0, out), cut(weight, 1, into)
    assert max(one, other) * (1 - 1e-5) <= error(made, layer)
    assert error(made, layer) <= (one + other) * (1 + 1e-5)  # De Lathauwer et al. 2000, property 10
    first = made.first.weight.detach()[:, :, 0, 0]
    assert torch.allclose(first @ first.T, torch.eye(into), atol=1e-5)


def test_iterations_bring_tucker_nearer_than_one_does():
    layer = nn.Conv2d(12, 12, 3, padding=1, bias=False)
    once, often = (error(tucker.factorize(layer, 2, 3, iterations=n), layer) for n in (1, 50))
    assert often < once


@pytest.mark.parametrize(
    ("into", "out", "message"), [(0, 1, "into=0: expected 1 to 3"), (3, 9, "out=9: expected 1 to 8")]
)
def test_an_impossible_rank_of_tucker_is_named(into, out, message):
    with pytest.raises(ValueError, match=message):
        tucker.factorize(nn.Conv2d(6, 16, 3, groups=2), into, out)


# --- CP -----------------------------------------------------------------------------------------------------------


def of_rank(layer, rank):
    """``layer`` with a weight that is a sum of ``rank`` products of vectors, in each group."""
    draw, groups = torch.Generator().manual_seed(1), []
    for weight in factors.groups_of(layer):
        sides = [torch.randn(side, rank, generator=draw) for side in weight.shape]
        groups.append(torch.einsum("or,ir,kr,lr->oikl", *sides))
    with torch.no_grad():
        layer.weight.copy_(torch.cat(groups))
    return layer


@pytest.mark.parametrize("layer", TALL, ids=str)
@pytest.mark.parametrize("rank", [2, 3])
def test_cp_reproduces_a_weight_that_is_a_sum_of_as_many_terms(layer, rank):
    layer = of_rank(layers.duplicate(layer), rank)
    made = cp.factorize(layer, rank, iterations=1000)
    assert off(made, layer) <= 1e-5 * layer(images(layer)).abs().max()
    assert [part.bias is None for part in made] == [True, True, True, layer.bias is None]
    norms = [part.weight.flatten(1).norm(dim=1) for part in (made.column, made.row)]
    assert torch.allclose(*norms, rtol=1e-4)  # a term's vectors are of one norm


def test_more_terms_and_iterations_make_cp_nearer():
    layer = nn.Conv2d(6, 8, 3, padding=1, bias=False)
    rough, more, longer = (cp.factorize(layer, *how) for how in ((4, 3), (30, 3), (4, 300)))
    assert error(more, layer) < 0.5 * error(rough, layer) and error(longer, layer) < error(rough, layer)


@pytest.mark.parametrize("rank", [0, 433])
def test_an_impossible_rank_of_cp_is_named(rank):
    with pytest.raises(ValueError, match=f"rank={rank}: expected 1 to 432"):
        cp.factorize(nn.Conv2d(6, 8, 3), rank)


# --- both ---------------------------------------------------------------------------------------------------------

WAYS = {
    "tucker": (tucker.apply, lambda layer: tucker.factorize(layer, 2, 3)),
    "cp": (cp.apply, lambda layer: cp.factorize(layer, 3, 10)),
    "sketch": (sketch.apply, lambda layer: sketch.factorize(layer, 3, generator=torch.Generator().manual_seed(0))),
}


@pytest.mark.parametrize("name", WAYS)
def test_a_weight_of_zeros_has_factors_that_give_zeros(name):
    layer = nn.Conv2d(4, 5, 3)
    nn.init.zeros_(layer.weight)
    assert off(WAYS[name][1](layer), layer) == 0


@pytest.mark.parametrize("name", WAYS)
def test_factors_of_a_weight_that_is_not_finite_are_refused(name):
    layer = nn.Conv2d(4, 5, 3)
    with torch.no_grad():
        layer.weight[0, 0, 0, 0] = torch.inf
    with pytest.raises(ValueError, match="weight: holds a number that is not finite"):
        WAYS[name][1](layer)


@pytest.mark.parametrize("name", WAYS)
def test_the_batch_norm_comes_behind_the_last_factor(name, student_model):
    made = WAYS[name][0](student_model, rank=3)
    its = made.features[2]
    assert isinstance(its.last, blocks.ConvUnit) and its.last.conv.kernel_size == (1, 1)
    assert torch.equal(its.last.norm.running_mean, student_model.features[2].norm.running_mean)
    assert isinstance(student_model.features[2], blocks.ConvUnit)
    folded = shipped.apply(made)
    assert not any(isinstance(module, nn.BatchNorm2d) for module in folded.modules())
    x = torch.randn(8, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert torch.allclose(folded(x), made(x), atol=1e-4)


def test_with_nearly_all_energy_a_network_gives_nearly_the_same(digits):
    model = spec.create("vgg", 0, **digits.model_args, width=8).eval()
    with torch.no_grad():
        for name, candidate in ranks.candidates(model, "tucker").items():
            layer = model.get_submodule(name)
            full = tucker.factorize(layer, *(max(1, len(values) // 3) for values in candidate.values))
            layer.weight.copy_(whole(full))
    made = tucker.apply(model, energy=1 - 1e-9)
    assert len(made.spec["changes"][-1]["structure"]["ranks"]) >= 4
    x = digits.normalize(digits.validation.images[:64])
    with torch.no_grad():
        assert (made(x) - model(x)).abs().max() <= 1e-4 * model(x).abs().max()


def test_a_file_of_factors_is_decoded_without_tensorly(student_model, digits, monkeypatch):
    made = cp.apply(tucker.apply(student_model, rank=3), share=0.9, iterations=3)
    file, x = codec.encode(made), digits.normalize(digits.validation.images[:32])
    for name in ("tensorly", "tensorly.decomposition"):
        monkeypatch.setitem(sys.modules, name, None)  # its import fails from here on
    with pytest.raises(ImportError):
        tucker.factorize(nn.Conv2d(3, 3, 3), 1, 1)
    with torch.no_grad():
        assert torch.equal(codec.decode(file)(x), shipped.apply(made)(x))


def test_factors_are_quantized_as_any_layers(student_model, digits):
    made = sketch.apply(tucker.apply(student_model, rank=6), energy=0.99)
    assert {"features.2.first", "features.2.core", "features.2.last.conv"} <= layers.weight_layers(made).keys()
    small = int8.apply(made, digits, calibration_images=128)
    x = digits.normalize(digits.validation.images)
    with torch.no_grad():
        same = (small(x).argmax(1) == made(x).argmax(1)).float().mean()
    assert same > 0.95 and len(codec.encode(small)) < 0.5 * len(codec.encode(made))


def test_int8_layers_are_left_as_they_are(int8_model, same_tensors):
    for apply, _ in WAYS.values():
        made = apply(int8_model)
        assert same_tensors(made, int8_model) and made.spec["changes"][-1]["structure"]["ranks"] == {}


def test_what_has_no_kernels_is_left_alone_and_named(student_model, caplog):
    with caplog.at_level(logging.INFO, "studylib"):
        tucker.apply(student_model)
    assert all(f"{name} is left alone: it has no kernels" in caplog.text for name in ("fc1", "fc2", "fc3"))


HOSTILE = [
    ("tucker", {"features.0.conv": [1]}, r"features.0.conv: ranks \[1\]: expected 2 from 1 to 72"),
    ("tucker", {"features.0.conv": [0, 1]}, r"ranks \[0, 1\]: expected 2 from 1"),
    ("cp", {"features.0.conv": [73]}, r"ranks \[73\]: expected 1 from 1 to 72"),
    ("cp", {"features.0.conv": [1.5]}, r"ranks \[1.5\]"),
    ("cp", {"features.0.conv": 3}, "does not build: TypeError"),
    ("cp", {"fc1": [2]}, "fc1: Linear: there are no factors 'cp' of it"),
    ("matrix", {"features.0.norm": [2]}, "BatchNorm2d: there are no factors 'matrix' of it"),
    ("qr", {"fc1": [2]}, "Linear: there are no factors 'qr' of it"),
    ("matrix", {"fc9": [2]}, "fc9"),
    (["cp"], {"fc1": [2]}, "does not build|no factors"),
]


@pytest.mark.parametrize(("kind", "its", "message"), HOSTILE, ids=str)
def test_factors_that_no_layer_has_are_refused(kind, its, message, new_student):
    change = {"technique": "x", "structure": {"module": "factors", "kind": kind, "ranks": its}}
    with pytest.raises(blocks.SpecError, match=message):
        spec.build({**new_student().spec, "changes": [change]})
