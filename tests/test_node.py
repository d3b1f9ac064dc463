import dataclasses

import pandas as pd
import pytest
import safetensors.torch
import torch

from studylib import settings
from studylib.coding import codec, size
from studylib.data import datasets, scoring
from studylib.disk import files, models
from studylib.networks import cost, layers, spec
from studylib.results import tables
from studylib.techniques import svd
from studylib.tree import published, table
from studylib.tree.names import CODED, METRICS
from studylib.tree.node import Node


@pytest.fixture(scope="module")
def finished(student_model, tmp_path_factory):
    """A node's folder and metrics, and the splits that were predicted while it was finished."""
    folder, predicted = tmp_path_factory.mktemp("run") / "seed0" / "teacher-kd-svd", []
    predict = scoring.predict

    def watched(model, split, data, *rest):
        predicted.append((len(split), model))
        return predict(model, split, data, *rest)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(scoring, "predict", watched)
        node = Node(folder, "digits", 0, device="cpu")
        node.scratch.mkdir(parents=True)
        (node.scratch / "kd.safetensors").touch()
        model = svd.apply(student_model)
        model.history = [{"epoch": 1, "val_accuracy": 0.5}]
        metrics = node.finish(model)
    return folder, metrics, predicted, model


def test_a_node_leaves_five_files_and_no_scratch(finished):
    names = sorted(file.name for file in finished[0].iterdir())
    assert names == ["metrics.json", "model.json", "model.safetensors", "model.slnc", "test_logits.safetensors"]


def test_the_test_set_is_read_exactly_once(finished):
    assert [count for count, _ in finished[2]].count(997) == 1


def test_what_is_evaluated_is_what_was_read_back(finished):
    _, _, predicted, model = finished
    assert not any(evaluated is model for _, evaluated in predicted)


def test_metrics_follow_from_the_stored_logits(finished, digits):
    folder, metrics, *_ = finished
    stored = safetensors.torch.load_file(folder / "test_logits.safetensors")
    assert torch.equal(stored["labels"], digits.test.labels)
    assert metrics["test_accuracy"] == (stored["logits"].argmax(1) == stored["labels"]).double().mean().item()
    found = scoring.scores(stored["logits"], stored["labels"])
    assert {f"test_{k}": v for k, v in found.items()} == {k: metrics[k] for k in metrics if k.startswith("test_")}


def test_the_coded_file_gives_the_stored_logits(finished, digits):
    folder, metrics, _, model = finished
    stored = safetensors.torch.load_file(folder / "test_logits.safetensors")["logits"]
    decoded = codec.decode((folder / "model.slnc").read_bytes())
    assert torch.equal(scoring.predict(decoded, digits.test, digits), stored)
    assert metrics["val_accuracy"] == scoring.accuracy(decoded, digits.validation, digits)
    for again in (model, models.load_model(folder)):  # batch norm not folded: rounded otherwise
        assert torch.allclose(scoring.predict(again, digits.test, digits), stored, atol=1e-4)


def test_the_file_knows_how_images_are_to_be_scaled(finished, digits):
    decoded = codec.decode((finished[0] / CODED).read_bytes())
    scaled = spec.normalize(decoded, digits.test.images[:50])
    assert torch.equal(scaled, digits.normalize(digits.test.images[:50]))
    assert torch.equal(spec.normalize(models.load_model(finished[0]), digits.test.images[:50]), scaled)


def test_metrics_say_the_sizes(finished, digits):
    folder, metrics, _, model = finished
    for name, value in size.accountings(model).items():
        assert metrics[name] == value
    assert metrics["bytes_file"] == (folder / "model.slnc").stat().st_size < metrics["bytes_zstd"]
    assert metrics["sparsity"] == layers.sparsity(model)
    assert metrics["multiply_adds"] == cost.multiply_adds(model, {"in_channels": 1, "image_size": 8})
    assert metrics["seconds"] > 0 and metrics["peak_memory_mb"] > 0


def test_metrics_say_what_half_precision_costs(finished, digits):
    _, metrics, _, model = finished
    file = codec.encode(model, floats="float16")
    assert metrics["bytes_file_float16"] == len(file) < 0.6 * metrics["bytes_file"]
    assert metrics["val_accuracy_float16"] == scoring.accuracy(codec.decode(file), digits.validation, digits)


