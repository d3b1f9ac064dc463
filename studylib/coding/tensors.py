"""Entropy coding of weight tensors: positions, magnitudes and floats, through the range coder of ``constriction``.

Encoder and decoder walk through one and the same code (:class:`Tensors`), one handing over what it writes and the
other taking what it reads, so that they cannot disagree. Every probability is made from integer counts by IEEE
additions, multiplications and divisions, in an order that is fixed: every machine decodes alike.
"""

import copy

import numpy as np

from studylib.coding.range_coder import CodeError, Reader, Writer

LEAST = 2.0**-16  # no cell is more certain than this to be zero or not
MAGNITUDES = 128  # of int8
CLASSES = 4  # of rows, by their mean magnitude
POSITIONS = ("tensor", "rows", "columns")  # what the density of a cell is told from
BLOCK = {"rows": 64, "columns": 16}  # cells between two updates
BLOCKS = 2**17  # of a whole file, some seconds: beyond them density is told from the tensor alone
KERNELS = {  # how a magnitude that was seen makes itself likelier, and its neighbours where there are many levels
    "wide": np.array([1, 2, 3, 4, 5, 4, 3, 2, 1]),
    "sharp": np.array([25]),
}


SOURCES = ("tensor", "classes")  # what the histogram of a row's magnitudes is told from
VALUES = tuple((source, kernel) for kernel in KERNELS for source in SOURCES)
PRIOR = 60 * 25  # what earlier tensors count for, together: sixty magnitudes


