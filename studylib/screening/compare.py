"""Ways to solve named problems, timed and counted on workers that torchrun starts: one start a number of workers.

Ways are "working sets" (gram), "steps" (FISTA), each with the features that the safe rule discards, or with none gone.
Variance-reduced "local steps" (svrg) are one more.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from datetime import timedelta
from pathlib import Path

import numpy as np
import torch.distributed as dist

from studylib.disk import files
from studylib.screening.communicate import Processes
from studylib.screening.data import Shard
from studylib.screening.estimators import rows_of
from studylib.screening.path import lambdas
from studylib.screening.problems import problem
from studylib.screening.solvers import solve

GAP = 1e-8  # of the objective at zero coefficients
WAYS = {  # name → solver, and whether it discards features
    "working sets, screening": ("gram", True),
    "working sets alone": ("gram", False),
    "steps, screening": ("fista", True),
    "steps alone": ("fista", False),
}
LOCAL = "local steps, screening"
SOLVED = WAYS | {LOCAL: ("svrg", True)}
SIZES = (1, 100, 10_000, 100_000, 1_000_000)  # numbers of a timed all-reduce


def labelled(name: str, rows: int, columns: int):
    """X, y and the loss of the named problem; labels of two classes are logistic regression's."""
    X, y = problem(name, rows, columns)
    return X, y, "logistic" if set(np.unique(y)) == {-1.0, 1.0} else "squared"


def with_workers(size: int, tasks: list[dict]) -> list[dict]:
    """The rows of ``tasks``, from ``size`` processes on this machine.

    Args:
        tasks: each has problem, rows, columns, share, lambdas and ways. The share is of λ_max. With one of ``lambdas``
            it starts at zero, else it ends a path. A task may name its gap, else it is :data:`GAP`. An empty list times
            all-reduces.

    Returns:
        A row a task and way, with the task's keys. Cost: way, workers, seconds, steps, calls (all-reduces), sent and
        setup (bytes of a worker). Of the last λ: lam, gap, goal, nonzero, features left, coef (place → value), trace.
        Of all-reduces: workers, numbers, seconds.

    Raises:
        RuntimeError: the processes failed; what they said.
    """
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "rows.json"
        command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={size}"]
        command += ["-m", "studylib.screening.compare", json.dumps(tasks), str(out)]
        environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(files.root())}
        done = subprocess.run(command, env=environment, capture_output=True, text=True)
        if done.returncode:
            raise RuntimeError(f"{size} workers ended with {done.returncode}: {done.stderr[-2000:]}")
        return files.read_json(out)


def main() -> None:
    """A worker: tasks and the file of rows are its arguments."""
    dist.init_process_group("gloo", timeout=timedelta(minutes=30))
    workers, tasks = Processes(), json.loads(sys.argv[1])
    found = [row for task in tasks for row in _rows(workers, task)] if tasks else list(_reduced(workers))
    if workers.rank == 0:
        files.write_json(Path(sys.argv[2]), found)
    dist.destroy_process_group()


def _rows(workers: Processes, task: dict):
    X, y, loss = labelled(task["problem"], task["rows"], task["columns"])
    part = rows_of(X, workers.rank, workers.size), rows_of(y, workers.rank, workers.size)
    for way in task["ways"]:
        solver, screen = SOLVED[way]
        data = Shard(part[0], np.array(part[1]), loss, workers=workers)
        setup = data.sent if screen else 0  # the columns' norms, which only the safe rule needs
        value = workers.sum([data.loss.value(np.zeros(len(data.y)), data.y)])[0][0]
        goal, largest = task.get("gap", GAP) * value / data.n, data.largest()
        values = [task["share"] * largest] if task["lambdas"] == 1 else lambdas(data, task["lambdas"], task["share"])
        workers.gather(None)
        begin, sent, calls, solution, steps = time.perf_counter(), workers.sent, workers.calls, None, 0
        for lam in values:
            start = None if solution is None else solution.coef
            solution = solve(data, lam, solver=solver, screen=screen, tol=goal, start=start)
            steps += solution.steps
        found = {"seconds": time.perf_counter() - begin, "sent": workers.sent - sent, "calls": workers.calls - calls}
        used = np.flatnonzero(solution.coef)
        found |= {"setup": setup, "steps": steps, "gap": float(solution.gap), "goal": float(goal)}
        found |= {"nonzero": len(used), "features": int(solution.kept.sum()), "lam": float(solution.lam)}
        found |= {"coef": {str(j): float(solution.coef[j]) for j in used}, "trace": solution.trace}
        yield {key: each for key, each in task.items() if key != "ways"} | {
            "way": way, "workers": workers.size, "columns": data.p, "loss": loss, **found
        }  # fmt: skip


def _reduced(workers: Processes, repeats: int = 20):
    for numbers in SIZES:
        values, took = np.ones(numbers), []
        for _ in range(repeats):
            workers.gather(None)
            begin = time.perf_counter()
            workers.sum(values)
            took.append(time.perf_counter() - begin)
        yield {"workers": workers.size, "numbers": numbers, "seconds": float(np.median(took))}


if __name__ == "__main__":
    main()
