"""The lock of a run: one command at a time may write to it, and no crash leaves it behind."""

import fcntl
import os
import sys
import time
from pathlib import Path

PATIENCE = 5.0  # seconds: what was killed a moment ago may still be ending


def hold(run: Path) -> int:
    """Locks the folder ``run`` until every process that inherits the handle has ended, however it ends; or exits."""
    handle = os.open(run / ".lock", os.O_RDWR | os.O_CREAT, 0o644)
    deadline = time.monotonic() + PATIENCE
    while True:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return handle
        except BlockingIOError:
            if time.monotonic() > deadline:
                break
            time.sleep(0.1)
    sys.exit(f"{run.parent.name}/{run.name}: this profile is being run already; wait for it, or end it first")
