"""A file of one's own images: read as it was written, or refused in words before its arrays are."""

import dataclasses
import io
import json
import zipfile

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from studylib.data import archive, datasets, sources
from studylib.data.augmentation import Augmentation
from studylib.experiments import frontier_published
from studylib.networks import spec
from studylib.tree.node import Node


class Bomb:
    """What, unpickled, says so."""

    def __reduce__(self):
        return exec, ("raise AssertionError('unpickled')",)


def made(classes=3, train=60, test=12, shape=(8, 8), seed=0) -> dict[str, np.ndarray]:
    draw = np.random.default_rng(seed)
    arrays = {
        f"x_{part}": draw.integers(0, 256, (n, *shape), np.uint8) for part, n in (("train", train), ("test", test))
    }
    return arrays | {f"y_{part}": np.arange(n) % classes for part, n in (("train", train), ("test", test))}


@pytest.fixture
def file(tmp_path):
    return tmp_path / "own.npz"


def load(file, seed=0):
    return datasets.load(f"images:{file}", seed)


# --- what is read ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("shape", "channels"), [((8, 8), 1), ((8, 8, 1), 1), ((8, 8, 3), 3), ((12, 12, 2), 2), ((9, 9, 7), 7)]
)
def test_images_and_labels_are_those_of_the_file(file, shape, channels):
    arrays = made(shape=shape)
    np.savez(file, **arrays)
    data = load(file)
    assert data.sizes == {"train": 54, "validation": 6, "test": 12} and data.classes == ("0", "1", "2")
    assert data.model_args == {"in_channels": channels, "image_size": shape[0], "classes": 3}
    assert data.validation.labels.bincount().tolist() == [2, 2, 2]
    written = torch.from_numpy(arrays["x_test"].reshape(12, *shape[:2], channels)).permute(0, 3, 1, 2)
    assert torch.equal(data.test.images, written) and torch.equal(data.test.labels, torch.from_numpy(arrays["y_test"]))
    pool = torch.cat([data.train.images, data.validation.images])
    assert sorted(image.numpy().tobytes() for image in pool.permute(0, 2, 3, 1).contiguous()) == sorted(
        image.tobytes() for image in arrays["x_train"]
    )
    normal = data.normalize(pool)
    assert normal.mean((0, 2, 3)).abs().max() < 1e-4
    assert (normal.std((0, 2, 3), correction=0) - 1).abs().max() < 1e-4


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
@pytest.mark.parametrize("kind", [np.uint8, np.int16, ">i4", np.uint64, np.int64])
def test_labels_of_any_integer_type_and_compressed_files_are_read(file, save, kind):
    save(file, **{name: array.astype(kind) if name[0] == "y" else array for name, array in made().items()})
    digest = load(file).digest
    np.savez(file, **made())
    assert load(file).digest == digest


def test_columns_first_in_memory_are_read_alike(file):
    np.savez(file, **{name: np.asfortranarray(array) for name, array in made().items()})
    digest = load(file).digest
    np.savez(file, **made())
    assert load(file).digest == digest


def test_other_arrays_are_not_read(file):
    np.savez(file, **made(), about=np.array([Bomb()], object))
    assert load(file).sizes["train"] == 54


def test_another_seed_validates_with_other_images_and_one_pixel_is_another_digest(file):
    arrays = made()
    np.savez(file, **arrays)
    one, other = load(file), load(file, 1)
    assert one.test.digest == other.test.digest and one.digest != other.digest
    arrays["x_test"][3, 2, 1] ^= 1
    np.savez(file, **arrays)
    assert load(file).digest != one.digest


def test_nothing_is_augmented_unless_crops_are_asked_for(file):
    np.savez(file, **made(shape=(20, 20)))
    data = load(file)
    assert data.augmentation == Augmentation()
    assert torch.equal(datasets.view(data, 0).images, data.train.images)
    assert data.cropped_only().augmentation == Augmentation(padding=3)
    assert data.cropped_only(small=True).augmentation == Augmentation(padding=2)
    assert not torch.equal(datasets.view(data.cropped_only(), 0).images, data.train.images)


