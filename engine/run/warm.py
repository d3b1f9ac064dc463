"""A warm process: it has imported what the nodes import, and forks for each of them.

What a node imports takes Python two to seven seconds. Most nodes work for less; study.py pays it once a run. A rule's
command (client.py) hands over a command line. A fork runs that as if just started; kernels are started alike.
Nothing of studylib is imported: a fork reads the code as it is by then. No torch operation is run: OpenMP's threads do
not live in a fork. It ends with study.py, its jobs with it, and a job with its client, however each of them ends.

`make bench ARGS=warm` measures what it gains. The standard library's forkserver with these modules was no faster.
Where study.py is killed, that server leaves behind its folder and what its jobs have started.
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
import shutil
import signal
import socket
import socketserver
import subprocess
import sys
import tempfile
import threading
import traceback
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
LONGEST = 103 - 30  # bytes of a folder's path: a Unix socket's has 103, less /study12345678/k12345678/k-5
MODULES = """papermill.execute ipykernel.debugger ipykernel.kernelapp ipykernel.zmqshell torch sklearn.datasets
    sklearn.model_selection safetensors.torch torch.ao.quantization.fx._decomposed torch.utils.flop_counter
    torch._inductor.config torch.export._trace torch.export._unlift torchao.quantization.pt2e.quantize_pt2e
    torchao.quantization.pt2e.quantizer.x86_inductor_quantizer seaborn matplotlib.backends.backend_pdf
""".split()  # noqa: SIM905


def for_sockets() -> str:
    """The folder for temporary files, or /tmp where no socket has room in its long path."""
    folder = tempfile.gettempdir()
    return folder if len(os.fsencode(folder)) <= LONGEST else "/tmp"


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
            **{"cwd": ROOT, "env": environment | fixed, "stdin": subprocess.DEVNULL},
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

    def end(*_: object) -> None:  # at SIGTERM, wherever it comes: an exception from within a fork's callback is lost
        for job in server.active_children or ():
            with contextlib.suppress(ProcessLookupError):
                os.killpg(job, signal.SIGKILL)
        shutil.rmtree(Path(address).parent, ignore_errors=True)
        os._exit(0)  # taking all these modules apart takes time

    try:
        signal.signal(signal.SIGTERM, end)
        _end_with(int(parent), signal.SIGTERM)
        os.environ["JPY_PARENT_PID"] = str(os.getpid())  # ipykernel reads it at import
        logging.disable(logging.WARNING)  # torchao's import warns of torch's own insides
        for module in ("engine", *modules):  # first: see there. Sets stdout while it is the one that it was made for
            importlib.import_module(module)
        logging.disable(logging.NOTSET)
        gc.collect()
        gc.freeze()  # a fork's garbage collections leave alone what is here now
        server.serve_forever()
    finally:
        end()


class Server(socketserver.ForkingMixIn, socketserver.UnixStreamServer):
    """Forks for each client; the fork is its :class:`Job`."""

    socket_type = socket.SOCK_SEQPACKET
    request_queue_size = 100
    max_children = 1000


class Job(socketserver.BaseRequestHandler):
    """Makes of this fork a process as if just started, runs what is asked for, and says how it ended."""

    def handle(self) -> None:
        os.setpgid(0, 0)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        self.server.socket.close()
        message, handles, *_ = socket.recv_fds(self.request, 1 << 20, 2)
        if not message:  # the client is gone already
            return
        _end_with(int(os.environ["JPY_PARENT_PID"]), signal.SIGKILL)
        threading.Thread(target=self._end_with_client, daemon=True).start()
        for number, handle in enumerate(handles, start=1):
            os.dup2(handle, number)
            os.close(handle)
        request = json.loads(message)
        os.chdir(request["cwd"])
        os.environ.clear()
        os.environ.update(request["environment"])
        self.request.send(b"1")
        status = run(request["command"])
        self.request.send(b"%d" % status)
        os.killpg(0, signal.SIGKILL)  # with what it has left running

    def _end_with_client(self) -> None:
        self.request.recv(1)
        os.killpg(0, signal.SIGKILL)


def _end_with(parent: int, number: int) -> None:
    """Has this process get the signal ``number`` when ``parent`` has ended, however it ends."""
    ctypes.CDLL(None).prctl(1, number)
    if os.getppid() != parent:
        os.kill(os.getpid(), number)


def run(command: list[str]) -> int:
    """Runs ``SCRIPT ARGUMENT…`` or ``-m MODULE ARGUMENT…`` as the interpreter does; returns the exit status."""
    status: object = None
    try:
        if command[0] == "-m":
            sys.argv = command[1:]
            runpy.run_module(command[1], run_name="__main__", alter_sys=True)
        else:
            sys.argv = command
            runpy.run_path(command[0], run_name="__main__")
    except SystemExit as end:
        status = end.code
    except BaseException:
        traceback.print_exc()
        status = 1
    if isinstance(status, str):
        print(status, file=sys.stderr)
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    return status if isinstance(status, int) else int(status is not None)


if __name__ == "__main__":
    main(*sys.argv[1:])
