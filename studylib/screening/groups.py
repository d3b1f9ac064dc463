"""Groups of features that are zero together: ω_g‖w_g‖₂ in place of |w_j| (Yuan and Lin 2006)."""

import numpy as np


class Groups:
    """``labels`` (p,) of integers 0 … g − 1 give each feature's group; ``weights`` are ω (g,), by default √size.

    Raises:
        ValueError: labels other than 0 … g − 1, each one used, or weights other than g positive numbers.
    """

    def __init__(self, labels, weights=None):
        self.labels = np.asarray(labels)
        if self.labels.ndim != 1 or not np.issubdtype(self.labels.dtype, np.integer) or self.labels.min(initial=0) < 0:
            raise ValueError(f"groups={str(labels)[:60]}: expected a list of integers from 0 on, one a feature")
        sizes = np.bincount(self.labels)
        if (sizes == 0).any():
            empty = int(np.flatnonzero(sizes == 0)[0])
            raise ValueError(f"group {empty} has none of {len(self.labels)} features: expected 0 … g - 1, all used")
        self.weights = np.sqrt(sizes) if weights is None else np.asarray(weights, dtype=float)
        if self.weights.shape != sizes.shape or not (self.weights > 0).all():
            raise ValueError(f"weights={weights!r}: expected {len(sizes)} positive numbers, one a group")

    def norms(self, values, labels=None):
        """‖v_g‖₂ of each group, shape (g,); ``labels`` are those of ``values`` where some features are gone."""
        labels = self.labels if labels is None else labels
        return np.sqrt(np.bincount(labels, weights=values * values, minlength=len(self.weights)))


def shrink(w, amount: float, groups: Groups | None = None, labels=None):
    """The proximal step of amount·Σ_g ω_g‖w_g‖₂, of amount·‖w‖₁ without ``groups``."""
    if groups is None:
        return np.sign(w) * np.maximum(np.abs(w) - amount, 0.0)
    norms = groups.norms(w, labels)
    kept = np.maximum(0.0, 1 - amount * groups.weights / np.maximum(norms, 1e-300))
    return w * kept[labels]
