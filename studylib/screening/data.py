"""The rows of one worker, checked on all of them together, and what a solver asks of their columns."""

import numpy as np
from scipy import sparse
from scipy.special import expit

from studylib.screening.communicate import Alone
from studylib.screening.losses import LOSSES

NEAR = 1e-12  # of a column's squares, below which it counts as constant
NEWTON = 30  # steps at most for the intercept; it has converged to rounding long before


class Shard:
    """One shard of n rows in all: X (rows × p, dense or CSR, float64) with labels y (rows,).

    X is kept as it is, no copy made. A shard may be empty. ``loss`` is squared or logistic (y = ±1). With ``intercept``
    an unpenalized b is minimized out at each evaluation. Columns of zeros, or constant ones beside an intercept, keep
    zero coefficients. Every rank raises the same error.

    Attributes:
        norms: ‖x_j‖² of the n rows, shape (p,), of centred columns with ``intercept``.
        means: of the columns, shape (p,); zeros without ``intercept``.
        varying: whether a column is neither zero nor, with ``intercept``, constant, shape (p,).
        sent: bytes of a worker to find these.

    Raises:
        TypeError: X is not float64, or sparse but not CSR.
        ValueError: shapes that do not fit, no rows, NaN or infinity, labels unknown to the loss. Columns too large to
            be squared, or that vary by less than a millionth of their mean.
    """

    def __init__(self, X, y, loss: str = "squared", intercept: bool = False, workers: Alone | None = None):
        self.workers = workers or Alone()
        begin = self.workers.sent
        if loss not in LOSSES:
            raise ValueError(f"loss={loss!r}: expected one of {', '.join(LOSSES)}")
        self.name, self.loss, self.intercept = loss, LOSSES[loss], intercept
        faults = self.workers.gather((_fault(X, y, loss), X.shape[1] if np.ndim(y) == 1 and X.ndim == 2 else None))
        for rank, (fault, _) in enumerate(faults):
            if fault:
                kind, text = fault
                raise kind(text if self.workers.size == 1 else f"rank {rank}: {text}")
        widths = sorted({width for _, width in faults})
        if len(widths) > 1:
            raise ValueError(f"shards have {widths} columns: expected the same number on each rank")
        self.X, self.y, self.p = X, np.asarray(y, dtype=float), X.shape[1]
        counted, total, positive = self.workers.sum([float(len(self.y))], [self.y.sum()], [float((self.y > 0).sum())])
        self.n = int(counted[0])
        if not self.n:
            raise ValueError("the shards have no rows: expected at least one row on some rank")
        if loss == "logistic" and positive[0] in (0, self.n):
            raise ValueError(f"labels are all {'1' if positive[0] else '-1'}: expected both -1 and 1")
        self.offset = total[0] / self.n if intercept and loss == "squared" else 0.0
        self.y = self.y - self.offset if self.offset else self.y
        with np.errstate(over="ignore"):
            squares = X.multiply(X).sum(axis=0) if sparse.issparse(X) else np.einsum("ij,ij->j", X, X)
        sums = [np.asarray(X.sum(axis=0), dtype=float).ravel()] if intercept else []
        squares, *sums = self.workers.sum(np.asarray(squares, dtype=float).ravel(), *sums)
        if wrong := np.flatnonzero(~np.isfinite(squares)).tolist():
            raise ValueError(f"column {wrong[0]} of X: expected numbers whose squares can be added, below 1e150")
        if intercept:
            self.means = sums[0] / self.n
            centred = squares - self.n * self.means**2
            self.varying = centred > NEAR * squares
            self.norms = np.where(self.varying, centred + 1e-15 * squares, 0.0)
            self._check_constants()
        else:
            self.norms, self.means, self.varying = squares, np.zeros(self.p), squares > 0
        self.b, self.gram, self.sent = 0.0, None, self.workers.sent - begin

    def _check_constants(self) -> None:
        """Raises ValueError where a column varies, but by so little that its sum of squares does not say it."""
        still = np.flatnonzero(~self.varying)
        if not len(still):
            return
        X = self.X[:, still]
        X = X.toarray() if sparse.issparse(X) else X
        ends = self.workers.gather((X.max(axis=0), X.min(axis=0)) if len(X) else None)
        ends = [each for each in ends if each is not None]
        spread = np.max([most for most, _ in ends], axis=0) - np.min([least for _, least in ends], axis=0)
        if (spread > 0).any():
            j = int(np.flatnonzero(spread > 0)[0])
            about = f"column {still[j]} of X varies by {spread[j]:g} around {self.means[still[j]]:g}"
            raise ValueError(f"{about}: expected a constant or a mean nearer to zero, for rounding hides so little")

    def fitted(self, z, b: float):
        """Residuals ρ and b at scores z without intercept, b minimized out by Newton's method from ``b`` on."""
        if not self.intercept:
            return self.loss.residual(z, self.y), 0.0
        if self.loss is LOSSES["squared"]:
            (total,) = self.workers.sum([(self.y - z).sum()])
            return self.y - z - total[0] / self.n, total[0] / self.n
        for _ in range(NEWTON):
            rho = self.loss.residual(z + b, self.y)
            spread = expit(z + b)
            total, bend = self.workers.sum([rho.sum()], [(spread * (1 - spread)).sum()])
            if abs(total[0]) <= 1e-14 * self.n:
                break
            b += float(np.clip(total[0] / max(bend[0], 1e-12), -2, 2))
        return rho, b

    def at_zero(self):
        """Residuals, b and Xᵀρ (shape (p,)) of zero coefficients."""
        rho, b = self.fitted(np.zeros(len(self.y)), 0.0)
        return rho, b, self.workers.sum(self.X.T @ rho)[0]

    def largest(self, groups=None) -> float:
        """λ_max: the least λ whose solution is zero; ``groups`` is a :class:`studylib.screening.groups.Groups`."""
        G = np.where(self.varying, self.at_zero()[2], 0.0)
        found = np.abs(G) if groups is None else groups.norms(G) / groups.weights
        return float(found.max(initial=0.0)) / self.n


def _fault(X, y, loss: str):
    if sparse.issparse(X) and X.format != "csr":
        return TypeError, f"X is sparse in the format {X.format}: expected csr or a dense array"
    if X.dtype != np.float64:
        return TypeError, f"X has dtype {X.dtype}: expected float64"
    if X.ndim != 2 or np.ndim(y) != 1 or X.shape[0] != len(y):
        return ValueError, f"X has shape {X.shape} and y {np.shape(y)}: expected (rows, p) and (rows,)"
    if not np.isfinite(X.data if sparse.issparse(X) else X.sum()).all() and not _finite(X):
        return ValueError, "X holds NaN or infinity: expected finite numbers"
    if not np.isfinite(np.asarray(y, dtype=float)).all():
        return ValueError, "y holds NaN or infinity: expected finite numbers"
    if loss == "logistic" and not np.isin(y, (-1, 1)).all():
        several = np.unique(y)
        shown = ", ".join(f"{label:g}" for label in several[:4]) + ", …" * (len(several) > 4)
        return ValueError, f"labels are {shown}: expected -1 and 1"
    return None


def _finite(X) -> bool:
    """Row by row where dense, so that no mask as large as X is made."""
    return np.isfinite(X.data).all() if sparse.issparse(X) else all(np.isfinite(row).all() for row in X)