class Tensors:
    """Codes tensors one after the other, each with what the earlier ones taught.

    With a :class:`Writer`, methods take a tensor and write it; with a :class:`Reader`, they take None and return
    what was written. They return it in both cases.

    Args:
        edges: the three numbers that part rows into :data:`CLASSES` by their mean magnitude, whole and ascending.
        bits: how many the file has. What nothing can compress, signs and mantissas, may not come to more: a coder gives
            any number of symbols from nothing.
    """

    def __init__(self, coder: Writer | Reader, edges: list[int], bits: int = 2**62):
        self.coder, self.edges, self.left = coder, edges, bits + 64  # the last of which need not be written
        names = [(name, kernel) for name in ("tensor", *range(CLASSES)) for kernel in KERNELS]
        self.histograms = {name: np.ones(MAGNITUDES, np.int64) for name in names}
        self.blocks = BLOCKS
        self.members = np.ones(CLASSES, np.int64)
        self.tops: dict[tuple, np.ndarray] = {}

    @property
    def writing(self) -> bool:
        return isinstance(self.coder, Writer)

    def integers(self, tensor: np.ndarray | None, shape: tuple[int, ...]) -> np.ndarray:
        """int8 (rows, …): the number of nonzeros, positions, magnitudes, signs."""
        mask = self.positions(tensor, shape)
        how = self._choose("_magnitudes", VALUES, tensor, mask)
        magnitudes = self._magnitudes(how, tensor, mask)
        signs = self.coder.evenly(None if tensor is None else tensor[mask] < 0, 2, magnitudes.size)
        if (magnitudes[signs == 0] == MAGNITUDES).any():
            raise CodeError(f"a weight of {MAGNITUDES}, which int8 does not hold")
        found = np.zeros(shape, np.int8)
        found[mask] = np.where(signs, -magnitudes, magnitudes).astype(np.int8)
        return found

    def positions(self, tensor: np.ndarray | None, shape: tuple[int, ...]) -> np.ndarray:
        """Boolean of ``shape``: where ``tensor`` is not zero. Columns without any may be left out first."""
        rows = shape[0] if shape else 1
        columns, size = (shape[1] if len(shape) > 1 else 1), int(np.prod(shape, dtype=np.int64))
        if not size:
            return np.zeros(shape, bool)
        alive = None if tensor is None else (tensor != 0).reshape(rows, columns, -1)
        total = self._number(None if tensor is None else int(alive.sum()), size)
        self._spend(total)
        if total in (0, size):
            return np.full(shape, total > 0)
        used = self._used_columns(alive, columns)
        room = rows * int(used.sum()) * (size // rows // columns)
        if total > room:
            raise CodeError("more nonzero weights than their columns have room for")
        cells = None if alive is None else alive[:, used]
        inner = (rows, int(used.sum()), size // rows // columns)
        ways = tuple(way for way in POSITIONS if _blocks(way, inner) <= self.blocks)
        how = self._choose("_cells", ways, cells, inner, total)
        self.blocks -= _blocks(how, inner)
        found = np.zeros((rows, columns, inner[2]), bool)
        found[:, used] = self._cells(how, cells, inner, total).reshape(inner)
        return found.reshape(shape)

    def floats(self, tensor: np.ndarray | None, count: int, kind: str) -> np.ndarray:
        """float16 or float32 (count,): sign and exponent by how often ``kind`` had them before, the rest as it is."""
        width = 16 if kind.endswith("16") else 32
        low = 10 if width == 16 else 23
        whole, real = (np.uint16, np.float16) if width == 16 else (np.uint32, np.float32)
        bits = None if tensor is None else np.ascontiguousarray(tensor, dtype=real).view(whole).astype(np.int64)
        self._spend(low * count)
        counts = self.tops.setdefault(kind, np.ones(2 ** (width - low), np.int64))
        parts = []
        for start in range(0, count, 64):
            n = min(64, count - start)
            part = None if bits is None else bits[start : start + n]
            top = self.coder.symbols(None if part is None else part >> low, counts, n)
            counts += 32 * np.bincount(top, minlength=len(counts))
            mantissa = np.zeros(n, np.int64)
            for shift in range(0, low, 12):
                size = 2 ** min(12, low - shift)
                piece = None if part is None else (part >> shift) % size
                mantissa += self.coder.evenly(piece, size, n).astype(np.int64) << shift
            parts.append((top.astype(np.int64) << low) + mantissa)
        found = np.concatenate(parts) if parts else np.zeros(0, np.int64)
        return found.astype(whole).view(real)

    def byte(self, value: int | None) -> int:
        """A number of 0 … 255 by how often it was seen before."""
        counts = self.tops.setdefault("byte", np.ones(256, np.int64))
        value = int(self.coder.symbols(None if value is None else [value], counts, 1)[0])
        counts[value] += 32
        return value

    def _spend(self, bits: int) -> None:
        self.left -= bits
        if self.left < 0:
            raise CodeError("more numbers than the file has bits for")

    def _number(self, value: int | None, most: int) -> int:
        """A whole number of 0 … most, all as likely."""
        high, low = (None, None) if value is None else ([value >> 20], [value & (2**20 - 1)])
        found = int(self.coder.evenly(high, (most >> 20) + 1, 1)[0]) << 20
        found += int(self.coder.evenly(low, min(2**20, most + 1), 1)[0])
        if found > most:
            raise CodeError(f"{found} nonzeros of {most} weights")
        return found

    def _used_columns(self, alive, columns: int) -> np.ndarray:
        """Which columns have a nonzero at all, (columns,) boolean; all of them where to say so does not pay."""
        used = None if alive is None else alive.any((0, 2))
        dead = 0 if used is None else int((~used).sum())
        cells = 0 if alive is None else alive.size
        told = None
        if alive is not None:  # it pays where the cells of dead columns would cost more than to name the columns
            ones, fewer = int(alive.sum()), cells - dead * cells // columns
            told = [int(_bits(ones, cells) > _bits(ones, fewer) + _bits(dead, columns) + 20)]
        if not self.coder.evenly(told, 2, 1)[0]:
            return np.ones(columns, bool)
        dead = self._number(dead, columns - 1)
        used = ~self._fixed(None if used is None else ~used, columns, dead, columns)
        if (~used).sum() != dead:
            raise CodeError("the columns left out are not as many as was said")
        return used

    def _fixed(self, flags, count: int, ones: int, cells: int) -> np.ndarray:
        """``count`` flags where ``ones`` of the next ``cells`` are 1."""
        if ones <= 0 or ones >= cells:
            return np.full(count, ones > 0)
        return self.coder.flags(flags, ones / cells, count).astype(bool)

    def _choose(self, method: str, ways: tuple, *arguments):
        """The way to code that takes the fewest bits, tried by the writer and told to the reader."""
        best = None
        if self.writing:
            costs = []
            for way in ways:
                trial = copy.copy(self)
                trial.coder = self.coder.clone()
                trial.histograms = {name: h.copy() for name, h in self.histograms.items()}
                trial.members = self.members.copy()
                getattr(trial, method)(way, *arguments)
                costs.append(trial.coder.bits)
            best = [costs.index(min(costs))]
        return ways[int(self.coder.evenly(best, len(ways), 1)[0])]

    def _cells(self, how: str, alive, shape: tuple[int, int, int], total: int) -> np.ndarray:
        """Boolean (rows, columns, kernel) with ``total`` ones."""
        rows, columns, kernel = shape
        width, found = columns * kernel, np.zeros((rows, columns * kernel), bool)
        flat = None if alive is None else alive.reshape(rows, width)
        if total in (0, rows * width):
            return np.full((rows, width), total > 0)
        of_cell, seen = np.arange(width) // kernel, np.zeros((2, columns), np.int64)
        ones = total
        for i in range(rows):
            row = None if flat is None else flat[i]
            if how == "tensor":
                found[i] = self._fixed(row, width, ones, (rows - i) * width)
            else:
                self._adaptive_row(how, row, found[i], of_cell, seen, total / (rows * width))
                live = found[i].reshape(columns, kernel).sum(1)
                seen += [live, kernel - live]
            ones -= int(found[i].sum())
        if ones != 0:
            raise CodeError("the nonzero weights are not as many as was said")
        return found

    def _adaptive_row(self, how, row, found, of_cell, seen, density) -> None:
        """Fills ``found`` block by block: odds of the row so far × odds of the column so far ÷ odds of the tensor."""
        ones, zeros = 16 * density, 16 * (1 - density)
        for start in range(0, len(found), BLOCK[how]):
            block = slice(start, start + BLOCK[how])
            odds = np.full(len(found[block]), ones / zeros)
            if how == "columns":
                here = seen[:, of_cell[block]]
                odds = odds * ((here[0] + 5 * density) / (here[1] + 5 * (1 - density))) / (density / (1 - density))
            chance = np.clip(odds / (1 + odds), LEAST, 1 - LEAST)
            found[block] = self.coder.flags(None if row is None else row[block], chance, len(chance))
            count = int(found[block].sum())
            ones, zeros = ones + count, zeros + len(chance) - count

    def _magnitudes(self, how: tuple[str, str], tensor, mask: np.ndarray) -> np.ndarray:
        """int64 (nonzeros,) of 1 … 128, row after row."""
        source, kernel = how
        rows = mask.reshape(len(mask), -1).sum(1) if mask.size else np.zeros(0, np.int64)
        flat = None if tensor is None else np.abs(tensor[mask].astype(np.int64)) - 1
        local, seen = _share(self.histograms["tensor", kernel]), np.zeros(MAGNITUDES, np.int64)
        parts, start = [], 0
        for count in rows[rows > 0].tolist():
            row = None if flat is None else flat[start : start + count]
            start += count
            counts = local
            if source == "classes":
                label = self.coder.symbols(None if row is None else [self._class_of(row)], self.members, 1)
                counts = self.histograms[int(label[0]), kernel]
            row = self.coder.symbols(row, counts, count).astype(np.int64)
            new, label = np.bincount(row, minlength=MAGNITUDES), self._class_of(row)
            self.members[label] += 1
            for each in KERNELS:
                self.histograms[label, each] = self.histograms[label, each] + _spread(new, each)
            local, seen = local + _spread(new, kernel), seen + new
            parts.append(row + 1)
        for each in KERNELS:
            self.histograms["tensor", each] = self.histograms["tensor", each] * 2 // 3 + _spread(seen, each) + 1
        return np.concatenate(parts) if parts else np.zeros(0, np.int64)

    def _class_of(self, row: np.ndarray) -> int:
        return sum(int(row.sum()) >= edge * len(row) for edge in self.edges)


def class_edges(tensors: list[np.ndarray]) -> list[int]:
    """The edges that part the rows of int8 ``tensors`` (rows, …) into :data:`CLASSES` of equal numbers."""
    means = []
    for tensor in tensors:
        for row in np.abs(tensor.reshape(len(tensor), -1).astype(np.int64)) if tensor.size else ():
            means += [(row[row > 0] - 1).mean()] if row.any() else []
    if not means:
        return [0] * (CLASSES - 1)
    return [int(e) for e in np.quantile(means, np.arange(1, CLASSES) / CLASSES)]


def _blocks(way: str, shape: tuple[int, int, int]) -> int:
    """Updates that it takes to code cells of ``shape`` that way; none where there is one density."""
    return 0 if way == "tensor" else shape[0] * -(-shape[1] * shape[2] // BLOCK[way])


def _spread(histogram: np.ndarray, kernel: str) -> np.ndarray:
    """``histogram`` with every count spread over its neighbours, mirrored at the ends."""
    side = len(KERNELS[kernel]) // 2
    return np.convolve(np.pad(histogram, side, mode="symmetric"), KERNELS[kernel], mode="valid")


def _share(counts: np.ndarray) -> np.ndarray:
    """``counts`` scaled to about :data:`PRIOR` in all, none below 1."""
    return counts * PRIOR // counts.sum() + 1


def _bits(ones: int, cells: int) -> float:
    """cells × the zero-order entropy (bits) of flags of which ``ones`` are 1."""
    return entropy_bits(np.array([ones, cells - ones]))


def entropy_bits(counts: np.ndarray) -> float:
    """Σ counts × the zero-order entropy (bits) of their shares: −Σ c log₂ (c / Σ c); zeros count nothing."""
    counts = counts[counts > 0].astype(float)
    return float(-(counts * np.log2(counts / counts.sum())).sum()) if len(counts) else 0.0
