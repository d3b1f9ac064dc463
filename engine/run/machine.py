"""What commands share: the lock of a run, and what this machine will not read or write, in one sentence."""

import contextlib
import fcntl
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path

PATIENCE = 10.0  # seconds: what was killed a moment ago may still be ending


@contextlib.contextmanager
def refusals(path: Path | str, then: str = "nothing was changed") -> Iterator[None]:
    """Ends the command with a sentence where the machine refuses ``path``, or another; ``then`` says what came of it.

    A full disk, or a folder that cannot be written, is no fault of the file read or written.
    """
    try:
        yield
    except OSError as error:
        named = str(error.filename2 or error.filename or path)
        if not Path(named).is_absolute() and named != str(path):  # it says too little
            named = f"{path}: {named}"
        sys.exit(f"{named}: {error.strerror or error}; {then}")


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
                    sys.exit(f"runs/{run.name}: a command is running there already; wait for it, or end it first")
                time.sleep(0.1)
