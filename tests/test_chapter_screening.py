"""Chapter 12: what rows of screening say, the model of latency, and the sparse read-out of a network's features."""

import math
import re

import numpy as np
import pandas as pd
import pytest
import torch

from studylib.coding import codec
from studylib.data import scoring
from studylib.disk import files
from studylib.results import verdicts
from studylib.screening import analysis, chapter, libraries, readout, shown
from studylib.screening.compare import LOCAL, labelled, with_workers
from studylib.screening.data import Shard
from studylib.screening.problems import problem
from studylib.screening.state import State
from studylib.training.recipe import Recipe

SIZES = {chapter.SETS: 20, chapter.SETS_ALONE: 30, chapter.STEPS: 60, chapter.STEPS_ALONE: 100}


def made_up() -> pd.DataFrame:
    """Two problems on one and two workers: bytes of :data:`SIZES`, time a hundredth of them, setup 5."""
    common = {"share": 0.1, "lambdas": 1, "steps": 10, "features": 5, "nonzero": 4, "calls": 30}
    return pd.DataFrame(
        common
        | {"problem": name, "way": way, "workers": workers, "sent": factor * size, "seconds": factor * size / 100}
        | {"setup": 5 if "screening" in way else 0}
        for name, factor in (("gaussian", 1), ("text", 2))
        for workers in (1, 2)
        for way, size in SIZES.items()
    )


def test_ratios_are_over_steps_alone_and_norms_count_as_screenings():
    table = analysis.ratios(made_up()).set_index(["problem", "workers", "way"])
    assert table.loc[("gaussian", 2, chapter.SETS), "bytes"] == pytest.approx(0.25)
    assert table.loc[("text", 2, chapter.SETS), "bytes"] == pytest.approx(45 / 200)
    assert table.loc[("text", 1, chapter.STEPS_ALONE), ["bytes", "time"]].tolist() == [1, 1]
    assert len(shown.shown(table.reset_index(), "single λ")) == 8 and shown.shown(table.reset_index(), "path").empty


def test_claims_are_held_against_problems_and_say_what_is_lost():
    checks = pd.DataFrame(
        {"problem": name, "share": 0.1, "way": chapter.STEPS, "goal": 1e-6, "columns": 100, "nonzero": 10}
        | {"step": 10 * i, "gap": 10.0 ** (-i - shift), "features": (100, 50, 10, 10)[i], "sent": 100 * i}
        for name, shift in (("gaussian", 0), ("text", 0.1))
        for i in range(4)
    )
    same, many = pd.DataFrame({"apart": [1e-8, 1e-7]}), pd.DataFrame({"apart": [1e-9, 1e-8]})
    found = analysis.claims_of(made_up(), checks, same, many)
    assert found["linear"].value == pytest.approx(100) and found["finite"].value == pytest.approx(100)
    assert found["bytes"].value == pytest.approx(100 * (1 - (0.25 + 0.225) / 2))
    assert found["lossless"].value == found["workers"].value == 0 and found["outside"].n == 2
    assert found["bytes_strict"].value == pytest.approx(100 * (1 - (0.65 + 0.625) / 2))
    assert found["speed_strict"].value == pytest.approx(40)
    lost = analysis.claims_of(made_up(), checks, same.assign(apart=[1.0, 1e-8]), many.assign(apart=1.0))
    assert lost["lossless"].value == 50 and lost["workers"].value == 100
    assert "workers" not in analysis.claims_of(made_up(), checks, same, pd.DataFrame())
    straight = analysis.lines(checks)
    assert straight["slope"].tolist() == pytest.approx([-10, -10])
    assert straight["early"].isna().all() and straight["late"].tolist() == pytest.approx([-10, -10])
    assert "times as fast" not in shown.lines_told(straight)
    told = shown.lines_told(straight.assign(early=[-5.0, -2.0]))
    assert "Once half of the features are gone it falls 2.0 to 5.0 times as fast as before." in told
    assert "speed_path" not in found  # there is none
    path = made_up().assign(lambdas=10)
    with_path = analysis.claims_of(pd.concat([made_up(), path]), checks, same, many)
    assert with_path["speed_path"].value == pytest.approx(40) and with_path["speed_path"].n == 2
    assert len(list(verdicts.rows("screening", with_path, "digits"))) == len(with_path) == len(found) + 1


