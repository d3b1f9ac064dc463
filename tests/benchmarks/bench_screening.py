"""Safe screening: two gloo workers with and without it, and one worker's path against other libraries.

screening_bytes, screening_time: from zero to a gap of 1e-8 of P(0), the worst problem and λ. "gram" with screening over
FISTA without: sets of few features exist by the safe rule alone, and all p products of pairs would be dearer than FISTA.
The columns' norms, which only the rule needs, count as screening's. screening_bytes_fista: FISTA, with over without.
screening_over_scikit_learn: a dense path of 20 λ to the same gap, over scikit-learn's; the worse of two problems.
screening_over_best_library: the same over the fastest of scikit-learn, celer and skglm (extra screening).
p = 6,000, n = 2,000, λ of 0.1 and 0.3 λ_max; SCREENING_ROWS and SCREENING_COLUMNS make it smaller, to try it.
"""

import importlib.util
import os
import subprocess
import sys
import tempfile
import warnings
from pathlib import Path

import numpy as np
from harness import pair, seconds

from studylib.disk import files
from studylib.screening.data import Shard
from studylib.screening.path import lambdas, path
from studylib.screening.problems import problem

ROWS, COLUMNS = (int(os.environ.get(f"SCREENING_{name}", n)) for name, n in (("ROWS", 2000), ("COLUMNS", 6000)))
PROBLEMS, SHARES, REPEATS, GAP = ("gaussian", "correlated", "text"), (0.1, 0.3), 3, 1e-8


def run() -> dict:
    kinds = (([], []), ([], []))  # bytes and seconds of each problem and λ
    for name in PROBLEMS:
        _, y = problem(name, ROWS, COLUMNS)
        tol = GAP * float(y @ y) / (2 * ROWS)
        for share in SHARES:
            ways = (("gram", True), ("fista", True), ("fista", False))
            found = [[_workers(name, share, tol, *way) for way in ways] for _ in range(REPEATS)]
            for i, (bytes_, times) in enumerate(kinds):
                ours, other = ([row[k] for row in found] for k in (i, 2))
                sent = iter([row["sent"] + row["setup"] for row in ours]), iter([row["sent"] for row in other])
                took = (iter([row["seconds"] for row in rows]) for rows in (ours, other))
                bytes_.append(pair(*(each.__next__ for each in sent), REPEATS, "bytes"))
                times.append(pair(*(each.__next__ for each in took), REPEATS, "s"))
    rows = {}
    for (bytes_, times), end in zip(kinds, ("", "_fista"), strict=True):
        rows |= {f"screening_bytes{end}": _worst(bytes_), f"screening_time{end}": _worst(times)}
    dense = [_libraries(name) for name in PROBLEMS[:2]]
    rows["screening_over_scikit_learn"] = _worst([found["scikit-learn"] for found in dense])
    best = [max(found.values(), key=lambda row: row["ratio"]) for found in dense]
    return rows | {"screening_over_best_library": _worst(best)}


def _worst(rows: list[dict]) -> dict:
    return max(rows, key=lambda row: row["ratio"])


def _workers(name: str, share: float, tol: float, solver: str, screen: bool) -> dict:
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
        command += ["-m", "studylib.screening.run", "--problem", name, "--rows", str(ROWS), "--columns", str(COLUMNS)]
        command += ["--least", str(share), "--only-least", "--tol", str(tol), "--out", folder, "--solver", solver]
        environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(files.root())}
        subprocess.run(command + ["--no-screening"] * (not screen), env=environment, check=True, capture_output=True)
        return files.read_json(Path(folder) / "path_rows.json")[0]


def _libraries(name: str) -> dict:
    """Our path over that of each library, at the loosest of its tolerances that reaches the gap at each λ."""
    X, y = problem(name, ROWS, COLUMNS)
    columns, tol = np.asfortranarray(X), GAP * float(y @ y) / (2 * ROWS)
    values = lambdas(Shard(X, y), 20, 0.1)
    found = {}
    for library, way in _ways().items():
        for loose in 10.0 ** -np.arange(4, 15):
            coefs = way(columns, y, values, loose)
            if max(_gap(X, y, w, lam) for w, lam in zip(coefs.T, values, strict=True)) <= tol:
                break
        found[library] = pair(
            lambda: seconds(lambda: path(Shard(X, y), values, solver="gram", tol=tol)),
            lambda way=way, loose=loose: seconds(lambda: way(columns, y, values, loose)),
            REPEATS,
            "s",
        )
    return found


def _gap(X, y, w, lam: float) -> float:
    """The duality gap of the Lasso at w, by itself."""
    rho = y - X @ w
    scale = min(1.0, lam * len(y) / np.abs(X.T @ rho).max())
    dual = (y @ y - (y - scale * rho) @ (y - scale * rho)) / 2
    return (rho @ rho / 2 - dual) / len(y) + lam * np.abs(w).sum()


def _ways() -> dict:
    """Library → (X, y, λ's, tolerance) → coefficients (p, λ's); those that are installed."""
    from sklearn.linear_model import lasso_path

    def sklearn(X, y, values, tol):
        return lasso_path(X, y, alphas=values, tol=tol, max_iter=100_000)[1]

    ways = {"scikit-learn": sklearn}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if importlib.util.find_spec("celer"):
            from celer import celer_path

            ways["celer"] = lambda X, y, values, tol: celer_path(X, y, "lasso", alphas=values, tol=tol)[1]
        if importlib.util.find_spec("skglm"):
            from skglm.datafits import Quadratic
            from skglm.penalties import L1
            from skglm.solvers import AndersonCD

            def skglm(X, y, values, tol):
                solver = AndersonCD(tol=tol, fit_intercept=False, max_iter=1000)
                return solver.path(X, y, Quadratic(), L1(1.0), values)[1]

            ways["skglm"] = skglm
    return ways
