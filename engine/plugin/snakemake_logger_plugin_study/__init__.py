"""Snakemake's logger plugin ``study``: a line for each job, errors with their log, the table once it is made."""

import logging
import time
from pathlib import Path

from snakemake_interface_logger_plugins.base import LogHandlerBase

from engine.settings.chapters import declared
from studylib.experiments import run_report, time_left
from studylib.training.deadline import Paused


class LogHandler(LogHandlerBase):
    """Says of Snakemake's events what a reader of the study wants to know."""

    writes_to_stream = True
    writes_to_file = has_filter = has_formatter = needs_rulegraph = False

    def __post_init__(self) -> None:
        self.jobs: dict[int, tuple[str, float]] = {}  # number → name, start in seconds
        self.finished, self.paused, self.failed = 0, 0, 0  # number of the last job finished; how many jobs
        self.places, self.counts, self.watch = 1, {}, None  # jobs side by side; rule → jobs; of the first job on

    def emit(self, record: logging.LogRecord) -> None:
        text, cluster = self.format(record), "snakemake_executor_plugin" in record.pathname
        match getattr(record, "event", None):
            case "resources_info":
                self.places = getattr(record, "cores", getattr(record, "nodes", self.places))
            case "job_info":
                self.jobs[record.jobid] = (record.rule_msg, time.monotonic())
                if record.rule_name in self.counts:
                    self.watch = self.watch or self._watch(record.rule_msg)
                    self.watch.begin(record.jobid, record.rule_name, record.threads)
            case "job_finished":
                self.finished = record.job_id
                self._ended(self.finished)
            case "progress":
                self._step(*self.jobs[self.finished], record.done, record.total)
            case "job_error":
                self._ended(record.jobid, done=False)
                self._failure(self.jobs[record.jobid][0], record.log, text)
            case "run_info":
                self.counts = {rule: count for rule, count in record.stats.items() if rule not in ("all", "total")}
                print(text.rstrip(), flush=True)
            case "error" if "CalledProcessError" in text:
                pass  # a job_error follows, which says more
            case _ if cluster or (record.levelno >= logging.WARNING and (self.failed or not self.paused)):
                print(text, flush=True)

    def _watch(self, made: str) -> time_left.Watch:
        minutes = {f"{time_left.CHAPTER}{key}": 60 * each.minutes for key, each in declared().items()}
        run = Path(*Path(made).parts[:2])
        return time_left.Watch(run, Path("figures"), self.counts, self.places, minutes)

    def _ended(self, job: int, done: bool = True) -> None:
        if self.watch:  # not in a job on a cluster, which is told of no others
            self.watch.end(job, done)

    def _step(self, name: str, began: float, done: int, total: int) -> None:
        left = total - done - 1  # the last step is none of work
        rest = self.watch.rest() if self.watch else ""
        print(f"[{done:>3}/{total}] {name}, {time.monotonic() - began:.0f} s{rest}", flush=True)
        if left and name.endswith("/sweep.csv"):
            run_report.print_table(Path(name))
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