def test_latency_and_bandwidth_are_found_again_and_many_workers_wait_for_latency():
    times = pd.DataFrame(
        {"workers": k, "numbers": n, "seconds": 2 * (k - 1) * (1e-4 + 8 * n / k / 1e9)}
        for k in (2, 4)
        for n in (1, 1000, 1_000_000)
    )
    known = analysis.constants(times)
    assert known["latency"] == pytest.approx(1e-4) and known["bandwidth"] == pytest.approx(1e9)
    model = analysis.modelled(made_up(), known).set_index(["problem", "way"])
    row = model.loc[("gaussian", chapter.STEPS_ALONE)]
    assert row["measured"] == 1 and row["two"] == pytest.approx(0.5 + 2 * (30 * 1e-4 + 50 / 1e9))
    assert row["many"] == pytest.approx(1 / 64 + 126 * (30 * 1e-4 + 100 / 64 / 1e9))
    assert "64 workers" in shown.model_told(known, model.reset_index())
    assert "at most 25.0 % of the bytes of steps alone (gaussian)" in shown.told(made_up())


def test_solutions_with_discards_and_without_are_held_against_each_other_at_a_tight_gap(monkeypatch):
    asked = chapter.Comparison(rows=60, columns=200, problems={"gaussian": [0.3], "text": [0.2]})
    rows = pd.DataFrame(chapter.lossless(asked))
    assert rows["solver"].tolist() == ["working sets", "steps"] * 2 and (rows["gap"] <= rows["goal"]).all()
    assert rows[["objective", "apart", "scores"]].to_numpy().max() < chapter.RIGHT and not rows["unlike"].any()
    assert "change no coefficient" in shown.lossless_told(rows, pd.DataFrame()) and len(shown.lossless_shown(rows)) == 4

    def unsafe(state, norms, s):  # discards all but the best feature
        keep = norms == norms.max()
        state.active, state.where, state.norms = state.active[keep], state.where[keep], state.norms[keep]
        state.w, state.gradient, state.correlated = state.w[keep], state.gradient[keep], state.correlated[keep]
        state.z, state.gradient = state.scores(state.w), None
        return True

    monkeypatch.setattr(State, "_discard", unsafe)
    assert (pd.DataFrame(chapter.lossless(asked))["apart"] > 1e-3).all()


def test_more_workers_find_what_one_finds_at_a_tight_gap(tmp_path):
    asked = chapter.Comparison(rows=60, columns=200, problems={"gaussian": [0.3], "text": [0.2]}, workers=[1, 2])
    many = pd.DataFrame(chapter.alike(asked, tmp_path))
    assert many["workers"].tolist() == [2, 2] and (many["gap"] <= many["goal"]).all() and not many["unlike"].any()
    assert many["apart"].max() < chapter.RIGHT
    table = shown.by_workers(analysis.ratios(made_up()), many)
    assert table["coefficients off one worker's"].tolist() == ["–", f"{many['apart'].max():.0e}"]
    kept = next((tmp_path / "tight").glob("2-*.json"))  # a worker that finds another solution is told
    stored = files.read_json(kept)
    for row in stored["found"]:
        row["coef"] = dict.fromkeys(row["coef"], 99.0)
    files.write_json(kept, stored)
    assert pd.DataFrame(chapter.alike(asked, tmp_path))["apart"].min() > 1


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"problems": {"mnist": [0.1]}}, "problem 'mnist': expected some of gaussian"),
        ({"problems": {"text": [1.5]}}, r"shares=\[1.5\]"),
        ({"workers": [0]}, r"workers.*0.*expected at least 1"),
        ({"workers": [2, 2]}, "expected different ones"),
    ],
)
def test_what_cannot_be_compared_is_named(given, message):
    with pytest.raises(ValueError, match=message):
        chapter.Comparison(**given)


def test_libraries_reach_the_gap_and_our_coefficients():
    X, y = problem("gaussian", 60, 200)
    data, goal = Shard(X, y), 1e-8 * float(y @ y) / 120
    rows = libraries.compared(X, y, np.array([0.5, 0.2]) * data.largest(), goal, 1)
    assert {"ours", "scikit-learn", "scikit-learn without its screening"} <= {row["library"] for row in rows}
    assert all(row["gap"] <= goal * (1 + 1e-6) and row["apart"] < 1e-2 for row in rows), rows


@pytest.mark.parametrize("name", ["text", "cancer"])
def test_libraries_take_sparse_columns_and_labels_alike(name):
    X, y, loss = labelled(name, 60, 200)
    data = Shard(X, y, loss)
    goal = 1e-6 * data.loss.value(np.zeros(len(y)), y) / len(y)
    rows = libraries.compared(X, y, np.array([0.5]) * data.largest(), goal, 1, loss)
    assert len(rows) >= 3 and all(row["gap"] <= goal * (1 + 1e-6) and row["apart"] < 1e-2 for row in rows), rows


