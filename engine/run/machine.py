"""What this machine will not read or write, in one sentence: the path, and why."""

import contextlib
import sys
from collections.abc import Iterator
from pathlib import Path


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
