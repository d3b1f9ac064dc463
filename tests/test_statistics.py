import itertools
import math

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from studylib.experiments import sweep_effects, sweep_narrower
from studylib.results import statistics
from studylib.tree import names

STAGES = ["kd", "imp", "svd", "int8"]
NODES = names.nodes(STAGES)
NUMBER = st.floats(-10, 10)


def applied(node, stage):
    return 1 if stage in node.split("-")[1:] else -1


def model_values(constant, mains, pairs):
    """Node → constant + ½ Σ effect × sign, the model whose effects contrasts must find."""
    return {
        node: constant
        + sum(0.5 * mains[s] * applied(node, s) for s in STAGES)
        + sum(0.5 * pairs[a, b] * applied(node, a) * applied(node, b) for a, b in pairs)
        for node in NODES
    }


def table_of(by_seed, column="test_accuracy"):
    rows = [{"node": n, "seed": seed, column: v} for seed, values in by_seed.items() for n, v in values.items()]
    return pd.DataFrame(rows)


effects_of = st.tuples(
    NUMBER,
    st.fixed_dictionaries({s: NUMBER for s in STAGES}),
    st.fixed_dictionaries({p: NUMBER for p in itertools.combinations(STAGES, 2)}),
)


@given(of=effects_of)
def test_the_effects_that_were_put_in_are_found(of):
    constant, mains, pairs = of
    values = model_values(constant, mains, pairs)
    weights = sweep_effects.contrasts(STAGES, NODES)
    found = weights @ np.array([values[n] for n in NODES])
    for stage in STAGES:
        assert found[stage] == pytest.approx(mains[stage], abs=1e-9)
    for a, b in pairs:
        assert found[f"{a} × {b}"] == pytest.approx(pairs[a, b], abs=1e-9)


def test_an_interaction_is_half_the_difference_of_two_effects():
    stages, nodes = ["imp", "svd"], names.nodes(["imp", "svd"])
    values = dict(zip(nodes, [0.9, 0.8, 0.85, 0.5], strict=True))  # teacher, imp, svd, imp-svd
    found = sweep_effects.contrasts(stages, nodes) @ np.array([values[n] for n in nodes])
    with_svd, without = 0.5 - 0.85, 0.8 - 0.9
    assert found["imp"] == pytest.approx((with_svd + without) / 2)
    assert found["imp × svd"] == pytest.approx((with_svd - without) / 2)


def test_an_incomplete_design_is_refused():
    with pytest.raises(ValueError, match="every combination"):
        sweep_effects.contrasts(STAGES, NODES[:-1])
    with pytest.raises(ValueError, match="at least one technique"):
        sweep_effects.contrasts([], ["teacher"])


def test_savings_that_multiply_do_not_interact():
    factors = {"kd": 0.25, "imp": 0.5, "svd": 0.9, "int8": 0.26}
    sizes = {n: 1e5 * math.prod(f for s, f in factors.items() if s in n.split("-")) for n in NODES}
    found = sweep_effects.over_seeds(table_of({0: sizes}, "bytes"), STAGES, "bytes", log=True)[0]
    for stage, factor in factors.items():
        assert found[stage] == pytest.approx(math.log2(factor))
    assert found.drop(STAGES).abs().max() < 1e-9


def test_the_bootstrap_holds_the_effect_and_narrows_with_images():
    rng = np.random.default_rng(0)
    widths = []
    for count in (100, 10_000):
        hits = {n: (rng.random((2, count)) < (0.9 if "svd" not in n else 0.8)).astype(float) for n in NODES}
        found = sweep_effects.bootstrap(hits, STAGES, draws=300)
        assert (found["low"] <= found["effect"]).all() and (found["effect"] <= found["high"]).all()
        assert found.loc["svd", "high"] < 0
        widths.append((found["high"] - found["low"]).mean())
    assert widths[1] < 0.2 * widths[0]


