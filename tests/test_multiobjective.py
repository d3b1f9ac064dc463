import copy
import dataclasses
import math
import typing
import warnings

import pytest
import torch
import torchjd._mixins
from hypothesis import given
from hypothesis import settings as examples
from hypothesis import strategies as st
from torch import nn
from torchjd.aggregation import PCD, Aggregator, Mean
from torchjd.autojac import backward, jac_to_grad

from studylib import settings
from studylib.data import tasks
from studylib.descent import aggregators, objectives
from studylib.descent.objectives import Objective, objective
from studylib.descent.steps import Descent
from studylib.disk import files
from studylib.experiments.frontier import coded_bytes
from studylib.experiments.moo_hypervolume import hypervolume
from studylib.experiments.moo_objectives import knowledge_alignment, quantization_error
from studylib.experiments.moo_ways import Proximal
from studylib.experiments.teacher import PENALTIES, Penalty
from studylib.networks import layers
from studylib.training import checkpoint as checkpoints
from studylib.training import loop
from studylib.training.recipe import Recipe

QUICK = Recipe(epochs=3, lr=5e-3, batch_size=32)
PAIR = [objectives.cross_entropy, objectives.l1]
SLOW = {"CAGrad", "NashMTL"}  # each call builds a problem for a solver


def without_seconds(history):
    return [{k: v for k, v in row.items() if k != "seconds"} for row in history]


def made(name: str, count: int) -> Aggregator:
    try:
        return aggregators.make(name, count)
    except ImportError as error:
        pytest.skip(str(error))


def integers(*shape: int, seed: int) -> torch.Tensor:
    """Small whole numbers: gradients made of them are exact in float32, in whatever order they are added."""
    return torch.randint(-3, 4, shape, generator=torch.Generator().manual_seed(seed)).float()


def gradient_of(model: nn.Module) -> torch.Tensor:
    return torch.cat([p.grad.flatten() for p in model.parameters()])


def linear(name: str, slope: torch.Tensor) -> Objective:
    """⟨slope, weights⟩: an objective whose gradient is ``slope`` everywhere."""

    def function(model, batch, outputs):
        return (torch.cat([p.flatten() for p in model.parameters()]) * slope).sum()

    return Objective(name, function, weights_only=True)


def step(found: list[Objective], aggregator="PCD", model=None, **options) -> tuple[torch.Tensor, dict]:
    """The gradient that a step on a model of four weights gets, and its row."""
    model = model or nn.Linear(4, 1, bias=False)
    descent = Descent(found, aggregator, **options)
    assert descent.gradients(model, torch.zeros(()), torch.zeros(1), (None, None))
    return gradient_of(model), descent.row()


# --- the same as TorchJD ----------------------------------------------------------------------------------------

KINDS = st.sampled_from(["new", "zero", "same", "opposed", "half", "l1"])


@pytest.mark.parametrize("name", sorted(aggregators.available()))
@examples(max_examples=12)
@given(kinds=st.lists(KINDS, min_size=1, max_size=3), seed=st.integers(0, 999))
def test_the_update_is_that_of_torchjds_own_way(name, kinds, seed):
    if name in SLOW and seed % 3:  # a third of the examples is enough of them
        return
    count = len(kinds) + 1
    if name == "Krum" and count < 3:
        return
    model = nn.Sequential(nn.Linear(3, 2), nn.Linear(2, 2))
    for k, p in enumerate(model.parameters()):
        p.data.copy_(integers(*p.shape, seed=seed + k))
    factors = [integers(4, 2, seed=seed + 10)]
    for k, kind in enumerate(kinds):
        other = {"new": integers(4, 2, seed=seed + 11 + k), "zero": 0 * factors[0], "l1": None}
        other |= {"same": factors[0], "opposed": -factors[0], "half": factors[0] / 2}
        factors.append(other[kind])

    def one(k, factor):
        if factor is None:
            return dataclasses.replace(objectives.l1, name=f"{k}")
        return Objective(f"{k}", lambda model, batch, outputs: (outputs * factor).sum())

    found, batch = [one(k, factor) for k, factor in enumerate(factors)], (integers(4, 3, seed=seed + 9), None)
    descent = Descent(found, made(name, count), seed=seed)
    outputs = model(batch[0])
    assert descent.gradients(model, outputs.sum(), outputs, batch)
    ours = gradient_of(model)

    model.zero_grad()
    outputs = model(batch[0])
    values = [
        sum(p.abs().sum() for p in objectives.weights(model)) if factor is None else (outputs * factor).sum()
        for factor in factors
    ]
    values[0] = values[0] + 0 * sum(p.sum() for p in model.parameters())  # so that each weight is reached
    backward(values, inputs=list(model.parameters()), parallel_chunk_size=1)
    first = torch.cat([p.jac[0].flatten() for p in model.parameters()])
    torch.manual_seed(seed)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            jac_to_grad(list(model.parameters()), made(name, count))
        theirs = gradient_of(model)
    except Exception:
        theirs = torch.full_like(ours, math.nan)
    if theirs.isfinite().all():
        assert torch.allclose(ours, theirs, rtol=1e-5, atol=1e-5 * first.abs().max().item())
        assert name == "PCD" or descent.row()["fallbacks"] == 0
    else:
        assert torch.equal(ours, first)
        assert descent.row()["fallbacks"] == 1


