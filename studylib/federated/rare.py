"""Which classes are rare: those that few clients hold."""

import numpy as np


def rare(held: np.ndarray) -> list[int]:
    """The third of all classes, rounded down, that the fewest clients hold; none where the next is held as little.

    Counted is a class's effective number of clients, 1 / Σ p² over its shares p (Simpson 1949).
    ``held`` is (clients, classes), images.
    """
    shares = held / np.maximum(held.sum(0), 1)
    clients, third = 1 / np.maximum((shares**2).sum(0), 1e-9), held.shape[1] // 3
    order = np.argsort(clients, kind="stable")
    tied = third and np.isclose(*clients[order[third - 1 : third + 1]])
    return [] if tied else sorted(order[:third].tolist())
