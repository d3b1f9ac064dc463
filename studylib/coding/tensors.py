"""Entropy coding of whole tensors: integers, floats and bytes, one after the other through one range coder."""

import numpy as np

from studylib.coding.magnitudes import MAGNITUDES, Magnitudes
from studylib.coding.positions import Positions
from studylib.coding.range_coder import CodeError, Coder


class Tensors:
    """Codes tensors, each with what the earlier ones taught; methods take and return as those of ``coder`` do.

    ``edges``: of classes of rows (:func:`studylib.coding.magnitudes.class_edges`).
    """

    def __init__(self, coder: Coder, edges: list[int]):
        self.coder, self._positions, self._magnitudes = coder, Positions(coder), Magnitudes(edges)
        self._tops: dict[str, np.ndarray] = {}  # how often each kind of number had which leading bits

    def positions(self, tensor: np.ndarray | None, shape: tuple[int, ...]) -> np.ndarray:
        """Boolean of ``shape``: where ``tensor`` is not zero."""
        return self._positions.code(tensor, shape)

    def integers(self, tensor: np.ndarray | None, shape: tuple[int, ...]) -> np.ndarray:
        """int8 (rows, …): the number of nonzeros, positions, magnitudes, signs."""
        mask = self.positions(tensor, shape)
        nonzeros = None if tensor is None else tensor[mask]
        magnitudes = self._magnitudes.code(self.coder, nonzeros, mask)
        signs = self.coder.evenly(None if tensor is None else nonzeros < 0, 2, magnitudes.size)
        if (magnitudes[signs == 0] == MAGNITUDES).any():
            raise CodeError(f"a weight of {MAGNITUDES}, which int8 does not hold")
        found = np.zeros(shape, np.int8)
        found[mask] = np.where(signs, -magnitudes, magnitudes).astype(np.int8)
        return found

    def floats(self, tensor: np.ndarray | None, count: int, kind: str) -> np.ndarray:
        """float16 or float32 (count,): sign and exponent by how often ``kind`` had them before, the rest as it is."""
        half = kind.endswith("16")
        width, low, whole, real = (16, 10, np.uint16, np.float16) if half else (32, 23, np.uint32, np.float32)
        bits = None if tensor is None else np.ascontiguousarray(tensor, dtype=real).view(whole).astype(np.int64)
        self.coder.spend(low * count)
        counts = self._tops.setdefault(kind, np.ones(2 ** (width - low), np.int64))
        parts = [np.zeros(0, np.int64)]
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
        return np.concatenate(parts).astype(whole).view(real)

    def byte(self, value: int | None) -> int:
        """A number of 0 … 255 by how often it was seen before."""
        counts = self._tops.setdefault("byte", np.ones(256, np.int64))
        value = int(self.coder.symbols(None if value is None else [value], counts, 1)[0])
        counts[value] += 32
        return value
