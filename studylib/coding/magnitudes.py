"""How large the nonzero integers of a tensor are, told from histograms that earlier rows and tensors have filled."""

import copy

import numpy as np

from studylib.coding.range_coder import Coder

MAGNITUDES = 128  # of int8
CLASSES = 4  # of rows, by their mean magnitude
SOURCES = ("tensor", "classes")  # what the histogram of a row's magnitudes is told from
KERNELS = {  # how a magnitude that was seen makes itself likelier, and its neighbours where there are many levels
    "wide": np.array([1, 2, 3, 4, 5, 4, 3, 2, 1]),
    "sharp": np.array([25]),
}
WAYS = tuple((source, kernel) for kernel in KERNELS for source in SOURCES)
PRIOR = 60 * 25  # what earlier tensors count for, together: sixty magnitudes


class Magnitudes:
    """Codes magnitudes, tensor after tensor; three ascending ``edges`` part rows into classes by mean magnitude."""

    def __init__(self, edges: list[int]):
        self.edges, self.members = edges, np.ones(CLASSES, np.int64)
        names = [(name, kernel) for name in ("tensor", *range(CLASSES)) for kernel in KERNELS]
        self.histograms = {name: np.ones(MAGNITUDES, np.int64) for name in names}

    def code(self, coder: Coder, nonzeros: np.ndarray | None, mask: np.ndarray) -> np.ndarray:
        """int64 (n,) of 1 … 128: magnitudes of the ``nonzeros`` (n,), which stand where ``mask`` (rows, …) is true."""
        counts = mask.reshape(len(mask), -1).sum(1) if mask.size else np.zeros(0, np.int64)
        flat, counts = None if nonzeros is None else np.abs(nonzeros.astype(np.int64)) - 1, counts[counts > 0].tolist()
        how = coder.choose(WAYS, lambda trial, way: copy.deepcopy(self)._rows(trial, way, flat, counts))
        return self._rows(coder, how, flat, counts)

    def class_of(self, row: np.ndarray) -> int:
        """The class of a row of magnitudes less 1; a mean on an edge is of the class above."""
        return sum(int(row.sum()) >= edge * len(row) for edge in self.edges)

    def _rows(self, coder: Coder, how: tuple[str, str], flat: np.ndarray | None, lengths: list[int]) -> np.ndarray:
        """Row after row, which have ``lengths`` nonzeros each; ``flat`` are their magnitudes less 1."""
        source, kernel = how
        local, seen = _share(self.histograms["tensor", kernel]), np.zeros(MAGNITUDES, np.int64)
        parts, start = [np.zeros(0, np.int64)], 0
        for length in lengths:
            row = None if flat is None else flat[start : start + length]
            start += length
            counts = local
            if source == "classes":
                label = coder.symbols(None if row is None else [self.class_of(row)], self.members, 1)
                counts = self.histograms[int(label[0]), kernel]
            row = coder.symbols(row, counts, length).astype(np.int64)
            new, label = np.bincount(row, minlength=MAGNITUDES), self.class_of(row)
            self.members[label] += 1
            for each in KERNELS:
                self.histograms[label, each] = self.histograms[label, each] + _spread(new, each)
            local, seen = local + _spread(new, kernel), seen + new
            parts.append(row + 1)
        for each in KERNELS:
            self.histograms["tensor", each] = self.histograms["tensor", each] * 2 // 3 + _spread(seen, each) + 1
        return np.concatenate(parts)


def class_edges(tensors: list[np.ndarray]) -> list[int]:
    """The edges that part the rows of int8 ``tensors`` (rows, …) into :data:`CLASSES` of equal numbers."""
    means = []
    for tensor in tensors:
        for row in np.abs(tensor.reshape(len(tensor), -1).astype(np.int64)) if tensor.size else ():
            means += [(row[row > 0] - 1).mean()] if row.any() else []
    if not means:
        return [0] * (CLASSES - 1)
    return [int(e) for e in np.quantile(means, np.arange(1, CLASSES) / CLASSES)]


def _spread(histogram: np.ndarray, kernel: str) -> np.ndarray:
    """``histogram`` with every count spread over its neighbours, mirrored at the ends."""
    side = len(KERNELS[kernel]) // 2
    ends = histogram[:side][::-1], histogram[len(histogram) - side :][::-1]  # np.pad does this at four times the cost
    return np.convolve(np.concatenate([ends[0], histogram, ends[1]]), KERNELS[kernel], mode="valid")


def _share(counts: np.ndarray) -> np.ndarray:
    """``counts`` scaled to about :data:`PRIOR` in all, none below 1."""
    return counts * PRIOR // counts.sum() + 1
