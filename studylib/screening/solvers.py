"""Three ways to one λ: FISTA, variance-reduced steps on each worker's own rows, coordinate descent on a Gram matrix."""

import numpy as np
from sklearn.linear_model._cd_fast import enet_coordinate_descent_gram

from studylib.screening.data import Shard
from studylib.screening.state import ROUNDING, Solution, State

ROWS = 32  # of a mini-batch of the variance-reduced solver
SHARPER = 0.1  # a subproblem is solved to this share of the gap that is left
ROOT = 1e-4  # the same of a loss that is not squared: its gap falls as the root of what is left to the objective
NEAR = 0.1  # of the safe rule's radius, by which features are chosen to work on
FEW = 10  # features at least that a working set may add
MAJORANTS = 30  # quadratic bounds of a loss that is not squared, between two checks


def solve(
    data: Shard, lam: float, *, solver="fista", ridge=0.0, groups=None, start=None, screen=True, tol=1e-8,
    steps=100_000, every=10, local=5, asynchronous=False, seed=0,
) -> Solution:  # fmt: skip
    """The coefficients at ``lam``, to a duality gap of at most ``tol``.

    Args:
        data: rows of this worker; every worker calls with the same other arguments.
        lam: λ > 0, of P as :mod:`studylib.screening.state` has it.
        solver: "fista" (Beck and Teboulle 2009), "svrg" (local steps) or "gram" (working sets, without groups).
        ridge: μ ≥ 0, of the elastic net.
        groups: a :class:`studylib.screening.groups.Groups` for the group lasso.
        start: coefficients (p,) to start from.
        screen: whether features are discarded.
        tol: the gap, in units of P, at which it stops.
        steps: at most so many steps (rounds for "svrg", working sets for "gram").
        every: steps of FISTA between two checks.
        local: passes of "svrg" over a worker's rows in a round.
        asynchronous: threads change one vector without locks ("svrg").
        seed: of the order of mini-batches.

    Raises:
        ValueError: an unknown solver, or one that cannot do what is asked.
        WorkerDied: another worker ended.
    """
    if solver not in SOLVERS:
        raise ValueError(f"solver={solver!r}: expected one of {', '.join(SOLVERS)}")
    if solver == "gram" and groups is not None:
        raise ValueError("solver='gram': expected no groups; fista and svrg have them")
    if not tol > 0 or steps < 1 or every < 1 or local < 1:
        raise ValueError(f"tol={tol}, steps={steps}, every={every}, local={local}: expected all to be positive")
    state = State(data, lam, ridge, groups, start, screen)
    if solver == "fista":
        step = _fista(state, tol, steps, every)
    elif solver == "svrg":
        step = _svrg(state, tol, steps, local, asynchronous, seed)
    else:
        step = _gram(state, tol, steps)
    return state.solution(step, tol)


def _fista(state: State, tol: float, steps: int, every: int) -> int:
    """Momentum restarts after a discard, and where it points uphill (O'Donoghue and Candès 2015)."""
    bound = state.L * state.norms.max(initial=0.0) / state.n or 1.0
    v, zv, t, b = state.w, state.z, 1.0, state.b
    for step in range(steps + 1):
        if step % every == 0 or step == steps:
            gone = state.check(step)
            if state.gap <= tol or step == steps or not len(state.active):
                break
            if gone or step == 0:
                v, zv, t, b = state.w, state.z, 1.0, state.b
                bound *= 0.7
        if v is state.w:
            gradient = state.gradient_here()
        else:
            rho, b = state.data.fitted(zv, b)
            gradient = -state.correlations(rho)[0] / state.n + state.ridge * v
        new, z, bound = state.move(v, zv, gradient, bound)
        ahead = 0.0
        if (v - new) @ (new - state.w) > 0:
            t = 1.0
        else:
            after = (1 + np.sqrt(1 + 4 * t * t)) / 2
            ahead, t = (t - 1) / after, after
        v, zv = new + ahead * (new - state.w), z + ahead * (z - state.z)
        state.w, state.z, state.gradient = new, z, None
    return step


