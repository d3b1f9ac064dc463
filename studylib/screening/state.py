"""What every solver of one λ shares: coefficients, the duality gap, and the features that are still there.

P(w) = (1/n) Σ f(x_iᵀw + b, y_i) + λ Σ_g ω_g‖w_g‖ + (μ/2)‖w‖². The ridge term counts as p more rows √(nμ/L) e_j of the
loss L z²/2. The dual point is θ = sρ, the radius √(2 L gap / n)/λ around it holds the solution's. A group with
s‖G_g‖ + radius·N_g < ω_g is zero in every solution (Ndiaye et al. 2017, theorem 5). G = Xᵀρ, N_g ≥ ‖X_g‖.
"""

import time
import warnings
from dataclasses import dataclass, field

import numpy as np
from sklearn.exceptions import ConvergenceWarning

from studylib.screening.data import Shard
from studylib.screening.groups import Groups, shrink

COMPACT = 0.25  # a smaller matrix is made once so few of the present columns are left
FEW = 0.1  # of the columns, at most, that are worth picking out for one product
ROUNDING = 16 * np.finfo(float).eps  # of the gap, as a share of the objective


@dataclass
class Solution:
    """Coefficients (p,) at one λ; ``kept`` says which features were not discarded, ``sent`` the bytes of a worker.

    ``trace`` has a row for each check: step, gap, features, sent (bytes), seconds.
    """

    coef: np.ndarray
    intercept: float
    lam: float
    gap: float
    steps: int
    kept: np.ndarray
    sent: int
    trace: list[dict] = field(default_factory=list)


