"""A variational autoencoder: its layers, its likelihood, and what training, files and techniques do with both."""

import dataclasses
import math

import pytest
import torch
from properties import PROPERTIES, Made
from torch import nn

from studylib.coding import codec, shipped
from studylib.data import datasets, likelihood
from studylib.experiments import vae
from studylib.networks import layers, pt2e, slicing, spec
from studylib.networks.blocks import SpecError, TransposedConv2d
from studylib.techniques import dynamic, fixed, int4, int8, prune, qat, svd, threshold, tucker
from studylib.training import deadline, loop
from studylib.training.recipe import Recipe
from studylib.tree.node import Node

QUICK = Recipe(epochs=3, lr=1e-2, batch_size=50, augmentation="none")
ONCE = dataclasses.replace(QUICK, epochs=1)


@pytest.fixture(scope="module")
def pixels(digits):
    """The digits, to be learnt as they are; few of them."""
    parts = {"train": digits.train.take(slice(200)), "validation": digits.validation.take(slice(48))}
    return likelihood.of(dataclasses.replace(digits, test=digits.test.take(slice(48)), **parts), samples=4)


@pytest.fixture
def new(pixels):
    return lambda: spec.create("vae", 0, **pixels.model_args, width=4, latent=3)


@pytest.fixture(scope="module")
def trained(pixels):
    """One with its history. Shared: copy it before changing it."""
    model = spec.create("vae", 0, **pixels.model_args, width=4, latent=3)
    model.history = loop.fit(model, pixels, QUICK, seed=0)
    return spec.with_change(model, "teacher", {"epochs": 3}, history=model.history)


@pytest.fixture(scope="module")
def sparse(pixels):
    """Half of its weights are zero, and a channel of each unit is dead."""
    model, draw = spec.create("vae", 0, **pixels.model_args, width=4, latent=3), torch.Generator().manual_seed(0)
    with torch.no_grad():
        for layer in layers.weight_layers(model).values():
            layer.weight += 0.1 * torch.randn(layer.weight.shape, generator=draw)
            layer.weight *= torch.rand(layer.weight.shape, generator=draw) < 0.5
        for name in UNITS:
            unit = model.get_submodule(name)
            unit.norm.running_mean.normal_(0, 0.3, generator=draw)
            unit.norm.running_var.uniform_(0.5, 2, generator=draw)
            unit.conv.weight[1], unit.norm.running_mean[1], unit.norm.bias[1] = 0, 0, -1
    return spec.with_change(model.eval(), "teacher", {"epochs": 0})


UNITS = "encoder.0", "encoder.1", "decoder.0"


def without_seconds(history):
    return [{k: v for k, v in row.items() if k != "seconds"} for row in history]


# --- layers -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("kernel", "stride", "padding"), [(4, 2, 1), (3, 1, 0), (5, 3, 2)])
def test_a_transposed_convolution_is_torchs_with_rows_for_columns(kernel, stride, padding):
    ours, theirs = TransposedConv2d(3, 5, kernel, stride, padding), nn.ConvTranspose2d(3, 5, kernel, stride, padding)
    theirs.load_state_dict({"weight": ours.weight.transpose(0, 1), "bias": ours.bias})
    images = torch.randn(2, 3, 6, 6)
    assert torch.allclose(ours(images), theirs(images), atol=1e-6)


@pytest.mark.parametrize("settings", [{"groups": 2}, {"dilation": 2}, {"padding": "same"}, {"padding_mode": "reflect"}])
def test_a_transposed_convolution_of_another_kind_is_refused(settings):
    with pytest.raises(
        SpecError, match=next(iter(settings.values())) if "mode" in str(settings) else str(settings)[2:7]
    ):
        TransposedConv2d(4, 4, 3, **settings)


@pytest.mark.parametrize("args", [{"image_size": 30}, {"image_size": 2}, {"width": 0}, {"latent": 0}], ids=str)
def test_an_autoencoder_that_cannot_be_is_refused_by_name(args):
    (name, value), *_ = args.items()
    with pytest.raises(SpecError, match=f"vae .*{name}={value}"):
        spec.create("vae", 0, **args)


def test_its_outputs_are_means_deviations_and_logistic_distributions(new, pixels):
    model = new().eval()
    outputs = model(pixels.normalize(pixels.test.images))
    assert outputs.shape == (48, 2 * 3 + 2 * 64)
    mean, deviation, _, _ = likelihood.parts(outputs, pixels.test.images)
    for found, expected in zip((mean, deviation), model.encode(pixels.normalize(pixels.test.images)), strict=True):
        assert torch.equal(found, expected)
    assert torch.equal(model(pixels.normalize(pixels.test.images)), outputs)  # nothing is drawn in evaluation
    model.train()
    torch.manual_seed(0)
    drawn = [model(pixels.normalize(pixels.test.images)) for _ in range(2)]
    assert not torch.equal(*drawn) and torch.equal(drawn[0][:, :6], drawn[1][:, :6])