def test_one_backward_pass_through_the_network_for_each_objective_on_outputs(new_student, digits):
    model, passes = new_student().train(), []
    model.fc2.register_full_backward_hook(lambda *_: passes.append(1))
    images, labels = digits.normalize(digits.train.images[:8]), digits.train.labels[:8]
    weight_ones = [objectives.l1, objectives.group_lasso, objectives.nuclear_norm, coded_bytes(4)]
    soft = knowledge_alignment(lambda images: torch.zeros(len(images), 10))
    for found, expected in (([PAIR[0], *weight_ones], 1), ([PAIR[0], soft, *weight_ones], 2), (weight_ones, 0)):
        passes.clear()
        logits = model(images)
        assert Descent(found, "Mean").gradients(model, torch.zeros(()), logits, (images, labels))
        assert len(passes) == expected


# --- what a step does -------------------------------------------------------------------------------------------


def test_pcd_gives_each_secondary_its_share_of_progress():
    g1, g2 = torch.tensor([3.0, 0, 0, 0]), torch.tensor([-1.0, 1, 0, 0])
    found, row = step([linear("a", g1), linear("b", g2)], tau=0.5)
    assert found.norm().item() == pytest.approx(3, rel=1e-5)
    unscaled = g1 / 3 + (0.5 + (1 / math.sqrt(2))) * g2 / math.sqrt(2)  # the closed form for two objectives
    assert torch.allclose(found, 3 * unscaled / unscaled.norm(), atol=1e-5)
    assert row["cosine_b"] == pytest.approx(-1 / math.sqrt(2), rel=1e-5)
    assert (row["ascends_a"], row["ascends_b"], row["skipped"], row["fallbacks"]) == (0, 0, 0, 0)


def test_the_row_has_means_cosines_and_ascents():
    model = nn.Linear(4, 1, bias=False)
    model.weight.data.copy_(torch.tensor([[1.0, 2, 3, 4]]))
    slopes = [torch.tensor(s) for s in ([1.0, 0, 0, 0], [-0.1, 0, 0, 0], [1.0, 1, 0, 0], [0, 0, 0, 2.0])]
    descent = Descent([linear(n, s) for n, s in zip("abcd", slopes, strict=True)], "Mean")
    for _ in range(2):
        assert descent.gradients(model, torch.zeros(()), torch.zeros(1), (None, None))
        descent.after(model, 0.1)
        model.weight.data *= 3
    row = descent.row()
    assert [row[f"value_{n}"] for n in "abcd"] == pytest.approx([2 * 1, 2 * -0.1, 2 * 3, 2 * 8])
    assert [row[f"cosine_{n}"] for n in "bcd"] == pytest.approx([-1, 1 / math.sqrt(2), 0])
    assert [row[f"ascends_{n}"] for n in "abcd"] == [0, 1, 0, 0] and "cosine_a" not in row
    assert descent.row()["value_a"] == 0  # started anew


