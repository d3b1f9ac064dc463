"""Data sets in the formats of their authors, of a few made-up images: what torchvision is handed to read."""

import gzip
import hashlib
import pickle
import struct
from pathlib import Path
from urllib.error import URLError

import numpy as np
import pytest
import scipy.io
import torchvision.datasets as known

A_CLASS = 10  # training images; a tenth as many are test images
FINE = [f"thing {label}" for label in range(100)]


def images(classes: int, *shape: int) -> dict[str, np.ndarray]:
    """uint8 images (n, *shape) and their labels, n of each part drawn from all classes alike, in no order."""
    draw = np.random.default_rng(classes)
    found = {}
    for part, each in (("train", A_CLASS), ("test", A_CLASS // 10)):
        found[f"y_{part}"] = draw.permutation(np.arange(classes * each) % classes)
        found[f"x_{part}"] = draw.integers(0, 256, (classes * each, *shape), np.uint8)
    return found


def md5(file: Path) -> str:
    return hashlib.md5(file.read_bytes()).hexdigest()


def fashion_mnist(folder: Path, patch: pytest.MonkeyPatch) -> dict[str, np.ndarray]:
    """Four gzipped idx files: a magic number, sizes, and bytes; numbers are big-endian."""
    arrays, resources = images(10, 28, 28), []
    raw = folder / "FashionMNIST" / "raw"
    raw.mkdir(parents=True)
    for part, prefix in (("train", "train"), ("test", "t10k")):
        for kind, array in (("images-idx3", arrays[f"x_{part}"]), ("labels-idx1", arrays[f"y_{part}"])):
            file = raw / f"{prefix}-{kind}-ubyte.gz"
            header = struct.pack(f">{1 + array.ndim}I", 0x0800 + array.ndim, *array.shape)
            file.write_bytes(gzip.compress(header + array.astype(np.uint8).tobytes()))
            resources.append((file.name, md5(file)))
    patch.setattr(known.FashionMNIST, "resources", resources)
    return arrays


def cifar100(folder: Path, patch: pytest.MonkeyPatch) -> dict[str, np.ndarray]:
    """Pickles of Python 2's kind: rows of 3,072 bytes, a colour after the other, with labels of two kinds."""
    arrays = images(100, 32, 32, 3)
    inner = folder / "cifar-100-python"
    inner.mkdir()
    for part in ("train", "test"):
        fine = arrays[f"y_{part}"].tolist()
        rows = np.ascontiguousarray(arrays[f"x_{part}"].transpose(0, 3, 1, 2)).reshape(len(fine), -1)
        content = {"data": rows, "fine_labels": fine, "coarse_labels": [label // 5 for label in fine]}
        (inner / part).write_bytes(pickle.dumps(content, protocol=2))
        patch.setattr(known.CIFAR100, f"{part}_list", [[part, md5(inner / part)]])
    (inner / "meta").write_bytes(pickle.dumps({"fine_label_names": FINE, "coarse_label_names": FINE[::5]}, protocol=2))
    patch.setattr(known.CIFAR100, "meta", known.CIFAR100.meta | {"md5": md5(inner / "meta")})
    return arrays


def svhn(folder: Path, patch: pytest.MonkeyPatch) -> dict[str, np.ndarray]:
    """Matlab's files: images last in order, labels in a column, a zero's is 10."""
    arrays, splits = images(10, 32, 32, 3), {}
    for part in ("train", "test"):
        labels = np.where(arrays[f"y_{part}"] == 0, 10, arrays[f"y_{part}"]).astype(np.uint8)
        file = folder / f"{part}_32x32.mat"
        scipy.io.savemat(file, {"X": arrays[f"x_{part}"].transpose(1, 2, 3, 0), "y": labels[:, None]})
        splits[part] = [f"http://localhost/{file.name}", file.name, md5(file)]
    patch.setattr(known.SVHN, "split_list", splits)
    return arrays


ORIGINALS = {"fashion_mnist": fashion_mnist, "cifar100": cifar100, "svhn": svhn}


def without_network(patch: pytest.MonkeyPatch) -> None:
    def fail(*args, **kwargs):
        raise URLError("no route to host")

    patch.setattr("urllib.request.urlopen", fail)
