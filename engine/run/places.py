"""Where the study's sockets lie: their paths must be short, whatever the folder for temporary files is called."""

import os
import tempfile

LONGEST = 103  # bytes of a Unix socket's path; Linux takes 107, macOS 103
ROOM = 30  # of them for what the study puts below: /study12345678/k12345678/k-5


def for_sockets() -> str:
    """A folder whose path leaves room for sockets: TMPDIR, or another for temporary files where that is too long.

    Raises:
        OSError: there is none that can be written to; names those that were tried.
    """
    tried = list(dict.fromkeys([tempfile.gettempdir(), "/tmp", "/dev/shm", "/var/tmp"]))
    for folder in tried:
        if len(os.fsencode(folder)) + ROOM <= LONGEST and os.access(folder, os.W_OK | os.X_OK):
            return folder
    longest = LONGEST - ROOM
    raise OSError(f"no folder for sockets: expected one of {', '.join(tried)} to be writable and of {longest} bytes")