@given(seed=st.integers(0, 999), scale=st.floats(1e-3, 1e4), name=st.sampled_from(["UPGrad", "Mean", "MGDA", "PCD"]))
def test_normalized_steps_have_the_primarys_length_whatever_the_other_is_multiplied_by(seed, scale, name):
    draw = torch.Generator().manual_seed(seed)
    g1, g2 = torch.randn(2, 4, generator=draw)
    plain, _ = step([linear("a", g1), linear("b", g2)], name, normalize=True)
    scaled, _ = step([linear("a", g1), linear("b", scale * g2)], name, normalize=True)
    assert torch.allclose(plain, scaled, atol=1e-3 * g1.norm().item())
    assert plain.norm().item() == pytest.approx(g1.norm().item(), rel=1e-4)
    rows = torch.stack([g1 / g1.norm(), g2 / g2.norm()])
    expected = aggregators.make(name, 2)(rows)
    assert torch.allclose(plain, expected * g1.norm() / expected.norm(), atol=1e-3 * g1.norm().item())


def test_masked_weights_do_not_take_part():
    mask, masks = torch.tensor([True, True, False, False]), {"weight": torch.tensor([[True, True, False, False]])}
    g1, g2 = torch.tensor([1.0, 1, 100, -100]), torch.tensor([-1.0, 2, math.nan, 100])
    model, descent = nn.Linear(4, 1, bias=False), Descent([linear("a", g1), linear("b", g2)], "PCD", tau=0.5)
    descent.start(model, masks)
    assert descent.gradients(model, torch.zeros(()), torch.zeros(1), (None, None)) is False  # the value is NaN too
    g2[2] = -100
    assert descent.gradients(model, torch.zeros(()), torch.zeros(1), (None, None))
    expected, _ = step([linear("a", g1 * mask), linear("b", g2 * mask)], tau=0.5)
    assert torch.allclose(gradient_of(model), expected) and not gradient_of(model)[2:].any()
    assert descent.row()["cosine_b"] == pytest.approx(1 / math.sqrt(10), rel=1e-5)


def test_toy_descents_reach_points_where_no_direction_serves_all():
    """½‖w − a‖² and ½‖w − b‖²: stationary for both on the segment from a to b, and only there."""
    ends = torch.tensor([[1.0, 0, 0, 0], [0, 1.0, 0, 0]])

    def bowl(k):
        return Objective(f"{k}", lambda model, batch, outputs: (model.weight[0] - ends[k]).square().sum() / 2, True)

    for name, options in {"MGDA": {}, "UPGrad": {}, "CAGrad": {}, "NashMTL": {}, "AlignedMTL": {}, "IMTLG": {}}.items():
        torch.manual_seed(1)
        model = nn.Linear(4, 1, bias=False)
        optimizer, descent = (
            torch.optim.SGD(model.parameters(), 0.05 if name == "NashMTL" else 0.2),
            Descent([bowl(0), bowl(1)], name, **options),
        )
        for _ in range(40 if name in SLOW else 150):
            if descent.gradients(model, torch.zeros(()), torch.zeros(1), (None, None)):
                optimizer.step()
                descent.after(model, 0.2)
        w = model.weight.detach()[0]
        along = ((w - ends[0]) @ (ends[1] - ends[0]) / 2).clamp(0, 1)
        assert (w - torch.lerp(ends[0], ends[1], along)).norm() < 0.05, name
        assert descent.row()["fallbacks"] == 0, name


# --- what is not ordinary ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("what", ["images", "value", "gradient"])
def test_a_step_that_is_not_finite_leaves_everything_as_it_was(new_student, tiny, same_tensors, what):
    broken = [False]

    def steep(model, batch, outputs):  # at zero: a finite value whose slope is not
        return (outputs[0, 0] * (0.0 if broken[0] else 1.0)).abs().sqrt()

    found = [*PAIR, Objective("steep", steep)] if what == "gradient" else PAIR
    model, descent = new_student().train(), Descent(found, "PCD")
    optimizer = torch.optim.Adam(model.parameters(), 1e-2)
    images, labels = tiny.normalize(tiny.train.images[:16]), tiny.train.labels[:16]
    descent.start(model)

    def one(images, factor=1.0):
        value, logits = tasks.cross_entropy(model, images, labels)
        optimizer.zero_grad()
        if taken := descent.gradients(model, value * factor, logits, (images, labels)):
            optimizer.step()
            descent.after(model, 1e-2)
        return taken

    assert one(images)
    before, state = layers.duplicate(model), copy.deepcopy(optimizer.state_dict()["state"])
    aggregator = descent.state_dict()
    broken[0] = what == "gradient"
    assert not one(images * (math.nan if what == "images" else 1), math.inf if what == "value" else 1.0)
    assert same_tensors(model, before) and all(b.isfinite().all() for b in model.buffers())
    for k, values in optimizer.state_dict()["state"].items():
        assert all(torch.equal(values[name], state[k][name]) for name in values)
    after = descent.state_dict()
    assert all(torch.equal(after[k], v) for k, v in aggregator.items() if k.startswith("aggregator/"))
    broken[0] = False
    assert one(images)
    row = descent.row()
    assert row["skipped"] == 1 and all(math.isfinite(v) for v in row.values())