@given(classes=st.integers(2, 12), each=st.integers(10, 14), side=st.integers(1, 9), seed=st.integers(0, 9))
def test_any_number_of_classes_and_any_size_are_read(tmp_path_factory, classes, each, side, seed):
    file = tmp_path_factory.mktemp("own") / "own.npz"
    np.savez(file, **made(classes, classes * each, classes, (side, side), seed))
    data = load(file, seed)
    assert sum(data.sizes.values()) == classes * (each + 1)
    assert data.model_args == {"in_channels": 1, "image_size": side, "classes": classes}


# --- where it is ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["own.npz", "my own.npz", "images:own.npz", "a: b, 'c'.npz", "{own}.npz", "ünï.npz"])
def test_a_path_is_below_the_study_and_may_have_blanks_and_colons(study_root, name, monkeypatch, tmp_path_factory):
    (study_root / "data").mkdir()
    np.savez(study_root / "data" / name, **made())
    monkeypatch.chdir(tmp_path_factory.mktemp("elsewhere"))
    data = datasets.load(f"images:data/{name}")
    assert data.name == f"images:data/{name}" and data.sizes["test"] == 12
    assert datasets.load(f"images:{study_root}/data/{name}").digest == data.digest


def test_a_path_that_leaves_the_study_is_refused(study_root):
    with pytest.raises(ValueError, match=r"'\.\./own\.npz': leaves"):
        datasets.load("images:../own.npz")


@pytest.mark.parametrize("name", ["images:", "images:  "])
def test_no_path_is_refused(name):
    with pytest.raises(ValueError, match=r"images:: expected the path of a file, such as images:data/flowers\.npz"):
        datasets.load(name)


def test_an_unknown_name_is_told_of_files_of_ones_own():
    with pytest.raises(ValueError, match=r"data set 'flowers\.npz': expected one of .*, or images:<path"):
        datasets.load("flowers.npz")


# --- what is refused ------------------------------------------------------------------------------------------

PICKLED = np.array([Bomb()] * 60, object)
WRONG = {
    "no array": ({"y_test": None}, "no y_test in it; expected an .npz of x_train"),
    "no arrays": ({"x_train": None, "x_test": None}, "no x_train and no x_test in it"),
    "pickled images": ({"x_train": PICKLED}, "x_train holds pickled objects, which are never loaded: expected uint8"),
    "pickled labels": ({"y_train": PICKLED}, "y_train holds pickled objects, which are never loaded: expected whole"),
    "floats": ({"x_train": np.zeros((60, 8, 8))}, "x_train is float64: expected uint8, 0…255; multiply what is in 0…1"),
    "NaN": ({"x_test": np.full((12, 8, 8), np.nan, "f4")}, "x_test is float32: expected uint8"),
    "wide integers": ({"x_train": np.zeros((60, 8, 8), int)}, "x_train is int64: expected uint8$"),
    "one dimension": ({"x_train": np.zeros(60, np.uint8)}, "x_train is 60: expected n × h × w or n × h × w × c"),
    "a number": ({"x_train": np.uint8(3)}, "x_train is a single number: expected n × h × w"),
    "flat images": ({"x_train": np.zeros((60, 64), np.uint8)}, "x_train is 60 × 64: expected n × h × w"),
    "five": ({"x_test": np.zeros((12, 1, 8, 8, 3), np.uint8)}, "x_test is 12 × 1 × 8 × 8 × 3: expected n × h × w"),
    "no images": ({"x_train": np.zeros((0, 8, 8), np.uint8)}, "x_train is 0 × 8 × 8: expected at least one of each"),
    "no pixels": ({"x_train": np.zeros((60, 8, 0), np.uint8)}, "x_train is 60 × 8 × 0: expected at least one of each"),
    "no test": ({"x_test": np.zeros((0, 8, 8), np.uint8), "y_test": np.zeros(0, int)}, "x_test is 0 × 8 × 8: expected"),
    "fewer labels": ({"y_train": np.arange(59) % 3}, "60 images in x_train, 59 labels in y_train: expected as many"),
    "more labels": ({"y_test": np.arange(13) % 3}, "12 images in x_test, 13 labels in y_test: expected as many"),
    "columns": ({"y_train": np.zeros((60, 1), int)}, "y_train is 60 × 1: expected one label an image, n"),
    "one-hot": ({"y_train": np.eye(3, dtype=int)[np.arange(60) % 3]}, "y_train is 60 × 3: expected one label an image"),
    "float labels": ({"y_train": np.arange(60) % 3.0}, "y_train is float64: expected whole numbers"),
    "true and false": ({"y_train": np.arange(60) % 2 > 0}, "y_train is bool: expected whole numbers"),
    "words": ({"y_train": np.array(["a", "b", "c"] * 20)}, "y_train is <U1: expected whole numbers"),
    "negative": ({"y_train": np.arange(60) % 3 - 1}, "y_train holds -1: expected labels 0…k−1"),
    "negative test": ({"y_test": np.arange(12) % 3 - 2}, "y_test holds -2: expected labels 0…k−1"),
    "huge": ({"y_train": np.full(60, 2**63, np.uint64)}, f"y_train holds {2**63}: expected labels 0…k−1, at most 4096"),
    "from 1": ({"y_train": np.arange(60) % 3 + 1}, "0 training images of class 0: expected at least 2"),
    "a gap": ({"y_train": np.arange(60) % 3 * 2}, "0 training images of class 1: expected at least 2"),
    "a lone image": ({"y_train": np.array([0, 1] * 29 + [2, 1])}, "1 training images of class 2: expected at least 2"),
    "class of test": ({"y_test": np.arange(12) % 4}, "y_test holds 3: expected at most 2, as in y_train"),
    "untested": ({"y_test": np.arange(12) % 2}, "0 test images of class 2: expected at least 1"),
    "one class": (
        {"y_train": np.zeros(60, int), "y_test": np.zeros(12, int)},
        "all labels are 0: expected at least two",
    ),
    "too few": (made(train=29), "29 training images: expected at least 30, for a tenth validates"),
    "test shape": (
        {"x_test": np.zeros((12, 9, 9), np.uint8)},
        "an image of x_test is 9 × 9: expected 8 × 8, as in x_t",
    ),
    "test colours": ({"x_test": np.zeros((12, 8, 8, 3), np.uint8)}, "an image of x_test is 8 × 8 × 3: expected 8 × 8,"),
    "even": (
        {"x_train": np.full((60, 8, 8), 7, np.uint8)},
        "channel 0 is 7 in all training images: expected some cont",
    ),
}


