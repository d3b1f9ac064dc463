"""The time that a run may take: trainings stop before it is over and go on from their checkpoints later."""

import math
import os
import time

STOP_AT = "STUDY_STOP_AT"  # environment: seconds since 1970 at which everything should have stopped
STOP_FILE = "STUDY_STOP_FILE"  # environment: a file that is made when everything should stop as soon as it can


class Paused(RuntimeError):
    """A training has stopped for now; the same call goes on where it was."""


def left() -> float:
    """Seconds until ``STUDY_STOP_AT``; without it, infinitely many, and below 0 once ``STUDY_STOP_FILE`` is there.

    Raises:
        ValueError: the time is not a number.
    """
    if (file := os.environ.get(STOP_FILE)) and os.path.exists(file):
        return -math.inf
    named = os.environ.get(STOP_AT)
    try:
        return float(named) - time.time() if named else math.inf
    except ValueError as error:
        raise ValueError(f"{STOP_AT}={named!r}: expected seconds since 1970") from error
