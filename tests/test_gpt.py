"""A transformer of characters: its layers, and what training, techniques and files do with it as with classifiers."""

import dataclasses
import functools

import pytest
import torch
import torch.nn.functional as F
from properties import PROPERTIES, Made

from studylib.coding import codec, shipped
from studylib.data import text
from studylib.experiments.svd import fisher
from studylib.networks import cost, int8_layers, layers, pt2e, slicing, spec
from studylib.networks.blocks import SpecError
from studylib.techniques import distill, dynamic, int4, int8, oneshot, prune, svd, teacher
from studylib.training import deadline, loop
from studylib.training.recipe import Recipe
from studylib.tree.node import Node

QUICK = Recipe(epochs=3, lr=1e-2, batch_size=32)
ONCE = dataclasses.replace(QUICK, epochs=1)
SMALL = {"width": 16, "depth": 2, "heads": 2}


@pytest.fixture(scope="module")
def pages():
    return text.load(text.Corpus(characters=12_000, context=16))


@pytest.fixture
def new(pages):
    return lambda: spec.create("gpt", 0, **pages.model_args, **SMALL)


@pytest.fixture(scope="module")
def trained(pages):
    """One with its history. Shared: copy it before changing it."""
    model = spec.create("gpt", 0, **pages.model_args, **SMALL)
    model.history = loop.fit(model, pages, QUICK, seed=0)
    model = spec.with_change(model, "teacher", {"epochs": 3}, history=model.history)
    model.spec = {**model.spec, "input": pages.scaling}
    return model


@pytest.fixture(scope="module")
def sparse(trained):
    """Half of its weights are zero; nothing reads three features of a perceptron, and two of it are always zero."""
    model = oneshot.apply(trained, sparsity=0.5)
    with torch.no_grad():
        block = model.blocks[1]
        block.narrow.weight[:, :3] = 0
        block.widen.weight[7:9], block.widen.bias[7:9] = 0, 0
    return model


def without_seconds(history):
    return [{k: v for k, v in row.items() if k != "seconds"} for row in history]


# --- the network ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("args", [{"width": 0}, {"depth": 0}, {"context": 0}, {"width": 6, "heads": 4}], ids=str)
def test_a_transformer_that_cannot_be_is_refused_by_name(args):
    (name, value), *_ = args.items()
    with pytest.raises(SpecError, match=f"gpt .*{name}={value}"):
        spec.create("gpt", 0, **args)


def test_a_character_is_told_from_those_before_it_alone(new, pages):
    model, blocks = new().eval(), pages.test.images.clone()
    before = model(blocks)
    blocks[:, 9] = (blocks[:, 9] + 1) % len(pages.classes)
    after = model(blocks)
    assert torch.equal(before[:, :9], after[:, :9]) and not torch.equal(before[:, 9:], after[:, 9:])
    assert torch.allclose(model(blocks[:, :5]), after[:, :5], atol=1e-5)


def test_it_computes_what_equations_say(new, pages):
    """Attention written out: softmax(Q Kᵀ / √d + mask) V, head by head; embeddings as tables."""
    model, x = new().eval(), pages.test.images.long()
    count, time = x.shape
    y = model.token.weight.T[x] + model.place.weight.T[:time]
    for block in model.blocks:
        parts = block.attention.queries_keys_values(block.before(y)).split(16, dim=2)
        heads = []
        for i in (0, 1):
            q, k, v = (part[..., 8 * i : 8 * i + 8] for part in parts)
            scores = (q @ k.transpose(1, 2)) / 8**0.5 + torch.full((time, time), -torch.inf).triu(1)
            heads.append(scores.softmax(-1) @ v)
        y = y + block.attention.mix(torch.cat(heads, dim=2))
        y = y + block.narrow(F.gelu(block.widen(block.between(y))))
    assert torch.allclose(model(x), model.head(model.norm(y)), atol=1e-5)
    assert count == len(x)


def test_words_make_one_as_they_make_classifiers(pages):
    kind, args = spec.described("gpt 3-24", {"name": "convnet", "args": {}}, pages.model_args)
    assert (kind, args) == ("gpt", {"depth": 3, "width": 24, **pages.model_args})
    assert len(spec.create(kind, 0, **args).blocks) == 3


