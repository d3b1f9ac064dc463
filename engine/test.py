"""Everything that must hold: unit tests, the smoke profile, the notebooks. Stops at the first that does not."""

import os
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
NBVAL = ["--nbval-lax", "--nbval-cell-timeout=300", "--nbval-kernel-name=python3", "-p", "no:cov"]
STEPS = {
    "lint": [["ruff", "check", "."], ["ruff", "format", "--check", "."]],
    "unit tests": [["pytest", "-q", "tests", "--ignore=tests/notebooks", "--cov", "--cov-report=term"]],
    "smoke study": [["make", "--no-print-directory", "study", "PROFILE=smoke"]],
    "notebooks": [["pytest", "-q", "tests/notebooks"], ["pytest", "-q", *NBVAL, "notebooks"]],
}


def main() -> None:
    environment = os.environ | {"OMP_WAIT_POLICY": "passive", "PYTHONHASHSEED": "0"}
    environment["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{environment['PATH']}"
    for name, commands in STEPS.items():
        started = time.monotonic()
        print(f"== {name}", flush=True)
        for command in commands:
            code = subprocess.run(command, cwd=ROOT, env=environment).returncode
            if code:
                sys.exit(f"== {name}: failed ({' '.join(command)})")
        print(f"== {name}: passed in {time.monotonic() - started:.0f} s", flush=True)


if __name__ == "__main__":
    main()
