"""Chapter 9: techniques by their words, one face for all, rows beside narrower networks, and what they say."""

import dataclasses

import pandas as pd
import pytest
import torch

from studylib.coding import codec
from studylib.experiments import survey, sweep_narrower
from studylib.networks import layers
from studylib.settings import SettingError
from studylib.techniques.distill import Student
from studylib.training.recipe import Recipe

ONE = Recipe(epochs=1, lr=0.003, batch_size=64)
NONE = Recipe(epochs=0)


def test_every_technique_has_its_fields_as_arguments_and_a_word_that_a_spec_knows():
    for key, each in survey.TECHNIQUES.items():
        assert each.module.__name__ == f"studylib.techniques.{key}"
        fields = {field.name for field in dataclasses.fields(each.record)}
        assert fields <= survey._takes(key), key


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"techniques": ["tuker"]}, "technique='tuker': unknown; did you mean 'tucker'"),
        ({"techniques": ["cp", "cp"]}, r"techniques=\['cp', 'cp'\]: expected different ones"),
        ({"settings": {"tucker": {"rnk": 2}}}, "settings.tucker.rnk: unknown; did you mean 'rank'"),
        ({"settings": {"tuker": {}}}, "technique='tuker': unknown"),
        ({"narrower": ["resnet"]}, "name: "),
        ({"models": ["resnet19"]}, "model 'resnet19': expected a classifier of torchvision"),
    ],
)
def test_what_cannot_be_compared_is_named(given, message):
    with pytest.raises(ValueError, match=message):
        survey.Survey(**given)


def test_what_the_data_cannot_have_is_named_with_its_technique(tiny):
    asked = survey.Survey(techniques=["fixed"], settings={"fixed": {"calibration_images": 101}})
    with pytest.raises(ValueError, match=r"settings\.fixed\.calibration_images=101: expected 1 to 100"):
        asked.against(tiny)


@pytest.mark.parametrize("key", ["threshold", "semistructured", "tucker", "dynamic", "binary"])
def test_a_technique_is_trained_on_where_it_can_be_and_leaves_what_it_was_given(key, tiny, student_model):
    before = {name: tensor.clone() for name, tensor in student_model.state_dict().items()}
    settings = survey.settings_of(key, {})
    plain = survey.apply(key, student_model, tiny, settings, NONE, seed=0)
    made = survey.apply(key, student_model, tiny, settings, ONE, seed=0)
    assert all(torch.equal(tensor, before[name]) for name, tensor in student_model.state_dict().items())
    changes = [change["technique"] for change in made.spec["changes"][len(student_model.spec["changes"]) :]]
    assert changes == [key] + (["recovery"] if survey.TECHNIQUES[key].kind != survey.QUANTIZATION else [])
    trained = any(
        not torch.equal(a, b) for a, b in zip(plain.state_dict().values(), made.state_dict().values(), strict=True)
    )
    assert trained == survey.trains(key) == (key != "dynamic")
    zeros = [{name: mask == 0 for name, mask in layers.masks_of(each).items()} for each in (plain, made)]
    assert all(bool(zeros[1][name][zero].all()) for name, zero in zeros[0].items())
    assert len(codec.encode(made)) > 0


def test_rows_are_of_every_seed_and_kept_and_the_same_network_is_the_start_of_all(tmp_path, monkeypatch):
    asked = survey.Survey(techniques=["semistructured", "dynamic"], narrower=["resnet 8-1"], batch=2)
    how = ("digits", 3, Student(name="resnet 8-2"), ONE, ONE, asked, torch.device("cpu"), tmp_path)
    rows = survey.compared(*how)
    assert rows[["technique", "form"]].to_numpy().tolist() == [
        [survey.WHOLE, "float32"],
        ["semistructured", ""],
        ["dynamic", ""],
        ["resnet 8-1", "float32"],
        ["resnet 8-1", "int8"],
    ]
    assert set(rows["seed"]) == {3} and rows["accuracy"].between(0, 1).all()
    assert rows["before"].isna().tolist() == [False, False, False, True, True]
    dynamic = rows[rows["technique"] == "dynamic"].iloc[0]
    assert dynamic["before"] == dynamic["accuracy"]  # it is not trained on
    monkeypatch.setattr(survey, "_trained", None)  # what is kept is not made again
    pd.testing.assert_frame_equal(survey.compared(*how), rows)