def test_its_work_is_counted_with_attention(new, pages):
    model = new()
    linear = 16 * sum(layer.weight.numel() for layer in layers.weight_layers(model).values())
    assert cost.multiply_adds(model, pages.model_args) == linear + 2 * 2 * 16 * 16 * 16  # Q Kᵀ and the mean of V


def test_features_that_nothing_reads_are_sliced_away(sparse, pages):
    form = shipped.apply(sparse)
    assert form.blocks[1].widen.weight.shape == (64 - 5, 16) and form.blocks[1].narrow.weight.shape == (16, 64 - 5)
    assert torch.allclose(*(text.bits(model, pages.test, pages) for model in (form, sparse)), atol=1e-4)


def test_a_sliced_head_is_none(trained):
    """All rows of a head's queries are zero: without them the heads would be of other sizes."""
    model = layers.duplicate(trained)
    with torch.no_grad():
        model.blocks[0].attention.queries_keys_values.weight[:8] = 0
    assert slicing.slice_channels(layers.duplicate(model)) == 0


def test_int8_is_what_pt2e_computes_bit_for_bit(sparse, pages):
    blocks = pages.train.images[:64]
    graph = pt2e.convert(layers.duplicate(sparse), blocks)
    ours = pt2e.from_pt2e(sparse, graph)
    assert torch.equal(graph(blocks), ours(blocks)) and not torch.equal(ours(blocks), sparse(blocks))
    assert all(layer.weight.dtype == torch.int8 for layer in layers.weight_layers(ours).values())


# --- training ---------------------------------------------------------------------------------------------------


def test_a_training_descends_bits_and_keeps_its_best_epoch(trained, pages):
    rows = trained.history
    assert rows[-1]["val_bits_per_char"] < rows[0]["val_bits_per_char"] < 6.5  # of about 90 characters alike
    best = [row for row in rows if row["best"]][-1]
    assert pages.task.score_of(trained, pages.validation, pages) == best["val_bits_per_char"]
    assert rows[0]["train_bits_per_char"] == pytest.approx(rows[0]["train_loss"] / torch.log(torch.tensor(2.0)).item())


def test_an_interrupted_training_ends_as_if_it_had_not_been(new, trained, pages, tmp_path, monkeypatch):
    options, left = {"seed": 0, "checkpoint": tmp_path / "x.safetensors"}, iter([9.0, 1e-9])
    with monkeypatch.context() as patch:
        patch.setattr(deadline, "left", lambda: next(left))
        with pytest.raises(deadline.Paused, match="epoch 1 of 3"):
            loop.fit(new(), pages, QUICK, **options)
    resumed = new()
    assert without_seconds(loop.fit(resumed, pages, QUICK, **options)) == without_seconds(trained.history)
    for name, tensor in trained.state_dict().items():
        assert torch.equal(resumed.state_dict()[name], tensor), name


def test_a_teacher_and_its_student_are_made_by_the_code_of_classifiers(pages):
    whole = teacher.apply(pages, depth=40, name="gpt 1-16", recipe=ONCE, seed=0)
    student = distill.apply(whole, pages, recipe=ONCE, seed=0, name="gpt 1-8", temperature=2.0)
    assert [change["technique"] for change in student.spec["changes"]] == ["kd"]
    assert student.norm.weight.shape == (8,) and student.history[0]["val_bits_per_char"] < 6.5


def test_a_student_hears_each_place_of_a_block(new, trained, pages):
    student, blocks, labels = new().eval(), pages.train.images[:4], pages.train.labels[:4]
    loss, logits = distill.Distillation(trained, 2.0, 0.7)(student, blocks, labels)
    with torch.no_grad():
        soft = (trained(blocks) / 2).softmax(-1)
        hard = -student(blocks).log_softmax(-1).gather(2, labels[..., None]).mean()
        told = 4 * (soft * (soft.log() - (student(blocks) / 2).log_softmax(-1))).sum(-1).mean()
    assert logits.shape == (4, 16, len(pages.classes))
    assert loss.item() == pytest.approx((0.7 * told + 0.3 * hard).item(), rel=1e-4)