def _svrg(state: State, tol: float, steps: int, local: int, asynchronous: bool, seed: int) -> int:
    """Rounds: one full gradient, then steps on own rows corrected by it (Johnson and Zhang 2013), then the mean.

    A round that raises the objective is undone: a proximal gradient step replaces it, and the next ones are shorter.
    """
    draw = np.random.default_rng([seed, state.workers.rank])
    bound = state.L * state.norms.max(initial=0.0) / state.n or 1.0
    before, least = None, np.inf
    size, share = _batches(state), 1.0
    rows = state.workers.sum([float(len(state.data.y))])[0][0]
    width = None
    for step in range(steps + 1):
        state.check(step)
        if before is not None and state.value > least * (1 + 1e-15) + 1e-300:
            w, active = before
            state.w = w[np.isin(active, state.active)]
            state.z, state.gradient = state.scores(state.w), None
            new, z, bound = state.move(state.w, state.z, state.gradient_here(), bound)
            state.w, state.z, state.gradient = new, z, None
            share, local, before = share / 2, max(1, local // 2), None
            continue
        if state.gap <= tol or step == steps or not len(state.active):
            break
        least, before = state.value, (state.w, state.active)
        if width != state.matrix.shape[1]:  # a compacted matrix has other, smaller curvatures
            width, curvature = state.matrix.shape[1], _curvature(state, size)
        eta = share / (curvature + state.ridge)
        state.w = _local(state, draw, size, local, eta, asynchronous, rows)
        state.z, state.gradient = state.scores(state.w), None
    return step


def _batches(state: State) -> list[slice]:
    return [slice(i, i + ROWS) for i in range(0, len(state.data.y), ROWS)]


def _curvature(state: State, batches) -> float:
    """The largest of L‖X_B‖²/|B| of all mini-batches and workers, by power iteration."""
    most, means = 0.0, state.data.means[state.active]
    wide = np.zeros(state.matrix.shape[1])
    for rows in batches:
        X, norm = state.matrix[rows], 0.0
        v = np.cos(np.arange(X.shape[0]))  # of no pattern that data has
        v /= np.linalg.norm(v)
        for _ in range(10):
            u = (X.T @ v)[state.where] - means * v.sum()
            wide[state.where] = u
            u = X @ wide - means @ u
            norm = np.linalg.norm(u)
            if not norm:
                break
            v = u / norm
        most = max(most, 1.2 * state.L * norm / X.shape[0])
    return max(state.workers.gather(most)) or 1.0


def _local(state: State, draw, batches, passes: int, eta: float, asynchronous: bool, rows: float):
    data, anchor, full = state.data, state.w, state.gradient_here()
    means = data.means[state.active]
    wide = np.zeros(state.matrix.shape[1])
    u = state.workers.share(anchor.copy()) if asynchronous else anchor.copy()
    eta = eta / state.workers.size if asynchronous else eta
    base = data.loss.residual(state.z + state.b, data.y)
    for _ in range(passes):
        for i in draw.permutation(len(batches)):
            part, here = batches[i], u.copy()
            X = state.matrix[part]
            wide[state.where] = here
            change = data.loss.residual(X @ wide - means @ here + state.b, data.y[part]) - base[part]
            correction = (X.T @ change)[state.where] - means * change.sum()
            v = full - correction / X.shape[0] + state.ridge * (here - anchor)
            u += state.prox(here - eta * v, eta) - here
    if asynchronous:
        state.workers.gather(None)  # all have stopped writing
        return u.copy()
    share = len(data.y) / rows
    return state.workers.sum(share * (u if batches else anchor))[0]


class _Gram:
    """XᵀX of the features that were in a working set, grown by columns and kept along a path."""

    def __init__(self, data: Shard):
        self.columns, self.X = np.zeros(0, dtype=int), np.zeros((len(data.y), 0))
        self.Q, self.place = np.zeros((0, 0)), np.full(data.p, -1)

    def add(self, data: Shard, wanted) -> None:
        """Columns ``wanted`` of X, those that are not there; one all-reduce of the new products, each once."""
        new = wanted[self.place[wanted] < 0]
        if not len(new):
            return
        X = data.X[:, new]
        X = np.asarray(X.toarray() if hasattr(X, "toarray") else X)
        old, upper = len(self.columns), np.triu_indices(len(new))
        cross, corner = data.workers.sum(self.X.T @ X, (X.T @ X)[upper])
        square = np.zeros((len(new), len(new)))
        square[upper] = corner
        square = square + np.triu(square, 1).T
        self.columns, self.X = np.concatenate([self.columns, new]), np.concatenate([self.X, X], axis=1)
        self.place[new] = np.arange(old, len(self.columns))
        products = np.concatenate([cross, square]) - data.n * np.outer(data.means[self.columns], data.means[new])
        grown = np.zeros((len(self.columns), len(self.columns)))
        grown[:old, :old], grown[:, old:], grown[old:, :old] = self.Q, products, products[:old].T
        self.Q = grown


def _gram(state: State, tol: float, steps: int) -> int:
    """Working sets (Massias et al. 2017): each is solved by every worker alone, once XᵀX of its features is added.

    A set has the features that the safe rule keeps at a share of its radius. The check that follows is of all.
    """
    data = state.data
    data.gram = gram = data.gram or _Gram(data)
    for step in range(steps + 1):
        state.check(step)
        if state.gap <= tol or step == steps or not len(state.active):
            break
        state.gradient_here()
        chosen = _chosen(state, gram)
        gram.add(data, state.active[chosen])
        aim = SHARPER * (tol if len(chosen) == len(state.active) else state.gap)
        aim = max(aim if data.name == "squared" else ROOT * aim, ROUNDING * abs(state.value))
        at, means = gram.place[state.active[chosen]], data.means[state.active[chosen]]
        w, G, rho2 = state.w[chosen], state.correlated[chosen], state.rho2
        for _ in range(MAJORANTS):
            w, fell = _minimized(state, gram.Q[np.ix_(at, at)], w, G, rho2, aim)
            z = gram.X[:, at] @ w - means @ w
            if data.name == "squared" or fell <= aim:
                break
            rho, state.b = data.fitted(z, state.b)
            G, (rho2,) = data.workers.sum(gram.X[:, at].T @ rho, [float(rho @ rho)])
        state.w, state.z, state.gradient = np.zeros(len(state.active)), z, None
        state.w[chosen] = w
    return step


def _chosen(state: State, gram: _Gram):
    """Features to work on: those in use, and those nearest their bound. New products cost half a check at most."""
    slack = (1 - np.abs(state.scale * state.n * state.gradient)) / np.sqrt(np.maximum(state.norms, 1e-300))
    slack[state.w != 0] = -np.inf
    order = np.argsort(slack, kind="stable")
    near = slack[order] <= NEAR * state.radius()
    near[:FEW] = True
    order = order[near]
    new = gram.place[state.active[order]] < 0
    count = np.cumsum(new)
    cheap = (count <= FEW) | (count * (len(gram.columns) + count / 2) <= len(state.active) / 2)
    return np.sort(order[cheap | ~new])


def _minimized(state: State, Q, w, G, rho2: float, aim: float):
    """The least of the quadratic bound at ``w``, by scikit-learn's coordinate descent, and how far it fell (P).

    L‖Xu − (Xw + ρ/L)‖²/2, of the loss's curvature L: no smaller than the loss, and the squared one itself.
    """
    L, n = state.L, state.n
    q = Q @ w + G / L
    norm = max(float(w @ (Q @ w) + 2 * (w @ G) / L + rho2 / L**2), 1e-300)
    u = enet_coordinate_descent_gram(
        *(w.copy(), state.lam * n / L, state.ridge * n / L, np.ascontiguousarray(Q), q, np.sqrt([norm]), 10_000),
        *(aim * n / L / norm, np.random.RandomState(0), False, False, True),
    )[0]
    u = state.workers.sum(u if state.workers.rank == 0 else np.zeros_like(u))[0]  # the same bits on every machine
    step = u - w
    fell = float(step @ G - L * (step @ (Q @ step)) / 2 - state.ridge * n * (u @ u - w @ w) / 2) / n
    return u, fell - state.lam * float(np.abs(u).sum() - np.abs(w).sum())


SOLVERS = ("fista", "svrg", "gram")
