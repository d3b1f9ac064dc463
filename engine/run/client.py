"""Has the warm process of this run do what `python SCRIPT ARGUMENT…` or `python -m MODULE …` would.

    python -I -S engine/run/client.py SCRIPT ARGUMENT…

Without a warm process (on a cluster, or a rule run by hand) it does so itself. It imports little: each node starts two.
"""

import ctypes
import json
import os
import signal
import socket
import sys


def main() -> None:
    if sys.platform == "linux":  # SIGKILL when the parent ends, however it ends; holds for what is executed below, too
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)
    status = _ask(os.environ.get("STUDY_WARM", ""), sys.argv[1:])
    if status is None:
        os.execv(sys.executable, [sys.executable, *sys.argv[1:]])
    sys.exit(status)


def _ask(address: str, command: list[str]) -> int | str | None:
    """The exit status; a message if the run, or only its warm process, ended before the job did; else None."""
    request = {"command": command, "cwd": os.getcwd(), "environment": dict(os.environ)}
    try:
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        connection.connect(address)
        socket.send_fds(connection, [json.dumps(request).encode()], [1, 2])
        pid = int(connection.recv(99))
    except (OSError, ValueError):
        ended = address and not os.path.exists(os.path.dirname(address))  # study.py's end, not the warm process's own
        return "this run has ended" if ended else None
    signal.signal(signal.SIGINT, lambda number, _: os.kill(pid, number))
    if not (status := connection.recv(99)):
        return "the warm process of this run has ended"
    return int(status) if int(status) >= 0 else 128 - int(status)  # as a shell says of a signal


if __name__ == "__main__":
    main()
