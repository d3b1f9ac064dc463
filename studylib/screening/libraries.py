"""Other libraries of one machine, to a gap: scikit-learn with its own screening and without it, celer, skglm."""

import importlib.util
import time
import warnings
from collections.abc import Callable

import numpy as np
from scipy import sparse
from scipy.special import entr, expit
from sklearn.linear_model import LogisticRegression, lasso_path

from studylib.screening.data import Shard
from studylib.screening.path import path

LOOSE = 10.0 ** -np.arange(4, 15)  # tolerances of a library that are tried, the loosest first


def ways(loss: str = "squared") -> dict[str, Callable]:
    """Library → (X, y, λ's, tolerance) → coefficients (p, λ's) of the ``loss``; those that are installed."""
    found = {
        "scikit-learn": _sklearn,
        "scikit-learn without its screening": lambda *given: _sklearn(*given, do_screening=False),
    }
    if loss == "logistic":
        found = {"scikit-learn, liblinear": _liblinear}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if importlib.util.find_spec("celer"):
            from celer import celer_path

            def celer(X, y, values, tol):
                problem, per = ("logreg", len(y)) if loss == "logistic" else ("lasso", 1)  # its logistic loss is a sum
                return celer_path(X, y, problem, alphas=per * values, tol=per * tol, max_iter=200)[1]

            found["celer"] = celer
        if importlib.util.find_spec("skglm"):
            from skglm.datafits import Logistic, Quadratic
            from skglm.penalties import L1
            from skglm.solvers import AndersonCD

            def skglm(X, y, values, tol):
                solver = AndersonCD(tol=tol, fit_intercept=False, max_iter=1000)
                return solver.path(X, y, Logistic() if loss == "logistic" else Quadratic(), L1(1.0), values)[1]

            found["skglm"] = skglm
    return found


def _sklearn(X, y, values, tol, **private):
    return lasso_path(X, y, alphas=values, tol=tol, max_iter=100_000, **private)[1]


def _liblinear(X, y, values, tol):
    """Each λ from zero: it takes no start."""
    coefs = []
    for lam in values:
        model = LogisticRegression(l1_ratio=1, C=1 / (len(y) * lam), solver="liblinear", fit_intercept=False, tol=tol)
        coefs.append(model.set_params(max_iter=10_000, random_state=0).fit(X, y).coef_[0])
    return np.stack(coefs, axis=1)


def ours(X, y, values, tol, screen: bool = True, loss: str = "squared"):
    """Our coefficients (p, λ's) by working sets, to the gap ``tol``."""
    found = path(Shard(X, y, loss), values, solver="gram", tol=tol, screen=screen)
    return np.stack([solution.coef for solution in found], axis=1)


def gap(X, y, w, lam: float, loss: str = "squared") -> float:
    """The duality gap at w (p,), by itself: of the Lasso, or of L1-logistic regression (labels ±1)."""
    n, z = len(y), X @ w
    rho = y - z if loss == "squared" else y * expit(-y * z)
    scale = min(1.0, lam * n / np.abs(X.T @ rho).max())
    if loss == "squared":
        value, dual = rho @ rho / 2, (y @ y - (y - scale * rho) @ (y - scale * rho)) / 2
    else:
        value, dual = np.logaddexp(0, -y * z).sum(), (entr(scale * rho * y) + entr(1 - scale * rho * y)).sum()
    return (value - dual) / n + lam * np.abs(w).sum()


def to_gap(way: Callable, X, y, values, goal: float, loss: str = "squared") -> tuple[Callable, float]:
    """``way`` at the loosest of its tolerances whose coefficients reach ``goal`` at each λ, and the gap they have."""
    for loose in LOOSE:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of a tolerance beyond rounding
            coefs = way(X, y, values, loose)
        worst = max(gap(X, y, w, lam, loss) for w, lam in zip(coefs.T, values, strict=True))
        if worst <= goal:
            break
    return lambda: way(X, y, values, loose), worst


def compared(X, y, values, goal: float, repeats: int, loss: str = "squared") -> list[dict]:
    """A row a library: seconds (median of ``repeats``, taken in turn), gap, apart (largest coefficient's, of ours).

    X is dense or CSR; the others are given its columns together, as they want it.
    """
    columns = sparse.csc_matrix(X) if sparse.issparse(X) else np.asfortranarray(X)
    if sparse.issparse(X):  # places of 32 bits are all that the others take
        columns.indices, columns.indptr = columns.indices.astype(np.int32), columns.indptr.astype(np.int32)
    actions = {
        "ours": (lambda: ours(X, y, values, goal, True, loss), goal),
        "ours without screening": (lambda: ours(X, y, values, goal, False, loss), goal),
    }
    actions |= {name: to_gap(way, columns, y, values, goal, loss) for name, way in ways(loss).items()}
    took, coefs = {name: [] for name in actions}, {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for _ in range(repeats):
            for name, (action, _) in actions.items():
                begin = time.perf_counter()
                coefs[name] = action()
                took[name].append(time.perf_counter() - begin)
    rows = []
    for name, coef in coefs.items():
        worst = max(gap(X, y, w, lam, loss) for w, lam in zip(coef.T, values, strict=True))
        apart = float(np.abs(coef - coefs["ours"]).max())
        rows.append({"library": name, "seconds": float(np.median(took[name])), "gap": float(worst), "apart": apart})
    return rows
