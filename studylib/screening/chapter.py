"""Chapter 12: what safe screening saves on named problems, and what their rows say."""

import dataclasses
import time
from pathlib import Path
from typing import Annotated

import numpy as np
import pandas as pd
from pydantic import Field

from studylib.screening import communicate, compare, libraries
from studylib.screening.compare import WAYS
from studylib.screening.data import Shard
from studylib.screening.estimators import rows_of
from studylib.screening.path import lambdas
from studylib.screening.problems import NAMES
from studylib.screening.solvers import solve
from studylib.settings import check_different, record
from studylib.tree.rows import once

SETS, SETS_ALONE, STEPS, STEPS_ALONE = WAYS
MANY = 64  # workers that the model speaks of
ROWS, COLUMNS = Annotated[int, Field(ge=10, le=100_000)], Annotated[int, Field(ge=10, le=1_000_000)]
PROCESSES = Annotated[int, Field(ge=1, le=64)]
MODERATE = 0.3  # of λ_max, at which they and the growth with p are measured
THREADS = (  # way, mode, and whether threads write to one vector without waiting for each other
    (STEPS, "threads", False),
    (compare.LOCAL, "threads", False),
    (compare.LOCAL, "threads, asynchronous", True),
)
TIGHT = 1e-12  # of the objective at zero coefficients: the gap at which solutions are held against each other
RIGHT = 1e-6  # of the largest coefficient, by which one may be off at that gap


@record
class Comparison:
    """Problems, workers and libraries that are compared."""

    rows: Annotated[ROWS, Field(description="n of the made problems")] = 500
    columns: Annotated[COLUMNS, Field(description="p of the made problems")] = 6000
    problems: Annotated[
        dict[str, list[float]], Field(min_length=1, description="problem → single λ, as shares of λ_max")
    ] = dataclasses.field(default_factory=lambda: {"gaussian": [0.3]})
    paths: Annotated[list[str], Field(description="problems whose path is measured, too")] = dataclasses.field(
        default_factory=list
    )
    count: Annotated[int, Field(ge=2, le=1000, description="λ of a path, down to a tenth of λ_max")] = 10
    workers: Annotated[list[PROCESSES], Field(min_length=1, description="processes on this machine")] = (
        dataclasses.field(default_factory=lambda: [1, 2])
    )
    shapes: Annotated[
        list[Annotated[list[ROWS], Field(min_length=2, max_length=2)]],
        Field(description="rows and columns on which processes and threads are compared"),
    ] = dataclasses.field(default_factory=list)
    growth: Annotated[list[COLUMNS], Field(description="p of the sparse problem whose growth is measured")] = (
        dataclasses.field(default_factory=list)
    )
    repeats: Annotated[int, Field(ge=1, le=100, description="of each library, in turn")] = 3

    def check(self) -> None:
        check_different(self, "workers", "growth", "paths")
        for name in [*self.problems, *self.paths]:
            if name not in NAMES:
                raise ValueError(f"problem {name!r}: expected some of {', '.join(NAMES)}")
        wrong = [share for shares in self.problems.values() for share in shares if not 0 < share < 1]
        if wrong:
            raise ValueError(f"shares={wrong}: expected shares of λ_max between 0 and 1")


def measured(asked: Comparison, folder: Path) -> list[dict]:
    """Rows of :func:`studylib.screening.compare.with_workers`, by number of workers; each run is kept in ``folder``."""
    tasks = _single(asked, list(WAYS))
    tasks += [
        task | {"problem": name, "share": 0.1, "lambdas": asked.count} for task in tasks[:1] for name in asked.paths
    ]
    return [row for size in asked.workers for row in _started(size, tasks, folder)]


def _single(asked: Comparison, ways: list[str]) -> list[dict]:
    same = {"rows": asked.rows, "columns": asked.columns, "lambdas": 1, "ways": ways}
    return [{"problem": name, "share": share} | same for name, shares in asked.problems.items() for share in shares]


