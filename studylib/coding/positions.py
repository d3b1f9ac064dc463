"""Where a tensor is not zero: how many columns are used, and which of their cells."""

import numpy as np

from studylib.coding.range_coder import CodeError, Coder

LEAST = 2.0**-16  # no cell is more certain than this to be zero or not
WAYS = ("tensor", "rows", "columns")  # what the density of a cell is told from
BLOCK = {"rows": 64, "columns": 16}  # cells between two updates
BLOCKS = 2**17  # of a whole file, some seconds: beyond them density is told from the tensor alone


class Positions:
    """Codes positions; ``blocks`` is how many updates the tensors yet to come may take."""

    def __init__(self, coder: Coder):
        self.coder, self.blocks = coder, BLOCKS

    def code(self, tensor: np.ndarray | None, shape: tuple[int, ...]) -> np.ndarray:
        """Boolean of ``shape``: where ``tensor`` is not zero. Columns without any may be left out first."""
        rows = shape[0] if shape else 1
        columns, size = (shape[1] if len(shape) > 1 else 1), int(np.prod(shape, dtype=np.int64))
        if not size:
            return np.zeros(shape, bool)
        alive = None if tensor is None else (tensor != 0).reshape(rows, columns, -1)
        total = self.coder.number(None if tensor is None else int(alive.sum()), size)
        self.coder.spend(total)
        if total in (0, size):
            return np.full(shape, total > 0)
        used = _used_columns(self.coder, alive, columns)
        inner = (rows, int(used.sum()), size // rows // columns)
        if total > np.prod(inner):
            raise CodeError("more nonzero weights than their columns have room for")
        cells = None if alive is None else alive[:, used]
        ways = tuple(way for way in WAYS if _blocks(way, inner) <= self.blocks)
        how = self.coder.choose(ways, lambda coder, way: _cells(coder, way, cells, inner, total))
        self.blocks -= _blocks(how, inner)
        found = np.zeros((rows, columns, inner[2]), bool)
        found[:, used] = _cells(self.coder, how, cells, inner, total).reshape(inner)
        return found.reshape(shape)


def entropy_bits(counts: np.ndarray) -> float:
    """Σ counts × the zero-order entropy (bits) of their shares: −Σ c log₂ (c / Σ c); zeros count nothing."""
    counts = counts[counts > 0].astype(float)
    return float(-(counts * np.log2(counts / counts.sum())).sum()) if len(counts) else 0.0


def _used_columns(coder: Coder, alive: np.ndarray | None, columns: int) -> np.ndarray:
    """Which columns have a nonzero at all, (columns,) boolean; all of them where to say so does not pay."""
    told, unused, dead = None, None, 0
    if alive is not None:  # it pays where the cells of dead columns would cost more than to name the columns
        unused = ~alive.any((0, 2))
        dead, ones = int(unused.sum()), int(alive.sum())
        fewer = alive.size - dead * alive.size // columns
        told = [int(_bits(ones, alive.size) > _bits(ones, fewer) + _bits(dead, columns) + 20)]
    if not coder.evenly(told, 2, 1)[0]:
        return np.ones(columns, bool)
    dead = coder.number(dead, columns - 1)
    unused = coder.share(unused, columns, dead, columns)
    if unused.sum() != dead:
        raise CodeError("the columns left out are not as many as was said")
    return ~unused


def _cells(coder: Coder, how: str, alive: np.ndarray | None, shape: tuple[int, int, int], total: int) -> np.ndarray:
    """Boolean (rows, columns × kernel) with ``total`` ones; ``shape`` is (rows, columns, kernel)."""
    rows, columns, kernel = shape
    width = columns * kernel
    if total in (0, rows * width):
        return np.full((rows, width), total > 0)
    found, flat = np.zeros((rows, width), bool), None if alive is None else alive.reshape(rows, width)
    of_cell, seen, ones = np.arange(width) // kernel, np.zeros((2, columns), np.int64), total
    for i in range(rows):
        row = None if flat is None else flat[i]
        if how == "tensor":
            found[i] = coder.share(row, width, ones, (rows - i) * width)
        else:
            _adaptive_row(coder, how, row, found[i], of_cell, seen, total / (rows * width))
            live = found[i].reshape(columns, kernel).sum(1)
            seen += [live, kernel - live]
        ones -= int(found[i].sum())
    if ones != 0:
        raise CodeError("the nonzero weights are not as many as was said")
    return found


def _adaptive_row(coder: Coder, how, row, found, of_cell, seen, density) -> None:
    """Fills ``found`` block by block: odds of the row so far × odds of the column so far ÷ odds of the tensor."""
    ones, zeros = 16 * density, 16 * (1 - density)
    for start in range(0, len(found), BLOCK[how]):
        block = slice(start, start + BLOCK[how])
        odds = np.full(len(found[block]), ones / zeros)
        if how == "columns":
            here = seen[:, of_cell[block]]
            odds = odds * ((here[0] + 5 * density) / (here[1] + 5 * (1 - density))) / (density / (1 - density))
        chance = np.clip(odds / (1 + odds), LEAST, 1 - LEAST)
        found[block] = coder.flags(None if row is None else row[block], chance, len(chance))
        count = int(found[block].sum())
        ones, zeros = ones + count, zeros + len(chance) - count


def _blocks(way: str, shape: tuple[int, int, int]) -> int:
    """Updates that it takes to code cells of ``shape`` that way; none where there is one density."""
    return 0 if way == "tensor" else shape[0] * -(-shape[1] * shape[2] // BLOCK[way])


def _bits(ones: int, cells: int) -> float:
    """cells × the zero-order entropy (bits) of flags of which ``ones`` are 1."""
    return entropy_bits(np.array([ones, cells - ones]))
