"""What this machine will not read or write, in one sentence: the path, and why."""

import contextlib
import sys
from collections.abc import Iterator
from pathlib import Path


def reason(error: OSError, path: Path | str = "") -> str:
    """The path that ``error`` is about, ``path`` where that says too little, and what the system says of it."""
    named = str(error.filename2 or error.filename or path)
    if not Path(named).is_absolute() and named != str(path):
        named = f"{path}: {named}"
    return f"{named}: {error.strerror or error}"


@contextlib.contextmanager
def refusals(path: Path | str, then: str = "nothing was changed") -> Iterator[None]:
    """Ends the command with a sentence where the machine refuses; ``then`` says what came of it.

    A full disk and a folder that cannot be written are no fault of the file that was to be read or written.
    """
    try:
        yield
    except OSError as error:
        sys.exit(f"{reason(error, path)}; {then}")
