"""Chapter 10: what a model of text has to beat, in bits per character."""

import bz2
import itertools
import lzma
import zlib

import numpy as np

from studylib.data.sources import Split
from studylib.data.text import BITS, Text

ADDED = 0.01, 0.03, 0.1, 0.3, 1.0  # counts that smoothing may add to each pair
ORDERS = range(1, 9)  # characters of a run that is counted
DISCOUNTS = 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95  # that may be taken from each count


def to_beat(data: Text) -> list[dict]:
    """What a model has to beat on the test blocks, a row each: name and bits per character.

    - A bigram model of the training text, a count added to each pair. The count is the best on validation blocks.
    - An n-gram model of the training text (:func:`ngram`).
    - zlib, bz2 and xz at their best, of the test text alone.
    - xz, of the training and the test text together, less its file of the training text.
    """
    train, test = (split.images.numpy().tobytes() for split in (data.train, data.test))
    packed = {"zlib": zlib.compress(test, 9), "bz2": bz2.compress(test, 9), "xz": _xz(test)}
    order, found = ngram(data)
    found = [{"name": "bigram model", BITS: bigram(data)}, {"name": f"{order}-gram model", BITS: found}]
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


def ngram(data: Text) -> tuple[int, float]:
    """n, and test bits per character of runs of up to n characters, counted in the training text.

    Counts are discounted (absolute discounting, Ney et al. 1994). Each order is interpolated with the next lower one::

        p(c | h) = max(n(hc) − d, 0) / n(h) + d |{c: n(hc) > 0}| / n(h) · p(c | h without its first character)

    Below single characters all are alike. n and d are the best on the validation text. As for a transformer,
    what comes before a block is not seen: its first characters are predicted by lower orders.
    """
    size, train = len(data.classes), _stream(data.train)
    seen = [_counted(train, order, size, split) for split in (data.validation, data.test) for order in ORDERS]
    held, test = seen[: len(ORDERS)], seen[len(ORDERS) :]
    order, discount = min(itertools.product(ORDERS, DISCOUNTS), key=lambda each: _cost(held[: each[0]], size, each[1]))
    return order, _cost(test[:order], size, discount)


def _stream(split: Split) -> np.ndarray:
    """The characters of neighbouring blocks, one after the other, with the last target."""
    return np.append(split.images.flatten().numpy(), split.labels[-1, -1].item()).astype(np.uint64)


def _runs(text: np.ndarray, order: int, size: int) -> np.ndarray:
    """A number for each run of ``order`` characters, by the place of its last one."""
    found = np.zeros(len(text) - order + 1, dtype=np.uint64)
    for start in range(order):
        found = found * np.uint64(size) + text[start : start + len(found)]
    return found


def _counted(train: np.ndarray, order: int, size: int, split: Split) -> tuple[np.ndarray, ...]:
    """Of each target of ``split`` (n,): counts in ``train`` of its run and the run's start, and kinds that follow.

    0 where so many characters do not come before the target in its block.
    """
    runs, counts = np.unique(_runs(train, order, size), return_counts=True)
    starts, first, kinds = np.unique(runs // np.uint64(size), return_index=True, return_counts=True)
    totals, text = np.add.reduceat(counts, first), _stream(split)
    asked = _runs(text, order, size)[max(0, 2 - order) :]  # targets begin at the second character
    before = np.arange(len(text) - 1) % split.images.shape[1] + 1  # characters of a target's block before it

    def of(wanted: np.ndarray, keys: np.ndarray, values: np.ndarray) -> np.ndarray:
        place = np.searchsorted(keys, wanted).clip(max=len(keys) - 1)
        found = np.where(keys[place] == wanted, values[place], 0)
        return np.where(before >= order - 1, np.pad(found, (len(text) - 1 - len(wanted), 0)), 0)

    start = asked // np.uint64(size)
    return of(asked, runs, counts), of(start, starts, totals), of(start, starts, kinds)


def _cost(counted: list[tuple[np.ndarray, ...]], size: int, discount: float) -> float:
    """Bits per character by the orders that ``counted`` has, the lowest first."""
    share = np.full(len(counted[0][0]), 1 / size)
    for count, total, kinds in counted:
        known = total > 0
        rest = np.maximum(count - discount, 0)[known] + discount * kinds[known] * share[known]
        share[known] = rest / total[known]
    return float(-np.log2(share).mean())


def _xz(content: bytes) -> bytes:
    return lzma.compress(content, preset=9 | lzma.PRESET_EXTREME)