def test_dead_channels_of_both_kinds_of_convolution_are_sliced_away(sparse, pixels):
    form = shipped.apply(sparse)
    assert form.spec["changes"][-1]["sliced"] == 3
    assert form.decoder[0].conv.weight.shape[:2] == (3, 8) and form.decoder[1].weight.shape[:2] == (2, 3)
    assert type(form.decoder[0].conv) is TransposedConv2d
    with torch.no_grad():
        images = pixels.normalize(pixels.test.images)
        assert torch.allclose(form(images), sparse(images), atol=1e-5)


def test_int8_is_what_pt2e_computes_bit_for_bit(sparse, pixels):
    images = pixels.normalize(pixels.train.images[:64])
    graph = pt2e.convert(layers.duplicate(sparse), images)
    ours = pt2e.from_pt2e(sparse, graph)
    assert torch.equal(graph(images), ours(images)) and not torch.equal(ours(images), sparse(images))
    assert all(layer.weight.dtype == torch.int8 for layer in layers.weight_layers(ours).values())
    again = slicing.in_float64(ours)
    assert torch.allclose(again.decoder[1].weight.float(), sparse.decoder[1].weight, atol=0.01)


@pytest.mark.parametrize(
    "refused",
    [
        lambda model, data: qat.apply(model, data, seed=0, recipe=ONCE, calibration_images=32),
        lambda model, data: fixed.apply(model, data, seed=0, calibration_images=32),
    ],
    ids=["qat", "fixed"],
)
def test_what_has_no_transposed_convolution_refuses_it_by_name(sparse, pixels, refused):
    with pytest.raises(SpecError, match=r"decoder\.0\.conv is TransposedConv2d"):
        refused(sparse, pixels)


# --- likelihood -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [3, 17, 256])
def test_the_probabilities_of_all_levels_are_those_of_their_intervals_and_sum_to_one(count):
    levels = likelihood.grid(count)
    assert likelihood.level_count(levels) == count and levels[-1] == 255
    mean = torch.tensor([[-0.99], [0.1], [3.0], [-1.0]], dtype=torch.float64)
    log_scale = torch.tensor([[-7.0], [-3.0], [0.0], [2.5]], dtype=torch.float64)
    logs = likelihood.log_pixels(mean, log_scale, levels.expand(4, count), count)
    assert torch.allclose(logs.exp().sum(1), torch.ones(4, dtype=torch.float64), atol=1e-12)
    between = (torch.arange(count - 1) + 0.5) * 2 / (count - 1) - 1
    edges = torch.cat([torch.tensor([-torch.inf]), between, torch.tensor([torch.inf])])
    masses = torch.sigmoid((edges.double() - mean) / log_scale.exp()).diff()
    assert torch.allclose(logs.exp(), masses, atol=1e-8)
    assert logs.isfinite().all() and (logs <= 0).all()


def test_a_data_set_is_scored_by_the_levels_that_its_images_have(pixels):
    assert pixels.task.identity == likelihood.task(4, 17).identity != likelihood.task(4).identity
    few = torch.tensor([0, 100, 255], dtype=torch.uint8)  # not at equal distances
    assert likelihood.level_count(few) == likelihood.level_count(few[:1]) == 256
    mean, log_scale = torch.full((1, 1), 0.1), torch.full((1, 1), -3.0)
    near, level = (likelihood.log_pixels(mean, log_scale, torch.tensor([[p]]), 17) for p in (140, 143))
    assert near == level
    assert set(vae.drawn(mean.expand(1, 1000), log_scale + 2, 17).unique().tolist()) <= {*likelihood.grid(17).tolist()}


def test_the_divergence_is_torchs():
    mean, log_deviation = torch.randn(5, 3), torch.randn(5, 3)
    ours = torch.distributions.Normal(mean, log_deviation.exp())
    expected = torch.distributions.kl_divergence(ours, torch.distributions.Normal(0.0, 1.0)).sum(1)
    assert torch.allclose(likelihood.divergence(mean, log_deviation), expected, rtol=1e-5)


def test_the_bound_comes_near_the_likelihood_as_its_draws_grow_many(pixels):
    """One latent number: the integral over it can be taken on a grid."""
    model = spec.create("vae", 0, **pixels.model_args, width=2, latent=1).eval()
    split = pixels.test.take(slice(4))
    z = torch.linspace(-9, 9, 6001)
    with torch.no_grad():
        given = likelihood.log_pixels(*(each[:, None] for each in model.decode(z[:, None])), split.images.flatten(1))
    prior = torch.distributions.Normal(0.0, 1.0).log_prob(z).double()
    exact = (given.double().sum(-1).T + prior).logsumexp(1) + math.log((z[1] - z[0]).item())
    exact = -exact / likelihood.bits_of(split.images)
    one, few, many = (likelihood.bounds(model, split, pixels, k).double() for k in (1, 16, 3000))
    assert torch.equal(one[:, 0], one[:, 1]) and (few[:, 0] < few[:, 1]).all()
    assert torch.allclose(many[:, 0], exact, atol=1e-3)
    assert (many[:, 1] > exact).all()  # the evidence's bound stays beyond
    with pytest.raises(ValueError, match="samples=0"):
        likelihood.bounds(model, split, pixels, 0)


