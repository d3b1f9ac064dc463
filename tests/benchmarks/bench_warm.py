"""smoke_warm_over_cold: CPU seconds of the smoke study from nothing, forked from a warm process over without one.

CPU seconds (user and system, of every process of the study), because wall time depends on what else runs.
"""

import ctypes
import os
import resource
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from harness import pair

sys.path.append(str(Path(__file__).resolve().parent.parent))

from projects import copy_project, edit, study

REPEATS = 3
SUBREAPER = 36  # prctl's number: orphans below this process become its own children


def run() -> dict:
    ctypes.CDLL(None).prctl(SUBREAPER, 1)
    with tempfile.TemporaryDirectory() as folder:
        warm, cold = (copy_project(Path(folder) / name) for name in ("warm", "cold"))
        edit(cold / "engine" / "run" / "warm.py", 'not hasattr(os, "pidfd_open")', "True")
        row = pair(lambda: _cpu_seconds(warm), lambda: _cpu_seconds(cold), REPEATS, "s")
    return {"smoke_warm_over_cold": row}


def _cpu_seconds(project: Path) -> float:
    for name in ("runs", ".snakemake"):
        shutil.rmtree(project / name, ignore_errors=True)
    before = _used()
    done = study(project, "--profile", "smoke")
    if done.returncode:
        raise subprocess.CalledProcessError(done.returncode, "smoke", done.stdout)
    try:
        while True:
            os.waitpid(-1, 0)
    except ChildProcessError:  # all have ended and are counted
        return _used() - before


def _used() -> float:
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    return children.ru_utime + children.ru_stime
