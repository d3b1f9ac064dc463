"""Federations on one machine, by Flower's simulation in a process of its own.

``python -m studylib.federated.run FOLDER…`` runs the jobs in these folders. Its status is not 0 where one fails.
What was started for it ends with it.
"""

import argparse
import contextlib
import importlib.util
import logging
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterable
from pathlib import Path

from studylib.disk import files
from studylib.federated.job import RESULT, Job

EXTRA = "federated"
STARTS = 5  # tries of Ray, whose wait for its agents cannot be set


class FederationError(RuntimeError):
    """A federation that failed; the message says where its log is, and what the log says last."""


def needs_flower() -> None:
    """Raises ModuleNotFoundError, which says how to install it, where Flower or Ray is missing."""
    if missing := [name for name in ("flwr", "ray") if importlib.util.find_spec(name) is None]:
        raise ModuleNotFoundError(
            f"{' and '.join(missing)}: not installed. Federations need the extra {EXTRA}: "
            f".venv/bin/pip install -e '.[{EXTRA}]', or make chapters CHAPTERS=13. Published rows are shown without it"
        )


def surroundings(home: Path) -> dict[str, str]:
    """Environment variables: nothing is told to anybody, and what Flower keeps lies in ``home``."""
    quiet = {"FLWR_TELEMETRY_ENABLED": "0", "FLWR_DISABLE_UPDATE_CHECK": "1", "RAY_USAGE_STATS_ENABLED": "0"}
    threads = {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "passive", "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0"}
    threads |= {"RAY_raylet_start_wait_time_s": "60"}  # a raylet whose agents take over 15 s dies
    root = {"STUDY_ROOT": str(files.root()), "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    return {**os.environ, **quiet, **threads, **root, "FLWR_HOME": str(home.absolute())}


def simulate(folders: Iterable[Path], home: Path, processes: int = 1, module: str = __name__) -> list[dict]:
    """Runs the jobs in ``folders`` that have no result yet, and returns the results of all.

    Args:
        home: folder for Flower's own files and the log.
        processes: how many clients train at once.
        module: what is run; a test's own has clients that fail.

    Raises:
        ModuleNotFoundError: the extra is not installed, and something is to be run.
        FederationError: a job failed. Those before it are done, and what it did is kept.
    """
    folders = [Path(folder).absolute() for folder in folders]
    if todo := [str(folder) for folder in folders if not (folder / RESULT).exists()]:
        needs_flower()
        home.mkdir(parents=True, exist_ok=True)
        command = [sys.executable, "-m", module, "--processes", str(processes), "--parent", str(os.getpid()), *todo]
        _run_alone(command, home / "federation.log", surroundings(home))
    return [files.read_json(folder / RESULT) for folder in folders]


def _run_alone(command: list[str], log: Path, environment: dict[str, str]) -> None:
    """Runs ``command`` in a session of its own, its output in ``log``; all of that session ends with it."""
    with open(log, "wb") as file:
        streams = {"stdin": subprocess.DEVNULL, "stdout": file, "stderr": subprocess.STDOUT}
        process = subprocess.Popen(command, env=environment, start_new_session=True, **streams)
        try:
            status = process.wait()
        finally:
            _end_session(process.pid)
            process.wait()
    if status:
        said = [line for line in log.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()]
        raise FederationError(f"a federation ended with status {status}; {log} ends: {said[-1] if said else 'empty'}")


def simulation(client, folders: list[str], processes: int = 1) -> None:
    """Flower's simulation of the jobs in ``folders``, in this process, with ``client``, a ClientApp.

    Raises:
        RuntimeError: a job failed.
    """
    from flwr.simulation import run_simulation

    from studylib.federated.app import server_app

    logging.getLogger("flwr").setLevel(logging.WARNING)
    nodes = max(Job.load(Path(folder)).splits.clients for folder in folders)
    with tempfile.TemporaryDirectory(prefix="federated-", ignore_cleanup_errors=True) as sockets:  # short paths
        _start_ray(processes, sockets)
        backend = {"client_resources": {"num_cpus": 1, "num_gpus": 0.0}}
        run_simulation(server_app(folders), client, nodes, backend_config=backend)
    if missing := [folder for folder in folders if not (Path(folder) / RESULT).exists()]:
        raise RuntimeError(f"{missing[0]}: no result, though nothing failed")


def _start_ray(processes: int, folder: str) -> None:
    """Starts Ray on free ports of its own; again where it gave up, as it does after 30 seconds."""
    import ray

    for left in reversed(range(STARTS)):
        try:
            ray.init(num_cpus=processes, include_dashboard=False, log_to_driver=False, _temp_dir=folder)
            return
        except Exception as error:  # Ray's own class is this
            ray.shutdown()
            _end_children()  # which it does not where it never got to know them
            if not left or "timed out during startup" not in str(error):
                raise


def _end_children() -> None:
    """Ends what this process has started itself."""
    for child in Path(f"/proc/self/task/{os.getpid()}/children").read_text(encoding="ascii").split():
        with contextlib.suppress(ProcessLookupError):
            os.kill(int(child), signal.SIGKILL)


def _end_with(parent: int) -> None:
    """Ends this session soon after ``parent`` has ended, killed or not, and be it before this was called."""
    while os.getppid() == parent:
        time.sleep(0.5)
    _end_session(os.getsid(0))
    os._exit(1)


def _end_session(session: int) -> None:
    """Kills the processes of ``session`` but for this one, until none lives: Ray's are in several groups."""
    while alive := [pid for pid in _alive(session) if pid != os.getpid()]:
        for pid in alive:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.05)


def _alive(session: int) -> list[int]:
    """The processes of ``session`` that are no zombies."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):  # it has ended by now
            state, _, _, own, *_ = path.read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
            found += [int(path.parent.name)] if int(own) == session and state not in "ZX" else []
    return found


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folders", nargs="+")
    parser.add_argument("--processes", type=int, default=1, help="clients that train at once")
    parser.add_argument("--parent", type=int, default=0, help="process to end with, by its id; needs an own session")
    given = parser.parse_args(arguments)
    if given.parent:
        threading.Thread(target=_end_with, args=(given.parent,), daemon=True).start()
    try:
        needs_flower()
        from studylib.federated.app import client_app

        simulation(client_app(), given.folders, given.processes)
    except Exception as error:
        print(f"federated: {type(error).__name__}: {error}", file=sys.stderr, flush=True)
        os._exit(1)  # threads of the simulation may still wait
    sys.stdout.flush()
    os._exit(0)


if __name__ == "__main__":
    main()