@pytest.mark.parametrize("loss", ["squared", "logistic"])
def test_the_gap_by_itself_is_that_of_the_solver(loss):
    X, y = problem("gaussian", 60, 200)
    y = y if loss == "squared" else np.where(y > 0, 1.0, -1.0)
    data = Shard(X, y, loss)
    state = State(data, 0.3 * data.largest(), start=np.linspace(-0.01, 0.01, 200))
    state.check(0)
    mine = libraries.gap(X, y, np.linspace(-0.01, 0.01, 200), state.lam, loss)
    assert mine >= state.gap * (1 - 1e-9) and mine == pytest.approx(state.gap, rel=0.2)  # its scale is the plain one


def test_local_steps_and_threads_find_what_working_sets_find(tmp_path):
    asked = chapter.Comparison(shapes=[[60, 100], [200, 40]])
    rows = pd.DataFrame(chapter.modes(asked, tmp_path))
    assert rows["mode"].tolist() == ["processes", "processes", "threads", "threads", "threads, asynchronous"] * 2
    assert (rows["gap"] <= rows["goal"]).all() and rows["apart"].max() < 1e-2
    assert rows["sent"].notna().tolist() == [True, True, False, False, False] * 2
    shown_rows = shown.modes_shown(rows)
    assert shown_rows["MB a worker"].tolist()[2] == "–" and set(shown_rows["gap reached"]) == {"yes"}
    at = rows[rows["mode"] == "processes"].set_index(["rows", "way"])["steps"]
    told = shown.modes_told(rows)
    assert (
        f"{at[60, LOCAL] / at[60, chapter.STEPS]:.1f} rounds for each step" in told
        and "Threads that do not wait" in told
    )
    assert shown.modes_told(pd.DataFrame()).startswith("Local steps and threads were not")


def test_workers_that_fail_say_what_they_said():
    with pytest.raises(RuntimeError, match=re.escape("problem 'mnist'")):
        with_workers(1, [{"problem": "mnist", "rows": 9, "columns": 9, "share": 0.1, "lambdas": 1, "ways": []}])


def test_a_readout_is_of_what_the_classifier_is_given_and_sparser_for_a_larger_penalty(tiny, student_model):
    X = readout.features(student_model, tiny.train, tiny)
    name, layer = readout._classifier(student_model)
    logits = scoring.predict(student_model, tiny.train, tiny)
    assert torch.allclose(layer(torch.tensor(X).float()), logits, atol=1e-4) and X.shape[1] == layer.in_features
    asked = readout.Readout(shares=[0.5, 0.05])
    made = readout.fitted(student_model, tiny, asked)
    weights = {share: each.get_submodule(name).weight for share, each in made.items()}
    assert 0 < (weights[0.5] != 0).sum() < (weights[0.05] != 0).sum() < layer.weight.numel()
    read = codec.decode(codec.encode(made[0.5]))  # features that nothing reads are cut away
    assert read.get_submodule(name).in_features == (weights[0.5] != 0).any(dim=0).sum() < layer.in_features
    assert torch.allclose(*(scoring.predict(each, tiny.test, tiny) for each in (read, made[0.5])), atol=1e-4)
    table = pd.DataFrame(readout.rows(made, student_model, tiny, asked, Recipe(epochs=1, lr=0.01), 0))
    assert table["kind"].tolist() == ["as trained", *["read-out", "classifier pruned"] * 2]
    cut = table[table["share"] == 0.5]
    assert cut["nonzero"].nunique() == 1 and math.isnan(table["share"][0])
    assert readout.chosen(made, student_model, tiny, readout.Readout(shares=[0.5, 0.05], tolerance=1.0)) is made[0.5]
    assert f"keeps {cut['nonzero'].iloc[0]} of " in readout.told(table, 0.5)


def test_the_fastest_library_is_named_with_ours_in_either_way():
    of = {"problem": ["a"] * 3 + ["b"] * 2, "kind": "path", "goal": 1.0}
    rows = pd.DataFrame(of | {"library": ["ours", "ours without screening", "celer", "ours", "celer"]})
    rows = rows.assign(seconds=[3.0, 2.0, 1.0, 2.0, 1.0], gap=[0.5, 0.5, 2.0, 0.5, 0.5])  # the third misses the gap
    said = shown.libraries_told(rows)
    assert said.endswith("ours is the fastest in 1, in 0 of them with screening. In the others it is celer.")
