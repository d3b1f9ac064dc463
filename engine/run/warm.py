"""A warm process: it has imported what the nodes import, and forks for each of them.

What a node imports takes Python two to seven seconds, more than most nodes work. So study.py keeps one process beside
Snakemake that pays this once: a rule's command (client.py) hands it a command line over a socket, it forks, and
the fork runs the script as if just started. A notebook's kernel is started in the same way. studylib is not imported
here: a fork reads the code as it is by then.

It ends with study.py, however that ends (its standard input is a pipe on which nothing is written), its jobs end with
it, and a job ends with its client. It runs no torch operation: threads that OpenMP has started do not live in a fork.
"""

import atexit
import contextlib
import ctypes
import gc
import importlib
import json
import logging
import os
import runpy
import select
import selectors
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
MODULES = [
    "engine",  # before papermill: see there
    "papermill.execute",
    "ipykernel.debugger",
    "ipykernel.kernelapp",
    "ipykernel.zmqshell",
    "torch",
    "sklearn.datasets",
    "sklearn.model_selection",
    "safetensors.torch",
    "torch.ao.quantization.fx._decomposed",
    "torch.utils.flop_counter",
    "torch._inductor.config",
    "torch.export._trace",
    "torch.export._unlift",
    "torchao.quantization.pt2e.quantize_pt2e",
    "torchao.quantization.pt2e.quantizer.x86_inductor_quantizer",
    "seaborn",
    "matplotlib.backends.backend_pdf",
]


@contextlib.contextmanager
def process(environment: dict[str, str], handles: list[int], modules: list[str] = MODULES) -> Iterator[dict[str, str]]:
    """``environment`` with the address of a warm process that lives as long as the context and inherits ``handles``.

    Unchanged where there can be none: on another system than Linux, or with a GPU, for CUDA does not survive a fork.
    """
    if not hasattr(os, "pidfd_open") or Path("/dev/nvidiactl").exists():
        yield environment
        return
    from engine.run import places

    folder = tempfile.mkdtemp(prefix="study", dir=places.for_sockets())
    address = f"{folder}/warm"
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    listener.bind(address)
    listener.listen(100)
    fixed = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")  # a job sets its own
    fixed["PYDEVD_DISABLE_FILE_VALIDATION"] = "1"  # ipykernel's debugger, which says at import what nobody asked
    server = subprocess.Popen(
        [sys.executable, __file__, folder, str(listener.fileno()), *modules],
        cwd=ROOT,
        env=environment | fixed,
        stdin=subprocess.PIPE,
        pass_fds=[listener.fileno(), *handles],
        start_new_session=True,  # who kills study.py with all its group leaves this one to tidy up
    )
    listener.close()
    try:
        yield environment | {"STUDY_WARM": address}
    finally:
        server.stdin.close()
        server.wait()
        shutil.rmtree(folder, ignore_errors=True)


def main(folder: str, listener: str, *modules: str) -> None:
    sys.path[0] = str(ROOT)
    os.environ["JPY_PARENT_PID"] = str(os.getpid())  # ipykernel reads it at import
    logging.disable(logging.WARNING)  # torchao's import warns of torch's own insides
    for module in modules:
        if select.select([0], [], [], 0)[0]:  # study.py has ended
            break
        importlib.import_module(module)
    logging.disable(logging.NOTSET)
    gc.collect()
    gc.freeze()  # a fork's garbage collections leave alone what is here now
    command = Server(socket.socket(fileno=int(listener))).serve()
    if command is None:
        shutil.rmtree(folder, ignore_errors=True)
    status = run(command) if command else 0
    os._exit(status)  # taking all these modules apart takes time, and what is frozen would be reported as leaks


def run(command: list[str]) -> int:
    """Runs ``SCRIPT ARGUMENT…`` or ``-m MODULE ARGUMENT…`` as the interpreter does; returns the exit status."""
    status: object = 0
    try:
        if command[0] == "-m":
            sys.argv = command[1:]
            runpy.run_module(command[1], run_name="__main__", alter_sys=True)
        else:
            sys.argv = command
            runpy.run_path(command[0], run_name="__main__")
    except SystemExit as end:
        status = end.code or 0
    except BaseException:
        traceback.print_exc()
        status = 1
    if not isinstance(status, int):
        print(status, file=sys.stderr)
        status = 1
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    return status


class Server:
    """Waits for requests, for the end of a job, for the end of a job's client, and for that of study.py."""

    def __init__(self, listener: socket.socket):
        self.selector = selectors.DefaultSelector()
        self.selector.register(0, selectors.EVENT_READ, self._end)
        self.selector.register(listener, selectors.EVENT_READ, lambda: self._accept(listener))
        self.jobs: set[int] = set()
        self.going, self.command = True, None

    def serve(self) -> list[str] | None:
        """In a fork, the command that it is to run; None when study.py has ended."""
        while self.going:
            (key, _), *_ = self.selector.select()  # one at a time: each may be the end of what another waits for
            key.data()
        return self.command

    def _accept(self, listener: socket.socket) -> None:
        client, _ = listener.accept()
        message, handles, *_ = socket.recv_fds(client, 1 << 20, 2)
        server, pid = os.getpid(), os.fork() if message else None
        if pid == 0:
            return self._become(server, json.loads(message), handles)
        for handle in handles:
            os.close(handle)
        if pid is None:  # the client is gone already
            return client.close()
        os.setpgid(pid, pid)
        self.jobs.add(pid)
        end = os.pidfd_open(pid)
        self.selector.register(client, selectors.EVENT_READ, lambda: self._kill(pid, client))
        self.selector.register(end, selectors.EVENT_READ, lambda: self._ended(pid, end, client))
        with contextlib.suppress(OSError):
            client.send(b"%d" % pid)

    def _become(self, server: int, request: dict, handles: list[int]) -> None:
        """Makes of this fork what a process is that has just been started."""
        os.setpgid(0, 0)
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # ends with the server, however that ends
        if os.getppid() != server:
            os._exit(1)
        for key in list(self.selector.get_map().values()):
            key.fileobj.close() if isinstance(key.fileobj, socket.socket) else os.close(key.fd)
        self.selector.close()
        os.open(os.devnull, os.O_RDONLY)  # becomes 0, the lowest that is free
        for number, handle in enumerate(handles, start=1):
            os.dup2(handle, number)
            os.close(handle)
        os.chdir(request["cwd"])
        os.environ.clear()
        os.environ.update(request["environment"])
        self.going, self.command = False, request["command"]

    def _kill(self, pid: int, client: socket.socket) -> None:
        self.selector.unregister(client)
        os.killpg(pid, signal.SIGKILL)

    def _ended(self, pid: int, end: int, client: socket.socket) -> None:
        self.selector.unregister(end)
        os.close(end)
        self.jobs.remove(pid)
        os.killpg(pid, signal.SIGKILL)  # what it left running
        status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        with contextlib.suppress(KeyError):
            self.selector.unregister(client)
        with contextlib.suppress(OSError):
            client.send(b"%d" % status)
        client.close()

    def _end(self) -> None:
        self.going = False
        for pid in self.jobs:
            os.killpg(pid, signal.SIGKILL)
        for pid in self.jobs:
            os.waitpid(pid, 0)


if __name__ == "__main__":
    main(*sys.argv[1:])
