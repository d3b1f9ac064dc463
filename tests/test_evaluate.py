import errno
import hashlib
import json

import numpy as np
import pytest
import torch

from engine.settings.reading import ROOT
from engine.tools import evaluate
from studylib.coding import codec, restore, shipped
from studylib.data import scoring, sources
from studylib.networks import layers, spec
from tests.test_restore import BAD_LISTS


@pytest.fixture
def file(int8_model, digits, tmp_path):
    """A coded file, its model, and the list beside it that says the truth."""
    model = layers.duplicate(int8_model)
    model.spec = {**model.spec, "input": digits.scaling}
    path = tmp_path / "digits-x.slnc"
    path.write_bytes(codec.encode(model))
    about = {"bytes": path.stat().st_size, "sha256": hashlib.sha256(path.read_bytes()).hexdigest()}
    about |= {"test_accuracy": scoring.accuracy(shipped.apply(model), digits.test, digits)}
    (tmp_path / restore.LIST).write_text(json.dumps({path.name: about}))
    return path


def said(monkeypatch, capsys, *arguments):
    """What the command prints, and what it exits with."""
    monkeypatch.setattr("sys.argv", ["evaluate.py", *map(str, arguments)])
    try:
        evaluate.main()
        code = None
    except SystemExit as stopped:
        code = stopped.code
    return capsys.readouterr().out, code


def relist(file, **changes):
    path = file.parent / restore.LIST
    about = json.loads(path.read_text())
    path.write_text(json.dumps({file.name: about[file.name] | changes}))


def test_a_published_file_is_worth_what_was_published(file, monkeypatch, capsys, digits):
    out, code = said(monkeypatch, capsys, file)
    cited = json.loads((file.parent / restore.LIST).read_text())[file.name]
    assert code is None and f"{cited['test_accuracy']:.2%} of the 997 test images of digits right" in out
    assert f"published: {cited['bytes']:,} bytes, {cited['test_accuracy']:.2%}" in out


IMAGES = {"in_channels": 1, "image_size": 8, "classes": 0, "width": 2, "latent": 2}


@pytest.mark.parametrize(("name", "args"), [("vae", IMAGES), ("gpt", {"characters": 5, "width": 8, "depth": 1})])
def test_a_file_that_generates_is_told_apart(name, args, tmp_path, monkeypatch, capsys):
    model = spec.create(name, 0, **args).eval()
    (tmp_path / "x.slnc").write_bytes(codec.encode(shipped.apply(model)))
    assert "it has no accuracy; make sample draws with it" in said(monkeypatch, capsys, tmp_path / "x.slnc")[1]


def test_another_accuracy_than_was_published_fails(file, monkeypatch, capsys):
    relist(file, test_accuracy=0.5)
    assert "expected 50.00%" in said(monkeypatch, capsys, file)[1]


def test_another_file_than_was_published_fails(file, monkeypatch, capsys):
    relist(file, sha256="0")
    assert "not the file that was published" in said(monkeypatch, capsys, file)[1]


def test_a_file_that_was_not_published_is_only_evaluated(file, monkeypatch, capsys):
    (file.parent / restore.LIST).unlink()
    out, code = said(monkeypatch, capsys, file)
    assert code is None and "published" not in out


def test_what_cannot_be_evaluated_is_said(file, monkeypatch, capsys, student_model):
    assert (
        "expected digits for the data set, found 'cifar10'"
        in said(monkeypatch, capsys, file, "--dataset", "cifar10")[1]
    )
    assert "none.slnc: expected a coded file" in said(monkeypatch, capsys, file.parent / "none.slnc")[1]
    file.write_bytes(codec.encode(student_model))
    assert "input None in the spec: expected mean and std" in said(monkeypatch, capsys, file)[1]
    file.write_bytes(file.read_bytes()[:-5])
    assert "checksum" in said(monkeypatch, capsys, file)[1]
    file.write_bytes(codec.encode(spec.create("convnet", 0, in_channels=1, image_size=16)))
    assert "images of 1 × 16 × 16, 10 classes: expected none" in said(monkeypatch, capsys, file)[1]


LARGE = "cifar10 or cifar10_10k or svhn"


@pytest.mark.parametrize(
    ("channels", "side", "classes", "asked", "dataset", "fitting"),
    [
        (1, 8, 10, "", "digits", "digits"),
        (1, 28, 10, "", "mnist_5k", "mnist_5k or fashion_mnist"),
        (1, 28, 10, "fashion_mnist", "fashion_mnist", "mnist_5k or fashion_mnist"),
        (3, 32, 10, "", "cifar10", LARGE),
        (3, 32, 10, "cifar10_10k", "cifar10_10k", LARGE),
        (3, 32, 10, "svhn", "svhn", LARGE),
        (3, 32, 100, "", "cifar100", "cifar100"),
    ],
)
def test_a_file_is_evaluated_on_the_images_and_classes_that_fit(channels, side, classes, asked, dataset, fitting):
    model = spec.create("convnet", 0, in_channels=channels, image_size=side, classes=classes)
    model.spec = {**model.spec, "input": {"mean": [0.5] * channels, "std": [0.5] * channels}}
    known = sources.table(asked)
    assert evaluate.opened(codec.encode(model), asked, known)[1] == dataset
    with pytest.raises(ValueError, match=f"{classes} classes: expected {fitting} for the"):
        evaluate.opened(codec.encode(model), "other", known)