def test_a_float_beyond_half_precision_leaves_no_second_file(student_model, tmp_path):
    model = layers.duplicate(student_model)
    with torch.no_grad():
        model.fc3.bias[0] = 1e6
    metrics = Node(tmp_path, "digits", 0, device="cpu").finish(model)
    assert metrics["bytes_file_float16"] is None and metrics["val_accuracy_float16"] is None
    assert metrics["bytes_file"] > 0


@pytest.mark.parametrize("damage", ["weights", "outputs"])
def test_a_file_that_decodes_to_another_model_is_not_reported(student_model, tmp_path, monkeypatch, damage):
    decode = codec.decode

    def wrong(file):
        model = decode(file)
        with torch.no_grad():
            if damage == "weights":
                model.fc3.weight[0, 0] += 1e-3
            else:
                model.fc3.register_forward_hook(lambda _module, _input, output: output * (1 + 1e-6))
        return model

    monkeypatch.setattr(codec, "decode", wrong)
    with pytest.raises(codec.CodecError, match=r"fc3.weight" if damage == "weights" else "outputs"):
        Node(tmp_path, "digits", 0, device="cpu").finish(layers.duplicate(student_model))
    assert not (tmp_path / "metrics.json").exists()


def test_metrics_are_on_disk_with_all_that_a_sweep_reads(finished):
    folder, metrics, *_ = finished
    assert files.read_json(folder / "metrics.json") == metrics
    assert set(table.COLUMNS) - metrics.keys() == {"node", "latency_ms", "agreement", "bytes_nncodec"}


def test_metrics_say_where_they_come_from(finished):
    _, metrics, _, model = finished
    assert metrics["seed"] == 0
    assert metrics["data"] == {"name": "digits", "seed": 0, "train": 600, "validation": 200, "test": 997}
    assert metrics["changes"] == model.spec["changes"] and metrics["changes"][-1]["technique"] == "svd"
    assert metrics["history"] == [{"epoch": 1, "val_accuracy": 0.5}]
    assert {"git_commit", "packages", "hardware", "date"} <= metrics["provenance"].keys()


@pytest.mark.parametrize("out", ["../elsewhere", "runs/../../elsewhere"])
def test_a_node_writes_to_no_folder_that_leaves_the_root(study_root, out):
    with pytest.raises(ValueError, match=rf"'{out}': leaves {study_root}; expected a folder below it"):
        Node(out, "digits", 0, device="cpu")


def test_a_node_loads_its_parent_by_a_path_below_the_root(study_root, student_model, same_tensors):
    models.save_model(study_root / "runs" / "x" / "teacher", student_model)
    node = Node("runs/x/teacher-kd", "digits", 3, device="cpu")
    assert node.out == study_root / "runs" / "x" / "teacher-kd" and node.scratch.parent == node.out
    assert node.data.seed == 3
    assert same_tensors(node.load("runs/x/teacher"), student_model)
    assert not node.out.exists()
    with pytest.raises(files.CheckpointError, match="make study PROFILE=x"):
        node.load("runs/x/teacher-int8")


def test_a_failure_leaves_no_metrics(study_root, student_model, monkeypatch):
    """What the engine waits for is written last."""
    monkeypatch.setattr(cost, "multiply_adds", lambda *args: 1 / 0)
    node = Node("runs/x/teacher", "digits", 0, device="cpu")
    node.scratch.mkdir(parents=True)
    with pytest.raises(ZeroDivisionError):
        node.finish(layers.duplicate(student_model))
    assert not (node.out / "metrics.json").exists() and node.scratch.exists()


def test_a_finished_node_is_shown_and_not_made_again(finished, tmp_path):
    folder, metrics, _, model = finished
    node = Node(tmp_path / "again", "digits", 0, device="cpu")
    assert node.reuse("") is None and "made" not in node.about
    again = node.reuse(folder)
    assert node.about["made"] == metrics["provenance"]  # whatever day and code it is from
    assert again.history == [{"epoch": 1, "val_accuracy": 0.5}]
    assert torch.equal(again.fc3.second.weight, model.fc3.second.weight)
    assert node.finish(again)["test_accuracy"] == metrics["test_accuracy"]
    logits, labels = node.test_logits()
    assert (logits.argmax(1) == labels).double().mean().item() == metrics["test_accuracy"]
    with pytest.raises(files.CheckpointError, match="nowhere"):
        node.reuse(tmp_path / "nowhere")


