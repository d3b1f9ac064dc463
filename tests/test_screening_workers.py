"""Safe screening on several workers: threads, and processes started by torchrun, dying ones among them."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from projects import ROOT, environment
from test_screening import CLOSE, drawn

from studylib.disk import files
from studylib.screening import communicate, run
from studylib.screening.communicate import Processes, WorkerDied, in_threads
from studylib.screening.data import Shard
from studylib.screening.estimators import rows_of
from studylib.screening.solvers import solve

WORK = """
import os, signal, sys, time
from datetime import timedelta
import numpy as np, torch.distributed as dist
from scipy import sparse
from studylib.screening.communicate import Processes, WorkerDied
from studylib.screening.data import Shard
from studylib.screening.estimators import ScreenedClassifier, rows_of
from studylib.screening.path import lambdas, path
from studylib.screening.solvers import solve
from test_screening import drawn
dist.init_process_group("gloo", timeout=timedelta(minutes=5))
rank, size = dist.get_rank(), dist.get_world_size()
"""
SAME = """
found = {}
for loss in ("squared", "logistic"):
    for solver in ("fista", "svrg", "gram"):
        X, y = drawn(loss=loss)
        workers = Processes()
        last = rank == size - 1  # its shard is empty
        part, labels = (each[:0] if last else rows_of(each, rank, size - 1) for each in (X, y))
        part = sparse.csr_array(part) if solver == "fista" else part
        data = Shard(part, labels, loss, intercept=True, workers=workers)
        solution = solve(data, 0.3 * data.largest(), solver=solver, tol=1e-12)
        masks = workers.gather((solution.kept.tobytes(), solution.coef.tobytes()))
        assert len(set(masks)) == 1, "ranks differ"
        assert workers.sent >= solution.sent >= 8 * 150
        found[f"{loss} {solver}"] = solution.coef
model = ScreenedClassifier(0.05, tol=1e-12).fit(rows_of(X, rank, size), rows_of(np.where(y > 0, "b", "a"), rank, size))
found["estimator"] = model.coef_[0]
try:
    Shard(np.full((2, 2), np.nan if rank == 1 else 1.0), np.ones(2), workers=Processes())
except ValueError as error:
    assert "rank 1: X holds NaN" in str(error)
else:
    raise AssertionError("NaN was taken")
if rank == 0:
    np.savez(sys.argv[1], **found)
dist.destroy_process_group()
"""
DIES = """
workers = Processes()
X, y = drawn(0, 60, 400)
data = Shard(rows_of(X, rank, size), rows_of(y, rank, size), workers=workers)
if rank == int(sys.argv[1]):
    os.kill(os.getpid(), signal.SIGKILL)
try:
    solve(data, 0.01, tol=1e-12)
except WorkerDied as error:
    print(f"rank {rank} says: {error}", flush=True)
    os._exit(3)
"""


def started(code: str, size: int, *arguments) -> list[subprocess.Popen]:
    """``size`` processes with torchrun's environment, each its own; nobody restarts or ends them."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    shared = {**environment(ROOT), "PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}", "OMP_NUM_THREADS": "1"}
    shared |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": str(size)}
    command = [sys.executable, "-W", "ignore", "-c", WORK + code, *map(str, arguments)]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    return [subprocess.Popen(command, env=shared | {"RANK": str(rank)}, **pipes) for rank in range(size)]


def test_three_processes_one_without_rows_give_what_one_gives_and_the_same_bits_on_each_rank(tmp_path):
    done = [(worker.communicate(timeout=300)[0], worker.returncode) for worker in started(SAME, 3, tmp_path / "x.npz")]
    assert [code for _, code in done] == [0, 0, 0], done
    found = np.load(tmp_path / "x.npz")
    assert len(found.files) == 7
    for loss in ("squared", "logistic"):
        data = Shard(*drawn(loss=loss), loss, intercept=True)
        alone = solve(data, 0.3 * data.largest(), tol=1e-12).coef
        for name in found.files:
            if name.startswith(loss):
                assert np.abs(found[name] - alone).max() < CLOSE, name
    alone = solve(Shard(*drawn(loss="logistic"), "logistic", intercept=True), 0.05, tol=1e-12).coef
    assert np.abs(found["estimator"] - alone).max() < CLOSE


