"""Other libraries of one machine, to a gap: scikit-learn with its own screening and without it, celer, skglm."""

import importlib.util
import time
import warnings
from collections.abc import Callable

import numpy as np
from sklearn.linear_model import lasso_path

from studylib.screening.data import Shard
from studylib.screening.path import path

LOOSE = 10.0 ** -np.arange(4, 15)  # tolerances of a library that are tried, the loosest first


def ways() -> dict[str, Callable]:
    """Library → (X, y, λ's, tolerance) → coefficients (p, λ's); those that are installed."""
    found = {
        "scikit-learn": _sklearn,
        "scikit-learn without its screening": lambda *given: _sklearn(*given, do_screening=False),
    }
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if importlib.util.find_spec("celer"):
            from celer import celer_path

            found["celer"] = lambda X, y, values, tol: celer_path(X, y, "lasso", alphas=values, tol=tol, max_iter=200)[
                1
            ]
        if importlib.util.find_spec("skglm"):
            from skglm.datafits import Quadratic
            from skglm.penalties import L1
            from skglm.solvers import AndersonCD

            def skglm(X, y, values, tol):
                solver = AndersonCD(tol=tol, fit_intercept=False, max_iter=1000)
                return solver.path(X, y, Quadratic(), L1(1.0), values)[1]

            found["skglm"] = skglm
    return found


def _sklearn(X, y, values, tol, **private):
    return lasso_path(X, y, alphas=values, tol=tol, max_iter=100_000, **private)[1]


def ours(X, y, values, tol, screen: bool = True):
    """Our coefficients (p, λ's) by working sets, to the gap ``tol``."""
    found = path(Shard(X, y), values, solver="gram", tol=tol, screen=screen)
    return np.stack([solution.coef for solution in found], axis=1)


def gap(X, y, w, lam: float) -> float:
    """The duality gap of the Lasso at w (p,), by itself."""
    rho = y - X @ w
    scale = min(1.0, lam * len(y) / np.abs(X.T @ rho).max())
    dual = (y @ y - (y - scale * rho) @ (y - scale * rho)) / 2
    return (rho @ rho / 2 - dual) / len(y) + lam * np.abs(w).sum()


def to_gap(way: Callable, X, y, values, goal: float) -> tuple[Callable, float]:
    """``way`` at the loosest of its tolerances whose coefficients reach ``goal`` at each λ, and the gap they have."""
    for loose in LOOSE:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of a tolerance beyond rounding
            coefs = way(X, y, values, loose)
        worst = max(gap(X, y, w, lam) for w, lam in zip(coefs.T, values, strict=True))
        if worst <= goal:
            break
    return lambda: way(X, y, values, loose), worst


def compared(X, y, values, goal: float, repeats: int) -> list[dict]:
    """A row a library: seconds (median of ``repeats``, taken in turn), gap, apart (largest coefficient's, of ours)."""
    columns = np.asfortranarray(X)
    actions = {
        "ours": (lambda: ours(X, y, values, goal), goal),
        "ours without screening": (lambda: ours(X, y, values, goal, False), goal),
    }
    actions |= {name: to_gap(way, columns, y, values, goal) for name, way in ways().items()}
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
        worst = max(gap(X, y, w, lam) for w, lam in zip(coef.T, values, strict=True))
        apart = float(np.abs(coef - coefs["ours"]).max())
        rows.append({"library": name, "seconds": float(np.median(took[name])), "gap": float(worst), "apart": apart})
    return rows
