"""Snakemake's logger plugin ``study``: a line for each job, errors with their log, the table once it is made."""

import logging
import time
from pathlib import Path

from snakemake_interface_logger_plugins.base import LogHandlerBase

from studylib.training.deadline import Paused


class LogHandler(LogHandlerBase):
    """Says of Snakemake's events what a reader of the study wants to know."""

    writes_to_stream = True
    writes_to_file = has_filter = has_formatter = needs_rulegraph = False

    def __post_init__(self) -> None:
        self.jobs: dict[int, tuple[str, float]] = {}  # number → name, start in seconds
        self.finished, self.paused, self.failed = 0, 0, 0  # number of the last job finished; how many jobs

    def emit(self, record: logging.LogRecord) -> None:
        text, cluster = self.format(record), "snakemake_executor_plugin" in record.pathname
        match getattr(record, "event", None):
            case "job_info":
                self.jobs[record.jobid] = (record.rule_msg, time.monotonic())
            case "job_finished":
                self.finished = record.job_id
            case "progress":
                self._step(*self.jobs[self.finished], record.done, record.total)
            case "job_error":
                self._failure(self.jobs[record.jobid][0], record.log, text)
            case "run_info":
                print(text.rstrip(), flush=True)
            case "error" if "CalledProcessError" in text:
                pass  # a job_error follows, which says more
            case _ if cluster or (record.levelno >= logging.WARNING and (self.failed or not self.paused)):
                print(text, flush=True)

    def _step(self, name: str, began: float, done: int, total: int) -> None:
        print(f"[{done:>3}/{total}] {name}, {time.monotonic() - began:.0f} s", flush=True)
        left = total - done - 1  # the last step is none of work
        if left and name.endswith("/sweep.csv"):
            from engine.run.study import print_table  # two seconds of import

            print_table(Path(name))
            print("\nThe first seeds; others follow:" if "/early/" in name else f"\nChapters left: {left}", flush=True)

    def _failure(self, name: str, logs: list[str], text: str) -> None:
        there = [Path(path) for path in logs if Path(path).is_file()]
        lines = [line for path in there for line in path.read_text(encoding="utf-8", errors="replace").splitlines()]
        if why := [line for line in lines if line.startswith(Paused.__name__)]:
            self.paused += 1
            print(f"paused: {name.removeprefix('runs/')}: {why[0].partition(': ')[2]}", flush=True)
        else:
            self.failed += 1
            print(f"\nfailed: {name}", *(f"its log: {path}" for path in there), sep="\n")
            print(*([f"    {line}" for line in lines] or [text]), "", sep="\n", flush=True)