@pytest.mark.parametrize("victim", [0, 1])
def test_a_worker_that_dies_ends_the_others_within_seconds_by_its_rank(victim):
    workers = started(DIES, 3, victim)
    assert workers[victim].wait(timeout=120) == -signal.SIGKILL
    begin = time.monotonic()
    said = {rank: worker.communicate(timeout=60)[0] for rank, worker in enumerate(workers)}
    assert time.monotonic() - begin < 40  # processes of a loaded machine; alone it takes about five
    for rank in {0, 1, 2} - {victim}:
        assert workers[rank].returncode == 3 and f"rank {rank} says: rank {victim} died" in said[rank], said


@pytest.mark.parametrize("asynchronous", [False, True])
@pytest.mark.parametrize("loss", ["squared", "logistic"])
def test_threads_give_what_one_worker_gives_with_locks_and_without(loss, asynchronous):
    X, y = drawn(loss=loss)
    alone = solve(Shard(X, y, loss), 0.3 * Shard(X, y, loss).largest(), tol=1e-12)

    def work(workers):
        part = rows_of(X, workers.rank, workers.size), rows_of(y, workers.rank, workers.size)
        data = Shard(*part, loss, workers=workers)
        return solve(data, alone.lam, solver="svrg", tol=1e-12, asynchronous=asynchronous)

    found = in_threads(3, work)
    assert all(np.array_equal(found[0].coef, other.coef) for other in found[1:])
    assert found[0].gap <= 1e-12 and np.abs(found[0].coef - alone.coef).max() < CLOSE and found[0].sent == 0


def test_a_thread_that_fails_ends_the_others_by_its_rank():
    def work(workers):
        if workers.rank == 1:
            raise MemoryError("no room")
        workers.sum([1.0])

    with pytest.raises(WorkerDied, match="rank 1 ended with MemoryError: no room"):
        in_threads(3, work)


def test_processes_without_a_group_are_refused():
    with pytest.raises(ValueError, match="expected a start by torchrun"):
        Processes()


def test_each_process_of_nccl_has_the_gpu_of_its_place_on_the_machine(monkeypatch):
    chosen = []
    monkeypatch.setattr(torch.cuda, "set_device", chosen.append)
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert communicate._device("nccl") == torch.device("cuda", 1) and chosen == [torch.device("cuda", 1)]
    assert communicate._device("gloo") == torch.device("cpu") and len(chosen) == 1


def test_nccl_without_a_gpu_is_refused(monkeypatch, capsys):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(SystemExit):
        run.main(["--backend", "nccl", "--out", "x"])
    assert "--backend nccl: expected a GPU; gloo needs none" in capsys.readouterr().err


def torchrun(folder, *arguments, size=2) -> subprocess.Popen:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={size}"]
    command += ["-m", "studylib.screening.run", "--out", folder, *arguments]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True, "start_new_session": True}
    return subprocess.Popen(command, env={**environment(ROOT), "OMP_NUM_THREADS": "1"}, **pipes)


