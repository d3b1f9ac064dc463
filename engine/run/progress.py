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
    process = subprocess.Popen(
        command,
        cwd=ROOT,
        env=environment,
        pass_fds=handles,
        encoding="utf-8",
        errors="replace",
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
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
        self.jobs: dict[int, tuple[str, float]] = {}  # number → name, start
        self.finished, self.paused, self.failed = 0, 0, 0  # number of the last job finished; how many were paused …

    def line(self, line: str) -> None:
        try:
            said = json.loads(line) if line.startswith('{"') else {}
        except ValueError:
            said = {}
        if said:
            getattr(self, f"_{said.get('event')}", self._other)(said)
        elif not line.startswith("Using workflow specific profile"):
            print(line, flush=True)

    def _job_info(self, said: dict) -> None:
        self.jobs[said["jobid"]] = (said["rule_msg"], time.monotonic())

    def _job_finished(self, said: dict) -> None:
        self.finished = said["job_id"]

    def _progress(self, said: dict) -> None:
        name, began = self.jobs[self.finished]
        print(f"[{said['done']:>3}/{said['total']}] {name}, {time.monotonic() - began:.0f} s", flush=True)
        left = said["total"] - said["done"] - 1  # the last step is none of work
        if left and name == self.table.relative_to(ROOT).as_posix():
            self.show(self.table)
            print(f"\nChapters that are left: {left}. More is trained in them:", flush=True)

    def _job_error(self, said: dict) -> None:
        name = self.jobs[said["jobid"]][0]
        logs = [path for path in map(Path, said["log"]) if (ROOT / path).is_file()]
        lines = [line for path in logs for line in (ROOT / path).read_text("utf-8", "replace").splitlines()]
        if why := [line for line in lines if line.startswith(deadline.Paused.__name__)]:
            self.paused += 1
            print(f"paused: {name.removeprefix('runs/')}: {why[0].partition(': ')[2]}", flush=True)
            return
        self.failed += 1
        print(f"\nfailed: {name}", *(f"its log: {path}" for path in logs), sep="\n")
        print(*([f"    {line}" for line in lines] or [said["text"]]), "", sep="\n", flush=True)

    def _error(self, said: dict) -> None:
        if said["exception"] != "RuleException" or "CalledProcessError" not in said["text"]:  # said by _job_error
            self._other(said)

    def _run_info(self, said: dict) -> None:
        print(said["text"].rstrip(), flush=True)

    def _other(self, said: dict) -> None:
        """Warnings and errors; what follows from paused jobs alone is no error."""
        only_paused = self.paused and not self.failed
        if said["cluster"] or (said["level"] >= logging.WARNING and not only_paused):
            print(said["text"], flush=True)
