"""Everything that must hold: unit tests, the smoke profile, the notebooks. Stops at the first step that does not.

python engine/tools/test.py [--long]  (--long: only what takes minutes and is left out otherwise)
"""

import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
NBVAL = ["--nbval-lax", "--nbval-cell-timeout=300", "--nbval-kernel-name=python3", "-p", "no:cov"]
# The chapter that takes longest first: both processes then end at about the same time.
CHAPTERS = [
    str(path.relative_to(ROOT))
    for path in sorted(ROOT.glob("notebooks/*.ipynb"), key=lambda path: (not path.name.startswith("05"), path.name))
]
REDUCED = [f"tests/{chapter.replace('/', '/reduced/')}" for chapter in CHAPTERS]
SMOKE = ["make", "--no-print-directory", "study", "PROFILE=smoke"]
# The commands of each step, and how many of them run side by side.
LONG_STEPS = {
    "smoke study": (1, [SMOKE]),
    "long tests": (
        1,
        [
            ["pytest", "-q", "tests", "-m", "long"],
        ],
    ),
}
STEPS = {
    "lint": (1, [["ruff", "check", "."], ["ruff", "format", "--check", "."]]),
    "smoke study": (1, [SMOKE]),
    "unit tests and notebooks": (
        2,
        [
            ["pytest", "-q", "tests", "--ignore=tests/notebooks", "-m", "not long", "--cov", "--cov-report=term"],
            ["pytest", "-q", "tests/notebooks", "-m", "not long"],
            *(["pytest", "-q", *NBVAL, chapter] for chapter in (*REDUCED, *CHAPTERS)),
        ],
    ),
}


class Step:
    """Commands of which several run side by side, each given its share of the processors (OMP_NUM_THREADS).

    After the first that fails, or cannot be started, none is begun. Alone, a command prints as it goes, else when it
    has ended.
    """

    def __init__(self, commands: list[list[str]], beside: int) -> None:
        self.commands, self.beside, self.failed = commands, beside, []
        self.environment = os.environ | {"OMP_WAIT_POLICY": "passive", "PYTHONHASHSEED": "0"}
        self.environment["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{self.environment['PATH']}"
        if beside > 1:
            self.environment["OMP_NUM_THREADS"] = str(max(1, len(os.sched_getaffinity(0)) // beside))

    def one(self, command: list[str]) -> bytes:
        if self.failed:
            return b""
        pipes = {} if self.beside == 1 else {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
        started = time.monotonic()
        try:
            done = subprocess.run(command, cwd=ROOT, env=self.environment, **pipes)
        except OSError as error:
            self.failed.append(f"{' '.join(command)}: {error}")
            return b""
        if done.returncode:
            self.failed.append(" ".join(command))
        return (done.stdout or b"") + f"-- {' '.join(command)}: {time.monotonic() - started:.0f} s\n".encode()

    def run(self) -> list[str]:
        """The commands that failed."""
        with ThreadPoolExecutor(self.beside) as pool:
            for end in as_completed([pool.submit(self.one, command) for command in self.commands]):
                sys.stdout.buffer.write(end.result())
                sys.stdout.flush()
        return self.failed


def main() -> None:
    for name, (beside, commands) in (LONG_STEPS if "--long" in sys.argv[1:] else STEPS).items():
        started = time.monotonic()
        print(f"== {name}", flush=True)
        if failed := Step(commands, beside).run():
            sys.exit(f"== {name}: failed ({'; '.join(failed)})")
        print(f"== {name}: passed in {time.monotonic() - started:.0f} s", flush=True)


if __name__ == "__main__":
    main()