@pytest.mark.parametrize("tau", [0.1, 1.0])
def test_pcd_raises_the_primary_where_the_two_oppose_and_that_is_counted(new_student, tiny, tau):
    against = objectives.objective("against")(
        lambda model, batch, outputs: -objectives.cross_entropy(model, batch, outputs)
    )
    model, descent = new_student(), Descent([objectives.cross_entropy, against], "PCD", normalize=True, tau=tau)
    images, labels = tiny.normalize(tiny.train.images[:16]), tiny.train.labels[:16]
    value, logits = tasks.cross_entropy(model, images, labels)
    assert descent.gradients(model, value, logits, (images, labels))
    row = descent.row()
    assert row["cosine_against"] == pytest.approx(-1, abs=1e-5)
    assert (row["ascends_cross_entropy"], row["ascends_against"], row["fallbacks"]) == (1, 0, 0)


@pytest.mark.parametrize("other", [lambda model, batch, outputs: 0, "l1", None])
def test_what_is_no_objective_is_said_to_be_none(other):
    with pytest.raises(TypeError, match="expected an objective, made by the decorator"):
        Descent([objectives.cross_entropy, other], "MGDA")


def test_constant_weights_may_be_a_list_and_must_be_finite():
    assert "0.5" in str(Descent(PAIR, "Constant", weights=[1, 0.5]).identity)
    with pytest.raises(ValueError, match="expected finite numbers"):
        Descent(PAIR, "Constant", weights=[1, math.nan])


def test_fit_skips_bad_batches_and_counts_the_rest(new_student, tiny):
    calls = []

    def sometimes(model, images, labels):
        calls.append(1)
        return tasks.cross_entropy(model, images * (math.nan if len(calls) % 4 == 2 else 1), labels)

    model = new_student()
    history = loop.fit(model, tiny, QUICK, seed=0, loss=sometimes, step=Descent(PAIR, "PCD"))
    assert [row["skipped"] for row in history] == [1, 1, 1]
    assert all(math.isfinite(v) for row in history for v in row.values())
    assert all(t.isfinite().all() for t in model.state_dict().values())
    with pytest.raises(FloatingPointError, match="epoch 1"):
        loop.fit(model, tiny, QUICK, seed=0, loss=lambda m, i, y: tasks.cross_entropy(m, i * math.nan, y),
                  step=Descent(PAIR, "PCD"))  # fmt: skip
    assert all(t.isfinite().all() for t in model.state_dict().values())


class Broken(Aggregator):
    """Raises, or answers with NaN."""

    def __init__(self, how):
        super().__init__()
        self.how, self.calls = how, 0

    def forward(self, matrix):
        self.calls += 1
        if self.calls == 1 or self.how == "works":
            return matrix.sum(0)
        if self.how == "raises":
            raise ArithmeticError("no solution")
        return matrix.sum(0) * math.nan


@pytest.mark.parametrize("how, fallbacks", [("raises", 2), ("nan", 2), ("works", 0)])
def test_an_aggregator_that_fails_leaves_the_primary(how, fallbacks):
    model, g1, g2 = nn.Linear(4, 1, bias=False), torch.ones(4), torch.tensor([0, 0, 0, -5.0])
    descent = Descent([linear("a", g1), linear("b", g2)], Broken(how))
    for k in range(3):
        assert descent.gradients(model, torch.zeros(()), torch.zeros(1), (None, None))
        assert torch.equal(gradient_of(model), g1 if k and fallbacks else g1 + g2)
    row = descent.row()
    assert row["fallbacks"] == fallbacks and row["ascends_b"] == pytest.approx(fallbacks / 3)


