"""Safe screening: two gloo workers with and without it, and one worker's path against other libraries.

screening_bytes, screening_time: from zero to a gap of 1e-8 of P(0), the worst problem and λ. Working sets over FISTA
without screening: only the rule makes sets of few features, and products of all pairs would be dearer than FISTA.
The columns' norms, which only the rule needs, count as screening's. The same with _fista: FISTA, with over without.
screening_over_scikit_learn: a dense path of 20 λ to the same gap, over scikit-learn's; the worse of two problems.
screening_over_best_library: the same over the fastest of scikit-learn, celer and skglm (extra screening).
p = 6,000, n = 2,000, λ of 0.1 and 0.3 λ_max; SCREENING_ROWS and SCREENING_COLUMNS make it smaller, to try it.
"""

import os

from harness import pair

from studylib.screening import libraries
from studylib.screening.compare import GAP, with_workers
from studylib.screening.data import Shard
from studylib.screening.path import lambdas
from studylib.screening.problems import problem

ROWS, COLUMNS = (int(os.environ.get(f"SCREENING_{name}", n)) for name, n in (("ROWS", 2000), ("COLUMNS", 6000)))
PROBLEMS, SHARES, REPEATS = ("gaussian", "correlated", "text"), (0.1, 0.3), 3
SETS, STEPS, NONE = "working sets, screening", "steps, screening", "steps alone"


def run() -> dict:
    same = {"rows": ROWS, "columns": COLUMNS, "lambdas": 1, "ways": [SETS, STEPS, NONE]}
    tasks = [{"problem": name, "share": share} | same for name in PROBLEMS for share in SHARES for _ in range(REPEATS)]
    found, results = with_workers(2, tasks), {}
    for way, end in ((SETS, ""), (STEPS, "_fista")):
        for what, unit in (("bytes", "bytes"), ("time", "s")):
            pairs = []
            for name in PROBLEMS:
                for share in SHARES:
                    part = [row for row in found if (row["problem"], row["share"]) == (name, share)]
                    each = (iter([_cost(row, what) for row in part if row["way"] == one]) for one in (way, NONE))
                    row = pair(*(values.__next__ for values in each), REPEATS, unit)
                    pairs.append(row | {"of": f"{name}, {share} λ_max"})
            results[f"screening_{what}{end}"] = _worst(pairs)
    dense = [_libraries(name) for name in PROBLEMS[:2]]
    results["screening_over_scikit_learn"] = _worst([rows["scikit-learn"] for rows in dense])
    best = [max(rows.values(), key=lambda row: row["ratio"]) for rows in dense]
    return results | {"screening_over_best_library": _worst(best)}


def _cost(row: dict, what: str) -> float:
    return row["sent"] + row["setup"] if what == "bytes" else row["seconds"]


def _worst(rows: list[dict]) -> dict:
    return max(rows, key=lambda row: row["ratio"])


def _libraries(name: str) -> dict:
    """Our path over that of each library, at the loosest of its tolerances that reaches the gap at each λ."""
    X, y = problem(name, ROWS, COLUMNS)
    rows = libraries.compared(X, y, lambdas(Shard(X, y), 20, 0.1), GAP * float(y @ y) / (2 * ROWS), REPEATS)
    took = {row["library"]: row["seconds"] for row in rows if row["library"] != "ours without screening"}
    mine = took.pop("ours")
    return {
        library: {"ours": mine, "other": other, "ratio": mine / other, "unit": "s", "n": REPEATS}
        | {"of": f"{name}, {library}"}
        for library, other in took.items()
    }