def test_a_file_is_evaluated_on_images_of_ones_own(file, monkeypatch, capsys, digits, tmp_path):
    own = tmp_path / "my images: some.npz"
    train, test = digits.train, digits.test
    arrays = {
        "x_train": train.images[:, 0],
        "y_train": train.labels,
        "x_test": test.images[:, 0],
        "y_test": test.labels,
    }
    np.savez(own, **{name: tensor.numpy() for name, tensor in arrays.items()})
    out, code = said(monkeypatch, capsys, file, "--dataset", f"images:{own}")
    cited = json.loads((file.parent / restore.LIST).read_text())[file.name]
    assert code is None and f"{cited['test_accuracy']:.2%} of the 997 test images of images:{own} right" in out
    np.savez(own, **arrays | {"x_train": np.zeros((600, 9, 9), np.uint8), "x_test": np.zeros((997, 9, 9), np.uint8)})
    assert said(monkeypatch, capsys, file, "--dataset", f"images:{own}")[1].startswith(
        f"{file}: images of 1 × 8 × 8, 10 classes: expected digits for the data set, found 'images:"
    )
    own.unlink()
    assert said(monkeypatch, capsys, file, "--dataset", f"images:{own}")[1].startswith(
        f"{own}: cannot be read: No such"
    )


@pytest.mark.parametrize("content", [c.replace(b"small.slnc", b"digits-x.slnc") for c in BAD_LISTS])
def test_a_damaged_list_is_named(file, monkeypatch, capsys, content):
    (file.parent / restore.LIST).write_bytes(content)
    out, code = said(monkeypatch, capsys, file)
    assert code.startswith(f"{file.parent / restore.LIST}: ") and "\n" not in code and not out


def test_what_this_machine_cannot_read_is_not_blamed_on_the_file(file, monkeypatch, capsys):
    def fail(*_):
        raise FileNotFoundError(errno.ENOENT, "no such data", "/data")

    def broken(*_):
        raise ValueError("/data/images: damaged")

    for error, expected in ((fail, "/data: no such data; nothing was evaluated"), (broken, "/data/images: damaged")):
        with monkeypatch.context() as patch:
            patch.setattr(evaluate.datasets, "load", error)
            assert said(monkeypatch, capsys, file)[1] == expected
    with monkeypatch.context() as patch:
        patch.setattr(evaluate.Path, "read_bytes", fail)
        assert said(monkeypatch, capsys, file)[1] == "/data: no such data; nothing was evaluated"


@pytest.mark.parametrize("scaling", [{"mean": [0.5, 0.5], "std": [1, 1]}, {"mean": 0.5, "std": 1}, {"mean": [[0.5]]}])
def test_a_file_whose_input_does_not_fit_its_images_is_refused(file, monkeypatch, capsys, int8_model, scaling):
    model = layers.duplicate(int8_model)
    model.spec = {**model.spec, "input": scaling}
    file.write_bytes(codec.encode(model))
    assert "expected mean and std, a number a channel" in said(monkeypatch, capsys, file)[1]


def test_a_file_whose_layers_do_not_fit_each_other_is_refused(file, monkeypatch, capsys, student_model, digits):
    model = shipped.apply(student_model)
    model.spec["changes"][-1]["structure"]["widths"] = {"fc2": [5, 16]}  # what fc3 reads is wider
    model.fc2 = torch.nn.Linear(16, 5)
    model.spec = {**model.spec, "input": digits.scaling}
    monkeypatch.setattr(shipped, "apply", lambda model, **_: model)  # which would not slice so
    file.write_bytes(codec.encode(model))
    assert "does not compute classes of images of digits" in said(monkeypatch, capsys, file)[1]


PUBLISHED = json.loads((ROOT / "figures" / "models" / restore.LIST).read_text())
CLASSIFIERS = {name: about for name, about in PUBLISHED.items() if "test_accuracy" in about}


@pytest.mark.parametrize("name", [name for name, about in CLASSIFIERS.items() if about["dataset"] == "digits"])
def test_every_published_model_is_worth_what_it_is_cited_with(name, monkeypatch, capsys):
    out, code = said(monkeypatch, capsys, ROOT / "figures" / "models" / name)
    assert code is None and f"published: {PUBLISHED[name]['bytes']:,} bytes" in out


def test_only_listed_files_of_at_most_200_kb_are_published():
    files = {path.name: path.stat().st_size for path in (ROOT / "figures" / "models").glob("*.slnc")}
    assert files == {name: about["bytes"] for name, about in PUBLISHED.items()}
    assert max(files.values()) <= 200_000
