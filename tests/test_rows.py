"""Long comparisons: their rows are kept as they are made, and what was stopped goes on where it was."""

import json

import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from studylib.experiments import svd, sweep_narrower
from studylib.experiments.prune import ways as ways_to_prune
from studylib.techniques import prune
from studylib.training import recipe
from studylib.tree import rows

JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 9) | st.floats(-1, 1) | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=6,
)
RECIPE = recipe.Recipe(1, 1e-2, batch_size=50, augmentation="none")


def counted(result):
    """A function that gives ``result``, and the list of its calls."""
    calls = []

    def make():
        calls.append(len(calls))
        return result

    return make, calls


@given(JSON, JSON, JSON)
def test_what_was_made_is_read_back_and_not_made_again_unless_its_key_is_another(tmp_path_factory, result, key, other):
    path = tmp_path_factory.mktemp("rows") / "kept.json"
    make, calls = counted(result)
    first, again = (rows.once(path, [key], make) for _ in range(2))
    assert first == again == json.loads(json.dumps(result)) and len(calls) == 1
    rows.once(path, [other], make)
    assert len(calls) == (1 if json.dumps(other) == json.dumps(key) else 2)


def test_a_damaged_file_is_made_again_and_without_a_folder_nothing_is_kept(tmp_path):
    make, calls = counted([{"a": 1}])
    (tmp_path / "kept.json").write_text('{"key"', encoding="utf-8")
    assert rows.once(tmp_path / "kept.json", [], make) == [{"a": 1}] == rows.once(None, [], make)
    assert len(calls) == 2 and len(list(tmp_path.iterdir())) == 1


def test_changed_code_makes_it_again(tmp_path, monkeypatch):
    make, calls = counted([])
    rows.once(tmp_path / "kept.json", [], make)
    monkeypatch.setattr(rows, "code_digest", lambda make: "another")
    rows.once(tmp_path / "kept.json", [], make)
    assert len(calls) == 2


def ways(student, data, folder):
    how = {"recipe": RECIPE, "seeds": [0, 1], "scratch": folder}
    return list(rows.every(ways_to_prune(student, data, [0.5, 0.9], **how), folder, ["k"]))


def test_five_ways_to_prune_that_were_stopped_go_on_and_give_the_same_rows(
    new_student, tiny, tmp_path, monkeypatch, trainings
):
    student = new_student()
    whole = ways(student, tiny, tmp_path / "whole")
    assert len(whole) == 2 * len(prune.METHODS) * 2
    with pytest.raises(KeyboardInterrupt):
        trainings(most=9)
        ways(student, tiny, tmp_path / "stopped")
    monkeypatch.undo()
    calls = trainings()
    assert ways(student, tiny, tmp_path / "stopped") == whole
    assert len(calls) == 2 * 2 * len(prune.METHODS) - 8  # four trajectories of two trainings were whole
    calls.clear()
    assert ways(student, tiny, tmp_path / "stopped") == whole and not calls
    table = pd.DataFrame(whole)
    alive = table.pivot_table(index=["seed", "sparsity"], columns="method", values="density", aggfunc="first")
    for density in (alive["pretrained"], alive["random"]):
        assert list(density) == list(alive["pretrained"])  # as many a layer
    assert (table["right"].map(len) > 0).sum() == 2  # of the first seed's pretrained alone


def test_rows_of_ranks_say_which_images_are_right_as_their_accuracy_does(student_model, tiny, tmp_path):
    networks = {"student": student_model}
    how = {"recipe": RECIPE, "seeds": [0, 1]}
    found = list(rows.every(svd.ranks(networks, tiny, [1, 4, 10_000], **how), tmp_path, []))
    ways = [way + end for way in (svd.PLAIN, svd.FISHER) for end in ("", svd.TUNED)]
    assert {(row["how"], row["delta"]) for row in found} == {(way, delta) for way in ways for delta in (1, 4)}
    for row in found:
        assert svd.hits(row).mean().item() == pytest.approx(row["accuracy"])
        assert len(row["right"]) == len(tiny.validation)


def test_narrower_networks_are_measured_as_they_are_and_in_int8(monkeypatch, tiny, tmp_path):
    monkeypatch.setattr(sweep_narrower.datasets, "load", lambda name, seed: tiny)
    how = {"depth": 7, "recipe": RECIPE, "calibration_images": 8, "device": torch.device("cpu")}
    found = pd.DataFrame(rows.every(sweep_narrower.networks("digits", [0], [1, 2], **how), tmp_path, []))
    assert list(found["kind"]) == ["float32", "int8"] * 2 and list(found["growth"]) == [1, 1, 2, 2]
    bytes_of = found.pivot(index="growth", columns="kind", values="bytes")
    assert (bytes_of["int8"] < bytes_of["float32"]).all() and found["accuracy"].between(0, 1).all()