def test_metrics_and_all_that_is_published_of_a_node_say_which_images_they_are_of(finished, tmp_path, monkeypatch):
    _, metrics, *_ = finished
    digits = datasets.load("digits", 0)
    assert metrics["provenance"]["data_sha256"] == digits.digest
    monkeypatch.setattr(datasets, "load", lambda name, seed: dataclasses.replace(digits, test=digits.validation))
    node = Node(tmp_path, "digits", 0, device="cpu")
    tables.save_table(tmp_path / "table", pd.DataFrame({"a": [1]}), node.about)
    said = files.read_json(tmp_path / "table.json")["about"]["provenance"]["data_sha256"]
    assert said == node.data.digest != digits.digest


STUDY = {"dataset": "digits", "seed": 3, "device": "cpu"}


@pytest.fixture
def reads(monkeypatch):
    """What is read of data sets: pairs of name and seed."""
    found, load = [], datasets.load
    monkeypatch.setattr(datasets, "load", lambda name, seed=0: found.append((name, seed)) or load(name, seed))
    return found


def publish(folder, **content):
    """A study's file of chapter 4 in ``folder``."""
    whole = {key: kind() for key, kind in published.KEYS.items()} | {"chapter": "04_svd"} | content
    files.write_json(folder / "04_svd.json", whole)
    return folder


def test_a_notebook_s_node_is_of_its_study_and_reads_images_once_they_are_asked_for(tmp_path, reads):
    node = Node.of(tmp_path / "out", STUDY, "04_svd")
    assert node.study == settings.Study("digits", 3, 0, "cpu") and node.chapter == "04_svd"
    assert node.published is None and node.device == torch.device("cpu") and reads == []
    assert node.data.seed == 3 and node.data is node.data
    assert reads == [("digits", 3)]
    assert Node.of(tmp_path, node.study, "04_svd").study == node.study
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("study", "message"),
    [
        ({**STUDY, "sed": 0}, "study.sed: unknown; did you mean 'seed'"),
        ({"seed": 0}, "study.dataset: missing"),
        ({**STUDY, "seed": -1}, "study.seed=-1: expected at least 0"),
        ({**STUDY, "seed": True}, "study.seed=True: expected a whole number"),
        ({**STUDY, "device": "gpu"}, "study.device='gpu': expected one of 'auto', 'cpu' or 'cuda'"),
        ("digits", "study='digits': expected a dictionary"),
    ],
)
def test_a_study_that_cannot_be_is_refused_before_anything_is_read(tmp_path, reads, study, message):
    with pytest.raises(settings.SettingError, match=f"^{message}"):
        Node.of(tmp_path / "out", study, "04_svd")
    assert reads == [] and not (tmp_path / "out").exists()


def test_a_node_that_is_made_is_finished_with_the_model_that_is_handed_to_it(tmp_path, student_model):
    node = Node.of(tmp_path, STUDY, "04_svd")
    metrics = node.make(lambda: layers.duplicate(student_model))
    assert metrics == files.read_json(tmp_path / METRICS) and metrics["seed"] == 3
    assert node.model is not None and node.about["data"]["seed"] == 3


def test_of_a_published_chapter_nothing_is_made_and_no_image_is_read(tmp_path, study_root, reads):
    about, metrics = {"data": {"name": "digits"}}, {"test_accuracy": 0.5}
    publish(study_root / "figures" / "mine", about=about, metrics=metrics)
    node = Node.of(tmp_path / "out", STUDY, "04_svd", "figures/mine")
    assert node.make(lambda: pytest.fail("a model is made")) == metrics
    assert node.about == about and node.model is None and node.published.content["metrics"] == metrics
    assert reads == [] and not (tmp_path / "out").exists()


def test_what_is_not_published_is_refused_with_what_is(tmp_path, study_root):
    with pytest.raises(files.CheckpointError, match="expected a study that has published 04_svd; nothing is published"):
        Node.of(tmp_path / "out", STUDY, "04_svd", "figures/mine")
    publish(study_root / "figures" / "mine")
    with pytest.raises(files.CheckpointError, match=r"published 05_int8; it has 04_svd\. An empty text"):
        Node.of(tmp_path / "out", STUDY, "05_int8", "figures/mine")
    files.write_json(study_root / "figures" / "mine" / "04_svd.json", {"rows": {}})
    with pytest.raises(files.CheckpointError, match=r"04_svd.json: expected chapter, which is a JSON string"):
        Node.of(tmp_path / "out", STUDY, "04_svd", "figures/mine")
