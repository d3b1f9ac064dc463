"""The zoo: what arithmetic says of torchvision's classifiers, what is measured, one process a model, kept rows."""

import json
import re
import subprocess
import sys

import pandas as pd
import pytest
import torch
from projects import ROOT
from torch import nn
from torchvision import models

from studylib.experiments import zoo, zoo_models


def test_arithmetic_counts_linear_layers_for_dynamic_and_convolutions_too_for_static():
    row = zoo.predicted("alexnet")
    linear = 9216 * 4096 + 4096 * 4096 + 4096 * 1000
    convolutions = 3 * 64 * 121 + 64 * 192 * 25 + 192 * 384 * 9 + 384 * 256 * 9 + 256 * 256 * 9
    assert row["parameters"] == 61_100_840
    assert row["dynamic"] == pytest.approx(0.75 * linear / row["parameters"])
    assert row["static"] == pytest.approx(0.75 * (linear + convolutions) / row["parameters"])


def test_attention_is_left_as_it_is():
    width, hidden, blocks = 768, 3072, 12  # ViT-B/16, whose linear layers outside attention are these and the last
    row = zoo.predicted("vit_b_16")
    assert row["dynamic"] == pytest.approx(0.75 * (blocks * 2 * width * hidden + width * 1000) / row["parameters"])


def test_a_name_that_torchvision_has_not_is_told_before_anything_is_measured(tmp_path):
    for names in (["resnet19"], ["squeezenet1_1", "resnet19"]):
        with pytest.raises(ValueError, match=r"or a classifier of torchvision; did you mean 'resnet1[80]'"):
            zoo.rows(names, tmp_path)
    assert not list(tmp_path.iterdir())