# --- techniques and files ---------------------------------------------------------------------------------------

BLOCKS = {"calibration_images": 64}
GPTQ = {"bits": 3, "group": 8, "rounding": "gptq"}
TECHNIQUES = {
    "prune": lambda model, data, seed: prune.apply(model, data, seed=seed, rounds=2, recipe=ONCE),
    "oneshot, by activation": lambda model, data, seed: oneshot.apply(
        model, data, seed=seed, criterion="activation", **BLOCKS
    ),
    "svd": lambda model, data, seed: svd.apply(model, data),
    "svd, by Fisher information": lambda model, data, seed: svd.apply(model, data, importance=fisher(model, data)),
    "int8": lambda model, data, seed: int8.apply(model, data, seed=seed, **BLOCKS),
    "dynamic": lambda model, data, seed: dynamic.apply(model, data),
    "dynamic, per sample": lambda model, data, seed: dynamic.apply(model, data, per="sample"),
    "int4": lambda model, data, seed: int4.apply(model, data, group=8),
    "int4, by GPTQ": lambda model, data, seed: int4.apply(model, data, seed=seed, **GPTQ, **BLOCKS),
}
OWED = PROPERTIES.keys()


@pytest.fixture(scope="module")
def made(sparse, pages, tmp_path_factory):
    known = {}

    def make(technique: str) -> Made:
        if technique not in known:
            folder = tmp_path_factory.mktemp("made")
            known[technique] = Made.by(TECHNIQUES[technique], sparse, pages, 3, folder)
        return known[technique]

    return make


@pytest.mark.parametrize("technique", TECHNIQUES)
@pytest.mark.parametrize("name", sorted(OWED))
def test_a_technique_owes_it_what_it_owes_a_classifier(made, technique, name):
    if name == "keeps_zeros" and "svd" in technique:
        pytest.skip("its factors are dense")
    PROPERTIES[name](made(technique))


@pytest.mark.parametrize("technique", TECHNIQUES)
def test_a_character_is_predicted_from_those_before_it_alone(made, pages, technique):
    """Whatever follows, and whatever blocks stand beside. A range of the whole batch would see both."""
    model, blocks = made(technique).model.eval(), pages.test.images[:6]
    other = torch.cat([blocks[:1, :9], blocks[3:4, 9:]], dim=1)
    with torch.no_grad():
        first, second = (
            model(torch.cat([one, each]))[0, :9] for one, each in ((blocks[:1], blocks[1:]), (other, blocks[:5]))
        )
    assert torch.allclose(first, second, atol=1e-6) == (technique != "dynamic")


@pytest.mark.parametrize("technique", ["prune", "svd", "int8", "dynamic", "int4", "int4, by GPTQ"])
def test_a_decoded_file_has_the_same_likelihood_and_writes_the_same_bit_for_bit(made, pages, technique):
    form = shipped.apply(made(technique).model)
    decoded = codec.decode(codec.encode(form))
    both = [text.bits(model, pages.test, pages) for model in (form, decoded)]
    assert torch.equal(*both) and both[0].isfinite().all()
    assert text.sampled(form, "The ", 30, 0) == text.sampled(decoded, "The ", 30, 0)


def test_a_node_is_finished_with_bits_per_character(trained, pages, tmp_path, monkeypatch):
    monkeypatch.setattr(Node, "data", pages)
    metrics = Node(tmp_path / "node", "pydoc", 0, device="cpu").finish(layers.duplicate(trained))
    decoded = codec.decode((tmp_path / "node" / "model.slnc").read_bytes())
    found = text.bits(decoded, pages.test, pages)
    assert metrics["test_bits_per_char"] == found.double().mean().item()
    assert 0 < metrics["bytes_file_float16"] < metrics["bytes_file"] and metrics["val_bits_per_char"] > 0
    assert decoded.spec["input"] == {"alphabet": "".join(pages.classes)}


# --- Fisher information and GPTQ --------------------------------------------------------------------------------


