"""The range coder of ``constriction`` behind one set of methods for writing and reading.

Methods take what is to be written, None for a reader, and return it. Writer and reader run the same code.
Probabilities come from integer counts by IEEE operations in a fixed order: every machine decodes alike.
"""

from collections.abc import Callable

import constriction
import numpy as np

Bernoulli, Categorical = constriction.stream.model.Bernoulli, constriction.stream.model.Categorical
Uniform = constriction.stream.model.Uniform


class CodeError(ValueError):
    """Numbers that no encoder wrote; the message says where."""


class Coder:
    """What :class:`Writer` and :class:`Reader` make of their three ways to code: ``flags``, ``symbols``, ``evenly``."""

    left = 2**62  # bits that may yet be spent

    def spend(self, bits: int) -> None:
        """Counts ``bits`` that nothing can compress, such as signs; CodeError where a reader's words have fewer."""
        self.left -= bits
        if self.left < 0:
            raise CodeError("more numbers than the file has bits for")

    def number(self, value: int | None, most: int) -> int:
        """A whole number of 0 … most, all as likely."""
        high, low = (None, None) if value is None else ([value >> 20], [value & (2**20 - 1)])
        found = int(self.evenly(high, (most >> 20) + 1, 1)[0]) << 20
        found += int(self.evenly(low, min(2**20, most + 1), 1)[0])
        if found > most:
            raise CodeError(f"{found} nonzeros of {most} weights")
        return found

    def share(self, flags: np.ndarray | None, count: int, ones: int, cells: int) -> np.ndarray:
        """``count`` flags where ``ones`` of the next ``cells`` are 1, boolean."""
        if ones <= 0 or ones >= cells:
            return np.full(count, ones > 0)
        return self.flags(flags, ones / cells, count).astype(bool)

    def choose(self, ways: tuple, code: Callable):
        """That one of ``ways`` by which ``code(coder, way)`` writes the fewest bits."""
        return ways[int(self.evenly(self._best(ways, code), len(ways), 1)[0])]


class Writer(Coder):
    """Range encoder."""

    def __init__(self):
        self._coder = constriction.stream.queue.RangeEncoder()

    def flags(self, values, probability, count):
        """``count`` bits, each 1 with ``probability`` (a number, or an array with one each)."""
        values = np.asarray(values, dtype=np.int32)
        if isinstance(probability, np.ndarray):
            self._coder.encode(values, Bernoulli(perfect=False), probability)
        else:
            self._coder.encode(values, Bernoulli(probability, perfect=False))
        return values

    def symbols(self, values, counts, count):
        """``count`` symbols of 0 … len(counts) − 1, as likely as ``counts`` (integers above 0) say."""
        values = np.asarray(values, dtype=np.int32)
        self._coder.encode(values, Categorical(counts.astype(np.float64), perfect=False))
        return values

    def evenly(self, values, size, count):
        """``count`` numbers of 0 … size − 1, all as likely; size from 1 to 2²³."""
        values = np.asarray(values, dtype=np.int32)
        if size > 1:
            self._coder.encode(values, Uniform(size))
        return values

    def words(self) -> np.ndarray:
        return self._coder.get_compressed()

    def _best(self, ways, code):
        bits = []
        for way in ways:
            trial = Writer()
            trial._coder = self._coder.clone()
            code(trial, way)
            bits.append(trial._coder.num_bits())
        return [bits.index(min(bits))]


class Reader(Coder):
    """Range decoder; what its methods are handed is not looked at."""

    def __init__(self, words: np.ndarray):
        self._coder = constriction.stream.queue.RangeDecoder(words)
        self.left = 32 * len(words) + 64  # the last of which need not be written

    def flags(self, _, probability, count):
        if isinstance(probability, np.ndarray):
            return self._decode(Bernoulli(perfect=False), probability)
        return self._decode(Bernoulli(probability, perfect=False), count)

    def symbols(self, _, counts, count):
        return self._decode(Categorical(counts.astype(np.float64), perfect=False), count)

    def evenly(self, _, size, count):
        return self._decode(Uniform(size), count) if size > 1 else np.zeros(count, dtype=np.int32)

    def finish(self) -> None:
        if not self._coder.maybe_exhausted():
            raise CodeError("the coded numbers do not end where the model does")

    def _best(self, _ways, _code):
        return None

    def _decode(self, *arguments):
        try:
            return self._coder.decode(*arguments)
        except AssertionError as error:  # constriction's word for words that its encoder cannot write
            raise CodeError("the coded numbers are damaged") from error
