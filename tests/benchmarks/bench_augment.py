"""augment_over_dataloader: images a second through our batched augmentation over torchvision's in a DataLoader."""

import time

import torch
from harness import pair

from studylib.data import datasets

IMAGES, BATCH = 8192, 128
HOW = datasets.SOURCES["cifar10"].augmentation


def run() -> dict:
    draw = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (IMAGES, 3, 32, 32), dtype=torch.uint8, generator=draw)
    split = datasets.Split(images, torch.randint(0, 10, (IMAGES,), generator=draw))
    half = torch.full((3,), 0.5)
    classes = tuple(datasets.CIFAR10_CLASSES)
    ours = datasets.Data("cifar10", 0, classes, split, split, split, half, half, HOW)
    loader = _loader(split)

    def rate(batches) -> float:
        start = time.perf_counter()
        count = sum(len(labels) for _, labels, *_ in batches)
        return count / (time.perf_counter() - start)

    def batched() -> float:
        return rate(datasets.batches(ours, BATCH, torch.Generator().manual_seed(1)))

    batched()  # warm up
    return {"augment_over_dataloader": pair(batched, lambda: rate(loader), 5, "images/s")}


def _loader(split: datasets.Split):
    """The same operations by torchvision, one image at a time in two worker processes that are already up."""
    from torchvision import transforms as T

    jitter = (HOW.jitter,) * 3
    transform = T.Compose(
        [
            T.RandomCrop(32, padding=HOW.padding),
            T.RandomHorizontalFlip(),
            T.RandomRotation(HOW.rotation, interpolation=T.InterpolationMode.BILINEAR),
            T.ColorJitter(*jitter),
            T.ToTensor(),
            T.Normalize((0.5,) * 3, (0.5,) * 3),
        ]
    )
    loader = torch.utils.data.DataLoader(
        _Images(split, transform), BATCH, shuffle=True, num_workers=2, persistent_workers=True
    )
    for _ in loader:  # starts the workers
        break
    return loader


class _Images(torch.utils.data.Dataset):
    def __init__(self, split, transform):
        self.images, self.labels, self.transform = split.images.permute(0, 2, 3, 1).numpy(), split.labels, transform

    def __len__(self):
        return len(self.labels)

    def __getitem__(self, i):
        from PIL import Image

        return self.transform(Image.fromarray(self.images[i])), self.labels[i]
