"""Ranks by a share of the energy, by a budget of bytes, or given; only where factors save parameters."""

import logging

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from studylib import settings
from studylib.networks import factors, layers, ranks, spec
from studylib.techniques import cp, sketch, tucker

SIZES = {"in_channels": 1, "image_size": 8, "classes": 10}
KINDS = list(factors.KINDS)


def network(name="convnet", **args):
    wide = {"convnet": {"widths": [8, 12, 16], "hidden": [24, 20]}, "resnet": {"depth": 8, "width": 6}}[name]
    return spec.create(name, 0, **SIZES, **(wide | args)).eval()


def bytes_of(model):
    return 4 * sum(parameter.numel() for parameter in model.parameters())


def factorized(model, kind, chosen):
    """``model`` with empty factors; their bytes are counted."""
    new = layers.duplicate(model)
    factors.factorize(new, {"kind": kind, "ranks": chosen})
    return new


@given(values=st.lists(st.floats(0.01, 100), min_size=1, max_size=20), energy=st.floats(0.01, 1))
def test_a_rank_is_the_least_that_keeps_the_energy(values, energy):
    values = torch.tensor(sorted(values, reverse=True), dtype=torch.float64)
    model = nn.Linear(1, 1)
    found = {"a": ranks.Candidate([values], 10**6, lambda r: r[0])}
    ((rank,),) = ranks.choose(model, found, energy=energy).values()
    kept = values.square().cumsum(0) / values.square().sum()
    assert kept[rank - 1] >= energy - 1e-12
    assert rank == 1 or kept[rank - 2] < energy


def test_shares_rise_to_one_and_zeros_have_all_of_it_at_rank_one():
    assert ranks.shares(torch.tensor([2.0, 1.0, 1.0])) == pytest.approx([4 / 6, 5 / 6, 1])
    assert ranks.shares(torch.zeros(3)) == [1, 1, 1]


@pytest.mark.parametrize("name", ["convnet", "resnet"])
def test_the_singular_values_are_those_of_the_flattened_weights(name):
    model = network(name)
    for kind, flat in (("matrix", [0]), ("tucker", [1, 0])):
        for layer, candidate in ranks.candidates(model, kind).items():
            weight = model.get_submodule(layer).weight.detach()
            expected = [torch.linalg.svdvals(weight.transpose(0, side).flatten(1).double()) for side in flat]
            for found, wanted in zip(candidate.values, expected, strict=True):
                assert torch.allclose(found, wanted)


def test_groups_share_their_ranks_by_the_energy_of_all():
    model = nn.Sequential(nn.Conv2d(6, 8, 3, groups=2))
    (candidate,) = ranks.candidates(model, "tucker").values()
    halves = model[0].weight.detach().double().chunk(2)
    expected = torch.stack([torch.linalg.svdvals(half.flatten(1)) for half in halves]).square().sum(0).sqrt()
    assert torch.allclose(candidate.values[1], expected) and len(candidate.values[0]) == 3


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ["convnet", "resnet"])
def test_a_layer_is_chosen_where_its_factors_have_fewer_parameters(name, kind, caplog):
    model = network(name)
    for energy in (0.3, 0.7, 1.0):
        with caplog.at_level(logging.INFO, "studylib"):
            caplog.clear()
            found = ranks.candidates(model, kind)
            chosen = ranks.choose(model, found, energy=energy)
        for layer, candidate in found.items():
            assert candidate.dense == sum(p.numel() for p in model.get_submodule(layer).parameters())
            one = factorized(model, kind, {layer: chosen[layer]}) if layer in chosen else model
            saved = bytes_of(model) - bytes_of(one)
            assert saved == (4 * (candidate.dense - candidate.parameters(chosen[layer])) if layer in chosen else 0)
            assert (saved > 0) == (layer in chosen)
        left = layers.weight_layers(model).keys() - chosen.keys()
        assert all(f"{layer} is left alone" in caplog.text for layer in left)
        assert not any(f"{layer} is left alone" in caplog.text for layer in chosen)
    assert ranks.choose(model, found, energy=0.3)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("share", [0.95, 0.85])