@pytest.mark.parametrize(("wrong", "message"), WRONG.values(), ids=WRONG)
def test_each_way_in_which_a_file_is_wrong_is_said(file, wrong, message):
    np.savez(file, **{name: array for name, array in (made() | wrong).items() if array is not None})
    with pytest.raises(ValueError, match=f"^{file}: {message}"):
        load(file)


@pytest.mark.parametrize(
    ("shape", "said"), [((8, 12), "8 × 12 .h × w. in 1 channels"), ((3, 8, 8), "3 × 8 .h × w. in 8 channels")]
)
def test_images_that_are_not_as_high_as_wide_are_refused_by_a_study_and_read_for_ones_own_network(file, shape, said):
    arrays = made(shape=shape)
    np.savez(file, **arrays)
    with pytest.raises(ValueError, match=f"^images:{file}: images of {said}: expected as high as wide"):
        load(file)
    train, test = sources.own_images(file)
    assert len(train) == 60 and test.images.shape[2:] == shape[:2]
    assert torch.equal(
        test.images[:, 0], torch.from_numpy(arrays["x_test"][:, :, :, 0] if len(shape) > 2 else arrays["x_test"])
    )


def test_classes_may_be_missing_in_what_is_read_for_ones_own_network(file):
    np.savez(file, **made() | {"y_train": np.full(60, 5), "y_test": np.full(12, 999)})
    train, test = sources.own_images(str(file))
    assert set(train.labels.tolist()) == {5} and set(test.labels.tolist()) == {999}


def test_what_is_no_file_or_no_archive_is_said(file, tmp_path):
    for path, message in ((file, "cannot be read: No such file"), (tmp_path, "cannot be read: Is a directory")):
        with pytest.raises(ValueError, match=f"^{path}: {message}.*; expected an .npz of x_train, y_train, x_test"):
            load(path)
    buffer = io.BytesIO()
    np.save(buffer, made()["x_train"])
    for content in (b"", b"PK", b"x_train", buffer.getvalue()):
        file.write_bytes(content)
        with pytest.raises(ValueError, match=f"^{file}: not a readable archive .*; expected an .npz of x_train"):
            load(file)


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
@given(place=st.floats(0, 1), flip=st.integers(1, 255), cut=st.booleans())
def test_a_damaged_file_is_named_or_read_as_it_was(tmp_path_factory, save, place, flip, cut):
    file = tmp_path_factory.mktemp("own") / "own.npz"
    save(file, **made())
    whole, content = load(file).digest, bytearray(file.read_bytes())
    position = int(place * (len(content) - 1))
    if cut:
        content = content[:position]
    else:
        content[position] ^= flip
    file.write_bytes(content)
    try:
        assert load(file).digest == whole  # a date, say, or another field that nobody reads
    except ValueError as error:
        assert str(file) in str(error) and "expected" in str(error)


