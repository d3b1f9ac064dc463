"""A path of λ, each started from the solution before it, kept on disk as each is finished."""

import hashlib
import io
import json
from pathlib import Path

import numpy as np

from studylib.disk import files
from studylib.screening.data import Shard
from studylib.screening.groups import Groups
from studylib.screening.solvers import solve
from studylib.screening.state import Solution


def lambdas(data: Shard, count: int = 30, least: float = 0.01, groups: Groups | None = None, share: float = 1.0):
    """``count`` values from λ_max/``share`` down to ``least`` times that, evenly spaced in the logarithm, (count,).

    Raises:
        ValueError: a count below 1, or ``least`` not between 0 and 1.
    """
    if count < 1 or not 0 < least < 1:
        raise ValueError(f"count={count}, least={least}: expected a count from 1 on and a share between 0 and 1")
    most = data.largest(groups) / share or 1.0
    return most * np.geomspace(1, least, count) if count > 1 else np.array([most])


def path(data: Shard, values, *, ratio: float = 1.0, folder: Path | str | None = None, groups=None, **settings):
    """A :class:`studylib.screening.state.Solution` for each of ``values``, from the largest on.

    Each solution is written by rank 0 to ``folder``, whole or not at all. A second call with the same data and settings
    reads these and goes on: one λ at most is repeated. ``ratio`` is scikit-learn's l1_ratio: λ is ``ratio`` times a
    value, μ the rest of it. ``settings`` are those of :func:`studylib.screening.solvers.solve`.

    Raises:
        ValueError: the folder has a path of other data or settings, or cannot be made. Or values are not positive, or
            the ratio is not in (0, 1].
    """
    values = np.sort(np.asarray(values, dtype=float))[::-1]
    if not 0 < ratio <= 1 or not len(values) or not (values > 0).all():
        raise ValueError(f"ratio={ratio}, values={values}: expected a ratio in (0, 1] and positive values")
    folder, found, start = Path(folder) if folder else None, [], None
    if folder:
        _agree(data, values, ratio, groups, settings, folder)
    for i, value in enumerate(values):
        solution = _stored(data, folder / f"{i:04d}.npz") if folder else None
        if solution is None:
            given = {"ridge": (1 - ratio) * value, "groups": groups, "start": start} | settings
            solution = solve(data, ratio * value, **given)
            if folder and data.workers.rank == 0:
                _store(solution, folder / f"{i:04d}.npz")
        start = solution.coef
        found.append(solution)
    return found


def _agree(data: Shard, values, ratio, groups, settings, folder: Path) -> None:
    """Every rank raises the same where ``folder`` is another path's; its digest is of all rows' sums and settings."""
    sums = data.workers.sum([data.y.sum()], [float(data.y @ np.arange(len(data.y)))])
    digest = hashlib.sha256()
    for array in (data.norms, data.means, values, *sums):
        digest.update(np.asarray(array).tobytes())
    labels = None if groups is None else [groups.labels.tolist(), groups.weights.tolist()]
    digest.update(json.dumps([data.n, data.name, data.intercept, ratio, labels, settings], sort_keys=True).encode())
    fault = None
    if data.workers.rank == 0:
        about = folder / "path.json"
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            fault = f"{folder}: expected a folder, or a place for one ({type(error).__name__})"
        if fault is None and about.exists() and files.read_json(about)["digest"] != digest.hexdigest():
            fault = f"{folder}: a path of other data or settings; expected an empty folder or the same"
        elif fault is None and not about.exists():
            files.write_json(about, {"digest": digest.hexdigest(), "lambdas": values.tolist()})
    fault = data.workers.gather(fault)[0]
    if fault:
        raise ValueError(fault)


def _store(solution: Solution, file: Path) -> None:
    buffer = io.BytesIO()
    numbers = [solution.intercept, solution.lam, solution.gap, solution.steps, solution.sent]
    trace = json.dumps(solution.trace)
    np.savez(buffer, coef=solution.coef, kept=solution.kept, numbers=np.array(numbers, dtype=float), trace=trace)
    files.write_bytes(file, buffer.getvalue())


def _stored(data: Shard, file: Path) -> Solution | None:
    """What rank 0 has in ``file``, on every rank: not each machine sees its disk."""
    found = None
    if data.workers.rank == 0 and file.exists():
        with np.load(file, allow_pickle=False) as stored:
            intercept, lam, gap, steps, sent = stored["numbers"].tolist()
            trace = json.loads(str(stored["trace"]))
            found = Solution(stored["coef"], intercept, lam, gap, int(steps), stored["kept"], int(sent), trace)
    return data.workers.gather(found)[0]