def alike(asked: Comparison, folder: Path) -> list[dict]:
    """Each single λ to a gap of :data:`TIGHT`, by sets with screening: more workers beside one.

    Returns:
        problem, share, workers, gap (the larger), goal, apart (coefficients, over the largest), unlike (features that
        only one of both uses).
    """
    tasks = [task | {"gap": TIGHT} for task in _single(asked, [SETS])]
    ends = {size: _started(size, tasks, folder / "tight") for size in sorted({1, *asked.workers})}
    found = []
    for size in list(ends)[1:]:
        for one, row in zip(ends[1], ends[size], strict=True):
            coef, other = (pd.Series(each["coef"], dtype=float) for each in (row, one))
            largest = coef.sub(other, fill_value=0.0).abs().max() if len(other) + len(coef) else 0.0
            same = {key: row[key] for key in ("problem", "share", "workers", "goal")}
            same |= {"gap": max(one["gap"], row["gap"]), "apart": float(largest / max(other.abs().max(), 1e-300))}
            found.append(same | {"unlike": len(set(one["coef"]) ^ set(row["coef"]))})
    return found


def _started(size: int, tasks: list[dict], folder: Path) -> list[dict]:
    return once(folder / f"{size}-{len(tasks)}.json", [size, tasks], lambda: compare.with_workers(size, tasks))


def flat(rows: list[dict]) -> list[dict]:
    """The rows of :func:`studylib.screening.compare.with_workers` without traces and coefficients."""
    return [{key: value for key, value in row.items() if key not in ("trace", "coef")} for row in rows]


def traces(rows: list[dict]) -> list[dict]:
    """Each check of the single λ's on the fewest workers: problem, share, way, step, gap, features, sent."""
    least = min(row["workers"] for row in rows)
    return [
        {key: row[key] for key in ("problem", "share", "way", "goal")}
        | {"columns": row["columns"], "nonzero": row["nonzero"]}
        | {key: check[key] for key in ("step", "gap", "features", "sent")}
        for row in rows
        if row["workers"] == least and row["lambdas"] == 1
        for check in row["trace"]
    ]


def grown(asked: Comparison, folder: Path) -> list[dict]:
    """The sparse problem with more and more columns, at :data:`MODERATE` on two workers: sets, steps, steps alone."""
    same = {"problem": "text", "rows": asked.rows, "share": MODERATE, "lambdas": 1, "ways": [SETS, STEPS, STEPS_ALONE]}
    tasks = [{"columns": columns} | same for columns in asked.growth]
    return flat(_started(2, tasks, folder) if tasks else [])


def modes(asked: Comparison, folder: Path) -> list[dict]:
    """FISTA and variance-reduced local steps, by two processes and by two threads, at :data:`MODERATE`, with screening.

    Returns:
        A row a shape, way and mode: rows, columns, way, mode, seconds, gap, goal. Steps are rounds for local ones.
        All-reduces (calls) and bytes of a worker (sent) are None for threads. Apart is the largest distance of a
        coefficient from that of working sets, over the largest of these.
    """
    found = []
    for n, p in asked.shapes:
        task = {"problem": "correlated", "rows": n, "columns": p, "share": MODERATE, "lambdas": 1}
        sets, *rest = _started(2, [task | {"ways": [SETS, STEPS, compare.LOCAL]}], folder)
        rows = [row | {"mode": "processes"} for row in rest] + _threads(task, sets, folder)
        largest = max(map(abs, sets["coef"].values()), default=1.0)
        for row in rows:
            apart = [abs(row["coef"].get(j, 0) - sets["coef"].get(j, 0)) for j in {*row["coef"], *sets["coef"]}]
            kept = {key: row[key] for key in ("way", "mode", "steps", "calls", "sent", "seconds", "gap", "goal")}
            found.append({"rows": n, "columns": p} | kept | {"apart": max(apart, default=0.0) / largest})
    return found


