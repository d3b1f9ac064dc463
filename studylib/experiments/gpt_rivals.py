"""Chapter 10: what a model of text has to beat, in bits per character."""

import bz2
import lzma
import zlib

import numpy as np

from studylib.data.sources import Split
from studylib.data.text import BITS, Text

ADDED = 0.01, 0.03, 0.1, 0.3, 1.0  # counts that smoothing may add to each pair


def to_beat(data: Text) -> list[dict]:
    """What a model has to beat on the test blocks, a row each: name and bits per character.

    - A bigram model of the training text, a count added to each pair. The count is the best on validation blocks.
    - zlib, bz2 and xz at their best, of the test text alone.
    - xz, of the training and the test text together, less its file of the training text.
    """
    train, test = (split.images.numpy().tobytes() for split in (data.train, data.test))
    packed = {"zlib": zlib.compress(test, 9), "bz2": bz2.compress(test, 9), "xz": _xz(test)}
    found = [{"name": "bigram model", BITS: bigram(data)}]
    found += [{"name": name, BITS: 8 * len(file) / len(test)} for name, file in packed.items()]
    more = len(_xz(train + test)) - len(_xz(train))
    return [*found, {"name": "xz after the training text", BITS: 8 * more / len(test)}]


def bigram(data: Text) -> float:
    """Test bits per character of a table of pairs, counted in the training blocks."""
    size = len(data.classes)
    counts = np.zeros((size, size))
    np.add.at(counts, (data.train.images.flatten().numpy(), data.train.labels.flatten().numpy()), 1)

    def cost(split: Split, added: float) -> float:
        shares = (counts + added) / (counts + added).sum(1, keepdims=True)
        return float(-np.log2(shares[split.images.flatten().numpy(), split.labels.flatten().numpy()]).mean())

    return cost(data.test, min(ADDED, key=lambda added: cost(data.validation, added)))


def _xz(content: bytes) -> bytes:
    return lzma.compress(content, preset=9 | lzma.PRESET_EXTREME)
