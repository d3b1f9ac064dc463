"""What Snakemake says while it runs, for people: a line for each job, errors with their log."""

import json
import logging
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from engine.settings.reading import ROOT
from studylib.training import deadline

PLUGINS = Path(__file__).resolve().parents[1] / "plugin"  # on PYTHONPATH, Snakemake finds our logger plugin there


def follow(
    command: list[str], environment: dict[str, str], handles: list[int], table: Path, show: Callable
) -> tuple[int, bool]:
    """Runs Snakemake; returns its exit status, and whether every job that failed was paused.

    Args:
        command: with our logger plugin (``--logger study``), or its output is printed as it is.
        table: what ``show`` is called with as soon as it is made, if jobs are left then.
    """
    how = {"cwd": ROOT, "env": environment, "pass_fds": handles, "encoding": "utf-8", "errors": "replace"}
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, **how)
    heard = _Heard(table, show)
    try:
        for line in process.stdout:
            heard.line(line.rstrip())
    except KeyboardInterrupt:
        process.wait()
        sys.exit("Interrupted; the same command goes on.")
    return process.wait(), bool(heard.paused) and not heard.failed


class _Heard:
    """What has been heard of Snakemake, by its events."""

    def __init__(self, table: Path, show: Callable) -> None:
        self.table, self.show = table, show
        self.jobs: dict[int, tuple[str, float]] = {}  # number → name, start in seconds
        self.finished, self.paused, self.failed = 0, 0, 0  # number of the last job finished; how many jobs

    def line(self, line: str) -> None:
        try:
            said = json.loads(line)
        except ValueError:
            said = None
        if isinstance(said, dict) and "cluster" in said:  # of our plugin
            self._event(**said)
        elif not line.startswith("Using workflow specific profile"):
            print(line, flush=True)

    def _event(self, level: int, text: str, cluster: bool, event: str = "", **said) -> None:
        match event:
            case "job_info":
                self.jobs[said["jobid"]] = (said["rule_msg"], time.monotonic())
            case "job_finished":
                self.finished = said["job_id"]
            case "progress":
                self._step(*self.jobs[self.finished], said["done"], said["total"])
            case "job_error":
                self._failure(self.jobs[said["jobid"]][0], said["log"], text)
            case "run_info":
                print(text.rstrip(), flush=True)
            case "error" if "CalledProcessError" in text:
                pass  # a job_error follows, which says more
            case _ if cluster or (level >= logging.WARNING and (self.failed or not self.paused)):
                print(text, flush=True)

    def _step(self, name: str, began: float, done: int, total: int) -> None:
        print(f"[{done:>3}/{total}] {name}, {time.monotonic() - began:.0f} s", flush=True)
        left = total - done - 1  # the last step is none of work
        if left and name == self.table.relative_to(ROOT).as_posix():
            self.show(self.table)
            print(f"\nChapters that are left: {left}. More is trained in them:", flush=True)

    def _failure(self, name: str, logs: list[str], text: str) -> None:
        there = [path for path in logs if (ROOT / path).is_file()]
        lines = [
            line for path in there for line in (ROOT / path).read_text(encoding="utf-8", errors="replace").splitlines()
        ]
        if why := [line for line in lines if line.startswith(deadline.Paused.__name__)]:
            self.paused += 1
            print(f"paused: {name.removeprefix('runs/')}: {why[0].partition(': ')[2]}", flush=True)
        else:
            self.failed += 1
            print(f"\nfailed: {name}", *(f"its log: {path}" for path in there), sep="\n")
            print(*([f"    {line}" for line in lines] or [text]), "", sep="\n", flush=True)
