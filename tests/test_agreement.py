"""Whether a rerun agrees with what is published, as a command says it and as the rule behind it does."""

import math

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from studylib.experiments import agreement


def rows(values, node="teacher", size=1000):
    found = [{"node": node, "seed": i, "test_accuracy": v, "bytes_file": size} for i, v in enumerate(values)]
    return pd.DataFrame(found)


def test_the_same_numbers_agree_and_far_ones_do_not():
    published = pd.concat([rows([0.90, 0.91, 0.92]), rows([0.5, 0.6, 0.7], "teacher-kd")])
    same = agreement.beside(published, published)
    assert list(same["verdict"]) == [agreement.WITHIN] * 2 and list(same["bytes_ratio"]) == [1.0, 1.0]
    other = published.assign(test_accuracy=published["test_accuracy"] - 0.1)
    assert list(agreement.beside(other, published)["verdict"]) == [agreement.OUTSIDE, agreement.WITHIN]


def test_one_published_seed_has_no_interval():
    (row,) = agreement.beside(rows([0.9, 0.8]), rows([0.9])).to_dict("records")
    assert row["verdict"] == agreement.ONE_SEED and math.isnan(row["half"])


def test_nodes_that_are_in_one_of_the_two_only_are_left_out():
    assert len(agreement.beside(rows([0.9, 0.8]), rows([0.9, 0.8], "teacher-svd"))) == 0


def test_new_seeds_of_the_same_population_lie_within_as_often_as_is_said():
    rng, hits = np.random.default_rng(0), []
    for _ in range(2000):
        old, new = rng.normal(0.9, 0.02, 5), rng.normal(0.9, 0.02, 10)
        hits.append(abs(new.mean() - old.mean()) <= agreement.prediction_half(old.std(ddof=1), 5, 10))
    assert np.mean(hits) == pytest.approx(0.95, abs=0.02)


@given(st.integers(2, 50), st.integers(1, 50), st.floats(0.001, 1))
def test_more_seeds_on_either_side_make_it_narrower(published, rerun, deviation):
    half = agreement.prediction_half(deviation, published, rerun)
    assert agreement.prediction_half(deviation, published, rerun + 1) < half
    assert agreement.prediction_half(deviation, published + 1, rerun) < half


def test_other_data_and_other_settings_are_named_with_both_values():
    ours = {"settings": {"imp": {"pruning": {"rounds": 6}}}, "data_sha256": {"0": "a", "1": "b"}}
    assert agreement.differences(ours, ours) == []
    theirs = {"settings": {"imp": {"pruning": {"rounds": 10}}}, "data_sha256": {"0": "a", "1": "c"}}
    said = " ".join(agreement.differences(ours, theirs))
    assert "other data" in said and "imp.pruning.rounds is 6, published 10" in said
    assert len(agreement.differences(ours, {})) == 2


@pytest.mark.parametrize(("value", "told"), [("", 0), (None, 0), (0, 0), ("resnet 8-8", 1), (2, 1)])
def test_a_setting_that_the_published_study_is_too_old_to_have_is_a_difference_where_it_says_something(value, told):
    theirs = {"settings": {"distill": {"temperature": 5}}, "data_sha256": {"0": "a"}}
    ours = {"settings": {"distill": {"temperature": 5, "name": value}}, "data_sha256": {"0": "a"}}
    assert len(agreement.differences(ours, theirs)) == len(agreement.differences(theirs, ours)) == told


@pytest.mark.parametrize(("budget", "told"), [(0.0, 0), (0.5, 2)])
def test_a_record_that_the_published_study_is_too_old_to_have_is_a_difference_where_it_is_on(budget, told):
    theirs = {"settings": {"teacher": {"recipe": {"epochs": 5}}}, "data_sha256": {"0": "a"}}
    ours = {"settings": {"teacher": {"recipe": {"epochs": 5}, "guiding": {"budget": budget, "every": 20}}}}
    ours["data_sha256"] = {"0": "a"}
    assert len(agreement.differences(ours, theirs)) == len(agreement.differences(theirs, ours)) == told
