"""Runs of `make study` that are killed, stopped or out of time, and what is left of them."""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import nbformat
import pytest
from projects import ROOT, environment, study
from smoke import RUN, metrics

from engine.settings import chapters, parameters
from studylib.training.deadline import STOP_FILE

pytestmark = pytest.mark.usefixtures("run")
LONG = 600  # seconds that anything is waited for, with whatever else is running


def processes_of(project):
    """Process id, state and command of what runs in the folder ``project``."""
    found = {}
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if Path(os.readlink(process / "cwd")).is_relative_to(project):
                state = (process / "stat").read_text().rpartition(")")[2].split()[0]
                found[int(process.name)] = f"{state} {(process / 'cmdline').read_text()}"
    return found


@pytest.mark.parametrize(
    "who", ["the group", *(pytest.param(who, marks=pytest.mark.long) for who in ("study.py", "Snakemake", "Ctrl-C"))]
)
def test_nothing_lives_on_when_a_run_is_killed(project, who):
    shutil.rmtree(project / "runs")
    command = [sys.executable, "engine/run/study.py", "--profile", "smoke", "--stages", "none"]
    temporary = tempfile.mkdtemp(dir="/tmp")  # short: a socket's path has at most 107 bytes
    options = {"env": environment(project) | {"TMPDIR": temporary}, "stderr": subprocess.STDOUT}
    said = project / "said.txt"
    with (
        open(said, "w") as out,
        subprocess.Popen(command, cwd=project, start_new_session=True, stdout=out, **options) as first,
    ):
        log = project / "runs/smoke/seed0/teacher/log.txt"
        deadline = time.monotonic() + LONG
        while not (log.exists() and "Executing Cell 3-" in log.read_text()):  # the kernel is up
            assert first.poll() is None and time.monotonic() < deadline
            time.sleep(0.05)
        if who == "the group":
            os.killpg(first.pid, signal.SIGKILL)
        elif who == "Ctrl-C":
            os.killpg(first.pid, signal.SIGINT)
        elif who == "study.py":
            first.kill()
        else:
            children = Path(f"/proc/{first.pid}/task/{first.pid}/children").read_text().split()
            named = {pid: Path(f"/proc/{pid}/cmdline").read_text() for pid in children}
            os.kill(int(next(pid for pid, command in named.items() if "snakemake" in command)), signal.SIGKILL)
    deadline = time.monotonic() + 10  # less than what is killed would take to its end
    while processes_of(project) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not processes_of(project)
    left = [name for name in os.listdir(temporary) if not name.startswith("snakemake")]  # its own
    shutil.rmtree(temporary)
    assert left == []
    page = project / "runs/smoke/index.html"
    assert page.exists() == (who in ("Ctrl-C", "Snakemake"))  # after the others nobody is left to write it
    if who == "Ctrl-C":
        assert "Interrupted; `make study PROFILE=smoke` goes on.\nruns/smoke/index.html: the table" in said.read_text()
        text = page.read_text()
        assert "Of seed 0: all nodes." in text and "1 of the profile's 16 nodes: teacher; seed 0." in text


def test_killed_midway_and_started_again_gives_the_numbers_of_an_undisturbed_run(project):
    shutil.rmtree(project / "runs")
    shutil.rmtree(project / ".snakemake")
    arguments = ["--profile", "smoke", "--stages", "prune int8"]
    command = [sys.executable, "engine/run/study.py", *arguments]
    first = subprocess.Popen(
        command, cwd=project, env=environment(project), start_new_session=True, stdout=subprocess.DEVNULL, stderr=-3
    )
    folder = project / "runs/smoke/seed0"
    deadline = time.monotonic() + LONG
    while not (folder / "teacher-imp/notebook.ipynb").exists():  # the pruning has begun
        assert first.poll() is None and time.monotonic() < deadline
        time.sleep(0.1)
    os.killpg(first.pid, signal.SIGKILL)
    first.wait()
    assert not (folder / "teacher-imp-int8/metrics.json").exists()
    again = study(project, *arguments)
    assert again.returncode == 0, again.stdout
    for node in ("teacher", "teacher-imp", "teacher-int8", "teacher-imp-int8"):
        ours, theirs = metrics(project / "runs/smoke", node), metrics(RUN, node)
        for key in ("test_accuracy", "test_nll", "val_accuracy", "nonzeros", "bytes_file", "sparsity"):
            assert ours[key] == theirs[key], f"{node}: {key}"
        same = [(r / "seed0" / node / "model.safetensors").read_bytes() for r in (project / "runs/smoke", RUN)]
        assert same[0] == same[1], node


