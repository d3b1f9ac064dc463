"""What Snakemake says while it runs, for people: a line a job, errors whole."""

import re
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from engine.settings.reading import ROOT
from studylib.training import deadline

NOISE = [  # what Snakemake says when all is well
    r"",
    r"Using workflow specific profile .*",
    r"Assuming unrestricted shared filesystem usage\.",
    r"Building DAG of jobs\.\.\.",
    r"Using shell: .*",
    r"Rules claiming more threads will be scaled down\.",
    r"Select jobs to execute\.\.\.",
    r"Execute \d+ jobs\.\.\.",
    r"\[\w{3} \w{3} +\d+ [\d:]+ \d{4}\]",
    r"localrule all:",
    r"Complete log\(s\): .*",
    r"Elapsed time: .*",
]
ENDED = [  # what it says in the end where a job has failed
    r"Exiting because a job execution failed\..*",
    r"WorkflowError:",
    r"At least one job did not complete successfully\.",
]


def follow(
    command: list[str], environment: dict[str, str], handles: list[int], quiet: bool, table: Path, show: Callable
) -> tuple[int, bool]:
    """Snakemake's exit status, and whether all that failed was paused.

    Args:
        quiet: makes one line of what it says of each job, paused ones too, and leaves errors whole.
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
    jobs: dict[str, tuple[str, float]] = {}
    last, paused, failed = "", 0, 0
    failure: list[str] = []  # what is said of one job, up to the second line of =
    try:
        for line in process.stdout:
            line = line.rstrip()
            if not quiet:
                print(line, flush=True)
            elif failure or line == "RuleException:":
                failure.append(line)
                if sum(set(each) == {"="} for each in failure) == 2:
                    if why := [each for each in failure if each.startswith(deadline.Paused.__name__)]:
                        paused += 1
                        print(f"paused: {_named(failure)}: {why[0].partition(': ')[2]}", flush=True)
                    else:
                        failed += 1
                        print("\n".join(failure), flush=True)
                    failure = []
            elif match := re.fullmatch(r"Job (\d+): (.*)", line):
                jobs[match[1]] = (match[2], time.monotonic())
            elif match := re.fullmatch(r"Finished job(?:id:)? (\d+).*", line):
                name, began = jobs.get(match[1], (line, time.monotonic()))
                last = f"{name}, {time.monotonic() - began:.0f} s" if match[1] in jobs else ""
            elif match := re.fullmatch(r"(\d+) of (\d+) steps .*done", line):
                if last:
                    print(f"[{match[1]:>3}/{match[2]}] {last}", flush=True)
                left = int(match[2]) - int(match[1]) - 1  # the last step is none of work
                if last.startswith(f"{table.relative_to(ROOT)},") and left:
                    show(table)
                    print(f"\nChapters that are left: {left}. More is trained in them:", flush=True)
            elif paused and re.fullmatch("|".join(ENDED), line):
                pass
            elif not any(re.fullmatch(pattern, line) for pattern in NOISE):
                print(line, flush=True)
    except KeyboardInterrupt:
        process.wait()
        sys.exit("Interrupted; the same command goes on.")
    print("\n".join(failure), end="\n" if failure else "")
    return process.wait(), bool(paused) and not failed


def _named(failure: list[str]) -> str:
    """The folder of the job that ``failure`` is about."""
    logs = [line.strip() for line in failure if line.startswith("    log: ")]
    return str(Path(logs[0].split()[1]).parent.relative_to("runs")) if logs else "?"
