"""A path on a named problem or on your own files, with one worker or started by torchrun with many.

torchrun --standalone --nproc-per-node 2 -m studylib.screening.run --problem gaussian --out runs/screening
"""

import argparse
import os
import signal
import sys
import zipfile
from datetime import timedelta
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
from scipy import sparse

from studylib.disk import files
from studylib.screening import communicate
from studylib.screening.data import Shard
from studylib.screening.estimators import rows_of
from studylib.screening.path import lambdas, path
from studylib.screening.problems import NAMES, problem
from studylib.screening.solvers import SOLVERS


def main(arguments: list[str] | None = None) -> None:
    """Reads the command's arguments, writes each λ's solution and ``path_rows.json`` below ``--out``."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--problem", choices=NAMES, default="gaussian")
    parser.add_argument("--X", help="your rows: .npy, of which a worker reads its own, or .npz of a CSR matrix")
    parser.add_argument("--y", help=".npy of labels, with --X")
    parser.add_argument("--rows", type=int, default=2000)
    parser.add_argument("--columns", type=int, default=6000)
    parser.add_argument("--loss", choices=("squared", "logistic"), default="squared")
    parser.add_argument("--solver", choices=SOLVERS, default="fista")
    parser.add_argument("--lambdas", type=int, default=10)
    parser.add_argument("--least", type=float, default=0.1, help="the smallest λ over λ_max")
    parser.add_argument("--only-least", action="store_true", help="that λ alone, from zero")
    parser.add_argument("--tol", type=float, default=1e-8)
    parser.add_argument("--no-screening", action="store_true")
    parser.add_argument("--backend", choices=communicate.BACKENDS, default="gloo", help="of torch.distributed")
    parser.add_argument("--out", required=True)
    given = parser.parse_args(arguments)
    if (given.X is None) != (given.y is None):
        parser.error("--X and --y: expected both or none")
    if given.backend == "nccl" and not torch.cuda.is_available():
        parser.error("--backend nccl: expected a GPU; gloo needs none")
    if "RANK" in os.environ:
        dist.init_process_group(given.backend, timeout=timedelta(minutes=30))  # a signal before it ends at once
        signal.signal(signal.SIGTERM, lambda *_: signal.alarm(int(communicate.GRACE) + 2))  # to say who died first
    try:
        _run(given)
    except (communicate.WorkerDied, ValueError, TypeError) as error:
        print(f"screening, rank {os.environ.get('RANK', 0)}: {error}", file=sys.stderr, flush=True)
        os._exit(1)
    if dist.is_initialized():
        dist.destroy_process_group()


def _run(given) -> None:
    workers = communicate.current()
    X, y = _read(given)
    if given.loss == "logistic" and not given.X:
        y = np.where(y > 0, 1.0, -1.0)
    if X.shape[0] != len(y):
        raise ValueError(f"{given.X} has {X.shape[0]} rows and {given.y} {len(y)} labels: expected as many")
    X, y = rows_of(X, workers.rank, workers.size), rows_of(y, workers.rank, workers.size)
    X = X if sparse.issparse(X) else np.asarray(X, order="C")
    data = Shard(X, np.array(y), given.loss, workers=workers)
    values = lambdas(data, given.lambdas, given.least)
    values = data.largest() * np.array([given.least]) if given.only_least else values
    settings = {"solver": given.solver, "tol": given.tol, "screen": not given.no_screening}
    found = path(data, values, folder=given.out, **settings)
    rows = [
        {"lam": s.lam, "gap": s.gap, "steps": s.steps, "nonzero": int(np.count_nonzero(s.coef))}
        | {"features": int(s.kept.sum()), "sent": s.sent, "setup": data.sent, "seconds": s.trace[-1]["seconds"]}
        for s in found
    ]
    if workers.rank == 0:
        files.write_json(Path(given.out) / "path_rows.json", rows)
        for row in rows:
            print(", ".join(f"{name} {value:.6g}" for name, value in row.items()), flush=True)


def _read(given):
    if not given.X:
        return problem(given.problem, given.rows, given.columns)
    sparse_file = given.X.endswith(".npz")
    X = _loaded(given.X, sparse.load_npz if sparse_file else lambda path: np.load(path, mmap_mode="r"))
    y = _loaded(given.y, np.load)
    if not np.issubdtype(y.dtype, np.number):
        raise ValueError(f"{given.y} has {y.dtype}: expected numbers, for logistic loss -1 and 1")
    return X, y


def _loaded(path: str, load):
    try:
        return load(path)
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        kind = "an .npz that scipy.sparse.save_npz wrote" if path.endswith(".npz") else "an .npy of numbers"
        raise ValueError(f"{path}: expected {kind} ({type(error).__name__})") from error


if __name__ == "__main__":
    main()
