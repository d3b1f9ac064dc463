"""Data sets as uint8 tensors in memory, split into train, validation and test, and the batches of an epoch."""

import dataclasses
import functools
import hashlib
from collections.abc import Iterator

import torch

from studylib.data.augmentation import Augmentation, augment
from studylib.data.sources import CIFAR10_CLASSES as CIFAR10_CLASSES  # as names of this module, too
from studylib.data.sources import OWN, Split, stratified, table
from studylib.data.sources import SOURCES as SOURCES
from studylib.data.tasks import CLASSIFICATION, Task

VIEW_SEED = 1_000_000_007  # of view 0; far from what epochs draw from


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
        """The same images, their training views only shifted (``small``: by half as much, rounded up) and mirrored.

        Images without augmentation, as a file of one's own, are shifted by up to an eighth of a side.
        """
        how = dataclasses.replace(self.augmentation, rotation=0.0, jitter=0.0)
        if self.augmentation == Augmentation():
            how = Augmentation(padding=-(-self.train.images.shape[-1] // 8))
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


def normalized(images: torch.Tensor, mean: torch.Tensor, std: torch.Tensor) -> torch.Tensor:
    """``images`` (n, c, h, w) in 0…255, less ``mean`` and over ``std`` (c,), which are of pixels in 0…1: float32."""
    return (images - 255 * mean[:, None, None]) / (255 * std)[:, None, None]


def load(name: str, seed: int = 0) -> Data:
    """The data set ``name``, its train / validation split drawn by ``seed`` (stratified by class).

    ``name``: one of :data:`studylib.data.sources.SOURCES`, or ``images:`` and the path of one's own, below the study's
    folder (:func:`studylib.data.sources.own_images`).

    Raises:
        ValueError: unknown name. An ``.npz`` is not readable, of other types, or of too few images in all or of a
            class. Images are not as high as wide. A channel that is the same everywhere cannot be normalized.
        FileNotFoundError: it is neither in ``STUDY_DATA`` nor downloadable (names both ways).
    """
    sources = table(name)
    if name not in sources:
        raise ValueError(f"data set {name!r}: expected one of {sorted(sources)}, or {OWN}<path of an .npz>")
    source = sources[name]
    pool, test, classes, validation_size = source.read()
    rest, held_out = stratified(pool.labels, validation_size, seed)
    train, validation = pool.take(rest), pool.take(held_out)
    if source.train_images:
        least = source.train_images + len(classes)  # the others are of every class, too
        if len(train) < least:
            raise ValueError(f"{name}: {len(train)} images to train on: expected at least {least}")
        train = train.take(stratified(train.labels, source.train_images, seed)[1])
    mean, std = moments(torch.cat([train.images, validation.images]))
    return Data(name, seed, tuple(classes), train, validation, test, mean, std, source.augmentation)


def moments(images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean and deviation (c,) of uint8 images (n, c, h, w), in units of 0…1, from exact integer counts."""
    levels = torch.arange(256, dtype=torch.float64) / 255
    mean, std = [], []
    for channel in images.unbind(1):
        counts = sum(torch.bincount(part.flatten().int(), minlength=256) for part in channel.split(1000))
        share = counts.double() / channel.numel()
        mean.append((share * levels).sum())
        std.append(((share * levels**2).sum() - mean[-1] ** 2).sqrt())
    return torch.stack(mean).float(), torch.stack(std).float()


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