def test_the_same_images_are_drawn_for_every_node():
    hits = np.random.default_rng(0).random((1, 50)).round()
    found = sweep_effects.bootstrap({n: hits for n in NODES}, STAGES, draws=50)  # nodes that agree image by image
    assert np.allclose(found[["low", "high"]], 0)


def test_students_interval_is_students():
    low, high = statistics.t_interval([1.0, 2.0, 3.0])
    assert (low, high) == pytest.approx((2 - 4.302653 / 3**0.5, 2 + 4.302653 / 3**0.5))
    assert all(math.isnan(end) for end in statistics.t_interval([1.0]))


def test_seeds_that_happen_to_agree_do_not_make_certainty():
    values = np.zeros((3, 200))
    values[:, 0] = 1  # every seed gains the same one image
    mean, low, high = statistics.over_both(values)
    assert mean == pytest.approx(1 / 200) and low < 0 < mean < high
    assert statistics.t_interval(values.mean(1)) == pytest.approx((1 / 200, 1 / 200))


def test_one_seed_leaves_the_interval_over_images_and_many_seeds_widen_it():
    values = np.random.default_rng(0).random((1, 50))
    assert statistics.over_both(values) == pytest.approx((values.mean(), *statistics.t_interval(values[0])))
    spread = np.repeat([[0.0], [1.0], [0.5]], 50, axis=1)
    assert statistics.over_both(spread) == pytest.approx((0.5, *statistics.t_interval([0.0, 1.0, 0.5])))


def test_the_interval_over_both_holds_the_truth_as_often_as_it_says():
    rng, held = np.random.default_rng(0), 0
    for _ in range(400):  # a seed's effect, an image's, and what is left
        values = rng.normal(size=(3, 1)) + 5 * rng.normal(size=(1, 40)) + rng.normal(size=(3, 40))
        _, low, high = statistics.over_both(values)
        held += low <= 0 <= high
    assert held / 400 >= 0.94


def test_rivals_are_interpolated_at_equal_cost():
    rivals = pd.DataFrame(
        {"kind": ["a", "a", "b", "b"], "bytes": [400, 100, 50, 200], "accuracy": [0.9, 0.8, 0.7, 0.75]}
    )
    at = lambda cost: sweep_narrower.at_equal_cost(rivals, "bytes", "accuracy", cost)  # noqa: E731
    assert at(200) == pytest.approx(0.85)  # half way from 100 to 400 on a logarithmic scale
    assert at(100) == pytest.approx(0.8) and at(1e6) == pytest.approx(0.9)
    assert at(60) == pytest.approx(0.7 + 0.05 * math.log(60 / 50) / math.log(4))  # only b is as small
    assert math.isnan(at(49))


def test_rivals_of_several_seeds_are_of_the_kind_that_is_best_in_the_mean():
    rows = [(0, "a", 0.9), (0, "b", 0.8), (1, "a", 0.7), (1, "b", 0.9)]  # the best of each seed would be 0.9
    rivals = pd.DataFrame([{"seed": s, "kind": kind, "bytes": 100, "accuracy": best} for s, kind, best in rows])
    at = pd.DataFrame({"seed": [1, 0], "bytes": [200, 100]})
    of = lambda at: sweep_narrower.of_each_seed(rivals, "bytes", "accuracy", at).tolist()  # noqa: E731
    assert of(at) == [0.9, 0.8]
    small = of(at.assign(bytes=[100, 50]))
    assert small[0] == 0.9 and math.isnan(small[1])
    assert all(map(math.isnan, sweep_narrower.of_each_seed(rivals[:0], "bytes", "accuracy", at)))