def test_a_run_whose_time_is_up_says_so_and_the_same_command_goes_on(project):
    shutil.rmtree(project / "runs" / "smoke" / "seed0" / "teacher-imp")
    arguments = ["--profile", "smoke", "--stages", "prune"]
    result = study(project, *arguments, "--minutes", "0.001")
    assert result.returncode != 0 and "paused: smoke/seed0/teacher-imp: not begun, the time is up" in result.stdout
    assert "`make study PROFILE=smoke` goes on" in result.stdout and "Error" not in result.stdout
    assert study(project, *arguments, "--minutes", "60").returncode == 0
    assert metrics(project / "runs/smoke", "teacher-imp")["test_nll"] == metrics(RUN, "teacher-imp")["test_nll"]


def test_at_sigterm_a_training_stops_after_its_epoch_and_what_it_has_is_kept(project):
    profile = project / "papermill_params/slow.yaml"
    profile.write_text(
        "study: {dataset: digits, chapters: []}\nlatency: {compiled: false}\n"
        "teacher: {network: {depth: 7}, recipe: {epochs: 100000, lr: 1e-3, batch_size: 32}}\n"
    )
    command = [sys.executable, "engine/run/study.py", "--profile", "slow", "--stages", "none"]
    options = {"env": environment(project), "text": True, "stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
    with subprocess.Popen(command, cwd=project, start_new_session=True, **options) as first:
        log = project / "runs/slow/seed0/teacher/log.txt"
        deadline = time.monotonic() + LONG
        while not (log.exists() and "Executing Cell 6-" in log.read_text()):  # the training begins
            assert first.poll() is None and time.monotonic() < deadline
            time.sleep(0.05)
        time.sleep(2)
        first.terminate()
        said = first.communicate(timeout=LONG)[0]
    assert (
        first.returncode == 1
        and "what was paused or has failed" in said
        and "`make study PROFILE=slow` goes on" in said
    ), said
    assert list((project / "runs/slow/seed0/teacher/unfinished").glob("*.safetensors"))
    assert not (project / "runs/slow/.stop").exists() and not processes_of(project)
    profile.unlink()
    shutil.rmtree(project / "runs/slow")


@pytest.mark.parametrize("stage", [pytest.param("teacher", marks=pytest.mark.long), "distill"])
def test_a_lesson_that_is_stopped_keeps_what_it_has_trained(stage, tmp_path):
    node = RUN / "seed0" / ("teacher" if stage == "teacher" else "teacher-kd")
    given = parameters.load("smoke")[stage] | {"out": str(tmp_path), "reuse": str(node)}
    given |= {"published": "", "study": {"dataset": "digits", "seed": 0, "threads": 1}}
    given["recipe"] = given["recipe"] | {"epochs": 100_000}
    given |= (
        {"parent": str(RUN / "seed0" / "teacher")} if stage == "distill" else {"choosing": {"seeds": 2}}
    )  # one is its own
    execute = ["engine/run/execute.py", str(chapters.notebooks()[stage]), str(tmp_path / "notebook.ipynb")]
    command = [sys.executable, *execute, "--parameters", json.dumps(given)]
    stop, cells = tmp_path / "stop", nbformat.read(chapters.notebooks()[stage], 4).cells
    number = next(k for k, cell in enumerate(cells) if 'node.out / "lesson"' in cell.source) + 2  # one is put in
    with subprocess.Popen(
        command,
        cwd=ROOT,
        env=environment(ROOT) | {STOP_FILE: str(stop)},
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    ) as running:
        while f"Executing Cell {number}-" not in (line := running.stdout.readline()):
            assert line, "it ended before its lesson began"
        time.sleep(5)
        stop.touch()
        said = running.communicate(timeout=LONG)[0]
    assert running.returncode and "Paused" in said, said
    (kept,) = (tmp_path / "lesson").glob("*.safetensors")
    assert kept.stat().st_size


def test_of_many_seeds_the_table_of_the_first_is_printed_before_the_others_are_done(project):
    profile = project / "papermill_params/many.yaml"
    profile.write_text(
        "study: {dataset: digits, seeds: [3, 1, 2, 0, 4, 5], chapters: []}\n"
        "latency: {compiled: false, repeats: 1}\n"
        "teacher: {network: {depth: 7, growth: 4}, recipe: {epochs: 1, lr: 1e-3, batch_size: 64}}\n"
    )
    said = study(project, "--profile", "many", "--stages", "none").stdout
    early, _, late = said.partition("The first seeds; others follow:")
    assert "n = 3 seeds" in early and "/teacher, " in late and "n = 6 seeds" in late, said
    profile.unlink()
    shutil.rmtree(project / "runs/many")