def made_up(seeds=(0, 1, 2)):
    """Narrower networks of 1,000 and 4,000 bytes at 60 and 80 %; three techniques of 2,000 bytes, above, below, at."""
    rows = []
    for seed in seeds:
        wobble = 0.001 * seed
        plain = {"seed": seed, "multiply_adds": 10**6, "latency_ms": 1.0, "before": 0.5, "nll": 1.0}
        rows.append(
            plain | {"technique": survey.WHOLE, "kind": survey.WHOLE, "form": "float32", "accuracy": 0.9, "bytes": 9000}
        )
        for key, accuracy in (("tucker", 0.8 + wobble), ("cp", 0.6 - wobble), ("svd", 0.7 + 0.03 * (seed - 1))):
            rows.append(
                plain | {"technique": key, "kind": survey.LOW_RANK, "form": "", "accuracy": accuracy, "bytes": 2000}
            )
        rows.append(
            plain | {"technique": "int4", "kind": survey.QUANTIZATION, "form": "", "accuracy": 0.5, "bytes": 900}
        )
        for name, size, accuracy in (("a", 1000, 0.6), ("b", 4000, 0.8)):
            rows.append(
                plain
                | {"technique": name, "kind": survey.CONTROL, "form": "float32", "accuracy": accuracy, "bytes": size}
            )
    return pd.DataFrame(rows)


def test_at_equal_bytes_is_between_the_narrower_networks_on_a_logarithmic_axis():
    table = survey.at_equal_bytes(made_up()).set_index("technique")
    assert table.loc["tucker", "margin"] == pytest.approx(10.1)  # halfway in log bytes: 70 %
    verdicts = table.loc[["tucker", "cp", "svd", "int4"], "verdict"].tolist()
    expected = [sweep_narrower.BEATS, sweep_narrower.BEATEN, "cannot tell", sweep_narrower.TOO_SMALL]
    assert verdicts == expected
    assert table.loc["tucker", "low"] < 10.1 < table.loc["tucker", "high"]
    one = survey.at_equal_bytes(made_up([0])).set_index("technique")
    assert one.loc["tucker", "verdict"] == "cannot tell" and one["low"].isna().all()
    found = survey.rivals(made_up())
    assert found["technique"].tolist() == ["a", "b"] and found["bytes"].tolist() == [1000, 4000]
    assert found["accuracy"].tolist() == pytest.approx([0.6, 0.8])


def test_what_the_table_says_is_said():
    table = survey.at_equal_bytes(made_up())
    told = survey.told(table, points=15)
    assert (
        told["smallest"].startswith("Of all that stay within 15 points")
        and "tucker is the smallest: 2.0 kB of 9.0" in told["smallest"]
    )
    assert survey.told(table)["smallest"] == "No technique stays within 1 points of the network as trained."
    assert "most accurate is tucker (80.1 %), the least int4 (50.0 %). As trained it is 90.0 %" in told["costs"]
    assert told["verdicts"].startswith("Above narrower networks of as many bytes: tucker. Below them: cp.")
    shown = survey.shown(table).set_index("stage")
    assert shown.loc["tucker", "saved %"] == "77.8" and shown.loc["tucker", "over narrower, points"].startswith(
        "+10.1 ("
    )
    assert shown.loc["int4", "over narrower, points"] == "–" and shown.loc["–", "verdict"] == "–"


def test_settings_of_a_technique_are_read_by_its_record():
    assert survey.settings_of("semistructured", {"n": 1}).n == 1
    with pytest.raises(SettingError, match=r"settings\.k: unknown"):
        survey.settings_of("semistructured", {"k": 1})