def test_a_budget_is_kept_and_used_as_far_as_one_energy_for_all_goes(kind, share):
    model = network()
    found, budget = ranks.candidates(model, kind), int(share * bytes_of(model))
    chosen = ranks.choose(model, found, budget=budget)
    assert chosen and bytes_of(factorized(model, kind, chosen)) <= budget
    shares = {name: [ranks.shares(values) for values in each.values] for name, each in found.items()}
    kept = [s[r - 1] for name, each in chosen.items() for s, r in zip(shares[name], each, strict=True)]
    levels = sorted({share for its in shares.values() for each in its for share in each})
    level = max(level for level in levels if ranks.choose(model, found, energy=level) == chosen)
    assert min(kept) >= level
    above = ranks.choose(model, found, energy=levels[levels.index(level) + 1])
    assert bytes_of(factorized(model, kind, above)) > budget


@pytest.mark.parametrize("kind", KINDS)
def test_what_fits_already_is_left_as_it_is_and_what_cannot_is_refused(kind):
    model = network()
    found = ranks.candidates(model, kind)
    assert ranks.choose(model, found, budget=bytes_of(model)) == {}
    least = bytes_of(factorized(model, kind, ranks.choose(model, found, rank=1)))
    smallest = ranks.choose(model, found, budget=least)
    assert bytes_of(factorized(model, kind, smallest)) == least
    with pytest.raises(ValueError, match=f"budget={least - 1}: expected at least {least}, which rank 1 takes"):
        ranks.choose(model, found, budget=least - 1)


def test_a_given_rank_is_that_of_every_layer_that_has_it():
    model = network()
    chosen = ranks.choose(model, ranks.candidates(model, "tucker"), rank=3)
    assert chosen == {"features.0.conv": [1, 3], "features.2.conv": [3, 3], "features.4.conv": [3, 3]}
    chosen = ranks.choose(model, ranks.candidates(model, "matrix"), rank=5)
    assert chosen == {f"features.{i}.conv": [5] for i in (2, 4)} | {f"fc{i}": [5] for i in (1, 2, 3)}


BAD = [
    ({"energy": 0.0}, "energy=0.0: expected above 0"),
    ({"energy": 1.5}, "energy=1.5: expected at most 1"),
    ({"budget": -1}, "budget=-1: expected at least 0"),
    ({"rank": 4097}, "rank=4097: expected at most 4096"),
    ({"rank": 2, "budget": 9}, "rank=2: expected 0 beside budget=9"),
    ({"budget": 9}, "budget=9: expected at least"),
]
WAYS = {"tucker": (tucker.apply, tucker.Tucker), "cp": (cp.apply, cp.CP), "sketch": (sketch.apply, sketch.Sketch)}


@pytest.mark.parametrize("name", WAYS)
@pytest.mark.parametrize(("wrong", "message"), BAD, ids=str)
def test_a_setting_out_of_range_is_named(name, wrong, message):
    (apply, kind), energy = WAYS[name], "share" if name == "cp" else "energy"
    wrong = {energy if key == "energy" else key: value for key, value in wrong.items()}
    message = message.replace("energy=", f"{energy}=")
    with pytest.raises(ValueError, match=message):
        apply(network(), **wrong)
    if wrong != {"budget": 9}:  # the record knows no network
        with pytest.raises(settings.SettingError, match=f"x.{message}"):
            settings.read(kind, wrong, "x")


@pytest.mark.parametrize("name", WAYS)
def test_every_technique_keeps_its_budget(name):
    model = network()
    budget = int(0.75 * bytes_of(model)) if name == "sketch" else int(0.9 * bytes_of(model))
    made = WAYS[name][0](model, budget=budget)
    assert bytes_of(made) <= budget < bytes_of(model)
    assert made.spec["changes"][-1]["budget"] == budget