def test_fisher_information_is_the_mean_squared_gradient_of_blocks(trained, pages):
    few = dataclasses.replace(pages, train=pages.train.take(slice(5)))
    found, model = fisher(trained, few, batch_size=2), layers.duplicate(trained)
    exact = {name: 0 for name in layers.weight_layers(model)}
    for i in range(5):
        model.zero_grad()
        logits = model(few.train.images[i : i + 1])
        F.cross_entropy(logits[0], few.train.labels[i], reduction="sum").backward()
        for name, layer in layers.weight_layers(model).items():
            exact[name] = exact[name] + layer.weight.grad.square().sum(0) / 5
    for name, expected in exact.items():
        assert torch.allclose(found[name], expected, rtol=1e-3, atol=1e-7), name


def test_with_inputs_that_are_not_related_gptq_rounds_to_the_nearest():
    weight = torch.randn(6, 20, generator=torch.Generator().manual_seed(0))
    whole, scales = int4.corrected(weight, torch.eye(20, dtype=torch.float64), 3, 4)
    rows = weight.view(24, 5)
    expected = int4.steps(rows, 3)
    assert torch.equal(scales, expected.view(6, 4))
    assert torch.equal(whole.float(), int4.integers(rows, expected, 3).view(6, 20))


def test_groups_are_rounded_as_torchao_rounds_them_by_these_scales():
    from torchao.quantization.quant_primitives import quantize_affine

    rows = torch.randn(24, 5, generator=torch.Generator().manual_seed(2))
    scales = int4.steps(rows, 4)
    found = quantize_affine(rows.view(6, 20), (1, 5), scales.view(6, 4), torch.zeros(6, 4), torch.int8, -7, 7)
    assert torch.equal(found.float(), int4.integers(rows, scales, 4).view(6, 20))


def test_gptq_is_optimal_brain_surgery_with_its_inverse_written_out():
    """Each step by the inverse Hessian of the columns that are left, computed anew."""
    draw = torch.Generator().manual_seed(1)
    weight, x, mixed = (torch.randn(count, 9, generator=draw) for count in (4, 30, 9))
    moment = mixed.double().T @ (x.T @ x).double() @ mixed.double()
    whole, scales = int4.corrected(weight, moment, 4, 1)
    hessian = moment + int4.DAMPING * moment.diagonal().mean() * torch.eye(9, dtype=torch.float64)
    left, scale = weight.double().clone(), int4.steps(weight, 4)
    for column in range(9):
        inverse = torch.linalg.inv(hessian[column:, column:])
        rounded = (left[:, column] / scale[:, 0]).round().clamp(-7, 7)
        assert torch.equal(rounded, whole[:, column])
        error = (left[:, column] - rounded * scale[:, 0]) / inverse[0, 0]
        left[:, column:] -= error[:, None] * inverse[0]
    assert torch.equal(scales, scale)


def test_gptq_makes_outputs_nearer_though_weights_are_farther(trained, pages):
    near, ours = (
        int4.apply(trained, pages, bits=3, group=8, rounding=rounding, **BLOCKS) for rounding in ("nearest", "gptq")
    )
    gaps = {"weights": [], "outputs": []}
    inputs = functools.partial(int4._second_moment, images=pages.train.images)
    for model in (near, ours):
        pairs = {n: (m, trained.get_submodule(n)) for n, m in layers.weight_layers(model).items()}
        off = {n: (m.dequantized_weight() - given.weight).double() for n, (m, given) in pairs.items()}
        gaps["weights"].append(sum(each.square().sum().item() for each in off.values()))
        gaps["outputs"].append(sum((e @ inputs(model, pairs[n][0]) * e).sum().item() for n, e in off.items()))
    assert gaps["weights"][0] < gaps["weights"][1] and gaps["outputs"][1] < 0.8 * gaps["outputs"][0]


def test_gptq_without_data_is_refused(trained):
    with pytest.raises(ValueError, match="rounding='gptq': expected data"):
        int4.apply(trained, rounding="gptq")
    assert all(
        isinstance(layer, int8_layers.Int8Linear) for layer in layers.weight_layers(int4.apply(trained)).values()
    )
