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
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C ends it without a traceback
    if sys.platform == "linux":  # SIGKILL when the parent ends, however it ends; holds for what is executed below, too
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)
    address, command = os.environ.get("STUDY_WARM", ""), sys.argv[1:]
    request = {"command": command, "cwd": os.getcwd(), "environment": dict(os.environ)}
    try:
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        connection.connect(address)
        socket.send_fds(connection, [json.dumps(request).encode()], [1, 2])
        connection.recv(1)  # it has begun
    except OSError:
        if address and not os.path.exists(os.path.dirname(address)):  # study.py has ended, not only its warm process
            sys.exit("this run has ended")
        os.execv(sys.executable, [sys.executable, *command])
    sys.exit(int(connection.recv(9) or 128 + signal.SIGKILL))  # killed, as when memory runs out


if __name__ == "__main__":
    main()
