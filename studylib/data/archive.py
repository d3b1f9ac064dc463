"""An ``.npz`` of labelled images, held against what it should be before its arrays are read; nothing is unpickled."""

import os
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import IO, TypeVar

import numpy as np

NAMES = ("x_train", "y_train", "x_test", "y_test")
EXPECTED = f"an .npz of {', '.join(NAMES)}; images uint8, n × h × w or n × h × w × c, labels 0…k−1"
MOST_CLASSES = 4096  # outputs of a network
COPIES = 4  # of the images, while they are brought into order and split

T = TypeVar("T")
Header = tuple[tuple[int, ...], np.dtype]  # of an array: its shape and type


def read(file: Path) -> dict[str, np.ndarray]:
    """The four arrays of ``file``: ``x_…`` uint8 (n, h, w) or (n, h, w, c), ``y_…`` integers (n,) from 0.

    Raises:
        ValueError: there is no such file, it cannot be read, or is no archive. An array is missing, pickled, of another
            type or number of dimensions. There are no images, or not as many labels. Test images are of another shape.
            A label is below 0 or beyond :data:`MOST_CLASSES`. The arrays would not fit into memory. The message names
            ``file``.
    """
    arrays = _opened(file, lambda archive: _arrays(file, archive))
    for name in ("y_train", "y_test"):
        low, high = int(arrays[name].min()), int(arrays[name].max())
        if low < 0 or high >= MOST_CLASSES:
            wrong = low if low < 0 else high
            raise ValueError(f"{file}: {name} holds {wrong}: expected labels 0…k−1, at most {MOST_CLASSES} of them")
    return arrays


def image_shape(file: Path) -> tuple[int, int, int]:
    """Channels, height and width of the images in ``file``, from its headers alone; errors as :func:`read`'s."""
    shape = _opened(file, lambda archive: _headers(file, archive))["x_train"][0]
    return (shape[3] if len(shape) == 4 else 1), shape[1], shape[2]


def memory() -> int:
    """Bytes of memory in this machine."""
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


class _Refused(ValueError):
    """A sentence that already names the file."""


def _opened(file: Path, use: Callable[[zipfile.ZipFile], T]) -> T:
    """What ``use`` makes of the archive in ``file``; an error of its content is a ValueError that names ``file``."""
    try:
        with open(file, "rb") as raw, zipfile.ZipFile(raw) as archive:
            return use(archive)
    except _Refused:
        raise
    except Exception as error:  # a damaged archive may break its reader in any way
        if isinstance(error, OSError) and error.errno is not None:  # of this machine, not of the file's content
            raise ValueError(f"{file}: cannot be read: {error.strerror}; expected {EXPECTED}") from error
        said = str(error) or type(error).__name__
        raise ValueError(f"{file}: not a readable archive ({said}); expected {EXPECTED}") from error


def _arrays(file: Path, archive: zipfile.ZipFile) -> dict[str, np.ndarray]:
    _headers(file, archive)
    found = {}
    for name in NAMES:
        with archive.open(f"{name}.npy") as raw:
            found[name] = np.lib.format.read_array(raw, allow_pickle=False)
            raw.read(1)  # the archive holds its checksum against what was read at the very end
    return found


def _headers(file: Path, archive: zipfile.ZipFile) -> dict[str, Header]:
    there = {name.removesuffix(".npy") for name in archive.namelist()}
    if missing := [name for name in NAMES if name not in there]:
        raise _Refused(f"{file}: no {' and no '.join(missing)} in it; expected {EXPECTED}")
    found = {}
    for name in NAMES:
        with archive.open(f"{name}.npy") as raw:
            found[name] = _header(raw)
    _check(file, found)
    return found


def _header(raw: IO[bytes]) -> Header:
    version = np.lib.format.read_magic(raw)
    readers = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
    if version not in readers:  # 3.0 is for names of fields, which these arrays do not have
        raise ValueError(f"an array's format is {version}: expected {' or '.join(map(str, readers))}")
    shape, _, dtype = readers[version](raw)
    return shape, dtype


def _check(file: Path, found: Mapping[str, Header]) -> None:
    for name, (shape, dtype) in found.items():
        images = name.startswith("x")
        wanted = "uint8" if images else "whole numbers"
        if dtype.hasobject:
            raise _Refused(f"{file}: {name} holds pickled objects, which are never loaded: expected {wanted}")
        if not (dtype == np.uint8 if images else dtype.kind in "iu"):
            hint = ", 0…255; multiply what is in 0…1 by 255 and round" if images and dtype.kind == "f" else ""
            raise _Refused(f"{file}: {name} is {dtype}: expected {wanted}{hint}")
        if len(shape) not in ((3, 4) if images else (1,)):
            layout = "n × h × w or n × h × w × c" if images else "one label an image, n"
            raise _Refused(f"{file}: {name} is {_said(shape)}: expected {layout}")
        if min(shape) < 1:
            raise _Refused(f"{file}: {name} is {_said(shape)}: expected at least one of each")
    for part in ("train", "test"):
        images, labels = found[f"x_{part}"][0][0], found[f"y_{part}"][0][0]
        if images != labels:
            raise _Refused(f"{file}: {images} images in x_{part}, {labels} labels in y_{part}: expected as many")
    train, test = (found[f"x_{part}"][0] for part in ("train", "test"))
    if train[1:] != test[1:]:
        raise _Refused(f"{file}: an image of x_test is {_said(test[1:])}: expected {_said(train[1:])}, as in x_train")
    size = sum(int(np.prod(shape, dtype=object)) * dtype.itemsize for shape, dtype in found.values())
    if COPIES * size > memory():
        most, needed = memory() / COPIES / 1e9, size / 1e9
        raise _Refused(f"{file}: {needed:.1f} GB of arrays: expected at most {most:.1f} GB, 1/{COPIES} of the memory")


def _said(shape: tuple[int, ...]) -> str:
    return " × ".join(map(str, shape)) or "a single number"