def test_torchrun_runs_the_command_and_refuses_labels_of_three_kinds(tmp_path):
    small = ("--rows", "100", "--columns", "300", "--lambdas", "3")
    printed, _ = (done := torchrun(tmp_path / "a", *small)).communicate(timeout=300)
    rows = files.read_json(tmp_path / "a" / "path_rows.json")
    assert done.returncode == 0 and len(rows) == 3 and all(row["gap"] <= 1e-8 for row in rows), printed
    X, _ = drawn(0, 20, 10)
    np.save(tmp_path / "X.npy", X)
    np.save(tmp_path / "y.npy", np.arange(20.0) % 3)
    own = ("--X", tmp_path / "X.npy", "--y", tmp_path / "y.npy", "--loss", "logistic")
    printed, _ = (done := torchrun(tmp_path / "b", *map(str, own))).communicate(timeout=300)
    assert done.returncode and "rank 0: labels are 0, 1, 2: expected -1 and 1" in printed, printed


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (("--X", "none.npy", "--y", "y.npy"), "none.npy: expected an .npy of numbers (FileNotFoundError)"),
        (("--X", "text.npy", "--y", "y.npy"), "text.npy: expected an .npy of numbers"),
        (("--X", "text.npz", "--y", "y.npy"), "text.npz: expected an .npz that scipy.sparse.save_npz wrote"),
        (("--X", "X.npy", "--y", "few.npy"), "X.npy has 20 rows and few.npy 7 labels: expected as many"),
        (("--X", "X.npy", "--y", "words.npy"), "words.npy has <U1: expected numbers"),
        (("--rows", "20", "--columns", "30", "--out", "text.npy"), "text.npy: expected a folder"),
    ],
)
def test_files_that_cannot_be_read_are_named_by_the_command(tmp_path, monkeypatch, capsys, given, message):
    X, y = drawn(0, 20, 10)
    monkeypatch.chdir(tmp_path)
    for name, array in (("X.npy", X), ("y.npy", y), ("words.npy", np.array(list("ab") * 10)), ("few.npy", y[:7])):
        np.save(name, array)
    for name in ("text.npy", "text.npz"):
        (tmp_path / name).write_text("not numbers")

    def ended(status):
        raise SystemExit(status)

    monkeypatch.setattr(run.os, "_exit", ended)
    with pytest.raises(SystemExit) as end:
        run.main(["--out", "made", *given])
    assert end.value.code == 1 and capsys.readouterr().err.startswith(f"screening, rank 0: {message}")


def begun(running: subprocess.Popen, folder, stored: int) -> list[int]:
    """The workers of torchrun by rank, once ``stored`` solutions are there; empty where it has ended."""
    while running.poll() is None:
        listed = ["ps", "-o", "pid=,args=", "--ppid", str(running.pid)]
        lines = subprocess.run(listed, text=True, capture_output=True).stdout.splitlines()
        workers = [int(line.split()[0]) for line in lines if "studylib.screening.run" in line]
        if len(workers) == 2 and (folder / "path.json").exists() and len(list(folder.glob("0*.npz"))) >= stored:
            return sorted(workers, key=rank_of)
        time.sleep(0.02)
    return []


def rank_of(worker: int) -> int:
    variables = Path(f"/proc/{worker}/environ").read_bytes().split(b"\0")
    return next(int(each[5:]) for each in variables if each.startswith(b"RANK="))


@pytest.mark.long
def test_twenty_kills_of_a_path_repeat_one_value_at_most_each(tmp_path):
    folder, draw, kills, whole = tmp_path / "path", np.random.default_rng(0), 0, {}
    arguments = ("--rows", "300", "--columns", "2000", "--lambdas", "25", "--tol", "1e-10")
    (done := torchrun(tmp_path / "whole", *arguments)).communicate(timeout=600)
    assert done.returncode == 0
    while kills < 20:
        running = torchrun(folder, *arguments)
        workers, victim = begun(running, folder, len(whole) + 1), int(draw.integers(2))
        time.sleep(draw.uniform(0, 0.5))
        died = running.poll() is None and bool(workers)
        if died:
            os.kill(workers[victim], signal.SIGKILL)
        begin = time.monotonic()
        printed, _ = running.communicate(timeout=120)
        found = {file.name: file.stat().st_mtime_ns for file in folder.glob("0*.npz")}
        if died and len(found) < 25:  # with all solutions there, nobody waits for the dead
            kills += 1
            assert running.returncode and f"rank {1 - victim}: rank {victim} died" in printed, printed
            assert time.monotonic() - begin < 40  # on a loaded machine; alone it takes about five
        assert whole.items() <= found.items(), "a finished value was solved again"
        assert len(found) > len(whole) or len(whole) == 25
        whole = found
        if len(whole) == 25:
            for file in folder.glob("0*.npz"):
                kept = np.load(tmp_path / "whole" / file.name)["coef"]
                assert np.array_equal(np.load(file)["coef"], kept)
            shutil.rmtree(folder)
            whole = {}