@pytest.mark.parametrize(
    "intervals, verdict",
    [
        ([(1, 2), (0.1, 3)], statistics.HELP),
        ([(-2, -1), (math.nan, math.nan)], statistics.HURT),
        ([(1, 2), (-1, 3)], statistics.UNKNOWN),
        ([(1, 2), (-2, -1)], statistics.UNKNOWN),
        ([(math.nan, math.nan)], statistics.UNKNOWN),
    ],
)
def test_a_verdict_needs_every_interval(intervals, verdict):
    assert statistics.judge(*intervals) == verdict


def test_effects_have_both_intervals_and_a_verdict():
    rng = np.random.default_rng(1)
    images = {n: (rng.random((3, 500)) < (0.95 if "svd" not in n else 0.7)).astype(float) for n in NODES}
    by_seed = {seed: {n: images[n][seed].mean() for n in NODES} for seed in range(3)}
    found = sweep_effects.effects(table_of(by_seed), images, STAGES, "test_accuracy").set_index("effect")
    assert len(found) == 10 and set(found["seeds"]) == {3}
    assert found.loc["svd", "verdict"] == statistics.HURT and found.loc["svd", "mean"] == pytest.approx(-0.25, abs=0.02)
    assert found.loc["kd × imp", "verdict"] == statistics.UNKNOWN
    alone = sweep_effects.effects(table_of({0: by_seed[0]}), None, STAGES, "test_accuracy")
    assert alone["seed_low"].isna().all() and set(alone["verdict"]) == {statistics.UNKNOWN}
    one = {n: images[n][:1] for n in NODES}  # images alone are no evidence about other trainings
    assert set(sweep_effects.effects(table_of({0: by_seed[0]}), one, STAGES, "test_accuracy")["verdict"]) == {
        statistics.UNKNOWN
    }


@given(points=st.lists(st.tuples(st.integers(1, 5), st.integers(1, 5)), min_size=1, max_size=8))
def test_the_front_is_what_no_other_beats(points):
    table = pd.DataFrame(points, columns=["bytes", "accuracy"])
    front = statistics.pareto(table, "bytes", "accuracy")
    assert front.any()
    for i, (cost, gain) in enumerate(points):
        beaten = any(c <= cost and g >= gain and (c, g) != (cost, gain) for c, g in points)
        assert front[i] == (not beaten)


@given(st.integers(2, 12), st.floats(0.1, 5), st.floats(0.05, 3))
def test_as_many_seeds_as_are_said_to_decide_do_and_one_fewer_does_not(seeds, spread, distance):
    from scipy import stats

    def half(n):
        return stats.t.ppf(0.975, n - 1) * spread / n**0.5

    found = statistics.seeds_to_decide(half(seeds), seeds, distance)
    if math.isinf(found):
        assert half(statistics.MANY) >= distance * (1 - 1e-9)
    else:
        assert half(int(found)) < distance * (1 + 1e-9)
        assert found == 2 or half(int(found) - 1) >= distance * (1 - 1e-9)


def test_one_seed_does_not_say_how_many_would_decide():
    assert math.isnan(statistics.seeds_to_decide(0.3, 1, 0.1))


def test_effects_in_markdown_have_their_intervals_and_verdicts():
    common = {"seed_low": -0.02, "seed_high": 0.04, "seeds": 3, "verdict": statistics.UNKNOWN, "effect": "imp × int8"}
    rows = [
        {"measure": "test_accuracy", "mean": 0.01, "image_low": 0.005, "image_high": 0.015, **common},
        {"measure": "log2 bytes_file", "mean": -1.5, "image_low": math.nan, "image_high": math.nan, **common},
    ]
    accuracy, size = (table.splitlines() for table in sweep_effects.effects_table(pd.DataFrame(rows)).split("\n\n"))
    assert accuracy[0] == "| effect on accuracy | points | over seeds | over images | verdict |"
    assert accuracy[2] == "| pruning × int8 | +1.00 | -2.00 to +4.00 | +0.50 to +1.50 | cannot tell |"
    assert size[0] == "| effect on bytes | doublings | over seeds | verdict |" and "| -1.50 |" in size[2]