def _threads(task: dict, sets: dict, folder: Path) -> list[dict]:
    def make() -> list[dict]:
        X, y, loss = compare.labelled(task["problem"], task["rows"], task["columns"])
        rows = []
        for way, mode, asynchronous in THREADS:

            def work(workers, way=way, asynchronous=asynchronous):
                part = rows_of(X, workers.rank, workers.size), np.array(rows_of(y, workers.rank, workers.size))
                data = Shard(*part, loss, workers=workers)
                workers.gather(None)
                begin = time.perf_counter()
                solver, screen = compare.SOLVED[way]
                more = {"solver": solver, "screen": screen, "asynchronous": asynchronous}
                return solve(data, sets["lam"], tol=sets["goal"], **more), time.perf_counter() - begin

            end, seconds = communicate.in_threads(2, work)[0]
            coef = {str(j): float(end.coef[j]) for j in np.flatnonzero(end.coef)}
            row = {"way": way, "mode": mode, "steps": end.steps, "calls": None, "sent": None, "seconds": seconds}
            rows.append(row | {"gap": float(end.gap), "goal": sets["goal"], "coef": coef})
        return rows

    key = [task, sets["lam"], sets["goal"]]
    return once(folder / f"threads-{task['rows']}-{task['columns']}.json", key, make)


def reduced(asked: Comparison, folder: Path) -> list[dict]:
    """Seconds of an all-reduce by workers and numbers."""
    return [row for size in asked.workers if size > 1 for row in _started(size, [], folder)]


def beside_libraries(asked: Comparison) -> list[dict]:
    """The problems, single λ and path, on one machine: rows of :func:`studylib.screening.libraries.compared`."""
    found = []
    for name in asked.problems:
        X, y, loss = compare.labelled(name, asked.rows, asked.columns)
        data = Shard(X, y, loss)
        goal = compare.GAP * data.loss.value(np.zeros(len(y)), y) / len(y)
        values = {"path": lambdas(data, asked.count, 0.1), "single λ": 0.1 * np.array([data.largest()])}
        for kind, each in values.items():
            rows = libraries.compared(X, y, each, goal, asked.repeats, loss)
            found += [{"problem": name, "kind": kind, "loss": loss, "goal": goal} | row for row in rows]
    return found


def lossless(asked: Comparison) -> list[dict]:
    """Each single λ to a gap of :data:`TIGHT`, on one worker, by every way with discards and the same without.

    Returns:
        problem, share, solver, gap (the larger), goal, unlike (features that only one of both uses). Of the difference:
        objective over P(0), apart (coefficients, over the largest), scores (‖X(w − w')‖ over ‖Xw'‖).
    """
    found = []
    for name, shares in asked.problems.items():
        X, y, loss = compare.labelled(name, asked.rows, asked.columns)
        for share in shares:
            data = Shard(X, y, loss)
            zero = data.loss.value(np.zeros(len(y)), y) / data.n
            for way, alone in ((SETS, SETS_ALONE), (STEPS, STEPS_ALONE)):
                ends = []
                for solver, screen in (WAYS[way], WAYS[alone]):
                    data.gram = None  # each starts anew
                    lam = share * data.largest()
                    end = solve(data, lam, solver=solver, screen=screen, tol=TIGHT * zero)
                    scores = X @ end.coef
                    value = data.loss.value(scores, y) / data.n + lam * np.abs(end.coef).sum()
                    ends.append((end, scores, value))
                (one, z, value), (other, z_other, value_other) = ends
                difference = np.abs(one.coef - other.coef).max() / max(np.abs(other.coef).max(), 1e-300)
                found.append({
                    "problem": name, "share": share, "solver": way.split(",")[0], "gap": max(one.gap, other.gap),
                    "goal": TIGHT * zero, "objective": float(abs(value - value_other) / zero),
                    "apart": float(difference), "unlike": int(((one.coef != 0) != (other.coef != 0)).sum()),
                    "scores": float(np.linalg.norm(z - z_other) / max(np.linalg.norm(z_other), 1e-300)),
                })  # fmt: skip
    return found