def test_constraints_that_contradict_each_other_leave_the_primary():
    g1, g2 = torch.tensor([1.0, 1, 0, 0]), torch.tensor([1.0, 0, 0, 0])
    found, row = step([linear("a", g1), linear("b", g2), linear("c", -g2)], tau=0.1)
    assert torch.allclose(found, g1, atol=1e-5) and row["fallbacks"] == 1
    assert row["ascends_b"] == 0 and row["ascends_c"] == 1
    _, row = step([linear("a", g1), linear("b", g2), linear("c", g1)], tau=0.1)  # nothing to do is no fallback
    assert row["fallbacks"] == 0


@pytest.mark.parametrize("name, normalize, fallbacks", [("PCD", False, 1), ("PCD", True, 1), ("UPGrad", True, 1)])
def test_a_primary_of_zero_gives_no_step(name, normalize, fallbacks):
    found, row = step([linear("a", torch.zeros(4)), linear("b", torch.ones(4))], name, normalize=normalize)
    assert not found.any() and row["fallbacks"] == fallbacks and row["cosine_b"] == 0


@pytest.mark.parametrize("name", ["PCD", "UPGrad", "MGDA", "ConFIG", "PCGrad"])
@pytest.mark.parametrize("normalize", [False, True])
def test_a_secondary_of_zero_gives_a_finite_step_that_serves_the_primary(name, normalize):
    g1 = torch.tensor([1.0, 2, 0, 0])
    found, row = step([linear("a", g1), linear("b", torch.zeros(4))], name, normalize=normalize)
    assert found.isfinite().all() and found @ g1 >= 0 and row["cosine_b"] == 0 and row["ascends_b"] == 0
    if name == "PCD":
        assert torch.allclose(found, g1, atol=1e-5)


def test_opposed_gradients_do_not_blow_up_when_normalized():
    g1 = torch.tensor([1.0, 2, 0, 0])
    found, _ = step([linear("a", g1), linear("b", -100 * g1)], "Mean", normalize=True)
    assert not found.any()


# --- making one -------------------------------------------------------------------------------------------------


def test_an_unknown_aggregator_lists_those_there_are():
    with pytest.raises(ValueError, match=r"'MGDB'.*ConFIG.*MGDA.*PCD.*UPGrad"):
        Descent(PAIR, "MGDB")
    assert {"MGDA", "UPGrad", "PCD", "CAGrad", "NashMTL", "ConFIG"} <= set(aggregators.available())
    assert not {"Aggregator", "WeightedAggregator", "PCDWeighting"} & set(aggregators.available())


def test_a_missing_package_is_named(monkeypatch):
    monkeypatch.setattr(torchjd._mixins, "find_spec", lambda name: None)
    with pytest.raises(ImportError, match=r"'NashMTL'.*ecos.*pip install.*torchjd"):
        Descent(PAIR, "NashMTL")
    with pytest.raises(ImportError, match=r"'UPGrad'.*quadprog.*pip install"):
        Descent(PAIR, "UPGrad")
    Descent(PAIR, "PCD")


@pytest.mark.parametrize(
    "arguments, options, message",
    [
        (([], "PCD"), {}, "one or more"),
        (([objectives.l1, objectives.l1], "PCD"), {}, "different names"),
        ((PAIR, "PCD"), {"speed": 1}, "speed"),
        ((PAIR, "PCD"), {"tau": 2.0}, "tau"),
        ((PAIR, "Krum"), {}, "3 rows"),
        ((PAIR, "NashMTL"), {"n_tasks": 5}, "does not aggregate 2"),
        ((PAIR, Mean()), {"tau": 0.1}, "made already"),
    ],
)
def test_a_descent_that_cannot_work_is_refused_before_it_starts(arguments, options, message):
    with pytest.raises(ValueError, match=message):
        Descent(*arguments, **options)


def test_a_penalty_as_settings_is_checked_before_anything_trains():
    assert Penalty().step(Recipe(label_smoothing=0.1)) is None
    step = Penalty("nuclear_norm", tau=0.3).step(Recipe())
    assert [o.name for o in step.objectives] == ["cross_entropy", "nuclear_norm"] and step.normalize
    assert "0.3" in step.identity[2] and Penalty("l1", "MGDA", tau=0.3).step(Recipe()).normalize
    kinds = Penalty.__dataclass_fields__["name"].type.__origin__
    assert set(typing.get_args(kinds)) == {"", *PENALTIES}
    with pytest.raises(ValueError, match=r"^label_smoothing=0.1: expected 0 beside a penalty"):
        Penalty("l1").step(Recipe(label_smoothing=0.1))


