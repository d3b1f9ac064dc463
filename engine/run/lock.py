"""The lock of a run: one command at a time may write to it, and no crash leaves it behind."""

import fcntl
import os
import sys
import time
from pathlib import Path

from engine.run.machine import refusals

PATIENCE = 5.0  # seconds: what was killed a moment ago may still be ending


def hold(run: Path, reading: bool = False) -> int | None:
    """Locks the folder ``run`` until every process that inherits the handle has ended, however it ends; or exits.

    A command that is only ``reading`` writes nothing, not even the lock, and may run beside other readers. None where
    there is nothing to lock: no command has written there.
    """
    lock, deadline = run / ".lock", time.monotonic() + PATIENCE
    if reading and not os.path.exists(lock):
        return None
    with refusals(lock):
        handle = os.open(lock, os.O_RDONLY if reading else os.O_RDWR | os.O_CREAT, 0o644)
        while True:
            try:
                fcntl.flock(handle, (fcntl.LOCK_SH if reading else fcntl.LOCK_EX) | fcntl.LOCK_NB)
                return handle
            except BlockingIOError:
                if time.monotonic() > deadline:
                    name = f"{run.parent.name}/{run.name}"
                    sys.exit(f"{name}: this profile is being run already; wait for it, or end it first")
                time.sleep(0.1)
