"""Data sets that torchvision reads, from a few made-up images in the formats of their authors."""

import numpy as np
import originals
import pytest
import torch

from studylib.data import datasets, sources
from studylib.data.datasets import SOURCES

NAMES = pytest.mark.parametrize("name", originals.ORIGINALS)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """An empty folder that STUDY_DATA names, on a machine without a network."""
    monkeypatch.setenv("STUDY_DATA", str(tmp_path))
    originals.without_network(monkeypatch)
    return tmp_path


def pairs(images: torch.Tensor, labels: torch.Tensor) -> list[tuple[bytes, int]]:
    """Images (n, c, h, w) and their labels, in an order of their own."""
    return sorted(zip([image.numpy().tobytes() for image in images], labels.tolist(), strict=True))


@NAMES
def test_images_and_labels_are_those_of_the_original_files(name, folder, monkeypatch):
    arrays = originals.ORIGINALS[name](folder, monkeypatch)
    data = datasets.load(name, 0)
    count = len(arrays["y_train"])
    assert data.sizes == {"train": count * 9 // 10, "validation": count // 10, "test": count // 10}
    assert (data.model_args["in_channels"], data.model_args["image_size"]) == SOURCES[name].shape
    assert data.model_args["classes"] == SOURCES[name].classes == len(data.classes)
    assert data.name == name and data.augmentation == SOURCES[name].augmentation
    pool = torch.cat([data.train.images, data.validation.images])
    labels = torch.cat([data.train.labels, data.validation.labels])
    for part, found in (("train", pairs(pool, labels)), ("test", pairs(data.test.images, data.test.labels))):
        x = arrays[f"x_{part}"]
        written = torch.from_numpy(x[..., None] if x.ndim == 3 else x).permute(0, 3, 1, 2)
        assert found == pairs(written, torch.from_numpy(arrays[f"y_{part}"]))
    normal = data.normalize(pool)
    assert normal.mean((0, 2, 3)).abs().max() < 1e-4 and (normal.std((0, 2, 3)) - 1).abs().max() < 1e-3


@NAMES
def test_every_class_validates_and_the_seed_says_with_which_images(name, folder, monkeypatch):
    originals.ORIGINALS[name](folder, monkeypatch)
    one, again, other = (datasets.load(name, seed) for seed in (0, 0, 1))
    assert one.validation.labels.bincount().tolist() == [1] * SOURCES[name].classes
    assert one.digest == again.digest != other.digest and one.test.digest == other.test.digest


@NAMES
def test_without_its_files_both_ways_to_get_them_are_named(name, folder):
    with pytest.raises(FileNotFoundError) as caught:
        datasets.load(name)
    for part in ("is not on this machine", "set STUDY_DATA to a folder with", "download it", "no route to host"):
        assert part in str(caught.value)
    assert "\n" not in str(caught.value)


@NAMES
def test_a_damaged_original_is_not_read(name, folder, monkeypatch):
    originals.ORIGINALS[name](folder, monkeypatch)
    file = max((path for path in folder.rglob("*") if path.is_file()), key=lambda path: path.stat().st_size)
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    with pytest.raises(FileNotFoundError, match="which just failed"):
        datasets.load(name)


@NAMES
def test_a_study_data_that_is_no_folder_is_named(name, folder, monkeypatch):
    monkeypatch.setenv("STUDY_DATA", str(folder / "nowhere"))
    with pytest.raises(FileNotFoundError, match=f"STUDY_DATA={folder / 'nowhere'}: expected a folder"):
        datasets.load(name)


def test_cifar100_has_its_fine_classes_by_their_names(folder, monkeypatch):
    originals.cifar100(folder, monkeypatch)
    assert datasets.load("cifar100").classes == tuple(originals.FINE)


def test_a_zero_of_svhn_has_the_label_0(folder, monkeypatch):
    originals.svhn(folder, monkeypatch)
    data = datasets.load("svhn")
    assert data.test.labels.bincount().tolist() == [1] * 10 and data.classes == tuple("0123456789")


def test_digits_of_house_numbers_are_not_mirrored_and_clothes_are():
    flips = {name: SOURCES[name].augmentation.flip for name in SOURCES}
    mirrored = {"fashion_mnist", "cifar10", "cifar10_10k", "cifar100"}
    assert {name for name, flip in flips.items() if flip} == mirrored


def test_few_images_of_a_class_are_named_by_its_name(folder, monkeypatch):
    def lopsided(classes, *shape):
        arrays = images(classes, *shape)
        arrays["y_train"] = np.where(arrays["y_train"] == 3, 4, arrays["y_train"])
        return arrays

    images = originals.images
    monkeypatch.setattr(originals, "images", lopsided)
    originals.fashion_mnist(folder, monkeypatch)
    with pytest.raises(ValueError, match=f"{folder}: 0 training images of class 3 .Dress.: expected at least 2"):
        datasets.load("fashion_mnist")


def test_the_table_of_sources_is_one(folder):
    assert sources.SOURCES is datasets.SOURCES is sources.table() is sources.table("digits")