@pytest.mark.parametrize(
    "given, message",
    [
        ({"name": "l2"}, r"^penalty.name='l2': expected one of '', 'l1', 'group_lasso' or 'nuclear_norm'"),
        ({"name": "l1", "aggregator": "PDC"}, "^penalty.aggregator 'PDC': expected one of"),
        ({"name": "l1", "tau": 1.5}, r"^penalty.tau=1.5: expected at most 1"),
        ({"name": "l1", "tau": -0.1}, r"^penalty.tau=-0.1: expected at least 0"),
    ],
)
def test_a_penalty_that_cannot_be_is_named_with_what_was_expected(given, message):
    with pytest.raises(settings.SettingError, match=message):
        settings.read(Penalty, given, "penalty")


def test_options_reach_the_aggregator_and_an_instance_is_left_alone():
    given = PCD(tau=0.3)
    one, two = step([linear("a", torch.ones(4)), linear("b", -torch.arange(4.0))], given), None
    two = step([linear("a", torch.ones(4)), linear("b", -torch.arange(4.0))], "PCD", tau=0.3)
    default = step([linear("a", torch.ones(4)), linear("b", -torch.arange(4.0))], "PCD")
    assert torch.equal(one[0], two[0]) and not torch.allclose(one[0], default[0], atol=1e-3)
    assert given.gramian_weighting._n_steps is None


def test_what_is_not_a_scalar_is_an_error():
    with pytest.raises(ValueError, match="'wide'"):
        step([Objective("wide", lambda model, batch, outputs: model.weight)])


# --- in fit -----------------------------------------------------------------------------------------------------


class Interrupted(Exception):
    pass


def stops_at(count):
    calls = iter(range(count))

    def loss(model, images, labels):
        if next(calls, None) is None:
            raise Interrupted
        return tasks.cross_entropy(model, images, labels)

    return loss


@pytest.mark.parametrize("name", ["PCD", "NashMTL", "GradVac", "ExcessMTL", "Random", "PCGrad"])
def test_a_resumed_training_equals_an_undisturbed_one(new_student, tiny, same_tensors, tmp_path, monkeypatch, name):
    found = [*PAIR, quantization_error(4)]
    masks = {"fc1.weight": new_student().fc1.weight > 0}
    epochs, steps, batch_size = (2, 2, 50) if name in SLOW else (4, 4, 32)
    recipe = dataclasses.replace(QUICK, epochs=epochs, batch_size=batch_size)

    def run(model, **options):
        descent = Descent(found, made(name, 3), normalize=name == "PCD", seed=4)
        return loop.fit(model, tiny, recipe, seed=3, masks=masks, step=Proximal(1e-2, descent), **options)

    undisturbed, resumed = new_student(), new_student()
    history = run(undisturbed)
    monkeypatch.setattr(checkpoints, "SECONDS", 0.0)
    options = {"checkpoint": tmp_path / "x.safetensors"}
    torch.rand(3)
    with pytest.raises(Interrupted):
        run(new_student(), loss=stops_at(steps * (epochs - 1) + 1), **options)
    assert len(files.read_tensors(options["checkpoint"])[1]["history"]) == recipe.epochs - 1
    assert without_seconds(run(resumed, **options)) == without_seconds(history)
    assert same_tensors(resumed, undisturbed)
    assert all(row["fallbacks"] == row["skipped"] == 0 for row in history)


def test_a_state_is_taken_up_in_the_middle_of_an_epoch():
    found = [linear("a", torch.ones(4)), Objective("b", lambda m, b, o: m.weight.square().sum(), True)]
    model = nn.Linear(4, 1, bias=False)

    def steps(descent, count):
        for _ in range(count):
            model.weight.data.mul_(1.5)
            assert descent.gradients(model, torch.zeros(()), torch.zeros(1), (None, None))
        return gradient_of(model).clone()

    for name in ("PCD", "GradVac"):
        model.weight.data.fill_(-1.0)
        one = Descent(found, name)
        steps(one, 3)
        state, other = one.state_dict(), Descent(found, name)
        weights = model.weight.data.clone()
        expected, row = steps(one, 2), one.row()
        model.weight.data.copy_(weights)
        other.start(model)
        other.load_state_dict(state)
        assert torch.equal(steps(other, 2), expected) and other.row() == row


