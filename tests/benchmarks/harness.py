"""Paired timings: our way and the other in turn, in one run; medians and their ratio."""

import statistics
import time
from collections.abc import Callable


def seconds(action: Callable[[], object]) -> float:
    start = time.perf_counter()
    action()
    return time.perf_counter() - start


def pair(ours: Callable[[], float], other: Callable[[], float], n: int, unit: str) -> dict:
    """``ours`` and ``other`` each measure themselves once a call; they are called in turn, n times."""
    found: tuple[list, list] = ([], [])
    for _ in range(n):
        found[0].append(ours())
        found[1].append(other())
    medians = [statistics.median(values) for values in found]
    return {"ours": medians[0], "other": medians[1], "ratio": medians[0] / medians[1], "unit": unit, "n": n}