def lying(file, version=(1, 0), **shapes) -> None:
    """An archive with arrays that are of ``shapes`` by their headers, and empty."""
    np.savez(file, **{name: array for name, array in made().items() if name not in shapes})
    for name, shape in shapes.items():
        header = io.BytesIO()
        write = np.lib.format.write_array_header_1_0 if version == (1, 0) else np.lib.format.write_array_header_2_0
        write(header, {"descr": "|u1", "fortran_order": False, "shape": shape})
        with zipfile.ZipFile(file, "a") as content:
            content.writestr(f"{name}.npy", header.getvalue())


@pytest.mark.parametrize("count", [10**12, 2**62, 10**40])
def test_what_does_not_fit_into_memory_is_refused_by_its_headers(file, count, monkeypatch):
    monkeypatch.setattr(np.lib.format, "read_array", lambda *_, **__: pytest.fail("it was read"))
    lying(file, x_train=(count, 8, 8), y_train=(count,))
    with pytest.raises(ValueError, match=rf"^{file}: \d+\.\d GB of arrays: expected at most"):
        load(file)
    lying(file, x_train=(60, count, count), x_test=(12, count, count))
    with pytest.raises(ValueError, match=rf"^{file}: \d+\.\d GB of arrays: expected at most"):
        load(file)


def test_the_limit_is_a_quarter_of_the_memory(file, monkeypatch):
    np.savez(file, **made())  # 72 images of 64 bytes, labels of 8
    monkeypatch.setattr(archive, "memory", lambda: 4 * 72 * 72)
    assert load(file).sizes["train"] == 54
    monkeypatch.setattr(archive, "memory", lambda: 4 * 72 * 72 - 1)
    with pytest.raises(ValueError, match=rf"^{file}: 0\.0 GB of arrays: expected at most 0\.0 GB, 1/4 of the memory"):
        load(file)


def test_a_machine_says_how_much_memory_it_has():
    assert 2**28 < archive.memory() < 2**50


def test_a_header_that_says_more_than_there_is_is_refused(file):
    lying(file, x_train=(60, 8, 8))
    with pytest.raises(ValueError, match=f"^{file}: not a readable archive"):
        load(file)


def test_headers_of_version_2_are_read_and_of_version_3_refused(file):
    lying(file, (2, 0), x_train=(60, 8, 8))
    assert archive.image_shape(file) == (1, 8, 8)
    np.savez(file, **{name: array for name, array in made().items() if name != "x_train"})
    with zipfile.ZipFile(file, "a") as content:
        content.writestr("x_train.npy", np.lib.format.magic(3, 0) + bytes(100))
    with pytest.raises(ValueError, match=f"^{file}: not a readable archive .an array's format is .3, 0.: expected"):
        load(file)


# --- in the study ---------------------------------------------------------------------------------------------


def test_a_node_says_which_images_it_is_of(file, tmp_path):
    np.savez(file, **made())
    about = Node(tmp_path / "node", f"images:{file}", 3).about
    assert about["data"] == {"name": f"images:{file}", "seed": 3, "train": 54, "validation": 6, "test": 12}
    assert about["provenance"]["data_sha256"] == load(file, 3).digest
    json.dumps(about)


def test_a_published_file_of_ones_own_images_has_a_name_without_folders():
    model = spec.with_change(spec.create("convnet", 0, in_channels=1, image_size=8), "teacher", {})
    name = frontier_published.file_name(model.spec, "teacher", "images:data/my flowers.npz")
    assert name == "images_data_my_flowers-convnet32-32bit"


def test_what_stands_in_the_file_is_not_what_it_is_called(file, tmp_path):
    np.savez(file, **made())
    np.savez(tmp_path / "other.npz", **made())
    one, other = load(file), load(tmp_path / "other.npz")
    assert one.digest == other.digest and one.identity == other.identity and one.name != other.name
    assert dataclasses.replace(one, name=other.name).model_args == other.model_args