def test_a_training_does_not_depend_on_what_its_descent_did_before(new_student, tiny, same_tensors):
    descent, first, second = Descent(PAIR, "PCD", tau=0.5), new_student(), new_student()
    rows = [without_seconds(loop.fit(model, tiny, QUICK, seed=0, step=descent)) for model in (first, second)]
    assert same_tensors(first, second) and rows[0] == rows[1]


def test_aggregators_that_draw_leave_the_global_generator_alone(new_student, tiny, same_tensors):
    first, second = new_student(), new_student()
    torch.manual_seed(0)
    loop.fit(first, tiny, QUICK, seed=0, step=Descent([*PAIR, objectives.group_lasso], "PCGrad"))
    drawn = torch.rand(1)
    torch.manual_seed(0)
    assert torch.equal(drawn, torch.rand(1))
    loop.fit(second, tiny, QUICK, seed=0, step=Descent([*PAIR, objectives.group_lasso], "PCGrad"))
    assert same_tensors(first, second)


def test_a_checkpoint_of_another_descent_is_not_used(new_student, tiny, same_tensors, tmp_path):
    checkpoint = tmp_path / "x.safetensors"
    loop.fit(new_student(), tiny, QUICK, seed=0, step=Descent(PAIR, "PCD"), checkpoint=checkpoint)
    plain, offered = new_student(), new_student()
    loop.fit(plain, tiny, QUICK, seed=0, step=Descent(PAIR, "PCD", tau=0.5))
    loop.fit(offered, tiny, QUICK, seed=0, step=Descent(PAIR, "PCD", tau=0.5), checkpoint=checkpoint)
    assert same_tensors(plain, offered)


def test_one_objective_is_ordinary_training(new_student, tiny, same_tensors):
    plain, ours = new_student(), new_student()
    loop.fit(plain, tiny, QUICK, seed=0)
    history = loop.fit(ours, tiny, QUICK, seed=0, step=Descent(PAIR[:1], "Sum"))
    assert same_tensors(plain, ours)
    assert history[0]["value_cross_entropy"] == pytest.approx(history[0]["train_loss"], rel=0.1)


def test_a_descent_makes_weights_smaller_and_still_learns(new_student, tiny):
    plain, ours, masks = new_student(), new_student(), {"fc1.weight": torch.rand(16, 16) > 0.5}
    recipe = Recipe(epochs=6, lr=1e-2, batch_size=32, augmentation="none")
    loop.fit(plain, tiny, recipe, seed=0, masks=masks)
    history = loop.fit(ours, tiny, recipe, seed=0, masks=masks, step=Descent(PAIR, "PCD", tau=0.2))
    sizes = [objectives.l1(model, None, None).item() for model in (plain, ours)]
    assert sizes[1] < 0.9 * sizes[0]
    assert history[-1]["train_loss"] < 0.9 * history[0]["train_loss"]
    assert history[-1]["value_l1"] < history[0]["value_l1"]
    assert not ours.fc1.weight[~masks["fc1.weight"]].any()


def test_bfloat16_and_several_passes(new_student, tiny, bfloat16):
    seen = []

    @objective("entropy")
    def entropy(model, batch, outputs):
        seen.append(outputs.dtype)
        return -(outputs.softmax(1) * outputs.log_softmax(1)).sum(1).mean()

    recipe, model = dataclasses.replace(QUICK, amp=True), new_student()
    history = loop.fit(model, tiny, recipe, seed=0, step=Descent([*PAIR, entropy], "UPGrad", normalize=True))
    assert set(seen) == {torch.float32} and {p.dtype for p in model.parameters()} == {torch.float32}
    assert history[-1]["train_loss"] < history[0]["train_loss"] and history[-1]["skipped"] == 0


def test_a_compiled_training_step(new_student, tiny, monkeypatch):
    compiler = torch.compile
    monkeypatch.setattr(torch, "compile", lambda model: compiler(model, backend="aot_eager"))  # in seconds
    found = [objectives.cross_entropy, knowledge_alignment(new_student(1)), objectives.l1]
    recipe = Recipe(epochs=1, lr=5e-3, batch_size=50, augmentation="none")
    plain, compiled = new_student(), new_student()
    rows = [
        loop.fit(m, tiny, dataclasses.replace(recipe, compile=c), seed=0, step=Descent(found, "PCD"))[0]
        for m, c in ((plain, False), (compiled, True))
    ]
    assert rows[1] | {"seconds": 0} == pytest.approx(rows[0] | {"seconds": 0}, rel=1e-2, abs=1e-2)
    assert torch.allclose(plain.fc3.weight, compiled.fc3.weight, atol=2e-3)


