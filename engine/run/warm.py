"""A warm process: it has imported what the nodes import, and forks for each of them.

What a node imports takes Python two to seven seconds, more than most nodes work. So study.py keeps one process beside
Snakemake that pays this once. A rule's command (client.py) hands it a command line over a socket. It forks, and the
fork runs the script as if just started. A notebook's kernel is started alike. The warm process does not import
studylib, so that a fork reads the code as it is by then.

It ends with study.py, its jobs end with it, and a job ends with its client. This holds however each of them ends. It
runs no torch operation: threads that OpenMP has started do not live in a fork.

`make bench ARGS=warm` measures what it gains. The standard library's forkserver with the same modules was no faster.
When study.py is killed, that server leaves behind its folder and what its jobs have started.
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
import shutil
import signal
import socket
import socketserver
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
LONGEST = 103 - 30  # bytes of a folder's path: a Unix socket's has 103, less /study12345678/k12345678/k-5
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


def for_sockets() -> str:
    """TMPDIR, or another folder for temporary files where its path leaves no room; raises OSError if there is none."""
    tried = list(dict.fromkeys([tempfile.gettempdir(), "/tmp", "/dev/shm", "/var/tmp"]))
    for folder in tried:
        if len(os.fsencode(folder)) <= LONGEST and os.access(folder, os.W_OK | os.X_OK):
            return folder
    raise OSError(f"no folder for sockets: expected one of {', '.join(tried)} to be writable and of {LONGEST} bytes")


@contextlib.contextmanager
def process(environment: dict[str, str], handles: list[int], modules: list[str] = MODULES) -> Iterator[dict[str, str]]:
    """``environment`` with the address of a warm process that lives as long as the context and inherits ``handles``.

    Unchanged where there can be none: on systems other than Linux, and with a GPU. CUDA does not survive a fork.
    """
    if not hasattr(os, "pidfd_open") or Path("/dev/nvidiactl").exists():
        yield environment
        return
    address = f"{tempfile.mkdtemp(prefix='study', dir=for_sockets())}/warm"
    fixed = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")  # a job sets its own
    fixed["PYDEVD_DISABLE_FILE_VALIDATION"] = "1"  # ipykernel's debugger, which says at import what nobody asked
    with Server(address, Job) as server:  # clients may ask from now on; it answers once it has imported everything
        child = subprocess.Popen(
            [sys.executable, __file__, address, str(server.fileno()), str(os.getpid()), *modules],
            cwd=ROOT,
            env=environment | fixed,
            stdin=subprocess.DEVNULL,
            pass_fds=[server.fileno(), *handles],
            start_new_session=True,  # who kills study.py with all its group leaves this one to tidy up
        )
    try:
        yield environment | {"STUDY_WARM": address}
    finally:
        child.terminate()
        child.wait()


def main(address: str, listener: str, parent: str, *modules: str) -> None:
    sys.path[0] = str(ROOT)
    server = Server(address, Job, bind_and_activate=False)
    server.socket = socket.socket(fileno=int(listener))
    try:
        signal.signal(signal.SIGTERM, lambda *_: sys.exit())
        _end_with(int(parent), signal.SIGTERM)
        os.environ["JPY_PARENT_PID"] = str(os.getpid())  # ipykernel reads it at import
        logging.disable(logging.WARNING)  # torchao's import warns of torch's own insides
        for module in modules:
            importlib.import_module(module)
        logging.disable(logging.NOTSET)
        gc.collect()
        gc.freeze()  # a fork's garbage collections leave alone what is here now
        server.serve_forever()
    finally:
        for pid in server.active_children or ():
            os.kill(pid, signal.SIGTERM)
        server.server_close()
        shutil.rmtree(Path(address).parent, ignore_errors=True)
        os._exit(0)  # taking all these modules apart takes time


class Server(socketserver.ForkingMixIn, socketserver.UnixStreamServer):
    """Forks for each client; the fork handles its :class:`Job`."""

    socket_type = socket.SOCK_SEQPACKET
    request_queue_size = 100
    max_children = 1000


class Job(socketserver.BaseRequestHandler):
    """Forks once more, watches the job that this fork runs, and tells the client how it ended."""

    def handle(self) -> None:
        self.server.socket.close()
        message, handles, *_ = socket.recv_fds(self.request, 1 << 20, 2)
        if not message:  # the client is gone already
            return
        _end_with(os.getppid(), signal.SIGTERM)
        watcher, job = os.getpid(), os.fork()
        if job == 0:
            os._exit(self._run(json.loads(message), handles, watcher))
        with contextlib.suppress(OSError):  # it has done so itself, and ended
            os.setpgid(job, job)
        signal.signal(signal.SIGTERM, lambda *_: (os.killpg(job, signal.SIGKILL), os._exit(1)))
        with contextlib.suppress(OSError):
            self.request.send(b"%d" % job)
        select.select([self.request, os.pidfd_open(job)], [], [])
        os.killpg(job, signal.SIGKILL)  # where its client is gone, or what it left running
        status = os.waitstatus_to_exitcode(os.waitpid(job, 0)[1])
        with contextlib.suppress(OSError):
            self.request.send(b"%d" % status)

    def _run(self, request: dict, handles: list[int], watcher: int) -> int:
        """Makes of this fork what a process is that has just been started, and runs what is asked for."""
        os.setpgid(0, 0)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        _end_with(watcher, signal.SIGKILL)
        self.request.close()
        for number, handle in enumerate(handles, start=1):
            os.dup2(handle, number)
            os.close(handle)
        os.chdir(request["cwd"])
        os.environ.clear()
        os.environ.update(request["environment"])
        return run(request["command"])


def _end_with(parent: int, number: int) -> None:
    """Has this process get the signal ``number`` when ``parent`` has ended, however it ends."""
    ctypes.CDLL(None).prctl(1, number)
    if os.getppid() != parent:
        os.kill(os.getpid(), number)


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


if __name__ == "__main__":
    main(*sys.argv[1:])