class State:
    """Coefficients ``w`` of the features that are left, and what the last :meth:`check` found.

    Attributes:
        active: numbers of the features that are left.
        w, z: coefficients of these, and scores Xw (− x̄ᵀw with intercept) of this worker's rows.
        gradient: of the smooth part at ``w``, since the last check.
        correlated, rho2: Xᵀρ and ‖ρ‖² of that gradient.
    """

    def __init__(self, data: Shard, lam: float, ridge=0.0, groups: Groups | None = None, start=None, screen=True):
        for name, value, least in (("lam", lam, "positive"), ("ridge", ridge, "not negative")):
            if not np.isfinite(value) or value < 0 or (name == "lam" and value == 0):
                raise ValueError(f"{name}={value!r}: expected a finite number, {least}")
        if groups is not None and len(groups.labels) != data.p:
            raise ValueError(f"groups have {len(groups.labels)} features: expected {data.p}, as X has columns")
        self.data, self.workers, self.lam, self.ridge, self.groups, self.screen = (
            *(data, data.workers, float(lam), float(ridge)),
            *(groups, screen),
        )
        self.n, self.L = data.n, data.loss.curvature
        self.active = np.flatnonzero(data.varying)  # the others stay zero
        self.matrix, self.where = data.X, self.active
        self.norms = data.norms[self.active] + self.n * self.ridge / self.L
        w = np.zeros(data.p) if start is None else np.where(data.varying, start, 0.0)
        self.w = w[self.active]
        self.b, self.trace, self.begin, self.sent = data.b, [], time.perf_counter(), self.workers.sent
        used = np.flatnonzero(w)
        if len(used) > FEW * data.p:
            self.z = self.scores(self.w)
        else:  # a start that is zero or sparse: the other columns are not read
            self.z = data.X[:, used] @ w[used] - data.means[used] @ w[used]
        self.gap, self.value, self.gradient = np.inf, np.inf, None

    def scores(self, w):
        """Xw of this worker's rows, of columns centred where there is an intercept."""
        if len(self.where) < self.matrix.shape[1]:
            full = np.zeros(self.matrix.shape[1])
            full[self.where] = w
        else:
            full = w
        return self.matrix @ full - self.data.means[self.active] @ w

    def correlations(self, rho, *others):
        """G = Xᵀρ over all rows, less nμw if asked; ``others`` are summed in the same all-reduce."""
        return self.workers.sum((self.matrix.T @ rho)[self.where], *others)

    def prox(self, w, amount):
        """The proximal step of the penalty."""
        return shrink(w, amount * self.lam, self.groups, None if self.groups is None else self.labels)

    @property
    def labels(self):
        """The groups of the features that are left."""
        return self.groups.labels[self.active]

    def _group_norms(self, values):
        return np.abs(values) if self.groups is None else self.groups.norms(values, self.labels)

    def check(self, step: int) -> bool:
        """The gap at ``w``; discards features by it. Returns whether some are gone, so that momentum restarts.

        One all-reduce of a number a feature and three more; every rank finds the same from it.
        """
        data, lam, n = self.data, self.lam, self.n
        rho, self.b = data.fitted(self.z, self.b)
        scores = self.z + self.b if data.intercept else self.z
        parts = [data.loss.value(scores, data.y), float(rho @ rho), float(rho @ data.y)]
        G, (value, rho2, rho_y) = self.correlations(rho, parts)
        self.correlated, self.rho2 = G, rho2
        squared = float(self.w @ self.w)
        G = G - n * self.ridge * self.w
        weights = 1.0 if self.groups is None else self.groups.weights
        norms = self._group_norms(G) / weights
        m = norms.max(initial=0.0)
        if data.name == "squared":
            size = rho2 + n * self.ridge * squared
            s = rho_y / (lam * n * size) if size else 0.0
            s = float(np.clip(s, -1 / m, 1 / m)) if m else s
        else:
            s = 1 / max(lam * n, m)
        (dual,) = self.workers.sum([data.loss.dual(lam * n * s * rho, data.y)])
        dual = float(dual[0]) / n - (lam * n * s) ** 2 * self.ridge * squared / 2 * (1 if self.ridge else 0)
        penalty = float((weights * self._group_norms(self.w)).sum())
        self.value = value / n + lam * penalty + self.ridge * squared / 2
        self.gap = max(self.value - dual, 0.0)
        self.gradient, self.scale = -G / n, s
        gone = self._discard(norms * weights, s) if self.screen else False
        row = {"step": step, "gap": self.gap, "features": len(self.active), "sent": self.workers.sent - self.sent}
        self.trace.append(row | {"seconds": time.perf_counter() - self.begin})
        return gone

    def radius(self) -> float:
        """Of the ball around the dual point that holds the solution's, with what rounding may hide of the gap."""
        return float(np.sqrt(2 * self.L * (self.gap + ROUNDING * abs(self.value)) / self.n)) / self.lam

    def _discard(self, norms, s: float) -> bool:
        radius = self.radius()
        if self.groups is None:
            keep = abs(s) * norms + radius * np.sqrt(self.norms) >= 1 - ROUNDING
        else:
            size = np.sqrt(np.bincount(self.labels, weights=self.norms, minlength=len(norms)))
            keep = (abs(s) * norms + radius * size >= self.groups.weights * (1 - ROUNDING))[self.labels]
        if keep.all():
            return False
        changed = bool(self.w[~keep].any())
        self.active, self.where, self.norms = self.active[keep], self.where[keep], self.norms[keep]
        self.w, self.gradient, self.correlated = self.w[keep], self.gradient[keep], self.correlated[keep]
        if len(self.where) <= COMPACT * self.matrix.shape[1]:
            self.matrix, self.where = self.matrix[:, self.where], np.arange(len(self.where))
        if changed:
            self.z = self.scores(self.w)
            self.gradient = None
        return True

    def gradient_here(self):
        """The gradient at ``w``, that of the last check where it still holds."""
        if self.gradient is None:
            rho, self.b = self.data.fitted(self.z, self.b)
            self.correlated, (self.rho2,) = self.correlations(rho, [float(rho @ rho)])
            self.gradient = -self.correlated / self.n + self.ridge * self.w
        return self.gradient

    def move(self, v, zv, gradient, bound: float):
        """A proximal gradient step from ``v``: new coefficients, their scores, the bound that held (backtracking)."""
        while True:
            new = self.prox(v - gradient / bound, 1 / bound)
            z = self.scores(new)
            length = float((new - v) @ (new - v))
            (bend,) = self.workers.sum([float((z - zv) @ (z - zv))])
            bend = self.L * float(bend[0]) / self.n + self.ridge * length
            if bend <= bound * length * (1 + 1e-9) or length == 0:
                return new, z, bound
            bound = max(2 * bound, bend / length)

    def solution(self, step: int, tol: float) -> Solution:
        """What was found, for all p features; warns where the gap is not reached."""
        if self.gap > tol:
            text = f"λ = {self.lam:.4g}: gap {self.gap:.3g} after {step} steps, expected at most {tol:.3g}"
            warnings.warn(text, ConvergenceWarning, stacklevel=3)
        coef, kept = np.zeros(self.data.p), np.zeros(self.data.p, dtype=bool)
        coef[self.active], kept[self.active] = self.w, True
        intercept = 0.0
        if self.data.intercept:
            intercept = float(self.b + self.data.offset - self.data.means @ coef)
        sent = self.workers.sent - self.sent
        return Solution(coef, intercept, self.lam, self.gap, step, kept, sent, self.trace)
