"""The range coder of ``constriction`` behind one set of methods for writing and reading.

Probabilities come from integer counts by IEEE operations in a fixed order: every machine decodes alike.
"""

import constriction
import numpy as np

Bernoulli, Categorical, Uniform = (
    getattr(constriction.stream.model, n) for n in ("Bernoulli", "Categorical", "Uniform")
)


class CodeError(ValueError):
    """Numbers that no encoder wrote; the message says where."""


class Writer:
    """Range encoder. Its methods take what is to be written and return it."""

    def __init__(self):
        self._coder = constriction.stream.queue.RangeEncoder()

    def clone(self) -> "Writer":
        new = Writer()
        new._coder = self._coder.clone()
        return new

    @property
    def bits(self) -> int:
        return self._coder.num_bits()

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


class Reader:
    """Range decoder with the methods of :class:`Writer`; what they are handed is not looked at."""

    def __init__(self, words: np.ndarray):
        self._coder = constriction.stream.queue.RangeDecoder(words)

    def _decode(self, *arguments):
        try:
            return self._coder.decode(*arguments)
        except AssertionError as error:  # constriction's word for words that its encoder cannot write
            raise CodeError("the coded numbers are damaged") from error

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
