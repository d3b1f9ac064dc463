"""Runs one notebook through papermill, over IPC sockets so that parallel kernels cannot race for ports.

    python engine/run/execute.py NOTEBOOK EXECUTED --parameters '{"epochs": 3}' --skip lesson --set out=runs/x seed=0

The executed notebook is written after every cell; if a cell fails, the notebook with the error stays.
"""

import argparse
import contextlib
import json
import logging
import os
import sys
import tempfile
from pathlib import Path

os.environ.setdefault("JUPYTER_PLATFORM_DIRS", "1")
sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import engine  # noqa: F401, I001  (before papermill: makes its import three times as fast)
import papermill
from jupyter_client import AsyncKernelManager
from jupyter_client.kernelspec import KernelSpec
from nbclient.exceptions import DeadKernelError
from papermill.engines import NBClientEngine, papermill_engines
from papermill.exceptions import PapermillExecutionError
from traitlets.config import Config
from zmq import ZMQError

from engine.run.warm import for_sockets
from studylib.settings import nearest
from studylib.training import deadline

CLIENT = Path(__file__).resolve().with_name("client.py")
DIED = "The kernel died: it crashed, or was killed, as when memory runs out; CORES=1 or a smaller batch_size need less"


class Kernel(AsyncKernelManager):
    """A kernel that is started through the run's warm process, where there is one, and ended without ceremony.

    Its settings are the study's. A kernel installed by the user under the same name does not reach a notebook. Neither
    do files that the user's IPython or Python runs at start.
    """

    @property
    def kernel_spec(self) -> KernelSpec:
        start = [sys.executable, "-I", "-S", str(CLIENT), "-m", "ipykernel_launcher", "-f", "{connection_file}"]
        own = {"IPYTHONDIR": str(Path(self.connection_file).with_name("ipython")), "PYTHONSTARTUP": ""}
        return KernelSpec(argv=start, env=own, display_name="Python 3", language="python")

    async def shutdown_kernel(self, now: bool = False, restart: bool = False) -> None:
        """Kills the kernel: every cell is done by now, and asking it to end would take 0.1 to 1 s."""
        await super().shutdown_kernel(now=True, restart=restart)


class IPCEngine(NBClientEngine):
    """papermill's engine with the kernel's sockets in a folder of their own."""

    @classmethod
    def execute_managed_notebook(cls, nb_man, kernel_name, **kwargs):
        warm = Path(os.environ.get("STUDY_WARM", ""))  # its folder goes even if this process is killed
        with tempfile.TemporaryDirectory(prefix="k", dir=warm.parent if warm.is_socket() else for_sockets()) as folder:
            files = {"ip": f"{folder}/k", "connection_file": f"{folder}/connection.json"}
            kwargs["config"] = Config(KernelManager={"transport": "ipc", **files})
            return super().execute_managed_notebook(nb_man, kernel_name, kernel_manager_class=Kernel, **kwargs)


papermill_engines.register("ipc", IPCEngine)


def execute(notebook: Path, executed: Path, parameters: dict, skip: str = "") -> None:
    """Runs ``notebook`` with ``parameters``, but not its cells tagged ``skip``, and writes it to ``executed``.

    Raises:
        KeyError: a parameter that the notebook does not have.
        PapermillExecutionError: a cell failed.
    """
    known = list(papermill.inspect_notebook(str(notebook)))
    if unknown := sorted(set(parameters) - set(known)):
        raise KeyError(f"{notebook}: it has no parameter {unknown[0]!r}{nearest(unknown[0], known)}")
    executed.parent.mkdir(parents=True, exist_ok=True)
    how = {"engine_name": "ipc", "kernel_name": "python3", "progress_bar": False, "log_output": True}
    how |= {"request_save_on_cell_execute": True} | ({"skip_cells_with_tag": skip} if skip else {})
    papermill.execute_notebook(str(notebook), str(executed), parameters, **how)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("notebook", type=Path)
    parser.add_argument("executed", type=Path)
    parser.add_argument("--parameters", type=json.loads, default={})
    parser.add_argument("--skip", default="", metavar="TAG", help="cells that are not run")
    parser.add_argument("--set", nargs="*", default=[], metavar="NAME=VALUE", help="as JSON or text; also study.seed=0")
    args = parser.parse_args()
    parameters = dict(args.parameters)
    for item in args.set:
        name, _, value = item.partition("=")
        name, _, key = name.partition(".")
        with contextlib.suppress(ValueError):
            value = json.loads(value)
        parameters[name] = {**parameters.get(name, {}), key: value} if key else value
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stdout)
    if deadline.left() <= 0:
        sys.exit(f"{deadline.Paused.__name__}: not begun, the time is up")
    try:
        execute(args.notebook, args.executed, parameters, args.skip)
    except PapermillExecutionError as error:
        sys.exit(f"{error.ename}: {error.evalue}\nThe notebook with the error in it: {args.executed.resolve()}")
    except (DeadKernelError, RuntimeError, OSError, ZMQError) as error:  # none of a cell's own
        why = f"The kernel did not start: {type(error).__name__}: {error}"
        why = DIED if isinstance(error, DeadKernelError) else why
        print(f"{why}\nThe notebook as far as it came: {args.executed.resolve()}", file=sys.stderr, flush=True)
        os._exit(1)  # sockets that never met their kernel keep the interpreter from ending


if __name__ == "__main__":
    main()