def test_a_training_descends_the_bound_and_keeps_its_best_epoch(trained, pixels):
    rows = trained.history
    assert rows[-1]["val_bits_per_dim"] < rows[0]["val_bits_per_dim"] < 8  # eight bits: all levels alike
    best = [row for row in rows if row["best"]][-1]
    found = pixels.task.scores(pixels.task.predict(trained, pixels.validation, pixels), pixels.validation.labels)
    assert found["bits_per_dim"] == best["val_bits_per_dim"] and found["bits_evidence"] == best["val_loss"]
    assert rows[0]["train_bits_per_dim"] == pytest.approx(rows[0]["train_loss"])


def test_an_interrupted_training_draws_the_noise_that_it_would_have_drawn(new, trained, pixels, tmp_path, monkeypatch):
    options, left = {"seed": 0, "checkpoint": tmp_path / "x.safetensors"}, iter([9.0, 1e-9])
    with monkeypatch.context() as patch:
        patch.setattr(deadline, "left", lambda: next(left))
        with pytest.raises(deadline.Paused, match="epoch 1 of 3"):
            loop.fit(new(), pixels, QUICK, **options)
    torch.manual_seed(123)  # another state than the interrupted process was in
    resumed = new()
    assert without_seconds(loop.fit(resumed, pixels, QUICK, **options)) == without_seconds(trained.history)
    for name, tensor in trained.state_dict().items():
        assert torch.equal(resumed.state_dict()[name], tensor), name


def test_a_training_leaves_torchs_generator_as_it_was(new, pixels):
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    loop.fit(new(), pixels, ONCE, seed=0)
    assert torch.equal(torch.rand(3), expected)


def test_another_number_of_draws_is_another_task(pixels):
    assert likelihood.task(4, 17) is pixels.task and likelihood.task(5, 17).identity != pixels.task.identity


# --- techniques and files ---------------------------------------------------------------------------------------

IMAGES = {"calibration_images": 32}
TECHNIQUES = {
    "threshold": lambda model, data, seed: threshold.apply(model, data, seed=seed),
    "svd": lambda model, data, seed: svd.apply(model, data),
    "int8": lambda model, data, seed: int8.apply(model, data, seed=seed, **IMAGES),
    "int8, 3 bits": lambda model, data, seed: int8.apply(model, data, seed=seed, bits=3, **IMAGES),
    "dynamic": lambda model, data, seed: dynamic.apply(model, data),
    "int4": lambda model, data, seed: int4.apply(model, data),
    "tucker": lambda model, data, seed: tucker.apply(model, data, energy=0.5),
    "prune": lambda model, data, seed: prune.apply(model, data, seed=seed, rounds=2, recipe=ONCE),
}
OWED = PROPERTIES.keys() - {"runs"}  # which asks for classes
DENSE = {"svd", "tucker"}  # factors have no zeros


@pytest.fixture(scope="module")
def made(sparse, pixels, tmp_path_factory):
    known = {}

    def make(technique: str) -> Made:
        if technique not in known:
            folder = tmp_path_factory.mktemp("made")
            known[technique] = Made.by(TECHNIQUES[technique], sparse, pixels, 3, folder)
        return known[technique]

    return make


@pytest.mark.parametrize("technique", TECHNIQUES)
@pytest.mark.parametrize("name", sorted(OWED))
def test_a_technique_owes_it_what_it_owes_a_classifier(made, technique, name):
    if name == "keeps_zeros" and technique in DENSE:
        pytest.skip("its factors are dense")
    PROPERTIES[name](made(technique))


@pytest.mark.parametrize("technique", ["prune", "svd", "int8", "dynamic", "int4"])
def test_a_decoded_file_has_the_same_likelihood_bit_for_bit(made, pixels, technique):
    form = shipped.apply(made(technique).model)
    decoded = codec.decode(codec.encode(form))
    both = [likelihood.bounds(model, pixels.test, pixels) for model in (form, decoded)]
    assert torch.equal(*both) and both[0].isfinite().all()


def test_a_node_is_finished_with_bits_per_dimension(trained, pixels, tmp_path, monkeypatch):
    monkeypatch.setattr(datasets, "load", lambda name, seed: pixels)
    metrics = Node(tmp_path / "node", "digits", 0, device="cpu").finish(layers.duplicate(trained))
    decoded = codec.decode((tmp_path / "node" / "model.slnc").read_bytes())
    found = likelihood.bounds(decoded, pixels.test, pixels, samples=4, count=17).double().mean(0)
    assert metrics["test_bits_per_dim"] == found[0].item() < metrics["test_bits_evidence"] == found[1].item()
    assert metrics["bytes_file"] > 0 and metrics["val_bits_per_dim"] > 0