# --- proximal steps, hypervolume -------------------------------------------------------------------


@given(seed=st.integers(0, 99), lr=st.floats(1e-4, 1.0), weight=st.floats(0, 2))
def test_a_proximal_step_minimizes_what_it_is_defined_by(seed, lr, weight):
    """It is the argmin over x of lr · λ |x| + ½ (x − w)²."""
    model = nn.Conv2d(1, 3, 3)
    model.weight.data.copy_(torch.randn(model.weight.shape, generator=torch.Generator().manual_seed(seed)))
    before, bias = model.weight.detach().double().flatten(), model.bias.detach().clone()
    Proximal(weight).after(model, lr)
    after = model.weight.detach().double().flatten()

    def cost(x):
        return lr * weight * x.abs() + (x - before).square() / 2

    for other in (after + 1e-3, after - 1e-3, torch.zeros_like(after), before):
        assert (cost(after) <= cost(other) + 1e-7).all()
    assert torch.equal(model.bias.detach(), bias)
    assert ((after == 0) == (before.abs() <= lr * weight)).float().mean() > 0.95


def test_proximal_training_makes_exact_zeros(new_student, tiny):
    model = new_student()
    loop.fit(model, tiny, QUICK, seed=0, step=Proximal(5.0))
    kernels = torch.cat([w.flatten() for w in objectives.weights(model)])
    assert (kernels == 0).float().mean() > 0.2 and (kernels != 0).any()
    for wrong in (-1, math.nan, math.inf):
        with pytest.raises(ValueError, match="weight="):
            Proximal(wrong)


POINTS = st.lists(st.tuples(st.integers(-2, 8), st.integers(-2, 8)), max_size=8)


@given(points=POINTS)
def test_hypervolume_counts_the_dominated_cells(points):
    cells = {(i, j) for x, y in points for i in range(max(x, 0)) for j in range(max(y, 0))}
    assert hypervolume(points, (0, 0)) == len(cells)
    assert hypervolume([(x + 5, y - 3) for x, y in points], (5, -3)) == len(cells)


def test_hypervolume_refuses_what_is_no_pair():
    assert hypervolume([], (0, 0)) == 0
    for points, reference in (([(1, 2, 3)], (0, 0)), ([(1, math.nan)], (0, 0)), ([(1, 2)], (0,))):
        with pytest.raises(ValueError, match="pairs of finite numbers"):
            hypervolume(points, reference)


def test_weights_that_print_alike_are_other_trainings():
    steps = [Descent(PAIR, "Constant", weights=[1, weight]) for weight in (1e-3, 1.00001e-3)]
    assert steps[0].identity != steps[1].identity
    assert steps[0].identity == Descent(PAIR, "Constant", weights=[1, 1e-3]).identity
    prefer = [Descent(PAIR, "UPGrad", pref_vector=torch.tensor([1.0, weight])) for weight in (1.0, 1.0001)]
    assert prefer[0].identity != prefer[1].identity


def test_an_objective_of_another_teacher_or_temperature_is_another_training(new_student):
    def identity(seed, temperature):
        return Descent([PAIR[0], knowledge_alignment(new_student(seed), temperature)], "MGDA").identity

    found = [identity(*how) for how in ((0, 5.0), (1, 5.0), (0, 4.0))]
    assert len({str(each) for each in found}) == 3 and found[0] == identity(0, 5.0)


def test_two_objectives_of_one_name_that_do_otherwise_share_no_checkpoint():
    def made(power):
        @objectives.objective("mine", weights_only=True)
        def mine(model, batch, outputs):
            return sum((w.abs() ** power).sum() for w in objectives.weights(model))

        return Descent([objectives.cross_entropy, mine], "UPGrad").identity

    @objectives.objective("mine", weights_only=True)
    def mine(model, batch, outputs):
        return sum(w.abs().max() for w in objectives.weights(model))

    other = Descent([objectives.cross_entropy, mine], "UPGrad").identity
    assert made(1) == made(1) and len({str(each) for each in (made(1), made(2), other)}) == 3