class Small(nn.Sequential):
    def __init__(self):
        super().__init__(nn.Conv2d(3, 512, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(512, 1000))


def test_bytes_are_those_of_the_saved_state_and_rounding_saves_what_arithmetic_says(monkeypatch):
    monkeypatch.setattr(zoo_models, "built", lambda name, **given: Small().eval())
    row, plan = zoo.measured("small"), zoo.predicted("small")
    weights = 4 * sum(weight.numel() for weight in Small().parameters())
    assert weights < row["bytes"] < weights + 3000
    for column, way in (("bytes_dynamic", "dynamic"), ("bytes_torchao", "dynamic"), ("bytes_static", "static")):
        scales = 24 * (512 + 1000)  # float64 and int64, or less, for each row
        assert abs(row[column] - weights * (1 - plan[way])) < scales + 10_000, column
    assert row["api"] == "FX graph mode" and row["peak_bytes"] > 10**8


def test_rows_are_kept_and_what_takes_too_much_memory_is_left_out_and_said(tmp_path):
    said = []
    table = zoo.rows(["squeezenet1_1"], tmp_path, most=10**6, say=said.append)
    assert table["left_out"].tolist() == ["it takes more than 0.000931323 GiB"] and table["bytes"].isna().all()
    assert said == ["[1/1] squeezenet1_1: it takes more than 0.000931323 GiB"]
    path = tmp_path / "squeezenet1_1.json"
    kept = json.loads(path.read_text())
    kept["found"]["left_out"] = "kept"
    path.write_text(json.dumps(kept))
    assert zoo.rows(["squeezenet1_1"], tmp_path, most=10**6)["left_out"].tolist() == ["kept"]


def rows_of(models, **saved):
    """Models that save so many percent of a million bytes by each way."""
    table = pd.DataFrame({"model": models, "parameters": 250_000, "bytes": 10**6, "left_out": ""})
    for way, percent in saved.items():
        table[zoo.SAVED[way]] = [10**6 * (1 - each / 100) for each in percent]
    return table.assign(predicted_dynamic=0.5, predicted_static=0.75)


def test_means_are_of_each_list_by_itself_and_what_was_left_out_is_said(capsys, monkeypatch):
    known = pd.DataFrame(
        {"model": sorted({*zoo_models.FAMILIES, *zoo_models.LISTS[zoo_models.HEAVY]}), "dynamic": 0.5, "static": 0.74}
    )
    known.loc[known["model"] == "alexnet", "dynamic"] = 0.72
    monkeypatch.setattr(zoo, "of_all", lambda: known)
    found = rows_of(
        ["alexnet", zoo_models.quantizable()[0]], dynamic=[60.06, 10], torchao=[50, 20.02], static=[70, 74.04]
    )
    gone = {
        "model": "vgg16",
        "parameters": 1,
        "predicted_dynamic": 0.7,
        "predicted_static": 0.7,
        "left_out": "too large",
    }
    zoo.report(pd.concat([found, pd.DataFrame([gone])], ignore_index=True))
    said = capsys.readouterr().out
    assert "mean saved by 1 of 12 models of many families: dynamic 60.1 %, torchao 50.0 %, static 70.0 %" in said
    assert (
        "mean saved by 1 of 12 models that torchvision quantizes: dynamic 10.0 %, torchao 20.0 %, static 74.0 %" in said
    )
    assert "left out: vgg16, too large" in said
    assert f"Of {len(known)} models 1 save the survey's 56 % or more by dynamic int8." in said
    assert re.search(r"the survey's, unnamed +56.0 +74.0", said)
    assert (
        "Saved by dynamic and by static int8: 1 of 12 models of many families 60.1 % and 70.0 %; "
        "1 of 12 models that torchvision quantizes 10.0 % and 74.0 %."
    ) in said
    assert "The furthest is quantized_googlenet by dynamic int8, 40.0 from it." in said


def test_what_stays_in_float32_is_named_and_a_table_has_all_three_ways():
    known = pd.DataFrame({"model": ["alexnet"], "dynamic": [0.7], "static": [0.75]})
    found = rows_of(["alexnet", "swin_t"], dynamic=[70, 74], torchao=[69, 73.96], static=[74, 50])
    said = zoo.told(found, known)
    assert "Static int8 leaves much of swin_t in float32; the others save 74.0 %. Of 1 models" in said
    assert "in float32" not in zoo.told(found[:1], known)
    assert said.endswith(
        "Of 1 models 1 save the survey's 56 % or more by dynamic int8. Others save less. "
        "At least 1 of its twelve must be of these."
    )
    many = pd.DataFrame({"model": list("abcdefghijklmnop"), "dynamic": [0.8] * 8 + [0.4] * 8, "static": 0.74})
    assert "At least 5 of its twelve" in zoo.told(found, many)  # 5 × 80 and 7 × 40: 56.7 in the mean
    assert zoo.told(found, many.assign(dynamic=0.3)).endswith("No twelve of them average as much.")
    assert zoo.listed(found).to_dict("list") == {
        **{"model": ["alexnet", "swin_t"], "million parameters": ["0.2", "0.2"], "MB": ["1.0", "1.0"]},
        **{"dynamic %": ["70.0", "74.0"], "torchao %": ["69.0", "74.0"], "static %": ["74.0", "50.0"]},
    }
    gone = found[:1].assign(bytes=None, **dict.fromkeys(zoo.SAVED.values()))
    assert zoo.listed(gone)["static %"].tolist() == ["–"]


def test_no_less_than_a_byte_of_memory_may_be_asked_for(monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["zoo", "--most", "-5"])
    with pytest.raises(SystemExit):
        zoo.main()
    assert "--most -5: expected bytes, 1 or more" in capsys.readouterr().err


def test_the_lists_are_twelve_each_and_of_torchvision():
    known = models.list_models(module=models)
    assert len(set(zoo_models.FAMILIES)) == len(set(zoo_models.quantizable())) == 12
    assert set(zoo_models.FAMILIES) <= set(known) and set(zoo_models.SMALL) <= set(zoo_models.named(zoo_models.lists()))


def test_a_list_is_spelt_out_once_and_rows_of_no_list_stand_apart():
    names = zoo_models.named(["families", "resnet18", "vgg11"])
    assert names == [*zoo_models.FAMILIES, "vgg11"]
    parts = zoo.parts(rows_of(["vgg11", "resnet18"], dynamic=[1, 2], torchao=[1, 2], static=[3, 4]))
    assert {title: list(part["model"]) for title, part in parts.items()} == {
        "1 of 12 models of many families": ["resnet18"],
        "1 other models": ["vgg11"],
    }


def test_the_command_names_what_it_does_not_know():
    command = [sys.executable, "-m", "studylib.experiments.zoo", "resnet19"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 1 and done.stderr.startswith("model 'resnet19': expected") and not done.stdout


@pytest.mark.long
def test_small_models_save_what_arithmetic_says_within_four_points(tmp_path):
    shown = zoo.shares(zoo.rows(zoo_models.SMALL, tmp_path)).set_index("model")
    for way in ("dynamic", "static"):
        assert (shown[f"{way} %"] - shown[f"{way}, by arithmetic %"]).abs().max() < 4
    assert torch.isfinite(torch.tensor(shown.to_numpy(float))).all()
