"""Everything that must hold: unit tests, the smoke profile, the notebooks. Stops at the first step that does not."""

import functools
import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
NBVAL = ["--nbval-lax", "--nbval-cell-timeout=300", "--nbval-kernel-name=python3", "-p", "no:cov"]
CHAPTERS = [str(path.relative_to(ROOT)) for path in sorted(ROOT.glob("notebooks/*.ipynb"))]
# The name of each step, and its lanes: a step's lanes run side by side, the commands of a lane one after the other.
STEPS = {
    "lint": [[["ruff", "check", "."], ["ruff", "format", "--check", "."]]],
    "smoke study": [[["make", "--no-print-directory", "study", "PROFILE=smoke"]]],
    "unit tests and notebooks": [
        [
            ["pytest", "-q", "tests", "--ignore=tests/notebooks", "--cov", "--cov-report=term"],
            ["pytest", "-q", *NBVAL, *CHAPTERS[::2]],
        ],
        [
            ["pytest", "-q", "tests/notebooks"],
            ["pytest", "-q", *NBVAL, *CHAPTERS[1::2]],
        ],
    ],
}


def follow(lane: list[list[str]], environment: dict[str, str], alone: bool) -> tuple[str, bytes]:
    """Runs the commands of a lane up to the first that fails: that one, and what they printed if there are others."""
    printed = b""
    for command in lane:
        pipes = {} if alone else {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
        done = subprocess.run(command, cwd=ROOT, env=environment, **pipes)
        printed += done.stdout or b""
        if done.returncode:
            return " ".join(command), printed
    return "", printed


def main() -> None:
    environment = os.environ | {"OMP_WAIT_POLICY": "passive", "PYTHONHASHSEED": "0"}
    environment["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{environment['PATH']}"
    for name, lanes in STEPS.items():
        started = time.monotonic()
        print(f"== {name}", flush=True)
        alone = len(lanes) == 1
        shared = {} if alone else {"OMP_NUM_THREADS": str(max(1, len(os.sched_getaffinity(0)) // len(lanes)))}
        with ThreadPoolExecutor(len(lanes)) as pool:
            given = functools.partial(follow, environment=environment | shared, alone=alone)
            failed = []
            for end in as_completed(pool.submit(given, lane) for lane in lanes):
                command, printed = end.result()
                sys.stdout.buffer.write(printed)
                sys.stdout.flush()
                failed += [command] if command else []
        if failed:
            sys.exit(f"== {name}: failed ({'; '.join(failed)})")
        print(f"== {name}: passed in {time.monotonic() - started:.0f} s", flush=True)


if __name__ == "__main__":
    main()
